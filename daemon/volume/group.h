/* SPDX-License-Identifier: Apache-2.0 */
/* Group records: STATE_DIR/groups/<uuid>, one small text file for each consistency group under way.
 *
 * That the file is there is the commit point of the group: its snapshots, whose volumes' records
 * name it, exist from then on, and without it they never did. Once those records say "grouped" it
 * has done its work and goes. Nothing reads what it says: that is for people.
 *
 * Thread: blocking; the control thread's. */
#ifndef SNAP_VOLUME_GROUP_H
#define SNAP_VOLUME_GROUP_H

#include "common/base/err.h"
#include "common/base/uuid.h"

#include <stdbool.h>
#include <stdint.h>

/* The members' records are durable. After 0 the group is; after an error it is not, as far as the
 * disk still does what it is told. */
int group_save(const char *state_dir, const struct uuid *id, const struct uuid *volumes,
               uint32_t count, struct err *reterr) SNAP_WUR;
bool group_exists(const char *state_dir, const struct uuid *id);
/* No record names it any more. One that is not there is no error. */
int group_remove(const char *state_dir, const struct uuid *id, struct err *reterr) SNAP_WUR;
/* fn gets each; it may remove it. What else lies there is passed over, but for the rest of a
 * save that a crash cut off, which goes. */
int group_each(const char *state_dir, int (*fn)(void *user, const struct uuid *id), void *user,
               struct err *reterr) SNAP_WUR;

#endif
