/* SPDX-License-Identifier: Apache-2.0 */
/* Preserving: what the dependants of a place lack is copied to them before it changes.
 *
 *   plan ──> ready? ──> hold ──> buffer ──> read ──> gather ──> still so? ──> put into each ──>
 *     ^        │no                                                 │no            │
 *     │        └──> wait for the store ──┐                         │        all there: data
 *     └──────────────────────────────────┴──(plan anew)────────────┴── again ─────┤
 *                                                          policy: invalidate <── full
 *
 *   chunks of the part   |has|lacks|has|lacks|has|
 *   in the buffer            [===============]        read in one go, each put takes its own
 *
 * Between the reading and the puts it waits for others, see write_batch.c.
 *
 * Who depends on whom may change while it reads; at the put, which joins the store at once,
 * it is looked at anew. It must not know where the data goes. Thread: the shard's.
 */
#include "daemon/volume/write_priv.h"

#include "common/base/bytes.h"
#include "daemon/volume/change.h"
#include "daemon/volume/tree.h"

#include <stdlib.h>
#include <string.h>

/* -- the plan ----------------------------------------------------------------------------- */

static bool keep_add_dep(struct snapshot *s, void *user)
{
    struct write_part *p = user;
    if (p->dep_count == p->dep_cap) {
        unsigned cap = p->dep_cap * 4;
        bool first = p->deps == p->few_deps;
        struct snapshot **deps = realloc(first ? NULL : p->deps, cap * sizeof(struct snapshot *));
        if (deps == NULL) {
            p->dep_count = UINT32_MAX;
            return false;
        }
        if (first)
            memcpy(deps, p->few_deps, sizeof p->few_deps);
        p->deps = deps;
        p->dep_cap = cap;
    }
    p->deps[p->dep_count++] = s;
    return true;
}

static int keep_find_deps(struct write_part *p, struct err *reterr)
{
    p->dep_count = 0;
    tree_each_dependant(p->volume, p->place, keep_add_dep, p);
    if (p->dep_count != UINT32_MAX)
        return 0;
    p->dep_count = 0;
    return err_set(reterr, SNAP_ENOMEM, "dependants");
}

static bool keep_is_lacked(const struct write_part *p, uint64_t chunk)
{
    for (unsigned i = 0; i < p->dep_count; i++)
        if (!tree_has(p->deps[i], p->place, chunk))
            return true;
    return false;
}

static uint64_t keep_window(const struct write_part *p)
{
    uint64_t chunks = WRITE_PART_BYTES / write_chunk_bytes(p);
    return chunks == 0 ? 1 : u64_min(chunks, WRITE_PART_CHUNKS);
}

/* How far the part may go for its data's sake. */
static uint64_t keep_last(const struct write_part *p)
{
    const struct volume_write *w = p->w;
    uint64_t chunk_bytes = write_chunk_bytes(p), max = WRITE_ZERO_BYTES / chunk_bytes;
    uint64_t last = (w->offset_bytes + w->len_bytes - 1) / chunk_bytes;
    bool bounces = w->op == VOLUME_WRITE && w->offset_bytes % BUF_ALIGN_BYTES != 0;
    if (p->place != NULL || bounces)
        max = keep_window(p);
    if (write_skips_holes(p)) { /* the data alone, up to the next hole */
        uint64_t hole = blk_dev_next_hole(p->volume->origin->dev, w->cursor_bytes);
        last = u64_min(last, (u64_max(hole, w->cursor_bytes + 1) - 1) / chunk_bytes);
    }
    return u64_min(last, p->first + u64_max(max, 1) - 1);
}

int write_keep_plan(struct write_part *p, struct err *reterr)
{
    struct volume_write *w = p->w;
    uint64_t chunk_bytes = write_chunk_bytes(p);
    int rc = keep_find_deps(p, reterr);
    if (rc < 0)
        return rc;
    p->first = w->cursor_bytes / chunk_bytes;
    p->last = keep_last(p);
    p->lacks = false;
    if (p->dep_count > 0)
        p->last = u64_min(p->last, p->first + WRITE_SCAN_CHUNKS - 1);
    for (uint64_t c = p->first; p->dep_count > 0 && c <= p->last; c++) {
        if (p->lacks && c - p->want_first >= keep_window(p)) {
            p->last = c - 1;
            break;
        }
        if (!keep_is_lacked(p, c))
            continue;
        p->want_first = p->lacks ? p->want_first : c;
        p->want_last = c;
        p->lacks = true;
    }
    p->begin_bytes = w->cursor_bytes;
    p->end_bytes = u64_min(w->offset_bytes + w->len_bytes, (p->last + 1) * chunk_bytes);
    return 0;
}

/* -- what became of the puts ------------------------------------------------------------ */

static void keep_again(struct write_part *p)
{
    write_give_buf(p);
    write_plan(p);
}

