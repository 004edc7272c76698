/* SPDX-License-Identifier: Apache-2.0 */
/* Being a volume's writer: its lease, its stream, and whether the origin may be written now.
 *
 *   writing ──quiesce──> still ──the same head──> writing
 *      │                   └────a new head──────> over: SNAP_ESTALE
 *      ├──lapsed──> waiting ──resumed──> writing
 *      └──lost──> over ──(a write was late)──> the daemon is told, with another lease
 */
#ifndef SNAP_SNAPCTL_REMOTE_WRITER_H
#define SNAP_SNAPCTL_REMOTE_WRITER_H

#include "client/snapctl/remote_connect.h"

enum { REMOTE_WRITER_FINGERPRINT_BYTES = 64 };

struct remote_writer {
    struct snapwire_client *client;
    struct snapwire_lease *lease;
    struct snapwire_stream *stream; /* NULL: this writer puts nothing */
    const struct cli *cli;
    const struct remote_target *target;
    struct snapwire_uuid head; /* when the lease was taken */
    uint32_t head_seq;
    struct snapwire_lease_config asked; /* the lease, of this one without callbacks */
    uint8_t fingerprint[REMOTE_WRITER_FINGERPRINT_BYTES];
    /* Before standing still, and when the lease is lost: to return when nothing is being written
     * any more. NULL: the driver writes by itself, between two turns. */
    void (*hold)(void *user);
    void *hold_user;
    bool still; /* a snapshot is being made */
    bool lost;  /* the lease */
    bool late;  /* by the driver: an origin write has ended after the lease, which is not good again
                 */
    bool over;
    int over_code;
    struct err why;
};

struct remote_writer_ask {
    const struct cli *cli;
    const struct remote_target *target; /* outlives the writer */
    uint64_t origin_size_bytes;
    const void *fingerprint;
    size_t fingerprint_bytes;
    bool sole; /* the caller holds the origin's lock: whoever wrote it from here before is dead */
    bool new_origin, steal;
};

/* What helps against SNAP_EMISMATCH: the words of all commands that take an origin. */
#define REMOTE_NEW_ORIGIN_HINT "; if this is the disk to go on with, say --new-origin"

/* The instance under which the writer of this origin on this machine is known. */
struct snapwire_uuid remote_writer_instance(const struct snapwire_uuid *volume,
                                            const void *fingerprint, size_t fingerprint_bytes);
/* Take the lease. Errors: SNAP_EBUSY (another writer), SNAP_EMISMATCH (another origin) … */
int remote_writer_open(struct remote_writer *w, struct remote *r,
                       const struct remote_writer_ask *ask, struct err *reterr) SNAP_WUR;
/* Its target must be the newest snapshot. Errors: SNAP_ESTALE naming the newest. */
int remote_writer_check_head(const struct remote_writer *w, struct err *reterr) SNAP_WUR;
int remote_writer_stream(struct remote_writer *w, const struct snapwire_stream_config *config,
                         struct err *reterr) SNAP_WUR;
/* The lease is good at this moment, and nobody waits for us to stand still. */
bool remote_writer_may_write(const struct remote_writer *w);
/* 0, or why this writer has ended. */
int remote_writer_check(const struct remote_writer *w, struct err *reterr) SNAP_WUR;
/* One turn of the library's loop; comes back soon enough to look at Ctrl-C. */
void remote_writer_turn(struct remote_writer *w);
/* A put was stale: the library finds out why. Comes back when it has, or soon. */
void remote_writer_settle(struct remote_writer *w);
/* Stream and lease are given back, where the daemon is still there to take them; it is told of what
 * is late, and the operator is. Takes zeros. */
void remote_writer_close(struct remote_writer *w);

#endif
