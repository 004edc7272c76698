/* SPDX-License-Identifier: Apache-2.0 */
/* Data into a clone, a whole chunk at a time, so that a crash never leaves part of a chunk that
 * it did not have, and a checksum of a chunk is of one content.
 *
 *   the write     .....[====|==========|======].....
 *   chunks        |---------|----------|----------|
 *   edges         read from the view, held        read
 *   then          ┌ the clone has the chunk: written in place
 *                 └ it lacks it: put, as an exception of its own
 *
 * A put that finds the chunk there, because the place it reads through was written at the same
 * time, is repeated in place: the content that came first is what the edges were made of.
 *
 * The clone's readers are locked out, see write.c. Thread: the shard's.
 */
#include "daemon/volume/write_priv.h"

#include <stdlib.h>

static void clone_store(struct write_part *p);
static void clone_edge(struct write_part *p);

static void clone_end(struct write_part *p)
{
    write_give_buf(p);
    write_part_done(p);
}

/* -- puts and writes in place ----------------------------------------------------------- */

static void clone_decided(struct write_part *p)
{
    struct write_put *x = SLIST_FIRST(&p->puts);
    bool again = false;
    free(p->reqs);
    p->reqs = NULL;
    if (x != NULL) {
        for (uint32_t i = 0; i < x->count; i++)
            again = again || x->outcomes[i] == COW_EXISTS;
        SLIST_REMOVE_HEAD(&p->puts, link);
        write_put_free(x);
    }
    switch (p->verdict) {
    case WRITE_OK:
        if (again)
            clone_store(p);
        else
            clone_end(p);
        break;
    case WRITE_AGAIN:
        write_wait_store(p, &p->why);
        break;
    case WRITE_FULL:
    case WRITE_FAILED:
        (void)err_copy(&p->w->err, &p->why);
        write_fail(p);
        break;
    }
}

static void clone_put_done(struct cow_put *put, int code, const struct err *err)
{
    struct write_put *x = put->user;
    struct write_part *p = x->part;
    enum write_verdict verdict = code < 0 ? write_put_verdict(x) : WRITE_OK;
    if (verdict > p->verdict) {
        const struct record_snapshot *rs = snapshot_record(p->place);
        p->verdict = verdict;
        p->why = *err;
        (void)err_prefix(&p->why, "%s@%s", p->volume->record.name, rs != NULL ? rs->name : "?");
    }
    if (--p->reqs_pending == 0)
        clone_decided(p);
}

static void clone_written(struct blk_req *req, int result)
{
    struct write_part *p = req->user;
    snapshot_reader_end(p->place);
    if (result < 0) {
        p->verdict = WRITE_FAILED;
        (void)err_set_errno(&p->why, result, req->sys_errno, "write %llu bytes at %llu of a clone",
                            (unsigned long long)req->len_bytes,
                            (unsigned long long)req->offset_bytes);
    }
    if (--p->reqs_pending == 0)
        clone_decided(p);
}

/* Behind as many requests: for each chunk of the part, which one it is. */
static uint64_t *in_place_tags(struct write_part *p)
{
    return (uint64_t *)(void *)(p->reqs + (p->last - p->first + 1));
}

/* Chunks that the clone has are written where they are, neighbours in one request. */
static unsigned clone_add_in_place(struct write_part *p, unsigned n, uint64_t chunk,
                                   uint64_t new_chunk)
{
    uint64_t chunk_bytes = write_chunk_bytes(p);
    uint8_t *data = p->buf->data + (chunk - p->first) * chunk_bytes;
    uint64_t *tags = in_place_tags(p);
    struct blk_req *last = n > 0 ? &p->reqs[n - 1] : NULL;
    tags[chunk - p->first] = chunk;
    if (last != NULL && last->offset_bytes + last->len_bytes == new_chunk * chunk_bytes &&
        (uint8_t *)last->data + last->len_bytes == data) {
        last->len_bytes += chunk_bytes;
        return n;
    }
    p->reqs[n] = (struct blk_req){.op = BLK_WRITE,
                                  .offset_bytes = new_chunk * chunk_bytes,
                                  .len_bytes = chunk_bytes,
                                  .data = data,
                                  .tags = &tags[chunk - p->first],
                                  .done = clone_written,
                                  .user = p};
    return n + 1;
}

static void clone_submit(struct write_part *p, struct write_put *x, unsigned n)
{
    p->verdict = WRITE_OK;
    p->reqs_pending = n + (x->count > 0 ? 1 : 0);
    if (n > 0) {
        p->w->durable = false;
        p->place->unflushed = true;
    }
    if (x->count > 0) {
        SLIST_INSERT_HEAD(&p->puts, x, link);
        write_put_submit(x, clone_put_done);
    } else {
        free(x);
    }
    for (unsigned i = 0; i < n; i++) {
        snapshot_reader_begin(p->place);
        blk_submit(p->place->dev, &p->reqs[i]);
    }
}

