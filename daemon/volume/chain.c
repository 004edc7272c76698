/* SPDX-License-Identifier: Apache-2.0 */
/* The nodes of a volume: look-up, states, opening, closing, opening again.
 *
 *   damaged <──(could not open)── opening ──> open ──(flush or area write failed)──> poisoned
 *                                    ^                                                  │
 *                                    └── a second later, some times ── close, forget <──┘
 *
 * A poisoned store does not know what is on its disk, so it is closed once what is in
 * flight has ended, its exceptions leave the map, and it is read from disk again.
 *
 * What befalls a store befalls all that read through it. Nodes whose own store cannot be read
 * are on v->unsound, mostly empty: a state costs by them, not by the length of the chain.
 *
 * It must not know of leases or requests. Thread: the shard's.
 */
#include "daemon/volume/volume.h"

#include "common/base/check.h"
#include "common/base/size.h"
#include "daemon/volume/change.h"
#include "daemon/volume/guard.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/put.h"
#include "daemon/volume/sums.h"
#include "daemon/volume/tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    REOPEN_DELAY_MS = 1000,
    REOPEN_TRIES_MAX = 10,
    IDLE_STEP_MS = 2,
};

struct snapshot *volume_snapshot_find(struct volume *v, const struct uuid *id)
{
    return volume_node_by_id(v, id);
}

