/* SPDX-License-Identifier: Apache-2.0 */
/* A store on a disk in memory, and puts whose content tells which chunk and which try it is. */
#ifndef SNAP_TESTS_UNIT_COW_STORE_FIXTURE_H
#define SNAP_TESTS_UNIT_COW_STORE_FIXTURE_H

#include "tests/lib/cm.h"

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/cow/cow_store.h"
#include "common/io/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fix {
    struct blk_engine *engine;
    struct blk_dev *dev;
    struct cow_map *map;
    struct cow_store *store;
    uint32_t chunk_bytes;
    uint32_t area_exceptions;
    struct cow_store_options options;
    unsigned fault_count;
    struct cow_fault fault; /* the last */
};

/* A put of the test's own: one buffer a chunk, filled from (old_chunk, tag). */
struct put {
    struct cow_put put;
    uint64_t *old_chunks;
    int16_t *outcomes;
    struct iovec *iov;
    unsigned ran;
    int code;
    struct err err;
};

struct waited {
    unsigned ran;
    int code;
    struct err err;
    struct cow_merge_run run;
    struct cow_store *store;
};

static inline struct fix fix_disk(uint64_t seed, uint32_t chunk_bytes, uint64_t size_bytes,
                                  uint64_t grow_limit_bytes)
{
    struct fix f = {.chunk_bytes = chunk_bytes, .area_exceptions = chunk_bytes / 16};
    uint32_t align = chunk_bytes < 4096 ? 512 : 4096;

    assert_int_equal(blk_engine_new_memory(seed, &f.engine, NULL), 0);
    assert_int_equal(
        mem_dev_new(f.engine, "cow", size_bytes, align, grow_limit_bytes, &f.dev, NULL), 0);
    f.options.limit_bytes = grow_limit_bytes;
    return f;
}

static inline void fix_fault(void *user, const struct cow_fault *fault)
{
    struct fix *f = user;

    f->fault_count++;
    f->fault = *fault;
}

static inline int fix_open_code(struct fix *f, struct err *reterr)
{
    f->map = cow_map_new();
    assert_non_null(f->map);
    f->options.map = f->map;
    f->fault_count = 0;
    return cow_store_open_sync(f->dev, &f->options, fix_fault, f, &f->store, reterr);
}

static inline void fix_open(struct fix *f)
{
    struct err err = ERR_INIT;

    if (fix_open_code(f, &err))
        fail_msg("open: %s", err.text);
}

static inline void fix_create(struct fix *f)
{
    struct err err = ERR_INIT;

    if (cow_store_create_sync(f->dev, f->chunk_bytes / 512, &err))
        fail_msg("create: %s", err.text);
}

static inline void fix_close(struct fix *f)
{
    if (f->store)
        assert_int_equal(cow_store_close_sync(f->store, NULL), 0);
    f->store = NULL;
    cow_map_free(f->map);
    f->map = NULL;
}

static inline void fix_done(struct fix *f)
{
    fix_close(f);
    blk_dev_close(f->dev);
    blk_engine_free(f->engine);
}

/* Created and open. size in chunks. */
static inline struct fix fix_new(uint32_t chunk_bytes, uint64_t chunks)
{
    struct fix f = fix_disk(1, chunk_bytes, chunks * chunk_bytes, 0);

    fix_create(&f);
    fix_open(&f);
    return f;
}

static inline void fix_reopen(struct fix *f)
{
    fix_close(f);
    fix_open(f);
}

/* Until nothing is in flight. */
static inline void fix_run(struct fix *f)
{
    cow_store_kick(f->store);
    while (blk_engine_inflight(f->engine))
        blk_engine_wait(f->engine, -1);
}

static inline struct cow_usage fix_usage(const struct fix *f)
{
    struct cow_usage u;

    cow_store_usage(f->store, &u);
    return u;
}

static inline const char *fix_status(const struct fix *f)
{
    static char text[80];
    struct cow_usage u = fix_usage(f);

    return cow_status_format(&u, text, sizeof text);
}

/* -- puts ------------------------------------------------------------------ */

static inline void content_fill(uint8_t *buf, uint32_t chunk_bytes, uint64_t old_chunk,
                                uint64_t tag)
{
    for (uint32_t i = 0; i < chunk_bytes; i += 16) {
        le64_store(buf + i, old_chunk * 1000003 + i);
        le64_store(buf + i + 8, tag);
    }
}

static inline void put_done(struct cow_put *put, int code, const struct err *err)
{
    struct put *p = put->user;

    p->ran++;
    p->code = code;
    if (code)
        p->err = *err;
}

