/* SPDX-License-Identifier: Apache-2.0 */
/* What a failed flush may have taken back, and who has not heard of it yet.
 *
 * A disk that fails a flush may have dropped what was written to it before, whoever wrote it and
 * whoever asked for the flush; a later flush succeeds and says nothing of it. So each client that
 * had written since the last flush that succeeded hears SNAP_EIO from its own next flush, on
 * whichever connection. Clients are known by their instance; those without one are one client.
 *
 *   off the list ──(writes)──> unflushed ──(a flush of anybody that began later succeeds)──> off
 *                                  │
 *                                  └─ a flush fails ──> lost: each of its flushes is told the
 *                                     failure's number ──(it says that it has heard it)──> off
 *
 * That an answer was made does not mean that it arrived: a client has heard of a failure when it
 * says so itself, by the number, in a later flush. One that says nothing of what it has heard is
 * taken to have heard when it was told. Numbers grow, and begin where chance wants it: one of
 * another run of the daemon, or of another volume, is known for foreign and counts as none.
 *
 * The list has an end. Who is put off it for want of room, or finds no memory, is among the rest,
 * of whom no one is known: what any of them may have lost is told to whoever is not on the list.
 *
 * All this is forgotten when the daemon ends. So the first failure of a run is told to its
 * environment, which sees to it that clients take the next run for one that may have lost writes.
 *
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_LOSS_H
#define SNAP_VOLUME_LOSS_H

#include "common/base/uuid.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

enum { LOSS_CLIENTS_MAX = 256 }; /* on the list of one volume or clone */

struct loss_client;
struct volume_env;

struct loss {
    const struct volume_env *env;                  /* .flush_failed hears of it; NULL: nobody */
    TAILQ_HEAD(loss_clients, loss_client) clients; /* who wrote last in front */
    unsigned count;
    unsigned failed;                /* flushes, whoever asked; begins anew after its greatest */
    uint64_t first, last;           /* the last failure's number; .first: there was none */
    uint64_t writes;                /* a clock: counts them */
    uint64_t rest_wrote, rest_lost; /* of those not on the list, as of one that is */
};

void loss_init(struct loss *l, const struct volume_env *env);
void loss_done(struct loss *l);
/* Something of it has been written, and is not durable yet; before that is answered.
 * last: .last when the writing began: a flush that has failed since may have dropped it. */
void loss_wrote(struct loss *l, const struct uuid *client, uint64_t last);
/* A flush has failed. */
void loss_happened(struct loss *l);
/* A flush that begins now covers what was written until .writes; hand that to loss_flushed() when
 * it has succeeded. */
void loss_flushed(struct loss *l, uint64_t writes);
/* The failure that its flush is to be told of; 0: it has lost nothing that it has not heard of.
 * heard: the last one that it says to have heard of, 0 none; NULL: it says nothing of that. */
uint64_t loss_tell(struct loss *l, const struct uuid *client, const uint64_t *heard);

#endif