static void keep_invalidated(void *user, int code, const struct err *err)
{
    struct write_part *p = user;
    if (code == 0) {
        volume_notice(p->volume, p->culprit, "full, made invalid by its policy", NULL);
        snapshot_count_space(p->culprit);
        snapshot_reader_end(p->culprit);
        keep_again(p);
        return;
    }
    volume_notice(p->volume, p->culprit, "full, and could not be made invalid", err);
    snapshot_check_poison(p->culprit);
    snapshot_reader_end(p->culprit);
    write_wait_store(p, err);
}

static void keep_full(struct write_part *p)
{
    struct snapshot *s = p->culprit;
    const struct record_snapshot *rs = snapshot_record(s);
    write_give_buf(p);
    /* a rollback reads what it writes through the snapshots that keep what it overwrites */
    if (p->volume->record.full_policy != FULL_INVALIDATE || p->w->rollback) {
        /* an errno is the file system's; without, it is the device's own end */
        (void)err_set(&p->w->err, SNAP_ENOSPC, "%s; to go on, %sdelete %s@%s", p->why.text,
                      p->why.sys_errno != 0 ? "make room there, or " : "", p->volume->record.name,
                      rs != NULL ? rs->name : "?");
        snapshot_reader_end(s);
        write_fail(p);
        return;
    }
    if (!snapshot_is_open(s) || cow_store_state(s->store) != COW_READY) {
        snapshot_reader_end(s);
        keep_again(p); /* by another write, perhaps */
        return;
    }
    snapshot_kick(s);
    cow_store_invalidate(s->store, keep_invalidated, p);
}

/* What the store goes on with, the next table write, which many wait for, goes to the disk in a
 * call of its own before the data of those whom it has just told: as one of a batch it would end
 * with the batch. */
void write_preserved_run(void *user)
{
    struct origin *o = user;
    struct write_part *p;
    blk_engine_kick(o->volume->set->shard->engine);
    while ((p = STAILQ_FIRST(&o->preserved)) != NULL) {
        STAILQ_REMOVE_HEAD(&o->preserved, batch_link);
        if (p->place != NULL)
            write_clone_start(p);
        else
            write_origin_start(p);
    }
}

/* At the end of the turn, see write_preserved_run(). */
static void keep_preserved(struct write_part *p)
{
    struct origin *o = p->volume->origin;
    p->lacks = false;
    write_give_buf(p);
    STAILQ_INSERT_TAIL(&o->preserved, p, batch_link);
    shard_kick_later(p->volume->set->shard, &o->preserved_kick);
}

static void keep_decided(struct write_part *p)
{
    struct write_put *x;
    if (p->verdict == WRITE_FULL)
        snapshot_reader_begin(p->culprit);
    while ((x = SLIST_FIRST(&p->puts)) != NULL) {
        SLIST_REMOVE_HEAD(&p->puts, link);
        write_put_free(x);
    }
    switch (p->verdict) {
    case WRITE_OK:
        keep_preserved(p);
        break;
    case WRITE_AGAIN:
        write_wait_store(p, &p->why);
        break;
    case WRITE_FULL:
        keep_full(p);
        break;
    case WRITE_FAILED:
        (void)err_copy(&p->w->err, &p->why);
        write_fail(p);
        break;
    }
}

static void keep_put_done(struct cow_put *put, int code, const struct err *err)
{
    struct write_put *x = put->user;
    struct write_part *p = x->part;
    enum write_verdict verdict = code < 0 ? write_put_verdict(x) : WRITE_OK;
    if (verdict > p->verdict) {
        const struct record_snapshot *rs = snapshot_record(x->node);
        p->verdict = verdict;
        p->culprit = x->node;
        p->why = *err;
        (void)err_prefix(&p->why, "preserve for %s@%s", p->volume->record.name,
                         rs != NULL ? rs->name : "?");
    }
    if (--p->puts_pending == 0)
        keep_decided(p);
}

/* -- the puts --------------------------------------------------------------------------- */

static void keep_lost(void *user, int code, const struct err *err)
{
    struct write_part *p = user;
    snapshot_reader_end(p->culprit);
    if (code == 0) {
        keep_again(p);
        return;
    }
    (void)err_copy(&p->w->err, err);
    write_fail(p);
}

/* One whose device is not open, and is not being opened, is given up where the policy says so. */
static bool keep_loses(struct write_part *p, struct snapshot *s)
{
    if (s->store != NULL || p->volume->record.full_policy != FULL_INVALIDATE || p->w->rollback)
        return false;
    p->culprit = s;
    snapshot_reader_begin(s);
    write_give_buf(p);
    snapshot_lose(s, keep_lost, p);
    return true;
}

