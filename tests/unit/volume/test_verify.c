/* SPDX-License-Identifier: Apache-2.0 */
/* Verification: what has changed on the disk is found with its place, and nothing else is. */
#include "tests/unit/volume/hosted_fixture.h"
#include "tests/unit/volume/job_fixture.h"

#include "common/cow/cow_disk.h"
#include "common/io/sum.h"
#include "daemon/volume/job.h"
#include "daemon/volume/sums.h"
#include "daemon/volume/verify.h"

struct verified {
    struct verify_spec spec;
    struct volume_job_status status;
    struct verify_fault first;
    uint32_t faults;
    uint64_t faults_total;
    int code;
};

static void do_verify(struct call *c)
{
    struct verified *y = c->arg;
    volume_verify_start(c->f->volume, &y->spec, call_end, c);
}

static void do_show(struct call *c)
{
    struct verified *y = c->arg;
    struct err err = ERR_INIT;
    int rc = volume_job_show(c->f->volume, &y->spec.job, &y->status, &err);
    const struct verify_fault *f =
        volume_verify_faults(c->f->volume, &y->spec.job, &y->faults, &y->faults_total);
    if (f != NULL && y->faults > 0)
        y->first = f[0];
    call_end(c, rc, &err);
}

static struct verified verify(struct fixture *f, struct uuid snapshot, bool rebuild)
{
    struct verified y = {.spec = {.job = uuid_make(), .snapshot = snapshot, .rebuild = rebuild}};
    y.code = call(f, do_verify, &y);
    for (int i = 0; y.code == 0 && i < 2000; i++) {
        assert_int_equal(call(f, do_show, &y), 0);
        if (y.status.state != JOB_RUNNING)
            return y;
        (void)usleep(2000);
    }
    if (y.code == 0)
        fail_msg("the verification does not end");
    return y;
}

static void file_path(struct fixture *f, struct uuid id, const char *end, char *path, size_t bytes)
{
    char dir[LIMIT_PATH_BYTES], text[UUID_TEXT_BYTES];
    assert_int_equal(volume_dir_format(f->env.state_dir, &f->id, dir, sizeof dir, NULL), 0);
    (void)snprintf(path, bytes, "%s/%s.%s", dir, uuid_format(&id, text), end);
}

/* The disk changes a byte behind everybody's back. */
static void flip(struct fixture *f, struct uuid id, uint64_t offset)
{
    char path[2 * LIMIT_PATH_BYTES], byte;
    file_path(f, id, "cow", path, sizeof path);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte = (char)(byte ^ 1);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(close(fd), 0);
}

static int setup(void **state)
{
    return fixture_setup_as(state,
                            &(struct fixture_spec){.kind = VOLUME_HOSTED, .checksums = true});
}

static struct uuid snapshot_of_all(struct fixture *f)
{
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    struct uuid s = fixture_create(f, "s1");
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 2), 0);
    return s;
}

/* The first half of the volume is kept: old_chunk n is entry n of the table, at new_chunk n + 2. */
static struct uuid snapshot_of_half(struct fixture *f)
{
    for (uint64_t c = 0; c < CHUNKS; c++) /* no two are alike */
        assert_int_equal(fixture_fill(f, ITSELF, c * CHUNK_BYTES, CHUNK_BYTES, (int)c + 1), 0);
    struct uuid s = fixture_create(f, "s1");
    for (uint64_t c = 0; c < CHUNKS / 2; c++)
        assert_int_equal(fixture_fill(f, ITSELF, c * CHUNK_BYTES, CHUNK_BYTES, 99), 0);
    return s;
}

static void bytes_at(int fd, bool write, void *bytes, size_t len, uint64_t at)
{
    ssize_t n = write ? pwrite(fd, bytes, len, (off_t)at) : pread(fd, bytes, len, (off_t)at);
    assert_int_equal(n, (ssize_t)len);
}

/* While the volume is closed the disk changes entry i of the table, from x's to another. */
static void set_entry(struct fixture *f, struct uuid id, uint64_t i, struct cow_exception x)
{
    char path[2 * LIMIT_PATH_BYTES];
    uint8_t bytes[COW_EXCEPTION_BYTES];
    file_path(f, id, "cow", path, sizeof path);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    cow_exception_encode(&x, bytes, 0);
    bytes_at(fd, true, bytes, sizeof bytes, CHUNK_BYTES + i * sizeof bytes);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(close(fd), 0);
}

