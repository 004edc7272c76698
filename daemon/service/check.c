/* SPDX-License-Identifier: Apache-2.0 */
/* Would a daemon start with this configuration? What its values alone do not tell: certificates
 * and keys are loaded as a start does, and the state directory is looked at. Nothing is changed.
 * Thread: main's. */
#include "daemon/service/service_priv.h"

static bool check_listens_on_tcp(const struct config *config)
{
    struct addr a;
    for (unsigned i = 0; i < config->listen_count; i++)
        if (addr_parse(config->listen[i], &a, NULL) == 0 && !a.unix_socket)
            return true;
    return false;
}

int service_new_tls(const struct config *config, struct tls_context **ret, struct err *reterr)
{
    struct tls_files files = {.ca_path = config->tls_ca,
                              .certificate_path = config->tls_certificate,
                              .key_path = config->tls_key,
                              .crl_path = config->tls_crl[0] != '\0' ? config->tls_crl : NULL};
    *ret = NULL;
    return check_listens_on_tcp(config) ? tls_context_new(true, &files, ret, reterr) : 0;
}

int service_check(const struct config *config, void (*warn)(void *user, const char *text),
                  void *user, struct err *reterr)
{
    struct tls_context *tls = NULL;
    int rc = service_new_tls(config, &tls, reterr);
    if (rc < 0)
        return err_prefix(reterr, "tls");
    if (tls != NULL)
        tls_context_warnings(tls, warn, user);
    tls_context_unref(tls);
    return state_dir_check(config->state_dir, reterr);
}
