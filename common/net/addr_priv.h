/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that open sockets share. */
#ifndef SNAP_NET_ADDR_PRIV_H
#define SNAP_NET_ADDR_PRIV_H

#include "common/net/addr.h"

#include <sys/un.h>

enum { ADDR_SOCKETS_MAX = 16 };

/* Errors: SNAP_EINVAL, the path is too long. */
int addr_to_sockaddr_un(const struct addr *a, struct sockaddr_un *ret, struct err *reterr) SNAP_WUR;
/* Listening TCP sockets, non-blocking and close-on-exec: one for each address that a name stands
 * for, all with one port. */
struct addr_sockets {
    int fds[ADDR_SOCKETS_MAX];
    unsigned count;
    uint16_t port; /* the one chosen when it was 0 */
};
/* All of them or none. Owns: ret's descriptors are the caller's.
 * Errors: SNAP_ENOENT (no such name), SNAP_ELIMIT (it stands for more), SNAP_EBUSY and others:
 * cannot listen. */
int addr_listen_tcp(const struct addr *a, struct addr_sockets *ret, struct err *reterr) SNAP_WUR;
/* The port that a bound TCP socket has; 0: it cannot be told. */
uint16_t addr_bound_port(int fd);

#endif
