/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote apply: overwrite a local origin with NEW, each old chunk durable on the
 * daemon before it is overwritten.
 *
 *     origin ─┐
 *             ├─ compare ──> old chunks ──> stream ──> durable ──> write NEW
 *     NEW   ──┘     └── equal: nothing to do
 *
 * It may stop anywhere: a chunk is either as it was, or its old content is on the
 * daemon. A second run finds those equal that are overwritten already, and of the
 * others the daemon keeps the first content that it got.
 * What is a hole in both is not read; a hole of NEW becomes one of the origin.
 */
#include "client/snapctl/remote_over.h"

#include "client/snapctl/remote_hosted.h"
#include "client/snapctl/remote_origin_args.h"
#include "client/snapctl/remote_sparse.h"
#include "common/base/bytes.h"
#include "common/base/size.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

struct apply_args {
    struct remote_origin_args at; /* first */
    const char *source;
};

static error_t parse_apply(int key, char *arg, struct argp_state *state)
{
    struct apply_args *a = state->input;
    if (key == 's') {
        a->source = arg;
        return 0;
    }
    if (key == ARGP_KEY_END && a->at.words.count > 0 && a->at.origin && !a->source)
        cli_usage_error(state, "--source is missing: what it is to be overwritten with");
    return remote_parse_origin(key, arg, state);
}

struct apply {
    struct remote remote;
    struct remote_target target;
    struct origin origin, source;
    struct remote_writer writer;
    struct over over;
    struct progress progress;
};

/* -- opening ---------------------------------------------------------------------------------- */

static int check_sizes(const struct apply *a, struct err *reterr)
{
    const struct origin *o = &a->origin, *s = &a->source;
    struct stat one, two;
    int rc = remote_check_size(&a->target, o->path, o->size_bytes, reterr);
    if (rc < 0)
        return rc;
    if (s->size_bytes != o->size_bytes)
        return err_set(reterr, SNAP_EMISMATCH,
                       "%s has %" PRIu64 " bytes, the origin %s has %" PRIu64
                       "; they must be equal, a volume keeps its size",
                       s->path, s->size_bytes, o->path, o->size_bytes);
    if (fstat(o->fd, &one) == 0 && fstat(s->fd, &two) == 0 &&
        (o->is_block && s->is_block ? one.st_rdev == two.st_rdev
                                    : one.st_dev == two.st_dev && one.st_ino == two.st_ino))
        return err_set(reterr, SNAP_EINVAL, "--origin and --source are the same, %s", s->path);
    return 0;
}

static int open_writer(struct apply *a, const struct cli *cli, const struct apply_args *args,
                       struct err *reterr)
{
    int rc = remote_origin_writer(&a->writer, &a->remote, &args->at, cli, &a->target, &a->origin,
                                  reterr);
    if (rc == 0)
        rc = remote_writer_check_head(&a->writer, reterr);
    if (rc < 0)
        return rc;
    uint64_t slot_bytes;
    unsigned slots;
    over_dimension(a->target.chunk_bytes, &slot_bytes, &slots);
    const struct snapwire_stream_config config = {
        .size = sizeof config,
        .inflight_bytes_max = slot_bytes * slots,
    };
    return remote_writer_stream(&a->writer, &config, reterr);
}

/* -- filling slots ---------------------------------------------------------------------- */

static int apply_all(struct apply *a, struct err *reterr)
{
    uint64_t at = 0, size = a->origin.size_bytes;
    while (at < size && !cli_interrupted()) {
        uint64_t data = remote_sparse_skip(&a->origin, &a->source, a->over.chunk_bytes, at);
        progress_add(&a->progress, data - at);
        at = data;
        if (at >= size)
            break;
        struct over_slot *s = NULL;
        int rc = over_take(&a->over, at, size - at, &s, reterr);
        if (rc == 0)
            rc = remote_sparse_read(&a->origin, at, s->len_bytes, s->old, a->over.chunk_bytes, NULL,
                                    reterr);
        if (rc == 0)
            rc = remote_sparse_read(&a->source, at, s->len_bytes, s->new, a->over.chunk_bytes,
                                    s->verdicts, reterr);
        if (rc < 0)
            return rc;
        over_filled(s);
        at += s->len_bytes;
    }
    int rc = over_finish(&a->over, reterr);
    if (rc == 0 && at < size)
        rc = err_set(reterr, SNAP_ECANCELED,
                     "stopped with %" PRIu64 " of %" PRIu64 " bytes done; run it again to go on",
                     at, size);
    return rc;
}

/* -- the command ------------------------------------------------------------------------ */

