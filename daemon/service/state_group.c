/* SPDX-License-Identifier: Apache-2.0 */
/* Consistency groups at start: what a crash cut off is undone.
 *
 *   snapshot's group      what happens to it
 *   nil, or grouped       it was made alone, or with all the others: stays
 *   has a record          the group was committed: grouped from now on
 *   has none              it never was: out of the volume's record, its file to trash/
 *
 * A file in trash/ is left to the operator: nothing but whole folders is removed from there. The
 * groups' records have done their work then and go, unless a volume could not be read, which may
 * name one. Blocking; main's, before the shards run.
 */
#include "daemon/service/state_dir.h"

#include "common/base/file.h"
#include "daemon/volume/group.h"
#include "daemon/volume/volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP_PATH_BYTES = 2 * LIMIT_PATH_BYTES };

struct groups {
    const char *state_dir;
    struct uuid *all; /* sorted */
    uint32_t count, room;
    bool needed; /* a record may depend on one of them yet */
    void (*warn)(void *user, const char *text);
    void *user;
};

static int group_order(const void *a, const void *b)
{
    const struct uuid *ga = a, *gb = b;
    return memcmp(ga->b, gb->b, UUID_BYTES);
}

static int groups_add(void *user, const struct uuid *id)
{
    struct groups *g = user;
    if (g->count == g->room) {
        uint32_t room = g->room == 0 ? 64 : g->room * 2;
        struct uuid *grown = realloc(g->all, room * sizeof *grown);
        if (grown == NULL)
            return SNAP_ENOMEM;
        g->all = grown;
        g->room = room;
    }
    g->all[g->count++] = *id;
    return 0;
}

static bool groups_have(const struct groups *g, const struct uuid *id)
{
    return g->count > 0 && bsearch(id, g->all, g->count, sizeof *id, group_order) != NULL;
}

SNAP_PRINTF(2, 3) static void groups_warn(const struct groups *g, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES + LIMIT_PATH_BYTES];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    g->warn(g->user, text);
}

/* -- undoing ------------------------------------------------------------------------ */

/* Out of the volume's folder; a bound device stays where it is, and so does what cannot be moved,
 * to be told at the next start. */
static void undo_file(const struct groups *g, const char *dir, const struct uuid *volume,
                      const char *file)
{
    char from[GROUP_PATH_BYTES + LIMIT_PATH_BYTES], to[GROUP_PATH_BYTES + LIMIT_PATH_BYTES];
    char text[UUID_TEXT_BYTES];
    (void)snprintf(from, sizeof from, "%s/%s", dir, file);
    (void)snprintf(to, sizeof to, "%s/trash/%s.%s", g->state_dir, uuid_format(volume, text), file);
    if (rename(from, to) == 0)
        groups_warn(g, "%s has been moved to %s", from, to);
    else if (errno != ENOENT)
        groups_warn(g, "move %s to trash/: %s", from, strerror(errno));
}

static int undo_snapshot(const struct groups *g, const char *dir, struct volume_record *r,
                         uint32_t seq, struct err *reterr)
{
    char cow[LIMIT_PATH_BYTES], sum[UUID_TEXT_BYTES + 8], text[UUID_TEXT_BYTES];
    const struct record_snapshot *s = volume_record_find_seq(r, seq);
    struct uuid id = s->id;
    (void)snprintf(cow, sizeof cow, "%s", s->cow_path);
    (void)snprintf(sum, sizeof sum, "%s.sum", uuid_format(&id, text));
    groups_warn(g,
                "snapshot %s@%s is undone: the group that it was to be made with was not finished",
                r->name, s->name);
    int rc = volume_record_undo_snapshot(r, &id, reterr);
    if (rc == 0)
        rc = volume_record_save(dir, r, reterr);
    if (rc < 0)
        return rc;
    if (cow[0] != '/')
        undo_file(g, dir, &r->id, cow);
    undo_file(g, dir, &r->id, sum);
    return 0;
}

/* Each of its snapshots that is not known to be whole: finished, or undone. */
static int settle_volume(struct groups *g, struct volume_record *r, struct err *reterr)
{
    char dir[LIMIT_PATH_BYTES];
    int rc = volume_dir_format(g->state_dir, &r->id, dir, sizeof dir, reterr);
    bool finished = false;
    for (uint32_t i = r->snapshot_count; i-- > 0 && rc == 0;) {
        struct record_snapshot *s = &r->snapshots[i];
        if (uuid_is_zero(&s->group) || s->grouped)
            continue;
        if (groups_have(g, &s->group))
            finished = s->grouped = true;
        else
            rc = undo_snapshot(g, dir, r, s->seq, reterr);
    }
    if (rc == 0 && finished && volume_record_save(dir, r, reterr) < 0) {
        groups_warn(g, "volume %s: %s: its groups are kept", r->name, reterr->text);
        g->needed = true;
    }
    return rc;
}

/* -- all of them -------------------------------------------------------------------- */

int state_groups_check(const char *path, struct state_volumes *v, bool all_read,
                       void (*warn)(void *user, const char *text), void *user, struct err *reterr)
{
    struct groups g = {.state_dir = path, .needed = !all_read, .warn = warn, .user = user};
    int rc = group_each(path, groups_add, &g, reterr);
    if (rc == 0 && g.count > 1)
        qsort(g.all, g.count, sizeof *g.all, group_order);
    for (uint32_t i = 0; rc == 0 && i < v->count;) {
        struct volume_record *r = &v->records[i];
        struct err err = ERR_INIT;
        if (settle_volume(&g, r, &err) == 0) {
            i++;
            continue;
        }
        groups_warn(&g, "volume %s: %s: it is not served", r->name, err.text);
        g.needed = true;
        volume_record_done(r);
        uint32_t rest = --v->count - i;
        memmove(r, r + 1, rest * sizeof *r);
    }
    for (uint32_t i = 0; rc == 0 && !g.needed && i < g.count; i++)
        rc = group_remove(path, &g.all[i], reterr);
    free(g.all);
    return rc;
}
