/* SPDX-License-Identifier: Apache-2.0 */
/* Figures and texts, the same numbers as the kernel's status line.
 *
 *   exceptions   areas in use            next_free
 *   0            1                       2
 *   E - 1        1                       E + 1
 *   E            2: the current area     E + 3: the metadata chunk is skipped at once
 *                moves on at once
 *
 * Thread: the engine's.
 */
#include "common/cow/cow_store_priv.h"

#include <stdio.h>

void cow_store_usage(const struct cow_store *s, struct cow_usage *ret)
{
    const struct blk_info *info = blk_dev_info(s->dev);
    uint64_t limit = info->size_bytes;

    if (info->can_grow && s->limit_bytes)
        limit = cow_limit_floor(s, s->limit_bytes);
    *ret = (struct cow_usage){
        .state = cow_store_state(s),
        .merge_failed = s->merge_failed,
        .geometry = s->g,
        .device_sectors = info->size_bytes / SECTOR_BYTES,
        .limit_sectors = limit / SECTOR_BYTES,
        .exceptions = s->table_len - s->dropped,
        .areas = s->table_len / s->g.area_exceptions + 1,
        .next_free = s->next_free,
        .leftovers = s->leftovers,
        .commits = s->count.commits,
        .flushes = s->count.flushes,
        .area_writes = s->count.area_writes,
        .data_writes = s->count.data_writes,
        .chunks_added = s->count.chunks_added,
        .chunks_existed = s->count.chunks_existed,
        .chunks_failed = s->count.chunks_failed,
        .data_bytes = s->count.data_bytes,
        .area_bytes = s->count.area_bytes,
    };
    if (s->state == COW_MERGING) /* the area that a merge works in is the current one */
        ret->areas = s->image_area + 1;
    ret->sectors_allocated = ret->next_free * s->g.chunk_sectors;
    ret->metadata_sectors = (ret->areas + 1) * s->g.chunk_sectors;
}

enum cow_state cow_store_state(const struct cow_store *s)
{
    return s->closing ? COW_CLOSING : s->state;
}

const struct cow_geometry *cow_store_geometry(const struct cow_store *s)
{
    return &s->g;
}

struct blk_dev *cow_store_dev(const struct cow_store *s)
{
    return s->dev;
}

uint32_t cow_store_seq(const struct cow_store *s)
{
    return s->seq;
}

bool cow_store_chunk_differs(const struct cow_store *s)
{
    return s->chunk_differs;
}

char *cow_status_format(const struct cow_usage *u, char *buf, size_t buf_bytes)
{
    if (u->state == COW_INVALID)
        snprintf(buf, buf_bytes, "Invalid");
    else if (u->merge_failed)
        snprintf(buf, buf_bytes, "Merge failed");
    else
        snprintf(buf, buf_bytes, "%llu/%llu %llu", (unsigned long long)u->sectors_allocated,
                 (unsigned long long)u->device_sectors, (unsigned long long)u->metadata_sectors);
    return buf;
}
