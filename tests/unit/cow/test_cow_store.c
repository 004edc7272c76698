/* SPDX-License-Identifier: Apache-2.0 */
/* Create, put, commit: what is told, in what order it reaches the disk, and what it costs. */
#include "tests/unit/cow/store_fixture.h"

#include "common/base/rng.h"
#include "tests/lib/seed.h"

/* -- figures of a real kernel --------------------------------------------------------- */

static void status__fresh_store_reads_16_of_all_and_16(void **state)
{
    struct fix f = fix_new(4096, 6144);

    (void)state;
    assert_string_equal(fix_status(&f), "16/49152 16");
    fix_done(&f);
}

static void status__follows_the_kernel_over_an_area_edge(void **state)
{
    static const struct {
        uint32_t exceptions;
        const char *status;
    } seen[] = {{255, "2056/49152 16"}, {256, "2072/49152 24"}, {257, "2080/49152 24"}};
    struct fix f = fix_new(4096, 6144);
    uint32_t at = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
        assert_int_equal(fix_put(&f, at, seen[i].exceptions - at, 1), 0);
        at = seen[i].exceptions;
        assert_string_equal(fix_status(&f), seen[i].status);
        fix_reopen(&f);
        assert_string_equal(fix_status(&f), seen[i].status);
        assert_int_equal(fix_usage(&f).exceptions, at);
    }
    fix_done(&f);
}

static void room__last_slot_needs_the_next_area(void **state)
{
    struct fix f = fix_new(4096, 258);

    (void)state;
    assert_int_equal(fix_put(&f, 0, 255, 1), 0);
    assert_int_equal(fix_put(&f, 255, 1, 1), SNAP_ENOSPC);
    assert_int_equal(cow_store_state(f.store), COW_READY);
    assert_int_equal(fix_put(&f, 3, 1, 1), 0); /* exists */
    fix_reopen(&f);
    assert_int_equal(fix_usage(&f).exceptions, 255);
    fix_done(&f);
}

static void room__259_chunks_take_the_256th(void **state)
{
    struct fix f = fix_new(4096, 259);
    struct put *p;

    (void)state;
    assert_int_equal(fix_put(&f, 0, 255, 1), 0);
    assert_int_equal(fix_put(&f, 255, 1, 1), 0);
    assert_string_equal(fix_status(&f), "2072/2072 24");
    p = put_send(&f, 256, 2, 1);
    fix_run(&f);
    assert_int_equal(p->outcomes[0], SNAP_ENOSPC);
    assert_int_equal(p->outcomes[1], SNAP_ENOSPC);
    put_free(p);
    fix_reopen(&f);
    assert_string_equal(fix_status(&f), "2072/2072 24");
    assert_true(fix_holds(&f, 255, 1));
    fix_done(&f);
}

/* -- put ---------------------------------------------------------------------------------- */

static void put__content_is_there_after_reopen(void **state)
{
    static const uint32_t sizes[] = {512, 4096, 16384, 65536};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct fix f = fix_new(sizes[i], 800);

        assert_int_equal(fix_put(&f, 100, 77, 5), 0);
        fix_reopen(&f);
        assert_int_equal(fix_usage(&f).exceptions, 77);
        for (uint64_t c = 100; c < 177; c++)
            assert_true(fix_holds(&f, c, 5));
        fix_done(&f);
    }
}

static void put__first_content_wins(void **state)
{
    struct fix f = fix_new(4096, 64);
    struct put *a = put_send(&f, 7, 1, 1), *b = put_send(&f, 7, 1, 2), *c;

    (void)state;
    fix_run(&f);
    assert_int_equal(a->outcomes[0], COW_ADDED);
    assert_int_equal(b->outcomes[0], COW_EXISTS);
    c = put_send(&f, 7, 1, 3);
    cow_store_kick(f.store);
    assert_int_equal(c->ran, 1);
    assert_int_equal(c->outcomes[0], COW_EXISTS);
    assert_true(fix_holds(&f, 7, 1));
    assert_int_equal(fix_usage(&f).exceptions, 1);
    assert_int_equal(fix_usage(&f).chunks_existed, 2);
    put_free(a);
    put_free(b);
    put_free(c);
    fix_done(&f);
}

