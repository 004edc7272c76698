/* SPDX-License-Identifier: Apache-2.0 */
/* Small files: reading with a cap, replacing, folders. */
#include "common/base/file.h"

#include "common/base/limits.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct tmpdir dir;

/* This fsync stands before libc's: it notes what is synced and fails when told to. */
enum { SYNCS_NOTED = 8 };
static struct {
    unsigned count;
    unsigned fail_at; /* counted from 1; 0: never */
    ino_t inode[SYNCS_NOTED];
} syncs;

int fsync(int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return -1;
    syncs.inode[syncs.count++ % SYNCS_NOTED] = st.st_ino;
    if (syncs.count == syncs.fail_at) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

static ino_t inode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_ino;
}

static int make_dir(void **state)
{
    (void)state;
    memset(&syncs, 0, sizeof syncs);
    tmpdir_make(&dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    tmpdir_remove(&dir);
    return 0;
}

static unsigned entries_in(const char *path)
{
    DIR *d = opendir(path);
    unsigned n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    (void)closedir(d);
    return n;
}

static void assert_content(const char *path, const char *want)
{
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(file_read_all(path, 4096, &text, &len, NULL), 0);
    assert_int_equal(len, strlen(want));
    assert_string_equal(text, want);
    free(text);
}

static void file_replace__makes_and_replaces(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES];
    tmpdir_file(&dir, "record", path);
    assert_int_equal(file_replace(path, "one", 3, 0600, NULL), 0);
    assert_content(path, "one");
    assert_int_equal(file_replace(path, "second", 6, 0600, NULL), 0);
    assert_content(path, "second");
    assert_int_equal(file_replace(path, NULL, 0, 0600, NULL), 0);
    assert_content(path, "");
    assert_int_equal(entries_in(dir.path), 1);
}

static void file_replace__mode_is_as_asked_under_any_umask(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES];
    struct stat st;
    mode_t before = umask(077);
    assert_int_equal(file_replace(tmpdir_file(&dir, "f", path), "x", 1, 0644, NULL), 0);
    (void)umask(before);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0644);
}

static void file_replace__leftover_of_a_dead_process_is_overwritten(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES], tmp[TMPDIR_FILE_BYTES];
    tmpdir_file(&dir, "f", path);
    tmpdir_file(&dir, "f.tmp", tmp);
    assert_int_equal(file_replace(tmp, "a longer left-over", 18, 0400, NULL), 0);
    assert_int_equal(file_replace(path, "new", 3, 0600, NULL), 0);
    assert_content(path, "new");
    assert_int_equal(access(tmp, F_OK), -1);
}

/* A planted link must not lead the new content elsewhere. */
static void file_replace__does_not_follow_a_link_at_tmp(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES], tmp[TMPDIR_FILE_BYTES], victim[TMPDIR_FILE_BYTES];
    tmpdir_file(&dir, "f", path);
    assert_int_equal(file_replace(tmpdir_file(&dir, "victim", victim), "safe", 4, 0600, NULL), 0);
    assert_int_equal(symlink(victim, tmpdir_file(&dir, "f.tmp", tmp)), 0);
    assert_int_equal(file_replace(path, "new", 3, 0600, NULL), 0);
    assert_content(victim, "safe");
    assert_content(path, "new");
}

/* The file-size limit stands in for a full disk; the old content must stay. */
static void file_replace__failed_write_leaves_the_old_content(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES];
    static char big[8192];
    struct rlimit before;
    struct err e = ERR_INIT;
    tmpdir_file(&dir, "f", path);
    assert_int_equal(file_replace(path, "old", 3, 0600, NULL), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit small = {.rlim_cur = 4096, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = file_replace(path, big, sizeof big, 0600, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(rc, SNAP_ENOSPC);
    assert_int_equal(e.sys_errno, EFBIG);
    assert_content(path, "old");
    assert_int_equal(entries_in(dir.path), 1);
}

static void file_replace__a_folder_of_that_name_is_an_error(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES];
    struct err e = ERR_INIT;
    assert_int_equal(file_make_dir(tmpdir_file(&dir, "d", path), 0700, NULL), 0);
    assert_true(file_replace(path, "x", 1, 0600, &e) < 0);
    assert_non_null(strstr(e.text, path));
    assert_int_equal(entries_in(dir.path), 1);
    tmpdir_file(&dir, "absent/f", path);
    assert_int_equal(file_replace(path, "x", 1, 0600, &e), SNAP_ENOENT);
}

static void file_replace__syncs_the_content_and_then_the_folder(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES];
    assert_int_equal(file_replace(tmpdir_file(&dir, "f", path), "x", 1, 0600, NULL), 0);
    assert_int_equal(syncs.count, 2);
    assert_int_equal(syncs.inode[0], inode_of(path));
    assert_int_equal(syncs.inode[1], inode_of(dir.path));
}

