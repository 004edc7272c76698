/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a store: header, table, faults, leftovers.
 *
 *   first block ─> table (cow_scan) ─> map ─┬──────────────────────────> done
 *                        │                  └─> zero leftovers ─> flush ─┘
 *                        └─ an old_chunk twice: read the table again for the places
 *
 * Whatever is read here may come from a damaged or hostile device: every number is
 * checked before it is used (cow_fault.c).
 *
 * Entries past the first end entry are leftovers of a torn write. They are zeroed
 * durably here, before anything can be committed: else a later crash could bring
 * them back, pointing at chunks given out again. The flush is made in any case: what
 * a killed writer had written but not flushed is told as existing from now on.
 *
 * Thread: the engine's.
 */
#include "common/cow/cow_open_priv.h"

#include <stdlib.h>
#include <string.h>

void cow_open_end(struct cow_store *s, int code, const struct err *err)
{
    struct cow_opening *o = s->opening;

    o->over = true;
    o->code = code;
    if (code)
        err_copy(&o->err, err);
}

void cow_opening_free(struct cow_opening *o)
{
    if (!o)
        return;
    free(o->entries);
    free(o->seen);
    free(o->far);
    free(o->twice);
    free(o->told);
    free(o);
}

/* -- the table ------------------------------------------------------------------- */

/* Room for one more area's entries. */
static bool entries_reserve(struct cow_opening *o, uint32_t more)
{
    size_t cap = o->cap ? o->cap : 1024;
    struct cow_entry *entries;

    while (cap < o->count + more)
        cap *= 2;
    if (cap == o->cap)
        return true;
    entries = realloc(o->entries, cap * sizeof *entries);
    if (!entries)
        return false;
    o->entries = entries;
    o->cap = cap;
    return true;
}

/* The area that holds the end entry at `index` becomes the store's image, cleaned. */
static void open_last_area(struct cow_store *s, uint64_t area_no, uint32_t index,
                           const uint8_t *area)
{
    struct cow_opening *o = s->opening;
    uint32_t from = index * COW_EXCEPTION_BYTES;

    o->leftover_first = 1; /* none */
    o->leftover_last = 0;
    for (uint32_t i = index; i < s->g.area_exceptions; i++) {
        if (bytes_are_zero(area + i * COW_EXCEPTION_BYTES, COW_EXCEPTION_BYTES))
            continue;
        o->leftover_first = index;
        o->leftover_last = i;
        s->leftovers++;
    }
    memcpy(s->areas, area, from);
    memset(s->areas + from, 0, s->g.chunk_bytes - from);
    s->image_area = area_no;
    s->table_len = s->staged_len = area_no * s->g.area_exceptions + index;
}

static enum cow_scan_next open_area(struct cow_store *s, void *user, uint64_t area_no,
                                    const uint8_t *area, int *code, struct err *reterr)
{
    struct cow_opening *o = user;

    if (!entries_reserve(o, s->g.area_exceptions)) {
        *code = err_set(reterr, SNAP_ENOMEM, "no memory for %zu exceptions", o->count);
        return COW_SCAN_STOP;
    }
    for (uint32_t i = 0; i < s->g.area_exceptions; i++) {
        struct cow_exception x;

        cow_exception_decode(&x, area, i);
        if (x.new_chunk == 0) {
            open_last_area(s, area_no, i, area);
            return COW_SCAN_STOP;
        }
        if (cow_open_entry_is_sound(s, &x, area_no, i, code)) {
            o->entries[o->count++] = (struct cow_entry){x.old_chunk, x.new_chunk, s->seq};
            o->new_max = u64_max(o->new_max, x.new_chunk);
        } else if (*code) {
            err_set(reterr, *code, "no memory for %zu exceptions", o->count);
            return COW_SCAN_STOP;
        } else {
            s->dropped++;
        }
    }
    return COW_SCAN_MORE;
}

/* -- after the table: map, clean, done ----------------------------------------------- */