static void put__repeat_in_a_batch_reads_exists(void **state)
{
    struct fix f = fix_new(4096, 64);
    struct put *p = put_new(&f, 7, 3, 1);

    (void)state;
    p->old_chunks[2] = 7;
    cow_store_put(f.store, &p->put);
    fix_run(&f);
    assert_int_equal(p->code, 0);
    assert_int_equal(p->outcomes[0], COW_ADDED);
    assert_int_equal(p->outcomes[1], COW_ADDED);
    assert_int_equal(p->outcomes[2], COW_EXISTS);
    assert_true(fix_holds(&f, 7, 1));
    put_free(p);
    fix_done(&f);
}

static void put__exists_only_once_the_first_is_durable(void **state)
{
    struct fix f = fix_new(4096, 64);
    struct put *a = put_send(&f, 7, 1, 1), *b = put_send(&f, 7, 1, 2);

    (void)state;
    cow_store_kick(f.store);
    while (!b->ran) {
        assert_false(fix_has(&f, 7));
        blk_engine_wait(f.engine, -1);
    }
    assert_int_equal(a->ran, 1);
    assert_true(fix_has(&f, 7));
    put_free(a);
    put_free(b);
    fix_done(&f);
}

static void put__waiting_payload_is_promoted_when_the_first_fails(void **state)
{
    struct fix f = fix_new(4096, 64);
    struct put *a = put_send(&f, 7, 1, 1), *b = put_send(&f, 7, 1, 2), *c = put_send(&f, 7, 1, 3);

    (void)state;
    mem_dev_fault_at(f.dev, BLK_WRITE, 1, MEM_FAULT_ERROR, EIO);
    fix_run(&f);
    assert_int_equal(a->outcomes[0], SNAP_EIO);
    assert_int_equal(a->code, SNAP_EIO);
    assert_non_null(strstr(a->err.text, "write chunk 2"));
    assert_int_equal(b->outcomes[0], COW_ADDED);
    assert_int_equal(c->outcomes[0], COW_EXISTS);
    assert_true(fix_holds(&f, 7, 2));
    fix_reopen(&f);
    assert_true(fix_holds(&f, 7, 2)); /* chunk 2 stays a hole */
    assert_int_equal(fix_usage(&f).next_free, 4);
    put_free(a);
    put_free(b);
    put_free(c);
    fix_done(&f);
}

static void put__failed_data_write_never_reaches_the_table(void **state)
{
    struct fix f = fix_new(4096, 64);
    struct put *p;

    (void)state;
    mem_dev_fail_range(f.dev, UINT64_C(5) * 4096, 4096, ENOSPC);
    p = put_send(&f, 0, 2, 1); /* chunks 2, 3: one write */
    cow_store_kick(f.store);
    put_free((fix_run(&f), p));
    p = put_send(&f, 10, 3, 1); /* chunks 4, 5, 6 in one write: all fail */
    fix_run(&f);
    assert_int_equal(p->code, SNAP_ENOSPC);
    put_free(p);
    assert_int_equal(fix_put(&f, 20, 1, 1), 0);
    fix_reopen(&f);
    assert_int_equal(fix_usage(&f).exceptions, 3);
    assert_true(fix_holds(&f, 20, 1));
    assert_false(fix_has(&f, 10));
    fix_done(&f);
}

