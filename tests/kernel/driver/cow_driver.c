/* SPDX-License-Identifier: Apache-2.0 */
/* The exception store on files, by hand: what the kernel harness makes devices with.
 *
 *   cow_driver create COW SECTORS CHUNK_SECTORS     a file of that size, a new store on it
 *   cow_driver put COW BATCH DEPTH [LIMIT_SECTORS]  lines "OLD_CHUNK TAG" on stdin, BATCH
 *                                                   chunks a put, DEPTH puts in flight;
 *                                                   prints "OLD_CHUNK OUTCOME" as each is told
 *   cow_driver merge COW ORIGIN STEPS               at most STEPS merge commits
 *   cow_driver cut SEED N put|merge …               the same on a disk in memory whose plug is
 *                                                   pulled after N writes and flushes
 *   cow_driver invalidate COW
 *   cow_driver status COW                           as dmsetup prints it
 *   cow_driver count COW CHUNK_SECTORS CHUNKS DEPTH puts of one chunk, in order; the I/O
 *                                                   they cost, as KEY=COUNT
 *
 * Content is the pattern of klib/pattern.py: sector S of tag T is 32 times the two
 * little-endian u64 T and S. An outcome is printed only once the store has said it, so
 * that what stands on stdout when the process is killed was promised. One thread.
 */
#include "common/base/check.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "tests/kernel/driver/session.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BATCH_MAX = 256, DEPTH_MAX = 64, BUFFER_ALIGN_BYTES = 4096, SECTOR_WORD_PAIRS = 32 };

struct line {
    uint64_t old_chunk;
    uint64_t tag;
};

/* What a callback left: one at a time. */
struct answer {
    bool here;
    int code;
    struct err err;
    struct cow_merge_run run;
};

struct load {
    struct session *session;
    const struct line *lines;
    size_t count, next;
    uint32_t chunk_bytes, batch;
    unsigned inflight;
    bool quiet;
    int failures;
};

struct flight {
    struct cow_put put;
    struct load *load;
    struct iovec iov;
    uint64_t olds[BATCH_MAX];
    int16_t outcomes[BATCH_MAX];
    bool busy;
};

static _Noreturn void usage(void)
{
    fprintf(stderr, "usage: see the head of cow_driver.c\n");
    exit(2);
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t n = strtoull(text, &end, 10);
    if (*end || end == text)
        usage();
    return n;
}

static void *buffer(size_t bytes)
{
    void *p = aligned_alloc(BUFFER_ALIGN_BYTES, (bytes + BUFFER_ALIGN_BYTES - 1) /
                                                    BUFFER_ALIGN_BYTES * BUFFER_ALIGN_BYTES);
    CHECK(p);
    return p;
}

static void pattern_fill(uint8_t *buf, uint64_t tag, uint64_t sector, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t word[2] = {tag, sector + i};
        for (unsigned k = 0; k < SECTOR_WORD_PAIRS; k++, buf += sizeof word)
            memcpy(buf, word, sizeof word);
    }
}

/* -- put --------------------------------------------------------------------- */

static const char *outcome_name(int outcome)
{
    return outcome == COW_ADDED ? "added" : outcome == COW_EXISTS ? "exists" : err_name(outcome);
}

static void flight_done(struct cow_put *put, int code, const struct err *err)
{
    struct flight *f = put->user;
    struct load *load = f->load;

    f->busy = false;
    load->inflight--;
    for (uint32_t i = 0; i < put->count && !load->quiet; i++)
        printf("%" PRIu64 " %s\n", f->olds[i], outcome_name(f->outcomes[i]));
    fflush(stdout);
    if (code) {
        if (load->failures == 0)
            fprintf(stderr, "cow_driver: put: %s\n", err ? err->text : err_name(code));
        load->failures++;
    }
}

