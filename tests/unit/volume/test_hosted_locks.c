/* SPDX-License-Identifier: Apache-2.0 */
/* Hosted volumes: who waits for whom. Writes of the same chunks, bursts, snapshots that read what
 * is written, few buffers. */
#include "tests/unit/volume/hosted_fixture.h"
#include "tests/unit/volume/job_fixture.h"

/* -- together -----------------------------------------------------------------------------------
 */

static void write__overlapping_ones_never_mix_in_a_chunk(void **state)
{
    struct fixture *f = *state;
    enum { WRITERS = 16 };
    static uint8_t data[WRITERS][4 * CHUNK_BYTES], got[SIZE];
    struct writing g[WRITERS];
    struct call calls[WRITERS];
    struct uuid s1 = fixture_create(f, "s1"), c = fixture_clone(f, s1, "c");
    const struct uuid nodes[2] = {ITSELF, c};
    for (unsigned n = 0; n < 2; n++) {
        for (unsigned i = 0; i < WRITERS; i++) {
            memset(data[i], (int)i + 1, sizeof data[i]);
            g[i] = (struct writing){.write = {.node = nodes[n],
                                              .op = VOLUME_WRITE,
                                              .offset_bytes = (uint64_t)(i % 4) * CHUNK_BYTES,
                                              .len_bytes = sizeof data[i]},
                                    .data = data[i]};
            call_begin(&calls[i], f, fixture_do_write, &g[i]);
        }
        for (unsigned i = 0; i < WRITERS; i++)
            assert_int_equal(call_wait(&calls[i]), 0);
        assert_int_equal(fixture_read(f, nodes[n], 0, 7 * CHUNK_BYTES, got), 0);
        for (unsigned i = 0; i < 7 * CHUNK_BYTES; i++)
            if (got[i] == 0 || got[i] != got[i / CHUNK_BYTES * CHUNK_BYTES])
                fail_msg("chunk %u is of two writes", i / CHUNK_BYTES);
    }
    fixture_expect_byte(f, s1, 0, SIZE, 0);
}

/* Each its own bytes of the same chunks, begun in one turn. */
static void write__parts_of_a_chunk_do_not_undo_one_another(void **state)
{
    struct fixture *f = *state;
    enum { WRITERS = 64, LEN = 100 };
    static uint8_t data[WRITERS][LEN];
    struct writing g[WRITERS];
    struct call calls[WRITERS];
    struct uuid s1 = fixture_create(f, "s1"), c = fixture_clone(f, s1, "c");
    const struct uuid nodes[2] = {ITSELF, c};
    for (unsigned n = 0; n < 4; n++) { /* first overwrites, then again */
        for (unsigned i = 0; i < WRITERS; i++) {
            memset(data[i], (int)(i + n + 1), LEN);
            g[i] = (struct writing){.write = {.node = nodes[n % 2],
                                              .op = VOLUME_WRITE,
                                              .offset_bytes = (uint64_t)i * LEN,
                                              .len_bytes = LEN},
                                    .data = data[i]};
        }
        fixture_write_together(f, g, calls, WRITERS);
        for (unsigned i = 0; i < WRITERS; i++)
            assert_int_equal(call_wait(&calls[i]), 0);
        for (unsigned i = 0; i < WRITERS; i++)
            fixture_expect_byte(f, nodes[n % 2], (uint64_t)i * LEN, (uint64_t)(i + 1) * LEN,
                                (int)(i + n + 1));
    }
    fixture_expect_byte(f, s1, 0, SIZE, 0);
}

/* What the parent's write preserves for the clone comes first, by a hair. */
static void clone__write_after_its_parents_is_not_lost(void **state)
{
    struct fixture *f = *state;
    static uint8_t ones[CHUNK_BYTES], twos[CHUNK_BYTES];
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a"),
                b = fixture_clone(f, a, "b");
    memset(ones, 1, sizeof ones);
    memset(twos, 2, sizeof twos);
    for (unsigned i = 0; i < CHUNKS; i++) {
        struct writing g[2] = {
            {.write = {.node = a, .op = VOLUME_WRITE, .len_bytes = CHUNK_BYTES}, .data = ones},
            {.write = {.node = b, .op = VOLUME_WRITE, .len_bytes = CHUNK_BYTES}, .data = twos}};
        struct call calls[2];
        for (unsigned n = 0; n < 2; n++) {
            g[n].write.offset_bytes = (uint64_t)i * CHUNK_BYTES;
            call_begin(&calls[n], f, fixture_do_write, &g[n]);
            (void)usleep(i * 20);
        }
        assert_int_equal(call_wait(&calls[0]), 0);
        assert_int_equal(call_wait(&calls[1]), 0);
    }
    fixture_expect_byte(f, a, 0, SIZE, 1);
    fixture_expect_byte(f, b, 0, SIZE, 2);
    fixture_expect_byte(f, s1, 0, SIZE, 0);
}

