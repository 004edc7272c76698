/* SPDX-License-Identifier: Apache-2.0 */
/* Seeds from the environment or the kernel. Any thread. */
#include "tests/lib/seed.h"

#include "common/base/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

uint64_t seed_take(void)
{
    const char *text = getenv("SEED");
    uint64_t seed;

    if (text != NULL && *text != '\0') {
        char *end;
        errno = 0;
        seed = strtoull(text, &end, 0);
        CHECK(errno == 0 && *end == '\0');
    } else {
        rng_secret(&seed, sizeof seed);
    }
    printf("seed: SEED=%" PRIu64 "\n", seed);
    (void)fflush(stdout);
    return seed;
}

void seed_init_rng(struct rng *r)
{
    rng_init(r, seed_take());
}
