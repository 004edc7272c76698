/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file: defaults, values, and that every refusal names file, line and key. */
#include "daemon/service/config.h"

#include "tests/lib/cm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char warnings[1024];

static void keep_warning(void *user, const char *text)
{
    size_t n = strlen(warnings);
    (void)user;
    (void)snprintf(warnings + n, sizeof warnings - n, "%s\n", text);
}

static int load(const char *text, struct config *ret, struct err *reterr)
{
    char path[] = "/tmp/snapwire-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
    warnings[0] = '\0';
    int rc = config_load(path, ret, keep_warning, NULL, reterr);
    assert_int_equal(unlink(path), 0);
    return rc;
}

#define LOCAL "listen = {\"unix:/tmp/s\"}\n"

static void load__takes_every_value(void **state)
{
    (void)state;
    struct config *c = calloc(1, sizeof *c);
    struct err e = ERR_INIT;
    int rc = load(LOCAL "state_dir = \"/srv/snap\"\nshards = 2\nio_engine = threads\npoll_us = 0\n"
                        "log_level = debug\nlease_ttl_ms = 3000\n"
                        "cow {\n limit = 2G\n grow_step = \"1.5M\"\n chunk_size = 4K\n"
                        " full_policy = invalidate\n}\n"
                        "limits { connections = 9\n window = 1M\n buffers = 64M }\n"
                        "timeouts { keepalive_ms = 500 }\ncache { size = 24M }\n",
                  c, &e);
    if (rc < 0)
        fail_msg("%s", e.text);
    assert_string_equal(c->state_dir, "/srv/snap");
    assert_int_equal(c->listen_count, 1);
    assert_int_equal(c->shards, 2);
    assert_string_equal(c->io_engine, "threads");
    assert_int_equal(c->poll_us, 0);
    assert_int_equal(c->cow_limit_bytes, 2 * GIB);
    assert_int_equal(c->cow_grow_step_bytes, 3 * MIB / 2);
    assert_int_equal(c->chunk_size_sectors, 8);
    assert_int_equal(c->full_policy, 1);
    assert_int_equal(c->connections_total, 9);
    assert_int_equal(c->window_bytes, MIB);
    assert_int_equal(c->keepalive_ms, 500);
    assert_int_equal(c->cache_bytes, 24 * MIB);
    assert_int_equal(c->frame_timeout_ms, 30000);
    assert_int_equal(c->log_level, LOG_LEVEL_DEBUG);
    free(c);
}

static void defaults__are_those_of_an_empty_file(void **state)
{
    (void)state;
    struct config *c = calloc(1, sizeof *c);
    config_defaults(c);
    assert_string_equal(c->state_dir, "/var/lib/snapwire");
    assert_int_equal(c->chunk_size_sectors, LIMIT_CHUNK_SECTORS_DEFAULT);
    assert_int_equal(c->listen_count, 2);
    assert_int_equal(c->cache_bytes, GIB);
    free(c);
}

