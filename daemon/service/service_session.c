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
 * It knows frames and sessions, not what requests mean: the table in methods.c says
 * where each runs. Thread: the home part's; session_accept() is main's.
 */
#include "daemon/service/server.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/log.h"
#include "common/net/unpack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOLD_AGAIN_NS (UINT64_C(10) * 1000 * 1000 * 1000)

/* -- the end ------------------------------------------------------------------------ */

static void session_free_if_idle(struct session *s)
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

struct holder_gone {
    struct loop_msg msg;
    struct server *server;
    struct uuid volume;
    uint64_t session;
};

static void holder_gone_run(struct loop_msg *msg)
{
    struct holder_gone *g = CONTAINER_OF(msg, struct holder_gone, msg);
    struct volume *v = volume_set_find(&server_part_of(g->server, &g->volume)->set, &g->volume);
    if (v != NULL)
        volume_holder_gone(v, g->session);
    free(g);
}

/* No memory to tell: the volume finds out when the lease is not renewed. */
static void session_leave_leases(struct session *s)
{
    struct session_lease *l;
    while ((l = LIST_FIRST(&s->leases)) != NULL) {
        LIST_REMOVE(l, link);
        struct holder_gone *g = calloc(1, sizeof *g);
        if (g != NULL) {
            *g = (struct holder_gone){.msg = {.fn = holder_gone_run},
                                      .server = s->server,
                                      .volume = l->volume,
                                      .session = s->id};
            shard_post(server_part_of(s->server, &l->volume)->shard, &g->msg);
        }
        free(l);
    }
}

