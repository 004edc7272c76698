/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop.
 *
 * One turn of a loop of our own:
 *
 *     poll ──> callbacks of what is ready ──> turn hooks ──> (again? poll without waiting)
 *                 └── descriptors, timers, signals, posted messages
 *
 * Hooks see everything that the callbacks of the turn left behind, which is what
 * lets a shard submit its disk requests, and a channel its frames, in one batch.
 * A hook that is added while hooks run is run in the same pass. The last hooks come
 * behind all others, and again behind what they themselves added.
 *
 * On a base that belongs to somebody else (loop_wrap) there is no place behind
 * the callbacks to stand in. There each callback of ours makes one event active;
 * libevent runs active events in order, so that event comes after the callbacks
 * that were ready with it, and it runs the hooks. loop_again() is a timer of zero
 * length there, so that the base polls its descriptors in between.
 *
 * Must not know: what the descriptors carry. Thread: the loop's own, but for
 * loop_post() and loop_stop(), which meet the loop under one mutex and wake it
 * through an eventfd, once a batch.
 */
#include "common/net/loop_priv.h"

#include "common/base/check.h"

#include <errno.h>
#include <event2/event.h>
#include <event2/event_struct.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { HOOK_ROUNDS_MAX = 8 }; /* in one turn; then the descriptors are looked at again */

TAILQ_HEAD(hook_list, loop_hook);
STAILQ_HEAD(msg_list, loop_msg);

struct loop {
    struct event_base *base;
    bool owned;
    bool dispatching; /* callbacks of this turn are running: the hooks are still to come */
    bool again;
    bool turn_active; /* wrapped: the turn event is already queued */
    struct hook_list hooks, last_hooks;
    struct loop_hook *hook_next; /* the cursor of a running pass */
    bool hooks_running;
    struct event turn_event;  /* wrapped: runs the hooks */
    struct event again_event; /* wrapped: a turn without sleep */
    struct event limit_event; /* ends the wait of loop_turn() */
    struct event post_event;
    int post_fd;
    pthread_mutex_t post_lock; /* guards posted */
    struct msg_list posted;
    struct msg_list running; /* the batch at hand; the loop's thread only */
    atomic_bool stop;
    struct loop_signals signals;
};

/* -- hooks ------------------------------------------------------------------------ */

/* From l->hook_next to the end of the list, which may grow meanwhile. */
static void hooks_pass(struct loop *l)
{
    struct loop_hook *h;
    while ((h = l->hook_next) != NULL) {
        l->hook_next = TAILQ_NEXT(h, link);
        h->fn(h->user);
    }
}

/* The hooks, then the last ones, then what those added, until nothing is added. */
static void hooks_run(struct loop *l)
{
    l->hooks_running = true;
    l->hook_next = TAILQ_FIRST(&l->hooks);
    for (unsigned round = 0; round == 0 || l->hook_next != NULL; round++) {
        if (round == HOOK_ROUNDS_MAX) {
            loop_again(l);
            break;
        }
        hooks_pass(l);
        struct loop_hook *h;
        TAILQ_FOREACH (h, &l->last_hooks, link) {
            h->fn(h->user);
        }
    }
    l->hook_next = NULL;
    l->hooks_running = false;
}

void loop_hook_remove(struct loop *l, struct loop_hook *h)
{
    if (h->last) {
        TAILQ_REMOVE(&l->last_hooks, h, link);
        return;
    }
    if (l->hook_next == h)
        l->hook_next = TAILQ_NEXT(h, link);
    TAILQ_REMOVE(&l->hooks, h, link);
}

/* A callback of ours has run: on somebody else's base, see that the hooks follow. */
void loop_mark_turn(struct loop *l)
{
    if (l->owned || l->turn_active)
        return;
    l->turn_active = true;
    event_active(&l->turn_event, EV_TIMEOUT, 0);
}

