/* SPDX-License-Identifier: Apache-2.0 */
/* One verification, shared by verify.c (its walk, its begin and its end), verify_batch.c (chunks
 * read and compared) and verify_rebuild.c (new side files). Thread: the shard's. */
#ifndef SNAP_VOLUME_VERIFY_PRIV_H
#define SNAP_VOLUME_VERIFY_PRIV_H

#include "common/io/sum.h"
#include "daemon/volume/job.h"
#include "daemon/volume/range.h"
#include "daemon/volume/verify_place.h"

enum {
    VERIFY_CHUNKS = 64,
    VERIFY_BYTES = 1 << 20,
    VERIFY_RETRY_MS = 20, /* no buffer, or a store that is being opened again */
    VERIFY_RETRIES = 500,
};

/* A chunk of the batch. */
struct verify_item {
    struct verify *verify;
    struct snapshot *node;
    uint64_t old_chunk, new_chunk;
    uint8_t *data;
    struct blk_req req;
    struct sum_slot slot;
    struct sum_lookup lookup;
    int code;
};

struct verify {
    struct volume_job job;
    struct volume *volume;
    struct verify_spec spec;
    uint32_t clone_seq; /* of the map at hand; 0: the chain's */
    uint64_t cursor_old;
    uint32_t cursor_seq;
    bool ended, stopping, cancelled;
    bool again; /* the batch at hand is to be read once more */
    unsigned retries;
    struct shard_kick kick;
    struct loop_timer timer;

    struct verify_item items[VERIFY_CHUNKS];
    uint32_t count;
    unsigned pending;
    struct buf *buf;
    struct range hold; /* of a clone's chunks */
    struct snapshot *held;
    struct snapshot *rebuilding;
    struct blk_req flush;

    uint64_t done, total;
    struct verify_found found;
    struct verify_place place;
};

/* -- verify.c -- */
/* The next step, when the loop has had its turn; a scrub leaves the disk some time as well.
 * user: the verification. */
void verify_go_on(void *user);
/* Nothing of it is under way. text: why it failed; may be NULL. */
void verify_end(struct verify *y, enum volume_job_state state, const char *text);

/* -- verify_batch.c -- */
/* Read and compare y->items, whose nodes are kept open; then verify_go_on(). */
void verify_batch(struct verify *y);
/* The same batch once more, if its reading found no memory. */
void verify_batch_again(struct verify *y);

/* -- verify_rebuild.c -- */
/* Close y->rebuilding and open it with a new side file; then verify_go_on(), or the end. */
void verify_rebuild(struct verify *y);
/* Make the checksums that were made anew durable, of one node. False: all are. Then
 * verify_go_on(), or the end. */
bool verify_flush(struct verify *y);

#endif
