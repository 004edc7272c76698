/* SPDX-License-Identifier: Apache-2.0 */
/* Structural faults of a table: what is wrong, and exactly where.
 *
 *   new_chunk past the device, on a metadata chunk     seen at once
 *   old_chunk past the largest volume                  seen at once
 *   new_chunk of two exceptions                        a bit a chunk, up to SEEN_BITS_MAX
 *                                                      chunks; those above are few in a
 *                                                      table, kept aside and sorted
 *   old_chunk of two exceptions                        the map refuses; the table is read a
 *                                                      second time to find the places
 *
 * The first exception of an old_chunk or a new_chunk is the sound one. Memory is
 * bounded by what the table really holds and by the bitmap.
 *
 * Thread: the engine's.
 */
#include "common/cow/cow_open_priv.h"

#include <stdlib.h>
#include <string.h>

#define SEEN_BITS_MAX (UINT64_C(1) << 31)

size_t cow_open_seen_words(uint64_t device_chunks)
{
    return (size_t)(u64_min(device_chunks, SEEN_BITS_MAX) / 64 + 1);
}

void cow_open_fault(struct cow_store *s, uint64_t area_no, uint32_t index,
                    const struct cow_exception *x, const char *what, uint64_t number)
{
    struct cow_opening *o = s->opening;
    struct cow_fault fault = {.code = SNAP_ECORRUPT, .area_no = area_no, .index = index};
    struct err text = ERR_INIT;

    fault.exception = *x;
    err_set(&text, SNAP_ECORRUPT, "area %llu entry %u (old %llu, new %llu): %s %llu",
            (unsigned long long)area_no, index, (unsigned long long)x->old_chunk,
            (unsigned long long)x->new_chunk, what, (unsigned long long)number);
    memcpy(fault.text, text.text, sizeof fault.text - 1);
    if (o->fault_count++ == 0)
        err_set(&o->err, SNAP_ECORRUPT, "%s: %s", blk_dev_info(s->dev)->name, text.text);
    if (o->faults)
        o->faults(o->user, &fault);
}

/* Has new_chunk been met before? Chunks beyond the bitmap are looked at in the end.
 * Returns SNAP_ENOMEM or 0. */
static int seen_note(struct cow_opening *o, uint64_t new_chunk, uint64_t place, bool *ret_twice)
{
    uint64_t bit = UINT64_C(1) << (new_chunk % 64);

    *ret_twice = false;
    if (new_chunk < SEEN_BITS_MAX) {
        *ret_twice = (o->seen[new_chunk / 64] & bit) != 0;
        o->seen[new_chunk / 64] |= bit;
        return 0;
    }
    if (o->far_count == o->far_cap) {
        size_t cap = o->far_cap ? o->far_cap * 2 : 1024;
        struct far_chunk *far = realloc(o->far, cap * sizeof *far);

        if (!far)
            return SNAP_ENOMEM;
        o->far = far;
        o->far_cap = cap;
    }
    o->far[o->far_count++] = (struct far_chunk){new_chunk, place, o->count};
    return 0;
}

bool cow_open_entry_is_sound(struct cow_store *s, const struct cow_exception *x, uint64_t area_no,
                             uint32_t index, int *ret_code)
{
    struct cow_opening *o = s->opening;
    bool twice;

    if (x->new_chunk >= o->device_chunks) {
        cow_open_fault(s, area_no, index, x, "new_chunk is past the device's last chunk",
                       o->device_chunks - 1);
        return false;
    }
    if (cow_is_metadata_chunk(&s->g, x->new_chunk)) {
        cow_open_fault(s, area_no, index, x, "new_chunk is the metadata chunk of area",
                       x->new_chunk / ((uint64_t)s->g.area_exceptions + 1));
        return false;
    }
    if (x->old_chunk >= o->old_end) {
        cow_open_fault(s, area_no, index, x, "old_chunk is past the largest", o->old_end - 1);
        return false;
    }
    *ret_code = seen_note(o, x->new_chunk, area_no * s->g.area_exceptions + index, &twice);
    if (*ret_code == 0 && twice) {
        cow_open_fault(s, area_no, index, x, "another exception has new_chunk", x->new_chunk);
        return false;
    }
    return *ret_code == 0;
}

