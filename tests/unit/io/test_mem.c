/* SPDX-License-Identifier: Apache-2.0 */
/* The simulator's disk: what faults do, and what a power loss keeps and loses. */
#include "tests/lib/cm.h"

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/io/mem.h"
#include "tests/lib/seed.h"
#include "tests/unit/io/probe.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECTORS = 64, DEV_BYTES = SECTORS * 512, SEEDS = 400 };

static _Alignas(512) uint8_t buf_a[DEV_BYTES];
static _Alignas(512) uint8_t buf_b[DEV_BYTES];
static _Alignas(512) uint8_t buf_c[DEV_BYTES];

struct disk {
    struct blk_engine *engine;
    struct blk_dev *dev;
};

static struct disk disk_new(uint64_t seed, uint64_t grow_limit_bytes)
{
    struct disk d;

    assert_int_equal(blk_engine_new_memory(seed, &d.engine, NULL), 0);
    assert_int_equal(mem_dev_new(d.engine, "d", DEV_BYTES, 512, grow_limit_bytes, &d.dev, NULL), 0);
    return d;
}

static void disk_free(struct disk *d)
{
    blk_dev_close(d->dev);
    blk_engine_free(d->engine);
}

static void put(struct disk *d, unsigned flags, uint64_t offset, uint64_t len, uint8_t *data)
{
    assert_int_equal(probe_run(d->dev, BLK_WRITE, flags, offset, len, data), 0);
}

static void flush(struct disk *d)
{
    assert_int_equal(probe_run(d->dev, BLK_FLUSH, 0, 0, 0, NULL), 0);
}

/* The fill byte of each sector of the image in [0, count), which must be uniform. */
static unsigned fill_of(struct disk *d, uint64_t sector)
{
    const uint8_t *s = mem_dev_image(d->dev) + sector * 512;

    for (size_t i = 1; i < 512; i++)
        assert_int_equal(s[i], s[0]);
    return s[0];
}

static int setup(void **state)
{
    (void)state;
    memset(buf_a, 'a', sizeof buf_a);
    memset(buf_b, 'b', sizeof buf_b);
    memset(buf_c, 'c', sizeof buf_c);
    return 0;
}

/* -- power loss -------------------------------------------------------------------- */

static void power_loss__unflushed_sectors_are_lost_kept_and_torn(void **state)
{
    unsigned lost = 0;
    unsigned kept = 0;
    unsigned torn = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct disk d = disk_new(seed, 0);
        put(&d, 0, 0, 8 * 512, buf_a);
        mem_engine_power_loss(d.engine);
        unsigned new_sectors = 0;
        for (uint64_t s = 0; s < 8; s++) {
            unsigned fill = fill_of(&d, s);
            assert_true(fill == 0 || fill == 'a');
            new_sectors += fill == 'a';
        }
        lost += new_sectors == 0;
        kept += new_sectors == 8;
        torn += new_sectors > 0 && new_sectors < 8;
        assert_memory_equal(mem_dev_image(d.dev), mem_dev_platter(d.dev), DEV_BYTES);
        disk_free(&d);
    }
    assert_true(lost > 0 && kept > 0 && torn > 0);
    assert_int_equal(lost + kept + torn, SEEDS);
}

static void power_loss__later_ones_are_as_fair_as_the_first(void **state)
{
    enum { LOSSES = 8 };
    unsigned kept[LOSSES] = {0};

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct disk d = disk_new(seed, 0);
        for (size_t i = 0; i < LOSSES; i++) {
            put(&d, 0, 0, 4 * 512, i % 2 == 0 ? buf_a : buf_b);
            mem_engine_power_loss(d.engine);
            for (uint64_t s = 0; s < 4; s++)
                kept[i] += fill_of(&d, s) == (i % 2 == 0 ? 'a' : 'b');
            put(&d, BLK_FUA, 0, 4 * 512, buf_c);
        }
        disk_free(&d);
    }
    for (size_t i = 0; i < LOSSES; i++)
        assert_in_range(kept[i], SEEDS * 4 * 2 / 5, SEEDS * 4 * 3 / 5);
}

