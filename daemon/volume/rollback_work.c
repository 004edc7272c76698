/* SPDX-License-Identifier: Apache-2.0 */
/* The work of a rollback: every chunk in which a view and the origin may differ is written.
 *
 *   there: chunks that to_seq or a newer one has ──┐     parts, some at once:
 *   back:  chunks that undo_seq has ───────────────┴──>  read ──> write ──> next
 *                                                          end: flush
 *
 * The view is asked of the map, a window at a time. What it says stays true however long a part
 * takes: no other writes the origin, and nodes that are folded hand down what they have before
 * they go. Writing a chunk twice harms nothing, so a part that failed, and all of it after a
 * restart, is simply done again: an exception of the undo snapshot does not tell whether the
 * origin was written after it.
 *
 * It must not know of records. Thread: the shard's.
 */
#include "daemon/volume/rollback_priv.h"

#include "common/base/bytes.h"
#include "daemon/volume/origin.h"

enum rollback_found { FOUND_RUN, FOUND_NOTHING, FOUND_END };

static uint64_t rollback_chunks(const struct volume *v)
{
    return u64_div_round_up(v->record.size_bytes, (uint64_t)v->chunk_sectors * SECTOR_BYTES);
}

/* The next stretch from the cursor on that the view has; the cursor goes behind it. */
static enum rollback_found rollback_next(struct rollback *r, struct cow_run *run)
{
    const struct volume *v = r->volume;
    uint64_t end = rollback_chunks(v);
    struct cow_run any;
    if (r->cursor >= end || !cow_map_next(v->map, r->cursor, 0, &any) || any.old_chunk >= end)
        return FOUND_END;
    uint64_t last = u64_min(any.old_chunk + ROLLBACK_WINDOW_CHUNKS, end) - 1;
    if (!cow_map_next_visible(v->map, any.old_chunk, r->back ? r->undo_seq : r->to_seq, last,
                              run)) {
        r->cursor = last + 1;
        return FOUND_NOTHING;
    }
    r->cursor = run->old_chunk + run->count;
    return FOUND_RUN;
}

/* -- counting ----------------------------------------------------------------------------- */

static void rollback_count_step(void *user)
{
    struct rollback *r = user;
    struct cow_run run;
    for (unsigned n = 0; n < ROLLBACK_STEP_RUNS; n++) {
        enum rollback_found found = rollback_next(r, &run);
        if (found == FOUND_RUN)
            r->total += run.count;
        if (found == FOUND_END || r->volume->leaving) {
            r->cursor = 0;
            rollback_counted(r);
            return;
        }
    }
    shard_kick_later(r->volume->set->shard, &r->kick);
}

void rollback_count(struct rollback *r)
{
    r->total = r->done = r->cursor = 0;
    r->kick = (struct shard_kick){.fn = rollback_count_step, .user = r};
    shard_kick_later(r->volume->set->shard, &r->kick);
}

/* -- parts ---------------------------------------------------------------------------------- */

static void rollback_pump(void *user);

static void rollback_part_end(struct rollback_part *p, int code, const struct err *err)
{
    struct rollback *r = p->r;
    buf_give(p->buf);
    p->buf = NULL;
    r->parts_busy--;
    if (code < 0) {
        r->redo_from = u64_min(r->redo_from, p->old_chunk);
        if (r->err.code == 0)
            (void)err_copy(&r->err, err);
    } else {
        r->done += p->count;
    }
    shard_kick_later(r->volume->set->shard, &r->kick);
}

static void rollback_written(struct volume_write *w, int code, const struct err *err)
{
    rollback_part_end(w->user, code, err);
}

static void rollback_read(struct blk_req *req, int result)
{
    struct rollback_part *p = req->user;
    struct volume *v = p->r->volume;
    uint64_t chunk_bytes = (uint64_t)v->chunk_sectors * SECTOR_BYTES;
    uint64_t offset = p->old_chunk * chunk_bytes;
    snapshot_reader_end(p->node);
    p->node = NULL;
    if (result < 0) {
        struct err err = ERR_INIT;
        (void)err_set_errno(&err, result, req->sys_errno, "read chunk %llu of a snapshot",
                            (unsigned long long)p->old_chunk);
        rollback_part_end(p, result, &err);
        return;
    }
    p->write = (struct volume_write){
        .op = VOLUME_WRITE,
        .rollback = true,
        .offset_bytes = offset,
        .len_bytes = u64_min(p->count * chunk_bytes, v->record.size_bytes - offset),
        .data = p->buf->data,
        .done = rollback_written,
        .user = p};
    volume_write_start(v, &p->write);
}

static struct rollback_part *rollback_free_part(struct rollback *r)
{
    for (unsigned i = 0; i < ROLLBACK_PARTS; i++)
        if (r->parts[i].buf == NULL)
            return &r->parts[i];
    return NULL;
}

