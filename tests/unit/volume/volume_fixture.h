/* SPDX-License-Identifier: Apache-2.0 */
/* A volume on a real shard with real files in a folder that goes away, and what a test does to it
 * whatever its kind: snapshots, clones, looks at them, reads. What only remote ones have is in
 * remote_fixture.h, writes of hosted ones are in hosted_fixture.h.
 *
 * The test runs on its own thread; every step is posted to the shard and waited for. */
#ifndef SNAP_TESTS_UNIT_VOLUME_FIXTURE_H
#define SNAP_TESTS_UNIT_VOLUME_FIXTURE_H

#include "common/base/bytes.h"
#include "common/base/file.h"
#include "daemon/volume/change.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/read.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK_SECTORS = 8, CHUNK_BYTES = 4096, CHUNKS = 64, SIZE = CHUNKS * CHUNK_BYTES };
enum { TTL_MS = 200 };

static const struct uuid ITSELF; /* nil, where a node is asked for: the volume */

struct fixture {
    struct tmpdir dir;
    struct shard *shard;
    struct control *control;
    struct volume_env env;
    struct volume_set set;
    struct volume *volume;
    struct volume_record record; /* what the volume is first made from */
    struct uuid id, instance;
    _Atomic unsigned quiesced, lost; /* events that the holder heard */
};

/* -- steps -------------------------------------------------------------------------- */

/* Give up after 20 s. what: for the message. */
static inline void sem_wait_for(sem_t *sem, const char *what)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    if (sem_timedwait(sem, &until) < 0)
        fail_msg("%s", what);
}

/* One step on the shard: fn starts it, call_end() when it is over. */
struct call {
    struct loop_msg msg;
    void (*fn)(struct call *c);
    struct fixture *f;
    sem_t done;
    int code;
    struct err err;
    void *arg;
};

static inline void call_end(void *user, int code, const struct err *err)
{
    struct call *c = user;
    c->code = code;
    if (err != NULL)
        c->err = *err;
    sem_post(&c->done);
}

static inline void call_start(struct loop_msg *msg)
{
    struct call *c = CONTAINER_OF(msg, struct call, msg);
    c->fn(c);
}

static inline void call_begin(struct call *c, struct fixture *f, void (*fn)(struct call *),
                              void *arg)
{
    *c = (struct call){.msg = {.fn = call_start}, .fn = fn, .f = f, .arg = arg};
    sem_init(&c->done, 0, 0);
    shard_post(f->shard, &c->msg);
}

static inline int call_wait(struct call *c)
{
    sem_wait_for(&c->done, "a step on the shard did not end");
    sem_destroy(&c->done);
    return c->code;
}

static inline bool call_has_ended(struct call *c)
{
    int n = 0;
    assert_int_equal(sem_getvalue(&c->done, &n), 0);
    return n > 0;
}

/* Has it still not, a while later? */
static inline bool call_still_waits(struct call *c)
{
    (void)usleep(80000); /* what tries again has done so more than once */
    return !call_has_ended(c);
}

static inline int call(struct fixture *f, void (*fn)(struct call *), void *arg)
{
    struct call c;
    call_begin(&c, f, fn, arg);
    return call_wait(&c);
}

/* Several steps of which fn and arg are set. */
struct together {
    struct call *calls;
    unsigned count;
};

static inline void together_start(struct call *c)
{
    const struct together *t = c->arg;
    for (unsigned i = 0; i < t->count; i++)
        t->calls[i].fn(&t->calls[i]);
    call_end(c, 0, NULL);
}

/* Begun in one turn of the shard, in this order: nothing happens between them. Each is waited for
 * as any other. */
static inline void call_begin_together(struct fixture *f, struct call *calls, unsigned count)
{
    struct together t = {.calls = calls, .count = count};
    for (unsigned i = 0; i < count; i++) {
        calls[i].f = f;
        sem_init(&calls[i].done, 0, 0);
    }
    assert_int_equal(call(f, together_start, &t), 0);
}

/* -- life ------------------------------------------------------------------------- */

static inline void fixture_do_open(struct call *c)
{
    struct fixture *f = c->f;
    struct err err = ERR_INIT;
    struct volume_record r;
    char dir[LIMIT_PATH_BYTES];
    int rc = volume_dir_format(f->env.state_dir, &f->id, dir, sizeof dir, &err);
    if (rc == 0)
        rc = volume_record_load(dir, &r, &err);
    if (rc == 0)
        rc = volume_new(&f->set, &r, &f->volume, &err);
    if (rc < 0)
        call_end(c, rc, &err);
    else
        volume_open(f->volume, call_end, c);
}

