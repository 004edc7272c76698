/* SPDX-License-Identifier: Apache-2.0 */
/* Data into the origin, once what its dependants need is preserved.
 *
 *   reads lock ──> pieces ──> given back
 *
 *   the write        ...[=====|===================|==]....
 *   device's blocks  |-----|-----|-----|-----|-----|-----|
 *   pieces            [edge ][    as it stands     ][edge]
 *
 * An edge is read, changed and written as whole blocks; so is everything where the caller's
 * memory does not fit the device's blocks. Nobody else changes a block meanwhile, since its chunk
 * is locked, and a block is never larger than a chunk.
 *
 * Discarding: what reads as zeros afterwards is known only where the device shows a hole; the
 * rest is zeroed. It must not know of snapshots. Thread: the shard's.
 */
#include "daemon/volume/write_priv.h"

#include "common/base/bytes.h"

#include <string.h>

static void piece_next(struct write_part *p);

static void origin_end(struct write_part *p, bool ok)
{
    write_give_buf(p);
    range_give(&p->volume->origin->reads, &p->reads);
    if (ok)
        write_part_done(p);
    else
        write_fail(p);
}

static void piece_fail(struct write_part *p, const struct blk_req *req, int result)
{
    (void)err_set_errno(&p->w->err, result, req->sys_errno,
                        "%s %llu bytes at %llu of the origin of volume %s",
                        req->op == BLK_READ ? "read" : "write", (unsigned long long)req->len_bytes,
                        (unsigned long long)req->offset_bytes, p->volume->record.name);
    origin_end(p, false);
}

static void piece_written(struct blk_req *req, int result)
{
    struct write_part *p = req->user;
    write_give_buf(p);
    if (result < 0) {
        if ((req->flags & BLK_FUA) != 0 && !req->refused) /* its flush, with all before it */
            loss_happened(&p->volume->origin->loss);
        piece_fail(p, req, result);
        return;
    }
    if ((req->flags & BLK_FUA) == 0)
        p->w->durable = false;
    p->at_bytes = p->piece_end_bytes;
    piece_next(p);
}

static void piece_submit(struct write_part *p, enum blk_op op, uint64_t from, uint64_t to,
                         void *data, blk_done_fn *done)
{
    struct volume_write *w = p->w;
    /* alone it costs one request to be durable, among others a flush for all is cheaper */
    bool alone = from == w->offset_bytes && to == w->offset_bytes + w->len_bytes;
    p->req = (struct blk_req){
        .op = op,
        .flags = alone && w->fua && op != BLK_DISCARD && op != BLK_READ ? BLK_FUA : 0,
        .offset_bytes = from,
        .len_bytes = to - from,
        .data = data,
        .done = done,
        .user = p};
    blk_submit(p->volume->origin->dev, &p->req);
}

/* -- edges, through a buffer ---------------------------------------------------------------- */

void write_copy(const struct write_part *p, uint64_t from, uint64_t to, uint8_t *to_mem)
{
    const struct volume_write *w = p->w;
    if (w->op == VOLUME_WRITE)
        memcpy(to_mem, w->data + (from - w->offset_bytes), (size_t)(to - from));
    else
        memset(to_mem, 0, (size_t)(to - from));
}

static void bounce_write(struct write_part *p)
{
    uint64_t from = p->req.offset_bytes, to = from + p->req.len_bytes;
    write_copy(p, p->at_bytes, p->piece_end_bytes, p->buf->data + (p->at_bytes - from));
    piece_submit(p, BLK_WRITE, from, to, p->buf->data, piece_written);
}

static void bounce_read(struct blk_req *req, int result)
{
    struct write_part *p = req->user;
    if (result < 0)
        piece_fail(p, req, result);
    else
        bounce_write(p);
}

static void bounce_start(struct write_part *p)
{
    uint64_t align = blk_dev_info(p->volume->origin->dev)->align_bytes;
    uint64_t from = p->at_bytes & ~(align - 1), to = u64_align_up(p->piece_end_bytes, align);
    p->buf = write_take_buf(p, to - from, bounce_start);
    if (p->buf != NULL)
        piece_submit(p, BLK_READ, from, to, p->buf->data, bounce_read);
}

/* -- whole blocks ------------------------------------------------------------------------------ */

static void discard_done(struct blk_req *req, int result)
{
    struct write_part *p = req->user;
    struct blk_dev *dev = p->volume->origin->dev;
    uint64_t from = req->offset_bytes, to = from + req->len_bytes;
    if (result < 0)
        piece_fail(p, req, result);
    else if (blk_dev_next_data(dev, from) < to)
        piece_submit(p, BLK_ZERO, from, to, NULL, piece_written);
    else
        piece_written(req, 0);
}

static uint8_t *piece_memory(const struct write_part *p, uint64_t at)
{
    /* a write only reads it; the request's field is shared with reads */
    union {
        const uint8_t *in;
        uint8_t *out;
    } data = {.in = p->w->data + (at - p->w->offset_bytes)};
    return data.out;
}

static bool piece_memory_fits(const struct write_part *p, uint64_t at, uint64_t align)
{
    return p->w->op != VOLUME_WRITE || ((uintptr_t)piece_memory(p, at) & (align - 1)) == 0;
}

static void piece_next(struct write_part *p)
{
    const struct volume_write *w = p->w;
    uint64_t align = blk_dev_info(p->volume->origin->dev)->align_bytes;
    uint64_t at = p->at_bytes, end = p->end_bytes, up = u64_align_up(at, align);
    uint64_t down = end & ~(align - 1);
    if (at == end) {
        origin_end(p, true);
        return;
    }
    if (at == up && at < down && piece_memory_fits(p, at, align)) {
        p->piece_end_bytes = down;
        if (w->op == VOLUME_WRITE)
            piece_submit(p, BLK_WRITE, at, down, piece_memory(p, at), piece_written);
        else if (w->op == VOLUME_ZERO)
            piece_submit(p, BLK_ZERO, at, down, NULL, piece_written);
        else
            piece_submit(p, BLK_DISCARD, at, down, NULL, discard_done);
        return;
    }
    bool edge_only = at != up && up < end && piece_memory_fits(p, up, align);
    p->piece_end_bytes = edge_only ? up : end;
    bounce_start(p);
}

static void origin_locked(struct range *r)
{
    struct write_part *p = r->user;
    p->at_bytes = p->begin_bytes;
    piece_next(p);
}

void write_origin_start(struct write_part *p)
{
    p->reads =
        (struct range){.first = p->first, .last = p->last, .granted = origin_locked, .user = p};
    range_take(&p->volume->origin->reads, &p->reads);
}
