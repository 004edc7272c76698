/* SPDX-License-Identifier: Apache-2.0 */
/* The registry at start: opened, made anew, compared with the records. The records win.
 *
 *   registry.db    what happens
 *   sound          rows that differ from the records are told and replaced
 *   missing        made anew from the records
 *   damaged        refused, with the remedy; --rebuild-registry keeps it aside and makes it anew
 *   cannot be      SNAP_ENOSPC: the caller takes one in memory, because a daemon that does not
 *   written        start is one that nothing can be deleted with
 */
#include "daemon/service/state_dir.h"

#include "daemon/volume/volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { REGISTRY_PATH_BYTES = 2 * LIMIT_PATH_BYTES };

int state_registry_open(const char *path, bool rebuild, bool *ret_new, struct registry **ret,
                        struct err *reterr)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    char file[REGISTRY_PATH_BYTES], from[REGISTRY_PATH_BYTES + 8], to[REGISTRY_PATH_BYTES + 16];
    (void)snprintf(file, sizeof file, "%s/registry.db", path);
    for (size_t i = 0; rebuild && i < sizeof suffixes / sizeof suffixes[0]; i++) {
        (void)snprintf(from, sizeof from, "%s%s", file, suffixes[i]);
        (void)snprintf(to, sizeof to, "%s.old%s", file, suffixes[i]);
        if (rename(from, to) < 0 && errno != ENOENT)
            return err_set_errno(reterr, err_code_of_errno(errno), errno, "set %s aside", from);
    }
    *ret_new = access(file, F_OK) < 0;
    return registry_open(file, ret, reterr);
}

/* -- comparing --------------------------------------------------------------------------- */

struct compare {
    struct registry *registry;
    struct state_volumes *volumes;
    struct uuid *stale; /* rows to delete */
    uint32_t stale_count, stale_cap;
    bool *same; /* [volumes->count] */
    void (*warn)(void *user, const char *text);
    void *user;
};

struct compare_snapshots {
    struct volume_record *record;
    uint32_t found;
    bool differs;
};

static int compare_snapshot(void *user, const struct registry_snapshot *row)
{
    struct compare_snapshots *c = user;
    const struct record_snapshot *s = volume_record_find(c->record, &row->id);
    c->found++;
    c->differs = c->differs || s == NULL || strcmp(s->name, row->name) != 0 || s->seq != row->seq ||
                 s->created_s != row->created_s || s->hidden != row->hidden ||
                 (int)volume_registry_kind(s) != row->kind || s->parent_seq != row->parent_seq ||
                 strcmp(s->cow_path, row->cow_path) != 0;
    return 0;
}

static int compare_mark_stale(struct compare *c, const struct uuid *id)
{
    if (c->stale_count == c->stale_cap) {
        uint32_t cap = c->stale_cap == 0 ? 16 : c->stale_cap * 2;
        struct uuid *grown = realloc(c->stale, cap * sizeof *grown);
        if (grown == NULL)
            return SNAP_ENOMEM;
        c->stale = grown;
        c->stale_cap = cap;
    }
    c->stale[c->stale_count++] = *id;
    return 0;
}

static int compare_volume(void *user, const struct registry_volume *row)
{
    struct compare *c = user;
    char text[ERR_TEXT_BYTES];
    for (uint32_t i = 0; i < c->volumes->count; i++) {
        struct volume_record *r = &c->volumes->records[i];
        if (!uuid_equal(&r->id, &row->id))
            continue;
        struct compare_snapshots snapshots = {.record = r};
        int rc = registry_each_snapshot(c->registry, &r->id, compare_snapshot, &snapshots, NULL);
        if (rc == 0 && !snapshots.differs && snapshots.found == r->snapshot_count &&
            strcmp(r->name, row->name) == 0 && r->size_bytes == row->size_bytes &&
            r->created_s == row->created_s && (int)r->kind == row->kind) {
            c->same[i] = true;
            return 0;
        }
        (void)snprintf(text, sizeof text, "registry: volume %s differs from its record, which wins",
                       r->name);
        c->warn(c->user, text);
        return compare_mark_stale(c, &row->id);
    }
    (void)snprintf(text, sizeof text, "registry: volume %s has no record: forgotten", row->name);
    c->warn(c->user, text);
    return compare_mark_stale(c, &row->id);
}

static int compare_put(struct compare *c, struct err *reterr)
{
    char text[ERR_TEXT_BYTES];
    for (uint32_t i = 0; i < c->volumes->count;) {
        struct volume_record *r = &c->volumes->records[i];
        struct err err = ERR_INIT;
        int rc = c->same[i] ? 0 : volume_registry_put(c->registry, r, &err);
        if (rc == 0) {
            i++;
            continue;
        }
        if (rc != SNAP_EEXIST)
            return err_copy(reterr, &err);
        char id[UUID_TEXT_BYTES];
        (void)snprintf(text, sizeof text,
                       "volumes/%s: another volume is called %s too: this one is not served",
                       uuid_format(&r->id, id), r->name);
        c->warn(c->user, text);
        volume_record_done(r);
        uint32_t rest = --c->volumes->count - i;
        memmove(r, r + 1, rest * sizeof *r);
        memmove(&c->same[i], &c->same[i + 1], rest * sizeof *c->same);
    }
    return 0;
}

int state_registry_compare(struct registry *r, struct state_volumes *v, bool is_new,
                           void (*warn)(void *user, const char *text), void *user,
                           struct err *reterr)
{
    struct compare c = {.registry = r, .volumes = v, .warn = warn, .user = user};
    c.same = calloc((size_t)v->count + 1, sizeof *c.same);
    if (c.same == NULL)
        return err_set(reterr, SNAP_ENOMEM, "registry");
    uint32_t before = v->count, known = 0;
    int rc = registry_each_volume(r, compare_volume, &c, reterr);
    for (uint32_t i = 0; i < before; i++)
        known += c.same[i] ? 1 : 0;
    for (uint32_t i = 0; rc == 0 && i < c.stale_count; i++)
        rc = registry_delete_volume(r, &c.stale[i], reterr);
    if (rc == 0)
        rc = compare_put(&c, reterr);
    if (rc == 0 && !is_new && known + c.stale_count < before)
        warn(user, "registry: volumes that it lacked were taken from their records");
    free(c.same);
    free(c.stale);
    return rc;
}
