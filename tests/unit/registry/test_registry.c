/* SPDX-License-Identifier: Apache-2.0 */
/* The registry on a real file: rows, replacement, damage, schema versions. */
#include "daemon/registry/registry.h"

#include "daemon/registry/schema.h"
#include "tests/lib/cm.h"

#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

struct fixture {
    char dir[64];
    char path[96];
    struct registry *r;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/snapwire-registry-XXXXXX");
    if (!mkdtemp(f->dir))
        return -1;
    (void)snprintf(f->path, sizeof f->path, "%s/registry.db", f->dir);
    struct err e = ERR_INIT;
    if (registry_open(f->path, &f->r, &e) < 0) {
        print_error("%s\n", e.text);
        return -1;
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    registry_close(f->r);
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", f->dir);
    int rc = system(command);
    free(f);
    return rc;
}

static struct registry_volume volume(const char *name)
{
    struct registry_volume v = {.id = uuid_make(), .size_bytes = 1 << 20, .created_s = 5};
    (void)snprintf(v.name, sizeof v.name, "%s", name);
    (void)snprintf(v.place, sizeof v.place, "volumes/%s", name);
    return v;
}

static struct registry_snapshot snapshot(const struct registry_volume *v, const char *name,
                                         uint32_t seq)
{
    return (struct registry_snapshot){
        .id = uuid_make(), .volume = v->id, .name = name, .seq = seq, .cow_path = "x.cow"};
}

struct rows {
    char text[256]; /* "name/seq" each; hidden ones in brackets, clones with their parent */
    struct uuid last;
};

static int row_add(void *user, const struct registry_snapshot *s)
{
    struct rows *r = user;
    size_t at = strlen(r->text);
    (void)snprintf(r->text + at, sizeof r->text - at, s->hidden ? "[%s/%u] " : "%s/%u ", s->name,
                   s->seq);
    at = strlen(r->text);
    if (s->kind == REGISTRY_CLONE)
        (void)snprintf(r->text + at - 1, sizeof r->text - at, "<%u ", s->parent_seq);
    r->last = s->id;
    return 0;
}

/* The volume's rows. */
static const char *rows_of(struct fixture *f, const struct registry_volume *v)
{
    static struct rows r;
    r.text[0] = '\0';
    assert_int_equal(registry_each_snapshot(f->r, &v->id, row_add, &r, NULL), 0);
    return r.text;
}

static void put_volume__is_found_by_name_and_id_after_reopening(void **state)
{
    struct fixture *f = *state;
    struct registry_volume v = volume("disk1"), got;
    struct registry_snapshot s[2] = {snapshot(&v, "a", 1), snapshot(&v, "b", 2)};
    assert_int_equal(registry_put_volume(f->r, &v, s, 2, NULL), 0);
    registry_close(f->r);
    assert_int_equal(registry_open(f->path, &f->r, NULL), 0);
    assert_int_equal(registry_find_volume(f->r, "disk1", &got, NULL), 0);
    assert_true(uuid_equal(&got.id, &v.id));
    assert_string_equal(got.place, "volumes/disk1");
    assert_int_equal(registry_get_volume(f->r, &v.id, &got, NULL), 0);
    assert_string_equal(rows_of(f, &v), "a/1 b/2 ");
}

static void put_volume__replaces_the_snapshots_it_had(void **state)
{
    struct fixture *f = *state;
    struct registry_volume v = volume("disk1");
    struct registry_snapshot a = snapshot(&v, "a", 1), b = snapshot(&v, "b", 2);
    assert_int_equal(registry_put_volume(f->r, &v, &a, 1, NULL), 0);
    assert_int_equal(registry_put_volume(f->r, &v, &b, 1, NULL), 0);
    assert_string_equal(rows_of(f, &v), "b/2 ");
}

static void put_volume__refuses_a_second_of_the_same_name_and_changes_nothing(void **state)
{
    struct fixture *f = *state;
    struct registry_volume v = volume("disk1"), w = volume("disk1"), got;
    struct registry_snapshot s = snapshot(&w, "a", 1);
    struct err e = ERR_INIT;
    assert_int_equal(registry_put_volume(f->r, &v, NULL, 0, NULL), 0);
    assert_int_equal(registry_put_volume(f->r, &w, &s, 1, &e), SNAP_EEXIST);
    assert_non_null(strstr(e.text, "disk1"));
    assert_int_equal(registry_get_volume(f->r, &w.id, &got, NULL), SNAP_ENOENT);
    assert_int_equal(registry_get_volume(f->r, &v.id, &got, NULL), 0);
}

static void hidden_snapshot__frees_its_name(void **state)
{
    struct fixture *f = *state;
    struct registry_volume v = volume("disk1");
    struct registry_snapshot s[2] = {snapshot(&v, "a", 1), snapshot(&v, "a", 2)};
    s[0].hidden = true;
    assert_int_equal(registry_put_volume(f->r, &v, s, 2, NULL), 0);
    assert_string_equal(rows_of(f, &v), "[a/1] a/2 ");
}

static void undo_snapshot__leaves_its_name_to_others(void **state)
{
    struct fixture *f = *state;
    struct registry_volume v = volume("disk1");
    struct registry_snapshot s[2] = {snapshot(&v, "a", 1), snapshot(&v, "a", 2)};
    assert_int_equal(registry_put_volume(f->r, &v, s, 2, NULL), SNAP_EEXIST);
    s[1].kind = REGISTRY_UNDO;
    assert_int_equal(registry_put_volume(f->r, &v, s, 2, NULL), 0);
}

static void update_volume__changes_what_it_is_told_and_no_more(void **state)
{
    struct fixture *f = *state;
    struct registry_volume v = volume("disk1"), w = volume("disk2");
    struct registry_snapshot s[3] = {snapshot(&v, "a", 1), snapshot(&v, "b", 2),
                                     snapshot(&v, "c", 3)};
    struct registry_snapshot other = snapshot(&w, "a", 1);
    other.id = s[0].id; /* uuids are a volume's own business */
    assert_int_equal(registry_put_volume(f->r, &v, s, 3, NULL), 0);
    assert_int_equal(registry_put_volume(f->r, &w, &other, 1, NULL), 0);
    /* a is gone, b is hidden, a new b is made, and a clone of c */
    struct registry_snapshot put[3] = {s[1], snapshot(&v, "b", 4), snapshot(&v, "a", 5)};
    put[0].hidden = true;
    put[2].kind = REGISTRY_CLONE;
    put[2].parent_seq = 3;
    v.size_bytes *= 2;
    assert_int_equal(registry_update_volume(f->r, &v, put, 3, &s[0].id, 1, NULL), 0);
    assert_string_equal(rows_of(f, &v), "[b/2] c/3 b/4 a/5<3 ");
    assert_string_equal(rows_of(f, &w), "a/1 ");
    struct registry_volume got;
    assert_int_equal(registry_get_volume(f->r, &v.id, &got, NULL), 0);
    assert_true(got.size_bytes == v.size_bytes);
}

static void update_volume__that_failed_lags_until_it_is_put_whole(void **state)
{
    struct fixture *f = *state;
    struct registry_volume v = volume("disk1"), w = volume("disk2");
    struct registry_snapshot a = snapshot(&v, "a", 1), twin = snapshot(&v, "a", 2);
    struct err e = ERR_INIT;
    assert_int_equal(registry_put_volume(f->r, &v, &a, 1, NULL), 0);
    assert_int_equal(registry_put_volume(f->r, &w, NULL, 0, NULL), 0);
    assert_int_equal(registry_update_volume(f->r, &v, &twin, 1, NULL, 0, &e), SNAP_EEXIST);
    assert_string_equal(rows_of(f, &v), "a/1 ");
    struct registry_snapshot b = snapshot(&v, "b", 3), c = snapshot(&w, "c", 1);
    assert_int_equal(registry_update_volume(f->r, &v, &b, 1, NULL, 0, &e), SNAP_ESTALE);
    assert_int_equal(registry_update_volume(f->r, &w, &c, 1, NULL, 0, &e), 0);
    assert_int_equal(registry_put_volume(f->r, &v, &a, 1, NULL), 0);
    assert_int_equal(registry_update_volume(f->r, &v, &b, 1, NULL, 0, &e), 0);
    assert_string_equal(rows_of(f, &v), "a/1 b/3 ");
}

/* So many that the registry does not keep count: each has to be put whole from then on. */
static void update_volume__more_laggards_than_are_remembered(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 70; i++) {
        char name[16];
        (void)snprintf(name, sizeof name, "disk%d", i);
        struct registry_volume v = volume(name);
        struct registry_snapshot s[2] = {snapshot(&v, "a", 1), snapshot(&v, "a", 2)};
        assert_int_equal(registry_put_volume(f->r, &v, NULL, 0, NULL), 0);
        assert_int_equal(registry_update_volume(f->r, &v, s, 2, NULL, 0, NULL),
                         i <= 64 ? SNAP_EEXIST : SNAP_ESTALE);
    }
}

