/* SPDX-License-Identifier: Apache-2.0 */
/* Puts: who is first for an old_chunk, who waits for whom, who is told what.
 *
 *   old_chunk is …
 *   in the map          exists: durable already
 *   in flight           wait for that one: exists when it is durable; when it fails
 *                       the first that waits is promoted with its own payload
 *   neither             first: gets a new chunk (or waits for room) and is written
 *
 * "In flight" is a small hash table over the undecided first comers. New chunks
 * are given out in the order of asking and enter the table in that order. A put is
 * one allocation; nothing is allocated a chunk. Callbacks run from settle only.
 *
 * It must not know how data reaches the device or how entries become durable.
 * Thread: the engine's.
 */
#include "common/cow/cow_store_priv.h"

#include <stdlib.h>

/* -- first comers in flight ------------------------------------------------------- */

enum { FLIGHT_BUCKETS_MIN = 256 };

static size_t flight_bucket(const struct cow_store *s, uint64_t old_chunk)
{
    return (size_t)((old_chunk * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (s->bucket_count - 1);
}

static struct cow_slot *flight_find(const struct cow_store *s, uint64_t old_chunk)
{
    struct cow_slot *slot = s->buckets[flight_bucket(s, old_chunk)];

    while (slot && slot->old_chunk != old_chunk)
        slot = slot->hash_next;
    return slot;
}

/* Out of memory only makes the chains longer. */
static void flight_enlarge(struct cow_store *s)
{
    size_t old_count = s->bucket_count;
    struct cow_slot **old = s->buckets;
    struct cow_slot **buckets = calloc(old_count * 4, sizeof(struct cow_slot *));

    if (!buckets)
        return;
    s->buckets = buckets;
    s->bucket_count = old_count * 4;
    for (size_t i = 0; i < old_count; i++) {
        struct cow_slot *slot = old[i];

        while (slot) {
            struct cow_slot *next = slot->hash_next;
            size_t b = flight_bucket(s, slot->old_chunk);

            slot->hash_next = buckets[b];
            buckets[b] = slot;
            slot = next;
        }
    }
    free(old);
}

static void flight_insert(struct cow_store *s, struct cow_slot *slot)
{
    size_t b;

    if (s->flight_count >= s->bucket_count)
        flight_enlarge(s);
    b = flight_bucket(s, slot->old_chunk);
    slot->hash_next = s->buckets[b];
    s->buckets[b] = slot;
    s->flight_count++;
}

static void flight_remove(struct cow_store *s, struct cow_slot *slot)
{
    struct cow_slot **at = &s->buckets[flight_bucket(s, slot->old_chunk)];

    while (*at != slot)
        at = &(*at)->hash_next;
    *at = slot->hash_next;
    s->flight_count--;
}

static bool put_buffers(struct cow_store *s)
{
    if (!s->buckets) {
        s->buckets = calloc(FLIGHT_BUCKETS_MIN, sizeof(struct cow_slot *));
        s->bucket_count = FLIGHT_BUCKETS_MIN;
    }
    return s->buckets && cow_commit_buffers(s) == 0;
}

/* -- decisions --------------------------------------------------------------------- */

static void put_decided(struct cow_store *s, struct cow_put_state *ps)
{
    TAILQ_REMOVE(&s->active, ps->put, link);
    TAILQ_INSERT_TAIL(&s->ready, ps->put, link);
}

static void slot_decide(struct cow_store *s, struct cow_slot *slot, int outcome,
                        const struct err *err)
{
    struct cow_put_state *ps = slot->owner;

    ps->put->outcomes[slot->index] = (int16_t)outcome;
    if (outcome == COW_ADDED) {
        s->count.chunks_added++;
    } else if (outcome == COW_EXISTS) {
        s->count.chunks_existed++;
    } else {
        s->count.chunks_failed++;
        if (ps->err.code == 0) {
            ps->err = *err;
            ps->err.code = outcome;
        }
    }
    if (--ps->remaining == 0)
        put_decided(s, ps);
}

void cow_slot_added(struct cow_store *s, struct cow_slot *slot)
{
    struct cow_slot *waiter;

    flight_remove(s, slot);
    slot_decide(s, slot, COW_ADDED, NULL);
    while ((waiter = TAILQ_FIRST(&slot->waiters))) {
        TAILQ_REMOVE(&slot->waiters, waiter, link);
        slot_decide(s, waiter, COW_EXISTS, NULL);
    }
}

/* Give a first comer its chunk and send its data off, or let it wait for room.
 * Returns 0 or a negative SNAP_E…; it is then in no list. */
static int slot_start(struct cow_store *s, struct cow_slot *slot, struct err *reterr)
{
    int code = TAILQ_EMPTY(&s->room) ? cow_room_check(s, reterr) : 1;

    if (code < 0)
        return code;
    if (code > 0) {
        TAILQ_INSERT_TAIL(&s->room, slot, link);
        return 0;
    }
    if (!cow_write_ready(s))
        return err_set(reterr, SNAP_ENOMEM, "no memory for a write");
    slot->new_chunk = s->next_free;
    s->next_free = cow_skip_metadata(&s->g, s->next_free + 1);
    if (cow_write_append(s, slot))
        return err_set(reterr, SNAP_ENOMEM, "no memory for a write");
    s->outstanding++;
    TAILQ_INSERT_TAIL(&s->fifo, slot, link);
    cow_room_ahead(s);
    return 0;
}

/* The slot stands in no list. Who waits for it is promoted, or fails too when the
 * store itself has stopped or is stopping. */
void cow_slot_fail(struct cow_store *s, struct cow_slot *slot, int code, const struct err *err)
{
    struct err own;

    for (;;) {
        struct cow_slot *heir = TAILQ_FIRST(&slot->waiters);

        flight_remove(s, slot);
        if (heir) {
            TAILQ_REMOVE(&slot->waiters, heir, link);
            TAILQ_CONCAT(&heir->waiters, &slot->waiters, link);
            flight_insert(s, heir);
        }
        slot_decide(s, slot, code, err);
        if (!heir)
            return;
        slot = heir;
        if (s->state != COW_READY || code == SNAP_ESHUTDOWN)
            continue;
        own = ERR_INIT;
        code = slot_start(s, slot, &own);
        if (code == 0)
            return;
        err = &own;
    }
}

void cow_put_drop_list(struct cow_store *s, struct cow_slot_list *list, int code,
                       const struct err *err)
{
    struct cow_slot_list drop = TAILQ_HEAD_INITIALIZER(drop);
    struct cow_slot *slot;

    TAILQ_CONCAT(&drop, list, link);
    while ((slot = TAILQ_FIRST(&drop))) {
        TAILQ_REMOVE(&drop, slot, link);
        if (list != &s->room)
            s->outstanding--;
        cow_slot_fail(s, slot, code, err);
    }
}

void cow_put_retry_room(struct cow_store *s)
{
    struct cow_slot_list again = TAILQ_HEAD_INITIALIZER(again);
    struct cow_slot *slot;

    TAILQ_CONCAT(&again, &s->room, link);
    while ((slot = TAILQ_FIRST(&again))) {
        struct err err = ERR_INIT;
        int code;

        TAILQ_REMOVE(&again, slot, link);
        code = slot_start(s, slot, &err);
        if (code)
            cow_slot_fail(s, slot, code, &err);
        if (!TAILQ_EMPTY(&s->room)) /* it waits again, the others behind it */
            break;
    }
    TAILQ_CONCAT(&s->room, &again, link);
}

/* -- the way in and out --------------------------------------------------------------- */

static void slot_place(struct cow_store *s, struct cow_slot *slot)
{
    struct err err = ERR_INIT;
    struct cow_slot *first;
    uint64_t new_chunk;
    int code;

    if (slot->old_chunk >= LIMIT_VOLUME_BYTES / s->g.chunk_bytes) {
        code = err_set(&err, SNAP_EINVAL, "old_chunk %llu is past the largest volume's end",
                       (unsigned long long)slot->old_chunk);
        slot_decide(s, slot, code, &err);
        return;
    }
    if (cow_map_get(s->map, slot->old_chunk, s->seq, &new_chunk)) {
        slot_decide(s, slot, COW_EXISTS, NULL);
        return;
    }
    first = flight_find(s, slot->old_chunk);
    if (first) {
        TAILQ_INSERT_TAIL(&first->waiters, slot, link);
        return;
    }
    flight_insert(s, slot);
    code = slot_start(s, slot, &err);
    if (code)
        cow_slot_fail(s, slot, code, &err);
}

/* Refused whole, before anything of it is in the store. */
static void put_refuse(struct cow_store *s, struct cow_put *put, struct cow_put_state *ps, int code,
                       const struct err *err)
{
    for (uint32_t i = 0; i < put->count; i++)
        put->outcomes[i] = (int16_t)code;
    s->count.chunks_failed += put->count;
    if (ps)
        ps->err = *err;
    put->store_data[0] = ps;
    TAILQ_INSERT_TAIL(&s->ready, put, link);
}

void cow_store_put(struct cow_store *s, struct cow_put *put)
{
    struct cow_put_state *ps = malloc(sizeof *ps + put->count * sizeof ps->slots[0]);
    struct err err = ERR_INIT;
    int code = ps ? cow_store_refusal(s, &err) : SNAP_ENOMEM;

    if (!code && !put_buffers(s))
        code = err_set(&err, SNAP_ENOMEM, "no memory for puts");
    if (code) {
        put_refuse(s, put, ps, code, &err);
        return;
    }
    ps->put = put;
    ps->serial = ++s->serial;
    ps->remaining = put->count + 1; /* one for this loop */
    ps->at_index = 0;
    ps->at_iov = 0;
    ps->at_offset = 0;
    ps->err.code = 0;
    put->store_data[0] = ps;
    TAILQ_INSERT_TAIL(&s->active, put, link);
    for (uint32_t i = 0; i < put->count; i++) {
        struct cow_slot *slot = &ps->slots[i];

        slot->old_chunk = put->old_chunks[i];
        slot->owner = ps;
        TAILQ_INIT(&slot->waiters);
        slot->index = i;
        slot->writes_pending = 0;
        slot->code = 0;
        slot->written = false;
        put->outcomes[i] = COW_PENDING;
        slot_place(s, slot);
    }
    if (--ps->remaining == 0)
        put_decided(s, ps);
}

void cow_put_run_ready(struct cow_store *s)
{
    struct cow_put *put;

    /* who hears of an invalidation may change what it kept: not before it is durable; the one
     * that is told may begin it */
    while (!s->invalidating && (put = TAILQ_FIRST(&s->ready))) {
        struct cow_put_state *ps = put->store_data[0];

        TAILQ_REMOVE(&s->ready, put, link);
        put->store_data[0] = NULL;
        if (ps) {
            put->done(put, ps->err.code, ps->err.code ? &ps->err : NULL);
            free(ps);
        } else {
            const struct err err = {.code = SNAP_ENOMEM, .text = "no memory for a put"};

            put->done(put, SNAP_ENOMEM, &err);
        }
    }
}
