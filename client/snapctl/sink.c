/* SPDX-License-Identifier: Apache-2.0 */
/* Where an export goes. A file grows as PATH.partial, sparse, and gets its name
 * only when it is whole and durable: nobody mistakes half an export for one. It has its
 * size from the start, so that writes past the page cache need not move its end.
 *
 * Must not know how bytes are written: that is sink_write.c.
 */
#include "client/snapctl/sink_priv.h"

#include "client/host/origin.h"
#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_stdout(struct sink *s, struct err *reterr)
{
    struct stat st;
    if (isatty(STDOUT_FILENO))
        return err_set(reterr, SNAP_EINVAL,
                       "will not write a disk to a terminal; name a file with -o, or use a pipe");
    /* a pipe once more, so that it is non-blocking for us alone; if that is not allowed, as it is
     */
    if (fstat(STDOUT_FILENO, &st) == 0 && S_ISFIFO(st.st_mode))
        s->fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (s->fd < 0)
        s->fd = dup(STDOUT_FILENO);
    if (s->fd < 0)
        return err_set_errno(reterr, SNAP_EIO, errno, "standard output");
    s->pipe = true;
    (void)snprintf(s->path, sizeof s->path, "standard output");
    return 0;
}

static int check_again(const struct sink *s, const struct stat *st, struct err *reterr)
{
    const struct resume_file file = resume_file_of(st, false);
    bool whole = !S_ISREG(st->st_mode) || (uint64_t)st->st_size >= s->from_bytes;
    if (whole && resume_file_equal(s->again, &file))
        return 0;
    return err_set(reterr, SNAP_EMISMATCH, "%s is not what was begun: begin anew, without --resume",
                   s->partial[0] ? s->partial : s->path);
}

/* Begun anew, what an earlier export noted of the file is not true any more. */
static int check_before(const struct sink *s, const struct stat *st, struct err *reterr)
{
    const struct resume_file file = resume_file_of(st, false);
    return s->again ? check_again(s, st, reterr) : resume_forget_output(&file, reterr);
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
    o.fd = -1;
    origin_close(&o);
    s->is_block = s->can_direct = true;
    struct stat st;
    if (fstat(s->fd, &st) != 0)
        return err_set_errno(reterr, SNAP_EIO, errno, "%s", s->path);
    return check_before(s, &st, reterr);
}

/* One that was there before, and of which nothing was noted: somebody may have put it there, to
 * read what is exported or to have another file written over. */
static int check_owner(const struct sink *s, const struct stat *st, struct err *reterr)
{
    if (st->st_nlink != 1)
        return err_set(reterr, SNAP_EEXIST, "%s is there and has another name too; remove it",
                       s->partial);
    if (st->st_uid != geteuid())
        return err_set(reterr, SNAP_EEXIST, "%s is there and is somebody else's; remove it",
                       s->partial);
    return 0;
}

/* The working file: one of a killed run is taken over, one in use is not. */
static int open_partial(struct sink *s, struct err *reterr)
{
    struct stat mine, named;
    const int flags = O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    int fd = s->again ? -1 : open(s->partial, flags | O_CREAT | O_EXCL, 0600);
    bool made = fd >= 0;
    if (!made && (s->again || errno == EEXIST))
        fd = open(s->partial, flags);
    if (fd < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "%s", s->partial);
    int rc = 0;
    if (fstat(fd, &mine) != 0 || !S_ISREG(mine.st_mode))
        rc = err_set(reterr, SNAP_EEXIST, "%s is there and is no file; remove it", s->partial);
    if (rc == 0 && !made && !s->again)
        rc = check_owner(s, &mine, reterr);
    if (rc == 0)
        rc = origin_lock_file(fd, s->partial, reterr);
    /* whoever had the lock may have given the file its name, or removed it */
    if (rc == 0 && (stat(s->partial, &named) != 0 || named.st_ino != mine.st_ino ||
                    named.st_dev != mine.st_dev))
        rc = err_set(reterr, SNAP_EBUSY, "%s was in use by another program until now", s->partial);
    if (rc == 0)
        rc = check_before(s, &mine, reterr);
    if (rc < 0) {
        (void)close(fd);
        return rc;
    }
    if (!made && !s->again)
        (void)fchmod(fd, 0600); /* as a new one */
    s->fd = fd;                 /* from here on it is ours to remove */
    s->can_direct = true;
    if (ftruncate(fd, (off_t)s->from_bytes) != 0 || ftruncate(fd, (off_t)s->size_bytes) != 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "size of %s", s->partial);
    return 0;
}

