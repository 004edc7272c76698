/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote import: write a file's or a pipe's content into a hosted volume or a clone.
 *
 *   slot   filled from the source ──> pieces written, zeros made zero ──> all answered ──> free
 *   ring   [ n ] [ n+1 ] [ n+2 ] …   begun in order, freed in order: all before the oldest is done
 *
 * Holes and blocks of zeros are not sent: where the volume reads as zeros already nothing
 * happens, elsewhere it is told to. So a sparse file becomes a sparse volume.
 *
 * Every second what is answered is flushed, and how far that is goes into a small file of
 * ours: an import that was cut off goes on from there.
 *
 * Must not know how bytes are got: that is import_source.c. Blocking face of the library; the
 * callbacks only count.
 */
#include "client/snapctl/import_source.h"
#include "client/snapctl/remote_cmd.h"
#include "client/snapctl/remote_hosted.h"
#include "client/snapctl/resume.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/size.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLOTS = 16,
    SLOT_BYTES = 1024 * 1024,
    ZERO_BYTES_MIN = 4096,                 /* blocks of zeros are looked for in this size … */
    ZERO_BYTES_MAX = 64 * 1024,            /* … or the volume's chunk size, up to this */
    ZERO_REQUEST_BYTES = 32 * 1024 * 1024, /* a larger one might take the daemon too long */
    TURN_MS = 200,
    REQUEST_TIMEOUT_MS = 600 * 1000, /* a flush of a slow disk takes its time */
};
#define HOLE_SLOT_BYTES (UINT64_C(1) << 30) /* holes go in slots of up to that */
#define CHECKPOINT_NS UINT64_C(1000000000)

struct import;

struct slot {
    struct import *import;
    uint8_t *data;
    uint64_t offset_bytes, len_bytes;
    unsigned unanswered;
    bool failed; /* not all of it is done, and nothing behind it counts */
};

struct import {
    const struct cli *cli;
    struct remote remote;
    struct remote_target target;
    struct import_source source;
    struct extent_map map; /* what the volume has already */
    struct resume resume;
    struct resume_file file;
    bool can_resume;
    struct progress progress;
    struct slot slots[SLOTS];
    uint64_t begun, ended; /* slots, ever; the ring is what lies between */
    uint64_t at_bytes;     /* all before it is in slots, or done */
    uint64_t zero_bytes;
    uint64_t sent_bytes, zeroed_bytes;
    uint64_t resumed_bytes;
    /* the checkpoint */
    bool flushing, flush_failed; /* then what was answered before may be lost */
    uint64_t flushing_bytes, durable_bytes, noted_bytes;
    uint64_t checked_ns;
    int code;
    struct err err;
};

static void fail(struct import *im, int code, const struct err *why)
{
    if (im->code == 0) {
        im->code = code;
        (void)err_copy(&im->err, why);
    }
}

/* All before it is answered. */
static uint64_t answered_bytes(const struct import *im)
{
    return im->ended < im->begun ? im->slots[im->ended % SLOTS].offset_bytes : im->at_bytes;
}

/* -- pieces --------------------------------------------------------------------------------- */

static void on_answer(void *user, const struct snapwire_error *error)
{
    struct slot *s = user;
    struct err err = ERR_INIT;
    s->unanswered--;
    if (error) {
        s->failed = true;
        fail(s->import, remote_error(error, &err), &err);
    }
}

/* data NULL: zeros. Waits while too much is under way. */
static int send_piece(struct slot *s, uint64_t at_bytes, uint64_t len_bytes, const uint8_t *data,
                      struct err *reterr)
{
    struct import *im = s->import;
    const struct snapwire_uuid *volume = &im->target.volume, *node = remote_node(&im->target);
    struct snapwire_error why = {0};
    for (;;) {
        s->unanswered++; /* before: a waiting turn may run other callbacks only */
        int rc =
            data ? snapwire_io_write(im->remote.client, volume, node, at_bytes, len_bytes, data,
                                     SNAPWIRE_IO_ALONE, on_answer, s, &why)
                 : snapwire_io_zero(im->remote.client, volume, node, at_bytes, len_bytes,
                                    SNAPWIRE_IO_DISCARD | SNAPWIRE_IO_ALONE, on_answer, s, &why);
        if (rc == 0)
            break;
        s->unanswered--;
        if (rc != SNAPWIRE_ELIMIT)
            return remote_error(&why, reterr);
        if (im->code < 0)
            return err_copy(reterr, &im->err);
        if (cli_interrupted())
            return err_set(reterr, SNAP_ECANCELED, "stopped");
        snapwire_client_turn(im->remote.client, TURN_MS);
    }
    *(data ? &im->sent_bytes : &im->zeroed_bytes) += len_bytes;
    return 0;
}

