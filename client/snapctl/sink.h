/* SPDX-License-Identifier: Apache-2.0 */
/* Where an export goes: a new file (sparse), a block device, or a pipe.
 *
 *   sink_take ──> caller fills it ──> sink_put ──> queue ──> writer's thread ──> free again
 *       ^               └── sink_give: not needed ──────────────────────────────────┤
 *       └───────────────────────────────────────────────────────────────────────────┘
 *
 * A bounded number of buffers goes round. Bytes are written by a thread of the sink's own,
 * so that the caller can fetch what comes next meanwhile, and reach the disk as they are
 * written (past the page cache where that can be), so that little is left to sync.
 *
 *     rc = sink_open("disk.img", size, &sink, reterr);
 *     for (at = 0; rc == 0 && at < size; at += b->len_bytes) {
 *         rc = sink_take(sink, &b, reterr);
 *         if (rc == 0) … fill b->data, b->offset_bytes, b->len_bytes …
 *             sink_put(sink, b);
 *     }
 *     if (rc == 0)
 *         rc = sink_finish(sink, reterr);
 *     sink_close(sink);
 *
 * Thread: one, the caller's.
 */
#ifndef SNAP_SNAPCTL_SINK_H
#define SNAP_SNAPCTL_SINK_H

#include "client/snapctl/resume.h"
#include "common/base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SINK_BUF_BYTES = 1024 * 1024,
    SINK_BUFS = 24,
    SINK_ALIGN_BYTES = 4096, /* of data; writes past the page cache want offsets like that too */
};

struct sink;

struct sink_buf {
    uint8_t *data; /* SINK_BUF_BYTES of room */
    uint64_t offset_bytes;
    uint64_t len_bytes;
    struct sink_buf *next; /* the sink's own */
};

/* path "-" or NULL: standard output (refused when a terminal). A new file is written as
 * PATH.partial, under a lock, and renamed when it is whole; what a run that was killed left
 * there is written over, and what it noted of it (resume.h) is forgotten before.
 * Owns:   *ret is closed with sink_close().
 * Errors: SNAP_EEXIST (the file exists), SNAP_EBUSY (another program writes PATH.partial),
 *         SNAP_ENOSPC (a block device that is too small), SNAP_EINVAL … */
int sink_open(const char *path, uint64_t size_bytes, struct sink **ret,
              struct err *reterr) SNAP_WUR;
/* Go on with what an earlier run left after sink_keep(): all before from_bytes, a multiple of
 * SINK_ALIGN_BYTES, is there already.
 * Errors: as sink_open(); SNAP_EMISMATCH (it is gone, or is not the file that it was). */
int sink_open_again(const char *path, uint64_t size_bytes, uint64_t from_bytes,
                    const struct resume_file *file, struct sink **ret, struct err *reterr) SNAP_WUR;
/* What is written to; of a new file the one under its working name. Not of a pipe. */
int sink_file(const struct sink *s, struct resume_file *ret, struct err *reterr) SNAP_WUR;
/* Make what is written so far durable: *ret_bytes, and all before, are. Not of a pipe. */
int sink_checkpoint(struct sink *s, uint64_t *ret_bytes, struct err *reterr) SNAP_WUR;
/* The partial file stays at sink_close(). */
void sink_keep(struct sink *s);
/* SNAP_EINVAL when the sink is the block device of this name, which is read from. */
int sink_check_apart(const struct sink *s, const char *path, struct err *reterr) SNAP_WUR;
bool sink_is_pipe(const struct sink *s);

/* A buffer to fill, or NULL when all are filled or being written. Never waits. */
struct sink_buf *sink_take_free(struct sink *s);
/* Waits for one.
 * Errors: what writing has ended with; SNAP_ECANCELED after Ctrl-C. */
int sink_take(struct sink *s, struct sink_buf **ret, struct err *reterr) SNAP_WUR;
/* Offsets ascend from put to put, gaps are holes; zero blocks become holes in a file; what
 * lies past the size is dropped.
 * Owns:   takes the buffer.
 * Errors: are told by the next sink_take(), sink_check() or sink_finish(). */
void sink_put(struct sink *s, struct sink_buf *take_buf);
/* It was not needed. Takes NULL. */
void sink_give(struct sink *s, struct sink_buf *take_buf);
/* What writing has ended with so far. */
int sink_check(struct sink *s, struct err *reterr) SNAP_WUR;
/* When all is written: bring it to its size, make it durable, give a new file its name.
 * Errors: SNAP_EEXIST (somebody else made a file of that name meanwhile; it stays), what
 *         writing has ended with, SNAP_ECANCELED after Ctrl-C. */
int sink_finish(struct sink *s, struct err *reterr) SNAP_WUR;
/* Without finish: what is queued is dropped and the partial file removed. Takes NULL. */
void sink_close(struct sink *s);

#endif
