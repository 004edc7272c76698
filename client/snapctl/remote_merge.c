/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote merge: roll the origin back to a snapshot, which is consumed.
 *
 *   begin ──> write the view back ──> sync the origin ──> (table mode: prepare, commit)* ──> end
 *     │            │                                              │
 *     │            └── not the newest: put what is overwritten    └── from the table's end
 *     └── stopped: abort; the snapshot stays, and the next merge writes it all again
 *
 * In table mode (the volume's only snapshot) entries may go as soon as the origin has
 * durably what they hold; all of it is written first, in large pieces, then the table
 * is emptied. In view mode nothing of the snapshot goes before `end`: its view is the
 * same from the first to the last run, however often it is begun again.
 */
#include "client/snapctl/remote_hosted.h"
#include "client/snapctl/remote_origin_args.h"
#include "client/snapctl/remote_over.h"
#include "client/snapctl/remote_sparse.h"
#include "common/base/bytes.h"
#include "common/base/size.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAGE_RUNS = 8192,
    AHEAD_BYTES = 4 * 1024 * 1024, /* the origin is fetched that far before it is read */
};

struct merge_args {
    struct remote_origin_args at; /* first */
    bool abort;
    bool no_wait, yes; /* of a hosted volume */
};

struct merge {
    struct remote remote;
    struct remote_target target;
    struct origin origin;
    struct remote_writer writer;
    struct over over;
    struct progress progress;
    bool begun, table_mode, preserve;
    struct snapwire_run *runs; /* one page of the view */
    size_t run_count;
    uint64_t next_chunk; /* the page after it begins here */
};

/* -- the view, page by page ----------------------------------------------------------------- */

static int on_page(void *user, const struct snapwire_run *runs, size_t count,
                   uint32_t chunk_size_sectors)
{
    struct merge *m = user;
    (void)chunk_size_sectors;
    m->run_count = u64_min(count, PAGE_RUNS);
    memcpy(m->runs, runs, m->run_count * sizeof *runs);
    return m->run_count > 0;
}

/* run_count is 0 when nothing is left. */
static int next_page(struct merge *m, struct err *reterr)
{
    struct snapwire_error why = {0};
    const struct snapwire_run_list args = {
        .size = sizeof args,
        .volume = m->target.volume,
        .snapshot = m->target.snapshot,
        .start_chunk = m->next_chunk,
    };
    m->run_count = 0;
    if (snapwire_run_each_sync(m->remote.client, &args, on_page, m, &why) < 0)
        return remote_error(&why, reterr);
    if (m->run_count > 0) {
        const struct snapwire_run *last = &m->runs[m->run_count - 1];
        m->next_chunk = last->old_chunk + last->count;
    }
    return 0;
}

/* -- writing it back -------------------------------------------------------------------------- */

/* What comes back as zeros becomes a hole again, where the origin has holes at all. */
static void mark_zeros(struct over_slot *s)
{
    uint64_t chunk = s->over->chunk_bytes;
    for (uint32_t i = 0; i < s->chunks; i++)
        if (bytes_are_zero(s->new + i *chunk, u64_min(chunk, s->len_bytes - i * chunk)))
            s->verdicts[i] = OVER_ZERO;
}

static void on_read(void *user, const struct snapwire_error *error,
                    const struct snapwire_extent *extents, size_t count)
{
    struct over_slot *s = user;
    struct err err = ERR_INIT;
    if (error) {
        over_fail(s->over, remote_error(error, &err), &err);
        return;
    }
    for (size_t i = 0; i < count; i++) { /* the rest is in the buffer already */
        uint64_t at = extents[i].offset_bytes - s->offset_bytes;
        int rc = 0;
        if (extents[i].kind != SNAPWIRE_EXTENT_ORIGIN)
            continue;
        if (!s->unread)
            memcpy(s->new + at, s->old + at, extents[i].len_bytes);
        else /* a run that is none any more */
            rc = origin_read(s->over->origin, extents[i].offset_bytes, s->new + at,
                             extents[i].len_bytes, &err);
        if (rc < 0) {
            over_fail(s->over, rc, &err);
            return;
        }
    }
    if (remote_sparse_has_holes(s->over->origin))
        mark_zeros(s);
    over_filled(s);
}

