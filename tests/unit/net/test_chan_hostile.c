/* SPDX-License-Identifier: Apache-2.0 */
/* A channel against a peer that breaks the rules, speaks by halves, or not at all. The
 * peer here is a bare socket. */
#include "common/base/rng.h"
#include "proto/snapwire.pb-c.h"
#include "tests/lib/seed.h"
#include "tests/unit/net/chan_pair.h"

/* -- a raw peer ------------------------------------------------------------------------- */

struct raw {
    struct pair p;
    int fd;
    struct end *end; /* the channel under test */
};

static const struct frame_header plain = {.version = FRAME_VERSION};

static void raw_send(struct raw *r, const void *data, size_t len)
{
    size_t at = 0;
    while (at < len) {
        const ssize_t n = send(r->fd, (const uint8_t *)data + at, len - at, MSG_NOSIGNAL);
        if (n > 0)
            at += (size_t)n;
        else if (r->end->c == NULL)
            return;
        else
            loop_turn(r->p.loop, 1);
    }
}

static void raw_frame(struct raw *r, struct frame_header h, const void *control)
{
    uint8_t head[FRAME_HEADER_BYTES];
    frame_encode(&h, head);
    raw_send(r, head, sizeof head);
    if (h.control_bytes > 0 && control != NULL)
        raw_send(r, control, h.control_bytes);
}

static Snapwire__V1__Hello sound_hello(void)
{
    Snapwire__V1__Hello hello = SNAPWIRE__V1__HELLO__INIT;
    hello.version_min = hello.version_max = 1;
    hello.software = (char *)(uintptr_t) "raw\x1b peer";
    hello.control_bytes_max = 100000;
    hello.payload_bytes_max = 1000000;
    hello.requests_max = 100;
    hello.window_bytes = 100000;
    return hello;
}

static void raw_hello(struct raw *r, const Snapwire__V1__Hello *hello)
{
    uint8_t control[512];
    struct frame_header h = plain;
    h.kind = FRAME_HELLO;
    h.control_bytes = (uint32_t)snapwire__v1__hello__pack(hello, control);
    raw_frame(r, h, control);
}

static void raw_begin(struct raw *r)
{
    pair_init(&r->p);
    r->p.config_server.requests_max = 3;
    r->p.config_server.control_bytes_max = 50000;
    r->p.config_server.window_bytes = 100000;
    r->p.config_client = r->p.config_server;
}

static void raw_connect(struct raw *r, bool server)
{
    int v[2];
    pair_sockets(v);
    r->fd = v[1];
    r->end = server ? &r->p.server : &r->p.client;
    if (server)
        pair_server(&r->p, v[0]);
    else
        pair_client(&r->p, v[0]);
}

static void raw_up(struct raw *r, bool server)
{
    const Snapwire__V1__Hello hello = sound_hello();
    raw_connect(r, server);
    raw_hello(r, &hello);
    PUMP_UNTIL(&r->p, r->end->up == 1);
}

static void raw_done(struct raw *r)
{
    if (r->fd >= 0)
        assert_int_equal(close(r->fd), 0);
    pair_done(&r->p);
    assert_int_equal(r->end->down, 1);
}

/* The channel must go down so; and if said, the peer must have been told why. */
static void expect_down(struct raw *r, int code, const char *text, bool said)
{
    static uint8_t heard[1 << 20];
    size_t len = 0;
    for (int i = 0; i < 2000 && r->end->c != NULL; i++) {
        const ssize_t n = recv(r->fd, heard + len, sizeof heard - len, MSG_DONTWAIT);
        if (n > 0)
            len += (size_t)n;
        if (n == 0 && r->fd >= 0) { /* it closed its direction: so do we */
            assert_int_equal(close(r->fd), 0);
            r->fd = -1;
        }
        loop_turn(r->p.loop, 5);
    }
    assert_int_equal(r->end->down, 1);
    if (r->end->why.code != code || strstr(r->end->why.text, text) == NULL)
        fail_msg("expected %s: %s; got %s: %s", err_name(code), text, err_name(r->end->why.code),
                 r->end->why.text);
    if (said)
        assert_non_null(memmem(heard, len, text, strlen(text)));
}

static void expect_violation(struct raw *r, const char *text)
{
    expect_down(r, SNAP_EPROTO, text, true);
    raw_done(r);
}

/* -- before and in HELLO ------------------------------------------------------------------- */

static void hostile__garbage_instead_of_a_frame(void **state)
{
    struct raw r;
    (void)state;
    raw_begin(&r);
    raw_connect(&r, true);
    raw_send(&r, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 35);
    expect_violation(&r, "not Snapwire");
}

