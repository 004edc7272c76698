/* SPDX-License-Identifier: Apache-2.0 */
/* Data writes: payloads gathered into large sequential ones.
 *
 * New chunks are given out in ascending order, so what comes in one burst stands
 * side by side on the device and goes out as one vectored write, across puts,
 * until it is full or the owner kicks. Payloads are written from where they lie.
 *
 *   put A: [c0][c1][c2]  put B: [c3]        device: | 17 | 18 | 19 | 20 |
 *             └────────────┴── one write of four ────────────────┘
 *
 * A chunk larger than one write takes several; it is written when all are done.
 * A metadata chunk in between ends a write. Requests are kept for reuse.
 *
 * With the data goes which old_chunk it is of. A device with checksums binds them to that, so an
 * exception whose old_chunk or new_chunk changes on the disk does not match them any more.
 * Thread: the engine's.
 */
#include "common/cow/cow_store_priv.h"

#include <stdlib.h>

static struct cow_write *write_take(struct cow_store *s)
{
    struct cow_write *w = TAILQ_FIRST(&s->free_writes);

    if (w) {
        TAILQ_REMOVE(&s->free_writes, w, link);
        s->free_write_count--;
    } else {
        w = malloc(sizeof *w);
        if (!w)
            return NULL;
    }
    w->len_bytes = 0;
    w->iov_count = 0;
    w->slot_count = 0;
    return w;
}

static void write_give_back(struct cow_store *s, struct cow_write *w)
{
    if (s->free_write_count >= COW_WRITES_KEPT) {
        free(w);
        return;
    }
    TAILQ_INSERT_HEAD(&s->free_writes, w, link);
    s->free_write_count++;
}

void cow_write_free_all(struct cow_store *s)
{
    struct cow_write *w;

    free(s->gather);
    TAILQ_CONCAT(&s->free_writes, &s->busy_writes, link);
    while ((w = TAILQ_FIRST(&s->free_writes))) {
        TAILQ_REMOVE(&s->free_writes, w, link);
        free(w);
    }
}

bool cow_write_ready(struct cow_store *s)
{
    if (!s->gather)
        s->gather = write_take(s);
    return s->gather != NULL;
}

uint64_t cow_store_gathered_bytes(const struct cow_store *s)
{
    return s->gather != NULL ? s->gather->len_bytes : 0;
}

/* The last write that carries a part of the slot is done. */
static void write_slot_done(struct cow_store *s, struct cow_slot *slot, const struct cow_io *io,
                            int result)
{
    struct err err = ERR_INIT;
    int code = slot->code;

    if (s->state == COW_READY && code == 0) {
        slot->written = true;
        return;
    }
    TAILQ_REMOVE(&s->fifo, slot, link);
    s->outstanding--;
    if (s->state != COW_READY)
        code = cow_store_refusal(s, &err);
    else if (result < 0)
        cow_io_err(s, io, result, "write chunk", slot->new_chunk, &err);
    else /* an earlier part failed, or there was no memory to write this one */
        err_set(&err, code, "write chunk %llu of %s: %s", (unsigned long long)slot->new_chunk,
                blk_dev_info(s->dev)->name, err_text(code));
    cow_slot_fail(s, slot, code, &err);
}

static void write_done(struct cow_store *s, struct cow_io *io, int result)
{
    struct cow_write *w = CONTAINER_OF(io, struct cow_write, io);

    for (unsigned i = 0; i < w->slot_count; i++) {
        struct cow_slot *slot = w->slots[i];

        if (result < 0 && slot->code == 0)
            slot->code = (int16_t)result;
        if (--slot->writes_pending == 0)
            write_slot_done(s, slot, io, result);
    }
    TAILQ_REMOVE(&s->busy_writes, w, link);
    s->busy_bytes -= w->len_bytes;
    write_give_back(s, w);
}

