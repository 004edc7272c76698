/* SPDX-License-Identifier: Apache-2.0 */
/* What is a character, what is not, and what becomes of it before a terminal sees it. */
#include "common/base/utf8.h"
#include "tests/lib/cm.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The plain way: a number to its bytes. */
static size_t encode(unsigned c, char buf[5])
{
    int n = c < 0x80      ? snprintf(buf, 5, "%c", (char)c)
            : c < 0x800   ? snprintf(buf, 5, "%c%c", (char)(0xc0 | c >> 6), (char)(0x80 | (c & 63)))
            : c < 0x10000 ? snprintf(buf, 5, "%c%c%c", (char)(0xe0 | c >> 12),
                                     (char)(0x80 | (c >> 6 & 63)), (char)(0x80 | (c & 63)))
                          : snprintf(buf, 5, "%c%c%c%c", (char)(0xf0 | c >> 18),
                                     (char)(0x80 | (c >> 12 & 63)), (char)(0x80 | (c >> 6 & 63)),
                                     (char)(0x80 | (c & 63)));
    return (size_t)n;
}

static void char_bytes__every_character_and_no_surrogate(void **state)
{
    (void)state;
    for (unsigned c = 1; c < 0x120000; c++) {
        char buf[5];
        size_t len = encode(c, buf);
        bool is = c <= 0x10ffff && !(c >= 0xd800 && c <= 0xdfff);
        if (utf8_char_bytes(buf) != (is ? len : 0))
            fail_msg("U+%X: %zu", c, utf8_char_bytes(buf));
    }
}

static void char_bytes__cut_overlong_and_stray_bytes_are_none(void **state)
{
    (void)state;
    static const char *const none[] = {"\x80",
                                       "\xbf",
                                       "\xc0\x80",
                                       "\xc1\xbf",
                                       "\xc3",
                                       "\xc3(",
                                       "\xe0\x80\x80",
                                       "\xe0\x9f\xbf",
                                       "\xe2\x82",
                                       "\xe2\x82(",
                                       "\xf0\x80\x80\x80",
                                       "\xf0\x8f\xbf\xbf",
                                       "\xf0\x9f\x98",
                                       "\xf5\x80\x80\x80",
                                       "\xfe",
                                       "\xff"};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        if (utf8_char_bytes(none[i]) != 0)
            fail_msg("%zu is taken", i);
}

static void expect_clean(size_t room, const char *before, const char *text, const char *want)
{
    char buf[64];
    memset(buf, '#', sizeof buf);
    (void)snprintf(buf, sizeof buf, "%s", before);
    utf8_append_clean(buf, room, text);
    assert_string_equal(buf, want);
    assert_int_equal(buf[sizeof buf - 1], '#');
}

static void append_clean__controls_and_no_utf8_become_a_question_mark(void **state)
{
    (void)state;
    expect_clean(60, "a: ", "j\xc3\xbcrgen", "a: j\xc3\xbcrgen");
    expect_clean(60, "", "\x1b[2J\n\x7f", "?[2J??");
    expect_clean(60, "",
                 "\xc2\x9b"
                 "2J\xc2\xa0",
                 "?2J\xc2\xa0");
    expect_clean(60, "", "bad\xff\xc3|x", "bad??|x");
}

static void append_clean__ends_with_a_whole_character(void **state)
{
    (void)state;
    expect_clean(6, "ab", "\xe2\x82\xac\xe2\x82\xac", "ab\xe2\x82\xac");
    expect_clean(5, "ab", "\xe2\x82\xac", "ab");
    expect_clean(3, "ab", "c", "ab");
    expect_clean(4, "ab", "c\xff", "abc");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(char_bytes__every_character_and_no_surrogate),
        cmocka_unit_test(char_bytes__cut_overlong_and_stray_bytes_are_none),
        cmocka_unit_test(append_clean__controls_and_no_utf8_become_a_question_mark),
        cmocka_unit_test(append_clean__ends_with_a_whole_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
