/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that drives a client of the library, and the way to it.
 *
 *   nbdkit's threads                          the link's thread
 *   link_begin ──push──> stack ──(was empty: one post)──> take all, oldest first ──> submit
 *   link_wait  <───────────── one ring for a turn ───────────── callback <── answers
 *                                                 refused for now (ELIMIT) ──> held, in order
 *
 * The stack is taken whole, so however many threads push while the loop is busy it is woken once.
 * What the library refuses because too much is under way waits here and goes on as answers come.
 *
 * When nbdkit is told to end it waits for every request, and a request may wait for an absent
 * daemon for ever. So while nothing is answered the thread asks nbdkit now and then; if that ends,
 * so does the client, and with it all operations, those that come later too.
 *
 * It must not know what is asked. Thread: as the picture says; the stack is lock-free, all else
 * of a link is its thread's.
 */
#include "client/nbdkit/link.h"

#include "client/nbdkit/nbdkit_api.h"
#include "common/base/check.h"
#include "common/base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
    LOOK_MS = 250,
    AWAY_MS = 1000,    /* without an answer and without a connection: end when nbdkit does */
    SILENT_MS = 10000, /* the same with one */
};

struct link {
    struct snapwire_client *client;
    const char *name;
    pthread_t thread;
    pthread_mutex_t post_lock;
    bool ended; /* the client takes no messages any more; written under post_lock */
    unsigned unanswered;
    uint64_t moved_ns;                /* the last answer, or the first of these */
    _Atomic(struct link_op *) queued; /* newest first */
    struct link_op *held_first, **held_end;
    struct link_op *answered; /* in this turn */
    bool stop, lost;
    atomic_bool failed, watches;
};

static const struct snapwire_error nbdkit_ends = {.code = SNAPWIRE_ECANCELED,
                                                  .text = "nbdkit ends"};

static uint64_t now_ns(void)
{
    return clock_now_ns(clock_system());
}

/* -- operations ---------------------------------------------------------------------------- */

static void op_set(struct link_op *op, const struct snapwire_error *error)
{
    if (error)
        op->error = *error;
    else
        op->error.code = 0;
}

/* It is told at the turn's end: who is woken earlier takes the processor from this thread. */
static void answer(struct link *l, struct link_op *op, const struct snapwire_error *error)
{
    op_set(op, error && l->ended ? &nbdkit_ends : error);
    op->next = l->answered;
    l->answered = op;
    l->unanswered--;
}

static struct link_op *oldest_first(struct link_op *op)
{
    struct link_op *oldest = NULL;
    while (op) {
        struct link_op *next = op->next;
        op->next = oldest;
        oldest = op;
        op = next;
    }
    return oldest;
}

static void tell_answered(struct link *l)
{
    struct bell_ring ring = {0};
    struct link_op *op = l->answered;
    if (!op)
        return;
    l->moved_ns = now_ns();
    l->answered = NULL;
    for (struct link_op *next; op; op = next) {
        next = op->next; /* op is gone once it is marked */
        bell_mark(&ring, &op->answered);
    }
    bell_ring(&ring);
}

/* False: the library takes no more for now. */
static bool submit(struct link *l, struct link_op *op)
{
    struct snapwire_error why = {0};
    int rc = op->submit(l->client, op, &why);
    if (rc == SNAPWIRE_ELIMIT)
        return false;
    if (rc < 0)
        answer(l, op, &why);
    return true;
}

static void hold(struct link *l, struct link_op *op)
{
    op->next = NULL;
    *l->held_end = op;
    l->held_end = &op->next;
}

static void submit_held(struct link *l)
{
    while (l->held_first) {
        struct link_op *op = l->held_first;
        struct link_op *next = op->next;
        if (!submit(l, op))
            return;
        l->held_first = next;
        if (!next)
            l->held_end = &l->held_first;
    }
}

void link_answer(void *user, const struct snapwire_error *error)
{
    struct link_op *op = user;
    struct link *l = op->link;
    answer(l, op, error);
    submit_held(l);
}

static struct link_op *take_queued(struct link *l)
{
    return oldest_first(atomic_exchange(&l->queued, NULL));
}

static void submit_queued(void *user)
{
    struct link *l = user;
    if (l->unanswered == 0)
        l->moved_ns = now_ns();
    for (struct link_op *op = take_queued(l), *next; op; op = next) {
        next = op->next;
        l->unanswered++;
        if (l->held_first || !submit(l, op))
            hold(l, op);
    }
}

/* Of what is queued nothing begins. */
static void refuse_queued(struct link *l, const struct snapwire_error *why)
{
    struct bell_ring ring = {0};
    for (struct link_op *op = take_queued(l), *next; op; op = next) {
        next = op->next;
        op_set(op, why);
        bell_mark(&ring, &op->answered);
    }
    bell_ring(&ring);
}

static int post(struct link *l, void (*fn)(void *user), struct snapwire_error *reterr)
{
    *reterr = nbdkit_ends;
    (void)pthread_mutex_lock(&l->post_lock);
    int rc = l->ended ? SNAPWIRE_ECANCELED : snapwire_client_post(l->client, fn, l, reterr);
    (void)pthread_mutex_unlock(&l->post_lock);
    return rc;
}

