/* SPDX-License-Identifier: Apache-2.0 */
/* What has to end before the next may begin, on a remote volume: puts before a new head, a merge
 * or a check; the giving of a lease before a new head, and the other way round; and what is
 * refused while a record is on its way to the disk.
 *
 * fdatasync() is this program's own: the threads engine calls it. A case stops the next one of a
 * COW file, or the next saving of a record, and sees what goes on beside. */
#include "tests/unit/volume/disk_fixture.h"
#include "tests/unit/volume/job_fixture.h"
#include "tests/unit/volume/remote_fixture.h"

#define LONG_NS UINT64_C(10000000000)

static struct halt flush, saving;
static _Atomic ino_t flush_of; /* the file whose flush it is that stops */
static atomic_int flushes_fail;
static atomic_bool save_fails; /* the next one */
static struct volume_storage storage;

int fdatasync(int fd)
{
    if (disk_ino(fd) == atomic_load(&flush_of))
        halt_here(&flush);
    if (disk_take_one(&flushes_fail)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

static int save(void *user, const char *dir, const struct volume_record *r, struct err *reterr)
{
    halt_here(&saving);
    if (atomic_exchange(&save_fails, false))
        return err_set(reterr, SNAP_EIO, "no");
    return volume_storage_files.save(user, dir, r, reterr);
}

static int setup(void **state)
{
    halt_init(&flush);
    halt_init(&saving);
    atomic_store(&flushes_fail, 0);
    atomic_store(&save_fails, false);
    int rc = fixture_setup(state);
    struct fixture *f = *state;
    storage = volume_storage_files;
    storage.save = save;
    f->env.storage = &storage;
    f->volume->lease.ttl_ns = LONG_NS; /* no lease ends by itself, however slow the machine */
    return rc;
}

/* -- a put that waits for its flush -------------------------------------------------------- */

static void begin_put(struct fixture *f, struct uuid head, struct batch *b, struct call *c)
{
    *b = fixture_batch(head, f->volume->lease.epoch, 0, 5, 100);
    atomic_store(&flush_of, disk_cow_ino(f, head));
    halt_set(&flush);
    call_begin(c, f, fixture_do_put, b);
    halt_reached(&flush);
}

static void create__waits_for_the_puts_to_the_head_before(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct make m = {.id = uuid_make(), .name = "s2"};
    struct batch b;
    struct call putting, creating, ready;
    (void)fixture_lease(f);
    begin_put(f, s1, &b, &putting);
    call_begin(&creating, f, fixture_do_create, &m);
    fixture_wait_quiesced(f, 1);
    call_begin(&ready, f, fixture_do_ready, NULL);
    assert_true(call_still_waits(&creating));
    halt_end(&flush);
    assert_int_equal(call_wait(&putting), 0);
    assert_int_equal(b.added, 5);
    assert_int_equal(call_wait(&creating), 0);
    assert_int_equal(call_wait(&ready), 0);
}

static void merge__begins_when_the_puts_before_it_have_ended(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct merging g = {.m = {.snapshot = s1}, .fn = volume_merge_begin};
    struct batch b;
    struct call putting, merging;
    (void)fixture_lease(f);
    begin_put(f, s1, &b, &putting);
    call_begin(&merging, f, fixture_do_merge, &g);
    assert_true(call_still_waits(&merging));
    halt_end(&flush);
    assert_int_equal(call_wait(&putting), 0);
    assert_int_equal(call_wait(&merging), 0);
    assert_int_equal(g.m.table_len, 5);
}

static void check__waits_for_the_puts_and_is_alone(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), s2 = fixture_create(f, "s2");
    struct checking g = {.check = {.snapshot = s2}}, other = g;
    struct snapshot_delete_spec spec = {.id = s2, .key = uuid_make()};
    struct batch b;
    struct call putting, checking;
    (void)fixture_lease(f);
    begin_put(f, s2, &b, &putting);
    call_begin(&checking, f, fixture_do_check, &g);
    assert_true(call_still_waits(&checking));
    assert_int_equal(call(f, fixture_do_check, &other), SNAP_EBUSY);
    assert_int_equal(call(f, fixture_do_delete, &spec), SNAP_EBUSY);
    halt_end(&flush);
    assert_int_equal(call_wait(&putting), 0);
    assert_int_equal(call_wait(&checking), 0);
    assert_true(g.check.sound);
    assert_int_equal(g.check.exceptions, 5);
    assert_int_equal(fixture_look(f, s1).nodes, 2);
}

/* What is to be folded into the one that is checked waits, and not longer than that. */
static void check__lets_a_fold_go_on_that_has_waited_for_it(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), s2 = fixture_create(f, "s2"),
                s3 = fixture_create(f, "s3");
    struct checking g = {.check = {.snapshot = s3}};
    struct snapshot_delete_spec spec = {.id = s2, .key = uuid_make()};
    struct batch b;
    struct call putting, checking;
    (void)fixture_lease(f);
    fixture_set_busy(f, s1, true);
    begin_put(f, s3, &b, &putting);
    call_begin(&checking, f, fixture_do_check, &g);
    assert_int_equal(call(f, fixture_do_delete, &spec), 0);
    assert_true(call_still_waits(&checking));
    assert_true(fixture_look(f, s2).hidden);
    fixture_set_busy(f, s1, false);
    halt_end(&flush);
    assert_int_equal(call_wait(&putting), 0);
    assert_int_equal(call_wait(&checking), 0);
    fixture_settle(f); /* long before it would be tried again by itself */
    assert_int_equal(fixture_look(f, s1).nodes, 2);
}

