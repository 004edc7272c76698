/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote export: a snapshot's content, from the origin and the daemon. What the daemon
 * has as a whole is remote_export_hosted.c's.
 *
 *   slot   offset ──> read the origin ──> ask for the exceptions ──> answered ──> to the sink
 *   ring   [ n ] [ n+1 ] [ n+2 ] …  asked for in order, written in order
 *
 * Several slots are asked for at once, each into a buffer of the sink, which writes by a
 * thread of its own: origin, daemon, cipher and output all work at the same time.
 *
 * What the origin has is not worth reading where exceptions cover all of it. So while
 * slots come back full of exceptions the next ones are asked for at once; one that turns
 * out to need the origin is begun again, and the origin is read before all that follow,
 * until a slot comes back full.
 *
 * A writer may be at work meanwhile. It makes a chunk's exception durable before it
 * overwrites the chunk, so for each range the origin is read first and the daemon is
 * asked after: if the origin had been overwritten when we read it, the exception is
 * there, and it wins. For the same reason a hole of the origin may be passed over
 * only when, after it was seen, the daemon says that no exception lies in it.
 *
 * Blocking face of the library; the callbacks only mark a slot.
 */
#include "client/snapctl/remote_hosted.h"
#include "client/snapctl/remote_origin_args.h"
#include "client/snapctl/remote_sparse.h"
#include "client/snapctl/sink.h"
#include "common/base/bytes.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLOTS = SINK_BUFS / 2,         /* asked for at once; the other half is being written */
    ASK_SLOTS = 16,                /* holes of that many slots are worth a question */
    AHEAD_BYTES = 4 * 1024 * 1024, /* the origin is fetched that far before it is read */
    TURN_MS = 200,
};

struct export;

struct slot {
    struct export *export;
    struct sink_buf *buf;
    bool busy;
    bool has_origin; /* what the origin had before we asked is in the buffer */
    bool again;      /* it was asked for without, and needs it */
};

struct export
{
    struct remote remote;
    struct remote_target target;
    struct origin origin;
    struct sink *sink;
    struct progress progress;
    struct slot slots[SLOTS];
    uint64_t slot_bytes;
    uint64_t filled, written; /* slots, ever; the ring is what lies between */
    uint64_t ask_from_bytes;  /* holes before it are not asked about again */
    bool origin_first;        /* what came last needed the origin */
    int code;
    struct err err;
};

/* -- slots --------------------------------------------------------------------------------- */

static void fail(struct export *x, int code, const struct err *why)
{
    if (x->code == 0) {
        x->code = code;
        (void)err_copy(&x->err, why);
    }
}

static void on_read(void *user, const struct snapwire_error *error,
                    const struct snapwire_extent *extents, size_t count)
{
    struct slot *s = user;
    struct err err = ERR_INIT;
    bool needs_origin = false;
    s->busy = false;
    if (error)
        fail(s->export, remote_error(error, &err), &err);
    for (size_t i = 0; i < count; i++) /* the rest is in the buffer already */
        needs_origin = needs_origin || extents[i].kind == SNAPWIRE_EXTENT_ORIGIN;
    s->again = needs_origin && !s->has_origin;
    s->export->origin_first = needs_origin;
}

static int slot_ask(struct slot *s, bool origin_first, struct err *reterr)
{
    struct export *x = s->export;
    struct sink_buf *buf = s->buf;
    struct snapwire_error why = {0};
    int rc = 0;
    s->again = false;
    s->has_origin = origin_first;
    if (origin_first)
        rc = remote_sparse_read(&x->origin, buf->offset_bytes, buf->len_bytes, buf->data, 0, NULL,
                                reterr);
    if (rc < 0)
        return rc;
    const struct snapwire_read args = {
        .size = sizeof args,
        .volume = x->target.volume,
        .snapshot = x->target.snapshot,
        .offset_bytes = buf->offset_bytes,
        .len_bytes = (uint32_t)buf->len_bytes,
        .buf = buf->data,
    };
    if (snapwire_snapshot_read(x->remote.client, &args, on_read, s, &why) < 0)
        return remote_error(&why, reterr);
    s->busy = true;
    return 0;
}

/* Begin the slot of what is at *at_bytes, and move that behind it. */
static int slot_start(struct export *x, struct sink_buf *buf, uint64_t *at_bytes,
                      struct err *reterr)
{
    struct slot *s = &x->slots[x->filled++ % SLOTS];
    *s = (struct slot){.export = x, .buf = buf};
    buf->offset_bytes = *at_bytes;
    buf->len_bytes = u64_min(x->slot_bytes, x->origin.size_bytes - *at_bytes);
    *at_bytes += buf->len_bytes;
    if (x->origin_first)
        origin_will_need(&x->origin, *at_bytes, AHEAD_BYTES);
    return slot_ask(s, x->origin_first, reterr);
}

