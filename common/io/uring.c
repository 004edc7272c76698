/* SPDX-License-Identifier: Apache-2.0 */
/* The io_uring engine; the only file that knows liburing.
 *
 *   blk_submit ──> queue ──(kick)──> ring, at most `depth` in the kernel ──> collect
 *                    ^                                                         │
 *                    └───────── a short transfer, a next stage ────────────────┘
 *
 * Submitting only links the request into a list; a kick turns as many as fit
 * into entries and makes one system call. What does not fit stays in the list
 * and goes out as completions make room, without the owner's doing. At most
 * `depth` entries are in the kernel and the completion ring holds twice that,
 * so it cannot overflow. No memory is taken after the engine is made.
 *
 * A request that waits for its disk, a flush above all, is carried out by a thread of the
 * kernel's. Where no further one may be made (a limit on the user's processes), the kernel cancels
 * what it has not begun; nobody else cancels anything. The engine makes that call itself then: its
 * owner stands still meanwhile, but a flush that was never tried is not taken for one that failed.
 *
 * Completions signal the engine's eventfd. Waiting does not look at it: it is
 * one call that submits and sleeps.
 *
 * Thread: one at a time. The ring is not bound to the thread that made it, so
 * that a shard's engine can be made by the thread that starts it.
 */
#include "common/io/xfer.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>

enum {
    REGIONS_MAX = 16,
    DEPTH_MAX = 4096,
};

/* the kernel takes at most this much in one registered buffer */
static const size_t region_max_bytes = (size_t)1 << 30;

struct uring {
    struct blk_engine base;
    struct io_uring ring;
    unsigned depth;
    unsigned in_kernel;        /* entries prepared and not seen completed */
    struct blk_req_list queue; /* no entry yet */
    bool backlog;              /* the queue has requests that were already kicked */
    bool has_regions;
    unsigned region_count;
    struct iovec regions[REGIONS_MAX];
};

static struct uring *uring_of(struct blk_engine *e)
{
    return CONTAINER_OF(e, struct uring, base);
}

/* -- submitting ------------------------------------------------------------------ */

/* The registered region that holds the whole buffer, or -1. */
static int region_of(const struct uring *u, const struct iovec *iov)
{
    uintptr_t base = (uintptr_t)iov->iov_base;

    for (unsigned i = 0; i < u->region_count; i++) {
        uintptr_t start = (uintptr_t)u->regions[i].iov_base;
        if (base >= start && iov->iov_len <= u->regions[i].iov_len &&
            base - start <= u->regions[i].iov_len - iov->iov_len)
            return (int)i;
    }
    return -1;
}

static void prepare_move(const struct uring *u, struct io_uring_sqe *sqe,
                         const struct xfer_call *call)
{
    const struct iovec *iov = call->iov;
    int region = call->iov_count == 1 ? region_of(u, iov) : -1;
    bool is_read = call->kind == XFER_READ;

    if (call->iov_count > 1 || iov->iov_len > UINT32_MAX) {
        if (is_read)
            io_uring_prep_readv(sqe, call->fd, iov, call->iov_count, call->offset_bytes);
        else
            io_uring_prep_writev(sqe, call->fd, iov, call->iov_count, call->offset_bytes);
    } else if (region >= 0) {
        if (is_read)
            io_uring_prep_read_fixed(sqe, call->fd, iov->iov_base, (unsigned)iov->iov_len,
                                     call->offset_bytes, region);
        else
            io_uring_prep_write_fixed(sqe, call->fd, iov->iov_base, (unsigned)iov->iov_len,
                                      call->offset_bytes, region);
    } else {
        if (is_read)
            io_uring_prep_read(sqe, call->fd, iov->iov_base, (unsigned)iov->iov_len,
                               call->offset_bytes);
        else
            io_uring_prep_write(sqe, call->fd, iov->iov_base, (unsigned)iov->iov_len,
                                call->offset_bytes);
    }
    sqe->rw_flags = call->mode;
}

static void prepare(const struct uring *u, struct io_uring_sqe *sqe, struct blk_req *req)
{
    struct xfer_call call;

    xfer_next(req, &call);
    switch (call.kind) {
    case XFER_READ:
    case XFER_WRITE:
        prepare_move(u, sqe, &call);
        break;
    case XFER_DATASYNC:
        io_uring_prep_fsync(sqe, call.fd, IORING_FSYNC_DATASYNC);
        break;
    case XFER_FALLOCATE:
        io_uring_prep_fallocate(sqe, call.fd, call.mode, (off_t)call.offset_bytes,
                                (off_t)call.len_bytes);
        break;
    }
    io_uring_sqe_set_data(sqe, req);
}

static void fill_ring(struct uring *u)
{
    struct blk_req *req;

    while (u->in_kernel < u->depth && (req = STAILQ_FIRST(&u->queue)) != NULL) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        if (sqe == NULL)
            break;
        STAILQ_REMOVE_HEAD(&u->queue, link);
        prepare(u, sqe, req);
        u->in_kernel++;
    }
    u->backlog = !STAILQ_EMPTY(&u->queue);
}

static bool is_passing(int sys_errno)
{
    return sys_errno == EAGAIN || sys_errno == EBUSY || sys_errno == ENOMEM || sys_errno == EINTR;
}

static void uring_kick(struct blk_engine *e)
{
    struct uring *u = uring_of(e);

    fill_ring(u);
    while (io_uring_sq_ready(&u->ring) > 0) {
        int r = io_uring_submit(&u->ring);
        if (r == -EINTR || r > 0)
            continue;
        CHECK(r == 0 || is_passing(-r));
        /* the kernel is short of something: come back on the next turn, even if
         * nothing that is in flight would wake us */
        u->backlog = true;
        blk_engine_poke(e);
        return;
    }
}

