/* SPDX-License-Identifier: Apache-2.0 */
/* A flush that fails under a hosted volume: writes wait for the store to be opened again and then
 * succeed; what snapshots and clones hold stays as it was. */
#include "tests/unit/volume/failing_fixture.h"
#include "tests/unit/volume/hosted_fixture.h"

static int setup(void **state)
{
    failing_init();
    return fixture_setup_hosted(state);
}

static void write__waits_for_a_poisoned_snapshot_and_succeeds(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    struct uuid s1 = fixture_create(f, "s1");
    for (int i = 0; i < 4; i++) {
        uint64_t at = (uint64_t)i * 4 * CHUNK_BYTES;
        atomic_store(&failures, 1);
        assert_int_equal(fixture_fill(f, ITSELF, at, 4 * CHUNK_BYTES - 5, 2), 0);
        assert_int_equal(atomic_load(&failures), 0);
        fixture_expect_byte(f, ITSELF, at, at + 4 * CHUNK_BYTES - 5, 2);
        fixture_expect_byte(f, s1, 0, SIZE, 1);
    }
    assert_int_equal(fixture_look(f, s1).exceptions, 16);
    fixture_reopen(f);
    fixture_expect_byte(f, s1, 0, SIZE, 1);
}

static void write__several_wait_together(void **state)
{
    struct fixture *f = *state;
    enum { WRITERS = 16 };
    uint8_t data[CHUNK_BYTES];
    struct writing g[WRITERS];
    struct call calls[WRITERS];
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a"),
                b = fixture_clone(f, a, "b");
    const struct uuid nodes[3] = {ITSELF, a, b};
    memset(data, 5, sizeof data);
    for (int round = 0; round < 3; round++) {
        atomic_store(&failures, 1 + round);
        for (unsigned i = 0; i < WRITERS; i++) {
            g[i] = (struct writing){.write = {.node = nodes[i % 3],
                                              .op = VOLUME_WRITE,
                                              .offset_bytes = i * 1000,
                                              .len_bytes = sizeof data},
                                    .data = data};
            call_begin(&calls[i], f, fixture_do_write, &g[i]);
        }
        for (unsigned i = 0; i < WRITERS; i++)
            assert_int_equal(call_wait(&calls[i]), 0);
        atomic_store(&failures, 0);
    }
    fixture_expect_byte(f, s1, 0, SIZE, 0);
    fixture_expect_byte(f, ITSELF, 15000, 15000 + CHUNK_BYTES, 5);
    fixture_reopen(f);
    fixture_expect_byte(f, s1, 0, SIZE, 0);
    fixture_expect_byte(f, b, 14000, 14000 + CHUNK_BYTES, 5);
}

static void write__closing_meanwhile_ends_it(void **state)
{
    struct fixture *f = *state;
    uint8_t data[CHUNK_BYTES] = {1};
    struct uuid s1 = fixture_create(f, "s1");
    struct writing g = {.write = {.op = VOLUME_WRITE, .len_bytes = sizeof data}, .data = data};
    struct call c;
    atomic_store(&failures, 1000);
    call_begin(&c, f, fixture_do_write, &g);
    (void)usleep(100000);
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    assert_true(call_wait(&c) < 0);
    atomic_store(&failures, 0);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    fixture_expect_byte(f, s1, 0, SIZE, 0);
    fixture_expect_byte(f, ITSELF, 0, SIZE, 0);
}

static void create__origin_that_cannot_be_flushed_fails_it_and_opens_the_gate(void **state)
{
    struct fixture *f = *state;
    struct make m = {.id = uuid_make(), .name = "s1"};
    struct uuid s0 = fixture_create(f, "s0");
    unsigned failed = 0;
    for (int n = 0; n < 12; n++) { /* one of its flushes is the origin's */
        atomic_store(&passes, n);
        atomic_store(&failures, 1);
        int code = call(f, fixture_do_create, &m);
        atomic_store(&passes, 0);
        bool none_left = atomic_exchange(&failures, 0) != 0;
        assert_int_equal(fixture_fill(f, ITSELF, 0, 10, n + 1), 0);
        fixture_expect_byte(f, s0, 0, SIZE, 0);
        if (none_left) {
            assert_int_equal(code, 0);
            break;
        }
        assert_int_equal(code, SNAP_EIO);
        assert_false(fixture_look(f, m.id).there);
        failed++;
    }
    assert_in_range(failed, 3, 8);
    assert_int_equal(fixture_op(f, ITSELF, VOLUME_FLUSH, 0, 0), SNAP_EIO); /* of those before */
    assert_int_equal(fixture_op(f, ITSELF, VOLUME_FLUSH, 0, 0), 0);
}

