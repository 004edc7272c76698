/* SPDX-License-Identifier: Apache-2.0 */
/* Batches: many puts, one frame.
 *
 *     put put put ──> open batch ──(full, or the turn's end)──> request ──> answer
 *      │   │   │                       │                                      │
 *      └───┴───┴── the caller's memory ┴─ iovec, no copy          one callback a put
 *
 * A batch's old chunks stand in its control message in the order of their puts,
 * its payload in the same order; zero chunks have a list of their own. Puts whose
 * memory is adjacent share an iovec element. A batch belongs to the head it was
 * gathered for; it is sent again under that head or ends as stale.
 *
 * The answer names the chunks that failed; a put fails when one of its chunks did.
 * An answer that names others, or more than there are, is a violation, and then no
 * put of the batch counts as durable.
 *
 * Must not know the lease's life. Thread: the client's.
 */
#include "client/lib/lease_priv.h"

#include <stdlib.h>
#include <string.h>

enum { SPARE_PUTS_MAX = 4096 };

uint64_t stream_chunk_bytes(const struct snapwire_stream *s)
{
    if (snapwire_uuid_is_zero(&s->lease->info.head))
        return 0;
    return chunk_bytes_of(s->lease->info.chunk_size_sectors);
}

bool stream_idle(const struct snapwire_stream *s)
{
    return s->open == NULL && TAILQ_EMPTY(&s->batches);
}

/* -- puts -- */

static struct put *put_take(struct snapwire_stream *s)
{
    struct put *p = STAILQ_FIRST(&s->spare);

    if (p == NULL)
        return malloc(sizeof *p);
    STAILQ_REMOVE_HEAD(&s->spare, link);
    s->spare_count--;
    return p;
}

static void put_give(struct snapwire_stream *s, struct put *p)
{
    if (s->spare_count >= SPARE_PUTS_MAX) {
        free(p);
        return;
    }
    STAILQ_INSERT_HEAD(&s->spare, p, link);
    s->spare_count++;
}

/* -- the answer -- */

static struct put *batch_find(struct batch *b, uint64_t chunk)
{
    struct put *p;

    STAILQ_FOREACH (p, &b->puts, link) {
        if (chunk >= p->old_chunk && chunk - p->old_chunk < p->count)
            return p;
    }
    return NULL;
}

static bool batch_mark_failed(struct batch *b, const Snapwire__V1__CowPutResponse *m)
{
    for (size_t i = 0; i < m->n_failed_chunks; i++) {
        struct put *p = batch_find(b, m->failed_chunks[i]);
        if (p == NULL || m->failed_codes[i] == 0 || m->failed_codes[i] > -(int)SNAP_EINTERNAL)
            return false;
        if (p->code == 0)
            p->code = -(int)m->failed_codes[i];
    }
    return true;
}

/* Marks what failed. Errors: SNAP_EPROTO, SNAP_ENOMEM; then all of it counts as failed. */
static int batch_read_answer(struct batch *b, const struct request_answer *a, struct err *ret_why,
                             struct err *reterr)
{
    struct snapwire_stream_stats *stats = &b->stream->stats;
    ProtobufCMessage *base = NULL;
    const int r = pb_unpack(&snapwire__v1__cow_put_response__descriptor, a, "put", &base, reterr);
    Snapwire__V1__CowPutResponse *m = (Snapwire__V1__CowPutResponse *)base;

    if (r < 0)
        return r;
    const bool sound = m->n_failed_chunks == m->n_failed_codes && m->n_failed_chunks <= b->chunks &&
                       m->added <= b->chunks && m->existed <= b->chunks && batch_mark_failed(b, m);
    if (sound) {
        stats->chunks_added += m->added;
        stats->chunks_existed += m->existed;
        stats->chunks_failed += m->n_failed_chunks;
        (void)err_set(ret_why, SNAP_EIO, "%s",
                      m->failed_text[0] != '\0' ? m->failed_text : "the daemon gives no reason");
    }
    snapwire__v1__cow_put_response__free_unpacked(m, NULL);
    return sound ? 0 : pb_refuse(reterr, "put");
}