static void file_replace__failed_syncs_are_told(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES];
    struct err e = ERR_INIT;
    assert_int_equal(file_replace(tmpdir_file(&dir, "f", path), "old", 3, 0600, NULL), 0);
    syncs.fail_at = syncs.count + 1;
    assert_int_equal(file_replace(path, "new", 3, 0600, &e), SNAP_EIO);
    assert_content(path, "old");
    assert_int_equal(entries_in(dir.path), 1);
    syncs.fail_at = syncs.count + 2;
    assert_int_equal(file_replace(path, "new", 3, 0600, &e), SNAP_EIO);
    assert_non_null(strstr(e.text, "sync folder"));
    assert_content(path, "new");
}

static void file_make_dir__syncs_the_parent_each_time(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES];
    tmpdir_file(&dir, "d/", path);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(file_make_dir(path, 0700, NULL), 0);
        assert_int_equal(syncs.count, i + 1);
        assert_int_equal(syncs.inode[i], inode_of(dir.path));
    }
}

static void file_read_all__absent_is_enoent(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES], *text = (char *)1;
    size_t len = 77;
    struct err e = ERR_INIT;
    assert_int_equal(file_read_all(tmpdir_file(&dir, "no", path), 10, &text, &len, &e),
                     SNAP_ENOENT);
    assert_int_equal(e.sys_errno, ENOENT);
    assert_ptr_equal(text, (char *)1);
    assert_int_equal(len, 77);
}

static void file_read_all__cap_is_exact(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 100, 16383, 16384, 16385, 32768, 100000};
    char path[TMPDIR_FILE_BYTES];
    char *data = malloc(100000);
    assert_non_null(data);
    memset(data, 'd', 100000);
    tmpdir_file(&dir, "f", path);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *text = NULL;
        size_t n = sizes[i], len = 0;
        assert_int_equal(file_replace(path, data, n, 0600, NULL), 0);
        assert_int_equal(file_read_all(path, n, &text, &len, NULL), 0);
        assert_int_equal(len, n);
        assert_memory_equal(text, data, n);
        assert_int_equal(text[n], 0);
        free(text);
        text = NULL;
        assert_int_equal(file_read_all(path, n + 1, &text, &len, NULL), 0);
        free(text);
        if (n > 0) {
            text = NULL;
            assert_int_equal(file_read_all(path, n - 1, &text, &len, NULL), SNAP_ELIMIT);
            assert_null(text);
        }
    }
    free(data);
}

static void file_read_all__reads_files_without_a_size(void **state)
{
    (void)state;
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(file_read_all("/proc/self/status", 1 << 20, &text, &len, NULL), 0);
    assert_true(len > 100 && memcmp(text, "Name:", 5) == 0);
    free(text);
}

static void file_read_all__endless_file_stops_at_the_cap(void **state)
{
    (void)state;
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(file_read_all("/dev/zero", 1 << 20, &text, &len, NULL), SNAP_ELIMIT);
    assert_null(text);
}

static void file_read_all__folder_is_an_error(void **state)
{
    (void)state;
    char *text = NULL;
    size_t len = 0;
    assert_int_equal(file_read_all(dir.path, 100, &text, &len, NULL), SNAP_EINVAL);
}

