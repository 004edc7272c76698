/* SPDX-License-Identifier: Apache-2.0 */
/* From export names to disks.
 *
 *   VOLUME           hosted   read and written
 *   VOLUME@SNAPSHOT  hosted   read; a clone is written too
 *   of a remote volume: refused, the daemon lacks what its origin holds
 *
 * It must not know of NBD connections. Thread: nbdkit's, several at once; what the link's thread
 * runs, the callbacks, only touches the operation that it answers.
 */
#include "client/nbdkit/disk.h"

#include "client/nbdkit/fault.h"
#include "common/base/name.h"
#include "common/base/size.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static pthread_mutex_t disks_lock = PTHREAD_MUTEX_INITIALIZER;
static struct disk *disks; /* under the lock */

/* -- one name -------------------------------------------------------------------------------- */

struct resolve {
    struct link_op op; /* first */
    const struct target *name;
    struct snapwire_uuid volume, snapshot;
    uint64_t size_bytes;
    uint32_t chunk_sectors;
    int kind;
    bool writable, invalid;
};

static void resolved(void *user, const struct snapwire_error *error,
                     const struct snapwire_target *found)
{
    struct resolve *r = user;
    if (!error) {
        r->volume = found->volume;
        r->snapshot = found->snapshot;
        r->size_bytes = found->size_bytes;
        r->chunk_sectors = found->chunk_size_sectors;
        r->kind = found->kind;
    }
    link_answer(&r->op, error);
}

static int resolve_submit(struct snapwire_client *c, struct link_op *op,
                          struct snapwire_error *reterr)
{
    struct resolve *r = (struct resolve *)op;
    return snapwire_resolve(c, r->name->volume, r->name->snapshot, resolved, r, reterr);
}

static void shown(void *user, const struct snapwire_error *error,
                  const struct snapwire_snapshot *snapshot)
{
    struct resolve *r = user;
    if (!error) {
        r->writable = snapshot->writable;
        r->invalid = snapshot->state == SNAPWIRE_SNAPSHOT_INVALID;
    }
    link_answer(&r->op, error);
}

static int show_submit(struct snapwire_client *c, struct link_op *op, struct snapwire_error *reterr)
{
    struct resolve *r = (struct resolve *)op;
    return snapwire_snapshot_show(c, &r->volume, &r->snapshot, shown, r, reterr);
}

/* The one of these uuids; there may be one from an earlier connection. */
static struct disk *disk_take(const struct resolve *r, const char *name)
{
    (void)pthread_mutex_lock(&disks_lock);
    struct disk *d = disks;
    while (d && !(snapwire_uuid_equal(&d->volume, &r->volume) &&
                  snapwire_uuid_equal(&d->snapshot, &r->snapshot)))
        d = d->next;
    if (!d)
        d = calloc(1, sizeof *d);
    if (d && d->size_bytes == 0) {
        (void)snprintf(d->name, sizeof d->name, "%s", name);
        d->volume = r->volume;
        d->snapshot = r->snapshot;
        d->size_bytes = r->size_bytes;
        d->chunk_bytes = r->chunk_sectors * SECTOR_BYTES;
        d->writable = r->writable;
        d->next = disks;
        disks = d;
    }
    (void)pthread_mutex_unlock(&disks_lock);
    return d;
}

int disk_open(struct link *l, const char *server, const char *name, struct disk **ret)
{
    struct target target;
    struct err why = ERR_INIT;
    if (target_parse(name, &target, &why) < 0) {
        nbdkit_error("export '%.300s': %s", name, why.text);
        return -1;
    }
    struct resolve r = {.op.submit = resolve_submit, .name = &target, .writable = true};
    if (link_run(l, &r.op) < 0)
        return fault_say(l, &r.op.error, "%s at %s", name, server);
    if (r.kind != SNAPWIRE_VOLUME_HOSTED) {
        nbdkit_error("%s at %s: a remote volume, whose origin the daemon does not have; read it "
                     "where the origin is, with snapctl remote export --origin",
                     name, server);
        return -1;
    }
    if (target.snapshot[0]) {
        r.op.submit = show_submit;
        if (link_run(l, &r.op) < 0)
            return fault_say(l, &r.op.error, "%s at %s", name, server);
        if (r.invalid) {
            nbdkit_error("%s at %s: the snapshot is invalid, what it held is lost; delete it", name,
                         server);
            return -1;
        }
    }
    *ret = disk_take(&r, name);
    if (!*ret)
        nbdkit_error("%s: out of memory", name);
    return *ret ? 0 : -1;
}

