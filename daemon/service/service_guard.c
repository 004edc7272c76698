/* SPDX-License-Identifier: Apache-2.0 */
/* SNAPSHOT_ACCEPT: an unverified snapshot is taken as it is. Thread: the volume's shard. */
#include "daemon/service/server.h"

#include "daemon/volume/guard.h"

static void accepted(void *user, int code, const struct err *err)
{
    struct request *req = user;
    if (code < 0)
        request_fail(req, code, err);
    else
        request_reply_empty(req);
}

void service_snapshot_accept(struct request *req)
{
    const Snapwire__V1__AcceptRequest *in = REQUEST_IN(req, Snapwire__V1__AcceptRequest);
    struct uuid id;
    if (request_uuid(req, &in->snapshot, "snapshot", &id))
        guard_accept(req->volume, &id, in->force != 0, accepted, req);
}
