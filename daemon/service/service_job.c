/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs: rollbacks and verifications begun; all of them listed, shown and cancelled.
 * Thread: the volume's shard. */
#include "daemon/service/service_page.h"

#include "daemon/volume/change.h"
#include "daemon/volume/job.h"
#include "daemon/volume/verify.h"

#include <string.h>

enum {
    JOB_SPARE_BYTES = 64, /* of the answer's own numbers */
    PAGE_JOBS_MAX = 256,
};

static bool job_fill(struct request *req, const struct volume *v, const struct volume_job_status *s,
                     Snapwire__V1__Job *out)
{
    snapwire__v1__job__init(out);
    out->job = request_bytes(req, s->job.b, UUID_BYTES);
    out->volume = request_bytes(req, v->record.id.b, UUID_BYTES);
    out->kind = request_strdup(req, s->kind);
    out->volume_name = request_strdup(req, v->record.name);
    out->subject = request_strdup(req, s->subject);
    out->state = request_strdup(req, volume_job_state_name(s->state));
    out->text = request_strdup(req, s->text);
    out->done = s->done;
    out->total = s->total;
    return out->job.data != NULL && out->volume.data != NULL && out->kind != NULL &&
           out->volume_name != NULL && out->subject != NULL && out->state != NULL &&
           out->text != NULL;
}

/* What a verification found, as much of it as the answer has room for. */
static bool job_fill_faults(struct request *req, const struct uuid *job, Snapwire__V1__Job *out)
{
    const size_t room = req->session->peer.control_bytes_max;
    size_t bytes = protobuf_c_message_get_packed_size(&out->base) + JOB_SPARE_BYTES;
    uint32_t count = 0;
    const struct verify_fault *faults =
        volume_verify_faults(req->volume, job, &count, &out->faults_total);
    if (faults == NULL || count == 0)
        return true;
    Snapwire__V1__Fault *all = request_alloc(req, count * sizeof *all);
    out->faults = request_alloc(req, count * sizeof(Snapwire__V1__Fault *));
    if (all == NULL || out->faults == NULL)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        char text[ERR_TEXT_BYTES];
        snapwire__v1__fault__init(&all[i]);
        all[i].old_chunk = faults[i].old_chunk;
        all[i].new_chunk = faults[i].new_chunk;
        all[i].text =
            request_strdup(req, verify_fault_format(req->volume, &faults[i], text, sizeof text));
        if (all[i].text == NULL)
            return false;
        bytes += protobuf_c_message_get_packed_size(&all[i].base) + PAGE_ENTRY_BYTES;
        if (bytes > room)
            break;
        out->faults[out->n_faults++] = &all[i];
    }
    return true;
}

static void job_reply(struct request *req, const struct uuid *job)
{
    struct volume_job_status s;
    Snapwire__V1__Job out;
    struct err err = ERR_INIT;
    int rc = volume_job_show(req->volume, job, &s, &err);
    if (rc < 0)
        request_fail(req, rc, &err);
    else if (!job_fill(req, req->volume, &s, &out) || !job_fill_faults(req, job, &out))
        request_no_memory(req);
    else
        request_reply(req, &out.base);
}

static void job_changed(void *user, int code, const struct err *err)
{
    struct request *req = user;
    const struct uuid *job = req->op;
    if (code < 0)
        request_fail(req, code, err);
    else
        job_reply(req, job);
}

/* The job's uuid, where it stays while the request is under way. NULL: answered. */
static struct uuid *job_id(struct request *req, const ProtobufCBinaryData *b)
{
    struct uuid *id = request_alloc(req, sizeof *id);
    if (id == NULL) {
        request_no_memory(req);
        return NULL;
    }
    req->op = id;
    if (!request_uuid(req, b, "job", id))
        return NULL;
    if (uuid_is_zero(id)) {
        request_failf(req, SNAP_EINVAL, "a job needs a uuid");
        return NULL;
    }
    return id;
}

void service_rollback(struct request *req)
{
    const Snapwire__V1__RollbackRequest *in = REQUEST_IN(req, Snapwire__V1__RollbackRequest);
    struct rollback_spec spec = {.merge = in->merge != 0, .drop_newer = in->drop_newer != 0};
    if (!request_uuid(req, &in->snapshot, "snapshot", &spec.snapshot))
        return;
    const struct uuid *id = job_id(req, &in->job);
    if (id == NULL)
        return;
    spec.job = *id;
    volume_rollback_start(req->volume, &spec, job_changed, req);
}

void service_verify(struct request *req)
{
    const Snapwire__V1__VerifyRequest *in = REQUEST_IN(req, Snapwire__V1__VerifyRequest);
    struct verify_spec spec = {.rebuild = in->rebuild != 0};
    if (in->snapshot.len > 0 && !request_uuid(req, &in->snapshot, "snapshot", &spec.snapshot))
        return;
    if (spec.rebuild && !request_allows(req, &req->volume_id, ACL_RIGHT_WRITE)) {
        request_failf(req, SNAP_EPERM,
                      "%s may not make checksums anew on volume %s; that takes the role %s",
                      req->session->peer.identity, req->volume->record.name,
                      request_right_roles(ACL_RIGHT_WRITE));
        return;
    }
    const struct uuid *id = job_id(req, &in->job);
    if (id == NULL)
        return;
    spec.job = *id;
    volume_verify_start(req->volume, &spec, job_changed, req);
}

void service_job_show(struct request *req)
{
    const Snapwire__V1__JobRef *in = REQUEST_IN(req, Snapwire__V1__JobRef);
    const struct uuid *id = job_id(req, &in->job);
    if (id != NULL)
        job_reply(req, id);
}

