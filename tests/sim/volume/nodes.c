/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots and clones: made, deleted, asked for twice.
 *
 *   NONE ──asked──> MAKING ──made──> SETTLING ──read whole──> THERE ──asked──> GOING ──> NONE
 *                     └──refused──> NONE
 *
 * A creation may be asked for again while it is under way, when it has ended, when what it made
 * is gone, and after a crash. While one of them is under way the node is not given up.
 * Thread: one.
 */
#include "tests/sim/volume/sim.h"

#include <stdio.h>

enum { LIMIT_CHUNKS_MIN = 3, CHUNK_BYTES = 4096 };

/* -- making -------------------------------------------------------------------------- */

/* Derived from its uuid: the same whenever it is asked for. */
uint64_t node_limit(const struct node *n)
{
    return n->limited ? (uint64_t)(LIMIT_CHUNKS_MIN + n->id.b[0] % 8) * CHUNK_BYTES : 0;
}

void node_make(struct sim *s, struct subject *u, struct node *n, bool clone)
{
    n->id = sim_uuid(s);
    n->clone = clone;
    n->state = NODE_MAKING;
    n->group = (struct uuid){{0}};
    n->gone = n->invalid = n->doubtful = n->smudged = false;
    n->limited = sim_pick(s, 3) == 0 && (clone ? u->clone_limits : u->limits);
    n->fragile = n->limited;
    (void)snprintf(n->name, sizeof n->name, "%c%u", clone ? 'c' : 's', s->names++);
    for (unsigned i = 1; i < SIM_NODES && n->limited && !clone; i++)
        if (u->nodes[i].state != NODE_NONE)
            u->nodes[i].fragile = true;
    n->fragile = n->fragile && u->invalidates;
}

/* Another that makes the same. */
static bool node_is_asked_else(struct op *o)
{
    return --o->node->asks > 0;
}

void node_made(void *user, int code, const struct err *err)
{
    struct op *o = user;
    struct node *n = o->node;
    bool refused = op_refused(o, code, err);
    bool there = !refused || (code != SNAP_ECANCELED && node_is_recorded(o->subject, n));
    bool last = !node_is_asked_else(o);
    sim_say(o->sim, "made %s: %d", op_who(o), code);
    if (there && n->state == NODE_MAKING) {
        if (o->source->doubtful)
            content_doubt(&o->then);
        content_snapshot(&n->content, &o->then, &o->source->content);
        n->state = NODE_SETTLING;
    } else if (!there && last && n->state == NODE_MAKING) {
        n->state = NODE_NONE;
    }
    op_end(o);
}

static struct op *first_asked(struct sim *s, const struct node *n, const struct op *but)
{
    for (unsigned i = 0; i < SIM_OPS; i++) {
        struct op *o = &s->ops[i];
        if ((o->kind == OP_CREATE || o->kind == OP_CLONE) && o->node == n && o != but)
            return o;
    }
    return NULL;
}

static void node_ask(struct op *o, struct node *source)
{
    struct sim *s = o->sim;
    struct node *n = o->node;
    const struct op *first = first_asked(s, n, o);
    o->source = source;
    source->busy++;
    o->then = first != NULL ? first->then : source->content;
    n->asks++;
    if (o->kind == OP_CREATE) {
        struct snapshot_spec spec = {.id = n->id, .name = n->name, .limit_bytes = node_limit(n)};
        snapshot_create_start(o->subject->volume, &spec, node_made, o);
    } else {
        struct clone_spec spec = {
            .id = n->id, .source = n->source, .name = n->name, .limit_bytes = node_limit(n)};
        volume_clone_start(o->subject->volume, &spec, node_made, o);
    }
}

void snapshot_start(struct sim *s, struct subject *u)
{
    struct node *n = node_free(u);
    struct op *o = n == NULL ? NULL : op_new(s, OP_CREATE, u, n);
    if (o == NULL)
        return;
    node_make(s, u, n, false);
    sim_say(s, "create %s@%s%s", u->volume->record.name, n->name, n->limited ? ", limited" : "");
    node_ask(o, &u->nodes[0]);
}

void clone_start(struct sim *s, struct subject *u)
{
    struct node *n = node_free(u), *source = node_pick(s, u, sim_pick(s, 2) == 0);
    struct op *o = n == NULL || source == NULL ? NULL : op_new(s, OP_CLONE, u, n);
    if (o == NULL)
        return;
    node_make(s, u, n, true);
    n->source = source->id;
    n->fragile = n->fragile || source->fragile;
    sim_say(s, "clone %s@%s of %s%s", u->volume->record.name, n->name, source->name,
            n->limited ? ", limited" : "");
    node_ask(o, source);
}

/* -- again ------------------------------------------------------------------------------ */

