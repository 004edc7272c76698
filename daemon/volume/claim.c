/* SPDX-License-Identifier: Apache-2.0 */
/* A short list: one claim a node that is being filled. claim.h tells what they are for.
 * Thread: the shard's. */
#include "daemon/volume/claim.h"

#include <stdio.h>
#include <stdlib.h>

struct volume_claim {
    struct uuid node, instance;
    uint64_t session;
    char who[2 * LIMIT_NAME_BYTES + 16];
    LIST_ENTRY(volume_claim) link;
};

static struct volume_claim *claim_of(const struct volume *v, const struct uuid *node)
{
    struct volume_claim *c;
    LIST_FOREACH (c, &v->claims, link)
        if (uuid_equal(&c->node, node))
            return c;
    return NULL;
}

static bool claim_is_of(const struct volume_claim *c, const struct claim_ask *ask)
{
    return c->session == ask->session ||
           (!uuid_is_zero(&ask->instance) && uuid_equal(&c->instance, &ask->instance));
}

bool claim_is_held(const struct volume *v, const struct claim_ask *ask)
{
    const struct volume_claim *c = claim_of(v, &ask->node);
    return c != NULL && c->session == ask->session;
}

int claim_take(struct volume *v, const struct claim_ask *ask, struct err *reterr)
{
    struct volume_claim *c = claim_of(v, &ask->node);
    const struct record_snapshot *rs = volume_record_find(&v->record, &ask->node);
    if (c != NULL && !claim_is_of(c, ask))
        return err_set(reterr, SNAP_EBUSY,
                       "%s%s%s is being imported into by %s; wait until that has ended",
                       v->record.name, rs != NULL ? "@" : "", rs != NULL ? rs->name : "", c->who);
    if (c == NULL) {
        c = calloc(1, sizeof *c);
        if (c == NULL)
            return err_set(reterr, SNAP_ENOMEM, "volume %s", v->record.name);
        LIST_INSERT_HEAD(&v->claims, c, link);
    }
    c->node = ask->node;
    c->instance = ask->instance;
    c->session = ask->session;
    (void)snprintf(c->who, sizeof c->who, "%s at %s", ask->identity, ask->address);
    return 0;
}

static void claim_free(struct volume_claim *c)
{
    LIST_REMOVE(c, link);
    free(c);
}

void claim_leave(struct volume *v, uint64_t session)
{
    struct volume_claim *next;
    for (struct volume_claim *c = LIST_FIRST(&v->claims); c != NULL; c = next) {
        next = LIST_NEXT(c, link);
        if (c->session == session)
            claim_free(c);
    }
}

void claim_done(struct volume *v)
{
    struct volume_claim *c;
    while ((c = LIST_FIRST(&v->claims)) != NULL)
        claim_free(c);
}
