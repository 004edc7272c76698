/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes as they are listed and shown, and names turned into uuids.
 *
 *   list      each part in turn: its volumes ──> home: sorted by name ──> answer
 *   page      each part in turn: names behind the last ──> home: the first of them ──> each part
 *             in turn: those volumes as messages ──> home: as many as an answer takes
 *   resolve   control: the registry's row of the name ──> volume's part: rights ──> answer
 *
 * A volume may have more snapshots than a message can hold. Pages carry the first few of each
 * volume and say that there are more; showing one goes on behind a seq.
 *
 * Nothing here changes anything. Thread: each part's shard, the registry's on control.
 */
#include "daemon/service/service_page.h"

#include "common/base/name.h"

#include <stdlib.h>
#include <string.h>

enum {
    PAGE_VOLUMES_MAX = 64,
    PAGE_VOLUME_SNAPSHOTS_MAX = 16, /* of each in a list */
    PAGE_SNAPSHOTS_MAX = 256,       /* of the one that is shown */
};

/* -- pages ------------------------------------------------------------------------------ */

/* The volume with its snapshots behind after_seq, until they are max or take room bytes.
 * False: no memory. */
static bool page_fill_volume(struct request *req, struct volume *v, uint32_t after_seq,
                             uint32_t max, Snapwire__V1__Volume *out)
{
    const struct volume_record *r = &v->record;
    Snapwire__V1__Snapshot *all = request_alloc(req, max * sizeof *all);
    if (all == NULL || !service_fill_volume_alone(req, v, out))
        return false;
    out->snapshots = request_alloc(req, max * sizeof(Snapwire__V1__Snapshot *));
    if (out->snapshots == NULL)
        return false;
    size_t used = protobuf_c_message_get_packed_size(&out->base), room = page_room(req);
    for (uint32_t i = volume_record_count_up_to(r, after_seq); i < r->snapshot_count; i++) {
        const struct record_snapshot *rs = &r->snapshots[i];
        const struct snapshot *s = rs->hidden || rs->undo ? NULL : volume_node_by_seq(v, rs->seq);
        if (s == NULL)
            continue;
        out->more = out->n_snapshots == max;
        if (out->more)
            break;
        Snapwire__V1__Snapshot *one = &all[out->n_snapshots];
        if (!service_fill_snapshot(req, s, one))
            return false;
        used += protobuf_c_message_get_packed_size(&one->base) + PAGE_ENTRY_BYTES;
        out->more = used > room;
        if (out->more)
            break;
        out->snapshots[out->n_snapshots++] = one;
    }
    return true;
}

static void volume_show_page(struct request *req, const Snapwire__V1__VolumeRef *in)
{
    Snapwire__V1__Volume out;
    uint32_t max = in->snapshots_max;
    max = max < PAGE_SNAPSHOTS_MAX ? max : PAGE_SNAPSHOTS_MAX;
    if (!page_fill_volume(req, req->volume, in->after_seq, max, &out))
        request_no_memory(req);
    else if (out.more && out.n_snapshots == 0)
        request_failf(req, SNAP_ELIMIT, "an answer takes one snapshot or more, the asker %u bytes",
                      req->session->peer.control_bytes_max);
    else
        request_reply(req, &out.base);
}

struct volume_pick {
    struct uuid id;
    Snapwire__V1__Volume *out; /* NULL: gone meanwhile */
};

struct volume_page {
    struct page page;
    bool one, no_memory;
    struct uuid id;
};

static void volume_page_pick(struct volume *v, void *user)
{
    struct request *req = user;
    struct volume_page *l = req->op;
    if (v->leaving || (l->one && !uuid_equal(&l->id, &v->record.id)) ||
        !request_allows(req, &v->record.id, ACL_RIGHT_SEE))
        return;
    struct page_key key = page_key_of(v->record.name, strlen(v->record.name), NULL, 0);
    if (!page_wants(&l->page, &key))
        return;
    struct volume_pick *pick = request_alloc(req, sizeof *pick);
    if (pick == NULL) {
        l->no_memory = true;
        return;
    }
    pick->id = v->record.id;
    page_put(&l->page, &key, pick);
}

