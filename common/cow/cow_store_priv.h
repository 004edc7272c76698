/* SPDX-License-Identifier: Apache-2.0 */
/* The exception store from inside: one struct, shared by its files.
 *
 *   cow_store.c   life, one way in for every completion, queued operations
 *   cow_create.c  the two writers of the header: create and invalidate
 *   cow_scan.c    read the table, area by area, many reads in flight
 *   cow_open.c    header, table, leftovers
 *   cow_fault.c   what is wrong with a table, and where
 *   cow_put.c     who is first for a chunk, who waits, who is promoted
 *   cow_write.c   gather payloads into large sequential writes
 *   cow_grow.c    room, and making more of it
 *   cow_idle.c    write the space that is next, while nothing else happens
 *   cow_commit.c  groups, areas, flushes
 *   cow_merge.c   the table from its end backwards
 *   cow_status.c  figures and texts
 *
 * Thread: the device's engine's.
 */
#ifndef SNAP_COW_STORE_PRIV_H
#define SNAP_COW_STORE_PRIV_H

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/cow/cow_store.h"

#include <sys/queue.h>

enum {
    COW_WRITE_BYTES_MAX = 2 * 1024 * 1024, /* one data write; a larger chunk takes several */
    COW_WRITE_SLOTS_MAX = 256,
    COW_WRITES_KEPT = 16,              /* idle write requests kept for reuse */
    COW_GROUP_WRITES = 16,             /* writes in flight that a commit waits for … */
    COW_GROUP_BYTES = 2 * 1024 * 1024, /* … while they have no more than this to go */
    COW_LONE_MAX = 8, /* chunks under way up to which they are one writer's that waits for them */
    COW_AREA_BLOCK = 4096, /* areas are written in blocks of this, or the device's if larger */
    COW_AHEAD_BYTES = 64 * 1024, /* following areas one commit may fill, at least one */
    COW_BLANK_PARTS = 8,         /* of zeros in a step of an idle store */
    COW_GROW_STEP = 1024 * 1024, /* the first; they double */
    COW_GROW_STEP_MAX = 1024 * 1024 * 1024,
};

/* -- requests ---------------------------------------------------------------- */

struct cow_io;
/* What follows a completion. May change the store, never frees it. */
typedef void cow_io_fn(struct cow_store *s, struct cow_io *io, int result);

struct cow_io {
    struct blk_req req;
    struct cow_store *s;
    cow_io_fn *then;
};

/* Fill in and submit; counted in s->io_inflight. FUA is never used: flushes are shared. */
void cow_io_read(struct cow_store *s, struct cow_io *io, uint64_t offset_bytes, void *buf,
                 uint64_t len_bytes, cow_io_fn *then);
void cow_io_write(struct cow_store *s, struct cow_io *io, uint64_t offset_bytes, void *buf,
                  uint64_t len_bytes, cow_io_fn *then);
/* Data; tags: of each chunk the old_chunk that it is of. */
void cow_io_write_data(struct cow_store *s, struct cow_io *io, uint64_t offset_bytes,
                       const struct iovec *iov, unsigned iov_count, const uint64_t *tags,
                       uint64_t len_bytes, cow_io_fn *then);
/* Likewise, content that only makes room. */
void cow_io_fill(struct cow_store *s, struct cow_io *io, uint64_t offset_bytes,
                 const struct iovec *iov, unsigned iov_count, uint64_t len_bytes, cow_io_fn *then);
void cow_io_flush(struct cow_store *s, struct cow_io *io, cow_io_fn *then);
void cow_io_grow(struct cow_store *s, struct cow_io *io, uint64_t size_bytes, cow_io_fn *then);
/* Fill *reterr from a failed request: "WHAT NUMBER of DEVICE: No space left on device". */
int cow_io_err(const struct cow_store *s, const struct cow_io *io, int result, const char *what,
               uint64_t number, struct err *reterr);

/* -- puts ---------------------------------------------------------------------- */

/* One chunk of a put on its way to the table. It stands in exactly one list:
 *
 *   waiters of another slot ──promoted──┐
 *                                       ▼
 *   (new) ──no room yet──> room ──> fifo ──written──> group ──area written──> acking ──> gone
 */
TAILQ_HEAD(cow_slot_list, cow_slot);

struct cow_slot {
    uint64_t old_chunk;
    uint64_t new_chunk;
    struct cow_put_state *owner;
    struct cow_slot *hash_next;
    struct cow_slot_list waiters; /* later comers for the same old_chunk */
    TAILQ_ENTRY(cow_slot) link;
    uint32_t index;          /* in its put */
    uint32_t writes_pending; /* data writes that carry a part of it */
    int16_t code;            /* the first failure of those */
    bool written;
};

