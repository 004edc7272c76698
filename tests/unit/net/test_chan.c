/* SPDX-License-Identifier: Apache-2.0 */
/* Two channels that mean well, over a socket pair, with TLS and without. */
#include "common/base/rng.h"
#include "tests/lib/seed.h"
#include "tests/unit/net/chan_pair.h"
#include "tests/unit/net/pki.h"

#include <pthread.h>
#include <stdatomic.h>

static struct pki pki;
static struct tls_context *tls_server, *tls_client;

static int setup(void **state)
{
    (void)state;
    pki_init(&pki, "test CA");
    pki_issue(&pki, &(struct pki_leaf){.file = "server", .san = "DNS:localhost"});
    pki_issue(&pki, &(struct pki_leaf){.file = "client", .san = "DNS:host-1"});
    assert_int_equal(pki_context(&pki, true, "server", NULL, &tls_server, NULL), 0);
    assert_int_equal(pki_context(&pki, false, "client", NULL, &tls_client, NULL), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tls_context_unref(tls_server);
    tls_context_unref(tls_client);
    pki_done(&pki);
    return 0;
}

static void begin(struct pair *p, bool tls)
{
    pair_init(p);
    p->config_server.tls = tls ? tls_server : NULL;
    p->config_client.tls = tls ? tls_client : NULL;
}

/* A case that is run with TLS and without. */
#define BOTH(name)                          \
    static void name##__plain(void **state) \
    {                                       \
        (void)state;                        \
        name(false);                        \
    }                                       \
    static void name##__tls(void **state)   \
    {                                       \
        (void)state;                        \
        name(true);                         \
    }

static uint8_t pattern[1024 * 1024];

static void fill_pattern(void)
{
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (uint8_t)(i * 7 + i / 253);
}

/* -- exchange ------------------------------------------------------------------------------ */

static void chan__hello_then_a_frame_each_way(bool tls)
{
    struct pair p;
    begin(&p, tls);
    pair_up(&p);
    assert_string_equal(p.server.peer.software, "test client");
    assert_string_equal(p.client.peer.software, "test daemon");
    assert_true(p.server.peer.local);
    assert_int_equal(p.server.peer.uid, getuid());
    if (tls)
        assert_string_equal(p.server.peer.identity, "host-1");
    else
        assert_int_equal(strncmp(p.server.peer.identity, "uid:", 4), 0);
    p.server.keep = true;
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, 5, 33, pattern, 100000, NULL), 0);
    assert_int_equal(p.client.released, 0); /* never inside the call */
    PUMP_UNTIL(&p, p.server.frames == 1);
    const struct chan_frame *f = p.server.kept[0];
    assert_int_equal(f->header.id, 5);
    assert_int_equal(f->header.control_bytes, 33);
    assert_int_equal(f->control[32], 5 + 32);
    assert_int_equal(f->payload->len_bytes, 100000);
    assert_memory_equal(f->payload->data, pattern, 100000);
    PUMP_UNTIL(&p, p.client.released == 1);
    assert_int_equal(end_send(&p.server, FRAME_RESPONSE, 5, 0, NULL, 0, NULL), 0);
    PUMP_UNTIL(&p, p.client.frames == 1);
    chan_close(p.client.c);
    PUMP_UNTIL(&p, p.client.down == 1 && p.server.down == 1);
    assert_int_equal(p.client.why.code, 0);
    assert_int_equal(p.server.why.code, SNAP_ECONN);
    assert_string_equal(p.server.why.text, "the peer closed the connection");
    pair_done(&p);
}
BOTH(chan__hello_then_a_frame_each_way)

enum { TRAFFIC_FRAMES = 1500, TRAFFIC_PIECES = 40, TRAFFIC_SENT_MAX = 8 };

/* One direction of random traffic: what was sent is made again from the seed and compared. */
struct traffic {
    struct end *from, *to;
    struct rng tx, rx, when;
    uint8_t kind;
    uint64_t sent, seen;
    struct chan_frame *held[256];
    unsigned held_count;
    struct {
        uint32_t control, payload;
        unsigned pieces;
        size_t at[TRAFFIC_PIECES], len[TRAFFIC_PIECES];
    } next;
};

