/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a snapshot's view, listing and checking its exceptions. Thread: the shard's. */
#ifndef SNAP_VOLUME_READ_H
#define SNAP_VOLUME_READ_H

#include "common/cow/cow_view.h"
#include "daemon/volume/volume.h"

enum volume_extent_kind { VOLUME_EXTENT_DATA, VOLUME_EXTENT_ORIGIN, VOLUME_EXTENT_ZERO };
struct volume_extent {
    uint64_t offset_bytes, len_bytes;
    enum volume_extent_kind kind;
};

/* The caller's until done. Of a hosted volume: any offset and length, and one extent of DATA. */
struct volume_read {
    struct uuid snapshot; /* nil: the hosted volume itself */
    uint64_t offset_bytes;
    uint32_t len_bytes;
    void (*done)(struct volume_read *r, int code, const struct err *err);
    void *user;
    /* results, until volume_read_done(): extents in order, which cover the range; the
     * content of DATA ones in iov */
    struct volume_extent *extents;
    uint32_t extent_count;
    struct iovec *iov;
    unsigned iov_count;
    struct buf *buf; /* of the shard's answer_pool; holds what iov points to; may be NULL */
    /* the volume's own */
    struct volume *volume;
    struct cow_extent *places;
    struct snapshot **nodes;
    struct blk_req *reqs;
    uint32_t place_count;
    uint32_t pending;
    struct read_hosted *hosted;
    struct err err;
};
/* Errors: SNAP_EINVAL, SNAP_ENOENT, SNAP_EINVALID, SNAP_ECORRUPT, SNAP_EPOISONED, SNAP_EIO,
 *         SNAP_ELIMIT (no buffer: try again later), SNAP_ENOMEM. */
void volume_read_start(struct volume *v, struct volume_read *r);
/* Where data stands, without reading any: at most max extents, in order, from offset_bytes on as
 * far as they go. ZERO on hosted volumes only, ORIGIN on remote ones only. Looks at a bounded
 * number of places, so it may come back with few. snapshot nil: the hosted volume itself.
 * Errors: SNAP_EINVAL, SNAP_ENOENT, SNAP_EINVALID, SNAP_ECORRUPT, SNAP_EPOISONED, SNAP_EIO. */
int volume_extents(struct volume *v, const struct uuid *snapshot, uint64_t offset_bytes,
                   uint64_t len_bytes, struct volume_extent *ret, uint32_t max, uint32_t *ret_count,
                   struct err *reterr) SNAP_WUR;
/* What is to be read, and whether it can be; *ret NULL: the origin. */
int volume_read_place(struct volume *v, const struct uuid *snapshot, struct snapshot **ret,
                      struct err *reterr) SNAP_WUR;
int volume_read_check_range(const struct volume *v, uint64_t offset_bytes, uint64_t len_bytes,
                            struct err *reterr) SNAP_WUR;
/* Free the results but buf, which is the caller's to give back on this shard. */
void volume_read_done(struct volume_read *r);

struct volume_runs {
    bool own;
    uint64_t start_chunk;
    uint32_t runs_max;
    /* results: arrays of runs_max, the caller's */
    uint64_t *old_chunk, *count, *new_chunk;
    uint32_t n;
    bool more;
    uint64_t next_chunk;
};
/* One page; looks at a bounded number of entries, so it may come back with few and `more`. */
int volume_list_runs(struct volume *v, const struct snapshot *s, struct volume_runs *runs,
                     struct err *reterr) SNAP_WUR;

enum { VOLUME_CHECK_FAULTS_MAX = 1000 };
struct volume_check {
    struct uuid snapshot;
    void (*done)(struct volume_check *c, int code, const struct err *err);
    void *user;
    /* results */
    struct cow_fault *faults; /* malloc'd, the caller's to free */
    uint32_t fault_count;
    uint64_t faults_total, exceptions;
    bool sound;
    /* the volume's own */
    struct volume *volume;
    struct snapshot *node;
    struct cow_map *map;
    struct cow_store *store;
    struct blk_dev *dev; /* opened for the check only */
    bool reads;          /* node's own device, as one of its readers */
    bool gated;
    struct volume_waiter waiter;
    struct shard_kick kick;
    int code;
    struct err err;
};
/* Read the table from disk again beside the open store and report every structural fault. */
void volume_check_start(struct volume *v, struct volume_check *c);

#endif
