/* SPDX-License-Identifier: Apache-2.0 */
/* The long work of a volume in one view: hand-downs, rollbacks and merges, verifications.
 *
 * A job is known by a uuid: a hand-down by the hidden snapshot's, the others by the one that
 * their client chose. Those that ended are remembered a while, in memory; of rollbacks the record
 * knows how they ended.
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_JOB_H
#define SNAP_VOLUME_JOB_H

#include "daemon/volume/volume.h"

enum { VOLUME_JOBS_ENDED = 16 }; /* remembered, a volume */

enum volume_job_state {
    JOB_RUNNING,
    JOB_WAITING, /* cannot go on now; text says why; tried again by itself */
    JOB_CANCELLING,
    JOB_DONE,
    JOB_FAILED,
    JOB_CANCELLED,
};
/* "running", … */
const char *volume_job_state_name(enum volume_job_state state);

struct volume_job_status {
    struct uuid job;
    const char *kind;                       /* "hand-down", "rollback", …: a constant */
    char subject[2 * LIMIT_NAME_BYTES + 2]; /* VOLUME@SNAPSHOT, or VOLUME */
    uint64_t done, total;                   /* chunks; total 0: not known yet */
    enum volume_job_state state;
    char text[ERR_TEXT_BYTES]; /* why it waits or failed; what it found */
};

/* fn gets each running or waiting job, then those that ended, newest first, until it returns
 * false. fn may not begin or end any. */
void volume_job_each(struct volume *v, bool (*fn)(const struct volume_job_status *s, void *user),
                     void *user);
/* Errors: SNAP_ENOENT. */
int volume_job_show(struct volume *v, const struct uuid *job, struct volume_job_status *ret,
                    struct err *reterr) SNAP_WUR;
/* done once the job is on its way back, durably; the end of it is seen in volume_job_show().
 * One that has been cancelled already: 0.
 * Errors: SNAP_ENOENT, SNAP_EBUSY (a hand-down: it cannot be undone; or it has ended). */
void volume_job_cancel(struct volume *v, const struct uuid *job, volume_done_fn *done, void *user);

/* -- for those who run jobs -- */
/* The runner's, from volume_job_add() to volume_job_end(). A job of a volume that is leaving ends
 * without being asked: runners look at volume->leaving, and hold the volume with volume_ref(). */
struct volume_job {
    struct uuid id;
    void (*status)(struct volume_job *j, struct volume_job_status *ret); /* all but ret->job */
    /* NULL: cannot be cancelled */
    void (*cancel)(struct volume_job *j, volume_done_fn *done, void *user);
    /* the volume is closing: let go of it soon; NULL: it ends by itself */
    void (*stop)(struct volume_job *j);
    void *user;
    struct volume *volume; /* the volume's own */
    LIST_ENTRY(volume_job) link;
};
void volume_job_add(struct volume *v, struct volume_job *j);
/* Off the list; what it says of itself last is remembered with this state and text (NULL: its
 * own), unless the volume is leaving. */
void volume_job_end(struct volume_job *j, enum volume_job_state state, const char *text);
struct volume_job *volume_job_find(struct volume *v, const struct uuid *job); /* running; NULL */
/* Remember one that was never added. */
void volume_job_remember(struct volume *v, const struct volume_job_status *s);
/* It has ended, for those who ask after a restart: in the record that is to be committed. */
void volume_job_bury(struct volume_record *next, const struct uuid *job, bool cancelled);
/* Has such a job ended? ret_state: JOB_DONE or JOB_CANCELLED. */
bool volume_job_buried(const struct volume *v, const struct uuid *job,
                       enum volume_job_state *ret_state);
/* All that run are told to stop. */
void volume_job_stop_all(struct volume *v);
/* What is remembered is freed. */
void volume_job_forget(struct volume *v);

#endif