/* Its side file becomes one of before there were tags: the hash's number, and other checksums. */
static void side_of_before(struct fixture *f, struct uuid id, uint64_t chunks)
{
    static uint8_t content[CHUNK_BYTES];
    struct iovec iov = {content, sizeof content};
    char path[2 * LIMIT_PATH_BYTES];
    uint8_t hash[4] = {1}, slot[SUM_SLOT_BYTES] = {0};
    file_path(f, id, "cow", path, sizeof path);
    int cow = open(path, O_RDONLY);
    file_path(f, id, "sum", path, sizeof path);
    int sum = open(path, O_RDWR);
    assert_true(cow >= 0 && sum >= 0);
    bytes_at(sum, true, hash, sizeof hash, 32);
    for (uint64_t n = 2; n < 2 + chunks; n++) {
        bytes_at(cow, false, content, sizeof content, n * sizeof content);
        le64_store(slot, sum_of(n, &iov, 1, 0, sizeof content));
        bytes_at(sum, true, slot, sizeof slot, SUM_PAGE_BYTES + n * sizeof slot);
    }
    assert_int_equal(fsync(sum), 0);
    assert_int_equal(close(sum), 0);
    assert_int_equal(close(cow), 0);
}

static uint8_t hash_of(struct fixture *f, struct uuid id)
{
    char path[2 * LIMIT_PATH_BYTES];
    uint8_t hash = 0;
    file_path(f, id, "sum", path, sizeof path);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    bytes_at(fd, false, &hash, 1, 32);
    assert_int_equal(close(fd), 0);
    return hash;
}

struct told {
    struct verify_fault fault;
    char text[ERR_TEXT_BYTES];
};

static void do_tell(struct call *c)
{
    struct told *t = c->arg;
    (void)verify_fault_format(c->f->volume, &t->fault, t->text, sizeof t->text);
    call_end(c, 0, NULL);
}

static void expect_told(struct fixture *f, const struct verify_fault *fault, const char *part)
{
    struct told t = {.fault = *fault};
    assert_int_equal(call(f, do_tell, &t), 0);
    if (strstr(t.text, part) == NULL)
        fail_msg("no \"%s\" in: %s", part, t.text);
}

/* -- cases ---------------------------------------------------------------------------- */

/* Another old_chunk that could well be there: the table is as sound as before. */
static void verify__finds_an_old_chunk_that_has_changed(void **state)
{
    struct fixture *f = *state;
    struct uuid s = snapshot_of_half(f);
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    set_entry(f, s, 5, (struct cow_exception){5 + 32, 7}); /* one bit */
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    struct checking g = {.check = {.snapshot = s}};
    assert_int_equal(call(f, fixture_do_check, &g), 0);
    assert_int_equal(g.check.faults_total, 0);
    struct verified y = verify(f, s, false);
    assert_int_equal(y.faults_total, 1);
    assert_int_equal(y.first.kind, VERIFY_ENTRY);
    assert_int_equal(y.first.meant_old, 5);
    assert_non_null(strstr(y.status.text, "1 have a damaged entry"));
    expect_told(f, &y.first,
                "old_chunk 37, new_chunk 7 (area 0, entry 5): the disk has changed its");
    expect_told(f, &y.first, "is of old_chunk 5");

    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    set_entry(f, s, 5, (struct cow_exception){5 + 32 + 16, 7}); /* two */
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    y = verify(f, s, false);
    assert_int_equal(y.faults_total, 1);
    assert_int_equal(y.first.kind, VERIFY_DIFFERS);
    expect_told(f, &y.first, "old_chunk 53, new_chunk 7 (area 0, entry 5): differs");
    expect_told(f, &y.first, "the disk has changed it, or its entry in the table");

    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    set_entry(f, s, 5, (struct cow_exception){5, 7});
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    assert_string_equal(verify(f, ITSELF, false).status.text, "0 faults");
}

static void verify__finds_new_chunks_that_have_changed_places(void **state)
{
    struct fixture *f = *state;
    struct uuid s = snapshot_of_half(f);
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    set_entry(f, s, 5, (struct cow_exception){5, 12});
    set_entry(f, s, 10, (struct cow_exception){10, 7});
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    struct verified y = verify(f, ITSELF, false);
    assert_int_equal(y.faults_total, 2);
    assert_int_equal(y.first.kind, VERIFY_DIFFERS);
    expect_told(f, &y.first, "old_chunk 5, new_chunk 12 (area 0, entry 5): differs");
}