void service_job_cancel(struct request *req)
{
    const Snapwire__V1__JobRef *in = REQUEST_IN(req, Snapwire__V1__JobRef);
    const struct uuid *id = job_id(req, &in->job);
    if (id != NULL)
        volume_job_cancel(req->volume, id, job_changed, req);
}

/* -- list -------------------------------------------------------------------------------- */

struct job_pick {
    struct uuid volume, job;
    Snapwire__V1__Job *out; /* NULL: gone meanwhile */
};

struct job_listing {
    Snapwire__V1__JobListResponse out;
    struct page page; /* max 0: all in one answer */
    size_t cap, bytes;
    bool one, no_memory;
    struct uuid id;
    struct volume *volume; /* whose are being added */
    struct request *req;
};

static bool job_list_grow(struct request *req, struct job_listing *l)
{
    size_t cap = l->cap == 0 ? 16 : l->cap * 2;
    Snapwire__V1__Job **grown = request_alloc(req, cap * sizeof(Snapwire__V1__Job *));
    if (grown == NULL)
        return false;
    if (l->cap > 0)
        memcpy(grown, l->out.jobs, l->out.n_jobs * sizeof(Snapwire__V1__Job *));
    l->out.jobs = grown;
    l->cap = cap;
    return true;
}

static bool job_list_add(const struct volume_job_status *s, void *user)
{
    struct job_listing *l = user;
    struct request *req = l->req;
    Snapwire__V1__Job *job = request_alloc(req, sizeof *job);
    if (job == NULL || !job_fill(req, l->volume, s, job) ||
        (l->out.n_jobs == l->cap && !job_list_grow(req, l))) {
        l->no_memory = true;
        return false;
    }
    l->bytes += protobuf_c_message_get_packed_size(&job->base) + PAGE_ENTRY_BYTES;
    l->out.jobs[l->out.n_jobs++] = job;
    return l->bytes <= page_room(req); /* the answer does not fit: no need for more */
}

static bool job_list_pick(const struct volume_job_status *s, void *user)
{
    struct job_listing *l = user;
    const struct uuid *volume = &l->volume->record.id;
    struct page_key key = page_key_of(volume->b, UUID_BYTES, s->job.b, UUID_BYTES);
    if (!page_wants(&l->page, &key))
        return true;
    struct job_pick *pick = request_alloc(l->req, sizeof *pick);
    if (pick == NULL) {
        l->no_memory = true;
        return false;
    }
    pick->volume = *volume;
    pick->job = s->job;
    page_put(&l->page, &key, pick);
    return true;
}

static void job_list_volume(struct volume *v, void *user)
{
    struct job_listing *l = user;
    if (v->leaving || v->opening || (l->one && !uuid_equal(&l->id, &v->record.id)) ||
        !request_allows(l->req, &v->record.id, ACL_RIGHT_SEE))
        return;
    l->volume = v;
    volume_job_each(v, l->page.max > 0 ? job_list_pick : job_list_add, l);
}

static void job_list_part(struct request *req)
{
    volume_set_each(&req->at->set, job_list_volume, req->op);
}

static void job_list_fill_part(struct request *req)
{
    struct job_listing *l = req->op;
    struct volume_job_status s;
    for (uint32_t i = 0; i < l->page.count && i < l->page.max && !l->no_memory; i++) {
        struct job_pick *pick = l->page.entries[i].item;
        struct volume *v = volume_set_find(&req->at->set, &pick->volume);
        if (v == NULL || volume_job_show(v, &pick->job, &s, NULL) < 0)
            continue;
        pick->out = request_alloc(req, sizeof *pick->out);
        l->no_memory = pick->out == NULL || !job_fill(req, v, &s, pick->out);
    }
}

static void job_list_end(struct request *req)
{
    struct job_listing *l = req->op;
    if (l->no_memory)
        request_no_memory(req);
    else
        request_reply(req, &l->out.base);
}

static void job_list_page_end(struct request *req)
{
    struct job_listing *l = req->op;
    uint32_t given = 0;
    size_t used = 0;
    l->out.jobs = request_alloc(req, ((size_t)l->page.max + 1) * sizeof(Snapwire__V1__Job *));
    l->no_memory = l->no_memory || l->out.jobs == NULL;
    for (; !l->no_memory && given < l->page.count && given < l->page.max; given++) {
        const struct job_pick *pick = l->page.entries[given].item;
        if (pick->out == NULL)
            continue;
        used += protobuf_c_message_get_packed_size(&pick->out->base) + PAGE_ENTRY_BYTES;
        if (used > page_room(req) && l->out.n_jobs > 0)
            break;
        l->out.jobs[l->out.n_jobs++] = pick->out;
    }
    l->out.next = page_next(&l->page, given);
    job_list_end(req);
}

static void job_list_picked(struct request *req)
{
    request_tour(req, job_list_fill_part, job_list_page_end);
}

void service_job_list(struct request *req)
{
    const Snapwire__V1__VolumeListRequest *in = REQUEST_IN(req, Snapwire__V1__VolumeListRequest);
    struct job_listing *l = request_alloc(req, sizeof *l);
    if (l == NULL) {
        request_no_memory(req);
        return;
    }
    snapwire__v1__job_list_response__init(&l->out);
    l->req = req;
    l->one = in->volume.len > 0;
    if ((l->one && !request_uuid(req, &in->volume, "volume", &l->id)) ||
        (in->max > 0 && !page_init(&l->page, req, &in->after, in->max, PAGE_JOBS_MAX)))
        return;
    req->op = l;
    request_tour(req, job_list_part, in->max > 0 ? job_list_picked : job_list_end);
}
