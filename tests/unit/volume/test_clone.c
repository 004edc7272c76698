/* SPDX-License-Identifier: Apache-2.0 */
/* Clones: what they read through, what they keep when that changes or goes. */
#include "tests/unit/volume/tree_fixture.h"

static uint8_t zeros[SECTORS];

static void clone__reads_as_its_source_and_is_written_alone(void **state)
{
    struct fixture *f = *state;
    uint8_t origin[SECTORS] = {0}, s1[SECTORS] = {0}, c1[SECTORS] = {0};
    tree_write(f, ITSELF, 0, 100, 1);
    tree_fill(origin, 0, 100, 1);
    memcpy(s1, origin, sizeof s1);
    struct uuid s = fixture_create(f, "s1"), c = fixture_clone(f, s, "c1");
    memcpy(c1, s1, sizeof c1);
    tree_expect(f, c, c1, "fresh clone");
    tree_write(f, c, 50, 13, 7); /* parts of chunks */
    tree_fill(c1, 50, 13, 7);
    tree_write(f, ITSELF, 0, 80, 2);
    tree_fill(origin, 0, 80, 2);
    tree_write(f, c, 52, 2, 8); /* in place */
    tree_fill(c1, 52, 2, 8);
    for (int i = 0; i < 2; i++) {
        tree_expect(f, ITSELF, origin, "origin");
        tree_expect(f, s, s1, "s1");
        tree_expect(f, c, c1, "c1");
        fixture_reopen(f);
    }
    assert_int_equal(tree_try_write(f, s, 0, 1, 9), SNAP_EPERM);
}

static void clone__of_a_clone_keeps_the_moment(void **state)
{
    struct fixture *f = *state;
    uint8_t c1[SECTORS] = {0}, d1[SECTORS];
    struct uuid s = fixture_create(f, "s1"), c = fixture_clone(f, s, "c1");
    tree_write(f, c, 3, 20, 1);
    tree_fill(c1, 3, 20, 1);
    memcpy(d1, c1, sizeof d1);
    struct uuid d = fixture_clone(f, c, "d1");
    tree_write(f, c, 0, 40, 2);
    tree_fill(c1, 0, 40, 2);
    tree_write(f, ITSELF, 0, 60, 3);
    tree_expect(f, d, d1, "d1");
    tree_expect(f, c, c1, "c1");
    tree_expect(f, s, zeros, "s1");
    fixture_reopen(f);
    tree_expect(f, d, d1, "d1, opened again");
    tree_expect(f, c, c1, "c1, opened again");
}

static void clone__the_same_again_is_the_same_and_others_are_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s1");
    struct clone_spec spec = {.id = uuid_make(), .source = s, .name = "c1"};
    assert_int_equal(call(f, fixture_do_clone, &spec), 0);
    assert_int_equal(call(f, fixture_do_clone, &spec), 0);
    spec.name = "c2";
    assert_int_equal(call(f, fixture_do_clone, &spec), SNAP_EEXIST);
    struct clone_spec other = {.id = uuid_make(), .source = s, .name = "c1"};
    assert_int_equal(call(f, fixture_do_clone, &other), SNAP_EEXIST);
    other.name = "bad/name";
    assert_int_equal(call(f, fixture_do_clone, &other), SNAP_EINVAL);
    other.name = "c3";
    other.source = uuid_make();
    assert_int_equal(call(f, fixture_do_clone, &other), SNAP_ENOENT);
    tree_delete(f, spec.id);
    spec.name = "c1";
    assert_int_equal(call(f, fixture_do_clone, &spec), SNAP_ESTALE);
}

static void clone__depth_is_bounded(void **state)
{
    struct fixture *f = *state;
    struct uuid at = fixture_create(f, "s1");
    char name[16];
    for (unsigned i = 0; i < TREE_DEPTH_MAX; i++) {
        (void)snprintf(name, sizeof name, "c%u", i);
        at = fixture_clone(f, at, name);
    }
    tree_write(f, ITSELF, 0, 8, 1);
    tree_expect(f, at, zeros, "the deepest");
    struct clone_spec spec = {.id = uuid_make(), .source = at, .name = "more"};
    assert_int_equal(call(f, fixture_do_clone, &spec), SNAP_ELIMIT);
}

