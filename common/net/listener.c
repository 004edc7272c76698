/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets: one for each address that a name stands for, or one Unix socket.
 *
 * A Unix socket's file outlives its process. One that nobody answers on is
 * replaced; one that answers belongs to a living daemon. The file gets its mode
 * before its name: there is no moment at which it is wider than asked.
 *
 * When descriptors or memory run out, accept() would fail again at once while
 * the socket stays readable: the listener then rests for a moment.
 *
 * Thread: the loop's.
 */
#include "common/net/addr_priv.h"

#include "common/base/cleanup.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum {
    BACKLOG = 512,
    ACCEPTS_A_TURN = 64,
    REST_MS = 100,
};

struct listen_socket {
    struct listener *owner;
    int fd;
    struct loop_io io;
};

struct listener {
    struct loop *loop;
    struct listen_socket sockets[ADDR_SOCKETS_MAX];
    unsigned count;
    bool local;
    uint16_t port;
    char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)]; /* Unix: our file … */
    dev_t dev;                                                 /* … if it is still this one */
    ino_t ino;
    struct loop_timer rest;
    void (*accepted)(void *user, int fd, bool local);
    void *user;
    bool *freed; /* set when listener_free() is called inside accepted() */
};

static void want_all(struct listener *ls, unsigned what)
{
    for (unsigned i = 0; i < ls->count; i++)
        loop_io_want(&ls->sockets[i].io, what);
}

static void rest_over(void *user)
{
    want_all(user, LOOP_READ);
}

static void readable(void *user, unsigned what)
{
    const struct listen_socket *s = user;
    struct listener *ls = s->owner;
    bool freed = false;
    (void)what;
    ls->freed = &freed;
    for (unsigned i = 0; i < ACCEPTS_A_TURN && !freed; i++) {
        const int fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            ls->accepted(ls->user, fd, ls->local);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            want_all(ls, 0);
            loop_timer_set(&ls->rest, REST_MS);
            break;
        }
        if (errno == EAGAIN)
            break;
        /* else: that one connection failed before it was accepted; the next may be sound */
    }
    if (!freed)
        ls->freed = NULL;
}

/* Own fd from here on, also on error. */
static int add_socket(void *user, int fd, struct err *reterr)
{
    struct listener *ls = user;
    struct listen_socket *s = &ls->sockets[ls->count];
    s->owner = ls;
    s->fd = fd;
    const int r = loop_io_init(ls->loop, &s->io, fd, readable, s, reterr);
    if (r < 0) {
        (void)close(fd);
        return r;
    }
    loop_io_want(&s->io, LOOP_READ);
    ls->count++;
    return 0;
}

/* -- TCP --------------------------------------------------------------------------- */

struct tcp_sockets {
    int fds[ADDR_SOCKETS_MAX];
    unsigned count;
    uint16_t port;
};

static int bind_tcp(struct tcp_sockets *s, const struct addrinfo *ai, struct err *reterr)
{
    const int on = 1;
    struct sockaddr_storage ss = {0};
    memcpy(&ss, ai->ai_addr, ai->ai_addrlen);
    if (ss.ss_family == AF_INET6)
        ((struct sockaddr_in6 *)&ss)->sin6_port = htons(s->port);
    else
        ((struct sockaddr_in *)&ss)->sin_port = htons(s->port);

    const int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "socket");
    s->fds[s->count++] = fd;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        (ss.ss_family == AF_INET6 &&
         setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) < 0) ||
        bind(fd, (const struct sockaddr *)&ss, ai->ai_addrlen) < 0)
        return err_set_errno(reterr, errno == EADDRINUSE ? SNAP_EBUSY : err_code_of_errno(errno),
                             errno, "bind");
    if (listen(fd, BACKLOG) < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "listen");
    if (s->port == 0)
        s->port = addr_bound_port(fd);
    return 0;
}

int addr_listen_tcp(const struct addr *a, addr_take_fn *take, void *user, uint16_t *ret_port,
                    struct err *reterr)
{
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct tcp_sockets s = {.port = a->port};
    struct addrinfo *list = NULL;
    const int g = getaddrinfo(a->host, NULL, &hints, &list);
    if (g != 0)
        return err_set(reterr, SNAP_ENOENT, "%s", gai_strerror(g));
    int r = 0;
    for (const struct addrinfo *ai = list; ai != NULL && r == 0; ai = ai->ai_next) {
        if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6)
            continue;
        if (s.count == ADDR_SOCKETS_MAX)
            r = err_set(reterr, SNAP_ELIMIT, "stands for more than %d addresses", ADDR_SOCKETS_MAX);
        else
            r = bind_tcp(&s, ai, reterr);
    }
    freeaddrinfo(list);
    if (r == 0 && s.count == 0)
        r = err_set(reterr, SNAP_ENOENT, "stands for no IPv4 or IPv6 address");
    *ret_port = s.port;
    for (unsigned i = 0; i < s.count; i++) {
        if (r == 0)
            r = take(user, s.fds[i], reterr);
        else
            (void)close(s.fds[i]);
    }
    return r;
}

