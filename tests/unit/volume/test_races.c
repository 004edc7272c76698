/* SPDX-License-Identifier: Apache-2.0 */
/* Changes of one volume that are asked for in the same moment: which comes first decides,
 * and the other hears of it. */
#include "tests/unit/volume/hosted_fixture.h"
#include "tests/unit/volume/job_fixture.h"
#include "tests/unit/volume/remote_fixture.h"

static struct call step(void (*fn)(struct call *), void *arg)
{
    struct call c = {.fn = fn, .arg = arg};
    return c;
}

/* -- creating ----------------------------------------------------------------------- */

static void do_cancel(struct call *c)
{
    snapshot_create_cancel(c->f->volume);
    call_end(c, 0, NULL);
}

static void control_sleep(struct control_job *job)
{
    (void)job;
    (void)usleep(200000);
}

static void create__file_of_the_next_try_outlives_the_failed_one(void **state)
{
    struct fixture *f = *state;
    (void)fixture_create(f, "s1");
    (void)fixture_lease(f);
    struct make m = {.id = uuid_make(), .name = "s2"};
    struct call first, calls[2] = {step(do_cancel, NULL), step(fixture_do_create, &m)};
    struct control_job slow = {.run = control_sleep};
    char cow[LIMIT_PATH_BYTES];
    call_begin(&first, f, fixture_do_create, &m);
    fixture_wait_quiesced(f, 1);
    control_submit(f->control, &slow);
    call_begin_together(f, calls, 2);
    assert_int_equal(call_wait(&first), SNAP_ESHUTDOWN);
    assert_int_equal(call_wait(&calls[0]), 0);
    assert_int_equal(call_wait(&calls[1]), 0);
    assert_int_equal(access(fixture_cow_path(f, m.id, cow, sizeof cow), F_OK), 0);
    fixture_reopen(f);
    assert_int_equal(fixture_look(f, m.id).state, SNAPSHOT_OK);
}

static void create__writer_that_is_ready_too_late_does_not_revive_it(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    struct make m = {.id = uuid_make(), .name = "s2"};
    struct call creating,
        calls[3] = {step(do_cancel, NULL), step(do_cancel, NULL), step(fixture_do_ready, NULL)};
    call_begin(&creating, f, fixture_do_create, &m);
    fixture_wait_quiesced(f, 1);
    call_begin_together(f, calls, 3);
    assert_int_equal(call_wait(&creating), SNAP_ESHUTDOWN);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(call_wait(&calls[i]), 0);
    assert_int_equal(fixture_look(f, s1).nodes, 1);
    fixture_put(f, s1, epoch, 0, 1, 0);
}

static void create__limit_that_a_record_cannot_hold_is_refused(void **state)
{
    struct fixture *f = *state;
    struct make m = {.id = uuid_make(), .name = "s1", .limit_bytes = UINT64_MAX};
    assert_int_equal(call(f, fixture_do_create, &m), SNAP_EINVAL);
    fixture_reopen(f);
}

/* Made with others, of which one could not be made. */
static void held_and_undone(void *user, int code, const struct err *err)
{
    const struct call *c = user;
    const struct snapshot_spec *spec = c->arg;
    (void)err;
    assert_int_equal(code, 0);
    snapshot_create_release(c->f->volume, &spec->id, false);
}

static void do_create_spec(struct call *c)
{
    snapshot_create_start(c->f->volume, c->arg, call_end, c);
}

static void create__undone_as_the_first_one_leaves_the_chunk_size_open(void **state)
{
    struct fixture *f = *state;
    struct uuid group = uuid_make();
    struct snapshot_spec spec = {
        .id = uuid_make(), .name = "s1", .group = &group, .held = held_and_undone};
    struct make m = {.id = uuid_make(), .name = "s1", .chunk_sectors = 2 * CHUNK_SECTORS};
    assert_int_equal(call(f, do_create_spec, &spec), SNAP_ECANCELED);
    assert_int_equal(call(f, fixture_do_create, &m), 0);
    assert_int_equal(fixture_look(f, m.id).nodes, 1);
}

/* -- the lease ------------------------------------------------------------------------ */

