/* SPDX-License-Identifier: Apache-2.0 */
/* Writes that wait: each is woken once, when it can go on.
 *
 *   asleep ──its chunks are all kept, one has failed,
 *      │     or all are to look ──> taken from the list, marked ──> rung for
 *      └──────── its time is over ──> takes itself from the list
 *
 * Who wakes marks waiters with the lock and rings without, once for all: else each would run into
 * the lock at once. Who was marked is off the list; it may be gone before the bell rings.
 *
 * Must not know what is waited for. Thread: any.
 */
#include "client/nbdkit/guard.h"

static void waiter_take(struct guard *g, struct guard_waiter *w, struct bell_ring *ring)
{
    TAILQ_REMOVE(&g->waiters, w, link);
    bell_mark(ring, &w->wait);
}

static bool waiter_waits_on(const struct guard *g, const struct guard_waiter *w)
{
    return w->first > w->last || guard_map_pends(&g->kept, &g->claimed, w->first, w->last);
}

void guard_take_waiters(struct guard *g, struct bell_ring *ring)
{
    struct guard_waiter *w, *next;
    for (w = TAILQ_FIRST(&g->waiters); w; w = next) {
        next = TAILQ_NEXT(w, link);
        if (!waiter_waits_on(g, w))
            waiter_take(g, w, ring);
    }
}

void guard_broadcast(struct guard *g)
{
    struct bell_ring ring = {0};
    while (!TAILQ_EMPTY(&g->waiters))
        waiter_take(g, TAILQ_FIRST(&g->waiters), &ring);
    (void)pthread_mutex_unlock(&g->lock);
    bell_ring(&ring);
}

void guard_sleep(struct guard *g, uint64_t first, uint64_t last, uint64_t until_ns)
{
    struct guard_waiter w = {.first = first, .last = last};
    bell_wait_init(&w.wait);
    TAILQ_INSERT_TAIL(&g->waiters, &w, link);
    (void)pthread_mutex_unlock(&g->lock);
    (void)bell_sleep(&w.wait, until_ns);
    (void)pthread_mutex_lock(&g->lock);
    if (!bell_is_marked(&w.wait))
        TAILQ_REMOVE(&g->waiters, &w, link);
}
