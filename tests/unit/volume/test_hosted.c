/* SPDX-License-Identifier: Apache-2.0 */
/* Hosted volumes: what is written reads back, and what snapshots and clones had stays theirs. */
#include "tests/unit/volume/hosted_fixture.h"
#include "tests/unit/volume/job_fixture.h"
#include "tests/unit/volume/remote_fixture.h"

#include <sys/stat.h>

/* -- writing -------------------------------------------------------------------------------- */

static void write__any_offset_and_length_reads_back_also_after_opening_again(void **state)
{
    struct fixture *f = *state;
    fixture_expect_byte(f, ITSELF, 0, SIZE, 0);
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    assert_int_equal(fixture_fill(f, ITSELF, CHUNK_BYTES, CHUNK_BYTES, 2), 0);
    assert_int_equal(fixture_fill(f, ITSELF, 100, 7, 3), 0);
    assert_int_equal(fixture_fill(f, ITSELF, 3 * CHUNK_BYTES - 1, 2, 4), 0);
    assert_int_equal(fixture_fill(f, ITSELF, SIZE - 1, 1, 5), 0);
    assert_int_equal(fixture_fill(f, ITSELF, 8 * CHUNK_BYTES + 5, 5 * CHUNK_BYTES + 9, 6), 0);
    for (int again = 0; again < 2; again++) {
        fixture_expect_byte(f, ITSELF, 0, 100, 1);
        fixture_expect_byte(f, ITSELF, 100, 107, 3);
        fixture_expect_byte(f, ITSELF, 107, CHUNK_BYTES, 1);
        fixture_expect_byte(f, ITSELF, CHUNK_BYTES, 2 * CHUNK_BYTES, 2);
        fixture_expect_byte(f, ITSELF, 3 * CHUNK_BYTES - 1, 3 * CHUNK_BYTES + 1, 4);
        fixture_expect_byte(f, ITSELF, 8 * CHUNK_BYTES + 5, 13 * CHUNK_BYTES + 14, 6);
        fixture_expect_byte(f, ITSELF, 13 * CHUNK_BYTES + 14, SIZE - 1, 1);
        fixture_expect_byte(f, ITSELF, SIZE - 1, SIZE, 5);
        fixture_reopen(f);
    }
}

/* Starts what cannot be done, and returns what was said. */
static const char *refused_text(struct fixture *f, enum volume_write_op op, uint64_t offset_bytes,
                                uint64_t len_bytes)
{
    static struct err err;
    struct writing g = {.write = {.op = op, .offset_bytes = offset_bytes, .len_bytes = len_bytes}};
    struct call c;
    call_begin(&c, f, fixture_do_write, &g);
    assert_int_equal(call_wait(&c), SNAP_EINVAL);
    err = c.err;
    return err.text;
}

static void write__refusal_says_what_was_asked_for(void **state)
{
    struct fixture *f = *state;
    assert_non_null(strstr(refused_text(f, VOLUME_WRITE, 0, 0), "a write of 0 bytes at 0 of a"));
    assert_non_null(strstr(refused_text(f, VOLUME_ZERO, SIZE, 1), "zeroing of 1 bytes at "));
    assert_non_null(strstr(refused_text(f, VOLUME_DISCARD, SIZE, 2), "a discard of 2 bytes at "));
    assert_non_null(strstr(refused_text(f, VOLUME_ZERO, 0, VOLUME_ZERO_BYTES_MAX + 1),
                           "zeroing of 4294967297 bytes: 4294967296 is the most at once"));
}

static void write__bad_ranges_and_places_are_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    assert_int_equal(fixture_fill(f, ITSELF, SIZE, 1, 1), SNAP_EINVAL);
    assert_int_equal(fixture_fill(f, ITSELF, SIZE - 1, 2, 1), SNAP_EINVAL);
    assert_int_equal(fixture_fill(f, ITSELF, UINT64_MAX, 2, 1), SNAP_EINVAL);
    assert_int_equal(fixture_fill(f, ITSELF, 0, 0, 1), SNAP_EINVAL);
    assert_int_equal(fixture_op(f, ITSELF, VOLUME_ZERO, 0, VOLUME_ZERO_BYTES_MAX + 1), SNAP_EINVAL);
    assert_int_equal(fixture_fill(f, s1, 0, 1, 1), SNAP_EPERM);
    assert_int_equal(fixture_fill(f, uuid_make(), 0, 1, 1), SNAP_ENOENT);
}

