/* SPDX-License-Identifier: Apache-2.0 */
/* A file is read where its data stands, a pipe as it comes: without waiting for it, since the
 * connection to the daemon must go on living meanwhile.
 */
#include "client/snapctl/import_source.h"

#include "common/base/bytes.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

enum {
    STARVED_MS = 10,
    END_MS = 1000, /* what comes after the expected end is waited for no longer */
    AHEAD_BYTES = 4 * 1024 * 1024,
};

int import_source_open(const char *path, struct import_source *ret, struct err *reterr)
{
    struct stat st;
    ret->name = path;
    ret->seekable = true;
    if (strcmp(path, "-") != 0)
        return origin_open(path, false, &ret->origin, reterr);
    ret->name = "standard input";
    if (isatty(STDIN_FILENO))
        return err_set(reterr, SNAP_EINVAL,
                       "will not read a disk from a terminal; name a file, or use a pipe");
    if (fstat(STDIN_FILENO, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
        return origin_open("/proc/self/fd/0", false, &ret->origin, reterr);
    ret->seekable = false;
    return 0;
}

void import_source_close(struct import_source *s)
{
    origin_close(&s->origin);
}

int import_source_check_size(struct import_source *s, const char *target, uint64_t size_bytes,
                             struct err *reterr)
{
    s->size_bytes = size_bytes;
    if (!s->seekable || s->origin.size_bytes == size_bytes)
        return 0;
    bool larger = s->origin.size_bytes > size_bytes;
    return err_set(reterr, SNAP_EMISMATCH, "%s has %" PRIu64 " bytes, %s has %" PRIu64 ": %s",
                   s->name, s->origin.size_bytes, target, size_bytes,
                   larger ? "it does not fit; make a volume of its size, with --like"
                          : "make it as long, by zeros, with truncate -s, or make a volume of its "
                            "size, with --like");
}

bool import_source_stat(const struct import_source *s, struct stat *ret)
{
    return s->seekable && fstat(s->origin.fd, ret) == 0;
}

bool import_source_hole(const struct import_source *s, uint64_t at_bytes, uint64_t *ret_end)
{
    bool hole = false;
    if (s->seekable)
        *ret_end = origin_extent_end(&s->origin, at_bytes, &hole);
    return hole;
}

/* What the pipe has now, up to len_bytes. */
static int read_pipe(struct import_source *s, uint64_t at_bytes, uint64_t len_bytes, uint8_t *buf,
                     struct err *reterr)
{
    s->starved = false;
    while (s->got_bytes < len_bytes) {
        struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
        if (poll(&in, 1, 0) == 0) {
            s->starved = true;
            return 0;
        }
        ssize_t n = read(STDIN_FILENO, buf + s->got_bytes, len_bytes - s->got_bytes);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n < 0)
            return err_set_errno(reterr, err_code_of_errno(errno), errno, "read standard input");
        if (n == 0)
            return err_set(reterr, SNAP_EMISMATCH,
                           "standard input ended after %" PRIu64 " bytes, the volume has %" PRIu64
                           ": it is overwritten only as far as that",
                           at_bytes + s->got_bytes, s->size_bytes);
        s->got_bytes += (uint64_t)n;
    }
    return 0;
}

int import_source_read(struct import_source *s, uint64_t at_bytes, uint64_t len_bytes, uint8_t *buf,
                       uint64_t *ret_len, struct err *reterr)
{
    int rc;
    *ret_len = 0;
    if (s->seekable) {
        bool hole = false;
        len_bytes = u64_min(len_bytes, origin_extent_end(&s->origin, at_bytes, &hole) - at_bytes);
        origin_will_need(&s->origin, at_bytes + len_bytes, AHEAD_BYTES);
        rc = origin_read(&s->origin, at_bytes, buf, len_bytes, reterr);
        *ret_len = len_bytes;
        return rc;
    }
    rc = read_pipe(s, at_bytes, len_bytes, buf, reterr);
    if (rc == 0 && s->got_bytes == len_bytes) {
        *ret_len = len_bytes;
        s->got_bytes = 0;
    }
    return rc;
}

int import_source_wait_ms(const struct import_source *s, int most_ms)
{
    return !s->seekable && s->starved ? STARVED_MS : most_ms;
}

int import_source_end(struct import_source *s, struct err *reterr)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    uint8_t more;
    if (s->seekable || poll(&in, 1, END_MS) <= 0 || read(STDIN_FILENO, &more, 1) <= 0)
        return 0;
    return err_set(reterr, SNAP_EMISMATCH,
                   "standard input has more than the volume's %" PRIu64
                   " bytes: only its beginning was written",
                   s->size_bytes);
}
