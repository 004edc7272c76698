/* SPDX-License-Identifier: Apache-2.0 */
/* A volume: its record, its exceptions, its chain; the clones and the origin of a hosted one.
 *
 *   oldest                                    newest
 *   snapshot s1 ── s2 ── s3 (hidden) ── s4    seq ascending, never reused
 *      │ store     │       │             │    one COW device each
 *      └───────────┴───┬───┴─────────────┘
 *                   cow_map                   (old_chunk, seq) -> new_chunk
 *
 *   A view of s1 at a chunk is the entry with the smallest seq >= s1's; none: the
 *   origin. So what befalls a store befalls every older snapshot too:
 *
 *   own store \ newer ones   sound      poisoned   damaged    invalid
 *   sound                    ok         poisoned   damaged    invalid
 *   merging                  merging    poisoned   damaged    invalid
 *   poisoned                 poisoned   poisoned   damaged    invalid
 *   damaged                  damaged    damaged    damaged    invalid
 *   invalid                  invalid    invalid    invalid    invalid
 *
 * It must not know of connections or messages. Thread: the shard's.
 */
#include "daemon/volume/volume.h"

#include "common/base/check.h"
#include "daemon/volume/change.h"
#include "daemon/volume/claim.h"
#include "daemon/volume/job.h"
#include "daemon/volume/nodes.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/put.h"
#include "daemon/volume/scrub.h"
#include "daemon/volume/tree.h"
#include "daemon/volume/verify.h"
#include "daemon/volume/write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- sets ------------------------------------------------------------------- */

void volume_set_init(struct volume_set *set, struct shard *shard, const struct volume_env *env,
                     struct acl *acl)
{
    *set = (struct volume_set){.shard = shard, .env = env, .acl = acl};
    for (unsigned i = 0; i < VOLUME_SET_BUCKETS; i++)
        LIST_INIT(&set->buckets[i]);
}

void volume_set_done(struct volume_set *set)
{
    CHECK(set->count == 0);
    acl_unref(set->acl);
    set->acl = NULL;
}

static unsigned volume_set_bucket(const struct uuid *id)
{
    /* the low bits chose the shard */
    return (unsigned)(uuid_hash(id) >> 32) % VOLUME_SET_BUCKETS;
}

struct volume *volume_set_find(struct volume_set *set, const struct uuid *id)
{
    struct volume *v;
    LIST_FOREACH (v, &set->buckets[volume_set_bucket(id)], link)
        if (uuid_equal(&v->record.id, id))
            return v->leaving ? NULL : v;
    return NULL;
}

void volume_set_each(struct volume_set *set, void (*fn)(struct volume *v, void *user), void *user)
{
    for (unsigned i = 0; i < VOLUME_SET_BUCKETS; i++) {
        struct volume *v;
        LIST_FOREACH (v, &set->buckets[i], link)
            fn(v, user);
    }
}

/* -- owners ------------------------------------------------------------------ */

const char *volume_owner(const struct volume_record *r)
{
    for (uint32_t i = 0; i < r->label_count; i++)
        if (strcmp(r->labels[i].key, VOLUME_LABEL_OWNER) == 0)
            return r->labels[i].value;
    return "";
}

/* -- life --------------------------------------------------------------------- */

uint64_t volume_now_ns(const struct volume *v)
{
    return clock_now_ns(v->set->env->clock);
}

void volume_notice_gone(const struct volume *v, const char *snapshot, const char *what,
                        const struct err *err)
{
    const struct volume_env *env = v->set->env;
    if (env->notice != NULL)
        env->notice(env->notice_user, v, snapshot, what, err);
}

void volume_notice(const struct volume *v, const struct snapshot *s, const char *what,
                   const struct err *err)
{
    const struct record_snapshot *rs = s != NULL ? snapshot_record(s) : NULL;
    volume_notice_gone(v, rs != NULL && !rs->undo ? rs->name : NULL, what, err);
}

int volume_dir_format(const char *state_dir, const struct uuid *id, char *buf, size_t buf_bytes,
                      struct err *reterr)
{
    char text[UUID_TEXT_BYTES];
    int n = snprintf(buf, buf_bytes, "%s/volumes/%s", state_dir, uuid_format(id, text));
    if (n < 0 || (size_t)n >= buf_bytes)
        return err_set(reterr, SNAP_ELIMIT, "the path of volume %s is too long", text);
    return 0;
}

