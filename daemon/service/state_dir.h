/* SPDX-License-Identifier: Apache-2.0 */
/* The state directory: made, locked, scanned, compared with the registry.
 *
 *   state_dir/  lock  acl  registry.db  groups/<uuid>  trash/
 *               volumes/<uuid>/{record, record.spare, origin, *.cow, *.sum}
 *
 * Blocking; main's, before the shards run. */
#ifndef SNAP_SERVICE_STATE_DIR_H
#define SNAP_SERVICE_STATE_DIR_H

#include "common/base/err.h"
#include "daemon/registry/registry.h"
#include "daemon/volume/record.h"

#include <stdbool.h>
#include <stdint.h>

struct server;

/* Make the folders that are missing and take the lock.
 * Owns: *ret_fd holds the lock until it is closed.
 * Errors: SNAP_EBUSY naming the process that has it. */
int state_dir_open(const char *path, int *ret_fd, struct err *reterr) SNAP_WUR;

/* Could it be opened, but for the lock? Nothing is made. Errors: SNAP_EINVAL, SNAP_EPERM. */
int state_dir_check(const char *path, struct err *reterr) SNAP_WUR;

struct state_volumes {
    struct volume_record *records;
    uint32_t count, cap;
};
/* Read every record, and undo groups that a crash cut off. What is odd (a folder without a record,
 * a file that no record lists) is told to warn and left alone: neither used nor deleted. */
int state_dir_scan(const char *path, struct state_volumes *ret,
                   void (*warn)(void *user, const char *text), void *user,
                   struct err *reterr) SNAP_WUR;
void state_volumes_done(struct state_volumes *v);
/* Take out snapshots whose group was never committed, durably, and group records that nothing
 * names; the latter only when every volume could be read. A volume whose record cannot be
 * saved is told to warn and dropped from v. */
int state_groups_check(const char *path, struct state_volumes *v, bool all_read,
                       void (*warn)(void *user, const char *text), void *user,
                       struct err *reterr) SNAP_WUR;

/* Open the registry, made anew when missing or when rebuild is set (the old one is kept aside).
 * Errors: SNAP_ECORRUPT with the remedy. */
int state_registry_open(const char *path, bool rebuild, bool *ret_new, struct registry **ret,
                        struct err *reterr) SNAP_WUR;
/* Make the registry say what the records say; differences are told to warn unless it is new.
 * A record whose name another has is told too and dropped from v. */
int state_registry_compare(struct registry *r, struct state_volumes *v, bool is_new,
                           void (*warn)(void *user, const char *text), void *user,
                           struct err *reterr) SNAP_WUR;

#endif
