/* SPDX-License-Identifier: Apache-2.0 */
/* What the library's files share: the client and its requests.
 *
 *   public call ──> request_submit ──> waiting ──> sent ──> answered ──> done()
 *                                         ^          │
 *                                         └──────────┘ connection lost
 *   request_end() from either list ──> ended ──> done(), at the turn's end
 *
 * Callbacks of the user run from the loop only: completions from a frame or from
 * the turn hook, notices of leases and streams from the hook. Memory of leases and
 * streams is freed by the hook alone, so that they outlive every callback.
 */
#ifndef SNAP_CLIENT_PRIV_H
#define SNAP_CLIENT_PRIV_H

#include "client/lib/snapwire.h"
#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/rng.h"
#include "common/base/uuid.h"
#include "common/net/addr.h"
#include "common/net/chan.h"
#include "common/net/loop.h"
#include "proto/snapwire.pb-c.h"

#include <stdatomic.h>
#include <sys/queue.h>

enum {
    CLIENT_ADDRESSES_MAX = 16,
    CLIENT_SLOTS = 4096, /* sent requests by id; more than a peer may take */
};

/* -- requests (request.c) -- */

struct request_answer {
    const struct err *err; /* NULL: it went well, and the rest holds; valid during done() */
    uint64_t loss;         /* with err: as the daemon's Error has it; 0: nothing */
    const uint8_t *control;
    uint32_t control_bytes;
    const struct buf *payload; /* NULL: none */
};

enum request_place { REQUEST_NEW, REQUEST_WAITING, REQUEST_SENT, REQUEST_ENDED };

struct request {
    TAILQ_ENTRY(request) link;
    struct snapwire_client *client;
    struct snapwire_lease *lease; /* sent only under this lease, confirmed on the connection */
    enum request_place place;
    uint16_t method;
    bool unbounded; /* a time-out takes the connection down instead of ending the request */
    bool internal;  /* not counted against requests_max */
    bool borrowed;  /* the channel holds the payload */
    unsigned tries;
    uint64_t seq, id;
    uint64_t sent_ns, deadline_ns;
    uint32_t timeout_ms;
    uint8_t *control;
    uint32_t control_bytes;
    const struct iovec *iov; /* the owner's */
    unsigned iov_count;
    uint64_t payload_bytes;
    struct err err; /* ended: why */
    /* The last call; the owner frees the request, after request_done(). */
    void (*done)(struct request *rq, const struct request_answer *a);
};
TAILQ_HEAD(request_list, request);

/* Take the message as the request's control part. */
int request_pack(struct request *rq, const ProtobufCMessage *m, struct err *reterr) SNAP_WUR;
/* On an error nothing was taken: the caller still owns rq. */
int request_submit(struct snapwire_client *client, struct request *rq, struct err *reterr) SNAP_WUR;
/* It could not be submitted: as if it had ended so. */
void request_refuse(struct snapwire_client *client, struct request *rq, const struct err *why);
/* End it from wherever it is; done() follows at the turn's end, once no payload is borrowed. */
void request_end(struct request *rq, const struct err *why);
void request_done(struct request *rq); /* frees what it holds; takes one never submitted */
void request_pump(struct snapwire_client *client);
void request_requeue_all(struct snapwire_client *client);
void request_end_all(struct snapwire_client *client, const struct err *why);
void request_end_of_lease(struct snapwire_lease *lease, const struct err *why);
void request_deliver_ended(struct snapwire_client *client);
/* An answer of the daemon. The frame is the caller's. */
void request_answer(struct snapwire_client *client, const struct chan_frame *f);
/* End what is overdue; sets the timer for the next. */
void request_expire(struct snapwire_client *client);

/* -- calls: requests that answer a public function (call.c) -- */

union call_cb {
    snapwire_done_cb done;
    snapwire_status_cb status;
    snapwire_volume_cb volume;
    snapwire_volume_list_cb volume_list;
    snapwire_snapshot_cb snapshot;
    snapwire_target_cb target;
    snapwire_check_cb check;
    snapwire_grant_list_cb grant_list;
    snapwire_job_list_cb job_list;
    snapwire_merge_state_cb merge_state;
    snapwire_merge_run_cb merge_run;
    snapwire_snapshot_list_cb snapshot_list;
    snapwire_job_cb job;
    snapwire_extents_cb extents;
};

/* Where an answer goes. deliver owns result (snapwire_free). */
struct call_to {
    void (*deliver)(const struct call_to *to, const struct err *err, void *result);
    union call_cb cb;
    void *user;
};

