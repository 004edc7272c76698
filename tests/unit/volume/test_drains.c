/* SPDX-License-Identifier: Apache-2.0 */
/* What has to end before the next may begin, on a remote volume: puts before a new head, a merge
 * or a check; the giving of a lease before a new head, and the other way round; and what is
 * refused while a record is on its way to the disk.
 *
 * fdatasync() is this program's own: the threads engine calls it. A case stops the next one of a
 * COW file, or the next saving of a record, and sees what goes on beside. */
#include "tests/unit/volume/volume_fixture.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define LONG_NS UINT64_C(10000000000)

static _Atomic ino_t stop_ino; /* its next flush waits */
static atomic_int flushes_fail;
static atomic_bool stop_save, save_fails; /* the next one */
static sem_t stopped, go_on;
static struct volume_storage storage;

int fdatasync(int fd)
{
    struct stat st;
    ino_t ino = fstat(fd, &st) == 0 ? st.st_ino : 0;
    if (ino != 0 && atomic_compare_exchange_strong(&stop_ino, &ino, 0)) {
        sem_post(&stopped);
        sem_wait(&go_on);
    }
    if (fixture_take_one(&flushes_fail)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

static int save(void *user, const char *dir, const struct volume_record *r, struct err *reterr)
{
    if (atomic_exchange(&stop_save, false)) {
        sem_post(&stopped);
        sem_wait(&go_on);
    }
    if (atomic_exchange(&save_fails, false))
        return err_set(reterr, SNAP_EIO, "no");
    return volume_storage_files.save(user, dir, r, reterr);
}

static int setup(void **state)
{
    atomic_store(&stop_ino, 0);
    atomic_store(&flushes_fail, 0);
    atomic_store(&stop_save, false);
    atomic_store(&save_fails, false);
    sem_init(&stopped, 0, 0);
    sem_init(&go_on, 0, 0);
    int rc = fixture_setup(state);
    struct fixture *f = *state;
    storage = volume_storage_files;
    storage.save = save;
    f->env.storage = &storage;
    f->volume->lease.ttl_ns = LONG_NS; /* no lease ends by itself, however slow the machine */
    return rc;
}

static void wait_stopped(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    if (sem_timedwait(&stopped, &until) < 0)
        fail_msg("nothing came by");
}

static bool still_waits(struct call *c)
{
    int n = 0;
    (void)usleep(60000);
    assert_int_equal(sem_getvalue(&c->done, &n), 0);
    return n == 0;
}

static void wait_quiesced(const struct fixture *f, unsigned times)
{
    for (int i = 0; i < 4000 && f->quiesced < times; i++)
        (void)usleep(1000);
    assert_int_equal(f->quiesced, times);
}

/* -- a put that waits for its flush -------------------------------------------------------- */

static void begin_put(struct fixture *f, struct uuid head, struct batch *b, struct call *c)
{
    char path[LIMIT_PATH_BYTES];
    struct stat st;
    assert_int_equal(stat(fixture_cow_path(f, head, path, sizeof path), &st), 0);
    *b = fixture_batch(head, f->volume->lease.epoch, 0, 5, 100);
    atomic_store(&stop_ino, st.st_ino);
    call_begin(c, f, fixture_do_put, b);
    wait_stopped();
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
    wait_quiesced(f, 1);
    call_begin(&ready, f, fixture_do_ready, NULL);
    assert_true(still_waits(&creating));
    sem_post(&go_on);
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
    assert_true(still_waits(&merging));
    sem_post(&go_on);
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
    assert_true(still_waits(&checking));
    assert_int_equal(call(f, fixture_do_check, &other), SNAP_EBUSY);
    assert_int_equal(call(f, fixture_do_delete, &spec), SNAP_EBUSY);
    sem_post(&go_on);
    assert_int_equal(call_wait(&putting), 0);
    assert_int_equal(call_wait(&checking), 0);
    assert_true(g.check.sound);
    assert_int_equal(g.check.exceptions, 5);
    assert_int_equal(fixture_look(f, s1).nodes, 2);
}

static void do_set_busy(struct call *c)
{
    struct snapshot *s = volume_snapshot_find(c->f->volume, c->arg);
    s->busy = !s->busy;
    call_end(c, 0, NULL);
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
    assert_int_equal(call(f, do_set_busy, &s1), 0); /* as if that one were being checked */
    begin_put(f, s3, &b, &putting);
    call_begin(&checking, f, fixture_do_check, &g);
    assert_int_equal(call(f, fixture_do_delete, &spec), 0);
    assert_true(still_waits(&checking));
    assert_true(fixture_look(f, s2).hidden);
    assert_int_equal(call(f, do_set_busy, &s1), 0);
    sem_post(&go_on);
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
        atomic_store(&stop_save, true);
        call_begin(&taking, f, fixture_do_acquire, &t);
        wait_stopped();
        assert_int_equal(call(f, do_renew, NULL), SNAP_ESTALE);
        sem_post(&go_on);
        assert_int_equal(call_wait(&taking), fails == 1 ? SNAP_EIO : 0);
        assert_int_equal(call(f, do_renew, NULL), fails == 1 ? 0 : SNAP_ESTALE);
    }
    assert_int_equal(f->volume->lease.epoch, epoch + 1);
}

static void do_acquire_as_guard(struct call *c)
{
    struct fixture *f = c->f;
    struct volume_lease_request r = {.ask = {.identity = "w", .instance = f->instance},
                                     .origin_size_bytes = CHUNKS * CHUNK_BYTES,
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
    atomic_store(&stop_save, true);
    call_begin(&taking, f, fixture_do_acquire, &t);
    wait_stopped();
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_UNVERIFIED);
    sem_post(&go_on);
    assert_int_equal(call_wait(&taking), 0);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_UNVERIFIED);
}

