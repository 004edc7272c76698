/* SPDX-License-Identifier: Apache-2.0 */
/* The device with checksums: requests pass through, writes leave their sums behind.
 *
 *   WRITE   pages at hand ──(overwriting: marked as in doubt)──> sums noted ─┬> below ─┬> done
 *                                                                            └> pages ─┘
 *   FLUSH   ├─> flush below ───────────────────────────────┐
 *           └─> write dirty pages ──> flush the side ──────┴─> done
 *   GROW    the side ──> zeros written to what it gained ──> below ──> done
 *
 * Pages go to the side device beside the data, so that a flush finds little to write: a page that
 * is just being written is written once more behind that, if the change is still in flight then;
 * else it is left to the flush.
 *
 * Flushes come one at a time (blk_flush.c sees to it), and are numbered. One waits for the pages
 * that were dirty, or on their way, when it began; its side flush is left out when no page was
 * written since the last one. It is short, since pages go to space that was written before: where a
 * file system has only set space aside, the flush behind the first write waits for the file's own
 * metadata too. A page that cannot be read or written, or a flush of the side that fails, fails
 * every flush from then on: the writer takes that for what it is, a device whose content is unknown
 * until it is opened again.
 *
 * No side request is without a request of ours that waits for it, so a device without
 * requests can be closed. What fails waits for all that are under way. Thread: the engine's.
 */
#include "common/io/sum_priv.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <stdlib.h>

enum {
    SUM_SIDE_STEP_BYTES = 64 << 10,
    SUM_SIDE_ZEROS_MAX = 1 << 20, /* a growth by more is for much later: it stays as it is */
};

/* never written to */
static _Alignas(SUM_PAGE_BYTES) uint8_t side_zeros[SUM_SIDE_STEP_BYTES];

static const struct blk_dev_ops sum_ops;

/* What the side device must hold for so large a device. */
static uint64_t side_bytes(const struct sum_dev *d, uint64_t dev_bytes)
{
    uint64_t blocks = u64_div_round_up(dev_bytes, d->block_bytes);
    return (1 + u64_div_round_up(blocks, SUM_PAGE_SLOTS)) * SUM_PAGE_BYTES;
}

/* -- requests ---------------------------------------------------------------------- */

static struct sum_op *op_new(struct sum_dev *d, struct blk_req *outer)
{
    struct sum_op *op = d->free_ops;
    if (op != NULL)
        d->free_ops = TAILQ_NEXT(op, link);
    else
        op = malloc(sizeof *op);
    if (op == NULL)
        return NULL;
    *op = (struct sum_op){.dev = d, .outer = outer};
    LIST_INSERT_HEAD(&d->under_way, op, under_way);
    return op;
}

static void op_free(struct sum_op *op)
{
    LIST_REMOVE(op, under_way);
    TAILQ_NEXT(op, link) = op->dev->free_ops;
    op->dev->free_ops = op;
}

/* The device may be gone afterwards. */
static void op_end(struct sum_op *op, int result, int sys_errno)
{
    struct blk_req *outer = op->outer;
    op_free(op);
    blk_finish(outer, result, sys_errno);
}

static void op_forward(struct sum_op *op, blk_done_fn *done)
{
    blk_forward(op->dev->below, &op->inner, op->outer, done, op);
}

static void op_passed(struct blk_req *req, int result)
{
    struct sum_op *op = req->user;
    op_end(op, result, req->sys_errno);
}

/* -- changes ------------------------------------------------------------------------- */

struct page_span {
    uint64_t first, last; /* pages */
};

static struct page_span pages_of(const struct sum_dev *d, const struct blk_req *req)
{
    uint64_t last = (req->offset_bytes + req->len_bytes - 1) / d->block_bytes;
    return (struct page_span){.first = sum_page_of(req->offset_bytes / d->block_bytes),
                              .last = sum_page_of(last)};
}

static void change_end(struct sum_op *op, int result, int sys_errno)
{
    struct sum_dev *d = op->dev;
    struct page_span span = pages_of(d, op->outer);
    for (uint64_t no = span.first; no <= span.last; no++) {
        struct sum_page *p = sum_page_find(d, no);
        if (p == NULL) /* no block of it is covered */
            continue;
        CHECK(p->writes > 0);
        p->writes--;
        p->last_write_gen = d->gen;
        if (p->next_writer == op)
            p->next_writer = NULL;
        p->due = p->due || (p->dirty && op->leaves_pages);
        sum_page_sort(p);
    }
    op_end(op, result, sys_errno);
}