static inline struct put *put_new(struct fix *f, uint64_t first, uint32_t count, uint64_t tag)
{
    struct put *p = calloc(1, sizeof *p);

    assert_non_null(p);
    p->old_chunks = calloc(count + 1, sizeof *p->old_chunks);
    p->outcomes = calloc(count + 1, sizeof *p->outcomes);
    p->iov = calloc(count + 1, sizeof *p->iov);
    for (uint32_t i = 0; i < count; i++) {
        void *buf = NULL;

        assert_int_equal(posix_memalign(&buf, 4096, f->chunk_bytes), 0);
        content_fill(buf, f->chunk_bytes, first + i, tag);
        p->old_chunks[i] = first + i;
        p->outcomes[i] = COW_PENDING;
        p->iov[i] = (struct iovec){buf, f->chunk_bytes};
    }
    p->put = (struct cow_put){.old_chunks = p->old_chunks,
                              .count = count,
                              .iov = p->iov,
                              .iov_count = count,
                              .outcomes = p->outcomes,
                              .done = put_done,
                              .user = p};
    return p;
}

static inline void put_free(struct put *p)
{
    for (uint32_t i = 0; i < p->put.iov_count; i++)
        free(p->iov[i].iov_base);
    free(p->old_chunks);
    free(p->outcomes);
    free(p->iov);
    free(p);
}

static inline struct put *put_send(struct fix *f, uint64_t first, uint32_t count, uint64_t tag)
{
    struct put *p = put_new(f, first, count, tag);

    cow_store_put(f->store, &p->put);
    assert_int_equal(p->ran, 0);
    return p;
}

/* Put and wait; the put's code. */
static inline int fix_put(struct fix *f, uint64_t first, uint32_t count, uint64_t tag)
{
    struct put *p = put_send(f, first, count, tag);
    int code;

    fix_run(f);
    assert_int_equal(p->ran, 1);
    code = p->code;
    put_free(p);
    return code;
}

static inline bool fix_has(const struct fix *f, uint64_t old_chunk)
{
    uint64_t new_chunk;

    return cow_map_get(f->map, old_chunk, f->options.seq, &new_chunk);
}

/* The device holds this content for the chunk. */
static inline bool fix_holds(struct fix *f, uint64_t old_chunk, uint64_t tag)
{
    uint8_t *want = malloc(f->chunk_bytes);
    uint64_t new_chunk;
    bool same;

    assert_non_null(want);
    content_fill(want, f->chunk_bytes, old_chunk, tag);
    same = cow_map_get(f->map, old_chunk, f->options.seq, &new_chunk) &&
           memcmp(mem_dev_image(f->dev) + new_chunk * f->chunk_bytes, want, f->chunk_bytes) == 0;
    free(want);
    return same;
}

/* -- operations ----------------------------------------------------------------- */

static inline void waited_done(void *user, int code, const struct err *err)
{
    struct waited *w = user;

    w->ran++;
    w->code = code;
    if (code)
        w->err = *err;
}

static inline void waited_merge(void *user, const struct cow_merge_run *run, int code,
                                const struct err *err)
{
    ((struct waited *)user)->run = *run;
    waited_done(user, code, err);
}

static inline struct waited fix_merge_prepare(struct fix *f)
{
    struct waited w = {0};

    cow_store_merge_prepare(f->store, waited_merge, &w);
    assert_int_equal(w.ran, 0);
    fix_run(f);
    assert_int_equal(w.ran, 1);
    return w;
}

static inline int fix_merge_commit(struct fix *f, uint64_t table_len, uint32_t count)
{
    struct waited w = {0};

    cow_store_merge_commit(f->store, table_len, count, waited_done, &w);
    assert_int_equal(w.ran, 0);
    fix_run(f);
    assert_int_equal(w.ran, 1);
    return w.code;
}

static inline int fix_merge_end(struct fix *f)
{
    struct waited w = {0};

    cow_store_merge_end(f->store, waited_done, &w);
    assert_int_equal(w.ran, 0);
    fix_run(f);
    assert_int_equal(w.ran, 1);
    return w.code;
}

static inline int fix_invalidate(struct fix *f)
{
    struct waited w = {0};

    cow_store_invalidate(f->store, waited_done, &w);
    assert_int_equal(w.ran, 0);
    fix_run(f);
    assert_int_equal(w.ran, 1);
    return w.code;
}

/* -- the disk by hand -------------------------------------------------------------- */

static inline uint8_t *disk_entry(struct fix *f, uint64_t area_no, uint32_t index)
{
    uint64_t chunk = 1 + (uint64_t)(f->area_exceptions + 1) * area_no;

    return mem_dev_image(f->dev) + chunk * f->chunk_bytes + index * 16;
}

/* Seen at once; on the platter with mem_dev_settle(). */
static inline void disk_put(struct fix *f, uint64_t area_no, uint32_t index, uint64_t old_chunk,
                            uint64_t new_chunk)
{
    le64_store(disk_entry(f, area_no, index), old_chunk);
    le64_store(disk_entry(f, area_no, index) + 8, new_chunk);
}

static inline void disk_set(struct fix *f, uint64_t area_no, uint32_t index, uint64_t old_chunk,
                            uint64_t new_chunk)
{
    disk_put(f, area_no, index, old_chunk, new_chunk);
    mem_dev_settle(f->dev);
}

#endif
