/* SPDX-License-Identifier: Apache-2.0 */
/* A shard's thread, its turn's end, and the control thread's order. */
#include "common/base/bytes.h"
#include "daemon/shard/control.h"
#include "daemon/shard/shard.h"

#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

struct probe {
    struct loop_msg msg;
    struct shard *shard;
    struct shard_kick kicks[2];
    unsigned runs[2];
    bool on_thread;
    sem_t done;
};

static void probe_kick_second(void *user)
{
    struct probe *p = user;
    p->runs[1]++;
    sem_post(&p->done);
}

/* queues another while kicks run: it must wait for the next round, and come */
static void probe_kick_first(void *user)
{
    struct probe *p = user;
    p->runs[0]++;
    shard_kick_later(p->shard, &p->kicks[1]);
}

static void probe_run(struct loop_msg *msg)
{
    struct probe *p = CONTAINER_OF(msg, struct probe, msg);
    p->on_thread = shard_is_current(p->shard);
    for (int i = 0; i < 3; i++)
        shard_kick_later(p->shard, &p->kicks[0]);
}

static struct shard *make_shard(const char *engine)
{
    struct shard_config config = {.index = 3, .io_engine = engine};
    struct shard *s = NULL;
    struct err err = ERR_INIT;
    if (shard_new(&config, &s, &err) < 0)
        fail_msg("%s", err.text);
    return s;
}

static void kick__runs_once_at_the_end_of_the_turn(void **state)
{
    (void)state;
    struct shard *s = make_shard("threads");
    struct probe p = {.msg = {.fn = probe_run}, .shard = s};
    p.kicks[0] = (struct shard_kick){.fn = probe_kick_first, .user = &p};
    p.kicks[1] = (struct shard_kick){.fn = probe_kick_second, .user = &p};
    sem_init(&p.done, 0, 0);
    shard_post(s, &p.msg);
    sem_wait(&p.done);
    shard_stop(s);
    assert_true(p.on_thread);
    assert_false(shard_is_current(s));
    assert_int_equal(p.runs[0], 1);
    assert_int_equal(p.runs[1], 1);
    shard_free(s);
    sem_destroy(&p.done);
}

struct taking_back {
    struct loop_msg both, one;
    struct shard *shard;
    struct shard_kick first, last, later;
    unsigned last_runs;
    sem_t done;
};

static void taking_back_first(void *user)
{
    struct taking_back *t = user;
    shard_kick_cancel(t->shard, &t->last);
}

static void taking_back_last(void *user)
{
    struct taking_back *t = user;
    t->last_runs++;
}

static void taking_back_later(void *user)
{
    struct taking_back *t = user;
    sem_post(&t->done);
}

static void taking_back_queue_both(struct loop_msg *msg)
{
    struct taking_back *t = CONTAINER_OF(msg, struct taking_back, both);
    shard_kick_later(t->shard, &t->first);
    shard_kick_later(t->shard, &t->last);
}

static void taking_back_queue_one(struct loop_msg *msg)
{
    struct taking_back *t = CONTAINER_OF(msg, struct taking_back, one);
    shard_kick_later(t->shard, &t->later);
}

/* The first of a turn takes the last one back: what that one was of is gone. */
static void kick__taken_back_by_another_of_its_turn_does_not_run_and_later_ones_do(void **state)
{
    (void)state;
    struct timespec until;
    struct taking_back t = {.both = {.fn = taking_back_queue_both},
                            .one = {.fn = taking_back_queue_one},
                            .shard = make_shard("threads")};
    t.first = (struct shard_kick){.fn = taking_back_first, .user = &t};
    t.last = (struct shard_kick){.fn = taking_back_last, .user = &t};
    t.later = (struct shard_kick){.fn = taking_back_later, .user = &t};
    sem_init(&t.done, 0, 0);
    shard_post(t.shard, &t.both);
    (void)usleep(20000); /* the next one is of another turn, most likely */
    shard_post(t.shard, &t.one);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    int rc = sem_timedwait(&t.done, &until);
    shard_free(t.shard);
    sem_destroy(&t.done);
    assert_int_equal(rc, 0);
    assert_int_equal(t.last_runs, 0);
}

static void new__unknown_engine_is_refused_by_name(void **state)
{
    (void)state;
    struct shard_config config = {.io_engine = "tape"};
    struct shard *s = NULL;
    struct err err = ERR_INIT;
    assert_int_equal(shard_new(&config, &s, &err), SNAP_EINVAL);
    assert_non_null(strstr(err.text, "tape"));
    assert_null(s);
}

/* -- control -------------------------------------------------------------------- */

enum { JOBS = 200 };

struct ordered {
    struct control_job job;
    unsigned number;
    struct order *order;
};

struct order {
    unsigned ran[JOBS], count, back;
    struct shard *shard;
    bool wrong_thread;
    sem_t done;
    struct ordered jobs[JOBS];
};

static void ordered_run(struct control_job *job)
{
    struct ordered *o = CONTAINER_OF(job, struct ordered, job);
    o->order->ran[o->order->count++] = o->number;
}

static void ordered_done(struct control_job *job)
{
    struct ordered *o = CONTAINER_OF(job, struct ordered, job);
    if (!shard_is_current(o->order->shard))
        o->order->wrong_thread = true;
    if (++o->order->back == JOBS)
        sem_post(&o->order->done);
}

static void submit__jobs_run_in_order_and_come_back(void **state)
{
    (void)state;
    struct order *order = calloc(1, sizeof *order);
    struct control *c = NULL;
    struct err err = ERR_INIT;
    order->shard = make_shard("threads");
    sem_init(&order->done, 0, 0);
    assert_int_equal(control_new(&c, &err), 0);
    for (unsigned i = 0; i < JOBS; i++) {
        order->jobs[i] = (struct ordered){
            .job = {.run = ordered_run, .done = ordered_done, .back = order->shard->loop},
            .number = i,
            .order = order};
        control_submit(c, &order->jobs[i].job);
    }
    sem_wait(&order->done);
    for (unsigned i = 0; i < JOBS; i++)
        assert_int_equal(order->ran[i], i);
    assert_false(order->wrong_thread);
    control_free(c);
    shard_free(order->shard);
    sem_destroy(&order->done);
    free(order);
}

static void free__runs_what_was_queued(void **state)
{
    (void)state;
    struct order *order = calloc(1, sizeof *order);
    struct control *c = NULL;
    assert_int_equal(control_new(&c, NULL), 0);
    for (unsigned i = 0; i < JOBS; i++) {
        order->jobs[i] = (struct ordered){.job = {.run = ordered_run}, .order = order};
        control_submit(c, &order->jobs[i].job);
    }
    control_free(c);
    assert_int_equal(order->count, JOBS);
    free(order);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kick__runs_once_at_the_end_of_the_turn),
        cmocka_unit_test(kick__taken_back_by_another_of_its_turn_does_not_run_and_later_ones_do),
        cmocka_unit_test(new__unknown_engine_is_refused_by_name),
        cmocka_unit_test(submit__jobs_run_in_order_and_come_back),
        cmocka_unit_test(free__runs_what_was_queued),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