static inline void fixture_do_close(struct call *c)
{
    volume_close(c->f->volume, call_end, c);
}

static inline void fixture_reopen(struct fixture *f)
{
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
}

/* What a fixture is made of. */
struct fixture_spec {
    enum volume_kind kind;
    enum full_policy full_policy;
    uint64_t size_bytes;     /* 0: CHUNKS whole ones */
    size_t answer_bytes_max; /* of the pool; 0: no bound */
    bool checksums;
};

static inline int fixture_setup_as(void **state, const struct fixture_spec *spec)
{
    struct fixture *f = calloc(1, sizeof *f);
    char path[TMPDIR_FILE_BYTES], dir[LIMIT_PATH_BYTES];
    struct err err = ERR_INIT;
    struct shard_config config = {.io_engine = "threads",
                                  .answer_bytes_max = spec->answer_bytes_max,
                                  .cache_bytes = UINT64_C(32) * BLK_CACHE_BLOCK_BYTES};
    tmpdir_make(&f->dir);
    (void)tmpdir_file(&f->dir, "volumes", path);
    f->id = uuid_make();
    f->instance = uuid_make();
    f->env = (struct volume_env){.state_dir = f->dir.path,
                                 .storage = &volume_storage_files,
                                 .clock = clock_system(),
                                 .cow_limit_bytes = 8 << 20,
                                 .cow_grow_step_bytes = 1 << 16,
                                 .chunk_size_sectors = CHUNK_SECTORS,
                                 .checksums = spec->checksums,
                                 .lease_ttl_ms = TTL_MS};
    volume_record_init(&f->record);
    f->record.id = f->id;
    (void)snprintf(f->record.name, sizeof f->record.name, "vol");
    f->record.size_bytes = spec->size_bytes != 0 ? spec->size_bytes : SIZE;
    f->record.kind = spec->kind;
    f->record.full_policy = spec->full_policy;
    if (spec->kind == VOLUME_HOSTED) {
        (void)snprintf(f->record.origin_path, sizeof f->record.origin_path, "origin");
        f->record.chunk_size_sectors = CHUNK_SECTORS;
    }
    if (file_make_dir(path, 0700, &err) < 0 || control_new(&f->control, &err) < 0 ||
        shard_new(&config, &f->shard, &err) < 0 ||
        volume_dir_format(f->dir.path, &f->id, dir, sizeof dir, &err) < 0 ||
        file_make_dir(dir, 0700, &err) < 0 || volume_record_save(dir, &f->record, &err) < 0 ||
        (spec->kind == VOLUME_HOSTED && origin_create(&f->env, dir, &f->record, &err) < 0))
        fail_msg("%s", err.text);
    f->env.control = f->control;
    volume_set_init(&f->set, f->shard, &f->env, acl_new_empty());
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    *state = f;
    return 0;
}

static inline int fixture_setup(void **state)
{
    return fixture_setup_as(state, &(struct fixture_spec){.kind = VOLUME_REMOTE});
}

static inline int fixture_setup_hosted(void **state)
{
    return fixture_setup_as(state, &(struct fixture_spec){.kind = VOLUME_HOSTED});
}

static inline int fixture_teardown(void **state)
{
    struct fixture *f = *state;
    if (f->volume != NULL)
        assert_int_equal(call(f, fixture_do_close, NULL), 0);
    control_free(f->control);
    shard_free(f->shard);
    volume_set_done(&f->set);
    volume_record_done(&f->record);
    tmpdir_remove(&f->dir);
    free(f);
    return 0;
}

/* -- snapshots ----------------------------------------------------------------------- */

struct make {
    struct uuid id;
    const char *name;
    uint64_t limit_bytes;
    uint32_t chunk_sectors;
};

static inline void fixture_do_create(struct call *c)
{
    const struct make *m = c->arg;
    struct snapshot_spec spec = {.id = m->id,
                                 .name = m->name,
                                 .limit_bytes = m->limit_bytes,
                                 .chunk_sectors = m->chunk_sectors};
    snapshot_create_start(c->f->volume, &spec, call_end, c);
}

static inline struct uuid fixture_create(struct fixture *f, const char *name)
{
    struct make m = {.id = uuid_make(), .name = name};
    assert_int_equal(call(f, fixture_do_create, &m), 0);
    return m.id;
}

static inline void fixture_do_delete(struct call *c)
{
    snapshot_delete(c->f->volume, c->arg, call_end, c);
}

