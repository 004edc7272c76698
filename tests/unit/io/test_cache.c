/* SPDX-License-Identifier: Apache-2.0 */
/* The block cache: what it answers is what the disk holds, whatever happens in which order. */
#include "tests/lib/cm.h"

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/io/blk_priv.h"
#include "common/io/cache_priv.h"
#include "common/io/mem.h"
#include "tests/lib/seed.h"
#include "tests/unit/io/probe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCK = BLK_CACHE_BLOCK_BYTES,
    SECTOR = 512,
    BLOCKS = 16, /* of the cache */
    DISK_BLOCKS = 64,
    DISKS = 2,
    FLIGHT = 10,
    STEPS = 6000,
    SPAN_MAX = 3 * BLOCK,
};

/* -- a device that tells late, and in any order ---------------------------------------------- */

struct late {
    struct blk_dev base;
    struct blk_dev *below;
    bool holds;
    TAILQ_HEAD(late_list, late_req) ended;
    unsigned count;
};

struct late_req {
    struct blk_req inner, *outer;
    struct late *late;
    int result;
    TAILQ_ENTRY(late_req) link;
};

static void late_tell(struct late_req *r)
{
    struct blk_req *outer = r->outer;
    r->late->base.info = *blk_dev_info(r->late->below);
    int result = r->result, sys_errno = r->inner.sys_errno;
    outer->refused = r->inner.refused;
    free(r);
    blk_finish(outer, result, sys_errno);
}

static void late_done(struct blk_req *req, int result)
{
    struct late_req *r = req->user;
    r->result = result;
    if (!r->late->holds) {
        late_tell(r);
        return;
    }
    TAILQ_INSERT_TAIL(&r->late->ended, r, link);
    r->late->count++;
}

/* Of those that have ended, by number; the last ones count modulo. */
static bool late_step(struct late *l, unsigned which)
{
    if (l->count == 0)
        return false;
    struct late_req *r = TAILQ_FIRST(&l->ended);
    for (which %= l->count; which > 0; which--)
        r = TAILQ_NEXT(r, link);
    TAILQ_REMOVE(&l->ended, r, link);
    l->count--;
    late_tell(r);
    return true;
}

static void late_submit(struct blk_dev *dev, struct blk_req *req)
{
    struct late *l = (struct late *)dev;
    struct late_req *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->outer = req;
    r->late = l;
    blk_forward(l->below, &r->inner, req, late_done, r);
}

static void late_close(struct blk_dev *dev)
{
    struct late *l = (struct late *)dev;
    blk_dev_close(l->below);
    free(l);
}

static uint64_t late_next(struct blk_dev *dev, uint64_t offset_bytes)
{
    (void)dev;
    return offset_bytes;
}

static const struct blk_dev_ops late_ops = {
    .submit = late_submit, .close = late_close, .next_data = late_next, .next_hole = late_next};

/* -- the world -------------------------------------------------------------------------------- */

struct disk {
    struct blk_dev *mem, *dev;
    struct late *late;
};

struct world {
    struct blk_engine *engine;
    struct blk_cache *cache;
    struct disk disks[DISKS];
};

static void disk_open(struct world *w, struct disk *d)
{
    struct late *l = calloc(1, sizeof *l);
    assert_non_null(l);
    assert_int_equal(mem_dev_new(w->engine, "d", (uint64_t)DISK_BLOCKS * BLOCK, SECTOR,
                                 2 * (uint64_t)DISK_BLOCKS * BLOCK, &d->mem, NULL),
                     0);
    blk_dev_init(&l->base, &late_ops, w->engine);
    l->base.info = *blk_dev_info(d->mem);
    l->below = d->mem;
    TAILQ_INIT(&l->ended);
    d->late = l;
    assert_int_equal(blk_cache_open(w->cache, &l->base, &d->dev, NULL), 0);
    uint8_t *image = mem_dev_image(d->mem);
    for (unsigned i = 0; i < DISK_BLOCKS * BLOCK; i++)
        image[i] = (uint8_t)(i / SECTOR * 7 + i % SECTOR + (unsigned)(d - w->disks));
    mem_dev_settle(d->mem);
}

