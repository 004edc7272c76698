/* SPDX-License-Identifier: Apache-2.0 */
/* What reading and writing a record's text have in common. */
#ifndef SNAP_VOLUME_RECORD_TEXT_H
#define SNAP_VOLUME_RECORD_TEXT_H

#include "daemon/volume/record.h"

enum { RECORD_FORMAT = 1 };

extern const char *const record_kind_names[];   /* by enum volume_kind */
extern const char *const record_policy_names[]; /* by enum full_policy */

/* Give labels whose key an earlier one has a key of their own, in a text that is malloc'd; ret_key:
 * the first such. Errors: SNAP_ENOENT (there is none), SNAP_ENOMEM. */
int record_labels_tell_apart(const char *text, size_t len, char **ret_text, size_t *ret_len,
                             char ret_key[RECORD_LABEL_BYTES]) SNAP_WUR;

#endif
