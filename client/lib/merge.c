/* SPDX-License-Identifier: Apache-2.0 */
/* Merge: the client's part of rolling its origin back.
 *
 * A commit is compare-and-set on the table's length, so one that is sent again
 * after its answer was lost meets a shorter table. Then the library asks for the
 * next run: if the table is just as long as after that commit, it was done. If it is
 * as long as before, the daemon was started again before it was done and has forgotten
 * what it had prepared, which it has by then: the commit is sent once more.
 *
 * Thread: the client's.
 */
#include "client/lib/lease_priv.h"

#include <stdlib.h>
#include <string.h>

#define M(name) SNAPWIRE__V1__METHOD__METHOD_##name

typedef int (*convert_fn)(const struct request_answer *a, void **ret, struct err *reterr);

/* BEGIN has a message of its own, of the same shape. */
static int merge_call(struct snapwire_lease *l, uint16_t method,
                      const struct snapwire_uuid *snapshot, convert_fn convert,
                      const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__MergeRef m = SNAPWIRE__V1__MERGE_REF__INIT;
    const int r = lease_check_usable(l, reterr);

    if (r < 0)
        return r;
    m.volume = pb_uuid(&l->info.volume);
    m.snapshot = pb_uuid(snapshot);
    m.epoch = l->info.epoch;
    return call_begin(
        l->client,
        &(struct call_spec){.method = method,
                            .message = &m.base,
                            .lease = l,
                            .convert = convert,
                            /* the first try consumed it */
                            .fine_when_replayed = method == M(MERGE_END) ? SNAP_ENOENT : 0},
        to, reterr);
}

/* A blocking call: INNER uses &wait and &err. */
#define MERGE_SYNC(inner)                \
    struct err err = ERR_INIT;           \
    struct sync_wait wait = {0};         \
    void *result = NULL;                 \
    int r = sync_check(l->client, &err); \
    if (r == 0)                          \
    r = sync_finish(l->client, inner, &wait, &result, &err)

int snapwire_merge_begin(struct snapwire_lease *l, const struct snapwire_uuid *snapshot,
                         snapwire_merge_state_cb cb, void *user, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr,
                        merge_call(l, M(MERGE_BEGIN), snapshot, convert_merge_state,
                                   CALL_TO(merge_state, cb, user), &err),
                        &err);
}

int snapwire_merge_begin_sync(struct snapwire_lease *l, const struct snapwire_uuid *snapshot,
                              struct snapwire_merge_state **ret, struct snapwire_error *reterr)
{
    MERGE_SYNC(merge_call(l, M(MERGE_BEGIN), snapshot, convert_merge_state, SYNC_TO(&wait), &err));
    if (r == 0)
        *ret = result;
    return public_error(reterr, r, &err);
}

int snapwire_merge_prepare(struct snapwire_lease *l, const struct snapwire_uuid *snapshot,
                           snapwire_merge_run_cb cb, void *user, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr,
                        merge_call(l, M(MERGE_PREPARE), snapshot, convert_merge_run,
                                   CALL_TO(merge_run, cb, user), &err),
                        &err);
}

int snapwire_merge_prepare_sync(struct snapwire_lease *l, const struct snapwire_uuid *snapshot,
                                struct snapwire_merge_run **ret, struct snapwire_error *reterr)
{
    MERGE_SYNC(merge_call(l, M(MERGE_PREPARE), snapshot, convert_merge_run, SYNC_TO(&wait), &err));
    if (r == 0)
        *ret = result;
    return public_error(reterr, r, &err);
}

int snapwire_merge_end(struct snapwire_lease *l, const struct snapwire_uuid *snapshot,
                       snapwire_done_cb cb, void *user, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(
        reterr, merge_call(l, M(MERGE_END), snapshot, NULL, CALL_TO(done, cb, user), &err), &err);
}

int snapwire_merge_end_sync(struct snapwire_lease *l, const struct snapwire_uuid *snapshot,
                            struct snapwire_error *reterr)
{
    MERGE_SYNC(merge_call(l, M(MERGE_END), snapshot, NULL, SYNC_TO(&wait), &err));
    return public_error(reterr, r, &err);
}

int snapwire_merge_abort(struct snapwire_lease *l, const struct snapwire_uuid *snapshot,
                         snapwire_done_cb cb, void *user, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(
        reterr, merge_call(l, M(MERGE_ABORT), snapshot, NULL, CALL_TO(done, cb, user), &err), &err);
}

