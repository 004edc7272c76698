/* SPDX-License-Identifier: Apache-2.0 */
/* A batch of exceptions: their content and their checksums are read and compared.
 *
 *   (a clone: hold its chunks) ──> look up and read ──> all there? ──> compare each ──> give back
 *                                       ^                  └─ no memory: a moment later ─┐
 *                                       └────────────────────────────────────────────────┘
 *
 * A checksum is bound to the old_chunk of its content, so one that does not match tells of damage
 * to the content or to the exception that leads there. If it matches with one bit of the old_chunk
 * changed, it was the exception. (In side files of before, it is bound to the new_chunk only.)
 *
 * Its nodes are kept open from when it was gathered to when it has been compared. It must not know
 * what comes before or after it. Thread: the shard's.
 */
#include "daemon/volume/verify_priv.h"

#include "common/base/limits.h"

/* -- comparing --------------------------------------------------------------------- */

/* Is it right for an old_chunk that differs in one bit? The content is hashed for each: not that of
 * large chunks, while the loop stands. */
static bool verify_is_of_another(const struct verify *y, const struct verify_item *i, uint64_t *ret)
{
    uint64_t chunk_bytes = (uint64_t)y->volume->chunk_sectors * SECTOR_BYTES;
    uint64_t end = chunk_bytes <= VERIFY_BYTES ? LIMIT_VOLUME_BYTES / chunk_bytes : 0;
    for (uint64_t bit = 1; bit < end; bit <<= 1)
        if (sum_dev_of(i->node->dev, i->new_chunk, i->old_chunk ^ bit, i->data) == i->slot.now) {
            *ret = i->old_chunk ^ bit;
            return true;
        }
    return false;
}

static void verify_fault(struct verify *y, const struct verify_item *i, enum verify_fault_kind kind)
{
    struct verify_fault f = {.kind = kind,
                             .snapshot = i->node->id,
                             .old_chunk = i->old_chunk,
                             .new_chunk = i->new_chunk};
    bool differs = kind == VERIFY_DIFFERS || kind == VERIFY_IN_DOUBT;
    f.entry_suspect = differs && sum_dev_has_tags(i->node->dev);
    bool told = y->found.fault_count < VERIFY_FAULTS_MAX;
    if (told && f.entry_suspect && verify_is_of_another(y, i, &f.meant_old))
        f.kind = VERIFY_ENTRY;
    verify_found_add(&y->found, &f);
}

static void verify_compare(struct verify *y, struct verify_item *i)
{
    y->done++;
    if (i->code < 0) {
        verify_fault(y, i, VERIFY_UNREADABLE);
        return;
    }
    uint64_t sum = sum_dev_of(i->node->dev, i->new_chunk, i->old_chunk, i->data);
    if (i->slot.now == sum)
        return;
    if (y->spec.rebuild) {
        if (sum_dev_set(i->node->dev, i->new_chunk, i->old_chunk, i->data, NULL) == 0) {
            i->node->sums_unflushed = true;
            y->found.rebuilt++;
        } else {
            y->found.missing++; /* its page has left memory meanwhile: the next run has it */
        }
    } else if (i->slot.now == 0) {
        y->found.missing++;
    } else if (i->slot.in_doubt) {
        if (i->slot.before != sum) /* else a crash came before the new content: as good as old */
            verify_fault(y, i, VERIFY_IN_DOUBT);
    } else {
        verify_fault(y, i, i->slot.before == sum ? VERIFY_OLDER : VERIFY_DIFFERS);
    }
}

/* What could not be read for want of memory is no damage: the batch is read once more. */
static bool verify_reads_again(struct verify *y)
{
    bool no_memory = false;
    for (uint32_t n = 0; n < y->count; n++)
        no_memory |= y->items[n].code == SNAP_ENOMEM;
    if (!no_memory || y->retries >= VERIFY_RETRIES)
        return false;
    y->retries++;
    y->again = true;
    loop_timer_set(&y->timer, VERIFY_RETRY_MS);
    return true;
}

static void verify_batch_end(struct verify *y)
{
    if (verify_reads_again(y))
        return;
    for (uint32_t n = 0; n < y->count; n++) {
        verify_compare(y, &y->items[n]);
        snapshot_reader_end(y->items[n].node);
    }
    if (y->held != NULL) {
        struct snapshot *held = y->held;
        y->held = NULL;
        range_give(held->ranges, &y->hold);
        snapshot_reader_end(held);
    }
    y->count = 0;
    verify_go_on(y);
}

static void verify_item_end(struct verify_item *i, int code)
{
    struct verify *y = i->verify;
    if (code < 0)
        i->code = code;
    if (--y->pending == 0)
        verify_batch_end(y);
}

static void verify_read_done(struct blk_req *req, int result)
{
    verify_item_end(req->user, result);
}

static void verify_looked_up(struct sum_lookup *l, int code, const struct err *err)
{
    (void)err;
    verify_item_end(l->user, code);
}

/* Checksums first: what is written after that is not held against what was read before. The
 * other way round an overwriting between the two would look like rot; clones are held. */
static void verify_read(struct verify *y)
{
    uint32_t chunk_bytes = y->volume->chunk_sectors * SECTOR_BYTES;
    y->pending = 2 * y->count + 1;
    for (uint32_t n = 0; n < y->count; n++) {
        struct verify_item *i = &y->items[n];
        i->verify = y;
        i->code = 0;
        i->data = y->buf->data + (size_t)n * chunk_bytes;
        i->req = (struct blk_req){.op = BLK_READ,
                                  .flags = BLK_MEDIUM,
                                  .offset_bytes = i->new_chunk * chunk_bytes,
                                  .len_bytes = chunk_bytes,
                                  .data = i->data,
                                  .done = verify_read_done,
                                  .user = i};
        i->lookup = (struct sum_lookup){.first_block = i->new_chunk,
                                        .count = 1,
                                        .slots = &i->slot,
                                        .done = verify_looked_up,
                                        .user = i};
        blk_submit(i->node->dev, &i->req);
        sum_dev_lookup(i->node->dev, &i->lookup);
    }
    if (--y->pending == 0)
        verify_batch_end(y);
}

void verify_batch_again(struct verify *y)
{
    verify_read(y);
}

static void verify_held(struct range *r)
{
    verify_read(r->user);
}

void verify_batch(struct verify *y)
{
    struct snapshot *s = y->items[0].node;
    y->retries = 0;
    if (!s->clone) {
        verify_read(y);
        return;
    }
    y->held = s;
    snapshot_reader_begin(s);
    y->hold = (struct range){.first = y->items[0].old_chunk,
                             .last = y->items[y->count - 1].old_chunk,
                             .shared = true,
                             .granted = verify_held,
                             .user = y};
    range_take(s->ranges, &y->hold);
}