static void clone__of_a_clone_fails_when_that_cannot_be_flushed(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a");
    struct clone_spec spec = {.id = uuid_make(), .source = a, .name = "b"};
    unsigned failed = 0;
    for (int n = 0; n < 12; n++) {
        atomic_store(&passes, n);
        atomic_store(&failures, 1);
        int code = call(f, fixture_do_clone, &spec);
        atomic_store(&passes, 0);
        if (atomic_exchange(&failures, 0) != 0) {
            assert_int_equal(code, 0);
            break;
        }
        assert_int_equal(code, SNAP_EIO);
        if (fixture_look(f, spec.id).there) /* it is made, and could not be opened */
            break;
        assert_int_equal(fixture_fill(f, a, 0, 10, n + 1), 0); /* the gate is open */
        failed++;
    }
    assert_in_range(failed, 2, 8);
}

/* -- who hears of it ---------------------------------------------------------------------- */

static int client_op(struct fixture *f, struct uuid node, enum volume_write_op op,
                     struct uuid client, bool fua)
{
    static const uint8_t data[CHUNK_BYTES] = {1};
    struct writing g = {.write = {.node = node, .op = op, .client = client, .fua = fua}};
    if (op == VOLUME_WRITE) {
        g.data = data;
        g.write.len_bytes = sizeof data;
    }
    return call(f, fixture_do_write, &g);
}

/* In the volume itself, or in a clone's own chunks. */
static void each_hears_once(struct fixture *f, struct uuid node)
{
    struct uuid a = uuid_make(), b = uuid_make(), c = uuid_make(), d = uuid_make(),
                late = uuid_make();
    assert_int_equal(client_op(f, node, VOLUME_WRITE, d, false), 0);
    assert_int_equal(client_op(f, node, VOLUME_FLUSH, d, false), 0);
    assert_int_equal(client_op(f, node, VOLUME_WRITE, a, false), 0);
    assert_int_equal(client_op(f, node, VOLUME_WRITE, b, false), 0);
    atomic_store(&failures, 1);
    assert_int_equal(client_op(f, node, VOLUME_FLUSH, a, false), SNAP_EIO);
    fixture_wait_sound(f, node);
    /* who had written nothing since its flush, or nothing at all, has lost nothing; and that their
     * flush succeeds now does not hide it from b */
    assert_int_equal(client_op(f, node, VOLUME_FLUSH, c, false), 0);
    assert_int_equal(client_op(f, node, VOLUME_FLUSH, d, false), 0);
    assert_int_equal(client_op(f, node, VOLUME_FLUSH, a, false), 0);
    assert_int_equal(client_op(f, node, VOLUME_WRITE, c, true), 0);
    assert_int_equal(client_op(f, node, VOLUME_WRITE, b, false), 0);
    assert_int_equal(client_op(f, node, VOLUME_FLUSH, b, false), SNAP_EIO);
    assert_int_equal(client_op(f, node, VOLUME_FLUSH, b, false), 0);
    assert_int_equal(client_op(f, node, VOLUME_FLUSH, a, false), 0);
    /* who comes later has nothing to do with it */
    assert_int_equal(client_op(f, node, VOLUME_WRITE, late, false), 0);
    assert_int_equal(client_op(f, node, VOLUME_FLUSH, late, false), 0);
}

static void flush__that_failed_is_told_to_each_who_had_written(void **state)
{
    each_hears_once(*state, ITSELF);
}

static void flush__that_failed_in_a_clone_is_told_to_each_who_had_written(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), c = fixture_clone(f, s1, "c");
    assert_int_equal(fixture_fill(f, c, 0, CHUNK_BYTES, 1), 0); /* from now on in place */
    each_hears_once(f, c);
}

/* A flush that says what its client has heard. What it is told goes to *told. */
static int client_flush(struct fixture *f, struct uuid node, struct uuid client, uint64_t heard,
                        uint64_t *told)
{
    struct writing g = {.write = {.node = node,
                                  .op = VOLUME_FLUSH,
                                  .client = client,
                                  .says_heard = true,
                                  .heard = heard}};
    int code = call(f, fixture_do_write, &g);
    *told = g.write.loss;
    return code;
}

