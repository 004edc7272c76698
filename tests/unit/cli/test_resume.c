/* SPDX-License-Identifier: Apache-2.0 */
/* What is noted of long work, and the sink that goes on with it. */
#include "client/snapctl/resume.h"
#include "client/snapctl/sink.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIZE = 64 * 1024, HALF = SIZE / 2 };

static void assert_ok(int rc, const struct err *e)
{
    if (rc != 0)
        print_error("%s\n", e->text);
    assert_int_equal(rc, 0);
}

static struct tmpdir dir;
static char path[TMPDIR_FILE_BYTES], partial[TMPDIR_FILE_BYTES], home[TMPDIR_FILE_BYTES];
static const struct resume_file file = {.device = 7, .inode = 8, .changed_ns = 9};

static int setup(void **state)
{
    (void)state;
    tmpdir_make(&dir);
    (void)tmpdir_file(&dir, "out", path);
    (void)tmpdir_file(&dir, "out.partial", partial);
    (void)tmpdir_file(&dir, "state", home);
    assert_int_equal(setenv("XDG_STATE_HOME", home, 1), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tmpdir_remove(&dir);
    return 0;
}

static struct resume work(uint64_t size_bytes)
{
    struct resume s;
    struct err e = ERR_INIT;
    assert_ok(resume_init(&s, "work", size_bytes, &e), &e);
    return s;
}

static void expect_why(const struct resume *s, const struct resume_file *f, const char *says)
{
    const char *why = NULL;
    uint64_t done = 0;
    assert_false(resume_load(s, f, &done, &why));
    assert_non_null(strstr(why, says));
    assert_true(says[0] != '\0' || why[0] == '\0');
}

static void resume__what_was_noted_is_loaded_and_forgotten(void **state)
{
    struct resume s = work(SIZE);
    struct err e = ERR_INIT;
    const char *why = NULL;
    uint64_t done = 0;
    (void)state;
    expect_why(&s, &file, "");
    assert_ok(resume_save(&s, &file, 4096, &e), &e);
    assert_ok(resume_save(&s, &file, 8192, &e), &e);
    assert_true(resume_load(&s, &file, &done, &why));
    assert_int_equal(done, 8192);
    assert_ok(resume_forget(&s, &e), &e);
    expect_why(&s, &file, "");
    assert_ok(resume_forget(&s, &e), &e);
}

static void resume_forget__what_cannot_be_removed_is_told(void **state)
{
    struct resume s = work(SIZE);
    struct err e = ERR_INIT;
    (void)state;
    assert_ok(resume_save(&s, &file, 4096, &e), &e);
    assert_int_equal(unlink(s.path), 0);
    assert_int_equal(mkdir(s.path, 0700), 0);
    assert_true(resume_forget(&s, &e) < 0);
    assert_non_null(strstr(e.text, s.path));
}

/* As after `sudo -u somebody`, which leaves HOME as it was. */
static void resume_forget__what_cannot_be_reached_is_none(void **state)
{
    const uid_t self = geteuid();
    struct resume s = work(SIZE);
    struct err e = ERR_INIT;
    (void)state;
    assert_ok(resume_save(&s, &file, 4096, &e), &e);
    assert_int_equal(chmod(home, 0), 0);
    assert_int_equal(self == 0 ? seteuid(65534) : 0, 0);
    const int rc = resume_forget(&s, &e), of_output = resume_forget_output(&file, &e);
    assert_int_equal(seteuid(self), 0);
    assert_int_equal(chmod(home, 0700), 0);
    assert_ok(rc, &e);
    assert_ok(of_output, &e);
}

static void resume_save__keeps_the_largest_numbers(void **state)
{
    const struct resume_file large = {.device = UINT64_MAX, .inode = UINT64_MAX - 1};
    struct resume s = work(SIZE);
    struct err e = ERR_INIT;
    const char *why = NULL;
    uint64_t done = 0;
    (void)state;
    assert_ok(resume_save(&s, &large, 4096, &e), &e);
    assert_true(resume_load(&s, &large, &done, &why));
    expect_why(&s, &file, "another file");
}

static void resume_load__another_file_size_or_content_is_told(void **state)
{
    struct resume s = work(SIZE), other = work(2 * SIZE);
    struct resume_file another = file, changed = file;
    struct err e = ERR_INIT;
    (void)state;
    another.inode++;
    changed.changed_ns++;
    assert_ok(resume_save(&s, &file, 4096, &e), &e);
    expect_why(&other, &file, "another size");
    expect_why(&s, &another, "another file");
    expect_why(&s, &changed, "changed");
}

static void resume_load__a_damaged_note_is_told(void **state)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "{\"version\": 1}",
        "{\"version\": 2, \"size_bytes\": 65536, \"device\": 7, \"inode\": 8, "
        "\"changed_ns\": 9, \"done_bytes\": 1}",
        "{\"version\": 1, \"size_bytes\": 65536, \"device\": 7, \"inode\": 8, "
        "\"changed_ns\": 9, \"done_bytes\": 65537}",
        "{\"version\": 1, \"size_bytes\": 65536, \"device\": 7, \"inode\": 8, "
        "\"changed_ns\": 9, \"done_bytes\": -1}",
    };
    struct resume s = work(SIZE);
    struct err e = ERR_INIT;
    (void)state;
    assert_ok(resume_save(&s, &file, 1, &e), &e);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        FILE *f = fopen(s.path, "w");
        assert_non_null(f);
        assert_true(fputs(texts[i], f) >= 0);
        assert_int_equal(fclose(f), 0);
        expect_why(&s, &file, "cannot be read");
    }
}

