/* SPDX-License-Identifier: Apache-2.0 */
/* How fast is a channel? Two processes on loopback; one sends payload frames of 1 MiB, the
 * other gives them back at once. Beside it, in the same run and with the same cipher, a bare
 * SSL_write/SSL_read pipe of the same shape: the most that OpenSSL gives on this machine.
 *
 * usage: bench_chan [SECONDS [FRAME_KIB]]
 *
 * Each process keeps to a processor of its own where there are two: a scheduler that puts
 * both on one halves the rate.
 *
 * Prints for each: MiB/s as the receiver saw it, and the processor time of either side for
 * a GiB. Thread: one a process.
 */
#include "common/base/check.h"
#include "tests/unit/net/chan_pair.h"
#include "tests/unit/net/pki.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { IN_FLIGHT = 16 };

static size_t frame_bytes = 1024 * 1024;
static unsigned seconds = 3;
static struct pki pki;

struct result {
    uint64_t bytes, ns;
    double cpu_s;
};

static double cpu_s(void)
{
    struct rusage ru;
    CHECK(getrusage(RUSAGE_SELF, &ru) == 0);
    return (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
           (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
}

static uint64_t now_ns(void)
{
    return clock_now_ns(clock_system());
}

static void tcp_pair(int v[2])
{
    struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in4;
    const int ls = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(ls, (struct sockaddr *)&in4, sizeof in4) == 0 && listen(ls, 1) == 0);
    CHECK(getsockname(ls, (struct sockaddr *)&in4, &len) == 0);
    v[1] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(v[1], (struct sockaddr *)&in4, sizeof in4) == 0);
    v[0] = accept(ls, NULL, NULL);
    CHECK(v[0] >= 0 && close(ls) == 0);
}

/* -- the channel ------------------------------------------------------------------- */

struct sender {
    struct end *end;
    uint8_t *payload;
    uint64_t until_ns, id;
};

static void send_one(struct end *e)
{
    struct sender *s = e->extra;
    struct err err = ERR_INIT;
    if (now_ns() > s->until_ns || e->c == NULL) {
        if (e->released == s->id && e->c != NULL)
            chan_close(e->c);
        return;
    }
    if (end_send(e, FRAME_REQUEST, ++s->id, 64, s->payload, frame_bytes, &err) < 0) {
        (void)fprintf(stderr, "send: %s\n", err.text);
        _exit(1);
    }
}

static void start_sending(struct end *e)
{
    for (unsigned i = 0; i < IN_FLIGHT; i++)
        send_one(e);
}

static struct result chan_send_side(int fd, struct tls_context *tls)
{
    struct pair p;
    struct sender s = {.payload = malloc(frame_bytes)};
    CHECK(s.payload != NULL);
    memset(s.payload, 0x5a, frame_bytes);
    pair_init(&p);
    p.config_client.tls = tls;
    s.until_ns = now_ns() + (uint64_t)seconds * 1000000000;
    p.client.extra = &s;
    p.client.on_up = start_sending;
    p.client.on_released = send_one;
    pair_client(&p, fd);
    while (p.client.c != NULL)
        loop_turn(p.loop, -1);
    pair_done(&p);
    free(s.payload);
    return (struct result){.cpu_s = cpu_s()};
}

/* Every request is answered: else the sender would run out of requests in flight. */
static void receive_one(struct end *e, struct chan_frame *f)
{
    struct result *r = e->extra;
    struct err err = ERR_INIT;
    const struct chan_out out = {.kind = FRAME_RESPONSE, .method = 1, .id = f->header.id};
    if (r->ns == 0)
        r->ns = now_ns();
    r->bytes += f->header.payload_bytes;
    chan_frame_done(f);
    if (chan_send(e->c, &out, &err) < 0) {
        (void)fprintf(stderr, "answer: %s\n", err.text);
        _exit(1);
    }
}

static struct result chan_receive_side(int fd, struct tls_context *tls)
{
    struct pair p;
    struct result r = {0};
    pair_init(&p);
    p.config_server.tls = tls;
    p.server.extra = &r;
    p.server.on_frame = receive_one;
    pair_server(&p, fd);
    while (p.server.c != NULL)
        loop_turn(p.loop, -1);
    r.ns = now_ns() - r.ns;
    pair_done(&p);
    r.cpu_s = cpu_s();
    return r;
}

/* -- the bare pipe -------------------------------------------------------------------- */

