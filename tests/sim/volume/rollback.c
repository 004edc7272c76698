/* SPDX-License-Identifier: Apache-2.0 */
/* Rollbacks, merges and their cancelling.
 *
 *   NONE ──asked──> ASKED ──> ON ──────────────────────────> NONE, the origin as the snapshot
 *                     │        └─asked─> CANCEL_ASKED ──> BACK ──> NONE, as it was before
 *                     └─refused─> NONE
 *
 * Writes go on while it is asked for: those that were answered count for what it was before, the
 * others are refused. Thread: one.
 */
#include "daemon/volume/job.h"
#include "tests/sim/volume/sim.h"

bool rollback_is_steady(const struct subject *u)
{
    return u->rollback != ROLLBACK_ASKED && u->rollback != ROLLBACK_CANCEL_ASKED;
}

/* From now on it reads as the snapshot. What is being written then is refused: it never was. */
static void rollback_on(struct subject *u, bool after_loss)
{
    struct node *origin = &u->nodes[0];
    content_refuse(&origin->content);
    u->before = origin->content;
    if (after_loss)
        content_doubt(&u->before);
    else
        content_newest(&u->before, &origin->content);
    content_newest(&origin->content, &u->nodes[u->rollback_to].content);
    u->rollback = ROLLBACK_ON;
    u->turns++;
    log_forget(u);
}

static void rollback_back(struct subject *u)
{
    u->nodes[0].content = u->before;
    u->rollback = ROLLBACK_BACK;
    u->turns++;
    log_forget(u);
}

static bool rollback_is_recorded(const struct subject *u)
{
    return !uuid_is_zero(&u->volume->record.rollback.job);
}

static void rollback_never(struct subject *u)
{
    u->rollback = ROLLBACK_NONE;
    u->rollback_spec.job = (struct uuid){{0}};
}

static void rolled_back(void *user, int code, const struct err *err)
{
    struct op *o = user;
    struct subject *u = o->subject;
    if (op_refused(o, code, err) && !rollback_is_recorded(u))
        rollback_never(u);
    else
        rollback_on(u, false);
    sim_say(o->sim, "rollback to %s: %d", u->nodes[u->rollback_to].name, code);
    op_end(o);
}

void rollback_start(struct sim *s, struct subject *u)
{
    struct node *n = node_pick(s, u, false), *origin = &u->nodes[0];
    if (n == NULL || n->clone || n->invalid || n->busy > 0 || origin->busy > u->writes ||
        u->rollback != ROLLBACK_NONE || origin->doubtful || u->clone_limits)
        return;
    struct op *o = op_new(s, OP_ROLLBACK, u, n);
    if (o == NULL)
        return;
    u->rollback = ROLLBACK_ASKED;
    u->rollback_to = (unsigned)(n - u->nodes);
    u->rollback_spec = (struct rollback_spec){.job = sim_uuid(s),
                                              .snapshot = n->id,
                                              .merge = sim_pick(s, 2) == 0,
                                              .drop_newer = sim_pick(s, 4) == 0};
    sim_say(s, "rollback to %s asked%s%s", n->name, u->rollback_spec.merge ? ", merge" : "",
            u->rollback_spec.drop_newer ? ", dropping newer" : "");
    volume_rollback_start(u->volume, &u->rollback_spec, rolled_back, o);
}

static void cancelled(void *user, int code, const struct err *err)
{
    struct op *o = user;
    struct subject *u = o->subject;
    if (op_refused(o, code, err) && !u->volume->record.rollback.cancelled)
        u->rollback = ROLLBACK_ON;
    else
        rollback_back(u);
    sim_say(o->sim, "cancel: %d", code);
    op_end(o);
}

void cancel_start(struct sim *s, struct subject *u)
{
    if (u->rollback != ROLLBACK_ON || u->nodes[0].busy > 0)
        return;
    struct op *o = op_new(s, OP_CANCEL, u, &u->nodes[0]);
    if (o == NULL)
        return;
    u->rollback = ROLLBACK_CANCEL_ASKED;
    volume_job_cancel(u->volume, &u->rollback_spec.job, cancelled, o);
}

