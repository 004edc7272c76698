/* SPDX-License-Identifier: Apache-2.0 */
/* The writer's lease, as a table of what each event does in each phase.
 *
 *   event            FREE        HELD                      STILL
 *   ask: same writer stale       keep                      keep (sealed: wait)
 *   ask: another     new         busy; new when expired    busy; new when expired
 *                                or stealing               or stealing (sealed: wait)
 *   grant            HELD        HELD, next epoch          HELD, next epoch
 *   check            stale       renews (fenced: stale)    renews; puts are stale
 *   head ready       -           STILL                     STILL
 *   disconnect       -           stays HELD                HELD (sealed: stays)
 *   release          -           FREE                      FREE
 *   quiesce end      -           HELD, or FREE if fenced   HELD, or FREE if fenced
 *
 * The end of a lease's time changes nothing by itself: it only lets others in. A
 * writer that comes back late and finds its epoch still the last one has missed
 * nothing, since a new head over a dead writer moves the epoch on. So a laptop
 * that slept goes on, and one whose place was taken is told SNAP_ESTALE. It is told so
 * from the moment at which the taking begins, not when it is durable: a renewal in
 * between would make it believe in a lease that is about to end.
 *
 * It must not know of connections, records or snapshots. Thread: the owner's.
 */
#include "daemon/volume/lease.h"

#include "common/base/check.h"

#include <stdio.h>
#include <string.h>

void lease_init(struct lease *l, uint64_t epoch, const char *holder, const struct uuid *instance,
                uint64_t ttl_ns, uint64_t now_ns)
{
    memset(l, 0, sizeof *l);
    l->epoch = epoch;
    l->ttl_ns = ttl_ns;
    l->renewed_ns = now_ns;
    if (holder[0] == '\0')
        return;
    l->phase = LEASE_HELD;
    l->instance = *instance;
    (void)snprintf(l->holder, sizeof l->holder, "%s", holder);
}

bool lease_expired(const struct lease *l, uint64_t now_ns)
{
    return l->phase != LEASE_FREE && now_ns >= lease_end_ns(l);
}

uint64_t lease_end_ns(const struct lease *l)
{
    return l->phase == LEASE_FREE ? UINT64_MAX : l->renewed_ns + l->ttl_ns;
}

static bool lease_is_of(const struct lease *l, const struct lease_request *r)
{
    return l->phase != LEASE_FREE && r->epoch == l->epoch && strcmp(l->holder, r->identity) == 0 &&
           uuid_equal(&l->instance, &r->instance);
}

int lease_ask(const struct lease *l, const struct lease_request *r, uint64_t now_ns,
              struct err *reterr)
{
    if (l->sealed)
        return LEASE_WAIT;
    if (lease_is_of(l, r) && !l->fenced)
        return LEASE_KEEP;
    if (r->epoch != 0)
        return err_set(reterr, SNAP_ESTALE, "the lease of epoch %llu is gone, the last is %llu",
                       (unsigned long long)r->epoch, (unsigned long long)l->epoch);
    bool same_process =
        strcmp(l->holder, r->identity) == 0 && uuid_equal(&l->instance, &r->instance);
    if (l->phase == LEASE_FREE || r->steal || same_process || lease_expired(l, now_ns))
        return LEASE_NEW;
    uint64_t left_ms = (lease_end_ns(l) - now_ns) / 1000000;
    return err_set(reterr, SNAP_EBUSY, "the writer is %s (epoch %llu, %s, %llu ms left)", l->holder,
                   (unsigned long long)l->epoch, l->connected ? "connected" : "not connected",
                   (unsigned long long)left_ms);
}

void lease_grant(struct lease *l, uint64_t epoch, const char *identity, const struct uuid *instance,
                 uint64_t session, uint64_t now_ns)
{
    CHECK(epoch >= l->epoch);
    l->phase = LEASE_HELD;
    l->fenced = false;
    l->epoch = epoch;
    l->instance = *instance;
    if (identity != l->holder)
        (void)snprintf(l->holder, sizeof l->holder, "%s", identity);
    l->session = session;
    l->connected = true;
    l->renewed_ns = now_ns;
}

void lease_disconnect(struct lease *l, uint64_t session)
{
    if (l->session != session || l->phase == LEASE_FREE)
        return;
    l->connected = false;
    l->session = 0;
    /* it may come back not knowing that it had promised to stand still */
    if (l->phase == LEASE_STILL && !l->sealed)
        l->phase = LEASE_HELD;
}

void lease_free(struct lease *l)
{
    l->phase = LEASE_FREE;
    l->fenced = false;
    l->holder[0] = '\0';
    memset(&l->instance, 0, sizeof l->instance);
    l->connected = false;
    l->session = 0;
}

void lease_fence(struct lease *l, bool fence)
{
    l->fenced = fence && l->phase != LEASE_FREE;
}

int lease_check(struct lease *l, const char *identity, uint64_t epoch, uint64_t now_ns,
                struct err *reterr)
{
    if (l->phase == LEASE_FREE)
        return err_set(reterr, SNAP_ESTALE, "nobody holds the lease; the last epoch was %llu",
                       (unsigned long long)l->epoch);
    if (epoch != l->epoch)
        return err_set(reterr, SNAP_ESTALE, "lease epoch %llu is stale, the present one is %llu",
                       (unsigned long long)epoch, (unsigned long long)l->epoch);
    if (strcmp(identity, l->holder) != 0)
        return err_set(reterr, SNAP_ESTALE, "the lease is %s's", l->holder);
    if (l->fenced)
        return err_set(reterr, SNAP_ESTALE, "the lease of epoch %llu is being taken over",
                       (unsigned long long)epoch);
    l->renewed_ns = now_ns;
    return 0;
}

int lease_check_put(struct lease *l, const char *identity, uint64_t epoch, uint64_t now_ns,
                    struct err *reterr)
{
    int rc = lease_check(l, identity, epoch, now_ns, reterr);
    if (rc < 0)
        return rc;
    if (l->phase == LEASE_STILL || l->sealed)
        return err_set(reterr, SNAP_ESTALE, "a new head is being made");
    return 0;
}

void lease_quiesce_begin(struct lease *l)
{
    l->quiesce = true;
}

enum lease_quiet lease_quiet(const struct lease *l, uint64_t now_ns)
{
    if (l->phase != LEASE_HELD)
        return LEASE_QUIET_YES;
    return lease_expired(l, now_ns) ? LEASE_QUIET_DEAD : LEASE_QUIET_NO;
}

void lease_still(struct lease *l, uint64_t session)
{
    CHECK(l->phase != LEASE_FREE);
    l->session = session;
    l->connected = true;
    l->phase = LEASE_STILL;
}

void lease_seal(struct lease *l, enum lease_quiet quiet)
{
    l->sealed = true;
    lease_fence(l, quiet == LEASE_QUIET_DEAD);
}

void lease_quiesce_end(struct lease *l, uint64_t fenced_epoch)
{
    l->quiesce = false;
    l->sealed = false;
    l->fenced = false;
    if (l->phase == LEASE_STILL)
        l->phase = LEASE_HELD;
    if (fenced_epoch != 0) {
        CHECK(fenced_epoch > l->epoch);
        l->epoch = fenced_epoch;
        lease_free(l);
    }
}
