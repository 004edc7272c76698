/* SPDX-License-Identifier: Apache-2.0 */
/* A node's COW device together with its checksums.
 *
 * They stand in "<uuid>.sum" in the volume's folder, for bound devices too. A side file that is
 * not there, or is not of this device, is never made anew by itself: the node is used without
 * it and says so, until somebody asks for a rebuild. Thread: the shard's. */
#ifndef SNAP_VOLUME_SUMS_H
#define SNAP_VOLUME_SUMS_H

#include "daemon/volume/volume.h"

enum { SUMS_NAME_BYTES = UUID_TEXT_BYTES + 8 };

/* The side file's name in the volume's folder. */
const char *sums_name(const struct uuid *node, char buf[SUMS_NAME_BYTES]);

/* s->dev is open: put its checksums beside it, if it has some or (create) is to have new ones.
 * done runs later or inside the call; code is 0 even if there are none, s->sums_text then says why.
 * chunk_sectors: of the COW device; 0: it is not known yet, so there are none.
 * Errors: SNAP_EBUSY, SNAP_ENOMEM: they pass; with create, those of making them. s->dev is as it
 * was then. */
void sums_attach(struct snapshot *s, uint32_t chunk_sectors, bool create, volume_done_fn *done,
                 void *user);
/* Remove the side file of a node that never was, at once: the same uuid may be asked for again.
 * Errors: what is there stays. */
int sums_remove(struct volume *v, const struct uuid *node) SNAP_WUR;

#endif
