/* SPDX-License-Identifier: Apache-2.0 */
/* The thread engine: preadv and pwritev on a pool, where io_uring is refused.
 *
 *   blk_submit ──> fresh ──(kick)──> todo ══> workers ══> finished ──> collect
 *                 owner's            └── under the lock ──┘            owner's
 *
 * Submitting only links the request into a list of the owner's; a kick moves the
 * list under the lock and wakes as many workers as there is work for. A worker
 * makes all the system calls of a request. The first completion that finds the
 * finished list empty signals the eventfd; the owner takes the whole list.
 *
 * Thread: lists and devices are the owner's, but todo, finished and stop, which
 * the lock guards. A worker touches a request only between taking it from todo
 * and putting it on finished. Workers take no signals.
 */
#include "common/io/xfer.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>

enum { THREADS_MAX = 256 };

struct pool {
    struct blk_engine base;
    struct blk_req_list fresh; /* submitted, not kicked */
    unsigned fresh_count;

    pthread_mutex_t lock;
    pthread_cond_t work;
    struct blk_req_list todo;
    struct blk_req_list finished;
    bool stop;

    unsigned thread_count;
    pthread_t threads[];
};

static struct pool *pool_of(struct blk_engine *e)
{
    return CONTAINER_OF(e, struct pool, base);
}

/* -- workers --------------------------------------------------------------------- */

static void carry_out(struct blk_req *req)
{
    struct xfer_call call;

    do {
        xfer_next(req, &call);
    } while (!xfer_advance(req, xfer_make(&call)));
}

static void *worker_main(void *arg)
{
    struct pool *p = arg;
    struct blk_req *req;

    (void)pthread_mutex_lock(&p->lock);
    for (;;) {
        while ((req = STAILQ_FIRST(&p->todo)) == NULL && !p->stop)
            (void)pthread_cond_wait(&p->work, &p->lock);
        if (req == NULL)
            break;
        STAILQ_REMOVE_HEAD(&p->todo, link);
        (void)pthread_mutex_unlock(&p->lock);
        carry_out(req);
        (void)pthread_mutex_lock(&p->lock);
        bool first = STAILQ_EMPTY(&p->finished);
        STAILQ_INSERT_TAIL(&p->finished, req, link);
        if (first)
            blk_engine_poke(&p->base);
    }
    (void)pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* -- the owner's side --------------------------------------------------------------- */

static void pool_submit(struct blk_dev *d, struct blk_req *req)
{
    struct pool *p = pool_of(d->engine);

    xfer_begin(req);
    STAILQ_INSERT_TAIL(&p->fresh, req, link);
    p->fresh_count++;
}

static void pool_kick(struct blk_engine *e)
{
    struct pool *p = pool_of(e);
    unsigned wake = p->fresh_count;

    if (wake == 0)
        return;
    (void)pthread_mutex_lock(&p->lock);
    STAILQ_CONCAT(&p->todo, &p->fresh);
    (void)pthread_mutex_unlock(&p->lock);
    p->fresh_count = 0;
    if (wake >= p->thread_count) {
        (void)pthread_cond_broadcast(&p->work);
        return;
    }
    while (wake-- > 0)
        (void)pthread_cond_signal(&p->work);
}

static void pool_collect(struct blk_engine *e)
{
    struct pool *p = pool_of(e);
    struct blk_req_list taken = STAILQ_HEAD_INITIALIZER(taken);
    struct blk_req *req;

    (void)pthread_mutex_lock(&p->lock);
    STAILQ_CONCAT(&taken, &p->finished);
    (void)pthread_mutex_unlock(&p->lock);
    while ((req = STAILQ_FIRST(&taken)) != NULL) {
        STAILQ_REMOVE_HEAD(&taken, link);
        xfer_settle(req);
        blk_complete(req, req->result, req->sys_errno);
    }
}

/* A signal left over from completions already taken ends the sleep early, once. */
static void pool_sleep(struct blk_engine *e, int timeout_ms)
{
    struct pollfd pfd = {.fd = e->event_fd, .events = POLLIN};
    eventfd_t count;

    pool_kick(e);
    if (poll(&pfd, 1, timeout_ms) > 0)
        (void)eventfd_read(e->event_fd, &count);
}

static void pool_register_memory(struct blk_engine *e, void *base, size_t len_bytes)
{
    (void)e;
    (void)base;
    (void)len_bytes;
}

static const struct blk_dev_ops pool_dev_ops = {
    .submit = pool_submit,
    .close = file_dev_close,
    .next_data = file_dev_next_data,
    .next_hole = file_dev_next_hole,
};

static int pool_open(struct blk_engine *e, const char *path, unsigned flags, struct blk_dev **ret,
                     struct err *reterr)
{
    return file_dev_open(e, &pool_dev_ops, path, flags, ret, reterr);
}

/* -- making ------------------------------------------------------------------------ */

static void pool_free(struct blk_engine *e)
{
    struct pool *p = pool_of(e);

    (void)pthread_mutex_lock(&p->lock);
    p->stop = true;
    (void)pthread_mutex_unlock(&p->lock);
    (void)pthread_cond_broadcast(&p->work);
    for (unsigned i = 0; i < p->thread_count; i++)
        (void)pthread_join(p->threads[i], NULL);
    (void)pthread_cond_destroy(&p->work);
    (void)pthread_mutex_destroy(&p->lock);
    blk_engine_done(e);
    free(p);
}

static const struct blk_engine_ops pool_ops = {
    .kind = "threads",
    .free = pool_free,
    .open = pool_open,
    .kick = pool_kick,
    .collect = pool_collect,
    .sleep = pool_sleep,
    .register_memory = pool_register_memory,
};

/* As many as can be had; one is enough. */
static int start_threads(struct pool *p, unsigned threads)
{
    sigset_t all;
    sigset_t before;
    int r = 0;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    while (p->thread_count < threads && r == 0) {
        r = pthread_create(&p->threads[p->thread_count], NULL, worker_main, p);
        if (r == 0)
            p->thread_count++;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return p->thread_count > 0 ? 0 : r;
}

int blk_engine_new_threads(unsigned threads, struct blk_engine **ret, struct err *reterr)
{
    if (threads == 0 || threads > THREADS_MAX)
        return err_set(reterr, SNAP_EINVAL, "%u I/O threads: 1 to %d are accepted", threads,
                       THREADS_MAX);
    struct pool *p = calloc(1, sizeof *p + threads * sizeof p->threads[0]);
    if (p == NULL)
        return err_set(reterr, SNAP_ENOMEM, "make a thread engine: out of memory");
    int r = blk_engine_init(&p->base, &pool_ops, true, reterr);
    if (r != 0) {
        free(p);
        return r;
    }
    STAILQ_INIT(&p->fresh);
    STAILQ_INIT(&p->todo);
    STAILQ_INIT(&p->finished);
    (void)pthread_mutex_init(&p->lock, NULL);
    (void)pthread_cond_init(&p->work, NULL);
    r = start_threads(p, threads);
    if (r != 0) {
        pool_free(&p->base);
        return err_set_errno(reterr, SNAP_ENOMEM, r, "start an I/O thread");
    }
    *ret = &p->base;
    return 0;
}
