/* SPDX-License-Identifier: Apache-2.0 */
/* Groups of snapshots, as the daemon's service makes them, and the order of writes across volumes.
 *
 *   all are asked for ──> each is held, or has failed ──> the group is saved ──> all are kept
 *                                     └─ one has failed ──> all are undone          │
 *                                              the group goes <── all say so themselves
 *
 * Order: a snapshot that holds a write begun at time t comes with every write, of its own volume
 * and of those that the group has, that had ended before t. Thread: one.
 */
#include "common/base/bytes.h"
#include "common/base/check.h"
#include "tests/sim/volume/sim.h"

/* -- order ------------------------------------------------------------------------------ */

void log_forget(struct subject *u)
{
    u->log_count = 0;
}

static void order_check_one(struct sim *s, const struct subject *u, const struct node *n,
                            uint32_t time, const struct node *because)
{
    if (u->nodes[0].doubtful)
        return;
    for (size_t i = 0; i < u->log_count; i++) {
        const struct logged *l = &u->log[i];
        if (l->ended == 0 || l->ended >= time)
            continue;
        for (uint32_t g = l->first; g < l->first + l->count; g++)
            if (version_time(n->content.grains[g].may[0]) < version_time(l->version))
                sim_fail(s,
                         "%s: grain %u has %u: the write %u ended at %u, before the write %u "
                         "began, which is in %s",
                         n->name, g, version_time(n->content.grains[g].may[0]),
                         version_time(l->version), l->ended, time, because->name);
    }
}

void order_check(struct sim *s, struct subject *u, struct node *n)
{
    uint32_t time = content_time(&n->content);
    order_check_one(s, u, n, time, n);
    for (unsigned i = 0; i < SIM_VOLUMES && !uuid_is_zero(&n->group); i++) {
        struct subject *other = &s->subjects[i];
        for (unsigned k = 1; k < SIM_NODES; k++) {
            struct node *m = &other->nodes[k];
            if (m == n || m->state != NODE_THERE || m->invalid || !uuid_equal(&m->group, &n->group))
                continue;
            order_check_one(s, other, m, time, n);
            order_check_one(s, u, n, content_time(&m->content), m);
        }
    }
}

/* -- groups ------------------------------------------------------------------------------ */

static void group_forget_run(struct control_job *job)
{
    struct sim *s = CONTAINER_OF(job, struct sim, group.job);
    for (unsigned i = 0; i < s->groups_saved_count; i++)
        if (uuid_equal(&s->groups_saved[i], &s->group.id))
            s->groups_saved[i] = s->groups_saved[--s->groups_saved_count];
}

static void group_forgotten(struct control_job *job)
{
    struct sim *s = CONTAINER_OF(job, struct sim, group.job);
    s->group.on = false;
}

static void group_end(struct sim *s)
{
    struct group *g = &s->group;
    if (g->ended < SIM_VOLUMES)
        return;
    sim_say(s, "group ended, %u failed, %u finished", g->failed, g->finished);
    if (g->finished < SIM_VOLUMES) {
        g->on = false;
        return;
    }
    g->job = (struct control_job){
        .run = group_forget_run, .done = group_forgotten, .back = (struct loop *)g};
    control_submit(NULL, &g->job);
}

static void group_finished(void *user, int code, const struct err *err)
{
    struct sim *s = user;
    (void)err;
    s->group.ended++;
    s->group.finished += code == 0 ? 1 : 0;
    group_end(s);
}

static void group_release(struct sim *s, bool keep)
{
    struct group *g = &s->group;
    for (unsigned i = 0; i < SIM_VOLUMES; i++)
        if (g->ops[i] != NULL)
            snapshot_create_release(s->subjects[i].volume, &g->ops[i]->node->id, keep);
}

static void group_run(struct control_job *job)
{
    struct sim *s = CONTAINER_OF(job, struct sim, group.job);
    CHECK(s->groups_saved_count < ARRAY_LEN(s->groups_saved));
    s->groups_saved[s->groups_saved_count++] = s->group.id;
}

static void group_saved(struct control_job *job)
{
    struct sim *s = CONTAINER_OF(job, struct sim, group.job);
    group_release(s, true);
}

/* All are held, or have failed: go on. */
static void group_step(struct sim *s)
{
    struct group *g = &s->group;
    if (g->held + g->failed < SIM_VOLUMES)
        return;
    if (g->failed > 0) {
        group_release(s, false);
        return;
    }
    g->job = (struct control_job){.run = group_run, .done = group_saved, .back = (struct loop *)g};
    control_submit(NULL, &g->job);
}

static void group_held(void *user, int code, const struct err *err)
{
    struct op *o = user;
    (void)err;
    CHECK(code == 0);
    o->sim->group.held++;
    group_step(o->sim);
}

static void group_made(void *user, int code, const struct err *err)
{
    struct op *o = user;
    struct sim *s = o->sim;
    struct group *g = &s->group;
    unsigned i = (unsigned)(o->subject - s->subjects);
    bool was_held = g->held + g->failed == SIM_VOLUMES;
    const struct uuid id = o->node->id;
    g->ops[i] = NULL;
    if (code < 0 && code != SNAP_ECANCELED)
        g->failed++;
    node_made(o, code, err);
    if (code == 0 && was_held) {
        snapshot_group_finish(s->subjects[i].volume, &id, group_finished, s);
        return;
    }
    g->ended++;
    if (code != SNAP_ECANCELED && !was_held)
        group_step(s);
    group_end(s);
}

static void group_ask(struct sim *s, unsigned i)
{
    struct group *g = &s->group;
    struct op *o = g->ops[i];
    struct snapshot_spec spec = {.id = o->node->id,
                                 .name = o->node->name,
                                 .limit_bytes = node_limit(o->node),
                                 .group = &g->id,
                                 .held = group_held};
    snapshot_create_start(s->subjects[i].volume, &spec, group_made, o);
}

void group_start(struct sim *s)
{
    struct group *g = &s->group;
    if (g->on || s->groups_saved_count == ARRAY_LEN(s->groups_saved) || !op_is_free(s, SIM_VOLUMES))
        return;
    for (unsigned i = 0; i < SIM_VOLUMES; i++)
        if (node_free(&s->subjects[i]) == NULL || !rollback_is_steady(&s->subjects[i]))
            return;
    *g = (struct group){.on = true, .id = sim_uuid(s)};
    for (unsigned i = 0; i < SIM_VOLUMES; i++) {
        struct subject *u = &s->subjects[i];
        struct node *n = node_free(u);
        struct op *o = op_new(s, OP_GROUP, u, n);
        node_make(s, u, n, false);
        n->group = g->id;
        n->asks++;
        o->source = &u->nodes[0];
        o->source->busy++;
        o->then = u->nodes[0].content;
        g->ops[i] = o;
        sim_say(s, "group create %s@%s", u->volume->record.name, n->name);
    }
    for (unsigned i = 0; i < SIM_VOLUMES; i++)
        group_ask(s, i);
}