static void clone__of_a_remote_volume_is_not_supported(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s1");
    struct clone_spec spec = {.id = uuid_make(), .source = s, .name = "c1"};
    assert_int_equal(call(f, fixture_do_clone, &spec), SNAP_ENOTSUP);
    struct rollback_spec back = {.job = uuid_make(), .snapshot = s};
    assert_int_equal(call(f, tree_do_rollback, &back), SNAP_ENOTSUP);
}

/* -- deleting ------------------------------------------------------------------------------ */

/* The only dependant is a clone: it gets what it lacks, and the hidden one's parent. */
static void delete__sole_snapshot_is_handed_down_to_its_clone(void **state)
{
    struct fixture *f = *state;
    uint8_t c1[SECTORS] = {0};
    tree_write(f, ITSELF, 0, 64, 1);
    tree_fill(c1, 0, 64, 1);
    struct uuid s = fixture_create(f, "s1"), c = fixture_clone(f, s, "c1");
    tree_write(f, ITSELF, 0, 32, 2);
    tree_write(f, c, 4, 10, 3);
    tree_fill(c1, 4, 10, 3);
    tree_delete(f, s);
    tree_settle(f, 1);
    tree_expect(f, c, c1, "c1");
    tree_write(f, ITSELF, 0, 100, 4); /* the clone depends on the origin now */
    tree_expect(f, c, c1, "c1, after a write");
    fixture_reopen(f);
    tree_expect(f, c, c1, "c1, opened again");
    tree_delete(f, c);
    tree_settle(f, 0);
}

static void delete__several_dependants_hold_it_until_one_is_left(void **state)
{
    struct fixture *f = *state;
    uint8_t s1[SECTORS] = {0}, c1[SECTORS], c2[SECTORS];
    tree_write(f, ITSELF, 0, 200, 1);
    tree_fill(s1, 0, 200, 1);
    struct uuid a = fixture_create(f, "s1"), b = fixture_create(f, "s2");
    struct uuid c = fixture_clone(f, b, "c1"), d = fixture_clone(f, b, "c2");
    memcpy(c1, s1, sizeof c1);
    memcpy(c2, s1, sizeof c2);
    tree_delete(f, b);
    (void)usleep(20000);
    assert_int_equal(tree_nodes(f), 4);
    tree_write(f, ITSELF, 0, 50, 2); /* the hidden one takes it for three */
    assert_int_equal(fixture_look(f, b).exceptions, 7);
    assert_int_equal(fixture_look(f, a).exceptions, 0);
    tree_write(f, c, 100, 4, 3);
    tree_fill(c1, 100, 4, 3);
    tree_expect(f, a, s1, "s1");
    tree_expect(f, c, c1, "c1");
    tree_expect(f, d, c2, "c2");
    fixture_reopen(f);
    assert_int_equal(tree_nodes(f), 4);
    tree_delete(f, d);
    tree_settle(f, 3);
    tree_delete(f, a);
    tree_settle(f, 1);
    tree_write(f, ITSELF, 0, SECTORS, 4);
    tree_expect(f, c, c1, "c1, alone");
}

/* A hidden clone hands down to its clone; what the chain had goes on being read. */
static void delete__clone_between_hands_down_to_its_clone(void **state)
{
    struct fixture *f = *state;
    uint8_t d1[SECTORS] = {0};
    tree_write(f, ITSELF, 0, 300, 1);
    tree_fill(d1, 0, 300, 1);
    struct uuid s = fixture_create(f, "s1"), c = fixture_clone(f, s, "c1");
    tree_write(f, c, 10, 100, 2);
    tree_fill(d1, 10, 100, 2);
    struct uuid d = fixture_clone(f, c, "d1");
    tree_write(f, d, 20, 5, 3);
    tree_fill(d1, 20, 5, 3);
    tree_write(f, c, 0, 50, 4);
    tree_delete(f, c);
    tree_settle(f, 2);
    tree_write(f, ITSELF, 0, 400, 5);
    tree_expect(f, d, d1, "d1");
    fixture_reopen(f);
    tree_expect(f, d, d1, "d1, opened again");
    assert_int_equal(tree_try_write(f, c, 0, 1, 1), SNAP_ENOENT);
}

