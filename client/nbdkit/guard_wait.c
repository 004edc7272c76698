/* SPDX-License-Identifier: Apache-2.0 */
/* Writes that wait: each has a semaphore of its own, and is woken only by what may matter to it.
 *
 *   asleep ──its chunks are kept, or all are to look──> taken from the list ──> woken
 *      └──────── its time is over ──> takes itself from the list
 *
 * Who wakes takes waiters from the list with the lock and wakes them without: else each would
 * run into the lock at once. A waiter that was taken waits for its semaphore, whatever the time:
 * until then it is the waker's.
 *
 * Must not know what is waited for. Thread: any.
 */
#include "client/nbdkit/guard.h"

#include "common/base/check.h"

#include <errno.h>
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#endif
#include <time.h>

static void waiter_take(struct guard *g, struct guard_waiter *w, struct guard_waiters *to)
{
    TAILQ_REMOVE(&g->waiters, w, link);
    TAILQ_INSERT_TAIL(to, w, link);
    w->listed = false;
}

void guard_take_waiters(struct guard *g, uint64_t first, uint64_t last, struct guard_waiters *to)
{
    struct guard_waiter *w, *next;
    for (w = TAILQ_FIRST(&g->waiters); w; w = next) {
        next = TAILQ_NEXT(w, link);
        if (w->first <= last && first <= w->last)
            waiter_take(g, w, to);
    }
}

void guard_wake(struct guard_waiters *woken)
{
    struct guard_waiter *w, *next;
    for (w = TAILQ_FIRST(woken); w; w = next) { /* it is gone when its semaphore is up */
        next = TAILQ_NEXT(w, link);
        CHECK(sem_post(&w->woken) == 0);
    }
}

void guard_broadcast(struct guard *g)
{
    struct guard_waiters woken = TAILQ_HEAD_INITIALIZER(woken);
    while (!TAILQ_EMPTY(&g->waiters))
        waiter_take(g, TAILQ_FIRST(&g->waiters), &woken);
    (void)pthread_mutex_unlock(&g->lock);
    guard_wake(&woken);
}

static bool waiter_sleep(struct guard_waiter *w, uint64_t until_ns)
{
    const struct timespec t = {.tv_sec = (time_t)(until_ns / UINT64_C(1000000000)),
                               .tv_nsec = (long)(until_ns % UINT64_C(1000000000))};
    int rc;
    do
        rc = sem_clockwait(&w->woken, CLOCK_MONOTONIC, &t);
    while (rc != 0 && errno == EINTR);
#ifdef __SANITIZE_THREAD__ /* which does not know sem_clockwait() */
    if (rc == 0)
        __tsan_acquire(&w->woken);
#endif
    return rc == 0;
}

void guard_sleep(struct guard *g, uint64_t first, uint64_t last, uint64_t until_ns)
{
    struct guard_waiter w = {.first = first, .last = last, .listed = true};
    CHECK(sem_init(&w.woken, 0, 0) == 0);
    TAILQ_INSERT_TAIL(&g->waiters, &w, link);
    (void)pthread_mutex_unlock(&g->lock);
    bool woken = waiter_sleep(&w, until_ns);
    (void)pthread_mutex_lock(&g->lock);
    if (w.listed) {
        TAILQ_REMOVE(&g->waiters, &w, link);
    } else if (!woken) {
        (void)pthread_mutex_unlock(&g->lock);
        while (sem_wait(&w.woken) != 0)
            ; /* a signal */
        (void)pthread_mutex_lock(&g->lock);
    }
    CHECK(sem_destroy(&w.woken) == 0);
}
