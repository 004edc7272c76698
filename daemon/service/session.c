/* SPDX-License-Identifier: Apache-2.0 */
/* A connection: who is asking, within which limits, and what is under way.
 *
 *   accepted ──> (TLS, hello: chan) ──> up ──────────────────────────> down ──> freed
 *      │  main      shard, in turn      │  │ LEASE_ACQUIRE alone:      │  when no
 *      │                                │  └─> moves to the volume's   │  request is out
 *      └─ over the total: closed        └─ over the client's: closed   └─ volumes are told
 *
 *   event            accepted/hello   up                       draining     down
 *   request          -                dispatched               ESHUTDOWN    -
 *   answer           -                sent                     sent         dropped
 *   lease event      -                sent                     sent         dropped
 *   other frame      -                protocol error           likewise     -
 *
 * Here are its begin and its end; its requests are session_request.c's, their answers
 * session_answer.c's, its way to its volume's shard session_move.c's, and what a lease's holder is
 * told session_event.c's. None of them knows what requests mean: the table in methods.c says where
 * each runs. Thread: the home part's; session_accept() is main's.
 */
#include "daemon/service/session_priv.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/log.h"
#include "daemon/volume/claim.h"

#include <stdlib.h>
#include <unistd.h>

/* -- the end ------------------------------------------------------------------------ */

void session_free_if_idle(struct session *s)
{
    if (s->chan != NULL || s->outstanding > 0)
        return;
    CHECK(LIST_EMPTY(&s->leases));
    TAILQ_REMOVE(&s->home->sessions, s, link);
    if (s->client != NULL)
        clients_leave(s->server->clients, s->client);
    atomic_fetch_sub(&s->server->connections, 1);
    free(s);
}

static void holder_gone_run(struct loop_msg *msg)
{
    struct session_lease *l = CONTAINER_OF(msg, struct session_lease, gone);
    struct volume *v = volume_set_find(&server_part_of(l->server, &l->volume)->set, &l->volume);
    if (v != NULL) {
        volume_holder_gone(v, l->session);
        claim_leave(v, l->session);
    }
    free(l);
}

static void session_leave_leases(struct session *s)
{
    struct session_lease *l;
    while ((l = LIST_FIRST(&s->leases)) != NULL) {
        LIST_REMOVE(l, link);
        l->server = s->server;
        l->session = s->id;
        l->gone.fn = holder_gone_run;
        shard_post(server_part_of(s->server, &l->volume)->shard, &l->gone);
    }
}

struct session_lease *session_lease_new(const struct uuid *volume)
{
    struct session_lease *l = calloc(1, sizeof *l);
    if (l != NULL)
        l->volume = *volume;
    return l;
}

void session_take_lease(struct session *s, struct session_lease *take)
{
    struct session_lease *l;
    if (take == NULL)
        return;
    LIST_FOREACH (l, &s->leases, link) {
        if (uuid_equal(&l->volume, &take->volume)) {
            free(take);
            return;
        }
    }
    LIST_INSERT_HEAD(&s->leases, take, link);
    if (s->chan == NULL) /* it ended while the lease was being given */
        session_leave_leases(s);
}

static void session_down(struct chan *c, void *user, const struct err *why)
{
    (void)c;
    struct session *s = user;
    s->chan = NULL;
    struct log_field more = {.key = NULL}; /* refusals that were not told yet */
    if (s->told.more > 0)
        more = F_U64("more", s->told.more);
    if (s->up || why->code < 0)
        LOG_INFO("connection closed", F_STR("client", s->up ? s->peer.identity : "?"),
                 F_U64("session", s->id), F_STR("why", why->code < 0 ? why->text : "closed"), more);
    session_leave_leases(s);
    session_free_if_idle(s);
}

bool session_check_revoked(struct session *s)
{
    struct err err = ERR_INIT;
    if (s->chan == NULL || s->peer.local || !chan_revoked(s->chan, s->home->tls))
        return false;
    (void)err_set(&err, SNAP_EAUTH, "the certificate has been revoked");
    chan_abort(s->chan, &err);
    return true;
}

/* -- the beginning ---------------------------------------------------------------------- */

