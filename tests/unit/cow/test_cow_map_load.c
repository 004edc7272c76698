/* SPDX-License-Identifier: Apache-2.0 */
/* The exception map against a sorted array: bulk loading, memory that runs out, what an
 * exception takes. SEED=n repeats a run. */
#include "tests/unit/cow/cow_map_model.h"

/* Draw `count` entries whose keys neither are in d nor repeat. */
static struct cow_entry *draw_fresh(struct rng *r, const struct shape *s, const struct model *d,
                                    size_t count)
{
    struct cow_entry *x = calloc(count + 2, sizeof *x);
    struct model seen = {0};

    CHECK(x);
    for (size_t i = 0; i < count;) {
        x[i] = draw_entry(r, s);
        if (model_has(d, x[i].old_chunk, x[i].seq) || model_has(&seen, x[i].old_chunk, x[i].seq))
            continue;
        model_insert(&seen, x[i++]);
    }
    free(seen.x);
    return x;
}

/* -- loading ---------------------------------------------------------------------------- */

static void load__merges_with_what_is_there(void **state)
{
    uint64_t seed = seed_take();

    (void)state;
    for (size_t k = 0; k < 40; k++) {
        struct shape s = shapes[k % ARRAY_LEN(shapes)];
        struct cow_map *m = cow_map_new();
        struct model d = {0};
        struct rng r;

        rng_init(&r, seed + k);
        s.olds = u64_max(s.olds, 30000 / s.seqs);
        for (unsigned round = 0; round < 12; round++) {
            /* large ones rebuild, small ones are worked in */
            size_t count = 1 + (size_t)rng_below(&r, round == 0 || rng_chance(&r, 20) ? 4000 : 30);
            struct cow_entry *x = draw_fresh(&r, &s, &d, count);

            assert_int_equal(cow_map_load(m, x, count, NULL, NULL), 0);
            for (size_t i = 0; i < count; i++) {
                assert_true(i == 0 || key_cmp(&x[i - 1], x[i].old_chunk, x[i].seq) < 0);
                model_insert(&d, x[i]);
            }
            free(x);
            assert_same(m, &d);
            for (unsigned i = 0; i < 100; i++) {
                struct cow_entry q = draw_entry(&r, &s);

                assert_look_ups(m, &d, q.old_chunk, q.seq, q.old_chunk + 5);
                step(m, &d, &r, &s, 50);
            }
        }
        assert_same(m, &d);
        free(d.x);
        cow_map_free(m);
    }
}

static void load__few_entries_in_one_place_of_a_large_map(void **state)
{
    struct cow_map *m = cow_map_new();
    struct model d = {0};
    size_t count = 40000, few = 600;
    struct cow_entry *x = calloc(count, sizeof *x);

    (void)state;
    CHECK(x);
    d.x = calloc(count + few, sizeof *d.x);
    d.room = count + few;
    for (size_t i = 0; i < count; i++)
        x[i] = d.x[i] = (struct cow_entry){i * 100000, (i * 7919) % count, 5};
    d.count = count;
    assert_int_equal(cow_map_load(m, x, count, NULL, NULL), 0);
    for (size_t place = 0; place < 3; place++) { /* before all, in the middle, behind all */
        uint64_t base = (const uint64_t[]){1, 20000 * 100000ull + 1, count * 100000ull}[place];

        for (size_t i = 0; i < few / 3; i++) {
            x[i] = (struct cow_entry){base + i * 3, (i * 7919) % 10007 * 1000, 5};
            model_insert(&d, x[i]);
        }
        assert_int_equal(cow_map_load(m, x, few / 3, NULL, NULL), 0);
        assert_same(m, &d);
    }
    free(x);
    free(d.x);
    cow_map_free(m);
}

static void load__duplicate_is_named_and_changes_nothing(void **state)
{
    uint64_t seed = seed_take();
    const struct shape s = {"", 1 << 20, 16, 3, 0, 0, false};

    (void)state;
    for (size_t k = 0; k < 60; k++) {
        struct cow_map *m = cow_map_new();
        size_t base = k % 3 == 0 ? 0 : 3000, count = k % 2 ? 20 : 2000;
        struct model d = {0};
        struct cow_entry *x, dup = {0}, expect;
        struct rng r;

        rng_init(&r, seed + k);
        x = draw_fresh(&r, &s, &d, base + 1);
        for (size_t i = 0; i < base; i++)
            model_insert(&d, x[i]);
        assert_int_equal(cow_map_load(m, x, base, NULL, NULL), 0);
        free(x);
        x = draw_fresh(&r, &s, &d, count);
        expect = base > 0 && k % 4 < 2 ? d.x[rng_below(&r, base)] : x[rng_below(&r, count)];
        x[count] = (struct cow_entry){expect.old_chunk, 77, expect.seq};
        assert_int_equal(cow_map_load(m, x, count + 1, &dup, NULL), SNAP_EEXIST);
        assert_int_equal(dup.old_chunk, expect.old_chunk);
        assert_int_equal(dup.seq, expect.seq);
        assert_same(m, &d);
        free(x);
        free(d.x);
        cow_map_free(m);
    }
}

