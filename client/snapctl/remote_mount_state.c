/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of mounts, in a folder each below the runtime folder.
 *
 *     /run/snapctl/            0700, locked while mounts are looked for or begun
 *         m-XXXXXX/state       JSON; locked by whoever makes or undoes this mount
 *
 * The folder is there before anything else of a mount, and goes last. The runtime folder is empty
 * after a restart of the machine, as are the mounts.
 *
 * It must not know how a mount is made.
 */
#include "client/snapctl/remote_mount.h"

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

enum { STATE_BYTES_MAX = 64 * 1024, LOCK_MS = 2000, LOCK_POLL_MS = 10 };
#define PREFIX "m-"

void mount_state_file(const struct mount_state *s, const char *name, char buf[MOUNT_FILE_BYTES])
{
    (void)snprintf(buf, MOUNT_FILE_BYTES, "%s/%s", s->folder, name);
}

/* -- the runtime folder ------------------------------------------------------------------------ */

static const char *runtime_folder(void)
{
    const char *path = getenv("SNAPWIRE_RUNTIME");
    return path && *path ? path : "/run/snapctl";
}

/* Locked until *ret_fd is closed. */
static int open_runtime(int *ret_fd, struct err *reterr)
{
    const char *path = runtime_folder();
    struct stat st;
    if (path[0] != '/' || strlen(path) + sizeof "/" PREFIX "XXXXXX" > MOUNT_FOLDER_BYTES)
        return err_set(reterr, SNAP_EINVAL,
                       "runtime folder %.200s: it must be an absolute path of at most %zu bytes",
                       path, MOUNT_FOLDER_BYTES - sizeof "/" PREFIX "XXXXXX");
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "make %s", path);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        int rc = err_set_errno(reterr, err_code_of_errno(errno), errno, "%s", path);
        if (fd >= 0)
            (void)close(fd);
        return rc;
    }
    if (st.st_uid != geteuid() || (st.st_mode & 0077) != 0) {
        (void)close(fd);
        return err_set(reterr, SNAP_EPERM,
                       "%s must belong to you and be closed to all others (chmod 700)", path);
    }
    while (flock(fd, LOCK_EX) != 0)
        if (errno != EINTR) {
            int rc = err_set_errno(reterr, SNAP_EIO, errno, "lock %s", path);
            (void)close(fd);
            return rc;
        }
    *ret_fd = fd;
    return 0;
}

/* -- one state -------------------------------------------------------------------------- */

int mount_state_save(const struct mount_state *s, struct err *reterr)
{
    char path[MOUNT_FILE_BYTES];
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:b}", "target", s->target, "directory",
                  s->directory, "disk", s->disk, "partition", s->partition, "nbdkit_pid",
                  (int)s->nbdkit, "nbdfuse_pid", (int)s->nbdfuse, "read_only", s->read_only);
    CLEANUP_FREE char *text = o ? json_dumps(o, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(o);
    if (!text)
        return err_set(reterr, SNAP_EINVAL, "%s: the path has to be UTF-8", s->directory);
    mount_state_file(s, "state", path);
    return file_replace(path, text, strlen(text), 0600, reterr);
}

/* false: no state in that folder, or one that cannot be read. */
static bool load(const char *folder, struct mount_state *ret)
{
    char path[MOUNT_FILE_BYTES];
    CLEANUP_FREE char *text = NULL;
    const char *target, *directory, *disk;
    size_t len;
    int partition, nbdkit, nbdfuse, read_only;
    *ret = (struct mount_state){.lock_fd = -1};
    (void)snprintf(ret->folder, sizeof ret->folder, "%s", folder);
    mount_state_file(ret, "state", path);
    if (file_read_all(path, STATE_BYTES_MAX, &text, &len, NULL) < 0)
        return false;
    json_t *o = json_loadb(text, len, 0, NULL);
    bool good =
        o &&
        json_unpack(o, "{s:s, s:s, s:s, s:i, s:i, s:i, s:b}", "target", &target, "directory",
                    &directory, "disk", &disk, "partition", &partition, "nbdkit_pid", &nbdkit,
                    "nbdfuse_pid", &nbdfuse, "read_only", &read_only) == 0 &&
        strlen(target) < sizeof ret->target && strlen(directory) < sizeof ret->directory &&
        strlen(disk) < sizeof ret->disk;
    if (good) {
        (void)snprintf(ret->target, sizeof ret->target, "%s", target);
        (void)snprintf(ret->directory, sizeof ret->directory, "%s", directory);
        (void)snprintf(ret->disk, sizeof ret->disk, "%s", disk);
        ret->partition = partition;
        ret->nbdkit = nbdkit;
        ret->nbdfuse = nbdfuse;
        ret->read_only = read_only != 0;
    }
    json_decref(o);
    return good;
}

/* The lock is on the folder, as the file is replaced. It is waited for a little: a server that a
 * killed snapctl was about to start has it until it runs. */
static int lock(struct mount_state *s, struct err *reterr)
{
    s->lock_fd = open(s->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int ms = 0; s->lock_fd >= 0; ms += LOCK_POLL_MS) {
        if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK || ms >= LOCK_MS)
            break;
        (void)nanosleep(&(struct timespec){.tv_nsec = LOCK_POLL_MS * 1000000L}, NULL);
    }
    int rc =
        errno == EWOULDBLOCK
            ? err_set(reterr, SNAP_EBUSY,
                      "another snapctl is mounting or unmounting %s at this moment", s->directory)
            : err_set_errno(reterr, err_code_of_errno(errno), errno, "lock %s", s->folder);
    mount_state_done(s);
    return rc;
}

