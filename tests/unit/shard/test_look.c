/* SPDX-License-Identifier: Apache-2.0 */
/* Looking before sleeping: when, how long, and when no more. */
#include "tests/lib/cm.h"

#include "daemon/shard/look.h"

struct disk {
    struct clock clock;
    uint64_t now_ns;
    uint64_t away_ns;         /* how much longer each giving way is */
    unsigned looks, finds_at; /* the look that finds something; 0: none does */
};

/* each time it is asked for, 5 us have passed */
static uint64_t disk_now(void *user)
{
    struct disk *d = user;
    d->now_ns += 5000 + d->away_ns;
    return d->now_ns;
}

static unsigned disk_poll(void *user)
{
    struct disk *d = user;
    return ++d->looks == d->finds_at ? 1 : 0;
}

static bool look(struct shard_look *l, struct disk *d, unsigned inflight, unsigned finds_at)
{
    d->clock = (struct clock){.now_ns = disk_now, .user = d};
    d->looks = 0;
    d->finds_at = finds_at;
    return shard_look_before_sleep(l, &d->clock, inflight, disk_poll, d);
}

static void look__ends_with_what_it_finds_or_with_its_time(void **state)
{
    (void)state;
    struct disk d = {.now_ns = 0};
    struct shard_look l = {.longest_ns = 50000};
    assert_true(look(&l, &d, 1, 3));
    assert_int_equal(d.looks, 3);
    assert_false(look(&l, &d, 1, 0));
    assert_int_equal(d.looks, 10);
    assert_true(look(&l, &d, LOOK_REQUESTS_MAX, 10));
}

static void look__is_left_out_with_none_or_many_in_flight_or_no_time(void **state)
{
    (void)state;
    struct disk d = {.now_ns = 0};
    struct shard_look l = {.longest_ns = 50000}, never = {.longest_ns = 0};
    assert_false(look(&l, &d, 0, 1));
    assert_int_equal(d.looks, 0);
    assert_false(look(&l, &d, LOOK_REQUESTS_MAX + 1, 1));
    assert_int_equal(d.looks, 0);
    assert_false(look(&never, &d, 1, 1));
    assert_int_equal(d.looks, 0);
}

/* So many looks are left out, then there is one, which finds something or not. */
static void assert_rests(struct shard_look *l, struct disk *d, unsigned rest, bool finds)
{
    for (unsigned i = 0; i < rest; i++) {
        assert_false(look(l, d, 1, 1));
        assert_int_equal(d->looks, 0);
    }
    assert_int_equal(look(l, d, 1, finds ? 1 : 0), finds);
    assert_true(d->looks > 0);
}

static void look__rests_after_vain_ones_and_begins_again(void **state)
{
    (void)state;
    struct disk d = {.now_ns = 0};
    struct shard_look l = {.longest_ns = 50000};
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < LOOK_VAIN_MAX - 1; i++)
            assert_false(look(&l, &d, 1, 0));
        assert_true(look(&l, &d, 1, 1)); /* one that is not vain: they are no row */
        for (int i = 0; i < LOOK_VAIN_MAX; i++) {
            assert_false(look(&l, &d, 1, 0));
            assert_int_equal(d.looks, 10);
        }
        assert_rests(&l, &d, LOOK_REST_MIN, true);
    }
}

static void look__rests_while_others_compute_longer_each_time(void **state)
{
    (void)state;
    struct disk d = {.now_ns = 0, .away_ns = LOOK_AWAY_US * UINT64_C(1000)};
    struct shard_look l = {.longest_ns = 50000};
    assert_true(look(&l, &d, 1, 1)); /* it came meanwhile: still, that was long */
    for (unsigned rest = LOOK_REST_MIN; rest <= LOOK_REST_MAX; rest *= 2) {
        assert_int_equal(l.rest, rest);
        assert_rests(&l, &d, rest, true);
        assert_int_equal(d.looks, 1);
    }
    assert_int_equal(l.rest, LOOK_REST_MAX);
    d.away_ns = 0;
    assert_rests(&l, &d, LOOK_REST_MAX, true);
    assert_int_equal(l.rest, 0);
    d.away_ns = LOOK_AWAY_US * UINT64_C(1000);
    assert_false(look(&l, &d, 1, 0));
    assert_int_equal(l.rest, LOOK_REST_MIN);
}

/* A kernel's worker, a client that encrypts: soon over. */
static void look__goes_on_when_others_are_done_soon(void **state)
{
    (void)state;
    struct disk d = {.now_ns = 0, .away_ns = (LOOK_AWAY_US - 10) * UINT64_C(1000)};
    struct shard_look l = {.longest_ns = 50000};
    for (int i = 0; i < 100; i++) {
        assert_true(look(&l, &d, 1, 1));
        assert_int_equal(l.rest, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(look__ends_with_what_it_finds_or_with_its_time),
        cmocka_unit_test(look__is_left_out_with_none_or_many_in_flight_or_no_time),
        cmocka_unit_test(look__rests_after_vain_ones_and_begins_again),
        cmocka_unit_test(look__rests_while_others_compute_longer_each_time),
        cmocka_unit_test(look__goes_on_when_others_are_done_soon),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
