/* SPDX-License-Identifier: Apache-2.0 */
/* Who reads through whom.
 *
 *   origin ── s4 ── s3 ── s1        the chain: v->chain, oldest first, one map
 *      │      └── c5 ── c7          clones: v->clones, a map each, and on the list of
 *      └── c2                       what they read through, so that nobody walks them all
 *
 * Who takes the old content of a place that is changed, of its direct dependants D:
 *
 *   D is                                    takes it
 *   visible, or hidden with several         D
 *   hidden with one, whatever that is       that one's turn: the same question for it
 *   hidden with none                        nobody
 *   invalid, durably, hidden or not         nobody: all that read through it are so, too
 *   hidden with one, its store not open     D, which cannot: the change has to wait
 *
 * Hidden nodes and those whose store cannot be read are on lists of their own: a state or
 * a job is found without walking a chain of thousands.
 *
 * It must not know of I/O or requests. Thread: the shard's.
 */
#include "daemon/volume/tree.h"

#include "common/base/check.h"

/* -- the tree itself ------------------------------------------------------------------- */

static struct snapshot_set *tree_clones_of(struct volume *v, struct snapshot *place,
                                           unsigned **ret_count)
{
    *ret_count = place != NULL ? &place->clone_count : &v->origin_clone_count;
    return place != NULL ? &place->clones : &v->origin_clones;
}

static void tree_link_clone(struct snapshot *s, struct snapshot *parent)
{
    unsigned *count;
    struct snapshot_set *set = tree_clones_of(s->volume, parent, &count);
    s->parent = parent;
    LIST_INSERT_HEAD(set, s, clone_link);
    (*count)++;
}

static void tree_unlink_clone(struct snapshot *s)
{
    unsigned *count;
    (void)tree_clones_of(s->volume, s->parent, &count);
    LIST_REMOVE(s, clone_link);
    (*count)--;
    s->parent = NULL;
}

void tree_add(struct snapshot *s, struct snapshot *parent)
{
    CHECK(s->clone || parent == NULL);
    s->parent = parent;
    volume_node_add(s->volume, s);
    if (s->clone && s->volume->indexed)
        tree_link_clone(s, parent);
}

void tree_remove(struct snapshot *s)
{
    struct volume *v = s->volume;
    struct snapshot *parent = tree_parent(s), *clone;
    tree_set_hidden(s, false);
    while ((clone = LIST_FIRST(&s->clones)) != NULL) {
        tree_unlink_clone(clone);
        tree_link_clone(clone, parent);
    }
    if (s->clone)
        tree_unlink_clone(s);
    if (s->unsound) {
        s->unsound = false;
        LIST_REMOVE(s, unsound_link);
    }
    volume_node_remove(v, s);
}

void tree_set_hidden(struct snapshot *s, bool hidden)
{
    struct volume *v = s->volume;
    CHECK(v->indexed);
    if (s->hidden == hidden)
        return;
    s->hidden = hidden;
    s->leaving = s->leaving || hidden;
    if (hidden)
        TAILQ_INSERT_TAIL(&v->hidden, s, hidden_link);
    else
        TAILQ_REMOVE(&v->hidden, s, hidden_link);
}

void tree_index(struct volume *v)
{
    struct snapshot *s;
    if (v->indexed)
        return;
    v->indexed = true;
    TAILQ_INIT(&v->hidden);
    for (uint32_t i = 0; i < v->record.snapshot_count; i++) {
        const struct record_snapshot *rs = &v->record.snapshots[i];
        bool undo =
            rs->undo && rs->seq != v->record.rollback.undo_seq; /* its rollback never began */
        if ((rs->hidden || undo) && (s = volume_node_by_seq(v, rs->seq)) != NULL)
            tree_set_hidden(s, true);
        if (rs->clone && (s = volume_node_by_seq(v, rs->seq)) != NULL)
            tree_link_clone(s, rs->parent_seq == 0 ? NULL : volume_node_by_seq(v, rs->parent_seq));
    }
}

/* -- neighbours ------------------------------------------------------------------------ */