static void put__chunk_larger_than_a_write_and_of_many_parts(void **state)
{
    enum { CHUNK = 4 * 1024 * 1024, PART = 4096, PARTS = CHUNK / PART };
    struct fix f = fix_new(CHUNK, 8);
    struct put *p = put_new(&f, 3, 1, 9);
    uint8_t *whole = p->iov[0].iov_base, *scattered = NULL;
    struct iovec *parts = calloc(PARTS, sizeof *parts);

    (void)state;
    /* every second part from another buffer, so that none can be joined */
    assert_int_equal(posix_memalign((void **)&scattered, 4096, 2 * (size_t)CHUNK), 0);
    for (unsigned i = 0; i < PARTS; i++) {
        parts[i] = (struct iovec){scattered + (size_t)i * 2 * PART, PART};
        memcpy(parts[i].iov_base, whole + (size_t)i * PART, PART);
    }
    p->put.iov = parts;
    p->put.iov_count = PARTS;
    cow_store_put(f.store, &p->put);
    fix_run(&f);
    assert_int_equal(p->code, 0);
    assert_true(fix_holds(&f, 3, 9));
    assert_int_equal(fix_usage(&f).data_writes, PARTS / BLK_IOV_MAX);
    p->put.iov_count = 1;
    put_free(p);
    free(parts);
    free(scattered);
    fix_done(&f);
}

static void put__part_of_a_large_chunk_fails_the_whole(void **state)
{
    enum { CHUNK = 8 * 1024 * 1024 };
    struct fix f = fix_new(CHUNK, 6);
    struct put *p = put_send(&f, 3, 1, 9);

    (void)state;
    mem_dev_fault_at(f.dev, BLK_WRITE, 1, MEM_FAULT_ERROR, EIO);
    fix_run(&f);
    assert_int_equal(p->code, SNAP_EIO);
    put_free(p);
    assert_int_equal(fix_usage(&f).exceptions, 0);
    fix_done(&f);
}

static void put__burst_is_one_sequential_write(void **state)
{
    struct fix f = fix_new(4096, 200);
    struct put *p[32];

    (void)state;
    for (unsigned i = 0; i < 32; i++)
        p[i] = put_send(&f, i * 3, 2, 1);
    fix_run(&f);
    assert_int_equal(fix_usage(&f).data_writes, 1);
    assert_int_equal(fix_usage(&f).data_bytes, 64 * 4096);
    for (unsigned i = 0; i < 32; i++) {
        assert_int_equal(p[i]->code, 0);
        put_free(p[i]);
    }
    for (unsigned i = 0; i < 32; i++)
        assert_true(fix_holds(&f, i * 3 + 1, 1));
    fix_done(&f);
}

static void put__table_is_in_the_order_of_giving_out(void **state)
{
    struct fix f = fix_disk(99, 4096, 1200 * 4096, 0);
    struct put *p[400];

    (void)state;
    fix_create(&f);
    fix_open(&f);
    for (unsigned i = 0; i < 400; i++) {
        p[i] = put_send(&f, (i * 7919) % 5000, 1, 1);
        cow_store_kick(f.store);
        if (i % 5 == 0)
            blk_engine_wait(f.engine, -1);
    }
    fix_run(&f);
    for (unsigned i = 0; i < 400; i++) {
        assert_int_equal(p[i]->code, 0);
        put_free(p[i]);
    }
    for (uint32_t i = 0, want = 2; i < 400; i++) {
        if (want == 258)
            want++;
        assert_int_equal(le64_load(disk_entry(&f, i / 256, i % 256) + 8), want++);
    }
    fix_done(&f);
}

static void put__empty_and_out_of_range(void **state)
{
    struct fix f = fix_new(4096, 64);
    struct put *p = put_send(&f, 0, 0, 0);

    (void)state;
    cow_store_kick(f.store);
    assert_int_equal(p->ran, 1);
    assert_int_equal(p->code, 0);
    put_free(p);
    assert_int_equal(fix_put(&f, LIMIT_VOLUME_BYTES / 4096, 1, 1), SNAP_EINVAL);
    assert_int_equal(fix_put(&f, LIMIT_VOLUME_BYTES / 4096 - 1, 1, 1), 0);
    fix_done(&f);
}

/* A callback that puts again, with its content existing: all in one kick. */
struct chain {
    struct fix *f;
    struct put *p;
    unsigned left;
};

