/* SPDX-License-Identifier: Apache-2.0 */
/* The lease: its deadline, its way through a reconnect, a new head. */
#include "tests/unit/client/writer.h"

#include <time.h>

static Snapwire__V1__LeaseAcquire *acquire_of(struct fake *f, unsigned n)
{
    const struct fake_asked *a = fake_nth(f, METHOD(LEASE_ACQUIRE), n);
    Snapwire__V1__LeaseAcquire *m =
        snapwire__v1__lease_acquire__unpack(NULL, a->control_bytes, a->control);

    assert_non_null(m);
    return m;
}

static void acquire__hands_out_what_the_daemon_said(void **state)
{
    struct writer w;

    (void)state;
    writer_begin(&w, fake_new());
    const struct snapwire_lease_info *info = snapwire_lease_info(w.lease);
    assert_int_equal(info->epoch, 7);
    assert_memory_equal(info->head.b, w.f->head.b, 16);
    assert_string_equal(info->head_name, "head");
    assert_int_equal(info->ttl_ms, 10000);
    assert_int_equal(info->chunk_size_sectors, 8);
    assert_true(snapwire_lease_valid(w.lease));
    assert_true(snapwire_lease_remaining_ms(w.lease) > 9000);
    writer_end(&w);
}

static void acquire__tells_of_late_writes_and_the_same_lease_again_does_not(void **state)
{
    struct writer w = {.f = fake_new()};
    struct snapwire_lease_config config = lease_config_of(&w);

    (void)state;
    config.late = true;
    config.late_after_seq = 0; /* which is not the same as nothing */
    w.f->head_seq = 3;
    w.client = client_of(w.f, NULL, NULL);
    assert_int_equal(snapwire_lease_acquire(w.client, &config, on_acquired, &w, NULL), 0);
    RUN_UNTIL(w.f, w.acquired.calls == 1);
    fake_drop(w.f);
    (void)await_asked(w.f, METHOD(LEASE_ACQUIRE), 2);
    for (unsigned i = 0; i < 2; i++) {
        Snapwire__V1__LeaseAcquire *m = acquire_of(w.f, i);
        assert_int_equal(m->outlasted_case,
                         i == 0 ? SNAPWIRE__V1__LEASE_ACQUIRE__OUTLASTED_LATE_AFTER_SEQ
                                : SNAPWIRE__V1__LEASE_ACQUIRE__OUTLASTED__NOT_SET);
        assert_int_equal(m->late_after_seq, 0);
        snapwire__v1__lease_acquire__free_unpacked(m, NULL);
    }
    writer_end(&w);
}

static void lease__the_heads_seq_is_as_the_daemon_says(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    f->head_seq = 3;
    writer_begin(&w, f);
    assert_int_equal(snapwire_lease_info(w.lease)->head_seq, 3);
    struct fake_asked *ready = writer_stand_still(&w);
    f->head = snapwire_uuid_make();
    f->head_seq = 4;
    fake_answer_lease(f, ready);
    RUN_UNTIL(f, w.heads == 1);
    assert_int_equal(snapwire_lease_info(w.lease)->head_seq, 4);
    writer_end(&w);
}

static void acquire__refused_gives_no_lease(void **state)
{
    struct writer w = {.f = fake_new()};
    const struct snapwire_lease_config config = lease_config_of(&w);

    (void)state;
    w.f->refuse_acquire = SNAP_EBUSY;
    w.client = client_of(w.f, NULL, NULL);
    assert_int_equal(snapwire_lease_acquire(w.client, &config, NULL, &w, NULL), SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_lease_acquire(w.client, &config, on_acquired, &w, NULL), 0);
    RUN_UNTIL(w.f, w.acquired.calls == 1);
    assert_int_equal(w.acquired.code, SNAPWIRE_EBUSY);
    assert_null(w.lease);
    writer_end(&w);
}

