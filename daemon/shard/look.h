/* SPDX-License-Identifier: Apache-2.0 */
/* Looking for completions of the disk for a while, instead of sleeping until one wakes us. */
#ifndef SNAP_SHARD_LOOK_H
#define SNAP_SHARD_LOOK_H

#include "common/base/clock.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    LOOK_US_DEFAULT = 100, /* about a flush of a quick disk; longer waits are worth a sleep */
    LOOK_US_MAX = 1000,
    LOOK_SLICE_US = 10,    /* then the sockets are looked at */
    LOOK_REQUESTS_MAX = 2, /* at disks: a write or a flush and its checksums; with more there
                            * is enough to do without */
    LOOK_VAIN_MAX = 8,     /* in a row: this disk is slower than that, and … */
    LOOK_REST_MIN = 64,    /* … so many are left out */
    LOOK_AWAY_US = 500,    /* giving way for so long: somebody computes, and as many, twice … */
    LOOK_REST_MAX = 4096,  /* … as many each time up to about a second's work, are left out */
};

struct shard_look {
    uint64_t longest_ns; /* 0: never */
    uint64_t end_ns;     /* of the look under way; 0: none is */
    unsigned inflight;   /* … for so many requests */
    unsigned vain;       /* in a row */
    unsigned rest;       /* still to be left out */
    unsigned last_rest;  /* because of others; 0: a look has found something since */
};

/* Runs what has completed; how many. */
typedef unsigned shard_look_fn(void *user);

enum shard_look_result {
    LOOK_SLEEP, /* it is not worth it, or no more */
    LOOK_FOUND, /* poll ran some */
    LOOK_AGAIN, /* look at the sockets, without sleeping, then come back */
};

/* A slice of a look, if it is worth it with so many requests in flight. */
enum shard_look_result shard_look_before_sleep(struct shard_look *l, const struct clock *clock,
                                               unsigned inflight, shard_look_fn *poll, void *user);

#endif
