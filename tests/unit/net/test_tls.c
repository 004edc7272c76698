/* SPDX-License-Identifier: Apache-2.0 */
/* TLS: which certificates are taken, and what both ends are told about those that are not. */
#include "common/base/rng.h"
#include "tests/lib/seed.h"
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

static int socket_buffer_bytes; /* 0: as the kernel likes */

/* Two ends of a TCP connection on loopback. */
static void tcp_sockets(int v[2])
{
    struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in4;
    const int ls = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(ls, (struct sockaddr *)&in4, sizeof in4), 0);
    const int *bytes = &socket_buffer_bytes;
    if (*bytes != 0)
        assert_int_equal(setsockopt(ls, SOL_SOCKET, SO_RCVBUF, bytes, sizeof *bytes), 0);
    assert_int_equal(listen(ls, 1), 0);
    assert_int_equal(getsockname(ls, (struct sockaddr *)&in4, &len), 0);
    v[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*bytes != 0)
        assert_int_equal(setsockopt(v[1], SOL_SOCKET, SO_SNDBUF, bytes, sizeof *bytes), 0);
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
    for (unsigned extra = 0; extra < 24; extra++) {
        struct pair p;
        struct tls_context *server, *client;
        const unsigned count = 13 + extra / 4;  /* 15 and a bit are a turn's share */
        const size_t last = 1 + extra % 4 * 40; /* fits behind a full record */
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

/* -- what is gathered before it is sent ----------------------------------------------------- */

struct sessions {
    int fd[2];
    struct tls_session *s[2]; /* the daemon's, the client's */
};

static void sessions_up(struct sessions *p)
{
    struct tls_context *c[2];
    bool done[2] = {false, false};
    tcp_sockets(p->fd);
    context(&pki, true, "server", NULL, &c[0]);
    context(&pki, false, "client", NULL, &c[1]);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(fcntl(p->fd[i], F_SETFL, O_NONBLOCK), 0);
        assert_int_equal(tls_session_new(c[i], p->fd[i], "localhost", &p->s[i], NULL), 0);
        tls_context_unref(c[i]);
    }
    for (unsigned i = 1; !done[0] || !done[1]; i ^= 1) {
        const int r = done[i] ? 0 : tls_handshake(p->s[i], NULL);
        assert_true(r == 0 || r == TLS_WANT_READ);
        done[i] = r == 0;
    }
}

static void sessions_done(struct sessions *p)
{
    for (unsigned i = 0; i < 2; i++) {
        tls_session_free(p->s[i]);
        assert_int_equal(close(p->fd[i]), 0);
    }
}

static void tls_write__is_gathered_until_flush(void **state)
{
    struct sessions p;
    char text[16] = "";
    (void)state;
    sessions_up(&p);
    const uint64_t before = tls_sent_bytes(p.s[0]);
    assert_int_equal(tls_write(p.s[0], "one ", 4, NULL), 4);
    assert_int_equal(tls_write(p.s[0], "two", 3, NULL), 3);
    assert_true(tls_unsent_bytes(p.s[0]) > 7);
    assert_true(tls_sent_bytes(p.s[0]) == before);
    assert_int_equal(tls_read(p.s[1], text, sizeof text, NULL), TLS_WANT_READ);
    const size_t unsent = tls_unsent_bytes(p.s[0]);
    assert_int_equal(tls_flush(p.s[0], NULL), 0);
    assert_int_equal(tls_unsent_bytes(p.s[0]), 0);
    assert_true(tls_sent_bytes(p.s[0]) == before + unsent);
    assert_int_equal(tls_read(p.s[1], text, sizeof text, NULL), 4);
    assert_int_equal(tls_read(p.s[1], text + 4, sizeof text - 4, NULL), 3);
    assert_string_equal(text, "one two");
    sessions_done(&p);
}

/* Read what there is; every byte must be the next one of the pattern. */
static size_t read_pattern(struct tls_session *s, size_t at)
{
    static uint8_t data[20000];
    ssize_t n;
    while ((n = tls_read(s, data, sizeof data, NULL)) > 0)
        for (ssize_t i = 0; i < n; i++, at++)
            assert_int_equal(data[i], (uint8_t)(at * 7 + at / 251));
    assert_int_equal(n, TLS_WANT_READ);
    return at;
}

