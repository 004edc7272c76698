/* SPDX-License-Identifier: Apache-2.0 */
/* Returning a hosted volume's origin to a snapshot, once that has begun: its turns and its end.
 *
 *   begun (rollback_begin.c) ──────────────────────────┐
 *                                                      v
 *   (restart) ──────────────────────────> count ──> work <──(10 s)── waits, for an error
 *                                           ^       │  │
 *   cancel: commit: cancelled; to go back ──┘ <─────┘  └──> flush ──> commit: without it,
 *                                                           undo hidden, merge, drop_newer
 *
 * From the commit of its begin on the volume reads as the view that it goes to; nobody else writes
 * it. A crash begins the work anew, in the direction that the record tells. A job that ended is
 * buried under its uuid, so that one who asks again does not roll back twice; one who cancels it
 * again is answered with the first.
 *
 * It must not know of requests. Thread: the shard's.
 */
#include "daemon/volume/rollback_priv.h"

#include "common/base/bytes.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/tree.h"

#include <stdio.h>
#include <stdlib.h>

static void rollback_retry(void *user);

/* -- who asked ---------------------------------------------------------------------------- */

int rollback_ask(struct rollback_askers *askers, volume_done_fn *done, void *user,
                 struct err *reterr)
{
    struct rollback_asker *a = malloc(sizeof *a);
    if (a == NULL)
        return err_set(reterr, SNAP_ENOMEM, "rollback");
    *a = (struct rollback_asker){.done = done, .user = user};
    STAILQ_INSERT_TAIL(askers, a, link);
    return 0;
}

void rollback_answer(struct rollback_askers *askers, int code, const struct err *err)
{
    struct rollback_askers all = STAILQ_HEAD_INITIALIZER(all);
    struct rollback_asker *a;
    STAILQ_CONCAT(&all, askers);
    while ((a = STAILQ_FIRST(&all)) != NULL) {
        STAILQ_REMOVE_HEAD(&all, link);
        a->done(a->user, code, err);
        free(a);
    }
}

/* -- as a job ---------------------------------------------------------------------------- */

static const char *rollback_kind(const struct rollback *r)
{
    return r->spec.merge ? "merge" : "rollback";
}

static void rollback_job_status(struct volume_job *j, struct volume_job_status *ret)
{
    const struct rollback *r = j->user;
    ret->kind = rollback_kind(r);
    (void)snprintf(ret->subject, sizeof ret->subject, "%s@%s", r->volume->record.name, r->name);
    ret->total = r->total;
    ret->done = u64_min(r->done, r->total);
    ret->state = r->waiting                   ? JOB_WAITING
                 : (r->back || r->cancelling) ? JOB_CANCELLING
                                              : JOB_RUNNING;
    if (r->waiting)
        (void)snprintf(ret->text, sizeof ret->text, "%s", r->err.text);
}

void rollback_free(struct rollback *r)
{
    struct volume *v = r->volume;
    shard_kick_cancel(v->set->shard, &r->kick);
    if (r->timer_ready)
        loop_timer_done(&r->timer);
    v->rollback = NULL;
    free(r);
    volume_unref(v);
}

/* The volume is leaving, and nothing is under way. */
static void rollback_leave(struct rollback *r)
{
    volume_job_end(&r->job, JOB_WAITING, NULL);
    rollback_free(r);
}

static void rollback_job_stop(struct volume_job *j)
{
    struct rollback *r = j->user;
    if (r->waiting)
        rollback_leave(r);
    /* else what is under way ends, and sees that the volume leaves */
}

/* -- cancelling ---------------------------------------------------------------------------- */

static int rollback_cancel_change(struct volume_commit *commit, struct volume_record *next,
                                  struct err *reterr)
{
    const struct rollback *r = commit->user;
    if (!uuid_equal(&next->rollback.job, &r->spec.job))
        return err_set(reterr, SNAP_EBUSY, "that job has ended");
    next->rollback.cancelled = true;
    return 0;
}

