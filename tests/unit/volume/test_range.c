/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges under way: who waits for whom, and in what order they go on. */
#include "common/base/bytes.h"
#include "common/base/rng.h"
#include "daemon/volume/range.h"
#include "tests/lib/cm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char order[64]; /* the names of those that were granted */

static void granted(struct range *r)
{
    (void)strncat(order, r->user, sizeof order - strlen(order) - 1);
}

static struct range range(const char *name, uint64_t first, uint64_t last, bool shared)
{
    union {
        const char *in;
        void *out;
    } user = {.in = name};
    return (struct range){
        .first = first, .last = last, .shared = shared, .granted = granted, .user = user.out};
}

static void take__apart_go_beside_each_other(void **state)
{
    (void)state;
    struct range_lock l;
    struct range a = range("a", 0, 3, false), b = range("b", 4, 4, false);
    order[0] = '\0';
    range_lock_init(&l);
    range_take(&l, &a);
    range_take(&l, &b);
    assert_string_equal(order, "ab");
    range_give(&l, &a);
    range_give(&l, &b);
    range_lock_done(&l);
}

static void take__overlapping_wait_in_the_order_they_came(void **state)
{
    (void)state;
    struct range_lock l;
    struct range a = range("a", 0, 9, false), b = range("b", 5, 20, false),
                 c = range("c", 15, 30, false), d = range("d", 30, 40, true);
    order[0] = '\0';
    range_lock_init(&l);
    range_take(&l, &a);
    range_take(&l, &b);
    range_take(&l, &c); /* not beside b, which came before it and waits */
    range_take(&l, &d);
    assert_string_equal(order, "a");
    range_give(&l, &a);
    assert_string_equal(order, "ab");
    range_give(&l, &b);
    assert_string_equal(order, "abc");
    range_give(&l, &c);
    assert_string_equal(order, "abcd");
    range_give(&l, &d);
    range_lock_done(&l);
}

static void take__shared_go_together_and_a_writer_is_not_starved(void **state)
{
    (void)state;
    struct range_lock l;
    struct range a = range("a", 0, 9, true), b = range("b", 0, 9, true),
                 w = range("w", 3, 3, false), c = range("c", 0, 9, true);
    order[0] = '\0';
    range_lock_init(&l);
    range_take(&l, &a);
    range_take(&l, &b);
    range_take(&l, &w);
    range_take(&l, &c);
    assert_string_equal(order, "ab");
    range_give(&l, &a);
    range_give(&l, &b);
    assert_string_equal(order, "abw");
    range_give(&l, &w);
    assert_string_equal(order, "abwc");
    range_give(&l, &c);
    range_lock_done(&l);
}

static void give__one_that_waits_leaves_the_queue(void **state)
{
    (void)state;
    struct range_lock l;
    struct range a = range("a", 0, 0, true), w = range("w", 0, 5, false),
                 b = range("b", 5, 5, false);
    order[0] = '\0';
    range_lock_init(&l);
    range_take(&l, &a);
    range_take(&l, &w);
    range_take(&l, &b);
    assert_string_equal(order, "a");
    range_give(&l, &w);
    assert_string_equal(order, "ab");
    range_give(&l, &a);
    range_give(&l, &b);
    range_lock_done(&l);
}

/* -- against a simple rule ------------------------------------------------------------------ */

enum { MANY = 64, STEPS = 20000, PLACES = 32 };

struct many {
    struct range_lock lock;
    struct range ranges[MANY];
    bool in[MANY];
};

static void many_granted(struct range *r)
{
    const struct many *m = r->user;
    for (unsigned i = 0; i < MANY; i++) {
        const struct range *o = &m->ranges[i];
        bool apart = o->last < r->first || r->last < o->first;
        if (o != r && m->in[i] && o->held && !apart && !(o->shared && r->shared))
            fail_msg("two that exclude each other are held");
    }
}

static void random__nobody_beside_whom_he_excludes_and_all_get_their_turn(void **state)
{
    (void)state;
    const char *text = getenv("SEED");
    uint64_t seed = text != NULL ? strtoull(text, NULL, 0) : 1;
    struct rng rng;
    static struct many m;
    rng_init(&rng, seed);
    printf("SEED=%llu\n", (unsigned long long)seed);
    range_lock_init(&m.lock);
    unsigned held_ever = 0, taken = 0;
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned i = (unsigned)rng_below(&rng, MANY);
        struct range *r = &m.ranges[i];
        if (m.in[i]) {
            held_ever += r->held ? 1 : 0;
            m.in[i] = false;
            range_give(&m.lock, r);
            continue;
        }
        /* of equal remainders too, and now and then wide ones */
        uint64_t first = rng_below(&rng, PLACES) + rng_below(&rng, 2) * RANGE_SLOTS;
        bool wide = step / 1000 % 2 == 1 && rng_below(&rng, 8) == 0;
        *r = (struct range){.first = first,
                            .last = first + rng_below(&rng, wide ? 4 * RANGE_NARROW : RANGE_NARROW),
                            .shared = rng_below(&rng, 3) == 0,
                            .granted = many_granted,
                            .user = &m};
        m.in[i] = true;
        taken++;
        range_take(&m.lock, r);
    }
    for (unsigned again = 0; again < MANY; again++)
        for (unsigned i = 0; i < MANY; i++)
            if (m.in[i] && m.ranges[i].held) {
                m.in[i] = false;
                range_give(&m.lock, &m.ranges[i]);
            }
    range_lock_done(&m.lock);
    assert_true(held_ever > taken / 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(take__apart_go_beside_each_other),
        cmocka_unit_test(take__overlapping_wait_in_the_order_they_came),
        cmocka_unit_test(take__shared_go_together_and_a_writer_is_not_starved),
        cmocka_unit_test(give__one_that_waits_leaves_the_queue),
        cmocka_unit_test(random__nobody_beside_whom_he_excludes_and_all_get_their_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
