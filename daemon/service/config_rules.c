/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of the configuration that no single value can break: errors name the keys, warnings are
 * what is odd and taken.
 *
 * It must not know how a configuration is written.
 *
 * Thread: main's.
 */
#include "daemon/service/config_priv.h"

#include "common/base/bytes.h"
#include "common/base/size.h"
#include "common/net/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SIZE_TEXT_BYTES = 16 };

/* "[::]" is every IPv6 address and no IPv4 one, which surprises whoever knows it otherwise. */
static void warn_of_ipv6_only(const struct config *c, void (*warn)(void *, const char *),
                              void *user)
{
    struct addr a, b;
    char text[128];
    for (unsigned i = 0; i < c->listen_count; i++) {
        bool alone =
            addr_parse(c->listen[i], &a, NULL) == 0 && !a.unix_socket && strcmp(a.host, "::") == 0;
        for (unsigned k = 0; alone && k < c->listen_count; k++)
            alone = addr_parse(c->listen[k], &b, NULL) < 0 || b.unix_socket || b.port != a.port ||
                    strchr(b.host, ':') != NULL;
        (void)snprintf(text, sizeof text,
                       "listen: %.40s takes IPv6 only; for IPv4 add 0.0.0.0:%u beside it",
                       c->listen[i], a.port);
        if (alone)
            warn(user, text);
    }
}

/* In numbers, or the name that every machine has. */
static bool is_of(int family, const char *host)
{
    unsigned char bytes[sizeof(struct in6_addr)];
    return inet_pton(family, host, bytes) == 1 ||
           (family == AF_INET && strcmp(host, "localhost") == 0);
}

static bool takes_all(int family, const char *any, const struct addr *a, const struct addr *b)
{
    return (strcmp(a->host, any) == 0 || strcmp(b->host, any) == 0) && is_of(family, a->host) &&
           is_of(family, b->host);
}

/* Can only one of the two be had? Other names are not looked up. */
static bool is_in_the_way(const struct addr *a, const struct addr *b)
{
    if (a->unix_socket != b->unix_socket)
        return false;
    if (!a->unix_socket && (a->port != b->port || a->port == 0))
        return false;
    return strcmp(a->host, b->host) == 0 ||
           (!a->unix_socket &&
            (takes_all(AF_INET, "0.0.0.0", a, b) || takes_all(AF_INET6, "::", a, b)));
}

/* All addresses were parsed before, one by one. */
static int check_listeners(const char *path, const struct config *c, struct err *reterr)
{
    struct addr a, b;
    for (unsigned i = 0; i < c->listen_count; i++)
        for (unsigned k = 0; k < i; k++)
            if (addr_parse(c->listen[i], &a, NULL) == 0 &&
                addr_parse(c->listen[k], &b, NULL) == 0 && is_in_the_way(&a, &b))
                return err_set(reterr, SNAP_EINVAL,
                               "%s: listen: %.80s is in the way of %.80s; leave one out", path,
                               c->listen[k], c->listen[i]);
    if (!c->metrics_listen[0] || addr_parse(c->metrics_listen, &a, NULL) < 0)
        return 0;
    if (a.unix_socket)
        return err_set(reterr, SNAP_EINVAL,
                       "%s: metrics_listen: %.80s: HTTP is served on TCP only; name HOST:PORT",
                       path, c->metrics_listen);
    for (unsigned i = 0; i < c->listen_count; i++)
        if (addr_parse(c->listen[i], &b, NULL) == 0 && is_in_the_way(&a, &b))
            return err_set(reterr, SNAP_EINVAL,
                           "%s: metrics_listen: %.80s: listen has port %u there; name another, as "
                           "in localhost:9753",
                           path, c->metrics_listen, a.port);
    return 0;
}

static void warn_of_large_cache(const struct config *c, void (*warn)(void *, const char *),
                                void *user)
{
    char text[160], size[SIZE_TEXT_BYTES], memory[SIZE_TEXT_BYTES];
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : UINT64_MAX;
    if (c->cache_bytes < bytes)
        return;
    (void)snprintf(text, sizeof text,
                   "cache.size: %s, which is filled by and by, but this machine has %s of memory",
                   size_format(c->cache_bytes, size, sizeof size),
                   size_format(bytes, memory, sizeof memory));
    warn(user, text);
}

static int check_files(const char *path, const struct config *c, bool tcp, struct err *reterr)
{
    const struct {
        const char *key, *file;
    } files[] = {{"tls.ca", c->tls_ca},
                 {"tls.certificate", c->tls_certificate},
                 {"tls.key", c->tls_key},
                 {"tls.crl", c->tls_crl}};
    for (size_t i = 0; tcp && i < ARRAY_LEN(files); i++)
        if (!files[i].file[0] && files[i].file != c->tls_crl)
            return err_set(reterr, SNAP_EINVAL,
                           "%s: %s: is empty, and listen names an address that needs TLS", path,
                           files[i].key);
        else if (files[i].file[0] && access(files[i].file, R_OK) != 0)
            return err_set_errno(reterr, SNAP_EINVAL, errno,
                                 "%s: %s: cannot read %s (make it with: snapctl pki)", path,
                                 files[i].key, files[i].file);
    return 0;
}

static int check_sizes(const char *path, const struct config *c, struct err *reterr)
{
    uint64_t least = 3 * (uint64_t)c->chunk_size_sectors * SECTOR_BYTES;
    if (c->window_bytes < LIMIT_WINDOW_BYTES_MIN || c->window_bytes > LIMIT_WINDOW_BYTES)
        return err_set(reterr, SNAP_EINVAL, "%s: limits.window: must be 64K to 64M", path);
    if (c->buffer_bytes_max < c->window_bytes)
        return err_set(reterr, SNAP_EINVAL, "%s: limits.buffers: must be at least limits.window",
                       path);
    if (c->cow_limit_bytes < least)
        return err_set(reterr, SNAP_EINVAL,
                       "%s: cow.limit: must have room for three chunks of cow.chunk_size, %" PRIu64
                       " bytes",
                       path, least);
    if (c->cow_grow_step_bytes < least / 3)
        return err_set(reterr, SNAP_EINVAL,
                       "%s: cow.grow_step: must be at least cow.chunk_size, %" PRIu64 " bytes",
                       path, least / 3);
    return 0;
}

int config_check_rules(const char *path, const struct config *c,
                       void (*warn)(void *user, const char *text), void *user, struct err *reterr)
{
    bool tcp = false;
    if (!c->state_dir[0])
        return err_set(reterr, SNAP_EINVAL, "%s: state_dir: is empty; name a folder", path);
    if (c->listen_count == 0)
        return err_set(reterr, SNAP_EINVAL, "%s: listen: name at least one address", path);
    for (unsigned i = 0; i < c->listen_count; i++)
        tcp |= strncmp(c->listen[i], "unix:", 5) != 0;
    int rc = check_listeners(path, c, reterr);
    if (rc == 0)
        rc = check_files(path, c, tcp, reterr);
    if (rc == 0)
        rc = check_sizes(path, c, reterr);
    if (rc < 0 || warn == NULL)
        return rc;
    if (c->cow_limit_bytes < c->cow_grow_step_bytes)
        warn(user, "cow.grow_step is above cow.limit; files grow to their limit at once");
    if (tcp && !c->tls_crl[0])
        warn(user, "tls.crl is not set: certificates cannot be revoked");
    warn_of_ipv6_only(c, warn, user);
    warn_of_large_cache(c, warn, user);
    return 0;
}
