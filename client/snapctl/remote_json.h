/* SPDX-License-Identifier: Apache-2.0 */
/* What a daemon tells, as JSON values. NULL: out of memory. */
#ifndef SNAP_SNAPCTL_REMOTE_JSON_H
#define SNAP_SNAPCTL_REMOTE_JSON_H

#include "client/lib/snapwire.h"

#include <jansson.h>

json_t *remote_uuid_json(const struct snapwire_uuid *u); /* null when zero */
json_t *remote_snapshot_json(const struct snapwire_snapshot *s);
/* with_snapshots: all of each, else their number only. */
json_t *remote_volume_json(const struct snapwire_volume *v, bool with_snapshots);
json_t *remote_snapshots_json(const struct snapwire_volume *v);
/* For people: each clone behind what it reads through; `tree` is the name, indented so. */
json_t *remote_tree_json(const struct snapwire_volume *v);

#endif