int snapwire_merge_abort_sync(struct snapwire_lease *l, const struct snapwire_uuid *snapshot,
                              struct snapwire_error *reterr)
{
    MERGE_SYNC(merge_call(l, M(MERGE_ABORT), snapshot, NULL, SYNC_TO(&wait), &err));
    return public_error(reterr, r, &err);
}

/* -- commit -- */

struct commit_context {
    struct snapwire_lease *lease;
    struct snapwire_uuid snapshot;
    uint64_t table_len;
    uint32_t count;
    struct call_to to;
    struct err why;
};

static int merge_commit(struct snapwire_lease *l, const struct snapwire_uuid *snapshot,
                        uint64_t table_len, uint32_t count, const struct call_to *to,
                        struct err *reterr);

/* The answer to the question how long the table is now. */
static void commit_asked(const struct call_to *to, const struct err *err, void *result)
{
    struct commit_context *x = to->user;
    const struct snapwire_merge_run *run = result;
    const bool was_done = err == NULL && run->table_len == x->table_len - x->count;
    const bool was_not =
        err == NULL && run->table_len == x->table_len && run->commit_max >= x->count;

    x->lease->pending--;
    if (!was_not || merge_commit(x->lease, &x->snapshot, x->table_len, x->count, &x->to, NULL) < 0)
        x->to.deliver(&x->to, was_done ? NULL : &x->why, NULL);
    snapwire_free(result);
    free(x);
}

static bool commit_rescue(struct snapwire_client *client, void *context, const struct call_to *to,
                          unsigned tries, const struct err *why)
{
    const struct commit_context *before = context;

    (void)client;
    if (tries < 2 || (why->code != SNAP_ESTALE && why->code != SNAP_EMISMATCH))
        return false;
    struct commit_context *x = malloc(sizeof *x);
    if (x == NULL)
        return false;
    *x = *before;
    x->to = *to;
    x->why = *why;
    const struct call_to asked = {.deliver = commit_asked, .user = x};
    if (merge_call(x->lease, M(MERGE_PREPARE), &x->snapshot, convert_merge_run, &asked, NULL) < 0) {
        free(x);
        return false;
    }
    x->lease->pending++;
    return true;
}

static int merge_commit(struct snapwire_lease *l, const struct snapwire_uuid *snapshot,
                        uint64_t table_len, uint32_t count, const struct call_to *to,
                        struct err *reterr)
{
    Snapwire__V1__MergeCommit m = SNAPWIRE__V1__MERGE_COMMIT__INIT;
    int r = lease_check_usable(l, reterr);

    if (r < 0)
        return r;
    if (count == 0 || count > table_len)
        return err_set(reterr, SNAP_EINVAL, "a commit of %u of %llu exceptions", count,
                       (unsigned long long)table_len);
    struct commit_context *x = calloc(1, sizeof *x);
    if (x == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a commit");
    *x = (struct commit_context){
        .lease = l, .snapshot = *snapshot, .table_len = table_len, .count = count};
    m.volume = pb_uuid(&l->info.volume);
    m.snapshot = pb_uuid(snapshot);
    m.epoch = l->info.epoch;
    m.table_len = table_len;
    m.count = count;
    r = call_begin(l->client,
                   &(struct call_spec){.method = M(MERGE_COMMIT),
                                       .message = &m.base,
                                       .lease = l,
                                       .context = x,
                                       .rescue = commit_rescue},
                   to, reterr);
    if (r < 0)
        free(x);
    return r;
}

int snapwire_merge_commit(struct snapwire_lease *l, const struct snapwire_uuid *snapshot,
                          uint64_t table_len, uint32_t count, snapwire_done_cb cb, void *user,
                          struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(
        reterr, merge_commit(l, snapshot, table_len, count, CALL_TO(done, cb, user), &err), &err);
}

int snapwire_merge_commit_sync(struct snapwire_lease *l, const struct snapwire_uuid *snapshot,
                               uint64_t table_len, uint32_t count, struct snapwire_error *reterr)
{
    MERGE_SYNC(merge_commit(l, snapshot, table_len, count, SYNC_TO(&wait), &err));
    return public_error(reterr, r, &err);
}
