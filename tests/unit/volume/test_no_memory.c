/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is not there for a moment: what is refused for that is not done all the same, and
 * what could not be opened is opened a little later.
 *
 * malloc() is this program's own, which a sanitizer's is as well: those cases are skipped there. */
#include "tests/lib/allocator.h"
#include "tests/unit/volume/rollback_fixture.h"

#include "daemon/volume/rollback_priv.h"
#include "daemon/volume/verify.h"

static _Thread_local bool no_askers; /* none of those who ask for a rollback can be noted down */

static atomic_bool no_list; /* of jobs that ended: as large as it is, or larger */

#ifndef ALLOCATOR_IS_TAKEN
void *malloc(size_t len)
{
    return no_askers && len == sizeof(struct rollback_asker) ? NULL : __libc_malloc(len);
}

void *calloc(size_t count, size_t len)
{
    const bool is_list = count * len >= VOLUME_JOBS_ENDED * sizeof(struct volume_job_status);
    return is_list && atomic_load(&no_list) ? NULL : __libc_calloc(count, len);
}
#endif

/* -- rolling back ------------------------------------------------------------------------- */

static bool is_rolled_back; /* though it was refused */

static void do_rollback(struct call *c)
{
    struct volume *v = c->f->volume;
    no_askers = true;
    volume_rollback_start(v, c->arg, call_end, c);
    no_askers = false;
    is_rolled_back = v->rollback != NULL;
}

static void do_nothing(struct call *c)
{
    call_end(c, 0, NULL);
}

static void rollback__refused_without_memory_does_not_begin(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = {{0}}};
    skip_without_allocator();
    three_make(f, &t);
    struct rollback_spec spec = {.job = uuid_make(), .snapshot = t.s1};
    assert_int_equal(call(f, do_rollback, &spec), SNAP_ENOMEM);
    assert_int_equal(call(f, do_nothing, NULL), 0); /* that step has ended */
    assert_false(is_rolled_back);
    three_expect(f, &t, t.now);
    assert_int_equal(call(f, tree_do_rollback, &spec), 0);
    assert_int_equal(fixture_job_end(f, spec.job), JOB_DONE);
    three_expect(f, &t, t.at1);
}

static struct call cancel;

static void then_cancel(struct begin *b)
{
    no_askers = true;
    volume_job_cancel(b->call->f->volume, &b->spec.job, call_end, &cancel);
    no_askers = false;
}

static void rollback__cancelling_refused_without_memory_does_not_turn_it_round(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = {{0}}};
    skip_without_allocator();
    three_make(f, &t);
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}, .then = then_cancel};
    sem_init(&cancel.done, 0, 0);
    assert_int_equal(call(f, fixture_do_begin, &b), 0);
    assert_int_equal(call_wait(&cancel), SNAP_ENOMEM);
    assert_int_equal(fixture_job_end(f, b.spec.job), JOB_DONE);
    tree_settle(f, 2);
    three_expect(f, &t, t.at1);
}

/* -- opening ------------------------------------------------------------------------------ */

static const char *no_memory_for; /* how the path ends; NULL: for all */
static atomic_int refused;        /* so many times */
static atomic_int refusals;       /* the clock goes on by a second with each */

static uint64_t now_ns(void *user)
{
    (void)user;
    return clock_now_ns(clock_system()) + (uint64_t)atomic_load(&refusals) * UINT64_C(1000000000);
}

static const struct clock our_clock = {.now_ns = now_ns};

static int open_without(void *user, struct blk_engine *e, const char *path, unsigned flags,
                        struct blk_dev **ret, struct err *reterr)
{
    size_t len = strlen(path), end = strlen(no_memory_for);
    if (len > end && strcmp(path + len - end, no_memory_for) == 0 && atomic_load(&refused) > 0) {
        (void)atomic_fetch_sub(&refused, 1);
        (void)atomic_fetch_add(&refusals, 1);
        return err_set(reterr, SNAP_ENOMEM, "open %s", path);
    }
    return volume_storage_files.open(user, e, path, flags, ret, reterr);
}

static struct volume_storage storage_without;

static void refuse(struct fixture *f, const char *end, int times)
{
    storage_without = volume_storage_files;
    storage_without.open = open_without;
    no_memory_for = end;
    atomic_store(&refused, times);
    f->env.storage = &storage_without;
}

static void do_verify_only(struct call *c)
{
    fixture_do_verify(c);
    atomic_store(&no_list, true);
}

static enum volume_job_state verify(struct fixture *f, bool rebuild, struct showing *ret)
{
    struct verify_spec spec = {.job = uuid_make(), .rebuild = rebuild};
    ret->job = spec.job;
    assert_int_equal(call(f, fixture_do_verify, &spec), 0);
    enum volume_job_state state = fixture_job_end(f, spec.job);
    assert_int_equal(call(f, fixture_do_show, ret), 0);
    return state;
}

