/* SPDX-License-Identifier: Apache-2.0 */
/* The lease's own requests, and what their answers make of it.
 *
 *   acquire     LEASE_ACQUIRE, epoch as the caller said    held, or the caller's error
 *   reacquire   LEASE_ACQUIRE, the epoch that is held      confirmed, or lost
 *   renew       LEASE_RENEW                                time goes on; the head as it is now
 *   ready       HEAD_READY                                 a new head
 *   release     LEASE_RELEASE                              freed, whatever the answer
 *
 * All but release are answered with a Lease message, which is taken over in one
 * place: another epoch than the one held means that the lease ended, another head
 * that what was put to the old one is stale.
 *
 * Of late writes only an acquire tells: a lease that is taken up again is one during which no
 * head was made without the writer.
 *
 * Thread: the client's.
 */
#include "client/lib/lease_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static void lease_head_moved(struct snapwire_lease *l, const struct snapwire_uuid *head,
                             bool told_broken)
{
    const struct err over = {.code = SNAP_ECANCELED, .text = "there is a new head already"};

    l->info.head = *head;
    l->info.broken = l->info.broken && (told_broken || l->breaking);
    l->quiesce = QUIESCE_NONE;
    if (l->ready != NULL)
        request_end(l->ready, &over);
    l->head_wanted = false;
    if (l->stream != NULL)
        stream_head_changed(l->stream, head);
    lease_notice(l, NOTICE_HEAD);
}

/* Take a Lease message over. Of an acquire its epoch is news, else it must be the one held. A
 * re-acquire may have said of the head which is answered, too, that it is broken. */
static int lease_adopt(struct snapwire_lease *l, const struct request_answer *a, uint64_t sent_ns,
                       enum lease_op_kind kind, struct err *reterr)
{
    const bool first = kind == OP_ACQUIRE, told_broken = kind == OP_REACQUIRE;
    struct snapwire_uuid head;
    ProtobufCMessage *base = NULL;
    const int unpacked = pb_unpack(&snapwire__v1__lease__descriptor, a, "lease", &base, reterr);
    Snapwire__V1__Lease *m = (Snapwire__V1__Lease *)base;

    if (unpacked < 0)
        return unpacked;
    if (!lease_message_is_sound(l, m, &head)) {
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
    l->info.head_seq = m->head_seq;
    (void)snprintf(l->head_name, sizeof l->head_name, "%s", m->head_name);
    snapwire__v1__lease__free_unpacked(m, NULL);
    lease_touch(l, sent_ns);
    if (first)
        l->info.head = head;
    else if (moved)
        lease_head_moved(l, &head, told_broken);
    return 0;
}

/* -- requests of the lease's own -- */

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
        if (l->breaking)
            lease_break_end(l, NULL);
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
    if (err != NULL && err->code == SNAP_ENOMEM) { /* somebody waits for it: it is sent again */
        l->quiesce = QUIESCE_AGAIN;
        loop_timer_set(&l->renew_timer, RENEW_MS_MIN);
        return;
    }
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
    const bool superseded = op->kind == OP_REACQUIRE && l->reacquire != rq;
    if (l->reacquire == rq)
        l->reacquire = NULL;
    if (a->err != NULL)
        (void)err_copy(&err, a->err);
    else if (op->kind != OP_RELEASE && !l->dead)
        err.code = lease_adopt(l, a, rq->sent_ns, op->kind, &err);
    const struct err *why = err.code != 0 ? &err : NULL;
    switch (op->kind) {
    case OP_ACQUIRE:
        acquire_answered(op, why);
        break;
    case OP_REACQUIRE:
        if (!superseded)
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
        m.goes_on = l->config.goes_on;
        m.broken = l->info.broken;
        if (!again && l->config.late) {
            m.outlasted_case = SNAPWIRE__V1__LEASE_ACQUIRE__OUTLASTED_LATE_AFTER_SEQ;
            m.late_after_seq = l->config.late_after_seq;
        }
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

int lease_op_begin(const struct lease_op *like, struct err *reterr)
{
    struct lease_op *op = malloc(sizeof *op);

    if (op == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a lease's request");
    *op = *like;
    op->rq.done = op_done;
    if (op->kind == OP_RENEW || op->kind == OP_READY)
        op->rq.lease = op->lease;
    op->rq.internal = op->acquired == NULL && op->done == NULL;
    if (op->rq.internal && op->kind != OP_READY) { /* a new head may take its time */
        op->rq.timeout_ms = op->lease->client->timeout_ms;
        op->rq.unbounded = true;
    }
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
    if (op->kind == OP_REACQUIRE)
        op->lease->reacquire = &op->rq;
    return 0;
}

void lease_doubt(struct snapwire_lease *l)
{
    if (l->renewing || l->dead || (l->state != LEASE_HELD && l->state != LEASE_LAPSED))
        return;
    l->renewing = lease_op_begin(&(struct lease_op){.lease = l, .kind = OP_RENEW}, NULL) == 0;
}

void lease_reacquire(struct snapwire_lease *l)
{
    if (!l->reacquiring)
        l->reacquiring =
            lease_op_begin(&(struct lease_op){.lease = l, .kind = OP_REACQUIRE}, NULL) == 0;
}
