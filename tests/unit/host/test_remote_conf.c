/* SPDX-License-Identifier: Apache-2.0 */
/* The file of remotes: what is written comes back, what is wrong is named with its line. */
#include "client/host/remote_conf.h"
#include "common/base/bytes.h"
#include "common/base/file.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"
#include "tests/lib/tmpdir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct tmpdir dir;
static char path[TMPDIR_FILE_BYTES];

static int setup(void **state)
{
    (void)state;
    tmpdir_make(&dir);
    (void)tmpdir_file(&dir, "remotes.conf", path);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tmpdir_remove(&dir);
    return 0;
}

static void put_file(const char *text)
{
    assert_int_equal(file_replace(path, text, strlen(text), 0600, NULL), 0);
}

static void expect_refused(const char *text, const char *line, const char *what)
{
    struct remote_conf conf = REMOTE_CONF_INIT;
    struct err e = ERR_INIT;
    put_file(text);
    if (remote_conf_load(path, &conf, &e) != SNAP_EINVAL)
        fail_msg("taken: %s", text);
    remote_conf_done(&conf);
    char place[TMPDIR_FILE_BYTES + 16];
    (void)snprintf(place, sizeof place, "%s:%s: ", path, line);
    if (strncmp(e.text, place, strlen(place)) != 0 || !strstr(e.text, what))
        fail_msg("'%s' does not begin with '%s' and name '%s'", e.text, place, what);
}

static void same_text(const char *a, const char *b)
{
    assert_true((a == NULL) == (b == NULL));
    if (a)
        assert_string_equal(a, b);
}

static void same_entry(const struct remote_entry *a, const struct remote_entry *b)
{
    same_text(a->name, b->name);
    same_text(a->address, b->address);
    same_text(a->ca, b->ca);
    same_text(a->certificate, b->certificate);
    same_text(a->key, b->key);
    same_text(a->crl, b->crl);
    same_text(a->server_name, b->server_name);
}

static void load__no_file_is_an_empty_list(void **state)
{
    (void)state;
    struct remote_conf conf = REMOTE_CONF_INIT;
    assert_int_equal(remote_conf_load(path, &conf, NULL), 0);
    assert_int_equal(conf.count, 0);
    assert_null(conf.current);
    remote_conf_done(&conf);
}

static void load__reads_what_people_write(void **state)
{
    (void)state;
    struct remote_conf conf = REMOTE_CONF_INIT;
    struct err e = ERR_INIT;
    put_file("# mine\n"
             "current = here\n"
             "remote here {\n  address = \"localhost:7453, [::1]:7453 ,\"\n  ca = /c\n"
             "  certificate = '/d' key = /e crl = /f server_name = daemon\n}\n"
             "remote \"admin\" { address = unix:/run/snapwired.sock }\n");
    if (remote_conf_load(path, &conf, &e) != 0)
        fail_msg("%s", e.text);
    assert_int_equal(conf.count, 2);
    assert_string_equal(conf.current, "here");
    const struct remote_entry *here = remote_conf_find(&conf, "here");
    assert_string_equal(here->address, "localhost:7453, [::1]:7453 ,");
    assert_string_equal(here->key, "/e");
    assert_string_equal(here->server_name, "daemon");
    const struct remote_entry *admin = remote_conf_find(&conf, "admin");
    assert_string_equal(admin->address, "unix:/run/snapwired.sock");
    assert_null(admin->ca);
    assert_null(remote_conf_find(&conf, "elsewhere"));
    remote_conf_done(&conf);
}

static void load__faults_name_file_and_line(void **state)
{
    (void)state;
    expect_refused("\nremote a { adress = x }\n", "2", "adress");
    expect_refused("remote a {\n address = 'unix:/s'\n}\nremote a { address = 'unix:/t' }\n", "4",
                   "a");
    expect_refused("\n\nremote a {\n}\n", "4", "no address");
    expect_refused("remote a {\n address = 'host:1'\n}\n", "3", "no ca");
    expect_refused("remote a {\n address = 'host:1' ca = c certificate = d\n}\n", "3", "no key");
    expect_refused("remote a {\n address = 'host:99999' ca = c certificate = d key = k\n}\n", "3",
                   "port");
    expect_refused("remote a {\n address = ' , '\n}\n", "3", "empty");
    expect_refused("remote a {\n address = 'loc alhost' ca = c certificate = d key = k\n}\n", "3",
                   "\"loc alhost\" has a blank in it");
    expect_refused("remote a {\n address = 'unix:/s , unix:/t unix:/u'\n}\n", "3", "has a blank");
    expect_refused("remote '../a' {\n address = 'unix:/s'\n}\n", "3", "remote");
    expect_refused("current = {\n", "1", "");
    expect_refused("remote a {\n address = 'unix:/s'\n}\n\nremote b {\n address = 'unix:/t'\n", "5",
                   "remote 'b' is not closed");
    expect_refused("current = a\nremote a { address = 'unix:/s' # }\n", "2", "is not closed");
    expect_refused("remote a {\n address = 'host:1'\n", "3", "no ca");
    expect_refused("current = 1\nremote a { address = 'unix:/s'\n/* } */", "2", "is not closed");
}

