/* SPDX-License-Identifier: Apache-2.0 */
/* The pipeline that overwrites an origin.
 *
 * Callbacks of the library only change a slot's state; the steps (put what is filled,
 * hand over what is durable) run in over_pump(), outside of callbacks. The origin is
 * written by a thread (over_writer.h), which gets a slot only while
 * remote_writer_may_write(), and the time up to which the lease is good: what became
 * durable while the lease had lapsed or a snapshot was being made waits in its slot.
 * Before a snapshot is agreed to, hold_disk() takes back what is not written and waits
 * for what is being written. If that snapshot comes true, the writer ends with
 * SNAP_ESTALE and the slots are dropped unwritten: their old content belongs to the
 * new snapshot too.
 *
 * Which chunks the head has already is asked for window by window, so that a second
 * run does not send them again. Somebody who may not read is not told; then they are
 * sent, and the daemon says that they exist.
 */
#include "client/snapctl/remote_over.h"

#include "client/snapctl/over_writer.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"

#include <stdlib.h>
#include <string.h>

enum {
    SLOT_BYTES = 1024 * 1024,
    SLOTS = 32,
    SLOTS_MIN = 3,
    KNOWN_CHUNKS = 1 << 20,
    ALIGN_BYTES = 4096,
};

void over_dimension(uint64_t chunk_bytes, uint64_t *ret_slot_bytes, unsigned *ret_slots)
{
    *ret_slot_bytes = u64_max(SLOT_BYTES, chunk_bytes);
    *ret_slots = (unsigned)u64_max(SLOTS_MIN, SLOTS * (uint64_t)SLOT_BYTES / *ret_slot_bytes);
}

/* -- the disk's side ------------------------------------------------------------------------ */

static void do_nothing(void *user)
{
    (void)user;
}

/* Runs in the writer's thread: the loop is to come back. If not now, then at the turn's end. */
static void wake_loop(void *user)
{
    const struct over *o = user;
    (void)!snapwire_client_post(o->writer->client, do_nothing, NULL, NULL);
}

static void hold_disk(void *user)
{
    const struct over *o = user;
    over_writer_hold(o->disk);
}

/* What has been written, or has come back. */
static void collect(struct over *o)
{
    struct err err = ERR_INIT;
    int rc;
    for (struct over_slot *s = over_writer_collect(o->disk, &rc, &err), *next; s; s = next) {
        next = s->link;
        o->stats.chunks_written += s->written.chunks_written;
        o->stats.bytes_written += s->written.bytes_written;
        s->written = (struct over_stats){0};
        s->state = s->next == s->chunks ? OVER_FREE : OVER_DURABLE;
        if (s->state == OVER_FREE)
            progress_add(o->progress, s->len_bytes);
    }
    if (rc < 0)
        over_fail(o, rc, &err);
}

/* 0: the lease is not good now. */
static uint64_t lease_until_ns(const struct over *o)
{
    const uint64_t now = clock_now_ns(clock_asleep_too());
    const uint64_t left_ms = snapwire_lease_remaining_ms(o->writer->lease); /* rounded up */
    return left_ms > 0 ? now + (left_ms - 1) * UINT64_C(1000000) : 0;
}

static void slot_hand_over(struct over_slot *s)
{
    if (!remote_writer_may_write(s->over->writer))
        return;
    s->state = OVER_WRITING;
    over_writer_put(s->over->disk, s, lease_until_ns(s->over));
}

/* -- making it ------------------------------------------------------------------------------- */

