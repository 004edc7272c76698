/* SPDX-License-Identifier: Apache-2.0 */
/* Group records: there after a save, gone after an error, listed. */
#include "daemon/volume/group.h"

#include "common/base/file.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct fixture {
    struct tmpdir dir;
    struct uuid seen[8];
    unsigned count;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    char path[TMPDIR_FILE_BYTES];
    tmpdir_make(&f->dir);
    *state = f;
    return mkdir(tmpdir_file(&f->dir, "groups", path), 0700);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    tmpdir_remove(&f->dir);
    free(f);
    return 0;
}

static int keep(void *user, const struct uuid *id)
{
    struct fixture *f = user;
    assert_true(f->count < 8);
    f->seen[f->count++] = *id;
    return 0;
}

static void save__is_there_until_removed(void **state)
{
    struct fixture *f = *state;
    struct uuid id = uuid_make(), volumes[3] = {uuid_make(), uuid_make(), uuid_make()};
    struct err e = ERR_INIT;
    char path[TMPDIR_FILE_BYTES], name[64], uuid[UUID_TEXT_BYTES], *text = NULL;
    size_t len = 0;
    assert_false(group_exists(f->dir.path, &id));
    if (group_save(f->dir.path, &id, volumes, 3, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(group_save(f->dir.path, &id, volumes, 3, &e), 0); /* the same again */
    assert_true(group_exists(f->dir.path, &id));
    (void)snprintf(name, sizeof name, "groups/%s", uuid_format(&id, uuid));
    assert_int_equal(file_read_all(tmpdir_file(&f->dir, name, path), 4096, &text, &len, &e), 0);
    for (int i = 0; i < 3; i++)
        assert_non_null(strstr(text, uuid_format(&volumes[i], uuid)));
    free(text);
    assert_int_equal(group_remove(f->dir.path, &id, &e), 0);
    assert_false(group_exists(f->dir.path, &id));
    assert_int_equal(group_remove(f->dir.path, &id, &e), 0);
}

static void save__that_fails_leaves_no_group(void **state)
{
    struct fixture *f = *state;
    struct uuid id = uuid_make();
    struct err e = ERR_INIT;
    char path[TMPDIR_FILE_BYTES];
    assert_int_equal(rmdir(tmpdir_file(&f->dir, "groups", path)), 0);
    assert_int_equal(group_save(f->dir.path, &id, &id, 1, &e), SNAP_ENOENT);
    assert_false(group_exists(f->dir.path, &id));
}

static void each__lists_groups_and_clears_what_was_cut_off(void **state)
{
    struct fixture *f = *state;
    struct uuid a = uuid_make(), b = uuid_make(), cut = uuid_make();
    char name[64], uuid[UUID_TEXT_BYTES], path[TMPDIR_FILE_BYTES];
    assert_int_equal(group_save(f->dir.path, &a, NULL, 0, NULL), 0);
    assert_int_equal(group_save(f->dir.path, &b, &a, 1, NULL), 0);
    (void)snprintf(name, sizeof name, "groups/%s.tmp", uuid_format(&cut, uuid));
    (void)close(open(tmpdir_file(&f->dir, name, path), O_CREAT | O_WRONLY, 0600));
    (void)close(open(tmpdir_file(&f->dir, "groups/notes", path), O_CREAT | O_WRONLY, 0600));
    assert_int_equal(group_each(f->dir.path, keep, f, NULL), 0);
    assert_int_equal(f->count, 2);
    assert_true(uuid_equal(&f->seen[0], &a) != uuid_equal(&f->seen[1], &a));
    assert_true(uuid_equal(&f->seen[0], &b) != uuid_equal(&f->seen[1], &b));
    assert_int_equal(access(path, F_OK), 0);
    assert_int_not_equal(access(tmpdir_file(&f->dir, name, path), F_OK), 0);
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(save__is_there_until_removed),
        CASE(save__that_fails_leaves_no_group),
        CASE(each__lists_groups_and_clears_what_was_cut_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
