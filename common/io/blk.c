/* SPDX-License-Identifier: Apache-2.0 */
/* The part of the block device interface that all engines share: validation,
 * counting, the order in which `done` runs, and the blocking face.
 *
 * Knows nothing of files, rings or threads. Everything that a caller can get
 * wrong about a request (range, alignment, a read-only device) is refused here,
 * so an engine only sees requests that are right.
 *
 * Running `done`: a reap runs what is on the list when it starts, not what
 * those callbacks add to it, or a callback that keeps submitting invalid
 * requests would never let go of the thread. The list is popped one by one and
 * nothing is held across a call, so a `done` may submit, reap and wait itself.
 *
 * Thread: the engine's own, but for blk_engine_poke().
 */
#include "common/io/blk_priv.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/limits.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    DEFAULT_URING_DEPTH = 256,
    DEFAULT_THREADS = 8,
};

static const char *const op_names[] = {
    [BLK_READ] = "read",       [BLK_WRITE] = "write", [BLK_FLUSH] = "flush",
    [BLK_DISCARD] = "discard", [BLK_ZERO] = "zero",   [BLK_GROW] = "grow",
};

/* -- for engines ------------------------------------------------------------- */

int blk_engine_init(struct blk_engine *e, const struct blk_engine_ops *ops, bool with_fd,
                    struct err *reterr)
{
    *e = (struct blk_engine){.ops = ops, .event_fd = -1};
    STAILQ_INIT(&e->done);
    STAILQ_INIT(&e->joined);
    if (!with_fd)
        return 0;
    e->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (e->event_fd < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "make an eventfd");
    return 0;
}

void blk_engine_done(struct blk_engine *e)
{
    if (e->event_fd >= 0)
        (void)close(e->event_fd);
}

void blk_dev_init(struct blk_dev *d, const struct blk_dev_ops *ops, struct blk_engine *e)
{
    d->ops = ops;
    d->engine = e;
    d->is_over_another = false;
    blk_dev_forget(d);
    e->devices++;
}

void blk_complete(struct blk_req *req, int result, int sys_errno)
{
    struct blk_engine *e = req->dev->engine;

    req->result = result;
    req->sys_errno = sys_errno;
    STAILQ_INSERT_TAIL(&e->done, req, link);
    e->done_count++;
}

static void tell(struct blk_req *req)
{
    req->dev->engine->inflight--;
    req->dev->engine->at_disks -= req->dev->is_over_another ? 0 : 1;
    req->dev->inflight--;
    req->done(req, req->result);
}

/* How many. */
static unsigned tell_joined(struct blk_engine *e)
{
    struct blk_req *req;
    unsigned count = 0;

    while ((req = STAILQ_FIRST(&e->joined)) != NULL) {
        STAILQ_REMOVE_HEAD(&e->joined, link);
        tell(req);
        count++;
    }
    return count;
}

/* The device may be gone with the last of them; in between a `done` may wait for the others. */
void blk_finish(struct blk_req *req, int result, int sys_errno)
{
    struct blk_engine *e = req->dev->engine;

    req->result = result;
    req->sys_errno = sys_errno;
    if (blk_flush_ended(req))
        tell(req);
    (void)tell_joined(e);
}

void blk_forward(struct blk_dev *below, struct blk_req *inner, const struct blk_req *outer,
                 blk_done_fn *done, void *user)
{
    *inner = (struct blk_req){.op = outer->op,
                              .flags = outer->flags,
                              .offset_bytes = outer->offset_bytes,
                              .len_bytes = outer->len_bytes,
                              .iov = outer->iov,
                              .iov_count = outer->iov_count,
                              .data = outer->data,
                              .tags = outer->tags,
                              .done = done,
                              .user = user};
    blk_submit(below, inner);
}

void blk_engine_poke(struct blk_engine *e)
{
    if (e->event_fd >= 0) /* EAGAIN: the counter is at its top, so it is readable */
        (void)eventfd_write(e->event_fd, 1);
}

void blk_engine_forget(struct blk_engine *e)
{
    STAILQ_INIT(&e->done);
    STAILQ_INIT(&e->joined);
    e->done_count = 0;
    e->inflight = e->at_disks = 0;
}

void blk_dev_forget(struct blk_dev *d)
{
    d->inflight = 0;
    d->flushing = NULL;
    STAILQ_INIT(&d->flushed);
    STAILQ_INIT(&d->to_flush);
}

/* -- engines ----------------------------------------------------------------- */

int blk_engine_new(struct blk_engine **ret, struct err *reterr)
{
    if (blk_engine_new_uring(DEFAULT_URING_DEPTH, ret, NULL) == 0)
        return 0;
    return blk_engine_new_threads(DEFAULT_THREADS, ret, reterr);
}

void blk_engine_free(struct blk_engine *e)
{
    if (e == NULL)
        return;
    CHECK(e->devices == 0);
    CHECK(e->inflight == 0);
    e->ops->free(e);
}

const char *blk_engine_kind(const struct blk_engine *e)
{
    return e->ops->kind;
}