void cow_write_submit(struct cow_store *s)
{
    struct cow_write *w = s->gather;

    if (!w)
        return;
    s->gather = NULL;
    if (w->len_bytes == 0) {
        write_give_back(s, w);
        return;
    }
    w->serial = ++s->write_serial;
    TAILQ_INSERT_TAIL(&s->busy_writes, w, link);
    s->busy_bytes += w->len_bytes;
    s->count.data_writes++;
    s->count.data_bytes += w->len_bytes;
    cow_io_write_data(s, &w->io, w->offset_bytes, w->iov, w->iov_count, w->tags, w->len_bytes,
                      write_done);
}

/* A gathered write that takes at least one byte at dev_offset, with the slot entered.
 * NULL: out of memory. */
static struct cow_write *write_at(struct cow_store *s, struct cow_slot *slot, uint64_t dev_offset)
{
    struct cow_write *w = s->gather;

    if (w && w->len_bytes &&
        (w->offset_bytes + w->len_bytes != dev_offset || w->len_bytes >= COW_WRITE_BYTES_MAX ||
         w->iov_count == BLK_IOV_MAX ||
         (w->slot_count == COW_WRITE_SLOTS_MAX && w->slots[w->slot_count - 1] != slot)))
        cow_write_submit(s);
    if (!cow_write_ready(s))
        return NULL;
    w = s->gather;
    if (w->len_bytes == 0)
        w->offset_bytes = dev_offset;
    if (w->slot_count == 0 || w->slots[w->slot_count - 1] != slot) {
        w->tags[w->slot_count] = slot->old_chunk;
        w->slots[w->slot_count++] = slot;
        slot->writes_pending++;
    }
    return w;
}

/* Move the put's cursor to where the slot's payload begins. */
static void payload_seek(struct cow_put_state *ps, const struct cow_slot *slot,
                         uint32_t chunk_bytes)
{
    const struct cow_put *put = ps->put;
    uint64_t skip;

    if (slot->index < ps->at_index) {
        ps->at_index = 0;
        ps->at_iov = 0;
        ps->at_offset = 0;
    }
    skip = (uint64_t)(slot->index - ps->at_index) * chunk_bytes + ps->at_offset;
    ps->at_index = slot->index;
    while (skip) {
        CHECK(ps->at_iov < put->iov_count);
        if (skip < put->iov[ps->at_iov].iov_len)
            break;
        skip -= put->iov[ps->at_iov++].iov_len;
    }
    ps->at_offset = (size_t)skip;
}

int cow_write_append(struct cow_store *s, struct cow_slot *slot)
{
    const struct cow_put *put = slot->owner->put;
    uint64_t dev_offset = slot->new_chunk * s->g.chunk_bytes;
    uint64_t left = s->g.chunk_bytes;
    unsigned at;
    size_t skip;

    if (s->gather && s->gather->len_bytes + left > COW_WRITE_BYTES_MAX)
        cow_write_submit(s); /* better a chunk in one write than in two */
    payload_seek(slot->owner, slot, s->g.chunk_bytes);
    at = slot->owner->at_iov;
    skip = slot->owner->at_offset;
    while (left) {
        struct cow_write *w = write_at(s, slot, dev_offset);
        struct iovec *last;
        uint8_t *from;
        uint64_t take;

        if (!w) {
            slot->code = SNAP_ENOMEM; /* fails when the parts in flight are done */
            return slot->writes_pending ? 0 : SNAP_ENOMEM;
        }
        CHECK(at < put->iov_count);
        from = (uint8_t *)put->iov[at].iov_base + skip;
        take = u64_min(left, put->iov[at].iov_len - skip);
        take = u64_min(take, COW_WRITE_BYTES_MAX - w->len_bytes);
        last = w->iov_count ? &w->iov[w->iov_count - 1] : NULL;
        if (last && (uint8_t *)last->iov_base + last->iov_len == from)
            last->iov_len += take;
        else
            w->iov[w->iov_count++] = (struct iovec){from, take};
        w->len_bytes += take;
        dev_offset += take;
        left -= take;
        skip += take;
        if (skip == put->iov[at].iov_len) {
            at++;
            skip = 0;
        }
    }
    return 0;
}
