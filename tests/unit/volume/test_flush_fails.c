/* SPDX-License-Identifier: Apache-2.0 */
/* A flush that fails beside others, and beside writes: whoever asked, or wrote, hears of it.
 *
 * fdatasync() and pwritev2() are this program's own: the threads engine calls them, and a case
 * has them stop or fail. */
#include "tests/unit/volume/volume_fixture.h"

#include "daemon/volume/job.h"
#include "daemon/volume/verify.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>

static const struct uuid itself; /* nil: the volume */
static const uint8_t content[2 * CHUNK_BYTES] = {1};

static atomic_int passes, failures; /* so many flushes succeed, then so many fail */
static atomic_bool flush_stops;     /* the next one says that it has begun, and waits */
static atomic_bool write_stops;     /* likewise the next write, when it has happened */
static sem_t begun, go_on;

static void stop_here(atomic_bool *stops)
{
    if (!atomic_exchange(stops, false))
        return;
    sem_post(&begun);
    sem_wait(&go_on);
}

int fdatasync(int fd)
{
    stop_here(&flush_stops);
    if (!fixture_take_one(&passes) && fixture_take_one(&failures)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    ssize_t n = syscall(SYS_pwritev2, fd, iov, count, offset, 0, flags);
    stop_here(&write_stops);
    return n;
}

static int setup(void **state)
{
    sem_init(&begun, 0, 0);
    sem_init(&go_on, 0, 0);
    return fixture_setup_as(state,
                            &(struct fixture_spec){.kind = VOLUME_HOSTED, .checksums = true});
}

/* -- clients ------------------------------------------------------------------------------- */

struct client {
    struct uuid id;
    struct writing g;
    struct call call;
};

/* len 0: a flush. */
static void client_begin(struct fixture *f, struct client *c, struct uuid node, uint64_t offset,
                         uint64_t len, bool fua)
{
    c->g = (struct writing){.write = {.node = node,
                                      .op = len > 0 ? VOLUME_WRITE : VOLUME_FLUSH,
                                      .client = c->id,
                                      .offset_bytes = offset,
                                      .len_bytes = len,
                                      .fua = fua},
                            .data = len > 0 ? content : NULL};
    call_begin(&c->call, f, fixture_do_write, &c->g);
}

static int client_write(struct fixture *f, struct client *c, struct uuid node)
{
    client_begin(f, c, node, 0, CHUNK_BYTES, false);
    return call_wait(&c->call);
}

static int client_flush(struct fixture *f, struct client *c, struct uuid node)
{
    client_begin(f, c, node, 0, 0, false);
    return call_wait(&c->call);
}

static struct client client_new(void)
{
    return (struct client){.id = uuid_make()};
}

/* Of a clone that has its first two chunks, which are written in place from now on. */
static struct uuid clone_new(struct fixture *f)
{
    struct uuid c = fixture_clone(f, fixture_create(f, "s1"), "c");
    assert_int_equal(fixture_fill(f, c, 0, 2 * CHUNK_BYTES, 1), 0);
    return c;
}

/* Until it is open again. */
static void wait_for(struct fixture *f, struct uuid node)
{
    struct look l;
    for (int i = 0; i < 2000; i++) {
        l = fixture_look(f, node);
        if (!l.there || l.state == SNAPSHOT_OK)
            return;
        (void)usleep(2000);
    }
    fail_msg("it is not opened again");
}

/* -- cases ----------------------------------------------------------------------------------- */

static void do_count_requests(struct call *c)
{
    call_end(c, (int)blk_engine_inflight(c->f->shard->engine), NULL);
}

/* Its own flush comes after the one that fails, finds nothing to do, and would succeed. */
static void write__whose_flush_waits_for_one_that_fails_fails(void **state)
{
    struct fixture *f = *state;
    struct client a = client_new(), b = client_new();
    assert_int_equal(client_write(f, &b, itself), 0);
    atomic_store(&flush_stops, true);
    client_begin(f, &b, itself, 0, 0, false);
    sem_wait(&begun);
    client_begin(f, &a, itself, 10, CHUNK_BYTES, true); /* in pieces, then a flush */
    while (call(f, do_count_requests, NULL) != 3)       /* b's at two devices, a's that waits */
        (void)usleep(1000);
    atomic_store(&failures, 1);
    sem_post(&go_on);
    assert_int_equal(call_wait(&b.call), SNAP_EIO);
    assert_int_equal(call_wait(&a.call), SNAP_EIO);
    assert_int_equal(atomic_load(&failures), 0);
    client_begin(f, &a, itself, 10, CHUNK_BYTES, true);
    assert_int_equal(call_wait(&a.call), 0);
}

/* Those that come during one become one, which is one failure; each who asked hears of it. */
static void flush__of_several_that_failed_is_told_to_each_once(void **state)
{
    struct fixture *f = *state;
    struct client first = client_new(), c[] = {client_new(), client_new(), client_new()};
    atomic_store(&flush_stops, true);
    client_begin(f, &first, itself, 0, 0, false);
    sem_wait(&begun);
    for (unsigned i = 0; i < ARRAY_LEN(c); i++)
        assert_int_equal(client_write(f, &c[i], itself), 0);
    for (unsigned i = 0; i < ARRAY_LEN(c); i++)
        client_begin(f, &c[i], itself, 0, 0, false);
    (void)fixture_look(f, itself); /* they have been submitted */
    atomic_store(&passes, 1);
    atomic_store(&failures, 1);
    sem_post(&go_on);
    assert_int_equal(call_wait(&first.call), 0);
    for (unsigned i = 0; i < ARRAY_LEN(c); i++)
        assert_int_equal(call_wait(&c[i].call), SNAP_EIO);
    assert_int_equal(atomic_load(&failures), 0);
    for (unsigned i = 0; i < ARRAY_LEN(c); i++)
        assert_int_equal(client_flush(f, &c[i], itself), 0);
}

/* What is under way while a flush fails may be lost, though it ends after that. */
static void beside_a_write(struct fixture *f, struct uuid node)
{
    struct client a = client_new(), b = client_new();
    assert_int_equal(client_write(f, &b, node), 0);
    atomic_store(&write_stops, true);
    client_begin(f, &a, node, 0, CHUNK_BYTES, false);
    sem_wait(&begun);
    atomic_store(&failures, 1);
    assert_int_equal(client_flush(f, &b, node), SNAP_EIO);
    sem_post(&go_on);
    assert_int_equal(call_wait(&a.call), 0);
    wait_for(f, node);
    assert_int_equal(client_flush(f, &a, node), SNAP_EIO);
    assert_int_equal(client_flush(f, &a, node), 0);
    assert_int_equal(client_flush(f, &b, node), 0);
}

static void flush__that_failed_beside_a_write_is_told_to_its_writer(void **state)
{
    struct fixture *f = *state;
    beside_a_write(f, itself);
    beside_a_write(f, clone_new(f));
}

/* Its own flush is another one, which succeeds. */
static void write__durable_beside_a_flush_that_failed_fails(void **state)
{
    struct fixture *f = *state;
    struct client a = client_new(), b = client_new();
    assert_int_equal(client_write(f, &b, itself), 0);
    atomic_store(&write_stops, true);
    client_begin(f, &a, itself, 10, CHUNK_BYTES, true); /* in pieces, then a flush */
    sem_wait(&begun);
    atomic_store(&failures, 1);
    assert_int_equal(client_flush(f, &b, itself), SNAP_EIO);
    sem_post(&go_on);
    assert_int_equal(call_wait(&a.call), SNAP_EIO);
    client_begin(f, &a, itself, 10, CHUNK_BYTES, true);
    assert_int_equal(call_wait(&a.call), 0);
    assert_int_equal(client_flush(f, &a, itself), 0);
}

static void do_rebuild(struct call *c)
{
    volume_verify_start(c->f->volume, c->arg, call_end, c);
}

struct showing {
    struct uuid job;
    struct volume_job_status status;
};

static void do_show(struct call *c)
{
    struct showing *s = c->arg;
    call_end(c, volume_job_show(c->f->volume, &s->job, &s->status, NULL), NULL);
}

/* A checksum that is missing: part of its block is written past the clone. */
static void spoil(struct fixture *f, struct uuid node)
{
    char path[2 * LIMIT_PATH_BYTES], dir[LIMIT_PATH_BYTES], id[UUID_TEXT_BYTES];
    assert_int_equal(volume_dir_format(f->env.state_dir, &f->id, dir, sizeof dir, NULL), 0);
    (void)snprintf(path, sizeof path, "%s/%s.cow", dir, uuid_format(&node, id));
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "x", 1, (off_t)3 * CHUNK_BYTES), 1);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(close(fd), 0);
}