static int report(const struct cli *cli, const struct apply *a, struct err *reterr)
{
    struct snapwire_stream_stats stream;
    const struct over_stats *over = &a->over.stats;
    snapwire_stream_stats(a->writer.stream, &stream, sizeof stream);
    if (cli->json)
        return out_object(cli,
                          json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "target",
                                    a->target.text, "size_bytes", (json_int_t)a->origin.size_bytes,
                                    "chunk_size_bytes", (json_int_t)a->target.chunk_bytes,
                                    "bytes_written", (json_int_t)over->bytes_written,
                                    "chunks_written", (json_int_t)over->chunks_written,
                                    "chunks_added", (json_int_t)stream.chunks_added,
                                    "chunks_existed",
                                    (json_int_t)(stream.chunks_existed + over->chunks_known),
                                    "bytes_sent", (json_int_t)stream.bytes),
                          NULL, reterr);
    char written[24], sent[24];
    cli_note(cli,
             "%s: %s in %" PRIu64 " chunks overwritten; %" PRIu64
             " old chunks kept, %s sent, %" PRIu64 " were there already",
             a->origin.path, size_format(over->bytes_written, written, sizeof written),
             over->chunks_written, stream.chunks_added,
             size_format(stream.bytes, sent, sizeof sent),
             stream.chunks_existed + over->chunks_known);
    return 0;
}

/* What helps when the snapshot takes no more. The origin is whole: what is not overwritten is
 * as it was. */
static int explain_full(int rc, struct err *reterr)
{
    char text[ERR_TEXT_BYTES];
    if ((rc != SNAP_ENOSPC && rc != SNAP_EINVALID) || !reterr)
        return rc;
    (void)snprintf(text, sizeof text, "%s", reterr->text);
    return err_set(reterr, rc,
                   "%.340s; to go on, make %sa new snapshot%s, then run again naming %s", text,
                   rc == SNAP_ENOSPC ? "room on the daemon's disk or " : "",
                   rc == SNAP_ENOSPC ? " with a higher --cow-size" : "",
                   rc == SNAP_ENOSPC ? "the newest" : "it");
}

static int apply(struct apply *a, struct cli *cli, const struct apply_args *args,
                 struct err *reterr)
{
    int rc = origin_open(args->at.origin, true, &a->origin, reterr);
    if (rc == 0)
        rc = origin_open(args->source, false, &a->source, reterr);
    if (rc == 0)
        rc = remote_open(cli, &a->remote, reterr);
    cli_catch_signals(); /* until here there is nothing to end in good order */
    if (rc == 0)
        rc = remote_resolve(&a->remote, args->at.words.word[0], REMOTE_WANT_SNAPSHOT, &a->target,
                            reterr);
    if (rc == 0)
        rc = remote_want_remote(&a->target, "overwrite it with snapctl remote import", reterr);
    if (rc == 0)
        rc = check_sizes(a, reterr);
    if (rc == 0)
        rc = open_writer(a, cli, args, reterr);
    if (rc == 0)
        rc = over_init(&a->over, &a->writer, &a->origin, &a->progress, true, reterr);
    if (rc < 0)
        return rc;
    progress_start(&a->progress, cli, "apply", a->origin.size_bytes);
    rc = explain_full(apply_all(a, reterr), reterr);
    progress_end(&a->progress);
    if (rc == 0)
        rc = report(cli, a, reterr);
    return rc;
}

int remote_cmd_apply(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        REMOTE_ORIGIN_OPTION("the disk that is overwritten"),
        {.name = "source", .key = 's', .arg = "NEW", .doc = "what it is overwritten with"},
        REMOTE_WRITER_OPTIONS,
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_apply,
        .args_doc = "VOLUME@SNAPSHOT",
        .doc = "Overwrite ORIGIN with NEW, chunk by chunk, after each old chunk is durable on the "
               "daemon. SNAPSHOT must be the volume's newest. May be stopped and run again at any "
               "point.",
        .children = remote_children,
    };
    struct apply_args args = {
        .at = {.words = {.least = 1,
                         .most = 1,
                         .missing = "which snapshot? VOLUME@SNAPSHOT, the newest"},
               .origin_is = "the disk that is to be overwritten"}};
    remote_parse(cli, &argp, argc, argv, &args);
    struct apply a = {.origin = ORIGIN_INIT, .source = ORIGIN_INIT};
    int rc = apply(&a, cli, &args, reterr);
    over_stop(&a.over);
    remote_writer_close(&a.writer);
    remote_close(&a.remote);
    over_done(&a.over);
    origin_close(&a.source);
    origin_close(&a.origin);
    return rc;
}
