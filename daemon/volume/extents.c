/* SPDX-License-Identifier: Apache-2.0 */
/* Where data stands in a view, without reading any.
 *
 *   view      |==s2==|----origin----|==s4==|
 *   hosted     DATA   DATA |  ZERO   DATA       holes of the origin's device read as zeros
 *   remote     DATA   ORIGIN         DATA
 *
 * Asking a file for its holes is a short system call, so only some are asked for at a time.
 * It must not know of messages. Thread: the shard's.
 */
#include "daemon/volume/read.h"

#include "common/base/bytes.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/tree.h"

enum { EXTENTS_LOOKS_MAX = 4096 };

struct extents {
    struct volume *volume;
    struct volume_extent *ret;
    uint32_t max, count;
};

/* False: there is no room for it. */
static bool extents_add(struct extents *e, uint64_t offset_bytes, uint64_t len_bytes,
                        enum volume_extent_kind kind)
{
    struct volume_extent *last = e->count > 0 ? &e->ret[e->count - 1] : NULL;
    if (last != NULL && last->kind == kind) {
        last->len_bytes += len_bytes;
        return true;
    }
    if (e->count == e->max)
        return false;
    e->ret[e->count++] =
        (struct volume_extent){.offset_bytes = offset_bytes, .len_bytes = len_bytes, .kind = kind};
    return true;
}

/* One stretch of the origin's from `at` on, all data or all hole; returns its end. */
static uint64_t extents_origin(const struct volume *v, uint64_t at, uint64_t end,
                               enum volume_extent_kind *ret_kind)
{
    struct blk_dev *dev = v->origin == NULL ? NULL : v->origin->dev;
    if (dev == NULL) {
        *ret_kind = VOLUME_EXTENT_ORIGIN;
        return end;
    }
    uint64_t align = blk_dev_info(dev)->align_bytes, from = at & ~(align - 1);
    uint64_t data = blk_dev_next_data(dev, from);
    *ret_kind = data > at ? VOLUME_EXTENT_ZERO : VOLUME_EXTENT_DATA;
    if (data > at) /* the end of the device is where data ends, too */
        return data >= blk_dev_info(dev)->size_bytes ? end : u64_min(data, end);
    uint64_t hole = blk_dev_next_hole(dev, from);
    return hole <= at ? end : u64_min(hole, end);
}

static void extents_walk(struct extents *e, const struct snapshot *place, uint64_t at, uint64_t end)
{
    struct cow_layer layers[TREE_DEPTH_MAX + 1];
    struct cow_view view = {.layers = layers, .layer_count = tree_layers(place, layers)};
    struct cow_extent x = {.len_bytes = 0};
    for (unsigned i = 0; at < end && i < EXTENTS_LOOKS_MAX; i++) {
        enum volume_extent_kind kind = VOLUME_EXTENT_DATA;
        if (at >= x.offset_bytes + x.len_bytes)
            cow_view_extent(&view, at, end - at, &x);
        uint64_t next = x.offset_bytes + x.len_bytes;
        if (x.layer < 0)
            next = extents_origin(e->volume, at, next, &kind);
        if (!extents_add(e, at, next - at, kind))
            return;
        at = next;
    }
}

int volume_extents(struct volume *v, const struct uuid *snapshot, uint64_t offset_bytes,
                   uint64_t len_bytes, struct volume_extent *ret, uint32_t max, uint32_t *ret_count,
                   struct err *reterr)
{
    struct snapshot *place;
    struct extents e = {.volume = v, .ret = ret, .max = max};
    int rc = volume_read_place(v, snapshot, &place, reterr);
    if (rc == 0)
        rc = volume_read_check_range(v, offset_bytes, len_bytes, reterr);
    if (rc < 0)
        return rc;
    extents_walk(&e, place, offset_bytes, offset_bytes + len_bytes);
    *ret_count = e.count;
    return 0;
}
