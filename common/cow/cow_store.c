/* SPDX-License-Identifier: Apache-2.0 */
/* The store's life, and the one place where it moves on.
 *
 * Every completion comes in through io_done() and every owner's burst ends in
 * cow_store_kick(); both end in cow_store_settle(), which submits what gathered,
 * starts a commit and runs the callbacks of what is decided, until nothing is
 * left to do. So no other function of the store ever runs a callback or frees
 * the store, and none has to fear either.
 *
 *   completion ─┐
 *   kick ───────┴─> settle: writes ─> commit ─> puts' done ─> operations' done ─┐
 *                      ▲──────────────── again while something ran ─────────────┘
 *                      then: closing and nothing in flight? free.
 *
 * Operations (merge, invalidate) queue and run one at a time; drains wait
 * beside them. It must not know what a chunk's content or the table looks like.
 * Thread: the engine's.
 */
#include "common/cow/cow_store_priv.h"

#include <stdlib.h>
#include <string.h>

/* -- requests ---------------------------------------------------------------- */

static void io_done(struct blk_req *req, int result)
{
    struct cow_io *io = CONTAINER_OF(req, struct cow_io, req);
    struct cow_store *s = io->s;

    CHECK(s->io_inflight > 0);
    s->io_inflight--;
    io->then(s, io, result);
    cow_store_settle(s);
}

static void io_submit(struct cow_store *s, struct cow_io *io, enum blk_op op, uint64_t offset_bytes,
                      uint64_t len_bytes, cow_io_fn *then)
{
    io->s = s;
    io->then = then;
    io->req.op = op;
    io->req.offset_bytes = offset_bytes;
    io->req.len_bytes = len_bytes;
    io->req.done = io_done;
    s->io_inflight++;
    blk_submit(s->dev, &io->req);
}

void cow_io_read(struct cow_store *s, struct cow_io *io, uint64_t offset_bytes, void *buf,
                 uint64_t len_bytes, cow_io_fn *then)
{
    io->req = (struct blk_req){.data = buf, .flags = BLK_ONCE};
    io_submit(s, io, BLK_READ, offset_bytes, len_bytes, then);
}

void cow_io_write(struct cow_store *s, struct cow_io *io, uint64_t offset_bytes, void *buf,
                  uint64_t len_bytes, cow_io_fn *then)
{
    io->req = (struct blk_req){.data = buf};
    io_submit(s, io, BLK_WRITE, offset_bytes, len_bytes, then);
}

void cow_io_write_data(struct cow_store *s, struct cow_io *io, uint64_t offset_bytes,
                       const struct iovec *iov, unsigned iov_count, const uint64_t *tags,
                       uint64_t len_bytes, cow_io_fn *then)
{
    io->req = (struct blk_req){.iov = iov, .iov_count = iov_count, .tags = tags};
    io_submit(s, io, BLK_WRITE, offset_bytes, len_bytes, then);
}

void cow_io_fill(struct cow_store *s, struct cow_io *io, uint64_t offset_bytes,
                 const struct iovec *iov, unsigned iov_count, uint64_t len_bytes, cow_io_fn *then)
{
    io->req = (struct blk_req){.flags = BLK_FILLER, .iov = iov, .iov_count = iov_count};
    io_submit(s, io, BLK_WRITE, offset_bytes, len_bytes, then);
}

void cow_io_flush(struct cow_store *s, struct cow_io *io, cow_io_fn *then)
{
    io->req = (struct blk_req){0};
    s->count.flushes++;
    io_submit(s, io, BLK_FLUSH, 0, 0, then);
}

void cow_io_grow(struct cow_store *s, struct cow_io *io, uint64_t size_bytes, cow_io_fn *then)
{
    io->req = (struct blk_req){0};
    io_submit(s, io, BLK_GROW, size_bytes, 0, then);
}

int cow_io_err(const struct cow_store *s, const struct cow_io *io, int result, const char *what,
               uint64_t number, struct err *reterr)
{
    const char *name = blk_dev_info(s->dev)->name;

    if (io->req.sys_errno)
        return err_set_errno(reterr, result, io->req.sys_errno, "%s %llu of %s", what,
                             (unsigned long long)number, name);
    return err_set(reterr, result, "%s %llu of %s: %s", what, (unsigned long long)number, name,
                   err_text(result));
}

/* -- new and gone ------------------------------------------------------------ */