/* Ask once more for those that need the origin after all. */
static int slots_again(struct export *x, struct err *reterr)
{
    int rc = 0;
    for (uint64_t i = x->written; rc == 0 && i < x->filled; i++)
        if (x->slots[i % SLOTS].again)
            rc = slot_ask(&x->slots[i % SLOTS], true, reterr);
    return rc;
}

/* The oldest slots that have been answered are written. */
static void slots_finish(struct export *x)
{
    while (x->written < x->filled && !x->slots[x->written % SLOTS].busy) {
        struct slot *s = &x->slots[x->written++ % SLOTS];
        progress_add(&x->progress, s->buf->len_bytes);
        sink_put(x->sink, s->buf);
        s->buf = NULL;
    }
}

/* -- holes ----------------------------------------------------------------------------------- */

static int on_first_run(void *user, const struct snapwire_run *runs, size_t count,
                        uint32_t chunk_size_sectors)
{
    uint64_t *first_bytes = user;
    if (count == 0)
        return 0;
    *first_bytes = runs[0].old_chunk * chunk_size_sectors * SECTOR_BYTES;
    return 1;
}

/* Where reading must go on: behind a large hole of the origin that has no exceptions either,
 * else at the same place. */
static int skip_hole(struct export *x, uint64_t *at_bytes, struct err *reterr)
{
    struct snapwire_error why = {0};
    bool hole = false;
    uint64_t at = *at_bytes, chunk = x->target.chunk_bytes;
    uint64_t end = origin_extent_end(&x->origin, at, &hole);
    if (!hole || at < x->ask_from_bytes || end - at < ASK_SLOTS * x->slot_bytes)
        return 0;
    uint64_t first = end;
    const struct snapwire_run_list args = {
        .size = sizeof args,
        .volume = x->target.volume,
        .snapshot = x->target.snapshot,
        .start_chunk = at / chunk,
        .end_chunk = u64_div_round_up(end, chunk),
    };
    if (snapwire_run_each_sync(x->remote.client, &args, on_first_run, &first, &why) < 0)
        return remote_error(&why, reterr);
    if (first < end || end < x->origin.size_bytes)
        first -= first % u64_max(chunk, SINK_ALIGN_BYTES);
    if (first < at + x->slot_bytes)
        x->ask_from_bytes = at + ASK_SLOTS * x->slot_bytes;
    if (first > at) {
        progress_add(&x->progress, first - at);
        *at_bytes = first;
    }
    return 0;
}

/* -- the whole --------------------------------------------------------------------------------- */

/* One step: a new slot where there is room for one, else wait until there is. */
static int export_step(struct export *x, uint64_t *at_bytes, struct err *reterr)
{
    struct sink_buf *buf = NULL;
    int rc = 0;
    if (*at_bytes < x->origin.size_bytes && x->filled - x->written < SLOTS) {
        if (x->filled > x->written)
            buf = sink_take_free(x->sink);
        else /* nothing is asked for: only the writer can be waited for */
            rc = sink_take(x->sink, &buf, reterr);
        if (rc < 0)
            return rc;
    }
    if (buf)
        rc = slot_start(x, buf, at_bytes, reterr);
    snapwire_client_turn(x->remote.client, buf ? 0 : TURN_MS);
    return rc;
}

static int export_all(struct export *x, struct err *reterr)
{
    uint64_t at = 0, size = x->origin.size_bytes;
    int rc = 0;
    while (rc == 0) {
        if (at < size)
            rc = skip_hole(x, &at, reterr);
        if (x->code < 0) {
            (void)err_copy(reterr, &x->err);
            return x->code;
        }
        if (rc == 0)
            rc = slots_again(x, reterr);
        if (rc == 0)
            slots_finish(x);
        if (rc == 0 && at >= size && x->written == x->filled)
            break;
        if (rc == 0 && cli_interrupted())
            return err_set(reterr, SNAP_ECANCELED, "stopped");
        if (rc == 0)
            rc = sink_check(x->sink, reterr);
        if (rc == 0)
            rc = export_step(x, &at, reterr);
    }
    return rc;
}

/* The snapshot must not be rolled back meanwhile: then exceptions vanish, after the origin got
 * what they hold, but perhaps before we read it. *exceptions: how many there were; at least as
 * many there must be. */
static int check_not_merged(struct export *x, uint64_t *exceptions, struct err *reterr)
{
    struct snapwire_error why = {0};
    struct snapwire_snapshot *s = NULL;
    if (snapwire_snapshot_show_sync(x->remote.client, &x->target.volume, &x->target.snapshot, &s,
                                    &why) < 0)
        return remote_error(&why, reterr);
    bool merged = s->state == SNAPWIRE_SNAPSHOT_MERGING || s->exceptions < *exceptions;
    *exceptions = s->exceptions;
    snapwire_free(s);
    return merged ? err_set(
                        reterr, SNAP_EBUSY,
                        "%s is being merged into its origin, or was cut off in that; finish it, or "
                        "end it with snapctl remote merge --abort",
                        x->target.text)
                  : 0;
}

