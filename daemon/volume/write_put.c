/* SPDX-License-Identifier: Apache-2.0 */
/* Content on its way into a node's store, for a write: old content into a dependant, or new content
 * into the clone that is written.
 *
 *   new ──> add … ──> submit ──(decided: done runs)──> verdict ──> free
 *
 * A put keeps its node open from its submission to its freeing. What store and put may answer comes
 * down to four verdicts here: so, again, no room, failed. It must not know what a write does with
 * them. Thread: the shard's.
 */
#include "daemon/volume/write_priv.h"

#include <stdlib.h>

struct write_put *write_put_new(struct write_part *p, struct snapshot *node, uint32_t count)
{
    struct write_put *x;
    size_t each = sizeof *x->old_chunks + sizeof *x->iov + sizeof *x->outcomes;
    x = malloc(sizeof *x + count * each);
    if (x == NULL)
        return NULL;
    x->part = p;
    x->node = node;
    x->count = 0;
    x->old_chunks = (uint64_t *)(void *)(x + 1);
    x->iov = (struct iovec *)(void *)(x->old_chunks + count);
    x->outcomes = (int16_t *)(void *)(x->iov + count);
    return x;
}

void write_put_add(struct write_put *x, uint64_t old_chunk, uint8_t *data, uint32_t chunk_bytes)
{
    x->old_chunks[x->count] = old_chunk;
    x->iov[x->count++] = (struct iovec){.iov_base = data, .iov_len = chunk_bytes};
}

void write_put_submit(struct write_put *x,
                      void (*done)(struct cow_put *put, int code, const struct err *err))
{
    x->put = (struct cow_put){.old_chunks = x->old_chunks,
                              .count = x->count,
                              .iov = x->iov,
                              .iov_count = x->count,
                              .outcomes = x->outcomes,
                              .done = done,
                              .user = x};
    snapshot_reader_begin(x->node); /* it stays until write_put_free() */
    snapshot_kick(x->node);
    cow_store_put(x->node->store, &x->put);
}

void write_put_free(struct write_put *x)
{
    struct snapshot *node = x->node;
    free(x);
    snapshot_count_space(node);
    snapshot_check_poison(node);
    snapshot_reader_end(node);
}

enum write_verdict write_put_verdict(const struct write_put *x)
{
    enum write_verdict worst = WRITE_OK;
    for (uint32_t i = 0; i < x->count; i++) {
        enum write_verdict one = WRITE_FAILED;
        switch (x->outcomes[i]) {
        case COW_ADDED:
        case COW_EXISTS:
            one = WRITE_OK;
            break;
        case SNAP_ENOSPC:
            one = WRITE_FULL;
            break;
        case SNAP_EPOISONED:
        case SNAP_ESHUTDOWN:
        case SNAP_EINVALID:
            one = WRITE_AGAIN;
            break;
        default:
            break;
        }
        worst = one > worst ? one : worst;
    }
    return worst;
}

enum write_verdict write_node_ready(const struct snapshot *s, struct err *reterr)
{
    const struct record_snapshot *rs = snapshot_record(s);
    const char *name = rs != NULL ? rs->name : "?", *volume = s->volume->record.name;
    /* a hidden one that several read through goes on taking what they need; who checks an open
     * one has closed the gate, and waits for the writes past it */
    bool away = s->busy && s->store == NULL;
    if (s->store != NULL && cow_store_invalidating(s->store)) {
        (void)err_set(reterr, SNAP_EBUSY, "%s@%s is being made invalid", volume, name);
        return WRITE_AGAIN;
    }
    if (away || (s->leaving && !s->hidden)) {
        (void)err_set(reterr, SNAP_EBUSY, "%s@%s is being %s", volume, name,
                      away ? "checked" : "deleted");
        return WRITE_AGAIN;
    }
    if (snapshot_is_moving(s) || (s->store != NULL && cow_store_state(s->store) == COW_POISONED)) {
        (void)err_set(reterr, SNAP_EPOISONED, "%s@%s is being opened", volume, name);
        return WRITE_AGAIN;
    }
    if (s->store == NULL) {
        (void)err_set(reterr, SNAP_ECORRUPT,
                      "%s@%s cannot take what it needs to keep: %s; put its COW device right "
                      "(snapctl cow check --repair) and start the daemon again, or delete it",
                      volume, name, s->fault_text);
        return WRITE_FAILED;
    }
    return WRITE_OK;
}
