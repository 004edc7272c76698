/* SPDX-License-Identifier: Apache-2.0 */
/* The last step of a mount, through libmount; and the order in which all is undone:
 *
 *     umount DIR ─> detach the loop device ─> flush ─> end nbdfuse ─> end nbdkit ─> forget it
 *
 * Each step finds out itself whether there is anything to do, so that one order serves an umount,
 * a mount that failed in its middle, and what a crash has left.
 */
#include "client/snapctl/remote_mount.h"

#include <errno.h>
#include <libmount/libmount.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* -- the table of mounts ---------------------------------------------------------------- */

/* Calls fn for each mount, oldest first, until it returns an error. */
static int each_mount(int (*fn)(void *user, struct libmnt_fs *fs, struct err *reterr), void *user,
                      struct err *reterr)
{
    struct libmnt_table *table = mnt_new_table_from_file("/proc/self/mountinfo");
    struct libmnt_iter *it = table ? mnt_new_iter(MNT_ITER_FORWARD) : NULL;
    struct libmnt_fs *fs = NULL;
    int rc = 0;
    if (!it)
        rc = err_set(reterr, SNAP_EIO, "cannot read the table of mounts, /proc/self/mountinfo");
    while (rc == 0 && mnt_table_next_fs(table, it, &fs) == 0)
        rc = fn(user, fs, reterr);
    mnt_free_iter(it);
    mnt_unref_table(table);
    return rc;
}

static bool is_on(struct libmnt_fs *fs, const char *directory)
{
    const char *target = mnt_fs_get_target(fs);
    return target && strcmp(target, directory) == 0;
}

static int check_other(void *user, struct libmnt_fs *fs, struct err *reterr)
{
    const char *directory = user;
    if (!is_on(fs, directory))
        return 0;
    const char *source = mnt_fs_get_source(fs);
    return err_set(reterr, SNAP_EBUSY, "%s has a mount already, of %s; unmount it first", directory,
                   source ? source : "something else");
}

int mount_fs_check_free(const char *directory, struct err *reterr)
{
    char path[LIMIT_PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s", directory);
    return each_mount(check_other, path, reterr);
}

/* -- mount and umount ------------------------------------------------------------------- */

static int failed(struct libmnt_context *context, int mount_rc, const char *what,
                  const char *directory, struct err *reterr)
{
    char text[300] = "";
    int e = mnt_context_syscall_called(context) ? mnt_context_get_syscall_errno(context) : 0;
    (void)mnt_context_get_excode(context, mount_rc, text, sizeof text);
    return err_set(reterr, e ? err_code_of_errno(e) : SNAP_EIO, "%s %s: %s", what, directory,
                   text[0] ? text : strerror(e ? e : EIO));
}

int mount_fs_mount(const struct mount_state *s, const char *device, const char *fs,
                   const char *options, struct err *reterr)
{
    struct libmnt_context *context = mnt_new_context();
    if (!context)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for mounting");
    int rc = 0;
    if (mnt_context_set_source(context, device) != 0 ||
        mnt_context_set_target(context, s->directory) != 0 ||
        mnt_context_set_fstype(context, fs) != 0 || mnt_context_set_options(context, options) != 0)
        rc = err_set(reterr, SNAP_EINVAL, "mount options %.200s", options);
    if (rc == 0) {
        int mount_rc = mnt_context_mount(context);
        if (mnt_context_get_excode(context, mount_rc, NULL, 0) != MNT_EX_SUCCESS)
            rc = failed(context, mount_rc, "mount on", s->directory, reterr);
        if (rc < 0 && mnt_context_syscall_called(context) &&
            mnt_context_get_syscall_errno(context) == ENODEV)
            rc = err_set(reterr, SNAP_ENOTSUP,
                         "mount on %s: this host's kernel knows no %s (modprobe %s)", s->directory,
                         fs, fs);
    }
    mnt_free_context(context);
    return rc;
}

/* What it is mounted from. btrfs has a device number of its own in the table. */
static dev_t device_of(struct libmnt_fs *fs)
{
    struct stat st;
    const char *source = mnt_fs_get_source(fs);
    dev_t number = mnt_fs_get_devno(fs);
    if (major(number) == 0 && source && source[0] == '/' && stat(source, &st) == 0 &&
        S_ISBLK(st.st_mode))
        number = st.st_rdev;
    return number;
}

struct mounts_of {
    const struct mount_state *state;
    bool there, covered;
};

/* A second mount of the same device would keep all that is below it. */
static int look_at(void *user, struct libmnt_fs *fs, struct err *reterr)
{
    struct mounts_of *m = user;
    bool ours = mount_loop_is_ours(m->state, device_of(fs));
    if (is_on(fs, m->state->directory)) {
        m->there = m->there || ours;
        m->covered = !ours;
    } else if (ours) {
        return err_set(reterr, SNAP_EBUSY, "%s is also mounted on %s; unmount that first",
                       m->state->target, mnt_fs_get_target(fs));
    }
    return 0;
}

int mount_fs_umount(const struct mount_state *s, struct err *reterr)
{
    struct mounts_of m = {.state = s};
    int rc = each_mount(look_at, &m, reterr);
    if (rc < 0 || !m.there)
        return rc;
    if (m.covered)
        return err_set(reterr, SNAP_EBUSY,
                       "something else is mounted over %s on %s; unmount it first", s->target,
                       s->directory);
    struct libmnt_context *context = mnt_new_context();
    if (!context)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for unmounting");
    if (mnt_context_set_target(context, s->directory) != 0)
        rc = err_set(reterr, SNAP_ENOMEM, "out of memory for unmounting");
    int mount_rc = rc == 0 ? mnt_context_umount(context) : 0;
    if (rc == 0 && mnt_context_get_excode(context, mount_rc, NULL, 0) != MNT_EX_SUCCESS) {
        rc = failed(context, mount_rc, "unmount", s->directory, reterr);
        if (rc == SNAP_EBUSY)
            rc = err_set(reterr, SNAP_EBUSY,
                         "%s is in use; fuser -vm %s tells by whom, nothing was changed",
                         s->directory, s->directory);
    }
    mnt_free_context(context);
    return rc;
}

int mount_undo(struct mount_state *s, struct err *reterr)
{
    int rc = mount_fs_umount(s, reterr);
    if (rc == 0)
        rc = mount_loop_detach(s, reterr);
    if (rc < 0)
        return rc;
    struct err why = ERR_INIT;
    int lost = s->read_only ? 0 : mount_nbdfuse_flush(s, &why);
    rc = mount_nbdfuse_stop(s, reterr);
    if (rc == 0)
        rc = mount_nbdkit_stop(s, reterr);
    if (rc == 0)
        rc = mount_state_remove(s, reterr);
    if (rc == 0 && lost < 0)
        rc = err_copy(reterr, &why);
    return rc;
}
