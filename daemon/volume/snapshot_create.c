/* SPDX-License-Identifier: Apache-2.0 */
/* Making a snapshot: a new head for the chain.
 *
 *   queued ──> device ──> store ──┬─> quiesce ──> drain ─┬─> commit ──┬──> head
 *     │          │          │     └─> gate (hosted) ─────┘     │      └──> held ──> head
 *     │          │          │          │ \                     │       (group) └──> undone
 *     └──────────┴──────────┴──────────┘  ended or gone        └─(failed)─> undone
 *        refused: nothing has changed     writer: fenced
 *
 * The COW device exists and is open before the writer is stopped (snapshot_create_device.c), so
 * that it stands still for one record commit only. From `drain` on the lease is sealed: a writer
 * that comes back waits for the outcome. The writes of a hosted volume are stopped by its gate,
 * which flushes the origin as well. One that is made with others stays so until it is released
 * (snapshot_group.c). The record is the commit point; what a crash before it leaves has a note
 * (draft.h) and goes at the next start.
 *
 * One creation at a time a volume. It must not know of connections: the writer is told
 * through the volume's holder. Thread: the shard's.
 */
#include "daemon/volume/snapshot_create_priv.h"

#include "common/base/bytes.h"
#include "daemon/volume/draft.h"
#include "daemon/volume/guard.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/put.h"
#include "daemon/volume/sums.h"
#include "daemon/volume/tree.h"

#include <stdlib.h>

enum { CREATE_WAIT_TTLS = 2, BUSY_RETRY_MS = 20, BUSY_WAIT_MS = 2000 };

static void create_begin(struct snapshot_create *c);

/* -- the end --------------------------------------------------------------------- */

static void create_release_waiters(struct volume *v)
{
    struct volume_waiters waiters = STAILQ_HEAD_INITIALIZER(waiters);
    STAILQ_CONCAT(&waiters, &v->create_waiters);
    struct volume_waiter *w;
    while ((w = STAILQ_FIRST(&waiters)) != NULL) {
        STAILQ_REMOVE_HEAD(&waiters, link);
        w->fn(w, 0, NULL);
    }
}

/* The writer that it has stopped goes on, or hears that it is fenced; so do writes at the gate. */
static void create_let_writers_go(struct snapshot_create *c)
{
    struct volume *v = c->volume;
    struct volume_holder writer = v->holder;
    if (c->phase >= CREATE_QUIESCE && v->origin == NULL)
        lease_quiesce_end(&v->lease, c->fence_epoch);
    if (c->fence_epoch != 0 && writer.session != 0) {
        v->holder.session = 0;
        writer.tell(v, &writer, VOLUME_EVENT_LEASE_LOST);
    }
    if (c->gated)
        volume_gate_open(v);
}

static void create_free(struct snapshot_create *c)
{
    if (c->timer_ready)
        loop_timer_done(&c->timer);
    buf_give(c->probe);
    free(c);
}

/* Writers go on before it is answered: who hears of a snapshot finds its volume open. */
void create_end(struct snapshot_create *c, int code)
{
    struct volume *v = c->volume;
    STAILQ_REMOVE(&v->creates, c, snapshot_create, link);
    /* one that ends in the queue leaves those who wait for the one before it where they are */
    bool was_last = c->phase != CREATE_QUEUED || STAILQ_EMPTY(&v->creates);
    create_let_writers_go(c);
    c->done(c->user, code, &c->err);
    create_free(c);
    if (was_last)
        create_release_waiters(v);
    volume_put_resume(v);
    snapshot_create_go(v);
    volume_unref(v);
}

bool create_wait_a_little(struct snapshot_create *c)
{
    const uint64_t now = volume_now_ns(c->volume);
    if (c->give_up_ns == 0)
        c->give_up_ns = now + (uint64_t)BUSY_WAIT_MS * 1000000;
    if (now >= c->give_up_ns)
        return false;
    loop_timer_set(&c->timer, BUSY_RETRY_MS);
    return true;
}

/* A file that the same attempt has left behind under a daemon that was killed is held by the kernel
 * for a little longer, see common/io/file.c. */
static bool create_tries_again(struct snapshot_create *c)
{
    if (c->phase != CREATE_STORE || !c->own_file || c->err.code != SNAP_EBUSY ||
        c->volume->leaving || !create_wait_a_little(c))
        return false;
    err_clear(&c->err);
    c->created = c->summed = c->noted = c->undoing = false;
    return true;
}

