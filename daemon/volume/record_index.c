/* SPDX-License-Identifier: Apache-2.0 */
/* Two open-addressed tables of seqs, one probed by the hash of the uuid, one by the name's.
 *
 *   hash ──> slot: EMPTY  nobody further on
 *                  GONE   taken out: go on
 *                  seq ──> binary search in the record ──> is it the one? else go on
 *
 * A slot says where to look and the record what is true: a seq that the record has no more is
 * passed over. Tables are at most three quarters full, those taken out included.
 */
#include "daemon/volume/record_index.h"

#include <stdlib.h>
#include <string.h>

enum { INDEX_FROM = 16 }; /* snapshots; fewer are walked */

static const uint32_t SLOT_EMPTY = 0, SLOT_GONE = UINT32_MAX; /* no snapshot's seq */

struct record_index {
    uint32_t count, used; /* used: with what is GONE, of the fuller table */
    uint32_t room;        /* of each table; a power of two */
    uint32_t slots[];     /* by uuid, then by name */
};

static size_t index_bytes(uint32_t room)
{
    return sizeof(struct record_index) + 2 * (size_t)room * sizeof(uint32_t);
}

static uint32_t *index_by_id(struct record_index *x)
{
    return x->slots;
}

static uint32_t *index_by_name(struct record_index *x)
{
    return x->slots + x->room;
}

/* FNV-1a. */
static uint64_t hash_name(const char *name)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (; *name != '\0'; name++)
        h = (h ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    return h ^ h >> 32;
}

static void table_put(uint32_t *table, uint32_t room, uint64_t hash, uint32_t seq)
{
    uint32_t at = (uint32_t)hash & (room - 1);
    while (table[at] != SLOT_EMPTY)
        at = (at + 1) & (room - 1);
    table[at] = seq;
}

static void table_take_out(uint32_t *table, uint32_t room, uint64_t hash, uint32_t seq)
{
    for (uint32_t at = (uint32_t)hash & (room - 1); table[at] != SLOT_EMPTY;
         at = (at + 1) & (room - 1))
        if (table[at] == seq) {
            table[at] = SLOT_GONE;
            return;
        }
}

static void index_put(struct record_index *x, const struct record_snapshot *s)
{
    table_put(index_by_id(x), x->room, uuid_hash(&s->id), s->seq);
    table_put(index_by_name(x), x->room, hash_name(s->name), s->seq);
    x->count++;
    x->used++;
}

static struct record_index *index_build(const struct volume_record *r)
{
    uint32_t room = 4 * INDEX_FROM;
    while (room / 2 < r->snapshot_count)
        room *= 2;
    struct record_index *x = calloc(1, index_bytes(room));
    if (x == NULL)
        return NULL;
    x->room = room;
    for (uint32_t i = 0; i < r->snapshot_count; i++)
        index_put(x, &r->snapshots[i]);
    return x;
}

/* The record's index as it is now; NULL: walk. */
static struct record_index *index_of(struct volume_record *r)
{
    if (r->index != NULL && r->index->count == r->snapshot_count)
        return r->index;
    record_index_free(r->index);
    r->index = r->snapshot_count >= INDEX_FROM ? index_build(r) : NULL;
    return r->index;
}

void record_index_free(struct record_index *x)
{
    free(x);
}

struct record_index *record_index_copy(const struct record_index *src)
{
    struct record_index *x = src != NULL ? malloc(index_bytes(src->room)) : NULL;
    if (x != NULL)
        memcpy(x, src, index_bytes(src->room));
    return x;
}

void record_index_add(struct volume_record *r, const struct record_snapshot *s)
{
    if (r->index == NULL)
        return;
    if (r->index->used >= r->index->room / 4 * 3) { /* built anew when it is next asked for */
        record_index_free(r->index);
        r->index = NULL;
    } else {
        index_put(r->index, s);
    }
}

void record_index_remove(struct volume_record *r, const struct record_snapshot *s)
{
    struct record_index *x = r->index;
    if (x == NULL)
        return;
    table_take_out(index_by_id(x), x->room, uuid_hash(&s->id), s->seq);
    table_take_out(index_by_name(x), x->room, hash_name(s->name), s->seq);
    x->count--;
}

struct record_snapshot *record_index_find(struct volume_record *r, const struct uuid *id)
{
    struct record_index *x = index_of(r);
    if (x == NULL) {
        for (uint32_t i = 0; i < r->snapshot_count; i++)
            if (uuid_equal(&r->snapshots[i].id, id))
                return &r->snapshots[i];
        return NULL;
    }
    const uint32_t *table = index_by_id(x), mask = x->room - 1;
    for (uint32_t at = (uint32_t)uuid_hash(id) & mask; table[at] != SLOT_EMPTY;
         at = (at + 1) & mask) {
        struct record_snapshot *s = volume_record_find_seq(r, table[at]);
        if (s != NULL && uuid_equal(&s->id, id))
            return s;
    }
    return NULL;
}

struct record_snapshot *record_index_find_name(struct volume_record *r, const char *name,
                                               bool (*takes)(const struct record_snapshot *s))
{
    struct record_index *x = index_of(r);
    if (x == NULL) {
        for (uint32_t i = 0; i < r->snapshot_count; i++)
            if (strcmp(r->snapshots[i].name, name) == 0 && takes(&r->snapshots[i]))
                return &r->snapshots[i];
        return NULL;
    }
    const uint32_t *table = index_by_name(x), mask = x->room - 1;
    for (uint32_t at = (uint32_t)hash_name(name) & mask; table[at] != SLOT_EMPTY;
         at = (at + 1) & mask) {
        struct record_snapshot *s = volume_record_find_seq(r, table[at]);
        if (s != NULL && strcmp(s->name, name) == 0 && takes(s))
            return s;
    }
    return NULL;
}