static void turn_event_cb(evutil_socket_t fd, short what, void *arg)
{
    struct loop *l = arg;
    (void)fd;
    (void)what;
    l->turn_active = false;
    hooks_run(l);
}

static void again_event_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    loop_mark_turn(arg);
}

void loop_again(struct loop *l)
{
    static const struct timeval zero = {0, 0};
    if (l->owned)
        l->again = true;
    else
        (void)event_add(&l->again_event, &zero);
}

bool loop_has_more(const struct loop *l)
{
    return l->again || l->hook_next != NULL;
}

void loop_hook_add_last(struct loop *l, struct loop_hook *h)
{
    h->last = true;
    TAILQ_INSERT_TAIL(&l->last_hooks, h, link);
    if (!l->owned)
        loop_mark_turn(l);
    else if (!l->dispatching)
        l->again = true;
}

void loop_hook_add(struct loop *l, struct loop_hook *h)
{
    h->last = false;
    TAILQ_INSERT_TAIL(&l->hooks, h, link);
    if (l->hooks_running) {
        if (l->hook_next == NULL)
            l->hook_next = h;
    } else if (!l->owned) {
        loop_mark_turn(l);
    } else if (!l->dispatching) {
        l->again = true;
    }
}

/* -- messages from other threads ---------------------------------------------------- */

static void wake(struct loop *l)
{
    const uint64_t one = 1;
    ssize_t n;
    do {
        n = write(l->post_fd, &one, sizeof one);
    } while (n < 0 && errno == EINTR);
    /* EAGAIN: the counter is full, so the loop is awake anyway */
    CHECK(n == (ssize_t)sizeof one || errno == EAGAIN);
}

void loop_post(struct loop *l, struct loop_msg *msg)
{
    CHECK(pthread_mutex_lock(&l->post_lock) == 0);
    const bool first = STAILQ_EMPTY(&l->posted);
    STAILQ_INSERT_TAIL(&l->posted, msg, link);
    if (first)
        wake(l);
    CHECK(pthread_mutex_unlock(&l->post_lock) == 0);
}

static bool msg_remove(struct msg_list *list, struct loop_msg *msg)
{
    struct loop_msg *m;
    STAILQ_FOREACH (m, list, link) {
        if (m == msg) {
            STAILQ_REMOVE(list, msg, loop_msg, link);
            return true;
        }
    }
    return false;
}

bool loop_post_cancel(struct loop *l, struct loop_msg *msg)
{
    if (msg_remove(&l->running, msg))
        return true;
    CHECK(pthread_mutex_lock(&l->post_lock) == 0);
    const bool found = msg_remove(&l->posted, msg);
    CHECK(pthread_mutex_unlock(&l->post_lock) == 0);
    return found;
}

static void post_event_cb(evutil_socket_t fd, short what, void *arg)
{
    struct loop *l = arg;
    uint64_t count;
    (void)what;
    /* An empty counter (EAGAIN) or a signal changes nothing: the list is what counts. */
    const ssize_t n = read(fd, &count, sizeof count);
    CHECK(n == (ssize_t)sizeof count || errno == EAGAIN || errno == EINTR);
    CHECK(pthread_mutex_lock(&l->post_lock) == 0);
    STAILQ_CONCAT(&l->running, &l->posted);
    CHECK(pthread_mutex_unlock(&l->post_lock) == 0);
    struct loop_msg *m;
    while ((m = STAILQ_FIRST(&l->running)) != NULL) {
        STAILQ_REMOVE_HEAD(&l->running, link);
        m->fn(m);
    }
    loop_mark_turn(l);
}

/* -- life ------------------------------------------------------------------------------ */

static void limit_event_cb(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)arg;
}

