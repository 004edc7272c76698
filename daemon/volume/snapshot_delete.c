/* SPDX-License-Identifier: Apache-2.0 */
/* Deleting a snapshot or a clone: hidden at once, folded into what reads through it afterwards.
 *
 *   refuse new puts ──> drain ──> commit: hidden, tombstone ──> answer ──> hand-down job
 *                        └─ damaged, and by force: what reads through it becomes invalid first
 *
 * The tombstone is in the same commit, so a client that lost the answer and asks again with its key
 * hears the same; one that asks while the first try is under way is answered with it. Puts to a
 * head that is being deleted are stale from the first moment; what was in flight is durable in it
 * and is handed down like the rest. Writes of a clone that are under way end first.
 *
 * It must not know of connections. Thread: the shard's.
 */
#include "daemon/volume/change.h"

#include "daemon/volume/put.h"
#include "daemon/volume/range.h"
#include "daemon/volume/tree.h"

#include <stdlib.h>

struct snapshot_delete {
    struct volume *volume;
    struct snapshot *node;
    struct snapshot_delete_spec spec;
    struct range range; /* of a clone: all of it */
    struct volume_commit commit;
    volume_done_fn *done;
    void *user;
    STAILQ_HEAD(, snapshot_delete) twins; /* asked for meanwhile, with the same key */
    STAILQ_ENTRY(snapshot_delete) twin_link;
};

/* What a rollback returns to stays until it has ended. */
static bool delete_is_returned_to(const struct volume_record *r, const struct record_snapshot *rs)
{
    return !uuid_is_zero(&r->rollback.job) && r->rollback.to_seq == rs->seq;
}

/* A merge that cannot go on, because what it reads is lost, does not hold it for ever. */
static bool delete_is_held(const struct snapshot *s, const struct record_snapshot *rs,
                           const struct snapshot_delete_spec *spec)
{
    return rs->merging && !spec->merged && !(spec->force && snapshot_check_readable(s, NULL) < 0);
}

static int delete_change(struct volume_commit *commit, struct volume_record *next,
                         struct err *reterr)
{
    struct snapshot_delete *d = commit->user;
    struct record_snapshot *rs = volume_record_find(next, &d->spec.id);
    if (rs == NULL || rs->hidden)
        return err_set(reterr, SNAP_ENOENT, "no such snapshot");
    if (delete_is_held(d->node, rs, &d->spec))
        return err_set(reterr, SNAP_EBUSY, "%s@%s is being merged", next->name, rs->name);
    if (delete_is_returned_to(next, rs))
        return err_set(reterr, SNAP_EBUSY, "%s is being rolled back to %s", next->name, rs->name);
    rs->hidden = true;
    rs->merging = false;
    volume_record_bury(next, &d->spec.id, &d->spec.key);
    return 0;
}

/* All who asked hear the same. Another commit may have hidden the node meanwhile, and dropped it.
 */
static void delete_end(struct snapshot_delete *d, int code, const struct err *err)
{
    struct snapshot *s = volume_snapshot_find(d->volume, &d->spec.id);
    struct snapshot_delete *twin;
    if (s != NULL) {
        s->deletion = NULL;
        s->leaving = code == 0 || s->hidden;
    }
    d->done(d->user, code, err);
    while ((twin = STAILQ_FIRST(&d->twins)) != NULL) {
        STAILQ_REMOVE_HEAD(&d->twins, twin_link);
        twin->done(twin->user, code, err);
        free(twin);
    }
    free(d);
}

static void delete_committed(struct volume_commit *commit, int code, const struct err *err)
{
    struct snapshot_delete *d = commit->user;
    struct volume *v = d->volume;
    if (code == 0)
        tree_set_hidden(d->node, true);
    delete_end(d, code, err);
    if (code == 0)
        hand_down_start(v);
    volume_put_resume(v);
    volume_unref(v);
}

static void delete_commit(struct snapshot_delete *d)
{
    d->commit =
        (struct volume_commit){.change = delete_change, .done = delete_committed, .user = d};
    volume_commit_start(d->volume, &d->commit);
}

static void delete_drained(void *user, int code, const struct err *err)
{
    (void)code; /* nothing more comes in; what failed in there was told to those who asked */
    (void)err;
    delete_commit(user);
}

static void delete_fail(struct snapshot_delete *d, int code, const struct err *err)
{
    struct volume *v = d->volume;
    delete_end(d, code, err);
    volume_unref(v);
}

static void delete_damaged(struct snapshot_delete *d);

static void delete_invalidated(void *user, int code, const struct err *err)
{
    struct snapshot_delete *d = user;
    if (code < 0)
        delete_fail(d, code, err);
    else
        delete_damaged(d);
}

