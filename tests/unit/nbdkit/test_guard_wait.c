/* SPDX-License-Identifier: Apache-2.0 */
/* Writes that wait: who is woken by what, and that nobody is lost or left on the list. */
#include "client/nbdkit/guard.h"
#include "tests/lib/cm.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SLEEPERS = 8, CHUNKS_EACH = 10, CHUNKS = SLEEPERS * CHUNKS_EACH, ROUNDS = 200 };
#define NS_PER_MS UINT64_C(1000000)
#define LONG_NS (UINT64_C(60000) * NS_PER_MS)

uint64_t guard_now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

struct sleeper {
    struct guard *guard;
    pthread_t thread;
    uint64_t first, last, for_ns;
    atomic_bool awake;
};

static void *sleeper_main(void *arg)
{
    struct sleeper *s = arg;
    (void)pthread_mutex_lock(&s->guard->lock);
    guard_sleep(s->guard, s->first, s->last, guard_now_ns() + s->for_ns);
    (void)pthread_mutex_unlock(&s->guard->lock);
    atomic_store(&s->awake, true);
    return NULL;
}

static unsigned sleeping(struct guard *g)
{
    const struct guard_waiter *w;
    unsigned n = 0;
    (void)pthread_mutex_lock(&g->lock);
    TAILQ_FOREACH (w, &g->waiters, link) {
        n++;
    }
    (void)pthread_mutex_unlock(&g->lock);
    return n;
}

static void begin(struct guard *g, struct sleeper *all, uint64_t for_ns)
{
    const struct timespec moment = {.tv_nsec = 1000000};
    for (unsigned i = 0; i < SLEEPERS; i++) {
        all[i].guard = g;
        all[i].first = i * CHUNKS_EACH;
        all[i].last = all[i].first + CHUNKS_EACH - 1;
        all[i].for_ns = for_ns;
        atomic_store(&all[i].awake, false);
        assert_int_equal(pthread_create(&all[i].thread, NULL, sleeper_main, &all[i]), 0);
    }
    while (for_ns == LONG_NS && sleeping(g) < SLEEPERS)
        (void)nanosleep(&moment, NULL);
}

static void set(struct guard *g, struct guard_map *m, uint64_t first, uint64_t last, bool value)
{
    (void)pthread_mutex_lock(&g->lock);
    guard_map_set(m, first, last - first + 1, value);
    (void)pthread_mutex_unlock(&g->lock);
}

/* Copies of these chunks have ended. */
static void end_copies(struct guard *g, uint64_t first, uint64_t last, bool kept)
{
    struct bell_ring ring = {0};
    (void)pthread_mutex_lock(&g->lock);
    guard_map_set(&g->claimed, first, last - first + 1, false);
    if (kept)
        guard_map_set(&g->kept, first, last - first + 1, true);
    guard_take_waiters(g, &ring);
    (void)pthread_mutex_unlock(&g->lock);
    bell_ring(&ring);
}

static void wake_all(struct guard *g)
{
    (void)pthread_mutex_lock(&g->lock);
    guard_broadcast(g);
}
static void end(struct sleeper *all)
{
    for (unsigned i = 0; i < SLEEPERS; i++)
        assert_int_equal(pthread_join(all[i].thread, NULL), 0);
}

static void wait__whose_chunks_are_all_kept_is_woken(void **state)
{
    struct guard *g = *state;
    struct sleeper all[SLEEPERS];
    set(g, &g->claimed, 0, CHUNKS - 1, true);
    begin(g, all, LONG_NS);
    end_copies(g, 2 * CHUNKS_EACH + 3, 3 * CHUNKS_EACH, true); /* of the third and the fourth */
    assert_int_equal(sleeping(g), SLEEPERS);
    end_copies(g, 2 * CHUNKS_EACH, 2 * CHUNKS_EACH + 2, true); /* the rest of the third */
    assert_int_equal(pthread_join(all[2].thread, NULL), 0);
    for (unsigned i = 0; i < SLEEPERS; i++)
        assert_int_equal(atomic_load(&all[i].awake), i == 2);
    assert_int_equal(sleeping(g), SLEEPERS - 1);
    wake_all(g);
    for (unsigned i = 0; i < SLEEPERS; i++)
        if (i != 2)
            assert_int_equal(pthread_join(all[i].thread, NULL), 0);
    assert_int_equal(sleeping(g), 0);
}

