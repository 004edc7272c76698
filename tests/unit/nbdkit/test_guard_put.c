/* SPDX-License-Identifier: Apache-2.0 */
/* Which copies the guard sends. The file is taken in whole, with a stream that only counts. */
#define snapwire_stream_put counted_put
#define snapwire_stream_put_max counted_put_max
#include "client/nbdkit/guard_put.c"
#undef snapwire_stream_put
#undef snapwire_stream_put_max
#include "tests/lib/cm.h"

#include <stdarg.h>
#include <stdlib.h>

enum { CHUNK = 4096 };

static unsigned puts_count;

int counted_put(struct snapwire_stream *stream, uint64_t old_chunk, uint32_t count,
                const void *data, unsigned flags, snapwire_put_cb cb, void *user,
                struct snapwire_error *reterr)
{
    (void)stream, (void)data, (void)flags, (void)cb, (void)user, (void)reterr;
    (void)old_chunk, (void)count;
    puts_count++;
    return 0;
}

uint32_t counted_put_max(const struct snapwire_stream *stream)
{
    (void)stream;
    return 1;
}

void guard_say(const char *fmt, ...)
{
    (void)fmt;
}

bool guard_is_ending(void)
{
    return false;
}

static struct guard_copy *copy_of(struct guard *g)
{
    struct guard_copy *c = calloc(1, sizeof *c + 1);
    assert_non_null(c);
    *c = (struct guard_copy){.guard = g,
                             .count = 1,
                             .chunk_bytes = CHUNK,
                             .generation = 1,
                             .refs = 2,
                             .data = aligned_alloc(CHUNK, CHUNK)};
    TAILQ_INSERT_TAIL(&g->queue, c, link);
    g->copy_bytes += CHUNK;
    return c;
}

static int setup(void **state)
{
    struct guard *g = calloc(1, sizeof *g);
    assert_non_null(g);
    (void)pthread_mutex_init(&g->lock, NULL);
    guard_init_lists(g);
    g->stream = (struct snapwire_stream *)g; /* never looked into */
    g->generation = 1;
    g->mode = GUARD_KEEPING;
    puts_count = 0;
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    struct guard *g = *state;
    guard_spare_free_all(&g->spares);
    (void)pthread_mutex_destroy(&g->lock);
    free(g);
    return 0;
}

/* It has ended as stale, and is the writer's alone. */
static void assert_is_not_sent(struct guard *g)
{
    struct guard_copy *c = copy_of(g);
    guard_put_all(g, 0);
    assert_int_equal(puts_count, 0);
    assert_true(c->done);
    assert_int_equal(c->code, SNAP_ESTALE);
    assert_int_equal(c->refs, 1);
    free(c);
}

static void put__of_the_head_is_sent(void **state)
{
    struct guard *g = *state;
    struct guard_copy *c = copy_of(g);
    guard_put_all(g, 0);
    assert_int_equal(puts_count, 1);
    assert_false(c->done);
    free(c->data);
    free(c);
}

static void put__of_another_head_is_stale(void **state)
{
    struct guard *g = *state;
    g->generation = 2;
    assert_is_not_sent(g);
}

/* Others have overwritten the origin without waiting for it: what was read of it may be new. */
static void put__is_not_sent_once_writes_go_past_it(void **state)
{
    struct guard *g = *state;
    g->mode = GUARD_IS_BROKEN;
    assert_is_not_sent(g);
    g->mode = GUARD_NOTHING;
    assert_is_not_sent(g);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(put__of_the_head_is_sent),
        CASE(put__of_another_head_is_stale),
        CASE(put__is_not_sent_once_writes_go_past_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
