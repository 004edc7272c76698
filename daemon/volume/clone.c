/* SPDX-License-Identifier: Apache-2.0 */
/* Making a clone: a writable node that reads through a snapshot, or through another clone.
 *
 *   turn ──> device ──> gate ──> commit ──> open ──> gate open, done
 *    │          │        │          │         └─(failed)─> it is there, damaged
 *    └──────────┴────────┴──────────┴─> refused: its file goes, nothing has changed
 *
 * A snapshot never changes, so a clone of it needs no gate. A clone that is cloned does: its
 * writes stand still and are flushed until the new one is open, and takes what they overwrite.
 * One counter numbers snapshots and clones: so no snapshot is being made while a clone is, and
 * the clone gets its number in the commit. Its table is read after that, empty as it is, like at
 * any start. The same clone asked for once more while it is being made comes after the first.
 *
 * It must not know of requests. Thread: the shard's.
 */
#include "daemon/volume/change.h"

#include "common/base/check.h"
#include "common/base/name.h"
#include "daemon/volume/draft.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/sums.h"
#include "daemon/volume/tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct clone {
    struct volume *volume;
    struct uuid source;
    struct record_snapshot record;
    char path[LIMIT_PATH_BYTES];
    bool turn; /* no snapshot is made meanwhile */
    bool noted, created, gated;
    struct snapshot *making; /* has its device while that is formatted, and no number yet */
    struct volume_waiter waiter;
    struct volume_commit commit;
    struct snapshot *node;
    struct err err;
    volume_done_fn *done;
    void *user;
    STAILQ_HEAD(, clone) twins; /* asked for meanwhile, of the same uuid: they come after it */
    STAILQ_ENTRY(clone) twin_link;
    LIST_ENTRY(clone) link;
};

static void clone_begin(struct clone *c);

static void clone_end(struct clone *c)
{
    struct volume *v = c->volume;
    const struct volume_storage *storage = v->set->env->storage;
    if (c->making != NULL) {
        blk_dev_close(c->making->dev);
        c->making->dev = NULL;
        snapshot_free(c->making);
    }
    bool gone = true;
    if (c->err.code < 0 && c->created) {
        gone = storage->remove(storage->user, c->path, NULL) == 0;
        gone = sums_remove(v, &c->record.id) == 0 && gone;
    }
    if (c->noted && gone) /* else the next start removes what stayed */
        draft_end(v, &c->record.id);
    if (c->gated)
        volume_gate_open(v);
    if (c->turn) {
        v->clones_making--;
        snapshot_create_go(v);
    }
    c->done(c->user, c->err.code, &c->err);
    LIST_REMOVE(c, link);
    struct clone *twin = STAILQ_FIRST(&c->twins); /* who was told may have asked again */
    if (twin != NULL) {
        STAILQ_REMOVE_HEAD(&c->twins, twin_link);
        STAILQ_CONCAT(&twin->twins, &c->twins);
        LIST_INSERT_HEAD(&v->clones_asked, twin, link);
        clone_begin(twin);
    }
    free(c);
    hand_down_start(v); /* its source may have been deleted since */
    volume_unref(v);
}

static void clone_fail(struct clone *c, const struct err *err)
{
    (void)err_copy(&c->err, err);
    clone_end(c);
}

/* -- checks ---------------------------------------------------------------------------- */

/* 1: it is there already, as asked for. */
static int clone_check_again(struct clone *c, struct err *reterr)
{
    struct volume_record *r = &c->volume->record;
    if (volume_record_is_buried(r, &c->record.id))
        return err_set(reterr, SNAP_ESTALE, "that clone has been deleted");
    const struct record_snapshot *there = volume_record_find(r, &c->record.id);
    if (there == NULL)
        return 0;
    if (!there->clone || there->hidden || strcmp(there->name, c->record.name) != 0 ||
        (c->record.limit_bytes != 0 && c->record.limit_bytes != there->limit_bytes))
        return err_set(reterr, SNAP_EEXIST, "a snapshot of that uuid with other parameters exists");
    return 1;
}

