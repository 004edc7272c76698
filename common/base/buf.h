/* SPDX-License-Identifier: Apache-2.0 */
/* Aligned buffers for O_DIRECT, from a pool with a cap.
 *
 * A pool belongs to one shard; its buffers may travel to other threads, but are
 * taken and given back on the pool's own thread only. Sizes are rounded up to
 * classes of powers of two from 4 KiB; freed buffers are kept for reuse.
 */
#ifndef SNAP_BASE_BUF_H
#define SNAP_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

enum { BUF_ALIGN_BYTES = 4096, BUF_BYTES_MAX = 32 * 1024 * 1024 };

struct buf_pool;

struct buf {
    uint8_t *data;    /* BUF_ALIGN_BYTES aligned */
    size_t cap_bytes; /* at least what was asked for */
    size_t len_bytes; /* the user's: how much is meant */
    unsigned refs;    /* not atomic: one thread at a time */
    struct buf_pool *pool;
    struct buf *next_free;
};

/* NULL: out of memory. cap_bytes bounds what the pool holds, handed out or kept for reuse,
 * counted in whole classes (0: no bound on what is handed out, 64 MiB on what is kept). Of one of
 * which nothing is handed out a larger buffer can be had, so that who waits for it gets it once. */
struct buf_pool *buf_pool_new(size_t cap_bytes);
/* All buffers must have been given back. Takes NULL. */
void buf_pool_free(struct buf_pool *pool);
/* A buffer with one reference, len_bytes = size_bytes, its content undefined. NULL: the cap
 * is reached, no memory, or more than BUF_BYTES_MAX. */
struct buf *buf_take(struct buf_pool *pool, size_t size_bytes);
struct buf *buf_ref(struct buf *b);
/* Drops one reference; takes NULL. */
void buf_give(struct buf *b);
/* Bytes handed out now, in whole classes, for limits and metrics. */
size_t buf_pool_used_bytes(const struct buf_pool *pool);
/* Bytes kept for reuse now. */
size_t buf_pool_kept_bytes(const struct buf_pool *pool);

#endif