static void traffic_draw(struct traffic *t, struct rng *rng)
{
    static const uint32_t controls[] = {0, 1, 100, 4000, 16384 - 32, 40000};
    static const uint32_t payloads[] = {0, 0, 1, 512, 4096, 4097, 16384, 16385, 65536};
    t->next.control = controls[rng_below(rng, ARRAY_LEN(controls))];
    t->next.payload = payloads[rng_below(rng, ARRAY_LEN(payloads))];
    if (t->next.payload > 2)
        t->next.payload -= (uint32_t)rng_below(rng, 2);
    const uint64_t most = 1 + rng_below(rng, TRAFFIC_PIECES);
    uint32_t left = t->next.payload;
    t->next.pieces = 0;
    while (left > 0) {
        const bool last = t->next.pieces + 1 == most;
        const size_t len = last ? left : rng_below(rng, left + 1);
        t->next.at[t->next.pieces] = rng_below(rng, sizeof pattern - 65536);
        t->next.len[t->next.pieces++] = len;
        left -= (uint32_t)len;
    }
}

static void traffic_send(struct traffic *t)
{
    struct iovec iov[TRAFFIC_PIECES];
    struct err e = ERR_INIT;
    traffic_draw(t, &t->tx);
    for (unsigned i = 0; i < t->next.pieces; i++)
        iov[i] = (struct iovec){pattern + t->next.at[i], t->next.len[i]};
    const struct chan_out out = {.kind = t->kind,
                                 .method = 60,
                                 .id = t->sent,
                                 .control = pattern + t->sent % 1000,
                                 .control_bytes = t->next.control,
                                 .iov = iov,
                                 .iov_count = t->next.pieces,
                                 .released = end_released,
                                 .user = t->from};
    if (chan_send(t->from->c, &out, &e) < 0)
        fail_msg("send: %s", e.text);
    t->sent++;
}

static void traffic_take(struct end *e, struct chan_frame *f)
{
    struct traffic *t = e->extra;
    traffic_draw(t, &t->rx);
    assert_int_equal(f->header.kind, t->kind);
    assert_int_equal(f->header.id, t->seen);
    assert_int_equal(f->header.control_bytes, t->next.control);
    assert_int_equal(f->header.payload_bytes, t->next.payload);
    assert_memory_equal(f->control, pattern + t->seen % 1000, t->next.control);
    size_t at = 0;
    for (unsigned i = 0; i < t->next.pieces; i++) {
        assert_memory_equal(f->payload->data + at, pattern + t->next.at[i], t->next.len[i]);
        at += t->next.len[i];
    }
    assert_ptr_equal(f->payload, at > 0 ? f->payload : NULL);
    t->seen++;
    /* give frames back late and in any order */
    t->held[t->held_count++] = f;
    while (t->held_count > 0 && (t->held_count == ARRAY_LEN(t->held) || rng_chance(&t->when, 60))) {
        const uint64_t i = rng_below(&t->when, t->held_count);
        chan_frame_done(t->held[i]);
        t->held[i] = t->held[--t->held_count];
    }
}

static void traffic_give_back(struct traffic *t)
{
    while (t->held_count > 0)
        chan_frame_done(t->held[--t->held_count]);
}

static void traffic_init(struct traffic *t, struct end *from, struct end *to, uint64_t seed)
{
    *t = (struct traffic){.from = from, .to = to, .kind = FRAME_EVENT};
    rng_init(&t->tx, seed);
    rng_init(&t->rx, seed);
    rng_init(&t->when, seed + 1);
    to->extra = t;
    to->on_frame = traffic_take;
}

