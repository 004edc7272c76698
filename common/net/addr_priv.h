/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that open sockets share. */
#ifndef SNAP_NET_ADDR_PRIV_H
#define SNAP_NET_ADDR_PRIV_H

#include "common/net/addr.h"

#include <sys/un.h>

enum { ADDR_SOCKETS_MAX = 16 }; /* that a name may stand for */

/* Errors: SNAP_EINVAL, the path is too long. */
int addr_to_sockaddr_un(const struct addr *a, struct sockaddr_un *ret, struct err *reterr) SNAP_WUR;
/* Own fd from here on, also on error. */
typedef int addr_take_fn(void *user, int fd, struct err *reterr);
/* Listen on TCP: one socket, non-blocking and close-on-exec, for each address that a name stands
 * for, all with one port, the one chosen when it was 0. They are taken when all listen.
 * Errors: SNAP_ENOENT (no such name), SNAP_ELIMIT (it stands for more), SNAP_EBUSY and others:
 * cannot listen; what take returns. */
int addr_listen_tcp(const struct addr *a, addr_take_fn *take, void *user, uint16_t *ret_port,
                    struct err *reterr) SNAP_WUR;
/* The port that a bound TCP socket has; 0: it cannot be told. */
uint16_t addr_bound_port(int fd);

#endif
