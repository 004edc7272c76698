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

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RENEWALS_IN_TTL = 3, RENEW_MS_MIN = 20 };

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

static void lease_notice(struct snapwire_lease *l, unsigned notice)
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

static void lease_lapse_cb(void *user)
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

/* -- what the daemon says of it -- */

static bool lease_message_is_sound(const struct snapwire_lease *l, const Snapwire__V1__Lease *m,
                                   struct snapwire_uuid *ret_head)
{
    struct snapwire_uuid volume;

    if (!pb_uuid_get(&m->volume, &volume) || !snapwire_uuid_equal(&volume, &l->info.volume) ||
        !pb_uuid_get_optional(&m->head, ret_head) || m->epoch == 0 || m->ttl_ms == 0 ||
        strlen(m->head_name) > LIMIT_NAME_BYTES || m->size_bytes > LIMIT_VOLUME_BYTES)
        return false;
    if (snapwire_uuid_is_zero(ret_head) && m->chunk_size_sectors == 0)
        return true;
    return chunk_bytes_of(m->chunk_size_sectors) != 0;
}

static void lease_head_moved(struct snapwire_lease *l, const struct snapwire_uuid *head)
{
    const struct err over = {.code = SNAP_ECANCELED, .text = "there is a new head already"};

    l->info.head = *head;
    l->quiesce = QUIESCE_NONE;
    if (l->ready != NULL)
        request_end(l->ready, &over);
    l->head_wanted = false;
    if (l->stream != NULL)
        stream_head_changed(l->stream, head);
    lease_notice(l, NOTICE_HEAD);
}

/* Take a Lease message over. first: its epoch is news, else it must be the one held. */
static int lease_adopt(struct snapwire_lease *l, const struct request_answer *a, uint64_t sent_ns,
                       bool first, struct err *reterr)
{
    struct snapwire_uuid head;
    Snapwire__V1__Lease *m = snapwire__v1__lease__unpack(NULL, a->control_bytes, a->control);

    if (m == NULL || !lease_message_is_sound(l, m, &head)) {
        if (m != NULL)
            snapwire__v1__lease__free_unpacked(m, NULL);
        return pb_refuse(reterr, "lease");
    }
    if (!first && m->epoch != l->info.epoch) {
        const int r = err_set(reterr, SNAP_ESTALE, "the lease of epoch %llu ended, now it is %llu",
                              (unsigned long long)l->info.epoch, (unsigned long long)m->epoch);
        snapwire__v1__lease__free_unpacked(m, NULL);
        return r;
    }
    const bool moved = !snapwire_uuid_equal(&head, &l->info.head);
    l->info.epoch = m->epoch;
    l->info.ttl_ms = m->ttl_ms;
    l->info.chunk_size_sectors = m->chunk_size_sectors;
    l->info.size_bytes = m->size_bytes;
    (void)snprintf(l->head_name, sizeof l->head_name, "%s", m->head_name);
    snapwire__v1__lease__free_unpacked(m, NULL);
    lease_touch(l, sent_ns);
    if (first)
        l->info.head = head;
    else if (moved)
        lease_head_moved(l, &head);
    return 0;
}

/* -- requests of the lease's own -- */

enum lease_op_kind { OP_ACQUIRE, OP_REACQUIRE, OP_RENEW, OP_READY, OP_RELEASE };

struct lease_op {
    struct request rq; /* first */
    struct snapwire_lease *lease;
    enum lease_op_kind kind;
    snapwire_lease_cb acquired;
    snapwire_done_cb done;
    void *user;
};

static void op_tell(const struct lease_op *op, const struct err *err)
{
    const struct snapwire_error e = err != NULL ? public_error_of(err) : (struct snapwire_error){0};

    if (op->acquired != NULL)
        op->acquired(op->user, err != NULL ? &e : NULL, err != NULL ? NULL : op->lease);
    if (op->done != NULL)
        op->done(op->user, err != NULL ? &e : NULL);
}

static void lease_start(struct snapwire_lease *l)
{
    const uint32_t ttl_ms = l->info.ttl_ms;

    l->state = LEASE_HELD;
    l->confirmed = l->client->up;
    loop_timer_set(&l->lapse_timer, ttl_ms);
    loop_timer_set(&l->renew_timer, ttl_ms / RENEWALS_IN_TTL > RENEW_MS_MIN
                                        ? ttl_ms / RENEWALS_IN_TTL
                                        : RENEW_MS_MIN);
}

static void acquire_answered(struct lease_op *op, const struct err *err)
{
    struct snapwire_lease *l = op->lease;

    if (err == NULL && !l->dead)
        lease_start(l);
    else
        l->dead = true;
    op_tell(op, err);
}

