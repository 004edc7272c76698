/* SPDX-License-Identifier: Apache-2.0 */
/* A flush that fails: nothing is acknowledged, and the store is opened again from disk. */
#include "daemon/volume/verify.h"
#include "tests/unit/volume/failing_fixture.h"
#include "tests/unit/volume/job_fixture.h"
#include "tests/unit/volume/remote_fixture.h"

static int setup(void **state)
{
    failing_init();
    return fixture_setup(state);
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
    fixture_wait_state(f, s1, SNAPSHOT_OK);
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

/* The device is being read from disk again as the volume begins to close, and that fails. */
static void poison__closing_as_the_opening_fails_ends(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct batch b = fixture_batch(s1, fixture_lease(f), 0, 5, 100);
    struct call putting, closing;
    atomic_store(&failures, 2);
    halt_set(&flush);
    call_begin(&putting, f, fixture_do_put, &b);
    halt_reached(&flush);
    halt_set(&flush); /* the opening's */
    halt_end(&flush);
    (void)call_wait(&putting);
    halt_reached(&flush);
    call_begin(&closing, f, fixture_do_close, NULL);
    assert_true(call_still_waits(&closing));
    halt_end(&flush);
    assert_int_equal(call_wait(&closing), 0);
    assert_int_equal(atomic_load(&failures), 0);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_OK);
}

static void do_idle(struct call *c)
{
    struct snapshot *s = volume_head(c->f->volume);
    assert_true(cow_store_idle(s->store));
    call_end(c, 0, NULL);
}

/* Space is prepared while nobody asks for anything: nobody is told that its flush has failed. */
static void poison__of_a_store_that_nobody_waits_for_ends(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    fixture_put(f, s1, epoch, 0, 10, 0);
    atomic_store(&failures, 1);
    assert_int_equal(call(f, do_idle, NULL), 0);
    for (int i = 0; i < 4000 && atomic_load(&failures) > 0; i++)
        (void)usleep(1000);
    assert_int_equal(atomic_load(&failures), 0);
    fixture_wait_state(f, s1, SNAPSHOT_OK);
    struct batch b = fixture_batch(s1, epoch, 10, 1, 50);
    assert_int_equal(call(f, fixture_do_put, &b), 0);
    assert_int_equal(b.added, 1);
}

/* It was sound when it was closed for its checksums. */
static void poison__opening_that_fails_behind_a_rebuild_is_tried_again(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct verify_spec spec = {.job = uuid_make(), .rebuild = true};
    fixture_put(f, s1, fixture_lease(f), 0, 10, 0);
    atomic_store(&passes, 1); /* of the new side file */
    atomic_store(&failures, 1);
    assert_int_equal(call(f, fixture_do_verify, &spec), 0);
    assert_int_equal(fixture_job_end(f, spec.job), JOB_FAILED);
    assert_int_equal(atomic_load(&failures), 0);
    fixture_wait_state(f, s1, SNAPSHOT_OK);
    assert_int_equal(fixture_look(f, s1).exceptions, 10);
}

/* A put, and what is asked for in the same turn of the shard. */
static void put_and(struct fixture *f, struct uuid head, struct batch *b, struct call calls[2])
{
    *b = fixture_batch(head, fixture_lease(f), 0, 5, 100);
    calls[0] = (struct call){.fn = fixture_do_put, .arg = b};
    call_begin_together(f, calls, 2);
}

static void poison__check_meanwhile_is_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct batch b;
    struct checking g = {.check = {.snapshot = s1}};
    struct call calls[2] = {[1] = {.fn = fixture_do_check, .arg = &g}};
    atomic_store(&failures, 1);
    put_and(f, s1, &b, calls);
    (void)call_wait(&calls[0]);
    assert_int_equal(call_wait(&calls[1]), SNAP_EPOISONED);
    fixture_wait_state(f, s1, SNAPSHOT_OK);
}

