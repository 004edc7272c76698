/* SPDX-License-Identifier: Apache-2.0 */
/* Made in place and not by rename: half a mark is one, too. */
#include "client/nbdkit/guard_mark.h"

#include "common/base/file.h"
#include "common/base/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int mark_fail(struct err *reterr, const char *what, const char *path)
{
    return err_set_errno(reterr, err_code_of_errno(errno), errno, "%s broken mark %s", what, path);
}

int guard_mark_look(const char *path, bool *ret_there, struct err *reterr)
{
    struct stat st;
    *ret_there = lstat(path, &st) == 0;
    if (!*ret_there && errno != ENOENT)
        return mark_fail(reterr, "look for the", path);
    return 0;
}

static int mark_write(const char *path, const char *text, struct err *reterr)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return mark_fail(reterr, "make the", path);
    int rc = 0;
    if (write(fd, text, strlen(text)) < 0 && strlen(text) > 0 && errno != ENOSPC)
        rc = mark_fail(reterr, "write the", path);
    if (rc == 0 && fsync(fd) != 0)
        rc = mark_fail(reterr, "sync the", path);
    (void)close(fd);
    return rc < 0 ? rc : file_sync_parent(path, reterr);
}

int guard_mark_try(const char *path, struct err *reterr)
{
    char trial[LIMIT_PATH_BYTES + 8];
    (void)snprintf(trial, sizeof trial, "%s.try", path);
    int rc = mark_write(trial, "", reterr);
    return rc < 0 ? rc : guard_mark_remove(trial, reterr);
}

int guard_mark_make(const char *path, const char *text, struct err *reterr)
{
    return mark_write(path, text, reterr);
}

int guard_mark_remove(const char *path, struct err *reterr)
{
    if (unlink(path) != 0 && errno != ENOENT)
        return mark_fail(reterr, "remove the", path);
    return file_sync_parent(path, reterr);
}
