/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of checksum slots in memory, and their way to the side device and back.
 *
 *   absent ──> loading ──> ready <──> writing (a copy: the page may change meanwhile)
 *                 └──> failed: flushes that need it fail
 *
 *   unmarked ──(overwriting wanted)──> doubt ──(page written, side flushed)──> doubt_durable
 *       ^                                        the overwriting goes on ──┘      │
 *       └──────────(no write to it during some flushes, page dirty)───────────────┘
 *
 * Once a flush has made a block's new content durable, the one before is forgotten in memory,
 * and on the disk when the page is written next: until then the slot takes two contents for
 * right where one is, which hides nothing but a write that the disk lost.
 *
 * It must not know what the blocks are. Thread: the engine's.
 */
#include "common/io/sum_priv.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <stdlib.h>
#include <string.h>

static struct sum_page *page_new(struct sum_dev *d, uint64_t no)
{
    struct sum_page *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    p->data = aligned_alloc(SUM_PAGE_BYTES, SUM_PAGE_BYTES);
    if (p->data == NULL) {
        free(p);
        return NULL;
    }
    memset(p->data, 0, SUM_PAGE_BYTES);
    p->dev = d;
    p->no = no;
    p->state = SUM_PAGE_READY;
    p->busy = true;
    LIST_INSERT_HEAD(&d->buckets[no % SUM_BUCKETS], p, bucket);
    TAILQ_INSERT_TAIL(&d->busy, p, link);
    return p;
}

static void page_free_copy(struct sum_page *p)
{
    struct sum_dev *d = p->dev;
    if (p->copy == d->spare_copy)
        d->spare_used = false;
    else
        free(p->copy);
    p->copy = NULL;
}

void sum_page_free(struct sum_page *p)
{
    struct sum_dev *d = p->dev;
    LIST_REMOVE(p, bucket);
    TAILQ_REMOVE(p->busy ? &d->busy : &d->clean, p, link);
    d->clean_count -= p->busy ? 0 : 1;
    page_free_copy(p);
    free(p->data);
    free(p);
}

void sum_page_sort(struct sum_page *p)
{
    struct sum_dev *d = p->dev;
    bool busy = p->state != SUM_PAGE_READY || p->dirty || p->writing || p->has_before || p->doubt ||
                p->writes > 0;
    if (busy && p->busy)
        return;
    TAILQ_REMOVE(p->busy ? &d->busy : &d->clean, p, link);
    d->clean_count -= p->busy ? 0 : 1;
    p->busy = busy;
    TAILQ_INSERT_TAIL(busy ? &d->busy : &d->clean, p, link);
    d->clean_count += busy ? 0 : 1;
    while (d->clean_count > SUM_CLEAN_PAGES) {
        struct sum_page *oldest = TAILQ_FIRST(&d->clean);
        d->fresh_page = u64_max(d->fresh_page, oldest->no + 1);
        sum_page_free(oldest);
    }
}

struct sum_page *sum_page_find(struct sum_dev *d, uint64_t no)
{
    struct sum_page *p;
    LIST_FOREACH (p, &d->buckets[no % SUM_BUCKETS], bucket)
        if (p->no == no)
            return p;
    return NULL;
}

static uint8_t *slot_of(const struct sum_page *p, uint64_t index)
{
    return p->data + index * SUM_SLOT_BYTES;
}

/* -- loading -------------------------------------------------------------------- */

static void page_loaded(struct blk_req *req, int result)
{
    struct sum_page *p = req->user;
    struct sum_dev *d = p->dev;
    d->side_requests--;
    p->state = result < 0 ? SUM_PAGE_FAILED : SUM_PAGE_READY;
    if (result < 0) {
        d->failed = result;
        d->failed_errno = req->sys_errno;
    } else {
        memcpy(p->data, p->copy, SUM_PAGE_BYTES);
        if ((le64_load(slot_of(p, SUM_PAGE_SLOTS)) & 1) != 0) {
            p->doubt = p->doubt_durable = true;
            p->last_write_gen = d->gen;
            d->doubt_count++;
        }
    }
    page_free_copy(p);
    sum_page_sort(p);
    sum_dev_step(d);
}

