/* SPDX-License-Identifier: Apache-2.0 */
/* The hand-down job: a hidden node's exceptions go to the only node that reads through it, as
 * far as that lacks them; then the record drops it and its file is removed.
 *
 *   pick ──> wait for writes ──> dependant? ──none──────────────────────> drop
 *                                   │ one
 *                                   ├─ it is invalid: nothing to save ──> drop
 *                                   ├─ hidden is invalid: ──────────────> invalidate it, drop
 *                                   ├─ either is damaged, or no room: wait, try again
 *                                   └─ room? ──> raise its limit ──> copy batches ──> drop
 *
 *   drop: record without it, a clone's parent is the hidden one's (durable) ──> close
 *         ──> unlink ──> next job
 *
 * Nothing is lost by stopping anywhere: a chunk copied before counts as existing the second
 * time, and until the record drops the hidden one, views read through it. One job at a time a
 * volume; of a stack of hidden ones that which is read through by no other hidden one first. A
 * node that waits does not hold the others up. One that several nodes read through is left until
 * one or none is left; how many they are never grows, for nothing is cloned from a hidden node.
 *
 * Beside writes of a place P (the origin, or a clone) that the hidden node H depends on, with D
 * its dependant:
 * - A write that began while H was visible or shared chose H for the old content and puts it
 *   there any moment. So the job first takes the whole lock of P's writes: those are over then.
 *   Later ones see that H folds (tree_folds()) and do not choose it: what H holds stands still
 *   from there on, the scan misses nothing, and no write holds on to H when it is freed.
 * - A later write of a chunk that H has: it finds it (tree_has()) and puts nothing. The job brings
 *   it to D, or has done so. The drop takes nothing away that D has not got.
 * - A later write of a chunk that neither has puts it into D, never into H. The job does not touch
 *   that chunk, since H has not got it. So it does not matter where between the write's check and
 *   its put the drop falls.
 * - D is a clone and is written itself: of a chunk the first content that joins D's store wins. A
 *   write of D that comes second finds it there and goes over it in place; where the job comes
 *   second, what D has got stays as it is. Nobody is locked out for that: it is as with the writes
 *   of P, which put into D beside D's own.
 * - D becomes hidden, or takes clones, meanwhile: it is H's only dependant all the same.
 * - A read of D that found its chunk in H holds H's device, which is closed after the last one.
 *   Until then H's exceptions stay in the chain's map under its seq, where no view finds them: D,
 *   older, has its own before them, and those behind H look for larger ones.
 *
 * Thread: the shard's.
 */
#include "daemon/volume/hand_down_priv.h"

#include "common/base/bytes.h"
#include "daemon/volume/draft.h"
#include "daemon/volume/job.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/put.h"
#include "daemon/volume/tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HAND_DOWN_RETRY_MS = 10000 };

static void hand_down_next(struct volume *v);

void hand_down_wait(struct hand_down *j)
{
    struct volume *v = j->volume;
    v->job_wait = j->err;
    v->job = NULL;
    j->source->job_waits = true;
    free(j->source->job_text);
    j->source->job_text = strdup(j->err.text);
    if (!v->leaving && !j->cancelled) {
        volume_notice(v, j->source, "hand-down waits", &j->err);
        loop_timer_set(&v->job_timer, HAND_DOWN_RETRY_MS);
        hand_down_next(v);
    }
    buf_give(j->buf);
    shard_kick_cancel(v->set->shard, &j->kick);
    free(j);
    volume_unref(v);
}

/* -- dropping ------------------------------------------------------------------- */

static void hand_down_closed(void *user, int code, const struct err *err)
{
    struct hand_down *j = user;
    struct volume *v = j->volume;
    const char *name = strchr(j->name, '@'); /* none: nobody has ever seen it */
    if (code < 0)
        volume_notice_gone(v, name != NULL ? name + 1 : NULL,
                           "a dropped snapshot's exceptions stay in memory", err);
    else if (name != NULL)
        volume_notice_gone(v, name + 1, "snapshot dropped", NULL);
    draft_remove_later(v, &j->source->id, j->path);
    snapshot_free(j->source);
    v->job = NULL;
    v->job_wait = ERR_INIT;
    free(j);
    hand_down_start(v);
    volume_unref(v);
}

static int hand_down_drop_change(struct volume_commit *commit, struct volume_record *next,
                                 struct err *reterr)
{
    struct hand_down *j = commit->user;
    struct record_snapshot *rs =
        j->target != NULL && j->target->clone ? volume_record_find(next, &j->target->id) : NULL;
    if (rs != NULL) {
        const struct snapshot *parent = tree_parent(j->source);
        rs->parent_seq = parent != NULL ? parent->seq : 0;
    }
    return volume_record_remove_snapshot(next, &j->source->id, reterr);
}