/* 1: they are as planned and take exceptions; 0: not now, or otherwise: it is seen to. */
static int keep_check_deps(struct write_part *p)
{
    enum write_verdict verdict = WRITE_OK;
    for (unsigned i = 0; i < p->dep_count && verdict == WRITE_OK; i++) {
        p->why = ERR_INIT;
        verdict = write_node_ready(p->deps[i], &p->why);
        if (verdict == WRITE_FAILED && keep_loses(p, p->deps[i]))
            return 0;
    }
    if (verdict == WRITE_OK)
        return 1;
    if (verdict == WRITE_AGAIN) {
        write_wait_store(p, &p->why);
        return 0;
    }
    (void)err_copy(&p->w->err, &p->why);
    write_fail(p);
    return 0;
}

/* Chunks that are not in the buffer are lacked, since who depends is another. */
static bool keep_is_outside(const struct write_part *p)
{
    for (uint64_t c = p->first; c <= p->last; c++)
        if ((c < p->want_first || c > p->want_last) && keep_is_lacked(p, c))
            return true;
    return false;
}

static int keep_make_put(struct write_part *p, struct snapshot *node, struct err *reterr)
{
    uint32_t chunk_bytes = (uint32_t)write_chunk_bytes(p);
    uint32_t most = (uint32_t)(p->want_last - p->want_first + 1);
    struct write_put *x = write_put_new(p, node, most);
    if (x == NULL)
        return err_set(reterr, SNAP_ENOMEM, "a batch of %u chunks", most);
    for (uint64_t c = p->want_first; c <= p->want_last; c++)
        if (!tree_has(node, p->place, c))
            write_put_add(x, c, p->buf->data + (c - p->want_first) * chunk_bytes, chunk_bytes);
    if (x->count == 0) { /* others have put them meanwhile */
        free(x);
        return 0;
    }
    SLIST_INSERT_HEAD(&p->puts, x, link);
    p->puts_pending++;
    return 0;
}

static void keep_submit(struct write_part *p)
{
    struct write_put *x, *next;
    p->puts_pending++; /* one for this loop */
    for (x = SLIST_FIRST(&p->puts); x != NULL; x = next) {
        next = SLIST_NEXT(x, link);
        write_put_submit(x, keep_put_done);
    }
    if (--p->puts_pending == 0)
        keep_decided(p);
}

void write_keep_put(struct write_part *p)
{
    int rc = p->w->err.code;
    if (rc == 0)
        rc = keep_find_deps(p, &p->w->err);
    if (rc == 0)
        rc = volume_check_space(
            p->volume, (p->want_last - p->want_first + 1) * write_chunk_bytes(p), &p->w->err);
    if (rc < 0) {
        write_fail(p);
        return;
    }
    if (keep_check_deps(p) == 0)
        return;
    if (keep_is_outside(p)) {
        keep_again(p);
        return;
    }
    p->verdict = WRITE_OK;
    p->puts_pending = 0;
    for (unsigned i = 0; i < p->dep_count && rc == 0; i++)
        rc = keep_make_put(p, p->deps[i], &p->w->err);
    if (rc == 0) {
        keep_submit(p);
        return;
    }
    struct write_put *x;
    while ((x = SLIST_FIRST(&p->puts)) != NULL) {
        SLIST_REMOVE_HEAD(&p->puts, link);
        free(x);
    }
    write_fail(p);
}

/* -- the old content -------------------------------------------------------------------- */

static void keep_fetched(struct fetch *f, int code)
{
    struct write_part *p = f->user;
    hold_give(&p->hold);
    if (code != SNAP_EPOISONED) { /* another error is told when its turn comes */
        write_batch_read(p);
        return;
    }
    struct write_batch *b = p->batch;
    struct err why = p->w->err;
    p->batch = NULL;
    p->w->err = ERR_INIT;
    write_wait_store(p, &why); /* p may be gone now */
    write_batch_leave(b);
}

static void keep_read(struct write_part *p)
{
    uint64_t chunk_bytes = write_chunk_bytes(p);
    uint64_t len = (p->want_last - p->want_first + 1) * chunk_bytes;
    p->buf = write_take_buf(p, len, keep_read);
    if (p->buf == NULL)
        return;
    p->fetch = (struct fetch){.volume = p->volume,
                              .place = p->place,
                              .offset_bytes = p->want_first * chunk_bytes,
                              .len_bytes = len,
                              .once = true,
                              .data = p->buf->data,
                              .done = keep_fetched,
                              .user = p,
                              .err = &p->w->err};
    write_batch_join(p);
    fetch_start(&p->fetch);
}

static void keep_held(struct hold *h)
{
    keep_read(h->user);
}

void write_keep_start(struct write_part *p)
{
    if (keep_check_deps(p) == 0)
        return;
    if (p->place == NULL) { /* locked by this very write */
        keep_read(p);
        return;
    }
    p->hold = (struct hold){.volume = p->volume,
                            .place = p->place,
                            .first = p->want_first,
                            .last = p->want_last,
                            .granted = keep_held,
                            .user = p};
    if (hold_take(&p->hold, &p->w->err) < 0)
        write_fail(p);
}
