/* SPDX-License-Identifier: Apache-2.0 */
/* The hand-down job: a hidden snapshot's exceptions go to the next older one, as far as
 * it lacks them; then the record drops it and its file is removed.
 *
 *   oldest hidden ──> older one? ──no──────────────────────────────> drop
 *                        │ yes
 *                        ├─ older is invalid: nothing to save ─────> drop
 *                        ├─ hidden is invalid: ────────────────────> invalidate older, drop
 *                        ├─ either is damaged, or no room: wait, try again
 *                        └─ raise its limit ──> copy batches ──────> drop
 *
 *   drop: record without it (durable) ──> close ──> unlink ──> next job
 *
 * Nothing is lost by stopping anywhere: a chunk copied before counts as existing the
 * second time, and until the record drops the hidden one, views read through it. One job
 * at a time a volume, the oldest hidden one first, so that its target is visible.
 *
 * Thread: the shard's.
 */
#include "daemon/volume/change.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    HAND_DOWN_CHUNKS = 64,
    HAND_DOWN_BYTES = 1 << 20,
    HAND_DOWN_SCAN_RUNS = 4096, /* looked at before the loop gets its turn */
    HAND_DOWN_RETRY_MS = 10000,
};

struct hand_down {
    struct volume *volume;
    struct snapshot *source, *target; /* target NULL: nothing older */
    uint64_t cursor_old;
    uint32_t cursor_seq;
    uint64_t done_chunks, total_chunks;
    bool cancelled;
    struct shard_kick kick;

    uint32_t count; /* of the batch */
    uint64_t old_chunks[HAND_DOWN_CHUNKS], new_chunks[HAND_DOWN_CHUNKS];
    int16_t outcomes[HAND_DOWN_CHUNKS];
    struct blk_req reqs[HAND_DOWN_CHUNKS];
    unsigned reads_pending;
    struct buf *buf;
    struct iovec iov;
    struct cow_put put;
    struct err err;

    struct volume_commit commit;
    uint64_t limit_bytes; /* what the target's is raised to */
};

static void hand_down_step(void *user);
static void hand_down_drop(struct hand_down *j);

/* The job ends without having ended its work; it is taken up again later. */
static void hand_down_wait(struct hand_down *j)
{
    struct volume *v = j->volume;
    v->job_wait = j->err;
    v->job = NULL;
    if (!v->leaving && !j->cancelled) {
        volume_notice(v, j->source, "hand-down waits", &j->err);
        loop_timer_set(&v->job_timer, HAND_DOWN_RETRY_MS);
    }
    buf_give(j->buf);
    shard_kick_cancel(v->set->shard, &j->kick);
    free(j);
    volume_unref(v);
}

/* -- dropping ------------------------------------------------------------------- */

struct unlink_job {
    struct control_job job;
    char path[LIMIT_PATH_BYTES];
};

static void unlink_job_run(struct control_job *job)
{
    struct unlink_job *u = CONTAINER_OF(job, struct unlink_job, job);
    /* one that stays is reported as unlisted at the next start */
    if (unlink(u->path) == 0)
        (void)!file_sync_parent(u->path, NULL);
    free(u);
}

void volume_unlink_later(struct volume *v, const char *path)
{
    struct unlink_job *u = calloc(1, sizeof *u);
    if (u == NULL)
        return;
    u->job.run = unlink_job_run;
    (void)snprintf(u->path, sizeof u->path, "%s", path);
    control_submit(v->set->env->control, &u->job);
}

static void hand_down_closed(void *user, int code, const struct err *err)
{
    struct hand_down *j = user;
    struct volume *v = j->volume;
    if (code < 0)
        volume_notice(v, NULL, "a dropped snapshot's exceptions stay in memory", err);
    volume_notice(v, NULL, "snapshot dropped", NULL);
    snapshot_free(j->source);
    v->job = NULL;
    v->job_wait = ERR_INIT;
    free(j);
    hand_down_start(v);
    volume_unref(v);
}