/* Where the volume holds anything, it is made zero. */
static int zero_range(struct slot *s, uint64_t at_bytes, uint64_t end_bytes, struct err *reterr)
{
    int rc = 0;
    while (rc == 0 && at_bytes < end_bytes) {
        uint64_t to = 0;
        bool zero = false;
        rc = extent_map_at(&s->import->map, at_bytes, &to, &zero, reterr);
        if (rc < 0)
            return rc;
        to = u64_min(to, end_bytes);
        if (!zero) {
            to = u64_min(to, at_bytes + ZERO_REQUEST_BYTES);
            rc = send_piece(s, at_bytes, to - at_bytes, NULL, reterr);
        }
        at_bytes = to;
    }
    return rc;
}

/* Runs of data and runs of whole blocks of zeros, in turn. */
static int send_slot(struct slot *s, struct err *reterr)
{
    uint64_t block = s->import->zero_bytes, base = s->offset_bytes;
    int rc = 0;
    for (uint64_t from = 0, to; rc == 0 && from < s->len_bytes; from = to) {
        bool zero = false;
        for (to = from; to < s->len_bytes;) {
            uint64_t n = u64_min(block - (base + to) % block, s->len_bytes - to);
            bool is_zero = bytes_are_zero(s->data + to, n);
            if (to > from && is_zero != zero)
                break;
            zero = is_zero;
            to += n;
        }
        rc = zero ? zero_range(s, base + from, base + to, reterr)
                  : send_piece(s, base + from, to - from, s->data + from, reterr);
    }
    return rc;
}

/* -- checkpoints ------------------------------------------------------------------------------- */

static void note_point(struct import *im)
{
    struct err why = ERR_INIT;
    if (!im->can_resume || im->noted_bytes == im->durable_bytes)
        return;
    im->noted_bytes = im->durable_bytes;
    if (resume_save(&im->resume, &im->file, im->durable_bytes, &why) == 0)
        return;
    im->can_resume = false;
    cli_note(im->cli, "it goes on, but could not be resumed: %s", why.text);
}

static void on_flushed(void *user, const struct snapwire_error *error)
{
    struct import *im = user;
    struct err err = ERR_INIT;
    im->flushing = false;
    im->flush_failed = im->flush_failed || error;
    if (error)
        fail(im, remote_error(error, &err), &err);
    else
        im->durable_bytes = im->flushing_bytes;
}

static int checkpoint(struct import *im, struct err *reterr)
{
    struct snapwire_error why = {0};
    uint64_t now = clock_now_ns(clock_system()), done = answered_bytes(im);
    if (im->flushing)
        return 0;
    note_point(im);
    if (now - im->checked_ns < CHECKPOINT_NS)
        return 0;
    im->checked_ns = now;
    if (done == im->durable_bytes)
        return 0;
    int rc = snapwire_io_flush(im->remote.client, &im->target.volume, remote_node(&im->target),
                               on_flushed, im, &why);
    if (rc == SNAPWIRE_ELIMIT)
        return 0;
    if (rc < 0)
        return remote_error(&why, reterr);
    im->flushing = true;
    im->flushing_bytes = done;
    return 0;
}

/* It is cut off, with the connection there or not: what was answered can be kept. */
static void last_checkpoint(struct import *im)
{
    uint64_t done = answered_bytes(im);
    if (!im->can_resume)
        return;
    if (snapwire_client_state(im->remote.client) == SNAPWIRE_STATE_CONNECTED && !im->flushing &&
        !im->flush_failed &&
        snapwire_io_flush_sync(im->remote.client, &im->target.volume, remote_node(&im->target),
                               NULL) == 0)
        im->durable_bytes = done;
    note_point(im);
}

/* -- the whole -------------------------------------------------------------------------- */

static void slots_end(struct import *im)
{
    for (; im->ended < im->begun; im->ended++) {
        const struct slot *s = &im->slots[im->ended % SLOTS];
        if (s->unanswered > 0 || s->failed)
            break;
        progress_add(&im->progress, s->len_bytes);
    }
}

/* Take what the source has next, if there is room and the source has it now. */
static int next_slot(struct import *im, bool *ret_moved, struct err *reterr)
{
    struct slot *s = &im->slots[im->begun % SLOTS];
    uint64_t left = im->target.size_bytes - im->at_bytes, hole_end = 0, len = 0;
    *ret_moved = false;
    if (left == 0 || im->begun - im->ended == SLOTS)
        return 0;
    bool hole = import_source_hole(&im->source, im->at_bytes, &hole_end);
    int rc = 0;
    if (hole)
        len = u64_min(hole_end - im->at_bytes, HOLE_SLOT_BYTES);
    else
        rc = import_source_read(&im->source, im->at_bytes,
                                u64_min(SLOT_BYTES - im->at_bytes % SLOT_BYTES, left), s->data,
                                &len, reterr);
    if (rc < 0 || len == 0)
        return rc;
    s->import = im;
    s->offset_bytes = im->at_bytes;
    s->len_bytes = len;
    s->unanswered = 1; /* not freed before all its pieces are begun */
    s->failed = false;
    im->begun++;
    im->at_bytes += len;
    *ret_moved = true;
    rc = hole ? zero_range(s, s->offset_bytes, im->at_bytes, reterr) : send_slot(s, reterr);
    s->unanswered--;
    s->failed = s->failed || rc < 0;
    return rc;
}