/* What a put needs while it is undecided: one allocation. */
struct cow_put_state {
    struct cow_put *put;
    uint64_t serial;
    uint32_t remaining;
    /* where chunk `at_index` begins in the payload: puts are mostly walked in order */
    uint32_t at_index;
    unsigned at_iov;
    size_t at_offset;
    struct err err; /* of the first failure; text unset while code is 0 */
    struct cow_slot slots[];
};

TAILQ_HEAD(cow_put_list, cow_put);

/* A data write being gathered or in flight. */
struct cow_write {
    struct cow_io io;
    TAILQ_ENTRY(cow_write) link;
    uint64_t serial; /* in the order of submission, from 1 */
    uint64_t offset_bytes;
    uint64_t len_bytes;
    unsigned iov_count;
    unsigned slot_count;
    struct iovec iov[BLK_IOV_MAX];
    struct cow_slot *slots[COW_WRITE_SLOTS_MAX];
    uint64_t tags[COW_WRITE_SLOTS_MAX]; /* their old_chunks */
};

/* -- operations: merge, invalidate (one at a time) and drain ------------------- */

struct cow_op {
    TAILQ_ENTRY(cow_op) link;
    void (*start)(struct cow_store *s, struct cow_op *op);
    cow_done_fn *done;
    cow_merge_fn *merge_done; /* instead of done */
    void *user;
    uint64_t serial;    /* drain: puts up to this one */
    uint64_t table_len; /* merge: what the table must hold */
    uint32_t count;
    uint64_t new_max; /* merge end */
    struct cow_merge_run run;
    int code;
    struct err err;
};
TAILQ_HEAD(cow_op_list, cow_op);

/* NULL: out of memory; the caller's callback has not run. */
struct cow_op *cow_op_new(void *user);
/* Queue for its turn; start() may run at once, done never does. */
void cow_op_submit(struct cow_store *s, struct cow_op *op);
/* The active operation is over; its callback runs when the store settles. */
void cow_op_finish(struct cow_store *s, int code, const struct err *err);

/* -- the store ------------------------------------------------------------------- */

enum cow_phase { COW_PHASE_CREATING, COW_PHASE_OPENING, COW_PHASE_OPEN };

enum cow_step {
    COW_STEP_IDLE,
    COW_STEP_AHEAD, /* areas behind the current one are being written */
    COW_STEP_FLUSH, /* covers the group's data, those areas, and the areas of acking */
    COW_STEP_AREA,  /* the current area is being written with the group's entries */
};

struct cow_store {
    struct blk_dev *dev;
    struct cow_map *map;
    uint32_t seq;
    uint32_t align_bytes;
    struct cow_geometry g;
    bool read_only, accept_damaged, chunk_differs;

    enum cow_phase phase;
    enum cow_state state;
    bool closing, settling, merge_failed;
    bool invalidating; /* COW_INVALID, and the disk does not say so yet */
    unsigned io_inflight;
    struct err state_err; /* why poisoned */
    void (*watch)(void *user);
    void *watch_user;
    cow_done_fn *close_done;
    void *close_user;

    /* The table. staged_len - table_len entries are written and wait for their flush.
     * areas[0 … chunk_bytes) is the image of area image_area: it equals the disk but for
     * the entries of an area write in flight. Behind it, once a put came, stand
     * ahead_max images for the areas that a group reaches into. */
    uint64_t table_len, staged_len, image_area;
    uint64_t next_free;
    uint64_t dropped;   /* faulty exceptions left out on request */
    uint64_t leftovers; /* entries past the end entry, at open */
    uint8_t *areas;
    uint32_t ahead_max;
    struct cow_io *ahead_io;

    /* puts */
    struct cow_put_list active, ready;
    uint64_t serial;
    struct cow_slot **buckets;
    size_t bucket_count, flight_count;
    struct cow_slot_list room, fifo, group, acking;
    uint64_t outstanding; /* slots with a new_chunk that are not durable yet */
    struct cow_write *gather;
    TAILQ_HEAD(, cow_write) free_writes, busy_writes; /* busy: the longest in flight first */
    uint64_t write_serial, busy_bytes;
    unsigned free_write_count;

    /* commit */
    enum cow_step step;
    uint64_t wait_serial; /* an idle store commits once this write is done; 0: not waiting */
    uint64_t group_len;
    unsigned ahead_pending;
    uint64_t ahead_areas; /* how many areas the group goes past the current one */
    int ahead_result;
    struct err ahead_err;
    struct cow_io commit_io;

    /* growth */
    struct cow_io grow_io;
    uint64_t limit_bytes, grow_base_bytes, grow_cap_bytes, grow_step_bytes;
    uint64_t grow_from_bytes; /* size when the grow in flight was asked for */
    bool growing, grow_is_least, grow_quiet;

    /* space ahead that is written already */
    struct cow_io idle_io;
    bool idling; /* idle_io is in use */
    struct iovec blank_iov[COW_BLANK_PARTS];
    uint64_t blank_end_bytes;
    bool blanking; /* zeros are on their way: no chunk is given out from where they begin */
    bool blank_filling, blank_refused;

