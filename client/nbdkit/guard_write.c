/* SPDX-License-Identifier: Apache-2.0 */
/* A change of the origin, from nbdkit's thread that has it: through the gate, until all that it
 * overwrites is kept, to the disk.
 *
 *   chunk     not kept ──claim──> claimed ──durable──> kept (until there is a new head)
 *                ^                   │
 *                └──── not kept ─────┘
 *
 * Who finds a chunk neither kept nor claimed claims it and hands it to the link, which reads it
 * (where the kernel gives it no ring, who claims reads); then all wait. No write to a chunk is
 * under way while it is not kept: so what is read is whole, and a part of a chunk may be written as
 * soon as it is. Claims of one request are made all at once, and end by themselves whoever made
 * them: nobody waits in a circle.
 *
 * The lease is looked at last, with the lock, immediately before the disk is written, and once more
 * behind that: a disk may take longer than the lease lasts, see guard_late.c.
 *
 * Must not know of connections. Thread: any, under the guard's lock as said there.
 */
#include "client/nbdkit/guard_read.h"

#include "common/base/bytes.h"
#include "common/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    CLAIM_BYTES = 1024 * 1024,
    PIECE_BYTES = 8 * 1024 * 1024, /* of what has no data */
    AGAIN_MS = 50,
    LOOK_MS = 500,
    STUCK_MS = 1000, /* from then on nbdkit's end is not waited past */
};
#define NS_PER_MS UINT64_C(1000000)
#define NO_CHUNKS UINT64_MAX, 0
#define ALL_CHUNKS 0, UINT64_MAX

uint64_t guard_now_ns(void)
{
    return clock_now_ns(clock_system());
}

uint64_t guard_lease_now_ns(void)
{
    return clock_now_ns(clock_asleep_too());
}

/* -- waiting; with the lock ------------------------------------------------------------ */

/* Since when the daemon has been of no use; 0: it is. */
static uint64_t guard_useless_ns(const struct guard *g)
{
    if (g->away_ns == 0 || (g->trouble_ns != 0 && g->trouble_ns < g->away_ns))
        return g->trouble_ns;
    return g->away_ns;
}

static void guard_want_break(struct guard *g)
{
    if (g->break_wanted)
        return;
    g->break_wanted = true;
    (void)pthread_mutex_unlock(&g->lock);
    guard_link_wake(g);
    (void)pthread_mutex_lock(&g->lock);
}

/* The daemon has been of no use for a while, or does not keep up the lease. */
static bool guard_is_stuck(const struct guard *g, uint64_t now)
{
    const uint64_t since = guard_useless_ns(g);
    return (since != 0 && now >= since + STUCK_MS * NS_PER_MS) ||
           guard_lease_now_ns() >= g->valid_until_ns + STUCK_MS * NS_PER_MS;
}

/* Nothing can be done now: wait for these chunks, or until something else has changed, as the
 * policy says. */
static int guard_wait(struct guard *g, uint64_t first, uint64_t last)
{
    uint64_t now = guard_now_ns(), since = guard_useless_ns(g);
    uint64_t until = now + LOOK_MS * NS_PER_MS;
    if (g->stop || (guard_is_stuck(g, now) && guard_is_ending()))
        return ESHUTDOWN;
    if (g->mode != GUARD_IS_BROKEN && g->lease_state == GUARD_LEASE_REFUSED)
        return EIO;
    if (g->config.away != GUARD_WAIT && since != 0) {
        uint64_t over = since + g->config.away_after_ms * NS_PER_MS;
        if (now >= over && (g->config.away == GUARD_FAIL || g->break_failed))
            return EIO;
        if (now >= over)
            guard_want_break(g);
        else
            until = u64_min(until, over);
    }
    guard_sleep(g, first, last, until);
    return 0;
}

/* -- copies ------------------------------------------------------------------------------ */

static void copy_unref(struct guard_copy *c)
{
    if (--c->refs == 0)
        free(c);
}

static void copy_end(struct guard *g, struct guard_copy *c)
{
    if (c->chunk_bytes == g->chunk_bytes) /* else the maps are others by now */
        guard_map_set(&g->claimed, c->first, c->count, false);
    if (c->code == 0 && c->generation == g->generation) {
        guard_map_set(&g->kept, c->first, c->count, true);
        g->stats.chunks_kept += c->count;
    }
    g->stats.copies++;
    g->copy_bytes -= c->count * c->chunk_bytes;
    guard_spare_give(&g->spares, c->data, c->count * c->chunk_bytes);
    c->data = NULL;
    c->done = true;
    copy_unref(c);
}

void guard_copies_end(struct guard *g, struct guard_copies *ended)
{
    struct bell_ring ring = {0};
    struct guard_copy *c;
    (void)pthread_mutex_lock(&g->lock);
    while ((c = TAILQ_FIRST(ended))) {
        TAILQ_REMOVE(ended, c, link);
        copy_end(g, c);
    }
    guard_take_waiters(g, &ring);
    (void)pthread_mutex_unlock(&g->lock);
    bell_ring(&ring);
}

