/* SPDX-License-Identifier: Apache-2.0 */
/* O_DIRECT I/O from a plan, in the test guest.
 *
 *   blkio plan DEPTH <plan     one operation a line, DEPTH threads take them in order:
 *       w PATH SECTOR COUNT TAG   write sectors of the pattern
 *       r PATH SECTOR COUNT       read and forget
 *       d PATH SECTOR COUNT       discard
 *       f PATH                    fsync
 *     prints "LINE ERRNO" for each one that failed, then "done N failed M"
 *   blkio fill PATH TAG        the whole device with the pattern of TAG
 *   blkio scan PATH            what stands on the device, as runs of sectors:
 *       START COUNT TAG           the pattern of TAG, 0 for zeros
 *       START COUNT TAG@SECTOR    that pattern, but of another place
 *       START COUNT ?             something else
 *       START COUNT !ERRNO        cannot be read
 *
 * The pattern: a sector is 32 times the two little-endian u64 TAG and its own
 * number, so that what is found somewhere says where it belongs. It knows
 * nothing of snapshots; the plans and what to expect are made on the host.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
    SECTOR = 512,
    IO_SECTORS_MAX = 2048,
    SCAN_SECTORS = 256,
    FILES_MAX = 32,
    DEPTH_MAX = 64,
    LINE_MAX_BYTES = 256,
};

struct op {
    char kind;
    int fd;
    uint64_t sector;
    uint64_t count;
    uint64_t tag;
    int error;
};

struct file {
    char path[LINE_MAX_BYTES];
    int fd;
};

struct plan {
    struct op *ops;
    size_t count;
    size_t next;
    pthread_mutex_t lock;
    struct file files[FILES_MAX];
    unsigned file_count;
};

static void die(const char *what)
{
    fprintf(stderr, "blkio: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void *aligned_or_die(size_t bytes)
{
    void *p = aligned_alloc(4096, bytes);
    if (!p)
        die("memory");
    return p;
}

static void pattern_fill(uint8_t *buf, uint64_t tag, uint64_t sector, uint64_t count)
{
    for (uint64_t s = 0; s < count; s++) {
        const uint64_t word[2] = {tag, sector + s};
        for (unsigned i = 0; i < SECTOR; i += sizeof word)
            memcpy(buf + s * SECTOR + i, tag ? word : (const uint64_t[2]){0, 0}, sizeof word);
    }
}

static int op_run(const struct op *op, uint8_t *buf)
{
    uint64_t range[2] = {op->sector * SECTOR, op->count * SECTOR};
    ssize_t n;

    switch (op->kind) {
    case 'w':
        pattern_fill(buf, op->tag, op->sector, op->count);
        n = pwrite(op->fd, buf, op->count * SECTOR, (off_t)range[0]);
        break;
    case 'r':
        n = pread(op->fd, buf, op->count * SECTOR, (off_t)range[0]);
        break;
    case 'd':
        return ioctl(op->fd, BLKDISCARD, range) ? errno : 0;
    default:
        return fsync(op->fd) ? errno : 0;
    }
    if (n < 0)
        return errno;
    return (uint64_t)n == range[1] ? 0 : EIO;
}

static void *plan_worker(void *arg)
{
    struct plan *plan = arg;
    uint8_t *buf = aligned_or_die((size_t)IO_SECTORS_MAX * SECTOR);

    for (;;) {
        pthread_mutex_lock(&plan->lock);
        size_t i = plan->next++;
        pthread_mutex_unlock(&plan->lock);
        if (i >= plan->count)
            break;
        plan->ops[i].error = op_run(&plan->ops[i], buf);
    }
    free(buf);
    return NULL;
}

static int plan_file(struct plan *plan, const char *path)
{
    for (unsigned i = 0; i < plan->file_count; i++)
        if (strcmp(plan->files[i].path, path) == 0)
            return plan->files[i].fd;
    if (plan->file_count == FILES_MAX) {
        errno = EMFILE;
        die("too many files in the plan");
    }
    struct file *f = &plan->files[plan->file_count++];
    snprintf(f->path, sizeof f->path, "%s", path);
    f->fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (f->fd < 0)
        die(path);
    return f->fd;
}

static void plan_read(struct plan *plan)
{
    char line[LINE_MAX_BYTES];
    size_t room = 0;

    while (fgets(line, sizeof line, stdin)) {
        struct op op = {.kind = line[0]};
        char path[LINE_MAX_BYTES];
        int n = sscanf(line + 1, " %255s %" SCNu64 " %" SCNu64 " %" SCNu64, path, &op.sector,
                       &op.count, &op.tag);
        if (!strchr("wrdf", op.kind) ||
            n < (op.kind == 'f'   ? 1
                 : op.kind == 'w' ? 4
                                  : 3) ||
            (op.count > IO_SECTORS_MAX && op.kind != 'd')) {
            fprintf(stderr, "blkio: bad line: %s", line);
            exit(2);
        }
        op.fd = plan_file(plan, path);
        if (plan->count == room) {
            room = room ? room * 2 : 256;
            plan->ops = realloc(plan->ops, room * sizeof *plan->ops);
            if (!plan->ops)
                die("memory");
        }
        plan->ops[plan->count++] = op;
    }
}

static int cmd_plan(unsigned depth)
{
    struct plan plan = {.lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[DEPTH_MAX];
    size_t failed = 0;

    plan_read(&plan);
    for (unsigned i = 0; i < depth; i++)
        if (pthread_create(&threads[i], NULL, plan_worker, &plan))
            die("thread");
    for (unsigned i = 0; i < depth; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < plan.count; i++) {
        if (plan.ops[i].error) {
            printf("%zu %s\n", i, strerrorname_np(plan.ops[i].error));
            failed++;
        }
    }
    printf("done %zu failed %zu\n", plan.count, failed);
    free(plan.ops);
    return failed ? 1 : 0;
}

static uint64_t device_sectors(int fd)
{
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0)
        die("size");
    return (uint64_t)end / SECTOR;
}

static int cmd_fill(const char *path, uint64_t tag)
{
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0)
        die(path);
    uint8_t *buf = aligned_or_die((size_t)IO_SECTORS_MAX * SECTOR);
    uint64_t sectors = device_sectors(fd);
    for (uint64_t s = 0; s < sectors; s += IO_SECTORS_MAX) {
        uint64_t n = sectors - s < IO_SECTORS_MAX ? sectors - s : IO_SECTORS_MAX;
        pattern_fill(buf, tag, s, n);
        if (pwrite(fd, buf, n * SECTOR, (off_t)(s * SECTOR)) != (ssize_t)(n * SECTOR))
            die("write");
    }
    free(buf);
    return 0;
}

/* What one sector holds; two of a kind side by side make a run. */
struct content {
    char kind; /* 'p' pattern, '?' something else, '!' error */
    uint64_t tag;
    uint64_t shift; /* the place it belongs to, less where it stands */
    int error;
};

