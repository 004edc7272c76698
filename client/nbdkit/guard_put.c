/* SPDX-License-Identifier: Apache-2.0 */
/* From the origin to the stream, and what the daemon says to it.
 *
 *   unread ──> read ──> queue;  not to be read ──> ended
 *   queue ──> put, in runs of zeros and of others ──> all answered ──> ended ──(turn's end)──> told
 *                  └─ no room: held back until the stream has drained
 *
 * A copy that was claimed for another head, or while there is no stream, ends as stale, and so does
 * one of a head for which nothing is kept any more.
 * Thread: the link's.
 */
#include "client/nbdkit/guard_link.h"
#include "client/nbdkit/guard_read.h"

#include <inttypes.h>
#include <stdio.h>

static bool is_refused_for_now(int code)
{
    return code == SNAP_EPOISONED || code == SNAP_EBUSY || code == SNAP_ENOMEM ||
           code == SNAP_ELIMIT || code == SNAP_ETIMEDOUT || code == SNAP_ESHUTDOWN;
}

static bool is_invalid(int code)
{
    return code == SNAP_EINVALID || code == SNAP_EOVERFLOW;
}

/* What the outcome says beyond the copy itself. With the lock. */
static void put_judge(struct guard *g, const struct guard_copy *c)
{
    if (c->code == 0)
        g->trouble_ns = 0;
    else if (is_refused_for_now(c->code) && g->trouble_ns == 0)
        g->trouble_ns = guard_now_ns();
    if (is_invalid(c->code) && c->generation == g->generation && g->mode == GUARD_KEEPING)
        g->mode = GUARD_NOTHING;
}

static void put_end(struct guard *g, struct guard_copy *c)
{
    if (is_invalid(c->code) ||
        (c->code != 0 && !is_refused_for_now(c->code) && c->code != SNAP_ESTALE &&
         c->code != SNAP_ECANCELED && c->code != SNAP_ECONN))
        guard_say("keep chunk %" PRIu64 " of %s: %s", c->first, g->config.volume, c->text);
    TAILQ_INSERT_TAIL(&g->ended, c, link);
}

void guard_put_settle(struct guard *g)
{
    const struct guard_copy *c;
    if (TAILQ_EMPTY(&g->ended))
        return;
    (void)pthread_mutex_lock(&g->lock);
    TAILQ_FOREACH (c, &g->ended, link) {
        put_judge(g, c);
    }
    (void)pthread_mutex_unlock(&g->lock);
    guard_copies_end(g, &g->ended);
}

static void put_fail(struct guard_copy *c, int code, const char *text)
{
    c->next = c->count;
    if (c->code != 0)
        return;
    c->code = code;
    (void)snprintf(c->text, sizeof c->text, "%.118s", text);
}

static void on_put(void *user, uint64_t old_chunk, uint32_t count,
                   const struct snapwire_error *error)
{
    struct guard_copy *c = user;
    bool waits = c->next < c->count;
    (void)old_chunk;
    (void)count;
    c->unanswered--;
    if (error) {
        put_fail(c, error->code, error->text);
        if (waits)
            TAILQ_REMOVE(&c->guard->held_back, c, link);
    } else if (waits) {
        return;
    }
    if (c->unanswered == 0)
        put_end(c->guard, c);
}

/* Neighbours that are all zeros, or all not. */
static uint32_t copy_run(const struct guard_copy *c, uint32_t most)
{
    uint32_t n = 1;
    while (n < most && c->next + n < c->count && c->zeros[c->next + n] == c->zeros[c->next])
        n++;
    return n;
}

/* False: no room, it stays. Else it is somebody else's now. */
static bool put_send(struct guard *g, struct guard_copy *c)
{
    struct snapwire_error why = {0};
    int rc = 0;
    if (!g->stream || c->generation != g->generation || g->mode != GUARD_KEEPING) {
        rc = SNAP_ESTALE; /* writes may have gone past it before it was read */
        (void)snprintf(why.text, sizeof why.text, "the head is another, or keeps nothing");
    }
    while (rc == 0 && c->next < c->count) {
        bool zero = c->zeros[c->next];
        uint32_t n = copy_run(c, snapwire_stream_put_max(g->stream));
        const uint8_t *data = c->data + c->next * c->chunk_bytes;
        rc = snapwire_stream_put(g->stream, c->first + c->next, n, zero ? NULL : data,
                                 zero ? SNAPWIRE_PUT_ZERO : 0, on_put, c, &why);
        if (rc == SNAPWIRE_WOULD_BLOCK)
            return false;
        if (rc == 0) {
            c->unanswered++;
            c->next += n;
        }
    }
    if (rc < 0)
        put_fail(c, rc, why.text);
    if (c->unanswered == 0)
        put_end(g, c);
    return true;
}

/* The origin is told of those that are unread; what it has read by now is put behind *ret. */
static void put_read(struct guard *g, struct guard_copies *unread, unsigned wait_us,
                     struct guard_copies *ret)
{
    struct guard_copies read = TAILQ_HEAD_INITIALIZER(read);
    struct guard_copy *c;
    guard_reader_turn(g->reader, unread, wait_us, &read);
    while ((c = TAILQ_FIRST(&read))) {
        TAILQ_REMOVE(&read, c, link);
        if (c->read_errno != 0)
            c->code = SNAP_EIO;
        TAILQ_INSERT_TAIL(c->read_errno != 0 ? &g->ended : ret, c, link);
    }
}

void guard_put_all(struct guard *g, unsigned wait_us)
{
    struct guard_copies unread = TAILQ_HEAD_INITIALIZER(unread), all = TAILQ_HEAD_INITIALIZER(all);
    struct guard_copy *c;
    (void)pthread_mutex_lock(&g->lock);
    TAILQ_CONCAT(&unread, &g->unread, link);
    TAILQ_CONCAT(&all, &g->queue, link);
    (void)pthread_mutex_unlock(&g->lock);
    if (g->reader)
        put_read(g, &unread, wait_us, &all);
    TAILQ_CONCAT(&g->held_back, &all, link);
    while (!g->blocked && (c = TAILQ_FIRST(&g->held_back))) {
        TAILQ_REMOVE(&g->held_back, c, link);
        if (!put_send(g, c)) {
            TAILQ_INSERT_HEAD(&g->held_back, c, link);
            g->blocked = true;
        }
    }
    guard_put_settle(g);
}

void guard_put_drained(void *user, struct snapwire_stream *stream)
{
    struct guard *g = user;
    (void)stream;
    g->blocked = false;
}
