/* SPDX-License-Identifier: Apache-2.0 */
/* Creating volumes. Deleting is service_volume_delete.c's, listing and names service_list.c's.
 *
 *   create   volume's part: there already? ──> control: name free; folder, origin and record in
 *            trash/, renamed into volumes/: the commit point; registry ──> volume's part: open
 *            ──> answer
 *
 * The control thread runs one job after another: that is what makes a name unique. What an owner
 * has is counted there too, before the folder is made: so many at once pass no limit.
 */
#include "daemon/service/server.h"

#include "common/base/bytes.h"
#include "common/base/name.h"
#include "daemon/service/trash.h"
#include "daemon/volume/origin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* -- create -------------------------------------------------------------------------- */

struct volume_creation {
    struct volume_record record; /* until there is a volume that has it */
    struct volume *made;         /* while its record is being stored: then nothing can fail */
    bool there;                  /* of that uuid */
};

static void volume_create_end(struct request *req, int code, const struct err *err)
{
    struct volume_creation *c = req->op;
    volume_record_done(&c->record);
    volume_let_go(c->made);
    c->made = NULL;
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
    const struct volume_record *r = c->made != NULL ? &c->made->record : &c->record;
    const struct volume *v = volume_set_find(&req->at->set, &req->volume_id);
    if (v == NULL)
        return false;
    struct err err = ERR_INIT;
    int rc = 0;
    if (strcmp(v->record.name, r->name) != 0 || v->record.size_bytes != r->size_bytes ||
        v->record.kind != r->kind || v->record.full_policy != r->full_policy ||
        v->record.chunk_size_sectors != r->chunk_size_sectors ||
        strcmp(v->record.origin_path, r->origin_path) != 0)
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
    if (c->there) {
        int rc = err_set(&err, SNAP_EEXIST, "a volume of that uuid is not served");
        volume_create_end(req, rc, &err);
        return;
    }
    struct volume *v = c->made;
    c->made = NULL;
    volume_join(v);
    volume_open(v, volume_create_opened, req);
}

/* The origin first: a record says that it is there. */
static int volume_create_files(struct server *server, const struct volume_record *r,
                               struct err *reterr)
{
    char dir[LIMIT_PATH_BYTES];
    int rc = trash_stage(server->env.state_dir, &r->id, dir, sizeof dir, reterr);
    if (rc == 0 && r->kind == VOLUME_HOSTED)
        rc = origin_create(&server->env, dir, r, reterr);
    if (rc == 0)
        rc = volume_record_save(dir, r, reterr);
    return rc == 0 ? trash_unstage(server->env.state_dir, &r->id, reterr) : rc;
}

/* Is the name free, and the folder? */
static int volume_create_check_free(struct server *server, const struct volume_record *r,
                                    struct err *reterr)
{
    struct registry_volume row;
    char dir[LIMIT_PATH_BYTES], path[LIMIT_PATH_BYTES + 8];
    int rc = registry_find_volume(server->registry, r->name, &row, reterr);
    if (rc == 0)
        return err_set(reterr, SNAP_EEXIST, "volume %s exists", r->name);
    if (rc != SNAP_ENOENT)
        return rc;
    err_clear(reterr);
    rc = volume_dir_format(server->env.state_dir, &r->id, dir, sizeof dir, reterr);
    (void)snprintf(path, sizeof path, "%s/record", dir);
    if (rc == 0 && access(path, F_OK) == 0)
        rc = err_set(reterr, SNAP_EEXIST, "%s has a record already, which is not served", dir);
    return rc;
}

static int volume_create_store(struct request *req, struct err *reterr)
{
    struct server *server = req->session->server;
    struct volume_creation *c = req->op;
    const struct volume_record *r = &c->made->record; /* nobody else knows of it yet */
    const uint32_t max =
        atomic_load_explicit(&server->limits.volumes_per_client, memory_order_relaxed);
    struct registry_volume row;
    c->there = registry_get_volume(server->registry, &r->id, &row, NULL) == 0;
    if (c->there)
        return 0;
    int rc = volume_create_check_free(server, r, reterr);
    if (rc == 0)
        rc = clients_add_volume(server->clients, volume_owner(r), max, reterr);
    if (rc < 0)
        return rc;
    rc = volume_create_files(server, r, reterr);
    const bool unstaged = rc == 0;
    if (rc == 0)
        rc = volume_registry_put(server->registry, r, reterr);
    if (rc < 0) { /* nobody has heard of it */
        trash_drop(server->env.state_dir, &r->id, unstaged);
        clients_drop_volume(server->clients, volume_owner(r));
    }
    return rc;
}

static void volume_create_run(struct request *req)
{
    req->code = volume_create_store(req, &req->err);
}

static void volume_create_check_there(struct request *req)
{
    struct volume_creation *c = req->op;
    struct err err = ERR_INIT;
    if (volume_create_is_there(req))
        return;
    int rc = volume_make(&req->at->set, &c->record, &c->made, &err);
    if (rc < 0)
        volume_create_end(req, rc, &err);
    else
        request_control(req, volume_create_run, volume_create_made);
}

static bool volume_create_has_label(const struct volume_record *r, const char *key)
{
    for (uint32_t i = 0; i < r->label_count; i++)
        if (strcmp(r->labels[i].key, key) == 0)
            return true;
    return false;
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
        if (volume_create_has_label(r, key))
            return err_set(reterr, SNAP_EINVAL, "label %s is given twice", key);
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

/* What only a hosted volume has. */
static int volume_create_hosted(const struct request *req, struct volume_record *r,
                                struct err *reterr)
{
    const Snapwire__V1__VolumeCreate *in = REQUEST_IN(req, Snapwire__V1__VolumeCreate);
    const uint32_t sectors = in->chunk_size_sectors;
    if (in->kind == SNAPWIRE__V1__VOLUME_KIND__VOLUME_KIND_REMOTE) {
        if (sectors != 0 || in->device[0] != '\0')
            return err_set(reterr, SNAP_EINVAL,
                           "a remote volume has no device here, and its snapshots say its chunk "
                           "size");
        return 0;
    }
    if (in->kind != SNAPWIRE__V1__VOLUME_KIND__VOLUME_KIND_HOSTED)
        return err_set(reterr, SNAP_ENOTSUP, "volumes of kind %d are not known", (int)in->kind);
    if (sectors != 0 && (sectors < LIMIT_CHUNK_SECTORS_MIN || sectors > LIMIT_CHUNK_SECTORS_MAX ||
                         !u64_is_pow2(sectors)))
        return err_set(reterr, SNAP_EINVAL,
                       "a chunk size of %u sectors: not a power of two up to %d", sectors,
                       (int)LIMIT_CHUNK_SECTORS_MAX);
    r->kind = VOLUME_HOSTED;
    r->chunk_size_sectors = sectors != 0 ? sectors : req->session->server->env.chunk_size_sectors;
    if (in->device[0] == '\0') {
        (void)snprintf(r->origin_path, sizeof r->origin_path, "origin");
        return 0;
    }
    if (strlen(in->device) >= sizeof r->origin_path)
        return err_set(reterr, SNAP_EINVAL, "the device's path is too long");
    (void)snprintf(r->origin_path, sizeof r->origin_path, "%s", in->device);
    return service_check_device(req, in->device, "an origin", reterr);
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
    request_set_target(req, "%s", in->name);
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
    if (rc == 0)
        rc = volume_create_hosted(req, &c->record, &err);
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
        request_go(req, server_part_of(req->session->server, &req->volume_id),
                   volume_create_check_there);
}
