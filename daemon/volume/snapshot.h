/* SPDX-License-Identifier: Apache-2.0 */
/* A node of a volume's tree: a snapshot of the chain, or a clone.
 *
 * Its device and the store in it:
 *
 *              snapshot_open()           its table is read
 *   CLOSED ──────────────────> OPENING ───────────────────> OPEN
 *    ^  ^                       │   │                         │
 *    │  └──(cannot be opened)───┘   └─(closed meanwhile)──┐   │ snapshot_close()
 *    │                                                    v   v
 *    └───────────(store closed, last reader gone)──────  CLOSING
 *
 *   phase     dev  store  others
 *   CLOSED     -     -    it is damaged, fault_text says why; or, reopening: wait for the next try
 *   OPENING   yes    -    wait
 *   OPEN      yes   yes   use it; whether it is sound, the store says (cow_store_state())
 *   CLOSING   yes    ?    wait: nothing new begins on it
 *
 * `reopening` lasts for a whole round that the daemon makes on its own account: from CLOSING (its
 * store was poisoned) or CLOSED (there was no memory) over all tries to OPEN, or CLOSED for good.
 * A node that is being made has its device while it is CLOSED, until snapshot_create.c has the
 * store in it.
 *
 * What else is true of a node (it is checked, deleted, hidden, lost …) does not depend on the
 * phase. What all this looks like from outside, with what it reads through, is enum snapshot_state.
 * Thread: the shard's. */
#ifndef SNAP_VOLUME_SNAPSHOT_H
#define SNAP_VOLUME_SNAPSHOT_H

#include "common/base/err.h"
#include "common/base/uuid.h"
#include "common/cow/cow_map.h"
#include "common/cow/cow_store.h"
#include "daemon/shard/shard.h"
#include "daemon/volume/loss.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

struct volume;
struct snapshot;

typedef void volume_done_fn(void *user, int code, const struct err *err);

enum snapshot_phase { SNAPSHOT_CLOSED, SNAPSHOT_OPENING, SNAPSHOT_OPEN, SNAPSHOT_CLOSING };

enum snapshot_state {
    SNAPSHOT_OK,
    SNAPSHOT_INVALID,
    SNAPSHOT_MERGING,
    SNAPSHOT_DAMAGED,
    SNAPSHOT_POISONED,
    SNAPSHOT_DELETING,
    SNAPSHOT_UNVERIFIED,
};

LIST_HEAD(snapshot_set, snapshot);

struct snapshot {
    struct volume *volume;
    struct uuid id;
    uint32_t seq;
    bool clone;
    struct cow_map *map;       /* the volume's; a clone's own */
    struct range_lock *ranges; /* of a clone, which is written in place; else NULL */

    /* -- its device, snapshot_open.c -- */
    enum snapshot_phase phase;
    bool reopening; /* it is brought back, and holds the volume meanwhile */
    unsigned reopen_tries;
    unsigned readers; /* reads in flight on dev, and whoever else keeps it from being closed */
    struct blk_dev *dev;
    struct cow_store *store;
    struct loop_timer timer;                /* between two tries to open */
    volume_done_fn *open_done, *close_done; /* NULL: nobody asked, or it is over */
    void *open_user, *close_user;
    bool close_forget; /* its exceptions leave the map */

    /* -- who works on it -- */
    bool busy;                        /* it is checked, or gets new checksums: puts wait */
    bool leaving;                     /* it is being deleted, or is hidden: puts are stale */
    struct snapshot_delete *deletion; /* until it is answered, see snapshot_delete.c */
    bool merge_view;                  /* the merge under way was begun in view mode */
    bool job_waits;                   /* hidden: its hand-down cannot go on … */
    char *job_text;                   /* … why; may be NULL */

    /* -- its stores' calls at the end of a turn, and when none came for a while -- */
    struct shard_kick kick;
    uint64_t kicks, kicks_seen;
    struct loop_timer idle_timer; /* to prepare its device while nobody asks for anything */
    bool idle_ready, idle_set;

    /* -- its place among the nodes: see volume_node_add(), tree.h -- */
    TAILQ_ENTRY(snapshot) link; /* oldest first */
    LIST_ENTRY(snapshot) id_link, seq_link;
    struct snapshot *parent;         /* of a clone: what it reads through; NULL: the origin */
    struct snapshot_set clones;      /* that read through it directly */
    LIST_ENTRY(snapshot) clone_link; /* of a clone: among those of its parent */
    unsigned clone_count;
    bool hidden; /* as the record says */
    TAILQ_ENTRY(snapshot) hidden_link;

