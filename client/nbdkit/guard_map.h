/* SPDX-License-Identifier: Apache-2.0 */
/* One bit a chunk, for volumes of any size: memory is taken where bits were set.
 * Thread: whoever has the guard's lock. */
#ifndef SNAP_NBDKIT_GUARD_MAP_H
#define SNAP_NBDKIT_GUARD_MAP_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct guard_map {
    uint64_t *words; /* NULL: no chunks */
    size_t bytes;
    uint64_t chunks;
};

/* All bits clear. Errors: SNAP_ENOMEM. */
int guard_map_init(struct guard_map *m, uint64_t chunks, struct err *reterr) SNAP_WUR;
void guard_map_done(struct guard_map *m); /* takes zeros */
/* Clear all bits and give the memory back. */
void guard_map_clear(struct guard_map *m);
void guard_map_set(struct guard_map *m, uint64_t chunk, uint64_t count, bool value);
/* Some of these chunks are not kept, but all that are not are claimed. Both maps are of as many
 * chunks; first <= last. False also of chunks beyond them. */
bool guard_map_pends(const struct guard_map *kept, const struct guard_map *claimed, uint64_t first,
                     uint64_t last) SNAP_WUR;

static inline bool guard_map_has(const struct guard_map *m, uint64_t chunk)
{
    return (m->words[chunk / 64] >> (chunk % 64)) & 1;
}

#endif