static void rollback_turn(struct rollback *r)
{
    r->phase = ROLLBACK_COUNT;
    rollback_count(r);
}

static void rollback_cancel_committed(struct volume_commit *commit, int code, const struct err *err)
{
    struct rollback *r = commit->user;
    r->cancelling = false;
    r->back = code == 0;
    rollback_answer(&r->cancelled, code, err);
    if (r->volume->leaving)
        rollback_leave(r);
    else if (r->back)
        rollback_turn(r);
    else
        rollback_work(r);
}

/* The way there stands still. */
static void rollback_cancel_commit(struct rollback *r)
{
    r->cancel_commit = (struct volume_commit){
        .change = rollback_cancel_change, .done = rollback_cancel_committed, .user = r};
    volume_commit_start(r->volume, &r->cancel_commit);
}

static void rollback_job_cancel(struct volume_job *j, volume_done_fn *done, void *user)
{
    struct rollback *r = j->user;
    struct err err = ERR_INIT;
    bool ending = r->phase > ROLLBACK_WORK && !r->waiting && !r->cancelling;
    if (r->back) {
        done(user, 0, &err);
    } else if (ending) {
        done(user, err_set(&err, SNAP_EBUSY, "the job is ending"), &err);
    } else if (rollback_ask(&r->cancelled, done, user, &err) < 0) {
        done(user, err.code, &err);
    } else if (!r->cancelling) {
        bool still = r->waiting;
        r->cancelling = true;
        r->waiting = false;
        loop_timer_stop(&r->timer);
        if (still)
            rollback_cancel_commit(r);
    }
}

/* -- the end ---------------------------------------------------------------------------------- */

/* Nothing is under way: wait for better times. */
static void rollback_wait(struct rollback *r)
{
    if (r->volume->leaving) {
        rollback_leave(r);
        return;
    }
    r->waiting = true;
    volume_notice(r->volume, NULL, "rollback waits", &r->err);
    loop_timer_set(&r->timer, ROLLBACK_RETRY_MS);
}

void rollback_paused(struct rollback *r)
{
    if (r->volume->leaving && !r->cancelling)
        rollback_leave(r);
    else if (r->cancelling)
        rollback_cancel_commit(r);
    else
        rollback_wait(r);
}

static void rollback_hide(struct volume_record *next, struct record_snapshot *rs,
                          const struct uuid *job)
{
    rs->hidden = true;
    if (!rs->undo)
        volume_record_bury(next, &rs->id, job);
}

static int rollback_end_change(struct volume_commit *commit, struct volume_record *next,
                               struct err *reterr)
{
    const struct rollback *r = commit->user;
    (void)reterr;
    for (uint32_t i = next->snapshot_count; i-- > 0;) {
        struct record_snapshot *rs = &next->snapshots[i];
        if (rs->seq < r->to_seq)
            break;
        bool newer = rs->seq > r->to_seq && !rs->clone && !rs->undo;
        bool drop = rs->seq == r->undo_seq ||
                    (!r->back &&
                     ((r->spec.merge && rs->seq == r->to_seq) || (r->spec.drop_newer && newer)));
        if (drop && !rs->hidden)
            rollback_hide(next, rs, &r->spec.job);
    }
    next->rollback = (struct record_rollback){.to_seq = 0};
    volume_job_bury(next, &r->spec.job, r->back);
    return 0;
}

/* Those that the commit has hidden are among the last of the record. */
static void rollback_know_hidden(struct volume *v, uint32_t to_seq)
{
    for (uint32_t i = v->record.snapshot_count; i-- > 0;) {
        const struct record_snapshot *rs = &v->record.snapshots[i];
        if (rs->seq < to_seq)
            break;
        struct snapshot *s = rs->hidden ? volume_snapshot_by_seq(v, rs->seq) : NULL;
        if (s != NULL)
            tree_set_hidden(s, true);
    }
}

