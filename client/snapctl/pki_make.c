/* SPDX-License-Identifier: Apache-2.0 */
/* A small certificate authority in a folder.
 *
 *   ca.key  ca.crt  ca.crl           the authority; ca.key signs, guard it
 *   server-NAME.{key,crt}            for daemons
 *   client-NAME.{key,crt}            for those who use them
 *   revoked/KIND-NAME-SERIAL.crt     what was taken back
 *
 * Serial numbers are random; the revocation list is ca.crl itself, read, added to
 * and signed anew: there is no database beside it that could disagree. Changes of a
 * folder are made one after the other, under a lock on it.
 *
 * A crash leaves nothing that stands in the way. The .crt is what exists: its key is
 * written before it, and a key alone is made anew by the next issue. The list is
 * written before the certificate moves away, so that revoke can be run again. An
 * authority's key without its certificate is used, not replaced: it may have signed.
 */
#include "client/snapctl/pki_make.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/limits.h"
#include "common/base/rng.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum {
    BACKDATE_S = 300,
    COMMON_NAME_BYTES = 64,
    SERIAL_BYTES = 16,
    CERTIFICATE_VERSION_3 = 2,
    CRL_VERSION_2 = 1
};

static void x509_done(X509 **p)
{
    X509_free(*p);
}
static void crl_done(X509_CRL **p)
{
    X509_CRL_free(*p);
}
static void key_done(EVP_PKEY **p)
{
    EVP_PKEY_free(*p);
}
static void bio_done(BIO **p)
{
    (void)BIO_free(*p);
}
#define CLEANUP_X509 CLEANUP(x509_done) X509
#define CLEANUP_CRL CLEANUP(crl_done) X509_CRL
#define CLEANUP_KEY CLEANUP(key_done) EVP_PKEY
#define CLEANUP_BIO CLEANUP(bio_done) BIO

/* OpenSSL's own reason behind ours. */
static int fail(struct err *reterr, const char *what)
{
    char text[160] = "no reason given";
    unsigned long e = ERR_get_error();
    if (e)
        ERR_error_string_n(e, text, sizeof text);
    ERR_clear_error();
    return err_set(reterr, SNAP_EINTERNAL, "%s: %s", what, text);
}

static int path_of(char ret[LIMIT_PATH_BYTES], struct err *reterr, const char *dir,
                   const char *kind, const char *name, const char *suffix)
{
    int n =
        snprintf(ret, LIMIT_PATH_BYTES, "%s/%s%s%s%s", dir, kind, name[0] ? "-" : "", name, suffix);
    return n > 0 && n < LIMIT_PATH_BYTES ? 0 : err_set(reterr, SNAP_EINVAL, "path too long");
}

bool pki_has(const char *dir, const char *kind, const char *name)
{
    char path[LIMIT_PATH_BYTES];
    return path_of(path, NULL, dir, kind, name, ".crt") == 0 && access(path, F_OK) == 0;
}

/* -- PEM files ------------------------------------------------------------------------- */

static int save_bio(const char *path, BIO *bio, mode_t mode, struct err *reterr)
{
    char *data = NULL;
    long len = BIO_get_mem_data(bio, &data);
    if (len <= 0)
        return fail(reterr, path);
    return file_replace(path, data, (size_t)len, mode, reterr);
}

static int save_key(const char *path, EVP_PKEY *key, struct err *reterr)
{
    CLEANUP_BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || !PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL))
        return fail(reterr, "encode key");
    return save_bio(path, bio, 0600, reterr);
}

static int save_certificate(const char *path, X509 *x, struct err *reterr)
{
    CLEANUP_BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || !PEM_write_bio_X509(bio, x))
        return fail(reterr, "encode certificate");
    return save_bio(path, bio, 0644, reterr);
}

static int save_crl(const char *path, X509_CRL *crl, struct err *reterr)
{
    CLEANUP_BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || !PEM_write_bio_X509_CRL(bio, crl))
        return fail(reterr, "encode revocation list");
    return save_bio(path, bio, 0644, reterr);
}