static void chan__random_frames_arrive_whole_and_in_order_through_tiny_windows(bool tls)
{
    struct pair p;
    struct traffic up, down;
    const uint64_t seed = seed_take();
    begin(&p, tls);
    p.config_server.window_bytes = p.config_client.window_bytes = LIMIT_WINDOW_BYTES_MIN;
    p.config_server.requests_max = p.config_client.requests_max = 1 << 20;
    pair_up(&p);
    traffic_init(&up, &p.client, &p.server, seed);
    traffic_init(&down, &p.server, &p.client, seed + 7);
    up.kind = FRAME_REQUEST;
    const uint64_t end = test_now_ms() + 60000;
    while (up.seen < TRAFFIC_FRAMES || down.seen < TRAFFIC_FRAMES) {
        if (test_now_ms() > end)
            fail_msg("stuck at %llu and %llu frames", (unsigned long long)up.seen,
                     (unsigned long long)down.seen);
        struct traffic *const both[] = {&up, &down};
        const uint64_t before = up.seen + down.seen;
        for (unsigned i = 0; i < 2; i++)
            while (both[i]->sent < TRAFFIC_FRAMES &&
                   both[i]->sent < both[i]->seen + TRAFFIC_SENT_MAX)
                traffic_send(both[i]);
        loop_turn(p.loop, 1);
        if (up.seen + down.seen == before) { /* perhaps all credit is held */
            traffic_give_back(&up);
            traffic_give_back(&down);
        }
    }
    traffic_give_back(&up);
    traffic_give_back(&down);
    PUMP_UNTIL(&p, p.client.released == TRAFFIC_FRAMES && p.server.released == TRAFFIC_FRAMES);
    /* all credit is back: a frame as large as the window passes */
    p.server.on_frame = NULL;
    const unsigned before = p.server.frames;
    assert_int_equal(
        end_send(&p.client, FRAME_REQUEST, 1, 0, pattern, LIMIT_WINDOW_BYTES_MIN, NULL), 0);
    PUMP_UNTIL(&p, p.server.frames == before + 1);
    p.client.on_frame = NULL;
    pair_done(&p);
}
BOTH(chan__random_frames_arrive_whole_and_in_order_through_tiny_windows)

static void rest_after_each(struct end *e, struct chan_frame *f)
{
    chan_rest(e->c);
    chan_frame_done(f);
}

static void chan_rest__ends_the_turns_reading_and_nothing_is_lost(bool tls)
{
    enum { FRAMES = 20 };
    struct pair p;
    begin(&p, tls);
    pair_up(&p);
    p.server.on_frame = rest_after_each;
    for (uint64_t id = 1; id <= FRAMES; id++)
        assert_int_equal(end_send(&p.client, FRAME_REQUEST, id, 0, pattern, 8192, NULL), 0);
    for (unsigned turns = 0; p.server.frames < FRAMES; turns++) {
        const unsigned before = p.server.frames;
        assert_true(turns < 1000);
        loop_turn(p.loop, 1);
        assert_true(p.server.frames <= before + 1);
    }
    pair_done(&p);
}
BOTH(chan_rest__ends_the_turns_reading_and_nothing_is_lost)

/* -- limits of sending ------------------------------------------------------------------------ */

static void chan_send__refuses_what_the_peer_does_not_take(bool tls)
{
    struct pair p;
    struct err e = ERR_INIT;
    begin(&p, tls);
    p.config_server.control_bytes_max = 2000;
    p.config_server.payload_bytes_max = 5000;
    p.config_server.requests_max = 2;
    pair_up(&p);
    assert_int_equal(p.client.peer.control_bytes_max, 2000);
    assert_int_equal(p.client.peer.payload_bytes_max, 5000);
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, 1, 2001, NULL, 0, &e), SNAP_ELIMIT);
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, 1, 0, pattern, 5001, &e), SNAP_ELIMIT);
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, 1, 2000, pattern, 5000, &e), 0);
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, 2, 0, NULL, 0, &e), 0);
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, 3, 0, NULL, 0, &e), SNAP_ELIMIT);
    PUMP_UNTIL(&p, p.server.frames == 2);
    assert_int_equal(end_send(&p.server, FRAME_RESPONSE, 1, 0, NULL, 0, &e), 0);
    PUMP_UNTIL(&p, p.client.frames == 1);
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, 3, 0, NULL, 0, &e), 0);
    PUMP_UNTIL(&p, p.server.frames == 3 && p.client.released == 3);
    pair_done(&p);
    assert_int_equal(p.client.released, 3);
}
BOTH(chan_send__refuses_what_the_peer_does_not_take)

static void chan_send__full_queue_is_refused_and_drained_tells_when_to_go_on(bool tls)
{
    struct pair p;
    struct err e = ERR_INIT;
    unsigned sent = 0;
    int r;
    begin(&p, tls);
    p.config_client.send_queue_bytes_max = 300000;
    pair_up(&p);
    while ((r = end_send(&p.client, FRAME_REQUEST, sent, 10, pattern, 50000, &e)) == 0)
        sent++;
    assert_int_equal(r, SNAP_ELIMIT);
    assert_in_range(sent, 4, 6);
    assert_true(chan_send_queued_bytes(p.client.c) <= 300000);
    assert_int_equal(p.client.drained, 0);
    PUMP_UNTIL(&p, p.client.drained == 1);
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, sent, 10, pattern, 50000, &e), 0);
    PUMP_UNTIL(&p, p.server.frames == sent + 1);
    assert_int_equal(chan_send_queued_bytes(p.client.c), 0);
    pair_done(&p);
}
BOTH(chan_send__full_queue_is_refused_and_drained_tells_when_to_go_on)

