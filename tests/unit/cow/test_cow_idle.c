/* SPDX-License-Identifier: Apache-2.0 */
/* Space written ahead while the store is idle: how much, when not, and that no put minds. */
#include "tests/unit/cow/store_fixture.h"

enum { STEP_BYTES = 512 * 1024 };

static struct fix idle_fix(uint64_t seed)
{
    struct fix f = fix_disk(seed, 4096, 0, 256 * MIB);

    fix_create(&f);
    fix_open(&f);
    return f;
}

/* Every step to its end. Returns how many there were. */
static unsigned idle_all(struct fix *f)
{
    unsigned steps = 0;

    while (cow_store_idle(f->store)) {
        fix_run(f);
        assert_true(++steps < 1000);
    }
    return steps;
}

static void idle__unused_store_costs_nothing(void **state)
{
    struct fix f = idle_fix(1);
    uint64_t size = blk_dev_info(f.dev)->size_bytes;

    (void)state;
    assert_false(cow_store_idle(f.store));
    assert_int_equal(blk_engine_inflight(f.engine), 0);
    assert_int_equal(blk_dev_info(f.dev)->size_bytes, size);
    fix_done(&f);
}

static void idle__window_goes_with_what_is_used(void **state)
{
    struct fix f = idle_fix(2);
    struct mem_counters a, b;
    uint64_t size;
    unsigned steps;

    (void)state;
    assert_int_equal(fix_put(&f, 0, 10, 1), 0);
    a = mem_dev_counters(f.dev);
    size = blk_dev_info(f.dev)->size_bytes;
    steps = idle_all(&f);
    b = mem_dev_counters(f.dev);
    assert_in_range(b.written_bytes - a.written_bytes, MIB / 2, MIB);
    assert_int_equal(b.flushes - a.flushes, steps); /* each step is durable by itself */
    assert_int_equal(b.grows, a.grows);
    assert_int_equal(blk_dev_info(f.dev)->size_bytes, size);
    assert_false(cow_store_idle(f.store)); /* full */

    assert_int_equal(fix_put(&f, 10, 1, 1), 0);
    assert_false(cow_store_idle(f.store)); /* more than half of it is left */

    assert_int_equal(fix_put(&f, 1000, 2000, 1), 0);
    a = mem_dev_counters(f.dev);
    steps = idle_all(&f);
    b = mem_dev_counters(f.dev);
    assert_in_range(b.written_bytes - a.written_bytes, 2 * MIB, 9 * MIB);
    assert_true(steps <= 9 * MIB / STEP_BYTES);
    fix_done(&f);
}

static void idle__fixed_device_and_busy_store_are_left_alone(void **state)
{
    struct fix f = fix_new(4096, 600);
    struct mem_counters a;
    struct put *p;

    (void)state;
    assert_int_equal(fix_put(&f, 0, 10, 1), 0);
    assert_false(cow_store_idle(f.store));
    fix_done(&f);

    f = idle_fix(3);
    assert_int_equal(fix_put(&f, 0, 10, 1), 0);
    p = put_send(&f, 20, 10, 1);
    a = mem_dev_counters(f.dev);
    assert_true(cow_store_idle(f.store)); /* later */
    assert_int_equal(mem_dev_counters(f.dev).written_bytes, a.written_bytes);
    fix_run(&f);
    assert_int_equal(p->code, 0);
    put_free(p);
    fix_done(&f);
}

static void idle__put_meanwhile_waits_and_is_not_overwritten(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 60; seed++) {
        struct fix f = idle_fix(seed);
        struct put *p;

        assert_int_equal(fix_put(&f, 0, 10, 1), 0);
        assert_true(cow_store_idle(f.store));
        p = put_send(&f, 100, 20, 2);
        fix_run(&f);
        assert_int_equal(p->ran, 1);
        assert_int_equal(p->code, 0);
        put_free(p);
        idle_all(&f);
        for (uint64_t old = 100; old < 120; old++)
            assert_true(fix_holds(&f, old, 2));
        fix_reopen(&f);
        for (uint64_t old = 0; old < 10; old++)
            assert_true(fix_holds(&f, old, 1));
        for (uint64_t old = 100; old < 120; old++)
            assert_true(fix_holds(&f, old, 2));
        fix_done(&f);
    }
}