/* Refusals that asking again will not mend. */
static bool is_final(int code)
{
    switch (code) {
    case SNAP_ESTALE:
    case SNAP_EBUSY:
    case SNAP_ENOENT:
    case SNAP_EPERM:
    case SNAP_EMISMATCH:
    case SNAP_EINVAL:
    case SNAP_ENOTSUP:
        return true;
    default:
        return false;
    }
}

static void reacquire_answered(struct snapwire_lease *l, const struct err *err)
{
    l->reacquiring = false;
    if (l->dead || l->state == LEASE_LOST || l->state == LEASE_RELEASING)
        return;
    if (err == NULL) {
        l->confirmed = l->client->up;
        client_kick(l->client);
    } else if (is_final(err->code)) {
        lease_lose(l, err);
    } /* else the renewal timer asks again */
}

static void renew_answered(struct snapwire_lease *l, const struct err *err)
{
    l->renewing = false;
    if (l->dead || l->state == LEASE_LOST || l->state == LEASE_RELEASING)
        return;
    if (err != NULL) {
        if (err->code == SNAP_ESTALE || err->code == SNAP_ENOENT)
            lease_lose(l, err);
        return;
    }
    if (l->head_wanted) {
        l->head_wanted = false;
        l->quiesce = QUIESCE_NONE;
        lease_notice(l, NOTICE_HEAD);
    }
}

static void ready_answered(struct snapwire_lease *l, const struct err *err)
{
    if (l->dead || l->state == LEASE_LOST || l->quiesce != QUIESCE_SENT)
        return;
    if (err != NULL) { /* no new head came of it: learn which one there is */
        l->head_wanted = true;
        lease_doubt(l);
        return;
    }
    l->quiesce = QUIESCE_NONE;
    lease_notice(l, NOTICE_HEAD);
}

static void op_done(struct request *rq, const struct request_answer *a)
{
    struct lease_op *op = (struct lease_op *)rq;
    struct snapwire_lease *l = op->lease;
    struct err err = ERR_INIT;

    l->pending--;
    if (op->kind == OP_READY)
        l->ready = NULL;
    if (a->err != NULL)
        (void)err_copy(&err, a->err);
    else if (op->kind != OP_RELEASE && !l->dead)
        err.code = lease_adopt(l, a, rq->sent_ns, op->kind == OP_ACQUIRE, &err);
    const struct err *why = err.code != 0 ? &err : NULL;
    switch (op->kind) {
    case OP_ACQUIRE:
        acquire_answered(op, why);
        break;
    case OP_REACQUIRE:
        reacquire_answered(l, why);
        break;
    case OP_RENEW:
        renew_answered(l, why);
        op_tell(op, why);
        break;
    case OP_READY:
        ready_answered(l, why);
        break;
    case OP_RELEASE:
        l->dead = true;
        if (rq->tries > 1 && err.code == SNAP_ESTALE) /* the first try did it */
            why = NULL;
        op_tell(op, why);
        break;
    }
    client_kick(l->client);
    request_done(rq);
    free(op);
}

static int op_pack(struct lease_op *op, struct err *reterr)
{
    const struct snapwire_lease *l = op->lease;

    if (op->kind == OP_ACQUIRE || op->kind == OP_REACQUIRE) {
        const bool again = op->kind == OP_REACQUIRE;
        Snapwire__V1__LeaseAcquire m = SNAPWIRE__V1__LEASE_ACQUIRE__INIT;
        m.volume = pb_uuid(&l->info.volume);
        m.instance = pb_uuid(&l->info.instance);
        m.epoch = again ? l->info.epoch : l->config.epoch;
        m.origin_size_bytes = l->config.origin_size_bytes;
        m.origin_fingerprint.data = (uint8_t *)(uintptr_t)l->fingerprint;
        m.origin_fingerprint.len = l->config.origin_fingerprint_bytes;
        m.new_origin = !again && l->config.new_origin;
        m.steal = !again && l->config.steal;
        op->rq.method = SNAPWIRE__V1__METHOD__METHOD_LEASE_ACQUIRE;
        return request_pack(&op->rq, &m.base, reterr);
    }
    Snapwire__V1__LeaseRef m = SNAPWIRE__V1__LEASE_REF__INIT;
    m.volume = pb_uuid(&l->info.volume);
    m.epoch = l->info.epoch;
    m.head = pb_uuid(&l->info.head);
    op->rq.method = op->kind == OP_RENEW   ? SNAPWIRE__V1__METHOD__METHOD_LEASE_RENEW
                    : op->kind == OP_READY ? SNAPWIRE__V1__METHOD__METHOD_HEAD_READY
                                           : SNAPWIRE__V1__METHOD__METHOD_LEASE_RELEASE;
    return request_pack(&op->rq, &m.base, reterr);
}

