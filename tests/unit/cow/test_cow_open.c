/* SPDX-License-Identifier: Apache-2.0 */
/* Opening what others wrote, what was torn, and what was made to hurt. */
#include "tests/unit/cow/store_fixture.h"

#include "tests/lib/tmpdir.h"

#include <fcntl.h>
#include <unistd.h>

static void header_set(struct fix *f, unsigned field, uint32_t value)
{
    le32_store(mem_dev_image(f->dev) + field * 4, value);
    mem_dev_settle(f->dev);
}

static void assert_refused(struct fix *f, int code, const char *word)
{
    struct err err = ERR_INIT;

    assert_int_equal(fix_open_code(f, &err), code);
    assert_int_equal(err.code, code);
    if (!strstr(err.text, word))
        fail_msg("'%s' is not in '%s'", word, err.text);
    assert_null(f->store);
    assert_int_equal(cow_map_count(f->map), 0);
    cow_map_free(f->map);
    f->map = NULL;
}

/* -- create --------------------------------------------------------------------- */

static void create__zeroes_area_and_leaves_nothing_of_before(void **state)
{
    struct fix f = fix_disk(1, 4096, 64 * 4096, 0);

    (void)state;
    memset(mem_dev_image(f.dev), 0xee, 64 * 4096);
    mem_dev_settle(f.dev);
    fix_create(&f);
    assert_memory_equal(mem_dev_platter(f.dev), "SnAp\1\0\0\0\1\0\0\0\10\0\0\0", 16);
    assert_true(bytes_are_zero(mem_dev_platter(f.dev) + 16, 2 * 4096 - 16));
    assert_int_equal(mem_dev_counters(f.dev).flushes, 2);
    fix_open(&f);
    assert_int_equal(fix_usage(&f).exceptions, 0);
    fix_done(&f);
}

static void create__refuses_bad_sizes(void **state)
{
    struct fix f = fix_disk(1, 4096, 4096, 0);

    (void)state;
    assert_int_equal(cow_store_create_sync(f.dev, 8, NULL), SNAP_ENOSPC);
    assert_int_equal(cow_store_create_sync(f.dev, 0, NULL), SNAP_EINVAL);
    assert_int_equal(cow_store_create_sync(f.dev, 24, NULL), SNAP_EINVAL);
    assert_int_equal(cow_store_create_sync(f.dev, 1, NULL), SNAP_EINVAL); /* below the block */
    assert_int_equal(cow_store_create_sync(f.dev, 65536, NULL), SNAP_EINVAL);
    assert_true(bytes_are_zero(mem_dev_image(f.dev), 4096));
    fix_done(&f);
}

static void create__fault_at_every_operation_is_told(void **state)
{
    (void)state;
    for (unsigned n = 1; n <= 2; n++) {
        struct fix f = fix_disk(1, 4096, 64 * 4096, 0);

        mem_dev_fault_at(f.dev, BLK_WRITE, n, MEM_FAULT_ERROR, EIO);
        assert_int_equal(cow_store_create_sync(f.dev, 8, NULL), SNAP_EIO);
        mem_dev_fault_at(f.dev, BLK_FLUSH, n, MEM_FAULT_ERROR, EIO);
        assert_int_equal(cow_store_create_sync(f.dev, 8, NULL), SNAP_EIO);
        mem_dev_fault_at(f.dev, BLK_READ, 1, MEM_FAULT_ERROR, EIO);
        assert_int_equal(cow_store_create_sync(f.dev, 8, NULL), SNAP_EIO);
        fix_create(&f);
        fix_done(&f);
    }
}

/* -- header ------------------------------------------------------------------------- */

