/* SPDX-License-Identifier: Apache-2.0 */
/* The long work of a volume in one view.
 *
 *   hidden nodes ──(each is a hand-down, running or waiting)──┐
 *   runners ──add──> v->jobs ────────────────────────────────┼──> each, show, cancel
 *                       └──end──> ring of those that ended ──┘
 *
 * The ring is in memory: what a client must know after a restart stands in the record, or
 * among its tombstones: a rollback that ended is buried under its own uuid, with a key that tells
 * whether it was done or cancelled.
 * Thread: the shard's.
 */
#include "daemon/volume/job.h"

#include "daemon/volume/change.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct volume_job_ring {
    unsigned next, count;
    struct volume_job_status ended[VOLUME_JOBS_ENDED];
};

const char *volume_job_state_name(enum volume_job_state state)
{
    switch (state) {
    case JOB_RUNNING:
        return "running";
    case JOB_WAITING:
        return "waiting";
    case JOB_CANCELLING:
        return "cancelling";
    case JOB_DONE:
        return "done";
    case JOB_FAILED:
        return "failed";
    case JOB_CANCELLED:
        return "cancelled";
    }
    return "?";
}

/* -- those that run ------------------------------------------------------------------- */

/* NULL: no memory. */
static struct volume_job_ring *job_ring(struct volume *v)
{
    if (v->jobs_ended == NULL)
        v->jobs_ended = calloc(1, sizeof *v->jobs_ended);
    return v->jobs_ended;
}

void volume_job_add(struct volume *v, struct volume_job *j)
{
    (void)job_ring(v); /* for its end, when memory may be short */
    j->volume = v;
    LIST_INSERT_HEAD(&v->jobs, j, link);
}

struct volume_job *volume_job_find(struct volume *v, const struct uuid *job)
{
    struct volume_job *j;
    LIST_FOREACH (j, &v->jobs, link)
        if (uuid_equal(&j->id, job))
            return j;
    return NULL;
}

static void job_status(struct volume_job *j, struct volume_job_status *ret)
{
    *ret = (struct volume_job_status){.job = j->id, .kind = ""};
    j->status(j, ret);
}

void volume_job_end(struct volume_job *j, enum volume_job_state state, const char *text)
{
    struct volume_job_status status;
    job_status(j, &status);
    status.state = state;
    if (text != NULL)
        (void)snprintf(status.text, sizeof status.text, "%s", text);
    LIST_REMOVE(j, link);
    volume_job_remember(j->volume, &status);
}

void volume_job_stop_all(struct volume *v)
{
    struct volume_job *j, *next;
    for (j = LIST_FIRST(&v->jobs); j != NULL; j = next) {
        next = LIST_NEXT(j, link);
        if (j->stop != NULL)
            j->stop(j);
    }
}

/* -- those that ended ------------------------------------------------------------------- */

void volume_job_remember(struct volume *v, const struct volume_job_status *s)
{
    struct volume_job_ring *r = v->leaving ? NULL : job_ring(v);
    if (r == NULL) /* nobody hears of it any more, which harms nobody */
        return;
    r->ended[r->next] = *s;
    r->next = (r->next + 1) % VOLUME_JOBS_ENDED;
    if (r->count < VOLUME_JOBS_ENDED)
        r->count++;
}

void volume_job_forget(struct volume *v)
{
    free(v->jobs_ended);
    v->jobs_ended = NULL;
}

/* The i-th newest; NULL: no more. */
static const struct volume_job_status *job_ended(const struct volume *v, unsigned i)
{
    const struct volume_job_ring *r = v->jobs_ended;
    if (r == NULL || i >= r->count)
        return NULL;
    return &r->ended[(r->next + VOLUME_JOBS_ENDED - 1 - i) % VOLUME_JOBS_ENDED];
}

/* -- those that ended before a restart ----------------------------------------------------- */

/* Another one than the job's own, which stands for done. */
static struct uuid job_cancelled_key(const struct uuid *job)
{
    struct uuid key = *job;
    for (unsigned i = 0; i < UUID_BYTES; i++)
        key.b[i] ^= 0xff;
    return key;
}

