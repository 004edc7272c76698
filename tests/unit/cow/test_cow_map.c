/* SPDX-License-Identifier: Apache-2.0 */
/* The exception map against a sorted array: random changes, every kind of look-up, leaves
 * that split and join, tall trees, extreme values. SEED=n repeats a run. */
#include "tests/unit/cow/cow_map_model.h"

static void random_changes__equal_the_model(void **state)
{
    uint64_t seed = seed_take();

    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(shapes); k++) {
        const struct shape *s = &shapes[k];
        struct cow_map *m = cow_map_new();
        struct model d = {0};
        struct rng r;

        rng_init(&r, seed + k);
        for (unsigned i = 0; i < s->steps; i++) {
            struct cow_entry q = draw_entry(&r, s);

            step(m, &d, &r, s, i < s->steps * 2 / 3 ? s->insert_percent : 100 - s->insert_percent);
            assert_look_ups(m, &d, q.old_chunk, q.seq,
                            q.old_chunk + rng_below(&r, 20) * s->old_stride);
            if (i % 1000 == 0)
                assert_same(m, &d);
        }
        assert_same(m, &d);
        while (d.count > 0) { /* and empty it, from a random place on */
            size_t i = (size_t)rng_below(&r, d.count);

            assert_int_equal(cow_map_remove(m, d.x[i].old_chunk, d.x[i].seq, NULL), 0);
            model_remove(&d, d.x[i].old_chunk, d.x[i].seq);
            if (d.count % 997 == 0)
                assert_same(m, &d);
        }
        assert_same(m, &d);
        free(d.x);
        cow_map_free(m);
    }
}

/* -- leaves ------------------------------------------------------------------------------- */

/* One change to a map of a leaf or a few, which brings them to every size about the bounds. */
static void try_change(const struct model *d, size_t at, unsigned kind)
{
    struct cow_map *m = cow_map_new();
    struct model copy = model_copy(d), sorted = model_copy(d);
    struct cow_entry x = d->x[at];
    int rc;

    assert_int_equal(cow_map_load(m, sorted.x, sorted.count, NULL, NULL), 0);
    if (kind == 0) {
        rc = cow_map_remove(m, x.old_chunk, x.seq, NULL);
        model_remove(&copy, x.old_chunk, x.seq);
    } else {
        x.seq += kind == 1 ? 1 : UINT32_MAX / 2;
        x.new_chunk = kind == 1 ? 3 : UINT64_C(1) << 62;
        rc = cow_map_insert(m, x, NULL);
        model_insert(&copy, x);
    }
    assert_int_equal(rc, 0);
    assert_same(m, &copy);
    free(copy.x);
    free(sorted.x);
    cow_map_free(m);
}

static void leaf_bounds__every_change_at_every_fill(void **state)
{
    struct model d = {0};
    struct rng r;

    (void)state;
    seed_init_rng(&r);
    for (uint64_t run = 0; d.count < 300; run++) {
        uint64_t len = 1 + rng_below(&r, 4), new = rng_below(&r, UINT64_C(1) << 40);

        for (uint64_t i = 0; i < len; i++)
            model_insert(&d, (struct cow_entry){run * 1000000 + i, new + i, 4});
        for (size_t at = 0; at < d.count; at += 1 + (d.count - at) / 16)
            for (unsigned kind = 0; kind < 3; kind++)
                try_change(&d, at, kind);
    }
    free(d.x);
}

/* -- single cases ------------------------------------------------------------------------- */

static void insert__another_seq_splits_a_run_and_removal_heals_it(void **state)
{
    struct cow_map *m = cow_map_new();
    struct cow_entry e;
    struct cow_run r;

    (void)state;
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(cow_map_insert(m, (struct cow_entry){i, i + 1000, 7}, NULL), 0);
    assert_int_equal(cow_map_insert(m, (struct cow_entry){50, 9, 8}, NULL), 0);
    assert_int_equal(cow_map_insert(m, (struct cow_entry){50, 8, 6}, NULL), 0);
    assert_int_equal(runs_in(m), 5);
    assert_true(cow_map_find(m, 50, 0, &e) && e.new_chunk == 8);
    assert_true(cow_map_find(m, 50, 7, &e) && e.new_chunk == 1050);
    assert_true(cow_map_find(m, 50, 8, &e) && e.new_chunk == 9);
    assert_false(cow_map_find(m, 50, 9, &e));
    assert_true(cow_map_next(m, 10, 8, &r)); /* (10, 7) is past: what is left of the run */
    assert_int_equal(r.old_chunk, 11);
    assert_int_equal(r.count, 39);
    assert_int_equal(cow_map_remove(m, 50, 6, NULL), 0);
    assert_int_equal(cow_map_remove(m, 50, 8, NULL), 0);
    assert_int_equal(runs_in(m), 1);
    cow_map_free(m);
}

