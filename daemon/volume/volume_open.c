/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a volume: its COW devices, one after another, so that loading costs the
 * memory of one table at a time. What cannot be opened stays in the chain with the
 * reason; the rest is served. Thread: the shard's.
 */
#include "daemon/volume/volume.h"

#include "daemon/volume/change.h"

#include <stdlib.h>

struct volume_opening {
    struct volume *volume;
    struct snapshot *next;
    bool inside; /* snapshot_open() has not returned: go on in the loop, not deeper */
    bool again;
    volume_done_fn *done;
    void *user;
};

static void volume_open_next(struct volume_opening *o);

static void volume_opened_one(void *user, int code, const struct err *err)
{
    struct volume_opening *o = user;
    if (code < 0)
        volume_notice(o->volume, o->next, "COW device is damaged", err);
    else if (cow_store_state(o->next->store) == COW_INVALID)
        volume_notice(o->volume, o->next, "snapshot is invalid", NULL);
    o->next = TAILQ_NEXT(o->next, link);
    if (o->inside)
        o->again = true;
    else
        volume_open_next(o);
}

static void volume_open_next(struct volume_opening *o)
{
    do {
        struct volume *v = o->volume;
        if (o->next == NULL) {
            volume_done_fn *done = o->done;
            void *user = o->user;
            free(o);
            v->opening = false;
            hand_down_start(v);
            done(user, 0, NULL);
            volume_unref(v);
            return;
        }
        o->again = false;
        o->inside = true;
        snapshot_open(o->next, volume_opened_one, o);
        o->inside = false;
    } while (o->again);
}

void volume_open(struct volume *v, volume_done_fn *done, void *user)
{
    struct err err = ERR_INIT;
    struct volume_opening *o = calloc(1, sizeof *o);
    if (o == NULL) {
        done(user, err_set(&err, SNAP_ENOMEM, "open volume %s", v->record.name), &err);
        return;
    }
    *o = (struct volume_opening){
        .volume = v, .next = TAILQ_FIRST(&v->chain), .done = done, .user = user};
    v->opening = true;
    volume_ref(v);
    volume_open_next(o);
}