static void lease__kept_with_a_new_origin_does_not_undo_a_theft(void **state)
{
    struct fixture *f = *state;
    struct nothing n;
    struct writer w = fixture_writer(f, "w"), t = fixture_writer(f, "t");
    w.fingerprint = "before";
    assert_int_equal(call(f, fixture_do_acquire, &w), 0);
    w.epoch = f->volume->lease.epoch;
    w.fingerprint = "after";
    w.new_origin = true;
    t.steal = true;
    t.session = 2;
    t.instance = uuid_make();
    struct call calls[3] = {step(fixture_do_nothing, &n), step(fixture_do_acquire, &t),
                            step(fixture_do_acquire, &w)};
    call_begin_together(f, calls, 3);
    assert_int_equal(call_wait(&calls[0]), 0);
    assert_int_equal(call_wait(&calls[1]), 0);
    assert_int_equal(call_wait(&calls[2]), SNAP_ESTALE);
    assert_string_equal(f->volume->lease.holder, "t");
    assert_string_equal(f->volume->record.lease_holder, "t");
    assert_int_equal(f->volume->lease.epoch, w.epoch + 1);
    assert_int_equal(f->volume->holder.session, 2);
}

/* -- merging ---------------------------------------------------------------------------- */

static void merge__view_mode_ends_though_the_others_are_gone_by_then(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), s2 = fixture_create(f, "s2");
    uint64_t epoch = fixture_lease(f);
    fixture_put(f, s2, epoch, 10, 3, 0);
    struct merging g = {.m = {.snapshot = s2}, .fn = volume_merge_begin};
    assert_int_equal(call(f, fixture_do_merge, &g), 0);
    assert_false(g.m.table_mode);
    assert_int_equal(fixture_delete(f, s1, uuid_make(), false), 0);
    fixture_settle(f);
    g.fn = volume_merge_prepare;
    assert_int_equal(call(f, fixture_do_merge, &g), SNAP_EINVAL);
    g.fn = volume_merge_end;
    assert_int_equal(call(f, fixture_do_merge, &g), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, s2).nodes, 0);
}

static void merge__begun_again_as_the_sole_one_goes_by_the_table(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), s2 = fixture_create(f, "s2");
    uint64_t epoch = fixture_lease(f);
    fixture_put(f, s2, epoch, 10, 3, 0);
    struct merging g = {.m = {.snapshot = s2}, .fn = volume_merge_begin};
    assert_int_equal(call(f, fixture_do_merge, &g), 0);
    assert_int_equal(fixture_delete(f, s1, uuid_make(), false), 0);
    fixture_settle(f);
    assert_int_equal(call(f, fixture_do_merge, &g), 0);
    assert_true(g.m.table_mode);
    g.fn = volume_merge_end;
    assert_int_equal(call(f, fixture_do_merge, &g), SNAP_EBUSY);
}

static void do_stale_merge(struct call *c)
{
    struct merging *g = c->arg;
    g->call = c;
    g->m.identity = "w";
    g->m.epoch = c->f->volume->lease.epoch + 1;
    g->m.done = fixture_merge_called;
    g->m.user = g;
    g->fn(c->f->volume, &g->m);
}

/* By another than the writer, of one that nobody has begun, of a second beside the first. */
static void merge__out_of_turn_is_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), s2 = fixture_create(f, "s2");
    (void)fixture_lease(f);
    struct merging g = {.m = {.snapshot = s1}, .fn = volume_merge_end};
    assert_int_equal(call(f, fixture_do_merge, &g), SNAP_EINVAL);
    assert_true(fixture_look(f, s1).there);
    g = (struct merging){.m = {.snapshot = s1}, .fn = volume_merge_begin};
    assert_int_equal(call(f, do_stale_merge, &g), SNAP_ESTALE);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_OK);
    g = (struct merging){.m = {.snapshot = s1}, .fn = volume_merge_begin};
    assert_int_equal(call(f, fixture_do_merge, &g), 0);
    g = (struct merging){.m = {.snapshot = s2}, .fn = volume_merge_begin};
    assert_int_equal(call(f, fixture_do_merge, &g), SNAP_EBUSY);
    assert_int_equal(fixture_look(f, s2).state, SNAPSHOT_OK);
}

static void merge__snapshot_asked_for_meanwhile_is_refused(void **state)
{
    struct fixture *f = *state;
    struct nothing n;
    struct uuid s1 = fixture_create(f, "s1");
    (void)fixture_lease(f);
    struct make m = {.id = uuid_make(), .name = "s2"};
    struct merging g = {.m = {.snapshot = s1}, .fn = volume_merge_begin};
    struct call calls[3] = {step(fixture_do_nothing, &n), step(fixture_do_merge, &g),
                            step(fixture_do_create, &m)};
    call_begin_together(f, calls, 3);
    assert_int_equal(call_wait(&calls[0]), 0);
    assert_int_equal(call_wait(&calls[1]), 0);
    assert_int_equal(call_wait(&calls[2]), SNAP_EBUSY);
    assert_int_equal(fixture_look(f, s1).nodes, 1);
}

