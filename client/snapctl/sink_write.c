/* SPDX-License-Identifier: Apache-2.0 */
/* The sink's buffers, their queue, and the thread that writes them.
 *
 * Into a file or a block device large aligned pieces go with O_DIRECT: no copy, and
 * nothing is left for the sync at the end. Small ones and odd ones go through the page
 * cache, where neighbours are joined, and their write-back is begun at once. Which
 * pieces those are: a buffer's runs of blocks that are not zero.
 *
 * A reader of a pipe may never read again: the pipe does not block, and while it is full
 * the writer looks now and then whether it is to stop.
 *
 * Thread: what is under `lock` belongs to whoever has it; `at_bytes` and the two
 * `direct` to the writer, and to the caller when nothing is queued or being written.
 */
#include "client/snapctl/sink_priv.h"

#include "client/snapctl/cli.h"
#include "common/base/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum {
    HOLE_BYTES = 4096, /* zeros of this size, aligned, become a hole */
    DIRECT_BYTES_MIN = 128 * 1024,
    LOOK_MS = 100, /* how often a wait looks whether Ctrl-C was pressed */
};

/* -- bytes ---------------------------------------------------------------------------------- */

static ssize_t write_some(const struct sink *s, uint64_t offset_bytes, const uint8_t *p,
                          uint64_t len_bytes)
{
    return s->pipe ? write(s->fd, p, len_bytes) : pwrite(s->fd, p, len_bytes, (off_t)offset_bytes);
}

/* The pipe is full. False: nobody wants what would be written to it any more. */
static bool wait_for_reader(struct sink *s)
{
    struct pollfd at = {.fd = s->fd, .events = POLLOUT};
    (void)poll(&at, 1, LOOK_MS);
    (void)pthread_mutex_lock(&s->lock);
    bool stop = s->stop;
    (void)pthread_mutex_unlock(&s->lock);
    return !stop && !cli_interrupted();
}

