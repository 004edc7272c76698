/* SPDX-License-Identifier: Apache-2.0 */
/* Merging from the end of the table backwards, stopping anywhere. */
#include "tests/unit/cow/store_fixture.h"

#include "tests/lib/seed.h"

static void merge__empty_table_is_finished(void **state)
{
    struct fix f = fix_new(4096, 6144);
    struct waited w = fix_merge_prepare(&f);

    (void)state;
    assert_int_equal(w.code, 0);
    assert_int_equal(w.run.count, 0);
    assert_int_equal(fix_merge_commit(&f, 0, 0), SNAP_EMISMATCH);
    assert_int_equal(fix_put(&f, 1, 1, 1), 0);
    fix_done(&f);
}

static void merge__run_is_consecutive_in_both_and_within_the_area(void **state)
{
    static const struct {
        uint64_t old_chunk, new_chunk;
    } table[] = {{7, 40}, {3, 41}, {4, 42}, {5, 43}};
    struct fix f = fix_new(4096, 6144);
    struct waited w;

    (void)state;
    fix_close(&f);
    for (uint32_t i = 0; i < 4; i++)
        disk_set(&f, 0, i, table[i].old_chunk, table[i].new_chunk);
    fix_open(&f);
    for (unsigned again = 0; again < 2; again++) { /* asked again: the same answer */
        w = fix_merge_prepare(&f);
        assert_int_equal(w.code, 0);
        assert_int_equal(w.run.old_chunk, 3);
        assert_int_equal(w.run.new_chunk, 41);
        assert_int_equal(w.run.count, 3);
        assert_int_equal(w.run.table_len, 4);
        assert_int_equal(cow_store_state(f.store), COW_READY);
    }
    assert_int_equal(fix_merge_commit(&f, 4, 3), 0);
    assert_true(bytes_are_zero(mem_dev_platter(f.dev) + 4096 + 16, 4096 - 16));
    assert_int_equal(cow_map_count(f.map), 1);
    w = fix_merge_prepare(&f);
    assert_int_equal(w.run.old_chunk, 7);
    assert_int_equal(w.run.count, 1);
    fix_done(&f);

    f = fix_new(4096, 6144); /* consecutive over the area's edge: two runs */
    assert_int_equal(fix_put(&f, 0, 260, 1), 0);
    w = fix_merge_prepare(&f);
    assert_int_equal(w.run.old_chunk, 256);
    assert_int_equal(w.run.count, 4);
    assert_int_equal(fix_merge_commit(&f, 260, 4), 0);
    w = fix_merge_prepare(&f);
    assert_int_equal(w.run.old_chunk, 0);
    assert_int_equal(w.run.count, 256);
    fix_done(&f);
}

/* What stands in one area goes with one commit, in whatever order it is. */
static void merge__commit_takes_further_runs_of_the_area(void **state)
{
    static const struct {
        uint64_t old_chunk, new_chunk;
    } table[] = {{7, 2}, {300, 3}, {3, 4}, {90, 5}, {91, 6}};
    struct fix f = fix_new(4096, 6144);
    struct waited w;

    (void)state;
    fix_close(&f);
    for (uint32_t i = 0; i < 5; i++)
        disk_set(&f, 0, i, table[i].old_chunk, table[i].new_chunk);
    fix_open(&f);
    w = fix_merge_prepare(&f);
    assert_int_equal(w.run.count, 2);
    assert_int_equal(w.run.commit_max, 5);
    assert_int_equal(fix_merge_commit(&f, 5, 6), SNAP_EMISMATCH);
    assert_int_equal(fix_merge_commit(&f, 5, 3), 0);
    assert_int_equal(cow_map_count(f.map), 2);
    assert_true(fix_has(&f, 7) && fix_has(&f, 300));
    assert_true(!fix_has(&f, 3) && !fix_has(&f, 90) && !fix_has(&f, 91));
    assert_true(bytes_are_zero(mem_dev_platter(f.dev) + 4096 + 32, 4096 - 32));
    assert_int_equal(fix_merge_prepare(&f).run.commit_max, 2);
    assert_int_equal(fix_merge_commit(&f, 2, 2), 0);
    assert_int_equal(cow_map_count(f.map), 0);
    assert_int_equal(fix_merge_prepare(&f).run.commit_max, 0);
    fix_reopen(&f);
    assert_int_equal(cow_map_count(f.map), 0);
    fix_done(&f);

    f = fix_new(4096, 6144); /* never over the area's edge */
    for (uint64_t old = 520; old > 0; old -= 2)
        assert_int_equal(fix_put(&f, old, 1, 1), 0);
    w = fix_merge_prepare(&f);
    assert_int_equal(w.run.count, 1);
    assert_int_equal(w.run.commit_max, 4);
    assert_int_equal(fix_merge_commit(&f, 260, 5), SNAP_EMISMATCH);
    assert_int_equal(fix_merge_commit(&f, 260, 4), 0);
    assert_int_equal(fix_merge_prepare(&f).run.commit_max, 256);
    assert_int_equal(fix_merge_commit(&f, 256, 200), 0);
    assert_int_equal(fix_usage(&f).exceptions, 56);
    for (uint64_t old = 520; old > 0; old -= 2)
        assert_int_equal(fix_has(&f, old), old > 520 - 2 * 56);
    fix_done(&f);
}