/* Begin one part of the run, as long as it may be; the cursor goes behind it. False: it cannot be
 * now. */
static bool rollback_begin_part(struct rollback *r, const struct cow_run *run)
{
    struct volume *v = r->volume;
    uint64_t chunk_bytes = (uint64_t)v->chunk_sectors * SECTOR_BYTES;
    struct rollback_part *p = rollback_free_part(r);
    struct snapshot *node = volume_snapshot_by_seq(v, run->seq);
    uint64_t count = u64_min(run->count, u64_max(ROLLBACK_PART_BYTES / chunk_bytes, 1));
    count = u64_min(count, rollback_chunks(v) - run->old_chunk);
    r->cursor = run->old_chunk;
    if (node == NULL || !snapshot_is_open(node)) {
        (void)err_set(&r->err, SNAP_EPOISONED, "a COW device it needs is not open");
        return false;
    }
    p->buf = buf_take(v->set->shard->answer_pool, (size_t)(count * chunk_bytes));
    if (p->buf == NULL) {
        if (r->parts_busy == 0)
            (void)err_set(&r->err, SNAP_ENOMEM, "no buffer");
        return false;
    }
    r->cursor += count;
    r->parts_busy++;
    p->r = r;
    p->node = node;
    p->old_chunk = run->old_chunk;
    p->count = (uint32_t)count;
    p->req = (struct blk_req){.op = BLK_READ,
                              .flags = BLK_ONCE,
                              .offset_bytes = run->new_chunk * chunk_bytes,
                              .len_bytes = count * chunk_bytes,
                              .data = p->buf->data,
                              .done = rollback_read,
                              .user = p};
    snapshot_reader_begin(node);
    blk_submit(node->dev, &p->req);
    return true;
}

/* -- the walk ------------------------------------------------------------------------------- */

/* A flush that fails may take back what was written before it, and the next one that ends well
 * does not bring that back: so all of it is written again, whoever asked for the one that failed.
 */
static void rollback_flushed(struct volume_write *w, int code, const struct err *err)
{
    struct rollback *r = w->user;
    unsigned failed = r->volume->origin->loss.failed;
    if (code < 0)
        (void)err_copy(&r->err, err);
    else if (failed != r->flushes_failed)
        (void)err_set(&r->err, SNAP_EIO, "a flush of volume %s has failed meanwhile",
                      r->volume->record.name);
    if (r->err.code < 0)
        r->redo_from = 0;
    r->flushes_failed = failed;
    rollback_worked(r);
}

static void rollback_flush(struct rollback *r)
{
    r->phase = ROLLBACK_FLUSH;
    r->flush = (struct volume_write){
        .op = VOLUME_FLUSH, .fua = true, .rollback = true, .done = rollback_flushed, .user = r};
    volume_write_start(r->volume, &r->flush);
}

static bool rollback_stops(const struct rollback *r)
{
    return r->volume->leaving || r->cancelling || r->err.code < 0;
}

/* Of one that is being opened again the map has nothing: what it has would be passed over. */
static void rollback_check_view(struct rollback *r)
{
    const struct snapshot *from =
        volume_snapshot_by_seq(r->volume, r->back ? r->undo_seq : r->to_seq);
    if (from == NULL)
        (void)err_set(&r->err, SNAP_ECORRUPT, "the snapshot it returns to is gone");
    else
        (void)!snapshot_check_readable(from, &r->err);
}

static void rollback_pump(void *user)
{
    struct rollback *r = user;
    struct cow_run run;
    unsigned n = 0;
    if (r->err.code == 0 && !r->scanned)
        rollback_check_view(r);
    while (!rollback_stops(r) && !r->scanned && r->parts_busy < ROLLBACK_PARTS) {
        if (n++ == ROLLBACK_STEP_RUNS) {
            shard_kick_later(r->volume->set->shard, &r->kick);
            return;
        }
        enum rollback_found found = rollback_next(r, &run);
        if (found == FOUND_END)
            r->scanned = true;
        else if (found == FOUND_RUN && !rollback_begin_part(r, &run))
            break;
    }
    if (r->parts_busy > 0)
        return;
    if (rollback_stops(r))
        rollback_paused(r);
    else if (r->scanned)
        rollback_flush(r);
}

void rollback_work(struct rollback *r)
{
    r->phase = ROLLBACK_WORK;
    r->err = ERR_INIT;
    r->scanned = false;
    r->cursor = u64_min(r->cursor, r->redo_from);
    r->redo_from = UINT64_MAX;
    r->kick = (struct shard_kick){.fn = rollback_pump, .user = r};
    shard_kick_later(r->volume->set->shard, &r->kick);
}
