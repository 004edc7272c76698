/* SPDX-License-Identifier: Apache-2.0 */
/* A histogram whose buckets grow with the value: 32 to each doubling.
 *
 *     0 1 2 … 31 │ 32 33 … 63 │ 64 66 … 126 │ 128 132 … │ …
 *      width 1       width 1      width 2       width 4
 */
#include "client/snapctl/remote_hist.h"

static unsigned bucket_of(uint64_t value)
{
    if (value < HIST_SUB)
        return (unsigned)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - 5; /* 2^5 = HIST_SUB */
    unsigned b = (shift + 1) * HIST_SUB + (unsigned)((value >> shift) - HIST_SUB);
    return b < HIST_BUCKETS ? b : HIST_BUCKETS - 1;
}

/* The largest value that goes into the bucket. */
static uint64_t bucket_end(unsigned b)
{
    if (b < HIST_SUB)
        return b;
    unsigned shift = b / HIST_SUB - 1;
    return ((uint64_t)(b % HIST_SUB + HIST_SUB + 1) << shift) - 1;
}

void hist_add(struct hist *h, uint64_t value)
{
    h->count++;
    if (value > h->max)
        h->max = value;
    h->buckets[bucket_of(value)]++;
}

uint64_t hist_percentile(const struct hist *h, unsigned permille)
{
    uint64_t wanted = h->count / 1000 * permille + (h->count % 1000 * permille + 999) / 1000;
    uint64_t seen = 0;
    if (h->count == 0)
        return 0;
    for (unsigned b = 0; b + 1 < HIST_BUCKETS; b++) {
        seen += h->buckets[b];
        if (seen >= wanted && seen > 0)
            return bucket_end(b) < h->max ? bucket_end(b) : h->max;
    }
    return h->max;
}