/* Of many faults, also where the table is in another order than the chunks. */
static void verify__tells_where_each_entry_stands(void **state)
{
    enum { MANY = 20 };
    struct fixture *f = *state;
    struct uuid s = snapshot_of_half(f);
    for (uint64_t i = 0; i < MANY; i++)
        flip(f, s, (i + 2) * CHUNK_BYTES);
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    set_entry(f, s, 0, (struct cow_exception){MANY - 1, MANY + 1}); /* the first and the 20th */
    set_entry(f, s, MANY - 1, (struct cow_exception){0, 2});
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    struct verified y = verify(f, s, false);
    assert_int_equal(y.faults_total, MANY);
    assert_true(y.first.placed);
    assert_int_equal(y.first.old_chunk, 0);
    assert_int_equal(y.first.area_no, 0);
    assert_int_equal(y.first.entry, MANY - 1);
}

static void verify__a_side_file_of_before_goes_on_until_it_is_rebuilt(void **state)
{
    struct fixture *f = *state;
    struct uuid s = snapshot_of_half(f), c = fixture_clone(f, s, "c");
    assert_int_equal(fixture_fill(f, c, 0, 4 * CHUNK_BYTES, 3), 0);
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    side_of_before(f, s, CHUNKS / 2);
    side_of_before(f, c, 4);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    /* new exceptions, and overwriting in place */
    assert_int_equal(fixture_fill(f, ITSELF, SIZE / 2, SIZE / 2, 4), 0);
    assert_int_equal(fixture_fill(f, c, CHUNK_BYTES + 512, 5 * CHUNK_BYTES - 512, 5), 0);
    for (int again = 0; again < 2; again++) {
        struct verified y = verify(f, ITSELF, false);
        assert_string_equal(y.status.text, "0 faults");
        assert_int_equal(y.status.done, CHUNKS + 6);
        fixture_reopen(f);
    }
    assert_int_equal(hash_of(f, s), 1);
    flip(f, s, 7 * CHUNK_BYTES + 99);
    struct verified y = verify(f, s, false);
    assert_int_equal(y.faults_total, 1);
    expect_told(f, &y.first, "old_chunk 5, new_chunk 7: differs");
    flip(f, s, 7 * CHUNK_BYTES + 99);

    assert_int_equal(verify(f, ITSELF, true).status.state, JOB_DONE);
    assert_int_equal(hash_of(f, s), 2);
    assert_int_equal(hash_of(f, c), 2);
    assert_string_equal(verify(f, ITSELF, false).status.text, "0 faults");
    fixture_expect_byte(f, c, 2 * CHUNK_BYTES, 6 * CHUNK_BYTES, 5);
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    set_entry(f, s, 5, (struct cow_exception){10, 7});
    set_entry(f, s, 10, (struct cow_exception){5, 12});
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    assert_int_equal(verify(f, s, false).faults_total, 2);
}

static void do_begin_read(struct call *c)
{
    snapshot_reader_begin(volume_snapshot_find(c->f->volume, c->arg));
    call_end(c, 0, NULL);
}

static void do_end_read(struct call *c)
{
    snapshot_reader_end(volume_snapshot_find(c->f->volume, c->arg));
    call_end(c, 0, NULL);
}

static void do_look_closing(struct call *c)
{
    const struct snapshot *s = volume_snapshot_find(c->f->volume, c->arg);
    call_end(c, s->phase == SNAPSHOT_CLOSING && s->store == NULL, NULL);
}

/* A read takes its time, and whoever reads meanwhile is to try again: it is sound. */
static void verify__rebuild_tells_nobody_that_the_node_is_damaged(void **state)
{
    struct fixture *f = *state;
    struct verify_spec spec = {.job = uuid_make(), .rebuild = true};
    struct uuid s = snapshot_of_half(f);
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    side_of_before(f, s, CHUNKS / 2);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    assert_int_equal(call(f, do_begin_read, &s), 0);
    struct verified y = {.spec = spec};
    assert_int_equal(call(f, do_verify, &y), 0);
    for (int i = 0; i < 4000 && call(f, do_look_closing, &s) == 0; i++)
        (void)usleep(1000);
    assert_int_equal(call(f, do_look_closing, &s), 1);
    assert_int_equal(fixture_look(f, s).state, SNAPSHOT_POISONED);
    assert_int_equal(call(f, do_end_read, &s), 0);
    assert_int_equal(fixture_job_end(f, spec.job), JOB_DONE);
    assert_int_equal(fixture_look(f, s).state, SNAPSHOT_OK);
}

