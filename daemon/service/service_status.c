/* SPDX-License-Identifier: Apache-2.0 */
/* PING, the daemon at a glance, and its jobs. */
#include "daemon/service/server.h"

#include "daemon/service/metrics_text.h"
#include "daemon/volume/change.h"

#include <string.h>
#include <sys/statvfs.h>

void service_ping(struct request *req)
{
    const Snapwire__V1__PingRequest *in = REQUEST_IN(req, Snapwire__V1__PingRequest);
    Snapwire__V1__PingResponse out = SNAPWIRE__V1__PING_RESPONSE__INIT;
    out.data = in->data;
    request_reply(req, &out.base);
}

/* -- status ------------------------------------------------------------------------------ */

struct status_op {
    Snapwire__V1__ServerStatus out;
    struct metrics_part sums;
};

static void status_stores(struct volume *v, void *user)
{
    struct status_op *op = user;
    const struct snapshot *s;
    TAILQ_FOREACH (s, &v->chain, link) {
        struct cow_usage u;
        if (s->store == NULL)
            continue;
        cow_store_usage(s->store, &u);
        op->out.chunks_added += u.chunks_added;
        op->out.chunks_existed += u.chunks_existed;
        op->out.commits += u.commits;
        op->out.flushes += u.flushes;
        op->out.cow_bytes_used += u.sectors_allocated * SECTOR_BYTES;
    }
}

static void status_part(struct request *req)
{
    struct status_op *op = req->op;
    volume_set_each(&req->at->set, metrics_part_volume, &op->sums);
    volume_set_each(&req->at->set, status_stores, op);
}

static void status_end(struct request *req)
{
    struct server *server = req->session->server;
    struct status_op *op = req->op;
    Snapwire__V1__ServerStatus *out = &op->out;
    struct statvfs fs;
    char software[] = "snapwired " SNAPWIRE_VERSION;
    out->software = software;
    out->identity = req->session->peer.identity;
    out->uptime_s = (clock_now_ns(server->env.clock) - server->started_ns) / 1000000000;
    out->volumes = op->sums.volumes;
    out->leases = op->sums.leases;
    out->jobs = op->sums.jobs;
    for (unsigned i = 0; i < METRICS_STATES; i++)
        out->snapshots += op->sums.states[i];
    out->snapshots_invalid = op->sums.states[SNAPSHOT_INVALID];
    out->snapshots_damaged = op->sums.states[SNAPSHOT_DAMAGED];
    out->connections = atomic_load(&server->connections);
    out->shards = server->part_count;
    char *engine = request_strdup(req, blk_engine_kind(req->at->shard->engine));
    char *state_dir = request_strdup(req, server->env.state_dir);
    if (engine == NULL || state_dir == NULL) {
        request_no_memory(req);
        return;
    }
    out->io_engine = engine;
    /* where things are on the host, and what is wrong there, is the operator's business */
    if (request_allows(req, NULL, ACL_RIGHT_ADMIN)) {
        out->state_dir = state_dir;
        out->warnings = server->warnings;
        out->n_warnings = server->warning_count;
        if (statvfs(server->env.state_dir, &fs) == 0)
            out->state_bytes_free = (uint64_t)fs.f_bavail * fs.f_frsize;
    }
    request_reply(req, &out->base);
}

void service_server_status(struct request *req)
{
    struct status_op *op = request_alloc(req, sizeof *op);
    if (op == NULL) {
        request_no_memory(req);
        return;
    }
    snapwire__v1__server_status__init(&op->out);
    req->op = op;
    request_tour(req, status_part, status_end);
}

/* -- jobs -------------------------------------------------------------------------------- */

struct job_listing {
    Snapwire__V1__JobListResponse out;
    size_t cap;
    bool one, no_memory;
    struct uuid id;
};

static bool job_list_fill(struct request *req, struct volume *v, const struct hand_down_status *h,
                          Snapwire__V1__Job *job)
{
    char kind[] = "hand-down";
    snapwire__v1__job__init(job);
    job->job = request_bytes(req, h->snapshot.b, UUID_BYTES);
    job->kind = request_strdup(req, kind);
    job->volume_name = request_strdup(req, v->record.name);
    job->subject = request_strdup(req, h->name);
    job->state = request_strdup(req, h->state);
    job->done = h->done;
    job->total = h->total;
    return job->job.data != NULL && job->kind != NULL && job->volume_name != NULL &&
           job->subject != NULL && job->state != NULL;
}

static void job_list_add(struct volume *v, void *user)
{
    struct request *req = user;
    struct job_listing *l = req->op;
    struct hand_down_status h;
    if (v->leaving || (l->one && !uuid_equal(&l->id, &v->record.id)) ||
        !request_allows(req, &v->record.id, ACL_RIGHT_SEE) || !hand_down_status(v, &h))
        return;
    if (l->out.n_jobs == l->cap) {
        size_t cap = l->cap == 0 ? 16 : l->cap * 2;
        Snapwire__V1__Job **grown = request_alloc(req, cap * sizeof(Snapwire__V1__Job *));
        if (grown == NULL) {
            l->no_memory = true;
            return;
        }
        if (l->cap > 0)
            memcpy(grown, l->out.jobs, l->out.n_jobs * sizeof(Snapwire__V1__Job *));
        l->out.jobs = grown;
        l->cap = cap;
    }
    Snapwire__V1__Job *job = request_alloc(req, sizeof *job);
    if (job == NULL || !job_list_fill(req, v, &h, job))
        l->no_memory = true;
    else
        l->out.jobs[l->out.n_jobs++] = job;
}

static void job_list_part(struct request *req)
{
    volume_set_each(&req->at->set, job_list_add, req);
}

static void job_list_end(struct request *req)
{
    struct job_listing *l = req->op;
    if (l->no_memory)
        request_no_memory(req);
    else
        request_reply(req, &l->out.base);
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
    l->one = in->volume.len > 0;
    if (l->one && !request_uuid(req, &in->volume, "volume", &l->id))
        return;
    req->op = l;
    request_tour(req, job_list_part, job_list_end);
}
