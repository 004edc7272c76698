/* SPDX-License-Identifier: Apache-2.0 */
/* Rolling a hosted volume back: what it reads as at every moment, what the others keep. */
#include "tests/lib/seed.h"
#include "tests/unit/volume/tree_fixture.h"

/* s1: all 1; s2: 0-99 are 2; now: 50-149 are 3. */
struct three {
    struct uuid s1, s2;
    uint8_t at1[SECTORS], at2[SECTORS], now[SECTORS];
};

static void make_three(struct fixture *f, struct three *t)
{
    tree_write(f, ITSELF, 0, SECTORS, 1);
    tree_fill(t->at1, 0, SECTORS, 1);
    t->s1 = fixture_create(f, "s1");
    tree_write(f, ITSELF, 0, 100, 2);
    memcpy(t->at2, t->at1, SECTORS);
    tree_fill(t->at2, 0, 100, 2);
    t->s2 = fixture_create(f, "s2");
    tree_write(f, ITSELF, 50, 100, 3);
    memcpy(t->now, t->at2, SECTORS);
    tree_fill(t->now, 50, 100, 3);
}

static void expect_three(struct fixture *f, const struct three *t, const uint8_t *now)
{
    tree_expect(f, t->s1, t->at1, "s1");
    tree_expect(f, t->s2, t->at2, "s2");
    tree_expect(f, ITSELF, now, "volume");
}

static void rollback__returns_and_the_snapshots_keep_their_content(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    struct uuid job = tree_rollback(f, t.s1, false, false);
    expect_three(f, &t, t.at1);
    assert_int_equal(tree_job_end(f, job), JOB_DONE);
    tree_settle(f, 2);
    expect_three(f, &t, t.at1);
    fixture_reopen(f);
    expect_three(f, &t, t.at1);
    tree_write(f, ITSELF, 0, 20, 9);
    memcpy(t.now, t.at1, SECTORS);
    tree_fill(t.now, 0, 20, 9);
    expect_three(f, &t, t.now);
}

static void rollback__to_the_newest_and_forth_again(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    assert_int_equal(tree_job_end(f, tree_rollback(f, t.s1, false, false)), JOB_DONE);
    assert_int_equal(tree_job_end(f, tree_rollback(f, t.s2, false, false)), JOB_DONE);
    tree_settle(f, 2);
    expect_three(f, &t, t.at2);
}

/* Hidden, or folded already. */
static void expect_gone(struct fixture *f, struct uuid id)
{
    struct look l = fixture_look(f, id);
    assert_true(!l.there || l.hidden);
}

static void rollback__merge_consumes_and_drop_newer_deletes(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    struct uuid c = fixture_clone(f, t.s2, "c1");
    struct uuid job = tree_rollback(f, t.s2, true, false);
    assert_int_equal(tree_job_end(f, job), JOB_DONE);
    tree_expect(f, ITSELF, t.at2, "volume");
    tree_expect(f, t.s1, t.at1, "s1");
    tree_expect(f, c, t.at2, "c1");
    expect_gone(f, t.s2);
    struct uuid s3 = fixture_create(f, "s3");
    tree_write(f, ITSELF, 7, 300, 5);
    job = tree_rollback(f, t.s1, false, true);
    assert_int_equal(tree_job_end(f, job), JOB_DONE);
    tree_expect(f, ITSELF, t.at1, "volume");
    tree_expect(f, t.s1, t.at1, "s1");
    tree_expect(f, c, t.at2, "c1");
    expect_gone(f, s3);
    struct make again = {.id = s3, .name = "s3"};
    assert_int_equal(call(f, fixture_do_create, &again), SNAP_ESTALE);
    tree_delete(f, c);
    tree_settle(f, 1);
    tree_expect(f, t.s1, t.at1, "s1, alone");
}

static void rollback__the_same_job_again_is_not_done_twice(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    struct rollback_spec spec = {.job = uuid_make(), .snapshot = t.s1};
    assert_int_equal(call(f, tree_do_rollback, &spec), 0);
    assert_int_equal(call(f, tree_do_rollback, &spec), 0);
    assert_int_equal(tree_job_end(f, spec.job), JOB_DONE);
    tree_write(f, ITSELF, 0, 10, 9);
    tree_fill(t.at1, 0, 10, 9);
    fixture_reopen(f);
    assert_int_equal(call(f, tree_do_rollback, &spec), 0);
    assert_int_equal(tree_job_end(f, spec.job), JOB_DONE);
    tree_expect(f, ITSELF, t.at1, "volume");
}

