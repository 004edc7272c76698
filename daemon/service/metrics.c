/* SPDX-License-Identifier: Apache-2.0 */
/* Counters, and the OpenMetrics text made of them.
 *
 *   main: scrape ──(message)──> each part writes its volumes' lines ──> main joins them
 *
 * Counters of requests are atomics that main reads as they are. What belongs to volumes
 * is asked of their shards; one that does not answer in time is left out of the text.
 */
#include "daemon/service/metrics.h"

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "daemon/service/metrics_text.h"
#include "daemon/service/server.h"
#include "daemon/volume/job.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SCRAPE_WAIT_S = 2 };

const uint64_t metrics_bounds_us[METRICS_BUCKETS - 1] = {
    50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 500000, 2000000};

void metrics_time(struct metrics_histogram *h, uint64_t elapsed_ns)
{
    uint64_t us = elapsed_ns / 1000;
    unsigned i = 0;
    while (i < METRICS_BUCKETS - 1 && us > metrics_bounds_us[i])
        i++;
    metrics_add(&h->buckets[i], 1);
    metrics_add(&h->sum_us, us);
    metrics_add(&h->count, 1);
}

void metrics_request(struct metrics *m, unsigned method, int code, uint64_t elapsed_ns)
{
    metrics_add(&m->requests[method < METRICS_METHODS ? method : 0], 1);
    if (code < 0)
        metrics_add(&m->errors[-code < METRICS_CODES ? -code : 0], 1);
    enum metrics_latency kind = METRICS_OTHER;
    if (method == SNAPWIRE__V1__METHOD__METHOD_COW_PUT)
        kind = METRICS_PUT;
    else if (method == SNAPWIRE__V1__METHOD__METHOD_SNAPSHOT_READ)
        kind = METRICS_READ;
    else if (method == SNAPWIRE__V1__METHOD__METHOD_WRITE)
        kind = METRICS_WRITE;
    metrics_time(&m->latency[kind], elapsed_ns);
}

/* -- text ------------------------------------------------------------------------------- */

void metrics_text_add(struct metrics_text *t, const char *fmt, ...)
{
    va_list ap;
    if (t->failed)
        return;
    if (t->cap - t->len < 2048) {
        size_t cap = t->cap == 0 ? 16384 : t->cap * 2;
        char *grown = realloc(t->text, cap);
        if (grown == NULL) {
            t->failed = true;
            return;
        }
        t->text = grown;
        t->cap = cap;
    }
    va_start(ap, fmt);
    int n = vsnprintf(t->text + t->len, t->cap - t->len, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= t->cap - t->len)
        t->failed = true; /* a line has fewer than 2048 bytes: names have at most 128 */
    else
        t->len += (size_t)n;
}

/* With a line a snapshot. One family's values stand together in OpenMetrics, so each part fills
 * one text a family. */
static const struct metrics_family {
    const char *name, *type, *help;
} metrics_families[METRICS_FAMILIES] = {
    [FAMILY_ALLOCATED] = {"snapwire_cow_allocated_bytes", "gauge", "Fill of a COW device."},
    [FAMILY_LIMIT] = {"snapwire_cow_limit_bytes", "gauge", "What a COW device may grow to."},
    [FAMILY_EXCEPTIONS] = {"snapwire_cow_exceptions", "gauge", "Exceptions of a COW device."},
    [FAMILY_COMMITS] = {"snapwire_cow_commits", "counter", "Commits of a COW device."},
    [FAMILY_FLUSHES] = {"snapwire_cow_flushes", "counter", "Flushes of a COW device."},
    [FAMILY_ADDED] = {"snapwire_cow_chunks_added", "counter", "Chunks made exceptions."},
    [FAMILY_EXISTED] = {"snapwire_cow_chunks_existed", "counter", "Chunks that had one."},
    [FAMILY_FAILED] = {"snapwire_cow_chunks_failed", "counter", "Chunks that failed."},
};

