/* SPDX-License-Identifier: Apache-2.0 */
/* The buffer pool: alignment, classes, the cap, reuse, and random takes and gives. */
#include "common/base/buf.h"

#include "common/base/limits.h"
#include "common/base/rng.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"

#include <stdbool.h>
#include <string.h>

static void buf_take__sizes_round_up_to_classes(void **state)
{
    (void)state;
    static const struct {
        size_t size, cap;
    } want[] = {
        {0, 4096},
        {1, 4096},
        {4096, 4096},
        {4097, 8192},
        {8193, 16384},
        {1 << 20, 1 << 20},
        {(1 << 20) + 1, 2 << 20},
        {16 << 20, 16 << 20},
        {BUF_BYTES_MAX, BUF_BYTES_MAX},
    };
    struct buf_pool *pool = buf_pool_new(0);
    assert_non_null(pool);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        struct buf *b = buf_take(pool, want[i].size);
        assert_non_null(b);
        assert_int_equal(b->len_bytes, want[i].size);
        assert_int_equal(b->cap_bytes, want[i].cap);
        assert_int_equal((uintptr_t)b->data % BUF_ALIGN_BYTES, 0);
        if (b->cap_bytes >= 2 * MIB)
            assert_int_equal((uintptr_t)b->data % (2 * MIB), 0);
        assert_int_equal(buf_pool_used_bytes(pool), want[i].cap);
        b->data[0] = 1;
        b->data[b->cap_bytes - 1] = 1;
        buf_give(b);
        assert_int_equal(buf_pool_used_bytes(pool), 0);
    }
    buf_pool_free(pool);
}

static void buf_take__too_large_is_null(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_new(0);
    assert_null(buf_take(pool, (size_t)BUF_BYTES_MAX + 1));
    assert_null(buf_take(pool, SIZE_MAX));
    assert_int_equal(buf_pool_used_bytes(pool), 0);
    buf_pool_free(pool);
}

static void buf_take__stops_at_the_cap_until_one_is_given(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_new(3 * 4096 + 100);
    struct buf *a = buf_take(pool, 4096), *b = buf_take(pool, 4097);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(buf_take(pool, 1));
    buf_give(a);
    assert_null(buf_take(pool, 4097));
    a = buf_take(pool, 1);
    assert_non_null(a);
    buf_give(a);
    buf_give(b);
    buf_pool_free(pool);
}

/* So that who needs more than the cap gets it, one at a time. */
static void buf_take__more_than_the_cap_is_had_while_nothing_is_handed_out(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_new(64 * 1024);
    struct buf *a = buf_take(pool, 4096);
    assert_null(buf_take(pool, MIB));
    buf_give(a);
    for (int i = 0; i < 2; i++) {
        struct buf *b = buf_take(pool, MIB);
        assert_non_null(b);
        memset(b->data, 1, MIB);
        assert_null(buf_take(pool, 1));
        buf_give(b);
        assert_int_equal(buf_pool_used_bytes(pool), 0);
        assert_true(buf_pool_kept_bytes(pool) <= 64 * 1024);
    }
    a = buf_take(pool, 1);
    assert_non_null(a);
    buf_give(a);
    buf_pool_free(pool);
}

static void buf_give__last_reference_gives_it_back(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_new(0);
    struct buf *b = buf_take(pool, 100);
    assert_ptr_equal(buf_ref(b), b);
    buf_give(b);
    assert_int_equal(buf_pool_used_bytes(pool), 4096);
    b->data[0] = 7;
    buf_give(b);
    assert_int_equal(buf_pool_used_bytes(pool), 0);
    buf_give(NULL);
    buf_pool_free(pool);
    buf_pool_free(NULL);
}

static void buf_take__uses_the_last_given_of_its_class(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_new(0);
    struct buf *a = buf_take(pool, 4096), *b = buf_take(pool, 4096), *c = buf_take(pool, 8192);
    buf_give(a);
    buf_give(b);
    buf_give(c);
    assert_ptr_equal(buf_take(pool, 10), b);
    assert_int_equal(b->len_bytes, 10);
    assert_int_equal(b->refs, 1);
    assert_ptr_equal(buf_take(pool, 5000), c);
    assert_ptr_equal(buf_take(pool, 1), a);
    buf_give(a);
    buf_give(b);
    buf_give(c);
    buf_pool_free(pool);
}

