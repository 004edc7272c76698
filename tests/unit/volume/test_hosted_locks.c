/* SPDX-License-Identifier: Apache-2.0 */
/* Hosted volumes: who waits for whom. Writes of the same chunks, bursts, snapshots that read what
 * is written, the gate, few buffers. */
#include "tests/unit/volume/volume_fixture.h"

enum { SIZE = CHUNKS * CHUNK_BYTES };

static const struct uuid itself; /* nil: the volume */

/* -- together -----------------------------------------------------------------------------------
 */

static void write__overlapping_ones_never_mix_in_a_chunk(void **state)
{
    struct fixture *f = *state;
    enum { WRITERS = 16 };
    static uint8_t data[WRITERS][4 * CHUNK_BYTES], got[SIZE];
    struct writing g[WRITERS];
    struct call calls[WRITERS];
    struct uuid s1 = fixture_create(f, "s1"), c = fixture_clone(f, s1, "c");
    const struct uuid nodes[2] = {itself, c};
    for (unsigned n = 0; n < 2; n++) {
        for (unsigned i = 0; i < WRITERS; i++) {
            memset(data[i], (int)i + 1, sizeof data[i]);
            g[i] = (struct writing){.write = {.node = nodes[n],
                                              .op = VOLUME_WRITE,
                                              .offset_bytes = (uint64_t)(i % 4) * CHUNK_BYTES,
                                              .len_bytes = sizeof data[i]},
                                    .data = data[i]};
            call_begin(&calls[i], f, fixture_do_write, &g[i]);
        }
        for (unsigned i = 0; i < WRITERS; i++)
            assert_int_equal(call_wait(&calls[i]), 0);
        assert_int_equal(fixture_read(f, nodes[n], 0, 7 * CHUNK_BYTES, got), 0);
        for (unsigned i = 0; i < 7 * CHUNK_BYTES; i++)
            if (got[i] == 0 || got[i] != got[i / CHUNK_BYTES * CHUNK_BYTES])
                fail_msg("chunk %u is of two writes", i / CHUNK_BYTES);
    }
    fixture_expect_byte(f, s1, 0, SIZE, 0);
}

struct burst {
    struct writing *writes;
    struct call *calls;
    unsigned count;
};

static void do_burst(struct call *c)
{
    const struct burst *b = c->arg;
    for (unsigned i = 0; i < b->count; i++) {
        b->calls[i] = (struct call){.f = c->f, .arg = &b->writes[i]};
        sem_init(&b->calls[i].done, 0, 0);
        fixture_do_write(&b->calls[i]);
    }
    call_end(c, 0, NULL);
}

/* Each its own bytes of the same chunks, begun in one turn. */
static void write__parts_of_a_chunk_do_not_undo_one_another(void **state)
{
    struct fixture *f = *state;
    enum { WRITERS = 64, LEN = 100 };
    static uint8_t data[WRITERS][LEN];
    struct writing g[WRITERS];
    struct call calls[WRITERS];
    struct burst b = {.writes = g, .calls = calls, .count = WRITERS};
    struct uuid s1 = fixture_create(f, "s1"), c = fixture_clone(f, s1, "c");
    const struct uuid nodes[2] = {itself, c};
    for (unsigned n = 0; n < 4; n++) { /* first overwrites, then again */
        for (unsigned i = 0; i < WRITERS; i++) {
            memset(data[i], (int)(i + n + 1), LEN);
            g[i] = (struct writing){.write = {.node = nodes[n % 2],
                                              .op = VOLUME_WRITE,
                                              .offset_bytes = (uint64_t)i * LEN,
                                              .len_bytes = LEN},
                                    .data = data[i]};
        }
        assert_int_equal(call(f, do_burst, &b), 0);
        for (unsigned i = 0; i < WRITERS; i++)
            assert_int_equal(call_wait(&calls[i]), 0);
        for (unsigned i = 0; i < WRITERS; i++)
            fixture_expect_byte(f, nodes[n % 2], (uint64_t)i * LEN, (uint64_t)(i + 1) * LEN,
                                (int)(i + n + 1));
    }
    fixture_expect_byte(f, s1, 0, SIZE, 0);
}

