/* SPDX-License-Identifier: Apache-2.0 */
/* The block device interface: what the exception store knows of a disk.
 *
 * A `struct blk_req` is the caller's, lives until its `done` has run, and needs
 * no allocation. `done` never runs inside blk_submit(): it runs inside
 * blk_engine_reap() or blk_engine_wait() of the engine that the device was
 * opened with, on that engine's thread.
 *
 *   submit ──> queued ──(kick: one system call a batch)──> kernel ──> reap ──> done
 *
 * There is no order among requests in flight, as on a disk: a flush covers
 * exactly the writes whose `done` had run before the flush was submitted. A
 * write is durable after such a flush, or by itself when BLK_FUA is set.
 *
 * Makes of the engine: io_uring (uring.c), a thread pool with pread/pwrite
 * (threads.c), and memory with injectable faults and power loss (mem.h).
 * Nothing above common/io may assume a file.
 *
 * Thread: an engine, its devices and their requests belong to one thread.
 */
#ifndef SNAP_IO_BLK_H
#define SNAP_IO_BLK_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

enum blk_op {
    BLK_READ,
    BLK_WRITE,
    BLK_FLUSH,   /* offset, length and buffers unused */
    BLK_DISCARD, /* content becomes undefined-or-zero; a hint that always succeeds if in range */
    BLK_ZERO,    /* content reads as zeros; keeps the space where it can (DISCARD gives it back) */
    BLK_GROW,    /* make the device at least offset_bytes long, space allocated;
                  * SNAP_ENOTSUP on fixed-size devices, SNAP_ENOSPC when refused */
};

enum {
    BLK_FUA = 1 << 0,    /* BLK_WRITE, BLK_ZERO: durable when done */
    BLK_FILLER = 1 << 1, /* BLK_WRITE: only makes room; nobody will be held to the content */
    BLK_ONCE = 1 << 3,   /* BLK_READ: will not be wanted again, no cache need keep it */
    BLK_MEDIUM = 1 << 4, /* BLK_READ: what the device has, whatever a cache has */
};

enum { BLK_IOV_MAX = 256 };

struct blk_dev;
struct blk_req;

/* result: 0 or a negative SNAP_E…; req->sys_errno says more. The request is the caller's again. */
typedef void blk_done_fn(struct blk_req *req, int result);

struct blk_req {
    /* filled in by the caller */
    enum blk_op op;
    uint32_t flags;
    uint64_t offset_bytes;   /* aligned to the device's align_bytes */
    uint64_t len_bytes;      /* aligned; for READ and WRITE the sum of the iovecs */
    const struct iovec *iov; /* borrowed until done; NULL: one buffer at `data` */
    unsigned iov_count;
    void *data; /* when iov is NULL; aligned to align_bytes */
    /* BLK_WRITE: what each block that it touches belongs to, for a device that keeps checksums and
     * binds them to it (sum.h); borrowed until done; NULL: nothing is known of that. */
    const uint64_t *tags;
    blk_done_fn *done;
    void *user;

    /* for done to read */
    int sys_errno;
    bool refused; /* FUA, and failed: before its flush, so what was written before is as it was */

    /* the engine's own */
    struct blk_dev *dev;
    int result;
    uint64_t progress_bytes; /* short transfers are taken up again by the engine */
    bool then_flush;         /* a FUA write without its FUA: a flush follows */
    struct iovec one;
    STAILQ_ENTRY(blk_req) link;
    void *engine_data[4];
};

struct blk_info {
    uint64_t size_bytes;  /* now; a grow moves it */
    uint32_t align_bytes; /* logical block: offsets, lengths and buffers are multiples of it */
    bool read_only;
    bool can_grow;    /* a regular file */
    bool is_block;    /* a block special file */
    const char *name; /* path, for texts; the device's own */
};

struct blk_engine;

/* Methods of one make of device; see blk_priv.h. */
struct blk_dev_ops;

/* -- engines ------------------------------------------------------------- */

