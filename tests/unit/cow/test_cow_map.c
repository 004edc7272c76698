/* SPDX-License-Identifier: Apache-2.0 */
/* The exception map against a sorted array: random changes, every kind of look-up,
 * bulk loading, memory that runs out, leaves that split and join, extreme values.
 * SEED=n repeats a run. */
#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/cow/cow_map.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"

#include <stdlib.h>

/* -- the model: entries in order, one by one ---------------------------------------- */

struct model {
    struct cow_entry *x;
    size_t count, room;
};

static int key_cmp(const struct cow_entry *a, uint64_t old, uint32_t seq)
{
    if (a->old_chunk != old)
        return a->old_chunk < old ? -1 : 1;
    return a->seq == seq ? 0 : a->seq < seq ? -1 : 1;
}

/* Index of the first entry at or after the key. */
static size_t model_at(const struct model *d, uint64_t old, uint32_t seq)
{
    size_t low = 0, high = d->count;

    while (low < high) {
        size_t mid = (low + high) / 2;

        if (key_cmp(&d->x[mid], old, seq) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool model_has(const struct model *d, uint64_t old, uint32_t seq)
{
    size_t i = model_at(d, old, seq);

    return i < d->count && key_cmp(&d->x[i], old, seq) == 0;
}

static void model_insert(struct model *d, struct cow_entry x)
{
    size_t i = model_at(d, x.old_chunk, x.seq);

    if (d->count == d->room) {
        d->room = d->room ? 2 * d->room : 64;
        d->x = realloc(d->x, d->room * sizeof *d->x);
        CHECK(d->x);
    }
    memmove(&d->x[i + 1], &d->x[i], (d->count - i) * sizeof *d->x);
    d->x[i] = x;
    d->count++;
}

static void model_remove(struct model *d, uint64_t old, uint32_t seq)
{
    size_t i = model_at(d, old, seq);

    d->count--;
    memmove(&d->x[i], &d->x[i + 1], (d->count - i) * sizeof *d->x);
}

static struct model model_copy(const struct model *d)
{
    struct model c = {.count = d->count, .room = d->count + 1};

    c.x = malloc(c.room * sizeof *c.x);
    CHECK(c.x);
    if (d->count > 0)
        memcpy(c.x, d->x, d->count * sizeof *c.x);
    return c;
}

/* -- comparing ---------------------------------------------------------------------- */

static void assert_entry(struct cow_entry a, struct cow_entry b)
{
    if (a.old_chunk != b.old_chunk || a.new_chunk != b.new_chunk || a.seq != b.seq)
        fail_msg("(%llu, %u) -> %llu where (%llu, %u) -> %llu should be",
                 (unsigned long long)a.old_chunk, a.seq, (unsigned long long)a.new_chunk,
                 (unsigned long long)b.old_chunk, b.seq, (unsigned long long)b.new_chunk);
}

/* A full scan gives the model's entries, all of them, in order. */
static void assert_same(const struct cow_map *m, const struct model *d)
{
    struct cow_run r;
    uint64_t old = 0;
    uint32_t seq = 0;
    size_t i = 0;

    assert_int_equal(cow_map_count(m), d->count);
    while (cow_map_next(m, old, seq, &r)) {
        assert_true(r.count > 0 && r.count <= d->count - i);
        for (uint64_t k = 0; k < r.count; k++)
            assert_entry((struct cow_entry){r.old_chunk + k, r.new_chunk + k, r.seq}, d->x[i++]);
        cow_map_after(&r, &old, &seq);
    }
    assert_int_equal(i, d->count);
}

static size_t runs_in(const struct cow_map *m)
{
    struct cow_run r;
    uint64_t old = 0;
    uint32_t seq = 0;
    size_t n = 0;

    for (; cow_map_next(m, old, seq, &r); n++)
        cow_map_after(&r, &old, &seq);
    return n;
}

static void assert_look_ups(const struct cow_map *m, const struct model *d, uint64_t old,
                            uint32_t seq, uint64_t last)
{
    size_t i = model_at(d, old, seq), v = i;
    bool found = i < d->count && d->x[i].old_chunk == old;
    struct cow_entry e;
    struct cow_run r;
    uint64_t new;

    assert_int_equal(cow_map_find(m, old, seq, &e), found);
    if (found)
        assert_entry(e, d->x[i]);
    assert_int_equal(cow_map_get(m, old, seq, &new), model_has(d, old, seq));
    if (model_has(d, old, seq))
        assert_int_equal(new, d->x[i].new_chunk);
    assert_int_equal(cow_map_next(m, old, seq, &r), i < d->count);
    if (i < d->count)
        assert_entry((struct cow_entry){r.old_chunk, r.new_chunk, r.seq}, d->x[i]);

    while (v < d->count && d->x[v].seq < seq)
        v++;
    found = v < d->count && d->x[v].old_chunk <= last;
    assert_int_equal(cow_map_next_visible(m, old, seq, last, &r), found);
    if (!found)
        return;
    assert_true(r.old_chunk + (r.count - 1) <= last);
    for (uint64_t k = 0; k < r.count; k++)
        assert_entry((struct cow_entry){r.old_chunk + k, r.new_chunk + k, r.seq}, d->x[v + k]);
}

/* -- random work ---------------------------------------------------------------------- */

struct shape {
    const char *name;
    uint64_t olds;       /* old_chunk is below it … */
    uint64_t old_stride; /* … times this */
    uint32_t seqs;
    unsigned steps;
    unsigned insert_percent;
    bool follows; /* new_chunk goes with old_chunk: runs form */
};

static struct cow_entry draw_entry(struct rng *r, const struct shape *s)
{
    struct cow_entry x;

    x.old_chunk = rng_below(r, s->olds) * s->old_stride;
    x.seq = (uint32_t)rng_below(r, s->seqs);
    if (s->follows)
        x.new_chunk = x.old_chunk / s->old_stride + 2 + (uint64_t)x.seq * 10 * s->olds;
    else
        x.new_chunk = rng_below(r, UINT64_C(1) << 40);
    return x;
}

static void step(struct cow_map *m, struct model *d, struct rng *r, const struct shape *s,
                 unsigned insert_percent)
{
    struct cow_entry x = draw_entry(r, s);
    size_t i;
    int rc;

    if (rng_chance(r, insert_percent)) {
        rc = cow_map_insert(m, x, NULL);
        assert_int_equal(rc, model_has(d, x.old_chunk, x.seq) ? SNAP_EEXIST : 0);
        if (rc == 0)
            model_insert(d, x);
        return;
    }
    i = model_at(d, x.old_chunk, x.seq);
    if (i < d->count && rng_chance(r, 70)) { /* one that is there */
        x.old_chunk = d->x[i].old_chunk;
        x.seq = d->x[i].seq;
    }
    rc = cow_map_remove(m, x.old_chunk, x.seq, NULL);
    assert_int_equal(rc, model_has(d, x.old_chunk, x.seq) ? 0 : SNAP_ENOENT);
    if (rc == 0)
        model_remove(d, x.old_chunk, x.seq);
}

static const struct shape shapes[] = {
    {"dense, one seq, runs", 3000, 1, 1, 12000, 60, true},
    {"dense, few seqs, runs", 1500, 1, 4, 12000, 60, true},
    {"dense, many seqs", 300, 1, 1000, 12000, 70, true},
    {"scattered", UINT64_C(1) << 32, 1, 1, 12000, 75, false},
    {"huge strides", 1 << 20, UINT64_C(1) << 43, 3, 12000, 75, false},
};

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

/* -- loading ---------------------------------------------------------------------------- */

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

/* An odd multiplier permutes the numbers below 2^32. */
static uint64_t scatter(uint64_t i)
{
    return (i * UINT64_C(2654435761)) & UINT32_MAX;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_changes__equal_the_model),
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
        cmocka_unit_test(tall_tree__ranges_removed_and_filled),
        cmocka_unit_test(memory__limit_outlives_rebuilds),
        cmocka_unit_test(leaf_bounds__every_change_at_every_fill),
        cmocka_unit_test(insert__another_seq_splits_a_run_and_removal_heals_it),
        cmocka_unit_test(extreme_values__are_kept),
        cmocka_unit_test(remove_seq__drops_it_alone),
    };

    return cmocka_run_group_tests_name("cow_map", tests, NULL, NULL);
}
