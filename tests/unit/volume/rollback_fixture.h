/* SPDX-License-Identifier: Apache-2.0 */
/* A hosted volume with two snapshots, to be rolled back to the first. */
#ifndef SNAP_TESTS_UNIT_VOLUME_ROLLBACK_FIXTURE_H
#define SNAP_TESTS_UNIT_VOLUME_ROLLBACK_FIXTURE_H

#include "tests/unit/volume/tree_fixture.h"

/* s1: all 1; s2: the first 100 sectors are 2; now: 50-149 are 3. */
struct three {
    struct uuid s1, s2;
    uint8_t at1[SECTORS], at2[SECTORS], now[SECTORS];
};

static inline void three_make(struct fixture *f, struct three *t)
{
    tree_write(f, ITSELF, 0, SECTORS, 1);
    tree_fill(t->at1, 0, SECTORS, 1);
    t->s1 = fixture_create(f, "s1");
    tree_write(f, ITSELF, 0, 100, 2);
    memcpy(t->at2, t->at1, SECTORS);
    tree_fill(t->at2, 0, 100, 2);
    t->s2 = fixture_create(f, "s2");
    tree_write(f, ITSELF, 50, 100, 3);
    memcpy(t->now, t->at2, SECTORS);
    tree_fill(t->now, 50, 100, 3);
}

static inline void three_expect(struct fixture *f, const struct three *t, const uint8_t *now)
{
    tree_expect(f, t->s1, t->at1, "s1");
    tree_expect(f, t->s2, t->at2, "s2");
    tree_expect(f, ITSELF, now, "volume");
}

/* A rollback, and what happens in the turn in which it is told that it is begun: nothing of its
 * work is done by then. */
struct begin {
    struct rollback_spec spec;
    void (*then)(struct begin *b); /* NULL: nothing */
    bool cancel;
    struct call *closing; /* of the volume; NULL: it stays open */
    struct call *call;
};

static inline void begin_told(void *user, int code, const struct err *err)
{
    struct begin *b = user;
    struct volume *v = b->call->f->volume;
    struct call *closing = code == 0 ? b->closing : NULL; /* after call_end() b may be gone */
    if (b->then != NULL)
        b->then(b);
    if (code == 0 && b->cancel)
        volume_job_cancel(v, &b->spec.job, call_end, b->call);
    else
        call_end(b->call, code, err);
    if (closing != NULL)
        volume_close(v, call_end, closing);
}

static inline void fixture_do_begin(struct call *c)
{
    struct begin *b = c->arg;
    b->call = c;
    volume_rollback_start(c->f->volume, &b->spec, begin_told, b);
}

/* For env.storage: records that tell of a rollback cannot be saved. */
static inline int save_no_rollback(void *user, const char *dir, const struct volume_record *r,
                                   struct err *reterr)
{
    if (!uuid_is_zero(&r->rollback.job))
        return err_set(reterr, SNAP_EIO, "no");
    return volume_storage_files.save(user, dir, r, reterr);
}

#endif