static void acquire__senseless_answers_are_refused(void **state)
{
    (void)state;
    for (int i = 0; i < 7; i++) {
        struct writer w = {.f = fake_new()};
        const struct snapwire_lease_config config = lease_config_of(&w);
        Snapwire__V1__Lease m;
        w.f->hold = METHOD(LEASE_ACQUIRE);
        w.client = client_of(w.f, NULL, NULL);
        assert_int_equal(snapwire_lease_acquire(w.client, &config, on_acquired, &w, NULL), 0);
        RUN_UNTIL(w.f, w.f->asked_count == 1);
        fake_lease_fill(w.f, &m);
        const struct snapwire_uuid other = snapwire_uuid_make();
        if (i == 0)
            m.epoch = 0;
        else if (i == 1)
            m.ttl_ms = 0;
        else if (i == 2)
            m.chunk_size_sectors = 7;
        else if (i == 3)
            m.chunk_size_sectors = 65536;
        else if (i == 4)
            m.head.len = 15;
        else if (i == 5)
            m.volume = fake_uuid(&other);
        else
            m.size_bytes = UINT64_MAX;
        fake_answer(w.f, &w.f->asked[0], &m.base);
        RUN_UNTIL(w.f, w.acquired.calls == 1);
        assert_int_equal(w.acquired.code, SNAPWIRE_EPROTO);
        writer_end(&w);
    }
}

static void lease__is_renewed_by_itself(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    f->ttl_ms = 600;
    writer_begin(&w, f);
    const uint64_t end_ms = test_now_ms() + 1500;
    while (test_now_ms() < end_ms) {
        assert_true(snapwire_lease_valid(w.lease));
        run_once(f);
    }
    assert_in_range(fake_count(f, METHOD(LEASE_RENEW)), 3, 12);
    assert_int_equal(w.lapsed, 0);
    writer_end(&w);
}

static void lease__is_renewed_by_answered_puts_too(void **state)
{
    struct fake *f = fake_new();
    struct writer w;
    static const uint8_t data[4096];
    struct snapwire_error e;

    (void)state;
    f->ttl_ms = 400;
    f->hold = METHOD(LEASE_RENEW);
    writer_begin(&w, f);
    writer_stream(&w, NULL);
    const uint64_t end_ms = test_now_ms() + 1000;
    while (test_now_ms() < end_ms) {
        assert_int_equal(snapwire_stream_put(w.stream, 1, 1, data, 0, NULL, NULL, &e), 0);
        assert_int_equal(snapwire_stream_flush(w.stream, NULL, NULL, &e), 0);
        run_for_ms(f, 20);
        assert_true(snapwire_lease_valid(w.lease));
    }
    assert_int_equal(w.lapsed, 0);
    writer_end(&w);
}

static void lease__is_invalid_at_its_deadline_without_the_loop(void **state)
{
    struct fake *f = fake_new();
    struct writer w;
    const struct timespec wait = {0, 120 * 1000 * 1000};

    (void)state;
    f->ttl_ms = 100;
    writer_begin(&w, f);
    assert_true(snapwire_lease_valid(w.lease));
    (void)nanosleep(&wait, NULL);
    assert_false(snapwire_lease_valid(w.lease));
    assert_int_equal(snapwire_lease_remaining_ms(w.lease), 0);
    writer_end(&w);
}

static void lease__time_runs_from_the_sending_not_from_the_answer(void **state)
{
    struct writer w = {.f = fake_new()};
    const struct snapwire_lease_config config = lease_config_of(&w);

    (void)state;
    w.f->ttl_ms = 100;
    w.f->hold = METHOD(LEASE_ACQUIRE);
    w.client = client_of(w.f, NULL, NULL);
    assert_int_equal(snapwire_lease_acquire(w.client, &config, on_acquired, &w, NULL), 0);
    RUN_UNTIL(w.f, w.f->asked_count == 1);
    run_for_ms(w.f, 120); /* the answer was on its way for longer than the lease lasts */
    fake_answer_lease(w.f, &w.f->asked[0]);
    RUN_UNTIL(w.f, w.acquired.calls == 1);
    assert_int_equal(w.acquired.code, 0);
    assert_false(snapwire_lease_valid(w.lease));
    writer_end(&w);
}