static void clone_store(struct write_part *p)
{
    uint32_t chunk_bytes = (uint32_t)write_chunk_bytes(p);
    uint32_t count = (uint32_t)(p->last - p->first + 1);
    unsigned n = 0;
    p->why = ERR_INIT;
    enum write_verdict ready = write_node_ready(p->place, &p->why);
    if (ready == WRITE_AGAIN) {
        write_wait_store(p, &p->why);
        return;
    }
    struct write_put *x = write_put_new(p, p->place, count);
    p->reqs = calloc(count, sizeof *p->reqs + sizeof(uint64_t));
    if (ready == WRITE_FAILED || x == NULL || p->reqs == NULL) {
        free(x);
        free(p->reqs);
        p->reqs = NULL;
        (void)(ready == WRITE_FAILED ? err_copy(&p->w->err, &p->why)
                                     : err_set(&p->w->err, SNAP_ENOMEM, "write"));
        write_fail(p);
        return;
    }
    for (uint64_t c = p->first; c <= p->last; c++) {
        uint64_t new_chunk;
        if (cow_map_get(p->place->map, c, p->place->seq, &new_chunk))
            n = clone_add_in_place(p, n, c, new_chunk);
        else
            write_put_add(x, c, p->buf->data + (c - p->first) * chunk_bytes, chunk_bytes);
    }
    int rc = x->count == 0
                 ? 0
                 : volume_check_space(p->volume, (uint64_t)x->count * chunk_bytes, &p->w->err);
    if (rc == 0) {
        clone_submit(p, x, n);
        return;
    }
    free(x);
    free(p->reqs);
    p->reqs = NULL;
    write_fail(p);
}

/* -- edges --------------------------------------------------------------------------------- */

static void clone_compose(struct write_part *p)
{
    hold_give(&p->hold);
    uint64_t start = p->first * write_chunk_bytes(p);
    write_copy(p, p->begin_bytes, p->end_bytes, p->buf->data + (p->begin_bytes - start));
    clone_store(p);
}

static void clone_edge_fetched(struct fetch *f, int code)
{
    struct write_part *p = f->user;
    if (code == 0) {
        clone_edge(p);
        return;
    }
    hold_give(&p->hold);
    if (code != SNAP_EPOISONED) {
        write_fail(p);
        return;
    }
    struct err why = p->w->err;
    p->w->err = ERR_INIT;
    write_wait_store(p, &why);
}

static bool clone_edge_is_partial(const struct write_part *p, unsigned edge)
{
    uint64_t chunk_bytes = write_chunk_bytes(p);
    bool head = p->begin_bytes % chunk_bytes != 0, tail = p->end_bytes % chunk_bytes != 0;
    if (edge == 0)
        return head || (tail && p->first == p->last);
    return tail && p->first != p->last;
}

/* Read the next chunk that is written in part. */
static void clone_edge(struct write_part *p)
{
    uint64_t chunk_bytes = write_chunk_bytes(p);
    while (p->edge < 2 && !clone_edge_is_partial(p, p->edge))
        p->edge++;
    if (p->edge == 2) {
        clone_compose(p);
        return;
    }
    uint64_t chunk = p->edge++ == 0 ? p->first : p->last;
    p->fetch = (struct fetch){.volume = p->volume,
                              .place = p->place,
                              .offset_bytes = chunk * chunk_bytes,
                              .len_bytes = chunk_bytes,
                              .data = p->buf->data + (chunk - p->first) * chunk_bytes,
                              .done = clone_edge_fetched,
                              .user = p,
                              .err = &p->w->err};
    fetch_start(&p->fetch);
}

static void clone_buffer(struct write_part *p)
{
    p->buf = write_take_buf(p, (p->last - p->first + 1) * write_chunk_bytes(p), clone_buffer);
    if (p->buf == NULL)
        return;
    p->edge = 0;
    clone_edge(p);
}

static void clone_held(struct hold *h)
{
    clone_buffer(h->user);
}

void write_clone_start(struct write_part *p)
{
    if (!clone_edge_is_partial(p, 0) && !clone_edge_is_partial(p, 1)) {
        clone_buffer(p);
        return;
    }
    p->hold = (struct hold){.volume = p->volume,
                            .place = p->place,
                            .first = p->first,
                            .last = p->last,
                            .granted = clone_held,
                            .user = p};
    if (hold_take(&p->hold, &p->w->err) < 0)
        write_fail(p);
}