static int far_cmp(const void *a, const void *b)
{
    const struct far_chunk *x = a, *y = b;

    if (x->new_chunk != y->new_chunk)
        return x->new_chunk < y->new_chunk ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

void cow_open_check_far(struct cow_store *s)
{
    struct cow_opening *o = s->opening;
    size_t kept = 0;

    if (o->far_count == 0)
        return;
    qsort(o->far, o->far_count, sizeof o->far[0], far_cmp);
    for (size_t i = 1; i < o->far_count; i++) {
        const struct far_chunk *f = &o->far[i];
        struct cow_entry *entry = &o->entries[f->index];
        struct cow_exception x = {entry->old_chunk, f->new_chunk};

        if (f->new_chunk != f[-1].new_chunk)
            continue;
        cow_open_fault(s, f->place / s->g.area_exceptions,
                       (uint32_t)(f->place % s->g.area_exceptions), &x,
                       "another exception has new_chunk", f->new_chunk);
        entry->new_chunk = 0;
        s->dropped++;
    }
    for (size_t i = 0; i < o->count; i++)
        if (o->entries[i].new_chunk)
            o->entries[kept++] = o->entries[i];
    o->count = kept;
}

/* -- twice-named old_chunks: a second look ------------------------------------------- */

static int entry_cmp(const void *a, const void *b)
{
    const struct cow_entry *x = a, *y = b;

    if (x->old_chunk != y->old_chunk)
        return x->old_chunk < y->old_chunk ? -1 : 1;
    return x->new_chunk < y->new_chunk ? -1 : x->new_chunk > y->new_chunk;
}

static int u64_cmp(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

/* Second look at an area: the first exception of an old_chunk stays, later ones are faults. */
static enum cow_scan_next open_area_twice(struct cow_store *s, void *user, uint64_t area_no,
                                          const uint8_t *area, int *code, struct err *reterr)
{
    struct cow_opening *o = user;

    (void)code;
    (void)reterr;
    for (uint32_t i = 0; i < s->g.area_exceptions; i++) {
        struct cow_exception x;
        struct cow_entry *first;
        size_t lo = 0, hi = o->told_count;

        cow_exception_decode(&x, area, i);
        if (x.new_chunk == 0)
            return COW_SCAN_STOP;
        if (!bsearch(&x.new_chunk, o->twice, o->twice_count, sizeof o->twice[0], u64_cmp))
            continue;
        while (lo < hi) { /* told: one entry an old_chunk, in order; new_chunk 0: not met yet */
            size_t mid = (lo + hi) / 2;

            if (o->told[mid].old_chunk < x.old_chunk)
                lo = mid + 1;
            else
                hi = mid;
        }
        if (lo == o->told_count || o->told[lo].old_chunk != x.old_chunk)
            continue; /* an exception already dropped for another fault */
        first = &o->told[lo];
        if (first->new_chunk == 0) {
            first->new_chunk = x.new_chunk;
        } else if (first->new_chunk != x.new_chunk) {
            cow_open_fault(s, area_no, i, &x, "old_chunk has an exception already, at new_chunk",
                           first->new_chunk);
            s->dropped++;
        }
    }
    return COW_SCAN_MORE;
}

static void open_twice_found(struct cow_store *s, void *user, int code, const struct err *err)
{
    struct cow_opening *o = user;
    size_t kept = 0;

    if (code < 0) {
        cow_open_end(s, code, err);
        return;
    }
    for (size_t i = 0, t = 0; i < o->count; i++) {
        const struct cow_entry *x = &o->entries[i];

        while (t < o->told_count && o->told[t].old_chunk < x->old_chunk)
            t++;
        if (t < o->told_count && o->told[t].old_chunk == x->old_chunk &&
            o->told[t].new_chunk != x->new_chunk)
            continue;
        o->entries[kept++] = *x;
    }
    o->count = kept;
    if (o->fault_count ==
        0) { /* the map held this seq before: the owner's mistake, not the disk's */
        struct err held = ERR_INIT;

        cow_open_end(
            s, err_set(&held, SNAP_EEXIST, "the map already has exceptions of seq %u", s->seq),
            &held);
        return;
    }
    cow_open_fill_map(s);
}

void cow_open_find_twice(struct cow_store *s)
{
    struct cow_opening *o = s->opening;
    struct err err = ERR_INIT;

    o->twice = calloc(o->count + 1, sizeof o->twice[0]);
    o->told = calloc(o->count + 1, sizeof o->told[0]);
    if (!o->twice || !o->told) {
        cow_open_end(s, err_set(&err, SNAP_ENOMEM, "no memory to place damaged exceptions"), &err);
        return;
    }
    qsort(o->entries, o->count, sizeof o->entries[0], entry_cmp);
    for (size_t i = 0; i < o->count; i++) {
        const struct cow_entry *x = &o->entries[i];
        bool as_before = i > 0 && x[-1].old_chunk == x->old_chunk;

        if (!as_before && (i + 1 == o->count || x[1].old_chunk != x->old_chunk))
            continue;
        o->twice[o->twice_count++] = x->new_chunk;
        if (!as_before)
            o->told[o->told_count++].old_chunk = x->old_chunk;
    }
    qsort(o->twice, o->twice_count, sizeof o->twice[0], u64_cmp);
    cow_scan_start(s, open_area_twice, open_twice_found, o);
}
