/* SPDX-License-Identifier: Apache-2.0 */
/* Options that every command has, usage errors, signals.
 *
 * argp parses; what is common to all commands is one argp child whose input is
 * the struct cli. The command's own parser sees its own input.
 */
#include "client/snapctl/cli.h"

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/base/size.h"

#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_USAGE = 2, KEY_JSON = 0x1001 };

static const struct argp_option common_options[] = {
    {.name = "json", .key = KEY_JSON, .doc = "print data as JSON", .group = 90},
    {.key = 'h', .flags = OPTION_HIDDEN, .group = 90},
    {.name = "quiet", .key = 'q', .doc = "no progress, no remarks", .group = 90},
    {0},
};

static error_t parse_common(int key, char *arg, struct argp_state *state)
{
    struct cli *cli = state->input;
    (void)arg;
    switch (key) {
    case 'h': /* as --help */
        argp_state_help(state, stdout, ARGP_HELP_STD_HELP);
        return 0;
    case KEY_JSON:
        cli->json = true;
        return 0;
    case 'q':
        cli->quiet = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp common_argp = {.options = common_options, .parser = parse_common};

struct parse_input {
    struct cli *cli;
    const struct argp *own;
    void *own_input;
};

/* The parent has no options of its own: it hands each child its input. */
static error_t parse_parent(int key, char *arg, struct argp_state *state)
{
    const struct parse_input *in = state->input;
    (void)arg;
    if (key != ARGP_KEY_INIT)
        return ARGP_ERR_UNKNOWN;
    state->child_inputs[0] = in->own_input;
    state->child_inputs[1] = in->cli;
    return 0;
}

void cli_parse(struct cli *cli, const struct argp *argp, int argc, char **argv, void *input)
{
    struct argp_child children[] = {{.argp = argp}, {.argp = &common_argp}, {0}};
    const struct argp parent = {
        .parser = parse_parent, .children = children, .args_doc = NULL, /* the child's is shown */
    };
    struct parse_input in = {.cli = cli, .own = argp, .own_input = input};
    argp_err_exit_status = EXIT_USAGE;
    error_t rc = argp_parse(&parent, argc, argv, 0, NULL, &in);
    if (rc != 0) {
        (void)fprintf(stderr, "%s: %s\n", argv[0], strerror(rc));
        exit(EXIT_USAGE);
    }
}

void cli_usage_error(const struct argp_state *state, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    argp_error(state, "%s", text);
    exit(EXIT_USAGE); /* argp_error does not come back */
}

uint64_t cli_size_arg(const struct argp_state *state, const char *option, const char *text)
{
    uint64_t bytes = 0;
    struct err why = ERR_INIT;
    if (size_parse(text, &bytes, &why) < 0)
        cli_usage_error(state, "%s: %s", option, why.text);
    return bytes;
}

uint64_t cli_chunk_size_arg(const struct argp_state *state, const char *text)
{
    uint64_t bytes = cli_size_arg(state, "--chunk-size", text);
    if (!u64_is_pow2(bytes) || bytes < SECTOR_BYTES ||
        bytes > (uint64_t)LIMIT_CHUNK_SECTORS_MAX * SECTOR_BYTES)
        cli_usage_error(state, "--chunk-size: %s is no power of two from 512 to 16M", text);
    return bytes;
}

void cli_note(const struct cli *cli, const char *fmt, ...)
{
    if (cli->quiet)
        return;
    va_list ap;
    va_start(ap, fmt);
    (void)vfprintf(stderr, fmt, ap);
    va_end(ap);
    (void)fputc('\n', stderr);
}

/* -- signals ------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

static void on_signal(int signo)
{
    if (interrupted)
        _exit(128 + signo);
    interrupted = 1;
}

void cli_catch_signals(void)
{
    struct sigaction sa = {.sa_handler = on_signal};
    (void)sigemptyset(&sa.sa_mask);
    (void)sigaction(SIGINT, &sa, NULL);
    (void)sigaction(SIGTERM, &sa, NULL);
}

bool cli_interrupted(void)
{
    return interrupted != 0;
}