static int import_all(struct import *im, struct err *reterr)
{
    int rc = 0;
    while (rc == 0 && (im->at_bytes < im->target.size_bytes || im->ended < im->begun)) {
        bool moved = false;
        rc = next_slot(im, &moved, reterr);
        if (rc == 0)
            rc = checkpoint(im, reterr);
        if (rc == 0 && im->code < 0)
            rc = err_copy(reterr, &im->err);
        if (rc == 0 && cli_interrupted())
            rc = err_set(reterr, SNAP_ECANCELED, "stopped");
        if (rc == 0)
            snapwire_client_turn(im->remote.client,
                                 moved ? 0 : import_source_wait_ms(&im->source, TURN_MS));
        slots_end(im);
    }
    if (rc == 0)
        rc = import_source_end(&im->source, reterr);
    return rc;
}

static int flush(struct import *im, struct err *reterr)
{
    struct snapwire_error why = {0};
    while (im->flushing && im->code == 0)
        snapwire_client_turn(im->remote.client, TURN_MS);
    if (im->code < 0)
        return err_copy(reterr, &im->err);
    int rc = snapwire_io_flush_sync(im->remote.client, &im->target.volume, remote_node(&im->target),
                                    &why);
    im->flush_failed = rc < 0;
    return rc < 0 ? remote_error(&why, reterr) : 0;
}

/* -- from where ------------------------------------------------------------------------- */

struct import_args {
    struct remote_words words; /* first */
    bool resume;
};

static int find_start(struct import *im, const struct import_args *a, struct err *reterr)
{
    char name[128], volume[SNAPWIRE_UUID_TEXT_BYTES], node[SNAPWIRE_UUID_TEXT_BYTES] = "";
    const char *why_not = "";
    struct stat st;
    uint64_t done = 0;
    bool seekable = import_source_stat(&im->source, &st);
    (void)snapwire_uuid_format(&im->target.volume, volume);
    if (remote_node(&im->target))
        (void)snapwire_uuid_format(&im->target.snapshot, node);
    (void)snprintf(name, sizeof name, "import-%s%s%s", volume, node[0] ? "-" : "", node);
    struct err no_place = ERR_INIT;
    int rc = resume_init(&im->resume, name, im->target.size_bytes, &no_place);
    im->can_resume = rc == 0 && seekable;
    if (rc < 0 && a->resume)
        return err_copy(reterr, &no_place);
    if (!seekable)
        return resume_forget(&im->resume, reterr);
    im->file = resume_file_of(&st, true);
    char size[24];
    bool found = resume_load(&im->resume, &im->file, &done, &why_not);
    if (a->resume && !found && *why_not)
        return err_set(reterr, SNAP_EMISMATCH,
                       "%s cannot be gone on with: %s; import it from its beginning, without "
                       "--resume",
                       im->source.name, why_not);
    if (a->resume && !found)
        cli_note(im->cli, "nothing to resume: from the beginning");
    if (a->resume && found) {
        im->at_bytes = im->durable_bytes = im->noted_bytes = im->resumed_bytes = done;
        cli_note(im->cli, "going on at %s", size_format(done, size, sizeof size));
    } else if (found && done > 0) {
        cli_note(im->cli,
                 "from the beginning; with --resume it would have gone on at %s, where an "
                 "import was cut off",
                 size_format(done, size, sizeof size));
    }
    /* what begins anew makes it untrue */
    return im->resumed_bytes ? 0 : resume_forget(&im->resume, reterr);
}

/* -- begin to end ----------------------------------------------------------------------- */

static void warn_if_changed(const struct import *im)
{
    struct stat st;
    if (!import_source_stat(&im->source, &st))
        return;
    const struct resume_file now = resume_file_of(&st, true);
    if (!resume_file_equal(&im->file, &now))
        cli_note(im->cli,
                 "warning: %s was changed while it was read; what was imported is of no "
                 "one moment",
                 im->source.name);
}

