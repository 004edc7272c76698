/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of devices kept in memory: a device that answers reads from there where it can.
 *
 *   reader ──> cached device ──(all of it in memory: copied)──> done
 *                    └────────(else)──> the device below ──(kept)──> done
 *   writer ──> cached device ──> the device below ──(kept, if its block is there)──> done
 *
 * What is read comes into memory, what is written only to where something has been read: writing
 * alone costs no copying.
 *
 * Nothing is written later than it would be without: what is durable, and when, is the matter of
 * the device below. The memory is shared by all devices that are opened over it, and is taken
 * from the system as it fills.
 *
 * Who changes the device below by another way is not seen.
 *
 * Thread: the engine's own, for the memory and all its devices; counters may be read by any.
 */
#ifndef SNAP_IO_CACHE_H
#define SNAP_IO_CACHE_H

#include "common/io/blk.h"

enum { BLK_CACHE_BLOCK_BYTES = 16 << 10, BLK_CACHE_BLOCKS_MIN = 8 };

struct blk_cache;

/* size_bytes: in whole blocks, at least BLK_CACHE_BLOCKS_MIN of them are had.
 * Errors: SNAP_ENOMEM. */
int blk_cache_new(uint64_t size_bytes, struct blk_cache **ret, struct err *reterr) SNAP_WUR;
/* All devices over it must be closed. Takes NULL. */
void blk_cache_free(struct blk_cache *c);
/* Though devices are left, which nobody uses again: after a simulated power loss. Takes NULL. */
void blk_cache_abandon(struct blk_cache *c);

/* Takes NULL: no cache, *ret is `below` itself, as it is on an error.
 * Owns: else, on success, `below` belongs to the new device and closes with it.
 * Errors: SNAP_ENOMEM. */
int blk_cache_open(struct blk_cache *c, struct blk_dev *below, struct blk_dev **ret,
                   struct err *reterr) SNAP_WUR;

/* Copy the range if all of it is in memory. False: it is not, or d is no such device; `data` may
 * have been written to. */
bool blk_cache_read(struct blk_dev *d, uint64_t offset_bytes, void *data, uint64_t len_bytes);

struct blk_cache_stats {
    uint64_t size_bytes, used_bytes;
    uint64_t hits, misses; /* reads from memory, and from below */
};
/* Takes NULL: zeros. Thread: any. */
struct blk_cache_stats blk_cache_stats(const struct blk_cache *c);

#endif
