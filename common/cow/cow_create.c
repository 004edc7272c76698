/* SPDX-License-Identifier: Apache-2.0 */
/* The two writers of chunk 0: create a store, invalidate one.
 *
 *   create:      read ─> grow? ─> zero area 0 ─> flush ─> header, valid = 1 ─> flush
 *   invalidate:                                          header, valid = 0 ─> flush
 *
 * The read of the first block tells whether the device answers at all, and lets
 * even a refusal be told from a completion. The header's chunk is written whole,
 * from a buffer of its own. Area 0 is overwritten with real zeros: a punched hole
 * would give back space that an area write counts on.
 *
 * Thread: the engine's.
 */
#include "common/cow/cow_store_priv.h"

#include <stdlib.h>
#include <string.h>

struct cow_creation {
    cow_done_fn *done;
    void *user;
    uint32_t chunk_size_sectors;
    bool over;
    int code;
    struct err err;
};

static void header_fill(const struct cow_store *s, uint8_t *chunk, uint32_t valid)
{
    const struct cow_header h = {.magic = COW_MAGIC,
                                 .valid = valid,
                                 .version = COW_VERSION,
                                 .chunk_size_sectors = s->g.chunk_sectors};

    cow_header_encode(&h, chunk, s->g.chunk_bytes);
}

/* -- create -------------------------------------------------------------------- */

void cow_creation_free(struct cow_creation *c)
{
    free(c);
}

static void create_over(struct cow_store *s)
{
    s->creation->over = true;
}

static bool create_failed(struct cow_store *s, struct cow_io *io, int result, const char *what,
                          uint64_t number)
{
    struct cow_creation *c = s->creation;

    if (result >= 0)
        return false;
    c->code = cow_io_err(s, io, result, what, number, &c->err);
    create_over(s);
    return true;
}

static void create_header_flushed(struct cow_store *s, struct cow_io *io, int result)
{
    if (!create_failed(s, io, result, "flush after chunk", 0))
        create_over(s);
}

static void create_header_written(struct cow_store *s, struct cow_io *io, int result)
{
    if (!create_failed(s, io, result, "write chunk", 0))
        cow_io_flush(s, io, create_header_flushed);
}

static void create_area_flushed(struct cow_store *s, struct cow_io *io, int result)
{
    if (create_failed(s, io, result, "flush after chunk", 1))
        return;
    header_fill(s, s->op_buf, 1);
    cow_io_write(s, io, 0, s->op_buf, s->g.chunk_bytes, create_header_written);
}

static void create_area_zeroed(struct cow_store *s, struct cow_io *io, int result)
{
    if (!create_failed(s, io, result, "zero chunk", 1))
        cow_io_flush(s, io, create_area_flushed);
}

static void create_zero_area(struct cow_store *s)
{
    struct cow_creation *c = s->creation;

    s->op_buf = cow_store_alloc(s, s->g.chunk_bytes);
    if (!s->op_buf) {
        c->code = err_set(&c->err, SNAP_ENOMEM, "no memory for a chunk");
        create_over(s);
        return;
    }
    cow_io_write(s, &s->op_io, s->g.chunk_bytes, s->op_buf, s->g.chunk_bytes, create_area_zeroed);
}

static void create_grown(struct cow_store *s, struct cow_io *io, int result)
{
    if (!create_failed(s, io, result, "make room for chunk", 2))
        create_zero_area(s);
}

static void create_check(struct cow_store *s)
{
    struct cow_creation *c = s->creation;
    const struct blk_info *info = blk_dev_info(s->dev);

    c->code = cow_geometry_init(&s->g, c->chunk_size_sectors, info->align_bytes, &c->err);
    if (!c->code && info->read_only)
        c->code = err_set(&c->err, SNAP_EPERM, "%s is read-only", info->name);
    if (c->code) {
        create_over(s);
        return;
    }
    if (info->can_grow && info->size_bytes / s->g.chunk_bytes < 3) {
        cow_io_grow(s, &s->op_io, 3 * (uint64_t)s->g.chunk_bytes, create_grown);
        return;
    }
    if (info->size_bytes / s->g.chunk_bytes < 2) {
        c->code = err_set(&c->err, SNAP_ENOSPC,
                          "%s has %llu bytes: too small for a header and an area of %u bytes each",
                          info->name, (unsigned long long)info->size_bytes, s->g.chunk_bytes);
        create_over(s);
        return;
    }
    create_zero_area(s);
}

