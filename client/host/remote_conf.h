/* SPDX-License-Identifier: Apache-2.0 */
/* The file of known daemons: name, address, certificates, and which one is chosen.
 *
 *     current = 'here'
 *     remote 'here' {
 *         address = 'localhost:7453'
 *         ca = '/etc/snapwire/ca.crt'
 *         certificate = '…'  key = '…'  crl = '…'  server_name = '…'
 *     }
 */
#ifndef SNAP_HOST_REMOTE_CONF_H
#define SNAP_HOST_REMOTE_CONF_H

#include "common/base/err.h"
#include "common/base/limits.h"

#include <stdbool.h>
#include <stddef.h>

/* Strings are malloc'd; NULL: not given. */
struct remote_entry {
    char *name;
    char *address; /* one or several, as snapwire_config.addresses */
    char *ca, *certificate, *key, *crl, *server_name;
};

struct remote_conf {
    struct remote_entry *entries; /* in the file's order */
    size_t count;
    char *current; /* NULL: none chosen; may name one that is not there */
};

#define REMOTE_CONF_INIT ((struct remote_conf){0})

enum { REMOTES_MAX = 1000 };

/* $SNAPWIRE_CONFIG, else $XDG_CONFIG_HOME/snapwire/remotes.conf, else the one below ~/.config.
 * Errors: SNAP_EINVAL. */
int remote_conf_path(char buf[LIMIT_PATH_BYTES], struct err *reterr) SNAP_WUR;
/* A file that is not there is an empty one. ret: REMOTE_CONF_INIT; end with _done, also after
 * an error. Errors: SNAP_EINVAL "FILE:LINE: …", SNAP_ELIMIT, SNAP_EPERM, SNAP_EIO. */
int remote_conf_load(const char *path, struct remote_conf *ret, struct err *reterr) SNAP_WUR;
/* Held from before it is loaded until it is saved: of two changes at once none is lost. Makes its
 * folders. *ret_fd: closed by the caller. Errors: SNAP_EPERM, SNAP_EIO. */
int remote_conf_lock(const char *path, int *ret_fd, struct err *reterr) SNAP_WUR;
/* Replaces the file durably, under remote_conf_lock(); a symbolic link stays one. */
int remote_conf_save(const char *path, const struct remote_conf *conf, struct err *reterr) SNAP_WUR;
/* Owns: *ret_text is malloc'd. */
int remote_conf_format(const struct remote_conf *conf, char **ret_text, size_t *ret_len,
                       struct err *reterr) SNAP_WUR;
void remote_conf_done(struct remote_conf *conf);

/* NULL: none of that name. */
const struct remote_entry *remote_conf_find(const struct remote_conf *conf, const char *name);
/* A copy of entry at the end. Errors: SNAP_EEXIST, SNAP_EINVAL (what cannot be written or
 * used), SNAP_ELIMIT, SNAP_ENOMEM. */
int remote_conf_add(struct remote_conf *conf, const struct remote_entry *entry,
                    struct err *reterr) SNAP_WUR;
/* If it was the chosen one, none is. Errors: SNAP_ENOENT. */
int remote_conf_remove(struct remote_conf *conf, const char *name, struct err *reterr) SNAP_WUR;
/* Errors: SNAP_ENOENT, SNAP_ENOMEM. */
int remote_conf_choose(struct remote_conf *conf, const char *name, struct err *reterr) SNAP_WUR;
/* Every address parses, and what is no Unix socket has its certificates. Errors: SNAP_EINVAL. */
int remote_entry_check(const struct remote_entry *entry, struct err *reterr) SNAP_WUR;

#endif
