/* SPDX-License-Identifier: Apache-2.0 */
/* Reading and writing hosted volumes.
 *
 *   one call ──> pieces of at most 1 MiB, cut at its multiples ──> each a request
 *        ^                                                            │
 *        └─ the callback, after the last answer <── the next piece <──┘
 *
 * A piece borrows the caller's memory: what is written goes from there to TLS, what is read is
 * copied there when the whole answer has been found sound. Its control message lies in the piece
 * itself, so that a call costs one allocation. After the first error no further piece begins, and
 * the call ends when those under way have.
 *
 * What was answered and not flushed outlives the daemon's process, not its machine, nor perhaps a
 * failed flush. So each volume and clone that is written is remembered with the `boot` under which
 * that was answered: a flush that is answered under another one did not cover it, and says so.
 *
 * A flush that failed in the daemon is told until the client says that it has heard of it: by the
 * failure's number, in its next flush. A flush that is sent again says what it said the first
 * time, so that what was told to a broken connection is told anew.
 *
 * Pieces are sent again after a reconnect as any request is; the daemon sees to it that one of
 * an older connection does not come after one of a newer (docs/protocol.md).
 *
 * Thread: the client's.
 */
#include "client/lib/client_priv.h"
#include "common/base/bytes.h"
#include "common/base/check.h"

#include <stdlib.h>
#include <string.h>

#define M(name) SNAPWIRE__V1__METHOD__METHOD_##name

enum {
    PIECE_BYTES = 1 << 20,
    PIECES_MAX = 16,     /* of one call under way together */
    CONTROL_BYTES = 128, /* two uuids, two numbers, two flags; or a number of ten bytes */
};
#define ZERO_PIECE_BYTES (UINT64_C(4) << 30)

struct io_op;

struct io_piece {
    struct request rq; /* first */
    struct io_op *op;
    struct iovec iov;
    uint64_t offset_bytes, len_bytes;
    uint8_t control[CONTROL_BYTES];
};

/* What has been written or flushed: it lives as long as the client. */
struct io_node {
    struct snapwire_uuid volume, snapshot;
    bool dirty;     /* answered, not flushed */
    unsigned boots; /* the client's count when it became so */
    uint64_t writes;
    uint64_t heard; /* the last failure of a flush that the daemon told of; 0: none */
    LIST_ENTRY(io_node) link;
};

struct io_op {
    struct snapwire_client *client;
    struct io_node *node; /* NULL: nothing to remember; a flush has one */
    uint64_t writes;      /* flush: the node's count when it began */
    uint16_t method;
    unsigned flags;
    struct snapwire_uuid volume, snapshot;
    uint64_t offset_bytes, len_bytes;
    uint64_t piece_bytes;
    uint64_t cursor_bytes; /* of the range: pieces begin here */
    uint8_t *buf;          /* read */
    const uint8_t *data;   /* write */
    snapwire_done_cb cb;
    void *user;
    struct err err; /* the first */
    unsigned pending;
    unsigned piece_count;
    struct io_piece pieces[];
};

/* -- what may be lost -- */

void io_connected(struct snapwire_client *c, const struct uuid *boot)
{
    if (uuid_is_zero(boot))
        return;
    if (!uuid_is_zero(&c->boot) && !uuid_equal(&c->boot, boot))
        c->boots++;
    c->boot = *boot;
}

void io_nodes_free(struct snapwire_client *c)
{
    struct io_node *node;

    while ((node = LIST_FIRST(&c->io_nodes)) != NULL) {
        LIST_REMOVE(node, link);
        free(node);
    }
}

static struct io_node *node_find(struct snapwire_client *c, const struct io_op *op)
{
    struct io_node *node;

    LIST_FOREACH (node, &c->io_nodes, link) {
        if (snapwire_uuid_equal(&node->volume, &op->volume) &&
            snapwire_uuid_equal(&node->snapshot, &op->snapshot))
            return node;
    }
    return NULL;
}

