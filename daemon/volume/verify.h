/* SPDX-License-Identifier: Apache-2.0 */
/* Verification: every exception's content against its checksum. A job of the volume, see job.h.
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_VERIFY_H
#define SNAP_VOLUME_VERIFY_H

#include "daemon/volume/volume.h"

enum { VERIFY_FAULTS_MAX = 1000 };

struct verify_spec {
    struct uuid job;      /* the client's choice: the same again is the same job */
    struct uuid snapshot; /* nil: every node of the volume, hidden ones too */
    bool rebuild;         /* take what stands there for right and make the sums anew */
    bool scrub;           /* on the daemon's own account: slow, so that others hardly notice */
};

enum verify_fault_kind {
    VERIFY_DIFFERS,  /* neither its checksum nor the one before it */
    VERIFY_OLDER,    /* what it held before: a write that the disk lost */
    VERIFY_IN_DOUBT, /* differs, but was being overwritten when the machine stopped */
    VERIFY_UNREADABLE,
    VERIFY_ENTRY,   /* right for another old_chunk: its entry in the table has changed */
    VERIFY_DAMAGED, /* the whole node: its COW device is not open; no chunks */
};
struct verify_fault {
    enum verify_fault_kind kind;
    struct uuid snapshot;
    uint64_t old_chunk, new_chunk;
    uint64_t meant_old;  /* VERIFY_ENTRY */
    bool entry_suspect;  /* the entry may be what has changed, not the content */
    bool sought, placed; /* has the entry been looked for, and found: there */
    uint64_t area_no;
    uint32_t entry;
};
/* "VOLUME@SNAPSHOT: …" with what to do about it. buf of ERR_TEXT_BYTES is enough. */
const char *verify_fault_format(struct volume *v, const struct verify_fault *f, char *buf,
                                size_t buf_bytes);

/* done when the job has begun; it ends by itself. One verification at a time a volume.
 * Errors: SNAP_ENOENT, SNAP_EBUSY (another one runs), SNAP_ECORRUPT (the snapshot's device
 * cannot be opened), SNAP_EPOISONED (it is being opened again), SNAP_ENOMEM. */
void volume_verify_start(struct volume *v, const struct verify_spec *spec, volume_done_fn *done,
                         void *user);
/* What the verification under way, or the one that ended last, has found. NULL: it is another.
 * Valid until the loop turns. */
const struct verify_fault *volume_verify_faults(struct volume *v, const struct uuid *job,
                                                uint32_t *ret_count, uint64_t *ret_total);
/* The volume is freed. */
void volume_verify_forget(struct volume *v);

#endif
