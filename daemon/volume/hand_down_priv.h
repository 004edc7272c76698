/* SPDX-License-Identifier: Apache-2.0 */
/* One hand-down, shared by hand_down.c (which, when, the end), hand_down_space.c and
 * hand_down_copy.c. Thread: the shard's. */
#ifndef SNAP_VOLUME_HAND_DOWN_PRIV_H
#define SNAP_VOLUME_HAND_DOWN_PRIV_H

#include "daemon/volume/change.h"
#include "daemon/volume/range.h"

enum {
    HAND_DOWN_CHUNKS = 64,
    HAND_DOWN_BYTES = 1 << 20,
    HAND_DOWN_SCAN_RUNS = 4096, /* looked at before the loop gets its turn */
    HAND_DOWN_SCAN_CHUNKS = 4096,
    HAND_DOWN_COUNT_BATCHES = 8,
};

struct hand_down {
    struct volume *volume;
    struct snapshot *source, *target; /* target NULL: nobody reads through it */
    uint64_t cursor_old;
    uint32_t cursor_seq;
    uint64_t done_chunks, total_chunks;
    bool cancelled;
    struct shard_kick kick;
    struct range range; /* all writes, at the begin */

    uint32_t count; /* of the batch */
    bool end;       /* behind it there is nothing */
    uint64_t old_chunks[HAND_DOWN_CHUNKS], new_chunks[HAND_DOWN_CHUNKS];
    int16_t outcomes[HAND_DOWN_CHUNKS];
    struct blk_req reqs[HAND_DOWN_CHUNKS];
    unsigned reads_pending;
    struct buf *buf;
    struct iovec iov;
    struct cow_put put;
    struct err err;

    struct control_job space; /* asks for what is free where the target grows */
    int space_code;
    uint64_t free_bytes, lacks; /* lacks: chunks, when they had to be counted */
    struct volume_commit commit;
    uint64_t limit_bytes; /* what the target's is raised to */
    char name[HAND_DOWN_SUBJECT_BYTES];
    char path[LIMIT_PATH_BYTES]; /* of its own file; empty: a bound device */
};

/* -- hand_down.c -- */
/* The job ends without having ended its work; it is taken up again later, the others that are
 * due before it. */
void hand_down_wait(struct hand_down *j);
/* All is handed down. */
void hand_down_drop(struct hand_down *j);

/* -- hand_down_space.c -- */
/* See that there is room, then hand_down_copy(). */
void hand_down_reserve(struct hand_down *j);

/* -- hand_down_copy.c -- */
void hand_down_copy(struct hand_down *j);
/* Fill a batch from the cursor on with what the target lacks. False: the scan has not reached the
 * end yet. */
bool hand_down_gather(struct hand_down *j, uint32_t max);
/* 0, or j->err: it has to stop. */
int hand_down_check(struct hand_down *j);

#endif
