/* SPDX-License-Identifier: Apache-2.0 */
/* Deleting with hand-down, and what damage and invalidity do to a chain. */
#include "tests/unit/volume/job_fixture.h"
#include "tests/unit/volume/remote_fixture.h"

/* Three snapshots, each with some first overwrites; nobody holds the lease at the end.
 *
 *   s1: 10-19 = 100+n     s2: 15-24 = 50+n     s3: 22-29 = n */
static void make_chain(struct fixture *f, struct uuid id[3])
{
    static const struct {
        const char *name;
        uint64_t first;
        uint32_t count;
        uint8_t fill;
    } steps[3] = {{"s1", 10, 10, 100}, {"s2", 15, 10, 50}, {"s3", 22, 8, 0}};
    for (int i = 0; i < 3; i++) {
        id[i] = fixture_create(f, steps[i].name); /* no lease is held: at once */
        struct writer w = fixture_writer(f, "w");
        assert_int_equal(call(f, fixture_do_acquire, &w), 0);
        fixture_put(f, id[i], f->volume->lease.epoch, steps[i].first, steps[i].count,
                    steps[i].fill);
        lease_free(&f->volume->lease);
    }
}

static int want_s1(unsigned n)
{
    if (n >= 10 && n < 20)
        return (int)(100 + n);
    if (n >= 20 && n < 25)
        return (int)(50 + n);
    return n >= 25 && n < 30 ? (int)n : ORIGIN;
}

static int want_s2(unsigned n)
{
    if (n >= 15 && n < 25)
        return (int)(50 + n);
    return n >= 25 && n < 30 ? (int)n : ORIGIN;
}

static int want_s3(unsigned n)
{
    return n >= 22 && n < 30 ? (int)n : ORIGIN;
}

static void expect_all(struct fixture *f, const struct uuid id[3])
{
    fixture_expect(f, id[0], want_s1);
    fixture_expect(f, id[1], want_s2);
    fixture_expect(f, id[2], want_s3);
}

/* -- deleting ----------------------------------------------------------------------------- */

static void delete__middle_one_hands_down_what_the_older_lacks(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3], key = uuid_make();
    char cow[LIMIT_PATH_BYTES];
    make_chain(f, id);
    expect_all(f, id);
    assert_int_equal(fixture_delete(f, id[1], key, false), 0);
    assert_int_equal(fixture_delete(f, id[1], key, false), 0); /* the same try again */
    assert_int_equal(fixture_delete(f, id[1], uuid_make(), false), SNAP_ENOENT);
    fixture_expect(f, id[0], want_s1);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, id[0]).exceptions, 15);
    assert_int_equal(fixture_look(f, id[1]).nodes, 2);
    assert_false(fixture_look(f, id[1]).there);
    for (int i = 0; i < 200 && access(fixture_cow_path(f, id[1], cow, sizeof cow), F_OK) == 0; i++)
        (void)usleep(5000);
    assert_int_equal(access(cow, F_OK), -1);
    fixture_expect(f, id[0], want_s1);
    fixture_expect(f, id[2], want_s3);
    fixture_reopen(f);
    fixture_expect(f, id[0], want_s1);
    fixture_expect(f, id[2], want_s3);
    assert_int_equal(fixture_delete(f, id[1], key, false), 0);
}

static void delete__newest_then_oldest(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3];
    make_chain(f, id);
    assert_int_equal(fixture_delete(f, id[2], uuid_make(), false), 0);
    fixture_expect(f, id[1], want_s2);
    fixture_settle(f);
    fixture_expect(f, id[1], want_s2);
    fixture_expect(f, id[0], want_s1);
    assert_int_equal(fixture_delete(f, id[0], uuid_make(), false), 0);
    fixture_settle(f);
    fixture_expect(f, id[1], want_s2);
    assert_int_equal(fixture_look(f, id[1]).nodes, 1);
}

static void delete__all_at_once(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3];
    make_chain(f, id);
    assert_int_equal(fixture_delete(f, id[1], uuid_make(), false), 0);
    assert_int_equal(fixture_delete(f, id[2], uuid_make(), false), 0);
    assert_int_equal(fixture_delete(f, id[0], uuid_make(), false), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, id[0]).nodes, 0);
    assert_int_equal(f->volume->chunk_sectors, 0);
}