int volume_snapshot_visible(struct volume *v, const struct uuid *id, struct snapshot **ret,
                            struct err *reterr)
{
    struct snapshot *s = volume_snapshot_find(v, id);
    const struct record_snapshot *rs = s == NULL ? NULL : snapshot_record(s);
    if (rs == NULL || rs->hidden || rs->undo)
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

/* -- while nothing is to be done ---------------------------------------------------- */

static void snapshot_idle(void *user)
{
    struct snapshot *s = user;
    s->idle_set = false;
    if (s->store == NULL || s->closing)
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
    if (s->store != NULL)
        cow_store_kick(s->store); /* a store that was closing may end, and the node with it */
}

/* Put it on the list of those that cannot be read, or take it off. One that the record does not
 * list is nobody's yet, or nobody's any more. */
static void snapshot_note(struct snapshot *s)
{
    bool unsound =
        s->store == NULL || s->closing || s->lost || cow_store_state(s->store) == COW_INVALID ||
        cow_store_state(s->store) == COW_POISONED || cow_store_state(s->store) == COW_DAMAGED;
    if (unsound == s->unsound || (unsound && snapshot_record(s) == NULL))
        return;
    s->unsound = unsound;
    if (unsound)
        LIST_INSERT_HEAD(&s->volume->unsound, s, unsound_link);
    else
        LIST_REMOVE(s, unsound_link);
}

static void snapshot_watch(void *user)
{
    struct snapshot *s = user;
    if (cow_store_state(s->store) == COW_POISONED) /* what was written in place before, too */
        loss_happened(&s->loss);
    snapshot_note(s);
}

void snapshot_store_opened(struct snapshot *s, struct cow_store *store)
{
    s->store = store;
    if (store != NULL)
        cow_store_watch(store, snapshot_watch, s);
}

void snapshot_set_lost(struct snapshot *s)
{
    s->lost = true;
    snapshot_note(s);
}

bool snapshot_is_invalid(const struct snapshot *s)
{
    return s->lost || (s->store != NULL && cow_store_state(s->store) == COW_INVALID &&
                       !cow_store_invalidating(s->store));
}

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
    if (s == NULL)
        return NULL;
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
    if (s == NULL || map == NULL || ranges == NULL) {
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
    if (s->timer_ready)
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

void snapshot_kick(struct snapshot *s)
{
    shard_kick_later(s->volume->set->shard, &s->kick);
}

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

/* -- states ------------------------------------------------------------------- */

/* What the node's own device says, without those it reads through. */
static enum snapshot_state snapshot_own_state(const struct snapshot *s)
{
    if (s->lost)
        return SNAPSHOT_INVALID;
    if (s->store == NULL)
        return s->reopening || s->open_done != NULL ? SNAPSHOT_POISONED : SNAPSHOT_DAMAGED;
    switch (cow_store_state(s->store)) {
    case COW_INVALID: /* who hears it keeps nothing for it any more: not before it is durable */
        return cow_store_invalidating(s->store) ? SNAPSHOT_POISONED : SNAPSHOT_INVALID;
    case COW_POISONED:
    case COW_CLOSING:
        return SNAPSHOT_POISONED;
    case COW_DAMAGED:
        return SNAPSHOT_DAMAGED;
    case COW_READY:
    case COW_MERGING:
        break;
    }
    return SNAPSHOT_OK;
}

static int snapshot_state_rank(enum snapshot_state state)
{
    switch (state) {
    case SNAPSHOT_INVALID:
        return 3;
    case SNAPSHOT_DAMAGED:
        return 2;
    case SNAPSHOT_POISONED:
        return 1;
    default:
        return 0;
    }
}

static const char *snapshot_state_word(enum snapshot_state state)
{
    switch (state) {
    case SNAPSHOT_INVALID:
        return "invalid";
    case SNAPSHOT_DAMAGED:
        return "damaged";
    case SNAPSHOT_POISONED:
        return "being opened again";
    default:
        return "";
    }
}

/* Does a view of s look into the table of n? */
static bool snapshot_reads_through(const struct snapshot *s, const struct snapshot *n)
{
    for (; s != NULL && s->clone; s = s->parent)
        if (s == n)
            return true;
    return s != NULL && !n->clone && n->seq >= s->seq;
}

/* The worst that it reads through, itself first, then what is nearest. */
static const struct snapshot *snapshot_culprit(const struct snapshot *s,
                                               enum snapshot_state *ret_worst)
{
    const struct snapshot *culprit = s, *n;
    enum snapshot_state worst = snapshot_own_state(s);
    LIST_FOREACH (n, &s->volume->unsound, unsound_link) {
        if (n == s || !snapshot_reads_through(s, n))
            continue;
        enum snapshot_state state = snapshot_own_state(n);
        int more = snapshot_state_rank(state) - snapshot_state_rank(worst);
        if (more > 0 || (more == 0 && culprit != s && n->seq < culprit->seq)) {
            worst = state;
            culprit = n;
        }
    }
    *ret_worst = worst;
    return culprit;
}

/* Why a node is invalid by itself: its header says that it is, not why. One that has grown up to
 * its limit was full. */
static void snapshot_explain_invalid(const struct snapshot *s, char *text, size_t text_bytes)
{
    char limit[16];
    const struct record_snapshot *rs = snapshot_record(s);
    bool gives_up = s->volume->record.full_policy == FULL_INVALIDATE;
    uint64_t limit_bytes = rs != NULL ? rs->limit_bytes : 0;
    uint64_t chunk_bytes = (uint64_t)s->volume->chunk_sectors * SECTOR_BYTES;
    bool at_limit = s->dev != NULL && blk_dev_info(s->dev)->size_bytes + chunk_bytes > limit_bytes;
    if (s->lost)
        (void)snprintf(text, text_bytes,
                       "the volume was written while its COW device could not be opened%s%s",
                       s->fault_text[0] != '\0' ? ": " : "", s->fault_text);
    else if (gives_up && limit_bytes > 0 && at_limit)
        (void)snprintf(text, text_bytes,
                       "it was full (limit %s), and the volume's policy is to invalidate",
                       size_format(limit_bytes, limit, sizeof limit));
    else
        (void)snprintf(text, text_bytes,
                       "its COW device is marked invalid, as when %swhat it reads through is "
                       "deleted by force",
                       gives_up ? "it is full, or " : "");
}

enum snapshot_state snapshot_state(const struct snapshot *s, char *text, size_t text_bytes)
{
    const struct volume *v = s->volume;
    enum snapshot_state worst;
    const struct snapshot *culprit = snapshot_culprit(s, &worst);
    const struct record_snapshot *own_record = snapshot_record(s);
    bool origin_away = v->origin != NULL && v->origin->dev == NULL &&
                       snapshot_state_rank(worst) < snapshot_state_rank(SNAPSHOT_DAMAGED);
    if (origin_away)
        worst = SNAPSHOT_DAMAGED;
    if (worst == SNAPSHOT_OK && guard_doubts(s))
        worst = SNAPSHOT_UNVERIFIED;
    if (worst == SNAPSHOT_OK && own_record != NULL && own_record->merging)
        worst = SNAPSHOT_MERGING;
    if (text == NULL || text_bytes == 0)
        return worst;
    text[0] = '\0';
    if (worst == SNAPSHOT_UNVERIFIED)
        guard_explain(s, text, text_bytes);
    if (snapshot_state_rank(worst) == 0)
        return worst;
    const struct record_snapshot *rs = snapshot_record(culprit);
    char why[ERR_TEXT_BYTES + 80];
    if (worst == SNAPSHOT_INVALID)
        snapshot_explain_invalid(culprit, why, sizeof why);
    else
        (void)snprintf(why, sizeof why, "%s", culprit->fault_text);
    if (origin_away)
        (void)snprintf(text, text_bytes, "reads through the origin, which cannot be opened: %s",
                       v->origin->fault_text);
    else if (culprit != s)
        (void)snprintf(text, text_bytes, "reads through %s, which is %s%s%s",
                       rs != NULL ? rs->name : "?", snapshot_state_word(worst),
                       why[0] != '\0' ? ": " : "", why);
    else
        (void)snprintf(text, text_bytes, "%s", why[0] != '\0' ? why : snapshot_state_word(worst));
    return worst;
}

int snapshot_check_sound(const struct snapshot *s, struct err *reterr)
{
    int rc = snapshot_check_readable(s, reterr);
    if (rc != SNAP_EUNVERIFIED)
        return rc;
    if (reterr != NULL)
        err_clear(reterr);
    return 0;
}

int snapshot_check_readable(const struct snapshot *s, struct err *reterr)
{
    char text[ERR_TEXT_BYTES];
    switch (snapshot_state(s, text, sizeof text)) {
    case SNAPSHOT_UNVERIFIED:
        return err_set(reterr, SNAP_EUNVERIFIED, "%s", text);
    case SNAPSHOT_INVALID:
        return err_set(reterr, SNAP_EINVALID, "%s", text);
    case SNAPSHOT_DAMAGED:
        return err_set(reterr, SNAP_ECORRUPT, "%s", text);
    case SNAPSHOT_POISONED:
        return err_set(reterr, SNAP_EPOISONED, "%s", text);
    default:
        return 0;
    }
}

/* -- opening -------------------------------------------------------------------- */

static void snapshot_close_go(struct snapshot *s);

static void snapshot_open_end(struct snapshot *s, int code, const struct err *err)
{
    s->fault_code = code;
    s->fault_text[0] = '\0';
    if (code < 0) {
        (void)snprintf(s->fault_text, sizeof s->fault_text, "%s", err->text);
        blk_dev_close(s->dev);
        s->dev = NULL;
    }
    snapshot_count_space(s); /* which notes the state as well */
    volume_done_fn *done = s->open_done;
    s->open_done = NULL;
    done(s->open_user, code, err);
    if (s->close_waits) { /* who asked for it has waited, so the node is still there */
        s->close_waits = false;
        snapshot_close_go(s);
    }
}

static void snapshot_differs_closed(void *user, int code, const struct err *err)
{
    (void)code;
    (void)err;
    struct err differs = ERR_INIT;
    (void)err_set(&differs, SNAP_ECORRUPT, "its chunk size is not the one of its volume's record");
    snapshot_open_end(user, SNAP_ECORRUPT, &differs);
}

static void snapshot_opened(void *user, struct cow_store *store, int code, const struct err *err)
{
    struct snapshot *s = user;
    snapshot_store_opened(s, store);
    if (store != NULL && cow_store_chunk_differs(store)) {
        /* its exceptions are in the map in the wrong unit: out with them before anything else */
        snapshot_close(s, true, snapshot_differs_closed, s);
        return;
    }
    snapshot_open_end(s, code, err);
}

static void snapshot_attached(void *user, int code, const struct err *err)
{
    struct snapshot *s = user;
    const struct record_snapshot *rs = snapshot_record(s);
    bool create = s->sums_create;
    struct err gone = ERR_INIT;
    s->sums_create = false;
    if (rs == NULL) { /* dropped meanwhile: who did waits to close it */
        snapshot_open_end(s, err_set(&gone, SNAP_ENOENT, "it has been deleted"), &gone);
        return;
    }
    if (code < 0 && !create) { /* new ones that cannot be made are done without */
        snapshot_open_end(s, code, err);
        return;
    }
    struct cow_store_options options = {.map = s->map,
                                        .seq = s->seq,
                                        .limit_bytes = rs->limit_bytes,
                                        .grow_step_bytes = s->volume->set->env->cow_grow_step_bytes,
                                        .want_chunk_sectors = rs->chunk_size_sectors};
    cow_store_open(s->dev, &options, NULL, snapshot_opened, s);
}

void snapshot_open(struct snapshot *s, volume_done_fn *done, void *user)
{
    struct volume *v = s->volume;
    const struct record_snapshot *rs = snapshot_record(s);
    CHECK(rs != NULL && s->dev == NULL && s->store == NULL);
    s->open_done = done;
    s->open_user = user;
    struct err err = ERR_INIT;
    char path[LIMIT_PATH_BYTES];
    int rc = volume_cow_path(v, rs->cow_path, path, sizeof path, &err);
    if (rc == 0)
        rc = v->set->env->storage->open(v->set->env->storage->user, v->set->shard->engine, path,
                                        BLK_OPEN_EXCLUSIVE, &s->dev, &err);
    if (rc < 0) {
        s->dev = NULL;
        snapshot_open_end(s, rc, &err);
        return;
    }
    rc = blk_cache_open(v->set->shard->cache, s->dev, &s->dev, &err);
    if (rc < 0) {
        snapshot_open_end(s, rc, &err);
        return;
    }
    sums_attach(s, rs->chunk_size_sectors, s->sums_create, snapshot_attached, s);
}

/* -- closing -------------------------------------------------------------------- */

static void snapshot_close_end(struct snapshot *s)
{
    if (s->readers > 0 || s->store != NULL || !s->closing || s->close_waits)
        return;
    blk_dev_close(s->dev);
    s->dev = NULL;
    struct err err = ERR_INIT;
    int rc = 0;
    if (s->close_forget)
        rc = cow_map_remove_seq(s->map, s->seq, &err);
    s->closing = false;
    snapshot_note(s);
    volume_done_fn *done = s->close_done;
    s->close_done = NULL;
    done(s->close_user, rc, &err);
}

static void snapshot_store_closed(void *user, int code, const struct err *err)
{
    (void)code;
    (void)err;
    struct snapshot *s = user;
    s->store = NULL;
    snapshot_close_end(s);
}

static void snapshot_close_go(struct snapshot *s)
{
    if (s->store == NULL) {
        snapshot_close_end(s);
        return;
    }
    snapshot_kick(s);
    cow_store_close(s->store, snapshot_store_closed, s);
}

void snapshot_close(struct snapshot *s, bool forget, volume_done_fn *done, void *user)
{
    CHECK(!s->closing);
    snapshot_cancel_reopen(s); /* between two tries */
    s->closing = true;
    snapshot_note(s);
    s->close_forget = forget;
    s->close_done = done;
    s->close_user = user;
    s->close_waits = s->store == NULL && s->open_done != NULL; /* for the opening to end */
    if (!s->close_waits)
        snapshot_close_go(s);
}

void snapshot_reader_begin(struct snapshot *s)
{
    s->readers++;
}

void snapshot_reader_end(struct snapshot *s)
{
    CHECK(s->readers > 0);
    if (--s->readers == 0)
        snapshot_close_end(s);
}

/* -- opening again ------------------------------------------------------------------ */

static void snapshot_reopen_again(void *user);

static void snapshot_reopened(void *user, int code, const struct err *err)
{
    struct snapshot *s = user;
    struct volume *v = s->volume;
    bool again = code < 0 && code != SNAP_ECORRUPT && !v->leaving && !s->closing &&
                 ++s->reopen_tries < REOPEN_TRIES_MAX && s->timer_ready;
    if (again) {
        loop_timer_set(&s->timer, (uint64_t)REOPEN_DELAY_MS * s->reopen_tries);
        return;
    }
    s->reopening = false;
    volume_notice(v, s, code < 0 ? "COW device stays damaged" : "COW device opened again",
                  code < 0 ? err : NULL);
    volume_put_resume(v);
    hand_down_start(v); /* a job may have waited for it */
    volume_unref(v);
}

static void snapshot_reopen_again(void *user)
{
    struct snapshot *s = user;
    if (s->volume->leaving || snapshot_record(s) == NULL) {
        s->reopening = false;
        volume_unref(s->volume);
        return;
    }
    snapshot_open(s, snapshot_reopened, s);
}

static void snapshot_poison_closed(void *user, int code, const struct err *err)
{
    struct snapshot *s = user;
    if (code < 0) {
        (void)snprintf(s->fault_text, sizeof s->fault_text, "%s", err->text);
        snapshot_reopened(s, SNAP_ECORRUPT, err);
        return;
    }
    snapshot_reopen_again(s);
}

void snapshot_check_poison(struct snapshot *s)
{
    if (s->store == NULL || s->reopening || s->closing ||
        cow_store_state(s->store) != COW_POISONED || s->volume->leaving)
        return;
    struct volume *v = s->volume;
    if (!s->timer_ready)
        s->timer_ready =
            loop_timer_init(v->set->shard->loop, &s->timer, snapshot_reopen_again, s, NULL) == 0;
    volume_ref(v);
    s->reopening = true;
    s->reopen_tries = 0;
    struct err err = ERR_INIT;
    (void)err_set(&err, SNAP_EPOISONED, "a flush or area write failed");
    volume_notice(v, s, "COW device poisoned, opening it again", &err);
    snapshot_close(s, true, snapshot_poison_closed, s);
}

void snapshot_flush_failed(struct snapshot *s, const struct err *err)
{
    if (s->store == NULL || s->closing) {
        loss_happened(&s->loss);
        return;
    }
    cow_store_flush_failed(s->store, err);
    snapshot_kick(s);
    snapshot_check_poison(s);
}

void snapshot_cancel_reopen(struct snapshot *s)
{
    if (!s->reopening || s->dev != NULL || s->open_done != NULL || s->closing)
        return;
    loop_timer_stop(&s->timer);
    s->reopening = false;
    volume_unref(s->volume);
}
