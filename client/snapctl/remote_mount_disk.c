/* SPDX-License-Identifier: Apache-2.0 */
/* The disk of a mount: what partitions and file systems are in it, and the loop device on it.
 *
 *     fuse/disk  |--table--|--- 1 ---|------ 2 ------|     found by libblkid, in the file
 *                          |<offset  |<size>|                /dev/loopN has only the chosen one
 *
 * Partitions are looked for in user space, so that it does not matter which tables the kernel
 * knows, nor whether somebody makes the nodes of a loop device's partitions. Loop devices are
 * found again by the file that they stand on, which no other has.
 *
 * It must not know how the disk came to be there.
 */
#include "client/snapctl/remote_mount.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"

#include <blkid/blkid.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/loop.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

enum { ATTACH_TRIES = 64, DETACH_MS = 5000, POLL_MS = 10 };

/* -- what is in it ---------------------------------------------------------------------- */

static void take_text(blkid_probe probe, const char *name, char buf[MOUNT_FS_BYTES])
{
    const char *text = NULL;
    if (blkid_probe_lookup_value(probe, name, &text, NULL) == 0 && text)
        (void)snprintf(buf, MOUNT_FS_BYTES, "%s", text);
}

static int probe_fs(int fd, struct mount_part *p, struct err *reterr)
{
    const char *usage = NULL;
    blkid_probe probe = blkid_new_probe();
    if (!probe)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for looking into the disk");
    int rc = 0;
    if (blkid_probe_set_device(probe, fd, (blkid_loff_t)p->start_bytes,
                               (blkid_loff_t)p->size_bytes) != 0 ||
        blkid_probe_enable_superblocks(probe, 1) != 0 ||
        blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_LABEL |
                                                     BLKID_SUBLKS_USAGE) != 0)
        rc = err_set_errno(reterr, SNAP_EIO, errno, "look for a file system");
    if (rc == 0 && blkid_do_safeprobe(probe) == 0) {
        take_text(probe, "TYPE", p->fs);
        take_text(probe, "LABEL", p->label);
        p->is_fs = blkid_probe_lookup_value(probe, "USAGE", &usage, NULL) == 0 &&
                   strcmp(usage, "filesystem") == 0;
    }
    blkid_free_probe(probe);
    return rc;
}

/* A table's word is not taken: what is not wholly on the disk is left out. */
static void add_part(struct mount_parts *all, blkid_partition part)
{
    int number = blkid_partition_get_partno(part);
    blkid_loff_t start = blkid_partition_get_start(part), size = blkid_partition_get_size(part);
    uint64_t sectors = all->whole.size_bytes / SECTOR_BYTES;
    if (number <= 0 || start < 0 || size <= 0 || blkid_partition_is_extended(part) ||
        (uint64_t)start >= sectors || (uint64_t)size > sectors - (uint64_t)start ||
        all->count == MOUNT_PARTS_MAX)
        return;
    all->part[all->count++] = (struct mount_part){
        .number = (unsigned)number,
        .start_bytes = (uint64_t)start * SECTOR_BYTES,
        .size_bytes = (uint64_t)size * SECTOR_BYTES,
    };
}

static int read_table(int fd, struct mount_parts *all, struct err *reterr)
{
    blkid_probe probe = blkid_new_probe();
    if (!probe)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for looking into the disk");
    blkid_partlist list = NULL;
    if (blkid_probe_set_device(probe, fd, 0, 0) == 0 &&
        blkid_probe_enable_partitions(probe, 1) == 0)
        list = blkid_probe_get_partitions(probe);
    int n = list ? blkid_partlist_numof_partitions(list) : 0;
    for (int i = 0; i < n; i++)
        add_part(all, blkid_partlist_get_partition(list, i));
    blkid_free_probe(probe);
    return 0;
}

int mount_parts_read(const struct mount_state *s, struct mount_parts *ret, struct err *reterr)
{
    char disk[MOUNT_FILE_BYTES];
    struct stat st;
    *ret = (struct mount_parts){0};
    mount_state_file(s, "fuse/disk", disk);
    CLEANUP_CLOSE int fd = open(disk, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0)
        return err_set_errno(reterr, SNAP_EIO, errno, "look into the disk: %s", disk);
    ret->whole.size_bytes = (uint64_t)st.st_size;
    int rc = read_table(fd, ret, reterr);
    if (rc == 0)
        rc = probe_fs(fd, &ret->whole, reterr);
    for (size_t i = 0; rc == 0 && i < ret->count; i++)
        rc = probe_fs(fd, &ret->part[i], reterr);
    return rc;
}

/* -- attaching -------------------------------------------------------------------------- */

