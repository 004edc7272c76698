/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz the frame parser: the input is what a peer sends to a channel.
 *
 * The first byte says how: bit 0 the channel is the client's, bit 1 no HELLO is sent
 * before the input, bit 2 frames are kept until the end, bit 3 requests are answered
 * (or, as client, were sent), bit 4 the input comes in two parts.
 */
#include "common/base/check.h"
#include "common/net/chan.h"
#include "tests/fuzz/fuzz.h"

#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    AS_CLIENT = 1,
    WITHOUT_HELLO = 2,
    KEEP = 4,
    ANSWER = 8,
    IN_PARTS = 16,
    KEPT_MAX = 256,
    INPUT_BYTES_MAX = 65536,
};

struct target {
    struct chan *c;
    uint8_t how;
    struct chan_frame *kept[KEPT_MAX];
    unsigned kept_count;
    uint64_t sum; /* every byte is looked at */
};

/* HELLO, version 1, every limit sound. */
static const uint8_t hello[] = {'S', 'n', 'p', 'W', 1, FRAME_HELLO, 0, 0, 0, 0, 0, 0, 19, 0, 0, 0,
                                0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                /* version_min, version_max, control, payload, requests, window */
                                0x08, 1, 0x10, 1, 0x20, 0x80, 0x80, 0x08, 0x28, 0x80, 0x80, 0x40,
                                0x30, 16, 0x38, 0x80, 0x80, 0x80, 0x02};

static void on_up(struct chan *c, void *user, const struct chan_peer *peer)
{
    const struct target *t = user;
    const struct chan_out out = {.kind = FRAME_REQUEST, .method = 1, .id = 1};
    (void)peer;
    if ((t->how & AS_CLIENT) == 0 || (t->how & ANSWER) == 0)
        return;
    for (unsigned i = 0; i < 3; i++)
        CHECK(chan_send(c, &out, NULL) == 0);
}

static void on_frame(struct chan *c, void *user, struct chan_frame *f)
{
    struct target *t = user;
    const struct chan_out out = {.kind = FRAME_RESPONSE,
                                 .method = f->header.method,
                                 .id = f->header.id,
                                 .control = f->control,
                                 .control_bytes = f->header.control_bytes};
    for (uint32_t i = 0; i < f->header.control_bytes; i++)
        t->sum += f->control[i];
    CHECK((f->payload != NULL) == (f->header.payload_bytes > 0));
    for (uint32_t i = 0; i < f->header.payload_bytes; i++)
        t->sum += f->payload->data[i];
    if ((t->how & ANSWER) != 0 && f->header.kind == FRAME_REQUEST)
        (void)!chan_send(c, &out, NULL);
    if ((t->how & KEEP) != 0 && t->kept_count < KEPT_MAX)
        t->kept[t->kept_count++] = f;
    else
        chan_frame_done(f);
}

static void on_down(struct chan *c, void *user, const struct err *why)
{
    struct target *t = user;
    (void)c;
    CHECK(why->code <= 0);
    t->c = NULL;
}

static void feed(int fd, const uint8_t *data, size_t size)
{
    while (size > 0) {
        const ssize_t n = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n <= 0)
            return; /* it closed already, or will not read so much */
        data += n;
        size -= (size_t)n;
    }
}

static void start(struct loop *loop, struct buf_pool *pool, struct target *t, int fd)
{
    static const struct chan_ops ops = {.up = on_up, .frame = on_frame, .down = on_down};
    const struct chan_config config = {.pool = pool,
                                       .software = "fuzz",
                                       .control_bytes_max = 16384,
                                       .payload_bytes_max = 65536,
                                       .window_bytes = 65536,
                                       .requests_max = 8};
    if ((t->how & AS_CLIENT) != 0)
        CHECK(chan_new_client(loop, fd, NULL, &config, &ops, t, &t->c, NULL) == 0);
    else
        CHECK(chan_new_server(loop, fd, &config, &ops, t, &t->c, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct loop *loop;
    static struct buf_pool *pool;
    struct target t = {0};
    int v[2];
    if (size < 1 || size > INPUT_BYTES_MAX)
        return 0;
    if (loop == NULL) {
        CHECK(loop_new(&loop, NULL) == 0);
        CHECK((pool = buf_pool_new(0)) != NULL);
    }
    t.how = data[0];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, v) == 0);
    start(loop, pool, &t, v[0]);
    if ((t.how & WITHOUT_HELLO) == 0)
        feed(v[1], hello, sizeof hello);
    const size_t part = (t.how & IN_PARTS) != 0 ? (size - 1) / 2 : 0;
    feed(v[1], data + 1, part);
    for (unsigned i = 0; i < 4 && part > 0; i++)
        loop_turn(loop, 0);
    feed(v[1], data + 1 + part, size - 1 - part);
    CHECK(shutdown(v[1], SHUT_WR) == 0);
    for (unsigned i = 0; i < 8 && t.c != NULL; i++)
        loop_turn(loop, 0);
    CHECK(close(v[1]) == 0);
    for (unsigned i = 0; i < 1000 && t.c != NULL; i++) {
        while (t.kept_count > 0) /* it may wait for these */
            chan_frame_done(t.kept[--t.kept_count]);
        loop_turn(loop, 1);
    }
    CHECK(t.c == NULL);
    while (t.kept_count > 0)
        chan_frame_done(t.kept[--t.kept_count]);
    CHECK(buf_pool_used_bytes(pool) == 0);
    return 0;
}
