/* SPDX-License-Identifier: Apache-2.0 */
/* A writer for tests: a client with a lease, and what its callbacks saw. */
#ifndef SNAP_TESTS_WRITER_H
#define SNAP_TESTS_WRITER_H

#include "tests/unit/client/fake_daemon.h"

struct writer {
    struct fake *f;
    struct snapwire_client *client;
    struct snapwire_lease *lease;
    struct snapwire_stream *stream;
    struct outcome acquired;
    unsigned quiesced, heads, lapsed, resumed, lost, drained;
    struct snapwire_uuid head; /* of the last head_changed */
    struct snapwire_error why;
    char order[64]; /* what happened, a letter each: h head, p put that failed, l lost */
};

static inline void writer_note(struct writer *w, char what)
{
    const size_t len = strlen(w->order);

    if (len + 1 < sizeof w->order)
        w->order[len] = what;
}

static inline void on_acquired(void *user, const struct snapwire_error *error,
                               struct snapwire_lease *lease)
{
    struct writer *w = user;

    outcome_cb(&w->acquired, error);
    w->lease = lease;
}

static inline void on_quiesce(void *user, struct snapwire_lease *lease)
{
    struct writer *w = user;

    assert_ptr_equal(lease, w->lease);
    w->quiesced++;
}

static inline void on_head(void *user, struct snapwire_lease *lease,
                           const struct snapwire_lease_info *info)
{
    struct writer *w = user;

    assert_ptr_equal(lease, w->lease);
    w->heads++;
    w->head = info->head;
    writer_note(w, 'h');
}

static inline void on_lapsed(void *user, struct snapwire_lease *lease,
                             const struct snapwire_error *why)
{
    struct writer *w = user;

    (void)lease;
    w->lapsed++;
    w->why = *why;
}

static inline void on_resumed(void *user, struct snapwire_lease *lease)
{
    struct writer *w = user;

    (void)lease;
    w->resumed++;
}

static inline void on_lost(void *user, struct snapwire_lease *lease,
                           const struct snapwire_error *why)
{
    struct writer *w = user;

    (void)lease;
    w->lost++;
    w->why = *why;
    writer_note(w, 'l');
}

static inline void on_drained(void *user, struct snapwire_stream *stream)
{
    struct writer *w = user;

    assert_ptr_equal(stream, w->stream);
    w->drained++;
}

static inline struct snapwire_lease_config lease_config_of(struct writer *w)
{
    return (struct snapwire_lease_config){.size = sizeof(struct snapwire_lease_config),
                                          .volume = w->f->volume,
                                          .origin_size_bytes = UINT64_C(1) << 30,
                                          .quiesce = on_quiesce,
                                          .head_changed = on_head,
                                          .lapsed = on_lapsed,
                                          .resumed = on_resumed,
                                          .lost = on_lost,
                                          .user = w};
}

/* With its lease, on a fake daemon that may have been set up before. */
static inline void writer_begin(struct writer *w, struct fake *f)
{
    memset(w, 0, sizeof *w);
    w->f = f;
    w->client = client_of(f, NULL, NULL);
    const struct snapwire_lease_config config = lease_config_of(w);
    struct snapwire_error e;
    if (snapwire_lease_acquire(w->client, &config, on_acquired, w, &e) < 0)
        fail_msg("acquire: %s", e.text);
    RUN_UNTIL(f, w->acquired.calls == 1);
    assert_int_equal(w->acquired.code, 0);
}

static inline void writer_stream(struct writer *w, const struct snapwire_stream_config *like)
{
    struct snapwire_stream_config config =
        like != NULL ? *like : (struct snapwire_stream_config){.size = sizeof config};
    struct snapwire_error e;

    config.size = sizeof config;
    config.drained = on_drained;
    config.user = w;
    if (snapwire_stream_new(w->lease, &config, &w->stream, &e) < 0)
        fail_msg("stream: %s", e.text);
}

/* With its lease and a stream, on a fake daemon of its own. */
static inline void writer_begin_stream(struct writer *w, const struct snapwire_stream_config *like)
{
    writer_begin(w, fake_new());
    writer_stream(w, like);
}

/* The same, and puts are not answered. */
static inline void writer_begin_held(struct writer *w, const struct snapwire_stream_config *like)
{
    writer_begin_stream(w, like);
    w->f->hold = METHOD(COW_PUT);
}

/* Until `count` of a method have been asked. Returns the last of them. */
static inline struct fake_asked *await_asked(struct fake *f, uint16_t method, unsigned count)
{
    RUN_UNTIL(f, fake_count(f, method) == count);
    return fake_nth(f, method, count - 1);
}

static inline struct fake_asked *writer_await_puts(struct writer *w, unsigned count)
{
    return await_asked(w->f, METHOD(COW_PUT), count);
}

/* The daemon wants a new head and the writer agrees. Returns its HEAD_READY, unanswered. */
static inline struct fake_asked *writer_stand_still(struct writer *w)
{
    fake_event(w->f, METHOD(EVENT_QUIESCE));
    RUN_UNTIL(w->f, w->quiesced == 1);
    assert_int_equal(snapwire_lease_head_ready(w->lease, NULL), 0);
    return await_asked(w->f, METHOD(HEAD_READY), 1);
}

static inline void writer_end(struct writer *w)
{
    close_and_free(w->f, w->client);
}

static inline struct snapwire_uuid asked_head(const struct fake_asked *a)
{
    struct snapwire_uuid head = {{0}};
    Snapwire__V1__CowPut *m = snapwire__v1__cow_put__unpack(NULL, a->control_bytes, a->control);

    assert_non_null(m);
    if (m->head.len == sizeof head.b)
        memcpy(head.b, m->head.data, sizeof head.b);
    snapwire__v1__cow_put__free_unpacked(m, NULL);
    return head;
}

#endif
