/* SPDX-License-Identifier: Apache-2.0 */
/* Rolling a hosted volume back: what it reads as at every moment, what the others keep. */
#include "tests/unit/volume/rollback_fixture.h"

static void rollback__returns_and_the_snapshots_keep_their_content(void **state)
{
    struct fixture *f = *state;
    struct three t;
    three_make(f, &t);
    struct uuid job = tree_rollback(f, t.s1, false, false);
    three_expect(f, &t, t.at1);
    assert_int_equal(fixture_job_end(f, job), JOB_DONE);
    tree_settle(f, 2);
    three_expect(f, &t, t.at1);
    fixture_reopen(f);
    three_expect(f, &t, t.at1);
    tree_write(f, ITSELF, 0, 20, 9);
    memcpy(t.now, t.at1, SECTORS);
    tree_fill(t.now, 0, 20, 9);
    three_expect(f, &t, t.now);
}

static void rollback__to_the_newest_and_forth_again(void **state)
{
    struct fixture *f = *state;
    struct three t;
    three_make(f, &t);
    assert_int_equal(fixture_job_end(f, tree_rollback(f, t.s1, false, false)), JOB_DONE);
    assert_int_equal(fixture_job_end(f, tree_rollback(f, t.s2, false, false)), JOB_DONE);
    tree_settle(f, 2);
    three_expect(f, &t, t.at2);
}

/* Hidden, or folded already. */
static void expect_gone(struct fixture *f, struct uuid id)
{
    struct look l = fixture_look(f, id);
    assert_true(!l.there || l.hidden);
}

static void rollback__merge_consumes_and_drop_newer_deletes(void **state)
{
    struct fixture *f = *state;
    struct three t;
    three_make(f, &t);
    struct uuid c = fixture_clone(f, t.s2, "c1");
    struct uuid job = tree_rollback(f, t.s2, true, false);
    assert_int_equal(fixture_job_end(f, job), JOB_DONE);
    tree_expect(f, ITSELF, t.at2, "volume");
    tree_expect(f, t.s1, t.at1, "s1");
    tree_expect(f, c, t.at2, "c1");
    expect_gone(f, t.s2);
    struct uuid s3 = fixture_create(f, "s3");
    tree_write(f, ITSELF, 7, 300, 5);
    job = tree_rollback(f, t.s1, false, true);
    assert_int_equal(fixture_job_end(f, job), JOB_DONE);
    tree_expect(f, ITSELF, t.at1, "volume");
    tree_expect(f, t.s1, t.at1, "s1");
    tree_expect(f, c, t.at2, "c1");
    expect_gone(f, s3);
    struct make again = {.id = s3, .name = "s3"};
    assert_int_equal(call(f, fixture_do_create, &again), SNAP_ESTALE);
    tree_delete(f, c);
    tree_settle(f, 1);
    tree_expect(f, t.s1, t.at1, "s1, alone");
}

static void rollback__the_same_job_again_is_not_done_twice(void **state)
{
    struct fixture *f = *state;
    struct three t;
    three_make(f, &t);
    struct rollback_spec spec = {.job = uuid_make(), .snapshot = t.s1};
    assert_int_equal(call(f, tree_do_rollback, &spec), 0);
    assert_int_equal(call(f, tree_do_rollback, &spec), 0);
    assert_int_equal(fixture_job_end(f, spec.job), JOB_DONE);
    tree_write(f, ITSELF, 0, 10, 9);
    tree_fill(t.at1, 0, 10, 9);
    fixture_reopen(f);
    assert_int_equal(call(f, tree_do_rollback, &spec), 0);
    assert_int_equal(fixture_job_end(f, spec.job), JOB_DONE);
    tree_expect(f, ITSELF, t.at1, "volume");
}

/* -- while it is under way --------------------------------------------------------------------- */

static void rollback__cancelled_is_as_before(void **state)
{
    struct fixture *f = *state;
    struct three t;
    three_make(f, &t);
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}, .cancel = true};
    assert_int_equal(call(f, fixture_do_begin, &b), 0);
    three_expect(f, &t, t.now);
    assert_int_equal(fixture_job_end(f, b.spec.job), JOB_CANCELLED);
    tree_settle(f, 2);
    three_expect(f, &t, t.now);
    /* who did not get the answers asks again after a restart, and is told how it ended */
    fixture_reopen(f);
    three_expect(f, &t, t.now);
    assert_int_equal(fixture_job_end(f, b.spec.job), JOB_CANCELLED);
    assert_int_equal(call(f, fixture_do_cancel, &b.spec.job), 0);
    assert_int_equal(call(f, tree_do_rollback, &b.spec), 0);
    three_expect(f, &t, t.now);
}

