/* SPDX-License-Identifier: Apache-2.0 */
/* A device that keeps a checksum of every block in a side device.
 *
 *   writer ──> sum device ──┬──> the device: as if there were no sums
 *                           └──> the side device: a slot for each block
 *
 * A slot holds the checksum of the block's content and of the one before it. A flush covers both
 * devices: it ends when the slots of every write it covers are durable too. A write with BLK_FUA
 * makes its data durable at once, its slot only with the next flush. An overwriting in
 * place can be torn by a crash, or be on the disk without its slot: so a page of slots is marked
 * *in doubt*, durably, before the first overwriting below it, and unmarked some time after the
 * last. Blocks that the caller does not want covered (metadata, which is written in pieces)
 * have no slot in use; nor has a covered block that was written in part or zeroed, until it
 * is written whole again.
 *
 * The checksum is XXH3 with 64 bits, seeded with the block's number and its tag: what the writer
 * says it belongs to, where the writer will look for it. So content that stands in another block's
 * place is found, and so is a block that somebody takes for another one's. Side devices that were
 * made before there were tags go on without them. Nothing on the device itself differs.
 *
 * Thread: the engine's own.
 * Source: docs/format.md, "Checksums".
 */
#ifndef SNAP_IO_SUM_H
#define SNAP_IO_SUM_H

#include "common/base/uuid.h"
#include "common/io/blk.h"

enum {
    SUM_PAGE_BYTES = 4096, /* of the side device; the first holds the header */
    SUM_SLOT_BYTES = 16,
    SUM_PAGE_SLOTS =
        SUM_PAGE_BYTES / SUM_SLOT_BYTES - 1, /* the last one's place: is it in doubt? */
};

struct sum_options {
    uint32_t block_bytes;
    struct uuid id; /* of what the device holds: a side device of another one is refused */
    /* Is this block covered? Constant for a block. */
    bool (*covers)(void *user, uint64_t block_no);
    void *user;
    bool create; /* the side device is new: write its header */
};

/* Zero: none. */
struct sum_slot {
    uint64_t now;
    uint64_t before;
    bool in_doubt; /* was being overwritten: neither may be right after a crash */
};

/* Of a block that was written without one. */
#define SUM_NO_TAG UINT64_MAX

typedef void sum_open_fn(void *user, struct blk_dev *dev, int code, const struct err *err);

/* Put the two together. done runs later, never inside the call.
 * Owns:   on success *both* belong to the new device and close with it; else both stay the
 * caller's. Errors: SNAP_ECORRUPT (the side device has no such header), SNAP_EMISMATCH (another
 * block size or another id), SNAP_EINVAL (block size, side device's blocks of more than a page),
 *         SNAP_EIO, SNAP_ENOSPC, SNAP_ENOMEM. */
void sum_dev_open(struct blk_dev *dev, struct blk_dev *side, const struct sum_options *options,
                  sum_open_fn *done, void *user);
/* Is it such a device? */
bool sum_dev_is(const struct blk_dev *d);
/* Are its checksums bound to tags? */
bool sum_dev_has_tags(struct blk_dev *d);
/* What the checksum of a block with that content has to be there. */
uint64_t sum_dev_of(struct blk_dev *d, uint64_t block_no, uint64_t tag, const void *content);

/* Free it at once, calling nobody and leaving the two beneath to the caller: after a simulated
 * power loss. */
void sum_dev_abandon(struct blk_dev *d);

/* A look-up; the caller's until done. */
struct sum_lookup {
    uint64_t first_block;
    uint32_t count;
    struct sum_slot *slots; /* [count], filled in */
    void (*done)(struct sum_lookup *l, int code, const struct err *err);
    void *user;
    /* the device's own */
    uint32_t next;
    TAILQ_ENTRY(sum_lookup) link;
};
/* done may run inside the call, and may close the device if nothing else is under way.
 * Errors: SNAP_EIO, SNAP_ENOMEM. */
void sum_dev_lookup(struct blk_dev *d, struct sum_lookup *l);
/* What stands in a block now is right: the slot becomes its checksum, durable with the next
 * flush. For building sums anew, from the done of a look-up of that block.
 * Errors: SNAP_EBUSY (it has not been looked up just now). */
int sum_dev_set(struct blk_dev *d, uint64_t block_no, uint64_t tag, const void *content,
                struct err *reterr) SNAP_WUR;

/* Never 0. seed: sum_seed(), or the block's number where there are no tags. */
uint64_t sum_of(uint64_t seed, const struct iovec *iov, unsigned iov_count, uint64_t offset_bytes,
                uint64_t len_bytes);
/* Of the two: a hash, so pairs that are alike have seeds that are not. */
uint64_t sum_seed(uint64_t block_no, uint64_t tag);

#endif
