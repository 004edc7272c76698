/* SPDX-License-Identifier: Apache-2.0 */
/* The verification job: gather a batch of exceptions, read them and their checksums, compare.
 *
 *   step ──> gather ──> (a clone: hold its chunks) ──> read, look up ──> compare ──> step …
 *                 └─ end of the map: the next clone's ──> flush what was made anew
 *                                                         ──> look where the faults stand ──> end
 *
 * A checksum is bound to the old_chunk of its content, so one that does not match tells of damage
 * to the content or to the exception that leads there. If it matches with one bit of the old_chunk
 * changed, it was the exception. (In side files of before, it is bound to the new_chunk only.)
 *
 * The chain has one map, so all of its nodes are verified in one scan; each clone has its own.
 * A node that goes away meanwhile is passed over. To rebuild a node that has no side file, or one
 * of before, its store is closed and opened again with a new one; puts wait for that long.
 *
 * It must not know of messages, and judges nothing but content: what the table itself says is
 * check.c's. What has been found is kept, and told, by verify_found.c. Thread: the shard's.
 */
#include "daemon/volume/verify_place.h"

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/io/sum.h"
#include "daemon/volume/change.h"
#include "daemon/volume/job.h"
#include "daemon/volume/put.h"
#include "daemon/volume/range.h"
#include "daemon/volume/scrub.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    VERIFY_CHUNKS = 64,
    VERIFY_BYTES = 1 << 20,
    VERIFY_SCAN_RUNS = 4096, /* looked at before the loop gets its turn */
    VERIFY_RETRY_MS = 20,    /* no buffer, or a store that is being opened again */
    VERIFY_RETRIES = 500,
    SCRUB_PAUSE_MS = 50, /* between two batches */
};

struct verify_item {
    struct verify *verify;
    struct snapshot *node;
    uint64_t old_chunk, new_chunk;
    uint8_t *data;
    struct blk_req req;
    struct sum_slot slot;
    struct sum_lookup lookup;
    int code;
};

struct verify {
    struct volume_job job;
    struct volume *volume;
    struct verify_spec spec;
    uint32_t clone_seq; /* of the map at hand; 0: the chain's */
    uint64_t cursor_old;
    uint32_t cursor_seq;
    bool ended, stopping, cancelled;
    bool again; /* the batch at hand is to be read once more */
    unsigned retries;
    struct shard_kick kick;
    struct loop_timer timer;

    struct verify_item items[VERIFY_CHUNKS];
    uint32_t count;
    unsigned pending;
    struct buf *buf;
    struct range hold; /* of a clone's chunks */
    struct snapshot *held;
    struct snapshot *rebuilding;
    struct blk_req flush;

    uint64_t done, total;
    struct verify_found found;
    struct verify_place place;
};

static void verify_step(void *user);

/* -- the end ---------------------------------------------------------------------- */

static void verify_status(struct volume_job *job, struct volume_job_status *ret)
{
    const struct verify *y = job->user;
    struct volume *v = y->volume;
    ret->kind = y->spec.scrub ? "scrub" : "verify";
    ret->done = y->done;
    ret->total = y->total > y->done ? y->total : y->done;
    ret->state = JOB_RUNNING;
    const struct snapshot *s = volume_snapshot_find(v, &y->spec.snapshot);
    const struct record_snapshot *rs = s != NULL ? snapshot_record(s) : NULL;
    (void)snprintf(ret->subject, sizeof ret->subject, "%s%s%s", v->record.name,
                   rs != NULL ? "@" : "", rs != NULL ? rs->name : "");
    verify_found_format(&y->found, ret->text, sizeof ret->text);
}

const struct verify_fault *volume_verify_faults(struct volume *v, const struct uuid *job,
                                                uint32_t *ret_count, uint64_t *ret_total)
{
    const struct verify *y = v->verify;
    if (y == NULL || !uuid_equal(&y->job.id, job))
        return NULL;
    *ret_count = y->found.fault_count;
    *ret_total = verify_found_total(&y->found);
    return y->found.faults;
}

