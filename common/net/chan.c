/* SPDX-License-Identifier: Apache-2.0 */
/* A channel's life: it is made, shakes hands, runs, ends, moves to another loop.
 *
 *     chan.c        this: states, the turn       chan_end.c    failing, going down
 *     chan_hello.c  HELLO and GOAWAY
 *     chan_read.c   bytes to frames        chan_write.c  frames to bytes
 *     chan_time.c   time-outs              chan_io.c     socket and TLS
 *
 * Events and calls change fields and ask for the hook (chan_kick); the hook, at
 * the end of the turn, writes, and is the only place where a channel goes down
 * and is freed. So no callback of the user runs inside one of the user's calls,
 * and whoever calls into the channel from a callback finds it alive.
 *
 *     state        ends by
 *     CONNECTING   writable and no error ──> TLS, or HELLO without TLS
 *     TLS          handshake done ──> HELLO
 *     HELLO        the peer's HELLO ──> UP (ours is sent at once)
 *     UP           chan_close() ──> DRAINING
 *     DRAINING     all sent ──> LINGER
 *     any of these an error, chan_abort() ──> ABORTING
 *     ABORTING     the hook: says why if it can (GOAWAY) ──> LINGER, else DOWN
 *     LINGER       the peer closes, or a second is over ──> DOWN
 *     DOWN         the hook: release, ops.down, free
 *
 * Must not know: what a request means. Thread: the channel's.
 */
#include "common/net/chan_priv.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    HANDSHAKE_TIMEOUT_MS = 10000,
    FRAME_TIMEOUT_MS = 30000,
    KEEPALIVE_MS = 15000,
    SEND_QUEUE_BYTES = 64 * 1024 * 1024,
};

void chan_kick(struct chan *c)
{
    if (c->hooked || c->loop == NULL)
        return;
    c->hooked = true;
    loop_hook_add(c->loop, &c->hook);
}

static void unhook(struct chan *c)
{
    if (!c->hooked)
        return;
    c->hooked = false;
    loop_hook_remove(c->loop, &c->hook);
}

void chan_leave_loop(struct chan *c)
{
    unhook(c);
    loop_io_done(&c->io);
    loop_timer_done(&c->timer);
    c->loop = NULL;
}

/* -- shaking hands ------------------------------------------------------------------------ */

static void begin_hello(struct chan *c)
{
    struct err e = ERR_INIT;
    c->state = CHAN_HELLO;
    if (c->tls != NULL && tls_peer_identity(c->tls, c->peer.identity, &e) < 0) {
        if (c->server) {
            chan_fail(c, &e);
            return;
        }
        c->peer.identity[0] = 0; /* a daemon is known by the name it was asked for */
    }
    c->tx.hello_wanted = true;
    c->read_more = true;
}

/* One step, as far as the socket lets it go; what it waits for then. */
static unsigned shake_hands(struct chan *c)
{
    struct err e = ERR_INIT;
    if (c->state == CHAN_CONNECTING) {
        if (chan_io_connected(c, &e) < 0) {
            chan_fail(c, &e);
            return 0;
        }
        c->state = CHAN_TLS;
    }
    const int r = c->tls != NULL ? tls_handshake(c->tls, &e) : 0;
    if (r == TLS_WANT_READ)
        return LOOP_READ;
    if (r == TLS_WANT_WRITE)
        return LOOP_WRITE;
    if (r < 0)
        chan_fail(c, &e);
    else
        begin_hello(c);
    return 0;
}

void chan_went_up(struct chan *c)
{
    c->state = CHAN_UP;
    c->handshake_until = 0;
    chan_heard(c);
    chan_arm(c, c->heard_at + c->config.keepalive_ms);
    c->ops.up(c, c->user, &c->peer);
}

/* -- the turn --------------------------------------------------------------------------- */

static void update_io(struct chan *c)
{
    unsigned want = 0;
    if (c->state == CHAN_CONNECTING || c->state == CHAN_TLS)
        return; /* shake_hands() knows */
    if (c->state == CHAN_LINGER)
        want = LOOP_READ;
    if (chan_may_read(c))
        want |= LOOP_READ;
    if (c->state <= CHAN_DRAINING && c->tx.blocked)
        want |= c->write_wants_read ? LOOP_READ : LOOP_WRITE;
    if (c->state <= CHAN_DRAINING && c->read_wants_write)
        want |= LOOP_WRITE;
    loop_io_want(&c->io, want);
}

static bool more_to_do(const struct chan *c)
{
    if (c->state > CHAN_DRAINING || c->state < CHAN_HELLO)
        return false;
    return (c->read_more && chan_may_read(c)) ||
           (!c->tx.blocked && !c->tx.dead && chan_tx_has_work(c));
}

