/* SPDX-License-Identifier: Apache-2.0 */
/* A volume's chain, its writer, what it takes and gives back. */
#include "tests/unit/volume/job_fixture.h"
#include "tests/unit/volume/remote_fixture.h"

/* -- creating ------------------------------------------------------------------------- */

static void create__same_uuid_again_is_the_same_snapshot(void **state)
{
    struct fixture *f = *state;
    struct make m = {.id = uuid_make(), .name = "s1"};
    assert_int_equal(call(f, fixture_do_create, &m), 0);
    assert_int_equal(call(f, fixture_do_create, &m), 0);
    assert_int_equal(fixture_look(f, m.id).nodes, 1);
    m.name = "other";
    assert_int_equal(call(f, fixture_do_create, &m), SNAP_EEXIST);
}

static void create__name_in_use_is_refused(void **state)
{
    struct fixture *f = *state;
    (void)fixture_create(f, "s1");
    struct make m = {.id = uuid_make(), .name = "s1"};
    assert_int_equal(call(f, fixture_do_create, &m), SNAP_EEXIST);
}

static void create__other_chunk_size_is_refused(void **state)
{
    struct fixture *f = *state;
    (void)fixture_create(f, "s1");
    struct make m = {.id = uuid_make(), .name = "s2", .chunk_sectors = 64};
    assert_int_equal(call(f, fixture_do_create, &m), SNAP_EMISMATCH);
}

static void create__record_that_cannot_be_saved_changes_nothing(void **state)
{
    struct fixture *f = *state;
    char path[LIMIT_PATH_BYTES], id[UUID_TEXT_BYTES], cow[LIMIT_PATH_BYTES];
    /* a folder where the new record is to be written */
    (void)snprintf(path, sizeof path, "%s/volumes/%s/" RECORD_SPARE_FILE, f->dir.path,
                   uuid_format(&f->id, id));
    (void)unlink(path);
    assert_int_equal(file_make_dir(path, 0700, NULL), 0);
    struct make m = {.id = uuid_make(), .name = "s1"};
    assert_true(call(f, fixture_do_create, &m) < 0);
    assert_int_equal(fixture_look(f, m.id).nodes, 0);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(call(f, fixture_do_create, &m), 0);
    assert_int_equal(access(fixture_cow_path(f, m.id, cow, sizeof cow), F_OK), 0);
}

static void create__unlisted_file_of_a_crash_is_replaced(void **state)
{
    struct fixture *f = *state;
    char cow[LIMIT_PATH_BYTES];
    struct make m = {.id = uuid_make(), .name = "s1"};
    int fd = open(fixture_cow_path(f, m.id, cow, sizeof cow), O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "leftover", 8), 8);
    (void)close(fd);
    assert_int_equal(call(f, fixture_do_create, &m), 0);
    assert_int_equal(fixture_look(f, m.id).state, SNAPSHOT_OK);
}

/* -- devices that the operator names ------------------------------------------------------- */

struct bound {
    struct snapshot_spec spec;
};

static void do_create_bound(struct call *c)
{
    const struct bound *b = c->arg;
    snapshot_create_start(c->f->volume, &b->spec, call_end, c);
}

static struct bound bound_spec(const char *name, const char *path, bool take_over)
{
    return (struct bound){
        .spec = {.id = uuid_make(), .name = name, .cow_device = path, .take_over = take_over}};
}

static void make_file(const char *path, off_t size)
{
    int fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    (void)close(fd);
}

static int want_taken(unsigned chunk)
{
    return chunk >= 10 && chunk < 14 ? (int)(7 + chunk) : ORIGIN;
}

static void bound__used_device_is_refused_unless_taken_over(void **state)
{
    struct fixture *f = *state;
    char path[TMPDIR_FILE_BYTES];
    make_file(tmpdir_file(&f->dir, "dev", path), 1 << 20);
    struct bound b = bound_spec("s1", path, false);
    assert_int_equal(call(f, do_create_bound, &b), 0);
    fixture_put(f, b.spec.id, fixture_lease(f), 10, 4, 7);
    lease_free(&f->volume->lease);
    fixture_reopen(f);
    fixture_expect(f, b.spec.id, want_taken);
    /* deleting lets go of it and leaves it as it is */
    assert_int_equal(fixture_delete(f, b.spec.id, uuid_make(), false), 0);
    fixture_settle(f);
    assert_int_equal(access(path, F_OK), 0);
    b = bound_spec("s2", path, false);
    assert_int_equal(call(f, do_create_bound, &b), SNAP_EEXIST);
    b = bound_spec("s2", path, true);
    assert_int_equal(call(f, do_create_bound, &b), 0);
    fixture_expect(f, b.spec.id, want_taken);
    fixture_reopen(f);
    fixture_expect(f, b.spec.id, want_taken);
}

