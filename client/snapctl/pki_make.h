/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates and revocation lists: made and signed in memory with OpenSSL,
 * kept as PEM files in one folder. EC P-256 keys, SHA-256.
 */
#ifndef SNAP_SNAPCTL_PKI_MAKE_H
#define SNAP_SNAPCTL_PKI_MAKE_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct pki_issue {
    const char *name; /* the first name in the certificate: what rights are granted to */
    bool server;
    const char *const *also; /* more names or addresses of a server; ends with NULL; may be NULL */
    uint32_t days;
};

/* Each change of a folder waits for the one before. */

/* Make dir with ca.key, ca.crt and an empty ca.crl. Errors: SNAP_EEXIST (there is an
 * authority already; nothing is overwritten).
 * A ca.key that stands there without ca.crt is used. */
int pki_init(const char *dir, const char *common_name, uint32_t days, struct err *reterr) SNAP_WUR;
/* Make dir/{server,client}-NAME.{key,crt}, valid for so many days but not beyond the authority.
 * Errors: SNAP_EEXIST, SNAP_ENOENT (no authority), SNAP_EINVAL (it has expired). */
int pki_issue(const char *dir, const struct pki_issue *what, struct err *reterr) SNAP_WUR;
/* Put the certificate in ca.crl, move it to dir/revoked. kind: "server" or "client".
 * Errors: SNAP_ENOENT, SNAP_EMISMATCH (of another authority). */
int pki_revoke(const char *dir, const char *kind, const char *name, struct err *reterr) SNAP_WUR;
bool pki_has(const char *dir, const char *kind, const char *name);

#endif
