/* SPDX-License-Identifier: Apache-2.0 */
/* Drain, close, abandon, invalidate: at any moment, with anything in flight. */
#include "tests/unit/cow/store_fixture.h"

static void drain__waits_for_what_was_accepted_before(void **state)
{
    struct fix f = fix_new(4096, 600);
    struct put *a = put_send(&f, 0, 100, 1), *b;
    struct waited w = {0}, idle = {0};

    (void)state;
    cow_store_drain(f.store, waited_done, &w);
    b = put_send(&f, 200, 10, 1);
    cow_store_kick(f.store);
    assert_int_equal(w.ran, 0);
    while (!w.ran) {
        assert_true(blk_engine_inflight(f.engine));
        blk_engine_wait(f.engine, -1);
    }
    assert_int_equal(a->ran, 1);
    assert_int_equal(w.code, 0);
    fix_run(&f);
    cow_store_drain(f.store, waited_done, &idle);
    assert_int_equal(idle.ran, 0);
    cow_store_kick(f.store);
    assert_int_equal(idle.ran, 1);
    put_free(a);
    put_free(b);
    fix_done(&f);
}

static void close__finishes_what_is_in_flight_and_refuses_the_rest(void **state)
{
    struct fix f = fix_new(4096, 600);
    struct put *a = put_send(&f, 0, 100, 1), *b;
    struct waited w = {0};

    (void)state;
    cow_store_close(f.store, waited_done, &w);
    assert_int_equal(cow_store_state(f.store), COW_CLOSING);
    b = put_send(&f, 200, 10, 1);
    cow_store_kick(f.store);
    assert_int_equal(b->ran, 1);
    assert_int_equal(b->code, SNAP_ESHUTDOWN);
    while (!w.ran)
        blk_engine_wait(f.engine, -1);
    assert_int_equal(a->code, 0);
    assert_int_equal(a->ran, 1);
    f.store = NULL;
    put_free(a);
    put_free(b);
    fix_close(&f);
    fix_open(&f);
    assert_int_equal(fix_usage(&f).exceptions, 100);
    fix_done(&f);
}

static void close__refuses_puts_that_wait_for_room(void **state)
{
    struct fix f = fix_disk(3, 4096, 0, 300 * 4096);
    struct put *a, *b;

    (void)state;
    f.options.grow_step_bytes = 4096;
    fix_create(&f);
    fix_open(&f);
    a = put_send(&f, 0, 50, 1);
    b = put_send(&f, 20, 10, 2);
    assert_int_equal(cow_store_close_sync(f.store, NULL), 0);
    f.store = NULL;
    assert_int_equal(a->code, SNAP_ESHUTDOWN);
    assert_int_equal(a->outcomes[0], COW_ADDED);
    assert_int_equal(a->outcomes[49], SNAP_ESHUTDOWN);
    assert_int_equal(b->outcomes[0], SNAP_ESHUTDOWN);
    put_free(a);
    put_free(b);
    fix_done(&f);
}

/* Closing from within a put's callback. */
struct closer {
    struct fix *f;
    struct waited w;
};

static void closer_done(struct cow_put *put, int code, const struct err *err)
{
    struct closer *c = put->user;

    (void)err;
    assert_int_equal(code, 0);
    cow_store_close(c->f->store, waited_done, &c->w);
    cow_store_kick(c->f->store);
    assert_int_equal(c->w.ran, 0);
}

static void close__from_within_a_callback(void **state)
{
    struct fix f = fix_new(4096, 64);
    struct put *p = put_new(&f, 3, 2, 1);
    struct closer c = {.f = &f};

    (void)state;
    p->put.done = closer_done;
    p->put.user = &c;
    cow_store_put(f.store, &p->put);
    cow_store_kick(f.store);
    while (!c.w.ran)
        blk_engine_wait(f.engine, -1);
    f.store = NULL;
    put_free(p);
    fix_done(&f);
}

static void abandon__at_any_point_leaks_nothing(void **state)
{
    (void)state;
    for (unsigned cut = 0; cut < 40; cut++) {
        struct fix f = fix_disk(cut + 1, 512, 400 * 512, 0);
        struct waited w = {0};
        struct cow_store *s = cow_store_create(f.dev, 1, waited_done, &w);
        struct put *p[5] = {0};
        unsigned steps = 0;

        while (!w.ran && steps < cut) {
            mem_engine_step(f.engine);
            steps++;
        }
        if (!w.ran) {
            mem_engine_power_loss(f.engine);
            cow_store_abandon(s);
            fix_done(&f);
            continue;
        }
        fix_open(&f);
        for (unsigned i = 0; i < 5; i++)
            p[i] = put_send(&f, i * 3, 6, 1);
        cow_store_drain(f.store, waited_done, &w);
        cow_store_invalidate(f.store, waited_done, &w);
        cow_store_merge_prepare(f.store, waited_merge, &w);
        for (; steps < cut; steps++)
            mem_engine_step(f.engine);
        mem_engine_power_loss(f.engine);
        cow_store_abandon(f.store);
        f.store = NULL;
        for (unsigned i = 0; i < 5; i++)
            put_free(p[i]);
        fix_done(&f);
    }
    cow_store_abandon(NULL);
}

