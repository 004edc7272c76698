/* SPDX-License-Identifier: Apache-2.0 */
/* Loading the exception map in bulk, and rebuilding it.
 *
 * Sorted entries are merged with the runs that are there. Many entries: into a
 * new tree of full leaves, which takes the old one's place when it is complete.
 * Few: leaf by leaf, twice over: first only measured, which finds duplicates and
 * how much memory it takes; that is reserved; then written, which cannot fail.
 * A leaf that overflows takes the one behind it in, so that two become three:
 *
 *     leaf    leaf'           leaf    leaf'   new
 *     ██████  █████░    +  ▪  ████░░  ████░░  ████░░
 *
 * Thread: the map owner's.
 */
#include "common/base/check.h"
#include "common/cow/cow_map_sort.h"
#include "common/cow/cow_map_tree.h"

/* Fewer than one entry to so many present are worked into the leaves, each for about what
 * rebuilding the map costs for so many. */
enum { LOAD_REBUILD_RATIO = 128 };

/* -- merging ------------------------------------------------------------------------- */

/* Runs of the whole tree or of some leaves, with sorted entries merged in. */
struct merge {
    struct tree_iter *tree; /* NULL: leaves */
    const struct leaf_buf *leaves;
    unsigned leaf_count;
    struct leaf_iter leaf;
    struct cow_run run; /* what is left of the current one */
    bool has_run;
    const struct cow_entry *x, *end;
    const struct cow_entry *dup; /* set when a key came twice */
};

static void merge_advance(struct merge *g)
{
    if (g->tree) {
        g->has_run = tree_iter_next(g->tree);
        g->run = g->tree->leaf.run;
        return;
    }
    while (!(g->has_run = leaf_iter_next(&g->leaf)) && g->leaf_count > 0) {
        leaf_iter_init(&g->leaf, &g->leaves->leaf);
        g->leaves++;
        g->leaf_count--;
    }
    g->run = g->leaf.run;
}

static void merge_init(struct merge *g, struct tree_iter *tree, const struct leaf_buf *leaves,
                       unsigned leaf_count, const struct cow_entry *x, const struct cow_entry *end)
{
    static const struct leaf none;

    *g = (struct merge){tree, leaves, leaf_count, .x = x, .end = end};
    leaf_iter_init(&g->leaf, &none);
    merge_advance(g);
}

/* False: the end, or a duplicate (dup is set then). */
static bool merge_next(struct merge *g, struct cow_run *ret)
{
    uint64_t k;

    if (g->x == g->end) {
        *ret = g->run;
        if (!g->has_run)
            return false;
        merge_advance(g);
        return true;
    }
    k = g->has_run ? run_below(&g->run, g->x->old_chunk, g->x->seq) : 0;
    if (k > 0) {
        *ret = g->run;
        ret->count = k;
        if (k < g->run.count)
            g->run = run_from(&g->run, k);
        else
            merge_advance(g);
        return true;
    }
    if (g->has_run && g->run.old_chunk == g->x->old_chunk && g->run.seq == g->x->seq) {
        g->dup = g->x;
        return false;
    }
    *ret = run_of_entry(g->x++);
    if (g->x != g->end && g->x->old_chunk == ret->old_chunk && g->x->seq == ret->seq) {
        g->dup = g->x;
        return false;
    }
    return true;
}

/* -- building a new tree --------------------------------------------------------------- */

struct builder {
    struct cow_map *map;
    struct leaf_writer w;
    struct cow_run pending; /* count 0: none */
};

static bool builder_flush(struct builder *b)
{
    struct cow_map *m = b->map;
    struct map_key key = {b->pending.old_chunk, b->pending.seq};
    struct map_path path;

    if (b->pending.count == 0 || (b->w.leaf && leaf_writer_add(&b->w, &b->pending)))
        return true;
    if (!map_pool_reserve(m, &m->leaves, 1) || !map_pool_reserve(m, &m->inners, m->height + 1))
        return false;
    leaf_writer_init(&b->w, map_pool_take(&m->leaves));
    (void)tree_descend(m, key, &path);
    tree_add_leaf(m, &path, key, b->w.leaf);
    return leaf_writer_add(&b->w, &b->pending);
}