static struct io_node *node_make(struct snapwire_client *c, const struct io_op *op)
{
    struct io_node *node = node_find(c, op);

    if (node != NULL)
        return node;
    node = calloc(1, sizeof *node);
    if (node == NULL)
        return NULL;
    node->volume = op->volume;
    node->snapshot = op->snapshot;
    LIST_INSERT_HEAD(&c->io_nodes, node, link);
    return node;
}

static void node_written(const struct io_op *op)
{
    struct io_node *node = op->node;

    if (!node->dirty)
        node->boots = op->client->boots;
    node->dirty = true;
    node->writes++;
}

static int node_flushed(const struct io_op *op, struct err *reterr)
{
    struct io_node *node = op->node;
    const bool lost = node->dirty && node->boots != op->client->boots;

    if (node->writes == op->writes)
        node->dirty = false;
    if (!lost)
        return 0;
    return err_set(reterr, SNAP_EIO,
                   "the daemon's machine was started anew, or the daemon after a flush had "
                   "failed: writes that it had answered may be lost");
}

/* Which node an operation is about, if that is to be known. */
static int node_take(struct snapwire_client *c, struct io_op *op, struct err *reterr)
{
    if (op->method == M(SNAPSHOT_READ) || (op->flags & SNAPWIRE_IO_FUA))
        return 0;
    op->node = node_make(c, op);
    if (op->node == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a request");
    op->writes = op->node->writes;
    return 0;
}

/* -- messages -- */

static void io_pack(struct io_piece *p)
{
    const struct io_op *op = p->op;
    const ProtobufCBinaryData volume = pb_uuid(&op->volume), snapshot = pb_uuid(&op->snapshot);
    Snapwire__V1__WriteRequest write = SNAPWIRE__V1__WRITE_REQUEST__INIT;
    Snapwire__V1__ZeroRequest zero = SNAPWIRE__V1__ZERO_REQUEST__INIT;
    Snapwire__V1__ReadRequest read = SNAPWIRE__V1__READ_REQUEST__INIT;
    Snapwire__V1__FlushRequest flush = SNAPWIRE__V1__FLUSH_REQUEST__INIT;
    const ProtobufCMessage *m = &flush.base;

    if (op->method == M(WRITE)) {
        write.volume = volume;
        write.snapshot = snapshot;
        write.offset_bytes = p->offset_bytes;
        write.fua = (op->flags & SNAPWIRE_IO_FUA) != 0;
        write.alone = (op->flags & SNAPWIRE_IO_ALONE) != 0;
        m = &write.base;
    } else if (op->method == M(ZERO)) {
        zero.volume = volume;
        zero.snapshot = snapshot;
        zero.offset_bytes = p->offset_bytes;
        zero.len_bytes = p->len_bytes;
        zero.fua = (op->flags & SNAPWIRE_IO_FUA) != 0;
        zero.discard = (op->flags & SNAPWIRE_IO_DISCARD) != 0;
        zero.alone = (op->flags & SNAPWIRE_IO_ALONE) != 0;
        m = &zero.base;
    } else if (op->method == M(SNAPSHOT_READ)) {
        read.volume = volume;
        read.snapshot = snapshot;
        read.offset_bytes = p->offset_bytes;
        read.len_bytes = (uint32_t)p->len_bytes;
        m = &read.base;
    } else {
        flush.volume = volume;
        flush.snapshot = snapshot;
        flush.says_case = SNAPWIRE__V1__FLUSH_REQUEST__SAYS_HEARD;
        flush.heard = op->node->heard;
    }
    p->rq.control_bytes = (uint32_t)protobuf_c_message_get_packed_size(m);
    CHECK(p->rq.control_bytes <= sizeof p->control);
    (void)protobuf_c_message_pack(m, p->control);
    p->rq.control = p->control;
}

/* -- answers -- */

static bool read_is_sound(const struct io_piece *p, const Snapwire__V1__ReadResponse *m,
                          uint64_t payload_bytes)
{
    const uint64_t end = p->offset_bytes + p->len_bytes;
    uint64_t at = p->offset_bytes, data_bytes = 0;

    for (size_t i = 0; i < m->n_extents; i++) {
        const Snapwire__V1__Extent *e = m->extents[i];
        const bool data = e->kind == SNAPWIRE__V1__EXTENT_KIND__EXTENT_KIND_DATA;
        if (e->offset_bytes != at || e->len_bytes == 0 || e->len_bytes > end - at ||
            (!data && e->kind != SNAPWIRE__V1__EXTENT_KIND__EXTENT_KIND_ZERO))
            return false;
        at += e->len_bytes;
        if (data)
            data_bytes += e->len_bytes;
    }
    return at == end && data_bytes == payload_bytes;
}

static int read_take(struct io_piece *p, const struct request_answer *a, struct err *reterr)
{
    const uint64_t payload_bytes = a->payload != NULL ? a->payload->len_bytes : 0;
    const uint8_t *payload = a->payload != NULL ? a->payload->data : NULL;
    uint8_t *to = p->op->buf + (p->offset_bytes - p->op->offset_bytes);
    ProtobufCMessage *base = NULL;
    int r = pb_unpack(&snapwire__v1__read_response__descriptor, a, "read", &base, reterr);
    Snapwire__V1__ReadResponse *m = (Snapwire__V1__ReadResponse *)base;

    if (r == 0 && !read_is_sound(p, m, payload_bytes))
        r = pb_refuse(reterr, "read");
    for (size_t i = 0; r == 0 && i < m->n_extents; i++) {
        const size_t len = (size_t)m->extents[i]->len_bytes;
        if (m->extents[i]->kind == SNAPWIRE__V1__EXTENT_KIND__EXTENT_KIND_DATA) {
            memcpy(to, payload, len);
            payload += len;
        } else {
            memset(to, 0, len);
        }
        to += len;
    }
    if (m != NULL)
        snapwire__v1__read_response__free_unpacked(m, NULL);
    return r;
}

static void io_fail(struct io_op *op, const struct err *why)
{
    if (op->err.code == 0)
        (void)err_copy(&op->err, why);
}

static void io_end(struct io_op *op)
{
    if (op->cb != NULL && op->err.code != 0) {
        const struct snapwire_error e = public_error_of(&op->err);
        op->cb(op->user, &e);
    } else if (op->cb != NULL) {
        op->cb(op->user, NULL);
    }
    free(op);
}

static int piece_begin(struct io_piece *p, struct err *reterr);

static void piece_done(struct request *rq, const struct request_answer *a)
{
    struct io_piece *p = (struct io_piece *)rq;
    struct io_op *op = p->op;
    struct err err = ERR_INIT;

    op->pending--;
    if (a->loss != 0 && op->method == M(FLUSH))
        op->node->heard = a->loss;
    if (a->err != NULL)
        io_fail(op, a->err);
    else if (op->method == M(SNAPSHOT_READ) && read_take(p, a, &err) < 0)
        io_fail(op, &err);
    else if (op->method == M(FLUSH) && node_flushed(op, &err) < 0)
        io_fail(op, &err);
    else if (op->node != NULL && op->method != M(FLUSH))
        node_written(op);
    p->rq.control = NULL; /* the piece's */
    request_done(&p->rq);
    if (op->err.code == 0 && op->cursor_bytes < op->len_bytes && piece_begin(p, &err) < 0)
        io_fail(op, &err);
    if (op->pending == 0)
        io_end(op);
}

/* -- pieces -- */

static int piece_begin(struct io_piece *p, struct err *reterr)
{
    struct io_op *op = p->op;
    const uint64_t at = op->offset_bytes + op->cursor_bytes;
    const bool first = op->cursor_bytes == 0;

    p->rq = (struct request){.method = op->method, .done = piece_done};
    p->offset_bytes = at;
    p->len_bytes =
        u64_min(op->len_bytes - op->cursor_bytes, op->piece_bytes - at % op->piece_bytes);
    if (op->method == M(WRITE)) {
        p->iov = (struct iovec){.iov_base = (void *)(uintptr_t)(op->data + op->cursor_bytes),
                                .iov_len = (size_t)p->len_bytes};
        p->rq.iov = &p->iov;
        p->rq.iov_count = 1;
        p->rq.payload_bytes = p->len_bytes;
    }
    if (!first) { /* a call counts as one request, and is not refused halfway */
        p->rq.internal = true;
        p->rq.timeout_ms = op->client->timeout_ms;
    }
    io_pack(p);
    const int r = request_submit(op->client, &p->rq, reterr);
    if (r < 0) {
        p->rq.control = NULL;
        return r;
    }
    op->pending++;
    op->cursor_bytes += p->len_bytes;
    return 0;
}

static int io_check(const struct io_op *op, struct err *reterr)
{
    if (op->method != M(FLUSH) && (op->len_bytes == 0 || op->offset_bytes > LIMIT_VOLUME_BYTES ||
                                   op->len_bytes > LIMIT_VOLUME_BYTES - op->offset_bytes))
        return err_set(reterr, SNAP_EINVAL, "%llu bytes at %llu: not inside any volume",
                       (unsigned long long)op->len_bytes, (unsigned long long)op->offset_bytes);
    if ((op->method == M(SNAPSHOT_READ) && op->buf == NULL) ||
        (op->method == M(WRITE) && op->data == NULL))
        return err_set(reterr, SNAP_EINVAL, "no memory given to read to or write from");
    unsigned known = SNAPWIRE_IO_FUA;
    if (op->method == M(WRITE) || op->method == M(ZERO))
        known |= SNAPWIRE_IO_ALONE;
    if (op->method == M(ZERO))
        known |= SNAPWIRE_IO_DISCARD;
    if (op->flags & ~known)
        return err_set(reterr, SNAP_EINVAL, "flags 0x%x are not known here", op->flags);
    return 0;
}

static unsigned pieces_of(const struct io_op *op)
{
    if (op->len_bytes <= op->piece_bytes - op->offset_bytes % op->piece_bytes)
        return 1;
    return (unsigned)u64_min(PIECES_MAX, op->len_bytes / op->piece_bytes + 2);
}

static int io_begin(struct snapwire_client *c, const struct io_op *like,
                    const struct snapwire_uuid *volume, const struct snapwire_uuid *snapshot,
                    struct err *reterr)
{
    struct io_op head = *like;
    int r = io_check(like, reterr);

    if (r < 0)
        return r;
    head.client = c;
    head.volume = *volume;
    if (snapshot != NULL)
        head.snapshot = *snapshot;
    head.piece_bytes = like->method == M(ZERO) ? ZERO_PIECE_BYTES
                       : like->method == M(SNAPSHOT_READ)
                           ? u64_min(PIECE_BYTES, c->payload_own_max)
                           : u64_min(PIECE_BYTES, c->payload_peer_max);
    head.piece_count = pieces_of(&head);
    r = node_take(c, &head, reterr);
    if (r < 0)
        return r;
    struct io_op *op = malloc(sizeof *op + head.piece_count * sizeof op->pieces[0]);
    if (op == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a request");
    *op = head;
    for (unsigned i = 0; i < op->piece_count && r == 0; i++) {
        op->pieces[i].op = op;
        if (i == 0 || op->cursor_bytes < op->len_bytes)
            r = piece_begin(&op->pieces[i], reterr);
    }
    if (r < 0 && op->pending > 0) { /* the callback will say it */
        struct err why = {.code = r, .text = "the request could not be sent whole"};
        io_fail(op, reterr != NULL ? reterr : &why);
        return 0;
    }
    if (r < 0)
        free(op);
    return r;
}

/* -- the two faces -- */

static int io_async(struct snapwire_client *c, const struct io_op *like,
                    const struct snapwire_uuid *volume, const struct snapwire_uuid *snapshot,
                    struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr, io_begin(c, like, volume, snapshot, &err), &err);
}

static int io_sync(struct snapwire_client *c, const struct io_op *like,
                   const struct snapwire_uuid *volume, const struct snapwire_uuid *snapshot,
                   struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    struct sync_wait wait = {0};
    struct io_op waited = *like;
    int r = sync_check(c, &err);

    waited.cb = sync_done_cb;
    waited.user = &wait;
    if (r == 0)
        r = sync_finish(c, io_begin(c, &waited, volume, snapshot, &err), &wait, NULL, &err);
    return public_error(reterr, r, &err);
}

int snapwire_io_read(struct snapwire_client *c, const struct snapwire_uuid *volume,
                     const struct snapwire_uuid *snapshot, uint64_t offset_bytes, size_t len_bytes,
                     void *buf, snapwire_done_cb cb, void *user, struct snapwire_error *reterr)
{
    const struct io_op like = {.method = M(SNAPSHOT_READ),
                               .offset_bytes = offset_bytes,
                               .len_bytes = len_bytes,
                               .buf = buf,
                               .cb = cb,
                               .user = user};

    return io_async(c, &like, volume, snapshot, reterr);
}

int snapwire_io_read_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                          const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                          size_t len_bytes, void *buf, struct snapwire_error *reterr)
{
    const struct io_op like = {.method = M(SNAPSHOT_READ),
                               .offset_bytes = offset_bytes,
                               .len_bytes = len_bytes,
                               .buf = buf};

    return io_sync(c, &like, volume, snapshot, reterr);
}