void *cow_store_alloc(const struct cow_store *s, size_t len_bytes)
{
    size_t align = s->align_bytes > COW_AREA_BLOCK ? s->align_bytes : COW_AREA_BLOCK;
    void *p;

    if (posix_memalign(&p, align, len_bytes))
        return NULL;
    memset(p, 0, len_bytes);
    return p;
}

struct cow_store *cow_store_new(struct blk_dev *dev)
{
    struct cow_store *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    s->dev = dev;
    s->align_bytes = blk_dev_info(dev)->align_bytes;
    s->state = COW_READY;
    TAILQ_INIT(&s->active);
    TAILQ_INIT(&s->ready);
    TAILQ_INIT(&s->room);
    TAILQ_INIT(&s->fifo);
    TAILQ_INIT(&s->group);
    TAILQ_INIT(&s->acking);
    TAILQ_INIT(&s->free_writes);
    TAILQ_INIT(&s->busy_writes);
    TAILQ_INIT(&s->ops);
    TAILQ_INIT(&s->drains);
    TAILQ_INIT(&s->ops_ready);
    return s;
}

static void ops_free(struct cow_op_list *list)
{
    struct cow_op *op;

    while ((op = TAILQ_FIRST(list))) {
        TAILQ_REMOVE(list, op, link);
        free(op);
    }
}

static void puts_free(struct cow_put_list *list)
{
    struct cow_put *put;

    while ((put = TAILQ_FIRST(list))) {
        TAILQ_REMOVE(list, put, link);
        free(put->store_data[0]);
        put->store_data[0] = NULL;
    }
}

void cow_store_free(struct cow_store *s)
{
    if (!s)
        return;
    cow_scan_free(s->scan);
    cow_opening_free(s->opening);
    cow_creation_free(s->creation);
    ops_free(&s->ops);
    ops_free(&s->drains);
    ops_free(&s->ops_ready);
    free(s->op);
    free(s->op_buf);
    cow_write_free_all(s);
    puts_free(&s->active);
    puts_free(&s->ready);
    free(s->buckets);
    free(s->ahead_io);
    free(s->areas);
    free(s);
}

void cow_store_abandon(struct cow_store *s)
{
    CHECK(!s || !s->settling);
    cow_store_free(s);
}

/* -- state ------------------------------------------------------------------- */

int cow_store_refusal(const struct cow_store *s, struct err *reterr)
{
    const char *name = blk_dev_info(s->dev)->name;

    switch (s->state) {
    case COW_INVALID:
        return err_set(reterr, SNAP_EINVALID, "%s: %s", name, err_text(SNAP_EINVALID));
    case COW_POISONED:
        return err_set(reterr, SNAP_EPOISONED, "%s: %s", err_text(SNAP_EPOISONED),
                       s->state_err.text);
    case COW_MERGING:
        return err_set(reterr, SNAP_EBUSY, "%s is being merged", name);
    case COW_DAMAGED:
    case COW_READY:
    case COW_CLOSING:
        break;
    }
    if (s->closing)
        return err_set(reterr, SNAP_ESHUTDOWN, "%s is being closed", name);
    if (s->read_only)
        return err_set(reterr, SNAP_EPERM, "%s is open read-only", name);
    return 0;
}

void cow_store_fail_all(struct cow_store *s, int code, const struct err *err)
{
    struct cow_slot *slot, *next;

    cow_put_drop_list(s, &s->acking, code, err);
    cow_put_drop_list(s, &s->group, code, err);
    s->group_len = 0;
    for (slot = TAILQ_FIRST(&s->fifo); slot; slot = next) {
        next = TAILQ_NEXT(slot, link);
        if (!slot->written)
            continue;
        TAILQ_REMOVE(&s->fifo, slot, link);
        s->outstanding--;
        cow_slot_fail(s, slot, code, err);
    }
    cow_put_drop_list(s, &s->room, code, err);
}

void cow_store_enter(struct cow_store *s, enum cow_state state)
{
    s->state = state;
    if (s->watch)
        s->watch(s->watch_user);
}

bool cow_store_invalidating(const struct cow_store *s)
{
    return s->invalidating;
}

void cow_store_watch(struct cow_store *s, void (*fn)(void *user), void *user)
{
    s->watch = fn;
    s->watch_user = user;
}

void cow_store_poison(struct cow_store *s, const struct err *err)
{
    struct err told = ERR_INIT;

    if (s->state == COW_INVALID || s->state == COW_POISONED)
        return;
    cow_store_enter(s, COW_POISONED);
    s->state_err = *err;
    err_set(&told, SNAP_EPOISONED, "%s: %s", err_text(SNAP_EPOISONED), err->text);
    cow_store_fail_all(s, SNAP_EPOISONED, &told);
}

