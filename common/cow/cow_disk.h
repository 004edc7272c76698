/* SPDX-License-Identifier: Apache-2.0 */
/* The dm-snapshot persistent format: pure encoding and arithmetic, no I/O.
 * Source: docs/format.md. On-disk integers are little-endian.
 *
 *   chunk 0      1        2 … E+1     E+2      E+3 …
 *        header  area 0   data        area 1   data       E = chunk bytes / 16
 */
#ifndef SNAP_COW_DISK_H
#define SNAP_COW_DISK_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    COW_MAGIC = 0x70416e53, /* "SnAp" */
    COW_VERSION = 1,
    COW_HEADER_BYTES = 16,
    COW_EXCEPTION_BYTES = 16,
};

/* Chunk numbers of the two sides are easily mixed: each has its own type at interfaces
 * that take both. */
struct chunk_old {
    uint64_t n; /* chunk of the origin */
};
struct chunk_new {
    uint64_t n; /* chunk of the COW device */
};

struct cow_header {
    uint32_t magic;
    uint32_t valid;
    uint32_t version;
    uint32_t chunk_size_sectors;
};

struct cow_exception {
    uint64_t old_chunk;
    uint64_t new_chunk; /* 0 ends the table */
};

/* What follows from a chunk size. */
struct cow_geometry {
    uint32_t chunk_sectors;
    uint32_t chunk_bytes;
    uint32_t area_exceptions; /* E */
};

/* Errors: SNAP_EINVAL when not a power of two in 1 … LIMIT_CHUNK_SECTORS_MAX or
 * smaller than the device's logical block. */
int cow_geometry_init(struct cow_geometry *g, uint32_t chunk_size_sectors, uint32_t align_bytes,
                      struct err *reterr) SNAP_WUR;

static inline uint64_t cow_area_chunk(const struct cow_geometry *g, uint64_t area_no)
{
    return 1 + (uint64_t)(g->area_exceptions + 1) * area_no;
}

static inline bool cow_is_metadata_chunk(const struct cow_geometry *g, uint64_t new_chunk)
{
    return new_chunk == 0 || new_chunk % (g->area_exceptions + 1) == 1;
}

/* c, or the chunk after it when c holds metadata. E is at least 32: no two are neighbours
 * but chunks 0 and 1. */
uint64_t cow_skip_metadata(const struct cow_geometry *g, uint64_t c);

void cow_header_encode(const struct cow_header *h, uint8_t *chunk, uint32_t chunk_bytes);
void cow_header_decode(struct cow_header *h, const uint8_t *chunk);
void cow_exception_encode(const struct cow_exception *x, uint8_t *area, uint32_t index);
void cow_exception_decode(struct cow_exception *x, const uint8_t *area, uint32_t index);

#endif
