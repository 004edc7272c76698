/* SPDX-License-Identifier: Apache-2.0 */
/* The origin: its file, and the gate in front of its writes.
 *
 *   not open ──(no memory)──> a second later, then two … ──> open, or not for good
 *
 *   open ──close()──> closing: no write begins, those under way end ──> flush ──> closed: told
 *    ^                                                                              │
 *    └──────────────────────────(as often opened as closed)────────────────────────┘
 *
 * The gate stands before the clones as well: what was answered of them is flushed with the rest,
 * since a clone of a clone begins with it. It must not know what a write is. Thread: the shard's.
 */
#include "daemon/volume/origin.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "daemon/volume/change.h"
#include "daemon/volume/write.h"

#include <stdio.h>
#include <stdlib.h>

enum { ORIGIN_BLOCK_BYTES = 4096, OPEN_DELAY_MS = 1000, OPEN_DELAYS_MAX = 10 };

/* -- the file ------------------------------------------------------------------------------- */

/* As long as whole chunks need, and as O_DIRECT wants it. */
static uint64_t origin_file_bytes(const struct volume_record *r)
{
    uint64_t chunk_bytes = (uint64_t)r->chunk_size_sectors * SECTOR_BYTES;
    return u64_align_up(r->size_bytes, u64_max(chunk_bytes, ORIGIN_BLOCK_BYTES));
}

int origin_create(const struct volume_env *env, const char *dir, const struct volume_record *r,
                  struct err *reterr)
{
    char path[LIMIT_PATH_BYTES];
    bool bound = r->origin_path[0] == '/';
    int n = bound ? snprintf(path, sizeof path, "%s", r->origin_path)
                  : snprintf(path, sizeof path, "%s/%s", dir, r->origin_path);
    if (n < 0 || (size_t)n >= sizeof path)
        return err_set(reterr, SNAP_ELIMIT, "the path %s is too long", r->origin_path);
    return env->storage->make(env->storage->user, path,
                              bound ? r->size_bytes : origin_file_bytes(r), bound, reterr);
}

/* -- opening ---------------------------------------------------------------------------------- */

static int origin_check(const struct volume *v, const struct blk_dev *dev, struct err *reterr)
{
    const struct blk_info *info = blk_dev_info(dev);
    if (info->size_bytes < v->record.size_bytes)
        return err_set(reterr, SNAP_EINVAL, "%s has %llu bytes, the volume %llu", info->name,
                       (unsigned long long)info->size_bytes,
                       (unsigned long long)v->record.size_bytes);
    if (info->align_bytes > v->record.chunk_size_sectors * SECTOR_BYTES ||
        info->align_bytes > BUF_ALIGN_BYTES)
        return err_set(reterr, SNAP_EINVAL, "%s has blocks of %u bytes: too large", info->name,
                       info->align_bytes);
    return 0;
}

int origin_open(struct volume *v, struct err *reterr)
{
    struct origin *o = v->origin;
    const struct volume_storage *storage = v->set->env->storage;
    char path[LIMIT_PATH_BYTES];
    CHECK(o->dev == NULL);
    int rc = volume_cow_path(v, v->record.origin_path, path, sizeof path, reterr);
    if (rc == 0)
        rc = storage->open(storage->user, v->set->shard->engine, path, BLK_OPEN_EXCLUSIVE, &o->dev,
                           reterr);
    if (rc < 0) {
        o->dev = NULL;
    } else {
        rc = origin_check(v, o->dev, reterr);
        if (rc == 0)
            rc = blk_cache_open(v->set->shard->cache, o->dev, &o->dev, reterr);
        if (rc < 0) {
            blk_dev_close(o->dev);
            o->dev = NULL;
        }
    }
    o->fault_text[0] = '\0';
    if (rc < 0)
        (void)snprintf(o->fault_text, sizeof o->fault_text, "%s", reterr->text);
    return rc;
}

void origin_open_later(struct volume *v, const struct err *why)
{
    struct origin *o = v->origin;
    if (o->open_tries == 0)
        volume_notice(v, NULL, "the origin is not opened, it is tried again", why);
    if (o->open_tries < OPEN_DELAYS_MAX)
        o->open_tries++;
    loop_timer_set(&o->open_timer, (uint64_t)OPEN_DELAY_MS * o->open_tries);
}

static void origin_open_again(void *user)
{
    struct volume *v = user;
    struct err err = ERR_INIT;
    if (v->leaving) /* nobody needs it any more */
        return;
    int rc = origin_open(v, &err);
    if (rc == SNAP_ENOMEM) {
        origin_open_later(v, &err);
        return;
    }
    volume_notice(v, NULL, rc < 0 ? "the origin cannot be opened" : "the origin is open now",
                  rc < 0 ? &err : NULL);
    hand_down_start(v); /* a rollback may have waited for it */
}

