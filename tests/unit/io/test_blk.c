/* SPDX-License-Identifier: Apache-2.0 */
/* What every make of block device engine promises, run over io_uring and the
 * thread pool (each with O_DIRECT and through the page cache) and memory. */
#include "tests/lib/cm.h"

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/io/mem.h"
#include "tests/lib/seed.h"
#include "tests/lib/tmpdir.h"
#include "tests/unit/io/probe.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum make { MAKE_URING, MAKE_THREADS, MAKE_MEMORY };

enum { BLOCK = 4096, DEPTH = 8 };

#define DEV_BYTES (1 * MIB)

struct env {
    enum make make;
    unsigned open_flags;
    struct tmpdir dir;
    struct blk_engine *engine;
    struct blk_dev *dev; /* DEV_BYTES, growable */
    char path[TMPDIR_FILE_BYTES];
    uint8_t *a; /* buffers of DEV_BYTES */
    uint8_t *b;
};

static struct env env;

static void open_dev(void)
{
    struct err err = ERR_INIT;

    if (env.make == MAKE_MEMORY) {
        assert_int_equal(mem_dev_new(env.engine, "disk", DEV_BYTES, 512, 64 * MIB, &env.dev, &err),
                         0);
        return;
    }
    unsigned flags = BLK_OPEN_CREATE | BLK_OPEN_EXCLUSIVE | env.open_flags;
    assert_int_equal(blk_open(env.engine, env.path, flags, &env.dev, &err), 0);
    assert_int_equal(blk_grow_sync(env.dev, DEV_BYTES, &err), 0);
}

static int setup(void **state)
{
    int r = -1;

    (void)state;
    (void)alarm(60); /* what hangs has failed */
    tmpdir_make(&env.dir);
    (void)tmpdir_file(&env.dir, "disk", env.path);
    switch (env.make) {
    case MAKE_URING:
        r = blk_engine_new_uring(DEPTH, &env.engine, NULL);
        break;
    case MAKE_THREADS:
        r = blk_engine_new_threads(3, &env.engine, NULL);
        break;
    case MAKE_MEMORY:
        r = blk_engine_new_memory(7, &env.engine, NULL);
        break;
    }
    assert_int_equal(r, 0);
    env.a = aligned_alloc(BLOCK, DEV_BYTES);
    env.b = aligned_alloc(BLOCK, DEV_BYTES);
    assert_true(env.a != NULL && env.b != NULL);
    for (size_t i = 0; i < DEV_BYTES; i++)
        env.a[i] = (uint8_t)(i * 7 + i / 512 + 1);
    memset(env.b, 0xee, DEV_BYTES);
    open_dev();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tmpdir_remove(&env.dir);
    if (blk_engine_inflight(env.engine) > 0)
        return 0; /* a case that failed left it so: tell of that one, do not stop here */
    blk_dev_close(env.dev);
    blk_engine_free(env.engine);
    free(env.a);
    free(env.b);
    return 0;
}

/* -- requests, with what p->req has of flags and iovecs -------------------------------- */

static void start(struct probe *p, enum blk_op op, uint64_t offset, uint64_t len, void *data)
{
    p->req.op = op;
    p->req.offset_bytes = offset;
    p->req.len_bytes = len;
    p->req.data = data;
    probe_submit(env.dev, p);
}

static void drain(void)
{
    while (blk_engine_inflight(env.engine) > 0)
        (void)blk_engine_wait(env.engine, -1);
}

static int run(enum blk_op op, uint64_t offset, uint64_t len, void *data)
{
    struct probe p = {.ran = 0};

    start(&p, op, offset, len, data);
    drain();
    assert_int_equal(p.ran, 1);
    return p.result;
}

/* -- cases ---------------------------------------------------------------------------- */

