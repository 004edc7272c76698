/* SPDX-License-Identifier: Apache-2.0 */
/* COW requests of a volume: old content becomes durable exceptions of its head.
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_PUT_H
#define SNAP_VOLUME_PUT_H

#include "daemon/volume/volume.h"

/* What the stores of one volume have in flight; more waits its turn. */
#define VOLUME_PUT_BYTES_MAX (UINT64_C(32) << 20)
/* The disk is idle, or soon will be, with no more than this in flight, and begins with so much */
#define VOLUME_PUT_FEW_BYTES (UINT64_C(1) << 20)
#define VOLUME_PUT_CROWD_BYTES (UINT64_C(256) << 10)

/* The caller's, with everything it points to, until done has run. */
struct volume_put {
    const char *identity;
    uint64_t epoch;
    struct uuid head;
    const uint64_t *old_chunks;
    uint32_t old_count;
    uint8_t *payload; /* old_count chunks, BUF_ALIGN_BYTES aligned */
    size_t payload_bytes;
    const uint64_t *zero_chunks; /* chunks whose content is all zeros */
    uint32_t zero_count;
    /* Once; code 0: the outcome of each chunk is decided, else none was tried. */
    void (*done)(struct volume_put *p, int code, const struct err *err);
    void *user;

    /* results, valid until volume_put_done() */
    uint32_t added, existed, failed;
    int16_t *outcomes;     /* [old_count + zero_count]: enum cow_outcome or a negative SNAP_E… */
    struct err first_fail; /* when failed > 0 */

    /* the volume's own */
    struct volume *volume;
    struct snapshot *node;
    uint64_t bytes;
    struct cow_put parts[2];
    struct iovec *iov[2];
    uint64_t *kept;       /* chunks that are put, when not all are */
    uint32_t *kept_index; /* and where their outcomes belong */
    int16_t *kept_outcomes;
    unsigned pending;
    TAILQ_ENTRY(volume_put) link;
};

/* Errors (done): SNAP_ESTALE (epoch or head), SNAP_EINVAL (a chunk outside the volume, payload
 * length), SNAP_EBUSY (merging), SNAP_EINVALID, SNAP_ECORRUPT, SNAP_ELIMIT, SNAP_ENOMEM. */
void volume_put_start(struct volume *v, struct volume_put *p);
/* Little is in flight, and with so many bytes more so much has come that the disk had better
 * begin with it: who has more at hand lets the turn end first. */
bool volume_put_crowd(struct volume *v, size_t bytes);
/* Free the results. */
void volume_put_done(struct volume_put *p);
/* Something that puts wait for has ended. */
void volume_put_resume(struct volume *v);
void volume_put_run_held(void *user);
void volume_put_cancel_held(struct volume *v);

#endif
