/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs of the daemon: begun, looked at, cancelled, waited for.
 *
 *   wait:  look ──> over, stopped at, error ──> cb
 *           ^ └──> not over ──> progress ──> poll_ms ──┐
 *           └──────────────────────────────────────────┘
 *
 * A waiter that stands between two looks has no request: the client's list of them ends it when
 * the client is closed. Thread: the client's.
 */
#include "client/lib/face_priv.h"

#include <stdlib.h>
#include <string.h>

enum { POLL_MS_DEFAULT = 200 };

bool snapwire_job_is_over(const struct snapwire_job *job)
{
    return strcmp(job->state, "done") == 0 || strcmp(job->state, "failed") == 0 ||
           strcmp(job->state, "cancelled") == 0;
}

/* -- beginning -- */

static int rollback(struct snapwire_client *c, const struct snapwire_rollback *args,
                    const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__RollbackRequest m = SNAPWIRE__V1__ROLLBACK_REQUEST__INIT;
    struct snapwire_rollback a;
    const int r = public_args(&a, sizeof a, args, sizeof a, reterr);

    if (r < 0)
        return r;
    if (snapwire_uuid_is_zero(&a.job))
        a.job = snapwire_uuid_make();
    m.volume = pb_uuid(&a.volume);
    m.snapshot = pb_uuid(&a.snapshot);
    m.job = pb_uuid(&a.job);
    m.merge = a.merge;
    m.drop_newer = a.drop_newer;
    return call_begin(
        c, &(struct call_spec){.method = M(ROLLBACK), .message = &m.base, .convert = convert_job},
        to, reterr);
}

int snapwire_rollback(struct snapwire_client *c, const struct snapwire_rollback *args,
                      snapwire_job_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(rollback(c, args, CALL_TO(job, cb, user), &err));
}

int snapwire_rollback_sync(struct snapwire_client *c, const struct snapwire_rollback *args,
                           struct snapwire_job **ret, struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(rollback(c, args, SYNC_TO(&wait), &err));
}

static int verify(struct snapwire_client *c, const struct snapwire_verify *args,
                  const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__VerifyRequest m = SNAPWIRE__V1__VERIFY_REQUEST__INIT;
    struct snapwire_verify a;
    const int r = public_args(&a, sizeof a, args, sizeof a, reterr);

    if (r < 0)
        return r;
    if (snapwire_uuid_is_zero(&a.job))
        a.job = snapwire_uuid_make();
    m.volume = pb_uuid(&a.volume);
    m.snapshot = pb_uuid(&a.snapshot);
    m.job = pb_uuid(&a.job);
    m.rebuild = a.rebuild;
    return call_begin(
        c, &(struct call_spec){.method = M(VERIFY), .message = &m.base, .convert = convert_job}, to,
        reterr);
}

int snapwire_verify(struct snapwire_client *c, const struct snapwire_verify *args,
                    snapwire_job_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(verify(c, args, CALL_TO(job, cb, user), &err));
}

int snapwire_verify_sync(struct snapwire_client *c, const struct snapwire_verify *args,
                         struct snapwire_job **ret, struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(verify(c, args, SYNC_TO(&wait), &err));
}

/* -- looking and cancelling -- */

static int about_job(struct snapwire_client *c, uint16_t method, const struct snapwire_uuid *volume,
                     const struct snapwire_uuid *job, const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__JobRef m = SNAPWIRE__V1__JOB_REF__INIT;

    m.volume = pb_uuid(volume);
    m.job = pb_uuid(job);
    return call_begin(
        c, &(struct call_spec){.method = method, .message = &m.base, .convert = convert_job}, to,
        reterr);
}

int snapwire_job_show(struct snapwire_client *c, const struct snapwire_uuid *volume,
                      const struct snapwire_uuid *job, snapwire_job_cb cb, void *user,
                      struct snapwire_error *reterr)
{
    FACE_ASYNC(about_job(c, M(JOB_SHOW), volume, job, CALL_TO(job, cb, user), &err));
}

