/* SPDX-License-Identifier: Apache-2.0 */
/* Answers, from messages to the public structs.
 *
 * Everything here comes from the daemon and is judged: identities have 16 bytes or
 * none, a chunk size is a power of two within the limits, names are not longer
 * than names are. What does not hold is SNAP_EPROTO for that one answer; numbers
 * of states and kinds that a newer daemon may have are passed on as they are.
 * An answer is bounded by the longest control message that is taken at all.
 *
 * Pure. Thread: any.
 */
#include "client/lib/client_priv.h"
#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/base/utf8.h"
#include "common/net/unpack.h"

#include <stdio.h>
#include <string.h>

/* -- small parts -- */

ProtobufCBinaryData pb_uuid(const struct snapwire_uuid *u)
{
    if (snapwire_uuid_is_zero(u))
        return (ProtobufCBinaryData){0};
    return (ProtobufCBinaryData){.len = sizeof u->b, .data = (uint8_t *)(uintptr_t)u->b};
}

bool pb_uuid_get(const ProtobufCBinaryData *d, struct snapwire_uuid *ret)
{
    if (d->len != sizeof ret->b)
        return false;
    memcpy(ret->b, d->data, sizeof ret->b);
    return !snapwire_uuid_is_zero(ret);
}

bool pb_uuid_get_optional(const ProtobufCBinaryData *d, struct snapwire_uuid *ret)
{
    if (d->len != 0)
        return d->len == sizeof ret->b && (memcpy(ret->b, d->data, sizeof ret->b), true);
    memset(ret->b, 0, sizeof ret->b);
    return true;
}

int pb_refuse(struct err *reterr, const char *what)
{
    return err_set(reterr, SNAP_EPROTO, "the daemon's answer (%s) makes no sense", what);
}

static int no_memory(struct err *reterr)
{
    return err_set(reterr, SNAP_ENOMEM, "out of memory for an answer");
}

int pb_unpack(const ProtobufCMessageDescriptor *type, const struct request_answer *a,
              const char *what, ProtobufCMessage **ret, struct err *reterr)
{
    const int r = unpack_message(type, a->control, a->control_bytes, ret);
    return r == SNAP_ENOMEM ? no_memory(reterr) : r < 0 ? pb_refuse(reterr, what) : 0;
}

uint64_t chunk_bytes_of(uint32_t sectors)
{
    if (sectors < LIMIT_CHUNK_SECTORS_MIN || sectors > LIMIT_CHUNK_SECTORS_MAX ||
        !u64_is_pow2(sectors))
        return 0;
    return (uint64_t)sectors * SECTOR_BYTES;
}

static bool chunk_size_is_sound(uint32_t sectors)
{
    return sectors == 0 || chunk_bytes_of(sectors) != 0;
}

void convert_error(const uint8_t *control, uint32_t control_bytes, struct err *ret,
                   uint64_t *ret_loss)
{
    const struct request_answer a = {.control = control, .control_bytes = control_bytes};
    ProtobufCMessage *base = NULL;
    const int r = pb_unpack(&snapwire__v1__error__descriptor, &a, "error", &base, ret);
    Snapwire__V1__Error *m = (Snapwire__V1__Error *)base;
    char text[ERR_TEXT_BYTES] = "";

    *ret_loss = r == 0 ? m->loss : 0;
    if (r == 0 && m->code == 0) {
        (void)pb_refuse(ret, "error");
    } else if (r == 0) {
        const bool known = m->code <= (uint32_t)-SNAP_EINTERNAL;
        const int code = known ? -(int)m->code : SNAP_EINTERNAL;
        if (m->place[0] != '\0') {
            utf8_append_clean(text, sizeof text, m->place);
            utf8_append_clean(text, sizeof text, ": ");
        }
        utf8_append_clean(text, sizeof text, m->text[0] != '\0' ? m->text : err_text(code));
        (void)err_set(ret, code, "%s", text);
    }
    if (m != NULL)
        snapwire__v1__error__free_unpacked(m, NULL);
}

/* Puts a copy of the daemon's text into place; false: out of memory. */
static bool take_text(void *root, const char **place, const char *text)
{
    const size_t bytes = strlen(text) + 1;
    char *copy = result_alloc(root, bytes, 1);

    if (copy != NULL)
        utf8_append_clean(copy, bytes, text); /* the daemon's texts may quote anybody's */
    *place = copy;
    return copy != NULL;
}

