/* SPDX-License-Identifier: Apache-2.0 */
/* Where a daemon's volumes are: files and devices of its host.
 *
 * The only file of daemon/volume, beside the record's and the rights', that makes system calls;
 * tests put a simulated disk in its place. Thread: opening is the shard's, saving and asking for
 * free space the control thread's, removing and notes either's.
 */
#include "daemon/volume/volume.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int storage_open(void *user, struct blk_engine *e, const char *path, unsigned flags,
                        struct blk_dev **ret, struct err *reterr)
{
    (void)user;
    return blk_open(e, path, flags, ret, reterr);
}

static int storage_remove(void *user, const char *path, struct err *reterr)
{
    (void)user;
    if (unlink(path) == 0)
        return file_sync_parent(path, reterr);
    if (errno == ENOENT)
        return 0;
    return err_set_errno(reterr, err_code_of_errno(errno), errno, "remove %s", path);
}

static int storage_save(void *user, const char *dir, const struct volume_record *r,
                        struct err *reterr)
{
    (void)user;
    return volume_record_save(dir, r, reterr);
}

static int storage_free_bytes(void *user, const char *dir, uint64_t *ret, struct err *reterr)
{
    (void)user;
    struct statvfs st;
    if (statvfs(dir, &st) != 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "free space of %s", dir);
    *ret = (uint64_t)st.f_bavail * st.f_frsize;
    return 0;
}

static int storage_make_file(const char *path, uint64_t size_bytes, struct err *reterr)
{
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "make %s", path);
    int rc = 0;
    if (ftruncate(fd, (off_t)size_bytes) != 0 || fsync(fd) != 0)
        rc = err_set_errno(reterr, err_code_of_errno(errno), errno, "make %s of %llu bytes", path,
                           (unsigned long long)size_bytes);
    if (rc == 0)
        rc = file_sync_parent(path, reterr);
    if (rc < 0)
        (void)unlink(path);
    return rc;
}

/* One that another volume has is refused now, not when it is used. */
static int storage_check_unused(int fd, const struct stat *st, const char *path, struct err *reterr)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (!S_ISREG(st->st_mode) || fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0; /* of a block device the open itself tells */
    return err_set(reterr, SNAP_EBUSY, "%s is in use", path);
}

static int storage_make(void *user, const char *path, uint64_t size_bytes, bool bound,
                        struct err *reterr)
{
    (void)user;
    if (!bound)
        return storage_make_file(path, size_bytes, reterr);
    struct stat st;
    bool block = stat(path, &st) == 0 && S_ISBLK(st.st_mode);
    CLEANUP_CLOSE int fd =
        open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (block ? O_EXCL : 0));
    if (fd < 0 || fstat(fd, &st) != 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "open %s", path);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return err_set(reterr, SNAP_EINVAL, "%s is neither a file nor a block device", path);
    int rc = storage_check_unused(fd, &st, path, reterr);
    if (rc < 0)
        return rc;
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0)
        return err_set_errno(reterr, SNAP_EIO, errno, "size of %s", path);
    if ((uint64_t)end < size_bytes)
        return err_set(reterr, SNAP_EINVAL, "%s has %llu bytes, the volume %llu", path,
                       (unsigned long long)end, (unsigned long long)size_bytes);
    return 0;
}

static int storage_note(void *user, const char *path, bool there, struct err *reterr)
{
    (void)user;
    if (!there)
        return unlink(path) == 0 || errno == ENOENT
                   ? 0
                   : err_set_errno(reterr, err_code_of_errno(errno), errno, "remove %s", path);
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd >= 0 ? 0 : err_set_errno(reterr, err_code_of_errno(errno), errno, "make %s", path);
}

const struct volume_storage volume_storage_files = {.open = storage_open,
                                                    .remove = storage_remove,
                                                    .save = storage_save,
                                                    .free_bytes = storage_free_bytes,
                                                    .make = storage_make,
                                                    .note = storage_note};
