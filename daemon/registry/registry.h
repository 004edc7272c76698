/* SPDX-License-Identifier: Apache-2.0 */
/* The registry: a SQLite catalogue of what exists and where. It can always be
 * made anew from the volume records; where the two disagree the records win.
 *
 * Store first, then registry: callers change a record durably and then tell the
 * registry. WAL, schema version in user_version, migrations in one table.
 * Thread: blocking; used by the control thread only.
 */
#ifndef SNAP_REGISTRY_REGISTRY_H
#define SNAP_REGISTRY_REGISTRY_H

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/uuid.h"

#include <stdbool.h>
#include <stdint.h>

struct registry;

/* In place of a file's path: one that ends with the process. */
#define REGISTRY_IN_MEMORY ":memory:"

/* Open or create, migrate to the present schema, quick integrity check. The file is locked against
 * other programs until it is closed.
 * Errors: SNAP_ECORRUPT (remedy in the text: --rebuild-registry), SNAP_ENOTSUP (a newer schema),
 *         SNAP_ENOSPC, SNAP_EBUSY (another program has it open). */
int registry_open(const char *path, struct registry **ret, struct err *reterr) SNAP_WUR;
void registry_close(struct registry *r); /* takes NULL */

struct registry_volume {
    struct uuid id;
    char name[LIMIT_NAME_BYTES + 1];
    int kind;
    uint64_t size_bytes;
    int64_t created_s;
    char place[LIMIT_PATH_BYTES]; /* the volume's folder, relative to the state directory */
};
enum registry_kind { REGISTRY_SNAPSHOT = 0, REGISTRY_CLONE = 1, REGISTRY_UNDO = 2 };
/* Owns: the texts are borrowed; those that the registry gives hold until fn returns. */
struct registry_snapshot {
    struct uuid id;
    struct uuid volume;
    const char *name; /* of one volume's once only, hidden and undo ones apart */
    uint32_t seq;
    int64_t created_s;
    bool hidden;
    int kind;
    uint32_t parent_seq; /* of a clone; 0: the volume itself */
    const char *cow_path;
};

/* Everything of a volume in one transaction: the row and all its snapshots are replaced.
 * Errors: SNAP_EEXIST (another volume of that name). */
int registry_put_volume(struct registry *r, const struct registry_volume *v,
                        const struct registry_snapshot *snapshots, uint32_t count,
                        struct err *reterr) SNAP_WUR;
/* What changed of a volume that was put before, in one transaction: its row, snapshots that are
 * new or different, uuids of those that are gone. A volume of which the registry could not be
 * told something lags behind from then on, until it is put whole.
 * Errors: SNAP_ESTALE (it lags behind), SNAP_EEXIST. */
int registry_update_volume(struct registry *r, const struct registry_volume *v,
                           const struct registry_snapshot *put, uint32_t put_count,
                           const struct uuid *gone, uint32_t gone_count,
                           struct err *reterr) SNAP_WUR;
/* A row that cannot be deleted, on a full disk, is not found any more, and goes before the next
 * volume is put. */
int registry_delete_volume(struct registry *r, const struct uuid *id, struct err *reterr) SNAP_WUR;
int registry_find_volume(struct registry *r, const char *name, struct registry_volume *ret,
                         struct err *reterr) SNAP_WUR;
int registry_get_volume(struct registry *r, const struct uuid *id, struct registry_volume *ret,
                        struct err *reterr) SNAP_WUR;
/* Each row in name order; a non-zero return of fn stops and is returned. */
int registry_each_volume(struct registry *r, int (*fn)(void *user, const struct registry_volume *v),
                         void *user, struct err *reterr) SNAP_WUR;
int registry_each_snapshot(struct registry *r, const struct uuid *volume,
                           int (*fn)(void *user, const struct registry_snapshot *s), void *user,
                           struct err *reterr) SNAP_WUR;

/* Idempotency keys with their outcome (0 or a negative SNAP_E…), durable; kept for a day. */
int registry_key_put(struct registry *r, const struct uuid *key, int outcome,
                     struct err *reterr) SNAP_WUR;
/* All of one to another that is empty, with their age. */
int registry_copy_keys(struct registry *from, struct registry *to, struct err *reterr) SNAP_WUR;
bool registry_key_get(struct registry *r, const struct uuid *key, int *ret_outcome);

/* Clients seen: identity, last address, last time. For listings only. */
int registry_client_seen(struct registry *r, const char *identity, const char *address,
                         struct err *reterr) SNAP_WUR;

#endif