static int clone_check_source(struct volume *v, const struct uuid *source, struct err *reterr)
{
    struct snapshot *s;
    int rc = volume_snapshot_staying(v, source, &s, reterr);
    if (rc < 0)
        return rc;
    const struct record_snapshot *rs = snapshot_record(s);
    if (tree_depth(s) >= TREE_DEPTH_MAX)
        return err_set(reterr, SNAP_ELIMIT, "%s@%s is a clone %u clones deep: no more go on top",
                       v->record.name, rs->name, tree_depth(s));
    rc = snapshot_check_readable(s, reterr);
    return rc < 0 ? err_prefix(reterr, "%s@%s", v->record.name, rs->name) : 0;
}

static int clone_check(struct clone *c, struct err *reterr)
{
    struct volume *v = c->volume;
    if (v->leaving)
        return volume_refuse_leaving(v, reterr);
    int rc = clone_check_again(c, reterr);
    if (rc != 0)
        return rc;
    if (volume_record_find_name(&v->record, c->record.name) != NULL)
        return err_set(reterr, SNAP_EEXIST, "%s@%s exists", v->record.name, c->record.name);
    if (v->record.snapshot_count >= LIMIT_SNAPSHOTS)
        return err_set(reterr, SNAP_ELIMIT, "volume %s has %u snapshots", v->record.name,
                       v->record.snapshot_count);
    rc = snapshot_check_limit(v, 0, c->record.limit_bytes, reterr);
    return rc < 0 ? rc : clone_check_source(v, &c->source, reterr);
}

/* -- record and node --------------------------------------------------------------------- */

static void clone_opened(void *user, int code, const struct err *err)
{
    struct clone *c = user;
    if (code < 0) {
        (void)err_copy(&c->err, err);
        (void)err_prefix(&c->err, code == SNAP_ENOMEM ? "the clone is made, but not open yet"
                                                      : "the clone is made, but damaged");
        c->created = false; /* the record lists it */
        if (code == SNAP_ENOMEM)
            snapshot_open_later(c->node);
    }
    clone_end(c);
}

static int clone_change(struct volume_commit *commit, struct volume_record *next,
                        struct err *reterr)
{
    struct clone *c = commit->user;
    const struct record_snapshot *source = volume_record_find(next, &c->source);
    if (source == NULL || source->hidden)
        return err_set(reterr, SNAP_ENOENT, "the snapshot has been deleted");
    if (c->volume->leaving)
        return volume_refuse_leaving(c->volume, reterr);
    c->record.parent_seq = source->seq;
    c->record.seq = next->next_seq;
    c->node = snapshot_new_clone(c->volume, &c->record.id, c->record.seq);
    if (c->node == NULL)
        return err_set(reterr, SNAP_ENOMEM, "clone");
    return volume_record_add_snapshot(next, &c->record, reterr);
}

static void clone_committed(struct volume_commit *commit, int code, const struct err *err)
{
    struct clone *c = commit->user;
    if (code < 0) {
        snapshot_free(c->node);
        clone_fail(c, err);
        return;
    }
    struct snapshot *source = volume_snapshot_find(c->volume, &c->source);
    CHECK(source != NULL);
    tree_add(c->node, source);
    snapshot_open(c->node, clone_opened, c);
}

static void clone_commit(struct clone *c)
{
    c->commit = (struct volume_commit){.change = clone_change, .done = clone_committed, .user = c};
    volume_commit_start(c->volume, &c->commit);
}

static void clone_gated(struct volume_waiter *w, int code, const struct err *err)
{
    struct clone *c = w->user;
    if (code < 0)
        clone_fail(c, err);
    else
        clone_commit(c);
}

/* -- device ------------------------------------------------------------------------------- */

static void clone_formatted(void *user, int code, const struct err *err)
{
    struct clone *c = user;
    struct volume *v = c->volume;
    blk_dev_close(c->making->dev);
    c->making->dev = NULL;
    if (code == 0)
        code = clone_check_source(v, &c->source, &c->err);
    else
        (void)err_copy(&c->err, err);
    if (code < 0) {
        clone_end(c);
        return;
    }
    if (!volume_snapshot_find(v, &c->source)->clone) {
        clone_commit(c);
        return;
    }
    c->gated = true;
    c->waiter = (struct volume_waiter){.fn = clone_gated, .user = c};
    volume_gate_close(v, &c->waiter);
}

static void clone_summed(void *user, int code, const struct err *err)
{
    struct clone *c = user;
    if (code < 0)
        clone_fail(c, err);
    else
        cow_store_create(c->making->dev, c->record.chunk_size_sectors, clone_formatted, c);
}

