/* SPDX-License-Identifier: Apache-2.0 */
/* A device with checksums: what is found, what a power loss may leave, what is refused. */
#include "tests/lib/cm.h"

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/io/cache.h"
#include "common/io/mem.h"
#include "common/io/sum.h"
#include "tests/lib/seed.h"
#include "tests/unit/io/probe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 1024, BLOCKS = 600, STRIDE = 65, FLIGHT = 8, LIVES = 150, STEPS = 60 };

struct world {
    struct blk_engine *engine;
    struct blk_dev *data, *side, *dev;
    int code;
    struct err err;
    bool opened;
};

/* As a COW device has it: block 0 and one in STRIDE hold metadata. */
static bool covers(void *user, uint64_t block_no)
{
    (void)user;
    return block_no != 0 && block_no % STRIDE != 1;
}

static void opened(void *user, struct blk_dev *dev, int code, const struct err *err)
{
    struct world *w = user;
    w->dev = dev;
    w->code = code;
    w->err = *err;
    w->opened = true;
}

static int open_id(struct world *w, bool create, uint8_t id)
{
    struct sum_options o = {.block_bytes = BLOCK, .id = {{id}}, .covers = covers, .create = create};
    w->opened = false;
    sum_dev_open(w->data, w->side, &o, opened, w);
    assert_false(w->opened);
    while (!w->opened)
        assert_true(mem_engine_step(w->engine));
    return w->code;
}

static void world_new(struct world *w, uint64_t seed, uint64_t bytes)
{
    *w = (struct world){.engine = NULL};
    assert_int_equal(blk_engine_new_memory(seed, &w->engine, NULL), 0);
    assert_int_equal(mem_dev_new(w->engine, "d", bytes, 512, MIB, &w->data, NULL), 0);
    assert_int_equal(mem_dev_new(w->engine, "d.sum", 0, 512, MIB, &w->side, NULL), 0);
    assert_int_equal(open_id(w, true, 7), 0);
}

static void world_free(struct world *w)
{
    blk_dev_close(w->dev);
    blk_engine_free(w->engine);
}

static void *filled(uint64_t len, uint8_t byte)
{
    uint8_t *b = aligned_alloc(512, len);
    assert_non_null(b);
    memset(b, byte, len);
    return b;
}

static void put(struct world *w, uint64_t block, uint8_t byte)
{
    uint8_t *b = filled(BLOCK, byte);
    assert_int_equal(probe_run(w->dev, BLK_WRITE, 0, block * BLOCK, BLOCK, b), 0);
    free(b);
}

static void flush(struct world *w)
{
    assert_int_equal(probe_run(w->dev, BLK_FLUSH, 0, 0, 0, NULL), 0);
}

struct look {
    struct sum_lookup l;
    int code;
    bool ran;
};

static void look_done(struct sum_lookup *l, int code, const struct err *err)
{
    (void)err;
    struct look *k = l->user;
    k->code = code;
    k->ran = true;
}

static struct sum_slot look(struct world *w, uint64_t block)
{
    struct sum_slot slot = {0};
    struct look k = {.l = {.first_block = block, .count = 1, .slots = &slot, .done = look_done}};
    k.l.user = &k;
    sum_dev_lookup(w->dev, &k.l);
    while (!k.ran)
        assert_true(mem_engine_step(w->engine));
    assert_int_equal(k.code, 0);
    return slot;
}

static uint64_t sum_at(struct world *w, uint64_t block)
{
    struct iovec iov = {.iov_base = mem_dev_image(w->data) + block * BLOCK, .iov_len = BLOCK};
    return sum_of(sum_seed(block, SUM_NO_TAG), &iov, 1, 0, BLOCK);
}

static uint64_t tagged_sum_at(struct world *w, uint64_t block, uint64_t tag)
{
    struct iovec iov = {.iov_base = mem_dev_image(w->data) + block * BLOCK, .iov_len = BLOCK};
    return sum_of(sum_seed(block, tag), &iov, 1, 0, BLOCK);
}

static void plug(struct world *w)
{
    mem_engine_power_loss(w->engine); /* the device in front is lost with the machine */
    sum_dev_abandon(w->dev);
    assert_int_equal(open_id(w, false, 7), 0);
}

/* -- cases --------------------------------------------------------------------------- */

