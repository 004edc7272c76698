/* SPDX-License-Identifier: Apache-2.0 */
/* What `snapctl remote mount` and `umount` have in common.
 *
 *     daemon ── nbdkit ── socket ── nbdfuse ── fuse/disk ── /dev/loopN ── DIR
 *
 * A mount's folder below the runtime folder tells a later umount all it needs:
 *     state  socket  nbdkit.pid  nbdkit.log  nbdfuse.pid  nbdfuse.log  fuse/disk
 */
#ifndef SNAP_SNAPCTL_REMOTE_MOUNT_H
#define SNAP_SNAPCTL_REMOTE_MOUNT_H

#include "client/snapctl/cli.h"
#include "common/base/limits.h"

#include <sys/types.h>

enum {
    MOUNT_FOLDER_BYTES = 96, /* its socket's path has to fit into 108 */
    MOUNT_FILE_BYTES = MOUNT_FOLDER_BYTES + 16,
    MOUNT_TARGET_BYTES = 2 * (LIMIT_NAME_BYTES + 1),
    MOUNT_FS_BYTES = 32,
    MOUNT_DEVICE_BYTES = 32,
    MOUNT_DISK_BYTES = 40,
    MOUNT_PART_NONE = -1, /* not chosen yet */
};

/* -- state: the folder of a mount --------------------------------------------------------- */

struct mount_state {
    char folder[MOUNT_FOLDER_BYTES];
    char target[MOUNT_TARGET_BYTES]; /* VOLUME[@SNAPSHOT] */
    char directory[LIMIT_PATH_BYTES];
    char disk[MOUNT_DISK_BYTES]; /* UUID of the volume, snapshot or clone; empty: not chosen yet */
    int partition;               /* 0: the whole disk */
    pid_t nbdkit, nbdfuse;       /* 0: not known */
    bool read_only;
    int lock_fd; /* held as long as a snapctl works on it */
};

/* A folder for a new mount on directory, locked.
 * Errors: SNAP_EBUSY (there is one already), SNAP_EPERM (the runtime folder is not only ours). */
int mount_state_make(const char *target, const char *directory, struct mount_state *ret,
                     struct err *reterr) SNAP_WUR;
/* Before it is mounted: take that partition of the disk, so that no other mount of this host is
 * disturbed. Errors: SNAP_EBUSY (it is mounted already, and one of the two can write). */
int mount_state_claim(struct mount_state *s, const char *disk, unsigned partition,
                      struct err *reterr) SNAP_WUR;
/* Errors: SNAP_ENOENT (none on that directory), SNAP_EBUSY (somebody works on it). */
int mount_state_find(const char *directory, struct mount_state *ret, struct err *reterr) SNAP_WUR;
int mount_state_save(const struct mount_state *s, struct err *reterr) SNAP_WUR;
/* The folder and all in it, at the end of an umount. */
int mount_state_remove(const struct mount_state *s, struct err *reterr);
void mount_state_done(struct mount_state *s); /* gives the lock up */
/* FOLDER/NAME */
void mount_state_file(const struct mount_state *s, const char *name, char buf[MOUNT_FILE_BYTES]);

/* -- the two servers: nbdkit and nbdfuse ----------------------------------------------------- */

/* Up to the point where it serves. Sets s->nbdkit, s->nbdfuse as soon as they are known.
 * Errors: SNAP_ENOTSUP (program or FUSE missing), SNAP_ECANCELED (Ctrl-C), SNAP_EIO with what
 * the program said. */
int mount_nbdkit_start(struct mount_state *s, const char *config_path, const char *remote,
                       struct err *reterr) SNAP_WUR;
int mount_nbdfuse_start(struct mount_state *s, struct err *reterr) SNAP_WUR;
/* 0 too when it runs no longer, or never did. Errors: SNAP_EBUSY. */
int mount_nbdkit_stop(struct mount_state *s, struct err *reterr) SNAP_WUR;
/* All that was written to the disk is durable on the daemon. Errors: SNAP_EIO. */
int mount_nbdfuse_flush(const struct mount_state *s, struct err *reterr) SNAP_WUR;
/* Errors: SNAP_EBUSY (somebody has the disk's file open). */
int mount_nbdfuse_stop(struct mount_state *s, struct err *reterr) SNAP_WUR;

/* -- the disk: partitions, and the loop device ------------------------------------------------- */

struct mount_part {
    unsigned number; /* 0: the whole disk */
    uint64_t start_bytes, size_bytes;
    char fs[MOUNT_FS_BYTES]; /* "ext4", or what else is in it; empty: not known */
    char label[MOUNT_FS_BYTES];
    bool is_fs; /* fs names a file system */
};
enum { MOUNT_PARTS_MAX = 256 };
struct mount_parts {
    struct mount_part whole;
    struct mount_part part[MOUNT_PARTS_MAX];
    size_t count; /* 0: the disk has no partitions */
};
int mount_parts_read(const struct mount_state *s, struct mount_parts *ret,
                     struct err *reterr) SNAP_WUR;

/* Errors: SNAP_ENOTSUP (no loop devices here), SNAP_EIO. */
int mount_loop_attach(const struct mount_state *s, const struct mount_part *part,
                      char ret_device[MOUNT_DEVICE_BYTES], struct err *reterr) SNAP_WUR;
/* Every loop device on this mount's disk. Errors: SNAP_EBUSY (still open somewhere). */
int mount_loop_detach(const struct mount_state *s, struct err *reterr) SNAP_WUR;
/* Is that device a loop device on this mount's disk? */
bool mount_loop_is_ours(const struct mount_state *s, dev_t device);

/* -- the file system --------------------------------------------------------------------------- */

/* Errors: SNAP_EIO … with what libmount says. */
int mount_fs_mount(const struct mount_state *s, const char *device, const char *fs,
                   const char *options, struct err *reterr) SNAP_WUR;
/* 0 too when it is not mounted any more. Errors: SNAP_EBUSY (in use, covered, or mounted a second
 * time elsewhere). */
int mount_fs_umount(const struct mount_state *s, struct err *reterr) SNAP_WUR;
/* Errors: SNAP_EBUSY (something is mounted on directory). */
int mount_fs_check_free(const char *directory, struct err *reterr) SNAP_WUR;

/* Undo what there is of a mount, from its end to its beginning, and forget it. What fails stays,
 * with all before it, for another time. Errors: SNAP_EBUSY …, SNAP_EIO (undone, but the last
 * writes may not be durable). */
int mount_undo(struct mount_state *s, struct err *reterr) SNAP_WUR;

#endif
