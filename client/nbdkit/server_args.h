/* SPDX-License-Identifier: Apache-2.0 */
/* Which daemon a plugin speaks to: its parameters on nbdkit's command line, snapctl's file of
 * remotes, and the environment that snapctl knows. */
#ifndef SNAP_NBDKIT_SERVER_ARGS_H
#define SNAP_NBDKIT_SERVER_ARGS_H

#include "client/lib/snapwire.h"

/* Strings are malloc'd; NULL: not given. */
struct server_args {
    char *server; /* after _complete: the addresses */
    char *ca, *certificate, *key, *crl, *server_name;
    char *config; /* the file of remotes */
    char *remote; /* an entry of it */
    unsigned timeout_s;
};

enum { SERVER_ARGS_TIMEOUT_S = 60 };

#define SERVER_ARGS_HELP                                                         \
    "server=HOST[:PORT]     The daemon; unix:/PATH, or several separated by\n"   \
    "                       commas. Default: the chosen remote of config.\n"     \
    "ca=FILE certificate=FILE key=FILE\n"                                        \
    "                       PEM files; needed unless server is a Unix socket.\n" \
    "crl=FILE               Revoked certificates, PEM.\n"                        \
    "server_name=NAME       Name in the daemon's certificate.\n"                 \
    "config=FILE            snapctl's file of remotes ($SNAPWIRE_CONFIG).\n"     \
    "remote=NAME            An entry of that file ($SNAPWIRE_REMOTE).\n"         \
    "timeout=SECONDS        A request without an answer fails then (default 60)."

/* Errors are told by nbdkit_error(). Thread: main's. */
/* 1: taken; 0: no parameter of these; -1: an error. */
int server_args_take(struct server_args *a, const char *key, const char *value);
/* Once all parameters are there. 0 or -1. */
int server_args_complete(struct server_args *a);
void server_args_done(struct server_args *a);
/* It borrows a's strings. */
struct snapwire_config server_args_config(const struct server_args *a);

#endif
