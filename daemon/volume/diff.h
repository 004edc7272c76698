/* SPDX-License-Identifier: Apache-2.0 */
/* What changed between two states of a volume, from the exceptions alone. Thread: the shard's. */
#ifndef SNAP_VOLUME_DIFF_H
#define SNAP_VOLUME_DIFF_H

#include "daemon/volume/volume.h"

struct volume_diff {
    struct uuid from; /* a snapshot of the chain */
    struct uuid to;   /* a newer one; nil: the volume as it is now */
    uint64_t start_chunk;
    uint32_t runs_max;
    /* results: arrays of runs_max, the caller's; ascending, neighbours joined */
    uint64_t *old_chunk, *count;
    uint32_t n;
    bool more;
    uint64_t next_chunk; /* start_chunk of the next page */
};
/* One page; looks at a bounded number of entries, so it may come back with few and `more`.
 * Every chunk in which the states differ is in it; one that was written with what it held
 * before is in it too.
 * Errors: SNAP_ENOENT, SNAP_ENOTSUP (a clone), SNAP_EINVAL (`to` is older), SNAP_EINVALID,
 *         SNAP_ECORRUPT, SNAP_EPOISONED (`from` cannot be read). */
int volume_diff(struct volume *v, struct volume_diff *d, struct err *reterr) SNAP_WUR;

#endif