static void write__is_read_back(void **state)
{
    (void)state;
    assert_int_equal(blk_write_sync(env.dev, 8192, env.a, 65536, NULL), 0);
    assert_int_equal(blk_read_sync(env.dev, 8192, env.b, 65536, NULL), 0);
    assert_memory_equal(env.a, env.b, 65536);
    assert_int_equal(blk_read_sync(env.dev, 0, env.b, 8192, NULL), 0);
    assert_true(bytes_are_zero(env.b, 8192));
    assert_int_equal(blk_flush_sync(env.dev, NULL), 0);
}

static void write__at_both_ends_of_the_device(void **state)
{
    (void)state;
    assert_int_equal(blk_write_sync(env.dev, 0, env.a, DEV_BYTES, NULL), 0);
    assert_int_equal(blk_read_sync(env.dev, 0, env.b, DEV_BYTES, NULL), 0);
    assert_memory_equal(env.a, env.b, DEV_BYTES);
    assert_int_equal(blk_read_sync(env.dev, DEV_BYTES - BLOCK, env.b, BLOCK, NULL), 0);
    assert_memory_equal(env.a + DEV_BYTES - BLOCK, env.b, BLOCK);
}

static void vectors__scatter_and_gather(void **state)
{
    (void)state;
    struct iovec out[] = {{env.a + 16384, 4096}, {env.a, 8192}, {env.a + 32768, 4096}};
    struct iovec in[] = {{env.b, 8192}, {env.b + 65536, 4096}, {env.b + 8192, 4096}};
    struct probe p = {.req = {.iov = out, .iov_count = 3}};

    start(&p, BLK_WRITE, 4096, 16384, NULL);
    drain();
    assert_int_equal(p.result, 0);
    p.req.iov = in;
    start(&p, BLK_READ, 4096, 16384, NULL);
    drain();
    assert_int_equal(p.result, 0);
    assert_memory_equal(env.b, env.a + 16384, 4096);
    assert_memory_equal(env.b + 4096, env.a, 4096);
    assert_memory_equal(env.b + 65536, env.a + 4096, 4096);
    assert_memory_equal(env.b + 8192, env.a + 32768, 4096);
}

static void vectors__wrong_sum_or_too_many_are_refused(void **state)
{
    (void)state;
    struct iovec iov[BLK_IOV_MAX + 1];
    struct probe p = {.req = {.iov = iov, .iov_count = 2}};

    for (size_t i = 0; i < ARRAY_LEN(iov); i++)
        iov[i] = (struct iovec){env.a, 512};
    start(&p, BLK_WRITE, 0, 4096, NULL);
    drain();
    assert_int_equal(p.result, SNAP_EINVAL);
    p.req.iov_count = BLK_IOV_MAX + 1;
    start(&p, BLK_WRITE, 0, (BLK_IOV_MAX + 1) * 512, NULL);
    drain();
    assert_int_equal(p.result, SNAP_EINVAL);
}

static void misaligned__is_refused(void **state)
{
    (void)state;
    assert_int_equal(run(BLK_WRITE, 100, 4096, env.a), SNAP_EINVAL);
    assert_int_equal(run(BLK_WRITE, 0, 4097, env.a), SNAP_EINVAL);
    assert_int_equal(run(BLK_WRITE, 0, 4096, env.a + 8), SNAP_EINVAL);
    assert_int_equal(run(BLK_READ, 0, 4096, NULL), SNAP_EINVAL);
    assert_int_equal(run(BLK_ZERO, 0, 100, NULL), SNAP_EINVAL);
    assert_int_equal(run(BLK_GROW, DEV_BYTES + 100, 0, NULL), SNAP_EINVAL);
    assert_int_equal(run((enum blk_op)77, 0, 4096, env.a), SNAP_EINVAL);
}