static void write__remote_volume_is_refused(void **state)
{
    assert_int_equal(fixture_fill(*state, ITSELF, 0, 1, 1), SNAP_ENOTSUP);
    assert_int_equal(fixture_op(*state, ITSELF, VOLUME_FLUSH, 0, 0), SNAP_ENOTSUP);
}

static void lease__and_puts_of_a_hosted_volume_are_refused(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    struct writer w = fixture_writer(f, "w");
    assert_int_equal(call(f, fixture_do_acquire, &w), SNAP_ENOTSUP);
    struct batch b = fixture_batch(s1, 1, 0, 1, 0);
    assert_int_equal(call(f, fixture_do_put, &b), SNAP_ENOTSUP);
}

static void write__flush_and_fua_succeed(void **state)
{
    struct fixture *f = *state;
    uint8_t data[CHUNK_BYTES * 2] = {1};
    struct writing g = {.write = {.op = VOLUME_WRITE, .fua = true, .len_bytes = CHUNK_BYTES},
                        .data = data};
    assert_int_equal(call(f, fixture_do_write, &g), 0);
    g.write.offset_bytes = 5;
    assert_int_equal(call(f, fixture_do_write, &g), 0);
    assert_int_equal(fixture_op(f, ITSELF, VOLUME_FLUSH, 0, 0), 0);
    struct uuid c = fixture_clone(f, fixture_create(f, "s1"), "c");
    for (int i = 0; i < 2; i++) { /* put, then in place */
        g.write.node = c;
        assert_int_equal(call(f, fixture_do_write, &g), 0);
    }
    assert_int_equal(fixture_op(f, c, VOLUME_FLUSH, 0, 0), 0);
}

/* -- snapshots ------------------------------------------------------------------------------- */

static void snapshot__keeps_what_was_there_whatever_part_is_overwritten(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    struct uuid s1 = fixture_create(f, "s1");
    assert_int_equal(fixture_fill(f, ITSELF, 0, CHUNK_BYTES, 2), 0);
    assert_int_equal(fixture_fill(f, ITSELF, 2 * CHUNK_BYTES + 17, 5, 2), 0);
    assert_int_equal(fixture_fill(f, ITSELF, 5 * CHUNK_BYTES - 3, CHUNK_BYTES + 6, 2), 0);
    fixture_expect_byte(f, s1, 0, SIZE, 1);
    assert_int_equal(fixture_look(f, s1).exceptions, 1 + 1 + 3);
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 3), 0);
    fixture_expect_byte(f, s1, 0, SIZE, 1);
    fixture_expect_byte(f, ITSELF, 0, SIZE, 3);
    assert_int_equal(fixture_look(f, s1).exceptions, CHUNKS);
    fixture_reopen(f);
    fixture_expect_byte(f, s1, 0, SIZE, 1);
    fixture_expect_byte(f, ITSELF, 0, SIZE, 3);
}

static void snapshot__first_overwrite_is_copied_once_into_the_newest(void **state)
{
    struct fixture *f = *state;
    struct uuid s[3];
    char name[8];
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, i + 1), 0);
        (void)snprintf(name, sizeof name, "s%d", i);
        s[i] = fixture_create(f, name);
    }
    assert_int_equal(fixture_fill(f, ITSELF, 0, 2 * CHUNK_BYTES, 9), 0);
    assert_int_equal(fixture_fill(f, ITSELF, 0, 2 * CHUNK_BYTES, 10), 0);
    assert_int_equal(fixture_look(f, s[2]).exceptions, 2);
    assert_int_equal(fixture_look(f, s[1]).exceptions, CHUNKS);
    for (int i = 0; i < 3; i++)
        fixture_expect_byte(f, s[i], 0, SIZE, i + 1);
}

