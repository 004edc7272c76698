/* SPDX-License-Identifier: Apache-2.0 */
/* COW devices without room, when others are concerned beside the one that finds it out: a second
 * put, a second dependant.
 *
 * fdatasync() and pwritev2() are this program's own: the threads engine calls them. A case lets
 * the flush of one file take its time, and stops the one that ends an invalidation. */
#include "tests/unit/volume/disk_fixture.h"
#include "tests/unit/volume/hosted_fixture.h"
#include "tests/unit/volume/remote_fixture.h"

enum { SMALL = 8 * CHUNK_BYTES, SLOW_US = 100000 };

static _Atomic ino_t slow_ino;    /* its flushes are slow */
static struct halt invalid;       /* the flush behind the header … */
static _Atomic ino_t invalid_ino; /* … of this one */
static atomic_bool header_written;
static atomic_int header_fails; /* so often */

int fdatasync(int fd)
{
    ino_t ino = disk_ino(fd);
    if (ino == atomic_load(&slow_ino))
        (void)usleep(SLOW_US);
    if (ino == atomic_load(&invalid_ino) && atomic_load(&header_written))
        halt_here(&invalid);
    return (int)syscall(SYS_fdatasync, fd);
}

ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    if (offset == 0 && disk_ino(fd) == atomic_load(&invalid_ino)) {
        if (disk_take_one(&header_fails)) {
            errno = EIO;
            return -1;
        }
        atomic_store(&header_written, true);
    }
    return syscall(SYS_pwritev2, fd, iov, count, offset, 0, flags);
}

static void let_go(void)
{
    atomic_store(&slow_ino, 0);
    atomic_store(&invalid_ino, 0);
    atomic_store(&header_written, false);
    atomic_store(&header_fails, 0);
    halt_init(&invalid);
}

static int setup(void **state)
{
    let_go();
    return fixture_setup(state);
}

static int setup_hosted(void **state)
{
    let_go();
    return fixture_setup_hosted(state);
}

/* Its invalidation stops before it is durable. */
static void stop_invalidation(const struct fixture *f, struct uuid snapshot)
{
    atomic_store(&invalid_ino, disk_cow_ino(f, snapshot));
    halt_set(&invalid);
}

/* -- puts to one snapshot --------------------------------------------------------------------- */

struct two_puts {
    struct batch batches[2];
    struct call calls[2];
};

static struct uuid create_small(struct fixture *f, const char *name)
{
    struct make m = {.id = uuid_make(), .name = name, .limit_bytes = SMALL};
    assert_int_equal(call(f, fixture_do_create, &m), 0);
    return m.id;
}

static bool is_told(const struct batch *b, int outcome)
{
    for (unsigned i = 0; i < b->old_count + b->zero_count; i++)
        if (b->outcomes[i] == outcome)
            return true;
    return false;
}

/* Two puts that are full, begun in one turn. none: there is no room for any of their chunks, so
 * that both end in one turn as well; else the one that came first finds some. */
static struct uuid begin_two_full(struct fixture *f, bool none, struct two_puts *t)
{
    struct uuid s = create_small(f, "s1");
    uint64_t epoch = fixture_lease(f);
    struct batch before = fixture_batch(s, epoch, 40, none ? 20 : 1, 0);
    *t = (struct two_puts){
        .batches = {fixture_batch(s, epoch, 0, 20, 0), fixture_batch(s, epoch, 20, 20, 0)}};
    assert_int_equal(call(f, fixture_do_put, &before), 0);
    assert_true(is_told(&before, SNAP_ENOSPC) == none);
    f->volume->record.full_policy = FULL_INVALIDATE;
    stop_invalidation(f, s);
    for (unsigned i = 0; i < 2; i++)
        t->calls[i] = (struct call){.fn = fixture_do_put, .arg = &t->batches[i]};
    call_begin_together(f, t->calls, 2);
    return s;
}

