/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing, against the model.
 *
 * A write that fails leaves either version in its grains; one that is refused as the volume is
 * being rolled back leaves none. A read has to be of one of the versions that its grains may
 * hold, and not older than what had ended when it began. Thread: one.
 */
#include "common/base/bytes.h"
#include "common/base/check.h"
#include "tests/sim/volume/sim.h"

#include <stdlib.h>
#include <string.h>

/* -- reading --------------------------------------------------------------------------- */

static void read_wrong(const struct op *o, const char *wrong, uint32_t grain, const uint8_t *bytes)
{
    const struct grain *g = &o->node->content.grains[grain];
    uint32_t seen = content_decode(bytes + (size_t)(grain - o->first) * GRAIN_BYTES, grain);
    sim_fail(o->sim, "%s: grain %u (chunk %u): %s: has %u%s, may have %u … %u (%u of them)",
             op_who(o), grain, grain * GRAIN_BYTES / 4096, wrong, version_time(seen),
             (seen & VERSION_ZERO) != 0 ? " (zeros)" : "", version_time(g->may[0]),
             version_time(g->may[g->count - 1]), g->count);
}

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
        sim_fail(o->sim, "%s: a read of %u grains gave %zu bytes", op_who(o), o->count, at);
    if (o->invalid)
        sim_fail(o->sim, "%s was invalid, and is read again", op_who(o));
    if (o->node->doubtful)
        content_doubt(&o->then);
    uint32_t grain;
    const char *wrong =
        content_check(&o->node->content, &o->then, bytes, o->first, o->count, o->settle, &grain);
    if (wrong != NULL)
        read_wrong(o, wrong, grain, bytes);
    free(bytes);
}

static void read_ended_well(struct op *o)
{
    struct node *n = o->node;
    read_compare(o);
    if (n->state != NODE_SETTLING || !o->settle || o->count != GRAINS)
        return;
    n->state = NODE_THERE;
    if (n != &o->subject->nodes[0] && !n->clone)
        order_check(o->sim, o->subject, n);
}

static void read_done(struct volume_read *r, int code, const struct err *err)
{
    struct op *o = r->user;
    if (code == SNAP_EINVALID && o->node->fragile) {
        node_set_invalid(o->sim, o->node);
        if (o->node->state == NODE_SETTLING)
            o->node->state = NODE_THERE;
    }
    if (!op_refused(o, code, err))
        read_ended_well(o);
    buf_give(r->buf);
    r->buf = NULL;
    volume_read_done(r);
    op_end(o);
}

static void read_begin(struct op *o)
{
    struct node *n = o->node;
    o->settle = n != &o->subject->nodes[0] && (!n->clone || n->state == NODE_SETTLING);
    o->settle = o->settle || n->state == NODE_SETTLING;
    o->then = n->content;
    o->invalid = n->invalid;
    o->read = (struct volume_read){.snapshot = n->id,
                                   .offset_bytes = (uint64_t)o->first * GRAIN_BYTES,
                                   .len_bytes = o->count * GRAIN_BYTES,
                                   .done = read_done,
                                   .user = o};
    volume_read_start(o->subject->volume, &o->read);
}

void read_start(struct sim *s, struct subject *u, struct node *n, bool whole)
{
    struct op *o = op_new(s, OP_READ, u, n);
    if (o == NULL)
        return;
    o->first = whole ? 0 : sim_pick(s, s->span);
    o->count = whole ? GRAINS : 1 + sim_pick(s, GRAINS - o->first);
    read_begin(o);
}

void node_settle(struct sim *s, struct subject *u, struct node *n)
{
    while (n->state == NODE_SETTLING) { /* again, when it had no buffer */
        struct op *o = op_new(s, OP_READ, u, n);
        CHECK(o != NULL);
        o->first = 0;
        o->count = GRAINS;
        read_begin(o);
        for (unsigned i = 0; o->kind != OP_NONE; i++)
            if (i == SIM_IDLE_STEPS || (!world_step(s->world) && o->kind != OP_NONE))
                sim_fail(s, "reading %s does not end", op_who(o));
    }
}

/* -- writing ---------------------------------------------------------------------------- */

static void log_begin(struct op *o)
{
    struct subject *u = o->subject;
    if (u->log_count == u->log_cap) {
        u->log_cap = u->log_cap == 0 ? 256 : 2 * u->log_cap;
        u->log = realloc(u->log, u->log_cap * sizeof *u->log);
        CHECK(u->log != NULL);
    }
    o->logged = u->log_count++;
    u->log[o->logged] =
        (struct logged){.first = o->first, .count = o->count, .version = o->version};
}

static void log_end(const struct op *o)
{
    struct subject *u = o->subject;
    if (o->logged < u->log_count && u->log[o->logged].version == o->version)
        u->log[o->logged].ended = o->sim->next_version++;
}

static void write_ended(struct op *o)
{
    struct content *c = &o->node->content;
    content_write_ended(c, o->first, o->count, o->version);
    if (o->node == &o->subject->nodes[0])
        log_end(o);
    if (!o->write.fua || o->node->doubtful)
        return;
    struct content now = *c;
    for (uint32_t i = 0; i < GRAINS; i++) /* that range alone */
        if (i < o->first || i >= o->first + o->count)
            now.grains[i] = (struct grain){.may = {c->grains[i].may[0]}, .count = 1};
    content_flushed(c, &now);
}

