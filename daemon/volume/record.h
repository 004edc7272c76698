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

enum { FINGERPRINT_BYTES_MAX = 64, RECORD_TOMBSTONES = 64 };

struct record_snapshot {
    struct uuid id;
    char name[LIMIT_NAME_BYTES + 1];
    uint32_t seq; /* grows with age's youth: newest is largest; never reused */
    int64_t created_s;
    uint32_t chunk_size_sectors;
    uint64_t limit_bytes; /* of a COW file; 0 with a bound device */
    bool hidden;          /* deleted; a job hands its exceptions down */
    bool merging;         /* durable before the first entry is cleared */
    bool unverified;
    char cow_path[LIMIT_PATH_BYTES]; /* relative to the volume's folder, or absolute: a bound device
                                      */
};

struct record_label {
    char *key, *value;
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
    uint8_t fingerprint[FINGERPRINT_BYTES_MAX];
    uint32_t fingerprint_bytes;

    uint32_t next_seq;
    struct record_snapshot *snapshots; /* ascending in seq: oldest first */
    uint32_t snapshot_count;
    struct record_label *labels;
    uint32_t label_count;
    struct record_tombstone tombstones[RECORD_TOMBSTONES]; /* ring, newest last */
    uint32_t tombstone_count;
};

void volume_record_init(struct volume_record *r);
void volume_record_done(struct volume_record *r); /* takes a half-built one */
int volume_record_copy(struct volume_record *dst, const struct volume_record *src,
                       struct err *reterr) SNAP_WUR;

/* Text form (JSON with a format number, keys sorted, one snapshot a line).
 * Errors: SNAP_ECORRUPT naming line and key; nothing allocated is left in *ret. */
int volume_record_parse(const char *text, size_t len, struct volume_record *ret,
                        struct err *reterr) SNAP_WUR;
int volume_record_format(const struct volume_record *r, char **ret_text, size_t *ret_len,
                         struct err *reterr) SNAP_WUR;
/* dir: the volume's folder. */
int volume_record_load(const char *dir, struct volume_record *ret, struct err *reterr) SNAP_WUR;
int volume_record_save(const char *dir, const struct volume_record *r, struct err *reterr) SNAP_WUR;

/* Changes; they keep the order and check names for doubles. Errors: SNAP_EEXIST, SNAP_ENOENT,
 * SNAP_ELIMIT. */
int volume_record_add_snapshot(struct volume_record *r, const struct record_snapshot *s,
                               struct err *reterr) SNAP_WUR;
int volume_record_remove_snapshot(struct volume_record *r, const struct uuid *id,
                                  struct err *reterr) SNAP_WUR;
struct record_snapshot *volume_record_find(struct volume_record *r, const struct uuid *id);
struct record_snapshot *volume_record_find_name(struct volume_record *r,
                                                const char *name); /* not hidden */
/* The newest that is not hidden; NULL: none. */
struct record_snapshot *volume_record_head(struct volume_record *r);
void volume_record_bury(struct volume_record *r, const struct uuid *id, const struct uuid *key);
bool volume_record_buried(const struct volume_record *r, const struct uuid *id,
                          const struct uuid *key);

#endif
