/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz the COW loader: the input is what a device holds.
 *
 *   byte 0   bits 0-1  zeros behind the input: none, 64 KiB, 1 MiB, 4 MiB
 *            bit 2     the device can grow to twice its size
 *            bit 3     its block has 4096 bytes, not 512
 *            bits 4-7  seed of the order of completions
 *   the rest           the device from its first byte on
 *
 *   looked at, damage accepted ──> opened read-only ──> opened to write: put, merge ──> again
 *
 * Whatever the bytes are: nothing is written while they are only looked at; a device is
 * refused exactly when a fault was told; every exception of the map lies inside the device
 * and off the metadata; and what was opened, changed and closed opens again, the same.
 */
#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/cow/cow_store.h"
#include "common/io/mem.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

enum {
    INPUT_BYTES_MAX = 4 * 1024 * 1024,
    USED_CHUNK_BYTES_MAX = 64 * 1024, /* larger chunks are loaded, but not written to */
    PUTS = 4,
    MERGES_MAX = 8,
};

struct target {
    struct blk_engine *engine;
    struct blk_dev *dev;
    uint64_t size_bytes;
};

struct opened {
    struct cow_map *map;
    struct cow_store *store;
    uint64_t faults;
    int code;
};

struct awaited {
    bool done;
    int code;
    struct cow_merge_run run;
};

static void count_fault(void *user, const struct cow_fault *f)
{
    uint64_t *n = user;
    CHECK(f->code == SNAP_ECORRUPT && f->text[0] != '\0');
    CHECK(strnlen(f->text, sizeof f->text) < sizeof f->text);
    (*n)++;
}

static struct opened open_store(const struct target *t, bool read_only, bool accept_damaged)
{
    struct opened o = {.map = cow_map_new()};
    struct err err = ERR_INIT;
    CHECK(o.map != NULL);
    const struct cow_store_options options = {.map = o.map,
                                              .limit_bytes = read_only ? 0 : 2 * t->size_bytes,
                                              .grow_step_bytes = 65536,
                                              .read_only = read_only,
                                              .accept_damaged = accept_damaged};
    o.code = cow_store_open_sync(t->dev, &options, count_fault, &o.faults, &o.store, &err);
    CHECK(o.code == 0 || (err.code == o.code && err.text[0] != '\0'));
    CHECK((o.code == 0) == (o.store != NULL));
    CHECK(o.code == 0 || cow_map_count(o.map) == 0);
    return o;
}

static void close_store(struct opened *o)
{
    if (o->store != NULL)
        CHECK(cow_store_close_sync(o->store, NULL) == 0);
    cow_map_free(o->map);
}

static void check_map(const struct target *t, const struct opened *o)
{
    const struct cow_geometry *g = cow_store_geometry(o->store);
    uint64_t chunks = blk_dev_info(t->dev)->size_bytes / g->chunk_bytes;
    uint64_t old = 0, count = 0;
    uint32_t seq = 0;
    struct cow_run run;
    struct cow_usage usage;
    char text[80];
    CHECK(u64_is_pow2(g->chunk_sectors) && g->chunk_bytes == g->chunk_sectors * 512);
    while (cow_map_next(o->map, old, seq, &run)) {
        CHECK(run.count > 0 && run.new_chunk < chunks && run.count <= chunks - run.new_chunk);
        for (uint64_t i = 0; i < run.count; i++)
            CHECK(!cow_is_metadata_chunk(g, run.new_chunk + i) && run.new_chunk + i > 1);
        count += run.count;
        cow_map_after(&run, &old, &seq);
    }
    CHECK(count == cow_map_count(o->map) && count <= chunks);
    cow_store_usage(o->store, &usage);
    CHECK(strlen(cow_status_format(&usage, text, sizeof text)) < sizeof text);
}

/* -- changing it -------------------------------------------------------------------------- */

static void on_put(struct cow_put *put, int code, const struct err *err)
{
    struct awaited *w = put->user;
    (void)err;
    w->done = true;
    w->code = code;
}

static void on_run(void *user, const struct cow_merge_run *run, int code, const struct err *err)
{
    struct awaited *w = user;
    (void)err;
    w->done = true;
    w->code = code;
    if (code == 0)
        w->run = *run;
}

static void on_done(void *user, int code, const struct err *err)
{
    struct awaited *w = user;
    (void)err;
    w->done = true;
    w->code = code;
}

static int await(const struct target *t, const struct opened *o, const struct awaited *w)
{
    while (!w->done) {
        cow_store_kick(o->store);
        (void)blk_engine_wait(t->engine, -1);
    }
    return w->code;
}