static int world_setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    assert_int_equal(blk_engine_new_memory(seed_take(), &w->engine, NULL), 0);
    assert_int_equal(blk_cache_new((uint64_t)BLOCKS * BLOCK, &w->cache, NULL), 0);
    for (unsigned i = 0; i < DISKS; i++)
        disk_open(w, &w->disks[i]);
    *state = w;
    return 0;
}

static int world_teardown(void **state)
{
    struct world *w = *state;
    if (blk_engine_inflight(w->engine) > 0) /* it has failed */
        return 0;
    for (unsigned i = 0; i < DISKS; i++)
        blk_dev_close(w->disks[i].dev);
    blk_cache_free(w->cache);
    blk_engine_free(w->engine);
    free(w);
    return 0;
}

static uint8_t buf[SPAN_MAX] __attribute__((aligned(4096)));

static int read_block(struct disk *d, uint64_t no)
{
    int rc = probe_run(d->dev, BLK_READ, 0, no * BLOCK, BLOCK, buf);
    if (rc == 0)
        assert_memory_equal(buf, mem_dev_image(d->mem) + no * BLOCK, BLOCK);
    return rc;
}

static int write_block(struct disk *d, uint64_t no, uint8_t byte)
{
    memset(buf, byte, BLOCK);
    return probe_run(d->dev, BLK_WRITE, 0, no * BLOCK, BLOCK, buf);
}

/* Is the block in memory, and is it right? */
static bool has(struct disk *d, uint64_t no)
{
    uint8_t got[BLOCK];
    bool there = blk_cache_read(d->dev, no * BLOCK, got, BLOCK);
    if (there)
        assert_memory_equal(got, mem_dev_image(d->mem) + no * BLOCK, BLOCK);
    return there;
}

static uint64_t reads(const struct disk *d)
{
    return mem_dev_counters(d->mem).reads;
}

/* -- what stays, and what is answered --------------------------------------------------------- */

static void read__second_one_needs_no_disk(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    assert_int_equal(read_block(d, 3), 0);
    assert_int_equal(read_block(d, 3), 0);
    assert_int_equal(reads(d), 1);
    assert_true(has(d, 3));
    assert_false(has(&w->disks[1], 3)); /* of another device */
    assert_int_equal(blk_cache_stats(w->cache).hits, 2);
    assert_int_equal(blk_cache_stats(w->cache).misses, 1);
}

static void read__in_pieces_of_memory_from_several_blocks(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    uint8_t *data = buf;
    struct iovec iov[] = {{data, SECTOR}, {data + 4096, BLOCK}, {data + 4096 + BLOCK, 3 * SECTOR}};
    uint64_t at = BLOCK - SECTOR, len = BLOCK + 4 * SECTOR;
    for (unsigned round = 0; round < 2; round++) {
        memset(buf, 0, sizeof buf);
        struct probe p = {
            .req = {
                .op = BLK_READ, .offset_bytes = at, .len_bytes = len, .iov = iov, .iov_count = 3}};
        probe_submit(d->dev, &p);
        assert_int_equal(probe_end(&p), 0);
        const uint8_t *image = mem_dev_image(d->mem) + at;
        assert_memory_equal(data, image, SECTOR);
        assert_memory_equal(data + 4096, image + SECTOR, len - SECTOR);
    }
    assert_int_equal(reads(d), 1);
    assert_false(has(d, 1) && has(d, 0)); /* of their sectors only these */
}

static void write__is_kept_where_something_was_read(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    assert_int_equal(write_block(d, 5, 0x5a), 0);
    assert_int_equal(mem_dev_image(d->mem)[5 * BLOCK], 0x5a);
    assert_false(has(d, 5)); /* nobody has read it */
    assert_int_equal(read_block(d, 5), 0);
    assert_int_equal(write_block(d, 5, 0x5b), 0);
    assert_int_equal(mem_dev_image(d->mem)[5 * BLOCK], 0x5b);
    assert_true(has(d, 5));
    memset(buf, 0x11, SECTOR);
    assert_int_equal(probe_run(d->dev, BLK_WRITE, 0, 5 * BLOCK + SECTOR, SECTOR, buf), 0);
    assert_true(has(d, 5)); /* a part of it is another */
    assert_int_equal(reads(d), 1);
}

