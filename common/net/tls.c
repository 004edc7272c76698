/* SPDX-License-Identifier: Apache-2.0 */
/* TLS 1.3 with certificates on both sides; the only file that knows OpenSSL.
 *
 *     tls_context   files read once; shared by sessions and threads, counted
 *     tls_session   one connection; keeps its context
 *
 * Between SSL and the socket stands a BIO of ours. Outward it gathers records, so that a
 * turn's are one send: what tls_write() took goes out when the buffer is full and with
 * tls_flush(). (OpenSSL itself flushes handshakes and alerts.) It sends with MSG_NOSIGNAL,
 * so that a peer that goes away costs nobody a SIGPIPE. Inward, OpenSSL's read-ahead
 * takes header and body of a record with one read, and no more: before each record it
 * moves all that it has read ahead to the front of its buffer, which costs more than the
 * reads that a longer one saves. What is decrypted or read ahead no poll tells of: whoever
 * stops before TLS_WANT_READ has to come back by himself. Both buffers are there only while
 * something is in them.
 * Tickets and the session cache are off: every connection shows its certificate.
 *
 * In TLS 1.3 the client has finished its handshake before the daemon has looked
 * at its certificate: the daemon's refusal arrives as an alert in a later read.
 * So every function here maps alerts to what they say about our certificate.
 *
 * Thread: a session's own; contexts any.
 */
#include "common/net/tls.h"

#include "common/base/name.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

enum {
    GATHER_BYTES = 120 * 1024, /* seven full records and some small ones */
    CRLS_MAX = 64,
    EXPIRY_WARN_DAYS = 30,
};

struct tls_context {
    SSL_CTX *ctx;
    bool server;
    atomic_uint refs;
    STACK_OF(X509_CRL) * crls; /* NULL: none */
};

struct tls_session {
    SSL *ssl;
    struct tls_context *context;
    int fd;
    bool handshake_done;
    bool broken;  /* OpenSSL forbids further calls but free */
    uint8_t *out; /* records on their way to the socket; NULL: none */
    size_t out_pos, out_len;
    uint64_t sent_bytes;
};

/* -- errors ------------------------------------------------------------------------------ */

/* The queue's oldest error is the cause; the queue is empty afterwards. */
static int fail_openssl(struct err *reterr, int code, const char *what)
{
    char text[200];
    const unsigned long e = ERR_peek_error();
    const char *reason = e != 0 ? ERR_reason_error_string(e) : NULL;
    if (reason == NULL) {
        ERR_error_string_n(e, text, sizeof text);
        reason = e != 0 ? text : "no reason given";
    }
    const int r = err_set(reterr, code, "%s: %s", what, reason);
    ERR_clear_error();
    return r;
}

/* What the peer's alert says about our certificate; NULL: it is about something else. */
static const char *refusal(int reason, bool server)
{
    switch (reason) {
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        return "none was given";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
        return "it is of a CA that is not trusted there";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
        return "it has expired (or the revocation list there has)";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
        return "it is revoked";
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
        return server ? "it does not carry the name asked for, or is not valid yet"
                      : "it is not valid yet by the clock there";
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
        return "it is not made for this purpose";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
        return "it is not acceptable there";
    case SSL_R_TLSV1_ALERT_DECRYPT_ERROR:
        return "its signature does not match";
    default:
        return NULL;
    }
}

/* Alerts that say nothing against a next try; NULL: it is about something else. OpenSSL sends
 * decode_error when what it reads ends without close_notify: one direction of ours was cut. */
static const char *passing_trouble(int reason)
{
    switch (reason) {
    case SSL_R_UNEXPECTED_EOF_WHILE_READING:
        return "the connection was cut";
    case SSL_R_TLSV1_ALERT_DECODE_ERROR:
        return "the connection was cut on its way to the other end";
    case SSL_R_TLSV1_ALERT_INTERNAL_ERROR:
        return "the other end has failed";
    default:
        return NULL;
    }
}

static const char *peer_word(const struct tls_session *s)
{
    return s->context->server ? "client" : "daemon";
}

