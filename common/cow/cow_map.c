/* SPDX-License-Identifier: Apache-2.0 */
/* The exception map: look-up, insertion and removal of single entries.
 *
 * A B+tree (cow_map_tree.c) over packed leaves (cow_map_leaf.c); loading in bulk
 * is cow_map_load.c's. Elements are ordered by (old, seq), and neighbours that
 * continue each other in old and new are one run, within a leaf. What lies
 * between two elements of a run in that order splits it:
 *
 *     insert (50, seq 2)   [0 … 99]s1  →  [0 … 50]s1  (50)s2  [51 … 99]s1
 *     remove (50, seq 2)   and back
 *
 * Knows nothing of devices, chunk sizes or what seq means beyond its order.
 * Thread: none of its own; the owner's.
 */
#include "common/base/check.h"
#include "common/cow/cow_map_tree.h"

#include <stdlib.h>

struct cow_map *cow_map_new_with_limit(size_t limit_bytes)
{
    struct cow_map *m;

    if (limit_bytes < sizeof *m)
        return NULL;
    m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    map_pools_init(m);
    m->limit = limit_bytes > m->bytes ? limit_bytes : m->bytes;
    return m;
}

struct cow_map *cow_map_new(void)
{
    return cow_map_new_with_limit(SIZE_MAX);
}

void cow_map_free(struct cow_map *m)
{
    if (!m)
        return;
    map_pools_free(m);
    free(m);
}

/* -- change ------------------------------------------------------------------------ */

static int insert_first(struct cow_map *m, const struct cow_run *r, struct err *reterr)
{
    struct leaf_writer w;

    if (!map_pool_reserve(m, &m->leaves, 1))
        return err_set(reterr, SNAP_ENOMEM, "exception map: out of memory");
    leaf_writer_init(&w, map_pool_take(&m->leaves));
    (void)leaf_writer_add(&w, r);
    m->root = w.leaf;
    m->count = 1;
    return 0;
}

/* An edit that replaces the runs at the place, as yet by its prev only. */
static struct leaf_edit edit_at(const struct leaf_place *at)
{
    struct leaf_edit e = {.from = at->cur_at, .to = at->cur_end, .before = at->prev};

    if (at->has_prev) {
        e.from = at->prev_at;
        e.before = at->before;
        leaf_edit_push(&e, at->prev);
    }
    return e;
}

int cow_map_insert(struct cow_map *m, struct cow_entry x, struct err *reterr)
{
    struct cow_run added = run_of_entry(&x);
    struct map_path path;
    struct leaf_place at;
    struct leaf_edit e;
    struct leaf *leaf;
    int rc;

    if (x.old_chunk > COW_MAP_CHUNK_MAX || x.new_chunk > COW_MAP_CHUNK_MAX)
        return err_set(reterr, SNAP_EINVAL, "exception %llu -> %llu: chunk number out of range",
                       (unsigned long long)x.old_chunk, (unsigned long long)x.new_chunk);
    leaf = tree_descend(m, (struct map_key){x.old_chunk, x.seq}, &path);
    if (!leaf)
        return insert_first(m, &added, reterr);
    leaf_find(leaf, x.old_chunk, x.seq, &at);
    e = edit_at(&at);
    if (at.has_cur) {
        uint64_t k = run_below(&at.cur, x.old_chunk, x.seq);
        struct cow_run right = run_from(&at.cur, k);

        if (right.old_chunk == x.old_chunk && right.seq == x.seq)
            return err_set(reterr, SNAP_EEXIST, "exception of chunk %llu: already there",
                           (unsigned long long)x.old_chunk);
        if (k > 0) {
            at.cur.count = k;
            leaf_edit_push(&e, at.cur);
        }
        leaf_edit_push(&e, added);
        leaf_edit_push(&e, right);
    } else {
        leaf_edit_push(&e, added);
    }
    rc = tree_edit(m, &path, leaf, &e, reterr);
    if (rc < 0)
        return rc;
    m->count++;
    return 0;
}

