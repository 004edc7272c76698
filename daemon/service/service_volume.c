/* SPDX-License-Identifier: Apache-2.0 */
/* Requests on volumes: create, list, show, delete, resolve.
 *
 *   create   volume's part: there already? ──> control: name free, folder, record,
 *            registry ──> volume's part: open ──> answer
 *   delete   volume's part: close to requests ──> control: folder to trash/ (the commit
 *            point), registry, key ──> close devices ──> control: remove ──> answer
 *
 * The control thread runs one job after another: that is what makes a name unique.
 */
#include "daemon/service/server.h"

#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/name.h"
#include "daemon/volume/change.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* -- create -------------------------------------------------------------------------- */

struct volume_creation {
    struct volume_record record;
    bool there; /* of that uuid */
    unsigned owned;
};

static void volume_create_end(struct request *req, int code, const struct err *err)
{
    struct volume_creation *c = req->op;
    volume_record_done(&c->record);
    if (code < 0) {
        request_fail(req, code, err);
        return;
    }
    Snapwire__V1__Volume out;
    struct volume *v = volume_set_find(&req->at->set, &req->volume_id);
    if (v == NULL)
        request_failf(req, SNAP_ENOENT, "the volume has been deleted meanwhile");
    else if (!service_fill_volume(req, v, &out))
        request_no_memory(req);
    else
        request_reply(req, &out.base);
}

/* The same uuid again: the same volume, if the parameters are the same. */
static bool volume_create_is_there(struct request *req)
{
    struct volume_creation *c = req->op;
    const struct volume *v = volume_set_find(&req->at->set, &req->volume_id);
    if (v == NULL)
        return false;
    struct err err = ERR_INIT;
    int rc = 0;
    if (strcmp(v->record.name, c->record.name) != 0 ||
        v->record.size_bytes != c->record.size_bytes || v->record.kind != c->record.kind ||
        v->record.full_policy != c->record.full_policy)
        rc = err_set(&err, SNAP_EEXIST, "a volume of that uuid with other parameters exists");
    volume_create_end(req, rc, &err);
    return true;
}

static void volume_create_opened(void *user, int code, const struct err *err)
{
    volume_create_end(user, code, err);
}

static void volume_create_made(struct request *req)
{
    struct volume_creation *c = req->op;
    if (req->code < 0) {
        volume_create_end(req, req->code, &req->err);
        return;
    }
    if (volume_create_is_there(req))
        return;
    struct err err = ERR_INIT;
    struct volume *v = NULL;
    int rc = c->there ? err_set(&err, SNAP_EEXIST, "a volume of that uuid is not served")
                      : volume_new(&req->at->set, &c->record, &v, &err);
    if (rc < 0)
        volume_create_end(req, rc, &err);
    else
        volume_open(v, volume_create_opened, req);
}

static int volume_create_store(struct request *req, struct err *reterr)
{
    struct server *server = req->session->server;
    struct volume_creation *c = req->op;
    struct registry_volume row;
    char dir[LIMIT_PATH_BYTES], path[LIMIT_PATH_BYTES + 8];
    c->there = registry_get_volume(server->registry, &c->record.id, &row, NULL) == 0;
    if (c->there)
        return 0;
    int rc = registry_find_volume(server->registry, c->record.name, &row, reterr);
    if (rc == 0)
        return err_set(reterr, SNAP_EEXIST, "volume %s exists", c->record.name);
    if (rc != SNAP_ENOENT)
        return rc;
    err_clear(reterr);
    rc = volume_dir_format(server->env.state_dir, &c->record.id, dir, sizeof dir, reterr);
    (void)snprintf(path, sizeof path, "%s/record", dir);
    if (rc == 0 && access(path, F_OK) == 0)
        rc = err_set(reterr, SNAP_EEXIST, "%s has a record already, which is not served", dir);
    if (rc == 0)
        rc = file_make_dir(dir, 0700, reterr);
    if (rc == 0)
        rc = volume_record_save(dir, &c->record, reterr);
    if (rc < 0)
        return rc;
    rc = volume_registry_put(server->registry, &c->record, reterr);
    if (rc < 0) { /* nobody has heard of it: undo */
        (void)remove(path);
        (void)remove(dir);
    }
    return rc;
}

