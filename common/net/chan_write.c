/* SPDX-License-Identifier: Apache-2.0 */
/* The sending half of a channel.
 *
 *     queue (frames, in order)
 *       │   the next one's head, and small payloads whole
 *       v
 *     stage (one record) ──> written first ──┐
 *     body  (the frame whose head is staged)  ├──> TLS / socket
 *       └── its payload, straight from the caller's memory
 *
 * What is on its way is always: the stage, then the rest of the body. Frames
 * without a payload, and the channel's own (HELLO, WINDOW, PING, PONG, GOAWAY),
 * are gathered in the stage, so that a turn's small frames are one record. A
 * large payload begins when the stage is empty, thus at the start of a record;
 * pieces shorter than a record are gathered in the stage once more.
 *
 * A frame with payload waits here until the peer's credit covers it, and what
 * is behind it waits too. The channel's own frames do not: credit must get
 * through when both sides wait for credit.
 *
 * Nothing is written inside chan_send(): the turn's hook does it.
 * Thread: the channel's.
 */
#include "common/net/chan_priv.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <stdlib.h>
#include <string.h>

enum { PLAIN_PIECES_MAX = 64 };

/* -- the stage ------------------------------------------------------------------------- */

static size_t stage_room(struct chan_tx *tx)
{
    return sizeof tx->stage - tx->len;
}

static void stage_put(struct chan_tx *tx, const void *data, size_t len)
{
    CHECK(len <= stage_room(tx));
    memcpy(tx->stage + tx->len, data, len);
    tx->len += (unsigned)len;
}

bool chan_stage_frame(struct chan *c, const struct frame_header *h, const uint8_t *control)
{
    uint8_t head[FRAME_HEADER_BYTES];
    if (stage_room(&c->tx) < sizeof head + h->control_bytes)
        return false;
    frame_encode(h, head);
    stage_put(&c->tx, head, sizeof head);
    stage_put(&c->tx, control, h->control_bytes);
    return true;
}

/* A frame that consists of its header. */
static bool stage_short(struct chan *c, uint8_t kind, uint64_t id, uint32_t credit)
{
    uint8_t head[FRAME_HEADER_BYTES];
    const struct frame_header h = {
        .version = FRAME_VERSION, .kind = kind, .id = id, .credit = credit};
    if (stage_room(&c->tx) < sizeof head)
        return false;
    frame_encode(&h, head);
    stage_put(&c->tx, head, sizeof head);
    return true;
}

/* HELLO, credit, keepalive: ahead of what is queued. */
static void stage_own_frames(struct chan *c, bool others_follow)
{
    struct chan_tx *tx = &c->tx;
    if (tx->hello_wanted && chan_stage_hello(c))
        tx->hello_wanted = false;
    while (c->rx.owed > 0 && (others_follow || chan_window_due(c))) {
        const uint32_t credit = (uint32_t)u64_min(c->rx.owed, UINT32_MAX);
        if (!stage_short(c, FRAME_WINDOW, 0, credit))
            return;
        c->rx.owed -= credit;
        c->rx.credit += credit;
    }
    while (tx->pong_count > 0) {
        if (!stage_short(c, FRAME_PONG, tx->pongs[0], 0))
            return;
        tx->pong_count--;
        memmove(tx->pongs, tx->pongs + 1, tx->pong_count * sizeof tx->pongs[0]);
    }
    if (tx->ping_wanted && stage_short(c, FRAME_PING, 0, 0)) {
        tx->ping_wanted = false;
        chan_pinged(c);
    }
}

/* -- the queue ---------------------------------------------------------------------------- */

/* The frame is gone from here; released() may do anything but free the channel. */
static void release(struct frame_out *f)
{
    if (f->released != NULL)
        f->released(f->user);
    free(f);
}

void chan_tx_release_all(struct chan *c)
{
    struct chan_tx *tx = &c->tx;
    struct frame_out *f = tx->body;
    tx->body = NULL;
    if (f != NULL)
        release(f);
    while ((f = STAILQ_FIRST(&tx->queue)) != NULL) {
        STAILQ_REMOVE_HEAD(&tx->queue, link);
        release(f);
    }
    tx->queued_bytes = 0;
}

static size_t low_mark_bytes(const struct chan *c)
{
    return c->config.send_queue_bytes_max / 4;
}

