/* SPDX-License-Identifier: Apache-2.0 */
/* Where an export goes. A file grows as PATH.partial, sparse, and gets its name
 * only when it is whole and durable: nobody mistakes half an export for one.
 */
#include "client/snapctl/origin.h"
#include "common/base/bytes.h"
#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HOLE_BYTES = 4096 }; /* zeros of this size, aligned, become a hole */

static int open_stdout(struct sink *s, struct err *reterr)
{
    if (isatty(STDOUT_FILENO))
        return err_set(reterr, SNAP_EINVAL,
                       "will not write a disk to a terminal; name a file with -o, or use a pipe");
    s->fd = dup(STDOUT_FILENO);
    if (s->fd < 0)
        return err_set_errno(reterr, SNAP_EIO, errno, "standard output");
    s->pipe = true;
    (void)snprintf(s->path, sizeof s->path, "standard output");
    return 0;
}

static int open_block(struct sink *s, struct err *reterr)
{
    struct origin o = ORIGIN_INIT; /* the same care as with an origin that is overwritten */
    int rc = origin_open(s->path, true, &o, reterr);
    if (rc < 0)
        return rc;
    if (o.size_bytes < s->size_bytes) {
        uint64_t has = o.size_bytes;
        origin_close(&o);
        return err_set(reterr, SNAP_ENOSPC, "%s has %llu bytes, %llu are needed", s->path,
                       (unsigned long long)has, (unsigned long long)s->size_bytes);
    }
    s->fd = o.fd;
    s->is_block = true;
    return 0;
}

/* The working file: one of a killed run is taken over, one in use is not. */
static int open_partial(struct sink *s, struct err *reterr)
{
    struct stat mine, named;
    int fd = open(s->partial, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "%s", s->partial);
    int rc = 0;
    if (fstat(fd, &mine) != 0 || !S_ISREG(mine.st_mode))
        rc = err_set(reterr, SNAP_EEXIST, "%s is there and is no file; remove it", s->partial);
    if (rc == 0)
        rc = origin_lock_file(fd, s->partial, reterr);
    /* whoever had the lock may have given the file its name, or removed it */
    if (rc == 0 && (stat(s->partial, &named) != 0 || named.st_ino != mine.st_ino ||
                    named.st_dev != mine.st_dev))
        rc = err_set(reterr, SNAP_EBUSY, "%s was in use by another program until now", s->partial);
    if (rc == 0 && ftruncate(fd, 0) != 0)
        rc = err_set_errno(reterr, err_code_of_errno(errno), errno, "empty %s", s->partial);
    if (rc < 0) {
        (void)close(fd);
        return rc;
    }
    s->fd = fd;
    return 0;
}

int sink_open(const char *path, uint64_t size_bytes, struct sink *ret, struct err *reterr)
{
    struct sink s = SINK_INIT;
    struct stat st;
    s.size_bytes = size_bytes;
    int rc = 0;
    if (!path || strcmp(path, "-") == 0) {
        rc = open_stdout(&s, reterr);
    } else if (snprintf(s.path, sizeof s.path, "%s", path) >= (int)sizeof s.path ||
               snprintf(s.partial, sizeof s.partial, "%s.partial", path) >= (int)sizeof s.partial) {
        rc = err_set(reterr, SNAP_EINVAL, "path too long");
    } else if (stat(path, &st) == 0 && S_ISBLK(st.st_mode)) {
        s.partial[0] = '\0';
        rc = open_block(&s, reterr);
    } else if (lstat(path, &st) == 0) {
        rc = err_set(reterr, SNAP_EEXIST, "%s exists; remove it or name another", path);
    } else {
        rc = open_partial(&s, reterr);
    }
    if (rc == 0)
        *ret = s;
    return rc;
}

int sink_check_apart(const struct sink *s, const char *path, struct err *reterr)
{
    struct stat mine, other;
    if (!s->is_block || fstat(s->fd, &mine) != 0 || stat(path, &other) != 0 ||
        !S_ISBLK(other.st_mode) || mine.st_rdev != other.st_rdev)
        return 0;
    return err_set(reterr, SNAP_EINVAL, "%s is read from; name another place to write to", s->path);
}