static void zero__and_discard_read_as_zeros_and_snapshots_keep_theirs(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    struct uuid s1 = fixture_create(f, "s1");
    assert_int_equal(fixture_op(f, ITSELF, VOLUME_ZERO, 10, 3 * CHUNK_BYTES), 0);
    assert_int_equal(
        fixture_op(f, ITSELF, VOLUME_DISCARD, 8 * CHUNK_BYTES - 1, 8 * CHUNK_BYTES + 2), 0);
    fixture_expect_byte(f, ITSELF, 0, 10, 1);
    fixture_expect_byte(f, ITSELF, 10, 3 * CHUNK_BYTES + 10, 0);
    fixture_expect_byte(f, ITSELF, 3 * CHUNK_BYTES + 10, 8 * CHUNK_BYTES - 1, 1);
    fixture_expect_byte(f, ITSELF, 8 * CHUNK_BYTES - 1, 16 * CHUNK_BYTES + 1, 0);
    fixture_expect_byte(f, ITSELF, 16 * CHUNK_BYTES + 1, SIZE, 1);
    fixture_expect_byte(f, s1, 0, SIZE, 1);
}

static void discard__of_holes_costs_a_snapshot_nothing(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fixture_fill(f, ITSELF, 8 * CHUNK_BYTES, CHUNK_BYTES, 1), 0);
    struct uuid s1 = fixture_create(f, "s1");
    assert_int_equal(fixture_op(f, ITSELF, VOLUME_DISCARD, 0, SIZE), 0);
    assert_int_equal(fixture_look(f, s1).exceptions, 1);
    assert_int_equal(fixture_op(f, ITSELF, VOLUME_ZERO, 0, SIZE), 0);
    assert_int_equal(fixture_look(f, s1).exceptions, 1);
    fixture_expect_byte(f, ITSELF, 0, SIZE, 0);
    fixture_expect_byte(f, s1, 8 * CHUNK_BYTES, 9 * CHUNK_BYTES, 1);
    fixture_expect_byte(f, s1, 9 * CHUNK_BYTES, SIZE, 0);
}

static uint64_t origin_blocks(const struct fixture *f)
{
    char path[LIMIT_PATH_BYTES];
    struct stat st;
    assert_int_equal(stat(fixture_origin_path(f, path, sizeof path), &st), 0);
    return (uint64_t)st.st_blocks;
}

static void discard__gives_space_back_and_extents_show_it(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(origin_blocks(f), 0);
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    assert_true(origin_blocks(f) >= SIZE / 512);
    assert_int_equal(fixture_op(f, ITSELF, VOLUME_DISCARD, 0, SIZE), 0);
    assert_int_equal(origin_blocks(f), 0);
}

/* -- clones ------------------------------------------------------------------------------------ */

static void clone__is_written_apart_from_all_others(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    struct uuid s1 = fixture_create(f, "s1"), a = fixture_clone(f, s1, "a"),
                b = fixture_clone(f, a, "b");
    assert_int_equal(fixture_fill(f, a, 100, CHUNK_BYTES, 2), 0);
    fixture_expect_byte(f, a, 0, 100, 1);
    fixture_expect_byte(f, a, 100, CHUNK_BYTES + 100, 2);
    fixture_expect_byte(f, a, CHUNK_BYTES + 100, SIZE, 1);
    fixture_expect_byte(f, b, 0, SIZE, 1);
    fixture_expect_byte(f, s1, 0, SIZE, 1);
    assert_int_equal(fixture_fill(f, a, 50, 100, 3), 0); /* in place, and b has it already */
    assert_int_equal(fixture_op(f, b, VOLUME_ZERO, 0, 10), 0);
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 9), 0);
    for (int again = 0; again < 2; again++) {
        fixture_expect_byte(f, a, 50, 150, 3);
        fixture_expect_byte(f, a, 150, CHUNK_BYTES + 100, 2);
        fixture_expect_byte(f, a, CHUNK_BYTES + 100, SIZE, 1);
        fixture_expect_byte(f, b, 0, 10, 0);
        fixture_expect_byte(f, b, 10, SIZE, 1);
        fixture_expect_byte(f, s1, 0, SIZE, 1);
        fixture_expect_byte(f, ITSELF, 0, SIZE, 9);
        fixture_reopen(f);
    }
}

