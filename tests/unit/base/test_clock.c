/* SPDX-License-Identifier: Apache-2.0 */
/* The system's clock and RFC 3339 texts. */
#include "common/base/clock.h"

#include "tests/lib/cm.h"

#include <string.h>
#include <time.h>

static void clock_system__never_runs_backwards(void **state)
{
    (void)state;
    const struct clock *c = clock_system();
    uint64_t before = clock_now_ns(c);
    assert_true(before > 0);
    for (int i = 0; i < 1000; i++) {
        uint64_t now = clock_now_ns(c);
        assert_true(now >= before);
        before = now;
    }
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    assert_true(clock_now_ns(c) - before >= 2000000);
}

static void clock_wall__is_the_system_time(void **state)
{
    (void)state;
    int64_t a = (int64_t)time(NULL);
    int64_t b = clock_wall_s();
    assert_true(b >= a - 1 && b <= a + 2);
}

static void clock_format__known_times_read_right(void **state)
{
    (void)state;
    static const struct {
        int64_t s;
        const char *text;
    } want[] = {
        {0, "1970-01-01T00:00:00Z"},
        {-1, "1969-12-31T23:59:59Z"},
        {951782400, "2000-02-29T00:00:00Z"},
        {1769860800, "2026-01-31T12:00:00Z"},
        {INT64_C(253402300799), "9999-12-31T23:59:59Z"},
        {INT64_C(253402300800), "9999-12-31T23:59:59Z"},
        {INT64_MAX, "9999-12-31T23:59:59Z"},
        {INT64_C(-62167219200), "0000-01-01T00:00:00Z"},
        {INT64_MIN, "0000-01-01T00:00:00Z"},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        char buf[CLOCK_TEXT_BYTES];
        memset(buf, '#', sizeof buf);
        assert_ptr_equal(clock_format_s(want[i].s, buf, sizeof buf), buf);
        assert_string_equal(buf, want[i].text);
    }
}

static uint64_t fake_now(void *user)
{
    return *(const uint64_t *)user;
}

static void clock_now__asks_the_clock_that_was_handed_in(void **state)
{
    (void)state;
    uint64_t now = 42;
    struct clock c = {.now_ns = fake_now, .user = &now};
    assert_true(clock_now_ns(&c) == 42);
    now = 43;
    assert_true(clock_now_ns(&c) == 43);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clock_system__never_runs_backwards),
        cmocka_unit_test(clock_wall__is_the_system_time),
        cmocka_unit_test(clock_format__known_times_read_right),
        cmocka_unit_test(clock_now__asks_the_clock_that_was_handed_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
