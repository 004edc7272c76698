/* SPDX-License-Identifier: Apache-2.0 */
/* The snapshot view: which layer holds a byte of a past state.
 *
 * From the asked-for layer to the newest, the first that has an exception there:
 *
 *     layer 0   ░░▓▓▓▓░░░░░░░░░░       ▓ exception, in chunks of the layer's size
 *     layer 1   ▓▓▓▓▓▓▓▓░░░░▓▓▓▓
 *     origin    ████████████████
 *     reads     1100001100..1111       . the origin
 *
 * An extent begins as long as was asked for; each layer that has nothing at its
 * beginning cuts it where the layer's next exception begins.
 *
 * Only maps are asked: no I/O, no stores. Thread: the maps' owner's.
 */
#include "common/cow/cow_view.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

/* The first visible run of a layer that reaches into [offset, end). */
static bool layer_next(const struct cow_layer *l, uint64_t offset_bytes, uint64_t end_bytes,
                       struct cow_run *ret)
{
    return cow_map_next_visible(l->map, offset_bytes / l->chunk_bytes, l->seq,
                                (end_bytes - 1) / l->chunk_bytes, ret);
}

/* Where in [offset, end) the run begins; it may have begun before. */
static uint64_t run_start(const struct cow_layer *l, const struct cow_run *r, uint64_t offset_bytes)
{
    return u64_max(r->old_chunk * l->chunk_bytes, offset_bytes);
}

/* Where in (offset, end] the run ends. */
static uint64_t run_stop(const struct cow_layer *l, const struct cow_run *r, uint64_t end_bytes)
{
    uint64_t last = r->old_chunk + (r->count - 1);

    return last >= (end_bytes - 1) / l->chunk_bytes ? end_bytes : (last + 1) * l->chunk_bytes;
}

/* A layer's own extent: the run and those that continue it on the same device. */
static uint64_t own_len(const struct cow_layer *l, struct cow_run r, uint64_t offset_bytes,
                        uint64_t end_bytes)
{
    uint64_t stop = run_stop(l, &r, end_bytes);
    struct cow_run more;

    while (stop < end_bytes && layer_next(l, stop, end_bytes, &more) && more.seq == r.seq &&
           more.old_chunk == r.old_chunk + r.count && more.new_chunk == r.new_chunk + r.count) {
        r.count += more.count;
        stop = run_stop(l, &r, end_bytes);
    }
    return stop - offset_bytes;
}

void cow_view_extent(const struct cow_view *v, uint64_t offset_bytes, uint64_t len_bytes,
                     struct cow_extent *ret)
{
    uint64_t end = offset_bytes + u64_min(len_bytes, UINT64_MAX - offset_bytes);

    CHECK(end > offset_bytes);
    for (unsigned i = 0; i < v->layer_count; i++) {
        const struct cow_layer *l = &v->layers[i];
        uint64_t start;
        struct cow_run r;

        if (!layer_next(l, offset_bytes, end, &r))
            continue;
        start = run_start(l, &r, offset_bytes);
        if (start > offset_bytes) {
            end = start;
            continue;
        }
        *ret = (struct cow_extent){
            .offset_bytes = offset_bytes,
            .len_bytes = own_len(l, r, offset_bytes, end),
            .layer = (int)i,
            .seq = r.seq,
            .dev_offset_bytes = r.new_chunk * l->chunk_bytes + offset_bytes % l->chunk_bytes,
        };
        return;
    }
    *ret = (struct cow_extent){
        .offset_bytes = offset_bytes,
        .len_bytes = end - offset_bytes,
        .layer = -1,
        .dev_offset_bytes = offset_bytes,
    };
}

bool cow_view_next(const struct cow_view *v, uint64_t offset_bytes, uint64_t end_bytes,
                   struct cow_extent *ret)
{
    uint64_t start = end_bytes;

    for (unsigned i = 0; i < v->layer_count && start > offset_bytes; i++) {
        struct cow_run r;

        if (layer_next(&v->layers[i], offset_bytes, start, &r))
            start = run_start(&v->layers[i], &r, offset_bytes);
    }
    if (start >= end_bytes)
        return false;
    cow_view_extent(v, start, end_bytes - start, ret);
    return true;
}