static void power_loss__forgets_armed_faults(void **state)
{
    struct disk d = disk_new(5, 0);

    (void)state;
    mem_dev_fault_at(d.dev, BLK_WRITE, 1, MEM_FAULT_ERROR, EIO);
    mem_engine_power_loss(d.engine);
    put(&d, 0, 0, 512, buf_a);
    disk_free(&d);
}

static void power_loss__any_earlier_version_may_be_there(void **state)
{
    unsigned seen[4] = {0}; /* platter, a, b, c */
    unsigned reordered = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct disk d = disk_new(seed, 0);
        put(&d, 0, 0, 512, buf_a);
        put(&d, 0, 0, 512, buf_b);
        put(&d, 0, 0, 1024, buf_c);
        mem_engine_power_loss(d.engine);
        unsigned fill = fill_of(&d, 0);
        seen[fill == 0 ? 0 : fill - 'a' + 1]++;
        reordered += fill != 'c' && fill_of(&d, 1) == 'c';
        disk_free(&d);
    }
    for (size_t i = 0; i < ARRAY_LEN(seen); i++)
        assert_true(seen[i] > 0);
    assert_true(reordered > 0);
}

static void power_loss__flushed_is_never_lost(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct disk d = disk_new(seed, 0);
        put(&d, 0, 0, 8 * 512, buf_a);
        put(&d, 0, 0, 2 * 512, buf_b);
        assert_int_equal(probe_run(d.dev, BLK_ZERO, 0, 7 * 512, 512, NULL), 0);
        flush(&d);
        put(&d, 0, 4 * 512, 512, buf_c);
        mem_engine_power_loss(d.engine);
        for (uint64_t s = 0; s < 8; s++) {
            unsigned fill = fill_of(&d, s);
            if (s == 4)
                assert_true(fill == 'a' || fill == 'c');
            else
                assert_int_equal(fill, s < 2 ? 'b' : s == 7 ? 0 : 'a');
        }
        disk_free(&d);
    }
}

static void power_loss__fua_is_never_lost_and_covers_only_itself(void **state)
{
    unsigned others_lost = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct disk d = disk_new(seed, 0);
        put(&d, 0, 0, 4 * 512, buf_a);
        put(&d, BLK_FUA, 512, 512, buf_b);
        assert_int_equal(probe_run(d.dev, BLK_ZERO, BLK_FUA, 2 * 512, 512, NULL), 0);
        assert_int_equal(fill_of(&d, 1), 'b');
        mem_engine_power_loss(d.engine);
        assert_int_equal(fill_of(&d, 1), 'b'); /* and no older version comes back */
        assert_int_equal(fill_of(&d, 2), 0);
        others_lost += fill_of(&d, 0) == 0;
        disk_free(&d);
    }
    assert_true(others_lost > 0);
}

static void power_loss__newer_unflushed_may_replace_fua(void **state)
{
    unsigned newer = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct disk d = disk_new(seed, 0);
        put(&d, BLK_FUA, 0, 512, buf_b);
        put(&d, 0, 0, 512, buf_c);
        mem_engine_power_loss(d.engine);
        assert_true(fill_of(&d, 0) == 'b' || fill_of(&d, 0) == 'c');
        newer += fill_of(&d, 0) == 'c';
        disk_free(&d);
    }
    assert_true(newer > 0 && newer < SEEDS);
}

