/* SPDX-License-Identifier: Apache-2.0 */
/* The model of one disk with a volatile cache; private to common/io.
 *
 *   image     what the running machine reads
 *   platter   what is there after power was lost
 *   versions  writes and grows that the image has and the platter may lack,
 *             in the order in which they happened
 *
 * A sector's image is its newest version, or the platter where it has none.
 */
#ifndef SNAP_IO_MEM_DISK_H
#define SNAP_IO_MEM_DISK_H

#include "common/base/err.h"
#include "common/base/rng.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/uio.h>

/* One write (data), zeroing (data NULL) or grow (len 0, to offset_bytes). */
struct mem_version {
    TAILQ_ENTRY(mem_version) link;
    uint64_t seq;
    uint64_t offset_bytes;
    uint64_t len_bytes;
    uint8_t *data;
};

struct mem_sector {
    uint64_t floor;      /* versions up to this seq can no longer reach the platter */
    uint32_t candidates; /* used while power is lost */
};

struct mem_disk {
    uint8_t *image;
    uint8_t *platter;
    struct mem_sector *sectors;
    uint64_t cap_bytes; /* of the three arrays */
    uint64_t size_bytes;
    uint64_t platter_size_bytes;
    uint64_t seq; /* of the newest version */
    TAILQ_HEAD(, mem_version) versions;
};

int mem_disk_init(struct mem_disk *disk, uint64_t size_bytes) SNAP_WUR;
void mem_disk_done(struct mem_disk *disk);
/* Make room for a size. Errors: SNAP_ENOMEM, the disk unchanged. */
int mem_disk_reserve(struct mem_disk *disk, uint64_t size_bytes) SNAP_WUR;

/* A copy of what iov holds (NULL: zeros). NULL: out of memory. */
struct mem_version *mem_version_new(uint64_t offset_bytes, uint64_t len_bytes,
                                    const struct iovec *iov, unsigned iov_count);
void mem_version_free(struct mem_version *v);

/* It happened: the image has it, the platter not yet. Owns: takes v.
 * A grow needs mem_disk_reserve() first. */
void mem_disk_apply(struct mem_disk *disk, struct mem_version *v);
/* It happened with FUA: image and platter have it. Owns: takes v. */
void mem_disk_apply_durable(struct mem_disk *disk, struct mem_version *v);
/* The first part of v, whole sectors, happened. v stays the caller's. Does nothing when
 * there is no memory for a copy. */
void mem_disk_apply_prefix(struct mem_disk *disk, const struct mem_version *v, uint64_t len_bytes);
/* It was under way when power is lost: mem_disk_power_loss() decides. Owns: takes v. */
void mem_disk_add_pending(struct mem_disk *disk, struct mem_version *v);

/* Carry every version up to seq to the platter. */
void mem_disk_flush(struct mem_disk *disk, uint64_t seq);
/* A flush of those failed: some of them are gone from the image, too. */
void mem_disk_flush_failed(struct mem_disk *disk, uint64_t seq, struct rng *rng);
/* The platter takes a seeded choice of the versions; the image becomes the platter. */
void mem_disk_power_loss(struct mem_disk *disk, struct rng *rng, unsigned garbage_percent);
/* The platter becomes the image. */
void mem_disk_settle(struct mem_disk *disk);

#endif