static void opened(void *user, struct cow_store *store, int code, const struct err *err)
{
    struct waited *w = user;

    w->store = store;
    waited_done(user, code, err);
}

static void abandon__while_opening(void **state)
{
    struct fix f = fix_new(512, 4000);

    (void)state;
    assert_int_equal(fix_put(&f, 0, 3000, 1), 0);
    fix_close(&f);
    for (unsigned cut = 0; cut < 120; cut += 3) {
        struct cow_map *map = cow_map_new();
        struct cow_store_options o = {.map = map};
        struct waited w = {0};
        struct cow_store *s = cow_store_open(f.dev, &o, NULL, opened, &w);

        assert_non_null(s);
        for (unsigned i = 0; i < cut; i++)
            mem_engine_step(f.engine);
        mem_engine_power_loss(f.engine);
        assert_true(!w.ran || w.store == s);
        cow_store_abandon(s);
        cow_map_free(map);
    }
    fix_open(&f);
    assert_int_equal(fix_usage(&f).exceptions, 3000);
    fix_done(&f);
}

static void invalidate__is_durable_and_for_good(void **state)
{
    struct fix f = fix_new(4096, 64);
    uint64_t flushes;

    (void)state;
    assert_int_equal(fix_put(&f, 5, 3, 1), 0);
    flushes = mem_dev_counters(f.dev).flushes;
    assert_int_equal(fix_invalidate(&f), 0);
    assert_int_equal(mem_dev_counters(f.dev).flushes, flushes + 1);
    assert_string_equal(fix_status(&f), "Invalid");
    assert_int_equal(fix_put(&f, 9, 1, 1), SNAP_EINVALID);
    assert_int_equal(fix_invalidate(&f), 0);
    mem_engine_power_loss(f.engine);
    cow_store_abandon(f.store);
    f.store = NULL;
    fix_close(&f);
    assert_int_equal(le32_load(mem_dev_image(f.dev) + 4), 0);
    assert_int_equal(le32_load(mem_dev_image(f.dev)), COW_MAGIC);
    assert_true(bytes_are_zero(mem_dev_image(f.dev) + 16, 4080));
    fix_open(&f);
    assert_int_equal(cow_store_state(f.store), COW_INVALID);
    assert_true(fix_holds(&f, 5, 1)); /* the table stays */
    fix_done(&f);
}

static void invalidate__fails_what_is_pending(void **state)
{
    (void)state;
    for (unsigned cut = 0; cut < 30; cut++) {
        struct fix f = fix_disk(cut + 1, 4096, 600 * 4096, 0);
        struct put *p[4];
        struct waited w = {0};

        fix_create(&f);
        fix_open(&f);
        for (unsigned i = 0; i < 4; i++) {
            p[i] = put_send(&f, i * 50, 100, 1);
            cow_store_kick(f.store);
            for (unsigned k = 0; k < cut / 4; k++)
                mem_engine_step(f.engine);
        }
        cow_store_invalidate(f.store, waited_done, &w);
        fix_run(&f);
        assert_int_equal(w.code, 0);
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(p[i]->ran, 1);
            assert_true(p[i]->code == 0 || p[i]->code == SNAP_EINVALID);
            put_free(p[i]);
        }
        fix_reopen(&f);
        assert_int_equal(cow_store_state(f.store), COW_INVALID);
        fix_done(&f);
    }
}

/* The first of several of one commit gives the store up when it is told. */
struct giver {
    struct fix *f;
    struct waited invalidated;
    unsigned told;
};

static void giver_done(struct cow_put *put, int code, const struct err *err)
{
    struct giver *g = put->user;

    (void)err;
    assert_int_equal(code, 0);
    if (g->told++ == 0)
        cow_store_invalidate(g->f->store, waited_done, &g->invalidated);
    else
        assert_false(cow_store_invalidating(g->f->store)); /* it is durable */
}

