/* SPDX-License-Identifier: Apache-2.0 */
/* libsnapwire: remote snapshots of local origins, for C and C++.
 *
 * The public header of the library; with snapwire_writer.h and snapwire_hosted.h, which it
 * includes, the whole ABI.
 * It needs nothing but the C library; libevent's `struct event_base` is named, not included.
 *
 * Words: a *volume* is a named origin known to a daemon; a *snapshot* is its past state, kept as
 * exceptions in a COW device; the newest snapshot is the *head*, the only one that writers
 * stream to; a *chunk* is the unit of an exception. Volumes and snapshots are addressed by uuid:
 * a name deleted and made again is another thing. snapwire_resolve() turns names into uuids.
 *
 * Two faces of one client object:
 *  - asynchronous: give snapwire_client_new() your event_base. Every call takes a
 *    completion callback that runs once, from the loop, never inside the call;
 *  - blocking: give NULL; the client has a loop of its own, which the *_sync()
 *    functions drive until their answer is there. Callbacks of leases, streams and
 *    the state run inside them. Do not call *_sync() from a callback.
 *
 * Errors: functions return 0 or a negative SNAPWIRE_E… and fill *reterr, which may
 * be NULL. A call that returns an error does not call its callback. A callback's
 * `error` is NULL when all went well, and is valid during the callback.
 *
 * Results: what a callback is given is valid during the callback. What a *_sync()
 * function hands out through `ret` is the caller's: free with snapwire_free().
 * Structs of results grow at their end in later versions; never copy one by
 * value or make arrays of them (lists are arrays of pointers). Fixed for ever:
 * snapwire_uuid, snapwire_error, snapwire_run, snapwire_extent.
 *
 * Arguments: structs whose first member is `size` may grow; set it:
 *     struct snapwire_volume_create args = {.size = sizeof args, .name = "db", …};
 * Members that are 0 mean the default.
 *
 * Reconnect: when the connection breaks the client comes back by itself, with
 * exponential back-off and jitter, and sends again what was unanswered. That is
 * safe: creations carry a uuid, deletions a key, COW puts and merge commits are
 * compare-and-set. What is permanent (certificate refused, no common protocol)
 * ends the client at once with state SNAPWIRE_STATE_FAILED.
 *
 * Thread: a client and all that belongs to it are used by one thread at a time,
 * the one that runs the loop; only snapwire_client_post() may be called by any.
 */
#ifndef SNAPWIRE_H
#define SNAPWIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SNAPWIRE_API __attribute__((visibility("default")))
#define SNAPWIRE_WUR __attribute__((warn_unused_result))
#else
#define SNAPWIRE_API
#define SNAPWIRE_WUR
#endif

struct event_base; /* libevent's */

/* The library's version, "0.1.0". */
SNAPWIRE_API const char *snapwire_version(void);

/* -- errors ---------------------------------------------------------------------- */

enum snapwire_code {
    SNAPWIRE_OK = 0,
    SNAPWIRE_WOULD_BLOCK = 1, /* snapwire_stream_put() only: not an error, try again when drained */
    SNAPWIRE_EINVAL = -1,     /* invalid argument */
    SNAPWIRE_ENOMEM = -2,     /* out of memory */
    SNAPWIRE_EIO = -3,        /* input/output error */
    SNAPWIRE_ENOSPC = -4,     /* no space left */
    SNAPWIRE_ENOENT = -5,     /* not found */
    SNAPWIRE_EEXIST = -6,     /* already exists */
    SNAPWIRE_EPERM = -7,      /* permission denied */
    SNAPWIRE_EAUTH = -8,      /* not authenticated */
    SNAPWIRE_ESTALE = -9,     /* stale identity or lease epoch */
    SNAPWIRE_EBUSY = -10,     /* busy */
    SNAPWIRE_ECORRUPT = -11,  /* damaged data */
    SNAPWIRE_EINVALID = -12,  /* snapshot is invalid */
    SNAPWIRE_EPROTO = -13,    /* protocol violation */
    SNAPWIRE_ETIMEDOUT = -14, /* timed out; whether it was done is unknown */
    SNAPWIRE_ECONN = -15,     /* connection lost */
    SNAPWIRE_ELIMIT = -16,    /* limit reached */
    SNAPWIRE_ENOTSUP = -17,   /* not supported */
    SNAPWIRE_EMISMATCH = -18, /* does not match */
    SNAPWIRE_ECANCELED = -19, /* cancelled: the object it belonged to was closed */
    SNAPWIRE_ESHUTDOWN = -20, /* shutting down */
    SNAPWIRE_EPOISONED = -21, /* store must be opened again */
    SNAPWIRE_EOVERFLOW = -22, /* snapshot overflowed */
    SNAPWIRE_EUNVERIFIED = -23, /* snapshot is unverified */
    SNAPWIRE_EINTERNAL = -24,   /* internal error */
};