/* -- while it is under way --------------------------------------------------------------------- */

/* Several steps in one turn of the shard: nothing of the job is done between them. */
struct steps {
    struct call *calls;
    unsigned count;
};

static void do_steps(struct call *c)
{
    const struct steps *s = c->arg;
    for (unsigned i = 0; i < s->count; i++)
        s->calls[i].fn(&s->calls[i]);
    call_end(c, 0, NULL);
}

static void together(struct fixture *f, struct call *calls, unsigned count)
{
    struct steps s = {.calls = calls, .count = count};
    for (unsigned i = 0; i < count; i++) {
        calls[i].f = f;
        sem_init(&calls[i].done, 0, 0);
    }
    assert_int_equal(call(f, do_steps, &s), 0);
}

/* Begun, and in the turn in which that is told, stop it in its tracks. */
struct begin {
    struct rollback_spec spec;
    struct call *call;
    bool cancel;
    struct call closing; /* of the volume, begun at once */
    bool close;
    bool starve; /* its owner has no room any more */
};

static _Atomic int64_t space_used;
static _Atomic uint64_t space_max;

static _Atomic int64_t *space_of(void *user, const char *owner)
{
    (void)user;
    (void)owner;
    return &space_used;
}

static void begun(void *user, int code, const struct err *err)
{
    struct begin *b = user;
    struct volume *v = b->call->f->volume;
    const bool close = code == 0 && b->close; /* after call_end() b may be gone */
    if (b->starve)
        atomic_store(&space_max, 1);
    if (code == 0 && b->cancel)
        volume_job_cancel(v, &b->spec.job, call_end, b->call);
    else
        call_end(b->call, code, err);
    if (close)
        volume_close(v, call_end, &b->closing);
}

static void do_begin(struct call *c)
{
    struct begin *b = c->arg;
    b->call = c;
    volume_rollback_start(c->f->volume, &b->spec, begun, b);
}

static void rollback__cancelled_is_as_before(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}, .cancel = true};
    assert_int_equal(call(f, do_begin, &b), 0);
    expect_three(f, &t, t.now);
    assert_int_equal(tree_job_end(f, b.spec.job), JOB_CANCELLED);
    tree_settle(f, 2);
    expect_three(f, &t, t.now);
    fixture_reopen(f);
    expect_three(f, &t, t.now);
    assert_int_equal(call(f, tree_do_cancel, &b.spec.job), SNAP_EBUSY);
}

/* What was answered before the rollback began is there again after it was cancelled. */
static void rollback__cancelled_loses_no_write_that_was_answered(void **state)
{
    enum { WRITES = 8 };
    struct fixture *f = *state;
    struct three t;
    static uint8_t data[WRITES][20 * SECTOR_BYTES];
    struct writing w[WRITES];
    struct call calls[WRITES + 1];
    make_three(f, &t);
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}, .cancel = true};
    calls[0] = (struct call){.fn = do_begin, .arg = &b};
    for (unsigned i = 0; i < WRITES; i++) {
        memset(data[i], (int)(10 + i), sizeof data[i]);
        w[i] = (struct writing){.write = {.op = VOLUME_WRITE,
                                          .offset_bytes = (uint64_t)i * 40 * SECTOR_BYTES,
                                          .len_bytes = sizeof data[i]},
                                .data = data[i]};
        calls[i + 1] = (struct call){.fn = fixture_do_write, .arg = &w[i]};
    }
    together(f, calls, WRITES / 2);
    for (unsigned i = WRITES / 2; i <= WRITES; i++) {
        calls[i].f = f;
        call_begin(&calls[i], f, fixture_do_write, &w[i - 1]);
        (void)usleep(500);
    }
    for (unsigned i = 0; i < WRITES; i++) {
        int rc = call_wait(&calls[i + 1]);
        assert_true(rc == 0 || rc == SNAP_EBUSY);
        if (rc == 0)
            tree_fill(t.now, (uint64_t)i * 40, 20, (uint8_t)(10 + i));
    }
    assert_int_equal(call_wait(&calls[0]), 0);
    assert_int_equal(tree_job_end(f, b.spec.job), JOB_CANCELLED);
    expect_three(f, &t, t.now);
}

