/* SPDX-License-Identifier: Apache-2.0 */
/* The lease's public functions: acquire, renew, release, both faces.
 *
 * Thread: the client's.
 */
#include "client/lib/lease_priv.h"

#include <stdlib.h>
#include <string.h>

static int lease_new(struct snapwire_client *c, const struct snapwire_lease_config *config,
                     struct snapwire_lease **ret, struct err *reterr)
{
    struct snapwire_lease *l = calloc(1, sizeof *l);

    if (l == NULL)
        return err_set(reterr, SNAP_ENOMEM, "out of memory for a lease");
    l->client = c;
    int r = public_args(&l->config, sizeof l->config, config, sizeof l->config, reterr);
    if (r == 0 && snapwire_uuid_is_zero(&l->config.volume))
        r = err_set(reterr, SNAP_EINVAL, "a lease needs a volume");
    if (r == 0 && l->config.origin_fingerprint_bytes > sizeof l->fingerprint)
        r = err_set(reterr, SNAP_EINVAL, "an origin's fingerprint has at most %zu bytes",
                    sizeof l->fingerprint);
    if (r == 0)
        r = loop_timer_init(c->loop, &l->renew_timer, lease_renew_cb, l, reterr);
    if (r == 0)
        r = loop_timer_init(c->loop, &l->lapse_timer, lease_lapse_cb, l, reterr);
    if (r == 0)
        r = loop_timer_init(c->loop, &l->break_timer, lease_break_timer_cb, l, reterr);
    if (r < 0) {
        if (l->renew_timer.event != NULL)
            loop_timer_done(&l->renew_timer);
        if (l->lapse_timer.event != NULL)
            loop_timer_done(&l->lapse_timer);
        free(l);
        return r;
    }
    if (l->config.origin_fingerprint_bytes > 0)
        memcpy(l->fingerprint, l->config.origin_fingerprint, l->config.origin_fingerprint_bytes);
    l->config.origin_fingerprint = NULL;
    l->info.volume = l->config.volume;
    l->info.epoch = l->config.epoch;
    l->info.instance =
        snapwire_uuid_is_zero(&l->config.instance) ? snapwire_uuid_make() : l->config.instance;
    l->info.head_name = l->head_name;
    l->info.broken = l->config.broken;
    *ret = l;
    return 0;
}

static int lease_acquire(struct snapwire_client *c, const struct snapwire_lease_config *config,
                         snapwire_lease_cb cb, void *user, struct err *reterr)
{
    struct snapwire_lease *l = NULL;
    int r = cb != NULL ? lease_new(c, config, &l, reterr)
                       : err_set(reterr, SNAP_EINVAL, "a lease needs a function to be given to");

    if (r < 0)
        return r;
    LIST_INSERT_HEAD(&c->leases, l, link);
    r = lease_op_begin(
        &(struct lease_op){.lease = l, .kind = OP_ACQUIRE, .acquired = cb, .user = user}, reterr);
    if (r < 0) {
        l->dead = true;
        client_kick(c);
    }
    return r;
}

int snapwire_lease_acquire(struct snapwire_client *c, const struct snapwire_lease_config *config,
                           snapwire_lease_cb cb, void *user, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr, lease_acquire(c, config, cb, user, &err), &err);
}

static void acquired_sync(void *user, const struct snapwire_error *error,
                          struct snapwire_lease *lease)
{
    struct sync_wait *wait = user;

    sync_done_cb(user, error);
    wait->result = lease;
}

int snapwire_lease_acquire_sync(struct snapwire_client *c,
                                const struct snapwire_lease_config *config,
                                struct snapwire_lease **ret, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    struct sync_wait wait = {0};
    void *lease = NULL;
    int r = sync_check(c, &err);

    if (r == 0)
        r = sync_finish(c, lease_acquire(c, config, acquired_sync, &wait, &err), &wait, &lease,
                        &err);
    if (r == 0)
        *ret = lease;
    return public_error(reterr, r, &err);
}

static int lease_renew(struct snapwire_lease *l, snapwire_done_cb cb, void *user,
                       struct err *reterr)
{
    const int r = lease_check_usable(l, reterr);

    return r < 0 ? r
                 : lease_op_begin(
                       &(struct lease_op){.lease = l, .kind = OP_RENEW, .done = cb, .user = user},
                       reterr);
}

int snapwire_lease_renew(struct snapwire_lease *l, snapwire_done_cb cb, void *user,
                         struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr, lease_renew(l, cb, user, &err), &err);
}

int snapwire_lease_renew_sync(struct snapwire_lease *l, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    struct sync_wait wait = {0};
    int r = sync_check(l->client, &err);

    if (r == 0)
        r = sync_finish(l->client, lease_renew(l, sync_done_cb, &wait, &err), &wait, NULL, &err);
    return public_error(reterr, r, &err);
}

static int lease_release(struct snapwire_lease *l, snapwire_done_cb cb, void *user,
                         struct err *reterr)
{
    const struct err why = {.code = SNAP_ECANCELED, .text = "the lease is given back"};

    if (l->stream != NULL && !l->stream->closing)
        return err_set(reterr, SNAP_EBUSY, "the lease's stream is open");
    if (l->dead || l->state == LEASE_RELEASING)
        return err_set(reterr, SNAP_EINVAL, "the lease was given back");
    const int r = lease_op_begin(
        &(struct lease_op){.lease = l, .kind = OP_RELEASE, .done = cb, .user = user}, reterr);
    if (r < 0)
        return r;
    l->state = LEASE_RELEASING;
    l->notices = 0;
    loop_timer_stop(&l->renew_timer);
    loop_timer_stop(&l->lapse_timer);
    request_end_of_lease(l, &why);
    return 0;
}

int snapwire_lease_release(struct snapwire_lease *l, snapwire_done_cb cb, void *user,
                           struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;

    return public_error(reterr, lease_release(l, cb, user, &err), &err);
}

int snapwire_lease_release_sync(struct snapwire_lease *l, struct snapwire_error *reterr)
{
    struct err err = ERR_INIT;
    struct sync_wait wait = {0};
    struct snapwire_client *c = l->client;
    int r = sync_check(c, &err);

    if (r == 0)
        r = sync_finish(c, lease_release(l, sync_done_cb, &wait, &err), &wait, NULL, &err);
    return public_error(reterr, r, &err);
}
