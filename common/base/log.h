/* SPDX-License-Identifier: Apache-2.0 */
/* Structured log: one line a record, key=value, journald-friendly (<N> priority
 * prefix when stderr is the journal). Only main, the request's edge and a job's
 * owner call it. Values are quoted when they hold anything but plain characters,
 * so that no peer can forge a line. Safe from any thread.
 *
 *     LOG_INFO("volume opened", F_STR("volume", name), F_U64("exceptions", n));
 */
#ifndef SNAP_BASE_LOG_H
#define SNAP_BASE_LOG_H

#include "common/base/err.h"
#include "common/base/uuid.h"

#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

struct log_field {
    const char *key;
    enum { LOG_FIELD_STR, LOG_FIELD_U64, LOG_FIELD_I64, LOG_FIELD_UUID } kind;
    union {
        const char *str;
        uint64_t u64;
        int64_t i64;
        const struct uuid *uuid;
    } v;
};

#define F_STR(k, s) ((struct log_field){.key = (k), .kind = LOG_FIELD_STR, .v.str = (s)})
#define F_U64(k, n) ((struct log_field){.key = (k), .kind = LOG_FIELD_U64, .v.u64 = (n)})
#define F_I64(k, n) ((struct log_field){.key = (k), .kind = LOG_FIELD_I64, .v.i64 = (n)})
#define F_UUID(k, u) ((struct log_field){.key = (k), .kind = LOG_FIELD_UUID, .v.uuid = (u)})
/* the error's code and text */
#define F_ERR(e) F_STR("code", err_name((e)->code)), F_STR("error", (e)->text)

void log_set_level(enum log_level level);
/* "error", "warn", "info", "debug". Errors: SNAP_EINVAL. */
int log_level_parse(const char *text, enum log_level *ret, struct err *reterr) SNAP_WUR;
/* Fields without a key are passed over. errno is left as it was. */
void log_write(enum log_level level, const char *msg, const struct log_field *fields, size_t count);

/* A field without a key ends each list, so that there is always one and a message
 * without fields needs no extension of the preprocessor. */
#define LOG_END_ ((struct log_field){.key = NULL})
#define LOG_AT_(level, msg, ...)                                   \
    log_write(level, msg, (const struct log_field[]){__VA_ARGS__}, \
              sizeof((const struct log_field[]){__VA_ARGS__}) / sizeof(struct log_field))
#define LOG_ERROR(...) LOG_AT_(LOG_LEVEL_ERROR, __VA_ARGS__, LOG_END_)
#define LOG_WARN(...) LOG_AT_(LOG_LEVEL_WARN, __VA_ARGS__, LOG_END_)
#define LOG_INFO(...) LOG_AT_(LOG_LEVEL_INFO, __VA_ARGS__, LOG_END_)
#define LOG_DEBUG(...) LOG_AT_(LOG_LEVEL_DEBUG, __VA_ARGS__, LOG_END_)

#endif