static int put(struct sink *s, uint64_t offset_bytes, const uint8_t *p, uint64_t len_bytes,
               struct err *reterr)
{
    while (len_bytes > 0) {
        ssize_t n =
            s->pipe ? write(s->fd, p, len_bytes) : pwrite(s->fd, p, len_bytes, (off_t)offset_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set_errno(reterr, err_code_of_errno(errno), errno, "write %s", s->path);
        p += n;
        offset_bytes += (uint64_t)n;
        len_bytes -= (uint64_t)n;
    }
    return 0;
}

/* What lies between the last write and here: zeros, unless it is a hole already. */
static int fill_gap(struct sink *s, uint64_t to_bytes, struct err *reterr)
{
    static const uint8_t zeros[64 * 1024];
    while (s->at_bytes < to_bytes && (s->pipe || s->is_block)) {
        uint64_t n = u64_min(to_bytes - s->at_bytes, sizeof zeros);
        uint64_t range[2] = {s->at_bytes, to_bytes - s->at_bytes};
        if (s->is_block && ioctl(s->fd, BLKZEROOUT, range) == 0)
            break;
        int rc = put(s, s->at_bytes, zeros, n, reterr);
        if (rc < 0)
            return rc;
        s->at_bytes += n;
    }
    s->at_bytes = to_bytes;
    return 0;
}

/* Data into a file: runs of blocks that are not zero. */
static int put_sparse(struct sink *s, uint64_t offset_bytes, const uint8_t *p, uint64_t len_bytes,
                      struct err *reterr)
{
    uint64_t begin = 0;
    for (uint64_t at = 0; at < len_bytes;) {
        uint64_t n = u64_min(HOLE_BYTES - (offset_bytes + at) % HOLE_BYTES, len_bytes - at);
        if (bytes_are_zero(p + at, n)) {
            int rc = put(s, offset_bytes + begin, p + begin, at - begin, reterr);
            if (rc < 0)
                return rc;
            begin = at + n;
        }
        at += n;
    }
    return put(s, offset_bytes + begin, p + begin, len_bytes - begin, reterr);
}

int sink_write(struct sink *s, uint64_t offset_bytes, const void *buf, uint64_t len_bytes,
               struct err *reterr)
{
    if (offset_bytes >= s->size_bytes)
        return 0;
    len_bytes = u64_min(len_bytes, s->size_bytes - offset_bytes);
    int rc = fill_gap(s, offset_bytes, reterr);
    if (rc == 0)
        rc = s->pipe || s->is_block ? put(s, offset_bytes, buf, len_bytes, reterr)
                                    : put_sparse(s, offset_bytes, buf, len_bytes, reterr);
    s->at_bytes = offset_bytes + len_bytes;
    return rc;
}

/* From its working name to its own, over nothing that has come there meanwhile. */
static int take_name(struct sink *s, struct err *reterr)
{
    int rc = renameat2(AT_FDCWD, s->partial, AT_FDCWD, s->path, RENAME_NOREPLACE);
    if (rc != 0 && errno == EEXIST)
        return err_set(reterr, SNAP_EEXIST, "%s has come into being meanwhile; it was left alone",
                       s->path);
    if (rc != 0 && (errno == EINVAL || errno == ENOSYS)) /* a file system that cannot tell */
        rc = rename(s->partial, s->path);
    if (rc != 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "rename %s", s->partial);
    s->partial[0] = '\0';
    return file_sync_parent(s->path, reterr);
}

int sink_finish(struct sink *s, struct err *reterr)
{
    int rc = fill_gap(s, s->size_bytes, reterr);
    if (rc < 0 || s->pipe)
        return rc;
    if (!s->is_block && ftruncate(s->fd, (off_t)s->size_bytes) != 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "size of %s", s->path);
    if (fsync(s->fd) != 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "sync %s", s->path);
    return s->partial[0] ? take_name(s, reterr) : 0;
}

void sink_close(struct sink *s)
{
    if (s->fd >= 0 && s->partial[0])
        (void)unlink(s->partial); /* while the lock is held: afterwards it may be another's */
    if (s->fd >= 0)
        (void)close(s->fd);
    *s = SINK_INIT;
}
