/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl pki init, issue, revoke: certificates for daemons and those who use them. */
#include "client/snapctl/cli.h"
#include "client/snapctl/pki_make.h"
#include "common/base/limits.h"
#include "common/base/name.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

enum { CA_DAYS = 3650, ISSUE_DAYS = 825, DAYS_MAX = 36500, ALSO_MAX = 32, COMMON_NAME_MAX = 64 };

struct pki_args {
    const char *dir, *name;
    bool takes_name; /* a second word */
    const char *server, *client;
    const char *also[ALSO_MAX + 1];
    unsigned also_count;
    const char *common_name;
    uint32_t days;
};

static void check_name(const struct argp_state *state, const char *what, const char *name)
{
    struct err why = ERR_INIT;
    if (name_check(name, what, &why) < 0)
        cli_usage_error(state, "%s", why.text);
}

/* A server's may be an address too: colons and dots are in a name's alphabet, a leading
 * colon is not. */
static void check_server_name(const struct argp_state *state, const char *what, const char *name)
{
    uint8_t raw[16];
    if (inet_pton(AF_INET6, name, raw) != 1)
        check_name(state, what, name);
}

static uint32_t parse_days(const struct argp_state *state, const char *text)
{
    char *end = NULL;
    long days = strtol(text, &end, 10);
    if (end == text || *end || days < 1 || days > DAYS_MAX)
        cli_usage_error(state, "--days: '%s' is no number from 1 to %d", text, DAYS_MAX);
    return (uint32_t)days;
}

static error_t parse_pki(int key, char *arg, struct argp_state *state)
{
    struct pki_args *a = state->input;
    switch (key) {
    case 's':
        check_server_name(state, "server", arg);
        a->server = arg;
        return 0;
    case 'c':
        check_name(state, "client", arg);
        a->client = arg;
        return 0;
    case 'a':
        check_server_name(state, "server", arg);
        if (a->also_count == ALSO_MAX)
            cli_usage_error(state, "more than %d times --also", ALSO_MAX);
        a->also[a->also_count++] = arg;
        return 0;
    case 'n':
        if (*arg == '\0' || strlen(arg) > COMMON_NAME_MAX)
            cli_usage_error(state, "--name: 1 to %d bytes", COMMON_NAME_MAX);
        a->common_name = arg;
        return 0;
    case 'd':
        a->days = parse_days(state, arg);
        return 0;
    case ARGP_KEY_ARG:
        if (!a->dir)
            a->dir = arg;
        else if (a->takes_name && !a->name)
            check_server_name(state, "server or client", a->name = arg);
        else
            cli_usage_error(state, "'%s' is one word too many%s", arg,
                            a->takes_name ? "" : "; a name goes with --server or --client");
        return 0;
    case ARGP_KEY_END:
        if (!a->dir)
            cli_usage_error(state, "which folder is the authority in?");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int cmd_init(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "name", .key = 'n', .arg = "NAME", .doc = "what the authority calls itself"},
        {.name = "days", .key = 'd', .arg = "DAYS", .doc = "how long it lasts; default 3650"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_pki,
        .args_doc = "DIR",
        .doc = "Make a certificate authority: DIR/ca.crt to give away, DIR/ca.key to guard, "
               "DIR/ca.crl with what is revoked.",
    };
    struct pki_args a = {.days = CA_DAYS, .common_name = "Snapwire authority"};
    cli_parse(cli, &argp, argc, argv, &a);
    int rc = pki_init(a.dir, a.common_name, a.days, reterr);
    if (rc == 0)
        cli_note(cli, "made %s/ca.crt, ca.key, ca.crl", a.dir);
    return rc;
}

static int cmd_issue(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "server",
         .key = 's',
         .arg = "NAME",
         .doc = "for a daemon that is reached by this name or address"},
        {.name = "client",
         .key = 'c',
         .arg = "NAME",
         .doc = "for a client; rights are granted to this name"},
        {.name = "also",
         .key = 'a',
         .arg = "NAME",
         .doc = "another name or address of the server; may be repeated"},
        {.name = "days", .key = 'd', .arg = "DAYS", .doc = "how long it lasts; default 825"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_pki,
        .args_doc = "DIR",
        .doc = "Make a key and a certificate, signed by the authority in DIR.",
    };
    struct pki_args a = {.days = ISSUE_DAYS};
    cli_parse(cli, &argp, argc, argv, &a);
    if (!a.server == !a.client)
        return err_set(reterr, SNAP_EINVAL, "give one of --server NAME and --client NAME");
    if (a.client && a.also_count > 0)
        return err_set(reterr, SNAP_EINVAL, "--also goes with --server: a client has one name");
    struct pki_issue what = {
        .name = a.server ? a.server : a.client,
        .server = a.server != NULL,
        .also = a.also,
        .days = a.days,
    };
    int rc = pki_issue(a.dir, &what, reterr);
    if (rc == 0)
        cli_note(cli, "made %s/%s-%s.crt, .key", a.dir, what.server ? "server" : "client",
                 what.name);
    return rc;
}

static int cmd_revoke(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "server", .key = 's', .arg = "NAME", .doc = "the daemon's certificate"},
        {.name = "client", .key = 'c', .arg = "NAME", .doc = "the client's certificate"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_pki,
        .args_doc = "DIR [NAME]",
        .doc = "Take a certificate back: it is put in DIR/ca.crl, which daemons read again on "
               "SIGHUP.",
    };
    struct pki_args a = {.takes_name = true};
    cli_parse(cli, &argp, argc, argv, &a);
    const char *kind = a.server ? "server" : a.client ? "client" : NULL;
    const char *name = a.server ? a.server : a.client ? a.client : a.name;
    if (!name || (kind && a.name) || (a.server && a.client))
        return err_set(reterr, SNAP_EINVAL,
                       "give one NAME to revoke: NAME, --server NAME or --client NAME");
    bool server = pki_has(a.dir, "server", name), client = pki_has(a.dir, "client", name);
    if (!kind && server && client)
        return err_set(reterr, SNAP_EINVAL,
                       "'%s' names a server and a client; say --server %s or --client %s", name,
                       name, name);
    if (!kind)
        kind = server ? "server" : "client";
    if (!pki_has(a.dir, kind, name))
        return err_set(reterr, SNAP_ENOENT, "%s holds no certificate of '%s'", a.dir, name);
    int rc = pki_revoke(a.dir, kind, name, reterr);
    if (rc == 0)
        cli_note(cli,
                 "revoked, and moved to %s/revoked; give %s/ca.crl to the daemons and send "
                 "them SIGHUP",
                 a.dir, a.dir);
    return rc;
}

static const struct cli_command commands[] = {
    {"init", "make a certificate authority", cmd_init},
    {"issue", "make a key and a certificate", cmd_issue},
    {"revoke", "take a certificate back", cmd_revoke},
    {0},
};

const struct cli_group cli_group_pki = {
    .name = "pki",
    .summary = "certificates for daemons and clients",
    .commands = commands,
};
