/* SPDX-License-Identifier: Apache-2.0 */
/* Writing hosted volumes and clones, and where their data stands.
 *
 * A write's payload goes from the frame's buffer to the disk as it is. The frame, and its credit
 * with it, is given back when the answer is known: a volume whose disk is slow holds its own
 * writers' credit and nobody else's. One allocation a request beside the request's own.
 *
 * A client whose connection broke sends again on another one what it had no answer for. What is
 * left of the older connection may still be on its way: a write of it that came after a newer
 * write of the newer connection would undo that. So each part remembers, for each client's
 * instance, the newest connection that it has seen a write of, and refuses those of older ones.
 * What an older one has begun is in front in the volume's own queues.
 *
 * Who writes `alone` claims the volume with it, until its connection ends: daemon/volume/claim.h.
 *
 * Thread: the volume's shard.
 */
#include "daemon/service/server.h"

#include "common/base/bytes.h"
#include "daemon/volume/claim.h"
#include "daemon/volume/read.h"
#include "daemon/volume/write.h"

#include <stdlib.h>
#include <string.h>

/* `snapshot` of a request: empty is the volume itself. */
static bool io_node(struct request *req, const ProtobufCBinaryData *b, struct uuid *ret)
{
    memset(ret, 0, sizeof *ret);
    return b->len == 0 || request_uuid(req, b, "snapshot", ret);
}

static bool io_is_of_older_connection(struct request *req)
{
    const struct session *s = req->session;
    const struct uuid *instance = &s->peer.instance;
    if (uuid_is_zero(instance))
        return false;
    struct part_writer *set = req->at->writers[uuid_hash(instance) % PART_WRITER_SETS];
    unsigned i = 0;
    while (i < PART_WRITER_WAYS - 1 && !uuid_equal(&set[i].instance, instance))
        i++;
    if (uuid_equal(&set[i].instance, instance) && set[i].session > s->id)
        return true;
    memmove(&set[1], &set[0], i * sizeof *set);
    set[0] = (struct part_writer){.instance = *instance, .session = s->id};
    return false;
}

static void io_done(struct volume_write *w, int code, const struct err *err)
{
    struct request *req = w->user;
    struct metrics *m = &req->at->metrics;
    req->loss = w->loss;
    if (code < 0) {
        request_fail(req, code, err);
        return;
    }
    if (w->op == VOLUME_WRITE) {
        metrics_add(&m->hosted_writes, 1);
        metrics_add(&m->hosted_write_bytes, w->len_bytes);
    } else if (w->op == VOLUME_FLUSH) {
        metrics_add(&m->hosted_flushes, 1);
    } else {
        metrics_add(&m->hosted_zeroes, 1);
    }
    request_reply_empty(req);
}

static struct volume_write *io_new(struct request *req, enum volume_write_op op,
                                   const ProtobufCBinaryData *snapshot)
{
    struct uuid node;
    if (!io_node(req, snapshot, &node))
        return NULL;
    if (io_is_of_older_connection(req)) {
        request_failf(req, SNAP_ESTALE, "the client has come back on a newer connection");
        return NULL;
    }
    struct volume_write *w = request_alloc(req, sizeof *w);
    if (w == NULL) {
        request_no_memory(req);
        return NULL;
    }
    w->node = node;
    w->client = req->session->peer.instance;
    w->op = op;
    w->done = io_done;
    w->user = req;
    return w;
}

/* The request, on its way home with the answer, leaves word that the session has a claim: it may
 * have ended meanwhile. */
static void io_note_claim(struct request *req)
{
    session_take_lease(req->session, req->op);
    session_answer(req);
}

/* False: the request has been answered. */
static bool io_claim(struct request *req, const struct uuid *node)
{
    const struct session *s = req->session;
    const struct claim_ask ask = {.node = *node,
                                  .instance = s->peer.instance,
                                  .session = s->id,
                                  .identity = s->peer.identity,
                                  .address = s->peer.address};
    struct err err = ERR_INIT;
    if (claim_is_held(req->volume, &ask))
        return true;
    struct session_lease *note = session_lease_new(&req->volume_id);
    if (note == NULL) {
        request_no_memory(req);
        return false;
    }
    int rc = claim_take(req->volume, &ask, &err);
    if (rc < 0) {
        free(note);
        request_fail(req, rc, &err);
        return false;
    }
    req->op = note;
    req->answer = io_note_claim;
    return true;
}

