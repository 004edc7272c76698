/* SPDX-License-Identifier: Apache-2.0 */
/* What changed between two states: against a plain list of what was written when. */
#include "daemon/volume/diff.h"

#include "common/base/rng.h"
#include "tests/unit/volume/hosted_fixture.h"
#include "tests/unit/volume/job_fixture.h"

enum { STATES = 7, WRITES = 9 };

static const struct uuid NOW;

struct ask {
    struct volume_diff diff;
    uint64_t old_chunk[CHUNKS], count[CHUNKS];
    unsigned pages;
    uint64_t chunks[4]; /* a set of at most 256, and what is beyond it is wrong */
    struct err err;
};

static void do_diff(struct call *c)
{
    struct ask *a = c->arg;
    struct err err = ERR_INIT;
    a->diff.old_chunk = a->old_chunk;
    a->diff.count = a->count;
    int rc = volume_diff(c->f->volume, &a->diff, &err);
    (void)err_copy(&a->err, &err);
    call_end(c, rc, &err);
}

/* All pages. */
static int diff_all(struct fixture *f, struct uuid from, struct uuid to, uint32_t runs_max,
                    struct ask *a)
{
    *a = (struct ask){.diff = {.from = from, .to = to, .runs_max = runs_max}};
    do {
        const uint64_t begun = a->diff.start_chunk;
        int rc = call(f, do_diff, a);
        if (rc < 0)
            return rc;
        a->pages++;
        for (uint32_t i = 0; i < a->diff.n; i++) {
            assert_true(a->old_chunk[i] >= begun && a->count[i] > 0);
            assert_true(i == 0 || a->old_chunk[i] > a->old_chunk[i - 1] + a->count[i - 1]);
            assert_true(a->old_chunk[i] + a->count[i] <= CHUNKS);
            for (uint64_t k = 0; k < a->count[i]; k++)
                a->chunks[(a->old_chunk[i] + k) / 64] |= UINT64_C(1) << (a->old_chunk[i] + k) % 64;
        }
        assert_true(!a->diff.more || a->diff.next_chunk > begun);
        a->diff.start_chunk = a->diff.next_chunk;
    } while (a->diff.more);
    return 0;
}

static void diff__is_what_was_written_between(void **state)
{
    struct fixture *f = *state;
    const char *env = getenv("SEED");
    const uint64_t seed = env != NULL ? strtoull(env, NULL, 0) : (uint64_t)time(NULL);
    struct rng rng;
    struct uuid ids[STATES];
    uint64_t written[STATES] = {0};
    struct ask *a = calloc(1, sizeof *a);

    print_message("SEED=%llu\n", (unsigned long long)seed);
    rng_init(&rng, seed);
    for (unsigned s = 0; s < STATES; s++) {
        char name[8];
        (void)snprintf(name, sizeof name, "s%u", s);
        ids[s] = fixture_create(f, name);
        for (unsigned i = 0; i < WRITES; i++) {
            uint64_t chunk = rng_below(&rng, CHUNKS);
            written[s] |= UINT64_C(1) << chunk;
            assert_int_equal(fixture_fill(f, NOW, chunk * CHUNK_BYTES + 5, 6, (int)i), 0);
        }
    }
    for (unsigned from = 0; from < STATES; from++) {
        for (unsigned to = from; to <= STATES; to++) {
            uint64_t want = 0;
            for (unsigned s = from; s < to; s++)
                want |= written[s];
            for (uint32_t max = 1; max <= CHUNKS; max *= 8) {
                assert_int_equal(diff_all(f, ids[from], to < STATES ? ids[to] : NOW, max, a), 0);
                assert_true(a->chunks[0] == want);
            }
        }
    }
    /* deleted ones between go on counting, before and after their hand-down */
    assert_int_equal(fixture_delete(f, ids[3], uuid_make(), false), 0);
    assert_int_equal(fixture_delete(f, ids[2], uuid_make(), false), 0);
    assert_int_equal(diff_all(f, ids[1], ids[4], CHUNKS, a), 0);
    assert_true(a->chunks[0] == (written[1] | written[2] | written[3]));
    fixture_settle(f);
    assert_int_equal(diff_all(f, ids[1], ids[4], CHUNKS, a), 0);
    assert_true(a->chunks[0] == (written[1] | written[2] | written[3]));
    assert_int_equal(diff_all(f, ids[3], NOW, CHUNKS, a), SNAP_ENOENT);
    free(a);
}

static void diff__of_an_older_to_is_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid one = fixture_create(f, "one"), two = fixture_create(f, "two");
    struct ask *a = calloc(1, sizeof *a);

    assert_int_equal(diff_all(f, two, one, 1, a), SNAP_EINVAL);
    assert_non_null(strstr(a->err.text, "@one is older than two; name the older one first"));
    assert_int_equal(diff_all(f, one, one, 1, a), 0);
    assert_int_equal(diff_all(f, uuid_make(), one, 1, a), SNAP_ENOENT);
    assert_int_equal(diff_all(f, one, uuid_make(), 1, a), SNAP_ENOENT);
    free(a);
}