/* What the origin has there is read, unless all of it is a run's, to be overwritten, and nobody is
 * to keep it: that would take as long as to write it. */
static int read_old(struct merge *m, struct over_slot *s, uint64_t run_end_bytes,
                    struct err *reterr)
{
    uint64_t end = s->offset_bytes + s->len_bytes;
    s->unread = !m->preserve && end <= run_end_bytes;
    if (s->unread)
        return 0;
    origin_will_need(&m->origin, end, AHEAD_BYTES);
    return remote_sparse_read(&m->origin, s->offset_bytes, s->len_bytes, s->old, 0, NULL, reterr);
}

/* A slot from at_bytes on, as far as it reaches but not beyond end_bytes. A run goes on from
 * at_bytes to run_end_bytes. */
static int fill_slot(struct merge *m, uint64_t at_bytes, uint64_t end_bytes, uint64_t run_end_bytes,
                     uint64_t *ret_end, struct err *reterr)
{
    struct over_slot *s = NULL;
    struct snapwire_error why = {0};
    int rc = over_take(&m->over, at_bytes, end_bytes - at_bytes, &s, reterr);
    if (rc == 0)
        rc = read_old(m, s, run_end_bytes, reterr);
    if (rc < 0)
        return rc;
    const struct snapwire_read args = {
        .size = sizeof args,
        .volume = m->target.volume,
        .snapshot = m->target.snapshot,
        .offset_bytes = at_bytes,
        .len_bytes = (uint32_t)s->len_bytes,
        .buf = s->new,
    };
    *ret_end = at_bytes + s->len_bytes;
    if (snapwire_snapshot_read(m->remote.client, &args, on_read, s, &why) < 0)
        return remote_error(&why, reterr);
    return 0;
}

/* Several small runs that are near each other share a slot: what lies between them is the
 * origin's and stays. */
static uint64_t span_end(const struct merge *m, size_t i, uint64_t at_bytes)
{
    uint64_t chunk = m->over.chunk_bytes;
    uint64_t border = at_bytes - at_bytes % m->over.slot_bytes + m->over.slot_bytes;
    uint64_t end = (m->runs[i].old_chunk + m->runs[i].count) * chunk;
    for (i++; i < m->run_count && m->runs[i].old_chunk * chunk < border; i++)
        end = (m->runs[i].old_chunk + m->runs[i].count) * chunk;
    return u64_min(u64_min(end, border), m->origin.size_bytes);
}

static int write_page_back(struct merge *m, struct err *reterr)
{
    uint64_t chunk = m->over.chunk_bytes, done = 0;
    for (size_t i = 0; i < m->run_count; i++) {
        uint64_t end =
            u64_min((m->runs[i].old_chunk + m->runs[i].count) * chunk, m->origin.size_bytes);
        uint64_t at = u64_max(m->runs[i].old_chunk * chunk, done);
        while (at < end) {
            if (cli_interrupted())
                return err_set(reterr, SNAP_ECANCELED, "stopped; run it again to go on");
            int rc = fill_slot(m, at, span_end(m, i, at), end, &done, reterr);
            if (rc < 0)
                return rc;
            at = done;
        }
    }
    return 0;
}

static int write_view_back(struct merge *m, struct err *reterr)
{
    for (;;) {
        int rc = next_page(m, reterr);
        if (rc == 0 && m->run_count == 0)
            return over_finish(&m->over, reterr);
        if (rc == 0)
            rc = write_page_back(m, reterr);
        if (rc < 0)
            return rc;
    }
}

/* -- the table -------------------------------------------------------------------------- */