static void delete_volume__takes_its_snapshots_along(void **state)
{
    struct fixture *f = *state;
    struct registry_volume v = volume("disk1");
    struct registry_snapshot s = snapshot(&v, "a", 1);
    assert_int_equal(registry_put_volume(f->r, &v, &s, 1, NULL), 0);
    assert_int_equal(registry_delete_volume(f->r, &v.id, NULL), 0);
    assert_string_equal(rows_of(f, &v), "");
}

static int count_volume(void *user, const struct registry_volume *v)
{
    char *seen = user;
    (void)snprintf(seen + strlen(seen), 64 - strlen(seen), "%s ", v->name);
    return 0;
}

static void each_volume__goes_in_name_order(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"c", "a", "b"};
    char seen[64] = "";
    for (int i = 0; i < 3; i++) {
        struct registry_volume v = volume(names[i]);
        assert_int_equal(registry_put_volume(f->r, &v, NULL, 0, NULL), 0);
    }
    assert_int_equal(registry_each_volume(f->r, count_volume, seen, NULL), 0);
    assert_string_equal(seen, "a b c ");
}

static void key__first_outcome_stays(void **state)
{
    struct fixture *f = *state;
    struct uuid key = uuid_make();
    int outcome = 1;
    assert_false(registry_key_get(f->r, &key, &outcome));
    assert_int_equal(registry_key_put(f->r, &key, SNAP_ENOSPC, NULL), 0);
    assert_int_equal(registry_key_put(f->r, &key, 0, NULL), 0);
    assert_true(registry_key_get(f->r, &key, &outcome));
    assert_int_equal(outcome, SNAP_ENOSPC);
}

