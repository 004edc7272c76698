/* SPDX-License-Identifier: Apache-2.0 */
/* A hosted volume against a plain model in memory: random writes by the sector, alone and many at
 * once, snapshots, clones, deletions, rollbacks that are cancelled, or go on after the volume was
 * closed. Every few steps each node reads as the model says. SEED from the environment. */
#include "tests/lib/seed.h"
#include "tests/unit/volume/rollback_fixture.h"

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
    struct call closing = {.f = m->f};
    sem_init(&closing.done, 0, 0);
    struct begin b = {.spec = {.job = uuid_make(),
                               .snapshot = to->id,
                               .merge = rng_below(&m->rng, 3) == 0,
                               .drop_newer = rng_below(&m->rng, 3) == 0},
                      .cancel = rng_below(&m->rng, 4) == 0,
                      .closing = rng_below(&m->rng, 2) == 0 ? &closing : NULL};
    int rc = call(m->f, fixture_do_begin, &b);
    assert_true(rc == 0 || (rc == SNAP_ESHUTDOWN && b.cancel));
    if (b.closing != NULL) {
        assert_int_equal(call_wait(&closing), 0);
        assert_int_equal(call(m->f, fixture_do_open, NULL), 0);
    }
    memcpy(m->before, m->origin, SECTORS);
    memcpy(m->origin, b.cancel ? m->before : to->content, SECTORS);
    if (!b.cancel) /* it may have ended by now */
        model_drop(m, to, b.spec.merge, b.spec.drop_newer);
    model_check(m);
    enum volume_job_state end = fixture_job_end(m->f, b.spec.job);
    /* of one that ended before the volume was closed only that is known */
    assert_true(end == (b.cancel ? JOB_CANCELLED : JOB_DONE) || b.closing != NULL);
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
    call_begin_together(m->f, calls, n);
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(random__clones_deletes_and_rollbacks_as_a_plain_model,
                                        fixture_setup_hosted, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