struct commits {
    struct uuid id;
    uint64_t commits, added, data_writes;
};

static void do_commits(struct call *c)
{
    struct commits *n = c->arg;
    struct cow_usage u;
    cow_store_usage(volume_snapshot_find(c->f->volume, &n->id)->store, &u);
    n->commits = u.commits;
    n->added = u.chunks_added;
    n->data_writes = u.data_writes;
    call_end(c, 0, NULL);
}

static void write__burst_is_put_at_once(void **state)
{
    struct fixture *f = *state;
    struct writing writes[CHUNKS];
    struct call calls[CHUNKS];
    uint8_t data[CHUNK_BYTES] = {7};
    f->env.cow_grow_step_bytes = 4 << 20; /* growing in between would part it */
    struct commits n = {.id = fixture_create(f, "s1")};
    for (unsigned i = 0; i < CHUNKS; i++)
        writes[i] = (struct writing){.write = {.op = VOLUME_WRITE,
                                               .offset_bytes = (uint64_t)i * CHUNK_BYTES,
                                               .len_bytes = CHUNK_BYTES},
                                     .data = data};
    fixture_write_together(f, writes, calls, CHUNKS);
    for (unsigned i = 0; i < CHUNKS; i++)
        assert_int_equal(call_wait(&calls[i]), 0);
    assert_int_equal(call(f, do_commits, &n), 0);
    assert_int_equal(n.added, CHUNKS);
    assert_in_range(n.commits, 1, 3); /* the store's own pipeline has halves */
    assert_in_range(n.data_writes, 1, 2);
}

/* -- writers and readers ------------------------------------------------------------------- */

static void write__waits_for_a_snapshot_that_is_reading_the_origin(void **state)
{
    struct fixture *f = *state;
    uint8_t data[CHUNK_BYTES] = {7};
    struct uuid s1 = fixture_create(f, "s1");
    struct holding h = {.range = {.first = 1, .last = 1, .shared = true}, .reads = true};
    struct writing g = {
        .write = {.op = VOLUME_WRITE, .offset_bytes = CHUNK_BYTES, .len_bytes = CHUNK_BYTES},
        .data = data};
    struct call c;
    fixture_hold(f, &h);
    call_begin(&c, f, fixture_do_write, &g);
    assert_true(call_still_waits(&c));
    fixture_expect_byte(f, ITSELF, 0, SIZE, 0);
    for (int i = 0; i < 2000 && fixture_look(f, s1).exceptions == 0; i++)
        (void)usleep(2000);
    assert_int_equal(fixture_look(f, s1).exceptions, 1); /* what it needs is safe by then */
    assert_int_equal(fixture_fill(f, ITSELF, 2 * CHUNK_BYTES, 1, 1), 0); /* others go on */
    fixture_let_go(f, &h);
    assert_int_equal(call_wait(&c), 0);
    fixture_expect_byte(f, ITSELF, CHUNK_BYTES, CHUNK_BYTES + 1, 7);
}

static void read__of_a_snapshot_waits_for_the_writer_of_the_chunk(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct holding h = {.range = {.first = 1, .last = 1}, .reads = true};
    struct reading *g = calloc(1, sizeof *g);
    g->snapshot = s1;
    g->len = SIZE;
    struct call c;
    fixture_hold(f, &h);
    call_begin(&c, f, fixture_do_read, g);
    assert_true(call_still_waits(&c));
    fixture_expect_byte(f, ITSELF, 0, SIZE, 0); /* the volume itself waits for nobody */
    fixture_let_go(f, &h);
    assert_int_equal(call_wait(&c), 0);
    free(g);
}

static void read__snapshot_keeps_its_content_while_all_is_overwritten(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s0");
    static uint8_t data[SIZE];
    char name[16];
    for (int round = 1; round < 40; round++) {
        struct writing g[8];
        struct call w[8], r[8];
        struct reading *reads = calloc(8, sizeof *reads);
        memset(data, round, sizeof data);
        for (unsigned i = 0; i < 8; i++) {
            reads[i].snapshot = s;
            reads[i].offset = i * (SIZE / 8);
            reads[i].len = SIZE / 8;
            g[i] = (struct writing){.write = {.op = VOLUME_WRITE,
                                              .offset_bytes = i * (SIZE / 8),
                                              .len_bytes = SIZE / 8},
                                    .data = data};
            call_begin(&w[i], f, fixture_do_write, &g[i]);
            call_begin(&r[i], f, fixture_do_read, &reads[i]);
        }
        for (unsigned i = 0; i < 8; i++) {
            assert_int_equal(call_wait(&w[i]), 0);
            assert_int_equal(call_wait(&r[i]), 0);
            for (unsigned b = 0; b < SIZE / 8; b++)
                assert_int_equal(reads[i].bytes[b], round - 1);
        }
        free(reads);
        (void)snprintf(name, sizeof name, "s%d", round);
        s = fixture_create(f, name);
    }
}

