/* SPDX-License-Identifier: Apache-2.0 */
/* The copying of a hand-down: batch by batch what the target lacks, in the order of the map.
 *
 *   gather ──> read ──> put, durable ──> next
 *     ^  └─ looks at a bounded number   │
 *     │     of runs and chunks a turn   │
 *     └─────────────────────────────────┘
 *
 * Why it may go on beside writes: see hand_down.c. Thread: the shard's.
 */
#include "daemon/volume/hand_down_priv.h"

static void hand_down_step(void *user);

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
    if (j->err.code < 0 || hand_down_check(j) < 0) {
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
                                      .flags = BLK_ONCE,
                                      .offset_bytes = j->new_chunks[i] * chunk_bytes,
                                      .len_bytes = chunk_bytes,
                                      .data = j->buf->data + (size_t)i * chunk_bytes,
                                      .done = hand_down_read_done,
                                      .user = j};
        snapshot_reader_begin(j->source);
        blk_submit(j->source->dev, &j->reqs[i]);
    }
}

static bool hand_down_has(const struct hand_down *j, uint64_t old_chunk)
{
    uint64_t there;
    return cow_map_get(j->target->map, old_chunk, j->target->seq, &there);
}

/* What of a run the target lacks; at most *budget chunks of it are looked at. False: the batch or
 * the budget is spent, go on where the cursor stands. */
static bool hand_down_gather_run(struct hand_down *j, const struct cow_run *run, uint32_t max,
                                 uint32_t *budget)
{
    for (uint64_t i = 0; i < run->count; i++) {
        if (*budget == 0 || j->count == max) {
            j->cursor_old = run->old_chunk + i;
            j->cursor_seq = run->seq;
            return false;
        }
        (*budget)--;
        if (hand_down_has(j, run->old_chunk + i)) {
            j->done_chunks++;
            continue;
        }
        j->old_chunks[j->count] = run->old_chunk + i;
        j->new_chunks[j->count++] = run->new_chunk + i;
    }
    return true;
}

bool hand_down_gather(struct hand_down *j, uint32_t max)
{
    uint32_t budget = HAND_DOWN_SCAN_CHUNKS;
    struct cow_run run;
    for (unsigned n = 0; n < HAND_DOWN_SCAN_RUNS; n++) {
        if (!cow_map_next(j->source->map, j->cursor_old, j->cursor_seq, &run))
            return true;
        if (run.seq == j->source->seq && !hand_down_gather_run(j, &run, max, &budget))
            return false;
        cow_map_after(&run, &j->cursor_old, &j->cursor_seq);
    }
    return false;
}

int hand_down_check(struct hand_down *j)
{
    if (j->cancelled || j->volume->leaving)
        (void)err_set(&j->err, SNAP_ECANCELED, "stopped");
    else if (!snapshot_is_open(j->source) || !snapshot_is_open(j->target))
        (void)err_set(&j->err, SNAP_EPOISONED, "a store is being opened again");
    else if (j->target->busy) /* its table stands still meanwhile; the end of that goes on here */
        (void)err_set(&j->err, SNAP_EBUSY, "a COW device is being checked");
    return j->err.code;
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
    if (j->buf == NULL)
        (void)err_set(&j->err, SNAP_ENOMEM, "no buffer");
    if (j->err.code < 0 || hand_down_check(j) < 0) {
        hand_down_wait(j);
        return;
    }
    j->count = 0;
    j->end = hand_down_gather(j, max);
    if (j->count > 0)
        hand_down_read(j);
    else if (j->end)
        hand_down_drop(j);
    else
        shard_kick_later(v->set->shard, &j->kick);
}

void hand_down_copy(struct hand_down *j)
{
    j->cursor_old = j->done_chunks = 0;
    j->cursor_seq = 0;
    j->kick.fn = hand_down_step;
    hand_down_step(j);
}
