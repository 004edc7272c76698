/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that runs out: one scenario, in which the first allocation fails, then the second
 * instead, and so on until it passes without a failure. Whatever is refused, nothing may
 * crash or hang, every put that was taken is answered once, and nobody says that the daemon makes
 * no sense.
 *
 * The allocator is wrapped for this thread only; sanitizers have their own, and then the
 * scenario runs once, without failures. */
#include "tests/unit/client/fake_daemon.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WRAPS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define WRAPS 0
#endif
#endif
#ifndef WRAPS
#define WRAPS 1
#endif

static _Thread_local unsigned long fail_at, counted; /* fail_at 0: never */

#if WRAPS
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *p, size_t bytes);

static bool refuse(void)
{
    return fail_at != 0 && ++counted == fail_at;
}

__attribute__((visibility("default"))) void *malloc(size_t bytes)
{
    return refuse() ? NULL : __libc_malloc(bytes);
}

__attribute__((visibility("default"))) void *calloc(size_t count, size_t bytes)
{
    return refuse() ? NULL : __libc_calloc(count, bytes);
}

__attribute__((visibility("default"))) void *realloc(void *p, size_t bytes)
{
    return refuse() ? NULL : __libc_realloc(p, bytes);
}
#endif

struct server {
    struct fake *f;
    pthread_t thread;
    atomic_bool stop;
};

static void *server_run(void *user)
{
    struct server *s = user;
    Snapwire__V1__VolumeListResponse none = SNAPWIRE__V1__VOLUME_LIST_RESPONSE__INIT;

    while (!atomic_load(&s->stop)) {
        loop_turn(s->f->loop, 2);
        for (unsigned i = 0; i < s->f->asked_count; i++) {
            struct fake_asked *a = &s->f->asked[i];
            if (!a->answered && a->method == METHOD(VOLUME_LIST) && s->f->chan != NULL)
                fake_answer(s->f, a, &none.base);
            free(a->control);
            free(a->payload);
        }
        s->f->asked_count = 0; /* many scenarios pass by */
        memset(s->f->asked, 0, sizeof s->f->asked);
    }
    return NULL;
}

static void count_call(void *user, uint64_t old_chunk, uint32_t count,
                       const struct snapwire_error *error)
{
    (void)old_chunk;
    (void)count;
    if (error != NULL)
        assert_int_not_equal(error->code, SNAPWIRE_EPROTO);
    ++*(unsigned *)user;
}

static void stream_some(struct snapwire_lease *lease)
{
    static const uint8_t data[4 * 4096];
    struct snapwire_stream *s = NULL;
    unsigned taken = 0, answered = 0;

    if (snapwire_stream_new(lease, NULL, &s, NULL) < 0)
        return;
    for (unsigned i = 0; i < 3; i++)
        taken += snapwire_stream_put_sync(s, 10 * i, 4, data, 0, count_call, &answered, NULL) == 0;
    (void)!snapwire_stream_flush_sync(s, NULL);
    snapwire_stream_free(s);
    assert_int_equal(taken, answered);
}

static void scenario(const char *address)
{
    const struct snapwire_config config = {.size = sizeof config,
                                           .addresses = address,
                                           .backoff_min_ms = 1,
                                           .backoff_max_ms = 5,
                                           .connect_timeout_ms = 500,
                                           .request_timeout_ms = 300};
    struct snapwire_lease_config lease_config = {.size = sizeof lease_config,
                                                 .origin_size_bytes = UINT64_C(1) << 30};
    struct snapwire_client *c = NULL;
    struct snapwire_volume_list *list = NULL;
    struct snapwire_lease *lease = NULL;
    struct snapwire_error why = {0};
    int r;

    lease_config.volume.b[0] = 1;
    if (snapwire_client_new(NULL, &config, &c, NULL) < 0)
        return;
    assert_int_not_equal(snapwire_client_connect_sync(c, &why), SNAPWIRE_EPROTO);
    r = snapwire_volume_list_sync(c, &list, &why);
    if (r == 0)
        snapwire_free(list);
    assert_int_not_equal(r, SNAPWIRE_EPROTO);
    r = snapwire_lease_acquire_sync(c, &lease_config, &lease, &why);
    assert_int_not_equal(r, SNAPWIRE_EPROTO);
    if (r == 0) {
        stream_some(lease);
        if (snapwire_lease_release_sync(lease, NULL) == SNAPWIRE_ENOMEM)
            snapwire_lease_free(lease);
    }
    snapwire_client_free(c);
}

static void every_allocation__may_fail(void **state)
{
    struct server s = {0};
    struct loop *loop = NULL;
    unsigned long n = 0;

    (void)state;
    assert_int_equal(loop_new(&loop, NULL), 0);
    s.f = fake_new_on(loop);
    memset(&s.f->volume, 0, sizeof s.f->volume);
    s.f->volume.b[0] = 1;
    assert_int_equal(pthread_create(&s.thread, NULL, server_run, &s), 0);
    (void)alarm(120); /* a hang ends the test */
    if (WRAPS) {
        do {
            fail_at = ++n;
            counted = 0;
            scenario(s.f->address);
        } while (counted >= n && n < 5000);
        fail_at = 0;
        print_message("%lu allocations failed in turn\n", n - 1);
        assert_in_range(n, 50, 4999);
    } else {
        print_message("SKIP: failing allocations, the sanitizer has the allocator\n");
    }
    scenario(s.f->address);
    (void)alarm(0);
    atomic_store(&s.stop, true);
    assert_int_equal(pthread_join(s.thread, NULL), 0);
    fake_free(s.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation__may_fail)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