void session_add_lease(struct session *s, const struct uuid *volume)
{
    struct session_lease *l;
    LIST_FOREACH (l, &s->leases, link)
        if (uuid_equal(&l->volume, volume))
            return;
    l = calloc(1, sizeof *l);
    if (l == NULL)
        return;
    l->volume = *volume;
    LIST_INSERT_HEAD(&s->leases, l, link);
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

/* -- answers ---------------------------------------------------------------------------- */

static void session_release_buf(struct request *req)
{
    buf_give(req->buf);
    request_free(req);
}

/* The answer's payload left, or will not leave any more. */
static void session_released(void *user)
{
    struct request *req = user;
    if (req->buf != NULL)
        request_go(req, req->buf_part, session_release_buf);
    else
        request_free(req);
}

static int session_send_answer(struct session *s, struct request *req, struct err *reterr)
{
    struct chan_out out = {.kind = FRAME_RESPONSE,
                           .method = req->frame->header.method,
                           .id = req->frame->header.id,
                           .control = req->control,
                           .control_bytes = (uint32_t)req->control_bytes,
                           .iov = req->iov,
                           .iov_count = req->iov_count};
    uint8_t packed[LIMIT_TEXT_BYTES + 64];
    if (req->code < 0) {
        Snapwire__V1__Error e = SNAPWIRE__V1__ERROR__INIT;
        e.code = (uint32_t)-req->code;
        e.text = req->err.text;
        e.loss = req->loss;
        out.flags = FRAME_ERROR;
        out.iov_count = 0;
        out.control = packed;
        out.control_bytes = (uint32_t)protobuf_c_message_get_packed_size(&e.base);
        CHECK(out.control_bytes <= sizeof packed);
        (void)protobuf_c_message_pack(&e.base, packed);
    }
    if (out.iov_count > 0) {
        out.released = session_released;
        out.user = req;
        for (unsigned i = 0; i < out.iov_count; i++)
            metrics_add(&s->home->metrics.payload_out_bytes, out.iov[i].iov_len);
    }
    return chan_send(s->chan, &out, reterr) < 0 ? -1 : out.iov_count > 0 ? 1 : 0;
}

/* A client that goes on against a wall fills the log with one line a request: of refusals of the
 * same kind the first is told, then one in a while, and how many there were. */
static bool session_tells(struct session *s, const struct request *req, uint64_t now_ns)
{
    bool same = s->told.method == req->method && s->told.code == req->code;
    if (same && now_ns - s->told.at_ns < TOLD_AGAIN_NS) {
        s->told.more++;
        return false;
    }
    s->told.method = req->method;
    s->told.code = req->code;
    s->told.at_ns = now_ns;
    return true;
}

/* Told to the log: what changes something, and what is refused. */
static void session_log_request(struct session *s, const struct request *req, uint64_t now_ns)
{
    const struct method *m = req->method;
    bool mutates = m != NULL && m->mutates, failed = false;
    const char *msg = "request done";
    enum log_level level = mutates ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG;
    struct log_field fields[16] = {F_STR("method", m != NULL ? m->name : "?")};
    size_t n = 1;
    if (req->code < 0) {
        failed = req->code == SNAP_EINTERNAL || req->code == SNAP_EIO ||
                 req->code == SNAP_ECORRUPT || req->code == SNAP_ENOMEM;
        msg = failed ? "request failed" : "request refused";
        level = failed ? LOG_LEVEL_WARN : LOG_LEVEL_INFO;
        if (!mutates && !session_tells(s, req, now_ns))
            level = LOG_LEVEL_DEBUG;
    }
    if (req->target != NULL)
        fields[n++] = F_STR("target", req->target);
    fields[n++] = F_STR("client", s->peer.identity);
    fields[n++] = F_U64("session", s->id);
    fields[n++] = F_U64("id", req->frame->header.id);
    if (!uuid_is_zero(&req->volume_id))
        fields[n++] = F_UUID("volume_id", &req->volume_id);
    fields[n++] = F_U64("us", (now_ns - req->started_ns) / 1000);
    if (req->code < 0) {
        fields[n++] = F_STR("code", err_name(req->err.code));
        fields[n++] = F_STR("error", req->err.text);
        if (level != LOG_LEVEL_DEBUG && s->told.more > 0 && !mutates) {
            fields[n++] = F_U64("more", s->told.more);
            s->told.more = 0;
        }
    }
    log_write(level, msg, fields, n);
}

static bool session_go(struct session *s);

void session_answer(struct request *req)
{
    struct session *s = req->session;
    uint64_t now_ns = clock_now_ns(s->server->env.clock);
    metrics_request(&s->home->metrics, req->frame->header.method, req->code,
                    now_ns - req->started_ns);
    session_log_request(s, req, now_ns);
    struct err err = ERR_INIT;
    int sent = s->chan == NULL ? -1 : session_send_answer(s, req, &err);
    if (sent < 0 && s->chan != NULL)
        chan_abort(s->chan, &err); /* an answer that cannot be sent must not be lost silently */
    CHECK(s->outstanding > 0);
    s->outstanding--;
    atomic_fetch_sub_explicit(&s->home->under_way, 1, memory_order_relaxed);
    struct chan_frame *frame = req->frame;
    req->frame = NULL;
    if (sent <= 0)
        session_released(req);
    chan_frame_done(frame);
    if (s->follows != NULL && s->outstanding == 0 && session_go(s))
        return; /* it may have ended over there already */
    session_free_if_idle(s);
}

/* -- requests ------------------------------------------------------------------------------ */

static void session_run(struct request *req)
{
    req->method->fn(req);
}

/* Is the method for volumes of that kind? */
static bool session_kind_fits(struct request *req, const struct volume *v)
{
    const struct method *m = req->method;
    if (m->kind == METHOD_OF_HOSTED && v->record.kind != VOLUME_HOSTED)
        request_failf(req, SNAP_ENOTSUP,
                      "volume %s is remote: its origin is on its writer's host, %s is for hosted "
                      "ones",
                      v->record.name, m->name);
    else if (m->kind == METHOD_OF_REMOTE && v->record.kind != VOLUME_REMOTE)
        request_failf(req, SNAP_ENOTSUP,
                      "volume %s is hosted: %s is for remote ones; write it with write, return it "
                      "with rollback",
                      v->record.name, m->name);
    else
        return true;
    return false;
}

/* The volume, and what it makes there by its name, or else the snapshot that it is about. */
static void session_name_target(struct request *req, struct volume *v)
{
    const ProtobufCFieldDescriptor *made =
        protobuf_c_message_descriptor_get_field_by_name(req->method->in, "name");
    const ProtobufCFieldDescriptor *of =
        protobuf_c_message_descriptor_get_field_by_name(req->method->in, "snapshot");
    const uint8_t *in = (const void *)req->in;
    const char *name = NULL;
    struct uuid id;
    if (made != NULL && made->type == PROTOBUF_C_TYPE_STRING) {
        name = *(char *const *)(const void *)(in + made->offset);
    } else if (of != NULL && of->type == PROTOBUF_C_TYPE_BYTES) {
        const ProtobufCBinaryData *b = (const void *)(in + of->offset);
        if (b->len == UUID_BYTES) {
            memcpy(id.b, b->data, UUID_BYTES);
            const struct record_snapshot *rs = volume_record_find(&v->record, &id);
            name = rs != NULL ? rs->name : NULL;
        }
    }
    request_set_target(req, "%s%s%s", v->record.name, name != NULL ? "@" : "",
                       name != NULL ? name : "");
}

/* On the volume's shard: is it there, and may the asker? */
static void session_run_at_volume(struct request *req)
{
    const struct method *m = req->method;
    struct volume *v = volume_set_find(&req->at->set, &req->volume_id);
    char text[UUID_TEXT_BYTES];
    if (v == NULL) {
        request_failf(req, SNAP_ENOENT, "no volume %s", uuid_format(&req->volume_id, text));
        return;
    }
    if (!m->right_free && !request_allows(req, &req->volume_id, m->right)) {
        bool sees = request_allows(req, &req->volume_id, ACL_RIGHT_SEE);
        request_failf(req, SNAP_EPERM, "%s may not do %s on volume %s; that takes the role %s",
                      req->session->peer.identity, m->name,
                      sees ? v->record.name : uuid_format(&req->volume_id, text),
                      request_right_roles(m->right));
        return;
    }
    if (v->opening) {
        request_failf(req, SNAP_EBUSY, "volume %s is being opened", v->record.name);
        return;
    }
    if (m->mutates)
        session_name_target(req, v);
    if (!session_kind_fits(req, v))
        return;
    req->volume = v;
    m->fn(req);
}

/* True: the connection has been ended. */
static bool session_check_revoked(struct session *s)
{
    struct err err = ERR_INIT;
    if (s->chan == NULL || s->peer.local || !chan_revoked(s->chan, s->home->tls))
        return false;
    (void)err_set(&err, SNAP_EAUTH, "the certificate has been revoked");
    chan_abort(s->chan, &err);
    return true;
}

static void session_attached(struct request *req)
{
    struct session *s = req->session;
    struct err err = ERR_INIT;
    s->home = req->at;
    TAILQ_INSERT_TAIL(&s->home->sessions, s, link);
    if (chan_attach(s->chan, s->home->shard->loop, s->home->shard->pool, &err) < 0) {
        chan_abort(s->chan, &err);
        request_fail(req, err.code, &err);
        return;
    }
    /* this part may have got its list while s was on its way */
    if (session_check_revoked(s))
        request_failf(req, SNAP_EAUTH, "the certificate has been revoked");
    else
        session_run_at_volume(req);
}

static void session_arrived(struct loop_msg *msg)
{
    struct session *s = CONTAINER_OF(msg, struct session, msg);
    struct err err = ERR_INIT;
    atomic_fetch_sub_explicit(&s->home->under_way, 1, memory_order_relaxed);
    s->home = s->follows;
    s->follows = NULL;
    TAILQ_INSERT_TAIL(&s->home->sessions, s, link);
    if (chan_attach(s->chan, s->home->shard->loop, s->home->shard->pool, &err) < 0)
        chan_abort(s->chan, &err); /* goes down inside the call: s is still held */
    else
        (void)session_check_revoked(s); /* this part may have got its list meanwhile */
    s->outstanding--;
    session_free_if_idle(s);
}

/* It has been held still until nothing was under way, see session_follow().
 * True: s belongs to another thread now. */
static bool session_go(struct session *s)
{
    struct part *to = s->follows;
    if (s->chan == NULL || s->moved || s->home->draining || chan_detach(s->chan, NULL) < 0) {
        s->follows = NULL;
        if (s->chan != NULL)
            chan_pause(s->chan, false);
        return false;
    }
    chan_pause(s->chan, false);
    TAILQ_REMOVE(&s->home->sessions, s, link);
    s->outstanding++; /* it may not end on its way */
    atomic_fetch_add_explicit(&s->home->under_way, 1, memory_order_relaxed);
    s->msg.fn = session_arrived;
    shard_post(to->shard, &s->msg);
    return true;
}

/* A connection that reads and writes goes to where its volume is, so that its data crosses no
 * thread; once, and once more for a lease: the volumes of its leases look for it where it is then.
 * A write's payload belongs to this thread: it crosses, and what comes behind it waits until it
 * is answered, so that a burst of writes does not keep its connection where it began.
 * True: s belongs to another thread now. */
static bool session_follow(struct session *s, struct request *req, struct part *to)
{
    bool acquire = req->method->number == SNAPWIRE__V1__METHOD__METHOD_LEASE_ACQUIRE;
    if (s->moved || !(acquire || (req->method->follows && !s->settled)))
        return false;
    s->moved = acquire;
    if (to == s->home || s->outstanding != 1 || chan_detach(s->chan, NULL) < 0) {
        s->settled = s->settled || to == s->home;
        if (!acquire && to != s->home && s->outstanding == 1) {
            s->settled = true;
            s->follows = to;
            chan_pause(s->chan, true);
        }
        return false;
    }
    s->settled = true;
    TAILQ_REMOVE(&s->home->sessions, s, link);
    request_go(req, to, session_attached);
    return true;
}

static void session_dispatch(struct session *s, struct request *req)
{
    const struct method *m = req->method;
    if (s->home->draining) {
        request_failf(req, SNAP_ESHUTDOWN, "the daemon is stopping");
        return;
    }
    if (m->at == RUN_HOME) {
        if (!m->right_free && !request_allows(req, NULL, m->right))
            request_failf(req, SNAP_EPERM,
                          "%s may not do %s; that takes the role %s on all volumes",
                          s->peer.identity, m->name, request_right_roles(m->right));
        else
            session_run(req);
        return;
    }
    const ProtobufCBinaryData *b =
        (const void *)((const uint8_t *)(const void *)req->in + m->volume_offset);
    if (!request_uuid(req, b, "volume", &req->volume_id))
        return;
    struct part *to = server_part_of(s->server, &req->volume_id);
    if (session_follow(s, req, to))
        return;
    request_go(req, to, session_run_at_volume);
}

static int session_decode(struct request *req, struct err *reterr)
{
    const struct frame_header *h = &req->frame->header;
    const struct session *s = req->session;
    if (s->outstanding >
        atomic_load_explicit(&s->server->limits.requests_per_connection, memory_order_relaxed))
        return err_set(reterr, SNAP_ELIMIT, "%u requests are under way on this connection",
                       s->outstanding - 1);
    req->method = method_find(h->method);
    if (req->method == NULL)
        return err_set(reterr, SNAP_ENOTSUP, "method %u is not known", h->method);
    if (h->payload_bytes > 0 && !req->method->payload)
        return err_set(reterr, SNAP_EPROTO, "%s takes no payload", req->method->name);
    int rc = unpack_message(req->method->in, req->frame->control, h->control_bytes, &req->in);
    if (rc == SNAP_ENOMEM)
        return err_set(reterr, rc, "no memory for the request");
    if (rc < 0)
        return err_set(reterr, rc, "the control message of %s cannot be read", req->method->name);
    return 0;
}

static void session_frame(struct chan *c, void *user, struct chan_frame *f)
{
    struct session *s = user;
    if (f->header.kind != FRAME_REQUEST) {
        struct err err = ERR_INIT;
        (void)err_set(&err, SNAP_EPROTO, "a frame of kind %u from a client", f->header.kind);
        chan_frame_done(f);
        chan_abort(c, &err);
        return;
    }
    struct request *req = calloc(1, sizeof *req);
    if (req == NULL) {
        struct err err = ERR_INIT;
        (void)err_set(&err, SNAP_ENOMEM, "no memory for a request");
        chan_frame_done(f);
        chan_abort(c, &err);
        return;
    }
    req->session = s;
    req->at = s->home;
    req->frame = f;
    req->started_ns = clock_now_ns(s->server->env.clock);
    s->outstanding++;
    atomic_fetch_add_explicit(&s->home->under_way, 1, memory_order_relaxed);
    metrics_add(&s->home->metrics.payload_in_bytes, f->header.payload_bytes);
    int rc = session_decode(req, &req->err);
    if (rc < 0)
        request_fail(req, rc, &req->err);
    else
        session_dispatch(s, req);
}

/* -- events --------------------------------------------------------------------------------- */

struct session_event {
    struct loop_msg msg;
    struct part *part;
    uint64_t session;
    enum volume_event event;
    struct uuid volume, head;
    uint64_t epoch;
};

static void session_event_run(struct loop_msg *msg)
{
    struct session_event *e = CONTAINER_OF(msg, struct session_event, msg);
    struct session *s;
    TAILQ_FOREACH (s, &e->part->sessions, link)
        if (s->id == e->session && s->chan != NULL)
            break;
    if (s != NULL) {
        Snapwire__V1__LeaseRef ref = SNAPWIRE__V1__LEASE_REF__INIT;
        ref.volume = (ProtobufCBinaryData){.data = e->volume.b, .len = UUID_BYTES};
        ref.epoch = e->epoch;
        if (!uuid_is_zero(&e->head))
            ref.head = (ProtobufCBinaryData){.data = e->head.b, .len = UUID_BYTES};
        uint8_t packed[128];
        struct chan_out out = {.kind = FRAME_EVENT,
                               .method = e->event == VOLUME_EVENT_QUIESCE
                                             ? SNAPWIRE__V1__METHOD__METHOD_EVENT_QUIESCE
                                             : SNAPWIRE__V1__METHOD__METHOD_EVENT_LEASE_LOST,
                               .control = packed,
                               .control_bytes =
                                   (uint32_t)protobuf_c_message_pack(&ref.base, packed)};
        struct err err = ERR_INIT;
        if (e->event == VOLUME_EVENT_LEASE_LOST)
            metrics_add(&e->part->metrics.leases_lost, 1);
        if (chan_send(s->chan, &out, &err) < 0)
            chan_abort(s->chan, &err);
    }
    free(e);
}

/* A writer that was not told of an event hears of what it is about when it is back. */
void session_events_lost(struct loop_msg *msg)
{
    struct part *part = CONTAINER_OF(msg, struct part, events_lost);
    struct session *s, *next;
    struct err err = ERR_INIT;
    (void)err_set(&err, SNAP_ENOMEM, "no memory to tell of an event");
    atomic_store(&part->events_lost_posted, false);
    for (s = TAILQ_FIRST(&part->sessions); s != NULL; s = next) {
        next = TAILQ_NEXT(s, link);
        if (s->chan != NULL && !LIST_EMPTY(&s->leases))
            chan_abort(s->chan, &err);
    }
}

/* Where there is no memory for an event, all writers of the part lose their connection. */
void session_tell(struct volume *v, const struct volume_holder *h, enum volume_event event)
{
    struct part *here = CONTAINER_OF(v->set, struct part, set);
    struct part *home = &here->server->parts[h->shard];
    struct session_event *e = calloc(1, sizeof *e);
    if (e == NULL) {
        if (!atomic_exchange(&home->events_lost_posted, true))
            shard_post(home->shard, &home->events_lost);
        return;
    }
    const struct snapshot *head = volume_head(v);
    *e = (struct session_event){.msg = {.fn = session_event_run},
                                .part = home,
                                .session = h->session,
                                .event = event,
                                .volume = v->record.id,
                                .epoch = h->epoch};
    if (head != NULL)
        e->head = head->id;
    shard_post(e->part->shard, &e->msg);
}

/* -- the beginning ------------------------------------------------------------------------------
 */

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

/* -- all of a part
 * ---------------------------------------------------------------------------------- */

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
