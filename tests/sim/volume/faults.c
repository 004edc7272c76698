/* SPDX-License-Identifier: Apache-2.0 */
/* Disks that fail once: one of the next requests of a COW device, of its checksums, or of an
 * origin.
 *
 * A flush that fails may take back what it should have made durable. Of what is written in
 * place, the origin and clones, nobody knows from then on what of the unflushed is there; while a
 * rollback writes the origin it has to know, and to write it again. Thread: one.
 */
#include "common/io/mem.h"
#include "tests/sim/volume/sim.h"

#include <errno.h>
#include <stdio.h>

enum { FAULTS_A_LIFE = 10 };

static struct node *node_of(struct subject *u, const struct uuid *id)
{
    for (unsigned i = 1; i < SIM_NODES; i++)
        if (uuid_equal(&u->nodes[i].id, id))
            return &u->nodes[i];
    return NULL;
}

static void fault_arm(struct sim *s, struct blk_dev *disk, enum blk_op op, unsigned n)
{
    enum mem_fault_kind kind =
        op != BLK_FLUSH && sim_pick(s, 4) == 0 ? MEM_FAULT_SHORT : MEM_FAULT_ERROR;
    s->faulty = true;
    s->faults_laid++;
    mem_dev_fault_at(disk, op, n, kind, EIO);
}

static void fault_lay_origin(struct sim *s, struct subject *u)
{
    char suffix[UUID_TEXT_BYTES + 8], id[UUID_TEXT_BYTES];
    enum blk_op op = sim_pick(s, 3) == 0 ? BLK_FLUSH : sim_pick(s, 2) == 0 ? BLK_READ : BLK_WRITE;
    (void)snprintf(suffix, sizeof suffix, "%s/origin", uuid_format(&u->id, id));
    if (op == BLK_FLUSH && u->rollback == ROLLBACK_ASKED)
        return;
    if (op == BLK_FLUSH && u->rollback == ROLLBACK_NONE)
        u->nodes[0].doubtful = true;
    if (op == BLK_FLUSH)
        u->flush_laid = true;
    sim_say(s, "fault %d of %s", (int)op, u->volume->record.name);
    fault_arm(s, world_file(s->world, suffix), op, op == BLK_FLUSH ? 1 : 1 + sim_pick(s, 2));
}

static bool rollback_is_under_way(const struct subject *u)
{
    return u->rollback == ROLLBACK_ON || u->rollback == ROLLBACK_BACK;
}

static struct snapshot *fault_pick(struct sim *s, struct subject *u)
{
    struct snapshot_list *lists[] = {&u->volume->chain, &u->volume->clones};
    struct snapshot *x, *found = NULL;
    unsigned n = 0;
    if (u->volume->job != NULL && sim_pick(s, 2) == 0) /* what is handed down, perhaps */
        return TAILQ_FIRST(&u->volume->hidden);
    for (unsigned i = 0; i < 2; i++)
        TAILQ_FOREACH (x, lists[i], link)
            if (sim_pick(s, ++n) == 0)
                found = x;
    return found;
}

/* One whose device fails while it is made stays there, not open; where the policy is to give up
 * what cannot be preserved for, the next write makes it invalid, and what reads through it. */
static void fault_in_making(struct subject *u, struct node *n)
{
    if (n->state != NODE_MAKING || !u->invalidates)
        return;
    n->fragile = true;
    for (unsigned i = 1; i < SIM_NODES && !n->clone; i++)
        u->nodes[i].fragile = u->nodes[i].fragile || u->nodes[i].state != NODE_NONE;
}

/* Of the checksums of a node; NULL: it has none. */
static struct blk_dev *fault_side(const struct sim *s, const struct snapshot *x)
{
    char suffix[UUID_TEXT_BYTES + 8], id[UUID_TEXT_BYTES];
    (void)snprintf(suffix, sizeof suffix, "%s.sum", uuid_format(&x->id, id));
    return world_file(s->world, suffix);
}

void fault_lay(struct sim *s, struct subject *u)
{
    static const enum blk_op ops[] = {BLK_READ, BLK_WRITE, BLK_FLUSH};
    bool origin = sim_pick(s, rollback_is_under_way(u) ? 2 : 5) == 0;
    struct snapshot *x = origin ? NULL : fault_pick(s, u);
    const struct record_snapshot *rs = x == NULL ? NULL : snapshot_record(x);
    struct blk_dev *disk = rs == NULL ? NULL : world_file(s->world, rs->cow_path);
    if (s->faults_laid >= FAULTS_A_LIFE * (s->life + 1))
        return;
    if (disk == NULL) {
        fault_lay_origin(s, u);
        return;
    }
    enum blk_op op = ops[sim_pick(s, 3)];
    struct node *n = node_of(u, &x->id);
    struct blk_dev *side = sim_pick(s, 3) == 0 ? fault_side(s, x) : NULL;
    disk = side != NULL ? side : disk;
    if (n != NULL)
        fault_in_making(u, n);
    if (n != NULL && n->clone) {
        n->doubtful = n->doubtful || op == BLK_FLUSH;
        n->smudged = true;
    }
    if (n != NULL && side != NULL)
        n->smudged = true;
    sim_say(s, "fault %d of %s@%s%s", (int)op, u->volume->record.name, rs->name,
            side != NULL ? ", its checksums" : "");
    fault_arm(s, disk, op, 1 + sim_pick(s, 3));
}