/* One that has found room and waits for its flush, when the other finds none. */
static struct uuid begin_full_beside_one(struct fixture *f, struct two_puts *t)
{
    struct uuid s0 = create_small(f, "s0");
    f->volume->lease.ttl_ns *= 50; /* it does not end by itself */
    uint64_t epoch = fixture_lease(f);
    struct batch room = fixture_batch(s0, epoch, 0, 20, 0);
    assert_int_equal(call(f, fixture_do_put, &room), 0);
    struct make m = {.id = uuid_make(), .name = "s1", .limit_bytes = SMALL};
    struct call creating;
    f->quiesced = 0;
    call_begin(&creating, f, fixture_do_create, &m);
    fixture_wait_quiesced(f, 1);
    assert_int_equal(call(f, fixture_do_ready, NULL), 0);
    assert_int_equal(call_wait(&creating), 0);
    struct uuid s = m.id;
    *t = (struct two_puts){
        .batches = {fixture_batch(s, epoch, 0, room.added, 0), fixture_batch(s, epoch, 20, 20, 0)}};
    f->volume->record.full_policy = FULL_INVALIDATE;
    stop_invalidation(f, s);
    atomic_store(&slow_ino, disk_cow_ino(f, s));
    call_begin(&t->calls[0], f, fixture_do_put, &t->batches[0]);
    (void)usleep(SLOW_US / 3);
    call_begin(&t->calls[1], f, fixture_do_put, &t->batches[1]);
    return s;
}

/* Who is told that it is invalid overwrites what it held: so neither is before that is durable. */
static void expect_told_late(struct fixture *f, struct uuid s, struct two_puts *t)
{
    halt_reached(&invalid);
    (void)usleep(50000);
    const bool early[2] = {call_has_ended(&t->calls[0]), call_has_ended(&t->calls[1])};
    halt_end(&invalid);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(call_wait(&t->calls[i]), 0);
        assert_false(early[i]);
        assert_int_equal(t->batches[i].first_code, SNAP_EINVALID);
        assert_false(is_told(&t->batches[i], SNAP_ENOSPC));
    }
    assert_int_equal(fixture_look(f, s).state, SNAPSHOT_INVALID);
}

static void put__two_that_are_full_hear_of_it_once_it_is_invalid_for_good(void **state)
{
    struct two_puts t;
    struct uuid s = begin_two_full(*state, false, &t);
    expect_told_late(*state, s, &t);
}

static void put__two_that_are_full_at_once_hear_of_it_once_it_is_invalid_for_good(void **state)
{
    struct two_puts t;
    struct uuid s = begin_two_full(*state, true, &t);
    expect_told_late(*state, s, &t);
}

static void put__under_way_beside_a_full_one_hears_of_it_once_it_is_invalid_for_good(void **state)
{
    struct two_puts t;
    struct uuid s = begin_full_beside_one(*state, &t);
    expect_told_late(*state, s, &t);
}

static void put__that_comes_while_it_is_being_made_invalid_waits(void **state)
{
    struct fixture *f = *state;
    struct two_puts t;
    struct uuid s = begin_two_full(f, true, &t);
    struct batch third = fixture_batch(s, f->volume->lease.epoch, 50, 1, 0);
    uint8_t byte[512];
    struct call putting;
    halt_reached(&invalid);
    call_begin(&putting, f, fixture_do_put, &third);
    int read = fixture_read(f, s, 0, sizeof byte, byte);
    (void)usleep(50000);
    const bool early = call_has_ended(&putting);
    halt_end(&invalid);
    assert_int_equal(call_wait(&t.calls[0]), 0);
    assert_int_equal(call_wait(&t.calls[1]), 0);
    assert_false(early);
    assert_int_equal(read, SNAP_EPOISONED);
    assert_int_equal(call_wait(&putting), SNAP_EINVALID);
    assert_int_equal(fixture_read(f, s, 0, sizeof byte, byte), SNAP_EINVALID);
}