/* At once: the next try with the same uuid makes them anew. The note goes last. */
static void create_remove_files(struct snapshot_create *c)
{
    const struct volume_storage *storage = c->volume->set->env->storage;
    bool gone = !c->created || storage->remove(storage->user, c->path, NULL) == 0;
    if (c->summed)
        gone = sums_remove(c->volume, &c->record.id) == 0 && gone;
    if (c->noted && gone) /* else the next start removes what stayed */
        draft_end(c->volume, &c->record.id);
}

static void create_undone(void *user, int code, const struct err *err)
{
    (void)code;
    (void)err;
    struct snapshot_create *c = user;
    snapshot_free(c->node);
    c->node = NULL;
    create_remove_files(c);
    if (!create_tries_again(c))
        create_end(c, c->err.code);
}

void create_undo(struct snapshot_create *c)
{
    c->undoing = true;
    if (c->timer_ready)
        loop_timer_stop(&c->timer);
    if (c->node == NULL) {
        create_end(c, c->err.code);
        return;
    }
    snapshot_close(c->node, true, create_undone, c);
}

/* -- the commit -------------------------------------------------------------------- */

static int create_change(struct volume_commit *commit, struct volume_record *next,
                         struct err *reterr)
{
    struct snapshot_create *c = commit->user;
    if (c->volume->leaving)
        return volume_refuse_leaving(c->volume, reterr);
    if (c->dead) {
        next->lease_epoch++;
        next->lease_holder[0] = '\0';
    }
    c->record.unverified = guard_is_away(c->volume);
    int rc = create_check_free(next, reterr); /* again: one may have begun meanwhile */
    return rc < 0 ? rc : volume_record_add_snapshot(next, &c->record, reterr);
}

static void create_committed(struct volume_commit *commit, int code, const struct err *err)
{
    struct snapshot_create *c = commit->user;
    struct volume *v = c->volume;
    if (code < 0) {
        (void)err_copy(&c->err, err);
        create_undo(c);
        return;
    }
    draft_end(v, &c->record.id);
    c->fence_epoch = c->dead ? v->record.lease_epoch : 0;
    tree_add(c->node, NULL);
    snapshot_count_space(c->node);
    v->chunk_sectors = c->record.chunk_size_sectors;
    c->node = NULL;
    if (uuid_is_zero(&c->record.group) || c->held == NULL) {
        create_end(c, 0);
        return;
    }
    c->phase = CREATE_HELD;
    c->held(c->user, 0, NULL);
}

static void create_drained(void *user, int code, const struct err *err)
{
    (void)code; /* a head that cannot drain is invalid or poisoned, which is its own affair */
    (void)err;
    struct snapshot_create *c = user;
    c->commit =
        (struct volume_commit){.change = create_change, .done = create_committed, .user = c};
    volume_commit_start(c->volume, &c->commit);
}

/* -- the writer ---------------------------------------------------------------------- */

static void create_check_quiet(struct snapshot_create *c)
{
    struct volume *v = c->volume;
    uint64_t now = volume_now_ns(v);
    enum lease_quiet quiet = lease_quiet(&v->lease, now);
    if (v->lease_commits > 0)
        quiet = LEASE_QUIET_NO; /* its end polls again */
    if (quiet == LEASE_QUIET_NO && now < c->deadline_ns) {
        uint64_t until = v->lease_commits > 0 ? c->deadline_ns
                                              : u64_min(c->deadline_ns, lease_end_ns(&v->lease));
        loop_timer_set(&c->timer, (until > now ? until - now : 0) / 1000000 + 1);
        return;
    }
    loop_timer_stop(&c->timer);
    if (quiet == LEASE_QUIET_NO) {
        (void)err_set(&c->err, SNAP_ETIMEDOUT, "the writer %s of volume %s did not stand still",
                      v->lease.holder, v->record.name);
        create_undo(c);
        return;
    }
    c->dead = quiet == LEASE_QUIET_DEAD;
    c->phase = CREATE_COMMIT;
    lease_seal(&v->lease, quiet);
    struct snapshot *head = volume_head(v);
    if (head == NULL || !snapshot_is_open(head)) {
        create_drained(c, 0, NULL);
        return;
    }
    snapshot_kick(head);
    cow_store_drain(head->store, create_drained, c);
}

/* No write is under way, and what was answered is on the origin's disk. */
static void create_gated(struct volume_waiter *w, int code, const struct err *err)
{
    struct snapshot_create *c = w->user;
    if (code < 0)
        (void)err_copy(&c->err, err);
    else if (c->volume->leaving)
        (void)volume_refuse_leaving(c->volume, &c->err);
    if (c->err.code < 0)
        create_undo(c);
    else
        create_drained(c, 0, NULL);
}

