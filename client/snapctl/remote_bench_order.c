/* SPDX-License-Identifier: Apache-2.0 */
/* Made-up content and the order in which it is put somewhere.
 *
 * The permutation is of odd factors and shifted exclusive-ors, modulo a power of two: each can be
 * undone, so two numbers never become one.
 */
#include "client/snapctl/remote_bench.h"

#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/rng.h"

#include <stdlib.h>

void bench_order_init(struct bench_order *o, uint64_t count, bool sequential)
{
    *o = (struct bench_order){.count = count, .span = 1, .sequential = sequential};
    while (o->span < count) {
        o->span *= 2;
        o->span_bits++;
    }
}

static uint64_t permute(const struct bench_order *o, uint64_t x)
{
    uint64_t mask = o->span - 1;
    unsigned shift = o->span_bits / 2 + 1;
    x = (x * UINT64_C(0x9e3779b97f4a7c15)) & mask;
    x ^= x >> shift;
    x = (x * UINT64_C(0xbf58476d1ce4e5b9)) & mask;
    x ^= x >> shift;
    return x;
}

uint64_t bench_order_next(struct bench_order *o)
{
    uint64_t unit;
    do {
        uint64_t n = o->next++;
        unit = o->sequential ? n % o->count : permute(o, n & (o->span - 1));
    } while (unit >= o->count);
    return unit;
}

void bench_order_skip(struct bench_order *o, uint64_t count)
{
    for (uint64_t i = 0; i < count % o->count; i++)
        (void)bench_order_next(o);
}

uint64_t bench_now_ns(void)
{
    return clock_now_ns(clock_system());
}

int bench_pool_new(uint64_t bytes, uint8_t **ret, struct err *reterr)
{
    struct rng rng;
    uint8_t *pool = aligned_alloc(BENCH_ALIGN_BYTES, u64_align_up(bytes, BENCH_ALIGN_BYTES));
    if (pool == NULL)
        return err_set(reterr, SNAP_ENOMEM, "buffers");
    rng_init(&rng, 1);
    rng_fill(&rng, pool, bytes);
    *ret = pool;
    return 0;
}
