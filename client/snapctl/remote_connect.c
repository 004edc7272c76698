/* SPDX-License-Identifier: Apache-2.0 */
/* From a name to a connected client, from a target to uuids.
 *
 * Each command opens one connection and uses the library's blocking face. A daemon
 * that cannot be reached is tried for some seconds, as it may just be starting; one that
 * goes away later is waited for, as long as GIVE_UP_MS, and what was unanswered is sent
 * again by the library. Who waits is told what for.
 */
#include "client/snapctl/remote_connect.h"

#include "client/host/remote_conf.h"
#include "common/base/clock.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { GIVE_UP_MS = 120 * 1000 };
#define TOLD_AFTER_NS UINT64_C(1000000000)

int remote_error(const struct snapwire_error *e, struct err *reterr)
{
    int rc = err_set(reterr, e->code, "%s", e->text[0] ? e->text : err_text(e->code));
    if (reterr)
        reterr->sys_errno = e->sys_errno;
    return rc;
}

static const char *choice(const struct cli *cli, const struct remote_conf *conf)
{
    const char *name = cli->on;
    if (!name || !*name)
        name = getenv("SNAPWIRE_REMOTE");
    return name && *name ? name : conf->current;
}

static int pick(const struct cli *cli, const struct remote_conf *conf, const char *path,
                const struct remote_entry **ret, struct err *reterr)
{
    const char *name = choice(cli, conf);
    if (!name && conf->count == 0)
        return err_set(reterr, SNAP_ENOENT,
                       "no daemon is known (%.300s); snapctl remote add NAME ADDRESS", path);
    if (!name)
        return err_set(reterr, SNAP_ENOENT, "no daemon is chosen; snapctl remote use NAME");
    *ret = remote_conf_find(conf, name);
    if (!*ret)
        return err_set(reterr, SNAP_ENOENT, "no remote '%.128s' in %.300s; see snapctl remote list",
                       name, path);
    return 0;
}

/* What is mostly the matter, behind what the library says. */
static int add_remedy(const struct remote_entry *e, struct err *reterr)
{
    char text[ERR_TEXT_BYTES];
    const char *remedy = NULL;
    if (!reterr)
        return SNAP_ECONN;
    (void)snprintf(text, sizeof text, "%s", reterr->text);
    if (reterr->code == SNAP_ECONN)
        remedy = strstr(text, ": resolve: ") ? "is the name right?" : "is snapwired running there?";
    else if (reterr->code == SNAP_EPROTO && strstr(text, "TLS handshake"))
        remedy = "is it snapwired that listens there?";
    else if (reterr->code == SNAP_EAUTH && strstr(text, "the name asked for"))
        remedy = e->server_name ? "see --server-name of snapctl remote add"
                                : "reach it by a name in its certificate, or see --server-name of "
                                  "snapctl remote add, or --also of snapctl pki issue";
    return remedy ? err_set(reterr, reterr->code, "%.300s; %s", text, remedy) : reterr->code;
}

/* Silence that is a wait is told of, once each. One connection at a time has its commands'
 * attention, and its callbacks run inside the library's blocking calls. */
static struct {
    const struct cli *cli;
    char name[LIMIT_NAME_BYTES + 1];
    uint64_t since_ns; /* 0: connected */
    bool told;
} away;

static void on_state(void *user, struct snapwire_client *client, enum snapwire_state state,
                     const struct snapwire_error *why)
{
    uint64_t now = clock_now_ns(clock_system());
    (void)user;
    (void)client;
    if (state == SNAPWIRE_STATE_CONNECTED) {
        if (away.told)
            cli_note(away.cli, "%s is there, going on", away.name);
        away.since_ns = 0;
        away.told = false;
    } else if (state == SNAPWIRE_STATE_RECONNECTING) {
        if (away.since_ns == 0)
            away.since_ns = now;
        if (away.told || now - away.since_ns < TOLD_AFTER_NS)
            return;
        away.told = true;
        cli_note(away.cli, "%s: %s; trying again for a while", away.name, why ? why->text : "");
    }
}

