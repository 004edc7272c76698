/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/net/loop.h"
#include "tests/lib/cm.h"

#include <event2/event.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t now_ms(void)
{
    return clock_now_ns(clock_system()) / 1000000;
}

/* Events in the order they came, as letters. */
struct diary {
    char text[128];
    struct loop *loop;
    struct loop_hook hook, late;
    struct loop_timer timer;
    struct loop_io io;
    int fd;
    unsigned left;
};

static void note(struct diary *d, char c)
{
    const size_t n = strlen(d->text);
    assert_true(n + 1 < sizeof d->text);
    d->text[n] = c;
}

static void on_hook(void *user)
{
    note(user, 'h');
}

static void on_late_hook(void *user)
{
    struct diary *d = user;
    note(d, 'l');
    loop_hook_remove(d->loop, &d->late);
}

static void on_hook_adds(void *user)
{
    struct diary *d = user;
    note(d, 'a');
    loop_hook_add(d->loop, &d->late);
}

static void on_timer(void *user)
{
    note(user, 't');
}

static void start(struct diary *d, bool wrapped, struct event_base **base)
{
    *d = (struct diary){0};
    *base = NULL;
    if (wrapped) {
        *base = event_base_new();
        assert_int_equal(loop_wrap(*base, &d->loop, NULL), 0);
    } else {
        assert_int_equal(loop_new(&d->loop, NULL), 0);
    }
    d->hook = (struct loop_hook){.fn = on_hook, .user = d};
    d->late = (struct loop_hook){.fn = on_late_hook, .user = d};
}

static void finish(struct diary *d, struct event_base *base)
{
    loop_free(d->loop);
    if (base != NULL)
        event_base_free(base);
}

static void both(void (*test)(bool wrapped))
{
    test(false);
    test(true);
}

static void check_timers(bool wrapped)
{
    struct diary d;
    struct event_base *base;
    start(&d, wrapped, &base);
    assert_int_equal(loop_timer_init(d.loop, &d.timer, on_timer, &d, NULL), 0);
    const uint64_t begin = now_ms();
    loop_timer_set(&d.timer, 30);
    loop_turn(d.loop, 5000);
    assert_string_equal(d.text, "t");
    assert_true(now_ms() - begin >= 28);
    loop_timer_set(&d.timer, 1);
    loop_timer_stop(&d.timer);
    loop_turn(d.loop, 20);
    assert_string_equal(d.text, "t");
    /* set anew: the later time counts */
    loop_timer_set(&d.timer, 1);
    loop_timer_set(&d.timer, 60000);
    loop_turn(d.loop, 20);
    assert_string_equal(d.text, "t");
    loop_timer_done(&d.timer);
    finish(&d, base);
}

static void loop_timer__fires_once_not_early_not_when_stopped(void **state)
{
    (void)state;
    both(check_timers);
}

static void end_own_timer(void *user)
{
    struct diary *d = user;
    note(d, 'e');
    loop_timer_done(&d->timer);
}

static void loop_timer__may_end_itself(void **state)
{
    struct diary d;
    struct event_base *base;
    (void)state;
    for (int wrapped = 0; wrapped < 2; wrapped++) {
        start(&d, wrapped, &base);
        assert_int_equal(loop_timer_init(d.loop, &d.timer, end_own_timer, &d, NULL), 0);
        loop_timer_set(&d.timer, 0);
        loop_turn(d.loop, 1000);
        assert_string_equal(d.text, "e");
        finish(&d, base);
    }
}

static void check_hooks(bool wrapped)
{
    struct diary d;
    struct event_base *base;
    struct loop_timer second;
    start(&d, wrapped, &base);
    loop_hook_add(d.loop, &d.hook);
    /* added outside: runs before the loop sleeps */
    loop_turn(d.loop, 5000);
    assert_string_equal(d.text, "h");
    /* once, behind all callbacks of the turn */
    assert_int_equal(loop_timer_init(d.loop, &d.timer, on_timer, &d, NULL), 0);
    assert_int_equal(loop_timer_init(d.loop, &second, on_timer, &d, NULL), 0);
    loop_timer_set(&d.timer, 0);
    loop_timer_set(&second, 0);
    usleep(2000);
    loop_turn(d.loop, 1000);
    assert_string_equal(d.text, "htth");
    loop_hook_remove(d.loop, &d.hook);
    loop_timer_done(&d.timer);
    loop_timer_done(&second);
    finish(&d, base);
}

