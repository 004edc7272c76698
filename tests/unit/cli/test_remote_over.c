/* SPDX-License-Identifier: Apache-2.0 */
/* What apply and merge do without a daemon: which chunks differ, which are holes, and how
 * the origin is written. */
#include "client/snapctl/over_writer.h"
#include "client/snapctl/remote_over.h"
#include "client/snapctl/remote_sparse.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"
#include "tests/lib/tmpdir.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static struct tmpdir dir;
static atomic_uint slept_s;    /* how long the machine has */
static atomic_int looks_first; /* at the time, after which it sleeps for an hour; 0: not */

int clock_gettime(clockid_t id, struct timespec *t)
{
    int rc = (int)syscall(SYS_clock_gettime, id, t);
    if (id == CLOCK_BOOTTIME)
        t->tv_sec += (time_t)atomic_load(&slept_s);
    if (id == CLOCK_BOOTTIME && atomic_load(&looks_first) > 0 &&
        atomic_fetch_sub(&looks_first, 1) == 1)
        atomic_store(&slept_s, 3600);
    return rc;
}

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

/* What the slot held before stands in `old`. */
static void compare__takes_all_of_what_was_not_read_for_changed(void **state)
{
    (void)state;
    enum { CHUNK = 512 };
    uint8_t old[3 * CHUNK] = {0}, new[3 * CHUNK] = {0};
    uint8_t verdicts[3] = {OVER_SAME, OVER_ZERO, OVER_SAME};
    struct over_slot s = {.len_bytes = 3 * CHUNK,
                          .chunks = 3,
                          .unread = true,
                          .old = old,
                          .new = new,
                          .verdicts = verdicts};
    assert_int_equal(over_compare(&s, CHUNK), 3);
    assert_int_equal(verdicts[0], OVER_WRITE);
    assert_int_equal(verdicts[1], OVER_ZERO);
    assert_int_equal(verdicts[2], OVER_WRITE);
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
        printf("SKIPPED: %s: a file system without holes\n", path);
        skip();
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

/* -- the writer ------------------------------------------------------------------------------ */

enum { W_CHUNK = 4096, W_CHUNKS = 256, W_SLOTS = 8, W_SLOT_BYTES = W_CHUNK * W_CHUNKS };

struct written {
    struct origin origin;
    struct over_writer *writer;
    struct over_slot slots[W_SLOTS];
    atomic_uint wakes;
};

static void on_wake(void *user)
{
    struct written *x = user;
    (void)atomic_fetch_add(&x->wakes, 1);
}

/* Slot i is to fill its part of the origin with the byte 100 + i. */
static void written_begin(struct written *x)
{
    char path[TMPDIR_FILE_BYTES];
    *x = (struct written){0};
    make_file("origin", W_SLOTS * W_SLOT_BYTES, &x->origin, path);
    for (unsigned i = 0; i < W_SLOTS; i++) {
        struct over_slot *s = &x->slots[i];
        *s = (struct over_slot){.offset_bytes = (uint64_t)i * W_SLOT_BYTES,
                                .len_bytes = W_SLOT_BYTES,
                                .chunks = W_CHUNKS,
                                .new = aligned_alloc(W_CHUNK, W_SLOT_BYTES),
                                .verdicts = malloc(W_CHUNKS)};
        assert_true(s->new && s->verdicts);
        memset(s->new, 100 + (int)i, W_SLOT_BYTES);
        memset(s->verdicts, OVER_WRITE, W_CHUNKS);
    }
    assert_int_equal(over_writer_new(&x->origin, W_CHUNK, on_wake, x, &x->writer, NULL), 0);
}

static void written_end(struct written *x)
{
    over_writer_free(x->writer);
    for (unsigned i = 0; i < W_SLOTS; i++) {
        free(x->slots[i].new);
        free(x->slots[i].verdicts);
    }
    origin_close(&x->origin);
}

static uint64_t in_one_minute(void)
{
    return clock_now_ns(clock_asleep_too()) + UINT64_C(60000000000);
}

/* Waits for one slot at least. */
static struct over_slot *collect(struct written *x)
{
    struct err e = ERR_INIT;
    for (unsigned i = 0; i < 10000; i++) {
        const struct timespec pause = {.tv_nsec = 1000 * 1000};
        int rc = 0;
        struct over_slot *s = over_writer_collect(x->writer, &rc, &e);
        if (rc < 0)
            fail_msg("%s", e.text);
        if (s)
            return s;
        (void)nanosleep(&pause, NULL);
    }
    fail_msg("nothing came back");
    return NULL;
}

/* How many bytes of slot i's part of the origin have this value. */
static uint64_t count_bytes(const struct written *x, unsigned i, int value)
{
    static uint8_t buf[W_SLOT_BYTES];
    uint64_t n = 0;
    assert_int_equal(origin_read(&x->origin, (uint64_t)i * sizeof buf, buf, sizeof buf, NULL), 0);
    for (size_t k = 0; k < sizeof buf; k++)
        n += buf[k] == value;
    return n;
}

static void writer__writes_what_differs_and_nothing_else(void **state)
{
    (void)state;
    struct written x;
    written_begin(&x);
    struct over_slot *s = &x.slots[0];
    assert_int_equal(origin_write(&x.origin, 0, x.slots[7].new, W_SLOT_BYTES, NULL), 0);
    memset(s->verdicts, OVER_SAME, W_CHUNKS);
    memset(s->verdicts + 3, OVER_WRITE, 2);
    memset(s->verdicts + 9, OVER_ZERO, 4);
    memset(s->verdicts + 100, OVER_WRITE, 156); /* large enough for O_DIRECT */
    over_writer_put(x.writer, s, in_one_minute());
    assert_ptr_equal(collect(&x), s);
    assert_null(s->link);
    assert_int_equal(s->next, W_CHUNKS);
    assert_int_equal(s->written.chunks_written, 162);
    assert_true(s->written.bytes_written == UINT64_C(162) * W_CHUNK);
    assert_int_equal(count_bytes(&x, 0, 100), 158 * W_CHUNK);
    assert_int_equal(count_bytes(&x, 0, 0), 4 * W_CHUNK);
    assert_int_equal(count_bytes(&x, 0, 107), (256 - 162) * W_CHUNK);
    assert_int_equal(atomic_load(&x.wakes), 1);
    written_end(&x);
}

static void writer__what_is_late_comes_back_unwritten(void **state)
{
    (void)state;
    struct written x;
    written_begin(&x);
    struct over_slot *s = &x.slots[1];
    memset(s->verdicts, OVER_SAME, 10);
    over_writer_put(x.writer, s, clock_now_ns(clock_asleep_too()) - 1);
    assert_ptr_equal(collect(&x), s);
    assert_int_equal(s->next, 10);
    assert_int_equal(s->written.chunks_written, 0);
    assert_int_equal(count_bytes(&x, 1, 0), W_SLOT_BYTES);
    over_writer_put(x.writer, s, in_one_minute());
    assert_ptr_equal(collect(&x), s);
    assert_int_equal(s->next, W_CHUNKS);
    assert_int_equal(count_bytes(&x, 1, 101), W_SLOT_BYTES - 10 * W_CHUNK);
    written_end(&x);
}

static void writer__the_time_is_over_too_while_the_machine_sleeps(void **state)
{
    (void)state;
    struct written x;
    written_begin(&x);
    const uint64_t until_ns = in_one_minute();
    atomic_store(&slept_s, 3600);
    over_writer_put(x.writer, &x.slots[0], until_ns);
    assert_ptr_equal(collect(&x), &x.slots[0]);
    assert_int_equal(x.slots[0].next, 0);
    assert_int_equal(count_bytes(&x, 0, 0), W_SLOT_BYTES);
    atomic_store(&slept_s, 0);
    written_end(&x);
}

static void writer__a_write_that_ends_after_the_lease_is_late_until_that_is_good_again(void **state)
{
    (void)state;
    struct written x;
    written_begin(&x);
    const uint64_t until_ns = in_one_minute();
    over_writer_lease(x.writer, until_ns);
    over_writer_put(x.writer, &x.slots[0], until_ns);
    assert_ptr_equal(collect(&x), &x.slots[0]);
    assert_false(over_writer_is_late(x.writer));
    atomic_store(&looks_first, 1); /* at which it is begun */
    over_writer_put(x.writer, &x.slots[1], until_ns);
    assert_ptr_equal(collect(&x), &x.slots[1]);
    assert_int_equal(x.slots[1].next, W_CHUNKS);
    assert_true(over_writer_is_late(x.writer));
    over_writer_lease(x.writer, in_one_minute());
    assert_false(over_writer_is_late(x.writer));
    over_writer_lease(x.writer, until_ns);
    over_writer_put(x.writer, &x.slots[2], until_ns); /* over: nothing is begun */
    assert_ptr_equal(collect(&x), &x.slots[2]);
    assert_int_equal(x.slots[2].next, 0);
    assert_false(over_writer_is_late(x.writer));
    atomic_store(&slept_s, 0);
    written_end(&x);
}

static void writer__after_hold_nothing_is_written(void **state)
{
    (void)state;
    enum { ROUNDS = 20 };
    unsigned back = 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct written x;
        char path[TMPDIR_FILE_BYTES];
        unsigned seen = 0;
        int rc;
        written_begin(&x);
        for (unsigned i = 0; i < W_SLOTS; i++)
            over_writer_put(x.writer, &x.slots[i], in_one_minute());
        over_writer_hold(x.writer);
        for (const struct over_slot *s = over_writer_collect(x.writer, &rc, NULL); s; s = s->link) {
            unsigned i = (unsigned)(s - x.slots);
            seen++;
            back += s->next == 0;
            assert_true(s->next == 0 || s->next == W_CHUNKS);
            assert_int_equal(count_bytes(&x, i, 100 + (int)i), s->next == 0 ? 0 : W_SLOT_BYTES);
        }
        assert_int_equal(seen, W_SLOTS);
        written_end(&x);
        assert_int_equal(unlink(tmpdir_file(&dir, "origin", path)), 0);
    }
    assert_true(back > 0); /* else it was never held up */
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
        cmocka_unit_test(compare__takes_all_of_what_was_not_read_for_changed),
        cmocka_unit_test(dimension__slots_hold_whole_chunks_and_memory_stays_bounded),
        cmocka_unit_test_setup_teardown(sparse_read__equals_a_plain_read_and_marks_only_whole_holes,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(sparse_skip__stops_before_the_first_data_of_either, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(writer__writes_what_differs_and_nothing_else, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(writer__what_is_late_comes_back_unwritten, setup, teardown),
        cmocka_unit_test_setup_teardown(writer__the_time_is_over_too_while_the_machine_sleeps,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(
            writer__a_write_that_ends_after_the_lease_is_late_until_that_is_good_again, setup,
            teardown),
        cmocka_unit_test_setup_teardown(writer__after_hold_nothing_is_written, setup, teardown),
        cmocka_unit_test(instance__is_the_same_for_the_same_origin_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