static void rollback__goes_on_after_opening_again(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t.s1}, .close = true};
    sem_init(&b.closing.done, 0, 0);
    assert_int_equal(call(f, do_begin, &b), 0);
    assert_int_equal(call_wait(&b.closing), 0);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    expect_three(f, &t, t.at1);
    assert_int_equal(tree_job_end(f, b.spec.job), JOB_DONE);
    expect_three(f, &t, t.at1);
}

/* -- space ---------------------------------------------------------------------------------------
 */

static int no_space(void *user, const char *dir, uint64_t *ret, struct err *reterr)
{
    (void)user;
    (void)dir;
    (void)reterr;
    *ret = 10 * CHUNK_BYTES;
    return 0;
}

static void rollback__without_room_for_the_undo_is_refused(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    struct volume_storage storage = volume_storage_files;
    storage.free_bytes = no_space;
    f->env.storage = &storage;
    struct rollback_spec spec = {.job = uuid_make(), .snapshot = t.s1};
    assert_int_equal(call(f, tree_do_rollback, &spec), SNAP_ENOSPC);
    assert_int_equal(tree_nodes(f), 2);
    f->env.storage = &volume_storage_files;
    tree_write(f, ITSELF, 0, 1, 9);
    tree_fill(t.now, 0, 1, 9);
    expect_three(f, &t, t.now);
}

static void do_start(struct call *c)
{
    hand_down_start(c->f->volume);
    call_end(c, 0, NULL);
}

static struct volume_job_status until_it_waits(struct fixture *f, struct uuid job)
{
    struct showing g = {.job = job};
    for (int i = 0; i < 2000; i++) {
        assert_int_equal(call(f, tree_do_show, &g), 0);
        if (g.status.state == JOB_WAITING)
            return g.status;
        (void)usleep(1000);
    }
    fail_msg("the job does not wait");
    return g.status;
}

static struct begin begin_starved(struct fixture *f, struct three *t)
{
    f->env.space_of = space_of;
    f->env.space_bytes_max = &space_max;
    atomic_store(&space_used, 0);
    atomic_store(&space_max, 1 << 20);
    fixture_reopen(f);
    make_three(f, t);
    struct begin b = {.spec = {.job = uuid_make(), .snapshot = t->s1}, .starve = true};
    assert_int_equal(call(f, do_begin, &b), 0);
    return b;
}

static void rollback__that_cannot_go_on_waits_and_does_it_all_later(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = ITSELF};
    struct begin b = begin_starved(f, &t);
    struct volume_job_status status = until_it_waits(f, b.spec.job);
    assert_string_equal(status.kind, "rollback");
    assert_string_equal(status.subject, "vol@s1");
    assert_true(status.total == 19 && strlen(status.text) > 0);
    expect_three(f, &t, t.at1);
    atomic_store(&space_max, 1 << 20);
    (void)call(f, do_start, NULL);
    assert_int_equal(tree_job_end(f, b.spec.job), JOB_DONE);
    expect_three(f, &t, t.at1);
}

/* What it keeps may be more than snapshots are allowed to take. */
static void rollback__keeps_more_than_the_limit_of_a_snapshot(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    f->env.cow_limit_bytes = 4 * CHUNK_BYTES;
    assert_int_equal(tree_job_end(f, tree_rollback(f, t.s1, false, false)), JOB_DONE);
    expect_three(f, &t, t.at1);
}

static void rollback__writes_and_snapshots_are_refused_meanwhile(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = ITSELF};
    struct begin b = begin_starved(f, &t);
    (void)until_it_waits(f, b.spec.job);
    struct uuid undo = f->volume->record.snapshots[2].id;
    assert_true(f->volume->record.snapshots[2].undo);
    struct rollback_spec other = {.job = uuid_make(), .snapshot = t.s2};
    struct clone_spec clone = {.id = uuid_make(), .source = undo, .name = "c1"};
    struct make m = {.id = uuid_make(), .name = "s3"};
    assert_int_equal(tree_try_write(f, ITSELF, 0, 1, 9), SNAP_EBUSY);
    assert_int_equal(call(f, tree_do_rollback, &other), SNAP_EBUSY);
    assert_int_equal(fixture_delete(f, t.s1, uuid_make(), true), SNAP_EBUSY);
    assert_int_equal(fixture_delete(f, undo, uuid_make(), true), SNAP_ENOENT);
    assert_int_equal(call(f, fixture_do_clone, &clone), SNAP_ENOENT);
    struct checking check = {.check = {.snapshot = undo}};
    assert_int_equal(call(f, fixture_do_check, &check), SNAP_ENOENT);
    assert_int_equal(call(f, fixture_do_create, &m), SNAP_EBUSY);
    tree_delete(f, t.s2); /* a newer one may go */
    tree_expect(f, ITSELF, t.at1, "volume");
    tree_settle(f, 2); /* whose end lets the rollback try again */
    (void)until_it_waits(f, b.spec.job);
    atomic_store(&space_max, 1 << 20);
    (void)call(f, do_start, NULL);
    assert_int_equal(tree_job_end(f, b.spec.job), JOB_DONE);
    tree_settle(f, 1);
    tree_expect(f, ITSELF, t.at1, "volume");
    tree_expect(f, t.s1, t.at1, "s1");
}

