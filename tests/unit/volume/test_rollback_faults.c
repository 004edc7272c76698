/* SPDX-License-Identifier: Apache-2.0 */
/* A rollback whose disk fails: what a failed flush has taken back is written again, whoever asked
 * for that flush, and a second try begins with what the first has left.
 *
 * fdatasync() and pwritev2() are this program's own: the threads engine calls them. A flush of the
 * origin that fails takes back what was written there, as a disk does that drops what it cannot
 * write: the next one that succeeds does not bring it back. */
#include "tests/unit/volume/tree_fixture.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { SIZE = CHUNKS * CHUNK_BYTES };

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
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_ino == origin.ino;
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
    if (atomic_load(&origin.flushes_fail) > 0 && is_origin(fd)) {
        atomic_fetch_sub(&origin.flushes_fail, 1);
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

/* s1: all 1; s2: the first 100 sectors are 2; now: 50-149 are 3. So s1's old content is in two
 * stretches, of two devices: up to OTHER, and from there. */
enum { OTHER = 13 * CHUNK_BYTES };

struct three {
    struct uuid s1, s2;
    uint8_t at1[SECTORS], now[SECTORS];
};

static void make_three(struct fixture *f, struct three *t)
{
    struct err err = ERR_INIT;
    struct stat st;
    atomic_store(&origin.flushes_fail, 0);
    atomic_store(&origin.write_fails, -1);
    atomic_store(&full, false);
    tree_write(f, ITSELF, 0, SECTORS, 1);
    tree_fill(t->at1, 0, SECTORS, 1);
    t->s1 = fixture_create(f, "s1");
    tree_write(f, ITSELF, 0, 100, 2);
    memcpy(t->now, t->at1, SECTORS);
    tree_fill(t->now, 0, 100, 2);
    t->s2 = fixture_create(f, "s2");
    tree_write(f, ITSELF, 50, 100, 3);
    tree_fill(t->now, 50, 100, 3);
    char dir[LIMIT_PATH_BYTES];
    assert_int_equal(volume_dir_format(f->env.state_dir, &f->id, dir, sizeof dir, &err), 0);
    (void)snprintf(origin.path, sizeof origin.path, "%.200s/origin", dir);
    assert_int_equal(stat(origin.path, &st), 0);
    origin.ino = st.st_ino;
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

/* From the moment on in which it is begun, and nothing of it is done. */
struct begin {
    struct rollback_spec spec;
    int flushes_fail;
    long long write_fails;
    bool full;
    struct call *call;
};

static void begun(void *user, int code, const struct err *err)
{
    struct begin *b = user;
    atomic_store(&origin.flushes_fail, b->flushes_fail);
    atomic_store(&origin.write_fails, b->write_fails);
    atomic_store(&full, b->full);
    call_end(b->call, code, err);
}

static void do_begin(struct call *c)
{
    struct begin *b = c->arg;
    b->call = c;
    volume_rollback_start(c->f->volume, &b->spec, begun, b);
}

static void do_start(struct call *c)
{
    hand_down_start(c->f->volume);
    call_end(c, 0, NULL);
}

/* why: some words of what it says. */
static void until_it_waits(struct fixture *f, struct uuid job, const char *why)
{
    struct showing g = {.job = job};
    for (int i = 0; i < 4000; i++) {
        assert_int_equal(call(f, tree_do_show, &g), 0);
        if (g.status.state == JOB_WAITING && strstr(g.status.text, why) != NULL)
            return;
        (void)usleep(1000);
    }
    fail_msg("the job does not wait for it, but is %s: %s", volume_job_state_name(g.status.state),
             g.status.text);
}

static void rollback__flush_that_fails_has_it_all_written_again(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    struct begin b = {
        .spec = {.job = uuid_make(), .snapshot = t.s1}, .flushes_fail = 1, .write_fails = -1};
    assert_int_equal(call(f, do_begin, &b), 0);
    until_it_waits(f, b.spec.job, "");
    assert_int_equal(atomic_load(&origin.flushes_fail), 0);
    (void)call(f, do_start, NULL);
    assert_int_equal(tree_job_end(f, b.spec.job), JOB_DONE);
    expect_on_disk(t.at1);
    tree_expect(f, ITSELF, t.at1, "volume");
}

/* It waits for its second part when a client's flush fails, which takes its first one back. */
static void rollback__flush_of_another_that_fails_has_it_all_written_again(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}, .write_fails = OTHER};
    assert_int_equal(call(f, do_begin, &b), 0);
    until_it_waits(f, b.spec.job, "");
    atomic_store(&origin.flushes_fail, 1);
    assert_int_equal(fixture_op(f, ITSELF, VOLUME_FLUSH, 0, 0), SNAP_EIO);
    (void)call(f, do_start, NULL); /* the second part, and its flush, which tells */
    until_it_waits(f, b.spec.job, "has failed meanwhile");
    (void)call(f, do_start, NULL); /* all again, and that is that */
    assert_int_equal(tree_job_end(f, b.spec.job), JOB_DONE);
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
    make_three(f, &t);
    f->volume->record.full_policy = FULL_INVALIDATE;
    struct begin b = {
        .spec = {.job = uuid_make(), .snapshot = t.s1}, .write_fails = -1, .full = true};
    assert_int_equal(call(f, do_begin, &b), 0);
    until_it_waits(f, b.spec.job, "");
    assert_int_equal(fixture_look(f, undo_of(f)).state, SNAPSHOT_OK);
    assert_int_equal(fixture_look(f, t.s1).state, SNAPSHOT_OK);
    atomic_store(&full, false);
    (void)call(f, do_start, NULL);
    assert_int_equal(tree_job_end(f, b.spec.job), JOB_DONE);
    tree_expect(f, ITSELF, t.at1, "volume");
    tree_expect(f, t.s1, t.at1, "s1");
}