static void rollback_ended(struct volume_commit *commit, int code, const struct err *err)
{
    struct rollback *r = commit->user;
    struct volume *v = r->volume;
    if (code < 0) {
        (void)err_copy(&r->err, err);
        rollback_wait(r);
        return;
    }
    rollback_know_hidden(v, r->to_seq);
    volume_notice(v, NULL, r->back ? "rollback cancelled" : "rollback done", NULL);
    volume_job_end(&r->job, r->back ? JOB_CANCELLED : JOB_DONE, NULL);
    volume_ref(v);
    rollback_free(r);
    hand_down_start(v);
    volume_unref(v);
}

void rollback_worked(struct rollback *r)
{
    if (r->err.code < 0 || r->volume->leaving) {
        rollback_wait(r);
        return;
    }
    r->phase = ROLLBACK_COMMIT;
    r->commit =
        (struct volume_commit){.change = rollback_end_change, .done = rollback_ended, .user = r};
    volume_commit_start(r->volume, &r->commit);
}

/* -- taking up --------------------------------------------------------------------------------- */

static void rollback_retry(void *user)
{
    struct rollback *r = user;
    struct volume *v = r->volume;
    r->waiting = false;
    struct snapshot *from = volume_snapshot_by_seq(v, r->back ? r->undo_seq : r->to_seq);
    if (from == NULL || snapshot_check_readable(from, &r->err) < 0) {
        if (from == NULL)
            (void)err_set(&r->err, SNAP_ECORRUPT, "the snapshot it returns to is gone");
        rollback_wait(r);
    } else {
        rollback_work(r);
    }
}

void rollback_counted(struct rollback *r)
{
    if (r->phase == ROLLBACK_BEGIN)
        rollback_begin_counted(r);
    else if (r->cancelling || r->volume->leaving)
        rollback_paused(r);
    else
        rollback_retry(r);
}

struct rollback *rollback_new(struct volume *v, const struct rollback_spec *spec,
                              struct err *reterr)
{
    struct rollback *r = calloc(1, sizeof *r);
    if (r == NULL || loop_timer_init(v->set->shard->loop, &r->timer, rollback_retry, r, NULL) < 0) {
        free(r);
        (void)err_set(reterr, SNAP_ENOMEM, "rollback");
        return NULL;
    }
    r->timer_ready = true;
    r->volume = v;
    r->spec = *spec;
    STAILQ_INIT(&r->begun);
    STAILQ_INIT(&r->cancelled);
    r->redo_from = UINT64_MAX;
    r->flushes_failed = v->origin->loss.failed;
    r->job = (struct volume_job){.id = spec->job,
                                 .status = rollback_job_status,
                                 .cancel = rollback_job_cancel,
                                 .stop = rollback_job_stop,
                                 .user = r};
    v->rollback = r;
    volume_ref(v);
    return r;
}

void volume_rollback_resume(struct volume *v)
{
    const struct record_rollback *rb = &v->record.rollback;
    struct err err = ERR_INIT;
    if (v->rollback != NULL && v->rollback->waiting) {
        loop_timer_set(&v->rollback->timer, 0);
        return;
    }
    if (v->rollback != NULL || uuid_is_zero(&rb->job))
        return;
    struct rollback_spec spec = {.job = rb->job, .merge = rb->merge, .drop_newer = rb->drop_newer};
    struct rollback *r = rollback_new(v, &spec, &err);
    if (r == NULL) {
        volume_notice(v, NULL, "rollback is not taken up", &err);
        return;
    }
    r->to_seq = rb->to_seq;
    r->undo_seq = rb->undo_seq;
    r->back = rb->cancelled;
    const struct snapshot *to = volume_snapshot_by_seq(v, r->to_seq);
    const struct record_snapshot *rs = to != NULL ? snapshot_record(to) : NULL;
    (void)snprintf(r->name, sizeof r->name, "%s", rs != NULL ? rs->name : "");
    r->phase = ROLLBACK_COUNT;
    volume_job_add(v, &r->job);
    rollback_count(r);
}