static void put_some(const struct target *t, const struct opened *o)
{
    const size_t chunk_bytes = cow_store_geometry(o->store)->chunk_bytes;
    uint8_t *data = aligned_alloc(4096, u64_max(chunk_bytes, 4096));
    CHECK(data != NULL);
    memset(data, 0x5a, chunk_bytes);
    for (uint64_t i = 0; i < PUTS; i++) {
        struct iovec iov = {.iov_base = data, .iov_len = chunk_bytes};
        struct awaited w = {0};
        int16_t outcome = COW_PENDING;
        uint64_t old = i * 3, new_chunk = 0;
        bool had = cow_map_get(o->map, old, 0, &new_chunk);
        struct cow_put put = {.old_chunks = &old,
                              .count = 1,
                              .iov = &iov,
                              .iov_count = 1,
                              .outcomes = &outcome,
                              .done = on_put,
                              .user = &w};
        cow_store_put(o->store, &put);
        int code = await(t, o, &w);
        CHECK(outcome != COW_PENDING);
        CHECK(code == 0 || code == SNAP_ENOSPC || code == SNAP_EINVALID);
        CHECK(code != 0 || outcome == (had ? COW_EXISTS : COW_ADDED));
        CHECK(code != 0 || cow_map_get(o->map, old, 0, &new_chunk));
    }
    free(data);
}

static void merge_some(const struct target *t, const struct opened *o)
{
    for (int i = 0; i < MERGES_MAX; i++) {
        uint64_t before = cow_map_count(o->map);
        struct awaited prepared = {0}, committed = {0};
        cow_store_merge_prepare(o->store, on_run, &prepared);
        if (await(t, o, &prepared) < 0 || prepared.run.count == 0)
            return;
        CHECK(prepared.run.count <= before && prepared.run.table_len >= prepared.run.count);
        cow_store_merge_commit(o->store, prepared.run.table_len, prepared.run.count, on_done,
                               &committed);
        CHECK(await(t, o, &committed) == 0);
        CHECK(cow_map_count(o->map) == before - prepared.run.count);
    }
}

static void change(const struct target *t)
{
    struct opened o = open_store(t, false, false);
    if (o.code < 0) {
        close_store(&o);
        return;
    }
    bool valid = cow_store_state(o.store) == COW_READY;
    if (cow_store_geometry(o.store)->chunk_bytes <= USED_CHUNK_BYTES_MAX) {
        put_some(t, &o);
        merge_some(t, &o);
    }
    check_map(t, &o);
    uint64_t count = cow_map_count(o.map);
    close_store(&o);

    struct opened again = open_store(t, false, false);
    CHECK(again.code == 0 && cow_map_count(again.map) == count);
    CHECK((cow_store_state(again.store) == COW_READY) == valid);
    check_map(t, &again);
    close_store(&again);
}

/* -- the target ------------------------------------------------------------------------------ */

static void look(const struct target *t)
{
    struct opened seen = open_store(t, true, true);
    if (seen.code == 0)
        check_map(t, &seen);
    struct opened strict = open_store(t, true, false);
    if (seen.code == 0)
        CHECK((strict.code == 0) == (seen.faults == 0) &&
              (strict.code == 0 || strict.code == SNAP_ECORRUPT));
    else
        CHECK(strict.code == seen.code);
    if (strict.code == 0)
        CHECK(cow_map_count(strict.map) == cow_map_count(seen.map));
    close_store(&strict);
    close_store(&seen);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t tails[] = {0, 64 * 1024, 1024 * 1024, 4 * 1024 * 1024};
    struct target t = {0};
    if (size < 1 || size > INPUT_BYTES_MAX)
        return 0;
    uint8_t how = data[0];
    uint32_t align = how & 8 ? 4096 : 512;
    t.size_bytes = u64_align_up(size - 1 + tails[how & 3], align);
    if (t.size_bytes == 0)
        return 0;
    CHECK(blk_engine_new_memory(how >> 4, &t.engine, NULL) == 0);
    CHECK(mem_dev_new(t.engine, "fuzz", t.size_bytes, align, how & 4 ? 2 * t.size_bytes : 0, &t.dev,
                      NULL) == 0);
    memcpy(mem_dev_image(t.dev), data + 1, size - 1);
    mem_dev_settle(t.dev);
    look(&t);
    CHECK(mem_dev_counters(t.dev).writes == 0 && mem_dev_counters(t.dev).zeroes == 0);
    CHECK(memcmp(mem_dev_image(t.dev), data + 1, size - 1) == 0);
    change(&t);
    blk_dev_close(t.dev);
    blk_engine_free(t.engine);
    return 0;
}
