/* SPDX-License-Identifier: Apache-2.0 */
/* A hosted volume on a real shard with real files, and what a test does to it: writes and reads
 * by the sector, each sector filled with one byte. */
#ifndef SNAP_TESTS_UNIT_VOLUME_TREE_FIXTURE_H
#define SNAP_TESTS_UNIT_VOLUME_TREE_FIXTURE_H

#include "daemon/volume/tree.h"
#include "tests/unit/volume/hosted_fixture.h"
#include "tests/unit/volume/job_fixture.h"

enum { SECTORS = CHUNKS * CHUNK_SECTORS };

/* -- writing ------------------------------------------------------------------------------ */

static inline int tree_try_write(struct fixture *f, struct uuid node, uint64_t first,
                                 uint64_t count, uint8_t fill)
{
    return fixture_fill(f, node, first * SECTOR_BYTES, count * SECTOR_BYTES, fill);
}

static inline void tree_write(struct fixture *f, struct uuid node, uint64_t first, uint64_t count,
                              uint8_t fill)
{
    assert_int_equal(tree_try_write(f, node, first, count, fill), 0);
}

/* -- reading -------------------------------------------------------------------------------- */

struct sectors {
    struct volume_read read;
    struct call *call;
    struct uuid node;
    uint8_t bytes[SECTORS * SECTOR_BYTES];
};

static inline void tree_read_done(struct volume_read *r, int code, const struct err *err)
{
    struct sectors *g = r->user;
    size_t at = 0;
    for (unsigned i = 0; code == 0 && i < r->iov_count; i++) {
        memcpy(g->bytes + at, r->iov[i].iov_base, r->iov[i].iov_len);
        at += r->iov[i].iov_len;
    }
    buf_give(r->buf);
    volume_read_done(r);
    call_end(g->call, code, err);
}

static inline void tree_do_read(struct call *c)
{
    struct sectors *g = c->arg;
    g->call = c;
    g->read = (struct volume_read){
        .snapshot = g->node, .len_bytes = sizeof g->bytes, .done = tree_read_done, .user = g};
    volume_read_start(c->f->volume, &g->read);
}

/* Each sector must be whole, and as in want. what: for the message. */
static inline void tree_expect(struct fixture *f, struct uuid node, const uint8_t want[SECTORS],
                               const char *what)
{
    struct sectors *g = calloc(1, sizeof *g);
    g->node = node;
    struct call c;
    call_begin(&c, f, tree_do_read, g);
    if (call_wait(&c) != 0)
        fail_msg("%s cannot be read: %s", what, c.err.text);
    for (unsigned i = 0; i < SECTORS * SECTOR_BYTES; i++)
        if (g->bytes[i] != want[i / SECTOR_BYTES])
            fail_msg("%s: byte %u of sector %u (chunk %u) is %u, not %u", what, i % SECTOR_BYTES,
                     i / SECTOR_BYTES, i / CHUNK_BYTES, g->bytes[i], want[i / SECTOR_BYTES]);
    free(g);
}

/* -- nodes that come and go ------------------------------------------------------------------- */

static inline void tree_delete(struct fixture *f, struct uuid id)
{
    assert_int_equal(fixture_delete(f, id, uuid_make(), false), 0);
}

static inline void tree_do_rollback(struct call *c)
{
    volume_rollback_start(c->f->volume, c->arg, call_end, c);
}

static inline struct uuid tree_rollback(struct fixture *f, struct uuid to, bool merge, bool drop)
{
    struct rollback_spec spec = {
        .job = uuid_make(), .snapshot = to, .merge = merge, .drop_newer = drop};
    assert_int_equal(call(f, tree_do_rollback, &spec), 0);
    return spec.job;
}

/* Nodes of both kinds, hidden ones too. */
static inline void tree_do_count(struct call *c)
{
    unsigned *n = c->arg;
    const struct snapshot *s;
    *n = 0;
    TAILQ_FOREACH (s, &c->f->volume->chain, link)
        (*n)++;
    TAILQ_FOREACH (s, &c->f->volume->clones, link)
        (*n)++;
    call_end(c, 0, NULL);
}

static inline unsigned tree_nodes(struct fixture *f)
{
    unsigned n;
    (void)call(f, tree_do_count, &n);
    return n;
}

/* Until so many nodes are left. */
static inline void tree_settle(struct fixture *f, unsigned nodes)
{
    for (int i = 0; i < 4000; i++) {
        if (tree_nodes(f) == nodes)
            return;
        (void)usleep(1000);
    }
    fail_msg("%u nodes stay, not %u", tree_nodes(f), nodes);
}

static inline void tree_fill(uint8_t want[SECTORS], uint64_t first, uint64_t count, uint8_t fill)
{
    memset(want + first, fill, count);
}

#endif
