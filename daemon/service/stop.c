/* SPDX-License-Identifier: Apache-2.0 */
/* Stopping without lying.
 *
 *   stage      what happens                               goes on when
 *   requests   listeners closed, GOAWAY, new requests     every answer is out,
 *              refused, waits for writers given up        or half of the time is over
 *   sessions   connections closed once sent               none is left, or time is over
 *   volumes    puts in flight end, stores and devices     all closed, or time is over
 *              close
 *
 * Every put that was acknowledged is durable at that moment already, so running out of
 * time loses answers, never data. Thread: main's, on its timer.
 */
#include "daemon/service/service_priv.h"

#include "common/base/bytes.h"
#include "common/base/log.h"
#include "daemon/service/group_turn.h"
#include "daemon/volume/change.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STOP_POLL_MS = 20 };

int64_t service_requests_under_way(const struct service *s)
{
    int64_t sum = 0;
    for (unsigned i = 0; i < s->server.part_count; i++)
        sum += atomic_load(&s->server.parts[i].under_way);
    return sum;
}

/* -- messages to every part -------------------------------------------------------------- */

/* What is told to a part on the way down; there from the start, since who has no memory left is
 * stopped, too. */
enum part_message_kind { PART_DRAIN, PART_CLOSE, PART_ABORT, PART_VOLUMES, PART_MESSAGES };

struct part_message {
    struct loop_msg msg;
    struct service *service;
    struct part *part;
    void (*fn)(struct part_message *m);
    uint64_t left;
    _Atomic bool under_way;
};

static void part_message_run(struct loop_msg *msg)
{
    struct part_message *m = CONTAINER_OF(msg, struct part_message, msg);
    m->fn(m);
}

static void part_message_end(struct part_message *m)
{
    atomic_store(&m->under_way, false);
}

static void part_message_all(struct service *s, enum part_message_kind kind,
                             void (*fn)(struct part_message *m))
{
    for (unsigned i = 0; i < s->server.part_count; i++) {
        struct part_message *m = &s->stop_messages[i * PART_MESSAGES + kind];
        if (atomic_exchange(&m->under_way, true))
            continue;
        m->msg.fn = part_message_run;
        m->service = s;
        m->part = &s->server.parts[i];
        m->fn = fn;
        shard_post(m->part->shard, &m->msg);
    }
}

static void stop_volume_waits(struct volume *v, void *user)
{
    (void)user;
    snapshot_create_cancel(v);
}

static void stop_drain_part(struct part_message *m)
{
    part_drain(m->part);
    volume_set_each(&m->part->set, stop_volume_waits, NULL);
    part_message_end(m);
}

static void stop_close_part(struct part_message *m)
{
    struct session *s, *next;
    for (s = TAILQ_FIRST(&m->part->sessions); s != NULL; s = next) {
        next = TAILQ_NEXT(s, link);
        if (s->chan != NULL)
            chan_close(s->chan);
    }
    part_message_end(m);
}

static void stop_abort_part(struct part_message *m)
{
    struct err err = ERR_INIT;
    (void)err_set(&err, SNAP_ESHUTDOWN, "the daemon is stopping");
    part_abort_sessions(m->part, &err);
    part_message_end(m);
}

static void stop_volume_closed(void *user, int code, const struct err *err)
{
    (void)code;
    (void)err;
    struct part_message *m = user;
    if (--m->left > 0)
        return;
    part_message_end(m);
    atomic_fetch_sub(&m->service->parts_closing, 1);
}

static void stop_volumes_part(struct part_message *m)
{
    /* closing removes from the set: one at a time from a list of its own */
    struct volume_set *set = &m->part->set;
    m->left = 1;
    for (unsigned i = 0; i < VOLUME_SET_BUCKETS; i++) {
        struct volume *v, *next;
        for (v = LIST_FIRST(&set->buckets[i]); v != NULL; v = next) {
            next = LIST_NEXT(v, link);
            if (v->leaving)
                continue; /* a deletion closes it */
            m->left++;
            volume_close(v, stop_volume_closed, m);
        }
    }
    stop_volume_closed(m, 0, NULL);
}