/* -- Unix ---------------------------------------------------------------------------- */

/* Does anybody answer there? 0: no, and it is a socket that may be removed. */
static int check_dead(const struct sockaddr_un *sun, struct err *reterr)
{
    struct stat st;
    if (lstat(sun->sun_path, &st) < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "stat");
    if (!S_ISSOCK(st.st_mode))
        return err_set(reterr, SNAP_EEXIST, "there is a file that is no socket");
    CLEANUP_CLOSE const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "socket");
    if (connect(fd, (const struct sockaddr *)sun, sizeof *sun) == 0 || errno != ECONNREFUSED)
        return err_set(reterr, SNAP_EBUSY, "another process listens there");
    return 0;
}

static int listen_unix(struct listener *ls, const struct addr *a, unsigned mode, struct err *reterr)
{
    struct sockaddr_un sun;
    struct stat st;
    const int bad = addr_to_sockaddr_un(a, &sun, reterr);
    if (bad < 0)
        return bad;
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "socket");
    (void)fchmod(fd, (mode_t)mode); /* what bind() then makes is no wider than this */
    int e = bind(fd, (const struct sockaddr *)&sun, sizeof sun) < 0 ? errno : 0;
    if (e == EADDRINUSE) {
        const int r = check_dead(&sun, reterr);
        if (r < 0)
            return r;
        e = unlink(sun.sun_path) < 0 ? errno : 0;
        if (e == 0)
            e = bind(fd, (const struct sockaddr *)&sun, sizeof sun) < 0 ? errno : 0;
    }
    if (e != 0)
        return err_set_errno(reterr, e == EADDRINUSE ? SNAP_EBUSY : err_code_of_errno(e), e,
                             "bind");
    if (chmod(sun.sun_path, (mode_t)mode) < 0 || lstat(sun.sun_path, &st) < 0) {
        e = errno;
        (void)unlink(sun.sun_path);
        return err_set_errno(reterr, err_code_of_errno(e), e, "set its mode");
    }
    if (listen(fd, BACKLOG) < 0) {
        e = errno;
        (void)unlink(sun.sun_path);
        return err_set_errno(reterr, err_code_of_errno(e), e, "listen");
    }
    memcpy(ls->path, sun.sun_path, sizeof ls->path);
    ls->dev = st.st_dev;
    ls->ino = st.st_ino;
    const int taken = fd;
    fd = -1;
    return add_socket(ls, taken, reterr);
}

/* -- life ------------------------------------------------------------------------------ */

int listener_new(struct loop *l, const struct addr *a, unsigned unix_mode,
                 void (*accepted)(void *user, int fd, bool local), void *user,
                 struct listener **ret, struct err *reterr)
{
    char text[sizeof a->host + 16];
    struct listener *ls = calloc(1, sizeof *ls);
    if (ls == NULL)
        return err_set(reterr, SNAP_ENOMEM, "listen: out of memory");
    ls->loop = l;
    ls->local = a->unix_socket;
    ls->accepted = accepted;
    ls->user = user;
    int r = loop_timer_init(l, &ls->rest, rest_over, ls, reterr);
    if (r < 0) {
        free(ls);
        return r;
    }
    r = a->unix_socket ? listen_unix(ls, a, unix_mode, reterr)
                       : addr_listen_tcp(a, add_socket, ls, &ls->port, reterr);
    if (r < 0) {
        listener_free(ls);
        (void)err_prefix(reterr, "listen on %s", addr_format(a, text, sizeof text));
        return r;
    }
    *ret = ls;
    return 0;
}

void listener_free(struct listener *ls)
{
    struct stat st;
    if (ls == NULL)
        return;
    if (ls->freed != NULL)
        *ls->freed = true;
    for (unsigned i = 0; i < ls->count; i++) {
        loop_io_done(&ls->sockets[i].io);
        (void)close(ls->sockets[i].fd);
    }
    loop_timer_done(&ls->rest);
    if (ls->path[0] != 0 && lstat(ls->path, &st) == 0 && st.st_dev == ls->dev &&
        st.st_ino == ls->ino)
        (void)unlink(ls->path);
    free(ls);
}

uint16_t listener_port(const struct listener *ls)
{
    return ls->port;
}