static void volume_create_run(struct request *req)
{
    req->code = volume_create_store(req, &req->err);
}

static void volume_create_check_there(struct request *req)
{
    if (!volume_create_is_there(req))
        request_control(req, volume_create_run, volume_create_made);
}

static void volume_count_owned(struct volume *v, void *user)
{
    struct request *req = user;
    struct volume_creation *c = req->op;
    if (strcmp(volume_owner(&v->record), req->session->peer.identity) == 0 &&
        !uuid_equal(&v->record.id, &c->record.id))
        c->owned++;
}

static void volume_create_count(struct request *req)
{
    volume_set_each(&req->at->set, volume_count_owned, req);
}

static void volume_create_counted(struct request *req)
{
    struct volume_creation *c = req->op;
    uint32_t max = atomic_load_explicit(&req->session->server->limits.volumes_per_client,
                                        memory_order_relaxed);
    if (max != 0 && c->owned >= max) {
        struct err err = ERR_INIT;
        volume_create_end(req,
                          err_set(&err, SNAP_ELIMIT, "client %s has %u volumes",
                                  req->session->peer.identity, c->owned),
                          &err);
        return;
    }
    request_go(req, server_part_of(req->session->server, &req->volume_id),
               volume_create_check_there);
}

static int volume_create_labels(struct request *req, struct volume_record *r, struct err *reterr)
{
    const Snapwire__V1__VolumeCreate *in = REQUEST_IN(req, Snapwire__V1__VolumeCreate);
    if (in->n_labels >= LIMIT_LABELS)
        return err_set(reterr, SNAP_ELIMIT, "more than %d labels", LIMIT_LABELS - 1);
    r->labels = calloc(in->n_labels + 1, sizeof *r->labels);
    if (r->labels == NULL)
        return err_set(reterr, SNAP_ENOMEM, "labels");
    for (size_t i = 0; i <= in->n_labels; i++) {
        bool own = i == in->n_labels;
        const char *key = own ? VOLUME_LABEL_OWNER : in->labels[i]->key;
        const char *value = own ? req->session->peer.identity : in->labels[i]->value;
        int rc = name_check(key, "label", reterr);
        if (rc < 0)
            return rc;
        if (!own && strncmp(key, VOLUME_LABEL_RESERVED, strlen(VOLUME_LABEL_RESERVED)) == 0)
            return err_set(reterr, SNAP_EINVAL, "labels that begin with %s are the daemon's own",
                           VOLUME_LABEL_RESERVED);
        if (strlen(value) > LIMIT_TEXT_BYTES)
            return err_set(reterr, SNAP_EINVAL, "label %s: longer than %d bytes", key,
                           LIMIT_TEXT_BYTES);
        struct record_label *l = &r->labels[r->label_count++];
        l->key = strdup(key);
        l->value = strdup(value);
        if (l->key == NULL || l->value == NULL)
            return err_set(reterr, SNAP_ENOMEM, "labels");
    }
    return 0;
}

/* What happens at the limit: as asked for, or as the configuration says. */
static enum full_policy volume_policy(const struct request *req, Snapwire__V1__FullPolicy asked)
{
    switch (asked) {
    case SNAPWIRE__V1__FULL_POLICY__FULL_POLICY_REFUSE:
        return FULL_REFUSE;
    case SNAPWIRE__V1__FULL_POLICY__FULL_POLICY_INVALIDATE:
        return FULL_INVALIDATE;
    default:
        return (enum full_policy)req->session->server->config->full_policy;
    }
}

