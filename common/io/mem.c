/* SPDX-License-Identifier: Apache-2.0 */
/* The memory engine: requests in flight, the order in which they complete, and
 * injected faults. What a disk keeps and loses is mem_disk.c's.
 *
 *   blk_submit ──> in flight ──(a step picks one by the seed)──> happens ──> done
 *                      ^                      │ fault SHORT: a part happens
 *                      └──────────────────────┘
 *
 * Nothing completes by itself: each reap, wait and step completes one. What a
 * write carries is copied when it is submitted and compared when it completes:
 * a caller that changes a buffer which a disk could be reading is stopped there.
 *
 * Decisions come from one generator, in the order of the calls; addresses, time
 * and threads decide nothing. Thread: one.
 */
#include "common/io/mem.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/io/blk_priv.h"
#include "common/io/mem_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { FAULTS_MAX = 64 };

enum mem_trouble { TROUBLE_NONE, TROUBLE_ERROR, TROUBLE_SHORT };

/* A request in flight. */
struct mem_op {
    struct blk_req *req;
    struct mem_version *version; /* what it will change; NULL: nothing */
    uint64_t flush_seq;          /* FLUSH: what had happened when it was submitted */
    enum mem_trouble trouble;
    int trouble_errno;
};

struct mem_fault {
    enum blk_op op;
    unsigned left; /* requests until it strikes */
    enum mem_trouble trouble;
    int sys_errno;
};

struct mem_engine {
    struct blk_engine base;
    struct rng rng;
    struct mem_op **ops; /* in flight, in no order */
    unsigned op_count;
    unsigned op_cap;
    uint64_t submitted;
    unsigned garbage_percent;
    TAILQ_HEAD(, mem_dev) devices;
};

struct mem_dev {
    struct blk_dev base;
    TAILQ_ENTRY(mem_dev) link;
    struct mem_disk disk;
    char *name;
    uint64_t grow_limit_bytes;
    struct mem_fault faults[FAULTS_MAX];
    unsigned fault_count;
    uint64_t fail_offset_bytes;
    uint64_t fail_len_bytes;
    int fail_errno;
    struct mem_counters counters;
};

static struct mem_engine *engine_of(const struct blk_engine *e)
{
    return CONTAINER_OF(e, struct mem_engine, base);
}

static struct mem_dev *dev_of(const struct blk_dev *d)
{
    return CONTAINER_OF(d, struct mem_dev, base);
}

/* -- submitting -------------------------------------------------------------------- */

static void count_request(struct mem_dev *d, const struct blk_req *req)
{
    struct mem_counters *c = &d->counters;

    switch (req->op) {
    case BLK_READ:
        c->reads++;
        c->read_bytes += req->len_bytes;
        break;
    case BLK_WRITE:
        c->writes++;
        c->written_bytes += req->len_bytes;
        break;
    case BLK_FLUSH:
        c->flushes++;
        break;
    case BLK_DISCARD:
        c->discards++;
        break;
    case BLK_ZERO:
        c->zeroes++;
        break;
    case BLK_GROW:
        c->grows++;
        break;
    }
}

/* Count the request against the armed faults; the one that strikes is used up. */
static void arm(struct mem_dev *d, struct mem_op *op)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < d->fault_count; i++) {
        struct mem_fault *f = &d->faults[i];
        if (f->op == op->req->op && --f->left == 0) {
            op->trouble = f->trouble;
            op->trouble_errno = f->sys_errno;
            continue;
        }
        d->faults[kept++] = *f;
    }
    d->fault_count = kept;
}

/* The request's buffers as an array, *ret_count long. */
static const struct iovec *buffers_of(struct blk_req *req, unsigned *ret_count)
{
    if (req->iov != NULL) {
        *ret_count = req->iov_count;
        return req->iov;
    }
    req->one = (struct iovec){.iov_base = req->data, .iov_len = req->len_bytes};
    *ret_count = 1;
    return &req->one;
}

