/* SPDX-License-Identifier: Apache-2.0 */
/* A write from its admission to its end.
 *
 *   start ──> held ──(gate opens)──> locked ──> part ──> preserve ──> data ──> next part … ──>
 *     └──────────(open)───────────────^           ^         │           │      flush ──> done
 *                                                 └─ wait <─┴───────────┘
 *                                                    (buffer, store)
 *
 * A part is a stretch of chunks small enough for its old content to stand in one buffer, so
 * zeroing gigabytes takes little memory and lets others have their turn. Parts of one write go
 * one after another, writes go beside each other where their chunks do not overlap.
 *
 * Who waits for a buffer keeps his locks; who waits for a store that is being opened again gives
 * them back, since readers that wait for them keep that store from being closed.
 *
 * It must not know how content is preserved or where it is written to. Thread: the shard's.
 */
#include "daemon/volume/write_priv.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <stdlib.h>

enum { WAIT_BUFFER_MS = 2, WAIT_STORE_MS = 20, WAIT_STORE_MAX_MS = 30000 };

/* -- the end ---------------------------------------------------------------------------- */

static void write_end(struct volume_write *w, int code)
{
    struct volume *v = w->volume;
    w->done(w, code, code < 0 ? &w->err : NULL);
    volume_unref(v);
}

static struct range_lock *write_range_lock(const struct volume_write *w)
{
    return w->clone != NULL ? w->clone->ranges : &w->volume->origin->writes;
}

static void write_unlock(struct write_part *p)
{
    struct volume_write *w = p->w;
    struct snapshot *clone = w->clone;
    p->locked = false;
    if (w->op != VOLUME_FLUSH)
        range_give(write_range_lock(w), &w->range);
    if (clone != NULL)
        snapshot_reader_end(clone);
}

static struct loss *write_loss(const struct volume_write *w)
{
    return w->clone != NULL ? &w->clone->loss : &w->volume->origin->loss;
}

static void write_leave(struct volume_write *w)
{
    struct write_part *p = w->part;
    struct volume *v = w->volume;
    CHECK(p->buf == NULL);
    if (p->locked && !w->durable && !w->rollback)
        loss_wrote(write_loss(w), &w->client, p->last_loss);
    if (p->locked)
        write_unlock(p);
    if (p->deps != p->few_deps)
        free(p->deps);
    free(p);
    w->part = NULL;
    origin_write_left(v);
    write_end(w, w->err.code);
}

void write_fail(struct write_part *p)
{
    CHECK(p->w->err.code < 0);
    write_give_buf(p);
    write_leave(p->w);
}

/* -- flushing ----------------------------------------------------------------------------- */

/* What it means for all who wrote there. */
static void write_note_flush(struct write_part *p, int result)
{
    struct volume_write *w = p->w;
    if (result == 0)
        loss_flushed(write_loss(w), p->flush_covers);
    else if (p->place != NULL)
        snapshot_flush_failed(p->place, &w->err);
    else
        loss_happened(write_loss(w));
    w->durable = w->durable || result == 0;
}

/* One that succeeds says nothing of those that failed before it: see loss.h. */
static void write_check_losses(struct write_part *p)
{
    struct volume_write *w = p->w;
    const char *name = p->volume->record.name;
    if (w->op == VOLUME_FLUSH && !w->rollback)
        w->loss = loss_tell(write_loss(w), &w->client, w->says_heard ? &w->heard : NULL);
    if (w->err.code < 0)
        return;
    if (w->loss != 0)
        (void)err_set(&w->err, SNAP_EIO,
                      "flush volume %s: an earlier flush failed, and what was written before it "
                      "may be lost",
                      name);
    else if (w->op != VOLUME_FLUSH && p->last_loss != write_loss(w)->last)
        (void)err_set(&w->err, SNAP_EIO,
                      "write to volume %s: a flush failed meanwhile, and what is written may be "
                      "lost",
                      name);
}

static void write_flushed(struct blk_req *req, int result)
{
    struct write_part *p = req->user;
    if (result < 0)
        (void)err_set_errno(&p->w->err, result, req->sys_errno, "flush volume %s",
                            p->volume->record.name);
    write_note_flush(p, result);
    write_check_losses(p);
    write_leave(p->w);
}

static void write_flush(struct write_part *p)
{
    struct blk_dev *dev = p->place != NULL ? p->place->dev : p->volume->origin->dev;
    if (dev == NULL) {
        (void)err_set(&p->w->err, SNAP_EPOISONED, "flush volume %s: its device is not open",
                      p->volume->record.name);
        write_leave(p->w);
        return;
    }
    p->flush_covers = write_loss(p->w)->writes;
    p->req = (struct blk_req){.op = BLK_FLUSH, .done = write_flushed, .user = p};
    blk_submit(dev, &p->req);
}

/* -- parts -------------------------------------------------------------------------------- */

/* Zeros over a hole of the origin change nothing, so no snapshot needs a copy of what they fall
 * on: who discards a whole thin volume does not fill its snapshot. A hole may not be durable yet:
 * FUA takes the long way. */
