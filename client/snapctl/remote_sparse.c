/* SPDX-License-Identifier: Apache-2.0 */
/* Holes, in chunks. A hole may begin and end anywhere in a chunk; only a chunk that
 * lies in one as a whole counts as a hole. The origin's end ends a chunk too.
 */
#include "client/snapctl/remote_sparse.h"

#include "client/snapctl/remote_over.h"
#include "common/base/bytes.h"

#include <string.h>
#include <sys/stat.h>

static void mark(const struct origin *o, uint64_t offset_bytes, uint64_t from, uint64_t to,
                 uint64_t chunk_bytes, uint8_t *hole_chunks)
{
    uint64_t first = u64_div_round_up(from - offset_bytes, chunk_bytes);
    uint64_t after = to == o->size_bytes ? u64_div_round_up(to - offset_bytes, chunk_bytes)
                                         : (to - offset_bytes) / chunk_bytes;
    if (after > first)
        memset(hole_chunks + first, OVER_ZERO, after - first);
}

int remote_sparse_read(const struct origin *o, uint64_t offset_bytes, uint64_t len_bytes,
                       uint8_t *buf, uint64_t chunk_bytes, uint8_t *hole_chunks, struct err *reterr)
{
    uint64_t end = offset_bytes + len_bytes;
    int rc = 0;
    for (uint64_t at = offset_bytes, to; rc == 0 && at < end; at = to) {
        bool hole = false;
        to = u64_min(origin_extent_end(o, at, &hole), end);
        if (!hole) {
            rc = origin_read(o, at, buf + (at - offset_bytes), to - at, reterr);
            continue;
        }
        memset(buf + (at - offset_bytes), 0, to - at);
        if (hole_chunks)
            mark(o, offset_bytes, at, to, chunk_bytes, hole_chunks);
    }
    return rc;
}

bool remote_sparse_has_holes(const struct origin *o)
{
    struct stat st;
    return !o->is_block && fstat(o->fd, &st) == 0 &&
           (uint64_t)st.st_blocks * SECTOR_BYTES < o->size_bytes;
}

uint64_t remote_sparse_skip(const struct origin *a, const struct origin *b, uint64_t chunk_bytes,
                            uint64_t offset_bytes)
{
    uint64_t size = a->size_bytes, at = offset_bytes;
    while (at < size) {
        bool hole_a = false, hole_b = false;
        uint64_t end =
            u64_min(origin_extent_end(a, at, &hole_a), origin_extent_end(b, at, &hole_b));
        if (end < size)
            end -= end % chunk_bytes;
        if (!hole_a || !hole_b || end <= at)
            return at;
        at = end;
    }
    return size;
}
