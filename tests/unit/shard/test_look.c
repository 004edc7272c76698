/* SPDX-License-Identifier: Apache-2.0 */
/* Looking before sleeping: when, how long, and when no more. */
#include "tests/lib/cm.h"

#include "daemon/shard/look.h"

/* in 50 us, when asking for the time takes 5: a slice asks once more than it looks */
enum { LOOKS_IN_50_US = 8 };

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

static enum shard_look_result slice(struct shard_look *l, struct disk *d, unsigned inflight)
{
    d->clock = (struct clock){.now_ns = disk_now, .user = d};
    return shard_look_before_sleep(l, &d->clock, inflight, disk_poll, d);
}

/* All slices of a look. */
static bool look(struct shard_look *l, struct disk *d, unsigned inflight, unsigned finds_at)
{
    enum shard_look_result r;
    d->looks = 0;
    d->finds_at = finds_at;
    do {
        r = slice(l, d, inflight);
    } while (r == LOOK_AGAIN);
    return r == LOOK_FOUND;
}

static void look__ends_with_what_it_finds_or_with_its_time(void **state)
{
    (void)state;
    struct disk d = {.now_ns = 0};
    struct shard_look l = {.longest_ns = 50000};
    assert_true(look(&l, &d, 1, 3));
    assert_int_equal(d.looks, 3);
    assert_false(look(&l, &d, 1, 0));
    assert_int_equal(d.looks, LOOKS_IN_50_US);
    assert_true(look(&l, &d, LOOK_REQUESTS_MAX, LOOKS_IN_50_US));
}

static void look__leaves_the_loop_a_turn_between_slices(void **state)
{
    (void)state;
    struct disk d = {.now_ns = 0};
    struct shard_look l = {.longest_ns = 50000};
    const unsigned in_slice = LOOK_SLICE_US / 5;
    for (unsigned i = 1; i <= 4; i++) {
        assert_int_equal(slice(&l, &d, 1), i < 4 ? LOOK_AGAIN : LOOK_SLEEP);
        assert_int_equal(d.looks, i * in_slice);
    }
    assert_int_equal(l.vain, 1);
}

/* What came meanwhile is worth as long a look as the first. */
static void look__begins_anew_when_the_number_in_flight_changes(void **state)
{
    (void)state;
    struct disk d = {.now_ns = 0};
    struct shard_look l = {.longest_ns = 50000};
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(slice(&l, &d, 1), LOOK_AGAIN);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(slice(&l, &d, 2), LOOK_AGAIN);
    assert_int_equal(slice(&l, &d, 2), LOOK_SLEEP);
    assert_int_equal(slice(&l, &d, LOOK_REQUESTS_MAX + 1), LOOK_SLEEP);
    assert_int_equal(l.vain, 1);
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
            assert_int_equal(d.looks, LOOKS_IN_50_US);
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
        cmocka_unit_test(look__leaves_the_loop_a_turn_between_slices),
        cmocka_unit_test(look__begins_anew_when_the_number_in_flight_changes),
        cmocka_unit_test(look__is_left_out_with_none_or_many_in_flight_or_no_time),
        cmocka_unit_test(look__rests_after_vain_ones_and_begins_again),
        cmocka_unit_test(look__rests_while_others_compute_longer_each_time),
        cmocka_unit_test(look__goes_on_when_others_are_done_soon),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
