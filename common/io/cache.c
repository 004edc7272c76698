/* SPDX-License-Identifier: Apache-2.0 */
/* The cached device: requests pass through, and what they carried stays in memory.
 *
 *   READ     all there ──> copied ──> done
 *            else: below ──(ended well, nothing changed meanwhile)──> kept ──> done
 *   WRITE    forgotten ──> below ──(ended well, no other change of it meanwhile)──> kept, where
 *            there is a block ──> done
 *   ZERO, DISCARD, fillers   forgotten ──> below ──> done
 *   FLUSH    below ──(failed: all that there is of the device is forgotten)──> done
 *   FUA      likewise, unless it was refused before its flush
 *
 * Who may keep what is decided by a clock of changes and a table of slots, one for each block,
 * or several:
 *
 *   a read keeps a block if none of its changes is under way, and none has begun or ended since
 *   the read began; a write, if it was alone there from its begin to its end.
 *
 * Two writes of a block at once leave nothing, since nobody knows which the disk has done last. A
 * write that fails leaves nothing: what it was to replace was forgotten when it began. A flush
 * that fails may take back what was written before it, whoever wrote it.
 *
 * It must not know which blocks stay in memory. Thread: the engine's.
 */
#include "common/io/cache_priv.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { KEEP_PART = 4 }; /* of the memory: what one request may fill at most */

/* A request on its way below. */
struct cache_op {
    struct cache_dev *dev;
    struct blk_req *outer;
    struct blk_req inner;
    uint64_t clock; /* of a read: when it began */
    uint32_t view;  /* of the device, when it began */
    struct cache_op *next_free;
};

struct cache_dev {
    struct blk_dev base;
    struct blk_dev *below;
    struct blk_cache *cache;
    uint32_t number; /* its own, for slots */
    uint32_t view;   /* what its blocks are known by */
    struct cache_op *free_ops;
};

static const struct blk_dev_ops cache_ops;

/* -- memory of a request, piece by piece --------------------------------------------------- */

struct cursor {
    const struct iovec *iov;
    size_t at;
    struct iovec one;
};

static void cursor_init(struct cursor *x, const struct blk_req *req)
{
    x->one = (struct iovec){.iov_base = req->data, .iov_len = (size_t)req->len_bytes};
    x->iov = req->iov != NULL ? req->iov : &x->one;
    x->at = 0;
}

/* Into the cache, whole sectors: past the processor's caches, since what is kept is seldom wanted
 * at once, and other things are. */
static void copy_in(uint8_t *to, const uint8_t *from, size_t len)
{
#ifdef __SSE2__
    for (size_t i = 0; i < len; i += 4 * sizeof(__m128i)) {
        const __m128i *src = (const __m128i *)(const void *)(from + i);
        __m128i *dst = (__m128i *)(void *)(to + i);
        __m128i a = _mm_loadu_si128(src), b = _mm_loadu_si128(src + 1);
        __m128i c = _mm_loadu_si128(src + 2), d = _mm_loadu_si128(src + 3);
        _mm_stream_si128(dst, a);
        _mm_stream_si128(dst + 1, b);
        _mm_stream_si128(dst + 2, c);
        _mm_stream_si128(dst + 3, d);
    }
    _mm_sfence();
#else
    memcpy(to, from, len);
#endif
}

/* So many bytes between the request's memory and `mem`; mem NULL: passed over. */
static void cursor_move(struct cursor *x, uint8_t *mem, size_t len, bool to_mem)
{
    while (len > 0) {
        size_t n = x->iov->iov_len - x->at;
        n = n < len ? n : len;
        uint8_t *here = (uint8_t *)x->iov->iov_base + x->at;
        if (mem != NULL && to_mem)
            copy_in(mem, here, n);
        else if (mem != NULL)
            memcpy(here, mem, n);
        mem = mem != NULL ? mem + n : NULL;
        x->at += n;
        len -= n;
        if (x->at == x->iov->iov_len && len > 0) {
            x->iov++;
            x->at = 0;
        }
    }
}

/* -- ranges, block by block ------------------------------------------------------------------ */

/* What of a range lies in one block. */
struct piece {
    uint64_t no;
    uint32_t from, len; /* bytes */
    uint32_t sectors;
};

static struct piece piece_at(uint64_t at, uint64_t end)
{
    struct piece p = {.no = at / BLK_CACHE_BLOCK_BYTES,
                      .from = (uint32_t)(at % BLK_CACHE_BLOCK_BYTES)};
    p.len = (uint32_t)u64_min(BLK_CACHE_BLOCK_BYTES - p.from, end - at);
    uint32_t count = p.len / CACHE_SECTOR_BYTES;
    p.sectors = (count == 32 ? UINT32_MAX : (UINT32_C(1) << count) - 1)
                << (p.from / CACHE_SECTOR_BYTES);
    return p;
}

