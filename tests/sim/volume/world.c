/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated machine. It takes the place of the loop, the shard's thread and the control
 * thread: the functions of theirs that daemon/volume calls are defined here.
 *
 * A file is a memory disk that stays; who opens it gets a handle, a device that hands requests
 * on to it. Files come, and go, durably in one step, as the real ones do with a flush of
 * their folder; records are replaced whole. Thread: one.
 */
#include "tests/sim/volume/world.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/io/blk_priv.h"
#include "common/io/mem.h"
#include "daemon/volume/origin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct file {
    char *path;
    bool removed; /* as on a real machine: gone by name, there until it is closed */
    struct blk_dev *disk;
    struct handle *open; /* of this life */
    TAILQ_ENTRY(file) link;
};

/* A device over a file's disk. */
struct handle {
    struct blk_dev base;
    struct file *file;
};

struct saved {
    struct uuid id;
    char *text;
    size_t len;
    TAILQ_ENTRY(saved) link;
};

struct timer {
    struct loop_timer *owner;
    uint64_t at_ns;
    bool armed;
    TAILQ_ENTRY(timer) link;
};

struct job {
    struct control_job *job;
    bool ran;
    TAILQ_ENTRY(job) link;
};

struct world {
    struct rng rng;
    uint32_t align_bytes;
    uint64_t disk_bytes;
    struct blk_engine *engine;
    TAILQ_HEAD(, file) files;
    TAILQ_HEAD(, saved) records;
    /* of this life */
    struct shard *shard;
    struct volume_set *set;
    struct volume_env *env;
    TAILQ_HEAD(, timer) timers;
    TAILQ_HEAD(, job) jobs;
};

static struct world *the_world;
static uint64_t now_ns;

/* -- time ------------------------------------------------------------------------- */

static uint64_t world_now(void *user)
{
    (void)user;
    return now_ns;
}

static const struct clock world_clock = {.now_ns = world_now};

int loop_timer_init(struct loop *l, struct loop_timer *t, void (*fn)(void *), void *user,
                    struct err *reterr)
{
    (void)l;
    (void)reterr;
    struct timer *sim = calloc(1, sizeof *sim);
    CHECK(sim != NULL);
    *t = (struct loop_timer){.fn = fn, .user = user, .event = sim};
    sim->owner = t;
    TAILQ_INSERT_TAIL(&the_world->timers, sim, link);
    return 0;
}

void loop_timer_set(struct loop_timer *t, uint64_t delay_ms)
{
    struct timer *sim = t->event;
    sim->armed = true;
    sim->at_ns = now_ns + delay_ms * 1000000;
}

void loop_timer_stop(struct loop_timer *t)
{
    struct timer *sim = t->event;
    sim->armed = false;
}

void loop_timer_done(struct loop_timer *t)
{
    struct timer *sim = t->event;
    if (sim == NULL)
        return;
    TAILQ_REMOVE(&the_world->timers, sim, link);
    free(sim);
    t->event = NULL;
}

static bool timers_step(struct world *w)
{
    struct timer *t, *first = NULL;
    TAILQ_FOREACH (t, &w->timers, link)
        if (t->armed && (first == NULL || t->at_ns < first->at_ns))
            first = t;
    if (first == NULL)
        return false;
    now_ns = u64_max(now_ns, first->at_ns);
    first->armed = false;
    first->owner->fn(first->owner->user);
    return true;
}

/* -- the shard --------------------------------------------------------------------- */

void shard_kick_later(struct shard *s, struct shard_kick *k)
{
    if (k->queued)
        return;
    k->queued = true;
    TAILQ_INSERT_TAIL(&s->kicks, k, link);
}

void shard_kick_cancel(struct shard *s, struct shard_kick *k)
{
    if (!k->queued)
        return;
    k->queued = false;
    TAILQ_REMOVE(&s->kicks, k, link);
}

void world_turn(struct world *w)
{
    struct shard_kick *k;
    while ((k = TAILQ_FIRST(&w->shard->kicks)) != NULL) {
        shard_kick_cancel(w->shard, k);
        k->fn(k->user);
    }
    blk_engine_kick(w->engine);
}

