/* SPDX-License-Identifier: Apache-2.0 */
/* What TLS gives on this machine, with nothing else around it: two processes on loopback,
 * TLS 1.3, the cipher that Snapwire prefers, each bound to a processor of its own.
 *
 *     bench_limit pipe CERT KEY CPU_A CPU_B MIB
 *         MiB/s of SSL_write here and SSL_read there
 *     bench_limit trip CERT KEY CPU_A CPU_B ROUNDS
 *         microseconds of a round trip: 16 KiB there, 64 bytes back
 *
 * Prints one JSON object. Thread: one a process.
 */
#include "common/base/check.h"
#include "common/base/clock.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PIPE_BYTES = 1024 * 1024, TRIP_BYTES = 16 * 1024, ANSWER_BYTES = 64 };

struct task {
    bool pipe;
    const char *certificate, *key;
    int cpu[2];
    uint64_t count; /* MiB or rounds */
};

static uint8_t data[PIPE_BYTES];

static uint64_t now_ns(void)
{
    return clock_now_ns(clock_system());
}

static void tcp_pair(int v[2])
{
    struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in4;
    const int on = 1, ls = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(bind(ls, (struct sockaddr *)&in4, sizeof in4) == 0 && listen(ls, 1) == 0);
    CHECK(getsockname(ls, (struct sockaddr *)&in4, &len) == 0);
    v[1] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(v[1], (struct sockaddr *)&in4, sizeof in4) == 0);
    v[0] = accept(ls, NULL, NULL);
    CHECK(v[0] >= 0 && close(ls) == 0);
    for (unsigned i = 0; i < 2; i++)
        CHECK(setsockopt(v[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
}

static SSL *ssl_open(const struct task *t, int fd, bool server)
{
    SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    CHECK(ctx != NULL && SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") == 1);
    CHECK(SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) == 1);
    if (server) {
        CHECK(SSL_CTX_use_certificate_chain_file(ctx, t->certificate) == 1);
        CHECK(SSL_CTX_use_PrivateKey_file(ctx, t->key, SSL_FILETYPE_PEM) == 1);
    }
    SSL *ssl = SSL_new(ctx);
    CHECK(ssl != NULL && SSL_set_fd(ssl, fd) == 1);
    CHECK((server ? SSL_accept(ssl) : SSL_connect(ssl)) == 1);
    SSL_CTX_free(ctx);
    return ssl;
}

static void read_all(SSL *ssl, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        const int n = SSL_read(ssl, data + at, (int)(bytes - at));
        CHECK(n > 0);
        at += (size_t)n;
    }
}

static void write_all(SSL *ssl, size_t bytes)
{
    CHECK(SSL_write(ssl, data, (int)bytes) == (int)bytes);
}

static void bind_cpu(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
}

static double cpu_s(int who)
{
    struct rusage ru;
    CHECK(getrusage(who, &ru) == 0);
    return (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
           (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6;
}

/* The receiving process: takes all, and says so with the answer that the sender waits for. */
static void serve(const struct task *t, int fd)
{
    bind_cpu(t->cpu[0]);
    SSL *ssl = ssl_open(t, fd, true);
    for (uint64_t i = 0; i < t->count; i++) {
        read_all(ssl, t->pipe ? PIPE_BYTES : TRIP_BYTES);
        if (!t->pipe || i + 1 == t->count)
            write_all(ssl, ANSWER_BYTES);
    }
    SSL_free(ssl);
}

static uint64_t drive(const struct task *t, int fd)
{
    bind_cpu(t->cpu[1]);
    memset(data, 0x5a, sizeof data);
    SSL *ssl = ssl_open(t, fd, false);
    const uint64_t start = now_ns();
    for (uint64_t i = 0; i < t->count; i++) {
        write_all(ssl, t->pipe ? PIPE_BYTES : TRIP_BYTES);
        if (!t->pipe || i + 1 == t->count)
            read_all(ssl, ANSWER_BYTES);
    }
    const uint64_t ns = now_ns() - start;
    SSL_free(ssl);
    return ns;
}

static void run(const struct task *t)
{
    int v[2], status;
    tcp_pair(v);
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(close(v[1]) == 0);
        serve(t, v[0]);
        _exit(0);
    }
    CHECK(close(v[0]) == 0);
    const double s = (double)drive(t, v[1]) / 1e9;
    CHECK(close(v[1]) == 0);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    if (t->pipe)
        (void)printf("{\"mib_per_s\": %.1f, \"sender_cpu_s\": %.3f, \"receiver_cpu_s\": %.3f}\n",
                     (double)t->count / s, cpu_s(RUSAGE_SELF), cpu_s(RUSAGE_CHILDREN));
    else
        (void)printf("{\"round_trip_us\": %.2f}\n", s * 1e6 / (double)t->count);
}

int main(int argc, char **argv)
{
    struct task t = {0};
    if (argc == 7) {
        t = (struct task){.pipe = strcmp(argv[1], "pipe") == 0,
                          .certificate = argv[2],
                          .key = argv[3],
                          .cpu = {atoi(argv[4]), atoi(argv[5])},
                          .count = strtoull(argv[6], NULL, 10)};
    }
    if (t.count == 0 || (!t.pipe && strcmp(argv[1], "trip") != 0)) {
        (void)fprintf(stderr, "usage: bench_limit pipe|trip CERT KEY CPU_A CPU_B COUNT\n");
        return 2;
    }
    run(&t);
    return 0;
}
