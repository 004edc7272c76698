/* SPDX-License-Identifier: Apache-2.0 */
/* Overwrite a file, chunk by chunk, after its old content is safe on a daemon.
 *
 *     cow_stream ADDRESS VOLUME ORIGIN NEW [CA CERTIFICATE KEY]
 *
 * ORIGIN is the origin of VOLUME, NEW what it is to become. Every chunk that differs is
 * put to the volume's newest snapshot; once it is durable there, and while the lease
 * is valid, the chunk is overwritten. The blocking face of the library is used; the
 * callbacks run inside its functions.
 */
#include <errno.h>
#include <fcntl.h>
#include <snapwire.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct job {
    int origin, new_data;
    uint64_t size, chunk_bytes;
    struct snapwire_lease *lease;
    unsigned long long written;
    int failed;
};

/* A chunk on its way: its old content is the library's to send, its new waits here. */
struct chunk {
    struct job *job;
    size_t bytes; /* less than a chunk at the origin's end */
    unsigned char *old_data, *new_data;
};

static void fail(struct job *job, const char *what, const char *why)
{
    fprintf(stderr, "cow_stream: %s: %s\n", what, why);
    job->failed = 1;
}

static void chunk_free(struct chunk *c)
{
    if (c == NULL)
        return;
    free(c->old_data);
    free(c->new_data);
    free(c);
}

static void on_durable(void *user, uint64_t old_chunk, uint32_t count,
                       const struct snapwire_error *error)
{
    struct chunk *c = user;
    struct job *job = c->job;

    (void)count;
    if (error != NULL)
        fail(job, "put", error->text);
    else if (!snapwire_lease_valid(job->lease))
        fail(job, "lease", "it is no longer valid");
    else if (pwrite(job->origin, c->new_data, c->bytes, (off_t)(old_chunk * job->chunk_bytes)) !=
             (ssize_t)c->bytes)
        fail(job, "write the origin", strerror(errno));
    else
        job->written++;
    chunk_free(c);
}

static void on_lost(void *user, struct snapwire_lease *lease, const struct snapwire_error *why)
{
    (void)lease;
    fail(user, "the lease is lost", why->text);
}

static struct chunk *chunk_read(struct job *job, uint64_t number)
{
    const uint64_t offset = number * job->chunk_bytes;
    struct chunk *c = calloc(1, sizeof *c);

    if (c == NULL)
        return NULL;
    c->job = job;
    c->bytes =
        (size_t)(job->size - offset < job->chunk_bytes ? job->size - offset : job->chunk_bytes);
    c->old_data = calloc(1, (size_t)job->chunk_bytes);
    c->new_data = calloc(1, (size_t)job->chunk_bytes);
    if (c->old_data != NULL && c->new_data != NULL &&
        pread(job->origin, c->old_data, c->bytes, (off_t)offset) == (ssize_t)c->bytes &&
        pread(job->new_data, c->new_data, c->bytes, (off_t)offset) >= 0)
        return c;
    chunk_free(c);
    return NULL;
}

static void stream_all(struct job *job, struct snapwire_stream *stream)
{
    const uint64_t chunks = (job->size + job->chunk_bytes - 1) / job->chunk_bytes;
    struct snapwire_error error;

    for (uint64_t i = 0; i < chunks && !job->failed; i++) {
        struct chunk *c = chunk_read(job, i);
        if (c == NULL) {
            fail(job, "read", "out of memory, or a file is too short");
        } else if (memcmp(c->old_data, c->new_data, c->bytes) == 0) {
            chunk_free(c);
        } else if (snapwire_stream_put_sync(stream, i, 1, c->old_data, 0, on_durable, c, &error) <
                   0) {
            fail(job, "put", error.text);
            chunk_free(c);
        }
    }
    if (snapwire_stream_flush_sync(stream, &error) < 0 && !job->failed)
        fail(job, "flush", error.text);
}

static void run(struct job *job, struct snapwire_client *client, const char *volume_name)
{
    struct snapwire_error error;
    struct snapwire_target *target = NULL;
    struct snapwire_stream *stream = NULL;
    struct snapwire_lease_config lease = {.size = sizeof lease, .lost = on_lost, .user = job};

    if (snapwire_resolve_sync(client, volume_name, NULL, &target, &error) < 0) {
        fail(job, volume_name, error.text);
        return;
    }
    lease.volume = target->volume;
    lease.origin_size_bytes = job->size;
    snapwire_free(target);
    if (snapwire_lease_acquire_sync(client, &lease, &job->lease, &error) < 0) {
        fail(job, "lease", error.text);
        return;
    }
    job->chunk_bytes = (uint64_t)snapwire_lease_info(job->lease)->chunk_size_sectors * 512;
    if (job->chunk_bytes == 0)
        fail(job, volume_name, "the volume has no snapshot");
    else if (snapwire_stream_new(job->lease, NULL, &stream, &error) < 0)
        fail(job, "stream", error.text);
    else
        stream_all(job, stream);
    snapwire_stream_free(stream);
    if (snapwire_lease_release_sync(job->lease, &error) < 0)
        fail(job, "release", error.text);
}

int main(int argc, char **argv)
{
    struct snapwire_config config = {.size = sizeof config, .software = "cow_stream"};
    struct snapwire_client *client = NULL;
    struct snapwire_error error;
    struct job job = {.failed = 0};
    struct stat st;

    if (argc != 5 && argc != 8) {
        fprintf(stderr, "usage: cow_stream ADDRESS VOLUME ORIGIN NEW [CA CERTIFICATE KEY]\n");
        return 2;
    }
    config.addresses = argv[1];
    if (argc == 8) {
        config.ca_path = argv[5];
        config.certificate_path = argv[6];
        config.key_path = argv[7];
    }
    job.origin = open(argv[3], O_RDWR | O_CLOEXEC);
    job.new_data = open(argv[4], O_RDONLY | O_CLOEXEC);
    if (job.origin < 0 || job.new_data < 0 || fstat(job.origin, &st) < 0) {
        perror("cow_stream: open");
        return 1;
    }
    job.size = (uint64_t)st.st_size;
    if (snapwire_client_new(NULL, &config, &client, &error) < 0) {
        fprintf(stderr, "cow_stream: %s\n", error.text);
        return snapwire_error_exit_code(error.code);
    }
    run(&job, client, argv[2]);
    snapwire_client_free(client);
    if (fsync(job.origin) < 0)
        fail(&job, "fsync", strerror(errno));
    printf("%llu chunks overwritten\n", job.written);
    return job.failed;
}
