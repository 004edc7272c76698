/* SPDX-License-Identifier: Apache-2.0 */
/* DIFF: the chunks that changed between two states, a page at a time.
 * Thread: the volume's shard. */
#include "daemon/service/server.h"

#include "daemon/volume/diff.h"

void service_diff(struct request *req)
{
    const Snapwire__V1__DiffRequest *in = REQUEST_IN(req, Snapwire__V1__DiffRequest);
    struct volume_diff d = {.start_chunk = in->start_chunk, .runs_max = in->runs_max};
    struct err err = ERR_INIT;
    if (!request_uuid(req, &in->from, "from", &d.from) ||
        (in->to.len > 0 && !request_uuid(req, &in->to, "to", &d.to)))
        return;
    if (d.runs_max == 0 || d.runs_max > LIMIT_PAGE_RUNS)
        d.runs_max = LIMIT_PAGE_RUNS;
    d.old_chunk = request_alloc(req, 2 * (size_t)d.runs_max * sizeof *d.old_chunk);
    if (d.old_chunk == NULL) {
        request_no_memory(req);
        return;
    }
    d.count = d.old_chunk + d.runs_max;
    int rc = volume_diff(req->volume, &d, &err);
    if (rc < 0) {
        request_fail(req, rc, &err);
        return;
    }
    Snapwire__V1__RunListResponse out = SNAPWIRE__V1__RUN_LIST_RESPONSE__INIT;
    out.old_chunk = d.old_chunk;
    out.n_old_chunk = d.n;
    out.count = d.count;
    out.n_count = d.n;
    out.more = d.more;
    out.next_chunk = d.next_chunk;
    out.chunk_size_sectors = req->volume->chunk_sectors;
    request_reply(req, &out.base);
}