/* -- the control thread --------------------------------------------------------------- */

void control_submit(struct control *c, struct control_job *job)
{
    (void)c;
    struct job *j = calloc(1, sizeof *j);
    CHECK(j != NULL);
    j->job = job;
    TAILQ_INSERT_TAIL(&the_world->jobs, j, link);
}

/* Jobs run in their order; that one has run is heard of later. */
static bool jobs_step(struct world *w)
{
    struct job *j, *next_run = NULL;
    TAILQ_FOREACH (j, &w->jobs, link)
        if (!j->ran) {
            next_run = j;
            break;
        }
    j = TAILQ_FIRST(&w->jobs);
    if (j == NULL)
        return false;
    if (j->ran && (next_run == NULL || rng_below(&w->rng, 2) == 0)) {
        TAILQ_REMOVE(&w->jobs, j, link);
        struct control_job *job = j->job;
        free(j);
        job->done(job);
        return true;
    }
    bool tells = next_run->job->back != NULL;
    next_run->ran = true;
    struct control_job *job = next_run->job;
    if (!tells) { /* run frees it */
        TAILQ_REMOVE(&w->jobs, next_run, link);
        free(next_run);
    }
    job->run(job);
    return true;
}

/* -- files --------------------------------------------------------------------------- */

struct forward {
    struct blk_req req;
    struct blk_req *outer;
    struct handle *handle;
};

static void handle_forwarded(struct blk_req *req, int result)
{
    struct forward *f = req->user;
    struct blk_req *outer = f->outer;
    int sys_errno = req->sys_errno;
    f->handle->base.info = f->handle->file->disk->info;
    free(f);
    blk_finish(outer, result, sys_errno);
}

/* The device's own view of its size, and of its flushes, has to hear of the end. */
static void handle_forward(struct handle *h, struct blk_req *outer)
{
    struct forward *f = calloc(1, sizeof *f);
    CHECK(f != NULL);
    f->outer = outer;
    f->handle = h;
    blk_forward(h->file->disk, &f->req, outer, handle_forwarded, f);
}

static void handle_submit(struct blk_dev *d, struct blk_req *req)
{
    struct handle *h = (struct handle *)d;
    struct blk_dev *disk = h->file->disk;
    if (req->op == BLK_GROW || req->op == BLK_FLUSH || (req->flags & BLK_FUA) != 0 ||
        req->then_flush) {
        handle_forward(h, req);
        return;
    }
    d->inflight--;
    disk->inflight++;
    req->dev = disk;
    disk->ops->submit(disk, req);
}

static void file_free(struct file *f)
{
    TAILQ_REMOVE(&the_world->files, f, link);
    blk_dev_close(f->disk);
    free(f->path);
    free(f);
}

static void handle_close(struct blk_dev *d)
{
    struct handle *h = (struct handle *)d;
    struct file *f = h->file;
    CHECK(f->open == h);
    f->open = NULL;
    free(h);
    if (f->removed)
        file_free(f);
}

static uint64_t handle_next_data(struct blk_dev *d, uint64_t offset_bytes)
{
    struct handle *h = (struct handle *)d;
    return blk_dev_next_data(h->file->disk, offset_bytes);
}

static uint64_t handle_next_hole(struct blk_dev *d, uint64_t offset_bytes)
{
    struct handle *h = (struct handle *)d;
    return blk_dev_next_hole(h->file->disk, offset_bytes);
}

static const struct blk_dev_ops handle_ops = {.submit = handle_submit,
                                              .close = handle_close,
                                              .next_data = handle_next_data,
                                              .next_hole = handle_next_hole};

static struct file *file_find(struct world *w, const char *path)
{
    struct file *f;
    TAILQ_FOREACH (f, &w->files, link)
        if (!f->removed && strcmp(f->path, path) == 0)
            return f;
    return NULL;
}

