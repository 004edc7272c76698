/* SPDX-License-Identifier: Apache-2.0 */
/* A daemon that a command talks to, and the targets it names. */
#ifndef SNAP_SNAPCTL_REMOTE_CONNECT_H
#define SNAP_SNAPCTL_REMOTE_CONNECT_H

#include "client/lib/snapwire.h"
#include "client/snapctl/cli.h"
#include "common/base/name.h"

struct remote {
    struct snapwire_client *client;
    char name[LIMIT_NAME_BYTES + 1];
};

/* Connect to the daemon of --on, $SNAPWIRE_REMOTE or the file's choice.
 * Errors: SNAP_ENOENT (no such remote, none chosen), what connecting ends with. */
int remote_open(const struct cli *cli, struct remote *ret, struct err *reterr) SNAP_WUR;
void remote_close(struct remote *r); /* takes zeros */

/* Hand an error of the library on. Returns its code. */
int remote_error(const struct snapwire_error *e, struct err *reterr);

/* VOLUME or VOLUME@SNAPSHOT, resolved. */
struct remote_target {
    struct target name;
    const char *text; /* as it was typed */
    struct snapwire_uuid volume, snapshot;
    uint64_t size_bytes;
    uint32_t chunk_bytes; /* 0: no snapshot yet */
    bool hosted;          /* the daemon has the origin too */
    uint8_t fingerprint[64];
    size_t fingerprint_bytes; /* of the origin that the volume was written with; 0: unknown */
};

enum remote_want { REMOTE_WANT_ANY, REMOTE_WANT_VOLUME, REMOTE_WANT_SNAPSHOT };

/* Errors: SNAP_EINVAL (no target, or the wrong kind), SNAP_ENOENT … */
int remote_resolve(struct remote *r, const char *text, enum remote_want want,
                   struct remote_target *ret, struct err *reterr) SNAP_WUR;
/* An origin must have its volume's size. Errors: SNAP_EMISMATCH naming both. */
int remote_check_size(const struct remote_target *t, const char *path, uint64_t size_bytes,
                      struct err *reterr) SNAP_WUR;

#endif