static void sum_of__depends_on_place_and_not_on_the_vector(void **state)
{
    (void)state;
    uint8_t *b = filled(2 * BLOCK, 'x');
    for (unsigned i = 0; i < 2 * BLOCK; i++)
        b[i] = (uint8_t)(i * 7);
    struct iovec one = {.iov_base = b, .iov_len = 2 * BLOCK};
    struct iovec many[3] = {{b, 100}, {b + 100, 1000}, {b + 1100, 2 * BLOCK - 1100}};
    assert_true(sum_of(5, &one, 1, 512, BLOCK) == sum_of(5, many, 3, 512, BLOCK));
    assert_true(sum_of(5, &one, 1, 512, BLOCK) != sum_of(6, &one, 1, 512, BLOCK));
    free(b);
}

/* Neither neighbours, nor numbers that change places, nor those that differ by as much. */
static void sum_seed__of_pairs_that_are_alike_differ(void **state)
{
    enum { SIDE = 96 };
    (void)state;
    uint64_t *seeds = calloc(SIDE * SIDE, sizeof *seeds);
    assert_non_null(seeds);
    for (uint64_t b = 0; b < SIDE; b++)
        for (uint64_t t = 0; t < SIDE; t++)
            seeds[b * SIDE + t] = sum_seed(b, t < SIDE / 2 ? t : UINT64_C(1) << (t - SIDE / 2));
    for (unsigned i = 0; i < SIDE * SIDE; i++)
        for (unsigned k = i + 1; k < SIDE * SIDE; k++)
            if (seeds[i] == seeds[k]) /* powers of two that are below, too */
                assert_true(i / SIDE == k / SIDE && i % SIDE < SIDE / 2 && k % SIDE >= SIDE / 2);
    free(seeds);
}

/* Several blocks in one request, from the middle of its buffers; also with FUA, and through a
 * device that passes requests on. */
static void write__binds_sums_to_tags(void **state)
{
    enum { FIRST = 10, COUNT = 3 };
    const uint64_t tags[COUNT] = {70, 3, UINT64_C(1) << 40};
    (void)state;
    for (unsigned way = 0; way < 3; way++) {
        struct world w;
        world_new(&w, 1, BLOCKS * BLOCK);
        struct blk_cache *cache;
        assert_int_equal(blk_cache_new(MIB, &cache, NULL), 0);
        struct blk_dev *front = w.dev;
        if (way == 2)
            assert_int_equal(blk_cache_open(cache, w.dev, &front, NULL), 0);
        uint8_t *b = filled(COUNT * BLOCK, 'x');
        struct iovec iov[2] = {{b, BLOCK / 2}, {b + BLOCK / 2, COUNT * BLOCK - BLOCK / 2}};
        struct probe p = {.req = {.op = BLK_WRITE,
                                  .flags = way == 1 ? BLK_FUA : 0,
                                  .offset_bytes = FIRST * BLOCK,
                                  .len_bytes = COUNT * BLOCK,
                                  .iov = iov,
                                  .iov_count = 2,
                                  .tags = tags}};
        probe_submit(front, &p);
        assert_int_equal(probe_end(&p), 0);
        for (uint64_t i = 0; i < COUNT; i++) {
            uint64_t now = look(&w, FIRST + i).now;
            assert_true(now == tagged_sum_at(&w, FIRST + i, tags[i]));
            assert_true(now != tagged_sum_at(&w, FIRST + i, tags[i] ^ 1));
            assert_true(now != sum_at(&w, FIRST + i));
            assert_true(now == sum_dev_of(w.dev, FIRST + i, tags[i], b));
        }
        free(b);
        w.dev = front;
        world_free(&w);
        blk_cache_free(cache);
    }
}

