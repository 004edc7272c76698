/* SPDX-License-Identifier: Apache-2.0 */
#include "common/net/addr.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void parse_ok(const char *text, const char *host, uint16_t port, const char *formatted)
{
    struct addr a;
    struct err e = ERR_INIT;
    char buf[300];
    if (addr_parse(text, &a, &e) < 0)
        fail_msg("%s: %s", text, e.text);
    assert_string_equal(a.host, host);
    assert_int_equal(a.port, port);
    assert_string_equal(addr_format(&a, buf, sizeof buf), formatted);
    assert_int_equal(a.unix_socket, strncmp(text, "unix:", 5) == 0);
}

static void addr_parse__takes_names_numbers_and_paths(void **state)
{
    (void)state;
    parse_ok("backup.example.org", "backup.example.org", 7453, "backup.example.org:7453");
    parse_ok("backup:80", "backup", 80, "backup:80");
    parse_ok("10.0.0.1", "10.0.0.1", 7453, "10.0.0.1:7453");
    parse_ok("10.0.0.1:65535", "10.0.0.1", 65535, "10.0.0.1:65535");
    parse_ok("127.0.0.1:0", "127.0.0.1", 0, "127.0.0.1:0");
    parse_ok("::1", "::1", 7453, "[::1]:7453");
    parse_ok("[::1]", "::1", 7453, "[::1]:7453");
    parse_ok("[fe80::1%eth0]:99", "fe80::1%eth0", 99, "[fe80::1%eth0]:99");
    parse_ok("unix:/run/snapwire.sock", "/run/snapwire.sock", 0, "unix:/run/snapwire.sock");
}

static void addr_parse__refuses_nonsense_and_names_it(void **state)
{
    static const char *const bad[] = {
        "",        ":80",    "host:",  "host:65536", "host:999999", "host:8x",
        "host:-1", "ho st",  "a/b",    "[::1",       "[::1]x",      "[host]:1",
        "[]:1",    "::1:zz", "1:2:3",  "unix:",      "unix:rel",    "-option",
        ".hidden", "host\n", "[::1]:", "[::g]",      "host:1:2",    "[::1%]:1",
    };
    struct addr a;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err e = ERR_INIT;
        if (addr_parse(bad[i], &a, &e) != SNAP_EINVAL)
            fail_msg("taken: \"%s\"", bad[i]);
        assert_non_null(strstr(e.text, bad[i]));
    }
    char longest[600];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_int_equal(addr_parse(longest, &a, NULL), SNAP_EINVAL);
    memcpy(longest, "unix:/", 6);
    assert_int_equal(addr_parse(longest, &a, NULL), SNAP_EINVAL);
    longest[5 + 107] = 0; /* 107 bytes of path: the longest that a socket takes */
    assert_int_equal(addr_parse(longest, &a, NULL), 0);
    longest[5 + 107] = 'a';
    longest[5 + 108] = 0;
    assert_int_equal(addr_parse(longest, &a, NULL), SNAP_EINVAL);
}

static void addr_parse__tells_of_blanks_and_control_characters(void **state)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"loc alhost", "has a blank in it"},
        {" localhost", "has a blank in it"},
        {"localhost ", "has a blank in it"},
        {"localhost:7453\t", "has a blank in it"},
        {"[::1 ]:1", "has a blank in it"},
        {"unix:/run/a b", "has a blank in it"},
        {"local\nhost", "has a control character in it"},
        {"unix:/run/a\x01", "has a control character in it"},
        {"unix:/run/\x7f", "has a control character in it"},
    };
    struct addr a;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err e = ERR_INIT;
        if (addr_parse(bad[i].text, &a, &e) != SNAP_EINVAL)
            fail_msg("taken: \"%s\"", bad[i].text);
        if (strstr(e.text, bad[i].text) == NULL || strstr(e.text, bad[i].says) == NULL)
            fail_msg("\"%s\": %s", bad[i].text, e.text);
    }
    parse_ok("unix:/run/\xc3\xbc", "/run/\xc3\xbc", 0, "unix:/run/\xc3\xbc");
}

/* -- listening and connecting --------------------------------------------------------- */

struct seen {
    unsigned accepted, done;
    bool local;
    int server_fd, client_fd;
    struct err why;
    struct listener *free_in_callback;
};