static struct content sector_content(const uint8_t *p, uint64_t sector)
{
    uint64_t word[2];
    memcpy(word, p, sizeof word);
    if (memcmp(p, p + sizeof word, SECTOR - sizeof word) != 0)
        return (struct content){.kind = '?'};
    if (word[0] == 0)
        return (struct content){.kind = word[1] ? '?' : 'p'};
    return (struct content){.kind = 'p', .tag = word[0], .shift = word[1] - sector};
}

static void run_print(const struct content *c, uint64_t start, uint64_t count)
{
    if (count == 0)
        return;
    printf("%" PRIu64 " %" PRIu64 " ", start, count);
    if (c->kind == '!')
        printf("!%s\n", strerrorname_np(c->error));
    else if (c->kind == '?')
        printf("?\n");
    else if (c->shift)
        printf("%" PRIu64 "@%" PRIu64 "\n", c->tag, start + c->shift);
    else
        printf("%" PRIu64 "\n", c->tag);
}

static int cmd_scan(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd < 0)
        die(path);
    uint8_t *buf = aligned_or_die((size_t)SCAN_SECTORS * SECTOR);
    uint64_t sectors = device_sectors(fd), start = 0;
    struct content run = {0};

    for (uint64_t s = 0; s < sectors; s += SCAN_SECTORS) {
        uint64_t n = sectors - s < SCAN_SECTORS ? sectors - s : SCAN_SECTORS;
        ssize_t got = pread(fd, buf, n * SECTOR, (off_t)(s * SECTOR));
        int error = got < 0 ? errno : got != (ssize_t)(n * SECTOR) ? EIO : 0;
        for (uint64_t i = 0; i < n; i++) {
            struct content c = error ? (struct content){.kind = '!', .error = error}
                                     : sector_content(buf + i * SECTOR, s + i);
            if (c.kind != run.kind || c.tag != run.tag || c.shift != run.shift ||
                c.error != run.error) {
                run_print(&run, start, s + i - start);
                run = c;
                start = s + i;
            }
        }
    }
    run_print(&run, start, sectors - start);
    free(buf);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "plan") == 0) {
        unsigned long depth = strtoul(argv[2], NULL, 10);
        if (depth >= 1 && depth <= DEPTH_MAX)
            return cmd_plan((unsigned)depth);
    } else if (argc == 4 && strcmp(argv[1], "fill") == 0) {
        return cmd_fill(argv[2], strtoull(argv[3], NULL, 10));
    } else if (argc == 3 && strcmp(argv[1], "scan") == 0) {
        return cmd_scan(argv[2]);
    }
    fprintf(stderr, "usage: blkio plan DEPTH | fill PATH TAG | scan PATH\n");
    return 2;
}