static bool builder_add(struct builder *b, const struct cow_run *r)
{
    b->map->count += r->count;
    if (b->pending.count > 0 && run_join(&b->pending, r))
        return true;
    if (!builder_flush(b))
        return false;
    b->pending = *r;
    return true;
}

/* An empty map that may take what m leaves of its limit. */
static void builder_init(struct builder *b, struct cow_map *fresh, const struct cow_map *m)
{
    *fresh = (struct cow_map){0};
    map_pools_init(fresh);
    fresh->limit = m->limit - m->bytes + fresh->bytes;
    *b = (struct builder){.map = fresh};
}

static void replace_tree(struct cow_map *m, const struct cow_map *fresh)
{
    size_t limit = m->limit;

    tree_clear(m);
    *m = *fresh;
    m->limit = limit;
}

static int out_of_memory(const struct cow_map *m, struct err *reterr)
{
    return err_set(reterr, SNAP_ENOMEM, "exception map of %llu entries: out of memory",
                   (unsigned long long)m->count);
}

static int duplicate(const struct cow_entry *x, struct cow_entry *ret_dup, struct err *reterr)
{
    if (ret_dup)
        *ret_dup = *x;
    return err_set(reterr, SNAP_EEXIST, "exception of chunk %llu: already there",
                   (unsigned long long)x->old_chunk);
}

static int load_rebuild(struct cow_map *m, const struct cow_entry *x, size_t count,
                        struct cow_entry *ret_dup, struct err *reterr)
{
    struct tree_iter all;
    struct cow_map fresh;
    struct builder b;
    struct merge g;
    struct cow_run r;
    bool ok = true;

    builder_init(&b, &fresh, m);
    tree_iter_init(&all, m, (struct map_key){0, 0});
    merge_init(&g, &all, NULL, 0, x, x + count);
    while (ok && merge_next(&g, &r))
        ok = builder_add(&b, &r);
    if (ok && !g.dup)
        ok = builder_flush(&b);
    if (ok && !g.dup) {
        replace_tree(m, &fresh);
        return 0;
    }
    tree_clear(&fresh);
    return g.dup ? duplicate(g.dup, ret_dup, reterr) : out_of_memory(m, reterr);
}

/* -- working entries into the leaves ----------------------------------------------------- */

/* One leaf, or one and the next, with the entries that belong there. */
struct group {
    struct leaf *leaves[2];
    struct leaf_buf copies[2];
    unsigned leaf_count;
    struct map_path paths[2];
    const struct cow_entry *x, *end;
    size_t total_bytes; /* of the runs, as one stream */
    size_t parts;       /* leaves it will take */
};

static void group_take_leaf(const struct cow_map *m, struct group *g, struct leaf *leaf,
                            const struct cow_entry *limit)
{
    const struct map_path *path = &g->paths[g->leaf_count];

    memcpy(&g->copies[g->leaf_count].leaf, leaf, sizeof *leaf);
    g->leaves[g->leaf_count++] = leaf;
    for (unsigned level = m->height; level-- > 0;) {
        const struct inner *n = path->node[level];
        unsigned next = path->index[level] + 1;

        if (next >= n->n)
            continue;
        while (g->end < limit &&
               (g->end->old_chunk < n->old[next] ||
                (g->end->old_chunk == n->old[next] && g->end->seq < n->seq[next])))
            g->end++;
        return;
    }
    g->end = limit;
}

