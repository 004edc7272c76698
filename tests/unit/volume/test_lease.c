/* SPDX-License-Identifier: Apache-2.0 */
/* The lease's state machine, event by event, with a clock of the test's own. */
#include "daemon/volume/lease.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define MS UINT64_C(1000000)
enum { TTL_MS = 1000 };

static const struct uuid one = {{1}}, two = {{2}};

static struct lease lease_held(void)
{
    struct lease l;
    lease_init(&l, 4, "", &one, TTL_MS * MS, 0);
    lease_grant(&l, 5, "w", &one, 77, 0);
    return l;
}

static int ask(const struct lease *l, const char *identity, struct uuid instance, uint64_t epoch,
               bool steal, uint64_t now_ms)
{
    struct lease_request r = {
        .identity = identity, .instance = instance, .epoch = epoch, .steal = steal};
    return lease_ask(l, &r, now_ms * MS, NULL);
}

static void ask__free_lease_is_new(void **state)
{
    (void)state;
    struct lease l;
    lease_init(&l, 9, "", &one, TTL_MS * MS, 0);
    assert_int_equal(ask(&l, "w", one, 0, false, 0), LEASE_NEW);
}

static void ask__second_writer_is_busy_until_expiry(void **state)
{
    (void)state;
    struct lease l = lease_held();
    assert_int_equal(ask(&l, "x", two, 0, false, TTL_MS - 1), SNAP_EBUSY);
    assert_int_equal(ask(&l, "w", two, 0, false, TTL_MS - 1), SNAP_EBUSY);
    assert_int_equal(ask(&l, "x", two, 0, false, TTL_MS), LEASE_NEW);
}

static void ask__busy_names_the_holder(void **state)
{
    (void)state;
    struct lease l = lease_held();
    struct err err = ERR_INIT;
    struct lease_request r = {.identity = "x", .instance = two};
    assert_int_equal(lease_ask(&l, &r, 0, &err), SNAP_EBUSY);
    assert_non_null(strstr(err.text, "w (epoch 5"));
}

static void ask__stealing_is_new(void **state)
{
    (void)state;
    struct lease l = lease_held();
    assert_int_equal(ask(&l, "x", two, 0, true, 1), LEASE_NEW);
}

static void ask__same_writer_keeps_its_epoch_even_after_expiry(void **state)
{
    (void)state;
    struct lease l = lease_held();
    lease_disconnect(&l, 77);
    assert_int_equal(ask(&l, "w", one, 5, false, 5 * TTL_MS), LEASE_KEEP);
}

static void ask__gone_epoch_is_stale(void **state)
{
    (void)state;
    struct lease l = lease_held();
    assert_int_equal(ask(&l, "w", one, 4, false, 1), SNAP_ESTALE);
    assert_int_equal(ask(&l, "w", two, 5, false, 1), SNAP_ESTALE);
    lease_free(&l);
    assert_int_equal(ask(&l, "w", one, 5, false, 1), SNAP_ESTALE);
}

static void check__renews(void **state)
{
    (void)state;
    struct lease l = lease_held();
    assert_int_equal(lease_check(&l, "w", 5, 900 * MS, NULL), 0);
    assert_false(lease_expired(&l, 1800 * MS));
    assert_true(lease_expired(&l, 1900 * MS));
}

static void check__other_epoch_or_identity_is_stale_and_renews_nothing(void **state)
{
    (void)state;
    struct lease l = lease_held();
    assert_int_equal(lease_check(&l, "w", 4, 900 * MS, NULL), SNAP_ESTALE);
    assert_int_equal(lease_check(&l, "x", 5, 900 * MS, NULL), SNAP_ESTALE);
    assert_true(lease_expired(&l, 1000 * MS));
}

static void init__holder_of_a_record_may_come_back(void **state)
{
    (void)state;
    struct lease l;
    lease_init(&l, 5, "w", &one, TTL_MS * MS, 100 * MS);
    assert_int_equal(l.phase, LEASE_HELD);
    assert_int_equal(ask(&l, "w", one, 5, false, 200), LEASE_KEEP);
    assert_int_equal(ask(&l, "x", two, 0, false, 200), SNAP_EBUSY);
    assert_int_equal(ask(&l, "x", two, 0, false, 1100), LEASE_NEW);
}

static void quiesce__nobody_is_quiet_at_once(void **state)
{
    (void)state;
    struct lease l;
    lease_init(&l, 5, "", &one, TTL_MS * MS, 0);
    lease_quiesce_begin(&l);
    assert_int_equal(lease_quiet(&l, 0), LEASE_QUIET_YES);
}