static void metrics_snapshot(struct metrics_text *texts, const struct snapshot *s,
                             const char *volume, const char *name)
{
    struct cow_usage u;
    cow_store_usage(s->store, &u);
    const struct {
        enum metrics_family_id family;
        const char *suffix;
        uint64_t value;
    } lines[] = {
        {FAMILY_ALLOCATED, "", u.sectors_allocated * SECTOR_BYTES},
        {FAMILY_LIMIT, "", u.limit_sectors * SECTOR_BYTES},
        {FAMILY_EXCEPTIONS, "", u.exceptions},
        {FAMILY_COMMITS, "_total", u.commits},
        {FAMILY_FLUSHES, "_total", u.flushes},
        {FAMILY_ADDED, "_total", u.chunks_added},
        {FAMILY_EXISTED, "_total", u.chunks_existed},
        {FAMILY_FAILED, "_total", u.chunks_failed},
    };
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        metrics_text_add(&texts[lines[i].family], "%s%s{volume=\"%s\",snapshot=\"%s\"} %llu\n",
                         metrics_families[lines[i].family].name, lines[i].suffix, volume, name,
                         (unsigned long long)lines[i].value);
}

static bool metrics_count_job(const struct volume_job_status *s, void *user)
{
    unsigned *jobs = user;
    bool going = s->state == JOB_RUNNING || s->state == JOB_WAITING || s->state == JOB_CANCELLING;
    *jobs += going ? 1 : 0;
    return going; /* those that ended come last */
}

static void metrics_part_nodes(struct metrics_part *p, const struct volume *v,
                               const struct snapshot_list *nodes)
{
    const struct snapshot *s;
    TAILQ_FOREACH (s, nodes, link) {
        const struct record_snapshot *rs = snapshot_record(s);
        if (rs == NULL || rs->hidden || rs->undo)
            continue;
        p->states[snapshot_state(s, NULL, 0)]++;
        if (s->store != NULL && p->texts != NULL)
            metrics_snapshot(p->texts, s, v->record.name, rs->name);
    }
}

void metrics_part_volume(struct volume *v, void *user)
{
    struct metrics_part *p = user;
    if (v->leaving)
        return;
    p->volumes++;
    if (v->lease.phase != LEASE_FREE && !lease_expired(&v->lease, volume_now_ns(v)))
        p->leases++;
    volume_job_each(v, metrics_count_job, &p->jobs);
    metrics_part_nodes(p, v, &v->chain);
    metrics_part_nodes(p, v, &v->clones);
}

/* -- one scrape ------------------------------------------------------------------------------ */

struct scrape_part {
    struct loop_msg msg;
    struct scrape *scrape;
    struct part *part;
    struct metrics_text texts[METRICS_FAMILIES];
    struct metrics_part sums;
    bool answered;
};

/* Shared by main and the shards; the last one frees it. */
struct scrape {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned pending, refs, count;
    struct scrape_part parts[];
};

