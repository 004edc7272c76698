/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is not there: it is told as that, and a timer needs none to be set.
 *
 * The allocator is replaced for this program, which a sanitizer does as well: skipped there. */
#include "common/base/bytes.h"
#include "common/net/chan_priv.h"
#include "proto/snapwire.pb-c.h"
#include "tests/lib/allocator.h"

#include <stdlib.h>

static unsigned left_until_failure; /* 0: none fails */
static bool all_fail;

#ifndef ALLOCATOR_IS_TAKEN
#define FOR_LIBRARIES_TOO __attribute__((visibility("default")))

static bool fails_now(void)
{
    return all_fail || (left_until_failure && --left_until_failure == 0);
}

FOR_LIBRARIES_TOO void *malloc(size_t len)
{
    return fails_now() ? NULL : __libc_malloc(len);
}

FOR_LIBRARIES_TOO void *calloc(size_t count, size_t len)
{
    return fails_now() ? NULL : __libc_calloc(count, len);
}

FOR_LIBRARIES_TOO void *realloc(void *p, size_t len)
{
    return fails_now() ? NULL : __libc_realloc(p, len);
}
#endif

enum { TRIES_MAX = 100, TIMERS = 200 };

/* A client ends for good when the daemon makes no sense. */
static void hello__without_memory_is_not_taken_for_nonsense(void **state)
{
    struct chan c = {0};
    struct err e = ERR_INIT;
    uint8_t control[512], uuid[UUID_BYTES] = {1};
    Snapwire__V1__Hello hello = SNAPWIRE__V1__HELLO__INIT;
    int rc = SNAP_ENOMEM;
    unsigned n = 0;

    (void)state;
    skip_without_allocator();
    hello.version_min = hello.version_max = 1;
    hello.software = (char *)(uintptr_t) "somebody";
    hello.control_bytes_max = hello.payload_bytes_max = 1 << 16;
    hello.window_bytes = 1 << 20;
    hello.requests_max = 1;
    hello.instance = (ProtobufCBinaryData){.data = uuid, .len = sizeof uuid};
    hello.boot = (ProtobufCBinaryData){.data = uuid, .len = sizeof uuid};
    const size_t len = snapwire__v1__hello__pack(&hello, control);
    while (rc != 0 && n < TRIES_MAX) {
        left_until_failure = ++n;
        rc = chan_take_hello(&c, control, len, &e);
        left_until_failure = 0;
        if (rc != 0)
            assert_int_equal(rc, SNAP_ENOMEM);
    }
    assert_int_equal(rc, 0);
    assert_true(n > 3);
    assert_string_equal(c.peer.software, "somebody");
    assert_int_equal(chan_take_hello(&c, control, len - 1, &e), SNAP_EPROTO);
}

static void count(void *user)
{
    unsigned *fired = user;
    (*fired)++;
}

static void loop_timer_set__needs_no_memory(void **state)
{
    static struct loop_timer timers[TIMERS];
    struct loop *l = NULL;
    unsigned fired = 0;

    (void)state;
    skip_without_allocator();
    assert_int_equal(loop_new(&l, NULL), 0);
    for (unsigned i = 0; i < TIMERS; i++)
        assert_int_equal(loop_timer_init(l, &timers[i], count, &fired, NULL), 0);
    for (unsigned round = 1; round <= 2; round++) {
        all_fail = true;
        for (unsigned i = 0; i < TIMERS; i++)
            loop_timer_set(&timers[i], 0);
        all_fail = false;
        for (unsigned i = 0; i < TIMERS && fired < round * TIMERS; i++)
            loop_turn(l, 20);
        assert_int_equal(fired, round * TIMERS);
    }
    loop_turn(l, 1); /* one that has fired rests */
    assert_int_equal(fired, 2 * TIMERS);
    for (unsigned i = 0; i < TIMERS; i++)
        loop_timer_done(&timers[i]);
    loop_free(l);
}

static void loop_timer_init__without_memory_says_so(void **state)
{
    struct loop_timer timers[64];
    struct err e = ERR_INIT;
    struct loop *l = NULL;
    unsigned refused = 0;

    (void)state;
    skip_without_allocator();
    assert_int_equal(loop_new(&l, NULL), 0);
    for (unsigned i = 0; i < ARRAY_LEN(timers);) {
        left_until_failure = refused % 4; /* now and then the event, now and then its place */
        const int rc = loop_timer_init(l, &timers[i], count, &refused, &e);
        left_until_failure = 0;
        if (rc == 0) {
            i++;
            refused += refused % 4 == 0;
            continue;
        }
        assert_int_equal(rc, SNAP_ENOMEM);
        assert_null(timers[i].event);
        refused++;
    }
    assert_true(refused > 0);
    for (unsigned i = 0; i < ARRAY_LEN(timers); i++)
        loop_timer_done(&timers[i]);
    loop_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hello__without_memory_is_not_taken_for_nonsense),
        cmocka_unit_test(loop_timer_set__needs_no_memory),
        cmocka_unit_test(loop_timer_init__without_memory_says_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