struct snapwire_error {
    int code;       /* 0 or a negative SNAPWIRE_E… */
    int sys_errno;  /* the errno behind it, or 0 */
    char text[480]; /* what went wrong, for people; always terminated */
};

SNAPWIRE_API const char *snapwire_error_name(int code); /* "ENOSPC" */
SNAPWIRE_API const char *snapwire_error_text(int code); /* "no space left" */
SNAPWIRE_API int snapwire_error_exit_code(int code);    /* for a program's exit */
SNAPWIRE_API int snapwire_error_http_status(int code);
SNAPWIRE_API int snapwire_error_grpc_status(int code);

/* Free what a *_sync() function handed out. Takes NULL. */
SNAPWIRE_API void snapwire_free(void *result);

/* -- identities ------------------------------------------------------------------ */

struct snapwire_uuid {
    uint8_t b[16];
};
enum { SNAPWIRE_UUID_TEXT_BYTES = 37 };

SNAPWIRE_API struct snapwire_uuid snapwire_uuid_make(void); /* random */
SNAPWIRE_API bool snapwire_uuid_is_zero(const struct snapwire_uuid *u);
SNAPWIRE_API bool snapwire_uuid_equal(const struct snapwire_uuid *a, const struct snapwire_uuid *b);
/* Lower case; buf of SNAPWIRE_UUID_TEXT_BYTES. Returns buf. */
SNAPWIRE_API char *snapwire_uuid_format(const struct snapwire_uuid *u, char *buf);
SNAPWIRE_API int snapwire_uuid_parse(const char *text, struct snapwire_uuid *ret,
                                     struct snapwire_error *reterr) SNAPWIRE_WUR;

/* -- the client ------------------------------------------------------------------ */

struct snapwire_client;

enum snapwire_state {
    SNAPWIRE_STATE_IDLE = 0,   /* before the first connect */
    SNAPWIRE_STATE_CONNECTING, /* the first time */
    SNAPWIRE_STATE_CONNECTED,
    SNAPWIRE_STATE_RECONNECTING, /* `why` says what broke */
    SNAPWIRE_STATE_FAILED,       /* for good; `why` says the reason; all calls end with it */
    SNAPWIRE_STATE_CLOSED,
};

struct snapwire_config {
    size_t size; /* sizeof(struct snapwire_config) */

    /* One or several addresses of the same daemon, separated by commas or blanks, tried in
     * turn: HOST, HOST:PORT, [V6]:PORT, unix:/PATH. */
    const char *addresses;
    /* PEM files; needed unless every address is a Unix socket. */
    const char *ca_path, *certificate_path, *key_path;
    const char *crl_path;    /* NULL: none */
    const char *server_name; /* name in the daemon's certificate; NULL: the address's host */
    const char *software;    /* for the daemon's log; NULL: "libsnapwire VERSION" */

    uint32_t connect_timeout_ms; /* one attempt: connect, TLS and hello; default 10 s */
    /* A request, from call to answer, over all tries; default 60 s. A put has none: it is sent
     * again until it is answered or the lease is lost; the time is then that of one try. */
    uint32_t request_timeout_ms;
    uint32_t keepalive_ms;      /* default 15 s */
    uint32_t backoff_min_ms;    /* default 100 ms */
    uint32_t backoff_max_ms;    /* default 10 s */
    uint32_t give_up_ms;        /* without connection so long: STATE_FAILED; default: never */
    uint32_t requests_max;      /* unanswered requests and queued ones; default 1024 */
    uint64_t receive_bytes_max; /* memory for answers; at least 512 KiB, default 64 MiB */

