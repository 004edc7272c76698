/* SPDX-License-Identifier: Apache-2.0 */
/* One request on a file or block device as a row of system calls.
 *
 *   op       stages
 *   READ     MOVE until all is moved
 *   WRITE    MOVE until all is moved;  FUA: with RWF_DSYNC each call, or then SYNC, see below
 *   FLUSH    SYNC
 *   DISCARD  PUNCH, whatever comes of it
 *   ZERO     RANGE ─unsupported─> PUNCH ─unsupported─> MOVE (zeros);  FUA: then SYNC
 *   GROW     ALLOCATE ─unsupported─> ftruncate, at once
 *
 * A short transfer is taken up where it stopped; with O_DIRECT at the block
 * that it stopped in. EINTR and EAGAIN repeat the call, with a bound, since a
 * driver that says EAGAIN for ever must become an error and not a spin.
 *
 * A FUA write that finds no room must not be taken for a flush that has failed: what was written
 * before is as it was. With O_DIRECT no data of ours waits in memory for its room, so "no space" of
 * a call with RWF_DSYNC is the write's own. Through the page cache it may be that of earlier data,
 * found by the flush in the call; so there the two are calls of their own.
 *
 * ZERO_RANGE comes before PUNCH_HOLE because it keeps the space: an area that
 * was zeroed ahead can then be written on a full disk. (DISCARD gives space back.)
 *
 * A file that turns out to have been cut short by somebody else (a read finds its end too early,
 * a flush or a grow looks) fails everything from then on: a flush that failed is what its writer
 * takes for content that is unknown, and the file is opened again as it is then.
 *
 * The state stands in the request: progress_bytes, engine_data[0] the stage,
 * engine_data[1] the repeats. No memory is taken.
 *
 * Must not know which engine it is that makes the calls. Thread: see xfer.h.
 */
#include "common/io/xfer.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum stage { STAGE_MOVE, STAGE_SYNC, STAGE_RANGE, STAGE_PUNCH, STAGE_ALLOCATE };

enum {
    REPEATS_MAX = 10000,
    ZEROS_BYTES = 256 * 1024,
};

/* one call moves at most 2 GiB less a page; stay block-aligned below it */
static const uint64_t move_max_bytes = UINT64_C(1) << 30;

/* never written to */
static _Alignas(4096) uint8_t zeros[ZEROS_BYTES];

static struct file_dev *file_of(const struct blk_req *req)
{
    return CONTAINER_OF(req->dev, struct file_dev, base);
}

static enum stage stage_of(const struct blk_req *req)
{
    return (enum stage)(uintptr_t)req->engine_data[0];
}

static void set_stage(struct blk_req *req, enum stage stage)
{
    req->engine_data[0] = (void *)(uintptr_t)stage;
    req->engine_data[1] = NULL;
}

static enum stage zero_stage(struct file_dev *f)
{
    switch ((enum zero_way)atomic_load_explicit(&f->zero_way, memory_order_relaxed)) {
    case ZERO_RANGE:
        return STAGE_RANGE;
    case ZERO_PUNCH:
        return STAGE_PUNCH;
    case ZERO_WRITE:
        break;
    }
    return STAGE_MOVE;
}

/* Does somebody shorten a file that is ours alone? What is written behind its end from then on
 * makes it long again, and what stood between is zeros: without this, content like any other. */
static void look_for_cut(struct file_dev *f)
{
    struct stat st;

    if (f->exclusive && !f->base.info.is_block && !f->cut)
        f->cut = fstat(f->fd, &st) == 0 && (uint64_t)st.st_size < f->file_size_bytes;
}

void xfer_begin(struct blk_req *req)
{
    switch (req->op) {
    case BLK_READ:
    case BLK_WRITE:
        set_stage(req, STAGE_MOVE);
        break;
    case BLK_FLUSH:
        set_stage(req, STAGE_SYNC);
        break;
    case BLK_DISCARD:
        set_stage(req, STAGE_PUNCH);
        break;
    case BLK_ZERO:
        set_stage(req, zero_stage(file_of(req)));
        break;
    case BLK_GROW:
        look_for_cut(file_of(req)); /* it hides one */
        set_stage(req, STAGE_ALLOCATE);
        file_of(req)->grows++;
        req->progress_bytes = file_of(req)->file_size_bytes;
        break;
    }
}