static void chain_done(struct cow_put *put, int code, const struct err *err)
{
    struct chain *c = put->user;

    (void)err;
    assert_int_equal(code, 0);
    if (c->left-- == 0)
        return;
    cow_store_put(c->f->store, put);
    cow_store_kick(c->f->store);
}

static void put__from_within_a_callback(void **state)
{
    struct fix f = fix_new(4096, 64);
    struct put *p = put_new(&f, 3, 2, 1);
    struct chain c = {.f = &f, .p = p, .left = 1000};

    (void)state;
    p->put.done = chain_done;
    p->put.user = &c;
    cow_store_put(f.store, &p->put);
    fix_run(&f);
    assert_int_equal(c.left, UINT32_MAX);
    assert_int_equal(fix_usage(&f).chunks_existed, 2000);
    put_free(p);
    fix_done(&f);
}

/* -- commit ------------------------------------------------------------------------------------ */

static void commit__lone_put_costs_two_flushes_and_one_block(void **state)
{
    struct fix f = fix_new(65536, 64);
    struct mem_counters a = mem_dev_counters(f.dev), b;

    (void)state;
    assert_int_equal(fix_put(&f, 9, 1, 1), 0);
    b = mem_dev_counters(f.dev);
    assert_int_equal(b.flushes - a.flushes, 2);
    assert_int_equal(b.writes - a.writes, 2);
    assert_int_equal(b.written_bytes - a.written_bytes, 65536 + 4096);
    assert_int_equal(fix_usage(&f).commits, 1);
    fix_done(&f);
}

static void commit__steady_stream_costs_one_flush_each(void **state)
{
    struct fix f = fix_new(4096, 3000);
    struct mem_counters a = mem_dev_counters(f.dev);
    struct put *p[2000];
    struct cow_usage u;
    uint64_t flushes;

    (void)state;
    for (unsigned i = 0; i < 2000; i++) {
        p[i] = put_send(&f, i, 1, 1);
        cow_store_kick(f.store);
        mem_engine_step(f.engine);
        if (i % 2)
            mem_engine_step(f.engine);
    }
    fix_run(&f);
    for (unsigned i = 0; i < 2000; i++) {
        assert_int_equal(p[i]->outcomes[0], COW_ADDED);
        put_free(p[i]);
    }
    u = fix_usage(&f);
    flushes = mem_dev_counters(f.dev).flushes - a.flushes;
    print_message("%llu chunks, %llu commits, %llu flushes, %llu area writes, %llu data writes\n",
                  (unsigned long long)u.chunks_added, (unsigned long long)u.commits,
                  (unsigned long long)flushes, (unsigned long long)u.area_writes,
                  (unsigned long long)u.data_writes);
    assert_int_equal(u.flushes, flushes);
    assert_true(u.commits > 20);
    /* completions come in any order: now and then nothing is ready to share a flush with */
    assert_true(flushes * 2 <= u.commits * 3);
    fix_done(&f);
}

static void commit__sixteen_writers_group_as_the_kernel_does(void **state)
{
    struct fix f = fix_new(4096, 3000);
    struct cow_usage u;
    struct put *p[16];
    uint64_t next = 0;

    (void)state;
    for (unsigned i = 0; i < 16; i++)
        p[i] = put_send(&f, next++, 1, 1);
    cow_store_kick(f.store);
    while (next < 2000) {
        blk_engine_wait(f.engine, -1);
        for (unsigned i = 0; i < 16; i++) {
            if (!p[i]->ran)
                continue;
            put_free(p[i]);
            p[i] = put_send(&f, next++, 1, 1);
        }
        cow_store_kick(f.store);
    }
    fix_run(&f);
    for (unsigned i = 0; i < 16; i++)
        put_free(p[i]);
    u = fix_usage(&f);
    assert_true(u.flushes * 100 <= u.chunks_added * 16);
    fix_done(&f);
}

