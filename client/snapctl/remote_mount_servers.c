/* SPDX-License-Identifier: Apache-2.0 */
/* The two programs behind a mount: nbdkit with the plugin, and nbdfuse.
 *
 * They run in sessions of their own and outlive snapctl; what they say goes to a log in the
 * mount's folder. Each is known by its pid or found by its name, and is ours only if its command
 * line names that folder: a number that another program has got since is left alone.
 *
 * It must not know what is mounted, or where.
 */
#include "client/snapctl/remote_mount.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

enum {
    READY_MS = 60 * 1000,
    STOP_MS = 5 * 1000, /* what was written has been flushed before */
    KILL_MS = 10 * 1000,
    STOP_PROCESSES_MAX = 16,
    UMOUNT_MS = 5 * 1000,
    POLL_MS = 10,
    LOG_BYTES_MAX = 16 * 1024 * 1024,
    SAID_BYTES_MAX = 300,
};
#define PLUGIN_FILE "nbdkit-snapwire-plugin.so"

static void nap(void)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
}

/* -- which of them run -------------------------------------------------------------------- */

/* A program that has ended, even if nobody has taken note, has no command line. */
static bool runs(const struct mount_state *s, pid_t pid)
{
    char path[32];
    char text[4096];
    (void)snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text) : -1;
    (void)waitpid(pid, NULL, WNOHANG); /* if it is a child of ours */
    return n > 0 && memmem(text, (size_t)n, s->folder, strlen(s->folder));
}

static bool wait_ended(const struct mount_state *s, pid_t pid, int ms)
{
    for (; runs(s, pid); ms -= POLL_MS) {
        if (ms <= 0)
            return false;
        nap();
    }
    return true;
}

/* A program of this mount by its name: nbdkit's pid is another once it is in the background, and
 * snapctl may have ended before it had noted one. */
static pid_t find(const struct mount_state *s, const char *name)
{
    DIR *dir = opendir("/proc");
    pid_t found = 0;
    for (const struct dirent *d; dir && found == 0 && (d = readdir(dir));) {
        char path[32], comm[32] = "";
        long pid = strtol(d->d_name, NULL, 10);
        if (pid <= 0 || pid > INT32_MAX)
            continue;
        (void)snprintf(path, sizeof path, "/proc/%ld/comm", pid);
        CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, comm, sizeof comm - 1) : 0;
        comm[n > 0 ? n : 0] = '\0';
        comm[strcspn(comm, "\n")] = '\0';
        if (strcmp(comm, name) == 0 && runs(s, (pid_t)pid))
            found = (pid_t)pid;
    }
    if (dir)
        (void)closedir(dir);
    return found;
}

/* One that is just being executed has no command line for a moment, so it is looked for twice. */
static pid_t find_any(const struct mount_state *s, const char *name, pid_t known)
{
    if (known > 0 && runs(s, known))
        return known;
    pid_t pid = find(s, name);
    if (pid > 0)
        return pid;
    nap();
    return find(s, name);
}

/* -- starting ----------------------------------------------------------------------------- */

static int spawn(const char *log, const char *const argv[], pid_t *ret_pid)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t how;
    sigset_t none, all;
    char *const *words;
    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    memcpy(&words, &argv, sizeof words); /* posix_spawn() leaves them as they are */
    int e = posix_spawn_file_actions_init(&files);
    if (e != 0)
        return e;
    e = posix_spawnattr_init(&how);
    if (e == 0) {
        e = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
        if (e == 0)
            e = posix_spawn_file_actions_addopen(&files, 1, log, O_WRONLY | O_CREAT | O_APPEND,
                                                 0600);
        if (e == 0)
            e = posix_spawn_file_actions_adddup2(&files, 1, 2);
        if (e == 0)
            e = posix_spawnattr_setflags(&how, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGDEF |
                                                   POSIX_SPAWN_SETSIGMASK);
        if (e == 0)
            e = posix_spawnattr_setsigdefault(&how, &all);
        if (e == 0)
            e = posix_spawnattr_setsigmask(&how, &none);
        if (e == 0)
            e = posix_spawnp(ret_pid, argv[0], &files, &how, words, environ);
        (void)posix_spawnattr_destroy(&how);
    }
    (void)posix_spawn_file_actions_destroy(&files);
    return e;
}

