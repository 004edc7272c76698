/* SPDX-License-Identifier: Apache-2.0 */
/* What the registry is told of a record: all of it, or what a commit changed.
 *
 * Both records list their snapshots by seq, so one walk over the two finds what is new, gone and
 * different. The registry need not have followed: where it says that it lags behind, or what it
 * is told does not fit, it is told everything.
 *
 * Thread: control. The old record is the shard's, which changes nothing in it until the commit
 * that it is compared for has ended (its look-up tables apart, which are not read here).
 */
#include "daemon/volume/volume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fill_volume(struct registry_volume *row, const struct volume_record *record)
{
    char text[UUID_TEXT_BYTES];
    *row = (struct registry_volume){.id = record->id,
                                    .kind = (int)record->kind,
                                    .size_bytes = record->size_bytes,
                                    .created_s = record->created_s};
    (void)snprintf(row->name, sizeof row->name, "%s", record->name);
    (void)snprintf(row->place, sizeof row->place, "volumes/%s", uuid_format(&record->id, text));
}

static struct registry_snapshot snapshot_row(const struct volume_record *record,
                                             const struct record_snapshot *s)
{
    return (struct registry_snapshot){.id = s->id,
                                      .volume = record->id,
                                      .name = s->name,
                                      .seq = s->seq,
                                      .created_s = s->created_s,
                                      .hidden = s->hidden,
                                      .kind = (int)volume_registry_kind(s),
                                      .parent_seq = s->parent_seq,
                                      .cow_path = s->cow_path};
}

enum registry_kind volume_registry_kind(const struct record_snapshot *s)
{
    return s->clone ? REGISTRY_CLONE : s->undo ? REGISTRY_UNDO : REGISTRY_SNAPSHOT;
}

int volume_registry_put(struct registry *r, const struct volume_record *record, struct err *reterr)
{
    struct registry_volume row;
    fill_volume(&row, record);
    struct registry_snapshot *rows = calloc((size_t)record->snapshot_count + 1, sizeof *rows);
    if (rows == NULL)
        return err_set(reterr, SNAP_ENOMEM, "registry rows of volume %s", record->name);
    for (uint32_t i = 0; i < record->snapshot_count; i++)
        rows[i] = snapshot_row(record, &record->snapshots[i]);
    int rc = registry_put_volume(r, &row, rows, record->snapshot_count, reterr);
    free(rows);
    return rc;
}

/* -- what differs --------------------------------------------------------------- */

struct difference {
    struct registry_snapshot *put;
    struct uuid *gone;
    uint32_t put_count, put_room, gone_count, gone_room;
};

/* Room for one more of size bytes at *items. */
static bool reserve(void **items, uint32_t count, uint32_t *room, size_t size)
{
    if (count < *room)
        return true;
    uint32_t more = *room == 0 ? 8 : *room * 2;
    void *grown = realloc(*items, more * size);
    if (grown == NULL)
        return false;
    *items = grown;
    *room = more;
    return true;
}

static bool add_put(struct difference *d, const struct volume_record *record,
                    const struct record_snapshot *s)
{
    void *items = d->put;
    bool ok = reserve(&items, d->put_count, &d->put_room, sizeof *d->put);
    d->put = items;
    if (ok)
        d->put[d->put_count++] = snapshot_row(record, s);
    return ok;
}

static bool add_gone(struct difference *d, const struct record_snapshot *s)
{
    void *items = d->gone;
    bool ok = reserve(&items, d->gone_count, &d->gone_room, sizeof *d->gone);
    d->gone = items;
    if (ok)
        d->gone[d->gone_count++] = s->id;
    return ok;
}

static bool is_same(const struct record_snapshot *a, const struct record_snapshot *b)
{
    return a->hidden == b->hidden && a->clone == b->clone && a->undo == b->undo &&
           a->parent_seq == b->parent_seq && a->created_s == b->created_s &&
           strcmp(a->name, b->name) == 0 && strcmp(a->cow_path, b->cow_path) == 0;
}

/* False: no memory. */
static bool find_difference(struct difference *d, const struct volume_record *old,
                            const struct volume_record *record)
{
    uint32_t i = 0, k = 0;
    bool ok = true;
    while (ok && (i < old->snapshot_count || k < record->snapshot_count)) {
        const struct record_snapshot *was = i < old->snapshot_count ? &old->snapshots[i] : NULL;
        const struct record_snapshot *is =
            k < record->snapshot_count ? &record->snapshots[k] : NULL;
        if (is == NULL || (was != NULL && was->seq < is->seq)) {
            ok = add_gone(d, was);
            i++;
        } else if (was == NULL || is->seq < was->seq) {
            ok = add_put(d, record, is);
            k++;
        } else {
            if (!uuid_equal(&was->id, &is->id))
                ok = add_gone(d, was) && add_put(d, record, is);
            else if (!is_same(was, is))
                ok = add_put(d, record, is);
            i++;
            k++;
        }
    }
    return ok;
}

int volume_registry_update(struct registry *r, const struct volume_record *old,
                           const struct volume_record *record, struct err *reterr)
{
    struct difference d = {0};
    struct registry_volume row;
    fill_volume(&row, record);
    int rc = SNAP_ENOMEM;
    if (find_difference(&d, old, record))
        rc = registry_update_volume(r, &row, d.put, d.put_count, d.gone, d.gone_count, NULL);
    free(d.put);
    free(d.gone);
    return rc == 0 ? 0 : volume_registry_put(r, record, reterr);
}