static void idle__failed_zeros_harm_nobody_and_are_not_tried_again(void **state)
{
    struct fix f = idle_fix(4);

    (void)state;
    assert_int_equal(fix_put(&f, 0, 10, 1), 0);
    mem_dev_fault_at(f.dev, BLK_WRITE, 1, MEM_FAULT_ERROR, EIO);
    assert_true(cow_store_idle(f.store));
    fix_run(&f);
    assert_int_equal(cow_store_state(f.store), COW_READY);
    assert_false(cow_store_idle(f.store));
    assert_int_equal(fix_put(&f, 10, 10, 1), 0);
    assert_true(fix_holds(&f, 19, 1));
    fix_done(&f);
}

static void idle__failed_flush_poisons(void **state)
{
    struct fix f = idle_fix(5);

    (void)state;
    assert_int_equal(fix_put(&f, 0, 10, 1), 0);
    mem_dev_fault_at(f.dev, BLK_FLUSH, 1, MEM_FAULT_ERROR, EIO);
    assert_true(cow_store_idle(f.store));
    fix_run(&f);
    assert_int_equal(cow_store_state(f.store), COW_POISONED);
    assert_false(cow_store_idle(f.store));
    assert_int_equal(fix_put(&f, 10, 1, 1), SNAP_EPOISONED);
    fix_done(&f);
}

static void idle__close_waits_for_the_step(void **state)
{
    struct fix f = idle_fix(6);

    (void)state;
    assert_int_equal(fix_put(&f, 0, 10, 1), 0);
    assert_true(cow_store_idle(f.store));
    fix_close(&f);
    assert_int_equal(blk_engine_inflight(f.engine), 0);
    fix_done(&f);
}

static void ahead__puts_one_by_one_find_space_written_before(void **state)
{
    struct fix f = idle_fix(7);
    struct mem_counters a, b;

    (void)state;
    assert_int_equal(fix_put(&f, 0, 1, 1), 0);
    a = mem_dev_counters(f.dev);
    for (uint64_t old = 1; old < 400; old++)
        assert_int_equal(fix_put(&f, old, 1, 1), 0);
    b = mem_dev_counters(f.dev);
    assert_int_equal(b.flushes - a.flushes, 2 * 399); /* the zeros have none of their own */
    assert_in_range(b.written_bytes - a.written_bytes, 399 * 2 * 4096 + STEP_BYTES,
                    399 * 2 * 4096 + 4 * STEP_BYTES);
    fix_reopen(&f);
    for (uint64_t old = 0; old < 400; old++)
        assert_true(fix_holds(&f, old, 1));
    fix_done(&f);
}

static void ahead__stream_writes_no_zeros(void **state)
{
    struct fix f = idle_fix(8);

    (void)state;
    assert_int_equal(fix_put(&f, 0, 100, 1), 0);
    assert_in_range(mem_dev_counters(f.dev).written_bytes, 100 * 4096, 104 * 4096);
    fix_done(&f);
}

/* Zeros of a step are in flight when more chunks are asked for than there are before it. */
static void ahead__put_that_outruns_the_zeros_waits_for_them(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 60; seed++) {
        struct fix f = idle_fix(seed);
        struct put *lone = put_send(&f, 0, 1, 1), *many;

        while (!lone->ran) {
            cow_store_kick(f.store);
            blk_engine_wait(f.engine, -1);
        }
        assert_true(blk_engine_inflight(f.engine) > 0);
        many = put_send(&f, 100, 300, 2);
        fix_run(&f);
        assert_int_equal(many->code, 0);
        put_free(lone);
        put_free(many);
        fix_reopen(&f);
        assert_true(fix_holds(&f, 0, 1));
        for (uint64_t old = 100; old < 400; old++)
            assert_true(fix_holds(&f, old, 2));
        fix_done(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(idle__unused_store_costs_nothing),
        cmocka_unit_test(idle__window_goes_with_what_is_used),
        cmocka_unit_test(idle__fixed_device_and_busy_store_are_left_alone),
        cmocka_unit_test(idle__put_meanwhile_waits_and_is_not_overwritten),
        cmocka_unit_test(idle__failed_zeros_harm_nobody_and_are_not_tried_again),
        cmocka_unit_test(idle__failed_flush_poisons),
        cmocka_unit_test(idle__close_waits_for_the_step),
        cmocka_unit_test(ahead__puts_one_by_one_find_space_written_before),
        cmocka_unit_test(ahead__stream_writes_no_zeros),
        cmocka_unit_test(ahead__put_that_outruns_the_zeros_waits_for_them),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
