/* SPDX-License-Identifier: Apache-2.0 */
/* A shard: one thread with its own event loop, I/O engine and buffers. What lives
 * on a shard is touched by that thread alone; others reach it with shard_post().
 */
#ifndef SNAP_SHARD_SHARD_H
#define SNAP_SHARD_SHARD_H

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/io/blk.h"
#include "common/io/cache.h"
#include "common/net/loop.h"
#include "daemon/shard/look.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>

enum { SHARD_ZERO_BYTES = 1 << 20 };

/* Work for the end of the turn, done once however often it was asked for. The owner's. */
struct shard_kick {
    void (*fn)(void *user);
    void *user;
    bool queued;
    TAILQ_ENTRY(shard_kick) link;
};
TAILQ_HEAD(shard_kick_list, shard_kick);

struct shard_config {
    unsigned index;
    const char *io_engine;    /* "auto", "io_uring", "threads" */
    unsigned poll_us;         /* look so long for completions before sleeping; 0: never */
    size_t receive_bytes_max; /* cap of the receive pool; 0: none */
    size_t answer_bytes_max;  /* cap of the pool for answers and jobs; 0: none */
    size_t write_bytes_max;   /* cap of the pool for writes; 0: none */
    uint64_t cache_bytes;     /* of blocks in memory, of origins and COW devices; 0: none */
};

struct shard {
    unsigned index;
    struct loop *loop;
    struct blk_engine *engine;
    struct buf_pool *pool;        /* receive buffers of the shard's channels */
    struct buf_pool *answer_pool; /* what is read from disk, for answers and jobs */
    struct buf_pool *write_pool;  /* … for writes: who has one of these waits for no other */
    struct blk_cache *cache;      /* of origins and COW devices; NULL: none */
    uint8_t *zeros;               /* SHARD_ZERO_BYTES of zeros, aligned; never written */

    struct shard_kick_list kicks;
    struct shard_look look;
    struct loop_io io;
    struct loop_hook hook;
    bool io_ready, started;
    pthread_t thread;
    const struct shard_config *config; /* while starting */
    int start_code;
    struct err start_err;
    pthread_mutex_t start_lock;
    pthread_cond_t start_cond;
};

/* Start the thread; returns when its loop turns.
 * Owns: stopped and freed with shard_free(). */
int shard_new(const struct shard_config *config, struct shard **ret, struct err *reterr) SNAP_WUR;
/* End the loop after the turn at hand and wait for the thread. Any other thread. */
void shard_stop(struct shard *s);
/* Stops it first. Takes NULL. */
void shard_free(struct shard *s);

/* Any thread. */
void shard_post(struct shard *s, struct loop_msg *msg);
bool shard_is_current(const struct shard *s);

/* Run k->fn at the end of this turn, before queued disk requests go to the kernel. */
void shard_kick_later(struct shard *s, struct shard_kick *k);
/* Also inside another one's fn. */
void shard_kick_cancel(struct shard *s, struct shard_kick *k);

#endif
