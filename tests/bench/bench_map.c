/* SPDX-License-Identifier: Apache-2.0 */
/* What the exception map costs: time an operation, bytes an exception. */
#include "common/base/check.h"
#include "common/base/clock.h"
#include "common/base/rng.h"
#include "common/cow/cow_map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t now(void)
{
    return clock_now_ns(clock_system());
}

static void report(const char *name, uint64_t count, uint64_t ns, const struct cow_map *m)
{
    printf("%-28s %9llu %8.1f ns/op", name, (unsigned long long)count, (double)ns / (double)count);
    if (m)
        printf(" %7.2f bytes/exception",
               (double)cow_map_memory_bytes(m) / (double)cow_map_count(m));
    printf("\n");
    fflush(stdout);
}

/* Distinct old chunks below 2^32 in no order: an odd multiplier permutes them. */
static uint64_t scatter(uint64_t i)
{
    i = (i * UINT64_C(2654435761)) & UINT32_MAX;
    i ^= i >> 15;
    return (i * UINT64_C(2246822519)) & UINT32_MAX;
}

static struct cow_entry *make_entries(uint64_t count, int random)
{
    struct cow_entry *x = malloc(count * sizeof *x);

    CHECK(x);
    for (uint64_t i = 0; i < count; i++)
        x[i] = (struct cow_entry){random ? scatter(i) : i, i + 2, 0};
    return x;
}

static void bench_find(const char *name, const struct cow_map *m, uint64_t count, int random)
{
    uint64_t found = 0, begin = now(), finds = 2000000;
    struct cow_entry e;
    struct rng r;

    rng_init(&r, 1);
    for (uint64_t i = 0; i < finds; i++) {
        uint64_t k = rng_below(&r, count);

        found += cow_map_find(m, random ? scatter(k) : k, 0, &e) && e.new_chunk == k + 2;
    }
    CHECK(found == finds);
    report(name, finds, now() - begin, NULL);
}

static void bench_insert(uint64_t count, int random)
{
    struct cow_map *m = cow_map_new();
    double worst = 0;
    uint64_t begin;

    CHECK(m);
    begin = now();
    for (uint64_t i = 0; i < count; i++) {
        CHECK(cow_map_insert(m, (struct cow_entry){random ? scatter(i) : i, i + 2, 0}, NULL) == 0);
        if (i % 4096 == 0 && i > count / 10) {
            double per = (double)cow_map_memory_bytes(m) / (double)(i + 1);

            worst = per > worst ? per : worst;
        }
    }
    report(random ? "insert random" : "insert sequential", count, now() - begin, m);
    printf("%-28s %9s %8s       %7.2f bytes/exception\n", "  worst on the way", "", "", worst);
    bench_find("  find", m, count, random);
    if (random) {
        begin = now();
        for (uint64_t i = 0; i < count; i += 2)
            CHECK(cow_map_remove(m, scatter(i), 0, NULL) == 0);
        report("  remove every second", count / 2, now() - begin, m);
    }
    cow_map_free(m);
}

static void bench_load(uint64_t count, int random)
{
    struct cow_entry *x = make_entries(count, random), *copy = malloc(count * sizeof *copy);
    struct cow_map *m = cow_map_new();
    uint64_t begin;

    CHECK(m && copy);
    memset(copy, 1, count * sizeof *copy);
    begin = now();
    memcpy(copy, x, count * sizeof *copy);
    report("memcpy of the entries", count, now() - begin, NULL);
    CHECK(copy[count - 1].new_chunk == count + 1);
    free(copy);
    begin = now();
    CHECK(cow_map_load(m, x, count, NULL, NULL) == 0);
    report(random ? "load random" : "load sequential", count, now() - begin, m);
    bench_find("  find", m, count, random);
    if (random) {
        uint64_t add = count / 100, peak = 0;

        for (uint64_t i = 0; i < add; i++)
            x[i] = (struct cow_entry){scatter(count + i), count + i + 2, 0};
        begin = now();
        CHECK(cow_map_load(m, x, add, NULL, NULL) == 0);
        report("  load 1 % more", add, now() - begin, m);
        begin = now();
        for (uint64_t i = count + add; i < count + count / 4; i++) {
            CHECK(cow_map_insert(m, (struct cow_entry){scatter(i), i + 2, 0}, NULL) == 0);
            if (i % 4096 == 0 && cow_map_memory_bytes(m) * 1000 / i > peak)
                peak = cow_map_memory_bytes(m) * 1000 / i;
        }
        report("  insert 24 % more", count / 4 - add, now() - begin, m);
        printf("%-28s %9s %8s       %7.2f bytes/exception\n", "  worst on the way", "", "",
               (double)peak / 1000);
    }
    free(x);
    cow_map_free(m);
}

int main(void)
{
    static const uint64_t counts[] = {10000, 1000000, 10000000};

    for (unsigned i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        for (int random = 0; random < 2; random++) {
            bench_insert(counts[i], random);
            bench_load(counts[i], random);
        }
    }
    return 0;
}
