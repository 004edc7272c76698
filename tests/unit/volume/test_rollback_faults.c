/* SPDX-License-Identifier: Apache-2.0 */
/* A rollback whose disk fails: what a failed flush has taken back is written again, whoever asked
 * for that flush, and a second try begins with what the first has left.
 *
 * fdatasync() and pwritev2() are this program's own: the threads engine calls them. A flush of the
 * origin that fails takes back what was written there, as a disk does that drops what it cannot
 * write: the next one that succeeds does not bring it back. */
#include "tests/unit/volume/disk_fixture.h"
#include "tests/unit/volume/rollback_fixture.h"

static struct {
    char path[LIMIT_PATH_BYTES];
    ino_t ino;
    atomic_int flushes_fail;  /* so many */
    atomic_llong write_fails; /* the next one at or behind it; -1: none */
    uint8_t before[SIZE];     /* what a failed flush leaves */
} origin;

static atomic_bool full; /* nothing else grows */

static bool is_origin(int fd)
{
    return disk_ino(fd) == origin.ino;
}

static void origin_look(uint8_t *ret)
{
    int fd = open(origin.path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, ret, SIZE, 0), SIZE);
    (void)close(fd);
}

static void origin_lose(void)
{
    int fd = open(origin.path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || pwrite(fd, origin.before, SIZE, 0) != SIZE)
        abort();
    (void)close(fd);
}

int fdatasync(int fd)
{
    if (is_origin(fd) && disk_take_one(&origin.flushes_fail)) {
        origin_lose();
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    long long from = atomic_load(&origin.write_fails);
    if (from >= 0 && offset >= from && is_origin(fd)) {
        atomic_store(&origin.write_fails, -1);
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pwritev2, fd, iov, count, offset, 0, flags);
}

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    if (atomic_load(&full) && !is_origin(fd)) {
        errno = ENOSPC;
        return -1;
    }
    return (int)syscall(SYS_fallocate, fd, mode, offset, len);
}

/* s1's old content is in two stretches, of two devices: up to here, and from here on. */
enum { OTHER = 13 * CHUNK_BYTES };

static void make(struct fixture *f, struct three *t)
{
    atomic_store(&origin.flushes_fail, 0);
    atomic_store(&origin.write_fails, -1);
    atomic_store(&full, false);
    three_make(f, t);
    (void)fixture_origin_path(f, origin.path, sizeof origin.path);
    origin.ino = disk_origin_ino(f);
    origin_look(origin.before);
}

/* On the disk, whatever is kept of it in memory. */
static void expect_on_disk(const uint8_t want[SECTORS])
{
    static uint8_t got[SIZE];
    origin_look(got);
    for (unsigned i = 0; i < SIZE; i++)
        if (got[i] != want[i / SECTOR_BYTES])
            fail_msg("byte %u of the origin is %u, not %u", i, got[i], want[i / SECTOR_BYTES]);
}

/* -- the rollback ------------------------------------------------------------------------- */

/* What fails from the moment on in which it is begun. */
struct failing {
    struct begin begin;
    int flushes_fail;
    long long write_fails;
    bool full;
};

static void fail_now(struct begin *b)
{
    const struct failing *x = CONTAINER_OF(b, struct failing, begin);
    atomic_store(&origin.flushes_fail, x->flushes_fail);
    atomic_store(&origin.write_fails, x->write_fails);
    atomic_store(&full, x->full);
}

static struct begin begin_failing(const struct three *t)
{
    return (struct begin){.spec = {.job = uuid_make(), .snapshot = t->s1}, .then = fail_now};
}

static void rollback__flush_that_fails_has_it_all_written_again(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make(f, &t);
    struct failing x = {.begin = begin_failing(&t), .flushes_fail = 1, .write_fails = -1};
    assert_int_equal(call(f, fixture_do_begin, &x.begin), 0);
    (void)fixture_job_waits(f, x.begin.spec.job, "");
    assert_int_equal(atomic_load(&origin.flushes_fail), 0);
    fixture_start_jobs(f);
    assert_int_equal(fixture_job_end(f, x.begin.spec.job), JOB_DONE);
    expect_on_disk(t.at1);
    tree_expect(f, ITSELF, t.at1, "volume");
}

