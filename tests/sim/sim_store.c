/* SPDX-License-Identifier: Apache-2.0 */
/* The exception store under power loss, at every point of every commit and merge.
 *
 * A scenario is drawn from a seed: chunk size, disk, how many puts of what size with
 * how many in flight, faults, merges. It is played once to its end, which tells
 * how many steps it has; then again from the same seed once for every step, with
 * the plug pulled there. After each loss the store is opened from what the platter has
 * and compared with a plain model:
 *
 *   acknowledged   must be there, with the content that was acknowledged
 *   in doubt       (put, not yet answered): whole, with a content that was put, or absent
 *   anything else  must not be there: a stale entry came back
 *
 * What is found absent is struck from the model, so that the second loss, after more
 * puts, shows whether it comes back. Merge: a chunk that left the table must stand on
 * the origin, durable, before.
 *
 * SEED=N plays scenario N alone, verbosely; SIM_RUNS says how many, SIM_SCALE how many
 * percent of that.
 */
#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/rng.h"
#include "common/cow/cow_store.h"
#include "common/io/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    OLDS = 192,        /* old chunks that a scenario knows */
    VERSIONS_MAX = 64, /* contents ever put of one of them */
    BATCH_MAX = 24,
    INFLIGHT_MAX = 12,
    RUNS_DEFAULT = 300,
    CUTS_MAX = 400, /* a longer scenario is cut at so many points, spread evenly */
};

/* What may and must be there. */
struct truth {
    uint32_t acked;                    /* version acknowledged, 0: none */
    uint32_t candidates[VERSIONS_MAX]; /* versions in doubt */
    unsigned candidate_count;
    uint32_t origin; /* version that stands on the origin, durable */
};

struct sim_put {
    struct cow_put put;
    uint64_t olds[BATCH_MAX];
    uint32_t versions[BATCH_MAX];
    int16_t outcomes[BATCH_MAX];
    struct iovec iov;
    struct sim *sim;
    bool busy;
};

struct sim {
    uint64_t seed;
    struct rng rng;
    struct blk_engine *engine;
    struct blk_dev *dev;
    struct cow_map *map;
    struct cow_store *store;
    struct cow_geometry geometry;
    struct truth truth[OLDS];
    struct sim_put puts[INFLIGHT_MAX];
    uint32_t next_version;
    uint32_t align_bytes;
    uint64_t limit_bytes;
    uint64_t steps, cut_at; /* completions so far; where the plug is pulled (0: nowhere) */
    bool cut;
    bool poisoned_ok; /* a fault was injected that may poison */
    bool merging;
    bool idles; /* the store is told when it is idle */
    bool verbose;
    const char *phase;
};

static _Noreturn void sim_fail(const struct sim *s, const char *what, uint64_t old)
{
    (void)printf("sim_store: SEED=%" PRIu64 " cut at step %" PRIu64 " (%s): old chunk %" PRIu64
                 ": %s\n",
                 s->seed, s->cut_at, s->phase, old, what);
    exit(1);
}

/* -- content: every byte follows from (old, version) ------------------------------------ */

static uint64_t word_of(uint64_t old, uint32_t version, uint32_t i)
{
    uint64_t x = (old * 0x9e3779b97f4a7c15U) ^ ((uint64_t)version << 32) ^ i;
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9U;
    return x ^ (x >> 32);
}

static void fill(uint8_t *p, uint32_t len, uint64_t old, uint32_t version)
{
    for (uint32_t i = 0; i < len / 8; i++)
        le64_store(p + (size_t)i * 8, word_of(old, version, i));
}

static bool holds(const uint8_t *p, uint32_t len, uint64_t old, uint32_t version)
{
    for (uint32_t i = 0; i < len / 8; i++)
        if (le64_load(p + (size_t)i * 8) != word_of(old, version, i))
            return false;
    return true;
}

/* -- time: one completion is one step; the plug is pulled between steps ------------------- */

static bool step(struct sim *s)
{
    if (s->cut)
        return false;
    if (s->store)
        cow_store_kick(s->store);
    bool any = mem_engine_step(s->engine);
    if (any && ++s->steps == s->cut_at)
        s->cut = true;
    return any && !s->cut;
}

/* -- puts -------------------------------------------------------------------------------------- */

