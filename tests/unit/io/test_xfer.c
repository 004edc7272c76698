/* SPDX-License-Identifier: Apache-2.0 */
/* A request as a row of system calls, with the kernel's answers played by the test:
 * what a real disk says too seldom. */
#include "tests/lib/cm.h"

#include "common/base/bytes.h"
#include "common/io/xfer.h"
#include "tests/lib/tmpdir.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct file_dev dev;
static _Alignas(4096) uint8_t data[65536];

static int setup(void **state)
{
    (void)state;
    dev = (struct file_dev){
        .base.info = {.size_bytes = 1 << 20, .align_bytes = 512, .can_grow = true},
        .fd = -1,
        .direct = true,
        .file_size_bytes = 1 << 20};
    return 0;
}

static struct blk_req request(enum blk_op op, uint64_t offset, uint64_t len)
{
    return (struct blk_req){
        .op = op, .dev = &dev.base, .offset_bytes = offset, .len_bytes = len, .data = data};
}

static void expect_move(struct blk_req *req, enum xfer_kind kind, uint64_t offset, const void *base,
                        size_t len, unsigned count)
{
    struct xfer_call call;

    xfer_next(req, &call);
    assert_int_equal(call.kind, kind);
    assert_int_equal(call.offset_bytes, offset);
    assert_int_equal(call.iov_count, count);
    assert_ptr_equal(call.iov[0].iov_base, base);
    assert_int_equal(call.iov[0].iov_len, len);
}

static void expect_fallocate(struct blk_req *req, int mode, uint64_t offset, uint64_t len)
{
    struct xfer_call call;

    xfer_next(req, &call);
    assert_int_equal(call.kind, XFER_FALLOCATE);
    assert_int_equal(call.mode, mode);
    assert_int_equal(call.offset_bytes, offset);
    assert_int_equal(call.len_bytes, len);
}

static void expect_sync(struct blk_req *req)
{
    struct xfer_call call;

    xfer_next(req, &call);
    assert_int_equal(call.kind, XFER_DATASYNC);
}

static void short_transfer__goes_on_where_it_stopped(void **state)
{
    struct blk_req req = request(BLK_READ, 4096, 8192);

    (void)state;
    xfer_begin(&req);
    expect_move(&req, XFER_READ, 4096, data, 8192, 1);
    assert_false(xfer_advance(&req, 512));
    expect_move(&req, XFER_READ, 4608, data + 512, 7680, 1);
    assert_false(xfer_advance(&req, 7168));
    expect_move(&req, XFER_READ, 11776, data + 7680, 512, 1);
    assert_true(xfer_advance(&req, 512));
    assert_int_equal(req.result, 0);
}

static void short_transfer__inside_and_between_vectors(void **state)
{
    struct iovec iov[] = {{data, 1024}, {data + 8192, 2048}, {data + 16384, 512}};
    struct blk_req req = request(BLK_WRITE, 0, 3584);

    (void)state;
    req.iov = iov;
    req.iov_count = 3;
    xfer_begin(&req);
    expect_move(&req, XFER_WRITE, 0, data, 1024, 3);
    assert_false(xfer_advance(&req, 1024)); /* at a boundary: the rest as it is */
    expect_move(&req, XFER_WRITE, 1024, data + 8192, 2048, 2);
    assert_false(xfer_advance(&req, 512)); /* inside: the rest of that one alone */
    expect_move(&req, XFER_WRITE, 1536, data + 8704, 1536, 1);
    assert_false(xfer_advance(&req, 1536));
    expect_move(&req, XFER_WRITE, 3072, data + 16384, 512, 1);
    assert_true(xfer_advance(&req, 512));
    assert_int_equal(req.result, 0);
    assert_int_equal(iov[1].iov_len, 2048); /* the caller's, untouched */
}

static void short_transfer__with_o_direct_from_the_blocks_start(void **state)
{
    struct blk_req req = request(BLK_READ, 0, 4096);

    (void)state;
    xfer_begin(&req);
    assert_false(xfer_advance(&req, 700));
    expect_move(&req, XFER_READ, 512, data + 512, 3584, 1);
    assert_true(xfer_advance(&req, 100)); /* no headway: not again and again */
    assert_int_equal(req.result, SNAP_EIO);
    dev.direct = false;
    req = request(BLK_READ, 0, 4096);
    xfer_begin(&req);
    assert_false(xfer_advance(&req, 700));
    expect_move(&req, XFER_READ, 700, data + 700, 3396, 1);
}

