/* SPDX-License-Identifier: Apache-2.0 */
/* Looking before sleeping: when, how long, and when no more. */
#include "tests/lib/cm.h"

#include "daemon/shard/look.h"

struct disk {
    struct clock clock;
    uint64_t now_ns;
    unsigned looks, finds_at; /* the look that finds something; 0: none does */
};

static uint64_t disk_now(void *user)
{
    return ((const struct disk *)user)->now_ns;
}

/* each look takes 10 us */
static unsigned disk_poll(void *user)
{
    struct disk *d = user;
    d->now_ns += 10000;
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
    assert_int_equal(d.looks, 5);
    assert_true(look(&l, &d, LOOK_REQUESTS_MAX, 5));
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
            assert_int_equal(d.looks, 5);
        }
        for (int i = 0; i < LOOK_REST; i++) {
            assert_false(look(&l, &d, 1, 1));
            assert_int_equal(d.looks, 0);
        }
        assert_true(look(&l, &d, 1, 1));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(look__ends_with_what_it_finds_or_with_its_time),
        cmocka_unit_test(look__is_left_out_with_none_or_many_in_flight_or_no_time),
        cmocka_unit_test(look__rests_after_vain_ones_and_begins_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