static void flight_start(struct flight *f)
{
    struct load *load = f->load;
    const uint32_t chunk_sectors = load->chunk_bytes / SECTOR_BYTES;
    uint8_t *to = f->iov.iov_base;
    uint32_t n = 0;

    for (; n < load->batch && load->next < load->count; n++, load->next++) {
        const struct line *line = &load->lines[load->next];
        f->olds[n] = line->old_chunk;
        f->outcomes[n] = COW_PENDING;
        pattern_fill(to, line->tag, line->old_chunk * chunk_sectors, chunk_sectors);
        to += load->chunk_bytes;
    }
    f->iov.iov_len = (size_t)n * load->chunk_bytes;
    f->put = (struct cow_put){.old_chunks = f->olds,
                              .count = n,
                              .iov = &f->iov,
                              .iov_count = 1,
                              .outcomes = f->outcomes,
                              .done = flight_done,
                              .user = f};
    f->busy = true;
    load->inflight++;
    cow_store_put(load->session->store, &f->put);
}

static int load_run(struct load *load, unsigned depth)
{
    struct flight *flights = calloc(depth, sizeof *flights);
    CHECK(flights);
    for (unsigned i = 0; i < depth; i++) {
        flights[i].load = load;
        flights[i].iov.iov_base = buffer((size_t)load->batch * load->chunk_bytes);
    }
    while (load->next < load->count || load->inflight) {
        for (unsigned i = 0; i < depth && load->next < load->count; i++)
            if (!flights[i].busy)
                flight_start(&flights[i]);
        session_turn(load->session);
    }
    for (unsigned i = 0; i < depth; i++)
        free(flights[i].iov.iov_base);
    free(flights);
    return load->failures ? 1 : 0;
}

static size_t read_lines(struct line **ret)
{
    struct line *lines = NULL, x;
    size_t count = 0, room = 0;

    while (scanf("%" SCNu64 " %" SCNu64, &x.old_chunk, &x.tag) == 2) {
        if (count == room) {
            room = room ? room * 2 : 1024;
            lines = realloc(lines, room * sizeof *lines);
            CHECK(lines);
        }
        lines[count++] = x;
    }
    *ret = lines;
    return count;
}

static int cmd_put(struct session *s, char **argv)
{
    struct load load = {.session = s, .batch = (uint32_t)number(argv[1])};
    const uint64_t depth = number(argv[2]);
    struct line *lines;

    if (load.batch < 1 || load.batch > BATCH_MAX || depth < 1 || depth > DEPTH_MAX)
        usage();
    load.count = read_lines(&lines);
    load.lines = lines;
    session_open(s, argv[0], argv[3] ? number(argv[3]) : 0);
    load.chunk_bytes = cow_store_geometry(s->store)->chunk_bytes;
    int rc = load_run(&load, (unsigned)depth);
    session_close(s);
    free(lines);
    return rc;
}

static int cmd_count(struct session *s, char **argv)
{
    struct err err = ERR_INIT;
    const uint64_t chunk_sectors = number(argv[1]), chunks = number(argv[2]);
    struct load load = {.session = s, .count = chunks, .batch = 1, .quiet = true};
    struct line *lines = calloc(chunks, sizeof *lines);
    struct cow_usage before, after;

    CHECK(lines);
    for (uint64_t i = 0; i < chunks; i++)
        lines[i] = (struct line){i, 2};
    load.lines = lines;
    int fd = open(argv[0], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)((chunks + 64) * chunk_sectors * SECTOR_BYTES)))
        usage();
    close(fd);
    session_open_dev(s, argv[0]);
    if (cow_store_create_sync(s->cow.dev, (uint32_t)chunk_sectors, &err))
        session_die(&err, argv[0]);
    session_close(s);
    *s = (struct session){0};
    session_open(s, argv[0], 0);
    load.chunk_bytes = cow_store_geometry(s->store)->chunk_bytes;
    cow_store_usage(s->store, &before);
    int rc = load_run(&load, (unsigned)number(argv[3]));
    cow_store_usage(s->store, &after);
    printf("reads=0 read_sectors=0 writes=%" PRIu64 " write_sectors=%" PRIu64 " flushes=%" PRIu64
           "\n",
           after.data_writes + after.area_writes - before.data_writes - before.area_writes,
           (after.data_bytes + after.area_bytes - before.data_bytes - before.area_bytes) /
               SECTOR_BYTES,
           after.flushes - before.flushes);
    session_close(s);
    free(lines);
    return rc;
}

/* -- merge and the rest ---------------------------------------------------------- */

