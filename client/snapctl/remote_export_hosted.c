/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote export of what the daemon has as a whole: hosted volumes, their snapshots and
 * clones.
 *
 *   where is data? ──> slots, several asked for at once ──> answered ──> to the sink, in order
 *
 * Zeros are neither asked for nor written. A plain snapshot does not change, so an export of one
 * that was cut off goes on: the partial file stays, and every second it is made durable and
 * how far it is goes into a small file of ours.
 *
 * Blocking face of the library; the callbacks only mark a slot.
 */
#include "client/snapctl/remote_hosted.h"
#include "client/snapctl/resume.h"
#include "client/snapctl/sink.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/size.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLOTS = SINK_BUFS / 2,  /* asked for at once; the other half is being written */
    SKIP_BYTES = 64 * 1024, /* zeros of that size are worth leaving out of a slot */
    TURN_MS = 200,
};
#define CHECKPOINT_NS UINT64_C(1000000000)

struct export;

struct slot {
    struct export *export;
    struct sink_buf *buf;
    bool busy;
};

struct export
{
    const struct cli *cli;
    struct remote *remote;
    const struct remote_target *target;
    const char *output; /* NULL: standard output */
    struct sink *sink;
    struct extent_map map;
    struct progress progress;
    struct slot slots[SLOTS];
    uint64_t filled, written; /* slots, ever; the ring is what lies between */
    uint64_t at_bytes;
    struct resume resume;
    struct resume_file file;
    bool can_resume;
    uint64_t resumed_bytes, durable_bytes, data_bytes;
    uint64_t checked_ns;
    int code;
    struct err err;
};

/* -- slots --------------------------------------------------------------------------------- */

static void on_read(void *user, const struct snapwire_error *error)
{
    struct slot *s = user;
    struct export *x = s->export;
    s->busy = false;
    if (error && x->code == 0)
        x->code = remote_error(error, &x->err);
}

/* Where a read from at_bytes on ends: short stretches of zeros are read as well. */
static int read_end(struct export *x, uint64_t at_bytes, uint64_t *ret_end, struct err *reterr)
{
    uint64_t border = at_bytes - at_bytes % SINK_BUF_BYTES + SINK_BUF_BYTES;
    uint64_t end = at_bytes, limit = u64_min(border, x->target->size_bytes);
    while (end < limit) {
        uint64_t to = 0;
        bool zero = false;
        int rc = extent_map_at(&x->map, end, &to, &zero, reterr);
        if (rc < 0)
            return rc;
        if (zero && to - end >= SKIP_BYTES)
            break;
        end = u64_min(to, limit);
    }
    *ret_end = end;
    return 0;
}

static int skip_zeros(struct export *x, struct err *reterr)
{
    while (x->at_bytes < x->target->size_bytes) {
        uint64_t to = 0;
        bool zero = false;
        int rc = extent_map_at(&x->map, x->at_bytes, &to, &zero, reterr);
        if (rc < 0)
            return rc;
        if (!zero)
            return 0;
        progress_add(&x->progress, to - x->at_bytes);
        x->at_bytes = to;
    }
    return 0;
}

/* Owns: takes buf. */
static int slot_start(struct export *x, struct sink_buf *buf, struct err *reterr)
{
    struct snapwire_error why = {0};
    uint64_t end = 0;
    int rc = read_end(x, x->at_bytes, &end, reterr);
    if (rc == 0) {
        struct slot *s = &x->slots[x->filled % SLOTS];
        *s = (struct slot){.export = x, .buf = buf, .busy = true};
        buf->offset_bytes = x->at_bytes;
        buf->len_bytes = end - x->at_bytes;
        rc = snapwire_io_read(x->remote->client, &x->target->volume, remote_node(x->target),
                              buf->offset_bytes, buf->len_bytes, buf->data, on_read, s, &why);
        if (rc < 0)
            (void)remote_error(&why, reterr);
    }
    if (rc < 0) {
        sink_give(x->sink, buf);
        return rc;
    }
    x->filled++;
    x->at_bytes = end;
    return 0;
}

