/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl: find the group and the command, run it, say what went wrong. */
#include "client/snapctl/cli.h"
#include "common/base/std_fds.h"

#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const struct cli_group *find_group(const char *name)
{
    for (const struct cli_group *const *g = cli_groups; *g; g++)
        if (strcmp((*g)->name, name) == 0)
            return *g;
    return NULL;
}

static const struct cli_command *find_command(const struct cli_group *group, const char *name)
{
    for (const struct cli_command *c = group->commands; c->name; c++)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

static void print_groups(FILE *to)
{
    (void)fprintf(to, "Usage: snapctl [--json] [--quiet] GROUP COMMAND [ARGUMENT...]\n"
                      "Remote snapshots: COW devices, certificates, daemons.\n\n");
    for (const struct cli_group *const *g = cli_groups; *g; g++)
        (void)fprintf(to, "  %-8s %s\n", (*g)->name, (*g)->summary);
    (void)fprintf(to,
                  "\n`snapctl GROUP --help` lists its commands, `snapctl GROUP COMMAND --help`\n"
                  "tells of one. Manual: snapctl(1).\n");
}

static void print_commands(FILE *to, const struct cli_group *group)
{
    (void)fprintf(to, "Usage: snapctl %s COMMAND [ARGUMENT...]\n%s\n\n", group->name,
                  group->summary);
    for (const struct cli_command *c = group->commands; c->name; c++)
        (void)fprintf(to, "  %-10s %s\n", c->name, c->summary);
    (void)fprintf(to, "\n`snapctl %s COMMAND --help` tells of one.\n", group->name);
}

/* The one command that begins so, or that the word begins with; NULL: none or several. */
static const char *guess(const struct cli_group *group, const char *word)
{
    const char *found = NULL;
    for (const struct cli_command *c = group->commands; c->name; c++) {
        size_t n = strlen(c->name), given = strlen(word);
        if (strncmp(c->name, word, n < given ? n : given) != 0)
            continue;
        if (found || given < 2)
            return NULL;
        found = c->name;
    }
    return found;
}

static void print_unknown(const struct cli_group *group, const char *word)
{
    const char *meant = guess(group, word);
    (void)fprintf(stderr, "snapctl %s: no command '%s'", group->name, word);
    if (meant) {
        (void)fprintf(stderr, "; is it '%s'? snapctl %s --help lists them\n", meant, group->name);
        return;
    }
    (void)fprintf(stderr, "\n\n");
    print_commands(stderr, group);
}

/* What the shell completions ask for: the words that may follow. */
static int print_words(int argc, char **argv)
{
    const struct cli_group *group = argc > 0 ? find_group(argv[0]) : NULL;
    if (argc == 0)
        for (const struct cli_group *const *g = cli_groups; *g; g++)
            (void)puts((*g)->name);
    for (const struct cli_command *c = group ? group->commands : NULL; c && c->name; c++)
        (void)puts(c->name);
    return 0;
}

static bool is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-?") == 0 || strcmp(word, "-h") == 0 ||
           strcmp(word, "help") == 0;
}

static int run_command(struct cli *cli, const struct cli_group *group, int argc, char **argv)
{
    if (argc == 0) {
        print_commands(stderr, group);
        return 2;
    }
    if (is_help(argv[0])) {
        print_commands(stdout, group);
        return 0;
    }
    const struct cli_command *command = find_command(group, argv[0]);
    if (!command) {
        print_unknown(group, argv[0]);
        return 2;
    }
    char name[64];
    (void)snprintf(name, sizeof name, "snapctl %s %s", group->name, command->name);
    argv[0] = name;
    struct err e = ERR_INIT;
    int rc = command->run(cli, argc, argv, &e);
    if (rc == 0)
        rc = out_flush(&e);
    if (rc < 0 && e.text[0])
        (void)fprintf(stderr, "%s: %s\n", name, e.text);
    else if (rc < 0)
        (void)fprintf(stderr, "%s: %s\n", name, err_text(rc));
    return rc < 0 ? err_exit_code(rc) : 0;
}

/* An option that stands before the command: the group's place or in front of it. False: it is
 * none. Ends the program where that is all there is to do. */
static bool take_option(struct cli *cli, int argc, char **argv, int *i)
{
    const char *word = argv[*i];
    if (strcmp(word, "--json") == 0) {
        cli->json = true;
    } else if (strcmp(word, "--quiet") == 0 || strcmp(word, "-q") == 0) {
        cli->quiet = true;
    } else if (strcmp(word, "--on") == 0 && *i + 1 < argc) {
        cli->on = argv[++*i];
    } else if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        (void)printf("snapctl %s\n", SNAPWIRE_VERSION);
        exit(0);
    } else if (strcmp(word, "--words") == 0) {
        exit(print_words(argc - *i - 1, argv + *i + 1));
    } else {
        return false;
    }
    ++*i;
    return true;
}

static _Noreturn void usage_error(const char *text, const char *word)
{
    (void)fprintf(stderr, "snapctl: %s '%s'; see snapctl --help\n", text, word);
    exit(2);
}

int main(int argc, char **argv)
{
    struct cli cli = {0};
    int i = 1;
    if (std_fds_occupy() < 0) /* no message is to be written to a disk */
        return err_exit_code(SNAP_EINTERNAL);
    (void)setlocale(LC_CTYPE, "");  /* tables show the letters that the terminal has */
    (void)signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is a write that fails */
    while (i < argc && take_option(&cli, argc, argv, &i))
        continue;
    if (i == argc) {
        print_groups(stderr);
        return 2;
    }
    if (is_help(argv[i])) {
        print_groups(stdout);
        return 0;
    }
    if (strcmp(argv[i], "--on") == 0)
        usage_error("the name of a daemon is missing behind", argv[i]);
    if (argv[i][0] == '-')
        usage_error("unknown option", argv[i]);
    const struct cli_group *group = find_group(argv[i]);
    if (!group) {
        (void)fprintf(stderr, "snapctl: no group of commands '%s'\n\n", argv[i]);
        print_groups(stderr);
        return 2;
    }
    i++;
    while (i < argc && take_option(&cli, argc, argv, &i))
        continue;
    if (i < argc && strcmp(argv[i], "--on") == 0)
        usage_error("the name of a daemon is missing behind", argv[i]);
    if (i < argc && argv[i][0] == '-' && !is_help(argv[i]))
        usage_error("unknown option", argv[i]);
    if (cli.on && group != &cli_group_remote)
        usage_error("--on names a daemon for 'remote' and means nothing to", group->name);
    return run_command(&cli, group, argc - i, argv + i);
}