/* -- writers, and what takes nodes away ---------------------------------------------------- */

/* A write has chosen the snapshot for what it overwrites: it ends before the scan begins. */
static void hand_down__waits_for_the_writes_that_may_put_into_the_hidden_one(void **state)
{
    struct fixture *f = *state;
    struct holding h = {.range = {.first = 1, .last = 1}};
    struct uuid s1 = fixture_create(f, "s1"), s2 = fixture_create(f, "s2");
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    fixture_hold(f, &h);
    assert_int_equal(fixture_delete(f, s2, uuid_make(), false), 0);
    (void)usleep(100000);
    assert_int_equal(fixture_look(f, s1).exceptions, 0);
    assert_int_equal(fixture_look(f, s1).nodes, 2);
    assert_true(fixture_look(f, s1).job);
    fixture_let_go(f, &h);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, s1).exceptions, CHUNKS);
    fixture_expect_byte(f, s1, 0, SIZE, 0);
}

/* … and so it does for those of a clone that the hidden one reads through. */
static void hand_down__of_a_clones_clone_waits_for_the_clones_writes(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a"),
                b = fixture_clone(f, a, "b");
    struct holding h = {.range = {.last = UINT64_MAX}, .clone = a};
    assert_int_equal(fixture_fill(f, b, 0, SIZE, 1), 0);
    struct uuid c = fixture_clone(f, b, "c");
    fixture_hold(f, &h);
    assert_int_equal(fixture_delete(f, b, uuid_make(), false), 0);
    (void)usleep(100000);
    assert_int_equal(fixture_look(f, c).exceptions, 0);
    assert_true(fixture_look(f, b).hidden);
    fixture_let_go(f, &h);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, c).exceptions, CHUNKS);
    fixture_expect_byte(f, c, 0, SIZE, 1);
}

/* Parts of chunks are written in the clone while these chunks are brought to it. */
static void hand_down__beside_writes_of_the_clone_it_goes_to(void **state)
{
    struct fixture *f = *state;
    enum { LEN = 100 };
    uint8_t data[LEN];
    struct writing g[CHUNKS];
    struct call calls[CHUNKS], deleting;
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a");
    assert_int_equal(fixture_fill(f, a, 0, SIZE, 1), 0);
    struct uuid b = fixture_clone(f, a, "b");
    struct snapshot_delete_spec spec = {.id = a, .key = uuid_make()};
    memset(data, 2, sizeof data);
    for (unsigned i = 0; i < CHUNKS; i++)
        g[i] = (struct writing){.write = {.node = b,
                                          .op = VOLUME_WRITE,
                                          .offset_bytes = (uint64_t)i * CHUNK_BYTES + 50,
                                          .len_bytes = LEN},
                                .data = data};
    call_begin(&deleting, f, fixture_do_delete, &spec);
    for (unsigned i = 0; i < 2000 && !fixture_look(f, a).hidden && fixture_look(f, a).there; i++)
        ;
    fixture_write_together(f, g, calls, CHUNKS);
    assert_int_equal(call_wait(&deleting), 0);
    for (unsigned i = 0; i < CHUNKS; i++)
        assert_int_equal(call_wait(&calls[i]), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, b).exceptions, CHUNKS);
    for (unsigned i = 0; i < CHUNKS; i++) {
        uint64_t at = (uint64_t)i * CHUNK_BYTES;
        fixture_expect_byte(f, b, at, at + 50, 1);
        fixture_expect_byte(f, b, at + 50, at + 50 + LEN, 2);
        fixture_expect_byte(f, b, at + 50 + LEN, at + CHUNK_BYTES, 1);
    }
}

static void delete__of_a_clone_waits_for_its_writes(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a");
    struct holding h = {.range = {.first = 1, .last = 1}, .clone = a};
    struct snapshot_delete_spec spec = {.id = a, .key = uuid_make()};
    struct call c;
    fixture_hold(f, &h);
    call_begin(&c, f, fixture_do_delete, &spec);
    assert_true(call_still_waits(&c));
    assert_false(fixture_look(f, a).hidden);
    assert_int_equal(fixture_fill(f, a, 0, 1, 1), SNAP_ENOENT); /* no later one comes in */
    fixture_let_go(f, &h);
    assert_int_equal(call_wait(&c), 0);
    fixture_settle(f);
    assert_false(fixture_look(f, a).there);
}