static struct guard_copy *copy_new(struct guard *g, uint64_t first, uint32_t count)
{
    struct guard_copy *c = malloc(sizeof *c + count);
    if (!c)
        return NULL;
    *c = (struct guard_copy){.guard = g,
                             .first = first,
                             .count = count,
                             .chunk_bytes = g->chunk_bytes,
                             .generation = g->generation,
                             .refs = 1};
    c->data = guard_spare_take(&g->spares, count * g->chunk_bytes);
    if (c->data)
        return c;
    free(c);
    return NULL;
}

/* By its writer. An errno: it is gone. The lock is let go meanwhile. */
static int copy_read(struct guard *g, struct guard_copy *c)
{
    (void)pthread_mutex_unlock(&g->lock);
    int rc = guard_read_now(&g->origin, c);
    if (rc != 0) {
        struct guard_copies failed = TAILQ_HEAD_INITIALIZER(failed);
        c->code = SNAP_EIO;
        TAILQ_INSERT_TAIL(&failed, c, link);
        guard_copies_end(g, &failed);
    }
    (void)pthread_mutex_lock(&g->lock);
    return rc;
}

/* Claim some chunks and send them on their way; the lock may be let go meanwhile. */
static int guard_claim(struct guard *g, uint64_t first, uint32_t count, struct guard_copies *mine)
{
    struct guard_copy *c = copy_new(g, first, count);
    struct guard_copies *to = g->link_reads ? &g->unread : &g->queue;
    if (!c)
        return ENOMEM;
    guard_map_set(&g->claimed, first, count, true);
    g->copy_bytes += count * c->chunk_bytes;
    int rc = to == &g->queue ? copy_read(g, c) : 0;
    if (rc != 0)
        return rc;
    c->refs++; /* the link has the one reference, this request the other */
    bool first_there = TAILQ_EMPTY(to);
    TAILQ_INSERT_TAIL(to, c, link);
    TAILQ_INSERT_TAIL(mine, c, own);
    if (first_there) {
        (void)pthread_mutex_unlock(&g->lock);
        guard_link_wake(g);
        (void)pthread_mutex_lock(&g->lock);
    }
    return 0;
}

/* Claim what nobody keeps or has claimed. SNAP_ELIMIT: as far as memory goes. */
static int guard_claim_all(struct guard *g, uint64_t from, uint64_t to, struct guard_copies *mine,
                           bool *ret_any)
{
    const uint64_t generation = g->generation;
    const uint64_t most = u64_max(1, CLAIM_BYTES / g->chunk_bytes);
    while (from <= to) {
        uint64_t n = 0;
        while (n < most && from + n <= to && !guard_map_has(&g->kept, from + n) &&
               !guard_map_has(&g->claimed, from + n))
            n++;
        if (n == 0) {
            from++;
            continue;
        }
        if (g->copy_bytes > 0 && g->copy_bytes + n * g->chunk_bytes > g->config.copy_bytes_max)
            return SNAP_ELIMIT;
        int rc = guard_claim(g, from, (uint32_t)n, mine);
        if (rc != 0)
            return rc;
        *ret_any = true;
        if (g->generation != generation || g->mode != GUARD_KEEPING)
            return 0;
        from += n;
    }
    return 0;
}

/* What became of this request's copies: an errno, or 0; *ret_again when it is to be tried again,
 * a moment later. */
static int guard_collect(struct guard *g, struct guard_copies *mine, bool *ret_again)
{
    struct guard_copy *c, *next;
    int rc = 0;
    for (c = TAILQ_FIRST(mine); c; c = next) {
        next = TAILQ_NEXT(c, own);
        if (!c->done)
            continue;
        TAILQ_REMOVE(mine, c, own);
        const int code = c->code, read_errno = c->read_errno;
        copy_unref(c);
        if (read_errno != 0)
            rc = read_errno;
        if (code == 0 || read_errno != 0)
            continue;
        *ret_again = true;
        switch (code) {
        case SNAP_ESTALE:
        case SNAP_ECANCELED:
        case SNAP_ECONN:
        case SNAP_EUNVERIFIED:
        case SNAP_EINVALID: /* the link has seen what that means */
        case SNAP_EOVERFLOW:
        case SNAP_EPOISONED:
        case SNAP_EBUSY:
        case SNAP_ENOMEM:
        case SNAP_ELIMIT:
        case SNAP_ETIMEDOUT:
        case SNAP_ESHUTDOWN:
            break;
        default:
            if (g->config.away == GUARD_BROKEN && !g->break_failed)
                guard_want_break(g);
            else
                rc = code == SNAP_ENOSPC ? ENOSPC : EIO;
        }
    }
    return rc;
}

