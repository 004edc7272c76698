/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that overwrites an origin.
 *
 * A slot belongs to whoever has it: the caller, or from over_writer_put() until it is
 * collected the writer. Neighbouring chunks are written in one call; what went through
 * the page cache is sent on its way to the disk at once, so that the sync at the end is
 * short.
 *
 * Must not know of leases and daemons: only of a time up to which it may write. What it began
 * before may end after that, since a disk may take long: then it is late.
 *
 * Thread: what is under `lock` belongs to whoever has it.
 */
#include "client/snapctl/over_writer.h"

#include "client/host/origin.h"
#include "client/snapctl/remote_over.h"
#include "common/base/bytes.h"
#include "common/base/clock.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

struct over_writer {
    const struct origin *origin;
    uint64_t chunk_bytes;
    void (*wake)(void *user);
    void *user;
    pthread_t thread;
    bool running;

    pthread_mutex_t lock; /* over all that follows */
    pthread_cond_t changed;
    struct over_slot *first, **last; /* the queue */
    struct over_slot *done;
    bool writing; /* a slot that is in neither list */
    bool late;
    uint64_t valid_until_ns; /* see over_writer_lease() */
    bool stop;
    int code; /* the first failure */
    struct err err;
};

/* -- writing ------------------------------------------------------------------------------ */

static int write_run(const struct over_writer *w, struct over_slot *s, uint32_t i, uint32_t n,
                     struct err *reterr)
{
    uint64_t at = i * w->chunk_bytes;
    uint64_t len = u64_min(n * w->chunk_bytes, s->len_bytes - at);
    int rc = s->verdicts[i] == OVER_ZERO
                 ? origin_zero(w->origin, s->offset_bytes + at, len, reterr)
                 : origin_write(w->origin, s->offset_bytes + at, s->new + at, len, reterr);
    if (rc == 0) {
        s->written.chunks_written += n;
        s->written.bytes_written += len;
    }
    return rc;
}

/* Write what differs, from chunk `next` on, until done or the time is over. */
static int write_slot(const struct over_writer *w, struct over_slot *s, struct err *reterr)
{
    while (s->next < s->chunks) {
        uint32_t i = s->next, n = 1;
        while (i + n < s->chunks && s->verdicts[i + n] == s->verdicts[i])
            n++;
        if (s->verdicts[i] != OVER_SAME) {
            if (clock_now_ns(clock_asleep_too()) >= s->until_ns)
                return 0;
            int rc = write_run(w, s, i, n, reterr);
            if (rc < 0)
                return rc;
        }
        s->next += n;
    }
    origin_begin_sync(w->origin, s->offset_bytes, s->len_bytes);
    return 0;
}

/* -- the thread ----------------------------------------------------------------------------- */

static void done_locked(struct over_writer *w, struct over_slot *s)
{
    s->link = w->done;
    w->done = s;
}

static struct over_slot *next_locked(struct over_writer *w)
{
    struct over_slot *s = w->first;
    if (!s)
        return NULL;
    w->first = s->link;
    if (!w->first)
        w->last = &w->first;
    return s;
}

static void *writer_main(void *arg)
{
    struct over_writer *w = arg;
    struct over_slot *s;
    (void)pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        if (w->code < 0 || !(s = next_locked(w))) {
            (void)pthread_cond_wait(&w->changed, &w->lock);
            continue;
        }
        struct err err = ERR_INIT;
        const uint64_t before = s->written.bytes_written;
        w->writing = true;
        (void)pthread_mutex_unlock(&w->lock);
        int rc = write_slot(w, s, &err);
        const bool wrote = rc < 0 || s->written.bytes_written > before;
        (void)pthread_mutex_lock(&w->lock);
        bool first = !w->done;
        w->writing = false;
        w->late = w->late || (wrote && clock_now_ns(clock_asleep_too()) >= w->valid_until_ns);
        if (rc < 0) {
            w->code = rc;
            w->err = err;
        }
        done_locked(w, s);
        (void)pthread_cond_broadcast(&w->changed);
        if (first)
            w->wake(w->user);
    }
    (void)pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* Ctrl-C is the caller's. */
static int start_thread(struct over_writer *w)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGXFSZ);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&w->thread, NULL, writer_main, w);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    w->running = rc == 0;
    return rc;
}

int over_writer_new(const struct origin *origin, uint64_t chunk_bytes, void (*wake)(void *user),
                    void *user, struct over_writer **ret, struct err *reterr)
{
    struct over_writer *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(reterr, SNAP_ENOMEM, "writer of the origin");
    w->origin = origin;
    w->chunk_bytes = chunk_bytes;
    w->wake = wake;
    w->user = user;
    w->last = &w->first;
    (void)pthread_mutex_init(&w->lock, NULL); /* these two cannot fail on Linux */
    (void)pthread_cond_init(&w->changed, NULL);
    int rc = start_thread(w);
    if (rc != 0) {
        over_writer_free(w);
        return err_set_errno(reterr, err_code_of_errno(rc), rc, "a thread to write the origin");
    }
    *ret = w;
    return 0;
}

void over_writer_free(struct over_writer *w)
{
    if (!w)
        return;
    if (w->running) {
        (void)pthread_mutex_lock(&w->lock);
        w->stop = true;
        (void)pthread_cond_broadcast(&w->changed);
        (void)pthread_mutex_unlock(&w->lock);
        (void)pthread_join(w->thread, NULL);
    }
    (void)pthread_cond_destroy(&w->changed);
    (void)pthread_mutex_destroy(&w->lock);
    free(w);
}

/* -- the caller's side ---------------------------------------------------------------------- */

void over_writer_put(struct over_writer *w, struct over_slot *slot, uint64_t until_ns)
{
    (void)pthread_mutex_lock(&w->lock);
    slot->until_ns = until_ns;
    slot->link = NULL;
    *w->last = slot;
    w->last = &slot->link;
    (void)pthread_cond_broadcast(&w->changed);
    (void)pthread_mutex_unlock(&w->lock);
}

void over_writer_lease(struct over_writer *w, uint64_t until_ns)
{
    (void)pthread_mutex_lock(&w->lock);
    w->valid_until_ns = until_ns;
    w->late = false;
    (void)pthread_mutex_unlock(&w->lock);
}

bool over_writer_is_late(struct over_writer *w)
{
    (void)pthread_mutex_lock(&w->lock);
    const bool late = w->late;
    (void)pthread_mutex_unlock(&w->lock);
    return late;
}

void over_writer_hold(struct over_writer *w)
{
    struct over_slot *s;
    (void)pthread_mutex_lock(&w->lock);
    while ((s = next_locked(w)))
        done_locked(w, s);
    while (w->writing)
        (void)pthread_cond_wait(&w->changed, &w->lock);
    (void)pthread_mutex_unlock(&w->lock);
}

struct over_slot *over_writer_collect(struct over_writer *w, int *ret_code, struct err *reterr)
{
    (void)pthread_mutex_lock(&w->lock);
    struct over_slot *s = w->done;
    w->done = NULL;
    *ret_code = w->code;
    if (w->code < 0)
        (void)err_copy(reterr, &w->err);
    (void)pthread_mutex_unlock(&w->lock);
    return s;
}
