/* SPDX-License-Identifier: Apache-2.0 */
/* What is counted by identity, over all shards: connections, an owner's volumes, and the space
 * that they take. Looked up when a connection or a volume comes or goes, never by another
 * request. Thread: any; one lock. */
#include "daemon/service/server.h"

#include "common/base/check.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct client {
    char identity[LIMIT_NAME_BYTES + 1];
    uint32_t connections;
    LIST_ENTRY(client) link;
};

struct owner {
    char identity[LIMIT_NAME_BYTES + 1];
    _Atomic int64_t space_bytes;
    uint32_t volumes; /* that have a record, or are getting one */
    LIST_ENTRY(owner) link;
};

struct clients {
    pthread_mutex_t lock;
    LIST_HEAD(, client) list;
    LIST_HEAD(, owner) owners;
};

struct clients *clients_new(void)
{
    struct clients *c = calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    pthread_mutex_init(&c->lock, NULL);
    LIST_INIT(&c->list);
    LIST_INIT(&c->owners);
    return c;
}

void clients_free(struct clients *c)
{
    if (c == NULL)
        return;
    struct client *one;
    while ((one = LIST_FIRST(&c->list)) != NULL) {
        LIST_REMOVE(one, link);
        free(one);
    }
    struct owner *o;
    while ((o = LIST_FIRST(&c->owners)) != NULL) {
        LIST_REMOVE(o, link);
        free(o);
    }
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* Under the lock. NULL: no memory. */
static struct owner *clients_owner(struct clients *c, const char *identity)
{
    struct owner *o;
    LIST_FOREACH (o, &c->owners, link)
        if (strcmp(o->identity, identity) == 0)
            return o;
    o = calloc(1, sizeof *o);
    if (o != NULL) {
        (void)snprintf(o->identity, sizeof o->identity, "%s", identity);
        LIST_INSERT_HEAD(&c->owners, o, link);
    }
    return o;
}

_Atomic int64_t *clients_space_of(void *user, const char *owner)
{
    struct clients *c = user;
    pthread_mutex_lock(&c->lock);
    struct owner *o = clients_owner(c, owner);
    pthread_mutex_unlock(&c->lock);
    return o == NULL ? NULL : &o->space_bytes;
}

int clients_add_volume(struct clients *c, const char *owner, uint32_t volumes_max,
                       struct err *reterr)
{
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    struct owner *o = clients_owner(c, owner);
    if (o == NULL)
        rc = err_set(reterr, SNAP_ENOMEM, "client %s", owner);
    else if (volumes_max != 0 && o->volumes >= volumes_max)
        rc = err_set(reterr, SNAP_ELIMIT,
                     "client %s has %u volumes, and limits.volumes_per_client allows %u", owner,
                     o->volumes, volumes_max);
    else
        o->volumes++;
    pthread_mutex_unlock(&c->lock);
    return rc;
}

void clients_drop_volume(struct clients *c, const char *owner)
{
    pthread_mutex_lock(&c->lock);
    struct owner *o = clients_owner(c, owner);
    CHECK(o != NULL && o->volumes > 0);
    o->volumes--;
    pthread_mutex_unlock(&c->lock);
}

int clients_enter(struct clients *c, const char *identity, uint32_t connections_max,
                  struct client **ret, struct err *reterr)
{
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    struct client *one;
    LIST_FOREACH (one, &c->list, link)
        if (strcmp(one->identity, identity) == 0)
            break;
    if (one != NULL && one->connections >= connections_max) {
        rc = err_set(reterr, SNAP_ELIMIT, "client %s has %u connections", identity,
                     one->connections);
    } else if (one == NULL) {
        one = calloc(1, sizeof *one);
        if (one == NULL) {
            rc = err_set(reterr, SNAP_ENOMEM, "client %s", identity);
        } else {
            (void)snprintf(one->identity, sizeof one->identity, "%s", identity);
            LIST_INSERT_HEAD(&c->list, one, link);
        }
    }
    if (rc == 0) {
        one->connections++;
        *ret = one;
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

void clients_leave(struct clients *c, struct client *client)
{
    pthread_mutex_lock(&c->lock);
    if (--client->connections == 0) {
        LIST_REMOVE(client, link);
        free(client);
    }
    pthread_mutex_unlock(&c->lock);
}
