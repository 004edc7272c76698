/* SPDX-License-Identifier: Apache-2.0 */
/* Many snapshots of one hosted volume, over one connection.
 *
 *     bench_chain fill ADDRESS PKI VOLUME SNAPSHOTS CHUNKS FIRST
 *         makes SNAPSHOTS snapshots, s1 and on; after each but the last CHUNKS chunks are
 *         overwritten, from the FIRSTth of the volume on, so that each snapshot has
 *         exceptions and those of neighbouring chunks are in different snapshots
 *     bench_chain edit ADDRESS PKI VOLUME ROUNDS CHUNKS
 *         ROUNDS times: makes one more snapshot, overwrites CHUNKS chunks, deletes it
 *
 * Prints one JSON object: how long a creation and a deletion took, as the client sees them.
 * Thread: one, the library's.
 */
#include "client/lib/snapwire.h"
#include "common/base/check.h"
#include "common/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CHUNK_BYTES = 16 * 1024, PATH_BYTES = 512, ROUNDS_MAX = 65536, REST_MS = 30 };

struct chain {
    struct snapwire_client *client;
    struct snapwire_uuid volume;
    uint64_t volume_chunks;
    uint8_t data[CHUNK_BYTES];
    unsigned under_way;
};

static void must(int rc, const char *what, const struct snapwire_error *error)
{
    if (rc >= 0)
        return;
    (void)fprintf(stderr, "bench_chain: %s: %s\n", what, error->text);
    exit(1);
}

static double now_ms(void)
{
    return (double)clock_now_ns(clock_system()) / 1e6;
}

static void open_chain(struct chain *c, const char *address, const char *pki, const char *volume)
{
    char ca[PATH_BYTES], certificate[PATH_BYTES], key[PATH_BYTES];
    struct snapwire_error error = {0};
    struct snapwire_target *target = NULL;
    (void)snprintf(ca, sizeof ca, "%s/ca.crt", pki);
    (void)snprintf(certificate, sizeof certificate, "%s/client-bench.crt", pki);
    (void)snprintf(key, sizeof key, "%s/client-bench.key", pki);
    const struct snapwire_config config = {.size = sizeof config,
                                           .addresses = address,
                                           .ca_path = ca,
                                           .certificate_path = certificate,
                                           .key_path = key,
                                           .software = "bench_chain"};
    must(snapwire_client_new(NULL, &config, &c->client, &error), "client", &error);
    must(snapwire_resolve_sync(c->client, volume, NULL, &target, &error), "resolve", &error);
    c->volume = target->volume;
    c->volume_chunks = target->size_bytes / CHUNK_BYTES;
    snapwire_free(target);
    memset(c->data, 0x5a, sizeof c->data);
}

static double create(struct chain *c, const char *name, struct snapwire_uuid *ret_id)
{
    struct snapwire_error error = {0};
    struct snapwire_snapshot *s = NULL;
    const struct snapwire_snapshot_create args = {
        .size = sizeof args, .volume = c->volume, .name = name};
    const double start = now_ms();
    must(snapwire_snapshot_create_sync(c->client, &args, &s, &error), "create", &error);
    const double took = now_ms() - start;
    *ret_id = s->id;
    snapwire_free(s);
    return took;
}

static void on_written(void *user, const struct snapwire_error *error)
{
    struct chain *c = user;
    if (error != NULL)
        must(-1, "write", error);
    c->under_way--;
}

/* Chunks `stride` apart. */
static void overwrite(struct chain *c, uint64_t first, uint64_t stride, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct snapwire_error error = {0};
        const uint64_t chunk = (first + i * stride) % c->volume_chunks;
        must(snapwire_io_write(c->client, &c->volume, NULL, chunk * CHUNK_BYTES, CHUNK_BYTES,
                               c->data, 0, on_written, c, &error),
             "write", &error);
        c->under_way++;
    }
    while (c->under_way > 0)
        snapwire_client_turn(c->client, 200);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, unsigned count)
{
    if (count == 0)
        return 0;
    qsort(values, count, sizeof *values, by_size);
    return (values[count / 2] + values[(count - 1) / 2]) / 2;
}

static void fill(struct chain *c, unsigned snapshots, unsigned chunks, uint64_t first)
{
    struct snapwire_uuid id;
    const double start = now_ms();
    for (unsigned i = 0; i < snapshots; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "s%u", i + 1);
        (void)create(c, name, &id);
        if (i + 1 < snapshots)
            overwrite(c, first + i, snapshots, chunks);
    }
    (void)printf("{\"snapshots\": %u, \"seconds\": %.3f}\n", snapshots, (now_ms() - start) / 1e3);
}

static void edit(struct chain *c, unsigned rounds, unsigned chunks)
{
    double *created = calloc(rounds, sizeof *created), *deleted = calloc(rounds, sizeof *deleted);
    CHECK(created != NULL && deleted != NULL);
    for (unsigned i = 0; i < rounds; i++) {
        const struct timespec rest = {.tv_nsec = REST_MS * 1000000L};
        struct snapwire_error error = {0};
        struct snapwire_uuid id;
        created[i] = create(c, "edited", &id);
        overwrite(c, i * chunks, 1, chunks);
        const double start = now_ms();
        must(snapwire_snapshot_delete_sync(c->client, &c->volume, &id, NULL, &error), "delete",
             &error);
        deleted[i] = now_ms() - start;
        (void)nanosleep(&rest, NULL); /* the job takes what was deleted away */
    }
    (void)printf("{\"create_ms\": %.3f, \"delete_ms\": %.3f}\n", median(created, rounds),
                 median(deleted, rounds));
    free(created);
    free(deleted);
}

int main(int argc, char **argv)
{
    struct chain *c = calloc(1, sizeof *c);
    const bool is_fill = argc == 8 && strcmp(argv[1], "fill") == 0;
    const bool is_edit = argc == 7 && strcmp(argv[1], "edit") == 0;
    const unsigned count = is_fill || is_edit ? (unsigned)strtoul(argv[5], NULL, 10) : 0;
    CHECK(c != NULL);
    if (count == 0 || count > ROUNDS_MAX) {
        (void)fprintf(stderr, "usage: bench_chain fill ADDRESS PKI VOLUME SNAPSHOTS CHUNKS FIRST\n"
                              "       bench_chain edit ADDRESS PKI VOLUME ROUNDS CHUNKS\n");
        free(c);
        return 2;
    }
    const unsigned chunks = (unsigned)strtoul(argv[6], NULL, 10);
    open_chain(c, argv[2], argv[3], argv[4]);
    if (is_fill)
        fill(c, count, chunks, strtoull(argv[7], NULL, 10));
    else
        edit(c, count, chunks);
    snapwire_client_free(c->client);
    free(c);
    return 0;
}
