/* SPDX-License-Identifier: Apache-2.0 */
#include "common/net/http.h"
#include "tests/lib/cm.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A name for two addresses, whatever /etc/hosts says. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **ret)
{
    static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    bool both = name != NULL && strcmp(name, "both.test") == 0;
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (!both)
        return real(name, service, hints, ret);
    struct addrinfo *v4;
    assert_int_equal(real("::1", service, hints, ret), 0);
    assert_int_equal(real("127.0.0.1", service, hints, &v4), 0);
    struct addrinfo *last = *ret;
    while (last->ai_next != NULL)
        last = last->ai_next;
    last->ai_next = v4;
    return 0;
}

struct fixture {
    struct loop *loop;
    struct http_server *http;
    unsigned calls;
};

static int get(void *user, const char *path, struct http_reply *ret, struct err *reterr)
{
    struct fixture *f = user;
    f->calls++;
    if (strcmp(path, "/metrics") != 0)
        return err_set(reterr, SNAP_ENOENT, "no such page");
    ret->content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ret->text = strdup("snapwire_leases 3\n# EOF\n");
    ret->len = strlen(ret->text);
    return 0;
}

static void serve(struct fixture *f, const char *at)
{
    struct addr a;
    assert_int_equal(loop_new(&f->loop, NULL), 0);
    assert_int_equal(addr_parse(at, &a, NULL), 0);
    assert_int_equal(http_server_new(f->loop, &a, get, f, &f->http, NULL), 0);
}

static void serve_end(struct fixture *f)
{
    http_server_free(f->http);
    loop_free(f->loop);
}

/* -1: nobody listens there. */
static int connect_to(struct fixture *f, int family)
{
    const struct sockaddr_in in4 = {.sin_family = AF_INET,
                                    .sin_port = htons(http_server_port(f->http)),
                                    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct sockaddr_in6 in6 = {
        .sin6_family = AF_INET6, .sin6_port = in4.sin_port, .sin6_addr = in6addr_loopback};
    const int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    const int r = family == AF_INET ? connect(fd, (const struct sockaddr *)&in4, sizeof in4)
                                    : connect(fd, (const struct sockaddr *)&in6, sizeof in6);
    if (r == 0)
        return fd;
    assert_int_equal(close(fd), 0);
    return -1;
}

/* Send a request, and return all that comes back until the connection ends or a time is over. */
static void ask_on(struct fixture *f, int family, const char *request, char *answer,
                   size_t answer_bytes)
{
    size_t len = 0;
    const int fd = connect_to(f, family);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, request, strlen(request)), strlen(request));
    for (int i = 0; i < 50; i++) {
        loop_turn(f->loop, 10);
        const ssize_t n = recv(fd, answer + len, answer_bytes - len - 1, MSG_DONTWAIT);
        if (n == 0)
            break;
        if (n > 0)
            len += (size_t)n;
    }
    answer[len] = 0;
    assert_int_equal(close(fd), 0);
    loop_turn(f->loop, 10);
}

static void ask(struct fixture *f, const char *request, char *answer, size_t answer_bytes)
{
    ask_on(f, AF_INET, request, answer, answer_bytes);
}

static void http__serves_get_and_refuses_the_rest(void **state)
{
    struct fixture f = {0};
    char answer[20000];
    static char long_request[20000];
    (void)state;
    serve(&f, "127.0.0.1:0");

    ask(&f, "GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", answer,
        sizeof answer);
    assert_non_null(strstr(answer, "200 OK"));
    assert_non_null(strstr(answer, "Content-Type: application/openmetrics-text"));
    assert_non_null(strstr(answer, "\r\n\r\nsnapwire_leases 3\n# EOF\n"));
    ask(&f, "GET /else HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", answer, sizeof answer);
    assert_non_null(strstr(answer, " 404 "));
    assert_non_null(strstr(answer, "\r\n\r\nno such page\n"));
    assert_int_equal(f.calls, 2);
    ask(&f, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", answer,
        sizeof answer);
    assert_null(strstr(answer, "200 OK"));
    ask(&f, "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 300000000\r\n\r\nabc", answer,
        sizeof answer);
    assert_null(strstr(answer, "200 OK"));
    ask(&f, "\x16\x03\x01 garbage\r\n\r\n", answer, sizeof answer);
    assert_null(strstr(answer, "200 OK"));
    memset(long_request, 'a', sizeof long_request - 1);
    memcpy(long_request, "GET /metrics HTTP/1.1\r\nX: ", 26);
    memcpy(long_request + sizeof long_request - 5, "\r\n\r\n", 4);
    ask(&f, long_request, answer, sizeof answer);
    assert_null(strstr(answer, "200 OK"));
    assert_int_equal(f.calls, 2);
    serve_end(&f);
}

/* A second server, at the port of the first. */
static void expect_busy(struct fixture *f, const char *text, struct err *ret)
{
    struct http_server *second;
    struct addr a;
    assert_int_equal(addr_parse(text, &a, NULL), 0);
    a.port = http_server_port(f->http);
    assert_int_equal(http_server_new(f->loop, &a, get, f, &second, ret), SNAP_EBUSY);
}

static void http_server_new__says_why_it_cannot_listen(void **state)
{
    struct fixture f = {0};
    struct http_server *second;
    struct addr a;
    struct err e = ERR_INIT;
    (void)state;
    serve(&f, "127.0.0.1:0");
    expect_busy(&f, "127.0.0.1:0", &e);
    assert_non_null(strstr(e.text, "serve HTTP on 127.0.0.1:"));
    assert_int_equal(addr_parse("unix:/tmp/x", &a, NULL), 0);
    assert_int_equal(http_server_new(f.loop, &a, get, &f, &second, &e), SNAP_EINVAL);
    serve_end(&f);
}

static void http__is_served_at_every_address_of_a_name(void **state)
{
    static const char request[] = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    static const int families[] = {AF_INET6, AF_INET};
    struct fixture f = {0};
    char answer[1000];
    (void)state;
    serve(&f, "both.test:0");
    for (unsigned i = 0; i < 2; i++) {
        ask_on(&f, families[i], request, answer, sizeof answer);
        assert_non_null(strstr(answer, "200 OK"));
    }
    serve_end(&f);
}

/* As `listen` has it: there [::] is every IPv6 address and no IPv4 one. */
static void http__on_all_of_ipv6_is_not_on_ipv4(void **state)
{
    struct fixture f = {0};
    (void)state;
    serve(&f, "[::]:0");
    const int fd = connect_to(&f, AF_INET6);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    assert_int_equal(connect_to(&f, AF_INET), -1);
    serve_end(&f);
}

/* What it had before the address that is taken is given back. */
static void http_server_new__takes_all_addresses_or_none(void **state)
{
    struct fixture f = {0};
    struct err e = ERR_INIT;
    (void)state;
    serve(&f, "127.0.0.1:0");
    expect_busy(&f, "both.test:0", &e);
    assert_int_equal(connect_to(&f, AF_INET6), -1);
    serve_end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(http__serves_get_and_refuses_the_rest),
        cmocka_unit_test(http__is_served_at_every_address_of_a_name),
        cmocka_unit_test(http__on_all_of_ipv6_is_not_on_ipv4),
        cmocka_unit_test(http_server_new__takes_all_addresses_or_none),
        cmocka_unit_test(http_server_new__says_why_it_cannot_listen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
