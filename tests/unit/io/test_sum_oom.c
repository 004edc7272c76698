/* SPDX-License-Identifier: Apache-2.0 */
/* A device with checksums while memory is short: every request ends, whichever allocation fails,
 * and what was flushed has its checksum.
 *
 * The allocator is replaced for this program, which a sanitizer does as well: skipped there. */
#include "tests/lib/allocator.h"

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/io/mem.h"
#include "common/io/sum.h"
#include "tests/unit/io/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1024, PAGES = 3, BLOCKS = PAGES * SUM_PAGE_SLOTS };

static unsigned left_until_failure; /* 0: none fails */
static bool armed, no_copies;

#ifndef ALLOCATOR_IS_TAKEN
static bool fails_now(void)
{
    return armed && left_until_failure > 0 && --left_until_failure == 0;
}

void *malloc(size_t len)
{
    return fails_now() ? NULL : __libc_malloc(len);
}

void *calloc(size_t count, size_t len)
{
    return fails_now() ? NULL : __libc_calloc(count, len);
}

void *aligned_alloc(size_t align, size_t len)
{
    return no_copies || fails_now() ? NULL : __libc_memalign(align, len);
}
#endif

struct world {
    struct blk_engine *engine;
    struct blk_dev *data, *side, *dev;
    uint8_t *bytes;
    struct err err;
};

static void opened(void *user, struct blk_dev *dev, int code, const struct err *err)
{
    struct world *w = user;
    w->dev = dev;
    w->err = *err;
    w->err.code = code;
}

static bool covers(void *user, uint64_t block_no)
{
    (void)user;
    (void)block_no;
    return true;
}

static void join(struct world *w, bool create)
{
    struct sum_options o = {.block_bytes = BLOCK, .covers = covers, .create = create};
    w->dev = NULL;
    sum_dev_open(w->data, w->side, &o, opened, w);
    while (w->dev == NULL)
        assert_true(mem_engine_step(w->engine));
}

static void world_new(struct world *w, uint64_t seed)
{
    *w = (struct world){.bytes = aligned_alloc(512, BLOCK)};
    assert_non_null(w->bytes);
    memset(w->bytes, 'a', BLOCK);
    assert_int_equal(blk_engine_new_memory(seed, &w->engine, NULL), 0);
    assert_int_equal(mem_dev_new(w->engine, "d", BLOCKS * BLOCK, 512, 0, &w->data, NULL), 0);
    assert_int_equal(mem_dev_new(w->engine, "d.sum", 0, 512, MIB, &w->side, NULL), 0);
    join(w, true);
    for (uint64_t b = 5; b < BLOCKS; b += SUM_PAGE_SLOTS)
        assert_int_equal(probe_run(w->dev, BLK_WRITE, 0, b * BLOCK, BLOCK, w->bytes), 0);
    assert_int_equal(probe_run(w->dev, BLK_FLUSH, 0, 0, 0, NULL), 0);
}

/* Its pages are in no memory any more. */
static void world_reopen(struct world *w)
{
    mem_engine_power_loss(w->engine);
    sum_dev_abandon(w->dev);
    join(w, false);
}

static void world_free(struct world *w)
{
    blk_dev_close(w->dev);
    blk_engine_free(w->engine);
    free(w->bytes);
}

/* Until nothing is under way any more. Whoever waits for nothing is there for ever. */
static void run_out(struct world *w)
{
    for (unsigned i = 0; i < 10000 && mem_engine_step(w->engine); i++)
        continue;
}

static void overwrite_start(struct world *w, struct probe *p, uint64_t page)
{
    probe_start(w->dev, p, BLK_WRITE, 0, (page * SUM_PAGE_SLOTS + 5) * BLOCK, BLOCK, w->bytes);
}

/* -- cases ------------------------------------------------------------------------------- */

/* Nothing else is under way that would look after its mark. */
static void overwriting__alone_is_marked_without_memory(void **state)
{
    struct world w;
    struct probe p;
    (void)state;
    skip_without_allocator();
    world_new(&w, 1);
    left_until_failure = 1; /* what the request itself needs was used before */
    armed = true;
    overwrite_start(&w, &p, 0);
    assert_int_equal(left_until_failure, 0);
    run_out(&w);
    armed = false;
    assert_int_equal(p.ran, 1);
    assert_int_equal(p.result, 0);
    assert_true(mem_dev_platter(w.side)[2 * SUM_PAGE_BYTES - SUM_SLOT_BYTES] == 1);
    world_free(&w);
}