static SSL *bare_ssl(int fd, bool server)
{
    char path[TMPDIR_FILE_BYTES];
    const int on = 1;
    SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    CHECK(ctx != NULL && SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") == 1);
    if (server) {
        CHECK(SSL_CTX_use_certificate_chain_file(ctx, tmpdir_file(&pki.dir, "server.crt", path)) ==
              1);
        CHECK(SSL_CTX_use_PrivateKey_file(ctx, tmpdir_file(&pki.dir, "server.key", path),
                                          SSL_FILETYPE_PEM) == 1);
    }
    CHECK(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    SSL *ssl = SSL_new(ctx);
    CHECK(ssl != NULL && SSL_set_fd(ssl, fd) == 1);
    CHECK((server ? SSL_accept(ssl) : SSL_connect(ssl)) == 1);
    SSL_CTX_free(ctx);
    return ssl;
}

static struct result bare_send_side(int fd)
{
    SSL *ssl = bare_ssl(fd, false);
    uint8_t *data = malloc(frame_bytes);
    CHECK(data != NULL);
    memset(data, 0x5a, frame_bytes);
    const uint64_t until = now_ns() + (uint64_t)seconds * 1000000000;
    while (now_ns() < until)
        CHECK(SSL_write(ssl, data, (int)frame_bytes) == (int)frame_bytes);
    (void)SSL_shutdown(ssl);
    SSL_free(ssl);
    free(data);
    return (struct result){.cpu_s = cpu_s()};
}

static struct result bare_receive_side(int fd)
{
    struct result r = {0};
    SSL *ssl = bare_ssl(fd, true);
    uint8_t *data = malloc(frame_bytes);
    size_t at = 0;
    int n;
    CHECK(data != NULL);
    const uint64_t start = now_ns();
    while ((n = SSL_read(ssl, data + at, (int)(frame_bytes - at))) > 0) {
        r.bytes += (uint64_t)n;
        at = (at + (size_t)n) % frame_bytes;
    }
    r.ns = now_ns() - start;
    SSL_free(ssl);
    free(data);
    r.cpu_s = cpu_s();
    return r;
}

/* -- two processes ----------------------------------------------------------------------- */

enum what { BARE_TLS, CHAN_OVER_TLS, CHAN_OVER_UNIX };

static void keep_to(unsigned nth)
{
    cpu_set_t all, one;
    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all) || nth-- > 0)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
        return;
    }
}

static struct result run_side(enum what what, bool server, int fd)
{
    struct tls_context *tls = NULL;
    struct result r;
    if (what == BARE_TLS)
        return server ? bare_receive_side(fd) : bare_send_side(fd);
    if (what == CHAN_OVER_TLS)
        CHECK(pki_context(&pki, server, server ? "server" : "client", NULL, &tls, NULL) == 0);
    r = server ? chan_receive_side(fd, tls) : chan_send_side(fd, tls);
    tls_context_unref(tls);
    return r;
}

static pid_t start_side(enum what what, bool server, const int v[2], int *ret_pipe)
{
    int report[2];
    CHECK(pipe(report) == 0);
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(close(v[server ? 1 : 0]) == 0);
        keep_to(server ? 0 : 1);
        const struct result r = run_side(what, server, v[server ? 0 : 1]);
        CHECK(write(report[1], &r, sizeof r) == (ssize_t)sizeof r);
        _exit(0);
    }
    CHECK(close(report[1]) == 0);
    *ret_pipe = report[0];
    return pid;
}

static double run(enum what what, const char *name)
{
    int v[2], pipes[2], status;
    struct result r[2];
    if (what == CHAN_OVER_UNIX)
        pair_sockets(v);
    else
        tcp_pair(v);
    const pid_t pids[2] = {start_side(what, true, v, &pipes[0]),
                           start_side(what, false, v, &pipes[1])};
    CHECK(close(v[0]) == 0 && close(v[1]) == 0);
    for (unsigned i = 0; i < 2; i++) {
        CHECK(read(pipes[i], &r[i], sizeof r[i]) == (ssize_t)sizeof r[i]);
        CHECK(close(pipes[i]) == 0);
        CHECK(waitpid(pids[i], &status, 0) == pids[i] && status == 0);
    }
    const double mib = (double)r[0].bytes / (double)MIB;
    const double rate = mib / ((double)r[0].ns / 1e9);
    (void)printf("%-16s %8.0f MiB/s   sender %.2f, receiver %.2f CPU seconds a GiB\n", name, rate,
                 r[1].cpu_s / mib * 1024, r[0].cpu_s / mib * 1024);
    return rate;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        seconds = (unsigned)strtoul(argv[1], NULL, 10);
    if (argc > 2)
        frame_bytes = strtoul(argv[2], NULL, 10) * 1024;
    if (seconds == 0 || frame_bytes == 0 || frame_bytes > LIMIT_FRAME_PAYLOAD_BYTES) {
        (void)fprintf(stderr, "usage: bench_chan [SECONDS [FRAME_KIB]]\n");
        return 2;
    }
    pki_init(&pki, "bench CA");
    pki_issue(&pki, &(struct pki_leaf){.file = "server", .san = "DNS:localhost"});
    pki_issue(&pki, &(struct pki_leaf){.file = "client", .san = "DNS:bench"});
    (void)printf("payload frames of %zu KiB, %u s each\n", frame_bytes / 1024, seconds);
    (void)fflush(stdout);
    const double bare = run(BARE_TLS, "bare TLS");
    const double chan = run(CHAN_OVER_TLS, "channel, TLS");
    (void)run(CHAN_OVER_UNIX, "channel, Unix");
    (void)printf("channel over TLS: %.0f %% of the bare pipe\n", chan / bare * 100);
    pki_done(&pki);
    return 0;
}
