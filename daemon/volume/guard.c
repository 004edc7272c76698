/* SPDX-License-Identifier: Apache-2.0 */
/* Unverified snapshots: the table of guard.h, applied to records.
 *
 * Of a writer that went on every snapshot of the chain is marked, not only the head: a chunk that
 * nobody kept is missing in all that read through to the origin there. Of a late write all newer
 * than its head are, and no older one reads what it overwrote through one of them. So deleting one
 * needs no care for its mark.
 *
 * Must not know of leases but whose they are. Thread: the shard's.
 */
#include "daemon/volume/guard.h"

#include <stdio.h>
#include <stdlib.h>

/* -- what a record says ----------------------------------------------------------------- */

static bool guard_is(const struct volume_record *r, const struct uuid *instance)
{
    return !uuid_is_zero(&r->guard) && uuid_equal(&r->guard, instance);
}

/* Mark those newer than after_seq. broken: nobody can vouch for them any more. Returns whether
 * anything changed. */
static bool guard_mark_newer(struct volume_record *r, uint32_t after_seq, bool broken, bool dry)
{
    bool changed = false;
    for (uint32_t i = volume_record_count_up_to(r, after_seq); i < r->snapshot_count; i++) {
        struct record_snapshot *s = &r->snapshots[i];
        if (s->unverified && (s->broken || !broken))
            continue;
        changed = true;
        if (dry)
            break;
        s->unverified = true;
        s->broken = s->broken || broken;
    }
    return changed;
}

static bool guard_mark(struct volume_record *r, bool broken, bool dry)
{
    return guard_mark_newer(r, 0, broken, dry);
}

static bool guard_vouch(struct volume_record *r, bool dry)
{
    bool changed = false;
    for (uint32_t i = 0; i < r->snapshot_count; i++) {
        struct record_snapshot *s = &r->snapshots[i];
        if (!s->unverified || s->broken)
            continue;
        changed = true;
        if (dry)
            break;
        s->unverified = false;
    }
    return changed;
}

/* The first table's rows about leases. dry: nothing is changed, only told whether it would be. */
static bool guard_apply_policy(struct volume_record *r, const struct guard_word *word, bool dry)
{
    bool changed = false;
    if (!word->goes_on && !word->broken && !guard_is(r, &word->instance))
        return uuid_is_zero(&r->guard) ? false : guard_mark(r, false, dry);
    if (!uuid_is_zero(&r->guard) && !guard_is(r, &word->instance))
        changed = guard_mark(r, true, dry);
    else
        changed = word->broken ? guard_mark(r, true, dry) : guard_vouch(r, dry);
    struct uuid guard = {0};
    if (word->goes_on)
        guard = word->instance;
    if (!uuid_equal(&r->guard, &guard)) {
        changed = true;
        if (!dry)
            r->guard = guard;
    }
    return changed;
}

static bool guard_apply(struct volume_record *r, const struct guard_word *word, bool dry)
{
    bool changed = guard_apply_policy(r, word, dry);
    if (word->late && guard_mark_newer(r, word->late_after_seq, true, dry))
        changed = true;
    return changed;
}

bool guard_says_new(const struct volume_record *r, const struct guard_word *word)
{
    return guard_apply((struct volume_record *)(uintptr_t)r, word, true);
}

void guard_hear(struct volume_record *next, const struct guard_word *word)
{
    (void)guard_apply(next, word, false);
}

void guard_leave(struct volume_record *next)
{
    if (guard_is(next, &next->lease_instance))
        next->guard = (struct uuid){0};
}

/* -- what follows from it now --------------------------------------------------------------- */

bool guard_is_away(const struct volume *v)
{
    const struct lease *l = &v->lease;
    if (uuid_is_zero(&v->record.guard))
        return false;
    return l->fenced || !l->connected || !uuid_equal(&l->instance, &v->record.guard) ||
           lease_expired(l, volume_now_ns(v));
}

bool guard_doubts(const struct snapshot *s)
{
    const struct record_snapshot *rs = snapshot_record(s);
    return rs != NULL && (rs->unverified || guard_is_away(s->volume));
}

void guard_explain(const struct snapshot *s, char *text, size_t text_bytes)
{
    const struct volume_record *r = &s->volume->record;
    const struct record_snapshot *rs = snapshot_record(s);
    const char *name = rs != NULL ? rs->name : "?";
    if (rs != NULL && rs->broken)
        (void)snprintf(text, text_bytes,
                       "unverified for good: the origin was written, or may have been, while its "
                       "old content could not be kept for it; make a new snapshot, or take this "
                       "one as it is with snapctl remote accept %s@%s",
                       r->name, name);
    else if (guard_is_away(s->volume))
        (void)snprintf(text, text_bytes,
                       "unverified: the guard of volume %s is away and may be writing the origin "
                       "without keeping old content; start it again, or give it up with snapctl "
                       "remote accept --force %s@%s",
                       r->name, r->name, name);
    else
        (void)snprintf(
            text, text_bytes,
            "unverified: it was made, or another wrote, while the guard of volume %s was "
            "away; start the guard again, or take it as it is with snapctl remote "
            "accept %s@%s",
            r->name, r->name, name);
}

/* -- an admin's word ---------------------------------------------------------------------- */

struct guard_accept {
    struct volume *volume;
    struct uuid id;
    bool force;
    struct volume_commit commit;
    volume_done_fn *done;
    void *user;
};

static int accept_change(struct volume_commit *commit, struct volume_record *next,
                         struct err *reterr)
{
    struct guard_accept *a = commit->user;
    struct record_snapshot *s = volume_record_find(next, &a->id);
    if (a->volume->leaving || s == NULL || s->hidden || s->undo)
        return err_set(reterr, SNAP_ENOENT, "no such snapshot in volume %s", next->name);
    if (guard_is_away(a->volume)) {
        if (!a->force)
            return err_set(reterr, SNAP_EBUSY,
                           "the guard of volume %s is away and may be writing: start it again, or "
                           "use --force if it is gone for good",
                           next->name);
        (void)guard_mark(next, true, false);
        next->guard = (struct uuid){0};
    }
    s->unverified = s->broken = false;
    return 0;
}

static void accept_committed(struct volume_commit *commit, int code, const struct err *err)
{
    struct guard_accept *a = commit->user;
    struct volume *v = a->volume;
    a->done(a->user, code, err);
    free(a);
    volume_unref(v);
}

void guard_accept(struct volume *v, const struct uuid *snapshot, bool force, volume_done_fn *done,
                  void *user)
{
    struct err err = ERR_INIT;
    struct guard_accept *a = calloc(1, sizeof *a);
    if (a == NULL) {
        done(user, err_set(&err, SNAP_ENOMEM, "accept"), &err);
        return;
    }
    *a = (struct guard_accept){
        .volume = v, .id = *snapshot, .force = force, .done = done, .user = user};
    a->commit =
        (struct volume_commit){.change = accept_change, .done = accept_committed, .user = a};
    volume_ref(v);
    volume_commit_start(v, &a->commit);
}
