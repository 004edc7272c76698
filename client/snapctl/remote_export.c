/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote export: a snapshot's content, from the origin and the daemon.
 *
 *   slot   offset ──> read the origin ──> ask for the exceptions ──> answered ──> written
 *   ring   [ n ] [ n+1 ] [ n+2 ] …  asked for in order, written in order
 *
 * A writer may be at work meanwhile. It makes a chunk's exception durable before it
 * overwrites the chunk, so for each range the origin is read first and the daemon is
 * asked after: if the origin had been overwritten when we read it, the exception is
 * there, and it wins. For the same reason a hole of the origin may be passed over
 * only when, after it was seen, the daemon says that no exception lies in it.
 *
 * Blocking face of the library; the callbacks only mark a slot.
 */
#include "client/snapctl/origin.h"
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_connect.h"
#include "client/snapctl/remote_sparse.h"
#include "common/base/bytes.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLOT_BYTES = 4 * 1024 * 1024,
    SLOTS = 6,
    SLOT_CHUNKS_MAX = 4096, /* extents of one answer */
    ASK_SLOTS = 4,          /* holes of that many slots are worth a question */
    ALIGN_BYTES = 4096,
    TURN_MS = 200,
};

struct export;

struct slot {
    struct export *export;
    uint64_t offset_bytes, len_bytes;
    bool busy;
    uint8_t *buf;
};

struct export
{
    struct remote remote;
    struct remote_target target;
    struct origin origin;
    struct sink sink;
    struct progress progress;
    struct slot slots[SLOTS];
    uint64_t slot_bytes;
    uint64_t filled, written; /* slots, ever; the ring is what lies between */
    uint64_t ask_from_bytes;  /* holes before it are not asked about again */
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
    (void)extents; /* what they say is in the buffer already */
    (void)count;
    s->busy = false;
    if (error)
        fail(s->export, remote_error(error, &err), &err);
}

/* Begin the slot of what is at *at_bytes, and move that behind it. */
static int slot_start(struct export *x, uint64_t *at_bytes, struct err *reterr)
{
    uint64_t offset_bytes = *at_bytes;
    struct slot *s = &x->slots[x->filled % SLOTS];
    struct snapwire_error why = {0};
    s->export = x;
    s->offset_bytes = offset_bytes;
    s->len_bytes = u64_min(x->slot_bytes, x->origin.size_bytes - offset_bytes);
    int rc = remote_sparse_read(&x->origin, offset_bytes, s->len_bytes, s->buf, 0, NULL, reterr);
    if (rc < 0)
        return rc;
    const struct snapwire_read args = {
        .size = sizeof args,
        .volume = x->target.volume,
        .snapshot = x->target.snapshot,
        .offset_bytes = offset_bytes,
        .len_bytes = (uint32_t)s->len_bytes,
        .buf = s->buf,
    };
    if (snapwire_snapshot_read(x->remote.client, &args, on_read, s, &why) < 0)
        return remote_error(&why, reterr);
    s->busy = true;
    x->filled++;
    *at_bytes += s->len_bytes;
    return 0;
}

/* Write the oldest slot, when it is there. */
static int slot_finish(struct export *x, struct err *reterr)
{
    struct slot *s = &x->slots[x->written % SLOTS];
    while (s->busy && x->code == 0) {
        if (cli_interrupted())
            return err_set(reterr, SNAP_ECANCELED, "stopped");
        snapwire_client_turn(x->remote.client, TURN_MS);
    }
    if (x->code < 0) {
        (void)err_copy(reterr, &x->err);
        return x->code;
    }
    int rc = sink_write(&x->sink, s->offset_bytes, s->buf, s->len_bytes, reterr);
    progress_add(&x->progress, s->len_bytes);
    x->written++;
    return rc;
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
        first -= first % chunk;
    if (first < at + x->slot_bytes)
        x->ask_from_bytes = at + ASK_SLOTS * x->slot_bytes;
    if (first > at) {
        progress_add(&x->progress, first - at);
        *at_bytes = first;
    }
    return 0;
}

/* -- the whole --------------------------------------------------------------------------------- */

