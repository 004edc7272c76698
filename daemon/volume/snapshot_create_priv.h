/* SPDX-License-Identifier: Apache-2.0 */
/* A snapshot on its way to being, shared by snapshot_create.c (its turn, the writer, the commit,
 * the end), snapshot_create_spec.c, snapshot_create_device.c and snapshot_group.c. Thread: the
 * shard's. */
#ifndef SNAP_VOLUME_SNAPSHOT_CREATE_PRIV_H
#define SNAP_VOLUME_SNAPSHOT_CREATE_PRIV_H

#include "daemon/volume/change.h"

enum create_phase { CREATE_QUEUED, CREATE_STORE, CREATE_QUIESCE, CREATE_COMMIT, CREATE_HELD };

struct snapshot_create {
    struct volume *volume;
    enum create_phase phase;
    bool undoing; /* it has failed: nothing but the clearing away is to come */
    struct err err;
    volume_done_fn *done, *held;
    void *user;
    STAILQ_ENTRY(snapshot_create) link;

    /* -- what is asked for -- */
    struct record_snapshot record;
    bool own_file, take_over;
    uint32_t spec_chunk_sectors; /* 0: not said */
    uint64_t spec_limit_bytes;
    char cow_path[LIMIT_PATH_BYTES]; /* the record's */

    /* -- what there is of it, and is cleared away if it fails -- */
    struct snapshot *node;       /* until the commit */
    bool noted;                  /* that there may be files of it, see draft.h */
    bool created;                /* the own file has been made */
    bool summed;                 /* and perhaps its checksums' */
    char path[LIMIT_PATH_BYTES]; /* of the COW device */
    struct buf *probe;
    struct blk_req req;

    /* -- writers stand still -- */
    uint64_t deadline_ns; /* a remote one is waited for until then */
    bool dead;            /* it is gone, and is fenced */
    uint64_t fence_epoch; /* set by the commit; 0: the writer goes on */
    bool gated;           /* the gate is closed, or closing */
    struct volume_waiter gate;

    struct volume_commit commit;
    struct loop_timer timer; /* of the phase: to try again, or to look whether a writer stands */
    bool timer_ready;
    uint64_t give_up_ns; /* its file is somebody's still, or there is no memory, and that is waited
                          * for until then; 0: not yet */
};

/* -- snapshot_create_spec.c -- */
/* Errors: SNAP_EINVAL. */
int create_fill(struct snapshot_create *c, const struct snapshot_spec *spec,
                struct err *reterr) SNAP_WUR;
/* 1: it is there already, as asked for. Errors: as snapshot_create_start(). */
int create_check(struct snapshot_create *c, struct err *reterr) SNAP_WUR;
/* Errors: SNAP_EBUSY (the volume is rolled back, or merged). */
int create_check_free(const struct volume_record *r, struct err *reterr) SNAP_WUR;

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
