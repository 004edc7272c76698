/* SPDX-License-Identifier: Apache-2.0 */
/* The writer's lease of a volume: who may stream COW requests, and under which epoch.
 * A pure state machine; time is handed in, durable changes are the caller's.
 * Units: *_ns of any monotonic clock. Thread: the owner's.
 */
#ifndef SNAP_VOLUME_LEASE_H
#define SNAP_VOLUME_LEASE_H

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/uuid.h"

#include <stdbool.h>
#include <stdint.h>

enum lease_phase {
    LEASE_FREE,  /* nobody; the epoch is that of the last one */
    LEASE_HELD,  /* a writer streams, or may come back */
    LEASE_STILL, /* the writer said that it stands still until it hears of a new head */
};

struct lease {
    enum lease_phase phase;
    bool quiesce; /* a new head is wanted: the writer is to stand still */
    bool sealed;  /* the new head is being committed: nothing changes until lease_quiesce_end() */
    bool fenced;  /* its successor, or a head made without it, is being committed: the holder
                   * hears SNAP_ESTALE from now on and cannot renew */
    bool connected;
    uint64_t session; /* the connection that holds it; 0: none */
    uint64_t epoch;
    uint64_t ttl_ns, renewed_ns;
    struct uuid instance;
    char holder[LIMIT_NAME_BYTES + 1];
};

struct lease_request {
    const char *identity;
    struct uuid instance;
    uint64_t epoch; /* the one it holds; 0: a new lease */
    bool steal;     /* the caller has checked the right to */
};

enum lease_verdict {
    LEASE_KEEP, /* the same writer came back: granted under the present epoch */
    LEASE_NEW,  /* commit epoch + 1 durably, then lease_grant() */
    LEASE_WAIT, /* ask again after lease_quiesce_end() */
};

/* From a record: a holder that was there when the daemon stopped may come back. */
void lease_init(struct lease *l, uint64_t epoch, const char *holder, const struct uuid *instance,
                uint64_t ttl_ns, uint64_t now_ns);
bool lease_expired(const struct lease *l, uint64_t now_ns);
/* When the holder's time ends; UINT64_MAX: nobody holds it. */
uint64_t lease_end_ns(const struct lease *l);

/* Returns an enum lease_verdict.
 * Errors: SNAP_EBUSY naming the holder; SNAP_ESTALE: the epoch it says it holds is gone. */
int lease_ask(const struct lease *l, const struct lease_request *r, uint64_t now_ns,
              struct err *reterr) SNAP_WUR;
/* The epoch is durable (LEASE_NEW), or the same as before (LEASE_KEEP). */
void lease_grant(struct lease *l, uint64_t epoch, const char *identity, const struct uuid *instance,
                 uint64_t session, uint64_t now_ns);
/* The connection ended. Ignored when it is not the one that holds the lease. */
void lease_disconnect(struct lease *l, uint64_t session);
/* The release is durable, or the volume goes away. */
void lease_free(struct lease *l);
/* From the moment at which another is to take its place; undone when that fails. */
void lease_fence(struct lease *l, bool fence);

/* Any request of the lease; renews it. Errors: SNAP_ESTALE. */
int lease_check(struct lease *l, const char *identity, uint64_t epoch, uint64_t now_ns,
                struct err *reterr) SNAP_WUR;
/* lease_check(), and the writer is not standing still. */
int lease_check_put(struct lease *l, const char *identity, uint64_t epoch, uint64_t now_ns,
                    struct err *reterr) SNAP_WUR;

/* -- a new head -- */
enum lease_quiet {
    LEASE_QUIET_NO,   /* wait for HEAD_READY or the end of its time */
    LEASE_QUIET_YES,  /* nobody writes */
    LEASE_QUIET_DEAD, /* the holder's time has ended: the new head's commit moves the epoch on */
};
void lease_quiesce_begin(struct lease *l);
enum lease_quiet lease_quiet(const struct lease *l, uint64_t now_ns);
void lease_still(struct lease *l, uint64_t session); /* HEAD_READY; after lease_check() */
/* quiet: what lease_quiet() said. */
void lease_seal(struct lease *l, enum lease_quiet quiet);
/* fenced_epoch: the epoch that was committed over a dead holder; 0: the holder goes on. */
void lease_quiesce_end(struct lease *l, uint64_t fenced_epoch);

#endif
