/* SPDX-License-Identifier: Apache-2.0 */
/* When puts had better let the turn end: volume_put_crowd(). */
#include "tests/unit/volume/remote_fixture.h"

#define NEARLY (VOLUME_PUT_CROWD_BYTES - CHUNK_BYTES)

/* Asked on the shard's thread, in one turn. */
struct crowd {
    struct batch batch;
    bool nothing_yet, little, enough, with_what_gathered, with_more_than_few;
};

static void do_look(struct call *c)
{
    struct crowd *w = c->arg;
    struct volume *v = c->f->volume;
    w->little = volume_put_crowd(v, NEARLY);
    w->enough = volume_put_crowd(v, VOLUME_PUT_CROWD_BYTES);
    w->with_more_than_few = volume_put_crowd(v, VOLUME_PUT_FEW_BYTES + 1);
    call_end(c, 0, NULL);
}

static void do_put_and_look(struct call *c)
{
    struct crowd *w = c->arg;
    struct volume *v = c->f->volume;
    w->nothing_yet = volume_put_crowd(v, CHUNK_BYTES);
    c->arg = &w->batch;
    fixture_do_put(c); /* ends c, later */
    w->little = volume_put_crowd(v, NEARLY - CHUNK_BYTES);
    w->with_what_gathered = volume_put_crowd(v, NEARLY);
    w->with_more_than_few = volume_put_crowd(v, VOLUME_PUT_FEW_BYTES);
}

static void crowd__is_a_quarter_mebibyte_while_little_is_in_flight(void **state)
{
    struct fixture *f = *state;
    struct crowd w = {0};
    (void)fixture_create(f, "s");
    assert_int_equal(call(f, do_look, &w), 0);
    assert_false(w.little);
    assert_true(w.enough);
    assert_false(w.with_more_than_few);
}

static void crowd__counts_what_has_gathered_and_what_is_in_flight(void **state)
{
    struct fixture *f = *state;
    struct uuid head = fixture_create(f, "s");
    struct crowd w = {.batch = fixture_batch(head, fixture_lease(f), 3, 1, 7)};
    assert_int_equal(call(f, do_put_and_look, &w), 0);
    assert_int_equal(w.batch.added, 1);
    assert_false(w.nothing_yet);
    assert_false(w.little);
    assert_true(w.with_what_gathered);
    assert_false(w.with_more_than_few);
}

static void crowd__is_none_without_a_head(void **state)
{
    struct fixture *f = *state;
    struct crowd w = {0};
    assert_int_equal(call(f, do_look, &w), 0);
    assert_false(w.enough);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(crowd__is_a_quarter_mebibyte_while_little_is_in_flight),
        CASE(crowd__counts_what_has_gathered_and_what_is_in_flight),
        CASE(crowd__is_none_without_a_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
