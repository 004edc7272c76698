/* SPDX-License-Identifier: Apache-2.0 */
/* Putting checksums beside a COW device.
 *
 *   open    side file ──> its header is ours? ──> s->dev is the two together
 *              └─ none ─┐       └─ no ─┐
 *                       └──────────────┴──> s->dev as it is, s->sums_text says why
 *   create  make the side file (one that is there is what a crash left, or is to go) ──> header
 *
 * It must not know what is checked against them: that is verify.c's. Thread: the shard's.
 */
#include "daemon/volume/sums.h"

#include "common/cow/cow_disk.h"
#include "common/io/sum.h"
#include "daemon/volume/change.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sums_attach {
    struct snapshot *node;
    struct blk_dev *side;
    bool create;
    volume_done_fn *done;
    void *user;
};

const char *sums_name(const struct uuid *node, char buf[SUMS_NAME_BYTES])
{
    char text[UUID_TEXT_BYTES];
    (void)snprintf(buf, SUMS_NAME_BYTES, "%s.sum", uuid_format(node, text));
    return buf;
}

/* Data chunks are covered; which those are follows from the chunk's size.
 * user: that size in bytes, as a number. */
static bool sums_covers(void *user, uint64_t block_no)
{
    uint32_t chunk_bytes = (uint32_t)(uintptr_t)user;
    struct cow_geometry g = {.chunk_sectors = chunk_bytes / SECTOR_BYTES,
                             .chunk_bytes = chunk_bytes,
                             .area_exceptions = chunk_bytes / COW_EXCEPTION_BYTES};
    return !cow_is_metadata_chunk(&g, block_no);
}

static void sums_say(struct snapshot *s, const char *text)
{
    free(s->sums_text);
    s->sums_text = text != NULL ? strdup(text) : NULL;
}

static void sums_end(struct sums_attach *a, int code, const struct err *err)
{
    volume_done_fn *done = a->done;
    void *user = a->user;
    free(a);
    done(user, code, err);
}

static void sums_opened(void *user, struct blk_dev *dev, int code, const struct err *err)
{
    struct sums_attach *a = user;
    struct snapshot *s = a->node;
    if (code == 0) {
        s->dev = dev;
        sums_say(s, NULL);
        sums_end(a, 0, NULL);
        return;
    }
    blk_dev_close(a->side);
    sums_say(s, err->text);
    if (!a->create && code != SNAP_ENOMEM)
        volume_notice(s->volume, s, "checksums cannot be used", err);
    sums_end(a, a->create || code == SNAP_ENOMEM ? code : 0, err);
}

static int sums_open_side(struct sums_attach *a, struct err *reterr)
{
    struct volume *v = a->node->volume;
    const struct volume_storage *st = v->set->env->storage;
    struct blk_engine *e = v->set->shard->engine;
    char name[SUMS_NAME_BYTES], path[LIMIT_PATH_BYTES];
    int rc = volume_cow_path(v, sums_name(&a->node->id, name), path, sizeof path, reterr);
    if (rc < 0)
        return rc;
    return a->create ? volume_open_new(v, path, &a->side, reterr)
                     : st->open(st->user, e, path, BLK_OPEN_EXCLUSIVE, &a->side, reterr);
}

void sums_attach(struct snapshot *s, uint32_t chunk_sectors, bool create, volume_done_fn *done,
                 void *user)
{
    struct err err = ERR_INIT;
    struct sums_attach *a = calloc(1, sizeof *a);
    if (a == NULL) {
        done(user, err_set(&err, SNAP_ENOMEM, "checksums"), &err);
        return;
    }
    *a = (struct sums_attach){.node = s, .create = create, .done = done, .user = user};
    struct cow_geometry geometry;
    int rc = chunk_sectors == 0 ? SNAP_ENOENT
                                : cow_geometry_init(&geometry, chunk_sectors,
                                                    blk_dev_info(s->dev)->align_bytes, &err);
    if (rc == 0)
        rc = sums_open_side(a, &err);
    if (rc < 0) {
        /* somebody still has it, or there is no memory: the COW device is waited for likewise */
        bool passes = rc == SNAP_EBUSY || rc == SNAP_ENOMEM;
        sums_say(s, rc == SNAP_ENOENT ? "it has no checksums" : err.text);
        if (rc != SNAP_ENOENT && !passes && !create)
            volume_notice(s->volume, s, "checksums cannot be used", &err);
        sums_end(a, create || passes ? rc : 0, &err);
        return;
    }
    struct sum_options options = {.block_bytes = geometry.chunk_bytes,
                                  .id = s->id,
                                  .covers = sums_covers,
                                  .user = (void *)(uintptr_t)geometry.chunk_bytes,
                                  .create = create};
    sum_dev_open(s->dev, a->side, &options, sums_opened, a);
}

int sums_remove(struct volume *v, const struct uuid *node)
{
    const struct volume_storage *st = v->set->env->storage;
    char name[SUMS_NAME_BYTES], path[LIMIT_PATH_BYTES];
    int rc = volume_cow_path(v, sums_name(node, name), path, sizeof path, NULL);
    return rc == 0 ? st->remove(st->user, path, NULL) : rc;
}
