/* SPDX-License-Identifier: Apache-2.0 */
/* The snapshot view: where the content of a past state stands, byte range by byte range.
 *
 * Layers from the asked-for snapshot to the newest: own exception, else the next
 * newer layer's, …, else the origin. Stores of one volume share one map and one
 * chunk size: they are one layer, searched by successor. Offline tools stack
 * layers of separate maps, whose chunk sizes may differ, as the kernel does.
 *
 * Pure look-up: no I/O here. Thread: the maps' owner's.
 */
#ifndef SNAP_COW_VIEW_H
#define SNAP_COW_VIEW_H

#include "common/cow/cow_map.h"

#include <stdint.h>

struct cow_layer {
    const struct cow_map *map;
    uint32_t seq; /* start of the successor search in this map */
    uint32_t chunk_bytes;
};

struct cow_extent {
    uint64_t offset_bytes; /* in the view */
    uint64_t len_bytes;
    int layer;                 /* index of the layer that has it; -1: the origin */
    uint32_t seq;              /* which store of that layer */
    uint64_t dev_offset_bytes; /* on that store's device; the view's offset when the origin */
};

struct cow_view {
    const struct cow_layer *layers; /* oldest (the asked-for one) first */
    unsigned layer_count;
};

/* The longest extent that begins at offset_bytes, is of one place, and is at most
 * len_bytes (> 0) long. Runs that are consecutive on a device come as one extent. */
void cow_view_extent(const struct cow_view *v, uint64_t offset_bytes, uint64_t len_bytes,
                     struct cow_extent *ret);
/* The first extent at or after offset_bytes and before end_bytes that is not the origin's.
 * False: none. Skips holes fast: costs by exceptions, not by size. */
bool cow_view_next(const struct cow_view *v, uint64_t offset_bytes, uint64_t end_bytes,
                   struct cow_extent *ret);

#endif
