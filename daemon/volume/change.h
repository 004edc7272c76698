/* SPDX-License-Identifier: Apache-2.0 */
/* What changes a chain: snapshots made, deleted, merged away.
 * Thread: the shard's. Each done runs once, possibly inside the call. */
#ifndef SNAP_VOLUME_CHANGE_H
#define SNAP_VOLUME_CHANGE_H

#include "daemon/volume/volume.h"

/* -- creating, snapshot_create.c, snapshot_group.c -- */
struct snapshot_spec {
    struct uuid id; /* the client's choice: the same again is the same snapshot */
    const char *name;
    uint32_t chunk_sectors; /* 0: the volume's, else the default */
    uint64_t limit_bytes;   /* of a COW file; 0: the default */
    const char *cow_device; /* an absolute path; NULL: a file of the volume's own */
    bool take_over;         /* the device holds a COW device: keep its exceptions */
    bool undo;              /* what a rollback preserves: never shown, its name is not checked */
    /* Made with others: goes into the record. Once that is committed the volume stays closed to
     * writes, held runs (code 0, done's user), and done waits for snapshot_create_release().
     * Who fails before that, or asks for one that is there already, is told by done alone.
     * NULL: alone. */
    const struct uuid *group;
    volume_done_fn *held;
};
/* Make it the head. A live writer is asked to stand still first; one that is gone is waited
 * for until its lease ends, and fenced. Nothing has changed after an error.
 * Errors: SNAP_EEXIST, SNAP_ESTALE (deleted before), SNAP_EINVAL, SNAP_EMISMATCH (chunk size),
 *         SNAP_EBUSY (merging), SNAP_ETIMEDOUT (the writer goes on), SNAP_ENOSPC, SNAP_EIO. */
void snapshot_create_start(struct volume *v, const struct snapshot_spec *spec, volume_done_fn *done,
                           void *user);
/* After held has run, once: keep it, or undo it (the record first, then the file); then the volume
 * is open again and done runs: with SNAP_ECANCELED when undone, with another error when the undoing
 * failed and the snapshot is still there. */
void snapshot_create_release(struct volume *v, const struct uuid *id, bool keep);
/* Is s still held, or being undone? Then it is nobody's yet. */
bool snapshot_create_holds(const struct volume *v, const struct snapshot *s);
/* Its group has been saved: from now on it does not depend on that. One that has been deleted
 * meanwhile needs nothing. Errors: SNAP_EIO, SNAP_ENOSPC … (it goes on depending). */
void snapshot_group_finish(struct volume *v, const struct uuid *id, volume_done_fn *done,
                           void *user);
/* The lease changed: look whether the writer stands still now. */
void snapshot_create_poll(struct volume *v);
/* No clone is being made any more: the first that is queued begins. */
void snapshot_create_go(struct volume *v);
/* Those that wait for a writer are refused. */
void snapshot_create_cancel(struct volume *v);
/* w->fn runs when the creation under way has ended, at once if there is none. */
void snapshot_create_wait(struct volume *v, struct volume_waiter *w);
/* May a COW device be told that limit (0: the default)? chunk_sectors counts where the volume has
 * none yet (0: the default). Errors: SNAP_EINVAL with the least. */
int snapshot_check_limit(const struct volume *v, uint32_t chunk_sectors, uint64_t limit_bytes,
                         struct err *reterr) SNAP_WUR;

/* -- giving up, lost.c -- */
/* Make one invalid, durably, whose device is not open. Errors: SNAP_EIO, SNAP_ENOMEM. */
void snapshot_lose(struct snapshot *s, volume_done_fn *done, void *user);

/* -- deleting, snapshot_delete.c, hand_down.c -- */
struct snapshot_delete_spec {
    struct uuid id;
    struct uuid key; /* the same try again has the same outcome */
    bool force;      /* even if older ones become invalid by it, or its merge cannot go on */
    bool merged;     /* its merge has ended: a state of merging does not hold it */
};
/* Hide it durably; what older ones still need is handed down afterwards by a job.
 * Errors: SNAP_ENOENT, SNAP_EBUSY (merging), SNAP_ECORRUPT (needs force). */
void snapshot_delete(struct volume *v, const struct snapshot_delete_spec *spec,
                     volume_done_fn *done, void *user);
/* Has it been asked for before with that key, and not been refused? Then asking again hears the
 * same. */
bool snapshot_delete_is_known(const struct volume *v, const struct snapshot_delete_spec *spec);

/* Begin a job that is due, if none runs; a rollback that the record tells of as well. user: the
 * volume. */
