/* SPDX-License-Identifier: Apache-2.0 */
/* Names and targets: what may be one, which character is named, and random bytes. */
#include "common/base/name.h"

#include "common/base/rng.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void name_check__takes_good_names(void **state)
{
    (void)state;
    static const char *const good[] = {"a", "0", "Z", "db", "host1.example-net_v2+x:3", "a..b"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_int_equal(name_check(good[i], "volume", NULL), 0);
}

static void name_check__refuses_paths_blanks_and_control_characters(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",    ".",    "..",  "-rf", "_a",       "+a",        ":a",    "a/b",
        "/",   "../a", "a b", " a",  "a\n",      "a\t",       "a\x1b", "a\x7f",
        "a\\", "a'b",  "a\"", "a;b", "a$b",      "a*",        "a@b",   "a=b",
        "a,b", "a%b",  "a~",  "~a",  "\xc3\xa9", "a\xc3\xa9", "a\xff",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err e = ERR_INIT;
        if (name_check(bad[i], "volume", &e) != SNAP_EINVAL)
            fail_msg("'%s' taken", bad[i]);
        assert_memory_equal(e.text, "volume name ", 12);
        assert_int_equal(e.code, SNAP_EINVAL);
    }
}

static void name_check__agrees_with_the_definition_for_every_byte(void **state)
{
    (void)state;
    static const char may_begin[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    static const char may_follow[] = "._-+:";
    for (int c = 1; c < 256; c++) {
        char one[2] = {(char)c, '\0'}, two[3] = {'a', (char)c, '\0'};
        bool begins = strchr(may_begin, c) != NULL;
        bool follows = begins || strchr(may_follow, c) != NULL;
        assert_int_equal(name_check(one, "x", NULL) == 0, begins);
        assert_int_equal(name_check(two, "x", NULL) == 0, follows);
    }
}

static void name_check__length_is_bounded(void **state)
{
    (void)state;
    char name[LIMIT_NAME_BYTES + 2];
    memset(name, 'a', sizeof name);
    name[LIMIT_NAME_BYTES] = '\0';
    assert_int_equal(name_check(name, "snapshot", NULL), 0);
    name[LIMIT_NAME_BYTES] = 'a';
    name[LIMIT_NAME_BYTES + 1] = '\0';
    struct err e = ERR_INIT;
    assert_int_equal(name_check(name, "snapshot", &e), SNAP_EINVAL);
    assert_string_equal(e.text, "snapshot name is longer than 128 characters");
}

static void name_check__error_names_the_character(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    assert_int_equal(name_check("db/1", "volume", &e), SNAP_EINVAL);
    assert_non_null(strstr(e.text, "has '/' as character 3"));
    assert_int_equal(name_check("db\x1b", "volume", &e), SNAP_EINVAL);
    assert_non_null(strstr(e.text, "has 0x1b as character 3"));
    assert_int_equal(name_check("\xff", "identity", &e), SNAP_EINVAL);
    assert_non_null(strstr(e.text, "identity name begins with 0xff"));
}

static void target_parse__splits_volume_and_snapshot(void **state)
{
    (void)state;
    struct target t;
    memset(&t, '#', sizeof t);
    assert_int_equal(target_parse("db", &t, NULL), 0);
    assert_string_equal(t.volume, "db");
    assert_string_equal(t.snapshot, "");
    assert_int_equal(target_parse("db@monday", &t, NULL), 0);
    assert_string_equal(t.volume, "db");
    assert_string_equal(t.snapshot, "monday");
}

static void target_parse__both_parts_may_be_as_long_as_a_name(void **state)
{
    (void)state;
    char text[2 * LIMIT_NAME_BYTES + 4];
    struct target t;
    memset(text, 'a', sizeof text);
    text[LIMIT_NAME_BYTES] = '@';
    text[2 * LIMIT_NAME_BYTES + 1] = '\0';
    assert_int_equal(target_parse(text, &t, NULL), 0);
    assert_int_equal(strlen(t.volume), LIMIT_NAME_BYTES);
    assert_int_equal(strlen(t.snapshot), LIMIT_NAME_BYTES);
    text[2 * LIMIT_NAME_BYTES + 1] = 'a';
    text[2 * LIMIT_NAME_BYTES + 2] = '\0';
    assert_int_equal(target_parse(text, &t, NULL), SNAP_EINVAL);
    text[LIMIT_NAME_BYTES] = 'a';
    text[LIMIT_NAME_BYTES + 1] = '@';
    assert_int_equal(target_parse(text, &t, NULL), SNAP_EINVAL);
}

static void target_parse__refuses_and_leaves_the_result(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } bad[] = {
        {"", "volume name is empty"},       {"@", "volume name is empty"},
        {"@s", "volume name is empty"},     {"v@", "snapshot name is empty"},
        {"v@s@t", "snapshot name has '@'"}, {"v@@s", "snapshot name begins with '@'"},
        {"v/w@s", "volume name has '/'"},   {"v@../s", "snapshot name begins with '.'"},
        {" v@s", "volume name begins"},     {"v@s ", "snapshot name has ' '"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct target t, before;
        struct err e = ERR_INIT;
        memset(&t, '#', sizeof t);
        before = t;
        assert_int_equal(target_parse(bad[i].text, &t, &e), SNAP_EINVAL);
        assert_memory_equal(e.text, bad[i].part, strlen(bad[i].part));
        assert_memory_equal(&t, &before, sizeof t);
    }
}

/* Random bytes in a block of just their length: what is taken is put together again to
 * the same text and its parts are names. */
static void target_parse__random_bytes_are_refused_or_come_back(void **state)
{
    (void)state;
    static const char likely[] = "abyz09AZ._-+:@";
    struct rng r;
    unsigned taken = 0;
    seed_init_rng(&r);
    for (int i = 0; i < 100000; i++) {
        size_t len = rng_chance(&r, 90) ? rng_below(&r, 16) : rng_below(&r, 300);
        char *text = malloc(len + 1), again[2 * LIMIT_NAME_BYTES + 2];
        assert_non_null(text);
        for (size_t k = 0; k < len; k++)
            text[k] = rng_chance(&r, 97) ? likely[rng_below(&r, sizeof likely - 1)]
                                         : (char)(1 + rng_below(&r, 255));
        text[len] = '\0';
        struct target t;
        struct err e = ERR_INIT;
        int rc = target_parse(text, &t, &e);
        if (rc == 0) {
            taken++;
            assert_int_equal(name_check(t.volume, "volume", NULL), 0);
            assert_true(t.snapshot[0] == '\0' || name_check(t.snapshot, "s", NULL) == 0);
            (void)snprintf(again, sizeof again, "%s%s%s", t.volume, t.snapshot[0] ? "@" : "",
                           t.snapshot);
            assert_string_equal(again, text);
        } else {
            assert_int_equal(rc, SNAP_EINVAL);
            for (const char *c = e.text; *c != '\0'; c++)
                assert_in_range((unsigned char)*c, ' ', '~');
        }
        free(text);
    }
    assert_true(taken > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(name_check__takes_good_names),
        cmocka_unit_test(name_check__refuses_paths_blanks_and_control_characters),
        cmocka_unit_test(name_check__agrees_with_the_definition_for_every_byte),
        cmocka_unit_test(name_check__length_is_bounded),
        cmocka_unit_test(name_check__error_names_the_character),
        cmocka_unit_test(target_parse__splits_volume_and_snapshot),
        cmocka_unit_test(target_parse__both_parts_may_be_as_long_as_a_name),
        cmocka_unit_test(target_parse__refuses_and_leaves_the_result),
        cmocka_unit_test(target_parse__random_bytes_are_refused_or_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
