/* SPDX-License-Identifier: Apache-2.0 */
/* The control thread: blocking work (records, rights, registry, unlinking), one job
 * after another in the order of submission. That order is what makes names unique
 * and record commits of a volume sequential.
 */
#ifndef SNAP_SHARD_CONTROL_H
#define SNAP_SHARD_CONTROL_H

#include "common/base/err.h"
#include "common/net/loop.h"

struct control;

/* The submitter's until done has run (or run, when back is NULL). */
struct control_job {
    void (*run)(struct control_job *job);  /* on the control thread; may block */
    void (*done)(struct control_job *job); /* on the loop `back` */
    struct loop *back;                     /* NULL: nobody is told; run may free the job */
    struct loop_msg msg;                   /* control's own */
};

int control_new(struct control **ret, struct err *reterr) SNAP_WUR;
/* Runs what is queued, then ends the thread. Takes NULL. */
void control_free(struct control *c);
/* Any thread. */
void control_submit(struct control *c, struct control_job *job);

#endif