static void do_release(struct call *c)
{
    struct volume *v = c->f->volume;
    volume_lease_release(v, "w", v->lease.epoch, call_end, c);
}

/* Two that change the lease, one behind the other: the second is of an epoch that is gone. */
struct two {
    struct call calls[2];
};

static void do_two(struct call *c)
{
    struct two *t = c->arg;
    for (unsigned i = 0; i < 2; i++)
        t->calls[i].fn(&t->calls[i]);
    call_end(c, 0, NULL);
}

static int nothing_change(struct volume_commit *c, struct volume_record *next, struct err *reterr)
{
    (void)c;
    (void)next;
    (void)reterr;
    return 0;
}

static void nothing_done(struct volume_commit *c, int code, const struct err *err)
{
    call_end(c->user, code, err);
}

static void do_nothing(struct call *c)
{
    struct volume_commit *commit = c->arg;
    *commit = (struct volume_commit){.change = nothing_change, .done = nothing_done, .user = c};
    volume_commit_start(c->f->volume, commit);
}

static void lease__release_behind_a_theft_releases_nothing(void **state)
{
    struct fixture *f = *state;
    struct writer t = thief(f);
    struct volume_commit commit;
    struct call before;
    struct two two = {
        .calls = {{.fn = fixture_do_acquire, .f = f, .arg = &t}, {.fn = do_release, .f = f}}};
    uint64_t epoch = fixture_lease(f);
    sem_init(&two.calls[0].done, 0, 0);
    sem_init(&two.calls[1].done, 0, 0);
    atomic_store(&stop_save, true);
    call_begin(&before, f, do_nothing, &commit);
    wait_stopped();
    assert_int_equal(call(f, do_two, &two), 0);
    sem_post(&go_on);
    assert_int_equal(call_wait(&before), 0);
    assert_int_equal(call_wait(&two.calls[0]), 0);
    assert_int_equal(call_wait(&two.calls[1]), SNAP_ESTALE);
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
    atomic_store(&stop_save, true);
    call_begin(&acquiring, f, fixture_do_acquire, &w);
    wait_stopped();
    call_begin(&creating, f, fixture_do_create, &m);
    assert_true(still_waits(&creating));
    sem_post(&go_on);
    assert_int_equal(call_wait(&acquiring), 0);
    wait_quiesced(f, 1);
    assert_true(still_waits(&creating));
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
    wait_quiesced(f, 1);
    atomic_store(&stop_save, true);
    call_begin(&ready, f, fixture_do_ready, NULL);
    wait_stopped();
    call_begin(&again, f, fixture_do_acquire, &w); /* its own: it has not heard yet */
    assert_true(still_waits(&again));
    struct batch b = fixture_batch(s1, w.epoch, 0, 5, 0);
    assert_int_equal(call(f, fixture_do_put, &b), SNAP_ESTALE);
    sem_post(&go_on);
    assert_int_equal(call_wait(&creating), 0);
    assert_int_equal(call_wait(&ready), 0);
    assert_int_equal(call_wait(&again), 0);
    assert_int_equal(f->volume->lease.epoch, w.epoch);
    fixture_put(f, m.id, w.epoch, 0, 5, 0);
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
    wait_quiesced(f, 1);
    assert_int_equal(call(f, do_gone, NULL), 0);
    assert_int_equal(call(f, fixture_do_acquire, &w), 0);
    wait_quiesced(f, 2);
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
    wait_quiesced(f, 1);
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
    assert_int_equal(call(f, do_set_busy, &s1), 0);
    call_begin(&putting, f, fixture_do_put, &b);
    call_begin(&creating, f, fixture_do_create, &m);
    wait_quiesced(f, 1);
    assert_true(still_waits(&putting));
    assert_int_equal(call(f, fixture_do_ready, NULL), 0);
    assert_int_equal(call_wait(&creating), 0);
    assert_int_equal(call_wait(&putting), SNAP_ESTALE);
    assert_int_equal(call(f, do_set_busy, &s1), 0);
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
    for (int i = 0; i < 4000 && fixture_look(f, s1).state != SNAPSHOT_MERGING; i++)
        (void)usleep(1000);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_MERGING);
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
        CASE(create__writer_that_comes_back_is_asked_again),
        CASE(create__over_a_silent_writer_tells_it_that_it_has_lost_the_lease),
        CASE(merge__while_a_snapshot_is_being_made_is_refused),
        CASE(create__puts_that_wait_for_the_head_before_hear_that_it_is_another),
        CASE(merge__of_an_invalid_one_is_refused),
        CASE(merge__store_whose_flush_failed_is_opened_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