/* -- the next call ---------------------------------------------------------------- */

/* What of the caller's buffers is still to be moved. When the progress stands inside
 * one of them, the rest of that one goes alone, so that the caller's array stays as
 * it is and no other is needed. */
static void rest_of_buffers(struct blk_req *req, struct xfer_call *call)
{
    uint64_t skip = req->progress_bytes;
    unsigned i = 0;

    if (req->iov == NULL) {
        req->one.iov_base = (uint8_t *)req->data + skip;
        req->one.iov_len = u64_min(req->len_bytes - skip, move_max_bytes);
        call->iov = &req->one;
        call->iov_count = 1;
        return;
    }
    while (skip > 0 && skip >= req->iov[i].iov_len)
        skip -= req->iov[i++].iov_len;
    call->iov = req->iov + i;
    call->iov_count = req->iov_count - i;
    if (skip > 0) {
        req->one.iov_base = (uint8_t *)req->iov[i].iov_base + skip;
        req->one.iov_len = u64_min(req->iov[i].iov_len - skip, move_max_bytes);
        call->iov = &req->one;
        call->iov_count = 1;
    }
}

static void rest_of_zeros(struct blk_req *req, struct xfer_call *call)
{
    req->one.iov_base = zeros;
    req->one.iov_len = u64_min(req->len_bytes - req->progress_bytes, ZEROS_BYTES);
    call->iov = &req->one;
    call->iov_count = 1;
}

static bool is_fua(const struct blk_req *req)
{
    return (req->flags & BLK_FUA) != 0 && (req->op == BLK_WRITE || req->op == BLK_ZERO);
}

static bool is_synced_by_the_write(const struct blk_req *req)
{
    return is_fua(req) && req->op == BLK_WRITE && file_of(req)->direct;
}

void xfer_next(struct blk_req *req, struct xfer_call *ret)
{
    *ret = (struct xfer_call){
        .fd = file_of(req)->fd, .offset_bytes = req->offset_bytes, .len_bytes = req->len_bytes};
    switch (stage_of(req)) {
    case STAGE_MOVE:
        ret->kind = req->op == BLK_READ ? XFER_READ : XFER_WRITE;
        ret->offset_bytes += req->progress_bytes;
        if (req->op == BLK_ZERO)
            rest_of_zeros(req, ret);
        else
            rest_of_buffers(req, ret);
        if (is_synced_by_the_write(req))
            ret->mode = RWF_DSYNC;
        break;
    case STAGE_SYNC:
        ret->kind = XFER_DATASYNC;
        break;
    case STAGE_RANGE:
        ret->kind = XFER_FALLOCATE;
        ret->mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
        break;
    case STAGE_PUNCH:
        ret->kind = XFER_FALLOCATE;
        ret->mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        break;
    case STAGE_ALLOCATE:
        ret->kind = XFER_FALLOCATE;
        ret->offset_bytes = req->progress_bytes;
        ret->len_bytes = req->offset_bytes - req->progress_bytes;
        break;
    }
}

int64_t xfer_make(const struct xfer_call *call)
{
    ssize_t r = 0;

    switch (call->kind) {
    case XFER_READ:
        r = preadv(call->fd, call->iov, (int)call->iov_count, (off_t)call->offset_bytes);
        break;
    case XFER_WRITE:
        r = pwritev2(call->fd, call->iov, (int)call->iov_count, (off_t)call->offset_bytes,
                     call->mode);
        break;
    case XFER_DATASYNC:
        r = fdatasync(call->fd);
        break;
    case XFER_FALLOCATE:
        r = fallocate(call->fd, call->mode, (off_t)call->offset_bytes, (off_t)call->len_bytes);
        break;
    }
    return r < 0 ? -errno : r;
}

/* -- what the call returned ---------------------------------------------------------- */

static bool finish(struct blk_req *req, int sys_errno)
{
    req->sys_errno = sys_errno;
    req->result = sys_errno == 0 ? 0 : err_code_of_errno(sys_errno);
    req->refused = req->result != 0 && is_fua(req) && stage_of(req) != STAGE_SYNC &&
                   (req->result == SNAP_ENOSPC || !is_synced_by_the_write(req));
    return true;
}