static void set_magic(const struct fixture *f, struct uuid snapshot, uint8_t magic)
{
    char path[LIMIT_PATH_BYTES];
    int fd = open(fixture_cow_path(f, snapshot, path, sizeof path), O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0 && pwrite(fd, &magic, 1, 0) == 1);
    (void)close(fd);
}

static void rollback__whose_undo_is_away_waits_though_the_policy_is_to_invalidate(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    f->volume->record.full_policy = FULL_INVALIDATE;
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}, .write_fails = 0};
    assert_int_equal(call(f, do_begin, &b), 0);
    until_it_waits(f, b.spec.job, "");
    struct uuid undo = undo_of(f);
    for (unsigned back = 0; back < 2; back++) {
        assert_int_equal(call(f, fixture_do_close, NULL), 0);
        set_magic(f, undo, back ? 'S' : 'x');
        assert_int_equal(call(f, fixture_do_open, NULL), 0);
        if (!back)
            until_it_waits(f, b.spec.job, "");
        assert_int_equal(fixture_look(f, undo).state, back ? SNAPSHOT_OK : SNAPSHOT_DAMAGED);
    }
    assert_int_equal(tree_job_end(f, b.spec.job), JOB_DONE);
    tree_expect(f, ITSELF, t.at1, "volume");
    tree_expect(f, t.s1, t.at1, "s1");
}

/* -- begun twice ---------------------------------------------------------------------------- */

static int save_no_rollback(void *user, const char *dir, const struct volume_record *r,
                            struct err *reterr)
{
    if (!uuid_is_zero(&r->rollback.job))
        return err_set(reterr, SNAP_EIO, "no");
    return volume_storage_files.save(user, dir, r, reterr);
}

static void do_set_busy(struct call *c)
{
    struct snapshot *s = volume_snapshot_find(c->f->volume, c->arg);
    s->busy = !s->busy;
    call_end(c, 0, NULL);
}

static void begun_and_cancel(void *user, int code, const struct err *err)
{
    struct begin *b = user;
    if (code == 0)
        volume_job_cancel(b->call->f->volume, &b->spec.job, call_end, b->call);
    else
        call_end(b->call, code, err);
}

static void do_begin_and_cancel(struct call *c)
{
    struct begin *b = c->arg;
    b->call = c;
    volume_rollback_start(c->f->volume, &b->spec, begun_and_cancel, b);
}

/* What the first try has kept, and is not folded yet, is older than what was written since: the
 * second try keeps that under a uuid of its own. */
static void rollback__same_job_begun_again_undoes_to_what_was_written_between(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    struct volume_storage storage = volume_storage_files;
    storage.save = save_no_rollback;
    f->env.storage = &storage;
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}, .write_fails = -1};
    assert_int_equal(call(f, do_set_busy, &t.s2), 0); /* so nothing is folded into it */
    assert_int_equal(call(f, do_begin, &b), SNAP_EIO);
    assert_int_equal(tree_nodes(f), 3);
    f->env.storage = &volume_storage_files;
    tree_write(f, ITSELF, 20, 60, 7);
    tree_fill(t.now, 20, 60, 7);
    assert_int_equal(call(f, do_begin_and_cancel, &b), 0);
    assert_int_equal(tree_nodes(f), 4);
    assert_int_equal(tree_job_end(f, b.spec.job), JOB_CANCELLED);
    tree_expect(f, ITSELF, t.now, "volume");
    assert_int_equal(call(f, do_set_busy, &t.s2), 0);
    (void)call(f, do_start, NULL);
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