/* The first line of a log that speaks of an error, or else its last. In the background nbdkit
 * speaks to syslog. */
static void said(const char *log, const char *name, char buf[SAID_BYTES_MAX])
{
    CLEANUP_FREE char *text = NULL;
    size_t len;
    (void)snprintf(buf, SAID_BYTES_MAX, "it said nothing here; journalctl -t %s may know more",
                   name);
    if (file_read_all(log, LOG_BYTES_MAX, &text, &len, NULL) < 0)
        return;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        if (*line)
            (void)snprintf(buf, SAID_BYTES_MAX, "%s", line);
        if (strstr(line, "error"))
            return;
    }
}

/* Until it has written its pid. What has ended well before may have left another of its name in
 * the background. */
static int wait_ready(const struct mount_state *s, const char *name, pid_t pid, struct err *reterr)
{
    char file[24], path[MOUNT_FILE_BYTES], log[MOUNT_FILE_BYTES], text[SAID_BYTES_MAX];
    bool ended = false;
    struct stat st;
    (void)snprintf(file, sizeof file, "%s.log", name);
    mount_state_file(s, file, log);
    (void)snprintf(file, sizeof file, "%s.pid", name);
    mount_state_file(s, file, path);
    for (int ms = 0; ms < READY_MS; ms += POLL_MS) {
        if (cli_interrupted())
            return err_set(reterr, SNAP_ECANCELED, "interrupted");
        int status = 0;
        ended = ended || waitpid(pid, &status, WNOHANG) == pid;
        bool gone = ended && (status != 0 || find(s, name) == 0);
        if (stat(path, &st) == 0 && st.st_size > 0)
            return 0;
        if (gone) {
            said(log, name, text);
            return err_set(reterr, SNAP_EIO, "%s", text);
        }
        nap();
    }
    said(log, name, text);
    return err_set(reterr, SNAP_ETIMEDOUT, "it does not come up in %d s: %s", READY_MS / 1000,
                   text);
}

static int start(struct mount_state *s, const char *const argv[], const char *package, pid_t *pid,
                 struct err *reterr)
{
    char file[24], log[MOUNT_FILE_BYTES];
    (void)snprintf(file, sizeof file, "%s.log", argv[0]);
    mount_state_file(s, file, log);
    int e = spawn(log, argv, pid);
    if (e == ENOENT)
        return err_set(reterr, SNAP_ENOTSUP,
                       "start %s: it is not installed (Debian: apt install %s)", argv[0], package);
    if (e != 0)
        return err_set_errno(reterr, err_code_of_errno(e), e, "start %s", argv[0]);
    int rc = mount_state_save(s, reterr);
    if (rc == 0)
        rc = wait_ready(s, argv[0], *pid, reterr);
    if (rc < 0)
        (void)err_prefix(reterr, "start %s", argv[0]);
    return rc;
}

/* Beside snapctl, or where `make install` puts it below the same prefix; else nbdkit looks in its
 * own folder. */
static void find_plugin(char buf[LIMIT_PATH_BYTES])
{
    static const char *const places[] = {"", "../lib/nbdkit/plugins/"};
    char self[LIMIT_PATH_BYTES / 2];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    for (size_t i = 0; n > 0 && i < sizeof places / sizeof *places; i++) {
        self[n] = '\0';
        char *slash = strrchr(self, '/');
        int folder = slash ? (int)(slash - self) : 0;
        (void)snprintf(buf, LIMIT_PATH_BYTES, "%.*s/%s" PLUGIN_FILE, folder, self, places[i]);
        if (access(buf, R_OK) == 0)
            return;
    }
    (void)snprintf(buf, LIMIT_PATH_BYTES, "snapwire");
}

int mount_nbdkit_start(struct mount_state *s, const char *config_path, const char *remote,
                       struct err *reterr)
{
    char plugin[LIMIT_PATH_BYTES], socket[MOUNT_FILE_BYTES], pidfile[MOUNT_FILE_BYTES];
    char volume[MOUNT_TARGET_BYTES + 8], config[LIMIT_PATH_BYTES + 8], entry[MOUNT_TARGET_BYTES];
    find_plugin(plugin);
    mount_state_file(s, "socket", socket);
    mount_state_file(s, "nbdkit.pid", pidfile);
    (void)snprintf(volume, sizeof volume, "volume=%s", s->target);
    (void)snprintf(config, sizeof config, "config=%s", config_path);
    (void)snprintf(entry, sizeof entry, "remote=%s", remote);
    const char *argv[16] = {"nbdkit", "-U", socket, "-P", pidfile};
    size_t n = 5;
    if (s->read_only)
        argv[n++] = "-r";
    argv[n++] = plugin;
    argv[n++] = volume;
    argv[n++] = config;
    argv[n] = entry;
    /* it goes to the background by itself: left in front it ends together with who started it */
    int rc = start(s, argv, "nbdkit", &s->nbdkit, reterr);
    s->nbdkit = 0; /* it has another now */
    return rc;
}

