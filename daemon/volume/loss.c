/* SPDX-License-Identifier: Apache-2.0 */
/* The list of clients that have written what is not durable yet, or lost it and do not know.
 * It is as long as there are such clients: whoever has heard, and whose writes a flush has
 * covered, leaves it. It must not know what is flushed. Thread: the shard's. */
#include "daemon/volume/loss.h"

#include <stdlib.h>

struct loss_client {
    struct uuid id;
    unsigned heard; /* of so many failures */
    uint64_t wrote; /* last, by the clock */
    LIST_ENTRY(loss_client) link;
};

void loss_init(struct loss *l)
{
    *l = (struct loss){.failed = 0};
    LIST_INIT(&l->clients);
}

void loss_done(struct loss *l)
{
    struct loss_client *c;
    while ((c = LIST_FIRST(&l->clients)) != NULL) {
        LIST_REMOVE(c, link);
        free(c);
    }
}

static struct loss_client *loss_find(struct loss *l, const struct uuid *client)
{
    struct loss_client *c;
    LIST_FOREACH (c, &l->clients, link)
        if (uuid_equal(&c->id, client))
            return c;
    return NULL;
}

void loss_wrote(struct loss *l, const struct uuid *client)
{
    struct loss_client *c = loss_find(l, client);
    if (c == NULL) {
        c = calloc(1, sizeof *c);
        if (c == NULL) {
            l->everybody = true;
            return;
        }
        c->id = *client;
        c->heard = l->failed;
        LIST_INSERT_HEAD(&l->clients, c, link);
    } else if (c != LIST_FIRST(&l->clients)) {
        LIST_REMOVE(c, link);
        LIST_INSERT_HEAD(&l->clients, c, link);
    }
    c->wrote = ++l->writes;
}

void loss_happened(struct loss *l)
{
    l->failed++;
}

void loss_flushed(struct loss *l, uint64_t writes)
{
    struct loss_client *next;
    for (struct loss_client *c = LIST_FIRST(&l->clients); c != NULL; c = next) {
        next = LIST_NEXT(c, link);
        if (c->wrote > writes || c->heard != l->failed)
            continue;
        LIST_REMOVE(c, link);
        free(c);
    }
}

bool loss_tell(struct loss *l, const struct uuid *client)
{
    struct loss_client *c = loss_find(l, client);
    bool told = c != NULL ? c->heard != l->failed : l->everybody && l->failed > 0;
    if (c != NULL)
        c->heard = l->failed;
    else if (told)
        l->everybody = false;
    return told;
}
