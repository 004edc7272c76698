/* SPDX-License-Identifier: Apache-2.0 */
/* Opening, driving and ending a store for cow_driver; see session.h.
 *
 *            cut = 0            cut = n
 *   disk     the file           memory, begins as the file
 *   end      close              after n writes and flushes: power loss, the platter
 *                               goes to the file, _exit(0); or close, likewise
 *
 * It knows nothing of what is put or merged. One thread.
 */
#include "tests/kernel/driver/session.h"

#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/io/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Noreturn void session_die(const struct err *err, const char *what)
{
    fprintf(stderr, "cow_driver: %s: %s\n", what, err->text);
    exit(err_exit_code(err->code));
}

static _Noreturn void die_errno(const char *what)
{
    fprintf(stderr, "cow_driver: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void disk_load(struct session *s, struct session_disk *disk)
{
    struct err err = ERR_INIT;
    FILE *f = fopen(disk->path, "rb");

    if (!f || fseek(f, 0, SEEK_END) < 0)
        die_errno(disk->path);
    const size_t bytes = (size_t)ftell(f);
    rewind(f);
    if (mem_dev_new(s->engine, disk->path, bytes, SECTOR_BYTES, 0, &disk->dev, &err))
        session_die(&err, disk->path);
    if (fread(mem_dev_image(disk->dev), 1, bytes, f) != bytes)
        die_errno(disk->path);
    fclose(f);
    mem_dev_settle(disk->dev);
}

static void disk_save(const struct session_disk *disk)
{
    if (!disk->dev)
        return;
    FILE *f = fopen(disk->path, "wb");
    const size_t bytes = blk_dev_info(disk->dev)->size_bytes;
    if (!f || fwrite(mem_dev_platter(disk->dev), 1, bytes, f) != bytes || fclose(f))
        die_errno(disk->path);
}

static void disk_open(struct session *s, struct session_disk *disk, const char *path)
{
    struct err err = ERR_INIT;
    disk->path = path;
    if (s->cut)
        disk_load(s, disk);
    else if (blk_open(s->engine, path, 0, &disk->dev, &err))
        session_die(&err, path);
}

void session_open_dev(struct session *s, const char *path)
{
    struct err err = ERR_INIT;
    if (s->cut ? blk_engine_new_memory(s->seed, &s->engine, &err)
               : blk_engine_new(&s->engine, &err))
        session_die(&err, "engine");
    disk_open(s, &s->cow, path);
}

void session_open(struct session *s, const char *path, uint64_t limit_sectors)
{
    struct err err = ERR_INIT;
    session_open_dev(s, path);
    s->map = cow_map_new();
    CHECK(s->map);
    const struct cow_store_options options = {.map = s->map,
                                              .limit_bytes = limit_sectors * SECTOR_BYTES};
    if (cow_store_open_sync(s->cow.dev, &options, NULL, NULL, &s->store, &err))
        session_die(&err, path);
}

void session_open_origin(struct session *s, const char *path)
{
    disk_open(s, &s->origin, path);
}

void session_close(struct session *s)
{
    struct err err = ERR_INIT;
    if (s->store && cow_store_close_sync(s->store, &err))
        session_die(&err, "close");
    if (s->cut) {
        disk_save(&s->cow);
        disk_save(&s->origin);
    }
    cow_map_free(s->map);
    blk_dev_close(s->origin.dev);
    blk_dev_close(s->cow.dev);
    blk_engine_free(s->engine);
}

void session_cut(struct session *s)
{
    if (!s->cut || mem_engine_submitted(s->engine) < s->cut)
        return;
    mem_engine_power_loss(s->engine);
    disk_save(&s->cow);
    disk_save(&s->origin);
    fflush(stdout);
    _exit(0); /* as the machine would: nothing is tidied up */
}

bool session_turn(struct session *s)
{
    cow_store_kick(s->store);
    const bool worked = blk_engine_wait(s->engine, -1) > 0;
    session_cut(s);
    return worked || blk_engine_inflight(s->engine) > 0;
}

void session_drive(struct session *s, const bool *flag)
{
    while (!*flag) {
        const bool working = session_turn(s);
        CHECK(working || *flag);
    }
}
