/* SPDX-License-Identifier: Apache-2.0 */
/* How a rollback begins.
 *
 *   count ──> space ──> gate ──> undo snapshot ──> commit: rollback ──> gate open, begun
 *     └─────────┴────────┴───────────┴─> refused; an undo snapshot is folded
 *
 * The gate is closed from before the undo snapshot until the commit, so it holds exactly what
 * the volume held, and no write that was answered is lost by cancelling.
 *
 * A crash before that commit leaves an undo snapshot that no rollback names: tree_index()
 * takes it for hidden. Who asks again for the same before it has begun is answered with the first.
 *
 * It must not know of the work, nor of requests. Thread: the shard's.
 */
#include "daemon/volume/rollback_priv.h"

#include "common/base/bytes.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/tree.h"

#include <stdio.h>

/* Nothing but, perhaps, the undo snapshot is there. */
static void rollback_refuse(struct rollback *r)
{
    struct volume *v = r->volume;
    struct snapshot *undo = volume_snapshot_find(v, &r->undo);
    struct rollback_askers begun = STAILQ_HEAD_INITIALIZER(begun);
    const struct err err = r->err;
    if (undo != NULL)
        tree_set_hidden(undo, true);
    if (r->gated)
        volume_gate_open(v);
    STAILQ_CONCAT(&begun, &r->begun);
    volume_ref(v);
    rollback_free(r); /* who asks again as he is answered begins another one */
    rollback_answer(&begun, err.code, &err);
    hand_down_start(v);
    volume_unref(v);
}

static int rollback_begin_change(struct volume_commit *commit, struct volume_record *next,
                                 struct err *reterr)
{
    struct rollback *r = commit->user;
    const struct record_snapshot *to = volume_record_find(next, &r->spec.snapshot);
    const struct record_snapshot *undo = volume_record_find(next, &r->undo);
    if (r->volume->leaving)
        return volume_refuse_leaving(r->volume, reterr);
    if (to == NULL || to->hidden || undo == NULL)
        return err_set(reterr, SNAP_ENOENT, "the snapshot has been deleted");
    /* the last writes before the gate may have made it invalid */
    int rc = snapshot_check_readable(volume_snapshot_by_seq(r->volume, to->seq), reterr);
    if (rc < 0)
        return err_prefix(reterr, "%s@%s", next->name, to->name);
    r->to_seq = to->seq;
    r->undo_seq = undo->seq;
    next->rollback = (struct record_rollback){.job = r->spec.job,
                                              .to_seq = to->seq,
                                              .undo_seq = undo->seq,
                                              .merge = r->spec.merge,
                                              .drop_newer = r->spec.drop_newer,
                                              .started_s = clock_wall_s()};
    return 0;
}

static void rollback_begun(struct volume_commit *commit, int code, const struct err *err)
{
    struct rollback *r = commit->user;
    struct volume *v = r->volume;
    if (code < 0) {
        (void)err_copy(&r->err, err);
        rollback_refuse(r);
        return;
    }
    volume_job_add(v, &r->job);
    volume_ref(v);
    volume_gate_open(v); /* what waited there is refused */
    rollback_answer(&r->begun, 0, err);
    rollback_work(r);
    volume_unref(v);
}

static void rollback_undo_made(void *user, int code, const struct err *err)
{
    struct rollback *r = user;
    if (code < 0) {
        (void)err_copy(&r->err, err);
        (void)err_prefix(&r->err, "make the snapshot to undo it with");
        rollback_refuse(r);
        return;
    }
    r->commit =
        (struct volume_commit){.change = rollback_begin_change, .done = rollback_begun, .user = r};
    volume_commit_start(r->volume, &r->commit);
}

static void rollback_gated(struct volume_waiter *w, int code, const struct err *err)
{
    struct rollback *r = w->user;
    struct volume *v = r->volume;
    if (code < 0) {
        (void)err_copy(&r->err, err);
        rollback_refuse(r);
        return;
    }
    /* Another one every time, though the job is the same: an older one may still be folded. */
    r->undo = r->spec.job;
    uint32_t seq = v->record.next_seq;
    for (unsigned i = 0; i < UUID_BYTES; i++)
        r->undo.b[i] ^= (uint8_t)(i < 4 ? seq >> (8 * i) : 0x5a);
    char name[LIMIT_NAME_BYTES + 1], text[UUID_TEXT_BYTES];
    (void)snprintf(name, sizeof name, "undo-%s", uuid_format(&r->undo, text));
    struct snapshot_spec spec = {.id = r->undo,
                                 .name = name,
                                 .undo = true,
                                 .limit_bytes =
                                     u64_max(r->need_bytes, v->set->env->cow_limit_bytes)};
    snapshot_create_start(v, &spec, rollback_undo_made, r);
}

static void rollback_space_run(struct control_job *job)
{
    struct rollback *r = CONTAINER_OF(job, struct rollback, space);
    const struct volume_env *env = r->volume->set->env;
    char dir[LIMIT_PATH_BYTES];
    r->space_code =
        volume_dir_format(env->state_dir, &r->volume->record.id, dir, sizeof dir, &r->space_err);
    if (r->space_code == 0)
        r->space_code =
            env->storage->free_bytes(env->storage->user, dir, &r->free_bytes, &r->space_err);
}

