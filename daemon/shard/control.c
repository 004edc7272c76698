/* SPDX-License-Identifier: Apache-2.0 */
/* A thread with a loop and no I/O engine that runs blocking jobs in order.
 *
 * A job goes there as one message and comes back as one. It must not know what
 * the jobs do. Thread: control_submit() is anybody's; the rest the starter's.
 */
#include "daemon/shard/control.h"

#include "common/base/bytes.h"

#include <pthread.h>
#include <stdlib.h>

struct control {
    pthread_t thread;
    struct loop *loop;
    struct control_job last;
};

static void control_back(struct loop_msg *msg)
{
    struct control_job *job = CONTAINER_OF(msg, struct control_job, msg);
    job->done(job);
}

static void control_run(struct loop_msg *msg)
{
    struct control_job *job = CONTAINER_OF(msg, struct control_job, msg);
    struct loop *back = job->back;
    job->run(job);
    if (back == NULL)
        return;
    job->msg.fn = control_back;
    loop_post(back, &job->msg);
}

static void *control_main(void *user)
{
    struct control *c = user;
    loop_run(c->loop);
    return NULL;
}

int control_new(struct control **ret, struct err *reterr)
{
    struct control *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(reterr, SNAP_ENOMEM, "control thread");
    int rc = loop_new(&c->loop, reterr);
    if (rc < 0) {
        free(c);
        return rc;
    }
    rc = pthread_create(&c->thread, NULL, control_main, c);
    if (rc != 0) {
        rc = err_set_errno(reterr, SNAP_ENOMEM, rc, "start the control thread");
        loop_free(c->loop);
        free(c);
        return rc;
    }
    *ret = c;
    return 0;
}

void control_submit(struct control *c, struct control_job *job)
{
    job->msg.fn = control_run;
    loop_post(c->loop, &job->msg);
}

static void control_stop_run(struct control_job *job)
{
    struct control *c = CONTAINER_OF(job, struct control, last);
    loop_stop(c->loop);
}

void control_free(struct control *c)
{
    if (c == NULL)
        return;
    c->last = (struct control_job){.run = control_stop_run};
    control_submit(c, &c->last);
    pthread_join(c->thread, NULL);
    loop_free(c->loop);
    free(c);
}