static void keys__are_copied_with_their_outcome_and_age(void **state)
{
    struct fixture *f = *state;
    struct registry *memory = NULL;
    struct registry_volume v = volume("v");
    struct uuid failed = uuid_make(), done = uuid_make(), old = uuid_make();
    int outcome = 1;
    assert_int_equal(registry_put_volume(f->r, &v, NULL, 0, NULL), 0);
    assert_int_equal(registry_key_put(f->r, &failed, SNAP_EIO, NULL), 0);
    assert_int_equal(registry_key_put(f->r, &done, 0, NULL), 0);
    assert_int_equal(registry_key_put(f->r, &old, 0, NULL), 0);
    registry_close(f->r);
    sqlite3 *db = NULL;
    char *sql = sqlite3_mprintf("UPDATE keys SET made_s = 1 WHERE key = x'%02x", old.b[0]);
    for (unsigned i = 1; i < UUID_BYTES; i++)
        sql = sqlite3_mprintf("%z%02x", sql, old.b[i]);
    sql = sqlite3_mprintf("%z'", sql);
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_changes(db), 1);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    sqlite3_free(sql);
    assert_int_equal(registry_open(f->path, &f->r, NULL), 0);

    assert_int_equal(registry_open(REGISTRY_IN_MEMORY, &memory, NULL), 0);
    assert_int_equal(registry_copy_keys(f->r, memory, NULL), 0);
    assert_int_equal(registry_find_volume(memory, "v", &v, NULL), SNAP_ENOENT); /* keys only */
    assert_true(registry_key_get(memory, &failed, &outcome));
    assert_int_equal(outcome, SNAP_EIO);
    assert_true(registry_key_get(memory, &done, &outcome));
    assert_int_equal(outcome, 0);
    assert_true(registry_key_get(memory, &old, &outcome));
    struct uuid next = uuid_make();
    assert_int_equal(registry_key_put(memory, &next, 0, NULL), 0); /* those that are too old go */
    assert_false(registry_key_get(memory, &old, &outcome));
    assert_true(registry_key_get(memory, &done, &outcome));
    registry_close(memory);
}