static void open__refuses_what_is_no_store(void **state)
{
    struct fix f = fix_disk(1, 4096, 64 * 4096, 0);

    (void)state;
    assert_refused(&f, SNAP_EINVAL, "not a COW device: magic 0x00000000, expected 0x70416e53");
    assert_int_equal(mem_dev_counters(f.dev).writes, 0);
    fix_create(&f);
    header_set(&f, 0, 0x12345678);
    assert_refused(&f, SNAP_EINVAL, "not a COW device: magic 0x12345678, expected 0x70416e53");
    header_set(&f, 0, COW_MAGIC);
    header_set(&f, 2, 2);
    header_set(&f, 1, 0); /* the version is looked at before valid */
    assert_refused(&f, SNAP_EINVAL, "version 2");
    header_set(&f, 1, 1);
    header_set(&f, 2, 1);
    header_set(&f, 3, 0);
    assert_refused(&f, SNAP_EINVAL, "header");
    header_set(&f, 3, 12);
    assert_refused(&f, SNAP_EINVAL, "header");
    header_set(&f, 3, 0x80000000);
    assert_refused(&f, SNAP_EINVAL, "header");
    header_set(&f, 3, 1); /* smaller than the device's block */
    assert_refused(&f, SNAP_EINVAL, "header");
    header_set(&f, 3, 8);
    fix_open(&f);
    fix_done(&f);
}

static void open__truncated_devices(void **state)
{
    struct fix f = fix_disk(1, 4096, 0, 0);
    uint8_t head[4096];

    (void)state;
    assert_refused(&f, SNAP_EINVAL, "no room for a header");
    fix_done(&f);

    f = fix_disk(1, 4096, 64 * 4096, 0);
    fix_create(&f);
    memcpy(head, mem_dev_image(f.dev), sizeof head);
    fix_done(&f);
    f = fix_disk(1, 4096, 4096, 0);
    memcpy(mem_dev_image(f.dev), head, sizeof head);
    assert_refused(&f, SNAP_ECORRUPT, "past the device's end, at chunk 1");
    assert_int_equal(f.fault.area_no, 0);
    fix_done(&f);
}

static void open__chunk_size_on_disk_wins(void **state)
{
    struct fix f = fix_disk(1, 4096, 64 * 4096, 0);

    (void)state;
    fix_create(&f);
    f.options.want_chunk_sectors = 32;
    fix_open(&f);
    assert_true(cow_store_chunk_differs(f.store));
    assert_int_equal(cow_store_geometry(f.store)->chunk_sectors, 8);
    f.options.want_chunk_sectors = 8;
    fix_reopen(&f);
    assert_false(cow_store_chunk_differs(f.store));
    fix_done(&f);
}

static void open__any_valid_but_0_is_valid(void **state)
{
    struct fix f = fix_new(4096, 64);

    (void)state;
    assert_int_equal(fix_put(&f, 5, 3, 1), 0);
    fix_close(&f);
    header_set(&f, 1, 77);
    fix_open(&f);
    assert_int_equal(cow_store_state(f.store), COW_READY);
    fix_close(&f);
    header_set(&f, 1, 0);
    fix_open(&f);
    assert_int_equal(cow_store_state(f.store), COW_INVALID);
    assert_string_equal(fix_status(&f), "Invalid");
    assert_true(fix_holds(&f, 6, 1));
    assert_int_equal(fix_put(&f, 9, 1, 1), SNAP_EINVALID);
    assert_int_equal(fix_merge_prepare(&f).code, SNAP_EINVALID);
    fix_done(&f);
}

/* -- table ------------------------------------------------------------------------------ */

static void open__next_free_is_never_a_metadata_chunk(void **state)
{
    struct fix f = fix_new(4096, 1000);

    (void)state;
    fix_close(&f);
    disk_set(&f, 0, 0, 10, 257); /* 258 holds area 1 */
    fix_open(&f);
    assert_int_equal(fix_usage(&f).next_free, 259);
    fix_done(&f);
}

