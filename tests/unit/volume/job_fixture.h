/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs of a volume, and waiting for them. */
#ifndef SNAP_TESTS_UNIT_VOLUME_JOB_FIXTURE_H
#define SNAP_TESTS_UNIT_VOLUME_JOB_FIXTURE_H

#include "daemon/volume/job.h"
#include "daemon/volume/verify.h"
#include "tests/unit/volume/volume_fixture.h"

/* -- hand-downs ------------------------------------------------------------------------ */

/* Until no job is due any more. */
static inline void fixture_settle(struct fixture *f)
{
    for (int i = 0; i < 2000; i++) {
        struct look l = fixture_look(f, f->id);
        if (!l.job)
            return;
        (void)usleep(2000);
    }
    fail_msg("the hand-down job does not end");
}

static inline void fixture_do_start_jobs(struct call *c)
{
    hand_down_start(c->f->volume);
    call_end(c, 0, NULL);
}

/* Those that wait try again now. */
static inline void fixture_start_jobs(struct fixture *f)
{
    (void)call(f, fixture_do_start_jobs, NULL);
}

/* -- those with an id ------------------------------------------------------------------ */

struct showing {
    struct uuid job;
    struct volume_job_status status;
};

static inline void fixture_do_show(struct call *c)
{
    struct showing *g = c->arg;
    struct err err = ERR_INIT;
    int rc = volume_job_show(c->f->volume, &g->job, &g->status, &err);
    call_end(c, rc, &err);
}

/* arg: a struct verify_spec. */
static inline void fixture_do_verify(struct call *c)
{
    volume_verify_start(c->f->volume, c->arg, call_end, c);
}

static inline void fixture_do_cancel(struct call *c)
{
    volume_job_cancel(c->f->volume, c->arg, call_end, c);
}

/* Until the job has ended, however. */
static inline enum volume_job_state fixture_job_end(struct fixture *f, struct uuid job)
{
    struct showing g = {.job = job};
    for (int i = 0; i < 4000; i++) {
        assert_int_equal(call(f, fixture_do_show, &g), 0);
        if (g.status.state >= JOB_DONE)
            return g.status.state;
        (void)usleep(1000);
    }
    fail_msg("the job does not end: %s %s", volume_job_state_name(g.status.state), g.status.text);
    return JOB_FAILED;
}

/* Until it waits. why: some words of what it says. */
static inline struct volume_job_status fixture_job_waits(struct fixture *f, struct uuid job,
                                                         const char *why)
{
    struct showing g = {.job = job};
    for (int i = 0; i < 4000; i++) {
        assert_int_equal(call(f, fixture_do_show, &g), 0);
        if (g.status.state == JOB_WAITING && strstr(g.status.text, why) != NULL)
            return g.status;
        (void)usleep(1000);
    }
    fail_msg("the job does not wait for it, but is %s: %s", volume_job_state_name(g.status.state),
             g.status.text);
    return g.status;
}

#endif
