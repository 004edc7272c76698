/* SPDX-License-Identifier: Apache-2.0 */
/* How long a write of a hosted volume waits for a store: as long as it takes where that ends by
 * itself, 30 s for one that is to be opened again, each time anew. And what closing and opening
 * keep of clones.
 *
 * Time is this program's own, and goes ahead when a case says so; fdatasync() and pwritev2() are
 * as well: the threads engine calls them. */
#include "tests/unit/volume/disk_fixture.h"
#include "tests/unit/volume/hosted_fixture.h"

enum { LARGE = 4 << 20 };
#define SECONDS UINT64_C(1000000000)

static _Atomic uint64_t ahead_ns;
static atomic_int failures;      /* flushes that fail from now on */
static _Atomic ino_t origin_ino; /* once it is written, later_ns and later_failures hold */
static _Atomic uint64_t later_ns;
static atomic_int later_failures;
static _Atomic ino_t count_ino; /* its flushes are counted */
static atomic_int counted;

static uint64_t now_ns(void *user)
{
    (void)user;
    return clock_now_ns(clock_system()) + atomic_load(&ahead_ns);
}

static const struct clock our_clock = {.now_ns = now_ns};

int fdatasync(int fd)
{
    if (disk_ino(fd) == atomic_load(&count_ino))
        atomic_fetch_add(&counted, 1);
    if (disk_take_one(&failures)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    ino_t ino = disk_ino(fd);
    if (ino != 0 && atomic_compare_exchange_strong(&origin_ino, &ino, 0)) {
        atomic_store(&ahead_ns, atomic_load(&later_ns));
        atomic_store(&failures, atomic_load(&later_failures));
    }
    return syscall(SYS_pwritev2, fd, iov, count, offset, 0, flags);
}

static int setup(void **state)
{
    atomic_store(&ahead_ns, 0);
    atomic_store(&failures, 0);
    atomic_store(&origin_ino, 0);
    atomic_store(&count_ino, 0);
    int rc =
        fixture_setup_as(state, &(struct fixture_spec){.kind = VOLUME_HOSTED, .size_bytes = LARGE});
    struct fixture *f = *state;
    f->env.clock = &our_clock;
    return rc;
}

static struct writing one_chunk(void)
{
    static const uint8_t data[CHUNK_BYTES] = {2};
    return (struct writing){.write = {.op = VOLUME_WRITE, .len_bytes = sizeof data}, .data = data};
}

/* -- as long as it takes ---------------------------------------------------------------------- */

static void do_set_leaving(struct call *c)
{
    struct snapshot *s = volume_snapshot_find(c->f->volume, c->arg);
    s->leaving = !s->leaving;
    call_end(c, 0, NULL);
}

static void write__waits_for_a_deletion_as_long_as_it_takes(void **state)
{
    struct fixture *f = *state;
    struct writing g = one_chunk();
    struct uuid s1 = fixture_create(f, "s1");
    struct call c;
    assert_int_equal(call(f, do_set_leaving, &s1), 0);
    call_begin(&c, f, fixture_do_write, &g);
    assert_true(call_still_waits(&c));
    atomic_store(&ahead_ns, 100 * SECONDS);
    assert_true(call_still_waits(&c));
    assert_int_equal(call(f, do_set_leaving, &s1), 0);
    assert_int_equal(call_wait(&c), 0);
    fixture_expect_byte(f, s1, 0, CHUNK_BYTES, 0);
}

/* A damaged one's device is open for the check only. */
static void write__waits_for_the_check_of_a_damaged_one_as_long_as_it_takes(void **state)
{
    struct fixture *f = *state;
    struct writing g = one_chunk();
    struct uuid s1 = fixture_create(f, "s1");
    struct call c;
    fixture_reopen_with(f, s1, 'x');
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_DAMAGED);
    fixture_set_busy(f, s1, true);
    call_begin(&c, f, fixture_do_write, &g);
    assert_true(call_still_waits(&c));
    atomic_store(&ahead_ns, 100 * SECONDS);
    assert_true(call_still_waits(&c));
    fixture_set_busy(f, s1, false);
    assert_int_equal(call_wait(&c), SNAP_ECORRUPT);
}

