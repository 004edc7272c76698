/* SPDX-License-Identifier: Apache-2.0 */
/* Timers, descriptors and signals of a loop: libevent's events with our callbacks.
 *
 * Every callback ends by telling the loop that a turn of ours has happened. It may
 * have ended the very timer or descriptor that it was called for: after it only
 * the loop is touched.
 *
 * A timer is always libevent's, also while it is not set: then for a time that is far off. So it
 * has its place there from the beginning, and to set it takes no memory, which may fail to come.
 *
 * Thread: the loop's.
 */
#include "common/net/loop_priv.h"

#include "common/base/bytes.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdlib.h>

#define FAR_OFF_MS (UINT64_C(10000) * 86400 * 1000)

/* What stands behind the `void *event` of timers and descriptors. */
struct loop_event {
    struct event ev;
    struct loop *loop;
    void *owner;
    bool wanted;
};

struct loop_signal_entry {
    struct event ev;
    struct loop *loop;
    void (*fn)(void *user);
    void *user;
    SLIST_ENTRY(loop_signal_entry) link;
};

struct timeval loop_timeval(uint64_t ms)
{
    return (struct timeval){.tv_sec = (time_t)(ms / 1000),
                            .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
}

/* -- timers ------------------------------------------------------------------------------ */

static int timer_rest(struct loop_event *e)
{
    const struct timeval far_off = loop_timeval(FAR_OFF_MS);
    e->wanted = false;
    return event_add(&e->ev, &far_off);
}

static void timer_cb(evutil_socket_t fd, short what, void *arg)
{
    struct loop_event *e = arg;
    struct loop *l = e->loop;
    const struct loop_timer *t = e->owner;
    const bool wanted = e->wanted;
    (void)fd;
    (void)what;
    (void)timer_rest(e); /* in the place that it has just left */
    if (!wanted)
        return;
    t->fn(t->user); /* may end the timer: e and t are not touched again */
    loop_mark_turn(l);
}

static struct loop_event *loop_event_new(struct loop *l, int fd, short what, event_callback_fn cb,
                                         void *owner)
{
    struct loop_event *e = calloc(1, sizeof *e);
    if (e == NULL)
        return NULL;
    e->loop = l;
    e->owner = owner;
    if (event_assign(&e->ev, loop_base(l), fd, what, cb, e) != 0) {
        free(e);
        return NULL;
    }
    return e;
}

static void loop_event_free(struct loop_event *e)
{
    if (e == NULL)
        return;
    (void)event_del(&e->ev);
    free(e);
}

int loop_timer_init(struct loop *l, struct loop_timer *t, void (*fn)(void *), void *user,
                    struct err *reterr)
{
    t->fn = fn;
    t->user = user;
    t->event = loop_event_new(l, -1, 0, timer_cb, t);
    if (t->event != NULL && timer_rest(t->event) == 0)
        return 0;
    loop_timer_done(t);
    return err_set(reterr, SNAP_ENOMEM, "timer: out of memory");
}

void loop_timer_set(struct loop_timer *t, uint64_t delay_ms)
{
    struct loop_event *e = t->event;
    const struct timeval tv = loop_timeval(u64_min(delay_ms, FAR_OFF_MS));
    e->wanted = true;
    (void)event_add(&e->ev, &tv);
}

void loop_timer_stop(struct loop_timer *t)
{
    (void)timer_rest(t->event);
}

void loop_timer_done(struct loop_timer *t)
{
    loop_event_free(t->event);
    t->event = NULL;
}

/* -- descriptors --------------------------------------------------------------------------- */

static void io_cb(evutil_socket_t fd, short what, void *arg)
{
    struct loop_event *e = arg;
    struct loop *l = e->loop;
    const struct loop_io *io = e->owner;
    (void)fd;
    io->fn(io->user, (what & EV_WRITE) ? LOOP_WRITE : LOOP_READ); /* may end the io */
    loop_mark_turn(l);
}

int loop_io_init(struct loop *l, struct loop_io *io, int fd, void (*fn)(void *, unsigned),
                 void *user, struct err *reterr)
{
    io->fn = fn;
    io->user = user;
    io->events[0] = loop_event_new(l, fd, EV_READ | EV_PERSIST, io_cb, io);
    io->events[1] = loop_event_new(l, fd, EV_WRITE | EV_PERSIST, io_cb, io);
    if (io->events[0] == NULL || io->events[1] == NULL) {
        loop_io_done(io);
        return err_set(reterr, SNAP_ENOMEM, "watch descriptor %d: out of memory", fd);
    }
    return 0;
}

void loop_io_want(struct loop_io *io, unsigned what)
{
    for (unsigned i = 0; i < 2; i++) {
        struct loop_event *e = io->events[i];
        const bool want = (what & (1u << i)) != 0;
        if (want == e->wanted)
            continue;
        e->wanted = want;
        if (want)
            (void)event_add(&e->ev, NULL);
        else
            (void)event_del(&e->ev);
    }
}

void loop_io_done(struct loop_io *io)
{
    for (unsigned i = 0; i < 2; i++) {
        loop_event_free(io->events[i]);
        io->events[i] = NULL;
    }
}

/* -- signals ---------------------------------------------------------------------------------- */

static void signal_cb(evutil_socket_t fd, short what, void *arg)
{
    const struct loop_signal_entry *s = arg;
    struct loop *l = s->loop;
    (void)fd;
    (void)what;
    s->fn(s->user);
    loop_mark_turn(l);
}

int loop_signal(struct loop *l, int signo, void (*fn)(void *user), void *user, struct err *reterr)
{
    struct loop_signal_entry *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_set(reterr, SNAP_ENOMEM, "signal %d: out of memory", signo);
    s->loop = l;
    s->fn = fn;
    s->user = user;
    if (event_assign(&s->ev, loop_base(l), signo, EV_SIGNAL | EV_PERSIST, signal_cb, s) != 0 ||
        event_add(&s->ev, NULL) != 0) {
        free(s);
        return err_set(reterr, SNAP_EINVAL, "signal %d: cannot be watched", signo);
    }
    SLIST_INSERT_HEAD(loop_signals_of(l), s, link);
    return 0;
}

void loop_signals_free(struct loop_signals *signals)
{
    struct loop_signal_entry *s;
    while ((s = SLIST_FIRST(signals)) != NULL) {
        SLIST_REMOVE_HEAD(signals, link);
        (void)event_del(&s->ev);
        free(s);
    }
}
