/* SPDX-License-Identifier: Apache-2.0 */
/* The certificate authority in a folder: what a crash, a second program or an odd name finds. */
#include "client/snapctl/pki_make.h"
#include "common/base/file.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct tmpdir dir;

static int setup(void **state)
{
    (void)state;
    tmpdir_make(&dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tmpdir_remove(&dir);
    return 0;
}

static const char *file(const char *name)
{
    static char path[TMPDIR_FILE_BYTES];
    return tmpdir_file(&dir, name, path);
}

static void ok(int rc, const struct err *e)
{
    if (rc < 0)
        fail_msg("%s", e->text);
}

static void init(uint32_t days)
{
    struct err e = ERR_INIT;
    ok(pki_init(dir.path, "test", days, &e), &e);
}

static int issue(const char *name, bool server, uint32_t days, struct err *e)
{
    struct pki_issue what = {.name = name, .server = server, .days = days};
    return pki_issue(dir.path, &what, e);
}

static X509 *certificate(const char *name)
{
    FILE *f = fopen(file(name), "r");
    assert_non_null(f);
    X509 *x = PEM_read_X509(f, NULL, NULL, NULL);
    assert_int_equal(fclose(f), 0);
    assert_non_null(x);
    return x;
}

static X509_CRL *revocation_list(void)
{
    FILE *f = fopen(file("ca.crl"), "r");
    assert_non_null(f);
    X509_CRL *crl = PEM_read_X509_CRL(f, NULL, NULL, NULL);
    assert_int_equal(fclose(f), 0);
    assert_non_null(crl);
    return crl;
}

static int revoked_count(void)
{
    X509_CRL *crl = revocation_list();
    int n = sk_X509_REVOKED_num(X509_CRL_get_REVOKED(crl));
    X509_CRL_free(crl);
    return n < 0 ? 0 : n;
}

static bool is_revoked(X509 *x)
{
    X509_CRL *crl = revocation_list();
    X509_REVOKED *r = NULL;
    bool there = X509_CRL_get0_by_cert(crl, &r, x) == 1;
    X509_CRL_free(crl);
    return there;
}

static void issue__key_of_a_crashed_try_is_made_anew(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    init(30);
    ok(file_replace(file("client-ann.key"), "half", 4, 0644, &e), &e);
    ok(issue("ann", false, 10, &e), &e);
    X509 *x = certificate("client-ann.crt");
    FILE *f = fopen(file("client-ann.key"), "r");
    assert_non_null(f);
    EVP_PKEY *key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
    assert_int_equal(fclose(f), 0);
    assert_non_null(key);
    assert_int_equal(X509_check_private_key(x, key), 1);
    struct stat st;
    assert_int_equal(stat(file("client-ann.key"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    EVP_PKEY_free(key);
    X509_free(x);
}

static void revoke__crashed_before_the_move_is_finished_by_a_second_one(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char *text = NULL;
    size_t len = 0;
    init(30);
    ok(issue("ann", false, 10, &e), &e);
    ok(file_read_all(file("client-ann.crt"), 65536, &text, &len, &e), &e);
    ok(pki_revoke(dir.path, "client", "ann", &e), &e);
    /* the list is written, the certificate has not moved */
    ok(file_replace(file("client-ann.crt"), text, len, 0644, &e), &e);
    free(text);
    assert_int_equal(issue("ann", false, 10, &e), SNAP_EEXIST);
    ok(pki_revoke(dir.path, "client", "ann", &e), &e);
    assert_int_equal(revoked_count(), 1);
    ok(issue("ann", false, 10, &e), &e);
}

static void revoke__name_issued_again_is_not_revoked_with_the_first(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    init(30);
    ok(issue("ann", false, 10, &e), &e);
    X509 *first = certificate("client-ann.crt");
    ok(pki_revoke(dir.path, "client", "ann", &e), &e);
    assert_int_not_equal(access(file("client-ann.key"), F_OK), 0);
    ok(issue("ann", false, 10, &e), &e);
    X509 *second = certificate("client-ann.crt");
    assert_true(is_revoked(first));
    assert_false(is_revoked(second));
    ok(pki_revoke(dir.path, "client", "ann", &e), &e);
    assert_true(is_revoked(first) && is_revoked(second));
    X509_free(first);
    X509_free(second);
}

static void revoke__two_programs_at_once_lose_none(void **state)
{
    (void)state;
    enum { PROGRAMS = 24 };
    struct err e = ERR_INIT;
    pid_t pids[PROGRAMS];
    init(30);
    for (int i = 0; i < PROGRAMS; i++) {
        char name[] = {'n', (char)('a' + i), 0};
        ok(issue(name, false, 10, &e), &e);
    }
    int gate[2]; /* closed when all are there */
    assert_int_equal(pipe(gate), 0);
    for (int i = 0; i < PROGRAMS; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            char byte;
            (void)close(gate[1]);
            (void)!read(gate[0], &byte, 1);
            char name[] = {'n', (char)('a' + i), 0};
            _exit(pki_revoke(dir.path, "client", name, &e) == 0 ? 0 : 1);
        }
    }
    assert_int_equal(close(gate[1]), 0);
    assert_int_equal(close(gate[0]), 0);
    for (int i = 0; i < PROGRAMS; i++) {
        int status = -1;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(revoked_count(), PROGRAMS);
}

static void revoke__certificate_of_another_authority_is_refused(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    init(30);
    ok(issue("ann", false, 10, &e), &e);
    assert_int_equal(unlink(file("ca.crt")), 0);
    assert_int_equal(unlink(file("ca.key")), 0);
    init(30);
    assert_int_equal(pki_revoke(dir.path, "client", "ann", &e), SNAP_EMISMATCH);
    assert_non_null(strstr(e.text, "client-ann.crt"));
    assert_int_equal(revoked_count(), 0);
}

static void init__a_key_without_certificate_is_used_not_replaced(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    init(30);
    X509 *before = certificate("ca.crt");
    assert_int_equal(unlink(file("ca.crt")), 0);
    init(30);
    X509 *after = certificate("ca.crt");
    assert_int_equal(EVP_PKEY_eq(X509_get0_pubkey(before), X509_get0_pubkey(after)), 1);
    assert_int_equal(pki_init(dir.path, "test", 30, &e), SNAP_EEXIST);
    X509_free(before);
    X509_free(after);
}

static void issue__does_not_outlive_the_authority(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    init(2);
    ok(issue("ann", false, 825, &e), &e);
    X509 *ca = certificate("ca.crt"), *x = certificate("client-ann.crt");
    assert_int_equal(ASN1_TIME_compare(X509_get0_notAfter(x), X509_get0_notAfter(ca)), 0);
    X509_free(ca);
    X509_free(x);
}

/* The first alternative name, as its kind tells. */
static int first_name(const char *name, char *ret, size_t ret_bytes)
{
    X509 *x = certificate(name);
    GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
    assert_non_null(names);
    int type = -1;
    const void *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, 0), &type);
    (void)snprintf(ret, ret_bytes, "%.*s", ASN1_STRING_length(value),
                   (const char *)ASN1_STRING_get0_data(value));
    GENERAL_NAMES_free(names);
    X509_free(x);
    return type;
}

static void issue__every_name_can_be_an_identity(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char longest[129], text[200], crt[200];
    memset(longest, 'x', 128);
    longest[128] = '\0';
    const char *const names[] = {longest, "10.0.0.1", "2001:db8::1", "a+b:c-d_e", "localhost"};
    init(30);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        ok(issue(names[i], false, 10, &e), &e);
        (void)snprintf(crt, sizeof crt, "client-%s.crt", names[i]);
        assert_int_equal(first_name(crt, text, sizeof text), GEN_DNS);
        assert_string_equal(text, names[i]);
        ok(pki_revoke(dir.path, "client", names[i], &e), &e);
    }
    ok(issue("10.0.0.1", true, 10, &e), &e);
    assert_int_equal(first_name("server-10.0.0.1.crt", text, sizeof text), GEN_IPADD);
}

static void crl__holds_for_daemons_whose_clock_is_behind(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    init(30);
    ok(issue("ann", false, 10, &e), &e);
    ok(pki_revoke(dir.path, "client", "ann", &e), &e);
    X509_CRL *crl = revocation_list();
    X509 *ca = certificate("ca.crt");
    time_t behind = time(NULL) - 200;
    assert_true(X509_cmp_time(X509_CRL_get0_lastUpdate(crl), &behind) < 0);
    assert_int_equal(ASN1_TIME_compare(X509_CRL_get0_nextUpdate(crl), X509_get0_notAfter(ca)), 0);
    X509_CRL_free(crl);
    X509_free(ca);
}

static void issue__without_authority_says_how_to_make_one(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    assert_int_equal(issue("ann", false, 10, &e), SNAP_ENOENT);
    assert_non_null(strstr(e.text, "snapctl pki init"));
    struct pki_issue what = {.name = "ann", .days = 1};
    assert_int_equal(pki_issue("/nonexistent/pki", &what, &e), SNAP_ENOENT);
    assert_non_null(strstr(e.text, "snapctl pki init /nonexistent/pki"));
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(issue__key_of_a_crashed_try_is_made_anew),
        CASE(revoke__crashed_before_the_move_is_finished_by_a_second_one),
        CASE(revoke__name_issued_again_is_not_revoked_with_the_first),
        CASE(revoke__two_programs_at_once_lose_none),
        CASE(revoke__certificate_of_another_authority_is_refused),
        CASE(init__a_key_without_certificate_is_used_not_replaced),
        CASE(issue__does_not_outlive_the_authority),
        CASE(issue__every_name_can_be_an_identity),
        CASE(crl__holds_for_daemons_whose_clock_is_behind),
        CASE(issue__without_authority_says_how_to_make_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
