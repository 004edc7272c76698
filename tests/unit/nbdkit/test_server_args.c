/* SPDX-License-Identifier: Apache-2.0 */
/* Which daemon is meant: parameters, the file of remotes, the environment, and who beats whom. */
#include "client/nbdkit/server_args.h"

#include "common/base/file.h"
#include "tests/lib/tmpdir.h"
#include "tests/unit/nbdkit/fake_nbdkit.h"

static struct tmpdir dir;
static char conf[TMPDIR_FILE_BYTES];

#define ENTRY_HERE                                                                 \
    "remote here { address = 'here:1' ca = '/ca' certificate = '/crt' key = '/k' " \
    "crl = '/crl' server_name = 'n' }\n"
#define ENTRY_THERE "remote there { address = 'unix:/there' }\n"

static int setup(void **state)
{
    (void)state;
    tmpdir_make(&dir);
    (void)tmpdir_file(&dir, "remotes.conf", conf);
    told.errors = 0;
    told.text[0] = '\0';
    assert_int_equal(setenv("SNAPWIRE_CONFIG", conf, 1), 0);
    return unsetenv("SNAPWIRE_REMOTE");
}

static int teardown(void **state)
{
    (void)state;
    tmpdir_remove(&dir);
    return 0;
}

static void put_conf(const char *text)
{
    assert_int_equal(file_replace(conf, text, strlen(text), 0600, NULL), 0);
}

static void take(struct server_args *a, const char *key, const char *value)
{
    if (server_args_take(a, key, value) != 1)
        fail_msg("%s=%s: %s", key, value, told.text);
}

static void complete(struct server_args *a)
{
    if (server_args_complete(a) < 0)
        fail_msg("%s", told.text);
}

/* It must fail, and say this. */
static void refused(struct server_args *a, const char *says)
{
    assert_int_equal(server_args_complete(a), -1);
    if (!strstr(told.text, says))
        fail_msg("'%s' does not say '%s'", told.text, says);
    server_args_done(a);
}

static void take__each_key_once_and_no_other(void **state)
{
    static const char *const keys[] = {"server", "ca",          "certificate", "key",
                                       "crl",    "server_name", "config",      "remote"};
    struct server_args a = {0};
    (void)state;
    assert_int_equal(server_args_take(&a, "volume", "disk1"), 0);
    assert_int_equal(server_args_take(&a, "serve", "x"), 0);
    assert_int_equal(told.errors, 0);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        assert_int_equal(server_args_take(&a, keys[i], ""), -1);
        take(&a, keys[i], "x");
        assert_int_equal(server_args_take(&a, keys[i], "y"), -1);
        assert_non_null(strstr(told.text, keys[i]));
        assert_non_null(strstr(told.text, "twice"));
    }
    assert_string_equal(a.server, "x");
    assert_int_equal(a.ca[0], '/'); /* nbdkit leaves its folder later */
    assert_int_equal(a.config[0], '/');
    assert_string_equal(a.server_name, "x");
    server_args_done(&a);
    assert_null(a.server);
}

static void take__timeout_has_bounds(void **state)
{
    static const char *const bad[] = {"0", "86401", "-1", "x", "", "99999999999999"};
    struct server_args a = {0};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(server_args_take(&a, "timeout", bad[i]), -1);
    take(&a, "timeout", "86400");
    take(&a, "server", "unix:/s");
    complete(&a);
    assert_int_equal(server_args_config(&a).request_timeout_ms, 86400000);
    server_args_done(&a);
}

static void complete__a_server_alone_needs_no_file(void **state)
{
    struct server_args a = {0};
    (void)state;
    put_conf("this is no file of remotes {");
    take(&a, "server", "unix:/s");
    complete(&a);
    const struct snapwire_config c = server_args_config(&a);
    assert_string_equal(c.addresses, "unix:/s");
    assert_null(c.ca_path);
    assert_int_equal(c.request_timeout_ms, SERVER_ARGS_TIMEOUT_S * 1000);
    assert_true(c.backoff_max_ms > 0 && c.backoff_max_ms <= c.request_timeout_ms / 2);
    server_args_done(&a);
}

static void complete__the_chosen_entry_is_taken_whole(void **state)
{
    struct server_args a = {0};
    (void)state;
    put_conf("current = here\n" ENTRY_THERE ENTRY_HERE);
    complete(&a);
    const struct snapwire_config c = server_args_config(&a);
    assert_string_equal(c.addresses, "here:1");
    assert_string_equal(c.ca_path, "/ca");
    assert_string_equal(c.certificate_path, "/crt");
    assert_string_equal(c.key_path, "/k");
    assert_string_equal(c.crl_path, "/crl");
    assert_string_equal(c.server_name, "n");
    server_args_done(&a);
}

static void complete__parameter_beats_environment_beats_file(void **state)
{
    struct server_args a = {0}, b = {0};
    (void)state;
    put_conf("current = gone\n" ENTRY_HERE ENTRY_THERE);
    assert_int_equal(setenv("SNAPWIRE_REMOTE", "there", 1), 0);
    complete(&a);
    assert_string_equal(a.server, "unix:/there");
    server_args_done(&a);
    take(&b, "remote", "here");
    complete(&b);
    assert_string_equal(b.server, "here:1");
    server_args_done(&b);
}

static void complete__what_is_given_beats_the_entry_value_by_value(void **state)
{
    struct server_args a = {0};
    (void)state;
    put_conf(ENTRY_HERE);
    take(&a, "remote", "here");
    take(&a, "key", "/my/key");
    take(&a, "server", "elsewhere:2");
    complete(&a);
    const struct snapwire_config c = server_args_config(&a);
    assert_string_equal(c.addresses, "elsewhere:2");
    assert_string_equal(c.key_path, "/my/key");
    assert_string_equal(c.ca_path, "/ca");
    server_args_done(&a);
}

static void complete__says_what_is_missing(void **state)
{
    struct server_args none = {0}, unknown = {0}, bare = {0}, broken = {0};
    (void)state;
    refused(&none, "server=");
    put_conf(ENTRY_HERE);
    take(&unknown, "remote", "nobody");
    refused(&unknown, "nobody");
    take(&bare, "server", "host:1");
    refused(&bare, "server=host:1: ca=, certificate= and key= are needed");
    put_conf("remote here {\n");
    refused(&broken, conf);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(take__each_key_once_and_no_other),
        CASE(take__timeout_has_bounds),
        CASE(complete__a_server_alone_needs_no_file),
        CASE(complete__the_chosen_entry_is_taken_whole),
        CASE(complete__parameter_beats_environment_beats_file),
        CASE(complete__what_is_given_beats_the_entry_value_by_value),
        CASE(complete__says_what_is_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
