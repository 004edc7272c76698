/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is used again: the right size, no more of it kept than said. */
#include "client/nbdkit/guard_spare.h"
#include "common/base/rng.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"

#include <stdlib.h>
#include <string.h>

static void spare__what_was_given_is_taken_again(void **state)
{
    struct guard_spares s = {0};
    (void)state;
    void *a = guard_spare_take(&s, 16 * 1024), *b = guard_spare_take(&s, 16 * 1024);
    assert_true(a && b && a != b);
    guard_spare_give(&s, a, 16 * 1024);
    assert_int_equal(s.bytes, 16 * 1024);
    void *small = guard_spare_take(&s, 4096), *large = guard_spare_take(&s, 16 * 1024 + 1);
    assert_true(small != a && large != a);
    assert_ptr_equal(guard_spare_take(&s, 16 * 1024 - 100), a); /* as many pages */
    assert_int_equal(s.bytes, 0);
    guard_spare_give(&s, a, 16 * 1024);
    guard_spare_give(&s, b, 16 * 1024);
    guard_spare_give(&s, small, 4096);
    guard_spare_give(&s, large, 16 * 1024 + 1);
    assert_int_equal(s.bytes, (16 + 16 + 4) * 1024); /* 20 are no power of two */
    guard_spare_give(&s, NULL, 4096);
    guard_spare_free_all(&s);
    assert_int_equal(s.bytes, 0);
}

static void spare__no_more_is_kept_than_said(void **state)
{
    enum { HELD = 64, STEPS = 20000, BYTES_MAX = 3 * 1024 * 1024 };
    static struct {
        uint8_t *memory;
        uint64_t bytes;
    } held[HELD];
    struct guard_spares s = {0};
    struct rng r;
    (void)state;
    seed_init_rng(&r);
    for (unsigned step = 0; step < STEPS; step++) {
        const unsigned i = (unsigned)rng_below(&r, HELD);
        if (held[i].memory) { /* whole, and nobody else's */
            assert_int_equal(held[i].memory[0], i);
            assert_int_equal(held[i].memory[held[i].bytes - 1], i);
            guard_spare_give(&s, held[i].memory, held[i].bytes);
            held[i].memory = NULL;
        } else {
            held[i].bytes = UINT64_C(512) << rng_below(&r, 13);
            if (rng_below(&r, 4) == 0)
                held[i].bytes = 512 + rng_below(&r, 2 * held[i].bytes);
            if (held[i].bytes > BYTES_MAX)
                held[i].bytes = BYTES_MAX;
            held[i].memory = guard_spare_take(&s, held[i].bytes);
            assert_non_null(held[i].memory);
            assert_int_equal((uintptr_t)held[i].memory % 4096, 0);
            held[i].memory[0] = held[i].memory[held[i].bytes - 1] = (uint8_t)i;
        }
        assert_true(s.bytes <= GUARD_SPARE_BYTES_MAX);
    }
    for (unsigned i = 0; i < HELD; i++)
        guard_spare_give(&s, held[i].memory, held[i].bytes);
    guard_spare_free_all(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spare__what_was_given_is_taken_again),
        cmocka_unit_test(spare__no_more_is_kept_than_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