static void write_skip_hole(struct write_part *p)
{
    struct volume_write *w = p->w;
    uint64_t end = w->offset_bytes + w->len_bytes;
    if (!write_skips_holes(p))
        return;
    uint64_t data = blk_dev_next_data(p->volume->origin->dev, w->cursor_bytes);
    if (data > w->cursor_bytes)
        w->cursor_bytes = u64_min(data, end);
}

void write_plan(struct write_part *p)
{
    struct volume_write *w = p->w;
    write_skip_hole(p);
    if (w->cursor_bytes == w->offset_bytes + w->len_bytes) {
        if (w->fua && !w->durable)
            write_flush(p);
        else
            write_leave(w);
        return;
    }
    if (p->volume->leaving) {
        (void)volume_refuse_leaving(p->volume, &w->err);
        write_fail(p);
        return;
    }
    CHECK(p->place == NULL || !p->place->hidden); /* its deletion waits for its writes */
    if (w->durable)                               /* nothing is written that a flush could drop */
        p->last_loss = write_loss(w)->last;
    if (write_keep_plan(p, &w->err) < 0)
        write_fail(p);
    else if (p->lacks)
        write_keep_start(p);
    else if (p->place != NULL)
        write_clone_start(p);
    else
        write_origin_start(p);
}

void write_part_done(struct write_part *p)
{
    p->w->cursor_bytes = p->end_bytes;
    p->give_up_ns = 0;
    write_plan(p);
}

/* -- waiting -------------------------------------------------------------------------------- */

static void write_wait(struct write_part *p, uint64_t ms, void (*resume)(struct write_part *p))
{
    struct origin *o = p->volume->origin;
    p->resume = resume;
    TAILQ_INSERT_TAIL(&o->waits, p, wait_link);
    if (!o->timer_runs || ms == WAIT_BUFFER_MS)
        loop_timer_set(&o->timer, ms);
    o->timer_runs = true;
}

void origin_waits_run(void *user)
{
    struct volume *v = user;
    struct origin *o = v->origin;
    struct write_parts waits = TAILQ_HEAD_INITIALIZER(waits);
    struct write_part *p;
    o->timer_runs = false;
    if (TAILQ_EMPTY(&o->waits)) /* nobody holds the volume, which may be closing */
        return;
    o->buffer_waits = 0;
    volume_ref(v);
    TAILQ_CONCAT(&waits, &o->waits, wait_link);
    while ((p = TAILQ_FIRST(&waits)) != NULL) {
        TAILQ_REMOVE(&waits, p, wait_link);
        p->resume(p);
    }
    volume_unref(v);
}

static void write_wait_buffer(struct write_part *p, void (*resume)(struct write_part *p))
{
    p->volume->origin->buffer_waits++;
    write_wait(p, WAIT_BUFFER_MS, resume);
}

void write_give_buf(struct write_part *p)
{
    struct origin *o = p->volume->origin;
    buf_give(p->buf);
    if (p->buf != NULL && o->buffer_waits > 0)
        loop_timer_set(&o->timer, 0);
    p->buf = NULL;
}

struct buf *write_take_buf(struct write_part *p, uint64_t bytes,
                           void (*resume)(struct write_part *p))
{
    struct buf *buf = NULL;
    if (p->volume->origin->buffer_waits == 0) /* nobody is passed by */
        buf = buf_take(p->volume->set->shard->write_pool, (size_t)bytes);
    if (buf == NULL)
        write_wait_buffer(p, resume);
    return buf;
}

static void write_relock(struct write_part *p);

void write_wait_store(struct write_part *p, const struct err *why)
{
    struct volume_write *w = p->w;
    uint64_t now = volume_now_ns(p->volume);
    write_give_buf(p);
    if (why->code == SNAP_EBUSY) /* that ends by itself */
        p->give_up_ns = 0;
    else if (p->give_up_ns == 0)
        p->give_up_ns = now + (uint64_t)WAIT_STORE_MAX_MS * 1000000;
    if ((p->give_up_ns != 0 && now >= p->give_up_ns) || p->volume->leaving) {
        if (p->volume->leaving)
            (void)volume_refuse_leaving(p->volume, &w->err);
        else
            (void)err_copy(&w->err, why);
        write_fail(p);
        return;
    }
    write_unlock(p);
    write_wait(p, WAIT_STORE_MS, write_relock);
}

/* -- admission --------------------------------------------------------------------------------- */

static void write_locked(struct range *r)
{
    struct volume_write *w = r->user;
    write_plan(w->part);
}

static int write_check_clone(struct volume *v, struct volume_write *w, struct err *reterr)
{
    struct snapshot *s;
    int rc = volume_snapshot_staying(v, &w->node, &s, reterr);
    if (rc < 0)
        return rc;
    const struct record_snapshot *rs = snapshot_record(s);
    if (!s->clone)
        return err_set(reterr, SNAP_EPERM,
                       "%s@%s is a snapshot and not a clone: it is never written", v->record.name,
                       rs->name);
    rc = snapshot_check_readable(s, reterr);
    if (rc < 0 && rc != SNAP_EPOISONED) /* that one is waited for */
        return err_prefix(reterr, "%s@%s", v->record.name, rs->name);
    err_clear(reterr);
    w->clone = s;
    return 0;
}

