/* SPDX-License-Identifier: Apache-2.0 */
/* The COW stream's public side: room, puts, flush, close.
 *
 * Bounded in flight by bytes and by chunks: a put that goes over is told
 * SNAPWIRE_WOULD_BLOCK, and `drained` runs once a quarter is free again. The same
 * answer is given from the moment the writer stands still until the new head is
 * known. One put is always taken, however small the bounds.
 *
 * A flush covers the batches gathered before it: each batch carries the number of
 * the flush that will cover it, and a flush is over when none with its number or a
 * lower one is left.
 *
 * Must not know frames. Thread: the client's.
 */
#include "client/lib/lease_priv.h"

#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_BATCH_BYTES = 1024 * 1024,
    DEFAULT_INFLIGHT_BYTES = 16 * 1024 * 1024,
    DEFAULT_INFLIGHT_CHUNKS = 65536,
};

/* -- making one -- */

static int stream_new(struct snapwire_lease *l, const struct snapwire_stream_config *config,
                      struct snapwire_stream **ret, struct err *reterr)
{
    static const struct snapwire_stream_config none = {.size = sizeof none};
    struct snapwire_stream_config k;
    int r = lease_check_usable(l, reterr);

    if (r == 0)
        r = public_args(&k, sizeof k, config != NULL ? config : &none, sizeof k, reterr);
    if (r < 0)
        return r;
    if (l->stream != NULL)
        return err_set(reterr, SNAP_EBUSY, "the lease has a stream already");
    struct snapwire_stream *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a stream");
    if (k.batch_bytes_max == 0)
        k.batch_bytes_max = DEFAULT_BATCH_BYTES;
    if (k.batch_bytes_max > LIMIT_FRAME_PAYLOAD_BYTES)
        k.batch_bytes_max = LIMIT_FRAME_PAYLOAD_BYTES;
    if (k.batch_chunks_max == 0 || k.batch_chunks_max > LIMIT_BATCH_CHUNKS)
        k.batch_chunks_max = LIMIT_BATCH_CHUNKS;
    if (k.inflight_bytes_max == 0)
        k.inflight_bytes_max = DEFAULT_INFLIGHT_BYTES;
    if (k.inflight_chunks_max == 0)
        k.inflight_chunks_max = DEFAULT_INFLIGHT_CHUNKS;
    s->config = k;
    s->client = l->client;
    s->lease = l;
    TAILQ_INIT(&s->batches);
    STAILQ_INIT(&s->waiters);
    STAILQ_INIT(&s->spare);
    l->stream = s;
    LIST_INSERT_HEAD(&l->client->streams, s, link);
    *ret = s;
    return 0;
}

int snapwire_stream_new(struct snapwire_lease *l, const struct snapwire_stream_config *config,
                        struct snapwire_stream **ret, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr, stream_new(l, config, ret, &err), &err);
}

/* -- puts -- */

uint32_t snapwire_stream_put_max(const struct snapwire_stream *s)
{
    const uint64_t chunk_bytes = stream_chunk_bytes(s);
    uint64_t bytes = s->config.batch_bytes_max;

    if (chunk_bytes == 0)
        return 1;
    if (bytes > s->client->payload_peer_max)
        bytes = s->client->payload_peer_max;
    const uint64_t chunks = bytes / chunk_bytes;
    if (chunks == 0)
        return 1;
    return chunks < s->config.batch_chunks_max ? (uint32_t)chunks : s->config.batch_chunks_max;
}

static bool stream_is_still(const struct snapwire_stream *s)
{
    return s->lease->quiesce >= QUIESCE_READY;
}

static bool stream_has_room(const struct snapwire_stream *s, uint32_t count, uint64_t bytes)
{
    if (stream_is_still(s))
        return false;
    if (s->inflight_chunks == 0)
        return true;
    return s->inflight_bytes + bytes <= s->config.inflight_bytes_max &&
           (uint64_t)s->inflight_chunks + count <= s->config.inflight_chunks_max;
}

