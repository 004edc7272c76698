/* SPDX-License-Identifier: Apache-2.0 */
/* Scrubbing: each volume is verified every so often, slowly, on the daemon's own account.
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_SCRUB_H
#define SNAP_VOLUME_SCRUB_H

#include "daemon/volume/volume.h"

/* The volume is open: from now on it is scrubbed when it is due. */
void scrub_start(struct volume *v);
/* A scrub has ended: note when, in the record. */
void scrub_ended(struct volume *v);
/* The volume is leaving, or is freed. */
void scrub_stop(struct volume *v);

#endif
