/* SPDX-License-Identifier: Apache-2.0 */
/* The COW path through a volume.
 *
 *   start ──> held ──(room, head not busy)──> submit ──> store ──> count ──> done
 *     └──────────────(nothing held)────────────^  │                 │
 *                    refused: epoch, head, state <┘                 └─> invalidate, if the
 *                                                                       policy says so
 *
 * The payload stands where the network left it, aligned; the store writes it from
 * there. Zero chunks share the shard's one buffer of zeros. The epoch is checked when a
 * request enters the queue and, with the head, when it leaves it: a writer that was
 * fenced meanwhile has its requests die there.
 *
 * While a hidden newer snapshot still hands its exceptions down, a chunk that it has
 * counts as existing: the head's view of it is that exception, and the first content wins.
 *
 * It must not know of connections. Thread: the shard's.
 */
#include "daemon/volume/put.h"

#include "common/base/bytes.h"
#include "daemon/volume/change.h"

#include <stdlib.h>

static void volume_put_end(struct volume_put *p, int code, const struct err *err)
{
    struct volume *v = p->volume;
    p->done(p, code, err);
    volume_unref(v);
}

void volume_put_done(struct volume_put *p)
{
    free(p->outcomes);
    free(p->iov[0]);
    free(p->iov[1]);
    free(p->kept);
    free(p->kept_index);
    free(p->kept_outcomes);
    p->outcomes = p->kept_outcomes = NULL;
    p->iov[0] = p->iov[1] = NULL;
    p->kept = NULL;
    p->kept_index = NULL;
}

/* -- what came back ---------------------------------------------------------------- */

static void volume_put_count(struct volume_put *p)
{
    for (uint32_t i = 0; i < p->old_count + p->zero_count; i++) {
        if (p->outcomes[i] == COW_ADDED)
            p->added++;
        else if (p->outcomes[i] == COW_EXISTS)
            p->existed++;
        else
            p->failed++;
    }
}

static void volume_put_finish(struct volume_put *p)
{
    struct volume *v = p->volume;
    volume_put_count(p);
    v->put_bytes_inflight -= p->bytes;
    snapshot_count_space(p->node);
    snapshot_check_poison(p->node);
    if (!TAILQ_EMPTY(&v->puts_held))
        volume_put_resume(v);
    volume_put_end(p, 0, NULL);
}

static bool volume_put_has(const struct volume_put *p, int outcome)
{
    for (uint32_t i = 0; i < p->old_count + p->zero_count; i++)
        if (p->outcomes[i] == outcome)
            return true;
    return false;
}

static void volume_put_tell_as(struct volume_put *p, int outcome, int as)
{
    for (uint32_t i = 0; i < p->old_count + p->zero_count; i++)
        if (p->outcomes[i] == outcome)
            p->outcomes[i] = (int16_t)as;
}

/* What found no room belongs to a snapshot that is given up. */
static void volume_put_give_up(struct volume_put *p)
{
    volume_put_tell_as(p, SNAP_ENOSPC, SNAP_EINVALID);
    (void)err_set(&p->first_fail, SNAP_EINVALID, "full, and so made invalid by its policy");
}

/* What was refused since it was to be invalid is refused for now: it is not. */
static void volume_put_take_back(struct volume_put *p)
{
    volume_put_tell_as(p, SNAP_EINVALID, SNAP_EPOISONED);
    if (p->first_fail.code == SNAP_EINVALID)
        (void)err_set(&p->first_fail, SNAP_EPOISONED, "full, and could not be made invalid");
}

static void volume_put_invalidated(void *user, int code, const struct err *err)
{
    struct volume_put *p = user;
    if (code == 0) {
        volume_put_give_up(p);
        volume_notice(p->volume, p->node, "full, made invalid by its policy", NULL);
    } else {
        volume_put_take_back(p);
        volume_notice(p->volume, p->node, "full, and could not be made invalid", err);
    }
    volume_put_finish(p);
}

/* … for another one. */
static void volume_put_waited(void *user, int code, const struct err *err)
{
    struct volume_put *p = user;
    (void)err;
    if (code == 0)
        volume_put_give_up(p);
    else
        volume_put_take_back(p);
    volume_put_finish(p);
}