static void stream_note_error(struct snapwire_stream *s, uint64_t flush_no, const struct err *why)
{
    struct flush_waiter *w;

    STAILQ_FOREACH (w, &s->waiters, link) {
        if (w->flush_no >= flush_no)
            break;
    }
    struct err *at = w != NULL ? &w->err : &s->err;
    if (at->code == 0)
        *at = *why;
}

static void put_finish(struct batch *b, struct put *p, const struct err *all, const struct err *why)
{
    struct snapwire_stream *s = b->stream;
    struct snapwire_error e;
    struct err err = ERR_INIT;

    if (all != NULL) {
        err = *all;
    } else if (p->code != 0) {
        err = *why;
        err.code = p->code;
    }
    if (err.code != 0) {
        (void)err_prefix(&err, "put of chunk %llu", (unsigned long long)p->old_chunk);
        stream_note_error(s, b->flush_no, &err);
        e = public_error_of(&err);
    }
    if (p->cb != NULL)
        p->cb(p->user, p->old_chunk, p->count, err.code != 0 ? &e : NULL);
    put_give(s, p);
}

static void batch_done(struct request *rq, const struct request_answer *a)
{
    struct batch *b = (struct batch *)rq;
    struct snapwire_stream *s = b->stream;
    struct err err = ERR_INIT, why = ERR_INIT;
    struct put *p;

    TAILQ_REMOVE(&s->batches, b, link);
    s->inflight_bytes -= b->bytes;
    s->inflight_chunks -= b->chunks;
    if (rq->tries > 1)
        s->stats.batches_replayed += rq->tries - 1;
    if (a->err != NULL)
        (void)err_copy(&err, a->err);
    else
        err.code = batch_read_answer(b, a, &why, &err);
    if (err.code != 0)
        s->stats.chunks_failed += b->chunks;
    if (err.code == SNAP_ESTALE)
        lease_doubt(s->lease);
    while ((p = STAILQ_FIRST(&b->puts)) != NULL) {
        STAILQ_REMOVE_HEAD(&b->puts, link);
        if (p->code == SNAP_ESTALE)
            lease_doubt(s->lease);
        put_finish(b, p, err.code != 0 ? &err : NULL, &why);
    }
    request_done(rq);
    free(b->iov);
    free(b);
    client_kick(s->client);
}

/* -- gathering -- */

/* A batch is at most a quarter of what may be in flight: one that is gathered, one on the wire,
 * one being made durable and one whose answer is on its way keep both sides at work at once.
 * Zeros have no bytes here; the daemon has a bound for what they stand for. */
static bool batch_takes(const struct batch *b, uint32_t count, uint64_t bytes)
{
    const struct snapwire_stream_config *k = &b->stream->config;

    if (b->chunks == 0)
        return true;
    return b->chunks + count <= k->batch_chunks_max &&
           b->chunks + count <= k->inflight_chunks_max / 4 &&
           (b->chunks + count) * stream_chunk_bytes(b->stream) <= LIMIT_BATCH_ZERO_BYTES &&
           b->bytes + bytes <= b->stream->client->payload_peer_max &&
           b->bytes + bytes <= k->batch_bytes_max && b->bytes + bytes <= k->inflight_bytes_max / 4;
}

