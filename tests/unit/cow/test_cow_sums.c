/* SPDX-License-Identifier: Apache-2.0 */
/* A store on a device with checksums: what is told has its checksum, whatever comes then. */
#include "tests/unit/cow/store_fixture.h"

#include "common/cow/cow_disk.h"
#include "common/io/sum.h"
#include "tests/lib/seed.h"

enum { CHUNK = 4096, CHUNKS = 700, CUTS = 400, PUTS = 24, PUT_CHUNKS = 3 };

/* fix.dev is the device with checksums over these. */
struct disks {
    struct blk_dev *data, *side;
};

static bool covers(void *user, uint64_t block_no)
{
    static const struct cow_geometry g = {
        .chunk_sectors = CHUNK / 512, .chunk_bytes = CHUNK, .area_exceptions = CHUNK / 16};

    (void)user;
    return !cow_is_metadata_chunk(&g, block_no);
}

struct joined {
    struct blk_dev *dev;
    bool ran;
};

static void joined_done(void *user, struct blk_dev *dev, int code, const struct err *err)
{
    struct joined *j = user;

    if (code)
        fail_msg("%s", err->text);
    j->dev = dev;
    j->ran = true;
}

static void join(struct fix *f, const struct disks *d, bool create)
{
    const struct sum_options o = {.block_bytes = CHUNK, .covers = covers, .create = create};
    struct joined j = {0};

    sum_dev_open(d->data, d->side, &o, joined_done, &j);
    while (!j.ran)
        assert_true(mem_engine_step(f->engine));
    f->dev = j.dev;
}

static struct fix sums_fix(uint64_t seed, struct disks *ret)
{
    struct fix f = {.chunk_bytes = CHUNK, .area_exceptions = CHUNK / 16};

    assert_int_equal(blk_engine_new_memory(seed, &f.engine, NULL), 0);
    assert_int_equal(
        mem_dev_new(f.engine, "cow", (uint64_t)CHUNKS * CHUNK, 4096, 0, &ret->data, NULL), 0);
    assert_int_equal(mem_dev_new(f.engine, "sum", 0, 4096, MIB, &ret->side, NULL), 0);
    join(&f, ret, true);
    fix_create(&f);
    fix_open(&f);
    return f;
}

static void slot_found(struct sum_lookup *l, int code, const struct err *err)
{
    (void)err;
    assert_int_equal(code, 0);
    *(bool *)l->user = true;
}

/* The chunk's content has the checksum that is kept for it, and for no other old_chunk. */
static void assert_summed(struct fix *f, const struct disks *d, uint64_t old_chunk)
{
    struct sum_slot slot = {0};
    bool found = false;
    uint64_t new_chunk = 0;

    assert_true(cow_map_get(f->map, old_chunk, f->options.seq, &new_chunk));
    struct sum_lookup l = {
        .first_block = new_chunk, .count = 1, .slots = &slot, .done = slot_found, .user = &found};
    const uint8_t *content = mem_dev_image(d->data) + new_chunk * CHUNK;
    sum_dev_lookup(f->dev, &l);
    while (!found)
        assert_true(mem_engine_step(f->engine));
    assert_true(slot.now == sum_dev_of(f->dev, new_chunk, old_chunk, content));
    assert_true(slot.now != sum_dev_of(f->dev, new_chunk, old_chunk + 1, content));
}

/* Few at a time and many, cut off after any number of steps. */
static void put__told_before_a_power_loss_has_its_checksum_after_it(void **state)
{
    uint64_t seed = seed_take();

    (void)state;
    for (unsigned cut = 0; cut < CUTS; cut++) {
        unsigned most = cut % 2 == 0 ? 1 : PUTS, sent = 0, told = 0;
        struct put *p[PUTS];
        struct disks d;
        struct fix f = sums_fix(seed + cut, &d);

        for (unsigned steps = 0; steps <= cut; steps++) {
            while (sent < PUTS && sent - told < most) {
                p[sent] = put_send(&f, 100 + sent * PUT_CHUNKS, PUT_CHUNKS, cut);
                sent++;
            }
            cow_store_kick(f.store);
            (void)mem_engine_step(f.engine);
            for (told = 0; told < sent && p[told]->ran; told++)
                continue;
        }
        mem_engine_power_loss(f.engine);
        cow_store_abandon(f.store);
        cow_map_free(f.map);
        sum_dev_abandon(f.dev);
        join(&f, &d, false);
        fix_open(&f);
        for (unsigned i = 0; i < sent; i++) {
            for (unsigned c = 0; c < PUT_CHUNKS && p[i]->ran; c++)
                assert_summed(&f, &d, 100 + i * PUT_CHUNKS + c);
            put_free(p[i]);
        }
        fix_done(&f);
    }
}

/* One put after another: a flush of its checksum and two of the rest. */
static void put__alone_flushes_its_checksum_once(void **state)
{
    struct disks d;
    struct fix f = sums_fix(7, &d);
    struct mem_counters side, data;

    (void)state;
    assert_int_equal(fix_put(&f, 0, 1, 1), 0);
    side = mem_dev_counters(d.side);
    data = mem_dev_counters(d.data);
    for (uint64_t old = 1; old < 51; old++)
        assert_int_equal(fix_put(&f, old, 1, 1), 0);
    assert_int_equal(mem_dev_counters(d.side).flushes - side.flushes, 50);
    assert_int_equal(mem_dev_counters(d.data).flushes - data.flushes, 100);
    fix_done(&f);
}

static void put__fails_when_its_checksum_cannot_be_flushed(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < 32; seed++) {
        struct disks d;
        struct fix f = sums_fix(seed, &d);

        assert_int_equal(fix_put(&f, 0, 1, 1), 0);
        mem_dev_fault_at(d.side, BLK_FLUSH, 1, MEM_FAULT_ERROR, EIO);
        assert_int_equal(fix_put(&f, 1, 1, 1), SNAP_EPOISONED);
        assert_int_equal(cow_store_state(f.store), COW_POISONED);
        assert_int_equal(fix_put(&f, 2, 1, 1), SNAP_EPOISONED);
        fix_done(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(put__told_before_a_power_loss_has_its_checksum_after_it),
        cmocka_unit_test(put__alone_flushes_its_checksum_once),
        cmocka_unit_test(put__fails_when_its_checksum_cannot_be_flushed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