/* Puts that are each in flight on their own: one commit for all, whatever order they end in. */
static void commit__waits_for_what_is_in_flight(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 20; seed++) {
        struct fix f = fix_disk(seed, 4096, 300 * 4096, 0);
        struct put *p[10];

        fix_create(&f);
        fix_open(&f);
        for (unsigned i = 0; i < 10; i++) {
            p[i] = put_send(&f, i * 4, 4, 1);
            cow_store_kick(f.store);
        }
        fix_run(&f);
        assert_int_equal(fix_usage(&f).data_writes, 10);
        assert_int_equal(fix_usage(&f).commits, 1);
        assert_int_equal(fix_usage(&f).flushes, 2);
        for (unsigned i = 0; i < 10; i++)
            put_free(p[i]);
        fix_done(&f);
    }
}

/* Where the first of many ends early it is told before the others. */
static void commit__does_not_wait_for_much_in_flight(void **state)
{
    enum { PUTS = 12, EACH = 4, CHUNK = 64 * 1024 }; /* 3 MiB: more than is waited for */
    unsigned parted = 0;

    (void)state;
    for (uint64_t seed = 1; seed < 50; seed++) {
        struct fix f = fix_disk(seed, CHUNK, (PUTS * EACH + 8) * CHUNK, 0);
        struct put *p[PUTS];
        unsigned told = 0;

        fix_create(&f);
        fix_open(&f);
        for (unsigned i = 0; i < PUTS; i++) {
            p[i] = put_send(&f, i * EACH, EACH, 1);
            cow_store_kick(f.store);
        }
        while (told == 0 && mem_engine_step(f.engine))
            for (unsigned i = 0; i < PUTS; i++)
                told += p[i]->ran;
        parted += told < PUTS;
        fix_run(&f);
        for (unsigned i = 0; i < PUTS; i++) {
            assert_int_equal(p[i]->code, 0);
            put_free(p[i]);
        }
        fix_done(&f);
    }
    assert_true(parted > 0);
}

static void commit__two_flushes_whatever_its_size(void **state)
{
    struct fix f = fix_new(4096, 3000);
    struct mem_counters a = mem_dev_counters(f.dev), b;
    struct put *p = put_send(&f, 0, 500, 1); /* one write of 2 MiB is 512 chunks */

    (void)state;
    fix_run(&f);
    b = mem_dev_counters(f.dev);
    assert_int_equal(p->code, 0);
    put_free(p);
    assert_int_equal(fix_usage(&f).exceptions, 500);
    assert_true(b.flushes - a.flushes <= 2 * fix_usage(&f).commits);
    fix_reopen(&f);
    assert_int_equal(fix_usage(&f).exceptions, 500);
    assert_int_equal(fix_usage(&f).areas, 2);
    fix_done(&f);
}

static void commit__group_over_many_areas(void **state)
{
    /* 512-byte chunks: 32 exceptions an area; 256 chunks a write: groups over 8 areas and more */
    struct fix f = fix_new(512, 9000);
    struct put *p = put_send(&f, 1000, 4096, 1);
    struct cow_usage u;

    (void)state;
    /* stale entries where the areas will be: they must not come back */
    for (uint64_t k = 1; k < 130; k++)
        disk_set(&f, k, 0, 1, 2);
    fix_run(&f);
    assert_int_equal(p->code, 0);
    u = fix_usage(&f);
    assert_int_equal(u.exceptions, 4096);
    assert_true(u.flushes <= 2 * u.commits);
    put_free(p);
    assert_int_equal(fix_put(&f, 0, 31, 1), 0);
    fix_reopen(&f);
    assert_int_equal(fix_usage(&f).exceptions, 4127);
    for (uint64_t c = 1000; c < 5096; c++)
        assert_true(fix_holds(&f, c, 1));
    fix_done(&f);
}

static void commit__stale_next_area_is_zeroed_before_the_last_slot(void **state)
{
    struct fix f = fix_new(4096, 1000);

    (void)state;
    disk_set(&f, 1, 0, 77, 5);
    disk_set(&f, 1, 1, 78, 6);
    assert_int_equal(fix_put(&f, 1000, 256, 1), 0);
    assert_true(bytes_are_zero(disk_entry(&f, 1, 0), 4096));
    fix_reopen(&f);
    assert_int_equal(fix_usage(&f).exceptions, 256);
    assert_false(fix_has(&f, 77));
    fix_done(&f);
}

