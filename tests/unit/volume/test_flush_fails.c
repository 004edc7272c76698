/* SPDX-License-Identifier: Apache-2.0 */
/* A flush that fails beside others, and beside writes: whoever asked, or wrote, hears of it. */
#include "tests/unit/volume/failing_fixture.h"
#include "tests/unit/volume/hosted_fixture.h"
#include "tests/unit/volume/job_fixture.h"

#include "daemon/volume/verify.h"

static const uint8_t content[2 * CHUNK_BYTES] = {1};

static int setup(void **state)
{
    failing_init();
    return fixture_setup_as(state,
                            &(struct fixture_spec){.kind = VOLUME_HOSTED, .checksums = true});
}

/* -- clients ------------------------------------------------------------------------------- */

struct client {
    struct uuid id;
    struct writing g;
    struct call call;
};

/* len 0: a flush. */
static void client_begin(struct fixture *f, struct client *c, struct uuid node, uint64_t offset,
                         uint64_t len, bool fua)
{
    c->g = (struct writing){.write = {.node = node,
                                      .op = len > 0 ? VOLUME_WRITE : VOLUME_FLUSH,
                                      .client = c->id,
                                      .offset_bytes = offset,
                                      .len_bytes = len,
                                      .fua = fua},
                            .data = len > 0 ? content : NULL};
    call_begin(&c->call, f, fixture_do_write, &c->g);
}

static int client_write(struct fixture *f, struct client *c, struct uuid node)
{
    client_begin(f, c, node, 0, CHUNK_BYTES, false);
    return call_wait(&c->call);
}

static int client_flush(struct fixture *f, struct client *c, struct uuid node)
{
    client_begin(f, c, node, 0, 0, false);
    return call_wait(&c->call);
}

static struct client client_new(void)
{
    return (struct client){.id = uuid_make()};
}

/* Of a clone that has its first two chunks, which are written in place from now on. */
static struct uuid clone_new(struct fixture *f)
{
    struct uuid c = fixture_clone(f, fixture_create(f, "s1"), "c");
    assert_int_equal(fixture_fill(f, c, 0, 2 * CHUNK_BYTES, 1), 0);
    return c;
}

/* -- cases ----------------------------------------------------------------------------------- */

static void do_count_requests(struct call *c)
{
    call_end(c, (int)blk_engine_inflight(c->f->shard->engine), NULL);
}

/* Its own flush comes after the one that fails, finds nothing to do, and would succeed. */
static void write__whose_flush_waits_for_one_that_fails_fails(void **state)
{
    struct fixture *f = *state;
    struct client a = client_new(), b = client_new();
    assert_int_equal(client_write(f, &b, ITSELF), 0);
    halt_set(&flush);
    client_begin(f, &b, ITSELF, 0, 0, false);
    halt_reached(&flush);
    client_begin(f, &a, ITSELF, 10, CHUNK_BYTES, true); /* in pieces, then a flush */
    while (call(f, do_count_requests, NULL) != 3)       /* b's at two devices, a's that waits */
        (void)usleep(1000);
    atomic_store(&failures, 1);
    halt_end(&flush);
    assert_int_equal(call_wait(&b.call), SNAP_EIO);
    assert_int_equal(call_wait(&a.call), SNAP_EIO);
    assert_int_equal(atomic_load(&failures), 0);
    client_begin(f, &a, ITSELF, 10, CHUNK_BYTES, true);
    assert_int_equal(call_wait(&a.call), 0);
}

/* Those that come during one become one, which is one failure; each who asked hears of it. */
static void flush__of_several_that_failed_is_told_to_each_once(void **state)
{
    struct fixture *f = *state;
    struct client first = client_new(), c[] = {client_new(), client_new(), client_new()};
    halt_set(&flush);
    client_begin(f, &first, ITSELF, 0, 0, false);
    halt_reached(&flush);
    for (unsigned i = 0; i < ARRAY_LEN(c); i++)
        assert_int_equal(client_write(f, &c[i], ITSELF), 0);
    for (unsigned i = 0; i < ARRAY_LEN(c); i++)
        client_begin(f, &c[i], ITSELF, 0, 0, false);
    (void)fixture_look(f, ITSELF); /* they have been submitted */
    atomic_store(&passes, 1);
    atomic_store(&failures, 1);
    halt_end(&flush);
    assert_int_equal(call_wait(&first.call), 0);
    for (unsigned i = 0; i < ARRAY_LEN(c); i++)
        assert_int_equal(call_wait(&c[i].call), SNAP_EIO);
    assert_int_equal(atomic_load(&failures), 0);
    for (unsigned i = 0; i < ARRAY_LEN(c); i++)
        assert_int_equal(client_flush(f, &c[i], ITSELF), 0);
}

/* What is under way while a flush fails may be lost, though it ends after that. */
static void beside_a_write(struct fixture *f, struct uuid node)
{
    struct client a = client_new(), b = client_new();
    assert_int_equal(client_write(f, &b, node), 0);
    halt_set(&written);
    client_begin(f, &a, node, 0, CHUNK_BYTES, false);
    halt_reached(&written);
    atomic_store(&failures, 1);
    assert_int_equal(client_flush(f, &b, node), SNAP_EIO);
    halt_end(&written);
    assert_int_equal(call_wait(&a.call), 0);
    fixture_wait_sound(f, node);
    assert_int_equal(client_flush(f, &a, node), SNAP_EIO);
    assert_int_equal(client_flush(f, &a, node), 0);
    assert_int_equal(client_flush(f, &b, node), 0);
}