static void set_direct(struct sink *s, bool on)
{
    on = on && s->can_direct;
    if (on == s->direct)
        return;
    int flags = fcntl(s->fd, F_GETFL);
    if (flags >= 0 && fcntl(s->fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0)
        s->direct = on;
    else
        s->can_direct = false;
}

static bool suits_direct(const uint8_t *p, uint64_t offset_bytes, uint64_t len_bytes)
{
    return len_bytes >= DIRECT_BYTES_MIN && (uintptr_t)p % SINK_ALIGN_BYTES == 0 &&
           offset_bytes % SINK_ALIGN_BYTES == 0 && len_bytes % SINK_ALIGN_BYTES == 0;
}

static int put(struct sink *s, uint64_t offset_bytes, const uint8_t *p, uint64_t len_bytes,
               struct err *reterr)
{
    while (len_bytes > 0) {
        set_direct(s, suits_direct(p, offset_bytes, len_bytes));
        ssize_t n = write_some(s, offset_bytes, p, len_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN && s->pipe) {
            if (!wait_for_reader(s))
                return err_set(reterr, SNAP_ECANCELED, "stopped");
            continue;
        }
        if (n < 0 && errno == EINVAL && s->direct) { /* this disk wants it otherwise */
            set_direct(s, false);
            s->can_direct = false;
            continue;
        }
        if (n < 0)
            return err_set_errno(reterr, err_code_of_errno(errno), errno, "write %s", s->path);
        s->cached = s->cached || !s->direct;
        p += n;
        offset_bytes += (uint64_t)n;
        len_bytes -= (uint64_t)n;
    }
    return 0;
}

/* What went through the page cache is on its way to the disk from now on. A hint. */
static void begin_write_back(struct sink *s, uint64_t offset_bytes, uint64_t len_bytes)
{
    if (s->cached && !s->pipe)
        (void)sync_file_range(s->fd, (off_t)offset_bytes, (off_t)len_bytes, SYNC_FILE_RANGE_WRITE);
    s->cached = false;
}

int sink_fill_gap(struct sink *s, uint64_t to_bytes, struct err *reterr)
{
    static const uint8_t zeros[64 * 1024];
    while (s->at_bytes < to_bytes && (s->pipe || s->is_block)) {
        uint64_t n = u64_min(to_bytes - s->at_bytes, sizeof zeros);
        uint64_t range[2] = {s->at_bytes, to_bytes - s->at_bytes};
        if (s->is_block && ioctl(s->fd, BLKZEROOUT, range) == 0)
            break;
        int rc = put(s, s->at_bytes, zeros, n, reterr);
        if (rc < 0)
            return rc;
        s->at_bytes += n;
    }
    s->at_bytes = to_bytes;
    return 0;
}

/* Data into a file: runs of blocks that are not zero. */
static int put_sparse(struct sink *s, uint64_t offset_bytes, const uint8_t *p, uint64_t len_bytes,
                      struct err *reterr)
{
    uint64_t begin = 0;
    for (uint64_t at = 0; at < len_bytes;) {
        uint64_t n = u64_min(HOLE_BYTES - (offset_bytes + at) % HOLE_BYTES, len_bytes - at);
        if (bytes_are_zero(p + at, n)) {
            int rc = put(s, offset_bytes + begin, p + begin, at - begin, reterr);
            if (rc < 0)
                return rc;
            begin = at + n;
        }
        at += n;
    }
    return put(s, offset_bytes + begin, p + begin, len_bytes - begin, reterr);
}

static int write_buf(struct sink *s, const struct sink_buf *b, struct err *reterr)
{
    if (b->offset_bytes >= s->size_bytes)
        return 0;
    uint64_t len_bytes = u64_min(b->len_bytes, s->size_bytes - b->offset_bytes);
    int rc = sink_fill_gap(s, b->offset_bytes, reterr);
    if (rc == 0)
        rc = s->pipe || s->is_block ? put(s, b->offset_bytes, b->data, len_bytes, reterr)
                                    : put_sparse(s, b->offset_bytes, b->data, len_bytes, reterr);
    begin_write_back(s, b->offset_bytes, len_bytes);
    s->at_bytes = b->offset_bytes + len_bytes;
    return rc;
}

/* -- the writer ------------------------------------------------------------------------------- */

static void free_locked(struct sink *s, struct sink_buf *b)
{
    b->next = s->free;
    s->free = b;
    (void)pthread_cond_signal(&s->to_caller);
}

static struct sink_buf *next_locked(struct sink *s)
{
    struct sink_buf *b = s->first;
    if (!b)
        return NULL;
    s->first = b->next;
    if (!s->first)
        s->last = &s->first;
    return b;
}

static void *writer_main(void *arg)
{
    struct sink *s = arg;
    struct sink_buf *b;
    (void)pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        if (!(b = next_locked(s))) {
            (void)pthread_cond_wait(&s->to_writer, &s->lock);
            continue;
        }
        struct err err = ERR_INIT;
        bool drop = s->code < 0;
        s->writing = true;
        (void)pthread_mutex_unlock(&s->lock);
        int rc = drop ? 0 : write_buf(s, b, &err);
        (void)pthread_mutex_lock(&s->lock);
        s->writing = false;
        if (rc == 0 && !drop)
            s->written_bytes = s->at_bytes;
        if (rc < 0) {
            s->code = rc;
            s->err = err;
        }
        free_locked(s, b);
    }
    (void)pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Ctrl-C is the caller's: no signal ends up in the writer, but those of its own writes. */
static int start_thread(struct sink *s)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGPIPE);
    (void)sigdelset(&all, SIGXFSZ);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&s->writer, NULL, writer_main, s);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int sink_writer_start(struct sink *s, struct err *reterr)
{
    for (unsigned i = 0; i < SINK_BUFS; i++) {
        s->bufs[i].data = aligned_alloc(SINK_ALIGN_BYTES, SINK_BUF_BYTES);
        if (!s->bufs[i].data)
            return err_set(reterr, SNAP_ENOMEM, "buffers");
        free_locked(s, &s->bufs[i]);
    }
    int rc = start_thread(s);
    if (rc != 0)
        return err_set_errno(reterr, err_code_of_errno(rc), rc, "a thread to write %s", s->path);
    s->running = true;
    return 0;
}