/* What the parent's write preserves for the clone comes first, by a hair. */
static void clone__write_after_its_parents_is_not_lost(void **state)
{
    struct fixture *f = *state;
    static uint8_t ones[CHUNK_BYTES], twos[CHUNK_BYTES];
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a"),
                b = fixture_clone(f, a, "b");
    memset(ones, 1, sizeof ones);
    memset(twos, 2, sizeof twos);
    for (unsigned i = 0; i < CHUNKS; i++) {
        struct writing g[2] = {
            {.write = {.node = a, .op = VOLUME_WRITE, .len_bytes = CHUNK_BYTES}, .data = ones},
            {.write = {.node = b, .op = VOLUME_WRITE, .len_bytes = CHUNK_BYTES}, .data = twos}};
        struct call calls[2];
        for (unsigned n = 0; n < 2; n++) {
            g[n].write.offset_bytes = (uint64_t)i * CHUNK_BYTES;
            call_begin(&calls[n], f, fixture_do_write, &g[n]);
            (void)usleep(i * 20);
        }
        assert_int_equal(call_wait(&calls[0]), 0);
        assert_int_equal(call_wait(&calls[1]), 0);
    }
    fixture_expect_byte(f, a, 0, SIZE, 1);
    fixture_expect_byte(f, b, 0, SIZE, 2);
    fixture_expect_byte(f, s1, 0, SIZE, 0);
}

struct commits {
    struct uuid id;
    uint64_t commits, added, data_writes;
};

static void do_commits(struct call *c)
{
    struct commits *n = c->arg;
    struct cow_usage u;
    cow_store_usage(volume_snapshot_find(c->f->volume, &n->id)->store, &u);
    n->commits = u.commits;
    n->added = u.chunks_added;
    n->data_writes = u.data_writes;
    call_end(c, 0, NULL);
}

static void write__burst_is_put_at_once(void **state)
{
    struct fixture *f = *state;
    struct writing writes[CHUNKS];
    struct call calls[CHUNKS];
    uint8_t data[CHUNK_BYTES] = {7};
    struct burst b = {.writes = writes, .calls = calls, .count = CHUNKS};
    f->env.cow_grow_step_bytes = 4 << 20; /* growing in between would part it */
    struct commits n = {.id = fixture_create(f, "s1")};
    for (unsigned i = 0; i < CHUNKS; i++)
        writes[i] = (struct writing){.write = {.op = VOLUME_WRITE,
                                               .offset_bytes = (uint64_t)i * CHUNK_BYTES,
                                               .len_bytes = CHUNK_BYTES},
                                     .data = data};
    assert_int_equal(call(f, do_burst, &b), 0);
    for (unsigned i = 0; i < CHUNKS; i++)
        assert_int_equal(call_wait(&calls[i]), 0);
    assert_int_equal(call(f, do_commits, &n), 0);
    assert_int_equal(n.added, CHUNKS);
    assert_in_range(n.commits, 1, 3); /* the store's own pipeline has halves */
    assert_in_range(n.data_writes, 1, 2);
}

/* -- writers and readers ------------------------------------------------------------------- */

struct lock {
    struct range range;
    bool shared, granted;
    bool whole, writes; /* all of it; of the origin's writes and not of its reads */
    struct uuid clone;  /* or of a clone's */
};

static void lock_granted(struct range *r)
{
    struct lock *l = r->user;
    l->granted = true;
}

static struct range_lock *lock_of(const struct fixture *f, const struct lock *l)
{
    struct origin *o = f->volume->origin;
    if (!uuid_is_zero(&l->clone))
        return volume_snapshot_find(f->volume, &l->clone)->ranges;
    return l->writes ? &o->writes : &o->reads;
}

static void do_lock(struct call *c)
{
    struct lock *l = c->arg;
    l->range = (struct range){.first = l->whole ? 0 : 1,
                              .last = l->whole ? UINT64_MAX : 1,
                              .shared = l->shared,
                              .granted = lock_granted,
                              .user = l};
    range_take(lock_of(c->f, l), &l->range);
    call_end(c, l->granted ? 0 : SNAP_EBUSY, NULL);
}

