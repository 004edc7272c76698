/* SPDX-License-Identifier: Apache-2.0 */
/* Flushes of a device, one at a time.
 *
 *   FLUSH ─────────────────> waits ──(none under way)──> the device's own flush ──> all told
 *   FUA, none under way ───> the engine's, as the flush under way ─────────────────> told
 *   FUA, else ─────────────> plain ──> waits, as a FLUSH
 *
 * A flush that fails may take back what was written, whoever wrote it; one beside it, or the next
 * one, may then find nothing to do and succeed. So none runs beside another, and those that wait
 * for one that fails fail with it: whoever is told of success asked after every failure was told.
 * A FUA write has a flush in it, and counts as one, unless it was refused before that.
 *
 * It must not know what is told to whom, and when: that is blk.c's. Thread: the engine's.
 */
#include "common/io/blk_priv.h"

#include <stddef.h>

static void flush_start(struct blk_dev *d)
{
    STAILQ_CONCAT(&d->flushed, &d->to_flush);
    d->flush = (struct blk_req){.op = BLK_FLUSH, .dev = d};
    d->flushing = &d->flush;
    d->ops->submit(d, &d->flush);
}

void blk_flush_join(struct blk_dev *d, struct blk_req *req)
{
    STAILQ_INSERT_TAIL(&d->to_flush, req, link);
    if (d->flushing == NULL)
        flush_start(d);
}

void blk_flush_fua(struct blk_dev *d, struct blk_req *req)
{
    if (d->flushing == NULL) {
        d->flushing = req;
    } else {
        req->flags &= ~(uint32_t)BLK_FUA;
        req->then_flush = true;
    }
    d->ops->submit(d, req);
}

/* Who ends with it is told next; the next one is the engine's before that, its result comes
 * later. */
static void flush_over(struct blk_dev *d, int result, int sys_errno, bool refused)
{
    struct blk_req *other;

    d->flushing = NULL;
    if (result < 0 && !refused)
        STAILQ_CONCAT(&d->flushed, &d->to_flush);
    STAILQ_FOREACH (other, &d->flushed, link) {
        other->result = result;
        other->sys_errno = sys_errno;
    }
    STAILQ_CONCAT(&d->engine->joined, &d->flushed);
    if (!STAILQ_EMPTY(&d->to_flush))
        flush_start(d);
}

bool blk_flush_ended(struct blk_req *req)
{
    struct blk_dev *d = req->dev;
    int result = req->result;

    if (req->then_flush) {
        req->then_flush = false;
        req->flags |= BLK_FUA;
        req->refused = result < 0; /* the write itself */
        if (result == 0)
            blk_flush_join(d, req);
        return result < 0;
    }
    if (req == d->flushing)
        flush_over(d, result, req->sys_errno, req->refused);
    return req != &d->flush;
}