static void hand_down_dropped(struct volume_commit *commit, int code, const struct err *err)
{
    struct hand_down *j = commit->user;
    struct volume *v = j->volume;
    if (code < 0) {
        draft_end(v, &j->source->id);
        (void)err_copy(&j->err, err);
        hand_down_wait(j);
        return;
    }
    buf_give(j->buf);
    j->buf = NULL;
    shard_kick_cancel(v->set->shard, &j->kick);
    tree_remove(j->source);
    if (TAILQ_EMPTY(&v->chain) && v->origin == NULL)
        v->chunk_sectors = 0;
    struct volume_job_status status = {.job = j->source->id,
                                       .kind = "hand-down",
                                       .done = j->total_chunks,
                                       .total = j->total_chunks,
                                       .state = JOB_DONE};
    (void)snprintf(status.subject, sizeof status.subject, "%s", j->name);
    volume_job_remember(v, &status);
    /* a clone's map goes with it */
    snapshot_close(j->source, !j->source->clone, hand_down_closed, j);
}

void hand_down_drop(struct hand_down *j)
{
    const struct record_snapshot *rs = snapshot_record(j->source);
    hand_down_subject(j->source, j->name);
    if (rs->cow_path[0] == '/' ||
        volume_cow_path(j->volume, rs->cow_path, j->path, sizeof j->path, NULL) < 0)
        j->path[0] = '\0';
    (void)!draft_begin(j->volume, &j->source->id, NULL); /* a full disk is no reason to stay */
    j->commit = (struct volume_commit){
        .change = hand_down_drop_change, .done = hand_down_dropped, .user = j};
    volume_commit_start(j->volume, &j->commit);
}

/* -- beginning -------------------------------------------------------------------- */

static void hand_down_invalidated(void *user, int code, const struct err *err)
{
    struct hand_down *j = user;
    volume_put_resume(j->volume);
    if (code < 0) {
        (void)err_copy(&j->err, err);
        snapshot_check_poison(j->target);
        hand_down_wait(j);
        return;
    }
    volume_notice(j->volume, j->target,
                  "invalid: it read through a deleted snapshot that was not sound", NULL);
    hand_down_drop(j);
}

static void hand_down_begin(struct hand_down *j)
{
    struct snapshot *source = j->source, *target = tree_only_child(j->volume, source);
    j->target = target;
    if (snapshot_is_moving(source) || source->busy || (target != NULL && target->busy)) {
        (void)err_set(&j->err, SNAP_EBUSY, "a COW device is being %s",
                      snapshot_is_moving(source) ? "opened again" : "checked");
        hand_down_wait(j);
        return;
    }
    bool target_ready = target != NULL && snapshot_is_open(target);
    if (target == NULL || snapshot_is_invalid(target)) {
        hand_down_drop(j);
        return;
    }
    if (!target_ready || cow_store_state(target->store) != COW_READY) {
        (void)err_set(&j->err, SNAP_EBUSY, "what reads through it cannot take exceptions: %s",
                      target->fault_text[0] != '\0' ? target->fault_text : "it is not ready");
        hand_down_wait(j);
        return;
    }
    enum cow_state state = source->lost               ? COW_INVALID
                           : snapshot_is_open(source) ? cow_store_state(source->store)
                                                      : COW_DAMAGED;
    if (state == COW_READY) {
        hand_down_reserve(j);
    } else if (state == COW_INVALID) {
        snapshot_kick(target);
        cow_store_invalidate(target->store, hand_down_invalidated, j);
    } else {
        /* it may be sound again when its disk is back: nothing is given up for it */
        (void)err_set(&j->err, SNAP_EBUSY, "its COW device cannot be read: %s",
                      source->fault_text[0] != '\0' ? source->fault_text : "it is not ready");
        hand_down_wait(j);
    }
}

/* -- waiting for writes ------------------------------------------------------------ */

/* Of the writes that depend on the source: to the origin, or to the clone that it stands below.
 * Another one only when that clone is taken out, which is another hand-down's work. */
static struct range_lock *hand_down_writes(const struct hand_down *j)
{
    const struct snapshot *place = tree_parent(j->source);
    while (place != NULL && !place->clone)
        place = tree_parent(place);
    return place != NULL ? place->ranges : &j->volume->origin->writes;
}

static void hand_down_waited(struct range *r)
{
    struct hand_down *j = r->user;
    range_give(hand_down_writes(j), r);
    hand_down_begin(j);
}