static struct file *file_make(struct world *w, const char *path, uint64_t bytes, uint64_t grow)
{
    struct file *f = calloc(1, sizeof *f);
    CHECK(f != NULL);
    f->path = strdup(path);
    CHECK(f->path != NULL);
    CHECK(mem_dev_new(w->engine, f->path, bytes, w->align_bytes, grow, &f->disk, NULL) == 0);
    TAILQ_INSERT_TAIL(&w->files, f, link);
    return f;
}

static int storage_open(void *user, struct blk_engine *e, const char *path, unsigned flags,
                        struct blk_dev **ret, struct err *reterr)
{
    struct world *w = user;
    struct file *f = file_find(w, path);
    if ((flags & BLK_OPEN_CREATE) != 0) {
        if (f != NULL)
            return err_set(reterr, SNAP_EEXIST, "%s exists", path);
        f = file_make(w, path, 0, w->disk_bytes);
    }
    if (f == NULL)
        return err_set(reterr, SNAP_ENOENT, "no file %s", path);
    if (f->open != NULL)
        return err_set(reterr, SNAP_EBUSY, "%s is in use", path);
    struct handle *h = calloc(1, sizeof *h);
    CHECK(h != NULL);
    h->file = f;
    blk_dev_init(&h->base, &handle_ops, e);
    h->base.info = f->disk->info;
    f->open = h;
    *ret = &h->base;
    return 0;
}

static int storage_remove(void *user, const char *path, struct err *reterr)
{
    struct world *w = user;
    struct file *f = file_find(w, path);
    (void)reterr;
    if (f == NULL)
        return 0;
    f->removed = true;
    if (f->open == NULL)
        file_free(f);
    return 0;
}

static struct saved *saved_find(struct world *w, const struct uuid *id)
{
    struct saved *s;
    TAILQ_FOREACH (s, &w->records, link)
        if (uuid_equal(&s->id, id))
            return s;
    return NULL;
}

static int storage_save(void *user, const char *dir, const struct volume_record *r,
                        struct err *reterr)
{
    (void)dir;
    struct world *w = user;
    char *text;
    size_t len;
    int rc = volume_record_format(r, &text, &len, reterr);
    if (rc < 0)
        return rc;
    struct saved *s = saved_find(w, &r->id);
    if (s == NULL) {
        s = calloc(1, sizeof *s);
        CHECK(s != NULL);
        s->id = r->id;
        TAILQ_INSERT_TAIL(&w->records, s, link);
    }
    free(s->text);
    s->text = text;
    s->len = len;
    return 0;
}

static int storage_make(void *user, const char *path, uint64_t size_bytes, bool bound,
                        struct err *reterr)
{
    struct world *w = user;
    if (bound)
        return err_set(reterr, SNAP_ENOTSUP, "there are files only");
    if (file_find(w, path) != NULL)
        return err_set(reterr, SNAP_EEXIST, "%s exists", path);
    (void)file_make(w, path, size_bytes, 0);
    return 0;
}

void world_save_record(struct world *w, const struct volume_record *r)
{
    CHECK(storage_save(w, "", r, NULL) == 0);
}

bool world_record(struct world *w, const struct uuid *volume, struct volume_record *ret)
{
    const struct saved *s = saved_find(w, volume);
    if (s == NULL)
        return false;
    struct err err = ERR_INIT;
    if (volume_record_parse(s->text, s->len, ret, &err) < 0) {
        (void)fprintf(stderr, "%s\n%s\n", s->text, err.text);
        abort();
    }
    return true;
}

struct blk_dev *world_file(struct world *w, const char *suffix)
{
    struct file *f;
    TAILQ_FOREACH (f, &w->files, link) {
        size_t len = strlen(f->path), n = strlen(suffix);
        if (!f->removed && len >= n && strcmp(f->path + len - n, suffix) == 0)
            return f->disk;
    }
    return NULL;
}

void world_each_file(const struct world *w, void (*fn)(const char *path, void *user), void *user)
{
    const struct file *f;
    TAILQ_FOREACH (f, &w->files, link)
        fn(f->path, user);
}

struct blk_engine *world_engine(struct world *w)
{
    return w->engine;
}

/* -- lives ------------------------------------------------------------------------------ */

static struct volume_storage storage = {
    .open = storage_open, .remove = storage_remove, .save = storage_save, .make = storage_make};