static void session_up(struct chan *c, void *user, const struct chan_peer *peer)
{
    struct session *s = user;
    struct server *server = s->server;
    struct err err = ERR_INIT;
    s->peer = *peer;
    s->admin = peer->local && (peer->uid == 0 || peer->uid == geteuid());
    int rc = clients_enter(
        server->clients, s->peer.identity,
        atomic_load_explicit(&server->limits.connections_per_client, memory_order_relaxed),
        &s->client, &err);
    if (rc < 0) {
        metrics_add(&s->home->metrics.connections_refused, 1);
        chan_abort(c, &err);
        return;
    }
    s->up = true;
    metrics_add(&s->home->metrics.connections_opened, 1);
    LOG_INFO("connection up", F_U64("session", s->id), F_STR("client", s->peer.identity),
             F_STR("address", s->peer.address), F_STR("software", s->peer.software));
    (void)session_check_revoked(s); /* its handshake may have begun under an older list */
}

static const struct chan_ops session_ops = {
    .up = session_up, .frame = session_frame, .down = session_down};

struct session_accepted {
    struct loop_msg msg;
    struct part *part;
    int fd;
    bool local;
};

static void session_begin(struct loop_msg *msg)
{
    struct session_accepted *a = CONTAINER_OF(msg, struct session_accepted, msg);
    struct part *part = a->part;
    struct server *server = part->server;
    const struct config *config = server->config;
    struct err err = ERR_INIT;
    struct session *s =
        part->draining || (!a->local && part->tls == NULL) ? NULL : calloc(1, sizeof *s);
    if (s == NULL) {
        (void)close(a->fd);
        atomic_fetch_sub(&server->connections, 1);
        free(a);
        return;
    }
    s->server = server;
    s->home = part;
    s->id = atomic_fetch_add(&server->next_session, 1) + 1;
    LIST_INIT(&s->leases);
    TAILQ_INSERT_TAIL(&part->sessions, s, link);
    struct chan_config chan_config = {
        .pool = part->shard->pool,
        .tls = a->local ? NULL : part->tls,
        .software = "snapwired " SNAPWIRE_VERSION,
        .instance = server->instance,
        .boot = server->boot,
        .requests_max = config->requests_per_connection,
        .window_bytes = config->window_bytes,
        .handshake_timeout_ms = config->handshake_timeout_ms,
        .frame_timeout_ms = config->frame_timeout_ms,
        .keepalive_ms = config->keepalive_ms,
    };
    if (chan_new_server(part->shard->loop, a->fd, &chan_config, &session_ops, s, &s->chan, &err) <
        0) {
        LOG_WARN("connection refused", F_ERR(&err));
        s->chan = NULL;
        session_free_if_idle(s);
    }
    free(a);
}

void session_accept(struct server *server, int fd, bool local)
{
    static unsigned turn;
    uint32_t max = atomic_load_explicit(&server->limits.connections_total, memory_order_relaxed);
    struct session_accepted *a = NULL;
    if (atomic_fetch_add(&server->connections, 1) >= max)
        LOG_WARN("connection refused: too many", F_U64("connections", max));
    else
        a = calloc(1, sizeof *a);
    if (a == NULL) {
        atomic_fetch_sub(&server->connections, 1);
        (void)close(fd);
        return;
    }
    a->part = &server->parts[turn++ % server->part_count];
    a->fd = fd;
    a->local = local;
    a->msg.fn = session_begin;
    shard_post(a->part->shard, &a->msg);
}

/* -- all of a part ---------------------------------------------------------------------- */

void part_drain(struct part *part)
{
    part->draining = true;
    Snapwire__V1__Error e = SNAPWIRE__V1__ERROR__INIT;
    char text[] = "the daemon is stopping";
    e.code = (uint32_t)-SNAP_ESHUTDOWN;
    e.text = text;
    uint8_t packed[128];
    struct chan_out out = {.kind = FRAME_GOAWAY,
                           .control = packed,
                           .control_bytes = (uint32_t)protobuf_c_message_pack(&e.base, packed)};
    struct session *s;
    TAILQ_FOREACH (s, &part->sessions, link)
        if (s->chan != NULL && s->up)
            (void)!chan_send(s->chan, &out, NULL);
}

void part_abort_sessions(struct part *part, const struct err *why)
{
    struct session *s;
    TAILQ_FOREACH (s, &part->sessions, link)
        if (s->chan != NULL)
            chan_abort(s->chan, why);
}

void part_set_tls(struct part *part, struct tls_context *take_tls)
{
    tls_context_unref(part->tls);
    part->tls = take_tls;
    struct session *s;
    TAILQ_FOREACH (s, &part->sessions, link)
        if (s->up)
            (void)session_check_revoked(s);
}
