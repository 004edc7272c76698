/* SPDX-License-Identifier: Apache-2.0 */
/* Origins: opened once, checked for being in use, read and written at offsets.
 *
 * Blocking calls; a tool has nothing else to do meanwhile. It must not know what
 * is read or written for whom.
 */
#include "client/host/origin.h"

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libmount/libmount.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum { DIRECT_BYTES_MIN = 128 * 1024 };

/* Is a device of this number mounted, or does a mount's source name this path? */
static int check_mounted(const char *path, const struct stat *st, struct err *reterr)
{
    struct libmnt_table *table = mnt_new_table_from_file("/proc/self/mountinfo");
    if (!table)
        return 0; /* no /proc: the exclusive open still guards block devices */
    struct libmnt_fs *fs = NULL;
    struct libmnt_iter *it = mnt_new_iter(MNT_ITER_FORWARD);
    int rc = 0;
    while (it && rc == 0 && mnt_table_next_fs(table, it, &fs) == 0) {
        const char *source = mnt_fs_get_source(fs);
        struct stat by_source;
        bool same = S_ISBLK(st->st_mode) && mnt_fs_get_devno(fs) == st->st_rdev;
        if (!same && source && source[0] == '/' && stat(source, &by_source) == 0)
            same = S_ISBLK(st->st_mode)
                       ? S_ISBLK(by_source.st_mode) && by_source.st_rdev == st->st_rdev
                       : by_source.st_dev == st->st_dev && by_source.st_ino == st->st_ino;
        if (same)
            rc = err_set(reterr, SNAP_EBUSY, "%s is mounted on %s; unmount it first", path,
                         mnt_fs_get_target(fs));
    }
    mnt_free_iter(it);
    mnt_unref_table(table);
    return rc;
}

/* Does a loop device stand on this file? */
static int check_loop(const char *path, const struct stat *st, struct err *reterr)
{
    DIR *dir = opendir("/sys/block");
    if (!dir)
        return 0;
    int rc = 0;
    for (const struct dirent *d; rc == 0 && (d = readdir(dir));) {
        char attribute[sizeof "/sys/block//loop/backing_file" + NAME_MAX];
        CLEANUP_FREE char *backing = NULL;
        size_t len = 0;
        struct stat there;
        if (strncmp(d->d_name, "loop", 4) != 0)
            continue;
        (void)snprintf(attribute, sizeof attribute, "/sys/block/%s/loop/backing_file", d->d_name);
        if (file_read_all(attribute, LIMIT_PATH_BYTES, &backing, &len, NULL) < 0)
            continue;
        backing[strcspn(backing, "\n")] = '\0';
        if (stat(backing, &there) == 0 && there.st_dev == st->st_dev && there.st_ino == st->st_ino)
            rc = err_set(reterr, SNAP_EBUSY, "%s is in use by /dev/%s; detach it first", path,
                         d->d_name);
    }
    (void)closedir(dir);
    return rc;
}

int origin_lock_file(int fd, const char *path, struct err *reterr)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return err_set(reterr, SNAP_EBUSY, "%s is in use by another program", path);
    return err_set_errno(reterr, err_code_of_errno(errno), errno, "lock %s", path);
}

static int check_free(const char *path, int fd, const struct stat *st, struct err *reterr)
{
    int rc = check_mounted(path, st, reterr);
    if (rc == 0 && S_ISREG(st->st_mode))
        rc = check_loop(path, st, reterr);
    if (rc == 0 && S_ISREG(st->st_mode))
        rc = origin_lock_file(fd, path, reterr);
    return rc;
}

/* Newer than Debian 12's headers. */
#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x80
#endif

/* Not every kernel and file system has it. */
static int find_once_flags(int fd)
{
    uint8_t byte;
    struct iovec v = {.iov_base = &byte, .iov_len = sizeof byte};
    return preadv2(fd, &v, 1, 0, RWF_DONTCACHE) >= 0 ? RWF_DONTCACHE : 0;
}