static void read__once_is_not_kept(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    assert_int_equal(probe_run(d->dev, BLK_READ, BLK_ONCE, BLOCK, BLOCK, buf), 0);
    assert_false(has(d, 1));
}

static void read__of_the_medium_is_from_below_and_not_kept(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    for (int round = 0; round < 2; round++) {
        assert_int_equal(probe_run(d->dev, BLK_READ, BLK_MEDIUM, BLOCK, BLOCK, buf), 0);
        assert_false(has(d, 1));
    }
    assert_int_equal(read_block(d, 1), 0);
    mem_dev_image(d->mem)[BLOCK + 5] ^= 1; /* behind everybody's back */
    uint8_t was = mem_dev_image(d->mem)[BLOCK + 5] ^ 1;
    assert_int_equal(probe_run(d->dev, BLK_READ, 0, BLOCK, BLOCK, buf), 0);
    assert_int_equal(buf[5], was);
    assert_int_equal(probe_run(d->dev, BLK_READ, BLK_MEDIUM, BLOCK, BLOCK, buf), 0);
    assert_int_equal(buf[5], was ^ 1);
}

static void filler__is_not_kept(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    assert_int_equal(read_block(d, 1), 0);
    assert_int_equal(probe_run(d->dev, BLK_WRITE, BLK_FILLER, BLOCK, BLOCK, buf), 0);
    assert_false(has(d, 1));
}

static void write__is_not_in_memory_before_it_is_on_the_disk(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    struct probe p;
    assert_int_equal(read_block(d, 5), 0);
    assert_true(has(d, 5));
    memset(buf, 9, BLOCK);
    probe_start(d->dev, &p, BLK_WRITE, 0, 5 * BLOCK, SECTOR, buf);
    assert_false(has(d, 5)); /* neither old nor new */
    (void)probe_end(&p);
    assert_true(has(d, 5));
}

static void failed_write__leaves_nothing(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    assert_int_equal(read_block(d, 5), 0);
    mem_dev_fault_at(d->mem, BLK_WRITE, 1, MEM_FAULT_ERROR, EIO);
    assert_true(write_block(d, 5, 0x5a) < 0);
    assert_false(has(d, 5));
}

static void failed_read__leaves_nothing(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    mem_dev_fault_at(d->mem, BLK_READ, 1, MEM_FAULT_ERROR, EIO);
    assert_true(read_block(d, 5) < 0);
    assert_false(has(d, 5));
}

static void failed_flush__leaves_nothing_of_its_device(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(read_block(d, i), 0);
        assert_int_equal(write_block(d, i, 0x77), 0);
        assert_true(has(d, i));
    }
    assert_int_equal(read_block(&w->disks[1], 0), 0);
    mem_dev_fault_at(d->mem, BLK_FLUSH, 1, MEM_FAULT_ERROR, EIO);
    assert_true(probe_run(d->dev, BLK_FLUSH, 0, 0, 0, NULL) < 0);
    for (uint64_t i = 0; i < 4; i++)
        assert_false(has(d, i));
    assert_true(has(&w->disks[1], 0));
    assert_int_equal(read_block(d, 2), 0);
    assert_true(has(d, 2));
}

/* It may be its flush that failed, and that takes back what others wrote. */
static void failed_fua__leaves_nothing_of_its_device(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    const enum blk_op ops[] = {BLK_WRITE, BLK_ZERO};
    for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
        assert_int_equal(read_block(d, 1), 0);
        assert_int_equal(write_block(d, 1, 0x77), 0);
        assert_true(has(d, 1));
        assert_int_equal(read_block(&w->disks[1], 0), 0);
        mem_dev_fault_at(d->mem, ops[i], 1, MEM_FAULT_ERROR, EIO);
        assert_true(probe_run(d->dev, ops[i], BLK_FUA, 5 * BLOCK, BLOCK, buf) < 0);
        assert_false(has(d, 1));
        assert_true(has(&w->disks[1], 0));
    }
}