void sink_writer_stop(struct sink *s)
{
    if (s->running) {
        (void)pthread_mutex_lock(&s->lock);
        s->stop = true;
        (void)pthread_cond_signal(&s->to_writer);
        (void)pthread_mutex_unlock(&s->lock);
        (void)pthread_join(s->writer, NULL);
        s->running = false;
    }
    for (unsigned i = 0; i < SINK_BUFS; i++)
        free(s->bufs[i].data);
}

/* -- the caller's side ---------------------------------------------------------------------- */

static int code_locked(const struct sink *s, struct err *reterr)
{
    if (s->code < 0)
        (void)err_copy(reterr, &s->err);
    return s->code;
}

static void wait_locked(struct sink *s)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += LOOK_MS * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    (void)pthread_cond_timedwait(&s->to_caller, &s->lock, &until);
}

/* Until there is a free buffer, or all is written. */
static int await(struct sink *s, struct sink_buf **ret, struct err *reterr)
{
    int rc;
    (void)pthread_mutex_lock(&s->lock);
    while ((rc = code_locked(s, reterr)) == 0 && (ret ? !s->free : s->first || s->writing)) {
        if (cli_interrupted()) {
            rc = err_set(reterr, SNAP_ECANCELED, "stopped");
            break;
        }
        wait_locked(s);
    }
    if (rc == 0 && ret) {
        *ret = s->free;
        s->free = s->free->next;
    }
    (void)pthread_mutex_unlock(&s->lock);
    return rc;
}

int sink_take(struct sink *s, struct sink_buf **ret, struct err *reterr)
{
    return await(s, ret, reterr);
}

int sink_writer_drain(struct sink *s, struct err *reterr)
{
    return await(s, NULL, reterr);
}

struct sink_buf *sink_take_free(struct sink *s)
{
    (void)pthread_mutex_lock(&s->lock);
    struct sink_buf *b = s->free;
    if (b)
        s->free = b->next;
    (void)pthread_mutex_unlock(&s->lock);
    return b;
}

void sink_put(struct sink *s, struct sink_buf *take_buf)
{
    (void)pthread_mutex_lock(&s->lock);
    take_buf->next = NULL;
    *s->last = take_buf;
    s->last = &take_buf->next;
    (void)pthread_cond_signal(&s->to_writer);
    (void)pthread_mutex_unlock(&s->lock);
}

void sink_give(struct sink *s, struct sink_buf *take_buf)
{
    if (!take_buf)
        return;
    (void)pthread_mutex_lock(&s->lock);
    free_locked(s, take_buf);
    (void)pthread_mutex_unlock(&s->lock);
}

int sink_checkpoint(struct sink *s, uint64_t *ret_bytes, struct err *reterr)
{
    (void)pthread_mutex_lock(&s->lock);
    int rc = code_locked(s, reterr);
    uint64_t written = s->written_bytes;
    (void)pthread_mutex_unlock(&s->lock);
    if (rc == 0 && fdatasync(s->fd) != 0)
        rc = err_set_errno(reterr, err_code_of_errno(errno), errno, "sync %s", s->path);
    if (rc == 0)
        *ret_bytes = written;
    return rc;
}

int sink_check(struct sink *s, struct err *reterr)
{
    (void)pthread_mutex_lock(&s->lock);
    int rc = code_locked(s, reterr);
    (void)pthread_mutex_unlock(&s->lock);
    return rc;
}
