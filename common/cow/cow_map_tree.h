/* SPDX-License-Identifier: Apache-2.0 */
/* The tree of the exception map: pools, inner nodes, paths. Private to cow_map*.c. */
#ifndef SNAP_COW_MAP_TREE_H
#define SNAP_COW_MAP_TREE_H

#include "common/cow/cow_map_leaf.h"

enum {
    INNER_FANOUT = 100,
    TREE_HEIGHT_MAX = 16,
};

/* Items of one size, cut from blocks that go back only all together. */
struct map_pool {
    size_t item_bytes;
    struct map_block *blocks;
    void *free_items; /* linked through their first bytes */
    uint8_t *fresh;   /* never used items of the newest block */
    size_t fresh_count;
    size_t free_count; /* fresh ones included */
    size_t total_count;
    size_t block_items; /* in the next block */
};

struct map_key {
    uint64_t old;
    uint32_t seq;
};

/* Child i holds the keys from (old[i], seq[i]) to below those of child i + 1; what
 * stands for child 0 is not looked at. */
struct inner {
    uint64_t old[INNER_FANOUT];
    void *child[INNER_FANOUT];
    uint32_t seq[INNER_FANOUT];
    uint32_t n;
};

struct cow_map {
    void *root;      /* NULL: empty */
    unsigned height; /* levels of inner nodes; 0: the root is a leaf */
    uint64_t count;
    struct map_pool leaves, inners;
    size_t bytes; /* malloc'd, this struct included */
    size_t limit; /* of bytes */
};

/* The way down: node[0] is the root. */
struct map_path {
    struct inner *node[TREE_HEIGHT_MAX];
    unsigned index[TREE_HEIGHT_MAX];
};

/* -- pools (cow_map_pool.c) ----------------------------------------------------- */
void map_pools_init(struct cow_map *m);
void map_pools_free(struct cow_map *m);
/* Make sure that the next `count` takes succeed. False: out of memory. */
bool map_pool_reserve(struct cow_map *m, struct map_pool *p, size_t count) SNAP_WUR;
void *map_pool_take(struct map_pool *p); /* reserved before */
void map_pool_give(struct map_pool *p, void *item);

/* -- tree (cow_map_tree.c) ------------------------------------------------------- */
/* The leaf where the key belongs; NULL when the tree is empty. */
struct leaf *tree_descend(const struct cow_map *m, struct map_key key, struct map_path *path);
/* The leaf after the path's, to which it moves; NULL: none. */
struct leaf *tree_next_leaf(const struct cow_map *m, struct map_path *path);
/* Put a leaf right behind the path's; its keys begin at key. The path is void after it.
 * Takes up to height + 1 inner nodes, reserved before. */
void tree_add_leaf(struct cow_map *m, struct map_path *path, struct map_key key, struct leaf *leaf);
/* Apply e to the path's leaf, spreading to neighbours and new leaves as it takes.
 * Errors: SNAP_ENOMEM, unchanged. */
int tree_edit(struct cow_map *m, struct map_path *path, struct leaf *leaf,
              const struct leaf_edit *e, struct err *reterr) SNAP_WUR;
/* After a removal, unless it emptied the map: drop the path's leaf if it is empty, or join
 * it with a neighbour where it pays. */
void tree_tidy(struct cow_map *m, struct map_path *path, struct leaf *leaf);
/* Free every node and all memory but the map's own. */
void tree_clear(struct cow_map *m);

/* Walks all runs from a key on. No change to the map while it lives. */
struct tree_iter {
    const struct cow_map *map;
    struct map_path path;
    struct leaf_iter leaf;
    bool live;
};
void tree_iter_init(struct tree_iter *it, const struct cow_map *m, struct map_key from);
/* The next run; those before `from` in its leaf come too. False: the end. */
bool tree_iter_next(struct tree_iter *it);

#endif