static void refused_fua__leaves_what_is_there_and_is_told(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    struct probe p;
    assert_int_equal(read_block(d, 1), 0);
    mem_dev_fault_at(d->mem, BLK_WRITE, 1, MEM_FAULT_ERROR, ENOSPC);
    probe_start(d->dev, &p, BLK_WRITE, BLK_FUA, 5 * BLOCK, BLOCK, buf);
    assert_int_equal(probe_end(&p), SNAP_ENOSPC);
    assert_true(p.req.refused);
    assert_true(has(d, 1));
}

static void zero_and_discard__are_forgotten(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    for (uint64_t i = 0; i < 2; i++) {
        assert_int_equal(read_block(d, i), 0);
        assert_int_equal(
            probe_run(d->dev, i == 0 ? BLK_ZERO : BLK_DISCARD, 0, i * BLOCK, BLOCK, NULL), 0);
        assert_false(has(d, i));
        assert_int_equal(read_block(d, i), 0);
    }
}

/* -- at the same time -------------------------------------------------------------------------- */

static void late_all(struct disk *d)
{
    while (late_step(d->late, 0))
        ;
}

static void read__that_a_write_overtakes_is_not_kept(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    struct probe r;
    static uint8_t old[BLOCK] __attribute__((aligned(4096)));
    /* a block is there */
    assert_int_equal(probe_run(d->dev, BLK_READ, 0, 2 * BLOCK, SECTOR, buf), 0);
    d->late->holds = true;
    probe_start(d->dev, &r, BLK_READ, 0, 2 * BLOCK, BLOCK, old);
    while (d->late->count == 0)
        assert_true(mem_engine_step(w->engine));
    d->late->holds = false; /* the read has happened and is not told of; now a write */
    assert_int_equal(write_block(d, 2, 0x33), 0);
    late_all(d);
    assert_true(r.ran);
    assert_int_equal(mem_dev_image(d->mem)[2 * BLOCK], 0x33);
    (void)has(d, 2); /* right, if it is there */
}

static void read__during_a_write_is_not_kept(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    static uint8_t old[BLOCK] __attribute__((aligned(4096)));
    d->late->holds = true;
    for (uint64_t no = 0; no < 40; no++) { /* in what order they happen is drawn */
        struct probe r, c;
        memset(buf, 0x44, BLOCK);
        probe_start(d->dev, &c, BLK_WRITE, 0, no * BLOCK, BLOCK, buf);
        probe_start(d->dev, &r, BLK_READ, 0, no * BLOCK, BLOCK, old);
        while (d->late->count < 2)
            assert_true(mem_engine_step(w->engine));
        while (!c.ran) {
            assert_false(has(d, no));
            assert_true(late_step(d->late, 0));
        }
        late_all(d);
        (void)has(d, no); /* right, if it is there */
    }
}

static void writes_of_one_block_at_once__leave_nothing(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    static uint8_t other[BLOCK] __attribute__((aligned(4096)));
    for (unsigned order = 0; order < 2; order++) {
        struct probe a, b;
        d->late->holds = false;
        assert_int_equal(read_block(d, 4), 0);
        assert_true(has(d, 4));
        memset(buf, 0xa, BLOCK);
        memset(other, 0xb, BLOCK);
        d->late->holds = true;
        probe_start(d->dev, &a, BLK_WRITE, 0, 4 * BLOCK, BLOCK, buf);
        probe_start(d->dev, &b, BLK_WRITE, 0, 4 * BLOCK, BLOCK, other);
        while (d->late->count < 2)
            assert_true(mem_engine_step(w->engine));
        assert_true(late_step(d->late, order));
        assert_true(late_step(d->late, 0));
        assert_true(a.ran && b.ran);
        assert_false(has(d, 4));
    }
    d->late->holds = false;
    assert_int_equal(write_block(d, 4, 0xc), 0);
    assert_true(has(d, 4));
}

