/* SPDX-License-Identifier: Apache-2.0 */
/* The verification job: it walks over the exceptions, a batch at a time.
 *
 *   step ──> gather ──> batch: read and compare (verify_batch.c) ──> step …
 *              ├─ a node that needs a new side file: make it (verify_rebuild.c) ──> step …
 *              └─ end of the map: the next clone's; none: flush what was made anew
 *                                 ──> look where the faults stand (verify_place.c) ──> end
 *
 * The chain has one map, so all of its nodes are verified in one scan; each clone has its own.
 * A node that goes away meanwhile is passed over. To rebuild a node that has no side file, or one
 * of before, its store is closed and opened again with a new one; puts wait for that long.
 *
 * It must not know of messages, and judges nothing but content: what the table itself says is
 * check.c's. What has been found is kept, and told, by verify_found.c. Thread: the shard's.
 */
#include "daemon/volume/verify_priv.h"

#include "common/base/check.h"
#include "daemon/volume/scrub.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    VERIFY_SCAN_RUNS = 4096, /* looked at before the loop gets its turn */
    SCRUB_PAUSE_MS = 50,     /* between two batches */
};

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

void verify_end(struct verify *y, enum volume_job_state state, const char *text)
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
        bool open = wanted && snapshot_is_open(s);
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

/* -- steps ---------------------------------------------------------------------------- */

void verify_go_on(void *user)
{
    struct verify *y = user;
    if (y->spec.scrub)
        loop_timer_set(&y->timer, SCRUB_PAUSE_MS);
    else
        shard_kick_later(y->volume->set->shard, &y->kick);
}

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
        verify_batch_again(y);
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
        verify_rebuild(y);
    else if (got == GATHERED || verify_next_map(y))
        shard_kick_later(v->set->shard, &y->kick);
    else if (!verify_flush(y) && !verify_place_next(y))
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
                if (snapshot_own_state(s) == SNAPSHOT_DAMAGED)
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
    if (rc < 0 || s->store != NULL)
        return rc;
    if (snapshot_own_state(s) == SNAPSHOT_POISONED)
        return err_set(reterr, SNAP_EPOISONED, "%s@%s is being opened again", v->record.name,
                       snapshot_record(s)->name);
    return err_set(reterr, SNAP_ECORRUPT, "%s@%s is damaged: %s", v->record.name,
                   snapshot_record(s)->name, s->fault_text);
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
