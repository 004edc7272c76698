/* SPDX-License-Identifier: Apache-2.0 */
/* The log: a record is one line and one write(2) to stderr, so that lines of
 * several threads never mix.
 *
 *     2026-01-31T12:00:00.123Z level=info msg="volume opened" volume=db exceptions=12
 *     <6>level=info msg="volume opened" volume=db exceptions=12     (to the journal)
 *
 * A value that holds anything but plain characters stands in quotes with the
 * rest escaped as \" \\ \n \xNN: whatever a peer sends, it cannot begin a line,
 * a field or a terminal's control sequence. A value is cut at a length, and a
 * field that does not fit the line is left out and said to be (cut=true), so a
 * line stays below what a pipe takes in one piece.
 *
 * Must not know who logs. Takes no memory and no lock; any thread.
 */
#include "common/base/log.h"

#include "common/base/bytes.h"
#include "common/base/clock.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    LOG_LINE_BYTES = 4096, /* PIPE_BUF */
    LOG_VALUE_BYTES = 512,
};

static const struct {
    const char *name;
    int journal_priority; /* syslog's numbers */
} log_levels[] = {
    [LOG_LEVEL_ERROR] = {"error", 3},
    [LOG_LEVEL_WARN] = {"warn", 4},
    [LOG_LEVEL_INFO] = {"info", 6},
    [LOG_LEVEL_DEBUG] = {"debug", 7},
};

static const char log_cut_mark[] = " cut=true\n";

struct log_line {
    char text[LOG_LINE_BYTES];
    size_t len;
    bool full; /* something did not fit */
};

static atomic_int log_threshold = LOG_LEVEL_INFO;
static pthread_once_t log_once = PTHREAD_ONCE_INIT;
static bool log_to_journal;

/* The journal names the device and inode of the stream it reads in $JOURNAL_STREAM;
 * a stderr that was sent elsewhere since is not it. */
static void log_find_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat st;
    char own[64];

    if (stream == NULL || fstat(STDERR_FILENO, &st) != 0)
        return;
    (void)snprintf(own, sizeof own, "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    log_to_journal = strcmp(stream, own) == 0;
}

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&log_threshold, (int)level, memory_order_relaxed);
}

int log_level_parse(const char *text, enum log_level *ret, struct err *reterr)
{
    for (size_t i = 0; i < ARRAY_LEN(log_levels); i++) {
        if (strcmp(text, log_levels[i].name) == 0) {
            *ret = (enum log_level)i;
            return 0;
        }
    }
    return err_set(reterr, SNAP_EINVAL, "log level is not one of error, warn, info, debug");
}

static void log_add_char(struct log_line *line, char c)
{
    if (line->len < sizeof line->text - sizeof log_cut_mark)
        line->text[line->len++] = c;
    else
        line->full = true;
}

static void log_add_text(struct log_line *line, const char *text)
{
    for (; *text != '\0'; text++)
        log_add_char(line, *text);
}

static bool log_is_plain(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("._-+:/@,%", c) != NULL);
}

static void log_add_escaped(struct log_line *line, char c)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char byte = (unsigned char)c;

    if (c == '"' || c == '\\') {
        log_add_char(line, '\\');
        log_add_char(line, c);
    } else if (c == '\n') {
        log_add_text(line, "\\n");
    } else if (byte >= ' ' && byte <= '~') {
        log_add_char(line, c);
    } else {
        log_add_text(line, "\\x");
        log_add_char(line, hex[byte >> 4]);
        log_add_char(line, hex[byte & 15]);
    }
}

static void log_add_value(struct log_line *line, const char *value)
{
    size_t len = strnlen(value, LOG_VALUE_BYTES);
    bool plain = len > 0 && value[len] == '\0';

    for (size_t i = 0; i < len && plain; i++)
        plain = log_is_plain(value[i]);
    if (plain) {
        log_add_text(line, value);
        return;
    }
    log_add_char(line, '"');
    for (size_t i = 0; i < len; i++)
        log_add_escaped(line, value[i]);
    if (value[len] != '\0')
        log_add_text(line, "...");
    log_add_char(line, '"');
}

static void log_add_field(struct log_line *line, const struct log_field *field)
{
    char text[UUID_TEXT_BYTES];
    size_t len_before = line->len;

    log_add_char(line, ' ');
    log_add_text(line, field->key);
    log_add_char(line, '=');
    switch (field->kind) {
    case LOG_FIELD_STR:
        log_add_value(line, field->v.str != NULL ? field->v.str : "");
        break;
    case LOG_FIELD_U64:
        (void)snprintf(text, sizeof text, "%" PRIu64, field->v.u64);
        log_add_text(line, text);
        break;
    case LOG_FIELD_I64:
        (void)snprintf(text, sizeof text, "%" PRId64, field->v.i64);
        log_add_text(line, text);
        break;
    case LOG_FIELD_UUID:
        log_add_text(line, uuid_format(field->v.uuid, text));
        break;
    }
    if (line->full)
        line->len = len_before;
}

static void log_begin_line(struct log_line *line, enum log_level level, const char *msg)
{
    char text[CLOCK_TEXT_BYTES + 8];
    struct timespec now;

    line->len = 0;
    line->full = false;
    if (log_to_journal) {
        (void)snprintf(text, sizeof text, "<%d>", log_levels[level].journal_priority);
    } else {
        (void)clock_gettime(CLOCK_REALTIME, &now);
        (void)clock_format_s((int64_t)now.tv_sec, text, sizeof text);
        (void)snprintf(text + CLOCK_TEXT_BYTES - 2, 8, ".%03uZ ",
                       (unsigned)(now.tv_nsec / 1000000) % 1000);
    }
    log_add_text(line, text);
    log_add_text(line, "level=");
    log_add_text(line, log_levels[level].name);
    log_add_text(line, " msg=");
    log_add_value(line, msg);
}

void log_write(enum log_level level, const char *msg, const struct log_field *fields, size_t count)
{
    struct log_line line;
    int saved_errno = errno;

    if ((int)level > atomic_load_explicit(&log_threshold, memory_order_relaxed))
        return;
    (void)pthread_once(&log_once, log_find_journal);
    log_begin_line(&line, level, msg);
    for (size_t i = 0; i < count && !line.full; i++) {
        if (fields[i].key != NULL)
            log_add_field(&line, &fields[i]);
    }
    const char *end = line.full ? log_cut_mark : "\n";
    size_t end_len = strlen(end);
    memcpy(line.text + line.len, end, end_len);
    line.len += end_len;

    ssize_t written;
    do {
        written = write(STDERR_FILENO, line.text, line.len);
    } while (written < 0 && errno == EINTR);
    errno = saved_errno;
}