/* -- ending ---------------------------------------------------------------------------------------
 */

static void chan_close__sends_all_that_is_queued_first(bool tls)
{
    struct pair p;
    begin(&p, tls);
    p.config_server.window_bytes = LIMIT_WINDOW_BYTES_MIN;
    pair_up(&p);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(end_send(&p.client, FRAME_REQUEST, i, 10, pattern, 60000, NULL), 0);
    chan_close(p.client.c);
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, 1, 1, NULL, 0, NULL), SNAP_ECONN);
    PUMP_UNTIL(&p, p.client.down == 1 && p.server.down == 1);
    assert_int_equal(p.server.frames, 100);
    assert_int_equal(p.client.released, 100);
    assert_int_equal(p.client.why.code, 0);
    pair_done(&p);
}
BOTH(chan_close__sends_all_that_is_queued_first)

static void chan_abort__tells_the_peer_why_and_releases_everything(bool tls)
{
    struct pair p;
    struct err why = ERR_INIT;
    begin(&p, tls);
    pair_up(&p);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(end_send(&p.server, FRAME_EVENT, i, 10, pattern, 60000, NULL), 0);
    (void)err_set(&why, SNAP_ESHUTDOWN, "the daemon\nstops");
    chan_abort(p.server.c, &why);
    assert_int_equal(p.server.down, 0); /* never inside the call */
    PUMP_UNTIL(&p, p.client.down == 1 && p.server.down == 1);
    assert_int_equal(p.server.released, 10);
    assert_int_equal(p.client.why.code, SNAP_ESHUTDOWN);
    assert_string_equal(p.client.why.text, "the daemon closed the connection: the daemon?stops");
    pair_done(&p);
}
BOTH(chan_abort__tells_the_peer_why_and_releases_everything)

static void abort_on_frame(struct end *e, struct chan_frame *f)
{
    chan_abort(e->c, NULL);
    chan_frame_done(f);
}

static void close_on_frame(struct end *e, struct chan_frame *f)
{
    chan_frame_done(f);
    chan_close(e->c);
}

static void keep_and_abort(struct end *e, struct chan_frame *f)
{
    e->kept[e->kept_count++] = f;
    chan_abort(e->c, NULL);
}

static void abort_now(struct end *e)
{
    if (e->c != NULL)
        chan_abort(e->c, NULL);
}

static void close_now(struct end *e)
{
    if (e->c != NULL)
        chan_close(e->c);
}

/* Ending inside any callback: down once on both ends, each frame released once. */
static void chan__may_be_ended_inside_every_callback(bool tls)
{
    for (unsigned how = 0; how < 9; how++) {
        struct pair p;
        unsigned sent = 0;
        begin(&p, tls);
        p.config_client.send_queue_bytes_max = 200000;
        if (how == 0)
            p.server.on_up = abort_now;
        else if (how == 1)
            p.client.on_up = abort_now;
        else if (how == 2)
            p.client.on_up = close_now;
        pair_connect(&p);
        if (how < 3) {
            PUMP_UNTIL(&p, p.server.down == 1 && p.client.down == 1);
            pair_done(&p);
            continue;
        }
        PUMP_UNTIL(&p, p.server.up == 1 && p.client.up == 1);
        if (how == 3)
            p.server.on_frame = abort_on_frame;
        else if (how == 4)
            p.server.on_frame = close_on_frame;
        else if (how == 5)
            p.server.on_frame = keep_and_abort;
        else if (how == 6)
            p.client.on_released = abort_now;
        else if (how == 7)
            p.client.on_released = close_now;
        else
            p.server.on_released = abort_now;
        while (sent < 3 && end_send(&p.client, FRAME_REQUEST, sent, 10, pattern, 50000, NULL) == 0)
            sent++;
        assert_int_equal(end_send(&p.server, FRAME_EVENT, 0, 10, pattern, 50000, NULL), 0);
        PUMP_UNTIL(&p, p.server.down == 1 && p.client.down == 1);
        assert_int_equal(p.client.released, sent);
        assert_int_equal(p.server.released, 1);
        for (unsigned i = 0; i < p.server.kept_count; i++)
            assert_null(p.server.kept[i]->chan);
        pair_done(&p);
        assert_int_equal(p.server.down, 1);
        assert_int_equal(p.client.down, 1);
    }
}
BOTH(chan__may_be_ended_inside_every_callback)

