/* SPDX-License-Identifier: Apache-2.0 */
/* Opening files and block devices, and what their file systems refuse, with both
 * engines that have a kernel below them. */
#include "tests/lib/cm.h"

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/io/blk_priv.h"
#include "tests/lib/tmpdir.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static bool use_uring;
static struct tmpdir dir;
static char path[TMPDIR_FILE_BYTES];
static struct blk_engine *engine;
static _Alignas(4096) uint8_t data[65536];
static _Alignas(4096) uint8_t back[65536];

static int make_engine(struct blk_engine **ret)
{
    return use_uring ? blk_engine_new_uring(16, ret, NULL) : blk_engine_new_threads(2, ret, NULL);
}

/* For a case that forks: a child of a process with threads may not have its own. */
static int setup_without_engine(void **state)
{
    (void)state;
    (void)alarm(60); /* what hangs has failed */
    tmpdir_make(&dir);
    (void)tmpdir_file(&dir, "disk", path);
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i % 251 + 1);
    memset(back, 0, sizeof back);
    engine = NULL;
    return 0;
}

static int setup(void **state)
{
    return setup_without_engine(state) == 0 ? make_engine(&engine) : -1;
}

static int teardown(void **state)
{
    (void)state;
    tmpdir_remove(&dir);
    if (engine != NULL && engine->devices > 0)
        return 0; /* a case that failed left it open: tell of that one, do not stop here */
    blk_engine_free(engine);
    return 0;
}

static struct blk_dev *open_ok(const char *at, unsigned flags)
{
    struct blk_dev *d = NULL;
    struct err err = ERR_INIT;

    if (blk_open(engine, at, flags, &d, &err) != 0)
        fail_msg("%s", err.text);
    return d;
}

/* The code that opening fails with. */
static int open_code(const char *at, unsigned flags)
{
    struct blk_dev *d = NULL;
    struct err err = ERR_INIT;
    int r = blk_open(engine, at, flags, &d, &err);

    assert_int_not_equal(r, 0);
    assert_null(d);
    assert_non_null(strstr(err.text, at));
    return r;
}

static void make_file(off_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    assert_int_equal(pwrite(fd, data, (size_t)(size < 4096 ? size : 4096), 0),
                     size < 4096 ? size : 4096);
    (void)close(fd);
}

/* -- opening ------------------------------------------------------------------------- */

static void create__refuses_what_is_there(void **state)
{
    struct blk_dev *d;
    struct stat st;

    (void)state;
    d = open_ok(path, BLK_OPEN_CREATE);
    assert_int_equal(blk_dev_info(d)->size_bytes, 0);
    assert_string_equal(blk_dev_info(d)->name, path);
    assert_true(blk_dev_info(d)->can_grow);
    assert_false(blk_dev_info(d)->is_block);
    blk_dev_close(d);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(open_code(path, BLK_OPEN_CREATE), SNAP_EEXIST);
    assert_int_equal(open_code(path, BLK_OPEN_CREATE | BLK_OPEN_READ_ONLY), SNAP_EINVAL);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(open_code(path, 0), SNAP_ENOENT);
}

static void open__refuses_what_is_no_disk(void **state)
{
    char fifo[TMPDIR_FILE_BYTES];

    (void)state;
    assert_int_equal(open_code(dir.path, 0), SNAP_EINVAL);
    assert_int_equal(open_code(dir.path, BLK_OPEN_READ_ONLY), SNAP_EINVAL);
    assert_int_equal(open_code("/dev/null", 0), SNAP_EINVAL);
    assert_int_equal(mkfifo(tmpdir_file(&dir, "fifo", fifo), 0600), 0);
    assert_int_equal(open_code(fifo, BLK_OPEN_READ_ONLY), SNAP_EINVAL); /* and does not hang */
    assert_int_equal(open_code(fifo, 0), SNAP_EINVAL);
}

static void exclusive__second_opener_is_refused(void **state)
{
    struct blk_dev *first;
    struct blk_dev *second;

    (void)state;
    make_file(65536);
    first = open_ok(path, BLK_OPEN_EXCLUSIVE);
    assert_int_equal(open_code(path, BLK_OPEN_EXCLUSIVE), SNAP_EBUSY);
    assert_int_equal(open_code(path, BLK_OPEN_EXCLUSIVE | BLK_OPEN_READ_ONLY), SNAP_EBUSY);
    second = open_ok(path, BLK_OPEN_READ_ONLY); /* without asking for it, it may look */
    blk_dev_close(second);
    blk_dev_close(first);
    second = open_ok(path, BLK_OPEN_EXCLUSIVE);
    blk_dev_close(second);
}

