/* SPDX-License-Identifier: Apache-2.0 */
/* The gate of a hosted volume: it is closed for a moment to all writes, by a snapshot that is made,
 * alone or with others, or by a check. */
#include "tests/unit/volume/hosted_fixture.h"

/* -- the gate ------------------------------------------------------------------------------ */

struct gate {
    struct volume_waiter waiter;
    struct call *call;
};

static void gate_closed(struct volume_waiter *w, int code, const struct err *err)
{
    struct gate *g = w->user;
    call_end(g->call, code, err);
}

static void do_close(struct call *c)
{
    struct gate *g = c->arg;
    *g = (struct gate){.waiter = {.fn = gate_closed, .user = g}, .call = c};
    volume_gate_close(c->f->volume, &g->waiter);
}

static void do_open(struct call *c)
{
    volume_gate_open(c->f->volume);
    call_end(c, 0, NULL);
}

static void gate__holds_writes_until_it_is_open_as_often_as_closed(void **state)
{
    struct fixture *f = *state;
    struct gate a, b;
    uint8_t data[10] = {7};
    struct writing g = {.write = {.op = VOLUME_WRITE, .len_bytes = sizeof data}, .data = data};
    struct call c;
    assert_int_equal(call(f, do_close, &a), 0);
    assert_int_equal(call(f, do_close, &b), 0);
    call_begin(&c, f, fixture_do_write, &g);
    assert_int_equal(call(f, do_open, NULL), 0);
    assert_true(call_still_waits(&c));
    fixture_expect_byte(f, ITSELF, 0, SIZE, 0);
    assert_int_equal(call(f, do_open, NULL), 0);
    assert_int_equal(call_wait(&c), 0);
    fixture_expect_byte(f, ITSELF, 0, 1, 7);
}

static void gate__is_closed_when_writes_under_way_have_ended(void **state)
{
    struct fixture *f = *state;
    uint8_t data[10] = {7};
    struct writing g = {
        .write = {.op = VOLUME_WRITE, .offset_bytes = CHUNK_BYTES, .len_bytes = sizeof data},
        .data = data};
    struct holding h = {.range = {.first = 1, .last = 1, .shared = true}, .reads = true};
    struct gate gate;
    struct call w, c;
    fixture_hold(f, &h);
    call_begin(&w, f, fixture_do_write, &g);
    call_begin(&c, f, do_close, &gate);
    assert_true(call_still_waits(&c));
    fixture_let_go(f, &h);
    assert_int_equal(call_wait(&w), 0);
    assert_int_equal(call_wait(&c), 0);
    assert_int_equal(call(f, do_open, NULL), 0);
}

static void gate__held_writes_are_refused_when_the_volume_goes(void **state)
{
    struct fixture *f = *state;
    struct gate a;
    uint8_t data[10] = {7};
    struct writing g = {.write = {.op = VOLUME_WRITE, .len_bytes = sizeof data}, .data = data};
    struct call c;
    assert_int_equal(call(f, do_close, &a), 0);
    call_begin(&c, f, fixture_do_write, &g);
    fixture_reopen(f);
    assert_int_equal(call_wait(&c), SNAP_ESHUTDOWN);
    fixture_expect_byte(f, ITSELF, 0, SIZE, 0);
}

/* The write is past the gate when the check closes it. */
static void check__waits_for_writes_past_the_gate_and_they_not_for_it(void **state)
{
    struct fixture *f = *state;
    uint8_t data[CHUNK_BYTES] = {7};
    struct writing g = {.write = {.op = VOLUME_WRITE, .len_bytes = sizeof data}, .data = data};
    struct checking check = {.check = {.snapshot = fixture_create(f, "s1")}};
    struct call calls[2] = {{.fn = fixture_do_write, .arg = &g},
                            {.fn = fixture_do_check, .arg = &check}};
    call_begin_together(f, calls, 2);
    assert_int_equal(call_wait(&calls[0]), 0);
    assert_int_equal(call_wait(&calls[1]), 0);
    assert_true(check.check.sound);
    assert_int_equal(check.check.exceptions, 1);
    fixture_expect_byte(f, check.check.snapshot, 0, SIZE, 0);
}

/* -- with others --------------------------------------------------------------------------- */

struct held {
    struct uuid id, group;
    const char *name;
    struct call *call;
    sem_t is_held;
};

static void held_done(void *user, int code, const struct err *err)
{
    struct held *h = user;
    call_end(h->call, code, err);
}

static void held_held(void *user, int code, const struct err *err)
{
    struct held *h = user;
    (void)err;
    assert_int_equal(code, 0);
    sem_post(&h->is_held);
}

static void do_create_held(struct call *c)
{
    struct held *h = c->arg;
    struct snapshot_spec spec = {
        .id = h->id, .name = h->name, .group = &h->group, .held = held_held};
    h->call = c;
    snapshot_create_start(c->f->volume, &spec, held_done, h);
}

static void do_keep(struct call *c)
{
    snapshot_create_release(c->f->volume, c->arg, true);
    call_end(c, 0, NULL);
}

static void do_undo(struct call *c)
{
    snapshot_create_release(c->f->volume, c->arg, false);
    call_end(c, 0, NULL);
}

static void group__member_is_held_until_it_is_kept_or_undone(void **state)
{
    struct fixture *f = *state;
    uint8_t data[10] = {7};
    char path[LIMIT_PATH_BYTES];
    for (int keep = 0; keep < 2; keep++) {
        struct held h = {.id = uuid_make(), .group = uuid_make(), .name = "s1"};
        struct writing g = {.write = {.op = VOLUME_WRITE, .len_bytes = sizeof data}, .data = data};
        struct call c, w;
        sem_init(&h.is_held, 0, 0);
        call_begin(&c, f, do_create_held, &h);
        sem_wait(&h.is_held);
        call_begin(&w, f, fixture_do_write, &g);
        assert_true(call_still_waits(&w));
        assert_true(fixture_look(f, h.id).there);
        assert_int_equal(call(f, keep ? do_keep : do_undo, &h.id), 0);
        assert_int_equal(call_wait(&c), keep ? 0 : SNAP_ECANCELED);
        assert_int_equal(call_wait(&w), 0);
        (void)fixture_cow_path(f, h.id, path, sizeof path);
        assert_int_equal(access(path, F_OK), keep ? 0 : -1);
        fixture_reopen(f);
        assert_int_equal(fixture_look(f, h.id).there, keep != 0);
        if (keep)
            fixture_expect_byte(f, h.id, 0, 1, 7); /* of the first round */
        sem_destroy(&h.is_held);
    }
}

int main(void)
{
#define HOSTED(test) cmocka_unit_test_setup_teardown(test, fixture_setup_hosted, fixture_teardown)
    const struct CMUnitTest tests[] = {
        HOSTED(gate__holds_writes_until_it_is_open_as_often_as_closed),
        HOSTED(gate__is_closed_when_writes_under_way_have_ended),
        HOSTED(gate__held_writes_are_refused_when_the_volume_goes),
        HOSTED(check__waits_for_writes_past_the_gate_and_they_not_for_it),
        HOSTED(group__member_is_held_until_it_is_kept_or_undone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
