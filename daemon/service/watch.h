/* SPDX-License-Identifier: Apache-2.0 */
/* What may run out while the daemon runs: space for its state, and its certificate. */
#ifndef SNAP_SERVICE_WATCH_H
#define SNAP_SERVICE_WATCH_H

#include "common/net/loop.h"
#include "common/net/tls.h"

#include <stdbool.h>
#include <stdint.h>

enum { WATCH_WARNINGS_MAX = 4 }; /* that watch_warnings() tells */

struct watch {
    const char *state_dir;
    struct tls_context *const *tls; /* where the newest is; NULL there: none */
    struct loop_timer timer;
    bool timer_ready, low;
    unsigned turns;
};

/* Too little to go on without a look: less than 5 % free, or less than 1 GiB; of a small file
 * system, where that is much, less than a fifth. */
bool watch_is_low(uint64_t free_bytes, uint64_t total_bytes);
/* Free bytes of the state directory's file system are *ret_free_bytes (0: not known); fn gets each
 * thing that is wrong now. tls may be NULL. Thread: any. */
void watch_warnings(const char *state_dir, const struct tls_context *tls, uint64_t *ret_free_bytes,
                    void (*fn)(void *user, const char *text), void *user);

/* Look every minute, and log what has changed. w is the owner's. Thread: main's. */
int watch_start(struct watch *w, struct loop *l, const char *state_dir,
                struct tls_context *const *tls, struct err *reterr) SNAP_WUR;
/* Other certificates: look at once. */
void watch_again(struct watch *w);
void watch_stop(struct watch *w); /* also when it has not been started */

#endif
