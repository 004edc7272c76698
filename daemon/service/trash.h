/* SPDX-License-Identifier: Apache-2.0 */
/* Deleted volumes' folders on their way out. Thread: control's; blocking. */
#ifndef SNAP_SERVICE_TRASH_H
#define SNAP_SERVICE_TRASH_H

#include "common/base/err.h"
#include "common/base/uuid.h"

/* Move volumes/<uuid> to trash/<uuid>.<key>, durably. */
int trash_volume(const char *state_dir, const struct uuid *id, const struct uuid *key,
                 struct err *reterr) SNAP_WUR;
/* The keys of deletions that a crash left there, for the registry. */
void trash_each_key(const char *state_dir, void (*fn)(void *user, const struct uuid *key),
                    void *user);
/* Remove what is there; what cannot be removed stays for the next time. */
void trash_empty(const char *state_dir);

#endif