static struct mem_version *version_for(struct blk_req *req)
{
    unsigned count;

    if (req->op == BLK_WRITE) {
        const struct iovec *iov = buffers_of(req, &count);
        return mem_version_new(req->offset_bytes, req->len_bytes, iov, count);
    }
    if (req->op == BLK_GROW)
        return mem_version_new(req->offset_bytes, 0, NULL, 0);
    return mem_version_new(req->offset_bytes, req->len_bytes, NULL, 0);
}

static void op_free(struct mem_op *op)
{
    mem_version_free(op->version);
    free(op);
}

static bool make_room(struct mem_engine *e)
{
    if (e->op_count < e->op_cap)
        return true;
    unsigned cap = e->op_cap == 0 ? 64 : e->op_cap * 2;
    struct mem_op **ops = realloc(e->ops, cap * sizeof(struct mem_op *));
    if (ops == NULL)
        return false;
    e->ops = ops;
    e->op_cap = cap;
    return true;
}

static void mem_submit(struct blk_dev *base, struct blk_req *req)
{
    struct mem_dev *d = dev_of(base);
    struct mem_engine *e = engine_of(base->engine);
    struct mem_op *op = make_room(e) ? calloc(1, sizeof *op) : NULL;

    if (op == NULL) {
        blk_complete(req, SNAP_ENOMEM, ENOMEM);
        return;
    }
    op->req = req;
    op->flush_seq = d->disk.seq;
    if (req->op != BLK_READ && req->op != BLK_FLUSH) {
        op->version = version_for(req);
        if (op->version == NULL) {
            op_free(op);
            blk_complete(req, SNAP_ENOMEM, ENOMEM);
            return;
        }
    }
    count_request(d, req);
    if (req->op != BLK_READ)
        e->submitted++;
    arm(d, op);
    e->ops[e->op_count++] = op;
}

/* -- completing --------------------------------------------------------------------- */

/* Copy len_bytes of the image from progress_bytes on into the caller's buffers. */
static void read_part(const struct mem_dev *d, struct blk_req *req, uint64_t len_bytes)
{
    unsigned count;
    const struct iovec *iov = buffers_of(req, &count);
    uint64_t begin = req->progress_bytes;
    uint64_t end = begin + len_bytes;
    uint64_t at = 0; /* where iov[i] begins in the request */

    for (unsigned i = 0; i < count; at += iov[i].iov_len, i++) {
        uint64_t from = u64_max(begin, at);
        uint64_t to = u64_min(end, at + iov[i].iov_len);
        if (from < to)
            memcpy((uint8_t *)iov[i].iov_base + (from - at),
                   d->disk.image + req->offset_bytes + from, to - from);
    }
    req->progress_bytes = end;
}

/* The caller's buffers still hold what was submitted. */
static bool is_unchanged(struct blk_req *req, const struct mem_version *v)
{
    unsigned count;
    const struct iovec *iov = buffers_of(req, &count);
    const uint8_t *was = v->data;

    for (unsigned i = 0; i < count; was += iov[i].iov_len, i++)
        if (memcmp(iov[i].iov_base, was, iov[i].iov_len) != 0)
            return false;
    return true;
}

static int grow(struct mem_dev *d, struct mem_op *op)
{
    uint64_t size_bytes = op->req->offset_bytes;

    if (size_bytes > d->grow_limit_bytes) {
        op->req->sys_errno = ENOSPC;
        return SNAP_ENOSPC;
    }
    int r = mem_disk_reserve(&d->disk, size_bytes);
    if (r != 0)
        return r;
    mem_disk_apply(&d->disk, op->version);
    op->version = NULL;
    d->base.info.size_bytes = d->disk.size_bytes;
    return 0;
}