/* Why a certificate was not accepted here. */
static int fail_verify(const struct tls_session *s, long v, struct err *reterr)
{
    const char *why = X509_verify_cert_error_string(v);
    switch (v) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        why = "it has expired";
        break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        why = "it is not valid yet";
        break;
    case X509_V_ERR_CERT_REVOKED:
        why = "it is revoked";
        break;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        why = "it does not carry the name asked for";
        break;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        why = "it is of a CA that is not trusted here";
        break;
    case X509_V_ERR_INVALID_PURPOSE:
        why = "it is not made for this purpose";
        break;
    case X509_V_ERR_CRL_HAS_EXPIRED:
        why = "our revocation list has expired";
        break;
    case X509_V_ERR_UNABLE_TO_GET_CRL:
        why = "there is no revocation list of its CA";
        break;
    default:
        break;
    }
    return err_set(reterr, SNAP_EAUTH, "the %s's certificate is refused: %s", peer_word(s), why);
}

/* A call on s->ssl returned ret <= 0. */
static int fail_session(struct tls_session *s, int ret, const char *what, struct err *reterr)
{
    const int sys = errno;
    const int kind = SSL_get_error(s->ssl, ret);
    if (kind == SSL_ERROR_WANT_READ)
        return TLS_WANT_READ;
    if (kind == SSL_ERROR_WANT_WRITE)
        return TLS_WANT_WRITE;
    if (kind == SSL_ERROR_ZERO_RETURN)
        return TLS_EOF;
    s->broken = true;
    if (kind == SSL_ERROR_SYSCALL) {
        ERR_clear_error();
        if (sys != 0)
            return err_set_errno(reterr, SNAP_ECONN, sys, "%s", what);
        return err_set(reterr, SNAP_ECONN, "%s: the connection was cut", what);
    }
    const int reason = ERR_GET_REASON(ERR_peek_error());
    const char *why = refusal(reason, s->context->server), *trouble = passing_trouble(reason);
    int r;
    if (why != NULL)
        r = err_set(reterr, SNAP_EAUTH, "the %s refused our certificate: %s", peer_word(s), why);
    else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
        r = err_set(reterr, SNAP_EAUTH, "the %s gave no certificate", peer_word(s));
    else if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED)
        r = fail_verify(s, SSL_get_verify_result(s->ssl), reterr);
    else if (trouble != NULL)
        r = err_set(reterr, SNAP_ECONN, "%s: %s", what, trouble);
    else
        return fail_openssl(reterr, SNAP_EPROTO, what);
    ERR_clear_error();
    return r;
}

/* -- the socket ------------------------------------------------------------------------------ */

static int fd_of(BIO *bio)
{
    return ((const struct tls_session *)BIO_get_data(bio))->fd;
}

/* What is gathered, to the socket. False, with errno: it did not take all of it. */
static bool gather_send(struct tls_session *s)
{
    while (s->out_pos < s->out_len) {
        const size_t rest = s->out_len - s->out_pos;
        const ssize_t n = send(s->fd, s->out + s->out_pos, rest, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return false;
        s->out_pos += (size_t)n;
        s->sent_bytes += (uint64_t)n;
        if ((size_t)n < rest) {
            errno = EAGAIN;
            return false;
        }
    }
    s->out_pos = s->out_len = 0;
    return true;
}

static bool gather_flush(struct tls_session *s)
{
    if (!gather_send(s))
        return false;
    free(s->out);
    s->out = NULL;
    return true;
}

/* Room for len bytes, or as many as the buffer ever has; 0, with errno: none for now. */
static size_t gather_room(struct tls_session *s, size_t len)
{
    if (len > GATHER_BYTES)
        len = GATHER_BYTES;
    if (s->out_len + len > GATHER_BYTES && !gather_send(s)) {
        if (errno != EAGAIN || s->out_len - s->out_pos + len > GATHER_BYTES)
            return 0;
        memmove(s->out, s->out + s->out_pos, s->out_len - s->out_pos);
        s->out_len -= s->out_pos;
        s->out_pos = 0;
    }
    if (s->out == NULL)
        s->out = malloc(GATHER_BYTES);
    return s->out != NULL ? len : 0; /* ENOMEM */
}

static int socket_write(BIO *bio, const char *data, int len)
{
    struct tls_session *s = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    const size_t n = gather_room(s, (size_t)len);
    if (n == 0) {
        if (errno == EAGAIN)
            BIO_set_retry_write(bio);
        return -1;
    }
    memcpy(s->out + s->out_len, data, n);
    s->out_len += n;
    return (int)n;
}

static int socket_flush(BIO *bio)
{
    BIO_clear_retry_flags(bio);
    if (gather_flush(BIO_get_data(bio)))
        return 1;
    if (errno == EAGAIN)
        BIO_set_retry_write(bio);
    return -1;
}

static int socket_read(BIO *bio, char *data, int len)
{
    errno = 0;
    const ssize_t n = recv(fd_of(bio), data, (size_t)len, 0);
    BIO_clear_retry_flags(bio);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_read(bio);
    else if (n == 0)
        BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
    return (int)n;
}

static long socket_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
    (void)num;
    (void)ptr;
    if (cmd == BIO_CTRL_EOF)
        return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
    return cmd == BIO_CTRL_FLUSH ? socket_flush(bio) : 0;
}