static int put_check(const struct snapwire_stream *s, const struct put *p, struct err *reterr)
{
    const uint64_t chunk_bytes = stream_chunk_bytes(s);
    const uint64_t size = s->lease->info.size_bytes;

    if (s->closing)
        return err_set(reterr, SNAP_ECANCELED, "the stream is closed");
    const int r = lease_check_usable(s->lease, reterr);
    if (r < 0)
        return r;
    if (s->lease->info.broken)
        return err_set(reterr, SNAP_EUNVERIFIED, "the head is broken: nothing is put to it");
    if (chunk_bytes == 0)
        return err_set(reterr, SNAP_ENOENT, "the volume has no snapshot to put chunks to");
    if (p->count == 0 || p->count > snapwire_stream_put_max(s))
        return err_set(reterr, SNAP_EINVAL, "a put of %u chunks; 1 to %u are possible", p->count,
                       snapwire_stream_put_max(s));
    const uint64_t chunks = size / chunk_bytes + (size % chunk_bytes != 0);
    if (p->count > chunks || p->old_chunk > chunks - p->count)
        return err_set(reterr, SNAP_EINVAL, "chunk %llu + %u is behind the volume's last, %llu",
                       (unsigned long long)p->old_chunk, p->count, (unsigned long long)chunks);
    if (p->data == NULL && !(p->flags & SNAPWIRE_PUT_ZERO))
        return err_set(reterr, SNAP_EINVAL, "a put without data");
    return 0;
}

static int stream_put(struct snapwire_stream *s, const struct put *p, struct err *reterr)
{
    const int r = put_check(s, p, reterr);

    if (r < 0)
        return r;
    const uint64_t bytes = (p->flags & SNAPWIRE_PUT_ZERO) ? 0 : p->count * stream_chunk_bytes(s);
    if (!stream_has_room(s, p->count, bytes)) {
        s->blocked = true;
        s->stats.would_blocks++;
        return SNAPWIRE_WOULD_BLOCK;
    }
    return batch_add(s, p, reterr);
}

int snapwire_stream_put(struct snapwire_stream *s, uint64_t old_chunk, uint32_t count,
                        const void *data, unsigned flags, snapwire_put_cb cb, void *user,
                        struct snapwire_error *reterr)
{
    const struct put p = {.old_chunk = old_chunk,
                          .count = count,
                          .data = data,
                          .flags = flags,
                          .cb = cb,
                          .user = user};
    struct err err = ERR_INIT;

    return public_error(reterr, stream_put(s, &p, &err), &err);
}

int snapwire_stream_put_sync(struct snapwire_stream *s, uint64_t old_chunk, uint32_t count,
                             const void *data, unsigned flags, snapwire_put_cb cb, void *user,
                             struct snapwire_error *reterr)
{
    const struct put p = {.old_chunk = old_chunk,
                          .count = count,
                          .data = data,
                          .flags = flags,
                          .cb = cb,
                          .user = user};
    struct err err = ERR_INIT;
    int r = sync_check(s->client, &err);

    if (r < 0)
        return public_error(reterr, r, &err);
    while ((r = stream_put(s, &p, &err)) == SNAPWIRE_WOULD_BLOCK)
        snapwire_client_turn(s->client, -1);
    return public_error(reterr, r, &err);
}

/* -- flush -- */

static bool stream_is_flushed(const struct snapwire_stream *s, uint64_t flush_no)
{
    const struct batch *first = TAILQ_FIRST(&s->batches);

    if (first == NULL)
        first = s->open;
    return first == NULL || first->flush_no > flush_no;
}

static int stream_flush(struct snapwire_stream *s, snapwire_done_cb cb, void *user,
                        struct err *reterr)
{
    struct flush_waiter *w = calloc(1, sizeof *w);

    if (w == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a flush");
    batch_send_open(s);
    w->flush_no = s->flush_no++;
    w->cb = cb;
    w->user = user;
    w->err = s->err;
    err_clear(&s->err);
    STAILQ_INSERT_TAIL(&s->waiters, w, link);
    client_kick(s->client);
    return 0;
}

int snapwire_stream_flush(struct snapwire_stream *s, snapwire_done_cb cb, void *user,
                          struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr, stream_flush(s, cb, user, &err), &err);
}