static void memory__is_a_registry_like_any_other_and_ends_when_it_is_closed(void **state)
{
    struct fixture *f = *state;
    struct registry_volume v = volume("v"), got;
    struct registry_snapshot s = snapshot(&v, "s", 1);
    registry_close(f->r);
    assert_int_equal(registry_open(REGISTRY_IN_MEMORY, &f->r, NULL), 0);
    assert_int_equal(registry_put_volume(f->r, &v, NULL, 0, NULL), 0);
    assert_int_equal(registry_update_volume(f->r, &v, &s, 1, NULL, 0, NULL), 0);
    assert_string_equal(rows_of(f, &v), "s/1 ");
    struct registry_volume same_name = volume("v");
    assert_int_equal(registry_put_volume(f->r, &same_name, NULL, 0, NULL), SNAP_EEXIST);
    assert_int_equal(registry_find_volume(f->r, "v", &got, NULL), 0);
    assert_true(uuid_equal(&got.id, &v.id));
    assert_int_equal(registry_delete_volume(f->r, &v.id, NULL), 0);
    assert_string_equal(rows_of(f, &v), "");
    assert_int_equal(access(REGISTRY_IN_MEMORY, F_OK), -1); /* no file of that name */
    assert_int_equal(registry_put_volume(f->r, &v, NULL, 0, NULL), 0);
    registry_close(f->r);
    assert_int_equal(registry_open(REGISTRY_IN_MEMORY, &f->r, NULL), 0);
    assert_int_equal(registry_find_volume(f->r, "v", &got, NULL), SNAP_ENOENT);
}

/* A mapped index would end the process with SIGBUS where the disk is full. */
static void open__maps_no_file_and_keeps_others_out(void **state)
{
    struct fixture *f = *state;
    struct registry_volume v = volume("v");
    char path[128];
    sqlite3 *db = NULL;
    for (int again = 0; again < 2; again++) {
        assert_int_equal(registry_put_volume(f->r, &v, NULL, 0, NULL), 0);
        (void)snprintf(path, sizeof path, "%s-wal", f->path);
        assert_int_equal(access(path, F_OK), 0);
        (void)snprintf(path, sizeof path, "%s-shm", f->path);
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, "SELECT * FROM volumes", NULL, NULL, NULL), SQLITE_BUSY);
        assert_int_equal(sqlite3_close(db), SQLITE_OK);
        registry_close(f->r);
        assert_int_equal(registry_open(f->path, &f->r, NULL), 0);
    }
}

static void open__says_that_another_program_has_it_open(void **state)
{
    struct fixture *f = *state;
    struct registry *second = NULL;
    struct err e = ERR_INIT;
    assert_int_equal(registry_open(f->path, &second, &e), SNAP_EBUSY);
    assert_non_null(strstr(e.text, "another program"));
    assert_null(second);
}

/* What a process that was killed leaves: a log, and the mapped index of an older program. */
static void open__takes_over_from_one_that_was_killed(void **state)
{
    struct fixture *f = *state;
    struct registry_volume v = volume("v"), got;
    char command[1024], other[128];
    assert_int_equal(registry_put_volume(f->r, &v, NULL, 0, NULL), 0);
    (void)snprintf(other, sizeof other, "%s/other.db", f->dir);
    (void)snprintf(command, sizeof command,
                   "cp '%s' '%s' && cp '%s-wal' '%s-wal' && head -c 32768 /dev/urandom > '%s-shm'",
                   f->path, other, f->path, other, other);
    assert_int_equal(system(command), 0);
    registry_close(f->r);
    assert_int_equal(registry_open(other, &f->r, NULL), 0);
    assert_int_equal(registry_find_volume(f->r, "v", &got, NULL), 0);
}

/* A limit on the size of files is a disk that is full to us, told by another errno. */
static void full__is_no_space_and_says_what_to_do(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, none;
    struct err e = ERR_INIT;
    struct registry_volume v = volume("v"), got;
    struct registry *fresh = NULL;
    char path[128];
    (void)snprintf(path, sizeof path, "%s/fresh.db", f->dir);
    void (*old)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    int put = registry_put_volume(f->r, &v, NULL, 0, &e);
    int open = registry_open(path, &fresh, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, old);
    assert_int_equal(put, SNAP_ENOSPC);
    assert_non_null(strstr(e.text, "LimitFSIZE="));
    assert_int_equal(open, SNAP_ENOSPC);
    assert_int_equal(registry_find_volume(f->r, "v", &got, NULL), SNAP_ENOENT);
    assert_int_equal(registry_put_volume(f->r, &v, NULL, 0, NULL), 0); /* there is room again */
}

