/* SPDX-License-Identifier: Apache-2.0 */
/* Overwriting an origin, its old content kept remotely first: the pipeline of apply and merge.
 *
 *   free ──caller fills both halves──> filled ──put──> putting ──all durable──> durable
 *    ^   (old content, new content)      │                                        │
 *    ├────────── nothing differs ────────┘                                 may be written
 *    └──────────── origin written ───────────── writing <────────────────────────┘
 *
 * A ring of slots, each some chunks of the origin twice: as they are and as they shall be.
 * Only chunks that differ are put and written.
 */
#ifndef SNAP_SNAPCTL_REMOTE_OVER_H
#define SNAP_SNAPCTL_REMOTE_OVER_H

#include "client/host/origin.h"
#include "client/snapctl/remote_writer.h"

enum over_state {
    OVER_FREE,
    OVER_FILLING,
    OVER_FILLED,
    OVER_PUTTING,
    OVER_DURABLE,
    OVER_WRITING, /* over_writer.h has it */
};
enum over_verdict { OVER_SAME, OVER_WRITE, OVER_ZERO };

struct over;

struct over_stats {
    uint64_t chunks_written, bytes_written;
    uint64_t chunks_known; /* overwritten without a put: the daemon had them */
};

struct over_slot {
    struct over *over;
    enum over_state state;
    uint64_t offset_bytes; /* of a chunk */
    uint64_t len_bytes;    /* whole chunks, but for the origin's end */
    uint32_t chunks;
    bool unread;         /* `old` holds nothing: all of the slot is overwritten */
    uint8_t *old, *new;  /* slot_bytes each, aligned */
    uint8_t *verdicts;   /* a chunk: enum over_verdict; the filler may set OVER_ZERO */
    uint32_t next;       /* chunks before it are put (then: written), or need it not */
    uint32_t unanswered; /* puts */
    uint64_t until_ns;   /* writing: not later */
    struct over_stats written;
    struct over_slot *link; /* in a list of the writer's */
};

struct over {
    struct remote_writer *writer;
    struct origin *origin;
    struct progress *progress;
    uint64_t chunk_bytes, slot_bytes;
    bool preserve; /* put old content before it is overwritten */
    bool ask_known;
    uint64_t known_from, known_to; /* chunks whose presence `known` tells */
    uint8_t *known;
    struct over_slot *slots;
    unsigned slot_count;
    struct over_writer *disk;
    struct over_stats stats;
    int code; /* the first failure */
    struct err err;
};

/* Owns: borrows writer, origin and progress until over_stop().
 * preserve: to the writer's stream, which must have been made. */
int over_init(struct over *o, struct remote_writer *writer, struct origin *origin,
              struct progress *progress, bool preserve, struct err *reterr) SNAP_WUR;
/* From here on nothing is written; before the writer or the connection is closed. Takes zeros. */
void over_stop(struct over *o);
/* Stopped, and the connection is closed: no slot's memory is in use. Takes zeros. */
void over_done(struct over *o);

/* A free slot for the bytes from offset_bytes (a chunk's start) on, its lengths set (as much as
 * a slot takes, at most len_bytes), its verdicts cleared; waits for one.
 * Errors: what ended the pipeline. */
int over_take(struct over *o, uint64_t offset_bytes, uint64_t len_bytes, struct over_slot **ret,
              struct err *reterr) SNAP_WUR;
/* Both halves are filled in (any time after over_take(), also from a callback). */
void over_filled(struct over_slot *slot);
/* It could not be filled: the pipeline ends with that. May be called from a callback. */
void over_fail(struct over *o, int code, const struct err *why);
/* Wait until all slots are free, then make the origin durable. */
int over_finish(struct over *o, struct err *reterr) SNAP_WUR;

/* Sort chunks of a filled slot: OVER_SAME, OVER_WRITE or, where it was set before and
 * something is to be overwritten, OVER_ZERO. Returns how many differ. */
uint32_t over_compare(struct over_slot *slot, uint64_t chunk_bytes);
/* Size of a slot and how many for chunks of this size. */
void over_dimension(uint64_t chunk_bytes, uint64_t *ret_slot_bytes, unsigned *ret_slots);

#endif
