/* SPDX-License-Identifier: Apache-2.0 */
/* A futex wakes only those of its waiters whose bits the waker names. So each thread has a seat, a
 * bit of one of the bell's words, and a ring is one system call for each word with somebody marked.
 *
 * A word counts rings: who has looked at his mark and not slept yet finds it changed and looks
 * again. Threads may share a seat (there are more threads than seats, or some have ended); then
 * one of them wakes for nothing now and then, and sleeps on.
 *
 * There is one bell for the whole program: it is there when the one who was marked is gone, and
 * when what he waited for is.
 *
 * Must not know what is waited for. Thread: any.
 */
#include "client/nbdkit/bell.h"

#include "common/base/check.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { WORD_BITS = 32, SEATS = BELL_WORDS * WORD_BITS };
#define NS_PER_S UINT64_C(1000000000)

static _Atomic uint32_t rung[BELL_WORDS]; /* how often, by seats */

/* Neighbours in time have seats of their own. */
static unsigned my_seat(void)
{
    static atomic_uint given;
    static _Thread_local unsigned mine; /* from 1 on; 0: none yet */
    if (mine == 0)
        mine = atomic_fetch_add(&given, 1) % SEATS + 1;
    return mine - 1;
}

void bell_wait_init(struct bell_wait *wait)
{
    wait->seat = my_seat();
    atomic_init(&wait->marked, false);
}

bool bell_is_marked(const struct bell_wait *wait)
{
    return atomic_load(&wait->marked);
}

static long futex(_Atomic uint32_t *word, int op, uint32_t value, const struct timespec *until,
                  uint32_t bits)
{
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, until, NULL, bits);
}

bool bell_sleep(const struct bell_wait *wait, uint64_t until_ns)
{
    const struct timespec t = {.tv_sec = (time_t)(until_ns / NS_PER_S),
                               .tv_nsec = (long)(until_ns % NS_PER_S)};
    _Atomic uint32_t *word = &rung[wait->seat / WORD_BITS];
    const uint32_t bit = UINT32_C(1) << wait->seat % WORD_BITS;
    for (;;) {
        const uint32_t before = atomic_load(word);
        if (bell_is_marked(wait))
            return true;
        if (futex(word, FUTEX_WAIT_BITSET, before, until_ns > 0 ? &t : NULL, bit) == 0)
            continue;
        if (errno == ETIMEDOUT)
            return bell_is_marked(wait);
        CHECK(errno == EAGAIN || errno == EINTR); /* rung meanwhile, or a signal */
    }
}

void bell_mark(struct bell_ring *ring, struct bell_wait *wait)
{
    ring->seats[wait->seat / WORD_BITS] |= UINT32_C(1) << wait->seat % WORD_BITS;
    atomic_store(&wait->marked, true);
}

void bell_ring(const struct bell_ring *ring)
{
    for (unsigned i = 0; i < BELL_WORDS; i++) {
        if (ring->seats[i] == 0)
            continue;
        (void)atomic_fetch_add(&rung[i], 1);
        CHECK(futex(&rung[i], FUTEX_WAKE_BITSET, INT_MAX, NULL, ring->seats[i]) >= 0);
    }
}
