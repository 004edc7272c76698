/* SPDX-License-Identifier: Apache-2.0 */
/* The whole, looked at from other sides: the table of each node as the disk has it, each content's
 * checksum, the files without the daemon, and whose they are. Thread: one.
 */
#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/cow/cow_view.h"
#include "common/io/mem.h"
#include "common/io/sum.h"
#include "daemon/volume/job.h"
#include "daemon/volume/verify.h"
#include "tests/sim/volume/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- tables --------------------------------------------------------------------------------- */

static void checked(struct volume_check *c, int code, const struct err *err)
{
    struct op *o = c->user;
    if (!op_refused(o, code, err) && !c->sound && !o->sim->faulty)
        sim_fail(o->sim, "%s: the table has %llu faults: %s", op_who(o),
                 (unsigned long long)c->faults_total, c->fault_count > 0 ? c->faults[0].text : "?");
    free(c->faults);
    op_end(o);
}

void check_start(struct sim *s, struct subject *u, struct node *n)
{
    struct op *o = op_new(s, OP_CHECK, u, n);
    if (o == NULL)
        return;
    o->check = (struct volume_check){.snapshot = n->id, .done = checked, .user = o};
    volume_check_start(u->volume, &o->check);
}

/* -- checksums -------------------------------------------------------------------------------- */

static const struct node *node_of(const struct subject *u, const struct uuid *id)
{
    for (unsigned i = 1; i < SIM_NODES; i++)
        if (u->nodes[i].state != NODE_NONE && uuid_equal(&u->nodes[i].id, id))
            return &u->nodes[i];
    return NULL;
}

/* An overwriting in place may be torn by a crash; that is known, and no fault of the disk. */
static bool fault_is_excused(const struct sim *s, const struct subject *u,
                             const struct verify_fault *f)
{
    const struct node *n = node_of(u, &f->snapshot);
    const struct snapshot *x = volume_snapshot_find(u->volume, &f->snapshot);
    if (s->faulty || (n == NULL && s->faults_laid > 0) || (n != NULL && n->smudged))
        return true;
    return f->kind == VERIFY_IN_DOUBT && (x == NULL || x->clone) && s->losses > 0;
}

static void verified(struct op *o)
{
    struct volume *v = o->subject->volume;
    char text[ERR_TEXT_BYTES];
    uint64_t total;
    uint32_t count;
    const struct verify_fault *f = volume_verify_faults(v, &o->job, &count, &total);
    for (uint32_t i = 0; f != NULL && i < count; i++)
        if (!fault_is_excused(o->sim, o->subject, &f[i]))
            sim_fail(o->sim, "verification: %s", verify_fault_format(v, &f[i], text, sizeof text));
}

void verify_poll(struct op *o)
{
    if (o->kind != OP_VERIFY || !o->begun)
        return;
    bool closed = o->sim->closing; /* then the volume is gone, and the job with it */
    if (!closed && volume_job_find(o->subject->volume, &o->job) != NULL)
        return;
    if (!closed)
        verified(o);
    op_end(o);
}

static void verify_begun(void *user, int code, const struct err *err)
{
    struct op *o = user;
    if (op_refused(o, code, err))
        op_end(o);
    else
        o->begun = true;
}

void verify_start(struct sim *s, struct subject *u)
{
    struct op *o = op_new(s, OP_VERIFY, u, &u->nodes[0]);
    if (o == NULL)
        return;
    o->begun = false;
    o->job = sim_uuid(s);
    struct verify_spec spec = {.job = o->job};
    const struct node *one = node_pick(s, u, false);
    unsigned how = sim_pick(s, 8);
    spec.scrub = how == 0;
    spec.rebuild = how == 1;
    if (how > 5 && one != NULL)
        spec.snapshot = one->id;
    u->rebuilt = u->rebuilt || spec.rebuild;
    volume_verify_start(u->volume, &spec, verify_begun, o);
}

static void verify_cancelled(void *user, int code, const struct err *err)
{
    const struct sim *s = user;
    if (code < 0)
        sim_fail(s, "a verification that is under way cannot be cancelled: %s", err->text);
}

void verify_cancel(struct sim *s)
{
    for (unsigned i = 0; i < SIM_OPS; i++) {
        struct op *o = &s->ops[i];
        if (o->kind == OP_VERIFY && o->begun)
            volume_job_cancel(o->subject->volume, &o->job, verify_cancelled, s);
    }
}

/* Each was made with checksums, and has them still. */
static void verify_is_there(struct sim *s, const struct volume *v)
{
    const struct snapshot *x;
    const struct snapshot_list *lists[] = {&v->chain, &v->clones};
    for (unsigned i = 0; i < 2; i++)
        TAILQ_FOREACH (x, lists[i], link)
            if (x->dev != NULL && !sum_dev_is(x->dev))
                sim_fail(s, "%s: %s", snapshot_record(x)->name,
                         x->sums_text != NULL ? x->sums_text : "no checksums, and nobody says why");
}

