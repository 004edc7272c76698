/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates for tests: a CA in a folder, leaves of any age and name, revocation lists. */
#ifndef SNAP_TESTS_UNIT_NET_PKI_H
#define SNAP_TESTS_UNIT_NET_PKI_H

#include "common/net/tls.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { PKI_DAY_S = 86400 };

struct pki {
    struct tmpdir dir;
    EVP_PKEY *ca_key;
    X509 *ca;
};

/* How a leaf deviates from a sound one; all zero: valid from yesterday to tomorrow. */
struct pki_leaf {
    const char *file;     /* "client": client.crt and client.key */
    const char *san;      /* as openssl writes it, "DNS:host-1"; NULL: none */
    const char *usage;    /* extended key usage, likewise; NULL: any */
    long from_s, until_s; /* from now */
    long serial;
};

static inline X509 *pki_new_cert(const char *cn, EVP_PKEY *key, long serial, long from_s,
                                 long until_s)
{
    X509 *cert = X509_new();
    assert_non_null(cert);
    assert_int_equal(X509_set_version(cert, X509_VERSION_3), 1);
    assert_int_equal(ASN1_INTEGER_set(X509_get_serialNumber(cert), serial), 1);
    assert_non_null(X509_gmtime_adj(X509_getm_notBefore(cert), from_s));
    assert_non_null(X509_gmtime_adj(X509_getm_notAfter(cert), until_s));
    assert_int_equal(X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
                                                (const unsigned char *)cn, -1, -1, 0),
                     1);
    assert_int_equal(X509_set_pubkey(cert, key), 1);
    return cert;
}

static inline void pki_add_ext(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert_non_null(ext);
    assert_int_equal(X509_add_ext(cert, ext, -1), 1);
    X509_EXTENSION_free(ext);
}

static inline FILE *pki_open(const struct pki *pki, const char *name, const char *suffix)
{
    char file[64], path[TMPDIR_FILE_BYTES];
    (void)snprintf(file, sizeof file, "%s%s", name, suffix);
    FILE *f = fopen(tmpdir_file(&pki->dir, file, path), "w");
    assert_non_null(f);
    assert_int_equal(chmod(path, 0600), 0);
    return f;
}

static inline void pki_write(const struct pki *pki, const char *name, X509 *cert, EVP_PKEY *key)
{
    FILE *f = pki_open(pki, name, ".crt");
    assert_int_equal(PEM_write_X509(f, cert), 1);
    assert_int_equal(fclose(f), 0);
    f = pki_open(pki, name, ".key");
    assert_int_equal(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), 1);
    assert_int_equal(fclose(f), 0);
}

static inline void pki_init(struct pki *pki, const char *cn)
{
    tmpdir_make(&pki->dir);
    pki->ca_key = EVP_EC_gen("P-256");
    assert_non_null(pki->ca_key);
    pki->ca = pki_new_cert(cn, pki->ca_key, 1, -30L * PKI_DAY_S, 30L * PKI_DAY_S);
    assert_int_equal(X509_set_issuer_name(pki->ca, X509_get_subject_name(pki->ca)), 1);
    pki_add_ext(pki->ca, pki->ca, NID_basic_constraints, "critical,CA:TRUE");
    pki_add_ext(pki->ca, pki->ca, NID_key_usage, "critical,keyCertSign,cRLSign");
    pki_add_ext(pki->ca, pki->ca, NID_subject_key_identifier, "hash");
    assert_true(X509_sign(pki->ca, pki->ca_key, EVP_sha256()) > 0);
    pki_write(pki, "ca", pki->ca, pki->ca_key);
}

