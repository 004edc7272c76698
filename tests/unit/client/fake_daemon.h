/* SPDX-License-Identifier: Apache-2.0 */
/* A daemon for tests: the server side of a channel on a Unix socket in a folder of
 * its own, on the same event_base as the client. It keeps what it was asked, and
 * answers the lease, pings and puts by itself unless told to hold them. */
#ifndef SNAP_TESTS_FAKE_DAEMON_H
#define SNAP_TESTS_FAKE_DAEMON_H

#include "client/lib/snapwire.h"
#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/uuid.h"
#include "common/net/addr.h"
#include "common/net/chan.h"
#include "common/net/loop.h"
#include "proto/snapwire.pb-c.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define METHOD(name) SNAPWIRE__V1__METHOD__METHOD_##name

enum { FAKE_ASKED_MAX = 512 };

struct fake_asked {
    uint16_t method;
    uint64_t id;
    unsigned connection; /* 1: the first */
    bool answered;
    uint8_t *control;
    uint32_t control_bytes;
    uint8_t *payload;
    uint32_t payload_bytes;
};

struct fake {
    struct event_base *base;
    struct loop *loop;
    struct tmpdir dir;
    char address[TMPDIR_FILE_BYTES + 8];
    struct listener *listener;
    struct buf_pool *pool;
    struct chan *chan;
    unsigned connections;
    struct fake_asked asked[FAKE_ASKED_MAX];
    unsigned asked_count;
    uint16_t hold; /* this method is not answered by itself; 0xffff: none is */
    /* the lease it grants */
    struct snapwire_uuid volume, head;
    uint64_t epoch;
    uint32_t ttl_ms, chunk_sectors, head_seq;
    int refuse_acquire;    /* SNAP_E…: how a LEASE_ACQUIRE is answered */
    uint32_t requests_max; /* that it tells the client */
    struct uuid boot;      /* likewise; nil: none */
};

static inline ProtobufCBinaryData fake_uuid(const struct snapwire_uuid *u)
{
    return (ProtobufCBinaryData){.len = snapwire_uuid_is_zero(u) ? 0 : sizeof u->b,
                                 .data = (uint8_t *)(uintptr_t)u->b};
}

static inline void fake_send(struct fake *f, uint8_t kind, uint16_t flags, uint16_t method,
                             uint64_t id, const ProtobufCMessage *m, const struct iovec *iov)
{
    uint8_t *control = malloc(protobuf_c_message_get_packed_size(m) + 1);
    const struct chan_out out = {
        .kind = kind,
        .flags = flags,
        .method = method,
        .id = id,
        .control = control,
        .control_bytes = (uint32_t)protobuf_c_message_pack(m, control),
        .iov = iov,
        .iov_count = iov != NULL ? 1 : 0,
    };
    struct err err = ERR_INIT;

    assert_int_equal(chan_send(f->chan, &out, &err), 0);
    free(control);
}

static inline void fake_answer(struct fake *f, struct fake_asked *a, const ProtobufCMessage *m)
{
    a->answered = true;
    fake_send(f, FRAME_RESPONSE, 0, a->method, a->id, m, NULL);
}

static inline void fake_answer_error(struct fake *f, struct fake_asked *a, int code,
                                     const char *text)
{
    Snapwire__V1__Error m = SNAPWIRE__V1__ERROR__INIT;

    m.code = (uint32_t)-code;
    m.text = (char *)(uintptr_t)text;
    a->answered = true;
    fake_send(f, FRAME_RESPONSE, FRAME_ERROR, a->method, a->id, &m.base, NULL);
}

static inline void fake_lease_fill(const struct fake *f, Snapwire__V1__Lease *m)
{
    snapwire__v1__lease__init(m);
    m->volume = fake_uuid(&f->volume);
    m->epoch = f->epoch;
    m->head = fake_uuid(&f->head);
    m->head_name = (char *)(uintptr_t) "head";
    m->ttl_ms = f->ttl_ms;
    m->chunk_size_sectors = f->chunk_sectors;
    m->head_seq = f->head_seq;
    m->size_bytes = UINT64_C(1) << 30;
}

static inline void fake_answer_lease(struct fake *f, struct fake_asked *a)
{
    Snapwire__V1__Lease m;

    fake_lease_fill(f, &m);
    fake_answer(f, a, &m.base);
}

