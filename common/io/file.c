/* SPDX-License-Identifier: Apache-2.0 */
/* Opening regular files and block devices, for the engines that have a kernel
 * below them: size, alignment, O_DIRECT, exclusion, holes.
 *
 * O_DIRECT is tried first. It is dropped, and the page cache used with an
 * alignment of one sector, when
 *   - BLK_OPEN_BUFFERED asks for it,
 *   - the file system refuses O_DIRECT or says that this file cannot have it,
 *   - a file's size is no multiple of what O_DIRECT wants: its tail could not
 *     be reached.
 * A tail shorter than a sector is not part of the device, as with loop devices.
 *
 * Knows nothing of requests. Thread: the engine's own.
 */
#include "common/io/xfer.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    DIRECT_ALIGN_DEFAULT_BYTES = 4096, /* where the kernel does not tell */
    FILE_MODE = 0600,                  /* old contents of somebody's disk */
};

static int open_failed(const char *path, int sys_errno, struct err *reterr)
{
    /* a folder for writing, a socket, a driver that is not there */
    bool odd = sys_errno == EISDIR || sys_errno == ENXIO || sys_errno == ENODEV;

    if (sys_errno == EROFS)
        return err_set_errno(reterr, SNAP_EPERM, sys_errno, "open %s", path);
    return err_set_errno(reterr, odd ? SNAP_EINVAL : err_code_of_errno(sys_errno), sys_errno,
                         "open %s", path);
}

/* O_NONBLOCK while opening, so that a pipe in the place of a file cannot hang us;
 * off afterwards, since io_uring would take it to mean "fail with EAGAIN". */
static int open_fd(const char *path, unsigned flags, struct stat *ret_stat, int *ret_fd,
                   struct err *reterr)
{
    int oflags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    struct stat st;

    oflags |= (flags & BLK_OPEN_READ_ONLY) ? O_RDONLY : O_RDWR;
    if (flags & BLK_OPEN_CREATE)
        oflags |= O_CREAT | O_EXCL;
    else if ((flags & BLK_OPEN_EXCLUSIVE) && stat(path, &st) == 0 && S_ISBLK(st.st_mode))
        oflags |= O_EXCL;
    CLEANUP_CLOSE int fd = open(path, oflags, FILE_MODE);
    if (fd < 0)
        return open_failed(path, errno, reterr);
    if (fstat(fd, ret_stat) != 0)
        return err_set_errno(reterr, SNAP_EIO, errno, "stat %s", path);
    if (!S_ISREG(ret_stat->st_mode) && !S_ISBLK(ret_stat->st_mode))
        return err_set(reterr, SNAP_EINVAL, "open %s: neither a regular file nor a block device",
                       path);
    int now = fcntl(fd, F_GETFL);
    if (now < 0 || fcntl(fd, F_SETFL, now & ~O_NONBLOCK) != 0)
        return err_set_errno(reterr, SNAP_EIO, errno, "set flags of %s", path);
    *ret_fd = fd;
    fd = -1;
    return 0;
}

/* Of two exclusive openers one fails; a read-only one can only hold a shared
 * lock, which keeps writers out and other readers not.
 *
 * The kernel lets go of a killed process's ring, and so of the files that had requests in
 * it, a little after the process is gone: who starts again at once has to try again. */
static int lock_file(int fd, const char *path, bool read_only, struct err *reterr)
{
    struct flock lock = {.l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

    if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return 0;
    if (errno != EAGAIN && errno != EACCES)
        return err_set_errno(reterr, SNAP_EIO, errno, "lock %s", path);
    return err_set(reterr, SNAP_EBUSY, "lock %s: another program or volume uses it", path);
}

/* What O_DIRECT wants of offsets, lengths and memory; 0: it cannot be had. */
static uint32_t direct_align(int fd, bool is_block)
{
    int sector_bytes;

    if (is_block)
        return ioctl(fd, BLKSSZGET, &sector_bytes) == 0 ? (uint32_t)sector_bytes
                                                        : DIRECT_ALIGN_DEFAULT_BYTES;
#ifdef STATX_DIOALIGN
    struct statx sx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN)) {
        if (sx.stx_dio_offset_align == 0 || sx.stx_dio_mem_align == 0)
            return 0;
        return sx.stx_dio_offset_align > sx.stx_dio_mem_align ? sx.stx_dio_offset_align
                                                              : sx.stx_dio_mem_align;
    }
#endif
    return DIRECT_ALIGN_DEFAULT_BYTES;
}

