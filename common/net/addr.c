/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses as people write them, to a struct and back.
 *
 *     unix:/run/snapwire.sock    a Unix socket (the path is absolute)
 *     host  host:7453            a name or an IPv4 address
 *     [::1]  [::1]:7453  ::1     IPv6; with a port only in brackets
 *
 * Pure: names are resolved where they are used (listener.c, connector.c).
 * Thread: any.
 */
#include "common/net/addr_priv.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

int addr_to_sockaddr_un(const struct addr *a, struct sockaddr_un *ret, struct err *reterr)
{
    const size_t len = strlen(a->host);
    if (len >= sizeof ret->sun_path)
        return err_set(reterr, SNAP_EINVAL, "unix:%.100s…: a socket's path has at most %zu bytes",
                       a->host, sizeof ret->sun_path - 1);
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret->sun_path, a->host, len);
    return 0;
}

static int parse_unix(const char *path, struct addr *a, struct err *reterr)
{
    struct sockaddr_un sun;
    if (path[0] != '/' || strlen(path) >= sizeof a->host)
        return err_set(reterr, SNAP_EINVAL,
                       "address unix:%.100s: expected an absolute path, not too long", path);
    a->unix_socket = true;
    memcpy(a->host, path, strlen(path) + 1);
    return addr_to_sockaddr_un(a, &sun, reterr);
}

static int parse_port(const char *text, const char *digits, struct addr *a, struct err *reterr)
{
    unsigned port = 0;
    size_t n = strspn(digits, "0123456789");
    if (n == 0 || n > 5 || digits[n] != 0)
        return err_set(reterr, SNAP_EINVAL, "address %.200s: the port must be a number", text);
    for (size_t i = 0; i < n; i++)
        port = port * 10 + (unsigned)(digits[i] - '0');
    if (port > UINT16_MAX)
        return err_set(reterr, SNAP_EINVAL, "address %.200s: the port is above %d", text,
                       UINT16_MAX);
    a->port = (uint16_t)port;
    return 0;
}

/* A name or an IPv4 address: what DNS and /etc/hosts may hold. */
static bool host_ok(const char *host, size_t len)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
    return len > 0 && strspn(host, plain) >= len && host[0] != '-' && host[0] != '.';
}

/* An IPv6 address, perhaps with a zone: fe80::1%eth0. */
static bool v6_ok(const char *host, size_t len)
{
    char plain[INET6_ADDRSTRLEN];
    struct in6_addr bytes;
    const char *zone = memchr(host, '%', len);
    const size_t n = zone != NULL ? (size_t)(zone - host) : len;
    if (n >= sizeof plain || (zone != NULL && !host_ok(zone + 1, len - n - 1)))
        return false;
    memcpy(plain, host, n);
    plain[n] = 0;
    return inet_pton(AF_INET6, plain, &bytes) == 1;
}

/* Neither belongs into a name, and a list of addresses is taken apart at blanks. */
static int check_characters(const char *text, struct err *reterr)
{
    for (const char *p = text; *p != 0; p++)
        if ((unsigned char)*p <= ' ' || *p == 0x7f)
            return err_set(reterr, SNAP_EINVAL, "address \"%.200s\" has a %s in it", text,
                           *p == ' ' || *p == '\t' ? "blank" : "control character");
    return 0;
}

int addr_parse(const char *text, struct addr *ret, struct err *reterr)
{
    struct addr a = {.port = ADDR_PORT_DEFAULT};
    const char *host = text, *port = NULL;
    size_t len;
    bool v6 = false;
    int r = check_characters(text, reterr);

    if (r < 0)
        return r;
    if (strncmp(text, "unix:", 5) == 0) {
        r = parse_unix(text + 5, &a, reterr);
        if (r < 0)
            return r;
        a.port = 0;
        *ret = a;
        return 0;
    }
    if (text[0] == '[') {
        const char *end = strchr(text, ']');
        if (end == NULL || (end[1] != 0 && end[1] != ':'))
            return err_set(reterr, SNAP_EINVAL, "address %.200s: expected [IPv6]:PORT", text);
        host = text + 1;
        len = (size_t)(end - host);
        port = end[1] == ':' ? end + 2 : NULL;
        v6 = true;
    } else {
        const char *colon = strchr(text, ':');
        v6 = colon != NULL && strchr(colon + 1, ':') != NULL;
        len = colon != NULL && !v6 ? (size_t)(colon - text) : strlen(text);
        port = colon != NULL && !v6 ? colon + 1 : NULL;
    }
    if (len >= sizeof a.host || !(v6 ? v6_ok(host, len) : host_ok(host, len)))
        return err_set(reterr, SNAP_EINVAL,
                       "address \"%.200s\": expected HOST, HOST:PORT, [IPv6]:PORT or unix:/PATH",
                       text);
    memcpy(a.host, host, len);
    if (port != NULL)
        r = parse_port(text, port, &a, reterr);
    if (r < 0)
        return r;
    *ret = a;
    return 0;
}

char *addr_format(const struct addr *a, char *buf, unsigned long buf_bytes)
{
    if (a->unix_socket)
        (void)snprintf(buf, buf_bytes, "unix:%s", a->host);
    else if (strchr(a->host, ':') != NULL)
        (void)snprintf(buf, buf_bytes, "[%s]:%u", a->host, a->port);
    else
        (void)snprintf(buf, buf_bytes, "%s:%u", a->host, a->port);
    return buf;
}

uint16_t addr_bound_port(int fd)
{
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof ss;
    if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0)
        return 0;
    if (ss.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)&ss)->sin6_port);
    return ntohs(((const struct sockaddr_in *)&ss)->sin_port);
}