static pthread_once_t method_once = PTHREAD_ONCE_INIT;
static BIO_METHOD *method; /* for the life of the process */

static void method_make(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "snapwire socket");
    if (m == NULL)
        return;
    if (BIO_meth_set_write(m, socket_write) != 1 || BIO_meth_set_read(m, socket_read) != 1 ||
        BIO_meth_set_ctrl(m, socket_ctrl) != 1) {
        BIO_meth_free(m);
        return;
    }
    method = m;
}

static BIO *socket_bio(struct tls_session *s)
{
    (void)pthread_once(&method_once, method_make);
    BIO *bio = method != NULL ? BIO_new(method) : NULL;
    if (bio == NULL)
        return NULL;
    BIO_set_data(bio, s);
    BIO_set_init(bio, 1);
    return bio;
}

/* -- contexts --------------------------------------------------------------------------- */

/* Open for reading; the error names the file. */
static int open_pem(const char *path, BIO **ret, struct err *reterr)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "%s", path);
    *ret = BIO_new_file(path, "r");
    if (*ret != NULL)
        return 0;
    const int e = errno;
    ERR_clear_error();
    return err_set_errno(reterr, e != 0 ? err_code_of_errno(e) : SNAP_ENOMEM, e, "%s", path);
}

static int load_ca(SSL_CTX *ctx, const char *path, bool server, struct err *reterr)
{
    BIO *bio = NULL;
    const int r = open_pem(path, &bio, reterr);
    if (r < 0)
        return r;
    BIO_free(bio);
    if (SSL_CTX_load_verify_file(ctx, path) != 1) {
        ERR_clear_error();
        return err_set(reterr, SNAP_EINVAL, "%s: holds no certificate in PEM", path);
    }
    if (!server)
        return 0;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(path);
    if (names == NULL)
        return fail_openssl(reterr, SNAP_EINVAL, path);
    SSL_CTX_set_client_CA_list(ctx, names);
    return 0;
}

static int load_key(SSL_CTX *ctx, const struct tls_files *files, struct err *reterr)
{
    struct stat st;
    BIO *bio = NULL;
    int r = open_pem(files->certificate_path, &bio, reterr);
    if (r < 0)
        return r;
    BIO_free(bio);
    if (SSL_CTX_use_certificate_chain_file(ctx, files->certificate_path) != 1) {
        ERR_clear_error();
        return err_set(reterr, SNAP_EINVAL, "%s: holds no usable certificate in PEM",
                       files->certificate_path);
    }
    r = open_pem(files->key_path, &bio, reterr);
    if (r < 0)
        return r;
    BIO_free(bio);
    if (stat(files->key_path, &st) < 0)
        return err_set_errno(reterr, err_code_of_errno(errno), errno, "%s", files->key_path);
    if ((st.st_mode & S_IRWXO) != 0)
        return err_set(reterr, SNAP_EPERM, "%s: a private key must not be open to all (mode %04o)",
                       files->key_path, (unsigned)(st.st_mode & 07777));
    if (SSL_CTX_use_PrivateKey_file(ctx, files->key_path, SSL_FILETYPE_PEM) != 1) {
        const bool mismatch = ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH ||
                              ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_TYPE_MISMATCH;
        ERR_clear_error();
        return err_set(reterr, SNAP_EINVAL,
                       mismatch ? "%s: is not the key of %s"
                                : "%s: holds no private key in PEM%.0s",
                       files->key_path, files->certificate_path);
    }
    if (SSL_CTX_check_private_key(ctx) != 1) {
        ERR_clear_error();
        return err_set(reterr, SNAP_EINVAL, "%s: is not the key of %s", files->key_path,
                       files->certificate_path);
    }
    return 0;
}

