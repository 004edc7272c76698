/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of a merge. Thread: the volume's shard. */
#include "daemon/service/server.h"

#include "daemon/volume/change.h"

#include <string.h>

/* Volume, snapshot and epoch stand in three kinds of message. */
static struct volume_merge *merge_new(struct request *req, const ProtobufCBinaryData *snapshot,
                                      uint64_t epoch,
                                      void (*done)(struct volume_merge *, int, const struct err *))
{
    struct volume_merge *m = request_alloc(req, sizeof *m);
    if (m == NULL) {
        request_no_memory(req);
        return NULL;
    }
    m->identity = req->session->peer.identity;
    m->epoch = epoch;
    m->done = done;
    m->user = req;
    return request_uuid(req, snapshot, "snapshot", &m->snapshot) ? m : NULL;
}

static void merge_begun(struct volume_merge *m, int code, const struct err *err)
{
    struct request *req = m->user;
    if (code < 0) {
        request_fail(req, code, err);
        return;
    }
    Snapwire__V1__MergeState out = SNAPWIRE__V1__MERGE_STATE__INIT;
    out.mode = m->table_mode ? SNAPWIRE__V1__MERGE_MODE__MERGE_MODE_TABLE
                             : SNAPWIRE__V1__MERGE_MODE__MERGE_MODE_VIEW;
    out.table_len = m->table_len;
    if (!uuid_is_zero(&m->head))
        out.head = (ProtobufCBinaryData){.data = m->head.b, .len = UUID_BYTES};
    request_reply(req, &out.base);
}

void service_merge_begin(struct request *req)
{
    const Snapwire__V1__MergeBegin *in = REQUEST_IN(req, Snapwire__V1__MergeBegin);
    struct volume_merge *m = merge_new(req, &in->snapshot, in->epoch, merge_begun);
    if (m != NULL)
        volume_merge_begin(req->volume, m);
}

static void merge_prepared(struct volume_merge *m, int code, const struct err *err)
{
    struct request *req = m->user;
    if (code < 0) {
        request_fail(req, code, err);
        return;
    }
    Snapwire__V1__MergeRun out = SNAPWIRE__V1__MERGE_RUN__INIT;
    out.old_chunk = m->run.old_chunk;
    out.new_chunk = m->run.new_chunk;
    out.count = m->run.count;
    out.table_len = m->run.table_len;
    out.commit_max = m->run.commit_max;
    request_reply(req, &out.base);
}

void service_merge_prepare(struct request *req)
{
    const Snapwire__V1__MergeRef *in = REQUEST_IN(req, Snapwire__V1__MergeRef);
    struct volume_merge *m = merge_new(req, &in->snapshot, in->epoch, merge_prepared);
    if (m != NULL)
        volume_merge_prepare(req->volume, m);
}

static void merge_done(struct volume_merge *m, int code, const struct err *err)
{
    struct request *req = m->user;
    if (code < 0)
        request_fail(req, code, err);
    else
        request_reply_empty(req);
}

void service_merge_commit(struct request *req)
{
    const Snapwire__V1__MergeCommit *in = REQUEST_IN(req, Snapwire__V1__MergeCommit);
    struct volume_merge *m = merge_new(req, &in->snapshot, in->epoch, merge_done);
    if (m == NULL)
        return;
    m->commit_table_len = in->table_len;
    m->commit_count = in->count;
    volume_merge_commit(req->volume, m);
}

void service_merge_end(struct request *req)
{
    const Snapwire__V1__MergeRef *in = REQUEST_IN(req, Snapwire__V1__MergeRef);
    struct volume_merge *m = merge_new(req, &in->snapshot, in->epoch, merge_done);
    if (m != NULL)
        volume_merge_end(req->volume, m);
}

void service_merge_abort(struct request *req)
{
    const Snapwire__V1__MergeRef *in = REQUEST_IN(req, Snapwire__V1__MergeRef);
    struct volume_merge *m = merge_new(req, &in->snapshot, in->epoch, merge_done);
    if (m != NULL)
        volume_merge_abort(req->volume, m);
}
