/* SPDX-License-Identifier: Apache-2.0 */
/* Reading an origin without reading its holes. */
#ifndef SNAP_SNAPCTL_REMOTE_SPARSE_H
#define SNAP_SNAPCTL_REMOTE_SPARSE_H

#include "client/host/origin.h"

/* Read a range; holes come as zeros. hole_chunks (may be NULL): one byte for each chunk of
 * chunk_bytes from offset_bytes on, set to OVER_ZERO where the whole chunk lies in a hole. */
int remote_sparse_read(const struct origin *o, uint64_t offset_bytes, uint64_t len_bytes,
                       uint8_t *buf, uint64_t chunk_bytes, uint8_t *hole_chunks,
                       struct err *reterr) SNAP_WUR;
/* A file that takes less space than its size: somebody wants its holes. */
bool remote_sparse_has_holes(const struct origin *o);
/* From a chunk's start on: the start of the first chunk that is not a hole of both, or the
 * size. They are of one size. */
uint64_t remote_sparse_skip(const struct origin *a, const struct origin *b, uint64_t chunk_bytes,
                            uint64_t offset_bytes);

#endif
