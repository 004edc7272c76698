/* SPDX-License-Identifier: Apache-2.0 */
/* A volume on a real shard with real files in a folder that goes away. The test runs on its
 * own thread; every step is posted to the shard and waited for. */
#ifndef SNAP_TESTS_UNIT_VOLUME_FIXTURE_H
#define SNAP_TESTS_UNIT_VOLUME_FIXTURE_H

#include "common/base/bytes.h"
#include "common/base/file.h"
#include "daemon/volume/change.h"
#include "daemon/volume/origin.h"
#include "daemon/volume/put.h"
#include "daemon/volume/read.h"
#include "daemon/volume/write.h"
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

enum { CHUNK_SECTORS = 8, CHUNK_BYTES = 4096, CHUNKS = 64, TTL_MS = 200 };

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

/* One of so many that are left, for what replaces a system call. Thread: any. */
static inline bool fixture_take_one(atomic_int *left)
{
    int n = atomic_load(left);
    while (n > 0)
        if (atomic_compare_exchange_weak(left, &n, n - 1))
            return true;
    return false;
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
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    if (sem_timedwait(&c->done, &until) < 0)
        fail_msg("a step on the shard did not end");
    sem_destroy(&c->done);
    return c->code;
}

static inline int call(struct fixture *f, void (*fn)(struct call *), void *arg)
{
    struct call c;
    call_begin(&c, f, fn, arg);
    return call_wait(&c);
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
    f->record.size_bytes = spec->size_bytes != 0 ? spec->size_bytes : CHUNKS * CHUNK_BYTES;
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
        (spec->kind == VOLUME_HOSTED && origin_create(&f->env, &f->record, &err) < 0))
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

/* Until no job is due any more. */
static inline void fixture_settle(struct fixture *f)
{
    for (int i = 0; i < 2000; i++) {
        struct look l = fixture_look(f, f->id);
        if (!l.job)
            return;
        (void)usleep(2000);
    }
    fail_msg("the hand-down job does not end");
}

/* -- the writer ------------------------------------------------------------------------ */

static inline void fixture_tell(struct volume *v, const struct volume_holder *h,
                                enum volume_event event)
{
    (void)h;
    struct fixture *f = (struct fixture *)((char *)v->set - offsetof(struct fixture, set));
    if (event == VOLUME_EVENT_QUIESCE)
        f->quiesced++;
    else
        f->lost++;
}

struct writer {
    const char *identity;
    struct uuid instance;
    uint64_t epoch;
    uint64_t session;
    bool steal;
    uint64_t size_bytes;
    const char *fingerprint;
    bool new_origin;
};

static inline void fixture_do_acquire(struct call *c)
{
    const struct writer *w = c->arg;
    struct volume_lease_request r = {
        .ask = {.identity = w->identity,
                .instance = w->instance,
                .epoch = w->epoch,
                .steal = w->steal},
        .origin_size_bytes = w->size_bytes,
        .fingerprint = (const uint8_t *)w->fingerprint,
        .fingerprint_bytes = w->fingerprint != NULL ? (uint32_t)strlen(w->fingerprint) : 0,
        .new_origin = w->new_origin,
        .holder = {.tell = fixture_tell, .session = w->session}};
    volume_lease_acquire(c->f->volume, &r, call_end, c);
}

static inline struct writer fixture_writer(const struct fixture *f, const char *identity)
{
    return (struct writer){.identity = identity,
                           .instance = f->instance,
                           .session = 1,
                           .size_bytes = CHUNKS * CHUNK_BYTES};
}

/* A lease for "w"; returns its epoch. */
static inline uint64_t fixture_lease(struct fixture *f)
{
    struct writer w = fixture_writer(f, "w");
    assert_int_equal(call(f, fixture_do_acquire, &w), 0);
    return f->volume->lease.epoch;
}