int blk_engine_fd(const struct blk_engine *e)
{
    return e->event_fd;
}

unsigned blk_engine_inflight(const struct blk_engine *e)
{
    return e->inflight;
}

unsigned blk_engine_at_disks(const struct blk_engine *e)
{
    return e->at_disks;
}

void blk_engine_kick(struct blk_engine *e)
{
    e->ops->kick(e);
}

void blk_engine_register_memory(struct blk_engine *e, void *base, size_t len_bytes)
{
    e->ops->register_memory(e, base, len_bytes);
}

/* Run `done` of what is on the list now. */
static unsigned run_done(struct blk_engine *e)
{
    unsigned budget = e->done_count;
    unsigned joined = tell_joined(e);
    unsigned ran = 0;
    struct blk_req *req;

    while (ran < budget && (req = STAILQ_FIRST(&e->done)) != NULL) {
        STAILQ_REMOVE_HEAD(&e->done, link);
        e->done_count--;
        ran++;
        blk_finish(req, req->result, req->sys_errno);
    }
    return joined + ran;
}

static bool is_to_tell(const struct blk_engine *e)
{
    return e->done_count > 0 || !STAILQ_EMPTY(&e->joined);
}

unsigned blk_engine_reap(struct blk_engine *e)
{
    if (e->event_fd >= 0) {
        eventfd_t count;
        (void)eventfd_read(e->event_fd, &count); /* before collecting: nothing is missed */
    }
    e->ops->collect(e);
    return run_done(e);
}

unsigned blk_engine_poll(struct blk_engine *e)
{
    if (!is_to_tell(e) && e->ops->has_completed != NULL && !e->ops->has_completed(e))
        return 0;
    return blk_engine_reap(e);
}

unsigned blk_engine_wait(struct blk_engine *e, int timeout_ms)
{
    const struct clock *clock = clock_system();
    uint64_t deadline_ns = 0;

    if (timeout_ms > 0)
        deadline_ns = clock_now_ns(clock) + (uint64_t)timeout_ms * 1000000;
    while (e->inflight > 0) {
        int rest_ms = timeout_ms;
        e->ops->collect(e);
        if (timeout_ms > 0) {
            uint64_t now_ns = clock_now_ns(clock);
            rest_ms = now_ns < deadline_ns ? (int)((deadline_ns - now_ns + 999999) / 1000000) : 0;
        }
        if (is_to_tell(e) || rest_ms == 0) {
            e->ops->kick(e);
            e->ops->collect(e);
            return run_done(e);
        }
        e->ops->sleep(e, rest_ms); /* kicks, in the same system call where it can */
    }
    return 0;
}

/* -- devices ----------------------------------------------------------------- */

int blk_open(struct blk_engine *e, const char *path, unsigned flags, struct blk_dev **ret,
             struct err *reterr)
{
    if ((flags & BLK_OPEN_CREATE) && (flags & BLK_OPEN_READ_ONLY))
        return err_set(reterr, SNAP_EINVAL, "open %s: a new file cannot be read-only", path);
    return e->ops->open(e, path, flags, ret, reterr);
}

void blk_dev_close(struct blk_dev *d)
{
    if (d == NULL)
        return;
    CHECK(d->inflight == 0);
    CHECK(d->engine->devices > 0);
    d->engine->devices--;
    d->ops->close(d);
}

const struct blk_info *blk_dev_info(const struct blk_dev *d)
{
    return &d->info;
}

struct blk_engine *blk_dev_engine(const struct blk_dev *d)
{
    return d->engine;
}

uint64_t blk_dev_next_data(struct blk_dev *d, uint64_t offset_bytes)
{
    if (offset_bytes >= d->info.size_bytes)
        return d->info.size_bytes;
    return u64_min(d->ops->next_data(d, offset_bytes), d->info.size_bytes);
}

uint64_t blk_dev_next_hole(struct blk_dev *d, uint64_t offset_bytes)
{
    if (offset_bytes >= d->info.size_bytes)
        return d->info.size_bytes;
    return u64_min(d->ops->next_hole(d, offset_bytes), d->info.size_bytes);
}

/* -- requests ---------------------------------------------------------------- */

