/* SPDX-License-Identifier: Apache-2.0 */
/* Small files: configuration, records, certificates. Read whole, replaced whole.
 *
 * Replacing is write, fsync, rename, fsync of the folder: at each moment the name
 * leads to one whole content, and after success to the new one whatever happens
 * to the power. A left-over path.tmp of a process that died is overwritten.
 *
 * Must not be used for the chunk store, which has common/io. Blocks; any thread,
 * one at a time a path.
 */
#include "common/base/file.h"

#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_READ_BYTES = 16 * 1024 };

static int file_fail(const char *doing, const char *path, struct err *reterr)
{
    int sys_errno = errno;
    return err_set_errno(reterr, err_code_of_errno(sys_errno), sys_errno, "%s %s", doing, path);
}

/* Reads until buf is full or the end. Returns the length, or -1 with errno. */
static ssize_t file_read_full(int fd, char *buf, size_t len_bytes)
{
    size_t done = 0;

    while (done < len_bytes) {
        ssize_t n = read(fd, buf + done, len_bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

/* Sizes of files in /proc and of pipes are not known before they are read, so the
 * buffer grows with what has come; one byte more than the cap shows what is too long. */
int file_read_all(const char *path, size_t cap_bytes, char **ret_text, size_t *ret_len,
                  struct err *reterr)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    CLEANUP_FREE char *text = NULL;
    size_t len = 0, room = 0;

    CHECK(cap_bytes < SIZE_MAX / 4);
    if (fd < 0)
        return file_fail("open", path, reterr);
    while (len == room) {
        if (len > cap_bytes)
            return err_set(reterr, SNAP_ELIMIT, "read %s: longer than %zu bytes", path, cap_bytes);
        size_t want = room == 0 ? FILE_READ_BYTES : room * 2;
        room = want < cap_bytes + 1 ? want : cap_bytes + 1;
        char *grown = realloc(text, room + 1);
        if (grown == NULL)
            return err_set(reterr, SNAP_ENOMEM, "read %s: out of memory", path);
        text = grown;
        ssize_t n = file_read_full(fd, text + len, room - len);
        if (n < 0)
            return file_fail("read", path, reterr);
        len += (size_t)n;
    }
    text[len] = '\0';
    *ret_text = text;
    *ret_len = len;
    text = NULL;
    return 0;
}

static int file_write_synced(const char *path, const void *data, size_t len_bytes, mode_t mode,
                             struct err *reterr)
{
    const char *pos = data;

    if (unlink(path) != 0 && errno != ENOENT)
        return file_fail("remove", path, reterr);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return file_fail("create", path, reterr);
    if (fchmod(fd, mode) != 0) /* the umask has no say */
        return file_fail("set the mode of", path, reterr);
    while (len_bytes > 0) {
        ssize_t n = write(fd, pos, len_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return file_fail("write", path, reterr);
        pos += n;
        len_bytes -= (size_t)n;
    }
    if (fsync(fd) != 0)
        return file_fail("sync", path, reterr);
    return 0;
}

int file_replace(const char *path, const void *data, size_t len_bytes, mode_t mode,
                 struct err *reterr)
{
    char tmp[LIMIT_PATH_BYTES];

    int n = snprintf(tmp, sizeof tmp, "%s.tmp", path);
    if (n < 0 || (size_t)n >= sizeof tmp)
        return err_set(reterr, SNAP_EINVAL, "path is longer than %d bytes", (int)LIMIT_PATH_BYTES);
    int rc = file_write_synced(tmp, data, len_bytes, mode, reterr);
    if (rc == 0 && rename(tmp, path) != 0)
        rc = file_fail("rename to", path, reterr);
    if (rc < 0) {
        (void)unlink(tmp);
        return rc;
    }
    return file_sync_parent(path, reterr);
}

/* The folder of path into dir: "a/b" and "a/b/" have "a", "b" has ".", "/b" has "/". */
static int file_parent_of(const char *path, char dir[LIMIT_PATH_BYTES], struct err *reterr)
{
    size_t len = strnlen(path, LIMIT_PATH_BYTES);

    if (len == 0 || len == LIMIT_PATH_BYTES)
        return err_set(reterr, SNAP_EINVAL, "path is empty or longer than %d bytes",
                       (int)LIMIT_PATH_BYTES);
    while (len > 1 && path[len - 1] == '/')
        len--;
    while (len > 0 && path[len - 1] != '/')
        len--;
    while (len > 1 && path[len - 1] == '/')
        len--;
    if (len == 0) {
        dir[len++] = '.';
    } else {
        memcpy(dir, path, len);
    }
    dir[len] = '\0';
    return 0;
}

int file_sync_parent(const char *path, struct err *reterr)
{
    char dir[LIMIT_PATH_BYTES];

    int rc = file_parent_of(path, dir, reterr);
    if (rc < 0)
        return rc;
    CLEANUP_CLOSE int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return file_fail("open folder", dir, reterr);
    if (fsync(fd) != 0)
        return file_fail("sync folder", dir, reterr);
    return 0;
}

/* A folder that is there already is synced too: who made it may have died before. */
int file_make_dir(const char *path, mode_t mode, struct err *reterr)
{
    struct stat st;

    if (mkdir(path, mode) != 0) {
        if (errno != EEXIST)
            return file_fail("make folder", path, reterr);
        if (stat(path, &st) != 0)
            return file_fail("look at", path, reterr);
        if (!S_ISDIR(st.st_mode))
            return err_set(reterr, SNAP_EEXIST, "%s is there and is not a folder", path);
    }
    return file_sync_parent(path, reterr);
}

int file_make_parents(const char *path, mode_t mode, struct err *reterr)
{
    char folder[LIMIT_PATH_BYTES];
    struct stat st;

    if (*path == '\0' || strlen(path) >= sizeof folder)
        return err_set(reterr, SNAP_EINVAL, "path is empty or longer than %d bytes",
                       (int)LIMIT_PATH_BYTES);
    for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        (void)snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
        if (stat(folder, &st) == 0 && S_ISDIR(st.st_mode))
            continue;
        int rc = file_make_dir(folder, mode, reterr);
        if (rc < 0)
            return rc;
    }
    return 0;
}