/* A side device of before has hash 1 in its header, and sums of the block's number alone. */
static void open__of_a_side_without_tags_goes_on_without(void **state)
{
    const uint64_t tag = 70;
    (void)state;
    struct world w;
    world_new(&w, 1, BLOCKS * BLOCK);
    assert_true(sum_dev_has_tags(w.dev));
    assert_int_equal(mem_dev_image(w.side)[32], 2);
    mem_dev_image(w.side)[32] = 1;
    mem_dev_settle(w.side);
    plug(&w);
    assert_false(sum_dev_has_tags(w.dev));
    uint8_t *b = filled(BLOCK, 'x');
    struct iovec iov = {b, BLOCK};
    struct probe p = {.req = {.op = BLK_WRITE,
                              .offset_bytes = 5 * BLOCK,
                              .len_bytes = BLOCK,
                              .data = b,
                              .tags = &tag}};
    probe_submit(w.dev, &p);
    assert_int_equal(probe_end(&p), 0);
    flush(&w);
    plug(&w);
    assert_true(look(&w, 5).now == sum_of(5, &iov, 1, 0, BLOCK));
    assert_true(look(&w, 5).now == sum_dev_of(w.dev, 5, tag, b));
    assert_int_equal(sum_dev_set(w.dev, 5, 71, b, NULL), 0);
    assert_true(look(&w, 5).now == sum_of(5, &iov, 1, 0, BLOCK));
    mem_dev_image(w.side)[32] = 3; /* of a version to come */
    mem_dev_settle(w.side);
    mem_engine_power_loss(w.engine);
    sum_dev_abandon(w.dev);
    assert_int_equal(open_id(&w, false, 7), SNAP_ECORRUPT);
    mem_dev_image(w.side)[32] = 1;
    assert_int_equal(open_id(&w, false, 7), 0);
    free(b);
    world_free(&w);
}

static void flush__makes_sums_durable_with_the_data(void **state)
{
    (void)state;
    struct world w;
    world_new(&w, 1, BLOCKS * BLOCK);
    put(&w, 5, 'a');
    put(&w, 300, 'b');
    flush(&w);
    plug(&w);
    assert_true(look(&w, 5).now == sum_at(&w, 5));
    assert_true(look(&w, 300).now == sum_at(&w, 300));
    assert_true(look(&w, 6).now == 0);
    mem_dev_image(w.data)[300 * BLOCK + 17] ^= 1;
    struct sum_slot slot = look(&w, 300);
    assert_true(slot.now != sum_at(&w, 300) && slot.before != sum_at(&w, 300) && !slot.in_doubt);
    world_free(&w);
}

/* The second write's data may be on its way for longer than the page with the first one's sum. */
static void write__into_a_page_on_its_way_has_it_written_again(void **state)
{
    unsigned spared = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct world w;
        struct probe first, second;
        world_new(&w, seed, BLOCKS * BLOCK);
        uint8_t *b = filled(BLOCK, 3);
        probe_start(w.dev, &first, BLK_WRITE, 0, 3 * BLOCK, BLOCK, b);
        probe_start(w.dev, &second, BLK_WRITE, 0, 4 * BLOCK, BLOCK, b);
        while (!first.ran || !second.ran)
            assert_true(mem_engine_step(w.engine));
        const uint64_t before = mem_dev_counters(w.side).writes;
        flush(&w);
        spared += mem_dev_counters(w.side).writes == before;
        free(b);
        plug(&w);
        for (uint64_t block = 3; block <= 4; block++)
            assert_true(look(&w, block).now == sum_at(&w, block));
        world_free(&w);
    }
    assert_in_range(spared, 1, 39);
}

static void fua__makes_data_durable_and_its_sum_with_the_next_flush(void **state)
{
    unsigned without = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct world w;
        world_new(&w, seed, BLOCKS * BLOCK);
        uint8_t *b = filled(BLOCK, 'a');
        assert_int_equal(probe_run(w.dev, BLK_WRITE, BLK_FUA, 5 * BLOCK, BLOCK, b), 0);
        assert_memory_equal(mem_dev_platter(w.data) + 5 * BLOCK, b, BLOCK);
        plug(&w);
        without += look(&w, 5).now == 0;
        assert_true(look(&w, 5).now == 0 || look(&w, 5).now == sum_at(&w, 5));
        assert_int_equal(probe_run(w.dev, BLK_WRITE, BLK_FUA, 6 * BLOCK, BLOCK, b), 0);
        flush(&w);
        plug(&w);
        assert_true(look(&w, 6).now == sum_at(&w, 6));
        free(b);
        world_free(&w);
    }
    assert_in_range(without, 1, 39);
}

static void flush__without_new_sums_leaves_the_side_alone(void **state)
{
    (void)state;
    struct world w;
    world_new(&w, 1, BLOCKS * BLOCK);
    put(&w, 5, 'a');
    flush(&w);
    uint64_t flushes = mem_dev_counters(w.side).flushes;
    put(&w, 1, 'm'); /* metadata */
    flush(&w);
    assert_int_equal(mem_dev_counters(w.side).flushes, flushes);
    world_free(&w);
}

