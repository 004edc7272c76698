/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that are sent again while the first try is still under way, as by a client whose
 * connection broke: both hear the same. And what is asked for of a snapshot that is not yet, or no
 * more. */
#include "tests/unit/volume/remote_fixture.h"
#include "tests/unit/volume/rollback_fixture.h"

#include "daemon/volume/verify.h"

static struct call step(void (*fn)(struct call *), void *arg)
{
    struct call c = {.fn = fn, .arg = arg};
    return c;
}

/* -- deleting ----------------------------------------------------------------------------- */

/* The same key is the same deletion; another one is a second. */
static void delete__asked_for_again_meanwhile_succeeds_with_the_first(void **state)
{
    struct fixture *f = *state;
    struct nothing n;
    struct uuid s1 = fixture_create(f, "s1");
    struct snapshot_delete_spec spec = {.id = s1, .key = uuid_make()}, other = spec;
    other.key = uuid_make();
    struct call calls[] = {step(fixture_do_nothing, &n), step(fixture_do_delete, &spec),
                           step(fixture_do_delete, &spec), step(fixture_do_delete, &other),
                           step(fixture_do_delete, &spec)};
    call_begin_together(f, calls, 5);
    assert_int_equal(call_wait(&calls[0]), 0);
    assert_int_equal(call_wait(&calls[1]), 0);
    assert_int_equal(call_wait(&calls[2]), 0);
    assert_int_equal(call_wait(&calls[3]), SNAP_EBUSY);
    assert_int_equal(call_wait(&calls[4]), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, s1).nodes, 0);
}

static int save_nothing(void *user, const char *dir, const struct volume_record *r,
                        struct err *reterr)
{
    (void)user;
    (void)dir;
    (void)r;
    return err_set(reterr, SNAP_EIO, "no");
}

static void delete__asked_for_again_meanwhile_fails_with_the_first(void **state)
{
    struct fixture *f = *state;
    struct nothing n;
    struct uuid s1 = fixture_create(f, "s1");
    struct snapshot_delete_spec spec = {.id = s1, .key = uuid_make()};
    struct volume_storage storage = volume_storage_files;
    struct call calls[] = {step(fixture_do_nothing, &n), step(fixture_do_delete, &spec),
                           step(fixture_do_delete, &spec)};
    storage.save = save_nothing;
    f->env.storage = &storage;
    call_begin_together(f, calls, 3);
    assert_int_equal(call_wait(&calls[0]), SNAP_EIO);
    assert_int_equal(call_wait(&calls[1]), SNAP_EIO);
    assert_int_equal(call_wait(&calls[2]), SNAP_EIO);
    f->env.storage = &volume_storage_files;
    assert_false(fixture_look(f, s1).hidden);
    assert_int_equal(call(f, fixture_do_delete, &spec), 0);
}

static void merge__end_asked_for_again_meanwhile_succeeds_with_the_first(void **state)
{
    struct fixture *f = *state;
    struct nothing n;
    struct uuid s1 = fixture_create(f, "s1");
    (void)fixture_lease(f);
    struct merging g[2] = {{.m = {.snapshot = s1}, .fn = volume_merge_begin}};
    assert_int_equal(call(f, fixture_do_merge, &g[0]), 0);
    g[0] = g[1] = (struct merging){.m = {.snapshot = s1}, .fn = volume_merge_end};
    struct call calls[] = {step(fixture_do_nothing, &n), step(fixture_do_merge, &g[0]),
                           step(fixture_do_merge, &g[1])};
    call_begin_together(f, calls, 3);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(call_wait(&calls[i]), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, s1).nodes, 0);
}

/* -- rolling back --------------------------------------------------------------------------- */

static void rollback__asked_for_again_meanwhile_begins_once(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = {{0}}};
    three_make(f, &t);
    struct rollback_spec spec = {.job = uuid_make(), .snapshot = t.s1}, other = spec;
    other.job = uuid_make();
    struct call calls[] = {step(tree_do_rollback, &spec), step(tree_do_rollback, &spec),
                           step(tree_do_rollback, &other)};
    call_begin_together(f, calls, 3);
    assert_int_equal(call_wait(&calls[0]), 0);
    assert_int_equal(call_wait(&calls[1]), 0);
    assert_int_equal(call_wait(&calls[2]), SNAP_EBUSY);
    assert_int_equal(fixture_job_end(f, spec.job), JOB_DONE);
    tree_settle(f, 2);
    three_expect(f, &t, t.at1);
}