static void load__sorts_keys_of_every_width(void **state)
{
    struct rng r;
    uint64_t seed = seed_take();

    (void)state;
    rng_init(&r, seed);
    for (unsigned bits = 1; bits <= 63; bits++) {
        const struct shape s = {"", UINT64_C(1) << bits, 1, bits < 12 ? 60000 : 2, 0, 0, false};
        struct model none = {0};
        size_t count = 100 + (size_t)rng_below(&r, 1500);
        struct cow_entry *x = draw_fresh(&r, &s, &none, count);
        struct cow_map *m = cow_map_new();

        assert_int_equal(cow_map_load(m, x, count, NULL, NULL), 0);
        assert_same(m, &(struct model){x, count, count});
        free(x);
        cow_map_free(m);
    }
}

/* -- memory ------------------------------------------------------------------------------- */

static void out_of_memory__leaves_the_map_unchanged(void **state)
{
    uint64_t seed = seed_take();
    unsigned failed = 0, failed_loads = 0, failed_seqs = 0;

    (void)state;
    for (size_t k = 0; k < 60; k++) {
        const struct shape *s = &shapes[k % ARRAY_LEN(shapes)];
        struct cow_map *m;
        struct model d = {0};
        struct rng r;

        rng_init(&r, seed + k);
        m = cow_map_new_with_limit(1000 + (size_t)rng_below(&r, 40000));
        for (unsigned i = 0; i < 4000; i++) {
            struct cow_entry x = draw_entry(&r, s);
            int rc = cow_map_insert(m, x, NULL);

            if (rc == SNAP_ENOMEM) {
                assert_same(m, &d);
                failed++;
                if (failed % 8 == 0)
                    break;
            } else if (rc == 0) {
                model_insert(&d, x);
            }
        }
        for (unsigned i = 0; i < 5; i++) {
            size_t count = 1 + (size_t)rng_below(&r, i % 2 ? 4 : 500);
            const struct shape wide = {"", UINT64_C(1) << 60, 1, 2, 0, 0, false};
            struct cow_entry *x = draw_fresh(&r, &wide, &d, count);
            int rc = cow_map_load(m, x, count, NULL, NULL);

            if (rc == 0)
                for (size_t j = 0; j < count; j++)
                    model_insert(&d, x[j]);
            else
                assert_int_equal(rc, SNAP_ENOMEM);
            failed_loads += rc < 0;
            assert_same(m, &d);
            free(x);
        }
        for (uint32_t q = 0; q < 3; q++) {
            struct model before = model_copy(&d);
            int rc = cow_map_remove_seq(m, q, NULL);

            if (rc == SNAP_ENOMEM) {
                assert_same(m, &before);
                failed_seqs++;
            }
            free(before.x);
            if (rc < 0)
                continue;
            for (size_t j = d.count; j-- > 0;)
                if (d.x[j].seq == q)
                    model_remove(&d, d.x[j].old_chunk, q);
            assert_same(m, &d);
        }
        free(d.x);
        cow_map_free(m);
    }
    assert_true(failed > 20 && failed_loads > 20 && failed_seqs > 5);
}

/* Fill a map with runs of three until its memory is used up, then take each run's middle. */
static void remove__split_without_memory_leaves_the_run(void **state)
{
    unsigned failed = 0;

    (void)state;
    for (size_t limit = 2000; limit < 12000; limit += 500) {
        struct cow_map *m = cow_map_new_with_limit(limit);
        uint64_t runs = 0, old;

        for (int rc = 0; rc == 0; runs++)
            for (uint64_t i = 0; i < 3 && rc == 0; i++)
                rc =
                    cow_map_insert(m, (struct cow_entry){scatter(runs) + i, runs * 9 + i, 0}, NULL);
        for (old = 0; old + 1 < runs; old++) {
            uint64_t count = cow_map_count(m), new;

            if (cow_map_remove(m, scatter(old) + 1, 0, NULL) == 0)
                continue;
            failed++;
            assert_int_equal(cow_map_count(m), count);
            for (uint64_t i = 0; i < 3; i++)
                assert_true(cow_map_get(m, scatter(old) + i, 0, &new) && new == old * 9 + i);
        }
        assert_true(cow_map_memory_bytes(m) <= limit);
        cow_map_free(m);
    }
    assert_true(failed > 0);
}