/* -- which blocks go -------------------------------------------------------------------------- */

static void scan__leaves_what_is_used(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(read_block(d, i), 0);
    for (uint64_t i = 0; i < 4; i++)
        assert_true(has(d, i));
    for (uint64_t i = 8; i < DISK_BLOCKS; i++)
        assert_int_equal(read_block(d, i), 0);
    for (uint64_t i = 0; i < 4; i++)
        assert_true(has(d, i));
    assert_false(has(d, 8));
    assert_true(has(d, DISK_BLOCKS - 1));
    assert_int_equal(blk_cache_stats(w->cache).used_bytes, BLOCKS * BLOCK);
}

static void scan__in_small_pieces_is_no_use(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    assert_int_equal(read_block(d, 0), 0);
    assert_true(has(d, 0));
    for (uint64_t at = 8 * BLOCK; at < (uint64_t)DISK_BLOCKS * BLOCK; at += 4 * SECTOR)
        assert_int_equal(probe_run(d->dev, BLK_READ, 0, at, 4 * SECTOR, buf), 0);
    assert_true(has(d, 0));
}

static void block__that_comes_again_soon_stays(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    for (uint64_t i = 0; i < BLOCKS + 1; i++) /* 0 has to go */
        assert_int_equal(read_block(d, i), 0);
    assert_int_equal(read_block(d, 0), 0);
    for (uint64_t i = 20; i < DISK_BLOCKS; i++)
        assert_int_equal(read_block(d, i), 0);
    assert_true(has(d, 0));
}

/* One that comes waits for a few to be passed over, not for all of gigabytes. */
static void block__that_comes_among_used_ones_looks_at_few(void **state)
{
    (void)state;
    enum { COUNT = 4096, FEW = 128 };
    struct blk_cache *c;
    unsigned passed = 0;
    assert_int_equal(blk_cache_new((uint64_t)COUNT * BLOCK, &c, NULL), 0);
    for (uint64_t no = 0; no < COUNT; no++) {
        struct cache_block *b = cache_take(c, 1, no);
        b->valid = UINT32_MAX;
        for (unsigned i = 0; i < 3; i++)
            cache_use(b);
    }
    assert_null(cache_find(c, 1, COUNT));
    (void)cache_take(c, 1, COUNT);
    assert_non_null(cache_find(c, 1, COUNT));
    for (uint64_t no = 0; no < COUNT; no++) {
        const struct cache_block *b = cache_find(c, 1, no);
        passed += b == NULL || b->uses < 3 ? 1 : 0;
    }
    assert_in_range(passed, 1, FEW);
    blk_cache_free(c);
}

static void large_request__does_not_fill_it(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    static uint8_t large[DISK_BLOCKS * BLOCK] __attribute__((aligned(4096)));
    assert_int_equal(read_block(d, 0), 0);
    assert_int_equal(probe_run(d->dev, BLK_READ, 0, 0, sizeof large, large), 0);
    assert_true(has(d, 0));
    assert_false(has(d, 1));
    assert_int_equal(probe_run(d->dev, BLK_WRITE, 0, 0, sizeof large, large), 0);
    assert_false(has(d, 0));
}

/* -- the device as such ------------------------------------------------------------------------ */

static void device__opened_again_begins_with_nothing(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    assert_int_equal(read_block(d, 1), 0);
    blk_dev_close(d->dev);
    disk_open(w, d);
    assert_false(has(d, 1));
}

static void device__grows_and_is_bounded(void **state)
{
    struct world *w = *state;
    struct disk *d = &w->disks[0];
    uint64_t size = (uint64_t)DISK_BLOCKS * BLOCK;
    assert_false(blk_cache_read(d->dev, size, buf, SECTOR));
    assert_int_equal(probe_run(d->dev, BLK_READ, 0, size, BLOCK, buf), SNAP_EINVAL);
    assert_int_equal(blk_grow_sync(d->dev, size + BLOCK, NULL), 0);
    assert_int_equal(blk_dev_info(d->dev)->size_bytes, size + BLOCK);
    assert_int_equal(write_block(d, DISK_BLOCKS, 4), 0);
    assert_int_equal(read_block(d, DISK_BLOCKS), 0);
    assert_true(has(d, DISK_BLOCKS));
    assert_false(blk_cache_read(d->mem, 0, buf, SECTOR)); /* no such device */
}