void service_write(struct request *req)
{
    const Snapwire__V1__WriteRequest *in = REQUEST_IN(req, Snapwire__V1__WriteRequest);
    const struct buf *payload = req->frame->payload;
    if (payload == NULL || payload->len_bytes == 0) {
        request_failf(req, SNAP_EINVAL, "a write without content");
        return;
    }
    struct volume_write *w = io_new(req, VOLUME_WRITE, &in->snapshot);
    if (w == NULL || (in->alone != 0 && !io_claim(req, &w->node)))
        return;
    w->fua = in->fua != 0;
    w->offset_bytes = in->offset_bytes;
    w->len_bytes = payload->len_bytes;
    w->data = payload->data;
    if (req->session->home == req->at && req->session->chan != NULL &&
        volume_write_crowd(req->volume))
        chan_rest(req->session->chan);
    volume_write_start(req->volume, w);
}

void service_zero(struct request *req)
{
    const Snapwire__V1__ZeroRequest *in = REQUEST_IN(req, Snapwire__V1__ZeroRequest);
    if (in->len_bytes == 0 || in->len_bytes > VOLUME_ZERO_BYTES_MAX) {
        request_failf(req, SNAP_EINVAL, "zeroing %llu bytes; 1 to %llu are possible",
                      (unsigned long long)in->len_bytes, (unsigned long long)VOLUME_ZERO_BYTES_MAX);
        return;
    }
    struct volume_write *w =
        io_new(req, in->discard != 0 ? VOLUME_DISCARD : VOLUME_ZERO, &in->snapshot);
    if (w == NULL || (in->alone != 0 && !io_claim(req, &w->node)))
        return;
    w->fua = in->fua != 0;
    w->offset_bytes = in->offset_bytes;
    w->len_bytes = in->len_bytes;
    volume_write_start(req->volume, w);
}

void service_flush(struct request *req)
{
    const Snapwire__V1__FlushRequest *in = REQUEST_IN(req, Snapwire__V1__FlushRequest);
    struct volume_write *w = io_new(req, VOLUME_FLUSH, &in->snapshot);
    if (w == NULL)
        return;
    w->says_heard = in->says_case == SNAPWIRE__V1__FLUSH_REQUEST__SAYS_HEARD;
    w->heard = in->heard;
    volume_write_start(req->volume, w);
}

/* -- extents ---------------------------------------------------------------------------- */

enum { EXTENTS_MAX = 4096 }; /* in one answer */

static Snapwire__V1__ExtentKind extent_kind(enum volume_extent_kind kind)
{
    switch (kind) {
    case VOLUME_EXTENT_DATA:
        return SNAPWIRE__V1__EXTENT_KIND__EXTENT_KIND_DATA;
    case VOLUME_EXTENT_ORIGIN:
        return SNAPWIRE__V1__EXTENT_KIND__EXTENT_KIND_ORIGIN;
    case VOLUME_EXTENT_ZERO:
        break;
    }
    return SNAPWIRE__V1__EXTENT_KIND__EXTENT_KIND_ZERO;
}

bool service_fill_extents(struct request *req, const struct volume_extent *extents, uint32_t count,
                          Snapwire__V1__Extent ***ret, size_t *ret_count)
{
    Snapwire__V1__Extent *all = request_alloc(req, (count + 1) * sizeof *all);
    *ret = request_alloc(req, (count + 1) * sizeof(Snapwire__V1__Extent *));
    if (all == NULL || *ret == NULL)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        snapwire__v1__extent__init(&all[i]);
        all[i].offset_bytes = extents[i].offset_bytes;
        all[i].len_bytes = extents[i].len_bytes;
        all[i].kind = extent_kind(extents[i].kind);
        (*ret)[i] = &all[i];
    }
    *ret_count = count;
    return true;
}

void service_extent_list(struct request *req)
{
    const Snapwire__V1__ExtentListRequest *in = REQUEST_IN(req, Snapwire__V1__ExtentListRequest);
    Snapwire__V1__ExtentListResponse out = SNAPWIRE__V1__EXTENT_LIST_RESPONSE__INIT;
    struct err err = ERR_INIT;
    struct uuid node;
    uint32_t max = in->extents_max, count = 0;
    if (!io_node(req, &in->snapshot, &node))
        return;
    if (max == 0 || max > EXTENTS_MAX)
        max = EXTENTS_MAX;
    struct volume_extent *extents = request_alloc(req, max * sizeof *extents);
    if (extents == NULL) {
        request_no_memory(req);
        return;
    }
    int rc = volume_extents(req->volume, &node, in->offset_bytes, in->len_bytes, extents, max,
                            &count, &err);
    if (rc < 0)
        request_fail(req, rc, &err);
    else if (!service_fill_extents(req, extents, count, &out.extents, &out.n_extents))
        request_no_memory(req);
    else
        request_reply(req, &out.base);
}
