/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of writes that are put together, once the old content that each of them needs is read.
 *
 * Reads that begin in one turn of the loop are put in one turn too, when the last of them has
 * ended: so a burst of writes costs one commit of the snapshot and not one each. Where a burst
 * trickles in, what its first turn read waits for a later turn's reads if those are many more:
 * put alone, the few would begin a commit that the many have to wait for. A long burst is taken
 * in by turns of BATCH_CROWD writes, so that the disk reads for some while the next are received.
 *
 *   turn 1   join join ── the turn ends ──(read, read: all ended)──> put, put
 *   turn 2        join join join join …       └─ many more there: handed over to that batch
 *
 * It must not know what is read, nor into what it is put. Thread: the shard's.
 */
#include "daemon/volume/write_priv.h"

#include <stdlib.h>

enum {
    /* so many more than its own a batch waits for: each wait makes it as much larger */
    BATCH_GROWTH = 2,
    /* of reads, and one for the turn, before the disk is told of them: the processor takes as long
     * to receive so many writes as the disk to read for them, and what ended meanwhile is seen to
     * in between */
    BATCH_CROWD = 8,
};

/* Reads that began in the same turn, and what waits for them. */
struct write_batch {
    struct origin *origin;
    unsigned reading; /* and one for the turn */
    unsigned count;   /* parts, read or being read */
    STAILQ_HEAD(, write_part) parts;
    struct shard_kick kick;
    TAILQ_ENTRY(write_batch) link;
};

/* A later one that is worth waiting for. NULL: none. */
static struct write_batch *batch_larger(const struct write_batch *b)
{
    struct write_batch *later = TAILQ_NEXT(b, link);
    while (later != NULL && later->count < b->count * BATCH_GROWTH)
        later = TAILQ_NEXT(later, link);
    return later;
}

static void batch_ended_one(struct write_batch *b)
{
    struct write_part *p;
    if (--b->reading > 0)
        return;
    struct write_batch *later = batch_larger(b);
    TAILQ_REMOVE(&b->origin->batches, b, link);
    if (later != NULL) {
        later->count += b->count;
        STAILQ_CONCAT(&b->parts, &later->parts);
        STAILQ_CONCAT(&later->parts, &b->parts); /* first those that came first */
    }
    while ((p = STAILQ_FIRST(&b->parts)) != NULL) {
        STAILQ_REMOVE_HEAD(&b->parts, batch_link);
        write_keep_put(p);
    }
    free(b);
}

static void batch_turn_ends(void *user)
{
    struct write_batch *b = user;
    b->origin->batch = NULL;
    batch_ended_one(b);
}

void write_batch_join(struct write_part *p)
{
    struct volume *v = p->volume;
    struct origin *o = v->origin;
    if (o->batch == NULL) {
        o->batch = calloc(1, sizeof *o->batch);
        if (o->batch == NULL)
            return;
        *o->batch = (struct write_batch){
            .origin = o, .reading = 1, .kick = {.fn = batch_turn_ends, .user = o->batch}};
        STAILQ_INIT(&o->batch->parts);
        TAILQ_INSERT_TAIL(&o->batches, o->batch, link);
        shard_kick_later(v->set->shard, &o->batch->kick);
    }
    o->batch->reading++;
    o->batch->count++;
    p->batch = o->batch;
}

void write_batch_read(struct write_part *p)
{
    struct write_batch *b = p->batch;
    p->batch = NULL;
    if (b == NULL) {
        write_keep_put(p);
        return;
    }
    STAILQ_INSERT_TAIL(&b->parts, p, batch_link);
    batch_ended_one(b);
}

void write_batch_leave(struct write_batch *b)
{
    if (b == NULL)
        return;
    b->count--;
    batch_ended_one(b);
}

bool volume_write_crowd(const struct volume *v)
{
    const struct write_batch *b = v->origin != NULL ? v->origin->batch : NULL;
    return b != NULL && b->reading >= BATCH_CROWD;
}
