/* SPDX-License-Identifier: Apache-2.0 */
/* A hosted volume written or read as a disk: so many requests under way, each of one size.
 *
 *   shoot ──> request ──answered──> shoot the next … until all are answered ──> flush ──> report
 *
 * A request's next one goes out when the turn of the loop has ended, so that what was answered
 * together is asked for together. Throughput counts the flush at the end of writing, latencies
 * do not. Reading throws away what it gets.
 *
 * It must not know of leases and streams. Thread: one, the library's.
 */
#include "client/snapctl/remote_bench.h"

#include "client/snapctl/remote_hist.h"
#include "client/snapctl/remote_hosted.h"
#include "common/base/bytes.h"

#include <inttypes.h>
#include <stdlib.h>

enum { DEFAULT_REQUESTS = 16384, TURN_MS = 200 };

struct hosted_bench;

struct hosted_shot {
    struct hosted_bench *bench;
    uint64_t start_ns;
    uint8_t *buf; /* read into */
    struct hosted_shot *next_free;
};

struct hosted_bench {
    struct remote *remote;
    const struct remote_target *target;
    const struct snapwire_uuid *node;
    const struct bench_args *args;
    struct bench_order order;
    struct progress progress;
    uint64_t unit_bytes;
    uint8_t *pool; /* written from, or read into */
    uint64_t pool_units;
    struct hosted_shot *shots, *free;
    uint64_t issued, answered, failed;
    struct hist latency_us;
    struct err err;
};

static void on_answer(void *user, const struct snapwire_error *error)
{
    struct hosted_shot *s = user;
    struct hosted_bench *b = s->bench;
    b->answered++;
    if (error && b->failed++ == 0)
        (void)remote_error(error, &b->err);
    if (!error)
        hist_add(&b->latency_us, (bench_now_ns() - s->start_ns) / 1000);
    s->next_free = b->free;
    b->free = s;
}

static int shoot(struct hosted_bench *b, struct err *reterr)
{
    struct hosted_shot *s = b->free;
    struct snapwire_error why = {0};
    uint64_t at = bench_order_next(&b->order) * b->unit_bytes;
    uint64_t len = u64_min(b->unit_bytes, b->target->size_bytes - at);
    int rc;
    s->start_ns = bench_now_ns();
    if (b->args->read)
        rc = snapwire_io_read(b->remote->client, &b->target->volume, b->node, at, len, s->buf,
                              on_answer, s, &why);
    else
        rc = snapwire_io_write(b->remote->client, &b->target->volume, b->node, at, len,
                               b->pool + b->issued % b->pool_units * b->unit_bytes,
                               b->args->fua ? SNAPWIRE_IO_FUA : 0, on_answer, s, &why);
    if (rc < 0)
        return remote_error(&why, reterr);
    b->free = s->next_free;
    b->issued++;
    return 0;
}

static int load(struct hosted_bench *b, uint64_t total, struct err *reterr)
{
    uint64_t seconds = b->args->seconds, before = 0;
    uint64_t end_ns = seconds ? bench_now_ns() + seconds * UINT64_C(1000000000) : UINT64_MAX;
    int rc = 0;
    for (;;) {
        bool more = rc == 0 && b->failed == 0 && b->issued < total && bench_now_ns() < end_ns &&
                    !cli_interrupted();
        while (more && b->free && rc == 0) {
            rc = shoot(b, reterr);
            more = b->issued < total;
        }
        if (!more && b->answered == b->issued)
            break;
        snapwire_client_turn(b->remote->client, TURN_MS);
        progress_add(&b->progress, b->answered - before);
        before = b->answered;
    }
    if (rc == 0 && b->failed > 0) {
        (void)err_copy(reterr, &b->err);
        rc = b->err.code;
    }
    return rc;
}

static int make_buffers(struct hosted_bench *b, struct err *reterr)
{
    uint64_t n = b->args->in_flight, pool = BENCH_POOL_BYTES / b->unit_bytes;
    b->pool_units = b->args->read ? n : u64_max(pool, 1);
    int rc = bench_pool_new(b->pool_units * b->unit_bytes, &b->pool, reterr);
    if (rc < 0)
        return rc;
    b->shots = calloc(n, sizeof *b->shots);
    if (!b->shots)
        return err_set(reterr, SNAP_ENOMEM, "buffers");
    for (uint64_t i = 0; i < n; i++) {
        b->shots[i] = (struct hosted_shot){.bench = b, .next_free = b->free};
        if (b->args->read)
            b->shots[i].buf = b->pool + i * b->unit_bytes;
        b->free = &b->shots[i];
    }
    return 0;
}