/* All chunks of a put were added. */
static inline void fake_answer_put(struct fake *f, struct fake_asked *a)
{
    Snapwire__V1__CowPut *put = snapwire__v1__cow_put__unpack(NULL, a->control_bytes, a->control);
    Snapwire__V1__CowPutResponse m = SNAPWIRE__V1__COW_PUT_RESPONSE__INIT;

    assert_non_null(put);
    m.added = (uint32_t)(put->n_old_chunks + put->n_zero_chunks);
    snapwire__v1__cow_put__free_unpacked(put, NULL);
    fake_answer(f, a, &m.base);
}

static inline void fake_event(struct fake *f, uint16_t method)
{
    Snapwire__V1__LeaseRef m = SNAPWIRE__V1__LEASE_REF__INIT;

    m.volume = fake_uuid(&f->volume);
    m.epoch = f->epoch;
    m.head = fake_uuid(&f->head);
    fake_send(f, FRAME_EVENT, 0, method, 0, &m.base, NULL);
}

static inline void fake_answer_by_itself(struct fake *f, struct fake_asked *a)
{
    Snapwire__V1__Empty empty = SNAPWIRE__V1__EMPTY__INIT;

    switch (a->method) {
    case METHOD(LEASE_ACQUIRE):
        if (f->refuse_acquire != 0) {
            fake_answer_error(f, a, f->refuse_acquire, "refused");
            break;
        }
        fake_answer_lease(f, a);
        break;
    case METHOD(LEASE_RENEW):
        fake_answer_lease(f, a);
        break;
    case METHOD(PING):
    case METHOD(LEASE_RELEASE):
        fake_answer(f, a, &empty.base);
        break;
    case METHOD(COW_PUT):
        fake_answer_put(f, a);
        break;
    default:
        break; /* the test does */
    }
}

static inline void fake_frame(struct chan *c, void *user, struct chan_frame *frame)
{
    struct fake *f = user;

    (void)c;
    assert_true(f->asked_count < FAKE_ASKED_MAX);
    struct fake_asked *a = &f->asked[f->asked_count++];
    a->method = frame->header.method;
    a->id = frame->header.id;
    a->connection = f->connections;
    a->control_bytes = frame->header.control_bytes;
    a->control = malloc(a->control_bytes + 1);
    if (a->control_bytes > 0)
        memcpy(a->control, frame->control, a->control_bytes);
    a->payload_bytes = frame->header.payload_bytes;
    if (frame->payload != NULL) {
        a->payload = malloc(a->payload_bytes);
        memcpy(a->payload, frame->payload->data, a->payload_bytes);
    }
    chan_frame_done(frame);
    if (f->hold != a->method && f->hold != 0xffff)
        fake_answer_by_itself(f, a);
}

static inline void fake_up(struct chan *c, void *user, const struct chan_peer *peer)
{
    (void)c;
    (void)user;
    (void)peer;
}

static inline void fake_down(struct chan *c, void *user, const struct err *why)
{
    struct fake *f = user;

    (void)why;
    if (f->chan == c)
        f->chan = NULL;
}

static inline void fake_accepted(void *user, int fd, bool local)
{
    static const struct chan_ops ops = {.up = fake_up, .frame = fake_frame, .down = fake_down};
    struct fake *f = user;
    const struct chan_config config = {.pool = f->pool,
                                       .software = "fake 1",
                                       .requests_max = f->requests_max,
                                       .boot = f->boot,
                                       .send_queue_bytes_max = 64 << 20};
    struct err err = ERR_INIT;

    assert_true(local);
    f->connections++;
    assert_int_equal(chan_new_server(f->loop, fd, &config, &ops, f, &f->chan, &err), 0);
}

static inline void fake_listen(struct fake *f)
{
    struct addr a;
    struct err err = ERR_INIT;

    assert_int_equal(addr_parse(f->address, &a, &err), 0);
    assert_int_equal(listener_new(f->loop, &a, 0600, fake_accepted, f, &f->listener, &err), 0);
}

static inline struct fake *fake_new_on(struct loop *own)
{
    struct fake *f = calloc(1, sizeof *f);
    struct err err = ERR_INIT;
    char path[TMPDIR_FILE_BYTES];

    if (own != NULL) {
        f->loop = own;
    } else {
        f->base = event_base_new();
        assert_int_equal(loop_wrap(f->base, &f->loop, &err), 0);
    }
    tmpdir_make(&f->dir);
    (void)snprintf(f->address, sizeof f->address, "unix:%s", tmpdir_file(&f->dir, "s", path));
    f->pool = buf_pool_new(0);
    f->volume = snapwire_uuid_make();
    f->head = snapwire_uuid_make();
    f->epoch = 7;
    f->ttl_ms = 10000;
    f->chunk_sectors = 8;
    fake_listen(f);
    return f;
}