/* Read a file's one object with `read`. */
static int load_pem(const char *path, const char *what, void *(*read)(BIO *bio), void **ret,
                    struct err *reterr)
{
    CLEANUP_FREE char *text = NULL;
    size_t len = 0;
    int rc = file_read_all(path, LIMIT_CONFIG_BYTES, &text, &len, reterr);
    if (rc < 0)
        return rc;
    CLEANUP_BIO *bio = BIO_new_mem_buf(text, (int)len);
    if (!bio)
        return fail(reterr, path);
    *ret = read(bio);
    ERR_clear_error();
    return *ret ? 0 : err_set(reterr, SNAP_ECORRUPT, "%s: holds no PEM %s", path, what);
}

static void *read_certificate(BIO *bio)
{
    return PEM_read_bio_X509(bio, NULL, NULL, NULL);
}
static void *read_key(BIO *bio)
{
    return PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
}
static void *read_crl(BIO *bio)
{
    return PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL);
}

static int load_certificate(const char *path, X509 **ret, struct err *reterr)
{
    void *read = NULL;
    int rc = load_pem(path, "certificate", read_certificate, &read, reterr);
    *ret = read;
    return rc;
}

static int load_key(const char *path, EVP_PKEY **ret, struct err *reterr)
{
    void *read = NULL;
    int rc = load_pem(path, "key", read_key, &read, reterr);
    *ret = read;
    return rc;
}

static int load_crl(const char *path, X509_CRL **ret, struct err *reterr)
{
    void *read = NULL;
    int rc = load_pem(path, "revocation list", read_crl, &read, reterr);
    *ret = read;
    return rc;
}

static int load_authority(const char *dir, X509 **ret_ca, EVP_PKEY **ret_key, struct err *reterr)
{
    char path[LIMIT_PATH_BYTES];
    int rc = path_of(path, reterr, dir, "ca", "", ".crt");
    if (rc == 0)
        rc = load_certificate(path, ret_ca, reterr);
    if (rc == SNAP_ENOENT)
        return err_set(reterr, rc, "%s holds no authority; make one with: snapctl pki init %s", dir,
                       dir);
    if (rc == 0)
        rc = path_of(path, reterr, dir, "ca", "", ".key");
    if (rc == 0)
        rc = load_key(path, ret_key, reterr);
    if (rc == 0 && X509_check_private_key(*ret_ca, *ret_key) != 1)
        rc = err_set(reterr, SNAP_EMISMATCH, "%s: ca.key is not the key of ca.crt", dir);
    return rc;
}

/* One change of a folder at a time: two revocations at once would lose one of them. */
static int lock_folder(const char *dir, int *ret_fd, struct err *reterr)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX) == 0) {
        *ret_fd = fd;
        return 0;
    }
    int rc = errno == ENOENT
                 ? err_set(reterr, SNAP_ENOENT,
                           "there is no folder %s; make an authority with: snapctl pki init %s",
                           dir, dir)
                 : err_set_errno(reterr, err_code_of_errno(errno), errno, "lock %s", dir);
    if (fd >= 0)
        (void)close(fd);
    return rc;
}

/* -- certificates ------------------------------------------------------------------------- */

static bool add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = ext && X509_add_ext(x, ext, -1);
    X509_EXTENSION_free(ext);
    return ok;
}

static bool set_serial(X509 *x)
{
    uint8_t random[SERIAL_BYTES];
    rng_secret(random, sizeof random);
    random[0] = (uint8_t)((random[0] & 0x7f) | 0x40); /* positive, full length */
    BIGNUM *n = BN_bin2bn(random, sizeof random, NULL);
    bool ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
    BN_free(n);
    return ok;
}

/* What every certificate has: version, serial, validity, subject, key. The subject is for
 * people and may not be longer than a common name can be; the identity is the alternative name. */