struct call_spec {
    uint16_t method;
    const ProtobufCMessage *message;
    struct snapwire_lease *lease;
    /* NULL: the answer is empty. SNAP_EPROTO for what cannot be. */
    int (*convert)(const struct request_answer *a, void **ret, struct err *reterr);
    int fine_when_replayed; /* an error that a second try may meet because the first worked */
    void *context;          /* freed with the call */
    /* instead of delivering an error; may take the call over (returns true) */
    bool (*rescue)(struct snapwire_client *client, void *context, const struct call_to *to,
                   unsigned tries, const struct err *why);
};
int call_begin(struct snapwire_client *client, const struct call_spec *spec,
               const struct call_to *to, struct err *reterr) SNAP_WUR;

void call_deliver_done(const struct call_to *to, const struct err *err, void *result);
void call_deliver_status(const struct call_to *to, const struct err *err, void *result);
void call_deliver_volume(const struct call_to *to, const struct err *err, void *result);
void call_deliver_volume_list(const struct call_to *to, const struct err *err, void *result);
void call_deliver_snapshot(const struct call_to *to, const struct err *err, void *result);
void call_deliver_target(const struct call_to *to, const struct err *err, void *result);
void call_deliver_check(const struct call_to *to, const struct err *err, void *result);
void call_deliver_grant_list(const struct call_to *to, const struct err *err, void *result);
void call_deliver_job_list(const struct call_to *to, const struct err *err, void *result);
void call_deliver_merge_state(const struct call_to *to, const struct err *err, void *result);
void call_deliver_merge_run(const struct call_to *to, const struct err *err, void *result);
void call_deliver_snapshot_list(const struct call_to *to, const struct err *err, void *result);
void call_deliver_job(const struct call_to *to, const struct err *err, void *result);
void call_deliver_extents(const struct call_to *to, const struct err *err, void *result);

