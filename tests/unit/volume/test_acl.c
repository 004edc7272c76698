/* SPDX-License-Identifier: Apache-2.0 */
/* Grants: who may do what, the text form, changes that leave the old list alone. */
#include "daemon/volume/acl.h"

#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct acl *parse(const char *text)
{
    struct acl *a = NULL;
    struct err e = ERR_INIT;
    if (acl_parse(text, strlen(text), &a, &e) < 0)
        print_error("%s\n", e.text);
    assert_non_null(a);
    return a;
}

#define V1 "11111111-1111-4111-8111-111111111111"
#define V2 "22222222-2222-4222-8222-222222222222"

static struct uuid id(const char *text)
{
    struct uuid u;
    assert_int_equal(uuid_parse_text(text, &u, NULL), 0);
    return u;
}

static void allows__follows_the_table_of_roles(void **state)
{
    (void)state;
    struct acl *a = parse("append ann " V1 "\nreader rob " V1 "\nwriter wil " V1 "\nadmin ada *\n");
    struct uuid v1 = id(V1), v2 = id(V2);
    static const struct {
        const char *who;
        bool see, read, append, write, admin;
    } table[] = {
        {"ann", true, false, true, false, false},   {"rob", true, true, false, false, false},
        {"wil", true, true, true, true, false},     {"ada", true, true, true, true, true},
        {"eve", false, false, false, false, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        assert_int_equal(acl_allows(a, table[i].who, &v1, ACL_RIGHT_SEE), table[i].see);
        assert_int_equal(acl_allows(a, table[i].who, &v1, ACL_RIGHT_READ), table[i].read);
        assert_int_equal(acl_allows(a, table[i].who, &v1, ACL_RIGHT_APPEND), table[i].append);
        assert_int_equal(acl_allows(a, table[i].who, &v1, ACL_RIGHT_WRITE), table[i].write);
        assert_int_equal(acl_allows(a, table[i].who, &v1, ACL_RIGHT_ADMIN), table[i].admin);
    }
    assert_false(acl_allows(a, "wil", &v2, ACL_RIGHT_SEE));
    assert_true(acl_allows(a, "ada", &v2, ACL_RIGHT_ADMIN));
    assert_true(acl_allows(a, "ada", NULL, ACL_RIGHT_ADMIN));
    assert_false(acl_allows(a, "wil", NULL, ACL_RIGHT_SEE));
    acl_unref(a);
}

static void allows__rights_of_several_roles_add_up(void **state)
{
    (void)state;
    struct acl *a = parse("reader ann *\nappend ann " V1 "\n");
    struct uuid v1 = id(V1);
    assert_true(acl_allows(a, "ann", &v1, ACL_RIGHT_READ));
    assert_true(acl_allows(a, "ann", &v1, ACL_RIGHT_APPEND));
    assert_false(acl_allows(a, "ann", &v1, ACL_RIGHT_WRITE));
    acl_unref(a);
}

static void with__leaves_the_list_it_came_from_alone(void **state)
{
    (void)state;
    struct acl *a = parse("reader ann *\n"), *b = NULL, *c = NULL;
    struct acl_grant g = {.identity = "bob", .role = ACL_WRITER};
    assert_int_equal(acl_with(a, &g, &b, NULL), 0);
    assert_int_equal(acl_count(a), 1);
    assert_int_equal(acl_count(b), 2);
    g.role = ACL_NONE;
    assert_int_equal(acl_with(b, &g, &c, NULL), 0);
    assert_int_equal(acl_count(c), 1);
    acl_unref(c);
    assert_int_equal(acl_with(a, &g, &c, NULL), SNAP_ENOENT);
    acl_unref(a);
    acl_unref(b);
}

static void without_volume__drops_only_its_grants(void **state)
{
    (void)state;
    struct acl *a = parse("reader ann *\nreader ann " V1 "\nwriter bob " V2 "\n"), *b = NULL;
    struct uuid v1 = id(V1);
    assert_int_equal(acl_without_volume(a, &v1, &b, NULL), 0);
    assert_int_equal(acl_count(b), 2);
    acl_unref(a);
    acl_unref(b);
}

static void parse__names_the_line_of_what_is_wrong(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "reader ann *\nking bob *\n",         "reader ann *\nreader\n",
        "reader ann *\nreader b/b *\n",       "reader ann *\nreader bob nonsense\n",
        "reader ann *\nreader bob * extra\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct acl *a = NULL;
        struct err e = ERR_INIT;
        assert_int_equal(acl_parse(bad[i], strlen(bad[i]), &a, &e), SNAP_ECORRUPT);
        assert_non_null(strstr(e.text, "line 2"));
    }
    struct acl *a = NULL;
    assert_int_equal(acl_parse("reader a *\nwriter a *\n", 22, &a, NULL), SNAP_ECORRUPT);
}

/* Every list that can be had can be loaded again, and a full one can be made shorter. */
static void save__a_full_list_is_loaded_again(void **state)
{
    (void)state;
    enum { GRANTS = 65536, LINE = 16 };
    struct tmpdir dir;
    char path[TMPDIR_FILE_BYTES];
    struct err e = ERR_INIT;
    struct acl *a = NULL, *b = NULL, *c = NULL;
    char *text = malloc(GRANTS * LINE + 1), *at = text;
    assert_non_null(text);
    for (int i = 0; i < GRANTS; i++)
        at += snprintf(at, LINE + 1, "reader u%05d *\n", i);
    if (acl_parse(text, (size_t)(at - text), &a, &e) < 0)
        fail_msg("%s", e.text);
    free(text);
    assert_int_equal(acl_count(a), GRANTS);
    tmpdir_make(&dir);
    assert_int_equal(acl_save(tmpdir_file(&dir, "acl", path), a, &e), 0);
    if (acl_load(path, &b, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(acl_count(b), GRANTS);
    struct acl_grant more = {.identity = "one-more", .role = ACL_READER};
    assert_int_equal(acl_with(b, &more, &c, &e), SNAP_ELIMIT);
    struct acl_grant other = {.identity = "u00000", .role = ACL_WRITER};
    assert_int_equal(acl_with(b, &other, &c, &e), 0);
    acl_unref(c);
    other.role = ACL_NONE;
    assert_int_equal(acl_with(b, &other, &c, &e), 0);
    assert_int_equal(acl_count(c), GRANTS - 1);
    acl_unref(a);
    acl_unref(b);
    acl_unref(c);
    tmpdir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allows__follows_the_table_of_roles),
        cmocka_unit_test(allows__rights_of_several_roles_add_up),
        cmocka_unit_test(with__leaves_the_list_it_came_from_alone),
        cmocka_unit_test(without_volume__drops_only_its_grants),
        cmocka_unit_test(parse__names_the_line_of_what_is_wrong),
        cmocka_unit_test(save__a_full_list_is_loaded_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
