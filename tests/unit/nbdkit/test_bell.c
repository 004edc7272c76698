/* SPDX-License-Identifier: Apache-2.0 */
/* The bell: who is marked wakes, who is not sleeps on, and nobody is lost however marking, ringing
 * and falling asleep meet; also when more threads wait than there are seats. The file is taken in
 * whole, with its system call replaced. */
#include "client/nbdkit/bell.h"
#include "tests/lib/cm.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct bell_wait *falls_asleep; /* to be rung for just before the system call; once */

static long call_futex(_Atomic uint32_t *word, int op, uint32_t value, const struct timespec *until,
                       uint32_t bits)
{
    struct bell_wait *wait = falls_asleep;
    struct bell_ring ring = {0};
    if (wait && (op & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET) {
        falls_asleep = NULL;
        bell_mark(&ring, wait);
        bell_ring(&ring);
    }
    return syscall(SYS_futex, word, op, value, until, NULL, bits);
}

#define syscall(number, word, op, value, until, none, bits) call_futex(word, op, value, until, bits)
#include "client/nbdkit/bell.c"
#undef syscall

enum { THREADS = 12, CROWD = 200, ROUNDS = 400 };
#define NS_PER_MS UINT64_C(1000000)

static uint64_t now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static void nap_ms(long ms)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

struct one {
    pthread_t thread;
    struct bell_wait *_Atomic wait; /* on the thread's stack, while it waits */
    unsigned payload;               /* written before it is marked */
    atomic_uint seen, woken;
    atomic_bool stop, over;
};

static void *one_main(void *arg)
{
    struct one *o = arg;
    while (!atomic_load(&o->stop)) {
        struct bell_wait wait;
        bell_wait_init(&wait);
        atomic_store(&o->wait, &wait);
        assert_true(bell_sleep(&wait, 0));
        memset(&wait, 0xff, sizeof wait); /* it is gone */
        atomic_store(&o->seen, o->payload);
        atomic_fetch_add(&o->woken, 1);
    }
    atomic_store(&o->over, true);
    return NULL;
}

static void start(struct one *all, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(pthread_create(&all[i].thread, NULL, one_main, &all[i]), 0);
    for (unsigned i = 0; i < count; i++)
        while (!atomic_load(&all[i].wait))
            (void)sched_yield();
}

/* Marks it when it waits. */
static bool mark(struct one *o, struct bell_ring *ring, unsigned payload)
{
    struct bell_wait *wait = atomic_exchange(&o->wait, NULL);
    if (!wait)
        return false;
    o->payload = payload;
    bell_mark(ring, wait);
    return true;
}

static void mark_surely(struct one *o, struct bell_ring *ring, unsigned payload)
{
    while (!mark(o, ring, payload))
        (void)sched_yield();
}

static void finish(struct one *all, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct bell_ring ring = {0};
        atomic_store(&all[i].stop, true);
        while (!atomic_load(&all[i].over) && !mark(&all[i], &ring, 0))
            (void)sched_yield();
        bell_ring(&ring);
        assert_int_equal(pthread_join(all[i].thread, NULL), 0);
    }
}

static void bell__wakes_whom_it_marks_and_no_other(void **state)
{
    static struct one all[THREADS];
    struct bell_ring ring = {0};
    (void)state;
    start(all, THREADS);
    mark_surely(&all[3], &ring, 33);
    mark_surely(&all[7], &ring, 77);
    nap_ms(20);
    bell_ring(&ring);
    while (atomic_load(&all[3].woken) == 0 || atomic_load(&all[7].woken) == 0)
        nap_ms(1);
    nap_ms(20);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(atomic_load(&all[i].woken), i == 3 || i == 7);
    assert_int_equal(atomic_load(&all[3].seen), 33);
    assert_int_equal(atomic_load(&all[7].seen), 77);
    finish(all, THREADS);
}

/* Wakers and waiters meet at every moment; a waiter that is lost hangs the test. */
static void bell__nobody_is_lost(void **state)
{
    static struct one all[CROWD]; /* more than there are seats */
    (void)state;
    start(all, CROWD);
    for (unsigned round = 1; round <= ROUNDS; round++) {
        struct bell_ring ring = {0};
        for (unsigned i = 0; i < CROWD; i++)
            if ((i + round) % 3 == 0)
                (void)mark(&all[i], &ring, round);
        bell_ring(&ring);
    }
    finish(all, CROWD);
    for (unsigned i = 0; i < CROWD; i++)
        assert_true(atomic_load(&all[i].woken) > 0);
}

/* Marked and rung for after its last look, before it sleeps. */
static void bell__who_is_falling_asleep_is_woken(void **state)
{
    struct bell_wait wait;
    const uint64_t begun = now_ns();
    (void)state;
    bell_wait_init(&wait);
    falls_asleep = &wait;
    assert_true(bell_sleep(&wait, begun + 5000 * NS_PER_MS));
    assert_true(now_ns() < begun + 2000 * NS_PER_MS);
    assert_null(falls_asleep);
}

static void bell__time_ends_the_wait(void **state)
{
    struct bell_wait wait;
    const uint64_t until = now_ns() + 20 * NS_PER_MS;
    (void)state;
    bell_wait_init(&wait);
    assert_false(bell_sleep(&wait, until));
    assert_true(now_ns() >= until);
    assert_false(bell_is_marked(&wait));
}

static void bell__who_is_marked_does_not_sleep(void **state)
{
    struct bell_wait wait;
    struct bell_ring ring = {0};
    (void)state;
    bell_wait_init(&wait);
    bell_mark(&ring, &wait);
    assert_true(bell_sleep(&wait, 0));
    assert_true(bell_sleep(&wait, 1)); /* a time long ago */
    bell_ring(&ring);
}

static void on_signal(int number)
{
    (void)number;
}

static void bell__a_signal_does_not_end_the_wait(void **state)
{
    static struct one one;
    const struct sigaction sa = {.sa_handler = on_signal};
    struct sigaction before;
    struct bell_ring ring = {0};
    (void)state;
    assert_int_equal(sigaction(SIGUSR1, &sa, &before), 0);
    start(&one, 1);
    for (unsigned i = 0; i < 20; i++) {
        nap_ms(1);
        assert_int_equal(pthread_kill(one.thread, SIGUSR1), 0);
    }
    assert_int_equal(atomic_load(&one.woken), 0);
    mark_surely(&one, &ring, 5);
    bell_ring(&ring);
    while (atomic_load(&one.woken) == 0)
        nap_ms(1);
    assert_int_equal(atomic_load(&one.seen), 5);
    finish(&one, 1);
    assert_int_equal(sigaction(SIGUSR1, &before, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bell__wakes_whom_it_marks_and_no_other),
        cmocka_unit_test(bell__nobody_is_lost),
        cmocka_unit_test(bell__who_is_falling_asleep_is_woken),
        cmocka_unit_test(bell__time_ends_the_wait),
        cmocka_unit_test(bell__who_is_marked_does_not_sleep),
        cmocka_unit_test(bell__a_signal_does_not_end_the_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
