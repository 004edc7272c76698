/* SPDX-License-Identifier: Apache-2.0 */
/* Two channels on one loop, for tests: what each end saw, and a pump. */
#ifndef SNAP_TESTS_UNIT_NET_CHAN_PAIR_H
#define SNAP_TESTS_UNIT_NET_CHAN_PAIR_H

#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/net/chan.h"
#include "common/net/tls.h"
#include "tests/lib/cm.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct end {
    struct chan *c; /* NULL once down */
    struct loop *loop;
    unsigned up, down, frames, drained, released;
    uint64_t payload_bytes;
    struct err why;
    struct chan_peer peer;
    bool keep; /* collect frames instead of giving them back */
    struct chan_frame *kept[64];
    unsigned kept_count;
    void (*on_frame)(struct end *e, struct chan_frame *f); /* instead of all that */
    void (*on_up)(struct end *e);
    void (*on_released)(struct end *e);
    void *extra;
};

struct pair {
    struct loop *loop;
    struct buf_pool *pool;
    struct chan_config config_server, config_client;
    struct end server, client;
};

static inline void end_up(struct chan *c, void *user, const struct chan_peer *peer)
{
    struct end *e = user;
    assert_ptr_equal(e->c, c);
    assert_int_equal(e->down, 0);
    e->up++;
    e->peer = *peer;
    if (e->on_up != NULL)
        e->on_up(e);
}

static inline void end_frame(struct chan *c, void *user, struct chan_frame *f)
{
    struct end *e = user;
    assert_ptr_equal(e->c, c);
    assert_ptr_equal(f->chan, c);
    assert_int_equal(e->up, 1);
    assert_int_equal(e->down, 0);
    e->frames++;
    e->payload_bytes += f->header.payload_bytes;
    if (e->on_frame != NULL) {
        e->on_frame(e, f);
    } else if (e->keep) {
        assert_true(e->kept_count < ARRAY_LEN(e->kept));
        e->kept[e->kept_count++] = f;
    } else {
        chan_frame_done(f);
    }
}

static inline void end_down(struct chan *c, void *user, const struct err *why)
{
    struct end *e = user;
    assert_ptr_equal(e->c, c);
    e->down++;
    e->why = *why;
    e->c = NULL;
}

static inline void end_drained(struct chan *c, void *user)
{
    struct end *e = user;
    assert_ptr_equal(e->c, c);
    e->drained++;
}

static inline void end_released(void *user)
{
    struct end *e = user;
    e->released++;
    if (e->on_released != NULL)
        e->on_released(e);
}

static const struct chan_ops end_ops = {
    .up = end_up, .frame = end_frame, .down = end_down, .drained = end_drained};

static inline void pair_init(struct pair *p)
{
    *p = (struct pair){0};
    assert_int_equal(loop_new(&p->loop, NULL), 0);
    p->pool = buf_pool_new(0);
    assert_non_null(p->pool);
    p->config_server = (struct chan_config){.pool = p->pool, .software = "test daemon"};
    p->config_client = (struct chan_config){.pool = p->pool, .software = "test client"};
    p->server.loop = p->client.loop = p->loop;
}

/* A non-blocking socket pair; v[0] is for the server. */
static inline void pair_sockets(int v[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, v), 0);
}

static inline void pair_server(struct pair *p, int fd)
{
    struct err e = ERR_INIT;
    if (chan_new_server(p->loop, fd, &p->config_server, &end_ops, &p->server, &p->server.c, &e) < 0)
        fail_msg("server: %s", e.text);
}

static inline void pair_client(struct pair *p, int fd)
{
    struct err e = ERR_INIT;
    if (chan_new_client(p->loop, fd, "localhost", &p->config_client, &end_ops, &p->client,
                        &p->client.c, &e) < 0)
        fail_msg("client: %s", e.text);
}

static inline void pair_connect(struct pair *p)
{
    int v[2];
    pair_sockets(v);
    pair_server(p, v[0]);
    pair_client(p, v[1]);
}

static inline uint64_t test_now_ms(void)
{
    return clock_now_ns(clock_system()) / 1000000;
}

/* Turn the loop until cond; false after ten seconds. */
#define PUMP_UNTIL(p, cond)                                                   \
    do {                                                                      \
        const uint64_t pump_end_ = test_now_ms() + 10000;                     \
        while (!(cond) && test_now_ms() < pump_end_)                          \
            loop_turn((p)->loop, 20);                                         \
        if (!(cond))                                                          \
            fail_msg("waited in vain for %s (server: %s; client: %s)", #cond, \
                     (p)->server.why.text, (p)->client.why.text);             \
    } while (0)

static inline void pump_ms(struct pair *p, unsigned ms)
{
    const uint64_t end = test_now_ms() + ms;
    while (test_now_ms() < end)
        loop_turn(p->loop, 5);
}

static inline void pair_up(struct pair *p)
{
    pair_connect(p);
    PUMP_UNTIL(p, p->server.up == 1 && p->client.up == 1);
}

/* Both ends go down, if they are not yet; everything is given back. */
static inline void pair_done(struct pair *p)
{
    if (p->client.c != NULL)
        chan_abort(p->client.c, NULL);
    if (p->server.c != NULL)
        chan_abort(p->server.c, NULL);
    PUMP_UNTIL(p, p->client.c == NULL && p->server.c == NULL);
    struct end *const ends[] = {&p->client, &p->server};
    for (unsigned i = 0; i < 2; i++)
        while (ends[i]->kept_count > 0)
            chan_frame_done(ends[i]->kept[--ends[i]->kept_count]);
    assert_int_equal(buf_pool_used_bytes(p->pool), 0);
    buf_pool_free(p->pool);
    loop_free(p->loop);
}

/* Send one frame from e, with a payload in one piece. */
static inline int end_send(struct end *e, uint8_t kind, uint64_t id, uint32_t control_bytes,
                           const void *payload, size_t payload_bytes, struct err *reterr)
{
    uint8_t *control = calloc(1, control_bytes + 1);
    assert_non_null(control);
    for (uint32_t i = 0; i < control_bytes; i++)
        control[i] = (uint8_t)(id + i);
    const struct iovec iov = {(void *)(uintptr_t)payload, payload_bytes};
    const struct chan_out out = {
        .kind = kind,
        .method = 1,
        .id = id,
        .control = control,
        .control_bytes = control_bytes,
        .iov = &iov,
        .iov_count = payload_bytes > 0 ? 1 : 0,
        .released = end_released,
        .user = e,
    };
    const int r = chan_send(e->c, &out, reterr);
    free(control);
    return r;
}

#endif
