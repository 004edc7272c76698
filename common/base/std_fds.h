/* SPDX-License-Identifier: Apache-2.0 */
/* Standard input, output and error that were closed before the program began. */
#ifndef SNAP_BASE_STD_FDS_H
#define SNAP_BASE_STD_FDS_H

/* Occupy those of descriptors 0 to 2 that are closed, so that no file or socket gets one of them.
 * They stay unusable: reading and writing fail with EBADF, as before.
 * Errors: SNAP_E… when one cannot be occupied: do not go on then.
 * Thread: main's, first of all, before anything is opened.
 */
int std_fds_occupy(void) __attribute__((warn_unused_result));

#endif
