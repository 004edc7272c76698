/* SPDX-License-Identifier: Apache-2.0 */
/* Where exports go: working files, names, holes, the writer's thread and its ends. */
#include "client/snapctl/sink.h"
#include "common/base/bytes.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"
#include "tests/lib/tmpdir.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct tmpdir dir;
static char path[TMPDIR_FILE_BYTES], partial[TMPDIR_FILE_BYTES];

static int setup(void **state)
{
    (void)state;
    tmpdir_make(&dir);
    (void)tmpdir_file(&dir, "out", path);
    (void)tmpdir_file(&dir, "out.partial", partial);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tmpdir_remove(&dir);
    return 0;
}

static void put_file(const char *name, const char *text)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
}

static void expect_file(const char *name, const void *data, size_t len)
{
    uint8_t has[8192];
    int fd = open(name, O_RDONLY);
    assert_true(fd >= 0 && len < sizeof has);
    assert_int_equal(read(fd, has, sizeof has), (ssize_t)len);
    assert_int_equal(close(fd), 0);
    assert_memory_equal(has, data, len);
}

static struct sink *open_sink(uint64_t size)
{
    struct sink *s = NULL;
    struct err e = ERR_INIT;
    if (sink_open(path, size, &s, &e) < 0)
        fail_msg("%s", e.text);
    return s;
}

static void put(struct sink *s, uint64_t offset, const void *data, size_t len)
{
    struct sink_buf *b = NULL;
    struct err e = ERR_INIT;
    if (sink_take(s, &b, &e) < 0)
        fail_msg("%s", e.text);
    memcpy(b->data, data, len);
    b->offset_bytes = offset;
    b->len_bytes = len;
    sink_put(s, b);
}

static void finish__gives_the_name_and_the_size(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    uint8_t want[5000] = {0};
    memset(want + 1000, 7, 100);
    struct sink *s = open_sink(sizeof want);
    put(s, 1000, want + 1000, 100);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(sink_finish(s, &e), 0);
    sink_close(s);
    expect_file(path, want, sizeof want);
    assert_int_equal(access(partial, F_OK), -1);
}

static void open__takes_over_what_a_killed_run_left(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    put_file(partial, "what it held must not show through the hole");
    struct sink *s = open_sink(10);
    put(s, 7, "abc", 3);
    assert_int_equal(sink_finish(s, &e), 0);
    sink_close(s);
    expect_file(path, "\0\0\0\0\0\0\0abc", 10);
}

static void open__a_second_export_to_the_same_file_is_busy(void **state)
{
    (void)state;
    struct sink *a = open_sink(3), *b = NULL;
    struct err e = ERR_INIT;
    put(a, 0, "abc", 3);
    assert_int_equal(sink_open(path, 3, &b, &e), SNAP_EBUSY);
    assert_non_null(strstr(e.text, "out.partial"));
    assert_int_equal(access(partial, F_OK), 0); /* it is still the first one's */
    assert_int_equal(sink_finish(a, &e), 0);
    sink_close(a);
    expect_file(path, "abc", 3);
}

static void open__follows_no_link_and_takes_no_pipe_for_a_working_file(void **state)
{
    (void)state;
    struct sink *s = NULL;
    struct err e = ERR_INIT;
    char other[TMPDIR_FILE_BYTES];
    put_file(tmpdir_file(&dir, "precious", other), "keep");
    assert_int_equal(symlink(other, partial), 0);
    assert_true(sink_open(path, 3, &s, &e) < 0);
    expect_file(other, "keep", 4);
    assert_int_equal(unlink(partial), 0);
    assert_int_equal(mkfifo(partial, 0600), 0);
    assert_true(sink_open(path, 3, &s, &e) < 0);
}

static void finish__writes_over_nothing_that_came_meanwhile(void **state)
{
    (void)state;
    struct sink *s = open_sink(3);
    struct err e = ERR_INIT;
    put(s, 0, "abc", 3);
    put_file(path, "somebody's");
    assert_int_equal(sink_finish(s, &e), SNAP_EEXIST);
    sink_close(s);
    expect_file(path, "somebody's", 10);
    assert_int_equal(access(partial, F_OK), -1);
}

static void close__without_finish_leaves_nothing(void **state)
{
    (void)state;
    struct sink *s = open_sink(3);
    sink_close(s);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(access(partial, F_OK), -1);
    sink_close(NULL);
}