static void tls_flush__a_full_socket_loses_nothing(void **state)
{
    enum { TOTAL_BYTES = 20 * 1000 * 1000 };
    struct sessions p;
    const int small = 65536;
    size_t written = 0, taken = 0, len = 0;
    unsigned blocked_writes = 0, blocked_flushes = 0;
    uint8_t *data = malloc(TOTAL_BYTES);
    struct rng rng;
    (void)state;
    assert_non_null(data);
    seed_init_rng(&rng);
    for (size_t i = 0; i < TOTAL_BYTES; i++)
        data[i] = (uint8_t)(i * 7 + i / 251);
    sessions_up(&p);
    assert_int_equal(setsockopt(p.fd[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small), 0);
    while (taken < TOTAL_BYTES) {
        for (uint64_t n = rng_below(&rng, 40); n > 0 && written < TOTAL_BYTES; n--) {
            if (len == 0)
                len = 1 + rng_below(&rng, u64_min(40000, TOTAL_BYTES - written));
            const ssize_t r = tls_write(p.s[0], data + written, len, NULL);
            assert_true(r > 0 || r == TLS_WANT_WRITE);
            blocked_writes += r < 0;
            if (r < 0)
                break; /* OpenSSL wants the same again */
            written += (size_t)r;
            len = 0;
        }
        const int r = tls_flush(p.s[0], NULL);
        assert_int_equal(r, tls_unsent_bytes(p.s[0]) > 0 ? TLS_WANT_WRITE : 0);
        blocked_flushes += r < 0;
        if (rng_below(&rng, 3) == 0)
            taken = read_pattern(p.s[1], taken);
    }
    assert_true(blocked_writes > 0 && blocked_flushes > 0);
    free(data);
    sessions_done(&p);
}

static void tls_flush__to_a_peer_that_reset_is_an_error(void **state)
{
    struct sessions p;
    const struct linger at_once = {.l_onoff = 1};
    struct err e = ERR_INIT;
    (void)state;
    sessions_up(&p);
    assert_int_equal(setsockopt(p.fd[1], SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
    assert_int_equal(close(p.fd[1]), 0);
    p.fd[1] = dup(p.fd[0]);
    assert_int_equal(tls_write(p.s[0], "x", 1, &e), 1);
    assert_int_equal(tls_flush(p.s[0], &e), SNAP_ECONN);
    assert_true(e.text[0] != 0);
    tls_close_notify(p.s[0]);
    sessions_done(&p);
}

/* Who tries again must not take it for a refusal. */
static void tls_read__half_a_connection_that_is_cut_is_a_lost_one_at_both_ends(void **state)
{
    struct sessions p;
    struct err e = ERR_INIT;
    char text[16];
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        sessions_up(&p);
        while (tls_read(p.s[1], text, sizeof text, NULL) > 0)
            continue;
        assert_int_equal(shutdown(p.fd[i], SHUT_WR), 0);
        assert_int_equal(tls_read(p.s[!i], text, sizeof text, &e), SNAP_ECONN);
        assert_int_equal(tls_read(p.s[i], text, sizeof text, &e), SNAP_ECONN);
        print_message("%s\n", e.text);
        sessions_done(&p);
    }
}

/* A connection that is up, its daemon's end resting. */
static void pair_up_paused(struct pair *p)
{
    struct tls_context *server, *client;
    pair_init(p);
    context(&pki, true, "server", NULL, &server);
    context(&pki, false, "client", NULL, &client);
    connect_tls(p, server, client, "localhost");
    PUMP_UNTIL(p, p->server.up == 1 && p->client.up == 1);
    chan_pause(p->server.c, true);
}

/* Lengths of which one ends while the socket is full and TLS holds the rest. */
static void chan_close__sends_what_tls_gathered(void **state)
{
    enum { STEP_BYTES = 50000, STEPS = 12 };
    static uint8_t payload[STEP_BYTES * STEPS];
    (void)state;
    socket_buffer_bytes = 32768;
    for (unsigned step = 1; step <= STEPS; step++) {
        struct pair p;
        const size_t len = (size_t)step * STEP_BYTES;
        pair_up_paused(&p);
        assert_int_equal(end_send(&p.client, FRAME_REQUEST, 1, 0, payload, len, NULL), 0);
        chan_close(p.client.c);
        pump_ms(&p, 5);
        chan_pause(p.server.c, false);
        PUMP_UNTIL(&p, p.client.down == 1 && p.server.down == 1);
        assert_int_equal(p.client.why.code, 0);
        assert_int_equal(p.server.frames, 1);
        pair_done(&p);
    }
    socket_buffer_bytes = 0;
}

static void chan__one_turn_reads_no_more_than_its_share(void **state)
{
    enum { FRAMES = 64, FRAME_BYTES = 65536, SHARE_BYTES = 512 * 1024 };
    static uint8_t payload[FRAME_BYTES];
    struct pair p;
    (void)state;
    socket_buffer_bytes = 4 * 1024 * 1024;
    pair_up_paused(&p);
    for (unsigned i = 0; i < FRAMES; i++)
        assert_int_equal(end_send(&p.client, FRAME_REQUEST, i, 0, payload, FRAME_BYTES, NULL), 0);
    pump_ms(&p, 20);
    chan_pause(p.server.c, false);
    for (unsigned turns = 0; p.server.frames < FRAMES; turns++) {
        const uint64_t before = p.server.payload_bytes;
        assert_in_range(turns, 0, 10000);
        loop_turn(p.loop, 20);
        assert_in_range(p.server.payload_bytes - before, 0, SHARE_BYTES + FRAME_BYTES);
    }
    pair_done(&p);
    socket_buffer_bytes = 0;
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
        cmocka_unit_test(tls_write__is_gathered_until_flush),
        cmocka_unit_test(tls_flush__a_full_socket_loses_nothing),
        cmocka_unit_test(tls_flush__to_a_peer_that_reset_is_an_error),
        cmocka_unit_test(tls_read__half_a_connection_that_is_cut_is_a_lost_one_at_both_ends),
        cmocka_unit_test(chan_close__sends_what_tls_gathered),
        cmocka_unit_test(chan__one_turn_reads_no_more_than_its_share),
        cmocka_unit_test(tls__plain_text_is_refused),
        cmocka_unit_test(tls__handshake_that_stalls_is_given_up),
        cmocka_unit_test(tls__version_1_2_is_refused),
        cmocka_unit_test(tls_context_new__names_the_file_and_its_fault),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
