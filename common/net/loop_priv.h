/* SPDX-License-Identifier: Apache-2.0 */
/* What loop.c and loop_event.c share. */
#ifndef SNAP_NET_LOOP_PRIV_H
#define SNAP_NET_LOOP_PRIV_H

#include "common/net/loop.h"

#include <sys/time.h>

struct loop_signal_entry;
SLIST_HEAD(loop_signals, loop_signal_entry);

/* A callback of ours has run: on somebody else's base, see that the hooks follow. */
void loop_mark_turn(struct loop *l);
struct loop_signals *loop_signals_of(struct loop *l);
void loop_signals_free(struct loop_signals *signals);
struct timeval loop_timeval(uint64_t ms);

#endif