/* By the folding of a newer one that was invalid. */
static void put__to_what_a_hand_down_makes_invalid_waits(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), s2 = create_small(f, "s2");
    f->volume->record.full_policy = FULL_INVALIDATE;
    struct batch full = fixture_batch(s2, fixture_lease(f), 0, 20, 0), b = full;
    struct call putting;
    assert_int_equal(call(f, fixture_do_put, &full), 0);
    assert_int_equal(fixture_look(f, s2).state, SNAPSHOT_INVALID);
    stop_invalidation(f, s1);
    assert_int_equal(fixture_delete(f, s2, uuid_make(), false), 0);
    halt_reached(&invalid);
    b.head = s1;
    call_begin(&putting, f, fixture_do_put, &b);
    (void)usleep(50000);
    const bool early = call_has_ended(&putting);
    halt_end(&invalid);
    assert_int_equal(call_wait(&putting), SNAP_EINVALID);
    assert_false(early);
}

/* … and not at all when it cannot be made so: who believed it would keep nothing any more for a
 * snapshot that comes back sound. */
static void expect_told_nothing(struct fixture *f, struct uuid s, struct two_puts *t)
{
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(call_wait(&t->calls[i]), 0);
        assert_int_not_equal(t->batches[i].failed, 0);
        assert_false(is_told(&t->batches[i], SNAP_EINVALID));
        assert_int_not_equal(t->batches[i].first_code, SNAP_EINVALID);
    }
    assert_int_equal(atomic_load(&header_fails), 0);
    atomic_store(&invalid_ino, 0);
    atomic_store(&slow_ino, 0);
    fixture_wait_state(f, s, SNAPSHOT_OK);
    struct batch again = fixture_batch(s, f->volume->lease.epoch, 0, 20, 0);
    assert_int_equal(call(f, fixture_do_put, &again), 0);
    assert_true(is_told(&again, SNAP_EINVALID));
    assert_int_equal(fixture_look(f, s).state, SNAPSHOT_INVALID);
}

static void put__two_that_are_full_do_not_hear_of_an_invalidation_that_failed(void **state)
{
    struct two_puts t;
    atomic_store(&header_fails, 1);
    struct uuid s = begin_two_full(*state, false, &t);
    expect_told_nothing(*state, s, &t);
}

static void put__two_that_are_full_at_once_do_not_hear_of_one_that_failed(void **state)
{
    struct two_puts t;
    atomic_store(&header_fails, 1);
    struct uuid s = begin_two_full(*state, true, &t);
    expect_told_nothing(*state, s, &t);
}

static void put__under_way_beside_a_full_one_does_not_hear_of_one_that_failed(void **state)
{
    struct two_puts t;
    atomic_store(&header_fails, 1);
    struct uuid s = begin_full_beside_one(*state, &t);
    expect_told_nothing(*state, s, &t);
}

/* One part of a put finds room, since all of it is there already, and the other does not. */
static void part_full(struct fixture *f, bool zeros_full)
{
    struct uuid s = create_small(f, "s1");
    uint64_t epoch = fixture_lease(f);
    fixture_put(f, s, epoch, 0, 2, 0);
    struct batch b = fixture_batch(s, epoch, zeros_full ? 0 : 10, zeros_full ? 2 : 20, 0);
    b.zero_count = zeros_full ? 20 : 2;
    for (uint32_t i = 0; i < b.zero_count; i++)
        b.zero_chunks[i] = i + (zeros_full ? 10 : 0);
    f->volume->record.full_policy = FULL_INVALIDATE;
    assert_int_equal(call(f, fixture_do_put, &b), 0);
    assert_int_equal(b.first_code, SNAP_EINVALID);
    assert_int_equal(b.existed, 2);
    assert_int_equal(b.added + b.failed, 20);
    assert_int_equal(fixture_look(f, s).state, SNAPSHOT_INVALID);
}

static void put__of_which_the_data_is_full_makes_it_invalid(void **state)
{
    part_full(*state, false);
}

static void put__of_which_the_zeros_are_full_makes_it_invalid(void **state)
{
    part_full(*state, true);
}

/* -- dependants of one place ---------------------------------------------------------------------
 */