static inline void pki_issue(const struct pki *pki, const struct pki_leaf *leaf)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    assert_non_null(key);
    X509 *cert = pki_new_cert(leaf->file, key, leaf->serial != 0 ? leaf->serial : 2,
                              leaf->from_s != 0 ? leaf->from_s : -PKI_DAY_S,
                              leaf->until_s != 0 ? leaf->until_s : PKI_DAY_S);
    assert_int_equal(X509_set_issuer_name(cert, X509_get_subject_name(pki->ca)), 1);
    if (leaf->san != NULL)
        pki_add_ext(cert, pki->ca, NID_subject_alt_name, leaf->san);
    if (leaf->usage != NULL)
        pki_add_ext(cert, pki->ca, NID_ext_key_usage, leaf->usage);
    pki_add_ext(cert, pki->ca, NID_authority_key_identifier, "keyid");
    assert_true(X509_sign(cert, pki->ca_key, EVP_sha256()) > 0);
    pki_write(pki, leaf->file, cert, key);
    X509_free(cert);
    EVP_PKEY_free(key);
}

/* A list that revokes one serial (0: none) and is to be renewed after until_s. */
static inline void pki_revoke(const struct pki *pki, const char *file, long serial, long until_s)
{
    X509_CRL *crl = X509_CRL_new();
    ASN1_TIME *at = X509_gmtime_adj(NULL, -2L * PKI_DAY_S);
    ASN1_TIME *next = X509_gmtime_adj(NULL, until_s);
    assert_non_null(crl);
    assert_int_equal(X509_CRL_set_version(crl, X509_CRL_VERSION_2), 1);
    assert_int_equal(X509_CRL_set_issuer_name(crl, X509_get_subject_name(pki->ca)), 1);
    assert_int_equal(X509_CRL_set1_lastUpdate(crl, at), 1);
    assert_int_equal(X509_CRL_set1_nextUpdate(crl, next), 1);
    if (serial != 0) {
        X509_REVOKED *entry = X509_REVOKED_new();
        ASN1_INTEGER *no = ASN1_INTEGER_new();
        assert_int_equal(ASN1_INTEGER_set(no, serial), 1);
        assert_int_equal(X509_REVOKED_set_serialNumber(entry, no), 1);
        assert_int_equal(X509_REVOKED_set_revocationDate(entry, at), 1);
        assert_int_equal(X509_CRL_add0_revoked(crl, entry), 1);
        ASN1_INTEGER_free(no);
    }
    ASN1_TIME_free(at);
    ASN1_TIME_free(next);
    assert_int_equal(X509_CRL_sort(crl), 1);
    assert_true(X509_CRL_sign(crl, pki->ca_key, EVP_sha256()) > 0);
    FILE *f = pki_open(pki, file, "");
    assert_int_equal(PEM_write_X509_CRL(f, crl), 1);
    assert_int_equal(fclose(f), 0);
    X509_CRL_free(crl);
}

/* The context of one side. who: "client" …, NULL: no certificate; crl: a file, or NULL. */
static inline int pki_context(const struct pki *pki, bool server, const char *who, const char *crl,
                              struct tls_context **ret, struct err *reterr)
{
    char ca[TMPDIR_FILE_BYTES], cert[TMPDIR_FILE_BYTES], key[TMPDIR_FILE_BYTES];
    char list[TMPDIR_FILE_BYTES], name[64];
    struct tls_files files = {.ca_path = tmpdir_file(&pki->dir, "ca.crt", ca)};
    if (who != NULL) {
        (void)snprintf(name, sizeof name, "%s.crt", who);
        files.certificate_path = tmpdir_file(&pki->dir, name, cert);
        (void)snprintf(name, sizeof name, "%s.key", who);
        files.key_path = tmpdir_file(&pki->dir, name, key);
    }
    if (crl != NULL)
        files.crl_path = tmpdir_file(&pki->dir, crl, list);
    return tls_context_new(server, &files, ret, reterr);
}

static inline void pki_done(struct pki *pki)
{
    X509_free(pki->ca);
    EVP_PKEY_free(pki->ca_key);
    tmpdir_remove(&pki->dir);
}

#endif