/* Its checksums too are there before the record tells of it. */
static void clone_format(struct clone *c)
{
    if (c->volume->set->env->checksums)
        sums_attach(c->making, c->record.chunk_size_sectors, true, clone_summed, c);
    else
        clone_summed(c, 0, NULL);
}

static void clone_turn(struct volume_waiter *w, int code, const struct err *err)
{
    (void)code;
    (void)err;
    clone_begin(w->user);
}

static void clone_begin(struct clone *c)
{
    struct volume *v = c->volume;
    char text[UUID_TEXT_BYTES], file[UUID_TEXT_BYTES + 8];
    int rc = clone_check(c, &c->err);
    if (rc != 0) {
        clone_end(c);
        return;
    }
    if (!STAILQ_EMPTY(&v->creates)) {
        c->waiter = (struct volume_waiter){.fn = clone_turn, .user = c};
        STAILQ_INSERT_TAIL(&v->create_waiters, &c->waiter, link);
        return;
    }
    c->turn = true;
    v->clones_making++;
    c->record.chunk_size_sectors = v->chunk_sectors;
    if (c->record.limit_bytes == 0)
        c->record.limit_bytes = v->set->env->cow_limit_bytes;
    (void)snprintf(file, sizeof file, "%s.cow", uuid_format(&c->record.id, text));
    rc = volume_cow_path(v, file, c->path, sizeof c->path, &c->err);
    c->making = rc == 0 ? snapshot_new_clone(v, &c->record.id, 0) : NULL;
    if (rc == 0 && c->making == NULL)
        rc = err_set(&c->err, SNAP_ENOMEM, "clone");
    if (rc == 0)
        rc = draft_begin(v, &c->record.id, &c->err);
    c->noted = rc == 0;
    if (rc == 0)
        rc = volume_open_new(v, c->path, &c->making->dev, &c->err);
    c->created = c->making != NULL && c->making->dev != NULL;
    if (rc < 0)
        clone_end(c);
    else
        clone_format(c);
}

static int clone_fill(struct clone *c, const struct clone_spec *spec, struct err *reterr)
{
    const struct volume_record *r = &c->volume->record;
    c->source = spec->source;
    c->record.id = spec->id;
    c->record.clone = true;
    c->record.created_s = clock_wall_s();
    c->record.limit_bytes = spec->limit_bytes;
    if (r->kind != VOLUME_HOSTED)
        return err_set(reterr, SNAP_ENOTSUP,
                       "the origin of volume %s is not here but at its client: what the daemon "
                       "does not hold it cannot make a writable clone of",
                       r->name);
    int rc = name_check(spec->name, "snapshot", reterr);
    if (rc < 0)
        return rc;
    (void)snprintf(c->record.name, sizeof c->record.name, "%s", spec->name);
    if (uuid_is_zero(&spec->id))
        return err_set(reterr, SNAP_EINVAL, "a clone needs a uuid");
    if (spec->limit_bytes > LIMIT_VOLUME_BYTES)
        return err_set(reterr, SNAP_EINVAL, "a COW file of up to %llu bytes: more than 2^60",
                       (unsigned long long)spec->limit_bytes);
    return 0;
}

static struct clone *clone_find_asked(const struct volume *v, const struct uuid *id)
{
    struct clone *c;
    LIST_FOREACH (c, &v->clones_asked, link)
        if (uuid_equal(&c->record.id, id))
            return c;
    return NULL;
}

void volume_clone_start(struct volume *v, const struct clone_spec *spec, volume_done_fn *done,
                        void *user)
{
    struct err err = ERR_INIT;
    struct clone *c = calloc(1, sizeof *c);
    if (c == NULL) {
        done(user, err_set(&err, SNAP_ENOMEM, "clone"), &err);
        return;
    }
    c->volume = v;
    c->done = done;
    c->user = user;
    STAILQ_INIT(&c->twins);
    volume_ref(v);
    struct clone *first = clone_find_asked(v, &spec->id);
    int rc = clone_fill(c, spec, &c->err);
    if (rc == 0 && first != NULL) {
        STAILQ_INSERT_TAIL(&first->twins, c, twin_link);
        return;
    }
    LIST_INSERT_HEAD(&v->clones_asked, c, link);
    if (rc < 0)
        clone_end(c);
    else
        clone_begin(c);
}
