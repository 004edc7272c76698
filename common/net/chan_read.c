/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving half of a channel.
 *
 *     RX_HEADER ──> RX_CONTROL ──> RX_BUFFER ──> RX_PAYLOAD ──> dispatch ─┐
 *         ^   32 bytes,      in the       a pool buffer,   straight        │
 *         │   all checked    frame's      or wait for one  into it         │
 *         └────────────────  memory  ──────────────────────────────────────┘
 *
 * Headers and control come through rx.buf, one record or 16 KiB at a time. A
 * payload is read to its place; only what came in the record of its header (or,
 * without TLS, behind it in the same read) is copied.
 *
 * Nothing is allocated before its length was checked against what we announced,
 * and a payload against the credit that the peer has left. A turn reads a bounded
 * amount; what TLS then still holds is taken up in the next turn, which no poll
 * would tell of.
 *
 * A frame's handler may close, pause or detach the channel: after each handler
 * the state is looked at anew, and after a detach the channel is not touched.
 * Thread: the channel's.
 */
#include "common/net/chan_priv.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <stdlib.h>
#include <string.h>

bool chan_may_read(const struct chan *c)
{
    if (c->state < CHAN_HELLO || c->state > CHAN_DRAINING || c->loop == NULL)
        return false;
    return !c->eof && !c->user_paused && c->rx.phase != RX_BUFFER &&
           c->rx.held_control_bytes <= CHAN_HELD_CONTROL_BYTES && c->tx.pong_count < CHAN_PONGS_MAX;
}

static void violation(struct chan *c, int code, const char *text)
{
    struct err e = ERR_INIT;
    (void)err_set(&e, code, "%s", text);
    chan_fail(c, &e);
}

/* -- credit ------------------------------------------------------------------------------ */

/* Credit goes back in few large grants; at the latest when nothing is held, since
 * the peer may be waiting for all of it. */
bool chan_window_due(const struct chan *c)
{
    return c->rx.owed > 0 && c->state == CHAN_UP &&
           (c->rx.owed >= c->config.window_bytes / 4 || c->rx.held_payload_bytes == 0);
}

static void frame_free(struct frame_in *f)
{
    buf_give(f->pub.payload);
    free(f);
}

static void hold(struct chan *c, struct frame_in *f)
{
    LIST_INSERT_HEAD(&c->rx.held, f, held);
    c->rx.held_count++;
    c->rx.held_payload_bytes += f->pub.header.payload_bytes;
    c->rx.held_control_bytes += f->pub.header.control_bytes;
}

void chan_frame_done(struct chan_frame *pub)
{
    struct frame_in *f = CONTAINER_OF(pub, struct frame_in, pub);
    struct chan *c = pub->chan;
    if (c == NULL) {
        frame_free(f);
        return;
    }
    LIST_REMOVE(f, held);
    c->rx.held_count--;
    c->rx.held_payload_bytes -= pub->header.payload_bytes;
    c->rx.held_control_bytes -= pub->header.control_bytes;
    c->rx.owed += pub->header.payload_bytes;
    if (c->rx.at_hand == f)
        c->rx.at_hand = NULL;
    frame_free(f);
    if (c->loop == NULL)
        return;
    if (c->read_more || c->rx.phase == RX_BUFFER || chan_window_due(c))
        chan_kick(c);
}

/* -- whole frames ---------------------------------------------------------------------------- */

static void next_frame(struct chan *c)
{
    c->rx.frame = NULL;
    c->rx.phase = RX_HEADER;
    c->rx.got = 0;
    c->rx_until = 0;
}

static void take_window(struct chan *c)
{
    struct err e = ERR_INIT;
    const uint32_t credit = c->rx.header.credit;
    if (credit > c->peer_window_bytes - c->tx.credit) {
        (void)err_set(&e, SNAP_EPROTO, "WINDOW grants %u bytes, %llu more than were sent", credit,
                      (unsigned long long)(c->tx.credit + credit - c->peer_window_bytes));
        chan_fail(c, &e);
        return;
    }
    c->tx.credit += credit;
    c->credit_since = 0;
    chan_kick(c);
}

/* Frames that consist of their header. */
static bool take_short(struct chan *c)
{
    switch (c->rx.header.kind) {
    case FRAME_WINDOW:
        take_window(c);
        return true;
    case FRAME_PING:
        c->tx.pongs[c->tx.pong_count++] = c->rx.header.id;
        chan_kick(c);
        return true;
    case FRAME_PONG:
        return true;
    default:
        return false;
    }
}

