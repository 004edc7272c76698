/* SPDX-License-Identifier: Apache-2.0 */
/* What is odd about a side's own certificate, and is told before a peer refuses it. */
#include "tests/unit/net/pki.h"

static void keep(void *user, const char *text)
{
    char *all = user;
    size_t n = strlen(all);
    (void)snprintf(all + n, 256 - n, "%s;", text);
}

static void expect(const struct pki *pki, bool server, const struct pki_leaf *leaf,
                   const char *says)
{
    char all[256] = "";
    struct tls_context *c = NULL;
    struct err err = ERR_INIT;
    if (leaf != NULL)
        pki_issue(pki, leaf);
    if (pki_context(pki, server, leaf != NULL ? leaf->file : NULL, NULL, &c, &err) < 0)
        fail_msg("%s", err.text);
    tls_context_warnings(c, keep, all);
    if (says == NULL ? all[0] != '\0' : strstr(all, says) == NULL)
        fail_msg("\"%s\"", all);
    tls_context_unref(c);
}

static void warnings__name_what_peers_will_refuse(void **state)
{
    (void)state;
    struct pki pki;
    const long day = PKI_DAY_S;
    pki_init(&pki, "test CA");
    expect(&pki, false, NULL, NULL);
    expect(&pki, true, &(struct pki_leaf){.file = "sound", .until_s = 31 * day}, NULL);
    expect(&pki, true, &(struct pki_leaf){.file = "soon", .until_s = 29 * day},
           "the certificate expires soon, on 20");
    expect(&pki, true, &(struct pki_leaf){.file = "old", .until_s = -60}, "has expired on 20");
    expect(&pki, true, &(struct pki_leaf){.file = "new", .from_s = day, .until_s = 90 * day},
           "is not valid before 20");
    expect(&pki, true,
           &(struct pki_leaf){.file = "client", .until_s = 90 * day, .usage = "clientAuth"},
           "is not one for a server: clients refuse it");
    expect(&pki, false,
           &(struct pki_leaf){.file = "server", .until_s = 90 * day, .usage = "serverAuth"},
           "is not one for a client: daemons refuse it");
    pki_done(&pki);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warnings__name_what_peers_will_refuse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