static int export_all(struct export *x, struct err *reterr)
{
    uint64_t at = 0, size = x->origin.size_bytes;
    int rc = 0;
    while (rc == 0 && (at < size || x->written < x->filled)) {
        if (cli_interrupted())
            return err_set(reterr, SNAP_ECANCELED, "stopped");
        if (at < size)
            rc = skip_hole(x, &at, reterr);
        if (rc == 0 && at < size && x->filled - x->written < SLOTS) {
            rc = slot_start(x, &at, reterr);
            snapwire_client_turn(x->remote.client, 0);
        } else if (rc == 0 && x->written < x->filled) {
            rc = slot_finish(x, reterr);
        }
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

static int make_buffers(struct export *x, struct err *reterr)
{
    uint64_t chunk = x->target.chunk_bytes;
    uint64_t most =
        u64_min(SLOT_CHUNKS_MAX * chunk, snapwire_client_payload_bytes_max(x->remote.client));
    x->slot_bytes = u64_min(SLOT_BYTES, most);
    x->slot_bytes -= x->slot_bytes % SECTOR_BYTES;
    for (unsigned i = 0; i < SLOTS; i++) {
        x->slots[i].buf = aligned_alloc(ALIGN_BYTES, u64_align_up(x->slot_bytes, ALIGN_BYTES));
        if (!x->slots[i].buf)
            return err_set(reterr, SNAP_ENOMEM, "buffers");
    }
    return 0;
}

struct export_args {
    struct remote_words words;
    const char *origin, *output;
};

static int export_run(struct export *x, struct cli *cli, const struct export_args *a,
                      struct err *reterr)
{
    uint64_t exceptions = 0;
    int rc = origin_open(a->origin, false, &x->origin, reterr);
    if (rc == 0)
        rc = remote_open(cli, &x->remote, reterr);
    if (rc == 0)
        rc = remote_resolve(&x->remote, a->words.word[0], REMOTE_WANT_SNAPSHOT, &x->target, reterr);
    if (rc == 0)
        rc = remote_check_size(&x->target, x->origin.path, x->origin.size_bytes, reterr);
    if (rc == 0)
        rc = check_not_merged(x, &exceptions, reterr);
    if (rc == 0)
        rc = make_buffers(x, reterr);
    if (rc == 0)
        rc = sink_open(a->output, x->origin.size_bytes, &x->sink, reterr);
    if (rc == 0)
        rc = sink_check_apart(&x->sink, a->origin, reterr);
    if (rc < 0)
        return rc;
    progress_start(&x->progress, cli, "export", x->origin.size_bytes);
    rc = export_all(x, reterr);
    progress_end(&x->progress);
    if (rc == 0)
        rc = check_not_merged(x, &exceptions, reterr);
    if (rc == 0)
        rc = sink_finish(&x->sink, reterr);
    return rc;
}

static error_t parse_export(int key, char *arg, struct argp_state *state)
{
    struct export_args *a = state->input;
    switch (key) {
    case 'O':
        a->origin = arg;
        return 0;
    case 'o':
        a->output = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->words.count > 0 && !a->origin)
            cli_usage_error(state, "--origin is missing: the disk that the snapshot is of");
        return remote_parse_word(key, arg, state);
    default:
        return remote_parse_word(key, arg, state);
    }
}

int remote_cmd_export(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "origin", .key = 'O', .arg = "ORIGIN", .doc = "the disk that the snapshot is of"},
        {.name = "output",
         .key = 'o',
         .arg = "FILE",
         .doc = "a new file (sparse), a block device, or - for standard output (the default)"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_export,
        .args_doc = "VOLUME@SNAPSHOT",
        .doc = "Write out what the origin held when the snapshot was taken. A writer may be at "
               "work meanwhile.",
        .children = remote_children,
    };
    struct export_args a = {
        .words = {.least = 1, .most = 1, .missing = "which snapshot? VOLUME@SNAPSHOT"}};
    remote_parse(cli, &argp, argc, argv, &a);
    cli_catch_signals();
    struct export *x = calloc(1, sizeof *x);
    if (!x)
        return err_set(reterr, SNAP_ENOMEM, "export");
    x->origin = ORIGIN_INIT;
    x->sink = SINK_INIT;
    int rc = export_run(x, cli, &a, reterr);
    remote_close(&x->remote); /* before the buffers that answers go to */
    for (unsigned i = 0; i < SLOTS; i++)
        free(x->slots[i].buf);
    sink_close(&x->sink);
    origin_close(&x->origin);
    free(x);
    return rc;
}
