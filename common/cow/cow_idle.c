/* SPDX-License-Identifier: Apache-2.0 */
/* What a store does while nobody waits for it: write the space that the next puts will go to.
 *
 * Space that a file system has set aside but that was never written makes the first
 * write and the first flush cost two to three times what they cost later, since each
 * also has to note that the space is in use. So zeros are written there beforehand.
 * Beside a stream of puts this loses, because their flushes would carry the zeros: it happens
 * while nothing else does, one step a call, each step ended by a flush of its own.
 *
 * Whoever puts one chunk at a time leaves the disk alone between an answer and the next put.
 * Then, too, a step is written once what is left ahead is short, unless the engine is busy
 * for other stores. It needs no flush of its own: that of a later put, one in many, carries it.
 *
 *   0            next_free            blank_end          window's end      device's end
 *   |  in use    |   written, zeros   |<── next step ──>|                  |
 *
 * The window is as large as what is in use, within bounds, so that a store of a few
 * chunks costs a few; it never makes the device larger. It is filled to its end once
 * less than half of it is left.
 *
 * No chunk is given out from where a step begins while its zeros are on their way
 * (cow_room_check()), so none can be overwritten by them, and no area either: entries never
 * outrun chunks. A put waits for one step at most. Zeros that a crash leaves, whole or torn,
 * stand where no exception points. Files only: a block device notes nothing. It must not know
 * when the store is idle for long: its owner does.
 *
 * Thread: the engine's.
 */
#include "common/cow/cow_store_priv.h"

enum {
    BLANK_PART_BYTES = 64 * 1024,
    BLANK_AHEAD_MIN = 128 * 1024, /* between two puts: less than that is short */
    BLANK_WINDOW_MIN = 1024 * 1024,
    BLANK_WINDOW_MAX = 64 * 1024 * 1024,
};

/* never written to */
static _Alignas(4096) uint8_t blank_zeros[BLANK_PART_BYTES];

static uint64_t blank_begin(const struct cow_store *s)
{
    return u64_max(s->blank_end_bytes, s->next_free * s->g.chunk_bytes);
}

/* Bytes to write until the window is full; 0: none, or it is full enough. */
static uint64_t blank_wanted(struct cow_store *s)
{
    uint64_t used = s->next_free * s->g.chunk_bytes;
    uint64_t window = u64_min(u64_max(used, BLANK_WINDOW_MIN), BLANK_WINDOW_MAX);
    uint64_t begin = blank_begin(s);
    uint64_t end = u64_min(used + window, cow_room_bytes(s) / s->g.chunk_bytes * s->g.chunk_bytes);

    if (begin >= end || (!s->blank_filling && begin - used >= window / 2)) {
        s->blank_filling = false;
        return 0;
    }
    s->blank_filling = true;
    return end - begin;
}

static bool idle_may_write(const struct cow_store *s)
{
    return s->phase == COW_PHASE_OPEN && s->state == COW_READY && !s->closing && !s->read_only &&
           blk_dev_info(s->dev)->can_grow && s->table_len > 0 && !s->blank_refused;
}

static void idle_flushed(struct cow_store *s, struct cow_io *io, int result)
{
    struct err err = ERR_INIT;

    s->idling = false;
    if (result >= 0)
        return;
    /* the next flush may succeed though data was lost, so this one counts as any other */
    cow_io_err(s, io, result, "flush ahead of chunk", s->next_free, &err);
    cow_store_poison(s, &err);
}

static void blank_landed(struct cow_store *s, struct cow_io *io, int result)
{
    s->blanking = s->idling = false;
    s->blank_refused = result < 0;
    if (result >= 0)
        s->blank_end_bytes = io->req.offset_bytes + io->req.len_bytes;
    cow_put_retry_room(s);
}

static void idle_written(struct cow_store *s, struct cow_io *io, int result)
{
    blank_landed(s, io, result);
    if (result < 0 || s->state != COW_READY)
        return;
    s->idling = true;
    cow_io_flush(s, io, idle_flushed);
}

/* Write the next step of at most len_bytes. */
static void blank_step(struct cow_store *s, uint64_t len_bytes, cow_io_fn *then)
{
    uint64_t len = u64_min(len_bytes, (uint64_t)COW_BLANK_PARTS * BLANK_PART_BYTES);
    unsigned parts = 0;

    for (uint64_t at = 0; at < len; at += BLANK_PART_BYTES)
        s->blank_iov[parts++] =
            (struct iovec){blank_zeros, (size_t)u64_min(len - at, BLANK_PART_BYTES)};
    s->blanking = s->idling = true;
    cow_io_fill(s, &s->idle_io, blank_begin(s), s->blank_iov, parts, len, then);
}

bool cow_blank_hits(const struct cow_store *s)
{
    uint64_t after = cow_skip_metadata(&s->g, s->next_free + 1);

    return s->blanking && after * s->g.chunk_bytes > s->idle_io.req.offset_bytes;
}

void cow_blank_ahead(struct cow_store *s)
{
    uint64_t used = s->next_free * s->g.chunk_bytes;
    uint64_t begin = blank_begin(s);
    uint64_t end =
        u64_min(used + BLANK_WINDOW_MIN, cow_room_bytes(s) / s->g.chunk_bytes * s->g.chunk_bytes);

    if (!TAILQ_EMPTY(&s->active) || s->op || blk_engine_inflight(blk_dev_engine(s->dev)))
        return; /* somebody would wait for it */
    if (idle_may_write(s) && !s->idling && begin - used < BLANK_AHEAD_MIN && begin < end)
        blank_step(s, end - begin, blank_landed);
}

bool cow_store_idle(struct cow_store *s)
{
    if (!idle_may_write(s) || blank_wanted(s) == 0)
        return false;
    if (s->io_inflight || !TAILQ_EMPTY(&s->active) || s->op || !TAILQ_EMPTY(&s->ops))
        return true; /* not idle: once it is */
    blank_step(s, blank_wanted(s), idle_written);
    return true;
}
