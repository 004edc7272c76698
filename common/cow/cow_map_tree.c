/* SPDX-License-Identifier: Apache-2.0 */
/* The B+tree above the leaves of the exception map.
 *
 * A leaf that overflows first shares with a neighbour under the same parent; only
 * when both are full do two become three, so that leaves stay two thirds full or
 * better whatever the order of insertion. At the right edge of the tree a new
 * leaf is begun instead: ascending keys leave full leaves behind.
 *
 *                 ┌ inner ┐
 *          ┌──────┴┬──────┴┐          height 2
 *        inner   inner   inner
 *        │ │ │   │ │ │   │ │ │
 *        leaves, 512 bytes each
 *
 * Memory is reserved before the first change, so a failure leaves all as it was.
 * Knows leaves as sequences of runs only. Thread: the map owner's.
 */
#include "common/cow/cow_map_tree.h"

#include "common/base/check.h"

/* The last child whose keys begin at or before key. */
static unsigned child_index(const struct inner *n, struct map_key key)
{
    unsigned low = 0, len = n->n;

    while (len > 1) {
        unsigned half = len / 2, at = low + half;
        bool right = n->old[at] < key.old || (n->old[at] == key.old && n->seq[at] <= key.seq);

        low = right ? at : low;
        len -= half;
    }
    return low;
}

/* Fetch what a search is about to read in one go, not one line after another. */
static inline void prefetch(const void *p, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64)
        __builtin_prefetch((const uint8_t *)p + at);
}

struct leaf *tree_descend(const struct cow_map *m, struct map_key key, struct map_path *path)
{
    void *node = m->root;

    for (unsigned level = 0; level < m->height; level++) {
        struct inner *n = node;
        unsigned i = child_index(n, key);

        path->node[level] = n;
        path->index[level] = i;
        node = n->child[i];
        prefetch(node, level + 1 < m->height ? sizeof n->old : sizeof(struct leaf));
    }
    return node;
}

struct leaf *tree_next_leaf(const struct cow_map *m, struct map_path *path)
{
    unsigned level = m->height;
    void *node;

    do {
        if (level-- == 0)
            return NULL;
    } while (path->index[level] + 1 >= path->node[level]->n);
    node = path->node[level]->child[++path->index[level]];
    while (++level < m->height) {
        path->node[level] = node;
        path->index[level] = 0;
        node = path->node[level]->child[0];
    }
    return node;
}

/* -- changes of inner nodes ------------------------------------------------------- */

static void inner_move(struct inner *to, unsigned to_at, const struct inner *from, unsigned from_at,
                       unsigned count)
{
    memmove(&to->old[to_at], &from->old[from_at], count * sizeof to->old[0]);
    memmove(&to->child[to_at], &from->child[from_at], count * sizeof to->child[0]);
    memmove(&to->seq[to_at], &from->seq[from_at], count * sizeof to->seq[0]);
}

static void inner_set_key(struct inner *n, unsigned at, struct map_key key)
{
    n->old[at] = key.old;
    n->seq[at] = key.seq;
}

static void inner_insert(struct inner *n, unsigned at, struct map_key key, void *child)
{
    inner_move(n, at + 1, n, at, n->n - at);
    inner_set_key(n, at, key);
    n->child[at] = child;
    n->n++;
}

/* Split the full node n to insert a child at `at`. Returns the right half, which begins
 * at *ret_key. A child behind all others gets a node to itself: n stays full. */
static struct inner *inner_split(struct cow_map *m, struct inner *n, unsigned at,
                                 struct map_key key, void *child, struct map_key *ret_key)
{
    struct inner *right = map_pool_take(&m->inners);
    unsigned keep = at == INNER_FANOUT ? INNER_FANOUT : INNER_FANOUT / 2;

    right->n = n->n - keep;
    inner_move(right, 0, n, keep, right->n);
    n->n = keep;
    if (at == INNER_FANOUT || at > keep)
        inner_insert(right, at - keep, key, child);
    else
        inner_insert(n, at, key, child);
    *ret_key = (struct map_key){right->old[0], right->seq[0]};
    return right;
}

