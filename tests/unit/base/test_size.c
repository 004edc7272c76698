/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes: what is understood, what is refused, and random bytes. */
#include "common/base/size.h"

#include "common/base/limits.h"
#include "common/base/rng.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void size_parse__reads_what_people_write(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } want[] = {
        {"0", 0},
        {"512", 512},
        {"512B", 512},
        {"16K", 16 * KIB},
        {"16k", 16 * KIB},
        {"16KB", 16 * KIB},
        {"16KiB", 16 * KIB},
        {"3M", 3 * MIB},
        {"2G", 2 * GIB},
        {"1.5T", TIB + TIB / 2},
        {"1.5TiB", TIB + TIB / 2},
        {"007K", 7 * KIB},
        {"0.5K", 512},
        {"1.1K", 1126},
        {"0.001K", 1},
        {"0.0009K", 0},
        {"2P", 2048 * TIB},
        {"15E", UINT64_C(15) << 60},
        {"15.999999999999999999E", UINT64_MAX - 1},
        {"0.125E", UINT64_C(1) << 57},
        {"18446744073709551615", UINT64_MAX},
        {"16777215T", UINT64_C(16777215) * TIB},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        uint64_t bytes = 12345;
        struct err e = ERR_INIT;
        if (size_parse(want[i].text, &bytes, &e) != 0 || bytes != want[i].bytes)
            fail_msg("'%s': %" PRIu64 " instead of %" PRIu64 " (%s)", want[i].text, bytes,
                     want[i].bytes, e.text);
    }
}

static void size_parse__refuses_the_rest_and_leaves_the_result(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        " 1",
        "1 ",
        "-1",
        "+1",
        "K",
        ".5K",
        "1.K",
        "1.5",
        "1.5B",
        "1,5K",
        "1KK",
        "1Kb",
        "1Ki",
        "1iB",
        "1KiBx",
        "0x10",
        "1e3",
        "1Z",
        "16T6",
        "1.2.3K",
        "16E",
        "16.0E",
        "20000000000000000000",
        "18446744073709551616",
        "16777216T",
        "1.0000000000000000001K",
        "1.99999999999999999999K",
        "\xc2\xb9",
        "1\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t bytes = 12345;
        struct err e = ERR_INIT;
        if (size_parse(bad[i], &bytes, &e) != SNAP_EINVAL || bytes != 12345)
            fail_msg("'%s' taken as %" PRIu64, bad[i], bytes);
        assert_non_null(strstr(e.text, "16K"));
    }
}

static void size_parse__error_names_the_text_without_its_control_characters(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    uint64_t bytes;
    assert_int_equal(size_parse("12\x1b[31mQ", &bytes, &e), SNAP_EINVAL);
    assert_non_null(strstr(e.text, "size '12?[31mQ' is not understood"));
}

static void size_format__is_exact_or_has_one_decimal(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } want[] = {
        {0, "0"},
        {1, "1"},
        {1023, "1023"},
        {1024, "1K"},
        {1025, "1.0K"},
        {1536, "1.5K"},
        {16 * KIB, "16K"},
        {MIB - 1, "1023.9K"},
        {MIB, "1M"},
        {GIB + GIB / 2, "1.5G"},
        {100 * TIB, "100T"},
        {UINT64_C(1) << 60, "1E"},
        {UINT64_MAX, "15.9E"},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        char buf[16];
        assert_ptr_equal(size_format(want[i].bytes, buf, sizeof buf), buf);
        assert_string_equal(buf, want[i].text);
    }
    char tiny[3];
    assert_string_equal(size_format(16 * KIB, tiny, sizeof tiny), "16");
}

/* A whole number of the largest unit comes back exactly; another one loses less than
 * a tenth of the unit and never grows. */
static void size_format__comes_back_through_parse(void **state)
{
    (void)state;
    struct rng r;
    seed_init_rng(&r);
    for (int i = 0; i < 20000; i++) {
        char buf[16];
        uint64_t bytes = rng_u64(&r) >> rng_below(&r, 64), back;
        assert_int_equal(size_parse(size_format(bytes, buf, sizeof buf), &back, NULL), 0);
        assert_true(back <= bytes);
        assert_true(bytes - back <= bytes / 10);
        if (strchr(buf, '.') == NULL)
            assert_true(back == bytes);
    }
}

/* Random bytes, most of them drawn from what sizes are made of, in a block of just their
 * length. Whatever is taken must begin with a digit and hold nothing foreign. */
static void size_parse__random_bytes_are_refused_or_make_sense(void **state)
{
    (void)state;
    static const char likely[] = "0123456789.KMGTPEkmgtpeiBb -+x";
    struct rng r;
    unsigned taken = 0;
    seed_init_rng(&r);
    for (int i = 0; i < 200000; i++) {
        size_t len = rng_below(&r, 24);
        char *text = malloc(len + 1);
        assert_non_null(text);
        for (size_t k = 0; k < len; k++)
            text[k] = rng_chance(&r, 97) ? likely[rng_below(&r, sizeof likely - 1)]
                                         : (char)(1 + rng_below(&r, 255));
        text[len] = '\0';
        uint64_t bytes = 0;
        struct err e = ERR_INIT;
        int rc = size_parse(text, &bytes, &e);
        if (rc == 0) {
            taken++;
            assert_in_range((unsigned char)text[0], '0', '9');
            assert_int_equal(strspn(text, "0123456789.KMGTPEkmgtpeiB"), len);
            assert_true(bytes >= strtoull(text, NULL, 10));
        } else {
            assert_int_equal(rc, SNAP_EINVAL);
            assert_true(e.text[0] != '\0');
        }
        free(text);
    }
    assert_true(taken > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(size_parse__reads_what_people_write),
        cmocka_unit_test(size_parse__refuses_the_rest_and_leaves_the_result),
        cmocka_unit_test(size_parse__error_names_the_text_without_its_control_characters),
        cmocka_unit_test(size_format__is_exact_or_has_one_decimal),
        cmocka_unit_test(size_format__comes_back_through_parse),
        cmocka_unit_test(size_parse__random_bytes_are_refused_or_make_sense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