static void chan_frame_done__is_safe_after_the_channel_went_down(bool tls)
{
    struct pair p;
    begin(&p, tls);
    pair_up(&p);
    p.server.keep = true;
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(end_send(&p.client, FRAME_REQUEST, i, 10, pattern, 10000, NULL), 0);
    PUMP_UNTIL(&p, p.server.frames == 20);
    chan_abort(p.client.c, NULL);
    PUMP_UNTIL(&p, p.server.down == 1 && p.client.down == 1);
    for (unsigned i = 0; i < 20; i++) {
        assert_null(p.server.kept[i]->chan);
        assert_memory_equal(p.server.kept[i]->payload->data, pattern, 10000);
    }
    pair_done(&p);
}
BOTH(chan_frame_done__is_safe_after_the_channel_went_down)

/* -- resting
 * ------------------------------------------------------------------------------------------ */

static void chan_pause__holds_frames_back_and_is_not_taken_for_silence(bool tls)
{
    struct pair p;
    begin(&p, tls);
    p.config_server.keepalive_ms = 40;
    p.config_server.frame_timeout_ms = 60;
    pair_up(&p);
    chan_pause(p.server.c, true);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(end_send(&p.client, FRAME_REQUEST, i, 10, pattern, 100000, NULL), 0);
    pump_ms(&p, 300);
    assert_int_equal(p.server.frames, 0);
    assert_int_equal(p.server.down, 0);
    chan_pause(p.server.c, false);
    PUMP_UNTIL(&p, p.server.frames == 10);
    pair_done(&p);
}
BOTH(chan_pause__holds_frames_back_and_is_not_taken_for_silence)

static void chan__waits_for_memory_and_goes_on(bool tls)
{
    struct pair p;
    begin(&p, tls);
    struct buf_pool *small = buf_pool_new(200000);
    p.config_server.pool = small;
    pair_up(&p);
    p.server.keep = true;
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(end_send(&p.client, FRAME_REQUEST, i, 10, pattern, 60000, NULL), 0);
    pump_ms(&p, 50);
    assert_in_range(p.server.frames, 1, 3);
    while (p.server.frames < 10) {
        PUMP_UNTIL(&p, p.server.kept_count > 0);
        chan_frame_done(p.server.kept[--p.server.kept_count]);
    }
    assert_int_equal(p.server.down, 0);
    struct buf_pool *const own = p.pool;
    while (p.server.kept_count > 0)
        chan_frame_done(p.server.kept[--p.server.kept_count]);
    p.pool = own;
    pair_done(&p);
    assert_int_equal(buf_pool_used_bytes(small), 0);
    buf_pool_free(small);
}
BOTH(chan__waits_for_memory_and_goes_on)

static void chan__quiet_peers_stay_up_by_pings(bool tls)
{
    struct pair p;
    begin(&p, tls);
    p.config_server.keepalive_ms = 20;
    p.config_client.keepalive_ms = 30;
    pair_up(&p);
    pump_ms(&p, 500);
    assert_int_equal(p.server.down, 0);
    assert_int_equal(p.client.down, 0);
    pair_done(&p);
}
BOTH(chan__quiet_peers_stay_up_by_pings)

/* -- moving to another loop
 * ----------------------------------------------------------------------------- */

struct mover {
    struct loop_msg msg;
    struct chan *chan;
    struct loop *to;
    struct buf_pool *pool;
    struct end *end;
    pthread_t thread;
    atomic_uint done;
    uint64_t payload_bytes;
};

static void moved_frame(struct chan *c, void *user, struct chan_frame *f)
{
    struct mover *m = user;
    const struct chan_out out = {.kind = FRAME_RESPONSE, .method = 1, .id = f->header.id};
    assert_int_equal(f->header.id, m->done + 1);
    assert_true(pthread_equal(pthread_self(), m->thread));
    if (f->payload != NULL) {
        assert_memory_equal(f->payload->data, pattern, f->header.payload_bytes);
        m->payload_bytes += f->header.payload_bytes;
    }
    atomic_fetch_add(&m->done, 1);
    assert_int_equal(chan_send(c, &out, NULL), 0);
    chan_frame_done(f);
}