void service_volume_create(struct request *req)
{
    const Snapwire__V1__VolumeCreate *in = REQUEST_IN(req, Snapwire__V1__VolumeCreate);
    struct err err = ERR_INIT;
    struct volume_creation *c = request_alloc(req, sizeof *c);
    if (c == NULL) {
        request_no_memory(req);
        return;
    }
    if (!request_uuid(req, &in->volume, "volume", &req->volume_id))
        return;
    volume_record_init(&c->record);
    req->op = c;
    c->record.id = req->volume_id;
    c->record.size_bytes = in->size_bytes;
    c->record.kind = VOLUME_REMOTE;
    c->record.created_s = clock_wall_s();
    c->record.full_policy = volume_policy(req, in->full_policy);
    int rc = name_check(in->name, "volume", &err);
    if (rc == 0)
        (void)snprintf(c->record.name, sizeof c->record.name, "%s", in->name);
    if (rc == 0 && in->kind != SNAPWIRE__V1__VOLUME_KIND__VOLUME_KIND_REMOTE)
        rc = err_set(&err, SNAP_ENOTSUP, "this daemon serves volumes of kind remote only");
    if (rc == 0 && uuid_is_zero(&req->volume_id))
        rc = err_set(&err, SNAP_EINVAL, "a volume needs a uuid");
    if (rc == 0 && (in->size_bytes == 0 || in->size_bytes > LIMIT_VOLUME_BYTES ||
                    in->size_bytes % SECTOR_BYTES != 0))
        rc = err_set(&err, SNAP_EINVAL, "a volume of %llu bytes: not a multiple of %d up to 2^60",
                     (unsigned long long)in->size_bytes, SECTOR_BYTES);
    if (rc == 0)
        rc = volume_create_labels(req, &c->record, &err);
    if (rc < 0)
        volume_create_end(req, rc, &err);
    else
        request_tour(req, volume_create_count, volume_create_counted);
}

/* -- list, show ------------------------------------------------------------------------- */

struct volume_listing {
    Snapwire__V1__VolumeListResponse out;
    size_t cap;
    bool one, no_memory;
    struct uuid id;
};

static void volume_list_add(struct volume *v, void *user)
{
    struct request *req = user;
    struct volume_listing *l = req->op;
    if (v->leaving || (l->one && !uuid_equal(&l->id, &v->record.id)) ||
        !request_allows(req, &v->record.id, ACL_RIGHT_SEE))
        return;
    if (l->out.n_volumes == l->cap) {
        size_t cap = l->cap == 0 ? 64 : l->cap * 2;
        Snapwire__V1__Volume **grown = request_alloc(req, cap * sizeof(Snapwire__V1__Volume *));
        if (grown == NULL) {
            l->no_memory = true;
            return;
        }
        if (l->cap > 0)
            memcpy(grown, l->out.volumes, l->out.n_volumes * sizeof(Snapwire__V1__Volume *));
        l->out.volumes = grown;
        l->cap = cap;
    }
    Snapwire__V1__Volume *out = request_alloc(req, sizeof *out);
    if (out == NULL || !service_fill_volume(req, v, out))
        l->no_memory = true;
    else
        l->out.volumes[l->out.n_volumes++] = out;
}

static void volume_list_part(struct request *req)
{
    volume_set_each(&req->at->set, volume_list_add, req);
}

static int volume_list_order(const void *a, const void *b)
{
    const Snapwire__V1__Volume *const *va = a, *const *vb = b;
    return strcmp((*va)->name, (*vb)->name);
}

/* Volumes that are too long for one message leave out the texts that SNAPSHOT_SHOW has too. */
static void volume_shorten(const struct request *req, const ProtobufCMessage *whole,
                           Snapwire__V1__Volume **volumes, size_t count)
{
    const Snapwire__V1__Snapshot none = SNAPWIRE__V1__SNAPSHOT__INIT;
    if (protobuf_c_message_get_packed_size(whole) <= req->session->peer.control_bytes_max)
        return;
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < volumes[i]->n_snapshots; k++) {
            Snapwire__V1__Snapshot *s = volumes[i]->snapshots[k];
            s->cow_path = none.cow_path;
            s->status = none.status;
            s->state_text = none.state_text;
            s->volume_name = none.volume_name;
        }
}

