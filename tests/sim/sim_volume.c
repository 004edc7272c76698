/* SPDX-License-Identifier: Apache-2.0 */
/* Hosted volumes against a model: writes, snapshots, clones, groups, rollbacks, merges, deletions,
 * power losses.
 *
 * Two volumes live on one simulated machine. A scenario is drawn from a seed: what is begun, which
 * disk request ends next, when the plug is pulled. Several things are under way at any time. After
 * each power loss the volumes are made from their records again, and every node is read whole:
 *
 *   answered        must be there: a snapshot, a clone, a deletion, flushed content
 *   not answered    may be there or not, but whole: what is found counts from then on
 *   everything else must not be there
 *
 * A snapshot's content never changes, whatever goes on around it: it is read again and again. At
 * the end all jobs are let run out, and files that nobody owns are counted.
 *
 * SEED=N plays scenario N alone; SIM_RUNS says how many, SIM_SCALE how many percent of that.
 */
#include "common/base/bytes.h"
#include "common/base/check.h"
#include "daemon/volume/change.h"
#include "daemon/volume/job.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/read.h"
#include "daemon/volume/write.h"
#include "tests/sim/volume/model.h"
#include "tests/sim/volume/world.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    VOLUMES = 2,
    NODES = 14, /* a volume: the origin and its snapshots and clones */
    OPS = 12,
    RUNS_DEFAULT = 60,
    LIVES_MAX = 6,
    LIFE_STEPS = 900,
    IDLE_STEPS_MAX = 400000,
};

enum node_state { NODE_NONE, NODE_MAKING, NODE_SETTLING, NODE_THERE, NODE_GOING };

struct node {
    enum node_state state;
    struct uuid id; /* zero: the volume itself */
    char name[16];
    bool clone;
    unsigned busy; /* operations under way on it */
    struct uuid group;
    struct content content;
};

enum rollback_state {
    ROLLBACK_NONE,
    ROLLBACK_ASKED,
    ROLLBACK_ON,
    ROLLBACK_CANCEL_ASKED,
    ROLLBACK_BACK
};

struct subject {
    struct uuid id;
    struct volume *volume;
    struct node nodes[NODES]; /* the first is the volume itself */
    enum rollback_state rollback;
    struct rollback_spec rollback_spec;
    unsigned rollback_to;  /* a node */
    struct content before; /* the rollback */
    unsigned writes;       /* to the volume itself, under way */
};

enum op_kind {
    OP_NONE,
    OP_WRITE,
    OP_FLUSH,
    OP_READ,
    OP_CREATE,
    OP_CLONE,
    OP_DELETE,
    OP_ROLLBACK,
    OP_CANCEL,
    OP_GROUP
};

struct sim;

struct op {
    enum op_kind kind;
    struct sim *sim;
    struct subject *subject;
    struct node *node, *source;
    struct volume_write write;
    struct volume_read read;
    uint8_t *data;
    uint32_t first, count, version;
    bool settle;
    struct content then; /* of the node, or of the source, when it began */
};

/* A group under way: one member a volume. */
struct group {
    bool on;
    struct uuid id;
    unsigned held, ended, failed;
    struct op *ops[VOLUMES];
    struct control_job job;
    bool saved;
};

struct sim {
    uint64_t seed;
    struct world *world;
    struct rng rng;
    struct subject subjects[VOLUMES];
    struct op ops[OPS];
    struct group group;
    struct uuid groups_saved[64];
    unsigned groups_saved_count;
    uint32_t next_version;
    unsigned life, step, names;
    bool verbose;
    unsigned counts[OP_GROUP + 1], losses, refusals;
};

static _Noreturn void sim_fail(const struct sim *s, const char *fmt, ...)
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

static void say(const struct sim *s, const char *fmt, ...)
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

static unsigned pick(struct sim *s, unsigned below)
{
    return (unsigned)rng_below(&s->rng, below);
}

static struct uuid sim_uuid(struct sim *s)
{
    struct uuid id;
    rng_fill(&s->rng, &id, sizeof id);
    return id;
}

static const char *who(const struct op *o)
{
    return o->node == &o->subject->nodes[0] ? "the volume" : o->node->name;
}

/* -- operations ------------------------------------------------------------ */