void cow_store_flush_failed(struct cow_store *s, const struct err *err)
{
    cow_store_poison(s, err);
}

/* -- operations ----------------------------------------------------------------- */

struct cow_op *cow_op_new(void *user)
{
    struct cow_op *op = calloc(1, sizeof *op);

    if (op)
        op->user = user;
    return op;
}

static void ops_start_next(struct cow_store *s)
{
    while (!s->op && !TAILQ_EMPTY(&s->ops)) {
        s->op = TAILQ_FIRST(&s->ops);
        TAILQ_REMOVE(&s->ops, s->op, link);
        s->op->start(s, s->op);
    }
}

void cow_op_submit(struct cow_store *s, struct cow_op *op)
{
    TAILQ_INSERT_TAIL(&s->ops, op, link);
    ops_start_next(s);
}

void cow_op_finish(struct cow_store *s, int code, const struct err *err)
{
    struct cow_op *op = s->op;

    s->op = NULL;
    op->code = code;
    if (code)
        err_copy(&op->err, err);
    TAILQ_INSERT_TAIL(&s->ops_ready, op, link);
}

static void drains_check(struct cow_store *s)
{
    const struct cow_put *first = TAILQ_FIRST(&s->active);
    uint64_t undecided = UINT64_MAX;
    struct cow_op *op;

    if (first)
        undecided = ((const struct cow_put_state *)first->store_data[0])->serial;
    while ((op = TAILQ_FIRST(&s->drains)) && op->serial < undecided) {
        TAILQ_REMOVE(&s->drains, op, link);
        TAILQ_INSERT_TAIL(&s->ops_ready, op, link);
    }
}

static void ops_run_ready(struct cow_store *s)
{
    struct cow_op *op;

    while ((op = TAILQ_FIRST(&s->ops_ready))) {
        const struct err *err = op->code ? &op->err : NULL;

        TAILQ_REMOVE(&s->ops_ready, op, link);
        if (op->merge_done)
            op->merge_done(op->user, &op->run, op->code, err);
        else
            op->done(op->user, op->code, err);
        free(op);
    }
}

void cow_store_drain(struct cow_store *s, cow_done_fn *done, void *user)
{
    struct cow_op *op = cow_op_new(user);
    struct err err = ERR_INIT;

    if (!op) {
        done(user, err_set(&err, SNAP_ENOMEM, "no memory to wait for puts"), &err);
        return;
    }
    op->done = done;
    op->serial = s->serial;
    TAILQ_INSERT_TAIL(&s->drains, op, link);
}

/* -- settle ---------------------------------------------------------------------- */

static bool store_is_quiet(const struct cow_store *s)
{
    return s->io_inflight == 0 && TAILQ_EMPTY(&s->active) && TAILQ_EMPTY(&s->ready) && !s->op &&
           TAILQ_EMPTY(&s->ops) && TAILQ_EMPTY(&s->drains) && TAILQ_EMPTY(&s->ops_ready);
}

void cow_store_settle(struct cow_store *s)
{
    if (s->settling)
        return;
    if (s->phase == COW_PHASE_CREATING) {
        cow_create_settle(s);
        return;
    }
    if (s->phase == COW_PHASE_OPENING && !cow_open_settle(s))
        return;
    s->settling = true;
    do {
        cow_write_submit(s);
        cow_commit_advance(s);
        cow_put_run_ready(s);
        ops_start_next(s);
        drains_check(s);
        ops_run_ready(s);
    } while ((!TAILQ_EMPTY(&s->ready) && !s->invalidating) || !TAILQ_EMPTY(&s->ops_ready) ||
             s->gather);
    s->settling = false;
    if (s->closing && store_is_quiet(s)) {
        cow_done_fn *done = s->close_done;
        void *user = s->close_user;

        cow_store_free(s);
        done(user, 0, NULL);
    }
}

void cow_store_kick(struct cow_store *s)
{
    cow_store_settle(s);
}

void cow_store_close(struct cow_store *s, cow_done_fn *done, void *user)
{
    struct err err = ERR_INIT;

    CHECK(!s->closing);
    s->closing = true;
    s->close_done = done;
    s->close_user = user;
    cow_store_refusal(s, &err);
    cow_put_drop_list(s, &s->room, SNAP_ESHUTDOWN, &err);
}
