/* SPDX-License-Identifier: Apache-2.0 */
/* Limits of nbdkit's process that would end it. Thread: main's. */
#ifndef SNAP_NBDKIT_LIMIT_H
#define SNAP_NBDKIT_LIMIT_H

/* When a plugin is loaded: a write past the limit on the size of files (`ulimit -f`) fails from
 * now on, with EFBIG, and does not end nbdkit. */
void limit_file_size_fails(void);
/* When it is unloaded: as it was. */
void limit_file_size_done(void);

#endif