static struct uuid clone_with(struct fixture *f, struct uuid source, const char *name,
                              uint64_t limit_bytes)
{
    struct clone_spec spec = {
        .id = uuid_make(), .source = source, .name = name, .limit_bytes = limit_bytes};
    assert_int_equal(call(f, fixture_do_clone, &spec), 0);
    return spec.id;
}

/* a, and two clones of it, of which one has room for little; whichever ends its put first. */
static void dependants__one_that_is_full_refuses_the_write(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s1"), a = fixture_clone(f, s, "a");
    assert_int_equal(fixture_fill(f, a, 0, SIZE, 1), 0);
    struct uuid small = clone_with(f, a, "small", SMALL), large = clone_with(f, a, "large", 0);
    const struct uuid last[2] = {small, large};
    for (unsigned i = 0; i < 2; i++) {
        uint64_t at = i * SIZE / 2;
        atomic_store(&slow_ino, disk_cow_ino(f, last[i]));
        assert_int_equal(fixture_fill(f, a, at, 16 * CHUNK_BYTES, 2), SNAP_ENOSPC);
        assert_int_equal(fixture_look(f, large).exceptions, (i + 1) * 16);
    }
    atomic_store(&slow_ino, 0);
    fixture_expect_byte(f, a, 0, SIZE, 1);
    fixture_expect_byte(f, small, 0, SIZE, 1);
    fixture_expect_byte(f, large, 0, SIZE, 1);
}

enum { EACH = 16 * CHUNK_BYTES };

/* Two writes in one turn, of EACH bytes from 0 and from EACH. */
struct two_writes {
    struct writing writes[2];
    struct call calls[2];
};

static void begin_two_writes(struct fixture *f, struct two_writes *t)
{
    static uint8_t data[EACH];
    memset(data, 2, sizeof data);
    for (unsigned i = 0; i < 2; i++)
        t->writes[i] = (struct writing){
            .write = {.op = VOLUME_WRITE, .offset_bytes = i * EACH, .len_bytes = EACH},
            .data = data};
    fixture_write_together(f, t->writes, t->calls, 2);
}

/* The policy is to invalidate, which two writes have begun and which does not end before
 * halt_end(). The snapshot that has no room for them. */
static struct uuid begin_invalidation(struct fixture *f, struct two_writes *t)
{
    f->volume->record.full_policy = FULL_INVALIDATE;
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    struct uuid s = create_small(f, "s1");
    stop_invalidation(f, s);
    begin_two_writes(f, t);
    halt_reached(&invalid);
    return s;
}

/* Neither overwrites anything before the one that is given up for them is so on the disk. */
static void dependants__writes_wait_until_the_full_one_is_invalid_for_good(void **state)
{
    struct fixture *f = *state;
    struct two_writes t;
    struct uuid s = begin_invalidation(f, &t);
    (void)usleep(100000); /* they have looked again, and more than once */
    const bool early[2] = {call_has_ended(&t.calls[0]), call_has_ended(&t.calls[1])};
    halt_end(&invalid);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(call_wait(&t.calls[i]), 0);
        assert_false(early[i]);
    }
    assert_int_equal(fixture_look(f, s).state, SNAPSHOT_INVALID);
    fixture_expect_byte(f, ITSELF, 0, 2 * EACH, 2);
    fixture_expect_byte(f, ITSELF, 2 * EACH, SIZE, 1);
}

/* … nor does one that comes when it is to be invalid, and is not so on the disk yet. */
static void dependants__write_that_comes_while_one_is_being_made_invalid_waits(void **state)
{
    struct fixture *f = *state;
    static uint8_t data[CHUNK_BYTES];
    struct two_writes t;
    struct writing g = {
        .write = {.op = VOLUME_WRITE, .offset_bytes = 2 * EACH, .len_bytes = sizeof data},
        .data = data};
    struct call later;
    (void)begin_invalidation(f, &t);
    call_begin(&later, f, fixture_do_write, &g);
    const bool waited = call_still_waits(&later);
    halt_end(&invalid);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(call_wait(&t.calls[i]), 0);
    assert_int_equal(call_wait(&later), 0);
    assert_true(waited);
}

