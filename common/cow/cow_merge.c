/* SPDX-License-Identifier: Apache-2.0 */
/* Merge: the table from its end backwards.
 *
 *   area k:  … (7→40) (3→41) (4→42) (5→43) | end        run: old 3, new 41, count 3
 *                     └──── cleared ────┘
 *
 * prepare looks, and reads the area before when the current one is empty; commit
 * clears entries on disk, flushes, and only then takes them out of the map. It takes a run,
 * or a part of its end, or further entries of the area before it: who has the content of all
 * of them on the origin empties a table an area at a time, in whatever order it is. end
 * reads the table anew, since chunks above the figure that the kernel shows as
 * next_free while merging may still be live.
 *
 * A clearing that is torn by power loss leaves entries of the run behind, whose
 * content is on the origin already, or leftovers past an end entry, which open
 * zeroes: both are sound.
 *
 * Thread: the engine's.
 */
#include "common/cow/cow_store_priv.h"

#include <stdlib.h>
#include <string.h>

/* Why a merge cannot go on now: 0 or SNAP_E…. */
static int merge_refusal(const struct cow_store *s, struct err *reterr)
{
    const char *name = blk_dev_info(s->dev)->name;

    if (s->closing)
        return err_set(reterr, SNAP_ESHUTDOWN, "%s is being closed", name);
    if (s->state != COW_MERGING) {
        int code = cow_store_refusal(s, reterr);

        if (code)
            return code;
    }
    if (!TAILQ_EMPTY(&s->active) || s->step != COW_STEP_IDLE)
        return err_set(reterr, SNAP_EBUSY, "%s: puts are in flight", name);
    return 0;
}

static void merge_io_failed(struct cow_store *s, const struct err *err)
{
    s->merge_failed = true;
    cow_store_poison(s, err);
}

/* -- prepare ---------------------------------------------------------------------- */

/* The run that ends in the table's last entry, which stands in the image. */
static void merge_find_run(struct cow_store *s, struct cow_merge_run *run)
{
    uint32_t index = (uint32_t)(s->table_len - s->image_area * s->g.area_exceptions) - 1;
    struct cow_exception x, before;

    cow_exception_decode(&x, s->areas, index);
    run->count = 1;
    run->commit_max = index + 1;
    while (index > 0) {
        cow_exception_decode(&before, s->areas, --index);
        if (before.old_chunk + 1 != x.old_chunk || before.new_chunk + 1 != x.new_chunk)
            break;
        x = before;
        run->count++;
    }
    run->old_chunk = x.old_chunk;
    run->new_chunk = x.new_chunk;
    run->table_len = s->table_len;
    s->prepared_len = s->table_len;
    s->prepared_count = run->commit_max;
}

static void merge_area_read(struct cow_store *s, struct cow_io *io, int result)
{
    uint64_t area_no = (s->table_len - 1) / s->g.area_exceptions;
    struct err err = ERR_INIT;
    int code = merge_refusal(s, &err);

    if (!code && result < 0)
        code = cow_io_err(s, io, result, "merge: read area", area_no, &err);
    if (!code && s->table_len != s->op->table_len) /* puts came and went meanwhile */
        code = err_set(&err, SNAP_EBUSY, "the table has changed");
    if (!code) {
        memcpy(s->areas, s->op_buf, s->g.chunk_bytes);
        s->image_area = area_no;
        merge_find_run(s, &s->op->run);
    }
    free(s->op_buf);
    s->op_buf = NULL;
    cow_op_finish(s, code, &err);
}

static void merge_prepare_start(struct cow_store *s, struct cow_op *op)
{
    uint64_t area_no;
    struct err err = ERR_INIT;
    int code = merge_refusal(s, &err);

    if (code || s->table_len == 0) {
        cow_op_finish(s, code, &err);
        return;
    }
    area_no = (s->table_len - 1) / s->g.area_exceptions;
    if (s->image_area == area_no) {
        merge_find_run(s, &op->run);
        cow_op_finish(s, 0, NULL);
        return;
    }
    s->op_buf = cow_store_alloc(s, s->g.chunk_bytes);
    if (!s->op_buf) {
        cow_op_finish(s, err_set(&err, SNAP_ENOMEM, "no memory for an area"), &err);
        return;
    }
    op->table_len = s->table_len;
    cow_io_read(s, &s->op_io, cow_area_chunk(&s->g, area_no) * s->g.chunk_bytes, s->op_buf,
                s->g.chunk_bytes, merge_area_read);
}

void cow_store_merge_prepare(struct cow_store *s, cow_merge_fn *done, void *user)
{
    struct cow_op *op = cow_op_new(user);
    const struct cow_merge_run none = {0};
    struct err err = ERR_INIT;

    if (!op) {
        done(user, &none, err_set(&err, SNAP_ENOMEM, "no memory to merge"), &err);
        return;
    }
    op->merge_done = done;
    op->start = merge_prepare_start;
    cow_op_submit(s, op);
}

/* -- commit ------------------------------------------------------------------------ */

static void merge_commit_end(struct cow_store *s, int code, const struct err *err)
{
    free(s->op_buf);
    s->op_buf = NULL;
    if (code)
        merge_io_failed(s, err);
    cow_op_finish(s, code, err);
}

