/* SPDX-License-Identifier: Apache-2.0 */
/* A flush that fails: nothing is acknowledged, and the store is opened again from disk.
 *
 * fdatasync() is this program's own: the threads engine calls it, and it fails as often as
 * a case asks for. */
#include "tests/unit/volume/volume_fixture.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>

static atomic_int failures;

int fdatasync(int fd)
{
    int left = atomic_load(&failures);
    while (left > 0)
        if (atomic_compare_exchange_weak(&failures, &left, left - 1)) {
            errno = EIO;
            return -1;
        }
    return (int)syscall(SYS_fdatasync, fd);
}

static void wait_for_state(struct fixture *f, struct uuid id, enum snapshot_state want)
{
    for (int i = 0; i < 4000; i++) {
        if (fixture_look(f, id).state == want)
            return;
        (void)usleep(1000);
    }
    fail_msg("the snapshot does not become %d", (int)want);
}

static int want_ten(unsigned n)
{
    return n < 10 ? (int)n : n < 15 ? (int)(50 + n) : ORIGIN;
}

static void poison__failed_flush_is_told_and_the_store_comes_back(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    fixture_put(f, s1, epoch, 0, 10, 0);
    atomic_store(&failures, 1);
    struct batch b = fixture_batch(s1, epoch, 10, 5, 100);
    int rc = call(f, fixture_do_put, &b);
    assert_true(rc < 0 || b.failed == 5);
    assert_int_equal(atomic_load(&failures), 0);
    wait_for_state(f, s1, SNAPSHOT_OK);
    b = fixture_batch(s1, epoch, 10, 5, 50);
    assert_int_equal(call(f, fixture_do_put, &b), 0);
    assert_int_equal(b.failed, 0);
    /* what failed was not acknowledged; it may be there all the same, whole, if it reached
     * the disk before the flush failed, and then it is the first content */
    if (b.existed == 0)
        fixture_expect(f, s1, want_ten);
    fixture_reopen(f);
    assert_int_equal(fixture_look(f, s1).exceptions, 15);
}

static void poison__puts_wait_while_the_store_is_opened_again(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    struct batch lost = fixture_batch(s1, epoch, 0, 5, 100), held;
    struct call losing, holding;
    atomic_store(&failures, 1);
    call_begin(&losing, f, fixture_do_put, &lost);
    (void)call_wait(&losing);
    held = fixture_batch(s1, epoch, 5, 5, 100);
    call_begin(&holding, f, fixture_do_put, &held);
    assert_int_equal(call_wait(&holding), 0);
    assert_int_equal(held.failed, 0);
    assert_int_equal(held.added, 5);
}

static void poison__closing_meanwhile_ends(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    struct batch b = fixture_batch(s1, epoch, 0, 5, 100);
    atomic_store(&failures, 1000); /* the opening fails too, so a timer waits */
    (void)call(f, fixture_do_put, &b);
    (void)usleep(50000);
    atomic_store(&failures, 0);
}

/* One after the other in one turn of the shard. */
struct with_put {
    struct batch batch;
    struct call putting;
    struct volume_check check;
    struct snapshot_delete_spec spec;
};

static void checked(struct volume_check *c, int code, const struct err *err)
{
    free(c->faults);
    call_end(c->user, code, err);
}

static void do_put_and_check(struct call *c)
{
    struct with_put *w = c->arg;
    fixture_do_put(&w->putting);
    w->check.done = checked;
    w->check.user = c;
    volume_check_start(c->f->volume, &w->check);
}

static void do_put_and_delete(struct call *c)
{
    struct with_put *w = c->arg;
    fixture_do_put(&w->putting);
    snapshot_delete(c->f->volume, &w->spec, call_end, c);
}

static struct with_put with_put(struct fixture *f, struct uuid head)
{
    struct with_put w = {.batch = fixture_batch(head, fixture_lease(f), 0, 5, 100)};
    w.putting = (struct call){.f = f};
    sem_init(&w.putting.done, 0, 0);
    return w;
}

static void poison__check_meanwhile_is_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct with_put w = with_put(f, s1);
    w.putting.arg = &w.batch;
    w.check.snapshot = s1;
    atomic_store(&failures, 1);
    assert_int_equal(call(f, do_put_and_check, &w), SNAP_EPOISONED);
    (void)call_wait(&w.putting);
    wait_for_state(f, s1, SNAPSHOT_OK);
}

static void poison__deleting_the_snapshot_meanwhile_ends(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct with_put w = with_put(f, s1);
    w.putting.arg = &w.batch;
    w.spec = (struct snapshot_delete_spec){.id = s1, .key = uuid_make()};
    atomic_store(&failures, 1000); /* the opening fails too, so a timer waits */
    assert_int_equal(call(f, do_put_and_delete, &w), 0);
    (void)call_wait(&w.putting);
    (void)usleep(50000);
    atomic_store(&failures, 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, s1).nodes, 0);
}

static void do_invalidate_head(struct call *c)
{
    struct snapshot *s = volume_head(c->f->volume);
    snapshot_kick(s);
    cow_store_invalidate(s->store, call_end, c);
}

static void poison__older_one_that_cannot_be_made_invalid_is_tried_again(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), s2 = fixture_create(f, "s2");
    assert_int_equal(call(f, do_invalidate_head, NULL), 0);
    atomic_store(&failures, 1);
    assert_int_equal(fixture_delete(f, s2, uuid_make(), false), 0);
    fixture_settle(f);
    assert_int_equal(atomic_load(&failures), 0);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_INVALID);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(poison__failed_flush_is_told_and_the_store_comes_back),
        CASE(poison__puts_wait_while_the_store_is_opened_again),
        CASE(poison__closing_meanwhile_ends),
        CASE(poison__check_meanwhile_is_refused),
        CASE(poison__deleting_the_snapshot_meanwhile_ends),
        CASE(poison__older_one_that_cannot_be_made_invalid_is_tried_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
