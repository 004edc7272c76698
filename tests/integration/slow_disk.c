/* SPDX-License-Identifier: Apache-2.0 */
/* Loaded into a guard, or snapctl, before the C library: its disk takes no write for as long as the
 * file $SLOW_DISK is there. $SLOW_DISK.has is made when it has one. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static void wait_for_disk(void)
{
    const char *sign = getenv("SLOW_DISK");
    char has[4096];
    if (sign != NULL && access(sign, F_OK) == 0) {
        (void)snprintf(has, sizeof has, "%s.has", sign);
        (void)close(open(has, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        while (access(sign, F_OK) == 0)
            (void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
}

ssize_t pwritev2(int fd, const struct iovec *v, int count, off_t offset, int flags)
{
    (void)flags;
    wait_for_disk();
    return pwritev(fd, v, count, offset);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
    const struct iovec v = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    wait_for_disk();
    return pwritev(fd, &v, 1, offset);
}
