/* SPDX-License-Identifier: Apache-2.0 */
/* Merging on the daemon's side: the client rolls its origin back, the volume keeps the state.
 *
 *   begin ──> drain ──> commit: merging ──> (prepare, commit)* ──> end ──> deleted
 *                            │    table mode: the only node            └─> abort ──> as it was
 *                            └──> view mode: reads and puts of the client's own
 *
 * A merge that was begun in view mode stays so until it is begun again, though its snapshot
 * may be the only one by then: its client knows nothing of the table.
 * Of a hosted volume it is refused: there a rollback does the work, see rollback.c.
 * `merging` is durable before the first entry is cleared. In table mode entries vanish
 * from the end of the table by compare-and-set; a merge that stops anywhere, daemon
 * restarts included, is begun again and goes on. Thread: the shard's.
 */
#include "daemon/volume/change.h"

#include "daemon/volume/put.h"

static void merge_finish(struct volume_merge *m, int code, const struct err *err)
{
    struct volume *v = m->volume;
    m->done(m, code, err);
    volume_unref(v);
}

static void merge_done(void *user, int code, const struct err *err)
{
    merge_finish(user, code, err);
}

/* Rights of the lease and the node; on 0 the volume is held until merge_finish(). */
static int merge_enter(struct volume *v, struct volume_merge *m, bool want_merging,
                       struct err *reterr)
{
    m->volume = v;
    volume_ref(v);
    if (v->record.kind == VOLUME_HOSTED)
        return err_set(reterr, SNAP_ENOTSUP,
                       "the daemon holds the origin of volume %s: use rollback with merge",
                       v->record.name);
    int rc = lease_check_put(&v->lease, m->identity, m->epoch, volume_now_ns(v), reterr);
    if (rc < 0)
        return rc;
    struct snapshot *s;
    rc = volume_snapshot_staying(v, &m->snapshot, &s, reterr);
    if (rc < 0)
        return rc;
    const struct record_snapshot *rs = snapshot_record(s);
    if (want_merging && !rs->merging)
        return err_set(reterr, SNAP_EINVAL, "%s@%s is not being merged", v->record.name, rs->name);
    rc = snapshot_check_readable(s, reterr);
    if (rc < 0)
        return err_prefix(reterr, "%s@%s", v->record.name, rs->name);
    m->node = s;
    m->table_mode = TAILQ_FIRST(&v->chain) == s && TAILQ_NEXT(s, link) == NULL &&
                    s->store != NULL && !(want_merging && s->merge_view);
    return 0;
}

static int merge_change(struct volume_commit *commit, struct volume_record *next,
                        struct err *reterr)
{
    struct volume_merge *m = commit->user;
    struct record_snapshot *rs = volume_record_find(next, &m->snapshot);
    if (rs == NULL || rs->hidden)
        return err_set(reterr, SNAP_ENOENT, "no such snapshot");
    rs->merging = m->merging;
    return 0;
}

/* -- begin ------------------------------------------------------------------------ */

static void merge_begun(struct volume_merge *m)
{
    struct volume *v = m->volume;
    struct cow_usage usage = {.exceptions = 0};
    if (m->node->store != NULL)
        cow_store_usage(m->node->store, &usage);
    m->node->merge_view = !m->table_mode;
    m->table_len = usage.exceptions;
    const struct snapshot *head = volume_head(v);
    m->head = head != NULL ? head->id : (struct uuid){{0}};
    merge_finish(m, 0, NULL);
}

static void merge_drained(void *user, int code, const struct err *err)
{
    (void)code;
    (void)err;
    merge_begun(user);
}

/* Puts are refused from the commit on; those that came before it end first. */
static void merge_marked(struct volume_commit *commit, int code, const struct err *err)
{
    struct volume_merge *m = commit->user;
    if (code < 0) {
        merge_finish(m, code, err);
    } else if (!snapshot_is_open(m->node)) {
        merge_begun(m);
    } else {
        snapshot_kick(m->node);
        cow_store_drain(m->node->store, merge_drained, m);
    }
}