static void delete__job_goes_on_after_opening_again(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3];
    make_chain(f, id);
    struct call closing, deleting;
    struct snapshot_delete_spec spec = {.id = id[1], .key = uuid_make()};
    call_begin(&deleting, f, fixture_do_delete, &spec);
    assert_int_equal(call_wait(&deleting), 0);
    call_begin(&closing, f, fixture_do_close, NULL);
    assert_int_equal(call_wait(&closing), 0);
    f->volume = NULL;
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    fixture_expect(f, id[0], want_s1);
    fixture_settle(f);
    fixture_expect(f, id[0], want_s1);
    assert_int_equal(fixture_look(f, id[0]).nodes, 2);
}

/* s1's device cannot be opened, so that the job waits with s2 and s3 hidden. */
static void block_hand_down(struct fixture *f, const struct uuid id[3])
{
    char cow[LIMIT_PATH_BYTES], aside[LIMIT_PATH_BYTES + 8];
    (void)fixture_cow_path(f, id[1], cow, sizeof cow);
    (void)snprintf(aside, sizeof aside, "%s.aside", cow);
    assert_int_equal(rename(cow, aside), 0);
    fixture_reopen(f);
    assert_int_equal(fixture_look(f, id[1]).state, SNAPSHOT_DAMAGED);
    assert_int_equal(rename(aside, cow), 0);
}

static void delete__job_waits_for_a_damaged_target(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3];
    make_chain(f, id);
    block_hand_down(f, id);
    assert_int_equal(fixture_delete(f, id[2], uuid_make(), false), 0);
    (void)usleep(50000);
    assert_true(fixture_look(f, id[2]).hidden);
    assert_true(fixture_look(f, id[2]).job);
    fixture_reopen(f);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, id[2]).nodes, 2);
    fixture_expect(f, id[0], want_s1);
    fixture_expect(f, id[1], want_s2);
}

static void put__chunk_of_a_hidden_newer_one_exists(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3];
    make_chain(f, id);
    /* a job that is not there: s3 is hidden and stays */
    f->volume->opening = true;
    assert_int_equal(fixture_delete(f, id[2], uuid_make(), false), 0);
    assert_true(fixture_look(f, id[2]).hidden);
    uint64_t epoch = fixture_lease(f);
    struct batch b = fixture_batch(id[1], epoch, 24, 8, 7); /* 24 own, 25-29 hidden, 30, 31 new */
    b.zero_chunks[0] = 28;
    b.zero_chunks[1] = 40;
    b.zero_count = 2;
    assert_int_equal(call(f, fixture_do_put, &b), 0);
    assert_int_equal(b.existed, 7);
    assert_int_equal(b.added, 3);
    struct reading *g = calloc(1, sizeof *g);
    *g = (struct reading){.snapshot = id[1], .offset = 29 * CHUNK_BYTES, .len = 3 * CHUNK_BYTES};
    assert_int_equal(call(f, fixture_do_read, g), 0);
    assert_int_equal(g->bytes[0], 29);
    assert_int_equal(g->bytes[CHUNK_BYTES], 37);
    assert_int_equal(g->bytes[2 * CHUNK_BYTES], 38);
    free(g);
    f->volume->opening = false;
    fixture_reopen(f);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, id[1]).exceptions, 10 + 5 + 3);
}

/* -- damage --------------------------------------------------------------------------------- */

static void open__damaged_one_is_told_and_the_rest_is_served(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3];
    make_chain(f, id);
    fixture_scribble(f, id[1], 0, 'X'); /* the magic */
    fixture_reopen(f);
    struct look l = fixture_look(f, id[1]);
    assert_int_equal(l.state, SNAPSHOT_DAMAGED);
    assert_true(strlen(l.text) > 0);
    l = fixture_look(f, id[0]);
    assert_int_equal(l.state, SNAPSHOT_DAMAGED);
    assert_non_null(strstr(l.text, "reads through s2"));
    assert_int_equal(fixture_look(f, id[2]).state, SNAPSHOT_OK);
    fixture_expect(f, id[2], want_s3);
    struct reading *g = calloc(1, sizeof *g);
    *g = (struct reading){.snapshot = id[0], .len = 4096};
    assert_int_equal(call(f, fixture_do_read, g), SNAP_ECORRUPT);
    free(g);
}