/* Gives the duplicate, or NULL. */
static const struct cow_entry *group_measure(struct group *g)
{
    struct cow_run before = LEAF_ORIGIN, pending = {0}, r;
    struct merge merge;

    g->total_bytes = 0;
    merge_init(&merge, NULL, g->copies, g->leaf_count, g->x, g->end);
    while (merge_next(&merge, &r)) {
        if (pending.count > 0 && run_join(&pending, &r))
            continue;
        if (pending.count > 0) {
            g->total_bytes += leaf_run_size(&before, &pending);
            before = pending;
        }
        pending = r;
    }
    g->total_bytes += leaf_run_size(&before, &pending);
    return merge.dup;
}

/* Find and measure the group that x[0] belongs to. Gives a duplicate, or NULL. */
static const struct cow_entry *group_open(const struct cow_map *m, struct group *g,
                                          const struct cow_entry *x, const struct cow_entry *limit)
{
    const struct cow_entry *dup;
    struct leaf *leaf;

    g->leaf_count = 0;
    g->x = g->end = x;
    leaf = tree_descend(m, (struct map_key){x->old_chunk, x->seq}, &g->paths[0]);
    group_take_leaf(m, g, leaf, limit);
    dup = group_measure(g);
    g->parts = 1;
    if (dup || g->total_bytes <= LEAF_DATA_BYTES)
        return dup;
    g->paths[1] = g->paths[0];
    leaf = tree_next_leaf(m, &g->paths[1]);
    if (leaf) {
        group_take_leaf(m, g, leaf, limit);
        dup = group_measure(g);
    }
    g->parts = (size_t)u64_max(u64_div_round_up(g->total_bytes, LEAF_FILL_BYTES), g->leaf_count);
    return dup;
}

static void set_lower_bound(const struct cow_map *m, struct map_path *path, struct map_key key)
{
    for (unsigned level = m->height; level-- > 0;) {
        unsigned i = path->index[level];

        if (i > 0) {
            path->node[level]->old[i] = key.old;
            path->node[level]->seq[i] = key.seq;
            return;
        }
    }
}

/* The leaf that takes part `part` of the group, which begins at key. */
static struct leaf *group_leaf(struct cow_map *m, struct group *g, size_t part, struct map_key key)
{
    struct map_path path;
    struct leaf *leaf;

    if (part == 0)
        return g->leaves[0];
    if (part == 1 && g->leaf_count == 2) {
        set_lower_bound(m, &g->paths[1], key);
        return g->leaves[1];
    }
    leaf = map_pool_take(&m->leaves);
    (void)tree_descend(m, key, &path);
    tree_add_leaf(m, &path, key, leaf);
    return leaf;
}

struct group_writer {
    struct cow_map *map;
    struct group *group;
    struct leaf_writer w;
    struct cow_run before, pending;
    size_t done_bytes, part;
};

static void group_flush(struct group_writer *t)
{
    const struct cow_run *r = &t->pending;
    struct group *g = t->group;

    if (r->count == 0)
        return;
    if (t->part < g->parts && t->done_bytes >= g->total_bytes * t->part / g->parts)
        leaf_writer_init(&t->w,
                         group_leaf(t->map, g, t->part++, (struct map_key){r->old_chunk, r->seq}));
    CHECK(leaf_writer_add(&t->w, r));
    t->done_bytes += leaf_run_size(&t->before, r);
    t->before = *r;
}

/* Memory for it is reserved. */
static void group_write(struct cow_map *m, struct group *g)
{
    struct group_writer t = {.map = m, .group = g, .before = LEAF_ORIGIN};
    struct merge merge;
    struct cow_run r;

    merge_init(&merge, NULL, g->copies, g->leaf_count, g->x, g->end);
    while (merge_next(&merge, &r)) {
        if (t.pending.count > 0 && run_join(&t.pending, &r))
            continue;
        group_flush(&t);
        t.pending = r;
    }
    group_flush(&t);
    CHECK(t.part == g->parts);
    m->count += (uint64_t)(g->end - g->x);
}