static void put_done(struct cow_put *put, int code, const struct err *err)
{
    struct sim_put *p = put->user;
    struct sim *s = p->sim;
    (void)code;
    (void)err;
    p->busy = false;
    for (uint32_t i = 0; i < put->count; i++) {
        struct truth *t = &s->truth[p->olds[i]];
        if (p->outcomes[i] == COW_ADDED) {
            if (t->acked)
                sim_fail(s, "added twice", p->olds[i]);
            t->acked = p->versions[i];
        } else if (p->outcomes[i] == COW_EXISTS) {
            if (!t->acked) /* by another put of the same turn, or this batch's own repeat */
                continue;
        } else if (p->outcomes[i] == COW_PENDING) {
            sim_fail(s, "done while pending", p->olds[i]);
        }
    }
    free(p->iov.iov_base);
    p->iov.iov_base = NULL;
}

static void put_some(struct sim *s)
{
    struct sim_put *p = NULL;
    for (int i = 0; i < INFLIGHT_MAX && !p; i++)
        if (!s->puts[i].busy)
            p = &s->puts[i];
    if (!p)
        return;
    uint32_t count = 1 + (uint32_t)rng_below(&s->rng, BATCH_MAX);
    uint32_t chunk = s->geometry.chunk_bytes;
    uint64_t base = rng_below(&s->rng, OLDS);
    bool sequential = rng_chance(&s->rng, 50);
    uint8_t *data = aligned_alloc(4096, u64_align_up((uint64_t)count * chunk, 4096));
    CHECK(data);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t old = sequential ? (base + i) % OLDS : rng_below(&s->rng, OLDS);
        struct truth *t = &s->truth[old];
        if (t->candidate_count == VERSIONS_MAX)
            old = base, t = &s->truth[old];
        p->olds[i] = old;
        p->versions[i] = ++s->next_version;
        p->outcomes[i] = COW_PENDING;
        if (t->candidate_count < VERSIONS_MAX)
            t->candidates[t->candidate_count++] = p->versions[i];
        fill(data + (size_t)i * chunk, chunk, old, p->versions[i]);
    }
    p->iov = (struct iovec){.iov_base = data, .iov_len = (size_t)count * chunk};
    p->put = (struct cow_put){
        .old_chunks = p->olds,
        .count = count,
        .iov = &p->iov,
        .iov_count = 1,
        .outcomes = p->outcomes,
        .done = put_done,
        .user = p,
    };
    p->sim = s;
    p->busy = true;
    cow_store_put(s->store, &p->put);
}

static bool any_busy(const struct sim *s)
{
    for (int i = 0; i < INFLIGHT_MAX; i++)
        if (s->puts[i].busy)
            return true;
    return false;
}

static void inject_fault(struct sim *s)
{
    static const int errnos[] = {5 /* EIO */, 28 /* ENOSPC */};
    int sys_errno = errnos[rng_below(&s->rng, 2)];
    unsigned n = 1 + (unsigned)rng_below(&s->rng, 6);
    switch (rng_below(&s->rng, 4)) {
    case 0:
        mem_dev_fault_at(s->dev, BLK_FLUSH, n, MEM_FAULT_ERROR, sys_errno);
        s->poisoned_ok = true;
        break;
    case 1:
        mem_dev_fault_at(s->dev, BLK_GROW, 1, MEM_FAULT_ERROR, 28);
        break;
    case 2:
        mem_dev_fault_at(s->dev, BLK_WRITE, n, MEM_FAULT_SHORT, 0);
        break;
    default: /* a data write or an area write, as it happens */
        mem_dev_fault_at(s->dev, BLK_WRITE, n, MEM_FAULT_ERROR, sys_errno);
        s->poisoned_ok = true;
        break;
    }
}

/* Until all puts are answered, then what an idle store does: a few steps, the last of which
 * may be in flight when the next puts come. */
static void idle_some(struct sim *s)
{
    while (any_busy(s) || blk_engine_inflight(s->engine))
        if (!step(s))
            break;
    for (uint64_t n = 1 + rng_below(&s->rng, 3); n-- > 0 && !s->cut;) {
        if (!cow_store_idle(s->store))
            return;
        for (uint64_t k = rng_below(&s->rng, 3); k-- > 0;)
            (void)step(s);
    }
}

/* Bursts of puts with completions between, to the end or the cut. */
static void play_puts(struct sim *s, unsigned bursts, unsigned fault_percent)
{
    s->phase = "puts";
    for (unsigned b = 0; b < bursts && !s->cut; b++) {
        if (rng_chance(&s->rng, fault_percent))
            inject_fault(s);
        if (s->idles && rng_chance(&s->rng, 30))
            idle_some(s);
        for (uint64_t n = rng_below(&s->rng, 4); n-- > 0;)
            put_some(s);
        cow_store_kick(s->store);
        for (uint64_t n = rng_below(&s->rng, 12); n-- > 0;)
            if (!step(s))
                break;
    }
    while (!s->cut && any_busy(s))
        if (!step(s) && !s->cut && any_busy(s)) {
            cow_store_kick(s->store);
            if (any_busy(s) && blk_engine_inflight(s->engine) == 0)
                sim_fail(s, "nothing in flight, yet a put is unanswered", 0);
        }
}

