/* SPDX-License-Identifier: Apache-2.0 */
/* The client: connecting, coming back, giving up, and its requests on the way. */
#include "tests/unit/client/fake_daemon.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct states {
    enum snapwire_state seen[64];
    unsigned count;
    struct snapwire_error why;
};

static void on_state(void *user, struct snapwire_client *c, enum snapwire_state state,
                     const struct snapwire_error *why)
{
    struct states *s = user;

    assert_int_equal(snapwire_client_state(c), state);
    if (s->count < 64)
        s->seen[s->count++] = state;
    if (why != NULL)
        s->why = *why;
}

static void ping__is_answered_and_never_inside_the_call(void **state)
{
    struct fake *f = fake_new();
    struct states states = {0};
    struct snapwire_client *c = client_of(f, &states, on_state);
    struct outcome o = {0};

    (void)state;
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
    assert_int_equal(o.calls, 0);
    RUN_UNTIL(f, o.calls > 0);
    assert_int_equal(o.code, 0);
    assert_int_equal(states.seen[0], SNAPWIRE_STATE_CONNECTING);
    assert_int_equal(states.seen[1], SNAPWIRE_STATE_CONNECTED);
    close_and_free(f, c);
    assert_int_equal(o.calls, 1);
}

static void request__unanswered_is_sent_again_after_a_disconnect(void **state)
{
    struct fake *f = fake_new();
    struct states states = {0};
    struct snapwire_client *c = client_of(f, &states, on_state);
    struct outcome first = {0}, second = {0};

    (void)state;
    assert_int_equal(snapwire_ping(c, outcome_cb, &first, NULL), 0);
    RUN_UNTIL(f, first.calls == 1);
    f->hold = METHOD(PING);
    assert_int_equal(snapwire_ping(c, outcome_cb, &second, NULL), 0);
    RUN_UNTIL(f, fake_count(f, METHOD(PING)) == 2);
    f->hold = 0;
    fake_drop(f);
    RUN_UNTIL(f, second.calls == 1);
    assert_int_equal(second.code, 0);
    assert_int_equal(fake_count(f, METHOD(PING)), 3); /* the answered one was not repeated */
    assert_int_equal(f->connections, 2);
    assert_int_equal(states.seen[2], SNAPWIRE_STATE_RECONNECTING);
    assert_int_equal(states.why.code, SNAPWIRE_ECONN);
    close_and_free(f, c);
}

static void request__refused_for_shutdown_goes_to_the_next_connection(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};

    (void)state;
    f->hold = METHOD(PING);
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, fake_count(f, METHOD(PING)) == 1);
    f->hold = 0;
    fake_answer_error(f, &f->asked[0], SNAP_ESHUTDOWN, "stopping");
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, 0);
    assert_int_equal(f->connections, 2);
    close_and_free(f, c);
}

static void request__is_kept_until_a_daemon_is_there(void **state)
{
    struct fake *f = fake_new();
    struct states states = {0};
    struct outcome o = {0};

    (void)state;
    listener_free(f->listener);
    f->listener = NULL;
    struct snapwire_client *c = client_of(f, &states, on_state);
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, states.count > 3); /* it tried more than once */
    assert_int_equal(o.calls, 0);
    fake_listen(f);
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, 0);
    close_and_free(f, c);
}

static void request__times_out_and_a_late_answer_is_dropped(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0}, next = {0};
    Snapwire__V1__Empty empty = SNAPWIRE__V1__EMPTY__INIT;

    (void)state;
    f->hold = METHOD(PING);
    snapwire_client_set_timeout(c, 40);
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, SNAPWIRE_ETIMEDOUT);
    snapwire_client_set_timeout(c, 0);
    fake_answer(f, &f->asked[0], &empty.base);
    f->hold = 0;
    assert_int_equal(snapwire_ping(c, outcome_cb, &next, NULL), 0);
    RUN_UNTIL(f, next.calls == 1);
    assert_int_equal(next.code, 0);
    assert_int_equal(o.calls, 1);
    assert_int_equal(f->connections, 1);
    close_and_free(f, c);
}

