/* SPDX-License-Identifier: Apache-2.0 */
/* Leases of a volume: lease.c decides, the record makes it durable, the holder is told.
 *
 *   acquire ──> keep ─────────────────────────────> answer (and quiesce again, if wanted)
 *          ├──> new ──> commit epoch + 1 ──> grant ──> answer; the fenced one is told
 *          └──> wait for the creation under way, then ask again
 *
 * The epoch is durable before anybody hears of it, so no two writers ever had the same. So is the
 * time that the lease runs: its holder goes by what it was told, also when the daemon is started
 * again with another configuration.
 * Thread: the shard's.
 */
#include "daemon/volume/change.h"

#include "common/base/check.h"
#include "daemon/volume/guard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lease_acquire {
    struct volume *volume;
    struct lease_request ask;
    char identity[LIMIT_NAME_BYTES + 1];
    struct volume_holder holder;
    uint8_t fingerprint[FINGERPRINT_BYTES_MAX];
    uint32_t fingerprint_bytes;
    struct guard_word guard;
    bool new_lease; /* else the commit records a new fingerprint, or what the guard says, only */
    struct volume_waiter waiter;
    struct volume_commit commit;
    volume_done_fn *done;
    void *user;
};

static void acquire_ask(struct lease_acquire *a);

uint64_t volume_lease_ttl_ns(const struct volume *v)
{
    const uint32_t ms =
        v->record.lease_ttl_ms != 0 ? v->record.lease_ttl_ms : v->set->env->lease_ttl_ms;
    return (uint64_t)ms * 1000000;
}

static void acquire_end(struct lease_acquire *a, int code, const struct err *err)
{
    struct volume *v = a->volume;
    a->done(a->user, code, err);
    free(a);
    snapshot_create_poll(v);
    volume_unref(v);
}

static void acquire_grant(struct lease_acquire *a)
{
    struct volume *v = a->volume;
    struct volume_holder old = v->holder;
    uint64_t epoch_before = v->lease.epoch;
    if (a->new_lease)
        v->lease.ttl_ns = volume_lease_ttl_ns(v);
    lease_grant(&v->lease, v->record.lease_epoch, a->identity, &a->ask.instance, a->holder.session,
                volume_now_ns(v));
    v->holder = a->holder;
    v->holder.epoch = v->lease.epoch;
    if (old.session != 0 && old.session != a->holder.session && epoch_before != v->lease.epoch)
        old.tell(v, &old, VOLUME_EVENT_LEASE_LOST);
    a->done(a->user, 0, NULL);
    if (v->lease.quiesce && !v->lease.sealed && v->holder.session != 0)
        v->holder.tell(v, &v->holder, VOLUME_EVENT_QUIESCE);
    free(a);
    snapshot_create_poll(v);
    volume_unref(v);
}

static int acquire_change(struct volume_commit *commit, struct volume_record *next,
                          struct err *reterr)
{
    struct lease_acquire *a = commit->user;
    struct volume *v = a->volume;
    if (v->leaving)
        return volume_refuse_leaving(v, reterr);
    /* asked again: another commit may have come before this one */
    int rc = lease_ask(&v->lease, &a->ask, volume_now_ns(v), reterr);
    if (rc < 0)
        return rc;
    CHECK(rc != LEASE_WAIT); /* no head is recorded while a lease is being given */
    if (a->new_lease) {
        lease_fence(&v->lease, true);
        next->lease_epoch = v->record.lease_epoch + 1;
        (void)snprintf(next->lease_holder, sizeof next->lease_holder, "%s", a->identity);
        next->lease_instance = a->ask.instance;
        next->lease_ttl_ms = v->set->env->lease_ttl_ms;
    }
    guard_hear(next, &a->guard);
    if (a->fingerprint_bytes > 0) {
        memcpy(next->fingerprint, a->fingerprint, a->fingerprint_bytes);
        next->fingerprint_bytes = a->fingerprint_bytes;
    }
    return 0;
}