struct node *source_of(struct subject *u, const struct node *n)
{
    if (!n->clone)
        return &u->nodes[0];
    for (unsigned i = 1; i < SIM_NODES; i++)
        if (uuid_equal(&u->nodes[i].id, &n->source) && u->nodes[i].state == NODE_THERE)
            return &u->nodes[i];
    return NULL;
}

struct again {
    struct sim *sim;
    struct node *node;
    int code, other;
};

static void again_done(void *user, int code, const struct err *err)
{
    struct again *a = user;
    if (code != a->code && code != a->other)
        sim_fail(a->sim, "%s, asked for again: error %d and not %d: %s", a->node->name, code,
                 a->code, code < 0 ? err->text : "");
}

/* What has ended is told at once. */
static void again_ended(struct sim *s, struct subject *u, struct node *n)
{
    static struct uuid other = {{1}};
    struct again a = {.sim = s, .node = n, .code = n->gone ? SNAP_ESTALE : 0};
    a.other = a.code;
    if (n->gone && u->buried > SIM_BURIED_MAX)
        return;
    struct snapshot_spec spec = {.id = n->id, .name = n->name, .limit_bytes = node_limit(n)};
    struct clone_spec clone = {
        .id = n->id, .source = n->source, .name = n->name, .limit_bytes = node_limit(n)};
    if (n->clone)
        volume_clone_start(u->volume, &clone, again_done, &a);
    else if (STAILQ_EMPTY(&u->volume->creates)) /* else it has its turn later */
        snapshot_create_start(u->volume, &spec, again_done, &a);
    if (!n->gone)
        return;
    struct snapshot_delete_spec gone = {.id = n->id, .key = n->id};
    a.code = a.other = 0;
    snapshot_delete(u->volume, &gone, again_done, &a);
    a.code = a.other = SNAP_ENOENT;
    gone.key = other;
    snapshot_delete(u->volume, &gone, again_done, &a);
}

void again_start(struct sim *s, struct subject *u, struct node *n)
{
    bool alone = uuid_is_zero(&n->group);
    if (uuid_is_zero(&n->id) || n->limited || n->busy > n->asks)
        return;
    if ((n->state == NODE_THERE || n->state == NODE_SETTLING ||
         (n->state == NODE_NONE && n->gone))) {
        if (u->volume->clones_making == 0 && n->busy == 0)
            again_ended(s, u, n);
        n->again = false;
        return;
    }
    struct node *source = source_of(u, n);
    bool making = n->state == NODE_MAKING || (n->state == NODE_NONE && n->again);
    struct op *o = !alone || !making || source == NULL || !rollback_is_steady(u)
                       ? NULL
                       : op_new(s, n->clone ? OP_CLONE : OP_CREATE, u, n);
    n->again = false;
    if (o == NULL)
        return;
    n->state = NODE_MAKING;
    n->fragile = u->limits && u->invalidates; /* of one made meanwhile, perhaps */
    sim_say(s, "ask for %s again", n->name);
    node_ask(o, source);
}

/* -- deleting --------------------------------------------------------------------------- */

static void deleted(void *user, int code, const struct err *err)
{
    struct op *o = user;
    bool refused = op_refused(o, code, err);
    bool there = refused && node_is_recorded(o->subject, o->node);
    o->node->state = there ? NODE_THERE : NODE_NONE;
    o->node->gone = !refused; /* else a rollback's end was first */
    o->subject->buried += there ? 0 : 1;
    sim_say(o->sim, "deleted %s: %d", op_who(o), code);
    op_end(o);
}

/* One that a clone was made of, if there is any: what it holds is handed down to that. */
static struct node *pick_source(struct sim *s, struct subject *u)
{
    const struct node *clone = node_pick(s, u, true);
    return clone == NULL ? NULL : source_of(u, clone);
}

/* By others than those who read, write, clone it or return to it: these hear that it is gone. */
static bool is_used(const struct sim *s, const struct node *n)
{
    unsigned io = 0;
    for (unsigned i = 0; i < SIM_OPS; i++) {
        enum op_kind kind = s->ops[i].kind;
        bool is_io = kind == OP_READ || kind == OP_WRITE || kind == OP_FLUSH || kind == OP_ROLLBACK;
        io += is_io && s->ops[i].node == n ? 1 : 0;
        io += kind == OP_CLONE && s->ops[i].source == n ? 1 : 0;
    }
    return n->busy > io;
}

void delete_start(struct sim *s, struct subject *u)
{
    struct node *n = sim_pick(s, 2) == 0 ? pick_source(s, u) : NULL;
    n = n != NULL && n->state == NODE_THERE ? n : node_pick(s, u, false);
    struct op *o = n == NULL || is_used(s, n) ? NULL : op_new(s, OP_DELETE, u, n);
    if (o == NULL)
        return;
    n->state = NODE_GOING;
    sim_say(s, "delete %s", n->name);
    struct snapshot_delete_spec spec = {.id = n->id, .key = n->id};
    snapshot_delete(u->volume, &spec, deleted, o);
}