struct export_args {
    struct remote_origin_args at; /* first */
    const char *output;
    bool resume;
};

static int open_sink(struct export *x, const struct export_args *a, struct err *reterr)
{
    x->slot_bytes = u64_min(SINK_BUF_BYTES, snapwire_client_payload_bytes_max(x->remote.client));
    x->slot_bytes -=
        x->slot_bytes % (x->slot_bytes < SINK_ALIGN_BYTES ? SECTOR_BYTES : SINK_ALIGN_BYTES);
    int rc = sink_open(a->output, x->origin.size_bytes, &x->sink, reterr);
    if (rc == 0)
        rc = sink_check_apart(x->sink, a->at.origin, reterr);
    return rc;
}

static int export_run(struct export *x, struct cli *cli, const struct export_args *a,
                      struct err *reterr)
{
    const char *word = a->at.words.word[0];
    uint64_t exceptions = 0;
    int rc = a->at.origin ? origin_open(a->at.origin, false, &x->origin, reterr) : 0;
    if (rc == 0)
        rc = remote_open(cli, &x->remote, reterr);
    cli_catch_signals(); /* until here there is nothing to end in good order */
    if (rc == 0)
        rc = remote_resolve(&x->remote, word, REMOTE_WANT_ANY, &x->target, reterr);
    if (rc == 0 && !x->target.hosted) /* its volume cannot be exported: it is not there */
        rc = remote_resolve(&x->remote, word, REMOTE_WANT_SNAPSHOT, &x->target, reterr);
    if (rc == 0)
        rc = remote_check_origin(&a->at, &x->target, reterr);
    if (rc == 0 && x->target.hosted && a->at.new_origin)
        rc = err_set(reterr, SNAP_EINVAL, "--new-origin is for remote volumes; %s is hosted",
                     x->target.name.volume);
    if (rc == 0 && x->target.hosted)
        return remote_export_hosted(cli, &x->remote, &x->target, a->output, a->resume, reterr);
    if (rc == 0 && a->resume)
        rc = err_set(reterr, SNAP_EINVAL, "--resume is for hosted volumes; %s is remote",
                     x->target.name.volume);
    if (rc == 0)
        rc = remote_check_size(&x->target, x->origin.path, x->origin.size_bytes, reterr);
    if (rc == 0)
        rc = remote_check_same_origin(&a->at, &x->target, &x->origin, reterr);
    if (rc == 0)
        rc = check_not_merged(x, &exceptions, reterr);
    if (rc == 0)
        rc = open_sink(x, a, reterr);
    if (rc < 0)
        return rc;
    progress_start(&x->progress, cli, "export", x->origin.size_bytes);
    rc = export_all(x, reterr);
    progress_end(&x->progress);
    if (rc == 0)
        rc = check_not_merged(x, &exceptions, reterr);
    if (rc == 0)
        rc = sink_finish(x->sink, reterr);
    return rc;
}

static error_t parse_export(int key, char *arg, struct argp_state *state)
{
    struct export_args *a = state->input;
    switch (key) {
    case 'o':
        a->output = arg;
        return 0;
    case 'r':
        a->resume = true;
        return 0;
    default:
        return remote_parse_origin(key, arg, state);
    }
}

int remote_cmd_export(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        REMOTE_ORIGIN_OPTION("of a remote volume: the disk that the snapshot is of"),
        REMOTE_NEW_ORIGIN_OPTION,
        {.name = "output",
         .key = 'o',
         .arg = "FILE",
         .doc = "a new file (sparse), a block device, or - for standard output (the default)"},
        {.name = "resume",
         .key = 'r',
         .doc = "go on with an export that was cut off (of snapshots of hosted volumes)"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_export,
        .args_doc = "VOLUME@SNAPSHOT|VOLUME",
        .doc = "Write out what the origin held when the snapshot was taken. A writer may be at "
               "work meanwhile. Of a hosted volume the daemon has all, and VOLUME by itself is "
               "what it holds now.",
        .children = remote_children,
    };
    struct export_args a = {
        .at = {.words = {.least = 1, .most = 1, .missing = "which snapshot? VOLUME@SNAPSHOT"},
               .origin_is = "the disk that the snapshot is of",
               .may_be_hosted = true}};
    remote_parse(cli, &argp, argc, argv, &a);
    struct export *x = calloc(1, sizeof *x);
    if (!x)
        return err_set(reterr, SNAP_ENOMEM, "export");
    x->origin = ORIGIN_INIT;
    int rc = export_run(x, cli, &a, reterr);
    remote_close(&x->remote); /* before the buffers that answers go to */
    sink_close(x->sink);
    origin_close(&x->origin);
    free(x);
    return rc;
}