static void extreme_values__are_kept(void **state)
{
    static const uint64_t olds[] = {
        0, 1, 255, 256, UINT32_MAX, UINT64_C(1) << 48, (UINT64_C(1) << 63) - 1, UINT64_C(1) << 63};
    static const uint64_t news[] = {0, 2, UINT64_C(1) << 40, UINT64_C(1) << 63};
    static const uint32_t seqs[] = {0, 1, 0x7fffffff, 0x80000000, UINT32_MAX};
    struct cow_map *m = cow_map_new();
    struct model d = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(olds) * ARRAY_LEN(seqs); i++) {
        size_t k = i * 17 % (ARRAY_LEN(olds) * ARRAY_LEN(seqs));
        struct cow_entry x = {olds[k % ARRAY_LEN(olds)], news[i % ARRAY_LEN(news)],
                              seqs[k / ARRAY_LEN(olds)]};

        assert_int_equal(cow_map_insert(m, x, NULL), 0);
        model_insert(&d, x);
        assert_same(m, &d);
        assert_look_ups(m, &d, x.old_chunk, x.seq, UINT64_MAX);
    }
    assert_int_equal(cow_map_insert(m, (struct cow_entry){(UINT64_C(1) << 63) + 1, 2, 0}, NULL),
                     SNAP_EINVAL);
    assert_int_equal(cow_map_insert(m, (struct cow_entry){3, UINT64_MAX, 0}, NULL), SNAP_EINVAL);
    assert_int_equal(cow_map_load(m, &(struct cow_entry){UINT64_MAX, 2, 0}, 1, NULL, NULL),
                     SNAP_EINVAL);
    assert_same(m, &d);
    free(d.x);
    cow_map_free(m);
}

static void remove_seq__drops_it_alone(void **state)
{
    struct cow_map *m = cow_map_new();

    (void)state;
    assert_int_equal(cow_map_remove_seq(m, 3, NULL), 0);
    for (uint64_t i = 0; i < 2000; i++)
        for (uint32_t q = 0; q < 3; q++)
            assert_int_equal(cow_map_insert(m, (struct cow_entry){i, i + 5000 * q, q}, NULL), 0);
    assert_int_equal(cow_map_remove_seq(m, 9, NULL), 0);
    assert_int_equal(cow_map_count(m), 6000);
    assert_int_equal(cow_map_remove_seq(m, 1, NULL), 0);
    assert_int_equal(cow_map_remove_seq(m, 2, NULL), 0);
    assert_int_equal(cow_map_count(m), 2000);
    assert_int_equal(runs_in(m), 1);
    assert_int_equal(cow_map_remove_seq(m, 0, NULL), 0);
    assert_int_equal(cow_map_count(m), 0);
    assert_int_equal(runs_in(m), 0);
    cow_map_free(m);
    cow_map_free(NULL);
}

/* -- tall trees --------------------------------------------------------------------------- */

enum { TALL = 60000 };

static struct cow_entry tall_entry(uint64_t i)
{
    return (struct cow_entry){i * 1000, scatter(i) >> 8, 1};
}

static void assert_tall(const struct cow_map *m, const bool *present)
{
    struct cow_run r;
    uint64_t old = 0, new;
    uint32_t seq = 0;

    for (uint64_t i = 0; i < TALL; i++) {
        struct cow_entry x = tall_entry(i);

        if (cow_map_get(m, x.old_chunk, x.seq, &new) != present[i])
            fail_msg("entry %llu", (unsigned long long)i);
        if (!present[i])
            continue;
        assert_true(new == x.new_chunk &&cow_map_next(m, old, seq, &r));
        assert_entry((struct cow_entry){r.old_chunk, r.new_chunk, r.seq}, x);
        cow_map_after(&r, &old, &seq);
    }
    assert_false(cow_map_next(m, old, seq, &r));
}