static void flush__covers_what_was_complete_when_it_was_submitted(void **state)
{
    unsigned during_lost = 0;
    unsigned during_kept = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct disk d = disk_new(seed, 0);
        struct probe w;
        struct probe f;
        put(&d, 0, 0, 512, buf_a);
        probe_start(d.dev, &f, BLK_FLUSH, 0, 0, 0, NULL);
        probe_start(d.dev, &w, BLK_WRITE, 0, 512, 512, buf_b);
        bool write_first = false;
        while (f.ran == 0 || w.ran == 0) {
            assert_true(mem_engine_step(d.engine));
            write_first = write_first || (w.ran == 1 && f.ran == 0);
        }
        mem_engine_power_loss(d.engine);
        assert_int_equal(fill_of(&d, 0), 'a');
        during_lost += write_first && fill_of(&d, 1) == 0;
        during_kept += write_first && fill_of(&d, 1) == 'b';
        disk_free(&d);
    }
    assert_true(during_lost > 0 && during_kept > 0);
}

static void power_loss__in_flight_happens_whole_in_part_or_not(void **state)
{
    unsigned seen[3] = {0};

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct disk d = disk_new(seed, 0);
        struct probe w;
        probe_start(d.dev, &w, BLK_WRITE, BLK_FUA, 0, 4 * 512, buf_a);
        mem_engine_power_loss(d.engine);
        assert_int_equal(blk_engine_inflight(d.engine), 0);
        assert_false(mem_engine_step(d.engine));
        assert_int_equal(w.ran, 0);
        unsigned n = 0;
        for (uint64_t s = 0; s < 4; s++)
            n += fill_of(&d, s) == 'a';
        seen[n == 0 ? 0 : n == 4 ? 2 : 1]++;
        disk_free(&d); /* nothing is in flight any more */
    }
    assert_true(seen[0] > 0 && seen[1] > 0 && seen[2] > 0);
}

static void power_loss__garbage_only_in_unflushed_sectors_and_when_asked(void **state)
{
    unsigned spoiled = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct disk d = disk_new(seed, 0);
        put(&d, BLK_FUA, 0, 8 * 512, buf_a);
        put(&d, 0, 2 * 512, 2 * 512, buf_b);
        mem_engine_set_garbage(d.engine, 50);
        mem_engine_power_loss(d.engine);
        const uint8_t *image = mem_dev_image(d.dev);
        assert_memory_equal(image, buf_a, 2 * 512);
        assert_memory_equal(image + 4 * 512, buf_a, 4 * 512);
        spoiled +=
            memcmp(image + 2 * 512, buf_a, 512) != 0 && memcmp(image + 2 * 512, buf_b, 512) != 0;
        disk_free(&d);
    }
    assert_true(spoiled > 10 && spoiled < 40);
}

static void power_loss__grow_is_kept_once_flushed_or_reached_by_fua(void **state)
{
    unsigned lost = 0;
    unsigned kept = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct disk d = disk_new(seed, 4 * DEV_BYTES);
        assert_int_equal(blk_grow_sync(d.dev, 2 * DEV_BYTES, NULL), 0);
        if (seed % 2 == 0)
            flush(&d);
        else
            put(&d, BLK_FUA, DEV_BYTES, 512, buf_a);
        put(&d, 0, 2 * DEV_BYTES - 512, 512, buf_b);
        assert_int_equal(blk_grow_sync(d.dev, 3 * DEV_BYTES, NULL), 0);
        put(&d, 0, 3 * DEV_BYTES - 512, 512, buf_c);
        mem_engine_power_loss(d.engine);
        uint64_t size = blk_dev_info(d.dev)->size_bytes;
        if (size == 2 * DEV_BYTES)
            lost++;
        else
            kept += size == 3 * DEV_BYTES;
        if (seed % 2 == 1)
            assert_int_equal(fill_of(&d, SECTORS), 'a');
        if (size == 2 * DEV_BYTES) { /* grown again, it holds zeros and not what was lost */
            assert_int_equal(blk_grow_sync(d.dev, 3 * DEV_BYTES, NULL), 0);
            assert_true(bytes_are_zero(mem_dev_image(d.dev) + 2 * DEV_BYTES, DEV_BYTES));
        }
        disk_free(&d);
    }
    assert_true(lost > 0 && kept > 0);
    assert_int_equal(lost + kept, SEEDS);
}