static void on_accepted(void *user, int fd, bool local)
{
    struct seen *s = user;
    s->accepted++;
    s->local = local;
    assert_true((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    s->server_fd = fd;
    listener_free(s->free_in_callback);
}

static void on_done(void *user, int fd, const struct err *why)
{
    struct seen *s = user;
    s->done++;
    s->client_fd = fd;
    if (why != NULL)
        s->why = *why;
}

static void turn_until(struct loop *l, const unsigned *counter)
{
    for (int i = 0; i < 500 && *counter == 0; i++)
        loop_turn(l, 20);
}

static struct addr addr_of(const char *text)
{
    struct addr a;
    assert_int_equal(addr_parse(text, &a, NULL), 0);
    return a;
}

/* Listen there, connect to it, and send a byte through. */
static void connect_through(struct addr a)
{
    struct loop *l;
    struct listener *ls = NULL;
    struct connector *c;
    struct seen s = {0};
    struct err e = ERR_INIT;
    char byte = 0;
    assert_int_equal(loop_new(&l, NULL), 0);
    if (listener_new(l, &a, 0600, on_accepted, &s, &ls, &e) < 0)
        fail_msg("%s", e.text);
    if (!a.unix_socket)
        a.port = listener_port(ls);
    assert_int_equal(connector_new(l, &a, 5000, on_done, &s, &c, NULL), 0);
    assert_int_equal(s.done, 0); /* never inside the call */
    turn_until(l, &s.done);
    turn_until(l, &s.accepted);
    if (s.client_fd < 0)
        fail_msg("%s", s.why.text);
    assert_int_equal(s.done, 1);
    assert_int_equal(s.local, a.unix_socket);
    assert_int_equal(write(s.client_fd, "x", 1), 1);
    while (read(s.server_fd, &byte, 1) < 0)
        loop_turn(l, 1);
    assert_int_equal(byte, 'x');
    assert_int_equal(close(s.client_fd), 0);
    assert_int_equal(close(s.server_fd), 0);
    connector_free(c);
    listener_free(ls);
    loop_free(l);
}

/* A machine may have no /etc/hosts. */
static bool localhost_is_known(void)
{
    struct addrinfo *found = NULL;
    if (getaddrinfo("localhost", NULL, NULL, &found) != 0)
        return false;
    freeaddrinfo(found);
    return true;
}

static void connector__reaches_a_listener_on_ipv4_ipv6_name_and_unix(void **state)
{
    struct tmpdir dir;
    char path[TMPDIR_FILE_BYTES], text[TMPDIR_FILE_BYTES + 8];
    (void)state;
    connect_through(addr_of("127.0.0.1:0"));
    if (localhost_is_known())
        connect_through(addr_of("localhost:0"));
    else
        print_message("nobody knows localhost on this machine: skipped\n");
    const int v6 = socket(AF_INET6, SOCK_STREAM, 0);
    const struct sockaddr_in6 one = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    if (v6 >= 0 && bind(v6, (const struct sockaddr *)&one, sizeof one) == 0)
        connect_through(addr_of("[::1]:0"));
    else
        print_message("no IPv6 on this machine: skipped\n");
    if (v6 >= 0)
        assert_int_equal(close(v6), 0);
    tmpdir_make(&dir);
    (void)snprintf(text, sizeof text, "unix:%s", tmpdir_file(&dir, "s", path));
    connect_through(addr_of(text));
    tmpdir_remove(&dir);
}

static void listener__dead_socket_file_is_replaced_a_living_one_is_busy(void **state)
{
    struct tmpdir dir;
    struct loop *l;
    struct listener *first, *second;
    struct seen s = {0};
    struct err e = ERR_INIT;
    struct stat st;
    char path[TMPDIR_FILE_BYTES], text[TMPDIR_FILE_BYTES + 8];
    (void)state;
    tmpdir_make(&dir);
    (void)snprintf(text, sizeof text, "unix:%s", tmpdir_file(&dir, "s", path));
    const struct addr a = addr_of(text);
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    memcpy(sun.sun_path, path, strlen(path) + 1);
    const int dead = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(dead, (struct sockaddr *)&sun, sizeof sun), 0);
    assert_int_equal(close(dead), 0);

    assert_int_equal(loop_new(&l, NULL), 0);
    assert_int_equal(listener_new(l, &a, 0660, on_accepted, &s, &first, NULL), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);
    assert_int_equal(listener_new(l, &a, 0660, on_accepted, &s, &second, &e), SNAP_EBUSY);
    assert_non_null(strstr(e.text, path));
    assert_int_equal(stat(path, &st), 0);
    listener_free(first);
    assert_int_not_equal(stat(path, &st), 0);

    /* a plain file is nobody's to remove */
    const int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_int_equal(close(fd), 0);
    assert_int_equal(listener_new(l, &a, 0660, on_accepted, &s, &second, &e), SNAP_EEXIST);
    assert_int_equal(stat(path, &st), 0);
    loop_free(l);
    tmpdir_remove(&dir);
}

static void listener__taken_port_is_busy(void **state)
{
    struct loop *l;
    struct listener *first, *second;
    struct addr a = addr_of("127.0.0.1:0");
    (void)state;
    assert_int_equal(loop_new(&l, NULL), 0);
    assert_int_equal(listener_new(l, &a, 0, on_accepted, NULL, &first, NULL), 0);
    a.port = listener_port(first);
    assert_int_not_equal(a.port, 0);
    assert_int_equal(listener_new(l, &a, 0, on_accepted, NULL, &second, NULL), SNAP_EBUSY);
    listener_free(first);
    loop_free(l);
}

static void listener__may_be_freed_by_who_accepts(void **state)
{
    struct loop *l;
    struct seen s = {0};
    struct connector *c;
    struct addr a = addr_of("127.0.0.1:0");
    (void)state;
    assert_int_equal(loop_new(&l, NULL), 0);
    assert_int_equal(listener_new(l, &a, 0, on_accepted, &s, &s.free_in_callback, NULL), 0);
    a.port = listener_port(s.free_in_callback);
    assert_int_equal(connector_new(l, &a, 5000, on_done, &s, &c, NULL), 0);
    turn_until(l, &s.accepted);
    turn_until(l, &s.done);
    assert_int_equal(close(s.server_fd), 0);
    assert_int_equal(close(s.client_fd), 0);
    connector_free(c);
    loop_free(l);
}

static void expect_failure(const struct addr *a, uint32_t timeout_ms, int code)
{
    struct loop *l;
    struct connector *c;
    struct seen s = {0};
    char text[300];
    assert_int_equal(loop_new(&l, NULL), 0);
    assert_int_equal(connector_new(l, a, timeout_ms, on_done, &s, &c, NULL), 0);
    assert_int_equal(s.done, 0);
    turn_until(l, &s.done);
    print_message("%s\n", s.why.text);
    assert_int_equal(s.done, 1);
    assert_int_equal(s.client_fd, -1);
    assert_int_equal(s.why.code, code);
    assert_non_null(strstr(s.why.text, addr_format(a, text, sizeof text)));
    assert_null(strstr(s.why.text, "1 of 1")); /* goes without saying */
    connector_free(c);
    loop_free(l);
}

static void connector__says_why_it_failed(void **state)
{
    struct addr a = addr_of("127.0.0.1:1");
    (void)state;
    a.port = port_find_free();
    expect_failure(&a, 2000, SNAP_ECONN);
    a = addr_of("no-such-host.invalid:1");
    expect_failure(&a, 5000, SNAP_ECONN);
    a = addr_of("unix:/nonexistent/socket");
    expect_failure(&a, 2000, SNAP_ECONN);
}

/* A full backlog makes connect() hang on loopback: nobody accepts there. */
static void connector__gives_up_in_time(void **state)
{
    struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in4;
    int fill[8];
    (void)state;
    const int ls = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(ls, (struct sockaddr *)&in4, sizeof in4), 0);
    assert_int_equal(listen(ls, 0), 0);
    assert_int_equal(getsockname(ls, (struct sockaddr *)&in4, &len), 0);
    for (unsigned i = 0; i < 8; i++) {
        fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)connect(fill[i], (struct sockaddr *)&in4, sizeof in4);
    }
    struct addr a = addr_of("127.0.0.1:1");
    a.port = ntohs(in4.sin_port);
    expect_failure(&a, 100, SNAP_ETIMEDOUT);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(close(fill[i]), 0);
    assert_int_equal(close(ls), 0);
}

