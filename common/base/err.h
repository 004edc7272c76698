/* SPDX-License-Identifier: Apache-2.0 */
/* Errors: one code for programs, one text for people.
 *
 * Every fallible function returns 0 or a negative SNAP_E… and takes a
 * `struct err *reterr` last (NULL is allowed: the text is then dropped). The
 * text begins at the innermost cause and each layer on the way up prefixes what
 * it was doing: "commit area 3: write chunk 771: No space left on device".
 * Libraries never log; they return one of these.
 */
#ifndef SNAP_BASE_ERR_H
#define SNAP_BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>

/* name, number on the wire, text, process exit code, HTTP status, gRPC status */
#define SNAP_ERRORS(X)                                         \
    X(EINVAL, 1, "invalid argument", 2, 400, 3)                \
    X(ENOMEM, 2, "out of memory", 3, 503, 8)                   \
    X(EIO, 3, "input/output error", 4, 500, 13)                \
    X(ENOSPC, 4, "no space left", 5, 507, 8)                   \
    X(ENOENT, 5, "not found", 6, 404, 5)                       \
    X(EEXIST, 6, "already exists", 7, 409, 6)                  \
    X(EPERM, 7, "permission denied", 8, 403, 7)                \
    X(EAUTH, 8, "not authenticated", 9, 401, 16)               \
    X(ESTALE, 9, "stale identity or lease epoch", 10, 409, 9)  \
    X(EBUSY, 10, "busy", 11, 409, 9)                           \
    X(ECORRUPT, 11, "damaged data", 12, 500, 15)               \
    X(EINVALID, 12, "snapshot is invalid", 13, 410, 9)         \
    X(EPROTO, 13, "protocol violation", 14, 400, 3)            \
    X(ETIMEDOUT, 14, "timed out", 15, 504, 4)                  \
    X(ECONN, 15, "connection lost", 16, 503, 14)               \
    X(ELIMIT, 16, "limit reached", 17, 429, 8)                 \
    X(ENOTSUP, 17, "not supported", 18, 501, 12)               \
    X(EMISMATCH, 18, "does not match", 19, 409, 9)             \
    X(ECANCELED, 19, "cancelled", 20, 499, 1)                  \
    X(ESHUTDOWN, 20, "shutting down", 21, 503, 14)             \
    X(EPOISONED, 21, "store must be opened again", 22, 503, 9) \
    X(EOVERFLOW, 22, "snapshot overflowed", 23, 507, 9)        \
    X(EUNVERIFIED, 23, "snapshot is unverified", 24, 409, 9)   \
    X(EINTERNAL, 24, "internal error", 70, 500, 13)

enum snap_code {
    SNAP_OK = 0,
#define SNAP_X_(name, num, text, exit_code, http, grpc) SNAP_##name = -(num),
    SNAP_ERRORS(SNAP_X_)
#undef SNAP_X_
};

enum { ERR_TEXT_BYTES = 480 };

struct err {
    int code;                  /* 0 or a negative SNAP_E… */
    int sys_errno;             /* the errno behind it, or 0 */
    char text[ERR_TEXT_BYTES]; /* always terminated; cut at the end when too long */
};

#define ERR_INIT ((struct err){0})
#define SNAP_WUR __attribute__((warn_unused_result))
#define SNAP_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Fill *reterr (if not NULL) and return code; a code that is no error (0 and above)
 * becomes SNAP_EINTERNAL. The arguments may point into *reterr. */
int err_set(struct err *reterr, int code, const char *fmt, ...) SNAP_PRINTF(3, 4);
/* Likewise, with ": strerror(sys_errno)" behind the text. */
int err_set_errno(struct err *reterr, int code, int sys_errno, const char *fmt, ...)
    SNAP_PRINTF(4, 5);
/* The SNAP_E… that an errno of a system call stands for (ENOSPC, EDQUOT: SNAP_ENOSPC …). */
int err_code_of_errno(int sys_errno);
/* Put "fmt: " before the text. Returns reterr's code (SNAP_EINTERNAL when NULL). */
int err_prefix(struct err *reterr, const char *fmt, ...) SNAP_PRINTF(2, 3);
/* Copy, where ret may be NULL. Returns src's code. */
int err_copy(struct err *reterr, const struct err *src);
void err_clear(struct err *e);

/* One table gives each code its names. Any int is taken; unknown ones read "EUNKNOWN"
 * and 0 "OK". */
const char *err_name(int code); /* "ENOSPC" */
const char *err_text(int code); /* "no space left" */
int err_exit_code(int code);
int err_http_status(int code);
int err_grpc_status(int code);

#endif