static void open_flushed(struct cow_store *s, struct cow_io *io, int result)
{
    struct err err = ERR_INIT;

    if (result < 0)
        cow_io_err(s, io, result, "flush after area", s->image_area, &err);
    cow_open_end(s, result, &err);
}

static void open_cleaned(struct cow_store *s, struct cow_io *io, int result)
{
    struct err err = ERR_INIT;

    if (result < 0)
        cow_open_end(s, cow_io_err(s, io, result, "clean area", s->image_area, &err), &err);
    else
        cow_io_flush(s, io, open_flushed);
}

static void open_make_clean(struct cow_store *s)
{
    const struct cow_opening *o = s->opening;

    if (s->read_only)
        cow_open_end(s, 0, NULL);
    else if (s->state != COW_INVALID && o->leftover_first <= o->leftover_last)
        cow_area_write_range(s, o->leftover_first, o->leftover_last, &s->op_io, open_cleaned);
    else
        cow_io_flush(s, &s->op_io, open_flushed);
}

/* Fill the map; what was found decides what comes then. */
void cow_open_fill_map(struct cow_store *s)
{
    struct cow_opening *o = s->opening;
    struct err err = ERR_INIT;
    int code;

    if (o->fault_count && !s->accept_damaged) {
        if (o->fault_count > 1)
            err_prefix(&o->err, "%llu faults, the first", (unsigned long long)o->fault_count);
        err = o->err;
        cow_open_end(s, SNAP_ECORRUPT, &err);
        return;
    }
    code = cow_map_load(s->map, o->entries, o->count, NULL, &err);
    if (code == SNAP_EEXIST && !o->twice) {
        cow_open_find_twice(s);
        return;
    }
    if (code) {
        cow_open_end(s, code, &err);
        return;
    }
    o->in_map = true;
    free(o->entries);
    o->entries = NULL;
    if (o->fault_count && s->state != COW_INVALID)
        s->state = COW_DAMAGED;
    s->next_free = cow_skip_metadata(&s->g, u64_max(o->new_max + 1, 2));
    open_make_clean(s);
}

static void open_table_read(struct cow_store *s, void *user, int code, const struct err *err)
{
    struct cow_opening *o = user;

    if (code < 0) {
        cow_open_end(s, code, err);
        return;
    }
    if (code == COW_SCAN_OFF_END) {
        uint64_t area_no = cow_scan_areas_on_device(s);
        const struct cow_exception none = {0};

        cow_open_fault(s, area_no, 0, &none, "the table goes on past the device's end, at chunk",
                       cow_area_chunk(&s->g, area_no));
        s->image_area = area_no;
        s->table_len = s->staged_len = area_no * s->g.area_exceptions;
        o->leftover_first = 1;
        o->leftover_last = 0;
    }
    cow_open_check_far(s);
    cow_open_fill_map(s);
}

/* -- the header ------------------------------------------------------------------------ */

static int open_check_header(struct cow_store *s, const uint8_t *block, struct err *reterr)
{
    const struct blk_info *info = blk_dev_info(s->dev);
    struct cow_header h;
    int code;

    cow_header_decode(&h, block);
    if (h.magic != COW_MAGIC)
        return err_set(reterr, SNAP_EINVAL, "%s: not a COW device: magic 0x%08x, expected 0x%08x",
                       info->name, h.magic, (unsigned)COW_MAGIC);
    if (h.version != COW_VERSION)
        return err_set(reterr, SNAP_EINVAL, "%s: version %u, only %u is known", info->name,
                       h.version, (unsigned)COW_VERSION);
    code = cow_geometry_init(&s->g, h.chunk_size_sectors, info->align_bytes, reterr);
    if (code) {
        err_prefix(reterr, "%s: header", info->name);
        return code;
    }
    s->state = h.valid ? COW_READY : COW_INVALID;
    return 0;
}

