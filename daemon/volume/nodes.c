/* SPDX-License-Identifier: Apache-2.0 */
/* The nodes of a volume by uuid and by seq: two hash tables over the chain and the clones.
 *
 * They grow with the number of nodes; when there is no memory to grow, the lists of the buckets
 * only become longer. It must not know what a node holds. Thread: the shard's.
 */
#include "daemon/volume/nodes.h"

#include <stdlib.h>

enum { NODES_BUCKETS_MIN = 64 };

struct volume_nodes {
    struct snapshot_set *by_id, *by_seq; /* one behind the other in one block */
    size_t bucket_count;                 /* of each; a power of two */
    size_t count;
};

static struct snapshot_set *nodes_buckets(size_t count)
{
    return calloc(count * 2, sizeof(struct snapshot_set));
}

struct volume_nodes *volume_nodes_new(void)
{
    struct volume_nodes *n = calloc(1, sizeof *n);
    if (n == NULL)
        return NULL;
    n->bucket_count = NODES_BUCKETS_MIN;
    n->by_id = nodes_buckets(n->bucket_count);
    if (n->by_id == NULL) {
        free(n);
        return NULL;
    }
    n->by_seq = n->by_id + n->bucket_count;
    return n;
}

void volume_nodes_free(struct volume_nodes *n)
{
    if (n == NULL)
        return;
    free(n->by_id);
    free(n);
}

static size_t nodes_id_bucket(const struct volume_nodes *n, const struct uuid *id)
{
    return (size_t)(uuid_hash(id) >> 16) & (n->bucket_count - 1);
}

static size_t nodes_seq_bucket(const struct volume_nodes *n, uint32_t seq)
{
    return seq & (n->bucket_count - 1); /* given out one after another */
}

static void nodes_insert(struct volume_nodes *n, struct snapshot *s)
{
    LIST_INSERT_HEAD(&n->by_id[nodes_id_bucket(n, &s->id)], s, id_link);
    LIST_INSERT_HEAD(&n->by_seq[nodes_seq_bucket(n, s->seq)], s, seq_link);
}

static void nodes_grow(struct volume_nodes *n)
{
    struct volume_nodes old = *n;
    struct snapshot_set *buckets = nodes_buckets(old.bucket_count * 4);
    if (buckets == NULL)
        return;
    n->bucket_count *= 4;
    n->by_id = buckets;
    n->by_seq = buckets + n->bucket_count;
    for (size_t i = 0; i < old.bucket_count; i++) {
        struct snapshot *s;
        while ((s = LIST_FIRST(&old.by_id[i])) != NULL) {
            LIST_REMOVE(s, id_link);
            LIST_REMOVE(s, seq_link);
            nodes_insert(n, s);
        }
    }
    free(old.by_id);
}

void volume_node_add(struct volume *v, struct snapshot *s)
{
    struct volume_nodes *n = v->nodes;
    if (s->clone)
        TAILQ_INSERT_TAIL(&v->clones, s, link);
    else
        TAILQ_INSERT_TAIL(&v->chain, s, link);
    if (++n->count > n->bucket_count)
        nodes_grow(n);
    nodes_insert(n, s);
}

void volume_node_remove(struct volume *v, struct snapshot *s)
{
    if (s->clone)
        TAILQ_REMOVE(&v->clones, s, link);
    else
        TAILQ_REMOVE(&v->chain, s, link);
    v->nodes->count--;
    LIST_REMOVE(s, id_link);
    LIST_REMOVE(s, seq_link);
}

struct snapshot *volume_node_by_id(const struct volume *v, const struct uuid *id)
{
    struct snapshot *s;
    LIST_FOREACH (s, &v->nodes->by_id[nodes_id_bucket(v->nodes, id)], id_link)
        if (uuid_equal(&s->id, id))
            return s;
    return NULL;
}

struct snapshot *volume_node_by_seq(const struct volume *v, uint32_t seq)
{
    struct snapshot *s;
    LIST_FOREACH (s, &v->nodes->by_seq[nodes_seq_bucket(v->nodes, seq)], seq_link)
        if (s->seq == seq)
            return s;
    return NULL;
}
