/* SPDX-License-Identifier: Apache-2.0 */
/* A connection to the daemon that nbdkit's threads share.
 *
 * libsnapwire's client belongs to one thread, the link's. Others hand it operations and sleep
 * until they are answered. */
#ifndef SNAP_NBDKIT_LINK_H
#define SNAP_NBDKIT_LINK_H

#include "client/lib/snapwire.h"
#include "client/nbdkit/bell.h"
#include "common/base/err.h"

#include <stdbool.h>

struct link;

/* On the stack of the thread that waits; the first member of what it asks for. */
struct link_op {
    /* The library's asynchronous call, with link_answer() or what calls it as its callback.
     * The link's thread. */
    int (*submit)(struct snapwire_client *client, struct link_op *op,
                  struct snapwire_error *reterr);
    struct link *link;
    struct link_op *next;
    struct bell_wait answered;
    struct snapwire_error error; /* code 0: all went well; valid after link_wait() */
};

/* Begins to connect; does not wait for it. name: for what is told, borrowed.
 * Thread: none may fork after it before link_free(). */
int link_new(const struct snapwire_config *config, const char *name, struct link **ret,
             struct snapwire_error *reterr) SNAP_WUR;
/* From now on what waits for an absent daemon ends when nbdkit does. Not before after_fork: until
 * then nbdkit cannot be asked, and a signal ends it by itself. */
void link_watch(struct link *l);
/* No operation is under way any more. Takes NULL. */
void link_free(struct link *l);

/* Any thread. link_wait() returns the error's code, and op is the caller's again. */
void link_begin(struct link *l, struct link_op *op);
int link_wait(struct link_op *op) SNAP_WUR;
/* Both. */
int link_run(struct link *l, struct link_op *op) SNAP_WUR;
/* A snapwire_done_cb: the last that is done with op. The link's thread. */
void link_answer(void *op, const struct snapwire_error *error);
/* The library has given up: nothing is answered any more but with an error. Any thread. */
bool link_has_failed(const struct link *l);

#endif