static void rollback__asked_for_again_meanwhile_is_refused_with_the_first(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = {{0}}};
    three_make(f, &t);
    struct volume_storage storage = volume_storage_files;
    storage.save = save_no_rollback;
    f->env.storage = &storage;
    struct rollback_spec spec = {.job = uuid_make(), .snapshot = t.s1};
    struct call calls[] = {step(tree_do_rollback, &spec), step(tree_do_rollback, &spec)};
    call_begin_together(f, calls, 2);
    assert_int_equal(call_wait(&calls[0]), SNAP_EIO);
    assert_int_equal(call_wait(&calls[1]), SNAP_EIO);
    tree_settle(f, 2);
    three_expect(f, &t, t.now);
}

static struct call begin_again;

static void then_begin(struct begin *b)
{
    b->then = NULL;
    volume_rollback_start(b->call->f->volume, &b->spec, call_end, &begin_again);
}

static void rollback__asked_for_again_as_the_first_is_refused_is_answered(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = {{0}}};
    three_make(f, &t);
    struct volume_storage storage = volume_storage_files;
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}, .then = then_begin};
    storage.save = save_no_rollback;
    f->env.storage = &storage;
    sem_init(&begin_again.done, 0, 0);
    assert_int_equal(call(f, fixture_do_begin, &b), SNAP_EIO);
    assert_int_equal(call_wait(&begin_again), SNAP_EIO);
    tree_settle(f, 2);
    three_expect(f, &t, t.now);
}

static struct call *cancel_again;

static void then_cancel(struct begin *b)
{
    struct volume *v = b->call->f->volume;
    for (unsigned i = 0; i < 2; i++)
        volume_job_cancel(v, &b->spec.job, call_end, &cancel_again[i]);
}

static void rollback__cancelled_again_meanwhile_turns_round_once(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = {{0}}};
    struct call cancels[2] = {{.f = f}, {.f = f}};
    three_make(f, &t);
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}, .then = then_cancel};
    cancel_again = cancels;
    for (unsigned i = 0; i < 2; i++)
        sem_init(&cancels[i].done, 0, 0);
    assert_int_equal(call(f, fixture_do_begin, &b), 0);
    assert_int_equal(call_wait(&cancels[0]), 0);
    assert_int_equal(call_wait(&cancels[1]), 0);
    assert_int_equal(fixture_job_end(f, b.spec.job), JOB_CANCELLED);
    tree_settle(f, 2);
    three_expect(f, &t, t.now);
}

/* Its end cannot be written down; that it is cancelled can. */
static int save_no_end(void *user, const char *dir, const struct volume_record *r,
                       struct err *reterr)
{
    bool ended = uuid_is_zero(&r->rollback.job) && r->tombstone_count > 0;
    if (ended)
        return err_set(reterr, SNAP_EIO, "no end");
    return volume_storage_files.save(user, dir, r, reterr);
}

static void rollback__that_waits_at_its_end_can_be_cancelled(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = {{0}}};
    three_make(f, &t);
    struct volume_storage storage = volume_storage_files;
    storage.save = save_no_end;
    f->env.storage = &storage;
    struct uuid job = tree_rollback(f, t.s1, false, false);
    (void)fixture_job_waits(f, job, "no end");
    assert_int_equal(call(f, fixture_do_cancel, &job), 0);
    (void)fixture_job_waits(f, job, "no end"); /* on its way back, too */
    f->env.storage = &volume_storage_files;
    fixture_start_jobs(f);
    assert_int_equal(fixture_job_end(f, job), JOB_CANCELLED);
    tree_settle(f, 2);
    three_expect(f, &t, t.now);
}

/* -- clones ----------------------------------------------------------------------------------- */

struct cloning {
    struct clone_spec spec;
    struct call *call;
};

static void cloned_once(void *user, int code, const struct err *err)
{
    struct cloning *k = user;
    if (code < 0)
        call_end(k->call, code, err);
    else
        volume_clone_start(k->call->f->volume, &k->spec, call_end, k->call);
}

static void do_clone_twice(struct call *c)
{
    struct cloning *k = c->arg;
    k->call = c;
    volume_clone_start(c->f->volume, &k->spec, cloned_once, k);
}

static void clone__asked_for_again_as_the_first_is_answered_is_answered(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s1");
    struct cloning k = {.spec = {.id = uuid_make(), .source = s, .name = "c1"}};
    assert_int_equal(call(f, do_clone_twice, &k), 0);
    assert_int_equal(f->volume->record.snapshot_count, 2);
}

