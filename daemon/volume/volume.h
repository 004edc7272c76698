/* SPDX-License-Identifier: Apache-2.0 */
/* A volume and the chain of its snapshots. Belongs to one shard; nothing is locked.
 *
 * Operations that wait for disks take a done callback, which may run inside the call.
 * A volume that has operations in flight is not freed: volume_ref(), volume_unref().
 * Thread: the shard's own, unless said otherwise.
 */
#ifndef SNAP_VOLUME_VOLUME_H
#define SNAP_VOLUME_VOLUME_H

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/uuid.h"
#include "common/cow/cow_map.h"
#include "common/cow/cow_store.h"
#include "daemon/registry/registry.h"
#include "daemon/shard/control.h"
#include "daemon/shard/shard.h"
#include "daemon/volume/acl.h"
#include "daemon/volume/lease.h"
#include "daemon/volume/loss.h"
#include "daemon/volume/record.h"
#include "daemon/volume/snapshot.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

/* Where devices and records are: files under the state directory, or a simulated disk. Nothing in
 * daemon/volume opens, removes or writes a file but through this. */
struct volume_storage {
    /* as blk_open() */
    int (*open)(void *user, struct blk_engine *e, const char *path, unsigned flags,
                struct blk_dev **ret, struct err *reterr);
    /* as unlink() and a flush of the folder; a file that is not there is no error */
    int (*remove)(void *user, const char *path, struct err *reterr);
    /* as volume_record_save(). Thread: control. */
    int (*save)(void *user, const char *dir, const struct volume_record *r, struct err *reterr);
    /* what the file system of a folder has free; NULL: nobody knows. Thread: control. */
    int (*free_bytes)(void *user, const char *dir, uint64_t *ret, struct err *reterr);
    /* a new sparse file, durable; or, bound, look that a device is at least so long: SNAP_EINVAL.
     * Thread: control. */
    int (*make)(void *user, const char *path, uint64_t size_bytes, bool bound, struct err *reterr);
    /* make an empty file, or remove it, either if need be; the folder's next flush makes that
     * durable. NULL: nobody wants notes. Thread: the shard's, or control */
    int (*note)(void *user, const char *path, bool there, struct err *reterr);
    void *user;
};
extern const struct volume_storage volume_storage_files;

/* What all volumes of a daemon share; constant while shards run, but for the limits. */
struct volume_env {
    const char *state_dir;
    const struct volume_storage *storage;
    struct control *control;
    struct registry *registry; /* the control thread's */
    const struct clock *clock;
    uint64_t cow_limit_bytes, cow_grow_step_bytes;
    uint32_t chunk_size_sectors;
    uint32_t lease_ttl_ms;
    bool checksums;            /* new COW devices get some, see sums.h */
    uint64_t scrub_interval_s; /* 0: never, see scrub.h */
    uint32_t idle_after_ms;    /* without a call, a store prepares its space; 0: never */
    /* Space that a client's volumes use together, by the label VOLUME_LABEL_OWNER; both may
     * be NULL. space_of gives a counter that lives as long as the daemon. */
    _Atomic int64_t *(*space_of)(void *user, const char *owner);
    const _Atomic uint64_t *space_bytes_max; /* 0: no limit */
    void *space_user;
    /* told of what happened on its own account, to log and count; any shard's thread;
     * snapshot is a name, NULL: it is not about one; err may be NULL */
    void (*notice)(void *user, const struct volume *v, const char *snapshot, const char *what,
                   const struct err *err);
    void *notice_user;
    /* a flush of a hosted volume or clone has failed: what was answered may be lost, and not
     * everybody may have heard when the daemon ends. Before anybody is told; any shard's thread;
     * NULL: nobody minds */
    void (*flush_failed)(void *user);
    void *flush_failed_user;
};

/* Labels that begin so are the daemon's own. */
#define VOLUME_LABEL_RESERVED "snapwire."
/* Who made the volume, for the limits a client. */
#define VOLUME_LABEL_OWNER VOLUME_LABEL_RESERVED "owner"

enum { VOLUME_SET_BUCKETS = 256 };

/* The volumes of one shard. */
struct volume_set {
    struct shard *shard;
    const struct volume_env *env;
    struct acl *acl;
    uint64_t acl_version;
    unsigned count;
    LIST_HEAD(, volume) buckets[VOLUME_SET_BUCKETS];
};

/* One structural change: change() alters a copy of the record, which is made durable on
 * the control thread and then taken over. Changes of a volume are made one at a time. */
struct volume_commit {
    int (*change)(struct volume_commit *c, struct volume_record *next, struct err *reterr);
    void (*done)(struct volume_commit *c, int code, const struct err *err);
    void *user;
    /* the volume's own */
    struct volume *volume;
    struct volume_record next;
    struct control_job job;
    int code;
    struct err err;
    struct err registry_err;
    STAILQ_ENTRY(volume_commit) link;
};

