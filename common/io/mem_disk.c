/* SPDX-License-Identifier: Apache-2.0 */
/* The model of a disk that loses power; see mem_disk.h for its parts.
 *
 * A flush carries the versions that had happened when it was submitted. Those
 * that happen while it runs stay in the list: whether the flush carried them
 * too is decided when power is lost, which nobody can tell apart.
 *
 * A durable write leaves older versions of its sectors in the list; the
 * sector's floor keeps them from coming back.
 *
 * What a power loss does to the versions, drawn from the seed for each disk:
 *   per sector  each sector has the platter's content or any of its versions,
 *               all equally likely (writes torn and out of order)
 *   per write   each write is whole or absent (out of order, not torn)
 *   in order    the oldest few, and a part of the next one
 *   none, all   the cache is lost, or saved by the last charge
 *
 * Knows nothing of requests. Not a word of it depends on anything but the calls
 * and the generator. Thread: one.
 */
#include "common/io/mem_disk.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/limits.h"

#include <stdlib.h>
#include <string.h>

enum { COMPARE_BYTES = 4096 };

/* -- versions -------------------------------------------------------------------- */

struct mem_version *mem_version_new(uint64_t offset_bytes, uint64_t len_bytes,
                                    const struct iovec *iov, unsigned iov_count)
{
    struct mem_version *v = calloc(1, sizeof *v);

    if (v == NULL)
        return NULL;
    v->offset_bytes = offset_bytes;
    v->len_bytes = len_bytes;
    if (iov == NULL)
        return v;
    v->data = malloc(len_bytes);
    if (v->data == NULL) {
        free(v);
        return NULL;
    }
    uint8_t *to = v->data;
    for (unsigned i = 0; i < iov_count; i++) {
        memcpy(to, iov[i].iov_base, iov[i].iov_len);
        to += iov[i].iov_len;
    }
    return v;
}

void mem_version_free(struct mem_version *v)
{
    if (v == NULL)
        return;
    free(v->data);
    free(v);
}

static bool is_grow(const struct mem_version *v)
{
    return v->len_bytes == 0;
}

static uint64_t first_sector(const struct mem_version *v)
{
    return v->offset_bytes / SECTOR_BYTES;
}

static uint64_t sector_count(const struct mem_version *v)
{
    return v->len_bytes / SECTOR_BYTES;
}

/* Put v's i-th sector into an image. */
static void copy_sector(uint8_t *image, const struct mem_version *v, uint64_t i)
{
    uint8_t *to = image + v->offset_bytes + i * SECTOR_BYTES;

    if (v->data != NULL)
        memcpy(to, v->data + i * SECTOR_BYTES, SECTOR_BYTES);
    else
        memset(to, 0, SECTOR_BYTES);
}

/* -- life --------------------------------------------------------------------------- */

int mem_disk_init(struct mem_disk *disk, uint64_t size_bytes)
{
    *disk = (struct mem_disk){.size_bytes = size_bytes, .platter_size_bytes = size_bytes};
    TAILQ_INIT(&disk->versions);
    return mem_disk_reserve(disk, size_bytes);
}

static void drop_versions(struct mem_disk *disk)
{
    struct mem_version *v;

    while ((v = TAILQ_FIRST(&disk->versions)) != NULL) {
        TAILQ_REMOVE(&disk->versions, v, link);
        mem_version_free(v);
    }
}

void mem_disk_done(struct mem_disk *disk)
{
    drop_versions(disk);
    free(disk->image);
    free(disk->platter);
    free(disk->sectors);
}

int mem_disk_reserve(struct mem_disk *disk, uint64_t size_bytes)
{
    uint64_t cap = u64_max(size_bytes, SECTOR_BYTES);

    if (cap <= disk->cap_bytes)
        return 0;
    if (cap > SIZE_MAX / 2)
        return SNAP_ENOMEM;
    cap = u64_align_up(u64_max(cap, disk->cap_bytes + disk->cap_bytes / 2), SECTOR_BYTES);
    uint8_t *image = calloc(1, cap);
    uint8_t *platter = calloc(1, cap);
    struct mem_sector *sectors = calloc(cap / SECTOR_BYTES, sizeof *sectors);
    if (image == NULL || platter == NULL || sectors == NULL) {
        free(image);
        free(platter);
        free(sectors);
        return SNAP_ENOMEM;
    }
    if (disk->cap_bytes > 0) {
        memcpy(image, disk->image, disk->cap_bytes);
        memcpy(platter, disk->platter, disk->cap_bytes);
        memcpy(sectors, disk->sectors, disk->cap_bytes / SECTOR_BYTES * sizeof *sectors);
    }
    free(disk->image);
    free(disk->platter);
    free(disk->sectors);
    disk->image = image;
    disk->platter = platter;
    disk->sectors = sectors;
    disk->cap_bytes = cap;
    return 0;
}