static void quiesce__waits_for_head_ready(void **state)
{
    (void)state;
    struct lease l = lease_held();
    lease_quiesce_begin(&l);
    assert_int_equal(lease_quiet(&l, 1), LEASE_QUIET_NO);
    assert_int_equal(lease_check_put(&l, "w", 5, 1, NULL), 0);
    lease_still(&l, 77);
    assert_int_equal(lease_quiet(&l, 1), LEASE_QUIET_YES);
    assert_int_equal(lease_check_put(&l, "w", 5, 1, NULL), SNAP_ESTALE);
    lease_quiesce_end(&l, 0);
    assert_int_equal(lease_check_put(&l, "w", 5, 1, NULL), 0);
}

static void quiesce__silent_holder_is_dead_and_fenced(void **state)
{
    (void)state;
    struct lease l = lease_held();
    lease_quiesce_begin(&l);
    assert_int_equal(lease_quiet(&l, TTL_MS * MS), LEASE_QUIET_DEAD);
    lease_seal(&l, LEASE_QUIET_DEAD);
    /* a renewal that comes while the head is being committed must not revive it */
    assert_int_equal(lease_check(&l, "w", 5, TTL_MS * MS, NULL), SNAP_ESTALE);
    lease_quiesce_end(&l, 6);
    assert_int_equal(l.phase, LEASE_FREE);
    assert_int_equal(lease_check_put(&l, "w", 5, TTL_MS * MS, NULL), SNAP_ESTALE);
    assert_int_equal(ask(&l, "w", one, 5, false, TTL_MS), SNAP_ESTALE);
}

static void quiesce__promise_to_stand_still_ends_with_the_connection(void **state)
{
    (void)state;
    struct lease l = lease_held();
    lease_quiesce_begin(&l);
    lease_still(&l, 77);
    lease_disconnect(&l, 77);
    assert_int_equal(lease_quiet(&l, 1), LEASE_QUIET_NO);
}

static void quiesce__sealed_lease_makes_everybody_wait(void **state)
{
    (void)state;
    struct lease l = lease_held();
    lease_quiesce_begin(&l);
    lease_still(&l, 77);
    lease_seal(&l, LEASE_QUIET_YES);
    assert_int_equal(lease_check(&l, "w", 5, 1, NULL), 0);
    lease_disconnect(&l, 77);
    assert_int_equal(l.phase, LEASE_STILL);
    assert_int_equal(ask(&l, "w", one, 5, false, 1), LEASE_WAIT);
    assert_int_equal(ask(&l, "x", two, 0, true, 1), LEASE_WAIT);
    lease_quiesce_end(&l, 0);
    assert_int_equal(ask(&l, "w", one, 5, false, 1), LEASE_KEEP);
}

static void fence__holder_cannot_renew_while_its_place_is_taken(void **state)
{
    (void)state;
    struct lease l = lease_held();
    lease_fence(&l, true);
    assert_int_equal(lease_check(&l, "w", 5, 1 * MS, NULL), SNAP_ESTALE);
    assert_int_equal(ask(&l, "w", one, 5, false, 1), SNAP_ESTALE);
    lease_fence(&l, false);
    assert_int_equal(lease_check(&l, "w", 5, 2 * MS, NULL), 0);
    lease_fence(&l, true);
    lease_grant(&l, 6, "x", &two, 78, 3 * MS);
    assert_int_equal(lease_check(&l, "x", 6, 4 * MS, NULL), 0);
}

static void disconnect__of_another_connection_changes_nothing(void **state)
{
    (void)state;
    struct lease l = lease_held();
    lease_disconnect(&l, 78);
    assert_true(l.connected);
    lease_disconnect(&l, 77);
    assert_false(l.connected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ask__free_lease_is_new),
        cmocka_unit_test(ask__second_writer_is_busy_until_expiry),
        cmocka_unit_test(ask__busy_names_the_holder),
        cmocka_unit_test(ask__stealing_is_new),
        cmocka_unit_test(ask__same_writer_keeps_its_epoch_even_after_expiry),
        cmocka_unit_test(ask__gone_epoch_is_stale),
        cmocka_unit_test(check__renews),
        cmocka_unit_test(check__other_epoch_or_identity_is_stale_and_renews_nothing),
        cmocka_unit_test(init__holder_of_a_record_may_come_back),
        cmocka_unit_test(quiesce__nobody_is_quiet_at_once),
        cmocka_unit_test(quiesce__waits_for_head_ready),
        cmocka_unit_test(quiesce__silent_holder_is_dead_and_fenced),
        cmocka_unit_test(quiesce__promise_to_stand_still_ends_with_the_connection),
        cmocka_unit_test(quiesce__sealed_lease_makes_everybody_wait),
        cmocka_unit_test(fence__holder_cannot_renew_while_its_place_is_taken),
        cmocka_unit_test(disconnect__of_another_connection_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