int over_init(struct over *o, struct remote_writer *writer, struct origin *origin,
              struct progress *progress, bool preserve, struct err *reterr)
{
    *o = (struct over){
        .writer = writer,
        .origin = origin,
        .progress = progress,
        .chunk_bytes = writer->target->chunk_bytes,
        .preserve = preserve,
        .ask_known = preserve,
    };
    over_dimension(o->chunk_bytes, &o->slot_bytes, &o->slot_count);
    /* what fills a slot may come in one answer */
    const uint64_t most = snapwire_client_payload_bytes_max(writer->client);
    if (o->slot_bytes > most)
        o->slot_bytes = u64_max(most - most % o->chunk_bytes, o->chunk_bytes);
    o->slots = calloc(o->slot_count, sizeof *o->slots);
    o->known = preserve ? malloc(KNOWN_CHUNKS / 8) : NULL;
    if (!o->slots || (preserve && !o->known))
        return err_set(reterr, SNAP_ENOMEM, "buffers");
    for (unsigned i = 0; i < o->slot_count; i++) {
        struct over_slot *s = &o->slots[i];
        s->over = o;
        s->old = aligned_alloc(ALIGN_BYTES, u64_align_up(o->slot_bytes, ALIGN_BYTES));
        s->new = aligned_alloc(ALIGN_BYTES, u64_align_up(o->slot_bytes, ALIGN_BYTES));
        s->verdicts = malloc(o->slot_bytes / o->chunk_bytes);
        if (!s->old || !s->new || !s->verdicts)
            return err_set(reterr, SNAP_ENOMEM, "buffers of %llu bytes",
                           (unsigned long long)o->slot_bytes);
    }
    int rc = over_writer_new(origin, o->chunk_bytes, wake_loop, o, &o->disk, reterr);
    if (rc == 0) {
        writer->hold = hold_disk;
        writer->hold_user = o;
    }
    return rc;
}

void over_stop(struct over *o)
{
    if (o->writer)
        o->writer->hold = NULL;
    if (o->disk) {
        over_writer_hold(o->disk);
        o->writer->late = over_writer_is_late(o->disk);
    }
    over_writer_free(o->disk);
    o->disk = NULL;
}

void over_done(struct over *o)
{
    for (unsigned i = 0; o->slots && i < o->slot_count; i++) {
        free(o->slots[i].old);
        free(o->slots[i].new);
        free(o->slots[i].verdicts);
    }
    free(o->slots);
    free(o->known);
    *o = (struct over){0};
}

void over_fail(struct over *o, int code, const struct err *why)
{
    if (o->code != 0)
        return;
    o->code = code;
    (void)err_copy(&o->err, why);
}

void over_filled(struct over_slot *slot)
{
    slot->state = OVER_FILLED;
}

/* -- what differs ------------------------------------------------------------------------- */

static uint64_t chunk_len(const struct over_slot *s, uint64_t chunk_bytes, uint32_t i)
{
    return u64_min(chunk_bytes, s->len_bytes - i * chunk_bytes);
}

uint32_t over_compare(struct over_slot *s, uint64_t chunk_bytes)
{
    uint32_t differ = 0;
    for (uint32_t i = 0; i < s->chunks; i++) {
        uint64_t at = i * chunk_bytes;
        if (!s->unread && memcmp(s->old + at, s->new + at, chunk_len(s, chunk_bytes, i)) == 0) {
            s->verdicts[i] = OVER_SAME;
            continue;
        }
        if (s->verdicts[i] != OVER_ZERO)
            s->verdicts[i] = OVER_WRITE;
        differ++;
    }
    return differ;
}

/* -- what the daemon has ---------------------------------------------------------------------- */

static int on_known(void *user, const struct snapwire_run *runs, size_t count,
                    uint32_t chunk_size_sectors)
{
    struct over *o = user;
    (void)chunk_size_sectors;
    for (size_t i = 0; i < count; i++) {
        uint64_t from = u64_max(runs[i].old_chunk, o->known_from);
        uint64_t to = u64_min(runs[i].old_chunk + runs[i].count, o->known_to);
        for (uint64_t c = from; c < to; c++)
            o->known[(c - o->known_from) / 8] |= (uint8_t)(1U << ((c - o->known_from) % 8));
    }
    return 0;
}

