/* SPDX-License-Identifier: Apache-2.0 */
/* When a record, or a group's, counts as saved: its text is synced before it takes the record's
 * name, and the folder after that. fsync() is this program's own and notes what it is called for.
 */
#include "daemon/volume/group.h"
#include "daemon/volume/record.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SYNCS = 8 };

static struct {
    ino_t ino;
    bool folder;
} syncs[SYNCS];
static unsigned count, folders_fail;

int fsync(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && count < SYNCS) {
        syncs[count].ino = st.st_ino;
        syncs[count++].folder = S_ISDIR(st.st_mode);
        if (S_ISDIR(st.st_mode) && folders_fail > 0) {
            folders_fail--;
            errno = EIO;
            return -1;
        }
    }
    return (int)syscall(SYS_fsync, fd);
}

static void make_record(struct volume_record *r)
{
    volume_record_init(r);
    r->id = uuid_make();
    r->size_bytes = 1 << 20;
    (void)snprintf(r->name, sizeof r->name, "vol");
}

static void save__syncs_the_text_and_then_the_folder(void **state)
{
    (void)state;
    struct tmpdir dir;
    struct volume_record r;
    struct stat st, folder;
    char path[TMPDIR_FILE_BYTES];
    tmpdir_make(&dir);
    make_record(&r);
    for (unsigned again = 0; again < 3; again++) { /* the two files take turns */
        count = folders_fail = 0;
        assert_int_equal(volume_record_save(dir.path, &r, NULL), 0);
        assert_int_equal(stat(tmpdir_file(&dir, RECORD_FILE, path), &st), 0);
        assert_int_equal(stat(dir.path, &folder), 0);
        assert_int_equal(count, 2);
        assert_int_equal(syncs[0].ino, st.st_ino);
        assert_int_equal(syncs[1].ino, folder.st_ino);
    }
    count = 0;
    folders_fail = 1;
    assert_int_equal(volume_record_save(dir.path, &r, NULL), SNAP_EIO);
    volume_record_done(&r);
    tmpdir_remove(&dir);
}

/* It may be there and go with the next power loss: so it is not there. */
static void group__that_may_not_be_durable_is_taken_back(void **state)
{
    (void)state;
    struct tmpdir dir;
    struct uuid id = uuid_make();
    char path[TMPDIR_FILE_BYTES];
    tmpdir_make(&dir);
    assert_int_equal(mkdir(tmpdir_file(&dir, "groups", path), 0700), 0);
    count = 0;
    folders_fail = 1;
    assert_int_equal(group_save(dir.path, &id, &id, 1, NULL), SNAP_EIO);
    assert_int_equal(folders_fail, 0);
    assert_false(group_exists(dir.path, &id));
    assert_int_equal(group_save(dir.path, &id, &id, 1, NULL), 0);
    assert_true(group_exists(dir.path, &id));
    tmpdir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(save__syncs_the_text_and_then_the_folder),
        cmocka_unit_test(group__that_may_not_be_durable_is_taken_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