/* Writes that chose the source while it took first overwrites. Those of a clone itself ended
 * before it was hidden. */
static void hand_down_barrier(struct hand_down *j)
{
    if (j->volume->origin == NULL) { /* a remote one's puts to a node that goes were drained */
        hand_down_begin(j);
        return;
    }
    j->range = (struct range){.last = UINT64_MAX, .granted = hand_down_waited, .user = j};
    range_take(hand_down_writes(j), &j->range);
}

/* -- which ---------------------------------------------------------------------------- */

/* One that folds, and is read through by none that does; not one that waits. */
static struct snapshot *hand_down_pick(struct volume *v)
{
    struct snapshot *h;
    TAILQ_FOREACH (h, &v->hidden, hidden_link) {
        if (!tree_folds(h))
            continue;
        struct snapshot *s = h, *child;
        while ((child = tree_only_child(v, s)) != NULL && tree_folds(child))
            s = child;
        if (!s->job_waits)
            return s;
    }
    return NULL;
}

static bool hand_down_begin_one(struct volume *v, struct snapshot *s)
{
    struct hand_down *j = calloc(1, sizeof *j);
    if (j == NULL) {
        loop_timer_set(&v->job_timer, HAND_DOWN_RETRY_MS);
        return false;
    }
    j->volume = v;
    j->source = s;
    j->kick = (struct shard_kick){.user = j}; /* see hand_down_copy() */
    v->job = j;
    v->job_wait = ERR_INIT;
    volume_ref(v);
    hand_down_barrier(j);
    return true;
}

/* One that cannot go on may end inside: the loop takes the next, not the recursion. */
static void hand_down_next(struct volume *v)
{
    if (v->job_picking)
        return;
    v->job_picking = true;
    struct snapshot *s;
    while (v->job == NULL && (s = hand_down_pick(v)) != NULL)
        if (!hand_down_begin_one(v, s))
            break;
    v->job_picking = false;
}

void hand_down_start(void *user)
{
    struct volume *v = user;
    struct snapshot *s;
    if (v->leaving || v->opening)
        return;
    tree_index(v);
    volume_rollback_resume(v);
    if (v->job != NULL)
        return;
    TAILQ_FOREACH (s, &v->hidden, hidden_link) {
        s->job_waits = false;
        free(s->job_text);
        s->job_text = NULL;
    }
    hand_down_next(v);
}

void hand_down_cancel(struct volume *v)
{
    loop_timer_stop(&v->job_timer);
    if (v->job != NULL)
        v->job->cancelled = true;
    volume_job_stop_all(v);
}

/* -- status ---------------------------------------------------------------------------- */

void hand_down_subject(const struct snapshot *s, char ret[HAND_DOWN_SUBJECT_BYTES])
{
    const struct record_snapshot *rs = snapshot_record(s);
    const char *volume = s->volume->record.name;
    if (rs != NULL && rs->undo)
        (void)snprintf(ret, HAND_DOWN_SUBJECT_BYTES, "%s (what a rollback kept)", volume);
    else
        (void)snprintf(ret, HAND_DOWN_SUBJECT_BYTES, "%s@%s", volume, rs != NULL ? rs->name : "?");
}

void hand_down_status_of(const struct snapshot *s, struct hand_down_status *ret, bool *ret_runs)
{
    const struct volume *v = s->volume;
    const struct record_snapshot *rs = snapshot_record(s);
    const struct hand_down *j = v->job != NULL && v->job->source == s ? v->job : NULL;
    *ret = (struct hand_down_status){.snapshot = s->id};
    *ret_runs = j != NULL;
    (void)snprintf(ret->name, sizeof ret->name, "%s", rs != NULL ? rs->name : "");
    if (j != NULL) {
        ret->done = j->done_chunks;
        ret->total = j->total_chunks;
        (void)snprintf(ret->state, sizeof ret->state, "running");
    } else if (!tree_folds(s)) {
        (void)snprintf(ret->state, sizeof ret->state, "waiting: %u others read through it",
                       tree_children(v, s));
    } else {
        (void)snprintf(ret->state, sizeof ret->state, "waiting%s%s",
                       s->job_text != NULL ? ": " : "", s->job_text != NULL ? s->job_text : "");
    }
}

bool hand_down_status(struct volume *v, struct hand_down_status *ret)
{
    const struct snapshot *s = v->job != NULL && v->job->source->hidden ? v->job->source : NULL;
    bool runs;
    if (s == NULL && v->indexed)
        s = TAILQ_FIRST(&v->hidden);
    if (s == NULL)
        return false;
    hand_down_status_of(s, ret, &runs);
    return true;
}
