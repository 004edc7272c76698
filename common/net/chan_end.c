/* SPDX-License-Identifier: Apache-2.0 */
/* How a channel ends.
 *
 * The reason that a user is told is the best there is, not the first: a broken
 * write is often the echo of a refusal that stands unread in the socket, and an
 * end of the stream that of a GOAWAY before it.
 *
 *     ABORTING ── chan_shut(): GOAWAY or alert, close_notify, our direction shut
 *        │             └─(nothing could be said)──────────┐
 *     LINGER ── until the peer closes, or a second is over │
 *        v                                                 v
 *      DOWN ── chan_go_down(): release, ops.down, free
 *
 * LINGER is there because closing a socket that holds unread bytes resets the
 * connection, and a reset may overtake the words that say why.
 *
 * Thread: the channel's; a detached channel's is whoever ends it.
 */
#include "common/net/chan_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LINGER_READS = 16 };

/* -- failing --------------------------------------------------------------------------- */

void chan_fail(struct chan *c, const struct err *why)
{
    if (c->state >= CHAN_ABORTING)
        return;
    c->was = c->state;
    c->state = CHAN_ABORTING;
    (void)err_copy(&c->why, why);
    chan_kick(c);
}

void chan_fail_read(struct chan *c, const struct err *why)
{
    const struct err closed = ERR_INIT;
    if (c->goaway.code != 0)
        chan_fail(c, &c->goaway);
    else if (why->code == SNAP_EAUTH)
        chan_fail(c, why);
    else if (c->tx.dead)
        chan_fail(c, &c->tx.dead_why);
    else if (c->state == CHAN_DRAINING && !chan_tx_has_work(c) && STAILQ_EMPTY(&c->tx.queue))
        chan_fail(c, &closed);
    else
        chan_fail(c, why);
}

void chan_fail_write(struct chan *c, const struct err *why)
{
    if (!chan_may_read(c)) {
        chan_fail(c, why);
        return;
    }
    c->tx.dead = true;
    (void)err_copy(&c->tx.dead_why, why);
    c->read_more = true;
    c->dead_until = chan_now_ms() + CHAN_LINGER_MS;
    chan_arm(c, c->dead_until);
}

/* -- the end ---------------------------------------------------------------------------------- */

/* Can a last frame still be put behind what went out, and be of use? */
static bool may_say_why(const struct chan *c)
{
    return c->was >= CHAN_HELLO && c->why.code != 0 && c->why.code != SNAP_ECONN && !c->eof &&
           !c->tx.dead && c->tx.body == NULL;
}

static bool write_stage(struct chan *c)
{
    struct chan_tx *tx = &c->tx;
    while (tx->pos < tx->len) {
        const struct iovec rest = {tx->stage + tx->pos, tx->len - tx->pos};
        const ssize_t n = chan_io_writev(c, &rest, 1, NULL);
        if (n <= 0)
            return false;
        tx->pos += (unsigned)n;
    }
    tx->pos = tx->len = 0;
    return chan_io_flush(c, NULL) == 0;
}

/* ABORTING, or all sent: end our direction. */
void chan_shut(struct chan *c)
{
    bool said = c->was == CHAN_TLS && c->why.code != SNAP_ETIMEDOUT; /* TLS has its alerts */
    if (c->why.code == 0)
        said = c->tx.pos == c->tx.len && chan_io_unsent_bytes(c) == 0;
    else if (may_say_why(c))
        said = chan_stage_goaway(c, &c->why) && write_stage(c);
    c->state = CHAN_DOWN;
    chan_tx_release_all(c);
    if (c->eof || c->tx.dead || c->why.code == SNAP_ECONN || !said)
        return;
    if (c->tls != NULL && c->was >= CHAN_HELLO)
        tls_close_notify(c->tls);
    if (shutdown(c->fd, SHUT_WR) < 0)
        return;
    c->state = CHAN_LINGER;
    c->linger_until = chan_now_ms() + CHAN_LINGER_MS;
    chan_arm(c, c->linger_until);
}

/* LINGER: throw away what still comes, until the peer closes. */
void chan_linger_read(struct chan *c)
{
    for (unsigned i = 0; i < LINGER_READS; i++) {
        const ssize_t n = recv(c->fd, c->rx.buf, sizeof c->rx.buf, 0);
        if (n > 0)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        c->state = CHAN_DOWN;
        chan_kick(c);
        return;
    }
}

void chan_destroy(struct chan *c)
{
    tls_session_free(c->tls);
    if (c->fd >= 0)
        (void)close(c->fd);
    free(c);
}

void chan_go_down(struct chan *c)
{
    c->state = CHAN_DOWN;
    chan_tx_release_all(c);
    chan_rx_done(c);
    if (c->loop != NULL)
        chan_leave_loop(c);
    tls_session_free(c->tls);
    c->tls = NULL;
    (void)close(c->fd);
    c->fd = -1;
    c->ops.down(c, c->user, &c->why);
    chan_destroy(c);
}