int snapwire_job_show_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                           const struct snapwire_uuid *job, struct snapwire_job **ret,
                           struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(about_job(c, M(JOB_SHOW), volume, job, SYNC_TO(&wait), &err));
}

int snapwire_job_cancel(struct snapwire_client *c, const struct snapwire_uuid *volume,
                        const struct snapwire_uuid *job, snapwire_job_cb cb, void *user,
                        struct snapwire_error *reterr)
{
    FACE_ASYNC(about_job(c, M(JOB_CANCEL), volume, job, CALL_TO(job, cb, user), &err));
}

int snapwire_job_cancel_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                             const struct snapwire_uuid *job, struct snapwire_job **ret,
                             struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(about_job(c, M(JOB_CANCEL), volume, job, SYNC_TO(&wait), &err));
}

/* -- waiting -- */

struct job_waiter {
    struct snapwire_client *client;
    struct snapwire_job_wait args;
    struct call_to to;
    struct loop_timer timer;
    bool listed; /* between two looks */
    LIST_ENTRY(job_waiter) link;
};

static void wait_finish(struct job_waiter *w, const struct err *err, struct snapwire_job *take_job)
{
    const struct call_to to = w->to;

    if (w->listed)
        LIST_REMOVE(w, link);
    loop_timer_done(&w->timer);
    free(w);
    to.deliver(&to, err, take_job);
}

static void wait_looked(const struct call_to *to, const struct err *err, void *result)
{
    struct job_waiter *w = to->user;
    struct snapwire_job *job = result;
    const bool over = err != NULL || snapwire_job_is_over(job);

    if (over || (w->args.progress != NULL && w->args.progress(w->args.user, job) != 0)) {
        wait_finish(w, err, job);
        return;
    }
    snapwire_free(job);
    LIST_INSERT_HEAD(&w->client->job_waiters, w, link);
    w->listed = true;
    loop_timer_set(&w->timer, w->args.poll_ms);
}

static int wait_look(struct job_waiter *w, struct err *reterr)
{
    const struct call_to to = {.deliver = wait_looked, .user = w};

    return about_job(w->client, M(JOB_SHOW), &w->args.volume, &w->args.job, &to, reterr);
}

static void wait_timer(void *user)
{
    struct job_waiter *w = user;
    struct err err = ERR_INIT;

    LIST_REMOVE(w, link);
    w->listed = false;
    if (wait_look(w, &err) < 0)
        wait_finish(w, &err, NULL);
}

void job_wait_end_all(struct snapwire_client *c, const struct err *why)
{
    struct job_waiter *w;

    while ((w = LIST_FIRST(&c->job_waiters)) != NULL)
        wait_finish(w, why, NULL);
}

static int job_wait(struct snapwire_client *c, const struct snapwire_job_wait *args,
                    const struct call_to *to, struct err *reterr)
{
    struct job_waiter *w = calloc(1, sizeof *w);

    if (w == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a waiter");
    w->client = c;
    w->to = *to;
    int r = public_args(&w->args, sizeof w->args, args, sizeof w->args, reterr);
    if (w->args.poll_ms == 0)
        w->args.poll_ms = POLL_MS_DEFAULT;
    if (r == 0)
        r = loop_timer_init(c->loop, &w->timer, wait_timer, w, reterr);
    if (r < 0) {
        free(w);
        return r;
    }
    r = wait_look(w, reterr);
    if (r < 0) {
        loop_timer_done(&w->timer);
        free(w);
    }
    return r;
}

int snapwire_job_wait(struct snapwire_client *c, const struct snapwire_job_wait *args,
                      snapwire_job_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(job_wait(c, args, CALL_TO(job, cb, user), &err));
}

int snapwire_job_wait_sync(struct snapwire_client *c, const struct snapwire_job_wait *args,
                           struct snapwire_job **ret, struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(job_wait(c, args, SYNC_TO(&wait), &err));
}
