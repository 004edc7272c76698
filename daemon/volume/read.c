/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a view: look up, read the extents that the volume's stores have, say which
 * ones the origin has.
 *
 *   view     |--origin--|==s2==|==s2==|----origin----|==s4==|
 *   extents   ORIGIN      DATA (one)    ORIGIN         DATA
 *   payload              [s2 s2]                      [s4]      one pool buffer
 *
 * A device reads in units of its logical block: an extent that begins or ends inside one
 * is read with its surroundings, and the answer points at the middle. Nothing is copied.
 *
 * Of a hosted volume all is read here, the origin too: one stretch of memory, see fetch.c, held
 * still meanwhile where a writer could change it.
 *
 * It must not know of messages. Thread: the shard's.
 */
#include "daemon/volume/read.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "daemon/volume/fetch.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/tree.h"

#include <stdlib.h>

void volume_read_done(struct volume_read *r)
{
    free(r->extents);
    free(r->iov);
    free(r->places);
    free(r->nodes);
    free(r->reqs);
    free(r->hosted);
    r->hosted = NULL;
    r->extents = NULL;
    r->iov = NULL;
    r->places = NULL;
    r->nodes = NULL;
    r->reqs = NULL;
}

static void volume_read_end(struct volume_read *r, int code, const struct err *err)
{
    struct volume *v = r->volume;
    if (code < 0) {
        buf_give(r->buf);
        r->buf = NULL;
    }
    r->done(r, code, err);
    volume_unref(v);
}

static void volume_read_one_done(struct blk_req *req, int result)
{
    struct volume_read *r = req->user;
    snapshot_reader_end(r->nodes[req - r->reqs]);
    if (result < 0 && r->err.code == 0)
        (void)err_set_errno(
            &r->err, result, req->sys_errno, "read %llu bytes at %llu of a COW device",
            (unsigned long long)req->len_bytes, (unsigned long long)req->offset_bytes);
    if (--r->pending == 0)
        volume_read_end(r, r->err.code, &r->err);
}

/* Neighbours of one kind are one extent of the answer. */
static void volume_read_add_extent(struct volume_read *r, const struct cow_extent *x)
{
    enum volume_extent_kind kind = x->layer < 0 ? VOLUME_EXTENT_ORIGIN : VOLUME_EXTENT_DATA;
    if (r->extent_count > 0 && r->extents[r->extent_count - 1].kind == kind)
        r->extents[r->extent_count - 1].len_bytes += x->len_bytes;
    else
        r->extents[r->extent_count++] = (struct volume_extent){
            .offset_bytes = x->offset_bytes, .len_bytes = x->len_bytes, .kind = kind};
}

static int volume_read_lookup(struct volume_read *r, const struct snapshot *s, struct err *reterr)
{
    struct volume *v = r->volume;
    const uint64_t chunk_bytes = (uint64_t)v->chunk_sectors * SECTOR_BYTES;
    /* extents begin at borders of chunks, but for the first */
    const uint64_t max =
        (r->offset_bytes + r->len_bytes - 1) / chunk_bytes - r->offset_bytes / chunk_bytes + 1;
    r->extents = calloc(max, sizeof *r->extents);
    r->places = calloc(max, sizeof *r->places);
    if (r->extents == NULL || r->places == NULL)
        return err_set(reterr, SNAP_ENOMEM, "read");
    struct cow_layer layer = {.map = s->map, .seq = s->seq, .chunk_bytes = (uint32_t)chunk_bytes};
    struct cow_view view = {.layers = &layer, .layer_count = 1};
    uint64_t at = r->offset_bytes, end = r->offset_bytes + r->len_bytes;
    for (uint64_t n = 0; at < end; n++) {
        struct cow_extent x;
        CHECK(n < max);
        cow_view_extent(&view, at, end - at, &x);
        if (x.layer >= 0)
            r->places[r->place_count++] = x;
        volume_read_add_extent(r, &x);
        at += x.len_bytes;
    }
    return 0;
}

