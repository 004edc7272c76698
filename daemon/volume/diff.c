/* SPDX-License-Identifier: Apache-2.0 */
/* What changed between two states of a volume.
 *
 * An exception of seq s says: between the making of s and that of the next newer snapshot the
 * chunk was overwritten for the first time. So between `from` and `to` exactly those chunks were
 * written that have an exception with from <= seq < to, whoever holds it, hidden ones too.
 *
 *   chunk     s1    s2    s3   now        diff s1..s3: a, b    diff s2..now: b, c
 *   a         x     .     .
 *   b         .     x     .
 *   c         .     .     x
 *
 * Of each chunk only the smallest seq from `from` on matters, which is what a reader of `from`
 * sees: one scan over what is visible to it. While the volume is being rolled back "now" is the
 * snapshot it returns to.
 *
 * No I/O, no data. Thread: the shard's.
 */
#include "daemon/volume/diff.h"

#include "common/base/bytes.h"

enum {
    DIFF_RUNS_SCAN_MAX = 65536, /* looked at in one page */
    DIFF_WINDOW_CHUNKS = 4096,  /* searched in one step */
    DIFF_WINDOWS_MAX = 256,
};

static int diff_find(struct volume *v, const struct uuid *id, const struct snapshot **ret,
                     struct err *reterr)
{
    struct snapshot *s;
    int rc = volume_snapshot_visible(v, id, &s, reterr);
    if (rc < 0)
        return rc;
    if (s->clone)
        return err_set(reterr, SNAP_ENOTSUP,
                       "%s@%s is a clone; what changed is known between snapshots only",
                       v->record.name, snapshot_record(s)->name);
    *ret = s;
    return 0;
}

/* The seq whose view is the volume's own, as long as it is rolled back; else a larger one than
 * any. */
static uint32_t diff_seq_now(const struct volume *v)
{
    const struct record_rollback *r = &v->record.rollback;
    if (uuid_is_zero(&r->job))
        return UINT32_MAX;
    return r->cancelled ? r->undo_seq : r->to_seq;
}

static void diff_add(struct volume_diff *d, uint64_t old_chunk, uint64_t count)
{
    if (d->n > 0 && d->old_chunk[d->n - 1] + d->count[d->n - 1] == old_chunk) {
        d->count[d->n - 1] += count;
        return;
    }
    d->old_chunk[d->n] = old_chunk;
    d->count[d->n++] = count;
}

static void diff_stop(struct volume_diff *d, uint64_t next_chunk)
{
    d->more = true;
    d->next_chunk = next_chunk;
}

/* Chunks whose smallest seq from lo on is below hi. */
static void diff_scan(const struct cow_map *map, uint32_t lo, uint32_t hi, struct volume_diff *d)
{
    uint64_t at = d->start_chunk;
    unsigned windows = 0, runs = 0;
    struct cow_run run;
    while (cow_map_next(map, at, 0, &run)) { /* holes are jumped over */
        at = run.old_chunk;
        if (windows++ == DIFF_WINDOWS_MAX) {
            diff_stop(d, at);
            return;
        }
        const uint64_t last = at + DIFF_WINDOW_CHUNKS - 1;
        while (at <= last && cow_map_next_visible(map, at, lo, last, &run)) {
            if (d->n == d->runs_max || runs++ == DIFF_RUNS_SCAN_MAX) {
                diff_stop(d, run.old_chunk);
                return;
            }
            if (run.seq < hi)
                diff_add(d, run.old_chunk, run.count);
            at = run.old_chunk + run.count;
        }
        at = last + 1;
    }
}

int volume_diff(struct volume *v, struct volume_diff *d, struct err *reterr)
{
    const struct snapshot *from, *to = NULL;
    int rc = diff_find(v, &d->from, &from, reterr);
    if (rc == 0 && !uuid_is_zero(&d->to))
        rc = diff_find(v, &d->to, &to, reterr);
    if (rc < 0)
        return rc;
    if (to != NULL && to->seq < from->seq)
        return err_set(reterr, SNAP_EINVAL, "%s@%s is older than %s; name the older one first",
                       v->record.name, snapshot_record(to)->name, snapshot_record(from)->name);
    uint32_t lo = from->seq, hi = to != NULL ? to->seq : diff_seq_now(v);
    const struct snapshot *oldest = from;
    if (hi < lo) { /* being returned to an older one */
        lo = hi;
        hi = from->seq;
        oldest = volume_snapshot_by_seq(v, lo);
    }
    d->n = 0;
    d->more = false;
    d->next_chunk = 0;
    rc = oldest != NULL ? snapshot_check_readable(oldest, reterr) : 0;
    if (rc < 0)
        return err_prefix(reterr, "%s@%s", v->record.name, snapshot_record(oldest)->name);
    if (d->start_chunk < LIMIT_VOLUME_BYTES / SECTOR_BYTES)
        diff_scan(v->map, lo, hi, d);
    return 0;
}