static void exclusive__readers_keep_writers_out(void **state)
{
    struct blk_dev *a;
    struct blk_dev *b;

    (void)state;
    make_file(65536);
    a = open_ok(path, BLK_OPEN_EXCLUSIVE | BLK_OPEN_READ_ONLY);
    b = open_ok(path, BLK_OPEN_EXCLUSIVE | BLK_OPEN_READ_ONLY);
    assert_int_equal(open_code(path, BLK_OPEN_EXCLUSIVE), SNAP_EBUSY);
    blk_dev_close(a);
    blk_dev_close(b);
}

static void exclusive__failed_create_leaves_the_file_of_another(void **state)
{
    struct blk_dev *d;

    (void)state;
    make_file(4096);
    assert_int_equal(open_code(path, BLK_OPEN_CREATE | BLK_OPEN_EXCLUSIVE), SNAP_EEXIST);
    d = open_ok(path, 0);
    assert_int_equal(blk_dev_info(d)->size_bytes, 4096);
    blk_dev_close(d);
}

static void read_only__takes_no_change(void **state)
{
    struct blk_dev *d;
    struct err err = ERR_INIT;

    (void)state;
    make_file(65536);
    assert_int_equal(chmod(path, 0400), 0);
    d = open_ok(path, BLK_OPEN_READ_ONLY);
    assert_true(blk_dev_info(d)->read_only);
    assert_false(blk_dev_info(d)->can_grow);
    assert_int_equal(blk_read_sync(d, 0, back, 4096, NULL), 0);
    assert_memory_equal(back, data, 4096);
    assert_int_equal(blk_write_sync(d, 0, data, 4096, &err), SNAP_EPERM);
    assert_int_equal(blk_zero_sync(d, 0, 4096, NULL), SNAP_EPERM);
    assert_int_equal(blk_grow_sync(d, 131072, NULL), SNAP_EPERM);
    assert_int_equal(blk_flush_sync(d, NULL), 0);
    blk_dev_close(d);
}

/* -- sizes ---------------------------------------------------------------------------- */

static void odd_size__every_whole_sector_can_be_reached(void **state)
{
    struct blk_dev *d;

    (void)state;
    make_file(5 * 512 + 100);
    d = open_ok(path, 0);
    assert_int_equal(blk_dev_info(d)->size_bytes, 5 * 512);
    assert_int_equal(blk_dev_info(d)->align_bytes, 512);
    assert_int_equal(blk_read_sync(d, 4 * 512, back, 512, NULL), 0);
    assert_memory_equal(back, data + 4 * 512, 512);
    assert_int_equal(blk_grow_sync(d, 65536, NULL), 0);
    assert_int_equal(blk_dev_info(d)->size_bytes, 65536);
    assert_int_equal(blk_read_sync(d, 5 * 512, back, 512, NULL), 0);
    assert_memory_equal(back, data + 5 * 512, 100); /* the tail was not cut off */
    assert_true(bytes_are_zero(back + 100, 412));
    blk_dev_close(d);
}

static void buffered__sectors_of_512(void **state)
{
    struct blk_dev *d = open_ok(path, BLK_OPEN_CREATE | BLK_OPEN_BUFFERED);

    (void)state;
    assert_int_equal(blk_dev_info(d)->align_bytes, 512);
    assert_int_equal(blk_grow_sync(d, 3 * 512, NULL), 0);
    assert_int_equal(blk_write_sync(d, 512, data + 512, 512, NULL), 0);
    assert_int_equal(blk_flush_sync(d, NULL), 0);
    assert_int_equal(blk_read_sync(d, 0, back, 3 * 512, NULL), 0);
    assert_true(bytes_are_zero(back, 512) && bytes_are_zero(back + 1024, 512));
    assert_memory_equal(back + 512, data + 512, 512);
    blk_dev_close(d);
}

static blkcnt_t blocks(void)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_blocks;
}

static void grow__allocates_space(void **state)
{
    struct blk_dev *d = open_ok(path, BLK_OPEN_CREATE);
    struct stat st;

    (void)state;
    assert_int_equal(blk_grow_sync(d, MIB, NULL), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, MIB);
    assert_true(blocks() >= (blkcnt_t)(MIB / 512));
    blk_dev_close(d);
}