/* The record as it is while the volume is returned to a snapshot. */
static void do_pretend_rollback(struct call *c)
{
    const uint32_t *seqs = c->arg;
    c->f->volume->record.rollback.job = seqs[0] != 0 ? uuid_make() : (struct uuid){{0}};
    c->f->volume->record.rollback.to_seq = seqs[0];
    c->f->volume->record.rollback.undo_seq = seqs[1];
    c->f->volume->record.rollback.cancelled = seqs[2] != 0;
    call_end(c, 0, NULL);
}

static void diff__to_now_is_to_where_a_rollback_leads(void **state)
{
    struct fixture *f = *state;
    struct uuid ids[3];
    struct ask *a = calloc(1, sizeof *a);
    uint32_t seqs[3];

    for (unsigned i = 0; i < 3; i++) {
        char name[8];
        (void)snprintf(name, sizeof name, "s%u", i);
        ids[i] = fixture_create(f, name);
        seqs[i] = volume_snapshot_find(f->volume, &ids[i])->seq;
        assert_int_equal(fixture_fill(f, NOW, i * CHUNK_BYTES, 1, 1), 0);
    }
    /* back to s0: s1 differs from it by what came between; s0 by nothing */
    assert_int_equal(call(f, do_pretend_rollback, (uint32_t[]){seqs[0], seqs[2], 0}), 0);
    assert_int_equal(diff_all(f, ids[1], NOW, 8, a), 0);
    assert_true(a->chunks[0] == 1);
    assert_int_equal(diff_all(f, ids[0], NOW, 8, a), 0);
    assert_true(a->chunks[0] == 0);
    /* cancelled: on the way to what s2 stands for here */
    assert_int_equal(call(f, do_pretend_rollback, (uint32_t[]){seqs[0], seqs[2], 1}), 0);
    assert_int_equal(diff_all(f, ids[0], NOW, 8, a), 0);
    assert_true(a->chunks[0] == 3);
    assert_int_equal(call(f, do_pretend_rollback, (uint32_t[]){0, 0, 0}), 0);
    free(a);
}

/* Entries put into the map alone: a volume of a size that a test cannot write. */
static void do_scatter(struct call *c)
{
    struct volume *v = c->f->volume;
    const uint32_t *lo = c->arg;
    struct err err = ERR_INIT;
    int rc = 0;
    /* 300 windows with one chunk each, below many of older snapshots */
    for (uint64_t i = 0; i < 300 && rc == 0; i++) {
        for (uint64_t k = 0; k < 40 && rc == 0; k++)
            rc = cow_map_insert(v->map,
                                (struct cow_entry){.old_chunk = i * 1000000 + k,
                                                   .new_chunk = 100 + i * 100 + k,
                                                   .seq = *lo - 1},
                                &err);
        if (rc == 0)
            rc = cow_map_insert(v->map,
                                (struct cow_entry){.old_chunk = i * 1000000 + 3000,
                                                   .new_chunk = 50 + i,
                                                   .seq = *lo},
                                &err);
    }
    call_end(c, rc, &err);
}

static void do_unscatter(struct call *c)
{
    const uint32_t *lo = c->arg;
    int rc = cow_map_remove_seq(c->f->volume->map, *lo, NULL);
    if (rc == 0)
        rc = cow_map_remove_seq(c->f->volume->map, *lo - 1, NULL);
    call_end(c, rc, NULL);
}

static void diff__of_a_scattered_volume_comes_in_bounded_pages(void **state)
{
    struct fixture *f = *state;
    (void)fixture_create(f, "older");
    struct uuid from = fixture_create(f, "from");
    uint32_t lo = volume_snapshot_find(f->volume, &from)->seq;
    struct ask *a = calloc(1, sizeof *a);
    unsigned found = 0, pages = 0;

    assert_int_equal(call(f, do_scatter, &lo), 0);
    a->diff = (struct volume_diff){.from = from, .runs_max = CHUNKS};
    do {
        assert_int_equal(call(f, do_diff, a), 0);
        for (uint32_t i = 0; i < a->diff.n; i++) {
            assert_int_equal(a->old_chunk[i], (uint64_t)found * 1000000 + 3000);
            assert_int_equal(a->count[i], 1);
            found++;
        }
        assert_true(++pages < 100);
        a->diff.start_chunk = a->diff.next_chunk;
    } while (a->diff.more);
    assert_int_equal(found, 300);
    assert_int_equal(call(f, do_unscatter, &lo), 0);
    free(a);
}

int main(void)
{
#define HOSTED(fn) cmocka_unit_test_setup_teardown(fn, fixture_setup_hosted, fixture_teardown)
    const struct CMUnitTest tests[] = {
        HOSTED(diff__is_what_was_written_between),
        HOSTED(diff__of_an_older_to_is_refused),
        HOSTED(diff__to_now_is_to_where_a_rollback_leads),
        HOSTED(diff__of_a_scattered_volume_comes_in_bounded_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