static void lease__lapses_when_nobody_answers_and_is_resumed_by_an_answer(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    f->ttl_ms = 500;
    writer_begin(&w, f);
    f->hold = METHOD(LEASE_RENEW);
    RUN_UNTIL(f, w.lapsed == 1);
    assert_false(snapwire_lease_valid(w.lease));
    assert_int_equal(w.why.code, SNAPWIRE_ETIMEDOUT);
    f->hold = 0;
    fake_answer_lease(f, fake_nth(f, METHOD(LEASE_RENEW), 0)); /* too old to help by itself */
    RUN_UNTIL(f, w.resumed == 1);
    assert_true(snapwire_lease_valid(w.lease));
    assert_int_equal(w.lost, 0);
    writer_end(&w);
}

static void reconnect__takes_the_lease_up_with_instance_and_epoch(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    writer_begin(&w, f);
    const struct snapwire_uuid instance = snapwire_lease_info(w.lease)->instance;
    fake_drop(f);
    (void)await_asked(f, METHOD(LEASE_ACQUIRE), 2);
    run_for_ms(f, 5);
    Snapwire__V1__LeaseAcquire *first = acquire_of(f, 0), *second = acquire_of(f, 1);
    assert_int_equal(first->epoch, 0);
    assert_int_equal(second->epoch, 7);
    assert_memory_equal(first->instance.data, instance.b, 16);
    assert_memory_equal(second->instance.data, instance.b, 16);
    snapwire__v1__lease_acquire__free_unpacked(first, NULL);
    snapwire__v1__lease_acquire__free_unpacked(second, NULL);
    assert_int_equal(w.lost + w.heads + w.lapsed, 0);
    assert_true(snapwire_lease_valid(w.lease));
    writer_end(&w);
}

static void reconnect__stale_means_lost(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    writer_begin(&w, f);
    f->refuse_acquire = SNAP_ESTALE;
    fake_drop(f);
    RUN_UNTIL(f, w.lost == 1);
    assert_int_equal(w.why.code, SNAPWIRE_ESTALE);
    assert_false(snapwire_lease_valid(w.lease));
    snapwire_lease_free(w.lease);
    writer_end(&w);
}

static void reconnect__another_epoch_means_lost(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    writer_begin(&w, f);
    f->epoch = 8;
    fake_drop(f);
    RUN_UNTIL(f, w.lost == 1);
    assert_false(snapwire_lease_valid(w.lease));
    writer_end(&w);
}

static void reconnect__passing_trouble_is_not_a_loss(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    f->ttl_ms = 120;
    writer_begin(&w, f);
    f->refuse_acquire = SNAP_ENOMEM;
    fake_drop(f);
    RUN_UNTIL(f, fake_count(f, METHOD(LEASE_ACQUIRE)) >= 3); /* it goes on asking */
    assert_int_equal(w.lost, 0);
    f->refuse_acquire = 0;
    RUN_UNTIL(f, snapwire_lease_valid(w.lease));
    writer_end(&w);
}

static void event__lease_lost_is_told_at_once(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    writer_begin(&w, f);
    fake_event(f, METHOD(EVENT_LEASE_LOST));
    RUN_UNTIL(f, w.lost == 1);
    assert_false(snapwire_lease_valid(w.lease));
    writer_end(&w);
}

static void event__of_another_epoch_is_not_ours(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    writer_begin(&w, f);
    f->epoch = 6;
    fake_event(f, METHOD(EVENT_LEASE_LOST));
    fake_event(f, METHOD(EVENT_QUIESCE));
    f->epoch = 7;
    run_for_ms(f, 10);
    assert_int_equal(w.lost + w.quiesced, 0);
    assert_true(snapwire_lease_valid(w.lease));
    writer_end(&w);
}

/* -- a new head -- */

