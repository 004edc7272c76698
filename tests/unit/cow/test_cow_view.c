/* SPDX-License-Identifier: Apache-2.0 */
/* The snapshot view against a naive one, which asks every layer about every sector.
 * SEED=n repeats a run. */
#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/cow/cow_view.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"

#include <stdlib.h>

enum {
    SECTOR = 512,
    LAYERS_MAX = 4,
    SEQS_MAX = 5,
    SECTORS = 2048, /* of the view */
};

/* Each layer's exceptions by chunk and seq; 0: none. */
struct naive {
    struct cow_map *maps[LAYERS_MAX];
    struct cow_layer layers[LAYERS_MAX];
    struct cow_view view;
    uint64_t news[LAYERS_MAX][SECTORS][SEQS_MAX];
};

struct place {
    int layer;
    uint32_t seq;
    uint64_t dev_offset_bytes;
};

static struct place naive_place(const struct naive *n, uint64_t offset_bytes)
{
    for (unsigned i = 0; i < n->view.layer_count; i++) {
        const struct cow_layer *l = &n->layers[i];
        uint64_t chunk = offset_bytes / l->chunk_bytes;

        for (uint32_t q = l->seq; q < SEQS_MAX; q++)
            if (n->news[i][chunk][q])
                return (struct place){(int)i, q,
                                      n->news[i][chunk][q] * l->chunk_bytes +
                                          offset_bytes % l->chunk_bytes};
    }
    return (struct place){-1, 0, offset_bytes};
}

/* Is what stands at b, `distance` behind a, the same piece? */
static bool continues(struct place a, struct place b, uint64_t distance)
{
    return a.layer == b.layer && a.seq == b.seq &&
           b.dev_offset_bytes == a.dev_offset_bytes + distance;
}

static void fill_layer(struct naive *n, struct rng *r, unsigned i)
{
    struct cow_layer *l = &n->layers[i];
    uint32_t seqs = 1 + (uint32_t)rng_below(r, SEQS_MAX);
    unsigned chunks, tries = (unsigned)rng_below(r, 120);
    uint64_t next_new = 2;

    l->chunk_bytes = (uint32_t)SECTOR << rng_below(r, 6);
    l->seq = (uint32_t)rng_below(r, seqs);
    l->map = n->maps[i] = cow_map_new();
    CHECK(l->map);
    chunks = SECTORS * SECTOR / l->chunk_bytes;
    for (unsigned t = 0; t < tries; t++) {
        uint32_t q = (uint32_t)rng_below(r, seqs);
        uint64_t c = rng_below(r, chunks), len = rng_chance(r, 50) ? 1 : 1 + rng_below(r, 40);

        for (; len > 0 && c < chunks && n->news[i][c][q] == 0; len--, c++) {
            next_new += rng_chance(r, 5) ? 2 : 1;
            n->news[i][c][q] = next_new;
            CHECK(cow_map_insert(n->maps[i], (struct cow_entry){c, next_new, q}, NULL) == 0);
        }
    }
}

static void naive_init(struct naive *n, struct rng *r)
{
    memset(n, 0, sizeof *n);
    n->view.layers = n->layers;
    n->view.layer_count = (unsigned)rng_below(r, LAYERS_MAX + 1);
    for (unsigned i = 0; i < n->view.layer_count; i++)
        fill_layer(n, r, i);
}

static void naive_done(struct naive *n)
{
    for (unsigned i = 0; i < n->view.layer_count; i++)
        cow_map_free(n->maps[i]);
}

static void check_extent(const struct naive *n, uint64_t offset, uint64_t len)
{
    struct place at = naive_place(n, offset);
    struct cow_extent x;

    cow_view_extent(&n->view, offset, len, &x);
    assert_int_equal(x.offset_bytes, offset);
    assert_in_range(x.len_bytes, 1, len);
    assert_int_equal(x.layer, at.layer);
    assert_int_equal(x.dev_offset_bytes, at.dev_offset_bytes);
    if (at.layer >= 0)
        assert_int_equal(x.seq, at.seq);
    for (uint64_t i = 0; i < x.len_bytes; i++) /* a byte a sector, and the last one */
        if (i + 1 == x.len_bytes || (offset + i) % SECTOR == 0)
            assert_true(continues(at, naive_place(n, offset + i), i));
    if (x.len_bytes < len) /* the longest */
        assert_false(continues(at, naive_place(n, offset + x.len_bytes), x.len_bytes));
}

static void check_next(const struct naive *n, uint64_t offset, uint64_t end)
{
    struct cow_extent x, same;
    uint64_t at = offset;

    while (at < end && naive_place(n, at).layer < 0)
        at = (at / SECTOR + 1) * SECTOR;
    assert_int_equal(cow_view_next(&n->view, offset, end, &x), at < end);
    if (at >= end)
        return;
    cow_view_extent(&n->view, at, end - at, &same);
    assert_int_equal(x.offset_bytes, at);
    assert_int_equal(x.len_bytes, same.len_bytes);
    assert_int_equal(x.layer, same.layer);
    assert_int_equal(x.seq, same.seq);
    assert_int_equal(x.dev_offset_bytes, same.dev_offset_bytes);
}