/* One write over chunks that stand in any order, and over one that is not there yet. */
static void do_close_node(struct call *c)
{
    snapshot_close(volume_snapshot_find(c->f->volume, c->arg), true, call_end, c);
}

static void do_open_node(struct call *c)
{
    snapshot_open(volume_snapshot_find(c->f->volume, c->arg), call_end, c);
}

static void verify__does_not_take_a_node_that_is_being_closed_for_damaged(void **state)
{
    struct fixture *f = *state;
    struct uuid s = snapshot_of_half(f);
    struct call closing;
    assert_int_equal(call(f, do_begin_read, &s), 0);
    call_begin(&closing, f, do_close_node, &s);
    for (int i = 0; i < 4000 && call(f, do_look_closing, &s) == 0; i++)
        (void)usleep(1000);
    assert_int_equal(call(f, do_look_closing, &s), 1);
    struct verified all = verify(f, ITSELF, false);
    assert_int_equal(all.code, 0);
    assert_int_equal(all.faults_total, 0);
    assert_int_equal(verify(f, s, false).code, SNAP_EPOISONED);
    assert_int_equal(call(f, do_end_read, &s), 0);
    assert_int_equal(call_wait(&closing), 0);
    assert_int_equal(verify(f, s, false).code, SNAP_ECORRUPT); /* nobody opens it any more */
    assert_int_equal(call(f, do_open_node, &s), 0);
    assert_string_equal(verify(f, ITSELF, false).status.text, "0 faults");
}

static void verify__overwriting_in_place_keeps_checksums_of_the_right_chunks(void **state)
{
    static const uint64_t order[] = {4, 1, 2, 6, 3, 0};
    struct fixture *f = *state;
    struct uuid s = snapshot_of_all(f), c = fixture_clone(f, s, "c");
    for (size_t i = 0; i < ARRAY_LEN(order); i++)
        assert_int_equal(fixture_fill(f, c, order[i] * CHUNK_BYTES, CHUNK_BYTES, 3), 0);
    assert_int_equal(fixture_fill(f, c, 512, 8 * CHUNK_BYTES - 1024, 4), 0);
    for (int again = 0; again < 2; again++) {
        struct verified y = verify(f, c, false);
        assert_string_equal(y.status.text, "0 faults");
        assert_int_equal(y.status.done, 8);
        fixture_reopen(f);
    }
}

static void verify__sound_content_has_no_faults_also_after_opening_again(void **state)
{
    struct fixture *f = *state;
    struct uuid s = snapshot_of_all(f), c = fixture_clone(f, s, "c");
    assert_int_equal(fixture_fill(f, c, 0, SIZE / 2, 3), 0);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(fixture_fill(f, c, 100, CHUNK_BYTES, 4 + again), 0); /* in place */
        struct verified y = verify(f, ITSELF, false);
        assert_int_equal(y.status.state, JOB_DONE);
        assert_string_equal(y.status.text, "0 faults");
        assert_int_equal(y.status.done, CHUNKS + CHUNKS / 2);
        fixture_reopen(f);
    }
}

static void verify__finds_a_flipped_bit_with_its_place(void **state)
{
    struct fixture *f = *state;
    struct uuid s = snapshot_of_all(f);
    fixture_expect_byte(f, s, 7 * CHUNK_BYTES, 8 * CHUNK_BYTES, 1);
    flip(f, s, 7 * CHUNK_BYTES + 99);
    fixture_expect_byte(f, s, 7 * CHUNK_BYTES, 8 * CHUNK_BYTES,
                        1); /* from memory, which is none of its business */
    struct verified y = verify(f, s, false);
    assert_int_equal(y.faults_total, 1);
    assert_int_equal(y.first.kind, VERIFY_DIFFERS);
    assert_int_equal(y.first.new_chunk, 7);
    assert_true(uuid_equal(&y.first.snapshot, &s));
    assert_non_null(strstr(y.status.text, "1 differ"));
    flip(f, s, 7 * CHUNK_BYTES + 99);
    assert_int_equal(verify(f, s, false).faults_total, 0);
}

static void count_warning(const char *text, void *user)
{
    (*(unsigned *)user)++;
    assert_non_null(strstr(text, "verification"));
}

struct warned {
    struct uuid id;
    unsigned count;
};

static void do_warnings(struct call *c)
{
    struct warned *w = c->arg;
    snapshot_warnings(volume_snapshot_find(c->f->volume, &w->id), count_warning, &w->count);
    call_end(c, 0, NULL);
}