static void merge__status_follows_the_kernel(void **state)
{
    struct fix f = fix_new(4096, 6144);

    (void)state;
    assert_int_equal(fix_put(&f, 0, 260, 1), 0);
    assert_string_equal(fix_status(&f), "2104/49152 24");
    assert_int_equal(fix_merge_prepare(&f).run.count, 4);
    assert_int_equal(fix_merge_commit(&f, 260, 2), 0);
    /* area 1 stands in chunk 258, 2 entries are left: 258 + 2 + 1 = 261 chunks */
    assert_string_equal(fix_status(&f), "2088/49152 24");
    assert_int_equal(cow_store_state(f.store), COW_MERGING);
    assert_int_equal(fix_merge_prepare(&f).run.count, 2);
    assert_int_equal(fix_merge_commit(&f, 258, 2), 0);
    assert_string_equal(fix_status(&f), "2072/49152 24");
    assert_int_equal(fix_merge_prepare(&f).run.count, 256);
    assert_int_equal(fix_merge_commit(&f, 256, 256), 0);
    assert_string_equal(fix_status(&f), "16/49152 16"); /* allocated = metadata */
    assert_int_equal(fix_merge_prepare(&f).run.count, 0);
    assert_int_equal(cow_map_count(f.map), 0);
    fix_reopen(&f);
    assert_string_equal(fix_status(&f), "16/49152 16");
    assert_int_equal(cow_store_state(f.store), COW_READY);
    fix_done(&f);
}

static void merge__commit_is_compare_and_set(void **state)
{
    struct fix f = fix_new(4096, 6144);

    (void)state;
    assert_int_equal(fix_put(&f, 0, 10, 1), 0);
    assert_int_equal(fix_merge_commit(&f, 10, 1), SNAP_EMISMATCH); /* nothing prepared */
    assert_int_equal(fix_merge_prepare(&f).run.count, 10);
    assert_int_equal(fix_merge_commit(&f, 9, 1), SNAP_EMISMATCH);
    assert_int_equal(fix_merge_commit(&f, 10, 11), SNAP_EMISMATCH);
    assert_int_equal(fix_merge_commit(&f, 10, 0), SNAP_EMISMATCH);
    assert_int_equal(cow_store_state(f.store), COW_READY);
    assert_int_equal(fix_put(&f, 50, 1, 1), 0);
    assert_int_equal(fix_merge_commit(&f, 10, 10), SNAP_EMISMATCH);
    assert_int_equal(fix_merge_commit(&f, 11, 1), SNAP_EMISMATCH);
    assert_int_equal(fix_merge_prepare(&f).run.table_len, 11);
    assert_int_equal(fix_merge_commit(&f, 11, 1), 0);
    assert_int_equal(fix_merge_commit(&f, 11, 1), SNAP_EMISMATCH); /* a replay */
    assert_int_equal(fix_usage(&f).exceptions, 10);
    fix_done(&f);
}

