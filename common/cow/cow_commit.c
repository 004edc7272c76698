/* SPDX-License-Identifier: Apache-2.0 */
/* Commits: from written data to durable exceptions.
 *
 *   fifo (given out, in order)   group                 acking            told
 *   w w w . w   ──begin──>      w w w   ──area──>     entries on disk  ──flush──>
 *
 *   IDLE ─> AHEAD (only if the group passes the current area's end) ─> FLUSH ─> AREA ─> IDLE
 *
 * One flush serves two masters: it makes the group's data durable, and the area
 * that the group before it was entered in. So a steady stream costs one flush a
 * commit, a lone put two.
 *
 * The order that must hold, and why it does:
 *  - data before its entry: the flush is submitted after the data writes completed,
 *    and the area is written after the flush completed;
 *  - entry before the answer: told only by the next flush's completion;
 *  - the next area before the current one is full: the areas that a group goes on
 *    into, and the empty one behind a full one, are written before that same flush,
 *    whole, whatever stood there; no reader reaches them before the current area's
 *    last entry is written, which is after the flush.
 *
 * The group is the run of written chunks at the fifo's head: entries stand in the order
 * in which chunks were given out. It begins when the writes that were in flight with the
 * first one are done, unless they are many.
 * Only the blocks of the current area that change are written, from a buffer of the
 * commit's own that is not touched while the write is in flight, and nothing but tables
 * is ever in it.
 *
 * Thread: the engine's.
 */
#include "common/cow/cow_store_priv.h"

#include <stdlib.h>
#include <string.h>

int cow_commit_buffers(struct cow_store *s)
{
    uint32_t ahead = COW_AHEAD_BYTES / s->g.chunk_bytes;
    uint8_t *areas;
    struct cow_io *io;

    if (s->ahead_max)
        return 0;
    ahead = ahead ? ahead : 1;
    areas = cow_store_alloc(s, (size_t)(ahead + 1) * s->g.chunk_bytes);
    io = calloc(ahead, sizeof *io);
    if (!areas || !io) {
        free(areas);
        free(io);
        return SNAP_ENOMEM;
    }
    memcpy(areas, s->areas, s->g.chunk_bytes);
    free(s->areas);
    s->areas = areas;
    s->ahead_io = io;
    s->ahead_max = ahead;
    return 0;
}

void cow_area_write_range(struct cow_store *s, uint32_t first, uint32_t last, struct cow_io *io,
                          cow_io_fn *then)
{
    uint32_t block = s->align_bytes > COW_AREA_BLOCK ? s->align_bytes : COW_AREA_BLOCK;
    uint64_t from, to;

    block = block < s->g.chunk_bytes ? block : s->g.chunk_bytes;
    from = (uint64_t)first * COW_EXCEPTION_BYTES / block * block;
    to = u64_align_up((uint64_t)(last + 1) * COW_EXCEPTION_BYTES, block);
    s->count.area_writes++;
    s->count.area_bytes += to - from;
    cow_io_write(s, io, cow_area_chunk(&s->g, s->image_area) * s->g.chunk_bytes + from,
                 s->areas + from, to - from, then);
}

static void entry_put(const struct cow_slot *slot, uint8_t *area, uint32_t index)
{
    const struct cow_exception x = {slot->old_chunk, slot->new_chunk};

    cow_exception_encode(&x, area, index);
}

/* Poison, and go nowhere. */
static void commit_failed(struct cow_store *s, const struct err *err)
{
    s->step = COW_STEP_IDLE;
    cow_store_poison(s, err);
}

/* -- told ------------------------------------------------------------------------- */

/* The flush is done that covers the area with the entries of acking. */
static void commit_ack(struct cow_store *s)
{
    struct cow_slot *slot;
    struct err err = ERR_INIT;

    if (TAILQ_EMPTY(&s->acking))
        return;
    s->count.commits++;
    while ((slot = TAILQ_FIRST(&s->acking))) {
        const struct cow_entry x = {slot->old_chunk, slot->new_chunk, s->seq};

        if (cow_map_insert(s->map, x, &err)) {
            /* durable, but not to be found: only opening again puts that right */
            err_prefix(&err, "enter chunk %llu", (unsigned long long)x.old_chunk);
            cow_store_poison(s, &err);
            return;
        }
        TAILQ_REMOVE(&s->acking, slot, link);
        s->outstanding--;
        s->table_len++;
        cow_slot_added(s, slot);
    }
}

/* -- the current area --------------------------------------------------------------- */

static void commit_area_written(struct cow_store *s, struct cow_io *io, int result)
{
    struct err err = ERR_INIT;

    s->step = COW_STEP_IDLE;
    if (result < 0) {
        cow_io_err(s, io, result, "commit: write area", s->image_area, &err);
        commit_failed(s, &err);
        return;
    }
    if (s->state != COW_READY)
        return;
    TAILQ_CONCAT(&s->acking, &s->group, link);
    s->staged_len += s->group_len;
    s->group_len = 0;
    if (s->ahead_areas) { /* the last area the group reached is the current one now */
        memcpy(s->areas, s->areas + s->ahead_areas * s->g.chunk_bytes, s->g.chunk_bytes);
        s->image_area += s->ahead_areas;
    }
}