static void settle__makes_the_set_up_durable(void **state)
{
    struct disk d = disk_new(1, 0);

    (void)state;
    memcpy(mem_dev_image(d.dev), buf_a, 512);
    mem_dev_settle(d.dev);
    memcpy(mem_dev_image(d.dev) + 512, buf_a, 512);
    mem_engine_power_loss(d.engine);
    assert_int_equal(fill_of(&d, 0), 'a');
    assert_int_equal(fill_of(&d, 1), 0);
    disk_free(&d);
}

/* -- order ------------------------------------------------------------------------------ */

enum { RACERS = 6 };

/* In which order do the racers finish, and what is on the platter after? */
static void race(uint64_t seed, unsigned order[RACERS], uint8_t *ret_platter)
{
    struct disk d = disk_new(seed, 0);
    struct probe p[RACERS];
    unsigned place = 0;

    for (size_t i = 0; i < RACERS; i++)
        probe_start(d.dev, &p[i], BLK_WRITE, 0, i * 512, 1024, i % 2 == 0 ? buf_a : buf_b);
    while (mem_engine_step(d.engine))
        for (unsigned i = 0; i < RACERS; i++)
            if (p[i].ran == 1) {
                p[i].ran = 2;
                order[place++] = i;
            }
    assert_int_equal(place, RACERS);
    mem_engine_power_loss(d.engine);
    memcpy(ret_platter, mem_dev_platter(d.dev), DEV_BYTES);
    disk_free(&d);
}

static void same_seed__same_order_and_same_loss(void **state)
{
    static uint8_t platter[2][DEV_BYTES];
    unsigned order[2][RACERS];
    unsigned different = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        race(seed, order[0], platter[0]);
        race(seed, order[1], platter[1]);
        assert_memory_equal(order[0], order[1], sizeof order[0]);
        assert_memory_equal(platter[0], platter[1], DEV_BYTES);
        race(seed + 1, order[1], platter[1]);
        different += memcmp(order[0], order[1], sizeof order[0]) != 0;
    }
    assert_true(different > 30);
}

/* -- faults -------------------------------------------------------------------------------- */

static void fault_at__strikes_the_nth_of_its_kind_once(void **state)
{
    struct disk d = disk_new(3, 0);

    (void)state;
    mem_dev_fault_at(d.dev, BLK_WRITE, 2, MEM_FAULT_ERROR, EIO);
    mem_dev_fault_at(d.dev, BLK_READ, 1, MEM_FAULT_ERROR, ENOSPC);
    assert_int_equal(probe_run(d.dev, BLK_WRITE, 0, 0, 512, buf_a), 0);
    assert_int_equal(probe_run(d.dev, BLK_FLUSH, 0, 0, 0, NULL), 0);
    assert_int_equal(probe_run(d.dev, BLK_WRITE, 0, 512, 512, buf_a), SNAP_EIO);
    assert_int_equal(probe_run(d.dev, BLK_WRITE, 0, 512, 512, buf_a), 0);
    assert_int_equal(probe_run(d.dev, BLK_READ, 0, 0, 512, buf_b), SNAP_ENOSPC);
    assert_int_equal(probe_run(d.dev, BLK_READ, 0, 0, 512, buf_b), 0);
    disk_free(&d);
}

static void fault_at__failed_write_does_nothing_or_a_first_part(void **state)
{
    unsigned seen[3] = {0};

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct disk d = disk_new(seed, 0);
        mem_dev_fault_at(d.dev, BLK_WRITE, 1, MEM_FAULT_ERROR, EIO);
        assert_int_equal(probe_run(d.dev, BLK_WRITE, BLK_FUA, 0, 4 * 512, buf_a), SNAP_EIO);
        unsigned n = 0;
        for (uint64_t s = 0; s < 4; s++) {
            if (fill_of(&d, s) == 'a')
                assert_int_equal(n++, s);
        }
        seen[n == 0 ? 0 : n == 4 ? 2 : 1]++;
        disk_free(&d);
    }
    assert_true(seen[0] > 0 && seen[1] > 0 && seen[2] > 0);
}