/* Make the window cover this chunk. Blocks for an answer. */
static void learn_known(struct over *o, uint64_t chunk)
{
    struct snapwire_error why = {0};
    struct err err = ERR_INIT;
    if (!o->ask_known || (chunk >= o->known_from && chunk < o->known_to))
        return;
    o->known_from = chunk / KNOWN_CHUNKS * KNOWN_CHUNKS;
    o->known_to = o->known_from + KNOWN_CHUNKS;
    memset(o->known, 0, KNOWN_CHUNKS / 8);
    const struct snapwire_run_list args = {
        .size = sizeof args,
        .volume = o->writer->target->volume,
        .snapshot = o->writer->head,
        .start_chunk = o->known_from,
        .end_chunk = o->known_to,
    };
    int rc = snapwire_run_each_sync(o->writer->client, &args, on_known, o, &why);
    if (rc == 0)
        return;
    o->ask_known = false;
    o->known_from = o->known_to = 0;
    if (rc != SNAP_EPERM)
        over_fail(o, remote_error(&why, &err), &err);
}

static bool is_known(const struct over *o, uint64_t chunk)
{
    if (chunk < o->known_from || chunk >= o->known_to)
        return false;
    uint64_t bit = chunk - o->known_from;
    return (o->known[bit / 8] >> (bit % 8)) & 1;
}

/* -- putting --------------------------------------------------------------------------------- */

static void on_put(void *user, uint64_t old_chunk, uint32_t count,
                   const struct snapwire_error *error)
{
    struct over_slot *s = user;
    struct err err = ERR_INIT;
    (void)old_chunk;
    (void)count;
    s->unanswered--;
    if (error)
        over_fail(s->over, remote_error(error, &err), &err);
}

static bool needs_put(const struct over_slot *s, uint32_t i)
{
    const struct over *o = s->over;
    return s->verdicts[i] != OVER_SAME && !is_known(o, s->offset_bytes / o->chunk_bytes + i);
}

/* How many chunks from i on go into one put: wanted ones, all zeros or all not. */
static uint32_t put_len(const struct over_slot *s, uint32_t i, bool zero, uint32_t most)
{
    uint64_t chunk = s->over->chunk_bytes;
    uint32_t n = 1;
    while (n < most && i + n < s->chunks && needs_put(s, i + n) &&
           bytes_are_zero(s->old + (i + n) * chunk, chunk) == zero)
        n++;
    return n;
}

/* The last chunk of an origin is put whole, padded with zeros. */
static void pad_last(const struct over_slot *s)
{
    uint64_t whole = s->chunks * s->over->chunk_bytes;
    memset(s->old + s->len_bytes, 0, whole - s->len_bytes);
}

/* Put what needs it, as far as the stream has room. */
static void slot_put(struct over_slot *s)
{
    struct over *o = s->over;
    uint64_t first = s->offset_bytes / o->chunk_bytes;
    while (s->next < s->chunks) {
        uint32_t i = s->next;
        if (!needs_put(s, i)) {
            s->next++;
            continue;
        }
        const uint8_t *data = s->old + i * o->chunk_bytes;
        bool zero = bytes_are_zero(data, o->chunk_bytes);
        uint32_t n = put_len(s, i, zero, snapwire_stream_put_max(o->writer->stream));
        struct snapwire_error why = {0};
        struct err err = ERR_INIT;
        int rc = snapwire_stream_put(o->writer->stream, first + i, n, zero ? NULL : data,
                                     zero ? SNAPWIRE_PUT_ZERO : 0, on_put, s, &why);
        if (rc == SNAPWIRE_WOULD_BLOCK)
            return;
        if (rc < 0) {
            over_fail(o, remote_error(&why, &err), &err);
            return;
        }
        s->unanswered++;
        s->next += n;
    }
}

static void slot_begin(struct over_slot *s)
{
    struct over *o = s->over;
    uint64_t first = s->offset_bytes / o->chunk_bytes;
    pad_last(s);
    if (over_compare(s, o->chunk_bytes) == 0) {
        s->state = OVER_FREE;
        progress_add(o->progress, s->len_bytes);
        return;
    }
    if (!o->preserve) {
        s->state = OVER_DURABLE;
        return;
    }
    learn_known(o, first); /* a window is some whole slots */
    for (uint32_t i = 0; i < s->chunks; i++)
        o->stats.chunks_known += s->verdicts[i] != OVER_SAME && is_known(o, first + i);
    s->state = OVER_PUTTING;
}