void volume_job_bury(struct volume_record *next, const struct uuid *job, bool cancelled)
{
    struct uuid key = cancelled ? job_cancelled_key(job) : *job;
    volume_record_bury(next, job, &key);
}

bool volume_job_buried(const struct volume *v, const struct uuid *job,
                       enum volume_job_state *ret_state)
{
    struct uuid key = job_cancelled_key(job);
    bool done = volume_record_buried(&v->record, job, job);
    *ret_state = done ? JOB_DONE : JOB_CANCELLED;
    return done || volume_record_buried(&v->record, job, &key);
}

/* -- the view ---------------------------------------------------------------------------- */

static void job_hand_down(const struct snapshot *s, struct volume_job_status *ret)
{
    struct hand_down_status h;
    bool runs;
    hand_down_status_of(s, &h, &runs);
    *ret = (struct volume_job_status){.job = h.snapshot,
                                      .kind = "hand-down",
                                      .done = h.done,
                                      .total = h.total,
                                      .state = runs ? JOB_RUNNING : JOB_WAITING};
    hand_down_subject(s, ret->subject);
    const char *why = strchr(h.state, ':');
    (void)snprintf(ret->text, sizeof ret->text, "%s", why != NULL ? why + 2 : "");
}

void volume_job_each(struct volume *v, bool (*fn)(const struct volume_job_status *s, void *user),
                     void *user)
{
    struct volume_job_status status;
    const struct volume_job_status *ended;
    struct volume_job *j;
    const struct snapshot *s;
    LIST_FOREACH (j, &v->jobs, link) {
        job_status(j, &status);
        if (!fn(&status, user))
            return;
    }
    if (v->indexed)
        TAILQ_FOREACH (s, &v->hidden, hidden_link) {
            job_hand_down(s, &status);
            if (!fn(&status, user))
                return;
        }
    for (unsigned i = 0; (ended = job_ended(v, i)) != NULL; i++)
        if (!fn(ended, user))
            return;
}

int volume_job_show(struct volume *v, const struct uuid *job, struct volume_job_status *ret,
                    struct err *reterr)
{
    struct volume_job *j = volume_job_find(v, job);
    const struct snapshot *s = volume_snapshot_find(v, job);
    const struct volume_job_status *ended;
    enum volume_job_state state;
    if (j != NULL) {
        job_status(j, ret);
        return 0;
    }
    if (s != NULL && s->hidden) {
        job_hand_down(s, ret);
        return 0;
    }
    for (unsigned i = 0; (ended = job_ended(v, i)) != NULL; i++)
        if (uuid_equal(&ended->job, job)) {
            *ret = *ended;
            return 0;
        }
    if (volume_job_buried(v, job, &state)) {
        *ret = (struct volume_job_status){.job = *job, .kind = "", .state = state};
        (void)snprintf(ret->subject, sizeof ret->subject, "%s", v->record.name);
        return 0;
    }
    return err_set(reterr, SNAP_ENOENT, "no such job of volume %s", v->record.name);
}

void volume_job_cancel(struct volume *v, const struct uuid *job, volume_done_fn *done, void *user)
{
    struct err err = ERR_INIT;
    struct volume_job_status status;
    struct volume_job *j = volume_job_find(v, job);
    if (j != NULL && j->cancel != NULL) {
        j->cancel(j, done, user);
        return;
    }
    int code = volume_job_show(v, job, &status, &err);
    if (code == 0 && status.state == JOB_CANCELLED)
        code = 0;
    else if (code == 0 && j == NULL && (status.state == JOB_DONE || status.state == JOB_FAILED))
        code = err_set(&err, SNAP_EBUSY, "that job has ended");
    else if (code == 0)
        code = err_set(&err, SNAP_EBUSY, "a %s cannot be cancelled%s", status.kind,
                       j != NULL ? "" : ": its snapshot is deleted, and others need what it holds");
    done(user, code, &err);
}
