/* SPDX-License-Identifier: Apache-2.0 */
/* A channel: one connection, either side, from socket to frames.
 *
 *   connecting ──> tls ──> hello ──> up ──> draining ──> down
 *        └───────────┴───────┴───────┴─(error, time-out)──^
 *
 * The same code serves client and daemon. Payloads are read straight into
 * aligned pool buffers and sent straight from the caller's memory: the one copy
 * is OpenSSL's. A payload begins at the start of a TLS record.
 *
 * Flow control: each side grants the other a window of payload bytes. A frame
 * with payload waits (in order) until the peer's credit covers it; credit goes
 * back when the receiver gives its frame back with chan_frame_done(). Frames
 * without payload cost no credit.
 *
 * Bounded against a peer: header, control and payload lengths are checked before
 * memory is taken; TLS, hello, a half-received frame and silence have time-outs;
 * what waits to be sent is capped.
 *
 * Thread: the loop's. chan_detach()/chan_attach() move a quiet channel to another loop.
 */
#ifndef SNAP_NET_CHAN_H
#define SNAP_NET_CHAN_H

#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/uuid.h"
#include "common/net/frame.h"
#include "common/net/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct chan;
struct tls_context; /* tls.h */

struct chan_peer {
    bool local; /* a Unix socket: uid and pid hold */
    uid_t uid;
    pid_t pid;
    char identity[LIMIT_NAME_BYTES + 1]; /* certificate's SAN; "uid:N" on a Unix socket */
    char address[128];                   /* for logs: "[::1]:4791", "unix:pid=12" */
    char software[65];
    struct uuid instance;
    struct uuid boot; /* nil: not told */
    uint32_t control_bytes_max, payload_bytes_max, requests_max;
};

/* A received frame. The handler owns it until chan_frame_done(). */
struct chan_frame {
    struct frame_header header;
    const uint8_t *control; /* header.control_bytes of it */
    struct buf *payload;    /* NULL when there is none; len_bytes = header.payload_bytes */
    struct chan *chan;      /* NULL once the channel is gone */
    STAILQ_ENTRY(chan_frame) link;
};

struct chan_ops {
    /* Hello went both ways. */
    void (*up)(struct chan *c, void *user, const struct chan_peer *peer);
    /* A REQUEST, RESPONSE or EVENT frame. */
    void (*frame)(struct chan *c, void *user, struct chan_frame *f);
    /* The last call, once; also after chan_close(). Unsent frames have been released. */
    void (*down)(struct chan *c, void *user, const struct err *why);
    /* The send queue emptied below its low mark; may be NULL. */
    void (*drained)(struct chan *c, void *user);
};

struct chan_config {
    struct buf_pool *pool;   /* receive buffers; the loop's own */
    struct tls_context *tls; /* NULL: plain, for Unix sockets only */
    const char *software;
    struct uuid instance;
    struct uuid boot; /* a daemon's: changes when what it has not flushed is lost; nil: not told */
    uint32_t control_bytes_max, payload_bytes_max, requests_max; /* 0: the limits.h value */
    uint64_t window_bytes;         /* what the peer may send unconsumed; 0: default */
    uint32_t handshake_timeout_ms; /* TCP connect, TLS and hello together; 0: 10 s */
    uint32_t frame_timeout_ms;     /* from a frame's first byte to its last, and for a send that
                                    * makes no progress; 0: 30 s */
    uint32_t keepalive_ms; /* silence after which a PING is sent; twice that ends it; 0: 15 s */
    size_t send_queue_bytes_max; /* 0: 64 MiB */
};

/* Take a connected (or, as client, connecting) non-blocking socket; owned from here on,
 * also on error. server_name: client with TLS: the certificate must name it. */
int chan_new_server(struct loop *l, int fd, const struct chan_config *config,
                    const struct chan_ops *ops, void *user, struct chan **ret,
                    struct err *reterr) SNAP_WUR;
int chan_new_client(struct loop *l, int fd, const char *server_name,
                    const struct chan_config *config, const struct chan_ops *ops, void *user,
                    struct chan **ret, struct err *reterr) SNAP_WUR;

struct chan_out {
    uint8_t kind;
    uint16_t flags;
    uint16_t method;
    uint64_t id;
    const uint8_t *control; /* copied */
    uint32_t control_bytes;
    const struct iovec *iov; /* the array is copied, the payload is borrowed until released */
    unsigned iov_count;
    /* Once, when the payload has been handed to TLS or the channel went down; may be NULL. */
    void (*released)(void *user);
    void *user;
};
/* Queue a frame. Errors: SNAP_ECONN (going down), SNAP_ELIMIT (send queue full, or longer than
 * the peer takes), SNAP_ENOMEM; then nothing was queued and `released` is not called. */
int chan_send(struct chan *c, const struct chan_out *out, struct err *reterr) SNAP_WUR;
size_t chan_send_queued_bytes(const struct chan *c);

/* Give a frame back: its payload's credit returns to the peer, its buffer to the pool.
 * Must be called on the channel's thread, also after the channel went down. */
void chan_frame_done(struct chan_frame *f);
/* Stop (or go on) reading: back-pressure beyond the window. */
void chan_pause(struct chan *c, bool pause);
/* From a frame's handler: what came suffices for this turn, the rest is read in the next one. */
void chan_rest(struct chan *c);
/* Send what is queued, then close. `down` follows, with code 0 when all went out. */
void chan_close(struct chan *c);
/* Close at once, telling the peer why if it can be told (not for NULL or SNAP_ECONN); `down`
 * follows, from the loop. A detached channel goes down inside the call. */
void chan_abort(struct chan *c, const struct err *why);

const struct chan_peer *chan_peer_of(const struct chan *c);
struct loop *chan_loop(const struct chan *c);
/* Is the peer's certificate revoked by the list of this (newly loaded) context? */
bool chan_revoked(const struct chan *c, const struct tls_context *now);
void chan_set_user(struct chan *c, const struct chan_ops *ops, void *user);

/* Move to another loop: detach on the old thread (allowed inside `frame` when no
 * received frame but the one at hand is outstanding), attach on the new one. What
 * was already read comes with it. */
int chan_detach(struct chan *c, struct err *reterr) SNAP_WUR;
int chan_attach(struct chan *c, struct loop *l, struct buf_pool *pool, struct err *reterr) SNAP_WUR;

#endif
