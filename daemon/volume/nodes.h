/* SPDX-License-Identifier: Apache-2.0 */
/* The tables behind volume_node_add() and the look-ups. Thread: the shard's. */
#ifndef SNAP_VOLUME_NODES_H
#define SNAP_VOLUME_NODES_H

#include "daemon/volume/volume.h"

/* NULL: out of memory. */
struct volume_nodes *volume_nodes_new(void);
/* The nodes have left it, or are not looked for any more. Takes NULL. */
void volume_nodes_free(struct volume_nodes *n);

#endif