static void at_disks__counts_only_what_is_below(void **state)
{
    struct world *w = *state;
    struct probe p, q;
    probe_start(w->disks[0].dev, &p, BLK_READ, 0, 0, BLOCK, buf);
    assert_int_equal(blk_engine_at_disks(w->engine), 2); /* of the late device, and of its disk */
    probe_start(w->disks[0].dev, &q, BLK_FLUSH, 0, 0, 0, NULL);
    assert_int_equal(blk_engine_at_disks(w->engine), 4);
    assert_int_equal(blk_engine_inflight(w->engine), 6);
    (void)probe_end(&p);
    (void)probe_end(&q);
    assert_int_equal(blk_engine_at_disks(w->engine), 0);
}

/* -- at random ------------------------------------------------------------------------------------
 */

struct flight {
    struct probe probe;
    struct disk *disk;
    uint8_t *data;
    bool on, flushes; /* FUA does, too */
};

struct storm {
    struct world *w;
    struct rng rng;
    struct flight flights[FLIGHT];
    unsigned long checked, there;
};

static unsigned draw(struct storm *s, unsigned below)
{
    return (unsigned)rng_below(&s->rng, below);
}

static bool changing(const struct storm *s, const struct disk *d, uint64_t at, uint64_t len)
{
    for (unsigned i = 0; i < FLIGHT; i++) {
        const struct flight *f = &s->flights[i];
        const struct blk_req *r = &f->probe.req;
        if (f->on && !f->probe.ran && f->disk == d && r->op != BLK_READ && r->op != BLK_FLUSH &&
            r->offset_bytes < at + len && at < r->offset_bytes + r->len_bytes)
            return true;
    }
    return false;
}

/* One that has failed and is not told of may have taken back what was written. */
static bool flushing(const struct storm *s, const struct disk *d)
{
    for (unsigned i = 0; i < FLIGHT; i++)
        if (s->flights[i].on && s->flights[i].disk == d && s->flights[i].flushes)
            return true;
    return false;
}

static void storm_begin(struct storm *s)
{
    static const enum blk_op ops[] = {BLK_READ,  BLK_READ,  BLK_READ, BLK_READ,    BLK_WRITE,
                                      BLK_WRITE, BLK_WRITE, BLK_ZERO, BLK_DISCARD, BLK_FLUSH};
    struct flight *f = &s->flights[draw(s, FLIGHT)];
    if (f->on)
        return;
    enum blk_op op = ops[draw(s, ARRAY_LEN(ops))];
    unsigned sectors = draw(s, 3) > 0 ? BLOCK / SECTOR : 1 + draw(s, SPAN_MAX / SECTOR);
    unsigned align = sectors == BLOCK / SECTOR ? BLOCK / SECTOR : 1;
    /* most of it among few blocks, which meet often */
    unsigned span = (draw(s, 3) > 0 ? 8U : DISK_BLOCKS) * (BLOCK / SECTOR) - sectors;
    uint64_t at = (uint64_t)draw(s, span / align + 1) * align * SECTOR;
    f->disk = &s->w->disks[draw(s, DISKS)];
    f->on = true;
    if (draw(s, 12) == 0 && op != BLK_DISCARD)
        mem_dev_fault_at(f->disk->mem, op, 1, draw(s, 2) ? MEM_FAULT_ERROR : MEM_FAULT_SHORT, EIO);
    for (unsigned i = 0; op == BLK_WRITE && i < sectors * SECTOR; i += SECTOR)
        memset(f->data + i, (int)draw(s, 256), SECTOR);
    bool fua = (op == BLK_WRITE || op == BLK_ZERO) && draw(s, 6) == 0;
    f->flushes = fua || op == BLK_FLUSH;
    probe_start(f->disk->dev, &f->probe, op, fua ? BLK_FUA : 0, at, (uint64_t)sectors * SECTOR,
                f->data);
}

