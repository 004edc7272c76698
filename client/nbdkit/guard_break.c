/* SPDX-License-Identifier: Apache-2.0 */
/* Going on without the daemon: the mark is durable, then the library says when the daemon cannot
 * take the snapshots for good any more, then the writes that wait go on.
 *
 *   keeping ──wanted──> marked ──> the lease breaks ──> broken ──a new head──> mark gone, keeping
 *                          └─ no lease: its time waited for ──^
 *
 * Thread: the link's.
 */
#include "client/nbdkit/guard_link.h"
#include "client/nbdkit/guard_mark.h"

#include <stdio.h>
#include <time.h>

static int break_make_mark(struct guard *g, struct err *reterr)
{
    char text[LIMIT_PATH_BYTES + 400], volume[SNAPWIRE_UUID_TEXT_BYTES];
    char head[SNAPWIRE_UUID_TEXT_BYTES], when[40] = "";
    struct tm tm;
    time_t now = time(NULL);
    if (gmtime_r(&now, &tm))
        (void)strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    (void)snprintf(text, sizeof text,
                   "This disk was written while what was overwritten could not be kept.\n"
                   "origin %s\nvolume %s %s\nhead %s\nsince %s\n"
                   "The guard removes this file when it protects a new snapshot.\n",
                   g->origin.path, g->config.volume, snapwire_uuid_format(&g->volume, volume),
                   snapwire_uuid_format(&g->head, head), when);
    int rc = guard_mark_make(g->config.mark, text, reterr);
    g->marked = g->marked || rc == 0;
    return rc;
}

static void break_done(struct guard *g)
{
    g->breaking = false;
    (void)pthread_mutex_lock(&g->lock);
    g->mode = GUARD_IS_BROKEN;
    g->break_wanted = false;
    g->held = false;
    g->stats.breaks++;
    guard_broadcast(g);
    guard_say("%s is written without keeping old content from now on; the snapshots of volume %s "
              "are unverified for good; make a new snapshot as soon as the daemon is back",
              g->origin.path, g->config.volume);
}

static void break_fails(struct guard *g, const char *why)
{
    guard_say("cannot go on without the daemon: %s", why);
    g->breaking = false;
    (void)pthread_mutex_lock(&g->lock);
    g->break_wanted = false;
    g->break_failed = true;
    guard_broadcast(g);
}

static void on_broken(void *user, const struct snapwire_error *error)
{
    struct guard *g = user;
    g->ready_wanted = false;
    if (!error)
        break_done(g);
    else
        g->breaking = false; /* lost: without a lease it is wanted again */
}

void guard_break(struct guard *g)
{
    struct err err = ERR_INIT;
    struct snapwire_error why = {0};
    if (g->breaking)
        return;
    if (!g->marked && break_make_mark(g, &err) < 0) {
        break_fails(g, err.text);
        return;
    }
    g->breaking = true;
    int rc = snapwire_lease_break(g->lease, on_broken, g, &why);
    if (rc < 0)
        g->breaking = false;
    if (rc < 0 && rc != SNAPWIRE_ESTALE && rc != SNAPWIRE_EBUSY && !g->lost)
        guard_say("break the lease of volume %s: %s", g->config.volume, why.text);
}

/* There is no lease: the daemon knows nothing better of us than that we are away, once the
 * time of the last one is over there too. */
void guard_break_alone(struct guard *g)
{
    struct err err = ERR_INIT;
    const uint64_t ttl_ns = g->ttl_ms * NS_PER_MS;
    if (guard_now_ns() < g->gone_ns + ttl_ns + ttl_ns / GUARD_ON_ITS_WAY_PART)
        return;
    if (!g->marked && break_make_mark(g, &err) < 0)
        break_fails(g, err.text);
    else
        break_done(g);
}

/* The head is a new one, that misses nothing. */
void guard_unbreak(struct guard *g, const char *head_name)
{
    struct err err = ERR_INIT;
    if (!g->marked)
        return;
    g->marked = false;
    if (guard_mark_remove(g->config.mark, &err) < 0)
        guard_say("%s: remove it before the guard is started the next time", err.text);
    guard_say("%s@%s is kept up from now on", g->config.volume, head_name ? head_name : "?");
}
