/* SPDX-License-Identifier: Apache-2.0 */
/* Breaking a lease: when the writer may go on without keeping, and what the daemon is told. */
#include "tests/unit/client/writer.h"

static struct outcome broken;

static void begin(struct writer *w, struct fake *f, bool goes_on)
{
    *w = (struct writer){.f = f};
    broken = (struct outcome){0};
    w->client = client_of(f, NULL, NULL);
    struct snapwire_lease_config config = lease_config_of(w);
    config.goes_on = goes_on;
    assert_int_equal(snapwire_lease_acquire(w->client, &config, on_acquired, w, NULL), 0);
    RUN_UNTIL(f, w->acquired.calls == 1);
    writer_stream(w, NULL);
}

static void said(struct fake *f, unsigned n, bool goes_on, bool is_broken)
{
    const struct fake_asked *a = await_asked(f, METHOD(LEASE_ACQUIRE), n + 1);
    Snapwire__V1__LeaseAcquire *m =
        snapwire__v1__lease_acquire__unpack(NULL, a->control_bytes, a->control);
    assert_non_null(m);
    assert_int_equal(m->goes_on, goes_on);
    assert_int_equal(m->broken, is_broken);
    snapwire__v1__lease_acquire__free_unpacked(m, NULL);
}

static void break__connected_waits_until_the_daemon_knows(void **state)
{
    struct fake *f = fake_new();
    struct writer w;
    static const uint8_t data[4096];
    struct snapwire_error e;

    (void)state;
    begin(&w, f, true);
    said(f, 0, true, false);
    f->hold = METHOD(LEASE_ACQUIRE);
    assert_int_equal(snapwire_lease_break(w.lease, outcome_cb, &broken, NULL), 0);
    assert_int_equal(snapwire_lease_break(w.lease, outcome_cb, &broken, NULL), SNAPWIRE_EBUSY);
    said(f, 1, true, true);
    run_for_ms(f, 30);
    assert_int_equal(broken.calls, 0);
    fake_answer_lease(f, fake_nth(f, METHOD(LEASE_ACQUIRE), 1));
    RUN_UNTIL(f, broken.calls == 1);
    assert_int_equal(broken.code, 0);
    assert_true(snapwire_lease_info(w.lease)->broken);
    assert_int_equal(snapwire_stream_put(w.stream, 1, 1, data, 0, NULL, NULL, &e),
                     SNAPWIRE_EUNVERIFIED);
    writer_end(&w);
}

static void break__away_waits_until_the_lease_is_over_there_too(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    f->ttl_ms = 400;
    begin(&w, f, true);
    f->hold = 0xffff;
    fake_drop(f);
    listener_free(f->listener); /* nobody is there any more */
    f->listener = NULL;
    RUN_UNTIL(f, snapwire_client_state(w.client) == SNAPWIRE_STATE_RECONNECTING);
    const uint64_t gone_ms = test_now_ms();
    assert_int_equal(snapwire_lease_break(w.lease, outcome_cb, &broken, NULL), 0);
    RUN_UNTIL(f, broken.calls == 1);
    assert_int_equal(broken.code, 0);
    assert_true(test_now_ms() - gone_ms >= 430);
    writer_end(&w);
}

static void break__each_later_acquire_says_so(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    begin(&w, f, true);
    f->hold = METHOD(LEASE_ACQUIRE);
    fake_drop(f);
    said(f, 1, true, false); /* it says the contrary, unanswered */
    assert_int_equal(snapwire_lease_break(w.lease, outcome_cb, &broken, NULL), 0);
    said(f, 2, true, true);
    fake_answer_lease(f, fake_nth(f, METHOD(LEASE_ACQUIRE), 1));
    run_for_ms(f, 20);
    assert_int_equal(broken.calls, 0);
    f->hold = 0;
    fake_drop(f);
    said(f, 3, true, true);
    RUN_UNTIL(f, broken.calls == 1);
    assert_int_equal(broken.code, 0);
    fake_drop(f);
    said(f, 4, true, true);
    writer_end(&w);
}

static void break__ends_with_a_new_head_adopted_in_peace(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    begin(&w, f, true);
    assert_int_equal(snapwire_lease_break(w.lease, outcome_cb, &broken, NULL), 0);
    RUN_UNTIL(f, broken.calls == 1);
    struct fake_asked *a = writer_stand_still(&w);
    f->head = snapwire_uuid_make();
    fake_answer_lease(f, a);
    RUN_UNTIL(f, w.heads == 1);
    assert_false(snapwire_lease_info(w.lease)->broken);
    fake_drop(f);
    said(f, 2, true, false);
    writer_end(&w);
}

static void break__a_head_learnt_of_while_saying_so_is_broken_too(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    begin(&w, f, true);
    assert_int_equal(snapwire_lease_break(w.lease, outcome_cb, &broken, NULL), 0);
    RUN_UNTIL(f, broken.calls == 1);
    f->head = snapwire_uuid_make();
    fake_drop(f);
    RUN_UNTIL(f, w.heads == 1);
    assert_true(snapwire_lease_info(w.lease)->broken);
    writer_end(&w);
}

static void break__lost_is_told_and_the_policy_is_needed(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    begin(&w, f, false);
    assert_int_equal(snapwire_lease_break(w.lease, outcome_cb, &broken, NULL), SNAPWIRE_EINVAL);
    writer_end(&w);
    f = fake_new();
    begin(&w, f, true);
    f->refuse_acquire = SNAP_ESTALE;
    assert_int_equal(snapwire_lease_break(w.lease, outcome_cb, &broken, NULL), 0);
    RUN_UNTIL(f, broken.calls == 1 && w.lost == 1);
    assert_int_equal(broken.code, SNAPWIRE_ESTALE);
    writer_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(break__connected_waits_until_the_daemon_knows),
        cmocka_unit_test(break__away_waits_until_the_lease_is_over_there_too),
        cmocka_unit_test(break__each_later_acquire_says_so),
        cmocka_unit_test(break__ends_with_a_new_head_adopted_in_peace),
        cmocka_unit_test(break__a_head_learnt_of_while_saying_so_is_broken_too),
        cmocka_unit_test(break__lost_is_told_and_the_policy_is_needed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