/* Somebody who waits for the chain to stand still or a creation to end. */
struct volume_waiter {
    void (*fn)(struct volume_waiter *w, int code, const struct err *err);
    void *user;
    STAILQ_ENTRY(volume_waiter) link;
};
STAILQ_HEAD(volume_waiters, volume_waiter);

enum volume_event { VOLUME_EVENT_QUIESCE, VOLUME_EVENT_LEASE_LOST };

/* How the holder of a lease is told; set by the service. */
struct volume_holder {
    void (*tell)(struct volume *v, const struct volume_holder *h, enum volume_event event);
    uint64_t session;
    uint64_t epoch; /* of its lease; the volume's own */
    unsigned shard;
};

struct volume_put;
struct snapshot_create;
struct snapshot_delete;
struct clone;
struct hand_down;
struct rollback;
struct verify;
struct origin;
struct range_lock;

struct volume {
    struct volume_set *set;
    struct volume_record record;
    struct cow_map *map; /* the whole chain's exceptions, by seq */
    struct snapshot_list chain;
    struct snapshot_list clones;   /* a clone stands behind the one it reads through */
    struct volume_nodes *nodes;    /* both, by uuid and by seq */
    struct origin *origin;         /* hosted; NULL: remote */
    struct volume_opening *opener; /* until it has been opened */
    uint32_t chunk_sectors;        /* of its snapshots; 0: none yet */
    bool opening;
    bool leaving;  /* deleted or closing: no new operations */
    bool deleting; /* why it leaves: for good */
    bool closing;  /* its devices are being closed */
    bool closed;   /* they are */
    unsigned refs;
    volume_done_fn *idle; /* refs went to 0 while leaving */
    void *idle_user;

    STAILQ_HEAD(, volume_commit) commits; /* the first is under way */
    bool committing;

    struct lease lease;
    unsigned lease_commits; /* leases that may be given any moment: no head is made meanwhile */
    struct volume_holder holder;
    _Atomic int64_t *space_used; /* of all volumes of its owner; NULL: not counted */

    STAILQ_HEAD(, snapshot_create) creates; /* the first is under way */
    struct volume_waiters create_waiters;   /* HEAD_READY and leases that wait for its end */
    unsigned clones_making;                 /* creations are queued meanwhile */
    LIST_HEAD(, clone) clones_asked;        /* those under way, see clone.c */
    struct hand_down *job;
    bool job_picking;
    struct rollback *rollback; /* the one under way */
    struct verify *verify;     /* the one under way, or what the last one found */
    struct loop_timer scrub_timer;
    bool scrub_ready;
    int64_t scrub_due_s; /* wall clock */
    /* the tree's index, see tree.h */
    struct snapshot_set origin_clones; /* that read through the origin directly */
    unsigned origin_clone_count;
    TAILQ_HEAD(, snapshot) hidden; /* nodes that are to be folded */
    bool indexed;
    struct snapshot_set unsound;      /* nodes whose own store cannot be read */
    LIST_HEAD(, volume_claim) claims; /* see claim.h */
    LIST_HEAD(, volume_job) jobs;     /* see job.h */
    struct volume_job_ring *jobs_ended;
    struct loop_timer job_timer; /* between two tries of the job */
    bool job_timer_ready;
    struct err job_wait; /* why there is no job though one is due */

    TAILQ_HEAD(, volume_put) puts_held;
    uint64_t put_bytes_inflight;
    struct shard_kick put_kick;

    LIST_ENTRY(volume) link;
};

/* -- sets -- */
void volume_set_init(struct volume_set *set, struct shard *shard, const struct volume_env *env,
                     struct acl *acl);
/* All volumes are gone. */
void volume_set_done(struct volume_set *set);
struct volume *volume_set_find(struct volume_set *set, const struct uuid *id);
/* Calls fn for each; fn may not remove. */
void volume_set_each(struct volume_set *set, void (*fn)(struct volume *v, void *user), void *user);

/* -- life -- */
/* Build the volume of a record. Nobody finds it before volume_join(), after which nothing can fail
 * for want of memory; one that does not join is let go.
 * Owns: takes the record's content over. */
int volume_make(struct volume_set *set, struct volume_record *take_record, struct volume **ret,
                struct err *reterr) SNAP_WUR;
void volume_join(struct volume *v);
void volume_let_go(struct volume *v);
/* Both at once. */
int volume_new(struct volume_set *set, struct volume_record *take_record, struct volume **ret,
               struct err *reterr) SNAP_WUR;
/* Open the origin and the COW devices, one after another, once in its life; those that cannot be
 * opened are left in the chain as damaged. done gets code 0. */
