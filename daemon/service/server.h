/* SPDX-License-Identifier: Apache-2.0 */
/* The service's insides: the server, its part on each shard, connections, requests.
 *
 *   server ─┬─ part 0 ── sessions, volumes of shard 0, metrics, rights
 *           ├─ part 1 ── …
 *           └─ control thread ── records, registry, rights on disk
 */
#ifndef SNAP_SERVICE_SERVER_H
#define SNAP_SERVICE_SERVER_H

#include "common/net/addr.h"
#include "common/net/chan.h"
#include "common/net/tls.h"
#include "daemon/registry/registry.h"
#include "daemon/service/config.h"
#include "daemon/service/metrics.h"
#include "daemon/shard/control.h"
#include "daemon/shard/shard.h"
#include "daemon/volume/volume.h"
#include "proto/snapwire.pb-c.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

enum { SERVER_SHARDS_MAX = 64, SERVER_WARNINGS_MAX = 256 };

struct server;
struct session;
struct request;
struct clients;
struct client;
struct group_turns;

/* Limits that a reload may change while shards run. */
struct server_limits {
    _Atomic uint32_t connections_per_client, requests_per_connection, connections_total;
    _Atomic uint32_t volumes_per_client;
    _Atomic uint64_t space_per_client_bytes;
};

/* The newest connection of a client's instance that has written. */
struct part_writer {
    struct uuid instance;
    uint64_t session;
};
/* Sets by the instance's hash; in each the one that wrote last is first, and the last one goes. */
enum { PART_WRITER_SETS = 1024, PART_WRITER_WAYS = 8 };

/* What of the server lives on one shard. Thread: that shard's. */
struct part {
    struct server *server;
    struct shard *shard;
    unsigned index;
    struct volume_set set;
    struct tls_context *tls; /* NULL: no certificates, Unix sockets only */
    TAILQ_HEAD(, session) sessions;
    bool draining;
    _Atomic int64_t under_way; /* requests begun less answers given here: only the sum over
                                * all parts says something, as connections move */
    struct metrics metrics;
    struct part_writer writers[PART_WRITER_SETS][PART_WRITER_WAYS];
    struct loop_msg events_lost; /* posted once while _posted is set, see session_tell() */
    _Atomic bool events_lost_posted;
};

struct server {
    const struct config *config;
    struct server_limits limits;
    struct volume_env env;
    struct control *control;
    struct registry *registry; /* the control thread's, once it runs */
    struct acl *acl;           /* likewise: the newest */
    uint64_t acl_version;      /* likewise: counts its changes */
    char acl_path[LIMIT_PATH_BYTES];
    struct part *parts;
    unsigned part_count;
    struct loop *main_loop;
    struct clients *clients;
    struct group_turns *group_turns;
    struct uuid instance;
    struct uuid boot;          /* see boot.c */
    _Atomic bool flush_failed; /* that is on record */
    uint64_t started_ns;
    _Atomic uint64_t next_session;
    _Atomic uint32_t connections;
    /* found at start; constant afterwards */
    char *warnings[SERVER_WARNINGS_MAX];
    unsigned warning_count;
};

struct part *server_part_of(struct server *server, const struct uuid *volume);
/* Any thread until the shards run; keeps at most SERVER_WARNINGS_MAX. */
void server_warn(struct server *server, const char *fmt, ...) SNAP_PRINTF(2, 3);

/* -- what outlives what, boot.c ---------------------------------------------------------- */

/* For HELLO. The state directory is locked. */
struct uuid boot_of(const char *state_dir);
/* A flush has failed: the next run's boot is another one. user: the server. Thread: any. */
void boot_flush_failed(void *user);

/* -- sessions, session*.c -------------------------------------------------------------- */

/* A volume that is to be told when the connection ends: its lease is the connection's, or a claim.
 */
struct session_lease {
    struct uuid volume;
    struct server *server;
    uint64_t session;
    struct loop_msg gone;
    LIST_ENTRY(session_lease) link;
};

/* One connection. Thread: its home's; id, peer and admin are constant once it is up. */
struct session {
    struct server *server;
    struct part *home;
    struct chan *chan; /* NULL: gone */
    uint64_t id;
    struct chan_peer peer;
    bool admin; /* root, or the daemon's own user, on the Unix socket */
    bool up;
    bool moved;           /* its lease found its shard: it stays there */
    bool settled;         /* its reads and writes have; a lease may move it once more */
    struct part *follows; /* where it goes when what is under way has ended, being held still */
    unsigned outstanding;
    struct { /* the refusal that was logged last: more of them are only counted for a while */
        const struct method *method;
        int code;
        uint64_t at_ns;
        uint64_t more;
    } told;
    struct client *client;
    LIST_HEAD(, session_lease) leases;
    struct loop_msg msg;
    TAILQ_ENTRY(session) link;
};