static void uring_submit(struct blk_dev *d, struct blk_req *req)
{
    struct uring *u = uring_of(d->engine);

    xfer_begin(req);
    STAILQ_INSERT_TAIL(&u->queue, req, link);
}

/* -- completing -------------------------------------------------------------------- */

static bool uring_has_completed(const struct blk_engine *e)
{
    const struct uring *u = CONTAINER_OF(e, const struct uring, base);

    return io_uring_cq_ready(&u->ring) > 0;
}

static int64_t make_now(struct blk_req *req)
{
    struct xfer_call call;

    xfer_next(req, &call);
    return xfer_make(&call);
}

static void uring_collect(struct blk_engine *e)
{
    struct uring *u = uring_of(e);
    struct io_uring_cqe *cqe;
    unsigned head;
    unsigned seen = 0;

    io_uring_for_each_cqe(&u->ring, head, cqe)
    {
        struct blk_req *req = io_uring_cqe_get_data(cqe);
        seen++;
        if (xfer_advance(req, cqe->res == -ECANCELED ? make_now(req) : cqe->res)) {
            xfer_settle(req);
            blk_complete(req, req->result, req->sys_errno);
        } else {
            STAILQ_INSERT_TAIL(&u->queue, req, link);
            u->backlog = true;
        }
    }
    io_uring_cq_advance(&u->ring, seen);
    u->in_kernel -= seen;
    if (u->backlog)
        uring_kick(e);
}

static void uring_sleep(struct blk_engine *e, int timeout_ms)
{
    struct uring *u = uring_of(e);
    struct __kernel_timespec limit = {.tv_sec = timeout_ms / 1000,
                                      .tv_nsec = (long long)(timeout_ms % 1000) * 1000000};
    struct io_uring_cqe *cqe;

    fill_ring(u);
    int r =
        io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, timeout_ms < 0 ? NULL : &limit, NULL);
    CHECK(r >= 0 || r == -ETIME || is_passing(-r));
}

/* -- making ------------------------------------------------------------------------- */

static void uring_register_memory(struct blk_engine *e, void *base, size_t len_bytes)
{
    struct uring *u = uring_of(e);
    uint8_t *at = base;

    if (!u->has_regions)
        return;
    while (len_bytes > 0 && u->region_count < REGIONS_MAX) {
        struct iovec iov = {.iov_base = at,
                            .iov_len = len_bytes < region_max_bytes ? len_bytes : region_max_bytes};
        __u64 tag = 0;
        /* refused (memory that may be locked is limited): plain reads and writes it is */
        if (io_uring_register_buffers_update_tag(&u->ring, u->region_count, &iov, &tag, 1) != 1)
            return;
        u->regions[u->region_count++] = iov;
        at += iov.iov_len;
        len_bytes -= iov.iov_len;
    }
}

static const struct blk_dev_ops uring_dev_ops = {
    .submit = uring_submit,
    .close = file_dev_close,
    .next_data = file_dev_next_data,
    .next_hole = file_dev_next_hole,
};

static int uring_open(struct blk_engine *e, const char *path, unsigned flags, struct blk_dev **ret,
                      struct err *reterr)
{
    return file_dev_open(e, &uring_dev_ops, path, flags, ret, reterr);
}

static void uring_free(struct blk_engine *e)
{
    struct uring *u = uring_of(e);

    CHECK(u->in_kernel == 0);
    io_uring_queue_exit(&u->ring);
    blk_engine_done(e);
    free(u);
}

static const struct blk_engine_ops uring_ops = {
    .kind = "io_uring",
    .free = uring_free,
    .open = uring_open,
    .kick = uring_kick,
    .collect = uring_collect,
    .has_completed = uring_has_completed,
    .sleep = uring_sleep,
    .register_memory = uring_register_memory,
};

/* Without interrupts of the running thread for completions where the kernel can. */
static int make_ring(struct uring *u, unsigned depth)
{
    const unsigned tries[] = {
        IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN |
            IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_CLAMP,
    };
    int r = -EINVAL;

    for (size_t i = 0; i < ARRAY_LEN(tries) && r == -EINVAL; i++) {
        struct io_uring_params params = {.flags = tries[i]};
        r = io_uring_queue_init_params(depth, &u->ring, &params);
        if (r != 0)
            continue;
        u->depth = params.sq_entries;
        if (!(params.features & IORING_FEAT_EXT_ARG) || !(params.features & IORING_FEAT_NODROP)) {
            io_uring_queue_exit(&u->ring);
            return -ENOSYS;
        }
    }
    return r;
}

int blk_engine_new_uring(unsigned depth, struct blk_engine **ret, struct err *reterr)
{
    if (depth == 0 || depth > DEPTH_MAX)
        return err_set(reterr, SNAP_EINVAL, "io_uring depth %u: 1 to %d is accepted", depth,
                       DEPTH_MAX);
    struct uring *u = calloc(1, sizeof *u);
    if (u == NULL)
        return err_set(reterr, SNAP_ENOMEM, "make an io_uring engine: out of memory");
    STAILQ_INIT(&u->queue);
    int r = blk_engine_init(&u->base, &uring_ops, true, reterr);
    if (r != 0) {
        free(u);
        return r;
    }
    int made = make_ring(u, depth);
    if (made == 0) {
        made = io_uring_register_eventfd(&u->ring, u->base.event_fd);
        if (made != 0)
            io_uring_queue_exit(&u->ring);
    }
    if (made != 0) {
        blk_engine_done(&u->base);
        free(u);
        return err_set_errno(reterr, SNAP_ENOTSUP, -made, "set up io_uring");
    }
    u->has_regions = io_uring_register_buffers_sparse(&u->ring, REGIONS_MAX) == 0;
    *ret = &u->base;
    return 0;
}
