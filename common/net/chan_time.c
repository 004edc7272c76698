/* SPDX-License-Identifier: Apache-2.0 */
/* A channel's patience. One timer, set to the nearest of
 *
 *     handshake_until   socket, TLS and hello, together
 *     rx_until          a frame whose first byte came; not while we are the ones who rest
 *     tx_since          a socket that takes nothing of what must go out
 *     credit_since      a client that asks and lets nothing be answered (as client, only in
 *                       DRAINING: a daemon may wait long for its disks)
 *     heard_at          silence: ask (PING); no answer in as long again: gone
 *     dead_until        a broken socket may still hold the peer's last words
 *     linger_until      the peer may still read ours
 *
 * Deadlines that move on leave the timer alone: when it fires early it is set
 * anew. Only a nearer one sets it. So a frame costs no timer.
 *
 * Thread: the channel's.
 */
#include "common/net/chan_priv.h"

#include "common/base/bytes.h"
#include "common/base/clock.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

enum { CREDIT_PATIENCE = 4 /* times frame_timeout_ms */ };

uint64_t chan_now_ms(void)
{
    return clock_now_ns(clock_system()) / 1000000;
}

void chan_arm(struct chan *c, uint64_t at_ms)
{
    const uint64_t now = chan_now_ms();
    if (c->armed_at != 0 && c->armed_at <= at_ms)
        return;
    c->armed_at = at_ms;
    loop_timer_set(&c->timer, at_ms > now ? at_ms - now : 0);
}

/* Bytes that the socket, and TLS before it, still hold for the peer. */
static int outq_bytes(const struct chan *c)
{
    int bytes = 0;
    if (ioctl(c->fd, SIOCOUTQ, &bytes) != 0)
        bytes = 0;
    return bytes + (int)chan_io_unsent_bytes(c);
}

void chan_heard(struct chan *c)
{
    c->heard_at = chan_now_ms();
    c->pinged_at = 0;
}

void chan_pinged(struct chan *c)
{
    c->pinged_at = chan_now_ms();
    c->ping_outq = outq_bytes(c);
    chan_arm(c, c->pinged_at + c->config.keepalive_ms);
}

void chan_note_credit(struct chan *c)
{
    const struct frame_out *f = STAILQ_FIRST(&c->tx.queue);
    const bool patient = !c->server && c->state != CHAN_DRAINING;
    if (patient || f == NULL || f->payload_bytes <= c->tx.credit) {
        c->credit_since = 0;
    } else if (c->credit_since == 0) {
        c->credit_since = chan_now_ms();
        chan_arm(c, c->credit_since + (uint64_t)c->config.frame_timeout_ms * CREDIT_PATIENCE);
    }
}

static void expire(struct chan *c, const char *what, uint32_t ms)
{
    struct err e = ERR_INIT;
    (void)err_set(&e, SNAP_ETIMEDOUT, "%s within %u ms", what, ms);
    chan_fail(c, &e);
}

static void check_handshake(struct chan *c, uint64_t now)
{
    static const char *const what[] = {[CHAN_CONNECTING] = "no connection",
                                       [CHAN_TLS] = "no TLS handshake",
                                       [CHAN_HELLO] = "no hello"};
    if (now >= c->handshake_until)
        expire(c, what[c->state], c->config.handshake_timeout_ms);
    else
        chan_arm(c, c->handshake_until);
}

static void check_frame(struct chan *c, uint64_t now)
{
    if (c->rx_until == 0)
        return;
    if (!chan_may_read(c))
        c->rx_until = now + c->config.frame_timeout_ms;
    if (now >= c->rx_until)
        expire(c, "the rest of a frame did not come", c->config.frame_timeout_ms);
    else
        chan_arm(c, c->rx_until);
}

static void check_sending(struct chan *c, uint64_t now)
{
    const uint32_t patience = c->config.frame_timeout_ms;
    if (c->tx_since != 0) {
        if (now >= c->tx_since + patience)
            expire(c, "the peer took nothing of what was sent", patience);
        else
            chan_arm(c, c->tx_since + patience);
    }
    if (c->credit_since != 0) {
        if (now >= c->credit_since + (uint64_t)patience * CREDIT_PATIENCE)
            expire(c, "the peer granted no credit", patience * CREDIT_PATIENCE);
        else
            chan_arm(c, c->credit_since + (uint64_t)patience * CREDIT_PATIENCE);
    }
}

static void check_silence(struct chan *c, uint64_t now)
{
    const uint32_t patience = c->config.keepalive_ms;
    if (!chan_may_read(c)) { /* it is we who do not listen */
        c->heard_at = now;
        c->pinged_at = 0;
    }
    if (c->pinged_at != 0 && now >= c->pinged_at + patience) {
        const int outq = outq_bytes(c);
        if (outq >= c->ping_outq) {
            expire(c, "silence: no answer to a PING", patience);
            return;
        }
        /* our question still stands behind data that does move */
        c->ping_outq = outq;
        c->pinged_at = now;
    }
    if (c->pinged_at == 0 && !c->tx.ping_wanted && now >= c->heard_at + patience) {
        c->tx.ping_wanted = true;
        chan_kick(c);
    }
    chan_arm(c, u64_max(c->pinged_at != 0 ? c->pinged_at : c->heard_at, now - patience + 1) +
                    patience);
}

static void check_running(struct chan *c, uint64_t now)
{
    if (c->rx.phase == RX_BUFFER) {
        chan_kick(c);
        chan_arm(c, now + CHAN_STARVED_RETRY_MS);
    }
    check_frame(c, now);
    check_sending(c, now);
    check_silence(c, now);
    if (c->dead_until == 0)
        return;
    if (now >= c->dead_until)
        chan_fail(c, &c->tx.dead_why);
    else
        chan_arm(c, c->dead_until);
}

void chan_timer_fn(void *user)
{
    struct chan *c = user;
    const uint64_t now = chan_now_ms();
    c->armed_at = 0;
    if (c->state <= CHAN_HELLO) {
        check_handshake(c, now);
    } else if (c->state <= CHAN_DRAINING) {
        check_running(c, now);
    } else if (c->state == CHAN_LINGER) {
        if (now >= c->linger_until) {
            c->state = CHAN_DOWN;
            chan_kick(c);
        } else {
            chan_arm(c, c->linger_until);
        }
    }
}