/* -- full ------------------------------------------------------------------------------------- */

static int setup_invalidate(void **state)
{
    return fixture_setup_as(
        state, &(struct fixture_spec){.kind = VOLUME_HOSTED, .full_policy = FULL_INVALIDATE});
}

static struct uuid create_small(struct fixture *f, const char *name)
{
    struct make m = {.id = uuid_make(), .name = name, .limit_bytes = 8 * CHUNK_BYTES};
    assert_int_equal(call(f, fixture_do_create, &m), 0);
    return m.id;
}

static void full__write_is_refused_and_names_the_snapshot(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    struct uuid s1 = create_small(f, "s1");
    uint8_t data[16 * CHUNK_BYTES] = {0};
    struct writing g = {.write = {.op = VOLUME_WRITE, .len_bytes = sizeof data}, .data = data};
    struct call c;
    call_begin(&c, f, fixture_do_write, &g);
    assert_int_equal(call_wait(&c), SNAP_ENOSPC);
    assert_non_null(strstr(c.err.text, "preserve for vol@s1: "));
    assert_non_null(strstr(c.err.text, " does not fit in 32K; to go on, delete vol@s1"));
    fixture_expect_byte(f, s1, 0, SIZE, 1);
    fixture_expect_byte(f, ITSELF, 0, SIZE, 1);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_OK);
    assert_int_equal(fixture_fill(f, ITSELF, 0, 1, 2), 0); /* that one has found room */
}

static void full__policy_invalidates_and_the_write_succeeds(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    struct uuid s1 = create_small(f, "s1");
    struct call calls[4];
    struct writing g[4];
    uint8_t data[16 * CHUNK_BYTES];
    memset(data, 2, sizeof data);
    for (unsigned i = 0; i < 4; i++) {
        g[i] = (struct writing){.write = {.op = VOLUME_WRITE,
                                          .offset_bytes = i * sizeof data,
                                          .len_bytes = sizeof data},
                                .data = data};
        call_begin(&calls[i], f, fixture_do_write, &g[i]);
    }
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(call_wait(&calls[i]), 0);
    fixture_expect_byte(f, ITSELF, 0, SIZE, 2);
    static const char full[] = "it was full (limit 32K), and the volume's policy is to invalidate";
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_INVALID);
    assert_string_equal(fixture_look(f, s1).text, full);
    uint8_t byte;
    assert_int_equal(fixture_read(f, s1, 0, 1, &byte), SNAP_EINVALID);
    struct uuid s2 = fixture_create(f, "s2");
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 3), 0);
    fixture_expect_byte(f, s2, 0, SIZE, 2);
    fixture_reopen(f);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_INVALID);
    assert_string_equal(fixture_look(f, s1).text, full);
    fixture_expect_byte(f, s2, 0, SIZE, 2);
}

/* -- the origin's device ------------------------------------------------------------------- */

static void open__missing_origin_is_shown_and_io_says_so(void **state)
{
    struct fixture *f = *state;
    char path[LIMIT_PATH_BYTES];
    uint8_t byte;
    struct uuid s1 = fixture_create(f, "s1");
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    assert_int_equal(unlink(fixture_origin_path(f, path, sizeof path)), 0);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    assert_int_equal(fixture_read(f, ITSELF, 0, 1, &byte), SNAP_EIO);
    assert_int_equal(fixture_fill(f, ITSELF, 0, 1, 1), SNAP_EIO);
    assert_int_equal(fixture_op(f, ITSELF, VOLUME_FLUSH, 0, 0), SNAP_EIO);
    assert_true(fixture_read(f, s1, 0, 1, &byte) < 0);
}

/* -- extents --------------------------------------------------------------------------- */

struct extent_list {
    struct uuid node;
    uint64_t offset, len;
    struct volume_extent extents[CHUNKS];
    uint32_t count, max;
};

static void do_extents(struct call *c)
{
    struct extent_list *l = c->arg;
    struct err err = ERR_INIT;
    int rc = volume_extents(c->f->volume, &l->node, l->offset, l->len, l->extents, l->max,
                            &l->count, &err);
    call_end(c, rc, &err);
}

