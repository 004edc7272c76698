/* SPDX-License-Identifier: Apache-2.0 */
/* PING, and the daemon at a glance. */
#include "daemon/service/server.h"

#include "daemon/service/metrics_text.h"
#include "daemon/service/watch.h"

#include <string.h>

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

static void status_nodes(struct status_op *op, const struct snapshot_list *nodes)
{
    const struct snapshot *s;
    TAILQ_FOREACH (s, nodes, link) {
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

static void status_stores(struct volume *v, void *user)
{
    status_nodes(user, &v->chain);
    status_nodes(user, &v->clones);
}

static void status_cache(struct status_op *op, const struct blk_cache *cache)
{
    struct blk_cache_stats c = blk_cache_stats(cache);
    op->out.cache_size_bytes += c.size_bytes;
    op->out.cache_used_bytes += c.used_bytes;
    op->out.cache_hits += c.hits;
    op->out.cache_misses += c.misses;
}

static void status_part(struct request *req)
{
    struct status_op *op = req->op;
    status_cache(op, req->at->shard->cache);
    volume_set_each(&req->at->set, metrics_part_volume, &op->sums);
    volume_set_each(&req->at->set, status_stores, op);
}

/* -- warnings ---------------------------------------------------------------------------- */

struct status_warnings {
    struct request *req;
    Snapwire__V1__ServerStatus *out;
    bool failed;
};

static void status_warning(void *user, const char *text)
{
    struct status_warnings *w = user;
    char *copy = request_strdup(w->req, text);
    if (copy != NULL)
        w->out->warnings[w->out->n_warnings++] = copy;
    else
        w->failed = true;
}

/* What is wrong now, and what was found at the start. */
static bool status_warn(struct request *req, Snapwire__V1__ServerStatus *out)
{
    const struct server *server = req->session->server;
    struct status_warnings w = {.req = req, .out = out};
    out->warnings =
        request_alloc(req, (server->warning_count + WATCH_WARNINGS_MAX) * sizeof(char *));
    if (out->warnings == NULL)
        return false;
    watch_warnings(server->env.state_dir, req->at->tls, &out->state_bytes_free, status_warning, &w);
    for (unsigned i = 0; i < server->warning_count; i++)
        out->warnings[out->n_warnings++] = server->warnings[i];
    return !w.failed;
}

static void status_end(struct request *req)
{
    struct server *server = req->session->server;
    struct status_op *op = req->op;
    Snapwire__V1__ServerStatus *out = &op->out;
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
        if (!status_warn(req, out)) {
            request_no_memory(req);
            return;
        }
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
