/* SPDX-License-Identifier: Apache-2.0 */
/* Requests on snapshots: create, show, delete, check. Thread: the volume's shard. */
#include "daemon/service/server.h"

#include "common/base/bytes.h"
#include "daemon/volume/change.h"
#include "daemon/volume/read.h"

#include <stdlib.h>
#include <string.h>

struct snapshot_request {
    struct uuid id;
    struct volume_check check;
};

static struct snapshot_request *snapshot_request_new(struct request *req,
                                                     const ProtobufCBinaryData *snapshot)
{
    struct snapshot_request *r = request_alloc(req, sizeof *r);
    if (r == NULL) {
        request_no_memory(req);
        return NULL;
    }
    req->op = r;
    return request_uuid(req, snapshot, "snapshot", &r->id) ? r : NULL;
}

void service_reply_snapshot(struct request *req, const struct uuid *id)
{
    Snapwire__V1__Snapshot out;
    struct snapshot *s;
    struct err err = ERR_INIT;
    int rc = volume_snapshot_visible(req->volume, id, &s, &err);
    if (rc < 0)
        request_fail(req, rc, &err);
    else if (!service_fill_snapshot(req, s, &out))
        request_no_memory(req);
    else
        request_reply(req, &out.base);
}

static void snapshot_reply(struct request *req)
{
    const struct snapshot_request *r = req->op;
    service_reply_snapshot(req, &r->id);
}

static void snapshot_created(void *user, int code, const struct err *err)
{
    struct request *req = user;
    if (code < 0)
        request_fail(req, code, err);
    else
        snapshot_reply(req);
}

static bool snapshot_is_inside(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* However the path is spelt, and through links. */
static bool snapshot_device_is_ours(const char *path, const char *state_dir)
{
    char *real = realpath(path, NULL), *dir = realpath(state_dir, NULL);
    bool ours = snapshot_is_inside(path, state_dir) ||
                (real != NULL && dir != NULL && snapshot_is_inside(real, dir));
    free(real);
    free(dir);
    return ours;
}

int service_check_device(const struct request *req, const char *path, const char *what,
                         struct err *reterr)
{
    if (!request_allows(req, &req->volume_id, ACL_RIGHT_ADMIN))
        return err_set(reterr, SNAP_EPERM,
                       "%s may not name %s of the daemon's host; that takes the role admin",
                       req->session->peer.identity, what);
    if (path[0] != '/' || strstr(path, "/../") != NULL)
        return err_set(reterr, SNAP_EINVAL,
                       "%s: not a place for %s; that takes the absolute path of a block device, or "
                       "of a file, on the daemon's host, without \"..\"",
                       path, what);
    if (snapshot_device_is_ours(path, req->session->server->env.state_dir))
        return err_set(reterr, SNAP_EINVAL,
                       "%s: not a place for %s: it is inside the daemon's state directory", path,
                       what);
    return 0;
}

static bool snapshot_device_allowed(struct request *req, const char *path)
{
    struct err err = ERR_INIT;
    int rc = service_check_device(req, path, "a COW device", &err);
    if (rc < 0)
        request_fail(req, rc, &err);
    return rc == 0;
}

void service_snapshot_create(struct request *req)
{
    const Snapwire__V1__SnapshotCreate *in = REQUEST_IN(req, Snapwire__V1__SnapshotCreate);
    struct snapshot_request *r = snapshot_request_new(req, &in->snapshot);
    if (r == NULL)
        return;
    bool device = in->cow_device[0] != '\0';
    if (device && !snapshot_device_allowed(req, in->cow_device))
        return;
    struct snapshot_spec spec = {.id = r->id,
                                 .name = in->name,
                                 .chunk_sectors = in->chunk_size_sectors,
                                 .limit_bytes = in->cow_limit_bytes,
                                 .cow_device = device ? in->cow_device : NULL,
                                 .take_over = in->take_over != 0};
    snapshot_create_start(req->volume, &spec, snapshot_created, req);
}

void service_snapshot_show(struct request *req)
{
    const Snapwire__V1__SnapshotRef *in = REQUEST_IN(req, Snapwire__V1__SnapshotRef);
    if (snapshot_request_new(req, &in->snapshot) != NULL)
        snapshot_reply(req);
}

static void snapshot_deleted(void *user, int code, const struct err *err)
{
    struct request *req = user;
    if (code < 0)
        request_fail(req, code, err);
    else
        request_reply_empty(req);
}

void service_snapshot_delete(struct request *req)
{
    const Snapwire__V1__DeleteRequest *in = REQUEST_IN(req, Snapwire__V1__DeleteRequest);
    struct snapshot_delete_spec spec = {.force = in->force != 0};
    if (request_uuid(req, &in->snapshot, "snapshot", &spec.id) &&
        request_uuid(req, &in->key, "key", &spec.key))
        snapshot_delete(req->volume, &spec, snapshot_deleted, req);
}

/* -- check --------------------------------------------------------------------------- */

static bool snapshot_check_fill(struct request *req, const struct volume_check *c,
                                Snapwire__V1__CheckResponse *out)
{
    out->sound = c->sound;
    out->faults_total = c->faults_total;
    out->exceptions = c->exceptions;
    Snapwire__V1__Fault *all = request_alloc(req, (c->fault_count + 1) * sizeof *all);
    out->faults = request_alloc(req, (c->fault_count + 1) * sizeof(Snapwire__V1__Fault *));
    if (all == NULL || out->faults == NULL)
        return false;
    for (uint32_t i = 0; i < c->fault_count; i++) {
        const struct cow_fault *f = &c->faults[i];
        snapwire__v1__fault__init(&all[i]);
        all[i].area = f->area_no;
        all[i].index = f->index;
        all[i].old_chunk = f->exception.old_chunk;
        all[i].new_chunk = f->exception.new_chunk;
        all[i].text = request_strdup(req, f->text);
        if (all[i].text == NULL)
            return false;
        out->faults[out->n_faults++] = &all[i];
    }
    return true;
}

static void snapshot_checked(struct volume_check *c, int code, const struct err *err)
{
    struct request *req = c->user;
    Snapwire__V1__CheckResponse out = SNAPWIRE__V1__CHECK_RESPONSE__INIT;
    if (code < 0) {
        free(c->faults);
        request_fail(req, code, err);
        return;
    }
    bool filled = snapshot_check_fill(req, c, &out);
    free(c->faults);
    if (filled)
        request_reply(req, &out.base);
    else
        request_no_memory(req);
}

void service_snapshot_check(struct request *req)
{
    const Snapwire__V1__SnapshotRef *in = REQUEST_IN(req, Snapwire__V1__SnapshotRef);
    struct snapshot_request *r = snapshot_request_new(req, &in->snapshot);
    if (r == NULL)
        return;
    r->check = (struct volume_check){.snapshot = r->id, .done = snapshot_checked, .user = req};
    volume_check_start(req->volume, &r->check);
}