static void verify__faults_are_warned_of_until_there_are_none(void **state)
{
    struct fixture *f = *state;
    struct uuid s = snapshot_of_all(f);
    for (int turn = 0; turn < 4; turn++) {
        struct warned w = {.id = s};
        flip(f, s, 7 * CHUNK_BYTES + 99);
        assert_int_equal(verify(f, ITSELF, false).faults_total, turn % 2 == 0 ? 1 : 0);
        assert_int_equal(call(f, do_warnings, &w), 0);
        assert_int_equal(w.count, turn % 2 == 0 ? 1 : 0);
    }
}

static void verify__damaged_snapshot_is_a_fault_and_a_check_of_it_says_so(void **state)
{
    struct fixture *f = *state;
    char path[2 * LIMIT_PATH_BYTES];
    struct uuid s = snapshot_of_all(f), other = fixture_create(f, "s2");
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 3), 0);
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    file_path(f, s, "cow", path, sizeof path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    struct verified y = verify(f, ITSELF, false);
    assert_int_equal(y.status.state, JOB_DONE);
    assert_int_equal(y.status.done, CHUNKS); /* the other's */
    assert_int_equal(y.faults_total, 1);
    assert_int_equal(y.first.kind, VERIFY_DAMAGED);
    assert_true(uuid_equal(&y.first.snapshot, &s));
    struct checking g = {.check = {.snapshot = s}};
    assert_int_equal(call(f, fixture_do_check, &g), SNAP_ECORRUPT);
    free(g.check.faults);
    g = (struct checking){.check = {.snapshot = other}};
    assert_int_equal(call(f, fixture_do_check, &g), 0);
    free(g.check.faults);
}

static void verify__rebuild_takes_what_stands_there(void **state)
{
    struct fixture *f = *state;
    struct uuid s = snapshot_of_all(f);
    flip(f, s, 7 * CHUNK_BYTES + 99);
    struct verified y = verify(f, s, true);
    assert_int_equal(y.faults_total, 0);
    assert_non_null(strstr(y.status.text, "1 were given a new checksum"));
    fixture_reopen(f);
    assert_int_equal(verify(f, s, false).faults_total, 0);
}

static void verify__missing_checksums_are_said_and_made_on_request_only(void **state)
{
    struct fixture *f = *state;
    char path[2 * LIMIT_PATH_BYTES];
    struct uuid s = snapshot_of_all(f);
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    file_path(f, s, "sum", path, sizeof path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    struct verified y = verify(f, ITSELF, false);
    assert_int_equal(y.faults_total, 0);
    assert_non_null(strstr(y.status.text, "64 have no checksum"));
    assert_true(access(path, F_OK) != 0);
    y = verify(f, ITSELF, true);
    assert_int_equal(y.status.state, JOB_DONE);
    fixture_expect_byte(f, s, 0, SIZE, 1);
    fixture_reopen(f);
    assert_string_equal(verify(f, s, false).status.text, "0 faults");
    flip(f, s, 9 * CHUNK_BYTES);
    assert_int_equal(verify(f, s, false).faults_total, 1);
}

static void verify__a_side_file_of_another_device_is_not_used(void **state)
{
    struct fixture *f = *state;
    char path[2 * LIMIT_PATH_BYTES], other[2 * LIMIT_PATH_BYTES];
    struct uuid s1 = snapshot_of_all(f), s2 = fixture_create(f, "s2");
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    file_path(f, s1, "sum", path, sizeof path);
    file_path(f, s2, "sum", other, sizeof other);
    assert_int_equal(rename(other, path), 0);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    struct verified y = verify(f, s1, false);
    assert_int_equal(y.faults_total, 0);
    assert_non_null(strstr(y.status.text, "64 have no checksum"));
    fixture_expect_byte(f, s1, 0, SIZE, 1);
}

static void verify__the_same_again_is_the_same_job_and_two_at_once_are_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid s = snapshot_of_all(f);
    struct verified y = verify(f, s, false);
    assert_int_equal(call(f, do_verify, &y), 0);
    assert_int_equal(call(f, do_show, &y), 0);
    assert_int_equal(y.status.state, JOB_DONE);
    struct verified gone = {.spec = {.job = uuid_make(), .snapshot = uuid_make()}};
    assert_int_equal(call(f, do_verify, &gone), SNAP_ENOENT);
}

