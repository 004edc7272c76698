/* SPDX-License-Identifier: Apache-2.0 */
/* Reading: a range of a snapshot, the runs of its exceptions, the runs between two snapshots.
 *
 * The extents of an answer must cover the range asked for, in order and without
 * holes, and its data extents must have exactly the payload's length. Pages of runs
 * must ascend without overlap, also from page to page, and make progress. An
 * answer that does not is SNAP_EPROTO, before a byte reached the caller's buffer.
 *
 * Thread: the client's.
 */
#include "client/lib/client_priv.h"

#include <stdlib.h>
#include <string.h>

/* -- a range -- */

struct read_op {
    struct request rq; /* first */
    struct snapwire_read args;
    snapwire_read_cb cb;
    struct sync_wait *wait; /* the blocking face: instead of cb */
    void *user;
};

static bool extent_is_sound(const Snapwire__V1__Extent *e, uint64_t at, uint64_t end)
{
    return e->offset_bytes == at && e->len_bytes > 0 && e->len_bytes <= end - at &&
           (e->kind == SNAPWIRE__V1__EXTENT_KIND__EXTENT_KIND_DATA ||
            e->kind == SNAPWIRE__V1__EXTENT_KIND__EXTENT_KIND_ORIGIN ||
            e->kind == SNAPWIRE__V1__EXTENT_KIND__EXTENT_KIND_ZERO);
}

static bool extents_are_sound(const struct read_op *op, const Snapwire__V1__ReadResponse *m,
                              uint64_t payload_bytes)
{
    const uint64_t end = op->args.offset_bytes + op->args.len_bytes;
    uint64_t at = op->args.offset_bytes, data_bytes = 0;

    for (size_t i = 0; i < m->n_extents; i++) {
        const Snapwire__V1__Extent *e = m->extents[i];
        if (at == end || !extent_is_sound(e, at, end))
            return false;
        at += e->len_bytes;
        if (e->kind == SNAPWIRE__V1__EXTENT_KIND__EXTENT_KIND_DATA)
            data_bytes += e->len_bytes;
    }
    return at == end && data_bytes == payload_bytes;
}

static void extents_fill(const struct read_op *op, const Snapwire__V1__ReadResponse *m,
                         const uint8_t *payload, struct snapwire_extent *extents)
{
    uint8_t *buf = op->args.buf;

    for (size_t i = 0; i < m->n_extents; i++) {
        const Snapwire__V1__Extent *e = m->extents[i];
        const size_t len = (size_t)e->len_bytes;
        struct snapwire_extent *x = &extents[i];
        uint8_t *to = buf != NULL ? buf + (e->offset_bytes - op->args.offset_bytes) : NULL;
        *x = (struct snapwire_extent){
            .offset_bytes = e->offset_bytes, .len_bytes = len, .kind = (uint32_t)e->kind};
        if (x->kind == SNAPWIRE_EXTENT_DATA) {
            x->data = to != NULL ? memcpy(to, payload, len) : payload;
            payload += len;
        } else if (x->kind == SNAPWIRE_EXTENT_ZERO && to != NULL) {
            memset(to, 0, len);
        }
    }
}

static int read_convert(const struct read_op *op, const struct request_answer *a,
                        struct snapwire_extent_list **ret, struct err *reterr)
{
    const uint64_t payload_bytes = a->payload != NULL ? a->payload->len_bytes : 0;
    ProtobufCMessage *base = NULL;
    int r = pb_unpack(&snapwire__v1__read_response__descriptor, a, "read", &base, reterr);
    Snapwire__V1__ReadResponse *m = (Snapwire__V1__ReadResponse *)base;

    if (r == 0 && !extents_are_sound(op, m, payload_bytes)) {
        r = pb_refuse(reterr, "read");
    } else if (r == 0) {
        struct snapwire_extent_list *list = result_new(sizeof *list);
        struct snapwire_extent *extents =
            list != NULL ? result_alloc(list, m->n_extents, sizeof *extents) : NULL;
        if (extents == NULL) {
            snapwire_free(list);
            r = err_set(reterr, SNAP_ENOMEM, "out of memory for extents");
        } else {
            extents_fill(op, m, a->payload != NULL ? a->payload->data : NULL, extents);
            list->extents = extents;
            list->count = m->n_extents;
            *ret = list;
        }
    }
    if (m != NULL)
        snapwire__v1__read_response__free_unpacked(m, NULL);
    return r;
}

