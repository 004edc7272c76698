/* SPDX-License-Identifier: Apache-2.0 */
/* Checking a snapshot: its table is read from disk again, into a map of its own, and
 * every structural fault is reported.
 *
 *   puts wait ──> drain ──> open read-only beside the store ──> close ──> puts go on
 *
 * Those who write a hosted volume wait at its gate, a hand-down between two of its batches.
 * With nothing in flight the table on disk stands still while it is read. A damaged
 * snapshot, which has no open store, is checked through a device opened for it.
 * Thread: the shard's.
 */
#include "daemon/volume/read.h"

#include "daemon/volume/change.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/put.h"

#include <stdio.h>
#include <stdlib.h>

static void check_end(struct volume_check *c)
{
    struct volume *v = c->volume;
    shard_kick_cancel(v->set->shard, &c->kick); /* the store may have closed without it */
    cow_map_free(c->map);
    c->map = NULL;
    blk_dev_close(c->dev);
    c->dev = NULL;
    if (c->gated)
        volume_gate_open(v);
    if (c->node != NULL) {
        c->node->busy = false;
        if (c->reads)
            snapshot_reader_end(c->node);
        volume_put_resume(v);
    }
    c->sound = c->code == 0 && c->faults_total == 0;
    c->done(c, c->code, &c->err);
    hand_down_start(v); /* one may have waited for it */
    volume_unref(v);
}

static void check_fault(void *user, const struct cow_fault *fault)
{
    struct volume_check *c = user;
    c->faults_total++;
    if (c->fault_count == VOLUME_CHECK_FAULTS_MAX)
        return;
    if (c->faults == NULL)
        c->faults = calloc(VOLUME_CHECK_FAULTS_MAX, sizeof *c->faults);
    if (c->faults != NULL)
        c->faults[c->fault_count++] = *fault;
}

static void check_closed(void *user, int code, const struct err *err)
{
    (void)code;
    (void)err;
    check_end(user);
}

static void check_kick(void *user)
{
    const struct volume_check *c = user;
    cow_store_kick(c->store);
}

static void check_opened(void *user, struct cow_store *store, int code, const struct err *err)
{
    struct volume_check *c = user;
    c->store = store;
    if (code < 0 && (code == SNAP_ECORRUPT || code == SNAP_EINVAL)) {
        /* that it is damaged is the answer, not a failure to get one */
        if (c->faults_total == 0) {
            struct cow_fault whole = {.code = code};
            (void)snprintf(whole.text, sizeof whole.text, "%.*s", (int)sizeof whole.text - 1,
                           err->text);
            check_fault(c, &whole);
        }
    } else if (code < 0) {
        c->code = err_copy(&c->err, err);
    }
    if (store == NULL) {
        check_end(c);
        return;
    }
    struct cow_usage usage;
    cow_store_usage(store, &usage);
    c->exceptions = usage.exceptions;
    shard_kick_later(c->volume->set->shard, &c->kick);
    cow_store_close(store, check_closed, c);
}

static void check_drained(void *user, int code, const struct err *err)
{
    (void)code;
    (void)err;
    struct volume_check *c = user;
    struct snapshot *s = c->node;
    if (c->dev == NULL && !snapshot_is_open(s)) {
        c->code = err_set(&c->err, SNAP_EPOISONED, "%s@%s is being opened again",
                          c->volume->record.name, snapshot_record(s)->name);
        check_end(c);
        return;
    }
    if (c->dev == NULL) { /* a store that is poisoned from here on keeps its device that long */
        c->reads = true;
        snapshot_reader_begin(s);
    }
    struct cow_store_options options = {
        .map = c->map, .seq = 1, .read_only = true, .accept_damaged = true};
    cow_store_open(c->dev != NULL ? c->dev : s->dev, &options, check_fault, check_opened, c);
}

static void check_drain(struct volume_check *c)
{
    struct snapshot *s = c->node;
    if (!snapshot_is_open(s)) {
        check_drained(c, 0, NULL);
        return;
    }
    snapshot_kick(s);
    cow_store_drain(s->store, check_drained, c);
}

static void check_gated(struct volume_waiter *w, int code, const struct err *err)
{
    (void)code; /* that a flush failed does not change the table */
    (void)err;
    check_drain(w->user);
}

/* One that is not there is damaged; it is the snapshot that was asked for, and that is there. */
static int check_open(struct volume_check *c, const char *path)
{
    const struct volume_storage *storage = c->volume->set->env->storage;
    int rc = storage->open(storage->user, c->volume->set->shard->engine, path, BLK_OPEN_READ_ONLY,
                           &c->dev, &c->err);
    if (rc == SNAP_ENOENT)
        rc = c->err.code = SNAP_ECORRUPT;
    return rc;
}

void volume_check_start(struct volume *v, struct volume_check *c)
{
    c->volume = v;
    volume_ref(v);
    struct snapshot *s = NULL;
    char path[LIMIT_PATH_BYTES];
    c->code = volume_snapshot_visible(v, &c->snapshot, &s, &c->err);
    if (c->code == 0 && (s->busy || s->leaving || snapshot_is_moving(s)))
        c->code =
            err_set(&c->err, SNAP_EBUSY, "%s@%s is busy", v->record.name, snapshot_record(s)->name);
    if (c->code == 0 && s->dev == NULL)
        c->code = volume_cow_path(v, snapshot_record(s)->cow_path, path, sizeof path, &c->err);
    if (c->code == 0 && s->dev == NULL)
        c->code = check_open(c, path);
    if (c->code == 0) {
        c->map = cow_map_new();
        if (c->map == NULL)
            c->code = err_set(&c->err, SNAP_ENOMEM, "check");
    }
    if (c->code < 0) {
        check_end(c);
        return;
    }
    c->node = s;
    c->kick = (struct shard_kick){.fn = check_kick, .user = c};
    s->busy = true;
    c->gated = s->store != NULL && v->origin != NULL;
    c->waiter = (struct volume_waiter){.fn = check_gated, .user = c};
    if (c->gated)
        volume_gate_close(v, &c->waiter);
    else
        check_drain(c);
}