#define CALL_TO(kind, fn, fn_user) \
    (&(const struct call_to){      \
        .deliver = call_deliver_##kind, .cb = {.kind = (fn)}, .user = (fn_user)})

/* -- the blocking face (sync.c) -- */

struct sync_wait {
    bool done;
    struct err err;
    void *result;
};
void sync_deliver(const struct call_to *to, const struct err *err, void *result);
void sync_done_cb(void *user, const struct snapwire_error *error); /* user: struct sync_wait */
#define SYNC_TO(wait) (&(const struct call_to){.deliver = sync_deliver, .user = (wait)})
/* May a *_sync function drive the loop here? */
int sync_check(const struct snapwire_client *client, struct err *reterr) SNAP_WUR;
/* Drive the loop until wait->done. */
void sync_drive(struct snapwire_client *client, const bool *done);
/* begun: what beginning the call returned. Hands the result out through ret (NULL: none wanted). */
int sync_finish(struct snapwire_client *client, int begun, struct sync_wait *wait, void **ret,
                struct err *reterr) SNAP_WUR;

/* -- errors at the public edge (result.c) -- */
int public_error(struct snapwire_error *reterr, int r, const struct err *err);
struct snapwire_error public_error_of(const struct err *err);
struct err private_error_of(const struct snapwire_error *e);
/* Copy an argument struct that may be of another version's size. dst is zeroed first. */
int public_args(void *dst, size_t dst_bytes, const void *src, size_t least_bytes,
                struct err *reterr) SNAP_WUR;

/* Results: one root, all that hangs from it freed with it. NULL: out of memory. */
void *result_new(size_t bytes);
void *result_alloc(void *root, size_t count, size_t bytes);
/* Owns: another root and what hangs from it hang from this one now. */
void result_adopt(void *root, void *other);

/* -- the client (client.c) -- */

/* Reads and writes are cut at multiples of what a side takes, and count in sectors. */
static inline uint32_t client_whole_sectors(uint32_t bytes)
{
    return bytes - bytes % SECTOR_BYTES;
}

struct snapwire_client {
    struct loop *loop;
    bool loop_owned;               /* the blocking face */
    bool driving;                  /* inside a *_sync function */
    struct snapwire_config config; /* its strings are NULL but software */
    char software[65], server_name[256];
    struct addr addresses[CLIENT_ADDRESSES_MAX];
    unsigned address_count, address_next;
    struct tls_context *tls; /* NULL: Unix sockets only */
    struct buf_pool *pool;
    struct uuid instance;
    struct uuid boot; /* what the daemon's HELLO said last */
    unsigned boots;   /* changes of it that were seen */
    LIST_HEAD(, io_node) io_nodes;
    struct rng rng;

    enum snapwire_state state;
    struct err why; /* of the last break */
    bool connect_wanted;
    bool up;       /* frames may be sent */
    bool was_up;   /* this connection got past the hello */
    bool draining; /* the daemon refuses new requests */
    struct connector *connector, *connector_dead;
    struct chan *chan;
    unsigned attempts;   /* since it last worked */
    uint64_t broken_ns;  /* since when there is no connection */
    uint32_t timeout_ms; /* of requests made from now on */
    uint32_t requests_peer_max, payload_peer_max, control_peer_max;
    uint32_t payload_own_max; /* of an answer; this and the peer's in whole sectors */

    struct loop_timer retry_timer, expire_timer, drain_timer;
    struct loop_hook hook;
    bool hooked;

    struct request_list waiting, sent, ended;
    struct request *slots[CLIENT_SLOTS];
    unsigned sent_count, counted; /* counted: against requests_max */
    uint64_t next_id, next_seq, expire_at_ns;

    LIST_HEAD(, snapwire_lease) leases;
    LIST_HEAD(, snapwire_stream) streams;
    LIST_HEAD(, job_waiter) job_waiters; /* between two looks */

    bool closing;
    void (*closed)(void *user);
    void *closed_user;
    bool closed_done;   /* loop_owned: free it now */
    atomic_uint posted; /* messages that have not run yet */
};

uint64_t client_now_ns(void);
void client_kick(struct snapwire_client *client); /* see that the hook runs soon */
/* The reason why nothing can be begun any more; 0 when it can. */
int client_check(const struct snapwire_client *client, struct err *reterr) SNAP_WUR;
void client_proven(struct snapwire_client *client);
/* The daemon is stopping: send nothing more, go elsewhere when all is answered. */
void client_drain(struct snapwire_client *client);
void client_abort(struct snapwire_client *client, const struct err *why);

/* End those that wait for jobs (job.c). */
void job_wait_end_all(struct snapwire_client *client, const struct err *why);

/* The connection is up: may the daemon have lost what it had answered? (volume_io.c) */
void io_connected(struct snapwire_client *client, const struct uuid *boot);
void io_nodes_free(struct snapwire_client *client);

/* connect.c */
void connect_begin(struct snapwire_client *client);
void connect_retry(void *user);
void connect_lost(struct snapwire_client *client, const struct err *why, bool was_up);
void client_set_state(struct snapwire_client *client, enum snapwire_state state,
                      const struct err *why);
void client_fail(struct snapwire_client *client, const struct err *why);

/* -- lists that take more than one answer (pages.c) -- */

enum pages_of { PAGES_OF_VOLUME, PAGES_OF_VOLUMES, PAGES_OF_GRANTS, PAGES_OF_JOBS };
enum { PAGES_CURSOR_BYTES_MAX = 256 };

/* What the converters of a volume and of lists make: the public struct first. */
struct volume_page {
    struct snapwire_volume volume;
    bool more; /* snapshots behind the last one */
};
struct list_page {
    union {
        struct snapwire_volume_list volumes; /* each in a struct volume_page */
        struct snapwire_grant_list grants;
        struct snapwire_job_list jobs;
    } list;
    uint8_t next[PAGES_CURSOR_BYTES_MAX];
    size_t next_bytes; /* 0: these were the last */
};
/* One answer after another, delivered as one result. volume: NULL: all. */
int pages_begin(struct snapwire_client *client, enum pages_of what,
                const struct snapwire_uuid *volume, const struct call_to *to,
                struct err *reterr) SNAP_WUR;

/* -- protobuf's edge (convert.c) -- */
ProtobufCBinaryData pb_uuid(const struct snapwire_uuid *u);                /* empty when zero */
bool pb_uuid_get(const ProtobufCBinaryData *d, struct snapwire_uuid *ret); /* 16 bytes */
bool pb_uuid_get_optional(const ProtobufCBinaryData *d, struct snapwire_uuid *ret); /* or 0 */
int pb_refuse(struct err *reterr, const char *what);
/* An answer's control. Owns: as unpack_message(). Errors: SNAP_ENOMEM, SNAP_EPROTO. */
int pb_unpack(const ProtobufCMessageDescriptor *type, const struct request_answer *a,
              const char *what, ProtobufCMessage **ret, struct err *reterr) SNAP_WUR;
int convert_status(const struct request_answer *a, void **ret, struct err *reterr);
int convert_volume(const struct request_answer *a, void **ret, struct err *reterr);
int convert_volume_list(const struct request_answer *a, void **ret, struct err *reterr);
int convert_snapshot(const struct request_answer *a, void **ret, struct err *reterr);
int convert_target(const struct request_answer *a, void **ret, struct err *reterr);
int convert_check(const struct request_answer *a, void **ret, struct err *reterr);
int convert_grant_list(const struct request_answer *a, void **ret, struct err *reterr);
int convert_job_list(const struct request_answer *a, void **ret, struct err *reterr);
int convert_merge_state(const struct request_answer *a, void **ret, struct err *reterr);
int convert_merge_run(const struct request_answer *a, void **ret, struct err *reterr);
int convert_snapshot_list(const struct request_answer *a, void **ret, struct err *reterr);
int convert_job(const struct request_answer *a, void **ret, struct err *reterr);
/* An Error message as an err, never 0, and its `loss`. */
void convert_error(const uint8_t *control, uint32_t control_bytes, struct err *ret,
                   uint64_t *ret_loss);
/* 0 for a number that is no chunk size */
uint64_t chunk_bytes_of(uint32_t sectors);

#endif
