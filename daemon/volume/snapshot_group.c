/* SPDX-License-Identifier: Apache-2.0 */
/* A snapshot that is made with others of other volumes, at one moment.
 *
 *   held: in the record with its group's uuid, the volume closed to writes
 *    ├─ keep ──> open again; it counts as long as the group's own record is there
 *    │              └─ finish ──> "grouped" in the record: it depends on nothing any more
 *    └─ undo ──> out of the record ──> its file is removed ──> open again
 *                 ^  └─ a moment <─(no memory: some times)
 *
 * What a group is and when all of it is there group.h tells. Thread: the shard's.
 */
#include "daemon/volume/snapshot_create_priv.h"

#include "common/base/check.h"
#include "daemon/volume/draft.h"
#include "daemon/volume/tree.h"

#include <stdlib.h>

/* -- kept or undone ------------------------------------------------------------------- */

static int create_forget_change(struct volume_commit *commit, struct volume_record *next,
                                struct err *reterr)
{
    struct snapshot_create *c = commit->user;
    return volume_record_undo_snapshot(next, &c->record.id, reterr);
}

static void create_forgotten(struct volume_commit *commit, int code, const struct err *err)
{
    struct snapshot_create *c = commit->user;
    struct volume *v = c->volume;
    if (code == SNAP_ENOMEM && create_wait_a_little(c))
        return;
    if (code < 0) {
        (void)err_copy(&c->err, err);
        draft_end(v, &c->record.id);
        create_end(c, code);
        return;
    }
    (void)err_set(&c->err, SNAP_ECANCELED, "undone: another of its group could not be made");
    c->node = volume_snapshot_find(v, &c->record.id);
    CHECK(c->node != NULL);
    tree_remove(c->node);
    if (v->origin == NULL && TAILQ_EMPTY(&v->chain))
        v->chunk_sectors = 0;
    create_undo(c);
}

void create_forget(struct snapshot_create *c)
{
    c->commit =
        (struct volume_commit){.change = create_forget_change, .done = create_forgotten, .user = c};
    volume_commit_start(c->volume, &c->commit);
}

void snapshot_create_release(struct volume *v, const struct uuid *id, bool keep)
{
    struct snapshot_create *c = STAILQ_FIRST(&v->creates);
    CHECK(c != NULL && c->phase == CREATE_HELD && uuid_equal(&c->record.id, id));
    c->phase = CREATE_COMMIT;
    if (keep) {
        create_end(c, 0);
        return;
    }
    (void)!draft_begin(v, id, NULL);
    c->give_up_ns = 0;
    create_forget(c);
}

bool snapshot_create_holds(const struct volume *v, const struct snapshot *s)
{
    const struct snapshot_create *c = STAILQ_FIRST(&v->creates);
    return c != NULL && c->phase >= CREATE_COMMIT && uuid_equal(&c->record.id, &s->id);
}

/* -- kept: it is like any other ------------------------------------------------------ */

struct group_finish {
    struct uuid id;
    struct volume_commit commit;
    volume_done_fn *done;
    void *user;
};

static int finish_change(struct volume_commit *commit, struct volume_record *next,
                         struct err *reterr)
{
    (void)reterr;
    const struct group_finish *g = commit->user;
    struct record_snapshot *rs = volume_record_find(next, &g->id);
    if (rs != NULL)
        rs->grouped = true;
    return 0;
}

static void finish_committed(struct volume_commit *commit, int code, const struct err *err)
{
    struct group_finish *g = commit->user;
    g->done(g->user, code, err);
    free(g);
}

void snapshot_group_finish(struct volume *v, const struct uuid *id, volume_done_fn *done,
                           void *user)
{
    struct err err = ERR_INIT;
    struct group_finish *g = calloc(1, sizeof *g);
    if (g == NULL) {
        done(user, err_set(&err, SNAP_ENOMEM, "group"), &err);
        return;
    }
    *g = (struct group_finish){.id = *id, .done = done, .user = user};
    g->commit =
        (struct volume_commit){.change = finish_change, .done = finish_committed, .user = g};
    volume_commit_start(v, &g->commit);
}