static void poison__deleting_the_snapshot_meanwhile_ends(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct batch b;
    struct snapshot_delete_spec gone = {.id = s1, .key = uuid_make()};
    struct call calls[2] = {[1] = {.fn = fixture_do_delete, .arg = &gone}};
    atomic_store(&failures, 1000); /* the opening fails too, so a timer waits */
    put_and(f, s1, &b, calls);
    (void)call_wait(&calls[0]);
    assert_int_equal(call_wait(&calls[1]), 0);
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

static void put__head_that_is_being_deleted_is_stale(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct batch b = fixture_batch(s1, fixture_lease(f), 0, 5, 100);
    struct snapshot_delete_spec gone = {.id = s1, .key = uuid_make()};
    struct call calls[2] = {{.fn = fixture_do_delete, .arg = &gone},
                            {.fn = fixture_do_put, .arg = &b}};
    call_begin_together(f, calls, 2);
    assert_int_equal(call_wait(&calls[0]), 0);
    assert_int_equal(call_wait(&calls[1]), SNAP_ESTALE);
}

/* What it was asked to take is in it before it goes. */
static void delete__waits_for_the_puts_under_way(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct batch b = fixture_batch(s1, fixture_lease(f), 0, 1, 1);
    struct snapshot_delete_spec spec = {.id = s1, .key = uuid_make()};
    struct call putting, deleting;
    halt_set(&flush);
    call_begin(&putting, f, fixture_do_put, &b);
    halt_reached(&flush);
    call_begin(&deleting, f, fixture_do_delete, &spec);
    (void)usleep(100000);
    struct look l = fixture_look(f, s1);
    halt_end(&flush);
    assert_int_equal(call_wait(&putting), 0);
    assert_int_equal(call_wait(&deleting), 0);
    assert_true(l.there && !l.hidden);
    assert_int_equal(b.added, 1);
}

static void put__head_that_is_damaged_is_refused(void **state)
{
    struct fixture *f = *state;
    char path[2 * LIMIT_PATH_BYTES];
    struct uuid s1 = fixture_create(f, "s1");
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    assert_int_equal(unlink(fixture_cow_path(f, s1, path, sizeof path)), 0);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    struct batch b = fixture_batch(s1, fixture_lease(f), 0, 1, 1);
    assert_int_equal(call(f, fixture_do_put, &b), SNAP_ECORRUPT);
}

/* -- the queue -------------------------------------------------------------------------------- */

struct queue {
    struct batch batches[2];
    struct call calls[2];
    struct uuid head;
};

static void do_queue(struct call *c)
{
    struct queue *q = c->arg;
    struct volume *v = c->f->volume;
    struct snapshot *s = volume_snapshot_find(v, &q->head);
    s->busy = true;
    q->calls[0].fn(&q->calls[0]);
    s->busy = false;
    q->calls[1].fn(&q->calls[1]);
    volume_put_resume(v);
    call_end(c, 0, NULL);
}

static void put__nobody_passes_by_one_that_waits(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    struct queue q = {.head = s1};
    for (unsigned i = 0; i < 2; i++) {
        q.batches[i] = fixture_batch(s1, epoch, 0, 1, (uint8_t)(10 + i));
        q.calls[i] = (struct call){.f = f, .fn = fixture_do_put, .arg = &q.batches[i]};
        sem_init(&q.calls[i].done, 0, 0);
    }
    assert_int_equal(call(f, do_queue, &q), 0);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(call_wait(&q.calls[i]), 0);
    assert_int_equal(q.batches[0].added, 1);
    assert_int_equal(q.batches[1].existed, 1);
}

static void put__without_the_lease_is_not_let_into_the_queue(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct batch b = fixture_batch(s1, fixture_lease(f) + 1, 0, 1, 1);
    fixture_set_busy(f, s1, true);
    assert_int_equal(call(f, fixture_do_put, &b), SNAP_ESTALE);
    fixture_set_busy(f, s1, false);
}

static void do_fill_window(struct call *c)
{
    struct volume *v = c->f->volume;
    v->put_bytes_inflight += *(const int64_t *)c->arg < 0 ? -(uint64_t)VOLUME_PUT_BYTES_MAX
                                                          : (uint64_t)VOLUME_PUT_BYTES_MAX;
    volume_put_resume(v);
    call_end(c, 0, NULL);
}

static void put__waits_when_too_much_is_in_flight(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct batch b = fixture_batch(s1, fixture_lease(f), 0, 1, 1);
    struct call putting;
    int64_t by = 1;
    assert_int_equal(call(f, do_fill_window, &by), 0);
    call_begin(&putting, f, fixture_do_put, &b);
    (void)usleep(50000);
    assert_int_equal(fixture_look(f, s1).exceptions, 0);
    by = -1;
    assert_int_equal(call(f, do_fill_window, &by), 0);
    assert_int_equal(call_wait(&putting), 0);
    assert_int_equal(b.added, 1);
}

struct read_and_close {
    struct reading reading;
    struct call call;
};

static void do_read_and_close(struct call *c)
{
    struct read_and_close *r = c->arg;
    struct snapshot *s = volume_snapshot_find(c->f->volume, &r->reading.snapshot);
    r->call.fn(&r->call);
    snapshot_close(s, true, call_end, c);
}

static void read__device_is_closed_after_it(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    fixture_put(f, s1, fixture_lease(f), 0, 10, 0);
    struct read_and_close *r = calloc(1, sizeof *r);
    r->reading.snapshot = s1;
    r->reading.len = SIZE;
    r->call = (struct call){.f = f, .fn = fixture_do_read, .arg = &r->reading};
    sem_init(&r->call.done, 0, 0);
    assert_int_equal(call(f, do_read_and_close, r), 0);
    assert_int_equal(call_wait(&r->call), 0);
    assert_int_equal(r->reading.bytes[9 * CHUNK_BYTES], 9);
    free(r);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(poison__failed_flush_is_told_and_the_store_comes_back),
        CASE(poison__puts_wait_while_the_store_is_opened_again),
        CASE(poison__closing_meanwhile_ends),
        CASE(poison__closing_as_the_opening_fails_ends),
        CASE(poison__of_a_store_that_nobody_waits_for_ends),
        CASE(poison__opening_that_fails_behind_a_rebuild_is_tried_again),
        CASE(poison__check_meanwhile_is_refused),
        CASE(poison__deleting_the_snapshot_meanwhile_ends),
        CASE(poison__older_one_that_cannot_be_made_invalid_is_tried_again),
        CASE(put__head_that_is_being_deleted_is_stale),
        CASE(delete__waits_for_the_puts_under_way),
        CASE(put__head_that_is_damaged_is_refused),
        CASE(put__nobody_passes_by_one_that_waits),
        CASE(put__without_the_lease_is_not_let_into_the_queue),
        CASE(put__waits_when_too_much_is_in_flight),
        CASE(read__device_is_closed_after_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
