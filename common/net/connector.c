/* SPDX-License-Identifier: Apache-2.0 */
/* Connecting, without waiting: resolve, then try each address in turn.
 *
 *     new ──> resolving ──> trying address 1, 2 … ──> done(fd)
 *                 └──────────────┴── none left, or out of time ──> done(-1, why)
 *
 * A name is resolved on a thread of its own, since the resolver blocks; numbers
 * and Unix sockets need none. That thread and the connector share one small
 * object. The thread posts to the loop under the object's lock and only while
 * the connector wants it, so that a connector, and then its loop, may be freed
 * while the resolver still waits for an answer.
 *
 * done() runs once, from the loop, never inside connector_new(). The time is
 * shared out among the addresses that are left, so that a dead first address
 * leaves time for a living second.
 *
 * Thread: the loop's, but for resolve_main().
 */
#include "common/net/addr_priv.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/clock.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ADDRESSES_MAX = 16, TIMEOUT_DEFAULT_MS = 10000 };

/* Shared between the connector and the resolving thread; the last to leave frees it. */
struct resolve {
    pthread_mutex_t lock;
    struct loop *loop; /* NULL: the connector is gone */
    struct loop_msg msg;
    struct connector *connector; /* the loop's thread only */
    bool thread_done;
    char host[256];
    int gai_error;
    struct addrinfo *list;
};

struct connector {
    struct loop *loop;
    struct addr target;
    struct resolve *resolve; /* while a thread is at it */
    struct sockaddr_storage addresses[ADDRESSES_MAX];
    socklen_t lens[ADDRESSES_MAX];
    unsigned count, next;
    int fd;
    struct loop_io io;
    struct loop_timer timer;
    uint64_t deadline_ms;
    struct err last; /* why the latest address failed */
    void (*done)(void *user, int fd, const struct err *why);
    void *user;
};

static uint64_t now_ms(void)
{
    return clock_now_ns(clock_system()) / 1000000;
}

static void try_next(struct connector *c);

/* -- resolving ----------------------------------------------------------------------- */

static void resolve_free(struct resolve *rs)
{
    if (rs->list != NULL)
        freeaddrinfo(rs->list);
    CHECK(pthread_mutex_destroy(&rs->lock) == 0);
    free(rs);
}

static void *resolve_main(void *arg)
{
    struct resolve *rs = arg;
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    const int g = getaddrinfo(rs->host, NULL, &hints, &list);
    CHECK(pthread_mutex_lock(&rs->lock) == 0);
    rs->gai_error = g;
    rs->list = g == 0 ? list : NULL;
    rs->thread_done = true;
    const bool orphan = rs->loop == NULL;
    if (!orphan)
        loop_post(rs->loop, &rs->msg);
    CHECK(pthread_mutex_unlock(&rs->lock) == 0);
    if (orphan)
        resolve_free(rs);
    return NULL;
}

static void take_addresses(struct connector *c, const struct addrinfo *list)
{
    for (const struct addrinfo *ai = list; ai != NULL && c->count < ADDRESSES_MAX;
         ai = ai->ai_next) {
        struct sockaddr_storage *ss = &c->addresses[c->count];
        if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6)
            continue;
        memcpy(ss, ai->ai_addr, ai->ai_addrlen);
        if (ai->ai_family == AF_INET6)
            ((struct sockaddr_in6 *)ss)->sin6_port = htons(c->target.port);
        else
            ((struct sockaddr_in *)ss)->sin_port = htons(c->target.port);
        c->lens[c->count++] = ai->ai_addrlen;
    }
}

/* On the loop: the thread's answer. */
static void resolved(struct loop_msg *msg)
{
    struct resolve *rs = CONTAINER_OF(msg, struct resolve, msg);
    struct connector *c = rs->connector;
    /* The thread posts before it lets go of the lock: wait for that. */
    CHECK(pthread_mutex_lock(&rs->lock) == 0);
    CHECK(pthread_mutex_unlock(&rs->lock) == 0);
    c->resolve = NULL;
    if (rs->gai_error != 0)
        (void)err_set(&c->last, SNAP_ECONN, "resolve: %s", gai_strerror(rs->gai_error));
    else
        take_addresses(c, rs->list);
    resolve_free(rs);
    try_next(c);
}

static int resolve_start(struct connector *c, struct err *reterr)
{
    struct resolve *rs = calloc(1, sizeof *rs);
    pthread_attr_t attr;
    pthread_t thread;
    if (rs == NULL)
        return err_set(reterr, SNAP_ENOMEM, "resolve: out of memory");
    CHECK(pthread_mutex_init(&rs->lock, NULL) == 0);
    rs->loop = c->loop;
    rs->connector = c;
    rs->msg.fn = resolved;
    (void)snprintf(rs->host, sizeof rs->host, "%s", c->target.host);
    CHECK(pthread_attr_init(&attr) == 0);
    CHECK(pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0);
    const int e = pthread_create(&thread, &attr, resolve_main, rs);
    CHECK(pthread_attr_destroy(&attr) == 0);
    if (e != 0) {
        resolve_free(rs);
        return err_set_errno(reterr, err_code_of_errno(e), e, "resolve: start a thread");
    }
    c->resolve = rs;
    return 0;
}

/* The connector is no longer interested. */
static void resolve_drop(struct connector *c)
{
    struct resolve *rs = c->resolve;
    if (rs == NULL)
        return;
    c->resolve = NULL;
    CHECK(pthread_mutex_lock(&rs->lock) == 0);
    rs->loop = NULL;
    const bool thread_done = rs->thread_done;
    CHECK(pthread_mutex_unlock(&rs->lock) == 0);
    if (!thread_done)
        return; /* the thread frees it */
    CHECK(loop_post_cancel(c->loop, &rs->msg));
    resolve_free(rs);
}

