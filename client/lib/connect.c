/* SPDX-License-Identifier: Apache-2.0 */
/* The connection: made, lost, made again.
 *
 *   idle ──> connecting ──> connected ──> reconnecting ──> connected …
 *                │              ^              │
 *                └──────────────┴──────────────┴──> failed (for good)
 *
 * Addresses are tried in turn; after a round of them comes a pause that doubles
 * up to a limit, with jitter, and starts small again once the daemon has answered
 * something. What trying again cannot mend ends the client: a certificate that is
 * refused, no protocol in common. The same after the connection was up is a
 * broken connection like any other.
 *
 * Must not know the messages. Thread: the client's.
 */
#include "client/lib/lease_priv.h"
#include "common/base/bytes.h"
#include "common/net/chan.h"

#include <string.h>

enum { DRAIN_MS = 5000, BACKOFF_DOUBLINGS_MAX = 20 };

void client_set_state(struct snapwire_client *c, enum snapwire_state state, const struct err *why)
{
    c->state = state;
    if (c->config.state_changed == NULL)
        return;
    if (why != NULL) {
        const struct snapwire_error e = public_error_of(why);
        c->config.state_changed(c->config.user, c, state, &e);
    } else {
        c->config.state_changed(c->config.user, c, state, NULL);
    }
}

void client_fail(struct snapwire_client *c, const struct err *why)
{
    const struct err copy = *why;

    c->why = copy;
    loop_timer_stop(&c->retry_timer);
    c->state = SNAPWIRE_STATE_FAILED;
    lease_fail_all(c, &copy);
    request_end_all(c, &copy);
    client_kick(c);
    client_set_state(c, SNAPWIRE_STATE_FAILED, &copy);
}

void client_abort(struct snapwire_client *c, const struct err *why)
{
    if (c->chan == NULL || !c->up)
        return;
    c->up = false; /* nothing more is sent on it */
    c->was_up = true;
    chan_abort(c->chan, why);
}

void client_proven(struct snapwire_client *c)
{
    c->attempts = 0;
}

void client_drain(struct snapwire_client *c)
{
    if (c->draining || c->chan == NULL)
        return;
    c->draining = true;
    loop_timer_set(&c->drain_timer, DRAIN_MS);
    client_kick(c);
}

/* -- trying again -- */

static bool is_permanent(int code)
{
    switch (code) {
    case SNAP_EAUTH:
    case SNAP_EPERM:
    case SNAP_EPROTO:
    case SNAP_ENOTSUP:
    case SNAP_EINVAL:
        return true;
    default:
        return false;
    }
}

static uint64_t backoff_ms(struct snapwire_client *c)
{
    const unsigned rounds = c->attempts / c->address_count;

    if (c->attempts % c->address_count != 0) /* the next address of this round */
        return 0;
    const unsigned doublings = rounds == 0 ? 0 : rounds - 1;
    const uint64_t full =
        u64_min(c->config.backoff_max_ms,
                (uint64_t)c->config.backoff_min_ms
                    << (doublings < BACKOFF_DOUBLINGS_MAX ? doublings : BACKOFF_DOUBLINGS_MAX));
    return full - rng_below(&c->rng, full / 2 + 1);
}

void connect_lost(struct snapwire_client *c, const struct err *why, bool was_up)
{
    const struct err copy = *why;
    const uint64_t now_ns = client_now_ns();

    c->why = copy;
    if (c->broken_ns == 0)
        c->broken_ns = now_ns;
    if (!was_up && is_permanent(copy.code)) {
        client_fail(c, &copy);
        return;
    }
    if (c->config.give_up_ms != 0 &&
        now_ns - c->broken_ns >= (uint64_t)c->config.give_up_ms * 1000000) {
        client_fail(c, &copy);
        return;
    }
    c->attempts++;
    c->address_next = (c->address_next + 1) % c->address_count;
    loop_timer_set(&c->retry_timer, backoff_ms(c));
    client_set_state(c, SNAPWIRE_STATE_RECONNECTING, &copy);
}

/* -- the channel -- */

