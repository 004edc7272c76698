/* SPDX-License-Identifier: Apache-2.0 */
/* Reading: a snapshot's content and the list of what it holds.
 *
 * The content goes from the disk's buffer to TLS as it is; the buffer returns to the
 * volume's shard when the channel has released it. A read that finds no buffer waits for
 * one, so that many readers share what there is; one of a COW device that is being opened again
 * waits for that. Thread: the volume's shard.
 */
#include "daemon/service/server.h"

#include "daemon/volume/read.h"

#include <stdlib.h>
#include <string.h>

enum { READ_RETRY_MS = 2, READ_REOPEN_MS = 50, READ_WAIT_MS_MAX = 20000 };

struct read_request {
    struct volume_read read;
    struct loop_timer timer;
    bool timer_ready;
    unsigned waited_ms;
};

static void read_begin(struct request *req);

static void read_again(void *user)
{
    struct request *req = user;
    struct volume *v = volume_set_find(&req->at->set, &req->volume_id);
    struct read_request *r = req->op;
    req->volume = v;
    if (v != NULL) {
        read_begin(req);
        return;
    }
    loop_timer_done(&r->timer);
    if (req->at->draining)
        request_failf(req, SNAP_ESHUTDOWN, "the daemon is stopping");
    else
        request_failf(req, SNAP_ENOENT, "the volume has been deleted");
}

/* True: the read is tried again later. */
static bool read_wait(struct request *req, unsigned ms)
{
    struct read_request *r = req->op;
    r->waited_ms += ms;
    if (r->waited_ms > READ_WAIT_MS_MAX)
        return false;
    if (!r->timer_ready &&
        loop_timer_init(req->at->shard->loop, &r->timer, read_again, req, NULL) < 0)
        return false;
    r->timer_ready = true;
    loop_timer_set(&r->timer, ms);
    return true;
}

static void read_done(struct volume_read *vr, int code, const struct err *err)
{
    struct request *req = vr->user;
    struct read_request *r = req->op;
    bool reopens = code == SNAP_EPOISONED;
    if ((code == SNAP_ELIMIT && vr->len_bytes > 0) || reopens) {
        volume_read_done(vr);
        if (read_wait(req, reopens ? READ_REOPEN_MS : READ_RETRY_MS))
            return;
    }
    if (r->timer_ready)
        loop_timer_done(&r->timer);
    Snapwire__V1__ReadResponse out = SNAPWIRE__V1__READ_RESPONSE__INIT;
    bool filled = code == 0 && service_fill_extents(req, vr->extents, vr->extent_count,
                                                    &out.extents, &out.n_extents);
    req->buf = vr->buf;
    req->buf_part = req->at;
    req->iov = vr->iov;
    req->iov_count = vr->iov_count;
    vr->iov = NULL; /* the answer's now */
    volume_read_done(vr);
    if (code < 0) {
        request_fail(req, code, err);
    } else if (!filled) {
        request_no_memory(req);
    } else {
        if (req->volume->record.kind == VOLUME_HOSTED) {
            metrics_add(&req->at->metrics.hosted_reads, 1);
            metrics_add(&req->at->metrics.hosted_read_bytes, vr->len_bytes);
        }
        request_reply(req, &out.base);
    }
}

static void read_begin(struct request *req)
{
    const Snapwire__V1__ReadRequest *in = REQUEST_IN(req, Snapwire__V1__ReadRequest);
    struct read_request *r = req->op;
    struct uuid snapshot = r->read.snapshot;
    r->read = (struct volume_read){.snapshot = snapshot,
                                   .offset_bytes = in->offset_bytes,
                                   .len_bytes = in->len_bytes,
                                   .done = read_done,
                                   .user = req};
    volume_read_start(req->volume, &r->read);
}

void service_snapshot_read(struct request *req)
{
    const Snapwire__V1__ReadRequest *in = REQUEST_IN(req, Snapwire__V1__ReadRequest);
    struct read_request *r = request_alloc(req, sizeof *r);
    if (r == NULL) {
        request_no_memory(req);
        return;
    }
    req->op = r;
    bool hosted = req->volume->record.kind == VOLUME_HOSTED;
    if ((in->snapshot.len > 0 || !hosted) &&
        !request_uuid(req, &in->snapshot, "snapshot", &r->read.snapshot))
        return;
    if (in->len_bytes > req->session->peer.payload_bytes_max) {
        request_failf(req, SNAP_EINVAL, "a read of %u bytes: the asker takes %u in one frame",
                      in->len_bytes, req->session->peer.payload_bytes_max);
        return;
    }
    read_begin(req);
}

/* -- runs ------------------------------------------------------------------------------ */

void service_run_list(struct request *req)
{
    const Snapwire__V1__RunListRequest *in = REQUEST_IN(req, Snapwire__V1__RunListRequest);
    struct uuid id;
    if (!request_uuid(req, &in->snapshot, "snapshot", &id))
        return;
    struct volume *v = req->volume;
    struct snapshot *s;
    struct err err = ERR_INIT;
    int rc = volume_snapshot_visible(v, &id, &s, &err);
    if (rc < 0) {
        request_fail(req, rc, &err);
        return;
    }
    uint32_t max =
        in->runs_max == 0 || in->runs_max > LIMIT_PAGE_RUNS ? LIMIT_PAGE_RUNS : in->runs_max;
    struct volume_runs runs = {
        .own = in->own != 0, .start_chunk = in->start_chunk, .runs_max = max};
    uint64_t *arrays = request_alloc(req, 3 * (size_t)max * sizeof *arrays);
    if (arrays == NULL) {
        request_no_memory(req);
        return;
    }
    runs.old_chunk = arrays;
    runs.count = arrays + max;
    runs.new_chunk = arrays + 2 * (size_t)max;
    rc = volume_list_runs(v, s, &runs, &err);
    if (rc < 0) {
        request_fail(req, rc, &err);
        return;
    }
    Snapwire__V1__RunListResponse out = SNAPWIRE__V1__RUN_LIST_RESPONSE__INIT;
    out.old_chunk = runs.old_chunk;
    out.n_old_chunk = runs.n;
    out.count = runs.count;
    out.n_count = runs.n;
    out.new_chunk = runs.new_chunk;
    out.n_new_chunk = runs.own ? runs.n : 0;
    out.more = runs.more;
    out.next_chunk = runs.next_chunk;
    out.chunk_size_sectors = v->chunk_sectors;
    request_reply(req, &out.base);
}
