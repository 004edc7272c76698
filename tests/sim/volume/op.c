/* SPDX-License-Identifier: Apache-2.0 */
/* What is under way, and which answers it may get.
 *
 *   busy, or too many                 any change of the tree
 *   unreadable, poisoned, damaged     once a disk fault was laid in this life
 *   full                              a write, where limits are small
 *   invalid                           what reads through one that may be made so
 *   gone                              what a merge has consumed meanwhile
 *   stopped                           when the daemon is being stopped
 *
 * Thread: one.
 */
#include "common/base/check.h"
#include "tests/sim/volume/sim.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* -- words ---------------------------------------------------------------------- */

void sim_fail(const struct sim *s, const char *fmt, ...)
{
    va_list ap;
    (void)printf("sim_volume: SEED=%" PRIu64 " life %u step %u: ", s->seed, s->life, s->step);
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    (void)printf("\n");
    (void)fflush(stdout);
    abort();
}

void sim_say(const struct sim *s, const char *fmt, ...)
{
    va_list ap;
    if (!s->verbose)
        return;
    (void)printf("%u.%u ", s->life, s->step);
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    (void)printf("\n");
    (void)fflush(stdout);
}

unsigned sim_pick(struct sim *s, unsigned below)
{
    return (unsigned)rng_below(&s->rng, below);
}

struct uuid sim_uuid(struct sim *s)
{
    struct uuid id;
    rng_fill(&s->rng, &id, sizeof id);
    return id;
}

const char *op_who(const struct op *o)
{
    return o->node == &o->subject->nodes[0] ? o->subject->volume->record.name : o->node->name;
}

/* -- operations ------------------------------------------------------------------- */

struct op *op_new(struct sim *s, enum op_kind kind, struct subject *u, struct node *n)
{
    for (unsigned i = 0; i < SIM_OPS; i++) {
        struct op *o = &s->ops[i];
        if (o->kind != OP_NONE)
            continue;
        o->kind = kind;
        o->sim = s;
        o->subject = u;
        o->node = n;
        o->source = NULL;
        o->data = NULL;
        o->settle = false;
        n->busy++;
        s->counts[kind]++;
        return o;
    }
    return NULL;
}

bool op_is_free(const struct sim *s, unsigned many)
{
    unsigned room = 0;
    for (unsigned i = 0; i < SIM_OPS; i++)
        room += s->ops[i].kind == OP_NONE ? 1 : 0;
    return room >= many;
}

bool op_any(const struct sim *s)
{
    return !op_is_free(s, SIM_OPS);
}

void op_end(struct op *o)
{
    free(o->data);
    o->data = NULL;
    o->node->busy--;
    if (o->source != NULL)
        o->source->busy--;
    o->kind = OP_NONE;
}

/* -- answers ------------------------------------------------------------------------ */

static bool op_is_change(const struct op *o)
{
    return o->kind == OP_CREATE || o->kind == OP_CLONE || o->kind == OP_DELETE ||
           o->kind == OP_ROLLBACK || o->kind == OP_CANCEL || o->kind == OP_GROUP ||
           o->kind == OP_CHECK || o->kind == OP_VERIFY;
}

static bool node_is_gone(const struct node *n)
{
    return n != NULL && n->state == NODE_NONE;
}

static bool op_is_write(const struct op *o)
{
    return o->kind == OP_WRITE || o->kind == OP_FLUSH;
}

static bool op_excused(const struct op *o, int code)
{
    const struct sim *s = o->sim;
    const struct subject *u = o->subject;
    const struct node *on = o->kind == OP_CLONE      ? o->source
                            : o->kind == OP_ROLLBACK ? &u->nodes[u->rollback_to]
                                                     : o->node;
    switch (code) {
    case SNAP_EBUSY:
        return op_is_change(o) || (o->kind == OP_WRITE && u->rollback != ROLLBACK_NONE);
    case SNAP_ELIMIT:
        return op_is_change(o) || o->kind == OP_READ;
    case SNAP_EPOISONED: /* as while it is being made invalid */
        return s->faulty || u->rebuilt || (on != NULL && on->fragile && o->kind != OP_DELETE);
    case SNAP_EIO:
    case SNAP_ECORRUPT:
        return s->faulty;
    case SNAP_ENOSPC:
        return u->limits && o->kind == OP_WRITE;
    case SNAP_EINVALID:
        return (on != NULL && on->fragile && o->kind != OP_DELETE) || s->closing;
    case SNAP_ESHUTDOWN:
        return s->closing;
    case SNAP_ECANCELED:
        return o->kind == OP_GROUP;
    case SNAP_ENOENT:
    case SNAP_ESTALE:
        return (s->closing && op_is_change(o)) || (o->kind == OP_DELETE && node_is_gone(o->node)) ||
               (o->kind == OP_READ && node_is_gone(o->node)) ||
               ((op_is_write(o) || o->kind == OP_ROLLBACK) &&
                (node_is_gone(o->node) || o->node->state == NODE_GOING)) ||
               (o->kind == OP_CLONE &&
                (node_is_gone(o->source) || o->source->state == NODE_GOING)) ||
               (o->kind == OP_CHECK && o->node->state != NODE_THERE);
    default:
        return false;
    }
}

bool op_refused(struct op *o, int code, const struct err *err)
{
    if (code == 0)
        return false;
    rollback_poll(o->sim, o->subject); /* what it is about may have gone with a merge */
    if (!op_excused(o, code))
        sim_fail(o->sim, "operation %d on %s: error %d: %s", (int)o->kind, op_who(o), code,
                 err->text);
    o->sim->refusals++;
    return true;
}

/* -- nodes ---------------------------------------------------------------------------- */

struct node *node_free(struct subject *u)
{
    for (unsigned i = 1; i < SIM_NODES; i++)
        if (u->nodes[i].state == NODE_NONE && u->nodes[i].busy == 0 && !u->nodes[i].again)
            return &u->nodes[i];
    return NULL;
}

struct node *node_pick(struct sim *s, struct subject *u, bool clones_only)
{
    unsigned from = sim_pick(s, SIM_NODES);
    for (unsigned i = 0; i < SIM_NODES; i++) {
        struct node *n = &u->nodes[(from + i) % SIM_NODES];
        if (n != &u->nodes[0] && n->state == NODE_THERE && (!clones_only || n->clone))
            return n;
    }
    return NULL;
}

bool node_is_recorded(const struct subject *u, const struct node *n)
{
    const struct snapshot *x = volume_snapshot_find(u->volume, &n->id);
    const struct record_snapshot *rs = x == NULL ? NULL : snapshot_record(x);
    return rs != NULL && !rs->hidden;
}

void node_set_invalid(struct sim *s, struct node *n)
{
    s->invalids += n->invalid ? 0 : 1;
    sim_say(s, "%s is invalid", n->name);
    n->invalid = true;
}