static void wait__one_failed_chunk_wakes(void **state)
{
    struct guard *g = *state;
    struct sleeper all[SLEEPERS];
    set(g, &g->claimed, 0, CHUNKS - 1, true);
    begin(g, all, LONG_NS);
    end_copies(g, CHUNKS_EACH + 5, CHUNKS_EACH + 5, false);
    assert_int_equal(pthread_join(all[1].thread, NULL), 0);
    assert_int_equal(sleeping(g), SLEEPERS - 1);
    wake_all(g);
    for (unsigned i = 0; i < SLEEPERS; i++)
        if (i != 1)
            assert_int_equal(pthread_join(all[i].thread, NULL), 0);
}

/* One waits for memory, one for no chunk at all, one for chunks of a map that is no more. */
static void wait__any_copys_end_wakes_who_wants_any(void **state)
{
    struct guard *g = *state;
    struct sleeper all[SLEEPERS];
    set(g, &g->claimed, 0, CHUNKS - 1, true);
    begin(g, all, LONG_NS);
    (void)pthread_mutex_lock(&g->lock);
    struct guard_waiter *w = TAILQ_FIRST(&g->waiters);
    w->first = 0;
    w->last = UINT64_MAX;
    w = TAILQ_NEXT(w, link);
    w->first = UINT64_MAX;
    w->last = 0;
    w = TAILQ_NEXT(w, link);
    w->first = w->last = UINT64_C(1000) * CHUNKS;
    (void)pthread_mutex_unlock(&g->lock);
    end_copies(g, CHUNKS - 1, CHUNKS - 1, true);
    assert_int_equal(sleeping(g), SLEEPERS - 2);
    end_copies(g, 0, CHUNKS - 2, true);
    assert_int_equal(sleeping(g), 1);
    wake_all(g);
    end(all);
    assert_int_equal(sleeping(g), 0);
}

static void wait__whose_time_is_over_leaves_the_list(void **state)
{
    struct guard *g = *state;
    struct sleeper all[SLEEPERS];
    begin(g, all, NS_PER_MS);
    end(all);
    assert_int_equal(sleeping(g), 0);
}

/* Woken and out of time at once. */
static void wait__time_over_while_being_woken(void **state)
{
    struct guard *g = *state;
    struct sleeper all[SLEEPERS];
    for (unsigned round = 0; round < ROUNDS; round++) {
        set(g, &g->kept, 0, CHUNKS - 1, false);
        set(g, &g->claimed, 0, CHUNKS - 1, true);
        begin(g, all, round * NS_PER_MS / ROUNDS);
        end_copies(g, 0, CHUNKS / 2, true);
        wake_all(g);
        end(all);
        assert_int_equal(sleeping(g), 0);
    }
}

static int setup(void **state)
{
    struct guard *g = calloc(1, sizeof *g);
    if (!g)
        return -1;
    (void)pthread_mutex_init(&g->lock, NULL);
    guard_init_lists(g);
    *state = g;
    return guard_map_init(&g->kept, CHUNKS, NULL) + guard_map_init(&g->claimed, CHUNKS, NULL);
}

static int teardown(void **state)
{
    struct guard *g = *state;
    guard_map_done(&g->kept);
    guard_map_done(&g->claimed);
    free(g);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(wait__whose_chunks_are_all_kept_is_woken, setup, teardown),
        cmocka_unit_test_setup_teardown(wait__one_failed_chunk_wakes, setup, teardown),
        cmocka_unit_test_setup_teardown(wait__any_copys_end_wakes_who_wants_any, setup, teardown),
        cmocka_unit_test_setup_teardown(wait__whose_time_is_over_leaves_the_list, setup, teardown),
        cmocka_unit_test_setup_teardown(wait__time_over_while_being_woken, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