/* The hook. It stays in the loop's list while there is more to do. */
static void turn(void *user)
{
    struct chan *c = user;
    bool detached = false;
    if (c->state >= CHAN_HELLO && c->rx.phase == RX_BUFFER)
        chan_rx_retry_buffer(c);
    if (c->read_more && !c->share_used && chan_may_read(c))
        chan_read(c, &detached);
    if (detached)
        return;
    c->share_used = false;
    chan_flush(c);
    if (c->state == CHAN_DRAINING && STAILQ_EMPTY(&c->tx.queue) && !chan_tx_has_work(c)) {
        const struct err closed = ERR_INIT;
        chan_fail(c, &closed);
    }
    if (c->state == CHAN_ABORTING)
        chan_shut(c);
    if (c->state == CHAN_DOWN) {
        chan_go_down(c);
        return;
    }
    update_io(c);
    if (more_to_do(c))
        loop_again(c->loop);
    else
        unhook(c);
}

static void io_ready(void *user, unsigned what)
{
    struct chan *c = user;
    bool detached = false;
    if (c->state <= CHAN_TLS) {
        const unsigned want = shake_hands(c);
        if (c->state <= CHAN_TLS)
            loop_io_want(&c->io, want);
        else
            chan_kick(c);
        return;
    }
    if (c->state == CHAN_LINGER) {
        chan_linger_read(c);
        return;
    }
    if (((what & LOOP_READ) != 0 || c->read_wants_write) && chan_may_read(c))
        chan_read(c, &detached);
    if (!detached)
        chan_kick(c);
}

/* -- beginning -------------------------------------------------------------------------- */

static uint32_t u32_or(uint32_t v, uint32_t otherwise)
{
    return v != 0 ? v : otherwise;
}

static void config_fill(struct chan *c, const struct chan_config *config)
{
    struct chan_config *f = &c->config;
    *f = *config;
    f->control_bytes_max = (uint32_t)u64_min(
        u32_or(f->control_bytes_max, LIMIT_FRAME_CONTROL_BYTES), LIMIT_FRAME_CONTROL_BYTES);
    f->window_bytes = f->window_bytes != 0 ? f->window_bytes : (uint64_t)LIMIT_WINDOW_BYTES;
    f->window_bytes = u64_max(f->window_bytes, LIMIT_WINDOW_BYTES_MIN);
    f->payload_bytes_max = (uint32_t)u64_min(
        u64_min(u32_or(f->payload_bytes_max, LIMIT_FRAME_PAYLOAD_BYTES), f->window_bytes),
        LIMIT_FRAME_PAYLOAD_BYTES);
    f->requests_max = u32_or(f->requests_max, LIMIT_REQUESTS_INFLIGHT);
    f->handshake_timeout_ms = u32_or(f->handshake_timeout_ms, HANDSHAKE_TIMEOUT_MS);
    f->frame_timeout_ms = u32_or(f->frame_timeout_ms, FRAME_TIMEOUT_MS);
    f->keepalive_ms = u32_or(f->keepalive_ms, KEEPALIVE_MS);
    if (f->send_queue_bytes_max == 0)
        f->send_queue_bytes_max = SEND_QUEUE_BYTES;
    (void)snprintf(c->software, sizeof c->software, "%s",
                   config->software != NULL ? config->software : "snapwire");
    f->software = c->software;
}

static int join_loop(struct chan *c, struct loop *l, struct err *reterr)
{
    int r = loop_timer_init(l, &c->timer, chan_timer_fn, c, reterr);
    if (r < 0)
        return r;
    r = loop_io_init(l, &c->io, c->fd, io_ready, c, reterr);
    if (r < 0) {
        loop_timer_done(&c->timer);
        return r;
    }
    c->loop = l;
    c->armed_at = 0;
    return 0;
}

static int chan_create(struct loop *l, int fd, const char *server_name, bool server,
                       const struct chan_config *config, const struct chan_ops *ops, void *user,
                       struct chan **ret, struct err *reterr)
{
    struct chan *c = calloc(1, sizeof *c);
    if (c == NULL) {
        (void)close(fd);
        return err_set(reterr, SNAP_ENOMEM, "channel: out of memory");
    }
    c->fd = fd;
    c->server = server;
    c->ops = *ops;
    c->user = user;
    c->hook = (struct loop_hook){.fn = turn, .user = c};
    STAILQ_INIT(&c->tx.queue);
    LIST_INIT(&c->rx.held);
    config_fill(c, config);
    c->rx.credit = c->config.window_bytes;
    int r = chan_io_setup(c, reterr);
    if (r == 0 && c->config.tls != NULL)
        r = tls_session_new(c->config.tls, fd, server_name, &c->tls, reterr);
    if (r == 0)
        r = join_loop(c, l, reterr);
    if (r < 0) {
        chan_destroy(c);
        return r;
    }
    c->config.tls = NULL; /* the session keeps the context; ours was borrowed */
    c->handshake_until = chan_now_ms() + c->config.handshake_timeout_ms;
    chan_arm(c, c->handshake_until);
    loop_io_want(&c->io, LOOP_WRITE);
    *ret = c;
    return 0;
}