static void scrape_unref(struct scrape *s)
{
    pthread_mutex_lock(&s->lock);
    bool last = --s->refs == 0;
    pthread_mutex_unlock(&s->lock);
    if (!last)
        return;
    for (unsigned i = 0; i < s->count; i++)
        for (unsigned f = 0; f < METRICS_FAMILIES; f++)
            free(s->parts[i].texts[f].text);
    pthread_cond_destroy(&s->cond);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static void scrape_part_run(struct loop_msg *msg)
{
    struct scrape_part *p = CONTAINER_OF(msg, struct scrape_part, msg);
    struct scrape *s = p->scrape;
    p->sums.texts = p->texts;
    volume_set_each(&p->part->set, metrics_part_volume, &p->sums);
    pthread_mutex_lock(&s->lock);
    p->answered = true;
    s->pending--;
    pthread_cond_signal(&s->cond);
    pthread_mutex_unlock(&s->lock);
    scrape_unref(s);
}

static struct scrape *scrape_ask(struct server *server)
{
    unsigned n = server->part_count;
    struct scrape *s = calloc(1, sizeof *s + n * sizeof s->parts[0]);
    if (s == NULL)
        return NULL;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC); /* the other one may be set meanwhile */
    pthread_cond_init(&s->cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
    s->count = s->pending = n;
    s->refs = n + 1;
    for (unsigned i = 0; i < n; i++) {
        s->parts[i].scrape = s;
        s->parts[i].part = &server->parts[i];
        s->parts[i].msg.fn = scrape_part_run;
        shard_post(server->parts[i].shard, &s->parts[i].msg);
    }
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += SCRAPE_WAIT_S;
    pthread_mutex_lock(&s->lock);
    while (s->pending > 0 && pthread_cond_timedwait(&s->cond, &s->lock, &until) == 0)
        continue;
    return s; /* locked */
}

/* What stands above a family's values. */
static void scrape_head(struct metrics_text *out, const char *name, const char *type,
                        const char *help)
{
    metrics_text_add(out, "# TYPE %s %s\n# HELP %s %s\n", name, type, name, help);
}

/* A family of one value without labels: snapwire_NAME. */
static void scrape_gauge(struct metrics_text *out, const char *name, uint64_t value,
                         const char *help)
{
    metrics_text_add(out, "# TYPE snapwire_%s gauge\n# HELP snapwire_%s %s\nsnapwire_%s %llu\n",
                     name, name, help, name, (unsigned long long)value);
}

static void scrape_counter(struct metrics_text *out, const char *name, uint64_t value,
                           const char *help)
{
    metrics_text_add(out,
                     "# TYPE snapwire_%s counter\n# HELP snapwire_%s %s\nsnapwire_%s_total %llu\n",
                     name, name, help, name, (unsigned long long)value);
}

static void scrape_gauges(struct metrics_text *out, const struct scrape *s)
{
    static const char *const states[METRICS_STATES] = {
        "ok", "invalid", "merging", "damaged", "poisoned", "deleting", "unverified"};
    struct metrics_part sum = {.volumes = 0};
    for (unsigned i = 0; i < s->count; i++) {
        if (!s->parts[i].answered)
            continue;
        sum.volumes += s->parts[i].sums.volumes;
        sum.leases += s->parts[i].sums.leases;
        sum.jobs += s->parts[i].sums.jobs;
        for (unsigned n = 0; n < METRICS_STATES; n++)
            sum.states[n] += s->parts[i].sums.states[n];
    }
    scrape_gauge(out, "volumes", sum.volumes, "Volumes served.");
    scrape_head(out, "snapwire_snapshots", "gauge", "Snapshots by state.");
    for (unsigned n = 0; n < METRICS_STATES; n++)
        metrics_text_add(out, "snapwire_snapshots{state=\"%s\"} %u\n", states[n], sum.states[n]);
    scrape_gauge(out, "leases", sum.leases, "Writer leases that have not ended.");
    scrape_gauge(out, "jobs", sum.jobs, "Jobs that have not ended.");
    for (enum metrics_family_id f = 0; f < METRICS_FAMILIES; f++) {
        const struct metrics_family *family = &metrics_families[f];
        scrape_head(out, family->name, family->type, family->help);
        for (unsigned i = 0; i < s->count; i++) {
            const struct metrics_text *t = &s->parts[i].texts[f];
            if (!s->parts[i].answered || t->failed)
                continue;
            for (size_t at = 0; at < t->len; at += 1024) /* in pieces that a line may have */
                metrics_text_add(out, "%.*s", (int)u64_min(1024, t->len - at), t->text + at);
        }
    }
}

static uint64_t scrape_sum(const struct server *server, size_t offset)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < server->part_count; i++)
        sum += metrics_get((const void *)((const char *)&server->parts[i].metrics + offset));
    return sum;
}

static void scrape_histogram(struct metrics_text *out, const struct server *server,
                             const char *kind, size_t base)
{
    uint64_t below = 0;
    for (unsigned b = 0; b < METRICS_BUCKETS; b++) {
        below += scrape_sum(server, base + offsetof(struct metrics_histogram, buckets) +
                                        b * sizeof(uint64_t));
        if (b < METRICS_BUCKETS - 1)
            metrics_text_add(out, "snapwire_request_seconds_bucket{kind=\"%s\",le=\"%g\"} %llu\n",
                             kind, (double)metrics_bounds_us[b] / 1e6, (unsigned long long)below);
    }
    metrics_text_add(out, "snapwire_request_seconds_bucket{kind=\"%s\",le=\"+Inf\"} %llu\n", kind,
                     (unsigned long long)below);
    metrics_text_add(out, "snapwire_request_seconds_sum{kind=\"%s\"} %.6f\n", kind,
                     (double)scrape_sum(server, base + offsetof(struct metrics_histogram, sum_us)) /
                         1e6);
    metrics_text_add(out, "snapwire_request_seconds_count{kind=\"%s\"} %llu\n", kind,
                     (unsigned long long)below);
}

static void scrape_cache(struct metrics_text *out, const struct server *server)
{
    struct blk_cache_stats sum = {.size_bytes = 0};
    for (unsigned i = 0; i < server->part_count; i++) {
        struct blk_cache_stats one = blk_cache_stats(server->parts[i].shard->cache);
        sum.size_bytes += one.size_bytes;
        sum.used_bytes += one.used_bytes;
        sum.hits += one.hits;
        sum.misses += one.misses;
    }
    scrape_gauge(out, "cache_size_bytes", sum.size_bytes, "Memory that the block cache may use.");
    scrape_gauge(out, "cache_used_bytes", sum.used_bytes, "Memory that holds blocks.");
    scrape_counter(out, "cache_hits", sum.hits, "Reads answered from memory.");
    scrape_counter(out, "cache_misses", sum.misses, "Reads that went to the disk.");
}