static void merge__deletion_asked_for_meanwhile_is_refused(void **state)
{
    struct fixture *f = *state;
    struct nothing n;
    struct uuid s1 = fixture_create(f, "s1");
    (void)fixture_lease(f);
    struct merging g = {.m = {.snapshot = s1}, .fn = volume_merge_begin};
    struct snapshot_delete_spec spec = {.id = s1, .key = uuid_make()};
    struct call calls[3] = {step(fixture_do_nothing, &n), step(fixture_do_merge, &g),
                            step(fixture_do_delete, &spec)};
    call_begin_together(f, calls, 3);
    assert_int_equal(call_wait(&calls[0]), 0);
    assert_int_equal(call_wait(&calls[1]), 0);
    assert_int_equal(call_wait(&calls[2]), SNAP_EBUSY);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_MERGING);
    assert_int_equal(call(f, fixture_do_merge, &g), 0);
}

static void merge__damaged_meanwhile_can_be_deleted_by_force(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    char cow[LIMIT_PATH_BYTES];
    (void)fixture_lease(f);
    struct merging g = {.m = {.snapshot = s1}, .fn = volume_merge_begin};
    assert_int_equal(call(f, fixture_do_merge, &g), 0);
    assert_int_equal(fixture_delete(f, s1, uuid_make(), true), SNAP_EBUSY);
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    assert_int_equal(truncate(fixture_cow_path(f, s1, cow, sizeof cow), 0), 0);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_DAMAGED);
    assert_int_equal(fixture_delete(f, s1, uuid_make(), false), SNAP_EBUSY);
    assert_int_equal(fixture_delete(f, s1, uuid_make(), true), 0);
    fixture_settle(f);
    (void)fixture_create(f, "s2");
}

/* -- folding beside writes ----------------------------------------------------------------- */

/* s1's chunks go to the clone, which holds one of them just now: what comes first into a store
 * stays, so nobody has to wait. */
static void fold__into_a_clone_goes_on_beside_its_writes(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s1"), c = fixture_clone(f, s, "c1");
    assert_int_equal(fixture_fill(f, ITSELF, 0, 8 * CHUNK_BYTES, 1), 0);
    struct holding h = {.range = {.first = 3, .last = 3}, .clone = c};
    fixture_hold(f, &h);
    assert_int_equal(fixture_delete(f, s, uuid_make(), false), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, c).exceptions, 8);
    fixture_let_go(f, &h);
    fixture_expect_byte(f, c, 0, SIZE, 0);
    assert_int_equal(fixture_fill(f, c, 3 * CHUNK_BYTES + 10, 20, 2), 0);
    fixture_expect_byte(f, c, 3 * CHUNK_BYTES + 10, 3 * CHUNK_BYTES + 30, 2);
    fixture_expect_byte(f, c, 3 * CHUNK_BYTES + 30, SIZE, 0);
}

struct checked_fold {
    struct snapshot_delete_spec gone;
    struct uuid target;
    struct shard_kick kick;
};

static void then_check(void *user)
{
    struct call *c = user;
    struct checked_fold *k = c->arg;
    volume_snapshot_find(c->f->volume, &k->target)->busy = true;
    call_end(c, 0, NULL);
}

static void check_kick_later(void *user, int code, const struct err *err)
{
    struct call *c = user;
    struct checked_fold *k = c->arg;
    (void)err;
    assert_int_equal(code, 0);
    k->kick = (struct shard_kick){.fn = then_check, .user = c};
    shard_kick_later(c->f->volume->set->shard, &k->kick);
}

static void do_delete_then_check(struct call *c)
{
    struct checked_fold *k = c->arg;
    snapshot_delete(c->f->volume, &k->gone, check_kick_later, c);
}

static void do_begin_jobs(struct call *c)
{
    hand_down_start(c->f->volume);
    call_end(c, 0, NULL);
}

/* The hand-down has begun when the check of its target does: who checks a table reads it from a
 * disk that nobody changes. */
static void fold__stands_still_while_its_target_is_checked(void **state)
{
    struct fixture *f = *state;
    struct checked_fold k = {.target = fixture_create(f, "s1"), .gone = {.key = uuid_make()}};
    k.gone.id = fixture_create(f, "s2");
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    assert_int_equal(call(f, do_delete_then_check, &k), 0);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(fixture_look(f, k.target).exceptions, 0);
        (void)usleep(2000);
    }
    fixture_set_busy(f, k.target, false);
    assert_int_equal(call(f, do_begin_jobs, NULL), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, k.target).exceptions, CHUNKS);
    fixture_expect_byte(f, k.target, 0, SIZE, 0);
}