int chan_new_server(struct loop *l, int fd, const struct chan_config *config,
                    const struct chan_ops *ops, void *user, struct chan **ret, struct err *reterr)
{
    return chan_create(l, fd, NULL, true, config, ops, user, ret, reterr);
}

int chan_new_client(struct loop *l, int fd, const char *server_name,
                    const struct chan_config *config, const struct chan_ops *ops, void *user,
                    struct chan **ret, struct err *reterr)
{
    return chan_create(l, fd, server_name, false, config, ops, user, ret, reterr);
}

/* -- calls ------------------------------------------------------------------------------ */

void chan_pause(struct chan *c, bool pause)
{
    if (c->user_paused == pause)
        return;
    c->user_paused = pause;
    c->heard_at = chan_now_ms();
    c->pinged_at = 0;
    if (c->rx_until != 0)
        c->rx_until = c->heard_at + c->config.frame_timeout_ms;
    c->read_more = true; /* TLS may hold what no poll tells of */
    if (c->loop != NULL)
        chan_kick(c);
}

void chan_close(struct chan *c)
{
    const struct err closed = ERR_INIT;
    if (c->loop == NULL) {
        chan_go_down(c);
    } else if (c->state == CHAN_UP) {
        c->state = CHAN_DRAINING;
        chan_kick(c);
    } else {
        chan_fail(c, &closed);
    }
}

void chan_abort(struct chan *c, const struct err *why)
{
    struct err e = ERR_INIT;
    (void)err_set(&e, SNAP_ECONN, "closed on this side");
    if (why != NULL)
        (void)err_copy(&e, why);
    if (c->loop == NULL) {
        (void)err_copy(&c->why, &e);
        chan_go_down(c);
    } else if (c->state == CHAN_LINGER) {
        c->state = CHAN_DOWN;
        chan_kick(c);
    } else {
        chan_fail(c, &e);
    }
}

const struct chan_peer *chan_peer_of(const struct chan *c)
{
    return &c->peer;
}

struct loop *chan_loop(const struct chan *c)
{
    return c->loop;
}

void chan_set_user(struct chan *c, const struct chan_ops *ops, void *user)
{
    c->ops = *ops;
    c->user = user;
}

bool chan_revoked(const struct chan *c, const struct tls_context *now)
{
    return c->tls != NULL && tls_session_revoked(c->tls, now);
}

/* -- moving ----------------------------------------------------------------------------- */

/* Is there nothing that belongs to this loop's thread: buffers of its pool, callbacks to come? */
static bool is_quiet(const struct chan *c)
{
    const struct frame_out *f;
    if (c->state != CHAN_UP || c->tx.body != NULL || c->rx.phase == RX_BUFFER ||
        c->rx.phase == RX_PAYLOAD)
        return false;
    STAILQ_FOREACH (f, &c->tx.queue, link) {
        if (f->payload_bytes > 0 || f->released != NULL)
            return false;
    }
    if (c->rx.held_payload_bytes > 0)
        return false;
    return c->rx.held_count == (c->rx.at_hand != NULL ? 1 : 0);
}

int chan_detach(struct chan *c, struct err *reterr)
{
    if (!is_quiet(c))
        return err_set(reterr, SNAP_EBUSY, "channel: frames are under way");
    chan_leave_loop(c);
    c->rx.at_hand = NULL;
    if (c->detached != NULL)
        *c->detached = true;
    c->detached = NULL;
    return 0;
}

int chan_attach(struct chan *c, struct loop *l, struct buf_pool *pool, struct err *reterr)
{
    CHECK(c->loop == NULL);
    const int r = join_loop(c, l, reterr);
    if (r < 0)
        return r;
    c->config.pool = pool;
    chan_heard(c);
    if (c->rx_until != 0)
        c->rx_until = c->heard_at + c->config.frame_timeout_ms;
    chan_arm(c, c->heard_at + u64_min(c->config.keepalive_ms, c->config.frame_timeout_ms));
    c->read_more = true;
    chan_kick(c);
    return 0;
}