/* The next that reads through it and is not invalid yet. */
static struct snapshot *delete_dependant(const struct snapshot *s)
{
    struct snapshot *c = s->clone ? NULL : TAILQ_PREV(s, snapshot_list, link);
    if (c != NULL && !snapshot_is_invalid(c))
        return c;
    LIST_FOREACH (c, &s->clones, clone_link)
        if (!snapshot_is_invalid(c))
            return c;
    return NULL;
}

/* What it held for the others is lost; that is made durable before it goes. */
static void delete_damaged(struct snapshot_delete *d)
{
    struct snapshot *child = delete_dependant(d->node);
    struct err err = ERR_INIT;
    if (child == NULL) {
        delete_commit(d);
    } else if (!snapshot_is_open(child)) {
        int code =
            err_set(&err, SNAP_EBUSY, "what reads through it is damaged too: delete that first");
        delete_fail(d, code, &err);
    } else {
        snapshot_kick(child);
        cow_store_invalidate(child->store, delete_invalidated, d);
    }
}

static int delete_check(struct volume *v, const struct snapshot_delete_spec *spec,
                        struct snapshot **ret, struct err *reterr)
{
    struct snapshot *s;
    int rc = volume_snapshot_visible(v, &spec->id, &s, reterr);
    if (rc < 0)
        return rc;
    const struct record_snapshot *rs = snapshot_record(s);
    if (delete_is_returned_to(&v->record, rs))
        return err_set(reterr, SNAP_EBUSY, "%s is being rolled back to %s", v->record.name,
                       rs->name);
    if (delete_is_held(s, rs, spec))
        return err_set(reterr, SNAP_EBUSY, "%s@%s is being merged", v->record.name, rs->name);
    if (s->leaving || s->busy || s->reopening)
        return err_set(reterr, SNAP_EBUSY, "%s@%s is being %s", v->record.name, rs->name,
                       s->leaving ? "deleted"
                       : s->busy  ? "checked"
                                  : "opened again");
    if (s->store == NULL && !s->lost && tree_children(v, s) > 0 && !spec->force)
        return err_set(reterr, SNAP_ECORRUPT,
                       "%s@%s is damaged (%s) and others read through it: repair it, or "
                       "delete it by force, which makes them invalid",
                       v->record.name, rs->name, s->fault_text);
    *ret = s;
    return 0;
}

static void delete_drain(struct snapshot_delete *d)
{
    struct snapshot *s = d->node;
    struct err err = ERR_INIT;
    if (s->reopening || s->phase == SNAPSHOT_CLOSING) { /* since it was asked for */
        int code = err_set(&err, SNAP_EBUSY, "%s is being opened again", snapshot_record(s)->name);
        delete_fail(d, code, &err);
        return;
    }
    if (s->store == NULL) {
        delete_damaged(d);
        return;
    }
    snapshot_kick(s);
    cow_store_drain(s->store, delete_drained, d);
}

static void delete_written(struct range *r)
{
    struct snapshot_delete *d = r->user;
    range_give(d->node->ranges, r);
    delete_drain(d);
}

/* The same deletion, not answered yet. NULL: there is none. */
static struct snapshot_delete *delete_under_way(const struct volume *v,
                                                const struct snapshot_delete_spec *spec)
{
    const struct snapshot *s = volume_node_by_id(v, &spec->id);
    struct snapshot_delete *d = s != NULL ? s->deletion : NULL;
    return d != NULL && uuid_equal(&d->spec.key, &spec->key) ? d : NULL;
}

bool snapshot_delete_is_known(const struct volume *v, const struct snapshot_delete_spec *spec)
{
    return volume_record_buried(&v->record, &spec->id, &spec->key) ||
           delete_under_way(v, spec) != NULL;
}

void snapshot_delete(struct volume *v, const struct snapshot_delete_spec *spec,
                     volume_done_fn *done, void *user)
{
    struct err err = ERR_INIT;
    if (volume_record_buried(&v->record, &spec->id, &spec->key)) {
        done(user, 0, &err);
        return;
    }
    struct snapshot *s = NULL;
    struct snapshot_delete *first = delete_under_way(v, spec);
    int rc = first != NULL ? 0 : delete_check(v, spec, &s, &err);
    struct snapshot_delete *d = rc < 0 ? NULL : calloc(1, sizeof *d);
    if (d == NULL) {
        if (rc == 0)
            rc = err_set(&err, SNAP_ENOMEM, "delete");
        done(user, rc, &err);
        return;
    }
    *d =
        (struct snapshot_delete){.volume = v, .node = s, .spec = *spec, .done = done, .user = user};
    if (first != NULL) {
        STAILQ_INSERT_TAIL(&first->twins, d, twin_link);
        return;
    }
    STAILQ_INIT(&d->twins);
    volume_ref(v);
    s->leaving = true;
    s->deletion = d;
    if (s->ranges == NULL) {
        delete_drain(d);
        return;
    }
    d->range = (struct range){.last = UINT64_MAX, .granted = delete_written, .user = d};
    range_take(s->ranges, &d->range);
}
