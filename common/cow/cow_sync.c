/* SPDX-License-Identifier: Apache-2.0 */
/* The blocking face, for tools and tests: drives the device's engine until the
 * callback has run. Must not be used on a thread whose loop drives that engine. */
#include "common/cow/cow_store_priv.h"

struct sync_wait {
    struct blk_engine *engine;
    bool over;
    int code;
    struct err *reterr;
    struct cow_store *store;
    cow_fault_fn *faults;
    void *fault_user;
};

static void sync_done(void *user, int code, const struct err *err)
{
    struct sync_wait *w = user;

    w->over = true;
    w->code = code;
    if (code)
        err_copy(w->reterr, err);
}

static void sync_opened(void *user, struct cow_store *store, int code, const struct err *err)
{
    ((struct sync_wait *)user)->store = store;
    sync_done(user, code, err);
}

static void sync_fault(void *user, const struct cow_fault *fault)
{
    const struct sync_wait *w = user;

    if (w->faults)
        w->faults(w->fault_user, fault);
}

static int sync_run(struct sync_wait *w)
{
    while (!w->over) {
        unsigned ran = blk_engine_wait(w->engine, -1);

        CHECK(ran || w->over || blk_engine_inflight(w->engine));
    }
    return w->code;
}

int cow_store_create_sync(struct blk_dev *dev, uint32_t chunk_size_sectors, struct err *reterr)
{
    struct sync_wait w = {.engine = blk_dev_engine(dev), .reterr = reterr};

    cow_store_create(dev, chunk_size_sectors, sync_done, &w);
    return sync_run(&w);
}

int cow_store_open_sync(struct blk_dev *dev, const struct cow_store_options *options,
                        cow_fault_fn *faults, void *fault_user, struct cow_store **ret,
                        struct err *reterr)
{
    struct sync_wait w = {.engine = blk_dev_engine(dev),
                          .reterr = reterr,
                          .faults = faults,
                          .fault_user = fault_user};
    int code;

    cow_store_open(dev, options, sync_fault, sync_opened, &w);
    code = sync_run(&w);
    if (code == 0)
        *ret = w.store;
    return code;
}

int cow_store_close_sync(struct cow_store *s, struct err *reterr)
{
    struct sync_wait w = {.engine = blk_dev_engine(s->dev), .reterr = reterr};

    cow_store_close(s, sync_done, &w);
    cow_store_kick(s);
    return sync_run(&w);
}
