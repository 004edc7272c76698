/* SPDX-License-Identifier: Apache-2.0 */
/* What a command prints: built once as JSON values, shown as JSON or for people. Rows
 * that may be millions are built and printed one by one.
 *
 * Tables are libsmartcols'; they keep all rows, for the width of their columns. A value's style
 * says how people see it; JSON always has the plain number or text.
 */
#include "client/snapctl/cli.h"
#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/size.h"
#include "common/base/utf8.h"

#include <errno.h>
#include <inttypes.h>
#include <libsmartcols/libsmartcols.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void value_text(const json_t *v, enum out_style style, char *buf, size_t buf_bytes)
{
    if (json_is_string(v)) {
        (void)snprintf(buf, buf_bytes, "%s", json_string_value(v));
    } else if (json_is_boolean(v)) {
        (void)snprintf(buf, buf_bytes, "%s", json_is_true(v) ? "yes" : "no");
    } else if (json_is_integer(v)) {
        json_int_t n = json_integer_value(v);
        if (style == OUT_SIZE && n >= 0)
            (void)size_format((uint64_t)n, buf, buf_bytes);
        else if (style == OUT_SECTORS && n >= 0)
            (void)size_format((uint64_t)n * SECTOR_BYTES, buf, buf_bytes);
        else if (style == OUT_TIME)
            (void)clock_format_s(n, buf, buf_bytes);
        else
            (void)snprintf(buf, buf_bytes, "%" PRId64, (int64_t)n);
    } else {
        buf[0] = '\0';
    }
}

json_t *out_u64(uint64_t n)
{
    char text[24];
    if (n <= INT64_MAX)
        return json_integer((json_int_t)n);
    (void)snprintf(text, sizeof text, "%" PRIu64, n);
    return json_string(text);
}

json_t *out_path(const char *path)
{
    json_t *text = path ? json_string(path) : NULL;
    if (text || !path)
        return text;
    size_t bytes = strlen(path) + 1;
    char *clean = calloc(bytes, 1);
    if (!clean)
        return NULL;
    utf8_append_clean(clean, bytes, path);
    text = json_string(clean);
    free(clean);
    return text;
}

int out_flush(struct err *reterr)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    return errno ? err_set_errno(reterr, SNAP_EIO, errno, "cannot write to standard output")
                 : err_set(reterr, SNAP_EIO, "cannot write to standard output");
}

/* What could not be formatted is lack of memory. */
static int cannot_write(struct err *reterr)
{
    int rc = out_flush(reterr);
    return rc < 0 ? rc : err_set(reterr, SNAP_ENOMEM, "output");
}

static int print_json(json_t *v, struct err *reterr)
{
    if (json_dumpf(v, stdout, JSON_INDENT(2)) < 0 || fputc('\n', stdout) == EOF)
        return cannot_write(reterr);
    return out_flush(reterr);
}

static bool is_right_aligned(enum out_style style)
{
    return style == OUT_NUMBER || style == OUT_SIZE || style == OUT_SECTORS;
}

static int fill_table(struct libscols_table *table, json_t *rows, const struct out_column *columns)
{
    for (const struct out_column *c = columns; c->key; c++)
        if (!scols_table_new_column(table, c->title, 0,
                                    is_right_aligned(c->style) ? SCOLS_FL_RIGHT : 0))
            return SNAP_ENOMEM;
    size_t i;
    json_t *row;
    json_array_foreach (rows, i, row) {
        struct libscols_line *line = scols_table_new_line(table, NULL);
        if (!line)
            return SNAP_ENOMEM;
        for (size_t c = 0; columns[c].key; c++) {
            char text[LIMIT_PATH_BYTES];
            value_text(json_object_get(row, columns[c].key), columns[c].style, text, sizeof text);
            if (scols_line_set_data(line, c, text) != 0)
                return SNAP_ENOMEM;
        }
    }
    return 0;
}

static int print_table(json_t *rows, const struct out_column *columns)
{
    struct libscols_table *table = scols_new_table();
    if (!table)
        return SNAP_ENOMEM;
    int rc = fill_table(table, rows, columns);
    if (rc == 0) {
        /* in a pipe nothing is cut to the width of a terminal */
        (void)scols_table_enable_nowrap(table, 1);
        if (!isatty(STDOUT_FILENO))
            (void)scols_table_set_termforce(table, SCOLS_TERMFORCE_NEVER);
        if (json_array_size(rows) > 0 && scols_print_table(table) != 0)
            rc = SNAP_EIO;
    }
    scols_unref_table(table);
    return rc;
}

int out_rows(const struct cli *cli, json_t *take_rows, const struct out_column *columns,
             struct err *reterr)
{
    if (!take_rows)
        return err_set(reterr, SNAP_ENOMEM, "output");
    int rc = cli->json ? print_json(take_rows, reterr) : print_table(take_rows, columns);
    json_decref(take_rows);
    if (rc < 0 && !cli->json)
        return err_set(reterr, rc, "cannot print the table");
    return rc;
}

/* One document, a row a line. */
static int print_rows(bool (*next)(void *user, json_t *row), void *user, json_t *row,
                      struct err *reterr)
{
    const char *before = "[\n  ";
    while (next(user, row)) {
        if (fputs(before, stdout) == EOF || json_dumpf(row, stdout, JSON_PRESERVE_ORDER) < 0)
            return cannot_write(reterr);
        before = ",\n  ";
    }
    if (fputs(before[0] == '[' ? "[]\n" : "\n]\n", stdout) == EOF)
        return cannot_write(reterr);
    return out_flush(reterr);
}

int out_rows_each(const struct cli *cli, json_t *take_row, bool (*next)(void *user, json_t *row),
                  void *user, const struct out_column *columns, struct err *reterr)
{
    json_t *rows = cli->json ? NULL : json_array();
    int rc = 0;
    if (!take_row || (!rows && !cli->json))
        rc = err_set(reterr, SNAP_ENOMEM, "output");
    else if (cli->json)
        rc = print_rows(next, user, take_row, reterr);
    while (rc == 0 && rows && next(user, take_row))
        if (json_array_append_new(rows, json_deep_copy(take_row)) != 0)
            rc = err_set(reterr, SNAP_ENOMEM, "output");
    json_decref(take_row);
    if (rc == 0 && rows)
        return out_rows(cli, rows, columns, reterr);
    json_decref(rows);
    return rc;
}

int out_object(const struct cli *cli, json_t *take_object, const struct out_column *columns,
               struct err *reterr)
{
    if (!take_object)
        return err_set(reterr, SNAP_ENOMEM, "output");
    int rc = 0;
    if (cli->json) {
        rc = print_json(take_object, reterr);
    } else {
        int width = 0;
        for (const struct out_column *c = columns; c->key; c++)
            width = (int)strlen(c->title) > width ? (int)strlen(c->title) : width;
        for (const struct out_column *c = columns; c->key; c++) {
            char text[LIMIT_PATH_BYTES];
            const json_t *v = json_object_get(take_object, c->key);
            if (!v || json_is_null(v))
                continue;
            value_text(v, c->style, text, sizeof text);
            (void)printf("%s:%*s%s\n", c->title, width + 1 - (int)strlen(c->title), "", text);
        }
        rc = out_flush(reterr);
    }
    json_decref(take_object);
    return rc;
}