/* -- stages --------------------------------------------------------------------------------- */

static void stop_finish(struct service *s)
{
    s->stage = STOP_DONE;
    loop_timer_stop(&s->stop_timer);
    s->stop_done(s->stop_user, s->stop_clean);
}

static void stop_step(void *user)
{
    struct service *s = user;
    uint64_t now = clock_now_ns(s->server.env.clock);
    uint64_t half_ns = (uint64_t)s->live.shutdown_timeout_ms * 500000;
    bool over = now >= s->stop_deadline_ns;
    bool half_over = now + half_ns >= s->stop_deadline_ns;
    if (s->stage == STOP_REQUESTS && (service_requests_under_way(s) == 0 || half_over)) {
        if (service_requests_under_way(s) > 0)
            LOG_WARN("stopping with unanswered requests",
                     F_I64("requests", service_requests_under_way(s)));
        s->stage = STOP_SESSIONS;
        part_message_all(s, PART_CLOSE, stop_close_part);
    } else if (s->stage == STOP_SESSIONS) {
        if (atomic_load(&s->server.connections) == 0) {
            s->stage = STOP_VOLUMES;
            atomic_store(&s->parts_closing, s->server.part_count);
            s->stop_clean = true;
            part_message_all(s, PART_VOLUMES, stop_volumes_part);
        } else if (now + half_ns / 2 >= s->stop_deadline_ns) {
            part_message_all(s, PART_ABORT, stop_abort_part);
        }
    } else if (s->stage == STOP_VOLUMES && atomic_load(&s->parts_closing) == 0) {
        stop_finish(s);
        return;
    }
    if (over) {
        s->stop_clean = false;
        stop_finish(s);
        return;
    }
    loop_timer_set(&s->stop_timer, STOP_POLL_MS);
}

static void service_close_listeners(struct service *s)
{
    for (unsigned i = 0; i < s->listener_count; i++)
        listener_free(s->listeners[i]);
    s->listener_count = 0;
    http_server_free(s->http);
    s->http = NULL;
}

int service_stop_prepare(struct service *s, struct err *reterr)
{
    s->stop_messages =
        calloc((size_t)s->server.part_count * PART_MESSAGES, sizeof *s->stop_messages);
    if (s->stop_messages == NULL)
        return err_set(reterr, SNAP_ENOMEM, "shards");
    int rc = loop_timer_init(s->server.main_loop, &s->stop_timer, stop_step, s, reterr);
    s->stop_timer_ready = rc == 0;
    return rc;
}

void service_stop(struct service *s, void (*done)(void *user, bool clean), void *user)
{
    s->stop_done = done;
    s->stop_user = user;
    s->stage = STOP_REQUESTS;
    s->stop_deadline_ns =
        clock_now_ns(s->server.env.clock) + (uint64_t)s->live.shutdown_timeout_ms * 1000000;
    service_close_listeners(s);
    watch_stop(&s->watch);
    part_message_all(s, PART_DRAIN, stop_drain_part);
    loop_timer_set(&s->stop_timer, STOP_POLL_MS);
}

void service_free(struct service *s)
{
    if (s == NULL)
        return;
    struct server *server = &s->server;
    service_close_listeners(s);
    watch_stop(&s->watch);
    if (s->stop_timer_ready)
        loop_timer_done(&s->stop_timer);
    control_free(server->control);
    for (unsigned i = 0; i < server->part_count; i++) {
        struct part *part = &server->parts[i];
        shard_free(part->shard);
        volume_set_done(&part->set);
        tls_context_unref(part->tls);
    }
    free(server->parts);
    free(s->stop_messages);
    tls_context_unref(s->tls);
    registry_close(server->registry);
    acl_unref(server->acl);
    clients_free(server->clients);
    group_turns_free(server->group_turns);
    state_volumes_done(&s->found);
    for (unsigned i = 0; i < server->warning_count; i++)
        free(server->warnings[i]);
    if (s->lock_fd >= 0)
        (void)close(s->lock_fd);
    free(s);
}