/* Load what is absent of a range, few enough to be worked in, or some of it one by one. */
static void tall_fill(struct cow_map *m, bool *present, struct rng *r, uint64_t from, uint64_t to)
{
    struct cow_entry *x = calloc(TALL, sizeof *x);
    size_t count = 0;

    CHECK(x);
    for (uint64_t i = from; i < to; i++)
        if (!present[i] && rng_chance(r, 60) && count < cow_map_count(m) / 128) {
            x[count++] = tall_entry(i);
            present[i] = true;
        }
    if (rng_chance(r, 70))
        assert_int_equal(cow_map_load(m, x, count, NULL, NULL), 0);
    else
        for (size_t i = 0; i < count; i++)
            assert_int_equal(cow_map_insert(m, x[i], NULL), 0);
    free(x);
}

static void tall_clear(struct cow_map *m, bool *present, struct rng *r, uint64_t from, uint64_t to)
{
    bool down = rng_chance(r, 50);
    unsigned percent = rng_chance(r, 50) ? 100 : 90;

    for (uint64_t k = from; k < to; k++) {
        uint64_t i = down ? to - 1 - (k - from) : k;

        if (!present[i] || !rng_chance(r, percent))
            continue;
        assert_int_equal(cow_map_remove(m, i * 1000, 1, NULL), 0);
        present[i] = false;
    }
}

/* Ranges go and come again, so that inner nodes empty, join and split. */
static void tall_tree__ranges_removed_and_filled(void **state)
{
    static bool present[TALL];
    struct rng r;

    (void)state;
    seed_init_rng(&r);
    for (unsigned again = 0; again < 4; again++) {
        struct cow_entry *x = calloc(TALL, sizeof *x);
        struct cow_map *m = cow_map_new();

        CHECK(x);
        for (uint64_t i = 0; i < TALL; i++) {
            x[i] = tall_entry(i);
            present[i] = true;
        }
        assert_int_equal(cow_map_load(m, x, TALL, NULL, NULL), 0);
        free(x);
        for (unsigned round = 0; round < 60; round++) {
            uint64_t from = rng_below(&r, TALL), len = rng_below(&r, round % 2 ? 9000 : 3000);

            if (rng_chance(&r, 50))
                tall_clear(m, present, &r, from, u64_min(from + len, TALL));
            else
                tall_fill(m, present, &r, from, u64_min(from + len, TALL));
            if (round % 4 == 3)
                assert_tall(m, present);
        }
        cow_map_free(m);
    }
}

/* Loads touch every leaf, and with them what separates inner nodes; then the tree shrinks
 * and inner nodes join. */
static void tall_tree__thinned_after_loads(void **state)
{
    enum { STRIDE = 301 };
    static bool present[TALL];
    struct cow_entry *x = calloc(TALL, sizeof *x);
    struct cow_map *m = cow_map_new();
    size_t count = 0;
    struct rng r;

    (void)state;
    CHECK(x);
    seed_init_rng(&r);
    for (uint64_t i = 0; i < TALL; i++)
        present[i] = i % 2 == 0;
    for (uint64_t i = 0; i < TALL; i += 2)
        x[count++] = tall_entry(i);
    assert_int_equal(cow_map_load(m, x, count, NULL, NULL), 0);
    for (uint64_t first = 0; first < STRIDE; first++) {
        count = 0;
        for (uint64_t i = first; i < TALL; i += STRIDE)
            if (!present[i]) {
                present[i] = true;
                x[count++] = tall_entry(i);
            }
        assert_int_equal(cow_map_load(m, x, count, NULL, NULL), 0);
    }
    free(x);
    assert_tall(m, present);
    for (unsigned pass = 0; pass < 4; pass++) {
        for (uint64_t i = 0; i < TALL; i++)
            if (present[i] && rng_chance(&r, 60)) {
                assert_int_equal(cow_map_remove(m, i * 1000, 1, NULL), 0);
                present[i] = false;
            }
        assert_tall(m, present);
    }
    cow_map_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_changes__equal_the_model),
        cmocka_unit_test(leaf_bounds__every_change_at_every_fill),
        cmocka_unit_test(insert__another_seq_splits_a_run_and_removal_heals_it),
        cmocka_unit_test(extreme_values__are_kept),
        cmocka_unit_test(remove_seq__drops_it_alone),
        cmocka_unit_test(tall_tree__ranges_removed_and_filled),
        cmocka_unit_test(tall_tree__thinned_after_loads),
    };

    return cmocka_run_group_tests_name("cow_map", tests, NULL, NULL);
}