static bool fill_certificate(X509 *x, const char *common_name, uint32_t days, EVP_PKEY *key)
{
    return X509_set_version(x, CERTIFICATE_VERSION_3) && set_serial(x) &&
           X509_gmtime_adj(X509_getm_notBefore(x), -BACKDATE_S) &&
           X509_time_adj_ex(X509_getm_notAfter(x), (int)days, 0, NULL) &&
           X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                                      (const unsigned char *)common_name,
                                      (int)strnlen(common_name, COMMON_NAME_BYTES), -1, 0) &&
           X509_set_pubkey(x, key);
}

static bool is_address(const char *name)
{
    uint8_t raw[16];
    return inet_pton(AF_INET, name, raw) == 1 || inet_pton(AF_INET6, name, raw) == 1;
}

/* "DNS:a,IP:127.0.0.1": names were checked to hold neither comma nor control characters. A
 * client's is an identity whatever it looks like. */
static int alt_names(const struct pki_issue *what, char *buf, size_t buf_bytes, struct err *reterr)
{
    int n = snprintf(buf, buf_bytes, "%s:%s", what->server && is_address(what->name) ? "IP" : "DNS",
                     what->name);
    if (strcmp(what->name, "localhost") == 0 && what->server)
        n += snprintf(buf + n, buf_bytes - (size_t)n, ",IP:127.0.0.1,IP:::1");
    for (const char *const *a = what->also; a && *a; a++) {
        if (n < 0 || (size_t)n >= buf_bytes)
            break;
        n += snprintf(buf + n, buf_bytes - (size_t)n, ",%s:%s", is_address(*a) ? "IP" : "DNS", *a);
    }
    return n > 0 && (size_t)n < buf_bytes ? 0
                                          : err_set(reterr, SNAP_ELIMIT, "too many names at once");
}

/* No longer than its authority: it would be refused from then on anyway. */
static bool end_with_authority(X509 *x, const X509 *ca)
{
    return ASN1_TIME_compare(X509_get0_notAfter(x), X509_get0_notAfter(ca)) <= 0 ||
           X509_set1_notAfter(x, X509_get0_notAfter(ca));
}

static int make_certificate(const struct pki_issue *what, X509 *ca, EVP_PKEY *ca_key, EVP_PKEY *key,
                            X509 **ret, struct err *reterr)
{
    char names[2048];
    int rc = alt_names(what, names, sizeof names, reterr);
    if (rc < 0)
        return rc;
    CLEANUP_X509 *x = X509_new();
    if (!x || !fill_certificate(x, what->name, what->days, key) || !end_with_authority(x, ca) ||
        !X509_set_issuer_name(x, X509_get_subject_name(ca)) ||
        !add_extension(x, ca, NID_basic_constraints, "critical,CA:FALSE") ||
        !add_extension(x, ca, NID_key_usage, "critical,digitalSignature") ||
        !add_extension(x, ca, NID_ext_key_usage, what->server ? "serverAuth" : "clientAuth") ||
        !add_extension(x, ca, NID_subject_alt_name, names) ||
        !add_extension(x, ca, NID_subject_key_identifier, "hash") ||
        !add_extension(x, ca, NID_authority_key_identifier, "keyid:always") ||
        !X509_sign(x, ca_key, EVP_sha256()))
        return fail(reterr, "make certificate");
    *ret = x;
    x = NULL;
    return 0;
}

static int make_authority(const char *common_name, uint32_t days, EVP_PKEY *key, X509 **ret,
                          struct err *reterr)
{
    CLEANUP_X509 *x = X509_new();
    if (!x || !fill_certificate(x, common_name, days, key) ||
        !X509_set_issuer_name(x, X509_get_subject_name(x)) ||
        !add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
        !add_extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") ||
        !add_extension(x, x, NID_subject_key_identifier, "hash") ||
        !X509_sign(x, key, EVP_sha256()))
        return fail(reterr, "make authority");
    *ret = x;
    x = NULL;
    return 0;
}

/* -- revocation lists -------------------------------------------------------------------------- */

/* Date it (valid as long as the authority; from a little before now, for daemons whose clock
 * is behind), sort, sign. */
