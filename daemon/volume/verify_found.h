/* SPDX-License-Identifier: Apache-2.0 */
/* What a verification has found; see verify_found.c. Thread: the shard's. */
#ifndef SNAP_VOLUME_VERIFY_FOUND_H
#define SNAP_VOLUME_VERIFY_FOUND_H

#include "daemon/volume/verify.h"

struct verify_found {
    uint64_t differs, older, in_doubt, unreadable, entries, damaged; /* faults, by kind */
    uint64_t missing, rebuilt;                                       /* which are none */
    uint32_t fault_count;
    struct verify_fault *faults; /* VERIFY_FAULTS_MAX */
};

/* False: no memory. */
bool verify_found_init(struct verify_found *f) SNAP_WUR;
void verify_found_done(struct verify_found *f);
void verify_found_add(struct verify_found *f, const struct verify_fault *fault);
uint64_t verify_found_total(const struct verify_found *f);
/* How much of what, for people. */
void verify_found_format(const struct verify_found *f, char *buf, size_t buf_bytes);
/* Notices: that there are faults, and the first of them. Without faults: none. */
void verify_found_tell(const struct verify_found *f, struct volume *v);

/* Does a verification of `what` (nil: all) look at s? */
bool verify_covers(const struct uuid *what, const struct snapshot *s);
/* Note in the nodes whether they have faults, for those who look at them and not at the jobs.
 * all_compared: it has not stopped half-way, so those without are sound. */
void verify_found_mark(const struct verify_found *f, struct volume *v, const struct uuid *what,
                       bool all_compared);

#endif