static void fault_at__short_requests_are_resumed(void **state)
{
    unsigned half_seen = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct disk d = disk_new(seed, 0);
        struct probe w;
        struct iovec iov[] = {{buf_b, 1024}, {buf_b + 4096, 3072}};
        struct probe r = {
            .req = {.op = BLK_READ, .len_bytes = 8 * 512, .iov = iov, .iov_count = 2}};
        mem_dev_fault_at(d.dev, BLK_WRITE, 1, MEM_FAULT_SHORT, 0);
        mem_dev_fault_at(d.dev, BLK_READ, 1, MEM_FAULT_SHORT, 0);
        probe_start(d.dev, &w, BLK_WRITE, 0, 0, 8 * 512, buf_a);
        assert_true(mem_engine_step(d.engine));
        assert_int_equal(w.ran, 0);
        half_seen += fill_of(&d, 0) == 'a' && fill_of(&d, 7) == 0;
        assert_true(mem_engine_step(d.engine));
        assert_int_equal(w.ran, 1);
        assert_int_equal(w.result, 0);
        probe_submit(d.dev, &r);
        assert_int_equal(blk_engine_wait(d.engine, -1), 1);
        assert_int_equal(r.result, 0);
        assert_memory_equal(buf_b, buf_a, 1024);
        assert_memory_equal(buf_b + 4096, buf_a, 3072);
        assert_int_equal(buf_b[1024], 'b');
        disk_free(&d);
        memset(buf_b, 'b', sizeof buf_b);
    }
    assert_int_equal(half_seen, 50);
}

static void fault_at__failed_flush_takes_some_writes_back(void **state)
{
    unsigned gone = 0;
    unsigned later_durable = 0;

    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct disk d = disk_new(seed, 0);
        put(&d, BLK_FUA, 0, 512, buf_b);
        put(&d, 0, 0, 512, buf_a);
        put(&d, 0, 512, 512, buf_a);
        mem_dev_fault_at(d.dev, BLK_FLUSH, 1, MEM_FAULT_ERROR, EIO);
        assert_int_equal(probe_run(d.dev, BLK_FLUSH, 0, 0, 0, NULL), SNAP_EIO);
        unsigned after = fill_of(&d, 0);
        assert_true(after == 'a' || after == 'b');
        gone += after == 'b';
        flush(&d);
        mem_engine_power_loss(d.engine);
        assert_int_equal(fill_of(&d, 0), after); /* what is seen after it can be made durable */
        later_durable += after == 'a';
        disk_free(&d);
    }
    assert_true(gone > 0 && later_durable > 0);
}

/* One that the disk does after the failure finds nothing to do: whoever asked for it before that
 * was told must not take what is gone for durable. */
static void fault_at__failed_flush_fails_those_that_wait_for_it(void **state)
{
    enum { COUNT = 5 };

    (void)state;
    for (unsigned seed = 1; seed <= 50; seed++) {
        struct disk d = disk_new(seed, 0);
        struct probe p[COUNT];
        unsigned fails = 1 + seed % 2;
        mem_dev_fault_at(d.dev, BLK_FLUSH, fails, MEM_FAULT_ERROR, EIO);
        for (unsigned i = 0; i < COUNT; i++)
            probe_start(d.dev, &p[i], BLK_FLUSH, 0, 0, 0, NULL);
        while (p[0].ran == 0) {
            assert_true(mem_engine_step(d.engine));
            for (unsigned i = 1; i < COUNT; i++)
                assert_true(p[i].ran == 0 || p[0].ran == 1);
        }
        (void)probe_end(&p[COUNT - 1]);
        assert_int_equal(p[0].result, fails == 1 ? SNAP_EIO : 0);
        for (unsigned i = 1; i < COUNT; i++)
            assert_int_equal(p[i].result, SNAP_EIO);
        assert_int_equal(probe_run(d.dev, BLK_FLUSH, 0, 0, 0, NULL), 0);
        disk_free(&d);
    }
}