struct world *world_new(uint64_t seed, uint32_t align_bytes, uint64_t disk_bytes)
{
    struct world *w = calloc(1, sizeof *w);
    CHECK(w != NULL);
    rng_init(&w->rng, seed);
    w->align_bytes = align_bytes;
    w->disk_bytes = disk_bytes;
    CHECK(blk_engine_new_memory(rng_u64(&w->rng), &w->engine, NULL) == 0);
    TAILQ_INIT(&w->files);
    TAILQ_INIT(&w->records);
    TAILQ_INIT(&w->timers);
    TAILQ_INIT(&w->jobs);
    the_world = w;
    storage.user = w;
    now_ns = 1000000000;
    return w;
}

void world_boot(struct world *w, bool checksums)
{
    w->shard = calloc(1, sizeof *w->shard);
    w->set = calloc(1, sizeof *w->set);
    w->env = calloc(1, sizeof *w->env);
    CHECK(w->shard != NULL && w->set != NULL && w->env != NULL);
    TAILQ_INIT(&w->shard->kicks);
    w->shard->engine = w->engine;
    w->shard->loop = (struct loop *)w; /* is there, and that is all */
    /* small, so that blocks go; some lives have none */
    uint64_t blocks = rng_below(&w->rng, 32);
    if (blocks >= BLK_CACHE_BLOCKS_MIN)
        CHECK(blk_cache_new(blocks * BLK_CACHE_BLOCK_BYTES, &w->shard->cache, NULL) == 0);
    w->shard->pool = buf_pool_new(0);
    w->shard->answer_pool = buf_pool_new((size_t)8 << 20);
    w->shard->write_pool = buf_pool_new((size_t)8 << 20);
    w->shard->zeros = aligned_alloc(BUF_ALIGN_BYTES, SHARD_ZERO_BYTES);
    CHECK(w->shard->pool != NULL && w->shard->answer_pool != NULL && w->shard->write_pool != NULL &&
          w->shard->zeros != NULL);
    memset(w->shard->zeros, 0, SHARD_ZERO_BYTES);
    *w->env = (struct volume_env){.state_dir = "/sim",
                                  .storage = &storage,
                                  .clock = &world_clock,
                                  .cow_limit_bytes = w->disk_bytes,
                                  .cow_grow_step_bytes = 64 << 10,
                                  .chunk_size_sectors = 8,
                                  .lease_ttl_ms = 1000,
                                  .idle_after_ms = 20,
                                  .checksums = checksums};
    volume_set_init(w->set, w->shard, w->env, NULL);
}

struct volume_set *world_set(struct world *w)
{
    return w->set;
}

struct rng *world_rng(struct world *w)
{
    return &w->rng;
}

bool world_step(struct world *w)
{
    bool any = false;
    unsigned first = (unsigned)rng_below(&w->rng, 4);
    world_turn(w);
    if (first == 0)
        any = jobs_step(w);
    if (!any)
        any = mem_engine_step(w->engine);
    if (!any)
        any = jobs_step(w);
    if (!any && blk_engine_reap(w->engine) > 0)
        any = true;
    if (!any)
        any = timers_step(w);
    world_turn(w);
    return any;
}

void world_power_loss(struct world *w)
{
    mem_engine_power_loss(w->engine);
    blk_cache_abandon(w->shard->cache);
    w->shard->cache = NULL;
    struct file *f, *next;
    for (f = TAILQ_FIRST(&w->files); f != NULL; f = next) {
        next = TAILQ_NEXT(f, link);
        f->open = NULL;
        if (f->removed)
            file_free(f);
    }
    TAILQ_INIT(&w->timers);
    TAILQ_INIT(&w->jobs);
    w->set = NULL;
}

void world_free(struct world *w)
{
    struct file *f;
    struct saved *s;
    while ((f = TAILQ_FIRST(&w->files)) != NULL)
        file_free(f);
    while ((s = TAILQ_FIRST(&w->records)) != NULL) {
        TAILQ_REMOVE(&w->records, s, link);
        free(s->text);
        free(s);
    }
    free(w);
}
