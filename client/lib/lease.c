/* SPDX-License-Identifier: Apache-2.0 */
/* The writer's lease: kept, doubted, taken up again, lost.
 *
 *   state      answer in time   its time over   connection up again   stale
 *   acquiring  held             -               asked again           freed
 *   held       held             lapsed          re-acquire            lost
 *   lapsed     held (resumed)   -               re-acquire            lost
 *   releasing  freed            -               asked again           freed
 *
 * The time of a lease runs from the moment the answered request was sent, so it
 * ends here no later than on the daemon. snapwire_lease_valid() asks the clock
 * itself: it turns false in time even when the loop is held up.
 *
 * A new head:
 *
 *   none ──EVENT_QUIESCE──> told ──head_ready()──> ready ──no put unanswered──> sent
 *    ^                                                                           │
 *    └────────────────────── answer with the new head ───────────────────────────┘
 *
 * A head that is another one after a re-acquire ends that sequence, wherever it was.
 *
 * Must not know how puts travel. Thread: the client's.
 */
#include "client/lib/lease_priv.h"

#include <stdlib.h>

/* -- how long it is good -- */

bool snapwire_lease_valid(const struct snapwire_lease *l)
{
    return !l->dead && (l->state == LEASE_HELD || l->state == LEASE_LAPSED) &&
           client_now_ns() < l->valid_until_ns;
}

uint64_t snapwire_lease_remaining_ms(const struct snapwire_lease *l)
{
    const uint64_t now_ns = client_now_ns();

    if (!snapwire_lease_valid(l) || l->valid_until_ns <= now_ns)
        return 0;
    return (l->valid_until_ns - now_ns) / 1000000 + 1;
}

const struct snapwire_lease_info *snapwire_lease_info(const struct snapwire_lease *l)
{
    return &l->info;
}

void lease_notice(struct snapwire_lease *l, unsigned notice)
{
    l->notices |= notice;
    client_kick(l->client);
}

void lease_touch(struct snapwire_lease *l, uint64_t sent_ns)
{
    const uint64_t until_ns = sent_ns + (uint64_t)l->info.ttl_ms * 1000000;

    if (until_ns > l->valid_until_ns)
        l->valid_until_ns = until_ns;
    if (l->state != LEASE_LAPSED || client_now_ns() >= l->valid_until_ns)
        return;
    l->state = LEASE_HELD;
    loop_timer_set(&l->lapse_timer, l->info.ttl_ms);
    if (l->notices & NOTICE_LAPSED)
        l->notices &= ~(unsigned)NOTICE_LAPSED; /* nobody has heard of it */
    else
        lease_notice(l, NOTICE_RESUMED);
}

void lease_lapse_cb(void *user)
{
    struct snapwire_lease *l = user;
    const uint64_t now_ns = client_now_ns();

    if (l->state != LEASE_HELD || l->dead)
        return;
    if (now_ns < l->valid_until_ns) {
        loop_timer_set(&l->lapse_timer, (l->valid_until_ns - now_ns) / 1000000 + 1);
        return;
    }
    l->state = LEASE_LAPSED;
    (void)err_set(&l->why, SNAP_ETIMEDOUT, "the lease was not renewed within %u ms%s%.300s",
                  l->info.ttl_ms, l->client->up ? "" : ": ",
                  l->client->up ? "" : l->client->why.text);
    lease_notice(l, NOTICE_LAPSED);
}

void lease_lose(struct snapwire_lease *l, const struct err *why)
{
    struct err stale = *why;

    if (l->state == LEASE_LOST || l->dead)
        return;
    l->state = LEASE_LOST;
    l->confirmed = false;
    l->quiesce = QUIESCE_NONE;
    l->why = *why;
    loop_timer_stop(&l->renew_timer);
    loop_timer_stop(&l->lapse_timer);
    stale.code = SNAP_ESTALE;
    if (l->stream != NULL)
        stream_end_all(l->stream, &stale);
    request_end_of_lease(l, &stale);
    lease_break_end(l, &stale);
    l->notices = NOTICE_LOST;
    client_kick(l->client);
}

