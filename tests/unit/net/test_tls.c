/* SPDX-License-Identifier: Apache-2.0 */
/* TLS: which certificates are taken, and what both ends are told about those that are not. */
#include "tests/unit/net/chan_pair.h"
#include "tests/unit/net/pki.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/ssl.h>

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

static void tls__daemon_that_expired_is_refused(void **state)
{
    struct tls_context *server, *client;
    (void)state;
    pki_issue(&pki, &(struct pki_leaf){.file = "old-server",
                                       .san = "DNS:localhost",
                                       .from_s = -3L * PKI_DAY_S,
                                       .until_s = -PKI_DAY_S});
    context(&pki, true, "old-server", NULL, &server);
    context(&pki, false, "client", NULL, &client);
    expect_refusal(server, client, "localhost",
                   "the client refused our certificate: it has expired",
                   "the daemon's certificate is refused: it has expired");
}

static void tls__daemon_is_known_by_its_ip_address_too(void **state)
{
    struct pair p;
    struct tls_context *server, *client;
    (void)state;
    pair_init(&p);
    context(&pki, true, "server", NULL, &server);
    context(&pki, false, "client", NULL, &client);
    connect_tls(&p, server, client, "127.0.0.1");
    PUMP_UNTIL(&p, p.server.up == 1 && p.client.up == 1);
    pair_done(&p);
    context(&pki, true, "server", NULL, &server);
    context(&pki, false, "client", NULL, &client);
    expect_refusal(server, client, "127.0.0.2", "the client refused our certificate",
                   "the daemon's certificate is refused: it does not carry the name asked for");
}

static void tls__identity_is_no_name_that_could_do_harm(void **state)
{
    struct tls_context *server, *client;
    (void)state;
    pki_issue(&pki, &(struct pki_leaf){.file = "evil", .san = "DNS:../../etc/passwd"});
    context(&pki, true, "server", NULL, &server);
    context(&pki, false, "evil", NULL, &client);
    expect_refusal(server, client, "localhost", "the client's certificate: identity",
                   "the daemon closed the connection: the client's certificate: identity");
}

static void chan_revoked__tells_after_a_reload(void **state)
{
    struct pair p;
    struct tls_context *server, *client, *reloaded;
    (void)state;
    pair_init(&p);
    context(&pki, true, "server", "none.crl", &server);
    context(&pki, false, "client", NULL, &client);
    connect_tls(&p, server, client, "localhost");
    PUMP_UNTIL(&p, p.server.up == 1 && p.client.up == 1);
    context(&pki, true, "server", "none.crl", &reloaded);
    assert_false(chan_revoked(p.server.c, reloaded));
    tls_context_unref(reloaded);
    context(&pki, true, "server", "77.crl", &reloaded);
    assert_true(chan_revoked(p.server.c, reloaded));
    tls_context_unref(reloaded);
    pair_done(&p);
}

/* A turn reads a bounded amount. What OpenSSL has read ahead then, no poll tells of. */
static void tls__what_was_read_ahead_is_not_forgotten(void **state)
{
    enum { FRAME_BYTES = 32768 };
    static uint8_t payload[FRAME_BYTES];
    (void)state;
    for (unsigned extra = 0; extra < 12; extra++) {
        struct pair p;
        struct tls_context *server, *client;
        const unsigned count = 30 + extra / 4;
        const size_t last = 1 + extra % 4 * 8000;
        pair_init(&p);
        context(&pki, true, "server", NULL, &server);
        context(&pki, false, "client", NULL, &client);
        connect_tls(&p, server, client, "localhost");
        PUMP_UNTIL(&p, p.server.up == 1 && p.client.up == 1);
        chan_pause(p.server.c, true);
        for (unsigned i = 0; i < count; i++)
            assert_int_equal(end_send(&p.client, FRAME_REQUEST, i, 0, payload, FRAME_BYTES, NULL),
                             0);
        assert_int_equal(end_send(&p.client, FRAME_REQUEST, count, 0, payload, last, NULL), 0);
        pump_ms(&p, 10);
        chan_pause(p.server.c, false);
        PUMP_UNTIL(&p, p.server.frames == count + 1);
        pair_done(&p);
    }
}

/* -- what is no TLS peer of ours ------------------------------------------------------------- */

/* A server channel and a bare TCP socket. */
static int raw_connect(struct pair *p)
{
    int v[2];
    struct tls_context *server;
    context(&pki, true, "server", NULL, &server);
    p->config_server.tls = server;
    tcp_sockets(v);
    pair_server(p, v[0]);
    tls_context_unref(server);
    return v[1];
}

static void tls__plain_text_is_refused(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p);
    const int fd = raw_connect(&p);
    assert_int_equal(write(fd, "GET / HTTP/1.0\r\n\r\n", 18), 18);
    for (int i = 0; i < 20 && p.server.c != NULL; i++)
        loop_turn(p.loop, 20);
    assert_int_equal(close(fd), 0);
    PUMP_UNTIL(&p, p.server.down == 1);
    assert_int_equal(p.server.why.code, SNAP_EPROTO);
    assert_non_null(strstr(p.server.why.text, "TLS handshake"));
    pair_done(&p);
}

