/* SPDX-License-Identifier: Apache-2.0 */
/* A connection's way to the shard of the volume that it is about: so its data crosses no thread.
 *
 *   request alone, without payload    taken off its loop, sent over with the request
 *   with a payload, or beside others  runs over there first, what comes behind it is held still;
 *                                     when the last is answered the connection follows
 *
 * Thread: the home part's, and on arrival the new one's.
 */
#include "daemon/service/session_priv.h"

#include "common/base/bytes.h"

static void session_attached(struct request *req)
{
    struct session *s = req->session;
    struct err err = ERR_INIT;
    s->home = req->at;
    TAILQ_INSERT_TAIL(&s->home->sessions, s, link);
    if (chan_attach(s->chan, s->home->shard->loop, s->home->shard->pool, &err) < 0) {
        chan_abort(s->chan, &err);
        request_fail(req, err.code, &err);
        return;
    }
    /* this part may have got its list while s was on its way */
    if (session_check_revoked(s))
        request_failf(req, SNAP_EAUTH, "the certificate has been revoked");
    else
        session_run_at_volume(req);
}

static void session_arrived(struct loop_msg *msg)
{
    struct session *s = CONTAINER_OF(msg, struct session, msg);
    struct err err = ERR_INIT;
    atomic_fetch_sub_explicit(&s->home->under_way, 1, memory_order_relaxed);
    s->home = s->follows;
    s->follows = NULL;
    TAILQ_INSERT_TAIL(&s->home->sessions, s, link);
    if (chan_attach(s->chan, s->home->shard->loop, s->home->shard->pool, &err) < 0)
        chan_abort(s->chan, &err); /* goes down inside the call: s is still held */
    else
        (void)session_check_revoked(s); /* this part may have got its list meanwhile */
    s->outstanding--;
    session_free_if_idle(s);
}

/* It has been held still until nothing was under way, see session_follow().
 * True: s belongs to another thread now. */
bool session_go(struct session *s)
{
    struct part *to = s->follows;
    if (s->chan == NULL || s->moved || s->home->draining || chan_detach(s->chan, NULL) < 0) {
        s->follows = NULL;
        if (s->chan != NULL)
            chan_pause(s->chan, false);
        return false;
    }
    chan_pause(s->chan, false);
    TAILQ_REMOVE(&s->home->sessions, s, link);
    s->outstanding++; /* it may not end on its way */
    atomic_fetch_add_explicit(&s->home->under_way, 1, memory_order_relaxed);
    s->msg.fn = session_arrived;
    shard_post(to->shard, &s->msg);
    return true;
}

/* A connection that reads and writes goes to where its volume is, so that its data crosses no
 * thread; once, and once more for a lease: the volumes of its leases look for it where it is then.
 * A write's payload belongs to this thread: it crosses, and what comes behind it waits until it
 * is answered, so that a burst of writes does not keep its connection where it began.
 * True: s belongs to another thread now. */
bool session_follow(struct session *s, struct request *req, struct part *to)
{
    bool acquire = req->method->number == SNAPWIRE__V1__METHOD__METHOD_LEASE_ACQUIRE;
    if (s->moved || !(acquire || (req->method->follows && !s->settled)))
        return false;
    s->moved = acquire;
    if (to == s->home || s->outstanding != 1 || chan_detach(s->chan, NULL) < 0) {
        s->settled = s->settled || to == s->home;
        if (!acquire && to != s->home && s->outstanding == 1) {
            s->settled = true;
            s->follows = to;
            chan_pause(s->chan, true);
        }
        return false;
    }
    s->settled = true;
    TAILQ_REMOVE(&s->home->sessions, s, link);
    request_go(req, to, session_attached);
    return true;
}