/* The origin has durably all that the table holds: clear it from its end. */
static int empty_table(struct merge *m, struct err *reterr)
{
    for (;;) {
        struct snapwire_error why = {0};
        struct snapwire_merge_run *run = NULL;
        if (cli_interrupted())
            return err_set(reterr, SNAP_ECANCELED, "stopped; run it again to go on");
        int rc = remote_writer_check(&m->writer, reterr);
        if (rc < 0)
            return rc;
        rc = snapwire_merge_prepare_sync(m->writer.lease, &m->target.snapshot, &run, &why);
        uint32_t count = rc == 0 ? run->commit_max : 0;
        if (count > 0)
            rc = snapwire_merge_commit_sync(m->writer.lease, &m->target.snapshot, run->table_len,
                                            count, &why);
        snapwire_free(run);
        if (rc < 0)
            return remote_error(&why, reterr);
        if (count == 0)
            return 0;
    }
}

/* -- begin to end ----------------------------------------------------------------------- */

static int begin(struct merge *m, struct cli *cli, struct err *reterr)
{
    struct snapwire_error why = {0};
    struct snapwire_merge_state *state = NULL;
    if (snapwire_merge_begin_sync(m->writer.lease, &m->target.snapshot, &state, &why) < 0)
        return remote_error(&why, reterr);
    m->begun = true;
    m->table_mode = state->mode == SNAPWIRE_MERGE_TABLE;
    m->preserve = !m->table_mode && !snapwire_uuid_equal(&state->head, &m->target.snapshot);
    uint64_t total = m->table_mode ? state->table_len * m->target.chunk_bytes : 0;
    snapwire_free(state);
    int rc = 0;
    if (m->preserve)
        rc = remote_writer_stream(&m->writer, NULL, reterr);
    if (rc == 0)
        rc = over_init(&m->over, &m->writer, &m->origin, &m->progress, m->preserve, reterr);
    progress_start(&m->progress, cli, "merge", total);
    return rc;
}

static int end(struct merge *m, struct err *reterr)
{
    struct snapwire_error why = {0};
    if (snapwire_merge_end_sync(m->writer.lease, &m->target.snapshot, &why) < 0)
        return remote_error(&why, reterr);
    m->begun = false;
    return 0;
}

/* Let writers go on; the snapshot is as good as before. */
static void give_up(struct merge *m)
{
    if (m->begun && !m->writer.over &&
        snapwire_client_state(m->remote.client) == SNAPWIRE_STATE_CONNECTED)
        (void)!snapwire_merge_abort_sync(m->writer.lease, &m->target.snapshot, NULL);
    m->begun = false;
}

static int report(const struct cli *cli, const struct merge *m, struct err *reterr)
{
    const struct over_stats *over = &m->over.stats;
    if (cli->json)
        return out_object(cli,
                          json_pack("{s:s, s:I, s:I, s:I}", "target", m->target.text, "size_bytes",
                                    (json_int_t)m->origin.size_bytes, "bytes_written",
                                    (json_int_t)over->bytes_written, "chunks_written",
                                    (json_int_t)over->chunks_written),
                          NULL, reterr);
    char written[24];
    cli_note(cli, "%s: %s in %" PRIu64 " chunks written back; %s is used up", m->origin.path,
             size_format(over->bytes_written, written, sizeof written), over->chunks_written,
             m->target.text);
    return 0;
}

static int roll_back(struct merge *m, struct cli *cli, struct err *reterr)
{
    int rc = begin(m, cli, reterr);
    if (rc == 0)
        rc = write_view_back(m, reterr);
    if (rc == 0 && m->table_mode)
        rc = empty_table(m, reterr);
    if (rc == 0)
        rc = end(m, reterr);
    progress_end(&m->progress);
    if (rc == 0)
        rc = report(cli, m, reterr);
    return rc;
}

/* What is rolled back has reached the disk, or its exceptions are there still. */
static int end_cut_off(struct merge *m, struct err *reterr)
{
    struct snapwire_error why = {0};
    if (snapwire_merge_abort_sync(m->writer.lease, &m->target.snapshot, &why) < 0)
        return remote_error(&why, reterr);
    return 0;
}