static void file_make_dir__makes_once_and_takes_what_is_there(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES];
    struct stat st;
    struct err e = ERR_INIT;
    tmpdir_file(&dir, "d/", path);
    assert_int_equal(file_make_dir(path, 0700, NULL), 0);
    assert_int_equal(file_make_dir(path, 0700, NULL), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISDIR(st.st_mode) && (st.st_mode & 07777) == 0700);
    assert_int_equal(file_replace(tmpdir_file(&dir, "f", path), "x", 1, 0600, NULL), 0);
    assert_int_equal(file_make_dir(path, 0700, &e), SNAP_EEXIST);
    assert_int_equal(file_make_dir(tmpdir_file(&dir, "no/d", path), 0700, &e), SNAP_ENOENT);
}

static void file_sync_parent__finds_the_folder_of_any_path(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES], too_long[LIMIT_PATH_BYTES + 1];
    static const struct {
        const char *path, *parent;
    } good[] = {{"x", "."},  {"a/b/", "a"}, {"a//b", "a"}, {"//x", "/"},
                {"/x", "/"}, {"/", "/"},    {"x/", "."}};
    int cwd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(cwd >= 0);
    assert_int_equal(file_make_dir(tmpdir_file(&dir, "a", path), 0700, NULL), 0);
    assert_int_equal(chdir(dir.path), 0);
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        syncs.count = 0;
        assert_int_equal(file_sync_parent(good[i].path, NULL), 0);
        assert_int_equal(syncs.count, 1);
        assert_int_equal(syncs.inode[0], inode_of(good[i].parent));
    }
    assert_int_equal(file_sync_parent("no/x", NULL), SNAP_ENOENT);
    assert_int_equal(file_sync_parent("", NULL), SNAP_EINVAL);
    memset(too_long, 'a', sizeof too_long);
    too_long[LIMIT_PATH_BYTES] = '\0';
    assert_int_equal(file_sync_parent(too_long, NULL), SNAP_EINVAL);
    assert_int_equal(file_replace(too_long, "x", 1, 0600, NULL), SNAP_EINVAL);
    assert_int_equal(fchdir(cwd), 0);
    (void)close(cwd);
}

static void file_make_parents__makes_what_is_missing_and_names_what_is_in_the_way(void **state)
{
    (void)state;
    char path[TMPDIR_FILE_BYTES];
    struct stat st;
    struct err e = ERR_INIT;
    assert_int_equal(file_make_parents(tmpdir_file(&dir, "x/y/z", path), 0700, NULL), 0);
    assert_int_equal(file_make_parents(path, 0700, NULL), 0);
    assert_int_not_equal(stat(path, &st), 0);
    *strrchr(path, '/') = '\0';
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISDIR(st.st_mode));
    assert_int_equal(file_replace(tmpdir_file(&dir, "x/file", path), "", 0, 0600, NULL), 0);
    assert_int_equal(file_make_parents(tmpdir_file(&dir, "x/file/z", path), 0700, &e), SNAP_EEXIST);
    assert_non_null(strstr(e.text, "x/file is there and is not a folder"));
    assert_int_equal(file_make_parents("", 0700, &e), SNAP_EINVAL);
}

#define WITH_DIR(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_DIR(file_replace__makes_and_replaces),
        WITH_DIR(file_replace__mode_is_as_asked_under_any_umask),
        WITH_DIR(file_replace__leftover_of_a_dead_process_is_overwritten),
        WITH_DIR(file_replace__does_not_follow_a_link_at_tmp),
        WITH_DIR(file_replace__failed_write_leaves_the_old_content),
        WITH_DIR(file_replace__a_folder_of_that_name_is_an_error),
        WITH_DIR(file_replace__syncs_the_content_and_then_the_folder),
        WITH_DIR(file_replace__failed_syncs_are_told),
        WITH_DIR(file_make_dir__syncs_the_parent_each_time),
        WITH_DIR(file_read_all__absent_is_enoent),
        WITH_DIR(file_read_all__cap_is_exact),
        WITH_DIR(file_read_all__reads_files_without_a_size),
        WITH_DIR(file_read_all__endless_file_stops_at_the_cap),
        WITH_DIR(file_read_all__folder_is_an_error),
        WITH_DIR(file_make_dir__makes_once_and_takes_what_is_there),
        WITH_DIR(file_make_parents__makes_what_is_missing_and_names_what_is_in_the_way),
        WITH_DIR(file_sync_parent__finds_the_folder_of_any_path),
    };
    (void)signal(SIGXFSZ, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