static void again_done(void *user, int code, const struct err *err)
{
    struct sim *s = user;
    if (code < 0)
        sim_fail(s, "the same rollback again: %s", err->text);
}

void rollback_again(struct sim *s, struct subject *u)
{
    bool on = rollback_is_recorded(u);
    if (uuid_is_zero(&u->rollback_spec.job) || !rollback_is_steady(u) ||
        (u->rollback == ROLLBACK_NONE && u->buried > SIM_BURIED_MAX) ||
        (u->rollback == ROLLBACK_NONE && on))
        return;
    volume_rollback_start(u->volume, &u->rollback_spec, again_done, s);
    if (rollback_is_recorded(u) != on)
        sim_fail(s, "a rollback that had ended was begun again");
}

/* -- the end -------------------------------------------------------------------------------- */

/* Writes that another closed gate holds from before it until after it are written, after all. */
static void rollback_count_held(struct sim *s, struct subject *u)
{
    for (unsigned i = 0; i < SIM_OPS; i++) {
        struct op *o = &s->ops[i];
        if (o->kind == OP_WRITE && o->node == &u->nodes[0] && o->turns != u->turns)
            write_counts(o);
    }
}

/* What one that has ended leaves: its own node consumed, newer ones dropped, if asked. */
static void rollback_ended(struct sim *s, struct subject *u)
{
    const struct rollback_spec *spec = &u->rollback_spec;
    bool back = u->rollback == ROLLBACK_BACK;
    u->rollback = ROLLBACK_NONE;
    u->buried++;
    u->nodes[0].doubtful = u->flush_laid;
    log_forget(u);
    rollback_count_held(s, u);
    sim_say(s, "rollback ended%s", back ? ", cancelled" : "");
    for (unsigned i = 1; i < SIM_NODES && !back && (spec->merge || spec->drop_newer); i++) {
        struct node *n = &u->nodes[i];
        if (n->state == NODE_NONE || n->state == NODE_MAKING || n->clone || node_is_recorded(u, n))
            continue;
        bool own = i == u->rollback_to;
        if (n->state != NODE_GOING && !(own ? spec->merge : spec->drop_newer))
            sim_fail(s, "%s went with the rollback", n->name);
        n->state = NODE_NONE;
        n->gone = false; /* buried under the job's key */
        n->id = (struct uuid){{0}};
        u->buried++;
    }
}

void rollback_poll(struct sim *s, struct subject *u)
{
    if (u->rollback != ROLLBACK_ON && u->rollback != ROLLBACK_BACK)
        return;
    if (!rollback_is_recorded(u))
        rollback_ended(s, u);
}

/* -- after a power loss ----------------------------------------------------------------------- */

/* It has ended, one way or the other: both are right. */
static void rollback_either(struct subject *u)
{
    struct content *now = &u->nodes[0].content;
    for (uint32_t i = 0; i < GRAINS; i++) {
        struct grain *g = &now->grains[i];
        *g = u->nodes[u->rollback_to].content.grains[i];
        for (unsigned k = 0; k < u->before.grains[i].count && g->count < GRAIN_VERSIONS; k++)
            g->may[g->count++] = u->before.grains[i].may[k];
    }
}

void rollback_recover(struct sim *s, struct subject *u)
{
    const struct record_rollback *r = &u->recorded;
    bool there = !uuid_is_zero(&r->job);
    if (u->rollback == ROLLBACK_ASKED && !there)
        rollback_never(u);
    if (u->rollback == ROLLBACK_NONE)
        return;
    if (u->rollback == ROLLBACK_ASKED)
        rollback_on(u, true);
    if (u->rollback == ROLLBACK_CANCEL_ASKED && there && !r->cancelled)
        u->rollback = ROLLBACK_ON;
    else if (u->rollback == ROLLBACK_CANCEL_ASKED && there)
        rollback_back(u);
    else if (u->rollback == ROLLBACK_CANCEL_ASKED)
        rollback_either(u);
    if (!there)
        rollback_ended(s, u);
    else
        rollback_poll(s, u); /* it has gone on, and may have ended already */
}
