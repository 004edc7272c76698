/* SPDX-License-Identifier: Apache-2.0 */
/* A shard's thread and the order of work in one turn of its loop.
 *
 *   readiness: sockets, timers, messages, the I/O engine's descriptor
 *        │  frames become puts, puts become queued disk requests
 *        v
 *   end of turn:  kicks (a store submits what gathered)
 *                 engine kick (one system call for all of it)
 *                 engine poll (completions move stores on), again while any ran
 *                 a look for a little while, see look.c, and again if one came;
 *                 not while answers are to be sent or a socket has more
 *
 * So one wake-up carries a batch from the socket to the disk, and a burst of puts
 * gathers into one group. It must not know what volumes or requests are.
 *
 * Thread: everything is created, used and freed on the shard's own thread, but for
 * shard_new(), shard_stop(), shard_free() (the starter's; they free the loop, after the
 * thread) and shard_post() (any).
 */
#include "daemon/shard/shard.h"

#include "common/base/check.h"

#include <stdlib.h>
#include <string.h>

/* A turn goes back to its sockets after so many rounds of completions. */
enum { SHARD_REAP_ROUNDS_MAX = 16, SHARD_IO_THREADS = 8, SHARD_URING_DEPTH = 1024 };

/* Those that are queued while these run wait for the next round: they stand behind `end`. All are
 * on one list, since any of them may be taken back meanwhile. */
static void shard_run_kicks(struct shard *s)
{
    struct shard_kick end = {.queued = true}, *k;
    TAILQ_INSERT_TAIL(&s->kicks, &end, link);
    while ((k = TAILQ_FIRST(&s->kicks)) != &end) {
        TAILQ_REMOVE(&s->kicks, k, link);
        k->queued = false;
        k->fn(k->user);
    }
    TAILQ_REMOVE(&s->kicks, &end, link);
}

static unsigned shard_look_poll(void *user)
{
    return blk_engine_poll(user);
}

/* True: the disk has brought something. */
static bool shard_look(struct shard *s)
{
    const enum shard_look_result r = shard_look_before_sleep(
        &s->look, clock_system(), blk_engine_at_disks(s->engine), shard_look_poll, s->engine);
    if (r == LOOK_AGAIN)
        loop_again(s->loop);
    return r == LOOK_FOUND;
}

static void shard_turn_end(void *user)
{
    struct shard *s = user;
    for (unsigned round = 0; round < SHARD_REAP_ROUNDS_MAX; round++) {
        shard_run_kicks(s);
        blk_engine_kick(s->engine);
        if (blk_engine_poll(s->engine) > 0 || !TAILQ_EMPTY(&s->kicks))
            continue;
        if (loop_has_more(s->loop) || !shard_look(s))
            return;
    }
    loop_again(s->loop);
}

static void shard_io_ready(void *user, unsigned what)
{
    (void)what;
    struct shard *s = user;
    (void)blk_engine_reap(s->engine);
}

static int shard_engine_new(const char *kind, struct blk_engine **ret, struct err *reterr)
{
    if (kind == NULL || strcmp(kind, "auto") == 0)
        return blk_engine_new(ret, reterr);
    if (strcmp(kind, "io_uring") == 0)
        return blk_engine_new_uring(SHARD_URING_DEPTH, ret, reterr);
    if (strcmp(kind, "threads") == 0)
        return blk_engine_new_threads(SHARD_IO_THREADS, ret, reterr);
    return err_set(reterr, SNAP_EINVAL, "no I/O engine is called \"%s\"", kind);
}

static int shard_init(struct shard *s, struct err *reterr)
{
    const struct shard_config *config = s->config;
    s->look.longest_ns = config->poll_us * UINT64_C(1000);
    s->pool = buf_pool_new(config->receive_bytes_max);
    s->answer_pool = buf_pool_new(config->answer_bytes_max);
    s->write_pool = buf_pool_new(config->write_bytes_max);
    void *zeros = NULL;
    if (posix_memalign(&zeros, BUF_ALIGN_BYTES, SHARD_ZERO_BYTES) != 0)
        zeros = NULL;
    s->zeros = zeros;
    if (s->pool == NULL || s->answer_pool == NULL || s->write_pool == NULL || s->zeros == NULL)
        return err_set(reterr, SNAP_ENOMEM, "buffers of shard %u", s->index);
    memset(s->zeros, 0, SHARD_ZERO_BYTES);

    int rc = 0;
    if (config->cache_bytes > 0)
        rc = blk_cache_new(config->cache_bytes, &s->cache, reterr);
    if (rc == 0)
        rc = shard_engine_new(config->io_engine, &s->engine, reterr);
    if (rc < 0)
        return rc;
    rc = loop_new(&s->loop, reterr);
    if (rc < 0)
        return rc;
    rc = loop_io_init(s->loop, &s->io, blk_engine_fd(s->engine), shard_io_ready, s, reterr);
    if (rc < 0)
        return rc;
    s->io_ready = true;
    loop_io_want(&s->io, LOOP_READ);
    s->hook = (struct loop_hook){.fn = shard_turn_end, .user = s};
    loop_hook_add_last(s->loop, &s->hook);
    return 0;
}

