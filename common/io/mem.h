/* SPDX-License-Identifier: Apache-2.0 */
/* A disk in memory with injectable faults and power loss: the simulator's ground.
 *
 * Each device keeps two images: what the running machine sees, and what is on
 * the platter. A write changes the first when it completes; a completed flush
 * (or FUA) carries what it covers to the second. Completions come in an order
 * drawn from the seed, never inside submit; nothing but the seed decides.
 *
 * Power loss: for every 512-byte sector that is written but not flushed, the
 * seed picks whether the platter has the old content, the new, any earlier
 * unflushed version, or (mem_engine_set_garbage) garbage. So writes end whole,
 * absent, or torn between sectors, in any order. Requests in flight at that
 * moment may have happened in part. All pending requests vanish without their
 * done; the device is then as a freshly plugged one with the platter's content.
 */
#ifndef SNAP_IO_MEM_H
#define SNAP_IO_MEM_H

#include "common/io/blk.h"

/* Deterministic engine. Owns: freed with blk_engine_free(). */
int blk_engine_new_memory(uint64_t seed, struct blk_engine **ret, struct err *reterr) SNAP_WUR;

/* A device of size_bytes (zeros). grow_limit_bytes: BLK_GROW works up to it, 0: fixed size. */
int mem_dev_new(struct blk_engine *e, const char *name, uint64_t size_bytes, uint32_t align_bytes,
                uint64_t grow_limit_bytes, struct blk_dev **ret, struct err *reterr) SNAP_WUR;

/* The running machine's image; valid until the next grow or power loss. For setting up and
 * checking. */
uint8_t *mem_dev_image(struct blk_dev *d);
/* The platter's image. */
const uint8_t *mem_dev_platter(struct blk_dev *d);

/* What the image holds now is on the platter, too: ends the setting up of a disk through
 * mem_dev_image(), whose changes a power loss would otherwise take back. */
void mem_dev_settle(struct blk_dev *d);

/* Complete one request in flight, chosen by the seed; so does each blk_engine_reap() and
 * blk_engine_wait(), kicked or not. False: none in flight. */
bool mem_engine_step(struct blk_engine *e);

/* -- faults --------------------------------------------------------------- */
enum mem_fault_kind { MEM_FAULT_ERROR, MEM_FAULT_SHORT };
/* The n-th request from now (1 = the next submitted) of `op` on d fails with
 * sys_errno (nothing or a seeded part is done) or is done short and resumed: a part happens
 * in one step, the rest in a later one. A failed flush takes back a seeded part of what it
 * should have carried. Discards do not fail. */
void mem_dev_fault_at(struct blk_dev *d, enum blk_op op, unsigned n, enum mem_fault_kind kind,
                      int sys_errno);
/* All writes and zeroings that touch [offset, offset+len) fail from now on; len 0 takes it back. */
void mem_dev_fail_range(struct blk_dev *d, uint64_t offset_bytes, uint64_t len_bytes,
                        int sys_errno);

/* At a power loss, `percent` of the sectors that are written but not flushed become random
 * bytes. 0, as at first: a sector is written whole or not at all, as disks promise. */
void mem_engine_set_garbage(struct blk_engine *e, unsigned percent);
/* Pull the plug on every device of the engine. Faults by number are forgotten, bad ranges
 * stay. A grow that no flush covered may be lost, and what was beyond with it. Requests in flight
 * vanish: their owners' objects must be abandoned (store_abandon and the like), not awaited; their
 * buffers must still be there during this call. */
void mem_engine_power_loss(struct blk_engine *e);
/* Requests other than reads submitted so far, over all devices: the simulator's points to
 * cut at. */
uint64_t mem_engine_submitted(const struct blk_engine *e);
/* Counters of one device, for tests that count I/O. */
struct mem_counters {
    uint64_t reads, writes, flushes, discards, zeroes, grows;
    uint64_t read_bytes, written_bytes;
};
struct mem_counters mem_dev_counters(const struct blk_dev *d);

#endif
