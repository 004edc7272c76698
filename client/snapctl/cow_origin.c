/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl cow export, merge: COW devices together with their origin, offline.
 *
 * Merge of a sole COW device writes its table's chunks to the origin, makes the origin
 * durable, and only then empties the table from the end, run by run, as the kernel's
 * snapshot-merge does. With newer devices (--over) no table loses anything:
 *
 *   for each extent of the view: preserve the origin's present content in the
 *   newest device ──> overwrite the origin ──> (all done) sync
 *
 * An emptied table would read through the newer devices: a second run, started by
 * somebody who does not know that the first one ended, would roll the origin to
 * them, and older devices that read through it would change. So every snapshot of
 * the stack reads the same before, during and after, and both kinds may stop
 * anywhere and be run again, also after the end.
 */
#include "client/host/origin.h"
#include "client/snapctl/cow_cmd.h"
#include "client/snapctl/cow_dev.h"
#include "client/snapctl/sink.h"
#include "common/base/bytes.h"
#include "common/base/size.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    COPY_BYTES = 4 * 1024 * 1024,
    COPY_ALIGN = 4096,
    PRESERVE_MAX = 1024,
    STEP_BYTES = 64 * 1024 * 1024, /* how far to go before looking at Ctrl-C */
};

struct origin_args {
    const char *paths[COW_STACK_MAX]; /* the COW device, then the newer ones */
    unsigned count;
    const char *origin, *output;
};