static void merge_cleared(struct cow_store *s, struct cow_io *io, int result)
{
    uint32_t first = (uint32_t)(s->table_len - s->image_area * s->g.area_exceptions);
    struct err err = ERR_INIT;
    int code = result;

    if (result < 0)
        cow_io_err(s, io, result, "merge: flush area", s->image_area, &err);
    for (uint32_t i = 0; !code && i < s->op->count; i++) {
        struct cow_exception x;

        cow_exception_decode(&x, s->op_buf, first + i);
        code = cow_map_remove(s->map, x.old_chunk, s->seq, &err);
    }
    merge_commit_end(s, code, &err);
}

static void merge_area_written(struct cow_store *s, struct cow_io *io, int result)
{
    struct err err = ERR_INIT;

    if (result < 0) {
        cow_io_err(s, io, result, "merge: write area", s->image_area, &err);
        merge_commit_end(s, result, &err);
        return;
    }
    cow_io_flush(s, io, merge_cleared);
}

static void merge_commit_start(struct cow_store *s, struct cow_op *op)
{
    struct err err = ERR_INIT;
    uint32_t first, last;
    int code = merge_refusal(s, &err);

    if (!code && (op->table_len != s->table_len || s->prepared_len != s->table_len ||
                  op->count == 0 || op->count > s->prepared_count))
        code = err_set(&err, SNAP_EMISMATCH,
                       "merge commit of %u of %llu exceptions; %u of %llu are prepared", op->count,
                       (unsigned long long)op->table_len,
                       s->prepared_len == s->table_len ? s->prepared_count : 0,
                       (unsigned long long)s->table_len);
    if (!code && !(s->op_buf = cow_store_alloc(s, s->g.chunk_bytes)))
        code = err_set(&err, SNAP_ENOMEM, "no memory for an area");
    if (code) {
        cow_op_finish(s, code, &err);
        return;
    }
    memcpy(s->op_buf, s->areas, s->g.chunk_bytes); /* which they were */
    s->state = COW_MERGING;
    last = (uint32_t)(s->table_len - s->image_area * s->g.area_exceptions) - 1;
    first = last + 1 - op->count;
    memset(s->areas + first * COW_EXCEPTION_BYTES, 0, op->count * COW_EXCEPTION_BYTES);
    s->table_len -= op->count;
    s->staged_len = s->table_len;
    s->prepared_len = 0;
    s->next_free = cow_area_chunk(&s->g, s->image_area) + first + 1;
    cow_area_write_range(s, first, last, &s->op_io, merge_area_written);
}

void cow_store_merge_commit(struct cow_store *s, uint64_t table_len, uint32_t count,
                            cow_done_fn *done, void *user)
{
    struct cow_op *op = cow_op_new(user);
    struct err err = ERR_INIT;

    if (!op) {
        done(user, err_set(&err, SNAP_ENOMEM, "no memory to merge"), &err);
        return;
    }
    op->done = done;
    op->start = merge_commit_start;
    op->table_len = table_len;
    op->count = count;
    cow_op_submit(s, op);
}

/* -- end ----------------------------------------------------------------------------- */

/* Find the largest new_chunk; the area with the end entry becomes the image. */
static enum cow_scan_next merge_end_area(struct cow_store *s, void *user, uint64_t area_no,
                                         const uint8_t *area, int *code, struct err *reterr)
{
    uint64_t *new_max = user;

    for (uint32_t i = 0; i < s->g.area_exceptions; i++) {
        struct cow_exception x;

        cow_exception_decode(&x, area, i);
        if (x.new_chunk == 0) {
            if (area_no * s->g.area_exceptions + i != s->table_len)
                *code = err_set(reterr, SNAP_ECORRUPT,
                                "the table ends at area %llu entry %u instead of after %llu",
                                (unsigned long long)area_no, i, (unsigned long long)s->table_len);
            memcpy(s->areas, area, s->g.chunk_bytes);
            s->image_area = area_no;
            return COW_SCAN_STOP;
        }
        *new_max = u64_max(*new_max, x.new_chunk);
    }
    return COW_SCAN_MORE;
}

static void merge_end_read(struct cow_store *s, void *user, int code, const struct err *err)
{
    const uint64_t *new_max = user;
    struct err told = ERR_INIT;

    if (code == COW_SCAN_OFF_END)
        code = err_set(&told, SNAP_ECORRUPT, "the table goes on past the device's end");
    else if (code)
        err_copy(&told, err);
    if (code) {
        merge_io_failed(s, &told);
    } else {
        s->next_free = cow_skip_metadata(&s->g, u64_max(*new_max + 1, 2));
        s->state = COW_READY;
    }
    cow_op_finish(s, code, &told);
}

static void merge_end_start(struct cow_store *s, struct cow_op *op)
{
    struct err err = ERR_INIT;

    if (s->state != COW_MERGING) {
        cow_op_finish(s, cow_store_refusal(s, &err), &err);
        return;
    }
    cow_scan_start(s, merge_end_area, merge_end_read, &op->new_max);
}

void cow_store_merge_end(struct cow_store *s, cow_done_fn *done, void *user)
{
    struct cow_op *op = cow_op_new(user);
    struct err err = ERR_INIT;

    if (!op) {
        done(user, err_set(&err, SNAP_ENOMEM, "no memory to merge"), &err);
        return;
    }
    op->done = done;
    op->start = merge_end_start;
    cow_op_submit(s, op);
}