static atomic_uint notices;

static void note(void *user, const struct volume *v, const char *snapshot, const char *what,
                 const struct err *err)
{
    (void)user;
    (void)v;
    (void)snapshot;
    (void)err;
    if (strcmp(what, "full, made invalid by its policy") == 0)
        atomic_fetch_add(&notices, 1);
}

/* Both find no room in one turn; one of them gives it up. */
static void dependants__full_one_is_given_up_once(void **state)
{
    struct fixture *f = *state;
    struct two_writes t;
    struct uuid s = create_small(f, "s1");
    assert_int_equal(fixture_fill(f, ITSELF, SIZE / 2, SIZE / 2, 1), SNAP_ENOSPC);
    f->volume->record.full_policy = FULL_INVALIDATE;
    f->env.notice = note;
    atomic_store(&notices, 0);
    begin_two_writes(f, &t);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(call_wait(&t.calls[i]), 0);
    assert_int_equal(atomic_load(&notices), 1);
    assert_int_equal(fixture_look(f, s).state, SNAPSHOT_INVALID);
    f->env.notice = NULL;
}

static void do_invalidate(struct call *c)
{
    const struct uuid *id = c->arg;
    struct snapshot *s = volume_snapshot_find(c->f->volume, id);
    snapshot_kick(s);
    cow_store_invalidate(s->store, call_end, c);
}

/* As when what it reads through is deleted by force. */
static void clone__write_of_one_that_is_being_made_invalid_waits_and_is_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t data[CHUNK_BYTES] = {2};
    struct uuid s = fixture_create(f, "s1"), a = fixture_clone(f, s, "a");
    struct writing g = {.write = {.node = a, .op = VOLUME_WRITE, .len_bytes = sizeof data},
                        .data = data};
    struct call invalidating, writing;
    assert_int_equal(fixture_fill(f, a, 0, CHUNK_BYTES, 1), 0); /* from now on in place */
    stop_invalidation(f, a);
    call_begin(&invalidating, f, do_invalidate, &a);
    halt_reached(&invalid);
    call_begin(&writing, f, fixture_do_write, &g);
    (void)usleep(100000);
    const bool early = call_has_ended(&writing);
    halt_end(&invalid);
    assert_int_equal(call_wait(&invalidating), 0);
    assert_int_equal(call_wait(&writing), SNAP_EINVALID);
    assert_false(early);
}

int main(void)
{
#define REMOTE(name) cmocka_unit_test_setup_teardown(name, setup, fixture_teardown)
#define HOSTED(name) cmocka_unit_test_setup_teardown(name, setup_hosted, fixture_teardown)
    const struct CMUnitTest tests[] = {
        REMOTE(put__two_that_are_full_hear_of_it_once_it_is_invalid_for_good),
        REMOTE(put__two_that_are_full_at_once_hear_of_it_once_it_is_invalid_for_good),
        REMOTE(put__that_comes_while_it_is_being_made_invalid_waits),
        REMOTE(put__to_what_a_hand_down_makes_invalid_waits),
        REMOTE(put__two_that_are_full_do_not_hear_of_an_invalidation_that_failed),
        REMOTE(put__two_that_are_full_at_once_do_not_hear_of_one_that_failed),
        REMOTE(put__under_way_beside_a_full_one_hears_of_it_once_it_is_invalid_for_good),
        REMOTE(put__under_way_beside_a_full_one_does_not_hear_of_one_that_failed),
        REMOTE(put__of_which_the_data_is_full_makes_it_invalid),
        REMOTE(put__of_which_the_zeros_are_full_makes_it_invalid),
        HOSTED(dependants__one_that_is_full_refuses_the_write),
        HOSTED(dependants__writes_wait_until_the_full_one_is_invalid_for_good),
        HOSTED(dependants__write_that_comes_while_one_is_being_made_invalid_waits),
        HOSTED(dependants__full_one_is_given_up_once),
        HOSTED(clone__write_of_one_that_is_being_made_invalid_waits_and_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