static void extents__tell_data_from_zeros(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(fixture_fill(f, ITSELF, 16 * CHUNK_BYTES, 16 * CHUNK_BYTES, 1), 0);
    struct uuid s1 = fixture_create(f, "s1");
    assert_int_equal(fixture_fill(f, ITSELF, 0, CHUNK_BYTES, 1), 0);
    struct extent_list l = {.len = SIZE, .max = CHUNKS};
    assert_int_equal(call(f, do_extents, &l), 0);
    assert_int_equal(l.count, 4);
    assert_int_equal(l.extents[0].kind, VOLUME_EXTENT_DATA);
    assert_int_equal(l.extents[0].len_bytes, CHUNK_BYTES);
    assert_int_equal(l.extents[1].kind, VOLUME_EXTENT_ZERO);
    assert_int_equal(l.extents[2].offset_bytes, 16 * CHUNK_BYTES);
    assert_int_equal(l.extents[3].kind, VOLUME_EXTENT_ZERO);
    assert_int_equal(l.extents[3].offset_bytes + l.extents[3].len_bytes, SIZE);
    l.node = s1; /* its first chunk is an exception: data, though it is all zeros */
    l.max = 2;
    assert_int_equal(call(f, do_extents, &l), 0);
    assert_int_equal(l.count, 2);
    assert_int_equal(l.extents[0].len_bytes, CHUNK_BYTES);
    l = (struct extent_list){.offset = 100, .len = 7, .max = CHUNKS};
    assert_int_equal(call(f, do_extents, &l), 0);
    assert_int_equal(l.count, 1);
    assert_int_equal(l.extents[0].offset_bytes, 100);
    assert_int_equal(l.extents[0].len_bytes, 7);
    l.len = SIZE;
    assert_int_equal(call(f, do_extents, &l), SNAP_EINVAL);
}

/* -- a COW device that cannot be opened ------------------------------------------------------- */

/* s1 <- s2, the latter's device damaged; the volume is open again. */
static void make_damaged(struct fixture *f, struct uuid *s1, struct uuid *s2)
{
    assert_int_equal(fixture_fill(f, ITSELF, 0, SIZE, 1), 0);
    *s1 = fixture_create(f, "s1");
    *s2 = fixture_create(f, "s2");
    fixture_reopen_with(f, *s2, 'x');
    assert_int_equal(fixture_look(f, *s2).state, SNAPSHOT_DAMAGED);
}

static void damaged__first_overwrites_are_refused_with_a_remedy(void **state)
{
    struct fixture *f = *state;
    struct uuid s1, s2;
    uint8_t data[512] = {2};
    make_damaged(f, &s1, &s2);
    struct writing g = {.write = {.op = VOLUME_WRITE, .len_bytes = sizeof data}, .data = data};
    struct call c;
    call_begin(&c, f, fixture_do_write, &g);
    assert_int_equal(call_wait(&c), SNAP_ECORRUPT);
    assert_non_null(strstr(c.err.text, "vol@s2"));
    assert_non_null(strstr(c.err.text, "snapctl cow check --repair"));
    fixture_expect_byte(f, ITSELF, 0, SIZE, 1);
    /* as it says: put right */
    fixture_reopen_with(f, s2, 'S');
    assert_int_equal(fixture_fill(f, ITSELF, 0, 512, 2), 0);
    fixture_expect_byte(f, s2, 0, SIZE, 1);
    fixture_expect_byte(f, s1, 0, SIZE, 1);
}