static void out_of_range__is_refused(void **state)
{
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(run(BLK_READ, DEV_BYTES, 4096, env.b), SNAP_EINVAL);
    assert_int_equal(run(BLK_WRITE, DEV_BYTES - 4096, 8192, env.a), SNAP_EINVAL);
    assert_int_equal(run(BLK_WRITE, UINT64_MAX - 4095, 8192, env.a), SNAP_EINVAL);
    assert_int_equal(run(BLK_DISCARD, 0, DEV_BYTES + 4096, NULL), SNAP_EINVAL);
    assert_int_equal(run(BLK_ZERO, 4096, UINT64_MAX - 4095, NULL), SNAP_EINVAL);
    assert_int_equal(blk_read_sync(env.dev, DEV_BYTES, env.b, 4096, &err), SNAP_EINVAL);
    assert_non_null(strstr(err.text, "read of 4096 bytes at 1048576"));
}

static void nothing__succeeds(void **state)
{
    (void)state;
    assert_int_equal(run(BLK_WRITE, DEV_BYTES, 0, NULL), 0);
    assert_int_equal(run(BLK_READ, 0, 0, NULL), 0);
    assert_int_equal(run(BLK_GROW, 4096, 0, NULL), 0);
    assert_int_equal(blk_dev_info(env.dev)->size_bytes, DEV_BYTES);
}

static void grow__adds_zeros(void **state)
{
    (void)state;
    assert_int_equal(blk_write_sync(env.dev, 0, env.a, DEV_BYTES, NULL), 0);
    assert_int_equal(blk_grow_sync(env.dev, DEV_BYTES + 65536, NULL), 0);
    assert_int_equal(blk_dev_info(env.dev)->size_bytes, DEV_BYTES + 65536);
    assert_int_equal(blk_read_sync(env.dev, DEV_BYTES, env.b, 65536, NULL), 0);
    assert_true(bytes_are_zero(env.b, 65536));
    assert_int_equal(blk_write_sync(env.dev, DEV_BYTES + 61440, env.a, 4096, NULL), 0);
    assert_int_equal(blk_read_sync(env.dev, 0, env.b, DEV_BYTES, NULL), 0);
    assert_memory_equal(env.a, env.b, DEV_BYTES);
}

static void grow__several_at_once_end_at_the_largest(void **state)
{
    struct probe p[3] = {0};

    (void)state;
    start(&p[0], BLK_GROW, DEV_BYTES + 65536, 0, NULL);
    start(&p[1], BLK_GROW, DEV_BYTES + 131072, 0, NULL);
    start(&p[2], BLK_GROW, DEV_BYTES + 4096, 0, NULL);
    drain();
    for (size_t i = 0; i < ARRAY_LEN(p); i++)
        assert_int_equal(p[i].result, 0);
    assert_int_equal(blk_dev_info(env.dev)->size_bytes, DEV_BYTES + 131072);
}

static void zero__reads_as_zeros(void **state)
{
    (void)state;
    assert_int_equal(blk_write_sync(env.dev, 0, env.a, DEV_BYTES, NULL), 0);
    assert_int_equal(blk_zero_sync(env.dev, 8192, 524288, NULL), 0);
    assert_int_equal(blk_read_sync(env.dev, 0, env.b, DEV_BYTES, NULL), 0);
    assert_memory_equal(env.a, env.b, 8192);
    assert_true(bytes_are_zero(env.b + 8192, 524288));
    assert_memory_equal(env.a + 532480, env.b + 532480, DEV_BYTES - 532480);

    struct probe p = {.req = {.flags = BLK_FUA}};
    start(&p, BLK_ZERO, 0, 4096, NULL);
    drain();
    assert_int_equal(p.result, 0);
    assert_int_equal(blk_read_sync(env.dev, 0, env.b, 4096, NULL), 0);
    assert_true(bytes_are_zero(env.b, 4096));
    assert_int_equal(blk_dev_info(env.dev)->size_bytes, DEV_BYTES);
}