void sum_change_part_end(struct sum_op *op)
{
    if (--op->pending == 0)
        change_end(op, op->result, op->sys_errno);
}

static void change_done(struct blk_req *req, int result)
{
    struct sum_op *op = req->user;
    op->result = result;
    op->sys_errno = req->sys_errno;
    sum_change_part_end(op);
}

/* Those that no memory is found for stay dirty: the flush tries again. */
static void change_write_pages(struct sum_op *op)
{
    struct page_span span = pages_of(op->dev, op->outer);
    for (uint64_t no = span.first; no <= span.last; no++) {
        struct sum_page *p = sum_page_find(op->dev, no);
        if (p == NULL || !p->dirty)
            continue;
        if (p->writing || sum_page_write(p, p->dirty_gen) < 0) {
            op->leaves_pages = true;
            p->next_writer = op;
            continue;
        }
        sum_page_written_for(p, op);
    }
}

/* Have every page of the range at hand, counted as being written to. */
static int change_hold_pages(struct sum_dev *d, const struct blk_req *req)
{
    struct page_span span = pages_of(d, req);
    for (uint64_t no = span.first; no <= span.last; no++) {
        struct sum_page *p = sum_page_get(d, no);
        if (p == NULL) {
            while (no-- > span.first) {
                p = sum_page_find(d, no);
                p->writes--;
                sum_page_sort(p);
            }
            return SNAP_ENOMEM;
        }
        p->writes++;
        sum_page_sort(p);
    }
    return 0;
}

static uint64_t seed_of(const struct sum_dev *d, uint64_t block_no, uint64_t tag)
{
    return d->has_tags ? sum_seed(block_no, tag) : block_no;
}

static void change_note(struct sum_dev *d, const struct blk_req *req)
{
    uint64_t end = req->offset_bytes + req->len_bytes;
    struct iovec one = {.iov_base = req->data, .iov_len = req->len_bytes};
    const struct iovec *iov = req->iov != NULL ? req->iov : &one;
    unsigned iov_count = req->iov != NULL ? req->iov_count : 1;
    uint64_t first = req->offset_bytes / d->block_bytes;
    for (uint64_t b = first; b * d->block_bytes < end; b++) {
        if (!d->covers(d->user, b))
            continue;
        uint64_t from = b * d->block_bytes, sum = 0;
        if (req->op == BLK_WRITE && from >= req->offset_bytes && d->block_bytes <= end - from)
            sum = sum_of(seed_of(d, b, req->tags != NULL ? req->tags[b - first] : SUM_NO_TAG), iov,
                         iov_count, from - req->offset_bytes, d->block_bytes);
        sum_page_set(sum_page_find(d, sum_page_of(b)), b, sum, false);
    }
}

static bool change_is_covered(const struct sum_dev *d, const struct blk_req *req)
{
    uint64_t end = req->offset_bytes + req->len_bytes;
    for (uint64_t b = req->offset_bytes / d->block_bytes; b * d->block_bytes < end; b++)
        if (d->covers(d->user, b))
            return true;
    return false;
}

/* Marks what has to be; true: every page is loaded and marked as it must be. */
static bool change_is_ready(const struct sum_op *op)
{
    struct sum_dev *d = op->dev;
    const struct blk_req *req = op->outer;
    uint64_t end = req->offset_bytes + req->len_bytes;
    bool ready = true;
    for (uint64_t b = req->offset_bytes / d->block_bytes; b * d->block_bytes < end; b++) {
        if (!d->covers(d->user, b))
            continue;
        struct sum_page *p = sum_page_find(d, sum_page_of(b));
        if (p->state == SUM_PAGE_LOADING) {
            ready = false;
        } else if (p->state == SUM_PAGE_READY && !p->doubt_durable && sum_page_has(p, b)) {
            sum_page_doubt(p);
            ready = false;
        }
    }
    return ready;
}

/* Go on unless something is to be waited for. True: it waits. */
static bool change_step(struct sum_op *op)
{
    struct sum_dev *d = op->dev;
    bool over = d->failed < 0 || op->result < 0;
    if (over ? d->side_requests > 0 : !change_is_ready(op)) {
        TAILQ_INSERT_TAIL(&d->waiting, op, link);
        return true;
    }
    if (op->result < 0) { /* its pages are not held */
        op_end(op, op->result, 0);
        return false;
    }
    if (d->failed < 0) {
        change_end(op, d->failed, d->failed_errno);
        return false;
    }
    change_note(d, op->outer);
    op->pending = 1;
    op_forward(op, change_done);
    change_write_pages(op);
    return false;
}