static void overwrite__is_marked_before_it_and_unmarked_when_idle(void **state)
{
    (void)state;
    struct world w;
    world_new(&w, 1, BLOCKS * BLOCK);
    put(&w, 5, 'a');
    flush(&w);
    assert_false(look(&w, 5).in_doubt);
    put(&w, 5, 'b');
    assert_true(look(&w, 5).in_doubt);
    flush(&w);
    assert_true(look(&w, 5).before == 0);
    for (unsigned i = 0; i < 100; i++)
        flush(&w);
    plug(&w);
    assert_false(look(&w, 5).in_doubt);
    assert_true(look(&w, 5).now == sum_at(&w, 5));
    world_free(&w);
}

static void write__of_part_of_a_block_leaves_it_without_a_sum(void **state)
{
    (void)state;
    struct world w;
    world_new(&w, 1, BLOCKS * BLOCK);
    put(&w, 5, 'a');
    uint8_t *b = filled(512, 'c');
    assert_int_equal(probe_run(w.dev, BLK_WRITE, 0, 5 * BLOCK + 512, 512, b), 0);
    free(b);
    assert_true(look(&w, 5).now == 0);
    world_free(&w);
}

static void grow__takes_the_side_along(void **state)
{
    (void)state;
    struct world w;
    world_new(&w, 1, 10 * BLOCK);
    assert_int_equal(probe_run(w.dev, BLK_GROW, 0, BLOCKS * BLOCK, 0, NULL), 0);
    assert_int_equal(blk_dev_info(w.dev)->size_bytes, BLOCKS * BLOCK);
    put(&w, BLOCKS - 1, 'z');
    flush(&w);
    plug(&w);
    assert_true(look(&w, BLOCKS - 1).now == sum_at(&w, BLOCKS - 1));
    world_free(&w);
}

/* A file's space that was written before needs no metadata of the file with a flush. */
static void grow__writes_zeros_where_sums_will_stand(void **state)
{
    (void)state;
    struct world w;
    world_new(&w, 1, 10 * BLOCK);
    uint64_t had = blk_dev_info(w.side)->size_bytes;
    struct mem_counters a = mem_dev_counters(w.side);
    assert_int_equal(probe_run(w.dev, BLK_GROW, 0, BLOCKS * BLOCK, 0, NULL), 0);
    struct mem_counters b = mem_dev_counters(w.side);
    assert_int_equal(b.written_bytes - a.written_bytes, blk_dev_info(w.side)->size_bytes - had);
    world_free(&w);

    world_new(&w, 1, 10 * BLOCK); /* zeros that cannot be written cost nothing but time */
    mem_dev_fault_at(w.side, BLK_WRITE, 1, MEM_FAULT_ERROR, EIO);
    assert_int_equal(probe_run(w.dev, BLK_GROW, 0, BLOCKS * BLOCK, 0, NULL), 0);
    put(&w, BLOCKS - 1, 'z');
    flush(&w);
    plug(&w);
    assert_true(look(&w, BLOCKS - 1).now == sum_at(&w, BLOCKS - 1));
    world_free(&w);
}

static void flush__fails_when_sums_cannot_be_written(void **state)
{
    (void)state;
    struct world w;
    world_new(&w, 1, BLOCKS * BLOCK);
    mem_dev_fault_at(w.side, BLK_WRITE, 1, MEM_FAULT_ERROR, EIO);
    put(&w, 5, 'a'); /* the data is there */
    assert_true(probe_run(w.dev, BLK_FLUSH, 0, 0, 0, NULL) < 0);
    assert_true(probe_run(w.dev, BLK_FLUSH, 0, 0, 0, NULL) < 0); /* and goes on to */
    world_free(&w);
}

/* A flush of the side that fails may take back what was written there, and a later one finds
 * nothing to do. */
static void flush__of_the_side_that_failed_fails_the_next_ones_too(void **state)
{
    (void)state;
    struct world w;
    world_new(&w, 1, BLOCKS * BLOCK);
    put(&w, 5, 'a');
    mem_dev_fault_at(w.side, BLK_FLUSH, 1, MEM_FAULT_ERROR, EIO);
    assert_true(probe_run(w.dev, BLK_FLUSH, 0, 0, 0, NULL) < 0);
    assert_true(probe_run(w.dev, BLK_FLUSH, 0, 0, 0, NULL) < 0);
    world_free(&w);
}

