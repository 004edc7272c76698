/* SPDX-License-Identifier: Apache-2.0 */
/* The record's file, and the spare that makes saving it independent of free space.
 *
 *   record.spare   the text, blanks up to the file's size ── fsync
 *   exchange the two names ── fsync of the folder: the commit point
 *   record.spare   is what was the record: made as large as it, if there is room
 *
 * Deleting is how an operator gets space back, and a deletion begins with a save. With two files
 * that take turns, each somewhat larger than its text, it needs none: a file never shrinks
 * while the text in it may grow again. Blanks at the end are no part of the JSON.
 *
 * Where names cannot be exchanged (a few network file systems), the spare is renamed over the
 * record and made anew. If the folder's fsync fails, nobody knows which of the two files the
 * disk calls the record, so neither is written again: the spare is unlinked.
 *
 * Thread: blocking, the control thread's.
 */
#include "daemon/volume/record.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    FILE_STEP_BYTES = 4096,
    FILE_SLACK_BYTES = 16384,        /* how much a text may grow on a disk without a free block */
    FILE_EXCESS_BYTES = 1024 * 1024, /* a file that is larger than that and four texts is cut */
};

struct record_paths {
    char record[LIMIT_PATH_BYTES], spare[LIMIT_PATH_BYTES];
};

static int record_paths(const char *dir, struct record_paths *ret, struct err *reterr)
{
    int a = snprintf(ret->record, sizeof ret->record, "%s/" RECORD_FILE, dir);
    int b = snprintf(ret->spare, sizeof ret->spare, "%s/" RECORD_SPARE_FILE, dir);
    if (a < 0 || b < 0 || (size_t)b >= sizeof ret->spare)
        return err_set(reterr, SNAP_EINVAL, "path too long: %.80s…", dir);
    return 0;
}

static int record_fail(const char *what, const char *path, struct err *reterr)
{
    int saved = errno;
    return err_set_errno(reterr, err_code_of_errno(saved), saved, "%s %s", what, path);
}

int volume_record_load(const char *dir, struct volume_record *ret, struct err *reterr)
{
    struct record_paths p;
    CLEANUP_FREE char *text = NULL;
    size_t len = 0;
    int rc = record_paths(dir, &p, reterr);
    if (rc < 0)
        return rc;
    rc = file_read_all(p.record, LIMIT_RECORD_BYTES, &text, &len, reterr);
    if (rc < 0)
        return rc;
    rc = volume_record_parse(text, len, ret, reterr);
    if (rc < 0)
        err_prefix(reterr, "%s", p.record);
    return rc;
}

/* -- saving ------------------------------------------------------------------------ */

static size_t file_size_for(size_t len)
{
    return (len + FILE_SLACK_BYTES + FILE_STEP_BYTES - 1) / FILE_STEP_BYTES * FILE_STEP_BYTES;
}

static int write_all(int fd, const char *data, size_t len, off_t at)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        data += n;
        len -= (size_t)n;
        at += n;
    }
    return 0;
}

static int write_blanks(int fd, size_t from, size_t to)
{
    char blanks[FILE_STEP_BYTES];
    memset(blanks, ' ', sizeof blanks);
    while (from < to) {
        size_t n = to - from < sizeof blanks ? to - from : sizeof blanks;
        if (write_all(fd, blanks, n, (off_t)from) < 0)
            return -1;
        from += n;
    }
    return 0;
}

/* Make the file large enough for the text and what it may grow by, if there is room. Its size
 * then: what is asked for may be had in part. */
static int spare_size(int fd, size_t len, size_t *ret)
{
    struct stat st;
    size_t want = file_size_for(len);
    if (fstat(fd, &st) < 0)
        return -1;
    if ((size_t)st.st_size > 4 * want + FILE_EXCESS_BYTES && ftruncate(fd, (off_t)want) < 0)
        return -1;
    if ((size_t)st.st_size < want)
        (void)posix_fallocate(fd, 0, (off_t)want);
    if (fstat(fd, &st) < 0)
        return -1;
    *ret = (size_t)st.st_size;
    return 0;
}

/* The text into the spare, over what it holds, and durable. */
static int spare_write(const char *path, const char *text, size_t len, struct err *reterr)
{
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    size_t size = 0;
    if (fd < 0)
        return record_fail("open", path, reterr);
    if (spare_size(fd, len, &size) < 0)
        return record_fail("size", path, reterr);
    if (write_all(fd, text, len, 0) < 0 || write_blanks(fd, len, size) < 0)
        return record_fail("write", path, reterr);
    if (fsync(fd) < 0)
        return record_fail("sync", path, reterr);
    return 0;
}

static int spare_become_record(const struct record_paths *p, struct err *reterr)
{
    if (renameat2(AT_FDCWD, p->spare, AT_FDCWD, p->record, RENAME_EXCHANGE) == 0)
        return 0;
    if (errno != ENOENT && errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
        return record_fail("exchange with", p->record, reterr);
    if (rename(p->spare, p->record) < 0)
        return record_fail("rename to", p->record, reterr);
    return 0;
}

/* Ready for the next save. Without room it stays as it is: the next save may be smaller, or find
 * room again. */
static void spare_prepare(const char *path, size_t len)
{
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    size_t size;
    if (fd >= 0)
        (void)spare_size(fd, len, &size);
}

static int record_text(const struct volume_record *r, char **ret, size_t *ret_len,
                       struct err *reterr)
{
    int rc = volume_record_check(r, reterr); /* or it could not be read back */
    if (rc == 0)
        rc = volume_record_format(r, ret, ret_len, reterr);
    if (rc < 0)
        err_prefix(reterr, "this change cannot be written down");
    else if (file_size_for(*ret_len) > LIMIT_RECORD_BYTES)
        rc = err_set(reterr, SNAP_ELIMIT,
                     "the record of volume '%s' would have %zu bytes, about the limit of %d",
                     r->name, *ret_len, LIMIT_RECORD_BYTES);
    return rc;
}

int volume_record_save(const char *dir, const struct volume_record *r, struct err *reterr)
{
    struct record_paths p;
    CLEANUP_FREE char *text = NULL;
    size_t len = 0;
    int rc = record_paths(dir, &p, reterr);
    if (rc == 0)
        rc = record_text(r, &text, &len, reterr);
    if (rc == 0)
        rc = spare_write(p.spare, text, len, reterr);
    if (rc == 0)
        rc = spare_become_record(&p, reterr);
    if (rc < 0)
        return rc;
    rc = file_sync_parent(p.record, reterr);
    if (rc == 0)
        spare_prepare(p.spare, len);
    else
        (void)unlink(p.spare);
    return rc;
}