static void bound__second_use_missing_and_unsound_devices_are_refused(void **state)
{
    struct fixture *f = *state;
    char path[TMPDIR_FILE_BYTES], other[TMPDIR_FILE_BYTES];
    make_file(tmpdir_file(&f->dir, "dev", path), 1 << 20);
    struct bound b = bound_spec("s1", path, false);
    assert_int_equal(call(f, do_create_bound, &b), 0);
    b = bound_spec("s2", path, false);
    assert_int_equal(call(f, do_create_bound, &b), SNAP_EBUSY);
    b = bound_spec("s2", tmpdir_file(&f->dir, "none", other), false);
    assert_int_equal(call(f, do_create_bound, &b), SNAP_ENOENT);
    b = bound_spec("s2", "dev", false);
    assert_int_equal(call(f, do_create_bound, &b), SNAP_EINVAL);
    b = bound_spec("s2", path, true);
    assert_int_equal(call(f, do_create_bound, &b), SNAP_ENOTSUP);
    assert_int_equal(fixture_look(f, f->id).nodes, 1);
}

/* -- put and read ------------------------------------------------------------------------- */

static int want_first(unsigned chunk)
{
    return chunk >= 10 && chunk < 20 ? (int)(100 + chunk) : ORIGIN;
}

static void put__old_content_reads_back_also_after_opening_again(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    fixture_put(f, s1, fixture_lease(f), 10, 10, 100);
    fixture_expect(f, s1, want_first);
    fixture_reopen(f);
    fixture_expect(f, s1, want_first);
}

static int want_zeros(unsigned chunk)
{
    return chunk == 3 || chunk == 5 ? 0 : chunk == 4 ? 104 : ORIGIN;
}

static void put__zero_chunks_read_as_zeros(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct batch b = fixture_batch(s1, fixture_lease(f), 4, 1, 100);
    b.zero_chunks[0] = 3;
    b.zero_chunks[1] = 5;
    b.zero_count = 2;
    assert_int_equal(call(f, fixture_do_put, &b), 0);
    assert_int_equal(b.added, 3);
    fixture_expect(f, s1, want_zeros);
}

static void put__first_content_wins(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    fixture_put(f, s1, epoch, 10, 10, 100);
    struct batch b = fixture_batch(s1, epoch, 8, 4, 1);
    assert_int_equal(call(f, fixture_do_put, &b), 0);
    assert_int_equal(b.added, 2);
    assert_int_equal(b.existed, 2);
}

static int want_chain_old(unsigned chunk)
{
    if (chunk >= 10 && chunk < 20)
        return (int)(100 + chunk);
    return chunk >= 5 && chunk < 15 ? (int)(50 + chunk) : ORIGIN;
}

static int want_chain_new(unsigned chunk)
{
    return chunk >= 5 && chunk < 15 ? (int)(50 + chunk) : ORIGIN;
}

static void read__older_snapshot_reads_through_newer(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    fixture_put(f, s1, fixture_lease(f), 10, 10, 100);
    struct call creating, ready;
    struct make m = {.id = uuid_make(), .name = "s2"};
    call_begin(&creating, f, fixture_do_create, &m);
    fixture_wait_quiesced(f, 1);
    call_begin(&ready, f, fixture_do_ready, NULL);
    assert_int_equal(call_wait(&ready), 0);
    assert_int_equal(call_wait(&creating), 0);
    assert_int_equal(f->quiesced, 1);
    fixture_put(f, m.id, f->volume->lease.epoch, 5, 10, 50);
    fixture_expect(f, s1, want_chain_old);
    fixture_expect(f, m.id, want_chain_new);
}