static void open__holes_and_any_order_are_accepted(void **state)
{
    struct fix f = fix_new(4096, 1000);

    (void)state;
    fix_close(&f);
    disk_set(&f, 0, 0, 10, 900);
    disk_set(&f, 0, 1, 5, 2);
    disk_set(&f, 0, 2, 7, 300);
    fix_open(&f);
    assert_int_equal(fix_usage(&f).exceptions, 3);
    assert_int_equal(fix_usage(&f).next_free, 901);
    assert_int_equal(f.fault_count, 0);
    fix_done(&f);
}

static void open__short_table_costs_two_reads(void **state)
{
    struct fix f = fix_new(4096, 100000);
    uint64_t before;

    (void)state;
    assert_int_equal(fix_put(&f, 5, 100, 1), 0);
    fix_close(&f);
    before = mem_dev_counters(f.dev).reads;
    fix_open(&f);
    assert_int_equal(mem_dev_counters(f.dev).reads - before, 2);
    fix_done(&f);
}

static void open__long_table_in_any_order_of_completion(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 20; seed++) {
        struct fix f = fix_disk(seed, 512, 12000 * 512, 0);

        fix_create(&f);
        for (uint32_t i = 0; i < 9000; i++)
            disk_put(&f, i / 32, i % 32, 50000 - i, 2 + i + i / 32);
        mem_dev_settle(f.dev);
        fix_open(&f);
        assert_int_equal(fix_usage(&f).exceptions, 9000);
        for (uint32_t i = 0; i < 9000; i += 37) {
            uint64_t new_chunk;

            assert_true(cow_map_get(f.map, 50000 - i, 0, &new_chunk));
            assert_int_equal(new_chunk, 2 + i + i / 32);
        }
        assert_int_equal(fix_put(&f, 1, 100, 1), 0);
        fix_reopen(&f);
        assert_int_equal(fix_usage(&f).exceptions, 9100);
        fix_done(&f);
    }
}

static void open__read_failure_counts_only_within_the_table(void **state)
{
    struct fix f = fix_new(4096, 3000);
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(fix_put(&f, 5, 300, 1), 0);
    fix_close(&f);
    /* reads: header, area 0, then 1 and 2 together; the table ends in 1 */
    mem_dev_fault_at(f.dev, BLK_READ, 4, MEM_FAULT_ERROR, EIO);
    fix_open(&f);
    assert_int_equal(fix_usage(&f).exceptions, 300);
    fix_close(&f);
    for (unsigned n = 1; n <= 3; n++) {
        mem_dev_fault_at(f.dev, BLK_READ, n, MEM_FAULT_ERROR, EIO);
        assert_int_equal(fix_open_code(&f, &err), SNAP_EIO);
        assert_int_equal(cow_map_count(f.map), 0);
        cow_map_free(f.map);
    }
    assert_non_null(strstr(err.text, "read area 1"));
    fix_open(&f);
    fix_done(&f);
}

static void open__failed_cleaning_empties_the_map(void **state)
{
    struct fix f = fix_new(4096, 100);

    (void)state;
    assert_int_equal(fix_put(&f, 5, 3, 1), 0);
    fix_close(&f);
    disk_set(&f, 0, 9, 1, 1);
    mem_dev_fault_at(f.dev, BLK_WRITE, 1, MEM_FAULT_ERROR, EIO);
    assert_refused(&f, SNAP_EIO, "clean area 0");
    mem_dev_fault_at(f.dev, BLK_FLUSH, 1, MEM_FAULT_ERROR, EIO);
    assert_refused(&f, SNAP_EIO, "flush");
    fix_open(&f);
    fix_done(&f);
}

/* -- leftovers ------------------------------------------------------------------------------ */