int mount_nbdfuse_start(struct mount_state *s, struct err *reterr)
{
    char folder[MOUNT_FILE_BYTES], uri[MOUNT_FILE_BYTES + 24], pidfile[MOUNT_FILE_BYTES];
    char disk[MOUNT_FILE_BYTES];
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(reterr, SNAP_ENOTSUP, errno,
                             "start nbdfuse: no FUSE here (modprobe fuse; in a container /dev/fuse "
                             "has to be let in): /dev/fuse");
    (void)close(fd);
    mount_state_file(s, "fuse", folder);
    mount_state_file(s, "fuse/disk", disk);
    (void)snprintf(uri, sizeof uri, "nbd+unix:///?socket=%s/socket", s->folder);
    mount_state_file(s, "nbdfuse.pid", pidfile);
    if (mkdir(folder, 0700) != 0 && errno != EEXIST)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "make %s", folder);
    const char *argv[9] = {"nbdfuse", "-P", pidfile};
    size_t n = 3;
    if (s->read_only)
        argv[n++] = "-r";
    argv[n++] = disk;
    argv[n] = uri;
    int rc = start(s, argv, "libnbd-bin", &s->nbdfuse, reterr);
    if (rc == SNAP_EIO && find_any(s, "nbdkit", 0) == 0)
        (void)err_prefix(reterr, "nbdkit has ended (journalctl -t nbdkit may tell why)");
    return rc;
}

/* -- stopping ----------------------------------------------------------------------------- */

/* Until none is left: nbdkit forks when it goes to the background, and what the first process is
 * told in that moment the second may never hear of. */
static int stop(const struct mount_state *s, const char *name, pid_t pid, struct err *reterr)
{
    for (int i = 0; i < STOP_PROCESSES_MAX; i++) {
        pid = find_any(s, name, pid);
        if (pid == 0)
            return 0;
        (void)kill(pid, SIGTERM);
        if (wait_ended(s, pid, STOP_MS))
            continue;
        (void)kill(pid, SIGKILL);
        if (!wait_ended(s, pid, KILL_MS))
            return err_set(reterr, SNAP_EBUSY, "stop %s: process %d does not end", name, (int)pid);
    }
    return err_set(reterr, SNAP_EBUSY, "stop %s: others of it begin again and again", name);
}

int mount_nbdkit_stop(struct mount_state *s, struct err *reterr)
{
    return stop(s, "nbdkit", s->nbdkit, reterr);
}

int mount_nbdfuse_flush(const struct mount_state *s, struct err *reterr)
{
    char disk[MOUNT_FILE_BYTES];
    mount_state_file(s, "fuse/disk", disk);
    CLEANUP_CLOSE int fd = open(disk, O_RDWR | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd >= 0 && fsync(fd) == 0)
        return 0;
    return err_set_errno(reterr, SNAP_EIO, errno,
                         "%s is unmounted, but its last writes may not be durable: the daemon or a "
                         "server of the mount was away; flush",
                         s->target);
}

int mount_nbdfuse_stop(struct mount_state *s, struct err *reterr)
{
    char folder[MOUNT_FILE_BYTES];
    mount_state_file(s, "fuse", folder);
    for (int ms = 0; umount2(folder, UMOUNT_NOFOLLOW) != 0; ms += POLL_MS) {
        if (errno == EINVAL || errno == ENOENT)
            break;
        if (errno != EBUSY || ms >= UMOUNT_MS)
            return err_set_errno(reterr, err_code_of_errno(errno), errno,
                                 "stop nbdfuse: unmount %s (fuser -vm tells who has it open)",
                                 folder);
        nap();
    }
    return stop(s, "nbdfuse", s->nbdfuse, reterr);
}