static int setup_with_checksums(void **state)
{
    return fixture_setup_as(state,
                            &(struct fixture_spec){.kind = VOLUME_HOSTED, .checksums = true});
}

/* Whoever asked for it waits until it is told as ended. */
static void verify__that_ends_without_memory_is_told(void **state)
{
    struct fixture *f = *state;
    struct verify_spec spec = {.job = uuid_make()};
    skip_without_allocator();
    (void)fixture_create(f, "s1");
    tree_write(f, ITSELF, 0, SECTORS, 1);
    assert_int_equal(call(f, do_verify_only, &spec), 0);
    assert_int_equal(fixture_job_end(f, spec.job), JOB_DONE);
    atomic_store(&no_list, false);
}

/* Used without them it would be written without them: what verify finds then is no damage. */
static void open__checksums_that_find_no_memory_are_waited_for(void **state)
{
    struct fixture *f = *state;
    struct showing g;
    struct uuid s = fixture_create(f, "s1"), c = fixture_clone(f, s, "c1");
    tree_write(f, c, 0, SECTORS, 1);
    refuse(f, ".sum", 2);
    fixture_reopen(f);
    assert_int_equal(atomic_load(&refused), 0);
    tree_write(f, c, 0, SECTORS, 2); /* in place */
    assert_int_equal(verify(f, false, &g), JOB_DONE);
    assert_string_equal(g.status.text, "0 faults");
    fixture_reopen(f);
    assert_int_equal(verify(f, false, &g), JOB_DONE);
    assert_string_equal(g.status.text, "0 faults");
}

/* The volume is served without it meanwhile, and needs no other start of the daemon. */
static void open__origin_that_finds_no_memory_for_long_is_opened_later(void **state)
{
    struct fixture *f = *state;
    tree_write(f, ITSELF, 0, SECTORS, 1);
    f->env.clock = &our_clock;
    refuse(f, "origin", 1000);
    fixture_reopen(f);
    assert_true(atomic_load(&refused) > 0);
    assert_int_equal(fixture_fill(f, ITSELF, 0, 10, 2), SNAP_EIO);
    atomic_store(&refused, 1);
    int rc = SNAP_EIO;
    for (int i = 0; i < 2000 && rc == SNAP_EIO; i++) {
        (void)usleep(10000);
        rc = fixture_fill(f, ITSELF, 0, 10, 2);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(atomic_load(&refused), 0);
    fixture_expect_byte(f, ITSELF, 0, 10, 2);
    fixture_reopen(f);
    fixture_expect_byte(f, ITSELF, 10, SECTORS * 512, 1);
}

static void open__origin_that_finds_no_memory_lets_the_volume_be_closed(void **state)
{
    struct fixture *f = *state;
    f->env.clock = &our_clock;
    refuse(f, "origin", 1000);
    fixture_reopen(f);
    assert_true(atomic_load(&refused) > 0);
    fixture_reopen(f);
    atomic_store(&refused, 0);
}

/* To rebuild its checksums a node is closed; it is not lost until the daemon is started again. */
static void verify__node_that_finds_no_memory_to_be_opened_again_is_opened_later(void **state)
{
    struct fixture *f = *state;
    struct showing g;
    tree_write(f, ITSELF, 0, SECTORS, 1);
    struct uuid s = fixture_create(f, "s1");
    tree_write(f, ITSELF, 0, SECTORS, 2);
    refuse(f, ".cow", 1);
    assert_int_equal(verify(f, true, &g), JOB_FAILED);
    assert_int_equal(atomic_load(&refused), 0);
    fixture_wait_state(f, s, SNAPSHOT_OK);
    assert_int_equal(verify(f, true, &g), JOB_DONE);
    assert_int_equal(verify(f, false, &g), JOB_DONE);
    assert_string_equal(g.status.text, "0 faults");
}

#define CASE(f, setup) cmocka_unit_test_setup_teardown(f, setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(rollback__refused_without_memory_does_not_begin, fixture_setup_hosted),
        CASE(rollback__cancelling_refused_without_memory_does_not_turn_it_round,
             fixture_setup_hosted),
        CASE(verify__that_ends_without_memory_is_told, setup_with_checksums),
        CASE(open__checksums_that_find_no_memory_are_waited_for, setup_with_checksums),
        CASE(open__origin_that_finds_no_memory_for_long_is_opened_later, fixture_setup_hosted),
        CASE(open__origin_that_finds_no_memory_lets_the_volume_be_closed, fixture_setup_hosted),
        CASE(verify__node_that_finds_no_memory_to_be_opened_again_is_opened_later,
             fixture_setup_hosted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