/* A flush of marks is one of the side like others: one that waited for it does not end well. */
static void flush__behind_marks_that_failed_fails_too(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct world w;
        struct probe over, first;
        world_new(&w, seed, BLOCKS * BLOCK);
        put(&w, 5, 'a');
        flush(&w);
        put(&w, SUM_PAGE_SLOTS + 5, 'b'); /* another page's; it is to be flushed */
        mem_dev_fault_at(w.side, BLK_FLUSH, 1, MEM_FAULT_ERROR, EIO);
        uint64_t flushes = mem_dev_counters(w.side).flushes;
        uint8_t *b = filled(BLOCK, 'c');
        probe_start(w.dev, &over, BLK_WRITE, 0, 5 * BLOCK, BLOCK, b);
        while (mem_dev_counters(w.side).flushes == flushes)
            assert_true(mem_engine_step(w.engine));
        probe_start(w.dev, &first, BLK_FLUSH, 0, 0, 0, NULL);
        while (!first.ran || !over.ran)
            assert_true(mem_engine_step(w.engine));
        assert_int_equal(over.result, SNAP_EIO);
        assert_int_equal(first.result, SNAP_EIO);
        free(b);
        world_free(&w);
    }
}

static void open__refuses_what_is_not_its_own(void **state)
{
    (void)state;
    struct world w;
    world_new(&w, 1, BLOCKS * BLOCK);
    mem_engine_power_loss(w.engine);
    sum_dev_abandon(w.dev);
    assert_int_equal(open_id(&w, false, 8), SNAP_EMISMATCH);
    assert_non_null(strstr(w.err.text, "another device"));
    mem_dev_image(w.side)[0] = 'x';
    assert_int_equal(open_id(&w, false, 7), SNAP_ECORRUPT);
    mem_dev_image(w.side)[0] = 'S';
    assert_int_equal(open_id(&w, false, 7), 0);
    world_free(&w);
}

static void set__makes_a_sum_anew(void **state)
{
    (void)state;
    struct world w;
    world_new(&w, 1, BLOCKS * BLOCK);
    put(&w, 5, 'a');
    flush(&w);
    mem_dev_image(w.data)[5 * BLOCK] = 'q';
    mem_dev_settle(w.data);
    assert_true(look(&w, 5).now != sum_at(&w, 5));
    assert_int_equal(sum_dev_set(w.dev, 5, SUM_NO_TAG, mem_dev_image(w.data) + 5 * BLOCK, NULL), 0);
    flush(&w);
    plug(&w);
    assert_true(look(&w, 5).now == sum_at(&w, 5));
    world_free(&w);
}

/* Each looks again whenever a page comes, and must not keep the others from their turn. */
static void lookup__of_pages_that_are_all_on_their_way_ends(void **state)
{
    enum { PAGES = 3 };
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct world w;
        struct sum_slot slots[PAGES];
        struct look looks[PAGES];
        world_new(&w, seed, PAGES * SUM_PAGE_SLOTS * BLOCK);
        for (uint64_t i = 0; i < PAGES; i++)
            put(&w, i * SUM_PAGE_SLOTS + 5, (uint8_t)('a' + i));
        flush(&w);
        plug(&w); /* opened again: none is at hand */
        (void)alarm(20);
        for (uint64_t i = 0; i < PAGES; i++) {
            looks[i] = (struct look){.l = {.first_block = i * SUM_PAGE_SLOTS + 5,
                                           .count = 1,
                                           .slots = &slots[i],
                                           .done = look_done}};
            looks[i].l.user = &looks[i];
            sum_dev_lookup(w.dev, &looks[i].l);
            assert_false(looks[i].ran);
        }
        while (!looks[0].ran || !looks[1].ran || !looks[2].ran)
            assert_true(mem_engine_step(w.engine));
        (void)alarm(0);
        for (uint64_t i = 0; i < PAGES; i++) {
            assert_int_equal(looks[i].code, 0);
            assert_true(slots[i].now == sum_at(&w, i * SUM_PAGE_SLOTS + 5));
        }
        world_free(&w);
    }
}

