/* SPDX-License-Identifier: Apache-2.0 */
/* Room: is there a chunk to give out, and if not, can there be?
 *
 * A growable device grows ahead of need, so that puts do not wait for it, in large
 * steps, since every growth makes the next flush a journal commit. The first is small,
 * for there may be a thousand stores that take a few chunks each, and each is twice the
 * one before while they succeed: what is in hand goes with what is used. One that is refused is
 * tried again smaller, down to the single chunk that is needed; when even that is refused, those
 * who wait fail and the store stays ready.
 *
 *   room left < half of a step (or of all, if that is less)
 *                          ──> grow by a step ──ok──> step × 2
 *                                    │ refused
 *                        nobody waits? leave it until somebody does
 *                        else: step / 8 … the least ──refused──> who waits: SNAP_ENOSPC
 *
 * Thread: the engine's.
 */
#include "common/cow/cow_store_priv.h"

#include "common/base/size.h"

uint64_t cow_limit_floor(const struct cow_store *s, uint64_t limit_bytes)
{
    return limit_bytes - limit_bytes % s->g.chunk_bytes;
}

static bool room_can_grow(const struct cow_store *s)
{
    return s->limit_bytes && blk_dev_info(s->dev)->can_grow && !s->closing;
}

uint64_t cow_room_bytes(const struct cow_store *s)
{
    const struct blk_info *info = blk_dev_info(s->dev);

    if (info->can_grow && s->limit_bytes)
        return u64_min(info->size_bytes, cow_limit_floor(s, s->limit_bytes));
    return info->size_bytes;
}

/* The size the device must have for the next chunk: it, and behind the entry that fills
 * an area the next area too. */
static uint64_t room_needed_bytes(const struct cow_store *s)
{
    uint64_t entry = s->table_len + s->outstanding + 1;
    uint64_t chunk = s->next_free;

    if (entry % s->g.area_exceptions == 0)
        chunk = u64_max(chunk, cow_area_chunk(&s->g, entry / s->g.area_exceptions));
    return (chunk + 1) * s->g.chunk_bytes;
}

static void room_grown(struct cow_store *s, struct cow_io *io, int result);

/* Ask for a step more, never past the limit and never less than needed_bytes. */
static void room_grow(struct cow_store *s, uint64_t needed_bytes)
{
    uint64_t size = blk_dev_info(s->dev)->size_bytes;
    uint64_t target = u64_max(size + s->grow_step_bytes, needed_bytes);

    target = u64_align_up(target, s->g.chunk_bytes);
    target = u64_min(target, cow_limit_floor(s, s->limit_bytes));
    s->growing = true;
    s->grow_from_bytes = size;
    s->grow_is_least = target <= u64_max(needed_bytes, size + s->g.chunk_bytes);
    cow_io_grow(s, &s->grow_io, target, room_grown);
}

static int room_none(const struct cow_store *s, struct err *reterr)
{
    char room[16];
    /* without the device's path: writers are told, who may not know it */
    return err_set(reterr, SNAP_ENOSPC, "the COW device is full: one chunk more does not fit in %s",
                   size_format(cow_room_bytes(s), room, sizeof room));
}

int cow_room_check(struct cow_store *s, struct err *reterr)
{
    uint64_t needed = room_needed_bytes(s);

    if (cow_blank_hits(s))
        return 1; /* the zeros might overwrite it: until they have landed */
    if (needed <= cow_room_bytes(s))
        return 0;
    if (!room_can_grow(s) || needed > cow_limit_floor(s, s->limit_bytes))
        return room_none(s, reterr);
    if (!s->growing)
        room_grow(s, needed);
    return 1;
}

void cow_room_ahead(struct cow_store *s)
{
    uint64_t room = cow_room_bytes(s);
    uint64_t used = s->next_free * s->g.chunk_bytes;

    if (s->growing || s->grow_quiet || !room_can_grow(s) ||
        blk_dev_info(s->dev)->size_bytes >= cow_limit_floor(s, s->limit_bytes))
        return;
    if (used >= room || room - used < u64_min(s->grow_step_bytes, room) / 2)
        room_grow(s, 0);
}

static void room_refused(struct cow_store *s, struct cow_io *io, int result)
{
    struct err err = ERR_INIT;
    bool can = s->state == COW_READY && room_can_grow(s);

    s->grow_step_bytes = u64_max(s->grow_step_bytes / 8, s->g.chunk_bytes);
    s->grow_quiet = true;
    if (TAILQ_EMPTY(&s->room))
        return;
    if (can && !s->grow_is_least && room_needed_bytes(s) <= cow_limit_floor(s, s->limit_bytes)) {
        room_grow(s, room_needed_bytes(s));
        return;
    }
    cow_io_err(s, io, result, "make room for chunk", s->next_free, &err);
    cow_put_drop_list(s, &s->room, result, &err);
}

static void room_grown(struct cow_store *s, struct cow_io *io, int result)
{
    s->growing = false;
    if (result == 0 && blk_dev_info(s->dev)->size_bytes <= s->grow_from_bytes)
        result = SNAP_ENOSPC; /* said yes and gave nothing: not to be asked for ever */
    if (result < 0) {
        room_refused(s, io, result);
        return;
    }
    s->grow_quiet = false;
    s->grow_step_bytes = u64_min(s->grow_step_bytes * 2, s->grow_cap_bytes);
    cow_put_retry_room(s);
}

int cow_store_set_limit(struct cow_store *s, uint64_t limit_bytes, struct err *reterr)
{
    uint64_t used = s->next_free * s->g.chunk_bytes;
    const struct blk_info *info = blk_dev_info(s->dev);

    if (!info->can_grow)
        return err_set(reterr, SNAP_ENOTSUP, "%s has a fixed size", info->name);
    if (limit_bytes && cow_limit_floor(s, limit_bytes) < used)
        return err_set(reterr, SNAP_EINVAL, "%s: a limit of %llu bytes is below the %llu in use",
                       info->name, (unsigned long long)limit_bytes, (unsigned long long)used);
    s->limit_bytes = limit_bytes;
    s->grow_quiet = false;
    s->grow_step_bytes = s->grow_base_bytes;
    return 0;
}
