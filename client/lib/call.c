/* SPDX-License-Identifier: Apache-2.0 */
/* Calls: one request that answers one public function.
 *
 * A call is packed from a message, and its answer unpacked by a converter to the
 * public struct, which goes to the caller's callback or to a waiting *_sync
 * function. What only a second try can meet because the first one worked (a
 * snapshot that is gone already) is success then.
 *
 * Must not know which functions there are. Thread: the client's.
 */
#include "client/lib/client_priv.h"

#include <stdlib.h>
#include <string.h>

struct call {
    struct request rq; /* first */
    struct call_to to;
    int (*convert)(const struct request_answer *a, void **ret, struct err *reterr);
    bool (*rescue)(struct snapwire_client *client, void *context, const struct call_to *to,
                   unsigned tries, const struct err *why);
    int fine_when_replayed;
    void *context;
};

static void call_free(struct call *call)
{
    request_done(&call->rq);
    free(call->context);
    free(call);
}

static void call_done(struct request *rq, const struct request_answer *a)
{
    struct call *call = (struct call *)rq;
    struct err err = ERR_INIT;
    void *result = NULL;

    if (a->err != NULL) {
        const bool fine = call->fine_when_replayed != 0 && rq->tries > 1 &&
                          a->err->code == call->fine_when_replayed;
        if (!fine)
            (void)err_copy(&err, a->err);
        if (!fine && call->rescue != NULL &&
            call->rescue(rq->client, call->context, &call->to, rq->tries, &err)) {
            call_free(call);
            return;
        }
    } else if (call->convert != NULL) {
        if (call->convert(a, &result, &err) == 0)
            err_clear(&err);
    }
    call->to.deliver(&call->to, err.code != 0 ? &err : NULL, result);
    call_free(call);
}

int call_begin(struct snapwire_client *client, const struct call_spec *spec,
               const struct call_to *to, struct err *reterr)
{
    struct call *call = calloc(1, sizeof *call);

    if (call == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a request");
    call->rq.method = spec->method;
    call->rq.lease = spec->lease;
    call->rq.done = call_done;
    call->to = *to;
    call->convert = spec->convert;
    call->rescue = spec->rescue;
    call->fine_when_replayed = spec->fine_when_replayed;
    int r = request_pack(&call->rq, spec->message, reterr);
    if (r == 0)
        r = request_submit(client, &call->rq, reterr);
    if (r < 0) {
        request_done(&call->rq);
        free(call);
        return r;
    }
    call->context = spec->context;
    return 0;
}

void call_deliver_done(const struct call_to *to, const struct err *err, void *result)
{
    (void)result;
    if (to->cb.done == NULL)
        return;
    if (err != NULL) {
        const struct snapwire_error e = public_error_of(err);
        to->cb.done(to->user, &e);
    } else {
        to->cb.done(to->user, NULL);
    }
}

#define CALL_DELIVER(kind)                                                                  \
    void call_deliver_##kind(const struct call_to *to, const struct err *err, void *result) \
    {                                                                                       \
        if (to->cb.kind != NULL && err != NULL) {                                           \
            const struct snapwire_error e = public_error_of(err);                           \
            to->cb.kind(to->user, &e, NULL);                                                \
        } else if (to->cb.kind != NULL) {                                                   \
            to->cb.kind(to->user, NULL, result);                                            \
        }                                                                                   \
        snapwire_free(result);                                                              \
    }

CALL_DELIVER(status)
CALL_DELIVER(volume)
CALL_DELIVER(volume_list)
CALL_DELIVER(snapshot)
CALL_DELIVER(target)
CALL_DELIVER(check)
CALL_DELIVER(grant_list)
CALL_DELIVER(job_list)
CALL_DELIVER(merge_state)
CALL_DELIVER(merge_run)
CALL_DELIVER(snapshot_list)
CALL_DELIVER(job)
CALL_DELIVER(extents)
