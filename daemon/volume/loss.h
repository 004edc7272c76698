/* SPDX-License-Identifier: Apache-2.0 */
/* What a failed flush may have taken back, and who has not heard of it yet.
 *
 * A disk that fails a flush may have dropped what was written to it before, whoever wrote it and
 * whoever asked for the flush; a later flush succeeds and says nothing of it. So each client that
 * had written since the last flush that succeeded hears SNAP_EIO once, from its own next flush,
 * on whichever connection. Clients are known by their instance; those without one are one client.
 *
 *   write ──> the client is on the list ──(a flush of anybody that began later succeeds)──> off
 *                     │
 *                     └─ a flush fails ──> its next flush is told SNAP_EIO ──> as after a write
 *
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_LOSS_H
#define SNAP_VOLUME_LOSS_H

#include "common/base/uuid.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct loss_client;

struct loss {
    LIST_HEAD(, loss_client) clients; /* who wrote last in front */
    unsigned failed;                  /* flushes, whoever asked */
    uint64_t writes;                  /* a clock: counts them */
    bool everybody;                   /* no memory for one: the next flush of any unknown is told */
};

void loss_init(struct loss *l);
void loss_done(struct loss *l);
/* Something of it has been written, and is not durable yet; before that is answered. */
void loss_wrote(struct loss *l, const struct uuid *client);
/* A flush has failed. */
void loss_happened(struct loss *l);
/* A flush that begins now covers what was written until .writes; hand that to loss_flushed() when
 * it has succeeded. */
void loss_flushed(struct loss *l, uint64_t writes);
/* Has it lost something that it has not heard of? It has now. */
bool loss_tell(struct loss *l, const struct uuid *client);

#endif