/* Kept buffers of one class must not stand in the way of another class under the cap. */
static void buf_take__kept_buffers_make_room_under_the_cap(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_new(64 * 1024);
    struct buf *small[16];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 16; i++) {
            small[i] = buf_take(pool, 4096);
            assert_non_null(small[i]);
        }
        assert_null(buf_take(pool, 1));
        for (int i = 0; i < 16; i++)
            buf_give(small[i]);
        struct buf *large = buf_take(pool, 64 * 1024);
        assert_non_null(large);
        assert_null(buf_take(pool, 1));
        buf_give(large);
    }
    buf_pool_free(pool);
}

static void buf_give__pool_without_cap_keeps_64_mib(void **state)
{
    (void)state;
    struct buf_pool *pool = buf_pool_new(0);
    struct buf *live[3];
    for (int i = 0; i < 3; i++) {
        live[i] = buf_take(pool, BUF_BYTES_MAX);
        assert_non_null(live[i]);
    }
    struct buf *small = buf_take(pool, 1);
    for (int i = 0; i < 3; i++)
        buf_give(live[i]);
    assert_int_equal(buf_pool_kept_bytes(pool), 64 * MIB);
    buf_give(small);
    assert_int_equal(buf_pool_kept_bytes(pool), 64 * MIB);
    live[0] = buf_take(pool, BUF_BYTES_MAX);
    assert_int_equal(buf_pool_kept_bytes(pool), 32 * MIB);
    buf_give(live[0]);
    buf_pool_free(pool);
}

static void buf_pool__random_takes_and_gives_keep_contents_apart(void **state)
{
    (void)state;
    enum { LIVE = 40, ROUNDS = 20000 };
    const size_t cap = MIB;
    struct buf *live[LIVE] = {NULL};
    uint8_t mark[LIVE] = {0};
    struct buf_pool *pool = buf_pool_new(cap);
    struct rng r;
    size_t used = 0;

    seed_init_rng(&r);
    for (int i = 0; i < ROUNDS; i++) {
        size_t k = rng_below(&r, LIVE);
        struct buf *b = live[k];
        if (b != NULL) {
            assert_int_equal(b->data[0], mark[k]);
            assert_int_equal(b->data[b->len_bytes - 1], mark[k]);
            used -= b->cap_bytes;
            buf_give(b);
            live[k] = NULL;
        } else {
            size_t size = 1 + rng_below(&r, UINT64_C(1) << rng_below(&r, 20));
            size_t bytes = 4096;
            while (bytes < size)
                bytes *= 2;
            b = live[k] = buf_take(pool, size);
            assert_int_equal(b == NULL, used + bytes > cap);
            if (b == NULL)
                continue;
            used += bytes;
            mark[k] = (uint8_t)rng_u64(&r);
            memset(b->data, mark[k], size);
        }
        assert_int_equal(buf_pool_used_bytes(pool), used);
        assert_true(used + buf_pool_kept_bytes(pool) <= cap);
    }
    for (size_t k = 0; k < LIVE; k++)
        buf_give(live[k]);
    assert_int_equal(buf_pool_used_bytes(pool), 0);
    buf_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buf_take__sizes_round_up_to_classes),
        cmocka_unit_test(buf_take__too_large_is_null),
        cmocka_unit_test(buf_take__stops_at_the_cap_until_one_is_given),
        cmocka_unit_test(buf_take__more_than_the_cap_is_had_while_nothing_is_handed_out),
        cmocka_unit_test(buf_give__last_reference_gives_it_back),
        cmocka_unit_test(buf_take__uses_the_last_given_of_its_class),
        cmocka_unit_test(buf_take__kept_buffers_make_room_under_the_cap),
        cmocka_unit_test(buf_give__pool_without_cap_keeps_64_mib),
        cmocka_unit_test(buf_pool__random_takes_and_gives_keep_contents_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
