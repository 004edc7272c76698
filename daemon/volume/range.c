/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges under way: one list in the order of coming.
 *
 *   came first ──> [3-5 excl, held] [9 excl, held] [4-9 shared, waits] [20 excl, held]
 *                                                   │ an earlier one that overlaps: 3-5, 9
 *
 * One goes on when no earlier one that stands in the way overlaps it, so nobody is passed by
 * a later one and nobody starves. Giving back looks only at those that came later.
 *
 * Most ranges are of a chunk or a few, and overlap with nobody: counts by the chunk's remainder
 * say so without a look at the list. Else it is scanned, which costs less than the upkeep of a
 * tree would; while nobody waits, giving back scans nothing.
 *
 * It must not know what a range is of. Thread: the shard's.
 */
#include "daemon/volume/range.h"

#include "common/base/check.h"

#include <stddef.h>
#include <string.h>

void range_lock_init(struct range_lock *l)
{
    TAILQ_INIT(&l->ranges);
    l->count = l->waiting = l->wide = 0;
    memset(l->slots, 0, sizeof l->slots);
}

void range_lock_done(struct range_lock *l)
{
    CHECK(l->count == 0);
}

static bool range_conflicts(const struct range *a, const struct range *b)
{
    return a->first <= b->last && b->first <= a->last && !(a->shared && b->shared);
}

static bool range_is_wide(const struct range *r)
{
    return r->last - r->first >= RANGE_NARROW;
}

/* Enter it in the counts, or strike it out: by is 1 or -1. */
static void range_count(struct range_lock *l, const struct range *r, int by)
{
    l->count += (unsigned)by;
    if (range_is_wide(r)) {
        l->wide += (unsigned)by;
        return;
    }
    for (uint64_t c = r->first; c - r->first <= r->last - r->first; c++)
        l->slots[c % RANGE_SLOTS] += (unsigned)by;
}

/* Nobody in the list overlaps with it, nor is it in the list: for sure, or it is not known. */
static bool range_is_apart(const struct range_lock *l, const struct range *r)
{
    if (l->count == 0)
        return true;
    if (l->wide > 0 || range_is_wide(r))
        return false;
    for (uint64_t c = r->first; c - r->first <= r->last - r->first; c++)
        if (l->slots[c % RANGE_SLOTS] > 0)
            return false;
    return true;
}

/* Does one that came before r stand in its way? */
static bool range_is_blocked(const struct range_lock *l, const struct range *r)
{
    const struct range *e;
    TAILQ_FOREACH (e, &l->ranges, link) {
        if (e == r)
            return false;
        if (range_conflicts(e, r))
            return true;
    }
    return false;
}

void range_take(struct range_lock *l, struct range *r)
{
    CHECK(r->first <= r->last);
    bool apart = range_is_apart(l, r);
    TAILQ_INSERT_TAIL(&l->ranges, r, link);
    range_count(l, r, 1);
    r->held = apart || !range_is_blocked(l, r);
    if (r->held)
        r->granted(r);
    else
        l->waiting++;
}

/* The first that waits, came after the one that went and is free to go on now. */
static struct range *range_next_free(const struct range_lock *l, const struct range *gone)
{
    struct range *e;
    TAILQ_FOREACH (e, &l->ranges, link)
        if (!e->held && range_conflicts(e, gone) && !range_is_blocked(l, e))
            return e;
    return NULL;
}

void range_give(struct range_lock *l, struct range *r)
{
    const struct range gone = *r;
    struct range *e;
    CHECK(l->count > 0);
    TAILQ_REMOVE(&l->ranges, r, link);
    range_count(l, r, -1);
    if (!r->held)
        l->waiting--;
    r->held = false;
    /* granted may give others back or take more: each time from the begin */
    while (l->waiting > 0 && (e = range_next_free(l, &gone)) != NULL) {
        l->waiting--;
        e->held = true;
        e->granted(e);
    }
}
