/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges of chunks under way: who may go on beside whom.
 *
 * Takers are served first come, first served where they overlap. Exclusive ones overlap with
 * nobody, shared ones with each other. Thread: the shard's. */
#ifndef SNAP_VOLUME_RANGE_H
#define SNAP_VOLUME_RANGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* The taker's, until given back. */
struct range {
    uint64_t first, last; /* chunks, both included */
    bool shared;
    void (*granted)(struct range *r); /* once; inside range_take() when nothing stands in the way */
    void *user;
    /* the lock's own */
    bool held;
    TAILQ_ENTRY(range) link;
};

enum { RANGE_SLOTS = 256, RANGE_NARROW = 4 };

struct range_lock {
    TAILQ_HEAD(, range) ranges; /* held and waiting, in the order they came */
    unsigned count, waiting;
    unsigned wide;               /* of them, those of more than RANGE_NARROW chunks */
    unsigned slots[RANGE_SLOTS]; /* of the others, how many lie on chunks of this remainder */
};

void range_lock_init(struct range_lock *l);
/* Nobody holds or waits. */
void range_lock_done(struct range_lock *l);
void range_take(struct range_lock *l, struct range *r);
/* Give back, or leave the queue; may run granted of others. */
void range_give(struct range_lock *l, struct range *r);

#endif