static void moved_down(struct chan *c, void *user, const struct err *why)
{
    struct mover *m = user;
    (void)c;
    (void)why;
    loop_stop(m->to);
}

static void attach_there(struct loop_msg *msg)
{
    struct mover *m = CONTAINER_OF(msg, struct mover, msg);
    static const struct chan_ops ops = {.frame = moved_frame, .down = moved_down};
    chan_set_user(m->chan, &ops, m);
    assert_int_equal(chan_attach(m->chan, m->to, m->pool, NULL), 0);
}

static void *mover_main(void *arg)
{
    struct mover *m = arg;
    loop_run(m->to);
    return NULL;
}

/* In the first frame's handler: away, with whatever has been read behind it. */
static void detach_on_frame(struct end *e, struct chan_frame *f)
{
    struct mover *m = e->extra;
    struct chan *c = e->c;
    struct err err = ERR_INIT;
    const struct chan_out out = {.kind = FRAME_RESPONSE, .method = 1, .id = f->header.id};
    assert_int_equal(chan_send(c, &out, NULL), 0);
    chan_frame_done(f);
    if (chan_detach(c, &err) < 0)
        fail_msg("detach: %s", err.text);
    m->chan = c;
    e->c = NULL;
    e->down = 1;
    m->msg.fn = attach_there;
    loop_post(m->to, &m->msg);
    /* the other thread is well at it before this callback returns */
    while (atomic_load(&m->done) < 5)
        usleep(1000);
}

static void chan_detach__takes_what_was_read_to_the_other_thread(bool tls)
{
    struct pair p;
    struct mover m = {0};
    begin(&p, tls);
    pair_up(&p);
    assert_int_equal(loop_new(&m.to, NULL), 0);
    m.pool = buf_pool_new(0);
    m.end = &p.server;
    p.server.extra = &m;
    p.server.on_frame = detach_on_frame;
    assert_int_equal(pthread_create(&m.thread, NULL, mover_main, &m), 0);
    for (unsigned i = 0; i < 50; i++)
        assert_int_equal(
            end_send(&p.client, FRAME_REQUEST, i, 100, pattern, i % 3 == 0 ? 0 : i * 1000, NULL),
            0);
    PUMP_UNTIL(&p, p.client.frames == 50);
    chan_close(p.client.c);
    PUMP_UNTIL(&p, p.client.c == NULL);
    assert_int_equal(pthread_join(m.thread, NULL), 0);
    assert_int_equal(m.done, 49);
    assert_int_equal(buf_pool_used_bytes(m.pool), 0);
    buf_pool_free(m.pool);
    loop_free(m.to);
    pair_done(&p);
}
BOTH(chan_detach__takes_what_was_read_to_the_other_thread)

static void chan_detach__is_refused_while_frames_are_held(bool tls)
{
    struct pair p;
    begin(&p, tls);
    pair_up(&p);
    p.server.keep = true;
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, 1, 1, pattern, 1000, NULL), 0);
    PUMP_UNTIL(&p, p.server.frames == 1);
    assert_int_equal(chan_detach(p.server.c, NULL), SNAP_EBUSY);
    chan_frame_done(p.server.kept[--p.server.kept_count]);
    assert_int_equal(chan_detach(p.server.c, NULL), 0);
    assert_int_equal(chan_attach(p.server.c, p.loop, p.pool, NULL), 0);
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, 2, 1, pattern, 1000, NULL), 0);
    PUMP_UNTIL(&p, p.server.frames == 2);
    assert_int_equal(chan_detach(p.client.c, NULL), 0);
    chan_abort(p.client.c, NULL); /* one that no loop runs ends at once */
    assert_int_equal(p.client.down, 1);
    pair_done(&p);
}
BOTH(chan_detach__is_refused_while_frames_are_held)

/* -- cuts ---------------------------------------------------------------- */

/* A wire between the two that passes pieces of any length, and is cut after so many bytes. */
struct wire {
    int fds[2];
    uint64_t left;
    struct rng rng;
};