static void merge__puts_are_refused_until_its_end(void **state)
{
    struct fix f = fix_new(4096, 6144);
    struct put *p;
    struct waited w = {0};

    (void)state;
    p = put_send(&f, 0, 10, 1);
    cow_store_merge_prepare(f.store, waited_merge, &w);
    fix_run(&f);
    assert_int_equal(w.code, SNAP_EBUSY); /* puts had not drained */
    put_free(p);
    assert_int_equal(fix_merge_end(&f), 0); /* not merging: nothing to end */
    assert_int_equal(fix_merge_prepare(&f).run.count, 10);
    assert_int_equal(fix_merge_commit(&f, 10, 4), 0);
    assert_int_equal(fix_put(&f, 100, 1, 1), SNAP_EBUSY);
    assert_int_equal(fix_merge_end(&f), 0);
    assert_int_equal(cow_store_state(f.store), COW_READY);
    assert_int_equal(fix_put(&f, 6, 4, 2), 0);
    fix_reopen(&f);
    assert_true(fix_holds(&f, 5, 1));
    assert_true(fix_holds(&f, 6, 2));
    fix_done(&f);
}

static void merge_end__finds_next_free_above_what_lives(void **state)
{
    struct fix f = fix_new(4096, 6144);

    (void)state;
    fix_close(&f);
    disk_set(&f, 0, 0, 10, 900); /* given out of order: 900 lives on below the cleared one */
    disk_set(&f, 0, 1, 20, 2);
    fix_open(&f);
    assert_int_equal(fix_merge_prepare(&f).run.old_chunk, 20);
    assert_int_equal(fix_merge_commit(&f, 2, 1), 0);
    assert_int_equal(fix_usage(&f).next_free, 3); /* for status only */
    assert_int_equal(fix_merge_end(&f), 0);
    assert_int_equal(fix_usage(&f).next_free, 901);
    assert_int_equal(fix_put(&f, 30, 1, 1), 0);
    fix_done(&f);
}

static void merge__prepare_over_an_empty_area_then_puts_go_on(void **state)
{
    struct fix f = fix_new(4096, 6144);

    (void)state;
    assert_int_equal(fix_put(&f, 0, 256, 1), 0); /* area 1 is current, and empty */
    fix_reopen(&f);
    assert_int_equal(fix_merge_prepare(&f).run.count, 256);
    assert_int_equal(fix_put(&f, 1000, 3, 1), 0);
    assert_int_equal(fix_merge_commit(&f, 256, 1), SNAP_EMISMATCH);
    fix_reopen(&f);
    assert_int_equal(fix_usage(&f).exceptions, 259);
    assert_true(fix_holds(&f, 0, 1));
    assert_true(fix_holds(&f, 1002, 1));
    assert_int_equal(fix_merge_prepare(&f).run.old_chunk, 1000);
    fix_done(&f);
}

static void merge__half_way_opens_as_a_plain_snapshot(void **state)
{
    struct fix f = fix_new(512, 600);

    (void)state;
    assert_int_equal(fix_put(&f, 0, 100, 1), 0);
    for (uint64_t len = 100; len > 50;) {
        struct waited w = fix_merge_prepare(&f);

        assert_int_equal(w.run.table_len, len);
        assert_int_equal(fix_merge_commit(&f, len, w.run.count > 5 ? 5 : w.run.count), 0);
        len -= w.run.count > 5 ? 5 : w.run.count;
    }
    fix_reopen(&f);
    assert_int_equal(cow_store_state(f.store), COW_READY);
    assert_true(fix_usage(&f).exceptions <= 50);
    for (uint64_t c = 0; c < fix_usage(&f).exceptions; c++)
        assert_true(fix_holds(&f, c, 1));
    assert_int_equal(fix_put(&f, 500, 40, 2), 0);
    fix_reopen(&f);
    assert_true(fix_holds(&f, 539, 2));
    fix_done(&f);
}