/* Against a model: pieces of every size, aligned and not, zeros among them. */
static void put__whatever_the_pieces_the_content_is_theirs_and_zeros_are_holes(void **state)
{
    (void)state;
    enum { SIZE = 24 * 1024 * 1024 + 700 };
    uint8_t *model = calloc(1, SIZE), *has = malloc(SIZE);
    struct err e = ERR_INIT;
    struct rng r;
    struct stat st;
    uint64_t data_bytes = 0;
    assert_true(model && has);
    seed_init_rng(&r);
    struct sink *s = open_sink(SIZE);
    for (uint64_t at = 0, len; at < SIZE; at += len) {
        unsigned kind = (unsigned)rng_below(&r, 5);
        if (kind < 3)
            at = u64_min(u64_align_up(at, SINK_ALIGN_BYTES), SIZE - 1);
        len = kind < 3 ? SINK_BUF_BYTES : 1 + rng_below(&r, SINK_BUF_BYTES);
        len = u64_min(len, SIZE - at);
        if (kind == 0) /* a gap */
            continue;
        rng_fill(&r, model + at, len);
        for (uint64_t i = 0; kind == 1 && i + 8192 <= len; i += UINT64_C(8192) << rng_below(&r, 3))
            memset(model + at + i, 0, 4096);
        put(s, at, model + at, len);
    }
    if (sink_finish(s, &e) < 0)
        fail_msg("%s", e.text);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &st) == 0 && st.st_size == SIZE);
    for (uint64_t at = 0; at < SIZE; at += 1 << 20)
        assert_true(read(fd, has + at, u64_min(1 << 20, SIZE - at)) > 0);
    assert_int_equal(close(fd), 0);
    assert_true(memcmp(has, model, SIZE) == 0);
    sink_close(s); /* not before: finish alone must have waited for all */
    for (uint64_t at = 0; at < SIZE; at += 4096)
        data_bytes += bytes_are_zero(model + at, u64_min(4096, SIZE - at)) ? 0 : 4096;
    assert_true((uint64_t)st.st_blocks * 512 <= data_bytes + 65536);
    free(model);
    free(has);
}

static void put__an_error_is_told_and_ends_the_writing(void **state)
{
    (void)state;
    static uint8_t data[SINK_BUF_BYTES];
    const struct rlimit few = {.rlim_cur = 5 << 20, .rlim_max = RLIM_INFINITY};
    const struct rlimit all = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    struct sink_buf *b = NULL;
    struct err e = ERR_INIT;
    memset(data, 1, sizeof data);
    struct sink *s = open_sink(64 << 20);
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &few), 0);
    int rc = 0;
    for (uint64_t at = 0; rc == 0 && at < 64 << 20; at += sizeof data) {
        rc = sink_take(s, &b, &e);
        if (rc < 0)
            break;
        memcpy(b->data, data, sizeof data);
        b->offset_bytes = at;
        b->len_bytes = sizeof data;
        sink_put(s, b);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &all), 0);
    assert_true(rc < 0 && strstr(e.text, "out"));
    assert_int_equal(sink_check(s, NULL), rc);
    assert_int_equal(sink_finish(s, NULL), rc);
    sink_close(s);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(access(partial, F_OK), -1);
}

/* Standard output as a pipe for one sink; *ret_read is its other end. */
static struct sink *open_pipe(uint64_t size, int *ret_read)
{
    struct sink *s = NULL;
    int ends[2], out = dup(STDOUT_FILENO);
    assert_int_equal(pipe(ends), 0);
    (void)fflush(stdout);
    assert_int_equal(dup2(ends[1], STDOUT_FILENO), STDOUT_FILENO);
    int rc = sink_open("-", size, &s, NULL);
    assert_int_equal(dup2(out, STDOUT_FILENO), STDOUT_FILENO);
    assert_int_equal(close(out), 0);
    assert_int_equal(close(ends[1]), 0);
    assert_int_equal(rc, 0);
    *ret_read = ends[0];
    return s;
}

static void pipe__gets_holes_as_zeros_in_order(void **state)
{
    (void)state;
    int in;
    uint8_t has[4096], want[3000] = {0};
    memcpy(want + 1000, "abc", 3);
    memcpy(want + 2000, "def", 3);
    struct sink *s = open_pipe(sizeof want, &in);
    assert_true(sink_is_pipe(s));
    put(s, 1000, "abc", 3);
    put(s, 2000, "def", 3);
    assert_int_equal(sink_finish(s, NULL), 0);
    sink_close(s);
    assert_int_equal(read(in, has, sizeof has), (ssize_t)sizeof want);
    assert_memory_equal(has, want, sizeof want);
    assert_int_equal(close(in), 0);
}