/* One byte of one content is changed behind the daemon's back: that one is found, and no other. */
static void verify_finds(struct sim *s, struct subject *u)
{
    struct volume *v = u->volume;
    struct cow_run run;
    uint64_t total;
    uint32_t count;
    const struct snapshot *clone = TAILQ_FIRST(&v->clones);
    const struct cow_map *map = clone != NULL && sim_pick(s, 2) == 0 ? clone->map : v->map;
    if (!cow_map_next(map, sim_pick(s, VOLUME_CHUNKS), 0, &run) && !cow_map_next(map, 0, 0, &run))
        return;
    struct snapshot *x = volume_snapshot_by_seq(v, run.seq);
    if (x == NULL || x->dev == NULL || !sum_dev_is(x->dev))
        return;
    struct blk_dev *disk = world_file(s->world, snapshot_record(x)->cow_path);
    uint8_t *byte = mem_dev_image(disk) + run.new_chunk * 4096 + sim_pick(s, 4096);
    struct verify_spec spec = {.job = sim_uuid(s)};
    struct op *o = op_new(s, OP_VERIFY, u, &u->nodes[0]);
    *byte ^= 0x10;
    o->begun = false;
    o->job = spec.job;
    volume_verify_start(v, &spec, verify_begun, o);
    for (unsigned n = 0; volume_job_find(v, &spec.job) != NULL && n < SIM_IDLE_STEPS; n++)
        (void)world_step(s->world);
    const struct verify_fault *f = volume_verify_faults(v, &spec.job, &count, &total);
    unsigned found = 0;
    for (uint32_t i = 0; f != NULL && i < count; i++)
        if (f[i].old_chunk == run.old_chunk && uuid_equal(&f[i].snapshot, &x->id))
            found++;
        else if (!fault_is_excused(s, u, &f[i]))
            sim_fail(s, "beside the changed one, chunk %llu is found faulty",
                     (unsigned long long)f[i].old_chunk);
    if (found != 1)
        sim_fail(s, "a changed byte in chunk %llu of node %u is not found",
                 (unsigned long long)run.old_chunk, x->seq);
    *byte ^= 0x10;
    op_end(o);
}

/* A store whose disk has failed is opened again, whoever was told of it. */
static void audit_poisoned(const struct sim *s, const struct volume *v)
{
    const struct snapshot *x;
    const struct snapshot_list *lists[] = {&v->chain, &v->clones};
    for (unsigned i = 0; i < 2; i++)
        TAILQ_FOREACH (x, lists[i], link)
            if (x->store != NULL && cow_store_state(x->store) == COW_POISONED)
                sim_fail(s, "%s is poisoned, and nobody opens it again", snapshot_record(x)->name);
}

void audit_running(struct sim *s)
{
    for (unsigned i = 0; i < SIM_VOLUMES; i++)
        audit_poisoned(s, s->subjects[i].volume);
    for (unsigned i = 0; i < SIM_VOLUMES; i++) {
        struct subject *u = &s->subjects[i];
        for (unsigned k = 1; k < SIM_NODES; k++)
            if (u->nodes[k].state == NODE_THERE) {
                check_start(s, u, &u->nodes[k]);
                drain(s, false);
            }
        verify_start(s, u);
        drain(s, false);
        if (s->checksums)
            verify_is_there(s, u->volume);
        if (s->checksums && s->faults_laid == 0)
            verify_finds(s, u);
    }
}

/* -- offline -------------------------------------------------------------------------------------
 */

struct offline {
    struct sim *sim;
    struct subject *subject;
    struct volume_record record;
    struct cow_map **maps; /* [snapshot_count] */
    bool *invalid;
};

static struct blk_dev *offline_disk(const struct offline *f, uint32_t i)
{
    struct blk_dev *disk = world_file(f->sim->world, f->record.snapshots[i].cow_path);
    if (disk == NULL)
        sim_fail(f->sim, "%s has no COW file", f->record.snapshots[i].name);
    return disk;
}

static void offline_load(struct offline *f, uint32_t i)
{
    struct cow_store *store;
    struct err err = ERR_INIT;
    f->maps[i] = cow_map_new();
    struct cow_store_options options = {
        .map = f->maps[i], .seq = f->record.snapshots[i].seq, .read_only = true};
    if (cow_store_open_sync(offline_disk(f, i), &options, NULL, NULL, &store, &err) < 0)
        sim_fail(f->sim, "%s, offline: %s", f->record.snapshots[i].name, err.text);
    f->invalid[i] = cow_store_state(store) == COW_INVALID || f->record.snapshots[i].lost;
    CHECK(cow_store_close_sync(store, &err) == 0);
}

/* What it reads through: the place in the record; the count: the origin. */
static uint32_t offline_parent(const struct offline *f, uint32_t i)
{
    const struct record_snapshot *all = f->record.snapshots;
    uint32_t count = f->record.snapshot_count;
    if (!all[i].clone) {
        do
            i++;
        while (i < count && all[i].clone);
        return i;
    }
    for (uint32_t k = 0; k < count; k++)
        if (all[k].seq == all[i].parent_seq)
            return k;
    return count;
}

