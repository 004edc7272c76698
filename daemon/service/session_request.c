/* SPDX-License-Identifier: Apache-2.0 */
/* A connection's requests, from the frame to where they run.
 *
 *   frame ──> decoded ──┬─ RUN_HOME ────> right on all? ──────────────────────────────> method
 *                       └─ RUN_VOLUME ──> volume's shard: there? right? open? kind? ──> method
 *
 * Thread: the home part's; session_run_at_volume() is the volume's shard's.
 */
#include "daemon/service/session_priv.h"

#include "common/net/unpack.h"

#include <stdlib.h>
#include <string.h>

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
void session_run_at_volume(struct request *req)
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

void session_frame(struct chan *c, void *user, struct chan_frame *f)
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