static error_t parse_origin(int key, char *arg, struct argp_state *state)
{
    struct origin_args *a = state->input;
    switch (key) {
    case 'O':
        a->origin = arg;
        return 0;
    case 'o':
        a->output = arg;
        return 0;
    case 'v':
        if (a->count >= COW_STACK_MAX)
            cli_usage_error(state, "more than %d times --over", COW_STACK_MAX - 1);
        a->paths[a->count++] = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (a->paths[0])
            cli_usage_error(state, "'%s' is one word too many; newer COW devices: --over", arg);
        a->paths[0] = arg;
        return 0;
    case ARGP_KEY_INIT:
        a->count = 1;
        return 0;
    case ARGP_KEY_END:
        if (!a->paths[0])
            cli_usage_error(state, "which COW device?");
        if (!a->origin)
            cli_usage_error(state, "--origin is missing: the disk that the snapshot is of");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

#define OVER_OPTION                                                                    \
    {                                                                                  \
        .name = "over", .key = 'v', .arg = "NEWER",                                    \
        .doc = "a newer COW device of the same origin, nearest first; may be repeated" \
    }
#define ORIGIN_OPTION                                                                        \
    {                                                                                        \
        .name = "origin", .key = 'O', .arg = "ORIGIN", .doc = "the origin, a file or device" \
    }

/* No exception may lie wholly beyond the origin's end: it would be another's. */
static int check_fits(const struct cow_stack *s, const struct origin *o, struct err *reterr)
{
    for (unsigned i = 0; i < s->count; i++) {
        struct cow_run run;
        uint64_t chunk_bytes = s->layers[i].chunk_bytes;
        if (cow_map_next(s->devs[i].map, u64_div_round_up(o->size_bytes, chunk_bytes), 0, &run))
            return err_set(reterr, SNAP_EMISMATCH,
                           "chunk %" PRIu64 " of COW device %u (%s) is beyond the end of %s: it "
                           "is not the origin of this snapshot, or has shrunk",
                           run.old_chunk, i + 1, blk_dev_info(s->devs[i].dev)->name, o->path);
    }
    return 0;
}

/* What a command works on. */
struct origin_run {
    struct cow_stack *stack;
    struct origin origin;
    uint8_t *buf;
    struct progress progress;
};

static int run_begin(struct origin_run *r, const struct origin_args *a, enum cow_dev_mode mode,
                     struct err *reterr)
{
    bool write = mode == COW_DEV_WRITE;
    *r = (struct origin_run){.origin = ORIGIN_INIT, .buf = aligned_alloc(COPY_ALIGN, COPY_BYTES)};
    int rc = r->buf ? 0 : err_set(reterr, SNAP_ENOMEM, "copy buffer");
    if (rc == 0)
        rc = origin_open(a->origin, write, &r->origin, reterr);
    if (rc == 0)
        rc = cow_stack_open(a->paths, a->count, mode, &r->stack, reterr);
    if (rc == 0)
        rc = check_fits(r->stack, &r->origin, reterr);
    return rc;
}

/* Takes a half-begun one. */
static void run_end(struct origin_run *r)
{
    cow_stack_close(r->stack);
    origin_close(&r->origin);
    free(r->buf);
}

/* -- export ----------------------------------------------------------------------------- */

struct export_run {
    struct origin_run in;
    struct sink *sink;
};

/* What the origin has in [at, end). *has_data: set when there is any. */
static int fill_from_origin(const struct origin *o, uint64_t at, uint64_t end, uint8_t *to,
                            bool *has_data, struct err *reterr)
{
    int rc = 0;
    for (uint64_t next; rc == 0 && at < end; at = next) {
        bool hole = false;
        next = u64_min(origin_extent_end(o, at, &hole), end);
        *has_data = *has_data || !hole;
        if (hole)
            memset(to, 0, next - at);
        else
            rc = origin_read(o, at, to, next - at, reterr);
        to += next - at;
    }
    return rc;
}

static int fill_from_cow(const struct cow_stack *s, struct cow_extent *x, uint8_t *to,
                         struct err *reterr)
{
    uint64_t meant = x->len_bytes;
    x->len_bytes = u64_align_up(meant, SECTOR_BYTES); /* a last sector cut by the size */
    int rc = cow_stack_read(s, x, to, reterr);
    x->len_bytes = meant;
    return rc;
}

/* A buffer's worth of the view. *has_data: not all of it is a hole of the origin. */
static int fill(struct export_run *r, struct sink_buf *b, bool *has_data, struct err *reterr)
{
    struct cow_view view = cow_stack_view(r->in.stack);
    uint64_t at = b->offset_bytes, end = at + b->len_bytes;
    int rc = 0;
    while (rc == 0 && at < end) {
        struct cow_extent x;
        uint8_t *to = b->data + (at - b->offset_bytes);
        cow_view_extent(&view, at, end - at, &x);
        if (x.layer < 0) {
            rc = fill_from_origin(&r->in.origin, at, at + x.len_bytes, to, has_data, reterr);
        } else {
            *has_data = true;
            rc = fill_from_cow(r->in.stack, &x, to, reterr);
        }
        at += x.len_bytes;
    }
    return rc;
}

/* Where the next buffer begins: behind a large hole of the origin without exceptions. */
static uint64_t skip_hole(const struct export_run *r, uint64_t at)
{
    struct cow_view view = cow_stack_view(r->in.stack);
    struct cow_extent x;
    bool hole = false;
    cow_view_extent(&view, at, r->in.origin.size_bytes - at, &x);
    if (x.layer >= 0)
        return at;
    uint64_t end = u64_min(origin_extent_end(&r->in.origin, at, &hole), at + x.len_bytes);
    if (!hole || end == r->in.origin.size_bytes)
        return hole ? end : at;
    return end - end % SINK_ALIGN_BYTES;
}

static int export_all(struct export_run *r, struct err *reterr)
{
    uint64_t at = 0, size = r->in.origin.size_bytes;
    int rc = 0;
    while (rc == 0) {
        uint64_t data = at < size ? skip_hole(r, at) : at;
        struct sink_buf *b = NULL;
        bool has_data = false;
        progress_add(&r->in.progress, data - at);
        at = data;
        if (at >= size)
            return sink_finish(r->sink, reterr);
        if (cli_interrupted())
            return err_set(reterr, SNAP_ECANCELED, "stopped");
        rc = sink_take(r->sink, &b, reterr);
        if (rc < 0)
            return rc;
        b->offset_bytes = at;
        b->len_bytes = u64_min(SINK_BUF_BYTES, size - at);
        at += b->len_bytes;
        progress_add(&r->in.progress, b->len_bytes);
        rc = fill(r, b, &has_data, reterr);
        if (rc == 0 && has_data)
            sink_put(r->sink, b);
        else
            sink_give(r->sink, b);
    }
    return rc;
}

/* A block device that is read from cannot be written to: a file is always a new one. */
static int check_apart(const struct sink *sink, const struct origin_args *a, struct err *reterr)
{
    int rc = sink_check_apart(sink, a->origin, reterr);
    for (unsigned i = 0; i < a->count && rc == 0; i++)
        rc = sink_check_apart(sink, a->paths[i], reterr);
    return rc;
}

int cow_cmd_export(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        ORIGIN_OPTION,
        OVER_OPTION,
        {.name = "output",
         .key = 'o',
         .arg = "FILE",
         .doc = "a new file (sparse), a block device, or - for standard output (the default)"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_origin,
        .args_doc = "COW",
        .doc = "Write out what the origin held when the snapshot was taken.",
    };
    struct origin_args a = {0};
    cli_parse(cli, &argp, argc, argv, &a);
    cli_catch_signals();
    struct export_run r = {0};
    int rc = run_begin(&r.in, &a, COW_DEV_READ, reterr);
    if (rc == 0)
        rc = sink_open(a.output, r.in.origin.size_bytes, &r.sink, reterr);
    if (rc == 0)
        rc = check_apart(r.sink, &a, reterr);
    if (rc == 0) {
        progress_start(&r.in.progress, cli, "export", r.in.origin.size_bytes);
        rc = export_all(&r, reterr);
        progress_end(&r.in.progress);
    }
    if (rc == 0 && !sink_is_pipe(r.sink))
        cli_note(cli, "%s: whole, %" PRIu64 " bytes", a.output, r.in.origin.size_bytes);
    sink_close(r.sink);
    run_end(&r.in);
    return rc;
}

/* -- merge -------------------------------------------------------------------------------- */

static int stopped(struct err *reterr)
{
    return err_set(reterr, SNAP_ECANCELED, "stopped; run it again to go on");
}

/* One step of the store, awaited. */
struct awaited {
    bool done;
    int code;
    struct cow_merge_run run;
    struct err err;
};

static void on_prepared(void *user, const struct cow_merge_run *run, int code,
                        const struct err *err)
{
    struct awaited *w = user;
    w->done = true;
    w->code = code;
    if (code == 0)
        w->run = *run;
    else
        err_copy(&w->err, err);
}

static void on_done(void *user, int code, const struct err *err)
{
    struct awaited *w = user;
    w->done = true;
    w->code = code;
    if (code < 0)
        err_copy(&w->err, err);
}

static int await(const struct cow_dev *d, const struct awaited *w, struct err *reterr)
{
    while (!w->done) {
        cow_store_kick(d->store);
        (void)blk_engine_wait(d->engine, -1);
    }
    if (w->code < 0)
        err_copy(reterr, &w->err);
    return w->code;
}

static void on_put(struct cow_put *put, int code, const struct err *err)
{
    on_done(put->user, code, err);
}

/* Chunks of the origin on their way into the newest device, in one commit. */
struct preserve {
    const struct cow_dev *top;
    uint64_t chunk_bytes;
    uint8_t *buf;
    uint64_t olds[PRESERVE_MAX];
    int16_t outcomes[PRESERVE_MAX];
    uint32_t count, room;
};

static int preserve_begin(struct preserve *p, const struct cow_stack *s, struct err *reterr)
{
    uint64_t chunk = s->layers[s->count - 1].chunk_bytes;
    *p = (struct preserve){
        .top = &s->devs[s->count - 1],
        .chunk_bytes = chunk,
        .buf = aligned_alloc(COPY_ALIGN, u64_max(chunk, COPY_BYTES)),
        .room = (uint32_t)u64_min(u64_max(COPY_BYTES / chunk, 1), PRESERVE_MAX),
    };
    return p->buf ? 0 : err_set(reterr, SNAP_ENOMEM, "copy buffer");
}

/* Read what stands in [at, at + len) of the origin and has no exception in the newest device.
 * *ret_end: how far there was room, beyond `at` in any case when nothing was gathered before. */
static int gather(struct preserve *p, const struct origin *o, uint64_t at, uint64_t len,
                  uint64_t *ret_end, struct err *reterr)
{
    uint64_t chunk = p->chunk_bytes, new_chunk;
    *ret_end = at + len;
    for (uint64_t old = at / chunk; old * chunk < at + len; old++) {
        if (cow_map_get(p->top->map, old, 0, &new_chunk) ||
            (p->count > 0 && p->olds[p->count - 1] == old))
            continue;
        if (p->count == p->room) {
            *ret_end = u64_max(old * chunk, at);
            return 0;
        }
        int rc = origin_read(o, old * chunk, p->buf + p->count * chunk, chunk, reterr);
        if (rc < 0)
            return rc;
        p->outcomes[p->count] = COW_PENDING;
        p->olds[p->count++] = old;
    }
    return 0;
}

/* Make what was gathered durable exceptions. */
static int preserve_commit(struct preserve *p, struct err *reterr)
{
    struct iovec iov = {.iov_base = p->buf, .iov_len = p->count * p->chunk_bytes};
    struct awaited w = {0};
    struct cow_put put = {.old_chunks = p->olds,
                          .count = p->count,
                          .iov = &iov,
                          .iov_count = 1,
                          .outcomes = p->outcomes,
                          .done = on_put,
                          .user = &w};
    if (p->count == 0)
        return 0;
    cow_store_put(p->top->store, &put);
    int rc = await(p->top, &w, reterr);
    uint32_t i = 0;
    while (rc < 0 && i + 1 < p->count && p->outcomes[i] >= 0)
        i++;
    if (rc < 0)
        err_prefix(reterr, "preserve chunk %" PRIu64 " in the newest device", p->olds[i]);
    p->count = 0;
    return rc;
}

/* From `at` on, preserve what the view is going to overwrite, as much as one commit holds. */
static int preserve_from(struct origin_run *r, struct preserve *p, uint64_t at, uint64_t *ret_end,
                         struct err *reterr)
{
    struct cow_view view = cow_stack_view(r->stack);
    struct cow_extent x;
    *ret_end = r->origin.size_bytes;
    while (cow_view_next(&view, at, r->origin.size_bytes, &x)) {
        uint64_t end = x.offset_bytes + x.len_bytes;
        int rc = gather(p, &r->origin, x.offset_bytes, x.len_bytes, &at, reterr);
        if (rc < 0)
            return rc;
        if (at < end) {
            *ret_end = at;
            break;
        }
    }
    return preserve_commit(p, reterr);
}

/* Overwrite the origin with the view in [at, end). */
static int write_back(struct origin_run *r, uint64_t at, uint64_t end, struct err *reterr)
{
    struct cow_view view = cow_stack_view(r->stack);
    struct cow_extent x;
    while (cow_view_next(&view, at, end, &x)) {
        uint64_t meant = u64_min(x.len_bytes, COPY_BYTES);
        x.len_bytes = u64_align_up(meant, SECTOR_BYTES); /* a last sector cut by the size */
        int rc = cow_stack_read(r->stack, &x, r->buf, reterr);
        if (rc == 0)
            rc = origin_write(&r->origin, x.offset_bytes, r->buf, meant, reterr);
        if (rc < 0)
            return rc;
        at = x.offset_bytes + meant;
        progress_add(&r->progress, meant);
    }
    return 0;
}

/* Clear the table from its end. The origin has durably all that it holds. */
static int empty_table(const struct cow_dev *d, struct err *reterr)
{
    for (;;) {
        struct awaited prepared = {0}, committed = {0};
        if (cli_interrupted())
            return stopped(reterr);
        cow_store_merge_prepare(d->store, on_prepared, &prepared);
        int rc = await(d, &prepared, reterr);
        if (rc < 0 || prepared.run.count == 0)
            return rc;
        cow_store_merge_commit(d->store, prepared.run.table_len, prepared.run.count, on_done,
                               &committed);
        rc = await(d, &committed, reterr);
        if (rc < 0)
            return rc;
    }
}

/* All of the table goes to the origin first, in the origin's order and under one sync: a sync for
 * each run would be one for each chunk where they came in no order. */
static int merge_table(struct origin_run *r, struct err *reterr)
{
    int rc = 0;
    for (uint64_t at = 0, end; at < r->origin.size_bytes && rc == 0; at = end) {
        if (cli_interrupted())
            return stopped(reterr);
        end = u64_min(at + STEP_BYTES, r->origin.size_bytes);
        rc = write_back(r, at, end, reterr);
        origin_begin_sync(&r->origin, at, end - at);
    }
    if (rc == 0)
        rc = origin_sync(&r->origin, reterr);
    if (rc == 0)
        rc = empty_table(&r->stack->devs[0], reterr);
    return rc;
}

/* Write the whole view back, step by step preserving what is overwritten. Preserving adds to the
 * newest device, never where the view's content stands; a preserved chunk that is larger than
 * what is overwritten becomes part of the view with what the origin has there anyway. */
static int merge_view(struct origin_run *r, struct err *reterr)
{
    struct preserve *p = malloc(sizeof *p);
    if (!p)
        return err_set(reterr, SNAP_ENOMEM, "chunks to preserve");
    int rc = preserve_begin(p, r->stack, reterr);
    for (uint64_t at = 0, end = 0; at < r->origin.size_bytes && rc == 0; at = end) {
        if (cli_interrupted())
            rc = stopped(reterr);
        if (rc == 0)
            rc = preserve_from(r, p, at, &end, reterr);
        if (rc == 0)
            rc = write_back(r, at, end, reterr);
    }
    free(p->buf);
    free(p);
    return rc < 0 ? rc : origin_sync(&r->origin, reterr);
}

int cow_cmd_merge(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {ORIGIN_OPTION, OVER_OPTION, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse_origin,
        .args_doc = "COW",
        .doc = "Roll the origin back to the snapshot. A sole COW device is empty afterwards; with "
               "--over all of them stay and read as before. May be stopped and run again.",
    };
    struct origin_args a = {0};
    cli_parse(cli, &argp, argc, argv, &a);
    cli_catch_signals();
    struct origin_run r;
    int rc = run_begin(&r, &a, COW_DEV_WRITE, reterr);
    if (rc == 0) {
        bool sole = a.count == 1;
        uint64_t table_bytes = cow_map_count(r.stack->devs[0].map) * r.stack->layers[0].chunk_bytes;
        progress_start(&r.progress, cli, "merge", sole ? table_bytes : 0);
        rc = sole ? merge_table(&r, reterr) : merge_view(&r, reterr);
        progress_end(&r.progress);
    }
    if (rc == 0) {
        char size[24];
        cli_note(cli, "%s: rolled back to %s, %s written", a.origin, a.paths[0],
                 size_format(r.progress.done, size, sizeof size));
    }
    run_end(&r);
    return rc;
}
