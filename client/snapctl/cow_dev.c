/* SPDX-License-Identifier: Apache-2.0 */
/* Opening COW devices for the offline commands.
 *
 * Through the page cache, so that every chunk size works on every file system;
 * durability comes from the store's flushes either way.
 */
#include "client/snapctl/cow_dev.h"

#include <stdlib.h>
#include <time.h>

enum { BUSY_PAUSE_NS = 20 * 1000 * 1000, BUSY_TRIES = 100 };

/* A program that was killed a moment ago may still hold the lock: wait a little for it. */
static int open_patiently(struct blk_engine *e, const char *path, unsigned flags,
                          struct blk_dev **ret, struct err *reterr)
{
    int rc;
    for (int i = 0; (rc = blk_open(e, path, flags, ret, reterr)) == SNAP_EBUSY && i < BUSY_TRIES;
         i++) {
        const struct timespec pause = {.tv_nsec = BUSY_PAUSE_NS};
        (void)nanosleep(&pause, NULL);
    }
    return rc;
}

int cow_dev_open(const char *path, enum cow_dev_mode mode, cow_fault_fn *faults, void *fault_user,
                 struct cow_dev *ret, struct err *reterr)
{
    struct cow_dev d = {0};
    struct err why = ERR_INIT;
    bool write = mode == COW_DEV_WRITE;
    unsigned flags =
        BLK_OPEN_BUFFERED | (write ? (unsigned)BLK_OPEN_EXCLUSIVE : (unsigned)BLK_OPEN_READ_ONLY);
    int rc = blk_engine_new(&d.engine, reterr);
    if (rc == 0)
        rc = open_patiently(d.engine, path, flags, &d.dev, reterr);
    if (rc == 0 && !(d.map = cow_map_new()))
        rc = err_set(reterr, SNAP_ENOMEM, "%s", path);
    if (rc == 0) {
        struct cow_store_options options = {
            .map = d.map,
            .limit_bytes = write ? UINT64_MAX : 0,
            .read_only = !write,
            .accept_damaged = mode == COW_DEV_INSPECT,
        };
        rc = cow_store_open_sync(d.dev, &options, faults, fault_user, &d.store, &why);
        /* what has no header of a COW device is no mistake in the command line */
        if (rc == SNAP_EINVAL)
            why.code = rc = SNAP_ECORRUPT;
        if (rc < 0)
            (void)err_copy(reterr, &why);
    }
    if (rc < 0) {
        cow_dev_close(&d);
        return rc;
    }
    *ret = d;
    return 0;
}

void cow_dev_close(struct cow_dev *d)
{
    if (d->store)
        (void)cow_store_close_sync(d->store, NULL);
    cow_map_free(d->map);
    blk_dev_close(d->dev);
    blk_engine_free(d->engine);
    *d = (struct cow_dev){0};
}

int cow_stack_open(const char *const *paths, unsigned count, enum cow_dev_mode mode,
                   struct cow_stack **ret, struct err *reterr)
{
    if (count > COW_STACK_MAX)
        return err_set(reterr, SNAP_ELIMIT, "more than %d COW devices", COW_STACK_MAX);
    struct cow_stack *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(reterr, SNAP_ENOMEM, "stack of COW devices");
    int rc = 0;
    for (unsigned i = 0; i < count && rc == 0; i++) {
        bool end = i == 0 || i + 1 == count;
        rc = cow_dev_open(paths[i], end ? mode : COW_DEV_READ, NULL, NULL, &s->devs[i], reterr);
        if (rc < 0)
            break;
        s->count = i + 1;
        if (cow_store_state(s->devs[i].store) == COW_INVALID)
            rc =
                err_set(reterr, SNAP_EINVALID,
                        "%s: the snapshot is invalid: an origin write was not preserved", paths[i]);
        s->layers[i] = (struct cow_layer){
            .map = s->devs[i].map,
            .chunk_bytes = cow_store_geometry(s->devs[i].store)->chunk_bytes,
        };
    }
    if (rc < 0) {
        cow_stack_close(s);
        return rc;
    }
    *ret = s;
    return 0;
}

void cow_stack_close(struct cow_stack *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < s->count; i++)
        cow_dev_close(&s->devs[i]);
    free(s);
}

struct cow_view cow_stack_view(const struct cow_stack *s)
{
    return (struct cow_view){.layers = s->layers, .layer_count = s->count};
}

int cow_stack_read(const struct cow_stack *s, const struct cow_extent *x, void *buf,
                   struct err *reterr)
{
    return blk_read_sync(s->devs[x->layer].dev, x->dev_offset_bytes, buf, x->len_bytes, reterr);
}