    /* The connection's state changed. why: NULL unless RECONNECTING or FAILED. May be NULL. */
    void (*state_changed)(void *user, struct snapwire_client *client, enum snapwire_state state,
                          const struct snapwire_error *why);
    void *user;
};

/* Nothing is sent or connected yet; certificates are read. Strings are copied.
 * base: the caller's loop, which outlives the client; NULL: the blocking face.
 * Errors: SNAPWIRE_EINVAL, SNAPWIRE_ENOENT, SNAPWIRE_EPERM (files), SNAPWIRE_ENOMEM. */
SNAPWIRE_API int snapwire_client_new(struct event_base *base, const struct snapwire_config *config,
                                     struct snapwire_client **ret,
                                     struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Begin to connect (any call does so too). Returns at once. */
SNAPWIRE_API int snapwire_client_connect(struct snapwire_client *client,
                                         struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Wait until connected. Unlike the asynchronous face it fails with the reason after
 * connect_timeout_ms, and keeps trying in later calls. */
SNAPWIRE_API int snapwire_client_connect_sync(struct snapwire_client *client,
                                              struct snapwire_error *reterr) SNAPWIRE_WUR;
/* End everything: requests, leases and streams that are left end with SNAPWIRE_ECANCELED
 * (a lease is not given back: release it before), no buffer of the caller's is used any
 * more, then `closed` runs (may be NULL), then the memory of the client, its leases and its
 * streams is freed. On the caller's event_base this takes some turns of the loop, and may be
 * called from callbacks; in the blocking face it waits, and must not be. */
SNAPWIRE_API void snapwire_client_close(struct snapwire_client *client, void (*closed)(void *user),
                                        void *user);
/* The same without `closed`. Takes NULL. */
SNAPWIRE_API void snapwire_client_free(struct snapwire_client *client);
SNAPWIRE_API enum snapwire_state snapwire_client_state(const struct snapwire_client *client);
/* The time that requests made from now on may take, over all tries; 0: the configured. */
SNAPWIRE_API void snapwire_client_set_timeout(struct snapwire_client *client, uint32_t timeout_ms);
/* Blocking face: one turn of the loop, waiting at most timeout_ms (-1: until something
 * happens), for callers that wait for callbacks of leases and streams. */
SNAPWIRE_API void snapwire_client_turn(struct snapwire_client *client, int timeout_ms);
/* Run fn(user) on the client's thread, soon. Any thread. */
SNAPWIRE_API int snapwire_client_post(struct snapwire_client *client, void (*fn)(void *user),
                                      void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Largest read, and largest batch, that both sides take: half of receive_bytes_max, 16 MiB or what
 * the daemon has said at the last connection. */
SNAPWIRE_API uint32_t snapwire_client_payload_bytes_max(const struct snapwire_client *client);

typedef void (*snapwire_done_cb)(void *user, const struct snapwire_error *error);

SNAPWIRE_API int snapwire_ping(struct snapwire_client *client, snapwire_done_cb cb, void *user,
                               struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_ping_sync(struct snapwire_client *client,
                                    struct snapwire_error *reterr) SNAPWIRE_WUR;

/* -- the daemon at a glance ------------------------------------------------------ */

struct snapwire_status {
    const char *software;
    const char *identity; /* who the daemon takes the asker for */
    const char *io_engine;
    const char *state_dir; /* may be empty: not shown to this asker */
    uint64_t uptime_s;
    uint32_t volumes, snapshots, snapshots_invalid, snapshots_damaged;
    uint32_t leases, connections, shards, jobs;
    uint64_t chunks_added, chunks_existed, commits, flushes;
    uint64_t cow_bytes_used, state_bytes_free;
    const char *const *warnings;
    size_t warning_count;
    uint64_t cache_size_bytes, cache_used_bytes; /* of all shards; size 0: none */
    uint64_t cache_hits, cache_misses;           /* since the daemon's start */
};
typedef void (*snapwire_status_cb)(void *user, const struct snapwire_error *error,
                                   const struct snapwire_status *status);
SNAPWIRE_API int snapwire_server_status(struct snapwire_client *client, snapwire_status_cb cb,
                                        void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_server_status_sync(struct snapwire_client *client,
                                             struct snapwire_status **ret,
                                             struct snapwire_error *reterr) SNAPWIRE_WUR;

/* -- volumes and snapshots ------------------------------------------------------- */

enum snapwire_volume_kind { SNAPWIRE_VOLUME_REMOTE = 0, SNAPWIRE_VOLUME_HOSTED = 1 };
enum snapwire_full_policy {
    SNAPWIRE_FULL_DEFAULT = 0, /* only when creating: what the daemon's configuration says */
    SNAPWIRE_FULL_REFUSE = 1,
    SNAPWIRE_FULL_INVALIDATE = 2,
};
enum snapwire_snapshot_state {
    SNAPWIRE_SNAPSHOT_OK = 0,
    SNAPWIRE_SNAPSHOT_INVALID = 1,
    SNAPWIRE_SNAPSHOT_MERGING = 2,
    SNAPWIRE_SNAPSHOT_DAMAGED = 3,
    SNAPWIRE_SNAPSHOT_POISONED = 4,
    SNAPWIRE_SNAPSHOT_DELETING = 5,
    SNAPWIRE_SNAPSHOT_UNVERIFIED = 6,
};
/* "ok", "invalid" … ; "unknown" for a number of a newer daemon. */
SNAPWIRE_API const char *snapwire_snapshot_state_name(int state);
SNAPWIRE_API const char *snapwire_volume_kind_name(int kind);   /* "remote", "hosted" */
SNAPWIRE_API const char *snapwire_full_policy_name(int policy); /* "refuse", "invalidate" */

struct snapwire_label {
    const char *key, *value;
};

struct snapwire_snapshot {
    struct snapwire_uuid id;
    struct snapwire_uuid volume;
    const char *name;
    const char *volume_name;
    int state; /* enum snapwire_snapshot_state */
    const char *state_text;
    int64_t created_s; /* since 1970 */
    uint32_t chunk_size_sectors;
    bool head;
    uint64_t volume_size_bytes;
    uint64_t device_sectors, limit_sectors;
    uint64_t exceptions, areas, next_free;
    uint64_t sectors_allocated, metadata_sectors;
    const char *status; /* as `dmsetup status` prints it */
    const char *cow_path;
    bool writable;               /* a clone */
    const char *parent;          /* of a clone: the snapshot it reads through; empty: the volume */
    uint32_t seq;                /* grows with youth within a volume, never reused */
    const char *const *warnings; /* "90% of its limit is used" … */
    size_t warning_count;
};

struct snapwire_volume {
    struct snapwire_uuid id;
    const char *name;
    uint64_t size_bytes;
    int kind;        /* enum snapwire_volume_kind */
    int full_policy; /* enum snapwire_full_policy */
    int64_t created_s;
    uint32_t chunk_size_sectors; /* of its snapshots; 0: none yet */
    bool leased;
    const char *lease_holder;
    uint64_t lease_epoch;
    const struct snapwire_snapshot *const *snapshots; /* oldest first, clones at the end */
    size_t snapshot_count;
    const struct snapwire_label *const *labels;
    size_t label_count;
};
struct snapwire_volume_list {
    const struct snapwire_volume *const *volumes;
    size_t count;
};

typedef void (*snapwire_volume_cb)(void *user, const struct snapwire_error *error,
                                   const struct snapwire_volume *volume);
typedef void (*snapwire_volume_list_cb)(void *user, const struct snapwire_error *error,
                                        const struct snapwire_volume_list *list);
typedef void (*snapwire_snapshot_cb)(void *user, const struct snapwire_error *error,
                                     const struct snapwire_snapshot *snapshot);

/* What names stand for. */
struct snapwire_target {
    struct snapwire_uuid volume;
    struct snapwire_uuid snapshot; /* zero when only a volume was asked for */
    uint64_t size_bytes;
    uint32_t chunk_size_sectors;
    int kind;                        /* enum snapwire_volume_kind */
    uint8_t origin_fingerprint[64];  /* remote: what the volume's last writer gave */
    size_t origin_fingerprint_bytes; /* 0: nothing is known, or told to this identity */
};
typedef void (*snapwire_target_cb)(void *user, const struct snapwire_error *error,
                                   const struct snapwire_target *target);
/* snapshot_name: NULL or empty: the volume itself. */
SNAPWIRE_API int snapwire_resolve(struct snapwire_client *client, const char *volume_name,
                                  const char *snapshot_name, snapwire_target_cb cb, void *user,
                                  struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_resolve_sync(struct snapwire_client *client, const char *volume_name,
                                       const char *snapshot_name, struct snapwire_target **ret,
                                       struct snapwire_error *reterr) SNAPWIRE_WUR;

struct snapwire_volume_create {
    size_t size;
    struct snapwire_uuid id; /* zero: the library makes one */
    const char *name;
    uint64_t size_bytes; /* multiple of 512 */
    int kind;
    int full_policy; /* enum snapwire_full_policy */
    const struct snapwire_label *labels;
    size_t label_count;
    uint32_t chunk_size_sectors; /* hosted: of all its snapshots; 0: the daemon's default */
    const char *device;          /* hosted: a block device on the daemon's host; NULL: a file */
};
SNAPWIRE_API int snapwire_volume_create(struct snapwire_client *client,
                                        const struct snapwire_volume_create *args,
                                        snapwire_volume_cb cb, void *user,
                                        struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_volume_create_sync(struct snapwire_client *client,
                                             const struct snapwire_volume_create *args,
                                             struct snapwire_volume **ret,
                                             struct snapwire_error *reterr) SNAPWIRE_WUR;
/* All that the asker may see. */
SNAPWIRE_API int snapwire_volume_list(struct snapwire_client *client, snapwire_volume_list_cb cb,
                                      void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_volume_list_sync(struct snapwire_client *client,
                                           struct snapwire_volume_list **ret,
                                           struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_volume_show(struct snapwire_client *client,
                                      const struct snapwire_uuid *volume, snapwire_volume_cb cb,
                                      void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_volume_show_sync(struct snapwire_client *client,
                                           const struct snapwire_uuid *volume,
                                           struct snapwire_volume **ret,
                                           struct snapwire_error *reterr) SNAPWIRE_WUR;
/* key: the same try again is the same deletion; NULL: the library makes one (its own
 * replays are safe; a caller's second call is another try). force: with its snapshots. */
SNAPWIRE_API int snapwire_volume_delete(struct snapwire_client *client,
                                        const struct snapwire_uuid *volume,
                                        const struct snapwire_uuid *key, bool force,
                                        snapwire_done_cb cb, void *user,
                                        struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_volume_delete_sync(struct snapwire_client *client,
                                             const struct snapwire_uuid *volume,
                                             const struct snapwire_uuid *key, bool force,
                                             struct snapwire_error *reterr) SNAPWIRE_WUR;

struct snapwire_snapshot_create {
    size_t size;
    struct snapwire_uuid volume;
    struct snapwire_uuid id; /* zero: the library makes one */
    const char *name;
    uint32_t chunk_size_sectors; /* 0: the volume's, else the default */
    bool take_over;              /* cow_device holds exceptions already: keep them */
    uint64_t cow_limit_bytes;    /* 0: the daemon's default */
    const char *cow_device;      /* on the daemon's host; NULL: a file of its own */
};
/* Done when the volume's writer, if any, has adopted the new head. */
SNAPWIRE_API int snapwire_snapshot_create(struct snapwire_client *client,
                                          const struct snapwire_snapshot_create *args,
                                          snapwire_snapshot_cb cb, void *user,
                                          struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_snapshot_create_sync(struct snapwire_client *client,
                                               const struct snapwire_snapshot_create *args,
                                               struct snapwire_snapshot **ret,
                                               struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_snapshot_show(struct snapwire_client *client,
                                        const struct snapwire_uuid *volume,
                                        const struct snapwire_uuid *snapshot,
                                        snapwire_snapshot_cb cb, void *user,
                                        struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_snapshot_show_sync(struct snapwire_client *client,
                                             const struct snapwire_uuid *volume,
                                             const struct snapwire_uuid *snapshot,
                                             struct snapwire_snapshot **ret,
                                             struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_snapshot_delete(struct snapwire_client *client,
                                          const struct snapwire_uuid *volume,
                                          const struct snapwire_uuid *snapshot,
                                          const struct snapwire_uuid *key, snapwire_done_cb cb,
                                          void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_snapshot_delete_sync(struct snapwire_client *client,
                                               const struct snapwire_uuid *volume,
                                               const struct snapwire_uuid *snapshot,
                                               const struct snapwire_uuid *key,
                                               struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Delete by force: also one whose merge cannot go on, or that is damaged while others read through
 * it; those become invalid. */
SNAPWIRE_API int snapwire_snapshot_drop(struct snapwire_client *client,
                                        const struct snapwire_uuid *volume,
                                        const struct snapwire_uuid *snapshot,
                                        const struct snapwire_uuid *key, snapwire_done_cb cb,
                                        void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_snapshot_drop_sync(struct snapwire_client *client,
                                             const struct snapwire_uuid *volume,
                                             const struct snapwire_uuid *snapshot,
                                             const struct snapwire_uuid *key,
                                             struct snapwire_error *reterr) SNAPWIRE_WUR;

/* Admin: take a snapshot as it is although its writer cannot vouch for it. force: even while that
 * writer is away, which is not waited for any more; other snapshots stay unverified for good. */
SNAPWIRE_API int snapwire_snapshot_accept(struct snapwire_client *client,
                                          const struct snapwire_uuid *volume,
                                          const struct snapwire_uuid *snapshot, bool force,
                                          snapwire_done_cb cb, void *user,
                                          struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_snapshot_accept_sync(struct snapwire_client *client,
                                               const struct snapwire_uuid *volume,
                                               const struct snapwire_uuid *snapshot, bool force,
                                               struct snapwire_error *reterr) SNAPWIRE_WUR;

/* -- rights ---------------------------------------------------------------------- */

enum snapwire_role {
    SNAPWIRE_ROLE_NONE = 0,
    SNAPWIRE_ROLE_APPEND = 1, /* COW streams and creating snapshots; no reading, no deleting */
    SNAPWIRE_ROLE_READER = 2,
    SNAPWIRE_ROLE_WRITER = 3, /* append, read, merge, delete snapshots */
    SNAPWIRE_ROLE_ADMIN = 4,
};
SNAPWIRE_API const char *snapwire_role_name(int role); /* "append", "reader", … */
/* Errors: SNAPWIRE_EINVAL naming what is accepted. */
SNAPWIRE_API int snapwire_role_parse(const char *text, int *ret,
                                     struct snapwire_error *reterr) SNAPWIRE_WUR;

struct snapwire_grant {
    const char *identity;
    int role;
    struct snapwire_uuid volume; /* zero: every volume */
    const char *volume_name;     /* empty: every volume */
};
struct snapwire_grant_list {
    const struct snapwire_grant *const *grants;
    size_t count;
};
typedef void (*snapwire_grant_list_cb)(void *user, const struct snapwire_error *error,
                                       const struct snapwire_grant_list *list);
/* volume: NULL: every volume. */
SNAPWIRE_API int snapwire_grant(struct snapwire_client *client, const char *identity, int role,
                                const struct snapwire_uuid *volume, snapwire_done_cb cb, void *user,
                                struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_grant_sync(struct snapwire_client *client, const char *identity, int role,
                                     const struct snapwire_uuid *volume,
                                     struct snapwire_error *reterr) SNAPWIRE_WUR;
/* Errors: SNAPWIRE_ENOENT when there was no such grant. */
SNAPWIRE_API int snapwire_revoke(struct snapwire_client *client, const char *identity, int role,
                                 const struct snapwire_uuid *volume, snapwire_done_cb cb,
                                 void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_revoke_sync(struct snapwire_client *client, const char *identity,
                                      int role, const struct snapwire_uuid *volume,
                                      struct snapwire_error *reterr) SNAPWIRE_WUR;
/* volume: NULL: all. */
SNAPWIRE_API int snapwire_grant_list(struct snapwire_client *client,
                                     const struct snapwire_uuid *volume, snapwire_grant_list_cb cb,
                                     void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_grant_list_sync(struct snapwire_client *client,
                                          const struct snapwire_uuid *volume,
                                          struct snapwire_grant_list **ret,
                                          struct snapwire_error *reterr) SNAPWIRE_WUR;

/* -- reading --------------------------------------------------------------------- */

enum snapwire_extent_kind {
    SNAPWIRE_EXTENT_DATA = 0,
    SNAPWIRE_EXTENT_ORIGIN = 1, /* not in the store: what the origin holds */
    SNAPWIRE_EXTENT_ZERO = 2,
};
struct snapwire_extent {
    uint64_t offset_bytes; /* in the snapshot */
    uint64_t len_bytes;
    uint32_t kind;
    uint32_t reserved;
    const void *data; /* kind DATA: the content, in `buf` or else in the library's memory */
};
struct snapwire_read {
    size_t size;
    struct snapwire_uuid volume, snapshot;
    uint64_t offset_bytes; /* multiple of 512 */
    uint32_t len_bytes;    /* multiple of 512, at most snapwire_client_payload_bytes_max() */
    /* len_bytes long, the library's until the callback. DATA extents are copied and ZERO ones
     * filled in; where ORIGIN ones are it stays as it was. NULL: see extents' `data`. */
    void *buf;
};
/* The extents cover the range, in order, without holes. */
typedef void (*snapwire_read_cb)(void *user, const struct snapwire_error *error,
                                 const struct snapwire_extent *extents, size_t count);
/* Beside a live writer read the origin first and ask after: the exception wins. */
SNAPWIRE_API int snapwire_snapshot_read(struct snapwire_client *client,
                                        const struct snapwire_read *args, snapwire_read_cb cb,
                                        void *user, struct snapwire_error *reterr) SNAPWIRE_WUR;
struct snapwire_extent_list {
    const struct snapwire_extent *extents;
    size_t count;
};
/* Needs args->buf. */
SNAPWIRE_API int snapwire_snapshot_read_sync(struct snapwire_client *client,
                                             const struct snapwire_read *args,
                                             struct snapwire_extent_list **ret,
                                             struct snapwire_error *reterr) SNAPWIRE_WUR;

struct snapwire_run {
    uint64_t old_chunk;
    uint64_t count;
    uint64_t new_chunk; /* 0 unless `own` was asked for */
};
struct snapwire_run_list {
    size_t size;
    struct snapwire_uuid volume, snapshot;
    bool own; /* this snapshot's own exceptions; else all that its view finds in the store */
    uint64_t start_chunk;
    uint64_t end_chunk; /* exclusive; 0: to the end */
};
/* One page: runs ascending in old_chunk, without overlap, also from page to page. Non-zero: stop.
 */
typedef int (*snapwire_run_page_cb)(void *user, const struct snapwire_run *runs, size_t count,
                                    uint32_t chunk_size_sectors);
/* page runs for each page, then done once (error NULL also after a stop). With no runs at all
 * page may run once with count 0, so that the chunk size is known. */
SNAPWIRE_API int snapwire_run_each(struct snapwire_client *client,
                                   const struct snapwire_run_list *args, snapwire_run_page_cb page,
                                   snapwire_done_cb done, void *user,
                                   struct snapwire_error *reterr) SNAPWIRE_WUR;
SNAPWIRE_API int snapwire_run_each_sync(struct snapwire_client *client,
                                        const struct snapwire_run_list *args,
                                        snapwire_run_page_cb page, void *user,
                                        struct snapwire_error *reterr) SNAPWIRE_WUR;

#ifdef __cplusplus
}
#endif

#include "snapwire_hosted.h"
#include "snapwire_writer.h"

#endif