/* What was answered before the rollback began is there again after it was cancelled. */
static void rollback__cancelled_loses_no_write_that_was_answered(void **state)
{
    enum { WRITES = 8 };
    struct fixture *f = *state;
    struct three t;
    static uint8_t data[WRITES][20 * SECTOR_BYTES];
    struct writing w[WRITES];
    struct call calls[WRITES + 1];
    three_make(f, &t);
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}, .cancel = true};
    calls[0] = (struct call){.fn = fixture_do_begin, .arg = &b};
    for (unsigned i = 0; i < WRITES; i++) {
        memset(data[i], (int)(10 + i), sizeof data[i]);
        w[i] = (struct writing){.write = {.op = VOLUME_WRITE,
                                          .offset_bytes = (uint64_t)i * 40 * SECTOR_BYTES,
                                          .len_bytes = sizeof data[i]},
                                .data = data[i]};
        calls[i + 1] = (struct call){.fn = fixture_do_write, .arg = &w[i]};
    }
    call_begin_together(f, calls, WRITES / 2);
    for (unsigned i = WRITES / 2; i <= WRITES; i++) {
        calls[i].f = f;
        call_begin(&calls[i], f, fixture_do_write, &w[i - 1]);
        (void)usleep(500);
    }
    for (unsigned i = 0; i < WRITES; i++) {
        int rc = call_wait(&calls[i + 1]);
        assert_true(rc == 0 || rc == SNAP_EBUSY);
        if (rc == 0)
            tree_fill(t.now, (uint64_t)i * 40, 20, (uint8_t)(10 + i));
    }
    assert_int_equal(call_wait(&calls[0]), 0);
    assert_int_equal(fixture_job_end(f, b.spec.job), JOB_CANCELLED);
    three_expect(f, &t, t.now);
}

static void rollback__goes_on_after_opening_again(void **state)
{
    struct fixture *f = *state;
    struct three t;
    three_make(f, &t);
    struct call closing = {.f = f};
    sem_init(&closing.done, 0, 0);
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}, .closing = &closing};
    assert_int_equal(call(f, fixture_do_begin, &b), 0);
    assert_int_equal(call_wait(&closing), 0);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    three_expect(f, &t, t.at1);
    assert_int_equal(fixture_job_end(f, b.spec.job), JOB_DONE);
    three_expect(f, &t, t.at1);
}

/* -- space ---------------------------------------------------------------------------------------
 */

static int no_space(void *user, const char *dir, uint64_t *ret, struct err *reterr)
{
    (void)user;
    (void)dir;
    (void)reterr;
    *ret = 10 * CHUNK_BYTES;
    return 0;
}

static void rollback__without_room_for_the_undo_is_refused(void **state)
{
    struct fixture *f = *state;
    struct three t;
    three_make(f, &t);
    struct volume_storage storage = volume_storage_files;
    storage.free_bytes = no_space;
    f->env.storage = &storage;
    struct rollback_spec spec = {.job = uuid_make(), .snapshot = t.s1};
    assert_int_equal(call(f, tree_do_rollback, &spec), SNAP_ENOSPC);
    assert_int_equal(tree_nodes(f), 2);
    f->env.storage = &volume_storage_files;
    tree_write(f, ITSELF, 0, 1, 9);
    tree_fill(t.now, 0, 1, 9);
    three_expect(f, &t, t.now);
}

static void starve(struct begin *b)
{
    (void)b;
    atomic_store(&space_max, 1);
}

/* From then on its owner has no room any more. */
static struct begin begin_starved(struct fixture *f, struct three *t)
{
    fixture_limit_space(f, 1 << 20);
    three_make(f, t);
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t->s1}, .then = starve};
    assert_int_equal(call(f, fixture_do_begin, &b), 0);
    return b;
}

static void rollback__that_cannot_go_on_waits_and_does_it_all_later(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = ITSELF};
    struct begin b = begin_starved(f, &t);
    struct volume_job_status status = fixture_job_waits(f, b.spec.job, "");
    assert_string_equal(status.kind, "rollback");
    assert_string_equal(status.subject, "vol@s1");
    assert_true(status.total == 19 && strlen(status.text) > 0);
    three_expect(f, &t, t.at1);
    atomic_store(&space_max, 1 << 20);
    fixture_start_jobs(f);
    assert_int_equal(fixture_job_end(f, b.spec.job), JOB_DONE);
    three_expect(f, &t, t.at1);
}

/* What it keeps may be more than snapshots are allowed to take. */
static void rollback__keeps_more_than_the_limit_of_a_snapshot(void **state)
{
    struct fixture *f = *state;
    struct three t;
    three_make(f, &t);
    f->env.cow_limit_bytes = 4 * CHUNK_BYTES;
    assert_int_equal(fixture_job_end(f, tree_rollback(f, t.s1, false, false)), JOB_DONE);
    three_expect(f, &t, t.at1);
}