static void delete_volume__frees_the_name_on_a_full_disk_too(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, none;
    struct registry_volume v = volume("v"), keep = volume("keep"), next = volume("v"), got;
    assert_int_equal(registry_put_volume(f->r, &v, NULL, 0, NULL), 0);
    assert_int_equal(registry_put_volume(f->r, &keep, NULL, 0, NULL), 0);
    void (*old)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    int gone = registry_delete_volume(f->r, &v.id, NULL);
    int again = registry_delete_volume(f->r, &v.id, NULL);
    int find = registry_find_volume(f->r, "v", &got, NULL);
    int get = registry_get_volume(f->r, &v.id, &got, NULL);
    int other = registry_find_volume(f->r, "keep", &got, NULL);
    int put = registry_put_volume(f->r, &next, NULL, 0, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, old);
    assert_int_equal(gone, SNAP_ENOSPC);
    assert_int_equal(again, SNAP_ENOSPC);
    assert_int_equal(find, SNAP_ENOENT);
    assert_int_equal(get, SNAP_ENOENT);
    assert_int_equal(other, 0);
    assert_true(put < 0);
    assert_int_equal(registry_put_volume(f->r, &next, NULL, 0, NULL), 0);
    assert_int_equal(registry_find_volume(f->r, "v", &got, NULL), 0);
    assert_true(uuid_equal(&got.id, &next.id));
    assert_int_equal(registry_get_volume(f->r, &v.id, &got, NULL), SNAP_ENOENT);
}

static void open__names_the_remedy_for_a_damaged_file(void **state)
{
    struct fixture *f = *state;
    struct registry_volume v = volume("disk1");
    assert_int_equal(registry_put_volume(f->r, &v, NULL, 0, NULL), 0);
    registry_close(f->r);
    f->r = NULL;
    FILE *file = fopen(f->path, "r+");
    assert_non_null(file);
    assert_int_equal(fwrite("this is no database, not any more", 1, 33, file), 33);
    assert_int_equal(fclose(file), 0);
    struct err e = ERR_INIT;
    struct registry *r = NULL;
    assert_int_equal(registry_open(f->path, &r, &e), SNAP_ECORRUPT);
    assert_non_null(strstr(e.text, "--rebuild-registry"));
}

static void open__brings_an_older_schema_up_to_date(void **state)
{
    struct fixture *f = *state;
    registry_close(f->r);
    f->r = NULL;
    assert_int_equal(unlink(f->path), 0);
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    for (int i = 0; i < 2; i++)
        assert_int_equal(sqlite3_exec(db, schema_migrations[i], NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db,
                     "PRAGMA user_version = 2;"
                     "INSERT INTO volumes VALUES (zeroblob(16), 'old', 0, 512, 1, 'x');"
                     "INSERT INTO snapshots VALUES (x'000102030405060708090a0b0c0d0e0f',"
                     " zeroblob(16), 's', 7, 1, 0, 's.cow');",
                     NULL, NULL, NULL),
        SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    struct err e = ERR_INIT;
    if (registry_open(f->path, &f->r, &e) < 0)
        fail_msg("%s", e.text);
    struct registry_volume v;
    assert_int_equal(registry_find_volume(f->r, "old", &v, NULL), 0);
    assert_string_equal(rows_of(f, &v), "s/7 ");
}

static void open__refuses_a_newer_schema(void **state)
{
    struct fixture *f = *state;
    registry_close(f->r);
    f->r = NULL;
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(f->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    struct err e = ERR_INIT;
    struct registry *r = NULL;
    assert_int_equal(registry_open(f->path, &r, &e), SNAP_ENOTSUP);
    assert_non_null(strstr(e.text, "99"));
}

int main(void)
{
#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(put_volume__is_found_by_name_and_id_after_reopening),
        CASE(put_volume__replaces_the_snapshots_it_had),
        CASE(put_volume__refuses_a_second_of_the_same_name_and_changes_nothing),
        CASE(hidden_snapshot__frees_its_name),
        CASE(undo_snapshot__leaves_its_name_to_others),
        CASE(update_volume__changes_what_it_is_told_and_no_more),
        CASE(update_volume__that_failed_lags_until_it_is_put_whole),
        CASE(update_volume__more_laggards_than_are_remembered),
        CASE(open__brings_an_older_schema_up_to_date),
        CASE(delete_volume__takes_its_snapshots_along),
        CASE(each_volume__goes_in_name_order),
        CASE(key__first_outcome_stays),
        CASE(keys__are_copied_with_their_outcome_and_age),
        CASE(memory__is_a_registry_like_any_other_and_ends_when_it_is_closed),
        CASE(open__maps_no_file_and_keeps_others_out),
        CASE(open__says_that_another_program_has_it_open),
        CASE(open__takes_over_from_one_that_was_killed),
        CASE(full__is_no_space_and_says_what_to_do),
        CASE(delete_volume__frees_the_name_on_a_full_disk_too),
        CASE(open__names_the_remedy_for_a_damaged_file),
        CASE(open__refuses_a_newer_schema),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