/* -- the ring --------------------------------------------------------------------------------- */

static void slot_step(struct over_slot *s)
{
    if (s->state == OVER_FILLED)
        slot_begin(s);
    if (s->state == OVER_PUTTING && s->over->code == 0)
        slot_put(s);
    if (s->state == OVER_PUTTING && s->over->code == 0 && s->next == s->chunks &&
        s->unanswered == 0) {
        s->state = OVER_DURABLE;
        s->next = 0;
    }
    if (s->state == OVER_DURABLE && s->over->code == 0)
        slot_hand_over(s);
}

/* After Ctrl-C nobody waits for a daemon that is away. */
static bool is_given_up(const struct over *o)
{
    return cli_interrupted() &&
           snapwire_client_state(o->writer->client) != SNAPWIRE_STATE_CONNECTED;
}

/* Every slot one step on. Errors: what ended the pipeline. */
static int over_pump(struct over *o, struct err *reterr)
{
    struct err err = ERR_INIT;
    const uint64_t until_ns = lease_until_ns(o);
    if (until_ns != 0)
        over_writer_lease(o->disk, until_ns);
    collect(o);
    for (unsigned i = 0; i < o->slot_count && o->code == 0; i++)
        slot_step(&o->slots[i]);
    if (o->code == SNAP_ESTALE)
        remote_writer_settle(o->writer);
    int rc = remote_writer_check(o->writer, &err);
    if (rc < 0 && (o->code == 0 || o->code == SNAP_ESTALE)) { /* it says more than a stale put */
        (void)err_copy(reterr, &err);
        return rc;
    }
    if (o->code < 0)
        (void)err_copy(reterr, &o->err);
    return o->code;
}

static void slot_take(struct over_slot *s, uint64_t offset_bytes, uint64_t len_bytes)
{
    const struct over *o = s->over;
    s->state = OVER_FILLING;
    s->offset_bytes = offset_bytes;
    s->len_bytes = u64_min(o->slot_bytes - offset_bytes % o->slot_bytes,
                           u64_min(len_bytes, o->origin->size_bytes - offset_bytes));
    s->chunks = (uint32_t)u64_div_round_up(s->len_bytes, o->chunk_bytes);
    s->next = s->unanswered = 0;
    s->unread = false;
    memset(s->verdicts, OVER_SAME, s->chunks);
}

int over_take(struct over *o, uint64_t offset_bytes, uint64_t len_bytes, struct over_slot **ret,
              struct err *reterr)
{
    for (;;) {
        int rc = over_pump(o, reterr);
        if (rc < 0)
            return rc;
        for (unsigned i = 0; i < o->slot_count; i++) {
            struct over_slot *s = &o->slots[i];
            if (s->state != OVER_FREE)
                continue;
            slot_take(s, offset_bytes, len_bytes);
            *ret = s;
            return 0;
        }
        if (is_given_up(o))
            return err_set(reterr, SNAP_ECANCELED, "stopped; run it again to go on");
        remote_writer_turn(o->writer);
    }
}

int over_finish(struct over *o, struct err *reterr)
{
    for (;;) {
        int rc = over_pump(o, reterr);
        bool busy = over_writer_is_late(o->disk); /* is the lease good again, or lost? */
        for (unsigned i = 0; i < o->slot_count; i++)
            busy = busy || o->slots[i].state != OVER_FREE;
        if (rc < 0)
            return rc;
        if (!busy)
            break;
        if (is_given_up(o))
            return err_set(reterr, SNAP_ECANCELED, "stopped; run it again to go on");
        remote_writer_turn(o->writer);
    }
    return origin_sync(o->origin, reterr);
}
