/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote bench: load of the kind that writers make, with a report.
 *
 * Made-up chunks go to the snapshot one put each, as many in flight as asked for; the
 * time from put to durable is each chunk's latency. What it writes is no volume's old
 * content, so it says to be the writer of a made-up origin: a volume that has ever
 * had a real one refuses it, and one that was benched refuses a real one.
 *
 * A random pattern visits each chunk once, in an order that needs no memory: a
 * permutation of the numbers below the next power of two, those beyond the end left out.
 */
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_hist.h"
#include "client/snapctl/remote_writer.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/rng.h"
#include "common/base/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_CHUNKS = 16384,
    DEFAULT_IN_FLIGHT = 512,
    IN_FLIGHT_MAX = 65536,
    POOL_BYTES = 32 * 1024 * 1024,
    ALIGN_BYTES = 4096,
};

static const char fingerprint[] = "snapctl remote bench";

struct bench_args {
    struct remote_words words;
    uint64_t chunks, in_flight, batch_bytes, seconds;
    bool sequential;
};

struct bench;

struct shot {
    struct bench *bench;
    uint64_t start_ns;
    struct shot *next_free;
};

struct bench {
    struct remote remote;
    struct remote_target target;
    struct remote_writer writer;
    struct progress progress;
    uint64_t volume_chunks, span; /* span: the power of two that holds them */
    unsigned span_bits;
    uint64_t next; /* number of the sequence */
    bool sequential;
    uint8_t *pool;
    uint64_t pool_chunks;
    struct shot *shots, *free;
    uint64_t issued, answered, failed;
    struct hist latency_us;
    struct err err;
};

/* -- which chunk next --------------------------------------------------------------------- */

/* One to one on the numbers below span: odd factors and shifted exclusive-ors can be undone. */
static uint64_t permute(const struct bench *b, uint64_t x)
{
    uint64_t mask = b->span - 1;
    unsigned shift = b->span_bits / 2 + 1;
    x = (x * UINT64_C(0x9e3779b97f4a7c15)) & mask;
    x ^= x >> shift;
    x = (x * UINT64_C(0xbf58476d1ce4e5b9)) & mask;
    x ^= x >> shift;
    return x;
}

static uint64_t next_chunk(struct bench *b)
{
    uint64_t chunk;
    do {
        uint64_t n = b->next++;
        chunk = b->sequential ? n % b->volume_chunks : permute(b, n & (b->span - 1));
    } while (chunk >= b->volume_chunks);
    return chunk;
}

/* -- load ------------------------------------------------------------------------------------- */

static uint64_t now_ns(void)
{
    return clock_now_ns(clock_system());
}

static void on_put(void *user, uint64_t old_chunk, uint32_t count,
                   const struct snapwire_error *error)
{
    struct shot *s = user;
    struct bench *b = s->bench;
    (void)old_chunk;
    (void)count;
    b->answered++;
    if (error && b->failed++ == 0)
        (void)remote_error(error, &b->err);
    if (!error)
        hist_add(&b->latency_us, (now_ns() - s->start_ns) / 1000);
    s->next_free = b->free;
    b->free = s;
}

/* Put one more. Returns SNAPWIRE_WOULD_BLOCK when the stream has no room. */
static int shoot(struct bench *b, uint64_t chunk, struct err *reterr)
{
    struct shot *s = b->free;
    struct snapwire_error why = {0};
    const uint8_t *data = b->pool + b->issued % b->pool_chunks * b->target.chunk_bytes;
    s->start_ns = now_ns();
    int rc = snapwire_stream_put(b->writer.stream, chunk, 1, data, 0, on_put, s, &why);
    if (rc < 0)
        return remote_error(&why, reterr);
    if (rc == 0) {
        b->free = s->next_free;
        b->issued++;
    }
    return rc;
}

static int load(struct bench *b, const struct bench_args *a, struct err *reterr)
{
    uint64_t end_ns = a->seconds ? now_ns() + a->seconds * UINT64_C(1000000000) : UINT64_MAX;
    uint64_t total = a->chunks, chunk = next_chunk(b), before = 0;
    int rc = 0;
    while (rc == 0 && b->failed == 0) {
        bool more = b->issued < total && now_ns() < end_ns && !cli_interrupted();
        while (more && b->free && rc == 0) {
            rc = shoot(b, chunk, reterr);
            if (rc == SNAPWIRE_WOULD_BLOCK)
                break;
            chunk = next_chunk(b);
            more = b->issued < total;
        }
        if (rc < 0 || (!more && b->answered == b->issued))
            break;
        remote_writer_turn(&b->writer);
        progress_add(&b->progress, b->answered - before);
        before = b->answered;
        rc = remote_writer_check(&b->writer, reterr);
    }
    if (rc == 0 && b->failed > 0) {
        (void)err_copy(reterr, &b->err);
        rc = b->err.code;
    }
    return rc;
}