static void hostile__request_before_hello(void **state)
{
    struct raw r;
    struct frame_header h = plain;
    (void)state;
    raw_begin(&r);
    raw_connect(&r, true);
    h.kind = FRAME_REQUEST;
    raw_frame(&r, h, NULL);
    expect_violation(&r, "frame REQUEST before HELLO");
    assert_int_equal(r.end->frames, 0);
}

static void hostile__hello_longer_than_a_hello_is(void **state)
{
    struct raw r;
    struct frame_header h = plain;
    (void)state;
    raw_begin(&r);
    raw_connect(&r, true);
    h.kind = FRAME_HELLO;
    h.control_bytes = 4097;
    raw_frame(&r, h, NULL);
    expect_violation(&r, "control length 4097 is above the limit 4096");
}

static void hostile__hello_that_is_no_hello(void **state)
{
    struct raw r;
    struct frame_header h = plain;
    (void)state;
    raw_begin(&r);
    raw_connect(&r, true);
    h.kind = FRAME_HELLO;
    h.control_bytes = 8;
    raw_frame(&r, h, "\xff\xff\xff\xff\xff\xff\xff\xff");
    expect_violation(&r, "are no Hello message");
}

static void hostile__hello_twice(void **state)
{
    struct raw r;
    const Snapwire__V1__Hello hello = sound_hello();
    (void)state;
    raw_begin(&r);
    raw_up(&r, true);
    assert_string_equal(r.end->peer.software, "raw? peer");
    raw_hello(&r, &hello);
    expect_violation(&r, "frame HELLO a second time");
}

static void hostile__hello_with_useless_limits(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        struct raw r;
        Snapwire__V1__Hello hello = sound_hello();
        raw_begin(&r);
        raw_connect(&r, i % 2 == 0);
        if (i == 0)
            hello.control_bytes_max = 1;
        else if (i == 1)
            hello.payload_bytes_max = 0;
        else if (i == 2)
            hello.requests_max = 0;
        else if (i == 3)
            hello.window_bytes = LIMIT_WINDOW_BYTES_MIN - 1;
        else
            hello.instance = (ProtobufCBinaryData){.data = (uint8_t *)hello.software, .len = 3};
        raw_hello(&r, &hello);
        expect_violation(&r, i == 4 ? "instance has 3 bytes" : "limits too small");
    }
}

static void hostile__huge_limits_are_cut_to_ours(void **state)
{
    struct raw r;
    Snapwire__V1__Hello hello = sound_hello();
    (void)state;
    raw_begin(&r);
    raw_connect(&r, true);
    hello.control_bytes_max = hello.payload_bytes_max = hello.requests_max = UINT32_MAX;
    hello.window_bytes = UINT64_MAX;
    raw_hello(&r, &hello);
    PUMP_UNTIL(&r.p, r.end->up == 1);
    assert_int_equal(r.end->peer.control_bytes_max, LIMIT_FRAME_CONTROL_BYTES);
    assert_int_equal(r.end->peer.payload_bytes_max, LIMIT_FRAME_PAYLOAD_BYTES);
    raw_done(&r);
}

static void hello__versions_without_overlap_are_refused_on_either_side(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct raw r;
        Snapwire__V1__Hello hello = sound_hello();
        raw_begin(&r);
        raw_connect(&r, i % 2 == 0);
        hello.version_min = i < 2 ? 2 : 0;
        hello.version_max = i < 2 ? 9 : 0;
        raw_hello(&r, &hello);
        expect_violation(&r, i < 2 ? "no common protocol version: we speak 1 to 1, the peer 2 to 9"
                                   : "no common protocol version");
    }
}

static void hello__newer_peer_that_still_speaks_version_1_is_taken(void **state)
{
    struct raw r;
    Snapwire__V1__Hello hello = sound_hello();
    (void)state;
    raw_begin(&r);
    raw_connect(&r, true);
    hello.version_max = 9;
    raw_hello(&r, &hello);
    PUMP_UNTIL(&r.p, r.end->up == 1);
    raw_done(&r);
}

/* -- afterwards ---------------------------------------------------------------------------------
 */

/* One frame's header, and what the channel says to it. */
static void one_frame(bool server, struct frame_header h, const char *text)
{
    struct raw r;
    raw_begin(&r);
    raw_up(&r, server);
    raw_frame(&r, h, NULL);
    expect_violation(&r, text);
}

