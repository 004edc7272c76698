/* SPDX-License-Identifier: Apache-2.0 */
/* Lives: the daemon starts on what is on the disks, and ends, in order or not.
 *
 *   boot ──> recover: every node is read whole ──> … ──> power loss, or drain ──> shut down
 *
 *   answered        must be there: a snapshot, a clone, a deletion, flushed content
 *   not answered    may be there or not, but whole: what is found counts from then on
 *   everything else must not be there
 *
 * Thread: one.
 */
#include "common/base/check.h"
#include "tests/sim/volume/sim.h"

#include <stdio.h>

/* -- starting --------------------------------------------------------------------------- */

static void opened(void *user, int code, const struct err *err)
{
    bool *done = user;
    (void)err;
    CHECK(code == 0);
    *done = true;
}

/* As the daemon's start does: what its group's file does not tell of never was. */
static void group_undo(struct sim *s, struct volume_record *r)
{
    for (uint32_t i = r->snapshot_count; i-- > 0;) {
        bool kept = uuid_is_zero(&r->snapshots[i].group) || r->snapshots[i].grouped;
        for (unsigned k = 0; k < s->groups_saved_count && !kept; k++)
            kept = uuid_equal(&r->snapshots[i].group, &s->groups_saved[k]);
        if (kept)
            continue;
        struct uuid id = r->snapshots[i].id;
        sim_say(s, "undone: %s", r->snapshots[i].name);
        CHECK(volume_record_undo_snapshot(r, &id, NULL) == 0);
        world_save_record(s->world, r);
    }
}

void boot(struct sim *s)
{
    world_boot(s->world, s->checksums);
    s->faulty = s->closing = false;
    for (unsigned i = 0; i < SIM_VOLUMES; i++) {
        struct subject *u = &s->subjects[i];
        struct volume_record r;
        struct err err = ERR_INIT;
        CHECK(world_record(s->world, &u->id, &r));
        group_undo(s, &r);
        u->recorded = r.rollback;
        u->rebuilt = false;
        if (volume_new(world_set(s->world), &r, &u->volume, &err) < 0)
            sim_fail(s, "volume: %s", err.text);
        bool done = false;
        volume_open(u->volume, opened, &done);
        for (unsigned n = 0; !done && n < SIM_IDLE_STEPS; n++)
            if (!world_step(s->world) && !done)
                sim_fail(s, "opening volume %u does not end", i);
    }
}

/* -- recovering -------------------------------------------------------------------------- */

static void recover_node(struct sim *s, struct subject *u, struct node *n)
{
    const struct snapshot *x = volume_snapshot_find(u->volume, &n->id);
    bool there = node_is_recorded(u, n);
    int readable = there ? snapshot_check_readable(x, NULL) : 0;
    if (readable == SNAP_EINVALID && n->fragile)
        node_set_invalid(s, n);
    else if (readable < 0)
        sim_fail(s, "%s cannot be read: %s", n->name, x->fault_text);
    if (there && n->invalid && readable == 0) /* nobody has heard it before it was durable */
        sim_fail(s, "%s was invalid and is not any more", n->name);
    n->invalid = there && readable < 0;
    if (!there && n->state != NODE_MAKING && n->state != NODE_GOING)
        sim_fail(s, "%s is lost: %s", n->name, x == NULL ? "not in the record" : "hidden");
    n->again = n->state == NODE_MAKING;
    n->gone = !there && volume_record_buried(&u->volume->record, &n->id, &n->id);
    n->state = !there ? NODE_NONE : n->invalid ? NODE_THERE : NODE_SETTLING;
}

static void recover_nodes(struct sim *s, struct subject *u, bool clean)
{
    for (unsigned k = 0; k < SIM_NODES && clean; k++)
        if (u->nodes[k].state == NODE_THERE) /* nothing that was answered is lost */
            content_newest(&u->nodes[k].content, &u->nodes[k].content);
    for (unsigned k = 1; k < SIM_NODES; k++)
        if (u->nodes[k].state != NODE_NONE)
            recover_node(s, u, &u->nodes[k]);
    u->nodes[0].state = NODE_SETTLING;
}

/* Those that were being made when the power went: all or none of a group. */
static void recover_groups(struct sim *s)
{
    unsigned made = 0, lost = 0;
    for (unsigned i = 0; i < SIM_VOLUMES; i++)
        for (unsigned k = 1; k < SIM_NODES; k++) {
            struct node *n = &s->subjects[i].nodes[k];
            if (!n->again || uuid_is_zero(&n->group))
                continue;
            made += n->state != NODE_NONE ? 1 : 0;
            lost += n->state == NODE_NONE ? 1 : 0;
            n->again = false;
        }
    if (made > 0 && lost > 0)
        sim_fail(s, "of a group %u snapshots are there and %u are not", made, lost);
}

