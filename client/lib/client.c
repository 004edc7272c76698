/* SPDX-License-Identifier: Apache-2.0 */
/* The client object: made, driven, closed.
 *
 * One turn of the loop ends in the client's hook, which does what the callbacks of
 * the turn left behind, always in this order:
 *
 *     connect if wanted ──> leases that stand still ──> batches that gathered ──>
 *     requests that ended ──> notices of leases and streams ──> send ──> free what died
 *
 * A client on the caller's event_base cannot be freed inside its own loop's
 * callbacks, so a last event of the base's own does that.
 *
 * Must not know the messages. Thread: the client's, but for snapwire_client_post().
 */
#include "client/lib/lease_priv.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/net/tls.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_CONNECT_TIMEOUT_MS = 10000,
    DEFAULT_REQUEST_TIMEOUT_MS = 60000,
    DEFAULT_KEEPALIVE_MS = 15000,
    DEFAULT_BACKOFF_MIN_MS = 100,
    DEFAULT_BACKOFF_MAX_MS = 10000,
    RECEIVE_BYTES_MIN = 512 * 1024,
};

uint64_t client_now_ns(void)
{
    /* a lease runs out on the daemon while this machine sleeps */
    return clock_now_ns(clock_asleep_too());
}

void client_kick(struct snapwire_client *c)
{
    if (c->hooked)
        return;
    c->hooked = true;
    loop_hook_add(c->loop, &c->hook);
}

int client_check(const struct snapwire_client *c, struct err *reterr)
{
    if (c->closing)
        return err_set(reterr, SNAP_ECANCELED, "the client is closed");
    if (c->state == SNAPWIRE_STATE_FAILED)
        return err_copy(reterr, &c->why);
    return 0;
}

/* -- the hook and the end -- */

static void client_destroy(struct snapwire_client *c)
{
    if (c->hooked)
        loop_hook_remove(c->loop, &c->hook);
    loop_timer_done(&c->retry_timer);
    loop_timer_done(&c->expire_timer);
    loop_timer_done(&c->drain_timer);
    io_nodes_free(c);
    loop_free(c->loop);
    buf_pool_free(c->pool);
    tls_context_unref(c->tls);
    free(c);
}

static void client_destroy_cb(evutil_socket_t fd, short what, void *user)
{
    (void)fd;
    (void)what;
    client_destroy(user);
}

static void client_close_step(struct snapwire_client *c)
{
    const struct err why = {.code = SNAP_ECANCELED, .text = "the client was closed"};
    static const struct timeval soon = {0, 0};

    if (c->closed_done)
        return;
    if (c->chan != NULL) /* down() follows */
        return;
    stream_end_all_of(c, &why);
    request_end_all(c, &why);
    request_deliver_ended(c);
    job_wait_end_all(c, &why);
    stream_tell_all(c);
    stream_reap_all(c);
    lease_reap_all(c);
    if (atomic_load(&c->posted) != 0)
        return;
    c->closed_done = true;
    client_set_state(c, SNAPWIRE_STATE_CLOSED, NULL);
    if (c->closed != NULL)
        c->closed(c->closed_user);
    if (!c->loop_owned)
        (void)event_base_once(loop_base(c->loop), -1, EV_TIMEOUT, client_destroy_cb, c, &soon);
}

static void client_hook(void *user)
{
    struct snapwire_client *c = user;

    c->hooked = false; /* who kicks from here on gets another run in this turn */
    loop_hook_remove(c->loop, &c->hook);
    connector_free(c->connector_dead);
    c->connector_dead = NULL;
    if (c->closing) {
        client_close_step(c);
        return;
    }
    if (c->connect_wanted && c->state == SNAPWIRE_STATE_IDLE)
        connect_begin(c);
    lease_step_all(c);
    stream_step_all(c);
    request_deliver_ended(c);
    lease_notify_all(c);
    stream_tell_all(c);
    request_pump(c);
    if (c->draining && c->chan != NULL && c->sent_count == 0)
        chan_close(c->chan);
    stream_reap_all(c);
    lease_reap_all(c);
}

static void client_close_begin(struct snapwire_client *c, void (*closed)(void *user), void *user)
{
    const struct err why = {.code = SNAP_ECONN, .text = "the client was closed"};

    if (c->closing)
        return;
    c->closing = true;
    c->closed = closed;
    c->closed_user = user;
    loop_timer_stop(&c->retry_timer);
    loop_timer_stop(&c->expire_timer);
    loop_timer_stop(&c->drain_timer);
    connector_free(c->connector);
    c->connector = NULL;
    lease_close_all(c);
    if (c->chan != NULL && c->up && TAILQ_EMPTY(&c->sent))
        chan_close(c->chan);
    else if (c->chan != NULL)
        chan_abort(c->chan, &why);
    client_kick(c);
}

void snapwire_client_close(struct snapwire_client *c, void (*closed)(void *user), void *user)
{
    if (!c->loop_owned) {
        client_close_begin(c, closed, user);
        return;
    }
    if (c->driving)
        return;
    client_close_begin(c, closed, user);
    sync_drive(c, &c->closed_done);
    client_destroy(c);
}