static void discard__leaves_the_rest_alone(void **state)
{
    (void)state;
    assert_int_equal(blk_write_sync(env.dev, 0, env.a, DEV_BYTES, NULL), 0);
    assert_int_equal(run(BLK_DISCARD, 65536, 65536, NULL), 0);
    assert_int_equal(blk_read_sync(env.dev, 0, env.b, DEV_BYTES, NULL), 0);
    assert_memory_equal(env.a, env.b, 65536);
    assert_memory_equal(env.a + 131072, env.b + 131072, DEV_BYTES - 131072);
    for (size_t at = 65536; at < 131072; at += 512)
        assert_true(bytes_are_zero(env.b + at, 512) || memcmp(env.a + at, env.b + at, 512) == 0);
}

static void fua__write_is_read_back(void **state)
{
    struct iovec iov[] = {{env.a, 4096}, {env.a + 8192, 4096}};
    struct probe p = {.req = {.flags = BLK_FUA}};

    (void)state;
    start(&p, BLK_WRITE, 0, 4096, env.a);
    drain();
    assert_int_equal(p.result, 0);
    p.req.iov = iov;
    p.req.iov_count = 2;
    start(&p, BLK_WRITE, 4096, 8192, NULL);
    drain();
    assert_int_equal(p.result, 0);
    assert_int_equal(blk_read_sync(env.dev, 0, env.b, 12288, NULL), 0);
    assert_memory_equal(env.a, env.b, 4096);
    assert_memory_equal(env.a, env.b + 4096, 4096);
    assert_memory_equal(env.a + 8192, env.b + 8192, 4096);
}

/* None begins beside another, since one that fails may make another succeed; and those that wait
 * become one. */
static void flush__those_that_come_meanwhile_are_one(void **state)
{
    enum { COUNT = 40 };
    struct probe p[COUNT], more = {0}, read = {0};

    (void)state;
    for (unsigned i = 0; i < COUNT; i++)
        start(&p[i], BLK_FLUSH, 0, 0, NULL);
    start(&read, BLK_READ, 0, DEV_BYTES, env.b); /* waits for none of them */
    assert_int_equal(blk_engine_inflight(env.engine), COUNT + 1);
    while (p[0].ran == 0) {
        for (unsigned i = 1; i < COUNT; i++)
            assert_int_equal(p[i].ran, 0);
        (void)blk_engine_wait(env.engine, -1);
    }
    start(&more, BLK_FLUSH, 0, 0, NULL);
    drain();
    for (unsigned i = 0; i < COUNT; i++)
        assert_true(p[i].ran == 1 && p[i].result == 0);
    assert_true(more.ran == 1 && more.result == 0);
    assert_true(read.ran == 1 && read.result == 0);
    if (env.make == MAKE_MEMORY)
        assert_in_range(mem_dev_counters(env.dev).flushes, 2, 3);
}

static void waiting_done(struct blk_req *req, int result)
{
    struct probe *others = req->user;

    assert_int_equal(result, 0);
    for (unsigned i = 0; i < 100 && others[1].ran + others[2].ran < 2; i++)
        (void)blk_engine_wait(env.engine, 20);
    assert_true(others[1].ran == 1 && others[2].ran == 1);
    others[0].ran++;
}

/* Those that end with it are told of inside its wait. */
static void flush__done_may_wait_for_those_that_end_with_it(void **state)
{
    struct probe first = {0}, p[3] = {0};

    (void)state;
    for (unsigned who = 0; who < 2; who++) {
        start(&first, BLK_FLUSH, 0, 0, NULL);
        for (unsigned i = 0; i < 3; i++)
            start(&p[i], BLK_FLUSH, 0, 0, NULL);
        struct blk_req *waits = who == 0 ? &p[0].req : &first.req; /* one of theirs; before them */
        waits->done = waiting_done;
        waits->user = p;
        drain();
        assert_int_equal(p[0].ran, who == 0 ? 1 : 2);
        assert_true(p[1].ran == 1 && p[1].result == 0);
        assert_true(p[2].ran == 1 && p[2].result == 0);
    }
    assert_int_equal(blk_engine_inflight(env.engine), 0);
}