static void storm_check(struct storm *s)
{
    struct disk *d = &s->w->disks[draw(s, DISKS)];
    uint64_t at = (uint64_t)draw(s, (draw(s, 2) ? 8U : DISK_BLOCKS) * (BLOCK / SECTOR)) * SECTOR;
    uint8_t got[SECTOR];
    s->checked++;
    if (!blk_cache_read(d->dev, at, got, SECTOR))
        return;
    s->there++;
    if (flushing(s, d))
        return;
    assert_false(changing(s, d, at, SECTOR));
    assert_memory_equal(got, mem_dev_image(d->mem) + at, SECTOR);
}

static void storm_end(struct storm *s)
{
    for (unsigned i = 0; i < FLIGHT; i++) {
        struct flight *f = &s->flights[i];
        if (f->on && f->probe.ran)
            f->on = false;
    }
}

static void storm_step(struct storm *s)
{
    unsigned what = draw(s, 10);
    struct disk *d = &s->w->disks[draw(s, DISKS)];
    d->late->holds = draw(s, 4) > 0;
    if (what < 4)
        storm_begin(s);
    else if (what < 7)
        (void)blk_engine_reap(s->w->engine);
    else
        (void)late_step(d->late, draw(s, FLIGHT));
    storm_end(s);
    for (unsigned i = 0; i < 4; i++)
        storm_check(s);
}

static void random__what_is_in_memory_is_what_the_disk_holds(void **state)
{
    struct storm s = {.w = *state};
    seed_init_rng(&s.rng);
    for (unsigned i = 0; i < FLIGHT; i++)
        assert_non_null(s.flights[i].data = aligned_alloc(4096, SPAN_MAX));
    for (unsigned i = 0; i < STEPS; i++)
        storm_step(&s);
    for (unsigned i = 0; i < DISKS; i++)
        s.w->disks[i].late->holds = false;
    for (unsigned i = 0; i < DISKS; i++)
        late_all(&s.w->disks[i]);
    while (blk_engine_inflight(s.w->engine) > 0)
        (void)blk_engine_reap(s.w->engine);
    for (unsigned i = 0; i < DISKS; i++)
        for (uint64_t no = 0; no < DISK_BLOCKS; no++)
            (void)has(&s.w->disks[i], no);
    for (unsigned i = 0; i < FLIGHT; i++)
        free(s.flights[i].data);
    assert_true(s.there > s.checked / 20);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(read__second_one_needs_no_disk),
        CASE(read__in_pieces_of_memory_from_several_blocks),
        CASE(write__is_kept_where_something_was_read),
        CASE(read__once_is_not_kept),
        CASE(read__of_the_medium_is_from_below_and_not_kept),
        CASE(filler__is_not_kept),
        CASE(write__is_not_in_memory_before_it_is_on_the_disk),
        CASE(failed_write__leaves_nothing),
        CASE(failed_read__leaves_nothing),
        CASE(failed_flush__leaves_nothing_of_its_device),
        CASE(failed_fua__leaves_nothing_of_its_device),
        CASE(refused_fua__leaves_what_is_there_and_is_told),
        CASE(zero_and_discard__are_forgotten),
        CASE(read__that_a_write_overtakes_is_not_kept),
        CASE(read__during_a_write_is_not_kept),
        CASE(writes_of_one_block_at_once__leave_nothing),
        CASE(scan__leaves_what_is_used),
        CASE(scan__in_small_pieces_is_no_use),
        CASE(block__that_comes_again_soon_stays),
        CASE(block__that_comes_among_used_ones_looks_at_few),
        CASE(large_request__does_not_fill_it),
        CASE(device__opened_again_begins_with_nothing),
        CASE(device__grows_and_is_bounded),
        CASE(at_disks__counts_only_what_is_below),
        CASE(random__what_is_in_memory_is_what_the_disk_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
