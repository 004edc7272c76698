/* SPDX-License-Identifier: Apache-2.0 */
/* Requests: queued, sent, answered, sent again.
 *
 *   state     what moves it on
 *   waiting   the connection is up, its lease confirmed on it, the peer takes one more
 *   sent      its answer; a broken connection puts it back among the waiting, in order
 *   ended     the turn's end, as soon as the channel no longer holds its payload
 *
 * An id is given anew with each sending, and chosen so that its slot in the table
 * of sent requests is free: looking an answer up is one array access. An answer to
 * an id that was given out but is no longer there is of a request that timed out,
 * and is dropped; one to an id that never was breaks the protocol.
 *
 * Must not know what the messages say. Thread: the client's.
 */
#include "client/lib/lease_priv.h"
#include "common/base/check.h"

#include <stdlib.h>
#include <string.h>

int request_pack(struct request *rq, const ProtobufCMessage *m, struct err *reterr)
{
    const size_t bytes = protobuf_c_message_get_packed_size(m);

    if (bytes > LIMIT_FRAME_CONTROL_BYTES)
        return err_set(reterr, SNAP_ELIMIT, "the request is %zu bytes long, %d are the most", bytes,
                       (int)LIMIT_FRAME_CONTROL_BYTES);
    uint8_t *control = malloc(bytes > 0 ? bytes : 1);
    if (control == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a request");
    (void)protobuf_c_message_pack(m, control);
    free(rq->control);
    rq->control = control;
    rq->control_bytes = (uint32_t)bytes;
    return 0;
}

void request_done(struct request *rq)
{
    CHECK(rq->place == REQUEST_NEW && !rq->borrowed);
    free(rq->control);
    rq->control = NULL;
}

/* -- the lists -- */

static void waiting_insert(struct snapwire_client *c, struct request *rq)
{
    struct request *at = TAILQ_LAST(&c->waiting, request_list);

    while (at != NULL && at->seq > rq->seq)
        at = TAILQ_PREV(at, request_list, link);
    if (at == NULL)
        TAILQ_INSERT_HEAD(&c->waiting, rq, link);
    else
        TAILQ_INSERT_AFTER(&c->waiting, at, rq, link);
    rq->place = REQUEST_WAITING;
}

static void sent_remove(struct snapwire_client *c, struct request *rq)
{
    TAILQ_REMOVE(&c->sent, rq, link);
    c->slots[rq->id % CLIENT_SLOTS] = NULL;
    c->sent_count--;
}

static void request_unlink(struct snapwire_client *c, struct request *rq)
{
    switch (rq->place) {
    case REQUEST_WAITING:
        TAILQ_REMOVE(&c->waiting, rq, link);
        break;
    case REQUEST_SENT:
        sent_remove(c, rq);
        break;
    case REQUEST_ENDED:
        TAILQ_REMOVE(&c->ended, rq, link);
        break;
    case REQUEST_NEW:
        break;
    }
    rq->place = REQUEST_NEW;
}

/* It leaves the client: the last the library's core does with it. */
static void request_finish(struct request *rq, const struct request_answer *a)
{
    struct snapwire_client *c = rq->client;

    request_unlink(c, rq);
    if (!rq->internal)
        c->counted--;
    if (rq->lease != NULL)
        rq->lease->pending--;
    rq->done(rq, a);
}

static void expire_by(struct snapwire_client *c, uint64_t deadline_ns)
{
    const uint64_t now_ns = client_now_ns();

    if (deadline_ns == 0 || (c->expire_at_ns != 0 && c->expire_at_ns <= deadline_ns))
        return;
    c->expire_at_ns = deadline_ns;
    loop_timer_set(&c->expire_timer,
                   deadline_ns > now_ns ? (deadline_ns - now_ns) / 1000000 + 1 : 0);
}

int request_submit(struct snapwire_client *c, struct request *rq, struct err *reterr)
{
    const int r = client_check(c, reterr);

    if (r < 0)
        return r;
    if (!rq->internal && c->counted >= c->config.requests_max)
        return err_set(reterr, SNAP_ELIMIT, "%u requests are unanswered already", c->counted);
    rq->client = c;
    rq->seq = ++c->next_seq;
    rq->tries = 0;
    if (rq->timeout_ms == 0 && !rq->internal)
        rq->timeout_ms = c->timeout_ms;
    if (rq->timeout_ms != 0)
        rq->deadline_ns = client_now_ns() + (uint64_t)rq->timeout_ms * 1000000;
    if (!rq->internal)
        c->counted++;
    if (rq->lease != NULL)
        rq->lease->pending++;
    TAILQ_INSERT_TAIL(&c->waiting, rq, link);
    rq->place = REQUEST_WAITING;
    expire_by(c, rq->deadline_ns);
    c->connect_wanted = true;
    client_kick(c);
    return 0;
}

void request_end(struct request *rq, const struct err *why)
{
    struct snapwire_client *c = rq->client;

    if (rq->place == REQUEST_ENDED)
        return;
    CHECK(rq->place != REQUEST_NEW);
    request_unlink(c, rq);
    rq->err = *why;
    rq->place = REQUEST_ENDED;
    TAILQ_INSERT_TAIL(&c->ended, rq, link);
    client_kick(c);
}

void request_refuse(struct snapwire_client *c, struct request *rq, const struct err *why)
{
    rq->client = c;
    rq->err = *why;
    if (!rq->internal)
        c->counted++;
    if (rq->lease != NULL)
        rq->lease->pending++;
    rq->place = REQUEST_ENDED;
    TAILQ_INSERT_TAIL(&c->ended, rq, link);
    client_kick(c);
}

void request_end_all(struct snapwire_client *c, const struct err *why)
{
    struct request *rq;

    while ((rq = TAILQ_FIRST(&c->waiting)) != NULL || (rq = TAILQ_FIRST(&c->sent)) != NULL)
        request_end(rq, why);
}

void request_end_of_lease(struct snapwire_lease *lease, const struct err *why)
{
    struct snapwire_client *c = lease->client;
    struct request_list *const lists[] = {&c->waiting, &c->sent};

    for (unsigned i = 0; i < 2; i++) {
        struct request *rq = TAILQ_FIRST(lists[i]);
        while (rq != NULL) {
            struct request *next = TAILQ_NEXT(rq, link);
            if (rq->lease == lease)
                request_end(rq, why);
            rq = next;
        }
    }
}

void request_deliver_ended(struct snapwire_client *c)
{
    /* done() may end others: those are taken in the same pass */
    for (;;) {
        struct request *rq = TAILQ_FIRST(&c->ended);
        while (rq != NULL && rq->borrowed)
            rq = TAILQ_NEXT(rq, link);
        if (rq == NULL)
            return;
        const struct err why = rq->err;
        request_finish(rq, &(struct request_answer){.err = &why});
    }
}

void request_requeue_all(struct snapwire_client *c)
{
    struct request *rq;

    while ((rq = TAILQ_LAST(&c->sent, request_list)) != NULL) {
        sent_remove(c, rq);
        waiting_insert(c, rq);
    }
}

/* -- sending -- */

static void request_released(void *user)
{
    struct request *rq = user;

    rq->borrowed = false;
    if (rq->place == REQUEST_ENDED)
        client_kick(rq->client);
}

/* An id whose slot is free; 0: none. */
static uint64_t id_take(struct snapwire_client *c)
{
    for (unsigned i = 0; i < CLIENT_SLOTS; i++) {
        const uint64_t id = c->next_id++;
        if (c->slots[id % CLIENT_SLOTS] == NULL)
            return id;
    }
    return 0;
}

static bool request_fits(const struct snapwire_client *c, const struct request *rq, struct err *why)
{
    if (rq->payload_bytes > c->payload_peer_max) {
        (void)err_set(why, SNAP_ELIMIT, "%llu bytes of payload, the daemon takes %u",
                      (unsigned long long)rq->payload_bytes, c->payload_peer_max);
        return false;
    }
    if (rq->control_bytes > c->control_peer_max) {
        (void)err_set(why, SNAP_ELIMIT, "a request of %u bytes, the daemon takes %u",
                      rq->control_bytes, c->control_peer_max);
        return false;
    }
    return true;
}

/* False: the channel takes nothing more for now. */
static bool request_send(struct snapwire_client *c, struct request *rq)
{
    struct err why = ERR_INIT;

    if (!request_fits(c, rq, &why)) {
        request_end(rq, &why);
        return true;
    }
    const uint64_t id = id_take(c);
    if (id == 0)
        return false;
    const struct chan_out out = {
        .kind = FRAME_REQUEST,
        .method = rq->method,
        .id = id,
        .control = rq->control,
        .control_bytes = rq->control_bytes,
        .iov = rq->iov,
        .iov_count = rq->iov_count,
        .released = rq->iov_count > 0 ? request_released : NULL,
        .user = rq,
    };
    rq->sent_ns = client_now_ns();
    rq->borrowed = rq->iov_count > 0;
    const int r = chan_send(c->chan, &out, &why);
    if (r < 0) {
        rq->borrowed = false;
        if (r == SNAP_ECONN || r == SNAP_ELIMIT) /* down follows, or drained */
            return false;
        request_end(rq, &why);
        return true;
    }
    TAILQ_REMOVE(&c->waiting, rq, link);
    TAILQ_INSERT_TAIL(&c->sent, rq, link);
    rq->place = REQUEST_SENT;
    rq->id = id;
    rq->tries++;
    c->slots[id % CLIENT_SLOTS] = rq;
    c->sent_count++;
    return true;
}

void request_pump(struct snapwire_client *c)
{
    struct request *rq = TAILQ_FIRST(&c->waiting);

    while (rq != NULL && c->up && !c->draining && c->sent_count < c->requests_peer_max) {
        struct request *next = TAILQ_NEXT(rq, link);
        const bool may = rq->lease == NULL || rq->lease->confirmed;
        if (may && !request_send(c, rq))
            return;
        rq = next;
    }
}

/* -- answers -- */

static void answer_error(struct snapwire_client *c, struct request *rq, const struct chan_frame *f)
{
    struct err why = ERR_INIT;
    uint64_t loss;

    convert_error(f->control, f->header.control_bytes, &why, &loss);
    if (why.code == SNAP_ESHUTDOWN) { /* it was refused, not done: for the next connection */
        sent_remove(c, rq);
        rq->tries--;
        waiting_insert(c, rq);
        client_drain(c);
        return;
    }
    client_proven(c);
    request_finish(rq, &(struct request_answer){.err = &why, .loss = loss});
}

void request_answer(struct snapwire_client *c, const struct chan_frame *f)
{
    const uint64_t id = f->header.id;
    struct request *rq = c->slots[id % CLIENT_SLOTS];
    struct err why = ERR_INIT;

    if (rq == NULL || rq->id != id) {
        if (id == 0 || id >= c->next_id) {
            (void)err_set(&why, SNAP_EPROTO, "the daemon answered request %llu, which never was",
                          (unsigned long long)id);
            client_abort(c, &why);
        }
        return;
    }
    if (rq->method != f->header.method || rq->borrowed) {
        (void)err_set(&why, SNAP_EPROTO, "the daemon answered request %llu %s",
                      (unsigned long long)id,
                      rq->borrowed ? "before it had it" : "as another method");
        client_abort(c, &why);
        return;
    }
    if (f->header.flags & FRAME_ERROR) {
        answer_error(c, rq, f);
        return;
    }
    client_proven(c);
    const struct request_answer a = {
        .control = f->control, .control_bytes = f->header.control_bytes, .payload = f->payload};
    if (rq->lease != NULL)
        lease_touch(rq->lease, rq->sent_ns);
    request_finish(rq, &a);
}

/* -- time-outs -- */

static void request_time_out(struct snapwire_client *c, struct request *rq, uint64_t now_ns)
{
    struct err why = ERR_INIT;
    const char *behind = c->up ? "" : "; ";

    (void)err_set(&why, SNAP_ETIMEDOUT, "no answer within %u ms%s%.300s", rq->timeout_ms, behind,
                  c->up ? "" : c->why.text);
    if (!rq->unbounded && !rq->borrowed) {
        request_end(rq, &why);
        return;
    }
    rq->deadline_ns = now_ns + (uint64_t)rq->timeout_ms * 1000000;
    if (rq->place == REQUEST_SENT)
        client_abort(c, &why);
}

void request_expire(struct snapwire_client *c)
{
    struct request_list *const lists[] = {&c->waiting, &c->sent};
    const uint64_t now_ns = client_now_ns();
    uint64_t next_ns = 0;

    for (unsigned i = 0; i < 2; i++) {
        struct request *rq = TAILQ_FIRST(lists[i]);
        while (rq != NULL) {
            struct request *next = TAILQ_NEXT(rq, link);
            if (rq->deadline_ns != 0 && rq->deadline_ns <= now_ns)
                request_time_out(c, rq, now_ns);
            if (rq->place != REQUEST_ENDED && rq->deadline_ns != 0 &&
                (next_ns == 0 || rq->deadline_ns < next_ns))
                next_ns = rq->deadline_ns;
            rq = next;
        }
    }
    c->expire_at_ns = 0;
    expire_by(c, next_ns);
}