static int sign_crl(X509_CRL *crl, X509 *ca, EVP_PKEY *ca_key, struct err *reterr)
{
    ASN1_TIME *now = X509_gmtime_adj(NULL, -BACKDATE_S);
    bool ok = now && X509_CRL_set_version(crl, CRL_VERSION_2) &&
              X509_CRL_set_issuer_name(crl, X509_get_subject_name(ca)) &&
              X509_CRL_set1_lastUpdate(crl, now) &&
              X509_CRL_set1_nextUpdate(crl, X509_get0_notAfter(ca)) && X509_CRL_sort(crl) &&
              X509_CRL_sign(crl, ca_key, EVP_sha256());
    ASN1_TIME_free(now);
    return ok ? 0 : fail(reterr, "sign revocation list");
}

static int add_revoked(X509_CRL *crl, X509 *x, struct err *reterr)
{
    X509_REVOKED *present = NULL;
    if (X509_CRL_get0_by_cert(crl, &present, x))
        return 0;
    X509_REVOKED *r = X509_REVOKED_new();
    ASN1_TIME *now = X509_gmtime_adj(NULL, 0);
    bool ok = r && now && X509_REVOKED_set_serialNumber(r, X509_get_serialNumber(x)) &&
              X509_REVOKED_set_revocationDate(r, now) && X509_CRL_add0_revoked(crl, r);
    ASN1_TIME_free(now);
    if (ok)
        return 0;
    X509_REVOKED_free(r);
    return fail(reterr, "add to the revocation list");
}

/* -- what the commands call ------------------------------------------------------------- */

/* The key that a first try left, or a new one. */
static int authority_key(const char *path, EVP_PKEY **ret, struct err *reterr)
{
    struct err why = ERR_INIT;
    int rc = load_key(path, ret, &why);
    if (rc != SNAP_ENOENT)
        return rc < 0 ? err_copy(reterr, &why) : 0;
    *ret = EVP_EC_gen("P-256");
    return *ret ? save_key(path, *ret, reterr) : fail(reterr, "make key");
}

int pki_init(const char *dir, const char *common_name, uint32_t days, struct err *reterr)
{
    char path[LIMIT_PATH_BYTES];
    CLEANUP_CLOSE int lock = -1;
    CLEANUP_KEY *key = NULL;
    CLEANUP_X509 *ca = NULL;
    CLEANUP_CRL *crl = NULL;
    int rc = file_make_dir(dir, 0700, reterr);
    if (rc == 0)
        rc = lock_folder(dir, &lock, reterr);
    if (rc == 0 && pki_has(dir, "ca", ""))
        rc = err_set(reterr, SNAP_EEXIST, "%s holds an authority already", dir);
    if (rc == 0)
        rc = path_of(path, reterr, dir, "ca", "", ".key");
    if (rc == 0)
        rc = authority_key(path, &key, reterr);
    if (rc == 0 && !(crl = X509_CRL_new()))
        rc = fail(reterr, "make revocation list");
    if (rc == 0)
        rc = make_authority(common_name, days, key, &ca, reterr);
    if (rc == 0)
        rc = sign_crl(crl, ca, key, reterr);
    if (rc == 0)
        rc = path_of(path, reterr, dir, "ca", "", ".crl");
    if (rc == 0)
        rc = save_crl(path, crl, reterr);
    if (rc == 0) /* last: where it is, all of it is */
        rc = path_of(path, reterr, dir, "ca", "", ".crt");
    if (rc == 0)
        rc = save_certificate(path, ca, reterr);
    return rc;
}

static int check_current(const char *dir, const X509 *ca, struct err *reterr)
{
    if (X509_cmp_current_time(X509_get0_notAfter(ca)) > 0)
        return 0;
    return err_set(reterr, SNAP_EINVAL,
                   "the authority in %s has expired; make a new one in another folder", dir);
}

