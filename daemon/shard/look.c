/* SPDX-License-Identifier: Apache-2.0 */
/* Looking for completions of the disk for a while, instead of sleeping until one wakes us.
 *
 *   few in flight ──> look, a slice ──found──> go on
 *                      │   └─ sockets, next slice
 *                      ├─ too long ──> the LOOK_VAIN_MAX-th in a row? rest
 *                      └─ others had the processor for long ──> rest
 *
 * A writer who waits for each of its chunks has few disk requests in flight, one after
 * another, each about as short as falling asleep and being woken are together; so has a
 * stream between two groups of chunks. It costs processor time that nobody else wanted: each
 * look gives way first to whoever is ready to run, the kernel's workers that flush among them.
 * Who has given way to a program that computes comes back late, milliseconds perhaps, and
 * later than one who slept and is woken: then, too, looks are left out. What comes from
 * a socket is not to wait for the disk: between two slices the loop has a turn.
 *
 * It must not know whose completions these are. Thread: the shard's.
 */
#include "daemon/shard/look.h"

#include <sched.h>

static void look_rest_for_others(struct shard_look *l)
{
    l->last_rest = l->last_rest == 0 ? LOOK_REST_MIN : l->last_rest * 2;
    if (l->last_rest > LOOK_REST_MAX)
        l->last_rest = LOOK_REST_MAX;
    l->rest = l->last_rest;
    l->vain = 0;
}

static void look_was_vain(struct shard_look *l)
{
    if (++l->vain == LOOK_VAIN_MAX) {
        l->vain = 0;
        l->rest = LOOK_REST_MIN;
    }
}

static bool look_is_worth_it(struct shard_look *l, unsigned inflight)
{
    if (l->longest_ns == 0 || inflight == 0 || inflight > LOOK_REQUESTS_MAX)
        return false;
    if (l->rest == 0)
        return true;
    l->rest--;
    return false;
}

/* LOOK_SLEEP: others had the processor for long, or time is up. */
static enum shard_look_result look_slice(struct shard_look *l, const struct clock *clock,
                                         uint64_t now_ns, shard_look_fn *poll, void *user)
{
    const uint64_t slice_end_ns = now_ns + LOOK_SLICE_US * UINT64_C(1000);
    while (now_ns < slice_end_ns) {
        const uint64_t before_ns = now_ns;
        (void)sched_yield();
        now_ns = clock_now_ns(clock);
        if (now_ns - before_ns >= LOOK_AWAY_US * UINT64_C(1000)) {
            look_rest_for_others(l);
            return poll(user) > 0 ? LOOK_FOUND : LOOK_SLEEP;
        }
        if (poll(user) > 0) {
            l->vain = l->last_rest = 0;
            return LOOK_FOUND;
        }
    }
    if (now_ns < l->end_ns)
        return LOOK_AGAIN;
    look_was_vain(l);
    return LOOK_SLEEP;
}

enum shard_look_result shard_look_before_sleep(struct shard_look *l, const struct clock *clock,
                                               unsigned inflight, shard_look_fn *poll, void *user)
{
    if (!look_is_worth_it(l, inflight)) {
        l->end_ns = 0;
        return LOOK_SLEEP;
    }
    const uint64_t now_ns = clock_now_ns(clock);
    if (l->end_ns == 0 || l->inflight != inflight)
        l->end_ns = now_ns + l->longest_ns;
    l->inflight = inflight;
    const enum shard_look_result r = look_slice(l, clock, now_ns, poll, user);
    if (r != LOOK_AGAIN)
        l->end_ns = 0;
    return r;
}