/* -- what happens to it ----------------------------------------------------------------- */

static void put_into_image(struct mem_disk *disk, struct mem_version *v)
{
    v->seq = ++disk->seq;
    if (is_grow(v)) {
        CHECK(v->offset_bytes <= disk->cap_bytes);
        disk->size_bytes = u64_max(disk->size_bytes, v->offset_bytes);
        return;
    }
    CHECK(v->offset_bytes + v->len_bytes <= disk->size_bytes);
    for (uint64_t i = 0; i < sector_count(v); i++)
        copy_sector(disk->image, v, i);
}

/* Carry v's sectors from..from+count to the platter, where nothing newer stands. */
static void carry(struct mem_disk *disk, const struct mem_version *v, uint64_t from, uint64_t count)
{
    for (uint64_t i = from; i < from + count; i++)
        if (v->seq > disk->sectors[first_sector(v) + i].floor)
            copy_sector(disk->platter, v, i);
}

/* Carry all of v for good. */
static void harden(struct mem_disk *disk, const struct mem_version *v)
{
    if (is_grow(v)) {
        disk->platter_size_bytes = u64_max(disk->platter_size_bytes, v->offset_bytes);
        return;
    }
    carry(disk, v, 0, sector_count(v));
    for (uint64_t i = 0; i < sector_count(v); i++) {
        struct mem_sector *s = &disk->sectors[first_sector(v) + i];
        s->floor = u64_max(s->floor, v->seq);
    }
}

void mem_disk_apply(struct mem_disk *disk, struct mem_version *v)
{
    put_into_image(disk, v);
    TAILQ_INSERT_TAIL(&disk->versions, v, link);
}

void mem_disk_apply_durable(struct mem_disk *disk, struct mem_version *v)
{
    uint64_t end = v->offset_bytes + v->len_bytes;
    const struct mem_version *grow;

    put_into_image(disk, v);
    harden(disk, v);
    /* content that is durable can be read back, so the size that reaches it is, too */
    for (grow = TAILQ_FIRST(&disk->versions); grow != NULL; grow = TAILQ_NEXT(grow, link))
        if (disk->platter_size_bytes < end && is_grow(grow))
            harden(disk, grow);
    CHECK(disk->platter_size_bytes >= end);
    mem_version_free(v);
}

void mem_disk_apply_prefix(struct mem_disk *disk, const struct mem_version *v, uint64_t len_bytes)
{
    struct iovec iov = {.iov_base = v->data, .iov_len = len_bytes};

    if (len_bytes == 0)
        return;
    struct mem_version *part =
        mem_version_new(v->offset_bytes, len_bytes, v->data != NULL ? &iov : NULL, 1);
    if (part != NULL)
        mem_disk_apply(disk, part);
}

void mem_disk_add_pending(struct mem_disk *disk, struct mem_version *v)
{
    v->seq = ++disk->seq;
    TAILQ_INSERT_TAIL(&disk->versions, v, link);
}

void mem_disk_flush(struct mem_disk *disk, uint64_t seq)
{
    struct mem_version *v;

    while ((v = TAILQ_FIRST(&disk->versions)) != NULL && v->seq <= seq) {
        TAILQ_REMOVE(&disk->versions, v, link);
        harden(disk, v);
        mem_version_free(v);
    }
}

void mem_disk_flush_failed(struct mem_disk *disk, uint64_t seq, struct rng *rng)
{
    struct mem_version *v = TAILQ_FIRST(&disk->versions);

    while (v != NULL && v->seq <= seq) {
        struct mem_version *next = TAILQ_NEXT(v, link);
        if (!is_grow(v) && rng_chance(rng, 50)) {
            TAILQ_REMOVE(&disk->versions, v, link);
            for (uint64_t i = 0; i < sector_count(v); i++) {
                uint64_t at = v->offset_bytes + i * SECTOR_BYTES;
                memcpy(disk->image + at, disk->platter + at, SECTOR_BYTES);
            }
            mem_version_free(v);
        }
        v = next;
    }
    /* what stands there now: the platter with the remaining versions over it */
    for (v = TAILQ_FIRST(&disk->versions); v != NULL; v = TAILQ_NEXT(v, link))
        for (uint64_t i = 0; i < sector_count(v); i++)
            if (v->seq > disk->sectors[first_sector(v) + i].floor)
                copy_sector(disk->image, v, i);
}

