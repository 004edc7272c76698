/* SPDX-License-Identifier: Apache-2.0 */
/* An NBD connection: a disk, and the link that its requests take. */
#ifndef SNAP_NBDKIT_SERVE_H
#define SNAP_NBDKIT_SERVE_H

#include "client/nbdkit/disk.h"

enum { LINKS_MAX = 8 };

struct serve {
    struct disk *disk;
    struct link *const *links; /* all, LINKS_MAX; NULL: not opened yet */
    unsigned link_no;          /* which of them is this connection's */
    const char *server;        /* for what is told */
};

/* As nbdkit's callbacks of these names, flags in nbdkit's bits. Any of nbdkit's threads, several
 * at once. 0 or -1, told by nbdkit_error(). */
int serve_read(struct serve *s, void *buf, uint32_t count, uint64_t offset);
int serve_write(struct serve *s, const void *buf, uint32_t count, uint64_t offset, uint32_t flags);
int serve_zero(struct serve *s, uint32_t count, uint64_t offset, uint32_t flags);
int serve_trim(struct serve *s, uint32_t count, uint64_t offset, uint32_t flags);
int serve_flush(struct serve *s);
int serve_extents(struct serve *s, uint32_t count, uint64_t offset, struct nbdkit_extents *extents);

#endif