/* What a text leaves open is not closed by another. */
static void load__a_broken_file_leaves_nothing_behind(void **state)
{
    (void)state;
    static const char *const broken[] = {
        "current = a /* the\n rest", "current = 'a\n",         "current = \"a\n",
        "current = \"\\999\"\n",     "remote a {\n address =", "remote a { address = 'unix:/s' /*",
    };
    for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
        struct remote_conf conf = REMOTE_CONF_INIT;
        struct err e = ERR_INIT;
        put_file(broken[i]);
        if (remote_conf_load(path, &conf, &e) != SNAP_EINVAL || !strstr(e.text, path))
            fail_msg("'%s': '%s'", broken[i], e.text);
        remote_conf_done(&conf);
        put_file("current = b\nremote b { address = 'unix:/s' }\n");
        if (remote_conf_load(path, &conf, &e) < 0)
            fail_msg("after '%s': %s", broken[i], e.text);
        assert_string_equal(conf.current, "b");
        assert_int_equal(conf.count, 1);
        remote_conf_done(&conf);
    }
}

static void load__a_file_with_a_zero_byte_or_too_long_is_refused(void **state)
{
    (void)state;
    struct remote_conf conf = REMOTE_CONF_INIT;
    assert_int_equal(file_replace(path, "current = a\n\0b", 14, 0600, NULL), 0);
    assert_int_equal(remote_conf_load(path, &conf, NULL), SNAP_EINVAL);
    size_t len = LIMIT_CONFIG_BYTES + 1;
    char *big = malloc(len);
    assert_non_null(big);
    memset(big, '\n', len);
    assert_int_equal(file_replace(path, big, len, 0600, NULL), 0);
    assert_int_equal(remote_conf_load(path, &conf, NULL), SNAP_ELIMIT);
    free(big);
    remote_conf_done(&conf);
}

/* Quotes, backslashes, $ and # mean something to the parser; here they mean themselves. */
static void save__any_printable_path_comes_back(void **state)
{
    (void)state;
    struct rng r;
    static const char signs[] = "'\"\\${}#;=()\t ,a/~%\xc3\xa4";
    seed_init_rng(&r);
    for (int round = 0; round < 300; round++) {
        struct remote_conf conf = REMOTE_CONF_INIT, back = REMOTE_CONF_INIT;
        struct err e = ERR_INIT;
        char text[5][40];
        for (size_t i = 0; i < ARRAY_LEN(text); i++) {
            size_t len = 1 + rng_below(&r, sizeof text[i] - 1);
            for (size_t k = 0; k < len - 1; k++)
                do
                    text[i][k] = signs[rng_below(&r, sizeof signs - 1)];
                while (text[i][k] == '\t');
            text[i][len - 1] = '\0';
        }
        struct remote_entry a = {.name = (char *)(uintptr_t) "one",
                                 .address = (char *)(uintptr_t) "unix:/s",
                                 .ca = text[0],
                                 .certificate = text[1],
                                 .key = text[2],
                                 .crl = text[3],
                                 .server_name = text[4]};
        assert_int_equal(remote_conf_add(&conf, &a, &e), 0);
        assert_int_equal(remote_conf_choose(&conf, "one", &e), 0);
        assert_int_equal(remote_conf_save(path, &conf, &e), 0);
        if (remote_conf_load(path, &back, &e) != 0)
            fail_msg("%s", e.text);
        assert_int_equal(back.count, 1);
        assert_string_equal(back.current, "one");
        same_entry(&conf.entries[0], &back.entries[0]);
        remote_conf_done(&conf);
        remote_conf_done(&back);
    }
}

