/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a volume: a hosted one's origin, then the COW devices, one after another, so that
 * loading costs the memory of one table at a time; clones behind what they read through. What
 * cannot be opened stays with the reason; the rest is served.
 *
 *   open one ──> sound or damaged ──> next … ──> done
 *      ^  └─ in use ─┐   or no memory
 *      └── a moment <┘   (until BUSY_WAIT_MS have passed: damaged)
 *
 * In use: a daemon that was killed lets go of its files only when the kernel has torn
 * its ring down, which can be after its successor has begun. No memory is waited for likewise, and
 * some more tries are made after that. Thread: the shard's.
 */
#include "daemon/volume/volume.h"

#include "common/base/check.h"
#include "daemon/volume/change.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/scrub.h"

#include <stdlib.h>

enum { BUSY_RETRY_MS = 20, BUSY_WAIT_MS = 5000 };

struct volume_opening {
    struct volume *volume;
    bool origin; /* is next */
    struct snapshot *next;
    bool inside; /* snapshot_open() has not returned: go on in the loop, not deeper */
    bool again;
    uint64_t give_up_ns; /* the device at hand is waited for until then; 0: not yet */
    struct loop_timer retry;
    volume_done_fn *done;
    void *user;
};

static void volume_open_next(struct volume_opening *o);

/* Still somebody's: try the same one again soon. False: it has been waited for enough. */
static bool volume_open_retry(struct volume_opening *o)
{
    uint64_t now = volume_now_ns(o->volume);
    if (o->give_up_ns == 0)
        o->give_up_ns = now + (uint64_t)BUSY_WAIT_MS * 1000000;
    if (now >= o->give_up_ns)
        return false;
    loop_timer_set(&o->retry, BUSY_RETRY_MS);
    return true;
}

static void volume_opened_one(void *user, int code, const struct err *err)
{
    struct volume_opening *o = user;
    if ((code == SNAP_EBUSY || code == SNAP_ENOMEM) && volume_open_retry(o))
        return;
    if (code == SNAP_ENOMEM)
        snapshot_open_later(o->next);
    else if (code < 0)
        volume_notice(o->volume, o->next, "COW device is damaged", err);
    else if (cow_store_state(o->next->store) == COW_INVALID)
        volume_notice(o->volume, o->next, "snapshot is invalid", NULL);
    o->give_up_ns = 0;
    struct snapshot *s = o->next;
    o->next = TAILQ_NEXT(s, link);
    if (o->next == NULL && !s->clone)
        o->next = TAILQ_FIRST(&o->volume->clones);
    if (o->inside)
        o->again = true;
    else
        volume_open_next(o);
}

static void volume_open_end(struct volume_opening *o)
{
    struct volume *v = o->volume;
    volume_done_fn *done = o->done;
    void *user = o->user;
    v->opener = NULL;
    volume_opening_free(o);
    v->opening = false;
    hand_down_start(v);
    scrub_start(v);
    done(user, 0, NULL);
    volume_unref(v);
}

/* False: it is tried again soon. */
static bool volume_open_origin(struct volume_opening *o)
{
    struct err err = ERR_INIT;
    int rc = origin_open(o->volume, &err);
    if ((rc == SNAP_EBUSY || rc == SNAP_ENOMEM) && volume_open_retry(o))
        return false;
    if (rc == SNAP_ENOMEM)
        origin_open_later(o->volume, &err);
    else if (rc < 0)
        volume_notice(o->volume, NULL, "the origin cannot be opened", &err);
    o->origin = false;
    o->give_up_ns = 0;
    return true;
}

static void volume_open_next(struct volume_opening *o)
{
    if (o->origin && !volume_open_origin(o))
        return;
    do {
        if (o->next == NULL) {
            volume_open_end(o);
            return;
        }
        o->again = false;
        o->inside = true;
        snapshot_open(o->next, volume_opened_one, o);
        o->inside = false;
    } while (o->again);
}

static void volume_open_again(void *user)
{
    volume_open_next(user);
}

struct volume_opening *volume_opening_new(struct volume *v, struct err *reterr)
{
    struct volume_opening *o = calloc(1, sizeof *o);
    if (o == NULL) {
        (void)err_set(reterr, SNAP_ENOMEM, "volume");
        return NULL;
    }
    o->volume = v;
    if (loop_timer_init(v->set->shard->loop, &o->retry, volume_open_again, o, reterr) == 0)
        return o;
    free(o);
    return NULL;
}

void volume_opening_free(struct volume_opening *o)
{
    if (o == NULL)
        return;
    loop_timer_done(&o->retry);
    free(o);
}

void volume_open(struct volume *v, volume_done_fn *done, void *user)
{
    struct volume_opening *o = v->opener;
    CHECK(o != NULL);
    o->origin = v->origin != NULL;
    o->done = done;
    o->user = user;
    o->next = TAILQ_EMPTY(&v->chain) ? TAILQ_FIRST(&v->clones) : TAILQ_FIRST(&v->chain);
    v->opening = true;
    volume_ref(v);
    volume_open_next(o);
}
