/* SPDX-License-Identifier: Apache-2.0 */
/* What state a node is in, and why, in words.
 *
 *   what its own device says   poisoned < damaged < invalid
 *   … and that of each node that it reads through: the worst of all, the nearest of those
 *   the origin away            damaged, at least
 *   else sound: in doubt by the guard (unverified), being merged, or ok
 *
 * What befalls a store befalls all that read through it. Nodes whose own store cannot be read
 * are on v->unsound, mostly empty: a state costs by them, not by the length of the chain.
 *
 * It must not know how a node got there, nor do anything about it. Thread: the shard's.
 */
#include "daemon/volume/volume.h"

#include "common/base/size.h"
#include "daemon/volume/guard.h"
#include "daemon/volume/origin.h"

#include <stdio.h>

/* -- nodes that cannot be read ------------------------------------------------------- */

/* One that the record does not list is nobody's yet, or nobody's any more. */
void snapshot_note(struct snapshot *s)
{
    bool unsound = snapshot_own_state(s) != SNAPSHOT_OK;
    if (unsound == s->unsound || (unsound && snapshot_record(s) == NULL))
        return;
    s->unsound = unsound;
    if (unsound)
        LIST_INSERT_HEAD(&s->volume->unsound, s, unsound_link);
    else
        LIST_REMOVE(s, unsound_link);
}

void snapshot_set_lost(struct snapshot *s)
{
    s->lost = true;
    snapshot_note(s);
}

bool snapshot_is_invalid(const struct snapshot *s)
{
    return s->lost || (s->store != NULL && cow_store_state(s->store) == COW_INVALID &&
                       !cow_store_invalidating(s->store));
}

/* -- a node's own state ---------------------------------------------------------------- */

enum snapshot_state snapshot_own_state(const struct snapshot *s)
{
    if (s->lost)
        return SNAPSHOT_INVALID;
    if (!snapshot_is_open(s)) /* one that is closed soon is opened again, or gone */
        return snapshot_is_moving(s) ? SNAPSHOT_POISONED : SNAPSHOT_DAMAGED;
    switch (cow_store_state(s->store)) {
    case COW_INVALID: /* who hears it keeps nothing for it any more: not before it is durable */
        return cow_store_invalidating(s->store) ? SNAPSHOT_POISONED : SNAPSHOT_INVALID;
    case COW_POISONED:
    case COW_CLOSING:
        return SNAPSHOT_POISONED;
    case COW_DAMAGED:
        return SNAPSHOT_DAMAGED;
    case COW_READY:
    case COW_MERGING:
        break;
    }
    return SNAPSHOT_OK;
}

static int snapshot_state_rank(enum snapshot_state state)
{
    switch (state) {
    case SNAPSHOT_INVALID:
        return 3;
    case SNAPSHOT_DAMAGED:
        return 2;
    case SNAPSHOT_POISONED:
        return 1;
    default:
        return 0;
    }
}

static const char *snapshot_state_word(enum snapshot_state state)
{
    switch (state) {
    case SNAPSHOT_INVALID:
        return "invalid";
    case SNAPSHOT_DAMAGED:
        return "damaged";
    case SNAPSHOT_POISONED:
        return "being opened again";
    default:
        return "";
    }
}

/* Does a view of s look into the table of n? */
static bool snapshot_reads_through(const struct snapshot *s, const struct snapshot *n)
{
    for (; s != NULL && s->clone; s = s->parent)
        if (s == n)
            return true;
    return s != NULL && !n->clone && n->seq >= s->seq;
}

/* The worst that it reads through, itself first, then what is nearest. */
static const struct snapshot *snapshot_culprit(const struct snapshot *s,
                                               enum snapshot_state *ret_worst)
{
    const struct snapshot *culprit = s, *n;
    enum snapshot_state worst = snapshot_own_state(s);
    LIST_FOREACH (n, &s->volume->unsound, unsound_link) {
        if (n == s || !snapshot_reads_through(s, n))
            continue;
        enum snapshot_state state = snapshot_own_state(n);
        int more = snapshot_state_rank(state) - snapshot_state_rank(worst);
        if (more > 0 || (more == 0 && culprit != s && n->seq < culprit->seq)) {
            worst = state;
            culprit = n;
        }
    }
    *ret_worst = worst;
    return culprit;
}

