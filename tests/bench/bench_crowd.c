/* SPDX-License-Identifier: Apache-2.0 */
/* Many connections at once, through libsnapwire, from one process.
 *
 *     bench_crowd idle ADDRESS PKI CONNECTIONS STATUS
 *         all stand open, nothing is asked; the daemon's memory is read from STATUS,
 *         its /proc/PID/status
 *     bench_crowd load ADDRESS PKI CONNECTIONS CHUNK_BYTES CHUNKS IN_FLIGHT
 *         each connection writes to a volume of its own, CHUNKS and IN_FLIGHT being those
 *         of all together
 *
 * Every connection of a load goes through
 *     connecting -> leasing -> waiting for the others -> putting -> finished
 * and the clock runs from the moment when the last one is ready until the last chunk is
 * durable. Prints one JSON object. Thread: one, and one loop.
 */
#include "client/lib/snapwire.h"
#include "common/base/check.h"
#include "common/base/clock.h"

#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DATA_BYTES = 32 * 1024 * 1024, ALIGN_BYTES = 4096, PATH_BYTES = 512 };

struct crowd;

struct one {
    struct crowd *crowd;
    struct snapwire_client *client;
    struct snapwire_lease *lease;
    struct snapwire_stream *stream;
    struct snapwire_uuid volume;
    uint64_t next, answered;
    bool up;
};

struct crowd {
    const char *address;
    char ca[PATH_BYTES], certificate[PATH_BYTES], key[PATH_BYTES];
    struct event_base *base;
    struct one *ones;
    uint32_t count, ready, finished, closed;
    uint64_t chunk_bytes, chunks_each, in_flight_each;
    uint8_t *data;
    uint64_t start_ns, end_ns, latency_sum_ns;
    struct put *puts;
};

struct put {
    struct one *one;
    uint64_t start_ns;
};

static uint64_t now_ns(void)
{
    return clock_now_ns(clock_system());
}

static void fail(const char *what, const struct snapwire_error *error)
{
    (void)fprintf(stderr, "bench_crowd: %s: %s\n", what, error != NULL ? error->text : "failed");
    exit(1);
}

static void must(int rc, const char *what, const struct snapwire_error *error)
{
    if (rc < 0)
        fail(what, error);
}

static struct snapwire_config client_config(const struct crowd *c)
{
    return (struct snapwire_config){
        .size = sizeof(struct snapwire_config),
        .addresses = c->address,
        .ca_path = c->ca,
        .certificate_path = c->certificate,
        .key_path = c->key,
        .connect_timeout_ms = 120000,
        .software = "bench_crowd",
    };
}

/* -- load: one connection's way ------------------------------------------------------------ */

static void put_more(struct one *o, struct put *p);

static void on_put(void *user, uint64_t old_chunk, uint32_t count,
                   const struct snapwire_error *error)
{
    struct put *p = user;
    struct one *o = p->one;
    struct crowd *c = o->crowd;
    (void)old_chunk;
    (void)count;
    if (error != NULL)
        fail("put", error);
    c->latency_sum_ns += now_ns() - p->start_ns;
    if (++o->answered == c->chunks_each && ++c->finished == c->count) {
        c->end_ns = now_ns();
        must(event_base_loopbreak(c->base), "loop", NULL);
    }
    put_more(o, p);
}

static void put_more(struct one *o, struct put *p)
{
    struct crowd *c = o->crowd;
    struct snapwire_error error = {0};
    if (o->next == c->chunks_each)
        return;
    const uint64_t slot = o->next % (DATA_BYTES / c->chunk_bytes);
    p->start_ns = now_ns();
    const int rc = snapwire_stream_put(o->stream, o->next, 1, c->data + slot * c->chunk_bytes, 0,
                                       on_put, p, &error);
    must(rc, "put", &error);
    CHECK(rc == 0);
    o->next++;
}

static void start_all(struct crowd *c)
{
    c->start_ns = now_ns();
    for (uint32_t i = 0; i < c->count; i++) {
        for (uint64_t k = 0; k < c->in_flight_each; k++) {
            struct put *p = &c->puts[i * c->in_flight_each + k];
            p->one = &c->ones[i];
            put_more(&c->ones[i], p);
        }
    }
}