static int hand_down_drop_change(struct volume_commit *commit, struct volume_record *next,
                                 struct err *reterr)
{
    struct hand_down *j = commit->user;
    return volume_record_remove_snapshot(next, &j->source->id, reterr);
}

static void hand_down_dropped(struct volume_commit *commit, int code, const struct err *err)
{
    struct hand_down *j = commit->user;
    struct volume *v = j->volume;
    if (code < 0) {
        (void)err_copy(&j->err, err);
        hand_down_wait(j);
        return;
    }
    buf_give(j->buf);
    j->buf = NULL;
    shard_kick_cancel(v->set->shard, &j->kick);
    TAILQ_REMOVE(&v->chain, j->source, link);
    if (TAILQ_EMPTY(&v->chain))
        v->chunk_sectors = 0;
    char path[LIMIT_PATH_BYTES], text[UUID_TEXT_BYTES], file[UUID_TEXT_BYTES + 8];
    (void)snprintf(file, sizeof file, "%s.cow", uuid_format(&j->source->id, text));
    if (volume_cow_path(v, file, path, sizeof path, NULL) == 0)
        volume_unlink_later(v, path); /* a bound device has no such file */
    snapshot_close(j->source, true, hand_down_closed, j);
}

static void hand_down_drop(struct hand_down *j)
{
    j->commit = (struct volume_commit){
        .change = hand_down_drop_change, .done = hand_down_dropped, .user = j};
    volume_commit_start(j->volume, &j->commit);
}

/* -- copying -------------------------------------------------------------------- */

static void hand_down_put_done(struct cow_put *put, int code, const struct err *err)
{
    struct hand_down *j = put->user;
    if (code < 0) {
        (void)err_copy(&j->err, err);
        snapshot_check_poison(j->target);
        hand_down_wait(j);
        return;
    }
    snapshot_count_space(j->target);
    j->done_chunks += j->count;
    shard_kick_later(j->volume->set->shard, &j->kick);
}

static void hand_down_read_done(struct blk_req *req, int result)
{
    struct hand_down *j = req->user;
    snapshot_reader_end(j->source);
    if (result < 0 && j->err.code == 0)
        (void)err_set_errno(&j->err, result, req->sys_errno, "read a hidden snapshot's chunk");
    if (--j->reads_pending > 0)
        return;
    if (j->err.code == 0 && (j->target->store == NULL || j->target->closing))
        (void)err_set(&j->err, SNAP_EPOISONED, "the older snapshot is being opened again");
    if (j->err.code < 0) {
        hand_down_wait(j);
        return;
    }
    j->put = (struct cow_put){.old_chunks = j->old_chunks,
                              .count = j->count,
                              .iov = &j->iov,
                              .iov_count = 1,
                              .outcomes = j->outcomes,
                              .done = hand_down_put_done,
                              .user = j};
    snapshot_kick(j->target);
    cow_store_put(j->target->store, &j->put);
}

static void hand_down_read(struct hand_down *j)
{
    uint32_t chunk_bytes = j->volume->chunk_sectors * SECTOR_BYTES;
    j->iov = (struct iovec){.iov_base = j->buf->data, .iov_len = (size_t)j->count * chunk_bytes};
    j->reads_pending = j->count;
    for (uint32_t i = 0; i < j->count; i++) {
        j->reqs[i] = (struct blk_req){.op = BLK_READ,
                                      .offset_bytes = j->new_chunks[i] * chunk_bytes,
                                      .len_bytes = chunk_bytes,
                                      .data = j->buf->data + (size_t)i * chunk_bytes,
                                      .done = hand_down_read_done,
                                      .user = j};
        snapshot_reader_begin(j->source);
        blk_submit(j->source->dev, &j->reqs[i]);
    }
}

/* Fill the batch from the cursor on. False: the scan has not reached the end yet, or the
 * batch is full. */