int pki_issue(const char *dir, const struct pki_issue *what, struct err *reterr)
{
    const char *kind = what->server ? "server" : "client";
    char path[LIMIT_PATH_BYTES];
    CLEANUP_CLOSE int lock = -1;
    CLEANUP_X509 *ca = NULL, *x = NULL;
    CLEANUP_KEY *ca_key = NULL, *key = NULL;
    int rc = lock_folder(dir, &lock, reterr);
    if (rc == 0 && pki_has(dir, kind, what->name))
        rc = err_set(reterr, SNAP_EEXIST,
                     "%s/%s-%s.crt exists; to replace it: snapctl pki revoke %s --%s %s", dir, kind,
                     what->name, dir, kind, what->name);
    if (rc == 0)
        rc = load_authority(dir, &ca, &ca_key, reterr);
    if (rc == 0)
        rc = check_current(dir, ca, reterr);
    if (rc == 0 && !(key = EVP_EC_gen("P-256")))
        rc = fail(reterr, "make key");
    if (rc == 0)
        rc = make_certificate(what, ca, ca_key, key, &x, reterr);
    if (rc == 0)
        rc = path_of(path, reterr, dir, kind, what->name, ".key");
    if (rc == 0)
        rc = save_key(path, key, reterr);
    if (rc == 0)
        rc = path_of(path, reterr, dir, kind, what->name, ".crt");
    if (rc == 0)
        rc = save_certificate(path, x, reterr);
    return rc;
}

/* Out of the way, so that the name can be issued again. */
static int move_revoked(const char *dir, const char *kind, const char *name, X509 *x,
                        struct err *reterr)
{
    char from[LIMIT_PATH_BYTES], to[LIMIT_PATH_BYTES], folder[LIMIT_PATH_BYTES];
    BIGNUM *n = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
    char *serial = n ? BN_bn2hex(n) : NULL;
    BN_free(n);
    if (!serial)
        return fail(reterr, "serial number");
    char named[LIMIT_NAME_BYTES + 80];
    (void)snprintf(named, sizeof named, "%s-%s", name, serial);
    OPENSSL_free(serial);
    int rc = path_of(folder, reterr, dir, "revoked", "", "");
    if (rc == 0)
        rc = file_make_dir(folder, 0700, reterr);
    if (rc == 0)
        rc = path_of(to, reterr, folder, kind, named, ".crt");
    if (rc == 0)
        rc = path_of(from, reterr, dir, kind, name, ".crt");
    if (rc == 0 && rename(from, to) != 0)
        rc = err_set_errno(reterr, err_code_of_errno(errno), errno, "move %s", from);
    if (rc == 0)
        rc = file_sync_parent(from, reterr);
    if (rc == 0)
        rc = path_of(from, reterr, dir, kind, name, ".key");
    if (rc == 0)
        (void)unlink(from); /* a key of no use; that it is gone already is no fault */
    return rc;
}

int pki_revoke(const char *dir, const char *kind, const char *name, struct err *reterr)
{
    char path[LIMIT_PATH_BYTES];
    CLEANUP_X509 *ca = NULL, *x = NULL;
    CLEANUP_KEY *ca_key = NULL;
    CLEANUP_CRL *crl = NULL;
    CLEANUP_CLOSE int lock = -1;
    int rc = lock_folder(dir, &lock, reterr);
    if (rc == 0)
        rc = load_authority(dir, &ca, &ca_key, reterr);
    if (rc == 0)
        rc = path_of(path, reterr, dir, kind, name, ".crt");
    if (rc == 0)
        rc = load_certificate(path, &x, reterr);
    if (rc == 0 && X509_verify(x, X509_get0_pubkey(ca)) != 1) {
        ERR_clear_error();
        rc = err_set(reterr, SNAP_EMISMATCH, "%s was not issued by %s/ca.crt", path, dir);
    }
    if (rc == 0)
        rc = path_of(path, reterr, dir, "ca", "", ".crl");
    if (rc == 0)
        rc = load_crl(path, &crl, reterr);
    if (rc == 0)
        rc = add_revoked(crl, x, reterr);
    if (rc == 0)
        rc = sign_crl(crl, ca, ca_key, reterr);
    if (rc == 0)
        rc = save_crl(path, crl, reterr);
    if (rc == 0)
        rc = move_revoked(dir, kind, name, x, reterr);
    return rc;
}