static int events_assign(struct loop *l, struct err *reterr)
{
    if (event_assign(&l->turn_event, l->base, -1, 0, turn_event_cb, l) != 0 ||
        event_assign(&l->again_event, l->base, -1, 0, again_event_cb, l) != 0 ||
        event_assign(&l->limit_event, l->base, -1, 0, limit_event_cb, l) != 0 ||
        event_assign(&l->post_event, l->base, l->post_fd, EV_READ | EV_PERSIST, post_event_cb, l) !=
            0 ||
        event_add(&l->post_event, NULL) != 0)
        return err_set(reterr, SNAP_ENOMEM, "event loop: cannot register its events");
    return 0;
}

static int loop_create(struct event_base *base, bool owned, struct loop **ret, struct err *reterr)
{
    struct loop *l = calloc(1, sizeof *l);
    if (l == NULL)
        return err_set(reterr, SNAP_ENOMEM, "event loop: out of memory");
    l->base = base;
    l->owned = owned;
    TAILQ_INIT(&l->hooks);
    TAILQ_INIT(&l->last_hooks);
    STAILQ_INIT(&l->posted);
    STAILQ_INIT(&l->running);
    SLIST_INIT(&l->signals);
    atomic_init(&l->stop, false);
    l->post_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (l->post_fd < 0) {
        const int e = errno;
        free(l);
        return err_set_errno(reterr, err_code_of_errno(e), e, "event loop: eventfd");
    }
    CHECK(pthread_mutex_init(&l->post_lock, NULL) == 0);
    const int r = events_assign(l, reterr);
    if (r < 0) {
        l->owned = false; /* the base stays the caller's on an error */
        loop_free(l);
        return r;
    }
    *ret = l;
    return 0;
}

int loop_new(struct loop **ret, struct err *reterr)
{
    struct event_config *config = event_config_new();
    struct event_base *base = NULL;
    if (config != NULL && event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK) == 0)
        base = event_base_new_with_config(config);
    if (config != NULL)
        event_config_free(config);
    if (base == NULL)
        return err_set(reterr, SNAP_ENOMEM, "event loop: libevent gives no event base");
    const int r = loop_create(base, true, ret, reterr);
    if (r < 0)
        event_base_free(base);
    return r;
}

int loop_wrap(struct event_base *base, struct loop **ret, struct err *reterr)
{
    return loop_create(base, false, ret, reterr);
}

void loop_free(struct loop *l)
{
    if (l == NULL)
        return;
    loop_signals_free(&l->signals);
    struct event *const own[] = {&l->turn_event, &l->again_event, &l->limit_event, &l->post_event};
    for (unsigned i = 0; i < sizeof own / sizeof own[0]; i++)
        if (event_initialized(own[i]))
            (void)event_del(own[i]);
    (void)close(l->post_fd);
    CHECK(pthread_mutex_destroy(&l->post_lock) == 0);
    if (l->owned)
        event_base_free(l->base);
    free(l);
}

struct loop_signals *loop_signals_of(struct loop *l)
{
    return &l->signals;
}

struct event_base *loop_base(struct loop *l)
{
    return l->base;
}

void loop_turn(struct loop *l, int timeout_ms)
{
    int flags = EVLOOP_ONCE;
    CHECK(!l->dispatching);
    if (l->again || timeout_ms == 0) {
        flags |= EVLOOP_NONBLOCK;
    } else if (timeout_ms > 0) {
        const struct timeval tv = loop_timeval((uint64_t)timeout_ms);
        (void)event_add(&l->limit_event, &tv);
    }
    l->again = false;
    l->dispatching = true;
    (void)event_base_loop(l->base, flags);
    l->dispatching = false;
    if (timeout_ms > 0)
        (void)event_del(&l->limit_event);
    if (l->owned)
        hooks_run(l);
}

void loop_run(struct loop *l)
{
    while (!atomic_load_explicit(&l->stop, memory_order_acquire))
        loop_turn(l, -1);
    atomic_store_explicit(&l->stop, false, memory_order_release);
}

void loop_stop(struct loop *l)
{
    atomic_store_explicit(&l->stop, true, memory_order_release);
    wake(l);
}