struct sum_page *sum_page_get(struct sum_dev *d, uint64_t no)
{
    struct sum_page *p = sum_page_find(d, no);
    if (p != NULL)
        return p;
    bool known = no >= d->fresh_page || (no + 1) * SUM_PAGE_BYTES > d->side->info.size_bytes;
    uint8_t *copy = known ? NULL : aligned_alloc(SUM_PAGE_BYTES, SUM_PAGE_BYTES);
    p = known || copy != NULL ? page_new(d, no) : NULL;
    if (p == NULL) {
        free(copy);
        return NULL;
    }
    if (known) {
        sum_page_sort(p);
        return sum_page_find(d, no);
    }
    p->copy = copy;
    p->state = SUM_PAGE_LOADING;
    p->req = (struct blk_req){.op = BLK_READ,
                              .offset_bytes = no * SUM_PAGE_BYTES,
                              .len_bytes = SUM_PAGE_BYTES,
                              .data = copy,
                              .done = page_loaded,
                              .user = p};
    d->side_requests++;
    blk_submit(d->side, &p->req);
    return p;
}

/* -- slots ------------------------------------------------------------------------ */

/* The next flush has to write it. */
static void page_soil(struct sum_page *p, bool due)
{
    p->due = p->due || due;
    if (p->dirty)
        return;
    p->dirty = true;
    p->dirty_gen = p->dev->gen + 1;
}

void sum_page_set(struct sum_page *p, uint64_t block_no, uint64_t now, bool due)
{
    uint64_t i = block_no % SUM_PAGE_SLOTS;
    uint8_t *slot = slot_of(p, i);
    uint64_t before = le64_load(slot);
    if (before == now)
        return;
    if (before != 0 && before != now) {
        le64_store(slot + 8, before);
        p->has_before = true;
    }
    le64_store(slot, now);
    page_soil(p, due);
}

bool sum_page_has(const struct sum_page *p, uint64_t block_no)
{
    return le64_load(slot_of(p, block_no % SUM_PAGE_SLOTS)) != 0;
}

void sum_page_slot(const struct sum_page *p, uint64_t block_no, struct sum_slot *ret)
{
    const uint8_t *slot = slot_of(p, block_no % SUM_PAGE_SLOTS);
    *ret = (struct sum_slot){
        .now = le64_load(slot), .before = le64_load(slot + 8), .in_doubt = p->doubt};
}

void sum_page_settle(struct sum_page *p)
{
    struct sum_dev *d = p->dev;
    if (p->state != SUM_PAGE_READY || p->writes > 0 || p->last_write_gen >= d->gen)
        return;
    for (unsigned i = 0; p->has_before && i < SUM_PAGE_SLOTS; i++)
        le64_store(slot_of(p, i) + 8, 0);
    p->has_before = false;
    if (p->doubt_durable && !p->doubt_writing &&
        (d->doubt_count > SUM_DOUBT_PAGES || d->gen - p->last_write_gen > SUM_DOUBT_FLUSHES)) {
        p->doubt = p->doubt_durable = false;
        d->doubt_count--;
        le64_store(slot_of(p, SUM_PAGE_SLOTS), 0);
        page_soil(p, true);
    }
}

/* -- marks -------------------------------------------------------------------------- */

void sum_page_doubt(struct sum_page *p)
{
    if (p->doubt)
        return;
    p->doubt = true;
    p->dev->doubt_count++;
    le64_store(slot_of(p, SUM_PAGE_SLOTS), 1);
    page_soil(p, true);
}

