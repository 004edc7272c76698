/* SPDX-License-Identifier: Apache-2.0 */
/* Scope clean-up: `CLEANUP_FREE char *text = NULL;` */
#ifndef SNAP_BASE_CLEANUP_H
#define SNAP_BASE_CLEANUP_H

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* where: a pointer to a pointer of any type */
static inline void cleanup_free_(const void *where)
{
    void *p;
    memcpy(&p, where, sizeof p);
    free(p);
}

static inline void cleanup_close_(const int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

#define CLEANUP_FREE __attribute__((cleanup(cleanup_free_)))
#define CLEANUP_CLOSE __attribute__((cleanup(cleanup_close_)))
#define CLEANUP(fn) __attribute__((cleanup(fn)))

#endif
