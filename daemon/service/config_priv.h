/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the configuration share; private to daemon/service. */
#ifndef SNAP_SERVICE_CONFIG_PRIV_H
#define SNAP_SERVICE_CONFIG_PRIV_H

#include "daemon/service/config.h"

/* Each value by itself is sound. path is the file's, for errors; warn may be NULL.
 * Errors: SNAP_EINVAL naming the key. */
int config_check_rules(const char *path, const struct config *c,
                       void (*warn)(void *user, const char *text), void *user,
                       struct err *reterr) SNAP_WUR;

#endif