static void holes__are_told_from_data(void **state)
{
    (void)state;
    assert_int_equal(run(BLK_DISCARD, 0, DEV_BYTES, NULL), 0);
    assert_int_equal(blk_write_sync(env.dev, 262144, env.a, 65536, NULL), 0);
    assert_int_equal(blk_flush_sync(env.dev, NULL), 0);
    uint64_t data = blk_dev_next_data(env.dev, 0);
    uint64_t hole = blk_dev_next_hole(env.dev, 262144);
    /* a file system may know nothing of holes, but it may not hide data */
    assert_true(data == 262144 || data == 0);
    assert_true(hole == 327680 || hole == DEV_BYTES);
    assert_int_equal(blk_dev_next_data(env.dev, 266240), 266240);
    assert_true(blk_dev_next_data(env.dev, 327680) >= 327680);
    assert_int_equal(blk_dev_next_data(env.dev, DEV_BYTES), DEV_BYTES);
    assert_int_equal(blk_dev_next_hole(env.dev, DEV_BYTES + 4096), DEV_BYTES);
}

/* -- many ------------------------------------------------------------------------------- */

static void many_in_flight__beyond_the_depth_all_complete(void **state)
{
    enum { COUNT = 1000 };
    struct probe *p = calloc(COUNT, sizeof *p);

    (void)state;
    assert_non_null(p);
    for (size_t i = 0; i < COUNT; i++)
        start(&p[i], BLK_WRITE, (i % 256) * BLOCK, BLOCK, env.a + (i % 256) * BLOCK);
    assert_int_equal(blk_engine_inflight(env.engine), COUNT);
    drain();
    for (size_t i = 0; i < COUNT; i++)
        assert_true(p[i].ran == 1 && p[i].result == 0);
    assert_int_equal(blk_engine_wait(env.engine, -1), 0); /* nothing in flight */
    assert_int_equal(blk_read_sync(env.dev, 0, env.b, DEV_BYTES, NULL), 0);
    assert_memory_equal(env.a, env.b, DEV_BYTES);
    free(p);
}

static bool is_readable(int timeout_ms)
{
    struct pollfd pfd = {.fd = blk_engine_fd(env.engine), .events = POLLIN};
    return poll(&pfd, 1, timeout_ms) == 1;
}

struct chain {
    struct blk_req req;
    unsigned left;
    unsigned depth; /* of done calls inside each other */
};

static void chain_done(struct blk_req *req, int result)
{
    struct chain *c = req->user;

    assert_int_equal(c->depth, 0);
    c->depth++;
    assert_int_equal(result, c->left % 5 == 0 ? SNAP_EINVAL : 0);
    if (--c->left > 0) {
        req->op = c->left % 2 == 0 ? BLK_WRITE : BLK_READ;
        req->offset_bytes = (c->left % 16) * BLOCK + (c->left % 5 == 0 ? 1 : 0);
        blk_submit(env.dev, req);
    }
    c->depth--;
}

static void done__may_submit_again(void **state)
{
    struct chain chains[20];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(chains); i++) {
        chains[i] = (struct chain){.left = 101};
        chains[i].req = (struct blk_req){.op = BLK_READ,
                                         .len_bytes = BLOCK,
                                         .data = env.b + i * BLOCK,
                                         .done = chain_done,
                                         .user = &chains[i]};
        blk_submit(env.dev, &chains[i].req);
    }
    drain();
    for (size_t i = 0; i < ARRAY_LEN(chains); i++)
        assert_int_equal(chains[i].left, 0);
}

static void nested_done(struct blk_req *req, int result)
{
    assert_int_equal(result, 0);
    assert_int_equal(blk_write_sync(env.dev, BLOCK, env.a, BLOCK, NULL), 0);
    assert_int_equal(blk_read_sync(env.dev, BLOCK, env.b, BLOCK, NULL), 0);
    *(bool *)req->user = true;
}

