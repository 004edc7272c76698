/* SPDX-License-Identifier: Apache-2.0 */
/* What a guard keeps is read: many at once, whole, padded, and told when it cannot be. */
#include "client/nbdkit/guard_read.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 4096, CHUNKS = 300, TAIL = 1000, SIZE = CHUNKS * CHUNK + TAIL, HOLE = 7 };
enum { WAIT_US = 100000, TURNS_MAX = 100 };

struct here {
    struct tmpdir dir;
    struct origin origin;
    struct guard_reader *reader;
    struct guard_copies begin, read;
};

static char content_of(uint64_t chunk)
{
    return chunk == HOLE ? 0 : (char)('A' + chunk % 26);
}

static int setup(void **state)
{
    struct here *h = calloc(1, sizeof *h);
    char path[TMPDIR_FILE_BYTES], chunk[CHUNK];
    struct err err = ERR_INIT;
    assert_non_null(h);
    tmpdir_make(&h->dir);
    int fd = open(tmpdir_file(&h->dir, "origin", path), O_CREAT | O_WRONLY, 0600);
    for (unsigned i = 0; i <= CHUNKS; i++) {
        memset(chunk, content_of(i), sizeof chunk);
        assert_int_equal(pwrite(fd, chunk, i < CHUNKS ? CHUNK : TAIL, (off_t)i * CHUNK),
                         i < CHUNKS ? CHUNK : TAIL);
    }
    (void)close(fd);
    h->origin = ORIGIN_INIT;
    assert_int_equal(origin_open(path, true, &h->origin, &err), 0);
    TAILQ_INIT(&h->begin);
    TAILQ_INIT(&h->read);
    h->reader = guard_reader_new(&h->origin);
    *state = h;
    return 0;
}

static void drop(struct guard_copy *c)
{
    free(c->data);
    free(c);
}

static int teardown(void **state)
{
    struct here *h = *state;
    struct guard_copy *c;
    assert_false(guard_reader_is_busy(h->reader));
    guard_reader_free(h->reader);
    while ((c = TAILQ_FIRST(&h->read))) {
        TAILQ_REMOVE(&h->read, c, link);
        drop(c);
    }
    origin_close(&h->origin);
    tmpdir_remove(&h->dir);
    free(h);
    return 0;
}

static struct guard_copy *copy_of(uint64_t first, uint32_t count)
{
    struct guard_copy *c = calloc(1, sizeof *c + count);
    assert_non_null(c);
    c->first = first;
    c->count = count;
    c->chunk_bytes = CHUNK;
    c->data = aligned_alloc(CHUNK, (size_t)count * CHUNK);
    assert_non_null(c->data);
    memset(c->data, '?', (size_t)count * CHUNK);
    return c;
}

static void want(struct here *h, uint64_t first, uint32_t count)
{
    struct guard_copy *c = copy_of(first, count);
    TAILQ_INSERT_TAIL(&h->begin, c, link);
}

static void read_all(struct here *h)
{
    guard_reader_turn(h->reader, &h->begin, 0, &h->read);
    assert_true(TAILQ_EMPTY(&h->begin));
    for (unsigned i = 0; i < TURNS_MAX && guard_reader_is_busy(h->reader); i++)
        guard_reader_turn(h->reader, &h->begin, WAIT_US, &h->read);
    assert_false(guard_reader_is_busy(h->reader));
}

static void assert_is_content(const struct guard_copy *c)
{
    for (uint32_t i = 0; i < c->count; i++) {
        const uint8_t *data = c->data + (size_t)i * CHUNK;
        const unsigned whole = c->first + i < CHUNKS ? CHUNK : TAIL;
        for (unsigned j = 0; j < CHUNK; j++)
            assert_int_equal(data[j], j < whole ? content_of(c->first + i) : 0);
        assert_int_equal(c->zeros[i], c->first + i == HOLE);
    }
}

/* A machine that gives no ring: what depends on it is not looked at. */
static void need_reader(const struct here *h)
{
    if (!h->reader) {
        print_message("no io_uring here\n");
        skip();
    }
}

static void now__is_whole_and_padded(void **state)
{
    struct here *h = *state;
    struct guard_copy *c = copy_of(CHUNKS - 1, 2);
    assert_int_equal(guard_read_now(&h->origin, c), 0);
    assert_is_content(c);
    drop(c);
    c = copy_of(HOLE - 1, 3);
    assert_int_equal(guard_read_now(&h->origin, c), 0);
    assert_is_content(c);
    drop(c);
}

static void turn__many_are_read_each_its_own(void **state)
{
    struct here *h = *state;
    struct guard_copy *c;
    unsigned n = 0;
    need_reader(h);
    for (unsigned i = 0; i < CHUNKS - 1; i++) /* more than the ring holds */
        want(h, i, 1);
    want(h, CHUNKS - 1, 2);
    read_all(h);
    TAILQ_FOREACH (c, &h->read, link) {
        assert_int_equal(c->read_errno, 0);
        assert_is_content(c);
        n++;
    }
    assert_int_equal(n, CHUNKS);
}

static void turn__nothing_to_read_is_not_waited_for(void **state)
{
    struct here *h = *state;
    need_reader(h);
    guard_reader_turn(h->reader, &h->begin, WAIT_US, &h->read);
    assert_true(TAILQ_EMPTY(&h->read));
}

/* The file is shorter than it was: zeros are there, as an ordinary read has it. */
static void turn__what_is_cut_off_is_zeros(void **state)
{
    struct here *h = *state;
    need_reader(h);
    assert_int_equal(ftruncate(h->origin.fd, 2 * CHUNK + 100), 0);
    want(h, 1, 3);
    read_all(h);
    struct guard_copy *c = TAILQ_FIRST(&h->read);
    assert_int_equal(c->read_errno, 0);
    assert_int_equal(c->data[CHUNK + 99], content_of(2));
    assert_int_equal(c->data[CHUNK + 100], 0);
    assert_true(c->zeros[2]);
    assert_false(c->zeros[1]);
}

static void turn__a_disk_that_cannot_be_read_is_told(void **state)
{
    struct here *h = *state;
    need_reader(h);
    const int fd = h->origin.fd, other = open("/dev/null", O_WRONLY | O_CLOEXEC);
    h->origin.fd = other;
    want(h, 1, 1);
    want(h, 2, 1);
    read_all(h);
    assert_int_equal(TAILQ_FIRST(&h->read)->read_errno, EBADF);
    assert_int_equal(TAILQ_LAST(&h->read, guard_copies)->read_errno, EBADF);
    h->origin.fd = fd;
    (void)close(other);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(now__is_whole_and_padded),
        CASE(turn__many_are_read_each_its_own),
        CASE(turn__nothing_to_read_is_not_waited_for),
        CASE(turn__what_is_cut_off_is_zeros),
        CASE(turn__a_disk_that_cannot_be_read_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