static void choose_alignment(struct file_dev *f, bool buffered)
{
    struct blk_info *info = &f->base.info;
    int now = fcntl(f->fd, F_GETFL);
    uint32_t align = buffered ? 0 : direct_align(f->fd, info->is_block);

    if (align < SECTOR_BYTES && align != 0)
        align = SECTOR_BYTES;
    if (u64_is_pow2(align) && f->file_size_bytes % align == 0 && now >= 0)
        f->direct = fcntl(f->fd, F_SETFL, now | O_DIRECT) == 0;
    info->align_bytes = f->direct ? align : SECTOR_BYTES;
    info->size_bytes = f->file_size_bytes & ~(uint64_t)(info->align_bytes - 1);
}

static int measure(struct file_dev *f, const struct stat *st, const char *path, struct err *reterr)
{
    struct blk_info *info = &f->base.info;

    info->is_block = S_ISBLK(st->st_mode);
    info->can_grow = !info->is_block && !info->read_only;
    f->file_size_bytes = (uint64_t)st->st_size;
    if (info->is_block && ioctl(f->fd, BLKGETSIZE64, &f->file_size_bytes) != 0)
        return err_set_errno(reterr, SNAP_EIO, errno, "size of %s", path);
    return 0;
}

static void file_dev_discard(struct file_dev *f)
{
    if (f->fd >= 0)
        (void)close(f->fd);
    free(f->name);
    free(f);
}

static int make_durable(int fd, const char *path, struct err *reterr)
{
    if (fsync(fd) != 0)
        return err_set_errno(reterr, SNAP_EIO, errno, "fsync %s", path);
    return file_sync_parent(path, reterr);
}

int file_dev_open(struct blk_engine *e, const struct blk_dev_ops *ops, const char *path,
                  unsigned flags, struct blk_dev **ret, struct err *reterr)
{
    struct file_dev *f = calloc(1, sizeof *f);
    struct stat st;
    int r;

    if (f == NULL)
        return err_set(reterr, SNAP_ENOMEM, "open %s: out of memory", path);
    f->fd = -1;
    f->name = strdup(path);
    if (f->name == NULL) {
        file_dev_discard(f);
        return err_set(reterr, SNAP_ENOMEM, "open %s: out of memory", path);
    }
    f->base.info.name = f->name;
    f->base.info.read_only = (flags & BLK_OPEN_READ_ONLY) != 0;
    f->exclusive = (flags & BLK_OPEN_EXCLUSIVE) != 0;
    r = open_fd(path, flags, &st, &f->fd, reterr);
    bool made = r == 0 && (flags & BLK_OPEN_CREATE) != 0;
    if (r == 0 && (flags & BLK_OPEN_EXCLUSIVE) && S_ISREG(st.st_mode))
        r = lock_file(f->fd, path, f->base.info.read_only, reterr);
    if (r == 0)
        r = measure(f, &st, path, reterr);
    if (made && r == 0)
        r = make_durable(f->fd, path, reterr);
    if (r != 0) {
        if (made)
            (void)unlink(path);
        file_dev_discard(f);
        return r;
    }
    choose_alignment(f, (flags & BLK_OPEN_BUFFERED) != 0);
    atomic_init(&f->zero_way, ZERO_RANGE);
    blk_dev_init(&f->base, ops, e);
    *ret = &f->base;
    return 0;
}

void file_dev_close(struct blk_dev *d)
{
    file_dev_discard(CONTAINER_OF(d, struct file_dev, base));
}

/* -- holes --------------------------------------------------------------------- */

uint64_t file_dev_next_data(struct blk_dev *d, uint64_t offset_bytes)
{
    struct file_dev *f = CONTAINER_OF(d, struct file_dev, base);
    off_t at = lseek(f->fd, (off_t)offset_bytes, SEEK_DATA);

    if (at < 0)
        return errno == ENXIO ? d->info.size_bytes : offset_bytes;
    /* the block that the data begins in, but never before the question */
    return u64_max(offset_bytes, (uint64_t)at & ~(uint64_t)(d->info.align_bytes - 1));
}

uint64_t file_dev_next_hole(struct blk_dev *d, uint64_t offset_bytes)
{
    struct file_dev *f = CONTAINER_OF(d, struct file_dev, base);
    off_t at = lseek(f->fd, (off_t)offset_bytes, SEEK_HOLE);

    if (at < 0)
        return d->info.size_bytes;
    return u64_align_up((uint64_t)at, d->info.align_bytes);
}
