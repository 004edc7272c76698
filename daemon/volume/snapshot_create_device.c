/* SPDX-License-Identifier: Apache-2.0 */
/* The COW device of a snapshot that is being made, and the store in it.
 *
 *   a file of its own ──> made ─────────────────────────┬──> (checksums) ──> formatted ──> opened
 *   a named device ─────> opened ──> its begin is zero ─┘                                   ^
 *        └────────────────> taken over: it holds a store, with what it has kept ────────────┘
 *
 * Whatever fails is undone, and why is told: create_undo() knows what has been made. It must not
 * know of writers or of the record's commit. Thread: the shard's.
 */
#include "daemon/volume/snapshot_create_priv.h"

#include "common/base/bytes.h"
#include "common/base/size.h"
#include "daemon/volume/draft.h"
#include "daemon/volume/sums.h"

enum { CREATE_PROBE_BYTES = 4096 };

/* -- the store -------------------------------------------------------------------- */

static void create_opened(void *user, struct cow_store *store, int code, const struct err *err)
{
    struct snapshot_create *c = user;
    char chunk[16];
    snapshot_store_opened(c->node, store);
    if (code == 0 && cow_store_state(store) == COW_INVALID)
        code = err_set(&c->err, SNAP_EINVALID, "%s holds an invalid snapshot", c->path);
    else if (code == 0 && (c->spec_chunk_sectors != 0 || c->volume->origin != NULL) &&
             cow_store_chunk_differs(store))
        code =
            err_set(&c->err, SNAP_EMISMATCH, "%s has chunks of %s", c->path,
                    size_format((uint64_t)cow_store_geometry(store)->chunk_sectors * SECTOR_BYTES,
                                chunk, sizeof chunk));
    else if (code < 0)
        (void)err_copy(&c->err, err);
    if (code < 0) {
        create_undo(c);
        return;
    }
    c->record.chunk_size_sectors = cow_store_geometry(store)->chunk_sectors;
    create_quiesce(c);
}

static void create_open_store(struct snapshot_create *c)
{
    struct volume *v = c->volume;
    struct cow_store_options options = {.map = v->map,
                                        .seq = c->node->seq,
                                        .limit_bytes = c->record.limit_bytes,
                                        .grow_step_bytes = v->set->env->cow_grow_step_bytes,
                                        .want_chunk_sectors = c->record.chunk_size_sectors};
    cow_store_open(c->node->dev, &options, NULL, create_opened, c);
}

static void create_formatted(void *user, int code, const struct err *err)
{
    struct snapshot_create *c = user;
    if (code < 0) {
        (void)err_copy(&c->err, err);
        create_undo(c);
        return;
    }
    create_open_store(c);
}

static void create_summed(void *user, int code, const struct err *err)
{
    struct snapshot_create *c = user;
    if (code < 0) {
        (void)err_copy(&c->err, err);
        create_undo(c);
        return;
    }
    cow_store_create(c->node->dev, c->record.chunk_size_sectors, create_formatted, c);
}

static void create_format(struct snapshot_create *c)
{
    c->summed = c->volume->set->env->checksums;
    if (c->summed)
        sums_attach(c->node, c->record.chunk_size_sectors, true, create_summed, c);
    else
        create_summed(c, 0, NULL);
}

/* -- the device --------------------------------------------------------------------- */

static void create_probed(struct blk_req *req, int result)
{
    struct snapshot_create *c = req->user;
    if (result < 0)
        (void)err_set_errno(&c->err, result, req->sys_errno, "read %s", c->path);
    else if (!bytes_are_zero(c->probe->data, req->len_bytes))
        (void)err_set(&c->err, SNAP_EEXIST,
                      "%s is not empty: clear its first 4 KiB, or take its COW device over",
                      c->path);
    if (c->err.code < 0) {
        create_undo(c);
        return;
    }
    create_format(c);
}

/* A device that the operator named is overwritten only if it looks unused. */
static void create_probe(struct snapshot_create *c)
{
    uint64_t size = blk_dev_info(c->node->dev)->size_bytes;
    uint64_t len = u64_min(size, CREATE_PROBE_BYTES);
    c->probe = buf_take(c->volume->set->shard->answer_pool, CREATE_PROBE_BYTES);
    if (len == 0 || c->probe == NULL) {
        (void)(len == 0 ? err_set(&c->err, SNAP_ENOSPC, "%s is empty", c->path)
                        : err_set(&c->err, SNAP_ENOMEM, "read %s", c->path));
        create_undo(c);
        return;
    }
    c->req = (struct blk_req){
        .op = BLK_READ, .len_bytes = len, .data = c->probe->data, .done = create_probed, .user = c};
    blk_submit(c->node->dev, &c->req);
}

static int create_open_file(struct snapshot_create *c, struct err *reterr)
{
    int rc = volume_open_new(c->volume, c->path, &c->node->dev, reterr);
    c->created = rc == 0;
    return rc;
}

static int create_open_device(struct snapshot_create *c, struct err *reterr)
{
    const struct volume_storage *s = c->volume->set->env->storage;
    return s->open(s->user, c->volume->set->shard->engine, c->path, BLK_OPEN_EXCLUSIVE,
                   &c->node->dev, reterr);
}

void create_device(struct snapshot_create *c)
{
    struct volume *v = c->volume;
    int rc = volume_cow_path(v, c->record.cow_path, c->path, sizeof c->path, &c->err);
    c->node = rc == 0 ? snapshot_new(v, &c->record.id, c->record.seq) : NULL;
    if (rc == 0 && c->node == NULL)
        rc = err_set(&c->err, SNAP_ENOMEM, "snapshot");
    if (rc == 0)
        rc = draft_begin(v, &c->record.id, &c->err);
    c->noted = rc == 0;
    if (rc == 0)
        rc = c->own_file ? create_open_file(c, &c->err) : create_open_device(c, &c->err);
    if (rc == 0)
        rc = blk_cache_open(v->set->shard->cache, c->node->dev, &c->node->dev, &c->err);
    if (rc < 0) {
        create_undo(c);
        return;
    }
    if (c->take_over)
        create_open_store(c);
    else if (c->own_file)
        create_format(c);
    else
        create_probe(c);
}