/* -- 30 s ------------------------------------------------------------------------------------- */

static void write__gives_up_on_a_store_that_stays_away(void **state)
{
    struct fixture *f = *state;
    struct writing g = one_chunk();
    struct uuid s1 = fixture_create(f, "s1");
    struct call c;
    atomic_store(&failures, 1000);
    call_begin(&c, f, fixture_do_write, &g);
    assert_true(call_still_waits(&c));
    atomic_store(&ahead_ns, 29 * SECONDS);
    assert_true(call_still_waits(&c));
    atomic_store(&ahead_ns, 31 * SECONDS);
    assert_int_equal(call_wait(&c), SNAP_EPOISONED);
    atomic_store(&failures, 0);
    fixture_expect_byte(f, ITSELF, 0, CHUNK_BYTES, 0);
    fixture_wait_state(f, s1, SNAPSHOT_OK);
}

/* Its first part has waited; its second one does so a minute later, and for 30 s of its own. */
static void write__each_part_waits_for_itself(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    atomic_store(&later_ns, 60 * SECONDS);
    atomic_store(&later_failures, 1);
    atomic_store(&failures, 1);
    atomic_store(&origin_ino, disk_origin_ino(f));
    assert_int_equal(fixture_fill(f, ITSELF, 0, LARGE / 2, 2), 0);
    assert_int_equal(atomic_load(&ahead_ns), 60 * SECONDS);
    assert_int_equal(atomic_load(&failures), 0);
    assert_int_equal(fixture_look(f, s1).exceptions, LARGE / 2 / CHUNK_BYTES);
}

/* -- closing and opening --------------------------------------------------------------------------
 */

static void close__flushes_what_was_written_in_clones(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), c = fixture_clone(f, s1, "c");
    assert_int_equal(fixture_fill(f, c, 0, CHUNK_BYTES, 1), 0);
    for (int in_place = 0; in_place < 2; in_place++) {
        if (in_place)
            assert_int_equal(fixture_fill(f, c, 0, CHUNK_BYTES, 2), 0);
        atomic_store(&counted, 0);
        atomic_store(&count_ino, disk_cow_ino(f, c));
        assert_int_equal(call(f, fixture_do_close, NULL), 0);
        atomic_store(&count_ino, 0);
        assert_int_equal(atomic_load(&counted) > 0, in_place);
        assert_int_equal(call(f, fixture_do_open, NULL), 0);
    }
}

/* b's device is away when a, which it reads through, is written: it lacks what was there, for
 * good, though the device comes back. */
static void open__clone_that_was_given_up_stays_invalid(void **state)
{
    struct fixture *f = *state;
    f->record.full_policy = f->volume->record.full_policy = FULL_INVALIDATE;
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a");
    assert_int_equal(fixture_fill(f, a, 0, SIZE, 1), 0);
    struct uuid b = fixture_clone(f, a, "b");
    fixture_reopen_with(f, b, 'x');
    assert_int_equal(fixture_look(f, b).state, SNAPSHOT_DAMAGED);
    assert_int_equal(fixture_fill(f, a, 0, CHUNK_BYTES, 2), 0);
    assert_int_equal(fixture_look(f, b).state, SNAPSHOT_INVALID);
    fixture_reopen_with(f, b, 'S');
    assert_int_equal(fixture_look(f, b).state, SNAPSHOT_INVALID);
    assert_int_equal(fixture_look(f, a).state, SNAPSHOT_OK);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(write__waits_for_a_deletion_as_long_as_it_takes),
        CASE(write__waits_for_the_check_of_a_damaged_one_as_long_as_it_takes),
        CASE(write__gives_up_on_a_store_that_stays_away),
        CASE(write__each_part_waits_for_itself),
        CASE(close__flushes_what_was_written_in_clones),
        CASE(open__clone_that_was_given_up_stays_invalid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
