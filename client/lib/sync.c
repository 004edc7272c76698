/* SPDX-License-Identifier: Apache-2.0 */
/* The blocking face: drive the client's own loop until an answer is there.
 *
 * Every request ends by itself (answer, time-out, failure), so the loop is driven
 * without a limit of its own. A *_sync function inside a callback would run the
 * loop inside the loop: it is refused.
 *
 * Thread: the client's.
 */
#include "client/lib/client_priv.h"

#include <string.h>

int sync_check(const struct snapwire_client *client, struct err *reterr)
{
    if (!client->loop_owned)
        return err_set(reterr, SNAP_EINVAL,
                       "a client on an event_base of the caller's has no blocking functions");
    if (client->driving)
        return err_set(reterr, SNAP_EINVAL, "a blocking function was called from a callback");
    return 0;
}

void sync_drive(struct snapwire_client *client, const bool *done)
{
    client->driving = true;
    while (!*done)
        loop_turn(client->loop, -1);
    client->driving = false;
}

void sync_deliver(const struct call_to *to, const struct err *err, void *result)
{
    struct sync_wait *wait = to->user;

    wait->done = true;
    wait->result = result;
    if (err != NULL)
        (void)err_copy(&wait->err, err);
}

void sync_done_cb(void *user, const struct snapwire_error *error)
{
    struct sync_wait *wait = user;

    wait->done = true;
    if (error != NULL)
        wait->err = private_error_of(error);
}

int sync_finish(struct snapwire_client *client, int begun, struct sync_wait *wait, void **ret,
                struct err *reterr)
{
    if (begun < 0)
        return begun;
    sync_drive(client, &wait->done);
    if (wait->err.code != 0) {
        snapwire_free(wait->result);
        return err_copy(reterr, &wait->err);
    }
    if (ret != NULL)
        *ret = wait->result;
    else
        snapwire_free(wait->result);
    return 0;
}

void snapwire_client_turn(struct snapwire_client *client, int timeout_ms)
{
    if (sync_check(client, NULL) < 0)
        return;
    client->driving = true;
    loop_turn(client->loop, timeout_ms);
    client->driving = false;
}