static int connect_to(const struct cli *cli, const struct remote_entry *e, struct remote *ret,
                      struct err *reterr)
{
    struct snapwire_error why = {0};
    const struct snapwire_config config = {
        .size = sizeof config,
        .addresses = e->address,
        .ca_path = e->ca,
        .certificate_path = e->certificate,
        .key_path = e->key,
        .crl_path = e->crl,
        .server_name = e->server_name,
        .software = "snapctl " SNAPWIRE_VERSION,
        .give_up_ms = GIVE_UP_MS,
        .state_changed = on_state,
    };
    away.cli = cli;
    away.since_ns = 0;
    away.told = false;
    (void)snprintf(away.name, sizeof away.name, "%s", e->name);
    int rc = snapwire_client_new(NULL, &config, &ret->client, &why);
    if (rc == 0) {
        rc = snapwire_client_connect_sync(ret->client, &why);
        if (rc < 0) {
            snapwire_client_free(ret->client);
            ret->client = NULL;
        }
    }
    if (rc < 0) {
        (void)remote_error(&why, reterr);
        (void)err_prefix(reterr, "%s (%.200s)", e->name, e->address);
        (void)add_remedy(e, reterr);
        return rc;
    }
    (void)snprintf(ret->name, sizeof ret->name, "%s", e->name);
    return 0;
}

int remote_open(const struct cli *cli, struct remote *ret, struct err *reterr)
{
    char path[LIMIT_PATH_BYTES];
    struct remote_conf conf = REMOTE_CONF_INIT;
    const struct remote_entry *entry = NULL;
    int rc = remote_conf_path(path, reterr);
    if (rc == 0)
        rc = remote_conf_load(path, &conf, reterr);
    if (rc == 0)
        rc = pick(cli, &conf, path, &entry, reterr);
    if (rc == 0)
        rc = connect_to(cli, entry, ret, reterr);
    remote_conf_done(&conf);
    return rc;
}

void remote_close(struct remote *r)
{
    snapwire_client_free(r->client);
    r->client = NULL;
}

int remote_resolve(struct remote *r, const char *text, enum remote_want want,
                   struct remote_target *ret, struct err *reterr)
{
    struct snapwire_error why = {0};
    struct snapwire_target *found = NULL;
    *ret = (struct remote_target){.text = text};
    int rc = target_parse(text, &ret->name, reterr);
    if (rc < 0)
        return rc;
    if (want == REMOTE_WANT_SNAPSHOT && !ret->name.snapshot[0])
        return err_set(reterr, SNAP_EINVAL, "%s is a volume; name a snapshot of it, %s@SNAPSHOT",
                       text, text);
    if (want == REMOTE_WANT_VOLUME && ret->name.snapshot[0])
        return err_set(reterr, SNAP_EINVAL, "%s is a snapshot; name a volume, %s", text,
                       ret->name.volume);
    rc = snapwire_resolve_sync(r->client, ret->name.volume,
                               ret->name.snapshot[0] ? ret->name.snapshot : NULL, &found, &why);
    if (rc < 0)
        return remote_error(&why, reterr);
    ret->volume = found->volume;
    ret->snapshot = found->snapshot;
    ret->size_bytes = found->size_bytes;
    ret->chunk_bytes = found->chunk_size_sectors * SECTOR_BYTES;
    ret->hosted = found->kind == SNAPWIRE_VOLUME_HOSTED;
    memcpy(ret->fingerprint, found->origin_fingerprint, sizeof ret->fingerprint);
    ret->fingerprint_bytes = found->origin_fingerprint_bytes;
    snapwire_free(found);
    return 0;
}

int remote_check_size(const struct remote_target *t, const char *path, uint64_t size_bytes,
                      struct err *reterr)
{
    if (size_bytes == t->size_bytes)
        return 0;
    return err_set(reterr, SNAP_EMISMATCH,
                   "%s has %" PRIu64 " bytes, volume %s has %" PRIu64
                   ": it is not the origin of this volume",
                   path, size_bytes, t->name.volume, t->size_bytes);
}