int batch_add(struct snapwire_stream *s, const struct put *args, struct err *reterr)
{
    const bool zero = (args->flags & SNAPWIRE_PUT_ZERO) != 0;
    const uint64_t bytes = zero ? 0 : args->count * stream_chunk_bytes(s);

    if (s->open != NULL && !batch_takes(s->open, args->count, bytes))
        batch_send_open(s);
    struct put *p = put_take(s);
    if (p != NULL && s->open == NULL) {
        s->open = calloc(1, sizeof *s->open);
        if (s->open == NULL)
            put_give(s, p);
        else
            STAILQ_INIT(&s->open->puts);
    }
    struct batch *b = s->open;
    if (p == NULL || b == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a put");
    b->stream = s;
    b->head = s->lease->info.head;
    b->flush_no = s->flush_no;
    *p = *args;
    p->code = 0;
    STAILQ_INSERT_TAIL(&b->puts, p, link);
    b->put_count++;
    b->chunks += p->count;
    b->data_chunks += zero ? 0 : p->count;
    b->bytes += bytes;
    s->inflight_bytes += bytes;
    s->inflight_chunks += p->count;
    s->stats.puts++;
    s->stats.chunks += p->count;
    s->stats.zero_chunks += zero ? p->count : 0;
    s->stats.bytes += bytes;
    if (!batch_takes(b, 1, stream_chunk_bytes(s)))
        batch_send_open(s);
    client_kick(s->client);
    return 0;
}

/* The payload in the order of the puts; neighbours in memory become one element. */
static void batch_fill_iov(struct batch *b)
{
    const uint64_t chunk_bytes = b->data_chunks > 0 ? b->bytes / b->data_chunks : 0;
    unsigned n = 0;
    struct put *p;

    STAILQ_FOREACH (p, &b->puts, link) {
        if (p->flags & SNAPWIRE_PUT_ZERO)
            continue;
        const size_t len = (size_t)(p->count * chunk_bytes);
        if (n > 0 &&
            (const char *)b->iov[n - 1].iov_base + b->iov[n - 1].iov_len == (const char *)p->data) {
            b->iov[n - 1].iov_len += len;
            continue;
        }
        b->iov[n++] = (struct iovec){.iov_base = (void *)(uintptr_t)p->data, .iov_len = len};
    }
    b->rq.iov = b->iov;
    b->rq.iov_count = n;
    b->rq.payload_bytes = b->bytes;
}

static int batch_pack(struct batch *b, struct err *reterr)
{
    const struct snapwire_lease *l = b->stream->lease;
    Snapwire__V1__CowPut m = SNAPWIRE__V1__COW_PUT__INIT;
    uint64_t *chunks = calloc(b->chunks, sizeof *chunks);
    struct put *p;

    b->iov = calloc(b->put_count, sizeof *b->iov);
    if (chunks == NULL || b->iov == NULL) {
        free(chunks);
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a batch");
    }
    m.volume = pb_uuid(&l->info.volume);
    m.epoch = l->info.epoch;
    m.head = pb_uuid(&b->head);
    m.old_chunks = chunks;
    m.zero_chunks = chunks + b->data_chunks;
    STAILQ_FOREACH (p, &b->puts, link) {
        for (uint32_t i = 0; i < p->count; i++) {
            if (p->flags & SNAPWIRE_PUT_ZERO)
                m.zero_chunks[m.n_zero_chunks++] = p->old_chunk + i;
            else
                m.old_chunks[m.n_old_chunks++] = p->old_chunk + i;
        }
    }
    batch_fill_iov(b);
    const int r = request_pack(&b->rq, &m.base, reterr);
    free(chunks);
    return r;
}

void batch_send_open(struct snapwire_stream *s)
{
    struct batch *b = s->open;
    struct err err = ERR_INIT;

    if (b == NULL)
        return;
    s->open = NULL;
    TAILQ_INSERT_TAIL(&s->batches, b, link);
    s->stats.batches++;
    b->rq.method = SNAPWIRE__V1__METHOD__METHOD_COW_PUT;
    b->rq.lease = s->lease;
    b->rq.internal = true;
    b->rq.unbounded = true;
    b->rq.timeout_ms = s->client->timeout_ms;
    b->rq.done = batch_done;
    int r = batch_pack(b, &err);
    if (r == 0)
        r = request_submit(s->client, &b->rq, &err);
    if (r < 0)
        request_refuse(s->client, &b->rq, &err);
}

/* -- ends -- */

void stream_head_changed(struct snapwire_stream *s, const struct snapwire_uuid *head)
{
    const struct err why = {.code = SNAP_ESTALE, .text = "the volume has a new head"};
    struct batch *b;

    batch_send_open(s);
    TAILQ_FOREACH (b, &s->batches, link) {
        if (!snapwire_uuid_equal(&b->head, head))
            request_end(&b->rq, &why);
    }
}

void stream_end_all(struct snapwire_stream *s, const struct err *why)
{
    struct batch *b;

    batch_send_open(s);
    TAILQ_FOREACH (b, &s->batches, link) {
        request_end(&b->rq, why);
    }
}