static void read__part_of_a_sector_run_and_bad_ranges(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    fixture_put(f, s1, fixture_lease(f), 10, 10, 100);
    struct reading *g = calloc(1, sizeof *g);
    *g = (struct reading){.snapshot = s1, .offset = 10 * CHUNK_BYTES - 512, .len = 1536};
    assert_int_equal(call(f, fixture_do_read, g), 0);
    assert_int_equal(g->bytes[0], ORIGIN);
    assert_int_equal(g->bytes[511], ORIGIN);
    assert_int_equal(g->bytes[512], 110);
    assert_int_equal(g->bytes[1535], 110);
    *g = (struct reading){.snapshot = s1, .offset = 100, .len = 512};
    assert_int_equal(call(f, fixture_do_read, g), SNAP_EINVAL);
    *g = (struct reading){.snapshot = s1, .offset = (CHUNKS - 1) * CHUNK_BYTES, .len = 8192};
    assert_int_equal(call(f, fixture_do_read, g), SNAP_EINVAL);
    *g = (struct reading){.snapshot = uuid_make(), .len = 512};
    assert_int_equal(call(f, fixture_do_read, g), SNAP_ENOENT);
    free(g);
}

static void put__stale_epoch_or_head_and_chunks_outside_are_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    struct batch b = fixture_batch(s1, epoch - 1, 0, 1, 0);
    assert_int_equal(call(f, fixture_do_put, &b), SNAP_ESTALE);
    b = fixture_batch(uuid_make(), epoch, 0, 1, 0);
    assert_int_equal(call(f, fixture_do_put, &b), SNAP_ESTALE);
    b = fixture_batch(s1, epoch, CHUNKS, 1, 0);
    assert_int_equal(call(f, fixture_do_put, &b), SNAP_EINVAL);
    assert_int_equal(fixture_look(f, s1).exceptions, 0);
}

/* -- runs ---------------------------------------------------------------------------------- */

struct listing {
    struct uuid id;
    struct volume_runs runs;
    uint64_t old_chunk[8], count[8], new_chunk[8];
};

static void do_list(struct call *c)
{
    struct listing *l = c->arg;
    l->runs.old_chunk = l->old_chunk;
    l->runs.count = l->count;
    l->runs.new_chunk = l->new_chunk;
    struct err err = ERR_INIT;
    int rc =
        volume_list_runs(c->f->volume, volume_snapshot_find(c->f->volume, &l->id), &l->runs, &err);
    call_end(c, rc, &err);
}

static void list__pages_own_and_view(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    fixture_put(f, s1, epoch, 10, 5, 0);
    fixture_put(f, s1, epoch, 20, 2, 0);
    fixture_put(f, s1, epoch, 30, 1, 0);
    struct listing l = {.id = s1, .runs = {.runs_max = 2}};
    assert_int_equal(call(f, do_list, &l), 0);
    assert_int_equal(l.runs.n, 2);
    assert_int_equal(l.old_chunk[0], 10);
    assert_int_equal(l.count[0], 5);
    assert_int_equal(l.old_chunk[1], 20);
    assert_true(l.runs.more);
    assert_int_equal(l.runs.next_chunk, 30);
    l = (struct listing){.id = s1, .runs = {.runs_max = 8, .own = true, .start_chunk = 12}};
    assert_int_equal(call(f, do_list, &l), 0);
    assert_int_equal(l.runs.n, 3);
    assert_int_equal(l.old_chunk[0], 12);
    assert_int_equal(l.count[0], 3);
    assert_int_equal(l.new_chunk[0], 4);
    assert_false(l.runs.more);
}

/* The next chunk of a page that ends behind one: the newer snapshot's entry of the same chunk,
 * which comes next in the map, is not its own. */
static void list__pages_of_one_tell_each_chunk_once(void **state)
{
    struct fixture *f = *state;
    uint64_t start = 0;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    for (uint64_t c = 0; c < 4; c++)
        fixture_put(f, s1, epoch, 2 * c, 1, 0);
    lease_free(&f->volume->lease);
    struct uuid s2 = fixture_create(f, "s2");
    epoch = fixture_lease(f);
    fixture_put(f, s2, epoch, 0, 8, 0);
    for (uint64_t c = 0; c < 4; c++) {
        struct listing l = {.id = s1, .runs = {.runs_max = 1, .own = true, .start_chunk = start}};
        assert_int_equal(call(f, do_list, &l), 0);
        assert_int_equal(l.runs.n, 1);
        assert_int_equal(l.old_chunk[0], 2 * c);
        assert_int_equal(l.count[0], 1);
        start = l.runs.next_chunk;
    }
}

/* -- leases ---------------------------------------------------------------------------------- */

static void lease__second_writer_busy_thief_fences(void **state)
{
    struct fixture *f = *state;
    uint64_t epoch = fixture_lease(f);
    struct writer x = fixture_writer(f, "x");
    x.instance = uuid_make();
    x.session = 2;
    assert_int_equal(call(f, fixture_do_acquire, &x), SNAP_EBUSY);
    x.steal = true;
    assert_int_equal(call(f, fixture_do_acquire, &x), 0);
    assert_int_equal(f->volume->lease.epoch, epoch + 1);
    assert_int_equal(f->lost, 1);
}

