/* SPDX-License-Identifier: Apache-2.0 */
/* Deleting a volume.
 *
 *   volume's part      control thread                 volume's part        control
 *   no new requests ─> folder moves to trash/,     ─> close the devices ─> remove ─> answer
 *   holder is told     rights, registry, key
 *
 * The move is the commit point: after it the volume does not come back at a start. What a
 * crash leaves in trash/ is removed then, its key noted before: the same try again is told
 * that it has succeeded.
 */
#include "daemon/service/server.h"

#include "common/base/file.h"
#include "daemon/service/trash.h"
#include "daemon/volume/change.h"
#include "daemon/volume/put.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct volume_deletion {
    struct volume *volume;
    struct uuid key;
    const char *owner; /* the record itself is not the control thread's to read */
    bool rights_changed;
    struct acl_publication publication;
};

static void volume_delete_reply(struct request *req)
{
    request_reply_empty(req);
}

static void volume_delete_removed(struct request *req)
{
    struct volume_deletion *d = req->op;
    if (d->rights_changed)
        service_publish_acl(req, &d->publication, volume_delete_reply);
    else
        volume_delete_reply(req);
}

static void volume_delete_remove(struct request *req)
{
    trash_empty(req->session->server->env.state_dir);
}

static void volume_delete_closed(void *user, int code, const struct err *err)
{
    (void)code;
    (void)err;
    struct request *req = user;
    req->volume = NULL;
    request_control(req, volume_delete_remove, volume_delete_removed);
}

static void volume_delete_moved(struct request *req)
{
    struct volume_deletion *d = req->op;
    if (req->code < 0) {
        d->volume->leaving = d->volume->deleting =
            false; /* it goes on, with what gave up meanwhile */
        hand_down_start(d->volume);
        volume_put_resume(d->volume);
        request_fail(req, req->code, &req->err);
        return;
    }
    volume_close(d->volume, volume_delete_closed, req);
}

/* The rights go with the volume: a later one of another uuid has none of them. */
static void volume_delete_rights(struct request *req)
{
    struct server *server = req->session->server;
    struct volume_deletion *d = req->op;
    struct acl *next = NULL;
    if (acl_without_volume(server->acl, &req->volume_id, &next, NULL) < 0)
        return;
    if (acl_count(next) == acl_count(server->acl) || acl_save(server->acl_path, next, NULL) < 0) {
        acl_unref(next);
        return;
    }
    service_take_acl(server, next);
    d->rights_changed = true;
}

static void volume_delete_run(struct request *req)
{
    struct server *server = req->session->server;
    const struct volume_deletion *d = req->op;
    req->code = trash_volume(server->env.state_dir, &req->volume_id, &d->key, &req->err);
    if (req->code < 0)
        return;
    clients_drop_volume(server->clients, d->owner);
    volume_delete_rights(req);
    struct err err = ERR_INIT;
    if (registry_delete_volume(server->registry, &req->volume_id, &err) < 0 ||
        registry_key_put(server->registry, &d->key, 0, &err) < 0)
        volume_notice(d->volume, NULL, "registry lags behind the record", &err);
}

/* Not there: deleted before by the same try? */
static void volume_delete_look(struct request *req)
{
    const struct volume_deletion *d = req->op;
    int outcome = 0;
    if (registry_key_get(req->session->server->registry, &d->key, &outcome))
        req->code = outcome;
    else
        req->code = err_set(&req->err, SNAP_ENOENT, "no such volume");
}

static void volume_delete_looked(struct request *req)
{
    if (req->code < 0)
        request_fail(req, req->code, &req->err);
    else
        request_reply_empty(req);
}

static bool volume_delete_allowed(struct request *req, struct volume *v, bool force)
{
    unsigned visible = 0;
    for (uint32_t i = 0; i < v->record.snapshot_count; i++) {
        const struct record_snapshot *rs = &v->record.snapshots[i];
        visible += rs->hidden || rs->undo ? 0 : 1;
    }
    char text[UUID_TEXT_BYTES];
    bool sees = request_allows(req, &req->volume_id, ACL_RIGHT_SEE);
    bool leased = v->lease.phase != LEASE_FREE && !lease_expired(&v->lease, volume_now_ns(v));
    if (!request_allows(req, &req->volume_id, ACL_RIGHT_ADMIN))
        request_failf(req, SNAP_EPERM, "%s may not delete volume %s; that takes the role admin",
                      req->session->peer.identity,
                      sees ? v->record.name : uuid_format(&req->volume_id, text));
    else if (v->opening)
        request_failf(req, SNAP_EBUSY, "volume %s is being opened", v->record.name);
    else if (visible > 0 && !force)
        request_failf(req, SNAP_EBUSY,
                      "volume %s has %u snapshot(s); delete them first, or all with --force",
                      v->record.name, visible);
    else if (leased && !force)
        request_failf(req, SNAP_EBUSY,
                      "volume %s is leased by %s; end that writer first, or use --force",
                      v->record.name, v->lease.holder);
    else
        return true;
    return false;
}

static void volume_delete_at_volume(struct request *req)
{
    const Snapwire__V1__DeleteRequest *in = REQUEST_IN(req, Snapwire__V1__DeleteRequest);
    struct volume_deletion *d = req->op;
    struct volume *v = volume_set_find(&req->at->set, &req->volume_id);
    if (v == NULL) {
        request_control(req, volume_delete_look, volume_delete_looked);
        return;
    }
    request_set_target(req, "%s", v->record.name);
    if (!volume_delete_allowed(req, v, in->force != 0))
        return;
    d->owner = request_strdup(req, volume_owner(&v->record));
    if (d->owner == NULL) {
        request_no_memory(req);
        return;
    }
    d->volume = v;
    v->leaving = v->deleting = true;
    if (v->lease.phase != LEASE_FREE && v->holder.session != 0)
        v->holder.tell(v, &v->holder, VOLUME_EVENT_LEASE_LOST);
    request_control(req, volume_delete_run, volume_delete_moved);
}

void service_volume_delete(struct request *req)
{
    const Snapwire__V1__DeleteRequest *in = REQUEST_IN(req, Snapwire__V1__DeleteRequest);
    struct volume_deletion *d = request_alloc(req, sizeof *d);
    if (d == NULL) {
        request_no_memory(req);
        return;
    }
    req->op = d;
    if (in->snapshot.len > 0) {
        request_failf(req, SNAP_EINVAL, "a volume's deletion names no snapshot");
        return;
    }
    if (request_uuid(req, &in->volume, "volume", &req->volume_id) &&
        request_uuid(req, &in->key, "key", &d->key))
        request_go(req, server_part_of(req->session->server, &req->volume_id),
                   volume_delete_at_volume);
}
