/* SPDX-License-Identifier: Apache-2.0 */
/* What cow_open.c and cow_fault.c share: a store being opened. */
#ifndef SNAP_COW_OPEN_PRIV_H
#define SNAP_COW_OPEN_PRIV_H

#include "common/cow/cow_store_priv.h"

/* A new_chunk beyond the bitmap, where it stood in the table, and in `entries`. */
struct far_chunk {
    uint64_t new_chunk;
    uint64_t place;
    size_t index;
};

struct cow_opening {
    cow_fault_fn *faults;
    cow_open_fn *done;
    void *user;
    uint32_t want_chunk_sectors;

    struct cow_entry *entries;
    size_t count, cap;
    uint64_t *seen; /* a bit a chunk of the device */
    struct far_chunk *far;
    size_t far_count, far_cap;
    uint64_t device_chunks, old_end;
    uint64_t new_max;

    /* second look, for the places of twice-named old_chunks */
    uint64_t *twice; /* their new_chunks, sorted */
    size_t twice_count;
    struct cow_entry *told; /* entries of twice-named chunks met so far, sound ones first met */
    size_t told_count;

    uint64_t fault_count;
    uint32_t leftover_first, leftover_last; /* indices in the last area; none if first > last */
    bool in_map;
    bool over;
    int code;
    struct err err;
};

/* Opening is over, with code; told when nothing is in flight any more. */
void cow_open_end(struct cow_store *s, int code, const struct err *err);
/* Fill the map and go on; called again when a second look has placed the faults. */
void cow_open_fill_map(struct cow_store *s);

/* Tell a fault with its place; the first one becomes the text of the refusal. */
void cow_open_fault(struct cow_store *s, uint64_t area_no, uint32_t index,
                    const struct cow_exception *x, const char *what, uint64_t number);
/* May this exception stay? *ret_code: 0 or SNAP_ENOMEM. */
bool cow_open_entry_is_sound(struct cow_store *s, const struct cow_exception *x, uint64_t area_no,
                             uint32_t index, int *ret_code);
/* How many words the bitmap of chunks seen takes. */
size_t cow_open_seen_words(uint64_t device_chunks);
/* Report shared new_chunks beyond the bitmap and take the later ones out again. */
void cow_open_check_far(struct cow_store *s);
/* Some old_chunk stands twice in the table: read it again to tell where. */
void cow_open_find_twice(struct cow_store *s);

#endif
