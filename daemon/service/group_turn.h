/* SPDX-License-Identifier: Apache-2.0 */
/* Creations of groups of one uuid that are asked for at once: one after another.
 *
 * The first has its turn, the next waits for its end. When that one was made, and of the same
 * snapshots, the next goes on and finds them all there: it is the same request, sent again. Of
 * others, it is told that the uuid is taken. When it was not made, the next tries.
 * Thread: any; one lock.
 */
#ifndef SNAP_SERVICE_GROUP_TURN_H
#define SNAP_SERVICE_GROUP_TURN_H

#include "common/base/uuid.h"
#include "daemon/shard/shard.h"

#include <stdbool.h>
#include <sys/queue.h>

struct group_turns;

/* What is to be made of a volume. */
struct group_pair {
    struct uuid volume, snapshot;
};

struct group_turn {
    struct uuid id;
    const struct group_pair *pairs; /* by volume */
    unsigned count;
    struct shard *shard;
    void (*go)(struct group_turn *t);
    bool taken; /* a group of that uuid and of other pairs has been made meanwhile */
    /* group_turn.c's own */
    struct loop_msg msg;
    TAILQ_ENTRY(group_turn) link;
};

struct group_turns *group_turns_new(void); /* NULL: no memory */
void group_turns_free(struct group_turns *turns);

/* Calls t->go when its turn has come, on its shard; inside this call if nobody is before it.
 * Owns: borrows t until group_turn_end(). */
void group_turn_begin(struct group_turns *turns, struct group_turn *t);
/* made: the group is there for good, and nothing of it is to be done any more. */
void group_turn_end(struct group_turns *turns, struct group_turn *t, bool made);

#endif