static bool is_unsupported(int sys_errno)
{
    return sys_errno == EOPNOTSUPP || sys_errno == ENOSYS || sys_errno == EINVAL ||
           sys_errno == ENODEV;
}

static bool advance_move(struct blk_req *req, int64_t returned)
{
    struct file_dev *f = file_of(req);
    uint64_t before = req->progress_bytes;

    if (returned < 0)
        return finish(req, (int)-returned);
    CHECK((uint64_t)returned <= req->len_bytes - before);
    req->progress_bytes += (uint64_t)returned;
    if (req->progress_bytes == req->len_bytes) {
        if (!is_fua(req) || is_synced_by_the_write(req))
            return finish(req, 0);
        set_stage(req, STAGE_SYNC);
        return false;
    }
    if (f->direct)
        req->progress_bytes &= ~(uint64_t)(f->base.info.align_bytes - 1);
    if (req->progress_bytes <= before)
        return finish(req, EIO); /* no headway: the file is shorter than it was */
    return false;
}

static bool advance_zero(struct blk_req *req, enum stage stage, int64_t returned)
{
    if (returned < 0) {
        if (!is_unsupported((int)-returned))
            return finish(req, (int)-returned);
        enum zero_way way = stage == STAGE_RANGE ? ZERO_PUNCH : ZERO_WRITE;
        atomic_store_explicit(&file_of(req)->zero_way, way, memory_order_relaxed);
        set_stage(req, way == ZERO_PUNCH ? STAGE_PUNCH : STAGE_MOVE);
        return false;
    }
    if (!is_fua(req))
        return finish(req, 0);
    set_stage(req, STAGE_SYNC);
    return false;
}

/* A file system without fallocate: the file becomes longer and sparse. */
static bool grow_by_truncate(struct blk_req *req)
{
    struct file_dev *f = file_of(req);
    struct stat st;

    if (fstat(f->fd, &st) != 0)
        return finish(req, errno);
    if ((uint64_t)st.st_size < req->offset_bytes && ftruncate(f->fd, (off_t)req->offset_bytes) != 0)
        return finish(req, errno);
    return finish(req, 0);
}

bool xfer_advance(struct blk_req *req, int64_t returned)
{
    if (returned == -EINTR || returned == -EAGAIN) {
        uintptr_t repeats = (uintptr_t)req->engine_data[1];
        req->engine_data[1] = (void *)(repeats + 1);
        return repeats < REPEATS_MAX ? false : finish(req, (int)-returned);
    }
    switch (stage_of(req)) {
    case STAGE_MOVE:
        return advance_move(req, returned);
    case STAGE_RANGE:
        return advance_zero(req, STAGE_RANGE, returned);
    case STAGE_PUNCH:
        if (req->op == BLK_ZERO)
            return advance_zero(req, STAGE_PUNCH, returned);
        return finish(req, 0); /* a discard is a hint */
    case STAGE_ALLOCATE:
        if (returned < 0 && is_unsupported((int)-returned))
            return grow_by_truncate(req);
        break;
    case STAGE_SYNC:
        break;
    }
    return finish(req, returned < 0 ? (int)-returned : 0);
}

/* An allocation that ran out of space may have taken what there was: on a full disk the
 * file gives it back. Only where no other grow counts on it and the file is ours. */
static void give_back(const struct file_dev *f)
{
    struct stat st;

    if (f->grows == 0 && f->exclusive && fstat(f->fd, &st) == 0 &&
        (uint64_t)st.st_size >= f->file_size_bytes) {
        /* blocks beyond the end go, too, when the size stays */
        int r = ftruncate(f->fd, (off_t)f->file_size_bytes);
        (void)r; /* the grow has failed already, and that is what its owner hears */
    }
}

void xfer_settle(struct blk_req *req)
{
    struct file_dev *f = file_of(req);

    if (req->op == BLK_FLUSH || (req->op == BLK_READ && req->result != 0))
        look_for_cut(f);
    if (f->cut && req->result == 0) {
        (void)finish(req, EIO);
        req->refused = false; /* it is the file that has lost something */
    }
    if (req->op != BLK_GROW)
        return;
    f->grows--;
    if (req->result != 0) {
        give_back(f);
        return;
    }
    f->file_size_bytes = u64_max(f->file_size_bytes, req->offset_bytes);
    f->base.info.size_bytes = u64_max(f->base.info.size_bytes, req->offset_bytes);
}
