/* SPDX-License-Identifier: Apache-2.0 */
/* What the holder of a lease is told on the volume's own account: to stand still, or that the lease
 * is lost. Thread: the volume's shard's, and then the connection's home's.
 */
#include "daemon/service/session_priv.h"

#include "common/base/bytes.h"

#include <stdlib.h>

struct session_event {
    struct loop_msg msg;
    struct part *part;
    uint64_t session;
    enum volume_event event;
    struct uuid volume, head;
    uint64_t epoch;
};

static void session_event_run(struct loop_msg *msg)
{
    struct session_event *e = CONTAINER_OF(msg, struct session_event, msg);
    struct session *s;
    TAILQ_FOREACH (s, &e->part->sessions, link)
        if (s->id == e->session && s->chan != NULL)
            break;
    if (s != NULL) {
        Snapwire__V1__LeaseRef ref = SNAPWIRE__V1__LEASE_REF__INIT;
        ref.volume = (ProtobufCBinaryData){.data = e->volume.b, .len = UUID_BYTES};
        ref.epoch = e->epoch;
        if (!uuid_is_zero(&e->head))
            ref.head = (ProtobufCBinaryData){.data = e->head.b, .len = UUID_BYTES};
        uint8_t packed[128];
        struct chan_out out = {.kind = FRAME_EVENT,
                               .method = e->event == VOLUME_EVENT_QUIESCE
                                             ? SNAPWIRE__V1__METHOD__METHOD_EVENT_QUIESCE
                                             : SNAPWIRE__V1__METHOD__METHOD_EVENT_LEASE_LOST,
                               .control = packed,
                               .control_bytes =
                                   (uint32_t)protobuf_c_message_pack(&ref.base, packed)};
        struct err err = ERR_INIT;
        if (e->event == VOLUME_EVENT_LEASE_LOST)
            metrics_add(&e->part->metrics.leases_lost, 1);
        if (chan_send(s->chan, &out, &err) < 0)
            chan_abort(s->chan, &err);
    }
    free(e);
}

/* A writer that was not told of an event hears of what it is about when it is back. */
void session_events_lost(struct loop_msg *msg)
{
    struct part *part = CONTAINER_OF(msg, struct part, events_lost);
    struct session *s, *next;
    struct err err = ERR_INIT;
    (void)err_set(&err, SNAP_ENOMEM, "no memory to tell of an event");
    atomic_store(&part->events_lost_posted, false);
    for (s = TAILQ_FIRST(&part->sessions); s != NULL; s = next) {
        next = TAILQ_NEXT(s, link);
        if (s->chan != NULL && !LIST_EMPTY(&s->leases))
            chan_abort(s->chan, &err);
    }
}

/* Where there is no memory for an event, all writers of the part lose their connection. */
void session_tell(struct volume *v, const struct volume_holder *h, enum volume_event event)
{
    struct part *here = CONTAINER_OF(v->set, struct part, set);
    struct part *home = &here->server->parts[h->shard];
    struct session_event *e = calloc(1, sizeof *e);
    if (e == NULL) {
        if (!atomic_exchange(&home->events_lost_posted, true))
            shard_post(home->shard, &home->events_lost);
        return;
    }
    const struct snapshot *head = volume_head(v);
    *e = (struct session_event){.msg = {.fn = session_event_run},
                                .part = home,
                                .session = h->session,
                                .event = event,
                                .volume = v->record.id,
                                .epoch = h->epoch};
    if (head != NULL)
        e->head = head->id;
    shard_post(e->part->shard, &e->msg);
}
