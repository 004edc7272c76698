/* SPDX-License-Identifier: Apache-2.0 */
/* Limits counted by identity, the table of methods, and latency histograms. */
#include "daemon/service/server.h"
#include "tests/lib/cm.h"

#include <stdlib.h>
#include <string.h>

static void enter__connections_are_counted_by_identity(void **state)
{
    (void)state;
    struct clients *c = clients_new();
    struct client *a = NULL, *b = NULL, *x = NULL;
    struct err err = ERR_INIT;
    assert_int_equal(clients_enter(c, "w", 2, &a, &err), 0);
    assert_int_equal(clients_enter(c, "w", 2, &b, &err), 0);
    assert_ptr_equal(a, b);
    assert_int_equal(clients_enter(c, "w", 2, &x, &err), SNAP_ELIMIT);
    assert_non_null(strstr(err.text, "client w"));
    assert_int_equal(clients_enter(c, "other", 2, &x, &err), 0);
    clients_leave(c, a);
    assert_int_equal(clients_enter(c, "w", 2, &a, &err), 0);
    clients_leave(c, a);
    clients_leave(c, b);
    clients_leave(c, x);
    clients_free(c);
}

static void space__one_counter_an_owner(void **state)
{
    (void)state;
    struct clients *c = clients_new();
    _Atomic int64_t *a = clients_space_of(c, "w");
    assert_int_equal(atomic_load(a), 0);
    assert_ptr_equal(clients_space_of(c, "w"), a);
    assert_ptr_not_equal(clients_space_of(c, "x"), a);
    clients_free(c);
}

static void methods__each_is_found_by_its_number_and_can_run(void **state)
{
    (void)state;
    unsigned found = 0;
    for (unsigned i = 0; i <= UINT16_MAX; i++) {
        const struct method *m = method_find((uint16_t)i);
        if (m == NULL)
            continue;
        found++;
        assert_int_equal(m->number, i);
        assert_non_null(m->fn);
        assert_non_null(m->in);
        assert_non_null(m->name);
        assert_true(i < METRICS_METHODS);
        if (m->at == RUN_VOLUME)
            assert_true(m->volume_offset >= sizeof(ProtobufCMessage));
    }
    /* every method that the protocol has but NONE and the two events */
    assert_int_equal(found, snapwire__v1__method__descriptor.n_values - 3);
}

static void histogram__values_fall_below_their_bound(void **state)
{
    (void)state;
    struct metrics m = {.requests = {0}};
    metrics_request(&m, SNAPWIRE__V1__METHOD__METHOD_COW_PUT, 0, 50 * 1000);
    metrics_request(&m, SNAPWIRE__V1__METHOD__METHOD_COW_PUT, SNAP_EIO, 51 * 1000);
    metrics_request(&m, 60000, 0, UINT64_C(9000000000));
    assert_int_equal(metrics_get(&m.latency[METRICS_PUT].buckets[0]), 1);
    assert_int_equal(metrics_get(&m.latency[METRICS_PUT].buckets[1]), 1);
    assert_int_equal(metrics_get(&m.latency[METRICS_OTHER].buckets[METRICS_BUCKETS - 1]), 1);
    assert_int_equal(metrics_get(&m.errors[-SNAP_EIO]), 1);
    assert_int_equal(metrics_get(&m.requests[0]), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(enter__connections_are_counted_by_identity),
        cmocka_unit_test(space__one_counter_an_owner),
        cmocka_unit_test(methods__each_is_found_by_its_number_and_can_run),
        cmocka_unit_test(histogram__values_fall_below_their_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
