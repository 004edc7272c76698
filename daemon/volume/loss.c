/* SPDX-License-Identifier: Apache-2.0 */
/* The list of clients that have written what is not durable yet, or lost it and do not know.
 * It is as long as there are such clients, up to its end. It must not know what is flushed.
 *
 * A client that comes on the list may have been put off it before: it takes over what the rest
 * has lost. One of the old kind, which does not say what it has heard, would hear of that again
 * each time it comes; so once told it stays on the list for as long as there is something of the
 * rest to be told of. Thread: the shard's. */
#include "daemon/volume/loss.h"

#include "common/base/bytes.h"
#include "common/base/rng.h"
#include "daemon/volume/volume.h"

#include <stdlib.h>

struct loss_client {
    struct uuid id;
    uint64_t wrote; /* last, by the clock; 0: that is durable, or lost */
    uint64_t lost;  /* the last failure that took something of it; 0: none */
    uint64_t heard; /* of that one, when it is no less */
    bool silent;    /* about what it has heard */
    TAILQ_ENTRY(loss_client) link;
};

void loss_init(struct loss *l, const struct volume_env *env)
{
    *l = (struct loss){.env = env};
    TAILQ_INIT(&l->clients);
    rng_secret(&l->first, sizeof l->first);
    l->first >>= 2; /* it may be counted up, and be a signed number elsewhere */
    l->last = l->first;
}

static void loss_drop(struct loss *l, struct loss_client *c)
{
    TAILQ_REMOVE(&l->clients, c, link);
    l->count--;
    free(c);
}

void loss_done(struct loss *l)
{
    struct loss_client *c;
    while ((c = TAILQ_FIRST(&l->clients)) != NULL)
        loss_drop(l, c);
}

static struct loss_client *loss_find(struct loss *l, const struct uuid *client)
{
    struct loss_client *c;
    TAILQ_FOREACH (c, &l->clients, link)
        if (uuid_equal(&c->id, client))
            return c;
    return NULL;
}

static void loss_drop_if_over(struct loss *l, struct loss_client *c)
{
    if (c->wrote == 0 && c->heard >= c->lost && (!c->silent || l->rest_lost == 0))
        loss_drop(l, c);
}

/* It is among the rest from now on. */
static void loss_forget(struct loss *l, struct loss_client *c)
{
    l->rest_wrote = u64_max(l->rest_wrote, c->wrote);
    if (c->heard < c->lost)
        l->rest_lost = u64_max(l->rest_lost, c->lost);
    loss_drop(l, c);
}

/* One that is not on the list, in front. NULL: there is no memory. */
static struct loss_client *loss_add(struct loss *l, const struct uuid *client)
{
    struct loss_client *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    c->id = *client;
    c->lost = l->rest_lost;
    if (l->count == LOSS_CLIENTS_MAX)
        loss_forget(l, TAILQ_LAST(&l->clients, loss_clients));
    TAILQ_INSERT_HEAD(&l->clients, c, link);
    l->count++;
    return c;
}

void loss_wrote(struct loss *l, const struct uuid *client, uint64_t last)
{
    struct loss_client *c = loss_find(l, client);
    l->writes++;
    if (c == NULL) {
        c = loss_add(l, client);
    } else {
        TAILQ_REMOVE(&l->clients, c, link);
        TAILQ_INSERT_HEAD(&l->clients, c, link);
    }
    if (c == NULL) {
        l->rest_wrote = l->writes;
        if (last != l->last)
            l->rest_lost = l->last;
        return;
    }
    c->wrote = l->writes;
    if (last != l->last)
        c->lost = l->last;
}

void loss_happened(struct loss *l)
{
    struct loss_client *c;
    l->failed++;
    l->last++;
    TAILQ_FOREACH (c, &l->clients, link)
        if (c->wrote != 0) {
            c->lost = l->last;
            c->wrote = 0;
        }
    if (l->rest_wrote != 0)
        l->rest_lost = l->last;
    l->rest_wrote = 0;
    if (l->env != NULL && l->env->flush_failed != NULL)
        l->env->flush_failed(l->env->flush_failed_user);
}

void loss_flushed(struct loss *l, uint64_t writes)
{
    struct loss_client *next;
    for (struct loss_client *c = TAILQ_FIRST(&l->clients); c != NULL; c = next) {
        next = TAILQ_NEXT(c, link);
        if (c->wrote <= writes)
            c->wrote = 0;
        loss_drop_if_over(l, c);
    }
    if (l->rest_wrote <= writes)
        l->rest_wrote = 0;
}

uint64_t loss_tell(struct loss *l, const struct uuid *client, const uint64_t *heard)
{
    struct loss_client *c = loss_find(l, client);
    uint64_t lost = c != NULL ? c->lost : l->rest_lost;
    uint64_t known = heard != NULL && *heard > l->first && *heard <= l->last ? *heard : 0;
    if (c != NULL) {
        known = u64_max(known, c->heard);
        if (!uuid_is_zero(client)) /* or it speaks for others that have none */
            c->heard = known;
    }
    bool told = lost > known;
    if (told && heard == NULL) {
        if (c == NULL)
            c = loss_add(l, client);
        if (c != NULL) {
            c->heard = lost;
            c->silent = true;
        }
    }
    if (c != NULL)
        loss_drop_if_over(l, c);
    return told ? lost : 0;
}
