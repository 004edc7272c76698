/* SPDX-License-Identifier: Apache-2.0 */
/* The guard's side to the daemon: one thread, which alone uses the library.
 *
 *   opened ──> step: puts, head_ready, break ──> a turn of the library's loop ──> publish
 *     ^          ^                                                                  │
 *     │          └──────────────────────────────────────────────────────────────────┘
 *     │ again: another client, a lease of the same instance             │ lease lost
 *     └──────────────────── closed: all copies have ended <─────────────┘
 *
 * A lease that was lost is asked for again: the origin is locked and nobody else has written it,
 * so this is what starting the guard again would do.
 *
 * Thread: the link's; what is shared is under the guard's lock.
 */
#include "client/nbdkit/guard_link.h"
#include "client/nbdkit/guard_read.h"

#include "common/base/bytes.h"

#include <time.h>

/* For old content that is being read: as long as a disk takes, and no longer, since the daemon's
 * answers wait too. */
enum { READ_WAIT_US = 2000, LAST_READ_WAIT_US = 100000 };

static bool link_stopping(struct guard *g)
{
    (void)pthread_mutex_lock(&g->lock);
    bool stop = g->stop;
    (void)pthread_mutex_unlock(&g->lock);
    return stop;
}

static void link_step(struct guard *g)
{
    guard_put_all(g, guard_reader_is_busy(g->reader) ? READ_WAIT_US : 0);
    guard_late_note(g);
    (void)pthread_mutex_lock(&g->lock);
    bool still = g->held && g->inflight == 0;
    bool wanted = g->break_wanted;
    (void)pthread_mutex_unlock(&g->lock);
    if (wanted)
        guard_break(g);
    if (g->ready_wanted && still && !g->breaking) {
        struct snapwire_error why = {0};
        g->ready_wanted = false;
        if (snapwire_lease_head_ready(g->lease, &why) < 0)
            guard_say("stand still for a new snapshot: %s", why.text);
    }
}

static void link_sleep(struct guard *g, uint64_t until_ns)
{
    struct timespec t = {.tv_sec = (time_t)(until_ns / (1000 * NS_PER_MS)),
                         .tv_nsec = (long)(until_ns % (1000 * NS_PER_MS))};
    (void)pthread_mutex_lock(&g->wake_lock);
    if (!g->wake)
        (void)pthread_cond_timedwait(&g->woken, &g->wake_lock, &t);
    g->wake = false;
    (void)pthread_mutex_unlock(&g->wake_lock);
}

/* Is it of no use to ask again soon, and for writes to wait? */
static bool is_refusal(const struct guard *g, int code)
{
    if (code == SNAP_EBUSY) /* another has the lease: then nothing is written, whatever policy */
        return true;
    return g->config.away != GUARD_BROKEN &&
           (code == SNAP_EMISMATCH || code == SNAP_EPERM || code == SNAP_EAUTH ||
            code == SNAP_ENOENT || code == SNAP_ENOTSUP || code == SNAP_EINVAL);
}

/* Without a lease: ask for one now and then. */
static void link_again(struct guard *g)
{
    struct err err = ERR_INIT;
    if (g->client)
        guard_lease_close(g);
    guard_put_all(g, 0);
    guard_late_note(g);
    (void)pthread_mutex_lock(&g->lock);
    g->break_wanted = g->break_wanted && g->mode != GUARD_IS_BROKEN;
    bool wanted = g->break_wanted;
    (void)pthread_mutex_unlock(&g->lock);
    if (wanted)
        guard_break_alone(g);
    if (guard_now_ns() < g->retry_at_ns) {
        link_sleep(g, u64_min(g->retry_at_ns, guard_now_ns() + GUARD_TURN_MS * NS_PER_MS));
        return;
    }
    int rc = guard_link_open(g, &err);
    if (rc == 0) {
        guard_say("the lease of volume %s is had again", g->config.volume);
        return;
    }
    g->retry_at_ns = guard_now_ns() + GUARD_RETRY_MS * NS_PER_MS;
    (void)pthread_mutex_lock(&g->lock);
    enum guard_lease now = is_refusal(g, rc) ? GUARD_LEASE_REFUSED : GUARD_LEASE_ASKED;
    bool news = g->lease_state != now || !g->explained;
    g->lease_state = now;
    g->explained = true;
    if (g->away_ns == 0)
        g->away_ns = guard_now_ns();
    guard_broadcast(g);
    if (news)
        guard_say("%s", err.text);
}

static void link_leave(struct guard *g)
{
    guard_late_note(g);
    if (!g->client)
        return;
    if (g->stream)
        snapwire_stream_free(g->stream);
    g->stream = NULL;
    /* of an absent daemon nothing is asked: the lease ends by itself */
    if (g->lease && !g->lost && snapwire_client_state(g->client) == SNAPWIRE_STATE_CONNECTED &&
        snapwire_lease_release_sync(g->lease, NULL) != SNAPWIRE_EBUSY)
        g->lease = NULL;
    guard_lease_close(g);
}

/* The ring is this thread's. */
static void link_open_reader(struct guard *g)
{
    g->reader = guard_reader_new(&g->origin);
    (void)pthread_mutex_lock(&g->lock);
    g->link_reads = g->reader != NULL;
    (void)pthread_mutex_unlock(&g->lock);
}

/* There is no stream any more: what is still being read ends, too. */
static void link_close_reader(struct guard *g)
{
    while (guard_reader_is_busy(g->reader))
        guard_put_all(g, LAST_READ_WAIT_US);
    guard_reader_free(g->reader);
    g->reader = NULL;
}

static void *link_main(void *arg)
{
    struct guard *g = arg;
    link_open_reader(g);
    while (!link_stopping(g)) {
        if (!g->client || g->lost) {
            link_again(g);
            continue;
        }
        link_step(g);
        snapwire_client_turn(g->client, guard_reader_is_busy(g->reader) ? 0 : GUARD_TURN_MS);
        guard_put_settle(g);
        if (!g->lost)
            guard_lease_publish(g);
    }
    link_leave(g);
    link_close_reader(g);
    return NULL;
}

int guard_link_start(struct guard *g, struct err *reterr)
{
    int rc = pthread_create(&g->thread, NULL, link_main, g);
    if (rc != 0)
        return err_set_errno(reterr, SNAP_ENOMEM, rc, "a thread");
    g->running = true;
    return 0;
}

void guard_link_stop(struct guard *g)
{
    (void)pthread_mutex_lock(&g->lock);
    g->stop = true;
    guard_broadcast(g);
    guard_link_wake(g);
    if (g->running)
        (void)pthread_join(g->thread, NULL);
    else
        link_leave(g);
    g->running = false;
}

static void do_nothing(void *user)
{
    (void)user;
}

void guard_link_wake(struct guard *g)
{
    (void)pthread_mutex_lock(&g->wake_lock);
    g->wake = true;
    if (g->wakeable)
        (void)!snapwire_client_post(g->wakeable, do_nothing, NULL, NULL);
    else
        (void)pthread_cond_signal(&g->woken);
    (void)pthread_mutex_unlock(&g->wake_lock);
}