void volume_merge_begin(struct volume *v, struct volume_merge *m)
{
    struct err err = ERR_INIT;
    int rc = merge_enter(v, m, false, &err);
    if (rc == 0 && !STAILQ_EMPTY(&v->creates))
        rc = err_set(&err, SNAP_EBUSY, "a snapshot of volume %s is being made", v->record.name);
    for (uint32_t i = 0; rc == 0 && i < v->record.snapshot_count; i++)
        if (v->record.snapshots[i].merging && !uuid_equal(&v->record.snapshots[i].id, &m->snapshot))
            rc = err_set(&err, SNAP_EBUSY, "%s@%s is being merged", v->record.name,
                         v->record.snapshots[i].name);
    if (rc < 0) {
        merge_finish(m, rc, &err);
        return;
    }
    m->merging = true;
    if (snapshot_record(m->node)->merging) {
        merge_begun(m);
        return;
    }
    m->commit = (struct volume_commit){.change = merge_change, .done = merge_marked, .user = m};
    volume_commit_start(v, &m->commit);
}

/* -- the table -------------------------------------------------------------------- */

/* False: it has ended. */
static bool merge_enter_table(struct volume *v, struct volume_merge *m)
{
    struct err err = ERR_INIT;
    int rc = merge_enter(v, m, true, &err);
    if (rc == 0 && !m->table_mode)
        rc = err_set(&err, SNAP_EINVAL, "only a volume's sole snapshot is merged by its table");
    if (rc < 0)
        merge_finish(m, rc, &err);
    else
        snapshot_kick(m->node);
    return rc == 0;
}

static void merge_prepared(void *user, const struct cow_merge_run *run, int code,
                           const struct err *err)
{
    struct volume_merge *m = user;
    if (code == 0)
        m->run = *run;
    merge_finish(m, code, err);
}

void volume_merge_prepare(struct volume *v, struct volume_merge *m)
{
    if (merge_enter_table(v, m))
        cow_store_merge_prepare(m->node->store, merge_prepared, m);
}

static void merge_committed(void *user, int code, const struct err *err)
{
    struct volume_merge *m = user;
    snapshot_check_poison(m->node);
    merge_finish(m, code, err);
}

void volume_merge_commit(struct volume *v, struct volume_merge *m)
{
    if (merge_enter_table(v, m))
        cow_store_merge_commit(m->node->store, m->commit_table_len, m->commit_count,
                               merge_committed, m);
}

/* -- end and abort ------------------------------------------------------------------- */

void volume_merge_end(struct volume *v, struct volume_merge *m)
{
    struct err err = ERR_INIT;
    struct snapshot_delete_spec spec = {.id = m->snapshot, .key = m->snapshot, .merged = true};
    if (snapshot_delete_is_known(v, &spec)) { /* ended before, or about to: the same again */
        m->volume = v;
        volume_ref(v);
        snapshot_delete(v, &spec, merge_done, m);
        return;
    }
    int rc = merge_enter(v, m, true, &err);
    if (rc == 0 && m->table_mode) {
        struct cow_usage usage;
        cow_store_usage(m->node->store, &usage);
        if (usage.exceptions > 0)
            rc = err_set(&err, SNAP_EBUSY, "%llu exceptions are not merged yet",
                         (unsigned long long)usage.exceptions);
    }
    if (rc < 0)
        merge_finish(m, rc, &err);
    else
        snapshot_delete(v, &spec, merge_done, m);
}

static void merge_unmarked(struct volume_commit *commit, int code, const struct err *err)
{
    merge_finish(commit->user, code, err);
}

static void merge_store_ended(void *user, int code, const struct err *err)
{
    struct volume_merge *m = user;
    if (code < 0) {
        merge_finish(m, code, err);
        return;
    }
    m->merging = false;
    m->commit = (struct volume_commit){.change = merge_change, .done = merge_unmarked, .user = m};
    volume_commit_start(m->volume, &m->commit);
}

void volume_merge_abort(struct volume *v, struct volume_merge *m)
{
    struct err err = ERR_INIT;
    int rc = merge_enter(v, m, false, &err);
    if (rc < 0) {
        merge_finish(m, rc, &err);
    } else if (!snapshot_record(m->node)->merging) {
        merge_finish(m, 0, &err);
    } else if (cow_store_state(m->node->store) != COW_MERGING) {
        merge_store_ended(m, 0, NULL);
    } else {
        snapshot_kick(m->node);
        cow_store_merge_end(m->node->store, merge_store_ended, m);
    }
}