/* All is decided. Who hears that the snapshot is invalid overwrites what it held at once, so
 * nobody does before that is durable. */
static void volume_put_decided(struct volume_put *p)
{
    struct cow_store *store = p->node->store;
    bool full = p->volume->record.full_policy == FULL_INVALIDATE && volume_put_has(p, SNAP_ENOSPC);
    bool gone = volume_put_has(p, SNAP_EINVALID);
    if (store == NULL || (!full && !gone)) {
        volume_put_finish(p);
        return;
    }
    enum cow_state state = cow_store_state(store);
    bool waits = cow_store_invalidating(store);
    if (waits || (full && state == COW_READY)) {
        snapshot_kick(p->node);
        cow_store_invalidate(store, waits ? volume_put_waited : volume_put_invalidated, p);
        return;
    }
    if (state != COW_INVALID)
        volume_put_take_back(p);
    else if (full) /* by another put */
        volume_put_give_up(p);
    volume_put_finish(p);
}

static void volume_put_part_done(struct cow_put *part, int code, const struct err *err)
{
    struct volume_put *p = part->user;
    if (code < 0 && p->first_fail.code == 0)
        (void)err_copy(&p->first_fail, err);
    if (--p->pending > 0)
        return;
    if (p->kept_outcomes != NULL)
        for (uint32_t i = 0; i < p->parts[0].count + p->parts[1].count; i++)
            p->outcomes[p->kept_index[i]] = p->kept_outcomes[i];
    volume_put_decided(p);
}

/* -- on the way down ----------------------------------------------------------------- */

static bool volume_put_is_hidden(const struct volume_put *p, uint64_t old_chunk)
{
    struct cow_entry x;
    return cow_map_find(p->volume->map, old_chunk, p->node->seq + 1, &x);
}

/* Leave out what a hidden newer snapshot has. Chunk arrays and outcomes of both parts stand
 * one behind the other. */
static int volume_put_filter(struct volume_put *p, uint32_t chunk_bytes, struct err *reterr)
{
    uint32_t total = p->old_count + p->zero_count, n = 0;
    p->kept = calloc(total, sizeof *p->kept);
    p->kept_index = calloc(total, sizeof *p->kept_index);
    p->kept_outcomes = calloc(total, sizeof *p->kept_outcomes);
    p->iov[0] = calloc((size_t)p->old_count + 1, sizeof *p->iov[0]);
    if (p->kept == NULL || p->kept_index == NULL || p->kept_outcomes == NULL || p->iov[0] == NULL)
        return err_set(reterr, SNAP_ENOMEM, "a batch of %u chunks", total);
    for (uint32_t i = 0; i < total; i++) {
        uint64_t chunk = i < p->old_count ? p->old_chunks[i] : p->zero_chunks[i - p->old_count];
        if (volume_put_is_hidden(p, chunk)) {
            p->outcomes[i] = COW_EXISTS;
            continue;
        }
        if (i < p->old_count)
            p->iov[0][n] = (struct iovec){.iov_base = p->payload + (size_t)i * chunk_bytes,
                                          .iov_len = chunk_bytes};
        p->kept[n] = chunk;
        p->kept_index[n++] = i;
        p->parts[i < p->old_count ? 0 : 1].count++;
    }
    uint32_t data = p->parts[0].count;
    p->parts[0].old_chunks = p->kept;
    p->parts[0].outcomes = p->kept_outcomes;
    p->parts[0].iov = p->iov[0];
    p->parts[0].iov_count = data;
    p->parts[1].old_chunks = p->kept + data;
    p->parts[1].outcomes = p->kept_outcomes + data;
    return 0;
}

