/* SPDX-License-Identifier: Apache-2.0 */
/* Looking for completions of the disk for a while, instead of sleeping until one wakes us.
 *
 *   few in flight ──> look ──found──> vain = 0
 *                      │ too long
 *                      └──> vain + 1 ──LOOK_VAIN_MAX──> the next LOOK_REST are left out
 *
 * A writer who waits for each of its chunks has few disk requests in flight, one after
 * another, each about as short as falling asleep and being woken are together; so has a
 * stream between two groups of chunks. It costs processor time that nobody else wanted: each
 * look gives way first to whoever is ready to run, the kernel's workers that flush among them.
 *
 * It must not know whose completions these are. Thread: the shard's.
 */
#include "daemon/shard/look.h"

#include <sched.h>

bool shard_look_before_sleep(struct shard_look *l, const struct clock *clock, unsigned inflight,
                             shard_look_fn *poll, void *user)
{
    if (l->longest_ns == 0 || inflight == 0 || inflight > LOOK_REQUESTS_MAX)
        return false;
    if (l->rest > 0) {
        l->rest--;
        return false;
    }
    uint64_t end_ns = clock_now_ns(clock) + l->longest_ns;
    do {
        (void)sched_yield();
        if (poll(user) > 0) {
            l->vain = 0;
            return true;
        }
    } while (clock_now_ns(clock) < end_ns);
    if (++l->vain == LOOK_VAIN_MAX) {
        l->vain = 0;
        l->rest = LOOK_REST;
    }
    return false;
}