static struct op *op_new(struct sim *s, enum op_kind kind, struct subject *u, struct node *n)
{
    for (unsigned i = 0; i < OPS; i++) {
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

static bool op_is_free(const struct sim *s)
{
    for (unsigned i = 0; i < OPS; i++)
        if (s->ops[i].kind == OP_NONE)
            return true;
    return false;
}

static void op_end(struct op *o)
{
    free(o->data);
    o->data = NULL;
    o->node->busy--;
    if (o->source != NULL)
        o->source->busy--;
    o->kind = OP_NONE;
}

static void rollback_poll(struct sim *s, struct subject *u);

/* It is known as what the volume reads. */
static bool rollback_is_steady(const struct subject *u)
{
    return u->rollback != ROLLBACK_ASKED && u->rollback != ROLLBACK_CANCEL_ASKED;
}

/* Is that an answer that such an operation may get, changing nothing? */
static bool op_refused(struct op *o, int code, const struct err *err)
{
    if (code == 0)
        return false;
    rollback_poll(o->sim, o->subject); /* a clone's source may have gone with a merge */
    bool gone = o->kind == OP_CLONE && (code == SNAP_ENOENT || code == SNAP_ESTALE) &&
                o->source->state == NODE_NONE;
    if (code != SNAP_EBUSY && code != SNAP_ELIMIT && !gone)
        sim_fail(o->sim, "operation %d on %s: %s", (int)o->kind, who(o), err->text);
    o->sim->refusals++;
    return true;
}

/* -- reading ------------------------------------------------------------ */

static void read_compare(struct op *o)
{
    uint8_t *bytes = malloc((size_t)o->count * GRAIN_BYTES);
    size_t at = 0;
    CHECK(bytes != NULL);
    for (unsigned i = 0; i < o->read.iov_count; i++) {
        CHECK(at + o->read.iov[i].iov_len <= (size_t)o->count * GRAIN_BYTES);
        memcpy(bytes + at, o->read.iov[i].iov_base, o->read.iov[i].iov_len);
        at += o->read.iov[i].iov_len;
    }
    if (at != (size_t)o->count * GRAIN_BYTES)
        sim_fail(o->sim, "%s: a read of %u grains gave %zu bytes", who(o), o->count, at);
    uint32_t grain;
    const char *wrong =
        content_check(&o->node->content, &o->then, bytes, o->first, o->count, o->settle, &grain);
    if (wrong != NULL) {
        const struct grain *g = &o->node->content.grains[grain];
        uint32_t seen = content_decode(bytes + (size_t)(grain - o->first) * GRAIN_BYTES, grain);
        sim_fail(o->sim, "%s: grain %u (chunk %u): %s: has %u%s, may have %u … %u (%u of them)",
                 who(o), grain, grain * GRAIN_BYTES / 4096, wrong, version_time(seen),
                 (seen & VERSION_ZERO) != 0 ? " (zeros)" : "", version_time(g->may[0]),
                 version_time(g->may[g->count - 1]), g->count);
    }
    free(bytes);
}

static void read_done(struct volume_read *r, int code, const struct err *err)
{
    struct op *o = r->user;
    if (code == SNAP_ELIMIT) { /* no buffer: try again */
        volume_read_done(r);
        op_end(o);
        return;
    }
    rollback_poll(o->sim, o->subject);
    bool gone = code == SNAP_ENOENT && o->node->state == NODE_NONE;
    if (code < 0 && !gone)
        sim_fail(o->sim, "read %s: %s", who(o), err->text);
    if (code == 0) {
        read_compare(o);
        if (o->node->state == NODE_SETTLING)
            o->node->state = NODE_THERE;
    }
    buf_give(r->buf);
    r->buf = NULL;
    volume_read_done(r);
    op_end(o);
}

static void read_start(struct sim *s, struct subject *u, struct node *n, bool whole)
{
    struct op *o = op_new(s, OP_READ, u, n);
    if (o == NULL)
        return;
    o->first = whole ? 0 : pick(s, GRAINS);
    o->count = whole ? GRAINS : 1 + pick(s, GRAINS - o->first);
    o->settle = n != &u->nodes[0] && (!n->clone || n->state == NODE_SETTLING);
    o->then = n->content;
    o->read = (struct volume_read){.snapshot = n->id,
                                   .offset_bytes = (uint64_t)o->first * GRAIN_BYTES,
                                   .len_bytes = o->count * GRAIN_BYTES,
                                   .done = read_done,
                                   .user = o};
    volume_read_start(u->volume, &o->read);
}

/* -- writing ------------------------------------------------------------ */

static void write_done(struct volume_write *w, int code, const struct err *err)
{
    struct op *o = w->user;
    struct sim *s = o->sim;
    if (o->node == &o->subject->nodes[0])
        o->subject->writes--;
    if (code < 0)
        sim_fail(s, "write %s: %s", who(o), err->text);
    if (o->kind == OP_FLUSH) {
        content_flushed(&o->node->content, &o->then);
    } else {
        content_write_ended(&o->node->content, o->first, o->count, o->version);
        if (w->fua) {
            struct content now = o->node->content;
            for (uint32_t i = 0; i < GRAINS; i++) /* that range alone */
                if (i < o->first || i >= o->first + o->count)
                    now.grains[i] =
                        (struct grain){.may = {o->node->content.grains[i].may[0]}, .count = 1};
            content_flushed(&o->node->content, &now);
        }
    }
    op_end(o);
}

static void write_start(struct sim *s, struct subject *u, struct node *n)
{
    uint32_t first = pick(s, GRAINS);
    uint32_t most = pick(s, 8) == 0 ? GRAINS : 40;
    uint32_t count = 1 + pick(s, GRAINS - first < most ? GRAINS - first : most);
    if (pick(s, 3) == 0) { /* whole chunks */
        first &= ~31U;
        count = GRAINS - first < 64 ? GRAINS - first : 32 * (1 + pick(s, 2));
    }
    if (!content_can_write(&n->content, first, count))
        return;
    struct op *o = op_new(s, OP_WRITE, u, n);
    if (o == NULL)
        return;
    unsigned how = pick(s, 8);
    o->first = first;
    o->count = count;
    o->version = s->next_version++ | (how < 2 ? VERSION_ZERO : 0);
    o->write = (struct volume_write){.node = n->id,
                                     .op = how == 0   ? VOLUME_ZERO
                                           : how == 1 ? VOLUME_DISCARD
                                                      : VOLUME_WRITE,
                                     .fua = pick(s, 6) == 0,
                                     .offset_bytes = (uint64_t)first * GRAIN_BYTES,
                                     .len_bytes = (uint64_t)count * GRAIN_BYTES,
                                     .done = write_done,
                                     .user = o};
    if (how >= 2) {
        o->data = aligned_alloc(4096, u64_align_up((uint64_t)count * GRAIN_BYTES, 4096));
        CHECK(o->data != NULL);
        content_fill(o->data, first, count, o->version);
        o->write.data = o->data;
    }
    say(s, "write %s grains %u+%u version %u", who(o), first, count, version_time(o->version));
    content_write(&n->content, first, count, o->version);
    u->writes += n == &u->nodes[0] ? 1 : 0;
    volume_write_start(u->volume, &o->write);
}

static void flush_start(struct sim *s, struct subject *u, struct node *n)
{
    struct op *o = op_new(s, OP_FLUSH, u, n);
    if (o == NULL)
        return;
    o->then = n->content;
    o->write =
        (struct volume_write){.node = n->id, .op = VOLUME_FLUSH, .done = write_done, .user = o};
    u->writes += n == &u->nodes[0] ? 1 : 0;
    volume_write_start(u->volume, &o->write);
}

/* -- nodes ------------------------------------------------------------ */

static struct node *node_free(struct subject *u)
{
    for (unsigned i = 1; i < NODES; i++)
        if (u->nodes[i].state == NODE_NONE && u->nodes[i].busy == 0)
            return &u->nodes[i];
    return NULL;
}

static struct node *node_pick(struct sim *s, struct subject *u, bool clones_only)
{
    unsigned from = pick(s, NODES);
    for (unsigned i = 0; i < NODES; i++) {
        struct node *n = &u->nodes[(from + i) % NODES];
        if (n != &u->nodes[0] && n->state == NODE_THERE && (!clones_only || n->clone))
            return n;
    }
    return NULL;
}

static void node_make(struct sim *s, struct node *n, bool clone)
{
    n->id = sim_uuid(s);
    n->clone = clone;
    n->state = NODE_MAKING;
    n->group = (struct uuid){{0}};
    (void)snprintf(n->name, sizeof n->name, "%c%u", clone ? 'c' : 's', s->names++);
}

static void made(void *user, int code, const struct err *err)
{
    struct op *o = user;
    if (op_refused(o, code, err)) {
        o->node->state = NODE_NONE;
    } else {
        content_snapshot(&o->node->content, &o->then, &o->source->content);
        o->node->state = NODE_SETTLING;
        say(o->sim, "made %s", who(o));
    }
    op_end(o);
}

static void snapshot_start(struct sim *s, struct subject *u)
{
    struct node *n = node_free(u);
    struct op *o = n == NULL ? NULL : op_new(s, OP_CREATE, u, n);
    if (o == NULL)
        return;
    node_make(s, n, false);
    o->source = &u->nodes[0];
    o->source->busy++;
    o->then = u->nodes[0].content;
    say(s, "create %s", n->name);
    struct snapshot_spec spec = {.id = n->id, .name = n->name};
    snapshot_create_start(u->volume, &spec, made, o);
}

static void clone_start(struct sim *s, struct subject *u)
{
    struct node *n = node_free(u), *source = node_pick(s, u, pick(s, 3) == 0);
    struct op *o = n == NULL || source == NULL ? NULL : op_new(s, OP_CLONE, u, n);
    if (o == NULL)
        return;
    node_make(s, n, true);
    o->source = source;
    source->busy++;
    o->then = source->content;
    say(s, "clone %s of %s", n->name, source->name);
    struct clone_spec spec = {.id = n->id, .source = source->id, .name = n->name};
    volume_clone_start(u->volume, &spec, made, o);
}

static void deleted(void *user, int code, const struct err *err)
{
    struct op *o = user;
    o->node->state = op_refused(o, code, err) ? NODE_THERE : NODE_NONE;
    say(o->sim, "deleted %s: %d", who(o), code);
    op_end(o);
}

static void delete_start(struct sim *s, struct subject *u)
{
    struct node *n = node_pick(s, u, false);
    struct op *o = n == NULL || n->busy > 0 ? NULL : op_new(s, OP_DELETE, u, n);
    if (o == NULL)
        return;
    n->state = NODE_GOING;
    say(s, "delete %s", n->name);
    struct snapshot_delete_spec spec = {.id = n->id, .key = n->id};
    snapshot_delete(u->volume, &spec, deleted, o);
}

/* -- groups ------------------------------------------------------------ */

static void group_end(struct sim *s)
{
    struct group *g = &s->group;
    if (g->ended < VOLUMES)
        return;
    say(s, "group ended, %u failed", g->failed);
    g->on = false;
}

static void group_release(struct sim *s, bool keep)
{
    struct group *g = &s->group;
    for (unsigned i = 0; i < VOLUMES; i++)
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
    if (g->held + g->failed < VOLUMES)
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
    bool was_held = g->held + g->failed == VOLUMES;
    g->ops[i] = NULL;
    g->ended++;
    if (code == SNAP_ECANCELED) {
        o->node->state = NODE_NONE;
        op_end(o);
    } else {
        if (code < 0)
            g->failed++;
        made(o, code, err);
        if (!was_held)
            group_step(s);
    }
    group_end(s);
}

static void group_start(struct sim *s)
{
    struct group *g = &s->group;
    if (g->on || s->groups_saved_count == ARRAY_LEN(s->groups_saved))
        return;
    for (unsigned i = 0; i < VOLUMES; i++)
        if (node_free(&s->subjects[i]) == NULL || !rollback_is_steady(&s->subjects[i]))
            return;
    unsigned room = 0;
    for (unsigned i = 0; i < OPS; i++)
        room += s->ops[i].kind == OP_NONE ? 1 : 0;
    if (room < VOLUMES)
        return;
    *g = (struct group){.on = true, .id = sim_uuid(s)};
    for (unsigned i = 0; i < VOLUMES; i++) {
        struct subject *u = &s->subjects[i];
        struct node *n = node_free(u);
        struct op *o = op_new(s, OP_GROUP, u, n);
        node_make(s, n, false);
        n->group = g->id;
        o->source = &u->nodes[0];
        o->source->busy++;
        o->then = u->nodes[0].content;
        g->ops[i] = o;
        say(s, "group create %s", n->name);
    }
    for (unsigned i = 0; i < VOLUMES; i++) {
        struct op *o = g->ops[i];
        struct snapshot_spec spec = {
            .id = o->node->id, .name = o->node->name, .group = &g->id, .held = group_held};
        snapshot_create_start(s->subjects[i].volume, &spec, group_made, o);
    }
}

/* -- rollbacks ------------------------------------------------------------ */

static void rolled_back(void *user, int code, const struct err *err)
{
    struct op *o = user;
    struct subject *u = o->subject;
    if (op_refused(o, code, err)) {
        u->rollback = ROLLBACK_NONE;
    } else {
        u->rollback = ROLLBACK_ON;
        content_newest(&u->nodes[0].content, &u->nodes[u->rollback_to].content);
    }
    say(o->sim, "rollback to %s: %d", u->nodes[u->rollback_to].name, code);
    op_end(o);
}

static void rollback_start(struct sim *s, struct subject *u)
{
    struct node *n = node_pick(s, u, false);
    if (n == NULL || n->clone || n->busy > 0 || u->nodes[0].busy > 0 ||
        u->rollback != ROLLBACK_NONE)
        return;
    struct op *o = op_new(s, OP_ROLLBACK, u, n);
    if (o == NULL)
        return;
    u->rollback = ROLLBACK_ASKED;
    u->rollback_to = (unsigned)(n - u->nodes);
    u->rollback_spec = (struct rollback_spec){.job = sim_uuid(s),
                                              .snapshot = n->id,
                                              .merge = pick(s, 2) == 0,
                                              .drop_newer = pick(s, 4) == 0};
    content_newest(&u->before, &u->nodes[0].content);
    say(s, "rollback to %s asked%s%s", n->name, u->rollback_spec.merge ? ", merge" : "",
        u->rollback_spec.drop_newer ? ", dropping newer" : "");
    volume_rollback_start(u->volume, &u->rollback_spec, rolled_back, o);
}

static void cancelled(void *user, int code, const struct err *err)
{
    struct op *o = user;
    struct subject *u = o->subject;
    if (op_refused(o, code, err)) {
        u->rollback = ROLLBACK_ON;
    } else {
        u->rollback = ROLLBACK_BACK;
        u->nodes[0].content = u->before;
    }
    say(o->sim, "cancel: %d", code);
    op_end(o);
}

static void cancel_start(struct sim *s, struct subject *u)
{
    if (u->rollback != ROLLBACK_ON || u->nodes[0].busy > 0)
        return;
    struct op *o = op_new(s, OP_CANCEL, u, &u->nodes[0]);
    if (o == NULL)
        return;
    u->rollback = ROLLBACK_CANCEL_ASKED;
    volume_job_cancel(u->volume, &u->rollback_spec.job, cancelled, o);
}

/* What a rollback that has ended leaves: its own node consumed, newer ones dropped, if asked. */
static void rollback_ended(struct sim *s, struct subject *u)
{
    const struct rollback_spec *spec = &u->rollback_spec;
    bool back = u->rollback == ROLLBACK_BACK;
    u->rollback = ROLLBACK_NONE;
    say(s, "rollback ended%s", back ? ", cancelled" : "");
    for (unsigned i = 1; i < NODES && !back && (spec->merge || spec->drop_newer); i++) {
        struct node *n = &u->nodes[i];
        if (n->state == NODE_NONE || n->state == NODE_MAKING || n->clone)
            continue;
        const struct snapshot *x = volume_snapshot_find(u->volume, &n->id);
        const struct record_snapshot *rs = x == NULL ? NULL : snapshot_record(x);
        if (rs != NULL && !rs->hidden)
            continue;
        bool own = i == u->rollback_to;
        if (n->state != NODE_GOING && !(own ? spec->merge : spec->drop_newer))
            sim_fail(s, "%s went with the rollback", n->name);
        n->state = NODE_NONE;
    }
}

static void rollback_poll(struct sim *s, struct subject *u)
{
    if (u->rollback != ROLLBACK_ON && u->rollback != ROLLBACK_BACK)
        return;
    if (uuid_is_zero(&u->volume->record.rollback.job))
        rollback_ended(s, u);
}

/* -- lives ------------------------------------------------------------ */

static void opened(void *user, int code, const struct err *err)
{
    bool *done = user;
    (void)err;
    CHECK(code == 0);
    *done = true;
}

static void closed(void *user, int code, const struct err *err)
{
    opened(user, code, err);
}

static void group_undo(struct sim *s, struct volume_record *r)
{
    for (uint32_t i = r->snapshot_count; i-- > 0;) {
        bool kept = uuid_is_zero(&r->snapshots[i].group);
        for (unsigned k = 0; k < s->groups_saved_count && !kept; k++)
            kept = uuid_equal(&r->snapshots[i].group, &s->groups_saved[k]);
        if (kept)
            continue;
        struct uuid id = r->snapshots[i].id;
        say(s, "undone: %s", r->snapshots[i].name);
        CHECK(volume_record_remove_snapshot(r, &id, NULL) == 0);
        world_save_record(s->world, r);
    }
}

static void boot(struct sim *s)
{
    world_boot(s->world);
    for (unsigned i = 0; i < VOLUMES; i++) {
        struct subject *u = &s->subjects[i];
        struct volume_record r;
        struct err err = ERR_INIT;
        CHECK(world_record(s->world, &u->id, &r));
        group_undo(s, &r);
        if (volume_new(world_set(s->world), &r, &u->volume, &err) < 0)
            sim_fail(s, "volume: %s", err.text);
        bool done = false;
        volume_open(u->volume, opened, &done);
        for (unsigned n = 0; !done && n < IDLE_STEPS_MAX; n++)
            if (!world_step(s->world) && !done)
                sim_fail(s, "opening volume %u does not end", i);
    }
}

static void settle_now(struct sim *s, struct subject *u, struct node *n)
{
    struct op *o = op_new(s, OP_READ, u, n);
    CHECK(o != NULL);
    o->first = 0;
    o->count = GRAINS;
    o->settle = true;
    o->then = n->content;
    o->read = (struct volume_read){.snapshot = n->id,
                                   .len_bytes = VOLUME_BYTES / GRAIN_BYTES * GRAIN_BYTES,
                                   .done = read_done,
                                   .user = o};
    volume_read_start(u->volume, &o->read);
    for (unsigned i = 0; o->kind != OP_NONE; i++)
        if (i == IDLE_STEPS_MAX || (!world_step(s->world) && o->kind != OP_NONE))
            sim_fail(s, "reading %s does not end", who(o));
}

static void recover_rollback(struct sim *s, struct subject *u)
{
    const struct record_rollback *r = &u->volume->record.rollback;
    struct content *now = &u->nodes[0].content, *to = &u->nodes[u->rollback_to].content;
    if (u->rollback == ROLLBACK_NONE)
        return;
    bool there = !uuid_is_zero(&r->job);
    if (u->rollback == ROLLBACK_ASKED && !there) {
        u->rollback = ROLLBACK_NONE;
        return;
    }
    if (u->rollback == ROLLBACK_ASKED) {
        content_newest(now, to);
        u->rollback = ROLLBACK_ON;
    }
    if (u->rollback == ROLLBACK_CANCEL_ASKED) {
        if (there && !r->cancelled) {
            u->rollback = ROLLBACK_ON;
        } else if (there) {
            u->rollback = ROLLBACK_BACK;
            *now = u->before;
        } else { /* it has ended, one way or the other: both are right */
            for (uint32_t i = 0; i < GRAINS; i++) {
                now->grains[i] = to->grains[i];
                now->grains[i].may[now->grains[i].count++] = u->before.grains[i].may[0];
            }
        }
    }
    if (!there)
        rollback_ended(s, u);
}

static void recover_nodes(struct sim *s, struct subject *u)
{
    for (unsigned k = 1; k < NODES; k++) {
        struct node *n = &u->nodes[k];
        if (n->state == NODE_NONE)
            continue;
        const struct snapshot *x = volume_snapshot_find(u->volume, &n->id);
        const struct record_snapshot *rs = x == NULL ? NULL : snapshot_record(x);
        bool there = rs != NULL && !rs->hidden;
        if (there && snapshot_check_readable(x, NULL) < 0)
            sim_fail(s, "%s cannot be read: %s", n->name, x->fault_text);
        if (!there && n->state != NODE_MAKING && n->state != NODE_GOING)
            sim_fail(s, "%s is lost: %s", n->name, rs == NULL ? "not in the record" : "hidden");
        n->state = there ? NODE_SETTLING : NODE_NONE;
    }
    u->nodes[0].state = NODE_SETTLING;
}

/* After a power loss: what is there, and is it right? Jobs go on while that is read. */
static void recover(struct sim *s)
{
    s->group.on = false;
    for (unsigned i = 0; i < VOLUMES; i++) {
        recover_rollback(s, &s->subjects[i]);
        recover_nodes(s, &s->subjects[i]);
    }
    for (unsigned i = 0; i < VOLUMES; i++)
        for (unsigned k = 0; k < NODES; k++)
            if (s->subjects[i].nodes[k].state == NODE_SETTLING)
                settle_now(s, &s->subjects[i], &s->subjects[i].nodes[k]);
}

/* Operations under way at a power loss: what they leave open. */
static void forget_ops(struct sim *s)
{
    for (unsigned i = 0; i < OPS; i++) {
        struct op *o = &s->ops[i];
        if (o->kind == OP_CREATE || o->kind == OP_CLONE || o->kind == OP_GROUP)
            content_snapshot(&o->node->content, &o->then, &o->source->content);
        o->kind = OP_NONE;
        o->data = NULL; /* may be read by a disk request until now; not freed */
        o->source = NULL;
    }
    for (unsigned i = 0; i < VOLUMES; i++) {
        s->subjects[i].writes = 0;
        for (unsigned k = 0; k < NODES; k++) {
            struct node *n = &s->subjects[i].nodes[k];
            n->busy = 0;
            for (uint32_t g = 0; g < GRAINS && n->state != NODE_NONE; g++)
                n->content.grains[g].ended = (uint8_t)(n->content.grains[g].count - 1);
        }
    }
}

static void begin_something(struct sim *s)
{
    struct subject *u = &s->subjects[pick(s, VOLUMES)];
    struct node *clone = node_pick(s, u, true), *any = node_pick(s, u, false);
    bool writable = u->rollback == ROLLBACK_NONE, steady = rollback_is_steady(u);
    unsigned what = pick(s, 100);
    for (unsigned i = 1; i < NODES; i++)
        if (u->nodes[i].state == NODE_SETTLING && u->nodes[i].busy == 0) {
            read_start(s, u, &u->nodes[i], true);
            return;
        }
    if (what < 40 && writable)
        write_start(s, u, &u->nodes[0]);
    else if (what < 50 && clone != NULL)
        write_start(s, u, clone);
    else if (what < 55 && writable)
        flush_start(s, u, &u->nodes[0]);
    else if (what < 58 && clone != NULL)
        flush_start(s, u, clone);
    else if (what < 70 && any != NULL)
        read_start(s, u, any, pick(s, 3) == 0);
    else if (what < 76 && steady)
        read_start(s, u, &u->nodes[0], pick(s, 3) == 0);
    else if (what < 84 && steady)
        snapshot_start(s, u);
    else if (what < 88)
        clone_start(s, u);
    else if (what < 94)
        delete_start(s, u);
    else if (what < 96)
        rollback_start(s, u);
    else if (what < 98)
        cancel_start(s, u);
    else
        group_start(s);
}

static bool anything_under_way(const struct sim *s)
{
    for (unsigned i = 0; i < OPS; i++)
        if (s->ops[i].kind != OP_NONE)
            return true;
    return false;
}

/* Nothing new is begun: everything under way ends, jobs too. */
static void drain(struct sim *s)
{
    for (unsigned n = 0; n < IDLE_STEPS_MAX; n++) {
        bool any = world_step(s->world);
        bool jobs = false;
        for (unsigned i = 0; i < VOLUMES; i++) {
            struct subject *u = &s->subjects[i];
            rollback_poll(s, u);
            jobs = jobs || !TAILQ_EMPTY(&u->volume->hidden) || u->rollback != ROLLBACK_NONE ||
                   u->volume->job != NULL;
        }
        if (!anything_under_way(s) && !any)
            return;
        if (!anything_under_way(s) && !jobs)
            return;
    }
    for (unsigned i = 0; i < OPS; i++)
        if (s->ops[i].kind != OP_NONE)
            (void)printf("operation %d on %s of %s\n", (int)s->ops[i].kind, who(&s->ops[i]),
                         s->ops[i].subject->volume->record.name);
    (void)printf("group: %u held, %u failed, %u ended\n", s->group.held, s->group.failed,
                 s->group.ended);
    sim_fail(s, "what is under way does not end");
}

static void shut_down(struct sim *s)
{
    for (unsigned i = 0; i < VOLUMES; i++) {
        bool done = false;
        volume_close(s->subjects[i].volume, closed, &done);
        for (unsigned n = 0; !done && n < IDLE_STEPS_MAX; n++)
            (void)world_step(s->world);
        if (!done)
            sim_fail(s, "volume %u does not close", i);
    }
}

static void live(struct sim *s)
{
    unsigned steps = 20 + pick(s, LIFE_STEPS);
    unsigned hurry = 1 + pick(s, 6);
    for (s->step = 0; s->step < steps; s->step++) {
        if (op_is_free(s) && pick(s, hurry) == 0)
            begin_something(s);
        else
            (void)world_step(s->world);
        world_turn(s->world);
        for (unsigned i = 0; i < VOLUMES; i++)
            rollback_poll(s, &s->subjects[i]);
    }
}

/* -- scenarios ------------------------------------------------------------ */

static void subject_make(struct sim *s, struct subject *u, unsigned i)
{
    struct volume_record r;
    volume_record_init(&r);
    r.id = u->id = sim_uuid(s);
    (void)snprintf(r.name, sizeof r.name, "v%u", i);
    r.size_bytes = VOLUME_BYTES;
    r.kind = VOLUME_HOSTED;
    r.chunk_size_sectors = 8;
    (void)snprintf(r.origin_path, sizeof r.origin_path, "origin");
    struct volume_env *env = (struct volume_env *)(uintptr_t)world_set(s->world)->env;
    CHECK(origin_create(env, &r, NULL) == 0);
    world_save_record(s->world, &r);
    volume_record_done(&r);
    u->nodes[0].state = NODE_THERE;
    content_init(&u->nodes[0].content);
}

static void run(uint64_t seed, bool verbose, uint64_t totals[3])
{
    struct sim *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    s->seed = seed;
    s->verbose = verbose;
    s->next_version = 2;
    rng_init(&s->rng, seed);
    s->world = world_new(seed, pick(s, 3) == 0 ? 4096 : 512, MIB);
    world_boot(s->world);
    for (unsigned i = 0; i < VOLUMES; i++)
        subject_make(s, &s->subjects[i], i);
    boot(s);
    unsigned lives = 1 + pick(s, LIVES_MAX);
    for (s->life = 0; s->life < lives; s->life++) {
        live(s);
        totals[0] += s->step;
        bool clean = pick(s, 4) == 0;
        say(s, clean ? "restart" : "power loss");
        if (clean) {
            drain(s);
            shut_down(s);
        } else {
            world_power_loss(s->world);
            forget_ops(s);
            s->losses++;
        }
        boot(s);
        recover(s);
    }
    drain(s);
    shut_down(s);
    totals[1] += s->losses;
    for (unsigned k = 0; k <= OP_GROUP; k++)
        totals[2] += s->counts[k];
    world_free(s->world);
    free(s);
}

static uint64_t env_number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL && *text != '\0' ? strtoull(text, NULL, 0) : otherwise;
}

int main(void)
{
    uint64_t totals[3] = {0};
    uint64_t scale = env_number("SIM_SCALE", 100);
    uint64_t runs = env_number("SIM_RUNS", RUNS_DEFAULT) * scale / 100;
    const char *one = getenv("SEED");
    if (one != NULL && *one != '\0') {
        run(strtoull(one, NULL, 0), getenv("SIM_VERBOSE") != NULL, totals);
        runs = 1;
    } else {
        uint64_t first = env_number("SIM_FIRST", 1);
        for (uint64_t i = 0; i < runs; i++)
            run(first + i, false, totals);
    }
    (void)printf("sim_volume: %" PRIu64 " scenarios, %" PRIu64 " steps, %" PRIu64
                 " operations, %" PRIu64 " power losses\n",
                 runs, totals[0], totals[2], totals[1]);
    return 0;
}
