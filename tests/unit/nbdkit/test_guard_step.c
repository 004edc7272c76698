/* SPDX-License-Identifier: Apache-2.0 */
/* A step of the guard's link: when it says that it stands still for a new head. The file is taken
 * in whole, with the library's call replaced. */
#define snapwire_lease_head_ready said_ready
#include "client/nbdkit/guard_link.c"
#undef snapwire_lease_head_ready

#include "tests/lib/cm.h"

#include <stdlib.h>
#include <string.h>

static unsigned ready_count;
static int ready_rc;

int said_ready(struct snapwire_lease *lease, struct snapwire_error *reterr)
{
    (void)lease;
    *reterr = (struct snapwire_error){.code = ready_rc};
    ready_count++;
    return ready_rc;
}

static unsigned said_count;

void guard_say(const char *fmt, ...)
{
    (void)fmt;
    said_count++;
}

bool guard_is_ending(void)
{
    return false;
}

static int setup(void **state)
{
    struct guard *g = calloc(1, sizeof *g);
    if (!g)
        return -1;
    (void)pthread_mutex_init(&g->lock, NULL);
    guard_init_lists(g);
    g->held = g->ready_wanted = true;
    ready_count = said_count = 0;
    ready_rc = 0;
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static void ready__not_while_a_write_is_in_flight(void **state)
{
    struct guard *g = *state;
    g->inflight = 2;
    link_step(g);
    g->inflight = 1;
    link_step(g);
    assert_int_equal(ready_count, 0);
    g->inflight = 0;
    link_step(g);
    assert_int_equal(ready_count, 1);
    link_step(g); /* once */
    assert_int_equal(ready_count, 1);
    assert_true(g->held); /* until there is the head */
}

static void ready__not_while_the_gate_is_open(void **state)
{
    struct guard *g = *state;
    g->held = false;
    link_step(g);
    assert_int_equal(ready_count, 0);
}

static void ready__not_while_it_is_not_asked_for(void **state)
{
    struct guard *g = *state;
    g->ready_wanted = false;
    link_step(g);
    assert_int_equal(ready_count, 0);
}

static void ready__not_while_the_lease_is_being_broken(void **state)
{
    struct guard *g = *state;
    g->breaking = true;
    link_step(g);
    assert_int_equal(ready_count, 0);
}

static void ready__a_failure_is_told(void **state)
{
    struct guard *g = *state;
    ready_rc = SNAPWIRE_ESTALE;
    link_step(g);
    assert_int_equal(ready_count, 1);
    assert_int_equal(said_count, 1);
}

/* Who has the lease is another: nothing is to be waited for. What may pass is asked for again. */
static void refusal__depends_on_the_policy(void **state)
{
    struct guard *g = *state;
    g->config.away = GUARD_WAIT;
    assert_true(is_refusal(g, SNAP_EBUSY));
    assert_true(is_refusal(g, SNAP_EPERM));
    assert_false(is_refusal(g, SNAP_ECONN));
    assert_false(is_refusal(g, SNAP_ETIMEDOUT));
    g->config.away = GUARD_BROKEN;
    assert_true(is_refusal(g, SNAP_EBUSY));
    assert_false(is_refusal(g, SNAP_EPERM));
    assert_false(is_refusal(g, SNAP_ECONN));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(ready__not_while_a_write_is_in_flight),
        CASE(ready__not_while_the_gate_is_open),
        CASE(ready__not_while_it_is_not_asked_for),
        CASE(ready__not_while_the_lease_is_being_broken),
        CASE(ready__a_failure_is_told),
        CASE(refusal__depends_on_the_policy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