/* A discard zeroes a seeded first part, or all, or nothing. */
static void discard(struct mem_engine *e, struct mem_dev *d, const struct mem_op *op)
{
    uint64_t sectors = op->version->len_bytes / SECTOR_BYTES;

    if (op->trouble != TROUBLE_ERROR)
        mem_disk_apply_prefix(&d->disk, op->version,
                              rng_below(&e->rng, sectors + 1) * SECTOR_BYTES);
}

/* The request happens in full. */
static int happen(struct mem_engine *e, struct mem_dev *d, struct mem_op *op)
{
    struct blk_req *req = op->req;
    struct mem_version *v = op->version;

    switch (req->op) {
    case BLK_READ:
        read_part(d, req, req->len_bytes - req->progress_bytes);
        return 0;
    case BLK_FLUSH:
        mem_disk_flush(&d->disk, op->flush_seq);
        return 0;
    case BLK_GROW:
        return grow(d, op);
    case BLK_DISCARD:
        discard(e, d, op);
        return 0;
    case BLK_WRITE:
    case BLK_ZERO:
        op->version = NULL;
        if (req->flags & BLK_FUA)
            mem_disk_apply_durable(&d->disk, v);
        else
            mem_disk_apply(&d->disk, v);
        return 0;
    }
    return SNAP_EINVAL;
}

/* The request fails; what it would have changed is changed in a seeded first part. */
static int fail(struct mem_engine *e, struct mem_dev *d, const struct mem_op *op, int sys_errno)
{
    struct blk_req *req = op->req;

    if (req->op == BLK_FLUSH) {
        mem_disk_flush_failed(&d->disk, op->flush_seq, &e->rng);
    } else if ((req->op == BLK_WRITE || req->op == BLK_ZERO) && rng_chance(&e->rng, 50)) {
        uint64_t sectors = req->len_bytes / SECTOR_BYTES;
        mem_disk_apply_prefix(&d->disk, op->version,
                              rng_below(&e->rng, sectors + 1) * SECTOR_BYTES);
    }
    req->sys_errno = sys_errno;
    req->refused = (req->flags & BLK_FUA) != 0 && sys_errno == ENOSPC;
    return err_code_of_errno(sys_errno);
}

/* A part happens now; the request stays in flight. */
static void happen_in_part(struct mem_engine *e, struct mem_dev *d, struct mem_op *op)
{
    struct blk_req *req = op->req;
    uint64_t blocks = req->len_bytes / d->base.info.align_bytes;

    op->trouble = TROUBLE_NONE;
    if (blocks < 2 || (req->op != BLK_READ && req->op != BLK_WRITE && req->op != BLK_ZERO))
        return;
    uint64_t part_bytes = (1 + rng_below(&e->rng, blocks - 1)) * d->base.info.align_bytes;
    if (req->op == BLK_READ)
        read_part(d, req, part_bytes);
    else
        mem_disk_apply_prefix(&d->disk, op->version, part_bytes);
}

static bool is_in_bad_range(const struct mem_dev *d, const struct blk_req *req)
{
    return (req->op == BLK_WRITE || req->op == BLK_ZERO) && d->fail_len_bytes > 0 &&
           req->offset_bytes < d->fail_offset_bytes + d->fail_len_bytes &&
           d->fail_offset_bytes < req->offset_bytes + req->len_bytes;
}

/* Complete one request, or a part of one. */
static void mem_collect(struct blk_engine *base)
{
    struct mem_engine *e = engine_of(base);

    if (base->done_count > 0 || e->op_count == 0)
        return;
    unsigned pick = (unsigned)rng_below(&e->rng, e->op_count);
    struct mem_op *op = e->ops[pick];
    struct blk_req *req = op->req;
    struct mem_dev *d = dev_of(req->dev);
    int r;

    CHECK(req->op != BLK_WRITE || is_unchanged(req, op->version));
    if (op->trouble == TROUBLE_SHORT) {
        happen_in_part(e, d, op);
        return;
    }
    e->ops[pick] = e->ops[--e->op_count];
    if (is_in_bad_range(d, req))
        r = fail(e, d, op, d->fail_errno);
    else if (op->trouble == TROUBLE_ERROR && req->op != BLK_DISCARD)
        r = fail(e, d, op, op->trouble_errno);
    else
        r = happen(e, d, op);
    op_free(op);
    blk_complete(req, r, req->sys_errno);
}

