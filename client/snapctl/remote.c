/* SPDX-License-Identifier: Apache-2.0 */
/* snapctl remote: the group, and the daemons that it knows (add, use, list, remove).
 *
 * These four only read and write the file of remotes; nothing is asked of a daemon,
 * so that a remote can be added before its daemon runs.
 */
#include "client/host/remote_conf.h"
#include "client/snapctl/remote_cmd.h"
#include "common/base/cleanup.h"
#include "common/base/name.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* -- add --------------------------------------------------------------------------------- */

struct add_args {
    struct remote_words words;
    char *ca, *certificate, *key, *crl, *server_name;
};

static error_t parse_add(int key, char *arg, struct argp_state *state)
{
    struct add_args *a = state->input;
    switch (key) {
    case 'a':
        a->ca = arg;
        return 0;
    case 'c':
        a->certificate = arg;
        return 0;
    case 'k':
        a->key = arg;
        return 0;
    case 'r':
        a->crl = arg;
        return 0;
    case 's':
        a->server_name = arg;
        return 0;
    default:
        return remote_parse_word(key, arg, state);
    }
}

/* The file is to be found from any folder later. */
static int make_absolute(const char *option, char **path, char buf[LIMIT_PATH_BYTES],
                         struct err *reterr)
{
    if (!*path)
        return 0;
    char *real = realpath(*path, NULL);
    if (!real)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "%s %s", option, *path);
    int n = snprintf(buf, LIMIT_PATH_BYTES, "%s", real);
    free(real);
    if (n >= LIMIT_PATH_BYTES)
        return err_set(reterr, SNAP_EINVAL, "%s: path too long", option);
    *path = buf;
    return 0;
}

static int add(struct cli *cli, struct add_args *a, struct err *reterr)
{
    char path[LIMIT_PATH_BYTES], ca[LIMIT_PATH_BYTES], certificate[LIMIT_PATH_BYTES],
        key[LIMIT_PATH_BYTES], crl[LIMIT_PATH_BYTES];
    struct remote_conf conf = REMOTE_CONF_INIT;
    CLEANUP_CLOSE int lock = -1;
    int rc = make_absolute("--ca", &a->ca, ca, reterr);
    if (rc == 0)
        rc = make_absolute("--cert", &a->certificate, certificate, reterr);
    if (rc == 0)
        rc = make_absolute("--key", &a->key, key, reterr);
    if (rc == 0)
        rc = make_absolute("--crl", &a->crl, crl, reterr);
    if (rc == 0)
        rc = remote_conf_path(path, reterr);
    if (rc == 0)
        rc = remote_conf_lock(path, &lock, reterr);
    if (rc == 0)
        rc = remote_conf_load(path, &conf, reterr);
    const struct remote_entry entry = {
        .name = (char *)(uintptr_t)a->words.word[0],
        .address = (char *)(uintptr_t)a->words.word[1],
        .ca = a->ca,
        .certificate = a->certificate,
        .key = a->key,
        .crl = a->crl,
        .server_name = a->server_name,
    };
    if (rc == 0)
        rc = remote_conf_add(&conf, &entry, reterr);
    bool first = rc == 0 && conf.count == 1 && !conf.current;
    if (first)
        rc = remote_conf_choose(&conf, entry.name, reterr);
    if (rc == 0)
        rc = remote_conf_save(path, &conf, reterr);
    if (rc == 0 && first)
        cli_note(cli, "%s is the first remote, and so the chosen one", entry.name);
    remote_conf_done(&conf);
    return rc;
}

int remote_cmd_add(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp_option options[] = {
        {.name = "ca", .key = 'a', .arg = "FILE", .doc = "certificate of the authority, PEM"},
        {.name = "cert", .key = 'c', .arg = "FILE", .doc = "your certificate, PEM"},
        {.name = "key", .key = 'k', .arg = "FILE", .doc = "its private key, PEM"},
        {.name = "crl", .key = 'r', .arg = "FILE", .doc = "revoked certificates, PEM"},
        {.name = "server-name",
         .key = 's',
         .arg = "NAME",
         .doc = "name in the daemon's certificate, when it is not the address's host"},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_add,
        .args_doc = "NAME ADDRESS",
        .doc = "Remember a daemon. ADDRESS is HOST, HOST:PORT, [V6]:PORT or unix:/PATH, or "
               "several of them for the same daemon, separated by commas. Over a network --ca, "
               "--cert and --key are needed. The first remote is chosen at once.",
        .children = remote_children,
    };
    struct add_args a = {.words = {.least = 2,
                                   .most = 2,
                                   .missing = "a name and an address are needed, as in: add here "
                                              "localhost:7453 --ca F --cert F --key F"}};
    remote_parse(cli, &argp, argc, argv, &a);
    return add(cli, &a, reterr);
}

/* -- use, remove ------------------------------------------------------------------------------ */

static int change(const char *name,
                  int (*fn)(struct remote_conf *conf, const char *name, struct err *reterr),
                  struct err *reterr)
{
    char path[LIMIT_PATH_BYTES];
    struct remote_conf conf = REMOTE_CONF_INIT;
    CLEANUP_CLOSE int lock = -1;
    int rc = remote_conf_path(path, reterr);
    if (rc == 0)
        rc = remote_conf_lock(path, &lock, reterr);
    if (rc == 0)
        rc = remote_conf_load(path, &conf, reterr);
    if (rc == 0)
        rc = fn(&conf, name, reterr);
    if (rc == 0)
        rc = remote_conf_save(path, &conf, reterr);
    remote_conf_done(&conf);
    return rc;
}