static void scrape_counters(struct metrics_text *out, const struct server *server)
{
    scrape_head(out, "snapwire_requests", "counter", "Requests answered, by method.");
    for (unsigned i = 0; i < METRICS_METHODS; i++) {
        const struct method *m = method_find((uint16_t)i);
        if (m != NULL)
            metrics_text_add(
                out, "snapwire_requests_total{method=\"%s\"} %llu\n", m->name,
                (unsigned long long)scrape_sum(server, offsetof(struct metrics, requests) +
                                                           i * sizeof(uint64_t)));
    }
    scrape_head(out, "snapwire_request_errors", "counter", "Requests that failed, by code.");
    for (unsigned i = 1; i < METRICS_CODES; i++) {
        uint64_t n = scrape_sum(server, offsetof(struct metrics, errors) + i * sizeof(uint64_t));
        if (n > 0)
            metrics_text_add(out, "snapwire_request_errors_total{code=\"%s\"} %llu\n",
                             err_name(-(int)i), (unsigned long long)n);
    }
    static const struct {
        const char *name, *help;
        size_t offset;
    } counters[] = {
        {"payload_in_bytes", "Payload received.", offsetof(struct metrics, payload_in_bytes)},
        {"payload_out_bytes", "Payload sent.", offsetof(struct metrics, payload_out_bytes)},
        {"connections_opened", "Connections taken on.",
         offsetof(struct metrics, connections_opened)},
        {"connections_refused", "Connections beyond their client's limit.",
         offsetof(struct metrics, connections_refused)},
        {"leases_lost", "Writers told that their lease is gone.",
         offsetof(struct metrics, leases_lost)},
        {"hosted_reads", "Reads of hosted volumes, their snapshots and clones.",
         offsetof(struct metrics, hosted_reads)},
        {"hosted_read_bytes", "Bytes that these read.",
         offsetof(struct metrics, hosted_read_bytes)},
        {"hosted_writes", "Writes to hosted volumes and clones.",
         offsetof(struct metrics, hosted_writes)},
        {"hosted_write_bytes", "Bytes that these wrote.",
         offsetof(struct metrics, hosted_write_bytes)},
        {"hosted_zeroes", "Zeroings of hosted volumes and clones.",
         offsetof(struct metrics, hosted_zeroes)},
        {"hosted_flushes", "Flushes of hosted volumes and clones.",
         offsetof(struct metrics, hosted_flushes)},
    };
    for (size_t i = 0; i < ARRAY_LEN(counters); i++)
        scrape_counter(out, counters[i].name, scrape_sum(server, counters[i].offset),
                       counters[i].help);
    static const char *const kinds[METRICS_LATENCIES] = {"cow-put", "read", "write", "other"};
    scrape_head(out, "snapwire_request_seconds", "histogram", "Time to answer, by kind.");
    metrics_text_add(out, "# UNIT snapwire_request_seconds seconds\n");
    for (unsigned k = 0; k < METRICS_LATENCIES; k++)
        scrape_histogram(out, server, kinds[k],
                         offsetof(struct metrics, latency) + k * sizeof(struct metrics_histogram));
}

int metrics_scrape(struct server *server, char **ret_text, size_t *ret_len, struct err *reterr)
{
    struct scrape *s = scrape_ask(server);
    if (s == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for the metrics");
    struct metrics_text out = {.text = NULL};
    scrape_head(&out, "snapwire_build", "info", "The daemon's version.");
    metrics_text_add(&out, "snapwire_build_info{version=\"%s\"} 1\n", SNAPWIRE_VERSION);
    scrape_gauge(&out, "uptime_seconds",
                 (clock_now_ns(server->env.clock) - server->started_ns) / 1000000000,
                 "Time since the start.");
    scrape_gauge(&out, "connections", atomic_load(&server->connections), "Connections now.");
    scrape_gauges(&out, s);
    scrape_cache(&out, server);
    scrape_counters(&out, server);
    metrics_text_add(&out, "# EOF\n");
    pthread_mutex_unlock(&s->lock);
    scrape_unref(s);
    if (out.failed) {
        free(out.text);
        return err_set(reterr, SNAP_ENOMEM, "out of memory for the metrics");
    }
    *ret_text = out.text;
    *ret_len = out.len;
    return 0;
}