void volume_open(struct volume *v, volume_done_fn *done, void *user);
struct volume_opening *volume_opening_new(struct volume *v, struct err *reterr);
void volume_opening_free(struct volume_opening *o);
/* Wait for what is in flight, close every device, remove from the set, free. */
void volume_close(struct volume *v, volume_done_fn *done, void *user);
/* What who asks something of a volume that is leaving hears: SNAP_ENOENT, it is being deleted;
 * SNAP_ESHUTDOWN, the daemon stops, and the next one may be asked. */
int volume_refuse_leaving(const struct volume *v, struct err *reterr);
void volume_ref(struct volume *v);
void volume_unref(struct volume *v);
uint64_t volume_now_ns(const struct volume *v);
/* "<state_dir>/volumes/<uuid>" */
int volume_dir_format(const char *state_dir, const struct uuid *id, char *buf, size_t buf_bytes,
                      struct err *reterr) SNAP_WUR;
int volume_cow_path(const struct volume *v, const char *cow_path, char *buf, size_t buf_bytes,
                    struct err *reterr) SNAP_WUR;
/* Open a file of a node that is being made. One that is there already and that nobody has open
 * was left by a crash, since no record lists it, and goes. Errors: SNAP_EBUSY (somebody has). */
int volume_open_new(struct volume *v, const char *path, struct blk_dev **ret,
                    struct err *reterr) SNAP_WUR;
/* s may be NULL; what nobody has given a name is not named. */
void volume_notice(const struct volume *v, const struct snapshot *s, const char *what,
                   const struct err *err);
/* Of one that the record does not have any more. */
void volume_notice_gone(const struct volume *v, const char *snapshot, const char *what,
                        const struct err *err);

/* The identity that made it; "": nobody known. */
const char *volume_owner(const struct volume_record *r);

/* -- records, volume_commit.c, record_registry.c -- */
void volume_commit_start(struct volume *v, struct volume_commit *c);
/* Tell the registry what a record says. Thread: control. */
int volume_registry_put(struct registry *r, const struct volume_record *record,
                        struct err *reterr) SNAP_WUR;
enum registry_kind volume_registry_kind(const struct record_snapshot *s);
/* The same, told in what it differs from the record that the registry was told of last. */
int volume_registry_update(struct registry *r, const struct volume_record *old,
                           const struct volume_record *record, struct err *reterr) SNAP_WUR;

/* -- nodes: the lists and look-ups, nodes.c, snapshot.c -- */
/* Put a node behind the others of the chain or of the clones and into the look-ups, or take it
 * out: nothing else changes v->chain and v->clones. */
void volume_node_add(struct volume *v, struct snapshot *s);
void volume_node_remove(struct volume *v, struct snapshot *s);
/* The look-ups themselves: both lists, one step each. */
struct snapshot *volume_node_by_id(const struct volume *v, const struct uuid *id);
struct snapshot *volume_node_by_seq(const struct volume *v, uint32_t seq);
struct snapshot *volume_snapshot_find(struct volume *v, const struct uuid *id); /* hidden too */
/* One that a client may name: neither hidden nor an undo, nor held for its group.
 * Errors: SNAP_ENOENT. */
int volume_snapshot_visible(struct volume *v, const struct uuid *id, struct snapshot **ret,
                            struct err *reterr) SNAP_WUR;
/* The same, and nobody is deleting it. */
int volume_snapshot_staying(struct volume *v, const struct uuid *id, struct snapshot **ret,
                            struct err *reterr) SNAP_WUR;
struct snapshot *volume_head(struct volume *v); /* newest not hidden; NULL */
struct snapshot *volume_snapshot_by_seq(struct volume *v, uint32_t seq);
/* May its owner's volumes take so many bytes more? Counted once a put has ended, so those in
 * flight may go past the limit, by VOLUME_PUT_BYTES_MAX a volume at most. Errors: SNAP_ENOSPC. */
int volume_check_space(const struct volume *v, uint64_t more, struct err *reterr) SNAP_WUR;

/* -- the lease, see volume_lease.c -- */
/* How long the recorded holder's runs. */
uint64_t volume_lease_ttl_ns(const struct volume *v);
struct volume_lease_request {
    struct lease_request ask;
    uint64_t origin_size_bytes;
    const uint8_t *fingerprint;
    uint32_t fingerprint_bytes;
    bool new_origin;
    bool goes_on; /* it may write its origin without the daemon, see guard.h */
    bool broken;  /* … and has */
    bool late;    /* see struct guard_word */
    uint32_t late_after_seq;
    struct volume_holder holder;
};
void volume_lease_acquire(struct volume *v, const struct volume_lease_request *r,
                          volume_done_fn *done, void *user);
void volume_lease_release(struct volume *v, const char *identity, uint64_t epoch,
                          volume_done_fn *done, void *user);
/* The writer stands still; done when it may go on with the (new) head. */
void volume_head_ready(struct volume *v, const char *identity, uint64_t epoch, uint64_t session,
                       volume_done_fn *done, void *user);
void volume_holder_gone(struct volume *v, uint64_t session);

#endif