void snapwire_client_free(struct snapwire_client *c)
{
    if (c != NULL)
        snapwire_client_close(c, NULL, NULL);
}

/* -- making one -- */

static void expire_cb(void *user)
{
    request_expire(user);
}

static void drain_cb(void *user)
{
    struct snapwire_client *c = user;
    const struct err why = {.code = SNAP_ESHUTDOWN, .text = "the daemon is stopping"};

    if (c->draining)
        client_abort(c, &why);
}

static int addresses_parse(struct snapwire_client *c, const char *text, struct err *reterr)
{
    static const char blanks[] = ", \t\n";
    const char *at = text;

    while (*(at += strspn(at, blanks)) != '\0') {
        char one[LIMIT_PATH_BYTES];
        const size_t len = strcspn(at, blanks);
        if (len >= sizeof one)
            return err_set(reterr, SNAP_EINVAL, "an address is too long");
        if (c->address_count == CLIENT_ADDRESSES_MAX)
            return err_set(reterr, SNAP_ELIMIT, "more than %d addresses", CLIENT_ADDRESSES_MAX);
        memcpy(one, at, len);
        one[len] = '\0';
        const int r = addr_parse(one, &c->addresses[c->address_count], reterr);
        if (r < 0)
            return r;
        c->address_count++;
        at += len;
    }
    if (c->address_count == 0)
        return err_set(reterr, SNAP_EINVAL, "no address of a daemon given");
    return 0;
}

static uint32_t or_default(uint32_t value, uint32_t instead)
{
    return value != 0 ? value : instead;
}

/* Takes the strings over; the config keeps none of the caller's pointers. */
static int config_take(struct snapwire_client *c, struct err *reterr)
{
    struct snapwire_config *k = &c->config;

    (void)snprintf(c->software, sizeof c->software, "%s",
                   k->software != NULL ? k->software : "libsnapwire " SNAPWIRE_VERSION);
    if (k->server_name != NULL) {
        if (strlen(k->server_name) >= sizeof c->server_name)
            return err_set(reterr, SNAP_EINVAL, "the server's name is too long");
        (void)snprintf(c->server_name, sizeof c->server_name, "%s", k->server_name);
    }
    k->addresses = k->ca_path = k->certificate_path = k->key_path = k->crl_path = NULL;
    k->software = k->server_name = NULL;
    k->connect_timeout_ms = or_default(k->connect_timeout_ms, DEFAULT_CONNECT_TIMEOUT_MS);
    k->request_timeout_ms = or_default(k->request_timeout_ms, DEFAULT_REQUEST_TIMEOUT_MS);
    k->keepalive_ms = or_default(k->keepalive_ms, DEFAULT_KEEPALIVE_MS);
    k->backoff_min_ms = or_default(k->backoff_min_ms, DEFAULT_BACKOFF_MIN_MS);
    k->backoff_max_ms = or_default(k->backoff_max_ms, DEFAULT_BACKOFF_MAX_MS);
    k->requests_max = or_default(k->requests_max, LIMIT_REQUESTS_INFLIGHT);
    if (k->backoff_max_ms < k->backoff_min_ms)
        k->backoff_max_ms = k->backoff_min_ms;
    if (k->receive_bytes_max == 0)
        k->receive_bytes_max = LIMIT_WINDOW_BYTES;
    if (k->receive_bytes_max < RECEIVE_BYTES_MIN)
        return err_set(reterr, SNAP_EINVAL, "receive_bytes_max is less than %d",
                       (int)RECEIVE_BYTES_MIN);
    c->timeout_ms = k->request_timeout_ms;
    return 0;
}

static int tls_take(struct snapwire_client *c, struct err *reterr)
{
    const struct snapwire_config *k = &c->config;
    const struct tls_files files = {.ca_path = k->ca_path,
                                    .certificate_path = k->certificate_path,
                                    .key_path = k->key_path,
                                    .crl_path = k->crl_path};
    bool needed = false;

    for (unsigned i = 0; i < c->address_count; i++)
        needed = needed || !c->addresses[i].unix_socket;
    if (!needed)
        return 0;
    if (k->ca_path == NULL || k->certificate_path == NULL || k->key_path == NULL)
        return err_set(reterr, SNAP_EINVAL,
                       "an address that is no Unix socket needs a CA, a certificate and its key");
    return tls_context_new(false, &files, &c->tls, reterr);
}