/* -- open
 * ------------------------------------------------------------------------------------------ */

struct waited {
    bool done;
    int code;
    struct cow_store *store;
    struct cow_merge_run run;
    struct err err;
};

static void on_done(void *user, int code, const struct err *err)
{
    struct waited *w = user;
    w->done = true;
    w->code = code;
    if (err)
        w->err = *err;
}

static void on_open(void *user, struct cow_store *store, int code, const struct err *err)
{
    struct waited *w = user;
    w->store = store;
    on_done(w, code, err);
}

static void on_prepared(void *user, const struct cow_merge_run *run, int code,
                        const struct err *err)
{
    struct waited *w = user;
    if (run)
        w->run = *run;
    on_done(w, code, err);
}

/* Steps until w is done; false: the plug was pulled before. */
static bool await(struct sim *s, const struct waited *w)
{
    while (!w->done && !s->cut)
        if (!step(s) && !w->done && !s->cut && blk_engine_inflight(s->engine) == 0)
            sim_fail(s, "nothing in flight, yet no answer", 0);
    return w->done;
}

static struct cow_store_options options_of(const struct sim *s)
{
    return (struct cow_store_options){
        .map = s->map,
        .limit_bytes = s->limit_bytes,
        .grow_step_bytes = 64 * (uint64_t)s->geometry.chunk_bytes,
    };
}

/* false: cut meanwhile (the half-opened store is abandoned). */
static bool open_store(struct sim *s)
{
    struct waited w = {0};
    s->phase = "open";
    cow_map_free(s->map);
    s->map = cow_map_new();
    CHECK(s->map);
    struct cow_store_options options = options_of(s);
    struct cow_store *opening = cow_store_open(s->dev, &options, NULL, on_open, &w);
    if (!await(s, &w)) {
        mem_engine_power_loss(s->engine);
        cow_store_abandon(opening);
        return false;
    }
    if (w.code < 0) {
        (void)printf("%s\n", w.err.text);
        sim_fail(s, "open failed", 0);
    }
    s->store = w.store;
    return true;
}

/* -- what is there after a loss
 * ------------------------------------------------------------------------ */

static void verify_chunk(struct sim *s, uint64_t old)
{
    struct truth *t = &s->truth[old];
    uint64_t new_chunk = 0;
    bool there = cow_map_get(s->map, old, 0, &new_chunk);
    if (!there) {
        if (t->acked && t->origin != t->acked)
            sim_fail(s, "acknowledged, and lost", old);
        t->candidate_count = 0;
        if (!t->acked)
            return;
        t->acked = 0; /* rolled back to the origin: free to be put again */
        return;
    }
    const uint8_t *p = mem_dev_image(s->dev) + new_chunk * s->geometry.chunk_bytes;
    if (t->acked) {
        if (!holds(p, s->geometry.chunk_bytes, old, t->acked))
            sim_fail(s, "acknowledged, and its content is another", old);
        t->candidate_count = 0;
        return;
    }
    for (unsigned i = 0; i < t->candidate_count; i++)
        if (holds(p, s->geometry.chunk_bytes, old, t->candidates[i])) {
            t->acked = t->candidates[i];
            t->candidate_count = 0;
            return;
        }
    sim_fail(s, t->candidate_count ? "there, torn" : "there, though never put: resurrected", old);
}

static void verify(struct sim *s)
{
    s->phase = "verify";
    if (cow_store_state(s->store) != COW_READY)
        sim_fail(s, "not ready after a loss", 0);
    for (uint64_t old = 0; old < OLDS; old++)
        verify_chunk(s, old);
    struct cow_run run;
    if (cow_map_next(s->map, OLDS, 0, &run))
        sim_fail(s, "an exception of a chunk that does not exist", run.old_chunk);
}