static void rollback__that_waits_can_be_cancelled(void **state)
{
    struct fixture *f = *state;
    struct three t = {.s1 = ITSELF};
    struct begin b = begin_starved(f, &t);
    (void)until_it_waits(f, b.spec.job);
    assert_int_equal(call(f, tree_do_cancel, &b.spec.job), 0);
    assert_int_equal(tree_job_end(f, b.spec.job), JOB_CANCELLED);
    expect_three(f, &t, t.now);
    struct rollback_spec spec = {.job = uuid_make(), .snapshot = t.s1};
    assert_int_equal(call(f, tree_do_rollback, &spec), SNAP_ENOSPC);
}

/* -- what never began ------------------------------------------------------------------------- */

static int save_no_rollback(void *user, const char *dir, const struct volume_record *r,
                            struct err *reterr)
{
    if (!uuid_is_zero(&r->rollback.job))
        return err_set(reterr, SNAP_EIO, "no");
    return volume_storage_files.save(user, dir, r, reterr);
}

static void do_set_busy(struct call *c)
{
    struct snapshot *s = volume_snapshot_find(c->f->volume, c->arg);
    s->busy = !s->busy;
    call_end(c, 0, NULL);
}

static void rollback__that_cannot_be_recorded_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    struct volume_storage storage = volume_storage_files;
    storage.save = save_no_rollback;
    f->env.storage = &storage;
    struct rollback_spec spec = {.job = uuid_make(), .snapshot = t.s1};
    assert_int_equal(call(f, do_set_busy, &t.s2), 0);
    for (int i = 0; i < 2; i++) /* what the first has kept is not folded yet */
        assert_int_equal(call(f, tree_do_rollback, &spec), SNAP_EIO);
    assert_int_equal(call(f, do_set_busy, &t.s2), 0);
    fixture_reopen(f);
    tree_settle(f, 2);
    tree_write(f, ITSELF, 0, 1, 9);
    tree_fill(t.now, 0, 1, 9);
    expect_three(f, &t, t.now);
    f->env.storage = &volume_storage_files;
    assert_int_equal(call(f, tree_do_rollback, &spec), 0); /* the same job, begun anew */
    assert_int_equal(tree_job_end(f, spec.job), JOB_DONE);
    expect_three(f, &t, t.at1);
}

static void do_create_undo(struct call *c)
{
    struct snapshot_spec spec = {.id = uuid_make(), .name = "undo-x", .undo = true};
    snapshot_create_start(c->f->volume, &spec, call_end, c);
}

/* The daemon was killed between the undo snapshot and the rollback. */
static void open__undo_snapshot_of_no_rollback_is_folded(void **state)
{
    struct fixture *f = *state;
    struct three t;
    make_three(f, &t);
    assert_int_equal(call(f, do_create_undo, NULL), 0);
    tree_write(f, ITSELF, 300, 50, 9);
    tree_fill(t.now, 300, 50, 9);
    assert_int_equal(tree_nodes(f), 3);
    fixture_reopen(f);
    tree_settle(f, 2);
    expect_three(f, &t, t.now);
    fixture_reopen(f);
    assert_int_equal(tree_nodes(f), 2);
    expect_three(f, &t, t.now);
}

/* -- anything, against a plain model
 * ------------------------------------------------------------------ */

enum { NODES = 24, STEPS = 250 };

struct model_node {
    bool used, clone;
    unsigned seq; /* of creation */
    struct uuid id;
    uint8_t content[SECTORS];
};

struct model {
    struct fixture *f;
    struct rng rng;
    uint8_t origin[SECTORS], before[SECTORS]; /* before: the rollback under way */
    struct model_node nodes[NODES];
    unsigned seq, step;
    uint8_t fill;
};