static int client_init(struct snapwire_client *c, struct event_base *base, struct err *reterr)
{
    uint64_t seed;
    int r = addresses_parse(c, c->config.addresses != NULL ? c->config.addresses : "", reterr);

    if (r == 0)
        r = tls_take(c, reterr);
    if (r == 0)
        r = config_take(c, reterr);
    if (r < 0)
        return r;
    rng_secret(&seed, sizeof seed);
    rng_init(&c->rng, seed);
    c->instance = uuid_make();
    c->next_id = 1;
    c->payload_peer_max = LIMIT_FRAME_PAYLOAD_BYTES;
    /* A buffer is up to twice as large as what it holds: what may come must fit the pool. */
    c->payload_own_max = client_whole_sectors(
        (uint32_t)u64_min(LIMIT_FRAME_PAYLOAD_BYTES, c->config.receive_bytes_max / 2));
    TAILQ_INIT(&c->waiting);
    TAILQ_INIT(&c->sent);
    TAILQ_INIT(&c->ended);
    LIST_INIT(&c->leases);
    LIST_INIT(&c->streams);
    LIST_INIT(&c->job_waiters);
    LIST_INIT(&c->io_nodes);
    c->pool = buf_pool_new((size_t)c->config.receive_bytes_max);
    if (c->pool == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a client");
    c->loop_owned = base == NULL;
    return base == NULL ? loop_new(&c->loop, reterr) : loop_wrap(base, &c->loop, reterr);
}

static int client_timers_init(struct snapwire_client *c, struct err *reterr)
{
    int r = loop_timer_init(c->loop, &c->retry_timer, connect_retry, c, reterr);

    if (r == 0)
        r = loop_timer_init(c->loop, &c->expire_timer, expire_cb, c, reterr);
    if (r == 0)
        r = loop_timer_init(c->loop, &c->drain_timer, drain_cb, c, reterr);
    return r;
}

int snapwire_client_new(struct event_base *base, const struct snapwire_config *config,
                        struct snapwire_client **ret, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    struct snapwire_client *c = calloc(1, sizeof *c);

    if (c == NULL)
        return public_error(reterr, err_set(&err, SNAP_ENOMEM, "out of memory for a client"), &err);
    int r = public_args(&c->config, sizeof c->config, config, sizeof c->config, &err);
    if (r == 0)
        r = client_init(c, base, &err);
    if (r == 0)
        r = client_timers_init(c, &err);
    if (r < 0) {
        struct loop_timer *const timers[] = {&c->retry_timer, &c->expire_timer, &c->drain_timer};
        for (unsigned i = 0; i < 3; i++)
            if (timers[i]->event != NULL)
                loop_timer_done(timers[i]);
        loop_free(c->loop);
        buf_pool_free(c->pool);
        tls_context_unref(c->tls);
        free(c);
        return public_error(reterr, r, &err);
    }
    c->hook = (struct loop_hook){.fn = client_hook, .user = c};
    *ret = c;
    return 0;
}

/* -- small things -- */

int snapwire_client_connect(struct snapwire_client *c, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    const int r = client_check(c, &err);

    if (r == 0) {
        c->connect_wanted = true;
        client_kick(c);
    }
    return public_error(reterr, r, &err);
}

static int connect_wait(struct snapwire_client *c, struct err *reterr)
{
    const uint64_t end_ns = client_now_ns() + (uint64_t)c->config.connect_timeout_ms * 1000000;
    int r = sync_check(c, reterr);

    if (r == 0)
        r = client_check(c, reterr);
    if (r < 0)
        return r;
    c->connect_wanted = true;
    client_kick(c);
    c->driving = true;
    uint64_t now_ns = client_now_ns();
    while (c->state != SNAPWIRE_STATE_CONNECTED && c->state != SNAPWIRE_STATE_FAILED &&
           now_ns < end_ns) {
        loop_turn(c->loop, (int)((end_ns - now_ns) / 1000000 + 1));
        now_ns = client_now_ns();
    }
    c->driving = false;
    if (c->state == SNAPWIRE_STATE_CONNECTED)
        return 0;
    if (c->why.code != 0)
        return err_copy(reterr, &c->why);
    return err_set(reterr, SNAP_ETIMEDOUT, "no connection within %u ms",
                   c->config.connect_timeout_ms);
}

int snapwire_client_connect_sync(struct snapwire_client *c, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr, connect_wait(c, &err), &err);
}

enum snapwire_state snapwire_client_state(const struct snapwire_client *c)
{
    return c->state;
}

void snapwire_client_set_timeout(struct snapwire_client *c, uint32_t timeout_ms)
{
    c->timeout_ms = timeout_ms != 0 ? timeout_ms : c->config.request_timeout_ms;
}

uint32_t snapwire_client_payload_bytes_max(const struct snapwire_client *c)
{
    return (uint32_t)u64_min(c->payload_peer_max, c->payload_own_max);
}

struct posted {
    struct loop_msg msg; /* first */
    struct snapwire_client *client;
    void (*fn)(void *user);
    void *user;
};

static void posted_run(struct loop_msg *msg)
{
    struct posted *p = (struct posted *)msg;
    struct snapwire_client *c = p->client;

    p->fn(p->user);
    free(p);
    (void)atomic_fetch_sub(&c->posted, 1);
    client_kick(c);
}

int snapwire_client_post(struct snapwire_client *c, void (*fn)(void *user), void *user,
                         struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    struct posted *p = calloc(1, sizeof *p);

    if (p == NULL)
        return public_error(reterr, err_set(&err, SNAP_ENOMEM, "out of memory for a message"),
                            &err);
    *p = (struct posted){.msg.fn = posted_run, .client = c, .fn = fn, .user = user};
    (void)atomic_fetch_add(&c->posted, 1);
    loop_post(c->loop, &p->msg);
    return 0;
}