static bool take_texts(void *root, const char *const **place, char *const *texts, size_t count)
{
    const char **copies = result_alloc(root, count, sizeof *copies);
    bool fine = copies != NULL;

    for (size_t i = 0; i < count && fine; i++)
        fine = take_text(root, &copies[i], texts[i]);
    *place = copies;
    return fine;
}

/* -- status -- */

static bool status_fill(struct snapwire_status *s, const Snapwire__V1__ServerStatus *m)
{
    const bool fine =
        take_texts(s, &s->warnings, m->warnings, m->n_warnings) &&
        take_text(s, &s->software, m->software) && take_text(s, &s->identity, m->identity) &&
        take_text(s, &s->io_engine, m->io_engine) && take_text(s, &s->state_dir, m->state_dir);

    s->warning_count = m->n_warnings;
    s->uptime_s = m->uptime_s;
    s->volumes = m->volumes;
    s->snapshots = m->snapshots;
    s->snapshots_invalid = m->snapshots_invalid;
    s->snapshots_damaged = m->snapshots_damaged;
    s->leases = m->leases;
    s->connections = m->connections;
    s->shards = m->shards;
    s->jobs = m->jobs;
    s->chunks_added = m->chunks_added;
    s->chunks_existed = m->chunks_existed;
    s->commits = m->commits;
    s->flushes = m->flushes;
    s->cow_bytes_used = m->cow_bytes_used;
    s->state_bytes_free = m->state_bytes_free;
    s->cache_size_bytes = m->cache_size_bytes;
    s->cache_used_bytes = m->cache_used_bytes;
    s->cache_hits = m->cache_hits;
    s->cache_misses = m->cache_misses;
    return fine;
}