/* Is the list signed by a CA of this store, and of today? */
static int check_crl(X509_STORE *store, X509_CRL *crl, const char *path, struct err *reterr)
{
    int r = err_set(reterr, SNAP_EINVAL, "%s: is a revocation list of another CA", path);
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    X509_OBJECT *ca = NULL;
    if (ctx != NULL && X509_STORE_CTX_init(ctx, store, NULL, NULL) == 1)
        ca = X509_STORE_CTX_get_obj_by_subject(ctx, X509_LU_X509, X509_CRL_get_issuer(crl));
    if (ca != NULL && X509_CRL_verify(crl, X509_get0_pubkey(X509_OBJECT_get0_X509(ca))) == 1)
        r = 0;
    X509_OBJECT_free(ca);
    X509_STORE_CTX_free(ctx);
    ERR_clear_error();
    const ASN1_TIME *next = X509_CRL_get0_nextUpdate(crl);
    if (r == 0 && next != NULL && X509_cmp_current_time(next) < 0)
        r = err_set(reterr, SNAP_EINVAL, "%s: the revocation list has expired", path);
    return r;
}

static int take_crls(struct tls_context *c, BIO *bio, const char *path, struct err *reterr)
{
    X509_STORE *store = SSL_CTX_get_cert_store(c->ctx);
    X509_CRL *crl;
    while ((crl = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL)) != NULL) {
        const int r = check_crl(store, crl, path, reterr);
        if (r < 0 || sk_X509_CRL_num(c->crls) >= CRLS_MAX || X509_STORE_add_crl(store, crl) != 1 ||
            sk_X509_CRL_push(c->crls, crl) <= 0) {
            X509_CRL_free(crl);
            return r < 0 ? r : err_set(reterr, SNAP_ELIMIT, "%s: too many lists", path);
        }
    }
    ERR_clear_error();
    if (sk_X509_CRL_num(c->crls) == 0)
        return err_set(reterr, SNAP_EINVAL, "%s: holds no revocation list in PEM", path);
    return X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL) == 1
               ? 0
               : fail_openssl(reterr, SNAP_ENOMEM, path);
}

static int load_crls(struct tls_context *c, const char *path, struct err *reterr)
{
    BIO *bio = NULL;
    int r = open_pem(path, &bio, reterr);
    if (r < 0)
        return r;
    c->crls = sk_X509_CRL_new_null();
    r = c->crls == NULL ? err_set(reterr, SNAP_ENOMEM, "%s: out of memory", path)
                        : take_crls(c, bio, path, reterr);
    BIO_free(bio);
    return r;
}

/* AES is the fastest where the processor knows it, ChaCha20 elsewhere. */
static const char *cipher_order(void)
{
#if defined(__x86_64__) || defined(__i386__)
    const bool aes = __builtin_cpu_supports("aes") != 0;
#else
    const bool aes = true;
#endif
    return aes ? "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
               : "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384";
}

/* A key with a pass phrase is refused; nobody is asked on a terminal. */
static int no_pass_phrase(char *buf, int size, int writing, void *user)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)user;
    return -1;
}

/* With lists, the whole chain is looked up in them. The peer's own CA must have one; of a CA above
 * it a list counts where there is one. */
static int verify_step(int ok, X509_STORE_CTX *ctx)
{
    if (ok || X509_STORE_CTX_get_error(ctx) != X509_V_ERR_UNABLE_TO_GET_CRL ||
        X509_STORE_CTX_get_error_depth(ctx) == 0)
        return ok;
    X509_STORE_CTX_set_error(ctx, X509_V_OK);
    return 1;
}

static int set_options(SSL_CTX *ctx, struct err *reterr)
{
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(ctx, cipher_order()) != 1 || SSL_CTX_set_num_tickets(ctx, 0) != 1)
        return fail_openssl(reterr, SNAP_EINTERNAL, "TLS options");
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                 SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_passwd_cb(ctx, no_pass_phrase);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, verify_step);
    return 0;
}

int tls_context_new(bool server, const struct tls_files *files, struct tls_context **ret,
                    struct err *reterr)
{
    struct tls_context *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(reterr, SNAP_ENOMEM, "TLS: out of memory");
    c->server = server;
    atomic_init(&c->refs, 1);
    ERR_clear_error();
    c->ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    int r = c->ctx != NULL ? set_options(c->ctx, reterr) : fail_openssl(reterr, SNAP_ENOMEM, "TLS");
    if (r == 0)
        r = load_ca(c->ctx, files->ca_path, server, reterr);
    if (r == 0 && files->certificate_path != NULL)
        r = load_key(c->ctx, files, reterr);
    if (r == 0 && files->crl_path != NULL)
        r = load_crls(c, files->crl_path, reterr);
    if (r < 0) {
        tls_context_unref(c);
        return r;
    }
    *ret = c;
    return 0;
}

