/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the link's thread share. All: that thread, without the guard's lock. */
#ifndef SNAP_NBDKIT_GUARD_LINK_H
#define SNAP_NBDKIT_GUARD_LINK_H

#include "client/nbdkit/guard.h"

enum {
    GUARD_TURN_MS = 200,
    GUARD_RETRY_MS = 2000,
    GUARD_ON_ITS_WAY_PART = 8, /* of a lease's time: what was sent last is there by then */
    GUARD_MARGIN_PART = 8,     /* of a lease's time, at its end: no write is begun */
};
#define NS_PER_MS UINT64_C(1000000)

static inline int guard_error(const struct snapwire_error *e, struct err *reterr)
{
    int rc = err_set(reterr, e->code, "%s", e->text);
    if (reterr)
        reterr->sys_errno = e->sys_errno;
    return rc;
}

/* -- going on without, guard_break.c -- */
/* Make the mark and break the lease; writes go on some time later. May be called again. */
void guard_break(struct guard *g);
/* The same without a lease; to be called again and again. */
void guard_break_alone(struct guard *g);
/* The head is a new one, that misses nothing: the mark goes. */
void guard_unbreak(struct guard *g, const char *head_name);

/* -- writes that the lease did not outlast, guard_late.c -- */
/* The late mark says what guard_late_look() does. To be called again and again. */
void guard_late_note(struct guard *g);
/* What a guard before this one has left; the volume is known. Errors: SNAP_ECORRUPT, SNAP_EIO. */
int guard_late_recall(struct guard *g, struct err *reterr) SNAP_WUR;
/* The daemon has been told that and given the lease; the operator is, if there are such snapshots.
 */
void guard_late_told(struct guard *g, uint32_t after_seq, const struct snapwire_lease_info *info);

/* -- copies to the stream, guard_put.c -- */
/* As many as there is room for, of those that are read. Without a stream all end. Waits for the
 * origin at most that long, if it is being read. */
void guard_put_all(struct guard *g, unsigned wait_us);
/* Tell the writes of those that have ended, all in one. */
void guard_put_settle(struct guard *g);
void guard_put_drained(void *user, struct snapwire_stream *stream);

/* -- client, lease and stream, guard_lease.c; see also guard_link_open() -- */
void guard_lease_close(struct guard *g);
/* Up to when the origin may be written. */
void guard_lease_publish(struct guard *g);

#endif