static void on_lease(void *user, const struct snapwire_error *error, struct snapwire_lease *lease)
{
    struct one *o = user;
    struct crowd *c = o->crowd;
    struct snapwire_error why = {0};
    if (error != NULL)
        fail("lease", error);
    o->lease = lease;
    const struct snapwire_stream_config config = {
        .size = sizeof config,
        .inflight_chunks_max = (uint32_t)c->in_flight_each,
        .inflight_bytes_max = c->in_flight_each * c->chunk_bytes,
    };
    must(snapwire_stream_new(lease, &config, &o->stream, &why), "stream", &why);
    if (++c->ready == c->count)
        start_all(c);
}

static void on_state(void *user, struct snapwire_client *client, enum snapwire_state state,
                     const struct snapwire_error *why)
{
    struct one *o = user;
    struct crowd *c = o->crowd;
    struct snapwire_error error = {0};
    if (state == SNAPWIRE_STATE_FAILED || state == SNAPWIRE_STATE_RECONNECTING)
        fail("connection", why);
    if (state != SNAPWIRE_STATE_CONNECTED || o->up)
        return;
    o->up = true;
    if (c->chunks_each > 0) {
        const struct snapwire_lease_config config = {
            .size = sizeof config,
            .volume = o->volume,
            .origin_size_bytes = c->chunks_each * c->chunk_bytes,
        };
        must(snapwire_lease_acquire(client, &config, on_lease, o, &error), "lease", &error);
    } else if (++c->ready == c->count) {
        must(event_base_loopbreak(c->base), "loop", NULL);
    }
}

static void open_all(struct crowd *c)
{
    struct snapwire_error error = {0};
    c->base = event_base_new();
    CHECK(c->base != NULL);
    for (uint32_t i = 0; i < c->count; i++) {
        struct one *o = &c->ones[i];
        struct snapwire_config config = client_config(c);
        config.state_changed = on_state;
        config.user = o;
        must(snapwire_client_new(c->base, &config, &o->client, &error), "client", &error);
        must(snapwire_client_connect(o->client, &error), "connect", &error);
    }
    must(event_base_dispatch(c->base), "loop", NULL);
}

/* -- the volumes of a load ------------------------------------------------------------------ */

static void make_volumes(struct crowd *c, struct snapwire_client *admin)
{
    struct snapwire_error error = {0};
    for (uint32_t i = 0; i < c->count; i++) {
        char name[32];
        struct snapwire_snapshot *snapshot = NULL;
        struct snapwire_volume *volume = NULL;
        (void)snprintf(name, sizeof name, "crowd%u", i);
        const struct snapwire_volume_create args = {
            .size = sizeof args, .name = name, .size_bytes = c->chunks_each * c->chunk_bytes};
        must(snapwire_volume_create_sync(admin, &args, &volume, &error), "volume", &error);
        const struct snapwire_snapshot_create snap = {.size = sizeof snap,
                                                      .volume = volume->id,
                                                      .name = "s",
                                                      .chunk_size_sectors =
                                                          (uint32_t)(c->chunk_bytes / 512)};
        must(snapwire_snapshot_create_sync(admin, &snap, &snapshot, &error), "snapshot", &error);
        c->ones[i].volume = volume->id;
        snapwire_free(snapshot);
        snapwire_free(volume);
    }
}

static void delete_volumes(struct crowd *c, struct snapwire_client *admin)
{
    struct snapwire_error error = {0};
    for (uint32_t i = 0; i < c->count; i++) {
        must(snapwire_volume_delete_sync(admin, &c->ones[i].volume, NULL, true, &error), "delete",
             &error);
    }
}

static void on_closed(void *user)
{
    struct crowd *c = user;
    if (++c->closed == c->count)
        must(event_base_loopbreak(c->base), "loop", NULL);
}

