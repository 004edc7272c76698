/* SPDX-License-Identifier: Apache-2.0 */
/* The words of a remote command, and --on NAME, which all of them take.
 *
 * A command's input begins with its struct remote_words; its parser handles its
 * own options and leaves the rest to remote_parse_word().
 */
#include "client/snapctl/remote_cmd.h"

enum { KEY_ON = 0x2001 };

static error_t parse_on(int key, char *arg, struct argp_state *state)
{
    struct remote_words *words = state->input;
    if (key != KEY_ON)
        return ARGP_ERR_UNKNOWN;
    words->on = arg;
    return 0;
}

static const struct argp_option on_options[] = {
    {.name = "on",
     .key = KEY_ON,
     .arg = "NAME",
     .doc = "the daemon to use, instead of $SNAPWIRE_REMOTE or the chosen one",
     .group = 80},
    {0},
};
static const struct argp on_argp = {.options = on_options, .parser = parse_on};

const struct argp_child remote_children[] = {{.argp = &on_argp}, {0}};

error_t remote_parse_word(int key, char *arg, struct argp_state *state)
{
    struct remote_words *words = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = words;
        return 0;
    case ARGP_KEY_ARG:
        if (words->count >= words->most)
            cli_usage_error(state, "'%s' is one word too many", arg);
        words->word[words->count++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (words->count < words->least)
            cli_usage_error(state, "%s", words->missing);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

void remote_parse(struct cli *cli, const struct argp *argp, int argc, char **argv, void *input)
{
    const struct remote_words *words = input;
    cli_parse(cli, argp, argc, argv, input);
    if (words->on)
        cli->on = words->on;
}
