/* SPDX-License-Identifier: Apache-2.0 */
/* The exception store: one COW device in the dm-snapshot persistent format.
 *
 *   opening ──> ready ──> (put … commit …)* ──> closing ──> gone
 *      │          ├──> invalid    for good: header valid = 0
 *      │          ├──> poisoned   a flush or area write failed: what is on disk is
 *      └─> error  │               unknown until it is opened again
 *                 └──> merging    from the first merge commit on: puts are refused
 *
 * Pipeline: data is written where next_free points the moment it arrives; a
 * group is everything whose data writes have completed; group n is acknowledged
 * by the flush that also makes the data of group n+1 durable. At most two
 * flushes a commit, one in steady state.
 *
 * No system calls, no clock, no threads: it drives a blk_dev, whose completions
 * move it on. Callbacks never run inside the call that takes them: they run from
 * a completion or from cow_store_kick(), which the owner calls once a turn of its
 * loop after any calls on an open store, before it kicks the engine. The one
 * exception: a call that cannot get the few bytes to remember its callback runs
 * it at once with SNAP_ENOMEM. The store borrows the device and the map; the
 * owner closes and frees them afterwards.
 * Source: docs/format.md.
 */
#ifndef SNAP_COW_STORE_H
#define SNAP_COW_STORE_H

#include "common/base/err.h"
#include "common/cow/cow_disk.h"
#include "common/cow/cow_map.h"
#include "common/io/blk.h"

#include <sys/queue.h>

struct cow_store;

typedef void cow_done_fn(void *user, int code, const struct err *err);

/* Make a new store on dev: area 0 zeroed, flush, header, flush. Whatever the
 * device held is gone. chunk_size_sectors: checked against the device.
 * A growable device smaller than header + area 0 + one data chunk is grown to it.
 * Errors: SNAP_EINVAL, SNAP_EPERM (read-only device), SNAP_ENOSPC (too small), SNAP_EIO.
 * Returns a handle that is good for cow_store_abandon() only, until done has run; NULL
 * when it ended at once. */
struct cow_store *cow_store_create(struct blk_dev *dev, uint32_t chunk_size_sectors,
                                   cow_done_fn *done, void *user);

struct cow_store_options {
    struct cow_map *map; /* borrowed; receives every exception under `seq` */
    uint32_t seq;
    uint64_t limit_bytes;     /* a growable device grows up to it; 0: never grows */
    uint64_t grow_step_bytes; /* the largest step: from 1 MiB they double up to it; 0: 1 GiB */
    uint32_t
        want_chunk_sectors; /* 0: any; else a difference is told by cow_store_chunk_differs() */
    bool read_only;         /* nothing is written; puts are refused with SNAP_EPERM */
    bool accept_damaged;    /* with read_only: keep the sound exceptions, see damage below */
};

/* One structural fault, with its place. */
struct cow_fault {
    int code; /* SNAP_ECORRUPT … */
    uint64_t area_no;
    uint32_t index; /* of the exception in its area */
    struct cow_exception exception;
    char text[160];
};
typedef void cow_fault_fn(void *user, const struct cow_fault *fault);

typedef void cow_open_fn(void *user, struct cow_store *store, int code, const struct err *err);

/* Read header and table, fill the map, and (unless read_only) zero what stands
 * past the end entry durably before the first commit. An invalid snapshot opens
 * with code 0 and cow_store_state() COW_INVALID, its map filled.
 * faults (may be NULL) is told every structural fault, not the first only.
 * Errors: SNAP_EINVAL (not a COW device, version, chunk size), SNAP_ECORRUPT
 *         (store NULL, map unchanged), SNAP_EPERM (a read-only device, not opened
 *         read_only), SNAP_EIO, SNAP_ENOMEM.
 * Returns as cow_store_create(). Unless read_only the device is flushed once, so that
 * what a killed writer left unflushed is durable before it is told as existing. */
struct cow_store *cow_store_open(struct blk_dev *dev, const struct cow_store_options *options,
                                 cow_fault_fn *faults, cow_open_fn *done, void *user);

