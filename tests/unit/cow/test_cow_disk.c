/* SPDX-License-Identifier: Apache-2.0 */
/* The on-disk format: geometry, metadata chunks, bytes as the kernel lays them out. */
#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/cow/cow_disk.h"
#include "tests/lib/cm.h"

#include <stdlib.h>

static void geometry__follows_from_the_chunk_size(void **state)
{
    struct cow_geometry g;

    (void)state;
    for (uint32_t sectors = 1; sectors <= LIMIT_CHUNK_SECTORS_MAX; sectors *= 2) {
        assert_int_equal(cow_geometry_init(&g, sectors, 512, NULL), 0);
        assert_int_equal(g.chunk_sectors, sectors);
        assert_int_equal(g.chunk_bytes, sectors * 512);
        assert_int_equal(g.area_exceptions, sectors * 32);
    }
    assert_int_equal(g.chunk_bytes, 16 * MIB);
}

static void geometry__refuses_other_sizes(void **state)
{
    static const uint32_t bad[] = {0, 3, 24, 32767, 65536, 0x80000000, UINT32_MAX};
    struct cow_geometry g;
    struct err err = ERR_INIT;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(cow_geometry_init(&g, bad[i], 512, &err), SNAP_EINVAL);
        assert_int_equal(err.code, SNAP_EINVAL);
    }
}

static void geometry__refuses_chunks_below_the_block_size(void **state)
{
    struct cow_geometry g;

    (void)state;
    assert_int_equal(cow_geometry_init(&g, 4, 4096, NULL), SNAP_EINVAL);
    assert_int_equal(cow_geometry_init(&g, 8, 4096, NULL), 0);
}

/* Every chunk of the first areas, told apart by counting through the layout. */
static void metadata_chunks__are_where_the_layout_says(void **state)
{
    (void)state;
    for (uint32_t sectors = 1; sectors <= 8; sectors *= 2) {
        struct cow_geometry g;
        uint64_t c = 1;

        assert_int_equal(cow_geometry_init(&g, sectors, 512, NULL), 0);
        assert_true(cow_is_metadata_chunk(&g, 0));
        assert_int_equal(cow_skip_metadata(&g, 0), 2);
        for (uint64_t area = 0; area < 5; area++) {
            assert_int_equal(cow_area_chunk(&g, area), c);
            assert_true(cow_is_metadata_chunk(&g, c));
            assert_int_equal(cow_skip_metadata(&g, c), c + 1);
            c++;
            for (uint32_t i = 0; i < g.area_exceptions; i++, c++) {
                assert_false(cow_is_metadata_chunk(&g, c));
                assert_int_equal(cow_skip_metadata(&g, c), c);
            }
        }
    }
}

static void metadata_chunks__with_chunks_of_one_sector(void **state)
{
    struct cow_geometry g;

    (void)state;
    assert_int_equal(cow_geometry_init(&g, 1, 512, NULL), 0);
    assert_int_equal(g.area_exceptions, 32);
    assert_int_equal(cow_area_chunk(&g, 1), 34);
    assert_int_equal(cow_skip_metadata(&g, 34), 35);
    assert_int_equal(cow_skip_metadata(&g, 33), 33);
    /* far out: no overflow on the way */
    assert_int_equal(cow_area_chunk(&g, UINT64_C(1) << 50), 1 + 33 * (UINT64_C(1) << 50));
    assert_int_equal(cow_skip_metadata(&g, 1 + 33 * (UINT64_C(1) << 50)),
                     2 + 33 * (UINT64_C(1) << 50));
}

static void header__has_the_kernels_bytes(void **state)
{
    static const uint8_t expect[16] = {'S', 'n', 'A', 'p', 1, 0, 0, 0, 1, 0, 0, 0, 32, 0, 0, 0};
    const struct cow_header h = {COW_MAGIC, 1, COW_VERSION, 32};
    struct cow_header back;
    uint8_t chunk[512];

    (void)state;
    memset(chunk, 0xee, sizeof chunk);
    cow_header_encode(&h, chunk, sizeof chunk);
    assert_memory_equal(chunk, expect, sizeof expect);
    assert_true(bytes_are_zero(chunk + 16, sizeof chunk - 16));
    cow_header_decode(&back, chunk);
    assert_memory_equal(&back, &h, sizeof h);
}

static void exception__stands_at_its_index_and_nowhere_else(void **state)
{
    const struct cow_exception x = {UINT64_C(0x0102030405060708), UINT64_C(0x1112131415161718)};
    static const uint8_t expect[16] = {8,    7,    6,    5,    4,    3,    2,    1,
                                       0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11};
    struct cow_exception back;
    uint8_t area[512] = {0};

    (void)state;
    cow_exception_encode(&x, area, 31);
    assert_memory_equal(area + 496, expect, sizeof expect);
    assert_true(bytes_are_zero(area, 496));
    cow_exception_decode(&back, area, 31);
    assert_int_equal(back.old_chunk, x.old_chunk);
    assert_int_equal(back.new_chunk, x.new_chunk);
    cow_exception_decode(&back, area, 0);
    assert_int_equal(back.new_chunk, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(geometry__follows_from_the_chunk_size),
        cmocka_unit_test(geometry__refuses_other_sizes),
        cmocka_unit_test(geometry__refuses_chunks_below_the_block_size),
        cmocka_unit_test(metadata_chunks__are_where_the_layout_says),
        cmocka_unit_test(metadata_chunks__with_chunks_of_one_sector),
        cmocka_unit_test(header__has_the_kernels_bytes),
        cmocka_unit_test(exception__stands_at_its_index_and_nowhere_else),
    };

    return cmocka_run_group_tests_name("cow_disk", tests, NULL, NULL);
}
