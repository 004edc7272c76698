/* SPDX-License-Identifier: Apache-2.0 */
/* What a make of block device engine has to provide; private to common/io.
 *
 * blk.c validates every request, counts it and runs its `done`. An engine only
 * moves it: dev->ops->submit takes a valid request, ops->collect hands back what
 * has completed by blk_complete(). So no engine calls `done` itself.
 *
 *   blk_submit ─ valid ──> dev->ops->submit ──> … ──> ops->collect ─┐
 *        └────── invalid, or nothing to do ──────────> e->done <────┘ blk_complete
 *                                                         └──> done()   reap, wait
 *
 * Between the two stands blk_flush.c: a device has one flush under way.
 */
#ifndef SNAP_IO_BLK_PRIV_H
#define SNAP_IO_BLK_PRIV_H

#include "common/io/blk.h"

STAILQ_HEAD(blk_req_list, blk_req);

struct blk_engine_ops {
    const char *kind;
    /* Free the engine and all that is its own; blk.c has checked that no device is left. */
    void (*free)(struct blk_engine *e);
    int (*open)(struct blk_engine *e, const char *path, unsigned flags, struct blk_dev **ret,
                struct err *reterr);
    /* Start everything that was submitted. */
    void (*kick)(struct blk_engine *e);
    /* blk_complete() what has completed; never blocks. Starts again what waits for room. */
    void (*collect)(struct blk_engine *e);
    /* Might collect find something? Without a system call. NULL: it might. */
    bool (*has_completed)(const struct blk_engine *e);
    /* Kick, then block until collect may have something, at most timeout_ms (-1: no
     * limit). May return early. */
    void (*sleep)(struct blk_engine *e, int timeout_ms);
    void (*register_memory)(struct blk_engine *e, void *base, size_t len_bytes);
};

struct blk_dev_ops {
    /* Take a valid request. May call blk_complete() where the engine has no descriptor. */
    void (*submit)(struct blk_dev *d, struct blk_req *req);
    /* Free the device. */
    void (*close)(struct blk_dev *d);
    uint64_t (*next_data)(struct blk_dev *d, uint64_t offset_bytes);
    uint64_t (*next_hole)(struct blk_dev *d, uint64_t offset_bytes);
};

/* The head of every engine. */
struct blk_engine {
    const struct blk_engine_ops *ops;
    int event_fd; /* an eventfd, owned; -1: none */
    unsigned inflight;
    unsigned at_disks; /* of these, those not of devices over others */
    unsigned devices;
    struct blk_req_list done; /* completed, `done` not run yet */
    unsigned done_count;
    struct blk_req_list joined; /* flushes that another's end was for, `done` not run yet */
};

/* The head of every device. */
struct blk_dev {
    const struct blk_dev_ops *ops;
    struct blk_engine *engine;
    struct blk_info info;
    unsigned inflight;
    bool is_over_another;           /* its requests become another one's */
    const struct blk_req *flushing; /* the flush, or FUA write, that is the engine's; NULL: none */
    struct blk_req flush;           /* its own, for all who wait */
    struct blk_req_list flushed;    /* end with the one under way */
    struct blk_req_list to_flush;   /* came meanwhile */
};

/* with_fd: make an eventfd. Errors: as eventfd(2). */
int blk_engine_init(struct blk_engine *e, const struct blk_engine_ops *ops, bool with_fd,
                    struct err *reterr) SNAP_WUR;
void blk_engine_done(struct blk_engine *e);
/* Count the device in; blk_dev_close() counts it out. info is for the caller to fill in, and
 * is_over_another. */
void blk_dev_init(struct blk_dev *d, const struct blk_dev_ops *ops, struct blk_engine *e);
/* The request is finished: `done` runs in the current or next reap or wait. */
void blk_complete(struct blk_req *req, int result, int sys_errno);
/* Likewise, `done` at once: for devices over other devices, from a `done` of theirs. */
void blk_finish(struct blk_req *req, int result, int sys_errno);
/* Submit `inner` to another device, for what `outer` asks; `done` ends outer with blk_finish(). */
void blk_forward(struct blk_dev *below, struct blk_req *inner, const struct blk_req *outer,
                 blk_done_fn *done, void *user);
/* Flush for req, with others where there are any. */
void blk_flush_join(struct blk_dev *d, struct blk_req *req);
/* Submit a FUA write or zero. */
void blk_flush_fua(struct blk_dev *d, struct blk_req *req);
/* The request has come back. True: it is to be told; false: not yet, or nobody's. */
bool blk_flush_ended(struct blk_req *req);
/* Make the engine's descriptor readable. Thread: any. */
void blk_engine_poke(struct blk_engine *e);
/* Forget every request in flight, `done` not run: after a simulated power loss. */
void blk_engine_forget(struct blk_engine *e);
void blk_dev_forget(struct blk_dev *d);

#endif