static void quiesce__ready_is_sent_when_told_and_the_new_head_follows(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    writer_begin(&w, f);
    const struct snapwire_uuid old = f->head;
    fake_event(f, METHOD(EVENT_QUIESCE));
    fake_event(f, METHOD(EVENT_QUIESCE));
    RUN_UNTIL(f, w.quiesced == 1);
    run_for_ms(f, 5);
    assert_int_equal(w.quiesced, 1);
    assert_int_equal(fake_count(f, METHOD(HEAD_READY)), 0);
    assert_int_equal(snapwire_lease_head_ready(w.lease, NULL), 0);
    (void)await_asked(f, METHOD(HEAD_READY), 1);
    struct fake_asked *a = fake_nth(f, METHOD(HEAD_READY), 0);
    Snapwire__V1__LeaseRef *m = snapwire__v1__lease_ref__unpack(NULL, a->control_bytes, a->control);
    assert_memory_equal(m->head.data, old.b, 16);
    assert_int_equal(m->epoch, 7);
    snapwire__v1__lease_ref__free_unpacked(m, NULL);
    assert_int_equal(w.heads, 0);
    f->head = snapwire_uuid_make();
    fake_answer_lease(f, a);
    RUN_UNTIL(f, w.heads == 1);
    assert_memory_equal(w.head.b, f->head.b, 16);
    run_for_ms(f, 5);
    assert_int_equal(w.heads, 1);
    writer_end(&w);
}

static void quiesce__without_a_callback_is_answered_by_the_library(void **state)
{
    struct writer w = {.f = fake_new()};
    struct snapwire_lease_config config = lease_config_of(&w);

    (void)state;
    config.quiesce = NULL;
    w.client = client_of(w.f, NULL, NULL);
    assert_int_equal(snapwire_lease_acquire(w.client, &config, on_acquired, &w, NULL), 0);
    RUN_UNTIL(w.f, w.acquired.calls == 1);
    fake_event(w.f, METHOD(EVENT_QUIESCE));
    (void)await_asked(w.f, METHOD(HEAD_READY), 1);
    writer_end(&w);
}

static void quiesce__an_error_leads_back_to_the_head_there_is(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    writer_begin(&w, f);
    fake_answer_error(f, writer_stand_still(&w), SNAP_ENOSPC, "no room");
    RUN_UNTIL(f, w.heads == 1);
    assert_memory_equal(w.head.b, f->head.b, 16);
    assert_int_equal(w.lost, 0);
    writer_end(&w);
}

/* Of either side: the daemon goes on waiting for it. */
static void quiesce__ready_is_sent_again_when_there_was_no_memory(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    writer_begin(&w, f);
    fake_answer_error(f, writer_stand_still(&w), SNAP_ENOMEM, "lease");
    (void)await_asked(f, METHOD(HEAD_READY), 2);
    assert_int_equal(w.heads, 0);
    f->head = snapwire_uuid_make();
    fake_answer_lease(f, fake_nth(f, METHOD(HEAD_READY), 1));
    RUN_UNTIL(f, w.heads == 1);
    assert_memory_equal(w.head.b, f->head.b, 16);
    writer_end(&w);
}

static void quiesce__ready_is_sent_again_after_a_disconnect(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    writer_begin(&w, f);
    (void)writer_stand_still(&w);
    fake_drop(f);
    (void)await_asked(f, METHOD(HEAD_READY), 2);
    f->head = snapwire_uuid_make();
    fake_answer_lease(f, fake_nth(f, METHOD(HEAD_READY), 1));
    RUN_UNTIL(f, w.heads == 1);
    writer_end(&w);
}

static void quiesce__a_head_made_during_the_disconnect_ends_it(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    writer_begin(&w, f);
    (void)writer_stand_still(&w);
    f->head = snapwire_uuid_make();
    fake_drop(f);
    RUN_UNTIL(f, w.heads == 1);
    run_for_ms(f, 10);
    /* a second HEAD_READY would make the daemon refuse puts for nothing */
    assert_int_equal(fake_count(f, METHOD(HEAD_READY)), 1);
    assert_int_equal(w.heads, 1);
    writer_end(&w);
}

static void head_ready__after_it_is_over_tells_the_head_again(void **state)
{
    struct fake *f = fake_new();
    struct writer w;

    (void)state;
    writer_begin(&w, f);
    assert_int_equal(snapwire_lease_head_ready(w.lease, NULL), 0);
    RUN_UNTIL(f, w.heads == 1);
    assert_int_equal(fake_count(f, METHOD(HEAD_READY)), 0);
    writer_end(&w);
}

/* -- the end of it -- */

