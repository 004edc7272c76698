/* SPDX-License-Identifier: Apache-2.0 */
/* Volume records in memory: copies, changes, look-ups. The text form is
 * record_text.c's.
 *
 * Snapshots stand oldest first; seq is given once and never again, so that an
 * exception's place in the chain survives every deletion around it.
 */
#include "daemon/volume/record.h"

#include "common/base/check.h"

#include <stdlib.h>
#include <string.h>

void volume_record_init(struct volume_record *r)
{
    *r = (struct volume_record){.next_seq = 1};
}

static void labels_done(struct record_label *labels, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        free(labels[i].key);
        free(labels[i].value);
    }
    free(labels);
}

void volume_record_done(struct volume_record *r)
{
    labels_done(r->labels, r->label_count);
    free(r->snapshots);
    volume_record_init(r);
}

static int labels_copy(struct volume_record *dst, const struct volume_record *src)
{
    dst->labels = NULL;
    dst->label_count = 0;
    if (src->label_count == 0)
        return 0;
    dst->labels = calloc(src->label_count, sizeof *dst->labels);
    if (!dst->labels)
        return SNAP_ENOMEM;
    dst->label_count = src->label_count;
    for (uint32_t i = 0; i < src->label_count; i++) {
        dst->labels[i].key = strdup(src->labels[i].key);
        dst->labels[i].value = strdup(src->labels[i].value);
        if (!dst->labels[i].key || !dst->labels[i].value)
            return SNAP_ENOMEM;
    }
    return 0;
}

int volume_record_copy(struct volume_record *dst, const struct volume_record *src,
                       struct err *reterr)
{
    struct volume_record copy = *src;
    copy.snapshots = NULL;
    int rc = labels_copy(&copy, src);
    if (rc == 0 && src->snapshot_count > 0) {
        copy.snapshots = malloc(src->snapshot_count * sizeof *copy.snapshots);
        if (copy.snapshots)
            memcpy(copy.snapshots, src->snapshots, src->snapshot_count * sizeof *copy.snapshots);
        else
            rc = SNAP_ENOMEM;
    }
    if (rc < 0) {
        volume_record_done(&copy);
        return err_set(reterr, rc, "copy of the record");
    }
    *dst = copy;
    return 0;
}

int volume_record_add_snapshot(struct volume_record *r, const struct record_snapshot *s,
                               struct err *reterr)
{
    CHECK(r->snapshot_count == 0 || s->seq > r->snapshots[r->snapshot_count - 1].seq);
    if (r->snapshot_count >= LIMIT_SNAPSHOTS)
        return err_set(reterr, SNAP_ELIMIT, "volume '%s' has %d snapshots, no more can be had",
                       r->name, LIMIT_SNAPSHOTS);
    if (volume_record_find(r, &s->id))
        return err_set(reterr, SNAP_EEXIST, "a snapshot with this uuid exists");
    if (volume_record_find_name(r, s->name))
        return err_set(reterr, SNAP_EEXIST, "snapshot '%s@%s' exists", r->name, s->name);
    struct record_snapshot *grown =
        realloc(r->snapshots, (r->snapshot_count + 1) * sizeof *r->snapshots);
    if (!grown)
        return err_set(reterr, SNAP_ENOMEM, "record of '%s'", r->name);
    r->snapshots = grown;
    r->snapshots[r->snapshot_count++] = *s;
    if (r->next_seq <= s->seq)
        r->next_seq = s->seq + 1;
    return 0;
}

int volume_record_remove_snapshot(struct volume_record *r, const struct uuid *id,
                                  struct err *reterr)
{
    struct record_snapshot *s = volume_record_find(r, id);
    if (!s)
        return err_set(reterr, SNAP_ENOENT, "volume '%s' has no such snapshot", r->name);
    struct record_snapshot *end = r->snapshots + r->snapshot_count;
    memmove(s, s + 1, (size_t)(end - (s + 1)) * sizeof *s);
    r->snapshot_count--;
    return 0;
}

struct record_snapshot *volume_record_find(struct volume_record *r, const struct uuid *id)
{
    for (uint32_t i = 0; i < r->snapshot_count; i++)
        if (uuid_equal(&r->snapshots[i].id, id))
            return &r->snapshots[i];
    return NULL;
}

struct record_snapshot *volume_record_find_name(struct volume_record *r, const char *name)
{
    for (uint32_t i = 0; i < r->snapshot_count; i++)
        if (!r->snapshots[i].hidden && strcmp(r->snapshots[i].name, name) == 0)
            return &r->snapshots[i];
    return NULL;
}

struct record_snapshot *volume_record_head(struct volume_record *r)
{
    for (uint32_t i = r->snapshot_count; i-- > 0;)
        if (!r->snapshots[i].hidden)
            return &r->snapshots[i];
    return NULL;
}

void volume_record_bury(struct volume_record *r, const struct uuid *id, const struct uuid *key)
{
    if (r->tombstone_count == RECORD_TOMBSTONES) {
        memmove(r->tombstones, r->tombstones + 1, (RECORD_TOMBSTONES - 1) * sizeof *r->tombstones);
        r->tombstone_count--;
    }
    r->tombstones[r->tombstone_count++] = (struct record_tombstone){.id = *id, .key = *key};
}

bool volume_record_buried(const struct volume_record *r, const struct uuid *id,
                          const struct uuid *key)
{
    for (uint32_t i = 0; i < r->tombstone_count; i++)
        if (uuid_equal(&r->tombstones[i].id, id) && uuid_equal(&r->tombstones[i].key, key))
            return true;
    return false;
}