/* io_uring with `depth` entries. Errors: SNAP_ENOTSUP when the kernel refuses it. */
int blk_engine_new_uring(unsigned depth, struct blk_engine **ret, struct err *reterr) SNAP_WUR;
/* pread/pwrite on `threads` threads. */
int blk_engine_new_threads(unsigned threads, struct blk_engine **ret, struct err *reterr) SNAP_WUR;
/* io_uring if it can be had, else threads. */
int blk_engine_new(struct blk_engine **ret, struct err *reterr) SNAP_WUR;
/* All devices must be closed. Takes NULL. */
void blk_engine_free(struct blk_engine *e);
const char *blk_engine_kind(const struct blk_engine *e); /* "io_uring", "threads", "memory" */
/* A descriptor that polls readable when blk_engine_reap() has work; -1: memory. */
int blk_engine_fd(const struct blk_engine *e);
/* Hand what was submitted to the kernel. Call once a turn of the loop, not once a request. */
void blk_engine_kick(struct blk_engine *e);
/* Run `done` of everything that has completed. Returns how many ran. */
unsigned blk_engine_reap(struct blk_engine *e);
/* The same for who was not told to by the descriptor: no system call when nothing has. */
unsigned blk_engine_poll(struct blk_engine *e);
/* Kick, sleep until something completes (at most timeout_ms; -1: no limit), reap.
 * Returns how many ran; 0 on time-out or when nothing is in flight. */
unsigned blk_engine_wait(struct blk_engine *e, int timeout_ms);
/* Requests submitted whose done has not run. */
unsigned blk_engine_inflight(const struct blk_engine *e);
/* Of these, without those that have become requests of the device below their own. */
unsigned blk_engine_at_disks(const struct blk_engine *e);
/* Let the kernel pin a region for faster I/O; a hint, may do nothing. The region stays
 * mapped until the engine is freed. */
void blk_engine_register_memory(struct blk_engine *e, void *base, size_t len_bytes);

/* -- devices ------------------------------------------------------------- */

enum blk_open_flags {
    BLK_OPEN_READ_ONLY = 1 << 0,
    BLK_OPEN_CREATE = 1 << 1, /* a new regular file, must not exist; made durable in its folder */
    BLK_OPEN_EXCLUSIVE = 1 << 2, /* O_EXCL on block devices, an OFD write lock on files: a second
                                  * exclusive opener gets SNAP_EBUSY */
    BLK_OPEN_BUFFERED = 1 << 3,  /* through the page cache (align_bytes is 512), for odd files */
};

/* Open a regular file or block device, with O_DIRECT when the file system takes it and the
 * size is a multiple of what O_DIRECT wants; else as with BLK_OPEN_BUFFERED. The size is in
 * whole blocks: a file's last part of a sector is not seen.
 * Owns:   *ret is closed with blk_dev_close().
 * Errors: SNAP_ENOENT, SNAP_EEXIST, SNAP_EPERM, SNAP_EBUSY, SNAP_EINVAL (a folder, a socket …). */
int blk_open(struct blk_engine *e, const char *path, unsigned flags, struct blk_dev **ret,
             struct err *reterr) SNAP_WUR;
/* No request may be in flight. Takes NULL. */
void blk_dev_close(struct blk_dev *d);
const struct blk_info *blk_dev_info(const struct blk_dev *d);
struct blk_engine *blk_dev_engine(const struct blk_dev *d);

/* Queue a request. Out of range or misaligned: completes with SNAP_EINVAL; a change of a
 * read-only device: with SNAP_EPERM. One of no length succeeds. */
void blk_submit(struct blk_dev *d, struct blk_req *req);

/* The next offset at or after `offset_bytes` where data (or a hole) begins, by
 * SEEK_DATA / SEEK_HOLE; device size when there is none. A device that cannot
 * tell says that all is data. Blocks briefly. */
uint64_t blk_dev_next_data(struct blk_dev *d, uint64_t offset_bytes);
uint64_t blk_dev_next_hole(struct blk_dev *d, uint64_t offset_bytes);

/* -- blocking face, for tools and tests: submit, drive the engine, return -- */
int blk_read_sync(struct blk_dev *d, uint64_t offset_bytes, void *buf, uint64_t len_bytes,
                  struct err *reterr) SNAP_WUR;
int blk_write_sync(struct blk_dev *d, uint64_t offset_bytes, const void *buf, uint64_t len_bytes,
                   struct err *reterr) SNAP_WUR;
int blk_flush_sync(struct blk_dev *d, struct err *reterr) SNAP_WUR;
int blk_zero_sync(struct blk_dev *d, uint64_t offset_bytes, uint64_t len_bytes,
                  struct err *reterr) SNAP_WUR;
int blk_grow_sync(struct blk_dev *d, uint64_t size_bytes, struct err *reterr) SNAP_WUR;

#endif