void tree_add_leaf(struct cow_map *m, struct map_path *path, struct map_key key, struct leaf *leaf)
{
    void *child = leaf;
    struct inner *root;

    for (unsigned level = m->height; level-- > 0;) {
        struct inner *n = path->node[level];
        unsigned at = path->index[level] + 1;

        if (n->n < INNER_FANOUT) {
            inner_insert(n, at, key, child);
            return;
        }
        child = inner_split(m, n, at, key, child, &key);
    }
    if (!m->root) {
        m->root = child;
        return;
    }
    CHECK(m->height < TREE_HEIGHT_MAX);
    root = map_pool_take(&m->inners);
    root->n = 0;
    inner_insert(root, 0, (struct map_key){0, 0}, m->root);
    inner_insert(root, 1, key, child);
    m->root = root;
    m->height++;
}

static void inner_delete(struct inner *n, unsigned at)
{
    inner_move(n, at, n, at + 1, n->n - at - 1);
    n->n--;
}

/* Join child `at` of parent, an inner node that ran low, with a neighbour if both fit. */
static bool inner_join(struct cow_map *m, struct inner *parent, unsigned at)
{
    struct inner *left, *right;

    if (parent->n < 2)
        return false;
    at = at + 1 < parent->n ? at : at - 1;
    left = parent->child[at];
    right = parent->child[at + 1];
    if (left->n + right->n > INNER_FANOUT * 3 / 4)
        return false;
    inner_set_key(right, 0, (struct map_key){parent->old[at + 1], parent->seq[at + 1]});
    inner_move(left, left->n, right, 0, right->n);
    left->n += right->n;
    map_pool_give(&m->inners, right);
    inner_delete(parent, at + 1);
    return true;
}

/* Take leaf `at` out of its parent, the lowest node of the path, and with it what empties
 * or runs low above. It is not the last leaf of the tree. */
static void tree_drop_leaf(struct cow_map *m, struct map_path *path, unsigned at)
{
    unsigned level = m->height - 1;

    inner_delete(path->node[level], at);
    while (path->node[level]->n == 0) {
        CHECK(level > 0);
        map_pool_give(&m->inners, path->node[level]);
        level--;
        inner_delete(path->node[level], path->index[level]);
    }
    while (level > 0 && path->node[level]->n < INNER_FANOUT / 4 &&
           inner_join(m, path->node[level - 1], path->index[level - 1]))
        level--;
    while (m->height > 0 && ((struct inner *)m->root)->n == 1) {
        struct inner *root = m->root;

        m->root = root->child[0];
        m->height--;
        map_pool_give(&m->inners, root);
    }
}

/* -- leaves that overflow or run low --------------------------------------------- */

static unsigned size_of_runs(const struct cow_run *runs, unsigned count)
{
    struct cow_run before = LEAF_ORIGIN;
    unsigned total = 0;

    for (unsigned i = 0; i < count; i++) {
        total += leaf_run_size(&before, &runs[i]);
        before = runs[i];
    }
    return total;
}

/* Spread runs over `leaf_count` leaves, evenly; ret_keys: where each begins.
 * False: no room, which cannot be while a leaf's share is LEAF_FILL_BYTES or less. */
static bool spread(const struct cow_run *runs, unsigned run_count, struct leaf_buf *leaves,
                   unsigned leaf_count, struct map_key *ret_keys)
{
    struct cow_run before = LEAF_ORIGIN;
    struct leaf_writer w = {.leaf = NULL};
    unsigned total = size_of_runs(runs, run_count), done = 0, k = 0;

    for (unsigned i = 0; i < run_count; i++) {
        if (k < leaf_count && done >= total * k / leaf_count) {
            ret_keys[k] = (struct map_key){runs[i].old_chunk, runs[i].seq};
            leaf_writer_init(&w, &leaves[k++].leaf);
        }
        if (!leaf_writer_add(&w, &runs[i]))
            return false;
        done += leaf_run_size(&before, &runs[i]);
        before = runs[i];
    }
    return k == leaf_count;
}

static bool path_at_right_edge(const struct cow_map *m, const struct map_path *path)
{
    for (unsigned level = 0; level < m->height; level++)
        if (path->index[level] + 1 < path->node[level]->n)
            return false;
    return true;
}

/* At the tree's right edge: the last run of the edit begins a new leaf. */
static bool edit_at_edge(struct cow_map *m, struct map_path *path, struct leaf *leaf,
                         const struct leaf_edit *e)
{
    struct leaf_edit rest = *e;
    const struct cow_run *last;
    struct leaf_writer w;

    if (e->to != leaf->used || e->run_count < 2 || !path_at_right_edge(m, path))
        return false;
    rest.run_count--;
    if (!leaf_apply(leaf, &rest))
        return false;
    last = &e->runs[rest.run_count];
    leaf_writer_init(&w, map_pool_take(&m->leaves));
    CHECK(leaf_writer_add(&w, last));
    tree_add_leaf(m, path, (struct map_key){last->old_chunk, last->seq}, w.leaf);
    return true;
}

