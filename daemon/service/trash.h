/* SPDX-License-Identifier: Apache-2.0 */
/* Deleted volumes' folders on their way out. Thread: control's; blocking. */
#ifndef SNAP_SERVICE_TRASH_H
#define SNAP_SERVICE_TRASH_H

#include "common/base/err.h"
#include "common/base/uuid.h"

/* Move volumes/<uuid> to trash/<uuid>, durably. */
int trash_volume(const char *state_dir, const struct uuid *id, struct err *reterr) SNAP_WUR;
/* Remove what is there; what cannot be removed stays for the next time. */
void trash_empty(const char *state_dir);

#endif