bool mem_engine_step(struct blk_engine *e)
{
    if (e->inflight == 0)
        return false;
    (void)blk_engine_reap(e);
    return true;
}

/* -- power loss ------------------------------------------------------------------------ */

void mem_engine_power_loss(struct blk_engine *base)
{
    struct mem_engine *e = engine_of(base);
    struct mem_dev *d;

    while (e->op_count > 0) {
        unsigned pick = (unsigned)rng_below(&e->rng, e->op_count);
        struct mem_op *op = e->ops[pick];
        e->ops[pick] = e->ops[--e->op_count];
        d = dev_of(op->req->dev);
        if (op->version != NULL &&
            (op->req->op != BLK_GROW || (op->req->offset_bytes <= d->grow_limit_bytes &&
                                         mem_disk_reserve(&d->disk, op->req->offset_bytes) == 0))) {
            mem_disk_add_pending(&d->disk, op->version);
            op->version = NULL;
        }
        op_free(op);
    }
    for (d = TAILQ_FIRST(&e->devices); d != NULL; d = TAILQ_NEXT(d, link)) {
        mem_disk_power_loss(&d->disk, &e->rng, e->garbage_percent);
        d->base.info.size_bytes = d->disk.size_bytes;
        blk_dev_forget(&d->base);
        d->fault_count = 0;
    }
    blk_engine_forget(base);
}

/* -- the engine and its devices ----------------------------------------------------------- */

static void mem_kick(struct blk_engine *e)
{
    (void)e;
}

static void mem_sleep(struct blk_engine *e, int timeout_ms)
{
    (void)e;
    (void)timeout_ms;
}

static void mem_register_memory(struct blk_engine *e, void *base, size_t len_bytes)
{
    (void)e;
    (void)base;
    (void)len_bytes;
}

static int mem_open(struct blk_engine *e, const char *path, unsigned flags, struct blk_dev **ret,
                    struct err *reterr)
{
    (void)e;
    (void)flags;
    (void)ret;
    return err_set(reterr, SNAP_ENOTSUP, "open %s: the memory engine has no files", path);
}

static void mem_free(struct blk_engine *base)
{
    struct mem_engine *e = engine_of(base);

    CHECK(e->op_count == 0);
    free(e->ops);
    blk_engine_done(base);
    free(e);
}

static const struct blk_engine_ops mem_engine_ops = {
    .kind = "memory",
    .free = mem_free,
    .open = mem_open,
    .kick = mem_kick,
    .collect = mem_collect,
    .sleep = mem_sleep,
    .register_memory = mem_register_memory,
};

int blk_engine_new_memory(uint64_t seed, struct blk_engine **ret, struct err *reterr)
{
    struct mem_engine *e = calloc(1, sizeof *e);

    if (e == NULL)
        return err_set(reterr, SNAP_ENOMEM, "make a memory engine: out of memory");
    int r = blk_engine_init(&e->base, &mem_engine_ops, false, reterr);
    if (r != 0) {
        free(e);
        return r;
    }
    rng_init(&e->rng, seed);
    TAILQ_INIT(&e->devices);
    *ret = &e->base;
    return 0;
}

static void mem_close(struct blk_dev *base)
{
    struct mem_dev *d = dev_of(base);

    TAILQ_REMOVE(&engine_of(base->engine)->devices, d, link);
    mem_disk_done(&d->disk);
    free(d->name);
    free(d);
}