static void zero__keeps_space(void **state)
{
    struct blk_dev *d = open_ok(path, BLK_OPEN_CREATE);

    (void)state;
    assert_int_equal(blk_grow_sync(d, MIB, NULL), 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    const bool can = fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096) == 0;
    (void)close(fd);
    if (!can) {
        printf("SKIPPED: %s: a file system without FALLOC_FL_ZERO_RANGE, such as tmpfs\n", path);
        blk_dev_close(d);
        skip();
    }
    assert_int_equal(blk_zero_sync(d, 0, MIB, NULL), 0);
    assert_true(blocks() >= (blkcnt_t)(MIB / 512));
    blk_dev_close(d);
}

static void truncated_behind_our_back__is_an_error_not_a_hang(void **state)
{
    struct blk_dev *d;

    (void)state;
    make_file(65536);
    d = open_ok(path, 0);
    assert_int_equal(truncate(path, 4096), 0);
    assert_int_equal(blk_read_sync(d, 0, back, 65536, NULL), SNAP_EIO);
    assert_int_equal(blk_read_sync(d, 8192, back, 4096, NULL), SNAP_EIO);
    assert_int_equal(blk_read_sync(d, 0, back, 4096, NULL), 0);
    blk_dev_close(d);
}

/* A write behind the new end makes the file long again, with zeros in between. */
static void cut_short__what_is_ours_alone_fails_until_it_is_opened_again(void **state)
{
    enum { BY_A_READ, BY_A_FLUSH, BY_A_GROW, WAYS };

    (void)state;
    for (int way = 0; way < WAYS; way++) {
        make_file(65536);
        struct blk_dev *d = open_ok(path, BLK_OPEN_EXCLUSIVE);
        assert_int_equal(blk_write_sync(d, 0, data, 65536, NULL), 0);
        assert_int_equal(blk_flush_sync(d, NULL), 0);
        assert_int_equal(truncate(path, 0), 0);
        if (way == BY_A_READ)
            assert_int_equal(blk_read_sync(d, 8192, back, 4096, NULL), SNAP_EIO);
        else
            assert_int_equal(blk_write_sync(d, 32768, data, 4096, NULL), 0);
        if (way == BY_A_GROW)
            assert_int_equal(blk_grow_sync(d, 131072, NULL), SNAP_EIO);
        if (way != BY_A_FLUSH)
            assert_int_equal(blk_write_sync(d, 32768, data, 4096, NULL), SNAP_EIO);
        assert_int_equal(blk_flush_sync(d, NULL), SNAP_EIO);
        assert_int_equal(blk_read_sync(d, 8192, back, 4096, NULL), SNAP_EIO);
        blk_dev_close(d);
        d = open_ok(path, BLK_OPEN_EXCLUSIVE);
        assert_int_equal(blk_flush_sync(d, NULL), 0);
        blk_dev_close(d);
    }
}

/* -- refusals from below ------------------------------------------------------------------ */

