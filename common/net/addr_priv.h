/* SPDX-License-Identifier: Apache-2.0 */
/* What the files that open sockets share. */
#ifndef SNAP_NET_ADDR_PRIV_H
#define SNAP_NET_ADDR_PRIV_H

#include "common/net/addr.h"

#include <sys/un.h>

/* Errors: SNAP_EINVAL, the path is too long. */
int addr_to_sockaddr_un(const struct addr *a, struct sockaddr_un *ret, struct err *reterr) SNAP_WUR;
/* The port that a bound TCP socket has; 0: it cannot be told. */
uint16_t addr_bound_port(int fd);

#endif