static inline void fixture_do_ready(struct call *c)
{
    struct volume *v = c->f->volume;
    volume_head_ready(v, "w", v->lease.epoch, 1, call_end, c);
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

/* One step of a merge by "w". */
struct merging {
    struct volume_merge m;
    void (*fn)(struct volume *v, struct volume_merge *m);
    struct call *call;
};

static inline void fixture_merge_called(struct volume_merge *m, int code, const struct err *err)
{
    struct merging *g = m->user;
    call_end(g->call, code, err);
}

static inline void fixture_do_merge(struct call *c)
{
    struct merging *g = c->arg;
    g->call = c;
    g->m.identity = "w";
    g->m.epoch = c->f->volume->lease.epoch;
    g->m.done = fixture_merge_called;
    g->m.user = g;
    g->fn(c->f->volume, &g->m);
}

/* -- content ------------------------------------------------------------------------------ */

struct batch {
    struct volume_put put;
    struct call *call;
    uint64_t old_chunks[CHUNKS], zero_chunks[CHUNKS];
    uint32_t old_count, zero_count;
    uint8_t fill; /* content of every chunk: this byte + its number */
    uint64_t epoch;
    struct uuid head;
    struct buf *buf;
    uint32_t added, existed, failed;
    int first_code;
    int16_t outcomes[2 * CHUNKS]; /* the zeros' behind the others' */
};

static inline void fixture_put_done(struct volume_put *p, int code, const struct err *err)
{
    struct batch *b = p->user;
    b->added = p->added;
    b->existed = p->existed;
    b->failed = p->failed;
    b->first_code = p->first_fail.code;
    if (p->outcomes != NULL)
        memcpy(b->outcomes, p->outcomes, (b->old_count + b->zero_count) * sizeof *p->outcomes);
    volume_put_done(p);
    buf_give(b->buf);
    call_end(b->call, code, err);
}

static inline void fixture_do_put(struct call *c)
{
    struct batch *b = c->arg;
    b->call = c;
    b->buf = buf_take(c->f->shard->pool, (size_t)b->old_count * CHUNK_BYTES + 1);
    for (uint32_t i = 0; i < b->old_count; i++)
        memset(b->buf->data + (size_t)i * CHUNK_BYTES, (int)(b->fill + b->old_chunks[i]),
               CHUNK_BYTES);
    b->put = (struct volume_put){.identity = "w",
                                 .epoch = b->epoch,
                                 .head = b->head,
                                 .old_chunks = b->old_chunks,
                                 .old_count = b->old_count,
                                 .payload = b->buf->data,
                                 .payload_bytes = (size_t)b->old_count * CHUNK_BYTES,
                                 .zero_chunks = b->zero_chunks,
                                 .zero_count = b->zero_count,
                                 .done = fixture_put_done,
                                 .user = b};
    volume_put_start(c->f->volume, &b->put);
}

/* Chunks first … first + count - 1. */
static inline struct batch fixture_batch(struct uuid head, uint64_t epoch, uint64_t first,
                                         uint32_t count, uint8_t fill)
{
    struct batch b = {.old_count = count, .fill = fill, .epoch = epoch, .head = head};
    for (uint32_t i = 0; i < count; i++)
        b.old_chunks[i] = first + i;
    return b;
}

static inline void fixture_put(struct fixture *f, struct uuid head, uint64_t epoch, uint64_t first,
                               uint32_t count, uint8_t fill)
{
    struct batch b = fixture_batch(head, epoch, first, count, fill);
    assert_int_equal(call(f, fixture_do_put, &b), 0);
    assert_int_equal(b.failed, 0);
}

enum { ORIGIN = -1 };

struct reading {
    struct volume_read read;
    struct call *call;
    struct uuid snapshot;
    uint64_t offset;
    uint32_t len;
    int bytes[CHUNKS * CHUNK_BYTES]; /* each byte, or ORIGIN */
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
static inline void fixture_expect(struct fixture *f, struct uuid snapshot, int (*want)(unsigned))
{
    struct reading *g = calloc(1, sizeof *g);
    g->snapshot = snapshot;
    g->len = CHUNKS * CHUNK_BYTES;
    assert_int_equal(call(f, fixture_do_read, g), 0);
    for (unsigned i = 0; i < CHUNKS * CHUNK_BYTES; i++)
        if (g->bytes[i] != want(i / CHUNK_BYTES))
            fail_msg("byte %u (chunk %u) is %d, not %d", i, i / CHUNK_BYTES, g->bytes[i],
                     want(i / CHUNK_BYTES));
    free(g);
}

/* -- hosted: the content itself --------------------------------------------------------------- */

struct writing {
    struct volume_write write; /* node, op, fua, offset_bytes, len_bytes: the test's */
    const uint8_t *data;       /* copied */
    struct call *call;
    uint8_t *aligned;
};

static inline void fixture_write_done(struct volume_write *w, int code, const struct err *err)
{
    struct writing *g = w->user;
    free(g->aligned);
    g->aligned = NULL;
    call_end(g->call, code, err);
}

static inline void fixture_do_write(struct call *c)
{
    struct writing *g = c->arg;
    void *p = NULL;
    g->call = c;
    if (g->data != NULL) {
        if (posix_memalign(&p, BUF_ALIGN_BYTES, (size_t)g->write.len_bytes + 1) != 0)
            abort();
        memcpy(p, g->data, (size_t)g->write.len_bytes);
    }
    g->aligned = p;
    g->write.data = p;
    g->write.done = fixture_write_done;
    g->write.user = g;
    volume_write_start(c->f->volume, &g->write);
}

static inline int fixture_write(struct fixture *f, struct uuid node, uint64_t offset_bytes,
                                const void *data, uint64_t len_bytes)
{
    struct writing g = {.write = {.node = node,
                                  .op = VOLUME_WRITE,
                                  .offset_bytes = offset_bytes,
                                  .len_bytes = len_bytes},
                        .data = data};
    return call(f, fixture_do_write, &g);
}

/* One byte, all over. */
static inline int fixture_fill(struct fixture *f, struct uuid node, uint64_t offset_bytes,
                               uint64_t len_bytes, int byte)
{
    uint8_t *data = malloc((size_t)len_bytes + 1);
    memset(data, byte, (size_t)len_bytes);
    int rc = fixture_write(f, node, offset_bytes, data, len_bytes);
    free(data);
    return rc;
}

static inline int fixture_op(struct fixture *f, struct uuid node, enum volume_write_op op,
                             uint64_t offset_bytes, uint64_t len_bytes)
{
    struct writing g = {
        .write = {.node = node, .op = op, .offset_bytes = offset_bytes, .len_bytes = len_bytes}};
    return call(f, fixture_do_write, &g);
}

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
    static uint8_t got[CHUNKS * CHUNK_BYTES];
    assert_int_equal(fixture_read(f, node, from, (uint32_t)(to - from), got), 0);
    for (uint64_t i = 0; i < to - from; i++)
        if (got[i] != byte)
            fail_msg("byte %llu is %d, not %d", (unsigned long long)(from + i), got[i], byte);
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

static inline char *fixture_cow_path(const struct fixture *f, struct uuid snapshot, char *buf,
                                     size_t len)
{
    char volume[UUID_TEXT_BYTES], text[UUID_TEXT_BYTES];
    (void)snprintf(buf, len, "%s/volumes/%s/%s.cow", f->dir.path, uuid_format(&f->id, volume),
                   uuid_format(&snapshot, text));
    return buf;
}

#endif
