/* SPDX-License-Identifier: Apache-2.0 */
/* Counters of one part: written by its shard, read by anybody. */
#ifndef SNAP_SERVICE_METRICS_H
#define SNAP_SERVICE_METRICS_H

#include "common/base/err.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { METRICS_METHODS = 128, METRICS_BUCKETS = 14, METRICS_CODES = 32 };

/* Upper bounds in microseconds; the last bucket has none. */
extern const uint64_t metrics_bounds_us[METRICS_BUCKETS - 1];

enum metrics_latency { METRICS_PUT, METRICS_READ, METRICS_WRITE, METRICS_OTHER, METRICS_LATENCIES };

struct metrics_histogram {
    _Atomic uint64_t buckets[METRICS_BUCKETS];
    _Atomic uint64_t sum_us, count;
};

struct metrics {
    _Atomic uint64_t requests[METRICS_METHODS];
    _Atomic uint64_t errors[METRICS_CODES]; /* by the code's number on the wire */
    _Atomic uint64_t payload_in_bytes, payload_out_bytes;
    _Atomic uint64_t connections_opened, connections_refused;
    _Atomic uint64_t leases_lost;
    /* of hosted volumes and their snapshots */
    _Atomic uint64_t hosted_reads, hosted_read_bytes, hosted_writes, hosted_write_bytes;
    _Atomic uint64_t hosted_zeroes, hosted_flushes;
    struct metrics_histogram latency[METRICS_LATENCIES];
};

static inline void metrics_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}
static inline uint64_t metrics_get(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit((_Atomic uint64_t *)(uintptr_t)counter, memory_order_relaxed);
}
void metrics_time(struct metrics_histogram *h, uint64_t elapsed_ns);
/* A request was answered; code 0 or a negative SNAP_E…. */
void metrics_request(struct metrics *m, unsigned method, int code, uint64_t elapsed_ns);

struct server;
/* The whole daemon as OpenMetrics text. Waits for the shards, a short time at most.
 * Owns: *ret_text is malloc'd. Thread: main's. Errors: SNAP_ENOMEM. */
int metrics_scrape(struct server *server, char **ret_text, size_t *ret_len,
                   struct err *reterr) SNAP_WUR;

#endif
