/* SPDX-License-Identifier: Apache-2.0 */
/* What the guard remembers: the map of chunks, against a plain array, and the broken mark. */
#include "client/nbdkit/guard_map.h"
#include "client/nbdkit/guard_mark.h"
#include "common/base/file.h"
#include "common/base/rng.h"
#include "tests/lib/cm.h"
#include "tests/lib/seed.h"
#include "tests/lib/tmpdir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void map__agrees_with_an_array(void **state)
{
    enum { CHUNKS = 1000, STEPS = 3000 };
    static bool plain[CHUNKS];
    struct rng r;
    struct guard_map m;
    (void)state;
    seed_init_rng(&r);
    assert_int_equal(guard_map_init(&m, CHUNKS, NULL), 0);
    for (unsigned step = 0; step < STEPS; step++) {
        uint64_t first = rng_below(&r, CHUNKS), count = rng_below(&r, CHUNKS - first + 1);
        bool value = rng_below(&r, 2) == 1;
        if (rng_below(&r, 50) == 0) {
            guard_map_clear(&m);
            memset(plain, 0, sizeof plain);
        }
        guard_map_set(&m, first, count, value);
        for (uint64_t i = 0; i < count; i++)
            plain[first + i] = value;
        for (uint64_t i = 0; i < CHUNKS; i++)
            if (guard_map_has(&m, i) != plain[i])
                fail_msg("step %u: chunk %llu", step, (unsigned long long)i);
    }
    guard_map_done(&m);
}

/* With an array, as bits are counted: kept, under way, neither. */
static void map__pends_while_all_that_is_missing_is_under_way(void **state)
{
    enum { CHUNKS = 300, STEPS = 20000 };
    struct rng r;
    struct guard_map kept, claimed;
    (void)state;
    seed_init_rng(&r);
    assert_int_equal(guard_map_init(&kept, CHUNKS, NULL), 0);
    assert_int_equal(guard_map_init(&claimed, CHUNKS, NULL), 0);
    for (unsigned step = 0; step < STEPS; step++) {
        uint64_t at = rng_below(&r, CHUNKS), count = rng_below(&r, CHUNKS - at + 1);
        guard_map_set(rng_below(&r, 2) ? &kept : &claimed, at, count, rng_below(&r, 4) > 0);
        uint64_t first = rng_below(&r, CHUNKS), last = first + rng_below(&r, CHUNKS - first);
        bool missing = false, lost = false;
        for (uint64_t i = first; i <= last; i++) {
            missing = missing || !guard_map_has(&kept, i);
            lost = lost || (!guard_map_has(&kept, i) && !guard_map_has(&claimed, i));
        }
        if (guard_map_pends(&kept, &claimed, first, last) != (missing && !lost))
            fail_msg("step %u: %llu to %llu", step, (unsigned long long)first,
                     (unsigned long long)last);
    }
    assert_false(guard_map_pends(&kept, &claimed, 0, CHUNKS));
    assert_false(guard_map_pends(&kept, &claimed, UINT64_MAX - 1, UINT64_MAX - 1));
    guard_map_done(&kept);
    guard_map_done(&claimed);
}

static void map__of_a_huge_volume_costs_what_is_set(void **state)
{
    const uint64_t chunks = UINT64_C(1) << 36; /* 8 GiB of bits */
    struct guard_map m, none;
    (void)state;
    assert_int_equal(guard_map_init(&m, chunks, NULL), 0);
    guard_map_set(&m, chunks - 1, 1, true);
    guard_map_set(&m, 63, 2, true);
    assert_true(guard_map_has(&m, chunks - 1) && guard_map_has(&m, 63) && guard_map_has(&m, 64));
    assert_false(guard_map_has(&m, 62) || guard_map_has(&m, 65) || guard_map_has(&m, chunks - 2));
    guard_map_clear(&m);
    assert_false(guard_map_has(&m, chunks - 1) || guard_map_has(&m, 63));
    guard_map_done(&m);
    assert_int_equal(guard_map_init(&none, 0, NULL), 0);
    guard_map_clear(&none);
    guard_map_done(&none);
}

/* -- the mark --------------------------------------------------------------------------------- */

static bool is_there(const char *path)
{
    bool there = false;
    assert_int_equal(guard_mark_look(path, &there, NULL), 0);
    return there;
}

static void mark__is_there_from_make_to_remove(void **state)
{
    struct tmpdir dir;
    char path[TMPDIR_FILE_BYTES], trial[TMPDIR_FILE_BYTES + 8];
    char *text = NULL;
    size_t len;
    (void)state;
    tmpdir_make(&dir);
    (void)tmpdir_file(&dir, "mark", path);
    (void)snprintf(trial, sizeof trial, "%s.try", path);
    assert_false(is_there(path));
    assert_int_equal(guard_mark_try(path, NULL), 0);
    assert_false(is_there(path) || is_there(trial));
    assert_int_equal(guard_mark_make(path, "who\n", NULL), 0);
    assert_true(is_there(path));
    assert_int_equal(file_read_all(path, 100, &text, &len, NULL), 0);
    assert_string_equal(text, "who\n");
    free(text);
    assert_int_equal(guard_mark_make(path, "again\n", NULL), 0);
    assert_int_equal(guard_mark_try(path, NULL), 0);
    assert_true(is_there(path));
    assert_int_equal(guard_mark_remove(path, NULL), 0);
    assert_false(is_there(path));
    assert_int_equal(guard_mark_remove(path, NULL), 0);
    tmpdir_remove(&dir);
}

/* That it is there counts, not what it is. */
static void mark__a_dangling_link_is_one(void **state)
{
    struct tmpdir dir;
    char path[TMPDIR_FILE_BYTES];
    (void)state;
    tmpdir_make(&dir);
    assert_int_equal(symlink("nowhere", tmpdir_file(&dir, "mark", path)), 0);
    assert_true(is_there(path));
    assert_true(guard_mark_make(path, "", NULL) < 0); /* and is not followed */
    assert_true(is_there(path));
    tmpdir_remove(&dir);
}

static void mark__where_none_can_be_is_told(void **state)
{
    struct tmpdir dir;
    char path[TMPDIR_FILE_BYTES];
    struct err e = ERR_INIT;
    bool there = true;
    (void)state;
    tmpdir_make(&dir);
    (void)tmpdir_file(&dir, "folder/mark", path);
    assert_int_equal(guard_mark_try(path, &e), SNAP_ENOENT);
    assert_non_null(strstr(e.text, path));
    assert_int_equal(guard_mark_make(path, "", NULL), SNAP_ENOENT);
    assert_int_equal(guard_mark_look(path, &there, NULL), 0); /* so there is none */
    assert_false(there);
    (void)tmpdir_file(&dir, "file", path);
    assert_int_equal(file_replace(path, "x", 1, 0600, NULL), 0);
    (void)tmpdir_file(&dir, "file/mark", path);
    assert_true(guard_mark_look(path, &there, NULL) < 0); /* nobody knows */
    tmpdir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(map__agrees_with_an_array),
        cmocka_unit_test(map__pends_while_all_that_is_missing_is_under_way),
        cmocka_unit_test(map__of_a_huge_volume_costs_what_is_set),
        cmocka_unit_test(mark__is_there_from_make_to_remove),
        cmocka_unit_test(mark__a_dangling_link_is_one),
        cmocka_unit_test(mark__where_none_can_be_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