void mem_disk_settle(struct mem_disk *disk)
{
    drop_versions(disk);
    memcpy(disk->platter, disk->image, disk->size_bytes);
    disk->platter_size_bytes = disk->size_bytes;
}

/* -- power loss -------------------------------------------------------------------------- */

/* Each sector becomes one of its versions or stays: the n-th candidate that comes along
 * takes the place with probability 1/(n+1), which makes all of them equally likely. */
static void choose_by_sector(struct mem_disk *disk, struct rng *rng)
{
    struct mem_version *v;

    for (v = TAILQ_FIRST(&disk->versions); v != NULL; v = TAILQ_NEXT(v, link)) {
        for (uint64_t i = 0; i < sector_count(v); i++) {
            struct mem_sector *s = &disk->sectors[first_sector(v) + i];
            if (v->seq > s->floor && rng_below(rng, ++s->candidates + 1) == 0)
                copy_sector(disk->platter, v, i);
        }
    }
    for (v = TAILQ_FIRST(&disk->versions); v != NULL; v = TAILQ_NEXT(v, link))
        for (uint64_t i = 0; i < sector_count(v); i++)
            disk->sectors[first_sector(v) + i].candidates = 0;
}

static void choose_by_write(struct mem_disk *disk, struct rng *rng, unsigned keep_percent)
{
    const struct mem_version *v;

    for (v = TAILQ_FIRST(&disk->versions); v != NULL; v = TAILQ_NEXT(v, link))
        if (rng_chance(rng, keep_percent))
            carry(disk, v, 0, sector_count(v));
}

static void choose_in_order(struct mem_disk *disk, struct rng *rng)
{
    const struct mem_version *v;
    uint64_t count = 0;

    for (v = TAILQ_FIRST(&disk->versions); v != NULL; v = TAILQ_NEXT(v, link))
        count++;
    uint64_t keep = rng_below(rng, count + 1);
    for (v = TAILQ_FIRST(&disk->versions); v != NULL; v = TAILQ_NEXT(v, link)) {
        if (keep-- == 0) {
            carry(disk, v, 0, rng_below(rng, sector_count(v) + 1));
            return;
        }
        carry(disk, v, 0, sector_count(v));
    }
}

static void spoil(struct mem_disk *disk, struct rng *rng, unsigned percent)
{
    const struct mem_version *v;

    for (v = TAILQ_FIRST(&disk->versions); v != NULL; v = TAILQ_NEXT(v, link))
        for (uint64_t i = 0; i < sector_count(v); i++)
            if (v->seq > disk->sectors[first_sector(v) + i].floor && rng_chance(rng, percent))
                rng_fill(rng, disk->platter + v->offset_bytes + i * SECTOR_BYTES, SECTOR_BYTES);
}

static void choose_size(struct mem_disk *disk, struct rng *rng)
{
    const struct mem_version *v;

    for (v = TAILQ_FIRST(&disk->versions); v != NULL; v = TAILQ_NEXT(v, link))
        if (is_grow(v) && v->offset_bytes <= disk->cap_bytes && rng_chance(rng, 50))
            disk->platter_size_bytes = u64_max(disk->platter_size_bytes, v->offset_bytes);
    disk->size_bytes = disk->platter_size_bytes;
    if (disk->cap_bytes > disk->size_bytes)
        memset(disk->platter + disk->size_bytes, 0, disk->cap_bytes - disk->size_bytes);
}

void mem_disk_power_loss(struct mem_disk *disk, struct rng *rng, unsigned garbage_percent)
{
    uint64_t dice = rng_below(rng, 100);

    if (dice < 50)
        choose_by_sector(disk, rng);
    else if (dice < 65)
        choose_by_write(disk, rng, 50);
    else if (dice < 80)
        choose_in_order(disk, rng);
    else if (dice < 90)
        choose_by_write(disk, rng, 100);
    if (garbage_percent > 0)
        spoil(disk, rng, garbage_percent);
    choose_size(disk, rng);
    drop_versions(disk);
    for (uint64_t at = 0; at < disk->cap_bytes; at += COMPARE_BYTES) {
        size_t len = (size_t)u64_min(COMPARE_BYTES, disk->cap_bytes - at);
        /* most pages were never touched; leave them so */
        if (memcmp(disk->image + at, disk->platter + at, len) != 0)
            memcpy(disk->image + at, disk->platter + at, len);
    }
}
