/* SPDX-License-Identifier: Apache-2.0 */
/* Latencies in buckets: counts of any number of them in 8 KiB, to 3 % of their value. */
#ifndef SNAP_SNAPCTL_REMOTE_HIST_H
#define SNAP_SNAPCTL_REMOTE_HIST_H

#include <stdint.h>

enum { HIST_SUB = 32, HIST_BUCKETS = HIST_SUB * 32 };

struct hist {
    uint64_t count, max;
    uint64_t buckets[HIST_BUCKETS];
};

void hist_add(struct hist *h, uint64_t value);
/* The value that `permille` of 1000 do not exceed, rounded up to its bucket's end but not above
 * the largest that was added; 0 when there are none. */
uint64_t hist_percentile(const struct hist *h, unsigned permille);

#endif
