/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of the block cache: which blocks are in it, and which goes when another comes.
 *
 *   new ──> fresh (first in, first out) ──(used meanwhile)──> proven ──(not used)──> gone
 *              └──(not used)──> gone, its print stays ──(comes again)──^   └─(used: once more)
 *
 * Most blocks of a scan are used once: they pass through `fresh` and leave `proven` as it is.
 * `fresh` has what `proven` leaves it, and at least a tenth. A print is a hash in a table
 * where a later one overwrites it: that may forget, and seldom errs, both cost only a reading.
 *
 * Blocks are known by the view they belong to, a number that a device takes: with another number
 * it has nothing in memory any more. What nobody can ask for goes as what nobody asks for.
 *
 * It must not know of requests. Thread: the engine's.
 */
#include "common/io/cache_priv.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <stdlib.h>
#include <sys/mman.h>

enum {
    FRESH_PART = 10,
    PASSED_OVER_MAX = 64, /* for one that comes: where all are used, each would be, thrice */
};
#define MEMORY_ALIGN_BYTES ((size_t)2 << 20) /* of a huge page */

/* -- finding ------------------------------------------------------------------------------- */

static uint64_t key_hash(uint32_t view, uint64_t no)
{
    uint64_t h = (no ^ ((uint64_t)view << 40)) * UINT64_C(0x9E3779B97F4A7C15);
    h ^= h >> 29;
    return h * UINT64_C(0xBF58476D1CE4E5B9);
}

static uint32_t bucket_of(const struct blk_cache *c, uint64_t hash)
{
    return (uint32_t)(hash >> 40) & c->buckets_mask;
}

struct cache_slot *cache_slot(const struct blk_cache *c, uint32_t device, uint64_t no)
{
    return &c->slots[(key_hash(device, no) >> 40) & (CACHE_SLOTS - 1)];
}

static struct cache_block *find_hashed(const struct blk_cache *c, uint32_t view, uint64_t no,
                                       uint64_t hash)
{
    int32_t i = c->buckets[bucket_of(c, hash)];
    while (i != CACHE_NONE && (c->blocks[i].no != no || c->blocks[i].view != view))
        i = c->blocks[i].hash_next;
    return i != CACHE_NONE ? &c->blocks[i] : NULL;
}

struct cache_block *cache_find(const struct blk_cache *c, uint32_t view, uint64_t no)
{
    return find_hashed(c, view, no, key_hash(view, no));
}

static void hash_remove(struct blk_cache *c, int32_t place)
{
    const struct cache_block *b = &c->blocks[place];
    int32_t *at = &c->buckets[bucket_of(c, key_hash(b->view, b->no))];
    while (*at != place)
        at = &c->blocks[*at].hash_next;
    *at = b->hash_next;
}

/* -- who goes -------------------------------------------------------------------------------- */

static void queue_put(struct blk_cache *c, struct cache_queue *q, int32_t place)
{
    c->blocks[place].queue_next = CACHE_NONE;
    if (q->count++ == 0)
        q->first = place;
    else
        c->blocks[q->last].queue_next = place;
    q->last = place;
}

static int32_t queue_get(struct blk_cache *c, struct cache_queue *q)
{
    int32_t place = q->first;
    q->first = c->blocks[place].queue_next;
    q->count--;
    return place;
}

/* Never 0. */
static uint32_t print_of(uint64_t hash)
{
    return (uint32_t)hash | 1;
}

static int32_t evict(struct blk_cache *c)
{
    for (unsigned passed = 0;; passed++) {
        bool fresh = c->fresh.count > c->count / FRESH_PART || c->proven.count == 0;
        int32_t place = queue_get(c, fresh ? &c->fresh : &c->proven);
        struct cache_block *b = &c->blocks[place];
        if (b->uses > 0 && b->valid != 0 && passed < PASSED_OVER_MAX) {
            b->uses = fresh ? 0 : b->uses - 1;
            queue_put(c, &c->proven, place);
            continue;
        }
        uint64_t hash = key_hash(b->view, b->no);
        if (fresh && b->valid != 0)
            c->ghosts[bucket_of(c, hash)] = print_of(hash);
        hash_remove(c, place);
        return place;
    }
}