/* Pull the plug, plug in again, open (which may be cut once more), compare. */
static void lose_and_recover(struct sim *s)
{
    s->phase = "loss";
    mem_engine_power_loss(s->engine);
    cow_store_abandon(s->store);
    s->store = NULL;
    for (int i = 0; i < INFLIGHT_MAX; i++) {
        free(s->puts[i].iov.iov_base);
        s->puts[i] = (struct sim_put){0};
    }
    s->cut = false;
    /* now and then recovery itself is cut */
    s->cut_at = rng_chance(&s->rng, 30) ? s->steps + 1 + rng_below(&s->rng, 8) : 0;
    if (!open_store(s)) {
        s->cut = false;
        s->cut_at = 0;
        CHECK(open_store(s));
    }
    s->cut_at = 0;
    s->merging = false;
    verify(s);
}

/* -- merge
 * ------------------------------------------------------------------------------------------------
 */

/* The nth exception from the end of a table of len. */
static struct cow_exception from_end(const struct sim *s, uint64_t len, uint32_t n)
{
    const uint64_t at = len - 1 - n, area = at / s->geometry.area_exceptions;
    struct cow_exception x;
    cow_exception_decode(
        &x, mem_dev_image(s->dev) + cow_area_chunk(&s->geometry, area) * s->geometry.chunk_bytes,
        (uint32_t)(at % s->geometry.area_exceptions));
    return x;
}

/* Roll some runs back, or several at once; what left the table must stand on the origin before. */
static void play_merge(struct sim *s, unsigned runs)
{
    s->phase = "merge";
    for (unsigned i = 0; i < runs && !s->cut; i++) {
        struct waited prepared = {0}, committed = {0};
        cow_store_merge_prepare(s->store, on_prepared, &prepared);
        if (!await(s, &prepared))
            return;
        if (prepared.code < 0 && s->poisoned_ok)
            return;
        if (prepared.code < 0)
            sim_fail(s, prepared.err.text, 0);
        if (prepared.run.count == 0)
            break;
        const bool many = rng_chance(&s->rng, 50);
        const uint32_t most = many ? prepared.run.commit_max : prepared.run.count;
        const uint32_t count = 1 + (uint32_t)rng_below(&s->rng, most);
        uint64_t olds[OLDS];
        CHECK(count <= OLDS);
        for (uint32_t n = 0; n < count; n++) {
            const struct cow_exception x = from_end(s, prepared.run.table_len, n);
            const uint64_t old = olds[n] = x.old_chunk;
            if (n < prepared.run.count &&
                old != prepared.run.old_chunk + prepared.run.count - 1 - n)
                sim_fail(s, "the run is not the table's end", old);
            struct truth *t = &s->truth[old];
            if (!t->acked || !holds(mem_dev_image(s->dev) + x.new_chunk * s->geometry.chunk_bytes,
                                    s->geometry.chunk_bytes, old, t->acked))
                sim_fail(s, "merge offers what was not acknowledged", old);
            t->origin = t->acked;
        }
        cow_store_merge_commit(s->store, prepared.run.table_len, count, on_done, &committed);
        if (!await(s, &committed))
            return;
        if (committed.code < 0 && s->poisoned_ok)
            return;
        if (committed.code < 0)
            sim_fail(s, committed.err.text, 0);
        for (uint32_t n = 0; n < count; n++)
            s->truth[olds[n]].acked = 0;
    }
    struct waited ended = {0};
    cow_store_merge_end(s->store, on_done, &ended);
    if (await(s, &ended) && ended.code < 0 && !s->poisoned_ok)
        sim_fail(s, ended.err.text, 0);
    for (uint64_t old = 0; old < OLDS && !s->cut; old++)
        if (!s->truth[old].acked) /* free again: a later put is a new one */
            s->truth[old].candidate_count = 0;
}

/* -- a scenario
 * ------------------------------------------------------------------------------------------------
 */

static void sim_begin(struct sim *s, uint64_t seed, uint64_t cut_at)
{
    static const uint32_t chunk_sectors[] = {1, 1, 2, 8};
    *s = (struct sim){.seed = seed, .cut_at = cut_at, .phase = "create"};
    rng_init(&s->rng, seed);
    uint32_t sectors = chunk_sectors[rng_below(&s->rng, 4)];
    s->align_bytes = sectors == 8 && rng_chance(&s->rng, 50) ? 4096 : 512;
    CHECK(cow_geometry_init(&s->geometry, sectors, s->align_bytes, NULL) == 0);
    uint64_t room = (uint64_t)s->geometry.chunk_bytes * (OLDS * 2 + rng_below(&s->rng, 200));
    bool grows = rng_chance(&s->rng, 50);
    uint64_t begin = (uint64_t)s->geometry.chunk_bytes * 8;
    if (rng_chance(&s->rng, 20)) /* a device that is too small for all of it */
        room = (uint64_t)s->geometry.chunk_bytes * (40 + rng_below(&s->rng, 100));
    room = u64_align_up(room, 4096);
    s->limit_bytes = grows ? room : 0;
    CHECK(blk_engine_new_memory(rng_u64(&s->rng), &s->engine, NULL) == 0);
    CHECK(mem_dev_new(s->engine, "cow", grows ? u64_align_up(begin, 4096) : room, s->align_bytes,
                      s->limit_bytes, &s->dev, NULL) == 0);
    /* what an earlier use left on the disk */
    if (rng_chance(&s->rng, 50)) {
        rng_fill(&s->rng, mem_dev_image(s->dev), blk_dev_info(s->dev)->size_bytes);
        mem_dev_settle(s->dev);
    }
}

