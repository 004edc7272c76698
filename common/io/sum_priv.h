/* SPDX-License-Identifier: Apache-2.0 */
/* The insides of a sum device; private to common/io. */
#ifndef SNAP_IO_SUM_PRIV_H
#define SNAP_IO_SUM_PRIV_H

#include "common/io/blk_priv.h"
#include "common/io/sum.h"

enum {
    SUM_BUCKETS = 64,
    SUM_CLEAN_PAGES = 64,
    SUM_DOUBT_PAGES = 1024, /* marked at once; more: the idle ones are unmarked early */
    SUM_DOUBT_FLUSHES = 64, /* for how many flushes a page stays marked without a write */
};

enum sum_page_state { SUM_PAGE_LOADING, SUM_PAGE_READY, SUM_PAGE_FAILED };

/* A page of slots in memory. Busy while anything below speaks of it, else clean: it may go. */
struct sum_page {
    struct sum_dev *dev;
    uint64_t no; /* on the side device; the first of slots is 1 */
    enum sum_page_state state;
    bool dirty;
    bool due;           /* … for more than blocks whose writes are in flight, if dirty */
    uint64_t dirty_gen; /* the first flush that must write it, if due */
    bool writing;
    uint64_t write_gen;    /* the flush that writes it, or needs it written */
    struct sum_op *writer; /* the change that had it written, and waits for it; NULL: a flush */
    struct sum_op *next_writer; /* a change that came meanwhile, still in flight; NULL: none */
    bool has_before;            /* some slots know two contents */
    bool doubt;                 /* marked, or to be marked */
    bool doubt_durable;         /* … on the disk */
    bool doubt_writing;         /* written for its mark */
    unsigned writes;            /* of blocks, in flight */
    uint64_t last_write_gen;    /* flushes begun when the last of them ended */
    bool busy;
    uint8_t *data; /* the slots, little-endian as on disk */
    uint8_t *copy; /* what is read or written now */
    struct blk_req req;
    LIST_ENTRY(sum_page) bucket;
    TAILQ_ENTRY(sum_page) link;
};
TAILQ_HEAD(sum_page_list, sum_page);

/* One request on its way. */
struct sum_op {
    struct sum_dev *dev;
    struct blk_req *outer;
    struct blk_req inner;        /* on the device below */
    struct blk_req side;         /* on the side device: the flush, the grow */
    unsigned pending;            /* of a flush: its two sides; of a change: itself and pages */
    uint64_t side_mark;          /* of a flush: pages written when its side flush was submitted */
    uint64_t side_from, side_to; /* of a grow: what the side gains */
    bool side_begun;
    bool leaves_pages; /* of a change: its sums were not in what it had written */
    int result, sys_errno;
    TAILQ_ENTRY(sum_op) link;
    LIST_ENTRY(sum_op) under_way;
};
TAILQ_HEAD(sum_op_list, sum_op);
TAILQ_HEAD(sum_lookup_list, sum_lookup);

struct sum_dev {
    struct blk_dev base;
    struct blk_dev *below, *side;
    uint32_t block_bytes;
    bool (*covers)(void *user, uint64_t block_no);
    void *user;
    bool has_tags;
    uint64_t fresh_page; /* from this one on the side device holds zeros */
    LIST_HEAD(, sum_page) buckets[SUM_BUCKETS];
    struct sum_page_list busy, clean; /* clean: used last at the end */
    unsigned clean_count;
    void *spare_copy; /* of the page that is written when there is no memory for its copy */
    bool spare_used;
    unsigned side_requests;     /* of pages, and the flush of marks: those under way */
    uint64_t gen;               /* flushes begun: the number of the one under way */
    uint64_t side_promised;     /* bytes up to which a grow has asked for */
    uint64_t side_written;      /* pages written */
    uint64_t side_flushed;      /* those known to be durable */
    int failed, failed_errno;   /* a page could not be written: what is on disk is unknown */
    struct sum_op *flush;       /* under way; NULL: none */
    struct sum_op_list waiting; /* writes that wait for their pages, or for marks */
    unsigned doubt_count;
    unsigned marking; /* pages being written for their mark */
    bool mark_flushing;
    struct blk_req mark_flush;
    uint64_t mark_side;             /* pages written when it was submitted */
    struct sum_lookup_list lookups; /* that wait for their pages */
    LIST_HEAD(, sum_op) under_way;
    struct sum_op *free_ops;
};

/* -- pages, sum_page.c -- */
static inline uint64_t sum_page_of(uint64_t block_no)
{
    return 1 + block_no / SUM_PAGE_SLOTS;
}
struct sum_page *sum_page_find(struct sum_dev *d, uint64_t no);
/* Find it or begin to load it. NULL: no memory. */
struct sum_page *sum_page_get(struct sum_dev *d, uint64_t no);
/* The block's content is another now (0: unknown); due: not only when its write has ended. */
void sum_page_set(struct sum_page *p, uint64_t block_no, uint64_t now, bool due);
void sum_page_slot(const struct sum_page *p, uint64_t block_no, struct sum_slot *ret);
/* Begin to write it, for flush gen; it is ready and not being written.
 * Errors: SNAP_ENOMEM: another one has the spare copy; when that has been written sum_marks_step()
 * and sum_dev_step() run. */
int sum_page_write(struct sum_page *p, uint64_t gen) SNAP_WUR;
/* The change has had it written, and waits for that. */
void sum_page_written_for(struct sum_page *p, struct sum_op *op);
/* A part of the change has ended: the device may be gone afterwards. */
void sum_change_part_end(struct sum_op *op);
/* The flush under way has ended well: contents before those that it covers are history. */
void sum_page_settle(struct sum_page *p);
/* Does a write to the block overwrite something? */
bool sum_page_has(const struct sum_page *p, uint64_t block_no);
/* Mark it as in doubt, see sum_marks_step(). */
void sum_page_doubt(struct sum_page *p);
/* Write the pages whose mark is wanted, then flush them. Something is under way until all are made.
 */
void sum_marks_step(struct sum_dev *d);
/* Move it to the list where it belongs now. */
void sum_page_sort(struct sum_page *p);
void sum_page_free(struct sum_page *p);
/* NULL: no memory. */
struct sum_dev *sum_dev_make(struct blk_dev *dev, struct blk_dev *side,
                             const struct sum_options *options, bool has_tags);
/* Something happened to a page: whoever waits looks again. The device may be gone after it. */
void sum_dev_step(struct sum_dev *d);

#endif