static void leftovers__are_zeroed_durably(void **state)
{
    static const uint32_t places[] = {3, 4, 100, 255};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        struct fix f = fix_new(4096, 1000);

        assert_int_equal(fix_put(&f, 5, 3, 1), 0);
        fix_close(&f);
        disk_set(&f, 0, places[i], 44, places[i] == 3 ? 0 : 50); /* 3 is the end entry itself */
        fix_open(&f);
        assert_int_equal(fix_usage(&f).exceptions, 3);
        assert_int_equal(fix_usage(&f).leftovers, 1);
        assert_true(bytes_are_zero(mem_dev_platter(f.dev) + 4096 + 48, 4096 - 48));
        assert_int_equal(fix_put(&f, 100, 1, 1), 0);
        mem_engine_power_loss(f.engine);
        cow_store_abandon(f.store);
        f.store = NULL;
        fix_close(&f);
        fix_open(&f);
        assert_int_equal(fix_usage(&f).exceptions, 4);
        assert_true(fix_holds(&f, 100, 1));
        fix_done(&f);
    }
}

static void leftovers__of_large_areas_cost_their_blocks_only(void **state)
{
    struct fix f = fix_new(65536, 100);
    uint64_t before;

    (void)state;
    fix_close(&f);
    disk_set(&f, 0, 1000, 44, 50);
    before = mem_dev_counters(f.dev).written_bytes;
    fix_open(&f);
    assert_int_equal(mem_dev_counters(f.dev).written_bytes - before, 4 * 4096);
    before = mem_dev_counters(f.dev).written_bytes;
    fix_reopen(&f);
    assert_int_equal(mem_dev_counters(f.dev).written_bytes, before);
    fix_done(&f);
}

static void open__flushes_what_a_killed_writer_left_unflushed(void **state)
{
    static _Alignas(4096) uint8_t area[4096];

    (void)state;
    for (uint64_t seed = 1; seed < 30; seed++) {
        struct fix f = fix_disk(seed, 4096, 100 * 4096, 0);

        fix_create(&f);
        /* written by somebody who died before the flush */
        memset(area, 0, sizeof area);
        le64_store(area, 10);
        le64_store(area + 8, 2);
        assert_int_equal(blk_write_sync(f.dev, 4096, area, sizeof area, NULL), 0);
        fix_open(&f);
        assert_int_equal(fix_put(&f, 10, 1, 1), 0); /* exists, says it */
        mem_engine_power_loss(f.engine);
        cow_store_abandon(f.store);
        f.store = NULL;
        fix_close(&f);
        fix_open(&f);
        assert_true(fix_has(&f, 10));
        fix_done(&f);
    }
}

static void read_only__writes_nothing(void **state)
{
    struct fix f = fix_new(4096, 100);
    struct mem_counters before, after;
    struct waited w = {0};

    (void)state;
    assert_int_equal(fix_put(&f, 5, 3, 1), 0);
    fix_close(&f);
    disk_set(&f, 0, 9, 44, 50);
    before = mem_dev_counters(f.dev);
    f.options.read_only = true;
    fix_open(&f);
    assert_true(fix_holds(&f, 5, 1));
    assert_int_equal(fix_put(&f, 50, 1, 1), SNAP_EPERM);
    assert_int_equal(fix_invalidate(&f), SNAP_EPERM);
    assert_int_equal(fix_merge_prepare(&f).code, SNAP_EPERM);
    cow_store_drain(f.store, waited_done, &w);
    fix_run(&f);
    assert_int_equal(w.ran, 1);
    fix_close(&f);
    after = mem_dev_counters(f.dev);
    assert_int_equal(after.writes, before.writes);
    assert_int_equal(after.flushes, before.flushes);
    fix_done(&f);
}

/* -- faults ------------------------------------------------------------------------------------ */