/* -- report --------------------------------------------------------------------------------------
 */

static int report(const struct cli *cli, const struct bench *b, const struct bench_args *a,
                  uint64_t elapsed_ns, struct err *reterr)
{
    static const struct out_column columns[] = {
        {"target", "Target", OUT_TEXT},
        {"pattern", "Pattern", OUT_TEXT},
        {"chunk_size_bytes", "Chunk size", OUT_SIZE},
        {"in_flight", "In flight", OUT_NUMBER},
        {"chunks", "Chunks", OUT_NUMBER},
        {"chunks_added", "  added", OUT_NUMBER},
        {"chunks_existed", "  existed", OUT_NUMBER},
        {"seconds_text", "Seconds", OUT_TEXT},
        {"chunks_per_s", "Chunks/s", OUT_NUMBER},
        {"mib_text", "MiB/s", OUT_TEXT},
        {"latency_p50_us", "Latency p50, us", OUT_NUMBER},
        {"latency_p99_us", "Latency p99, us", OUT_NUMBER},
        {"latency_max_us", "Latency max, us", OUT_NUMBER},
        {0},
    };
    struct snapwire_stream_stats stream;
    char seconds_text[32], mib_text[32];
    double seconds = (double)elapsed_ns / 1e9;
    double mib = (double)(b->answered * b->target.chunk_bytes) / (1024.0 * 1024.0) / seconds;
    snapwire_stream_stats(b->writer.stream, &stream, sizeof stream);
    (void)snprintf(seconds_text, sizeof seconds_text, "%.2f", seconds);
    (void)snprintf(mib_text, sizeof mib_text, "%.1f", mib);
    json_t *o = json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:f, s:I, s:I, s:I}", "target",
        b->target.text, "pattern", b->sequential ? "sequential" : "random", "chunk_size_bytes",
        (json_int_t)b->target.chunk_bytes, "in_flight", (json_int_t)a->in_flight, "chunks",
        (json_int_t)b->answered, "chunks_added", (json_int_t)stream.chunks_added, "chunks_existed",
        (json_int_t)stream.chunks_existed, "batches", (json_int_t)stream.batches, "seconds",
        seconds, "chunks_per_s", (json_int_t)((double)b->answered / seconds), "mib_per_s", mib,
        "latency_p50_us", (json_int_t)hist_percentile(&b->latency_us, 500), "latency_p99_us",
        (json_int_t)hist_percentile(&b->latency_us, 990), "latency_max_us",
        (json_int_t)b->latency_us.max);
    if (o && !cli->json) {
        (void)json_object_set_new(o, "seconds_text", json_string(seconds_text));
        (void)json_object_set_new(o, "mib_text", json_string(mib_text));
    }
    return out_object(cli, o, columns, reterr);
}

/* -- the command ---------------------------------------------------------------------------------
 */

static int make_buffers(struct bench *b, const struct bench_args *a, struct err *reterr)
{
    struct rng rng;
    uint64_t chunk = b->target.chunk_bytes;
    b->pool_chunks = u64_max(POOL_BYTES / chunk, 1);
    b->pool = aligned_alloc(ALIGN_BYTES, u64_align_up(b->pool_chunks * chunk, ALIGN_BYTES));
    b->shots = calloc(a->in_flight, sizeof *b->shots);
    if (!b->pool || !b->shots)
        return err_set(reterr, SNAP_ENOMEM, "buffers");
    rng_init(&rng, 1);
    rng_fill(&rng, b->pool, b->pool_chunks * chunk);
    for (uint64_t i = 0; i < a->in_flight; i++) {
        b->shots[i] = (struct shot){.bench = b, .next_free = b->free};
        b->free = &b->shots[i];
    }
    return 0;
}

static int open_writer(struct bench *b, const struct cli *cli, const struct bench_args *a,
                       struct err *reterr)
{
    const struct remote_writer_ask ask = {
        .cli = cli,
        .target = &b->target,
        .origin_size_bytes = b->target.size_bytes,
        .fingerprint = fingerprint,
        .fingerprint_bytes = sizeof fingerprint - 1,
    };
    int rc = remote_writer_open(&b->writer, &b->remote, &ask, reterr);
    if (rc == SNAP_EMISMATCH)
        return err_set(reterr, rc,
                       "volume %s has a real origin, whose snapshots bench would spoil; make a "
                       "volume for it",
                       b->target.name.volume);
    if (rc == 0)
        rc = remote_writer_check_head(&b->writer, reterr);
    if (rc < 0)
        return rc;
    const struct snapwire_stream_config config = {
        .size = sizeof config,
        .batch_bytes_max = (uint32_t)a->batch_bytes,
        .inflight_bytes_max = a->in_flight * b->target.chunk_bytes,
        .inflight_chunks_max = (uint32_t)a->in_flight,
    };
    return remote_writer_stream(&b->writer, &config, reterr);
}

