/* SPDX-License-Identifier: Apache-2.0 */
/* From a name to a connected client, from a target to uuids.
 *
 * Each command opens one connection and uses the library's blocking face. A daemon
 * that cannot be reached is told at once; one that goes away later is waited for, as
 * long as GIVE_UP_MS, and what was unanswered is sent again by the library.
 */
#include "client/snapctl/remote_connect.h"

#include "client/host/remote_conf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { GIVE_UP_MS = 120 * 1000 };

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

static int ask_for_daemon(struct err *reterr)
{
    char text[ERR_TEXT_BYTES];
    if (!reterr)
        return SNAP_ECONN;
    (void)snprintf(text, sizeof text, "%s", reterr->text);
    return err_set(reterr, SNAP_ECONN, "%.400s; is snapwired running there?", text);
}

static int connect_to(const struct remote_entry *e, struct remote *ret, struct err *reterr)
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
    };
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
        return rc == SNAP_ECONN ? ask_for_daemon(reterr) : rc;
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
        rc = connect_to(entry, ret, reterr);
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