static void open__missing_file_is_damage_and_comes_back(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3];
    make_chain(f, id);
    block_hand_down(f, id);
    fixture_reopen(f);
    expect_all(f, id);
}

/* Its table would be read, and its chunks placed, by the wrong unit. */
static void open__other_chunk_size_than_recorded_is_damage(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s1");
    char cow[LIMIT_PATH_BYTES];
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    assert_int_equal(truncate(fixture_cow_path(f, s, cow, sizeof cow), 1 << 16), 0);
    fixture_scribble(f, s, 12, 2 * CHUNK_SECTORS); /* of its header */
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    assert_int_equal(fixture_look(f, s).state, SNAPSHOT_DAMAGED);
    assert_non_null(strstr(fixture_look(f, s).text, "chunk size"));
}

static void open__invalid_one_makes_the_older_ones_invalid(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3];
    make_chain(f, id);
    fixture_scribble(f, id[1], 4, 0); /* valid = 0 */
    fixture_reopen(f);
    assert_int_equal(fixture_look(f, id[0]).state, SNAPSHOT_INVALID);
    assert_int_equal(fixture_look(f, id[1]).state, SNAPSHOT_INVALID);
    assert_int_equal(fixture_look(f, id[2]).state, SNAPSHOT_OK);
    /* and they stay so when it is deleted */
    assert_int_equal(fixture_delete(f, id[1], uuid_make(), false), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, id[1]).nodes, 2);
    assert_int_equal(fixture_look(f, id[0]).state, SNAPSHOT_INVALID);
    fixture_reopen(f);
    assert_int_equal(fixture_look(f, id[0]).state, SNAPSHOT_INVALID);
    fixture_expect(f, id[2], want_s3);
}

static void delete__job_gives_nothing_up_for_a_device_that_is_away(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3];
    char cow[LIMIT_PATH_BYTES], aside[LIMIT_PATH_BYTES + 8];
    make_chain(f, id);
    f->volume->opening = true; /* no job */
    assert_int_equal(fixture_delete(f, id[1], uuid_make(), false), 0);
    (void)fixture_cow_path(f, id[1], cow, sizeof cow);
    (void)snprintf(aside, sizeof aside, "%s.aside", cow);
    assert_int_equal(rename(cow, aside), 0);
    fixture_reopen(f);
    (void)usleep(50000);
    assert_true(fixture_look(f, id[1]).hidden);
    assert_int_equal(fixture_look(f, id[0]).state, SNAPSHOT_DAMAGED);
    assert_int_equal(rename(aside, cow), 0);
    fixture_reopen(f);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, id[0]).state, SNAPSHOT_OK);
    fixture_expect(f, id[0], want_s1);
}

static void delete__damaged_one_that_others_need_wants_force(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3];
    make_chain(f, id);
    fixture_scribble(f, id[1], 0, 'X');
    fixture_reopen(f);
    assert_int_equal(fixture_delete(f, id[1], uuid_make(), false), SNAP_ECORRUPT);
    assert_int_equal(fixture_delete(f, id[1], uuid_make(), true), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, id[0]).state, SNAPSHOT_INVALID);
    assert_int_equal(fixture_look(f, id[1]).nodes, 2);
}

/* -- check ------------------------------------------------------------------------------------ */

static void check__sound_open_store_and_damaged_closed_one(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3];
    make_chain(f, id);
    struct checking g = {.check = {.snapshot = id[1]}};
    assert_int_equal(call(f, fixture_do_check, &g), 0);
    assert_true(g.check.sound);
    assert_int_equal(g.check.exceptions, 10);
    fixture_scribble(f, id[1], 4096 + 16, 15); /* the second entry's old_chunk: a double */
    fixture_reopen(f);
    g = (struct checking){.check = {.snapshot = id[1]}};
    assert_int_equal(call(f, fixture_do_check, &g), 0);
    assert_false(g.check.sound);
    assert_true(g.check.faults_total >= 1);
}

static char dropped[256]; /* "VOLUME SNAPSHOT;" of each that was told of */

