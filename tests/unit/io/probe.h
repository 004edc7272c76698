/* SPDX-License-Identifier: Apache-2.0 */
/* A request that remembers how it ended. */
#ifndef SNAP_TESTS_UNIT_IO_PROBE_H
#define SNAP_TESTS_UNIT_IO_PROBE_H

#include "common/io/mem.h"
#include "tests/lib/cm.h"

struct probe {
    struct blk_req req;
    unsigned ran; /* how often its done has run */
    int result;
};

static inline void probe_done(struct blk_req *req, int result)
{
    struct probe *p = req->user;
    p->ran++;
    p->result = result;
}

/* What p->req asks. */
static inline void probe_submit(struct blk_dev *dev, struct probe *p)
{
    p->ran = 0;
    p->req.done = probe_done;
    p->req.user = p;
    blk_submit(dev, &p->req);
    assert_int_equal(p->ran, 0); /* never inside */
}

static inline void probe_start(struct blk_dev *dev, struct probe *p, enum blk_op op, uint32_t flags,
                               uint64_t offset, uint64_t len, void *data)
{
    *p = (struct probe){
        .req = {.op = op, .flags = flags, .offset_bytes = offset, .len_bytes = len, .data = data}};
    probe_submit(dev, p);
}

/* Its result. The device is the memory engine's. */
static inline int probe_end(struct probe *p)
{
    while (p->ran == 0)
        assert_true(mem_engine_step(blk_dev_engine(p->req.dev)));
    return p->result;
}

static inline int probe_run(struct blk_dev *dev, enum blk_op op, uint32_t flags, uint64_t offset,
                            uint64_t len, void *data)
{
    struct probe p;
    probe_start(dev, &p, op, flags, offset, len, data);
    return probe_end(&p);
}

#endif