static int open_place(struct sink *s, const char *path, struct err *reterr)
{
    struct stat st;
    if (!path || strcmp(path, "-") == 0)
        return open_stdout(s, reterr);
    if (snprintf(s->path, sizeof s->path, "%s", path) >= (int)sizeof s->path ||
        snprintf(s->partial, sizeof s->partial, "%s.partial", path) >= (int)sizeof s->partial)
        return err_set(reterr, SNAP_EINVAL, "path too long");
    if (stat(path, &st) == 0 && S_ISBLK(st.st_mode)) {
        s->partial[0] = '\0';
        return open_block(s, reterr);
    }
    if (lstat(path, &st) == 0)
        return err_set(reterr, SNAP_EEXIST, "%s exists; remove it or name another", path);
    return open_partial(s, reterr);
}

static int sink_new(uint64_t size_bytes, struct sink **ret, struct err *reterr)
{
    struct sink *s = calloc(1, sizeof *s);
    pthread_condattr_t attr;
    if (!s)
        return err_set(reterr, SNAP_ENOMEM, "output");
    s->fd = -1;
    s->size_bytes = size_bytes;
    s->last = &s->first;
    (void)pthread_mutex_init(&s->lock, NULL); /* these cannot fail on Linux */
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&s->to_writer, &attr);
    (void)pthread_cond_init(&s->to_caller, &attr);
    (void)pthread_condattr_destroy(&attr);
    *ret = s;
    return 0;
}

int sink_open(const char *path, uint64_t size_bytes, struct sink **ret, struct err *reterr)
{
    return sink_open_again(path, size_bytes, 0, NULL, ret, reterr);
}

int sink_open_again(const char *path, uint64_t size_bytes, uint64_t from_bytes,
                    const struct resume_file *file, struct sink **ret, struct err *reterr)
{
    struct sink *s = NULL;
    int rc = sink_new(size_bytes, &s, reterr);
    if (rc == 0) {
        s->from_bytes = s->at_bytes = s->written_bytes = from_bytes;
        s->again = file;
        s->keep = file != NULL;
        rc = open_place(s, path, reterr);
        s->again = NULL;
    }
    if (rc == 0)
        rc = sink_writer_start(s, reterr);
    if (rc < 0) {
        sink_close(s);
        return rc;
    }
    *ret = s;
    return 0;
}

int sink_file(const struct sink *s, struct resume_file *ret, struct err *reterr)
{
    struct stat st;
    if (fstat(s->fd, &st) != 0)
        return err_set_errno(reterr, SNAP_EIO, errno, "%s", s->path);
    *ret = resume_file_of(&st, false);
    return 0;
}

void sink_keep(struct sink *s)
{
    s->keep = true;
}

bool sink_is_pipe(const struct sink *s)
{
    return s->pipe;
}

int sink_check_apart(const struct sink *s, const char *path, struct err *reterr)
{
    struct stat mine, other;
    if (!s->is_block || fstat(s->fd, &mine) != 0 || stat(path, &other) != 0 ||
        !S_ISBLK(other.st_mode) || mine.st_rdev != other.st_rdev)
        return 0;
    return err_set(reterr, SNAP_EINVAL, "%s is read from; name another place to write to", s->path);
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
    int rc = sink_writer_drain(s, reterr);
    if (rc == 0)
        rc = sink_fill_gap(s, s->size_bytes, reterr);
    if (rc < 0 || s->pipe)
        return rc;
    if (fsync(s->fd) != 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "sync %s", s->path);
    return s->partial[0] ? take_name(s, reterr) : 0;
}

void sink_close(struct sink *s)
{
    if (!s)
        return;
    sink_writer_stop(s);
    if (s->fd >= 0 && s->partial[0] && !s->keep)
        (void)unlink(s->partial); /* while the lock is held: afterwards it may be another's */
    if (s->fd >= 0)
        (void)close(s->fd);
    (void)pthread_cond_destroy(&s->to_writer);
    (void)pthread_cond_destroy(&s->to_caller);
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
}