int volume_cow_path(const struct volume *v, const char *cow_path, char *buf, size_t buf_bytes,
                    struct err *reterr)
{
    char text[UUID_TEXT_BYTES];
    int n = cow_path[0] == '/'
                ? snprintf(buf, buf_bytes, "%s", cow_path)
                : snprintf(buf, buf_bytes, "%s/volumes/%s/%s", v->set->env->state_dir,
                           uuid_format(&v->record.id, text), cow_path);
    if (n < 0 || (size_t)n >= buf_bytes)
        return err_set(reterr, SNAP_ELIMIT, "the path %s is too long", cow_path);
    return 0;
}

int volume_open_new(struct volume *v, const char *path, struct blk_dev **ret, struct err *reterr)
{
    const struct volume_storage *s = v->set->env->storage;
    struct blk_engine *e = v->set->shard->engine;
    unsigned flags = BLK_OPEN_CREATE | BLK_OPEN_EXCLUSIVE;
    struct blk_dev *left;
    int rc = s->open(s->user, e, path, flags, ret, reterr);
    if (rc != SNAP_EEXIST)
        return rc;
    err_clear(reterr);
    rc = s->open(s->user, e, path, BLK_OPEN_EXCLUSIVE, &left, reterr);
    if (rc < 0)
        return rc;
    blk_dev_close(left);
    rc = s->remove(s->user, path, reterr);
    return rc < 0 ? rc : s->open(s->user, e, path, flags, ret, reterr);
}

static void volume_free_nodes(struct volume *v, struct snapshot_list *list)
{
    struct snapshot *s;
    while ((s = TAILQ_LAST(list, snapshot_list)) != NULL) {
        volume_node_remove(v, s);
        snapshot_free(s);
    }
}

void volume_let_go(struct volume *v)
{
    if (v == NULL)
        return;
    volume_free_nodes(v, &v->clones); /* one before what it reads through */
    volume_free_nodes(v, &v->chain);
    shard_kick_cancel(v->set->shard, &v->put_kick);
    if (v->job_timer_ready)
        loop_timer_done(&v->job_timer);
    volume_job_forget(v);
    volume_verify_forget(v);
    scrub_stop(v);
    claim_done(v);
    volume_opening_free(v->opener);
    origin_free(v->origin);
    volume_nodes_free(v->nodes);
    cow_map_free(v->map);
    volume_record_done(&v->record);
    free(v);
}

static int volume_add_nodes(struct volume *v, struct err *reterr)
{
    for (uint32_t i = 0; i < v->record.snapshot_count; i++) {
        const struct record_snapshot *rs = &v->record.snapshots[i];
        struct snapshot *s = snapshot_new(v, &rs->id, rs->seq);
        if (s == NULL)
            return err_set(reterr, SNAP_ENOMEM, "volume");
        tree_add(s, NULL);
        v->chunk_sectors = rs->chunk_size_sectors;
    }
    tree_index(v);
    return 0;
}

/* What can fail; what there is by then is freed by volume_let_go(). */
static int volume_build(struct volume *v, struct err *reterr)
{
    struct volume_set *set = v->set;
    v->map = cow_map_new();
    v->nodes = v->map == NULL ? NULL : volume_nodes_new();
    if (v->nodes == NULL)
        return err_set(reterr, SNAP_ENOMEM, "volume");
    int rc = volume_add_nodes(v, reterr);
    if (rc == 0)
        rc = loop_timer_init(set->shard->loop, &v->job_timer, hand_down_start, v, reterr);
    v->job_timer_ready = rc == 0;
    v->opener = rc == 0 ? volume_opening_new(v, reterr) : NULL;
    if (v->opener == NULL)
        return SNAP_ENOMEM;
    if (v->record.kind == VOLUME_HOSTED) {
        v->chunk_sectors = v->record.chunk_size_sectors;
        rc = origin_new(v, &v->origin, reterr);
    }
    return rc;
}

int volume_make(struct volume_set *set, struct volume_record *take_record, struct volume **ret,
                struct err *reterr)
{
    struct volume *v = calloc(1, sizeof *v);
    if (v == NULL) {
        volume_record_done(take_record);
        return err_set(reterr, SNAP_ENOMEM, "volume");
    }
    v->set = set;
    v->record = *take_record;
    volume_record_init(take_record);
    TAILQ_INIT(&v->chain);
    TAILQ_INIT(&v->clones);
    STAILQ_INIT(&v->commits);
    STAILQ_INIT(&v->creates);
    STAILQ_INIT(&v->create_waiters);
    TAILQ_INIT(&v->puts_held);
    v->put_kick = (struct shard_kick){.fn = volume_put_run_held, .user = v};
    if (set->env->space_of != NULL)
        v->space_used = set->env->space_of(set->env->space_user, volume_owner(&v->record));
    int rc = volume_build(v, reterr);
    if (rc < 0) {
        volume_let_go(v);
        return rc;
    }
    lease_init(&v->lease, v->record.lease_epoch, v->record.lease_holder, &v->record.lease_instance,
               volume_lease_ttl_ns(v), volume_now_ns(v));
    *ret = v;
    return 0;
}