static void delete__damaged_one_makes_every_clone_of_it_invalid(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s1"), c = fixture_clone(f, s, "c1"),
                d = fixture_clone(f, s, "c2");
    tree_write(f, ITSELF, 0, 8, 1);
    char cow[LIMIT_PATH_BYTES];
    (void)fixture_cow_path(f, s, cow, sizeof cow);
    int fd = open(cow, O_WRONLY);
    assert_true(fd >= 0 && pwrite(fd, "garbage", 7, 0) == 7 && close(fd) == 0);
    fixture_reopen(f);
    assert_int_equal(fixture_look(f, c).state, SNAPSHOT_DAMAGED);
    assert_int_equal(fixture_delete(f, s, uuid_make(), false), SNAP_ECORRUPT);
    assert_int_equal(fixture_delete(f, s, uuid_make(), true), 0);
    assert_int_equal(fixture_look(f, c).state, SNAPSHOT_INVALID);
    assert_int_equal(fixture_look(f, d).state, SNAPSHOT_INVALID);
    tree_delete(f, d);
    tree_settle(f, 1);
    tree_write(f, ITSELF, 0, 16, 2);
}

/* -- jobs and warnings ------------------------------------------------------------------------ */

static void job__hand_down_is_shown_and_cannot_be_cancelled(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s1"), c = fixture_clone(f, s, "c1");
    (void)fixture_clone(f, s, "c2");
    tree_write(f, ITSELF, 0, 64, 1);
    tree_delete(f, s);
    struct showing g = {.job = s};
    assert_int_equal(call(f, fixture_do_show, &g), 0);
    assert_int_equal(g.status.state, JOB_WAITING);
    assert_string_equal(g.status.kind, "hand-down");
    assert_string_equal(g.status.subject, "vol@s1");
    assert_int_equal(call(f, fixture_do_cancel, &s), SNAP_EBUSY);
    tree_delete(f, c);
    assert_int_equal(fixture_job_end(f, s), JOB_DONE);
    g.job = uuid_make();
    assert_int_equal(call(f, fixture_do_show, &g), SNAP_ENOENT);
}

struct twins {
    struct clone_spec spec;
    int first;
    unsigned ended;
};

static void twin_made(void *user, int code, const struct err *err)
{
    struct twins *t = user;
    (void)err;
    t->first = code;
    t->ended++;
}

static void do_twins(struct call *c)
{
    struct twins *t = c->arg;
    volume_clone_start(c->f->volume, &t->spec, twin_made, t);
    volume_clone_start(c->f->volume, &t->spec, call_end, c);
}

static void clone__asked_for_twice_at_once_is_made_once(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s1");
    struct twins t = {.spec = {.id = uuid_make(), .source = s, .name = "c1"}, .first = 1};
    assert_int_equal(call(f, do_twins, &t), 0);
    assert_int_equal(t.ended, 1);
    assert_int_equal(t.first, 0);
    assert_int_equal(tree_nodes(f), 2);
    tree_write(f, t.spec.id, 0, 8, 1);
}

/* Files are made, but not opened afterwards. */
static int open_new_only(void *user, struct blk_engine *e, const char *path, unsigned flags,
                         struct blk_dev **ret, struct err *reterr)
{
    if ((flags & BLK_OPEN_CREATE) == 0)
        return err_set(reterr, SNAP_EIO, "%s: no", path);
    return volume_storage_files.open(user, e, path, flags, ret, reterr);
}

/* The record lists it: it is damaged, and its file stays. */
static void clone__that_cannot_be_opened_once_it_is_made_stays(void **state)
{
    struct fixture *f = *state;
    char path[2 * LIMIT_PATH_BYTES];
    struct volume_storage storage = volume_storage_files;
    struct clone_spec spec = {.id = uuid_make(), .source = fixture_create(f, "s1"), .name = "c1"};
    storage.open = open_new_only;
    f->env.storage = &storage;
    assert_int_equal(call(f, fixture_do_clone, &spec), SNAP_EIO);
    f->env.storage = &volume_storage_files;
    assert_int_equal(fixture_look(f, spec.id).state, SNAPSHOT_DAMAGED);
    assert_int_equal(access(fixture_cow_path(f, spec.id, path, sizeof path), F_OK), 0);
    fixture_reopen(f);
    assert_int_equal(fixture_look(f, spec.id).state, SNAPSHOT_OK);
    tree_write(f, spec.id, 0, 8, 1);
}

