/* SPDX-License-Identifier: Apache-2.0 */
/* What is served: hosted volumes, their snapshots and clones, by name. */
#ifndef SNAP_NBDKIT_DISK_H
#define SNAP_NBDKIT_DISK_H

#include "client/nbdkit/link.h"
#include "client/nbdkit/nbdkit_api.h"
#include "common/base/limits.h"

#include <stdatomic.h>
#include <stdint.h>

enum { DISK_NAME_BYTES = 2 * LIMIT_NAME_BYTES + 2 }; /* VOLUME@SNAPSHOT */

/* As it was when it was opened: a name that is made again is another disk. One object however
 * many connections; it lives as long as the plugin. */
struct disk {
    struct disk *next;
    char name[DISK_NAME_BYTES];
    struct snapwire_uuid volume, snapshot;
    uint64_t size_bytes;
    uint32_t chunk_bytes;
    bool writable;       /* the volume, or a clone */
    atomic_uint written; /* links that have written it, a bit each */
};

/* All: errors are told by nbdkit_error(); server: for their text. Any of nbdkit's threads.
 * 0 or -1. */
int disk_open(struct link *l, const char *server, const char *name, struct disk **ret);
/* Every one of the daemon's that can be served and that we may see. */
int disk_list(struct link *l, const char *server, struct nbdkit_exports *exports);
/* The name of the only hosted volume; empty: there are none, or several. */
int disk_sole(struct link *l, const char *server, char ret[DISK_NAME_BYTES]);
/* At the plugin's end. */
void disk_forget_all(void);

#endif