static void look_done_closes(struct sum_lookup *l, int code, const struct err *err)
{
    struct world *w = l->user;
    (void)err;
    assert_int_equal(code, 0);
    blk_dev_close(w->dev);
    w->dev = NULL;
}

static void lookup__may_close_the_device_when_its_page_comes(void **state)
{
    (void)state;
    struct world w;
    struct sum_slot slot = {0};
    world_new(&w, 1, BLOCKS * BLOCK);
    put(&w, 5, 'a');
    flush(&w);
    plug(&w);
    struct sum_lookup l = {
        .first_block = 5, .count = 1, .slots = &slot, .done = look_done_closes, .user = &w};
    sum_dev_lookup(w.dev, &l);
    assert_non_null(w.dev);
    while (w.dev != NULL)
        assert_true(mem_engine_step(w.engine));
    assert_true(slot.now != 0);
    blk_engine_free(w.engine);
}

/* -- failures ----------------------------------------------------------------------------- */

/* Whoever hears of the last end closes the device, as the owner of one that has failed does. */
struct closing {
    struct world *w;
    struct blk_req reqs[4];
    unsigned left, failed;
};

static void closing_done(struct blk_req *req, int result)
{
    struct closing *c = req->user;
    c->failed += result < 0;
    if (--c->left > 0)
        return;
    blk_dev_close(c->w->dev);
    c->w->dev = NULL;
}

static void closing_submit(struct closing *c, enum blk_op op, uint64_t block, void *data)
{
    struct blk_req *req = &c->reqs[c->left++];
    *req = (struct blk_req){.op = op,
                            .offset_bytes = block * BLOCK,
                            .len_bytes = op == BLK_FLUSH ? 0 : BLOCK,
                            .data = data,
                            .done = closing_done,
                            .user = c};
    blk_submit(c->w->dev, req);
}

/* A request to a block of each of three pages, and a flush; the n-th read or write of a page
 * fails. */
static void close_when_failed(uint64_t seed, bool opened_again, enum blk_op op, unsigned n)
{
    enum { PAGES = 3 };
    struct world w;
    struct closing c = {.w = &w};
    uint8_t *b = filled(BLOCK, 'x');
    world_new(&w, seed, PAGES * SUM_PAGE_SLOTS * BLOCK);
    for (uint64_t i = 0; i < PAGES; i++)
        put(&w, i * SUM_PAGE_SLOTS + 5, 'a');
    flush(&w);
    if (opened_again)
        plug(&w);
    mem_dev_fault_at(w.side, op, n, MEM_FAULT_ERROR, EIO);
    for (uint64_t i = 0; i < PAGES; i++)
        closing_submit(&c, BLK_WRITE, i * SUM_PAGE_SLOTS + 5, b);
    closing_submit(&c, BLK_FLUSH, 0, NULL);
    while (w.dev != NULL)
        assert_true(mem_engine_step(w.engine));
    assert_true(c.failed > 0);
    blk_engine_free(w.engine);
    free(b);
}

static void failure__leaves_nothing_under_way_behind_the_last_end(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++)
        for (unsigned n = 1; n <= 3; n++) {
            close_when_failed(seed, true, BLK_READ, n);
            close_when_failed(seed, false, BLK_WRITE, n);
            close_when_failed(seed, true, BLK_WRITE, n);
        }
}

/* -- power loss at any moment ----------------------------------------------------------- */

struct flight {
    struct probe p;
    uint8_t *data;
    uint64_t block;
    bool used, is_flush;
    uint64_t ended_at; /* flushes begun when it ended */
};

struct life {
    struct world w;
    struct rng rng;
    struct flight flights[FLIGHT];
    bool written[BLOCKS]; /* some write of it has ended */
    bool covered[BLOCKS]; /* … and a flush after it */
    bool touched[BLOCKS]; /* written again since */
    bool pending[BLOCKS];
};