/* What the hidden one holds is the older one's content, also where its neighbours are preserved. */
static void write__puts_nothing_over_what_is_yet_to_be_handed_down(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    struct uuid s1 = fixture_create(f, "s1"), s2 = fixture_create(f, "s2");
    assert_int_equal(fixture_fill(f, ITSELF, CHUNK_BYTES, CHUNK_BYTES, 2), 0);
    fixture_set_busy(f, s1, true); /* the hand-down waits */
    assert_int_equal(fixture_delete(f, s2, uuid_make(), false), 0);
    assert_int_equal(fixture_fill(f, ITSELF, 0, 3 * CHUNK_BYTES, 3), 0);
    assert_int_equal(fixture_look(f, s1).exceptions, 2);
    fixture_expect_byte(f, s1, 0, SIZE, 1);
    fixture_set_busy(f, s1, false);
    fixture_reopen(f);
    fixture_settle(f);
    fixture_expect_byte(f, s1, 0, SIZE, 1);
}

/* What it preserves it reads through its source, which nobody may change meanwhile. */
static void write__of_a_clone_preserves_what_its_source_holds_still(void **state)
{
    struct fixture *f = *state;
    uint8_t data[CHUNK_BYTES] = {7};
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a"),
                b = fixture_clone(f, a, "b"), d = fixture_clone(f, b, "d");
    struct holding h = {.range = {.first = 1, .last = 1}, .clone = a};
    struct writing g = {.write = {.node = b,
                                  .op = VOLUME_WRITE,
                                  .offset_bytes = CHUNK_BYTES,
                                  .len_bytes = CHUNK_BYTES},
                        .data = data};
    struct call c;
    fixture_hold(f, &h);
    call_begin(&c, f, fixture_do_write, &g);
    assert_true(call_still_waits(&c));
    assert_int_equal(fixture_look(f, d).exceptions, 0);
    fixture_let_go(f, &h);
    assert_int_equal(call_wait(&c), 0);
    assert_int_equal(fixture_look(f, d).exceptions, 1);
    fixture_expect_byte(f, d, 0, SIZE, 0);
}

/* -- little memory ------------------------------------------------------------------------- */

static int setup_poor(void **state)
{
    return fixture_setup_as(
        state, &(struct fixture_spec){.kind = VOLUME_HOSTED, .answer_bytes_max = 64 << 10});
}

static void write__few_buffers_are_waited_for_by_all(void **state)
{
    struct fixture *f = *state;
    enum { WRITERS = 48 };
    static uint8_t data[8 * CHUNK_BYTES];
    struct writing g[WRITERS];
    struct call calls[WRITERS];
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a"),
                b = fixture_clone(f, a, "b");
    const struct uuid nodes[3] = {ITSELF, a, b};
    memset(data, 5, sizeof data);
    for (unsigned i = 0; i < WRITERS; i++) {
        g[i] = (struct writing){.write = {.node = nodes[i % 3],
                                          .op = VOLUME_WRITE,
                                          .offset_bytes = (i / 3) * 2048 + 1,
                                          .len_bytes = sizeof data - 10},
                                .data = data};
        call_begin(&calls[i], f, fixture_do_write, &g[i]);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        assert_int_equal(call_wait(&calls[i]), 0);
    for (unsigned n = 0; n < 3; n++) {
        uint8_t got[CHUNK_BYTES];
        assert_int_equal(fixture_read(f, nodes[n], 1, sizeof got, got), 0);
        for (unsigned i = 0; i < sizeof got; i++)
            assert_int_equal(got[i], 5);
    }
}

int main(void)
{
#define HOSTED(test) cmocka_unit_test_setup_teardown(test, fixture_setup_hosted, fixture_teardown)
    const struct CMUnitTest tests[] = {
        HOSTED(write__overlapping_ones_never_mix_in_a_chunk),
        HOSTED(write__parts_of_a_chunk_do_not_undo_one_another),
        HOSTED(clone__write_after_its_parents_is_not_lost),
        HOSTED(write__burst_is_put_at_once),
        HOSTED(write__waits_for_a_snapshot_that_is_reading_the_origin),
        HOSTED(read__of_a_snapshot_waits_for_the_writer_of_the_chunk),
        HOSTED(read__snapshot_keeps_its_content_while_all_is_overwritten),
        HOSTED(hand_down__waits_for_the_writes_that_may_put_into_the_hidden_one),
        HOSTED(hand_down__of_a_clones_clone_waits_for_the_clones_writes),
        HOSTED(hand_down__beside_writes_of_the_clone_it_goes_to),
        HOSTED(delete__of_a_clone_waits_for_its_writes),
        HOSTED(write__puts_nothing_over_what_is_yet_to_be_handed_down),
        HOSTED(write__of_a_clone_preserves_what_its_source_holds_still),
        cmocka_unit_test_setup_teardown(write__few_buffers_are_waited_for_by_all, setup_poor,
                                        fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