static void guard_abandon(struct guard_copies *mine)
{
    struct guard_copy *c;
    while ((c = TAILQ_FIRST(mine))) {
        TAILQ_REMOVE(mine, c, own);
        copy_unref(c);
    }
}

/* May these bytes be written now? 0: yes, at this moment; the lock is held. */
static int guard_keep(struct guard *g, uint64_t offset, uint64_t len)
{
    struct guard_copies mine = TAILQ_HEAD_INITIALIZER(mine);
    int rc = 0;
    while (rc == 0 && g->mode != GUARD_IS_BROKEN) {
        if (!guard_has_lease(g)) {
            rc = guard_wait(g, NO_CHUNKS);
            continue;
        }
        if (g->mode == GUARD_NOTHING)
            break;
        bool again = false, any = false;
        rc = guard_collect(g, &mine, &again);
        if (rc != 0)
            break;
        if (again || g->break_wanted) {
            if (again)
                guard_sleep(g, NO_CHUNKS, guard_now_ns() + AGAIN_MS * NS_PER_MS);
            else
                rc = guard_wait(g, NO_CHUNKS);
            continue;
        }
        uint64_t from = offset / g->chunk_bytes, to = (offset + len - 1) / g->chunk_bytes;
        while (from <= to && guard_map_has(&g->kept, from))
            from++;
        if (from > to)
            break;
        rc = guard_claim_all(g, from, to, &mine, &any);
        if (rc == SNAP_ELIMIT) /* whoever's copy ends makes room */
            rc = any ? 0 : guard_wait(g, ALL_CHUNKS);
        else if (rc == 0 && !any)
            rc = guard_wait(g, from, to);
    }
    guard_abandon(&mine);
    return rc;
}

/* -- the disk ----------------------------------------------------------------------------- */

static int disk_write(const struct guard *g, const struct guard_request *r)
{
    const uint8_t *p = r->data;
    uint64_t offset = r->offset_bytes, left = r->len_bytes;
    while (left > 0) {
        struct iovec v = {.iov_base = (void *)(uintptr_t)p, .iov_len = left};
        ssize_t n = pwritev2(g->origin.fd, &v, 1, (off_t)offset, r->fua ? RWF_DSYNC : 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : EIO;
        p += n;
        offset += (uint64_t)n;
        left -= (uint64_t)n;
    }
    return 0;
}

static int disk_allocate(const struct guard *g, int mode, uint64_t offset, uint64_t len)
{
    while (fallocate(g->origin.fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) != 0) {
        if (errno == EINTR)
            continue;
        /* a device wants whole blocks: a piece that has none is to be written */
        return errno == EINVAL || errno == ENOTTY ? EOPNOTSUPP : errno;
    }
    return 0;
}

static int disk_change(const struct guard *g, const struct guard_request *r, uint64_t offset,
                       uint64_t len)
{
    int rc = EOPNOTSUPP;
    if (r->what == GUARD_WRITE)
        return disk_write(g, r);
    if (r->what == GUARD_TRIM || r->may_trim)
        rc = disk_allocate(g, FALLOC_FL_PUNCH_HOLE, offset, len);
    if (r->what == GUARD_TRIM)
        return rc == EOPNOTSUPP ? 0 : rc; /* advice */
    if (rc == EOPNOTSUPP)
        rc = disk_allocate(g, FALLOC_FL_ZERO_RANGE, offset, len);
    return rc;
}

/* -- a request ------------------------------------------------------------------------------ */

/* Until no new head is being made. */
static int guard_enter(struct guard *g)
{
    int rc = 0;
    while (rc == 0 && g->held)
        rc = guard_wait(g, NO_CHUNKS);
    if (rc == 0)
        g->inflight++;
    return rc;
}

static void guard_leave(struct guard *g)
{
    bool wake = --g->inflight == 0 && g->held;
    (void)pthread_mutex_unlock(&g->lock);
    if (wake)
        guard_link_wake(g);
}

int guard_apply(struct guard *g, const struct guard_request *r)
{
    uint64_t offset = r->offset_bytes, left = r->len_bytes;
    struct guard_at_disk at_disk;
    (void)pthread_mutex_lock(&g->lock);
    int rc = guard_enter(g);
    if (rc != 0) {
        (void)pthread_mutex_unlock(&g->lock);
        return rc;
    }
    while (rc == 0 && left > 0) {
        uint64_t n = r->what == GUARD_WRITE ? left : u64_min(left, PIECE_BYTES);
        rc = guard_keep(g, offset, n);
        if (rc != 0)
            break;
        guard_late_begin(g, &at_disk);
        (void)pthread_mutex_unlock(&g->lock);
        rc = disk_change(g, r, offset, n);
        (void)pthread_mutex_lock(&g->lock);
        guard_late_end(g, &at_disk);
        offset += n;
        left -= n;
    }
    guard_leave(g);
    if (rc == 0 && r->fua && r->what != GUARD_WRITE && fdatasync(g->origin.fd) != 0)
        rc = errno;
    return rc;
}
