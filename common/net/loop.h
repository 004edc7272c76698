/* SPDX-License-Identifier: Apache-2.0 */
/* The event loop: libevent behind a small face, so that nothing else includes it.
 *
 * A turn: wait for readiness, run what is ready, then run the turn hooks (where
 * a shard hands its queued disk requests to the kernel and stores are kicked),
 * then sleep again. Thread: everything but loop_post() and loop_stop() on the loop's own.
 */
#ifndef SNAP_NET_LOOP_H
#define SNAP_NET_LOOP_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct event_base;
struct loop;

/* Owns: freed with loop_free(). */
int loop_new(struct loop **ret, struct err *reterr) SNAP_WUR;
/* A loop on somebody else's event_base (the client library): hooks run after the
 * callbacks of a turn. The base outlives the loop. */
int loop_wrap(struct event_base *base, struct loop **ret, struct err *reterr) SNAP_WUR;
void loop_free(struct loop *l); /* takes NULL; not inside a callback */
struct event_base *loop_base(struct loop *l);
/* Run until loop_stop(). */
void loop_run(struct loop *l);
/* One turn; waits at most timeout_ms (-1: until something happens). */
void loop_turn(struct loop *l, int timeout_ms);
void loop_stop(struct loop *l); /* any thread */

/* -- timers; a struct loop_timer is the owner's -- */
struct loop_timer {
    void (*fn)(void *user);
    void *user;
    void *event; /* the loop's own */
};
int loop_timer_init(struct loop *l, struct loop_timer *t, void (*fn)(void *), void *user,
                    struct err *reterr) SNAP_WUR;
void loop_timer_set(struct loop_timer *t, uint64_t delay_ms); /* sets anew when running */
void loop_timer_stop(struct loop_timer *t);
void loop_timer_done(struct loop_timer *t);

/* -- descriptors -- */
enum { LOOP_READ = 1, LOOP_WRITE = 2 };
struct loop_io {
    void (*fn)(void *user, unsigned what);
    void *user;
    void *events[2]; /* the loop's own */
};
int loop_io_init(struct loop *l, struct loop_io *io, int fd, void (*fn)(void *, unsigned),
                 void *user, struct err *reterr) SNAP_WUR;
void loop_io_want(struct loop_io *io, unsigned what); /* persistent; 0: none */
void loop_io_done(struct loop_io *io);

/* -- turn hooks: run at the end of every turn, in the order they were added -- */
struct loop_hook {
    void (*fn)(void *user);
    void *user;
    bool last; /* the loop's own */
    TAILQ_ENTRY(loop_hook) link;
};
/* Also seen to: the hook runs before the loop sleeps, in this turn if callbacks or hooks are
 * running now. Hooks may add and remove hooks, themselves too. */
void loop_hook_add(struct loop *l, struct loop_hook *h);
/* A hook that stays, and sees what all others of the turn left to be done: nothing that they
 * queue for it waits until the next turn. */
void loop_hook_add_last(struct loop *l, struct loop_hook *h);
void loop_hook_remove(struct loop *l, struct loop_hook *h);
/* Do not sleep before the next turn: more work is there already. */
void loop_again(struct loop *l);
/* In a hook of a loop of our own: hooks are waiting, or the next turn comes without a sleep. */
bool loop_has_more(const struct loop *l);

/* -- messages from other threads; a struct loop_msg is the sender's until fn runs -- */
struct loop_msg {
    void (*fn)(struct loop_msg *msg);
    STAILQ_ENTRY(loop_msg) link;
};
/* Any thread; never blocks or fails; wakes the loop once a batch. */
void loop_post(struct loop *l, struct loop_msg *msg);
/* Take a message back that has not run yet; false: it was not waiting. Thread: the loop's own. */
bool loop_post_cancel(struct loop *l, struct loop_msg *msg);

/* -- signals (main's loop only) -- */
int loop_signal(struct loop *l, int signo, void (*fn)(void *user), void *user,
                struct err *reterr) SNAP_WUR;

#endif