void recover(struct sim *s, bool clean)
{
    s->group.on = false;
    for (unsigned i = 0; i < SIM_VOLUMES; i++) {
        rollback_recover(s, &s->subjects[i]);
        recover_nodes(s, &s->subjects[i], clean);
    }
    recover_groups(s);
    for (unsigned i = 0; i < SIM_VOLUMES; i++)
        for (unsigned k = 0; k < SIM_NODES; k++)
            node_settle(s, &s->subjects[i], &s->subjects[i].nodes[k]);
    for (unsigned i = 0; i < SIM_VOLUMES; i++) {
        log_forget(&s->subjects[i]);
        s->subjects[i].flush_laid = false;
        for (unsigned k = 0; k < SIM_NODES; k++)
            s->subjects[i].nodes[k].doubtful = false;
    }
}

static void forget_busy(struct subject *u)
{
    u->writes = 0;
    for (unsigned k = 0; k < SIM_NODES; k++) {
        struct node *n = &u->nodes[k];
        n->busy = n->asks = 0;
        for (uint32_t g = 0; g < GRAINS && n->state != NODE_NONE; g++) {
            n->content.grains[g].ended = (uint8_t)(n->content.grains[g].count - 1);
            n->content.grains[g].writing = false;
        }
    }
}

void forget_ops(struct sim *s)
{
    for (unsigned i = 0; i < SIM_OPS; i++) {
        struct op *o = &s->ops[i];
        bool makes = o->kind == OP_CREATE || o->kind == OP_CLONE || o->kind == OP_GROUP;
        if (makes && o->source->doubtful)
            content_doubt(&o->then);
        if (makes && o->node->state == NODE_MAKING)
            content_snapshot(&o->node->content, &o->then, &o->source->content);
        o->kind = OP_NONE;
        o->data = NULL; /* may be read by a disk request until now; not freed */
        o->source = NULL;
    }
    for (unsigned i = 0; i < SIM_VOLUMES; i++)
        forget_busy(&s->subjects[i]);
}

/* -- ending ---------------------------------------------------------------------------------- */

static void drain_failed(const struct sim *s)
{
    for (unsigned i = 0; i < SIM_OPS; i++)
        if (s->ops[i].kind != OP_NONE)
            (void)printf("operation %d on %s of %s\n", (int)s->ops[i].kind, op_who(&s->ops[i]),
                         s->ops[i].subject->volume->record.name);
    for (unsigned i = 0; i < SIM_VOLUMES; i++) {
        const struct volume *v = s->subjects[i].volume;
        const struct snapshot *x;
        TAILQ_FOREACH (x, &v->hidden, hidden_link)
            (void)printf("hidden: %u %s\n", x->seq, x->job_text != NULL ? x->job_text : "");
    }
    (void)printf("group: %u held, %u failed, %u ended\n", s->group.held, s->group.failed,
                 s->group.ended);
    sim_fail(s, "what is under way does not end");
}

static bool drain_has_jobs(struct sim *s)
{
    bool any = false;
    for (unsigned i = 0; i < SIM_VOLUMES; i++) {
        struct subject *u = &s->subjects[i];
        rollback_poll(s, u);
        any = any || !TAILQ_EMPTY(&u->volume->hidden) || u->rollback != ROLLBACK_NONE ||
              u->volume->job != NULL;
    }
    return any;
}

void drain(struct sim *s, bool jobs)
{
    for (unsigned n = 0; n < SIM_IDLE_STEPS; n++) {
        bool any = world_step(s->world);
        for (unsigned i = 0; i < SIM_OPS; i++)
            verify_poll(&s->ops[i]);
        bool has_jobs = drain_has_jobs(s);
        if (!op_any(s) && (!any || !jobs || !has_jobs))
            return;
    }
    drain_failed(s);
}

/* What stops a daemon gives up first waits for a turn before anything is closed, at times. */
static void shut_down_begin(struct sim *s)
{
    unsigned steps = sim_pick(s, 3) == 0 ? 1 + sim_pick(s, 40) : 0;
    for (unsigned i = 0; i < SIM_VOLUMES && steps > 0; i++)
        snapshot_create_cancel(s->subjects[i].volume);
    for (; steps > 0; steps--)
        (void)world_step(s->world);
}

void shut_down(struct sim *s)
{
    bool done[SIM_VOLUMES] = {false}, all = false;
    s->closing = true;
    shut_down_begin(s);
    for (unsigned i = 0; i < SIM_VOLUMES; i++) {
        volume_close(s->subjects[i].volume, opened, &done[i]);
        for (unsigned n = sim_pick(s, 30); !done[i] && n > 0; n--)
            (void)world_step(s->world);
    }
    for (unsigned n = 0; !all && n < SIM_IDLE_STEPS; n++) {
        (void)world_step(s->world);
        all = done[0] && done[1];
    }
    if (!all)
        sim_fail(s, "volume %u does not close", done[0] ? 1 : 0);
    while (world_step(s->world)) /* files that are to go */
        ;
}