/* It waits for its second part when a client's flush fails, which takes its first one back. */
static void rollback__flush_of_another_that_fails_has_it_all_written_again(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make(f, &t);
    struct failing x = {.begin = begin_failing(&t), .write_fails = OTHER};
    assert_int_equal(call(f, fixture_do_begin, &x.begin), 0);
    (void)fixture_job_waits(f, x.begin.spec.job, "");
    atomic_store(&origin.flushes_fail, 1);
    assert_int_equal(fixture_op(f, ITSELF, VOLUME_FLUSH, 0, 0), SNAP_EIO);
    fixture_start_jobs(f); /* the second part, and its flush, which tells */
    (void)fixture_job_waits(f, x.begin.spec.job, "has failed meanwhile");
    fixture_start_jobs(f); /* all again, and that is that */
    assert_int_equal(fixture_job_end(f, x.begin.spec.job), JOB_DONE);
    expect_on_disk(t.at1);
    tree_expect(f, ITSELF, t.at1, "volume");
}

/* -- what it keeps finds no room, or is away ------------------------------------------------------
 */

static struct uuid undo_of(const struct fixture *f)
{
    const struct volume_record *r = &f->volume->record;
    assert_true(r->snapshots[r->snapshot_count - 1].undo);
    return r->snapshots[r->snapshot_count - 1].id;
}

/* The policy is for writes of others: the rollback itself reads through what it keeps. */
static void rollback__whose_undo_is_full_waits_though_the_policy_is_to_invalidate(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make(f, &t);
    f->volume->record.full_policy = FULL_INVALIDATE;
    struct failing x = {.begin = begin_failing(&t), .write_fails = -1, .full = true};
    assert_int_equal(call(f, fixture_do_begin, &x.begin), 0);
    (void)fixture_job_waits(f, x.begin.spec.job, "");
    assert_int_equal(fixture_look(f, undo_of(f)).state, SNAPSHOT_OK);
    assert_int_equal(fixture_look(f, t.s1).state, SNAPSHOT_OK);
    atomic_store(&full, false);
    fixture_start_jobs(f);
    assert_int_equal(fixture_job_end(f, x.begin.spec.job), JOB_DONE);
    tree_expect(f, ITSELF, t.at1, "volume");
    tree_expect(f, t.s1, t.at1, "s1");
}

static void rollback__whose_undo_is_away_waits_though_the_policy_is_to_invalidate(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make(f, &t);
    f->volume->record.full_policy = FULL_INVALIDATE;
    struct failing x = {.begin = begin_failing(&t), .write_fails = 0};
    assert_int_equal(call(f, fixture_do_begin, &x.begin), 0);
    (void)fixture_job_waits(f, x.begin.spec.job, "");
    struct uuid undo = undo_of(f);
    for (unsigned back = 0; back < 2; back++) {
        fixture_reopen_with(f, undo, back ? 'S' : 'x');
        if (!back)
            (void)fixture_job_waits(f, x.begin.spec.job, "");
        assert_int_equal(fixture_look(f, undo).state, back ? SNAPSHOT_OK : SNAPSHOT_DAMAGED);
    }
    assert_int_equal(fixture_job_end(f, x.begin.spec.job), JOB_DONE);
    tree_expect(f, ITSELF, t.at1, "volume");
    tree_expect(f, t.s1, t.at1, "s1");
}

/* -- begun twice ---------------------------------------------------------------------------- */

/* What the first try has kept, and is not folded yet, is older than what was written since: the
 * second try keeps that under a uuid of its own. */
static void rollback__same_job_begun_again_undoes_to_what_was_written_between(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make(f, &t);
    struct volume_storage storage = volume_storage_files;
    storage.save = save_no_rollback;
    f->env.storage = &storage;
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}};
    fixture_set_busy(f, t.s2, true); /* so nothing is folded into it */
    assert_int_equal(call(f, fixture_do_begin, &b), SNAP_EIO);
    assert_int_equal(tree_nodes(f), 3);
    f->env.storage = &volume_storage_files;
    tree_write(f, ITSELF, 20, 60, 7);
    tree_fill(t.now, 20, 60, 7);
    b.cancel = true;
    assert_int_equal(call(f, fixture_do_begin, &b), 0);
    assert_int_equal(tree_nodes(f), 4);
    assert_int_equal(fixture_job_end(f, b.spec.job), JOB_CANCELLED);
    tree_expect(f, ITSELF, t.now, "volume");
    fixture_set_busy(f, t.s2, false);
    fixture_start_jobs(f);
    tree_settle(f, 2);
    tree_expect(f, ITSELF, t.now, "volume, when all is folded");
    tree_expect(f, t.s1, t.at1, "s1");
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup_hosted, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(rollback__flush_that_fails_has_it_all_written_again),
        CASE(rollback__flush_of_another_that_fails_has_it_all_written_again),
        CASE(rollback__whose_undo_is_full_waits_though_the_policy_is_to_invalidate),
        CASE(rollback__whose_undo_is_away_waits_though_the_policy_is_to_invalidate),
        CASE(rollback__same_job_begun_again_undoes_to_what_was_written_between),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
