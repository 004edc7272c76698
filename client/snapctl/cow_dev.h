/* SPDX-License-Identifier: Apache-2.0 */
/* COW devices opened offline: an engine, a device, a map and a store each; a stack
 * of them as one view. Blocking.
 */
#ifndef SNAP_SNAPCTL_COW_DEV_H
#define SNAP_SNAPCTL_COW_DEV_H

#include "common/cow/cow_store.h"
#include "common/cow/cow_view.h"

struct cow_dev {
    struct blk_engine *engine;
    struct blk_dev *dev;
    struct cow_map *map;
    struct cow_store *store; /* NULL when it was too damaged to be opened */
};

enum cow_dev_mode {
    COW_DEV_READ,    /* nothing is written */
    COW_DEV_INSPECT, /* likewise; damage is told to faults and the sound part is kept */
    COW_DEV_WRITE,   /* exclusive */
};

/* Errors: those of blk_open() and cow_store_open(), prefixed with the path; SNAP_ECORRUPT too for
 * what has no header of a COW device. */
int cow_dev_open(const char *path, enum cow_dev_mode mode, cow_fault_fn *faults, void *fault_user,
                 struct cow_dev *ret, struct err *reterr) SNAP_WUR;
/* Takes a half-opened one (zeros). */
void cow_dev_close(struct cow_dev *d);

/* A COW device and those that are newer, in order: what the first one's snapshot reads like. */
enum { COW_STACK_MAX = 256 };
struct cow_stack {
    struct cow_dev devs[COW_STACK_MAX];
    struct cow_layer layers[COW_STACK_MAX];
    unsigned count;
};

/* paths[0] is asked for, the rest are its newer ones, nearest first. mode: of the first and of
 * the last (the newest) one; those between are read.
 * Refuses invalid ones (SNAP_EINVALID): what reads through them is lost too. */
int cow_stack_open(const char *const *paths, unsigned count, enum cow_dev_mode mode,
                   struct cow_stack **ret, struct err *reterr) SNAP_WUR;
void cow_stack_close(struct cow_stack *s); /* takes NULL */
struct cow_view cow_stack_view(const struct cow_stack *s);
/* Read an extent that is not the origin's. */
int cow_stack_read(const struct cow_stack *s, const struct cow_extent *x, void *buf,
                   struct err *reterr) SNAP_WUR;

#endif
