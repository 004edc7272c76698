/* SPDX-License-Identifier: Apache-2.0 */
/* Small files: read whole with a cap, replace durably. */
#ifndef SNAP_BASE_FILE_H
#define SNAP_BASE_FILE_H

#include "common/base/err.h"

#include <stddef.h>
#include <sys/types.h>

/* Owns: *ret_text is malloc'd and has a 0 behind its *ret_len bytes.
 * Errors: SNAP_ENOENT, SNAP_ELIMIT (longer than cap_bytes), SNAP_EIO. */
int file_read_all(const char *path, size_t cap_bytes, char **ret_text, size_t *ret_len,
                  struct err *reterr) SNAP_WUR;
/* Write path.tmp, fsync, rename over path, fsync the folder: after 0 the new
 * content survives a power cut. After an error the old content is still there; only
 * where the folder's fsync is what failed (the text says so) the new one is in place
 * and a power cut leaves one of the two whole. One caller at a time a path. */
int file_replace(const char *path, const void *data, size_t len_bytes, mode_t mode,
                 struct err *reterr) SNAP_WUR;
/* fsync the folder that holds path. */
int file_sync_parent(const char *path, struct err *reterr) SNAP_WUR;
/* Make a folder unless it is there (parents must exist), and make that durable.
 * Errors: SNAP_EEXIST when something else has that name. */
int file_make_dir(const char *path, mode_t mode, struct err *reterr) SNAP_WUR;
/* Make the folders above path that are missing, from the top, as file_make_dir() does. */
int file_make_parents(const char *path, mode_t mode, struct err *reterr) SNAP_WUR;

#endif