static void acquire_waited(struct volume_waiter *w, int code, const struct err *err)
{
    (void)code;
    (void)err;
    acquire_ask(w->user);
}

static void acquire_wait(struct lease_acquire *a)
{
    a->waiter = (struct volume_waiter){.fn = acquire_waited, .user = a};
    snapshot_create_wait(a->volume, &a->waiter);
}

static void acquire_committed(struct volume_commit *commit, int code, const struct err *err)
{
    struct lease_acquire *a = commit->user;
    a->volume->lease_commits--;
    if (code < 0)
        lease_fence(&a->volume->lease, false);
    if (code < 0)
        acquire_end(a, code, err);
    else
        acquire_grant(a);
}

static void acquire_ask(struct lease_acquire *a)
{
    struct volume *v = a->volume;
    struct err err = ERR_INIT;
    int rc = v->leaving ? volume_refuse_leaving(v, &err)
                        : lease_ask(&v->lease, &a->ask, volume_now_ns(v), &err);
    if (rc < 0) {
        acquire_end(a, rc, &err);
        return;
    }
    if (rc == LEASE_WAIT) {
        acquire_wait(a);
        return;
    }
    a->new_lease = rc == LEASE_NEW;
    bool same_origin = a->fingerprint_bytes == 0 ||
                       (a->fingerprint_bytes == v->record.fingerprint_bytes &&
                        memcmp(a->fingerprint, v->record.fingerprint, a->fingerprint_bytes) == 0);
    if (!a->new_lease && same_origin && !guard_says_new(&v->record, &a->guard)) {
        acquire_grant(a);
        return;
    }
    a->commit =
        (struct volume_commit){.change = acquire_change, .done = acquire_committed, .user = a};
    v->lease_commits++;
    volume_commit_start(v, &a->commit);
}

static int acquire_check(const struct volume *v, const struct volume_lease_request *r,
                         struct err *reterr)
{
    const struct volume_record *rec = &v->record;
    if (rec->kind == VOLUME_HOSTED)
        return err_set(reterr, SNAP_ENOTSUP,
                       "the daemon holds the origin of volume %s: it is written without a lease",
                       rec->name);
    if (uuid_is_zero(&r->ask.instance))
        return err_set(reterr, SNAP_EINVAL, "a writer needs an instance");
    if (r->fingerprint_bytes > FINGERPRINT_BYTES_MAX)
        return err_set(reterr, SNAP_EINVAL, "an origin's fingerprint has at most %d bytes",
                       FINGERPRINT_BYTES_MAX);
    if (r->origin_size_bytes != rec->size_bytes)
        return err_set(reterr, SNAP_EMISMATCH, "the origin has %llu bytes, volume %s has %llu",
                       (unsigned long long)r->origin_size_bytes, rec->name,
                       (unsigned long long)rec->size_bytes);
    if (rec->fingerprint_bytes > 0 && r->fingerprint_bytes > 0 && !r->new_origin &&
        (r->fingerprint_bytes != rec->fingerprint_bytes ||
         memcmp(r->fingerprint, rec->fingerprint, rec->fingerprint_bytes) != 0))
        return err_set(reterr, SNAP_EMISMATCH, "the origin is not the one of volume %s before",
                       rec->name);
    return 0;
}

void volume_lease_acquire(struct volume *v, const struct volume_lease_request *r,
                          volume_done_fn *done, void *user)
{
    struct err err = ERR_INIT;
    int rc = acquire_check(v, r, &err);
    struct lease_acquire *a = rc < 0 ? NULL : calloc(1, sizeof *a);
    if (a == NULL) {
        if (rc == 0)
            rc = err_set(&err, SNAP_ENOMEM, "lease");
        done(user, rc, &err);
        return;
    }
    *a = (struct lease_acquire){.volume = v,
                                .ask = r->ask,
                                .holder = r->holder,
                                .fingerprint_bytes = r->fingerprint_bytes,
                                .guard = {.instance = r->ask.instance,
                                          .goes_on = r->goes_on,
                                          .broken = r->broken,
                                          .late = r->late,
                                          .late_after_seq = r->late_after_seq},
                                .done = done,
                                .user = user};
    (void)snprintf(a->identity, sizeof a->identity, "%s", r->ask.identity);
    a->ask.identity = a->identity;
    if (r->fingerprint_bytes > 0)
        memcpy(a->fingerprint, r->fingerprint, r->fingerprint_bytes);
    volume_ref(v);
    acquire_ask(a);
}