static void unqueue_bytes(struct chan *c, size_t bytes)
{
    c->tx.queued_bytes -= bytes;
    if (!c->tx.above_mark || c->tx.queued_bytes > low_mark_bytes(c))
        return;
    c->tx.above_mark = false;
    if (c->ops.drained != NULL && c->state == CHAN_UP)
        c->ops.drained(c, c->user);
}

static void const_piece(const struct frame_out *f, unsigned i, struct iovec *ret)
{
    if (i == 0)
        *ret = (struct iovec){f->head, f->head_bytes};
    else
        *ret = f->iov[i - 1];
}

static void body_end_if_done(struct chan *c)
{
    struct chan_tx *tx = &c->tx;
    struct frame_out *f = tx->body;
    struct iovec piece;
    while (tx->piece <= f->iov_count) {
        const_piece(f, tx->piece, &piece);
        if (tx->piece_pos < piece.iov_len)
            return;
        tx->piece++;
        tx->piece_pos = 0;
    }
    const size_t bytes = f->head_bytes + (size_t)f->payload_bytes;
    tx->body = NULL;
    release(f);
    unqueue_bytes(c, bytes);
}

/* Move up to `max` bytes of the body into the stage. */
static void body_to_stage(struct chan *c, size_t max)
{
    struct chan_tx *tx = &c->tx;
    const struct frame_out *f = tx->body;
    max = u64_min(max, stage_room(tx));
    while (max > 0 && tx->piece <= f->iov_count) {
        struct iovec piece;
        const_piece(f, tx->piece, &piece);
        const size_t n = u64_min(piece.iov_len - tx->piece_pos, max);
        stage_put(tx, (const uint8_t *)piece.iov_base + tx->piece_pos, n);
        max -= n;
        tx->piece_pos += n;
        if (tx->piece_pos < piece.iov_len)
            break;
        tx->piece++;
        tx->piece_pos = 0;
    }
    body_end_if_done(c);
}

/* Take frames from the queue until the stage is full or one's payload must go by itself. */
static void stage_queue(struct chan *c)
{
    struct chan_tx *tx = &c->tx;
    struct frame_out *f;
    while (tx->body == NULL && (f = STAILQ_FIRST(&tx->queue)) != NULL) {
        if (f->payload_bytes > tx->credit)
            return;
        if (f->head_bytes > stage_room(tx) && tx->len > 0)
            return;
        STAILQ_REMOVE_HEAD(&tx->queue, link);
        tx->credit -= f->payload_bytes;
        tx->body = f;
        tx->piece = 0;
        tx->piece_pos = 0;
        const bool small = f->payload_bytes <= CHAN_INLINE_BYTES &&
                           f->head_bytes + (size_t)f->payload_bytes <= stage_room(tx);
        if (small)
            body_to_stage(c, SIZE_MAX);
        else if (f->head_bytes <= stage_room(tx))
            body_to_stage(c, f->head_bytes);
    }
}

static int out_check(const struct chan *c, const struct chan_out *out, uint64_t payload,
                     struct err *reterr)
{
    if (c->state != CHAN_UP || c->tx.dead)
        return err_set(reterr, SNAP_ECONN, "send: the channel is not up");
    if (out->kind == FRAME_REQUEST && c->goaway.code != 0)
        return err_set(reterr, SNAP_ECONN, "send: %s", c->goaway.text);
    if (out->kind == FRAME_REQUEST && c->requests_open >= c->peer.requests_max)
        return err_set(reterr, SNAP_ELIMIT, "send: %u requests are unanswered, the peer takes %u",
                       c->requests_open, c->peer.requests_max);
    if (out->control_bytes > c->peer.control_bytes_max || payload > c->peer.payload_bytes_max)
        return err_set(reterr, SNAP_ELIMIT,
                       "send: control of %u and payload of %llu bytes; the peer takes %u and %u",
                       out->control_bytes, (unsigned long long)payload, c->peer.control_bytes_max,
                       c->peer.payload_bytes_max);
    if (c->tx.queued_bytes > 0 &&
        c->tx.queued_bytes + out->control_bytes + payload > c->config.send_queue_bytes_max)
        return err_set(reterr, SNAP_ELIMIT, "send: the queue is full (%zu bytes)",
                       c->tx.queued_bytes);
    return 0;
}

