/* SPDX-License-Identifier: Apache-2.0 */
/* Breaking: a writer wants to go on although old content cannot be kept.
 *
 *   unbroken ──break──> breaking ──┬─ the daemon has heard of it ──────────────> broken
 *                          │       └─ away, and the lease over there as well ──>   │
 *                          └─ lost: refused                     a new head: unbroken again
 *
 * The daemon must not call a snapshot good while its writer spoils it. So either it answers
 * that it knows, or it has lost the connection, or, if that died in silence, it has not heard
 * of the lease for longer than the lease's time. Whatever it was sent, it was sent before the
 * connection broke here; a part of the time is added for what was on its way.
 * From the call on each re-acquire says that the lease is broken.
 *
 * Thread: the client's.
 */
#include "client/lib/lease_priv.h"

enum { ON_ITS_WAY_PART = 8 };

static void break_told(void *user, const struct snapwire_error *error)
{
    (void)user;
    (void)error;
}

void lease_break_end(struct snapwire_lease *l, const struct err *why)
{
    if (!l->breaking)
        return;
    const snapwire_done_cb cb = l->broken_cb != NULL ? l->broken_cb : break_told;
    const struct snapwire_error e = why != NULL ? public_error_of(why) : (struct snapwire_error){0};
    const struct err over = {.code = SNAP_ECANCELED, .text = "the lease is broken"};

    l->breaking = false;
    loop_timer_stop(&l->break_timer);
    if (why == NULL && l->stream != NULL)
        stream_end_all(l->stream, &over);
    cb(l->broken_user, why != NULL ? &e : NULL);
}

static uint64_t over_there_ns(const struct snapwire_lease *l)
{
    const uint64_t ttl_ns = (uint64_t)l->info.ttl_ms * 1000000;
    const uint64_t last_ns = l->down_ns != 0 ? l->down_ns : client_now_ns();

    return last_ns + ttl_ns + ttl_ns / ON_ITS_WAY_PART;
}

void lease_break_step(struct snapwire_lease *l)
{
    if (!l->breaking || l->dead || l->client->up)
        return;
    const uint64_t now_ns = client_now_ns(), until_ns = over_there_ns(l);
    loop_timer_set(&l->break_timer, until_ns > now_ns ? (until_ns - now_ns) / 1000000 + 1 : 0);
}

void lease_break_timer_cb(void *user)
{
    struct snapwire_lease *l = user;

    if (!l->breaking || l->dead || l->client->up)
        return; /* up: what the re-acquire is answered decides */
    if (client_now_ns() < over_there_ns(l))
        lease_break_step(l);
    else
        lease_break_end(l, NULL);
}

static int lease_break(struct snapwire_lease *l, snapwire_done_cb cb, void *user,
                       struct err *reterr)
{
    const struct err anew = {.code = SNAP_ECANCELED, .text = "it has more to say"};
    const int r = lease_check_usable(l, reterr);

    if (r < 0)
        return r;
    if (!l->config.goes_on)
        return err_set(reterr, SNAP_EINVAL, "the lease was not taken to go on without the daemon");
    if (l->breaking || (l->state != LEASE_HELD && l->state != LEASE_LAPSED))
        return err_set(reterr, SNAP_EBUSY, "the lease is being broken or acquired");
    l->breaking = true;
    l->broken_cb = cb;
    l->broken_user = user;
    l->info.broken = true;
    if (l->reacquire != NULL) /* it says the contrary */
        request_end(l->reacquire, &anew);
    l->reacquire = NULL;
    l->reacquiring = false;
    if (l->ready != NULL) /* it stands still no more; a head that is made all the same is told */
        request_end(l->ready, &anew);
    l->ready = NULL;
    l->quiesce = QUIESCE_NONE;
    if (l->client->up) {
        l->confirmed = false;
        lease_reacquire(l); /* no memory: the renewal timer does it */
    }
    lease_break_step(l);
    return 0;
}

int snapwire_lease_break(struct snapwire_lease *l, snapwire_done_cb cb, void *user,
                         struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr, lease_break(l, cb, user, &err), &err);
}