static int change_begin(struct sum_op *op)
{
    struct sum_dev *d = op->dev;
    if ((op->outer->flags & BLK_FILLER) != 0 || !change_is_covered(d, op->outer)) {
        op_forward(op, op_passed);
        return 0;
    }
    int rc = d->failed < 0 ? d->failed : change_hold_pages(d, op->outer);
    if (rc < 0 && d->side_requests == 0)
        return rc;
    op->result = rc;
    if (change_step(op))
        sum_marks_step(d);
    return 0;
}

/* -- flushes --------------------------------------------------------------------------- */

/* True: every page that the flush under way must cover has been written; or never will be. */
static bool flush_pages(struct sum_dev *d)
{
    bool clear = true;
    struct sum_page *p, *next;
    if (d->failed < 0)
        return d->side_requests == 0;
    for (p = TAILQ_FIRST(&d->busy); p != NULL; p = next) {
        next = TAILQ_NEXT(p, link);
        if (p->dirty && p->due && p->dirty_gen <= d->gen) {
            clear = false;
            if (p->state == SUM_PAGE_READY && !p->writing && sum_page_write(p, d->gen) < 0)
                break; /* until the one that is on its way has been written */
        } else if (p->writing && p->write_gen <= d->gen) {
            clear = false;
        }
    }
    return clear;
}

static void flush_part_end(struct sum_op *op, int result, int sys_errno)
{
    struct sum_dev *d = op->dev;
    if (result < 0 && op->result == 0) {
        op->result = result;
        op->sys_errno = sys_errno;
    }
    if (--op->pending > 0)
        return;
    d->flush = NULL;
    struct sum_page *p, *next;
    for (p = TAILQ_FIRST(&d->busy); p != NULL && op->result == 0; p = next) {
        next = TAILQ_NEXT(p, link);
        sum_page_settle(p);
        if (!p->has_before)
            sum_page_sort(p);
    }
    op_end(op, op->result, op->sys_errno);
}

/* One that fails may take back pages, also those that another waits for: one of marks was before
 * it, or a later one finds nothing to do. */
static void flush_side_done(struct blk_req *req, int result)
{
    struct sum_op *op = req->user;
    struct sum_dev *d = op->dev;
    if (result < 0 && d->failed == 0) {
        d->failed = result;
        d->failed_errno = req->sys_errno;
    }
    if (d->failed == 0)
        d->side_flushed = u64_max(d->side_flushed, op->side_mark);
    flush_part_end(op, d->failed, d->failed_errno);
}

static void flush_below_done(struct blk_req *req, int result)
{
    flush_part_end(req->user, result, req->sys_errno);
}

/* Go on with the side's part if its pages are written. */
static void flush_step(struct sum_op *op)
{
    struct sum_dev *d = op->dev;
    if (op->side_begun || !flush_pages(d))
        return;
    op->side_begun = true;
    op->side_mark = d->side_written;
    if (d->failed < 0) {
        flush_part_end(op, d->failed, d->failed_errno);
    } else if (d->side_flushed == d->side_written) {
        flush_part_end(op, 0, 0);
    } else {
        op->side = (struct blk_req){.op = BLK_FLUSH, .done = flush_side_done, .user = op};
        blk_submit(d->side, &op->side);
    }
}

static void flush_begin(struct sum_op *op)
{
    struct sum_dev *d = op->dev;
    CHECK(d->flush == NULL);
    d->flush = op;
    d->gen++;
    op->pending = 2;
    op_forward(op, flush_below_done);
    flush_step(op); /* the flush below has not ended: op does not either */
}

/* -- growing ----------------------------------------------------------------------------- */

static void grow_done(struct blk_req *req, int result)
{
    struct sum_op *op = req->user;
    op->dev->base.info = *blk_dev_info(op->dev->below);
    op_end(op, result, req->sys_errno);
}

static void grow_write_zeros(struct blk_req *req, int result)
{
    struct sum_op *op = req->user;
    uint64_t from = req->offset_bytes + req->len_bytes;
    if (result < 0 || from >= op->side_to) {
        op_forward(op, grow_done); /* zeros that do not get there cost time, nothing else */
        return;
    }
    op->side = (struct blk_req){.op = BLK_WRITE,
                                .flags = BLK_FILLER,
                                .offset_bytes = from,
                                .len_bytes = u64_min(op->side_to - from, sizeof side_zeros),
                                .data = side_zeros,
                                .done = grow_write_zeros,
                                .user = op};
    blk_submit(op->dev->side, &op->side);
}