static void rollback__writes_and_snapshots_are_refused_meanwhile(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = ITSELF};
    struct begin b = begin_starved(f, &t);
    (void)fixture_job_waits(f, b.spec.job, "");
    struct uuid undo = f->volume->record.snapshots[2].id;
    assert_true(f->volume->record.snapshots[2].undo);
    struct rollback_spec other = {.job = uuid_make(), .snapshot = t.s2};
    struct clone_spec clone = {.id = uuid_make(), .source = undo, .name = "c1"};
    struct make m = {.id = uuid_make(), .name = "s3"};
    assert_int_equal(tree_try_write(f, ITSELF, 0, 1, 9), SNAP_EBUSY);
    assert_int_equal(call(f, tree_do_rollback, &other), SNAP_EBUSY);
    assert_int_equal(fixture_delete(f, t.s1, uuid_make(), true), SNAP_EBUSY);
    assert_int_equal(fixture_delete(f, undo, uuid_make(), true), SNAP_ENOENT);
    assert_int_equal(call(f, fixture_do_clone, &clone), SNAP_ENOENT);
    struct checking check = {.check = {.snapshot = undo}};
    assert_int_equal(call(f, fixture_do_check, &check), SNAP_ENOENT);
    assert_int_equal(call(f, fixture_do_create, &m), SNAP_EBUSY);
    tree_delete(f, t.s2); /* a newer one may go */
    tree_expect(f, ITSELF, t.at1, "volume");
    tree_settle(f, 2); /* whose end lets the rollback try again */
    (void)fixture_job_waits(f, b.spec.job, "");
    atomic_store(&space_max, 1 << 20);
    fixture_start_jobs(f);
    assert_int_equal(fixture_job_end(f, b.spec.job), JOB_DONE);
    tree_settle(f, 1);
    tree_expect(f, ITSELF, t.at1, "volume");
    tree_expect(f, t.s1, t.at1, "s1");
}

static void rollback__that_waits_can_be_cancelled(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = ITSELF};
    struct begin b = begin_starved(f, &t);
    (void)fixture_job_waits(f, b.spec.job, "");
    assert_int_equal(call(f, fixture_do_cancel, &b.spec.job), 0);
    assert_int_equal(fixture_job_end(f, b.spec.job), JOB_CANCELLED);
    three_expect(f, &t, t.now);
    struct rollback_spec spec = {.job = uuid_make(), .snapshot = t.s1};
    assert_int_equal(call(f, tree_do_rollback, &spec), SNAP_ENOSPC);
}

/* -- what never began ------------------------------------------------------------------------- */

static void rollback__that_cannot_be_recorded_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct three t;
    three_make(f, &t);
    struct volume_storage storage = volume_storage_files;
    storage.save = save_no_rollback;
    f->env.storage = &storage;
    struct rollback_spec spec = {.job = uuid_make(), .snapshot = t.s1};
    fixture_set_busy(f, t.s2, true);
    for (int i = 0; i < 2; i++) /* what the first has kept is not folded yet */
        assert_int_equal(call(f, tree_do_rollback, &spec), SNAP_EIO);
    fixture_set_busy(f, t.s2, false);
    fixture_reopen(f);
    tree_settle(f, 2);
    tree_write(f, ITSELF, 0, 1, 9);
    tree_fill(t.now, 0, 1, 9);
    three_expect(f, &t, t.now);
    f->env.storage = &volume_storage_files;
    assert_int_equal(call(f, tree_do_rollback, &spec), 0); /* the same job, begun anew */
    assert_int_equal(fixture_job_end(f, spec.job), JOB_DONE);
    three_expect(f, &t, t.at1);
}

static void do_create_undo(struct call *c)
{
    struct snapshot_spec spec = {.id = uuid_make(), .name = "undo-x", .undo = true};
    snapshot_create_start(c->f->volume, &spec, call_end, c);
}

/* The daemon was killed between the undo snapshot and the rollback. */
static void open__undo_snapshot_of_no_rollback_is_folded(void **state)
{
    struct fixture *f = *state;
    struct three t;
    three_make(f, &t);
    assert_int_equal(call(f, do_create_undo, NULL), 0);
    tree_write(f, ITSELF, 300, 50, 9);
    tree_fill(t.now, 300, 50, 9);
    assert_int_equal(tree_nodes(f), 3);
    fixture_reopen(f);
    tree_settle(f, 2);
    three_expect(f, &t, t.now);
    fixture_reopen(f);
    assert_int_equal(tree_nodes(f), 2);
    three_expect(f, &t, t.now);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup_hosted, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(rollback__returns_and_the_snapshots_keep_their_content),
        CASE(rollback__to_the_newest_and_forth_again),
        CASE(rollback__merge_consumes_and_drop_newer_deletes),
        CASE(rollback__the_same_job_again_is_not_done_twice),
        CASE(rollback__cancelled_is_as_before),
        CASE(rollback__cancelled_loses_no_write_that_was_answered),
        CASE(rollback__goes_on_after_opening_again),
        CASE(rollback__keeps_more_than_the_limit_of_a_snapshot),
        CASE(rollback__writes_and_snapshots_are_refused_meanwhile),
        CASE(rollback__that_cannot_go_on_waits_and_does_it_all_later),
        CASE(rollback__that_waits_can_be_cancelled),
        CASE(rollback__that_cannot_be_recorded_changes_nothing),
        CASE(open__undo_snapshot_of_no_rollback_is_folded),
        CASE(rollback__without_room_for_the_undo_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
