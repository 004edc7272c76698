/* SPDX-License-Identifier: Apache-2.0 */
/* What the two loads of `snapctl remote bench` have in common. */
#ifndef SNAP_SNAPCTL_REMOTE_BENCH_H
#define SNAP_SNAPCTL_REMOTE_BENCH_H

#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_connect.h"

enum { BENCH_POOL_BYTES = 32 * 1024 * 1024, BENCH_ALIGN_BYTES = 4096 };

struct bench_args {
    struct remote_words words;
    uint64_t chunks, in_flight, batch_bytes, seconds;
    bool sequential;
    /* hosted volumes only */
    bool write, read, fua, yes;
    uint64_t unit_bytes; /* of one request; 0: a chunk */
    uint64_t skip;       /* of the sequence */
};

/* Which unit next: each once and then from the begin again, in an order that needs no memory.
 * Random is a permutation of the numbers below the next power of two, those beyond the end left
 * out; the same in every run. */
struct bench_order {
    uint64_t count; /* units: at least one */
    uint64_t span;  /* the power of two that holds them */
    unsigned span_bits;
    uint64_t next; /* number of the sequence */
    bool sequential;
};
void bench_order_init(struct bench_order *o, uint64_t count, bool sequential);
uint64_t bench_order_next(struct bench_order *o);
void bench_order_skip(struct bench_order *o, uint64_t count);

uint64_t bench_now_ns(void);
/* Made-up content. Owns: freed with free(). Errors: SNAP_ENOMEM. */
int bench_pool_new(uint64_t bytes, uint8_t **ret, struct err *reterr) SNAP_WUR;

/* Requests to a hosted volume, a snapshot or a clone of it, and the report. */
int bench_hosted(struct cli *cli, struct remote *r, const struct remote_target *t,
                 const struct bench_args *a, struct err *reterr) SNAP_WUR;

#endif