static void do_unlock(struct call *c)
{
    struct lock *l = c->arg;
    range_give(lock_of(c->f, l), &l->range);
    call_end(c, 0, NULL);
}

/* Has not ended after a while? */
static bool still_waits(struct call *c)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 100000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    return sem_timedwait(&c->done, &until) < 0;
}

static void write__waits_for_a_snapshot_that_is_reading_the_origin(void **state)
{
    struct fixture *f = *state;
    uint8_t data[CHUNK_BYTES] = {7};
    struct uuid s1 = fixture_create(f, "s1");
    struct lock l = {.shared = true};
    struct writing g = {
        .write = {.op = VOLUME_WRITE, .offset_bytes = CHUNK_BYTES, .len_bytes = CHUNK_BYTES},
        .data = data};
    struct call c;
    assert_int_equal(call(f, do_lock, &l), 0);
    call_begin(&c, f, fixture_do_write, &g);
    assert_true(still_waits(&c));
    fixture_expect_byte(f, itself, 0, SIZE, 0);
    for (int i = 0; i < 2000 && fixture_look(f, s1).exceptions == 0; i++)
        (void)usleep(2000);
    assert_int_equal(fixture_look(f, s1).exceptions, 1); /* what it needs is safe by then */
    assert_int_equal(fixture_fill(f, itself, 2 * CHUNK_BYTES, 1, 1), 0); /* others go on */
    assert_int_equal(call(f, do_unlock, &l), 0);
    assert_int_equal(call_wait(&c), 0);
    fixture_expect_byte(f, itself, CHUNK_BYTES, CHUNK_BYTES + 1, 7);
}

static void read__of_a_snapshot_waits_for_the_writer_of_the_chunk(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct lock l = {.shared = false};
    struct reading *g = calloc(1, sizeof *g);
    g->snapshot = s1;
    g->len = SIZE;
    struct call c;
    assert_int_equal(call(f, do_lock, &l), 0);
    call_begin(&c, f, fixture_do_read, g);
    assert_true(still_waits(&c));
    fixture_expect_byte(f, itself, 0, SIZE, 0); /* the volume itself waits for nobody */
    assert_int_equal(call(f, do_unlock, &l), 0);
    assert_int_equal(call_wait(&c), 0);
    free(g);
}

static void read__snapshot_keeps_its_content_while_all_is_overwritten(void **state)
{
    struct fixture *f = *state;
    struct uuid s = fixture_create(f, "s0");
    static uint8_t data[SIZE];
    char name[16];
    for (int round = 1; round < 40; round++) {
        struct writing g[8];
        struct call w[8], r[8];
        struct reading *reads = calloc(8, sizeof *reads);
        memset(data, round, sizeof data);
        for (unsigned i = 0; i < 8; i++) {
            reads[i].snapshot = s;
            reads[i].offset = i * (SIZE / 8);
            reads[i].len = SIZE / 8;
            g[i] = (struct writing){.write = {.op = VOLUME_WRITE,
                                              .offset_bytes = i * (SIZE / 8),
                                              .len_bytes = SIZE / 8},
                                    .data = data};
            call_begin(&w[i], f, fixture_do_write, &g[i]);
            call_begin(&r[i], f, fixture_do_read, &reads[i]);
        }
        for (unsigned i = 0; i < 8; i++) {
            assert_int_equal(call_wait(&w[i]), 0);
            assert_int_equal(call_wait(&r[i]), 0);
            for (unsigned b = 0; b < SIZE / 8; b++)
                assert_int_equal(reads[i].bytes[b], round - 1);
        }
        free(reads);
        (void)snprintf(name, sizeof name, "s%d", round);
        s = fixture_create(f, name);
    }
}

/* -- writers, and what takes nodes away ---------------------------------------------------- */