static int write_check_range(const struct volume *v, const struct volume_write *w,
                             struct err *reterr)
{
    static const char *const what[] = {
        [VOLUME_WRITE] = "a write", [VOLUME_ZERO] = "zeroing", [VOLUME_DISCARD] = "a discard"};
    uint64_t size = v->record.size_bytes;
    if (w->op == VOLUME_FLUSH)
        return 0;
    if (w->op != VOLUME_WRITE && w->len_bytes > VOLUME_ZERO_BYTES_MAX)
        return err_set(reterr, SNAP_EINVAL, "%s of %llu bytes: %llu is the most at once",
                       what[w->op], (unsigned long long)w->len_bytes,
                       (unsigned long long)VOLUME_ZERO_BYTES_MAX);
    if (w->len_bytes > 0 && w->offset_bytes <= size && w->len_bytes <= size - w->offset_bytes)
        return 0;
    return err_set(reterr, SNAP_EINVAL, "%s of %llu bytes at %llu of a volume of %llu", what[w->op],
                   (unsigned long long)w->len_bytes, (unsigned long long)w->offset_bytes,
                   (unsigned long long)size);
}

static int write_check(struct volume *v, struct volume_write *w, struct err *reterr)
{
    w->clone = NULL;
    if (v->origin == NULL)
        return err_set(reterr, SNAP_ENOTSUP,
                       "the origin of volume %s is not here: its client writes it, and streams the "
                       "old content",
                       v->record.name);
    if (v->leaving)
        return volume_refuse_leaving(v, reterr);
    int rc = write_check_range(v, w, reterr);
    if (rc < 0)
        return rc;
    if (!uuid_is_zero(&w->node))
        return write_check_clone(v, w, reterr);
    if (v->origin->dev == NULL)
        return err_set(reterr, SNAP_EIO, "the origin of volume %s: %s", v->record.name,
                       v->origin->fault_text);
    if (w->op != VOLUME_FLUSH && !w->rollback && !uuid_is_zero(&v->record.rollback.job))
        return err_set(reterr, SNAP_EBUSY, "volume %s is being rolled back", v->record.name);
    return 0;
}

static void write_lock(struct write_part *p)
{
    struct volume_write *w = p->w;
    uint64_t chunk_bytes = write_chunk_bytes(p);
    p->place = w->clone;
    p->locked = true;
    if (w->clone != NULL)
        snapshot_reader_begin(w->clone);
    if (w->op == VOLUME_FLUSH) {
        write_flush(p);
        return;
    }
    w->range = (struct range){.first = w->cursor_bytes / chunk_bytes,
                              .last = (w->offset_bytes + w->len_bytes - 1) / chunk_bytes,
                              .granted = write_locked,
                              .user = w};
    range_take(write_range_lock(w), &w->range);
}

/* What it writes to may have changed, or be gone. */
static void write_relock(struct write_part *p)
{
    struct volume_write *w = p->w;
    if (write_check(p->volume, w, &w->err) < 0)
        write_fail(p);
    else
        write_lock(p);
}

static void write_begin(struct volume_write *w)
{
    struct volume *v = w->volume;
    int rc = write_check(v, w, &w->err);
    struct write_part *p = rc < 0 ? NULL : malloc(sizeof *p);
    if (p == NULL) {
        if (rc == 0)
            rc = err_set(&w->err, SNAP_ENOMEM, "write");
        write_end(w, rc);
        return;
    }
    *p = (struct write_part){.w = w, .volume = v};
    p->deps = p->few_deps;
    p->dep_cap = ARRAY_LEN(p->few_deps);
    SLIST_INIT(&p->puts);
    w->part = p;
    w->durable = true;
    w->cursor_bytes = w->offset_bytes;
    v->origin->writing++;
    write_lock(p);
}

void volume_write_start(struct volume *v, struct volume_write *w)
{
    w->volume = v;
    w->part = NULL;
    w->loss = 0;
    w->err = ERR_INIT;
    volume_ref(v);
    if (v->origin != NULL && v->origin->gates > 0 && w->op != VOLUME_FLUSH)
        TAILQ_INSERT_TAIL(&v->origin->held, w, link);
    else
        write_begin(w);
}

void volume_write_run_held(struct volume *v)
{
    struct origin *o = v->origin;
    struct volume_write *w;
    volume_ref(v);
    while (o->gates == 0 && (w = TAILQ_FIRST(&o->held)) != NULL) {
        TAILQ_REMOVE(&o->held, w, link);
        write_begin(w);
    }
    volume_unref(v);
}

void volume_write_cancel(struct volume *v)
{
    struct origin *o = v->origin;
    struct volume_write *w;
    while ((w = TAILQ_FIRST(&o->held)) != NULL) {
        TAILQ_REMOVE(&o->held, w, link);
        (void)volume_refuse_leaving(v, &w->err);
        write_end(w, w->err.code);
    }
    origin_waits_run(v);
}