static void damaged__policy_makes_it_invalid_for_good_and_the_write_succeeds(void **state)
{
    struct fixture *f = *state;
    struct uuid s1, s2;
    uint8_t got[512];
    make_damaged(f, &s1, &s2);
    assert_int_equal(fixture_fill(f, ITSELF, 0, 512, 2), 0);
    fixture_expect_byte(f, ITSELF, 0, 512, 2);
    for (int again = 0; again < 2; again++) { /* its device comes back, and knows of nothing */
        struct look l = fixture_look(f, s2);
        assert_int_equal(l.state, SNAPSHOT_INVALID);
        assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_INVALID);
        assert_int_equal(fixture_read(f, s1, 0, 512, got), SNAP_EINVALID);
        assert_int_equal(fixture_fill(f, ITSELF, 4096, 512, 3), 0);
        fixture_reopen_with(f, s2, 'S');
    }
    struct uuid s3 = fixture_create(f, "s3");
    assert_int_equal(fixture_fill(f, ITSELF, 0, 512, 4), 0);
    fixture_expect_byte(f, s3, 0, 512, 2);
    assert_int_equal(fixture_delete(f, s2, uuid_make(), false), 0);
    fixture_settle(f); /* what it lacks, the older one lacks as well, for good */
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_INVALID);
    assert_int_equal(fixture_delete(f, s1, uuid_make(), false), 0);
    fixture_settle(f);
    fixture_expect_byte(f, s3, 0, 512, 2);
    assert_int_equal(fixture_look(f, s3).nodes, 1);
}

static int save_nothing(void *user, const char *dir, const struct volume_record *r,
                        struct err *reterr)
{
    (void)user;
    (void)dir;
    (void)r;
    return err_set(reterr, SNAP_EIO, "this disk is not written any more");
}

/* That it is given up is durable before what it lacks is overwritten. */
static void damaged__is_not_given_up_when_that_cannot_be_recorded(void **state)
{
    struct fixture *f = *state;
    struct uuid s1, s2;
    struct volume_storage storage = volume_storage_files;
    make_damaged(f, &s1, &s2);
    storage.save = save_nothing;
    f->env.storage = &storage;
    assert_int_equal(fixture_fill(f, ITSELF, 0, 512, 2), SNAP_EIO);
    assert_int_equal(fixture_look(f, s2).state, SNAPSHOT_DAMAGED);
    f->env.storage = &volume_storage_files;
    fixture_reopen_with(f, s2, 'S');
    assert_int_equal(fixture_look(f, s2).state, SNAPSHOT_OK);
    uint8_t was[512], is[512];
    assert_int_equal(fixture_read(f, ITSELF, 0, sizeof was, was), 0);
    assert_int_equal(fixture_read(f, s2, 0, sizeof is, is), 0);
    assert_memory_equal(was, is, sizeof is);
    assert_int_not_equal(is[0], 2);
}

int main(void)
{
#define HOSTED(test) cmocka_unit_test_setup_teardown(test, fixture_setup_hosted, fixture_teardown)
    const struct CMUnitTest tests[] = {
        HOSTED(write__any_offset_and_length_reads_back_also_after_opening_again),
        HOSTED(write__bad_ranges_and_places_are_refused),
        HOSTED(write__refusal_says_what_was_asked_for),
        cmocka_unit_test_setup_teardown(write__remote_volume_is_refused, fixture_setup,
                                        fixture_teardown),
        HOSTED(lease__and_puts_of_a_hosted_volume_are_refused),
        HOSTED(write__flush_and_fua_succeed),
        HOSTED(snapshot__keeps_what_was_there_whatever_part_is_overwritten),
        HOSTED(snapshot__first_overwrite_is_copied_once_into_the_newest),
        HOSTED(zero__and_discard_read_as_zeros_and_snapshots_keep_theirs),
        HOSTED(discard__of_holes_costs_a_snapshot_nothing),
        HOSTED(discard__gives_space_back_and_extents_show_it),
        HOSTED(clone__is_written_apart_from_all_others),
        HOSTED(full__write_is_refused_and_names_the_snapshot),
        cmocka_unit_test_setup_teardown(full__policy_invalidates_and_the_write_succeeds,
                                        setup_invalidate, fixture_teardown),
        HOSTED(damaged__first_overwrites_are_refused_with_a_remedy),
        cmocka_unit_test_setup_teardown(
            damaged__policy_makes_it_invalid_for_good_and_the_write_succeeds, setup_invalidate,
            fixture_teardown),
        cmocka_unit_test_setup_teardown(damaged__is_not_given_up_when_that_cannot_be_recorded,
                                        setup_invalidate, fixture_teardown),
        HOSTED(open__missing_origin_is_shown_and_io_says_so),
        HOSTED(extents__tell_data_from_zeros),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
