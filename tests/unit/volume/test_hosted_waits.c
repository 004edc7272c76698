/* SPDX-License-Identifier: Apache-2.0 */
/* How long a write of a hosted volume waits for a store: as long as it takes where that ends by
 * itself, 30 s for one that is to be opened again, each time anew. And what closing and opening
 * keep of clones.
 *
 * Time is this program's own, and goes ahead when a case says so; fdatasync() and pwritev2() are
 * as well: the threads engine calls them. */
#include "tests/unit/volume/volume_fixture.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { SIZE = CHUNKS * CHUNK_BYTES, LARGE = 4 << 20 };
#define SECONDS UINT64_C(1000000000)

static const struct uuid itself;
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

static ino_t ino_of(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

int fdatasync(int fd)
{
    if (ino_of(fd) == atomic_load(&count_ino))
        atomic_fetch_add(&counted, 1);
    if (fixture_take_one(&failures)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    ino_t ino = ino_of(fd);
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

static bool still_waits(struct call *c)
{
    int n = 0;
    (void)usleep(80000); /* it has tried again, and more than once */
    assert_int_equal(sem_getvalue(&c->done, &n), 0);
    return n == 0;
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

static void do_set_busy(struct call *c)
{
    struct snapshot *s = volume_snapshot_find(c->f->volume, c->arg);
    s->busy = !s->busy;
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
    assert_true(still_waits(&c));
    atomic_store(&ahead_ns, 100 * SECONDS);
    assert_true(still_waits(&c));
    assert_int_equal(call(f, do_set_leaving, &s1), 0);
    assert_int_equal(call_wait(&c), 0);
    fixture_expect_byte(f, s1, 0, CHUNK_BYTES, 0);
}

static void set_magic(const struct fixture *f, struct uuid snapshot, uint8_t magic)
{
    char path[LIMIT_PATH_BYTES];
    int fd = open(fixture_cow_path(f, snapshot, path, sizeof path), O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0 && pwrite(fd, &magic, 1, 0) == 1);
    (void)close(fd);
}

static void reopen_with(struct fixture *f, struct uuid snapshot, uint8_t magic)
{
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    set_magic(f, snapshot, magic);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
}

/* A damaged one's device is open for the check only. */
static void write__waits_for_the_check_of_a_damaged_one_as_long_as_it_takes(void **state)
{
    struct fixture *f = *state;
    struct writing g = one_chunk();
    struct uuid s1 = fixture_create(f, "s1");
    struct call c;
    reopen_with(f, s1, 'x');
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_DAMAGED);
    assert_int_equal(call(f, do_set_busy, &s1), 0);
    call_begin(&c, f, fixture_do_write, &g);
    assert_true(still_waits(&c));
    atomic_store(&ahead_ns, 100 * SECONDS);
    assert_true(still_waits(&c));
    assert_int_equal(call(f, do_set_busy, &s1), 0);
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
    assert_true(still_waits(&c));
    atomic_store(&ahead_ns, 29 * SECONDS);
    assert_true(still_waits(&c));
    atomic_store(&ahead_ns, 31 * SECONDS);
    assert_int_equal(call_wait(&c), SNAP_EPOISONED);
    atomic_store(&failures, 0);
    fixture_expect_byte(f, itself, 0, CHUNK_BYTES, 0);
    for (int i = 0; i < 4000 && fixture_look(f, s1).state != SNAPSHOT_OK; i++)
        (void)usleep(1000);
}

/* Its first part has waited; its second one does so a minute later, and for 30 s of its own. */
static void write__each_part_waits_for_itself(void **state)
{
    struct fixture *f = *state;
    char path[LIMIT_PATH_BYTES], text[UUID_TEXT_BYTES];
    struct stat st;
    struct uuid s1 = fixture_create(f, "s1");
    (void)snprintf(path, sizeof path, "%s/volumes/%s/origin", f->dir.path,
                   uuid_format(&f->id, text));
    assert_int_equal(stat(path, &st), 0);
    atomic_store(&later_ns, 60 * SECONDS);
    atomic_store(&later_failures, 1);
    atomic_store(&failures, 1);
    atomic_store(&origin_ino, st.st_ino);
    assert_int_equal(fixture_fill(f, itself, 0, LARGE / 2, 2), 0);
    assert_int_equal(atomic_load(&ahead_ns), 60 * SECONDS);
    assert_int_equal(atomic_load(&failures), 0);
    assert_int_equal(fixture_look(f, s1).exceptions, LARGE / 2 / CHUNK_BYTES);
}

/* -- closing and opening --------------------------------------------------------------------------
 */

static void close__flushes_what_was_written_in_clones(void **state)
{
    struct fixture *f = *state;
    char path[LIMIT_PATH_BYTES];
    struct stat st;
    struct uuid s1 = fixture_create(f, "s1"), c = fixture_clone(f, s1, "c");
    assert_int_equal(stat(fixture_cow_path(f, c, path, sizeof path), &st), 0);
    assert_int_equal(fixture_fill(f, c, 0, CHUNK_BYTES, 1), 0);
    for (int in_place = 0; in_place < 2; in_place++) {
        if (in_place)
            assert_int_equal(fixture_fill(f, c, 0, CHUNK_BYTES, 2), 0);
        atomic_store(&counted, 0);
        atomic_store(&count_ino, st.st_ino);
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
    reopen_with(f, b, 'x');
    assert_int_equal(fixture_look(f, b).state, SNAPSHOT_DAMAGED);
    assert_int_equal(fixture_fill(f, a, 0, CHUNK_BYTES, 2), 0);
    assert_int_equal(fixture_look(f, b).state, SNAPSHOT_INVALID);
    reopen_with(f, b, 'S');
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
