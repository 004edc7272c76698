/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes and snapshots as JSON: one place says which keys there are. */
#include "client/snapctl/remote_json.h"

#include <stdio.h>
#include <string.h>

json_t *remote_uuid_json(const struct snapwire_uuid *u)
{
    char text[SNAPWIRE_UUID_TEXT_BYTES];
    if (snapwire_uuid_is_zero(u))
        return json_null();
    return json_string(snapwire_uuid_format(u, text));
}

static const char *or_empty(const char *text)
{
    return text ? text : "";
}

static json_t *warnings_json(const struct snapwire_snapshot *s)
{
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < s->warning_count; i++)
        if (json_array_append_new(rows, json_string(s->warnings[i])) != 0) {
            json_decref(rows);
            return NULL;
        }
    return rows;
}

json_t *remote_snapshot_json(const struct snapwire_snapshot *s)
{
    return json_pack(
        "{s:s, s:s, s:o, s:o, s:s, s:s, s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:s, s:s, s:b, s:s, s:I, s:o}",
        "name", s->name, "volume", s->volume_name, "id", remote_uuid_json(&s->id), "volume_id",
        remote_uuid_json(&s->volume), "state", snapwire_snapshot_state_name(s->state), "state_text",
        or_empty(s->state_text), "created_s", (json_int_t)s->created_s, "head", (int)s->head,
        "volume_size_bytes", (json_int_t)s->volume_size_bytes, "chunk_size_sectors",
        (json_int_t)s->chunk_size_sectors, "device_sectors", (json_int_t)s->device_sectors,
        "limit_sectors", (json_int_t)s->limit_sectors, "exceptions", (json_int_t)s->exceptions,
        "areas", (json_int_t)s->areas, "next_free", (json_int_t)s->next_free, "sectors_allocated",
        (json_int_t)s->sectors_allocated, "metadata_sectors", (json_int_t)s->metadata_sectors,
        "status", or_empty(s->status), "cow_path", or_empty(s->cow_path), "writable",
        (int)s->writable, "parent", or_empty(s->parent), "seq", (json_int_t)s->seq, "warnings",
        warnings_json(s));
}

json_t *remote_snapshots_json(const struct snapwire_volume *v)
{
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < v->snapshot_count; i++)
        if (json_array_append_new(rows, remote_snapshot_json(v->snapshots[i])) != 0) {
            json_decref(rows);
            return NULL;
        }
    return rows;
}

static json_t *labels_json(const struct snapwire_volume *v)
{
    json_t *labels = json_object();
    for (size_t i = 0; labels && i < v->label_count; i++)
        if (json_object_set_new(labels, v->labels[i]->key, json_string(v->labels[i]->value)) != 0) {
            json_decref(labels);
            return NULL;
        }
    return labels;
}

/* Clones come behind it. */
static const struct snapwire_snapshot *head_of(const struct snapwire_volume *v)
{
    for (size_t i = v->snapshot_count; i-- > 0;)
        if (v->snapshots[i]->head)
            return v->snapshots[i];
    return NULL;
}

json_t *remote_volume_json(const struct snapwire_volume *v, bool with_snapshots)
{
    const struct snapwire_snapshot *head = head_of(v);
    return json_pack(
        "{s:s, s:o, s:I, s:s, s:s, s:I, s:I, s:b, s:s, s:I, s:I, s:s*, s:o, s:o*}", "name", v->name,
        "id", remote_uuid_json(&v->id), "size_bytes", (json_int_t)v->size_bytes, "kind",
        snapwire_volume_kind_name(v->kind), "full_policy",
        snapwire_full_policy_name(v->full_policy), "created_s", (json_int_t)v->created_s,
        "chunk_size_sectors", (json_int_t)v->chunk_size_sectors, "leased", (int)v->leased,
        "lease_holder", or_empty(v->lease_holder), "lease_epoch", (json_int_t)v->lease_epoch,
        "snapshot_count", (json_int_t)v->snapshot_count, "head", head ? head->name : NULL, "labels",
        labels_json(v), "snapshots", with_snapshots ? remote_snapshots_json(v) : NULL);
}

/* -- the tree ------------------------------------------------------------------------------ */

enum { DEPTH_MAX = 64, TREE_NAME_BYTES = 2 * DEPTH_MAX + 256 };

/* Clones are the last of the list. */
static size_t first_clone(const struct snapwire_volume *v)
{
    size_t i = v->snapshot_count;
    while (i > 0 && v->snapshots[i - 1]->writable)
        i--;
    return i;
}

/* The node, and below it the clones that read through it. */
static int add_branch(const struct snapwire_volume *v, size_t clones, size_t node, int depth,
                      json_t *rows)
{
    const struct snapwire_snapshot *s = v->snapshots[node];
    char name[TREE_NAME_BYTES];
    json_t *row = remote_snapshot_json(s);
    (void)snprintf(name, sizeof name, "%*s%s", 2 * depth, "", s->name);
    if (json_object_set_new(row, "tree", json_string(name)) != 0) {
        json_decref(row);
        return -1;
    }
    if (json_array_append_new(rows, row) != 0)
        return -1;
    for (size_t i = clones; i < v->snapshot_count; i++)
        if (i != node && depth < DEPTH_MAX &&
            strcmp(or_empty(v->snapshots[i]->parent), s->name) == 0 &&
            add_branch(v, clones, i, depth + 1, rows) < 0)
            return -1;
    return 0;
}

static bool has_parent(const struct snapwire_volume *v, size_t node)
{
    for (size_t i = 0; i < v->snapshot_count; i++)
        if (i != node && strcmp(or_empty(v->snapshots[node]->parent), v->snapshots[i]->name) == 0)
            return true;
    return false;
}

json_t *remote_tree_json(const struct snapwire_volume *v)
{
    json_t *rows = json_array();
    size_t clones = first_clone(v);
    for (size_t i = 0; rows && i < v->snapshot_count; i++)
        if ((i < clones || !has_parent(v, i)) && add_branch(v, clones, i, 0, rows) < 0) {
            json_decref(rows);
            return NULL;
        }
    return rows;
}
