/* SPDX-License-Identifier: Apache-2.0 */
/* For a test with an fdatasync() or pwritev2() of its own, which the threads engine calls: which
 * file is it about, is this one to fail, does it stop here while the case looks round? */
#ifndef SNAP_TESTS_UNIT_VOLUME_DISK_FIXTURE_H
#define SNAP_TESTS_UNIT_VOLUME_DISK_FIXTURE_H

#include "tests/unit/volume/volume_fixture.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* 0: none. Thread: any. */
static inline ino_t disk_ino(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

static inline ino_t disk_ino_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_ino;
}

static inline ino_t disk_cow_ino(const struct fixture *f, struct uuid snapshot)
{
    char path[LIMIT_PATH_BYTES];
    return disk_ino_of(fixture_cow_path(f, snapshot, path, sizeof path));
}

static inline ino_t disk_origin_ino(const struct fixture *f)
{
    char path[LIMIT_PATH_BYTES];
    return disk_ino_of(fixture_origin_path(f, path, sizeof path));
}

/* One of so many that are left. Thread: any. */
static inline bool disk_take_one(atomic_int *left)
{
    int n = atomic_load(left);
    while (n > 0)
        if (atomic_compare_exchange_weak(left, &n, n - 1))
            return true;
    return false;
}

/* A place that the engine comes by, and where the next one stops when a case wants that:
 *
 *   halt_set ──> begin something ──> halt_reached ──> look round ──> halt_end ──> wait for it */
struct halt {
    atomic_bool set;
    sem_t reached, go_on;
};

/* Before a case. */
static inline void halt_init(struct halt *h)
{
    atomic_store(&h->set, false);
    sem_init(&h->reached, 0, 0);
    sem_init(&h->go_on, 0, 0);
}

static inline void halt_set(struct halt *h)
{
    atomic_store(&h->set, true);
}

/* Here it is. Thread: any. */
static inline void halt_here(struct halt *h)
{
    if (!atomic_exchange(&h->set, false))
        return;
    sem_post(&h->reached);
    sem_wait(&h->go_on);
}

/* Until one stands there. */
static inline void halt_reached(struct halt *h)
{
    sem_wait_for(&h->reached, "nothing came by that was to be stopped");
}

static inline void halt_end(struct halt *h)
{
    sem_post(&h->go_on);
}

#endif