static void hears_until_it_says_so(struct fixture *f, struct uuid node)
{
    struct uuid a = uuid_make(), b = uuid_make();
    uint64_t first, again, other;
    assert_int_equal(client_op(f, node, VOLUME_WRITE, a, false), 0);
    assert_int_equal(client_op(f, node, VOLUME_WRITE, b, false), 0);
    atomic_store(&failures, 1);
    assert_int_equal(client_flush(f, node, a, 0, &first), SNAP_EIO);
    assert_true(first != 0);
    fixture_wait_sound(f, node);
    assert_int_equal(client_flush(f, node, a, 0, &again), SNAP_EIO); /* the answer was lost */
    assert_int_equal(again, first);
    assert_int_equal(client_flush(f, node, a, first, &again), 0);
    assert_int_equal(again, 0);
    assert_int_equal(client_flush(f, node, b, 0, &other), SNAP_EIO); /* that was another's word */
    assert_int_equal(client_flush(f, node, b, 0, &other), SNAP_EIO);
    assert_int_equal(client_flush(f, node, b, other, &other), 0);
    /* the next one is another */
    assert_int_equal(client_op(f, node, VOLUME_WRITE, a, false), 0);
    atomic_store(&failures, 1);
    assert_int_equal(client_flush(f, node, a, first, &again), SNAP_EIO);
    assert_true(again > first);
}

static void flush__that_failed_is_told_until_its_client_says_that_it_has_heard(void **state)
{
    hears_until_it_says_so(*state, ITSELF);
}

static void flush__that_failed_in_a_clone_is_told_until_its_client_says_so(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), c = fixture_clone(f, s1, "c");
    assert_int_equal(fixture_fill(f, c, 0, CHUNK_BYTES, 1), 0); /* from now on in place */
    hears_until_it_says_so(f, c);
}

/* They wait for one flush of the disk, and all get its result: that is one failure. */
static void flush__that_failed_for_several_is_told_each_of_them_once(void **state)
{
    enum { CLIENTS = 4 };
    struct fixture *f = *state;
    struct uuid clients[CLIENTS];
    struct writing g[CLIENTS];
    struct call calls[CLIENTS];
    uint64_t told;
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = uuid_make();
        assert_int_equal(client_op(f, ITSELF, VOLUME_WRITE, clients[i], false), 0);
    }
    halt_set(&flush);
    atomic_store(&failures, 1);
    for (int i = 0; i < CLIENTS; i++) {
        g[i] = (struct writing){
            .write = {.op = VOLUME_FLUSH, .client = clients[i], .says_heard = true}};
        call_begin(&calls[i], f, fixture_do_write, &g[i]);
        if (i == 0)
            halt_reached(&flush);
    }
    (void)fixture_look(f, ITSELF); /* they have arrived, too */
    halt_end(&flush);
    for (int i = 0; i < CLIENTS; i++)
        assert_int_equal(call_wait(&calls[i]), SNAP_EIO);
    for (int i = 0; i < CLIENTS; i++) {
        assert_true(g[i].write.loss != 0);
        assert_int_equal(client_flush(f, ITSELF, clients[i], g[i].write.loss, &told), 0);
    }
}

/* It is in the disk's cache when the flush fails, and answered after that. */
static void write__under_way_when_a_flush_failed_is_told_of_it(void **state)
{
    struct fixture *f = *state;
    static const uint8_t data[CHUNK_BYTES] = {1};
    struct uuid a = uuid_make(), c = uuid_make();
    struct writing g = {.write = {.op = VOLUME_WRITE, .client = a, .len_bytes = sizeof data},
                        .data = data};
    struct call writing;
    uint64_t told;
    halt_set(&written);
    call_begin(&writing, f, fixture_do_write, &g);
    halt_reached(&written);
    atomic_store(&failures, 1);
    assert_int_equal(client_flush(f, ITSELF, c, 0, &told), SNAP_EIO);
    assert_int_equal(told, 0); /* it has nothing to lose */
    halt_end(&written);
    assert_int_equal(call_wait(&writing), 0);
    assert_int_equal(client_flush(f, ITSELF, a, 0, &told), SNAP_EIO);
    assert_int_equal(client_flush(f, ITSELF, a, told, &told), 0);
}