static void read_done(struct request *rq, const struct request_answer *a)
{
    struct read_op *op = (struct read_op *)rq;
    struct snapwire_extent_list *list = NULL;
    struct err err = ERR_INIT;

    if (a->err != NULL)
        (void)err_copy(&err, a->err);
    else
        err.code = read_convert(op, a, &list, &err);
    if (op->wait != NULL) {
        sync_deliver(SYNC_TO(op->wait), err.code != 0 ? &err : NULL, list);
        list = NULL;
    } else if (op->cb != NULL) {
        const struct snapwire_error e = public_error_of(&err);
        if (err.code != 0)
            op->cb(op->user, &e, NULL, 0);
        else
            op->cb(op->user, NULL, list->extents, list->count);
    }
    snapwire_free(list);
    request_done(&op->rq);
    free(op);
}

static int read_check(const struct snapwire_client *c, const struct snapwire_read *a,
                      struct err *reterr)
{
    if (a->offset_bytes % SECTOR_BYTES != 0 || a->len_bytes % SECTOR_BYTES != 0 ||
        a->len_bytes == 0 || a->offset_bytes > LIMIT_VOLUME_BYTES)
        return err_set(reterr, SNAP_EINVAL, "a read of %u bytes at %llu; both count in sectors",
                       a->len_bytes, (unsigned long long)a->offset_bytes);
    const uint32_t most = snapwire_client_payload_bytes_max(c);
    if (a->len_bytes > most)
        return err_set(reterr, SNAP_ELIMIT, "a read of %u bytes; %u at a time are the most",
                       a->len_bytes, most);
    return 0;
}