static void request__no_more_than_the_peer_takes_are_sent(void **state)
{
    struct fake *f = fake_new();
    struct outcome o = {0};

    (void)state;
    f->requests_max = 3;
    f->hold = METHOD(PING);
    struct snapwire_client *c = client_of(f, NULL, NULL);
    for (int i = 0; i < 10; i++)
        assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, fake_count(f, METHOD(PING)) == 3);
    run_for_ms(f, 20);
    assert_int_equal(fake_count(f, METHOD(PING)), 3);
    f->hold = 0;
    Snapwire__V1__Empty empty = SNAPWIRE__V1__EMPTY__INIT;
    for (unsigned i = 0; i < 3; i++)
        fake_answer(f, &f->asked[i], &empty.base);
    RUN_UNTIL(f, o.calls == 10);
    close_and_free(f, c);
}

static void request__more_than_requests_max_are_refused(void **state)
{
    struct fake *f = fake_new();
    const struct snapwire_config config = {
        .size = sizeof config, .addresses = f->address, .requests_max = 2};
    struct snapwire_client *c = NULL;
    struct snapwire_error e;
    struct outcome o = {0};

    (void)state;
    assert_int_equal(snapwire_client_new(f->base, &config, &c, &e), 0);
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, &e), 0);
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, &e), 0);
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, &e), SNAPWIRE_ELIMIT);
    RUN_UNTIL(f, o.calls == 2);
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, &e), 0);
    RUN_UNTIL(f, o.calls == 3);
    close_and_free(f, c);
}

static void errors__of_the_daemon_keep_code_text_and_place(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};
    Snapwire__V1__Error m = SNAPWIRE__V1__ERROR__INIT;

    (void)state;
    f->hold = 0xffff;
    for (int code = 1; code <= 26; code++) {
        if (-code == SNAP_ESHUTDOWN)
            continue;
        o.calls = 0;
        assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
        const unsigned n = f->asked_count;
        RUN_UNTIL(f, f->asked_count == n + 1);
        m.code = (uint32_t)code;
        m.text = (char *)(uintptr_t) "went\nwrong";
        m.place = (char *)(uintptr_t) "volume db";
        fake_send(f, FRAME_RESPONSE, FRAME_ERROR, METHOD(PING), f->asked[n].id, &m.base, NULL);
        RUN_UNTIL(f, o.calls == 1);
        assert_int_equal(o.code, code <= 24 ? -code : SNAPWIRE_EINTERNAL);
        assert_string_equal(o.text, "volume db: went?wrong");
    }
    assert_string_equal(snapwire_error_name(SNAPWIRE_ENOSPC), "ENOSPC");
    assert_string_equal(snapwire_error_text(SNAPWIRE_ENOSPC), "no space left");
    assert_int_equal(snapwire_error_exit_code(SNAPWIRE_ENOSPC), 5);
    close_and_free(f, c);
}

static void answer__to_a_request_that_never_was_drops_the_connection(void **state)
{
    struct fake *f = fake_new();
    struct states states = {0};
    struct snapwire_client *c = client_of(f, &states, on_state);
    struct outcome o = {0};
    Snapwire__V1__Empty empty = SNAPWIRE__V1__EMPTY__INIT;

    (void)state;
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, o.calls == 1);
    f->hold = METHOD(PING); /* there is one to be answered, but not this */
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, f->asked_count == 2);
    fake_send(f, FRAME_RESPONSE, 0, METHOD(PING), 4711, &empty.base, NULL);
    RUN_UNTIL(f, f->connections == 2);
    assert_int_equal(states.why.code, SNAPWIRE_EPROTO);
    close_and_free(f, c);
}

