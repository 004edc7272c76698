/* SPDX-License-Identifier: Apache-2.0 */
/* A disk that fails, or stops, when a case says so: fdatasync() and pwritev2() are the program's
 * own, which the threads engine calls. */
#ifndef SNAP_TESTS_UNIT_VOLUME_FAILING_FIXTURE_H
#define SNAP_TESTS_UNIT_VOLUME_FAILING_FIXTURE_H

#include "tests/unit/volume/disk_fixture.h"

static atomic_int passes, failures; /* so many flushes succeed, then so many fail */
static atomic_bool fua_fails;       /* the next write that is to be durable at once */
static struct halt flush, written;  /* before a flush; behind a write */

int fdatasync(int fd)
{
    halt_here(&flush);
    if (!disk_take_one(&passes) && disk_take_one(&failures)) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    if ((flags & RWF_DSYNC) != 0 && atomic_exchange(&fua_fails, false)) {
        errno = EIO;
        return -1;
    }
    ssize_t n = syscall(SYS_pwritev2, fd, iov, count, offset, 0, flags);
    halt_here(&written);
    return n;
}

/* Before a case: sound. */
static inline void failing_init(void)
{
    atomic_store(&passes, 0);
    atomic_store(&failures, 0);
    atomic_store(&fua_fails, false);
    halt_init(&flush);
    halt_init(&written);
}

#endif
