/* SPDX-License-Identifier: Apache-2.0 */
/* Old content from the origin, by io_uring: a write that reads for itself sleeps twice, once for
 * the disk and once for the daemon, and tells the disk with a system call of its own. Here the link
 * does it for all that have come since it last looked.
 *
 *   begin ──> waiting ──(an entry is free)──> in the kernel ──> read, or with its errno
 *                                                 └─ less than whole, or any error: once more, now
 *
 * Any error is looked at by an ordinary read: the kernel cancels what it has no worker for, and a
 * file may be shorter than it was. That is rare, so the link stands still for it.
 *
 * It must not know of daemons. Thread: the link's, but guard_read_now(). Completions are made by
 * that thread when it asks for them, so nothing interrupts it.
 */
#include "client/nbdkit/guard_read.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH = 128 };

struct guard_reader {
    struct io_uring ring;
    const struct origin *origin;
    struct guard_copies waiting;
    unsigned in_kernel;
};

/* -- one copy ------------------------------------------------------------------------------- */

static uint64_t copy_offset(const struct guard_copy *c)
{
    return c->first * c->chunk_bytes;
}

/* The last chunk of an origin may be shorter. */
static uint64_t copy_len(const struct origin *o, const struct guard_copy *c)
{
    return u64_min(c->count * c->chunk_bytes, o->size_bytes - copy_offset(c));
}

/* It is read: the rest of its last chunk is zeros. */
static void copy_finish(const struct origin *o, struct guard_copy *c)
{
    const uint64_t len = copy_len(o, c);
    memset(c->data + len, 0, c->count * c->chunk_bytes - len);
    for (uint32_t i = 0; i < c->count; i++)
        c->zeros[i] = bytes_are_zero(c->data + i * c->chunk_bytes, c->chunk_bytes);
}

int guard_read_now(const struct origin *o, struct guard_copy *c)
{
    struct err err = ERR_INIT;
    if (origin_read_once(o, copy_offset(c), c->data, copy_len(o, c), &err) < 0)
        return err.sys_errno != 0 ? err.sys_errno : EIO;
    copy_finish(o, c);
    return 0;
}

/* -- many ------------------------------------------------------------------------------------- */

struct guard_reader *guard_reader_new(const struct origin *origin)
{
    struct io_uring_params params = {.flags =
                                         IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    struct guard_reader *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    if (io_uring_queue_init_params(DEPTH, &r->ring, &params) < 0) {
        free(r);
        return NULL;
    }
    r->origin = origin;
    TAILQ_INIT(&r->waiting);
    return r;
}

void guard_reader_free(struct guard_reader *r)
{
    if (!r)
        return;
    CHECK(!guard_reader_is_busy(r));
    io_uring_queue_exit(&r->ring);
    free(r);
}

bool guard_reader_is_busy(const struct guard_reader *r)
{
    return r && (r->in_kernel > 0 || !TAILQ_EMPTY(&r->waiting));
}

static void reader_fill(struct guard_reader *r)
{
    struct guard_copy *c;
    while (r->in_kernel < DEPTH && (c = TAILQ_FIRST(&r->waiting))) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
        if (!sqe) /* the kernel has not taken the last ones */
            return;
        TAILQ_REMOVE(&r->waiting, c, link);
        io_uring_prep_read(sqe, r->origin->fd, c->data, (unsigned)copy_len(r->origin, c),
                           copy_offset(c));
        sqe->rw_flags = r->origin->once_flags;
        io_uring_sqe_set_data(sqe, c);
        r->in_kernel++;
    }
}

static void reader_collect(struct guard_reader *r, struct guard_copies *ret)
{
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;
    io_uring_for_each_cqe(&r->ring, head, cqe)
    {
        struct guard_copy *c = io_uring_cqe_get_data(cqe);
        n++;
        if (cqe->res >= 0 && (uint64_t)cqe->res == copy_len(r->origin, c))
            copy_finish(r->origin, c);
        else
            c->read_errno = guard_read_now(r->origin, c);
        TAILQ_INSERT_TAIL(ret, c, link);
    }
    io_uring_cq_advance(&r->ring, n);
    r->in_kernel -= n;
}

void guard_reader_turn(struct guard_reader *r, struct guard_copies *begin, unsigned wait_us,
                       struct guard_copies *ret)
{
    struct __kernel_timespec t = {.tv_nsec = wait_us * 1000L};
    struct io_uring_cqe *cqe;
    TAILQ_CONCAT(&r->waiting, begin, link);
    reader_fill(r);
    if (r->in_kernel == 0)
        return;
    /* what the kernel does not take now, it is offered again by the next turn */
    if (wait_us > 0)
        (void)io_uring_submit_and_wait_timeout(&r->ring, &cqe, 1, &t, NULL);
    else
        (void)io_uring_submit_and_get_events(&r->ring);
    reader_collect(r, ret);
}
