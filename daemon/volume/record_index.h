/* SPDX-License-Identifier: Apache-2.0 */
/* A record's snapshots by uuid and by name, for records with many. record.c's own.
 *
 * It holds seqs, which a change around them leaves as they are, so that a copy of a record copies
 * it byte by byte. It is built when it is first asked for; without memory for it, and for few
 * snapshots, the look-ups walk. Thread: the record's. */
#ifndef SNAP_VOLUME_RECORD_INDEX_H
#define SNAP_VOLUME_RECORD_INDEX_H

#include "daemon/volume/record.h"

void record_index_free(struct record_index *x); /* takes NULL */
/* NULL: src has none, or no memory: dst builds its own. */
struct record_index *record_index_copy(const struct record_index *src);
/* A snapshot has been put at the end of the record's, or is about to leave them. */
void record_index_add(struct volume_record *r, const struct record_snapshot *s);
void record_index_remove(struct volume_record *r, const struct record_snapshot *s);

struct record_snapshot *record_index_find(struct volume_record *r, const struct uuid *id);
/* The first of that name that takes() takes. */
struct record_snapshot *record_index_find_name(struct volume_record *r, const char *name,
                                               bool (*takes)(const struct record_snapshot *s));

#endif