static inline struct fake *fake_new(void)
{
    return fake_new_on(NULL);
}

/* The daemon dies: what it had not answered is lost. */
static inline void fake_drop(struct fake *f)
{
    const struct err why = {.code = SNAP_ECONN, .text = "dropped"};

    assert_non_null(f->chan);
    chan_abort(f->chan, &why);
    f->chan = NULL;
}

static inline void fake_free(struct fake *f)
{
    if (f->chan != NULL)
        fake_drop(f);
    listener_free(f->listener);
    for (int i = 0; i < 50 && f->base != NULL; i++)
        (void)event_base_loop(f->base, EVLOOP_NONBLOCK);
    for (int i = 0; i < 50 && f->base == NULL; i++)
        loop_turn(f->loop, 0);
    for (unsigned i = 0; i < f->asked_count; i++) {
        free(f->asked[i].control);
        free(f->asked[i].payload);
    }
    loop_free(f->loop);
    buf_pool_free(f->pool);
    if (f->base != NULL)
        event_base_free(f->base);
    tmpdir_remove(&f->dir);
    free(f);
}

/* Of one method: how many came, and the n-th. */
static inline unsigned fake_count(const struct fake *f, uint16_t method)
{
    unsigned n = 0;

    for (unsigned i = 0; i < f->asked_count; i++)
        n += f->asked[i].method == method;
    return n;
}

static inline struct fake_asked *fake_nth(struct fake *f, uint16_t method, unsigned n)
{
    for (unsigned i = 0; i < f->asked_count; i++) {
        if (f->asked[i].method == method && n-- == 0)
            return &f->asked[i];
    }
    fail_msg("method %u was not asked often enough", method);
    return NULL;
}

static inline uint64_t test_now_ms(void)
{
    return clock_now_ns(clock_system()) / 1000000;
}

/* Run the base until the expression holds; a test that waits longer than 5 s fails. */
#define RUN_UNTIL(f, expr)                                 \
    do {                                                   \
        const uint64_t end_ms_ = test_now_ms() + 5000;     \
        while (!(expr)) {                                  \
            if (test_now_ms() > end_ms_)                   \
                fail_msg("waited in vain for: %s", #expr); \
            run_once(f);                                   \
        }                                                  \
    } while (0)

static inline void run_once(struct fake *f)
{
    const struct timeval tick = {0, 2000};

    (void)event_base_loopexit(f->base, &tick);
    (void)event_base_loop(f->base, EVLOOP_ONCE);
}

static inline void run_for_ms(struct fake *f, unsigned ms)
{
    const uint64_t end_ms = test_now_ms() + ms;

    while (test_now_ms() < end_ms)
        run_once(f);
}

static inline struct snapwire_client *client_of(struct fake *f, void *user,
                                                void (*state)(void *, struct snapwire_client *,
                                                              enum snapwire_state,
                                                              const struct snapwire_error *))
{
    const struct snapwire_config config = {.size = sizeof config,
                                           .addresses = f->address,
                                           .backoff_min_ms = 1,
                                           .backoff_max_ms = 20,
                                           .request_timeout_ms = 4000,
                                           .state_changed = state,
                                           .user = user};
    struct snapwire_client *c = NULL;
    struct snapwire_error e;

    if (snapwire_client_new(f->base, &config, &c, &e) < 0)
        fail_msg("client: %s", e.text);
    return c;
}

static inline void set_true(void *user)
{
    *(bool *)user = true;
}

static inline void close_and_free(struct fake *f, struct snapwire_client *c)
{
    bool closed = false;

    snapwire_client_close(c, set_true, &closed);
    RUN_UNTIL(f, closed);
    run_for_ms(f, 5);
    fake_free(f);
}

/* The end of a request without a result. */
struct outcome {
    unsigned calls;
    int code;
    char text[480];
};

static inline void outcome_cb(void *user, const struct snapwire_error *error)
{
    struct outcome *o = user;

    o->calls++;
    o->code = error != NULL ? error->code : 0;
    (void)snprintf(o->text, sizeof o->text, "%s", error != NULL ? error->text : "");
}

#endif
