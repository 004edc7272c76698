/* SPDX-License-Identifier: Apache-2.0 */
/* What a test does to a remote volume: its writer takes the lease and puts old content, a merge
 * gives it back. */
#ifndef SNAP_TESTS_UNIT_VOLUME_REMOTE_FIXTURE_H
#define SNAP_TESTS_UNIT_VOLUME_REMOTE_FIXTURE_H

#include "daemon/volume/put.h"
#include "tests/unit/volume/volume_fixture.h"

/* -- the writer ------------------------------------------------------------------------ */

static inline void fixture_tell(struct volume *v, const struct volume_holder *h,
                                enum volume_event event)
{
    (void)h;
    struct fixture *f = (struct fixture *)((char *)v->set - offsetof(struct fixture, set));
    if (event == VOLUME_EVENT_QUIESCE)
        f->quiesced++;
    else
        f->lost++;
}

/* Until the holder has been asked to stand still so often. */
static inline void fixture_wait_quiesced(const struct fixture *f, unsigned times)
{
    for (int i = 0; i < 4000 && f->quiesced < times; i++)
        (void)usleep(1000);
    assert_int_equal(f->quiesced, times);
}

struct writer {
    const char *identity;
    struct uuid instance;
    uint64_t epoch;
    uint64_t session;
    bool steal;
    uint64_t size_bytes;
    const char *fingerprint;
    bool new_origin;
};

static inline void fixture_do_acquire(struct call *c)
{
    const struct writer *w = c->arg;
    struct volume_lease_request r = {
        .ask = {.identity = w->identity,
                .instance = w->instance,
                .epoch = w->epoch,
                .steal = w->steal},
        .origin_size_bytes = w->size_bytes,
        .fingerprint = (const uint8_t *)w->fingerprint,
        .fingerprint_bytes = w->fingerprint != NULL ? (uint32_t)strlen(w->fingerprint) : 0,
        .new_origin = w->new_origin,
        .holder = {.tell = fixture_tell, .session = w->session}};
    volume_lease_acquire(c->f->volume, &r, call_end, c);
}

static inline struct writer fixture_writer(const struct fixture *f, const char *identity)
{
    return (struct writer){
        .identity = identity, .instance = f->instance, .session = 1, .size_bytes = SIZE};
}

/* A lease for "w"; returns its epoch. */
static inline uint64_t fixture_lease(struct fixture *f)
{
    struct writer w = fixture_writer(f, "w");
    assert_int_equal(call(f, fixture_do_acquire, &w), 0);
    return f->volume->lease.epoch;
}

static inline void fixture_do_ready(struct call *c)
{
    struct volume *v = c->f->volume;
    volume_head_ready(v, "w", v->lease.epoch, 1, call_end, c);
}

/* One step of a merge by "w". */
struct merging {
    struct volume_merge m;
    void (*fn)(struct volume *v, struct volume_merge *m);
    struct call *call;
};

static inline void fixture_merge_called(struct volume_merge *m, int code, const struct err *err)
{
    struct merging *g = m->user;
    call_end(g->call, code, err);
}

static inline void fixture_do_merge(struct call *c)
{
    struct merging *g = c->arg;
    g->call = c;
    g->m.identity = "w";
    g->m.epoch = c->f->volume->lease.epoch;
    g->m.done = fixture_merge_called;
    g->m.user = g;
    g->fn(c->f->volume, &g->m);
}

/* -- puts --------------------------------------------------------------------------------- */

struct batch {
    struct volume_put put;
    struct call *call;
    uint64_t old_chunks[CHUNKS], zero_chunks[CHUNKS];
    uint32_t old_count, zero_count;
    uint8_t fill; /* content of every chunk: this byte + its number */
    uint64_t epoch;
    struct uuid head;
    struct buf *buf;
    uint32_t added, existed, failed;
    int first_code;
    int16_t outcomes[2 * CHUNKS]; /* the zeros' behind the others' */
};

static inline void fixture_put_done(struct volume_put *p, int code, const struct err *err)
{
    struct batch *b = p->user;
    b->added = p->added;
    b->existed = p->existed;
    b->failed = p->failed;
    b->first_code = p->first_fail.code;
    if (p->outcomes != NULL)
        memcpy(b->outcomes, p->outcomes, (b->old_count + b->zero_count) * sizeof *p->outcomes);
    volume_put_done(p);
    buf_give(b->buf);
    call_end(b->call, code, err);
}

static inline void fixture_do_put(struct call *c)
{
    struct batch *b = c->arg;
    b->call = c;
    b->buf = buf_take(c->f->shard->pool, (size_t)b->old_count * CHUNK_BYTES + 1);
    for (uint32_t i = 0; i < b->old_count; i++)
        memset(b->buf->data + (size_t)i * CHUNK_BYTES, (int)(b->fill + b->old_chunks[i]),
               CHUNK_BYTES);
    b->put = (struct volume_put){.identity = "w",
                                 .epoch = b->epoch,
                                 .head = b->head,
                                 .old_chunks = b->old_chunks,
                                 .old_count = b->old_count,
                                 .payload = b->buf->data,
                                 .payload_bytes = (size_t)b->old_count * CHUNK_BYTES,
                                 .zero_chunks = b->zero_chunks,
                                 .zero_count = b->zero_count,
                                 .done = fixture_put_done,
                                 .user = b};
    volume_put_start(c->f->volume, &b->put);
}

/* Chunks first … first + count - 1. */
static inline struct batch fixture_batch(struct uuid head, uint64_t epoch, uint64_t first,
                                         uint32_t count, uint8_t fill)
{
    struct batch b = {.old_count = count, .fill = fill, .epoch = epoch, .head = head};
    for (uint32_t i = 0; i < count; i++)
        b.old_chunks[i] = first + i;
    return b;
}

static inline void fixture_put(struct fixture *f, struct uuid head, uint64_t epoch, uint64_t first,
                               uint32_t count, uint8_t fill)
{
    struct batch b = fixture_batch(head, epoch, first, count, fill);
    assert_int_equal(call(f, fixture_do_put, &b), 0);
    assert_int_equal(b.failed, 0);
}

static inline void fixture_expect(struct fixture *f, struct uuid snapshot, int (*want)(unsigned))
{
    struct reading *g = calloc(1, sizeof *g);
    g->snapshot = snapshot;
    g->len = SIZE;
    assert_int_equal(call(f, fixture_do_read, g), 0);
    for (unsigned i = 0; i < SIZE; i++)
        if (g->bytes[i] != want(i / CHUNK_BYTES))
            fail_msg("byte %u (chunk %u) is %d, not %d", i, i / CHUNK_BYTES, g->bytes[i],
                     want(i / CHUNK_BYTES));
    free(g);
}

#endif
