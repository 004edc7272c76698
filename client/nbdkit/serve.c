/* SPDX-License-Identifier: Apache-2.0 */
/* NBD's requests as the library's.
 *
 *   nbdkit's thread: request on its stack ──> link ──> library, from and to nbdkit's buffer
 *
 * A flush on one NBD connection covers what was written on all of them, so it asks on every link
 * that ever wrote the disk: to the daemon one would do, but each client of the library knows only
 * of its own writes whether the daemon's machine may have lost them. A disk that is not written
 * yet is flushed on the connection's own link.
 *
 * Zeroing is always fast: no data goes over the wire, whatever the snapshots then need.
 *
 * Thread: nbdkit's. What the link's thread runs only touches the operation that it answers.
 */
#include "client/nbdkit/serve.h"

#include "client/nbdkit/fault.h"

#include <inttypes.h>

struct io {
    struct link_op op; /* first */
    const struct disk *disk;
    uint64_t offset, len;
    union {
        void *to;
        const void *from;
        struct nbdkit_extents *extents;
    } with;
    unsigned flags;
    bool failed; /* nbdkit would not have the extents */
};

static struct link *link_of(const struct serve *s)
{
    return s->links[s->link_no];
}

static int fail(const struct serve *s, const struct io *io, const char *what)
{
    return fault_say(io->op.link, &io->op.error, "%s at %s: %s of %" PRIu64 " bytes at %" PRIu64,
                     s->disk->name, s->server, what, io->len, io->offset);
}

/* -- reading --------------------------------------------------------------------------------- */

static int read_submit(struct snapwire_client *c, struct link_op *op, struct snapwire_error *reterr)
{
    const struct io *io = (const struct io *)op;
    return snapwire_io_read(c, &io->disk->volume, &io->disk->snapshot, io->offset, (size_t)io->len,
                            io->with.to, link_answer, op, reterr);
}

int serve_read(struct serve *s, void *buf, uint32_t count, uint64_t offset)
{
    struct io io;
    io.op.submit = read_submit;
    io.disk = s->disk;
    io.offset = offset;
    io.len = count;
    io.with.to = buf;
    return link_run(link_of(s), &io.op) < 0 ? fail(s, &io, "read") : 0;
}

static void extents_cb(void *user, const struct snapwire_error *error,
                       const struct snapwire_extent_list *list)
{
    struct io *io = user;
    for (size_t i = 0; !error && !io->failed && i < list->count; i++) {
        const struct snapwire_extent *e = &list->extents[i];
        const uint32_t type =
            e->kind == SNAPWIRE_EXTENT_ZERO ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0;
        io->failed = nbdkit_add_extent(io->with.extents, e->offset_bytes, e->len_bytes, type) < 0;
    }
    link_answer(&io->op, error);
}

static int extents_submit(struct snapwire_client *c, struct link_op *op,
                          struct snapwire_error *reterr)
{
    struct io *io = (struct io *)op;
    return snapwire_extents(c, &io->disk->volume, &io->disk->snapshot, io->offset, io->len,
                            extents_cb, io, reterr);
}

int serve_extents(struct serve *s, uint32_t count, uint64_t offset, struct nbdkit_extents *extents)
{
    struct io io;
    io.op.submit = extents_submit;
    io.disk = s->disk;
    io.offset = offset;
    io.len = count;
    io.with.extents = extents;
    io.failed = false;
    if (link_run(link_of(s), &io.op) < 0)
        return fail(s, &io, "extents");
    return io.failed ? -1 : 0;
}

/* -- writing --------------------------------------------------------------------------------- */

static void mark_written(const struct serve *s)
{
    const unsigned bit = 1u << s->link_no;
    if ((atomic_load(&s->disk->written) & bit) == 0)
        (void)atomic_fetch_or(&s->disk->written, bit);
}

static int write_submit(struct snapwire_client *c, struct link_op *op,
                        struct snapwire_error *reterr)
{
    const struct io *io = (const struct io *)op;
    return snapwire_io_write(c, &io->disk->volume, &io->disk->snapshot, io->offset, (size_t)io->len,
                             io->with.from, io->flags, link_answer, op, reterr);
}

int serve_write(struct serve *s, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct io io;
    io.op.submit = write_submit;
    io.disk = s->disk;
    io.offset = offset;
    io.len = count;
    io.with.from = buf;
    io.flags = flags & NBDKIT_FLAG_FUA ? SNAPWIRE_IO_FUA : 0;
    mark_written(s);
    return link_run(link_of(s), &io.op) < 0 ? fail(s, &io, "write") : 0;
}

static int zero_submit(struct snapwire_client *c, struct link_op *op, struct snapwire_error *reterr)
{
    const struct io *io = (const struct io *)op;
    return snapwire_io_zero(c, &io->disk->volume, &io->disk->snapshot, io->offset, io->len,
                            io->flags, link_answer, op, reterr);
}

static int zero(struct serve *s, uint32_t count, uint64_t offset, unsigned flags, const char *what)
{
    struct io io;
    io.op.submit = zero_submit;
    io.disk = s->disk;
    io.offset = offset;
    io.len = count;
    io.flags = flags;
    mark_written(s);
    return link_run(link_of(s), &io.op) < 0 ? fail(s, &io, what) : 0;
}

int serve_zero(struct serve *s, uint32_t count, uint64_t offset, uint32_t flags)
{
    const unsigned fua = flags & NBDKIT_FLAG_FUA ? SNAPWIRE_IO_FUA : 0;
    const unsigned discard = flags & NBDKIT_FLAG_MAY_TRIM ? SNAPWIRE_IO_DISCARD : 0;
    return zero(s, count, offset, fua | discard, "zero");
}

int serve_trim(struct serve *s, uint32_t count, uint64_t offset, uint32_t flags)
{
    const unsigned fua = flags & NBDKIT_FLAG_FUA ? SNAPWIRE_IO_FUA : 0;
    return zero(s, count, offset, fua | SNAPWIRE_IO_DISCARD, "trim");
}

static int flush_submit(struct snapwire_client *c, struct link_op *op,
                        struct snapwire_error *reterr)
{
    const struct io *io = (const struct io *)op;
    return snapwire_io_flush(c, &io->disk->volume, &io->disk->snapshot, link_answer, op, reterr);
}

int serve_flush(struct serve *s)
{
    struct io io[LINKS_MAX];
    unsigned mask = atomic_load(&s->disk->written);
    int rc = 0;
    if (mask == 0)
        mask = 1u << s->link_no;
    for (unsigned i = 0; i < LINKS_MAX; i++) {
        if ((mask & 1u << i) == 0)
            continue;
        io[i].op.submit = flush_submit;
        io[i].disk = s->disk;
        link_begin(s->links[i], &io[i].op);
    }
    for (unsigned i = 0; i < LINKS_MAX; i++)
        if ((mask & 1u << i) && link_wait(&io[i].op) < 0 && rc == 0)
            rc = fault_say(s->links[i], &io[i].op.error, "%s at %s: flush", s->disk->name,
                           s->server);
    return rc;
}