static void lock__makes_folders_and_save_keeps_others_out(void **state)
{
    (void)state;
    struct remote_conf conf = REMOTE_CONF_INIT;
    struct stat st;
    int lock = -1;
    char deep[2 * TMPDIR_FILE_BYTES];
    (void)snprintf(deep, sizeof deep, "%s/.config/snapwire/remotes.conf", dir.path);
    assert_int_equal(remote_conf_lock(deep, &lock, NULL), 0);
    assert_int_equal(remote_conf_save(deep, &conf, NULL), 0);
    assert_int_equal(close(lock), 0);
    assert_int_equal(stat(deep, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(remote_conf_load(deep, &conf, NULL), 0);
    remote_conf_done(&conf);
}

static void save__a_symbolic_link_stays_one(void **state)
{
    (void)state;
    struct remote_conf conf = REMOTE_CONF_INIT;
    struct remote_entry a = {.name = (char *)(uintptr_t) "one",
                             .address = (char *)(uintptr_t) "unix:/s"};
    char link[TMPDIR_FILE_BYTES];
    struct stat st;
    put_file("");
    assert_int_equal(symlink(path, tmpdir_file(&dir, "link", link)), 0);
    assert_int_equal(remote_conf_add(&conf, &a, NULL), 0);
    assert_int_equal(remote_conf_save(link, &conf, NULL), 0);
    remote_conf_done(&conf);
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(remote_conf_load(path, &conf, NULL), 0);
    assert_int_equal(conf.count, 1);
    remote_conf_done(&conf);
}

/* A file of settings that stands elsewhere is often linked to before it is there. */
static void save__a_link_that_leads_nowhere_yet_is_written_through(void **state)
{
    (void)state;
    char first[TMPDIR_FILE_BYTES], last[TMPDIR_FILE_BYTES];
    struct remote_conf conf = REMOTE_CONF_INIT;
    struct stat st;
    (void)tmpdir_file(&dir, "other.conf", first);
    (void)tmpdir_file(&dir, "dots/snapwire/remotes", last);
    assert_int_equal(symlink("other.conf", path), 0);
    assert_int_equal(symlink(last, first), 0);
    assert_int_equal(remote_conf_save(path, &conf, NULL), 0);
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(lstat(first, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(lstat(last, &st), 0);
    assert_true(S_ISREG(st.st_mode));
}

static void save__links_in_a_circle_are_refused(void **state)
{
    (void)state;
    struct remote_conf conf = REMOTE_CONF_INIT;
    struct err e = ERR_INIT;
    assert_int_equal(symlink("remotes.conf", path), 0);
    assert_int_equal(remote_conf_save(path, &conf, &e), SNAP_EINVAL);
    assert_non_null(strstr(e.text, "symbolic links"));
}

static void add__refuses_a_second_of_the_name_and_control_characters(void **state)
{
    (void)state;
    struct remote_conf conf = REMOTE_CONF_INIT;
    struct remote_entry a = {.name = (char *)(uintptr_t) "one",
                             .address = (char *)(uintptr_t) "unix:/s"};
    assert_int_equal(remote_conf_add(&conf, &a, NULL), 0);
    assert_int_equal(remote_conf_add(&conf, &a, NULL), SNAP_EEXIST);
    a.name = (char *)(uintptr_t) "two";
    a.crl = (char *)(uintptr_t) "/a\nb";
    assert_int_equal(remote_conf_add(&conf, &a, NULL), SNAP_EINVAL);
    assert_int_equal(conf.count, 1);
    remote_conf_done(&conf);
}

static void remove__of_the_chosen_one_leaves_none_chosen(void **state)
{
    (void)state;
    struct remote_conf conf = REMOTE_CONF_INIT;
    struct remote_entry e = {.address = (char *)(uintptr_t) "unix:/s"};
    static const char *const names[] = {"a", "b", "c"};
    for (size_t i = 0; i < 3; i++) {
        e.name = (char *)(uintptr_t)names[i];
        assert_int_equal(remote_conf_add(&conf, &e, NULL), 0);
    }
    assert_int_equal(remote_conf_choose(&conf, "d", NULL), SNAP_ENOENT);
    assert_int_equal(remote_conf_choose(&conf, "b", NULL), 0);
    assert_int_equal(remote_conf_remove(&conf, "a", NULL), 0);
    assert_string_equal(conf.current, "b");
    assert_int_equal(remote_conf_remove(&conf, "b", NULL), 0);
    assert_null(conf.current);
    assert_int_equal(remote_conf_remove(&conf, "b", NULL), SNAP_ENOENT);
    assert_int_equal(conf.count, 1);
    assert_string_equal(conf.entries[0].name, "c");
    remote_conf_done(&conf);
}

static void path__the_environment_decides(void **state)
{
    (void)state;
    char buf[LIMIT_PATH_BYTES];
    (void)setenv("SNAPWIRE_CONFIG", "/x/my.conf", 1);
    (void)setenv("XDG_CONFIG_HOME", "/xdg", 1);
    (void)setenv("HOME", "/home/me", 1);
    assert_int_equal(remote_conf_path(buf, NULL), 0);
    assert_string_equal(buf, "/x/my.conf");
    (void)unsetenv("SNAPWIRE_CONFIG");
    assert_int_equal(remote_conf_path(buf, NULL), 0);
    assert_string_equal(buf, "/xdg/snapwire/remotes.conf");
    (void)setenv("XDG_CONFIG_HOME", "relative", 1);
    assert_int_equal(remote_conf_path(buf, NULL), 0);
    assert_string_equal(buf, "/home/me/.config/snapwire/remotes.conf");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(load__no_file_is_an_empty_list, setup, teardown),
        cmocka_unit_test_setup_teardown(load__reads_what_people_write, setup, teardown),
        cmocka_unit_test_setup_teardown(load__faults_name_file_and_line, setup, teardown),
        cmocka_unit_test_setup_teardown(load__a_broken_file_leaves_nothing_behind, setup, teardown),
        cmocka_unit_test_setup_teardown(load__a_file_with_a_zero_byte_or_too_long_is_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(save__any_printable_path_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(save__a_symbolic_link_stays_one, setup, teardown),
        cmocka_unit_test_setup_teardown(save__a_link_that_leads_nowhere_yet_is_written_through,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(save__links_in_a_circle_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(lock__makes_folders_and_save_keeps_others_out, setup,
                                        teardown),
        cmocka_unit_test(add__refuses_a_second_of_the_name_and_control_characters),
        cmocka_unit_test(remove__of_the_chosen_one_leaves_none_chosen),
        cmocka_unit_test(path__the_environment_decides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