static void commit_write_area(struct cow_store *s)
{
    uint32_t first = (uint32_t)(s->staged_len % s->g.area_exceptions);
    uint32_t index = first;
    const struct cow_slot *slot;

    TAILQ_FOREACH (slot, &s->group, link) {
        if (index == s->g.area_exceptions)
            break;
        entry_put(slot, s->areas, index++);
    }
    s->step = COW_STEP_AREA;
    cow_area_write_range(s, first, index - 1, &s->commit_io, commit_area_written);
}

static void commit_flushed(struct cow_store *s, struct cow_io *io, int result)
{
    bool lone = s->outstanding <= COW_LONE_MAX;
    struct err err = ERR_INIT;

    s->step = COW_STEP_IDLE;
    if (result < 0) {
        cow_io_err(s, io, result, "commit: flush for area", s->image_area, &err);
        commit_failed(s, &err);
        return;
    }
    if (s->state == COW_READY)
        commit_ack(s);
    if (s->state == COW_READY && s->group_len)
        commit_write_area(s);
    else if (s->state == COW_READY && lone && s->outstanding == 0)
        cow_blank_ahead(s);
}

static void commit_flush(struct cow_store *s)
{
    s->step = COW_STEP_FLUSH;
    cow_io_flush(s, &s->commit_io, commit_flushed);
}

/* -- the areas behind it ------------------------------------------------------------- */

static void commit_ahead_written(struct cow_store *s, struct cow_io *io, int result)
{
    if (result < 0 && s->ahead_result == 0) {
        s->ahead_result = result;
        cow_io_err(s, io, result, "commit: write area ahead of area", s->image_area, &s->ahead_err);
    }
    if (--s->ahead_pending)
        return;
    if (s->ahead_result)
        commit_failed(s, &s->ahead_err);
    else if (s->state == COW_READY)
        commit_flush(s);
    else
        s->step = COW_STEP_IDLE;
}

/* Write the areas from image_area + 1 on that the group reaches; the last may be empty. */
static void commit_write_ahead(struct cow_store *s, uint64_t room)
{
    const struct cow_slot *slot;
    uint64_t at = 0;

    memset(s->areas + s->g.chunk_bytes, 0, s->ahead_areas * s->g.chunk_bytes);
    TAILQ_FOREACH (slot, &s->group, link) {
        if (at >= room) {
            uint64_t beyond = at - room;

            entry_put(slot, s->areas + (1 + beyond / s->g.area_exceptions) * s->g.chunk_bytes,
                      (uint32_t)(beyond % s->g.area_exceptions));
        }
        at++;
    }
    s->step = COW_STEP_AHEAD;
    s->ahead_result = 0;
    s->ahead_pending = (unsigned)s->ahead_areas;
    for (uint64_t i = 0; i < s->ahead_areas; i++) {
        uint64_t chunk = cow_area_chunk(&s->g, s->image_area + 1 + i);

        s->count.area_writes++;
        s->count.area_bytes += s->g.chunk_bytes;
        cow_io_write(s, &s->ahead_io[i], chunk * s->g.chunk_bytes,
                     s->areas + (1 + i) * s->g.chunk_bytes, s->g.chunk_bytes, commit_ahead_written);
    }
}

/* -- begin ---------------------------------------------------------------------------- */

/* Writes already in flight are waited for until they are many: they end soon, a flush would wait
 * for them anyway, and one commit for all costs what one for the first would. Not so when only few
 * chunks are under way and others wait to be told. Later ones are not waited for, and a stream
 * that keeps much in flight had better go on while flushes run. */
static bool commit_waits(struct cow_store *s)
{
    const struct cow_write *oldest = TAILQ_FIRST(&s->busy_writes);

    if (!oldest || s->busy_bytes > COW_GROUP_BYTES ||
        (!TAILQ_EMPTY(&s->acking) && s->outstanding <= COW_LONE_MAX))
        return false;
    if (!s->wait_serial)
        s->wait_serial = u64_min(s->write_serial, oldest->serial + COW_GROUP_WRITES - 1);
    return oldest->serial <= s->wait_serial;
}

/* The fifo's written head. */
static void commit_take_group(struct cow_store *s, uint64_t most)
{
    struct cow_slot *slot;

    while (s->group_len < most && (slot = TAILQ_FIRST(&s->fifo)) && slot->written) {
        TAILQ_REMOVE(&s->fifo, slot, link);
        TAILQ_INSERT_TAIL(&s->group, slot, link);
        s->group_len++;
    }
}

void cow_commit_advance(struct cow_store *s)
{
    uint64_t room;

    if (s->step != COW_STEP_IDLE || s->state != COW_READY ||
        (TAILQ_EMPTY(&s->acking) && (TAILQ_EMPTY(&s->fifo) || !TAILQ_FIRST(&s->fifo)->written)) ||
        commit_waits(s))
        return;
    s->wait_serial = 0;
    if (s->image_area != s->staged_len / s->g.area_exceptions) {
        /* a merge looked at the area before the current, empty one and then stopped */
        s->image_area = s->staged_len / s->g.area_exceptions;
        memset(s->areas, 0, s->g.chunk_bytes);
    }
    room = s->g.area_exceptions - s->staged_len % s->g.area_exceptions;
    commit_take_group(s, room + (uint64_t)s->ahead_max * s->g.area_exceptions - 1);
    s->ahead_areas = s->group_len < room ? 0 : (s->group_len - room) / s->g.area_exceptions + 1;
    if (s->ahead_areas)
        commit_write_ahead(s, room);
    else
        commit_flush(s);
}
