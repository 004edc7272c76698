/* SPDX-License-Identifier: Apache-2.0 */
/* The store on real files, through each engine that the machine has. */
#include "tests/unit/cow/store_fixture.h"

#include "tests/lib/tmpdir.h"

enum { CHUNK = 16384, BATCH = 50, BATCHES = 40 };

static void assert_content(struct fix *f, uint64_t old_chunk, uint64_t tag)
{
    static _Alignas(4096) uint8_t have[CHUNK], want[CHUNK];
    uint64_t new_chunk;

    assert_true(cow_map_get(f->map, old_chunk, 0, &new_chunk));
    assert_int_equal(blk_read_sync(f->dev, new_chunk * CHUNK, have, CHUNK, NULL), 0);
    content_fill(want, CHUNK, old_chunk, tag);
    assert_memory_equal(have, want, CHUNK);
}

static void store_on_a_file(struct blk_engine *engine)
{
    struct fix f = {.engine = engine, .chunk_bytes = CHUNK, .area_exceptions = CHUNK / 16};
    struct put *p[BATCHES];
    struct waited w;
    struct tmpdir dir;
    char path[TMPDIR_FILE_BYTES];
    struct err err = ERR_INIT;

    tmpdir_make(&dir);
    if (blk_open(engine, tmpdir_file(&dir, "cow", path), BLK_OPEN_CREATE | BLK_OPEN_EXCLUSIVE,
                 &f.dev, &err))
        fail_msg("%s", err.text);
    f.options.limit_bytes = 2100 * CHUNK;
    fix_create(&f);
    assert_int_equal(blk_dev_info(f.dev)->size_bytes, 3 * CHUNK);
    fix_open(&f);
    for (unsigned i = 0; i < BATCHES; i++) {
        p[i] = put_send(&f, i * BATCH, BATCH, i);
        if (i % 8 == 7)
            cow_store_kick(f.store);
    }
    fix_run(&f);
    for (unsigned i = 0; i < BATCHES; i++) {
        if (p[i]->code)
            fail_msg("%s", p[i]->err.text);
        put_free(p[i]);
    }
    assert_int_equal(fix_put(&f, 5000, 200, 1), SNAP_ENOSPC); /* the limit */
    fix_reopen(&f);
    assert_true(fix_usage(&f).exceptions >= BATCH * BATCHES);
    assert_int_equal(fix_usage(&f).areas, 3);
    for (unsigned i = 0; i < BATCH * BATCHES; i += 7)
        assert_content(&f, i, i / BATCH);
    for (unsigned i = 0; i < 4; i++) { /* area 2; 1 from old chunk 5000 on; the rest of 1; 0 */
        w = fix_merge_prepare(&f);
        assert_int_equal(w.code, 0);
        assert_int_equal(fix_merge_commit(&f, w.run.table_len, w.run.count), 0);
    }
    assert_string_equal(fix_status(&f), "64/67200 64");
    assert_int_equal(fix_merge_end(&f), 0);
    assert_int_equal(fix_put(&f, 1, 1, 77), 0);
    assert_int_equal(fix_invalidate(&f), 0);
    fix_reopen(&f);
    assert_string_equal(fix_status(&f), "Invalid");
    assert_content(&f, 1, 77);
    fix_done(&f);
    tmpdir_remove(&dir);
}

static void file__through_threads(void **state)
{
    struct blk_engine *engine;

    (void)state;
    assert_int_equal(blk_engine_new_threads(3, &engine, NULL), 0);
    store_on_a_file(engine);
}

static void file__through_io_uring(void **state)
{
    struct blk_engine *engine;
    struct err err = ERR_INIT;

    (void)state;
    if (blk_engine_new_uring(64, &engine, &err)) {
        printf("SKIPPED: %s\n", err.text);
        skip();
    }
    store_on_a_file(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file__through_threads),
        cmocka_unit_test(file__through_io_uring),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
