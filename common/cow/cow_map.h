/* SPDX-License-Identifier: Apache-2.0 */
/* The exception map: (old_chunk, seq) → new_chunk, in memory.
 *
 * One map serves one store (seq is constant) or all stores of a volume, where
 * seq is the snapshot's place in the chain (older = smaller). Reading snapshot s
 * at old_chunk is one successor search: the entry of that old_chunk with the
 * smallest seq >= s; none: the origin's.
 *
 * A B+tree whose leaves hold delta-coded varint entries, runs of consecutive
 * (old, new) folded into one: at most 12 bytes an exception on random keys at a
 * million and above, a few bytes a run otherwise.
 *
 * Thread: none of its own; the owner's. No iterator survives a change: scans go
 * by key (cow_map_next) and so may yield between calls.
 */
#ifndef SNAP_COW_MAP_H
#define SNAP_COW_MAP_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cow_map;

struct cow_entry {
    uint64_t old_chunk;
    uint64_t new_chunk;
    uint32_t seq;
};

/* A run: old_chunk + i → new_chunk + i for i < count, all of one seq. */
struct cow_run {
    uint64_t old_chunk;
    uint64_t new_chunk;
    uint64_t count;
    uint32_t seq;
};

/* Chunk numbers go up to this; larger ones are refused with SNAP_EINVAL. */
#define COW_MAP_CHUNK_MAX (UINT64_C(1) << 63)

/* NULL: out of memory. */
struct cow_map *cow_map_new(void);
/* A map that is out of memory at limit_bytes of cow_map_memory_bytes(). */
struct cow_map *cow_map_new_with_limit(size_t limit_bytes);
void cow_map_free(struct cow_map *m); /* takes NULL */

/* Errors: SNAP_EEXIST, SNAP_ENOMEM, SNAP_EINVAL (COW_MAP_CHUNK_MAX); unchanged on all. */
int cow_map_insert(struct cow_map *m, struct cow_entry x, struct err *reterr) SNAP_WUR;
/* The memory it frees serves later insertions; it is given back when the map is emptied
 * or rebuilt (cow_map_load of many, cow_map_remove_seq).
 * Errors: SNAP_ENOENT, SNAP_ENOMEM (a run must be split); unchanged on both. */
int cow_map_remove(struct cow_map *m, uint64_t old_chunk, uint32_t seq,
                   struct err *reterr) SNAP_WUR;

/* The entry of old_chunk with the smallest seq >= seq. */
bool cow_map_find(const struct cow_map *m, uint64_t old_chunk, uint32_t seq, struct cow_entry *ret);
/* Exactly (old_chunk, seq). */
bool cow_map_get(const struct cow_map *m, uint64_t old_chunk, uint32_t seq, uint64_t *ret_new);

/* The first run, in (old, seq) order, at or after (old_chunk, seq); a run that
 * began before is cut to what is left of it. False: none. To scan: continue with
 * (run.old_chunk + run.count, 0) in a map of one seq, or cow_map_after(&run). */
bool cow_map_next(const struct cow_map *m, uint64_t old_chunk, uint32_t seq, struct cow_run *ret);
/* Likewise, passing over every entry whose seq is below seq: the first run from (old_chunk,
 * seq) on that is visible to a reader of seq. False: none up to last_old (>= old_chunk).
 * The run is cut to end there. Costs one look-up, then by the entries passed over. */
bool cow_map_next_visible(const struct cow_map *m, uint64_t old_chunk, uint32_t seq,
                          uint64_t last_old, struct cow_run *ret);
/* The key right behind the last element of a run, for the next cow_map_next(). */
void cow_map_after(const struct cow_run *run, uint64_t *ret_old, uint32_t *ret_seq);

/* Insert many at once, in any order; sorts entries in place (radix). Few beside what the
 * map holds are worked into its leaves; else it is rebuilt, old and new side by side in
 * memory until done.
 * Errors: SNAP_EEXIST naming the first duplicate, in key order, in *ret_dup (if not NULL),
 *         SNAP_ENOMEM, SNAP_EINVAL (COW_MAP_CHUNK_MAX); unchanged on all. */
int cow_map_load(struct cow_map *m, struct cow_entry *entries, size_t count,
                 struct cow_entry *ret_dup, struct err *reterr) SNAP_WUR;

/* Drop every entry of seq: rebuilds the map unless it has none, or nothing else.
 * Errors: SNAP_ENOMEM (unchanged). */
int cow_map_remove_seq(struct cow_map *m, uint32_t seq, struct err *reterr) SNAP_WUR;

uint64_t cow_map_count(const struct cow_map *m);
/* Everything malloc'd for it, in bytes, malloc's own headers included. */
size_t cow_map_memory_bytes(const struct cow_map *m);

#endif
