/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding and arithmetic of the dm-snapshot persistent format.
 *
 * Bytes in, numbers out, and back: no I/O, no memory, no state. What is read is
 * handed on as it stands; whether it makes sense (magic, version, ranges,
 * duplicates) is the store's to judge, which knows the device.
 *
 * Thread: any; nothing is shared.
 */
#include "common/cow/cow_disk.h"

#include "common/base/bytes.h"
#include "common/base/limits.h"

int cow_geometry_init(struct cow_geometry *g, uint32_t chunk_size_sectors, uint32_t align_bytes,
                      struct err *reterr)
{
    uint32_t chunk_bytes;

    if (!u64_is_pow2(chunk_size_sectors) || chunk_size_sectors > LIMIT_CHUNK_SECTORS_MAX)
        return err_set(reterr, SNAP_EINVAL,
                       "chunk size of %u sectors: not a power of two from %d to %d",
                       chunk_size_sectors, LIMIT_CHUNK_SECTORS_MIN, LIMIT_CHUNK_SECTORS_MAX);
    chunk_bytes = chunk_size_sectors * SECTOR_BYTES;
    if (chunk_bytes < align_bytes)
        return err_set(reterr, SNAP_EINVAL,
                       "chunk size of %u bytes: smaller than the device's block of %u bytes",
                       chunk_bytes, align_bytes);
    g->chunk_sectors = chunk_size_sectors;
    g->chunk_bytes = chunk_bytes;
    g->area_exceptions = chunk_bytes / COW_EXCEPTION_BYTES;
    return 0;
}

uint64_t cow_skip_metadata(const struct cow_geometry *g, uint64_t c)
{
    while (cow_is_metadata_chunk(g, c))
        c++;
    return c;
}

void cow_header_encode(const struct cow_header *h, uint8_t *chunk, uint32_t chunk_bytes)
{
    memset(chunk, 0, chunk_bytes);
    le32_store(chunk, h->magic);
    le32_store(chunk + 4, h->valid);
    le32_store(chunk + 8, h->version);
    le32_store(chunk + 12, h->chunk_size_sectors);
}

void cow_header_decode(struct cow_header *h, const uint8_t *chunk)
{
    h->magic = le32_load(chunk);
    h->valid = le32_load(chunk + 4);
    h->version = le32_load(chunk + 8);
    h->chunk_size_sectors = le32_load(chunk + 12);
}

void cow_exception_encode(const struct cow_exception *x, uint8_t *area, uint32_t index)
{
    uint8_t *at = area + (size_t)index * COW_EXCEPTION_BYTES;

    le64_store(at, x->old_chunk);
    le64_store(at + 8, x->new_chunk);
}

void cow_exception_decode(struct cow_exception *x, const uint8_t *area, uint32_t index)
{
    const uint8_t *at = area + (size_t)index * COW_EXCEPTION_BYTES;

    x->old_chunk = le64_load(at);
    x->new_chunk = le64_load(at + 8);
}
