/* SPDX-License-Identifier: Apache-2.0 */
/* A snapshot on its way to being, shared by snapshot_create.c (its turn, the writer, the commit,
 * the end), snapshot_create_device.c and snapshot_group.c. Thread: the shard's. */
#ifndef SNAP_VOLUME_SNAPSHOT_CREATE_PRIV_H
#define SNAP_VOLUME_SNAPSHOT_CREATE_PRIV_H

#include "daemon/volume/change.h"

enum create_phase { CREATE_QUEUED, CREATE_STORE, CREATE_QUIESCE, CREATE_COMMIT, CREATE_HELD };

struct snapshot_create {
    struct volume *volume;
    enum create_phase phase;
    struct record_snapshot record;
    bool own_file, take_over;
    char cow_path[LIMIT_PATH_BYTES]; /* the record's */
    char path[LIMIT_PATH_BYTES];     /* of the COW device */
    struct snapshot *node;
    bool noted;   /* that there may be files of it, see draft.h */
    bool created; /* the own file has been made */
    bool summed;  /* and perhaps its checksums' */
    struct buf *probe;
    struct blk_req req;
    struct loop_timer timer;
    bool timer_ready;
    uint64_t deadline_ns;
    uint64_t give_up_ns;  /* its file is somebody's still, or there is no memory, and that is waited
                           * for until then; 0: not yet */
    uint64_t fence_epoch; /* set by the commit; 0: the writer goes on */
    uint64_t spec_limit_bytes;
    uint32_t spec_chunk_sectors;
    bool dead;
    bool gated; /* the gate is closed, or closing */
    struct volume_waiter gate;
    bool undoing; /* it has failed: nothing but the clearing away is to come */
    struct volume_commit commit;
    struct err err;
    volume_done_fn *done, *held;
    void *user;
    STAILQ_ENTRY(snapshot_create) link;
};

/* -- snapshot_create.c -- */
/* The device is there and its store open: stop the writer. */
void create_quiesce(struct snapshot_create *c);
/* Clear away what there is of it, then create_end(); c->err says why. */
void create_undo(struct snapshot_create *c);
/* Set the timer for another try; false: it has been waited for enough. */
bool create_wait_a_little(struct snapshot_create *c);
/* It is told, freed, and the next one's turn. */
void create_end(struct snapshot_create *c, int code);

/* -- snapshot_group.c -- */
/* Take it out of the record again. */
void create_forget(struct snapshot_create *c);

/* -- snapshot_create_device.c -- */
/* Make or open its COW device and the store in it, then create_quiesce(). */
void create_device(struct snapshot_create *c);

#endif