static int volume_put_parts(struct volume_put *p, struct err *reterr)
{
    struct volume *v = p->volume;
    uint32_t chunk_bytes = v->chunk_sectors * SECTOR_BYTES;
    p->outcomes = calloc((size_t)p->old_count + p->zero_count + 1, sizeof *p->outcomes);
    if (p->outcomes == NULL)
        return err_set(reterr, SNAP_ENOMEM, "a batch of %u chunks", p->old_count + p->zero_count);
    for (int i = 0; i < 2; i++)
        p->parts[i] = (struct cow_put){.done = volume_put_part_done, .user = p};
    if (TAILQ_NEXT(p->node, link) != NULL) {
        int rc = volume_put_filter(p, chunk_bytes, reterr);
        if (rc < 0)
            return rc;
    } else {
        p->iov[0] = malloc(sizeof *p->iov[0]);
        if (p->iov[0] == NULL)
            return err_set(reterr, SNAP_ENOMEM, "a batch");
        *p->iov[0] = (struct iovec){.iov_base = p->payload, .iov_len = p->payload_bytes};
        p->parts[0].old_chunks = p->old_chunks;
        p->parts[0].count = p->old_count;
        p->parts[0].outcomes = p->outcomes;
        p->parts[0].iov = p->iov[0];
        p->parts[0].iov_count = 1;
        p->parts[1].old_chunks = p->zero_chunks;
        p->parts[1].count = p->zero_count;
        p->parts[1].outcomes = p->outcomes + p->old_count;
    }
    uint64_t zeros = (uint64_t)p->parts[1].count * chunk_bytes;
    size_t n = (size_t)u64_div_round_up(zeros, SHARD_ZERO_BYTES);
    p->iov[1] = calloc(n + 1, sizeof *p->iov[1]);
    if (p->iov[1] == NULL)
        return err_set(reterr, SNAP_ENOMEM, "a batch of zeros");
    for (size_t i = 0; i < n; i++)
        p->iov[1][i] = (struct iovec){
            .iov_base = v->set->shard->zeros,
            .iov_len = (size_t)u64_min(SHARD_ZERO_BYTES, zeros - i * SHARD_ZERO_BYTES)};
    p->parts[1].iov = p->iov[1];
    p->parts[1].iov_count = (unsigned)n;
    return 0;
}

static int volume_put_check(struct volume_put *p, struct err *reterr)
{
    struct volume *v = p->volume;
    int rc = lease_check_put(&v->lease, p->identity, p->epoch, volume_now_ns(v), reterr);
    if (rc < 0)
        return rc;
    struct snapshot *head = volume_head(v);
    if (head == NULL || !uuid_equal(&head->id, &p->head) || head->leaving)
        return err_set(reterr, SNAP_ESTALE, "the head of volume %s is another", v->record.name);
    if (snapshot_record(head)->merging)
        return err_set(reterr, SNAP_EBUSY, "%s@%s is being merged", v->record.name,
                       snapshot_record(head)->name);
    rc = snapshot_check_sound(head, reterr);
    if (rc < 0)
        return err_prefix(reterr, "%s@%s", v->record.name, snapshot_record(head)->name);
    p->node = head;
    return 0;
}

static void volume_put_submit(struct volume_put *p)
{
    struct volume *v = p->volume;
    struct err err = ERR_INIT;
    int rc = volume_put_check(p, &err);
    if (rc == 0)
        rc = volume_check_space(v, p->bytes, &err);
    if (rc == 0)
        rc = volume_put_parts(p, &err);
    if (rc < 0) {
        volume_put_end(p, rc, &err);
        return;
    }
    v->put_bytes_inflight += p->bytes;
    p->pending = (p->parts[0].count > 0 ? 1U : 0U) + (p->parts[1].count > 0 ? 1U : 0U);
    if (p->pending == 0) {
        volume_put_finish(p);
        return;
    }
    struct cow_store *store = p->node->store;
    snapshot_kick(p->node);
    for (int i = 0; i < 2; i++)
        if (p->parts[i].count > 0)
            cow_store_put(store, &p->parts[i]);
}

bool volume_put_crowd(struct volume *v, size_t bytes)
{
    const struct snapshot *head = volume_head(v);
    return v->put_bytes_inflight + bytes <= VOLUME_PUT_FEW_BYTES && head != NULL &&
           head->store != NULL &&
           cow_store_gathered_bytes(head->store) + bytes >= VOLUME_PUT_CROWD_BYTES;
}