/* Wait for what is in flight (accepted puts that have their chunk, and their commits),
 * refuse the rest (SNAP_ESHUTDOWN), free. The store is gone when done runs. Once only. */
void cow_store_close(struct cow_store *s, cow_done_fn *done, void *user);
/* Free at once, calling nobody: after a simulated power loss, when none of its requests
 * is in flight any more. Never inside one of its callbacks. Takes NULL. */
void cow_store_abandon(struct cow_store *s);

/* -- put ------------------------------------------------------------------- */

enum cow_outcome {
    COW_PENDING = 1, /* not decided yet */
    COW_ADDED = 0,   /* this content is the durable exception */
    COW_EXISTS = 2,  /* there was one already, and it is durable */
    /* or a negative SNAP_E… */
};

/* A batch of chunks; the caller's until done, with its buffers. */
struct cow_put {
    const uint64_t
        *old_chunks; /* count of them, any order; a repeat within one batch reads as EXISTS */
    uint32_t count;
    const struct iovec *iov; /* the payload, count * chunk_bytes, each part aligned and a
                              * multiple of the device's align_bytes */
    unsigned iov_count;
    int16_t *outcomes; /* [count], filled in by the store */
    /* once, when every chunk is decided and durable; code: 0 or the first failure's */
    void (*done)(struct cow_put *put, int code, const struct err *err);
    void *user;

    void *store_data[8]; /* the store's own */
    TAILQ_ENTRY(cow_put) link;
};

/* Errors (outcomes): SNAP_ENOSPC, SNAP_EIO (that chunk; a hole is left), SNAP_EPOISONED,
 * SNAP_EINVALID, SNAP_EBUSY (merging), SNAP_EPERM (read_only), SNAP_ESHUTDOWN, SNAP_ENOMEM,
 * SNAP_EINVAL (an old_chunk past LIMIT_VOLUME_BYTES). */
void cow_store_put(struct cow_store *s, struct cow_put *put);
/* What puts have gathered for a write that is not submitted yet, in bytes. */
uint64_t cow_store_gathered_bytes(const struct cow_store *s);
/* Submit what gathered and run the callbacks of what is decided; the owner calls it once
 * a turn of its loop, after a burst of calls. Without it they wait for the next
 * completion, and there may be none. May run cow_store_close()'s done, which ends the
 * store. Inside a callback it does nothing: the store goes on when the callback returns. */
void cow_store_kick(struct cow_store *s);
/* Write a part of the space that the next puts will go to, so that they find it faster;
 * 512 KiB at most, and a flush. To be called when nothing was asked of the store for a
 * while (some tens of ms), and again some ms later while it returns true: a put that comes
 * meanwhile waits for one step at most. False: nothing to do until after the next put. */
bool cow_store_idle(struct cow_store *s);
/* done when every put accepted so far is decided. */
void cow_store_drain(struct cow_store *s, cow_done_fn *done, void *user);

/* -- merge ------------------------------------------------------------------ */

struct cow_merge_run {
    uint64_t old_chunk;
    uint64_t new_chunk;
    uint32_t count;      /* 0: the table is empty, merge finished */
    uint64_t table_len;  /* exceptions in the table before these are cleared */
    uint32_t commit_max; /* one commit takes so many: the run, and what is before it in its area */
};
typedef void cow_merge_fn(void *user, const struct cow_merge_run *run, int code,
                          const struct err *err);

/* The last run of the table: within one area, consecutive in old and new. May be
 * asked again without commit: the same answer. Puts must have drained.
 * Errors: SNAP_EINVALID, SNAP_EPOISONED, SNAP_EBUSY, SNAP_EIO. */
void cow_store_merge_prepare(struct cow_store *s, cow_merge_fn *done, void *user);
/* Clear the last `count` exceptions durably (and from the map), provided the table holds
 * table_len. The caller has made their content durable on the origin.
 * Errors: SNAP_EMISMATCH (table_len differs or count is above commit_max of the prepared run). */