static void answer_put(void *user, int code, const struct err *err)
{
    struct answer *a = user;
    a->here = true;
    a->code = code;
    if (err)
        a->err = *err;
}

static void answer_merge(void *user, const struct cow_merge_run *run, int code,
                         const struct err *err)
{
    struct answer *a = user;
    if (run)
        a->run = *run;
    answer_put(user, code, err);
}

/* Copy a run back, durably. The origin may end inside the last chunk. */
static int merge_copy(struct session *s, const struct cow_merge_run *run, struct err *reterr)
{
    struct blk_dev *origin = s->origin.dev;
    const uint64_t chunk_bytes = cow_store_geometry(s->store)->chunk_bytes;
    const uint64_t size = blk_dev_info(origin)->size_bytes;
    uint8_t *buf = buffer(chunk_bytes);
    int rc = 0;

    for (uint32_t i = 0; i < run->count && rc == 0; i++) {
        const uint64_t to = (run->old_chunk + i) * chunk_bytes;
        rc =
            blk_read_sync(s->cow.dev, (run->new_chunk + i) * chunk_bytes, buf, chunk_bytes, reterr);
        if (rc == 0 && to < size)
            rc = blk_write_sync(origin, to, buf, size - to < chunk_bytes ? size - to : chunk_bytes,
                                reterr);
    }
    free(buf);
    session_cut(s);
    return rc ? rc : blk_flush_sync(origin, reterr);
}

static int cmd_merge(struct session *s, char **argv)
{
    struct err err = ERR_INIT;
    uint64_t steps = number(argv[2]);

    session_open(s, argv[0], 0);
    session_open_origin(s, argv[1]);
    for (; steps > 0; steps--) {
        struct answer a = {0};
        cow_store_merge_prepare(s->store, answer_merge, &a);
        session_drive(s, &a.here);
        if (a.code)
            session_die(&a.err, "merge prepare");
        if (a.run.count == 0)
            break;
        if (merge_copy(s, &a.run, &err))
            session_die(&err, "merge copy");
        const struct cow_merge_run run = a.run;
        a = (struct answer){0};
        cow_store_merge_commit(s->store, run.table_len, run.count, answer_put, &a);
        session_drive(s, &a.here);
        if (a.code)
            session_die(&a.err, "merge commit");
    }
    session_close(s);
    return 0;
}

static int cmd_invalidate(struct session *s, char **argv)
{
    struct answer a = {0};

    session_open(s, argv[0], 0);
    cow_store_invalidate(s->store, answer_put, &a);
    session_drive(s, &a.here);
    if (a.code)
        session_die(&a.err, "invalidate");
    session_close(s);
    return 0;
}

static int cmd_status(struct session *s, char **argv)
{
    struct cow_usage usage_now;
    char text[80];

    session_open(s, argv[0], 0);
    cow_store_usage(s->store, &usage_now);
    printf("%s\n", cow_status_format(&usage_now, text, sizeof text));
    session_close(s);
    return 0;
}

static int cmd_create(struct session *s, char **argv)
{
    struct err err = ERR_INIT;
    int fd = open(argv[0], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, (off_t)(number(argv[1]) * SECTOR_BYTES))) {
        perror(argv[0]);
        return 1;
    }
    close(fd);
    session_open_dev(s, argv[0]);
    if (cow_store_create_sync(s->cow.dev, (uint32_t)number(argv[2]), &err))
        session_die(&err, argv[0]);
    session_close(s);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int words_min, words_max;
        int (*run)(struct session *s, char **argv);
    } commands[] = {
        {"create", 3, 3, cmd_create}, {"put", 3, 4, cmd_put},
        {"merge", 3, 3, cmd_merge},   {"invalidate", 1, 1, cmd_invalidate},
        {"status", 1, 1, cmd_status}, {"count", 4, 4, cmd_count},
    };
    struct session s = {0};

    if (argc > 4 && strcmp(argv[1], "cut") == 0) {
        s.seed = number(argv[2]);
        s.cut = number(argv[3]);
        argv += 3;
        argc -= 3;
    }
    for (size_t i = 0; argc >= 2 && i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0 && argc - 2 >= commands[i].words_min &&
            argc - 2 <= commands[i].words_max)
            return commands[i].run(&s, argv + 2);
    usage();
}