struct cache_block *cache_take(struct blk_cache *c, uint32_t view, uint64_t no)
{
    uint64_t hash = key_hash(view, no);
    struct cache_block *b = find_hashed(c, view, no, hash);
    if (b != NULL)
        return b;
    uint32_t used = atomic_load_explicit(&c->used, memory_order_relaxed), at = bucket_of(c, hash);
    int32_t place = used < c->count ? (int32_t)used : evict(c);
    if (used < c->count)
        atomic_store_explicit(&c->used, used + 1, memory_order_relaxed);
    b = &c->blocks[place];
    *b = (struct cache_block){.no = no, .view = view, .hash_next = c->buckets[at]};
    c->buckets[at] = place;
    bool known = c->ghosts[at] == print_of(hash);
    if (known)
        c->ghosts[at] = 0;
    queue_put(c, known ? &c->proven : &c->fresh, place);
    return b;
}

/* -- the whole --------------------------------------------------------------------------------- */

/* Blocks, then the tables: pages come with the first writing to them, large ones where the system
 * likes, which makes the tables cheap to look into. */
static int memory_map(struct blk_cache *c)
{
    size_t buckets = (size_t)c->buckets_mask + 1;
    size_t data = (size_t)c->count * BLK_CACHE_BLOCK_BYTES;
    size_t tables = CACHE_SLOTS * sizeof *c->slots + c->count * sizeof *c->blocks +
                    buckets * (sizeof *c->buckets + sizeof *c->ghosts);
    c->mapped_bytes = data + tables + MEMORY_ALIGN_BYTES;
    c->mapped = mmap(NULL, c->mapped_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->mapped == MAP_FAILED)
        return SNAP_ENOMEM;
    uintptr_t base = (uintptr_t)c->mapped;
    c->memory = (uint8_t *)c->mapped + (u64_align_up(base, MEMORY_ALIGN_BYTES) - base);
    if (data >= MEMORY_ALIGN_BYTES)
        (void)madvise(c->memory, data + tables, MADV_HUGEPAGE);
    (void)madvise(c->memory, data, MADV_DONTDUMP);
    c->slots = (struct cache_slot *)(void *)(c->memory + data);
    c->blocks = (struct cache_block *)(void *)(c->slots + CACHE_SLOTS);
    c->buckets = (int32_t *)(void *)(c->blocks + c->count);
    c->ghosts = (uint32_t *)(void *)(c->buckets + buckets);
    for (size_t i = 0; i < buckets; i++)
        c->buckets[i] = CACHE_NONE;
    return 0;
}

static void cache_release(struct blk_cache *c)
{
    (void)munmap(c->mapped, c->mapped_bytes);
    free(c);
}

int blk_cache_new(uint64_t size_bytes, struct blk_cache **ret, struct err *reterr)
{
    uint64_t count = u64_max(size_bytes / BLK_CACHE_BLOCK_BYTES, BLK_CACHE_BLOCKS_MIN);
    uint64_t buckets = 1;
    while (buckets < count)
        buckets *= 2;
    struct blk_cache *c = buckets <= INT32_MAX ? calloc(1, sizeof *c) : NULL;
    if (c != NULL) {
        c->count = (uint32_t)count;
        c->buckets_mask = (uint32_t)buckets - 1;
    }
    if (c == NULL || memory_map(c) < 0) {
        free(c);
        return err_set(reterr, SNAP_ENOMEM, "a block cache of %llu bytes",
                       (unsigned long long)size_bytes);
    }
    *ret = c;
    return 0;
}

void blk_cache_abandon(struct blk_cache *c)
{
    if (c != NULL)
        cache_release(c);
}

void blk_cache_free(struct blk_cache *c)
{
    if (c == NULL)
        return;
    CHECK(c->devices == 0);
    cache_release(c);
}

struct blk_cache_stats blk_cache_stats(const struct blk_cache *c)
{
    if (c == NULL)
        return (struct blk_cache_stats){.size_bytes = 0};
    return (struct blk_cache_stats){
        .size_bytes = (uint64_t)c->count * BLK_CACHE_BLOCK_BYTES,
        .used_bytes =
            (uint64_t)atomic_load_explicit(&c->used, memory_order_relaxed) * BLK_CACHE_BLOCK_BYTES,
        .hits = atomic_load_explicit(&c->hits, memory_order_relaxed),
        .misses = atomic_load_explicit(&c->misses, memory_order_relaxed)};
}
