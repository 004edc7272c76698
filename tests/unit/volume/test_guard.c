/* SPDX-License-Identifier: Apache-2.0 */
/* Writers that may go on without the daemon: when snapshots are unverified, and when no more. */
#include "daemon/volume/guard.h"
#include "tests/unit/volume/remote_fixture.h"

struct guard_ask {
    struct writer w;
    bool goes_on, broken, late;
    uint32_t late_after_seq;
};

static void do_acquire(struct call *c)
{
    const struct guard_ask *a = c->arg;
    struct volume_lease_request r = {.ask = {.identity = a->w.identity,
                                             .instance = a->w.instance,
                                             .epoch = a->w.epoch,
                                             .steal = a->w.steal},
                                     .origin_size_bytes = a->w.size_bytes,
                                     .goes_on = a->goes_on,
                                     .broken = a->broken,
                                     .late = a->late,
                                     .late_after_seq = a->late_after_seq,
                                     .holder = {.tell = fixture_tell, .session = a->w.session}};
    volume_lease_acquire(c->f->volume, &r, call_end, c);
}

static int acquire(struct fixture *f, bool goes_on, bool broken)
{
    struct guard_ask a = {.w = fixture_writer(f, "w"), .goes_on = goes_on, .broken = broken};
    return call(f, do_acquire, &a);
}

/* It has lost its lease, and takes another. */
static int acquire_late(struct fixture *f, bool goes_on, uint32_t after_seq)
{
    struct guard_ask a = {
        .w = fixture_writer(f, "w"), .goes_on = goes_on, .late = true, .late_after_seq = after_seq};
    return call(f, do_acquire, &a);
}

static void wait_gone(struct fixture *f, struct uuid id)
{
    for (int i = 0; i < 4000 && fixture_look(f, id).there; i++)
        (void)usleep(1000);
    assert_false(fixture_look(f, id).there);
}

static uint32_t seq_of(struct fixture *f, struct uuid id)
{
    return volume_record_find(&f->volume->record, &id)->seq;
}

static void do_gone(struct call *c)
{
    volume_holder_gone(c->f->volume, 1);
    call_end(c, 0, NULL);
}

static void do_release(struct call *c)
{
    struct volume *v = c->f->volume;
    volume_lease_release(v, "w", v->lease.epoch, call_end, c);
}

struct accept {
    struct uuid id;
    bool force;
};

static void do_accept(struct call *c)
{
    const struct accept *a = c->arg;
    guard_accept(c->f->volume, &a->id, a->force, call_end, c);
}

static enum snapshot_state state_of(struct fixture *f, struct uuid id)
{
    return fixture_look(f, id).state;
}