static void life_start(struct life *l, struct flight *f)
{
    f->is_flush = rng_below(&l->rng, 4) == 0;
    f->used = true;
    if (f->is_flush) {
        memcpy(l->pending, l->written, sizeof l->pending);
        probe_start(l->w.dev, &f->p, BLK_FLUSH, 0, 0, 0, NULL);
        return;
    }
    do {
        f->block = 2 + rng_below(&l->rng, 20) * 29;
        for (unsigned i = 0; i < FLIGHT; i++) /* one write a block at a time, as the store does */
            if (&l->flights[i] != f && l->flights[i].used && !l->flights[i].is_flush &&
                l->flights[i].block == f->block)
                f->block = 0;
    } while (f->block == 0 || !covers(NULL, f->block));
    f->data = filled(BLOCK, (uint8_t)rng_below(&l->rng, 256));
    l->touched[f->block] = true;
    probe_start(l->w.dev, &f->p, BLK_WRITE, 0, f->block * BLOCK, BLOCK, f->data);
}

static void life_end(struct life *l, struct flight *f)
{
    assert_int_equal(f->p.result, 0);
    f->used = false;
    if (!f->is_flush) {
        l->written[f->block] = true;
        free(f->data);
        f->data = NULL;
        return;
    }
    for (unsigned b = 0; b < BLOCKS; b++)
        if (l->pending[b])
            l->covered[b] = true;
}

static void life_check(struct life *l)
{
    for (unsigned b = 0; b < BLOCKS; b++) {
        if (!l->covered[b])
            continue;
        struct sum_slot slot = look(&l->w, b);
        uint64_t sum = sum_at(&l->w, b);
        if (slot.now != sum && slot.before != sum)
            assert_true(slot.in_doubt && l->touched[b]);
    }
}

static void power_loss__leaves_every_covered_block_with_its_sum_or_in_doubt(void **state)
{
    (void)state;
    uint64_t seed = seed_take();
    for (unsigned n = 0; n < LIVES; n++) {
        struct life *l = calloc(1, sizeof *l);
        rng_init(&l->rng, seed + n);
        world_new(&l->w, seed + n, BLOCKS * BLOCK);
        unsigned steps = 1 + (unsigned)rng_below(&l->rng, STEPS);
        for (unsigned i = 0; i < steps; i++) {
            struct flight *f = &l->flights[rng_below(&l->rng, FLIGHT)];
            bool flushing = false;
            for (unsigned k = 0; k < FLIGHT; k++)
                flushing = flushing || (l->flights[k].used && l->flights[k].is_flush);
            if (!f->used && !flushing)
                life_start(l, f);
            for (uint64_t k = rng_below(&l->rng, 6); k > 0; k--)
                (void)mem_engine_step(l->w.engine);
            for (unsigned k = 0; k < FLIGHT; k++)
                if (l->flights[k].used && l->flights[k].p.ran)
                    life_end(l, &l->flights[k]);
        }
        plug(&l->w);
        life_check(l);
        world_free(&l->w);
        for (unsigned k = 0; k < FLIGHT; k++)
            free(l->flights[k].data);
        free(l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sum_of__depends_on_place_and_not_on_the_vector),
        cmocka_unit_test(sum_seed__of_pairs_that_are_alike_differ),
        cmocka_unit_test(write__binds_sums_to_tags),
        cmocka_unit_test(open__of_a_side_without_tags_goes_on_without),
        cmocka_unit_test(flush__makes_sums_durable_with_the_data),
        cmocka_unit_test(write__into_a_page_on_its_way_has_it_written_again),
        cmocka_unit_test(fua__makes_data_durable_and_its_sum_with_the_next_flush),
        cmocka_unit_test(flush__without_new_sums_leaves_the_side_alone),
        cmocka_unit_test(overwrite__is_marked_before_it_and_unmarked_when_idle),
        cmocka_unit_test(write__of_part_of_a_block_leaves_it_without_a_sum),
        cmocka_unit_test(grow__takes_the_side_along),
        cmocka_unit_test(grow__writes_zeros_where_sums_will_stand),
        cmocka_unit_test(flush__fails_when_sums_cannot_be_written),
        cmocka_unit_test(flush__of_the_side_that_failed_fails_the_next_ones_too),
        cmocka_unit_test(flush__behind_marks_that_failed_fails_too),
        cmocka_unit_test(open__refuses_what_is_not_its_own),
        cmocka_unit_test(set__makes_a_sum_anew),
        cmocka_unit_test(lookup__of_pages_that_are_all_on_their_way_ends),
        cmocka_unit_test(lookup__may_close_the_device_when_its_page_comes),
        cmocka_unit_test(failure__leaves_nothing_under_way_behind_the_last_end),
        cmocka_unit_test(power_loss__leaves_every_covered_block_with_its_sum_or_in_doubt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
