/* SPDX-License-Identifier: Apache-2.0 */
/* The nodes of a volume: look-up, making and freeing, and what their stores are asked for beside
 * the requests: a kick at the end of a turn, a step ahead while nobody asks for anything, the
 * count of what they take.
 *
 * What state a node is in is snapshot_state.c's; its device is opened and closed by
 * snapshot_open.c. It must not know of leases or requests. Thread: the shard's.
 */
#include "daemon/volume/volume.h"

#include "common/base/check.h"
#include "daemon/volume/change.h"
#include "daemon/volume/range.h"

#include <stdlib.h>

enum { IDLE_STEP_MS = 2 };

/* -- look-up ---------------------------------------------------------------------- */

struct snapshot *volume_snapshot_find(struct volume *v, const struct uuid *id)
{
    return volume_node_by_id(v, id);
}

int volume_snapshot_visible(struct volume *v, const struct uuid *id, struct snapshot **ret,
                            struct err *reterr)
{
    struct snapshot *s = volume_snapshot_find(v, id);
    const struct record_snapshot *rs = s == NULL ? NULL : snapshot_record(s);
    if (rs == NULL || rs->hidden || rs->undo || snapshot_create_holds(v, s))
        return err_set(reterr, SNAP_ENOENT, "no such snapshot in volume %s", v->record.name);
    *ret = s;
    return 0;
}

int volume_snapshot_staying(struct volume *v, const struct uuid *id, struct snapshot **ret,
                            struct err *reterr)
{
    struct snapshot *s;
    int rc = volume_snapshot_visible(v, id, &s, reterr);
    if (rc < 0)
        return rc;
    if (s->leaving)
        return err_set(reterr, SNAP_ENOENT, "no such snapshot in volume %s", v->record.name);
    *ret = s;
    return 0;
}

struct snapshot *volume_snapshot_by_seq(struct volume *v, uint32_t seq)
{
    return volume_node_by_seq(v, seq);
}

struct record_snapshot *snapshot_record(const struct snapshot *s)
{
    return volume_record_find(&s->volume->record, &s->id);
}

struct snapshot *volume_head(struct volume *v)
{
    const struct record_snapshot *rs = volume_record_head(&v->record);
    return rs == NULL ? NULL : volume_snapshot_by_seq(v, rs->seq);
}

/* -- kicks, and none of them ------------------------------------------------------ */

static void snapshot_idle(void *user)
{
    struct snapshot *s = user;
    s->idle_set = false;
    if (!snapshot_is_open(s))
        return;
    bool quiet = s->kicks == s->kicks_seen;
    s->kicks_seen = s->kicks;
    if (quiet && !cow_store_idle(s->store))
        return;
    s->idle_set = true;
    loop_timer_set(&s->idle_timer, quiet ? IDLE_STEP_MS : s->volume->set->env->idle_after_ms);
}

static void snapshot_watch_idle(struct snapshot *s)
{
    s->kicks++;
    if (s->idle_set || s->store == NULL || s->volume->set->env->idle_after_ms == 0)
        return;
    if (!s->idle_ready)
        s->idle_ready = loop_timer_init(s->volume->set->shard->loop, &s->idle_timer, snapshot_idle,
                                        s, NULL) == 0;
    if (!s->idle_ready) /* its next writes are as fast as they ever were */
        return;
    s->idle_set = true;
    s->kicks_seen = s->kicks;
    loop_timer_set(&s->idle_timer, s->volume->set->env->idle_after_ms);
}

static void snapshot_kick_run(void *user)
{
    struct snapshot *s = user;
    snapshot_watch_idle(s);
    snapshot_check_poison(s);
    if (s->store != NULL)
        cow_store_kick(s->store); /* a store that was closing may end, and the node with it */
}

void snapshot_kick(struct snapshot *s)
{
    shard_kick_later(s->volume->set->shard, &s->kick);
}

/* -- making and freeing ------------------------------------------------------------ */

struct snapshot *snapshot_new(struct volume *v, const struct uuid *id, uint32_t seq)
{
    const struct record_snapshot *rs = volume_record_find(&v->record, id);
    if (rs != NULL && rs->clone) {
        struct snapshot *c = snapshot_new_clone(v, id, seq);
        if (c != NULL && rs->lost)
            snapshot_set_lost(c);
        return c;
    }
    struct snapshot *s = calloc(1, sizeof *s);
    if (s == NULL || snapshot_open_timer(v, s) < 0) {
        free(s);
        return NULL;
    }
    s->volume = v;
    s->id = *id;
    s->seq = seq;
    s->map = v->map;
    s->lost = rs != NULL && rs->lost;
    s->kick = (struct shard_kick){.fn = snapshot_kick_run, .user = s};
    snapshot_note(s);
    return s;
}

struct snapshot *snapshot_new_clone(struct volume *v, const struct uuid *id, uint32_t seq)
{
    struct snapshot *s = calloc(1, sizeof *s);
    struct cow_map *map = cow_map_new();
    struct range_lock *ranges = calloc(1, sizeof *ranges);
    if (s == NULL || map == NULL || ranges == NULL || snapshot_open_timer(v, s) < 0) {
        free(s);
        cow_map_free(map);
        free(ranges);
        return NULL;
    }
    range_lock_init(ranges);
    loss_init(&s->loss, v->set->env);
    s->volume = v;
    s->id = *id;
    s->seq = seq;
    s->clone = true;
    s->map = map;
    s->ranges = ranges;
    s->kick = (struct shard_kick){.fn = snapshot_kick_run, .user = s};
    snapshot_note(s);
    return s;
}

void snapshot_free(struct snapshot *s)
{
    if (s == NULL)
        return;
    CHECK(s->store == NULL && s->dev == NULL && s->readers == 0);
    snapshot_count_space(s);
    shard_kick_cancel(s->volume->set->shard, &s->kick);
    loop_timer_done(&s->timer);
    if (s->unsound)
        LIST_REMOVE(s, unsound_link);
    free(s->job_text);
    if (s->clone) {
        cow_map_free(s->map);
        range_lock_done(s->ranges);
        free(s->ranges);
        loss_done(&s->loss);
    }
    if (s->idle_ready)
        loop_timer_done(&s->idle_timer);
    free(s->sums_text);
    free(s);
}

/* -- space ------------------------------------------------------------------------ */

/* What a store has given out counts, not what its file has in hand. */
void snapshot_count_space(struct snapshot *s)
{
    struct volume *v = s->volume;
    int64_t now = 0;
    snapshot_note(s);
    if (s->store != NULL) {
        struct cow_usage u;
        cow_store_usage(s->store, &u);
        snapshot_warn(s, &u);
        now = (int64_t)(u.sectors_allocated * SECTOR_BYTES);
    }
    if (v->space_used == NULL)
        return;
    atomic_fetch_add_explicit(v->space_used, now - s->space_bytes, memory_order_relaxed);
    s->space_bytes = now;
}

int volume_check_space(const struct volume *v, uint64_t more, struct err *reterr)
{
    const struct volume_env *env = v->set->env;
    if (v->space_used == NULL || env->space_bytes_max == NULL)
        return 0;
    uint64_t max = atomic_load_explicit((_Atomic uint64_t *)(uintptr_t)env->space_bytes_max,
                                        memory_order_relaxed);
    int64_t used = atomic_load_explicit(v->space_used, memory_order_relaxed);
    if (max == 0 || used < 0 || (uint64_t)used + more <= max)
        return 0;
    return err_set(reterr, SNAP_ENOSPC, "the volumes of %s use %lld bytes of %llu",
                   volume_owner(&v->record), (long long)used, (unsigned long long)max);
}
