/* SPDX-License-Identifier: Apache-2.0 */
/* The origin of a hosted volume: a sparse file in the volume's folder, or a bound device.
 *
 * A file is as long as whole chunks need, so that every chunk can be read and written whole; of
 * a bound device that ends inside a chunk the rest reads as zeros and is not written.
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_ORIGIN_H
#define SNAP_VOLUME_ORIGIN_H

#include "daemon/volume/range.h"
#include "daemon/volume/volume.h"

struct origin {
    struct blk_dev *dev; /* NULL: could not be opened; fault_text says why */
    char fault_text[ERR_TEXT_BYTES];
    struct range_lock writes; /* exclusive: a write, from its COW check to its end */
    struct range_lock reads;  /* shared: a snapshot's read that found its content here;
                               * exclusive: a write that is about to change it */
    /* the gate of snapshots and groups: closed, no write begins */
    bool closing; /* flushed for the last time */
    unsigned gates;
    unsigned writing;                 /* writes past the gate */
    struct volume_waiters gate_waits; /* for writing to be 0 */
    TAILQ_HEAD(, volume_write) held;  /* writes that wait for the gate to open */
    bool gate_flushing;
    struct blk_req gate_req;
    struct snapshot *gate_clone; /* being flushed; NULL: the origin is */
    struct err gate_err;
    struct loss loss;                    /* by flushes that failed */
    struct write_batch *batch;           /* reads of old content begun in this turn */
    TAILQ_HEAD(, write_batch) batches;   /* reads under way, by the turns they began in */
    STAILQ_HEAD(, write_part) preserved; /* this turn: their data is written at its end */
    struct shard_kick preserved_kick;
    TAILQ_HEAD(write_parts, write_part) waits; /* for a buffer, or a store to be opened again */
    unsigned buffer_waits;                     /* of them, for a buffer */
    struct loop_timer timer;                   /* when they try again */
    bool timer_runs;
    struct loop_timer open_timer; /* between two tries to open it */
    unsigned open_tries;
    struct volume *volume;
};

/* Make the file of a new volume, in that folder: sparse, of its size. Thread: control.
 * Errors: SNAP_EEXIST, SNAP_ENOSPC, SNAP_EIO; a device: SNAP_EINVAL (smaller than the volume). */
int origin_create(const struct volume_env *env, const char *dir, const struct volume_record *r,
                  struct err *reterr) SNAP_WUR;
/* Not open yet. */
int origin_new(struct volume *v, struct origin **ret, struct err *reterr) SNAP_WUR;
/* Open what the record names. After an error fault_text says why, and the volume is shown so.
 * Errors: SNAP_EBUSY (somebody's yet), SNAP_ENOENT, SNAP_EINVAL … */
int origin_open(struct volume *v, struct err *reterr) SNAP_WUR;
/* It found no memory: it is tried again, less and less often, until it is open or finds another
 * fault. why: the last try's. */
void origin_open_later(struct volume *v, const struct err *why);
/* Nothing is under way. Takes NULL. */
void origin_free(struct origin *o);

/* Close the gate: from now on writes are held; w->fn when none is under way and all that was
 * answered is flushed. Gates nest. Works on remote volumes too (at once). */
void volume_gate_close(struct volume *v, struct volume_waiter *w);
void volume_gate_open(struct volume *v);

/* -- for write.c -- */
/* A write past the gate has ended. */
void origin_write_left(struct volume *v);
/* Those of o->waits try again. user: the volume. */
void origin_waits_run(void *user);

#endif
