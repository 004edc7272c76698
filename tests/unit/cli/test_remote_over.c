/* SPDX-License-Identifier: Apache-2.0 */
/* What apply and merge decide without a daemon: which chunks differ, which are holes. */
#include "client/snapctl/remote_over.h"
#include "client/snapctl/remote_sparse.h"
#include "common/base/bytes.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"
#include "tests/lib/tmpdir.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static struct tmpdir dir;

static int setup(void **state)
{
    (void)state;
    tmpdir_make(&dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tmpdir_remove(&dir);
    return 0;
}

static void compare__sorts_equal_changed_and_holes_and_ends_with_the_origin(void **state)
{
    (void)state;
    enum { CHUNK = 512 };
    uint8_t old[4 * CHUNK] = {0}, new[4 * CHUNK] = {0};
    uint8_t verdicts[4] = {OVER_ZERO, OVER_ZERO, OVER_SAME, OVER_SAME};
    struct over_slot s = {
        .len_bytes = 3 * CHUNK + 10, .chunks = 4, .old = old, .new = new, .verdicts = verdicts};
    old[CHUNK + 7] = 1;       /* a hole comes over data */
    new[2 * CHUNK + 511] = 1; /* the last byte of a chunk */
    new[3 * CHUNK + 10] = 1;  /* behind the origin's end: no difference */
    assert_int_equal(over_compare(&s, CHUNK), 2);
    assert_int_equal(verdicts[0], OVER_SAME);
    assert_int_equal(verdicts[1], OVER_ZERO);
    assert_int_equal(verdicts[2], OVER_WRITE);
    assert_int_equal(verdicts[3], OVER_SAME);
}

static void dimension__slots_hold_whole_chunks_and_memory_stays_bounded(void **state)
{
    (void)state;
    for (uint64_t chunk = 512; chunk <= 16 * MIB; chunk *= 2) {
        uint64_t bytes;
        unsigned count;
        over_dimension(chunk, &bytes, &count);
        assert_true(bytes % chunk == 0 && u64_is_pow2(bytes));
        assert_true(count >= 3 && bytes * count <= 48 * MIB);
    }
}

static void make_file(const char *name, uint64_t size, struct origin *ret, char *path)
{
    (void)tmpdir_file(&dir, name, path);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(close(fd), 0);
    *ret = ORIGIN_INIT;
    assert_int_equal(origin_open(path, true, ret, NULL), 0);
}

/* Against a model: bytes, and which blocks were ever written. */
static void sparse_read__equals_a_plain_read_and_marks_only_whole_holes(void **state)
{
    (void)state;
    enum { SIZE = 1024 * 1024 + 512, CHUNK = 16 * 1024, BLOCK = 4096 };
    static uint8_t model[SIZE], buf[SIZE], marks[SIZE / CHUNK + 1];
    char path[TMPDIR_FILE_BYTES];
    struct origin o;
    struct rng r;
    bool has_holes = false;
    seed_init_rng(&r);
    make_file("sparse", SIZE, &o, path);
    (void)origin_extent_end(&o, 0, &has_holes);
    for (int i = 0; i < 30; i++) {
        uint64_t at = rng_below(&r, SIZE), len = 1 + rng_below(&r, u64_min(3 * BLOCK, SIZE - at));
        rng_fill(&r, model + at, len);
        assert_int_equal(origin_write(&o, at, model + at, len, NULL), 0);
    }
    unsigned marked = 0;
    for (int i = 0; i < 200; i++) {
        uint64_t at = rng_below(&r, SIZE / CHUNK) * CHUNK;
        uint64_t len = u64_min((1 + rng_below(&r, 20)) * CHUNK, SIZE - at);
        memset(buf, 0xee, sizeof buf);
        memset(marks, OVER_SAME, sizeof marks);
        assert_int_equal(remote_sparse_read(&o, at, len, buf, CHUNK, marks, NULL), 0);
        assert_memory_equal(buf, model + at, len);
        for (uint64_t c = 0; c * CHUNK < len; c++) {
            if (marks[c] != OVER_ZERO)
                continue;
            marked++;
            assert_true(bytes_are_zero(model + at + c * CHUNK, u64_min(CHUNK, len - c * CHUNK)));
        }
    }
    if (has_holes)
        assert_true(marked > 0);
    origin_close(&o);
}

static void sparse_skip__stops_before_the_first_data_of_either(void **state)
{
    (void)state;
    enum { SIZE = 4 * 1024 * 1024, CHUNK = 64 * 1024 };
    char path[TMPDIR_FILE_BYTES];
    struct origin a, b;
    bool has_holes = false;
    make_file("a", SIZE, &a, path);
    make_file("b", SIZE, &b, path);
    (void)origin_extent_end(&a, 0, &has_holes);
    if (!has_holes) {
        origin_close(&a);
        origin_close(&b);
        skip(); /* a file system without holes */
    }
    assert_true(remote_sparse_skip(&a, &b, CHUNK, 0) == SIZE);
    assert_int_equal(origin_write(&b, 3 * MIB + 5000, "x", 1, NULL), 0);
    assert_true(remote_sparse_skip(&a, &b, CHUNK, 0) == 3 * MIB);
    assert_int_equal(origin_write(&a, MIB + 70000, "x", 1, NULL), 0);
    assert_true(remote_sparse_skip(&a, &b, CHUNK, 0) == MIB + CHUNK);
    assert_true(remote_sparse_skip(&a, &b, CHUNK, MIB + CHUNK) == MIB + CHUNK);
    assert_true(remote_sparse_skip(&a, &b, CHUNK, MIB + 2 * CHUNK) == 3 * MIB);
    assert_true(remote_sparse_skip(&a, &b, CHUNK, 3 * MIB + CHUNK) == SIZE);
    origin_close(&a);
    origin_close(&b);
}

static void instance__is_the_same_for_the_same_origin_only(void **state)
{
    (void)state;
    struct snapwire_uuid one = {.b = {1}}, two = {.b = {2}};
    struct snapwire_uuid a = remote_writer_instance(&one, "disk", 4);
    struct snapwire_uuid b = remote_writer_instance(&one, "disk", 4);
    assert_memory_equal(a.b, b.b, sizeof a.b);
    b = remote_writer_instance(&two, "disk", 4);
    assert_memory_not_equal(a.b, b.b, sizeof a.b);
    b = remote_writer_instance(&one, "disc", 4);
    assert_memory_not_equal(a.b, b.b, sizeof a.b);
    assert_memory_not_equal(a.b, a.b + 8, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compare__sorts_equal_changed_and_holes_and_ends_with_the_origin),
        cmocka_unit_test(dimension__slots_hold_whole_chunks_and_memory_stays_bounded),
        cmocka_unit_test_setup_teardown(sparse_read__equals_a_plain_read_and_marks_only_whole_holes,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(sparse_skip__stops_before_the_first_data_of_either, setup,
                                        teardown),
        cmocka_unit_test(instance__is_the_same_for_the_same_origin_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
