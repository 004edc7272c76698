/* SPDX-License-Identifier: Apache-2.0 */
/* Who hears of a failed flush, how often, and until when. */
#include "daemon/volume/loss.h"
#include "tests/lib/cm.h"

#include <string.h>

static struct uuid client_no(unsigned n)
{
    struct uuid u = {.b = {0xc1}};
    memcpy(u.b + 4, &n, sizeof n);
    return u;
}

static void writes(struct loss *l, unsigned n)
{
    const struct uuid u = client_no(n);
    loss_wrote(l, &u, l->last);
}

/* One that says what it has heard. */
static uint64_t flushes(struct loss *l, unsigned n, uint64_t heard)
{
    const struct uuid u = client_no(n);
    return loss_tell(l, &u, &heard);
}

/* One that says nothing of it. */
static uint64_t flushes_silently(struct loss *l, unsigned n)
{
    const struct uuid u = client_no(n);
    return loss_tell(l, &u, NULL);
}

static int setup(void **state)
{
    static struct loss l;
    loss_init(&l, NULL);
    *state = &l;
    return 0;
}

static int teardown(void **state)
{
    loss_done(*state);
    return 0;
}

static void telling__goes_on_until_the_client_says_that_it_has_heard(void **state)
{
    struct loss *l = *state;
    writes(l, 1);
    assert_int_equal(flushes(l, 1, 0), 0);
    loss_happened(l);
    const uint64_t one = flushes(l, 1, 0);
    assert_true(one > 0 && one <= INT64_MAX);
    assert_int_equal(flushes(l, 1, 0), one); /* that answer was lost */
    loss_flushed(l, l->writes);              /* and a flush that succeeds changes nothing */
    assert_int_equal(flushes(l, 1, 0), one);
    assert_int_equal(flushes(l, 1, one), 0);
    assert_int_equal(l->count, 0);
    assert_int_equal(flushes(l, 1, one), 0);
}

static void telling__of_a_second_failure_is_not_silenced_by_the_first(void **state)
{
    struct loss *l = *state;
    writes(l, 1);
    loss_happened(l);
    const uint64_t one = flushes(l, 1, 0);
    writes(l, 1);
    loss_happened(l);
    const uint64_t two = flushes(l, 1, one);
    assert_true(two > one);
    assert_int_equal(flushes(l, 1, one), two);
    assert_int_equal(flushes(l, 1, two), 0);
}

/* Two flushes under way are both told; a later one says what either of them heard. */
static void telling__of_two_flushes_at_once_is_of_the_same_failure(void **state)
{
    struct loss *l = *state;
    writes(l, 1);
    loss_happened(l);
    const uint64_t one = flushes(l, 1, 0);
    assert_int_equal(flushes(l, 1, 0), one);
    assert_int_equal(flushes(l, 1, one), 0);
    assert_int_equal(flushes(l, 1, 0), 0); /* the first one, sent again: it has heard */
}

/* Flushes that were joined fail together, and each says so. */
static void failures__that_took_nothing_new_are_one(void **state)
{
    struct loss *l = *state;
    writes(l, 1);
    writes(l, 2);
    loss_happened(l);
    const uint64_t one = flushes(l, 1, 0);
    loss_happened(l);
    assert_int_equal(flushes(l, 2, 0), one);
    assert_int_equal(flushes(l, 1, one), 0);
    assert_int_equal(flushes(l, 2, one), 0);
}

static void numbers__of_another_run_count_as_none(void **state)
{
    struct loss *l = *state, other;
    loss_init(&other, NULL);
    assert_true(other.first != l->first);
    loss_done(&other);
    writes(l, 1);
    loss_happened(l);
    const uint64_t one = flushes(l, 1, 0);
    const uint64_t foreign[] = {1, l->first, l->last + 1, other.first + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++)
        assert_int_equal(flushes(l, 1, foreign[i]), one);
    assert_int_equal(flushes(l, 1, one), 0);
}

static void write__under_way_when_a_flush_failed_may_be_lost_with_it(void **state)
{
    struct loss *l = *state;
    const struct uuid u = client_no(1);
    const uint64_t before = l->last;
    loss_happened(l);
    loss_wrote(l, &u, before);
    const uint64_t one = flushes(l, 1, 0);
    assert_true(one != 0);
    loss_flushed(l, l->writes);
    assert_int_equal(flushes(l, 1, one), 0);
    assert_int_equal(l->count, 0);
}

static void silent__client_has_heard_when_it_was_told(void **state)
{
    struct loss *l = *state;
    writes(l, 1);
    loss_happened(l);
    assert_true(flushes_silently(l, 1) != 0);
    assert_int_equal(flushes_silently(l, 1), 0);
    assert_int_equal(l->count, 0);
}