static int report(const struct cli *cli, const struct hosted_bench *b, uint64_t elapsed_ns,
                  struct err *reterr)
{
    static const struct out_column columns[] = {
        {"target", "Target", OUT_TEXT},
        {"operation", "Operation", OUT_TEXT},
        {"pattern", "Pattern", OUT_TEXT},
        {"size_bytes", "Size", OUT_SIZE},
        {"in_flight", "In flight", OUT_NUMBER},
        {"requests", "Requests", OUT_NUMBER},
        {"seconds_text", "Seconds", OUT_TEXT},
        {"requests_per_s", "Requests/s", OUT_NUMBER},
        {"mib_text", "MiB/s", OUT_TEXT},
        {"latency_p50_us", "Latency p50, us", OUT_NUMBER},
        {"latency_p99_us", "Latency p99, us", OUT_NUMBER},
        {"latency_max_us", "Latency max, us", OUT_NUMBER},
        {0},
    };
    char seconds_text[32], mib_text[32];
    double seconds = (double)elapsed_ns / 1e9;
    double mib = (double)(b->answered * b->unit_bytes) / (1024.0 * 1024.0) / seconds;
    (void)snprintf(seconds_text, sizeof seconds_text, "%.2f", seconds);
    (void)snprintf(mib_text, sizeof mib_text, "%.1f", mib);
    json_t *o = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:f, s:I, s:f, s:I, s:I, s:I}", "target",
                          b->target->text, "operation", b->args->read ? "read" : "write", "pattern",
                          b->order.sequential ? "sequential" : "random", "size_bytes",
                          (json_int_t)b->unit_bytes, "in_flight", (json_int_t)b->args->in_flight,
                          "requests", (json_int_t)b->answered, "seconds", seconds, "requests_per_s",
                          (json_int_t)((double)b->answered / seconds), "mib_per_s", mib,
                          "latency_p50_us", (json_int_t)hist_percentile(&b->latency_us, 500),
                          "latency_p99_us", (json_int_t)hist_percentile(&b->latency_us, 990),
                          "latency_max_us", (json_int_t)b->latency_us.max);
    if (o && !cli->json) {
        (void)json_object_set_new(o, "seconds_text", json_string(seconds_text));
        (void)json_object_set_new(o, "mib_text", json_string(mib_text));
    }
    return out_object(cli, o, columns, reterr);
}

static int run(struct cli *cli, struct hosted_bench *b, struct err *reterr)
{
    const struct bench_args *a = b->args;
    uint64_t units = u64_div_round_up(b->target->size_bytes, b->unit_bytes);
    uint64_t total = a->chunks;
    int rc = make_buffers(b, reterr);
    if (rc < 0)
        return rc;
    bench_order_init(&b->order, units, a->sequential);
    bench_order_skip(&b->order, a->skip);
    if (total == 0)
        total = a->seconds ? UINT64_MAX : u64_min(DEFAULT_REQUESTS, units);
    progress_start(&b->progress, cli, "bench", a->seconds ? 0 : total);
    b->progress.unit = PROGRESS_COUNT;
    uint64_t start_ns = bench_now_ns();
    rc = load(b, total, reterr);
    if (rc == 0 && a->write) {
        struct snapwire_error why = {0};
        if (snapwire_io_flush_sync(b->remote->client, &b->target->volume, b->node, &why) < 0)
            rc = remote_error(&why, reterr);
    }
    uint64_t elapsed_ns = bench_now_ns() - start_ns;
    progress_end(&b->progress);
    return rc < 0 ? rc : report(cli, b, elapsed_ns, reterr);
}

int bench_hosted(struct cli *cli, struct remote *r, const struct remote_target *t,
                 const struct bench_args *a, struct err *reterr)
{
    if (!a->write && !a->read)
        return err_set(reterr, SNAP_EINVAL, "%s is hosted: --write or --read?", t->name.volume);
    if (a->batch_bytes)
        return err_set(reterr, SNAP_EINVAL, "%s is hosted: there are no batches, see --size",
                       t->name.volume);
    if (a->in_flight > LIMIT_REQUESTS_INFLIGHT)
        return err_set(reterr, SNAP_EINVAL, "%s is hosted: --in-flight is at most %d",
                       t->name.volume, LIMIT_REQUESTS_INFLIGHT);
    if (a->write) {
        int rc = remote_confirm(a->yes, reterr, "The content of %s is overwritten.", t->text);
        if (rc < 0)
            return rc;
    }
    struct hosted_bench *b = calloc(1, sizeof *b);
    if (!b)
        return err_set(reterr, SNAP_ENOMEM, "bench");
    b->remote = r;
    b->target = t;
    b->node = remote_node(t);
    b->args = a;
    b->unit_bytes = a->unit_bytes ? a->unit_bytes : t->chunk_bytes ? t->chunk_bytes : 16384;
    int rc = run(cli, b, reterr);
    free(b->shots);
    free(b->pool);
    free(b);
    return rc;
}