static int bench(struct bench *b, struct cli *cli, struct bench_args *a, struct err *reterr)
{
    int rc = remote_open(cli, &b->remote, reterr);
    if (rc == 0)
        rc = remote_resolve(&b->remote, a->words.word[0], REMOTE_WANT_SNAPSHOT, &b->target, reterr);
    if (rc == 0)
        rc = open_writer(b, cli, a, reterr);
    if (rc == 0)
        rc = make_buffers(b, a, reterr);
    if (rc < 0)
        return rc;
    b->volume_chunks = u64_div_round_up(b->target.size_bytes, b->target.chunk_bytes);
    for (b->span = 1; b->span < b->volume_chunks; b->span *= 2)
        b->span_bits++;
    if (a->chunks == 0)
        a->chunks = a->seconds ? UINT64_MAX : u64_min(DEFAULT_CHUNKS, b->volume_chunks);
    if (a->chunks > b->volume_chunks && a->chunks != UINT64_MAX)
        cli_note(cli, "%s has %" PRIu64 " chunks; the others will exist already", b->target.text,
                 b->volume_chunks);
    progress_start(&b->progress, cli, "bench", a->seconds ? 0 : a->chunks);
    b->progress.unit = PROGRESS_COUNT;
    uint64_t start_ns = now_ns();
    rc = load(b, a, reterr);
    uint64_t elapsed_ns = now_ns() - start_ns;
    progress_end(&b->progress);
    return rc < 0 ? rc : report(cli, b, a, elapsed_ns, reterr);
}

static uint64_t number_arg(const struct argp_state *state, const char *option, const char *text,
                           uint64_t most)
{
    char *end = NULL;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || n == 0 || n > most)
        cli_usage_error(state, "%s: '%s' is no number from 1 to %" PRIu64, option, text, most);
    return n;
}

static error_t parse_bench(int key, char *arg, struct argp_state *state)
{
    struct bench_args *a = state->input;
    switch (key) {
    case 'n':
        a->chunks = number_arg(state, "--chunks", arg, UINT64_C(1) << 50);
        return 0;
    case 'f':
        a->in_flight = number_arg(state, "--in-flight", arg, IN_FLIGHT_MAX);
        return 0;
    case 'b':
        a->batch_bytes = cli_size_arg(state, "--batch", arg);
        if (a->batch_bytes == 0 || a->batch_bytes > LIMIT_FRAME_PAYLOAD_BYTES)
            cli_usage_error(state, "--batch: %s is not from 1 to 16M", arg);
        return 0;
    case 's':
        a->seconds = number_arg(state, "--seconds", arg, 86400);
        return 0;
    case 'p':
        a->sequential = strcmp(arg, "sequential") == 0;
        if (!a->sequential && strcmp(arg, "random") != 0)
            cli_usage_error(state, "--pattern: '%s' is none of: random, sequential", arg);
        return 0;
    default:
        return remote_parse_word(key, arg, state);
    }
}

int remote_cmd_bench(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "chunks",
         .key = 'n',
         .arg = "N",
         .doc = "how many; default 16384, or as many as there is time for"},
        {.name = "in-flight", .key = 'f', .arg = "N", .doc = "unanswered chunks; default 512"},
        {.name = "batch", .key = 'b', .arg = "SIZE", .doc = "most bytes in a frame; default 1M"},
        {.name = "pattern",
         .key = 'p',
         .arg = "PATTERN",
         .doc = "random (the default: each chunk once) or sequential"},
        {.name = "seconds", .key = 's', .arg = "N", .doc = "end after this time"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_bench,
        .args_doc = "VOLUME@SNAPSHOT",
        .doc = "Stream made-up chunks to a snapshot and report throughput and latency. For a "
               "volume made for it: one that has had a real origin is refused.",
        .children = remote_children,
    };
    struct bench_args a = {
        .words = {.least = 1, .most = 1, .missing = "which snapshot? VOLUME@SNAPSHOT"},
        .in_flight = DEFAULT_IN_FLIGHT,
    };
    remote_parse(cli, &argp, argc, argv, &a);
    cli_catch_signals();
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return err_set(reterr, SNAP_ENOMEM, "bench");
    b->sequential = a.sequential;
    int rc = bench(b, cli, &a, reterr);
    remote_writer_close(&b->writer);
    remote_close(&b->remote);
    free(b->shots);
    free(b->pool);
    free(b);
    return rc;
}
