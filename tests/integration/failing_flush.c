/* SPDX-License-Identifier: Apache-2.0 */
/* Loaded into a daemon before the C library: fdatasync() of a volume's origin fails for as long as
 * the file $FAILING_FLUSH is there; with $FAILING_FLUSH_ONCE that is removed by the first failure,
 * as a system tells of lost writes only once. What was written stays. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int fdatasync(int fd)
{
    const char *sign = getenv("FAILING_FLUSH");
    char link[64], path[4096];
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t len = readlink(link, path, sizeof path - 1);
    path[len > 0 ? len : 0] = '\0';
    if (sign != NULL && access(sign, F_OK) == 0 && strstr(path, "/origin") != NULL) {
        if (getenv("FAILING_FLUSH_ONCE") != NULL)
            (void)unlink(sign);
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}