/* The frame of a converter: unpack MESSAGE, make a root of TYPE, run FILL(root, m, &sound). */
#define CONVERT(name, type, message, fill)                                             \
    int convert_##name(const struct request_answer *a, void **ret, struct err *reterr) \
    {                                                                                  \
        bool sound = true;                                                             \
        struct type *root = NULL;                                                      \
        ProtobufCMessage *base = NULL;                                                 \
        int r = pb_unpack(&message##__descriptor, a, #name, &base, reterr);            \
        message##_t *m = (message##_t *)base;                                          \
        if (r < 0)                                                                     \
            return r;                                                                  \
        root = result_new(sizeof *root);                                               \
        if (root == NULL || !fill(root, m, &sound))                                    \
            r = sound ? no_memory(reterr) : pb_refuse(reterr, #name);                  \
        message##__free_unpacked(m, NULL);                                             \
        if (r < 0)                                                                     \
            snapwire_free(root);                                                       \
        else                                                                           \
            *ret = root;                                                               \
        return r;                                                                      \
    }

typedef Snapwire__V1__ServerStatus snapwire__v1__server_status_t;
typedef Snapwire__V1__Volume snapwire__v1__volume_t;
typedef Snapwire__V1__VolumeListResponse snapwire__v1__volume_list_response_t;
typedef Snapwire__V1__Snapshot snapwire__v1__snapshot_t;
typedef Snapwire__V1__ResolveResponse snapwire__v1__resolve_response_t;
typedef Snapwire__V1__CheckResponse snapwire__v1__check_response_t;
typedef Snapwire__V1__GrantListResponse snapwire__v1__grant_list_response_t;
typedef Snapwire__V1__JobListResponse snapwire__v1__job_list_response_t;
typedef Snapwire__V1__MergeState snapwire__v1__merge_state_t;
typedef Snapwire__V1__MergeRun snapwire__v1__merge_run_t;
typedef Snapwire__V1__GroupCreateResponse snapwire__v1__group_create_response_t;
typedef Snapwire__V1__Job snapwire__v1__job_t;

static bool root_status(struct snapwire_status *s, const Snapwire__V1__ServerStatus *m,
                        bool *ret_sound)
{
    *ret_sound = true;
    return status_fill(s, m);
}
CONVERT(status, snapwire_status, snapwire__v1__server_status, root_status)

/* -- snapshots and volumes; fill what hangs from root; false: *ret_sound says why -- */

static bool snapshot_fill(void *root, struct snapwire_snapshot *s, const Snapwire__V1__Snapshot *m,
                          bool *ret_sound)
{
    *ret_sound = pb_uuid_get(&m->snapshot, &s->id) && pb_uuid_get(&m->volume, &s->volume) &&
                 strlen(m->name) <= LIMIT_NAME_BYTES && chunk_size_is_sound(m->chunk_size_sectors);
    if (!*ret_sound)
        return false;
    s->state = (int)m->state;
    s->created_s = m->created_s;
    s->chunk_size_sectors = m->chunk_size_sectors;
    s->head = m->head;
    s->volume_size_bytes = m->volume_size_bytes;
    s->device_sectors = m->device_sectors;
    s->limit_sectors = m->limit_sectors;
    s->exceptions = m->exceptions;
    s->areas = m->areas;
    s->next_free = m->next_free;
    s->sectors_allocated = m->sectors_allocated;
    s->metadata_sectors = m->metadata_sectors;
    s->writable = m->writable;
    s->seq = m->seq;
    s->warning_count = m->n_warnings;
    return take_texts(root, &s->warnings, m->warnings, m->n_warnings) &&
           take_text(root, &s->name, m->name) && take_text(root, &s->volume_name, m->volume_name) &&
           take_text(root, &s->state_text, m->state_text) &&
           take_text(root, &s->status, m->status) && take_text(root, &s->parent, m->parent) &&
           take_text(root, &s->cow_path, m->cow_path);
}

static bool labels_fill(void *root, struct snapwire_volume *v, const Snapwire__V1__Volume *m)
{
    const struct snapwire_label **pointers = result_alloc(root, m->n_labels, sizeof *pointers);
    struct snapwire_label *labels = result_alloc(root, m->n_labels, sizeof *labels);
    bool fine = pointers != NULL && labels != NULL;

    for (size_t i = 0; i < m->n_labels && fine; i++) {
        pointers[i] = &labels[i];
        fine = take_text(root, &labels[i].key, m->labels[i]->key) &&
               take_text(root, &labels[i].value, m->labels[i]->value);
    }
    v->labels = pointers;
    v->label_count = m->n_labels;
    return fine;
}

static bool volume_fill(void *root, struct snapwire_volume *v, const Snapwire__V1__Volume *m,
                        bool *ret_sound)
{
    *ret_sound = pb_uuid_get(&m->volume, &v->id) && strlen(m->name) <= LIMIT_NAME_BYTES &&
                 chunk_size_is_sound(m->chunk_size_sectors) && m->n_snapshots <= LIMIT_SNAPSHOTS;
    if (!*ret_sound)
        return false;
    v->size_bytes = m->size_bytes;
    v->kind = (int)m->kind;
    v->full_policy = (int)m->full_policy;
    v->created_s = m->created_s;
    v->chunk_size_sectors = m->chunk_size_sectors;
    v->leased = m->leased;
    v->lease_epoch = m->lease_epoch;
    const struct snapwire_snapshot **pointers =
        result_alloc(root, m->n_snapshots, sizeof *pointers);
    struct snapwire_snapshot *snapshots = result_alloc(root, m->n_snapshots, sizeof *snapshots);
    if (pointers == NULL || snapshots == NULL || !take_text(root, &v->name, m->name) ||
        !take_text(root, &v->lease_holder, m->lease_holder) || !labels_fill(root, v, m))
        return false;
    for (size_t i = 0; i < m->n_snapshots; i++) {
        pointers[i] = &snapshots[i];
        if (!snapshot_fill(root, &snapshots[i], m->snapshots[i], ret_sound))
            return false;
    }
    v->snapshots = pointers;
    v->snapshot_count = m->n_snapshots;
    return true;
}

static bool root_snapshot(struct snapwire_snapshot *s, const Snapwire__V1__Snapshot *m,
                          bool *ret_sound)
{
    return snapshot_fill(s, s, m, ret_sound);
}
CONVERT(snapshot, snapwire_snapshot, snapwire__v1__snapshot, root_snapshot)

static bool root_snapshot_list(struct snapwire_snapshot_list *l,
                               const Snapwire__V1__GroupCreateResponse *m, bool *ret_sound)
{
    const struct snapwire_snapshot **pointers = result_alloc(l, m->n_snapshots, sizeof *pointers);
    struct snapwire_snapshot *snapshots = result_alloc(l, m->n_snapshots, sizeof *snapshots);

    if (pointers == NULL || snapshots == NULL)
        return false;
    for (size_t i = 0; i < m->n_snapshots; i++) {
        pointers[i] = &snapshots[i];
        if (!snapshot_fill(l, &snapshots[i], m->snapshots[i], ret_sound))
            return false;
    }
    l->snapshots = pointers;
    l->count = m->n_snapshots;
    return true;
}
CONVERT(snapshot_list, snapwire_snapshot_list, snapwire__v1__group_create_response,
        root_snapshot_list)

static bool root_volume(struct volume_page *p, const Snapwire__V1__Volume *m, bool *ret_sound)
{
    p->more = m->more;
    return volume_fill(p, &p->volume, m, ret_sound);
}
CONVERT(volume, volume_page, snapwire__v1__volume, root_volume)

static bool next_fill(struct list_page *p, const ProtobufCBinaryData *next, bool *ret_sound)
{
    *ret_sound = next->len <= sizeof p->next;
    if (*ret_sound && next->len > 0)
        memcpy(p->next, next->data, next->len);
    p->next_bytes = next->len;
    return *ret_sound;
}

static bool root_volume_list(struct list_page *p, const Snapwire__V1__VolumeListResponse *m,
                             bool *ret_sound)
{
    const struct snapwire_volume **pointers = result_alloc(p, m->n_volumes, sizeof *pointers);
    struct volume_page *volumes = result_alloc(p, m->n_volumes, sizeof *volumes);

    if (pointers == NULL || volumes == NULL)
        return false;
    for (size_t i = 0; i < m->n_volumes; i++) {
        pointers[i] = &volumes[i].volume;
        volumes[i].more = m->volumes[i]->more;
        if (!volume_fill(p, &volumes[i].volume, m->volumes[i], ret_sound))
            return false;
    }
    p->list.volumes.volumes = pointers;
    p->list.volumes.count = m->n_volumes;
    return next_fill(p, &m->next, ret_sound);
}
CONVERT(volume_list, list_page, snapwire__v1__volume_list_response, root_volume_list)

static bool root_target(struct snapwire_target *t, const Snapwire__V1__ResolveResponse *m,
                        bool *ret_sound)
{
    *ret_sound =
        pb_uuid_get(&m->volume, &t->volume) && pb_uuid_get_optional(&m->snapshot, &t->snapshot) &&
        chunk_size_is_sound(m->chunk_size_sectors) && m->size_bytes <= LIMIT_VOLUME_BYTES &&
        m->origin_fingerprint.len <= sizeof t->origin_fingerprint;
    if (!*ret_sound)
        return false;
    t->size_bytes = m->size_bytes;
    t->chunk_size_sectors = m->chunk_size_sectors;
    t->kind = (int)m->kind;
    t->origin_fingerprint_bytes = m->origin_fingerprint.len;
    if (t->origin_fingerprint_bytes > 0)
        memcpy(t->origin_fingerprint, m->origin_fingerprint.data, t->origin_fingerprint_bytes);
    return true;
}
CONVERT(target, snapwire_target, snapwire__v1__resolve_response, root_target)

static bool faults_fill(void *root, const struct snapwire_fault *const **place,
                        Snapwire__V1__Fault *const *m, size_t count)
{
    const struct snapwire_fault **pointers = result_alloc(root, count, sizeof *pointers);
    struct snapwire_fault *faults = result_alloc(root, count, sizeof *faults);
    bool fine = pointers != NULL && faults != NULL;

    for (size_t i = 0; i < count && fine; i++) {
        faults[i] = (struct snapwire_fault){.area = m[i]->area,
                                            .index = m[i]->index,
                                            .old_chunk = m[i]->old_chunk,
                                            .new_chunk = m[i]->new_chunk};
        pointers[i] = &faults[i];
        fine = take_text(root, &faults[i].text, m[i]->text);
    }
    *place = pointers;
    return fine;
}

static bool root_check(struct snapwire_check *c, const Snapwire__V1__CheckResponse *m,
                       bool *ret_sound)
{
    *ret_sound = m->faults_total >= m->n_faults && m->sound == (m->faults_total == 0);
    c->sound = m->sound;
    c->exceptions = m->exceptions;
    c->faults_total = m->faults_total;
    c->fault_count = m->n_faults;
    return faults_fill(c, &c->faults, m->faults, m->n_faults) && *ret_sound;
}
CONVERT(check, snapwire_check, snapwire__v1__check_response, root_check)

/* -- rights and jobs -- */

static bool root_grant_list(struct list_page *l, const Snapwire__V1__GrantListResponse *m,
                            bool *ret_sound)
{
    const struct snapwire_grant **pointers = result_alloc(l, m->n_grants, sizeof *pointers);
    struct snapwire_grant *grants = result_alloc(l, m->n_grants, sizeof *grants);

    if (pointers == NULL || grants == NULL)
        return false;
    for (size_t i = 0; i < m->n_grants; i++) {
        const Snapwire__V1__Grant *g = m->grants[i];
        *ret_sound = pb_uuid_get_optional(&g->volume, &grants[i].volume);
        grants[i].role = (int)g->role;
        pointers[i] = &grants[i];
        if (!*ret_sound || !take_text(l, &grants[i].identity, g->identity) ||
            !take_text(l, &grants[i].volume_name, g->volume_name))
            return false;
    }
    l->list.grants.grants = pointers;
    l->list.grants.count = m->n_grants;
    return next_fill(l, &m->next, ret_sound);
}
CONVERT(grant_list, list_page, snapwire__v1__grant_list_response, root_grant_list)

static bool job_fill(void *root, struct snapwire_job *j, const Snapwire__V1__Job *m,
                     bool *ret_sound)
{
    *ret_sound = pb_uuid_get_optional(&m->job, &j->id) &&
                 pb_uuid_get_optional(&m->volume, &j->volume) && m->faults_total >= m->n_faults;
    j->done = m->done;
    j->total = m->total;
    j->faults_total = m->faults_total;
    j->fault_count = m->n_faults;
    return *ret_sound && take_text(root, &j->kind, m->kind) &&
           take_text(root, &j->volume_name, m->volume_name) &&
           take_text(root, &j->subject, m->subject) && take_text(root, &j->state, m->state) &&
           take_text(root, &j->text, m->text) &&
           faults_fill(root, &j->faults, m->faults, m->n_faults);
}

static bool root_job(struct snapwire_job *j, const Snapwire__V1__Job *m, bool *ret_sound)
{
    return job_fill(j, j, m, ret_sound);
}
CONVERT(job, snapwire_job, snapwire__v1__job, root_job)

static bool root_job_list(struct list_page *l, const Snapwire__V1__JobListResponse *m,
                          bool *ret_sound)
{
    const struct snapwire_job **pointers = result_alloc(l, m->n_jobs, sizeof *pointers);
    struct snapwire_job *jobs = result_alloc(l, m->n_jobs, sizeof *jobs);

    if (pointers == NULL || jobs == NULL)
        return false;
    for (size_t i = 0; i < m->n_jobs; i++) {
        pointers[i] = &jobs[i];
        if (!job_fill(l, &jobs[i], m->jobs[i], ret_sound))
            return false;
    }
    l->list.jobs.jobs = pointers;
    l->list.jobs.count = m->n_jobs;
    return next_fill(l, &m->next, ret_sound);
}
CONVERT(job_list, list_page, snapwire__v1__job_list_response, root_job_list)

/* -- merge -- */

static bool root_merge_state(struct snapwire_merge_state *s, const Snapwire__V1__MergeState *m,
                             bool *ret_sound)
{
    s->mode = (int)m->mode;
    s->table_len = m->table_len;
    *ret_sound = pb_uuid_get_optional(&m->head, &s->head) &&
                 (s->mode == SNAPWIRE_MERGE_TABLE || s->mode == SNAPWIRE_MERGE_VIEW);
    return *ret_sound;
}
CONVERT(merge_state, snapwire_merge_state, snapwire__v1__merge_state, root_merge_state)

static bool root_merge_run(struct snapwire_merge_run *r, const Snapwire__V1__MergeRun *m,
                           bool *ret_sound)
{
    r->old_chunk = m->old_chunk;
    r->new_chunk = m->new_chunk;
    r->count = m->count;
    r->table_len = m->table_len;
    r->commit_max = m->commit_max > 0 ? m->commit_max : m->count; /* an older daemon tells none */
    *ret_sound = m->count <= r->commit_max && r->commit_max <= m->table_len &&
                 (m->count > 0 || m->table_len == 0) && m->old_chunk <= LIMIT_VOLUME_BYTES &&
                 m->new_chunk <= LIMIT_VOLUME_BYTES;
    return *ret_sound;
}
CONVERT(merge_run, snapwire_merge_run, snapwire__v1__merge_run, root_merge_run)
