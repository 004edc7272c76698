/* SPDX-License-Identifier: Apache-2.0 */
/* Where exports go: working files, names, holes. */
#include "client/snapctl/origin.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
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

static void open_sink(struct sink *s, uint64_t size)
{
    struct err e = ERR_INIT;
    if (sink_open(path, size, s, &e) < 0)
        fail_msg("%s", e.text);
}

static void finish__gives_the_name_and_the_size(void **state)
{
    (void)state;
    struct sink s = SINK_INIT;
    struct err e = ERR_INIT;
    uint8_t want[5000] = {0};
    memset(want + 1000, 7, 100);
    open_sink(&s, sizeof want);
    assert_int_equal(sink_write(&s, 1000, want + 1000, 100, &e), 0);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(sink_finish(&s, &e), 0);
    sink_close(&s);
    expect_file(path, want, sizeof want);
    assert_int_equal(access(partial, F_OK), -1);
}

static void open__takes_over_what_a_killed_run_left(void **state)
{
    (void)state;
    struct sink s = SINK_INIT;
    struct err e = ERR_INIT;
    put_file(partial, "what it held must not show through the hole");
    open_sink(&s, 10);
    assert_int_equal(sink_write(&s, 7, "abc", 3, &e), 0);
    assert_int_equal(sink_finish(&s, &e), 0);
    sink_close(&s);
    expect_file(path, "\0\0\0\0\0\0\0abc", 10);
}

static void open__a_second_export_to_the_same_file_is_busy(void **state)
{
    (void)state;
    struct sink a = SINK_INIT, b = SINK_INIT;
    struct err e = ERR_INIT;
    open_sink(&a, 3);
    assert_int_equal(sink_write(&a, 0, "abc", 3, &e), 0);
    assert_int_equal(sink_open(path, 3, &b, &e), SNAP_EBUSY);
    assert_non_null(strstr(e.text, "out.partial"));
    sink_close(&b);
    assert_int_equal(access(partial, F_OK), 0); /* it is still the first one's */
    assert_int_equal(sink_finish(&a, &e), 0);
    sink_close(&a);
    expect_file(path, "abc", 3);
}

static void open__follows_no_link_and_takes_no_pipe_for_a_working_file(void **state)
{
    (void)state;
    struct sink s = SINK_INIT;
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
    struct sink s = SINK_INIT;
    struct err e = ERR_INIT;
    open_sink(&s, 3);
    assert_int_equal(sink_write(&s, 0, "abc", 3, &e), 0);
    put_file(path, "somebody's");
    assert_int_equal(sink_finish(&s, &e), SNAP_EEXIST);
    sink_close(&s);
    expect_file(path, "somebody's", 10);
    assert_int_equal(access(partial, F_OK), -1);
}

static void close__without_finish_leaves_nothing(void **state)
{
    (void)state;
    struct sink s = SINK_INIT;
    open_sink(&s, 3);
    sink_close(&s);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(access(partial, F_OK), -1);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(finish__gives_the_name_and_the_size),
        CASE(open__takes_over_what_a_killed_run_left),
        CASE(open__a_second_export_to_the_same_file_is_busy),
        CASE(open__follows_no_link_and_takes_no_pipe_for_a_working_file),
        CASE(finish__writes_over_nothing_that_came_meanwhile),
        CASE(close__without_finish_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