static void faults__each_is_told_with_its_place(void **state)
{
    static const struct {
        uint64_t old_chunk, new_chunk;
        const char *word;
    } bad[] = {
        {10, 1000, "past the device's last chunk 999"},
        {10, UINT64_MAX, "past the device's last chunk"},
        {10, 1, "metadata chunk of area 0"},
        {10, 258, "metadata chunk of area 1"},
        {10, 515, "metadata chunk of area 2"},
        {UINT64_MAX, 300, "old_chunk is past the largest"},
        {10, 3, "another exception has new_chunk 3"},
        {6, 300, "old_chunk has an exception already, at new_chunk 3"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct fix f = fix_new(4096, 1000);

        assert_int_equal(fix_put(&f, 5, 260, 1), 0); /* 5 → 2, 6 → 3 … */
        fix_close(&f);
        disk_set(&f, 1, 4, bad[i].old_chunk, bad[i].new_chunk);
        disk_set(&f, 1, 5, 9999, 990);
        assert_refused(&f, SNAP_ECORRUPT, bad[i].word);
        assert_int_equal(f.fault_count, 1);
        assert_int_equal(f.fault.code, SNAP_ECORRUPT);
        assert_int_equal(f.fault.area_no, 1);
        assert_int_equal(f.fault.index, 4);
        assert_true(f.fault.exception.old_chunk == bad[i].old_chunk);
        assert_true(f.fault.exception.new_chunk == bad[i].new_chunk);
        assert_non_null(strstr(f.fault.text, bad[i].word));

        f.options.accept_damaged = true; /* read-only or not at all */
        assert_refused(&f, SNAP_EINVAL, "read_only");
        f.options.read_only = true;
        fix_open(&f);
        assert_int_equal(f.fault_count, 1);
        assert_int_equal(cow_store_state(f.store), COW_DAMAGED);
        assert_int_equal(fix_usage(&f).exceptions, 261);
        assert_int_equal(cow_map_count(f.map), 261);
        assert_true(fix_holds(&f, 6, 1));
        assert_true(fix_has(&f, 9999));
        assert_int_equal(fix_put(&f, 50000, 1, 1), SNAP_EPERM);
        fix_done(&f);
    }
}

static void faults__all_are_told(void **state)
{
    struct fix f = fix_new(4096, 1000);

    (void)state;
    assert_int_equal(fix_put(&f, 5, 10, 1), 0);
    fix_close(&f);
    disk_set(&f, 0, 10, 1, 5000);
    disk_set(&f, 0, 11, 2, 1);
    disk_set(&f, 0, 12, 3, 4);
    disk_set(&f, 0, 13, 4, 4);
    disk_set(&f, 0, 14, 100, 100);
    assert_refused(&f, SNAP_ECORRUPT, "4 faults, the first: ");
    assert_int_equal(f.fault_count, 4);

    fix_create(&f); /* only twice-named ones: found in a second look */
    for (uint32_t i = 0; i < 250; i++)
        disk_set(&f, 0, i, i % 50, 2 + i);
    assert_refused(&f, SNAP_ECORRUPT, "200 faults");
    assert_int_equal(f.fault_count, 200);
    assert_int_equal(f.fault.index, 249);
    f.options.read_only = f.options.accept_damaged = true;
    fix_open(&f);
    assert_int_equal(cow_map_count(f.map), 50);
    for (uint32_t i = 0; i < 50; i++) {
        uint64_t new_chunk;

        assert_true(cow_map_get(f.map, i, 0, &new_chunk));
        assert_int_equal(new_chunk, 2 + i); /* the first stays */
    }
    fix_done(&f);
}

static void faults__table_past_the_devices_end(void **state)
{
    struct fix f = fix_new(4096, 258);

    (void)state;
    assert_int_equal(fix_put(&f, 5, 255, 1), 0);
    fix_close(&f);
    disk_set(&f, 0, 255, 9999, 257);
    assert_refused(&f, SNAP_ECORRUPT, "past the device's end, at chunk 258");
    assert_int_equal(f.fault.area_no, 1);
    f.options.read_only = f.options.accept_damaged = true;
    fix_open(&f);
    assert_int_equal(cow_map_count(f.map), 256);
    fix_done(&f);
}

static void faults__map_that_holds_the_seq_already(void **state)
{
    struct fix f = fix_new(4096, 258);
    struct cow_store *again = NULL;
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(fix_put(&f, 5, 255, 1), 0);
    assert_int_equal(cow_store_open_sync(f.dev, &f.options, fix_fault, &f, &again, &err),
                     SNAP_EEXIST);
    assert_null(again);
    assert_int_equal(f.fault_count, 0);
    assert_int_equal(cow_map_count(f.map), 255);
    fix_done(&f);
}

/* new_chunks beyond the bitmap, on a file of more than 2^31 chunks that is all hole */
static void faults__shared_chunks_far_out_on_a_huge_device(void **state)
{
    struct tmpdir dir;
    char path[TMPDIR_FILE_BYTES];
    struct fix f = {.chunk_bytes = 512, .area_exceptions = 32};
    uint8_t *head;
    const uint64_t far = (UINT64_C(1) << 31) + 5;
    int fd;

    (void)state;
    tmpdir_make(&dir);
    fd = open(tmpdir_file(&dir, "huge", path), O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    if (ftruncate(fd, (off_t)(UINT64_C(3) << 40) / 2)) {
        printf("SKIPPED: no file of 1.5 TiB here: %s\n", strerror(errno));
        close(fd);
        tmpdir_remove(&dir);
        skip();
    }
    head = calloc(3, 512);
    memcpy(head, "SnAp\1\0\0\0\1\0\0\0\1\0\0\0", 16);
    for (unsigned i = 0; i < 10; i++) {
        le64_store(head + 512 + i * 16, i);
        le64_store(head + 512 + i * 16 + 8, far + i % 8);
    }
    assert_int_equal(pwrite(fd, head, 1024, 0), 1024);
    close(fd);
    assert_int_equal(blk_engine_new_threads(1, &f.engine, NULL), 0);
    assert_int_equal(blk_open(f.engine, path, BLK_OPEN_BUFFERED, &f.dev, NULL), 0);
    assert_refused(&f, SNAP_ECORRUPT, "2 faults");
    assert_int_equal(f.fault.index, 9);
    assert_int_equal(f.fault.exception.old_chunk, 9);
    f.options.read_only = f.options.accept_damaged = true;
    fix_open(&f);
    assert_int_equal(cow_map_count(f.map), 8);
    assert_int_equal(fix_usage(&f).next_free, far + 8);
    fix_done(&f);
    free(head);
    tmpdir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(create__zeroes_area_and_leaves_nothing_of_before),
        cmocka_unit_test(create__refuses_bad_sizes),
        cmocka_unit_test(create__fault_at_every_operation_is_told),
        cmocka_unit_test(open__refuses_what_is_no_store),
        cmocka_unit_test(open__truncated_devices),
        cmocka_unit_test(open__chunk_size_on_disk_wins),
        cmocka_unit_test(open__any_valid_but_0_is_valid),
        cmocka_unit_test(open__next_free_is_never_a_metadata_chunk),
        cmocka_unit_test(open__holes_and_any_order_are_accepted),
        cmocka_unit_test(open__short_table_costs_two_reads),
        cmocka_unit_test(open__long_table_in_any_order_of_completion),
        cmocka_unit_test(open__read_failure_counts_only_within_the_table),
        cmocka_unit_test(open__failed_cleaning_empties_the_map),
        cmocka_unit_test(leftovers__are_zeroed_durably),
        cmocka_unit_test(leftovers__of_large_areas_cost_their_blocks_only),
        cmocka_unit_test(open__flushes_what_a_killed_writer_left_unflushed),
        cmocka_unit_test(read_only__writes_nothing),
        cmocka_unit_test(faults__each_is_told_with_its_place),
        cmocka_unit_test(faults__all_are_told),
        cmocka_unit_test(faults__table_past_the_devices_end),
        cmocka_unit_test(faults__map_that_holds_the_seq_already),
        cmocka_unit_test(faults__shared_chunks_far_out_on_a_huge_device),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