static void answer__of_another_method_drops_the_connection_and_is_no_answer(void **state)
{
    struct fake *f = fake_new();
    struct states states = {0};
    struct snapwire_client *c = client_of(f, &states, on_state);
    struct outcome o = {0};
    Snapwire__V1__Empty empty = SNAPWIRE__V1__EMPTY__INIT;

    (void)state;
    f->hold = METHOD(PING);
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, f->asked_count == 1);
    fake_send(f, FRAME_RESPONSE, 0, METHOD(GRANT), f->asked[0].id, &empty.base, NULL);
    f->hold = 0;
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, 0);
    assert_int_equal(f->connections, 2);
    assert_int_equal(states.why.code, SNAPWIRE_EPROTO);
    close_and_free(f, c);
}

/* -- ends -- */

static void close__ends_requests_with_ecanceled(void **state)
{
    struct fake *f = fake_new();
    struct states states = {0};
    struct snapwire_client *c = client_of(f, &states, on_state);
    struct outcome sent = {0}, waiting = {0};
    bool closed = false;

    (void)state;
    f->hold = METHOD(PING);
    assert_int_equal(snapwire_ping(c, outcome_cb, &sent, NULL), 0);
    RUN_UNTIL(f, f->asked_count == 1);
    assert_int_equal(snapwire_ping(c, outcome_cb, &waiting, NULL), 0);
    snapwire_client_close(c, set_true, &closed);
    assert_int_equal(sent.calls + waiting.calls, 0);
    assert_int_equal(snapwire_ping(c, outcome_cb, &waiting, NULL), SNAPWIRE_ECANCELED);
    RUN_UNTIL(f, closed);
    assert_int_equal(sent.calls, 1);
    assert_int_equal(sent.code, SNAPWIRE_ECANCELED);
    assert_int_equal(waiting.calls, 1);
    assert_int_equal(waiting.code, SNAPWIRE_ECANCELED);
    assert_int_equal(states.seen[states.count - 1], SNAPWIRE_STATE_CLOSED);
    run_for_ms(f, 5);
    fake_free(f);
}

static void close__from_a_callback_is_possible(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};
    bool closed = false;

    (void)state;
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, o.calls == 1);
    fake_drop(f);
    snapwire_client_close(c, set_true, &closed);
    RUN_UNTIL(f, closed);
    run_for_ms(f, 5);
    fake_free(f);
}

static void give_up__ends_the_client_with_the_last_reason(void **state)
{
    struct fake *f = fake_new();
    struct states states = {0};
    const struct snapwire_config config = {.size = sizeof config,
                                           .addresses = f->address,
                                           .backoff_min_ms = 1,
                                           .backoff_max_ms = 5,
                                           .give_up_ms = 50,
                                           .state_changed = on_state,
                                           .user = &states};
    struct snapwire_client *c = NULL;
    struct outcome o = {0};

    (void)state;
    listener_free(f->listener);
    f->listener = NULL;
    assert_int_equal(snapwire_client_new(f->base, &config, &c, NULL), 0);
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, SNAPWIRE_ECONN);
    assert_int_equal(snapwire_client_state(c), SNAPWIRE_STATE_FAILED);
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), SNAPWIRE_ECONN);
    close_and_free(f, c);
}

static void garbage_accepted(void *user, int fd, bool local)
{
    static const char hello[] = "HTTP/1.1 400 Bad Request, this is not what you look for";

    (void)user;
    (void)local;
    assert_int_equal(write(fd, hello, sizeof hello), sizeof hello);
    (void)shutdown(fd, SHUT_WR);
}

static void hello__that_is_none_fails_for_good_at_once(void **state)
{
    struct fake *f = fake_new();
    struct states states = {0};
    struct addr a;
    struct outcome o = {0};

    (void)state;
    listener_free(f->listener);
    assert_int_equal(addr_parse(f->address, &a, NULL), 0);
    assert_int_equal(listener_new(f->loop, &a, 0600, garbage_accepted, f, &f->listener, NULL), 0);
    struct snapwire_client *c = client_of(f, &states, on_state);
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, SNAPWIRE_EPROTO);
    assert_int_equal(snapwire_client_state(c), SNAPWIRE_STATE_FAILED);
    assert_int_equal(states.count, 2);
    close_and_free(f, c);
}

/* -- arguments -- */