static void loop_hook__runs_once_a_turn_behind_the_callbacks(void **state)
{
    (void)state;
    both(check_hooks);
}

static void check_added_in_pass(bool wrapped)
{
    struct diary d;
    struct event_base *base;
    start(&d, wrapped, &base);
    d.hook.fn = on_hook_adds;
    loop_hook_add(d.loop, &d.hook);
    loop_turn(d.loop, 1000);
    assert_string_equal(d.text, "al"); /* in the same pass, and removed itself */
    loop_hook_remove(d.loop, &d.hook);
    finish(&d, base);
}

static void loop_hook__added_by_a_hook_runs_in_the_same_pass(void **state)
{
    (void)state;
    both(check_added_in_pass);
}

static void on_hook_again(void *user)
{
    struct diary *d = user;
    note(d, 'h');
    if (d->left-- > 0)
        loop_again(d->loop);
}

static void io_read(void *user, unsigned what)
{
    struct diary *d = user;
    char c;
    assert_int_equal(what, LOOP_READ);
    assert_int_equal(read(d->fd, &c, 1), 1);
    note(d, c);
}

static void loop_again__turns_without_sleep_but_polls_between(void **state)
{
    struct diary d;
    struct event_base *base;
    int v[2];
    (void)state;
    for (int wrapped = 0; wrapped < 2; wrapped++) {
        start(&d, wrapped, &base);
        assert_int_equal(pipe(v), 0);
        d.fd = v[0];
        d.left = 3;
        d.hook.fn = on_hook_again;
        assert_int_equal(loop_io_init(d.loop, &d.io, v[0], io_read, &d, NULL), 0);
        loop_io_want(&d.io, LOOP_READ);
        assert_int_equal(write(v[1], "r", 1), 1);
        loop_hook_add(d.loop, &d.hook);
        while (strlen(d.text) < 5)
            loop_turn(d.loop, 2000);
        /* the descriptor had its turn before the last hook */
        assert_true(strchr(d.text, 'r') != NULL && strchr(d.text, 'r') < d.text + 3);
        loop_hook_remove(d.loop, &d.hook);
        loop_io_done(&d.io);
        assert_int_equal(close(v[0]), 0);
        assert_int_equal(close(v[1]), 0);
        finish(&d, base);
    }
}

static void io_write(void *user, unsigned what)
{
    struct diary *d = user;
    assert_int_equal(what, LOOP_WRITE);
    note(d, 'w');
    loop_io_want(&d->io, 0);
}

static void loop_io__wants_can_change_inside_the_callback(void **state)
{
    struct diary d;
    struct event_base *base;
    int v[2];
    (void)state;
    start(&d, false, &base);
    assert_int_equal(pipe(v), 0);
    assert_int_equal(loop_io_init(d.loop, &d.io, v[1], io_write, &d, NULL), 0);
    loop_io_want(&d.io, LOOP_WRITE);
    loop_turn(d.loop, 100);
    loop_turn(d.loop, 10);
    assert_string_equal(d.text, "w");
    loop_io_want(&d.io, LOOP_WRITE);
    loop_turn(d.loop, 100);
    assert_string_equal(d.text, "ww");
    loop_io_done(&d.io);
    assert_int_equal(close(v[0]), 0);
    assert_int_equal(close(v[1]), 0);
    finish(&d, base);
}

/* -- threads -------------------------------------------------------------------------- */

enum { THREADS = 4, MESSAGES = 20000 };

struct counted_msg {
    struct loop_msg msg;
    struct poster *poster;
    unsigned no;
};

struct poster {
    pthread_t thread;
    struct loop *loop;
    unsigned next; /* the loop's thread only: order within a poster is kept */
    unsigned *total;
};

static void counted(struct loop_msg *msg)
{
    struct counted_msg *m = CONTAINER_OF(msg, struct counted_msg, msg);
    struct poster *p = m->poster;
    assert_int_equal(m->no, p->next);
    p->next++;
    free(m);
    if (++*p->total == THREADS * MESSAGES)
        loop_stop(p->loop);
}

static void *post_all(void *arg)
{
    struct poster *p = arg;
    for (unsigned i = 0; i < MESSAGES; i++) {
        struct counted_msg *m = malloc(sizeof *m);
        m->msg.fn = counted;
        m->poster = p;
        m->no = i;
        loop_post(p->loop, &m->msg);
    }
    return NULL;
}

