/* SPDX-License-Identifier: Apache-2.0 */
/* Reading what is to be kept: many copies with one system call, or one here and now. */
#ifndef SNAP_NBDKIT_GUARD_READ_H
#define SNAP_NBDKIT_GUARD_READ_H

#include "client/nbdkit/guard.h"

struct guard_reader;

/* NULL: the kernel does not let us, or memory is short: then writes read for themselves.
 * Owns:   borrows the origin until it is freed.
 * Thread: the one that makes it is the only one that may use it. */
struct guard_reader *guard_reader_new(const struct origin *origin);
/* Nothing is being read. Takes NULL. */
void guard_reader_free(struct guard_reader *r);
/* Is something? Takes NULL. */
bool guard_reader_is_busy(const struct guard_reader *r);
/* Takes those of *begin and tells the disk; those that are read by now are put behind *ret, whole
 * or with read_errno. Waits for the first of them at most that long, if any are being read. */
void guard_reader_turn(struct guard_reader *r, struct guard_copies *begin, unsigned wait_us,
                       struct guard_copies *ret);

/* The same for one. 0 or an errno. Thread: any. */
int guard_read_now(const struct origin *o, struct guard_copy *c) SNAP_WUR;

#endif
