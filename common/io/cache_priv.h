/* SPDX-License-Identifier: Apache-2.0 */
/* The insides of the block cache; private to common/io. */
#ifndef SNAP_IO_CACHE_PRIV_H
#define SNAP_IO_CACHE_PRIV_H

#include "common/io/blk_priv.h"
#include "common/io/cache.h"

#include <stdatomic.h>

enum {
    CACHE_SECTOR_BYTES = 512,
    CACHE_SLOTS = 8192, /* a power of two */
    CACHE_NONE = -1,
};
_Static_assert(BLK_CACHE_BLOCK_BYTES == 32 * CACHE_SECTOR_BYTES, "a bit of `valid` a sector");

/* A place for a block. Which one it is of the memory, is which one it is of the array. */
struct cache_block {
    uint64_t no; /* of the device, in blocks */
    uint32_t view;
    uint32_t valid;     /* a bit a sector */
    int32_t hash_next;  /* places; CACHE_NONE: the last */
    int32_t queue_next; /* likewise */
    uint8_t uses;       /* since it came or was last passed over, up to a few */
};

struct cache_queue {
    int32_t first, last;
    uint32_t count;
};

/* Blocks that are being changed, and when they were; several blocks share a slot. */
struct cache_slot {
    uint64_t changed; /* the clock, when a change last began or ended */
    uint32_t busy;    /* changes under way */
    bool mixed;       /* several were: who was last is not known */
};

struct blk_cache {
    void *mapped; /* all of the following */
    size_t mapped_bytes;
    uint8_t *memory;            /* count blocks */
    struct cache_block *blocks; /* [count] */
    uint32_t count;
    _Atomic uint32_t used;
    int32_t *buckets; /* [buckets_mask + 1]: places, or CACHE_NONE */
    uint32_t *ghosts; /* likewise: prints of blocks that had to go soon after they came */
    uint32_t buckets_mask;
    struct cache_queue fresh, proven;
    struct cache_slot *slots; /* [CACHE_SLOTS] */
    uint64_t clock;           /* of changes */
    uint32_t views;           /* numbers given away */
    unsigned devices;
    _Atomic uint64_t hits, misses;
};

/* Of a block of a view. NULL: it is not there. */
struct cache_block *cache_find(const struct blk_cache *c, uint32_t view, uint64_t no);
/* Found, or else made, with nothing valid in it; another may have to go. */
struct cache_block *cache_take(struct blk_cache *c, uint32_t view, uint64_t no);
static inline void cache_use(struct cache_block *b)
{
    enum { USES_MAX = 3 };
    if (b->uses < USES_MAX)
        b->uses++;
}
static inline uint8_t *cache_data(const struct blk_cache *c, const struct cache_block *b)
{
    return c->memory + (size_t)(b - c->blocks) * BLK_CACHE_BLOCK_BYTES;
}
struct cache_slot *cache_slot(const struct blk_cache *c, uint32_t device, uint64_t no);

#endif