static void deliver(struct chan *c, struct frame_in *f)
{
    const bool *detached = c->detached;
    hold(c, f);
    if (c->state == CHAN_DRAINING) {
        chan_frame_done(&f->pub);
        return;
    }
    c->rx.at_hand = f;
    c->ops.frame(c, c->user, &f->pub);
    if (!*detached)
        c->rx.at_hand = NULL;
}

static void take_whole(struct chan *c)
{
    struct frame_in *f = c->rx.frame;
    struct err e = ERR_INIT;
    next_frame(c);
    switch (f->pub.header.kind) {
    case FRAME_HELLO:
        if (chan_take_hello(c, f->control, f->pub.header.control_bytes, &e) < 0)
            chan_fail(c, &e);
        else
            chan_went_up(c);
        frame_free(f);
        return;
    case FRAME_GOAWAY:
        chan_take_goaway(c, f->control, f->pub.header.control_bytes);
        frame_free(f);
        if (c->state == CHAN_HELLO)
            chan_fail_read(c, &c->goaway);
        return;
    case FRAME_REQUEST:
        c->requests_open++;
        break;
    case FRAME_RESPONSE:
        c->requests_open--;
        break;
    default:
        break;
    }
    deliver(c, f);
}

/* -- headers ---------------------------------------------------------------------------------- */

/* Is a frame of this kind in its place? NULL, or what is wrong. */
static const char *misplaced(const struct chan *c, const struct frame_header *h)
{
    if (c->state == CHAN_HELLO)
        return h->kind == FRAME_HELLO || h->kind == FRAME_GOAWAY ? NULL : "before HELLO";
    switch (h->kind) {
    case FRAME_HELLO:
        return "a second time";
    case FRAME_REQUEST:
        if (!c->server)
            return "from the daemon";
        return c->requests_open >= c->config.requests_max ? "above the number of requests in flight"
                                                          : NULL;
    case FRAME_RESPONSE:
        if (c->server)
            return "from the client";
        return c->requests_open == 0 ? "where no request is unanswered" : NULL;
    case FRAME_EVENT:
        return c->server ? "from the client" : NULL;
    default:
        return NULL;
    }
}

static int check_header(struct chan *c, struct err *reterr)
{
    struct frame_header *h = &c->rx.header;
    struct frame_limits limits = {.control_bytes_max = c->config.control_bytes_max,
                                  .payload_bytes_max = c->config.payload_bytes_max};
    if (c->state == CHAN_HELLO)
        limits.control_bytes_max = CHAN_HELLO_CONTROL_BYTES;
    const int r = frame_decode(c->rx.raw, &limits, h, reterr);
    if (r < 0)
        return r;
    const char *wrong = misplaced(c, h);
    if (wrong != NULL)
        return err_set(reterr, SNAP_EPROTO, "frame %s %s", frame_kind_name(h->kind), wrong);
    if ((h->kind == FRAME_HELLO || h->kind == FRAME_GOAWAY) &&
        h->control_bytes > CHAN_HELLO_CONTROL_BYTES)
        return err_set(reterr, SNAP_EPROTO, "frame %s: control length %u is above the limit %d",
                       frame_kind_name(h->kind), h->control_bytes, CHAN_HELLO_CONTROL_BYTES);
    if (h->payload_bytes > c->rx.credit)
        return err_set(
            reterr, SNAP_EPROTO, "frame %s: payload of %u bytes is above the credit of %llu",
            frame_kind_name(h->kind), h->payload_bytes, (unsigned long long)c->rx.credit);
    return 0;
}

static void take_header(struct chan *c)
{
    struct err e = ERR_INIT;
    if (check_header(c, &e) < 0) {
        chan_fail(c, &e);
        return;
    }
    const struct frame_header *h = &c->rx.header;
    c->rx.got = 0;
    if (take_short(c)) {
        next_frame(c);
        return;
    }
    struct frame_in *f = malloc(sizeof *f + h->control_bytes);
    if (f == NULL) {
        violation(c, SNAP_ENOMEM, "out of memory for a frame");
        return;
    }
    f->pub = (struct chan_frame){.header = *h, .control = f->control, .chan = c};
    c->rx.credit -= h->payload_bytes;
    c->rx.frame = f;
    c->rx.phase = RX_CONTROL;
    /* a long frame has longer, but not for ever */
    c->rx_until += (h->control_bytes + (uint64_t)h->payload_bytes) / CHAN_RATE_MIN;
}

/* -- bytes ------------------------------------------------------------------------------ */

/* Memory for the payload; without it the channel rests until some is given back. */
static void take_buffer(struct chan *c)
{
    struct frame_in *f = c->rx.frame;
    f->pub.payload = buf_take(c->config.pool, f->pub.header.payload_bytes);
    if (f->pub.payload == NULL) {
        c->rx.phase = RX_BUFFER;
        chan_arm(c, chan_now_ms() + CHAN_STARVED_RETRY_MS);
        return;
    }
    c->rx.phase = RX_PAYLOAD;
}