int cow_map_remove(struct cow_map *m, uint64_t old_chunk, uint32_t seq, struct err *reterr)
{
    struct leaf *leaf;
    struct map_path path;
    struct leaf_place at;
    struct leaf_edit e;
    uint64_t k;

    leaf = tree_descend(m, (struct map_key){old_chunk, seq}, &path);
    if (leaf)
        leaf_find(leaf, old_chunk, seq, &at);
    if (!leaf || !at.has_cur)
        goto absent;
    k = run_below(&at.cur, old_chunk, seq);
    if (at.cur.old_chunk + k != old_chunk || at.cur.seq != seq)
        goto absent;
    e = edit_at(&at);
    e.to = at.follow_end;
    if (k > 0)
        leaf_edit_push(&e, (struct cow_run){at.cur.old_chunk, at.cur.new_chunk, k, seq});
    if (k + 1 < at.cur.count)
        leaf_edit_push(&e, run_from(&at.cur, k + 1));
    if (at.has_follow)
        leaf_edit_push(&e, at.follow);
    if (m->count == 1) {
        tree_clear(m);
        return 0;
    }
    if (leaf_apply(leaf, &e)) {
        tree_tidy(m, &path, leaf);
    } else {
        int rc = tree_edit(m, &path, leaf, &e, reterr);

        if (rc < 0)
            return rc;
    }
    m->count--;
    return 0;
absent:
    return err_set(reterr, SNAP_ENOENT, "exception of chunk %llu: not found",
                   (unsigned long long)old_chunk);
}

/* -- look-up ------------------------------------------------------------------------- */

bool cow_map_next(const struct cow_map *m, uint64_t old_chunk, uint32_t seq, struct cow_run *ret)
{
    struct tree_iter it;

    tree_iter_init(&it, m, (struct map_key){old_chunk, seq});
    while (tree_iter_next(&it)) {
        const struct cow_run *r = &it.leaf.run;

        if (run_reaches(r, old_chunk, seq)) {
            *ret = run_from(r, run_below(r, old_chunk, seq));
            return true;
        }
    }
    return false;
}

bool cow_map_next_visible(const struct cow_map *m, uint64_t old_chunk, uint32_t seq,
                          uint64_t last_old, struct cow_run *ret)
{
    struct tree_iter it;

    CHECK(old_chunk <= last_old);
    tree_iter_init(&it, m, (struct map_key){old_chunk, seq});
    while (tree_iter_next(&it)) {
        const struct cow_run *r = &it.leaf.run;

        if (r->old_chunk > last_old)
            return false;
        if (r->seq >= seq && run_reaches(r, old_chunk, seq)) {
            *ret = run_from(r, run_below(r, old_chunk, seq));
            ret->count = u64_min(ret->count, last_old - ret->old_chunk + 1);
            return true;
        }
    }
    return false;
}

bool cow_map_find(const struct cow_map *m, uint64_t old_chunk, uint32_t seq, struct cow_entry *ret)
{
    struct cow_run r;

    if (!cow_map_next_visible(m, old_chunk, seq, old_chunk, &r))
        return false;
    *ret = (struct cow_entry){r.old_chunk, r.new_chunk, r.seq};
    return true;
}

bool cow_map_get(const struct cow_map *m, uint64_t old_chunk, uint32_t seq, uint64_t *ret_new)
{
    struct cow_run r;

    if (!cow_map_next_visible(m, old_chunk, seq, old_chunk, &r) || r.seq != seq)
        return false;
    *ret_new = r.new_chunk;
    return true;
}

void cow_map_after(const struct cow_run *run, uint64_t *ret_old, uint32_t *ret_seq)
{
    uint64_t last = run_last_old(run);

    *ret_old = run->seq == UINT32_MAX ? last + 1 : last;
    *ret_seq = run->seq == UINT32_MAX ? 0 : run->seq + 1;
}

uint64_t cow_map_count(const struct cow_map *m)
{
    return m->count;
}

size_t cow_map_memory_bytes(const struct cow_map *m)
{
    return m->bytes;
}
