/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a place: its view's extents, each from the device that has it.
 *
 *   view of a clone   |==own==|--parent's--|==chain's s2==|----origin----|..end
 *   in memory         [       |            |              |              |0000]
 *
 * What never changes again, the exceptions of the chain, is read as it stands. What is written
 * in place is held first, from the place down to the origin, always in this order:
 *
 *   clone's ranges ──> its parent's ranges ──> … ──> origin's reads
 *
 * A writer holds its own place and waits for nothing above it, so nobody waits in a circle.
 * It must not know who asks. Thread: the shard's.
 */
#include "daemon/volume/fetch.h"

#include "common/base/bytes.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/tree.h"

#include <stdlib.h>
#include <string.h>

enum { FETCH_UNIT_BYTES = 4096 };

/* -- holding ------------------------------------------------------------------------- */

static void hold_next(struct hold *h)
{
    if (h->at == h->count) {
        h->granted(h);
        return;
    }
    struct hold_lock *l = &h->locks[h->at];
    range_take(l->lock, &l->range);
}

static void hold_got(struct range *r)
{
    struct hold *h = r->user;
    h->at++;
    hold_next(h);
}

static void hold_add(struct hold *h, struct range_lock *lock, struct snapshot *clone)
{
    h->locks[h->count++] = (struct hold_lock){.range = {.first = h->first,
                                                        .last = h->last,
                                                        .shared = true,
                                                        .granted = hold_got,
                                                        .user = h},
                                              .lock = lock,
                                              .clone = clone};
    if (clone != NULL)
        snapshot_reader_begin(clone);
}

int hold_take(struct hold *h, struct err *reterr)
{
    unsigned clones = 0;
    h->at = h->count = 0;
    h->locks = &h->one;
    for (const struct snapshot *s = h->place; s != NULL && s->clone; s = s->parent)
        clones++;
    if (clones > 0) {
        h->locks = calloc(clones + 1, sizeof *h->locks);
        if (h->locks == NULL)
            return err_set(reterr, SNAP_ENOMEM, "locks of %u clones", clones);
    }
    for (struct snapshot *s = h->place; s != NULL && s->clone; s = s->parent)
        if (s != h->place || h->own)
            hold_add(h, s->ranges, s);
    if (h->place != NULL)
        hold_add(h, &h->volume->origin->reads, NULL);
    hold_next(h);
    return 0;
}

void hold_give(struct hold *h)
{
    unsigned count = h->count, taken = h->at < count ? h->at + 1 : count;
    struct hold_lock *locks = h->locks;
    for (unsigned i = 0; i < taken; i++)
        range_give(locks[i].lock, &locks[i].range);
    for (unsigned i = 0; i < count; i++)
        if (locks[i].clone != NULL)
            snapshot_reader_end(locks[i].clone);
    h->count = h->at = 0;
    h->locks = NULL;
    if (locks != &h->one)
        free(locks);
}

/* -- fetching ------------------------------------------------------------------------ */

uint32_t fetch_unit(const struct volume *v)
{
    uint32_t chunk_bytes = v->chunk_sectors * SECTOR_BYTES;
    return chunk_bytes < FETCH_UNIT_BYTES ? chunk_bytes : FETCH_UNIT_BYTES;
}

static void fetch_end(struct fetch *f)
{
    if (f->ios != &f->one)
        free(f->ios);
    f->ios = NULL;
    f->done(f, f->code);
}

static void fetch_io_done(struct blk_req *req, int result)
{
    struct fetch *f = req->user;
    struct fetch_io *io = CONTAINER_OF(req, struct fetch_io, req);
    if (result < 0 && f->code == 0)
        f->code =
            err_set_errno(f->err, result, req->sys_errno, "read %llu bytes at %llu of %s",
                          (unsigned long long)req->len_bytes, (unsigned long long)req->offset_bytes,
                          io->node == NULL ? "the origin" : "a COW device");
    if (io->node != NULL)
        snapshot_reader_end(io->node);
    if (--f->pending == 0)
        fetch_end(f);
}

static int fetch_add(struct fetch *f, struct snapshot *node, uint64_t dev_offset_bytes,
                     uint64_t len_bytes, uint8_t *data)
{
    if (f->count == f->cap) {
        unsigned cap = f->cap * 4;
        bool first = f->ios == &f->one;
        struct fetch_io *ios = realloc(first ? NULL : f->ios, cap * sizeof *ios);
        if (ios == NULL)
            return err_set(f->err, SNAP_ENOMEM, "read");
        if (first)
            ios[0] = f->one;
        f->ios = ios;
        f->cap = cap;
    }
    f->ios[f->count++] = (struct fetch_io){.req = {.op = BLK_READ,
                                                   .flags = f->once ? BLK_ONCE : 0,
                                                   .offset_bytes = dev_offset_bytes,
                                                   .len_bytes = len_bytes,
                                                   .data = data,
                                                   .done = fetch_io_done,
                                                   .user = f},
                                           .node = node};
    return 0;
}

static int fetch_add_origin(struct fetch *f, const struct cow_extent *x, uint8_t *data)
{
    const struct origin *o = f->volume->origin;
    if (o->dev == NULL)
        return err_set(f->err, SNAP_EIO, "the origin of volume %s: %s", f->volume->record.name,
                       o->fault_text);
    uint64_t size = blk_dev_info(o->dev)->size_bytes;
    uint64_t there = size <= x->offset_bytes ? 0 : u64_min(x->len_bytes, size - x->offset_bytes);
    memset(data + there, 0, (size_t)(x->len_bytes - there));
    if (there == 0 || blk_cache_read(o->dev, x->offset_bytes, data, there))
        return 0;
    return fetch_add(f, NULL, x->offset_bytes, there, data);
}

static int fetch_plan(struct fetch *f)
{
    struct cow_layer layers[TREE_DEPTH_MAX + 1];
    struct cow_view view = {.layers = layers, .layer_count = tree_layers(f->place, layers)};
    uint64_t at = f->offset_bytes, end = f->offset_bytes + f->len_bytes;
    /* of one that is being opened again the map has nothing: the view would look through it */
    int rc = f->place != NULL ? snapshot_check_readable(f->place, f->err) : 0;
    while (at < end && rc == 0) {
        struct cow_extent x;
        cow_view_extent(&view, at, end - at, &x);
        uint8_t *data = f->data + (x.offset_bytes - f->offset_bytes);
        at += x.len_bytes;
        if (x.layer < 0) {
            rc = fetch_add_origin(f, &x, data);
            continue;
        }
        struct snapshot *node = tree_extent_node(f->place, &x);
        if (node == NULL || !snapshot_is_open(node))
            rc = err_set(f->err, SNAP_EPOISONED, "a COW device is being opened again");
        else
            rc = fetch_add(f, node, x.dev_offset_bytes, x.len_bytes, data);
    }
    return rc;
}

void fetch_start(struct fetch *f)
{
    f->ios = &f->one;
    f->count = 0;
    f->cap = 1;
    f->code = fetch_plan(f);
    if (f->code < 0 || f->count == 0) {
        fetch_end(f);
        return;
    }
    f->pending = f->count;
    for (unsigned i = 0, n = f->count; i < n; i++) {
        if (f->ios[i].node != NULL)
            snapshot_reader_begin(f->ios[i].node);
        blk_submit(f->ios[i].node != NULL ? f->ios[i].node->dev : f->volume->origin->dev,
                   &f->ios[i].req);
    }
}
