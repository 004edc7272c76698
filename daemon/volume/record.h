/* SPDX-License-Identifier: Apache-2.0 */
/* The volume record: volumes/<uuid>/record, one small text file, replaced by
 * write, fsync, rename, fsync. It is the commit point of every structural change
 * and holds what the COW format cannot: identities, order of the chain, bound
 * devices, policy, lease epoch. The registry is made from these, never the reverse.
 *
 * Thread: plain data, no globals; file calls block: the control thread's.
 */
#ifndef SNAP_VOLUME_RECORD_H
#define SNAP_VOLUME_RECORD_H

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/uuid.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum volume_kind { VOLUME_REMOTE = 0, VOLUME_HOSTED = 1 };
enum full_policy { FULL_REFUSE = 0, FULL_INVALIDATE = 1 };

enum {
    FINGERPRINT_BYTES_MAX = 64,
    RECORD_TOMBSTONES = 64,
    RECORD_LABEL_BYTES = LIMIT_NAME_BYTES + 16
};

struct record_snapshot {
    struct uuid id;
    char name[LIMIT_NAME_BYTES + 1];
    uint32_t seq; /* grows with age's youth: newest is largest; never reused */
    int64_t created_s;
    uint32_t chunk_size_sectors;
    uint64_t limit_bytes; /* of a COW file; 0 with a bound device */
    bool hidden;          /* deleted; a job hands its exceptions down */
    bool merging;         /* durable before the first entry is cleared */
    bool unverified;      /* its writer went away and may have written without it; see guard.h */
    bool broken;          /* unverified, and no writer can vouch for it any more */
    bool lost;            /* invalid, and its COW device could not be told: it was not open */
    bool clone;          /* writable; reads through parent_seq and not through the next newer one */
    uint32_t parent_seq; /* of a clone; 0: the origin itself */
    bool undo;           /* what a rollback preserves, to be cancelled by; never shown */
    struct uuid group;   /* made with others; nil: alone */
    bool grouped;        /* with all of them; else it never was without that group's record */
    char *cow_path;      /* a name in the volume's folder, or absolute: a bound device; the record's
                          * own memory, and there unless somebody is yet to add it */
};

struct record_label {
    char *key, *value;
};

/* The origin is being returned to a snapshot. From the commit that sets it the volume reads as
 * that snapshot; nothing else writes it until the end. */
struct record_rollback {
    struct uuid job; /* nil: none */
    uint32_t to_seq;
    uint32_t undo_seq; /* the snapshot that keeps what was there before */
    bool merge, drop_newer;
    bool cancelled; /* on the way back to undo_seq */
    int64_t started_s;
};

/* What was deleted, so that the same try again has the same outcome. */
struct record_tombstone {
    struct uuid id;
    struct uuid key;
};

struct volume_record {
    struct uuid id;
    char name[LIMIT_NAME_BYTES + 1];
    uint64_t size_bytes;
    enum volume_kind kind;
    enum full_policy full_policy;
    int64_t created_s;

    uint64_t lease_epoch;                    /* of the last lease ever given */
    char lease_holder[LIMIT_NAME_BYTES + 1]; /* identity; empty: released */
    struct uuid lease_instance;
    uint32_t lease_ttl_ms; /* as the holder was told; 0: an older release gave it */
    struct uuid guard; /* the writer that may go on without the daemon, see guard.h; nil: none */
    uint8_t fingerprint[FINGERPRINT_BYTES_MAX];
    uint32_t fingerprint_bytes;

    char origin_path[LIMIT_PATH_BYTES]; /* hosted: relative to the volume's folder, or a bound
                                         * device's */
    uint32_t chunk_size_sectors;        /* hosted: fixed at creation; else 0 */
    struct record_rollback rollback;
    int64_t scrubbed_s; /* when the last scrub ended; 0: never */