/* The pages come first, and memory is short when the marks are to be written. */
static void overwriting__ends_without_memory_when_its_page_has_come(void **state)
{
    struct world w;
    struct probe p[PAGES];
    (void)state;
    skip_without_allocator();
    for (uint64_t seed = 1; seed <= 24; seed++) {
        const uint64_t count = 1 + seed % PAGES;
        world_new(&w, seed);
        world_reopen(&w);
        for (uint64_t i = 0; i < count; i++)
            overwrite_start(&w, &p[i], i);
        left_until_failure = 1 + (unsigned)(seed / PAGES % 2);
        armed = true;
        run_out(&w);
        armed = false;
        left_until_failure = 0;
        for (uint64_t i = 0; i < count; i++) {
            assert_int_equal(p[i].ran, 1); /* the disk may lack memory as well */
            assert_true(p[i].result == 0 || p[i].result == SNAP_ENOMEM);
        }
        world_free(&w);
    }
}

static void looked_up(struct sum_lookup *l, int code, const struct err *err)
{
    (void)err;
    assert_int_equal(code, 0);
    *(bool *)l->user = true;
}

/* One that failed for it would be taken for lost writes. */
static void flush__writes_its_pages_without_memory(void **state)
{
    struct world w;
    struct sum_slot slot, now[PAGES];
    bool done = false;
    (void)state;
    skip_without_allocator();
    world_new(&w, 1);
    memset(w.bytes, 'b', BLOCK);
    for (uint64_t i = 0; i < PAGES; i++) {
        const uint64_t block = i * SUM_PAGE_SLOTS + 7;
        struct sum_lookup l = {
            .first_block = block, .count = 1, .slots = &slot, .done = looked_up, .user = &done};
        done = false;
        sum_dev_lookup(w.dev, &l);
        run_out(&w);
        assert_true(done);
        assert_int_equal(sum_dev_set(w.dev, block, 3, w.bytes, &w.err), 0);
    }
    no_copies = true;
    const int rc = probe_run(w.dev, BLK_FLUSH, 0, 0, 0, NULL);
    no_copies = false;
    assert_int_equal(rc, 0);
    world_reopen(&w);
    for (uint64_t i = 0; i < PAGES; i++) {
        const uint64_t block = i * SUM_PAGE_SLOTS + 7;
        struct sum_lookup l = {
            .first_block = block, .count = 1, .slots = &now[i], .done = looked_up, .user = &done};
        done = false;
        sum_dev_lookup(w.dev, &l);
        run_out(&w);
        assert_true(done && now[i].now == sum_dev_of(w.dev, block, 3, w.bytes));
    }
    world_free(&w);
}

/* What is lost while the page is on its way is not freed twice. */
static void power_loss__while_a_mark_is_written_without_memory(void **state)
{
    struct world w;
    struct probe p;
    (void)state;
    skip_without_allocator();
    world_new(&w, 1);
    left_until_failure = 1;
    armed = true;
    overwrite_start(&w, &p, 0);
    armed = false;
    world_reopen(&w);
    assert_int_equal(probe_run(w.dev, BLK_WRITE, 0, 5 * BLOCK, BLOCK, w.bytes), 0);
    world_free(&w);
}

/* False: no allocation was left to fail. */
static bool torture_once(unsigned nth)
{
    enum { WRITES = 12 };
    struct world w;
    struct probe p[WRITES], flush;
    world_new(&w, nth);
    if (nth % 2 == 0)
        world_reopen(&w);
    left_until_failure = nth;
    armed = true;
    for (uint64_t i = 0; i < WRITES; i++) { /* new ones and overwriting */
        uint64_t block = i % PAGES * SUM_PAGE_SLOTS + 5 + i / PAGES / 2;
        probe_start(w.dev, &p[i], BLK_WRITE, 0, block * BLOCK, BLOCK, w.bytes);
        if (i % 4 == 3)
            run_out(&w);
    }
    probe_start(w.dev, &flush, BLK_FLUSH, 0, 0, 0, NULL);
    run_out(&w);
    armed = false;
    bool failed = left_until_failure == 0;
    left_until_failure = 0;
    for (unsigned i = 0; i < WRITES; i++) {
        assert_int_equal(p[i].ran, 1);
        assert_true(p[i].result == 0 || p[i].result == SNAP_ENOMEM);
    }
    assert_int_equal(flush.ran, 1);
    world_free(&w);
    return failed;
}

static void every_allocation__fails_in_turn(void **state)
{
    unsigned nth = 1;
    (void)state;
    skip_without_allocator();
    while (torture_once(nth) || torture_once(nth + 1)) /* odd and even ones differ */
        nth++;
    print_message("%u allocations failed\n", nth - 1);
    assert_true(nth > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overwriting__alone_is_marked_without_memory),
        cmocka_unit_test(overwriting__ends_without_memory_when_its_page_has_come),
        cmocka_unit_test(flush__writes_its_pages_without_memory),
        cmocka_unit_test(power_loss__while_a_mark_is_written_without_memory),
        cmocka_unit_test(every_allocation__fails_in_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
