/* SPDX-License-Identifier: Apache-2.0 */
/* The broken mark: a file which says that an origin was written without its old content being
 * kept. That it is there is what counts, not what it holds; it holds who left it, for people.
 * Thread: one. */
#ifndef SNAP_NBDKIT_GUARD_MARK_H
#define SNAP_NBDKIT_GUARD_MARK_H

#include "common/base/err.h"

#include <stdbool.h>

/* Errors: SNAP_EIO, SNAP_EPERM: nobody knows. */
int guard_mark_look(const char *path, bool *ret_there, struct err *reterr) SNAP_WUR;
/* Could one be made here? Tried with a file of another name. Errors: SNAP_EPERM, SNAP_ENOENT … */
int guard_mark_try(const char *path, struct err *reterr) SNAP_WUR;
/* Durable when it returns 0. One that is there already is made so. */
int guard_mark_make(const char *path, const char *text, struct err *reterr) SNAP_WUR;
/* Gone, durably. Not there: the same. */
int guard_mark_remove(const char *path, struct err *reterr) SNAP_WUR;

#endif
