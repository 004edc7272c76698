/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: the table of codes and the text that grows a prefix a layer.
 *
 *     store:      "write chunk 771: No space left on device"
 *     commit:     "commit area 3: " + that
 *     request:    "volume db: " + that
 *
 * A text that does not fit loses its end, never its beginning: the outermost
 * layers say where to look. Must not know anything but libc. Pure functions on
 * the caller's struct; any thread.
 */
#include "common/base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct err_row {
    const char *name;
    const char *text;
    int exit_code;
    int http;
    int grpc;
};

static const struct err_row err_rows[] = {
#define SNAP_X_(name, num, text, exit_code, http, grpc) \
    [num] = {#name, text, exit_code, http, grpc},
    SNAP_ERRORS(SNAP_X_)
#undef SNAP_X_
};

enum { ERR_ROWS = sizeof err_rows / sizeof err_rows[0] };

static const struct err_row err_row_ok = {"OK", "success", 0, 200, 0};
static const struct err_row err_row_unknown = {"EUNKNOWN", "unknown error", 70, 500, 2};

static const struct err_row *err_row_of(int code)
{
    if (code == 0)
        return &err_row_ok;
    if (code > 0 || code <= -ERR_ROWS || err_rows[-code].name == NULL)
        return &err_row_unknown;
    return &err_rows[-code];
}

/* A code that is no error would be taken for success further up. */
static int err_code_checked(int code)
{
    return code < 0 ? code : SNAP_EINTERNAL;
}

/* The text is made aside, because the arguments may point into reterr. */
static void err_fill(struct err *reterr, int code, int sys_errno, const char *text)
{
    size_t len = strnlen(text, ERR_TEXT_BYTES - 1);
    reterr->code = code;
    reterr->sys_errno = sys_errno;
    memmove(reterr->text, text, len);
    reterr->text[len] = '\0';
}

int err_set(struct err *reterr, int code, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES];
    va_list ap;

    code = err_code_checked(code);
    if (reterr == NULL)
        return code;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_fill(reterr, code, 0, text);
    return code;
}

/* libc's, or ours where its words do not tell what to do. */
static const char *err_sys_text(int sys_errno, char *buf, size_t buf_bytes)
{
    if (sys_errno == EFBIG)
        return "File too large: more than the process may write (ulimit -f, LimitFSIZE=), or than "
               "the file system can hold";
    if (sys_errno == EMFILE)
        return "Too many open files: more than the process may have (ulimit -n, LimitNOFILE=)";
    return strerror_r(sys_errno, buf, buf_bytes);
}

int err_set_errno(struct err *reterr, int code, int sys_errno, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES], sys_text[128];
    va_list ap;

    code = err_code_checked(code);
    if (reterr == NULL)
        return code;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof text)
        (void)snprintf(text + n, sizeof text - (size_t)n, ": %s",
                       err_sys_text(sys_errno, sys_text, sizeof sys_text));
    err_fill(reterr, code, sys_errno, text);
    return code;
}

int err_code_of_errno(int sys_errno)
{
    switch (sys_errno) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG: /* a limit on a file's size: it cannot grow either */
        return SNAP_ENOSPC;
    case ENOMEM:
        return SNAP_ENOMEM;
    case ENOENT:
    case ENOTDIR:
    case ENODEV:
    case ENXIO:
        return SNAP_ENOENT;
    case EEXIST:
    case ENOTEMPTY:
        return SNAP_EEXIST;
    case EPERM:
    case EACCES:
    case EROFS:
        return SNAP_EPERM;
    case EINVAL:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
        return SNAP_EINVAL;
    case EBUSY:
    case ETXTBSY:
    case EAGAIN:
    case EADDRINUSE:
        return SNAP_EBUSY;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
        return SNAP_ELIMIT;
    case ETIMEDOUT:
        return SNAP_ETIMEDOUT;
    case EPIPE:
    case ECONNRESET:
    case ECONNREFUSED:
    case ECONNABORTED:
    case ENOTCONN:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
        return SNAP_ECONN;
    case ECANCELED:
        return SNAP_ECANCELED;
    case ENOSYS:
    case EOPNOTSUPP:
    case ENOTTY:
        return SNAP_ENOTSUP;
    default:
        return SNAP_EIO;
    }
}

int err_prefix(struct err *reterr, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES];
    va_list ap;

    if (reterr == NULL)
        return SNAP_EINTERNAL;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof text) {
        size_t len = (size_t)n;
        const char *parts[] = {": ", reterr->text};
        for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
            size_t take = strnlen(parts[i], sizeof text - 1 - len);
            memcpy(text + len, parts[i], take);
            len += take;
        }
        text[len] = '\0';
    }
    err_fill(reterr, reterr->code, reterr->sys_errno, text);
    return reterr->code;
}

int err_copy(struct err *reterr, const struct err *src)
{
    if (reterr != NULL && reterr != src)
        err_fill(reterr, src->code, src->sys_errno, src->text);
    return src->code;
}

void err_clear(struct err *e)
{
    if (e == NULL)
        return;
    e->code = 0;
    e->sys_errno = 0;
    e->text[0] = '\0';
}

const char *err_name(int code)
{
    return err_row_of(code)->name;
}

const char *err_text(int code)
{
    return err_row_of(code)->text;
}

int err_exit_code(int code)
{
    return err_row_of(code)->exit_code;
}

int err_http_status(int code)
{
    return err_row_of(code)->http;
}

int err_grpc_status(int code)
{
    return err_row_of(code)->grpc;
}
