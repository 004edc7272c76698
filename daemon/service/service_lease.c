/* SPDX-License-Identifier: Apache-2.0 */
/* The writer's requests: acquire, renew, release, and standing still for a new head.
 * Thread: the volume's shard; the list of a session's leases is its home's.
 */
#include "daemon/service/server.h"

#include "daemon/volume/change.h"

#include <string.h>

static void lease_reply(struct request *req)
{
    struct volume *v = req->volume;
    const struct snapshot *head = volume_head(v);
    Snapwire__V1__Lease out = SNAPWIRE__V1__LEASE__INIT;
    out.volume = (ProtobufCBinaryData){.data = req->volume_id.b, .len = UUID_BYTES};
    out.epoch = v->lease.epoch;
    out.ttl_ms = (uint32_t)(v->lease.ttl_ns / 1000000);
    out.size_bytes = v->record.size_bytes;
    out.chunk_size_sectors = v->chunk_sectors;
    struct uuid id;
    if (head != NULL) {
        id = head->id;
        out.head = (ProtobufCBinaryData){.data = id.b, .len = UUID_BYTES};
        out.head_name = snapshot_record(head)->name;
        out.head_seq = snapshot_record(head)->seq;
    }
    request_reply(req, &out.base);
}

/* The request, on its way home with the answer, leaves word that the session has a lease. */
static void lease_note(struct request *req)
{
    session_take_lease(req->session, session_lease_new(&req->volume_id));
    session_answer(req);
}

static void lease_granted(void *user, int code, const struct err *err)
{
    struct request *req = user;
    if (code < 0) {
        request_fail(req, code, err);
        return;
    }
    req->answer = lease_note;
    lease_reply(req);
}

void service_lease_acquire(struct request *req)
{
    const Snapwire__V1__LeaseAcquire *in = REQUEST_IN(req, Snapwire__V1__LeaseAcquire);
    struct session *s = req->session;
    struct volume_lease_request r = {
        .ask = {.identity = s->peer.identity, .epoch = in->epoch, .steal = in->steal != 0},
        .origin_size_bytes = in->origin_size_bytes,
        .fingerprint = in->origin_fingerprint.data,
        .fingerprint_bytes = FINGERPRINT_BYTES_MAX + 1,
        .new_origin = in->new_origin != 0,
        .goes_on = in->goes_on != 0,
        .broken = in->broken != 0,
        .late = in->outlasted_case == SNAPWIRE__V1__LEASE_ACQUIRE__OUTLASTED_LATE_AFTER_SEQ,
        .late_after_seq = in->late_after_seq,
        .holder = {.tell = session_tell, .session = s->id, .shard = s->home->index},
    };
    if (in->origin_fingerprint.len <= FINGERPRINT_BYTES_MAX)
        r.fingerprint_bytes = (uint32_t)in->origin_fingerprint.len;
    if (!request_uuid(req, &in->instance, "instance", &r.ask.instance))
        return;
    if (r.ask.steal && !request_allows(req, &req->volume_id, ACL_RIGHT_ADMIN)) {
        request_failf(req, SNAP_EPERM,
                      "%s may not fence the writer of volume %s; that takes the role admin",
                      s->peer.identity, req->volume->record.name);
        return;
    }
    volume_lease_acquire(req->volume, &r, lease_granted, req);
}

void service_lease_renew(struct request *req)
{
    const Snapwire__V1__LeaseRef *in = REQUEST_IN(req, Snapwire__V1__LeaseRef);
    struct volume *v = req->volume;
    struct err err = ERR_INIT;
    int rc = lease_check(&v->lease, req->session->peer.identity, in->epoch, volume_now_ns(v), &err);
    if (rc < 0)
        request_fail(req, rc, &err);
    else
        lease_reply(req);
}

static void lease_released(void *user, int code, const struct err *err)
{
    struct request *req = user;
    if (code < 0)
        request_fail(req, code, err);
    else
        request_reply_empty(req);
}

void service_lease_release(struct request *req)
{
    const Snapwire__V1__LeaseRef *in = REQUEST_IN(req, Snapwire__V1__LeaseRef);
    volume_lease_release(req->volume, req->session->peer.identity, in->epoch, lease_released, req);
}

static void lease_head_is_new(void *user, int code, const struct err *err)
{
    struct request *req = user;
    if (code < 0)
        request_fail(req, code, err);
    else
        lease_reply(req);
}

void service_head_ready(struct request *req)
{
    const Snapwire__V1__LeaseRef *in = REQUEST_IN(req, Snapwire__V1__LeaseRef);
    volume_head_ready(req->volume, req->session->peer.identity, in->epoch, req->session->id,
                      lease_head_is_new, req);
}