static void write_done(struct volume_write *w, int code, const struct err *err)
{
    struct op *o = w->user;
    struct content *c = &o->node->content;
    rollback_poll(o->sim, o->subject);
    bool failed = op_refused(o, code, err);
    if (o->node == &o->subject->nodes[0])
        o->subject->writes--;
    sim_say(o->sim, "%s %s grains %u+%u: %d", o->kind == OP_WRITE ? "written" : "flushed",
            op_who(o), o->first, o->count, code);
    bool turned = o->node == &o->subject->nodes[0] && o->turns != o->subject->turns;
    if (turned && o->kind == OP_WRITE && !failed)
        sim_fail(o->sim, "a write of %s went through a rollback", op_who(o));
    if (turned)
        ; /* what it was about is not there any more */
    else if (o->kind == OP_WRITE && failed)
        content_write_failed(c, o->first, o->count,
                             code == SNAP_EBUSY && o->node == &o->subject->nodes[0]);
    else if (o->kind == OP_WRITE)
        write_ended(o);
    else if (!failed && !o->node->doubtful)
        content_flushed(c, &o->then);
    if (code == SNAP_EINVALID && o->node->fragile)
        node_set_invalid(o->sim, o->node);
    op_end(o);
}

static void write_data(struct op *o, unsigned how)
{
    enum volume_write_op op = how == 0 ? VOLUME_ZERO : how == 1 ? VOLUME_DISCARD : VOLUME_WRITE;
    size_t bytes = (size_t)o->count * GRAIN_BYTES;
    o->write = (struct volume_write){.node = o->node->id,
                                     .op = op,
                                     .fua = sim_pick(o->sim, 6) == 0,
                                     .offset_bytes = (uint64_t)o->first * GRAIN_BYTES,
                                     .len_bytes = bytes,
                                     .done = write_done,
                                     .user = o};
    if (op != VOLUME_WRITE)
        return;
    o->data = aligned_alloc(4096, u64_align_up(bytes, 4096));
    CHECK(o->data != NULL);
    content_fill(o->data, o->first, o->count, o->version);
    o->write.data = o->data;
}

void write_counts(struct op *o)
{
    o->turns = o->subject->turns;
    content_write(&o->node->content, o->first, o->count, o->version);
    if (o->node == &o->subject->nodes[0])
        log_begin(o);
}

/* how: 0 and 1: zeros */
static bool write_range(struct sim *s, struct subject *u, struct node *n, unsigned how, bool fua)
{
    uint32_t first = s->at_first, count = s->at_count;
    if (!content_can_write(&n->content, first, count))
        return false;
    struct op *o = op_new(s, OP_WRITE, u, n);
    if (o == NULL)
        return false;
    o->first = first;
    o->count = count;
    o->version = s->next_version++ | (how < 2 ? VERSION_ZERO : 0);
    write_data(o, how);
    o->write.fua = o->write.fua || fua;
    sim_say(s, "write %s grains %u+%u version %u", op_who(o), first, count,
            version_time(o->version));
    write_counts(o);
    u->writes += n == &u->nodes[0] ? 1 : 0;
    volume_write_start(u->volume, &o->write);
    return true;
}

/* What a clone reads through, at the same time, down to the volume itself: what is preserved, or
 * read for an edge, is being overwritten. */
static void write_below(struct sim *s, struct subject *u, const struct node *n)
{
    for (unsigned depth = 0; n != NULL && n->clone && depth < SIM_NODES; depth++) {
        struct node *below = source_of(u, n);
        while (below != NULL && below != &u->nodes[0] && !below->clone)
            below = &u->nodes[0];
        bool writable = u->rollback == ROLLBACK_NONE || u->rollback == ROLLBACK_ASKED;
        if (below == NULL || (below == &u->nodes[0] && !writable) ||
            !write_range(s, u, below, 2 + sim_pick(s, 4), false))
            return;
        n = below;
    }
}

void write_start(struct sim *s, struct subject *u, struct node *n)
{
    uint32_t first = sim_pick(s, s->span);
    uint32_t most = sim_pick(s, 8) == 0 ? s->span : 40;
    uint32_t count = 1 + sim_pick(s, s->span - first < most ? s->span - first : most);
    if (sim_pick(s, 3) == 0) { /* whole chunks */
        first &= ~31U;
        count = s->span - first < 64 ? s->span - first : 32 * (1 + sim_pick(s, 2));
    }
    unsigned how = sim_pick(s, 8);
    bool again = how < 2 && s->at_count > 0 && sim_pick(s, 3) == 0;
    if (!again) { /* else zeros, perhaps, over zeros that are not durable yet */
        s->at_first = first;
        s->at_count = count;
    }
    if (write_range(s, u, n, how, again) && n->clone && sim_pick(s, 4) == 0)
        write_below(s, u, n);
}

void flush_start(struct sim *s, struct subject *u, struct node *n)
{
    struct op *o = op_new(s, OP_FLUSH, u, n);
    if (o == NULL)
        return;
    o->first = o->count = 0;
    o->then = n->content;
    o->turns = u->turns;
    o->write =
        (struct volume_write){.node = n->id, .op = VOLUME_FLUSH, .done = write_done, .user = o};
    u->writes += n == &u->nodes[0] ? 1 : 0;
    volume_write_start(u->volume, &o->write);
}