static int read_begin(struct snapwire_client *c, const struct snapwire_read *args,
                      const struct read_op *like, struct err *reterr)
{
    Snapwire__V1__ReadRequest m = SNAPWIRE__V1__READ_REQUEST__INIT;
    struct snapwire_read a;
    int r = public_args(&a, sizeof a, args, sizeof a, reterr);

    if (r == 0)
        r = read_check(c, &a, reterr);
    if (r < 0)
        return r;
    struct read_op *op = malloc(sizeof *op);
    if (op == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a read");
    *op = *like;
    op->args = a;
    op->rq.method = SNAPWIRE__V1__METHOD__METHOD_SNAPSHOT_READ;
    op->rq.done = read_done;
    m.volume = pb_uuid(&a.volume);
    m.snapshot = pb_uuid(&a.snapshot);
    m.offset_bytes = a.offset_bytes;
    m.len_bytes = a.len_bytes;
    r = request_pack(&op->rq, &m.base, reterr);
    if (r == 0)
        r = request_submit(c, &op->rq, reterr);
    if (r < 0) {
        request_done(&op->rq);
        free(op);
    }
    return r;
}

int snapwire_snapshot_read(struct snapwire_client *c, const struct snapwire_read *args,
                           snapwire_read_cb cb, void *user, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    const struct read_op like = {.cb = cb, .user = user};

    return public_error(reterr, read_begin(c, args, &like, &err), &err);
}

int snapwire_snapshot_read_sync(struct snapwire_client *c, const struct snapwire_read *args,
                                struct snapwire_extent_list **ret, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    struct sync_wait wait = {0};
    const struct read_op like = {.wait = &wait};
    void *list = NULL;
    int r = sync_check(c, &err);

    if (r == 0 && args != NULL && args->buf == NULL)
        r = err_set(&err, SNAP_EINVAL, "a blocking read needs a buffer");
    if (r == 0)
        r = sync_finish(c, read_begin(c, args, &like, &err), &wait, &list, &err);
    if (r == 0)
        *ret = list;
    return public_error(reterr, r, &err);
}

/* -- runs -- */

struct run_op {
    struct request rq; /* first; submitted again for each page */
    struct snapwire_client *client;
    struct snapwire_run_list args;
    bool diff; /* what is between args.snapshot and to */
    struct snapwire_uuid to;
    snapwire_run_page_cb page;
    snapwire_done_cb done;
    void *page_user, *done_user;
};

static int run_request(struct run_op *op, struct err *reterr)
{
    Snapwire__V1__RunListRequest m = SNAPWIRE__V1__RUN_LIST_REQUEST__INIT;
    Snapwire__V1__DiffRequest diff = SNAPWIRE__V1__DIFF_REQUEST__INIT;

    m.volume = diff.volume = pb_uuid(&op->args.volume);
    m.snapshot = diff.from = pb_uuid(&op->args.snapshot);
    m.start_chunk = diff.start_chunk = op->args.start_chunk;
    m.own = op->args.own;
    diff.to = pb_uuid(&op->to);
    op->rq.deadline_ns = 0;
    const int r = request_pack(&op->rq, op->diff ? &diff.base : &m.base, reterr);
    return r < 0 ? r : request_submit(op->client, &op->rq, reterr);
}

static void run_finish(struct run_op *op, const struct err *err)
{
    if (op->done != NULL) {
        const struct snapwire_error e =
            err != NULL ? public_error_of(err) : (struct snapwire_error){0};
        op->done(op->done_user, err != NULL ? &e : NULL);
    }
    request_done(&op->rq);
    free(op);
}

static bool runs_are_sound(const struct run_op *op, const Snapwire__V1__RunListResponse *m)
{
    uint64_t at = op->args.start_chunk;

    if (m->n_old_chunk != m->n_count || m->n_old_chunk > LIMIT_PAGE_RUNS ||
        m->n_new_chunk != (op->args.own ? m->n_count : 0) ||
        chunk_bytes_of(m->chunk_size_sectors) == 0)
        return false;
    for (size_t i = 0; i < m->n_count; i++) {
        if (m->old_chunk[i] < at || m->count[i] == 0 || m->count[i] > LIMIT_VOLUME_BYTES ||
            m->old_chunk[i] > LIMIT_VOLUME_BYTES)
            return false;
        at = m->old_chunk[i] + m->count[i];
    }
    return !m->more || (m->next_chunk >= at && m->next_chunk > op->args.start_chunk);
}

/* The page as the caller sees it, cut at end_chunk. Returns how many runs are left of it. */
static size_t runs_fill(const struct run_op *op, const Snapwire__V1__RunListResponse *m,
                        struct snapwire_run *runs)
{
    const uint64_t end = op->args.end_chunk != 0 ? op->args.end_chunk : UINT64_MAX;
    size_t n = 0;

    for (; n < m->n_count && m->old_chunk[n] < end; n++) {
        runs[n] = (struct snapwire_run){.old_chunk = m->old_chunk[n],
                                        .count = m->count[n],
                                        .new_chunk = op->args.own ? m->new_chunk[n] : 0};
        if (runs[n].count > end - runs[n].old_chunk)
            runs[n].count = end - runs[n].old_chunk;
    }
    return n;
}

/* Returns 1 when the iteration is over, 0 when another page is to be asked for. */
static int run_page(struct run_op *op, const struct request_answer *a, struct err *reterr)
{
    ProtobufCMessage *base = NULL;
    int r = pb_unpack(&snapwire__v1__run_list_response__descriptor, a, "runs", &base, reterr);
    Snapwire__V1__RunListResponse *m = (Snapwire__V1__RunListResponse *)base;

    if (r == 0 && !runs_are_sound(op, m)) {
        r = pb_refuse(reterr, "runs");
    } else if (r == 0) {
        struct snapwire_run *runs = calloc(m->n_count > 0 ? m->n_count : 1, sizeof *runs);
        const bool over =
            !m->more || (op->args.end_chunk != 0 && m->next_chunk >= op->args.end_chunk);
        if (runs == NULL) {
            r = err_set(reterr, SNAP_ENOMEM, "out of memory for runs");
        } else {
            const size_t n = runs_fill(op, m, runs);
            const int stop = op->page(op->page_user, runs, n, m->chunk_size_sectors);
            r = over || stop != 0;
        }
        op->args.start_chunk = m->next_chunk;
        free(runs);
    }
    if (m != NULL)
        snapwire__v1__run_list_response__free_unpacked(m, NULL);
    return r;
}

static void run_done(struct request *rq, const struct request_answer *a)
{
    struct run_op *op = (struct run_op *)rq;
    struct err err = ERR_INIT;
    int r;

    if (a->err != NULL)
        r = err_copy(&err, a->err);
    else
        r = run_page(op, a, &err);
    if (r == 0)
        r = run_request(op, &err);
    else if (r > 0)
        run_finish(op, NULL);
    if (r < 0)
        run_finish(op, &err);
}

static int run_begin(struct snapwire_client *c, const struct run_op *like, struct err *reterr)
{
    if (like->page == NULL)
        return err_set(reterr, SNAP_EINVAL, "a listing needs a function for its pages");
    struct run_op *op = malloc(sizeof *op);
    if (op == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a listing");
    *op = *like;
    op->client = c;
    op->rq.method =
        op->diff ? SNAPWIRE__V1__METHOD__METHOD_DIFF : SNAPWIRE__V1__METHOD__METHOD_RUN_LIST;
    op->rq.done = run_done;
    const int r = run_request(op, reterr);
    if (r < 0) {
        request_done(&op->rq);
        free(op);
    }
    return r;
}

static int run_list_begin(struct snapwire_client *c, const struct snapwire_run_list *args,
                          const struct run_op *like, struct err *reterr)
{
    struct run_op op = *like;
    const int r = public_args(&op.args, sizeof op.args, args, sizeof op.args, reterr);

    return r < 0 ? r : run_begin(c, &op, reterr);
}

static int diff_begin(struct snapwire_client *c, const struct snapwire_diff *args,
                      const struct run_op *like, struct err *reterr)
{
    struct run_op op = *like;
    struct snapwire_diff a;
    const int r = public_args(&a, sizeof a, args, sizeof a, reterr);

    if (r < 0)
        return r;
    op.diff = true;
    op.to = a.to;
    op.args = (struct snapwire_run_list){.size = sizeof op.args,
                                         .volume = a.volume,
                                         .snapshot = a.from,
                                         .start_chunk = a.start_chunk,
                                         .end_chunk = a.end_chunk};
    return run_begin(c, &op, reterr);
}

/* The two faces of a listing. */
#define RUN_ASYNC(begin)                                                                           \
    const struct run_op like = {.page = page, .done = done, .page_user = user, .done_user = user}; \
    struct err err = ERR_INIT;                                                                     \
    return public_error(reterr, begin(c, args, &like, &err), &err)

#define RUN_SYNC(begin)                                                             \
    struct err err = ERR_INIT;                                                      \
    struct sync_wait wait = {0};                                                    \
    const struct run_op like = {                                                    \
        .page = page, .done = sync_done_cb, .page_user = user, .done_user = &wait}; \
    int r = sync_check(c, &err);                                                    \
    if (r == 0)                                                                     \
        r = sync_finish(c, begin(c, args, &like, &err), &wait, NULL, &err);         \
    return public_error(reterr, r, &err)

int snapwire_run_each(struct snapwire_client *c, const struct snapwire_run_list *args,
                      snapwire_run_page_cb page, snapwire_done_cb done, void *user,
                      struct snapwire_error *reterr)
{
    RUN_ASYNC(run_list_begin);
}

int snapwire_run_each_sync(struct snapwire_client *c, const struct snapwire_run_list *args,
                           snapwire_run_page_cb page, void *user, struct snapwire_error *reterr)
{
    RUN_SYNC(run_list_begin);
}

int snapwire_diff_each(struct snapwire_client *c, const struct snapwire_diff *args,
                       snapwire_run_page_cb page, snapwire_done_cb done, void *user,
                       struct snapwire_error *reterr)
{
    RUN_ASYNC(diff_begin);
}

int snapwire_diff_each_sync(struct snapwire_client *c, const struct snapwire_diff *args,
                            snapwire_run_page_cb page, void *user, struct snapwire_error *reterr)
{
    RUN_SYNC(diff_begin);
}
