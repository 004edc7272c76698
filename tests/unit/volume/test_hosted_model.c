/* SPDX-License-Identifier: Apache-2.0 */
/* A hosted volume against a plain model in memory: random writes of any offset to the volume and
 * its clones, zeroes and discards, snapshots, clones, deletions and new starts. After each step
 * some node, and in the end each, reads as the model says. SEED and STEPS from the environment. */
#include "tests/unit/volume/hosted_fixture.h"

#include "common/base/rng.h"

enum { MODEL_BYTES = SIZE - 700, NODES = 14, STEPS = 400, BURST = 6 };

struct node {
    bool there, clone;
    struct uuid id; /* nil: the volume */
    uint8_t *content;
};

struct model {
    struct fixture *f;
    struct rng rng;
    struct node nodes[NODES]; /* the first is the volume */
    unsigned named;
};

static struct node *model_pick(struct model *m, bool writable)
{
    for (;;) {
        struct node *n = &m->nodes[rng_below(&m->rng, NODES)];
        if (n->there && (!writable || n->clone || n == m->nodes))
            return n;
    }
}

static struct node *model_free_slot(struct model *m)
{
    for (unsigned i = 0; i < NODES; i++)
        if (!m->nodes[i].there)
            return &m->nodes[i];
    return NULL;
}

static void model_check(struct model *m, const struct node *n, unsigned step)
{
    static uint8_t got[MODEL_BYTES];
    assert_int_equal(fixture_read(m->f, n->id, 0, MODEL_BYTES, got), 0);
    for (unsigned i = 0; i < MODEL_BYTES; i++)
        if (got[i] != n->content[i])
            fail_msg("step %u: node %u: byte %u (chunk %u) is %u, not %u", step,
                     (unsigned)(n - m->nodes), i, i / CHUNK_BYTES, got[i], n->content[i]);
    uint64_t from = rng_below(&m->rng, MODEL_BYTES);
    uint32_t len = 1 + (uint32_t)rng_below(&m->rng, MODEL_BYTES - from);
    assert_int_equal(fixture_read(m->f, n->id, from, len, got), 0);
    assert_memory_equal(got, n->content + from, len);
}

/* Some writes at once, of nodes and places that do not meet. */
static void model_write(struct model *m)
{
    struct writing g[BURST];
    struct call calls[BURST];
    static uint8_t data[BURST][MODEL_BYTES];
    unsigned count = 1 + (unsigned)rng_below(&m->rng, BURST);
    uint64_t part = MODEL_BYTES / count;
    for (unsigned i = 0; i < count; i++) {
        struct node *n = model_pick(m, true);
        uint64_t from = i * part + rng_below(&m->rng, part);
        uint64_t max = (i + 1) * part - from;
        uint64_t len = 1 + rng_below(&m->rng, rng_chance(&m->rng, 50) ? u64_min(max, 9000) : max);
        if (rng_chance(&m->rng, 30)) { /* whole chunks */
            from = from / CHUNK_BYTES * CHUNK_BYTES;
            from = from < i * part ? from + CHUNK_BYTES : from;
            len = CHUNK_BYTES;
            if (from + len > (i + 1) * part)
                from = i * part;
        }
        enum volume_write_op op = rng_chance(&m->rng, 80)   ? VOLUME_WRITE
                                  : rng_chance(&m->rng, 50) ? VOLUME_ZERO
                                                            : VOLUME_DISCARD;
        rng_fill(&m->rng, data[i], len);
        if (op != VOLUME_WRITE)
            memset(data[i], 0, len);
        memcpy(n->content + from, data[i], len);
        g[i] = (struct writing){.write = {.node = n->id,
                                          .op = op,
                                          .fua = rng_chance(&m->rng, 10) != 0,
                                          .offset_bytes = from,
                                          .len_bytes = len},
                                .data = op == VOLUME_WRITE ? data[i] : NULL};
        call_begin(&calls[i], m->f, fixture_do_write, &g[i]);
    }
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(call_wait(&calls[i]), 0);
}

static void model_make(struct model *m, bool clone)
{
    struct node *n = model_free_slot(m), *of = clone ? model_pick(m, false) : m->nodes;
    char name[16];
    if (n == NULL || (clone && of == m->nodes))
        return;
    (void)snprintf(name, sizeof name, "n%u", m->named++);
    n->clone = clone;
    if (clone) {
        struct clone_spec spec = {.id = uuid_make(), .source = of->id, .name = name};
        int rc = call(m->f, fixture_do_clone, &spec);
        if (rc == SNAP_ELIMIT) /* too deep */
            return;
        assert_int_equal(rc, 0);
        n->id = spec.id;
    } else {
        n->id = fixture_create(m->f, name);
    }
    memcpy(n->content, of->content, MODEL_BYTES);
    n->there = true;
}

static void model_delete(struct model *m)
{
    struct node *n = model_pick(m, false);
    if (n == m->nodes)
        return;
    assert_int_equal(fixture_delete(m->f, n->id, uuid_make(), false), 0);
    n->there = false;
}

static void model_step(struct model *m, unsigned step)
{
    uint64_t what = rng_below(&m->rng, 100);
    if (what < 60)
        model_write(m);
    else if (what < 72)
        model_make(m, false);
    else if (what < 84)
        model_make(m, true);
    else if (what < 95)
        model_delete(m);
    else
        fixture_reopen(m->f);
    model_check(m, model_pick(m, false), step);
}

static int setup_odd_size(void **state)
{
    return fixture_setup_as(
        state, &(struct fixture_spec){.kind = VOLUME_HOSTED, .size_bytes = MODEL_BYTES});
}

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

static void random__every_node_reads_as_the_model_says(void **state)
{
    static struct model m;
    uint64_t seed = number("SEED", 1), steps = number("STEPS", STEPS);
    m = (struct model){.f = *state};
    rng_init(&m.rng, seed);
    printf("SEED=%llu\n", (unsigned long long)seed);
    for (unsigned i = 0; i < NODES; i++)
        m.nodes[i].content = calloc(1, MODEL_BYTES);
    m.nodes[0].there = true;
    for (unsigned step = 0; step < steps; step++)
        model_step(&m, step);
    for (int again = 0; again < 2; again++) {
        for (unsigned i = 0; i < NODES; i++)
            if (m.nodes[i].there)
                model_check(&m, &m.nodes[i], (unsigned)steps);
        fixture_reopen(m.f);
    }
    for (unsigned i = 0; i < NODES; i++)
        free(m.nodes[i].content);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(random__every_node_reads_as_the_model_says, setup_odd_size,
                                        fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