int lease_check_usable(const struct snapwire_lease *l, struct err *reterr)
{
    if (l->dead || l->state == LEASE_RELEASING)
        return err_set(reterr, SNAP_EINVAL, "the lease was given back");
    if (l->state == LEASE_LOST)
        return err_set(reterr, SNAP_ESTALE, "the lease is lost: %.400s", l->why.text);
    return client_check(l->client, reterr);
}

void lease_renew_cb(void *user)
{
    struct snapwire_lease *l = user;
    const uint32_t third_ms = l->info.ttl_ms / RENEWALS_IN_TTL;

    if (l->dead || (l->state != LEASE_HELD && l->state != LEASE_LAPSED))
        return;
    loop_timer_set(&l->renew_timer, third_ms > RENEW_MS_MIN ? third_ms : RENEW_MS_MIN);
    if (l->quiesce == QUIESCE_AGAIN) {
        l->quiesce = QUIESCE_READY;
        client_kick(l->client);
    }
    if (!l->client->up)
        return;
    if (!l->confirmed)
        lease_reacquire(l);
    else if (l->head_wanted ||
             snapwire_lease_remaining_ms(l) < (uint64_t)l->info.ttl_ms - third_ms / 2)
        lease_doubt(l);
}

void lease_connected(struct snapwire_client *c)
{
    struct snapwire_lease *l;

    LIST_FOREACH (l, &c->leases, link) {
        if (!l->dead && (l->state == LEASE_HELD || l->state == LEASE_LAPSED))
            lease_reacquire(l);
    }
}

void lease_disconnected(struct snapwire_client *c, bool was_up)
{
    struct snapwire_lease *l;

    LIST_FOREACH (l, &c->leases, link) {
        l->confirmed = false;
        if (was_up)
            l->down_ns = client_now_ns();
        lease_break_step(l);
    }
}

/* -- events and the hook -- */

int lease_event(struct snapwire_client *c, uint16_t method, const uint8_t *control,
                uint32_t control_bytes, struct err *reterr)
{
    struct snapwire_uuid volume;
    struct snapwire_lease *l;

    if (method != SNAPWIRE__V1__METHOD__METHOD_EVENT_QUIESCE &&
        method != SNAPWIRE__V1__METHOD__METHOD_EVENT_LEASE_LOST)
        return 0; /* a newer daemon's */
    const struct request_answer a = {.control = control, .control_bytes = control_bytes};
    ProtobufCMessage *base = NULL;
    const int r = pb_unpack(&snapwire__v1__lease_ref__descriptor, &a, "lease event", &base, reterr);
    Snapwire__V1__LeaseRef *m = (Snapwire__V1__LeaseRef *)base;
    if (r < 0)
        return r;
    if (!pb_uuid_get(&m->volume, &volume)) {
        snapwire__v1__lease_ref__free_unpacked(m, NULL);
        return pb_refuse(reterr, "lease event");
    }
    const uint64_t epoch = m->epoch;
    snapwire__v1__lease_ref__free_unpacked(m, NULL);
    LIST_FOREACH (l, &c->leases, link) {
        if (!l->dead && (l->state == LEASE_HELD || l->state == LEASE_LAPSED) &&
            l->info.epoch == epoch && snapwire_uuid_equal(&l->info.volume, &volume))
            break;
    }
    if (l == NULL)
        return 0;
    if (method == SNAPWIRE__V1__METHOD__METHOD_EVENT_LEASE_LOST) {
        const struct err why = {.code = SNAP_ESTALE, .text = "another writer took the lease"};
        lease_lose(l, &why);
    } else if (l->quiesce == QUIESCE_NONE) {
        l->quiesce = l->config.quiesce != NULL ? QUIESCE_TOLD : QUIESCE_READY;
        lease_notice(l, l->config.quiesce != NULL ? NOTICE_QUIESCE : 0);
    }
    return 0;
}