/* Its flush may be what failed, and with it all that came before. */
static void write__with_fua_that_failed_is_told_to_each_who_had_written(void **state)
{
    struct fixture *f = *state;
    struct uuid a = uuid_make(), b = uuid_make(), c = uuid_make();
    assert_int_equal(client_op(f, ITSELF, VOLUME_WRITE, a, false), 0);
    atomic_store(&fua_fails, true);
    assert_int_equal(client_op(f, ITSELF, VOLUME_WRITE, b, true), SNAP_EIO);
    assert_false(atomic_load(&fua_fails));
    assert_int_equal(client_op(f, ITSELF, VOLUME_FLUSH, c, false), 0);
    assert_int_equal(client_op(f, ITSELF, VOLUME_FLUSH, a, false), SNAP_EIO);
    assert_int_equal(client_op(f, ITSELF, VOLUME_FLUSH, a, false), 0);
}

/* The commit's flush and not its own; what was written in place before may be gone all the same. */
static void flush__of_a_clones_exceptions_that_failed_is_told_too(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), c = fixture_clone(f, s1, "c"), a = uuid_make();
    assert_int_equal(fixture_fill(f, c, 0, CHUNK_BYTES, 1), 0);
    assert_int_equal(client_op(f, c, VOLUME_WRITE, a, false), 0);
    atomic_store(&failures, 1);
    assert_int_equal(fixture_fill(f, c, 4 * CHUNK_BYTES, CHUNK_BYTES, 1), 0); /* it waits */
    assert_int_equal(atomic_load(&failures), 0);
    assert_int_equal(client_op(f, c, VOLUME_FLUSH, a, false), SNAP_EIO);
    assert_int_equal(client_op(f, c, VOLUME_FLUSH, a, false), 0);
}

/* A flush makes durable what had been written when it began, and nothing that comes during it. */
static void flush__does_not_cover_what_is_written_during_it(void **state)
{
    struct fixture *f = *state;
    struct uuid a = uuid_make(), b = uuid_make(), c = uuid_make();
    struct writing g = {.write = {.op = VOLUME_FLUSH, .client = a}};
    struct call flushing;
    assert_int_equal(client_op(f, ITSELF, VOLUME_WRITE, a, false), 0);
    halt_set(&flush);
    call_begin(&flushing, f, fixture_do_write, &g);
    halt_reached(&flush);
    assert_int_equal(client_op(f, ITSELF, VOLUME_WRITE, b, false), 0);
    halt_end(&flush);
    assert_int_equal(call_wait(&flushing), 0);
    atomic_store(&failures, 1);
    assert_int_equal(client_op(f, ITSELF, VOLUME_FLUSH, c, false), SNAP_EIO);
    assert_int_equal(client_op(f, ITSELF, VOLUME_FLUSH, b, false), SNAP_EIO);
    assert_int_equal(client_op(f, ITSELF, VOLUME_FLUSH, a, false), 0);
}

/* … nor does a gate that has been closed make anybody hear of what was durable by then. */
static void flush__of_a_gate_covers_what_was_written_before(void **state)
{
    struct fixture *f = *state;
    struct uuid a = uuid_make(), c = uuid_make();
    assert_int_equal(client_op(f, ITSELF, VOLUME_WRITE, a, false), 0);
    (void)fixture_create(f, "s1");
    atomic_store(&failures, 1);
    assert_int_equal(client_op(f, ITSELF, VOLUME_FLUSH, c, false), SNAP_EIO);
    assert_int_equal(client_op(f, ITSELF, VOLUME_FLUSH, a, false), 0);
}

/* A gate flushes clones as well; what fails there is told to those who wrote them. */
static void flush__of_a_gate_that_failed_in_a_clone_is_told(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), c = fixture_clone(f, s1, "c"), a = uuid_make();
    unsigned told = 0;
    assert_int_equal(fixture_fill(f, c, 0, CHUNK_BYTES, 1), 0); /* from now on in place */
    for (int n = 0; n < 12; n++) {
        struct make m = {.id = uuid_make(), .name = "s2"};
        assert_int_equal(client_op(f, c, VOLUME_WRITE, a, false), 0);
        atomic_store(&passes, n);
        atomic_store(&failures, 1);
        int code = call(f, fixture_do_create, &m);
        atomic_store(&passes, 0);
        if (atomic_exchange(&failures, 0) != 0)
            break;
        assert_int_equal(code, SNAP_EIO);
        told += client_op(f, c, VOLUME_FLUSH, a, false) == SNAP_EIO ? 1 : 0;
        assert_int_equal(client_op(f, c, VOLUME_FLUSH, a, false), 0);
    }
    assert_int_equal(told, 1);
}