/* -- the lease, and a record on its way to the disk -------------------------------------------- */

static int renew(struct volume *v, struct err *reterr)
{
    return lease_check(&v->lease, "w", v->lease.epoch, volume_now_ns(v), reterr);
}

static void do_renew(struct call *c)
{
    struct err err = ERR_INIT;
    int rc = renew(c->f->volume, &err);
    call_end(c, rc, &err);
}

static struct writer thief(const struct fixture *f)
{
    struct writer t = fixture_writer(f, "t");
    t.instance = uuid_make();
    t.session = 2;
    t.steal = true;
    return t;
}

/* A renewal that succeeded now would be of a lease that is about to end. */
static void lease__that_is_being_taken_is_stale_and_sound_again_if_that_fails(void **state)
{
    struct fixture *f = *state;
    struct writer t = thief(f);
    struct call taking;
    uint64_t epoch = fixture_lease(f);
    for (unsigned fails = 2; fails-- > 0;) {
        atomic_store(&save_fails, fails == 1);
        halt_set(&saving);
        call_begin(&taking, f, fixture_do_acquire, &t);
        halt_reached(&saving);
        assert_int_equal(call(f, do_renew, NULL), SNAP_ESTALE);
        halt_end(&saving);
        assert_int_equal(call_wait(&taking), fails == 1 ? SNAP_EIO : 0);
        assert_int_equal(call(f, do_renew, NULL), fails == 1 ? 0 : SNAP_ESTALE);
    }
    assert_int_equal(f->volume->lease.epoch, epoch + 1);
}

static void do_acquire_as_guard(struct call *c)
{
    struct fixture *f = c->f;
    struct volume_lease_request r = {.ask = {.identity = "w", .instance = f->instance},
                                     .origin_size_bytes = SIZE,
                                     .goes_on = true,
                                     .holder = {.tell = fixture_tell, .session = 1}};
    volume_lease_acquire(f->volume, &r, call_end, c);
}

/* From the moment on in which it may not renew any more, it may go on without the daemon. */
static void guard__whose_lease_is_being_taken_is_away(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct writer t = thief(f);
    struct call taking;
    assert_int_equal(call(f, do_acquire_as_guard, NULL), 0);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_OK);
    halt_set(&saving);
    call_begin(&taking, f, fixture_do_acquire, &t);
    halt_reached(&saving);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_UNVERIFIED);
    halt_end(&saving);
    assert_int_equal(call_wait(&taking), 0);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_UNVERIFIED);
}

static void do_release(struct call *c)
{
    struct volume *v = c->f->volume;
    volume_lease_release(v, "w", v->lease.epoch, call_end, c);
}

/* The release is of an epoch that is gone by then. */
static void lease__release_behind_a_theft_releases_nothing(void **state)
{
    struct fixture *f = *state;
    struct writer t = thief(f);
    struct nothing nothing;
    struct call before;
    struct call calls[2] = {{.fn = fixture_do_acquire, .arg = &t}, {.fn = do_release}};
    uint64_t epoch = fixture_lease(f);
    halt_set(&saving);
    call_begin(&before, f, fixture_do_nothing, &nothing);
    halt_reached(&saving);
    call_begin_together(f, calls, 2);
    halt_end(&saving);
    assert_int_equal(call_wait(&before), 0);
    assert_int_equal(call_wait(&calls[0]), 0);
    assert_int_equal(call_wait(&calls[1]), SNAP_ESTALE);
    assert_string_equal(f->volume->record.lease_holder, "t");
    assert_string_equal(f->volume->lease.holder, "t");
    assert_int_equal(f->volume->lease.epoch, epoch + 1);
}

/* -- the lease and a new head --------------------------------------------------------------------
 */