static void guard__away_makes_all_unverified_and_back_it_vouches(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a"), b = fixture_create(f, "b");
    uint8_t bytes[512];
    assert_int_equal(acquire(f, true, false), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    (void)call(f, do_gone, NULL);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
    assert_int_equal(state_of(f, b), SNAPSHOT_UNVERIFIED);
    assert_int_equal(fixture_read(f, a, 0, sizeof bytes, bytes), SNAP_EUNVERIFIED);
    assert_non_null(strstr(fixture_look(f, a).text, "snapctl remote accept"));
    assert_int_equal(acquire(f, true, false), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    assert_int_equal(fixture_read(f, b, 0, sizeof bytes, bytes), 0);
}

static void guard__is_known_after_a_restart_of_the_daemon(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a");
    assert_int_equal(acquire(f, true, false), 0);
    fixture_reopen(f);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
    assert_int_equal(acquire(f, true, false), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    fixture_reopen(f);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
}

static void guard__silent_for_the_leases_time_is_away(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a");
    assert_int_equal(acquire(f, true, false), 0);
    (void)usleep(TTL_MS * 1000 + 50000);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
}

static void guard__released_leaves_nothing_in_doubt(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a");
    assert_int_equal(acquire(f, true, false), 0);
    assert_int_equal(call(f, do_release, NULL), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    fixture_reopen(f);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
}

static void guard__without_the_policy_is_never_doubted(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a");
    assert_int_equal(acquire(f, false, false), 0);
    (void)call(f, do_gone, NULL);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
}

static void guard__broken_is_for_good_and_durable(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a");
    assert_int_equal(acquire(f, true, true), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
    assert_non_null(strstr(fixture_look(f, a).text, "for good"));
    assert_int_equal(acquire(f, true, false), 0); /* too late */
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
    assert_int_equal(call(f, do_release, NULL), 0);
    fixture_reopen(f);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
    struct uuid b = fixture_create(f, "b"); /* nobody was away when it was made */
    assert_int_equal(state_of(f, b), SNAPSHOT_OK);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
}

static void guard__away_while_one_is_made_leaves_it_unverified_until_it_vouches(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(acquire(f, true, false), 0);
    (void)call(f, do_gone, NULL);
    struct uuid a = fixture_create(f, "a"); /* over the dead: its lease has ended */
    assert_int_equal(f->volume->lease.phase, LEASE_FREE);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
    fixture_reopen(f);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
    assert_int_equal(acquire(f, true, false), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
}

static void guard__another_writer_meanwhile_does_not_end_the_doubt(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a");
    assert_int_equal(acquire(f, true, false), 0);
    (void)call(f, do_gone, NULL);
    struct guard_ask other = {.w = fixture_writer(f, "t")};
    other.w.instance = uuid_make();
    other.w.steal = true;
    assert_int_equal(call(f, do_acquire, &other), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
    struct guard_ask back = {.w = fixture_writer(f, "w"), .goes_on = true};
    back.w.steal = true;
    assert_int_equal(call(f, do_acquire, &back), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
}

static void guard__another_one_in_its_place_leaves_what_nobody_can_vouch_for(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a");
    assert_int_equal(acquire(f, true, false), 0);
    (void)call(f, do_gone, NULL);
    struct guard_ask other = {.w = fixture_writer(f, "t"), .goes_on = true};
    other.w.instance = uuid_make();
    other.w.steal = true;
    assert_int_equal(call(f, do_acquire, &other), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
    assert_non_null(strstr(fixture_look(f, a).text, "for good"));
}

/* A writer is there and connected, and it is not the guard. */
static void guard__one_made_under_another_writer_is_unverified(void **state)
{
    struct fixture *f = *state;
    f->volume->lease.ttl_ns *= 50; /* it does not end by itself */
    assert_int_equal(acquire(f, true, false), 0);
    struct guard_ask other = {.w = fixture_writer(f, "w")};
    other.w.instance = uuid_make();
    other.w.steal = true;
    assert_int_equal(call(f, do_acquire, &other), 0);
    struct make m = {.id = uuid_make(), .name = "a"};
    struct call creating;
    call_begin(&creating, f, fixture_do_create, &m);
    fixture_wait_quiesced(f, 1);
    assert_int_equal(call(f, fixture_do_ready, NULL), 0);
    assert_int_equal(call_wait(&creating), 0);
    assert_int_equal(state_of(f, m.id), SNAPSHOT_UNVERIFIED);
    struct guard_ask back = {.w = fixture_writer(f, "w"), .goes_on = true};
    back.w.steal = true;
    assert_int_equal(call(f, do_acquire, &back), 0);
    assert_int_equal(state_of(f, m.id), SNAPSHOT_OK);
}

static void guard__puts_go_on_though_the_head_is_unverified(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a");
    assert_int_equal(acquire(f, true, false), 0);
    (void)call(f, do_gone, NULL);
    struct guard_ask other = {.w = fixture_writer(f, "w")};
    other.w.instance = uuid_make();
    other.w.steal = true;
    assert_int_equal(call(f, do_acquire, &other), 0);
    fixture_put(f, a, f->volume->lease.epoch, 0, 4, 1);
}

static void late__those_newer_than_its_head_are_unverified_for_good(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a"), b = fixture_create(f, "b");
    assert_int_equal(acquire(f, false, false), 0);
    (void)call(f, do_gone, NULL);
    struct uuid c = fixture_create(f, "c"), d = fixture_create(f, "d"); /* over the dead */
    assert_int_equal(state_of(f, c), SNAPSHOT_OK);
    assert_int_equal(acquire_late(f, false, seq_of(f, b)), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    assert_int_equal(state_of(f, b), SNAPSHOT_OK);
    assert_int_equal(state_of(f, c), SNAPSHOT_UNVERIFIED);
    assert_int_equal(state_of(f, d), SNAPSHOT_UNVERIFIED);
    assert_non_null(strstr(fixture_look(f, d).text, "may have been"));
    assert_int_equal(acquire(f, false, false), 0); /* it does not vouch for them */
    assert_int_equal(call(f, do_release, NULL), 0);
    struct uuid e = fixture_create(f, "e"); /* after that */
    fixture_reopen(f);
    assert_int_equal(state_of(f, b), SNAPSHOT_OK);
    assert_int_equal(state_of(f, c), SNAPSHOT_UNVERIFIED);
    assert_int_equal(state_of(f, d), SNAPSHOT_UNVERIFIED);
    assert_int_equal(state_of(f, e), SNAPSHOT_OK);
}

static void late__nothing_newer_leaves_all_as_they_are(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a"), b = fixture_create(f, "b");
    assert_int_equal(acquire_late(f, false, seq_of(f, b)), 0);
    assert_int_equal(acquire_late(f, false, UINT32_MAX), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    assert_int_equal(state_of(f, b), SNAPSHOT_OK);
}

static void late__without_a_head_all_are_newer(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(acquire(f, false, false), 0);
    (void)call(f, do_gone, NULL);
    struct uuid a = fixture_create(f, "a"), b = fixture_create(f, "b");
    assert_int_equal(acquire_late(f, false, 0), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
    assert_int_equal(state_of(f, b), SNAPSHOT_UNVERIFIED);
}

/* Its seq says all the same which ones are newer. */
static void late__its_head_may_have_been_deleted(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a"), b = fixture_create(f, "b");
    const uint32_t seq = seq_of(f, b);
    assert_int_equal(acquire(f, false, false), 0);
    (void)call(f, do_gone, NULL);
    struct uuid c = fixture_create(f, "c");
    assert_int_equal(fixture_delete(f, b, uuid_make(), false), 0);
    wait_gone(f, b);
    assert_int_equal(acquire_late(f, false, seq), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    assert_int_equal(state_of(f, c), SNAPSHOT_UNVERIFIED);
}

/* The answer was lost. */
static void late__told_again_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a");
    const uint32_t seq = seq_of(f, a);
    assert_int_equal(acquire(f, false, false), 0);
    (void)call(f, do_gone, NULL);
    struct uuid b = fixture_create(f, "b");
    struct guard_word word = {.instance = f->instance, .late = true, .late_after_seq = seq};
    assert_true(guard_says_new(&f->volume->record, &word));
    assert_int_equal(acquire_late(f, false, seq), 0);
    assert_false(guard_says_new(&f->volume->record, &word));
    assert_int_equal(acquire_late(f, false, seq), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    assert_int_equal(state_of(f, b), SNAPSHOT_UNVERIFIED);
}

/* For the others it vouches. */
static void late__of_one_that_goes_on_the_older_are_sound_again(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a");
    const uint32_t seq = seq_of(f, a);
    assert_int_equal(acquire(f, true, false), 0);
    (void)call(f, do_gone, NULL);
    struct uuid b = fixture_create(f, "b");
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
    assert_int_equal(state_of(f, b), SNAPSHOT_UNVERIFIED);
    assert_int_equal(acquire_late(f, true, seq), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    assert_int_equal(state_of(f, b), SNAPSHOT_UNVERIFIED);
    assert_non_null(strstr(fixture_look(f, b).text, "for good"));
    assert_int_equal(acquire(f, true, false), 0);
    assert_int_equal(state_of(f, b), SNAPSHOT_UNVERIFIED);
}

/* A chunk that nobody has kept for them is not missing in older ones. */
static void late__deleting_one_leaves_the_older_sound(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a");
    uint8_t bytes[512];
    assert_int_equal(acquire(f, false, false), 0);
    fixture_put(f, a, f->volume->lease.epoch, 0, 4, 1);
    (void)call(f, do_gone, NULL);
    struct uuid b = fixture_create(f, "b");
    assert_int_equal(acquire_late(f, false, seq_of(f, a)), 0);
    fixture_put(f, b, f->volume->lease.epoch, 0, 4, 2); /* what the late write wrote */
    assert_int_equal(fixture_read(f, b, 0, sizeof bytes, bytes), SNAP_EUNVERIFIED);
    assert_int_equal(fixture_delete(f, b, uuid_make(), false), 0);
    wait_gone(f, b);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    fixture_expect_byte(f, a, 0, CHUNK_BYTES, 1);
}

static void accept__takes_a_late_one_without_force(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a");
    assert_int_equal(acquire_late(f, false, 0), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_UNVERIFIED);
    struct accept ask = {.id = a};
    assert_int_equal(call(f, do_accept, &ask), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    fixture_reopen(f);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
}

static void accept__takes_one_and_with_force_gives_the_guard_up(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a"), b = fixture_create(f, "b");
    assert_int_equal(acquire(f, true, false), 0);
    (void)call(f, do_gone, NULL);
    struct accept ask = {.id = a};
    assert_int_equal(call(f, do_accept, &ask), SNAP_EBUSY);
    ask.force = true;
    assert_int_equal(call(f, do_accept, &ask), 0);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    assert_int_equal(state_of(f, b), SNAPSHOT_UNVERIFIED);
    ask = (struct accept){.id = b};
    assert_int_equal(call(f, do_accept, &ask), 0);
    assert_int_equal(state_of(f, b), SNAPSHOT_OK);
    ask.id = uuid_make();
    assert_int_equal(call(f, do_accept, &ask), SNAP_ENOENT);
    fixture_reopen(f);
    assert_int_equal(state_of(f, a), SNAPSHOT_OK);
    assert_int_equal(state_of(f, b), SNAPSHOT_OK);
}

static void accept__of_a_hidden_one_is_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid a = fixture_create(f, "a"), b = fixture_create(f, "b");
    struct accept ask = {.id = b};
    fixture_set_busy(f, a, true);
    assert_int_equal(fixture_delete(f, b, uuid_make(), false), 0);
    assert_true(fixture_look(f, b).hidden);
    assert_int_equal(call(f, do_accept, &ask), SNAP_ENOENT);
    fixture_set_busy(f, a, false);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(guard__away_makes_all_unverified_and_back_it_vouches),
        CASE(guard__is_known_after_a_restart_of_the_daemon),
        CASE(guard__silent_for_the_leases_time_is_away),
        CASE(guard__released_leaves_nothing_in_doubt),
        CASE(guard__without_the_policy_is_never_doubted),
        CASE(guard__broken_is_for_good_and_durable),
        CASE(guard__away_while_one_is_made_leaves_it_unverified_until_it_vouches),
        CASE(guard__another_writer_meanwhile_does_not_end_the_doubt),
        CASE(guard__another_one_in_its_place_leaves_what_nobody_can_vouch_for),
        CASE(guard__one_made_under_another_writer_is_unverified),
        CASE(guard__puts_go_on_though_the_head_is_unverified),
        CASE(late__those_newer_than_its_head_are_unverified_for_good),
        CASE(late__nothing_newer_leaves_all_as_they_are),
        CASE(late__without_a_head_all_are_newer),
        CASE(late__its_head_may_have_been_deleted),
        CASE(late__told_again_changes_nothing),
        CASE(late__of_one_that_goes_on_the_older_are_sound_again),
        CASE(late__deleting_one_leaves_the_older_sound),
        CASE(accept__takes_a_late_one_without_force),
        CASE(accept__takes_one_and_with_force_gives_the_guard_up),
        CASE(accept__of_a_hidden_one_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