void mount_state_done(struct mount_state *s)
{
    if (s->lock_fd >= 0)
        (void)close(s->lock_fd);
    s->lock_fd = -1;
}

/* -- all of them ------------------------------------------------------------------------ */

typedef bool mount_state_is_fn(const struct mount_state *one, const struct mount_state *s);

static bool is_on_same_directory(const struct mount_state *one, const struct mount_state *s)
{
    return strcmp(one->directory, s->directory) == 0;
}

/* Would the two disturb each other? Not when neither can write, nor on two partitions. */
static bool is_in_the_way(const struct mount_state *one, const struct mount_state *s)
{
    return strcmp(one->folder, s->folder) != 0 && strcmp(one->disk, s->disk) == 0 &&
           (one->partition == s->partition || one->partition == 0 || s->partition == 0) &&
           !(one->read_only && s->read_only);
}

/* Is there one that is so to s? What was begun and got no state is swept away. */
static int look(int runtime_fd, mount_state_is_fn *is, const struct mount_state *s, bool *ret_found,
                struct mount_state *ret, struct err *reterr)
{
    int fd = dup(runtime_fd);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    *ret_found = false;
    if (!dir) {
        int rc = err_set_errno(reterr, SNAP_EIO, errno, "read %s", runtime_folder());
        if (fd >= 0)
            (void)close(fd);
        return rc;
    }
    for (const struct dirent *d; !*ret_found && (d = readdir(dir));) {
        char folder[MOUNT_FOLDER_BYTES];
        int n = snprintf(folder, sizeof folder, "%s/%s", runtime_folder(), d->d_name);
        if (strncmp(d->d_name, PREFIX, strlen(PREFIX)) != 0 || n >= (int)sizeof folder)
            continue;
        if (load(folder, ret))
            *ret_found = is(ret, s);
        else
            (void)rmdir(folder);
    }
    (void)closedir(dir);
    return 0;
}

int mount_state_make(const char *target, const char *directory, struct mount_state *ret,
                     struct err *reterr)
{
    CLEANUP_CLOSE int runtime_fd = -1;
    struct mount_state other;
    bool found;
    *ret = (struct mount_state){.lock_fd = -1, .partition = MOUNT_PART_NONE};
    (void)snprintf(ret->directory, sizeof ret->directory, "%s", directory);
    int rc = open_runtime(&runtime_fd, reterr);
    if (rc == 0)
        rc = look(runtime_fd, is_on_same_directory, ret, &found, &other, reterr);
    if (rc == 0 && found)
        rc = err_set(reterr, SNAP_EBUSY, "%s is on %s, or was; snapctl remote umount %s clears it",
                     other.target, directory, directory);
    if (rc < 0)
        return rc;
    (void)snprintf(ret->folder, sizeof ret->folder, "%s/" PREFIX "XXXXXX", runtime_folder());
    (void)snprintf(ret->target, sizeof ret->target, "%s", target);
    if (!mkdtemp(ret->folder))
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "make a folder in %s",
                             runtime_folder());
    rc = mount_state_save(ret, reterr);
    if (rc == 0)
        rc = lock(ret, reterr);
    if (rc < 0)
        (void)mount_state_remove(ret, NULL);
    return rc;
}

int mount_state_claim(struct mount_state *s, const char *disk, unsigned partition,
                      struct err *reterr)
{
    CLEANUP_CLOSE int runtime_fd = -1;
    struct mount_state other;
    bool found;
    (void)snprintf(s->disk, sizeof s->disk, "%s", disk);
    s->partition = (int)partition;
    int rc = open_runtime(&runtime_fd, reterr);
    if (rc == 0)
        rc = look(runtime_fd, is_in_the_way, s, &found, &other, reterr);
    if (rc == 0 && found)
        rc = err_set(reterr, SNAP_EBUSY,
                     "%s is on %s, or was%s, and a file system that is written must not be mounted "
                     "twice; mount a snapshot, or snapctl remote umount %s",
                     other.target, other.directory, other.read_only ? "" : ", writable",
                     other.directory);
    return rc < 0 ? rc : mount_state_save(s, reterr);
}

int mount_state_find(const char *directory, struct mount_state *ret, struct err *reterr)
{
    CLEANUP_CLOSE int runtime_fd = -1;
    struct mount_state wanted = {.lock_fd = -1};
    bool found;
    (void)snprintf(wanted.directory, sizeof wanted.directory, "%s", directory);
    *ret = wanted;
    int rc = open_runtime(&runtime_fd, reterr);
    if (rc == 0)
        rc = look(runtime_fd, is_on_same_directory, &wanted, &found, ret, reterr);
    if (rc == 0 && !found)
        rc = err_set(reterr, SNAP_ENOENT,
                     "%s: snapctl remote mount has mounted nothing there; for other mounts there "
                     "is umount",
                     directory);
    if (rc == 0)
        rc = lock(ret, reterr);
    return rc;
}

int mount_state_remove(const struct mount_state *s, struct err *reterr)
{
    static const char *const files[] = {"socket",      "nbdkit.pid", "nbdkit.log", "nbdfuse.pid",
                                        "nbdfuse.log", "state.tmp",  "state"};
    char path[MOUNT_FILE_BYTES];
    mount_state_file(s, "fuse", path);
    if (rmdir(path) != 0 && errno != ENOENT)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "remove %s", path);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        mount_state_file(s, files[i], path);
        if (unlink(path) != 0 && errno != ENOENT)
            return err_set_errno(reterr, err_code_of_errno(errno), errno, "remove %s", path);
    }
    if (rmdir(s->folder) != 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "remove %s", s->folder);
    return 0;
}