static void slots_finish(struct export *x)
{
    while (x->code == 0 && x->written < x->filled && !x->slots[x->written % SLOTS].busy) {
        struct slot *s = &x->slots[x->written++ % SLOTS];
        progress_add(&x->progress, s->buf->len_bytes);
        x->data_bytes += s->buf->len_bytes;
        sink_put(x->sink, s->buf);
        s->buf = NULL;
    }
}

/* -- going on later -------------------------------------------------------------------------- */

static int export_state(struct export *x, struct err *reterr)
{
    char id[SNAPWIRE_UUID_TEXT_BYTES];
    return resume_init_output(&x->resume, &x->file, snapwire_uuid_format(&x->target->snapshot, id),
                              x->target->size_bytes, reterr);
}

static void checkpoint(struct export *x, bool now)
{
    uint64_t ns = clock_now_ns(clock_system()), done = 0;
    struct err why = ERR_INIT;
    if (!x->can_resume || (!now && ns - x->checked_ns < CHECKPOINT_NS))
        return;
    if (sink_checkpoint(x->sink, &done, &why) < 0)
        return; /* the next put tells */
    done -= done % SINK_ALIGN_BYTES;
    if (done > x->durable_bytes) {
        if (resume_save(&x->resume, &x->file, done, &why) < 0) {
            x->can_resume = false;
            cli_note(x->cli, "it goes on, but could not be resumed: %s", why.text);
            return;
        }
        x->durable_bytes = done;
        sink_keep(x->sink);
    }
    x->checked_ns = clock_now_ns(clock_system());
}

/* Is it something that stays as it is? *ret_why: else why not. */
static int is_fixed(struct export *x, const char **ret_why, struct err *reterr)
{
    struct snapwire_snapshot *s = NULL;
    *ret_why = "";
    if (!x->output || strcmp(x->output, "-") == 0)
        *ret_why = "what went to standard output cannot be gone on with";
    else if (!remote_node(x->target))
        *ret_why = "a volume may have changed since; make a snapshot and export that";
    if (**ret_why)
        return 0;
    int rc = remote_show_snapshot(x->remote, x->target, &s, reterr);
    if (rc == 0 && s->writable)
        *ret_why = "a clone may have changed since; make a clone of it and export that";
    snapwire_free(s);
    return rc;
}

static int open_resumed(struct export *x, bool *ret_opened, struct err *reterr)
{
    char partial[LIMIT_PATH_BYTES], size[24];
    const char *why_not = "";
    struct stat st;
    uint64_t done = 0;
    *ret_opened = false;
    (void)snprintf(partial, sizeof partial, "%s.partial", x->output);
    if (stat(x->output, &st) != 0 || !S_ISBLK(st.st_mode))
        if (stat(partial, &st) != 0)
            return 0;
    x->file = resume_file_of(&st, false);
    int rc = export_state(x, reterr);
    if (rc < 0)
        return rc;
    if (!resume_load(&x->resume, &x->file, &done, &why_not)) {
        if (*why_not)
            return err_set(reterr, SNAP_EMISMATCH,
                           "%s cannot be gone on with: %s; begin anew, without --resume", x->output,
                           why_not);
        return 0;
    }
    if (done == 0)
        return 0;
    rc = sink_open_again(x->output, x->target->size_bytes, done, &x->file, &x->sink, reterr);
    if (rc < 0)
        return rc;
    x->can_resume = true;
    x->at_bytes = x->durable_bytes = x->resumed_bytes = done;
    cli_note(x->cli, "going on at %s", size_format(done, size, sizeof size));
    *ret_opened = true;
    return 0;
}

static int open_sink(struct export *x, bool resume, struct err *reterr)
{
    const char *why_not = "";
    bool opened = false;
    int rc = is_fixed(x, &why_not, reterr);
    if (rc == 0 && *why_not && resume)
        rc = err_set(reterr, SNAP_EINVAL, "--resume: %s", why_not);
    if (rc < 0)
        return rc;
    if (resume)
        rc = open_resumed(x, &opened, reterr);
    if (rc == 0 && !opened) {
        if (resume)
            cli_note(x->cli, "nothing to resume: from the beginning");
        rc = sink_open(x->output, x->target->size_bytes, &x->sink, reterr);
        if (rc == 0 && !*why_not)
            rc = sink_file(x->sink, &x->file, reterr);
        x->can_resume = rc == 0 && !*why_not && export_state(x, NULL) == 0;
    }
    return rc;
}