/* A write has chosen the snapshot for what it overwrites: it ends before the scan begins. */
static void hand_down__waits_for_the_writes_that_may_put_into_the_hidden_one(void **state)
{
    struct fixture *f = *state;
    struct lock l = {.writes = true};
    struct uuid s1 = fixture_create(f, "s1"), s2 = fixture_create(f, "s2");
    assert_int_equal(fixture_fill(f, itself, 0, SIZE, 1), 0);
    assert_int_equal(call(f, do_lock, &l), 0);
    assert_int_equal(fixture_delete(f, s2, uuid_make(), false), 0);
    (void)usleep(100000);
    assert_int_equal(fixture_look(f, s1).exceptions, 0);
    assert_int_equal(fixture_look(f, s1).nodes, 2);
    assert_int_equal(call(f, do_unlock, &l), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, s1).exceptions, CHUNKS);
    fixture_expect_byte(f, s1, 0, SIZE, 0);
}

/* … and so it does for those of a clone that the hidden one reads through. */
static void hand_down__of_a_clones_clone_waits_for_the_clones_writes(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a"),
                b = fixture_clone(f, a, "b");
    struct lock l = {.clone = a, .whole = true};
    assert_int_equal(fixture_fill(f, b, 0, SIZE, 1), 0);
    struct uuid c = fixture_clone(f, b, "c");
    assert_int_equal(call(f, do_lock, &l), 0);
    assert_int_equal(fixture_delete(f, b, uuid_make(), false), 0);
    (void)usleep(100000);
    assert_int_equal(fixture_look(f, c).exceptions, 0);
    assert_true(fixture_look(f, b).hidden);
    assert_int_equal(call(f, do_unlock, &l), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, c).exceptions, CHUNKS);
    fixture_expect_byte(f, c, 0, SIZE, 1);
}

/* Parts of chunks are written in the clone while these chunks are brought to it. */
static void hand_down__beside_writes_of_the_clone_it_goes_to(void **state)
{
    struct fixture *f = *state;
    enum { LEN = 100 };
    uint8_t data[LEN];
    struct writing g[CHUNKS];
    struct call calls[CHUNKS], deleting;
    struct burst burst = {.writes = g, .calls = calls, .count = CHUNKS};
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a");
    assert_int_equal(fixture_fill(f, a, 0, SIZE, 1), 0);
    struct uuid b = fixture_clone(f, a, "b");
    struct snapshot_delete_spec spec = {.id = a, .key = uuid_make()};
    memset(data, 2, sizeof data);
    for (unsigned i = 0; i < CHUNKS; i++)
        g[i] = (struct writing){.write = {.node = b,
                                          .op = VOLUME_WRITE,
                                          .offset_bytes = (uint64_t)i * CHUNK_BYTES + 50,
                                          .len_bytes = LEN},
                                .data = data};
    call_begin(&deleting, f, fixture_do_delete, &spec);
    for (unsigned i = 0; i < 2000 && !fixture_look(f, a).hidden && fixture_look(f, a).there; i++)
        ;
    assert_int_equal(call(f, do_burst, &burst), 0);
    assert_int_equal(call_wait(&deleting), 0);
    for (unsigned i = 0; i < CHUNKS; i++)
        assert_int_equal(call_wait(&calls[i]), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, b).exceptions, CHUNKS);
    for (unsigned i = 0; i < CHUNKS; i++) {
        uint64_t at = (uint64_t)i * CHUNK_BYTES;
        fixture_expect_byte(f, b, at, at + 50, 1);
        fixture_expect_byte(f, b, at + 50, at + 50 + LEN, 2);
        fixture_expect_byte(f, b, at + 50 + LEN, at + CHUNK_BYTES, 1);
    }
}

static void delete__of_a_clone_waits_for_its_writes(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a");
    struct lock l = {.clone = a};
    struct snapshot_delete_spec spec = {.id = a, .key = uuid_make()};
    struct call c;
    assert_int_equal(call(f, do_lock, &l), 0);
    call_begin(&c, f, fixture_do_delete, &spec);
    assert_true(still_waits(&c));
    assert_false(fixture_look(f, a).hidden);
    assert_int_equal(fixture_fill(f, a, 0, 1, 1), SNAP_ENOENT); /* no later one comes in */
    assert_int_equal(call(f, do_unlock, &l), 0);
    assert_int_equal(call_wait(&c), 0);
    fixture_settle(f);
    assert_false(fixture_look(f, a).there);
}