static int rollback_check_owner(const struct rollback *r, struct err *reterr)
{
    const struct volume *v = r->volume;
    const struct volume_env *env = v->set->env;
    if (v->space_used == NULL || env->space_bytes_max == NULL)
        return 0;
    uint64_t max = atomic_load_explicit(env->space_bytes_max, memory_order_relaxed);
    int64_t used = atomic_load_explicit(v->space_used, memory_order_relaxed);
    if (max == 0 || (used < 0 ? 0 : (uint64_t)used) + r->need_bytes <= max)
        return 0;
    return err_set(
        reterr, SNAP_ENOSPC,
        "to undo the rollback up to %llu bytes are kept; its owner's volumes use %lld of "
        "%llu",
        (unsigned long long)r->need_bytes, (long long)used, (unsigned long long)max);
}

static void rollback_spaced(struct control_job *job)
{
    struct rollback *r = CONTAINER_OF(job, struct rollback, space);
    struct volume *v = r->volume;
    if (r->space_code < 0)
        (void)err_copy(&r->err, &r->space_err);
    else if (r->need_bytes > r->free_bytes)
        (void)err_set(&r->err, SNAP_ENOSPC,
                      "to undo the rollback up to %llu bytes are kept; its file system has %llu",
                      (unsigned long long)r->need_bytes, (unsigned long long)r->free_bytes);
    else if (v->leaving)
        (void)volume_refuse_leaving(v, &r->err);
    if (r->err.code < 0) {
        rollback_refuse(r);
        return;
    }
    r->gated = true;
    r->waiter = (struct volume_waiter){.fn = rollback_gated, .user = r};
    volume_gate_close(v, &r->waiter);
}

/* The undo snapshot takes every chunk that is written, and its tables. */
void rollback_begin_counted(struct rollback *r)
{
    struct volume *v = r->volume;
    if (v->leaving) {
        (void)volume_refuse_leaving(v, &r->err);
        rollback_refuse(r);
        return;
    }
    uint64_t chunk_bytes = (uint64_t)v->chunk_sectors * SECTOR_BYTES;
    uint64_t per_area = chunk_bytes / sizeof(struct cow_exception);
    r->need_bytes = (r->total + r->total / per_area + 4) * chunk_bytes;
    if (rollback_check_owner(r, &r->err) < 0) {
        rollback_refuse(r);
        return;
    }
    r->space = (struct control_job){
        .run = rollback_space_run, .done = rollback_spaced, .back = v->set->shard->loop};
    if (v->set->env->storage->free_bytes == NULL) {
        r->free_bytes = UINT64_MAX;
        rollback_spaced(&r->space);
        return;
    }
    control_submit(v->set->env->control, &r->space);
}

static int rollback_check(struct volume *v, const struct rollback_spec *spec, struct err *reterr)
{
    const struct volume_record *r = &v->record;
    if (v->origin == NULL)
        return err_set(reterr, SNAP_ENOTSUP,
                       "the origin of volume %s is not here but at its client, which rolls it back",
                       r->name);
    if (uuid_is_zero(&spec->job))
        return err_set(reterr, SNAP_EINVAL, "a rollback needs a uuid");
    if (v->rollback != NULL || !uuid_is_zero(&r->rollback.job))
        return err_set(reterr, SNAP_EBUSY, "volume %s is being rolled back", r->name);
    struct snapshot *s;
    int rc = volume_snapshot_staying(v, &spec->snapshot, &s, reterr);
    if (rc < 0)
        return rc;
    const struct record_snapshot *rs = snapshot_record(s);
    if (s->clone)
        return err_set(reterr, SNAP_ENOTSUP,
                       "%s@%s is a clone and may be written meanwhile: only to a snapshot can a "
                       "volume be rolled back",
                       r->name, rs->name);
    rc = snapshot_check_readable(s, reterr);
    return rc < 0 ? err_prefix(reterr, "%s@%s", r->name, rs->name) : 0;
}

void volume_rollback_start(struct volume *v, const struct rollback_spec *spec, volume_done_fn *done,
                           void *user)
{
    struct err err = ERR_INIT;
    const struct uuid *under_way = &v->record.rollback.job;
    enum volume_job_state ended;
    if (!uuid_is_zero(&spec->job) &&
        (uuid_equal(under_way, &spec->job) || volume_job_buried(v, &spec->job, &ended))) {
        done(user, 0, &err);
        return;
    }
    struct rollback *first = v->rollback;
    if (first != NULL && first->phase == ROLLBACK_BEGIN &&
        uuid_equal(&first->spec.job, &spec->job)) {
        if (rollback_ask(&first->begun, done, user, &err) < 0)
            done(user, err.code, &err);
        return;
    }
    int rc = rollback_check(v, spec, &err);
    struct rollback *r = rc < 0 ? NULL : rollback_new(v, spec, &err);
    if (r != NULL && rollback_ask(&r->begun, done, user, &err) < 0) {
        rollback_free(r);
        r = NULL;
    }
    if (r == NULL) {
        done(user, err.code, &err);
        return;
    }
    tree_index(v);
    (void)snprintf(r->name, sizeof r->name, "%s",
                   snapshot_record(volume_snapshot_find(v, &spec->snapshot))->name);
    r->to_seq = volume_snapshot_find(v, &spec->snapshot)->seq;
    rollback_count(r);
}
