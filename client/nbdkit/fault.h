/* SPDX-License-Identifier: Apache-2.0 */
/* The library's errors, for nbdkit's log and for the NBD client. */
#ifndef SNAP_NBDKIT_FAULT_H
#define SNAP_NBDKIT_FAULT_H

#include "client/nbdkit/link.h"

/* Say where it went wrong, why, and what helps; set the errno that the client is sent.
 * Returns -1. Thread: the one that nbdkit called. */
int fault_say(const struct link *l, const struct snapwire_error *error, const char *where, ...)
    SNAP_PRINTF(3, 4);

/* One that NBD can carry. failed: the link has. */
int fault_errno(int code, bool failed);

#endif