static int op_begin(const struct lease_op *like, struct err *reterr)
{
    struct lease_op *op = malloc(sizeof *op);

    if (op == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a lease's request");
    *op = *like;
    op->rq.done = op_done;
    if (op->kind == OP_RENEW || op->kind == OP_READY)
        op->rq.lease = op->lease;
    op->rq.internal = op->acquired == NULL && op->done == NULL;
    int r = op_pack(op, reterr);
    if (r == 0)
        r = request_submit(op->lease->client, &op->rq, reterr);
    if (r < 0) {
        request_done(&op->rq);
        free(op);
        return r;
    }
    op->lease->pending++;
    if (op->kind == OP_READY)
        op->lease->ready = &op->rq;
    return 0;
}

void lease_doubt(struct snapwire_lease *l)
{
    if (l->renewing || l->dead || (l->state != LEASE_HELD && l->state != LEASE_LAPSED))
        return;
    l->renewing = op_begin(&(struct lease_op){.lease = l, .kind = OP_RENEW}, NULL) == 0;
}

static void lease_reacquire(struct snapwire_lease *l)
{
    if (!l->reacquiring)
        l->reacquiring = op_begin(&(struct lease_op){.lease = l, .kind = OP_REACQUIRE}, NULL) == 0;
}

static void lease_renew_cb(void *user)
{
    struct snapwire_lease *l = user;
    const uint32_t third_ms = l->info.ttl_ms / RENEWALS_IN_TTL;

    if (l->dead || (l->state != LEASE_HELD && l->state != LEASE_LAPSED))
        return;
    loop_timer_set(&l->renew_timer, third_ms > RENEW_MS_MIN ? third_ms : RENEW_MS_MIN);
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

    LIST_FOREACH(l, &c->leases, link)
    {
        if (!l->dead && (l->state == LEASE_HELD || l->state == LEASE_LAPSED))
            lease_reacquire(l);
    }
}

void lease_disconnected(struct snapwire_client *c)
{
    struct snapwire_lease *l;

    LIST_FOREACH(l, &c->leases, link)
    {
        l->confirmed = false;
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
    Snapwire__V1__LeaseRef *m = snapwire__v1__lease_ref__unpack(NULL, control_bytes, control);
    if (m == NULL || !pb_uuid_get(&m->volume, &volume)) {
        if (m != NULL)
            snapwire__v1__lease_ref__free_unpacked(m, NULL);
        return pb_refuse(reterr, "lease event");
    }
    const uint64_t epoch = m->epoch;
    snapwire__v1__lease_ref__free_unpacked(m, NULL);
    LIST_FOREACH(l, &c->leases, link)
    {
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

    LIST_FOREACH(l, &c->leases, link)
    {
        if (l->dead || l->quiesce != QUIESCE_READY || !l->confirmed ||
            (l->stream != NULL && !stream_idle(l->stream)))
            continue;
        if (op_begin(&(struct lease_op){.lease = l, .kind = OP_READY}, NULL) == 0)
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

    LIST_FOREACH(l, &c->leases, link)
    {
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
            free(l);
        }
        l = next;
    }
}

void lease_fail_all(struct snapwire_client *c, const struct err *why)
{
    struct snapwire_lease *l;

    LIST_FOREACH(l, &c->leases, link)
    {
        if (l->state == LEASE_HELD || l->state == LEASE_LAPSED)
            lease_lose(l, why);
    }
}

/* -- the public functions -- */

static void lease_kill(struct snapwire_lease *l)
{
    const struct err why = {.code = SNAP_ECANCELED, .text = "the lease was let go"};

    l->dead = true;
    l->notices = 0;
    loop_timer_stop(&l->renew_timer);
    loop_timer_stop(&l->lapse_timer);
    if (l->stream != NULL && !l->stream->closing)
        snapwire_stream_close(l->stream, NULL, NULL);
    request_end_of_lease(l, &why);
    client_kick(l->client);
}

void lease_close_all(struct snapwire_client *c)
{
    struct snapwire_lease *l;

    LIST_FOREACH(l, &c->leases, link)
    {
        if (!l->dead)
            lease_kill(l);
    }
}

void snapwire_lease_free(struct snapwire_lease *l)
{
    if (l != NULL && !l->dead)
        lease_kill(l);
}

static int lease_new(struct snapwire_client *c, const struct snapwire_lease_config *config,
                     struct snapwire_lease **ret, struct err *reterr)
{
    struct snapwire_lease *l = calloc(1, sizeof *l);

    if (l == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a lease");
    l->client = c;
    int r = public_args(&l->config, sizeof l->config, config, sizeof l->config, reterr);
    if (r == 0 && snapwire_uuid_is_zero(&l->config.volume))
        r = err_set(reterr, SNAP_EINVAL, "a lease needs a volume");
    if (r == 0 && l->config.origin_fingerprint_bytes > sizeof l->fingerprint)
        r = err_set(reterr, SNAP_EINVAL, "an origin's fingerprint has at most %zu bytes",
                    sizeof l->fingerprint);
    if (r == 0)
        r = loop_timer_init(c->loop, &l->renew_timer, lease_renew_cb, l, reterr);
    if (r == 0)
        r = loop_timer_init(c->loop, &l->lapse_timer, lease_lapse_cb, l, reterr);
    if (r < 0) {
        if (l->renew_timer.event != NULL)
            loop_timer_done(&l->renew_timer);
        free(l);
        return r;
    }
    if (l->config.origin_fingerprint_bytes > 0)
        memcpy(l->fingerprint, l->config.origin_fingerprint, l->config.origin_fingerprint_bytes);
    l->config.origin_fingerprint = NULL;
    l->info.volume = l->config.volume;
    l->info.epoch = l->config.epoch;
    l->info.instance =
        snapwire_uuid_is_zero(&l->config.instance) ? snapwire_uuid_make() : l->config.instance;
    l->info.head_name = l->head_name;
    *ret = l;
    return 0;
}

static int lease_acquire(struct snapwire_client *c, const struct snapwire_lease_config *config,
                         snapwire_lease_cb cb, void *user, struct err *reterr)
{
    struct snapwire_lease *l = NULL;
    int r = lease_new(c, config, &l, reterr);

    if (r < 0)
        return r;
    LIST_INSERT_HEAD(&c->leases, l, link);
    r = op_begin(&(struct lease_op){.lease = l, .kind = OP_ACQUIRE, .acquired = cb, .user = user},
                 reterr);
    if (r < 0) {
        l->dead = true;
        client_kick(c);
    }
    return r;
}

int snapwire_lease_acquire(struct snapwire_client *c, const struct snapwire_lease_config *config,
                           snapwire_lease_cb cb, void *user, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr, lease_acquire(c, config, cb, user, &err), &err);
}

static void acquired_sync(void *user, const struct snapwire_error *error,
                          struct snapwire_lease *lease)
{
    struct sync_wait *wait = user;

    sync_done_cb(user, error);
    wait->result = lease;
}

int snapwire_lease_acquire_sync(struct snapwire_client *c,
                                const struct snapwire_lease_config *config,
                                struct snapwire_lease **ret, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    struct sync_wait wait = {0};
    void *lease = NULL;
    int r = sync_check(c, &err);

    if (r == 0)
        r = sync_finish(c, lease_acquire(c, config, acquired_sync, &wait, &err), &wait, &lease,
                        &err);
    if (r == 0)
        *ret = lease;
    return public_error(reterr, r, &err);
}

static int lease_renew(struct snapwire_lease *l, snapwire_done_cb cb, void *user,
                       struct err *reterr)
{
    const int r = lease_check_usable(l, reterr);

    return r < 0 ? r
                 : op_begin(
                       &(struct lease_op){.lease = l, .kind = OP_RENEW, .done = cb, .user = user},
                       reterr);
}

int snapwire_lease_renew(struct snapwire_lease *l, snapwire_done_cb cb, void *user,
                         struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr, lease_renew(l, cb, user, &err), &err);
}

int snapwire_lease_renew_sync(struct snapwire_lease *l, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    struct sync_wait wait = {0};
    int r = sync_check(l->client, &err);

    if (r == 0)
        r = sync_finish(l->client, lease_renew(l, sync_done_cb, &wait, &err), &wait, NULL, &err);
    return public_error(reterr, r, &err);
}

static int lease_release(struct snapwire_lease *l, snapwire_done_cb cb, void *user,
                         struct err *reterr)
{
    const struct err why = {.code = SNAP_ECANCELED, .text = "the lease is given back"};

    if (l->stream != NULL && !l->stream->closing)
        return err_set(reterr, SNAP_EBUSY, "the lease's stream is open");
    if (l->dead || l->state == LEASE_RELEASING)
        return err_set(reterr, SNAP_EINVAL, "the lease was given back");
    const int r = op_begin(
        &(struct lease_op){.lease = l, .kind = OP_RELEASE, .done = cb, .user = user}, reterr);
    if (r < 0)
        return r;
    l->state = LEASE_RELEASING;
    l->notices = 0;
    loop_timer_stop(&l->renew_timer);
    loop_timer_stop(&l->lapse_timer);
    request_end_of_lease(l, &why);
    return 0;
}

int snapwire_lease_release(struct snapwire_lease *l, snapwire_done_cb cb, void *user,
                           struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr, lease_release(l, cb, user, &err), &err);
}

int snapwire_lease_release_sync(struct snapwire_lease *l, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    struct sync_wait wait = {0};
    struct snapwire_client *c = l->client;
    int r = sync_check(c, &err);

    if (r == 0)
        r = sync_finish(c, lease_release(l, sync_done_cb, &wait, &err), &wait, NULL, &err);
    return public_error(reterr, r, &err);
}
