/* SPDX-License-Identifier: Apache-2.0 */
/* The link: many threads, one client. Each operation is answered once, also when more are begun
 * than the library takes, when the connection breaks meanwhile, and when the link ends.
 *
 *   worker, worker, … ── link ── socket ── a daemon in a thread of its own
 *                                           │ told by atomics what to do: hold, answer, drop */
#include "client/nbdkit/fault.h"
#include "client/nbdkit/link.h"
#include "common/base/bytes.h"
#include "tests/unit/client/fake_daemon.h"
#include "tests/unit/nbdkit/fake_nbdkit.h"

#include <errno.h>
#include <stdatomic.h>
#include <time.h>

enum { WORKERS = 12, ROUNDS = 60, AT_A_TIME = 4 };

static void nap_ms(long ms)
{
    (void)nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* -- the daemon ------------------------------------------------------------------------------- */

static struct {
    struct fake *f; /* its thread's, but for the address */
    pthread_t thread;
    atomic_bool stop, hold, drop;
    atomic_uint asked, drops;
} there;

/* Of what is not held nothing is kept, so that any number may be asked. */
static void daemon_forget(struct fake *f)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < f->asked_count; i++) {
        struct fake_asked *a = &f->asked[i];
        if (!a->answered && a->connection == f->connections) {
            f->asked[kept++] = *a;
            continue;
        }
        free(a->control);
        free(a->payload);
    }
    memset(&f->asked[kept], 0, (f->asked_count - kept) * sizeof f->asked[0]);
    f->asked_count = kept;
}

static void daemon_answer(struct fake *f)
{
    for (unsigned i = 0; f->chan != NULL && i < f->asked_count; i++)
        if (!f->asked[i].answered && f->asked[i].connection == f->connections)
            fake_answer_by_itself(f, &f->asked[i]);
}

static void *daemon_run(void *user)
{
    struct fake *f = user;
    while (!atomic_load(&there.stop)) {
        f->hold = 0xffff;
        run_once(f);
        if (atomic_exchange(&there.drop, false) && f->chan != NULL) {
            fake_drop(f);
            atomic_fetch_add(&there.drops, 1);
        }
        if (!atomic_load(&there.hold))
            daemon_answer(f);
        daemon_forget(f);
        atomic_store(&there.asked, f->asked_count);
    }
    return NULL;
}

static int setup(void **state)
{
    (void)state;
    there.f = fake_new();
    atomic_store(&there.stop, false);
    atomic_store(&there.hold, false);
    atomic_store(&there.drop, false);
    atomic_store(&there.asked, 0);
    atomic_store(&there.drops, 0);
    atomic_store(&told.ending, false);
    return pthread_create(&there.thread, NULL, daemon_run, there.f);
}

static int teardown(void **state)
{
    (void)state;
    atomic_store(&there.stop, true);
    assert_int_equal(pthread_join(there.thread, NULL), 0);
    fake_free(there.f);
    return 0;
}

static struct link *link_to(const char *address)
{
    const struct snapwire_config config = {.size = sizeof config,
                                           .addresses = address,
                                           .backoff_min_ms = 1,
                                           .backoff_max_ms = 10,
                                           .request_timeout_ms = 30000,
                                           .requests_max = AT_A_TIME};
    struct snapwire_error why = {0};
    struct link *l = NULL;
    if (link_new(&config, "test", &l, &why) < 0)
        fail_msg("%s", why.text);
    link_watch(l);
    return l;
}

/* -- workers ---------------------------------------------------------------------------------- */

static int ping(struct snapwire_client *client, struct link_op *op, struct snapwire_error *reterr)
{
    return snapwire_ping(client, link_answer, op, reterr);
}

static int refuse(struct snapwire_client *client, struct link_op *op, struct snapwire_error *reterr)
{
    (void)client;
    (void)op;
    *reterr = (struct snapwire_error){.code = SNAPWIRE_EINVAL, .text = "not like that"};
    return SNAPWIRE_EINVAL;
}

struct worker {
    pthread_t thread;
    struct link *link;
    unsigned rounds;
    unsigned good;
    int code; /* of the first that was not */
};

static void *work(void *user)
{
    struct worker *w = user;
    for (unsigned i = 0; i < w->rounds; i++) {
        struct link_op op = {.submit = ping};
        int rc = link_run(w->link, &op);
        w->good += rc == 0;
        if (rc != 0 && w->code == 0)
            w->code = rc;
    }
    return NULL;
}

