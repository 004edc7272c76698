/* SPDX-License-Identifier: Apache-2.0 */
/* A small HTTP endpoint for metrics: GET only, no bodies, at every address that a name stands for.
 * It knows no rights: bind it to loopback, or where only the monitoring reaches.
 * Thread: the loop's. */
#ifndef SNAP_NET_HTTP_H
#define SNAP_NET_HTTP_H

#include "common/base/err.h"
#include "common/net/addr.h"
#include "common/net/loop.h"

#include <stddef.h>
#include <stdint.h>

struct http_server;

struct http_reply {
    const char *content_type; /* static */
    char *text;               /* malloc'd; the server's from then on */
    size_t len;
};

/* Fill *ret for a path ("/metrics", without what follows a ?). Errors become the answer's
 * status (err_http_status()) and text: SNAP_ENOENT for a path that does not exist. */
typedef int (*http_get_fn)(void *user, const char *path, struct http_reply *ret,
                           struct err *reterr);

/* Errors: SNAP_EINVAL (a Unix socket), SNAP_EBUSY and others: cannot listen. */
int http_server_new(struct loop *l, const struct addr *a, http_get_fn get, void *user,
                    struct http_server **ret, struct err *reterr) SNAP_WUR;
void http_server_free(struct http_server *h);           /* takes NULL */
uint16_t http_server_port(const struct http_server *h); /* the one chosen when port was 0 */

#endif