/* One request an extent, each at an aligned place of one buffer. */
static int volume_read_prepare(struct volume_read *r, struct err *reterr)
{
    struct volume *v = r->volume;
    r->nodes = calloc(r->place_count, sizeof(struct snapshot *));
    r->reqs = calloc(r->place_count, sizeof *r->reqs);
    r->iov = calloc(r->place_count, sizeof *r->iov);
    if (r->nodes == NULL || r->reqs == NULL || r->iov == NULL)
        return err_set(reterr, SNAP_ENOMEM, "read");
    uint64_t total = 0;
    for (uint32_t i = 0; i < r->place_count; i++) {
        const struct cow_extent *x = &r->places[i];
        struct snapshot *node = volume_snapshot_by_seq(v, x->seq);
        if (node == NULL || !snapshot_is_open(node))
            return err_set(reterr, SNAP_EPOISONED, "a COW device is being opened again");
        r->nodes[i] = node;
        uint64_t align = blk_dev_info(node->dev)->align_bytes;
        uint64_t from = x->dev_offset_bytes & ~(align - 1);
        uint64_t to = u64_align_up(x->dev_offset_bytes + x->len_bytes, align);
        total = u64_align_up(total, align);
        r->reqs[i] = (struct blk_req){.op = BLK_READ,
                                      .flags = BLK_ONCE,
                                      .offset_bytes = from,
                                      .len_bytes = to - from,
                                      .data = (void *)(uintptr_t)total, /* moved to buf below */
                                      .done = volume_read_one_done,
                                      .user = r};
        total += to - from;
    }
    r->buf = buf_take(v->set->shard->answer_pool, total);
    if (r->buf == NULL)
        return err_set(reterr, SNAP_ELIMIT, "no buffer of %llu bytes", (unsigned long long)total);
    for (uint32_t i = 0; i < r->place_count; i++) {
        const struct cow_extent *x = &r->places[i];
        uint8_t *data = r->buf->data + (uintptr_t)r->reqs[i].data;
        r->reqs[i].data = data;
        r->iov[i] =
            (struct iovec){.iov_base = data + (x->dev_offset_bytes - r->reqs[i].offset_bytes),
                           .iov_len = x->len_bytes};
    }
    r->iov_count = r->place_count;
    return 0;
}

int volume_read_check_range(const struct volume *v, uint64_t offset_bytes, uint64_t len_bytes,
                            struct err *reterr)
{
    bool hosted = v->record.kind == VOLUME_HOSTED;
    uint64_t unit = hosted ? 1 : SECTOR_BYTES, end = u64_align_up(v->record.size_bytes, unit);
    if (offset_bytes % unit == 0 && len_bytes % unit == 0 && len_bytes > 0 &&
        offset_bytes <= v->record.size_bytes && len_bytes <= end - offset_bytes)
        return 0;
    return err_set(reterr, SNAP_EINVAL, "read of %llu bytes at %llu of a volume of %llu",
                   (unsigned long long)len_bytes, (unsigned long long)offset_bytes,
                   (unsigned long long)v->record.size_bytes);
}

/* What is to be read; *ret NULL: the hosted volume itself. */
int volume_read_place(struct volume *v, const struct uuid *id, struct snapshot **ret,
                      struct err *reterr)
{
    struct snapshot *s = NULL;
    bool itself = uuid_is_zero(id) && v->origin != NULL;
    if (!itself)
        s = volume_snapshot_find(v, id);
    else if (!uuid_is_zero(&v->record.rollback.job))
        s = volume_snapshot_by_seq(v, v->record.rollback.cancelled ? v->record.rollback.undo_seq
                                                                   : v->record.rollback.to_seq);
    *ret = s;
    if (s == NULL && itself)
        return v->origin->dev != NULL ? 0
                                      : err_set(reterr, SNAP_EIO, "the origin of volume %s: %s",
                                                v->record.name, v->origin->fault_text);
    const struct record_snapshot *rs = s == NULL ? NULL : snapshot_record(s);
    if (rs == NULL || (!itself && (rs->hidden || rs->undo)))
        return err_set(reterr, SNAP_ENOENT, "no such snapshot in volume %s", v->record.name);
    int rc = snapshot_check_readable(s, reterr);
    return rc < 0 ? err_prefix(reterr, "%s@%s", v->record.name, rs->name) : 0;
}

