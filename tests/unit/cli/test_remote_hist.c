/* SPDX-License-Identifier: Apache-2.0 */
/* Percentiles from buckets against those of the sorted values. */
#include "client/snapctl/remote_hist.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"

#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void percentile__is_within_a_thirtysecond_of_the_true_one(void **state)
{
    (void)state;
    enum { COUNT = 19997 };
    static uint64_t values[COUNT];
    static const unsigned permille[] = {1, 100, 500, 900, 990, 999, 1000};
    struct rng r;
    seed_init_rng(&r);
    for (unsigned spread = 1; spread < 36; spread += 5) {
        struct hist h = {0};
        for (unsigned i = 0; i < COUNT; i++) {
            values[i] = rng_below(&r, UINT64_C(1) << (1 + rng_below(&r, spread)));
            hist_add(&h, values[i]);
        }
        qsort(values, COUNT, sizeof *values, by_value);
        for (unsigned i = 0; i < sizeof permille / sizeof *permille; i++) {
            uint64_t exact = values[(COUNT * permille[i] + 999) / 1000 - 1];
            uint64_t got = hist_percentile(&h, permille[i]);
            if (got < exact || got > exact + exact / 32)
                fail_msg("%u of 1000: %llu instead of %llu", permille[i], (unsigned long long)got,
                         (unsigned long long)exact);
        }
        assert_true(hist_percentile(&h, 1000) == values[COUNT - 1]);
    }
}

static void percentile__of_none_one_three_and_huge_values(void **state)
{
    (void)state;
    struct hist h = {0};
    assert_true(hist_percentile(&h, 500) == 0);
    hist_add(&h, 1000);
    assert_true(hist_percentile(&h, 1) == 1000);
    assert_true(hist_percentile(&h, 1000) == 1000);
    hist_add(&h, UINT64_MAX);
    assert_true(hist_percentile(&h, 1000) == UINT64_MAX);
    assert_true(h.max == UINT64_MAX && h.count == 2);
    struct hist three = {0};
    for (uint64_t v = 1; v <= 3; v++)
        hist_add(&three, v);
    assert_true(hist_percentile(&three, 500) == 2); /* one value is no half of three */
    assert_true(hist_percentile(&three, 333) == 1);
    assert_true(hist_percentile(&three, 334) == 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentile__is_within_a_thirtysecond_of_the_true_one),
        cmocka_unit_test(percentile__of_none_one_three_and_huge_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
