/* SPDX-License-Identifier: Apache-2.0 */
/* What is asked for: is it a snapshot that can be, and can this volume have it now?
 *
 *   asked for ──> create_fill(): by itself ──(its turn)──> create_check(): beside what there is
 *                                                          … at the commit: create_check_free()
 *
 * Pure look-up: nothing of it waits or changes the volume. Thread: the shard's.
 */
#include "daemon/volume/snapshot_create_priv.h"

#include "common/base/bytes.h"
#include "common/base/name.h"
#include "common/base/size.h"

#include <stdio.h>
#include <string.h>

/* -- what is asked for, by itself ----------------------------------------------------------- */

static int create_check_spec(const struct snapshot_spec *spec, struct err *reterr)
{
    int rc = spec->undo ? 0 : name_check(spec->name, "snapshot", reterr);
    if (rc < 0)
        return rc;
    if (uuid_is_zero(&spec->id))
        return err_set(reterr, SNAP_EINVAL, "a snapshot needs a uuid");
    if (spec->chunk_sectors > LIMIT_CHUNK_SECTORS_MAX ||
        (spec->chunk_sectors != 0 && !u64_is_pow2(spec->chunk_sectors)))
        return err_set(reterr, SNAP_EINVAL, "chunks of %u sectors: not a power of two up to %d",
                       spec->chunk_sectors, LIMIT_CHUNK_SECTORS_MAX);
    if (spec->limit_bytes > LIMIT_VOLUME_BYTES)
        return err_set(reterr, SNAP_EINVAL, "a COW file of up to %llu bytes: more than 2^60",
                       (unsigned long long)spec->limit_bytes);
    if (spec->take_over && spec->cow_device == NULL)
        return err_set(reterr, SNAP_EINVAL, "name the COW device to take over");
    if (spec->cow_device != NULL &&
        (spec->cow_device[0] != '/' || strlen(spec->cow_device) >= LIMIT_PATH_BYTES))
        return err_set(reterr, SNAP_EINVAL, "a COW device is named by an absolute path");
    return 0;
}

int create_fill(struct snapshot_create *c, const struct snapshot_spec *spec, struct err *reterr)
{
    char text[UUID_TEXT_BYTES];
    int rc = create_check_spec(spec, reterr);
    if (rc < 0)
        return rc;
    c->own_file = spec->cow_device == NULL;
    c->take_over = spec->take_over;
    c->spec_chunk_sectors = spec->chunk_sectors;
    c->spec_limit_bytes = c->own_file ? spec->limit_bytes : 0;
    c->held = spec->held;
    if (c->own_file)
        (void)snprintf(c->cow_path, sizeof c->cow_path, "%s.cow", uuid_format(&spec->id, text));
    else
        (void)snprintf(c->cow_path, sizeof c->cow_path, "%s", spec->cow_device);
    c->record.id = spec->id;
    (void)snprintf(c->record.name, sizeof c->record.name, "%s", spec->name);
    c->record.created_s = clock_wall_s();
    c->record.chunk_size_sectors = spec->chunk_sectors;
    c->record.cow_path = c->cow_path;
    c->record.undo = spec->undo;
    if (spec->group != NULL)
        c->record.group = *spec->group;
    return 0;
}

/* -- beside what there is ------------------------------------------------------------------- */

int create_check_free(const struct volume_record *r, struct err *reterr)
{
    if (!uuid_is_zero(&r->rollback.job))
        return err_set(reterr, SNAP_EBUSY, "volume %s is being rolled back", r->name);
    if (r->kind == VOLUME_HOSTED)
        return 0;
    for (uint32_t i = 0; i < r->snapshot_count; i++)
        if (r->snapshots[i].merging)
            return err_set(reterr, SNAP_EBUSY, "%s@%s is being merged", r->name,
                           r->snapshots[i].name);
    return 0;
}

/* 1: it is there already, as asked for. */
static int create_check_again(const struct snapshot_create *c, struct err *reterr)
{
    struct volume_record *r = &c->volume->record;
    if (volume_record_is_buried(r, &c->record.id))
        return err_set(reterr, SNAP_ESTALE, "that snapshot has been deleted");
    const struct record_snapshot *there = volume_record_find(r, &c->record.id);
    if (there == NULL)
        return 0;
    bool same =
        strcmp(there->name, c->record.name) == 0 &&
        (c->spec_chunk_sectors == 0 || c->spec_chunk_sectors == there->chunk_size_sectors) &&
        (c->spec_limit_bytes == 0 || c->spec_limit_bytes == there->limit_bytes) &&
        strcmp(there->cow_path, c->record.cow_path) == 0;
    if (!same)
        return err_set(reterr, SNAP_EEXIST, "a snapshot of that uuid with other parameters exists");
    return 1;
}

/* A header, a table and one exception are a chunk each. */
int snapshot_check_limit(const struct volume *v, uint32_t chunk_sectors, uint64_t limit_bytes,
                         struct err *reterr)
{
    char limit[16], chunk[16], least[16];
    const struct volume_env *env = v->set->env;
    if (v->chunk_sectors != 0)
        chunk_sectors = v->chunk_sectors;
    else if (chunk_sectors == 0)
        chunk_sectors = env->chunk_size_sectors;
    uint64_t chunk_bytes = (uint64_t)chunk_sectors * SECTOR_BYTES;
    if (limit_bytes == 0)
        limit_bytes = env->cow_limit_bytes;
    if (limit_bytes >= 3 * chunk_bytes)
        return 0;
    return err_set(reterr, SNAP_EINVAL,
                   "a limit of %s is too small for a COW device with chunks of %s: at least %s",
                   size_format(limit_bytes, limit, sizeof limit),
                   size_format(chunk_bytes, chunk, sizeof chunk),
                   size_format(3 * chunk_bytes, least, sizeof least));
}

int create_check(struct snapshot_create *c, struct err *reterr)
{
    struct volume *v = c->volume;
    char have[16], want[16];
    int rc = create_check_again(c, reterr);
    if (rc != 0)
        return rc;
    if (!c->record.undo && volume_record_find_name(&v->record, c->record.name) != NULL)
        return err_set(reterr, SNAP_EEXIST, "%s@%s exists", v->record.name, c->record.name);
    if (v->record.snapshot_count >= LIMIT_SNAPSHOTS)
        return err_set(reterr, SNAP_ELIMIT, "volume %s has %u snapshots", v->record.name,
                       v->record.snapshot_count);
    rc = create_check_free(&v->record, reterr);
    if (rc < 0)
        return rc;
    if (c->take_over && !TAILQ_EMPTY(&v->chain))
        return err_set(reterr, SNAP_ENOTSUP,
                       "a COW device can be taken over as a volume's first snapshot only");
    if (v->chunk_sectors != 0 && c->spec_chunk_sectors != 0 &&
        c->spec_chunk_sectors != v->chunk_sectors)
        return err_set(
            reterr, SNAP_EMISMATCH, "the snapshots of volume %s have chunks of %s, not of %s",
            v->record.name,
            size_format((uint64_t)v->chunk_sectors * SECTOR_BYTES, have, sizeof have),
            size_format((uint64_t)c->spec_chunk_sectors * SECTOR_BYTES, want, sizeof want));
    return c->own_file ? snapshot_check_limit(v, c->spec_chunk_sectors, c->spec_limit_bytes, reterr)
                       : 0;
}
