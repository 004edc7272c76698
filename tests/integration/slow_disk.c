/* SPDX-License-Identifier: Apache-2.0 */
/* Loaded into a guard before the C library: its disk takes no write for as long as the file
 * $SLOW_DISK is there. $SLOW_DISK.has is made when it has one. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

ssize_t pwritev2(int fd, const struct iovec *v, int count, off_t offset, int flags)
{
    const char *sign = getenv("SLOW_DISK");
    char has[4096];
    (void)flags;
    if (sign != NULL && access(sign, F_OK) == 0) {
        (void)snprintf(has, sizeof has, "%s.has", sign);
        (void)close(open(has, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        while (access(sign, F_OK) == 0)
            (void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return pwritev(fd, v, count, offset);
}
