/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the exception map: fixed-size items cut from blocks.
 *
 * One malloc per node would cost 16 bytes each time and scatter the heap. Blocks
 * start small, for maps of a few entries; each adds a quarter, up to 64 KiB. Items freed go
 * to a list; blocks are given back together, when the map is emptied or rebuilt.
 * Every block is counted against the map's limit, malloc's own header included.
 *
 * A change takes what it may need first (reserve), so that it cannot fail halfway.
 *
 * Thread: the map owner's.
 */
#include "common/base/check.h"
#include "common/cow/cow_map_tree.h"

#include <stdlib.h>

enum {
    BLOCK_BYTES_FIRST = 2048,
    BLOCK_BYTES_MAX = 64 * 1024,
    MALLOC_HEADER_BYTES = 16,
    CACHE_LINE_BYTES = 64,
};

/* Its items begin at the next cache line, and LEAF_PAD_BYTES follow them. */
struct map_block {
    struct map_block *next;
};

static void pool_init(struct map_pool *p, size_t item_bytes)
{
    *p = (struct map_pool){.item_bytes = item_bytes};
    p->block_items = u64_max(BLOCK_BYTES_FIRST / item_bytes, 1);
}

static void pool_free(struct map_pool *p)
{
    struct map_block *next;

    for (struct map_block *b = p->blocks; b; b = next) {
        next = b->next;
        free(b);
    }
    pool_init(p, p->item_bytes);
}

void map_pools_init(struct cow_map *m)
{
    pool_init(&m->leaves, sizeof(struct leaf));
    pool_init(&m->inners, sizeof(struct inner));
    m->bytes = sizeof *m + MALLOC_HEADER_BYTES;
}

void map_pools_free(struct cow_map *m)
{
    pool_free(&m->leaves);
    pool_free(&m->inners);
    m->bytes = sizeof *m + MALLOC_HEADER_BYTES;
}

static bool pool_add_block(struct cow_map *m, struct map_pool *p)
{
    size_t items = p->block_items;
    size_t bytes =
        sizeof(struct map_block) + CACHE_LINE_BYTES + items * p->item_bytes + LEAF_PAD_BYTES;
    struct map_block *b;

    if (m->limit - m->bytes < bytes + MALLOC_HEADER_BYTES)
        return false;
    b = malloc(bytes);
    if (!b)
        return false;
    while (p->fresh_count > 0) { /* what is left of the block before */
        void *item = p->fresh;

        p->fresh += p->item_bytes;
        p->fresh_count--;
        p->free_count--;
        map_pool_give(p, item);
    }
    b->next = p->blocks;
    p->blocks = b;
    p->fresh = (uint8_t *)(b + 1);
    p->fresh += (0 - (uintptr_t)p->fresh) % CACHE_LINE_BYTES;
    p->fresh_count = items;
    p->free_count += items;
    m->bytes += bytes + MALLOC_HEADER_BYTES;
    p->total_count += items;
    p->block_items = (size_t)u64_max(p->block_items, p->total_count / 4);
    p->block_items = (size_t)u64_min(p->block_items, BLOCK_BYTES_MAX / p->item_bytes);
    return true;
}

bool map_pool_reserve(struct cow_map *m, struct map_pool *p, size_t count)
{
    while (p->free_count < count)
        if (!pool_add_block(m, p))
            return false;
    return true;
}

void *map_pool_take(struct map_pool *p)
{
    void *item = p->free_items;

    CHECK(p->free_count > 0);
    p->free_count--;
    if (item) {
        memcpy(&p->free_items, item, sizeof p->free_items);
        return item;
    }
    item = p->fresh;
    p->fresh += p->item_bytes;
    p->fresh_count--;
    return item;
}

void map_pool_give(struct map_pool *p, void *item)
{
    memcpy(item, &p->free_items, sizeof p->free_items);
    p->free_items = item;
    p->free_count++;
}