static struct frame_out *out_new(const struct chan_out *out, uint32_t payload)
{
    const size_t iov_bytes = out->iov_count * sizeof *out->iov;
    struct frame_out *f = malloc(sizeof *f + iov_bytes + FRAME_HEADER_BYTES + out->control_bytes);
    if (f == NULL)
        return NULL;
    const struct frame_header h = {
        .version = FRAME_VERSION,
        .kind = out->kind,
        .flags = out->flags,
        .method = out->method,
        .control_bytes = out->control_bytes,
        .id = out->id,
        .payload_bytes = payload,
    };
    f->released = out->released;
    f->user = out->user;
    f->head_bytes = FRAME_HEADER_BYTES + out->control_bytes;
    f->payload_bytes = payload;
    f->iov_count = out->iov_count;
    f->head = (uint8_t *)&f->iov[out->iov_count];
    frame_encode(&h, f->head);
    if (out->control_bytes > 0)
        memcpy(f->head + FRAME_HEADER_BYTES, out->control, out->control_bytes);
    if (out->iov_count > 0)
        memcpy(f->iov, out->iov, iov_bytes);
    return f;
}

int chan_send(struct chan *c, const struct chan_out *out, struct err *reterr)
{
    uint64_t payload = 0;
    CHECK(out->kind == FRAME_REQUEST || out->kind == FRAME_RESPONSE || out->kind == FRAME_EVENT ||
          out->kind == FRAME_GOAWAY);
    for (unsigned i = 0; i < out->iov_count; i++)
        payload += u64_min(out->iov[i].iov_len, UINT32_MAX);
    const int r = out_check(c, out, payload, reterr);
    if (r == SNAP_ELIMIT)
        c->tx.above_mark = true; /* so that `drained` tells when to try again */
    if (r < 0)
        return r;
    struct frame_out *f = out_new(out, (uint32_t)payload);
    if (f == NULL)
        return err_set(reterr, SNAP_ENOMEM, "send: out of memory");
    STAILQ_INSERT_TAIL(&c->tx.queue, f, link);
    c->tx.queued_bytes += f->head_bytes + (size_t)payload;
    if (c->tx.queued_bytes > low_mark_bytes(c))
        c->tx.above_mark = true;
    if (out->kind == FRAME_REQUEST)
        c->requests_open++;
    else if (out->kind == FRAME_RESPONSE && c->requests_open > 0)
        c->requests_open--;
    chan_kick(c);
    return 0;
}

size_t chan_send_queued_bytes(const struct chan *c)
{
    return c->tx.queued_bytes;
}

/* -- to the socket ------------------------------------------------------------------------- */

/* Without TLS: the stage and as much of the body as one call takes. */
static ssize_t write_plain(struct chan *c, struct err *reterr)
{
    const struct chan_tx *tx = &c->tx;
    struct iovec iov[PLAIN_PIECES_MAX];
    int n = 0;
    if (tx->pos < tx->len)
        iov[n++] = (struct iovec){c->tx.stage + tx->pos, tx->len - tx->pos};
    if (tx->body != NULL) {
        size_t skip = tx->piece_pos;
        for (unsigned i = tx->piece; i <= tx->body->iov_count && n < PLAIN_PIECES_MAX; i++) {
            const_piece(tx->body, i, &iov[n]);
            iov[n].iov_base = (uint8_t *)iov[n].iov_base + skip;
            iov[n].iov_len -= skip;
            skip = 0;
            n++;
        }
    }
    return chan_io_writev(c, iov, n, reterr);
}

/* With TLS: the stage if there is one, else from the body, in whole records. */
static ssize_t write_tls(struct chan *c, struct err *reterr)
{
    struct chan_tx *tx = &c->tx;
    struct iovec piece;
    if (tx->pos == tx->len) {
        const_piece(tx->body, tx->piece, &piece);
        size_t rest = piece.iov_len - tx->piece_pos;
        /* a long head is not mixed with payload: that begins a record */
        const bool whole = tx->piece == 0 || tx->piece == tx->body->iov_count;
        if (rest >= CHAN_RECORD_BYTES || whole) {
            if (!whole)
                rest -= rest % CHAN_RECORD_BYTES;
            piece.iov_base = (uint8_t *)piece.iov_base + tx->piece_pos;
            piece.iov_len = rest;
            return chan_io_writev(c, &piece, 1, reterr);
        }
        tx->pos = tx->len = 0;
        body_to_stage(c, CHAN_RECORD_BYTES);
    }
    piece = (struct iovec){tx->stage + tx->pos, tx->len - tx->pos};
    return chan_io_writev(c, &piece, 1, reterr);
}

