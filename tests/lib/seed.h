/* SPDX-License-Identifier: Apache-2.0 */
/* The seed of a random test. */
#ifndef SNAP_TESTS_LIB_SEED_H
#define SNAP_TESTS_LIB_SEED_H

#include "common/base/rng.h"

#include <stdint.h>

/* $SEED when it is set, else a new one. Prints it, so that a failure can be run again. */
uint64_t seed_take(void);
/* seed_take() into a generator. */
void seed_init_rng(struct rng *r);

#endif