static void close_all(struct crowd *c)
{
    for (uint32_t i = 0; i < c->count; i++) {
        struct one *o = &c->ones[i];
        snapwire_client_close(o->client, on_closed, c);
    }
    must(event_base_dispatch(c->base), "loop", NULL);
    event_base_free(c->base);
}

/* -- the two tasks -------------------------------------------------------------------------- */

static void idle(struct crowd *c, const char *status)
{
    char line[256];
    uint64_t kib = 0;
    open_all(c);
    FILE *f = fopen(status, "re");
    CHECK(f != NULL);
    while (fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "VmRSS:", 6) == 0)
            kib = strtoull(line + 6, NULL, 10);
    }
    CHECK(fclose(f) == 0);
    close_all(c);
    (void)printf("{\"connections\": %u, \"rss_bytes\": %llu}\n", c->count,
                 (unsigned long long)kib * 1024);
}

static void load(struct crowd *c)
{
    struct snapwire_error error = {0};
    struct snapwire_client *admin = NULL;
    const struct snapwire_config config = client_config(c);
    c->data = aligned_alloc(ALIGN_BYTES, DATA_BYTES);
    c->puts = calloc(c->count * c->in_flight_each, sizeof *c->puts);
    CHECK(c->data != NULL && c->puts != NULL);
    for (uint64_t i = 0; i < DATA_BYTES / 8; i++)
        memcpy(c->data + i * 8, &(uint64_t){i * UINT64_C(0x9e3779b97f4a7c15)}, 8);
    must(snapwire_client_new(NULL, &config, &admin, &error), "client", &error);
    make_volumes(c, admin);
    open_all(c);
    const double s = (double)(c->end_ns - c->start_ns) / 1e9;
    const uint64_t chunks = c->chunks_each * c->count;
    close_all(c);
    delete_volumes(c, admin);
    snapwire_client_free(admin);
    (void)printf("{\"connections\": %u, \"chunks\": %llu, \"seconds\": %.4f, \"mib_per_s\": %.1f, "
                 "\"latency_mean_us\": %.0f}\n",
                 c->count, (unsigned long long)chunks, s,
                 (double)(chunks * c->chunk_bytes) / (1024.0 * 1024.0) / s,
                 (double)c->latency_sum_ns / (double)chunks / 1e3);
    free(c->data);
    free(c->puts);
}

static uint64_t number(const char *text)
{
    return strtoull(text, NULL, 10);
}

int main(int argc, char **argv)
{
    struct crowd c = {0};
    const bool is_idle = argc == 6 && strcmp(argv[1], "idle") == 0;
    const bool is_load = argc == 8 && strcmp(argv[1], "load") == 0;
    if (is_idle || is_load) {
        c.address = argv[2];
        (void)snprintf(c.ca, sizeof c.ca, "%s/ca.crt", argv[3]);
        (void)snprintf(c.certificate, sizeof c.certificate, "%s/client-bench.crt", argv[3]);
        (void)snprintf(c.key, sizeof c.key, "%s/client-bench.key", argv[3]);
        c.count = (uint32_t)number(argv[4]);
    }
    if (is_load && c.count > 0) {
        c.chunk_bytes = number(argv[5]);
        c.chunks_each = number(argv[6]) / c.count;
        c.in_flight_each = number(argv[7]) / c.count;
        c.in_flight_each += c.in_flight_each == 0;
    }
    if (c.count == 0 || (is_load && (c.chunk_bytes == 0 || c.chunks_each < c.in_flight_each))) {
        (void)fprintf(stderr, "usage: bench_crowd idle ADDRESS PKI CONNECTIONS STATUS\n"
                              "       bench_crowd load ADDRESS PKI CONNECTIONS CHUNK_BYTES CHUNKS "
                              "IN_FLIGHT\n");
        return 2;
    }
    c.ones = calloc(c.count, sizeof *c.ones);
    CHECK(c.ones != NULL);
    for (uint32_t i = 0; i < c.count; i++)
        c.ones[i].crowd = &c;
    if (is_idle)
        idle(&c, argv[5]);
    else
        load(&c);
    free(c.ones);
    return 0;
}