static void note_dropped(void *user, const struct volume *v, const char *snapshot, const char *what,
                         const struct err *err)
{
    size_t n = strlen(dropped);
    (void)user;
    if (err == NULL && strcmp(what, "snapshot dropped") == 0)
        (void)snprintf(dropped + n, sizeof dropped - n, "%s %s;", v->record.name,
                       snapshot != NULL ? snapshot : "(none)");
}

static void delete__is_told_with_the_name(void **state)
{
    struct fixture *f = *state;
    f->env.notice = note_dropped;
    dropped[0] = '\0';
    (void)fixture_create(f, "s1");
    struct uuid s2 = fixture_create(f, "s2");
    assert_int_equal(fixture_delete(f, s2, uuid_make(), false), 0);
    fixture_settle(f);
    assert_string_equal(dropped, "vol s2;");
}

static void create__limit_without_room_for_a_chunk_is_refused(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint64_t limit_bytes;
        uint32_t chunk_sectors;
        const char *says; /* NULL: taken */
    } cases[] = {
        {1, 0, "a limit of 1 is too small for a COW device with chunks of 4K: at least 12K"},
        {3 * CHUNK_BYTES - 1, 0, "at least 12K"},
        {12 << 20, 16384, "chunks of 8M: at least 24M"},
        {0, 16384, "a limit of 8M is too small"}, /* the fixture's default */
        {3 * CHUNK_BYTES, 0, NULL},
        {1 << 20, 16384, "have chunks of 4K, not of 8M"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct make m = {.id = uuid_make(),
                         .name = cases[i].says == NULL ? "s1" : "s2",
                         .limit_bytes = cases[i].limit_bytes,
                         .chunk_sectors = cases[i].chunk_sectors};
        struct call c;
        call_begin(&c, f, fixture_do_create, &m);
        int rc = call_wait(&c);
        if (cases[i].says == NULL) {
            assert_int_equal(rc, 0);
            struct batch b = fixture_batch(m.id, fixture_lease(f), 0, 1, 0);
            assert_int_equal(call(f, fixture_do_put, &b), 0);
            assert_int_equal(b.added, 1);
        } else if (rc >= 0 || strstr(c.err.text, cases[i].says) == NULL) {
            fail_msg("case %zu: %d \"%s\"", i, rc, c.err.text);
        }
    }
}

/* -- full ----------------------------------------------------------------------------------------
 */

static struct uuid make_small(struct fixture *f)
{
    struct make m = {.id = uuid_make(), .name = "small", .limit_bytes = 8 * CHUNK_BYTES};
    assert_int_equal(call(f, fixture_do_create, &m), 0);
    return m.id;
}

static void full__refuse_keeps_what_there_is(void **state)
{
    struct fixture *f = *state;
    struct uuid s = make_small(f);
    uint64_t epoch = fixture_lease(f);
    struct batch b = fixture_batch(s, epoch, 0, 20, 0);
    assert_int_equal(call(f, fixture_do_put, &b), 0);
    assert_int_equal(b.first_code, SNAP_ENOSPC);
    assert_true(b.added >= 5 && b.added <= 6);
    assert_int_equal(b.added + b.failed, 20);
    assert_int_equal(fixture_look(f, s).state, SNAPSHOT_OK);
    assert_int_equal(fixture_look(f, s).exceptions, b.added);
}

static void full__invalidate_reaches_the_older_ones(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct uuid s2 = make_small(f);
    f->volume->record.full_policy = FULL_INVALIDATE;
    struct batch b = fixture_batch(s2, fixture_lease(f), 0, 20, 0);
    assert_int_equal(call(f, fixture_do_put, &b), 0);
    assert_int_equal(b.first_code, SNAP_EINVALID);
    assert_int_equal(fixture_look(f, s2).state, SNAPSHOT_INVALID);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_INVALID);
    fixture_reopen(f);
    assert_int_equal(fixture_look(f, s2).state, SNAPSHOT_INVALID);
}