static bool copy_out(struct cache_dev *d, uint64_t at, uint64_t end, struct cursor *x)
{
    struct blk_cache *c = d->cache;
    while (at < end) {
        struct piece p = piece_at(at, end);
        struct cache_block *b = cache_find(c, d->view, p.no);
        if (b == NULL || (b->valid & p.sectors) != p.sectors)
            return false;
        cache_use(b);
        cursor_move(x, cache_data(c, b) + p.from, p.len, false);
        at += p.len;
    }
    atomic_store_explicit(&c->hits, c->hits + 1, memory_order_relaxed);
    return true;
}

/* b: its block; NULL: it is not kept. */
static void keep_piece(struct cache_op *op, struct cache_block *b, const struct piece *p,
                       struct cursor *x)
{
    if (b != NULL)
        b->valid |= p->sectors;
    cursor_move(x, b != NULL ? cache_data(op->dev->cache, b) + p->from : NULL, p->len, true);
}

/* Too much at once would leave nothing of others. */
static bool keeps(const struct cache_op *op)
{
    const struct cache_dev *d = op->dev;
    return op->view == d->view &&
           op->outer->len_bytes / BLK_CACHE_BLOCK_BYTES <= d->cache->count / KEEP_PART;
}

/* -- requests ---------------------------------------------------------------------------------- */

static struct cache_op *op_new(struct cache_dev *d, struct blk_req *outer)
{
    struct cache_op *op = d->free_ops;
    if (op != NULL)
        d->free_ops = op->next_free;
    else
        op = malloc(sizeof *op);
    if (op == NULL)
        return NULL;
    op->dev = d;
    op->outer = outer;
    op->clock = d->cache->clock;
    op->view = d->view;
    return op;
}

/* The device may be gone afterwards. */
static void op_end(struct cache_op *op, const struct blk_req *req, int result)
{
    struct blk_req *outer = op->outer;
    op->next_free = op->dev->free_ops;
    op->dev->free_ops = op;
    outer->refused = req->refused;
    blk_finish(outer, result, req->sys_errno);
}

static void op_forward(struct cache_op *op, blk_done_fn *done)
{
    blk_forward(op->dev->below, &op->inner, op->outer, done, op);
}

static void read_done(struct blk_req *req, int result)
{
    struct cache_op *op = req->user;
    struct cache_dev *d = op->dev;
    uint64_t at = req->offset_bytes, end = at + req->len_bytes;
    struct cursor x;
    cursor_init(&x, op->outer);
    bool keep = result == 0 && keeps(op) && (op->outer->flags & (BLK_ONCE | BLK_MEDIUM)) == 0;
    while (keep && at < end) {
        struct piece p = piece_at(at, end);
        const struct cache_slot *s = cache_slot(d->cache, d->number, p.no);
        bool steady = s->busy == 0 && s->changed <= op->clock;
        keep_piece(op, steady ? cache_take(d->cache, d->view, p.no) : NULL, &p, &x);
        at += p.len;
    }
    op_end(op, req, result);
}

/* Nothing that is there, or on its way, is of the device any more. */
static void forget_all(struct cache_dev *d)
{
    d->view = ++d->cache->views;
}

static void change_begin(struct cache_op *op)
{
    struct cache_dev *d = op->dev;
    uint64_t at = op->outer->offset_bytes, end = at + op->outer->len_bytes;
    d->cache->clock++;
    while (at < end) {
        struct piece p = piece_at(at, end);
        struct cache_slot *s = cache_slot(d->cache, d->number, p.no);
        struct cache_block *b = cache_find(d->cache, d->view, p.no);
        s->mixed = s->busy++ > 0;
        s->changed = d->cache->clock;
        if (b != NULL) {
            if ((b->valid & p.sectors) != 0)
                cache_use(b);
            b->valid &= ~p.sectors;
        }
        at += p.len;
    }
}

