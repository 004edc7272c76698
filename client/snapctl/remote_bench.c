/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote bench: load of the kind that writers make, with a report.
 *
 * Made-up chunks go to the snapshot one put each, as many in flight as asked for; the
 * time from put to durable is each chunk's latency. What it writes is no volume's old
 * content, so it says to be the writer of a made-up origin: a volume that has ever
 * had a real one refuses it, and one that was benched refuses a real one.
 *
 * A hosted volume is written and read as a disk instead, see remote_bench_hosted.c.
 */
#include "client/snapctl/remote_bench.h"
#include "client/snapctl/remote_hist.h"
#include "client/snapctl/remote_hosted.h"
#include "client/snapctl/remote_writer.h"
#include "common/base/bytes.h"
#include "common/base/size.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_CHUNKS = 16384,
    DEFAULT_IN_FLIGHT = 512,
    IN_FLIGHT_MAX = 65536,
};

static const char fingerprint[] = "snapctl remote bench";

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
    struct bench_order order;
    uint8_t *pool;
    uint64_t pool_chunks;
    struct shot *shots, *free;
    uint64_t issued, answered, failed;
    struct hist latency_us;
    struct err err;
};

/* -- load ------------------------------------------------------------------------------------- */

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
        hist_add(&b->latency_us, (bench_now_ns() - s->start_ns) / 1000);
    s->next_free = b->free;
    b->free = s;
}

