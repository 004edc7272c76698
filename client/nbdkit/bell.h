/* SPDX-License-Identifier: Apache-2.0 */
/* Waking many threads with one system call.
 *
 * Semaphores are raised one by one, and who is woken first takes the processor from the waker
 * before he comes to the second: a thread that tells 20 others is then interrupted up to 20 times.
 * Here it marks those whom it wakes and rings once.
 *
 *   waiter                          waker
 *   bell_wait_init()
 *   … is made known to the waker    bell_mark() each    the waiter may be gone from here on
 *   bell_sleep()  <──────────────── bell_ring()
 *
 * Thread: any. All zeros is a ring that nobody hears. */
#ifndef SNAP_NBDKIT_BELL_H
#define SNAP_NBDKIT_BELL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { BELL_WORDS = 4 };

/* On the stack of who waits. */
struct bell_wait {
    unsigned seat;
    atomic_bool marked;
};

/* Whom one ring wakes. */
struct bell_ring {
    uint32_t seats[BELL_WORDS];
};

void bell_wait_init(struct bell_wait *wait);
/* Has it been marked? */
bool bell_is_marked(const struct bell_wait *wait);
/* Until it is marked, or that time by CLOCK_MONOTONIC; 0: without end. As bell_is_marked(). */
bool bell_sleep(const struct bell_wait *wait, uint64_t until_ns);
/* What was written before is seen by who waits. */
void bell_mark(struct bell_ring *ring, struct bell_wait *wait);
void bell_ring(const struct bell_ring *ring);

#endif