static void marks_flushed(struct blk_req *req, int result)
{
    struct sum_dev *d = req->user;
    d->side_requests--;
    d->mark_flushing = false;
    if (result < 0) {
        d->failed = result;
        d->failed_errno = req->sys_errno;
    } else if (d->side_flushed < d->mark_side) {
        d->side_flushed = d->mark_side;
    }
    struct sum_page *p;
    TAILQ_FOREACH (p, &d->busy, link) {
        if (!p->doubt_writing)
            continue;
        p->doubt_writing = false;
        p->doubt_durable = result == 0;
    }
    sum_marks_step(d);
    sum_dev_step(d);
}

void sum_marks_step(struct sum_dev *d)
{
    struct sum_page *p;
    if (d->mark_flushing || d->failed < 0)
        return;
    if (d->marking == 0) {
        TAILQ_FOREACH (p, &d->busy, link) {
            if (!p->doubt || p->doubt_durable || p->writing || p->state != SUM_PAGE_READY)
                continue;
            if (sum_page_write(p, d->gen) < 0)
                return;
            p->doubt_writing = true;
            d->marking++;
        }
        return;
    }
    TAILQ_FOREACH (p, &d->busy, link)
        if (p->doubt_writing && p->writing)
            return;
    d->marking = 0;
    d->mark_flushing = true;
    d->mark_side = d->side_written;
    d->mark_flush = (struct blk_req){.op = BLK_FLUSH, .done = marks_flushed, .user = d};
    d->side_requests++;
    blk_submit(d->side, &d->mark_flush);
}

/* -- writing ------------------------------------------------------------------------ */

void sum_page_written_for(struct sum_page *p, struct sum_op *op)
{
    p->writer = op;
    op->pending++;
}

/* A change that came while it was written need not leave it to the flush. A mark has a flush of
 * its own to come, which would wait. */
static void page_write_again(struct sum_page *p)
{
    struct sum_op *op = p->next_writer;
    if (op == NULL || !p->dirty || p->doubt_writing || p->dev->failed < 0 ||
        sum_page_write(p, p->dirty_gen) < 0)
        return;
    sum_page_written_for(p, op);
    p->next_writer = NULL;
}

static void page_written(struct blk_req *req, int result)
{
    struct sum_page *p = req->user;
    struct sum_dev *d = p->dev;
    struct sum_op *writer = p->writer;
    d->side_requests--;
    p->writing = false;
    p->writer = NULL;
    page_free_copy(p);
    if (result < 0) {
        d->failed = result;
        d->failed_errno = req->sys_errno;
    }
    d->side_written++;
    page_write_again(p);
    sum_page_sort(p);
    sum_marks_step(d);
    sum_dev_step(d);
    if (writer != NULL)
        sum_change_part_end(writer);
}

/* Without memory one page at a time, from the spare copy: a mark that is not made is a device that
 * cannot be written any more, and a page that a flush leaves out one that has lost it. */
int sum_page_write(struct sum_page *p, uint64_t gen)
{
    struct sum_dev *d = p->dev;
    CHECK(p->state == SUM_PAGE_READY && !p->writing);
    void *copy = aligned_alloc(SUM_PAGE_BYTES, SUM_PAGE_BYTES);
    if (copy == NULL && d->spare_used)
        return SNAP_ENOMEM;
    d->spare_used = d->spare_used || copy == NULL;
    p->copy = copy != NULL ? copy : d->spare_copy;
    memcpy(p->copy, p->data, SUM_PAGE_BYTES);
    p->dirty = p->due = false;
    p->writing = true;
    p->write_gen = gen;
    p->req = (struct blk_req){.op = BLK_WRITE,
                              .offset_bytes = p->no * SUM_PAGE_BYTES,
                              .len_bytes = SUM_PAGE_BYTES,
                              .data = p->copy,
                              .done = page_written,
                              .user = p};
    d->side_requests++;
    blk_submit(d->side, &p->req);
    return 0;
}
