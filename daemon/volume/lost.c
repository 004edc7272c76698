/* SPDX-License-Identifier: Apache-2.0 */
/* Making a node invalid whose COW device is not open, so that its header cannot say so.
 *
 * The record does instead, durably before the write that made it so; that it is invalid outlasts
 * the device's coming back. It must not know of policies. Thread: the shard's.
 */
#include "daemon/volume/change.h"

#include <stdlib.h>

struct snapshot_lose {
    struct volume *volume;
    struct uuid id;
    struct volume_commit commit;
    volume_done_fn *done;
    void *user;
};

static int lose_change(struct volume_commit *commit, struct volume_record *next, struct err *reterr)
{
    (void)reterr;
    const struct snapshot_lose *l = commit->user;
    struct record_snapshot *rs = volume_record_find(next, &l->id);
    if (rs != NULL)
        rs->lost = true;
    return 0;
}

static void lose_committed(struct volume_commit *commit, int code, const struct err *err)
{
    struct snapshot_lose *l = commit->user;
    struct snapshot *s = volume_snapshot_find(l->volume, &l->id);
    if (code == 0 && s != NULL && !s->lost) {
        snapshot_set_lost(s);
        volume_notice(l->volume, s, "damaged, made invalid by its policy", NULL);
    }
    l->done(l->user, code, err);
    free(l);
}

void snapshot_lose(struct snapshot *s, volume_done_fn *done, void *user)
{
    struct err err = ERR_INIT;
    struct snapshot_lose *l = calloc(1, sizeof *l);
    if (l == NULL) {
        done(user, err_set(&err, SNAP_ENOMEM, "invalidate"), &err);
        return;
    }
    *l = (struct snapshot_lose){.volume = s->volume, .id = s->id, .done = done, .user = user};
    l->commit = (struct volume_commit){.change = lose_change, .done = lose_committed, .user = l};
    volume_commit_start(s->volume, &l->commit);
}