/* Who gets the lease just before has to stand still like any other. */
static void create__writer_whose_lease_is_being_given_is_asked_to_stand_still(void **state)
{
    struct fixture *f = *state;
    struct writer w = fixture_writer(f, "w");
    struct make m = {.id = uuid_make(), .name = "s1"};
    struct call acquiring, creating;
    halt_set(&saving);
    call_begin(&acquiring, f, fixture_do_acquire, &w);
    halt_reached(&saving);
    call_begin(&creating, f, fixture_do_create, &m);
    assert_true(call_still_waits(&creating));
    halt_end(&saving);
    assert_int_equal(call_wait(&acquiring), 0);
    fixture_wait_quiesced(f, 1);
    assert_true(call_still_waits(&creating));
    assert_int_equal(call(f, fixture_do_ready, NULL), 0);
    assert_int_equal(call_wait(&creating), 0);
}

/* Once the head is on its way, the lease stands as it is: nobody gets it, no put is let in. */
static void create__lease_is_sealed_while_the_head_is_being_recorded(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct make m = {.id = uuid_make(), .name = "s2"};
    struct writer w = fixture_writer(f, "w");
    struct call creating, ready, again;
    w.epoch = fixture_lease(f);
    call_begin(&creating, f, fixture_do_create, &m);
    fixture_wait_quiesced(f, 1);
    halt_set(&saving);
    call_begin(&ready, f, fixture_do_ready, NULL);
    halt_reached(&saving);
    call_begin(&again, f, fixture_do_acquire, &w); /* its own: it has not heard yet */
    assert_true(call_still_waits(&again));
    struct batch b = fixture_batch(s1, w.epoch, 0, 5, 0);
    assert_int_equal(call(f, fixture_do_put, &b), SNAP_ESTALE);
    halt_end(&saving);
    assert_int_equal(call_wait(&creating), 0);
    assert_int_equal(call_wait(&ready), 0);
    assert_int_equal(call_wait(&again), 0);
    assert_int_equal(f->volume->lease.epoch, w.epoch);
    fixture_put(f, m.id, w.epoch, 0, 5, 0);
}

static void do_cancel(struct call *c)
{
    snapshot_create_cancel(c->f->volume);
    call_end(c, 0, NULL);
}

/* As the daemon stops. The writer that stands still for the first would go on with the old head,
 * and overwrite what the new one has not got. */
static void create__refused_behind_another_lets_the_writer_stand_still_for_that(void **state)
{
    struct fixture *f = *state;
    (void)fixture_create(f, "s1");
    struct make m[2] = {{.id = uuid_make(), .name = "s2"}, {.id = uuid_make(), .name = "s3"}};
    struct call creating[2], ready;
    (void)fixture_lease(f);
    call_begin(&creating[0], f, fixture_do_create, &m[0]);
    fixture_wait_quiesced(f, 1);
    call_begin(&creating[1], f, fixture_do_create, &m[1]);
    halt_set(&saving);
    call_begin(&ready, f, fixture_do_ready, NULL);
    halt_reached(&saving);
    assert_int_equal(call(f, do_cancel, NULL), 0);
    assert_int_equal(call_wait(&creating[1]), SNAP_ESHUTDOWN);
    assert_true(call_still_waits(&ready));
    halt_end(&saving);
    assert_int_equal(call_wait(&creating[0]), 0);
    assert_int_equal(call_wait(&ready), 0);
}

static void do_gone(struct call *c)
{
    volume_holder_gone(c->f->volume, 1);
    call_end(c, 0, NULL);
}

/* It comes back on another connection, and does not know that it is waited for. */
static void create__writer_that_comes_back_is_asked_again(void **state)
{
    struct fixture *f = *state;
    struct make m = {.id = uuid_make(), .name = "s1"};
    struct writer w = fixture_writer(f, "w");
    struct call creating;
    w.epoch = fixture_lease(f);
    call_begin(&creating, f, fixture_do_create, &m);
    fixture_wait_quiesced(f, 1);
    assert_int_equal(call(f, do_gone, NULL), 0);
    assert_int_equal(call(f, fixture_do_acquire, &w), 0);
    fixture_wait_quiesced(f, 2);
    assert_int_equal(call(f, fixture_do_ready, NULL), 0);
    assert_int_equal(call_wait(&creating), 0);
    assert_int_equal(f->volume->lease.epoch, w.epoch);
}

/* Connected, and silent for longer than its lease lasts. */
static void create__over_a_silent_writer_tells_it_that_it_has_lost_the_lease(void **state)
{
    struct fixture *f = *state;
    f->volume->lease.ttl_ns = LONG_NS / 100;
    uint64_t epoch = fixture_lease(f);
    (void)fixture_create(f, "s1");
    assert_int_equal(f->lost, 1);
    assert_int_equal(f->volume->lease.epoch, epoch + 1);
}