/* -- a snapshot of a group that is not whole yet ----------------------------------------------- */

struct grouping {
    struct snapshot_spec spec;
    struct uuid group;
    sem_t held;
    struct call *call;
};

static void grouping_held(void *user, int code, const struct err *err)
{
    struct grouping *g = user;
    (void)code;
    (void)err;
    sem_post(&g->held);
}

static void grouping_done(void *user, int code, const struct err *err)
{
    struct grouping *g = user;
    call_end(g->call, code, err);
}

static void do_group(struct call *c)
{
    struct grouping *g = c->arg;
    g->call = c;
    g->spec.group = &g->group;
    g->spec.held = grouping_held;
    snapshot_create_start(c->f->volume, &g->spec, grouping_done, g);
}

static void do_release(struct call *c)
{
    const struct grouping *g = c->arg;
    snapshot_create_release(c->f->volume, &g->spec.id, false);
    call_end(c, 0, NULL);
}

/* Others of its group are still being made, or it is undone: nobody has it. */
static void group__snapshot_that_is_held_is_nobodys_yet(void **state)
{
    struct fixture *f = *state;
    struct grouping g = {.spec = {.id = uuid_make(), .name = "s1"}, .group = uuid_make()};
    struct snapshot_delete_spec gone = {.id = g.spec.id, .key = uuid_make()};
    struct checking check = {.check = {.snapshot = g.spec.id}};
    struct clone_spec k = {.id = uuid_make(), .source = g.spec.id, .name = "c1"};
    struct call making, cloning;
    sem_init(&g.held, 0, 0);
    call_begin(&making, f, do_group, &g);
    sem_wait_for(&g.held, "it is not held");
    assert_int_equal(call(f, fixture_do_check, &check), SNAP_ENOENT);
    assert_int_equal(call(f, fixture_do_delete, &gone), SNAP_ENOENT);
    call_begin(&cloning, f, fixture_do_clone, &k);
    assert_int_equal(call(f, do_release, &g), 0);
    assert_int_equal(call_wait(&making), SNAP_ECANCELED);
    assert_int_equal(call_wait(&cloning), SNAP_ENOENT);
    assert_int_equal(fixture_look(f, g.spec.id).nodes, 0);
    sem_destroy(&g.held);
}

/* -- a snapshot that is deleted ---------------------------------------------------------------- */

/* Two others read through it, so it stays, hidden; a job may take it any moment. */
static void verify__rebuild_leaves_a_deleted_one_alone_also_after_opening_again(void **state)
{
    struct fixture *f = *state;
    char path[LIMIT_PATH_BYTES];
    struct verify_spec spec = {.job = uuid_make(), .rebuild = true};
    struct uuid s1 = fixture_create(f, "s1"), s2 = fixture_create(f, "s2");
    (void)fixture_clone(f, s2, "c2");
    tree_write(f, ITSELF, 0, SECTORS, 1);
    tree_delete(f, s2);
    fixture_reopen(f);
    assert_true(fixture_look(f, s2).hidden);
    assert_int_equal(call(f, fixture_do_verify, &spec), 0);
    assert_int_equal(fixture_job_end(f, spec.job), JOB_DONE);
    fixture_cow_path(f, s2, path, sizeof path);
    memcpy(path + strlen(path) - 3, "sum", 3);
    assert_int_equal(access(path, F_OK), -1);
    assert_true(fixture_look(f, s1).there);
}

int main(void)
{
#define HOSTED(name) cmocka_unit_test_setup_teardown(name, fixture_setup_hosted, fixture_teardown)
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(delete__asked_for_again_meanwhile_succeeds_with_the_first),
        CASE(delete__asked_for_again_meanwhile_fails_with_the_first),
        CASE(merge__end_asked_for_again_meanwhile_succeeds_with_the_first),
        HOSTED(rollback__asked_for_again_meanwhile_begins_once),
        HOSTED(rollback__asked_for_again_meanwhile_is_refused_with_the_first),
        HOSTED(rollback__asked_for_again_as_the_first_is_refused_is_answered),
        HOSTED(rollback__cancelled_again_meanwhile_turns_round_once),
        HOSTED(rollback__that_waits_at_its_end_can_be_cancelled),
        HOSTED(clone__asked_for_again_as_the_first_is_answered_is_answered),
        HOSTED(group__snapshot_that_is_held_is_nobodys_yet),
        HOSTED(verify__rebuild_leaves_a_deleted_one_alone_also_after_opening_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
