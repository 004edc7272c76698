/* SPDX-License-Identifier: Apache-2.0 */
/* Space that runs out: where the mark is, and what is told. */
#include "daemon/service/watch.h"

#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

static void low__is_a_twentieth_or_a_gibibyte_or_a_fifth(void **state)
{
    (void)state;
    static const struct {
        uint64_t total_bytes, mark_bytes;
    } cases[] = {
        {3 * MIB, 3 * MIB / 5},                      /* a fifth of a small one */
        {GIB, GIB / 5},         {5 * GIB, GIB},      /* a gibibyte */
        {20 * GIB, GIB},        {40 * GIB, 2 * GIB}, /* a twentieth */
        {1000 * GIB, 50 * GIB}, {0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_false(watch_is_low(cases[i].mark_bytes, cases[i].total_bytes));
        if (cases[i].mark_bytes > 0)
            assert_true(watch_is_low(cases[i].mark_bytes - 1, cases[i].total_bytes));
    }
}

static void count(void *user, const char *text)
{
    unsigned *n = user;
    assert_non_null(strstr(text, "nearly full"));
    (*n)++;
}

static void warnings__free_space_is_told_whatever_there_is(void **state)
{
    (void)state;
    struct tmpdir dir;
    uint64_t free_bytes = 0;
    unsigned n = 0;
    tmpdir_make(&dir);
    watch_warnings(dir.path, NULL, &free_bytes, count, &n);
    assert_true(n <= 1);
    watch_warnings("/nonexistent", NULL, &free_bytes, count, &n);
    assert_int_equal(free_bytes, 0);
    tmpdir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(low__is_a_twentieth_or_a_gibibyte_or_a_fifth),
        cmocka_unit_test(warnings__free_space_is_told_whatever_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
