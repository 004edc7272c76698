/* SPDX-License-Identifier: Apache-2.0 */
/* Revocation lists and a CA below another: what is looked up, and what must be there.
 *
 *     root ─ 5 ─> middle ─ 77 ─> client      trusted: root and middle
 */
#include "tests/unit/net/pki.h"

#include <sys/socket.h>
#include <unistd.h>

static struct pki root, middle;

static void join(const struct pki *to, const char *file, const struct pki *const from[],
                 const char *const parts[], size_t count)
{
    char path[TMPDIR_FILE_BYTES], text[4096];
    FILE *out = pki_open(to, file, "");
    for (size_t i = 0; i < count; i++) {
        FILE *in = fopen(tmpdir_file(&from[i]->dir, parts[i], path), "r");
        assert_non_null(in);
        size_t n = fread(text, 1, sizeof text, in);
        assert_true(n > 0 && n < sizeof text);
        assert_int_equal(fwrite(text, 1, n, out), n);
        assert_int_equal(fclose(in), 0);
    }
    assert_int_equal(fclose(out), 0);
}

/* Of the middle's list and the root's, one or both in a file. */
static void lists(const char *file, const char *of_middle, const char *of_root)
{
    const struct pki *from[2];
    const char *parts[2];
    size_t n = 0;
    if (of_middle != NULL) {
        from[n] = &middle;
        parts[n++] = of_middle;
    }
    if (of_root != NULL) {
        from[n] = &root;
        parts[n++] = of_root;
    }
    join(&middle, file, from, parts, n);
}

/* A CA that another vouches for. */
static void below(struct pki *pki, const struct pki *above, const char *cn, long serial)
{
    tmpdir_make(&pki->dir);
    pki->ca_key = EVP_EC_gen("P-256");
    assert_non_null(pki->ca_key);
    pki->ca = pki_new_cert(cn, pki->ca_key, serial, -30L * PKI_DAY_S, 30L * PKI_DAY_S);
    assert_int_equal(X509_set_issuer_name(pki->ca, X509_get_subject_name(above->ca)), 1);
    pki_add_ext(pki->ca, above->ca, NID_basic_constraints, "critical,CA:TRUE");
    pki_add_ext(pki->ca, above->ca, NID_key_usage, "critical,keyCertSign,cRLSign");
    pki_add_ext(pki->ca, above->ca, NID_subject_key_identifier, "hash");
    assert_true(X509_sign(pki->ca, above->ca_key, EVP_sha256()) > 0);
    pki_write(pki, "middle", pki->ca, pki->ca_key);
}

static int setup(void **state)
{
    (void)state;
    pki_init(&root, "root CA");
    below(&middle, &root, "middle CA", 5);
    join(&middle, "ca.crt", (const struct pki *const[]){&root, &middle},
         (const char *const[]){"ca.crt", "middle.crt"}, 2);
    pki_issue(&middle, &(struct pki_leaf){.file = "server", .san = "DNS:localhost"});
    pki_issue(&middle, &(struct pki_leaf){.file = "client", .san = "DNS:host-1", .serial = 77});
    pki_revoke(&middle, "none.one", 0, PKI_DAY_S);
    pki_revoke(&middle, "77.one", 77, PKI_DAY_S);
    pki_revoke(&root, "none.one", 0, PKI_DAY_S);
    pki_revoke(&root, "5.one", 5, PKI_DAY_S);
    lists("both.crl", "none.one", "none.one");
    lists("middle.crl", "none.one", NULL);
    lists("root.crl", NULL, "none.one");
    lists("leaf-revoked.crl", "77.one", "none.one");
    lists("middle-revoked.crl", "none.one", "5.one");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    pki_done(&root);
    pki_done(&middle);
    return 0;
}

static struct tls_context *context(bool server, const char *crl)
{
    struct tls_context *c = NULL;
    struct err e = ERR_INIT;
    if (pki_context(&middle, server, server ? "server" : "client", crl, &c, &e) < 0)
        fail_msg("context: %s", e.text);
    return c;
}

/* What the server's handshake ends with; *ret: its session. */
static int shake_hands(const char *crl, struct tls_session **ret, struct err *reterr)
{
    int v[2], rc = TLS_WANT_READ, other = TLS_WANT_READ;
    struct tls_context *server = context(true, crl), *client = context(false, NULL);
    struct tls_session *of_client = NULL;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, v), 0);
    assert_int_equal(tls_session_new(server, v[0], NULL, ret, NULL), 0);
    assert_int_equal(tls_session_new(client, v[1], "localhost", &of_client, NULL), 0);
    for (int i = 0; i < 100 && (rc == TLS_WANT_READ || rc == TLS_WANT_WRITE); i++) {
        if (other == TLS_WANT_READ || other == TLS_WANT_WRITE)
            other = tls_handshake(of_client, NULL);
        rc = tls_handshake(*ret, reterr);
    }
    tls_session_free(of_client);
    tls_context_unref(client);
    tls_context_unref(server);
    assert_int_equal(close(v[0]), 0);
    assert_int_equal(close(v[1]), 0);
    return rc;
}

static void expect(const char *crl, const char *why)
{
    struct tls_session *s = NULL;
    struct err e = ERR_INIT;
    int rc = shake_hands(crl, &s, &e);
    if (why == NULL && rc != 0)
        fail_msg("%s: %s", crl, e.text);
    if (why != NULL && (rc != SNAP_EAUTH || strstr(e.text, why) == NULL))
        fail_msg("%s: %d, '%s' is not '%s'", crl, rc, e.text, why);
    tls_session_free(s);
}

static void tls__a_list_of_the_peers_own_ca_is_needed(void **state)
{
    (void)state;
    expect("root.crl", "there is no revocation list of its CA");
}

static void tls__a_list_of_a_ca_above_is_not_needed(void **state)
{
    (void)state;
    expect("middle.crl", NULL);
    expect("both.crl", NULL);
}

static void tls__a_revoked_leaf_is_refused(void **state)
{
    (void)state;
    expect("leaf-revoked.crl", "it is revoked");
}

static void tls__a_leaf_of_a_revoked_ca_is_refused(void **state)
{
    (void)state;
    expect("middle-revoked.crl", "it is revoked");
}

static void tls_session_revoked__tells_of_a_revoked_ca_after_a_reload(void **state)
{
    static const struct {
        const char *crl;
        bool revoked;
    } cases[] = {{"both.crl", false},
                 {"middle.crl", false},
                 {"middle-revoked.crl", true},
                 {"leaf-revoked.crl", true},
                 {NULL, false}};
    struct tls_session *s = NULL;
    (void)state;
    assert_int_equal(shake_hands("both.crl", &s, NULL), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tls_context *reloaded = context(true, cases[i].crl);
        if (tls_session_revoked(s, reloaded) != cases[i].revoked)
            fail_msg("after a reload with %s", cases[i].crl != NULL ? cases[i].crl : "no list");
        tls_context_unref(reloaded);
    }
    tls_session_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tls__a_list_of_the_peers_own_ca_is_needed),
        cmocka_unit_test(tls__a_list_of_a_ca_above_is_not_needed),
        cmocka_unit_test(tls__a_revoked_leaf_is_refused),
        cmocka_unit_test(tls__a_leaf_of_a_revoked_ca_is_refused),
        cmocka_unit_test(tls_session_revoked__tells_of_a_revoked_ca_after_a_reload),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