/* There is a flush in a FUA write: none runs beside it, and it beside none. */
static void fault_at__failed_fua_write_fails_flushes_that_wait_for_it(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 50; seed++) {
        struct disk d = disk_new(seed, 0);
        struct probe fua, late, flush;
        mem_dev_fault_at(d.dev, BLK_WRITE, 1, MEM_FAULT_ERROR, EIO);
        probe_start(d.dev, &fua, BLK_WRITE, BLK_FUA, 0, 512, buf_a);
        probe_start(d.dev, &flush, BLK_FLUSH, 0, 0, 0, NULL);
        probe_start(d.dev, &late, BLK_WRITE, BLK_FUA, 512, 512, buf_b);
        while (flush.ran + late.ran < 2) {
            assert_true(mem_engine_step(d.engine));
            assert_true(fua.ran == 1 || flush.ran + late.ran == 0);
        }
        assert_int_equal(fua.result, SNAP_EIO);
        assert_int_equal(flush.result, SNAP_EIO);
        assert_int_equal(late.req.flags, BLK_FUA);
        disk_free(&d);
    }
}

/* What finds no room has flushed nothing: those who wait get a flush of their own. */
static void fault_at__refused_fua_write_fails_nobody_else(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 50; seed++) {
        struct disk d = disk_new(seed, 0);
        struct probe fua, late, flush;
        unsigned no = 1 + seed % 2; /* the second is a write and the next flush */
        mem_dev_fault_at(d.dev, BLK_WRITE, no, MEM_FAULT_ERROR, no == 1 ? ENOSPC : EIO);
        probe_start(d.dev, &fua, BLK_WRITE, BLK_FUA, 0, 512, buf_a);
        probe_start(d.dev, &flush, BLK_FLUSH, 0, 0, 0, NULL);
        probe_start(d.dev, &late, BLK_WRITE, BLK_FUA, 512, 512, buf_b);
        for (unsigned i = 0; i < 1000 && fua.ran + flush.ran + late.ran < 3; i++)
            (void)mem_engine_step(d.engine);
        assert_int_equal(fua.result, no == 1 ? SNAP_ENOSPC : 0);
        assert_int_equal(late.result, no == 2 ? SNAP_EIO : 0);
        assert_int_equal(flush.result, 0);
        assert_int_equal(fua.req.refused, no == 1);
        assert_int_equal(late.req.refused, no == 2);
        assert_int_equal(late.req.flags, BLK_FUA);
        disk_free(&d);
    }
}

static void fua__beside_a_flush_is_a_write_and_the_next_flush(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 50; seed++) {
        struct disk d = disk_new(seed, 0);
        struct probe flush, fua[3];
        memset(buf_a, 'a', 512);
        probe_start(d.dev, &flush, BLK_FLUSH, 0, 0, 0, NULL);
        for (unsigned i = 0; i < 3; i++)
            probe_start(d.dev, &fua[i], i == 2 ? BLK_ZERO : BLK_WRITE, BLK_FUA, i * 512, 512,
                        buf_a);
        for (unsigned i = 0; i < 3; i++)
            (void)probe_end(&fua[i]);
        assert_int_equal(flush.result, 0);
        assert_in_range(mem_dev_counters(d.dev).flushes, 2, 4);
        mem_engine_power_loss(d.engine);
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(fua[i].result, 0);
            assert_int_equal(fua[i].req.flags, BLK_FUA);
            assert_int_equal(fill_of(&d, i), i == 2 ? 0 : 'a');
        }
        disk_free(&d);
    }
}

