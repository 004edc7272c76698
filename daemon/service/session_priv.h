/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of a connection's life have in common. Thread: its home's. */
#ifndef SNAP_SERVICE_SESSION_PRIV_H
#define SNAP_SERVICE_SESSION_PRIV_H

#include "daemon/service/server.h"

/* -- session.c -- */
/* It is gone, and no request of it is out: free it. */
void session_free_if_idle(struct session *s);
/* True: its certificate has been revoked, and the connection has been ended. */
bool session_check_revoked(struct session *s);

/* -- session_request.c -- */
/* A frame came in; chan_ops. */
void session_frame(struct chan *c, void *user, struct chan_frame *f);
/* Where its volume is: look whether it is there and the asker may, and do it. */
void session_run_at_volume(struct request *req);

/* -- session_move.c -- */
/* A request is to run at `to`: does its connection move there too? True: with it; s belongs to
 * another thread now. */
bool session_follow(struct session *s, struct request *req, struct part *to);
/* Nothing is under way any more: it moves to where s->follows says. True: s belongs to another
 * thread now. */
bool session_go(struct session *s);

#endif
