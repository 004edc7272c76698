/* SPDX-License-Identifier: Apache-2.0 */
/* From a plugin's parameters to the library's configuration.
 *
 *   server= given            ──> that address; an entry only if remote= names one
 *   remote=, $SNAPWIRE_REMOTE or the file's choice ──> the entry of snapctl's file
 *
 * What stands on the command line beats the entry, value by value. Paths are made absolute here,
 * as nbdkit leaves its folder when it goes to the background.
 *
 * It must not know what the daemon is asked. Thread: main's, before nbdkit forks.
 */
#include "client/nbdkit/server_args.h"

#include "client/host/remote_conf.h"
#include "client/nbdkit/nbdkit_api.h"
#include "common/base/bytes.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { BACKOFF_MAX_MS = 1000 };

static int out_of_memory(void)
{
    nbdkit_error("out of memory for the parameters");
    return -1;
}

/* -- one parameter ---------------------------------------------------------------------- */

static int take_timeout(struct server_args *a, const char *value)
{
    if (nbdkit_parse_unsigned("timeout", value, &a->timeout_s) < 0)
        return -1;
    if (a->timeout_s < 1 || a->timeout_s > 86400) {
        nbdkit_error("timeout=%s: it must be 1 to 86400 seconds", value);
        return -1;
    }
    return 1;
}

int server_args_take(struct server_args *a, const char *key, const char *value)
{
    const struct {
        const char *key;
        char **where;
        bool path;
    } keys[] = {
        {"server", &a->server, false},
        {"ca", &a->ca, true},
        {"certificate", &a->certificate, true},
        {"key", &a->key, true},
        {"crl", &a->crl, true},
        {"server_name", &a->server_name, false},
        {"config", &a->config, true},
        {"remote", &a->remote, false},
    };
    if (strcmp(key, "timeout") == 0)
        return take_timeout(a, value);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        if (strcmp(key, keys[i].key) != 0)
            continue;
        if (*keys[i].where) {
            nbdkit_error("%s= is given twice", key);
            return -1;
        }
        if (!*value) {
            nbdkit_error("%s= is empty", key);
            return -1;
        }
        *keys[i].where = keys[i].path ? nbdkit_absolute_path(value) : strdup(value);
        return *keys[i].where ? 1 : out_of_memory();
    }
    return 0;
}

/* -- the entry of the file ---------------------------------------------------------------- */

static const char *choice(const struct server_args *a, const struct remote_conf *conf)
{
    const char *name = a->remote ? a->remote : getenv("SNAPWIRE_REMOTE");
    return name && *name ? name : conf->current;
}

/* An entry's value where the command line has none. */
static int fill_in(char **where, const char *value, bool path)
{
    if (*where || !value)
        return 0;
    *where = path ? nbdkit_absolute_path(value) : strdup(value);
    return *where ? 0 : out_of_memory();
}

static int take_entry(struct server_args *a, const struct remote_entry *e)
{
    if (fill_in(&a->server, e->address, false) < 0 || fill_in(&a->ca, e->ca, true) < 0 ||
        fill_in(&a->certificate, e->certificate, true) < 0 || fill_in(&a->key, e->key, true) < 0 ||
        fill_in(&a->crl, e->crl, true) < 0 || fill_in(&a->server_name, e->server_name, false) < 0)
        return -1;
    return 0;
}

static int from_file(struct server_args *a, const char *path)
{
    struct remote_conf conf = REMOTE_CONF_INIT;
    struct err why = ERR_INIT;
    int rc = -1;
    if (remote_conf_load(path, &conf, &why) < 0) {
        nbdkit_error("%s", why.text);
    } else {
        const char *name = choice(a, &conf);
        const struct remote_entry *e = name ? remote_conf_find(&conf, name) : NULL;
        if (e)
            rc = take_entry(a, e);
        else if (name)
            nbdkit_error("no remote '%.128s' in %s; see snapctl remote list", name, path);
        else
            nbdkit_error("which daemon? Give server=HOST, or choose one: snapctl remote use NAME "
                         "(none is chosen in %s)",
                         path);
    }
    remote_conf_done(&conf);
    return rc;
}

/* The rules of an entry hold for what the command line gives too. */
static int check(const struct server_args *a)
{
    const struct remote_entry e = {.name = (char *)(uintptr_t) "server",
                                   .address = a->server,
                                   .ca = a->ca,
                                   .certificate = a->certificate,
                                   .key = a->key,
                                   .crl = a->crl,
                                   .server_name = a->server_name};
    struct remote_entry whole = e; /* would it do with what is missing? */
    struct err why = ERR_INIT;
    char *const something = (char *)(uintptr_t) "/";
    if (remote_entry_check(&e, &why) == 0)
        return 0;
    whole.ca = e.ca ? e.ca : something;
    whole.certificate = e.certificate ? e.certificate : something;
    whole.key = e.key ? e.key : something;
    if (remote_entry_check(&whole, NULL) == 0)
        nbdkit_error("server=%s: ca=, certificate= and key= are needed, as the address is no Unix "
                     "socket",
                     a->server);
    else
        nbdkit_error("server=%s: %s", a->server, why.text);
    return -1;
}

int server_args_complete(struct server_args *a)
{
    if (a->timeout_s == 0)
        a->timeout_s = SERVER_ARGS_TIMEOUT_S;
    if (!a->server || a->remote) {
        char path[LIMIT_PATH_BYTES];
        struct err why = ERR_INIT;
        if (!a->config && remote_conf_path(path, &why) < 0) {
            nbdkit_error("%s", why.text);
            return -1;
        }
        if (from_file(a, a->config ? a->config : path) < 0)
            return -1;
    }
    return check(a);
}

void server_args_done(struct server_args *a)
{
    free(a->server);
    free(a->ca);
    free(a->certificate);
    free(a->key);
    free(a->crl);
    free(a->server_name);
    free(a->config);
    free(a->remote);
    *a = (struct server_args){0};
}

struct snapwire_config server_args_config(const struct server_args *a)
{
    return (struct snapwire_config){
        .size = sizeof(struct snapwire_config),
        .addresses = a->server,
        .ca_path = a->ca,
        .certificate_path = a->certificate,
        .key_path = a->key,
        .crl_path = a->crl,
        .server_name = a->server_name,
        .software = "nbdkit-snapwire " SNAPWIRE_VERSION,
        .request_timeout_ms = a->timeout_s * 1000,
        /* who waits is a guest: look often, and more than once before a request fails */
        .backoff_max_ms = a->timeout_s > 1 ? BACKOFF_MAX_MS : BACKOFF_MAX_MS / 2,
    };
}