    uint32_t next_seq;
    struct record_snapshot *snapshots; /* ascending in seq: oldest first */
    uint32_t snapshot_count;
    uint32_t snapshot_room;     /* record.c's own: how many the memory holds */
    uint32_t head_bound;        /* record.c's own: no snapshot with a larger seq is the head */
    struct record_index *index; /* record_index.c's own: by uuid and by name; NULL: not built yet */
    struct record_label *labels;
    uint32_t label_count;
    /* the key that a label got when the text was read, because another had its own; an older
     * release let that be; empty: none */
    char label_renamed[RECORD_LABEL_BYTES];
    struct record_tombstone tombstones[RECORD_TOMBSTONES]; /* ring, newest last */
    uint32_t tombstone_count;
};

void volume_record_init(struct volume_record *r);
void volume_record_done(struct volume_record *r); /* takes a half-built one */
int volume_record_copy(struct volume_record *dst, const struct volume_record *src,
                       struct err *reterr) SNAP_WUR;

/* Do its parts fit together? Each clone's parent is there and leads to the chain or the origin,
 * as do a rollback's snapshots; labels differ. Errors: SNAP_ECORRUPT. */
int volume_record_check(const struct volume_record *r, struct err *reterr) SNAP_WUR;

/* Text form (JSON with a format number, one snapshot a line).
 * Errors: SNAP_ECORRUPT naming line and key; nothing allocated is left in *ret. */
int volume_record_parse(const char *text, size_t len, struct volume_record *ret,
                        struct err *reterr) SNAP_WUR;
int volume_record_format(const struct volume_record *r, char **ret_text, size_t *ret_len,
                         struct err *reterr) SNAP_WUR;

/* The file. dir: the volume's folder. Beside `record` a `record.spare` is kept, of the same size:
 * a save needs no space that it does not have already, so it works when the disk is full.
 * After an error of save the old record is still there; only where the folder's fsync is what
 * failed (the text says so) the new one is in place, and a power cut leaves one of the two whole.
 */
#define RECORD_FILE "record"
#define RECORD_SPARE_FILE "record.spare"
int volume_record_load(const char *dir, struct volume_record *ret, struct err *reterr) SNAP_WUR;
int volume_record_save(const char *dir, const struct volume_record *r, struct err *reterr) SNAP_WUR;

/* Changes; they keep the order and check names for doubles, those of hidden and undo snapshots
 * apart. Pointers to snapshots hold until the next one. What changes flags by hand may hide a
 * snapshot and may not show a hidden one or an undo again.
 * Owns: copies s; its cow_path NULL: its own file, "<uuid>.cow".
 * Errors: SNAP_EEXIST, SNAP_ENOENT, SNAP_ELIMIT. */
int volume_record_add_snapshot(struct volume_record *r, const struct record_snapshot *s,
                               struct err *reterr) SNAP_WUR;
int volume_record_remove_snapshot(struct volume_record *r, const struct uuid *id,
                                  struct err *reterr) SNAP_WUR;
/* The same for one that is undone, as if it had never been: clones that have come to read through
 * it read through what it read through. Looks at every snapshot. */
int volume_record_undo_snapshot(struct volume_record *r, const struct uuid *id,
                                struct err *reterr) SNAP_WUR;
/* Look-ups of one step or a binary search, however many snapshots there are. */
struct record_snapshot *volume_record_find(struct volume_record *r, const struct uuid *id);
struct record_snapshot *volume_record_find_seq(const struct volume_record *r, uint32_t seq);
/* How many have a seq up to that one: the place of the next. */
uint32_t volume_record_count_up_to(const struct volume_record *r, uint32_t seq);
/* Neither hidden nor an undo. */
struct record_snapshot *volume_record_find_name(struct volume_record *r, const char *name);
/* The newest that is neither hidden nor an undo nor a clone; NULL: none. */
struct record_snapshot *volume_record_head(struct volume_record *r);
void volume_record_bury(struct volume_record *r, const struct uuid *id, const struct uuid *key);
/* By that key. */
bool volume_record_buried(const struct volume_record *r, const struct uuid *id,
                          const struct uuid *key);
/* By any. */
bool volume_record_is_buried(const struct volume_record *r, const struct uuid *id);

#endif