static bool wire_pass(struct wire *w)
{
    uint8_t buf[3000];
    for (unsigned i = 0; i < 2 && w->left > 0; i++) {
        uint64_t len = 1 + rng_below(&w->rng, sizeof buf);
        len = u64_min(len, w->left);
        const ssize_t n = recv(w->fds[i], buf, len, MSG_DONTWAIT);
        if (n <= 0)
            continue;
        ssize_t at = 0;
        while (at < n) {
            const ssize_t m = send(w->fds[1 - i], buf + at, (size_t)(n - at), MSG_NOSIGNAL);
            if (m < 0)
                break; /* that end is full or gone: what was read is lost with the cut */
            at += m;
        }
        w->left -= (uint64_t)n;
    }
    return w->left > 0;
}

static void chan__cut_anywhere_goes_down_once_and_leaks_nothing(bool tls)
{
    struct rng rng;
    seed_init_rng(&rng);
    for (unsigned round = 0; round < 150; round++) {
        struct pair p;
        int a[2], b[2];
        struct wire w = {.left = 1 + rng_below(&rng, round < 75 ? 6000 : 400000)};
        rng_init(&w.rng, rng_u64(&rng));
        begin(&p, tls);
        pair_sockets(a);
        pair_sockets(b);
        w.fds[0] = a[1];
        w.fds[1] = b[1];
        pair_server(&p, a[0]);
        pair_client(&p, b[0]);
        unsigned sent[2] = {0};
        while (wire_pass(&w)) {
            if (p.client.up && p.client.c != NULL && sent[0] < 20)
                sent[0] +=
                    end_send(&p.client, FRAME_REQUEST, sent[0], 500, pattern, 30000, NULL) == 0;
            if (p.server.up && p.server.c != NULL && sent[1] < 20) {
                const int r = end_send(&p.server, FRAME_EVENT, sent[1], 500, pattern, 3000, NULL);
                sent[1] += r == 0;
            }
            loop_turn(p.loop, 0);
            if (p.client.frames >= 20 && p.server.frames >= 20)
                break;
        }
        assert_int_equal(close(w.fds[0]), 0);
        assert_int_equal(close(w.fds[1]), 0);
        PUMP_UNTIL(&p, p.client.down == 1 && p.server.down == 1);
        assert_int_equal(p.client.why.code, SNAP_ECONN);
        assert_int_equal(p.server.why.code, SNAP_ECONN);
        assert_int_equal(p.client.released, sent[0]);
        assert_int_equal(p.server.released, sent[1]);
        pair_done(&p);
    }
}
BOTH(chan__cut_anywhere_goes_down_once_and_leaks_nothing)

static void chan_new__tcp_without_tls_is_refused(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(
        chan_new_server(p.loop, fd, &p.config_server, &end_ops, &p.server, &p.server.c, NULL),
        SNAP_EINVAL);
    assert_int_equal(close(fd), -1); /* it was taken and closed */
    p.server.c = NULL;
    pair_done(&p);
}

#define TWO(name) cmocka_unit_test(name##__plain), cmocka_unit_test(name##__tls)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TWO(chan__hello_then_a_frame_each_way),
        TWO(chan__random_frames_arrive_whole_and_in_order_through_tiny_windows),
        TWO(chan_rest__ends_the_turns_reading_and_nothing_is_lost),
        TWO(chan_send__refuses_what_the_peer_does_not_take),
        TWO(chan_send__full_queue_is_refused_and_drained_tells_when_to_go_on),
        TWO(chan_close__sends_all_that_is_queued_first),
        TWO(chan_abort__tells_the_peer_why_and_releases_everything),
        TWO(chan__may_be_ended_inside_every_callback),
        TWO(chan_frame_done__is_safe_after_the_channel_went_down),
        TWO(chan_pause__holds_frames_back_and_is_not_taken_for_silence),
        TWO(chan__waits_for_memory_and_goes_on),
        TWO(chan__quiet_peers_stay_up_by_pings),
        TWO(chan_detach__takes_what_was_read_to_the_other_thread),
        TWO(chan_detach__is_refused_while_frames_are_held),
        TWO(chan__cut_anywhere_goes_down_once_and_leaks_nothing),
        cmocka_unit_test(chan_new__tcp_without_tls_is_refused),
    };
    fill_pattern();
    return cmocka_run_group_tests(tests, setup, teardown);
}