int remote_cmd_use(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = remote_parse_word,
        .args_doc = "NAME",
        .doc = "Choose the daemon that commands talk to when they are not told with --on.",
        .children = remote_children,
    };
    struct remote_words words = {.least = 1, .most = 1, .missing = "which remote?"};
    remote_parse(cli, &argp, argc, argv, &words);
    return change(words.word[0], remote_conf_choose, reterr);
}

int remote_cmd_remove(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = remote_parse_word,
        .args_doc = "NAME",
        .doc = "Forget a daemon. Nothing changes on it.",
        .children = remote_children,
    };
    struct remote_words words = {.least = 1, .most = 1, .missing = "which remote?"};
    remote_parse(cli, &argp, argc, argv, &words);
    if (strchr(words.word[0], '@'))
        return err_set(
            reterr, SNAP_EINVAL,
            "%s is a snapshot's name, and remove forgets a daemon; snapctl remote delete",
            words.word[0]);
    return change(words.word[0], remote_conf_remove, reterr);
}

/* -- list ---------------------------------------------------------------------------------- */

static json_t *remotes_json(const struct remote_conf *conf)
{
    json_t *rows = json_array();
    for (size_t i = 0; rows && i < conf->count; i++) {
        const struct remote_entry *e = &conf->entries[i];
        json_t *row = json_pack("{s:s, s:b, s:o, s:o*, s:o*, s:o*, s:o*, s:o*}", "name", e->name,
                                "current", conf->current && strcmp(conf->current, e->name) == 0,
                                "address", out_path(e->address), "ca", out_path(e->ca),
                                "certificate", out_path(e->certificate), "key", out_path(e->key),
                                "crl", out_path(e->crl), "server_name", out_path(e->server_name));
        if (json_array_append_new(rows, row) != 0) {
            json_decref(rows);
            return NULL;
        }
    }
    return rows;
}

int remote_cmd_list(struct cli *cli, int argc, char **argv, struct err *reterr)
{
    static const struct argp argp = {
        .parser = remote_parse_word,
        .doc = "The daemons that are known.",
        .children = remote_children,
    };
    static const struct out_column columns[] = {
        {"name", "NAME", OUT_TEXT},
        {"current", "CHOSEN", OUT_YES_NO},
        {"address", "ADDRESS", OUT_TEXT},
        {"certificate", "CERTIFICATE", OUT_TEXT},
        {0},
    };
    struct remote_words words = {0};
    char path[LIMIT_PATH_BYTES];
    struct remote_conf conf = REMOTE_CONF_INIT;
    remote_parse(cli, &argp, argc, argv, &words);
    int rc = remote_conf_path(path, reterr);
    if (rc == 0)
        rc = remote_conf_load(path, &conf, reterr);
    if (rc == 0 && conf.count == 0 && !cli->json)
        cli_note(cli, "no daemon is known (%s); snapctl remote add NAME ADDRESS", path);
    if (rc == 0)
        rc = out_rows(cli, remotes_json(&conf), columns, reterr);
    remote_conf_done(&conf);
    return rc;
}

/* -- the group ------------------------------------------------------------------------------ */

static const struct cli_command commands[] = {
    {"add", "remember a daemon", remote_cmd_add},
    {"use", "choose the daemon to talk to", remote_cmd_use},
    {"list", "the daemons that are known", remote_cmd_list},
    {"remove", "forget a daemon", remote_cmd_remove},
    {"status", "the daemon at a glance", remote_cmd_status},
    {"create", "make a volume or a snapshot", remote_cmd_create},
    {"ls", "volumes, or the snapshots of one", remote_cmd_ls},
    {"show", "all about a volume or a snapshot", remote_cmd_show},
    {"delete", "delete a volume or a snapshot", remote_cmd_delete},
    {"check", "look for structural faults", remote_cmd_check},
    {"accept", "take an unverified snapshot as it is", remote_cmd_accept},
    {"verify", "compare content with checksums", remote_cmd_verify},
    {"apply", "overwrite an origin, its old content kept remotely", remote_cmd_apply},
    {"diff", "what changed since a snapshot", remote_cmd_diff},
    {"import", "write a file's content into a hosted volume", remote_cmd_import},
    {"export", "write a snapshot's or hosted volume's content to a file", remote_cmd_export},
    {"clone", "make a writable snapshot of a snapshot", remote_cmd_clone},
    {"mount", "put a file system inside into this host's tree", remote_cmd_mount},
    {"umount", "take it out again", remote_cmd_umount},
    {"rollback", "return a hosted volume to a snapshot", remote_cmd_rollback},
    {"merge", "roll back to a snapshot, which is used up", remote_cmd_merge},
    {"grant", "give somebody a right", remote_cmd_grant},
    {"revoke", "take a right away", remote_cmd_revoke},
    {"grants", "who may do what", remote_cmd_grants},
    {"jobs", "what the daemon does on its own", remote_cmd_jobs},
    {"cancel", "take a job back", remote_cmd_cancel},
    {"bench", "generate load, with a report", remote_cmd_bench},
    {0},
};

const struct cli_group cli_group_remote = {
    .name = "remote",
    .summary = "volumes and snapshots of a daemon",
    .commands = commands,
};