/* The daemon does it by itself. */
static int merge_hosted(struct merge *m, const struct cli *cli, const struct merge_args *args,
                        struct err *reterr)
{
    const struct remote_rollback how = {.merge = true, .no_wait = args->no_wait, .yes = args->yes};
    if (args->abort || args->at.new_origin || args->at.steal)
        return err_set(reterr, SNAP_EINVAL,
                       "--abort, --new-origin and --steal are for remote volumes; a job of a "
                       "hosted one is taken back with snapctl remote cancel");
    return remote_rollback(cli, &m->remote, &m->target, &how, reterr);
}

static int merge(struct merge *m, struct cli *cli, const struct merge_args *args,
                 struct err *reterr)
{
    int rc = args->at.origin ? origin_open(args->at.origin, true, &m->origin, reterr) : 0;
    if (rc == 0)
        rc = remote_open(cli, &m->remote, reterr);
    cli_catch_signals(); /* until here there is nothing to end in good order */
    if (rc == 0)
        rc = remote_resolve(&m->remote, args->at.words.word[0], REMOTE_WANT_SNAPSHOT, &m->target,
                            reterr);
    if (rc == 0)
        rc = remote_check_origin(&args->at, &m->target, reterr);
    if (rc == 0 && m->target.hosted)
        return merge_hosted(m, cli, args, reterr);
    if (rc == 0 && args->no_wait)
        rc = err_set(reterr, SNAP_EINVAL, "--no-wait is for hosted volumes; %s is remote",
                     m->target.name.volume);
    if (rc == 0)
        rc = remote_check_size(&m->target, m->origin.path, m->origin.size_bytes, reterr);
    if (rc == 0)
        rc = remote_origin_writer(&m->writer, &m->remote, &args->at, cli, &m->target, &m->origin,
                                  reterr);
    if (rc == 0)
        rc = args->abort ? end_cut_off(m, reterr) : roll_back(m, cli, reterr);
    return rc;
}

static error_t parse_merge(int key, char *arg, struct argp_state *state)
{
    struct merge_args *a = state->input;
    switch (key) {
    case 'a':
        a->abort = true;
        return 0;
    case 'w':
        a->no_wait = true;
        return 0;
    case 'y':
        a->yes = true;
        return 0;
    default:
        return remote_parse_origin(key, arg, state);
    }
}

int remote_cmd_merge(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        REMOTE_ORIGIN_OPTION("of a remote volume: the disk that is rolled back"),
        {.name = "abort",
         .key = 'a',
         .doc = "end a merge that was cut off: the snapshot stays, to be used as before; the "
                "origin stays as far as it was rolled back"},
        {.name = "no-wait",
         .key = 'w',
         .doc = "of a hosted volume: return at once; see snapctl remote jobs"},
        {.name = "yes", .key = 'y', .doc = "of a hosted volume: do not ask"},
        REMOTE_WRITER_OPTIONS,
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_merge,
        .args_doc = "VOLUME@SNAPSHOT",
        .doc = "Roll ORIGIN back to the snapshot, which is gone afterwards; the other snapshots "
               "keep their content. May be stopped and run again at any point. On a hosted volume "
               "it is "
               "rollback --merge, which the daemon does by itself.",
        .children = remote_children,
    };
    struct merge_args args = {
        .at = {.words = {.least = 1, .most = 1, .missing = "which snapshot? VOLUME@SNAPSHOT"},
               .origin_is = "the disk that is to be rolled back",
               .may_be_hosted = true}};
    remote_parse(cli, &argp, argc, argv, &args);
    struct merge m = {.origin = ORIGIN_INIT};
    m.runs = calloc(PAGE_RUNS, sizeof *m.runs);
    int rc = m.runs ? merge(&m, cli, &args, reterr) : err_set(reterr, SNAP_ENOMEM, "runs");
    over_stop(&m.over);
    give_up(&m);
    remote_writer_close(&m.writer);
    remote_close(&m.remote);
    over_done(&m.over);
    origin_close(&m.origin);
    free(m.runs);
    return rc;
}