static void merge__power_loss_at_every_step(void **state)
{
    uint64_t seed = seed_take();

    (void)state;
    for (unsigned cut = 0; cut < 60; cut++) {
        struct fix f = fix_disk(seed + cut, 512, 600 * 512, 0);
        uint64_t len = 100, left;
        unsigned steps = 0;

        fix_create(&f);
        fix_open(&f);
        assert_int_equal(fix_put(&f, 0, 100, 1), 0);
        while (steps < cut && len) {
            struct waited w = fix_merge_prepare(&f), c = {0};
            uint32_t count = w.run.count > 9 ? 9 : w.run.count;

            cow_store_merge_commit(f.store, len, count, waited_done, &c);
            while (steps++ < cut && mem_engine_step(f.engine))
                ;
            if (!c.ran)
                break;
            assert_int_equal(c.code, 0);
            len -= count;
        }
        mem_engine_power_loss(f.engine);
        cow_store_abandon(f.store);
        f.store = NULL;
        fix_close(&f);
        fix_open(&f);
        left = fix_usage(&f).exceptions;
        assert_true(left <= len && left + 9 >= len);
        for (uint64_t c = 0; c < left; c++)
            assert_true(fix_holds(&f, c, 1));
        assert_int_equal(fix_put(&f, 200, 50, 2), 0);
        fix_reopen(&f);
        assert_int_equal(fix_usage(&f).exceptions, left + 50);
        fix_done(&f);
    }
}

static void merge__failed_commit_reads_merge_failed(void **state)
{
    static const enum blk_op ops[] = {BLK_WRITE, BLK_FLUSH};

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct fix f = fix_new(4096, 6144);

        assert_int_equal(fix_put(&f, 0, 10, 1), 0);
        assert_int_equal(fix_merge_prepare(&f).run.count, 10);
        mem_dev_fault_at(f.dev, ops[i], 1, MEM_FAULT_ERROR, EIO);
        assert_int_equal(fix_merge_commit(&f, 10, 10), SNAP_EIO);
        assert_string_equal(fix_status(&f), "Merge failed");
        assert_int_equal(cow_store_state(f.store), COW_POISONED);
        assert_int_equal(fix_merge_prepare(&f).code, SNAP_EPOISONED);
        assert_int_equal(fix_merge_end(&f), SNAP_EPOISONED);
        fix_reopen(&f);
        assert_int_equal(cow_store_state(f.store), COW_READY);
        fix_done(&f);
    }
}

static void merge__failed_read_can_be_tried_again(void **state)
{
    struct fix f = fix_new(4096, 6144);

    (void)state;
    assert_int_equal(fix_put(&f, 0, 256, 1), 0);
    mem_dev_fault_at(f.dev, BLK_READ, 1, MEM_FAULT_ERROR, EIO);
    assert_int_equal(fix_merge_prepare(&f).code, SNAP_EIO);
    assert_int_equal(cow_store_state(f.store), COW_READY);
    assert_int_equal(fix_merge_prepare(&f).run.count, 256);
    assert_int_equal(fix_merge_commit(&f, 256, 256), 0);
    mem_dev_fault_at(f.dev, BLK_READ, 1, MEM_FAULT_ERROR, EIO);
    assert_int_equal(fix_merge_end(&f), SNAP_EIO);
    assert_int_equal(cow_store_state(f.store), COW_POISONED);
    fix_done(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merge__empty_table_is_finished),
        cmocka_unit_test(merge__run_is_consecutive_in_both_and_within_the_area),
        cmocka_unit_test(merge__commit_takes_further_runs_of_the_area),
        cmocka_unit_test(merge__status_follows_the_kernel),
        cmocka_unit_test(merge__commit_is_compare_and_set),
        cmocka_unit_test(merge__puts_are_refused_until_its_end),
        cmocka_unit_test(merge_end__finds_next_free_above_what_lives),
        cmocka_unit_test(merge__prepare_over_an_empty_area_then_puts_go_on),
        cmocka_unit_test(merge__half_way_opens_as_a_plain_snapshot),
        cmocka_unit_test(merge__power_loss_at_every_step),
        cmocka_unit_test(merge__failed_commit_reads_merge_failed),
        cmocka_unit_test(merge__failed_read_can_be_tried_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
