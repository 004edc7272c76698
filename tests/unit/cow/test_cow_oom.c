/* SPDX-License-Identifier: Apache-2.0 */
/* Every allocation fails in turn: each is told to whom it concerns, nothing that was told as
 * durable is lost, and the store can be closed and opened again.
 *
 * The allocator is replaced for this program, which a sanitizer does as well: skipped there. */
#include "tests/lib/allocator.h"
#include "tests/unit/cow/store_fixture.h"

static unsigned left_until_failure; /* 0: none fails */
static bool armed;

#ifndef ALLOCATOR_IS_TAKEN
static bool fails_now(void)
{
    return armed && left_until_failure && --left_until_failure == 0;
}

void *malloc(size_t len)
{
    return fails_now() ? NULL : __libc_malloc(len);
}

void *calloc(size_t count, size_t len)
{
    return fails_now() ? NULL : __libc_calloc(count, len);
}

void *realloc(void *p, size_t len)
{
    return fails_now() ? NULL : __libc_realloc(p, len);
}

int posix_memalign(void **ret, size_t align, size_t len)
{
    if (fails_now())
        return ENOMEM;
    *ret = aligned_alloc(align, len);
    return *ret ? 0 : ENOMEM;
}
#endif

enum { PUTS = 12, EACH = 40 };

static bool code_is_fair(int code)
{
    return code == 0 || code == SNAP_ENOMEM || code == SNAP_EPOISONED || code == SNAP_EBUSY ||
           code == SNAP_EMISMATCH || code == SNAP_EINVALID;
}

static void torture_puts(struct fix *f, bool *added)
{
    struct put *p[PUTS];

    for (unsigned i = 0; i < PUTS; i++) {
        p[i] = put_new(f, i * 20, EACH, 1);
        armed = true;
        cow_store_put(f->store, &p[i]->put);
        if (i % 3 == 0)
            cow_store_kick(f->store);
        blk_engine_wait(f->engine, -1);
        armed = false;
    }
    armed = true;
    fix_run(f);
    armed = false;
    for (unsigned i = 0; i < PUTS; i++) {
        assert_int_equal(p[i]->ran, 1);
        assert_true(code_is_fair(p[i]->code));
        for (unsigned k = 0; k < EACH; k++) {
            int outcome = p[i]->outcomes[k];

            assert_true(outcome != COW_PENDING);
            assert_true(outcome == COW_EXISTS || code_is_fair(outcome));
            if (outcome == COW_ADDED || outcome == COW_EXISTS)
                added[i * 20 + k] = true;
        }
        put_free(p[i]);
    }
}

static void torture_merge(struct fix *f, bool *added)
{
    struct waited w = {0}, c = {0}, d = {0};

    armed = true;
    cow_store_merge_prepare(f->store, waited_merge, &w);
    fix_run(f);
    armed = false;
    assert_int_equal(w.ran, 1);
    assert_true(code_is_fair(w.code));
    if (w.code == 0 && w.run.count) {
        for (uint32_t i = 0; i < w.run.count; i++)
            added[w.run.old_chunk + i] = false;
        armed = true;
        cow_store_merge_commit(f->store, w.run.table_len, w.run.count, waited_done, &c);
        fix_run(f);
        armed = false;
        assert_int_equal(c.ran, 1);
        assert_true(code_is_fair(c.code));
    }
    armed = true;
    cow_store_merge_end(f->store, waited_done, &d);
    fix_run(f);
    armed = false;
    assert_int_equal(d.ran, 1);
    assert_true(code_is_fair(d.code));
}

/* False: no allocation was left to fail. */
static bool torture_once(unsigned nth)
{
    bool added[PUTS * 20 + EACH] = {false};
    struct fix f = fix_disk(nth, 512, 0, 600 * 512);
    struct waited w = {0};
    bool failed;
    int code;

    f.options.grow_step_bytes = 100 * 512;
    left_until_failure = nth;
    armed = true;
    code = cow_store_create_sync(f.dev, 1, NULL);
    armed = false;
    assert_true(code_is_fair(code));
    if (code)
        fix_create(&f);
    f.map = cow_map_new();
    f.options.map = f.map;
    armed = true;
    code = cow_store_open_sync(f.dev, &f.options, fix_fault, &f, &f.store, NULL);
    armed = false;
    assert_true(code_is_fair(code));
    if (code) {
        cow_map_free(f.map);
        fix_open(&f);
    }
    torture_puts(&f, added);
    torture_merge(&f, added);
    armed = true;
    cow_store_drain(f.store, waited_done, &w);
    fix_run(&f);
    code = cow_store_close_sync(f.store, NULL);
    armed = false;
    failed = left_until_failure == 0;
    left_until_failure = 0;
    assert_int_equal(code, 0);
    assert_int_equal(w.ran, 1);
    f.store = NULL;
    fix_close(&f);
    fix_open(&f);
    for (uint64_t c = 0; c < ARRAY_LEN(added); c++) {
        assert_true(!added[c] || fix_has(&f, c));
        assert_true(!fix_has(&f, c) || fix_holds(&f, c, 1));
    }
    fix_done(&f);
    return failed;
}

static void every_allocation__fails_in_turn(void **state)
{
    unsigned nth = 1;

    (void)state;
    skip_without_allocator();
    while (torture_once(nth))
        nth++;
    print_message("%u allocations failed\n", nth - 1);
    assert_true(nth > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation__fails_in_turn),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