static void lease__epoch_survives_and_the_same_writer_keeps_it(void **state)
{
    struct fixture *f = *state;
    uint64_t epoch = fixture_lease(f);
    fixture_reopen(f);
    struct writer w = fixture_writer(f, "w");
    w.epoch = epoch;
    assert_int_equal(call(f, fixture_do_acquire, &w), 0);
    assert_int_equal(f->volume->lease.epoch, epoch);
}

static void lease__other_size_or_origin_is_a_mismatch(void **state)
{
    struct fixture *f = *state;
    struct writer w = fixture_writer(f, "w");
    w.size_bytes++;
    assert_int_equal(call(f, fixture_do_acquire, &w), SNAP_EMISMATCH);
    w = fixture_writer(f, "w");
    w.fingerprint = "disk-a";
    assert_int_equal(call(f, fixture_do_acquire, &w), 0);
    w.fingerprint = "disk-b";
    assert_int_equal(call(f, fixture_do_acquire, &w), SNAP_EMISMATCH);
    w.new_origin = true;
    assert_int_equal(call(f, fixture_do_acquire, &w), 0);
    fixture_reopen(f);
    w.new_origin = false;
    w.fingerprint = "disk-a";
    assert_int_equal(call(f, fixture_do_acquire, &w), SNAP_EMISMATCH);
}

static void do_gone(struct call *c)
{
    volume_holder_gone(c->f->volume, 1);
    call_end(c, 0, NULL);
}

static void create__dead_writer_is_waited_for_and_fenced(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    assert_int_equal(call(f, do_gone, NULL), 0);
    uint64_t before = clock_now_ns(clock_system());
    struct uuid s2 = fixture_create(f, "s2");
    assert_true(clock_now_ns(clock_system()) - before > 100 * 1000000ULL);
    assert_int_equal(f->volume->lease.epoch, epoch + 1);
    struct batch b = fixture_batch(s1, epoch, 0, 1, 0);
    assert_int_equal(call(f, fixture_do_put, &b), SNAP_ESTALE);
    b = fixture_batch(s2, epoch, 0, 1, 0);
    assert_int_equal(call(f, fixture_do_put, &b), SNAP_ESTALE);
}

static void do_lease_commit(struct call *c)
{
    const int *change = c->arg;
    c->f->volume->lease_commits += (unsigned)*change;
    snapshot_create_poll(c->f->volume);
    call_end(c, 0, NULL);
}

static void create__waits_for_a_lease_that_is_being_given(void **state)
{
    struct fixture *f = *state;
    struct make m = {.id = uuid_make(), .name = "s1"};
    struct call creating;
    int more = 1, less = -1;
    assert_int_equal(call(f, do_lease_commit, &more), 0);
    call_begin(&creating, f, fixture_do_create, &m);
    (void)usleep(100000);
    assert_int_equal(fixture_look(f, m.id).nodes, 0);
    assert_int_equal(call(f, do_lease_commit, &less), 0);
    assert_int_equal(call_wait(&creating), 0);
}

static void do_renew(struct call *c)
{
    struct volume *v = c->f->volume;
    struct err err = ERR_INIT;
    int rc = lease_check(&v->lease, "w", v->lease.epoch, volume_now_ns(v), &err);
    call_end(c, rc, &err);
}

static void create__writer_that_goes_on_times_it_out_and_nothing_changed(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    struct call creating;
    char cow[LIMIT_PATH_BYTES];
    struct make m = {.id = uuid_make(), .name = "s2"};
    call_begin(&creating, f, fixture_do_create, &m);
    for (int i = 0; i < 12; i++) {
        (void)usleep(50000);
        assert_int_equal(call(f, do_renew, NULL), 0);
    }
    assert_int_equal(call_wait(&creating), SNAP_ETIMEDOUT);
    assert_int_equal(fixture_look(f, s1).nodes, 1);
    fixture_put(f, s1, epoch, 0, 1, 0);
    for (int i = 0; i < 100 && access(fixture_cow_path(f, m.id, cow, sizeof cow), F_OK) == 0; i++)
        (void)usleep(10000);
    assert_int_equal(access(cow, F_OK), -1);
}

/* -- merging ---------------------------------------------------------------------------------- */

