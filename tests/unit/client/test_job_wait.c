/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting for a job: looking at it until it is over. */
#include "tests/unit/client/fake_daemon.h"

struct job_log {
    unsigned calls, looks, stop_at;
    int code;
    char state[32];
};

static void on_job(void *user, const struct snapwire_error *error, const struct snapwire_job *job)
{
    struct job_log *log = user;

    log->calls++;
    log->code = error != NULL ? error->code : 0;
    (void)snprintf(log->state, sizeof log->state, "%s", job != NULL ? job->state : "");
}

static int on_progress(void *user, const struct snapwire_job *job)
{
    struct job_log *log = user;

    assert_false(snapwire_job_is_over(job));
    return ++log->looks == log->stop_at;
}

static void answer_job(struct fake *f, struct fake_asked *a, const char *job_state)
{
    Snapwire__V1__Job m = SNAPWIRE__V1__JOB__INIT;

    m.job = fake_uuid(&f->head);
    m.volume = fake_uuid(&f->volume);
    m.state = (char *)(uintptr_t)job_state;
    fake_answer(f, a, &m.base);
}

static struct snapwire_client *wait_begin(struct fake *f, struct job_log *log)
{
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct snapwire_error e;
    const struct snapwire_job_wait args = {.size = sizeof args,
                                           .volume = f->volume,
                                           .job = f->head,
                                           .poll_ms = 2,
                                           .progress = on_progress,
                                           .user = log};

    assert_int_equal(snapwire_job_wait(c, &args, on_job, log, &e), 0);
    RUN_UNTIL(f, f->asked_count == 1);
    return c;
}

static void job_wait__looks_until_it_is_over(void **state)
{
    struct fake *f = fake_new();
    struct job_log log = {0};
    struct snapwire_client *c = wait_begin(f, &log);

    (void)state;
    answer_job(f, &f->asked[0], "running");
    RUN_UNTIL(f, f->asked_count == 2);
    answer_job(f, &f->asked[1], "waiting");
    RUN_UNTIL(f, f->asked_count == 3);
    assert_int_equal(log.calls, 0);
    answer_job(f, &f->asked[2], "failed");
    RUN_UNTIL(f, log.calls == 1);
    assert_int_equal(log.code, 0);
    assert_int_equal(log.looks, 2);
    assert_string_equal(log.state, "failed");
    close_and_free(f, c);
}

static void job_wait__stops_when_told_to(void **state)
{
    struct fake *f = fake_new();
    struct job_log log = {.stop_at = 1};
    struct snapwire_client *c = wait_begin(f, &log);

    (void)state;
    answer_job(f, &f->asked[0], "running");
    RUN_UNTIL(f, log.calls == 1);
    assert_string_equal(log.state, "running");
    run_for_ms(f, 10);
    assert_int_equal(f->asked_count, 1);
    close_and_free(f, c);
}

static void job_wait__between_two_looks_ends_with_the_client(void **state)
{
    struct fake *f = fake_new();
    struct job_log log = {0};
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct snapwire_error e;
    const struct snapwire_job_wait args = {.size = sizeof args,
                                           .volume = f->volume,
                                           .job = f->head,
                                           .poll_ms = 60000,
                                           .progress = on_progress,
                                           .user = &log};

    (void)state;
    assert_int_equal(snapwire_job_wait(c, &args, on_job, &log, &e), 0);
    RUN_UNTIL(f, f->asked_count == 1);
    answer_job(f, &f->asked[0], "running");
    RUN_UNTIL(f, log.looks == 1);
    close_and_free(f, c);
    assert_int_equal(log.calls, 1);
    assert_int_equal(log.code, SNAPWIRE_ECANCELED);
}

static void job_wait__of_a_job_that_is_gone_says_so(void **state)
{
    struct fake *f = fake_new();
    struct job_log log = {0};
    struct snapwire_client *c = wait_begin(f, &log);

    (void)state;
    fake_answer_error(f, &f->asked[0], SNAP_ENOENT, "no such job");
    RUN_UNTIL(f, log.calls == 1);
    assert_int_equal(log.code, SNAPWIRE_ENOENT);
    close_and_free(f, c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(job_wait__looks_until_it_is_over),
        cmocka_unit_test(job_wait__stops_when_told_to),
        cmocka_unit_test(job_wait__between_two_looks_ends_with_the_client),
        cmocka_unit_test(job_wait__of_a_job_that_is_gone_says_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