/* A block that is all zeros counts as a hole. */
static uint64_t next_block(const struct mem_dev *d, uint64_t offset_bytes, bool want_zero)
{
    uint32_t align = d->base.info.align_bytes;
    uint64_t at = offset_bytes;

    while (at < d->disk.size_bytes) {
        uint64_t end = u64_min((at / align + 1) * align, d->disk.size_bytes);
        if (bytes_are_zero(d->disk.image + at, end - at) == want_zero)
            return at;
        at = end;
    }
    return d->disk.size_bytes;
}

static uint64_t mem_next_data(struct blk_dev *d, uint64_t offset_bytes)
{
    return next_block(dev_of(d), offset_bytes, false);
}

static uint64_t mem_next_hole(struct blk_dev *d, uint64_t offset_bytes)
{
    return next_block(dev_of(d), offset_bytes, true);
}

static const struct blk_dev_ops mem_dev_ops = {
    .submit = mem_submit,
    .close = mem_close,
    .next_data = mem_next_data,
    .next_hole = mem_next_hole,
};

int mem_dev_new(struct blk_engine *e, const char *name, uint64_t size_bytes, uint32_t align_bytes,
                uint64_t grow_limit_bytes, struct blk_dev **ret, struct err *reterr)
{
    if (!u64_is_pow2(align_bytes) || align_bytes < SECTOR_BYTES || size_bytes % align_bytes != 0)
        return err_set(reterr, SNAP_EINVAL,
                       "memory device %s: alignment a power of two from 512, size a multiple of it",
                       name);
    struct mem_dev *d = calloc(1, sizeof *d);
    if (d == NULL)
        return err_set(reterr, SNAP_ENOMEM, "memory device %s: out of memory", name);
    d->name = strdup(name);
    if (d->name == NULL || mem_disk_init(&d->disk, size_bytes) != 0) {
        free(d->name);
        free(d);
        return err_set(reterr, SNAP_ENOMEM, "memory device %s: out of memory", name);
    }
    d->grow_limit_bytes = grow_limit_bytes;
    d->base.info = (struct blk_info){.size_bytes = size_bytes,
                                     .align_bytes = align_bytes,
                                     .can_grow = grow_limit_bytes > 0,
                                     .name = d->name};
    blk_dev_init(&d->base, &mem_dev_ops, e);
    TAILQ_INSERT_TAIL(&engine_of(e)->devices, d, link);
    *ret = &d->base;
    return 0;
}

/* -- the test's side ------------------------------------------------------------------------ */

uint8_t *mem_dev_image(struct blk_dev *d)
{
    return dev_of(d)->disk.image;
}

const uint8_t *mem_dev_platter(struct blk_dev *d)
{
    return dev_of(d)->disk.platter;
}

void mem_dev_settle(struct blk_dev *d)
{
    mem_disk_settle(&dev_of(d)->disk);
}

void mem_dev_fault_at(struct blk_dev *base, enum blk_op op, unsigned n, enum mem_fault_kind kind,
                      int sys_errno)
{
    struct mem_dev *d = dev_of(base);

    CHECK(n > 0 && d->fault_count < FAULTS_MAX);
    d->faults[d->fault_count++] =
        (struct mem_fault){.op = op,
                           .left = n,
                           .trouble = kind == MEM_FAULT_ERROR ? TROUBLE_ERROR : TROUBLE_SHORT,
                           .sys_errno = sys_errno};
}

void mem_dev_fail_range(struct blk_dev *base, uint64_t offset_bytes, uint64_t len_bytes,
                        int sys_errno)
{
    struct mem_dev *d = dev_of(base);

    d->fail_offset_bytes = offset_bytes;
    d->fail_len_bytes = len_bytes;
    d->fail_errno = sys_errno;
}

void mem_engine_set_garbage(struct blk_engine *e, unsigned percent)
{
    engine_of(e)->garbage_percent = percent;
}

uint64_t mem_engine_submitted(const struct blk_engine *e)
{
    return engine_of(e)->submitted;
}

struct mem_counters mem_dev_counters(const struct blk_dev *d)
{
    return dev_of(d)->counters;
}
