/* SPDX-License-Identifier: Apache-2.0 */
/* Loads, stores, sums and the search for zeroes. */
#include "common/base/bytes.h"

#include "tests/lib/cm.h"

#include <stdlib.h>

static void le_store__lays_bytes_out_low_first(void **state)
{
    (void)state;
    uint8_t b[9] = {0};
    le64_store(b + 1, UINT64_C(0x0807060504030201));
    for (uint8_t i = 0; i < 9; i++)
        assert_int_equal(b[i], i);
    assert_true(le64_load(b + 1) == UINT64_C(0x0807060504030201));
    assert_int_equal(le32_load(b + 1), 0x04030201);
    assert_int_equal(le16_load(b + 3), 0x0403);
    le32_store(b + 1, 0xa1b2c3d4);
    assert_int_equal(b[1], 0xd4);
    assert_int_equal(b[4], 0xa1);
    le16_store(b, 0xbeef);
    assert_int_equal(b[0], 0xef);
    assert_int_equal(b[1], 0xbe);
}

static void u64_div_round_up__does_not_wrap(void **state)
{
    (void)state;
    assert_true(u64_div_round_up(0, 7) == 0);
    assert_true(u64_div_round_up(7, 7) == 1);
    assert_true(u64_div_round_up(8, 7) == 2);
    assert_true(u64_div_round_up(UINT64_MAX, 2) == UINT64_C(1) << 63);
    assert_true(u64_div_round_up(UINT64_MAX, UINT64_MAX) == 1);
}

static void u64_align_up__reaches_the_next_multiple(void **state)
{
    (void)state;
    assert_true(u64_align_up(0, 4096) == 0);
    assert_true(u64_align_up(1, 4096) == 4096);
    assert_true(u64_align_up(4096, 4096) == 4096);
    assert_true(u64_align_up(5, 1) == 5);
    assert_true(u64_is_pow2(1) && u64_is_pow2(UINT64_C(1) << 63));
    assert_false(u64_is_pow2(0) || u64_is_pow2(3));
    assert_true(u64_min(1, 2) == 1 && u64_max(1, 2) == 2);
}

static void container_of__leads_back(void **state)
{
    (void)state;
    struct outer {
        int first;
        int second;
    } o;
    assert_ptr_equal(CONTAINER_OF(&o.second, struct outer, second), &o);
    assert_int_equal(ARRAY_LEN(((int[]){1, 2, 3})), 3);
}

/* Exactly as long as asked, so that AddressSanitizer sees a byte too many. */
static void bytes_are_zero__finds_each_byte_at_each_length(void **state)
{
    (void)state;
    assert_true(bytes_are_zero("", 0));
    for (size_t len = 1; len <= 100; len++) {
        uint8_t *b = calloc(1, len);
        assert_non_null(b);
        assert_true(bytes_are_zero(b, len));
        for (size_t at = 0; at < len; at++) {
            b[at] = 0x80;
            assert_false(bytes_are_zero(b, len));
            b[at] = 0;
        }
        for (size_t skip = 0; skip < len; skip++)
            assert_true(bytes_are_zero(b + skip, len - skip));
        free(b);
    }
}

static void bytes_are_zero__repeating_pattern_is_not_zero(void **state)
{
    (void)state;
    uint8_t b[4096];
    memset(b, 0x55, sizeof b);
    assert_false(bytes_are_zero(b, sizeof b));
    memset(b, 0, 16);
    assert_false(bytes_are_zero(b, sizeof b));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(le_store__lays_bytes_out_low_first),
        cmocka_unit_test(u64_div_round_up__does_not_wrap),
        cmocka_unit_test(u64_align_up__reaches_the_next_multiple),
        cmocka_unit_test(container_of__leads_back),
        cmocka_unit_test(bytes_are_zero__finds_each_byte_at_each_length),
        cmocka_unit_test(bytes_are_zero__repeating_pattern_is_not_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
