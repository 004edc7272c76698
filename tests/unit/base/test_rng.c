/* SPDX-License-Identifier: Apache-2.0 */
/* The generator: known values, bounds, fairness. */
#include "common/base/rng.h"

#include "common/base/bytes.h"
#include "tests/lib/cm.h"

/* The generator's authors publish the first values of splitmix64 from 0; xoshiro256** is
 * worked out here from its definition, one step by hand. */
static void rng_init__spreads_the_seed_as_published(void **state)
{
    (void)state;
    struct rng r;
    rng_init(&r, 0);
    assert_true(r.s[0] == UINT64_C(0xe220a8397b1dcdaf));
    assert_true(r.s[1] == UINT64_C(0x6e789e6aa1b965f4));
    assert_true(r.s[2] == UINT64_C(0x06c45d188009454f));
    assert_true(r.s[3] == UINT64_C(0xf88bb8a8724c81ec));
}

static void rng_u64__steps_as_published(void **state)
{
    (void)state;
    struct rng r = {.s = {1, 2, 3, 4}};
    assert_true(rng_u64(&r) == 11520);
    assert_true(rng_u64(&r) == 0);
    assert_true(rng_u64(&r) == 1509978240);
    assert_true(rng_u64(&r) == UINT64_C(1215971899390074240));
}

static void rng_u64__same_seed_same_run(void **state)
{
    (void)state;
    struct rng a, b, c;
    int same = 0;
    rng_init(&a, 7);
    rng_init(&b, 7);
    rng_init(&c, 8);
    for (int i = 0; i < 1000; i++) {
        uint64_t v = rng_u64(&a);
        assert_true(v == rng_u64(&b));
        same += v == rng_u64(&c);
    }
    assert_int_equal(same, 0);
}

static void rng_below__stays_below_and_reaches_all(void **state)
{
    (void)state;
    struct rng r;
    rng_init(&r, 1);
    for (uint64_t bound = 1; bound < 50; bound++) {
        uint64_t seen = 0;
        for (int i = 0; i < 2000; i++) {
            uint64_t v = rng_below(&r, bound);
            assert_true(v < bound);
            seen |= UINT64_C(1) << v;
        }
        assert_true(seen == (UINT64_C(1) << bound) - 1);
    }
    assert_true(rng_below(&r, 1) == 0);
}

/* With a bound of 3/4 of the range a bare remainder would double the lowest third. */
static void rng_below__is_fair_at_bounds_near_the_range(void **state)
{
    (void)state;
    const uint64_t bound = (UINT64_MAX / 4) * 3;
    struct rng r;
    unsigned low = 0;
    rng_init(&r, 2);
    for (int i = 0; i < 30000; i++)
        low += rng_below(&r, bound) < bound / 3;
    assert_in_range(low, 9500, 10500);
}

static void rng_chance__keeps_to_its_percents(void **state)
{
    (void)state;
    struct rng r;
    unsigned hits = 0;
    rng_init(&r, 3);
    for (int i = 0; i < 1000; i++) {
        assert_false(rng_chance(&r, 0));
        assert_true(rng_chance(&r, 100));
    }
    for (int i = 0; i < 10000; i++)
        hits += rng_chance(&r, 25) != 0;
    assert_in_range(hits, 2300, 2700);
}

static void rng_fill__fills_just_the_length(void **state)
{
    (void)state;
    for (size_t len = 0; len < 40; len++) {
        struct rng a, b;
        uint8_t buf[41] = {0}, again[41] = {0};
        rng_init(&a, 100 + len);
        rng_init(&b, 100 + len);
        rng_fill(&a, buf, len);
        rng_fill(&b, again, len);
        assert_memory_equal(buf, again, sizeof buf);
        assert_int_equal(buf[len], 0);
        assert_true(len < 8 || !bytes_are_zero(buf + len - 8, 8));
    }
}

static void rng_secret__differs_each_time(void **state)
{
    (void)state;
    static uint8_t a[100000], b[100000];
    rng_secret(a, sizeof a);
    rng_secret(b, sizeof b);
    assert_memory_not_equal(a, b, 32);
    assert_false(bytes_are_zero(a + sizeof a - 32, 32));
    rng_secret(NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rng_init__spreads_the_seed_as_published),
        cmocka_unit_test(rng_u64__steps_as_published),
        cmocka_unit_test(rng_u64__same_seed_same_run),
        cmocka_unit_test(rng_below__stays_below_and_reaches_all),
        cmocka_unit_test(rng_below__is_fair_at_bounds_near_the_range),
        cmocka_unit_test(rng_chance__keeps_to_its_percents),
        cmocka_unit_test(rng_fill__fills_just_the_length),
        cmocka_unit_test(rng_secret__differs_each_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
