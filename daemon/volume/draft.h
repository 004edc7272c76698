/* SPDX-License-Identifier: Apache-2.0 */
/* Notes that a node's files may be there without the record listing them.
 *
 *   draft_begin ──> files are made ──> record lists the node ──> draft_end
 *        └────────────(refused)──> files are removed ──────────────^
 *   draft_begin ──> record drops the node ──> draft_remove_later
 *
 * A note is an empty file "<uuid>.draft" in the volume's folder. What a daemon that was killed in
 * between leaves is its own: at the next start the files of a node that has a note and is not in
 * the record go; files without a note are somebody else's for all that is known, and stay.
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_DRAFT_H
#define SNAP_VOLUME_DRAFT_H

#include "daemon/volume/volume.h"

#define DRAFT_END ".draft"

/* It needs no flush of its own: that of the folder, for the first file made after it, takes it
 * along. Errors: SNAP_ENOSPC … */
int draft_begin(const struct volume *v, const struct uuid *node, struct err *reterr) SNAP_WUR;
void draft_end(const struct volume *v, const struct uuid *node);
/* Remove the files of a node that the record has dropped, on the control thread: its COW device's
 * (empty: that is no file of ours), its checksums', then the note, which stays with what cannot be
 * removed. */
void draft_remove_later(struct volume *v, const struct uuid *node, const char *cow_path);

#endif