/* What the writing of all groups may take at most. */
struct demand {
    size_t leaves;
    size_t nodes[TREE_HEIGHT_MAX]; /* that get new children, by level */
    const struct inner *last[TREE_HEIGHT_MAX];
};

static void demand_add(struct demand *d, const struct cow_map *m, const struct group *g)
{
    if (g->parts == g->leaf_count)
        return;
    d->leaves += g->parts - g->leaf_count;
    for (unsigned side = 0; side < g->leaf_count; side++)
        for (unsigned level = 0; level < m->height; level++)
            if (d->last[level] != g->paths[side].node[level]) {
                d->last[level] = g->paths[side].node[level];
                d->nodes[level]++;
            }
}

/* A node splits when it is full, and then again only after half a node's additions. */
static bool demand_reserve(const struct demand *d, struct cow_map *m)
{
    size_t added = d->leaves, inners = 0;

    if (added == 0)
        return true;
    for (unsigned level = m->height; level-- > 0;) {
        added = (size_t)u64_min(added, d->nodes[level] + added / (INNER_FANOUT / 2));
        inners += added;
    }
    while (added > 0) { /* levels above the old root */
        added /= INNER_FANOUT / 2;
        inners += added + 1;
    }
    return map_pool_reserve(m, &m->leaves, d->leaves) && map_pool_reserve(m, &m->inners, inners);
}

static int load_into_leaves(struct cow_map *m, const struct cow_entry *x, size_t count,
                            struct cow_entry *ret_dup, struct err *reterr)
{
    const struct cow_entry *end = x + count, *dup;
    struct demand d = {0};
    struct group g;

    for (const struct cow_entry *at = x; at < end; at = g.end) {
        dup = group_open(m, &g, at, end);
        if (dup)
            return duplicate(dup, ret_dup, reterr);
        demand_add(&d, m, &g);
    }
    if (!demand_reserve(&d, m))
        return out_of_memory(m, reterr);
    for (const struct cow_entry *at = x; at < end; at = g.end) {
        (void)group_open(m, &g, at, end);
        group_write(m, &g);
    }
    return 0;
}

int cow_map_load(struct cow_map *m, struct cow_entry *entries, size_t count,
                 struct cow_entry *ret_dup, struct err *reterr)
{
    for (size_t i = 0; i < count; i++)
        if (entries[i].old_chunk > COW_MAP_CHUNK_MAX || entries[i].new_chunk > COW_MAP_CHUNK_MAX)
            return err_set(reterr, SNAP_EINVAL, "exception %llu -> %llu: chunk number out of range",
                           (unsigned long long)entries[i].old_chunk,
                           (unsigned long long)entries[i].new_chunk);
    if (count == 0)
        return 0;
    cow_entries_sort(entries, count);
    if (count < m->count / LOAD_REBUILD_RATIO)
        return load_into_leaves(m, entries, count, ret_dup, reterr);
    return load_rebuild(m, entries, count, ret_dup, reterr);
}

int cow_map_remove_seq(struct cow_map *m, uint32_t seq, struct err *reterr)
{
    struct cow_map fresh;
    struct tree_iter all;
    struct builder b;
    uint64_t drop = 0;
    bool ok = true;

    tree_iter_init(&all, m, (struct map_key){0, 0});
    while (tree_iter_next(&all))
        drop += all.leaf.run.seq == seq ? all.leaf.run.count : 0;
    if (drop == m->count)
        tree_clear(m);
    if (drop == 0 || m->count == 0)
        return 0;
    builder_init(&b, &fresh, m);
    tree_iter_init(&all, m, (struct map_key){0, 0});
    while (ok && tree_iter_next(&all))
        if (all.leaf.run.seq != seq)
            ok = builder_add(&b, &all.leaf.run);
    if (!ok || !builder_flush(&b)) {
        tree_clear(&fresh);
        return out_of_memory(m, reterr);
    }
    replace_tree(m, &fresh);
    return 0;
}