static void create_begun(struct cow_store *s, struct cow_io *io, int result)
{
    /* an empty file or device has no block to read */
    if (blk_dev_info(s->dev)->size_bytes >= s->align_bytes &&
        create_failed(s, io, result, "read chunk", 0))
        return;
    free(s->op_buf);
    s->op_buf = NULL;
    create_check(s);
}

bool cow_create_settle(struct cow_store *s)
{
    struct cow_creation c = *s->creation;

    if (!c.over)
        return false;
    cow_store_free(s);
    c.done(c.user, c.code, c.code ? &c.err : NULL);
    return true;
}

struct cow_store *cow_store_create(struct blk_dev *dev, uint32_t chunk_size_sectors,
                                   cow_done_fn *done, void *user)
{
    struct cow_store *s = cow_store_new(dev);
    struct err err = ERR_INIT;

    if (s) {
        s->creation = calloc(1, sizeof *s->creation);
        s->op_buf = cow_store_alloc(s, s->align_bytes);
    }
    if (!s || !s->creation || !s->op_buf) {
        cow_store_free(s);
        done(user, err_set(&err, SNAP_ENOMEM, "no memory to create a store"), &err);
        return NULL;
    }
    s->phase = COW_PHASE_CREATING;
    s->creation->done = done;
    s->creation->user = user;
    s->creation->chunk_size_sectors = chunk_size_sectors;
    cow_io_read(s, &s->op_io, 0, s->op_buf, s->align_bytes, create_begun);
    return s;
}

/* -- invalidate ------------------------------------------------------------------ */

static void invalidate_over(struct cow_store *s, int code, const struct err *err)
{
    free(s->op_buf);
    s->op_buf = NULL;
    s->invalidating = false;
    if (code) {
        cow_store_enter(s, COW_POISONED);
        s->state_err = *err;
    }
    cow_op_finish(s, code, err);
}

static void invalidate_flushed(struct cow_store *s, struct cow_io *io, int result)
{
    struct err err = ERR_INIT;

    if (result < 0)
        cow_io_err(s, io, result, "invalidate: flush after chunk", 0, &err);
    invalidate_over(s, result, &err);
}

static void invalidate_written(struct cow_store *s, struct cow_io *io, int result)
{
    struct err err = ERR_INIT;

    if (result < 0)
        invalidate_over(s, cow_io_err(s, io, result, "invalidate: write chunk", 0, &err), &err);
    else
        cow_io_flush(s, io, invalidate_flushed);
}

static void invalidate_start(struct cow_store *s, struct cow_op *op)
{
    struct err err = ERR_INIT;

    (void)op;
    if (s->state == COW_INVALID) {
        cow_op_finish(s, 0, NULL);
        return;
    }
    if (s->read_only) {
        cow_op_finish(s, cow_store_refusal(s, &err), &err);
        return;
    }
    s->op_buf = cow_store_alloc(s, s->g.chunk_bytes);
    if (!s->op_buf) {
        cow_op_finish(s, err_set(&err, SNAP_ENOMEM, "no memory for a header"), &err);
        return;
    }
    s->invalidating = true;
    cow_store_enter(s, COW_INVALID);
    err_set(&err, SNAP_EINVALID, "%s has been invalidated", blk_dev_info(s->dev)->name);
    cow_store_fail_all(s, SNAP_EINVALID, &err);
    header_fill(s, s->op_buf, 0);
    cow_io_write(s, &s->op_io, 0, s->op_buf, s->g.chunk_bytes, invalidate_written);
}

void cow_store_invalidate(struct cow_store *s, cow_done_fn *done, void *user)
{
    struct cow_op *op = cow_op_new(user);
    struct err err = ERR_INIT;

    if (!op) {
        done(user, err_set(&err, SNAP_ENOMEM, "no memory to invalidate"), &err);
        return;
    }
    op->done = done;
    op->start = invalidate_start;
    cow_op_submit(s, op);
}