struct tls_context *tls_context_ref(struct tls_context *c)
{
    (void)atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void tls_context_unref(struct tls_context *c)
{
    if (c == NULL || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    sk_X509_CRL_pop_free(c->crls, X509_CRL_free);
    SSL_CTX_free(c->ctx);
    free(c);
}

static void warn_date(const ASN1_TIME *when, const char *what,
                      void (*warn)(void *user, const char *text), void *user)
{
    struct tm tm;
    char day[16] = "?", text[80];
    if (ASN1_TIME_to_tm(when, &tm) == 1)
        (void)strftime(day, sizeof day, "%Y-%m-%d", &tm);
    (void)snprintf(text, sizeof text, "the certificate %s %s", what, day);
    warn(user, text);
}

void tls_context_warnings(const struct tls_context *c, void (*warn)(void *user, const char *text),
                          void *user)
{
    X509 *cert = SSL_CTX_get0_certificate(c->ctx);
    time_t soon = time(NULL) + (time_t)EXPIRY_WARN_DAYS * 24 * 3600;
    if (cert == NULL)
        return;
    if (X509_check_purpose(cert, c->server ? X509_PURPOSE_SSL_SERVER : X509_PURPOSE_SSL_CLIENT,
                           0) != 1)
        warn(user, c->server ? "the certificate is not one for a server: clients refuse it"
                             : "the certificate is not one for a client: daemons refuse it");
    const ASN1_TIME *from = X509_get0_notBefore(cert), *until = X509_get0_notAfter(cert);
    if (X509_cmp_current_time(from) > 0)
        warn_date(from, "is not valid before", warn, user);
    if (X509_cmp_current_time(until) < 0)
        warn_date(until, "has expired on", warn, user);
    else if (X509_cmp_time(until, &soon) < 0)
        warn_date(until, "expires soon, on", warn, user);
    ERR_clear_error();
}

static bool is_revoked(const struct tls_context *c, X509 *cert)
{
    for (int i = 0; i < sk_X509_CRL_num(c->crls); i++) {
        X509_CRL *crl = sk_X509_CRL_value(c->crls, i);
        X509_REVOKED *entry = NULL;
        if (X509_NAME_cmp(X509_CRL_get_issuer(crl), X509_get_issuer_name(cert)) == 0 &&
            X509_CRL_get0_by_cert(crl, &entry, cert) == 1)
            return true;
    }
    return false;
}

bool tls_session_revoked(const struct tls_session *s, const struct tls_context *now)
{
    STACK_OF(X509) *chain = SSL_get0_verified_chain(s->ssl);
    for (int i = 0; i < sk_X509_num(chain); i++) /* none: -1 */
        if (is_revoked(now, sk_X509_value(chain, i)))
            return true;
    return false;
}

/* -- sessions --------------------------------------------------------------------------- */

/* The daemon's certificate must carry this name, or this IP address. */
static int expect_name(SSL *ssl, const char *name, struct err *reterr)
{
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    if (X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1)
        return 0;
    ERR_clear_error();
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
                                               X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    if (SSL_set1_host(ssl, name) != 1 || SSL_set_tlsext_host_name(ssl, name) != 1)
        return fail_openssl(reterr, SNAP_EINVAL, "TLS: the daemon's name");
    return 0;
}

int tls_session_new(struct tls_context *c, int fd, const char *server_name,
                    struct tls_session **ret, struct err *reterr)
{
    struct tls_session *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_set(reterr, SNAP_ENOMEM, "TLS: out of memory");
    if (!c->server && (server_name == NULL || server_name[0] == 0)) {
        free(s);
        return err_set(reterr, SNAP_EINVAL, "TLS: the daemon's name is not known");
    }
    ERR_clear_error();
    s->context = tls_context_ref(c);
    s->fd = fd;
    s->ssl = SSL_new(c->ctx);
    BIO *bio = s->ssl != NULL ? socket_bio(s) : NULL;
    int r = bio != NULL ? 0 : fail_openssl(reterr, SNAP_ENOMEM, "TLS");
    if (r == 0) {
        SSL_set_bio(s->ssl, bio, bio);
        if (c->server)
            SSL_set_accept_state(s->ssl);
        else
            SSL_set_connect_state(s->ssl);
        r = c->server ? 0 : expect_name(s->ssl, server_name, reterr);
    }
    if (r < 0) {
        tls_session_free(s);
        return r;
    }
    *ret = s;
    return 0;
}

void tls_session_free(struct tls_session *s)
{
    if (s == NULL)
        return;
    SSL_free(s->ssl);
    tls_context_unref(s->context);
    free(s->out);
    free(s);
}

int tls_handshake(struct tls_session *s, struct err *reterr)
{
    ERR_clear_error();
    errno = 0;
    const int r = SSL_do_handshake(s->ssl);
    if (r == 1) {
        s->handshake_done = true;
        return 0;
    }
    const int f = fail_session(s, r, "TLS handshake", reterr);
    if (f != TLS_EOF)
        return f;
    return err_set(reterr, SNAP_ECONN, "TLS handshake: the %s closed the connection", peer_word(s));
}

ssize_t tls_read(struct tls_session *s, void *buf, size_t len, struct err *reterr)
{
    size_t n = 0;
    ERR_clear_error();
    errno = 0;
    const int r = SSL_read_ex(s->ssl, buf, len, &n);
    return r == 1 ? (ssize_t)n : fail_session(s, r, "read", reterr);
}

ssize_t tls_write(struct tls_session *s, const void *buf, size_t len, struct err *reterr)
{
    size_t n = 0;
    ERR_clear_error();
    errno = 0;
    const int r = SSL_write_ex(s->ssl, buf, len, &n);
    return r == 1 ? (ssize_t)n : fail_session(s, r, "write", reterr);
}

int tls_flush(struct tls_session *s, struct err *reterr)
{
    if (gather_flush(s))
        return 0;
    if (errno == EAGAIN)
        return TLS_WANT_WRITE;
    s->broken = true;
    return err_set_errno(reterr, SNAP_ECONN, errno, "write");
}

size_t tls_unsent_bytes(const struct tls_session *s)
{
    return s->out_len - s->out_pos;
}

uint64_t tls_sent_bytes(const struct tls_session *s)
{
    return s->sent_bytes;
}

void tls_close_notify(struct tls_session *s)
{
    if (s->broken || !s->handshake_done)
        return;
    ERR_clear_error();
    (void)SSL_shutdown(s->ssl);
    ERR_clear_error();
}

/* The first name of a kind among the subject's alternative names, as text of its own. */
static bool san_text(const GENERAL_NAMES *names, int type, char *ret, size_t ret_bytes)
{
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != type)
            continue;
        const ASN1_STRING *text = name->d.ia5; /* DNS, e-mail and URI are all IA5 strings */
        const int len = ASN1_STRING_length(text);
        const unsigned char *data = ASN1_STRING_get0_data(text);
        if (len <= 0 || (size_t)len >= ret_bytes || memchr(data, 0, (size_t)len) != NULL)
            return false;
        memcpy(ret, data, (size_t)len);
        ret[len] = 0;
        return true;
    }
    return false;
}

int tls_peer_identity(const struct tls_session *s, char ret[LIMIT_NAME_BYTES + 1],
                      struct err *reterr)
{
    static const int types[] = {GEN_DNS, GEN_EMAIL, GEN_URI};
    X509 *cert = SSL_get0_peer_certificate(s->ssl);
    char text[LIMIT_NAME_BYTES + 1] = "";
    bool found = false;
    GENERAL_NAMES *names =
        cert != NULL ? X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL) : NULL;
    for (size_t i = 0; names != NULL && i < sizeof types / sizeof types[0] && !found; i++)
        found = san_text(names, types[i], text, sizeof text);
    GENERAL_NAMES_free(names);
    if (!found)
        return err_set(reterr, SNAP_EAUTH,
                       "the %s's certificate names nobody: it has no DNS, e-mail or URI SAN",
                       peer_word(s));
    if (name_check(text, "identity", reterr) < 0) {
        if (reterr != NULL)
            reterr->code = SNAP_EAUTH;
        (void)err_prefix(reterr, "the %s's certificate", peer_word(s));
        return SNAP_EAUTH;
    }
    memcpy(ret, text, sizeof text);
    return 0;
}