static _Atomic unsigned nearly_full;

static void tell(void *user, const struct volume *v, const char *snapshot, const char *what,
                 const struct err *err)
{
    (void)user;
    (void)v;
    if (snapshot != NULL && err != NULL && strcmp(what, "snapshot is nearly full") == 0)
        nearly_full++;
}

struct warned {
    struct uuid id;
    unsigned count;
    char text[64];
};

static void warn_one(const char *text, void *user)
{
    struct warned *w = user;
    w->count++;
    (void)snprintf(w->text, sizeof w->text, "%s", text);
}

static void clone__limit_without_room_for_a_chunk_is_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct clone_spec spec = {
        .id = uuid_make(), .source = s1, .name = "c1", .limit_bytes = 3 * CHUNK_BYTES - 1};
    struct call c;
    call_begin(&c, f, fixture_do_clone, &spec);
    assert_int_equal(call_wait(&c), SNAP_EINVAL);
    assert_non_null(strstr(c.err.text, "at least 12K"));
    assert_false(fixture_look(f, spec.id).there);
    spec.limit_bytes++;
    assert_int_equal(call(f, fixture_do_clone, &spec), 0);
    tree_write(f, spec.id, 0, 1, 2);
}

static void do_warnings(struct call *c)
{
    struct warned *w = c->arg;
    snapshot_warnings(volume_snapshot_find(c->f->volume, &w->id), warn_one, w);
    call_end(c, 0, NULL);
}

static void warn__as_80_and_95_percent_are_crossed(void **state)
{
    struct fixture *f = *state;
    f->env.notice = tell;
    nearly_full = 0;
    struct make m = {.id = uuid_make(), .name = "s1", .limit_bytes = 40 * CHUNK_BYTES};
    assert_int_equal(call(f, fixture_do_create, &m), 0);
    struct warned w = {.id = m.id};
    tree_write(f, ITSELF, 0, 29 * CHUNK_SECTORS, 1); /* 31 of 40 */
    (void)call(f, do_warnings, &w);
    assert_int_equal(nearly_full + w.count, 0);
    tree_write(f, ITSELF, 0, 31 * CHUNK_SECTORS, 2); /* 33 */
    tree_write(f, ITSELF, 0, 32 * CHUNK_SECTORS, 3); /* 34: the same warning */
    (void)call(f, do_warnings, &w);
    assert_int_equal(nearly_full, 1);
    assert_int_equal(w.count, 1);
    assert_string_equal(w.text, "85% of its limit is used");
    tree_write(f, ITSELF, 0, 37 * CHUNK_SECTORS, 4); /* 39 */
    assert_int_equal(nearly_full, 2);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup_hosted, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(clone__reads_as_its_source_and_is_written_alone),
        CASE(clone__of_a_clone_keeps_the_moment),
        CASE(clone__the_same_again_is_the_same_and_others_are_refused),
        CASE(clone__depth_is_bounded),
        CASE(clone__asked_for_twice_at_once_is_made_once),
        CASE(clone__that_cannot_be_opened_once_it_is_made_stays),
        cmocka_unit_test_setup_teardown(clone__of_a_remote_volume_is_not_supported, fixture_setup,
                                        fixture_teardown),
        CASE(delete__sole_snapshot_is_handed_down_to_its_clone),
        CASE(delete__several_dependants_hold_it_until_one_is_left),
        CASE(delete__clone_between_hands_down_to_its_clone),
        CASE(delete__damaged_one_makes_every_clone_of_it_invalid),
        CASE(job__hand_down_is_shown_and_cannot_be_cancelled),
        CASE(clone__limit_without_room_for_a_chunk_is_refused),
        CASE(warn__as_80_and_95_percent_are_crossed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