static bool hand_down_gather(struct hand_down *j, uint32_t max)
{
    const struct cow_map *map = j->volume->map;
    struct cow_run run;
    for (unsigned n = 0; n < HAND_DOWN_SCAN_RUNS; n++) {
        if (!cow_map_next(map, j->cursor_old, j->cursor_seq, &run))
            return true;
        for (uint64_t i = 0; run.seq == j->source->seq && i < run.count; i++) {
            uint64_t there;
            if (cow_map_get(map, run.old_chunk + i, j->target->seq, &there)) {
                j->done_chunks++;
                continue;
            }
            if (j->count == max) { /* go on with this one */
                j->cursor_old = run.old_chunk + i;
                j->cursor_seq = run.seq;
                return false;
            }
            j->old_chunks[j->count] = run.old_chunk + i;
            j->new_chunks[j->count++] = run.new_chunk + i;
        }
        cow_map_after(&run, &j->cursor_old, &j->cursor_seq);
    }
    return false;
}

static void hand_down_step(void *user)
{
    struct hand_down *j = user;
    struct volume *v = j->volume;
    uint32_t chunk_bytes = v->chunk_sectors * SECTOR_BYTES;
    uint32_t max = HAND_DOWN_BYTES / chunk_bytes;
    max = max == 0 ? 1 : max > HAND_DOWN_CHUNKS ? HAND_DOWN_CHUNKS : max;
    if (j->buf == NULL)
        j->buf = buf_take(v->set->shard->answer_pool, (size_t)max * chunk_bytes);
    if (j->cancelled || v->leaving)
        (void)err_set(&j->err, SNAP_ECANCELED, "stopped");
    else if (j->buf == NULL)
        (void)err_set(&j->err, SNAP_ENOMEM, "no buffer");
    else if (j->source->store == NULL || j->source->closing || j->target->store == NULL ||
             j->target->closing)
        (void)err_set(&j->err, SNAP_EPOISONED, "a store is being opened again");
    if (j->err.code < 0) {
        hand_down_wait(j);
        return;
    }
    j->count = 0;
    bool end = hand_down_gather(j, max);
    if (j->count > 0)
        hand_down_read(j);
    else if (end)
        hand_down_drop(j);
    else
        shard_kick_later(v->set->shard, &j->kick);
}

/* -- beginning -------------------------------------------------------------------- */

static int hand_down_limit_change(struct volume_commit *commit, struct volume_record *next,
                                  struct err *reterr)
{
    struct hand_down *j = commit->user;
    struct record_snapshot *rs = volume_record_find(next, &j->target->id);
    if (rs == NULL)
        return err_set(reterr, SNAP_ENOENT, "the older snapshot is gone");
    rs->limit_bytes = u64_max(rs->limit_bytes, j->limit_bytes);
    return 0;
}

static void hand_down_limit_raised(struct volume_commit *commit, int code, const struct err *err)
{
    struct hand_down *j = commit->user;
    if (code == 0 && j->target->store != NULL && !j->target->closing)
        code = cow_store_set_limit(j->target->store, j->limit_bytes, &j->err);
    else if (code < 0)
        (void)err_copy(&j->err, err);
    if (code < 0) {
        hand_down_wait(j);
        return;
    }
    hand_down_step(j);
}

/* Space moves from one to the other: the target's limit must not stop it. */
static void hand_down_reserve(struct hand_down *j)
{
    struct cow_usage from, to;
    cow_store_usage(j->source->store, &from);
    cow_store_usage(j->target->store, &to);
    j->total_chunks = from.exceptions;
    uint64_t chunks = to.next_free + from.exceptions +
                      from.exceptions / to.geometry.area_exceptions + 2 +
                      to.geometry.area_exceptions / 8;
    j->limit_bytes = chunks * to.geometry.chunk_bytes;
    const struct record_snapshot *rs = snapshot_record(j->target);
    if (rs->limit_bytes == 0 || rs->limit_bytes >= j->limit_bytes) {
        hand_down_step(j);
        return;
    }
    j->commit = (struct volume_commit){
        .change = hand_down_limit_change, .done = hand_down_limit_raised, .user = j};
    volume_commit_start(j->volume, &j->commit);
}