void hand_down_start(void *user);
/* The volume is leaving: every job of it stops. */
void hand_down_cancel(struct volume *v);
struct hand_down_status {
    struct uuid snapshot;
    char name[LIMIT_NAME_BYTES + 1];
    uint64_t done, total;
    char state[ERR_TEXT_BYTES + 16];
};
/* Of the one under way, or one that waits. False: no job is due. */
bool hand_down_status(struct volume *v, struct hand_down_status *ret);
enum { HAND_DOWN_SUBJECT_BYTES = 2 * LIMIT_NAME_BYTES + 2 };
/* Whose exceptions are handed down: VOLUME@SNAPSHOT, or the words for what nobody has ever seen. */
void hand_down_subject(const struct snapshot *s, char ret[HAND_DOWN_SUBJECT_BYTES]);
/* Of a hidden one. */
void hand_down_status_of(const struct snapshot *s, struct hand_down_status *ret, bool *ret_runs);

/* -- warnings, warn.c -- */
/* Texts for people: what is wrong soon. fn gets each. */
void snapshot_warnings(const struct snapshot *s, void (*fn)(const char *text, void *user),
                       void *user);
/* Its use has changed: a limit that comes near is noticed, once. */
void snapshot_warn(struct snapshot *s, const struct cow_usage *usage);

/* -- clones, clone.c -- */
struct clone_spec {
    struct uuid id;     /* the client's choice: the same again is the same clone */
    struct uuid source; /* a snapshot, or a clone */
    const char *name;
    uint64_t limit_bytes; /* 0: the default */
};
/* Make a writable snapshot of a hosted volume, that reads through its source. What a source that
 * is a clone holds at the commit is what it begins with.
 * Errors: SNAP_EEXIST, SNAP_ESTALE (deleted before), SNAP_EINVAL, SNAP_ENOENT, SNAP_ENOTSUP (a
 *         remote volume), SNAP_ELIMIT (too deep), SNAP_EBUSY (merging or being deleted),
 *         SNAP_EINVALID, SNAP_ECORRUPT, SNAP_EPOISONED, SNAP_ENOSPC, SNAP_EIO. */
void volume_clone_start(struct volume *v, const struct clone_spec *spec, volume_done_fn *done,
                        void *user);

/* -- rollback, rollback.c -- */
struct rollback_spec {
    struct uuid job; /* the client's choice: the same again is the same job */
    struct uuid snapshot;
    bool merge;      /* the snapshot is consumed at the end */
    bool drop_newer; /* newer ones are deleted at the end */
};
/* Return the origin to a snapshot. done when that is durable: from then on the volume reads as the
 * snapshot, and a job does the work; see job.h.
 * Errors: SNAP_ENOENT, SNAP_ENOTSUP (a remote volume; a clone), SNAP_EBUSY, SNAP_EINVAL,
 *         SNAP_EINVALID, SNAP_ECORRUPT, SNAP_EPOISONED, SNAP_ENOSPC, SNAP_EIO. */
void volume_rollback_start(struct volume *v, const struct rollback_spec *spec, volume_done_fn *done,
                           void *user);
/* Take up the one that the record tells of, if it is not under way. */
void volume_rollback_resume(struct volume *v);

/* -- merging, merge.c -- */
struct volume_merge {
    struct uuid snapshot;
    const char *identity;
    uint64_t epoch;
    /* results of begin */
    bool table_mode; /* the only snapshot: its table empties from the end */
    uint64_t table_len;
    struct uuid head;
    /* result of prepare */
    struct cow_merge_run run;
    /* prepare reads, commit compares and clears */
    uint64_t commit_table_len;
    uint32_t commit_count;
    void (*done)(struct volume_merge *m, int code, const struct err *err);
    void *user;
    /* the volume's own */
    struct volume *volume;
    struct snapshot *node;
    struct volume_commit commit;
    bool merging; /* what the commit sets */
};
/* Errors: SNAP_ESTALE, SNAP_ENOENT, SNAP_EBUSY, SNAP_EINVALID, SNAP_ECORRUPT. */
void volume_merge_begin(struct volume *v, struct volume_merge *m);
void volume_merge_prepare(struct volume *v, struct volume_merge *m);
/* Errors: also SNAP_EMISMATCH. */
void volume_merge_commit(struct volume *v, struct volume_merge *m);
/* The snapshot is consumed. Errors: SNAP_EBUSY (the table is not empty). */
void volume_merge_end(struct volume *v, struct volume_merge *m);
void volume_merge_abort(struct volume *v, struct volume_merge *m);

#endif
