/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses as people write them: HOST, HOST:PORT, [V6]:PORT, unix:/PATH; listening and connecting.
 */
#ifndef SNAP_NET_ADDR_H
#define SNAP_NET_ADDR_H

#include "common/base/err.h"
#include "common/net/loop.h"

#include <stdbool.h>
#include <stdint.h>

enum { ADDR_PORT_DEFAULT = 7453 };

struct addr {
    bool unix_socket;
    char host[256]; /* or the socket's path */
    uint16_t port;
};

/* Errors: SNAP_EINVAL naming the text; no address has blanks or control characters in it. */
int addr_parse(const char *text, struct addr *ret, struct err *reterr) SNAP_WUR;
char *addr_format(const struct addr *a, char *buf, unsigned long buf_bytes);

/* Listen on every address the name stands for. Unix: a dead socket file is replaced,
 * a living one is SNAP_EBUSY; mode of the file as given.
 * accepted: a non-blocking, close-on-exec socket, the callee's. */
struct listener;
int listener_new(struct loop *l, const struct addr *a, unsigned unix_mode,
                 void (*accepted)(void *user, int fd, bool local), void *user,
                 struct listener **ret, struct err *reterr) SNAP_WUR;
void listener_free(struct listener *ls);           /* takes NULL; removes the Unix socket */
uint16_t listener_port(const struct listener *ls); /* the one chosen when port was 0 */

/* Begin to connect, trying each address in turn (resolved by getaddrinfo_a or at
 * once when numeric); cb gets a connected non-blocking socket, or -1 and why. */
struct connector;
int connector_new(struct loop *l, const struct addr *a, uint32_t timeout_ms,
                  void (*done)(void *user, int fd, const struct err *why), void *user,
                  struct connector **ret, struct err *reterr) SNAP_WUR;
void connector_free(struct connector *c); /* takes NULL; cancels */

#endif