/* A socket came in. Thread: main's; the session is made on a shard. */
void session_accept(struct server *server, int fd, bool local);
/* Refuse new requests, say GOAWAY. Thread: the part's. */
void part_drain(struct part *part);
/* End every connection of the part. */
void part_abort_sessions(struct part *part, const struct err *why);
/* New certificates: later connections use them, revoked peers are dropped.
 * Owns: takes one reference. */
void part_set_tls(struct part *part, struct tls_context *take_tls);
/* The lease's holder is to hear something. Thread: any shard's. */
void session_tell(struct volume *v, const struct volume_holder *h, enum volume_event event);
void session_events_lost(struct loop_msg *msg);
/* The lease on the volume, or a claim of it, is this session's now: when it ends, the volume is
 * told. Owns: takes it; NULL: there was no memory, and the volume finds out when the lease is not
 * renewed. Thread: the session's home's. */
void session_take_lease(struct session *s, struct session_lease *take);
struct session_lease *session_lease_new(const struct uuid *volume); /* any thread */
void session_answer(struct request *req);

/* -- requests, request.c ------------------------------------------------------------------ */

enum run_at {
    RUN_HOME,   /* where the connection is */
    RUN_VOLUME, /* where its volume is; volume and rights are checked before fn */
};

enum method_kind {
    METHOD_OF_ANY,
    METHOD_OF_HOSTED, /* volumes of that kind only; the others are told so */
    METHOD_OF_REMOTE,
};

struct method {
    uint16_t number;
    const char *name;
    const ProtobufCMessageDescriptor *in;
    enum run_at at;
    size_t volume_offset; /* of the volume's uuid in the message; RUN_VOLUME only */
    enum acl_right right; /* on the volume, or (RUN_HOME) on all, unless right_free */
    bool right_free;      /* fn checks by itself */
    enum method_kind kind;
    bool payload;
    bool mutates; /* logged at info */
    bool follows; /* its connection goes where the volume is */
    void (*fn)(struct request *req);
};

const struct method *method_find(uint16_t number);

struct request_block {
    struct request_block *next;
    max_align_t data[];
};

typedef void request_fn(struct request *req);

struct request {
    struct session *session;
    struct part *at; /* where it is now */
    struct chan_frame *frame;
    const struct method *method;
    ProtobufCMessage *in;
    struct uuid volume_id;
    struct volume *volume; /* RUN_VOLUME, on its shard */
    void *op;              /* the handler's own */
    uint64_t started_ns;
    const char
        *target; /* for the log, what a request that changes something is about; NULL: none */

    int code;
    struct err err;
    uint64_t loss;    /* with an error: what a flush is told of; 0: nothing */
    uint8_t *control; /* the packed answer */
    size_t control_bytes;
    struct iovec *iov; /* the answer's payload, inside buf */
    unsigned iov_count;
    struct buf *buf;
    struct part *buf_part;

    request_fn *answer; /* at home, with the answer packed, or a refusal; NULL: session_answer */
    request_fn *next;   /* when the message arrives */
    request_fn *run;    /* on the control thread */
    struct loop_msg msg;
    struct control_job job;
    request_fn *tour, *tour_then; /* request_tour() */
    struct request_block *blocks;
};

/* Continue with fn on that part's shard; at once when it is this one. */
void request_go(struct request *req, struct part *part, request_fn *fn);
/* run on the control thread, then `then` back on the shard where the request is. */
void request_control(struct request *req, request_fn *run, request_fn *then);
/* Call fn on each part in turn, then `then` on the home part. Cannot fail. */
void request_tour(struct request *req, request_fn *fn, request_fn *then);

/* Memory that lives as long as the request; zeroed. NULL: none. */
void *request_alloc(struct request *req, size_t bytes);
char *request_strdup(struct request *req, const char *text);

/* Say what it is about; nothing is said when there is no memory. */
void request_set_target(struct request *req, const char *fmt, ...) SNAP_PRINTF(2, 3);

/* Answer; the request is gone afterwards. Any thread that has it. */
void request_reply(struct request *req, const ProtobufCMessage *answer);
void request_reply_empty(struct request *req);
void request_fail(struct request *req, int code, const struct err *err);
void request_failf(struct request *req, int code, const char *fmt, ...) SNAP_PRINTF(3, 4);
void request_no_memory(struct request *req);
void request_free(struct request *req);

/* May the asker do that on a volume (NULL: on all)? Uses the rights of the part it is on. */
bool request_allows(const struct request *req, const struct uuid *volume, enum acl_right right);
/* Who may, in words: "writer or admin". */
const char *request_right_roles(enum acl_right right);
/* On failure the request has been answered. */
bool request_uuid(struct request *req, const ProtobufCBinaryData *b, const char *what,
                  struct uuid *ret);
