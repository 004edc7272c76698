/* SPDX-License-Identifier: Apache-2.0 */
/* A machine for daemon/volume: disks, a shard and a control thread that move one step at a time,
 * and a plug to pull. Everything that happens is drawn from one generator.
 *
 * What is on the disks outlives a power loss; what was in memory is forgotten where it stands: it
 * is not freed, as a machine that loses its power frees nothing. */
#ifndef SNAP_TESTS_SIM_WORLD_H
#define SNAP_TESTS_SIM_WORLD_H

#include "common/base/rng.h"
#include "daemon/volume/volume.h"

#include <stdbool.h>
#include <stdint.h>

struct world;

/* disk_bytes: how large a COW device may become, each. */
struct world *world_new(uint64_t seed, uint32_t align_bytes, uint64_t disk_bytes);
void world_free(struct world *w);

struct blk_engine *world_engine(struct world *w);
/* A life: between two power losses. The set is empty at its begin. */
void world_boot(struct world *w, bool checksums);
struct volume_set *world_set(struct world *w);
struct rng *world_rng(struct world *w);
/* The record as it is on the disk; false: none was ever saved. */
bool world_record(struct world *w, const struct uuid *volume, struct volume_record *ret);
void world_save_record(struct world *w, const struct volume_record *r);
/* Let something happen: a disk request ends, a job of the control thread runs or comes back, and
 * when nothing else is to come, time passes to the next timer. False: nothing is left to happen. */
bool world_step(struct world *w);
/* What was asked for in this turn is done: kicks. world_step() does so too. */
void world_turn(struct world *w);
/* Pull the plug. */
void world_power_loss(struct world *w);
/* The file behind a path, for damaging; NULL: none. */
struct blk_dev *world_file(struct world *w, const char *suffix);
/* Every file, those that were removed while open as well. */
void world_each_file(const struct world *w, void (*fn)(const char *path, void *user), void *user);

#endif