/* -- connecting ------------------------------------------------------------------------- */

static void close_attempt(struct connector *c)
{
    if (c->fd < 0)
        return;
    loop_io_done(&c->io);
    (void)close(c->fd);
    c->fd = -1;
}

/* The last thing that touches c: done() may free it. */
static void finish(struct connector *c, int fd)
{
    char text[sizeof c->target.host + 16];
    loop_timer_stop(&c->timer);
    if (fd < 0)
        (void)err_prefix(&c->last, "connect to %s", addr_format(&c->target, text, sizeof text));
    c->done(c->user, fd, fd < 0 ? &c->last : NULL);
}

/* Why an address did not do; sys_errno 0: no answer in time. A name's only one goes without saying.
 */
static void fail_address(struct connector *c, unsigned number, int code, int sys_errno)
{
    char text[128];
    (void)err_set(&c->last, code, "%s",
                  sys_errno != 0 ? strerror_r(sys_errno, text, sizeof text) : "no answer in time");
    c->last.sys_errno = sys_errno;
    if (c->count > 1)
        (void)err_prefix(&c->last, "address %u of %u", number, c->count);
}

static void writable(void *user, unsigned what)
{
    struct connector *c = user;
    int e = 0;
    socklen_t len = sizeof e;
    (void)what;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &len) < 0)
        e = errno;
    if (e != 0) {
        close_attempt(c);
        fail_address(c, c->next, SNAP_ECONN, e);
        try_next(c);
        return;
    }
    const int fd = c->fd;
    loop_io_done(&c->io);
    c->fd = -1;
    finish(c, fd);
}

/* Start on one address. false: it failed at once; c->last says why. */
static bool try_address(struct connector *c, unsigned i)
{
    c->fd = socket(c->addresses[i].ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        (void)err_set_errno(&c->last, err_code_of_errno(errno), errno, "socket");
        return false;
    }
    if (loop_io_init(c->loop, &c->io, c->fd, writable, c, &c->last) < 0) {
        (void)close(c->fd);
        c->fd = -1;
        return false;
    }
    if (connect(c->fd, (const struct sockaddr *)&c->addresses[i], c->lens[i]) < 0 &&
        errno != EINPROGRESS) {
        fail_address(c, i + 1, SNAP_ECONN, errno);
        close_attempt(c);
        return false;
    }
    /* connected already, or soon: a connected socket is writable */
    loop_io_want(&c->io, LOOP_WRITE);
    return true;
}

static void try_next(struct connector *c)
{
    const uint64_t now = now_ms();
    if (now >= c->deadline_ms) {
        (void)err_set(&c->last, SNAP_ETIMEDOUT, "no answer in time");
        finish(c, -1);
        return;
    }
    while (c->next < c->count) {
        if (try_address(c, c->next++)) {
            const uint64_t left = c->count - c->next + 1;
            loop_timer_set(&c->timer, u64_max((c->deadline_ms - now) / left, 1));
            return;
        }
    }
    if (c->last.code == 0)
        (void)err_set(&c->last, SNAP_ECONN, "the name stands for no address");
    finish(c, -1);
}

/* First the start from the loop, later the end of an attempt's time. */
static void timer(void *user)
{
    struct connector *c = user;
    if (c->resolve != NULL) {
        resolve_drop(c);
        (void)err_set(&c->last, SNAP_ETIMEDOUT, "the name was not resolved in time");
        finish(c, -1);
        return;
    }
    if (c->fd >= 0) {
        close_attempt(c);
        fail_address(c, c->next, SNAP_ETIMEDOUT, 0);
        if (c->next == c->count) {
            finish(c, -1);
            return;
        }
    }
    try_next(c);
}

/* -- life ---------------------------------------------------------------------------------- */

/* Numbers need no resolver. 0: taken; 1: it is a name. */
static int take_numeric(struct connector *c)
{
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
    struct addrinfo *list = NULL;
    if (getaddrinfo(c->target.host, NULL, &hints, &list) != 0)
        return 1;
    take_addresses(c, list);
    freeaddrinfo(list);
    return 0;
}

static int take_unix(struct connector *c, struct err *reterr)
{
    struct sockaddr_un sun;
    const int r = addr_to_sockaddr_un(&c->target, &sun, reterr);
    if (r < 0)
        return r;
    memcpy(&c->addresses[0], &sun, sizeof sun);
    c->lens[0] = sizeof sun;
    c->count = 1;
    return 0;
}

int connector_new(struct loop *l, const struct addr *a, uint32_t timeout_ms,
                  void (*done)(void *user, int fd, const struct err *why), void *user,
                  struct connector **ret, struct err *reterr)
{
    const uint32_t patience_ms = timeout_ms != 0 ? timeout_ms : TIMEOUT_DEFAULT_MS;
    struct connector *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(reterr, SNAP_ENOMEM, "connect: out of memory");
    c->loop = l;
    c->target = *a;
    c->fd = -1;
    c->done = done;
    c->user = user;
    c->deadline_ms = now_ms() + patience_ms;
    int r = loop_timer_init(l, &c->timer, timer, c, reterr);
    if (r < 0) {
        free(c);
        return r;
    }
    if (a->unix_socket)
        r = take_unix(c, reterr);
    else if (take_numeric(c) != 0)
        r = resolve_start(c, reterr);
    if (r < 0) {
        connector_free(c);
        return r;
    }
    loop_timer_set(&c->timer, c->resolve != NULL ? patience_ms : 0);
    *ret = c;
    return 0;
}

void connector_free(struct connector *c)
{
    if (c == NULL)
        return;
    resolve_drop(c);
    close_attempt(c);
    loop_timer_done(&c->timer);
    free(c);
}