static void volume_page_pick_part(struct request *req)
{
    volume_set_each(&req->at->set, volume_page_pick, req);
}

static void volume_page_fill_part(struct request *req)
{
    struct volume_page *l = req->op;
    for (uint32_t i = 0; i < l->page.count && i < l->page.max && !l->no_memory; i++) {
        struct volume_pick *pick = l->page.entries[i].item;
        struct volume *v = volume_set_find(&req->at->set, &pick->id);
        if (v == NULL)
            continue;
        pick->out = request_alloc(req, sizeof *pick->out);
        l->no_memory =
            pick->out == NULL || !page_fill_volume(req, v, 0, PAGE_VOLUME_SNAPSHOTS_MAX, pick->out);
    }
}

/* Make the first volume of a page fit: its snapshots can be asked for. */
static size_t volume_page_size(Snapwire__V1__Volume *out, bool first, size_t room)
{
    size_t size = protobuf_c_message_get_packed_size(&out->base) + PAGE_ENTRY_BYTES;
    if (!first || size <= room || out->n_snapshots == 0)
        return size;
    out->n_snapshots = 0;
    out->more = true;
    return protobuf_c_message_get_packed_size(&out->base) + PAGE_ENTRY_BYTES;
}

static void volume_page_end(struct request *req)
{
    struct volume_page *l = req->op;
    Snapwire__V1__VolumeListResponse out = SNAPWIRE__V1__VOLUME_LIST_RESPONSE__INIT;
    uint32_t given = 0;
    size_t used = 0, room = page_room(req);
    out.volumes = request_alloc(req, ((size_t)l->page.max + 1) * sizeof(Snapwire__V1__Volume *));
    if (l->no_memory || out.volumes == NULL) {
        request_no_memory(req);
        return;
    }
    for (; given < l->page.count && given < l->page.max; given++) {
        const struct volume_pick *pick = l->page.entries[given].item;
        if (pick->out == NULL)
            continue;
        used += volume_page_size(pick->out, out.n_volumes == 0, room);
        if (used > room && out.n_volumes > 0)
            break;
        out.volumes[out.n_volumes++] = pick->out;
    }
    out.next = page_next(&l->page, given);
    request_reply(req, &out.base);
}

static void volume_page_picked(struct request *req)
{
    request_tour(req, volume_page_fill_part, volume_page_end);
}

static void volume_list_page(struct request *req, const Snapwire__V1__VolumeListRequest *in)
{
    struct volume_page *l = request_alloc(req, sizeof *l);
    if (l == NULL) {
        request_no_memory(req);
        return;
    }
    l->one = in->volume.len > 0;
    if ((l->one && !request_uuid(req, &in->volume, "volume", &l->id)) ||
        !page_init(&l->page, req, &in->after, in->max, PAGE_VOLUMES_MAX))
        return;
    req->op = l;
    request_tour(req, volume_page_pick_part, volume_page_picked);
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
    if (in->max > 0) {
        volume_list_page(req, in);
        return;
    }
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
    const Snapwire__V1__VolumeRef *in = REQUEST_IN(req, Snapwire__V1__VolumeRef);
    Snapwire__V1__Volume out, *one = &out;
    if (in->snapshots_max > 0) {
        volume_show_page(req, in);
        return;
    }
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
    out.kind = v->record.kind == VOLUME_HOSTED ? SNAPWIRE__V1__VOLUME_KIND__VOLUME_KIND_HOSTED
                                               : SNAPWIRE__V1__VOLUME_KIND__VOLUME_KIND_REMOTE;
    if (request_allows(req, &req->volume_id, ACL_RIGHT_READ))
        out.origin_fingerprint = (ProtobufCBinaryData){.data = v->record.fingerprint,
                                                       .len = v->record.fingerprint_bytes};
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