static void change_done(struct blk_req *req, int result)
{
    struct cache_op *op = req->user;
    struct cache_dev *d = op->dev;
    uint64_t at = req->offset_bytes, end = at + req->len_bytes;
    bool keep = result == 0 && keeps(op) && req->op == BLK_WRITE && (req->flags & BLK_FILLER) == 0;
    struct cursor x;
    cursor_init(&x, op->outer);
    d->cache->clock++;
    while (at < end) {
        struct piece p = piece_at(at, end);
        struct cache_slot *s = cache_slot(d->cache, d->number, p.no);
        s->changed = d->cache->clock;
        s->busy--;
        bool alone = s->busy == 0 && !s->mixed;
        if (keep)
            keep_piece(op, alone ? cache_find(d->cache, d->view, p.no) : NULL, &p, &x);
        s->mixed = s->mixed && s->busy > 0;
        at += p.len;
    }
    if (result < 0 && (req->flags & BLK_FUA) != 0 && !req->refused)
        forget_all(d);
    op_end(op, req, result);
}

static void flush_done(struct blk_req *req, int result)
{
    struct cache_op *op = req->user;
    if (result < 0)
        forget_all(op->dev);
    op_end(op, req, result);
}

static void grow_done(struct blk_req *req, int result)
{
    struct cache_op *op = req->user;
    op->dev->base.info = *blk_dev_info(op->dev->below);
    op_end(op, req, result);
}

/* -- the device ------------------------------------------------------------------------- */

static void cache_submit(struct blk_dev *dev, struct blk_req *req)
{
    struct cache_dev *d = CONTAINER_OF(dev, struct cache_dev, base);
    struct cursor x;
    cursor_init(&x, req);
    bool there = req->op == BLK_READ && (req->flags & BLK_MEDIUM) == 0 &&
                 copy_out(d, req->offset_bytes, req->offset_bytes + req->len_bytes, &x);
    struct cache_op *op = there ? NULL : op_new(d, req);
    if (op == NULL) {
        blk_complete(req, there ? 0 : SNAP_ENOMEM, 0);
        blk_engine_poke(dev->engine);
        return;
    }
    switch (req->op) {
    case BLK_READ:
        atomic_store_explicit(&d->cache->misses, d->cache->misses + 1, memory_order_relaxed);
        op_forward(op, read_done);
        break;
    case BLK_WRITE:
    case BLK_ZERO:
    case BLK_DISCARD:
        change_begin(op);
        op_forward(op, change_done);
        break;
    case BLK_FLUSH:
        op_forward(op, flush_done);
        break;
    case BLK_GROW:
        op_forward(op, grow_done);
        break;
    }
}

bool blk_cache_read(struct blk_dev *dev, uint64_t offset_bytes, void *data, uint64_t len_bytes)
{
    struct cache_dev *d = CONTAINER_OF(dev, struct cache_dev, base);
    struct cursor x = {.one = {.iov_base = data, .iov_len = (size_t)len_bytes}};
    x.iov = &x.one;
    bool in_range = dev->ops == &cache_ops && len_bytes <= dev->info.size_bytes &&
                    offset_bytes <= dev->info.size_bytes - len_bytes &&
                    ((offset_bytes | len_bytes) & (CACHE_SECTOR_BYTES - 1)) == 0;
    return in_range && copy_out(d, offset_bytes, offset_bytes + len_bytes, &x);
}

static void cache_close(struct blk_dev *dev)
{
    struct cache_dev *d = CONTAINER_OF(dev, struct cache_dev, base);
    struct cache_op *op;
    while ((op = d->free_ops) != NULL) {
        d->free_ops = op->next_free;
        free(op);
    }
    d->cache->devices--;
    blk_dev_close(d->below);
    free(d);
}

static uint64_t cache_next_data(struct blk_dev *dev, uint64_t offset_bytes)
{
    return blk_dev_next_data(CONTAINER_OF(dev, struct cache_dev, base)->below, offset_bytes);
}

static uint64_t cache_next_hole(struct blk_dev *dev, uint64_t offset_bytes)
{
    return blk_dev_next_hole(CONTAINER_OF(dev, struct cache_dev, base)->below, offset_bytes);
}

static const struct blk_dev_ops cache_ops = {.submit = cache_submit,
                                             .close = cache_close,
                                             .next_data = cache_next_data,
                                             .next_hole = cache_next_hole};

int blk_cache_open(struct blk_cache *c, struct blk_dev *below, struct blk_dev **ret,
                   struct err *reterr)
{
    *ret = below;
    if (c == NULL)
        return 0;
    struct cache_dev *d = calloc(1, sizeof *d);
    if (d == NULL)
        return err_set(reterr, SNAP_ENOMEM, "a cached device");
    blk_dev_init(&d->base, &cache_ops, below->engine);
    d->base.info = below->info;
    d->base.is_over_another = true;
    d->below = below;
    d->cache = c;
    d->number = d->view = ++c->views;
    c->devices++;
    *ret = &d->base;
    return 0;
}