static bool buffers_are_valid(const struct blk_info *info, const struct blk_req *req)
{
    uint64_t mask = info->align_bytes - 1;
    uint64_t sum = 0;

    if (req->iov == NULL)
        return req->data != NULL && ((uintptr_t)req->data & mask) == 0;
    if (req->iov_count == 0 || req->iov_count > BLK_IOV_MAX)
        return false;
    for (unsigned i = 0; i < req->iov_count; i++) {
        if ((((uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len) & mask) != 0)
            return false;
        if (__builtin_add_overflow(sum, (uint64_t)req->iov[i].iov_len, &sum))
            return false;
    }
    return sum == req->len_bytes;
}

static bool range_is_valid(const struct blk_info *info, const struct blk_req *req)
{
    uint64_t mask = info->align_bytes - 1;

    return ((req->offset_bytes | req->len_bytes) & mask) == 0 &&
           req->len_bytes <= info->size_bytes &&
           req->offset_bytes <= info->size_bytes - req->len_bytes;
}

/* 0 or what the request is refused with; *ret_nothing: it is right and needs no work. */
static int validate(const struct blk_info *info, const struct blk_req *req, bool *ret_nothing)
{
    *ret_nothing = false;
    if (req->op == BLK_FLUSH)
        return 0;
    if (req->op == BLK_GROW) {
        if (info->read_only)
            return SNAP_EPERM;
        if (!info->can_grow)
            return SNAP_ENOTSUP;
        if ((req->offset_bytes & (info->align_bytes - 1)) != 0 ||
            req->offset_bytes > LIMIT_VOLUME_BYTES)
            return SNAP_EINVAL;
        *ret_nothing = req->offset_bytes <= info->size_bytes;
        return 0;
    }
    if (!range_is_valid(info, req))
        return SNAP_EINVAL;
    *ret_nothing = req->len_bytes == 0;
    if (req->op == BLK_READ)
        return *ret_nothing || buffers_are_valid(info, req) ? 0 : SNAP_EINVAL;
    if (info->read_only)
        return SNAP_EPERM;
    if (req->op == BLK_WRITE)
        return *ret_nothing || buffers_are_valid(info, req) ? 0 : SNAP_EINVAL;
    return req->op == BLK_DISCARD || req->op == BLK_ZERO ? 0 : SNAP_EINVAL;
}

void blk_submit(struct blk_dev *d, struct blk_req *req)
{
    bool nothing;

    CHECK(req->done != NULL);
    req->dev = d;
    req->result = 0;
    req->sys_errno = 0;
    req->refused = false;
    req->progress_bytes = 0;
    req->then_flush = false;
    d->inflight++;
    d->engine->inflight++;
    d->engine->at_disks += d->is_over_another ? 0 : 1;
    int r = validate(&d->info, req, &nothing);
    if (r == 0 && req->op == BLK_FLUSH) {
        blk_flush_join(d, req);
        return;
    }
    if (r == 0 && !nothing && (req->flags & BLK_FUA) != 0 &&
        (req->op == BLK_WRITE || req->op == BLK_ZERO)) {
        blk_flush_fua(d, req);
        return;
    }
    if (r == 0 && !nothing) {
        d->ops->submit(d, req);
        return;
    }
    blk_complete(req, r, 0);
    blk_engine_poke(d->engine);
}

/* -- the blocking face ---------------------------------------------------------- */

static void sync_done(struct blk_req *req, int result)
{
    (void)result;
    *(bool *)req->user = true;
}

static int run_sync(struct blk_dev *d, struct blk_req *req, struct err *reterr)
{
    const char *name = d->info.name != NULL ? d->info.name : "device";
    const char *op = op_names[req->op];
    bool finished = false;

    req->done = sync_done;
    req->user = &finished;
    blk_submit(d, req);
    while (!finished)
        (void)blk_engine_wait(d->engine, -1);
    if (req->result == 0)
        return 0;
    if (req->sys_errno != 0)
        return err_set_errno(reterr, req->result, req->sys_errno,
                             "%s: %s of %" PRIu64 " bytes at %" PRIu64, name, op, req->len_bytes,
                             req->offset_bytes);
    return err_set(reterr, req->result,
                   "%s: %s of %" PRIu64 " bytes at %" PRIu64 ": %s (size %" PRIu64
                   ", alignment %" PRIu32 ")",
                   name, op, req->len_bytes, req->offset_bytes, err_text(req->result),
                   d->info.size_bytes, d->info.align_bytes);
}

int blk_read_sync(struct blk_dev *d, uint64_t offset_bytes, void *buf, uint64_t len_bytes,
                  struct err *reterr)
{
    struct blk_req req = {
        .op = BLK_READ, .offset_bytes = offset_bytes, .len_bytes = len_bytes, .data = buf};
    return run_sync(d, &req, reterr);
}

int blk_write_sync(struct blk_dev *d, uint64_t offset_bytes, const void *buf, uint64_t len_bytes,
                   struct err *reterr)
{
    /* a write only reads its buffer; the struct is shared with reads */
    union {
        const void *in;
        void *out;
    } data = {.in = buf};
    struct blk_req req = {
        .op = BLK_WRITE, .offset_bytes = offset_bytes, .len_bytes = len_bytes, .data = data.out};
    return run_sync(d, &req, reterr);
}

int blk_flush_sync(struct blk_dev *d, struct err *reterr)
{
    struct blk_req req = {.op = BLK_FLUSH};
    return run_sync(d, &req, reterr);
}

int blk_zero_sync(struct blk_dev *d, uint64_t offset_bytes, uint64_t len_bytes, struct err *reterr)
{
    struct blk_req req = {.op = BLK_ZERO, .offset_bytes = offset_bytes, .len_bytes = len_bytes};
    return run_sync(d, &req, reterr);
}

int blk_grow_sync(struct blk_dev *d, uint64_t size_bytes, struct err *reterr)
{
    struct blk_req req = {.op = BLK_GROW, .offset_bytes = size_bytes};
    return run_sync(d, &req, reterr);
}
