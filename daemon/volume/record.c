/* SPDX-License-Identifier: Apache-2.0 */
/* Volume records in memory: copies, changes, look-ups. The text form is record_text.c's and
 * record_format.c's, the file record_file.c's.
 *
 * Snapshots stand oldest first; seq is given once and never again, so that an
 * exception's place in the chain survives every deletion around it. Chain nodes and
 * clones share one counter:
 *
 *   seq     1    2       3         5               8
 *           s1   s2      c3        s5 (hidden)     u8 (undo)
 *                        clone of s1: parent_seq 1
 *
 * A clone that reads through another clone is the younger of the two, and stays so: what is
 * folded gives its clones to what it read through itself. So no walk up the tree turns round.
 */
#include "daemon/volume/record_index.h"

#include "common/base/check.h"

#include <stdio.h>
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

static void snapshots_done(struct record_snapshot *snapshots, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        free(snapshots[i].cow_path);
    free(snapshots);
}

void volume_record_done(struct volume_record *r)
{
    labels_done(r->labels, r->label_count);
    snapshots_done(r->snapshots, r->snapshot_count);
    record_index_free(r->index);
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

static int snapshots_copy(struct volume_record *dst, const struct volume_record *src)
{
    dst->snapshots = NULL;
    dst->snapshot_count = dst->snapshot_room = 0;
    if (src->snapshot_count == 0)
        return 0;
    /* a change adds one at most, most times */
    dst->snapshots = malloc(((size_t)src->snapshot_count + 1) * sizeof *dst->snapshots);
    if (!dst->snapshots)
        return SNAP_ENOMEM;
    dst->snapshot_room = src->snapshot_count + 1;
    memcpy(dst->snapshots, src->snapshots, src->snapshot_count * sizeof *dst->snapshots);
    for (uint32_t i = 0; i < src->snapshot_count; i++) {
        dst->snapshots[i].cow_path = strdup(src->snapshots[i].cow_path);
        if (!dst->snapshots[i].cow_path)
            return SNAP_ENOMEM;
        dst->snapshot_count++;
    }
    return 0;
}

int volume_record_copy(struct volume_record *dst, const struct volume_record *src,
                       struct err *reterr)
{
    struct volume_record copy = *src;
    copy.index = NULL;
    int labels = labels_copy(&copy, src), snapshots = snapshots_copy(&copy, src);
    if (labels < 0 || snapshots < 0) {
        volume_record_done(&copy);
        return err_set(reterr, SNAP_ENOMEM, "copy of the record");
    }
    copy.index = record_index_copy(src->index);
    *dst = copy;
    return 0;
}

/* -- changes --------------------------------------------------------------------- */

static bool is_named(const struct record_snapshot *s)
{
    return !s->hidden && !s->undo;
}

static bool may_be_head(const struct record_snapshot *s)
{
    return !s->hidden && !s->undo && !s->clone;
}

static int make_room(struct volume_record *r)
{
    if (r->snapshot_count < r->snapshot_room)
        return 0;
    uint32_t room = r->snapshot_count < 4 ? 4 : r->snapshot_count + r->snapshot_count / 2;
    struct record_snapshot *grown = realloc(r->snapshots, room * sizeof *grown);
    if (!grown)
        return SNAP_ENOMEM;
    r->snapshots = grown;
    r->snapshot_room = room;
    return 0;
}

static char *copy_cow_path(const struct record_snapshot *s)
{
    char text[UUID_TEXT_BYTES], own[UUID_TEXT_BYTES + 8];
    if (s->cow_path)
        return strdup(s->cow_path);
    (void)snprintf(own, sizeof own, "%s.cow", uuid_format(&s->id, text));
    return strdup(own);
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
    if (is_named(s) && volume_record_find_name(r, s->name))
        return err_set(reterr, SNAP_EEXIST, "snapshot '%s@%s' exists", r->name, s->name);
    char *cow_path = copy_cow_path(s);
    if (!cow_path || make_room(r) < 0) {
        free(cow_path);
        return err_set(reterr, SNAP_ENOMEM, "record of '%s'", r->name);
    }
    struct record_snapshot *added = &r->snapshots[r->snapshot_count++];
    *added = *s;
    added->cow_path = cow_path;
    record_index_add(r, added);
    if (may_be_head(added))
        r->head_bound = added->seq;
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
    record_index_remove(r, s);
    free(s->cow_path);
    const struct record_snapshot *end = r->snapshots + r->snapshot_count;
    memmove(s, s + 1, (size_t)(end - (s + 1)) * sizeof *s);
    r->snapshot_count--;
    return 0;
}

int volume_record_undo_snapshot(struct volume_record *r, const struct uuid *id, struct err *reterr)
{
    const struct record_snapshot *s = volume_record_find(r, id);
    uint32_t seq = s != NULL ? s->seq : 0, parent = s != NULL && s->clone ? s->parent_seq : 0;
    for (uint32_t i = r->snapshot_count; i-- > 0 && s != NULL && !s->clone;)
        if (r->snapshots[i].seq > seq && !r->snapshots[i].clone)
            parent = r->snapshots[i].seq; /* the next newer, in the end */
    for (uint32_t i = 0; i < r->snapshot_count && s != NULL; i++)
        if (r->snapshots[i].clone && r->snapshots[i].parent_seq == seq)
            r->snapshots[i].parent_seq = parent;
    return volume_record_remove_snapshot(r, id, reterr);
}

/* -- look-ups -------------------------------------------------------------------- */

uint32_t volume_record_count_up_to(const struct volume_record *r, uint32_t seq)
{
    uint32_t low = 0, high = r->snapshot_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (r->snapshots[mid].seq <= seq)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct record_snapshot *volume_record_find_seq(const struct volume_record *r, uint32_t seq)
{
    uint32_t at = volume_record_count_up_to(r, seq);
    return at > 0 && r->snapshots[at - 1].seq == seq ? &r->snapshots[at - 1] : NULL;
}

struct record_snapshot *volume_record_find(struct volume_record *r, const struct uuid *id)
{
    return record_index_find(r, id);
}

struct record_snapshot *volume_record_find_name(struct volume_record *r, const char *name)
{
    return record_index_find_name(r, name, is_named);
}

/* None that was passed over once is looked at again: none of them can become the head. */
struct record_snapshot *volume_record_head(struct volume_record *r)
{
    for (uint32_t i = volume_record_count_up_to(r, r->head_bound); i-- > 0;)
        if (may_be_head(&r->snapshots[i])) {
            r->head_bound = r->snapshots[i].seq;
            return &r->snapshots[i];
        }
    r->head_bound = 0;
    return NULL;
}

/* -- does it fit together? --------------------------------------------------------- */

static int check_clone(const struct volume_record *r, const struct record_snapshot *s,
                       struct err *reterr)
{
    if (s->undo)
        return err_set(reterr, SNAP_ECORRUPT, "clone %u is an undo snapshot too", s->seq);
    if (s->parent_seq == 0)
        return 0;
    const struct record_snapshot *parent = volume_record_find_seq(r, s->parent_seq);
    if (!parent)
        return err_set(reterr, SNAP_ECORRUPT, "clone %u: key 'parent_seq': there is no snapshot %u",
                       s->seq, s->parent_seq);
    if (parent->clone && parent->seq >= s->seq)
        return err_set(reterr, SNAP_ECORRUPT,
                       "clone %u: key 'parent_seq': clone %u is not older: they would read "
                       "through one another",
                       s->seq, parent->seq);
    return 0;
}

static int check_rollback(const struct volume_record *r, struct err *reterr)
{
    const struct record_rollback *b = &r->rollback;
    if (uuid_is_zero(&b->job))
        return 0;
    if (!volume_record_find_seq(r, b->to_seq))
        return err_set(reterr, SNAP_ECORRUPT, "rollback: key 'to_seq': there is no snapshot %u",
                       b->to_seq);
    if (!volume_record_find_seq(r, b->undo_seq))
        return err_set(reterr, SNAP_ECORRUPT, "rollback: key 'undo_seq': there is no snapshot %u",
                       b->undo_seq);
    return 0;
}

/* Two of one key could not be read back. */
static int check_labels(const struct volume_record *r, struct err *reterr)
{
    for (uint32_t i = 0; i < r->label_count; i++)
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(r->labels[i].key, r->labels[k].key) == 0)
                return err_set(reterr, SNAP_ECORRUPT, "label '%s' is there twice",
                               r->labels[i].key);
    return 0;
}

int volume_record_check(const struct volume_record *r, struct err *reterr)
{
    int rc = check_rollback(r, reterr);
    if (rc == 0)
        rc = check_labels(r, reterr);
    for (uint32_t i = 0; i < r->snapshot_count && rc == 0; i++)
        if (r->snapshots[i].clone)
            rc = check_clone(r, &r->snapshots[i], reterr);
    return rc;
}

/* -- what was deleted ---------------------------------------------------------------- */

void volume_record_bury(struct volume_record *r, const struct uuid *id, const struct uuid *key)
{
    if (r->tombstone_count == RECORD_TOMBSTONES) {
        memmove(r->tombstones, r->tombstones + 1, (RECORD_TOMBSTONES - 1) * sizeof *r->tombstones);
        r->tombstone_count--;
    }
    r->tombstones[r->tombstone_count++] = (struct record_tombstone){.id = *id, .key = *key};
}

bool volume_record_is_buried(const struct volume_record *r, const struct uuid *id)
{
    for (uint32_t i = 0; i < r->tombstone_count; i++)
        if (uuid_equal(&r->tombstones[i].id, id))
            return true;
    return false;
}

bool volume_record_buried(const struct volume_record *r, const struct uuid *id,
                          const struct uuid *key)
{
    for (uint32_t i = 0; i < r->tombstone_count; i++)
        if (uuid_equal(&r->tombstones[i].id, id) && uuid_equal(&r->tombstones[i].key, key))
            return true;
    return false;
}