/* -- the whole --------------------------------------------------------------------------------- */

static int export_step(struct export *x, struct err *reterr)
{
    struct sink_buf *buf = NULL;
    int rc = 0;
    if (x->filled - x->written < SLOTS)
        rc = skip_zeros(x, reterr);
    if (rc == 0 && x->at_bytes < x->target->size_bytes && x->filled - x->written < SLOTS) {
        if (x->filled > x->written)
            buf = sink_take_free(x->sink);
        else /* nothing is asked for: only the writer can be waited for */
            rc = sink_take(x->sink, &buf, reterr);
    }
    if (rc == 0 && buf)
        rc = slot_start(x, buf, reterr);
    if (rc == 0 && (buf || x->filled > x->written))
        snapwire_client_turn(x->remote->client, buf ? 0 : TURN_MS);
    return rc;
}

static int export_all(struct export *x, struct err *reterr)
{
    int rc = 0;
    while (rc == 0 && (x->at_bytes < x->target->size_bytes || x->written < x->filled)) {
        rc = export_step(x, reterr);
        slots_finish(x);
        if (rc == 0 && x->code < 0)
            rc = err_copy(reterr, &x->err);
        if (rc == 0)
            rc = sink_check(x->sink, reterr);
        if (rc == 0 && cli_interrupted())
            rc = err_set(reterr, SNAP_ECANCELED, "stopped");
        if (rc == 0)
            checkpoint(x, false);
    }
    return rc;
}

/* What can be done about it stands behind the reason. */
static int cut_off(struct export *x, int rc, struct err *reterr)
{
    struct err why = ERR_INIT;
    char done[24], all[24];
    (void)err_copy(&why, reterr);
    checkpoint(x, true);
    if (x->durable_bytes == 0)
        return rc;
    return err_set(reterr, rc, "%s; %s of %s are in %s%s, --resume goes on there", why.text,
                   size_format(x->durable_bytes, done, sizeof done),
                   size_format(x->target->size_bytes, all, sizeof all), x->output,
                   x->file.inode != 0 ? ".partial" : "");
}

static int export_run(struct export *x, bool resume, struct err *reterr)
{
    int rc = open_sink(x, resume, reterr);
    if (rc < 0)
        return rc;
    extent_map_init(&x->map, x->remote, x->target);
    x->checked_ns = clock_now_ns(clock_system());
    progress_start(&x->progress, x->cli, "export", x->target->size_bytes);
    x->progress.done = x->at_bytes;
    rc = export_all(x, reterr);
    progress_end(&x->progress);
    if (rc < 0)
        return cut_off(x, rc, reterr);
    rc = sink_finish(x->sink, reterr);
    if (rc == 0 && x->can_resume)
        (void)resume_forget(&x->resume, NULL);
    if (rc == 0 && x->cli->json && !sink_is_pipe(x->sink))
        rc = out_object(x->cli,
                        json_pack("{s:s, s:o, s:I, s:I, s:I}", "target", x->target->text, "output",
                                  out_path(x->output), "size_bytes",
                                  (json_int_t)x->target->size_bytes, "resumed_at_bytes",
                                  (json_int_t)x->resumed_bytes, "bytes_read",
                                  (json_int_t)x->data_bytes),
                        NULL, reterr);
    return rc;
}

int remote_export_hosted(const struct cli *cli, struct remote *r, const struct remote_target *t,
                         const char *output, bool resume, struct err *reterr)
{
    struct export *x = calloc(1, sizeof *x);
    if (!x)
        return err_set(reterr, SNAP_ENOMEM, "export");
    x->cli = cli;
    x->remote = r;
    x->target = t;
    x->output = output;
    int rc = export_run(x, resume, reterr);
    extent_map_done(&x->map);
    remote_close(r); /* before the buffers that answers go to */
    sink_close(x->sink);
    free(x);
    return rc;
}
