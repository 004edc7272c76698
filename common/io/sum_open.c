/* SPDX-License-Identifier: Apache-2.0 */
/* Making a sum device of two: the side's header, and room for a slot a block.
 *
 *   create   grow the side ──> write the header ──> flush ──> done
 *   open     read the header ──> ours? ──> grow the side if the device grew ──> done
 *
 *   bytes    0 "SNAPSUM1"  8 version  12 block_bytes  16 id (16 bytes)  32 hash
 *   hash     1: XXH3 seeded with the block's number  2: … and with its tag
 *
 * New ones have hash 2; one with hash 1 keeps it, since its sums cannot be made into others.
 *
 * Thread: the engine's.
 */
#include "common/io/sum_priv.h"

#include "common/base/bytes.h"

#include <stdlib.h>
#include <string.h>

enum { SUM_VERSION = 1, SUM_HASH_XXH3 = 1, SUM_HASH_XXH3_TAGS = 2 };

static const char magic[8] = {'S', 'N', 'A', 'P', 'S', 'U', 'M', '1'};

struct sum_opening {
    struct blk_dev *dev, *side;
    struct sum_options options;
    sum_open_fn *done;
    void *user;
    uint8_t *page;
    bool has_tags;
    struct blk_req req;
    struct err err;
};

static void opening_end(struct sum_opening *o)
{
    struct sum_dev *d = NULL;
    if (o->err.code == 0) {
        d = sum_dev_make(o->dev, o->side, &o->options, o->has_tags);
        if (d == NULL)
            (void)err_set(&o->err, SNAP_ENOMEM, "checksums");
    }
    o->done(o->user, d != NULL ? &d->base : NULL, o->err.code, &o->err);
    free(o->page);
    free(o);
}

static void opening_fail(struct sum_opening *o, int result, const char *what)
{
    (void)err_set_errno(&o->err, result, o->req.sys_errno, "%s of the checksums in %s", what,
                        o->side->info.name != NULL ? o->side->info.name : "the side device");
    opening_end(o);
}

static void opening_submit(struct sum_opening *o, enum blk_op op, blk_done_fn *done)
{
    o->req = (struct blk_req){.op = op, .done = done, .user = o};
    if (op == BLK_READ || op == BLK_WRITE) {
        o->req.len_bytes = SUM_PAGE_BYTES;
        o->req.data = o->page;
    } else if (op == BLK_GROW) {
        uint64_t blocks = u64_div_round_up(o->dev->info.size_bytes, o->options.block_bytes);
        o->req.offset_bytes =
            (1 + u64_div_round_up(blocks, SUM_PAGE_SLOTS)) * (uint64_t)SUM_PAGE_BYTES;
    }
    blk_submit(o->side, &o->req);
}

static void opening_flushed(struct blk_req *req, int result)
{
    struct sum_opening *o = req->user;
    if (result < 0)
        opening_fail(o, result, "flush");
    else
        opening_end(o);
}

static void opening_written(struct blk_req *req, int result)
{
    struct sum_opening *o = req->user;
    if (result < 0)
        opening_fail(o, result, "write the header");
    else
        opening_submit(o, BLK_FLUSH, opening_flushed);
}

static void opening_grown(struct blk_req *req, int result)
{
    struct sum_opening *o = req->user;
    if (result < 0) {
        opening_fail(o, result, "make room");
        return;
    }
    if (!o->options.create) {
        opening_end(o);
        return;
    }
    memset(o->page, 0, SUM_PAGE_BYTES);
    memcpy(o->page, magic, sizeof magic);
    le32_store(o->page + 8, SUM_VERSION);
    le32_store(o->page + 12, o->options.block_bytes);
    memcpy(o->page + 16, &o->options.id, 16);
    le32_store(o->page + 32, SUM_HASH_XXH3_TAGS);
    o->has_tags = true;
    opening_submit(o, BLK_WRITE, opening_written);
}

static void opening_check(struct sum_opening *o)
{
    const uint8_t *h = o->page;
    const char *name = o->side->info.name != NULL ? o->side->info.name : "the side device";
    uint32_t hash = le32_load(h + 32);
    o->has_tags = hash == SUM_HASH_XXH3_TAGS;
    if (memcmp(h, magic, sizeof magic) != 0 || le32_load(h + 8) != SUM_VERSION ||
        (hash != SUM_HASH_XXH3 && hash != SUM_HASH_XXH3_TAGS))
        (void)err_set(&o->err, SNAP_ECORRUPT, "%s has no header of checksums", name);
    else if (le32_load(h + 12) != o->options.block_bytes)
        (void)err_set(&o->err, SNAP_EMISMATCH, "%s is for blocks of %u bytes, not of %u", name,
                      le32_load(h + 12), o->options.block_bytes);
    else if (memcmp(h + 16, &o->options.id, 16) != 0)
        (void)err_set(&o->err, SNAP_EMISMATCH, "%s is of another device", name);
}

static void opening_read(struct blk_req *req, int result)
{
    struct sum_opening *o = req->user;
    if (result < 0) {
        opening_fail(o, result, "read the header");
        return;
    }
    opening_check(o);
    if (o->err.code < 0)
        opening_end(o);
    else
        opening_submit(o, BLK_GROW, opening_grown);
}

/* The refusal reaches the caller later, as everything does. */
static void opening_refused(struct blk_req *req, int result)
{
    (void)result;
    opening_end(req->user);
}

void sum_dev_open(struct blk_dev *dev, struct blk_dev *side, const struct sum_options *options,
                  sum_open_fn *done, void *user)
{
    struct sum_opening *o = calloc(1, sizeof *o);
    uint8_t *page = aligned_alloc(SUM_PAGE_BYTES, SUM_PAGE_BYTES);
    struct err err = ERR_INIT;
    if (o == NULL || page == NULL) {
        free(o);
        free(page);
        (void)err_set(&err, SNAP_ENOMEM, "checksums");
        done(user, NULL, SNAP_ENOMEM, &err); /* nothing is left to come back later with */
        return;
    }
    *o = (struct sum_opening){
        .dev = dev, .side = side, .options = *options, .done = done, .user = user, .page = page};
    if (options->block_bytes == 0 || side->info.align_bytes > SUM_PAGE_BYTES)
        (void)err_set(&o->err, SNAP_EINVAL, "checksums of blocks of %u bytes",
                      options->block_bytes);
    else if (!options->create && side->info.size_bytes < SUM_PAGE_BYTES)
        (void)err_set(&o->err, SNAP_ECORRUPT, "%s has no header of checksums",
                      side->info.name != NULL ? side->info.name : "the side device");
    if (o->err.code < 0)
        opening_submit(o, BLK_FLUSH, opening_refused);
    else if (options->create)
        opening_submit(o, BLK_GROW, opening_grown);
    else
        opening_submit(o, BLK_READ, opening_read);
}
