/* SPDX-License-Identifier: Apache-2.0 */
/* Writers that may have written what snapshots lack, and what that makes of these.
 *
 * Without the daemon, by intent:
 * Such a writer (a guard with the policy to serve its disk whatever happens) says so with its
 * lease, and the record names it before the lease is given. From then on, whenever it is not
 * there, it may be overwriting what no snapshot has: so all snapshots are unverified.
 *
 *   event                              record.guard     snapshots
 *   lease with goes_on                 this writer      -
 *   its connection or its time ends    -                doubted, all
 *   the daemon starts                  -                doubted, all
 *   one is made while it is away       -                unverified from the start
 *   it is back: nothing was lost       as it says now   unverified no more, unless broken
 *   it is back: broken                 as it says now   broken, all
 *   it gives its lease back            nobody           -
 *   another writer with goes_on        that one         broken, all, if the former was away
 *   another writer without             -                unverified, all
 *   an admin accepts one               -, or nobody     that one: as if nothing had been
 *
 * Doubted is not written anywhere: that the record names a guard which is not there is enough,
 * and was durable before the guard could be lost.
 *
 * Late, by any writer: its disk held a write for longer than its lease lasted. What the write
 * overwrote is kept for the head under which it was begun, and for all before that one. Snapshots
 * that were made without the writer since then may hold what it wrote:
 *
 *   lease with late             as above         broken, those newer than that head
 *
 * The head is named by its seq: it may have been deleted. One that is made later has seen the
 * writer stand still, or is told of with the next lease. */
#ifndef SNAP_VOLUME_GUARD_H
#define SNAP_VOLUME_GUARD_H

#include "daemon/volume/volume.h"

/* What a writer says of itself when it takes its lease. */
struct guard_word {
    struct uuid instance;
    bool goes_on;
    bool broken;
    bool late;
    uint32_t late_after_seq; /* of the head, 0: there was none */
};

/* Would the record change by it? */
bool guard_says_new(const struct volume_record *r, const struct guard_word *word);
void guard_hear(struct volume_record *next, const struct guard_word *word);
/* The lease is given back by its holder, who is record.lease_instance. */
void guard_leave(struct volume_record *next);

/* There is a guard, and it does not hold the lease over a living connection. */
bool guard_is_away(const struct volume *v);
/* Is the snapshot unverified? */
bool guard_doubts(const struct snapshot *s);
/* Why, and what can be done. */
void guard_explain(const struct snapshot *s, char *text, size_t text_bytes);

/* Take it as it is. force: also while the guard is away, which is not waited for any more; the
 * other snapshots are broken then.
 * Errors: SNAP_ENOENT, SNAP_EBUSY (needs force), SNAP_EIO. */
void guard_accept(struct volume *v, const struct uuid *snapshot, bool force, volume_done_fn *done,
                  void *user);

#endif