static void fail_range__until_it_is_taken_back(void **state)
{
    struct disk d = disk_new(9, 0);

    (void)state;
    mem_dev_fail_range(d.dev, 1024, 512, EIO);
    assert_int_equal(probe_run(d.dev, BLK_WRITE, 0, 0, 1024, buf_a), 0);
    assert_int_equal(probe_run(d.dev, BLK_WRITE, 0, 512, 1024, buf_a), SNAP_EIO);
    assert_int_equal(probe_run(d.dev, BLK_ZERO, 0, 0, 4096, NULL), SNAP_EIO);
    assert_int_equal(probe_run(d.dev, BLK_WRITE, 0, 1536, 512, buf_a), 0);
    assert_int_equal(probe_run(d.dev, BLK_READ, 0, 1024, 512, buf_b), 0);
    mem_engine_power_loss(d.engine);
    assert_int_equal(probe_run(d.dev, BLK_WRITE, 0, 1024, 512, buf_a), SNAP_EIO);
    mem_dev_fail_range(d.dev, 0, 0, 0);
    assert_int_equal(probe_run(d.dev, BLK_WRITE, 0, 1024, 512, buf_a), 0);
    disk_free(&d);
}

static void grow__up_to_the_limit(void **state)
{
    struct disk d = disk_new(9, 2 * DEV_BYTES);
    struct disk fixed = disk_new(9, 0);
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(blk_grow_sync(d.dev, 2 * DEV_BYTES, NULL), 0);
    assert_int_equal(blk_grow_sync(d.dev, 2 * DEV_BYTES + 512, &err), SNAP_ENOSPC);
    assert_int_equal(err.sys_errno, ENOSPC);
    assert_int_equal(blk_dev_info(d.dev)->size_bytes, 2 * DEV_BYTES);
    assert_int_equal(blk_grow_sync(fixed.dev, 2 * DEV_BYTES, NULL), SNAP_ENOTSUP);
    mem_dev_fault_at(d.dev, BLK_GROW, 1, MEM_FAULT_ERROR, ENOSPC);
    disk_free(&d);
    disk_free(&fixed);
}

static void counters__count_each_kind(void **state)
{
    struct disk d = disk_new(9, 2 * DEV_BYTES);

    (void)state;
    put(&d, 0, 0, 1024, buf_a);
    put(&d, BLK_FUA, 0, 512, buf_a);
    assert_int_equal(probe_run(d.dev, BLK_READ, 0, 0, 4096, buf_b), 0);
    /* never reached it */
    assert_int_equal(probe_run(d.dev, BLK_READ, 0, 1, 4096, buf_b), SNAP_EINVAL);
    assert_int_equal(probe_run(d.dev, BLK_ZERO, 0, 0, 512, NULL), 0);
    assert_int_equal(probe_run(d.dev, BLK_DISCARD, 0, 0, 512, NULL), 0);
    assert_int_equal(blk_grow_sync(d.dev, 2 * DEV_BYTES, NULL), 0);
    flush(&d);
    struct mem_counters c = mem_dev_counters(d.dev);
    assert_int_equal(c.writes, 2);
    assert_int_equal(c.written_bytes, 1536);
    assert_int_equal(c.reads, 1);
    assert_int_equal(c.read_bytes, 4096);
    assert_int_equal(c.zeroes, 1);
    assert_int_equal(c.discards, 1);
    assert_int_equal(c.grows, 1);
    assert_int_equal(c.flushes, 1);
    assert_int_equal(mem_engine_submitted(d.engine), 6);
    disk_free(&d);
}

static void write__buffer_changed_in_flight_is_our_bug(void **state)
{
    struct disk d = disk_new(9, 0);
    struct probe w;
    int status;

    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)close(2);
        probe_start(d.dev, &w, BLK_WRITE, 0, 0, 512, buf_a);
        buf_a[511] = 'x';
        (void)mem_engine_step(d.engine);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    disk_free(&d);
}

/* -- the model against a slow and simple one ---------------------------------------------- */

/* Every version that a sector may have after power loss, as bits of fill bytes. */
struct shadow {
    uint64_t may[SECTORS]; /* bit n: the fill byte n */
    unsigned now[SECTORS];
};

