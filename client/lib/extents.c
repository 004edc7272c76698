/* SPDX-License-Identifier: Apache-2.0 */
/* Where the data of a hosted volume or snapshot stands. An answer must begin where it was asked
 * to, ascend without holes, stay inside the range and hold at least one extent.
 *
 * Thread: the client's.
 */
#include "client/lib/face_priv.h"

#include <stdlib.h>
#include <string.h>

struct extents_op {
    struct request rq; /* first */
    uint64_t offset_bytes, len_bytes;
    struct call_to to;
};

static bool extents_fill(const struct extents_op *op, const Snapwire__V1__ExtentListResponse *m,
                         struct snapwire_extent *ret)
{
    const uint64_t end = op->offset_bytes + op->len_bytes;
    uint64_t at = op->offset_bytes;

    for (size_t i = 0; i < m->n_extents; i++) {
        const Snapwire__V1__Extent *e = m->extents[i];
        if (e->offset_bytes != at || e->len_bytes == 0 || e->len_bytes > end - at ||
            (e->kind != SNAPWIRE__V1__EXTENT_KIND__EXTENT_KIND_DATA &&
             e->kind != SNAPWIRE__V1__EXTENT_KIND__EXTENT_KIND_ZERO))
            return false;
        ret[i] = (struct snapwire_extent){
            .offset_bytes = at, .len_bytes = e->len_bytes, .kind = (uint32_t)e->kind};
        at += e->len_bytes;
    }
    return m->n_extents > 0;
}

static int extents_convert(const struct extents_op *op, const struct request_answer *a,
                           struct snapwire_extent_list **ret, struct err *reterr)
{
    ProtobufCMessage *base = NULL;
    int r = pb_unpack(&snapwire__v1__extent_list_response__descriptor, a, "extents", &base, reterr);
    Snapwire__V1__ExtentListResponse *m = (Snapwire__V1__ExtentListResponse *)base;
    struct snapwire_extent_list *list = r == 0 ? result_new(sizeof *list) : NULL;
    struct snapwire_extent *extents =
        list != NULL ? result_alloc(list, m->n_extents, sizeof *extents) : NULL;

    if (r < 0)
        return r;
    if (extents == NULL) {
        r = err_set(reterr, SNAP_ENOMEM, "out of memory for extents");
    } else if (!extents_fill(op, m, extents)) {
        r = pb_refuse(reterr, "extents");
    } else {
        list->extents = extents;
        list->count = m->n_extents;
        *ret = list;
    }
    if (r < 0)
        snapwire_free(list);
    snapwire__v1__extent_list_response__free_unpacked(m, NULL);
    return r;
}

static void extents_done(struct request *rq, const struct request_answer *a)
{
    struct extents_op *op = (struct extents_op *)rq;
    struct snapwire_extent_list *list = NULL;
    struct err err = ERR_INIT;

    if (a->err != NULL)
        (void)err_copy(&err, a->err);
    else
        err.code = extents_convert(op, a, &list, &err);
    op->to.deliver(&op->to, err.code != 0 ? &err : NULL, list);
    request_done(&op->rq);
    free(op);
}

static int extents_begin(struct snapwire_client *c, const struct snapwire_uuid *volume,
                         const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                         uint64_t len_bytes, const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__ExtentListRequest m = SNAPWIRE__V1__EXTENT_LIST_REQUEST__INIT;

    if (len_bytes == 0 || offset_bytes > LIMIT_VOLUME_BYTES ||
        len_bytes > LIMIT_VOLUME_BYTES - offset_bytes)
        return err_set(reterr, SNAP_EINVAL, "%llu bytes at %llu: not inside any volume",
                       (unsigned long long)len_bytes, (unsigned long long)offset_bytes);
    struct extents_op *op = calloc(1, sizeof *op);
    if (op == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a request");
    op->rq.method = M(EXTENT_LIST);
    op->rq.done = extents_done;
    op->offset_bytes = offset_bytes;
    op->len_bytes = len_bytes;
    op->to = *to;
    m.volume = pb_uuid(volume);
    if (snapshot != NULL)
        m.snapshot = pb_uuid(snapshot);
    m.offset_bytes = offset_bytes;
    m.len_bytes = len_bytes;
    int r = request_pack(&op->rq, &m.base, reterr);
    if (r == 0)
        r = request_submit(c, &op->rq, reterr);
    if (r < 0) {
        request_done(&op->rq);
        free(op);
    }
    return r;
}

int snapwire_extents(struct snapwire_client *c, const struct snapwire_uuid *volume,
                     const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                     uint64_t len_bytes, snapwire_extents_cb cb, void *user,
                     struct snapwire_error *reterr)
{
    FACE_ASYNC(extents_begin(c, volume, snapshot, offset_bytes, len_bytes,
                             CALL_TO(extents, cb, user), &err));
}

int snapwire_extents_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                          const struct snapwire_uuid *snapshot, uint64_t offset_bytes,
                          uint64_t len_bytes, struct snapwire_extent_list **ret,
                          struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(
        extents_begin(c, volume, snapshot, offset_bytes, len_bytes, SYNC_TO(&wait), &err));
}