static void connector_free__cancels_at_every_stage(void **state)
{
    static const char *const targets[] = {"127.0.0.1:1", "localhost:1", "no-such-host.invalid:1"};
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned turns = 0; turns < 3; turns++) {
            struct loop *l;
            struct connector *c;
            struct seen s = {0};
            const struct addr a = addr_of(targets[i]);
            assert_int_equal(loop_new(&l, NULL), 0);
            assert_int_equal(connector_new(l, &a, 5000, on_done, &s, &c, NULL), 0);
            for (unsigned n = 0; n < turns; n++)
                loop_turn(l, 0);
            const unsigned before = s.done;
            connector_free(c);
            loop_turn(l, 5);
            assert_int_equal(s.done, before);
            loop_free(l);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addr_parse__takes_names_numbers_and_paths),
        cmocka_unit_test(addr_parse__refuses_nonsense_and_names_it),
        cmocka_unit_test(addr_parse__tells_of_blanks_and_control_characters),
        cmocka_unit_test(connector__reaches_a_listener_on_ipv4_ipv6_name_and_unix),
        cmocka_unit_test(listener__dead_socket_file_is_replaced_a_living_one_is_busy),
        cmocka_unit_test(listener__taken_port_is_busy),
        cmocka_unit_test(listener__may_be_freed_by_who_accepts),
        cmocka_unit_test(connector__says_why_it_failed),
        cmocka_unit_test(connector__gives_up_in_time),
        cmocka_unit_test(connector_free__cancels_at_every_stage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