/* -- release -------------------------------------------------------------------------- */

struct lease_release {
    struct volume *volume;
    uint64_t epoch;
    struct volume_commit commit;
    volume_done_fn *done;
    void *user;
};

static int release_change(struct volume_commit *commit, struct volume_record *next,
                          struct err *reterr)
{
    struct lease_release *r = commit->user;
    if (next->lease_epoch != r->epoch)
        return err_set(reterr, SNAP_ESTALE, "the lease is another's");
    next->lease_holder[0] = '\0';
    guard_leave(next);
    return 0;
}

static void release_committed(struct volume_commit *commit, int code, const struct err *err)
{
    struct lease_release *r = commit->user;
    struct volume *v = r->volume;
    if (code == 0 && v->lease.epoch == r->epoch) {
        lease_free(&v->lease);
        v->holder.session = 0;
    }
    r->done(r->user, code, err);
    snapshot_create_poll(v);
    volume_unref(v);
    free(r);
}

void volume_lease_release(struct volume *v, const char *identity, uint64_t epoch,
                          volume_done_fn *done, void *user)
{
    struct err err = ERR_INIT;
    /* released before: the same again */
    if (v->lease.phase == LEASE_FREE && v->lease.epoch == epoch) {
        done(user, 0, &err);
        return;
    }
    int rc = lease_check(&v->lease, identity, epoch, volume_now_ns(v), &err);
    struct lease_release *r = rc < 0 ? NULL : calloc(1, sizeof *r);
    if (r == NULL) {
        if (rc == 0)
            rc = err_set(&err, SNAP_ENOMEM, "lease");
        done(user, rc, &err);
        return;
    }
    *r = (struct lease_release){.volume = v, .epoch = epoch, .done = done, .user = user};
    r->commit =
        (struct volume_commit){.change = release_change, .done = release_committed, .user = r};
    volume_ref(v);
    volume_commit_start(v, &r->commit);
}

/* -- standing still --------------------------------------------------------------------- */

struct head_ready {
    struct volume *volume;
    struct volume_waiter waiter;
    volume_done_fn *done;
    void *user;
};

static void head_ready_end(struct volume_waiter *w, int code, const struct err *err)
{
    struct head_ready *h = w->user;
    struct volume *v = h->volume;
    h->done(h->user, code, err);
    free(h);
    volume_unref(v);
}

void volume_head_ready(struct volume *v, const char *identity, uint64_t epoch, uint64_t session,
                       volume_done_fn *done, void *user)
{
    struct err err = ERR_INIT;
    int rc = lease_check(&v->lease, identity, epoch, volume_now_ns(v), &err);
    if (rc < 0 || !v->lease.quiesce) {
        done(user, rc, &err);
        return;
    }
    struct head_ready *h = calloc(1, sizeof *h);
    if (h == NULL) {
        done(user, err_set(&err, SNAP_ENOMEM, "lease"), &err);
        return;
    }
    *h = (struct head_ready){.volume = v, .done = done, .user = user};
    h->waiter = (struct volume_waiter){.fn = head_ready_end, .user = h};
    volume_ref(v);
    snapshot_create_wait(v, &h->waiter);
    lease_still(&v->lease, session);
    snapshot_create_poll(v);
}

void volume_holder_gone(struct volume *v, uint64_t session)
{
    lease_disconnect(&v->lease, session);
    if (v->holder.session == session)
        v->holder.session = 0;
    snapshot_create_poll(v);
}