    /* operations */
    struct cow_op_list ops, drains, ops_ready;
    struct cow_op *op;
    struct cow_io op_io;
    uint8_t *op_buf;
    uint64_t prepared_len; /* the table's length at the last merge prepare; 0: none */
    uint32_t prepared_count;

    struct cow_scan *scan;
    struct cow_opening *opening;   /* while phase is OPENING */
    struct cow_creation *creation; /* while phase is CREATING */

    struct {
        uint64_t commits, flushes, area_writes, data_writes, chunks_added, chunks_existed;
        uint64_t chunks_failed, data_bytes, area_bytes;
    } count;
};

/* cow_store.c */
struct cow_store *cow_store_new(struct blk_dev *dev);
void cow_store_free(struct cow_store *s);
/* The end of every way in: submit, commit, run callbacks; may free the store. */
void cow_store_settle(struct cow_store *s);
/* Aligned memory, zeroed. NULL: out of memory. */
void *cow_store_alloc(const struct cow_store *s, size_t len_bytes);
/* Everything pending fails with code; slots whose data write is in flight when it is done. */
void cow_store_fail_all(struct cow_store *s, int code, const struct err *err);
/* Change the state and tell who watches. */
void cow_store_enter(struct cow_store *s, enum cow_state state);
/* What is on disk is unknown from now on. */
void cow_store_poison(struct cow_store *s, const struct err *err);
/* 0, or why nothing more is accepted. */
int cow_store_refusal(const struct cow_store *s, struct err *reterr);

/* cow_create.c, cow_open.c: run the callback; frees what ended. True when it did. */
bool cow_create_settle(struct cow_store *s);
void cow_creation_free(struct cow_creation *c);
bool cow_open_settle(struct cow_store *s);
void cow_opening_free(struct cow_opening *o);

/* cow_put.c */
void cow_slot_fail(struct cow_store *s, struct cow_slot *slot, int code, const struct err *err);
/* Durable and in the map: it and its waiters are told. */
void cow_slot_added(struct cow_store *s, struct cow_slot *slot);
/* Give the slots that wait for room their chunks, as far as there is room. */
void cow_put_retry_room(struct cow_store *s);
void cow_put_drop_list(struct cow_store *s, struct cow_slot_list *list, int code,
                       const struct err *err);
void cow_put_run_ready(struct cow_store *s);

/* cow_write.c */
/* A gathered write to append to can be had (or made). */
bool cow_write_ready(struct cow_store *s);
/* SNAP_ENOMEM: nothing of it is on its way. */
int cow_write_append(struct cow_store *s, struct cow_slot *slot);
void cow_write_submit(struct cow_store *s);
void cow_write_free_all(struct cow_store *s);

/* cow_grow.c */
/* 0: next_free may be taken; 1: growth, or zeros, are under way, wait; negative: SNAP_E…. */
int cow_room_check(struct cow_store *s, struct err *reterr);
/* Grow ahead of need. */
void cow_room_ahead(struct cow_store *s);
uint64_t cow_room_bytes(const struct cow_store *s);
uint64_t cow_limit_floor(const struct cow_store *s, uint64_t limit_bytes);

/* cow_idle.c */
/* Zeros are on their way to where the next chunk, or an area before the one after it, stands. */
bool cow_blank_hits(const struct cow_store *s);
/* Nothing is under way for a moment: see that the next few puts find space that is written. */
void cow_blank_ahead(struct cow_store *s);

/* cow_commit.c */
int cow_commit_buffers(struct cow_store *s);
void cow_commit_advance(struct cow_store *s);
/* The blocks of the current area that hold entries first … last. */
void cow_area_write_range(struct cow_store *s, uint32_t first, uint32_t last, struct cow_io *io,
                          cow_io_fn *then);

/* -- reading the table ----------------------------------------------------------- */

enum cow_scan_next { COW_SCAN_STOP, COW_SCAN_MORE };
enum { COW_SCAN_OFF_END = 1 }; /* the last area that fits is full */

/* One area, in order of area_no. Stop at the end of the table, or with *code set negative. */
typedef enum cow_scan_next cow_scan_fn(struct cow_store *s, void *user, uint64_t area_no,
                                       const uint8_t *area, int *code, struct err *reterr);
typedef void cow_scan_done_fn(struct cow_store *s, void *user, int code, const struct err *err);

/* Areas that begin on the device. */
uint64_t cow_scan_areas_on_device(const struct cow_store *s);
/* Read areas from 0 on until each() stops. done: 0, COW_SCAN_OFF_END or negative; never
 * inside this call unless memory is short, with no request in flight. */
void cow_scan_start(struct cow_store *s, cow_scan_fn *each, cow_scan_done_fn *done, void *user);
void cow_scan_free(struct cow_scan *scan);

#endif