void volume_join(struct volume *v)
{
    struct volume_set *set = v->set;
    LIST_INSERT_HEAD(&set->buckets[volume_set_bucket(&v->record.id)], v, link);
    set->count++;
}

int volume_new(struct volume_set *set, struct volume_record *take_record, struct volume **ret,
               struct err *reterr)
{
    int rc = volume_make(set, take_record, ret, reterr);
    if (rc == 0)
        volume_join(*ret);
    return rc;
}

static void volume_close_next(void *user, int code, const struct err *err);

static void volume_close_end(struct volume *v)
{
    volume_done_fn *done = v->idle;
    void *user = v->idle_user;
    LIST_REMOVE(v, link);
    v->set->count--;
    volume_let_go(v);
    done(user, 0, NULL);
}

static void volume_close_flushed(struct blk_req *req, int result)
{
    struct volume *v = req->user;
    if (result < 0) {
        struct err err = ERR_INIT;
        (void)err_set_errno(&err, result, req->sys_errno, "flush");
        loss_happened(&v->origin->loss);
        volume_notice(v, NULL, "closing: what was written last may not be durable", &err);
    }
    volume_close_next(v, 0, NULL);
}

/* Whoever stops a daemon may pull the plug next. False: all is flushed. */
static bool volume_close_flush(struct volume *v)
{
    struct origin *o = v->origin;
    struct snapshot *s;
    struct blk_dev *dev = o == NULL || o->closing ? NULL : o->dev;
    if (o == NULL)
        return false;
    o->closing = true;
    for (s = TAILQ_FIRST(&v->clones); dev == NULL && s != NULL; s = TAILQ_NEXT(s, link)) {
        if (s->unflushed)
            dev = s->dev;
        s->unflushed = false;
    }
    if (dev == NULL)
        return false;
    o->gate_req = (struct blk_req){.op = BLK_FLUSH, .done = volume_close_flushed, .user = v};
    blk_submit(dev, &o->gate_req);
    return true;
}

static void volume_close_next(void *user, int code, const struct err *err)
{
    (void)code;
    (void)err;
    struct volume *v = user;
    struct snapshot *s;
    if (volume_close_flush(v))
        return;
    /* a clone before what it reads through, then the chain */
    while ((s = TAILQ_LAST(&v->clones, snapshot_list)) != NULL ||
           (s = TAILQ_FIRST(&v->chain)) != NULL) {
        if (s->dev != NULL || s->store != NULL) {
            snapshot_close(s, false, volume_close_next, v);
            return;
        }
        tree_remove(s);
        snapshot_free(s);
    }
    v->closed = true;
    if (v->refs == 0)
        volume_close_end(v);
}

int volume_refuse_leaving(const struct volume *v, struct err *reterr)
{
    if (v->deleting)
        return err_set(reterr, SNAP_ENOENT, "volume %s is being deleted", v->record.name);
    return err_set(reterr, SNAP_ESHUTDOWN, "volume %s is closed: the daemon stops", v->record.name);
}

void volume_ref(struct volume *v)
{
    v->refs++;
}

void volume_unref(struct volume *v)
{
    CHECK(v->refs > 0);
    if (--v->refs > 0 || !v->leaving || v->idle == NULL)
        return;
    if (v->closed) {
        volume_close_end(v);
    } else if (!v->closing) { /* somebody may hold it a moment while its devices close */
        v->closing = true;
        volume_close_next(v, 0, NULL);
    }
}

/* What waits for something else to happen is refused; what is in flight ends by itself. */
static void volume_cancel_waiting(struct volume *v)
{
    volume_put_cancel_held(v);
    snapshot_create_cancel(v);
    hand_down_cancel(v);
    if (v->origin != NULL)
        volume_write_cancel(v);
    struct snapshot *s;
    TAILQ_FOREACH (s, &v->chain, link)
        snapshot_cancel_reopen(s);
    TAILQ_FOREACH (s, &v->clones, link)
        snapshot_cancel_reopen(s);
}

void volume_close(struct volume *v, volume_done_fn *done, void *user)
{
    CHECK(v->idle == NULL);
    v->leaving = true;
    v->idle = done;
    v->idle_user = user;
    volume_ref(v);
    volume_cancel_waiting(v);
    volume_unref(v);
}