/* The open file once more, for writing past the page cache. -1: it does not take that. */
static int open_direct(int fd)
{
    char link[sizeof "/proc/self/fd/" + 12];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return open(link, O_WRONLY | O_DIRECT | O_CLOEXEC | O_NOCTTY);
}

int origin_open(const char *path, bool writable, struct origin *ret, struct err *reterr)
{
    struct stat st;
    if (strlen(path) >= sizeof ret->path)
        return err_set(reterr, SNAP_EINVAL, "path too long");
    if (stat(path, &st) != 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "%s", path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(reterr, SNAP_EINVAL, "%s is neither a file nor a block device", path);
    int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY;
    if (writable && S_ISBLK(st.st_mode)) {
        int rc = check_mounted(path, &st, reterr);
        if (rc < 0)
            return rc;
        flags |= O_EXCL;
    }
    int fd = open(path, flags);
    if (fd < 0 && errno == EBUSY)
        return err_set(reterr, SNAP_EBUSY,
                       "%s is in use: it or a part of it is mounted, belongs to LVM, RAID or "
                       "device-mapper, or another program has it; see lsblk %s",
                       path, path);
    if (fd < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "%s", path);
    uint64_t size = (uint64_t)st.st_size;
    int rc = 0;
    if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &size) != 0)
        rc = err_set_errno(reterr, SNAP_EIO, errno, "size of %s", path);
    if (rc == 0 && writable)
        rc = check_free(path, fd, &st, reterr);
    if (rc < 0) {
        (void)close(fd);
        return rc;
    }
    *ret = (struct origin){.fd = fd,
                           .direct_fd = writable ? open_direct(fd) : -1,
                           .once_flags = writable ? find_once_flags(fd) : 0,
                           .size_bytes = size,
                           .is_block = S_ISBLK(st.st_mode),
                           .writable = writable};
    (void)snprintf(ret->path, sizeof ret->path, "%s", path);
    return 0;
}

void origin_close(struct origin *o)
{
    if (o->direct_fd >= 0)
        (void)close(o->direct_fd);
    if (o->fd >= 0)
        (void)close(o->fd);
    *o = ORIGIN_INIT;
}

static int read_all(const struct origin *o, uint64_t offset_bytes, void *buf, uint64_t len_bytes,
                    int flags, struct err *reterr)
{
    uint8_t *p = buf;
    while (len_bytes > 0) {
        struct iovec v = {.iov_base = p, .iov_len = len_bytes};
        ssize_t n = preadv2(o->fd, &v, 1, (off_t)offset_bytes, flags);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set_errno(reterr, err_code_of_errno(errno), errno, "read %s at byte %llu",
                                 o->path, (unsigned long long)offset_bytes);
        if (n == 0) {
            memset(p, 0, len_bytes);
            return 0;
        }
        p += n;
        offset_bytes += (uint64_t)n;
        len_bytes -= (uint64_t)n;
    }
    return 0;
}

int origin_read(const struct origin *o, uint64_t offset_bytes, void *buf, uint64_t len_bytes,
                struct err *reterr)
{
    return read_all(o, offset_bytes, buf, len_bytes, 0, reterr);
}

int origin_read_once(const struct origin *o, uint64_t offset_bytes, void *buf, uint64_t len_bytes,
                     struct err *reterr)
{
    return read_all(o, offset_bytes, buf, len_bytes, o->once_flags, reterr);
}

void origin_will_need(const struct origin *o, uint64_t offset_bytes, uint64_t len_bytes)
{
    (void)posix_fadvise(o->fd, (off_t)offset_bytes, (off_t)len_bytes, POSIX_FADV_WILLNEED);
}

