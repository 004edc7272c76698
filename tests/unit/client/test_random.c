/* SPDX-License-Identifier: Apache-2.0 */
/* A writer against a daemon that answers in any order, late or never, breaks the connection
 * at any point, and makes new heads whenever it can.
 *
 * What must hold: every put is answered once; a put is answered well only when its chunk is
 * durable in the head that is the volume's newest at that moment (so that the origin may be
 * overwritten); puts that came too late are refused, and the library does not send them. */
#include "tests/lib/seed.h"
#include "tests/unit/client/writer.h"

enum { CHUNKS = 64, CHUNK = 4096, HEADS_MAX = 256, STEPS = 6000 };

struct world {
    struct rng rng;
    struct fake *f;
    struct writer w;
    /* the daemon */
    unsigned head_no; /* the newest */
    bool durable[HEADS_MAX][CHUNKS];
    bool quiesce, still;
    unsigned leased_on; /* the connection that has the lease */
    unsigned refused, drops;
    /* the writer */
    bool copied[CHUNKS], inflight[CHUNKS];
    bool told; /* to stand still, and has not yet answered */
    unsigned taken, answered, good, stale, blocked;
    uint8_t data[CHUNKS][CHUNK];
};

static struct world world; /* too large for the stack */

/* -- the writer -- */

static void put_answered(void *user, uint64_t chunk, uint32_t count,
                         const struct snapwire_error *error)
{
    struct world *x = user;

    assert_int_equal(count, 1);
    assert_true(x->inflight[chunk]);
    x->inflight[chunk] = false;
    x->answered++;
    if (error != NULL) {
        assert_int_equal(error->code, SNAPWIRE_ESTALE);
        x->stale++;
        return;
    }
    assert_true(x->durable[x->head_no][chunk]);
    x->copied[chunk] = true;
    x->good++;
}

static void told_to_stand_still(void *user, struct snapwire_lease *lease)
{
    struct world *x = user;

    (void)lease;
    assert_false(x->told);
    x->told = true;
}

static void head_is(void *user, struct snapwire_lease *lease,
                    const struct snapwire_lease_info *info)
{
    struct world *x = user;

    (void)lease;
    x->told = false;
    if (!snapwire_uuid_equal(&info->head, &x->w.head))
        memset(x->copied, 0, sizeof x->copied);
    x->w.head = info->head;
}

static void lease_is_lost(void *user, struct snapwire_lease *lease,
                          const struct snapwire_error *why)
{
    (void)user;
    (void)lease;
    fail_msg("the lease was lost: %s", why->text);
}

static void writer_acts(struct world *x)
{
    const uint64_t chunk = rng_below(&x->rng, CHUNKS);

    if (x->told && rng_chance(&x->rng, 10))
        assert_int_equal(snapwire_lease_head_ready(x->w.lease, NULL), 0);
    if (x->copied[chunk] || x->inflight[chunk])
        return;
    const int r =
        snapwire_stream_put(x->w.stream, chunk, 1, x->data[chunk], 0, put_answered, x, NULL);
    if (r == SNAPWIRE_WOULD_BLOCK) {
        x->blocked++;
        return;
    }
    assert_int_equal(r, 0);
    x->inflight[chunk] = true;
    x->taken++;
}

/* -- the daemon -- */

static void daemon_put(struct world *x, struct fake_asked *a, bool answer)
{
    Snapwire__V1__CowPut *m = snapwire__v1__cow_put__unpack(NULL, a->control_bytes, a->control);
    const struct snapwire_uuid head = asked_head(a);
    const bool right =
        snapwire_uuid_equal(&head, &x->f->head) && !x->still && x->leased_on == a->connection;

    if (!right)
        x->refused++;
    for (size_t i = 0; i < m->n_old_chunks && right; i++) {
        const uint64_t chunk = m->old_chunks[i];
        assert_true(chunk < CHUNKS);
        assert_memory_equal(a->payload + i * CHUNK, x->data[chunk], CHUNK);
        x->durable[x->head_no][chunk] = true;
    }
    snapwire__v1__cow_put__free_unpacked(m, NULL);
    if (answer && right)
        fake_answer_put(x->f, a);
    else if (answer)
        fake_answer_error(x->f, a, SNAP_ESTALE, "another head");
}

static void daemon_new_head(struct world *x)
{
    assert_true(x->head_no + 1 < HEADS_MAX);
    x->head_no++;
    x->f->head = snapwire_uuid_make();
    x->quiesce = x->still = false;
}

static void daemon_acquire(struct world *x, struct fake_asked *a)
{
    x->leased_on = x->f->connections;
    fake_answer_lease(x->f, a);
    if (x->quiesce)
        fake_event(x->f, METHOD(EVENT_QUIESCE));
}