static struct frame_header frame(uint8_t kind)
{
    struct frame_header h = plain;
    h.kind = kind;
    return h;
}

static void hostile__frames_out_of_place(void **state)
{
    struct frame_header h;
    (void)state;
    one_frame(true, frame(FRAME_RESPONSE), "frame RESPONSE from the client");
    one_frame(true, frame(FRAME_EVENT), "frame EVENT from the client");
    one_frame(false, frame(FRAME_REQUEST), "frame REQUEST from the daemon");
    one_frame(false, frame(FRAME_RESPONSE), "where no request is unanswered");
    one_frame(true, frame(200), "unknown kind 200");
    h = frame(FRAME_REQUEST);
    h.version = 2;
    one_frame(true, h, "header version 2");
}

static void hostile__lengths_above_what_was_announced(void **state)
{
    struct frame_header h = frame(FRAME_REQUEST);
    (void)state;
    h.control_bytes = 50001;
    one_frame(true, h, "control length 50001 is above the limit 50000");
    h.control_bytes = 0xffffffff;
    one_frame(true, h, "above the limit");
    h.control_bytes = 0;
    h.payload_bytes = 0xffffffff;
    one_frame(true, h, "above the limit 100000");
    h = frame(FRAME_GOAWAY);
    h.control_bytes = 5000;
    one_frame(true, h, "above the limit 4096");
}

static void hostile__window_that_gives_back_what_was_never_sent(void **state)
{
    struct frame_header h = frame(FRAME_WINDOW);
    (void)state;
    h.credit = 1;
    one_frame(true, h, "WINDOW grants 1 bytes, 1 more than were sent");
    h.credit = 0xffffffff;
    one_frame(false, h, "more than were sent");
}

static void hostile__payload_above_the_credit(void **state)
{
    struct raw r;
    struct frame_header h = frame(FRAME_REQUEST);
    static uint8_t zeros[60000];
    (void)state;
    raw_begin(&r);
    raw_up(&r, true);
    r.end->keep = true; /* no credit goes back */
    h.payload_bytes = sizeof zeros;
    raw_frame(&r, h, NULL);
    raw_send(&r, zeros, sizeof zeros);
    PUMP_UNTIL(&r.p, r.end->frames == 1);
    raw_frame(&r, h, NULL);
    expect_violation(&r, "payload of 60000 bytes is above the credit of 40000");
}

static void hostile__too_many_requests_in_flight(void **state)
{
    struct raw r;
    (void)state;
    raw_begin(&r);
    raw_up(&r, true);
    for (int i = 0; i < 4; i++)
        raw_frame(&r, frame(FRAME_REQUEST), NULL);
    expect_violation(&r, "above the number of requests in flight");
    assert_int_equal(r.end->frames, 3);
}

static void hostile__bytes_of_chance_after_hello_never_do_harm(void **state)
{
    struct rng rng;
    (void)state;
    seed_init_rng(&rng);
    for (int round = 0; round < 300; round++) {
        struct raw r;
        raw_begin(&r);
        r.p.config_server.frame_timeout_ms = 50;
        raw_up(&r, round % 2 == 0);
        for (int i = 0; i < 20 && r.end->c != NULL; i++) {
            uint8_t head[FRAME_HEADER_BYTES], junk[64];
            const struct frame_header h = {.version = FRAME_VERSION,
                                           .kind = (uint8_t)rng_below(&rng, 10),
                                           .control_bytes = (uint32_t)rng_below(&rng, 64),
                                           .id = rng_below(&rng, 3),
                                           .payload_bytes = (uint32_t)rng_below(&rng, 2) * 40};
            frame_encode(&h, head);
            if (rng_chance(&rng, 20))
                head[rng_below(&rng, sizeof head)] = (uint8_t)rng_u64(&rng);
            rng_fill(&rng, junk, sizeof junk);
            raw_send(&r, head, sizeof head);
            raw_send(&r, junk, rng_below(&rng, sizeof junk + 1));
            loop_turn(r.p.loop, 0);
        }
        raw_done(&r);
    }
}

/* -- time
 * -------------------------------------------------------------------------------------------- */

static void slow__silent_socket_does_not_outlive_the_handshake(void **state)
{
    struct raw r;
    (void)state;
    raw_begin(&r);
    r.p.config_server.handshake_timeout_ms = 50;
    raw_connect(&r, true);
    expect_down(&r, SNAP_ETIMEDOUT, "no hello within 50 ms", false);
    raw_done(&r);
}