void disk_forget_all(void)
{
    for (struct disk *d = disks, *next; d; d = next) {
        next = d->next;
        free(d);
    }
    disks = NULL;
}

/* -- all of them ------------------------------------------------------------------------------- */

enum { EXPORTS_MAX = 10000 }; /* nbdkit's limit */

struct listing {
    struct link_op op;              /* first */
    struct nbdkit_exports *exports; /* NULL: only the sole one's name is wanted */
    bool failed;
    size_t hosted, told;
    char sole[DISK_NAME_BYTES];
};

static void add(struct listing *g, const char *name, const char *about)
{
    if (g->told++ < EXPORTS_MAX && !g->failed)
        g->failed = nbdkit_add_export(g->exports, name, about) < 0;
}

static void add_snapshot(struct listing *g, const struct snapwire_snapshot *s)
{
    const bool ok = s->state == SNAPWIRE_SNAPSHOT_OK;
    char name[DISK_NAME_BYTES], made[32] = "", about[256];
    const time_t created = (time_t)s->created_s;
    struct tm tm;
    if (s->state == SNAPWIRE_SNAPSHOT_DELETING)
        return;
    if (gmtime_r(&created, &tm))
        (void)strftime(made, sizeof made, "%Y-%m-%d %H:%M:%S UTC", &tm);
    (void)snprintf(name, sizeof name, "%s@%s", s->volume_name, s->name);
    (void)snprintf(about, sizeof about, "%s of %s%s%s", s->writable ? "clone" : "snapshot", made,
                   ok ? "" : ", ", ok ? "" : snapwire_snapshot_state_name(s->state));
    add(g, name, about);
}

static void add_volume(struct listing *g, const struct snapwire_volume *v)
{
    char size[16], about[64];
    (void)snprintf(about, sizeof about, "volume of %s",
                   size_format(v->size_bytes, size, sizeof size));
    add(g, v->name, about);
    for (size_t i = 0; i < v->snapshot_count; i++)
        add_snapshot(g, v->snapshots[i]);
}

static void listed(void *user, const struct snapwire_error *error,
                   const struct snapwire_volume_list *list)
{
    struct listing *g = user;
    for (size_t i = 0; !error && i < list->count; i++) {
        const struct snapwire_volume *v = list->volumes[i];
        if (v->kind != SNAPWIRE_VOLUME_HOSTED)
            continue;
        if (g->hosted++ == 0)
            (void)snprintf(g->sole, sizeof g->sole, "%s", v->name);
        if (g->exports)
            add_volume(g, v);
    }
    link_answer(&g->op, error);
}

static int list_submit(struct snapwire_client *c, struct link_op *op, struct snapwire_error *reterr)
{
    struct listing *g = (struct listing *)op;
    return snapwire_volume_list(c, listed, g, reterr);
}

int disk_list(struct link *l, const char *server, struct nbdkit_exports *exports)
{
    struct listing g = {.op.submit = list_submit, .exports = exports};
    if (link_run(l, &g.op) < 0)
        return fault_say(l, &g.op.error, "the volumes of %s", server);
    if (g.told > EXPORTS_MAX)
        nbdkit_error("%s has %zu volumes and snapshots; NBD clients are shown the first %d, all "
                     "can be had by name",
                     server, g.told, (int)EXPORTS_MAX);
    return g.failed ? -1 : 0;
}

int disk_sole(struct link *l, const char *server, char ret[DISK_NAME_BYTES])
{
    struct listing g = {.op.submit = list_submit};
    if (link_run(l, &g.op) < 0)
        return fault_say(l, &g.op.error, "the volumes of %s", server);
    (void)snprintf(ret, DISK_NAME_BYTES, "%s", g.hosted == 1 ? g.sole : "");
    return 0;
}
