/* SPDX-License-Identifier: Apache-2.0 */
/* Loaded into a daemon before the C library: while the file $KILL_AT is there, with a number N in
 * it, the N-th system call from then on that changes a folder, or makes something durable, does not
 * happen, and the process is killed there. What has been counted stands in the file $KILL_AT.count.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int count;

static void here(void)
{
    const char *sign = getenv("KILL_AT");
    char text[16] = "", path[4096];
    int fd = sign != NULL ? (int)syscall(SYS_openat, AT_FDCWD, sign, O_RDONLY) : -1;
    if (fd < 0) {
        atomic_store(&count, 0);
        return;
    }
    ssize_t n = read(fd, text, sizeof text - 1);
    (void)close(fd);
    int now = atomic_fetch_add(&count, 1) + 1;
    if (n > 0 && now == atoi(text))
        (void)kill(getpid(), SIGKILL);
    (void)snprintf(path, sizeof path, "%s.count", sign);
    fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd >= 0) {
        int len = snprintf(text, sizeof text, "%d", now);
        n = write(fd, text, (size_t)len);
        (void)close(fd);
    }
}

static int open_here(int at, const char *path, int flags, mode_t mode)
{
    if ((flags & O_CREAT) != 0)
        here();
    return (int)syscall(SYS_openat, at, path, flags, mode);
}

#define OPEN(name)                                     \
    int name(const char *path, int flags, ...)         \
    {                                                  \
        va_list ap;                                    \
        va_start(ap, flags);                           \
        mode_t mode = va_arg(ap, mode_t);              \
        va_end(ap);                                    \
        return open_here(AT_FDCWD, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define CALL(name, params, number, ...)           \
    int name params                               \
    {                                             \
        here();                                   \
        return (int)syscall(number, __VA_ARGS__); \
    }
CALL(fsync, (int fd), SYS_fsync, fd)
CALL(fdatasync, (int fd), SYS_fdatasync, fd)
CALL(unlink, (const char *path), SYS_unlink, path)
CALL(mkdir, (const char *path, mode_t mode), SYS_mkdir, path, mode)
CALL(rename, (const char *from, const char *to), SYS_rename, from, to)
CALL(renameat2, (int a, const char *from, int b, const char *to, unsigned flags), SYS_renameat2, a,
     from, b, to, flags)
CALL(ftruncate, (int fd, off_t size), SYS_ftruncate, fd, size)
CALL(ftruncate64, (int fd, off_t size), SYS_ftruncate, fd, size)
CALL(fallocate, (int fd, int mode, off_t at, off_t len), SYS_fallocate, fd, mode, at, len)
CALL(fallocate64, (int fd, int mode, off_t at, off_t len), SYS_fallocate, fd, mode, at, len)

int remove(const char *path)
{
    here();
    return (int)(syscall(SYS_unlink, path) == 0 ? 0 : syscall(SYS_rmdir, path));
}
