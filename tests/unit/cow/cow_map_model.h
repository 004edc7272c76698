/* SPDX-License-Identifier: Apache-2.0 */
/* The exception map's model for tests, a sorted array, and what compares the two. */
#ifndef SNAP_TESTS_COW_MAP_MODEL_H
#define SNAP_TESTS_COW_MAP_MODEL_H

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

static inline int key_cmp(const struct cow_entry *a, uint64_t old, uint32_t seq)
{
    if (a->old_chunk != old)
        return a->old_chunk < old ? -1 : 1;
    return a->seq == seq ? 0 : a->seq < seq ? -1 : 1;
}

/* Index of the first entry at or after the key. */
static inline size_t model_at(const struct model *d, uint64_t old, uint32_t seq)
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

static inline bool model_has(const struct model *d, uint64_t old, uint32_t seq)
{
    size_t i = model_at(d, old, seq);

    return i < d->count && key_cmp(&d->x[i], old, seq) == 0;
}

static inline void model_insert(struct model *d, struct cow_entry x)
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

static inline void model_remove(struct model *d, uint64_t old, uint32_t seq)
{
    size_t i = model_at(d, old, seq);

    d->count--;
    memmove(&d->x[i], &d->x[i + 1], (d->count - i) * sizeof *d->x);
}

static inline struct model model_copy(const struct model *d)
{
    struct model c = {.count = d->count, .room = d->count + 1};

    c.x = malloc(c.room * sizeof *c.x);
    CHECK(c.x);
    if (d->count > 0)
        memcpy(c.x, d->x, d->count * sizeof *c.x);
    return c;
}

/* -- comparing ---------------------------------------------------------------------- */

static inline void assert_entry(struct cow_entry a, struct cow_entry b)
{
    if (a.old_chunk != b.old_chunk || a.new_chunk != b.new_chunk || a.seq != b.seq)
        fail_msg("(%llu, %u) -> %llu where (%llu, %u) -> %llu should be",
                 (unsigned long long)a.old_chunk, a.seq, (unsigned long long)a.new_chunk,
                 (unsigned long long)b.old_chunk, b.seq, (unsigned long long)b.new_chunk);
}

/* A full scan gives the model's entries, all of them, in order. */
static inline void assert_same(const struct cow_map *m, const struct model *d)
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

static inline size_t runs_in(const struct cow_map *m)
{
    struct cow_run r;
    uint64_t old = 0;
    uint32_t seq = 0;
    size_t n = 0;

    for (; cow_map_next(m, old, seq, &r); n++)
        cow_map_after(&r, &old, &seq);
    return n;
}

static inline void assert_look_ups(const struct cow_map *m, const struct model *d, uint64_t old,
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

static inline struct cow_entry draw_entry(struct rng *r, const struct shape *s)
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

static const struct shape shapes[] = {
    {"dense, one seq, runs", 3000, 1, 1, 12000, 60, true},
    {"dense, few seqs, runs", 1500, 1, 4, 12000, 60, true},
    {"dense, many seqs", 300, 1, 1000, 12000, 70, true},
    {"scattered", UINT64_C(1) << 32, 1, 1, 12000, 75, false},
    {"huge strides", 1 << 20, UINT64_C(1) << 43, 3, 12000, 75, false},
};

static inline void step(struct cow_map *m, struct model *d, struct rng *r, const struct shape *s,
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

/* An odd multiplier permutes the numbers below 2^32. */
static inline uint64_t scatter(uint64_t i)
{
    return (i * UINT64_C(2654435761)) & UINT32_MAX;
}

#endif