static int report(const struct import *im, struct err *reterr)
{
    char sent[24], all[24];
    if (im->cli->json)
        return out_object(im->cli,
                          json_pack("{s:s, s:I, s:I, s:I, s:I}", "target", im->target.text,
                                    "size_bytes", (json_int_t)im->target.size_bytes,
                                    "resumed_at_bytes", (json_int_t)im->resumed_bytes,
                                    "bytes_written", (json_int_t)im->sent_bytes, "bytes_zeroed",
                                    (json_int_t)im->zeroed_bytes),
                          NULL, reterr);
    cli_note(im->cli, "%s: %s of %s%s written to %s, the rest is zeros", im->source.name,
             size_format(im->sent_bytes, sent, sizeof sent), im->resumed_bytes ? "the last " : "",
             size_format(im->target.size_bytes - im->resumed_bytes, all, sizeof all),
             im->target.text);
    return 0;
}

/* What can be done about it stands behind the reason. */
static int cut_off(struct import *im, int rc, struct err *reterr)
{
    char done[24], all[24];
    struct err why = ERR_INIT;
    (void)err_copy(&why, reterr);
    last_checkpoint(im);
    if (!im->can_resume || im->durable_bytes == 0)
        return rc;
    return err_set(reterr, rc, "%s; %s of %s are written, --resume goes on there", why.text,
                   size_format(im->durable_bytes, done, sizeof done),
                   size_format(im->target.size_bytes, all, sizeof all));
}

static int start(struct import *im, struct cli *cli, const struct import_args *a,
                 struct err *reterr)
{
    int rc = import_source_open(a->words.word[1], &im->source, reterr);
    if (rc == 0 && a->resume && !im->source.seekable)
        rc = err_set(reterr, SNAP_EINVAL,
                     "--resume is for a file; what came through a pipe cannot be read again");
    if (rc == 0)
        rc = remote_open(cli, &im->remote, reterr);
    cli_catch_signals(); /* until here there is nothing to end in good order */
    if (rc == 0)
        rc = remote_resolve(&im->remote, a->words.word[0], REMOTE_WANT_ANY, &im->target, reterr);
    if (rc == 0)
        rc = remote_want_hosted(
            &im->target, "write to that, after old content is kept: snapctl remote apply", reterr);
    if (rc == 0)
        rc = import_source_check_size(&im->source, im->target.text, im->target.size_bytes, reterr);
    if (rc == 0)
        rc = find_start(im, a, reterr);
    return rc;
}

static int import_run(struct import *im, struct cli *cli, const struct import_args *a,
                      struct err *reterr)
{
    im->cli = cli;
    int rc = start(im, cli, a, reterr);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < SLOTS; i++) {
        im->slots[i].data = aligned_alloc(ORIGIN_ALIGN_BYTES, SLOT_BYTES);
        if (!im->slots[i].data)
            return err_set(reterr, SNAP_ENOMEM, "buffers");
    }
    im->zero_bytes = u64_min(u64_max(im->target.chunk_bytes, ZERO_BYTES_MIN), ZERO_BYTES_MAX);
    extent_map_init(&im->map, &im->remote, &im->target);
    snapwire_client_set_timeout(im->remote.client, REQUEST_TIMEOUT_MS);
    im->checked_ns = clock_now_ns(clock_system());
    progress_start(&im->progress, cli, "import", im->target.size_bytes);
    im->progress.done = im->at_bytes;
    rc = import_all(im, reterr);
    if (rc == 0)
        rc = flush(im, reterr);
    progress_end(&im->progress);
    if (rc < 0)
        return cut_off(im, rc, reterr);
    (void)resume_forget(&im->resume, NULL);
    warn_if_changed(im);
    return report(im, reterr);
}

static error_t parse_import(int key, char *arg, struct argp_state *state)
{
    struct import_args *a = state->input;
    if (key != 'r')
        return remote_parse_word(key, arg, state);
    a->resume = true;
    return 0;
}

int remote_cmd_import(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "resume", .key = 'r', .doc = "go on with an import that was cut off"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_import,
        .args_doc = "VOLUME|VOLUME@CLONE FILE",
        .doc = "Overwrite a hosted volume, or a clone, with FILE, which is of its size: an image, "
               "a block device, or - for standard input. Holes and zeros are not sent. Snapshots "
               "keep their content.",
        .children = remote_children,
    };
    struct import_args a = {.words = {.least = 2,
                                      .most = 2,
                                      .missing = "a volume and a file are needed, as in: import "
                                                 "disk1 disk1.img"}};
    remote_parse(cli, &argp, argc, argv, &a);
    struct import *im = calloc(1, sizeof *im);
    if (!im)
        return err_set(reterr, SNAP_ENOMEM, "import");
    im->source = IMPORT_SOURCE_INIT;
    int rc = import_run(im, cli, &a, reterr);
    extent_map_done(&im->map);
    remote_close(&im->remote); /* before the buffers that are sent from */
    import_source_close(&im->source);
    for (unsigned i = 0; i < SLOTS; i++)
        free(im->slots[i].data);
    free(im);
    return rc;
}