static void slow__frame_that_drips_is_cut_off(void **state)
{
    struct raw r;
    uint8_t head[FRAME_HEADER_BYTES];
    struct frame_header h = frame(FRAME_REQUEST);
    (void)state;
    raw_begin(&r);
    r.p.config_server.frame_timeout_ms = 100;
    raw_up(&r, true);
    h.control_bytes = 3000;
    frame_encode(&h, head);
    raw_send(&r, head, sizeof head);
    const uint64_t start = test_now_ms();
    while (r.end->c != NULL && test_now_ms() < start + 2000) {
        (void)send(r.fd, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        pump_ms(&r.p, 10);
    }
    expect_down(&r, SNAP_ETIMEDOUT, "the rest of a frame did not come within 100 ms", false);
    raw_done(&r);
}

static void slow__half_a_frame_and_then_the_end(void **state)
{
    struct raw r;
    struct frame_header h = frame(FRAME_REQUEST);
    (void)state;
    raw_begin(&r);
    raw_up(&r, true);
    h.payload_bytes = 1000;
    raw_frame(&r, h, NULL);
    raw_send(&r, "half", 4);
    assert_int_equal(shutdown(r.fd, SHUT_WR), 0);
    expect_down(&r, SNAP_ECONN, "closed the connection inside a frame", false);
    assert_int_equal(r.end->frames, 0);
    raw_done(&r);
}

static void slow__peer_that_takes_nothing_is_given_up(void **state)
{
    struct raw r;
    static uint8_t data[90000];
    struct frame_header window = frame(FRAME_WINDOW);
    unsigned sent = 0;
    (void)state;
    raw_begin(&r);
    r.p.config_server.frame_timeout_ms = 100;
    raw_up(&r, true);
    /* grants credit for what it never reads, until the socket is full */
    while (r.end->c != NULL && sent < 200) {
        if (end_send(r.end, FRAME_EVENT, sent, 10, data, sizeof data, NULL) == 0)
            sent++;
        pump_ms(&r.p, 1);
        if (r.end->released == sent) {
            window.credit = sizeof data;
            raw_frame(&r, window, NULL);
        } else if (sent > 2) {
            break;
        }
    }
    for (int i = 0; i < 200 && r.end->c != NULL; i++)
        loop_turn(r.p.loop, 10);
    assert_int_equal(r.end->why.code, SNAP_ETIMEDOUT);
    assert_non_null(strstr(r.end->why.text, "took nothing of what was sent"));
    assert_int_equal(r.end->released, sent);
    raw_done(&r);
}

static void slow__client_that_grants_no_credit_is_given_up(void **state)
{
    struct raw r;
    static uint8_t data[90000];
    (void)state;
    raw_begin(&r);
    r.p.config_server.frame_timeout_ms = 30;
    raw_up(&r, true);
    assert_int_equal(end_send(r.end, FRAME_EVENT, 1, 0, data, sizeof data, NULL), 0);
    assert_int_equal(end_send(r.end, FRAME_EVENT, 2, 0, data, sizeof data, NULL), 0);
    expect_down(&r, SNAP_ETIMEDOUT, "the peer granted no credit", false);
    assert_int_equal(r.end->released, 2);
    raw_done(&r);
}

static void slow__silence_is_asked_and_then_given_up(void **state)
{
    struct raw r;
    uint8_t heard[4096];
    (void)state;
    raw_begin(&r);
    r.p.config_server.keepalive_ms = 100;
    raw_up(&r, true);
    const uint64_t start = test_now_ms();
    for (int i = 0; i < 200 && r.end->c != NULL; i++)
        loop_turn(r.p.loop, 10);
    assert_true(test_now_ms() - start >= 190);
    assert_int_equal(r.end->why.code, SNAP_ETIMEDOUT);
    assert_non_null(strstr(r.end->why.text, "no answer to a PING"));
    const ssize_t n = recv(r.fd, heard, sizeof heard, MSG_DONTWAIT);
    uint8_t ping[FRAME_HEADER_BYTES];
    const struct frame_header h = frame(FRAME_PING);
    frame_encode(&h, ping);
    assert_true(n > 0);
    assert_non_null(memmem(heard, (size_t)n, ping, sizeof ping));
    raw_done(&r);
}

static void slow__pings_without_reading_cost_bounded_memory(void **state)
{
    struct raw r;
    uint8_t pings[100 * FRAME_HEADER_BYTES];
    (void)state;
    raw_begin(&r);
    r.p.config_server.frame_timeout_ms = 100;
    raw_up(&r, true);
    for (int i = 0; i < 100; i++) {
        struct frame_header h = frame(FRAME_PING);
        h.id = (uint64_t)i;
        frame_encode(&h, pings + i * FRAME_HEADER_BYTES);
    }
    /* its socket fills with answers; then it is read no further, then given up */
    const uint64_t start = test_now_ms();
    while (r.end->c != NULL && test_now_ms() < start + 8000) {
        if (send(r.fd, pings, sizeof pings, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
            loop_turn(r.p.loop, 5);
        loop_turn(r.p.loop, 0);
        if (r.end->c != NULL)
            assert_true(chan_send_queued_bytes(r.end->c) == 0);
    }
    assert_int_equal(r.end->why.code, SNAP_ETIMEDOUT);
    raw_done(&r);
}

/* -- what a peer says last
 * -------------------------------------------------------------------------------- */

static void goaway__its_reason_is_what_down_tells(void **state)
{
    struct raw r;
    uint8_t control[256];
    struct frame_header h = frame(FRAME_GOAWAY);
    Snapwire__V1__Error error = SNAPWIRE__V1__ERROR__INIT;
    (void)state;
    raw_begin(&r);
    raw_up(&r, false);
    error.code = 20;
    error.text = (char *)(uintptr_t) "going to sleep";
    h.control_bytes = (uint32_t)snapwire__v1__error__pack(&error, control);
    raw_frame(&r, h, control);
    pump_ms(&r.p, 20);
    assert_int_equal(r.end->down, 0);
    /* no new requests */
    struct err e = ERR_INIT;
    assert_int_equal(end_send(r.end, FRAME_REQUEST, 1, 0, NULL, 0, &e), SNAP_ECONN);
    assert_non_null(strstr(e.text, "going to sleep"));
    assert_int_equal(close(r.fd), 0);
    r.fd = -1;
    expect_down(&r, SNAP_ESHUTDOWN, "the daemon closed the connection: going to sleep", false);
    raw_done(&r);
}

static void goaway__instead_of_hello_ends_the_handshake(void **state)
{
    struct raw r;
    uint8_t control[256];
    struct frame_header h = frame(FRAME_GOAWAY);
    Snapwire__V1__Error error = SNAPWIRE__V1__ERROR__INIT;
    (void)state;
    raw_begin(&r);
    raw_connect(&r, false);
    error.code = 4711; /* a code of tomorrow */
    error.text = (char *)(uintptr_t) "full";
    h.control_bytes = (uint32_t)snapwire__v1__error__pack(&error, control);
    raw_frame(&r, h, control);
    expect_down(&r, SNAP_ECONN, "the daemon closed the connection: full", false);
    assert_int_equal(r.end->up, 0);
    raw_done(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile__garbage_instead_of_a_frame),
        cmocka_unit_test(hostile__request_before_hello),
        cmocka_unit_test(hostile__hello_longer_than_a_hello_is),
        cmocka_unit_test(hostile__hello_that_is_no_hello),
        cmocka_unit_test(hostile__hello_twice),
        cmocka_unit_test(hostile__hello_with_useless_limits),
        cmocka_unit_test(hostile__huge_limits_are_cut_to_ours),
        cmocka_unit_test(hello__versions_without_overlap_are_refused_on_either_side),
        cmocka_unit_test(hello__newer_peer_that_still_speaks_version_1_is_taken),
        cmocka_unit_test(hostile__frames_out_of_place),
        cmocka_unit_test(hostile__lengths_above_what_was_announced),
        cmocka_unit_test(hostile__window_that_gives_back_what_was_never_sent),
        cmocka_unit_test(hostile__payload_above_the_credit),
        cmocka_unit_test(hostile__too_many_requests_in_flight),
        cmocka_unit_test(hostile__bytes_of_chance_after_hello_never_do_harm),
        cmocka_unit_test(slow__silent_socket_does_not_outlive_the_handshake),
        cmocka_unit_test(slow__frame_that_drips_is_cut_off),
        cmocka_unit_test(slow__half_a_frame_and_then_the_end),
        cmocka_unit_test(slow__peer_that_takes_nothing_is_given_up),
        cmocka_unit_test(slow__client_that_grants_no_credit_is_given_up),
        cmocka_unit_test(slow__silence_is_asked_and_then_given_up),
        cmocka_unit_test(slow__pings_without_reading_cost_bounded_memory),
        cmocka_unit_test(goaway__its_reason_is_what_down_tells),
        cmocka_unit_test(goaway__instead_of_hello_ends_the_handshake),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