static struct model_node *model_pick(struct model *m, bool want_clone, bool any)
{
    unsigned start = (unsigned)rng_below(&m->rng, NODES);
    for (unsigned i = 0; i < NODES; i++) {
        struct model_node *n = &m->nodes[(start + i) % NODES];
        if (n->used && (any || n->clone == want_clone))
            return n;
    }
    return NULL;
}

static struct model_node *model_add(struct model *m, struct uuid id, bool clone,
                                    const uint8_t *content)
{
    for (unsigned i = 0; i < NODES; i++) {
        struct model_node *n = &m->nodes[i];
        if (n->used)
            continue;
        *n = (struct model_node){.used = true, .clone = clone, .seq = ++m->seq, .id = id};
        memcpy(n->content, content, SECTORS);
        return n;
    }
    fail_msg("the model is full");
    return NULL;
}

static bool model_full(const struct model *m)
{
    for (unsigned i = 0; i < NODES; i++)
        if (!m->nodes[i].used)
            return false;
    return true;
}

static void model_check(struct model *m)
{
    char what[64];
    (void)snprintf(what, sizeof what, "step %u: volume", m->step);
    tree_expect(m->f, ITSELF, m->origin, what);
    for (unsigned i = 0; i < NODES; i++) {
        if (!m->nodes[i].used)
            continue;
        (void)snprintf(what, sizeof what, "step %u: %s %u", m->step,
                       m->nodes[i].clone ? "clone" : "snapshot", i);
        tree_expect(m->f, m->nodes[i].id, m->nodes[i].content, what);
    }
}

static void model_write(struct model *m)
{
    struct model_node *n = rng_below(&m->rng, 2) == 0 ? model_pick(m, true, false) : NULL;
    uint64_t first = rng_below(&m->rng, SECTORS);
    uint64_t count = 1 + rng_below(&m->rng, rng_below(&m->rng, 4) == 0 ? SECTORS - first : 12);
    if (count > SECTORS - first)
        count = SECTORS - first;
    m->fill++;
    tree_write(m->f, n != NULL ? n->id : ITSELF, first, count, m->fill);
    tree_fill(n != NULL ? n->content : m->origin, first, count, m->fill);
}

static void model_create(struct model *m)
{
    char name[32];
    if (model_full(m))
        return;
    (void)snprintf(name, sizeof name, "n%u", m->seq);
    struct model_node *source = rng_below(&m->rng, 2) == 0 ? model_pick(m, false, true) : NULL;
    if (source == NULL) {
        (void)model_add(m, fixture_create(m->f, name), false, m->origin);
        return;
    }
    struct clone_spec spec = {.id = uuid_make(), .source = source->id, .name = name};
    int rc = call(m->f, fixture_do_clone, &spec);
    assert_true(rc == 0 || rc == SNAP_ELIMIT);
    if (rc == 0)
        (void)model_add(m, spec.id, true, source->content);
}

static void model_delete(struct model *m)
{
    struct model_node *n = model_pick(m, false, true);
    if (n == NULL)
        return;
    tree_delete(m->f, n->id);
    n->used = false;
}

static void model_drop(struct model *m, const struct model_node *to, bool merge, bool drop_newer)
{
    for (unsigned i = 0; i < NODES; i++) {
        struct model_node *n = &m->nodes[i];
        if ((merge && n == to) || (drop_newer && n->used && !n->clone && n->seq > to->seq))
            n->used = false;
    }
}

static void model_rollback(struct model *m)
{
    struct model_node *to = model_pick(m, false, false);
    if (to == NULL)
        return;
    struct begin b = {.spec = {.job = uuid_make(),
                               .snapshot = to->id,
                               .merge = rng_below(&m->rng, 3) == 0,
                               .drop_newer = rng_below(&m->rng, 3) == 0},
                      .cancel = rng_below(&m->rng, 4) == 0,
                      .close = rng_below(&m->rng, 2) == 0};
    sem_init(&b.closing.done, 0, 0);
    int rc = call(m->f, do_begin, &b);
    assert_true(rc == 0 || (rc == SNAP_ESHUTDOWN && b.cancel));
    if (b.close) {
        assert_int_equal(call_wait(&b.closing), 0);
        assert_int_equal(call(m->f, fixture_do_open, NULL), 0);
    }
    memcpy(m->before, m->origin, SECTORS);
    memcpy(m->origin, b.cancel ? m->before : to->content, SECTORS);
    if (!b.cancel) /* it may have ended by now */
        model_drop(m, to, b.spec.merge, b.spec.drop_newer);
    model_check(m);
    enum volume_job_state end = tree_job_end(m->f, b.spec.job);
    /* of one that ended before the volume was closed only that is known */
    assert_true(end == (b.cancel ? JOB_CANCELLED : JOB_DONE) || b.close);
}