static void create_timer(void *user)
{
    struct snapshot_create *c = user;
    if (c->phase == CREATE_STORE)
        create_device(c);
    else if (c->phase == CREATE_COMMIT) /* nothing else is timed then */
        create_forget(c);
    else
        create_check_quiet(c);
}

void create_quiesce(struct snapshot_create *c)
{
    struct volume *v = c->volume;
    if (v->leaving) {
        (void)volume_refuse_leaving(v, &c->err);
        create_undo(c);
        return;
    }
    if (v->origin != NULL) {
        c->phase = CREATE_COMMIT;
        c->gated = true;
        c->gate = (struct volume_waiter){.fn = create_gated, .user = c};
        volume_gate_close(v, &c->gate);
        return;
    }
    c->phase = CREATE_QUIESCE;
    c->deadline_ns = volume_now_ns(v) + CREATE_WAIT_TTLS * v->lease.ttl_ns;
    lease_quiesce_begin(&v->lease);
    if (v->lease.phase == LEASE_HELD && v->holder.session != 0)
        v->holder.tell(v, &v->holder, VOLUME_EVENT_QUIESCE);
    create_check_quiet(c);
}

void snapshot_create_poll(struct volume *v)
{
    struct snapshot_create *c = STAILQ_FIRST(&v->creates);
    if (c != NULL && c->phase == CREATE_QUIESCE && !c->undoing)
        create_check_quiet(c);
}

void snapshot_create_wait(struct volume *v, struct volume_waiter *w)
{
    if (!v->lease.quiesce)
        w->fn(w, 0, NULL);
    else
        STAILQ_INSERT_TAIL(&v->create_waiters, w, link);
}

void snapshot_create_cancel(struct volume *v)
{
    struct snapshot_create *next;
    for (struct snapshot_create *c = STAILQ_FIRST(&v->creates); c != NULL; c = next) {
        next = STAILQ_NEXT(c, link);
        if (c->undoing || (c->phase != CREATE_QUEUED && c->phase != CREATE_QUIESCE))
            continue;
        (void)volume_refuse_leaving(v, &c->err);
        if (c->phase == CREATE_QUEUED)
            create_end(c, c->err.code);
        else
            create_undo(c);
    }
}

/* -- the begin ----------------------------------------------------------------------------- */

static void create_begin(struct snapshot_create *c)
{
    struct volume *v = c->volume;
    if (v->clones_making > 0) /* one counter numbers both: snapshot_create_go() */
        return;
    int rc = create_check(c, &c->err);
    if (rc != 0) {
        create_end(c, rc < 0 ? rc : 0);
        return;
    }
    if (c->spec_chunk_sectors == 0 && (!c->take_over || v->origin != NULL))
        c->record.chunk_size_sectors =
            v->chunk_sectors != 0 ? v->chunk_sectors : v->set->env->chunk_size_sectors;
    if (c->own_file)
        c->record.limit_bytes =
            c->spec_limit_bytes != 0 ? c->spec_limit_bytes : v->set->env->cow_limit_bytes;
    c->record.seq = v->record.next_seq;
    c->phase = CREATE_STORE;
    c->timer_ready = loop_timer_init(v->set->shard->loop, &c->timer, create_timer, c, &c->err) == 0;
    if (c->timer_ready)
        create_device(c);
    else
        create_undo(c);
}

void snapshot_create_go(struct volume *v)
{
    struct snapshot_create *c = STAILQ_FIRST(&v->creates);
    if (v->clones_making == 0 && c != NULL && c->phase == CREATE_QUEUED)
        create_begin(c);
}

void snapshot_create_start(struct volume *v, const struct snapshot_spec *spec, volume_done_fn *done,
                           void *user)
{
    struct err err = ERR_INIT;
    struct snapshot_create *c = calloc(1, sizeof *c);
    int rc = c == NULL ? err_set(&err, SNAP_ENOMEM, "snapshot") : create_fill(c, spec, &err);
    if (rc < 0) {
        free(c);
        done(user, rc, &err);
        return;
    }
    c->volume = v;
    c->done = done;
    c->user = user;
    volume_ref(v);
    STAILQ_INSERT_TAIL(&v->creates, c, link);
    if (STAILQ_FIRST(&v->creates) == c)
        create_begin(c);
}
