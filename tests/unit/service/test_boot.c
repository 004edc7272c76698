/* SPDX-License-Identifier: Apache-2.0 */
/* What clients are told of writes that may be lost: across restarts, and without room for a mark.
 */
#include "common/base/file.h"
#include "daemon/service/server.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

struct fixture {
    struct tmpdir dir;
    char mark[TMPDIR_FILE_BYTES];
    struct config config;
    struct server server; /* of the run that is on */
    struct uuid boot;
};

/* A run begins. Returns whether it says that writes of the one before may be lost. */
static bool start(struct fixture *f)
{
    struct uuid before = f->boot;
    memset(&f->server, 0, sizeof f->server);
    f->server.config = &f->config;
    f->boot = boot_of(f->dir.path);
    return !uuid_equal(&f->boot, &before);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    tmpdir_make(&f->dir);
    (void)tmpdir_file(&f->dir, "flush-failed", f->mark);
    (void)snprintf(f->config.state_dir, sizeof f->config.state_dir, "%s", f->dir.path);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    tmpdir_remove(&f->dir);
    free(f);
    return 0;
}

static void put_mark(struct fixture *f, size_t len)
{
    uint8_t text[UUID_BYTES];
    memset(text, 0xa5, sizeof text);
    assert_int_equal(file_replace(f->mark, text, len, 0600, NULL), 0);
}

/* Run fn while no file may be written: the hardest of full disks. */
static void without_room(void (*fn)(struct fixture *f), struct fixture *f)
{
    struct rlimit before, none;
    void (*old)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    fn(f);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, old);
}

static void flush_fails(struct fixture *f)
{
    boot_flush_failed(&f->server);
}

static void start_again(struct fixture *f)
{
    (void)start(f);
}

static void boot__is_the_machines_until_a_flush_fails(void **state)
{
    struct fixture *f = *state;
    (void)start(f);
    assert_false(start(f));
    flush_fails(f);
    assert_true(start(f));
    assert_false(start(f));
    flush_fails(f);
    assert_true(atomic_load(&f->server.flush_failed));
    struct uuid told = f->boot;
    assert_true(start(f));
    assert_false(uuid_equal(&f->boot, &told));
}

/* Its block is there, on disk, before any flush fails. */
static void start__sets_the_space_of_the_mark_aside(void **state)
{
    struct fixture *f = *state;
    struct stat before, after;
    (void)start(f);
    assert_int_equal(stat(f->mark, &before), 0);
    assert_int_equal(before.st_size, UUID_BYTES);
    flush_fails(f);
    assert_int_equal(stat(f->mark, &after), 0);
    assert_int_equal(after.st_size, UUID_BYTES);
    assert_int_equal(after.st_ino, before.st_ino);
    assert_int_equal(after.st_blocks, before.st_blocks);
}

static void boot__of_a_state_directory_without_the_mark_stays_the_same(void **state)
{
    struct fixture *f = *state;
    (void)start(f);
    assert_int_equal(unlink(f->mark), 0); /* as an older program leaves it */
    assert_false(start(f));
    assert_int_equal(access(f->mark, F_OK), 0);
}

static void boot__of_a_mark_that_an_older_program_made_is_another_and_stays(void **state)
{
    struct fixture *f = *state;
    (void)start(f);
    put_mark(f, UUID_BYTES);
    assert_true(start(f));
    assert_false(start(f));
}

static void boot__of_a_mark_that_was_cut_off_is_another_once(void **state)
{
    struct fixture *f = *state;
    for (size_t len = 0; len < UUID_BYTES; len += 5) {
        (void)start(f);
        put_mark(f, len);
        assert_true(start(f));
        assert_false(start(f));
    }
}

static void mark__that_cannot_be_written_is_cut_short(void **state)
{
    struct fixture *f = *state;
    (void)start(f);
    without_room(flush_fails, f);
    assert_true(atomic_load(&f->server.flush_failed));
    assert_true(start(f));
    assert_false(start(f));
}

static void mark__is_kept_where_it_could_not_be_set_aside(void **state)
{
    struct fixture *f = *state;
    (void)start(f);
    assert_int_equal(unlink(f->mark), 0);
    without_room(start_again, f);
    assert_int_equal(access(f->mark, F_OK), -1); /* a short one would tell of a failure */
    without_room(flush_fails, f);
    assert_true(start(f));
    assert_false(start(f));
}

/* One that cannot be mended is told of again and again, rather than never. */
static void boot__of_a_short_mark_on_a_full_disk_is_another_each_time(void **state)
{
    struct fixture *f = *state;
    (void)start(f);
    put_mark(f, 3);
    struct uuid before = f->boot;
    without_room(start_again, f);
    assert_false(uuid_equal(&f->boot, &before));
    before = f->boot;
    without_room(start_again, f);
    assert_false(uuid_equal(&f->boot, &before));
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(boot__is_the_machines_until_a_flush_fails),
        CASE(start__sets_the_space_of_the_mark_aside),
        CASE(boot__of_a_state_directory_without_the_mark_stays_the_same),
        CASE(boot__of_a_mark_that_an_older_program_made_is_another_and_stays),
        CASE(boot__of_a_mark_that_was_cut_off_is_another_once),
        CASE(mark__that_cannot_be_written_is_cut_short),
        CASE(mark__is_kept_where_it_could_not_be_set_aside),
        CASE(boot__of_a_short_mark_on_a_full_disk_is_another_each_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
