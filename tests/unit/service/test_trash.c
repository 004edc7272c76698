/* SPDX-License-Identifier: Apache-2.0 */
/* A deletion that cannot be made durable leaves the volume where it is.
 *
 * fsync() is this program's own: it fails as often as a case asks for. */
#include "daemon/service/trash.h"

#include "common/base/file.h"
#include "common/base/limits.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int failures;

int fsync(int fd)
{
    if (failures > 0) {
        failures--;
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

static void trash__move_that_is_not_durable_is_taken_back(void **state)
{
    (void)state;
    struct tmpdir dir;
    struct uuid id = uuid_make(), key = uuid_make();
    char path[TMPDIR_FILE_BYTES], volume[TMPDIR_FILE_BYTES + UUID_TEXT_BYTES];
    char text[UUID_TEXT_BYTES];
    struct err err = ERR_INIT;
    tmpdir_make(&dir);
    assert_int_equal(mkdir(tmpdir_file(&dir, "trash", path), 0700), 0);
    assert_int_equal(mkdir(tmpdir_file(&dir, "volumes", path), 0700), 0);
    (void)snprintf(volume, sizeof volume, "%s/%s", path, uuid_format(&id, text));
    assert_int_equal(mkdir(volume, 0700), 0);
    for (int i = 0; i < 2; i++) {
        failures = 1;
        assert_int_equal(trash_volume(dir.path, &id, &key, &err), SNAP_EIO);
        assert_int_equal(access(volume, F_OK), 0);
    }
    assert_int_equal(trash_volume(dir.path, &id, &key, &err), 0);
    assert_int_equal(access(volume, F_OK), -1);
    trash_empty(dir.path);
    tmpdir_remove(&dir);
}

/* A folder that somebody else has put there stays as it is. */
static void unstage__that_fails_leaves_what_is_there(void **state)
{
    (void)state;
    struct tmpdir dir;
    struct uuid id = uuid_make();
    char path[TMPDIR_FILE_BYTES], text[UUID_TEXT_BYTES], stage[LIMIT_PATH_BYTES];
    char volume[TMPDIR_FILE_BYTES + UUID_TEXT_BYTES], foreign[sizeof volume + 8];
    struct err err = ERR_INIT;
    tmpdir_make(&dir);
    assert_int_equal(mkdir(tmpdir_file(&dir, "trash", path), 0700), 0);
    assert_int_equal(mkdir(tmpdir_file(&dir, "volumes", path), 0700), 0);
    (void)snprintf(volume, sizeof volume, "%s/%s", path, uuid_format(&id, text));
    (void)snprintf(foreign, sizeof foreign, "%s/x", volume);
    assert_int_equal(mkdir(volume, 0700), 0);
    assert_int_equal(mkdir(foreign, 0700), 0);
    assert_int_equal(trash_stage(dir.path, &id, stage, sizeof stage, &err), 0);
    assert_int_equal(trash_unstage(dir.path, &id, &err), SNAP_EEXIST);
    trash_drop(dir.path, &id, false);
    assert_int_equal(access(stage, F_OK), -1);
    assert_int_equal(access(foreign, F_OK), 0);
    assert_int_equal(rmdir(foreign), 0);
    for (int i = 1; i <= 2; i++) { /* neither folder's flush */
        assert_int_equal(trash_stage(dir.path, &id, stage, sizeof stage, &err), 0);
        assert_int_equal(rmdir(volume) == 0, i == 1);
        failures = 1;
        assert_int_equal(trash_unstage(dir.path, &id, &err), SNAP_EIO);
        assert_int_equal(access(stage, F_OK), 0);
        assert_int_equal(access(volume, F_OK), -1);
    }
    assert_int_equal(trash_unstage(dir.path, &id, &err), 0);
    assert_int_equal(access(volume, F_OK), 0);
    trash_drop(dir.path, &id, true);
    assert_int_equal(access(volume, F_OK), -1);
    assert_int_equal(access(stage, F_OK), -1);
    tmpdir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trash__move_that_is_not_durable_is_taken_back),
        cmocka_unit_test(unstage__that_fails_leaves_what_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