static void random_layers__read_as_the_naive_view(void **state)
{
    struct naive *n = malloc(sizeof *n);
    struct rng r;

    (void)state;
    CHECK(n);
    seed_init_rng(&r);
    for (unsigned round = 0; round < 150; round++) {
        naive_init(n, &r);
        for (unsigned i = 0; i < 60; i++) {
            uint64_t offset = rng_below(&r, SECTORS * SECTOR), len;

            if (rng_chance(&r, 70))
                offset -= offset % SECTOR;
            len = 1 + rng_below(&r, SECTORS * SECTOR - offset);
            if (rng_chance(&r, 30))
                len = u64_min(len, 1 + rng_below(&r, 3 * SECTOR));
            check_extent(n, offset, len);
            check_next(n, offset, offset + len);
        }
        naive_done(n);
    }
    free(n);
}

static void walk__covers_the_whole_view_once(void **state)
{
    struct naive *n = malloc(sizeof *n);
    struct rng r;

    (void)state;
    CHECK(n);
    seed_init_rng(&r);
    for (unsigned round = 0; round < 50; round++) {
        const uint64_t end = (uint64_t)SECTORS * SECTOR;
        uint64_t by_extent = 0, by_next = 0;
        struct cow_extent x;

        naive_init(n, &r);
        for (uint64_t at = 0; at < end; at += x.len_bytes) {
            cow_view_extent(&n->view, at, end - at, &x);
            by_extent += x.layer >= 0 ? x.len_bytes : 0;
        }
        for (uint64_t at = 0; cow_view_next(&n->view, at, end, &x);) {
            assert_true(x.offset_bytes >= at && x.layer >= 0);
            by_next += x.len_bytes;
            at = x.offset_bytes + x.len_bytes;
        }
        assert_int_equal(by_extent, by_next);
        naive_done(n);
    }
    free(n);
}

static void no_layers__is_the_origin(void **state)
{
    const struct cow_view v = {NULL, 0};
    struct cow_extent x;

    (void)state;
    cow_view_extent(&v, 1000, UINT64_MAX, &x);
    assert_int_equal(x.layer, -1);
    assert_int_equal(x.dev_offset_bytes, 1000);
    assert_int_equal(x.len_bytes, UINT64_MAX - 1000);
    assert_false(cow_view_next(&v, 0, UINT64_MAX, &x));
}

/* Runs of different leaves, and of millions of chunks, come as one extent. */
static void consecutive_runs__are_one_extent(void **state)
{
    const uint64_t count = 100000;
    struct cow_map *m = cow_map_new();
    const struct cow_layer layer = {m, 3, 4096};
    const struct cow_view v = {&layer, 1};
    struct cow_extent x;

    (void)state;
    for (uint64_t i = 0; i < count; i++) {
        assert_int_equal(cow_map_insert(m, (struct cow_entry){i, i + 2, 3}, NULL), 0);
        if (i % 2 == 0) /* older: not seen from seq 3, but it cuts the run */
            assert_int_equal(cow_map_insert(m, (struct cow_entry){i, i * 7 % 999, 1}, NULL), 0);
    }
    cow_view_extent(&v, 4096, UINT64_C(1) << 50, &x);
    assert_int_equal(x.layer, 0);
    assert_int_equal(x.len_bytes, (count - 1) * 4096);
    assert_int_equal(x.dev_offset_bytes, 3 * 4096);
    cow_map_free(m);
}

static void far_end__is_reached_without_overflow(void **state)
{
    struct cow_map *m = cow_map_new();
    const struct cow_layer layer = {m, 0, 4096};
    const struct cow_view v = {&layer, 1};
    const uint64_t last = UINT64_MAX / 4096;
    struct cow_extent x;

    (void)state;
    assert_int_equal(cow_map_insert(m, (struct cow_entry){last, 2, 0}, NULL), 0);
    assert_int_equal(cow_map_insert(m, (struct cow_entry){last + 1, 3, 0}, NULL), 0);
    assert_int_equal(cow_map_insert(m, (struct cow_entry){UINT64_C(1) << 63, 4, 0}, NULL), 0);
    assert_true(cow_view_next(&v, 0, UINT64_MAX, &x));
    assert_int_equal(x.offset_bytes, last * 4096);
    assert_int_equal(x.len_bytes, 4095);
    assert_int_equal(x.dev_offset_bytes, 2 * 4096);
    assert_false(cow_view_next(&v, 0, last * 4096, &x));
    cow_map_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_layers__read_as_the_naive_view),
        cmocka_unit_test(walk__covers_the_whole_view_once),
        cmocka_unit_test(no_layers__is_the_origin),
        cmocka_unit_test(consecutive_runs__are_one_extent),
        cmocka_unit_test(far_end__is_reached_without_overflow),
    };

    return cmocka_run_group_tests_name("cow_view", tests, NULL, NULL);
}