static void load__names_line_and_key_of_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *text, *line, *key;
    } bad[] = {
        {LOCAL "shards = many\n", ":2:", "shards"},
        {LOCAL "shards = -3\n", ":2:", "shards"},
        {LOCAL "colour = red\n", ":2:", "no such option 'colour'; snapwired.conf(5)"},
        {LOCAL "cow.limit = 5G\n", ":2:", "'cow.limit'; write what is of a section as: section {"},
        {LOCAL "state_dir = \"var\"\n", ":2:", "state_dir"},
        {LOCAL "io_engine = magic\n", ":2:", "io_engine"},
        {LOCAL "poll_us = 1001\n", ":2:", "poll_us"},
        {LOCAL "log_level = loud\n", ":2:", "log_level"},
        {LOCAL "cache {\n size = much\n}\n", ":3: cache.size: ", "size"},
        {LOCAL "cow {\n limit = 2Q\n}\n", ":3: cow.limit: ", "limit"},
        {LOCAL "cow {\n\n chunk_size = 5000\n}\n", ":4:", "chunk_size"},
        {LOCAL "cow {\n full_policy = explode\n}\n", ":3:", "full_policy"},
        {"listen = {\"host:port:what\"}\n", ":1:", "listen"},
        {LOCAL "limits {\n requests_per_connection = 0\n}\n", ":3:", "requests_per_connection"},
        {LOCAL "cow {\n limit = 1G\n", ":2:", "cow: the section is not closed"},
        {LOCAL "cow { limit = 1G }\n\ntls {", ":4:", "tls: the section is not closed"},
        {LOCAL "cow {\n /* } */ limit = '1G' # }\n // }\n", ":2:", "cow: the section is not"},
        {LOCAL "log_level = debug\nlimits {\n window = 1M", ":3:", "limits: the section is not"},
        {LOCAL "cow { limit = 1G } /* the\n rest", "", "a comment or a quoted text is not closed"},
        {LOCAL "\"\n", "", "a comment or a quoted text is not closed"},
        {LOCAL "state_dir = \"/srv\n", ":3:", "premature end"},
        {LOCAL "state_dir = '/srv\n", ":3:", "unterminated"},
        {LOCAL "state_dir = \"/srv\\999\"\n", ":2:", ""},
        {LOCAL "cow {\n limit = 1G\n}\n}\n", ":5:", "closing brace"},
        {LOCAL "limits { window = 1K }\n", "", "limits.window"},
        {"listen = {}\n", "", "listen"},
        {"listen = {unix:/tmp/s, unix:/tmp/s}\n", "", "unix:/tmp/s is in the way of unix:/tmp/s"},
        {"listen = {0.0.0.0:7453, unix:/tmp/s, localhost}\n", "", "0.0.0.0:7453 is in the way of"},
        {"listen = {[::1]:7, [::]:7}\n", "", "[::1]:7 is in the way of [::]:7"},
        {LOCAL "metrics_listen = \"unix:/tmp/m\"\n", "", "metrics_listen: unix:/tmp/m: HTTP"},
        {"listen = {0.0.0.0:7453}\nmetrics_listen = 127.0.0.1\n", "",
         "metrics_listen: 127.0.0.1: listen has port 7453 there"},
        {LOCAL "state_dir = \"\"\n", "", "state_dir"},
        {LOCAL "cow {\n limit = 0\n}\n", "", "cow.limit"},
        {LOCAL "cow {\n limit = 2M\n chunk_size = 1M\n}\n", "", "cow.limit"},
        {LOCAL "cow {\n grow_step = 0\n}\n", "", "cow.grow_step: must be at least cow.chunk_size"},
        {LOCAL "cow {\n grow_step = 8K\n}\n", "", "cow.grow_step"},
        {"listen = {\"localhost:0\"}\ntls { ca = \"\" }\n", "", "tls.ca"},
        {"listen = {\"localhost:0\"}\ntls { ca = \"/nonexistent/ca\" }\n", "", "tls.ca"},
    };
    struct config *c = calloc(1, sizeof *c);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err e = ERR_INIT;
        if (load(bad[i].text, c, &e) == 0)
            fail_msg("taken: %s", bad[i].text);
        if (!strstr(e.text, bad[i].line) || !strstr(e.text, bad[i].key) ||
            !strstr(e.text, "snapwire-config-"))
            fail_msg("'%s' does not name file, %s and %s", e.text, bad[i].line, bad[i].key);
        if (load(LOCAL "shards = 2\n", c, &e) < 0) /* as a reload would */
            fail_msg("after '%s': %s", bad[i].text, e.text);
        assert_int_equal(c->shards, 2);
    }
    free(c);
}