static void verify_end(struct verify *y, enum volume_job_state state, const char *text)
{
    struct volume *v = y->volume;
    y->ended = true;
    verify_found_mark(&y->found, v, &y->spec.snapshot, state == JOB_DONE);
    buf_give(y->buf);
    y->buf = NULL;
    shard_kick_cancel(v->set->shard, &y->kick);
    loop_timer_done(&y->timer);
    verify_found_tell(&y->found, v);
    volume_job_end(&y->job, state, text);
    if (y->spec.scrub && state != JOB_CANCELLED)
        scrub_ended(v);
    volume_unref(v);
}

void volume_verify_forget(struct volume *v)
{
    if (v->verify == NULL)
        return;
    CHECK(v->verify->ended);
    verify_found_done(&v->verify->found);
    free(v->verify);
    v->verify = NULL;
}

/* Make the checksums that were built anew durable, one node after another. */
static void verify_flushed(struct blk_req *req, int result)
{
    struct verify *y = req->user;
    struct snapshot *s = y->held;
    y->held = NULL;
    if (result < 0) {
        struct err err = ERR_INIT;
        (void)err_set_errno(&err, result, req->sys_errno, "flush new checksums");
        snapshot_flush_failed(s, &err);
        snapshot_reader_end(s);
        verify_end(y, JOB_FAILED, "new checksums could not be made durable");
        return;
    }
    snapshot_reader_end(s);
    shard_kick_later(y->volume->set->shard, &y->kick);
}

static bool verify_flush_next(struct verify *y)
{
    struct volume *v = y->volume;
    struct snapshot *s;
    struct snapshot_list *lists[] = {&v->chain, &v->clones};
    for (unsigned i = 0; i < 2; i++)
        TAILQ_FOREACH (s, lists[i], link) {
            if (!s->sums_unflushed)
                continue;
            s->sums_unflushed = false;
            if (s->dev == NULL || s->closing)
                continue;
            y->held = s;
            snapshot_reader_begin(s);
            y->flush = (struct blk_req){.op = BLK_FLUSH, .done = verify_flushed, .user = y};
            blk_submit(s->dev, &y->flush);
            return true;
        }
    return false;
}

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

