/* SPDX-License-Identifier: Apache-2.0 */
/* What a test does to a hosted volume, or to a clone: writes of whatever kind. */
#ifndef SNAP_TESTS_UNIT_VOLUME_HOSTED_FIXTURE_H
#define SNAP_TESTS_UNIT_VOLUME_HOSTED_FIXTURE_H

#include "daemon/volume/write.h"
#include "tests/unit/volume/volume_fixture.h"

struct writing {
    struct volume_write write; /* node, op, fua, offset_bytes, len_bytes: the test's */
    const uint8_t *data;       /* copied */
    struct call *call;
    uint8_t *aligned;
};

static inline void fixture_write_done(struct volume_write *w, int code, const struct err *err)
{
    struct writing *g = w->user;
    free(g->aligned);
    g->aligned = NULL;
    call_end(g->call, code, err);
}

static inline void fixture_do_write(struct call *c)
{
    struct writing *g = c->arg;
    void *p = NULL;
    g->call = c;
    if (g->data != NULL) {
        if (posix_memalign(&p, BUF_ALIGN_BYTES, (size_t)g->write.len_bytes + 1) != 0)
            abort();
        memcpy(p, g->data, (size_t)g->write.len_bytes);
    }
    g->aligned = p;
    g->write.data = p;
    g->write.done = fixture_write_done;
    g->write.user = g;
    volume_write_start(c->f->volume, &g->write);
}

static inline int fixture_write(struct fixture *f, struct uuid node, uint64_t offset_bytes,
                                const void *data, uint64_t len_bytes)
{
    struct writing g = {.write = {.node = node,
                                  .op = VOLUME_WRITE,
                                  .offset_bytes = offset_bytes,
                                  .len_bytes = len_bytes},
                        .data = data};
    return call(f, fixture_do_write, &g);
}

/* One byte, all over. */
static inline int fixture_fill(struct fixture *f, struct uuid node, uint64_t offset_bytes,
                               uint64_t len_bytes, int byte)
{
    uint8_t *data = malloc((size_t)len_bytes + 1);
    memset(data, byte, (size_t)len_bytes);
    int rc = fixture_write(f, node, offset_bytes, data, len_bytes);
    free(data);
    return rc;
}

static inline int fixture_op(struct fixture *f, struct uuid node, enum volume_write_op op,
                             uint64_t offset_bytes, uint64_t len_bytes)
{
    struct writing g = {
        .write = {.node = node, .op = op, .offset_bytes = offset_bytes, .len_bytes = len_bytes}};
    return call(f, fixture_do_write, &g);
}

/* Begun in one turn of the shard. */
static inline void fixture_write_together(struct fixture *f, struct writing *g, struct call *calls,
                                          unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        calls[i] = (struct call){.fn = fixture_do_write, .arg = &g[i]};
    call_begin_together(f, calls, count);
}

/* -- who waits for whom ---------------------------------------------------------------- */

/* Chunks held as by a write under way, or by a snapshot's read of the origin, until let go. */
struct holding {
    struct range range; /* first, last, shared: the test's */
    struct uuid clone;  /* whose; nil: the origin's */
    bool reads;
    struct range_lock *lock;
};

static inline void holding_granted(struct range *r)
{
    (void)r;
}

/* SNAP_EBUSY: somebody else has them. */
static inline void fixture_do_hold(struct call *c)
{
    struct holding *h = c->arg;
    struct volume *v = c->f->volume;
    if (!uuid_is_zero(&h->clone))
        h->lock = volume_snapshot_find(v, &h->clone)->ranges;
    else
        h->lock = h->reads ? &v->origin->reads : &v->origin->writes;
    h->range.granted = holding_granted;
    range_take(h->lock, &h->range);
    call_end(c, h->range.held ? 0 : SNAP_EBUSY, NULL);
}

static inline void fixture_hold(struct fixture *f, struct holding *h)
{
    assert_int_equal(call(f, fixture_do_hold, h), 0);
}

static inline void fixture_do_let_go(struct call *c)
{
    struct holding *h = c->arg;
    range_give(h->lock, &h->range);
    call_end(c, 0, NULL);
}

static inline void fixture_let_go(struct fixture *f, struct holding *h)
{
    (void)call(f, fixture_do_let_go, h);
}

#endif