/* The verification's flush may take back what others wrote, as any other. */
static void verify__rebuild_that_cannot_be_flushed_is_told_to_who_had_written(void **state)
{
    struct fixture *f = *state;
    struct uuid node = clone_new(f);
    struct client a = client_new();
    struct verify_spec spec = {.job = uuid_make(), .snapshot = node, .rebuild = true};
    struct showing s = {.job = spec.job, .status = {.state = JOB_RUNNING}};
    assert_int_equal(client_write(f, &a, node), 0);
    spoil(f, node);
    atomic_store(&failures, 1);
    assert_int_equal(call(f, do_rebuild, &spec), 0);
    for (int i = 0; i < 2000 && s.status.state == JOB_RUNNING; i++) {
        (void)usleep(2000);
        assert_int_equal(call(f, do_show, &s), 0);
    }
    assert_int_equal(s.status.state, JOB_FAILED);
    assert_int_equal(atomic_load(&failures), 0);
    assert_int_equal(client_flush(f, &a, node), SNAP_EIO);
    wait_for(f, node);
    assert_int_equal(client_flush(f, &a, node), 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(write__whose_flush_waits_for_one_that_fails_fails),
        CASE(flush__of_several_that_failed_is_told_to_each_once),
        CASE(flush__that_failed_beside_a_write_is_told_to_its_writer),
        CASE(write__durable_beside_a_flush_that_failed_fails),
        CASE(verify__rebuild_that_cannot_be_flushed_is_told_to_who_had_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