/* A million, so that the tree is four levels high; then all but a few go again. */
static void memory__random_keys_take_12_bytes_at_most(void **state)
{
    struct cow_map *m = cow_map_new();
    const uint64_t count = 1000000, keep = 1000;
    double worst = 0;
    struct cow_entry e;

    (void)state;
    for (uint64_t i = 0; i < count; i++) {
        CHECK(cow_map_insert(m, (struct cow_entry){scatter(i), i + 2, 0}, NULL) == 0);
        if (i > count / 2 && (double)cow_map_memory_bytes(m) / (double)i > worst)
            worst = (double)cow_map_memory_bytes(m) / (double)i;
    }
    print_message("%.2f bytes at most\n", worst);
    assert_true(worst <= 12);
    for (uint64_t i = 0; i < count; i++)
        CHECK(cow_map_find(m, scatter(i), 0, &e) && e.new_chunk == i + 2);
    for (uint64_t i = 0; i < count; i++)
        CHECK(i % keep == 0 || cow_map_remove(m, scatter(i), 0, NULL) == 0);
    for (uint64_t i = 0; i < count; i++)
        CHECK(cow_map_find(m, scatter(i), 0, &e) == (i % keep == 0));
    assert_int_equal(cow_map_count(m), count / keep);
    assert_int_equal(runs_in(m), count / keep);
    cow_map_free(m);
}

/* Loads of few entries each on top of full leaves: the worst order for the fill. */
static void memory__many_small_loads_take_12_bytes_at_most(void **state)
{
    struct cow_map *m = cow_map_new();
    const uint64_t count = 200000, step_count = 1500;
    struct cow_entry *x = malloc(count * sizeof *x);
    double worst = 0;

    (void)state;
    CHECK(x);
    for (uint64_t i = 0; i < count; i++)
        x[i] = (struct cow_entry){scatter(i), i + 2, 0};
    assert_int_equal(cow_map_load(m, x, count, NULL, NULL), 0);
    for (uint64_t at = count; at + step_count <= 3 * count / 2; at += step_count) {
        double per;

        for (uint64_t i = 0; i < step_count; i++)
            x[i] = (struct cow_entry){scatter(at + i), at + i + 2, 0};
        assert_int_equal(cow_map_load(m, x, step_count, NULL, NULL), 0);
        per = (double)cow_map_memory_bytes(m) / (double)cow_map_count(m);
        worst = per > worst ? per : worst;
    }
    print_message("%.2f bytes at most\n", worst);
    assert_true(worst <= 12);
    free(x);
    cow_map_free(m);
}

static void memory__sequential_keys_fold(void **state)
{
    struct cow_map *up = cow_map_new(), *down = cow_map_new();
    const uint64_t count = 100000;

    (void)state;
    for (uint64_t i = 0; i < count; i++) {
        assert_int_equal(cow_map_insert(up, (struct cow_entry){i, i + 2, 0}, NULL), 0);
        assert_int_equal(
            cow_map_insert(down, (struct cow_entry){count - i, count - i + 2, 0}, NULL), 0);
    }
    assert_int_equal(runs_in(up), 1);
    assert_int_equal(runs_in(down), 1);
    assert_true(cow_map_memory_bytes(up) < 4096);
    cow_map_free(up);
    cow_map_free(down);
}

static void memory__comes_back_when_emptied(void **state)
{
    struct cow_map *m = cow_map_new();
    size_t before = cow_map_memory_bytes(m);

    (void)state;
    for (uint64_t i = 0; i < 10000; i++)
        assert_int_equal(cow_map_insert(m, (struct cow_entry){i * 5, 9 * (i ^ 5), 0}, NULL), 0);
    for (uint64_t i = 10000; i-- > 0;)
        assert_int_equal(cow_map_remove(m, i * 5, 0, NULL), 0);
    assert_int_equal(cow_map_memory_bytes(m), before);
    cow_map_free(m);
}

static void memory__limit_outlives_rebuilds(void **state)
{
    const size_t limit = 100000;
    struct cow_map *m = cow_map_new_with_limit(limit);
    struct cow_entry x[1000];
    uint64_t i;

    (void)state;
    for (uint32_t q = 0; q < 3; q++) {
        for (i = 0; i < ARRAY_LEN(x); i++)
            x[i] = (struct cow_entry){scatter(i), i * 77, q};
        assert_int_equal(cow_map_load(m, x, ARRAY_LEN(x), NULL, NULL), 0);
    }
    assert_int_equal(cow_map_remove_seq(m, 1, NULL), 0);
    while (cow_map_insert(m, (struct cow_entry){scatter(i), i, 0}, NULL) == 0)
        i++;
    assert_in_range(cow_map_memory_bytes(m), limit * 4 / 5, limit);
    cow_map_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(load__merges_with_what_is_there),
        cmocka_unit_test(load__few_entries_in_one_place_of_a_large_map),
        cmocka_unit_test(load__duplicate_is_named_and_changes_nothing),
        cmocka_unit_test(load__sorts_keys_of_every_width),
        cmocka_unit_test(out_of_memory__leaves_the_map_unchanged),
        cmocka_unit_test(remove__split_without_memory_leaves_the_run),
        cmocka_unit_test(memory__random_keys_take_12_bytes_at_most),
        cmocka_unit_test(memory__many_small_loads_take_12_bytes_at_most),
        cmocka_unit_test(memory__sequential_keys_fold),
        cmocka_unit_test(memory__comes_back_when_emptied),
        cmocka_unit_test(memory__limit_outlives_rebuilds),
    };

    return cmocka_run_group_tests_name("cow_map_load", tests, NULL, NULL);
}
