/* SPDX-License-Identifier: Apache-2.0 */
/* The lease and its stream, for lease.c, stream.c, batch.c and the client's hook. */
#ifndef SNAP_CLIENT_LEASE_PRIV_H
#define SNAP_CLIENT_LEASE_PRIV_H

#include "client/lib/client_priv.h"
#include "common/base/limits.h"

enum lease_state { LEASE_ACQUIRING, LEASE_HELD, LEASE_LAPSED, LEASE_LOST, LEASE_RELEASING };

enum lease_quiesce {
    QUIESCE_NONE,
    QUIESCE_TOLD,  /* the caller knows, and has not answered */
    QUIESCE_READY, /* it has: unanswered puts are waited for */
    QUIESCE_SENT,  /* HEAD_READY is on its way */
    QUIESCE_AGAIN, /* there was no memory for it, here or there: the renewal timer sends it */
};

/* What the hook is to tell the caller, in this order. */
enum lease_notice {
    NOTICE_LAPSED = 1 << 0,
    NOTICE_RESUMED = 1 << 1,
    NOTICE_HEAD = 1 << 2,
    NOTICE_QUIESCE = 1 << 3,
    NOTICE_LOST = 1 << 4,
};

struct snapwire_lease {
    LIST_ENTRY(snapwire_lease) link;
    struct snapwire_client *client;
    struct snapwire_lease_config config;
    uint8_t fingerprint[64];
    struct snapwire_lease_info info;
    char head_name[LIMIT_NAME_BYTES + 1];
    enum lease_state state;
    enum lease_quiesce quiesce;
    bool confirmed; /* acquired on the present connection */
    bool dead;      /* the caller let go of it; freed when nothing refers to it */
    bool renewing, reacquiring;
    struct request *ready; /* HEAD_READY, unanswered */
    bool head_wanted;      /* tell the head with the next answer even when it is the same */
    unsigned notices;
    unsigned pending; /* requests that refer to it */
    uint64_t valid_until_ns;
    struct err why; /* lapsed, lost */
    struct loop_timer renew_timer, lapse_timer;
    struct request *reacquire; /* unanswered */
    uint64_t down_ns; /* the last connection under which it was asked for broke then; 0: never */
    struct loop_timer break_timer;
    bool breaking; /* snapwire_lease_break() has not called back */
    snapwire_done_cb broken_cb;
    void *broken_user;
    struct snapwire_stream *stream;
};

/* -- the lease's own requests (lease_op.c) -- */

enum { RENEWALS_IN_TTL = 3, RENEW_MS_MIN = 20 };
enum lease_op_kind { OP_ACQUIRE, OP_REACQUIRE, OP_RENEW, OP_READY, OP_RELEASE };

struct lease_op {
    struct request rq; /* first */
    struct snapwire_lease *lease;
    enum lease_op_kind kind;
    snapwire_lease_cb acquired;
    snapwire_done_cb done;
    void *user;
};

int lease_op_begin(const struct lease_op *like, struct err *reterr) SNAP_WUR;
void lease_reacquire(struct snapwire_lease *lease);

/* -- its life (lease.c) -- */

void lease_notice(struct snapwire_lease *lease, unsigned notice);
void lease_renew_cb(void *user);
void lease_lapse_cb(void *user);
/* The caller lets go of it: its requests end, the hook frees it. */
void lease_kill(struct snapwire_lease *lease);
void lease_connected(struct snapwire_client *client);
/* was_up: something may have been sent over it. */
void lease_disconnected(struct snapwire_client *client, bool was_up);
/* A request of the lease, sent then, has been answered well. */
void lease_touch(struct snapwire_lease *lease, uint64_t sent_ns);
/* Something of it was refused as stale: ask how it stands. */
void lease_doubt(struct snapwire_lease *lease);
void lease_lose(struct snapwire_lease *lease, const struct err *why);
/* EVENT frames. Errors: SNAP_EPROTO. */
int lease_event(struct snapwire_client *client, uint16_t method, const uint8_t *control,
                uint32_t control_bytes, struct err *reterr) SNAP_WUR;
/* The hook's parts. */
void lease_step_all(struct snapwire_client *client);
void lease_notify_all(struct snapwire_client *client);
void lease_reap_all(struct snapwire_client *client);
void lease_close_all(struct snapwire_client *client);
/* breaking (lease_break.c): how it stands with it now; why: it cannot be any more, or NULL */
void lease_break_step(struct snapwire_lease *lease);
void lease_break_timer_cb(void *user);
void lease_break_end(struct snapwire_lease *lease, const struct err *why);
void lease_fail_all(struct snapwire_client *client, const struct err *why);
int lease_check_usable(const struct snapwire_lease *lease, struct err *reterr) SNAP_WUR;

/* -- stream -- */

struct put {
    STAILQ_ENTRY(put) link;
    uint64_t old_chunk;
    uint32_t count;
    unsigned flags;
    const void *data;
    snapwire_put_cb cb;
    void *user;
    int code; /* of the first of its chunks that failed */
};
STAILQ_HEAD(put_list, put);

/* Puts that travel in one frame. */
struct batch {
    struct request rq; /* first: a request's done() finds its batch */
    TAILQ_ENTRY(batch) link;
    struct snapwire_stream *stream;
    struct put_list puts;
    uint32_t put_count, chunks, data_chunks;
    uint64_t bytes;
    uint64_t flush_no; /* which flush covers it */
    struct snapwire_uuid head;
    struct iovec *iov;
};
TAILQ_HEAD(batch_list, batch);

struct flush_waiter {
    STAILQ_ENTRY(flush_waiter) link;
    uint64_t flush_no;
    snapwire_done_cb cb;
    void *user;
    struct err err;
};

struct snapwire_stream {
    LIST_ENTRY(snapwire_stream) link;
    struct snapwire_client *client;
    struct snapwire_lease *lease;
    struct snapwire_stream_config config;
    struct batch *open;        /* gathering */
    struct batch_list batches; /* closed and unanswered, in their order */
    uint64_t inflight_bytes;
    uint32_t inflight_chunks;
    bool blocked; /* somebody was told SNAPWIRE_WOULD_BLOCK */
    bool closing;
    void (*closed)(void *user);
    void *closed_user;
    uint64_t flush_no;
    struct err err; /* the first since the last flush */
    STAILQ_HEAD(, flush_waiter) waiters;
    STAILQ_HEAD(, put) spare;
    unsigned spare_count;
    struct snapwire_stream_stats stats;
};

/* batch.c */
uint64_t stream_chunk_bytes(const struct snapwire_stream *s); /* 0: no head */
int batch_add(struct snapwire_stream *s, const struct put *args, struct err *reterr) SNAP_WUR;
/* The gathering batch becomes a request. */
void batch_send_open(struct snapwire_stream *s);
/* No put is unanswered. */
bool stream_idle(const struct snapwire_stream *s);
/* End all that was put to another head than this. */
void stream_head_changed(struct snapwire_stream *s, const struct snapwire_uuid *head);
void stream_end_all_of(struct snapwire_client *client, const struct err *why);
void stream_end_all(struct snapwire_stream *s, const struct err *why);
void stream_step_all(struct snapwire_client *client);
void stream_tell_all(struct snapwire_client *client);
void stream_reap_all(struct snapwire_client *client);

#endif
