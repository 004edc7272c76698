/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl's frame: groups and commands in one table, options by argp, exit codes
 * from the table of errors, data as JSON or as text for people.
 *
 * A command's function gets its words, parses them with cli_parse() (which adds
 * --json, --quiet, --help) and returns 0 or a negative SNAP_E… with *reterr
 * filled in; the frame prints "snapctl: text" and exits with the code's number.
 */
#ifndef SNAP_SNAPCTL_CLI_H
#define SNAP_SNAPCTL_CLI_H

#include "common/base/err.h"

#include <argp.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct cli {
    bool json;
    bool quiet;     /* no progress, no remarks */
    const char *on; /* remote: the daemon to use instead of the chosen one */
};

struct cli_command {
    const char *name;
    const char *summary; /* one line, for the list of a group */
    int (*run)(struct cli *cli, int argc, char **argv, struct err *reterr);
};

struct cli_group {
    const char *name;
    const char *summary;
    const struct cli_command *commands; /* ends with a NULL name */
};

extern const struct cli_group cli_group_cow, cli_group_pki, cli_group_remote;
extern const struct cli_group *const cli_groups[]; /* ends with NULL */

/* Parse a command's words. argp->parser sees its own options with state->input =
 * input; what is common is handled before it. After --help it exits with 0, after a
 * usage error with 2. argv[0] is the command's full name, "snapctl cow info". */
void cli_parse(struct cli *cli, const struct argp *argp, int argc, char **argv, void *input);
/* In a parser: a wrong value. Prints "snapctl cow create: TEXT" and the usage, exits with 2. */
_Noreturn void cli_usage_error(const struct argp_state *state, const char *fmt, ...)
    SNAP_PRINTF(2, 3);
/* A size option's value, or a usage error naming the option. */
uint64_t cli_size_arg(const struct argp_state *state, const char *option, const char *text);
/* --chunk-size: a power of two from 512 to 16M, in bytes, or a usage error. */
uint64_t cli_chunk_size_arg(const struct argp_state *state, const char *text);

/* A remark for people on stderr, unless --quiet. */
void cli_note(const struct cli *cli, const char *fmt, ...) SNAP_PRINTF(2, 3);

/* -- data -------------------------------------------------------------------------- */

enum out_style {
    OUT_TEXT,
    OUT_NUMBER,
    OUT_SIZE /* bytes, shown as 1.5G */,
    OUT_SECTORS,
    OUT_YES_NO,
    OUT_TIME /* seconds since 1970 */
};
struct out_column {
    const char *key;   /* in the JSON objects */
    const char *title; /* for people */
    enum out_style style;
};

/* A number, or above what JSON's readers take for one, a text. */
json_t *out_u64(uint64_t n);
/* A path of this machine, which need not be UTF-8, as JSON has to be: then '?' stands for what is
 * not. NULL stays NULL. */
json_t *out_path(const char *path);
/* --json: the value as it is. Else an array of objects as a table of the given columns
 * (ends with a NULL key; missing keys are blank). Takes a reference of rows away. */
int out_rows(const struct cli *cli, json_t *take_rows, const struct out_column *columns,
             struct err *reterr);
/* The same for rows that may be many: with --json each is printed as it comes, and none is
 * kept. next sets the values of take_row, which has a row's keys already (NULL: there was no
 * memory for it), and returns false when there is no further row. */
int out_rows_each(const struct cli *cli, json_t *take_row, bool (*next)(void *user, json_t *row),
                  void *user, const struct out_column *columns, struct err *reterr);
/* All that was printed has gone out. Errors: SNAP_EIO. */
int out_flush(struct err *reterr) SNAP_WUR;
/* --json: the object. Else "Title: value" lines of the given columns. */
int out_object(const struct cli *cli, json_t *take_object, const struct out_column *columns,
               struct err *reterr);

/* -- progress: work over 2 s shows a line on a terminal, nothing in a pipe ---------------- */

struct progress {
    const char *what;
    uint64_t total, done; /* in unit; total 0: unknown */
    enum { PROGRESS_BYTES, PROGRESS_COUNT } unit;
    bool on;
    uint64_t start_ns, shown_ns;
};
void progress_start(struct progress *p, const struct cli *cli, const char *what, uint64_t total);
void progress_add(struct progress *p, uint64_t done);
/* Wipes the line. Safe on one that was never started (zeros). */
void progress_end(struct progress *p);

/* -- signals: Ctrl-C ends long work at a safe point ------------------------------------------ */
/* From the first call on SIGINT and SIGTERM set a flag; a second one ends the program. */
void cli_catch_signals(void);
bool cli_interrupted(void);

#endif