/* Put one more. Returns SNAPWIRE_WOULD_BLOCK when the stream has no room. */
static int shoot(struct bench *b, uint64_t chunk, struct err *reterr)
{
    struct shot *s = b->free;
    struct snapwire_error why = {0};
    const uint8_t *data = b->pool + b->issued % b->pool_chunks * b->target.chunk_bytes;
    s->start_ns = bench_now_ns();
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
    uint64_t end_ns = a->seconds ? bench_now_ns() + a->seconds * UINT64_C(1000000000) : UINT64_MAX;
    uint64_t total = a->chunks, chunk = bench_order_next(&b->order), before = 0;
    int rc = 0;
    while (rc == 0 && b->failed == 0) {
        bool more = b->issued < total && bench_now_ns() < end_ns && !cli_interrupted();
        while (more && b->free && rc == 0) {
            rc = shoot(b, chunk, reterr);
            if (rc == SNAPWIRE_WOULD_BLOCK)
                break;
            chunk = bench_order_next(&b->order);
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

/* -- report ----------------------------------------------------------------------------- */

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
        b->target.text, "pattern", b->order.sequential ? "sequential" : "random",
        "chunk_size_bytes", (json_int_t)b->target.chunk_bytes, "in_flight",
        (json_int_t)a->in_flight, "chunks", (json_int_t)b->answered, "chunks_added",
        (json_int_t)stream.chunks_added, "chunks_existed", (json_int_t)stream.chunks_existed,
        "batches", (json_int_t)stream.batches, "seconds", seconds, "chunks_per_s",
        (json_int_t)((double)b->answered / seconds), "mib_per_s", mib, "latency_p50_us",
        (json_int_t)hist_percentile(&b->latency_us, 500), "latency_p99_us",
        (json_int_t)hist_percentile(&b->latency_us, 990), "latency_max_us",
        (json_int_t)b->latency_us.max);
    if (o && !cli->json) {
        (void)json_object_set_new(o, "seconds_text", json_string(seconds_text));
        (void)json_object_set_new(o, "mib_text", json_string(mib_text));
    }
    return out_object(cli, o, columns, reterr);
}

/* -- the command ------------------------------------------------------------------------ */

static int make_buffers(struct bench *b, const struct bench_args *a, struct err *reterr)
{
    uint64_t chunk = b->target.chunk_bytes;
    b->pool_chunks = u64_max(BENCH_POOL_BYTES / chunk, 1);
    int rc = bench_pool_new(b->pool_chunks * chunk, &b->pool, reterr);
    if (rc < 0)
        return rc;
    b->shots = calloc(a->in_flight, sizeof *b->shots);
    if (!b->shots)
        return err_set(reterr, SNAP_ENOMEM, "buffers");
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

static int bench_stream(struct bench *b, struct cli *cli, struct bench_args *a, struct err *reterr)
{
    int rc = open_writer(b, cli, a, reterr);
    if (rc == 0)
        rc = make_buffers(b, a, reterr);
    if (rc < 0)
        return rc;
    uint64_t volume_chunks = u64_div_round_up(b->target.size_bytes, b->target.chunk_bytes);
    bench_order_init(&b->order, volume_chunks, a->sequential);
    if (a->chunks == 0)
        a->chunks = a->seconds ? UINT64_MAX : u64_min(DEFAULT_CHUNKS, volume_chunks);
    if (a->chunks > volume_chunks && a->chunks != UINT64_MAX)
        cli_note(cli, "%s has %" PRIu64 " chunks; the others will exist already", b->target.text,
                 volume_chunks);
    progress_start(&b->progress, cli, "bench", a->seconds ? 0 : a->chunks);
    b->progress.unit = PROGRESS_COUNT;
    uint64_t start_ns = bench_now_ns();
    rc = load(b, a, reterr);
    uint64_t elapsed_ns = bench_now_ns() - start_ns;
    progress_end(&b->progress);
    return rc < 0 ? rc : report(cli, b, a, elapsed_ns, reterr);
}

static int bench(struct bench *b, struct cli *cli, struct bench_args *a, struct err *reterr)
{
    int rc = remote_open(cli, &b->remote, reterr);
    cli_catch_signals(); /* until here there is nothing to end in good order */
    if (rc == 0)
        rc = remote_resolve(&b->remote, a->words.word[0], REMOTE_WANT_ANY, &b->target, reterr);
    if (rc < 0)
        return rc;
    if (b->target.hosted)
        return bench_hosted(cli, &b->remote, &b->target, a, reterr);
    if (a->write || a->read || a->unit_bytes || a->skip || a->fua)
        return err_set(reterr, SNAP_EINVAL,
                       "%s is not hosted: chunks are streamed to it, and --write, --read, --size, "
                       "--skip and --fua have no meaning",
                       b->target.name.volume);
    if (b->target.name.snapshot[0] == '\0')
        return err_set(reterr, SNAP_EINVAL, "which snapshot? %s@SNAPSHOT", b->target.name.volume);
    return bench_stream(b, cli, a, reterr);
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
    case 'w':
        a->write = true;
        return 0;
    case 'r':
        a->read = true;
        return 0;
    case 'F':
        a->fua = true;
        return 0;
    case 'y':
        a->yes = true;
        return 0;
    case 'S':
        a->unit_bytes = cli_size_arg(state, "--size", arg);
        if (a->unit_bytes == 0 || a->unit_bytes % SECTOR_BYTES != 0 ||
            a->unit_bytes > LIMIT_FRAME_PAYLOAD_BYTES)
            cli_usage_error(state, "--size: %s is no multiple of 512 from 512 to 16M", arg);
        return 0;
    case 'k':
        a->skip = number_arg(state, "--skip", arg, UINT64_C(1) << 50);
        return 0;
    case ARGP_KEY_END:
        if (a->write && a->read)
            cli_usage_error(state, "--write or --read, not both");
        if (a->fua && !a->write)
            cli_usage_error(state, "--fua is for --write");
        return remote_parse_word(key, arg, state);
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
        {.name = "in-flight",
         .key = 'f',
         .arg = "N",
         .doc = "unanswered chunks or requests; default 512"},
        {.name = "batch", .key = 'b', .arg = "SIZE", .doc = "most bytes in a frame; default 1M"},
        {.name = "pattern",
         .key = 'p',
         .arg = "PATTERN",
         .doc = "random (the default: each chunk once) or sequential"},
        {.name = "seconds", .key = 's', .arg = "N", .doc = "end after this time"},
        {.doc = "A hosted volume, a snapshot or a clone of it:", .group = 2},
        {.name = "write", .key = 'w', .doc = "write, which destroys the content", .group = 2},
        {.name = "read", .key = 'r', .doc = "read", .group = 2},
        {.name = "size",
         .key = 'S',
         .arg = "SIZE",
         .doc = "of one request; default: a chunk",
         .group = 2},
        {.name = "skip",
         .key = 'k',
         .arg = "N",
         .doc = "leave out the first N of the pattern, as an earlier run did them",
         .group = 2},
        {.name = "fua", .key = 'F', .doc = "each write is durable when answered", .group = 2},
        {.name = "yes", .key = 'y', .doc = "do not ask", .group = 2},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_bench,
        .args_doc = "VOLUME@SNAPSHOT\nVOLUME",
        .doc = "Stream made-up chunks to a snapshot and report throughput and latency. For a "
               "volume made for it: one that has had a real origin is refused. A hosted volume "
               "is written or read instead, as a disk is.",
        .children = remote_children,
    };
    struct bench_args a = {
        .words = {.least = 1, .most = 1, .missing = "of what? VOLUME[@SNAPSHOT]"},
        .in_flight = DEFAULT_IN_FLIGHT,
    };
    remote_parse(cli, &argp, argc, argv, &a);
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return err_set(reterr, SNAP_ENOMEM, "bench");
    int rc = bench(b, cli, &a, reterr);
    remote_writer_close(&b->writer);
    remote_close(&b->remote);
    free(b->shots);
    free(b->pool);
    free(b);
    return rc;
}
