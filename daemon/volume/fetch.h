/* SPDX-License-Identifier: Apache-2.0 */
/* A stretch of a place's content into memory, and holding still what it is read from.
 *
 * A place is a node, or NULL: the origin. Only of hosted volumes. Nobody waits for a hold with a
 * buffer of the pool in his hands: so those who hold wait for buffers, never the reverse.
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_FETCH_H
#define SNAP_VOLUME_FETCH_H

#include "daemon/volume/range.h"
#include "daemon/volume/volume.h"

struct hold_lock {
    struct range range;
    struct range_lock *lock;
    struct snapshot *clone; /* kept open; NULL: the origin's */
};
/* While it lasts no writer changes these chunks in what the place reads through: its parents that
 * are clones, and the origin. The owner's until given back. */
struct hold {
    struct volume *volume;
    struct snapshot *place;
    uint64_t first, last;            /* chunks */
    bool own;                        /* nor in the place itself, if it is a clone */
    void (*granted)(struct hold *h); /* once, possibly inside hold_take() */
    void *user;
    /* its own */
    struct hold_lock *locks; /* taken one after another */
    unsigned count, at;
    struct hold_lock one;
};
/* Errors: SNAP_ENOMEM. */
int hold_take(struct hold *h, struct err *reterr) SNAP_WUR;
/* Granted or not; one that was never taken (all zeros) may be given back too. */
void hold_give(struct hold *h);

/* Offsets and lengths of a fetch are multiples of it, in memory too. */
uint32_t fetch_unit(const struct volume *v);

struct fetch_io {
    struct blk_req req;
    struct snapshot *node; /* NULL: the origin */
};

struct fetch {
    struct volume *volume;
    struct snapshot *place;
    uint64_t offset_bytes, len_bytes;
    bool once;                               /* it is about to be overwritten */
    uint8_t *data;                           /* where the origin's device has ended: zeros */
    void (*done)(struct fetch *f, int code); /* once, possibly inside fetch_start() */
    void *user;
    struct err *err; /* gets the text */
    /* its own */
    struct fetch_io *ios;
    struct fetch_io one; /* most need no more */
    unsigned count, cap, pending;
    int code;
};
/* Errors: SNAP_EIO, SNAP_EPOISONED (a COW device is being opened again), SNAP_ENOMEM. */
void fetch_start(struct fetch *f);

#endif