static void done__may_use_the_blocking_face(void **state)
{
    bool finished = false;
    struct probe others[4] = {0};
    struct blk_req req = {.op = BLK_READ,
                          .len_bytes = BLOCK,
                          .data = env.b + DEV_BYTES / 2,
                          .done = nested_done,
                          .user = &finished};

    (void)state;
    blk_submit(env.dev, &req);
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        start(&others[i], BLK_READ, 0, BLOCK, env.b + (4 + i) * BLOCK);
    drain();
    assert_true(finished);
    assert_memory_equal(env.a, env.b, BLOCK);
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        assert_int_equal(others[i].ran, 1);
}

static void invalid_done(struct blk_req *req, int result)
{
    unsigned *ran = req->user;

    assert_int_equal(result, SNAP_EINVAL);
    if (++*ran < 1000)
        blk_submit(env.dev, req);
}

static void reap__lets_go_although_done_keeps_failing(void **state)
{
    unsigned ran = 0;
    struct blk_req req = {.op = BLK_READ, .offset_bytes = 1, .done = invalid_done, .user = &ran};

    (void)state;
    blk_submit(env.dev, &req);
    assert_int_equal(blk_engine_reap(env.engine), 1);
    assert_int_equal(ran, 1);
    /* what came up meanwhile is not slept on */
    assert_true(env.make == MAKE_MEMORY || is_readable(0));
    drain();
    assert_int_equal(ran, 1000);
}

/* -- random work ------------------------------------------------------------------------- */

enum { SLOTS = 32, SLOT_BYTES = DEV_BYTES / SLOTS, ROUNDS = 4000 };

/* A part of the device with one request at a time on it, and what it must hold. */
struct slot {
    struct blk_req req;
    struct iovec iov[3];
    uint8_t *shadow;  /* SLOT_BYTES of env.a */
    uint8_t *scratch; /* SLOT_BYTES of env.b */
    struct rng *rng;
    unsigned *left;
};

static void slot_submit(struct slot *s)
{
    uint64_t base = (uint64_t)(s->shadow - env.a);
    uint64_t from = rng_below(s->rng, SLOT_BYTES / 512 - 3) * 512;
    uint64_t len = (3 + rng_below(s->rng, (SLOT_BYTES - from) / 512 - 2)) * 512;
    uint64_t dice = rng_below(s->rng, 100);

    s->req.op = dice < 45 ? BLK_READ : dice < 85 ? BLK_WRITE : dice < 95 ? BLK_ZERO : BLK_FLUSH;
    s->req.flags = rng_chance(s->rng, 20) ? BLK_FUA : 0;
    s->req.offset_bytes = base + from;
    s->req.len_bytes = len;
    s->req.data = s->scratch + from;
    s->req.iov = NULL;
    if (rng_chance(s->rng, 40)) { /* the same buffer in three pieces */
        uint64_t cut = (1 + rng_below(s->rng, len / 512 - 2)) * 512;
        s->iov[0] = (struct iovec){s->scratch + from, 512};
        s->iov[1] = (struct iovec){s->scratch + from + 512, cut - 512};
        s->iov[2] = (struct iovec){s->scratch + from + cut, len - cut};
        s->req.iov = s->iov;
        s->req.iov_count = 3;
    }
    if (s->req.op == BLK_WRITE) {
        rng_fill(s->rng, s->scratch + from, len);
        memcpy(s->shadow + from, s->scratch + from, len);
    } else if (s->req.op == BLK_ZERO) {
        memset(s->shadow + from, 0, len);
    }
    blk_submit(env.dev, &s->req);
}

static void slot_done(struct blk_req *req, int result)
{
    struct slot *s = req->user;

    assert_int_equal(result, 0);
    if (req->op == BLK_READ)
        assert_memory_equal(env.a + req->offset_bytes, env.b + req->offset_bytes, req->len_bytes);
    if (*s->left > 0) {
        --*s->left;
        slot_submit(s);
    }
}