static void file_size_limit__reads_as_no_space(void **state)
{
    struct rlimit before;
    struct blk_dev *d = open_ok(path, BLK_OPEN_CREATE);
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(blk_grow_sync(d, 65536, NULL), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit low = {.rlim_cur = 131072, .rlim_max = before.rlim_max};
    sighandler_t old = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    int r = blk_grow_sync(d, 262144, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, old);
    assert_int_equal(r, SNAP_ENOSPC);
    assert_int_equal(err.sys_errno, EFBIG);
    assert_int_equal(blk_dev_info(d)->size_bytes, 65536);
    assert_int_equal(blk_grow_sync(d, 262144, NULL), 0);
    blk_dev_close(d);
}

/* In a process that may not have a further thread, which only another user than root is held to.
 * 0, or what failed. */
static int use_without_threads(struct blk_dev *d)
{
    const struct rlimit none = {.rlim_cur = 0, .rlim_max = 0};

    if (setrlimit(RLIMIT_NPROC, &none) != 0 || setresuid(61234, 61234, 61234) != 0)
        return SNAP_EPERM;
    for (unsigned i = 0; i < 4; i++) {
        int r = blk_write_sync(d, 8192, data, 4096, NULL);
        if (r == 0)
            r = blk_flush_sync(d, NULL);
        if (r == 0)
            r = blk_grow_sync(d, 131072 + i * 65536, NULL);
        if (r == 0)
            r = blk_zero_sync(d, 0, 4096, NULL);
        if (r != 0)
            return r;
    }
    return blk_read_sync(d, 8192, back, 4096, NULL);
}

static void process_limit__is_no_failure_of_the_disk(void **state)
{
    int status;

    (void)state;
    if (!use_uring || geteuid() != 0)
        skip();
    make_file(65536);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct blk_dev *d = NULL;
        int r = make_engine(&engine);
        if (r == 0)
            r = blk_open(engine, path, BLK_OPEN_EXCLUSIVE, &d, NULL);
        _exit(r == 0 ? -use_without_threads(d) : 99);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static bool write_text(const char *at, const char *text)
{
    int fd = open(at, O_WRONLY | O_CLOEXEC);
    ssize_t len = (ssize_t)strlen(text);
    bool ok = fd >= 0 && write(fd, text, (size_t)len) == len;

    if (fd >= 0)
        (void)close(fd);
    return ok;
}

/* In a child: a tiny file system of its own over the test's folder. */
static bool mount_tiny(void)
{
    char uids[64];
    char gids[64];

    (void)snprintf(uids, sizeof uids, "0 %u 1", (unsigned)getuid());
    (void)snprintf(gids, sizeof gids, "0 %u 1", (unsigned)getgid());
    if (unshare(CLONE_NEWNS) != 0 &&
        (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0 || !write_text("/proc/self/setgroups", "deny") ||
         !write_text("/proc/self/uid_map", uids) || !write_text("/proc/self/gid_map", gids)))
        return false;
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("tiny", dir.path, "tmpfs", 0, "size=256k") == 0;
}

enum { CHILD_OK = 0, CHILD_SKIP = 77 };

/* Which step went wrong, CHILD_OK, or CHILD_SKIP. */
static int fill_tiny(void)
{
    struct blk_engine *e = NULL;
    struct blk_dev *d = NULL;

    if (!mount_tiny())
        return CHILD_SKIP;
    if (make_engine(&e) != 0)
        return 1;
    if (blk_open(e, path, BLK_OPEN_CREATE | BLK_OPEN_EXCLUSIVE, &d, NULL) != 0)
        return 2;
    if (blk_grow_sync(d, 131072, NULL) != 0)
        return 3;
    if (blk_grow_sync(d, MIB, NULL) != SNAP_ENOSPC || blk_dev_info(d)->size_bytes != 131072)
        return 4;
    if (blk_write_sync(d, 0, data, 65536, NULL) != 0 || blk_grow_sync(d, 196608, NULL) != 0)
        return 5;
    blk_dev_close(d);
    if (truncate(path, (off_t)MIB) != 0 || blk_open(e, path, 0, &d, NULL) != 0)
        return 6;
    int r = 0;
    for (uint64_t at = 0; r == 0 && at < MIB; at += sizeof data)
        r = blk_write_sync(d, at, data, sizeof data, NULL);
    if (r != SNAP_ENOSPC)
        return 7;
    if (blk_read_sync(d, 65536, back, sizeof back, NULL) != 0 ||
        memcmp(data, back, sizeof data) != 0)
        return 8;
    blk_dev_close(d);
    blk_engine_free(e);
    return CHILD_OK;
}

static void full_file_system__is_no_space_and_keeps_what_it_has(void **state)
{
    int status;

    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)alarm(30);
        _exit(fill_tiny());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == CHILD_SKIP) {
        printf("SKIPPED: no right to mount a file system, not even in a name space\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), CHILD_OK);
}

/* A file system without ZERO_RANGE, and on older kernels without O_DIRECT. */
static void tmpfs__does_it_all(void **state)
{
    char at[] = "/dev/shm/snapwire-test-XXXXXX";
    struct blk_dev *d;

    (void)state;
    int fd = mkstemp(at);
    if (fd < 0) {
        printf("SKIPPED: no /dev/shm to write to\n");
        skip();
    }
    assert_int_equal(ftruncate(fd, 5 * 512), 0); /* less than O_DIRECT may want */
    (void)close(fd);
    d = open_ok(at, BLK_OPEN_EXCLUSIVE);
    assert_int_equal(blk_dev_info(d)->size_bytes, 5 * 512);
    assert_int_equal(blk_read_sync(d, 4 * 512, back, 512, NULL), 0);
    assert_int_equal(blk_grow_sync(d, 65536, NULL), 0);
    blk_dev_close(d);
    d = open_ok(at, BLK_OPEN_EXCLUSIVE);
    assert_int_equal(unlink(at), 0);
    assert_int_equal(blk_grow_sync(d, MIB, NULL), 0);
    assert_int_equal(blk_write_sync(d, 0, data, 65536, NULL), 0);
    assert_int_equal(blk_zero_sync(d, 4096, 8192, NULL), 0);
    assert_int_equal(blk_flush_sync(d, NULL), 0);
    assert_int_equal(blk_read_sync(d, 0, back, 65536, NULL), 0);
    assert_memory_equal(back, data, 4096);
    assert_true(bytes_are_zero(back + 4096, 8192));
    assert_memory_equal(back + 12288, data + 12288, 65536 - 12288);
    blk_dev_close(d);
}

/* -- block devices ----------------------------------------------------------------------- */

/* A loop device over `path`, gone when the descriptor is closed; skips without the right. */
static int attach_loop(char *ret_name, size_t name_bytes)
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int n = control >= 0 ? ioctl(control, LOOP_CTL_GET_FREE) : -1;

    if (control >= 0)
        (void)close(control);
    (void)snprintf(ret_name, name_bytes, "/dev/loop%d", n);
    int loop = n >= 0 ? open(ret_name, O_RDWR | O_CLOEXEC) : -1;
    int file = open(path, O_RDWR | O_CLOEXEC);
    assert_true(file >= 0);
    struct loop_config config = {
        .fd = (uint32_t)file, .block_size = 4096, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
    bool attached = loop >= 0 && ioctl(loop, LOOP_CONFIGURE, &config) == 0;
    (void)close(file);
    if (!attached) {
        if (loop >= 0)
            (void)close(loop);
        printf("SKIPPED: no right to attach a loop device\n");
        skip();
    }
    return loop;
}

static void block_device__size_alignment_and_exclusion(void **state)
{
    char name[64];
    struct blk_dev *d;

    (void)state;
    make_file(MIB);
    int loop = attach_loop(name, sizeof name);
    d = open_ok(name, BLK_OPEN_EXCLUSIVE);
    const struct blk_info *info = blk_dev_info(d);
    assert_true(info->is_block);
    assert_false(info->can_grow);
    assert_int_equal(info->size_bytes, MIB);
    assert_int_equal(info->align_bytes, 4096);
    assert_int_equal(open_code(name, BLK_OPEN_EXCLUSIVE), SNAP_EBUSY);
    assert_int_equal(blk_grow_sync(d, 2 * MIB, NULL), SNAP_ENOTSUP);
    assert_int_equal(blk_write_sync(d, MIB - 65536, data, 65536, NULL), 0);
    assert_int_equal(blk_zero_sync(d, MIB - 61440, 8192, NULL), 0);
    assert_int_equal(blk_flush_sync(d, NULL), 0);
    assert_int_equal(blk_read_sync(d, MIB - 65536, back, 65536, NULL), 0);
    assert_memory_equal(back, data, 4096);
    assert_true(bytes_are_zero(back + 4096, 8192));
    assert_memory_equal(back + 12288, data + 12288, 65536 - 12288);
    assert_int_equal(blk_dev_next_data(d, 4096), 4096); /* it cannot tell: all is data */
    assert_int_equal(blk_dev_next_hole(d, 4096), MIB);
    blk_dev_close(d);
    (void)close(loop);
}

static int run_all(const char *name)
{
    const struct CMUnitTest tests[] = {
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        CASE(create__refuses_what_is_there),
        CASE(open__refuses_what_is_no_disk),
        CASE(exclusive__second_opener_is_refused),
        CASE(exclusive__readers_keep_writers_out),
        CASE(exclusive__failed_create_leaves_the_file_of_another),
        CASE(read_only__takes_no_change),
        CASE(odd_size__every_whole_sector_can_be_reached),
        CASE(buffered__sectors_of_512),
        CASE(grow__allocates_space),
        CASE(zero__keeps_space),
        CASE(truncated_behind_our_back__is_an_error_not_a_hang),
        CASE(cut_short__what_is_ours_alone_fails_until_it_is_opened_again),
        CASE(file_size_limit__reads_as_no_space),
        cmocka_unit_test_setup_teardown(process_limit__is_no_failure_of_the_disk,
                                        setup_without_engine, teardown),
        CASE(tmpfs__does_it_all),
        CASE(block_device__size_alignment_and_exclusion),
        cmocka_unit_test_setup_teardown(full_file_system__is_no_space_and_keeps_what_it_has,
                                        setup_without_engine, teardown),
#undef CASE
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void)
{
    struct blk_engine *probe;
    int failed = 0;

    if (blk_engine_new_uring(4, &probe, NULL) == 0) {
        blk_engine_free(probe);
        use_uring = true;
        failed = run_all("io_uring");
    } else {
        printf("SKIPPED: the kernel refuses io_uring here\n");
    }
    use_uring = false;
    return failed + run_all("threads");
}
