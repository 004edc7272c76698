/* SPDX-License-Identifier: Apache-2.0 */
/* TLS 1.3 with mutual certificates. The only file with OpenSSL in it is tls.c.
 * Sessions read and write the socket themselves. What is written is gathered until
 * tls_flush(), or until it is much.
 */
#ifndef SNAP_NET_TLS_H
#define SNAP_NET_TLS_H

#include "common/base/err.h"
#include "common/base/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct tls_context; /* reference counted, safe to share among threads */
struct tls_session;

struct tls_files {
    const char *ca_path;          /* PEM: who may vouch for peers */
    const char *certificate_path; /* PEM: own chain */
    const char *key_path;         /* PEM, not readable by others */
    const char *crl_path;         /* PEM, lists of CAs in ca_path; NULL: none */
};

/* Errors name the file and what is wrong with it: SNAP_ENOENT, SNAP_EPERM (key readable
 * by all), SNAP_EINVAL (not PEM, key does not match, CRL of another CA). */
int tls_context_new(bool server, const struct tls_files *files, struct tls_context **ret,
                    struct err *reterr) SNAP_WUR;
struct tls_context *tls_context_ref(struct tls_context *c);
void tls_context_unref(struct tls_context *c); /* takes NULL */
/* What is odd about the own certificate, though it was taken: who sees it may refuse it. */
void tls_context_warnings(const struct tls_context *c, void (*warn)(void *user, const char *text),
                          void *user);
/* Is the peer's certificate, or one above it, revoked by the context's lists? For live sessions
 * after a reload. */
bool tls_session_revoked(const struct tls_session *s, const struct tls_context *now);

int tls_session_new(struct tls_context *c, int fd, const char *server_name,
                    struct tls_session **ret, struct err *reterr) SNAP_WUR;
void tls_session_free(struct tls_session *s);

enum { TLS_WANT_READ = -1001, TLS_WANT_WRITE = -1002, TLS_EOF = -1003 };
/* 0: done; TLS_WANT_…; or a negative SNAP_E… (SNAP_EAUTH with the verification's reason:
 * expired, revoked, unknown CA, none given). */
int tls_handshake(struct tls_session *s, struct err *reterr) SNAP_WUR;
/* > 0 bytes, TLS_WANT_…, TLS_EOF (clean close), or a negative SNAP_E…. Of what is left when
 * a reader stops before TLS_WANT_READ no poll tells. */
ssize_t tls_read(struct tls_session *s, void *buf, size_t len, struct err *reterr) SNAP_WUR;
ssize_t tls_write(struct tls_session *s, const void *buf, size_t len, struct err *reterr) SNAP_WUR;
/* Hand to the socket what tls_write() gathered: 0 all of it, TLS_WANT_WRITE, or a negative
 * SNAP_E…. Nobody else does it: to be called before the caller waits. */
int tls_flush(struct tls_session *s, struct err *reterr) SNAP_WUR;
size_t tls_unsent_bytes(const struct tls_session *s); /* gathered */
uint64_t tls_sent_bytes(const struct tls_session *s); /* handed to the socket, ever */
void tls_close_notify(struct tls_session *s);
/* Identity: first DNS SAN, else e-mail SAN, else URI SAN; names are checked with name_check(). */
int tls_peer_identity(const struct tls_session *s, char ret[LIMIT_NAME_BYTES + 1],
                      struct err *reterr) SNAP_WUR;

#endif