int origin_new(struct volume *v, struct origin **ret, struct err *reterr)
{
    struct origin *o = calloc(1, sizeof *o);
    if (o == NULL)
        return err_set(reterr, SNAP_ENOMEM, "origin of volume %s", v->record.name);
    o->volume = v;
    (void)snprintf(o->fault_text, sizeof o->fault_text, "it has not been opened yet");
    range_lock_init(&o->writes);
    range_lock_init(&o->reads);
    loss_init(&o->loss, v->set->env);
    STAILQ_INIT(&o->gate_waits);
    TAILQ_INIT(&o->held);
    TAILQ_INIT(&o->batches);
    STAILQ_INIT(&o->preserved);
    o->preserved_kick = (struct shard_kick){.fn = write_preserved_run, .user = o};
    TAILQ_INIT(&o->waits);
    int rc = loop_timer_init(v->set->shard->loop, &o->timer, origin_waits_run, v, reterr);
    if (rc < 0) {
        free(o);
        return rc;
    }
    rc = loop_timer_init(v->set->shard->loop, &o->open_timer, origin_open_again, v, reterr);
    if (rc < 0) {
        loop_timer_done(&o->timer);
        free(o);
        return rc;
    }
    *ret = o;
    return 0;
}

void origin_free(struct origin *o)
{
    if (o == NULL)
        return;
    CHECK(o->writing == 0 && TAILQ_EMPTY(&o->held) && STAILQ_EMPTY(&o->gate_waits));
    range_lock_done(&o->writes);
    range_lock_done(&o->reads);
    loop_timer_done(&o->timer);
    loop_timer_done(&o->open_timer);
    loss_done(&o->loss);
    blk_dev_close(o->dev);
    free(o);
}

/* -- the gate --------------------------------------------------------------------------- */

static void gate_tell(struct volume *v)
{
    struct origin *o = v->origin;
    struct volume_waiters waits = STAILQ_HEAD_INITIALIZER(waits);
    struct volume_waiter *w;
    const struct err err = o->gate_err;
    STAILQ_CONCAT(&waits, &o->gate_waits);
    o->gate_flushing = false;
    volume_ref(v);
    while ((w = STAILQ_FIRST(&waits)) != NULL) {
        STAILQ_REMOVE_HEAD(&waits, link);
        w->fn(w, err.code, err.code < 0 ? &err : NULL);
    }
    volume_unref(v);
}

static void gate_flush_clones(struct volume *v);

static void gate_flushed(struct blk_req *req, int result)
{
    struct volume *v = req->user;
    struct origin *o = v->origin;
    struct snapshot *clone = o->gate_clone;
    if (result < 0 && o->gate_err.code == 0)
        (void)err_set_errno(&o->gate_err, result, req->sys_errno, "flush volume %s",
                            v->record.name);
    if (clone == NULL && result < 0)
        loss_happened(&o->loss);
    else if (result == 0) /* nobody writes now */
        loss_flushed(clone != NULL ? &clone->loss : &o->loss, UINT64_MAX);
    if (clone != NULL) {
        clone->unflushed = result < 0;
        if (result < 0)
            snapshot_flush_failed(clone, &o->gate_err);
        snapshot_reader_end(clone);
    }
    o->gate_clone = NULL;
    if (result < 0)
        gate_tell(v);
    else
        gate_flush_clones(v);
    volume_unref(v);
}

static void gate_flush_one(struct volume *v, struct blk_dev *dev)
{
    struct origin *o = v->origin;
    o->gate_req = (struct blk_req){.op = BLK_FLUSH, .done = gate_flushed, .user = v};
    volume_ref(v);
    blk_submit(dev, &o->gate_req);
}

static void gate_flush_clones(struct volume *v)
{
    struct snapshot *s;
    TAILQ_FOREACH (s, &v->clones, link) {
        if (!s->unflushed || s->dev == NULL || s->phase == SNAPSHOT_CLOSING)
            continue;
        v->origin->gate_clone = s;
        snapshot_reader_begin(s);
        gate_flush_one(v, s->dev);
        return;
    }
    gate_tell(v);
}

static void gate_check(struct volume *v)
{
    struct origin *o = v->origin;
    if (o->writing > 0 || o->gate_flushing || STAILQ_EMPTY(&o->gate_waits))
        return;
    o->gate_flushing = true;
    o->gate_err = ERR_INIT;
    if (o->dev != NULL) {
        gate_flush_one(v, o->dev);
        return;
    }
    (void)err_set(&o->gate_err, SNAP_EIO, "the origin of volume %s: %s", v->record.name,
                  o->fault_text);
    gate_tell(v);
}

void origin_write_left(struct volume *v)
{
    CHECK(v->origin->writing > 0);
    v->origin->writing--;
    gate_check(v);
}

void volume_gate_close(struct volume *v, struct volume_waiter *w)
{
    if (v->origin == NULL) {
        w->fn(w, 0, NULL);
        return;
    }
    v->origin->gates++;
    STAILQ_INSERT_TAIL(&v->origin->gate_waits, w, link);
    gate_check(v);
}

void volume_gate_open(struct volume *v)
{
    if (v->origin == NULL)
        return;
    CHECK(v->origin->gates > 0);
    if (--v->origin->gates == 0)
        volume_write_run_held(v);
}
