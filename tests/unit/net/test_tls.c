/* SPDX-License-Identifier: Apache-2.0 */
/* TLS: which certificates are taken, and what both ends are told about those that are not. */
#include "tests/unit/net/chan_pair.h"
#include "tests/unit/net/pki.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static struct pki pki, other;

static int setup(void **state)
{
    (void)state;
    pki_init(&pki, "test CA");
    pki_init(&other, "another CA");
    pki_issue(&pki, &(struct pki_leaf){.file = "server", .san = "DNS:localhost,IP:127.0.0.1"});
    pki_issue(&pki, &(struct pki_leaf){.file = "client", .san = "DNS:host-1", .serial = 77});
    pki_revoke(&pki, "none.crl", 0, PKI_DAY_S);
    pki_revoke(&pki, "77.crl", 77, PKI_DAY_S);
    pki_revoke(&pki, "old.crl", 0, -PKI_DAY_S);
    pki_revoke(&other, "none.crl", 0, PKI_DAY_S);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pki_done(&pki);
    pki_done(&other);
    return 0;
}

/* Two ends of a TCP connection on loopback. */
static void tcp_sockets(int v[2])
{
    struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in4;
    const int ls = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(ls, (struct sockaddr *)&in4, sizeof in4), 0);
    assert_int_equal(listen(ls, 1), 0);
    assert_int_equal(getsockname(ls, (struct sockaddr *)&in4, &len), 0);
    v[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(v[1], (struct sockaddr *)&in4, sizeof in4), 0);
    v[0] = accept4(ls, NULL, NULL, SOCK_CLOEXEC);
    assert_true(v[0] >= 0);
    assert_int_equal(close(ls), 0);
}

static void context(const struct pki *from, bool server, const char *who, const char *crl,
                    struct tls_context **ret)
{
    struct err e = ERR_INIT;
    if (pki_context(from, server, who, crl, ret, &e) < 0)
        fail_msg("context: %s", e.text);
}

/* Connect with these; the contexts belong to the pair from here on. */
static void connect_tls(struct pair *p, struct tls_context *server, struct tls_context *client,
                        const char *name)
{
    int v[2];
    struct err e = ERR_INIT;
    p->config_server.tls = server;
    p->config_client.tls = client;
    tcp_sockets(v);
    pair_server(p, v[0]);
    if (chan_new_client(p->loop, v[1], name, &p->config_client, &end_ops, &p->client, &p->client.c,
                        &e) < 0)
        fail_msg("client: %s", e.text);
    tls_context_unref(server);
    tls_context_unref(client);
}

static void tls__both_ends_come_up_and_know_each_other(void **state)
{
    struct pair p;
    struct tls_context *server, *client;
    static uint8_t payload[1000000];
    (void)state;
    pair_init(&p);
    context(&pki, true, "server", "none.crl", &server);
    context(&pki, false, "client", "none.crl", &client);
    connect_tls(&p, server, client, "localhost");
    PUMP_UNTIL(&p, p.server.up == 1 && p.client.up == 1);
    assert_string_equal(p.server.peer.identity, "host-1");
    assert_string_equal(p.client.peer.identity, "localhost");
    assert_false(p.server.peer.local);
    assert_int_equal(strncmp(p.server.peer.address, "127.0.0.1:", 10), 0);
    p.server.keep = true;
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(i * 7 + i / 256);
    assert_int_equal(end_send(&p.client, FRAME_REQUEST, 5, 33, payload, sizeof payload, NULL), 0);
    PUMP_UNTIL(&p, p.server.frames == 1);
    assert_memory_equal(p.server.kept[0]->payload->data, payload, sizeof payload);
    pair_done(&p);
}

/* Both ends must go down with SNAP_EAUTH and these words. */
static void expect_refusal(struct tls_context *server, struct tls_context *client, const char *name,
                           const char *server_says, const char *client_says)
{
    struct pair p;
    pair_init(&p);
    connect_tls(&p, server, client, name);
    PUMP_UNTIL(&p, p.server.down == 1 && p.client.down == 1);
    print_message("server: %s\nclient: %s\n", p.server.why.text, p.client.why.text);
    assert_int_equal(p.server.up, 0);
    assert_non_null(strstr(p.server.why.text, server_says));
    assert_non_null(strstr(p.client.why.text, client_says));
    assert_int_equal(p.server.why.code, SNAP_EAUTH);
    assert_int_equal(p.client.why.code, SNAP_EAUTH);
    pair_done(&p);
}

static void tls__client_without_certificate_is_refused(void **state)
{
    struct tls_context *server, *client;
    (void)state;
    context(&pki, true, "server", NULL, &server);
    context(&pki, false, NULL, NULL, &client);
    expect_refusal(server, client, "localhost", "the client gave no certificate",
                   "the daemon refused our certificate: none was given");
}