/* All but the loop: who tells it to stop is still in it when the thread already ends. */
static void shard_done(struct shard *s)
{
    if (s->io_ready) {
        loop_hook_remove(s->loop, &s->hook);
        loop_io_done(&s->io);
        s->io_ready = false;
    }
    blk_cache_free(s->cache);
    blk_engine_free(s->engine);
    buf_pool_free(s->write_pool);
    buf_pool_free(s->answer_pool);
    buf_pool_free(s->pool);
    free(s->zeros);
    s->cache = NULL;
    s->engine = NULL;
    s->pool = s->answer_pool = s->write_pool = NULL;
    s->zeros = NULL;
}

static void *shard_main(void *user)
{
    struct shard *s = user;
    struct err err = ERR_INIT;
    int rc = shard_init(s, &err);
    pthread_mutex_lock(&s->start_lock);
    s->start_code = rc;
    s->start_err = err;
    s->started = true;
    pthread_cond_signal(&s->start_cond);
    pthread_mutex_unlock(&s->start_lock);
    if (rc == 0)
        loop_run(s->loop);
    shard_done(s);
    return NULL;
}

int shard_new(const struct shard_config *config, struct shard **ret, struct err *reterr)
{
    struct shard *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_set(reterr, SNAP_ENOMEM, "shard %u", config->index);
    s->index = config->index;
    s->config = config;
    TAILQ_INIT(&s->kicks);
    pthread_mutex_init(&s->start_lock, NULL);
    pthread_cond_init(&s->start_cond, NULL);
    int rc = pthread_create(&s->thread, NULL, shard_main, s);
    if (rc != 0) {
        rc = err_set_errno(reterr, SNAP_ENOMEM, rc, "start the thread of shard %u", s->index);
        goto fail;
    }
    pthread_mutex_lock(&s->start_lock);
    while (!s->started)
        pthread_cond_wait(&s->start_cond, &s->start_lock);
    pthread_mutex_unlock(&s->start_lock);
    s->config = NULL;
    if (s->start_code < 0) {
        pthread_join(s->thread, NULL);
        loop_free(s->loop);
        err_copy(reterr, &s->start_err);
        (void)err_prefix(reterr, "shard %u", s->index);
        rc = s->start_code;
        goto fail;
    }
    *ret = s;
    return 0;
fail:
    pthread_cond_destroy(&s->start_cond);
    pthread_mutex_destroy(&s->start_lock);
    free(s);
    return rc;
}

void shard_stop(struct shard *s)
{
    if (s->loop == NULL || !s->started)
        return;
    loop_stop(s->loop);
    pthread_join(s->thread, NULL);
    loop_free(s->loop);
    s->loop = NULL;
    s->started = false;
}

void shard_free(struct shard *s)
{
    if (s == NULL)
        return;
    shard_stop(s);
    pthread_cond_destroy(&s->start_cond);
    pthread_mutex_destroy(&s->start_lock);
    free(s);
}

void shard_post(struct shard *s, struct loop_msg *msg)
{
    loop_post(s->loop, msg);
}

bool shard_is_current(const struct shard *s)
{
    return pthread_equal(pthread_self(), s->thread) != 0;
}

void shard_kick_later(struct shard *s, struct shard_kick *k)
{
    if (k->queued)
        return;
    k->queued = true;
    TAILQ_INSERT_TAIL(&s->kicks, k, link);
}

void shard_kick_cancel(struct shard *s, struct shard_kick *k)
{
    if (!k->queued)
        return;
    k->queued = false;
    TAILQ_REMOVE(&s->kicks, k, link);
}