static void do_set_reopening(struct call *c)
{
    struct snapshot *s = volume_snapshot_find(c->f->volume, c->arg);
    s->reopening = !s->reopening;
    call_end(c, 0, NULL);
}

/* A flush has failed while it waited: what it holds is not known just now. */
static void delete__of_a_clone_that_is_opened_again_meanwhile_is_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s1"), c = fixture_clone(f, s, "c1");
    struct holding h = {.range = {.first = 3, .last = 3}, .clone = c};
    struct snapshot_delete_spec gone = {.id = c, .key = uuid_make()};
    struct call deleting;
    fixture_hold(f, &h);
    call_begin(&deleting, f, fixture_do_delete, &gone);
    (void)usleep(20000);
    assert_int_equal(call(f, do_set_reopening, &c), 0);
    fixture_let_go(f, &h);
    assert_int_equal(call_wait(&deleting), SNAP_EBUSY);
    assert_int_equal(call(f, do_set_reopening, &c), 0);
    assert_false(fixture_look(f, c).hidden);
    assert_int_equal(fixture_fill(f, c, 0, 10, 1), 0);
}

/* One snapshot and several clones of it, made in one turn. */
static void create__snapshots_and_clones_together_are_numbered_one_by_one(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s1");
    struct make m[2] = {{.id = uuid_make(), .name = "s2"}, {.id = uuid_make(), .name = "s3"}};
    struct clone_spec k[2] = {{.id = uuid_make(), .source = s, .name = "c1"},
                              {.id = uuid_make(), .source = s, .name = "c2"}};
    struct call calls[] = {step(fixture_do_create, &m[0]), step(fixture_do_clone, &k[0]),
                           step(fixture_do_create, &m[1]), step(fixture_do_clone, &k[1])};
    call_begin_together(f, calls, 4);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(call_wait(&calls[i]), 0);
    fixture_reopen(f);
    assert_int_equal(f->volume->record.snapshot_count, 5);
    assert_int_equal(f->volume->record.next_seq, 6);
}

/* A snapshot that goes in the turn in which it is cloned: one of them hears of it. */
static void clone__of_one_that_is_deleted_in_the_same_moment(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s1");
    struct snapshot_delete_spec gone = {.id = s, .key = uuid_make()};
    struct clone_spec k = {.id = uuid_make(), .source = s, .name = "c1"};
    assert_int_equal(fixture_fill(f, ITSELF, 0, 8 * CHUNK_BYTES, 1), 0);
    struct call calls[] = {step(fixture_do_clone, &k), step(fixture_do_delete, &gone)};
    call_begin_together(f, calls, 2);
    int rc = call_wait(&calls[0]);
    assert_int_equal(call_wait(&calls[1]), 0);
    fixture_settle(f);
    assert_true(rc == 0 || rc == SNAP_ENOENT);
    uint8_t byte = 9;
    if (rc == 0) {
        assert_int_equal(fixture_read(f, k.id, 0, 1, &byte), 0);
        assert_int_equal(byte, 0);
    }
    assert_int_equal(f->volume->record.snapshot_count, rc == 0 ? 1 : 0);
}

int main(void)
{
#define HOSTED(name) cmocka_unit_test_setup_teardown(name, fixture_setup_hosted, fixture_teardown)
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(create__file_of_the_next_try_outlives_the_failed_one),
        CASE(create__writer_that_is_ready_too_late_does_not_revive_it),
        CASE(create__limit_that_a_record_cannot_hold_is_refused),
        CASE(create__undone_as_the_first_one_leaves_the_chunk_size_open),
        CASE(lease__kept_with_a_new_origin_does_not_undo_a_theft),
        CASE(merge__view_mode_ends_though_the_others_are_gone_by_then),
        CASE(merge__begun_again_as_the_sole_one_goes_by_the_table),
        CASE(merge__out_of_turn_is_refused),
        CASE(merge__snapshot_asked_for_meanwhile_is_refused),
        CASE(merge__deletion_asked_for_meanwhile_is_refused),
        CASE(merge__damaged_meanwhile_can_be_deleted_by_force),
        HOSTED(fold__into_a_clone_goes_on_beside_its_writes),
        HOSTED(fold__stands_still_while_its_target_is_checked),
        HOSTED(delete__of_a_clone_that_is_opened_again_meanwhile_is_refused),
        HOSTED(create__snapshots_and_clones_together_are_numbered_one_by_one),
        HOSTED(clone__of_one_that_is_deleted_in_the_same_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