static int write_all(int fd, const char *path, uint64_t offset_bytes, const void *buf,
                     uint64_t len_bytes, struct err *reterr)
{
    const uint8_t *p = buf;
    while (len_bytes > 0) {
        ssize_t n = pwrite(fd, p, len_bytes, (off_t)offset_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set_errno(reterr, err_code_of_errno(errno), errno, "write %s at byte %llu",
                                 path, (unsigned long long)offset_bytes);
        p += n;
        offset_bytes += (uint64_t)n;
        len_bytes -= (uint64_t)n;
    }
    return 0;
}

static bool suits_direct(const struct origin *o, uint64_t offset_bytes, const void *buf,
                         uint64_t len_bytes)
{
    return o->direct_fd >= 0 && len_bytes >= DIRECT_BYTES_MIN &&
           ((uintptr_t)buf | offset_bytes | len_bytes) % ORIGIN_ALIGN_BYTES == 0;
}

int origin_write(const struct origin *o, uint64_t offset_bytes, const void *buf, uint64_t len_bytes,
                 struct err *reterr)
{
    struct err err = ERR_INIT;
    if (offset_bytes >= o->size_bytes)
        return 0;
    len_bytes = u64_min(len_bytes, o->size_bytes - offset_bytes);
    if (suits_direct(o, offset_bytes, buf, len_bytes)) {
        int rc = write_all(o->direct_fd, o->path, offset_bytes, buf, len_bytes, &err);
        if (rc == 0 || err.sys_errno != EINVAL) { /* EINVAL: this disk wants it otherwise */
            if (rc < 0)
                (void)err_copy(reterr, &err);
            return rc;
        }
    }
    return write_all(o->fd, o->path, offset_bytes, buf, len_bytes, reterr);
}

int origin_zero(const struct origin *o, uint64_t offset_bytes, uint64_t len_bytes,
                struct err *reterr)
{
    if (offset_bytes >= o->size_bytes)
        return 0;
    len_bytes = u64_min(len_bytes, o->size_bytes - offset_bytes);
    if (fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset_bytes,
                  (off_t)len_bytes) == 0)
        return 0;
    static const uint8_t zeros[64 * 1024];
    while (len_bytes > 0) {
        uint64_t n = u64_min(len_bytes, sizeof zeros);
        int rc = write_all(o->fd, o->path, offset_bytes, zeros, n, reterr);
        if (rc < 0)
            return rc;
        offset_bytes += n;
        len_bytes -= n;
    }
    return 0;
}

int origin_sync(const struct origin *o, struct err *reterr)
{
    if (fdatasync(o->fd) != 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "sync %s", o->path);
    return 0;
}

void origin_begin_sync(const struct origin *o, uint64_t offset_bytes, uint64_t len_bytes)
{
    (void)sync_file_range(o->fd, (off_t)offset_bytes, (off_t)len_bytes, SYNC_FILE_RANGE_WRITE);
}

uint64_t origin_extent_end(const struct origin *o, uint64_t offset_bytes, bool *ret_hole)
{
    *ret_hole = false;
    if (o->is_block || offset_bytes >= o->size_bytes)
        return o->size_bytes;
    off_t data = lseek(o->fd, (off_t)offset_bytes, SEEK_DATA);
    if (data < 0 && errno == ENXIO) { /* nothing but a hole up to the end */
        *ret_hole = true;
        return o->size_bytes;
    }
    if (data < 0)
        return o->size_bytes;
    if ((uint64_t)data > offset_bytes) {
        *ret_hole = true;
        return u64_min((uint64_t)data, o->size_bytes);
    }
    off_t hole = lseek(o->fd, (off_t)offset_bytes, SEEK_HOLE);
    return hole < 0 ? o->size_bytes : u64_min((uint64_t)hole, o->size_bytes);
}

uint32_t origin_fingerprint(const struct origin *o, uint8_t ret[ORIGIN_FINGERPRINT_BYTES])
{
    struct stat st;
    if (fstat(o->fd, &st) != 0)
        return 0;
    memset(ret, 0, ORIGIN_FINGERPRINT_BYTES);
    if (o->is_block) {
        memcpy(ret, "block", 5);
        le64_store(ret + 8, st.st_rdev);
    } else {
        memcpy(ret, "file", 4);
        le64_store(ret + 8, st.st_dev);
        le64_store(ret + 16, st.st_ino);
    }
    return ORIGIN_FINGERPRINT_BYTES;
}