static void random_work__matches_a_shadow(void **state)
{
    struct slot slots[SLOTS];
    struct rng rng;
    unsigned left = ROUNDS;

    (void)state;
    if (blk_dev_info(env.dev)->align_bytes > 512) {
        printf("SKIPPED: this file system wants more than 512 bytes\n");
        skip();
    }
    seed_init_rng(&rng);
    assert_int_equal(blk_write_sync(env.dev, 0, env.a, DEV_BYTES, NULL), 0);
    for (size_t i = 0; i < SLOTS; i++) {
        slots[i] = (struct slot){.shadow = env.a + i * SLOT_BYTES,
                                 .scratch = env.b + i * SLOT_BYTES,
                                 .rng = &rng,
                                 .left = &left,
                                 .req = {.done = slot_done, .user = &slots[i]}};
        slot_submit(&slots[i]);
    }
    while (blk_engine_inflight(env.engine) > 0) {
        struct pollfd pfd = {.fd = blk_engine_fd(env.engine), .events = POLLIN};
        blk_engine_kick(env.engine);
        if (pfd.fd >= 0)
            assert_int_equal(poll(&pfd, 1, 10000), 1);
        (void)blk_engine_reap(env.engine);
    }
    assert_int_equal(left, 0);
    assert_int_equal(blk_read_sync(env.dev, 0, env.b, DEV_BYTES, NULL), 0);
    assert_memory_equal(env.a, env.b, DEV_BYTES);
}

/* -- the loop's view ---------------------------------------------------------------------- */

/* A completion may be reaped before its signal has come, which then finds nothing. */
static void assert_goes_quiet(void)
{
    for (unsigned late = 0; is_readable(5); late++) {
        assert_in_range(late, 0, 40);
        assert_int_equal(blk_engine_reap(env.engine), 0);
    }
}

static void fd__is_readable_when_there_is_something_to_reap(void **state)
{
    struct probe p[40] = {0};
    unsigned ran = 0;

    (void)state;
    drain();
    assert_goes_quiet(); /* takes what the set-up left signalled */
    for (size_t i = 0; i < ARRAY_LEN(p); i++)
        start(&p[i], BLK_WRITE, i * BLOCK, BLOCK, env.a);
    blk_engine_kick(env.engine); /* once, although the ring takes 8 at a time */
    while (ran < ARRAY_LEN(p)) {
        assert_true(is_readable(10000));
        ran += blk_engine_reap(env.engine);
    }
    assert_goes_quiet();
    start(&p[0], BLK_WRITE, 1, 1, env.a); /* refused: nobody has to kick */
    assert_true(is_readable(10000));
    assert_int_equal(blk_engine_reap(env.engine), 1);
    assert_goes_quiet();
}

static void poll__finds_what_completed_and_leaves_nothing_behind(void **state)
{
    struct probe p[4] = {0};
    unsigned ran = 0;

    (void)state;
    drain();
    assert_goes_quiet();
    assert_int_equal(blk_engine_poll(env.engine), 0);
    for (size_t i = 0; i < ARRAY_LEN(p); i++)
        start(&p[i], BLK_WRITE, i * BLOCK, BLOCK, env.a);
    blk_engine_kick(env.engine);
    while (ran < ARRAY_LEN(p)) {
        assert_true(is_readable(10000));
        unsigned n = blk_engine_poll(env.engine);
        assert_true(n > 0 || ran > 0);
        if (n == 0) /* signalled for what the poll before has found already */
            n = blk_engine_reap(env.engine);
        ran += n;
    }
    assert_goes_quiet();
    start(&p[0], BLK_WRITE, 1, 1, env.a); /* refused: the kernel never saw it */
    assert_int_equal(blk_engine_poll(env.engine), 1);
    assert_goes_quiet();
}

static void wait__short_limits_end_at_the_completion(void **state)
{
    struct probe p = {0};

    (void)state;
    assert_int_equal(blk_engine_wait(env.engine, 1000000), 0); /* nothing in flight: at once */
    start(&p, BLK_READ, 0, DEV_BYTES, env.b);
    while (p.ran == 0)
        (void)blk_engine_wait(env.engine, 1);
    assert_int_equal(p.result, 0);
}

