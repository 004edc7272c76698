/* SPDX-License-Identifier: Apache-2.0 */
/* A small seeded generator (xoshiro256**) for tests, the simulator and jitter.
 * Not for secrets: rng_secret() asks the kernel. */
#ifndef SNAP_BASE_RNG_H
#define SNAP_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

struct rng {
    uint64_t s[4];
};

void rng_init(struct rng *r, uint64_t seed);
uint64_t rng_u64(struct rng *r);
/* Uniform in [0, bound); bound > 0. */
uint64_t rng_below(struct rng *r, uint64_t bound);
/* True in `percent` of 100 calls. */
int rng_chance(struct rng *r, unsigned percent);
void rng_fill(struct rng *r, void *buf, size_t len_bytes);
/* Unpredictable bytes from the kernel; never fails (aborts if the kernel has none). */
void rng_secret(void *buf, size_t len_bytes);

#endif