static void finish__waits_for_a_slow_reader(void **state)
{
    (void)state;
    static uint8_t data[SINK_BUF_BYTES];
    int in, status = 0;
    struct sink *s = open_pipe(sizeof data, &in);
    pid_t reader = fork();
    assert_true(reader >= 0);
    if (reader == 0) {
        const struct timespec pause = {.tv_nsec = 300 * 1000 * 1000};
        size_t left = sizeof data;
        (void)alarm(20); /* it has the other end too: what is missing is never an end of file */
        (void)nanosleep(&pause, NULL);
        for (ssize_t n; left > 0 && (n = read(in, data, left)) > 0;)
            left -= (size_t)n;
        _exit(left == 0 ? 0 : 1);
    }
    memset(data, 5, sizeof data);
    put(s, 0, data, sizeof data);
    (void)alarm(30); /* else it would hang */
    assert_int_equal(sink_finish(s, NULL), 0);
    sink_close(s);
    (void)alarm(0);
    assert_int_equal(close(in), 0);
    assert_int_equal(waitpid(reader, &status, 0), reader);
    assert_int_equal(status, 0);
}

static void close__does_not_wait_for_a_pipe_that_nobody_reads(void **state)
{
    (void)state;
    int in;
    static uint8_t data[SINK_BUF_BYTES];
    struct sink *s = open_pipe(16 << 20, &in);
    for (uint64_t i = 0; i < SINK_BUFS / 2; i++)
        put(s, i * sizeof data, data, sizeof data);
    (void)alarm(20); /* else it would hang */
    sink_close(s);
    (void)alarm(0);
    assert_int_equal(close(in), 0);
}

static void take__buffers_are_bounded_and_come_back(void **state)
{
    (void)state;
    struct sink_buf *bufs[SINK_BUFS];
    struct sink *s = open_sink(3);
    for (unsigned i = 0; i < SINK_BUFS; i++) {
        bufs[i] = sink_take_free(s);
        assert_non_null(bufs[i]);
        assert_int_equal((uintptr_t)bufs[i]->data % SINK_ALIGN_BYTES, 0);
        memset(bufs[i]->data, (int)i, SINK_BUF_BYTES);
    }
    assert_null(sink_take_free(s));
    sink_give(s, bufs[7]);
    sink_give(s, NULL);
    assert_ptr_equal(sink_take_free(s), bufs[7]);
    assert_null(sink_take_free(s));
    bufs[0]->offset_bytes = 2;
    bufs[0]->len_bytes = 5; /* past the end: dropped */
    sink_put(s, bufs[0]);
    assert_int_equal(sink_take(s, &bufs[0], NULL), 0);
    assert_int_equal(sink_finish(s, NULL), 0);
    sink_close(s);
    expect_file(path, "\0\0\0", 3);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* Who can make files in the folder may have put one there to get at what is exported, or to have
 * another file written over. */
static void open__a_file_of_somebody_else_or_with_another_name_is_not_taken_over(void **state)
{
    (void)state;
    char other[TMPDIR_FILE_BYTES];
    struct sink *s = NULL;
    struct err e = ERR_INIT;
    struct stat st;
    (void)tmpdir_file(&dir, "other", other);
    put_file(other, "precious");
    assert_int_equal(link(other, partial), 0);
    assert_int_equal(sink_open(path, 4096, &s, &e), SNAP_EEXIST);
    assert_non_null(strstr(e.text, "remove it"));
    assert_int_equal(stat(other, &st), 0);
    assert_int_equal(st.st_size, 8);
    assert_int_equal(unlink(partial), 0);
    put_file(partial, "planted");
    if (geteuid() == 0) {
        assert_int_equal(chown(partial, 1, 1), 0);
        assert_int_equal(sink_open(path, 4096, &s, &e), SNAP_EEXIST);
        assert_int_equal(chown(partial, 0, 0), 0);
    }
    assert_int_equal(chmod(partial, 0666), 0);
    assert_int_equal(sink_open(path, 4096, &s, &e), 0);
    assert_int_equal(sink_finish(s, &e), 0);
    sink_close(s);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(finish__gives_the_name_and_the_size),
        CASE(open__takes_over_what_a_killed_run_left),
        CASE(open__a_second_export_to_the_same_file_is_busy),
        CASE(open__follows_no_link_and_takes_no_pipe_for_a_working_file),
        CASE(open__a_file_of_somebody_else_or_with_another_name_is_not_taken_over),
        CASE(finish__writes_over_nothing_that_came_meanwhile),
        CASE(close__without_finish_leaves_nothing),
        CASE(put__whatever_the_pieces_the_content_is_theirs_and_zeros_are_holes),
        CASE(put__an_error_is_told_and_ends_the_writing),
        CASE(pipe__gets_holes_as_zeros_in_order),
        CASE(finish__waits_for_a_slow_reader),
        CASE(close__does_not_wait_for_a_pipe_that_nobody_reads),
        CASE(take__buffers_are_bounded_and_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