static void do_set_busy(struct call *c)
{
    struct snapshot *s = volume_snapshot_find(c->f->volume, c->arg);
    s->busy = !s->busy;
    call_end(c, 0, NULL);
}

/* What the hidden one holds is the older one's content, also where its neighbours are preserved. */
static void write__puts_nothing_over_what_is_yet_to_be_handed_down(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fixture_fill(f, itself, 0, SIZE, 1), 0);
    struct uuid s1 = fixture_create(f, "s1"), s2 = fixture_create(f, "s2");
    assert_int_equal(fixture_fill(f, itself, CHUNK_BYTES, CHUNK_BYTES, 2), 0);
    assert_int_equal(call(f, do_set_busy, &s1), 0); /* the hand-down waits */
    assert_int_equal(fixture_delete(f, s2, uuid_make(), false), 0);
    assert_int_equal(fixture_fill(f, itself, 0, 3 * CHUNK_BYTES, 3), 0);
    assert_int_equal(fixture_look(f, s1).exceptions, 2);
    fixture_expect_byte(f, s1, 0, SIZE, 1);
    assert_int_equal(call(f, do_set_busy, &s1), 0);
    fixture_reopen(f);
    fixture_settle(f);
    fixture_expect_byte(f, s1, 0, SIZE, 1);
}

/* What it preserves it reads through its source, which nobody may change meanwhile. */
static void write__of_a_clone_preserves_what_its_source_holds_still(void **state)
{
    struct fixture *f = *state;
    uint8_t data[CHUNK_BYTES] = {7};
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a"),
                b = fixture_clone(f, a, "b"), d = fixture_clone(f, b, "d");
    struct lock l = {.clone = a};
    struct writing g = {.write = {.node = b,
                                  .op = VOLUME_WRITE,
                                  .offset_bytes = CHUNK_BYTES,
                                  .len_bytes = CHUNK_BYTES},
                        .data = data};
    struct call c;
    assert_int_equal(call(f, do_lock, &l), 0);
    call_begin(&c, f, fixture_do_write, &g);
    assert_true(still_waits(&c));
    assert_int_equal(fixture_look(f, d).exceptions, 0);
    assert_int_equal(call(f, do_unlock, &l), 0);
    assert_int_equal(call_wait(&c), 0);
    assert_int_equal(fixture_look(f, d).exceptions, 1);
    fixture_expect_byte(f, d, 0, SIZE, 0);
}

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
    assert_true(still_waits(&c));
    fixture_expect_byte(f, itself, 0, SIZE, 0);
    assert_int_equal(call(f, do_open, NULL), 0);
    assert_int_equal(call_wait(&c), 0);
    fixture_expect_byte(f, itself, 0, 1, 7);
}

static void gate__is_closed_when_writes_under_way_have_ended(void **state)
{
    struct fixture *f = *state;
    uint8_t data[10] = {7};
    struct writing g = {
        .write = {.op = VOLUME_WRITE, .offset_bytes = CHUNK_BYTES, .len_bytes = sizeof data},
        .data = data};
    struct lock l = {.shared = true};
    struct gate gate;
    struct call w, c;
    assert_int_equal(call(f, do_lock, &l), 0);
    call_begin(&w, f, fixture_do_write, &g);
    call_begin(&c, f, do_close, &gate);
    assert_true(still_waits(&c));
    assert_int_equal(call(f, do_unlock, &l), 0);
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
    fixture_expect_byte(f, itself, 0, SIZE, 0);
}

/* One after the other in one turn: the write is past the gate when the check closes it. */
struct with_check {
    struct volume_check check;
    struct writing write;
    struct call writing;
};

static void checked(struct volume_check *c, int code, const struct err *err)
{
    free(c->faults);
    call_end(c->user, code, err);
}

static void do_write_and_check(struct call *c)
{
    struct with_check *w = c->arg;
    fixture_do_write(&w->writing);
    w->check.done = checked;
    w->check.user = c;
    volume_check_start(c->f->volume, &w->check);
}