int snapwire_stream_flush_sync(struct snapwire_stream *s, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    struct sync_wait wait = {0};
    int r = sync_check(s->client, &err);

    if (r == 0)
        r = sync_finish(s->client, stream_flush(s, sync_done_cb, &wait, &err), &wait, NULL, &err);
    return public_error(reterr, r, &err);
}

/* -- the hook's parts -- */

void stream_step_all(struct snapwire_client *c)
{
    struct snapwire_stream *s;

    LIST_FOREACH (s, &c->streams, link) {
        batch_send_open(s);
    }
}

static void stream_tell_drained(struct snapwire_stream *s)
{
    const struct snapwire_stream_config *k = &s->config;
    const bool lost = s->lease->state == LEASE_LOST;

    if (!s->blocked || s->closing)
        return;
    if (!lost && (stream_is_still(s) || (s->inflight_chunks > 0 &&
                                         (s->inflight_bytes > k->inflight_bytes_max / 4 * 3 ||
                                          s->inflight_chunks > k->inflight_chunks_max / 4 * 3))))
        return;
    s->blocked = false;
    if (k->drained != NULL)
        k->drained(k->user, s);
}

void stream_tell_all(struct snapwire_client *c)
{
    struct snapwire_stream *s;

    LIST_FOREACH (s, &c->streams, link) {
        struct flush_waiter *w;
        while ((w = STAILQ_FIRST(&s->waiters)) != NULL && stream_is_flushed(s, w->flush_no)) {
            STAILQ_REMOVE_HEAD(&s->waiters, link);
            const struct snapwire_error e = public_error_of(&w->err);
            if (w->cb != NULL)
                w->cb(w->user, w->err.code != 0 ? &e : NULL);
            free(w);
        }
        stream_tell_drained(s);
    }
}

void stream_reap_all(struct snapwire_client *c)
{
    struct snapwire_stream *s = LIST_FIRST(&c->streams);

    while (s != NULL) {
        struct snapwire_stream *next = LIST_NEXT(s, link);
        struct put *p;
        if (s->closing && stream_idle(s) && STAILQ_EMPTY(&s->waiters)) {
            LIST_REMOVE(s, link);
            s->lease->stream = NULL;
            client_kick(c);
            while ((p = STAILQ_FIRST(&s->spare)) != NULL) {
                STAILQ_REMOVE_HEAD(&s->spare, link);
                free(p);
            }
            if (s->closed != NULL)
                s->closed(s->closed_user);
            free(s);
        }
        s = next;
    }
}

/* -- the end -- */

void snapwire_stream_close(struct snapwire_stream *s, void (*closed)(void *user), void *user)
{
    const struct err why = {.code = SNAP_ECANCELED, .text = "the stream was closed"};

    if (s->closing)
        return;
    s->closing = true;
    s->closed = closed;
    s->closed_user = user;
    stream_end_all(s, &why);
    client_kick(s->client);
}

void stream_end_all_of(struct snapwire_client *c, const struct err *why)
{
    struct snapwire_stream *s;

    LIST_FOREACH (s, &c->streams, link) {
        stream_end_all(s, why);
    }
}

static void stream_closed_sync(void *user)
{
    bool *done = user;

    *done = true;
}

void snapwire_stream_free(struct snapwire_stream *s)
{
    bool done = false;

    if (s == NULL)
        return;
    struct snapwire_client *c = s->client;
    if (sync_check(c, NULL) < 0) {
        snapwire_stream_close(s, NULL, NULL);
    } else if (!s->closing) {
        snapwire_stream_close(s, stream_closed_sync, &done);
        sync_drive(c, &done);
    }
}

void snapwire_stream_stats(const struct snapwire_stream *s, struct snapwire_stream_stats *ret,
                           size_t stats_bytes)
{
    const size_t bytes = stats_bytes < sizeof s->stats ? stats_bytes : sizeof s->stats;

    memset(ret, 0, stats_bytes);
    memcpy(ret, &s->stats, bytes);
}
