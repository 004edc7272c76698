/* SPDX-License-Identifier: Apache-2.0 */
/* Writing a hosted volume or one of its clones.
 *
 *   gate ──> writes lock ──> what do dependants lack? ──> read it ──> put into each ──> reads
 *   lock ──> write ──> (flush) ──> done
 *
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_WRITE_H
#define SNAP_VOLUME_WRITE_H

#include "daemon/volume/range.h"
#include "daemon/volume/volume.h"

enum volume_write_op { VOLUME_WRITE, VOLUME_ZERO, VOLUME_DISCARD, VOLUME_FLUSH };

/* The longest VOLUME_ZERO or VOLUME_DISCARD; a write is bounded by its frame. */
#define VOLUME_ZERO_BYTES_MAX (UINT64_C(4) << 30)

struct write_part; /* one stretch of chunks that is worked on at once */

/* The caller's, with everything it points to, until done. */
struct volume_write {
    struct uuid node; /* a clone; nil: the volume */
    enum volume_write_op op;
    bool fua;           /* durable when done */
    bool rollback;      /* of the rollback itself: the others are refused meanwhile */
    struct uuid client; /* whose it is, however often it has come back: see loss.h; nil: any */
    bool says_heard;    /* VOLUME_FLUSH: .heard is the last failure that it has heard of, 0: none */
    uint64_t heard;
    uint64_t offset_bytes, len_bytes;
    const uint8_t *data; /* VOLUME_WRITE; BUF_ALIGN_BYTES aligned */
    /* Once, possibly inside the call. On an error any part of the range may be written, and what
     * the snapshots need of it is preserved. */
    void (*done)(struct volume_write *w, int code, const struct err *err);
    void *user;
    /* the volume's own */
    struct volume *volume;
    struct snapshot *clone;
    struct range range;
    uint64_t cursor_bytes; /* parts begin here */
    struct write_part *part;
    bool durable;  /* what was written so far is, without a flush */
    uint64_t loss; /* VOLUME_FLUSH, when done: the failure that it is told of; 0: none */
    struct err err;
    TAILQ_ENTRY(volume_write) link;
};

/* Errors: SNAP_EINVAL (outside), SNAP_ENOENT, SNAP_EPERM (a plain snapshot), SNAP_ENOTSUP (a remote
 * volume), SNAP_EBUSY (being rolled back), SNAP_ENOSPC (a snapshot is full and may not be made
 * invalid), SNAP_EINVALID (the clone is), SNAP_EPOISONED, SNAP_EIO, SNAP_ENOMEM. */
void volume_write_start(struct volume *v, struct volume_write *w);
/* So many writes of this turn read what is to be preserved that the disk had better begin with
 * them: who has more writes at hand lets the turn end first. */
bool volume_write_crowd(const struct volume *v);
/* The gate is open: those that it held begin. */
void volume_write_run_held(struct volume *v);
/* Those of o->preserved go on with their data. user: the origin. */
void write_preserved_run(void *user);
/* The volume is leaving: what waits is refused. */
void volume_write_cancel(struct volume *v);

#endif