/* Every write and flush fails in turn: nothing is told that is not there, the store says it
 * is poisoned, and opens again with what was told. */
static void commit__fault_at_every_operation_loses_nothing_told(void **state)
{
    static const enum blk_op ops[] = {BLK_WRITE, BLK_FLUSH};

    (void)state;
    for (unsigned o = 0; o < 2; o++) {
        for (unsigned n = 1; n < 40; n++) {
            struct fix f = fix_new(512, 400);
            struct put *p[40];
            enum cow_state end;
            int last;

            mem_dev_fault_at(f.dev, ops[o], n, MEM_FAULT_ERROR, EIO);
            for (unsigned i = 0; i < 40; i++) {
                p[i] = put_send(&f, i * 5, 5, 1);
                if (i % 3 == 0)
                    cow_store_kick(f.store);
                blk_engine_wait(f.engine, -1);
            }
            fix_run(&f);
            end = cow_store_state(f.store);
            if (ops[o] == BLK_FLUSH)
                assert_true(end == COW_POISONED || fix_usage(&f).flushes < n);
            last = fix_put(&f, 900, 1, 1); /* may meet the fault itself */
            assert_true(last == SNAP_EPOISONED || (end != COW_POISONED && last != SNAP_ENOSPC));
            mem_engine_power_loss(f.engine);
            cow_store_abandon(f.store);
            f.store = NULL;
            cow_map_free(f.map);
            fix_open(&f);
            for (unsigned i = 0; i < 40; i++) {
                assert_int_equal(p[i]->ran, 1);
                for (unsigned k = 0; k < 5; k++) {
                    int outcome = p[i]->outcomes[k];

                    assert_true(outcome == COW_ADDED || outcome == SNAP_EIO ||
                                outcome == SNAP_EPOISONED);
                    assert_true(outcome != COW_ADDED || fix_has(&f, i * 5 + k));
                    assert_true(!fix_has(&f, i * 5 + k) || fix_holds(&f, i * 5 + k, 1));
                }
                put_free(p[i]);
            }
            fix_done(&f);
        }
    }
}

static void commit__power_loss_at_every_step_keeps_what_was_told(void **state)
{
    uint64_t seed = seed_take();

    (void)state;
    for (unsigned cut = 1; cut < 250; cut++) {
        struct fix f = fix_disk(seed + cut, 512, UINT64_C(400) * 512, 0);
        struct put *p[40];
        unsigned sent = 0, steps = 0;

        fix_create(&f);
        fix_open(&f);
        while (steps < cut && (sent < 40 || blk_engine_inflight(f.engine))) {
            if (sent < 40 && steps % 2 == 0) {
                p[sent] = put_send(&f, sent * 5, 5, cut);
                sent++;
                cow_store_kick(f.store);
            }
            mem_engine_step(f.engine);
            steps++;
        }
        mem_engine_power_loss(f.engine);
        cow_store_abandon(f.store);
        f.store = NULL;
        cow_map_free(f.map);
        fix_open(&f);
        for (unsigned i = 0; i < sent; i++) {
            for (unsigned k = 0; k < 5; k++) {
                assert_true(!p[i]->ran || fix_has(&f, i * 5 + k));
                assert_true(!fix_has(&f, i * 5 + k) || fix_holds(&f, i * 5 + k, cut));
            }
            put_free(p[i]);
        }
        fix_done(&f);
    }
}

/* -- growth -------------------------------------------------------------------------------------
 */

