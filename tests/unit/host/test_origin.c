/* SPDX-License-Identifier: Apache-2.0 */
/* Reading origins: what is at hand, and what memory keeps of it. */
#include "client/host/origin.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 8, SIZE = PAGES * PAGE, TAIL = 100, AT = 2, COUNT = 4 };

struct fixture {
    struct tmpdir dir;
    struct origin origin;
    uint8_t content[SIZE + TAIL], buf[SIZE + PAGE];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    char path[TMPDIR_FILE_BYTES];
    tmpdir_make(&f->dir);
    for (size_t i = 0; i < sizeof f->content; i++)
        f->content[i] = (uint8_t)(i * 7 + i / PAGE);
    int fd = open(tmpdir_file(&f->dir, "origin", path), O_CREAT | O_RDWR, 0600);
    assert_int_equal(write(fd, f->content, sizeof f->content), sizeof f->content);
    assert_int_equal(fsync(fd), 0);
    (void)close(fd);
    assert_int_equal(origin_open(path, true, &f->origin, NULL), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    origin_close(&f->origin);
    tmpdir_remove(&f->dir);
    free(f);
    return 0;
}

static void forget(const struct fixture *f)
{
    assert_int_equal(posix_fadvise(f->origin.fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

/* How many of the pages that are read below are in memory? */
static unsigned in_memory(const struct fixture *f)
{
    unsigned char pages[COUNT];
    unsigned n = 0;
    uint8_t *map = mmap(NULL, COUNT * PAGE, PROT_READ, MAP_SHARED, f->origin.fd, (off_t)AT * PAGE);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mincore(map, COUNT * PAGE, pages), 0);
    assert_int_equal(munmap(map, COUNT * PAGE), 0);
    for (unsigned i = 0; i < COUNT; i++)
        n += pages[i] & 1U;
    return n;
}

static void read_once(struct fixture *f)
{
    memset(f->buf, 0xee, sizeof f->buf);
    assert_int_equal(origin_read_once(&f->origin, AT * PAGE, f->buf, COUNT * PAGE, NULL), 0);
    assert_memory_equal(f->buf, f->content + AT * PAGE, COUNT * PAGE);
}

static void read_once__gives_the_content_and_zeros_behind_its_end(void **state)
{
    struct fixture *f = *state;
    static const uint8_t zeros[PAGE];
    read_once(f);
    memset(f->buf, 0xee, sizeof f->buf);
    assert_int_equal(origin_read_once(&f->origin, SIZE - PAGE, f->buf, 2 * PAGE, NULL), 0);
    assert_memory_equal(f->buf, f->content + SIZE - PAGE, PAGE + TAIL);
    assert_memory_equal(f->buf + PAGE + TAIL, zeros, PAGE - TAIL);
}

static void read_once__is_a_plain_read_where_the_kernel_has_no_other(void **state)
{
    struct fixture *f = *state;
    f->origin.once_flags = 0;
    read_once(f);
}

static void read_once__leaves_memory_as_it_was(void **state)
{
    struct fixture *f = *state;
    if (f->origin.once_flags == 0)
        skip();
    forget(f);
    if (in_memory(f) != 0) /* a file system that lives there */
        skip();
    read_once(f);
    assert_int_equal(in_memory(f), 0);
    assert_int_equal(origin_read(&f->origin, AT * PAGE, f->buf, COUNT * PAGE, NULL), 0);
    assert_int_equal(in_memory(f), COUNT);
    read_once(f);
    assert_int_equal(in_memory(f), COUNT);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(read_once__gives_the_content_and_zeros_behind_its_end),
        CASE(read_once__is_a_plain_read_where_the_kernel_has_no_other),
        CASE(read_once__leaves_memory_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
