/* SPDX-License-Identifier: Apache-2.0 */
/* Packing and editing of one leaf of the exception map.
 *
 * Every run is written as the difference from the one before it, so a change
 * touches the run itself and its two neighbours; the bytes behind those are
 * moved, not decoded:
 *
 *      before │ prev   cur   follow │ …
 *             └──── the edit ───────┘ moved as they are
 *
 * Knows nothing of the tree. Thread: the map owner's.
 */
#include "common/cow/cow_map_leaf.h"

#include "common/base/check.h"

static unsigned width_of(uint64_t v)
{
    unsigned bytes;

    if (v == 0)
        return 0;
    bytes = (unsigned)(71 - __builtin_clzll(v)) / 8;
    return bytes < 7 ? bytes : 7;
}

static uint8_t *put_fixed(uint8_t *p, uint64_t v, unsigned width)
{
    le64_store(p, v);
    return p + width + (width == 7);
}

static uint8_t *put_varint(uint8_t *p, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

static uint64_t zigzag_encode(uint64_t v)
{
    return (v << 1) ^ (0 - (v >> 63));
}

unsigned leaf_run_encode(uint8_t *out, const struct cow_run *before, const struct cow_run *x)
{
    uint64_t old = x->old_chunk - run_last_old(before);
    uint64_t new = zigzag_encode(x->new_chunk - (before->new_chunk + before->count));
    unsigned old_width = width_of(old), new_width = width_of(new);
    unsigned control = old_width | new_width << 3;
    uint8_t *p = out + 1;

    p = put_fixed(p, old, old_width);
    p = put_fixed(p, new, new_width);
    if (x->count > 1) {
        control |= 0x40;
        p = put_varint(p, x->count - 2);
    }
    if (x->seq != before->seq) {
        /* the difference as a signed 32-bit number, widened */
        uint32_t diff = x->seq - before->seq;

        control |= 0x80;
        p = put_varint(p, zigzag_encode((uint64_t)(int64_t)(int32_t)diff));
    }
    *out = (uint8_t)control;
    return (unsigned)(p - out);
}

unsigned leaf_run_size(const struct cow_run *before, const struct cow_run *x)
{
    uint8_t scratch[LEAF_RUN_BYTES_MAX + LEAF_PAD_BYTES];

    return leaf_run_encode(scratch, before, x);
}

void leaf_edit_push(struct leaf_edit *e, struct cow_run r)
{
    if (e->run_count > 0 && run_join(&e->runs[e->run_count - 1], &r))
        return;
    CHECK(e->run_count < ARRAY_LEN(e->runs));
    e->runs[e->run_count++] = r;
}

bool leaf_apply(struct leaf *l, const struct leaf_edit *e)
{
    uint8_t bytes[4 * LEAF_RUN_BYTES_MAX + LEAF_PAD_BYTES];
    const struct cow_run *before = &e->before;
    unsigned len = 0, tail = (unsigned)(l->used - e->to);

    for (unsigned i = 0; i < e->run_count; i++) {
        len += leaf_run_encode(bytes + len, before, &e->runs[i]);
        before = &e->runs[i];
    }
    if (e->from + len + tail > LEAF_DATA_BYTES)
        return false;
    memmove(l->data + e->from + len, l->data + e->to, tail);
    memcpy(l->data + e->from, bytes, len);
    l->used = (uint16_t)(e->from + len + tail);
    return true;
}

void leaf_find(const struct leaf *l, uint64_t old, uint32_t seq, struct leaf_place *ret)
{
    struct leaf_iter it;

    *ret = (struct leaf_place){.before = LEAF_ORIGIN, .prev = LEAF_ORIGIN};
    leaf_iter_init(&it, l);
    while (leaf_iter_next(&it)) {
        uint16_t at = (uint16_t)(it.at - l->data);

        if (run_reaches(&it.run, old, seq)) {
            ret->has_cur = true;
            ret->cur = it.run;
            ret->cur_at = at;
            ret->cur_end = (uint16_t)(it.next - l->data);
            ret->has_follow = leaf_iter_next(&it);
            ret->follow = it.run;
            ret->follow_end = (uint16_t)(it.next - l->data);
            return;
        }
        ret->before = ret->prev;
        ret->prev = it.run;
        ret->prev_at = at;
        ret->has_prev = true;
    }
    ret->cur_at = ret->cur_end = ret->follow_end = l->used;
}

void leaf_writer_init(struct leaf_writer *w, struct leaf *l)
{
    w->leaf = l;
    w->last = LEAF_ORIGIN;
    if (l)
        l->used = 0;
}

bool leaf_writer_add(struct leaf_writer *w, const struct cow_run *r)
{
    uint8_t bytes[LEAF_RUN_BYTES_MAX + LEAF_PAD_BYTES];
    uint8_t *at = w->leaf->data + w->leaf->used;
    unsigned len;

    if (w->leaf->used + sizeof bytes <= LEAF_DATA_BYTES) {
        len = leaf_run_encode(at, &w->last, r);
    } else {
        len = leaf_run_encode(bytes, &w->last, r);
        if (w->leaf->used + len > LEAF_DATA_BYTES)
            return false;
        memcpy(at, bytes, len);
    }
    w->leaf->used = (uint16_t)(w->leaf->used + len);
    w->last = *r;
    return true;
}

static unsigned push_run(struct cow_run *runs, unsigned count, const struct cow_run *r)
{
    if (count > 0 && run_join(&runs[count - 1], r))
        return count;
    runs[count] = *r;
    return count + 1;
}

unsigned leaf_unpack(const struct leaf *l, const struct leaf_edit *e, struct cow_run *runs,
                     unsigned count)
{
    struct leaf_iter it;
    bool edited = e == NULL;

    leaf_iter_init(&it, l);
    for (;;) {
        bool more = leaf_iter_next(&it);
        unsigned at = more ? (unsigned)(it.at - l->data) : l->used;

        if (!edited && at >= e->from) {
            for (unsigned i = 0; i < e->run_count; i++)
                count = push_run(runs, count, &e->runs[i]);
            edited = true;
        }
        if (!more)
            return count;
        if (!e || at < e->from || at >= e->to)
            count = push_run(runs, count, &it.run);
    }
}
