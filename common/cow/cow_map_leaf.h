/* SPDX-License-Identifier: Apache-2.0 */
/* Leaves of the exception map: runs in (old, seq) order, packed. Private to cow_map*.c.
 *
 * A run stands behind the one before it as
 *
 *   control   1 byte   bits 0-2 width of `old`, 3-5 width of `new`, 6 count?, 7 seq?
 *   old       0-8      old_chunk - last old_chunk of the run before
 *   new       0-8      new_chunk - one past the last new_chunk before, zigzag
 *   count     varint   elements - 2; absent: 1 element
 *   seq       varint   seq - seq before, zigzag; absent: the same
 *
 * Widths 0 … 7 stand for 0 1 2 3 4 5 6 8 bytes, little-endian. The first run
 * stands behind LEAF_ORIGIN. A run on random keys takes 6 bytes, an adjacent
 * one 3 or so. Loads take 8 bytes whatever the width, so LEAF_PAD_BYTES that
 * may be read follow every leaf.
 */
#ifndef SNAP_COW_MAP_LEAF_H
#define SNAP_COW_MAP_LEAF_H

#include "common/base/bytes.h"
#include "common/cow/cow_map.h"

enum {
    LEAF_BYTES = 256, /* small: a look-up decodes half a leaf */
    LEAF_DATA_BYTES = LEAF_BYTES - 2,
    LEAF_PAD_BYTES = 8,
    LEAF_RUN_BYTES_MAX = 32,             /* 1 + 8 + 8 + 10 + 5 */
    LEAF_RUNS_MAX = LEAF_DATA_BYTES / 2, /* no run but the first is under 2 bytes */
    /* What a leaf gets at most when content is spread evenly: one more run may follow and
     * the first one may grow, since it stands behind LEAF_ORIGIN. */
    LEAF_FILL_BYTES = LEAF_DATA_BYTES - 64,
    /* Two leaves that share no more than twice this are not made three. */
    LEAF_SHARE_BYTES = LEAF_DATA_BYTES * 7 / 8,
};

struct leaf {
    uint16_t used;
    uint8_t data[LEAF_DATA_BYTES];
};

/* A leaf on the stack. */
struct leaf_buf {
    struct leaf leaf;
    uint8_t pad[LEAF_PAD_BYTES];
};

/* What the first run is encoded behind: last old 0, next new 0, seq 0. */
#define LEAF_ORIGIN ((struct cow_run){.old_chunk = 0, .new_chunk = UINT64_MAX, .count = 1})

static inline uint64_t run_last_old(const struct cow_run *r)
{
    return r->old_chunk + (r->count - 1);
}

/* Does the last element of r stand at (old, seq) or after it? */
static inline bool run_reaches(const struct cow_run *r, uint64_t old, uint32_t seq)
{
    uint64_t last = run_last_old(r);

    return last > old || (last == old && r->seq >= seq);
}

/* How many elements of r stand before (old, seq). */
static inline uint64_t run_below(const struct cow_run *r, uint64_t old, uint32_t seq)
{
    if (old < r->old_chunk)
        return 0;
    return u64_min(old - r->old_chunk + (r->seq < seq), r->count);
}

/* r without its first k elements; k < count. */
static inline struct cow_run run_from(const struct cow_run *r, uint64_t k)
{
    return (struct cow_run){r->old_chunk + k, r->new_chunk + k, r->count - k, r->seq};
}

static inline struct cow_run run_of_entry(const struct cow_entry *x)
{
    return (struct cow_run){x->old_chunk, x->new_chunk, 1, x->seq};
}

/* Put b at the end of a, when it continues it. */
static inline bool run_join(struct cow_run *a, const struct cow_run *b)
{
    if (a->seq != b->seq || a->old_chunk + a->count != b->old_chunk ||
        a->new_chunk + a->count != b->new_chunk)
        return false;
    a->count += b->count;
    return true;
}

/* -- reading ----------------------------------------------------------------- */

struct leaf_iter {
    const uint8_t *at;   /* where run begins */
    const uint8_t *next; /* behind it */
    const uint8_t *end;
    struct cow_run run;
};