static void grow__ahead_of_need_up_to_the_limit(void **state)
{
    struct fix f = fix_disk(3, 4096, 0, UINT64_C(1000) * 4096);

    (void)state;
    f.options.grow_step_bytes = 64 * 4096;
    fix_create(&f);
    assert_int_equal(blk_dev_info(f.dev)->size_bytes, 3 * 4096);
    fix_open(&f);
    assert_int_equal(fix_put(&f, 0, 500, 1), 0);
    assert_true(blk_dev_info(f.dev)->size_bytes > 502 * 4096);
    assert_true(mem_dev_counters(f.dev).grows < 20);
    /* chunks 0, 1, 258, 515, 772 are not for data: 995 fit */
    assert_int_equal(fix_put(&f, 500, 495, 1), 0);
    assert_int_equal(fix_put(&f, 995, 1, 1), SNAP_ENOSPC);
    assert_int_equal(fix_usage(&f).device_sectors, 8000);
    assert_int_equal(cow_store_state(f.store), COW_READY);
    fix_reopen(&f);
    assert_int_equal(fix_usage(&f).exceptions, 995);
    fix_done(&f);
}

static void grow__what_is_in_hand_goes_with_what_is_used(void **state)
{
    struct fix f = fix_disk(3, 4096, 0, 1024 * MIB);

    (void)state;
    f.options.grow_step_bytes = 64 * MIB; /* the largest, not the first */
    fix_create(&f);
    fix_open(&f);
    assert_int_equal(blk_dev_info(f.dev)->size_bytes, 3 * 4096); /* unused: nothing */
    assert_int_equal(fix_put(&f, 0, 100, 1), 0);
    assert_int_equal(blk_dev_info(f.dev)->size_bytes, 1 * MIB + 3 * 4096);
    for (uint64_t used = 100; used < 12000; used += 100) {
        uint64_t used_bytes = (used + 100) * 4096;

        assert_int_equal(fix_put(&f, used, 100, 1), 0);
        assert_true(blk_dev_info(f.dev)->size_bytes <= u64_max(5 * used_bytes, 4 * MIB));
    }
    assert_true(mem_dev_counters(f.dev).grows <= 8);
    fix_done(&f);
}

static void grow__step_stays_below_its_cap(void **state)
{
    struct fix f = fix_disk(3, 4096, 0, 1024 * MIB);
    uint64_t before;

    (void)state;
    f.options.grow_step_bytes = 2 * MIB;
    fix_create(&f);
    fix_open(&f);
    before = blk_dev_info(f.dev)->size_bytes;
    for (uint64_t used = 0; used < 4000; used += 10) {
        assert_int_equal(fix_put(&f, used, 10, 1), 0);
        assert_true(blk_dev_info(f.dev)->size_bytes <= before + 2 * MIB);
        before = blk_dev_info(f.dev)->size_bytes;
    }
    fix_done(&f);
}

static void grow__refused_step_is_tried_smaller(void **state)
{
    struct fix f = fix_disk(3, 4096, 0, UINT64_C(20) * 4096);

    (void)state;
    f.options.limit_bytes = UINT64_C(1) << 40; /* the disk below gives less */
    fix_create(&f);
    fix_open(&f);
    assert_int_equal(fix_put(&f, 0, 18, 1), 0);
    assert_int_equal(blk_dev_info(f.dev)->size_bytes, 20 * 4096);
    assert_int_equal(fix_put(&f, 18, 3, 1), SNAP_ENOSPC);
    assert_int_equal(cow_store_state(f.store), COW_READY);
    assert_int_equal(fix_put(&f, 17, 1, 1), 0);
    fix_done(&f);
}

static void grow__put_waits_for_room_and_repeats_wait_with_it(void **state)
{
    struct fix f = fix_disk(3, 4096, 0, UINT64_C(300) * 4096);
    struct put *a, *b;

    (void)state;
    f.options.grow_step_bytes = 16 * 4096;
    fix_create(&f);
    fix_open(&f);
    a = put_send(&f, 0, 100, 1);
    b = put_send(&f, 50, 100, 2);
    fix_run(&f);
    assert_int_equal(a->code, 0);
    assert_int_equal(b->code, 0);
    assert_int_equal(b->outcomes[0], COW_EXISTS);
    assert_int_equal(b->outcomes[99], COW_ADDED);
    assert_true(fix_holds(&f, 99, 1));
    assert_true(fix_holds(&f, 100, 2));
    put_free(a);
    put_free(b);
    fix_done(&f);
}