static void loop_post__every_message_of_every_thread_in_its_order(void **state)
{
    struct loop *l;
    struct poster posters[THREADS];
    unsigned total = 0;
    (void)state;
    assert_int_equal(loop_new(&l, NULL), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        posters[i] = (struct poster){.loop = l, .total = &total};
        assert_int_equal(pthread_create(&posters[i].thread, NULL, post_all, &posters[i]), 0);
    }
    loop_run(l);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(posters[i].thread, NULL), 0);
    assert_int_equal(total, THREADS * MESSAGES);
    loop_free(l);
}

static void not_run(struct loop_msg *msg)
{
    (void)msg;
    fail_msg("a message that was taken back has run");
}

static void loop_post_cancel__takes_back_what_has_not_run(void **state)
{
    struct loop *l;
    struct loop_msg msg = {.fn = not_run};
    (void)state;
    assert_int_equal(loop_new(&l, NULL), 0);
    assert_false(loop_post_cancel(l, &msg));
    loop_post(l, &msg);
    assert_true(loop_post_cancel(l, &msg));
    loop_turn(l, 10);
    loop_free(l);
}

static void *stop_soon(void *arg)
{
    usleep(20000);
    loop_stop(arg);
    return NULL;
}

static void loop_stop__ends_a_sleeping_run_from_another_thread(void **state)
{
    struct loop *l;
    pthread_t thread;
    (void)state;
    assert_int_equal(loop_new(&l, NULL), 0);
    assert_int_equal(pthread_create(&thread, NULL, stop_soon, l), 0);
    loop_run(l);
    assert_int_equal(pthread_join(thread, NULL), 0);
    loop_free(l);
}

static void loop_signal__runs_its_function(void **state)
{
    struct diary d;
    struct event_base *base;
    (void)state;
    start(&d, false, &base);
    assert_int_equal(loop_signal(d.loop, SIGHUP, on_timer, &d, NULL), 0);
    assert_int_equal(raise(SIGHUP), 0);
    loop_turn(d.loop, 1000);
    assert_string_equal(d.text, "t");
    finish(&d, base);
}

/* A hook that queues work for the last one, which answers with another hook. */
struct relay {
    struct loop *loop;
    struct loop_hook first, last, answer;
    unsigned queued, done, answered;
};

static void relay_first(void *user)
{
    struct relay *r = user;
    loop_hook_remove(r->loop, &r->first);
    r->queued++;
}

static void relay_answer(void *user)
{
    struct relay *r = user;
    loop_hook_remove(r->loop, &r->answer);
    r->answered++;
    if (r->answered < 3)
        r->queued++;
}

static void relay_last(void *user)
{
    struct relay *r = user;
    assert_false(loop_has_more(r->loop));
    if (r->queued == r->done) {
        loop_again(r->loop);
    } else {
        r->done = r->queued;
        loop_hook_add(r->loop, &r->answer);
    }
    assert_true(loop_has_more(r->loop));
}

static void last_hook__sees_what_other_hooks_queued_in_the_same_turn(void **state)
{
    (void)state;
    struct relay r = {.queued = 0};
    assert_int_equal(loop_new(&r.loop, NULL), 0);
    r.first = (struct loop_hook){.fn = relay_first, .user = &r};
    r.last = (struct loop_hook){.fn = relay_last, .user = &r};
    r.answer = (struct loop_hook){.fn = relay_answer, .user = &r};
    loop_hook_add_last(r.loop, &r.last);
    loop_hook_add(r.loop, &r.first);
    loop_turn(r.loop, 0);
    assert_int_equal(r.done, 3);
    assert_int_equal(r.answered, 3);
    loop_hook_remove(r.loop, &r.last);
    loop_free(r.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loop_timer__fires_once_not_early_not_when_stopped),
        cmocka_unit_test(loop_timer__may_end_itself),
        cmocka_unit_test(loop_hook__runs_once_a_turn_behind_the_callbacks),
        cmocka_unit_test(loop_hook__added_by_a_hook_runs_in_the_same_pass),
        cmocka_unit_test(loop_again__turns_without_sleep_but_polls_between),
        cmocka_unit_test(loop_io__wants_can_change_inside_the_callback),
        cmocka_unit_test(loop_post__every_message_of_every_thread_in_its_order),
        cmocka_unit_test(loop_post_cancel__takes_back_what_has_not_run),
        cmocka_unit_test(loop_stop__ends_a_sleeping_run_from_another_thread),
        cmocka_unit_test(loop_signal__runs_its_function),
        cmocka_unit_test(last_hook__sees_what_other_hooks_queued_in_the_same_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
