/* SPDX-License-Identifier: Apache-2.0 */
/* The guard: a local origin that is served, and whose old content goes to a daemon before it is
 * overwritten.
 *
 *   nbdkit's threads                     the link's thread
 *   write ─> gate ─> chunks kept? ─yes─> origin
 *                     │ no: claim ─> unread ─> read old ─> stream ─> durable ─> chunks kept
 *                     └────────── wait <──────────────────────────────────────┘
 *
 * What happens to a write that needs more than the daemon gives now:
 *
 *   event                       away=wait        away=fail        away=broken
 *   connection lost             waits            waits, EIO       waits, then broken
 *   lease's time over           waits, all do    waits, EIO       waits, then broken
 *   lease lost                  EIO until it is had again (waits while that is asked)
 *   no room in the snapshot     ENOSPC           ENOSPC           broken
 *   snapshot invalid            goes on: there is nothing to keep it for
 *   new snapshot being made     waits, all do
 *   lease over while the disk   is made; snapshots that were made meanwhile without the guard are
 *   has it                      unverified for good, see guard_late.c
 *   nbdkit ends                 what waits ends with ESHUTDOWN, unwritten
 *
 * Thread: all under `lock` belongs to who holds it; the link's own members to its thread. */
#ifndef SNAP_NBDKIT_GUARD_H
#define SNAP_NBDKIT_GUARD_H

#include "client/host/origin.h"
#include "client/lib/snapwire.h"
#include "client/nbdkit/bell.h"
#include "client/nbdkit/guard_map.h"
#include "client/nbdkit/guard_spare.h"
#include "common/base/limits.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

enum guard_away { GUARD_WAIT, GUARD_FAIL, GUARD_BROKEN };

enum guard_mode {
    GUARD_KEEPING,   /* old content is kept before a first overwrite */
    GUARD_NOTHING,   /* no snapshot, or an invalid one: nothing is to be kept */
    GUARD_IS_BROKEN, /* the mark is there: written without; until a new snapshot */
};

enum guard_lease {
    GUARD_LEASE_HELD,    /* until valid_until_ns */
    GUARD_LEASE_ASKED,   /* lost, or not had yet: being asked for */
    GUARD_LEASE_REFUSED, /* another's, or the daemon will not have us */
};

struct guard;

/* Old content on its way. */
struct guard_copy {
    struct guard *guard;
    TAILQ_ENTRY(guard_copy) link; /* unread or queue, then the link's lists */
    TAILQ_ENTRY(guard_copy) own;  /* the writer's */
    uint64_t first;
    uint32_t count;
    uint64_t chunk_bytes;
    uint64_t generation; /* of the guard when it was claimed */
    uint8_t *data;       /* whole chunks; a spare */
    uint32_t next;       /* chunks before it are put; the link's */
    uint32_t unanswered; /* the link's */
    int code;            /* the first failure; the link's until done */
    int read_errno;      /* the origin could not be read; as code */
    char text[120];
    bool done;       /* under the guard's lock */
    unsigned refs;   /* under the guard's lock: the link's and the writer's */
    uint8_t zeros[]; /* a chunk: it is all zeros */
};
TAILQ_HEAD(guard_copies, guard_copy);

/* A write that waits: on its thread's stack, under the guard's lock. */
struct guard_waiter {
    TAILQ_ENTRY(guard_waiter) link;
    uint64_t first, last; /* as guard_sleep() has them */
    struct bell_wait wait;
};
TAILQ_HEAD(guard_waiters, guard_waiter);

/* A change that the disk has: on its thread's stack, under the guard's lock. */
struct guard_at_disk {
    TAILQ_ENTRY(guard_at_disk) link;
    uint32_t head_seq; /* what it overwrites is kept for this head; or the daemon knows up to it */
};
TAILQ_HEAD(guard_at_disks, guard_at_disk);

/* Changes that ended after their lease, and of which the daemon does not know. */
struct guard_late {
    bool any;
    uint32_t after_seq; /* the smallest of their heads' */
};

struct guard_config {
    struct snapwire_config client; /* its strings are the plugin's */
    char *volume, *snapshot;       /* snapshot NULL: whichever is the newest */
    char *mark;                    /* the broken mark's path */
    enum guard_away away;
    uint32_t away_after_ms;
    uint64_t copy_bytes_max; /* old content in memory */
    bool new_origin, steal;
};

struct guard_stats {
    uint64_t copies, chunks_kept, breaks, heads;
};

struct guard {
    struct guard_config config;
    struct origin origin;

    pthread_mutex_t lock;
    pthread_t thread;
    bool running;

    pthread_mutex_t wake_lock; /* over the next three */
    pthread_cond_t woken;      /* the link's thread, when it has no client */
    struct snapwire_client *wakeable;
    bool wake;