static void workers_begin(struct worker w[WORKERS], struct link *l, unsigned rounds)
{
    for (unsigned i = 0; i < WORKERS; i++) {
        w[i] = (struct worker){.link = l, .rounds = rounds};
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
}

static void workers_end(struct worker w[WORKERS])
{
    for (unsigned i = 0; i < WORKERS; i++)
        assert_int_equal(pthread_join(w[i].thread, NULL), 0);
}

/* -- cases ------------------------------------------------------------------------------------ */

static void link__every_thread_gets_every_answer(void **state)
{
    struct worker w[WORKERS];
    struct link *l = link_to(there.f->address);
    (void)state;
    workers_begin(w, l, ROUNDS);
    workers_end(w);
    for (unsigned i = 0; i < WORKERS; i++)
        assert_int_equal(w[i].good, ROUNDS);
    link_free(l);
}

/* The library takes some, the others wait in the link and go on as those are answered. */
static void link__what_is_too_much_is_held_and_goes_on(void **state)
{
    struct worker w[WORKERS];
    struct link *l = link_to(there.f->address);
    (void)state;
    atomic_store(&there.hold, true);
    workers_begin(w, l, 1);
    while (atomic_load(&there.asked) < AT_A_TIME)
        nap_ms(1);
    nap_ms(50);
    assert_int_equal(atomic_load(&there.asked), AT_A_TIME);
    atomic_store(&there.hold, false);
    workers_end(w);
    for (unsigned i = 0; i < WORKERS; i++)
        assert_int_equal(w[i].good, 1);
    link_free(l);
}

static void link__lost_connections_in_between_lose_no_answer(void **state)
{
    struct worker w[WORKERS];
    struct link *l = link_to(there.f->address);
    (void)state;
    workers_begin(w, l, ROUNDS * 4);
    for (unsigned i = 0; i < 20; i++) {
        nap_ms(3);
        atomic_store(&there.drop, true);
    }
    workers_end(w);
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_int_equal(w[i].code, 0);
        assert_int_equal(w[i].good, ROUNDS * 4);
    }
    print_message("%u connections lost\n", atomic_load(&there.drops));
    assert_true(atomic_load(&there.drops) > 0);
    assert_false(link_has_failed(l));
    link_free(l);
}

static void link__what_was_held_survives_a_lost_connection(void **state)
{
    struct worker w[WORKERS];
    struct link *l = link_to(there.f->address);
    (void)state;
    atomic_store(&there.hold, true);
    workers_begin(w, l, 1);
    while (atomic_load(&there.asked) < AT_A_TIME)
        nap_ms(1);
    atomic_store(&there.drop, true);
    while (atomic_load(&there.drops) == 0)
        nap_ms(1);
    atomic_store(&there.hold, false);
    workers_end(w);
    for (unsigned i = 0; i < WORKERS; i++)
        assert_int_equal(w[i].good, 1);
    link_free(l);
}

static void link_free__ends_what_is_under_way(void **state)
{
    struct link_op ops[WORKERS];
    struct link *l = link_to(there.f->address);
    (void)state;
    atomic_store(&there.hold, true);
    for (unsigned i = 0; i < WORKERS; i++) {
        ops[i] = (struct link_op){.submit = ping};
        link_begin(l, &ops[i]);
    }
    while (atomic_load(&there.asked) < AT_A_TIME)
        nap_ms(1);
    link_free(l);
    for (unsigned i = 0; i < WORKERS; i++)
        assert_true(link_wait(&ops[i]) < 0);
}

static void link_free__at_once(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 50; i++)
        link_free(link_to(there.f->address));
    link_free(NULL);
}

static uint64_t now_ms(void)
{
    struct timespec t;
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &t), 0);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Of an absent daemon; those that come later too. */
static void link__what_waits_ends_when_nbdkit_does(void **state)
{
    struct link_op ops[WORKERS], late = {.submit = ping};
    struct link *l = link_to("unix:/nonexistent/socket");
    const uint64_t begun = now_ms();
    (void)state;
    for (unsigned i = 0; i < WORKERS; i++) {
        ops[i] = (struct link_op){.submit = ping};
        link_begin(l, &ops[i]);
    }
    atomic_store(&told.ending, true);
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_int_equal(link_wait(&ops[i]), SNAPWIRE_ECANCELED);
        assert_string_equal(ops[i].error.text, "nbdkit ends");
    }
    assert_true(now_ms() - begun >= 1000); /* what may still be answered is given that */
    assert_true(now_ms() - begun < 5000);
    assert_int_equal(link_run(l, &late), SNAPWIRE_ECANCELED);
    assert_string_equal(late.error.text, "nbdkit ends");
    link_free(l);
}

