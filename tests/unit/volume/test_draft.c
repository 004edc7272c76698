/* SPDX-License-Identifier: Apache-2.0 */
/* Notes about nodes on their way in or out: there as long as files of theirs may be. */
#include "tests/unit/volume/job_fixture.h"

#include "daemon/volume/draft.h"

static bool has_file(const struct fixture *f, struct uuid node, const char *end)
{
    char path[LIMIT_PATH_BYTES];
    fixture_cow_path(f, node, path, sizeof path);
    (void)snprintf(strrchr(path, '.'), 16, "%s", end);
    return access(path, F_OK) == 0;
}

static int remove_no_cow(void *user, const char *path, struct err *reterr)
{
    if (strcmp(strrchr(path, '.'), ".cow") == 0)
        return err_set(reterr, SNAP_EIO, "remove %s", path);
    return volume_storage_files.remove(user, path, reterr);
}

/* Deleted, dropped, and what is removed behind that has been. */
static void drop(struct fixture *f, struct uuid s)
{
    assert_int_equal(fixture_delete(f, s, uuid_make(), false), 0);
    struct nothing n; /* behind it on the control thread */
    fixture_settle(f);
    assert_int_equal(call(f, fixture_do_nothing, &n), 0);
}

static void drop__leaves_neither_files_nor_note(void **state)
{
    struct fixture *f = *state;
    struct uuid s1 = fixture_create(f, "s1");
    assert_true(has_file(f, s1, ".cow"));
    assert_true(has_file(f, s1, ".sum"));
    assert_false(has_file(f, s1, DRAFT_END));
    drop(f, s1);
    assert_false(has_file(f, s1, ".cow"));
    assert_false(has_file(f, s1, ".sum"));
    assert_false(has_file(f, s1, DRAFT_END));
}

/* The next start knows whose it is, and tries again. */
static void drop__file_that_cannot_be_removed_keeps_its_note(void **state)
{
    struct fixture *f = *state;
    struct volume_storage storage = volume_storage_files;
    struct uuid s1 = fixture_create(f, "s1");
    storage.remove = remove_no_cow;
    f->env.storage = &storage;
    drop(f, s1);
    assert_true(has_file(f, s1, ".cow"));
    assert_false(has_file(f, s1, ".sum"));
    assert_true(has_file(f, s1, DRAFT_END));
    f->env.storage = &volume_storage_files;
}

static int save_nothing(void *user, const char *dir, const struct volume_record *r,
                        struct err *reterr)
{
    (void)user;
    (void)dir;
    (void)r;
    return err_set(reterr, SNAP_EIO, "save");
}

/* Its files are made, and the record cannot be. */
static struct uuid refuse(struct fixture *f, struct volume_storage *storage, struct uuid source)
{
    const struct uuid id = uuid_make();
    storage->save = save_nothing;
    f->env.storage = storage;
    if (uuid_is_zero(&source)) {
        struct make m = {.id = id, .name = "s1"};
        assert_int_equal(call(f, fixture_do_create, &m), SNAP_EIO);
    } else {
        struct clone_spec spec = {.id = id, .source = source, .name = "c1"};
        assert_int_equal(call(f, fixture_do_clone, &spec), SNAP_EIO);
    }
    f->env.storage = &volume_storage_files;
    return id;
}

static void refused__leaves_neither_files_nor_note(void **state)
{
    struct fixture *f = *state;
    struct volume_storage storage = volume_storage_files;
    struct uuid id = refuse(f, &storage, (struct uuid){.b = {0}});
    assert_false(has_file(f, id, ".cow"));
    assert_false(has_file(f, id, ".sum"));
    assert_false(has_file(f, id, DRAFT_END));
}

static void refused__snapshot_whose_file_stays_keeps_its_note(void **state)
{
    struct fixture *f = *state;
    struct volume_storage storage = volume_storage_files;
    storage.remove = remove_no_cow;
    struct uuid id = refuse(f, &storage, (struct uuid){.b = {0}});
    assert_true(has_file(f, id, ".cow"));
    assert_false(has_file(f, id, ".sum"));
    assert_true(has_file(f, id, DRAFT_END));
}

static void refused__clone_whose_file_stays_keeps_its_note(void **state)
{
    struct fixture *f = *state;
    struct volume_storage storage = volume_storage_files;
    struct uuid s1 = fixture_create(f, "s1");
    storage.remove = remove_no_cow;
    struct uuid id = refuse(f, &storage, s1);
    assert_true(has_file(f, id, ".cow"));
    assert_false(has_file(f, id, ".sum"));
    assert_true(has_file(f, id, DRAFT_END));
}

static int setup_hosted(void **state)
{
    return fixture_setup_as(state,
                            &(struct fixture_spec){.kind = VOLUME_HOSTED, .checksums = true});
}

static int setup(void **state)
{
    return fixture_setup_as(state,
                            &(struct fixture_spec){.kind = VOLUME_REMOTE, .checksums = true});
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(drop__leaves_neither_files_nor_note),
        CASE(drop__file_that_cannot_be_removed_keeps_its_note),
        CASE(refused__leaves_neither_files_nor_note),
        CASE(refused__snapshot_whose_file_stays_keeps_its_note),
        cmocka_unit_test_setup_teardown(refused__clone_whose_file_stays_keeps_its_note,
                                        setup_hosted, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