static void limit__is_kept_and_can_be_raised(void **state)
{
    struct fix f = fix_disk(3, 4096, 0, UINT64_C(300) * 4096);

    (void)state;
    f.options.limit_bytes = 12 * 4096;
    fix_create(&f);
    fix_open(&f);
    assert_int_equal(fix_put(&f, 0, 10, 1), 0);
    assert_int_equal(fix_put(&f, 10, 1, 1), SNAP_ENOSPC);
    assert_int_equal(fix_usage(&f).limit_sectors, 12 * 8);
    assert_int_equal(cow_store_set_limit(f.store, 11 * 4096, NULL), SNAP_EINVAL);
    assert_int_equal(cow_store_set_limit(f.store, 14 * 4096, NULL), 0);
    assert_int_equal(fix_put(&f, 10, 3, 1), SNAP_ENOSPC);
    assert_int_equal(fix_usage(&f).exceptions, 12);
    assert_int_equal(cow_store_set_limit(f.store, 0, NULL), 0);
    assert_int_equal(fix_put(&f, 20, 1, 1), SNAP_ENOSPC);
    fix_done(&f);

    f = fix_new(4096, 20);
    assert_int_equal(cow_store_set_limit(f.store, 40 * 4096, NULL), SNAP_ENOTSUP);
    fix_done(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status__fresh_store_reads_16_of_all_and_16),
        cmocka_unit_test(status__follows_the_kernel_over_an_area_edge),
        cmocka_unit_test(room__last_slot_needs_the_next_area),
        cmocka_unit_test(room__259_chunks_take_the_256th),
        cmocka_unit_test(put__content_is_there_after_reopen),
        cmocka_unit_test(put__first_content_wins),
        cmocka_unit_test(put__repeat_in_a_batch_reads_exists),
        cmocka_unit_test(put__exists_only_once_the_first_is_durable),
        cmocka_unit_test(put__waiting_payload_is_promoted_when_the_first_fails),
        cmocka_unit_test(put__failed_data_write_never_reaches_the_table),
        cmocka_unit_test(put__chunk_larger_than_a_write_and_of_many_parts),
        cmocka_unit_test(put__part_of_a_large_chunk_fails_the_whole),
        cmocka_unit_test(put__burst_is_one_sequential_write),
        cmocka_unit_test(put__table_is_in_the_order_of_giving_out),
        cmocka_unit_test(put__empty_and_out_of_range),
        cmocka_unit_test(put__from_within_a_callback),
        cmocka_unit_test(commit__lone_put_costs_two_flushes_and_one_block),
        cmocka_unit_test(commit__steady_stream_costs_one_flush_each),
        cmocka_unit_test(commit__sixteen_writers_group_as_the_kernel_does),
        cmocka_unit_test(commit__waits_for_what_is_in_flight),
        cmocka_unit_test(commit__does_not_wait_for_much_in_flight),
        cmocka_unit_test(commit__two_flushes_whatever_its_size),
        cmocka_unit_test(commit__group_over_many_areas),
        cmocka_unit_test(commit__stale_next_area_is_zeroed_before_the_last_slot),
        cmocka_unit_test(commit__fault_at_every_operation_loses_nothing_told),
        cmocka_unit_test(commit__power_loss_at_every_step_keeps_what_was_told),
        cmocka_unit_test(grow__ahead_of_need_up_to_the_limit),
        cmocka_unit_test(grow__what_is_in_hand_goes_with_what_is_used),
        cmocka_unit_test(grow__step_stays_below_its_cap),
        cmocka_unit_test(grow__refused_step_is_tried_smaller),
        cmocka_unit_test(grow__put_waits_for_room_and_repeats_wait_with_it),
        cmocka_unit_test(limit__is_kept_and_can_be_raised),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