static inline int fixture_delete(struct fixture *f, struct uuid id, struct uuid key, bool force)
{
    struct snapshot_delete_spec spec = {.id = id, .key = key, .force = force};
    return call(f, fixture_do_delete, &spec);
}

static inline void fixture_do_clone(struct call *c)
{
    volume_clone_start(c->f->volume, c->arg, call_end, c);
}

static inline struct uuid fixture_clone(struct fixture *f, struct uuid source, const char *name)
{
    struct clone_spec spec = {.id = uuid_make(), .source = source, .name = name};
    assert_int_equal(call(f, fixture_do_clone, &spec), 0);
    return spec.id;
}

struct look {
    struct uuid id;
    bool there, hidden;
    enum snapshot_state state;
    char text[ERR_TEXT_BYTES];
    uint64_t exceptions, limit_bytes;
    unsigned nodes;
    bool job;
};

static inline void fixture_do_look(struct call *c)
{
    struct look *l = c->arg;
    struct volume *v = c->f->volume;
    struct snapshot *s = volume_snapshot_find(v, &l->id);
    const struct snapshot *each;
    struct hand_down_status h;
    TAILQ_FOREACH (each, &v->chain, link)
        l->nodes++;
    l->job = hand_down_status(v, &h);
    if (s != NULL) {
        struct cow_usage u = {.exceptions = 0};
        l->there = true;
        l->hidden = snapshot_record(s)->hidden;
        l->limit_bytes = snapshot_record(s)->limit_bytes;
        l->state = snapshot_state(s, l->text, sizeof l->text);
        if (s->store != NULL)
            cow_store_usage(s->store, &u);
        l->exceptions = u.exceptions;
    }
    call_end(c, 0, NULL);
}

static inline struct look fixture_look(struct fixture *f, struct uuid id)
{
    struct look l = {.id = id};
    (void)call(f, fixture_do_look, &l);
    return l;
}

static inline void fixture_wait_state(struct fixture *f, struct uuid id, enum snapshot_state want)
{
    for (int i = 0; i < 4000; i++) {
        if (fixture_look(f, id).state == want)
            return;
        (void)usleep(1000);
    }
    fail_msg("the snapshot does not become %d", (int)want);
}

/* Until a node is open again; the volume itself has no store. */
static inline void fixture_wait_sound(struct fixture *f, struct uuid node)
{
    if (fixture_look(f, node).there)
        fixture_wait_state(f, node, SNAPSHOT_OK);
}

static inline void fixture_do_make_busy(struct call *c)
{
    volume_snapshot_find(c->f->volume, c->arg)->busy = true;
    call_end(c, 0, NULL);
}

static inline void fixture_do_make_idle(struct call *c)
{
    volume_snapshot_find(c->f->volume, c->arg)->busy = false;
    call_end(c, 0, NULL);
}

/* As if it were being checked, or not any more. */
static inline void fixture_set_busy(struct fixture *f, struct uuid id, bool busy)
{
    assert_int_equal(call(f, busy ? fixture_do_make_busy : fixture_do_make_idle, &id), 0);
}

/* Reading a table again; the faults are the case's to free. */
struct checking {
    struct volume_check check;
    struct call *call;
};

static inline void fixture_check_called(struct volume_check *c, int code, const struct err *err)
{
    struct checking *g = c->user;
    free(c->faults);
    call_end(g->call, code, err);
}

static inline void fixture_do_check(struct call *c)
{
    struct checking *g = c->arg;
    g->call = c;
    g->check.done = fixture_check_called;
    g->check.user = g;
    volume_check_start(c->f->volume, &g->check);
}

/* A commit that changes nothing: those behind it wait. */
struct nothing {
    struct volume_commit commit;
    struct call *call;
};

static inline int nothing_change(struct volume_commit *c, struct volume_record *next,
                                 struct err *reterr)
{
    (void)c;
    (void)next;
    (void)reterr;
    return 0;
}

static inline void nothing_done(struct volume_commit *c, int code, const struct err *err)
{
    struct nothing *n = c->user;
    call_end(n->call, code, err);
}

static inline void fixture_do_nothing(struct call *c)
{
    struct nothing *n = c->arg;
    n->call = c;
    n->commit = (struct volume_commit){.change = nothing_change, .done = nothing_done, .user = n};
    volume_commit_start(c->f->volume, &n->commit);
}

/* -- files --------------------------------------------------------------------------- */

