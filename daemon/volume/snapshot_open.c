/* SPDX-License-Identifier: Apache-2.0 */
/* Opening the devices of nodes, closing them, opening them again.
 *
 *   damaged <──(could not open)── opening ──> open ──(flush or area write failed)──> poisoned
 *                                  │ ^                                                  │
 *                    (no memory) <──┘ └── a second later, some times ── close, forget <──┘
 *                         └────────────────────────^
 *
 * A poisoned store does not know what is on its disk, so it is closed once what is in
 * flight has ended, its exceptions leave the map, and it is read from disk again. A device is
 * closed behind the last read of it; who closes a node that is being opened waits for that.
 *
 * It must not know of leases or requests. Thread: the shard's.
 */
#include "daemon/volume/volume.h"

#include "common/base/check.h"
#include "daemon/volume/change.h"
#include "daemon/volume/put.h"
#include "daemon/volume/sums.h"

#include <stdio.h>

enum { REOPEN_DELAY_MS = 1000, REOPEN_TRIES_MAX = 10 };

/* -- opening -------------------------------------------------------------------- */

static void snapshot_close_go(struct snapshot *s);

static void snapshot_watch(void *user)
{
    struct snapshot *s = user;
    if (cow_store_state(s->store) == COW_POISONED) {
        loss_happened(&s->loss); /* what was written in place before, too */
        snapshot_kick(s);        /* which opens it again, though nobody may be waiting */
    }
    snapshot_note(s);
}

void snapshot_store_opened(struct snapshot *s, struct cow_store *store)
{
    s->store = store;
    if (store == NULL)
        return;
    s->phase = SNAPSHOT_OPEN;
    cow_store_watch(store, snapshot_watch, s);
}

static void snapshot_open_end(struct snapshot *s, int code, const struct err *err)
{
    s->fault_code = code;
    s->fault_text[0] = '\0';
    if (code < 0) {
        (void)snprintf(s->fault_text, sizeof s->fault_text, "%s", err->text);
        blk_dev_close(s->dev);
        s->dev = NULL;
    }
    bool closes = s->close_done != NULL; /* who asked for that waits, so the node stays */
    s->phase = closes ? SNAPSHOT_CLOSING : code < 0 ? SNAPSHOT_CLOSED : SNAPSHOT_OPEN;
    snapshot_count_space(s); /* which notes the state as well */
    volume_done_fn *done = s->open_done;
    s->open_done = NULL;
    done(s->open_user, code, err); /* else it may be gone now */
    if (closes)
        snapshot_close_go(s);
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
    if (store != NULL && s->close_done == NULL && cow_store_chunk_differs(store)) {
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
    CHECK(rs != NULL && s->phase == SNAPSHOT_CLOSED && s->dev == NULL);
    s->phase = SNAPSHOT_OPENING;
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
    if (s->phase != SNAPSHOT_CLOSING || s->store != NULL || s->readers > 0)
        return;
    blk_dev_close(s->dev);
    s->dev = NULL;
    struct err err = ERR_INIT;
    int rc = 0;
    if (s->close_forget)
        rc = cow_map_remove_seq(s->map, s->seq, &err);
    s->phase = SNAPSHOT_CLOSED;
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

static void snapshot_poison_closed(void *user, int code, const struct err *err);

/* It is being closed to be opened again, and has been dropped since: who dropped it hears of the
 * end, and it stays closed. */
static void snapshot_close_instead(struct snapshot *s, volume_done_fn *done, void *user)
{
    CHECK(s->close_done == snapshot_poison_closed && s->close_forget);
    s->close_done = done;
    s->close_user = user;
    s->reopening = false;
    volume_unref(s->volume);
}

void snapshot_close(struct snapshot *s, bool forget, volume_done_fn *done, void *user)
{
    if (s->close_done != NULL) {
        snapshot_close_instead(s, done, user);
        return;
    }
    snapshot_cancel_reopen(s); /* between two tries */
    s->close_forget = forget;
    s->close_done = done;
    s->close_user = user;
    if (s->phase == SNAPSHOT_OPENING) /* snapshot_open_end() goes on */
        return;
    s->phase = SNAPSHOT_CLOSING;
    snapshot_note(s);
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

/* What stands there is no device, and will not be one. */
static bool snapshot_is_final(int code)
{
    return code == SNAP_ECORRUPT || code == SNAP_EINVAL;
}

static void snapshot_reopened(void *user, int code, const struct err *err)
{
    struct snapshot *s = user;
    struct volume *v = s->volume;
    bool again = code < 0 && !snapshot_is_final(code) && !v->leaving &&
                 s->phase == SNAPSHOT_CLOSED && ++s->reopen_tries < REOPEN_TRIES_MAX;
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

int snapshot_open_timer(struct volume *v, struct snapshot *s)
{
    return loop_timer_init(v->set->shard->loop, &s->timer, snapshot_reopen_again, s, NULL);
}

void snapshot_open_later(struct snapshot *s)
{
    if (s->reopening || s->phase != SNAPSHOT_CLOSED || s->volume->leaving ||
        snapshot_is_final(s->fault_code))
        return;
    struct err err = ERR_INIT;
    (void)err_set(&err, s->fault_code, "%s", s->fault_text);
    volume_notice(s->volume, s, "COW device not opened, it is tried again", &err);
    volume_ref(s->volume);
    s->reopening = true;
    s->reopen_tries = 0;
    loop_timer_set(&s->timer, REOPEN_DELAY_MS);
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
    if (!snapshot_is_open(s) || s->reopening || cow_store_state(s->store) != COW_POISONED ||
        s->volume->leaving)
        return;
    struct volume *v = s->volume;
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
    if (!snapshot_is_open(s)) {
        loss_happened(&s->loss);
        return;
    }
    cow_store_flush_failed(s->store, err);
    snapshot_kick(s);
    snapshot_check_poison(s);
}

void snapshot_cancel_reopen(struct snapshot *s)
{
    if (!s->reopening || s->phase != SNAPSHOT_CLOSED)
        return;
    loop_timer_stop(&s->timer);
    s->reopening = false;
    volume_unref(s->volume);
}