static void grow_side_done(struct blk_req *req, int result)
{
    struct sum_op *op = req->user;
    if (result < 0) {
        if (op->dev->side_promised == op->side_to)
            op->dev->side_promised = op->side_from;
        op_end(op, result, req->sys_errno);
        return;
    }
    if (op->side_to > op->side_from + SUM_SIDE_ZEROS_MAX) {
        op_forward(op, grow_done);
        return;
    }
    req->offset_bytes = op->side_from;
    req->len_bytes = 0;
    grow_write_zeros(req, 0);
}

static void grow_begin(struct sum_op *op)
{
    struct sum_dev *d = op->dev;
    uint64_t need = side_bytes(d, op->outer->offset_bytes);
    if (need <= d->side->info.size_bytes) {
        op_forward(op, grow_done);
        return;
    }
    op->side_from = u64_max(d->side->info.size_bytes, d->side_promised);
    op->side_to = u64_align_up(need, SUM_SIDE_STEP_BYTES);
    /* nobody else writes zeros there: sums may follow soon */
    d->side_promised = u64_max(op->side_from, op->side_to);
    op->side = (struct blk_req){
        .op = BLK_GROW, .offset_bytes = op->side_to, .done = grow_side_done, .user = op};
    blk_submit(d->side, &op->side);
}

/* -- the device ---------------------------------------------------------------------------- */

static void sum_submit(struct blk_dev *dev, struct blk_req *req)
{
    struct sum_dev *d = CONTAINER_OF(dev, struct sum_dev, base);
    struct sum_op *op = op_new(d, req);
    int rc = op == NULL ? SNAP_ENOMEM : 0;
    if (rc == 0 && req->op == BLK_READ)
        op_forward(op, op_passed);
    else if (rc == 0 && req->op == BLK_FLUSH)
        flush_begin(op);
    else if (rc == 0 && req->op == BLK_GROW)
        grow_begin(op);
    else if (rc == 0)
        rc = change_begin(op);
    if (rc == 0)
        return;
    if (op != NULL)
        op_free(op);
    blk_complete(req, rc, 0);
    blk_engine_poke(dev->engine);
}

/* All that wait are taken first, each is looked at once, and goes back to the list if its page is
 * still on its way. Whoever ends may end the device, but not while others wait or a flush is under
 * way: what none of these needs is not touched. */
void sum_dev_step(struct sum_dev *d)
{
    struct sum_lookup_list lookups = TAILQ_HEAD_INITIALIZER(lookups);
    struct sum_op_list waiting = TAILQ_HEAD_INITIALIZER(waiting);
    struct sum_lookup *l;
    struct sum_op *op;
    bool flushing = d->flush != NULL, waits = false;
    TAILQ_CONCAT(&lookups, &d->lookups, link);
    TAILQ_CONCAT(&waiting, &d->waiting, link);
    while ((l = TAILQ_FIRST(&lookups)) != NULL) {
        TAILQ_REMOVE(&lookups, l, link);
        sum_dev_lookup(&d->base, l);
    }
    while ((op = TAILQ_FIRST(&waiting)) != NULL) {
        TAILQ_REMOVE(&waiting, op, link);
        if (change_step(op))
            waits = true;
    }
    if (waits)
        sum_marks_step(d);
    if (flushing && d->flush != NULL)
        flush_step(d->flush);
}

static void sum_free(struct sum_dev *d)
{
    struct sum_page *p;
    while ((p = TAILQ_FIRST(&d->busy)) != NULL || (p = TAILQ_FIRST(&d->clean)) != NULL)
        sum_page_free(p);
    struct sum_op *op;
    while ((op = LIST_FIRST(&d->under_way)) != NULL)
        op_free(op);
    while ((op = d->free_ops) != NULL) {
        d->free_ops = TAILQ_NEXT(op, link);
        free(op);
    }
    free(d->spare_copy);
    free(d);
}

static void sum_close(struct blk_dev *dev)
{
    struct sum_dev *d = CONTAINER_OF(dev, struct sum_dev, base);
    CHECK(LIST_EMPTY(&d->under_way) && TAILQ_EMPTY(&d->lookups) && d->side_requests == 0);
    blk_dev_close(d->below);
    blk_dev_close(d->side);
    sum_free(d);
}