struct snapshot *tree_parent(const struct snapshot *s)
{
    return s->clone ? s->parent : TAILQ_NEXT(s, link);
}

static struct snapshot *tree_older(const struct snapshot *s)
{
    return s->clone ? NULL : TAILQ_PREV(s, snapshot_list, link);
}

unsigned tree_children(const struct volume *v, const struct snapshot *s)
{
    if (s == NULL)
        return v->origin_clone_count + (TAILQ_EMPTY(&v->chain) ? 0 : 1);
    return s->clone_count + (tree_older(s) != NULL ? 1 : 0);
}

struct snapshot *tree_only_child(const struct volume *v, const struct snapshot *s)
{
    if (tree_children(v, s) != 1)
        return NULL;
    if (s == NULL)
        return v->origin_clone_count > 0 ? LIST_FIRST(&v->origin_clones)
                                         : TAILQ_LAST(&v->chain, snapshot_list);
    return s->clone_count > 0 ? LIST_FIRST(&s->clones) : tree_older(s);
}

bool tree_folds(const struct snapshot *s)
{
    return s->hidden && tree_children(s->volume, s) <= 1;
}

unsigned tree_depth(const struct snapshot *s)
{
    unsigned depth = 0;
    for (; s != NULL && s->clone; s = s->parent)
        depth++;
    return depth;
}

/* -- views ------------------------------------------------------------------------------ */

unsigned tree_layers(const struct snapshot *s, struct cow_layer layers[TREE_DEPTH_MAX + 1])
{
    unsigned n = 0;
    for (; s != NULL; s = s->clone ? s->parent : NULL) {
        CHECK(n <= TREE_DEPTH_MAX);
        layers[n++] = (struct cow_layer){
            .map = s->map, .seq = s->seq, .chunk_bytes = s->volume->chunk_sectors * SECTOR_BYTES};
    }
    return n;
}

struct snapshot *tree_extent_node(const struct snapshot *s, const struct cow_extent *x)
{
    if (x->layer < 0)
        return NULL;
    for (int i = 0; i < x->layer; i++)
        s = s->parent;
    if (s->clone || s->seq == x->seq)
        return (struct snapshot *)(uintptr_t)s;
    return volume_snapshot_by_seq(s->volume, x->seq);
}

/* -- dependants --------------------------------------------------------------------------- */

/* Whether s, a direct dependant, takes what is about to change; *ret_next: who is asked
 * instead, NULL: nobody. */
static bool tree_takes(const struct snapshot *s, struct snapshot **ret_next)
{
    *ret_next = NULL;
    if (snapshot_is_invalid(s))
        return false;
    if (!tree_folds(s))
        return true;
    *ret_next = tree_only_child(s->volume, s);
    return *ret_next != NULL && (s->store == NULL || s->unsound);
}

/* False: fn has had enough. */
static bool tree_tell(struct snapshot *s, bool (*fn)(struct snapshot *s, void *user), void *user)
{
    struct snapshot *next;
    for (; s != NULL; s = next)
        if (tree_takes(s, &next))
            return fn(s, user);
    return true;
}

void tree_each_dependant(struct volume *v, struct snapshot *place,
                         bool (*fn)(struct snapshot *s, void *user), void *user)
{
    unsigned *count;
    struct snapshot *s,
        *older = place == NULL ? TAILQ_LAST(&v->chain, snapshot_list) : tree_older(place);
    if (older != NULL && !tree_tell(older, fn, user))
        return;
    LIST_FOREACH (s, tree_clones_of(v, place, &count), clone_link)
        if (!tree_tell(s, fn, user))
            return;
}

bool tree_has(const struct snapshot *dependant, const struct snapshot *place, uint64_t old_chunk)
{
    for (const struct snapshot *s = dependant; s != NULL && s != place; s = s->parent) {
        struct cow_entry x;
        if (cow_map_find(s->map, old_chunk, s->seq, &x) &&
            (s->clone || place == NULL || place->clone || x.seq < place->seq))
            return true;
        if (!s->clone) /* the whole chain has been looked through */
            return false;
    }
    return false;
}