static void volume_list_end(struct request *req)
{
    struct volume_listing *l = req->op;
    if (l->no_memory) {
        request_no_memory(req);
        return;
    }
    if (l->out.n_volumes > 1)
        qsort(l->out.volumes, l->out.n_volumes, sizeof(Snapwire__V1__Volume *), volume_list_order);
    volume_shorten(req, &l->out.base, l->out.volumes, l->out.n_volumes);
    request_reply(req, &l->out.base);
}

void service_volume_list(struct request *req)
{
    const Snapwire__V1__VolumeListRequest *in = REQUEST_IN(req, Snapwire__V1__VolumeListRequest);
    struct volume_listing *l = request_alloc(req, sizeof *l);
    if (l == NULL) {
        request_no_memory(req);
        return;
    }
    snapwire__v1__volume_list_response__init(&l->out);
    l->one = in->volume.len > 0;
    if (l->one && !request_uuid(req, &in->volume, "volume", &l->id))
        return;
    req->op = l;
    request_tour(req, volume_list_part, volume_list_end);
}

void service_volume_show(struct request *req)
{
    Snapwire__V1__Volume out, *one = &out;
    if (!service_fill_volume(req, req->volume, &out)) {
        request_no_memory(req);
        return;
    }
    volume_shorten(req, &out.base, &one, 1);
    request_reply(req, &out.base);
}

/* -- resolve ------------------------------------------------------------------------------ */

static void resolve_at_volume(struct request *req)
{
    const Snapwire__V1__ResolveRequest *in = REQUEST_IN(req, Snapwire__V1__ResolveRequest);
    struct volume *v = volume_set_find(&req->at->set, &req->volume_id);
    if (v == NULL) {
        request_failf(req, SNAP_ENOENT, "no volume %s", in->volume_name);
        return;
    }
    if (!request_allows(req, &req->volume_id, ACL_RIGHT_SEE)) {
        request_failf(req, SNAP_EPERM, "%s has no right on volume %s", req->session->peer.identity,
                      in->volume_name);
        return;
    }
    Snapwire__V1__ResolveResponse out = SNAPWIRE__V1__RESOLVE_RESPONSE__INIT;
    out.volume = (ProtobufCBinaryData){.data = req->volume_id.b, .len = UUID_BYTES};
    out.size_bytes = v->record.size_bytes;
    out.chunk_size_sectors = v->chunk_sectors;
    if (in->snapshot_name[0] != '\0') {
        struct record_snapshot *rs = volume_record_find_name(&v->record, in->snapshot_name);
        if (rs == NULL) {
            request_failf(req, SNAP_ENOENT, "no snapshot %s@%s", in->volume_name,
                          in->snapshot_name);
            return;
        }
        out.snapshot = (ProtobufCBinaryData){.data = rs->id.b, .len = UUID_BYTES};
    }
    request_reply(req, &out.base);
}

static void resolve_found(struct request *req)
{
    if (req->code < 0)
        request_fail(req, req->code, &req->err);
    else
        request_go(req, server_part_of(req->session->server, &req->volume_id), resolve_at_volume);
}

static void resolve_run(struct request *req)
{
    const Snapwire__V1__ResolveRequest *in = REQUEST_IN(req, Snapwire__V1__ResolveRequest);
    struct registry_volume row;
    req->code =
        registry_find_volume(req->session->server->registry, in->volume_name, &row, &req->err);
    if (req->code == SNAP_ENOENT)
        (void)err_set(&req->err, SNAP_ENOENT, "no volume %s", in->volume_name);
    if (req->code == 0)
        req->volume_id = row.id;
}

void service_resolve(struct request *req)
{
    const Snapwire__V1__ResolveRequest *in = REQUEST_IN(req, Snapwire__V1__ResolveRequest);
    int rc = name_check(in->volume_name, "volume", &req->err);
    if (rc == 0 && in->snapshot_name[0] != '\0')
        rc = name_check(in->snapshot_name, "snapshot", &req->err);
    if (rc < 0)
        request_fail(req, rc, &req->err);
    else
        request_control(req, resolve_run, resolve_found);
}