/* What one of them says must not be held against the others. */
static void nameless__clients_each_hear_what_they_have_not_said(void **state)
{
    struct loss *l = *state;
    const struct uuid nobody = {0};
    uint64_t none = 0;
    loss_wrote(l, &nobody, l->last);
    loss_happened(l);
    const uint64_t one = loss_tell(l, &nobody, &none);
    assert_true(one != 0);
    assert_int_equal(loss_tell(l, &nobody, &one), 0);
    assert_int_equal(loss_tell(l, &nobody, &none), one);
}

/* -- the list's end ------------------------------------------------------------------------ */

static void list__is_bounded_and_who_was_put_off_it_hears_all_the_same(void **state)
{
    struct loss *l = *state;
    enum { CLIENTS = 3 * LOSS_CLIENTS_MAX };
    for (unsigned i = 0; i < CLIENTS; i++) {
        writes(l, i);
        assert_true(l->count <= LOSS_CLIENTS_MAX);
    }
    loss_happened(l);
    loss_flushed(l, l->writes);
    uint64_t told[CLIENTS];
    for (unsigned i = 0; i < CLIENTS; i++) {
        told[i] = flushes(l, i, 0);
        assert_true(told[i] != 0);
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        assert_int_equal(flushes(l, i, told[i]), 0);
    assert_int_equal(l->count, 0);
    for (unsigned i = 0; i < CLIENTS; i++) { /* and again as one that writes */
        writes(l, i);
        assert_int_equal(flushes(l, i, told[i]), 0);
    }
}

/* One that never comes back, and those after it. */
static void list__forgets_nobody_who_has_not_heard(void **state)
{
    struct loss *l = *state;
    writes(l, 0);
    loss_happened(l);
    loss_flushed(l, l->writes);
    for (unsigned i = 1; i <= LOSS_CLIENTS_MAX; i++)
        writes(l, i);
    loss_flushed(l, l->writes);
    const uint64_t one = flushes(l, 0, 0);
    assert_true(one != 0);
    writes(l, 0); /* comes on the list anew */
    assert_int_equal(flushes(l, 0, 0), one);
    assert_int_equal(flushes(l, 0, one), 0);
}

static void list__puts_nothing_on_those_who_stay_on_it(void **state)
{
    struct loss *l = *state;
    writes(l, 0);
    loss_happened(l);
    for (unsigned i = 1; i <= LOSS_CLIENTS_MAX; i++)
        writes(l, i);
    assert_true(flushes(l, 0, 0) != 0); /* it is off */
    for (unsigned i = 1; i < LOSS_CLIENTS_MAX; i++)
        assert_int_equal(flushes(l, i, 0), 0);
}

static void list__that_was_full_without_a_failure_tells_nobody(void **state)
{
    struct loss *l = *state;
    for (unsigned i = 0; i < 2 * LOSS_CLIENTS_MAX; i++)
        writes(l, i);
    loss_flushed(l, l->writes);
    assert_int_equal(l->count, 0);
    loss_happened(l);
    for (unsigned i = 0; i < 2 * LOSS_CLIENTS_MAX; i++)
        assert_int_equal(flushes(l, i, 0), 0);
}

static void list__that_was_full_lets_a_silent_client_go_on(void **state)
{
    struct loss *l = *state;
    for (unsigned i = 0; i < 2 * LOSS_CLIENTS_MAX; i++)
        writes(l, i);
    loss_happened(l);
    loss_flushed(l, l->writes);
    assert_true(flushes_silently(l, 0) != 0);
    for (int i = 0; i < 3; i++) {
        writes(l, 0);
        loss_flushed(l, l->writes);
        assert_int_equal(flushes_silently(l, 0), 0);
    }
}

int main(void)
{
#define LOSS(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        LOSS(telling__goes_on_until_the_client_says_that_it_has_heard),
        LOSS(telling__of_a_second_failure_is_not_silenced_by_the_first),
        LOSS(telling__of_two_flushes_at_once_is_of_the_same_failure),
        LOSS(failures__that_took_nothing_new_are_one),
        LOSS(numbers__of_another_run_count_as_none),
        LOSS(write__under_way_when_a_flush_failed_may_be_lost_with_it),
        LOSS(silent__client_has_heard_when_it_was_told),
        LOSS(nameless__clients_each_hear_what_they_have_not_said),
        LOSS(list__is_bounded_and_who_was_put_off_it_hears_all_the_same),
        LOSS(list__forgets_nobody_who_has_not_heard),
        LOSS(list__puts_nothing_on_those_who_stay_on_it),
        LOSS(list__that_was_full_without_a_failure_tells_nobody),
        LOSS(list__that_was_full_lets_a_silent_client_go_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
