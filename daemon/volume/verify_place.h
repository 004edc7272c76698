/* SPDX-License-Identifier: Apache-2.0 */
/* Where in the tables the exceptions stand that a verification found faulty; see verify_place.c.
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_VERIFY_PLACE_H
#define SNAP_VOLUME_VERIFY_PLACE_H

#include "daemon/volume/verify_found.h"

struct verify_place {
    /* filled in by the caller */
    struct volume *volume;
    struct verify_found *found;
    uint8_t *area; /* a chunk, aligned; the caller's until the last done */
    void (*done)(void *user);
    void *user;

    /* its own */
    uint32_t next;                                  /* faults before it have been looked for */
    struct verify_fault *wanted[VERIFY_FAULTS_MAX]; /* of one node, by their old_chunks */
    uint32_t wanted_count, wanted_left;
    uint64_t start, areas, looked; /* the first area looked at; of how many; at so many of them */
    struct snapshot *node;         /* while an area of it is read */
    struct blk_req req;
};

/* Look at an area; done runs later, and then there may be another. False: none is left, and done
 * does not run. */
bool verify_place_step(struct verify_place *p);

#endif