/* SNAP_EBUSY: somebody was quicker. */
static int attach_to(const struct mount_state *s, const struct mount_part *part, int disk_fd,
                     int number, char device[MOUNT_DEVICE_BYTES], struct err *reterr)
{
    struct loop_config config = {
        .fd = (uint32_t)disk_fd,
        .info = {.lo_offset = part->start_bytes,
                 .lo_sizelimit = part->number ? part->size_bytes : 0,
                 .lo_flags = s->read_only ? LO_FLAGS_READ_ONLY : 0},
    };
    (void)snprintf(device, MOUNT_DEVICE_BYTES, "/dev/loop%d", number);
    CLEANUP_CLOSE int fd = open(device, (s->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(reterr, SNAP_ENOTSUP, errno,
                             "attach a loop device (in a container its nodes have to be let in): "
                             "%s",
                             device);
    if (ioctl(fd, LOOP_CONFIGURE, &config) == 0)
        return 0;
    return err_set_errno(reterr, errno == EBUSY ? SNAP_EBUSY : SNAP_EIO, errno, "attach %s",
                         device);
}

int mount_loop_attach(const struct mount_state *s, const struct mount_part *part,
                      char ret_device[MOUNT_DEVICE_BYTES], struct err *reterr)
{
    char disk[MOUNT_FILE_BYTES];
    mount_state_file(s, "fuse/disk", disk);
    CLEANUP_CLOSE int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        return err_set_errno(reterr, SNAP_ENOTSUP, errno,
                             "attach a loop device: there are none here (modprobe loop): "
                             "/dev/loop-control");
    CLEANUP_CLOSE int disk_fd = open(disk, (s->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (disk_fd < 0)
        return err_set_errno(reterr, SNAP_EIO, errno, "attach a loop device: %s", disk);
    int rc = SNAP_EBUSY;
    for (int i = 0; rc == SNAP_EBUSY && i < ATTACH_TRIES; i++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        if (number < 0)
            return err_set_errno(reterr, SNAP_EIO, errno, "attach a loop device: none is free");
        rc = attach_to(s, part, disk_fd, number, ret_device, reterr);
    }
    return rc;
}

/* -- finding it again, detaching
 * ------------------------------------------------------------------------
 */

static bool stands_on(const char *attribute, const char *disk)
{
    CLEANUP_FREE char *backing = NULL;
    size_t len;
    if (file_read_all(attribute, LIMIT_PATH_BYTES, &backing, &len, NULL) < 0)
        return false;
    backing[strcspn(backing, "\n")] = '\0';
    return strcmp(backing, disk) == 0;
}

bool mount_loop_is_ours(const struct mount_state *s, dev_t device)
{
    char attribute[80], disk[MOUNT_FILE_BYTES];
    mount_state_file(s, "fuse/disk", disk);
    (void)snprintf(attribute, sizeof attribute, "/sys/dev/block/%u:%u/loop/backing_file",
                   major(device), minor(device));
    return stands_on(attribute, disk);
}

/* The name of a loop device on the disk, "loop3"; false: there is none. */
static bool find_loop(const char *disk, char name[MOUNT_DEVICE_BYTES - 8])
{
    DIR *dir = opendir("/sys/block");
    bool found = false;
    for (const struct dirent *d; dir && !found && (d = readdir(dir));) {
        char attribute[sizeof "/sys/block//loop/backing_file" + NAME_MAX];
        if (strncmp(d->d_name, "loop", 4) != 0 || strlen(d->d_name) >= MOUNT_DEVICE_BYTES - 8)
            continue;
        (void)snprintf(attribute, sizeof attribute, "/sys/block/%s/loop/backing_file", d->d_name);
        found = stands_on(attribute, disk);
        if (found)
            (void)snprintf(name, MOUNT_DEVICE_BYTES - 8, "%s", d->d_name);
    }
    if (dir)
        (void)closedir(dir);
    return found;
}

int mount_loop_detach(const struct mount_state *s, struct err *reterr)
{
    char disk[MOUNT_FILE_BYTES], name[MOUNT_DEVICE_BYTES - 8], device[MOUNT_DEVICE_BYTES];
    mount_state_file(s, "fuse/disk", disk);
    for (int ms = 0; find_loop(disk, name); ms += POLL_MS) {
        (void)snprintf(device, sizeof device, "/dev/%s", name);
        CLEANUP_CLOSE int fd = open(device, O_RDONLY | O_CLOEXEC);
        if (ms >= DETACH_MS)
            return err_set(reterr, SNAP_EBUSY,
                           "detach %s: somebody has it open (fuser -v %s), or it is mounted in "
                           "another namespace",
                           device, device);
        if (fd < 0 || (ioctl(fd, LOOP_CLR_FD) != 0 && errno != ENXIO && errno != EBUSY))
            return err_set_errno(reterr, SNAP_EIO, errno, "detach %s", device);
        if (fd >= 0)
            (void)nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
    }
    return 0;
}