static void chan_up_cb(struct chan *chan, void *user, const struct chan_peer *peer)
{
    struct snapwire_client *c = user;

    (void)chan;
    c->up = true;
    c->was_up = true;
    c->broken_ns = 0;
    c->requests_peer_max = peer->requests_max != 0 ? peer->requests_max : 1;
    c->payload_peer_max = client_whole_sectors(peer->payload_bytes_max);
    c->control_peer_max = peer->control_bytes_max;
    io_connected(c, &peer->boot);
    lease_connected(c);
    client_kick(c);
    client_set_state(c, SNAPWIRE_STATE_CONNECTED, NULL);
}

static void chan_frame_cb(struct chan *chan, void *user, struct chan_frame *f)
{
    struct snapwire_client *c = user;
    struct err why = ERR_INIT;
    int r = 0;

    (void)chan;
    if (c->up && !c->closing) {
        if (f->header.kind == FRAME_RESPONSE)
            request_answer(c, f);
        else if (f->header.kind == FRAME_EVENT)
            r = lease_event(c, f->header.method, f->control, f->header.control_bytes, &why);
        else
            r = err_set(&why, SNAP_EPROTO, "the daemon sent a request");
    }
    chan_frame_done(f);
    if (r < 0)
        client_abort(c, &why);
    client_kick(c);
}

static void chan_down_cb(struct chan *chan, void *user, const struct err *why)
{
    struct snapwire_client *c = user;
    const bool was_up = c->was_up;
    struct err copy = {.code = SNAP_ECONN, .text = "the connection was closed"};

    (void)chan;
    if (why != NULL && why->code != 0)
        copy = *why;
    c->chan = NULL;
    c->up = false;
    c->was_up = false;
    c->draining = false;
    loop_timer_stop(&c->drain_timer);
    request_requeue_all(c);
    lease_disconnected(c, was_up);
    client_kick(c);
    if (!c->closing)
        connect_lost(c, &copy, was_up);
}

static void chan_drained_cb(struct chan *chan, void *user)
{
    (void)chan;
    client_kick(user);
}

static const struct chan_ops client_chan_ops = {
    .up = chan_up_cb,
    .frame = chan_frame_cb,
    .down = chan_down_cb,
    .drained = chan_drained_cb,
};

static int channel_open(struct snapwire_client *c, int fd, const struct addr *a, struct err *reterr)
{
    const uint64_t window = u64_min(c->config.receive_bytes_max / 2, LIMIT_WINDOW_BYTES);
    const struct chan_config config = {
        .pool = c->pool,
        .tls = a->unix_socket ? NULL : c->tls,
        .software = c->software,
        .instance = c->instance,
        .payload_bytes_max = c->payload_own_max,
        .window_bytes = window,
        .handshake_timeout_ms = c->config.connect_timeout_ms,
        .keepalive_ms = c->config.keepalive_ms,
    };
    const char *name = c->server_name[0] != '\0' ? c->server_name : a->host;

    return chan_new_client(c->loop, fd, a->unix_socket ? NULL : name, &config, &client_chan_ops, c,
                           &c->chan, reterr);
}

static void connector_done_cb(void *user, int fd, const struct err *why)
{
    struct snapwire_client *c = user;
    const struct addr *a = &c->addresses[c->address_next];
    struct err err = ERR_INIT;

    c->connector_dead = c->connector; /* freed by the hook */
    c->connector = NULL;
    client_kick(c);
    if (fd < 0) {
        connect_lost(c, why, false);
        return;
    }
    c->was_up = false;
    if (channel_open(c, fd, a, &err) < 0)
        connect_lost(c, &err, false);
}

static void connect_attempt(struct snapwire_client *c)
{
    struct err err = ERR_INIT;

    if (connector_new(c->loop, &c->addresses[c->address_next], c->config.connect_timeout_ms,
                      connector_done_cb, c, &c->connector, &err) < 0)
        connect_lost(c, &err, false);
}

void connect_retry(void *user)
{
    struct snapwire_client *c = user;

    if (!c->closing && c->chan == NULL && c->connector == NULL)
        connect_attempt(c);
}

void connect_begin(struct snapwire_client *c)
{
    c->broken_ns = client_now_ns();
    client_set_state(c, SNAPWIRE_STATE_CONNECTING, NULL);
    if (!c->closing)
        connect_attempt(c);
}