int snapwire_lease_head_ready(struct snapwire_lease *l, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    const int r = lease_check_usable(l, &err);

    if (r < 0)
        return public_error(reterr, r, &err);
    if (l->quiesce == QUIESCE_TOLD)
        l->quiesce = QUIESCE_READY;
    else if (l->quiesce == QUIESCE_NONE) /* it was over before: the head is known */
        l->notices |= NOTICE_HEAD;
    client_kick(l->client);
    return 0;
}

void lease_step_all(struct snapwire_client *c)
{
    struct snapwire_lease *l;

    LIST_FOREACH (l, &c->leases, link) {
        if (l->dead || l->quiesce != QUIESCE_READY || !l->confirmed ||
            (l->stream != NULL && !stream_idle(l->stream)))
            continue;
        if (lease_op_begin(&(struct lease_op){.lease = l, .kind = OP_READY}, NULL) == 0)
            l->quiesce = QUIESCE_SENT;
        else
            loop_timer_set(&l->renew_timer, RENEW_MS_MIN); /* out of memory: the hook runs again */
    }
}

static void lease_notify(struct snapwire_lease *l, enum lease_notice notice)
{
    const struct snapwire_lease_config *k = &l->config;
    const struct snapwire_error why = public_error_of(&l->why);

    if (notice == NOTICE_LAPSED && k->lapsed != NULL)
        k->lapsed(k->user, l, &why);
    else if (notice == NOTICE_RESUMED && k->resumed != NULL)
        k->resumed(k->user, l);
    else if (notice == NOTICE_HEAD && k->head_changed != NULL)
        k->head_changed(k->user, l, &l->info);
    else if (notice == NOTICE_QUIESCE && l->quiesce == QUIESCE_TOLD)
        k->quiesce(k->user, l);
    else if (notice == NOTICE_LOST && k->lost != NULL)
        k->lost(k->user, l, &why);
}

void lease_notify_all(struct snapwire_client *c)
{
    struct snapwire_lease *l;

    LIST_FOREACH (l, &c->leases, link) {
        while (l->notices != 0 && !l->dead) {
            const unsigned lowest = l->notices & (~l->notices + 1);
            l->notices &= ~lowest;
            lease_notify(l, (enum lease_notice)lowest);
        }
    }
}

void lease_reap_all(struct snapwire_client *c)
{
    struct snapwire_lease *l = LIST_FIRST(&c->leases);

    while (l != NULL) {
        struct snapwire_lease *next = LIST_NEXT(l, link);
        if (l->dead && l->pending == 0 && l->stream == NULL) {
            LIST_REMOVE(l, link);
            loop_timer_done(&l->renew_timer);
            loop_timer_done(&l->lapse_timer);
            loop_timer_done(&l->break_timer);
            free(l);
        }
        l = next;
    }
}

void lease_fail_all(struct snapwire_client *c, const struct err *why)
{
    struct snapwire_lease *l;

    LIST_FOREACH (l, &c->leases, link) {
        if (l->state == LEASE_HELD || l->state == LEASE_LAPSED)
            lease_lose(l, why);
    }
}

/* -- letting it go -- */

void lease_kill(struct snapwire_lease *l)
{
    const struct err why = {.code = SNAP_ECANCELED, .text = "the lease was let go"};

    l->dead = true;
    l->notices = 0;
    loop_timer_stop(&l->renew_timer);
    loop_timer_stop(&l->lapse_timer);
    lease_break_end(l, &why);
    if (l->stream != NULL && !l->stream->closing)
        snapwire_stream_close(l->stream, NULL, NULL);
    request_end_of_lease(l, &why);
    client_kick(l->client);
}

void lease_close_all(struct snapwire_client *c)
{
    struct snapwire_lease *l;

    LIST_FOREACH (l, &c->leases, link) {
        if (!l->dead)
            lease_kill(l);
    }
}

void snapwire_lease_free(struct snapwire_lease *l)
{
    if (l != NULL && !l->dead)
        lease_kill(l);
}