static void shadow_write(struct shadow *s, uint64_t from, uint64_t count, unsigned fill, bool fua)
{
    for (uint64_t i = from; i < from + count; i++) {
        s->may[i] = fua ? UINT64_C(1) << fill : s->may[i] | UINT64_C(1) << fill;
        s->now[i] = fill;
    }
}

static void random_work__stays_within_what_a_disk_may_do(void **state)
{
    static _Alignas(512) uint8_t fills[64][DEV_BYTES / 4];
    struct shadow s;
    struct rng rng;

    (void)state;
    seed_init_rng(&rng);
    for (unsigned i = 0; i < 64; i++)
        memset(fills[i], (int)i, sizeof fills[i]);
    struct disk d = disk_new(rng_u64(&rng), 0);
    for (unsigned round = 0; round < 300; round++) {
        for (uint64_t i = 0; i < SECTORS; i++) {
            s.now[i] = fill_of(&d, i);
            s.may[i] = UINT64_C(1) << s.now[i];
        }
        uint64_t steps = rng_below(&rng, 30);
        while (steps-- > 0) {
            uint64_t from = rng_below(&rng, SECTORS);
            uint64_t count = 1 + rng_below(&rng, u64_min(SECTORS - from, SECTORS / 4));
            unsigned fill = (unsigned)rng_below(&rng, 64);
            bool fua = rng_chance(&rng, 15);
            if (rng_chance(&rng, 15)) {
                flush(&d);
                for (uint64_t i = 0; i < SECTORS; i++)
                    s.may[i] = UINT64_C(1) << s.now[i];
                continue;
            }
            put(&d, fua ? BLK_FUA : 0, from * 512, count * 512, fills[fill]);
            shadow_write(&s, from, count, fill, fua);
        }
        for (uint64_t i = 0; i < SECTORS; i++)
            assert_int_equal(fill_of(&d, i), s.now[i]);
        mem_engine_power_loss(d.engine);
        for (uint64_t i = 0; i < SECTORS; i++)
            assert_true(s.may[i] >> fill_of(&d, i) & 1);
    }
    disk_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define CASE(f) cmocka_unit_test_setup(f, setup)
        CASE(power_loss__unflushed_sectors_are_lost_kept_and_torn),
        CASE(power_loss__later_ones_are_as_fair_as_the_first),
        CASE(power_loss__forgets_armed_faults),
        CASE(power_loss__any_earlier_version_may_be_there),
        CASE(power_loss__flushed_is_never_lost),
        CASE(power_loss__fua_is_never_lost_and_covers_only_itself),
        CASE(power_loss__newer_unflushed_may_replace_fua),
        CASE(flush__covers_what_was_complete_when_it_was_submitted),
        CASE(power_loss__in_flight_happens_whole_in_part_or_not),
        CASE(power_loss__garbage_only_in_unflushed_sectors_and_when_asked),
        CASE(power_loss__grow_is_kept_once_flushed_or_reached_by_fua),
        CASE(settle__makes_the_set_up_durable),
        CASE(same_seed__same_order_and_same_loss),
        CASE(fault_at__strikes_the_nth_of_its_kind_once),
        CASE(fault_at__failed_write_does_nothing_or_a_first_part),
        CASE(fault_at__short_requests_are_resumed),
        CASE(fault_at__failed_flush_takes_some_writes_back),
        CASE(fault_at__failed_flush_fails_those_that_wait_for_it),
        CASE(fault_at__failed_fua_write_fails_flushes_that_wait_for_it),
        CASE(fault_at__refused_fua_write_fails_nobody_else),
        CASE(fua__beside_a_flush_is_a_write_and_the_next_flush),
        CASE(fail_range__until_it_is_taken_back),
        CASE(grow__up_to_the_limit),
        CASE(counters__count_each_kind),
        CASE(write__buffer_changed_in_flight_is_our_bug),
        CASE(random_work__stays_within_what_a_disk_may_do),
#undef CASE
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
