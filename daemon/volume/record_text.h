/* SPDX-License-Identifier: Apache-2.0 */
/* What reading and writing a record's text have in common. */
#ifndef SNAP_VOLUME_RECORD_TEXT_H
#define SNAP_VOLUME_RECORD_TEXT_H

#include "daemon/volume/record.h"

enum { RECORD_FORMAT = 1 };

extern const char *const record_kind_names[];   /* by enum volume_kind */
extern const char *const record_policy_names[]; /* by enum full_policy */

#endif