static void open_header_read(struct cow_store *s, struct cow_io *io, int result)
{
    struct cow_opening *o = s->opening;
    const struct blk_info *info = blk_dev_info(s->dev);
    struct err err = ERR_INIT;
    int code;

    if (info->size_bytes < s->align_bytes)
        code = err_set(&err, SNAP_EINVAL, "%s has %llu bytes: no room for a header", info->name,
                       (unsigned long long)info->size_bytes);
    else if (s->accept_damaged && !s->read_only)
        code = err_set(&err, SNAP_EINVAL, "accept_damaged goes with read_only");
    else if (info->read_only && !s->read_only)
        code = err_set(&err, SNAP_EPERM, "%s is read-only", info->name);
    else if (result < 0)
        code = cow_io_err(s, io, result, "read chunk", 0, &err);
    else
        code = open_check_header(s, s->op_buf, &err);
    free(s->op_buf);
    s->op_buf = NULL;
    if (code) {
        cow_open_end(s, code, &err);
        return;
    }
    s->chunk_differs = o->want_chunk_sectors && o->want_chunk_sectors != s->g.chunk_sectors;
    o->device_chunks = info->size_bytes / s->g.chunk_bytes;
    o->old_end = LIMIT_VOLUME_BYTES / s->g.chunk_bytes;
    o->seen = calloc(cow_open_seen_words(o->device_chunks), sizeof o->seen[0]);
    s->areas = cow_store_alloc(s, s->g.chunk_bytes);
    if (!o->seen || !s->areas) {
        cow_open_end(s, err_set(&err, SNAP_ENOMEM, "no memory for the table"), &err);
        return;
    }
    cow_scan_start(s, open_area, open_table_read, o);
}

bool cow_open_settle(struct cow_store *s)
{
    struct cow_opening *o = s->opening;
    cow_open_fn *done = o->done;
    void *user = o->user;
    struct err err = o->err;
    int code = o->code;

    if (!o->over || s->io_inflight)
        return false;
    if (code) {
        if (o->in_map && cow_map_remove_seq(s->map, s->seq, NULL))
            err_prefix(&err, "seq %u is left in the map", s->seq);
        cow_store_free(s);
        done(user, NULL, code, &err);
        return false;
    }
    cow_opening_free(o);
    s->opening = NULL;
    s->phase = COW_PHASE_OPEN;
    memset(&s->count, 0, sizeof s->count);
    s->settling = true;
    done(user, s, 0, NULL);
    s->settling = false;
    return true;
}

struct cow_store *cow_store_open(struct blk_dev *dev, const struct cow_store_options *options,
                                 cow_fault_fn *faults, cow_open_fn *done, void *user)
{
    struct cow_store *s = cow_store_new(dev);
    struct err err = ERR_INIT;

    if (s) {
        s->opening = calloc(1, sizeof *s->opening);
        s->op_buf = cow_store_alloc(s, s->align_bytes);
    }
    if (!s || !s->opening || !s->op_buf) {
        cow_store_free(s);
        done(user, NULL, err_set(&err, SNAP_ENOMEM, "no memory to open a store"), &err);
        return NULL;
    }
    s->phase = COW_PHASE_OPENING;
    s->map = options->map;
    s->seq = options->seq;
    s->read_only = options->read_only;
    s->accept_damaged = options->accept_damaged;
    s->limit_bytes = options->limit_bytes;
    s->grow_cap_bytes = options->grow_step_bytes ? options->grow_step_bytes : COW_GROW_STEP_MAX;
    s->grow_base_bytes = u64_min(COW_GROW_STEP, s->grow_cap_bytes);
    s->grow_step_bytes =
        u64_min(u64_max(s->grow_base_bytes, blk_dev_info(dev)->size_bytes), s->grow_cap_bytes);
    s->opening->faults = faults;
    s->opening->done = done;
    s->opening->user = user;
    s->opening->want_chunk_sectors = options->want_chunk_sectors;
    cow_io_read(s, &s->op_io, 0, s->op_buf, s->align_bytes, open_header_read);
    return s;
}