ProtobufCBinaryData request_bytes(struct request *req, const void *data, size_t len);

#define REQUEST_IN(req, type) ((const type *)(const void *)(req)->in)

/* -- families -------------------------------------------------------------------------------- */

/* service_volume.c */
void service_volume_create(struct request *req);
/* service_volume_delete.c */
void service_volume_delete(struct request *req);
/* service_list.c */
void service_volume_list(struct request *req);
void service_volume_show(struct request *req);
void service_resolve(struct request *req);
/* fill.c */
/* Fill in messages from the volume's state; false: out of memory. */
bool service_fill_volume(struct request *req, struct volume *v, Snapwire__V1__Volume *out);
/* Without its snapshots. */
bool service_fill_volume_alone(struct request *req, struct volume *v, Snapwire__V1__Volume *out);
bool service_fill_snapshot(struct request *req, const struct snapshot *s,
                           Snapwire__V1__Snapshot *out);
/* service_snapshot.c */
void service_snapshot_create(struct request *req);
void service_snapshot_show(struct request *req);
void service_snapshot_delete(struct request *req);
void service_snapshot_check(struct request *req);
void service_snapshot_accept(struct request *req);
/* Answer with the snapshot; req->volume is its volume. */
void service_reply_snapshot(struct request *req, const struct uuid *id);
/* A path on the daemon's host is the operator's to name, and never one of the daemon's own.
 * Errors: SNAP_EPERM, SNAP_EINVAL. */
int service_check_device(const struct request *req, const char *path, const char *what,
                         struct err *reterr) SNAP_WUR;
/* service_cow.c */
void service_cow_put(struct request *req);
/* service_read.c */
void service_snapshot_read(struct request *req);
void service_run_list(struct request *req);
/* service_io.c */
void service_write(struct request *req);
void service_zero(struct request *req);
void service_flush(struct request *req);
void service_extent_list(struct request *req);
struct volume_extent;
/* False: out of memory. */
bool service_fill_extents(struct request *req, const struct volume_extent *extents, uint32_t count,
                          Snapwire__V1__Extent ***ret, size_t *ret_count);
/* service_diff.c */
void service_diff(struct request *req);
/* service_clone.c, service_group.c */
void service_clone_create(struct request *req);
void service_group_create(struct request *req);
/* service_job.c */
void service_rollback(struct request *req);
void service_verify(struct request *req);
void service_job_list(struct request *req);
void service_job_show(struct request *req);
void service_job_cancel(struct request *req);
/* service_lease.c */
void service_lease_acquire(struct request *req);
void service_lease_renew(struct request *req);
void service_lease_release(struct request *req);
void service_head_ready(struct request *req);
/* service_merge.c */
void service_merge_begin(struct request *req);
void service_merge_prepare(struct request *req);
void service_merge_commit(struct request *req);
void service_merge_end(struct request *req);
void service_merge_abort(struct request *req);
/* service_grant.c */
void service_grant(struct request *req);
void service_revoke(struct request *req);
void service_grant_list(struct request *req);
/* Make a changed list of rights known to every part; goes on with `then` on the home part. Cannot
 * fail: p stands where the change began, in what lives as long as the request.
 * Thread: after the control thread has saved server->acl. */
struct acl_publication {
    struct acl *acl;
    uint64_t version;
    void *op; /* of whoever has the list published */
    request_fn *then;
};
void service_publish_acl(struct request *req, struct acl_publication *p, request_fn *then);
/* The newest list from now on, saved before. Thread: control. */
void service_take_acl(struct server *server, struct acl *take_acl);
/* service_status.c */
void service_ping(struct request *req);
void service_server_status(struct request *req);

/* -- clients and their limits, clients.c; any thread --------------------------------------------
 */

struct clients *clients_new(void);
void clients_free(struct clients *c);
/* Count one connection of that identity. Errors: SNAP_ELIMIT, SNAP_ENOMEM. */
int clients_enter(struct clients *c, const char *identity, uint32_t connections_max,
                  struct client **ret, struct err *reterr) SNAP_WUR;
void clients_leave(struct clients *c, struct client *client);
/* Count one volume of that owner, before it has its record, unless there are as many already; 0: as
 * many as there may be. Errors: SNAP_ELIMIT, SNAP_ENOMEM. */
int clients_add_volume(struct clients *c, const char *owner, uint32_t volumes_max,
                       struct err *reterr) SNAP_WUR;
/* It could not be made, or has been deleted. */
void clients_drop_volume(struct clients *c, const char *owner);
/* The counter of an owner's space; lives as long as c. NULL: no memory. user: the clients. */
_Atomic int64_t *clients_space_of(void *user, const char *owner);

#endif
