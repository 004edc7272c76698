/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes' folders on their way out, and on their way in. Thread: control's; blocking. */
#ifndef SNAP_SERVICE_TRASH_H
#define SNAP_SERVICE_TRASH_H

#include "common/base/err.h"
#include "common/base/uuid.h"

#include <stdbool.h>
#include <stddef.h>

/* Move volumes/<uuid> to trash/<uuid>.<key>, durably. */
int trash_volume(const char *state_dir, const struct uuid *id, const struct uuid *key,
                 struct err *reterr) SNAP_WUR;
/* A new volume's folder is made there, as trash/<uuid>.new, so that what a crash leaves of it goes
 * like the rest. Its path in ret_dir.
 * Errors: SNAP_ENOSPC, SNAP_EIO … */
int trash_stage(const char *state_dir, const struct uuid *id, char *ret_dir, size_t dir_bytes,
                struct err *reterr) SNAP_WUR;
/* It is whole: it becomes volumes/<uuid>, durably. After an error it is where it was.
 * Errors: SNAP_EEXIST (something else is there). */
int trash_unstage(const char *state_dir, const struct uuid *id, struct err *reterr) SNAP_WUR;
/* It is not wanted after all. unstaged: it has become volumes/<uuid>. */
void trash_drop(const char *state_dir, const struct uuid *id, bool unstaged);
/* The keys of deletions that a crash left there, for the registry. */
void trash_each_key(const char *state_dir, void (*fn)(void *user, const struct uuid *key),
                    void *user);
/* Remove what is there; what cannot be removed stays for the next time. */
void trash_empty(const char *state_dir);

#endif