static int volume_read_check(struct volume *v, const struct volume_read *r, struct snapshot **ret,
                             struct err *reterr)
{
    int rc = volume_read_place(v, &r->snapshot, ret, reterr);
    if (rc < 0)
        return rc;
    if (r->len_bytes > LIMIT_FRAME_PAYLOAD_BYTES)
        return err_set(reterr, SNAP_EINVAL, "read of %u bytes: more than fits an answer",
                       r->len_bytes);
    return volume_read_check_range(v, r->offset_bytes, r->len_bytes, reterr);
}

/* -- hosted -------------------------------------------------------------------------------- */

struct read_hosted {
    struct hold hold;
    struct fetch fetch;
};

static void volume_read_hosted_end(struct volume_read *r, int code)
{
    hold_give(&r->hosted->hold);
    volume_read_end(r, code, code < 0 ? &r->err : NULL);
}

static void volume_read_fetched(struct fetch *f, int code)
{
    volume_read_hosted_end(f->user, code);
}

static int volume_read_answer(struct volume_read *r, uint64_t start, uint64_t len)
{
    r->extents = malloc(sizeof *r->extents);
    r->iov = malloc(sizeof *r->iov);
    if (r->extents == NULL || r->iov == NULL)
        return err_set(&r->err, SNAP_ENOMEM, "read");
    r->buf = buf_take(r->volume->set->shard->answer_pool, (size_t)len);
    if (r->buf == NULL)
        return err_set(&r->err, SNAP_ELIMIT, "no buffer of %llu bytes", (unsigned long long)len);
    r->extents[0] = (struct volume_extent){
        .offset_bytes = r->offset_bytes, .len_bytes = r->len_bytes, .kind = VOLUME_EXTENT_DATA};
    r->iov[0] = (struct iovec){.iov_base = r->buf->data + (r->offset_bytes - start),
                               .iov_len = r->len_bytes};
    r->extent_count = r->iov_count = 1;
    return 0;
}

/* Looked up anew: it may have waited. */
static void volume_read_held(struct hold *h)
{
    struct volume_read *r = h->user;
    struct volume *v = r->volume;
    struct snapshot *place;
    uint64_t unit = fetch_unit(v), start = r->offset_bytes & ~(unit - 1);
    uint64_t len = u64_align_up(r->offset_bytes + r->len_bytes, unit) - start;
    int rc = volume_read_place(v, &r->snapshot, &place, &r->err);
    if (rc == 0)
        rc = volume_read_answer(r, start, len);
    if (rc < 0) {
        volume_read_hosted_end(r, rc);
        return;
    }
    r->hosted->fetch = (struct fetch){.volume = v,
                                      .place = place,
                                      .offset_bytes = start,
                                      .len_bytes = len,
                                      .data = r->buf->data,
                                      .done = volume_read_fetched,
                                      .user = r,
                                      .err = &r->err};
    fetch_start(&r->hosted->fetch);
}

static void volume_read_hosted(struct volume_read *r, struct snapshot *place)
{
    struct volume *v = r->volume;
    uint64_t chunk_bytes = (uint64_t)v->chunk_sectors * SECTOR_BYTES;
    r->hosted = calloc(1, sizeof *r->hosted);
    if (r->hosted == NULL) {
        volume_read_end(r, err_set(&r->err, SNAP_ENOMEM, "read"), &r->err);
        return;
    }
    r->hosted->hold = (struct hold){.volume = v,
                                    .place = place,
                                    .first = r->offset_bytes / chunk_bytes,
                                    .last = (r->offset_bytes + r->len_bytes - 1) / chunk_bytes,
                                    .own = true,
                                    .granted = volume_read_held,
                                    .user = r};
    int rc = hold_take(&r->hosted->hold, &r->err);
    if (rc < 0)
        volume_read_end(r, rc, &r->err);
}

/* -- the way in ------------------------------------------------------------------------------ */

void volume_read_start(struct volume *v, struct volume_read *r)
{
    struct snapshot *s = NULL;
    r->volume = v;
    r->err = ERR_INIT;
    volume_ref(v);
    int rc = volume_read_check(v, r, &s, &r->err);
    if (rc == 0 && v->origin != NULL) {
        volume_read_hosted(r, s);
        return;
    }
    if (rc == 0)
        rc = volume_read_lookup(r, s, &r->err);
    if (rc == 0 && r->place_count > 0)
        rc = volume_read_prepare(r, &r->err);
    if (rc < 0 || r->place_count == 0) {
        volume_read_end(r, rc, &r->err);
        return;
    }
    r->pending = r->place_count;
    for (uint32_t i = 0; i < r->place_count; i++) {
        snapshot_reader_begin(r->nodes[i]);
        blk_submit(r->nodes[i]->dev, &r->reqs[i]);
    }
}