void cow_store_merge_commit(struct cow_store *s, uint64_t table_len, uint32_t count,
                            cow_done_fn *done, void *user);
/* Leave the merging state: next_free is found anew as at open; puts work again. */
void cow_store_merge_end(struct cow_store *s, cow_done_fn *done, void *user);

/* -- the rest ----------------------------------------------------------------- */

/* Set valid = 0 durably; everything pending fails with SNAP_EINVALID. When the header
 * cannot be written the store is poisoned instead; it may be asked again. */
void cow_store_invalidate(struct cow_store *s, cow_done_fn *done, void *user);
/* Raise or lower the limit of a growable device (not below what is in use); a limit below
 * the device's size is kept to as well. 0: no growth from now on.
 * Errors: SNAP_EINVAL (below what is in use), SNAP_ENOTSUP (fixed size). */
int cow_store_set_limit(struct cow_store *s, uint64_t limit_bytes, struct err *reterr) SNAP_WUR;

enum cow_state { COW_READY, COW_INVALID, COW_POISONED, COW_MERGING, COW_DAMAGED, COW_CLOSING };

struct cow_usage {
    enum cow_state state;
    bool merge_failed;
    struct cow_geometry geometry;
    uint64_t device_sectors; /* for a growable device: its size now */
    uint64_t limit_sectors;  /* what it may grow to; device_sectors when fixed */
    uint64_t exceptions;     /* durable, in the table */
    uint64_t areas;          /* in use, as the kernel counts them */
    uint64_t next_free;
    uint64_t sectors_allocated; /* next_free * chunk_sectors */
    uint64_t metadata_sectors;  /* (areas + 1) * chunk_sectors */
    uint64_t leftovers;         /* entries found past the table's end at open; zeroed then,
                                 * unless read_only or invalid */
    /* since open */
    uint64_t commits, flushes, area_writes, data_writes, chunks_added, chunks_existed;
    uint64_t chunks_failed, data_bytes, area_bytes;
};

void cow_store_usage(const struct cow_store *s, struct cow_usage *ret);
enum cow_state cow_store_state(const struct cow_store *s);
/* COW_INVALID, but not durably so: a crash may make it valid again. Nothing may be changed yet on
 * the ground that it is invalid. Puts that it has refused are told afterwards, as is a second
 * cow_store_invalidate(). */
bool cow_store_invalidating(const struct cow_store *s);
/* A flush of its device that others made has failed: what it has written may be gone, and its own
 * next flush would not tell. It is poisoned. */
void cow_store_flush_failed(struct cow_store *s, const struct err *err);
/* fn is told when the state becomes INVALID or POISONED, possibly deep inside another call: it
 * may look, and call nothing of the store. NULL: nobody is told. */
void cow_store_watch(struct cow_store *s, void (*fn)(void *user), void *user);
const struct cow_geometry *cow_store_geometry(const struct cow_store *s);
struct blk_dev *cow_store_dev(const struct cow_store *s);
uint32_t cow_store_seq(const struct cow_store *s);
bool cow_store_chunk_differs(const struct cow_store *s); /* from want_chunk_sectors */
/* Whether old_chunk is durable here the map alone tells: an exception enters it when its
 * commit is durable, not before. */

/* As `dmsetup status` prints it behind the target's name: "16/49152 16", "Invalid",
 * "Merge failed". buf of 80 bytes is enough. Returns buf. */
char *cow_status_format(const struct cow_usage *u, char *buf, size_t buf_bytes);

/* -- blocking face for tools and tests: drives the device's engine -- */
int cow_store_create_sync(struct blk_dev *dev, uint32_t chunk_size_sectors,
                          struct err *reterr) SNAP_WUR;
int cow_store_open_sync(struct blk_dev *dev, const struct cow_store_options *options,
                        cow_fault_fn *faults, void *fault_user, struct cow_store **ret,
                        struct err *reterr) SNAP_WUR;
int cow_store_close_sync(struct cow_store *s, struct err *reterr);

#endif
