/* SPDX-License-Identifier: Apache-2.0 */
/* Names of volumes, snapshots, identities and daemons, and targets VOLUME[@SNAPSHOT]:
 * validated here and nowhere else. A name is 1 to LIMIT_NAME_BYTES bytes of
 * A-Z a-z 0-9 . _ - + : and begins with a letter or digit; so it can be a
 * path component, a label value and a shell word. */
#ifndef SNAP_BASE_NAME_H
#define SNAP_BASE_NAME_H

#include "common/base/err.h"
#include "common/base/limits.h"

struct target {
    char volume[LIMIT_NAME_BYTES + 1];
    char snapshot[LIMIT_NAME_BYTES + 1]; /* empty: the volume itself */
};

/* what: "volume", "snapshot", "identity" …, for the text. Errors: SNAP_EINVAL. */
int name_check(const char *name, const char *what, struct err *reterr) SNAP_WUR;
/* Parse VOLUME or VOLUME@SNAPSHOT. Errors: SNAP_EINVAL naming the character at fault. */
int target_parse(const char *text, struct target *ret, struct err *reterr) SNAP_WUR;

#endif