void link_begin(struct link *l, struct link_op *op)
{
    struct snapwire_error why = {0};
    struct link_op *head = atomic_load(&l->queued);
    op->link = l;
    bell_wait_init(&op->answered);
    do
        op->next = head;
    while (!atomic_compare_exchange_weak(&l->queued, &head, op));
    if (!head && post(l, submit_queued, &why) < 0)
        refuse_queued(l, &why);
}

int link_wait(struct link_op *op)
{
    (void)bell_sleep(&op->answered, 0);
    return op->error.code;
}

int link_run(struct link *l, struct link_op *op)
{
    link_begin(l, op);
    return link_wait(op);
}

/* -- the thread ------------------------------------------------------------------------------ */

static void state_changed(void *user, struct snapwire_client *client, enum snapwire_state state,
                          const struct snapwire_error *why)
{
    struct link *l = user;
    (void)client;
    if (state == SNAPWIRE_STATE_FAILED) {
        atomic_store(&l->failed, true);
        nbdkit_error("%s: the connection has ended for good: %s; start nbdkit anew when that is "
                     "mended",
                     l->name, why->text);
    } else if (state == SNAPWIRE_STATE_RECONNECTING && !l->lost) {
        l->lost = true;
        nbdkit_error("%s: no connection: %s; trying again, requests wait", l->name, why->text);
    } else if (state == SNAPWIRE_STATE_CONNECTED && l->lost) {
        l->lost = false;
        nbdkit_error("%s: connected again", l->name);
    }
}

static void stop(void *user)
{
    struct link *l = user;
    l->stop = true;
}

/* Has nothing been answered for so long that nothing may ever be, and nbdkit waits for it? */
static bool is_given_up(const struct link *l)
{
    if (l->unanswered == 0 || !atomic_load(&l->watches))
        return false;
    const bool connected = snapwire_client_state(l->client) == SNAPWIRE_STATE_CONNECTED;
    const uint64_t ms = (now_ns() - l->moved_ns) / 1000000;
    if (ms < (connected ? SILENT_MS : AWAY_MS))
        return false;
    return nbdkit_nanosleep(0, 0) < 0 && errno == ESHUTDOWN;
}

static void *run(void *user)
{
    struct link *l = user;
    while (!l->stop && !is_given_up(l)) {
        snapwire_client_turn(l->client, l->unanswered > 0 ? LOOK_MS : -1);
        tell_answered(l);
    }
    (void)pthread_mutex_lock(&l->post_lock);
    l->ended = true;
    (void)pthread_mutex_unlock(&l->post_lock);
    snapwire_client_free(l->client);
    tell_answered(l);
    refuse_queued(
        l, &(const struct snapwire_error){.code = SNAPWIRE_ECANCELED, .text = "nbdkit ends"});
    return NULL;
}

/* Signals are nbdkit's: its own threads take them. */
static int start(struct link *l, struct snapwire_error *reterr)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    int e = pthread_create(&l->thread, NULL, run, l);
    CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    if (e == 0)
        return 0;
    *reterr = (struct snapwire_error){
        .code = SNAPWIRE_ENOMEM, .sys_errno = e, .text = "no thread for the connection"};
    return SNAPWIRE_ENOMEM;
}

int link_new(const struct snapwire_config *config, const char *name, struct link **ret,
             struct snapwire_error *reterr)
{
    struct snapwire_config mine = *config;
    struct link *l = calloc(1, sizeof *l);
    if (!l) {
        *reterr = (struct snapwire_error){.code = SNAPWIRE_ENOMEM, .text = "out of memory"};
        return SNAPWIRE_ENOMEM;
    }
    l->name = name;
    l->held_end = &l->held_first;
    (void)pthread_mutex_init(&l->post_lock, NULL); /* cannot fail on Linux */
    mine.state_changed = state_changed;
    mine.user = l;
    int rc = snapwire_client_new(NULL, &mine, &l->client, reterr);
    if (rc == 0)
        rc = snapwire_client_connect(l->client, reterr);
    if (rc == 0)
        rc = start(l, reterr);
    if (rc < 0) {
        snapwire_client_free(l->client);
        (void)pthread_mutex_destroy(&l->post_lock);
        free(l);
        return rc;
    }
    *ret = l;
    return 0;
}

void link_watch(struct link *l)
{
    atomic_store(&l->watches, true);
}

void link_free(struct link *l)
{
    if (!l)
        return;
    struct snapwire_error why;
    int rc;
    while ((rc = post(l, stop, &why)) < 0 && rc != SNAPWIRE_ECANCELED)
        (void)sched_yield(); /* no memory for the message: there will be */
    CHECK(pthread_join(l->thread, NULL) == 0);
    (void)pthread_mutex_destroy(&l->post_lock);
    free(l);
}

bool link_has_failed(const struct link *l)
{
    return atomic_load(&l->failed);
}