/* Why a node is invalid by itself: its header says that it is, not why. One that has grown up to
 * its limit was full. */
static void snapshot_explain_invalid(const struct snapshot *s, char *text, size_t text_bytes)
{
    char limit[16];
    const struct record_snapshot *rs = snapshot_record(s);
    bool gives_up = s->volume->record.full_policy == FULL_INVALIDATE;
    uint64_t limit_bytes = rs != NULL ? rs->limit_bytes : 0;
    uint64_t chunk_bytes = (uint64_t)s->volume->chunk_sectors * SECTOR_BYTES;
    bool at_limit = s->dev != NULL && blk_dev_info(s->dev)->size_bytes + chunk_bytes > limit_bytes;
    if (s->lost)
        (void)snprintf(text, text_bytes,
                       "the volume was written while its COW device could not be opened%s%s",
                       s->fault_text[0] != '\0' ? ": " : "", s->fault_text);
    else if (gives_up && limit_bytes > 0 && at_limit)
        (void)snprintf(text, text_bytes,
                       "it was full (limit %s), and the volume's policy is to invalidate",
                       size_format(limit_bytes, limit, sizeof limit));
    else
        (void)snprintf(text, text_bytes,
                       "its COW device is marked invalid, as when %swhat it reads through is "
                       "deleted by force",
                       gives_up ? "it is full, or " : "");
}

enum snapshot_state snapshot_state(const struct snapshot *s, char *text, size_t text_bytes)
{
    const struct volume *v = s->volume;
    enum snapshot_state worst;
    const struct snapshot *culprit = snapshot_culprit(s, &worst);
    const struct record_snapshot *own_record = snapshot_record(s);
    bool origin_away = v->origin != NULL && v->origin->dev == NULL &&
                       snapshot_state_rank(worst) < snapshot_state_rank(SNAPSHOT_DAMAGED);
    if (origin_away)
        worst = SNAPSHOT_DAMAGED;
    if (worst == SNAPSHOT_OK && guard_doubts(s))
        worst = SNAPSHOT_UNVERIFIED;
    if (worst == SNAPSHOT_OK && own_record != NULL && own_record->merging)
        worst = SNAPSHOT_MERGING;
    if (text == NULL || text_bytes == 0)
        return worst;
    text[0] = '\0';
    if (worst == SNAPSHOT_UNVERIFIED)
        guard_explain(s, text, text_bytes);
    if (snapshot_state_rank(worst) == 0)
        return worst;
    const struct record_snapshot *rs = snapshot_record(culprit);
    char why[ERR_TEXT_BYTES + 80];
    if (worst == SNAPSHOT_INVALID)
        snapshot_explain_invalid(culprit, why, sizeof why);
    else
        (void)snprintf(why, sizeof why, "%s", culprit->fault_text);
    if (origin_away)
        (void)snprintf(text, text_bytes, "reads through the origin, which cannot be opened: %s",
                       v->origin->fault_text);
    else if (culprit != s)
        (void)snprintf(text, text_bytes, "reads through %s, which is %s%s%s",
                       rs != NULL ? rs->name : "?", snapshot_state_word(worst),
                       why[0] != '\0' ? ": " : "", why);
    else
        (void)snprintf(text, text_bytes, "%s", why[0] != '\0' ? why : snapshot_state_word(worst));
    return worst;
}

int snapshot_check_sound(const struct snapshot *s, struct err *reterr)
{
    int rc = snapshot_check_readable(s, reterr);
    if (rc != SNAP_EUNVERIFIED)
        return rc;
    if (reterr != NULL)
        err_clear(reterr);
    return 0;
}

int snapshot_check_readable(const struct snapshot *s, struct err *reterr)
{
    char text[ERR_TEXT_BYTES];
    switch (snapshot_state(s, text, sizeof text)) {
    case SNAPSHOT_UNVERIFIED:
        return err_set(reterr, SNAP_EUNVERIFIED, "%s", text);
    case SNAPSHOT_INVALID:
        return err_set(reterr, SNAP_EINVALID, "%s", text);
    case SNAPSHOT_DAMAGED:
        return err_set(reterr, SNAP_ECORRUPT, "%s", text);
    case SNAPSHOT_POISONED:
        return err_set(reterr, SNAP_EPOISONED, "%s", text);
    default:
        return 0;
    }
}