/* answer false: it was done, and the answer will be lost. */
static void daemon_serves(struct world *x, struct fake_asked *a, bool answer)
{
    a->answered = true;
    switch (a->method) {
    case METHOD(COW_PUT):
        daemon_put(x, a, answer);
        break;
    case METHOD(LEASE_ACQUIRE):
        if (answer)
            daemon_acquire(x, a);
        break;
    case METHOD(HEAD_READY):
        x->still = x->quiesce;
        if (x->still && rng_chance(&x->rng, 70))
            daemon_new_head(x);
        if (answer)
            fake_answer_lease(x->f, a);
        x->still = false;
        break;
    default:
        if (answer)
            fake_answer_lease(x->f, a);
        break;
    }
}

static void daemon_drops(struct world *x)
{
    x->drops++;
    x->still = false;
    fake_drop(x->f);
}

static void daemon_acts(struct world *x)
{
    struct fake *f = x->f;

    for (unsigned i = 0; i < f->asked_count && f->chan != NULL; i++) {
        struct fake_asked *a = &f->asked[i];
        if (a->answered || a->connection != f->connections || !rng_chance(&x->rng, 40))
            continue;
        if (rng_chance(&x->rng, 2)) {
            daemon_serves(x, a, false);
            daemon_drops(x);
        } else {
            daemon_serves(x, a, true);
        }
    }
    if (f->chan != NULL && x->leased_on == f->connections && rng_below(&x->rng, 200) == 0)
        daemon_drops(x);
    if (f->chan != NULL && x->leased_on == f->connections && !x->quiesce &&
        rng_below(&x->rng, 50) == 0 && x->head_no + 2 < HEADS_MAX) {
        x->quiesce = true;
        fake_event(f, METHOD(EVENT_QUIESCE));
    }
}

/* The list of what was asked is not endless: forget what is over. */
static void daemon_forgets(struct fake *f)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < f->asked_count; i++) {
        struct fake_asked *a = &f->asked[i];
        if (!a->answered && a->connection == f->connections) {
            f->asked[kept++] = *a;
            continue;
        }
        free(a->control);
        free(a->payload);
    }
    memset(&f->asked[kept], 0, (FAKE_ASKED_MAX - kept) * sizeof f->asked[0]);
    f->asked_count = kept;
}

static void world_begin(struct world *x)
{
    const struct snapwire_stream_config stream = {.batch_bytes_max = 4 * CHUNK,
                                                  .inflight_bytes_max = 16 * CHUNK};

    memset(x, 0, sizeof *x);
    seed_init_rng(&x->rng);
    for (unsigned i = 0; i < CHUNKS; i++)
        memset(x->data[i], (int)(i + 1), CHUNK);
    x->f = fake_new();
    x->f->ttl_ms = 60000;
    x->w.f = x->f;
    x->w.client = client_of(x->f, NULL, NULL);
    struct snapwire_lease_config config = lease_config_of(&x->w);
    config.quiesce = told_to_stand_still;
    config.head_changed = head_is;
    config.lost = lease_is_lost;
    config.user = x;
    assert_int_equal(snapwire_lease_acquire(x->w.client, &config, on_acquired, &x->w, NULL), 0);
    RUN_UNTIL(x->f, x->w.acquired.calls == 1);
    x->w.head = snapwire_lease_info(x->w.lease)->head;
    x->leased_on = 1;
    x->f->hold = 0xffff;
    writer_stream(&x->w, &stream);
}

static void writer__never_overwrites_what_the_newest_head_has_not(void **state)
{
    struct world *x = &world;

    (void)state;
    world_begin(x);
    for (unsigned step = 0; step < STEPS; step++) {
        for (uint64_t n = rng_below(&x->rng, 6); n > 0; n--)
            writer_acts(x);
        daemon_acts(x);
        daemon_forgets(x->f);
        if (rng_chance(&x->rng, 10))
            run_once(x->f);
        else
            (void)event_base_loop(x->f->base, EVLOOP_NONBLOCK);
    }
    /* let it come to rest: everything is answered */
    const uint64_t end_ms = test_now_ms() + 5000;
    while (x->answered < x->taken || x->told || x->quiesce) {
        assert_true(test_now_ms() < end_ms);
        if (x->told)
            assert_int_equal(snapwire_lease_head_ready(x->w.lease, NULL), 0);
        for (unsigned i = 0; i < x->f->asked_count && x->f->chan != NULL; i++)
            if (!x->f->asked[i].answered && x->f->asked[i].connection == x->f->connections)
                daemon_serves(x, &x->f->asked[i], true);
        if (x->f->chan != NULL && x->quiesce && !x->told)
            x->quiesce = x->f->asked_count > 0; /* it was over before it reached the writer */
        daemon_forgets(x->f);
        run_once(x->f);
    }
    assert_int_equal(x->answered, x->taken);
    print_message("%u puts, %u stale, %u heads, %u disconnects, %u blocked, %u refused\n", x->taken,
                  x->stale, x->head_no, x->drops, x->blocked, x->refused);
    assert_true(x->good > 500 && x->drops > 5 && x->head_no > 5);
    assert_int_equal(x->refused, 0);
    writer_end(&x->w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writer__never_overwrites_what_the_newest_head_has_not)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
