/* SPDX-License-Identifier: Apache-2.0 */
/* CLONE_CREATE: a writable snapshot. Thread: the volume's shard. */
#include "daemon/service/server.h"

#include "daemon/volume/change.h"

static void clone_created(void *user, int code, const struct err *err)
{
    struct request *req = user;
    const struct uuid *id = req->op;
    if (code < 0)
        request_fail(req, code, err);
    else
        service_reply_snapshot(req, id);
}

void service_clone_create(struct request *req)
{
    const Snapwire__V1__CloneCreate *in = REQUEST_IN(req, Snapwire__V1__CloneCreate);
    struct clone_spec spec = {.name = in->name, .limit_bytes = in->cow_limit_bytes};
    if (!request_uuid(req, &in->snapshot, "snapshot", &spec.source) ||
        !request_uuid(req, &in->clone, "clone", &spec.id))
        return;
    struct uuid *id = request_alloc(req, sizeof *id);
    if (id == NULL) {
        request_no_memory(req);
        return;
    }
    *id = spec.id;
    req->op = id;
    volume_clone_start(req->volume, &spec, clone_created, req);
}