/* -- of an export -- */

static struct resume export_of(const char *subject)
{
    struct resume s;
    struct err e = ERR_INIT;
    assert_ok(resume_init_output(&s, &file, subject, SIZE, &e), &e);
    return s;
}

static void resume_init_output__a_file_has_one_note_whatever_goes_there(void **state)
{
    struct resume one = export_of("one"), two = export_of("two");
    struct err e = ERR_INIT;
    const char *why = NULL;
    uint64_t done = 0;
    (void)state;
    assert_ok(resume_save(&one, &file, 4096, &e), &e);
    assert_true(resume_load(&one, &file, &done, &why));
    expect_why(&two, &file, "another snapshot");
    assert_ok(resume_save(&two, &file, 8192, &e), &e);
    expect_why(&one, &file, "another snapshot");
    assert_ok(resume_forget_output(&file, &e), &e);
    expect_why(&two, &file, "");
}

/* -- the sink -- */

static void put_half(struct sink *s, uint64_t at_bytes, int byte)
{
    struct sink_buf *b = NULL;
    struct err e = ERR_INIT;
    assert_ok(sink_take(s, &b, &e), &e);
    b->offset_bytes = at_bytes;
    b->len_bytes = HALF;
    memset(b->data, byte, HALF);
    sink_put(s, b);
}

/* An export that was cut off after its first half. */
static struct resume_file cut_off(void)
{
    struct resume_file is;
    struct sink *s = NULL;
    struct err e = ERR_INIT;
    uint64_t done = 0;
    assert_ok(sink_open(path, SIZE, &s, &e), &e);
    assert_ok(sink_file(s, &is, &e), &e);
    put_half(s, 0, 'a');
    for (int tries = 0; tries < 1000 && done < HALF; tries++) {
        assert_ok(sink_checkpoint(s, &done, &e), &e);
        (void)usleep(1000);
    }
    assert_int_equal(done, HALF);
    put_half(s, HALF, 'x');
    sink_keep(s);
    sink_close(s);
    assert_int_equal(access(partial, F_OK), 0);
    assert_int_not_equal(access(path, F_OK), 0);
    return is;
}

static void sink_open_again__goes_on_and_drops_what_came_after(void **state)
{
    struct resume_file is = cut_off();
    struct sink *s = NULL;
    struct err e = ERR_INIT;
    uint8_t *has = malloc(SIZE);
    (void)state;
    assert_non_null(has);
    assert_ok(sink_open_again(path, SIZE, HALF, &is, &s, &e), &e);
    assert_ok(sink_finish(s, &e), &e);
    sink_close(s);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, has, SIZE), SIZE);
    assert_int_equal(close(fd), 0);
    for (size_t i = 0; i < SIZE; i++)
        assert_int_equal(has[i], i < HALF ? 'a' : 0);
    free(has);
}

static void sink_open_again__another_file_stays_as_it_is(void **state)
{
    struct resume_file is = cut_off();
    struct sink *s = NULL;
    struct err e = ERR_INIT;
    (void)state;
    is.inode++;
    assert_int_equal(sink_open_again(path, SIZE, HALF, &is, &s, &e), SNAP_EMISMATCH);
    assert_null(s);
    assert_int_equal(access(partial, F_OK), 0);
    assert_int_equal(unlink(partial), 0);
    assert_int_equal(sink_open_again(path, SIZE, HALF, &is, &s, &e), SNAP_ENOENT);
    assert_int_not_equal(access(partial, F_OK), 0);
}

static void sink_open__what_was_noted_of_the_file_is_forgotten(void **state)
{
    struct resume_file is = cut_off();
    struct resume s;
    struct sink *sink = NULL;
    struct err e = ERR_INIT;
    const char *why = NULL;
    uint64_t done = 0;
    (void)state;
    assert_ok(resume_init_output(&s, &is, "one", SIZE, &e), &e);
    assert_ok(resume_save(&s, &is, HALF, &e), &e);
    assert_ok(sink_open_again(path, SIZE, HALF, &is, &sink, &e), &e);
    sink_close(sink);
    assert_true(resume_load(&s, &is, &done, &why));
    assert_ok(sink_open(path, SIZE, &sink, &e), &e);
    expect_why(&s, &is, "");
    sink_close(sink);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(resume__what_was_noted_is_loaded_and_forgotten, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(resume_load__another_file_size_or_content_is_told, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(resume_load__a_damaged_note_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(resume_forget__what_cannot_be_removed_is_told, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(resume_forget__what_cannot_be_reached_is_none, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(resume_save__keeps_the_largest_numbers, setup, teardown),
        cmocka_unit_test_setup_teardown(resume_init_output__a_file_has_one_note_whatever_goes_there,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(sink_open__what_was_noted_of_the_file_is_forgotten, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(sink_open_again__goes_on_and_drops_what_came_after, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(sink_open_again__another_file_stays_as_it_is, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