static inline char *fixture_cow_path(const struct fixture *f, struct uuid snapshot, char *buf,
                                     size_t len)
{
    char volume[UUID_TEXT_BYTES], text[UUID_TEXT_BYTES];
    (void)snprintf(buf, len, "%s/volumes/%s/%s.cow", f->dir.path, uuid_format(&f->id, volume),
                   uuid_format(&snapshot, text));
    return buf;
}

static inline char *fixture_origin_path(const struct fixture *f, char *buf, size_t len)
{
    char volume[UUID_TEXT_BYTES];
    (void)snprintf(buf, len, "%s/volumes/%s/origin", f->dir.path, uuid_format(&f->id, volume));
    return buf;
}

/* Write into a COW file past everybody. */
static inline void fixture_scribble(const struct fixture *f, struct uuid snapshot, off_t offset,
                                    uint8_t byte)
{
    char path[LIMIT_PATH_BYTES];
    int fd = open(fixture_cow_path(f, snapshot, path, sizeof path), O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(close(fd), 0);
}

/* Open again with the first byte of a COW file's header changed: 'x' damages it, 'S' mends it. */
static inline void fixture_reopen_with(struct fixture *f, struct uuid snapshot, uint8_t magic)
{
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    fixture_scribble(f, snapshot, 0, magic);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
}

/* -- the space of its owner ------------------------------------------------------------ */

static _Atomic int64_t space_used;
static _Atomic uint64_t space_max; /* 0: no limit */

static inline _Atomic int64_t *space_of(void *user, const char *owner)
{
    (void)user;
    (void)owner;
    return &space_used;
}

/* From now on it is counted; opens the volume again. */
static inline void fixture_limit_space(struct fixture *f, uint64_t max)
{
    f->env.space_of = space_of;
    f->env.space_bytes_max = &space_max;
    atomic_store(&space_used, 0);
    atomic_store(&space_max, max);
    fixture_reopen(f);
}

/* -- reading -------------------------------------------------------------------------- */

enum { ORIGIN = -1 };

struct reading {
    struct volume_read read;
    struct call *call;
    struct uuid snapshot;
    uint64_t offset;
    uint32_t len;
    int bytes[SIZE]; /* each byte, or ORIGIN */
};

static inline void fixture_read_done(struct volume_read *r, int code, const struct err *err)
{
    struct reading *g = r->user;
    unsigned part = 0;
    size_t in_part = 0;
    for (uint32_t i = 0; code == 0 && i < r->extent_count; i++)
        for (uint64_t b = 0; b < r->extents[i].len_bytes; b++) {
            uint64_t at = r->extents[i].offset_bytes + b - g->offset;
            if (r->extents[i].kind == VOLUME_EXTENT_ORIGIN) {
                g->bytes[at] = ORIGIN;
                continue;
            }
            g->bytes[at] = ((const uint8_t *)r->iov[part].iov_base)[in_part++];
            if (in_part == r->iov[part].iov_len) {
                part++;
                in_part = 0;
            }
        }
    buf_give(r->buf);
    volume_read_done(r);
    call_end(g->call, code, err);
}

static inline void fixture_do_read(struct call *c)
{
    struct reading *g = c->arg;
    g->call = c;
    g->read = (struct volume_read){.snapshot = g->snapshot,
                                   .offset_bytes = g->offset,
                                   .len_bytes = g->len,
                                   .done = fixture_read_done,
                                   .user = g};
    volume_read_start(c->f->volume, &g->read);
}

/* The whole view must be: chunk i reads want(i) everywhere. */
/* What a node (nil: the volume) reads as. */
static inline int fixture_read(struct fixture *f, struct uuid node, uint64_t offset_bytes,
                               uint32_t len_bytes, uint8_t *ret)
{
    struct reading *g = calloc(1, sizeof *g);
    g->snapshot = node;
    g->offset = offset_bytes;
    g->len = len_bytes;
    int rc = call(f, fixture_do_read, g);
    for (uint32_t i = 0; rc == 0 && i < len_bytes; i++)
        ret[i] = (uint8_t)g->bytes[i];
    free(g);
    return rc;
}

/* Each byte of [from, to) of a node is this one. */
static inline void fixture_expect_byte(struct fixture *f, struct uuid node, uint64_t from,
                                       uint64_t to, int byte)
{
    static uint8_t got[SIZE];
    assert_int_equal(fixture_read(f, node, from, (uint32_t)(to - from), got), 0);
    for (uint64_t i = 0; i < to - from; i++)
        if (got[i] != byte)
            fail_msg("byte %llu is %d, not %d", (unsigned long long)(from + i), got[i], byte);
}

#endif