static void sim_end(struct sim *s)
{
    if (s->store) {
        struct waited w = {0};
        cow_store_close(s->store, on_done, &w);
        while (!w.done) {
            cow_store_kick(s->store);
            (void)mem_engine_step(s->engine);
        }
    }
    for (int i = 0; i < INFLIGHT_MAX; i++)
        free(s->puts[i].iov.iov_base);
    cow_map_free(s->map);
    blk_dev_close(s->dev);
    blk_engine_free(s->engine);
}

/* false: cut before the store existed; it is made again then. */
static void create_store(struct sim *s)
{
    struct waited w = {0};
    struct cow_store *making = cow_store_create(s->dev, s->geometry.chunk_sectors, on_done, &w);
    if (!await(s, &w)) {
        mem_engine_power_loss(s->engine);
        cow_store_abandon(making);
        s->cut = false;
        s->cut_at = 0;
        CHECK(cow_store_create_sync(s->dev, s->geometry.chunk_sectors, NULL) == 0);
        return;
    }
    if (w.code < 0)
        sim_fail(s, w.err.text, 0);
}

/* A round: puts, perhaps a merge and puts again; recover when cut or poisoned. */
static void play_round(struct sim *s, unsigned fault_percent)
{
    unsigned bursts = 4 + (unsigned)rng_below(&s->rng, 12);
    bool merge = rng_chance(&s->rng, 40);
    play_puts(s, bursts, fault_percent);
    if (!s->cut && merge && cow_store_state(s->store) == COW_READY)
        play_merge(s, 1 + (unsigned)rng_below(&s->rng, 8));
    if (!s->cut && merge && cow_store_state(s->store) == COW_READY)
        play_puts(s, 4, fault_percent);
    if (!s->cut && cow_store_state(s->store) != COW_READY && !s->poisoned_ok)
        sim_fail(s, "the store gave up without a fault", 0);
    lose_and_recover(s);
}

/* Returns the steps that the first round took. */
static uint64_t play(uint64_t seed, uint64_t cut_at)
{
    static struct sim sim;
    struct sim *s = &sim;
    sim_begin(s, seed, cut_at);
    unsigned fault_percent = rng_chance(&s->rng, 30) ? 10 : 0;
    s->idles = rng_chance(&s->rng, 50);
    create_store(s);
    uint64_t steps = 0;
    if (open_store(s)) {
        play_round(s, fault_percent);
        steps = s->steps;
    } else {
        s->cut = false;
        s->cut_at = 0;
        CHECK(open_store(s));
        verify(s);
    }
    s->cut_at = s->steps + 1 + rng_below(&s->rng, 60);
    play_round(s, 0);
    s->cut_at = s->steps + 1 + rng_below(&s->rng, 60);
    play_round(s, 0);
    sim_end(s);
    return steps;
}

static uint64_t env_u64(const char *name, uint64_t fallback)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 0) : fallback;
}

int main(void)
{
    uint64_t one = env_u64("SEED", 0);
    uint64_t runs = env_u64("SIM_RUNS", RUNS_DEFAULT) * env_u64("SIM_SCALE", 100) / 100;
    uint64_t base = one;
    if (!one)
        rng_secret(&base, sizeof base);
    base &= 0xffffffff;
    uint64_t plays = 0;
    for (uint64_t i = 0; i < (one ? 1 : u64_max(runs, 1)); i++) {
        uint64_t seed = base + i, steps = play(seed, 0);
        uint64_t stride = steps / CUTS_MAX + 1;
        for (uint64_t cut = 1; cut <= steps; cut += stride, plays++)
            (void)play(seed, cut);
    }
    (void)printf("sim_store: seeds from %" PRIu64 ": %" PRIu64 " power losses survived\n", base,
                 plays);
    return 0;
}
