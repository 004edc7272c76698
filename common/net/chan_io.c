/* SPDX-License-Identifier: Apache-2.0 */
/* A channel's socket: its options, who is at the other end, and reads and writes
 * that look alike with TLS and without (the return values of tls.h).
 *
 * Must not know: frames. Thread: the channel's.
 */
#include "common/net/chan_priv.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum { UNIX_SOCKET_BUFFER_BYTES = 512 * 1024 };

static void name_peer_inet(struct chan *c, const struct sockaddr_storage *ss)
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (ss->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;
        (void)inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        (void)snprintf(c->peer.address, sizeof c->peer.address, "[%s]:%u", host,
                       ntohs(in6->sin6_port));
    } else if (ss->ss_family == AF_INET) {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)ss;
        (void)inet_ntop(AF_INET, &in4->sin_addr, host, sizeof host);
        (void)snprintf(c->peer.address, sizeof c->peer.address, "%s:%u", host,
                       ntohs(in4->sin_port));
    }
}

static int setup_unix(struct chan *c, struct err *reterr)
{
    const int bytes = UNIX_SOCKET_BUFFER_BYTES;
    struct ucred who;
    socklen_t len = sizeof who;
    c->local = true;
    if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
        return err_set_errno(reterr, SNAP_EAUTH, errno, "who is at the other end");
    c->peer.local = true;
    c->peer.uid = who.uid;
    c->peer.pid = who.pid;
    (void)snprintf(c->peer.identity, sizeof c->peer.identity, "uid:%u", who.uid);
    (void)snprintf(c->peer.address, sizeof c->peer.address, "unix:pid=%d", (int)who.pid);
    /* a smaller buffer is slower, nothing else */
    (void)setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    return 0;
}

/* TCP: small frames must not wait for acknowledgements. The kernel sizes the
 * buffers itself, and better than a fixed number would. */
static int setup_tcp(struct chan *c, struct err *reterr)
{
    const int on = 1;
    if (c->config.tls == NULL)
        return err_set(reterr, SNAP_EINVAL, "without TLS only Unix sockets are used");
    (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return 0;
}

int chan_io_setup(struct chan *c, struct err *reterr)
{
    int domain = 0;
    socklen_t len = sizeof domain;
    const int flags = fcntl(c->fd, F_GETFL);
    if (flags < 0 || fcntl(c->fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        getsockopt(c->fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "socket");
    return domain == AF_UNIX ? setup_unix(c, reterr) : setup_tcp(c, reterr);
}

int chan_io_connected(struct chan *c, struct err *reterr)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof ss;
    int e = 0;
    socklen_t e_len = sizeof e;
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &e_len) < 0)
        e = errno;
    if (e != 0)
        return err_set_errno(reterr, SNAP_ECONN, e, "connect");
    if (getpeername(c->fd, (struct sockaddr *)&ss, &len) < 0)
        return err_set_errno(reterr, SNAP_ECONN, errno, "connect");
    name_peer_inet(c, &ss);
    return 0;
}

static ssize_t of_errno(int e, ssize_t want, const char *what, struct err *reterr)
{
    if (e == EAGAIN || e == EINTR)
        return want;
    return err_set_errno(reterr, SNAP_ECONN, e, "%s", what);
}

ssize_t chan_io_readv(struct chan *c, const struct iovec *iov, int count, struct err *reterr)
{
    if (c->tls != NULL)
        return tls_read(c->tls, iov[0].iov_base, iov[0].iov_len, reterr);
    const ssize_t n = readv(c->fd, iov, count);
    if (n > 0)
        return n;
    return n == 0 ? (ssize_t)TLS_EOF : of_errno(errno, TLS_WANT_READ, "read", reterr);
}

ssize_t chan_io_writev(struct chan *c, const struct iovec *iov, int count, struct err *reterr)
{
    if (c->tls != NULL)
        return tls_write(c->tls, iov[0].iov_base, iov[0].iov_len, reterr);
    const struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)count};
    const ssize_t n = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
    if (n < 0)
        return of_errno(errno, TLS_WANT_WRITE, "write", reterr);
    c->plain_sent_bytes += (uint64_t)n;
    return n;
}

int chan_io_flush(struct chan *c, struct err *reterr)
{
    return c->tls != NULL ? tls_flush(c->tls, reterr) : 0;
}

size_t chan_io_unsent_bytes(const struct chan *c)
{
    return c->tls != NULL ? tls_unsent_bytes(c->tls) : 0;
}

uint64_t chan_io_sent_bytes(const struct chan *c)
{
    return c->tls != NULL ? tls_sent_bytes(c->tls) : c->plain_sent_bytes;
}
