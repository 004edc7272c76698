/* SPDX-License-Identifier: Apache-2.0 */
/* A file or block device, and a request on it as a row of system calls.
 * Private to common/io: shared by the io_uring and the thread engine.
 *
 *   xfer_begin ──> xfer_next ──(the engine makes the call)──> xfer_advance ─ true ─> xfer_settle
 *                      ^                                          │ false
 *                      └──────────────────────────────────────────┘
 */
#ifndef SNAP_IO_XFER_H
#define SNAP_IO_XFER_H

#include "common/io/blk_priv.h"

#include <stdatomic.h>

/* Where a BLK_ZERO begins on this device: what was refused once is not tried again. */
enum zero_way { ZERO_RANGE, ZERO_PUNCH, ZERO_WRITE };

struct file_dev {
    struct blk_dev base;
    int fd;
    bool direct;    /* O_DIRECT is on */
    bool exclusive; /* nobody else who asks for the lock changes the file */
    bool cut;       /* was found shorter than it had been: nothing succeeds any more */
    unsigned grows; /* in flight */
    atomic_int zero_way;
    uint64_t file_size_bytes; /* as the file system says; info.size_bytes is whole blocks of it */
    char *name;
};

/* Open and fill in a device whose methods are `ops`. See blk_open(). */
int file_dev_open(struct blk_engine *e, const struct blk_dev_ops *ops, const char *path,
                  unsigned flags, struct blk_dev **ret, struct err *reterr) SNAP_WUR;
void file_dev_close(struct blk_dev *d);
uint64_t file_dev_next_data(struct blk_dev *d, uint64_t offset_bytes);
uint64_t file_dev_next_hole(struct blk_dev *d, uint64_t offset_bytes);

enum xfer_kind { XFER_READ, XFER_WRITE, XFER_DATASYNC, XFER_FALLOCATE };

/* One system call to make. */
struct xfer_call {
    enum xfer_kind kind;
    int fd;
    const struct iovec *iov; /* READ, WRITE */
    unsigned iov_count;
    int mode; /* FALLOCATE: its mode; WRITE: RWF_ flags */
    uint64_t offset_bytes;
    uint64_t len_bytes; /* FALLOCATE */
};

/* Thread: begin and settle on the engine's; next and advance on any, one at a time. */
void xfer_begin(struct blk_req *req);
void xfer_next(struct blk_req *req, struct xfer_call *ret);
/* Make it: a system call that blocks. A negative errno on failure. Thread: any. */
int64_t xfer_make(const struct xfer_call *call);
/* Take in what the call returned (a negative errno on failure). True: the request is
 * finished, its result in req->result and req->sys_errno. */
bool xfer_advance(struct blk_req *req, int64_t returned);
/* Bring the device up to date with a finished request. */
void xfer_settle(struct blk_req *req);

#endif