/* The next step, when the loop has had its turn; a scrub leaves the disk some time as well. */
static void verify_go_on(void *user)
{
    struct verify *y = user;
    if (y->spec.scrub)
        loop_timer_set(&y->timer, SCRUB_PAUSE_MS);
    else
        shard_kick_later(y->volume->set->shard, &y->kick);
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

static void verify_held(struct range *r)
{
    verify_read(r->user);
}

/* -- gathering ---------------------------------------------------------------------- */

/* Nodes without checksums are counted, not read. */
static void verify_pass_over(struct verify *y, const struct cow_run *run)
{
    y->done += run->count;
    y->found.missing += run->count;
}

enum verify_gathered { GATHERED, GATHERED_END, GATHERED_REBUILD };

/* Fill the batch from the cursor on. */
static enum verify_gathered verify_gather(struct verify *y, const struct cow_map *map, uint32_t max)
{
    struct volume *v = y->volume;
    struct cow_run run;
    for (unsigned n = 0; n < VERIFY_SCAN_RUNS && y->count < max; n++) {
        if (!cow_map_next(map, y->cursor_old, y->cursor_seq, &run))
            return GATHERED_END;
        struct snapshot *s = volume_snapshot_by_seq(v, run.seq);
        bool wanted = s != NULL && verify_covers(&y->spec.snapshot, s);
        bool open = wanted && s->dev != NULL && s->store != NULL && !s->closing;
        bool makes = open && y->spec.rebuild && !s->busy && !s->leaving;
        if (makes && (!sum_dev_is(s->dev) || !sum_dev_has_tags(s->dev))) {
            y->rebuilding = s;
            return GATHERED_REBUILD;
        }
        if (open && sum_dev_is(s->dev)) {
            uint64_t room = max - y->count, take = run.count < room ? run.count : room;
            for (uint64_t i = 0; i < take; i++) {
                y->items[y->count++] = (struct verify_item){
                    .node = s, .old_chunk = run.old_chunk + i, .new_chunk = run.new_chunk + i};
                snapshot_reader_begin(s);
            }
            run.count = take; /* go on behind it */
        } else if (wanted) {
            verify_pass_over(y, &run);
        }
        cow_map_after(&run, &y->cursor_old, &y->cursor_seq);
    }
    return GATHERED;
}

/* -- a new side file ------------------------------------------------------------------ */

static void verify_rebuilt(struct verify *y, int code, const struct err *err)
{
    struct snapshot *s = y->rebuilding;
    y->rebuilding = NULL;
    s->busy = false;
    volume_put_resume(y->volume);
    if (code < 0 || !sum_dev_is(s->dev))
        verify_end(y, JOB_FAILED, code < 0 ? err->text : s->sums_text);
    else
        shard_kick_later(y->volume->set->shard, &y->kick);
}

static void verify_reopened(void *user, int code, const struct err *err)
{
    struct verify *y = user;
    struct snapshot *s = y->rebuilding;
    if (code < 0)
        s->sums_create = false; /* whoever opens it next takes those that there are */
    if (code == SNAP_ENOMEM)
        snapshot_open_later(s);
    verify_rebuilt(y, code, err);
}

static void verify_closed(void *user, int code, const struct err *err)
{
    struct verify *y = user;
    if (code < 0) { /* its exceptions could not leave the map */
        verify_rebuilt(y, code, err);
        return;
    }
    y->rebuilding->sums_create = true;
    snapshot_open(y->rebuilding, verify_reopened, y);
}

static void verify_reopen(struct verify *y)
{
    y->rebuilding->busy = true;
    snapshot_close(y->rebuilding, true, verify_closed, y);
}

/* -- steps ---------------------------------------------------------------------------- */

static void verify_wait(struct verify *y, const char *why)
{
    if (++y->retries > VERIFY_RETRIES)
        verify_end(y, JOB_FAILED, why);
    else
        loop_timer_set(&y->timer, VERIFY_RETRY_MS);
}

/* The map at hand; NULL: the clone has gone. */
static const struct cow_map *verify_map(const struct verify *y)
{
    if (y->clone_seq == 0)
        return y->volume->map;
    const struct snapshot *s = volume_snapshot_by_seq(y->volume, y->clone_seq);
    return s != NULL ? s->map : NULL;
}

/* Go to the next map. False: there is none. */
static bool verify_next_map(struct verify *y)
{
    const struct snapshot *s, *next = NULL;
    if (!uuid_is_zero(&y->spec.snapshot))
        return false;
    TAILQ_FOREACH (s, &y->volume->clones, link)
        if (s->seq > y->clone_seq && (next == NULL || s->seq < next->seq))
            next = s;
    if (next == NULL)
        return false;
    y->clone_seq = next->seq;
    y->cursor_old = 0;
    y->cursor_seq = 0;
    return true;
}

static void verify_batch(struct verify *y)
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

/* -- where the faults stand ------------------------------------------------------------- */

static bool verify_place_next(struct verify *y)
{
    y->place.volume = y->volume;
    y->place.found = &y->found;
    y->place.area = y->buf->data;
    y->place.done = verify_go_on;
    y->place.user = y;
    return verify_place_step(&y->place);
}

static void verify_step(void *user)
{
    struct verify *y = user;
    struct volume *v = y->volume;
    uint32_t chunk_bytes = v->chunk_sectors * SECTOR_BYTES;
    if (y->again) { /* its readers are there still, so it ends before all else */
        y->again = false;
        verify_read(y);
        return;
    }
    if (y->stopping || v->leaving || y->cancelled) {
        verify_end(y, JOB_CANCELLED, NULL);
        return;
    }
    if (chunk_bytes == 0) {
        verify_end(y, JOB_DONE, NULL);
        return;
    }
    uint32_t max = VERIFY_BYTES / chunk_bytes;
    max = max == 0 ? 1 : max > VERIFY_CHUNKS ? VERIFY_CHUNKS : max;
    if (y->buf == NULL)
        y->buf = buf_take(v->set->shard->answer_pool, (size_t)max * chunk_bytes);
    if (y->buf == NULL) {
        verify_wait(y, "no buffer");
        return;
    }
    const struct cow_map *map = verify_map(y);
    enum verify_gathered got = map == NULL ? GATHERED_END : verify_gather(y, map, max);
    if (y->count > 0)
        verify_batch(y);
    else if (got == GATHERED_REBUILD)
        verify_reopen(y);
    else if (got == GATHERED || verify_next_map(y))
        shard_kick_later(v->set->shard, &y->kick);
    else if (!verify_flush_next(y) && !verify_place_next(y))
        verify_end(y, JOB_DONE, NULL);
}

/* -- beginning ------------------------------------------------------------------------- */

static void verify_cancel(struct volume_job *job, volume_done_fn *done, void *user)
{
    struct verify *y = job->user;
    y->cancelled = true;
    done(user, 0, NULL);
}

static void verify_stop(struct volume_job *job)
{
    struct verify *y = job->user;
    y->stopping = true;
    if (y->count == 0 && y->rebuilding == NULL && y->held == NULL && y->place.node == NULL) {
        loop_timer_stop(&y->timer);
        shard_kick_later(y->volume->set->shard, &y->kick);
    }
}

static void verify_count(struct verify *y)
{
    struct volume *v = y->volume;
    const struct snapshot *s;
    struct snapshot_list *lists[] = {&v->chain, &v->clones};
    for (unsigned i = 0; i < 2; i++)
        TAILQ_FOREACH (s, lists[i], link) {
            struct cow_usage u;
            if (!verify_covers(&y->spec.snapshot, s))
                continue;
            if (s->store == NULL) {
                if (!s->lost && !s->reopening && s->open_done == NULL)
                    verify_found_add(&y->found, &(struct verify_fault){.kind = VERIFY_DAMAGED,
                                                                       .snapshot = s->id});
                continue;
            }
            cow_store_usage(s->store, &u);
            y->total += u.exceptions;
        }
}

/* 1: it is there already. */
static int verify_check(struct volume *v, const struct verify_spec *spec, struct err *reterr)
{
    struct volume_job_status status;
    if (volume_job_show(v, &spec->job, &status, NULL) == 0)
        return 1;
    if (v->leaving)
        return volume_refuse_leaving(v, reterr);
    if (v->verify != NULL && !v->verify->ended)
        return err_set(reterr, SNAP_EBUSY, "volume %s is being verified", v->record.name);
    if (uuid_is_zero(&spec->snapshot))
        return 0;
    struct snapshot *s;
    int rc = volume_snapshot_visible(v, &spec->snapshot, &s, reterr);
    if (rc == 0 && s->store == NULL)
        rc = err_set(reterr, SNAP_ECORRUPT, "%s@%s is damaged: %s", v->record.name,
                     snapshot_record(s)->name, s->fault_text);
    return rc;
}

void volume_verify_start(struct volume *v, const struct verify_spec *spec, volume_done_fn *done,
                         void *user)
{
    struct err err = ERR_INIT;
    int rc = verify_check(v, spec, &err);
    if (rc != 0) {
        done(user, rc < 0 ? rc : 0, &err);
        return;
    }
    volume_verify_forget(v);
    struct verify *y = calloc(1, sizeof *y);
    bool made = y != NULL && verify_found_init(&y->found);
    rc = made ? 0 : err_set(&err, SNAP_ENOMEM, "verification");
    if (rc == 0)
        rc = loop_timer_init(v->set->shard->loop, &y->timer, verify_step, y, &err);
    if (rc < 0) {
        if (made)
            verify_found_done(&y->found);
        free(y);
        done(user, rc, &err);
        return;
    }
    y->volume = v;
    y->spec = *spec;
    y->kick = (struct shard_kick){.fn = verify_step, .user = y};
    y->job = (struct volume_job){.id = spec->job,
                                 .status = verify_status,
                                 .cancel = verify_cancel,
                                 .stop = verify_stop,
                                 .user = y};
    if (!uuid_is_zero(&spec->snapshot)) {
        const struct snapshot *s = volume_snapshot_find(v, &spec->snapshot);
        y->clone_seq = s->clone ? s->seq : 0;
    }
    verify_count(y);
    v->verify = y;
    volume_ref(v);
    volume_job_add(v, &y->job);
    shard_kick_later(v->set->shard, &y->kick);
    done(user, 0, NULL);
}