static void invalidate__from_within_a_callback_comes_before_the_next_one(void **state)
{
    enum { PUTS = 3 };
    struct fix f = fix_new(4096, 64);
    struct giver g = {.f = &f};
    struct put *p[PUTS];

    (void)state;
    for (unsigned i = 0; i < PUTS; i++) {
        p[i] = put_new(&f, 100 + i, 1, 1);
        p[i]->put.done = giver_done;
        p[i]->put.user = &g;
        cow_store_put(f.store, &p[i]->put);
    }
    fix_run(&f);
    assert_int_equal(g.told, PUTS);
    assert_true(g.invalidated.ran);
    assert_int_equal(g.invalidated.code, 0);
    for (unsigned i = 0; i < PUTS; i++)
        put_free(p[i]);
    fix_done(&f);
}

static void invalidate__that_fails_poisons_and_can_be_asked_again(void **state)
{
    static const enum blk_op ops[] = {BLK_WRITE, BLK_FLUSH};

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct fix f = fix_new(4096, 64);

        mem_dev_fault_at(f.dev, ops[i], 1, MEM_FAULT_ERROR, EIO);
        assert_int_equal(fix_invalidate(&f), SNAP_EIO);
        assert_int_equal(cow_store_state(f.store), COW_POISONED);
        assert_int_equal(fix_put(&f, 1, 1, 1), SNAP_EPOISONED);
        assert_int_equal(fix_invalidate(&f), 0);
        assert_int_equal(cow_store_state(f.store), COW_INVALID);
        fix_done(&f);
    }
}

static void poison__says_why(void **state)
{
    struct fix f = fix_new(4096, 64);
    struct put *p, *q;

    (void)state;
    mem_dev_fault_at(f.dev, BLK_FLUSH, 1, MEM_FAULT_ERROR, EIO);
    p = put_send(&f, 1, 2, 1);
    q = put_send(&f, 2, 2, 2);
    fix_run(&f);
    assert_int_equal(p->code, SNAP_EPOISONED);
    assert_int_equal(q->outcomes[0], SNAP_EPOISONED);
    assert_int_equal(q->outcomes[1], SNAP_EPOISONED);
    assert_non_null(strstr(p->err.text, "flush for area 0 of cow"));
    assert_int_equal(cow_store_state(f.store), COW_POISONED);
    assert_int_equal(fix_usage(&f).chunks_failed, 4);
    put_free(p);
    put_free(q);
    fix_reopen(&f);
    assert_int_equal(cow_store_state(f.store), COW_READY);
    fix_done(&f);
}

static void stores__of_one_map_do_not_see_each_other(void **state)
{
    struct fix f = fix_new(4096, 64);
    struct blk_dev *dev;
    struct cow_store *other;
    struct cow_store_options o = {.map = f.map, .seq = 9};
    struct put *p = put_new(&f, 5, 1, 2);

    (void)state;
    assert_int_equal(fix_put(&f, 5, 1, 1), 0);
    assert_int_equal(mem_dev_new(f.engine, "other", 64 * 4096, 4096, 0, &dev, NULL), 0);
    assert_int_equal(cow_store_create_sync(dev, 8, NULL), 0);
    assert_int_equal(cow_store_open_sync(dev, &o, NULL, NULL, &other, NULL), 0);
    cow_store_put(other, &p->put);
    cow_store_kick(other);
    fix_run(&f);
    assert_int_equal(p->outcomes[0], COW_ADDED);
    assert_int_equal(cow_map_count(f.map), 2);
    assert_int_equal(cow_store_seq(other), 9);
    assert_ptr_equal(cow_store_dev(other), dev);
    assert_int_equal(cow_store_close_sync(other, NULL), 0);
    blk_dev_close(dev);
    put_free(p);
    fix_done(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drain__waits_for_what_was_accepted_before),
        cmocka_unit_test(close__finishes_what_is_in_flight_and_refuses_the_rest),
        cmocka_unit_test(close__refuses_puts_that_wait_for_room),
        cmocka_unit_test(close__from_within_a_callback),
        cmocka_unit_test(abandon__at_any_point_leaks_nothing),
        cmocka_unit_test(abandon__while_opening),
        cmocka_unit_test(invalidate__is_durable_and_for_good),
        cmocka_unit_test(invalidate__fails_what_is_pending),
        cmocka_unit_test(invalidate__from_within_a_callback_comes_before_the_next_one),
        cmocka_unit_test(invalidate__that_fails_poisons_and_can_be_asked_again),
        cmocka_unit_test(poison__says_why),
        cmocka_unit_test(stores__of_one_map_do_not_see_each_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
