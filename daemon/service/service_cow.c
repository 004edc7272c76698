/* SPDX-License-Identifier: Apache-2.0 */
/* COW_PUT: the payload goes from the frame's buffer to the store as it is; the frame is
 * given back, and its credit with it, only when the answer is known. So a volume whose
 * disks are slow holds its own writers' credit and nobody else's.
 * Thread: the volume's shard.
 */
#include "daemon/service/server.h"

#include "daemon/volume/put.h"

#include <string.h>

static bool cow_put_fill(struct request *req, const struct volume_put *p,
                         Snapwire__V1__CowPutResponse *out)
{
    out->added = p->added;
    out->existed = p->existed;
    if (p->failed == 0)
        return true;
    out->failed_chunks = request_alloc(req, p->failed * sizeof *out->failed_chunks);
    out->failed_codes = request_alloc(req, p->failed * sizeof *out->failed_codes);
    out->failed_text = request_strdup(req, p->first_fail.text);
    if (out->failed_chunks == NULL || out->failed_codes == NULL || out->failed_text == NULL)
        return false;
    for (uint32_t i = 0; i < p->old_count + p->zero_count; i++) {
        if (p->outcomes[i] >= 0)
            continue;
        out->failed_chunks[out->n_failed_chunks++] =
            i < p->old_count ? p->old_chunks[i] : p->zero_chunks[i - p->old_count];
        out->failed_codes[out->n_failed_codes++] = (uint32_t)-p->outcomes[i];
    }
    return true;
}

static void cow_put_done(struct volume_put *p, int code, const struct err *err)
{
    struct request *req = p->user;
    Snapwire__V1__CowPutResponse out = SNAPWIRE__V1__COW_PUT_RESPONSE__INIT;
    bool filled = code == 0 && cow_put_fill(req, p, &out);
    volume_put_done(p);
    if (code < 0)
        request_fail(req, code, err);
    else if (!filled)
        request_no_memory(req);
    else
        request_reply(req, &out.base);
}

void service_cow_put(struct request *req)
{
    const Snapwire__V1__CowPut *in = REQUEST_IN(req, Snapwire__V1__CowPut);
    struct volume_put *p = request_alloc(req, sizeof *p);
    if (p == NULL) {
        request_no_memory(req);
        return;
    }
    if (!request_uuid(req, &in->head, "head", &p->head))
        return;
    if (in->n_old_chunks > LIMIT_BATCH_CHUNKS || in->n_zero_chunks > LIMIT_BATCH_CHUNKS) {
        request_failf(req, SNAP_ELIMIT, "more than %d chunks in one request", LIMIT_BATCH_CHUNKS);
        return;
    }
    struct buf *payload = req->frame->payload;
    p->identity = req->session->peer.identity;
    p->epoch = in->epoch;
    p->old_chunks = in->old_chunks;
    p->old_count = (uint32_t)in->n_old_chunks;
    p->payload = payload != NULL ? payload->data : NULL;
    p->payload_bytes = payload != NULL ? payload->len_bytes : 0;
    p->zero_chunks = in->zero_chunks;
    p->zero_count = (uint32_t)in->n_zero_chunks;
    p->done = cow_put_done;
    p->user = req;
    if (req->session->home == req->at && req->session->chan != NULL &&
        volume_put_crowd(req->volume, p->payload_bytes))
        chan_rest(req->session->chan);
    volume_put_start(req->volume, p);
}