void chan_rx_retry_buffer(struct chan *c)
{
    take_buffer(c);
    if (c->rx.phase == RX_PAYLOAD)
        c->rx_until = chan_now_ms() + c->config.frame_timeout_ms;
}

/* From rx.buf to where the phase wants it. */
static void fill(struct chan *c, uint8_t *to, uint32_t want)
{
    struct chan_rx *rx = &c->rx;
    const uint32_t n = (uint32_t)u64_min(want - rx->got, rx->len - rx->pos);
    if (n > 0)
        memcpy(to + rx->got, rx->buf + rx->pos, n);
    rx->pos += n;
    rx->got += n;
}

/* Work off what stands in rx.buf. false: no more to be done with it now. */
static bool parse(struct chan *c)
{
    struct chan_rx *rx = &c->rx;
    switch (rx->phase) {
    case RX_HEADER:
        if (rx->got == 0 && rx->pos < rx->len) {
            c->rx_until = chan_now_ms() + c->config.frame_timeout_ms;
            chan_arm(c, c->rx_until);
        }
        fill(c, rx->raw, sizeof rx->raw);
        if (rx->got < sizeof rx->raw)
            return false;
        take_header(c);
        return true;
    case RX_CONTROL:
        fill(c, rx->frame->control, rx->header.control_bytes);
        if (rx->got < rx->header.control_bytes)
            return false;
        rx->got = 0;
        if (rx->header.payload_bytes > 0)
            take_buffer(c);
        else
            take_whole(c);
        return true;
    case RX_PAYLOAD:
        fill(c, rx->frame->pub.payload->data, rx->header.payload_bytes);
        if (rx->got < rx->header.payload_bytes)
            return false;
        take_whole(c);
        return true;
    case RX_BUFFER:
        break;
    }
    return false;
}

/* rx.buf is empty: read, a payload to its place. The value of chan_io_readv(). */
static ssize_t read_some(struct chan *c, struct err *reterr)
{
    struct chan_rx *rx = &c->rx;
    struct iovec iov[2];
    int n = 0;
    size_t direct = 0;
    rx->pos = rx->len = 0;
    if (rx->phase == RX_PAYLOAD) {
        direct = rx->header.payload_bytes - rx->got;
        iov[n++] = (struct iovec){rx->frame->pub.payload->data + rx->got, direct};
    }
    iov[n++] = (struct iovec){rx->buf, sizeof rx->buf};
    const ssize_t r = chan_io_readv(c, iov, n, reterr);
    if (r > 0) {
        const size_t got = u64_min((uint64_t)r, direct);
        rx->got += (uint32_t)got;
        rx->len = (unsigned)((size_t)r - got);
    }
    return r;
}

static void read_ended(struct chan *c, ssize_t r, struct err *e)
{
    if (r == TLS_EOF) {
        c->eof = true;
        if (c->rx.phase != RX_HEADER || c->rx.got > 0)
            (void)err_set(e, SNAP_ECONN, "the peer closed the connection inside a frame");
        else
            (void)err_set(e, SNAP_ECONN, "the peer closed the connection");
    }
    chan_fail_read(c, e);
}

void chan_rest(struct chan *c)
{
    c->rests = true;
}

void chan_read(struct chan *c, bool *detached)
{
    size_t left = CHAN_TURN_BYTES;
    c->read_more = false;
    c->read_wants_write = false;
    c->rests = false;
    c->detached = detached;
    while (chan_may_read(c)) {
        struct err e = ERR_INIT;
        if (c->rests) {
            c->share_used = true;
            break;
        }
        const bool parsed = parse(c);
        if (*detached)
            return;
        if (parsed)
            continue;
        if (left == 0) {
            c->share_used = true;
            break;
        }
        const ssize_t r = read_some(c, &e);
        if (r == TLS_WANT_READ || r == TLS_WANT_WRITE) {
            c->read_wants_write = r == TLS_WANT_WRITE;
            c->detached = NULL;
            return;
        }
        if (r < 0) {
            read_ended(c, r, &e);
            break;
        }
        chan_heard(c);
        left -= u64_min(left, (uint64_t)r);
    }
    c->detached = NULL;
    c->read_more = true; /* stopped before the peer did */
}

void chan_rx_done(struct chan *c)
{
    struct frame_in *f;
    if (c->rx.frame != NULL)
        frame_free(c->rx.frame);
    c->rx.frame = NULL;
    while ((f = LIST_FIRST(&c->rx.held)) != NULL) {
        LIST_REMOVE(f, held);
        f->pub.chan = NULL;
    }
}