/* n bytes have gone: of the stage first, then of the body. */
static void advance(struct chan *c, size_t n)
{
    struct chan_tx *tx = &c->tx;
    const size_t staged = u64_min(n, tx->len - tx->pos);
    tx->pos += (unsigned)staged;
    n -= staged;
    if (tx->pos == tx->len)
        tx->pos = tx->len = 0;
    while (n > 0) {
        struct iovec piece;
        const_piece(tx->body, tx->piece, &piece);
        const size_t step = u64_min(n, piece.iov_len - tx->piece_pos);
        tx->piece_pos += step;
        n -= step;
        if (tx->piece_pos == piece.iov_len) {
            tx->piece++;
            tx->piece_pos = 0;
        }
    }
    if (tx->body != NULL)
        body_end_if_done(c);
}

static bool has_own_frames(const struct chan *c)
{
    return c->tx.hello_wanted || c->tx.pong_count > 0 || c->tx.ping_wanted || chan_window_due(c);
}

bool chan_tx_has_work(const struct chan *c)
{
    const struct frame_out *f = STAILQ_FIRST(&c->tx.queue);
    return c->tx.pos < c->tx.len || c->tx.body != NULL || has_own_frames(c) ||
           chan_io_unsent_bytes(c) > 0 || (f != NULL && f->payload_bytes <= c->tx.credit);
}

/* The socket takes no more. Patience begins anew with each record's worth that it took. */
static void note_blocked(struct chan *c, bool wants_read)
{
    struct chan_tx *tx = &c->tx;
    const uint64_t sent = chan_io_sent_bytes(c);
    tx->blocked = true;
    c->write_wants_read = wants_read;
    if (c->tx_since != 0 && sent - tx->sent_then < CHAN_RECORD_BYTES)
        return;
    c->tx_since = chan_now_ms();
    tx->sent_then = sent;
    chan_arm(c, c->tx_since + c->config.frame_timeout_ms);
}

/* Did TLS or the socket take some of it, and may there be more in this turn? */
static bool write_some(struct chan *c, size_t *left)
{
    struct err e = ERR_INIT;
    const ssize_t n = c->tls != NULL ? write_tls(c, &e) : write_plain(c, &e);
    if (n == TLS_WANT_WRITE || n == TLS_WANT_READ) {
        note_blocked(c, n == TLS_WANT_READ);
        return false;
    }
    if (n < 0) {
        chan_fail_write(c, &e);
        return false;
    }
    advance(c, (size_t)n);
    *left -= u64_min(*left, (uint64_t)n);
    return *left > 0;
}

/* What the turn gathered, to the socket. */
static void send_gathered(struct chan *c)
{
    struct err e = ERR_INIT;
    const int r = chan_io_flush(c, &e);
    if (r == TLS_WANT_WRITE)
        note_blocked(c, false);
    else if (r < 0)
        chan_fail_write(c, &e);
    else
        c->tx_since = 0;
}

void chan_flush(struct chan *c)
{
    size_t left = CHAN_TURN_BYTES;
    struct chan_tx *tx = &c->tx;
    if (tx->dead)
        return;
    tx->blocked = false;
    c->write_wants_read = false;
    while (c->state >= CHAN_HELLO && c->state <= CHAN_DRAINING) {
        if (tx->body == NULL) {
            const struct frame_out *f = STAILQ_FIRST(&tx->queue);
            stage_own_frames(c, f != NULL && f->payload_bytes <= tx->credit);
            stage_queue(c); /* released() may have ended the channel */
        }
        if (tx->pos == tx->len && tx->body == NULL)
            break;
        if (c->state > CHAN_DRAINING || !write_some(c, &left))
            break;
    }
    if (c->state >= CHAN_HELLO && c->state <= CHAN_ABORTING && !tx->blocked && !tx->dead)
        send_gathered(c);
    chan_note_credit(c);
}
