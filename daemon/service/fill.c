/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes and snapshots as messages. Memory is the request's. Thread: the volume's shard. */
#include "daemon/service/server.h"

#include "daemon/volume/change.h"

#include <string.h>

enum { FILL_WARNINGS_MAX = 8 }; /* a snapshot */

static Snapwire__V1__SnapshotState fill_state(enum snapshot_state state)
{
    switch (state) {
    case SNAPSHOT_OK:
        return SNAPWIRE__V1__SNAPSHOT_STATE__SNAPSHOT_STATE_OK;
    case SNAPSHOT_INVALID:
        return SNAPWIRE__V1__SNAPSHOT_STATE__SNAPSHOT_STATE_INVALID;
    case SNAPSHOT_MERGING:
        return SNAPWIRE__V1__SNAPSHOT_STATE__SNAPSHOT_STATE_MERGING;
    case SNAPSHOT_DAMAGED:
        return SNAPWIRE__V1__SNAPSHOT_STATE__SNAPSHOT_STATE_DAMAGED;
    case SNAPSHOT_POISONED:
        return SNAPWIRE__V1__SNAPSHOT_STATE__SNAPSHOT_STATE_POISONED;
    case SNAPSHOT_DELETING:
        return SNAPWIRE__V1__SNAPSHOT_STATE__SNAPSHOT_STATE_DELETING;
    case SNAPSHOT_UNVERIFIED:
        break;
    }
    return SNAPWIRE__V1__SNAPSHOT_STATE__SNAPSHOT_STATE_UNVERIFIED;
}

static bool fill_text(struct request *req, const char *text, char **ret)
{
    char *copy = request_strdup(req, text);
    if (copy == NULL)
        return false;
    *ret = copy;
    return true;
}

static bool fill_uuid(struct request *req, const struct uuid *id, ProtobufCBinaryData *ret)
{
    *ret = request_bytes(req, id->b, UUID_BYTES);
    return ret->data != NULL;
}

static bool fill_usage(struct request *req, const struct snapshot *s, Snapwire__V1__Snapshot *out)
{
    if (s->store == NULL)
        return fill_text(req, "Damaged", &out->status);
    struct cow_usage u;
    char status[80];
    cow_store_usage(s->store, &u);
    out->device_sectors = u.device_sectors;
    out->limit_sectors = u.limit_sectors;
    out->exceptions = u.exceptions;
    out->areas = u.areas;
    out->next_free = u.next_free;
    out->sectors_allocated = u.sectors_allocated;
    out->metadata_sectors = u.metadata_sectors;
    return fill_text(req, cow_status_format(&u, status, sizeof status), &out->status);
}

struct fill_warnings {
    struct request *req;
    Snapwire__V1__Snapshot *out;
    bool failed;
};

static void fill_warning(const char *text, void *user)
{
    struct fill_warnings *w = user;
    Snapwire__V1__Snapshot *out = w->out;
    if (out->warnings == NULL)
        out->warnings = request_alloc(w->req, FILL_WARNINGS_MAX * sizeof(char *));
    if (out->warnings == NULL || out->n_warnings == FILL_WARNINGS_MAX) {
        w->failed = w->failed || out->warnings == NULL;
        return;
    }
    char *copy = request_strdup(w->req, text);
    if (copy == NULL)
        w->failed = true;
    else
        out->warnings[out->n_warnings++] = copy;
}

static bool fill_tree(struct request *req, const struct snapshot *s, Snapwire__V1__Snapshot *out)
{
    struct fill_warnings w = {.req = req, .out = out};
    const struct record_snapshot *parent = s->parent == NULL ? NULL : snapshot_record(s->parent);
    out->writable = s->clone;
    out->seq = s->seq;
    snapshot_warnings(s, fill_warning, &w);
    return !w.failed && (parent == NULL || fill_text(req, parent->name, &out->parent));
}