/* -- listing ------------------------------------------------------------------------- */

enum { RUNS_SCAN_MAX = 65536 };

/* Behind the last; 0: there is none. */
static uint64_t volume_runs_end(const struct volume_runs *runs)
{
    return runs->n > 0 ? runs->old_chunk[runs->n - 1] + runs->count[runs->n - 1] : 0;
}

/* Another node's entry of a chunk that is told already may be where a page ends. */
static void volume_runs_own(const struct snapshot *s, struct volume_runs *runs)
{
    uint64_t old_chunk = runs->start_chunk;
    uint32_t at_seq = 0;
    struct cow_run run;
    for (unsigned i = 0; cow_map_next(s->map, old_chunk, at_seq, &run); i++) {
        if (runs->n == runs->runs_max ||
            (i >= RUNS_SCAN_MAX && run.old_chunk > runs->start_chunk)) {
            runs->more = true;
            runs->next_chunk = u64_max(run.old_chunk, volume_runs_end(runs));
            return;
        }
        if (run.seq == s->seq) {
            uint32_t last = runs->n - 1;
            if (runs->n > 0 && runs->old_chunk[last] + runs->count[last] == run.old_chunk &&
                runs->new_chunk[last] + runs->count[last] == run.new_chunk) {
                runs->count[last] += run.count;
            } else {
                runs->old_chunk[runs->n] = run.old_chunk;
                runs->count[runs->n] = run.count;
                runs->new_chunk[runs->n++] = run.new_chunk;
            }
        }
        cow_map_after(&run, &old_chunk, &at_seq);
    }
}

static void volume_runs_view(const struct snapshot *s, struct volume_runs *runs)
{
    const struct volume *v = s->volume;
    uint64_t chunk_bytes = (uint64_t)v->chunk_sectors * SECTOR_BYTES;
    uint64_t end = u64_align_up(v->record.size_bytes, chunk_bytes);
    struct cow_layer layers[TREE_DEPTH_MAX + 1];
    struct cow_view view = {.layers = layers, .layer_count = tree_layers(s, layers)};
    uint64_t at = runs->start_chunk * chunk_bytes;
    struct cow_extent x;
    for (unsigned i = 0; at < end && cow_view_next(&view, at, end, &x); i++) {
        uint64_t old_chunk = x.offset_bytes / chunk_bytes;
        uint64_t count = u64_div_round_up(x.len_bytes, chunk_bytes);
        uint32_t last = runs->n - 1;
        bool joins = runs->n > 0 && runs->old_chunk[last] + runs->count[last] == old_chunk;
        if ((!joins && runs->n == runs->runs_max) || i >= RUNS_SCAN_MAX) {
            runs->more = true;
            runs->next_chunk = old_chunk;
            return;
        }
        if (joins) {
            runs->count[last] += count;
        } else {
            runs->old_chunk[runs->n] = old_chunk;
            runs->count[runs->n++] = count;
        }
        at = x.offset_bytes + x.len_bytes;
    }
}

int volume_list_runs(struct volume *v, const struct snapshot *s, struct volume_runs *runs,
                     struct err *reterr)
{
    const struct record_snapshot *rs = snapshot_record(s);
    if (runs->own && s->store == NULL)
        return snapshot_check_readable(s, reterr);
    if (!runs->own) {
        int rc = snapshot_check_readable(s, reterr);
        if (rc < 0)
            return err_prefix(reterr, "%s@%s", v->record.name, rs->name);
    }
    runs->n = 0;
    runs->more = false;
    runs->next_chunk = 0;
    if (v->chunk_sectors == 0 ||
        runs->start_chunk >= LIMIT_VOLUME_BYTES / ((uint64_t)v->chunk_sectors * SECTOR_BYTES))
        return 0;
    if (runs->own)
        volume_runs_own(s, runs);
    else
        volume_runs_view(s, runs);
    return 0;
}
