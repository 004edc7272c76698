/* SPDX-License-Identifier: Apache-2.0 */
/* Deleting a snapshot: hidden at once, folded into the next older one afterwards.
 *
 *   refuse new puts ──> drain ──> commit: hidden, tombstone ──> answer ──> hand-down job
 *                        └─ damaged, and by force: the next older one becomes invalid first
 *
 * The tombstone is in the same commit, so a client that lost the answer and asks again
 * with its key hears the same. Puts to a head that is being deleted are stale from the
 * first moment; what was in flight is durable in it and is handed down like the rest.
 *
 * It must not know of connections. Thread: the shard's.
 */
#include "daemon/volume/change.h"

#include "daemon/volume/put.h"

#include <stdlib.h>
#include <string.h>

struct snapshot_delete {
    struct volume *volume;
    struct snapshot *node;
    struct snapshot_delete_spec spec;
    struct volume_commit commit;
    volume_done_fn *done;
    void *user;
};

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
    rs->hidden = true;
    rs->merging = false;
    volume_record_bury(next, &d->spec.id, &d->spec.key);
    return 0;
}

static void delete_committed(struct volume_commit *commit, int code, const struct err *err)
{
    struct snapshot_delete *d = commit->user;
    struct volume *v = d->volume;
    if (code < 0)
        d->node->leaving = false;
    d->done(d->user, code, err);
    if (code == 0)
        hand_down_start(v);
    volume_put_resume(v);
    volume_unref(v);
    free(d);
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
    d->node->leaving = false;
    d->done(d->user, code, err);
    volume_unref(v);
    free(d);
}

static void delete_invalidated(void *user, int code, const struct err *err)
{
    struct snapshot_delete *d = user;
    if (code < 0)
        delete_fail(d, code, err);
    else
        delete_commit(d);
}

/* What it held for the older ones is lost; that is made durable before it goes. */
static void delete_damaged(struct snapshot_delete *d)
{
    struct snapshot *older = TAILQ_PREV(d->node, snapshot_list, link);
    struct err err = ERR_INIT;
    if (older == NULL || (older->store != NULL && cow_store_state(older->store) == COW_INVALID)) {
        delete_commit(d);
    } else if (older->store == NULL || older->closing) {
        int code =
            err_set(&err, SNAP_EBUSY, "the next older snapshot is damaged too: delete it first");
        delete_fail(d, code, &err);
    } else {
        snapshot_kick(older);
        cow_store_invalidate(older->store, delete_invalidated, d);
    }
}

static int delete_check(struct volume *v, const struct snapshot_delete_spec *spec,
                        struct snapshot **ret, struct err *reterr)
{
    struct snapshot *s = volume_snapshot_find(v, &spec->id);
    const struct record_snapshot *rs = s == NULL ? NULL : snapshot_record(s);
    if (rs == NULL || rs->hidden)
        return err_set(reterr, SNAP_ENOENT, "no such snapshot in volume %s", v->record.name);
    if (delete_is_held(s, rs, spec))
        return err_set(reterr, SNAP_EBUSY, "%s@%s is being merged", v->record.name, rs->name);
    if (s->leaving || s->busy || s->reopening)
        return err_set(reterr, SNAP_EBUSY, "%s@%s is being %s", v->record.name, rs->name,
                       s->leaving ? "deleted"
                       : s->busy  ? "checked"
                                  : "opened again");
    if (s->store == NULL && TAILQ_PREV(s, snapshot_list, link) != NULL && !spec->force)
        return err_set(reterr, SNAP_ECORRUPT,
                       "%s@%s is damaged (%s) and older snapshots read through it: repair it, or "
                       "delete it by force, which makes them invalid",
                       v->record.name, rs->name, s->fault_text);
    *ret = s;
    return 0;
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
    int rc = delete_check(v, spec, &s, &err);
    struct snapshot_delete *d = rc < 0 ? NULL : calloc(1, sizeof *d);
    if (d == NULL) {
        if (rc == 0)
            rc = err_set(&err, SNAP_ENOMEM, "delete");
        done(user, rc, &err);
        return;
    }
    *d =
        (struct snapshot_delete){.volume = v, .node = s, .spec = *spec, .done = done, .user = user};
    volume_ref(v);
    s->leaving = true;
    if (s->store == NULL || s->closing) {
        delete_damaged(d);
        return;
    }
    snapshot_kick(s);
    cow_store_drain(s->store, delete_drained, d);
}