static void offline_read(const struct offline *f, const struct cow_layer *layers,
                         const uint32_t *places, unsigned count, uint8_t *bytes)
{
    struct cow_view view = {.layers = layers, .layer_count = count};
    char suffix[UUID_TEXT_BYTES + 8], id[UUID_TEXT_BYTES];
    (void)snprintf(suffix, sizeof suffix, "%s/origin", uuid_format(&f->subject->id, id));
    const uint8_t *origin = mem_dev_image(world_file(f->sim->world, suffix));
    for (uint64_t at = 0; at < GRAINS * GRAIN_BYTES;) {
        struct cow_extent x;
        cow_view_extent(&view, at, (uint64_t)GRAINS * GRAIN_BYTES - at, &x);
        const uint8_t *from =
            x.layer < 0 ? origin : mem_dev_image(offline_disk(f, places[x.layer]));
        memcpy(bytes + at, from + x.dev_offset_bytes, (size_t)x.len_bytes);
        at += x.len_bytes;
    }
}

static void offline_compare(const struct offline *f, uint32_t i, struct node *n)
{
    uint32_t count = f->record.snapshot_count, places[64], grain;
    struct cow_layer layers[64];
    static uint8_t bytes[GRAINS * GRAIN_BYTES];
    unsigned depth = 0;
    for (; i < count; i = offline_parent(f, i)) {
        CHECK(depth < ARRAY_LEN(layers));
        if (f->invalid[i] && n->fragile)
            return;
        places[depth] = i;
        layers[depth++] = (struct cow_layer){
            .map = f->maps[i], .seq = f->record.snapshots[i].seq, .chunk_bytes = 4096};
    }
    offline_read(f, layers, places, depth, bytes);
    const char *wrong = content_check(&n->content, &n->content, bytes, 0, GRAINS, false, &grain);
    if (wrong != NULL)
        sim_fail(f->sim, "%s, offline: grain %u: %s", n->name, grain, wrong);
}

static void audit_offline_volume(struct offline *f)
{
    uint32_t count = f->record.snapshot_count;
    f->maps = calloc(count + 1, sizeof *f->maps);
    f->invalid = calloc(count + 1, sizeof *f->invalid);
    CHECK(f->maps != NULL && f->invalid != NULL);
    for (uint32_t i = 0; i < count; i++)
        offline_load(f, i);
    for (unsigned k = 1; k < SIM_NODES; k++) {
        struct node *n = &f->subject->nodes[k];
        for (uint32_t i = 0; i < count && n->state == NODE_THERE; i++)
            if (uuid_equal(&f->record.snapshots[i].id, &n->id))
                offline_compare(f, i, n);
    }
    for (uint32_t i = 0; i < count; i++)
        cow_map_free(f->maps[i]);
    free(f->maps);
    free(f->invalid);
}

void audit_offline(struct sim *s)
{
    for (unsigned i = 0; i < SIM_VOLUMES; i++) {
        struct offline f = {.sim = s, .subject = &s->subjects[i]};
        CHECK(world_record(s->world, &s->subjects[i].id, &f.record));
        audit_offline_volume(&f);
        volume_record_done(&f.record);
    }
}

/* -- whose they are -------------------------------------------------------------------------------
 */

static bool file_is_listed(struct sim *s, const char *path)
{
    const char *name = strrchr(path, '/') + 1;
    bool found = strcmp(name, "origin") == 0;
    for (unsigned i = 0; i < SIM_VOLUMES && !found; i++) {
        struct volume_record r;
        CHECK(world_record(s->world, &s->subjects[i].id, &r));
        for (uint32_t k = 0; k < r.snapshot_count && !found; k++)
            found = strncmp(name, r.snapshots[k].cow_path, UUID_TEXT_BYTES) == 0 ||
                    (strncmp(name, r.snapshots[k].cow_path, UUID_TEXT_BYTES - 1) == 0 &&
                     strcmp(name + UUID_TEXT_BYTES - 1, ".sum") == 0);
        volume_record_done(&r);
    }
    return found;
}

static void file_remember(const char *path, void *user)
{
    struct sim *s = user;
    if (file_is_listed(s, path))
        return;
    s->orphans = realloc(s->orphans, (s->orphan_count + 1) * sizeof(char *));
    CHECK(s->orphans != NULL);
    s->orphans[s->orphan_count++] = strdup(path);
}

void audit_remember_orphans(struct sim *s)
{
    world_each_file(s->world, file_remember, s);
}

static void file_look(const char *path, void *user)
{
    struct sim *s = user;
    bool known = file_is_listed(s, path);
    for (size_t i = 0; i < s->orphan_count && !known; i++)
        known = strcmp(s->orphans[i], path) == 0;
    if (!known)
        sim_fail(s, "%s is nobody's", path);
}

void audit_files(struct sim *s)
{
    world_each_file(s->world, file_look, s);
}