static void release__gives_it_back(void **state)
{
    struct fake *f = fake_new();
    struct writer w;
    struct outcome o = {0};

    (void)state;
    writer_begin(&w, f);
    assert_int_equal(snapwire_lease_release(w.lease, outcome_cb, &o, NULL), 0);
    assert_int_equal(snapwire_lease_release(w.lease, outcome_cb, &o, NULL), SNAPWIRE_EINVAL);
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, 0);
    assert_int_equal(fake_count(f, METHOD(LEASE_RELEASE)), 1);
    writer_end(&w);
}

static void release__stale_on_the_second_try_is_success(void **state)
{
    struct fake *f = fake_new();
    struct writer w;
    struct outcome o = {0};

    (void)state;
    writer_begin(&w, f);
    f->hold = METHOD(LEASE_RELEASE);
    assert_int_equal(snapwire_lease_release(w.lease, outcome_cb, &o, NULL), 0);
    (void)await_asked(f, METHOD(LEASE_RELEASE), 1);
    fake_drop(f);
    fake_answer_error(f, await_asked(f, METHOD(LEASE_RELEASE), 2), SNAP_ESTALE, "gone");
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, 0);
    assert_int_equal(fake_count(f, METHOD(LEASE_ACQUIRE)), 1); /* it was not taken up again */
    writer_end(&w);
}

static void free__with_a_renewal_on_its_way_is_harmless(void **state)
{
    struct fake *f = fake_new();
    struct writer w;
    struct outcome o = {0};

    (void)state;
    writer_begin(&w, f);
    f->hold = METHOD(LEASE_RENEW);
    assert_int_equal(snapwire_lease_renew(w.lease, outcome_cb, &o, NULL), 0);
    (void)await_asked(f, METHOD(LEASE_RENEW), 1);
    snapwire_lease_free(w.lease);
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, SNAPWIRE_ECANCELED);
    fake_answer_lease(f, fake_nth(f, METHOD(LEASE_RENEW), 0));
    run_for_ms(f, 10);
    writer_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acquire__hands_out_what_the_daemon_said),
        cmocka_unit_test(acquire__tells_of_late_writes_and_the_same_lease_again_does_not),
        cmocka_unit_test(lease__the_heads_seq_is_as_the_daemon_says),
        cmocka_unit_test(acquire__refused_gives_no_lease),
        cmocka_unit_test(acquire__senseless_answers_are_refused),
        cmocka_unit_test(lease__is_renewed_by_itself),
        cmocka_unit_test(lease__is_renewed_by_answered_puts_too),
        cmocka_unit_test(lease__is_invalid_at_its_deadline_without_the_loop),
        cmocka_unit_test(lease__time_runs_from_the_sending_not_from_the_answer),
        cmocka_unit_test(lease__lapses_when_nobody_answers_and_is_resumed_by_an_answer),
        cmocka_unit_test(reconnect__takes_the_lease_up_with_instance_and_epoch),
        cmocka_unit_test(reconnect__stale_means_lost),
        cmocka_unit_test(reconnect__another_epoch_means_lost),
        cmocka_unit_test(reconnect__passing_trouble_is_not_a_loss),
        cmocka_unit_test(event__lease_lost_is_told_at_once),
        cmocka_unit_test(event__of_another_epoch_is_not_ours),
        cmocka_unit_test(quiesce__ready_is_sent_when_told_and_the_new_head_follows),
        cmocka_unit_test(quiesce__without_a_callback_is_answered_by_the_library),
        cmocka_unit_test(quiesce__an_error_leads_back_to_the_head_there_is),
        cmocka_unit_test(quiesce__ready_is_sent_again_when_there_was_no_memory),
        cmocka_unit_test(quiesce__ready_is_sent_again_after_a_disconnect),
        cmocka_unit_test(quiesce__a_head_made_during_the_disconnect_ends_it),
        cmocka_unit_test(head_ready__after_it_is_over_tells_the_head_again),
        cmocka_unit_test(release__gives_it_back),
        cmocka_unit_test(release__stale_on_the_second_try_is_success),
        cmocka_unit_test(free__with_a_renewal_on_its_way_is_harmless),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