bool service_fill_snapshot(struct request *req, const struct snapshot *s,
                           Snapwire__V1__Snapshot *out)
{
    struct volume *v = s->volume;
    const struct record_snapshot *rs = snapshot_record(s);
    char text[ERR_TEXT_BYTES], path[LIMIT_PATH_BYTES];
    snapwire__v1__snapshot__init(out);
    /* where it lies on the host is an administrator's business */
    if (!request_allows(req, &v->record.id, ACL_RIGHT_ADMIN) ||
        volume_cow_path(v, rs->cow_path, path, sizeof path, NULL) < 0)
        path[0] = '\0';
    out->state = fill_state(snapshot_state(s, text, sizeof text));
    out->created_s = rs->created_s;
    out->chunk_size_sectors = rs->chunk_size_sectors;
    out->head = s == volume_head(v);
    out->volume_size_bytes = v->record.size_bytes;
    return fill_uuid(req, &s->id, &out->snapshot) && fill_uuid(req, &v->record.id, &out->volume) &&
           fill_text(req, rs->name, &out->name) &&
           fill_text(req, v->record.name, &out->volume_name) &&
           fill_text(req, text, &out->state_text) && fill_text(req, path, &out->cow_path) &&
           fill_usage(req, s, out) && fill_tree(req, s, out);
}

static bool fill_labels(struct request *req, const struct volume *v, Snapwire__V1__Volume *out)
{
    const struct volume_record *r = &v->record;
    if (r->label_count == 0)
        return true;
    Snapwire__V1__Volume__LabelsEntry *entries =
        request_alloc(req, r->label_count * sizeof *entries);
    out->labels = request_alloc(req, r->label_count * sizeof(Snapwire__V1__Volume__LabelsEntry *));
    if (entries == NULL || out->labels == NULL)
        return false;
    for (uint32_t i = 0; i < r->label_count; i++) {
        snapwire__v1__volume__labels_entry__init(&entries[i]);
        if (!fill_text(req, r->labels[i].key, &entries[i].key) ||
            !fill_text(req, r->labels[i].value, &entries[i].value))
            return false;
        out->labels[out->n_labels++] = &entries[i];
    }
    return true;
}

static bool fill_nodes(struct request *req, const struct snapshot_list *nodes,
                       Snapwire__V1__Snapshot *all, Snapwire__V1__Volume *out)
{
    const struct snapshot *s;
    TAILQ_FOREACH (s, nodes, link) {
        const struct record_snapshot *rs = snapshot_record(s);
        if (rs == NULL || rs->hidden || rs->undo)
            continue;
        Snapwire__V1__Snapshot *one = &all[out->n_snapshots];
        out->snapshots[out->n_snapshots++] = one;
        if (!service_fill_snapshot(req, s, one))
            return false;
    }
    return true;
}

static bool fill_snapshots(struct request *req, struct volume *v, Snapwire__V1__Volume *out)
{
    size_t max = v->record.snapshot_count;
    Snapwire__V1__Snapshot *all = request_alloc(req, max * sizeof *all);
    out->snapshots = request_alloc(req, max * sizeof(Snapwire__V1__Snapshot *));
    if (all == NULL || out->snapshots == NULL)
        return false;
    return fill_nodes(req, &v->chain, all, out) && fill_nodes(req, &v->clones, all, out);
}

bool service_fill_volume(struct request *req, struct volume *v, Snapwire__V1__Volume *out)
{
    return service_fill_volume_alone(req, v, out) && fill_snapshots(req, v, out);
}

bool service_fill_volume_alone(struct request *req, struct volume *v, Snapwire__V1__Volume *out)
{
    const struct volume_record *r = &v->record;
    snapwire__v1__volume__init(out);
    out->size_bytes = r->size_bytes;
    out->kind = r->kind == VOLUME_REMOTE ? SNAPWIRE__V1__VOLUME_KIND__VOLUME_KIND_REMOTE
                                         : SNAPWIRE__V1__VOLUME_KIND__VOLUME_KIND_HOSTED;
    out->full_policy = r->full_policy == FULL_REFUSE
                           ? SNAPWIRE__V1__FULL_POLICY__FULL_POLICY_REFUSE
                           : SNAPWIRE__V1__FULL_POLICY__FULL_POLICY_INVALIDATE;
    out->created_s = r->created_s;
    out->leased = v->lease.phase != LEASE_FREE && !lease_expired(&v->lease, volume_now_ns(v));
    out->lease_epoch = v->lease.epoch;
    out->chunk_size_sectors = v->chunk_sectors;
    return fill_uuid(req, &r->id, &out->volume) && fill_text(req, r->name, &out->name) &&
           fill_text(req, v->lease.holder, &out->lease_holder) && fill_labels(req, v, out);
}