static inline void leaf_iter_init(struct leaf_iter *it, const struct leaf *l)
{
    it->at = it->next = l->data;
    it->end = l->data + l->used;
    it->run = LEAF_ORIGIN;
}

static inline uint64_t leaf_take_fixed(const uint8_t **p, unsigned width)
{
    static const uint64_t masks[8] = {0,          0xff,         0xffff,         0xffffff,
                                      0xffffffff, 0xffffffffff, 0xffffffffffff, UINT64_MAX};
    uint64_t v = le64_load(*p) & masks[width];

    *p += width + (width == 7);
    return v;
}

static inline uint64_t leaf_take_varint(const uint8_t **p)
{
    uint64_t v = 0;
    unsigned shift = 0;
    uint8_t b;

    do {
        b = *(*p)++;
        v |= (uint64_t)(b & 0x7f) << shift;
        shift += 7;
    } while (b & 0x80);
    return v;
}

static inline uint64_t zigzag_decode(uint64_t z)
{
    return (z >> 1) ^ (0 - (z & 1));
}

/* False: there is no further run; `run` stays as it was. */
static inline bool leaf_iter_next(struct leaf_iter *it)
{
    const uint8_t *p = it->next;
    unsigned control;

    if (p >= it->end)
        return false;
    it->at = p;
    control = *p++;
    it->run.old_chunk += it->run.count - 1 + leaf_take_fixed(&p, control & 7);
    it->run.new_chunk += it->run.count + zigzag_decode(leaf_take_fixed(&p, (control >> 3) & 7));
    it->run.count = 1;
    if (control & 0x40)
        it->run.count = leaf_take_varint(&p) + 2;
    if (control & 0x80)
        it->run.seq += (uint32_t)zigzag_decode(leaf_take_varint(&p));
    it->next = p;
    return true;
}

/* -- writing ----------------------------------------------------------------- */

/* Encode x behind `before`. out has room for LEAF_RUN_BYTES_MAX + LEAF_PAD_BYTES.
 * Returns the bytes it takes. */
unsigned leaf_run_encode(uint8_t *out, const struct cow_run *before, const struct cow_run *x);
unsigned leaf_run_size(const struct cow_run *before, const struct cow_run *x);

/* Some neighbouring runs of a leaf give way to others. The last element of the
 * new ones is the last of those replaced, or nothing follows: what stands behind
 * keeps its encoding. */
struct leaf_edit {
    uint16_t from, to;     /* bytes replaced */
    struct cow_run before; /* the run that ends at `from`, or LEAF_ORIGIN */
    struct cow_run runs[4];
    unsigned run_count;
};

/* Add a run to the edit, folding it into the last where it continues that. */
void leaf_edit_push(struct leaf_edit *e, struct cow_run r);
/* False: too full, unchanged. */
bool leaf_apply(struct leaf *l, const struct leaf_edit *e);

/* Where (old, seq) is, or would be. */
struct leaf_place {
    struct cow_run before; /* the run ahead of prev, or LEAF_ORIGIN */
    struct cow_run prev;   /* the last run wholly below the key */
    struct cow_run cur;    /* the first run that reaches it */
    struct cow_run follow; /* the one behind cur */
    bool has_prev, has_cur, has_follow;
    uint16_t prev_at, cur_at, cur_end, follow_end;
};
void leaf_find(const struct leaf *l, uint64_t old, uint32_t seq, struct leaf_place *ret);

/* Write runs one after another into leaves. */
struct leaf_writer {
    struct leaf *leaf; /* NULL: none yet */
    struct cow_run last;
};
void leaf_writer_init(struct leaf_writer *w, struct leaf *l);
/* False: no room, unchanged. */
bool leaf_writer_add(struct leaf_writer *w, const struct cow_run *r);

/* Append the runs of l, with e (may be NULL) applied, to runs, folding at the seam.
 * Returns the new count. */
unsigned leaf_unpack(const struct leaf *l, const struct leaf_edit *e, struct cow_run *runs,
                     unsigned count);

#endif