    /* -- what is wrong with it -- */
    bool lost;   /* as the record says: invalid, whatever its device says */
    bool faulty; /* the last verification has found faults in it */
    bool
        unsound; /* on v->unsound: its own state is another than SNAPSHOT_OK, see snapshot_note() */
    LIST_ENTRY(snapshot) unsound_link;
    int fault_code; /* of the last opening */
    char fault_text[ERR_TEXT_BYTES];

    /* -- of a clone, which is written in place -- */
    bool unflushed;   /* written since its last flush */
    struct loss loss; /* by flushes that failed */

    /* -- its checksums, sums.c -- */
    char *sums_text;     /* why there are none; NULL: there are, or dev is NULL */
    bool sums_create;    /* the next opening makes new ones */
    bool sums_unflushed; /* made anew, not durable yet */

    /* -- what it takes -- */
    int64_t space_bytes;    /* what of it is counted as its volume's owner's */
    uint8_t warned_percent; /* of its limit: the warning given last */
};
TAILQ_HEAD(snapshot_list, snapshot);

/* -- making and freeing, snapshot.c -- */
/* Of a node that v->record lists, all that follows from it is set: a clone gets its map and its
 * locks; its parent is found by tree_index() later. NULL: no memory. */
struct snapshot *snapshot_new(struct volume *v, const struct uuid *id, uint32_t seq);
struct snapshot *snapshot_new_clone(struct volume *v, const struct uuid *id, uint32_t seq);
void snapshot_free(struct snapshot *s);
struct record_snapshot *snapshot_record(const struct snapshot *s); /* NULL: not committed yet */
/* Its store is kicked at the end of the turn. */
void snapshot_kick(struct snapshot *s);
/* Count anew what it takes of its owner's space; its state may be another, too. */
void snapshot_count_space(struct snapshot *s);

/* -- states, snapshot_state.c -- */
/* The state as seen from outside, with what it reads through; text may be NULL. */
enum snapshot_state snapshot_state(const struct snapshot *s, char *text, size_t text_bytes);
/* The same, of the node alone: INVALID, DAMAGED, POISONED or OK. */
enum snapshot_state snapshot_own_state(const struct snapshot *s);
/* 0, or why its content cannot be read. */
int snapshot_check_readable(const struct snapshot *s, struct err *reterr) SNAP_WUR;
/* 0, or why nothing can be put into it: the same, but that it may be unverified. */
int snapshot_check_sound(const struct snapshot *s, struct err *reterr) SNAP_WUR;
/* Invalid for good, durably. */
bool snapshot_is_invalid(const struct snapshot *s);
/* The record says so. */
void snapshot_set_lost(struct snapshot *s);
/* Something of it has changed: put it on v->unsound, or take it off. */
void snapshot_note(struct snapshot *s);

/* -- devices, snapshot_open.c -- */
static inline bool snapshot_is_open(const struct snapshot *s)
{
    return s->phase == SNAPSHOT_OPEN;
}
/* It is not the time to ask for its device: that is about to be another, or is taken away. */
static inline bool snapshot_is_moving(const struct snapshot *s)
{
    return s->reopening || s->phase == SNAPSHOT_OPENING || s->phase == SNAPSHOT_CLOSING;
}
/* Open device and store of a CLOSED node that the record lists. */
void snapshot_open(struct snapshot *s, volume_done_fn *done, void *user);
/* The store of one that is being made is open, or not (NULL). */
void snapshot_store_opened(struct snapshot *s, struct cow_store *store);
/* Close store and device and drop its exceptions from the map if asked. Waits for readers, and for
 * an opening under way. */
void snapshot_close(struct snapshot *s, bool forget, volume_done_fn *done, void *user);
void snapshot_reader_begin(struct snapshot *s);
void snapshot_reader_end(struct snapshot *s);
/* It could not be opened: it is tried again, some times, unless that is of no use. */
void snapshot_open_later(struct snapshot *s);
/* What that takes, of a node that is being made. */
int snapshot_open_timer(struct volume *v, struct snapshot *s) SNAP_WUR;
/* After an operation: a poisoned store is opened again from disk. */
void snapshot_check_poison(struct snapshot *s);
/* A flush of its device that its store did not ask for has failed. */
void snapshot_flush_failed(struct snapshot *s, const struct err *err);
/* The volume is leaving: no further try. */
void snapshot_cancel_reopen(struct snapshot *s);

#endif