static void merge__while_a_snapshot_is_being_made_is_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct make m = {.id = uuid_make(), .name = "s2"};
    struct merging g = {.m = {.snapshot = s1}, .fn = volume_merge_begin};
    struct call creating;
    (void)fixture_lease(f);
    call_begin(&creating, f, fixture_do_create, &m);
    fixture_wait_quiesced(f, 1);
    assert_int_equal(call(f, fixture_do_merge, &g), SNAP_EBUSY);
    assert_int_equal(call(f, fixture_do_ready, NULL), 0);
    assert_int_equal(call_wait(&creating), 0);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_OK);
}

/* -- a new head and what waits for the old one ----------------------------------------------------
 */

static void create__puts_that_wait_for_the_head_before_hear_that_it_is_another(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct make m = {.id = uuid_make(), .name = "s2"};
    struct call putting, creating;
    struct batch b = fixture_batch(s1, fixture_lease(f), 0, 5, 0);
    fixture_set_busy(f, s1, true);
    call_begin(&putting, f, fixture_do_put, &b);
    call_begin(&creating, f, fixture_do_create, &m);
    fixture_wait_quiesced(f, 1);
    assert_true(call_still_waits(&putting));
    assert_int_equal(call(f, fixture_do_ready, NULL), 0);
    assert_int_equal(call_wait(&creating), 0);
    assert_int_equal(call_wait(&putting), SNAP_ESTALE);
    fixture_set_busy(f, s1, false);
}

/* -- merging what is not sound
 * --------------------------------------------------------------------- */

static void merge__of_an_invalid_one_is_refused(void **state)
{
    struct fixture *f = *state;
    struct make m = {.id = uuid_make(), .name = "s1", .limit_bytes = 8 * CHUNK_BYTES};
    struct merging g = {.m = {.snapshot = m.id}, .fn = volume_merge_begin};
    assert_int_equal(call(f, fixture_do_create, &m), 0);
    f->volume->record.full_policy = FULL_INVALIDATE;
    struct batch b = fixture_batch(m.id, fixture_lease(f), 0, 20, 0);
    assert_int_equal(call(f, fixture_do_put, &b), 0);
    assert_int_equal(call(f, fixture_do_merge, &g), SNAP_EINVALID);
    assert_int_equal(fixture_look(f, m.id).state, SNAPSHOT_INVALID);
}

static void merge__store_whose_flush_failed_is_opened_again(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct merging g = {.m = {.snapshot = s1}, .fn = volume_merge_begin};
    fixture_put(f, s1, fixture_lease(f), 10, 3, 0);
    assert_int_equal(call(f, fixture_do_merge, &g), 0);
    g.fn = volume_merge_prepare;
    assert_int_equal(call(f, fixture_do_merge, &g), 0);
    g.m.commit_table_len = 3;
    g.m.commit_count = 1;
    g.fn = volume_merge_commit;
    atomic_store(&flushes_fail, 1);
    assert_true(call(f, fixture_do_merge, &g) < 0);
    assert_int_equal(atomic_load(&flushes_fail), 0);
    fixture_wait_state(f, s1, SNAPSHOT_MERGING);
    g.fn = volume_merge_begin;
    assert_int_equal(call(f, fixture_do_merge, &g), 0);
    g.fn = volume_merge_prepare;
    assert_int_equal(call(f, fixture_do_merge, &g), 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(create__waits_for_the_puts_to_the_head_before),
        CASE(merge__begins_when_the_puts_before_it_have_ended),
        CASE(check__waits_for_the_puts_and_is_alone),
        CASE(check__lets_a_fold_go_on_that_has_waited_for_it),
        CASE(lease__that_is_being_taken_is_stale_and_sound_again_if_that_fails),
        CASE(guard__whose_lease_is_being_taken_is_away),
        CASE(lease__release_behind_a_theft_releases_nothing),
        CASE(create__writer_whose_lease_is_being_given_is_asked_to_stand_still),
        CASE(create__lease_is_sealed_while_the_head_is_being_recorded),
        CASE(create__refused_behind_another_lets_the_writer_stand_still_for_that),
        CASE(create__writer_that_comes_back_is_asked_again),
        CASE(create__over_a_silent_writer_tells_it_that_it_has_lost_the_lease),
        CASE(merge__while_a_snapshot_is_being_made_is_refused),
        CASE(create__puts_that_wait_for_the_head_before_hear_that_it_is_another),
        CASE(merge__of_an_invalid_one_is_refused),
        CASE(merge__store_whose_flush_failed_is_opened_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
