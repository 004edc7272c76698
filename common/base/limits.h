/* SPDX-License-Identifier: Apache-2.0 */
/* Every cap on what a peer, a file or a user can size, in one place. */
#ifndef SNAP_BASE_LIMITS_H
#define SNAP_BASE_LIMITS_H

#include <stdint.h>

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)

enum {
    SECTOR_BYTES = 512,

    LIMIT_CHUNK_SECTORS_MIN = 1,
    LIMIT_CHUNK_SECTORS_MAX = 32768,  /* 16 MiB */
    LIMIT_CHUNK_SECTORS_DEFAULT = 32, /* 16 KiB */

    LIMIT_NAME_BYTES = 128, /* a volume's, snapshot's or identity's name */
    LIMIT_TEXT_BYTES = 480, /* an error text on the wire */
    LIMIT_PATH_BYTES = 4096,

    LIMIT_FRAME_CONTROL_BYTES = 256 * 1024,
    LIMIT_FRAME_PAYLOAD_BYTES = 16 * 1024 * 1024,
    LIMIT_BATCH_CHUNKS = 4096,             /* old_chunks in one COW request, zero_chunks likewise */
    LIMIT_BATCH_ZERO_BYTES = 1 << 30,      /* … and what the zero_chunks stand for */
    LIMIT_PAGE_RUNS = 8192,                /* runs in one answer of a listing */
    LIMIT_REQUESTS_INFLIGHT = 1024,        /* a connection */
    LIMIT_WINDOW_BYTES = 64 * 1024 * 1024, /* a connection, each way */
    LIMIT_WINDOW_BYTES_MIN = 64 * 1024,

    LIMIT_LABELS = 64,
    LIMIT_GROUP_MEMBERS = 256,             /* volumes of one group */
    LIMIT_SNAPSHOTS = 65536,               /* a volume */
    LIMIT_RECORD_BYTES = 64 * 1024 * 1024, /* a state record read from disk */
    LIMIT_CONFIG_BYTES = 1024 * 1024,
};

#define LIMIT_VOLUME_BYTES (UINT64_C(1) << 60)

#endif
