/* SPDX-License-Identifier: Apache-2.0 */
/* Room for a hand-down, before it begins: it must neither stop half-way nor take the last of a
 * disk that others write to.
 *
 *   free for all that the hidden one has? ──no──> count what is lacked ──> free for that?
 *      │ yes                                                          yes │     │ no: wait
 *      └────────────────> raise the target's limit (record) <────────────┘
 *
 * Thread: the shard's.
 */
#include "daemon/volume/hand_down_priv.h"

#include "common/base/bytes.h"
#include "common/base/size.h"

static int hand_down_limit_change(struct volume_commit *commit, struct volume_record *next,
                                  struct err *reterr)
{
    struct hand_down *j = commit->user;
    struct record_snapshot *rs = volume_record_find(next, &j->target->id);
    if (rs == NULL)
        return err_set(reterr, SNAP_ENOENT, "what reads through it is gone");
    rs->limit_bytes = u64_max(rs->limit_bytes, j->limit_bytes);
    return 0;
}

static void hand_down_limit_raised(struct volume_commit *commit, int code, const struct err *err)
{
    struct hand_down *j = commit->user;
    if (code == 0 && snapshot_is_open(j->target))
        code = cow_store_set_limit(j->target->store, j->limit_bytes, &j->err);
    else if (code < 0)
        (void)err_copy(&j->err, err);
    if (code < 0) {
        hand_down_wait(j);
        return;
    }
    hand_down_copy(j);
}

/* Space moves from one to the other: the target's limit must not stop it. */
static void hand_down_raise(struct hand_down *j)
{
    const struct record_snapshot *rs = snapshot_record(j->target);
    if (rs->limit_bytes == 0 || rs->limit_bytes >= j->limit_bytes) {
        hand_down_copy(j);
        return;
    }
    j->commit = (struct volume_commit){
        .change = hand_down_limit_change, .done = hand_down_limit_raised, .user = j};
    volume_commit_start(j->volume, &j->commit);
}

static bool hand_down_fits(const struct hand_down *j, uint64_t chunks)
{
    uint64_t chunk_bytes = (uint64_t)j->volume->chunk_sectors * SECTOR_BYTES;
    uint64_t per_area = chunk_bytes / sizeof(struct cow_exception);
    return (chunks + chunks / per_area + 2) * chunk_bytes <= j->free_bytes;
}

/* All might not fit: how much is it really? */
static void hand_down_count(void *user)
{
    struct hand_down *j = user;
    bool end = false;
    char chunk[16], room[16];
    for (unsigned n = 0; n < HAND_DOWN_COUNT_BATCHES && !end && hand_down_check(j) == 0; n++) {
        j->count = 0;
        end = hand_down_gather(j, HAND_DOWN_CHUNKS);
        j->lacks += j->count;
    }
    if (end && j->err.code == 0 && !hand_down_fits(j, j->lacks))
        (void)err_set(
            &j->err, SNAP_ENOSPC,
            "%llu chunks of %s are to be handed down, its file system has %s free",
            (unsigned long long)j->lacks,
            size_format((uint64_t)j->volume->chunk_sectors * SECTOR_BYTES, chunk, sizeof chunk),
            size_format(j->free_bytes, room, sizeof room));
    if (j->err.code < 0)
        hand_down_wait(j);
    else if (end)
        hand_down_raise(j);
    else
        shard_kick_later(j->volume->set->shard, &j->kick);
}

static void hand_down_space_run(struct control_job *job)
{
    struct hand_down *j = CONTAINER_OF(job, struct hand_down, space);
    const struct volume_env *env = j->volume->set->env;
    char dir[LIMIT_PATH_BYTES];
    j->space_code = volume_dir_format(env->state_dir, &j->volume->record.id, dir, sizeof dir, NULL);
    if (j->space_code == 0)
        j->space_code = env->storage->free_bytes(env->storage->user, dir, &j->free_bytes, NULL);
}

static void hand_down_spaced(struct control_job *job)
{
    struct hand_down *j = CONTAINER_OF(job, struct hand_down, space);
    if (hand_down_check(j) < 0) {
        hand_down_wait(j);
    } else if (j->space_code < 0 || hand_down_fits(j, j->total_chunks)) {
        hand_down_raise(j);
    } else {
        j->kick.fn = hand_down_count;
        hand_down_count(j);
    }
}

void hand_down_reserve(struct hand_down *j)
{
    const struct volume_env *env = j->volume->set->env;
    struct cow_usage from, to;
    cow_store_usage(j->source->store, &from);
    cow_store_usage(j->target->store, &to);
    j->total_chunks = from.exceptions;
    uint64_t chunks = to.next_free + from.exceptions +
                      from.exceptions / to.geometry.area_exceptions + 2 +
                      to.geometry.area_exceptions / 8;
    j->limit_bytes = chunks * to.geometry.chunk_bytes;
    if (env->storage->free_bytes == NULL || to.limit_sectors == 0 || j->total_chunks == 0 ||
        !blk_dev_info(j->target->dev)->can_grow) {
        hand_down_raise(j);
        return;
    }
    j->space = (struct control_job){
        .run = hand_down_space_run, .done = hand_down_spaced, .back = j->volume->set->shard->loop};
    control_submit(env->control, &j->space);
}