static void do_rollback(struct call *c)
{
    volume_rollback_start(c->f->volume, c->arg, call_end, c);
}

/* What was answered before it might be lost, and cancelling would not bring it back. */
static void rollback__origin_that_cannot_be_flushed_refuses_it(void **state)
{
    struct fixture *f = *state;
    struct rollback_spec spec = {.job = uuid_make(), .snapshot = fixture_create(f, "s1")};
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    atomic_store(&failures, 1);
    assert_int_equal(call(f, do_rollback, &spec), SNAP_EIO);
    assert_int_equal(atomic_load(&failures), 0);
    assert_int_equal(fixture_fill(f, ITSELF, 0, 10, 2), 0);
    fixture_expect_byte(f, ITSELF, 10, SIZE, 1);
}

/* -- while it is opened again ------------------------------------------------------------- */

/* A read says so, and is never of what lies behind; a write waits. */
static void reopening__clones_reads_are_put_off_and_their_writes_wait(void **state)
{
    struct fixture *f = *state;
    uint8_t data[CHUNK_BYTES], got[100];
    memset(data, 3, sizeof data);
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    struct uuid s1 = fixture_create(f, "s1"), c = fixture_clone(f, s1, "c");
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE / 2, 2), 0); /* s1 has it now */
    struct writing over = {
        .write = {.op = VOLUME_WRITE, .offset_bytes = SIZE / 2, .len_bytes = sizeof data},
        .data = data};
    struct writing own = {
        .write = {.node = c, .op = VOLUME_WRITE, .offset_bytes = 100, .len_bytes = 100},
        .data = data};
    struct call calls[2];
    atomic_store(&failures, 1000);
    call_begin(&calls[0], f, fixture_do_write, &over);
    fixture_wait_state(f, s1, SNAPSHOT_POISONED);
    assert_int_equal(fixture_read(f, c, 0, sizeof got, got), SNAP_EPOISONED);
    assert_int_equal(fixture_read(f, s1, SIZE - 100, sizeof got, got), SNAP_EPOISONED);
    (void)usleep(200000); /* it has been tried once, and waits a second */
    atomic_store(&failures, 0);
    call_begin(&calls[1], f, fixture_do_write, &own);
    assert_int_equal(fixture_read(f, c, 0, sizeof got, got), SNAP_EPOISONED);
    assert_int_equal(call_wait(&calls[0]), 0);
    assert_int_equal(call_wait(&calls[1]), 0);
    fixture_expect_byte(f, c, 0, 100, 1);
    fixture_expect_byte(f, c, 100, 200, 3);
    fixture_expect_byte(f, c, 200, SIZE, 1);
    fixture_expect_byte(f, s1, 0, SIZE, 1);
}

int main(void)
{
#define HOSTED(test) cmocka_unit_test_setup_teardown(test, setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        HOSTED(write__waits_for_a_poisoned_snapshot_and_succeeds),
        HOSTED(write__several_wait_together),
        HOSTED(write__closing_meanwhile_ends_it),
        HOSTED(create__origin_that_cannot_be_flushed_fails_it_and_opens_the_gate),
        HOSTED(clone__of_a_clone_fails_when_that_cannot_be_flushed),
        HOSTED(flush__that_failed_is_told_to_each_who_had_written),
        HOSTED(flush__that_failed_in_a_clone_is_told_to_each_who_had_written),
        HOSTED(flush__that_failed_is_told_until_its_client_says_that_it_has_heard),
        HOSTED(flush__that_failed_in_a_clone_is_told_until_its_client_says_so),
        HOSTED(flush__that_failed_for_several_is_told_each_of_them_once),
        HOSTED(write__under_way_when_a_flush_failed_is_told_of_it),
        HOSTED(write__with_fua_that_failed_is_told_to_each_who_had_written),
        HOSTED(flush__of_a_clones_exceptions_that_failed_is_told_too),
        HOSTED(flush__does_not_cover_what_is_written_during_it),
        HOSTED(flush__of_a_gate_covers_what_was_written_before),
        HOSTED(flush__of_a_gate_that_failed_in_a_clone_is_told),
        HOSTED(rollback__origin_that_cannot_be_flushed_refuses_it),
        HOSTED(reopening__clones_reads_are_put_off_and_their_writes_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