/* Before it serves, nbdkit cannot be asked: it would abort. */
static void link__nbdkit_is_not_asked_before_it_serves(void **state)
{
    const struct snapwire_config config = {
        .size = sizeof config, .addresses = "unix:/nonexistent", .request_timeout_ms = 2000};
    struct link_op op = {.submit = ping};
    struct snapwire_error why = {0};
    struct link *l = NULL;
    (void)state;
    atomic_store(&told.ending, true);
    assert_int_equal(link_new(&config, "test", &l, &why), 0);
    assert_int_not_equal(link_run(l, &op), SNAPWIRE_ECANCELED);
    link_free(l);
}

static void link__a_slow_answer_is_waited_for_while_nbdkit_ends(void **state)
{
    struct link_op op = {.submit = ping};
    struct link *l = link_to(there.f->address);
    (void)state;
    assert_int_equal(link_run(l, &op), 0);
    atomic_store(&there.hold, true);
    atomic_store(&told.ending, true);
    link_begin(l, &op);
    nap_ms(2500);
    atomic_store(&there.hold, false);
    assert_int_equal(link_wait(&op), 0);
    link_free(l);
}

/* However long it was idle before: it has its time. */
static void link__idle_time_does_not_count(void **state)
{
    struct link_op op = {.submit = ping};
    struct link *l = link_to(there.f->address);
    (void)state;
    assert_int_equal(link_run(l, &op), 0);
    nap_ms(1200);
    atomic_store(&told.ending, true);
    atomic_store(&there.drop, true);
    assert_int_equal(link_run(l, &op), 0);
    link_free(l);
}

static void link__a_refusal_is_the_answer(void **state)
{
    struct link_op op = {.submit = refuse};
    struct link *l = link_to(there.f->address);
    (void)state;
    assert_int_equal(link_run(l, &op), SNAPWIRE_EINVAL);
    assert_string_equal(op.error.text, "not like that");
    link_free(l);
}

/* -- fault.c ---------------------------------------------------------------------------------- */

static void fault_errno__is_one_that_nbd_can_carry(void **state)
{
    static const int carried[] = {EPERM,  EIO,       ENOMEM,  EINVAL,
                                  ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN};
    (void)state;
    for (int code = 0; code >= -40; code--) {
        bool known = false;
        for (size_t i = 0; i < ARRAY_LEN(carried); i++)
            known |= fault_errno(code, false) == carried[i];
        if (!known)
            fail_msg("code %d: errno %d", code, fault_errno(code, false));
        assert_int_equal(fault_errno(code, true), ESHUTDOWN);
    }
    assert_int_equal(fault_errno(SNAPWIRE_ENOSPC, false), ENOSPC);
    assert_int_equal(fault_errno(SNAPWIRE_EPERM, false), EPERM);
    assert_int_equal(fault_errno(SNAPWIRE_EINVAL, false), EINVAL);
    assert_int_equal(fault_errno(SNAPWIRE_ECONN, false), EIO); /* not a mistake of the client's */
}

static void fault_say__tells_where_why_and_what_helps(void **state)
{
    struct link *l = link_to(there.f->address);
    struct snapwire_error e = {.code = SNAPWIRE_ENOSPC, .text = "the disk is full"};
    (void)state;
    assert_int_equal(fault_say(l, &e, "%s at %d", "disk1", 7), -1);
    assert_non_null(strstr(told.text, "disk1 at 7: the disk is full (make room"));
    assert_int_equal(told.sys_errno, ENOSPC);
    e = (struct snapwire_error){.code = SNAPWIRE_EINVAL};
    assert_int_equal(fault_say(l, &e, "disk1"), -1);
    assert_int_equal(told.sys_errno, EINVAL);
    assert_non_null(strstr(told.text, snapwire_error_text(SNAPWIRE_EINVAL)));
    link_free(l);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(link__every_thread_gets_every_answer),
        CASE(link__what_is_too_much_is_held_and_goes_on),
        CASE(link__lost_connections_in_between_lose_no_answer),
        CASE(link__what_was_held_survives_a_lost_connection),
        CASE(link_free__ends_what_is_under_way),
        CASE(link_free__at_once),
        CASE(link__what_waits_ends_when_nbdkit_does),
        CASE(link__nbdkit_is_not_asked_before_it_serves),
        CASE(link__a_slow_answer_is_waited_for_while_nbdkit_ends),
        CASE(link__idle_time_does_not_count),
        CASE(link__a_refusal_is_the_answer),
        CASE(fault_errno__is_one_that_nbd_can_carry),
        CASE(fault_say__tells_where_why_and_what_helps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
