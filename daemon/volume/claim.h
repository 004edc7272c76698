/* SPDX-License-Identifier: Apache-2.0 */
/* Who fills a hosted volume, or a clone of it, from one end to the other, as an import does: two of
 * them at once would leave a mixture. It is a word among those who give it: all others write as
 * ever. Kept in memory only: it ends with the connection over which it was given, and a client that
 * comes back on another one gives it again with its next write. Thread: the shard's. */
#ifndef SNAP_VOLUME_CLAIM_H
#define SNAP_VOLUME_CLAIM_H

#include "daemon/volume/volume.h"

struct claim_ask {
    struct uuid node;     /* nil: the volume itself */
    struct uuid instance; /* of the client; nil: its connection is all that is known */
    uint64_t session;
    const char *identity, *address; /* for whom is refused meanwhile */
};

/* Is it the asker's, over that connection? */
bool claim_is_held(const struct volume *v, const struct claim_ask *ask);
/* Errors: SNAP_EBUSY naming who has it, SNAP_ENOMEM. */
int claim_take(struct volume *v, const struct claim_ask *ask, struct err *reterr) SNAP_WUR;
/* The connection has ended. */
void claim_leave(struct volume *v, uint64_t session);
/* The volume is freed. */
void claim_done(struct volume *v);

#endif