static void config__of_another_size_is_judged(void **state)
{
    struct {
        struct snapwire_config known;
        uint64_t later;
    } newer = {.known = {.size = sizeof newer, .addresses = "unix:/nowhere"}};
    struct snapwire_client *c = NULL;
    struct snapwire_error e;

    (void)state;
    assert_int_equal(snapwire_client_new(NULL, &newer.known, &c, &e), 0);
    snapwire_client_free(c);
    newer.later = 1;
    assert_int_equal(snapwire_client_new(NULL, &newer.known, &c, &e), SNAPWIRE_ENOTSUP);
    newer.known.size = 8;
    assert_int_equal(snapwire_client_new(NULL, &newer.known, &c, &e), SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_client_new(NULL, NULL, &c, &e), SNAPWIRE_EINVAL);
}

static void config__addresses_are_checked_when_the_client_is_made(void **state)
{
    static const struct {
        const char *addresses;
        int code;
    } cases[] = {{NULL, SNAPWIRE_EINVAL},
                 {" , ", SNAPWIRE_EINVAL},
                 {"host:99999", SNAPWIRE_EINVAL},
                 {"unix:/a, 127.0.0.1", SNAPWIRE_EINVAL}, /* no certificate */
                 {"unix:/a unix:/b", 0}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct snapwire_config config = {.size = sizeof config,
                                               .addresses = cases[i].addresses};
        struct snapwire_client *c = NULL;
        struct snapwire_error e = {.text = ""};
        assert_int_equal(snapwire_client_new(NULL, &config, &c, &e), cases[i].code);
        if (cases[i].code == 0)
            snapwire_client_free(c);
        else
            assert_true(e.text[0] != '\0');
    }
}

static void addresses__the_second_is_tried_when_the_first_fails(void **state)
{
    struct fake *f = fake_new();
    char both[2 * TMPDIR_FILE_BYTES];
    struct snapwire_client *c = NULL;
    struct outcome o = {0};

    (void)state;
    (void)snprintf(both, sizeof both, "unix:%s/none,%s", f->dir.path, f->address);
    const struct snapwire_config config = {
        .size = sizeof config, .addresses = both, .backoff_min_ms = 60000, .backoff_max_ms = 60000};
    assert_int_equal(snapwire_client_new(f->base, &config, &c, NULL), 0);
    assert_int_equal(snapwire_ping(c, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, o.calls == 1); /* without the pause, which comes after a round */
    assert_int_equal(o.code, 0);
    close_and_free(f, c);
}

static void post__runs_on_the_loop(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    bool ran = false;

    (void)state;
    assert_int_equal(snapwire_client_post(c, set_true, &ran, NULL), 0);
    assert_false(ran);
    RUN_UNTIL(f, ran);
    close_and_free(f, c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ping__is_answered_and_never_inside_the_call),
        cmocka_unit_test(request__unanswered_is_sent_again_after_a_disconnect),
        cmocka_unit_test(request__refused_for_shutdown_goes_to_the_next_connection),
        cmocka_unit_test(request__is_kept_until_a_daemon_is_there),
        cmocka_unit_test(request__times_out_and_a_late_answer_is_dropped),
        cmocka_unit_test(request__no_more_than_the_peer_takes_are_sent),
        cmocka_unit_test(request__more_than_requests_max_are_refused),
        cmocka_unit_test(errors__of_the_daemon_keep_code_text_and_place),
        cmocka_unit_test(answer__to_a_request_that_never_was_drops_the_connection),
        cmocka_unit_test(answer__of_another_method_drops_the_connection_and_is_no_answer),
        cmocka_unit_test(close__ends_requests_with_ecanceled),
        cmocka_unit_test(close__from_a_callback_is_possible),
        cmocka_unit_test(give_up__ends_the_client_with_the_last_reason),
        cmocka_unit_test(hello__that_is_none_fails_for_good_at_once),
        cmocka_unit_test(config__of_another_size_is_judged),
        cmocka_unit_test(config__addresses_are_checked_when_the_client_is_made),
        cmocka_unit_test(addresses__the_second_is_tried_when_the_first_fails),
        cmocka_unit_test(post__runs_on_the_loop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