static void tls__client_of_another_ca_is_refused(void **state)
{
    struct tls_context *server, *client;
    char ca[TMPDIR_FILE_BYTES], cert[TMPDIR_FILE_BYTES], key[TMPDIR_FILE_BYTES];
    (void)state;
    pki_issue(&other, &(struct pki_leaf){.file = "stranger", .san = "DNS:host-1"});
    const struct tls_files files = {.ca_path = tmpdir_file(&pki.dir, "ca.crt", ca),
                                    .certificate_path =
                                        tmpdir_file(&other.dir, "stranger.crt", cert),
                                    .key_path = tmpdir_file(&other.dir, "stranger.key", key)};
    assert_int_equal(tls_context_new(false, &files, &client, NULL), 0);
    context(&pki, true, "server", NULL, &server);
    expect_refusal(server, client, "localhost",
                   "client's certificate is refused: it is of a CA that is not trusted here",
                   "daemon refused our certificate: it is of a CA that is not trusted there");
}

static void tls__expired_client_is_refused(void **state)
{
    struct tls_context *server, *client;
    (void)state;
    pki_issue(&pki, &(struct pki_leaf){.file = "expired",
                                       .san = "DNS:host-1",
                                       .from_s = -3L * PKI_DAY_S,
                                       .until_s = -PKI_DAY_S});
    context(&pki, true, "server", NULL, &server);
    context(&pki, false, "expired", NULL, &client);
    expect_refusal(server, client, "localhost", "client's certificate is refused: it has expired",
                   "daemon refused our certificate: it has expired");
}

static void tls__client_not_yet_valid_is_refused(void **state)
{
    struct tls_context *server, *client;
    (void)state;
    pki_issue(&pki, &(struct pki_leaf){.file = "early",
                                       .san = "DNS:host-1",
                                       .from_s = PKI_DAY_S,
                                       .until_s = 2L * PKI_DAY_S});
    context(&pki, true, "server", NULL, &server);
    context(&pki, false, "early", NULL, &client);
    expect_refusal(server, client, "localhost",
                   "client's certificate is refused: it is not valid yet",
                   "daemon refused our certificate: it is not valid yet");
}

static void tls__revoked_client_is_refused(void **state)
{
    struct tls_context *server, *client;
    (void)state;
    context(&pki, true, "server", "77.crl", &server);
    context(&pki, false, "client", NULL, &client);
    expect_refusal(server, client, "localhost", "client's certificate is refused: it is revoked",
                   "daemon refused our certificate: it is revoked");
}

static void tls__client_without_a_name_is_refused(void **state)
{
    struct tls_context *server, *client;
    (void)state;
    pki_issue(&pki, &(struct pki_leaf){.file = "nameless"});
    context(&pki, true, "server", NULL, &server);
    context(&pki, false, "nameless", NULL, &client);
    expect_refusal(server, client, "localhost",
                   "the client's certificate names nobody: it has no DNS",
                   "the daemon closed the connection: the client's certificate names nobody");
}

static void tls__daemon_of_another_name_is_refused(void **state)
{
    struct tls_context *server, *client;
    (void)state;
    context(&pki, true, "server", NULL, &server);
    context(&pki, false, "client", NULL, &client);
    expect_refusal(server, client, "elsewhere.example", "the client refused our certificate",
                   "the daemon's certificate is refused: it does not carry the name asked for");
}

static void tls__daemon_of_another_ca_is_refused(void **state)
{
    struct tls_context *server, *client;
    (void)state;
    pki_issue(&other, &(struct pki_leaf){.file = "server", .san = "DNS:localhost"});
    context(&other, true, "server", NULL, &server);
    context(&pki, false, "client", NULL, &client);
    expect_refusal(server, client, "localhost",
                   "the client refused our certificate: it is of a CA that is not trusted there",
                   "the daemon's certificate is refused: it is of a CA that is not trusted here");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tls__both_ends_come_up_and_know_each_other),
        cmocka_unit_test(tls__client_without_certificate_is_refused),
        cmocka_unit_test(tls__client_of_another_ca_is_refused),
        cmocka_unit_test(tls__expired_client_is_refused),
        cmocka_unit_test(tls__client_not_yet_valid_is_refused),
        cmocka_unit_test(tls__revoked_client_is_refused),
        cmocka_unit_test(tls__client_without_a_name_is_refused),
        cmocka_unit_test(tls__daemon_of_another_name_is_refused),
        cmocka_unit_test(tls__daemon_of_another_ca_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
