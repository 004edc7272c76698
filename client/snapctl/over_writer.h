/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that overwrites an origin, slot by slot, for the pipeline of remote_over.h.
 *
 *   over_writer_put ──> queue ──> being written ──> done ──> over_writer_collect
 *                         └── over_writer_hold: taken back unwritten ──^
 *
 * Each slot comes with a time up to which it may be written: the lease's. What is not written
 * by then comes back as it is, with `next` telling how far it got.
 *
 * Thread: one, the caller's.
 */
#ifndef SNAP_SNAPCTL_OVER_WRITER_H
#define SNAP_SNAPCTL_OVER_WRITER_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct over_slot;
struct over_writer;
struct origin;

/* wake: run in the writer's thread when slots are done and none was before.
 * Owns: borrows origin. */
int over_writer_new(const struct origin *origin, uint64_t chunk_bytes, void (*wake)(void *user),
                    void *user, struct over_writer **ret, struct err *reterr) SNAP_WUR;
/* Ends the thread after what it is writing; slots are left where they are. Takes NULL. */
void over_writer_free(struct over_writer *w);
/* Write the slot's chunks from `next` on. until_ns: on clock_asleep_too(), not later. */
void over_writer_put(struct over_writer *w, struct over_slot *slot, uint64_t until_ns);
/* The lease is good until then, on clock_asleep_too(): that of now, not one of after it. */
void over_writer_lease(struct over_writer *w, uint64_t until_ns);
/* Has a write ended after that, and the lease not been good since? */
bool over_writer_is_late(struct over_writer *w);
/* Nothing is written when this returns, and nothing will be of what was put before. */
void over_writer_hold(struct over_writer *w);
/* Slots that have come back since, linked by `link`; NULL: none.
 * Errors: *ret_code, the first failure of a write. */
struct over_slot *over_writer_collect(struct over_writer *w, int *ret_code, struct err *reterr);

#endif