static void tls__handshake_that_stalls_is_given_up(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p);
    p.config_server.handshake_timeout_ms = 80;
    const int fd = raw_connect(&p);
    assert_int_equal(write(fd, "\x16\x03\x01\x02", 4), 4);
    PUMP_UNTIL(&p, p.server.down == 1);
    assert_int_equal(p.server.why.code, SNAP_ETIMEDOUT);
    assert_non_null(strstr(p.server.why.text, "no TLS handshake within 80 ms"));
    assert_int_equal(close(fd), 0);
    pair_done(&p);
}

static void tls__version_1_2_is_refused(void **state)
{
    struct pair p;
    (void)state;
    pair_init(&p);
    const int fd = raw_connect(&p);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    assert_int_equal(SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION), 1);
    SSL *ssl = SSL_new(ctx);
    assert_int_equal(SSL_set_fd(ssl, fd), 1);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    for (int i = 0; i < 100 && p.server.c != NULL; i++) {
        if (SSL_connect(ssl) < 0 && SSL_get_error(ssl, -1) != SSL_ERROR_WANT_READ && i > 10)
            break;
        loop_turn(p.loop, 10);
    }
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    assert_int_equal(close(fd), 0);
    PUMP_UNTIL(&p, p.server.down == 1);
    assert_int_equal(p.server.why.code, SNAP_EPROTO);
    assert_non_null(strstr(p.server.why.text, "unsupported protocol"));
    pair_done(&p);
}

/* -- files ---------------------------------------------------------------------------------------
 */

static char *in_dir(const struct pki *from, const char *name)
{
    static char bufs[32][TMPDIR_FILE_BYTES];
    static unsigned next;
    return tmpdir_file(&from->dir, name, bufs[next++ % 32]);
}

static void refuse_files(const struct tls_files *files, int code, const char *file,
                         const char *text)
{
    struct tls_context *c = NULL;
    struct err e = ERR_INIT;
    const int r = tls_context_new(true, files, &c, &e);
    print_message("%s\n", e.text);
    assert_int_equal(r, code);
    assert_null(c);
    assert_non_null(strstr(e.text, file));
    assert_non_null(strstr(e.text, text));
}

static void tls_context_new__names_the_file_and_its_fault(void **state)
{
    (void)state;
    const struct tls_files sound = {.ca_path = in_dir(&pki, "ca.crt"),
                                    .certificate_path = in_dir(&pki, "server.crt"),
                                    .key_path = in_dir(&pki, "server.key")};
    struct tls_files f = sound;
    f.ca_path = in_dir(&pki, "absent.crt");
    refuse_files(&f, SNAP_ENOENT, "absent.crt", "No such file");
    f.ca_path = in_dir(&pki, "ca.key");
    refuse_files(&f, SNAP_EINVAL, "ca.key", "no certificate");
    f = sound;
    f.certificate_path = in_dir(&pki, "server.key");
    refuse_files(&f, SNAP_EINVAL, "server.key", "no usable certificate");
    f = sound;
    f.key_path = in_dir(&pki, "server.crt");
    refuse_files(&f, SNAP_EINVAL, "server.crt", "no private key");
    f.key_path = in_dir(&pki, "client.key");
    refuse_files(&f, SNAP_EINVAL, "client.key", "is not the key of");
    f = sound;
    f.crl_path = in_dir(&other, "none.crl");
    refuse_files(&f, SNAP_EINVAL, "none.crl", "of another CA");
    f.crl_path = in_dir(&pki, "old.crl");
    refuse_files(&f, SNAP_EINVAL, "old.crl", "has expired");
    f.crl_path = in_dir(&pki, "ca.crt");
    refuse_files(&f, SNAP_EINVAL, "ca.crt", "no revocation list");
    f = sound;
    f.key_path = in_dir(&pki, "client.key");
    assert_int_equal(chmod(f.key_path, 0644), 0);
    refuse_files(&f, SNAP_EPERM, "client.key", "open to all (mode 0644)");
    assert_int_equal(chmod(f.key_path, 0600), 0);
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
        cmocka_unit_test(tls__daemon_that_expired_is_refused),
        cmocka_unit_test(tls__daemon_is_known_by_its_ip_address_too),
        cmocka_unit_test(tls__identity_is_no_name_that_could_do_harm),
        cmocka_unit_test(chan_revoked__tells_after_a_reload),
        cmocka_unit_test(tls__what_was_read_ahead_is_not_forgotten),
        cmocka_unit_test(tls__plain_text_is_refused),
        cmocka_unit_test(tls__handshake_that_stalls_is_given_up),
        cmocka_unit_test(tls__version_1_2_is_refused),
        cmocka_unit_test(tls_context_new__names_the_file_and_its_fault),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