void sum_dev_abandon(struct blk_dev *dev)
{
    dev->engine->devices--;
    sum_free(CONTAINER_OF(dev, struct sum_dev, base));
}

static uint64_t sum_next_data(struct blk_dev *dev, uint64_t offset_bytes)
{
    return blk_dev_next_data(CONTAINER_OF(dev, struct sum_dev, base)->below, offset_bytes);
}

static uint64_t sum_next_hole(struct blk_dev *dev, uint64_t offset_bytes)
{
    return blk_dev_next_hole(CONTAINER_OF(dev, struct sum_dev, base)->below, offset_bytes);
}

static const struct blk_dev_ops sum_ops = {.submit = sum_submit,
                                           .close = sum_close,
                                           .next_data = sum_next_data,
                                           .next_hole = sum_next_hole};

bool sum_dev_is(const struct blk_dev *d)
{
    return d != NULL && d->ops == &sum_ops;
}

struct sum_dev *sum_dev_make(struct blk_dev *dev, struct blk_dev *side,
                             const struct sum_options *options, bool has_tags)
{
    struct sum_dev *d = calloc(1, sizeof *d);
    if (d == NULL)
        return NULL;
    d->spare_copy = aligned_alloc(SUM_PAGE_BYTES, SUM_PAGE_BYTES);
    if (d->spare_copy == NULL) {
        free(d);
        return NULL;
    }
    d->below = dev;
    d->side = side;
    d->block_bytes = options->block_bytes;
    d->covers = options->covers;
    d->user = options->user;
    d->has_tags = has_tags;
    d->fresh_page = options->create ? 1 : side->info.size_bytes / SUM_PAGE_BYTES;
    for (unsigned i = 0; i < SUM_BUCKETS; i++)
        LIST_INIT(&d->buckets[i]);
    TAILQ_INIT(&d->busy);
    TAILQ_INIT(&d->clean);
    TAILQ_INIT(&d->waiting);
    TAILQ_INIT(&d->lookups);
    LIST_INIT(&d->under_way);
    blk_dev_init(&d->base, &sum_ops, dev->engine);
    d->base.info = dev->info;
    d->base.is_over_another = true;
    return d;
}

/* -- look-ups -------------------------------------------------------------------------------- */

void sum_dev_lookup(struct blk_dev *dev, struct sum_lookup *l)
{
    struct sum_dev *d = CONTAINER_OF(dev, struct sum_dev, base);
    struct err err = ERR_INIT;
    for (; l->next < l->count; l->next++) {
        struct sum_page *p = sum_page_get(d, sum_page_of(l->first_block + l->next));
        if (p != NULL && p->state == SUM_PAGE_LOADING) {
            TAILQ_INSERT_TAIL(&d->lookups, l, link);
            return;
        }
        if (p == NULL || p->state == SUM_PAGE_FAILED) {
            (void)err_set_errno(&err, p == NULL ? SNAP_ENOMEM : SNAP_EIO,
                                p == NULL ? 0 : d->failed_errno, "checksums of %s",
                                dev->info.name != NULL ? dev->info.name : "a device");
            break;
        }
        sum_page_slot(p, l->first_block + l->next, &l->slots[l->next]);
    }
    l->done(l, err.code, &err);
}

bool sum_dev_has_tags(struct blk_dev *dev)
{
    return CONTAINER_OF(dev, struct sum_dev, base)->has_tags;
}

uint64_t sum_dev_of(struct blk_dev *dev, uint64_t block_no, uint64_t tag, const void *content)
{
    const struct sum_dev *d = CONTAINER_OF(dev, struct sum_dev, base);
    union {
        const void *in;
        void *out;
    } data = {.in = content};
    struct iovec iov = {.iov_base = data.out, .iov_len = d->block_bytes};
    return sum_of(seed_of(d, block_no, tag), &iov, 1, 0, d->block_bytes);
}

int sum_dev_set(struct blk_dev *dev, uint64_t block_no, uint64_t tag, const void *content,
                struct err *reterr)
{
    struct sum_dev *d = CONTAINER_OF(dev, struct sum_dev, base);
    struct sum_page *p = sum_page_find(d, sum_page_of(block_no));
    if (p == NULL || p->state != SUM_PAGE_READY)
        return err_set(reterr, SNAP_EBUSY, "the checksum's page is not at hand: look it up first");
    sum_page_set(p, block_no, sum_dev_of(dev, block_no, tag, content), true);
    sum_page_sort(p);
    return 0;
}