static void delete__target_limit_is_raised_for_what_is_handed_down(void **state)
{
    struct fixture *f = *state;
    struct uuid small = make_small(f);
    struct uuid big = fixture_create(f, "big");
    fixture_put(f, big, fixture_lease(f), 0, 40, 0);
    lease_free(&f->volume->lease);
    assert_int_equal(fixture_delete(f, big, uuid_make(), false), 0);
    fixture_settle(f);
    struct look l = fixture_look(f, small);
    assert_int_equal(l.exceptions, 40);
    assert_true(l.limit_bytes > 40 * CHUNK_BYTES);
}

static _Atomic uint64_t free_bytes;

static int little_space(void *user, const char *dir, uint64_t *ret, struct err *reterr)
{
    (void)user;
    (void)dir;
    (void)reterr;
    *ret = free_bytes;
    return 0;
}

static void do_status(struct call *c)
{
    call_end(c, hand_down_status(c->f->volume, c->arg) ? 0 : SNAP_ENOENT, NULL);
}

/* s2 has ten chunks, of which s1 lacks five. */
static void delete__job_waits_until_there_is_room_for_what_is_lacked(void **state)
{
    struct fixture *f = *state;
    struct uuid id[3];
    struct volume_storage storage = volume_storage_files;
    struct hand_down_status h;
    make_chain(f, id);
    storage.free_bytes = little_space;
    f->env.storage = &storage;
    free_bytes = 6 * CHUNK_BYTES; /* a chunk, and what a table may take, too little */
    assert_int_equal(fixture_delete(f, id[1], uuid_make(), false), 0);
    for (int i = 0; i < 1000 && (call(f, do_status, &h) != 0 || strlen(h.state) < 20); i++)
        (void)usleep(2000);
    assert_non_null(
        strstr(h.state, "5 chunks of 4K are to be handed down, its file system has 24K free"));
    assert_int_equal(fixture_look(f, id[0]).exceptions, 10);
    free_bytes = 7 * CHUNK_BYTES; /* not for ten */
    fixture_start_jobs(f);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, id[0]).exceptions, 15);
    fixture_expect(f, id[0], want_s1);
}

/* -- space of a client ------------------------------------------------------------------------ */

static void space__limit_refuses_and_deleting_gives_back(void **state)
{
    struct fixture *f = *state;
    fixture_limit_space(f, 0);
    struct uuid s = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    atomic_store(&space_max, 20 * CHUNK_BYTES);
    fixture_put(f, s, epoch, 0, 10, 0);
    assert_int_equal(atomic_load(&space_used), 12 * CHUNK_BYTES);
    struct batch b = fixture_batch(s, epoch, 10, 10, 0);
    assert_int_equal(call(f, fixture_do_put, &b), SNAP_ENOSPC);
    fixture_put(f, s, epoch, 10, 8, 0);
    fixture_reopen(f);
    assert_int_equal(atomic_load(&space_used), 20 * CHUNK_BYTES);
    assert_int_equal(fixture_delete(f, s, uuid_make(), false), 0);
    fixture_settle(f);
    for (int i = 0; i < 200 && fixture_look(f, s).nodes > 0; i++)
        (void)usleep(5000);
    assert_int_equal(atomic_load(&space_used), 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(delete__middle_one_hands_down_what_the_older_lacks),
        CASE(delete__newest_then_oldest),
        CASE(delete__all_at_once),
        CASE(delete__job_goes_on_after_opening_again),
        CASE(delete__job_waits_for_a_damaged_target),
        CASE(put__chunk_of_a_hidden_newer_one_exists),
        CASE(open__damaged_one_is_told_and_the_rest_is_served),
        CASE(open__missing_file_is_damage_and_comes_back),
        CASE(open__other_chunk_size_than_recorded_is_damage),
        CASE(open__invalid_one_makes_the_older_ones_invalid),
        CASE(delete__damaged_one_that_others_need_wants_force),
        CASE(delete__job_gives_nothing_up_for_a_device_that_is_away),
        CASE(check__sound_open_store_and_damaged_closed_one),
        CASE(delete__is_told_with_the_name),
        CASE(create__limit_without_room_for_a_chunk_is_refused),
        CASE(full__refuse_keeps_what_there_is),
        CASE(full__invalidate_reaches_the_older_ones),
        CASE(space__limit_refuses_and_deleting_gives_back),
        CASE(delete__job_waits_until_there_is_room_for_what_is_lacked),
        CASE(delete__target_limit_is_raised_for_what_is_handed_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
