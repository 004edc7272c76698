/* SPDX-License-Identifier: Apache-2.0 */
/* One write under way, shared by write.c (its way), write_keep.c (old content), write_origin.c and
 * write_clone.c (new content), write_put.c and write_batch.c.
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_WRITE_PRIV_H
#define SNAP_VOLUME_WRITE_PRIV_H

#include "daemon/volume/fetch.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/write.h"

#include "common/base/buf.h"
#include "common/io/blk.h"

enum {
    WRITE_PART_BYTES = 1 << 20, /* of content in memory at a time; at least one chunk */
    WRITE_PART_CHUNKS = 256,
    WRITE_SCAN_CHUNKS = 4096, /* asked for in one go whether a dependant lacks them */
};
/* What is zeroed in one request where nothing is to be preserved. */
#define WRITE_ZERO_BYTES (UINT64_C(64) << 20)

/* Content on its way into one dependant, or into the clone that is written. */
struct write_put {
    struct cow_put put;
    struct write_part *part;
    struct snapshot *node;
    SLIST_ENTRY(write_put) link;
    uint32_t count;
    uint64_t *old_chunks;
    struct iovec *iov;
    int16_t *outcomes;
};
SLIST_HEAD(write_puts, write_put);

/* What became of puts, from harmless to fatal. */
enum write_verdict { WRITE_OK, WRITE_AGAIN, WRITE_FULL, WRITE_FAILED };

/* One for the whole write, which goes from part to part with it. The plan holds for a part, or
 * until it is made anew; what stands under a later stage, while that lasts. */
struct write_part {
    struct volume_write *w;
    struct volume *volume;
    struct snapshot *place; /* the clone; NULL: the origin */
    bool locked;            /* w->range is taken, the clone kept open */

    /* -- planned, write_keep_plan() -- */
    uint64_t first, last; /* chunks of this part */
    uint64_t begin_bytes, end_bytes;
    uint64_t last_loss;     /* of loss.h, when what is not durable yet began to be written */
    struct snapshot **deps; /* who depends on the place */
    unsigned dep_count, dep_cap;
    struct snapshot *few_deps[2];   /* what deps is, until there are more */
    bool lacks;                     /* some of them lack chunks */
    uint64_t want_first, want_last; /* those are among these */

    /* -- old content is read: what dependants lack; or chunks of the clone that are written in part
     */
    struct buf *buf; /* nobody waits for a lock while he has one */
    struct hold hold;
    struct fetch fetch;
    unsigned edge;
    struct write_batch *batch; /* NULL: for itself */
    STAILQ_ENTRY(write_part) batch_link;

    /* -- content is put, into dependants or into the clone -- */
    struct write_puts puts;
    unsigned puts_pending;
    enum write_verdict verdict; /* the worst so far … */
    struct snapshot *culprit;   /* … of that dependant; also one that is given up */
    struct err why;

    /* -- data is written: into the origin piece by piece; into the clone, in place -- */
    struct range reads; /* the origin's */
    uint64_t at_bytes, piece_end_bytes;
    struct blk_req req;
    struct blk_req *reqs; /* in place; and a put */
    unsigned reqs_pending;

    /* -- it is flushed -- */
    uint64_t flush_covers; /* of what was written, see loss.h */

    /* -- it waits, on o->waits -- */
    void (*resume)(struct write_part *p);
    uint64_t give_up_ns; /* stores to be opened again are waited for until then; 0: not yet */
    TAILQ_ENTRY(write_part) wait_link;
};

static inline uint64_t write_chunk_bytes(const struct write_part *p)
{
    return (uint64_t)p->volume->chunk_sectors * SECTOR_BYTES;
}

static inline bool write_skips_holes(const struct write_part *p)
{
    const struct volume_write *w = p->w;
    return (w->op == VOLUME_ZERO || w->op == VOLUME_DISCARD) && !w->fua && !w->rollback &&
           p->place == NULL && p->volume->origin->dev != NULL;
}

/* -- write.c -- */
/* The write fails with w->err. */
void write_fail(struct write_part *p);
/* Look at the part at the cursor (anew). */
void write_plan(struct write_part *p);
/* The part's data is written. */
void write_part_done(struct write_part *p);
/* A store is busy or being opened again: let go of everything, look at the part anew later.
 * why: what the write fails with when that takes too long. */
void write_wait_store(struct write_part *p, const struct err *why);
/* For p->buf. NULL: there is none, and resume runs when there may be; what is locked stays so. */
struct buf *write_take_buf(struct write_part *p, uint64_t bytes,
                           void (*resume)(struct write_part *p));
void write_give_buf(struct write_part *p);

/* -- write_put.c -- */
/* Room for `count` chunks. NULL: no memory. Owns: freed with free(), once submitted with
 * write_put_free(). */
struct write_put *write_put_new(struct write_part *p, struct snapshot *node, uint32_t count);
void write_put_add(struct write_put *x, uint64_t old_chunk, uint8_t *data, uint32_t chunk_bytes);
/* Hand it to its node's store; done gets it when it is decided. */
void write_put_submit(struct write_put *x,
                      void (*done)(struct cow_put *put, int code, const struct err *err));
/* One that was submitted and has been decided. */
void write_put_free(struct write_put *x);
/* The worst of its outcomes. */
enum write_verdict write_put_verdict(const struct write_put *x);
/* Takes new exceptions now? WRITE_AGAIN: soon, perhaps; WRITE_FAILED: no. */
enum write_verdict write_node_ready(const struct snapshot *s, struct err *reterr);

/* -- write_batch.c -- */
/* Its reading begins in this turn; p->batch, or NULL: no memory, so it is for itself. */
void write_batch_join(struct write_part *p);
/* Its reading has ended: write_keep_put() when that of the batch has, perhaps at once. */
void write_batch_read(struct write_part *p);
/* One that had joined is not put with the others. b may be NULL. */
void write_batch_leave(struct write_batch *b);

/* -- write_keep.c -- */
/* Where the part at the cursor ends, and whether it has chunks to preserve.
 * Errors: SNAP_ENOMEM. */
int write_keep_plan(struct write_part *p, struct err *reterr) SNAP_WUR;
void write_keep_start(struct write_part *p);
/* What was read is put into each dependant that lacks it; or the write fails with w->err. */
void write_keep_put(struct write_part *p);

/* -- write_origin.c, write_clone.c -- */
void write_origin_start(struct write_part *p);
void write_clone_start(struct write_part *p);
/* Bytes [from, to) of the volume, as they will be, to memory. */
void write_copy(const struct write_part *p, uint64_t from, uint64_t to, uint8_t *to_mem);

#endif