/* -- the queue ------------------------------------------------------------------------- */

static bool volume_put_must_wait(struct volume *v, const struct volume_put *p)
{
    if (v->put_bytes_inflight > 0 && v->put_bytes_inflight + p->bytes > VOLUME_PUT_BYTES_MAX)
        return true;
    const struct snapshot *head = volume_head(v);
    if (head == NULL)
        return false;
    return head->busy || head->reopening ||
           (head->store != NULL && cow_store_invalidating(head->store));
}

void volume_put_run_held(void *user)
{
    struct volume *v = user;
    struct volume_put *p;
    volume_ref(v);
    while ((p = TAILQ_FIRST(&v->puts_held)) != NULL && !volume_put_must_wait(v, p)) {
        TAILQ_REMOVE(&v->puts_held, p, link);
        volume_put_submit(p);
    }
    volume_unref(v);
}

void volume_put_resume(struct volume *v)
{
    shard_kick_later(v->set->shard, &v->put_kick);
}

void volume_put_cancel_held(struct volume *v)
{
    struct volume_put *p;
    struct err err = ERR_INIT;
    (void)volume_refuse_leaving(v, &err);
    while ((p = TAILQ_FIRST(&v->puts_held)) != NULL) {
        TAILQ_REMOVE(&v->puts_held, p, link);
        volume_put_end(p, err.code, &err);
    }
}

static int volume_put_check_shape(const struct volume *v, const struct volume_put *p,
                                  struct err *reterr)
{
    if (v->record.kind == VOLUME_HOSTED)
        return err_set(reterr, SNAP_ENOTSUP,
                       "the daemon holds the origin of volume %s: write it, and the old content "
                       "is preserved",
                       v->record.name);
    if (v->chunk_sectors == 0)
        return err_set(reterr, SNAP_ESTALE, "volume %s has no snapshot", v->record.name);
    uint64_t chunk_bytes = (uint64_t)v->chunk_sectors * SECTOR_BYTES;
    uint64_t chunks = u64_div_round_up(v->record.size_bytes, chunk_bytes);
    if (p->old_count > LIMIT_BATCH_CHUNKS || p->zero_count > LIMIT_BATCH_CHUNKS ||
        p->zero_count * chunk_bytes > LIMIT_BATCH_ZERO_BYTES)
        return err_set(reterr, SNAP_ELIMIT, "too many chunks in one request");
    if (p->payload_bytes != p->old_count * chunk_bytes)
        return err_set(reterr, SNAP_EINVAL, "%zu bytes of payload for %u chunks of %llu bytes",
                       p->payload_bytes, p->old_count, (unsigned long long)chunk_bytes);
    for (uint32_t i = 0; i < p->old_count + p->zero_count; i++) {
        uint64_t chunk = i < p->old_count ? p->old_chunks[i] : p->zero_chunks[i - p->old_count];
        if (chunk >= chunks)
            return err_set(reterr, SNAP_EINVAL,
                           "old_chunk %llu is outside volume %s of %llu chunks",
                           (unsigned long long)chunk, v->record.name, (unsigned long long)chunks);
    }
    return 0;
}

void volume_put_start(struct volume *v, struct volume_put *p)
{
    struct err err = ERR_INIT;
    p->volume = v;
    volume_ref(v);
    int rc = volume_put_check_shape(v, p, &err);
    if (rc < 0) {
        volume_put_end(p, rc, &err);
        return;
    }
    p->bytes = ((uint64_t)p->old_count + p->zero_count) * v->chunk_sectors * SECTOR_BYTES;
    if (TAILQ_EMPTY(&v->puts_held) && !volume_put_must_wait(v, p)) {
        volume_put_submit(p);
        return;
    }
    /* who has no lease shall not fill the queue of who has one */
    rc = lease_check_put(&v->lease, p->identity, p->epoch, volume_now_ns(v), &err);
    if (rc < 0)
        volume_put_end(p, rc, &err);
    else
        TAILQ_INSERT_TAIL(&v->puts_held, p, link);
}