static void flush__that_failed_beside_a_write_is_told_to_its_writer(void **state)
{
    struct fixture *f = *state;
    beside_a_write(f, ITSELF);
    beside_a_write(f, clone_new(f));
}

/* Its own flush is another one, which succeeds. */
static void write__durable_beside_a_flush_that_failed_fails(void **state)
{
    struct fixture *f = *state;
    struct client a = client_new(), b = client_new();
    assert_int_equal(client_write(f, &b, ITSELF), 0);
    halt_set(&written);
    client_begin(f, &a, ITSELF, 10, CHUNK_BYTES, true); /* in pieces, then a flush */
    halt_reached(&written);
    atomic_store(&failures, 1);
    assert_int_equal(client_flush(f, &b, ITSELF), SNAP_EIO);
    halt_end(&written);
    assert_int_equal(call_wait(&a.call), SNAP_EIO);
    client_begin(f, &a, ITSELF, 10, CHUNK_BYTES, true);
    assert_int_equal(call_wait(&a.call), 0);
    assert_int_equal(client_flush(f, &a, ITSELF), 0);
}

/* The verification's flush may take back what others wrote, as any other. */
static void verify__rebuild_that_cannot_be_flushed_is_told_to_who_had_written(void **state)
{
    struct fixture *f = *state;
    struct uuid node = clone_new(f);
    struct client a = client_new();
    struct verify_spec spec = {.job = uuid_make(), .snapshot = node, .rebuild = true};
    assert_int_equal(client_write(f, &a, node), 0);
    fixture_scribble(f, node, 3 * CHUNK_BYTES, 'x'); /* past the clone */
    atomic_store(&failures, 1);
    assert_int_equal(call(f, fixture_do_verify, &spec), 0);
    assert_int_equal(fixture_job_end(f, spec.job), JOB_FAILED);
    assert_int_equal(atomic_load(&failures), 0);
    assert_int_equal(client_flush(f, &a, node), SNAP_EIO);
    fixture_wait_sound(f, node);
    assert_int_equal(client_flush(f, &a, node), 0);
}

/* -- a clone that goes ------------------------------------------------------------------------ */

static struct halt saving;
static atomic_int saves_pass; /* so many go by */

static int save(void *user, const char *dir, const struct volume_record *r, struct err *reterr)
{
    if (!disk_take_one(&saves_pass))
        halt_here(&saving);
    return volume_storage_files.save(user, dir, r, reterr);
}

struct gating {
    struct volume_waiter waiter;
    struct call *call;
};

static void gate_closed(struct volume_waiter *w, int code, const struct err *err)
{
    struct gating *g = w->user;
    volume_gate_open(g->call->f->volume);
    call_end(g->call, code, err);
}

static void do_gate(struct call *c)
{
    struct gating *g = c->arg;
    *g = (struct gating){.waiter = {.fn = gate_closed, .user = g}, .call = c};
    volume_gate_close(c->f->volume, &g->waiter);
}

static void do_begin_read(struct call *c)
{
    snapshot_reader_begin(c->arg);
    call_end(c, 0, NULL);
}

static void do_end_read(struct call *c)
{
    snapshot_reader_end(c->arg);
    call_end(c, 0, NULL);
}

/* A flush of its device fails as it is dropped, and a read of it takes its time: when the record is
 * without it, it is still being closed, to be opened again. */
static void flush__of_a_clone_that_fails_as_it_is_dropped_does_no_harm(void **state)
{
    struct fixture *f = *state;
    struct uuid c = clone_new(f);
    struct client a = client_new();
    struct volume_storage storage = volume_storage_files;
    struct snapshot *node = volume_snapshot_find(f->volume, &c);
    struct gating g;
    halt_init(&saving);
    atomic_store(&saves_pass, 1); /* that it is deleted, not that it is gone */
    storage.save = save;
    f->env.storage = &storage;
    assert_int_equal(client_write(f, &a, c), 0); /* in place, and not flushed */
    assert_int_equal(call(f, do_begin_read, node), 0);
    halt_set(&saving);
    assert_int_equal(fixture_delete(f, c, uuid_make(), false), 0);
    halt_reached(&saving);
    atomic_store(&passes, 1); /* the origin's */
    atomic_store(&failures, 1);
    assert_int_equal(call(f, do_gate, &g), SNAP_EIO);
    halt_end(&saving);
    while (fixture_look(f, c).there)
        (void)usleep(1000);
    assert_int_equal(call(f, do_end_read, node), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, c).nodes, 1);
    f->env.storage = &volume_storage_files;
    fixture_reopen(f);
    assert_int_equal(f->volume->record.snapshot_count, 1);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(write__whose_flush_waits_for_one_that_fails_fails),
        CASE(flush__of_several_that_failed_is_told_to_each_once),
        CASE(flush__that_failed_beside_a_write_is_told_to_its_writer),
        CASE(write__durable_beside_a_flush_that_failed_fails),
        CASE(verify__rebuild_that_cannot_be_flushed_is_told_to_who_had_written),
        CASE(flush__of_a_clone_that_fails_as_it_is_dropped_does_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
