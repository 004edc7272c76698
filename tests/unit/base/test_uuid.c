/* SPDX-License-Identifier: Apache-2.0 */
/* Identities: making, texts, hashes. */
#include "common/base/uuid.h"

#include "tests/lib/cm.h"

#include <stdbool.h>
#include <string.h>

static void uuid_make__is_random_and_of_version_4(void **state)
{
    (void)state;
    struct uuid a = uuid_make(), b = uuid_make();
    assert_false(uuid_equal(&a, &b));
    assert_false(uuid_is_zero(&a));
    assert_int_equal(a.b[6] >> 4, 4);
    assert_int_equal(a.b[8] >> 6, 2);
}

static void uuid_is_zero__sees_each_byte(void **state)
{
    (void)state;
    struct uuid zero = {{0}};
    assert_true(uuid_is_zero(&zero));
    for (int i = 0; i < UUID_BYTES; i++) {
        struct uuid u = zero;
        u.b[i] = 1;
        assert_false(uuid_is_zero(&u));
        assert_false(uuid_equal(&u, &zero));
        assert_true(uuid_hash(&u) != uuid_hash(&zero));
    }
}

static void uuid_format__text_comes_back(void **state)
{
    (void)state;
    struct uuid u, back;
    char text[UUID_TEXT_BYTES];
    for (uint8_t i = 0; i < UUID_BYTES; i++)
        u.b[i] = (uint8_t)(0xa0 + i);
    assert_string_equal(uuid_format(&u, text), "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf");
    assert_int_equal(uuid_parse_text(text, &back, NULL), 0);
    assert_true(uuid_equal(&u, &back));
    assert_int_equal(uuid_parse_text("A0A1A2A3-A4A5-A6A7-A8A9-AAABACADAEAF", &back, NULL), 0);
    assert_true(uuid_equal(&u, &back));
}

static void uuid_parse__refuses_and_leaves_the_result(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "a0a1a2a3",
        "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeag",
        "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaea",
        "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf0",
        " a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf",
        "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf\n",
        "a0a1a2a3a4a5-a6a7-a8a9-aaabacadaeaf00",
        "{a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaea}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct uuid u = {{1, 2, 3}}, before = u;
        struct err e = ERR_INIT;
        assert_int_equal(uuid_parse_text(bad[i], &u, &e), SNAP_EINVAL);
        assert_true(strstr(e.text, "uuid") != NULL);
        assert_true(uuid_equal(&u, &before));
    }
}

/* Stable: tables on disk or in tests may be ordered by it. */
static void uuid_hash__is_the_same_on_every_machine(void **state)
{
    (void)state;
    struct uuid u = {{0}};
    assert_true(uuid_hash(&u) == 0);
    for (uint8_t i = 0; i < UUID_BYTES; i++)
        u.b[i] = i;
    assert_true(uuid_hash(&u) == UINT64_C(0xa084f7d397e50a23));
}

static void uuid_hash__counted_ids_spread_over_buckets(void **state)
{
    (void)state;
    enum { BUCKETS = 64, IDS = 6400 };
    unsigned filled[BUCKETS] = {0};
    for (unsigned i = 0; i < IDS; i++) {
        struct uuid u = {{0}};
        u.b[14] = (uint8_t)(i >> 8);
        u.b[15] = (uint8_t)i;
        filled[uuid_hash(&u) % BUCKETS]++;
    }
    for (unsigned i = 0; i < BUCKETS; i++)
        assert_in_range(filled[i], 50, 150);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uuid_make__is_random_and_of_version_4),
        cmocka_unit_test(uuid_is_zero__sees_each_byte),
        cmocka_unit_test(uuid_format__text_comes_back),
        cmocka_unit_test(uuid_parse__refuses_and_leaves_the_result),
        cmocka_unit_test(uuid_hash__is_the_same_on_every_machine),
        cmocka_unit_test(uuid_hash__counted_ids_spread_over_buckets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