static void load__warns_of_ipv6_alone(void **state)
{
    (void)state;
    static const struct {
        const char *listen, *warning; /* NULL: none */
    } cases[] = {
        {"\"[::]:7453\"", "[::]:7453 takes IPv6 only; for IPv4 add 0.0.0.0:7453 beside it"},
        {"\"[::]:7453\", \"[::1]:7454\", \"unix:/tmp/s\"", "takes IPv6 only"},
        {"\"[::]:7453\", \"0.0.0.0:7454\"", "takes IPv6 only"},
        {"\"0.0.0.0:7453\", \"[::]:7453\"", NULL},
        {"\"[::]:7453\", \"192.0.2.1\"", NULL},
        {"\"[::1]:7453\"", NULL},
        {"localhost", NULL},
    };
    struct config *c = calloc(1, sizeof *c);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct err e = ERR_INIT;
        char text[512];
        (void)snprintf(text, sizeof text,
                       "listen = {%s}\ntls {\n ca = /dev/null\n certificate = /dev/null\n"
                       " key = /dev/null\n}\n",
                       cases[i].listen);
        if (load(text, c, &e) < 0)
            fail_msg("%s", e.text);
        const char *said = strstr(warnings, cases[i].warning != NULL ? cases[i].warning : "IPv6");
        if ((said != NULL) != (cases[i].warning != NULL))
            fail_msg("%s: \"%s\"", cases[i].listen, warnings);
    }
    free(c);
}

/* Others than those that are refused. */
static void load__takes_addresses_that_are_apart(void **state)
{
    static const char *const texts[] = {
        "listen = {\"0.0.0.0:7453\", \"[::]:7453\"}\nmetrics_listen = localhost:7454",
        "listen = {127.0.0.1, 127.0.0.2, other.example}\nmetrics_listen = 127.0.0.3",
        "listen = {localhost:0, localhost:0}\nmetrics_listen = localhost:0",
    };
    struct config *c = calloc(1, sizeof *c);
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct err e = ERR_INIT;
        char text[512];
        (void)snprintf(
            text, sizeof text,
            "%s\ntls {\n ca = /dev/null\n certificate = /dev/null\n key = /dev/null\n}\n",
            texts[i]);
        if (load(text, c, &e) < 0)
            fail_msg("%s: %s", texts[i], e.text);
    }
    free(c);
}

static void load__warns_of_a_cache_above_the_memory(void **state)
{
    struct config *c = calloc(1, sizeof *c);
    struct err e = ERR_INIT;
    (void)state;
    assert_int_equal(load(LOCAL "cache { size = 512P }\n", c, &e), 0);
    assert_non_null(strstr(warnings, "cache.size: 512P, which is filled by and by, but this"));
    assert_int_equal(load(LOCAL "cache { size = 1M }\n", c, &e), 0);
    assert_string_equal(warnings, "");
    free(c);
}

static void load__missing_file_is_named(void **state)
{
    (void)state;
    struct config *c = calloc(1, sizeof *c);
    struct err e = ERR_INIT;
    assert_int_equal(config_load("/nonexistent/s.conf", c, NULL, NULL, &e), SNAP_ENOENT);
    assert_non_null(strstr(e.text, "/nonexistent/s.conf: there is no such file; copy"));
    free(c);
}

/* libconfuse's scanner would end the program: a reload must not. */
static void load__what_cannot_be_read_is_an_error_and_not_the_end(void **state)
{
    (void)state;
    struct config *c = calloc(1, sizeof *c);
    struct err e = ERR_INIT;
    assert_true(config_load("/tmp", c, NULL, NULL, &e) < 0);
    assert_non_null(strstr(e.text, "/tmp"));
    assert_int_equal(config_load("/dev/zero", c, NULL, NULL, &e), SNAP_ELIMIT);
    assert_non_null(strstr(e.text, "/dev/zero"));
    char path[] = "/tmp/snapwire-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, LOCAL "\0shards = nonsense\n", sizeof LOCAL + 18),
                     (ssize_t)sizeof LOCAL + 18);
    assert_int_equal(close(fd), 0);
    assert_int_equal(config_load(path, c, NULL, NULL, &e), SNAP_EINVAL);
    assert_int_equal(unlink(path), 0);
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(load__takes_every_value),
        cmocka_unit_test(defaults__are_those_of_an_empty_file),
        cmocka_unit_test(load__names_line_and_key_of_what_is_wrong),
        cmocka_unit_test(load__warns_of_ipv6_alone),
        cmocka_unit_test(load__takes_addresses_that_are_apart),
        cmocka_unit_test(load__warns_of_a_cache_above_the_memory),
        cmocka_unit_test(load__missing_file_is_named),
        cmocka_unit_test(load__what_cannot_be_read_is_an_error_and_not_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
