/* SPDX-License-Identifier: Apache-2.0 */
/* What the sink's two files share: sink.c (the place and its name), sink_write.c (the bytes). */
#ifndef SNAP_SNAPCTL_SINK_PRIV_H
#define SNAP_SNAPCTL_SINK_PRIV_H

#include "client/snapctl/sink.h"
#include "common/base/limits.h"

#include <pthread.h>

struct sink {
    int fd;
    bool pipe; /* in order, holes are written as zeros */
    bool is_block;
    char path[LIMIT_PATH_BYTES];
    char partial[LIMIT_PATH_BYTES]; /* a new file under its working name */
    uint64_t size_bytes;
    const struct resume_file *again; /* gone on with; NULL: begun anew. While it is opened */
    uint64_t from_bytes;             /* all before it was written by an earlier run */
    bool keep;                       /* the partial file stays when it is not finished */

    /* the writer's while it runs */
    uint64_t at_bytes; /* all before it is written, or a hole */
    bool can_direct;   /* O_DIRECT may be tried */
    bool direct;       /* it is set */
    bool cached;       /* something of this buffer went through the page cache */

    pthread_t writer;
    bool running;
    pthread_mutex_t lock; /* over all that follows */
    pthread_cond_t to_writer, to_caller;
    struct sink_buf bufs[SINK_BUFS];
    struct sink_buf *free;
    struct sink_buf *first, **last; /* the queue */
    bool writing;                   /* one that is in neither list */
    bool stop;
    uint64_t written_bytes; /* at_bytes, as it is between two buffers */
    int code;               /* the first failure */
    struct err err;
};

/* The descriptor is open. Errors: SNAP_ENOMEM, SNAP_EIO (no thread). */
int sink_writer_start(struct sink *s, struct err *reterr) SNAP_WUR;
/* Until all that was put is written. Errors: as sink_take(). */
int sink_writer_drain(struct sink *s, struct err *reterr) SNAP_WUR;
/* Drop what is queued, end the thread. Takes one that was not started. */
void sink_writer_stop(struct sink *s);
/* Drained: zeros up to there, unless that is a hole already. */
int sink_fill_gap(struct sink *s, uint64_t to_bytes, struct err *reterr) SNAP_WUR;

#endif