static void end_of_file__inside_the_device_is_an_error(void **state)
{
    struct blk_req req = request(BLK_READ, 0, 4096);

    (void)state;
    xfer_begin(&req);
    assert_false(xfer_advance(&req, 1024));
    assert_true(xfer_advance(&req, 0));
    assert_int_equal(req.result, SNAP_EIO);
    assert_int_equal(req.sys_errno, EIO);
}

static void huge_transfer__goes_in_aligned_parts(void **state)
{
    const size_t len = (size_t)3 << 30;
    const size_t part = (size_t)1 << 30;
    struct blk_req req = request(BLK_READ, 0, len);
    uint8_t *huge = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)state;
    assert_true(huge != MAP_FAILED);
    req.data = huge;
    xfer_begin(&req);
    expect_move(&req, XFER_READ, 0, huge, part, 1);
    assert_false(xfer_advance(&req, (int64_t)part));
    expect_move(&req, XFER_READ, part, huge + part, part, 1);
    assert_int_equal(munmap(huge, len), 0);
}

static void interrupted__is_repeated_but_not_for_ever(void **state)
{
    struct blk_req req = request(BLK_WRITE, 0, 4096);
    unsigned repeats = 0;

    (void)state;
    xfer_begin(&req);
    assert_false(xfer_advance(&req, -EINTR));
    expect_move(&req, XFER_WRITE, 0, data, 4096, 1);
    assert_true(xfer_advance(&req, 4096));
    assert_int_equal(req.result, 0);
    xfer_begin(&req);
    req.progress_bytes = 0;
    while (!xfer_advance(&req, -EAGAIN))
        assert_true(++repeats < 1000000);
    assert_int_not_equal(req.result, 0);
    assert_int_equal(req.sys_errno, EAGAIN);
}

static void errors__become_codes(void **state)
{
    static const struct {
        int sys_errno;
        int code;
    } table[] = {
        {EIO, SNAP_EIO}, {ENOSPC, SNAP_ENOSPC}, {EDQUOT, SNAP_ENOSPC}, {EFBIG, SNAP_ENOSPC}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct blk_req req = request(BLK_WRITE, 0, 4096);
        xfer_begin(&req);
        assert_true(xfer_advance(&req, -table[i].sys_errno));
        assert_int_equal(req.result, table[i].code);
        assert_int_equal(req.sys_errno, table[i].sys_errno);
    }
}

static void fua__is_dsync_on_every_part(void **state)
{
    struct blk_req req = request(BLK_WRITE, 0, 8192);
    struct xfer_call call;

    (void)state;
    req.flags = BLK_FUA;
    xfer_begin(&req);
    xfer_next(&req, &call);
    assert_int_equal(call.mode, RWF_DSYNC);
    assert_false(xfer_advance(&req, 4096));
    xfer_next(&req, &call);
    assert_int_equal(call.mode, RWF_DSYNC);
    assert_true(xfer_advance(&req, 4096));
}

/* Runs it until it ends: the moving returns `moved`, the flush, if it is one, `synced`. */
static struct blk_req run_fua(enum blk_op op, bool direct, int64_t moved, int64_t synced)
{
    struct blk_req req = request(op, 0, 4096);
    struct xfer_call call;
    bool over = false;

    dev.direct = direct;
    req.flags = BLK_FUA;
    xfer_begin(&req);
    for (unsigned i = 0; i < 4 && !over; i++) {
        xfer_next(&req, &call);
        assert_true(call.kind != XFER_WRITE || op == BLK_ZERO ||
                    call.mode == (direct ? RWF_DSYNC : 0));
        int64_t done = call.kind == XFER_WRITE ? (int64_t)call.iov->iov_len : 0;
        over = xfer_advance(&req, call.kind == XFER_DATASYNC ? synced : moved != 0 ? moved : done);
    }
    assert_true(over);
    xfer_settle(&req);
    return req;
}