int snapwire_io_write(struct snapwire_client *c, const struct snapwire_uuid *volume,
                      const struct snapwire_uuid *snapshot, uint64_t offset_bytes, size_t len_bytes,
                      const void *data, unsigned flags, snapwire_done_cb cb, void *user,
                      struct snapwire_error *reterr)
{
    const struct io_op like = {.method = M(WRITE),
                               .flags = flags,
                               .offset_bytes = offset_bytes,
                               .len_bytes = len_bytes,
                               .data = data,
                               .cb = cb,
                               .user = user};

    return io_async(c, &like, volume, snapshot, reterr);
}

int snapwire_io_write_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                           const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                           size_t len_bytes, const void *data, unsigned flags,
                           struct snapwire_error *reterr)
{
    const struct io_op like = {.method = M(WRITE),
                               .flags = flags,
                               .offset_bytes = offset_bytes,
                               .len_bytes = len_bytes,
                               .data = data};

    return io_sync(c, &like, volume, snapshot, reterr);
}

int snapwire_io_zero(struct snapwire_client *c, const struct snapwire_uuid *volume,
                     const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                     uint64_t len_bytes, unsigned flags, snapwire_done_cb cb, void *user,
                     struct snapwire_error *reterr)
{
    const struct io_op like = {.method = M(ZERO),
                               .flags = flags,
                               .offset_bytes = offset_bytes,
                               .len_bytes = len_bytes,
                               .cb = cb,
                               .user = user};

    return io_async(c, &like, volume, snapshot, reterr);
}

int snapwire_io_zero_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                          const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                          uint64_t len_bytes, unsigned flags, struct snapwire_error *reterr)
{
    const struct io_op like = {
        .method = M(ZERO), .flags = flags, .offset_bytes = offset_bytes, .len_bytes = len_bytes};

    return io_sync(c, &like, volume, snapshot, reterr);
}

int snapwire_io_flush(struct snapwire_client *c, const struct snapwire_uuid *volume,
                      const struct snapwire_uuid *snapshot, snapwire_done_cb cb, void *user,
                      struct snapwire_error *reterr)
{
    const struct io_op like = {.method = M(FLUSH), .cb = cb, .user = user};

    return io_async(c, &like, volume, snapshot, reterr);
}

int snapwire_io_flush_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                           const struct snapwire_uuid *snapshot, struct snapwire_error *reterr)
{
    const struct io_op like = {.method = M(FLUSH)};

    return io_sync(c, &like, volume, snapshot, reterr);
}