static int merge_step(struct fixture *f, struct merging *g,
                      void (*fn)(struct volume *, struct volume_merge *))
{
    g->fn = fn;
    return call(f, fixture_do_merge, g);
}

static void merge__sole_snapshot_empties_from_the_end_also_over_a_restart(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    fixture_put(f, s1, epoch, 10, 3, 0);
    fixture_put(f, s1, epoch, 20, 2, 0);
    struct merging g = {.m = {.snapshot = s1}};
    assert_int_equal(merge_step(f, &g, volume_merge_begin), 0);
    assert_true(g.m.table_mode);
    assert_int_equal(g.m.table_len, 5);
    struct batch b = fixture_batch(s1, epoch, 30, 1, 0);
    assert_int_equal(call(f, fixture_do_put, &b), SNAP_EBUSY);
    assert_int_equal(merge_step(f, &g, volume_merge_prepare), 0);
    assert_int_equal(g.m.run.count, 2);
    assert_int_equal(g.m.run.old_chunk, 20);
    g.m.commit_table_len = 4;
    g.m.commit_count = 2;
    assert_int_equal(merge_step(f, &g, volume_merge_commit), SNAP_EMISMATCH);
    g.m.commit_table_len = 5;
    assert_int_equal(merge_step(f, &g, volume_merge_commit), 0);
    assert_int_equal(merge_step(f, &g, volume_merge_end), SNAP_EBUSY);

    fixture_reopen(f);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_MERGING);
    struct writer w = fixture_writer(f, "w");
    w.epoch = epoch;
    assert_int_equal(call(f, fixture_do_acquire, &w), 0);
    assert_int_equal(merge_step(f, &g, volume_merge_begin), 0);
    assert_int_equal(g.m.table_len, 3);
    assert_int_equal(merge_step(f, &g, volume_merge_prepare), 0);
    g.m.commit_table_len = 3;
    g.m.commit_count = g.m.run.count;
    assert_int_equal(merge_step(f, &g, volume_merge_commit), 0);
    assert_int_equal(merge_step(f, &g, volume_merge_end), 0);
    assert_int_equal(merge_step(f, &g, volume_merge_end), 0);
    fixture_settle(f);
    assert_int_equal(fixture_look(f, s1).nodes, 0);
}

static void merge__abort_lets_puts_go_on(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    uint64_t epoch = fixture_lease(f);
    fixture_put(f, s1, epoch, 10, 3, 0);
    struct merging g = {.m = {.snapshot = s1}};
    assert_int_equal(merge_step(f, &g, volume_merge_begin), 0);
    assert_int_equal(merge_step(f, &g, volume_merge_prepare), 0);
    g.m.commit_table_len = 3;
    g.m.commit_count = 1;
    assert_int_equal(merge_step(f, &g, volume_merge_commit), 0);
    assert_int_equal(merge_step(f, &g, volume_merge_abort), 0);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_OK);
    fixture_put(f, s1, epoch, 40, 1, 0);
    assert_int_equal(fixture_look(f, s1).exceptions, 3);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        CASE(create__same_uuid_again_is_the_same_snapshot),
        CASE(create__name_in_use_is_refused),
        CASE(create__other_chunk_size_is_refused),
        CASE(create__record_that_cannot_be_saved_changes_nothing),
        CASE(create__unlisted_file_of_a_crash_is_replaced),
        CASE(bound__used_device_is_refused_unless_taken_over),
        CASE(bound__second_use_missing_and_unsound_devices_are_refused),
        CASE(create__waits_for_a_lease_that_is_being_given),
        CASE(put__old_content_reads_back_also_after_opening_again),
        CASE(put__zero_chunks_read_as_zeros),
        CASE(put__first_content_wins),
        CASE(read__older_snapshot_reads_through_newer),
        CASE(read__part_of_a_sector_run_and_bad_ranges),
        CASE(put__stale_epoch_or_head_and_chunks_outside_are_refused),
        CASE(list__pages_own_and_view),
        CASE(list__pages_of_one_tell_each_chunk_once),
        CASE(lease__second_writer_busy_thief_fences),
        CASE(lease__epoch_survives_and_the_same_writer_keeps_it),
        CASE(lease__other_size_or_origin_is_a_mismatch),
        CASE(create__dead_writer_is_waited_for_and_fenced),
        CASE(create__writer_that_goes_on_times_it_out_and_nothing_changed),
        CASE(merge__sole_snapshot_empties_from_the_end_also_over_a_restart),
        CASE(merge__abort_lets_puts_go_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