static void check__waits_for_writes_past_the_gate_and_they_not_for_it(void **state)
{
    struct fixture *f = *state;
    uint8_t data[CHUNK_BYTES] = {7};
    struct with_check w = {
        .check = {.snapshot = fixture_create(f, "s1")},
        .write = {.write = {.op = VOLUME_WRITE, .len_bytes = sizeof data}, .data = data}};
    w.writing = (struct call){.f = f, .arg = &w.write};
    sem_init(&w.writing.done, 0, 0);
    assert_int_equal(call(f, do_write_and_check, &w), 0);
    assert_int_equal(call_wait(&w.writing), 0);
    assert_true(w.check.sound);
    assert_int_equal(w.check.exceptions, 1);
    fixture_expect_byte(f, w.check.snapshot, 0, SIZE, 0);
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
        assert_true(still_waits(&w));
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

/* -- little memory ------------------------------------------------------------------------- */

static int setup_poor(void **state)
{
    return fixture_setup_as(
        state, &(struct fixture_spec){.kind = VOLUME_HOSTED, .answer_bytes_max = 64 << 10});
}

static void write__few_buffers_are_waited_for_by_all(void **state)
{
    struct fixture *f = *state;
    enum { WRITERS = 48 };
    static uint8_t data[8 * CHUNK_BYTES];
    struct writing g[WRITERS];
    struct call calls[WRITERS];
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a"),
                b = fixture_clone(f, a, "b");
    const struct uuid nodes[3] = {itself, a, b};
    memset(data, 5, sizeof data);
    for (unsigned i = 0; i < WRITERS; i++) {
        g[i] = (struct writing){.write = {.node = nodes[i % 3],
                                          .op = VOLUME_WRITE,
                                          .offset_bytes = (i / 3) * 2048 + 1,
                                          .len_bytes = sizeof data - 10},
                                .data = data};
        call_begin(&calls[i], f, fixture_do_write, &g[i]);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        assert_int_equal(call_wait(&calls[i]), 0);
    for (unsigned n = 0; n < 3; n++) {
        uint8_t got[CHUNK_BYTES];
        assert_int_equal(fixture_read(f, nodes[n], 1, sizeof got, got), 0);
        for (unsigned i = 0; i < sizeof got; i++)
            assert_int_equal(got[i], 5);
    }
}

int main(void)
{
#define HOSTED(test) cmocka_unit_test_setup_teardown(test, fixture_setup_hosted, fixture_teardown)
    const struct CMUnitTest tests[] = {
        HOSTED(write__overlapping_ones_never_mix_in_a_chunk),
        HOSTED(write__parts_of_a_chunk_do_not_undo_one_another),
        HOSTED(clone__write_after_its_parents_is_not_lost),
        HOSTED(write__burst_is_put_at_once),
        HOSTED(write__waits_for_a_snapshot_that_is_reading_the_origin),
        HOSTED(read__of_a_snapshot_waits_for_the_writer_of_the_chunk),
        HOSTED(read__snapshot_keeps_its_content_while_all_is_overwritten),
        HOSTED(hand_down__waits_for_the_writes_that_may_put_into_the_hidden_one),
        HOSTED(hand_down__of_a_clones_clone_waits_for_the_clones_writes),
        HOSTED(hand_down__beside_writes_of_the_clone_it_goes_to),
        HOSTED(delete__of_a_clone_waits_for_its_writes),
        HOSTED(write__puts_nothing_over_what_is_yet_to_be_handed_down),
        HOSTED(write__of_a_clone_preserves_what_its_source_holds_still),
        HOSTED(gate__holds_writes_until_it_is_open_as_often_as_closed),
        HOSTED(gate__is_closed_when_writes_under_way_have_ended),
        HOSTED(gate__held_writes_are_refused_when_the_volume_goes),
        HOSTED(check__waits_for_writes_past_the_gate_and_they_not_for_it),
        HOSTED(group__member_is_held_until_it_is_kept_or_undone),
        cmocka_unit_test_setup_teardown(write__few_buffers_are_waited_for_by_all, setup_poor,
                                        fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