static void hand_down_invalidated(void *user, int code, const struct err *err)
{
    struct hand_down *j = user;
    if (code < 0) {
        (void)err_copy(&j->err, err);
        snapshot_check_poison(j->target);
        hand_down_wait(j);
        return;
    }
    volume_notice(j->volume, j->target,
                  "invalid: it read through a deleted snapshot that was not sound", NULL);
    hand_down_drop(j);
}

static void hand_down_begin(struct hand_down *j)
{
    struct snapshot *source = j->source, *target = j->target;
    if (source->reopening || source->closing) {
        (void)err_set(&j->err, SNAP_EBUSY, "its COW device is being opened again");
        hand_down_wait(j);
        return;
    }
    bool target_ready = target != NULL && target->store != NULL && !target->closing;
    if (target == NULL || (target_ready && cow_store_state(target->store) == COW_INVALID)) {
        hand_down_drop(j);
        return;
    }
    if (!target_ready || cow_store_state(target->store) != COW_READY) {
        (void)err_set(&j->err, SNAP_EBUSY, "the next older snapshot cannot take exceptions: %s",
                      target->fault_text[0] != '\0' ? target->fault_text : "it is not ready");
        hand_down_wait(j);
        return;
    }
    bool source_open = source->store != NULL && !source->closing;
    enum cow_state state = source_open ? cow_store_state(source->store) : COW_DAMAGED;
    if (state == COW_READY) {
        hand_down_reserve(j);
    } else if (state == COW_INVALID) {
        snapshot_kick(target);
        cow_store_invalidate(target->store, hand_down_invalidated, j);
    } else {
        /* it may be sound again when its disk is back: nothing is given up for it */
        (void)err_set(&j->err, SNAP_EBUSY, "its COW device cannot be read: %s",
                      source->fault_text[0] != '\0' ? source->fault_text : "it is not ready");
        hand_down_wait(j);
    }
}

void hand_down_start(void *user)
{
    struct volume *v = user;
    if (v->job != NULL || v->leaving || v->opening)
        return;
    struct snapshot *s;
    TAILQ_FOREACH (s, &v->chain, link) {
        const struct record_snapshot *rs = snapshot_record(s);
        if (rs != NULL && rs->hidden)
            break;
    }
    if (s == NULL)
        return;
    struct hand_down *j = calloc(1, sizeof *j);
    if (j == NULL) {
        loop_timer_set(&v->job_timer, HAND_DOWN_RETRY_MS);
        return;
    }
    j->volume = v;
    j->source = s;
    j->target = TAILQ_PREV(s, snapshot_list, link);
    j->kick = (struct shard_kick){.fn = hand_down_step, .user = j};
    v->job = j;
    v->job_wait = ERR_INIT;
    volume_ref(v);
    hand_down_begin(j);
}

void hand_down_cancel(struct volume *v)
{
    loop_timer_stop(&v->job_timer);
    if (v->job != NULL)
        v->job->cancelled = true;
}

bool hand_down_status(struct volume *v, struct hand_down_status *ret)
{
    struct snapshot *s;
    TAILQ_FOREACH (s, &v->chain, link) {
        const struct record_snapshot *rs = snapshot_record(s);
        if (rs == NULL || !rs->hidden)
            continue;
        *ret = (struct hand_down_status){.snapshot = s->id};
        (void)snprintf(ret->name, sizeof ret->name, "%s", rs->name);
        if (v->job != NULL) {
            ret->done = v->job->done_chunks;
            ret->total = v->job->total_chunks;
        }
        (void)snprintf(ret->state, sizeof ret->state, "%s%s",
                       v->job != NULL ? "running" : "waiting",
                       v->job != NULL || v->job_wait.code == 0 ? "" : ": ");
        if (v->job == NULL)
            (void)snprintf(ret->state + strlen(ret->state), sizeof ret->state - strlen(ret->state),
                           "%s", v->job_wait.text);
        return true;
    }
    return false;
}