static void delete__takes_the_side_file_along(void **state)
{
    struct fixture *f = *state;
    char path[2 * LIMIT_PATH_BYTES];
    struct uuid s = snapshot_of_all(f);
    file_path(f, s, "sum", path, sizeof path);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(fixture_delete(f, s, s, false), 0);
    fixture_settle(f);
    for (int i = 0; i < 1000 && access(path, F_OK) == 0; i++)
        (void)usleep(2000);
    assert_true(access(path, F_OK) != 0);
}

static void do_scrubbed(struct call *c)
{
    *(int64_t *)c->arg = c->f->volume->record.scrubbed_s;
    call_end(c, 0, NULL);
}

static void scrub__is_done_when_due_and_noted_in_the_record(void **state)
{
    struct fixture *f = *state;
    struct uuid s = snapshot_of_all(f);
    int64_t first = 0, second = 0;
    f->env.scrub_interval_s = 1;
    fixture_reopen(f);
    for (int i = 0; i < 2000 && first == 0; i++) {
        (void)usleep(5000);
        assert_int_equal(call(f, do_scrubbed, &first), 0);
    }
    assert_true(first > 0);
    fixture_reopen(f);
    assert_int_equal(call(f, do_scrubbed, &second), 0);
    assert_true(second >= first);
    fixture_expect_byte(f, s, 0, SIZE, 1);
}

/* A daemon that is started again more often than the volume's turn comes would never come to it. */
static void scrub__a_first_one_is_not_put_off_by_restarts(void **state)
{
    struct fixture *f = *state;
    int64_t done = 0;
    f->env.scrub_interval_s = UINT64_C(10) * 365 * 86400; /* the volume is older, by its record */
    fixture_reopen(f);
    for (int i = 0; i < 2000 && done == 0; i++) {
        (void)usleep(5000);
        assert_int_equal(call(f, do_scrubbed, &done), 0);
    }
    assert_true(done > 0);
}

static void do_note_scrub(struct call *c)
{
    struct volume *v = c->f->volume;
    char dir[LIMIT_PATH_BYTES];
    struct err err = ERR_INIT;
    v->record.scrubbed_s = *(const int64_t *)c->arg;
    int rc = volume_dir_format(v->set->env->state_dir, &v->record.id, dir, sizeof dir, &err);
    if (rc == 0)
        rc = volume_record_save(dir, &v->record, &err);
    call_end(c, rc, &err);
}

/* The volume was made long ago, by its record; the clock was ten years ahead, and is right again.
 */
static void scrub__noted_by_a_clock_that_was_ahead_is_due_again(void **state)
{
    struct fixture *f = *state;
    const int64_t ahead = clock_wall_s() + INT64_C(10) * 365 * 86400;
    int64_t done = ahead;
    assert_int_equal(call(f, do_note_scrub, &done), 0);
    f->env.scrub_interval_s = 86400;
    fixture_reopen(f);
    for (int i = 0; i < 2000 && done == ahead; i++) {
        (void)usleep(5000);
        assert_int_equal(call(f, do_scrubbed, &done), 0);
    }
    assert_true(done < ahead);
    assert_true(done > 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(verify__sound_content_has_no_faults_also_after_opening_again),
        CASE(verify__finds_a_flipped_bit_with_its_place),
        CASE(verify__finds_an_old_chunk_that_has_changed),
        CASE(verify__finds_new_chunks_that_have_changed_places),
        CASE(verify__tells_where_each_entry_stands),
        CASE(verify__a_side_file_of_before_goes_on_until_it_is_rebuilt),
        CASE(verify__rebuild_tells_nobody_that_the_node_is_damaged),
        CASE(verify__does_not_take_a_node_that_is_being_closed_for_damaged),
        CASE(verify__overwriting_in_place_keeps_checksums_of_the_right_chunks),
        CASE(verify__faults_are_warned_of_until_there_are_none),
        CASE(verify__damaged_snapshot_is_a_fault_and_a_check_of_it_says_so),
        CASE(verify__rebuild_takes_what_stands_there),
        CASE(verify__missing_checksums_are_said_and_made_on_request_only),
        CASE(verify__a_side_file_of_another_device_is_not_used),
        CASE(verify__the_same_again_is_the_same_job_and_two_at_once_are_refused),
        CASE(scrub__is_done_when_due_and_noted_in_the_record),
        CASE(scrub__a_first_one_is_not_put_off_by_restarts),
        CASE(scrub__noted_by_a_clock_that_was_ahead_is_due_again),
        CASE(delete__takes_the_side_file_along),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