enum { BURST = 8, STRIPE = SECTORS / BURST };

/* Deletions and writes of everything else in one turn: what is folded takes and gives beside
 * them. */
static void model_burst(struct model *m)
{
    static uint8_t data[BURST][STRIPE * SECTOR_BYTES];
    struct writing w[BURST];
    struct snapshot_delete_spec gone[2];
    struct call calls[BURST + 2];
    unsigned n = 0;
    for (unsigned i = (unsigned)rng_below(&m->rng, 3); i > 0; i--) {
        struct model_node *d = model_pick(m, false, true);
        if (d == NULL)
            continue;
        gone[n] = (struct snapshot_delete_spec){.id = d->id, .key = uuid_make()};
        calls[n] = (struct call){.fn = fixture_do_delete, .arg = &gone[n]};
        n++;
        d->used = false;
    }
    for (unsigned i = 0; i < BURST; i++) {
        struct model_node *c = rng_below(&m->rng, 2) == 0 ? model_pick(m, true, false) : NULL;
        uint64_t first = rng_below(&m->rng, STRIPE), count = 1 + rng_below(&m->rng, STRIPE - first);
        memset(data[i], ++m->fill, sizeof data[i]);
        w[i] = (struct writing){.write = {.node = c != NULL ? c->id : ITSELF,
                                          .op = VOLUME_WRITE,
                                          .offset_bytes = (i * STRIPE + first) * SECTOR_BYTES,
                                          .len_bytes = count * SECTOR_BYTES},
                                .data = data[i]};
        calls[n++] = (struct call){.fn = fixture_do_write, .arg = &w[i]};
        tree_fill(c != NULL ? c->content : m->origin, i * STRIPE + first, count, m->fill);
    }
    together(m->f, calls, n);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(call_wait(&calls[i]), 0);
}

static void model_step(struct model *m)
{
    uint64_t dice = rng_below(&m->rng, 100);
    if (dice < 40)
        model_write(m);
    else if (dice < 55)
        model_burst(m);
    else if (dice < 72)
        model_create(m);
    else if (dice < 84)
        model_delete(m);
    else if (dice < 92)
        model_rollback(m);
    else
        fixture_reopen(m->f);
    if (m->step % 5 == 0)
        model_check(m);
}

static void random__clones_deletes_and_rollbacks_as_a_plain_model(void **state)
{
    struct model *m = calloc(1, sizeof *m);
    m->f = *state;
    seed_init_rng(&m->rng);
    for (m->step = 0; m->step < STEPS; m->step++)
        model_step(m);
    model_check(m);
    for (unsigned i = 0; i < NODES; i++)
        if (m->nodes[i].used) {
            tree_delete(m->f, m->nodes[i].id);
            m->nodes[i].used = false;
        }
    tree_settle(m->f, 0);
    tree_expect(m->f, ITSELF, m->origin, "volume, alone");
    free(m);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup_hosted, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(rollback__returns_and_the_snapshots_keep_their_content),
        CASE(rollback__to_the_newest_and_forth_again),
        CASE(rollback__merge_consumes_and_drop_newer_deletes),
        CASE(rollback__the_same_job_again_is_not_done_twice),
        CASE(rollback__cancelled_is_as_before),
        CASE(rollback__cancelled_loses_no_write_that_was_answered),
        CASE(rollback__goes_on_after_opening_again),
        CASE(rollback__keeps_more_than_the_limit_of_a_snapshot),
        CASE(rollback__writes_and_snapshots_are_refused_meanwhile),
        CASE(rollback__that_cannot_go_on_waits_and_does_it_all_later),
        CASE(rollback__that_waits_can_be_cancelled),
        CASE(rollback__that_cannot_be_recorded_changes_nothing),
        CASE(open__undo_snapshot_of_no_rollback_is_folded),
        CASE(rollback__without_room_for_the_undo_is_refused),
        CASE(random__clones_deletes_and_rollbacks_as_a_plain_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