static void registered_memory__moves_the_same_bytes(void **state)
{
    (void)state;
    blk_engine_register_memory(env.engine, env.a, DEV_BYTES / 2); /* the write reaches beyond */
    blk_engine_register_memory(env.engine, env.b, DEV_BYTES / 2);
    assert_int_equal(blk_write_sync(env.dev, 0, env.a, DEV_BYTES, NULL), 0);
    assert_int_equal(blk_read_sync(env.dev, 0, env.b, DEV_BYTES / 2, NULL), 0);
    assert_int_equal(
        blk_read_sync(env.dev, DEV_BYTES / 2, env.b + DEV_BYTES / 2, DEV_BYTES / 2, NULL), 0);
    assert_memory_equal(env.a, env.b, DEV_BYTES);

    struct probe p = {.req = {.flags = BLK_FUA}};
    start(&p, BLK_WRITE, 4096, 4096, env.a);
    drain();
    assert_int_equal(p.result, 0);
    assert_int_equal(blk_read_sync(env.dev, 4096, env.b, 4096, NULL), 0);
    assert_memory_equal(env.a, env.b, 4096);
}

static void free_with_an_open_device__is_our_bug(void **state)
{
    int status;

    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)alarm(10);
        (void)close(2); /* what the check says is not for the test's output */
        blk_engine_free(env.engine);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static int run_make(enum make make, unsigned open_flags, const char *name)
{
    const struct CMUnitTest all[] = {
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        CASE(write__is_read_back),
        CASE(write__at_both_ends_of_the_device),
        CASE(vectors__scatter_and_gather),
        CASE(vectors__wrong_sum_or_too_many_are_refused),
        CASE(misaligned__is_refused),
        CASE(out_of_range__is_refused),
        CASE(nothing__succeeds),
        CASE(grow__adds_zeros),
        CASE(grow__several_at_once_end_at_the_largest),
        CASE(zero__reads_as_zeros),
        CASE(discard__leaves_the_rest_alone),
        CASE(fua__write_is_read_back),
        CASE(flush__those_that_come_meanwhile_are_one),
        CASE(flush__done_may_wait_for_those_that_end_with_it),
        CASE(holes__are_told_from_data),
        CASE(many_in_flight__beyond_the_depth_all_complete),
        CASE(done__may_submit_again),
        CASE(done__may_use_the_blocking_face),
        CASE(reap__lets_go_although_done_keeps_failing),
        CASE(random_work__matches_a_shadow),
        CASE(wait__short_limits_end_at_the_completion),
        CASE(registered_memory__moves_the_same_bytes),
        CASE(free_with_an_open_device__is_our_bug),
    };
    const struct CMUnitTest polled[] = {
        CASE(fd__is_readable_when_there_is_something_to_reap),
        CASE(poll__finds_what_completed_and_leaves_nothing_behind),
#undef CASE
    };
    struct blk_engine *probe;

    env = (struct env){.make = make, .open_flags = open_flags};
    if (make == MAKE_URING) {
        if (blk_engine_new_uring(DEPTH, &probe, NULL) != 0) {
            printf("SKIPPED: %s: the kernel refuses io_uring here\n", name);
            return 0;
        }
        blk_engine_free(probe);
    }
    int failed = cmocka_run_group_tests_name(name, all, NULL, NULL);
    if (make != MAKE_MEMORY)
        failed += cmocka_run_group_tests_name(name, polled, NULL, NULL);
    return failed;
}

int main(void)
{
    return run_make(MAKE_URING, 0, "io_uring") +
           run_make(MAKE_URING, BLK_OPEN_BUFFERED, "io_uring, buffered") +
           run_make(MAKE_THREADS, 0, "threads") +
           run_make(MAKE_THREADS, BLK_OPEN_BUFFERED, "threads, buffered") +
           run_make(MAKE_MEMORY, 0, "memory");
}