static void fua__that_was_refused_is_told_from_a_failed_flush(void **state)
{
    static const struct {
        enum blk_op op;
        bool direct;
        int moved, synced;
        bool refused;
    } table[] = {
        {BLK_WRITE, true, -ENOSPC, 0, true}, /* O_DIRECT: nothing of ours waits for its room */
        {BLK_WRITE, true, -EFBIG, 0, true},
        {BLK_WRITE, true, -EIO, 0, false}, /* the write or the flush in it: nobody knows */
        {BLK_WRITE, false, -ENOSPC, 0, true},
        {BLK_WRITE, false, -EIO, 0, true},
        {BLK_WRITE, false, 0, -ENOSPC, false}, /* the page cache found no room for what it had */
        {BLK_WRITE, false, 0, -EIO, false},
        {BLK_ZERO, true, -ENOSPC, 0, true},
        {BLK_ZERO, true, 0, -ENOSPC, false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct blk_req req = run_fua(table[i].op, table[i].direct, table[i].moved, table[i].synced);
        assert_int_not_equal(req.result, 0);
        assert_int_equal(req.refused, table[i].refused);
    }
    assert_int_equal(run_fua(BLK_WRITE, true, 0, -EIO).result, 0); /* one call */
    struct blk_req plain = request(BLK_WRITE, 0, 4096);
    xfer_begin(&plain);
    assert_true(xfer_advance(&plain, -ENOSPC));
    assert_false(plain.refused);
}

static void flush__is_one_datasync(void **state)
{
    struct blk_req req = request(BLK_FLUSH, 0, 0);

    (void)state;
    xfer_begin(&req);
    expect_sync(&req);
    assert_true(xfer_advance(&req, 0));
    assert_int_equal(req.result, 0);
    xfer_begin(&req);
    assert_true(xfer_advance(&req, -EIO));
    assert_int_equal(req.result, SNAP_EIO);
}

static void zero__falls_back_to_punching_then_to_writing(void **state)
{
    struct blk_req req = request(BLK_ZERO, 4096, 300 * 1024);
    struct xfer_call call;

    (void)state;
    req.flags = BLK_FUA;
    xfer_begin(&req);
    expect_fallocate(&req, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 4096, 300 * 1024);
    assert_false(xfer_advance(&req, -EOPNOTSUPP));
    expect_fallocate(&req, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 300 * 1024);
    assert_false(xfer_advance(&req, -EOPNOTSUPP));
    xfer_next(&req, &call);
    assert_int_equal(call.kind, XFER_WRITE);
    assert_int_equal(call.offset_bytes, 4096);
    assert_int_equal(call.iov->iov_len, 256 * 1024);
    assert_true(bytes_are_zero(call.iov->iov_base, call.iov->iov_len));
    assert_false(xfer_advance(&req, 256 * 1024));
    xfer_next(&req, &call);
    assert_int_equal(call.iov->iov_len, 44 * 1024);
    assert_false(xfer_advance(&req, 44 * 1024));
    expect_sync(&req);
    assert_true(xfer_advance(&req, 0));
    assert_int_equal(req.result, 0);

    /* what was refused once is not tried again */
    req = request(BLK_ZERO, 0, 4096);
    xfer_begin(&req);
    xfer_next(&req, &call);
    assert_int_equal(call.kind, XFER_WRITE);
    assert_true(xfer_advance(&req, 4096));
    assert_int_equal(req.result, 0);
}

static void zero__real_error_is_reported(void **state)
{
    struct blk_req req = request(BLK_ZERO, 0, 4096);

    (void)state;
    xfer_begin(&req);
    assert_true(xfer_advance(&req, -ENOSPC));
    assert_int_equal(req.result, SNAP_ENOSPC);
    req = request(BLK_ZERO, 0, 4096);
    req.flags = BLK_FUA;
    xfer_begin(&req);
    assert_false(xfer_advance(&req, 0));
    expect_sync(&req);
    assert_true(xfer_advance(&req, -EIO));
    assert_int_equal(req.result, SNAP_EIO);
}

static void discard__hides_errors(void **state)
{
    struct blk_req req = request(BLK_DISCARD, 0, 4096);

    (void)state;
    xfer_begin(&req);
    expect_fallocate(&req, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096);
    assert_true(xfer_advance(&req, -EOPNOTSUPP));
    assert_int_equal(req.result, 0);
}

static void grow__allocates_from_the_old_end(void **state)
{
    struct blk_req req = request(BLK_GROW, 3 << 20, 0);

    (void)state;
    xfer_begin(&req);
    expect_fallocate(&req, 0, 1 << 20, 2 << 20);
    assert_true(xfer_advance(&req, 0));
    assert_int_equal(dev.base.info.size_bytes, 1 << 20);
    xfer_settle(&req);
    assert_int_equal(dev.base.info.size_bytes, 3 << 20);

    req = request(BLK_GROW, 4 << 20, 0);
    xfer_begin(&req);
    assert_true(xfer_advance(&req, -ENOSPC));
    xfer_settle(&req);
    assert_int_equal(req.result, SNAP_ENOSPC);
    assert_int_equal(dev.base.info.size_bytes, 3 << 20);
}

static void grow__without_fallocate_makes_the_file_longer(void **state)
{
    struct blk_req req = request(BLK_GROW, 3 << 20, 0);
    struct tmpdir dir;
    char path[TMPDIR_FILE_BYTES];
    struct stat st;

    (void)state;
    tmpdir_make(&dir);
    dev.fd = open(tmpdir_file(&dir, "f", path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(dev.fd >= 0);
    xfer_begin(&req);
    assert_true(xfer_advance(&req, -EOPNOTSUPP));
    assert_int_equal(req.result, 0);
    assert_int_equal(fstat(dev.fd, &st), 0);
    assert_int_equal(st.st_size, 3 << 20);
    req = request(BLK_GROW, 2 << 20, 0); /* a smaller one behind it does not shrink it */
    xfer_begin(&req);
    assert_true(xfer_advance(&req, -EOPNOTSUPP));
    assert_int_equal(fstat(dev.fd, &st), 0);
    assert_int_equal(st.st_size, 3 << 20);
    (void)close(dev.fd);
    tmpdir_remove(&dir);
}

static void grow__that_failed_gives_back_what_it_took(void **state)
{
    struct blk_req first = request(BLK_GROW, 3 << 20, 0);
    struct blk_req second = request(BLK_GROW, 4 << 20, 0);
    struct tmpdir dir;
    char path[TMPDIR_FILE_BYTES];
    struct stat st;

    (void)state;
    tmpdir_make(&dir);
    dev.fd = open(tmpdir_file(&dir, "f", path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(dev.fd >= 0);
    assert_int_equal(ftruncate(dev.fd, 2 << 20), 0); /* as far as the space went */
    dev.exclusive = true;
    xfer_begin(&first);
    xfer_begin(&second);
    assert_true(xfer_advance(&first, -ENOSPC));
    xfer_settle(&first);
    assert_int_equal(fstat(dev.fd, &st), 0);
    assert_int_equal(st.st_size, 2 << 20); /* another one is still at it */
    assert_true(xfer_advance(&second, -ENOSPC));
    dev.exclusive = false;
    dev.grows = 2;
    xfer_settle(&second);
    dev.grows = 1;
    xfer_settle(&second);
    assert_int_equal(fstat(dev.fd, &st), 0);
    assert_int_equal(st.st_size, 2 << 20); /* somebody else's file */
    dev.exclusive = true;
    dev.grows = 1;
    xfer_settle(&second);
    assert_int_equal(fstat(dev.fd, &st), 0);
    assert_int_equal(st.st_size, 1 << 20);
    (void)close(dev.fd);
    tmpdir_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define CASE(f) cmocka_unit_test_setup(f, setup)
        CASE(short_transfer__goes_on_where_it_stopped),
        CASE(short_transfer__inside_and_between_vectors),
        CASE(short_transfer__with_o_direct_from_the_blocks_start),
        CASE(end_of_file__inside_the_device_is_an_error),
        CASE(huge_transfer__goes_in_aligned_parts),
        CASE(interrupted__is_repeated_but_not_for_ever),
        CASE(errors__become_codes),
        CASE(fua__is_dsync_on_every_part),
        CASE(fua__that_was_refused_is_told_from_a_failed_flush),
        CASE(flush__is_one_datasync),
        CASE(zero__falls_back_to_punching_then_to_writing),
        CASE(zero__real_error_is_reported),
        CASE(discard__hides_errors),
        CASE(grow__allocates_from_the_old_end),
        CASE(grow__without_fallocate_makes_the_file_longer),
        CASE(grow__that_failed_gives_back_what_it_took),
#undef CASE
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
