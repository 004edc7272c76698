/* SPDX-License-Identifier: Apache-2.0 */
/* One rollback, shared by rollback_begin.c, rollback_work.c and rollback.c (its turns and its end).
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_ROLLBACK_PRIV_H
#define SNAP_VOLUME_ROLLBACK_PRIV_H

#include "daemon/volume/change.h"
#include "daemon/volume/job.h"
#include "daemon/volume/write.h"

enum {
    ROLLBACK_PARTS = 4, /* read and written at once */
    ROLLBACK_PART_BYTES = 1 << 20,
    ROLLBACK_WINDOW_CHUNKS = 65536, /* the map is asked about at once */
    ROLLBACK_STEP_RUNS = 1024,      /* … and how often in one turn of the loop */
    ROLLBACK_RETRY_MS = 10000,
};

struct rollback;

/* A stretch that is consecutive in the origin and on one device. */
struct rollback_part {
    struct rollback *r;
    struct snapshot *node; /* while it is read from */
    uint64_t old_chunk;
    uint32_t count;
    struct buf *buf; /* NULL: the part is free */
    struct blk_req req;
    struct volume_write write;
};

/* Who waits for one outcome: of the begin, or of a cancelling. */
struct rollback_asker {
    volume_done_fn *done;
    void *user;
    STAILQ_ENTRY(rollback_asker) link;
};
STAILQ_HEAD(rollback_askers, rollback_asker);

enum rollback_phase {
    ROLLBACK_BEGIN,  /* nothing is durable: space, gate, undo snapshot, commit */
    ROLLBACK_COUNT,  /* how much there is to do */
    ROLLBACK_WORK,   /* chunk by chunk, there or back */
    ROLLBACK_FLUSH,  /* all is written */
    ROLLBACK_COMMIT, /* the record without it */
};

struct rollback {
    struct volume *volume;
    struct volume_job job;
    struct rollback_spec spec;
    enum rollback_phase phase;
    uint32_t to_seq, undo_seq;
    bool back;                       /* cancelled, durably: on the way to undo_seq */
    bool cancelling;                 /* that commit is under way */
    bool waiting;                    /* nothing is under way; the timer tries again */
    char name[LIMIT_NAME_BYTES + 1]; /* of the snapshot it returns to */

    uint64_t cursor, redo_from; /* chunks; from the latter on parts have failed; UINT64_MAX: none */
    uint64_t done, total;
    bool scanned; /* the cursor has come to the end */
    unsigned parts_busy;
    unsigned flushes_failed; /* of the origin, as known when the pass began */
    struct rollback_part parts[ROLLBACK_PARTS];
    struct volume_write flush;
    struct shard_kick kick;
    struct loop_timer timer;
    bool timer_ready;
    struct err err; /* why it stops or waits */

    /* beginning */
    struct control_job space;
    uint64_t need_bytes, free_bytes;
    int space_code;
    struct err space_err;
    bool gated;
    struct uuid undo;
    struct volume_waiter waiter;
    struct rollback_askers begun;

    struct rollback_askers cancelled;
    struct volume_commit commit, cancel_commit;
};

/* -- rollback_work.c -- */
/* Count what is to be done, then do it; at the end rollback_worked(). Also: go on. */
void rollback_work(struct rollback *r);
/* Count only, from the beginning on: rollback_counted(). Nothing is under way. */
void rollback_count(struct rollback *r);

/* -- rollback_begin.c -- */
/* It has been counted for its begin. */
void rollback_begin_counted(struct rollback *r);

/* -- rollback.c -- */
/* In phase ROLLBACK_BEGIN, as v->rollback. NULL: no memory. */
struct rollback *rollback_new(struct volume *v, const struct rollback_spec *spec,
                              struct err *reterr);
void rollback_free(struct rollback *r);
/* One more who waits for an outcome. Errors: SNAP_ENOMEM. */
int rollback_ask(struct rollback_askers *askers, volume_done_fn *done, void *user,
                 struct err *reterr) SNAP_WUR;
/* All of them hear it. */
void rollback_answer(struct rollback_askers *askers, int code, const struct err *err);
void rollback_counted(struct rollback *r);
/* Nothing is under way, and the flush has ended; r->err says how it went. */
void rollback_worked(struct rollback *r);
/* Nothing is under way, for r->err, or because it was told to stop or to turn round. */
void rollback_paused(struct rollback *r);

#endif