    /* under lock */
    bool stop;
    enum guard_mode mode;
    enum guard_lease lease_state;
    uint64_t valid_until_ns; /* the lease, by guard_lease_now_ns() */
    uint64_t margin_ns;      /* no write is begun so shortly before: it might not end in time */
    uint64_t chunk_bytes;    /* 0: no snapshot */
    uint64_t generation;     /* moves on with the head */
    struct guard_map kept, claimed;
    bool held;         /* a new head is being made: no write begins */
    unsigned inflight; /* writes past the gate */
    struct guard_at_disks at_disk;
    struct guard_late late;
    uint32_t head_seq;   /* of the head, 0: there is none */
    uint64_t copy_bytes; /* in memory */
    bool link_reads;     /* else each write does for itself */
    struct guard_copies unread, queue;
    struct guard_spares spares;
    struct guard_waiters waiters;
    uint64_t away_ns;    /* since when the daemon is of no use; 0: it is */
    uint64_t trouble_ns; /* since when it refuses what it may take later; 0: no */
    bool break_wanted;
    bool break_failed; /* no mark can be made */
    struct guard_stats stats;

    /* the link's */
    struct snapwire_client *client;
    struct snapwire_lease *lease;
    struct snapwire_stream *stream;
    struct snapwire_uuid volume, head;
    struct guard_reader *reader;
    struct guard_copies held_back; /* the stream is full, or stands still */
    struct guard_copies ended;     /* in this turn */
    bool blocked;                  /* … until it says so */
    bool ready_wanted;             /* head_ready when no write is in flight */
    bool lost, breaking;
    bool explained;                /* why there is none again was said since it was lost */
    bool marked;                   /* the broken mark is there */
    struct guard_late late_marked; /* what the late mark says, which is there */
    bool late_unmarked;            /* it could not be made, which was said */
    bool opened;                   /* once: from then on the newest snapshot is the one */
    uint64_t gone_ns;              /* when the last connection ended */
    uint64_t ttl_ms;               /* of the last lease */
    uint64_t retry_at_ns;          /* the lease is asked for again */
};

/* All of them, empty. */
static inline void guard_init_lists(struct guard *g)
{
    TAILQ_INIT(&g->unread);
    TAILQ_INIT(&g->queue);
    TAILQ_INIT(&g->waiters);
    TAILQ_INIT(&g->at_disk);
    TAILQ_INIT(&g->held_back);
    TAILQ_INIT(&g->ended);
}

uint64_t guard_now_ns(void);
uint64_t guard_lease_now_ns(void); /* goes on while the machine sleeps */
/* To the operator. guard_plugin.c. */
void guard_say(const char *fmt, ...) SNAP_PRINTF(1, 2);
/* Does nbdkit end, or the connection of which this thread has a request? Says so in the log when
 * it does: to be asked only by who has no better way on. guard_plugin.c. */
bool guard_is_ending(void);

/* -- guard_write.c: nbdkit's threads. Return 0 or an errno. -- */
enum guard_change { GUARD_WRITE, GUARD_ZERO, GUARD_TRIM };
struct guard_request {
    enum guard_change what;
    uint64_t offset_bytes, len_bytes;
    const void *data; /* GUARD_WRITE */
    bool fua, may_trim, fast;
};
int guard_apply(struct guard *g, const struct guard_request *r) SNAP_WUR;
/* These are kept, or failed: their code says it. Takes the list; without the lock. */
void guard_copies_end(struct guard *g, struct guard_copies *ended);

/* -- guard_late.c: with the lock -- */
/* May a write be begun now? */
bool guard_has_lease(const struct guard *g);
void guard_late_begin(struct guard *g, struct guard_at_disk *a);
void guard_late_end(struct guard *g, struct guard_at_disk *a);
/* Is there something that the daemon is to be told with the next lease? */
bool guard_late_look(const struct guard *g, uint32_t *ret_after_seq);
/* Under the same lease again: no head was made without us. */
void guard_late_forget(struct guard *g);

/* -- guard_wait.c: with the lock -- */
/* Until these chunks are all kept, or one's copy has failed, or something else has changed, or that
 * time; it may also be for nothing. The lock is let go meanwhile.
 * last UINT64_MAX: until any copy has ended; first > last: whatever becomes of copies. */
void guard_sleep(struct guard *g, uint64_t first, uint64_t last, uint64_t until_ns);
/* Something else has changed. Lets the lock go. */
void guard_broadcast(struct guard *g);
/* Copies have ended: those for whom that is all they waited for. The bell is to be rung for them
 * without the lock. */
void guard_take_waiters(struct guard *g, struct bell_ring *ring);

/* -- guard_link.c -- */
/* Connect, take the lease, learn what is kept. The mark must have been looked for. */
int guard_link_open(struct guard *g, struct err *reterr) SNAP_WUR;
int guard_link_start(struct guard *g, struct err *reterr) SNAP_WUR;
/* Give the lease back; everything ends. */
void guard_link_stop(struct guard *g);
/* There is something to do. Any thread that does not hold the lock. */
void guard_link_wake(struct guard *g);

#endif