int tree_edit(struct cow_map *m, struct map_path *path, struct leaf *leaf,
              const struct leaf_edit *e, struct err *reterr)
{
    struct cow_run runs[2 * LEAF_RUNS_MAX + ARRAY_LEN(e->runs)];
    struct leaf_buf bufs[3];
    struct map_key keys[3];
    struct leaf *to[3] = {leaf};
    unsigned count = 0, have = 1, want = 2;

    if (leaf_apply(leaf, e))
        return 0;
    if (!map_pool_reserve(m, &m->leaves, 1) || !map_pool_reserve(m, &m->inners, m->height + 1))
        return err_set(reterr, SNAP_ENOMEM, "exception map of %zu bytes: out of memory", m->bytes);
    if (edit_at_edge(m, path, leaf, e))
        return 0;

    if (m->height > 0 && path->node[m->height - 1]->n > 1) {
        struct inner *parent = path->node[m->height - 1];
        unsigned *at = &path->index[m->height - 1];

        if (*at + 1 == parent->n)
            --*at;
        for (unsigned i = 0; i < 2; i++) {
            to[i] = parent->child[*at + i];
            count = leaf_unpack(to[i], to[i] == leaf ? e : NULL, runs, count);
        }
        ++*at; /* a third comes behind the second */
        have = 2;
        if (size_of_runs(runs, count) > 2 * LEAF_SHARE_BYTES || !spread(runs, count, bufs, 2, keys))
            want = 3;
    } else {
        count = leaf_unpack(leaf, e, runs, 0);
    }
    if (want > have)
        CHECK(spread(runs, count, bufs, want, keys));
    if (want > have)
        to[have] = map_pool_take(&m->leaves);
    for (unsigned i = 0; i < want; i++)
        memcpy(to[i], &bufs[i].leaf, sizeof(struct leaf));
    if (have == 2)
        inner_set_key(path->node[m->height - 1], path->index[m->height - 1], keys[1]);
    if (want > have)
        tree_add_leaf(m, path, keys[have], to[have]);
    return 0;
}

void tree_tidy(struct cow_map *m, struct map_path *path, struct leaf *leaf)
{
    struct cow_run runs[LEAF_RUNS_MAX * 2];
    struct leaf_buf buf;
    struct map_key key;
    struct inner *parent;
    struct leaf *left, *right;
    unsigned at, count;

    if (leaf->used >= LEAF_DATA_BYTES / 2 || m->height == 0)
        return;
    parent = path->node[m->height - 1];
    at = path->index[m->height - 1];
    if (leaf->used == 0) {
        map_pool_give(&m->leaves, leaf);
        tree_drop_leaf(m, path, at);
        return;
    }
    if (parent->n < 2)
        return;
    at = at + 1 < parent->n ? at : at - 1;
    left = parent->child[at];
    right = parent->child[at + 1];
    if (left->used + right->used > LEAF_DATA_BYTES * 3 / 4)
        return;
    count = leaf_unpack(left, NULL, runs, 0);
    count = leaf_unpack(right, NULL, runs, count);
    CHECK(spread(runs, count, &buf, 1, &key));
    memcpy(left, &buf.leaf, sizeof *left);
    map_pool_give(&m->leaves, right);
    tree_drop_leaf(m, path, at + 1);
}

void tree_clear(struct cow_map *m)
{
    map_pools_free(m);
    m->root = NULL;
    m->height = 0;
    m->count = 0;
}

/* -- walking ------------------------------------------------------------------------ */

void tree_iter_init(struct tree_iter *it, const struct cow_map *m, struct map_key from)
{
    const struct leaf *leaf = tree_descend(m, from, &it->path);

    it->map = m;
    it->live = leaf != NULL;
    if (leaf)
        leaf_iter_init(&it->leaf, leaf);
}

bool tree_iter_next(struct tree_iter *it)
{
    while (it->live) {
        const struct leaf *leaf;

        if (leaf_iter_next(&it->leaf))
            return true;
        leaf = tree_next_leaf(it->map, &it->path);
        it->live = leaf != NULL;
        if (leaf)
            leaf_iter_init(&it->leaf, leaf);
    }
    return false;
}
