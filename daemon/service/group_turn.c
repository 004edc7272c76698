/* SPDX-License-Identifier: Apache-2.0 */
/* Whose turn it is: a list of all that are under way or wait, oldest first; of each uuid the first
 * has its turn. It must not know how a group is made. Thread: any; one lock.
 */
#include "daemon/service/group_turn.h"

#include "common/base/bytes.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct group_turns {
    pthread_mutex_t lock;
    TAILQ_HEAD(, group_turn) list;
};

struct group_turns *group_turns_new(void)
{
    struct group_turns *turns = calloc(1, sizeof *turns);
    if (turns == NULL)
        return NULL;
    pthread_mutex_init(&turns->lock, NULL);
    TAILQ_INIT(&turns->list);
    return turns;
}

void group_turns_free(struct group_turns *turns)
{
    if (turns == NULL)
        return;
    pthread_mutex_destroy(&turns->lock);
    free(turns);
}

static bool turn_is_same(const struct group_turn *a, const struct group_turn *b)
{
    return a->count == b->count && memcmp(a->pairs, b->pairs, a->count * sizeof *a->pairs) == 0;
}

static void turn_run(struct loop_msg *msg)
{
    struct group_turn *t = CONTAINER_OF(msg, struct group_turn, msg);
    t->go(t);
}

void group_turn_begin(struct group_turns *turns, struct group_turn *t)
{
    const struct group_turn *other;
    bool waits = false;
    t->taken = false;
    t->msg.fn = turn_run;
    pthread_mutex_lock(&turns->lock);
    TAILQ_FOREACH (other, &turns->list, link)
        waits = waits || uuid_equal(&other->id, &t->id);
    TAILQ_INSERT_TAIL(&turns->list, t, link);
    pthread_mutex_unlock(&turns->lock);
    if (!waits)
        t->go(t);
}

void group_turn_end(struct group_turns *turns, struct group_turn *t, bool made)
{
    struct group_turn *other, *next = NULL;
    pthread_mutex_lock(&turns->lock);
    TAILQ_REMOVE(&turns->list, t, link);
    TAILQ_FOREACH (other, &turns->list, link) {
        if (!uuid_equal(&other->id, &t->id))
            continue;
        other->taken = other->taken || (made && !turn_is_same(other, t));
        next = next == NULL ? other : next;
    }
    if (next != NULL)
        shard_post(next->shard, &next->msg); /* under the lock: it is there until it has run */
    pthread_mutex_unlock(&turns->lock);
}
