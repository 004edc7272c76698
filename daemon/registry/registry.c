/* SPDX-License-Identifier: Apache-2.0 */
/* The registry on SQLite: prepared once, bound for each call, one transaction a
 * structural change.
 *
 * It must not know what a volume does: rows in, rows out. Only the control
 * thread calls it, so nothing here locks. synchronous = FULL: a change that the
 * registry has told of survives a power cut, though the records would win anyway.
 *
 *   registry.db, -wal   written with write(): a full disk is an error
 *   -shm                is not made: it would be mapped, and where it cannot grow a mapped file
 *                       ends the process with SIGBUS. Locked for itself, SQLite has it in memory
 */
#include "daemon/registry/registry.h"

#include "common/base/clock.h"
#include "daemon/registry/schema.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

enum statement {
    ST_PUT_VOLUME,
    ST_DELETE_VOLUME,
    ST_PUT_SNAPSHOT,
    ST_DELETE_SNAPSHOT,
    ST_DELETE_SNAPSHOTS,
    ST_FIND_VOLUME,
    ST_GET_VOLUME,
    ST_EACH_VOLUME,
    ST_EACH_SNAPSHOT,
    ST_PUT_KEY,
    ST_GET_KEY,
    ST_EACH_KEY,
    ST_EXPIRE_KEYS,
    ST_PUT_CLIENT,
    ST_COUNT
};

#define VOLUME_COLUMNS "id, name, kind, size_bytes, created_s, place"
#define SNAPSHOT_COLUMNS "id, volume, name, seq, created_s, hidden, cow_path, kind, parent_seq"

static const char *const statement_sql[ST_COUNT] = {
    [ST_PUT_VOLUME] = "INSERT INTO volumes (" VOLUME_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6) "
                      "ON CONFLICT (id) DO UPDATE SET name = ?2, kind = ?3, size_bytes = ?4, "
                      "created_s = ?5, place = ?6",
    [ST_DELETE_VOLUME] = "DELETE FROM volumes WHERE id = ?1",
    [ST_PUT_SNAPSHOT] =
        "INSERT INTO snapshots (" SNAPSHOT_COLUMNS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) "
        "ON CONFLICT (volume, id) DO UPDATE SET name = ?3, seq = ?4, created_s = ?5, hidden = ?6, "
        "cow_path = ?7, kind = ?8, parent_seq = ?9",
    [ST_DELETE_SNAPSHOT] = "DELETE FROM snapshots WHERE volume = ?1 AND id = ?2",
    [ST_DELETE_SNAPSHOTS] = "DELETE FROM snapshots WHERE volume = ?1",
    [ST_FIND_VOLUME] = "SELECT " VOLUME_COLUMNS " FROM volumes WHERE name = ?1",
    [ST_GET_VOLUME] = "SELECT " VOLUME_COLUMNS " FROM volumes WHERE id = ?1",
    [ST_EACH_VOLUME] = "SELECT " VOLUME_COLUMNS " FROM volumes ORDER BY name",
    [ST_EACH_SNAPSHOT] =
        "SELECT " SNAPSHOT_COLUMNS " FROM snapshots WHERE volume = ?1 ORDER BY seq",
    [ST_PUT_KEY] = "INSERT OR IGNORE INTO keys (key, outcome, made_s) VALUES (?1, ?2, ?3)",
    [ST_GET_KEY] = "SELECT outcome FROM keys WHERE key = ?1",
    [ST_EACH_KEY] = "SELECT key, outcome, made_s FROM keys",
    [ST_EXPIRE_KEYS] = "DELETE FROM keys WHERE made_s < ?1",
    [ST_PUT_CLIENT] = ("INSERT INTO clients (identity, address, seen_s) VALUES (?1, ?2, ?3) "
                       "ON CONFLICT (identity) DO UPDATE SET address = ?2, seen_s = ?3"),
};

enum { KEY_LIFETIME_S = 24 * 3600, BUSY_TIMEOUT_MS = 5000, LAGGING_MAX = 64 };

struct registry {
    sqlite3 *db;
    sqlite3_stmt *statements[ST_COUNT];
    struct uuid lagging[LAGGING_MAX]; /* volumes that were not told of wholly */
    unsigned lagging_count;           /* more than LAGGING_MAX: any may be one */
    struct uuid gone[LAGGING_MAX];    /* volumes whose row could not be deleted yet */
    unsigned gone_count;
};

/* Why a file could not be made or written; 0: not known. A commit's failure is on record with the
 * file only. */
static int errno_of(struct registry *r)
{
    static const int files[] = {SQLITE_FCNTL_JOURNAL_POINTER, SQLITE_FCNTL_FILE_POINTER};
    int sys_errno = sqlite3_system_errno(r->db);
    bool write_failed = sqlite3_extended_errcode(r->db) == SQLITE_IOERR_WRITE;
    for (size_t i = 0; write_failed && sys_errno == 0 && i < sizeof files / sizeof files[0]; i++) {
        sqlite3_file *f = NULL;
        if (sqlite3_file_control(r->db, "main", files[i], &f) != SQLITE_OK || f == NULL ||
            f->pMethods == NULL ||
            f->pMethods->xFileControl(f, SQLITE_FCNTL_LAST_ERRNO, &sys_errno) != SQLITE_OK)
            sys_errno = 0;
    }
    return sys_errno;
}

/* SQLite knows ENOSPC for a full disk; a quota and a limit on the size of files are the same
 * to us. */
static int fail_system(struct registry *r, int code, const char *what, struct err *reterr)
{
    int sys_errno = errno_of(r);
    if (err_code_of_errno(sys_errno) == SNAP_ENOSPC)
        return err_set_errno(reterr, SNAP_ENOSPC, sys_errno, "registry: %s", what);
    return err_set(reterr, code, "registry: %s: %s", what, sqlite3_errmsg(r->db));
}

/* The code that SQLite's stands for, with its text. */
static int fail(struct registry *r, const char *what, struct err *reterr)
{
    int code = SNAP_EIO;
    switch (sqlite3_errcode(r->db)) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return err_set(reterr, SNAP_ECORRUPT,
                       "registry: %s: %s; make it anew from the store with --rebuild-registry",
                       what, sqlite3_errmsg(r->db));
    case SQLITE_FULL:
        return err_set(reterr, SNAP_ENOSPC, "registry: %s: no space left on the disk; make room",
                       what);
    case SQLITE_NOMEM:
        code = SNAP_ENOMEM;
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return err_set(reterr, SNAP_EBUSY, "registry: %s: another program has it open; end that",
                       what);
    case SQLITE_CONSTRAINT:
        code = SNAP_EEXIST;
        break;
    case SQLITE_CANTOPEN:
        return fail_system(r, SNAP_EPERM, what, reterr);
    case SQLITE_IOERR:
        return fail_system(r, SNAP_EIO, what, reterr);
    case SQLITE_PERM:
    case SQLITE_READONLY:
        code = SNAP_EPERM;
        break;
    default:
        break;
    }
    return err_set(reterr, code, "registry: %s: %s", what, sqlite3_errmsg(r->db));
}

static int exec(struct registry *r, const char *sql, struct err *reterr)
{
    if (sqlite3_exec(r->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return fail(r, "statement", reterr);
    return 0;
}

static int query_int(struct registry *r, const char *sql, int *ret, struct err *reterr)
{
    sqlite3_stmt *st = NULL;
    int rc = 0;
    if (sqlite3_prepare_v2(r->db, sql, -1, &st, NULL) != SQLITE_OK ||
        sqlite3_step(st) != SQLITE_ROW)
        rc = fail(r, sql, reterr);
    else
        *ret = sqlite3_column_int(st, 0);
    (void)sqlite3_finalize(st);
    return rc;
}

static int check_integrity(struct registry *r, struct err *reterr)
{
    sqlite3_stmt *st = NULL;
    int rc = 0;
    if (sqlite3_prepare_v2(r->db, "PRAGMA quick_check(1)", -1, &st, NULL) != SQLITE_OK ||
        sqlite3_step(st) != SQLITE_ROW)
        rc = fail(r, "integrity check", reterr);
    else if (strcmp((const char *)sqlite3_column_text(st, 0), "ok") != 0)
        rc = err_set(reterr, SNAP_ECORRUPT,
                     "registry: %s; make it anew from the store with --rebuild-registry",
                     (const char *)sqlite3_column_text(st, 0));
    (void)sqlite3_finalize(st);
    return rc;
}

static int migrate(struct registry *r, struct err *reterr)
{
    int version = 0;
    int rc = query_int(r, "PRAGMA user_version", &version, reterr);
    if (rc < 0)
        return rc;
    if (version < 0 || version > SCHEMA_VERSION)
        return err_set(reterr, SNAP_ENOTSUP,
                       "registry: schema version %d is newer than this program's %d; use the "
                       "newer program, or --rebuild-registry to make it anew from the store",
                       version, SCHEMA_VERSION);
    for (; version < SCHEMA_VERSION; version++) {
        char *move = sqlite3_mprintf("PRAGMA user_version = %d", version + 1);
        if (!move)
            return err_set(reterr, SNAP_ENOMEM, "registry: migration");
        rc = exec(r, "BEGIN IMMEDIATE", reterr);
        if (rc == 0)
            rc = exec(r, schema_migrations[version], reterr);
        if (rc == 0)
            rc = exec(r, move, reterr);
        if (rc == 0)
            rc = exec(r, "COMMIT", reterr);
        sqlite3_free(move);
        if (rc < 0) {
            (void)sqlite3_exec(r->db, "ROLLBACK", NULL, NULL, NULL);
            err_prefix(reterr, "migration to schema %d", version + 1);
            return rc;
        }
    }
    return 0;
}

static int prepare_all(struct registry *r, struct err *reterr)
{
    for (int i = 0; i < ST_COUNT; i++)
        if (sqlite3_prepare_v3(r->db, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &r->statements[i], NULL) != SQLITE_OK)
            return fail(r, "prepare", reterr);
    return 0;
}

int registry_open(const char *path, struct registry **ret, struct err *reterr)
{
    struct registry *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(reterr, SNAP_ENOMEM, "registry");
    int rc = 0;
    if (sqlite3_open_v2(path, &r->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK)
        rc = r->db ? fail(r, "open", reterr) : err_set(reterr, SNAP_ENOMEM, "registry");
    if (rc == 0)
        (void)sqlite3_busy_timeout(r->db, BUSY_TIMEOUT_MS);
    if (rc == 0) /* before it is read first: see above */
        rc = exec(r, "PRAGMA locking_mode = EXCLUSIVE", reterr);
    if (rc == 0)
        rc = check_integrity(r, reterr);
    if (rc == 0)
        rc = exec(r,
                  "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; "
                  "PRAGMA foreign_keys = ON;",
                  reterr);
    if (rc == 0)
        rc = migrate(r, reterr);
    if (rc == 0)
        rc = prepare_all(r, reterr);
    if (rc < 0) {
        err_prefix(reterr, "%s", path);
        registry_close(r);
        return rc;
    }
    *ret = r;
    return 0;
}

void registry_close(struct registry *r)
{
    if (!r)
        return;
    for (int i = 0; i < ST_COUNT; i++)
        (void)sqlite3_finalize(r->statements[i]);
    (void)sqlite3_close(r->db);
    free(r);
}

/* -- binding and reading rows ------------------------------------------------------ */

static void bind_uuid(sqlite3_stmt *st, int at, const struct uuid *u)
{
    (void)sqlite3_bind_blob(st, at, u->b, UUID_BYTES, SQLITE_STATIC);
}

static void bind_text(sqlite3_stmt *st, int at, const char *text)
{
    (void)sqlite3_bind_text(st, at, text, -1, SQLITE_STATIC);
}

static void column_uuid(sqlite3_stmt *st, int at, struct uuid *ret)
{
    const void *blob = sqlite3_column_blob(st, at);
    *ret = (struct uuid){0};
    if (blob && sqlite3_column_bytes(st, at) == UUID_BYTES)
        memcpy(ret->b, blob, UUID_BYTES);
}

static const char *peek_text(sqlite3_stmt *st, int at)
{
    const char *text = (const char *)sqlite3_column_text(st, at);
    return text ? text : "";
}

static void column_text(sqlite3_stmt *st, int at, char *ret, size_t ret_bytes)
{
    (void)sqlite3_snprintf((int)ret_bytes, ret, "%s", peek_text(st, at));
}

static void column_volume(sqlite3_stmt *st, struct registry_volume *ret)
{
    column_uuid(st, 0, &ret->id);
    column_text(st, 1, ret->name, sizeof ret->name);
    ret->kind = sqlite3_column_int(st, 2);
    ret->size_bytes = (uint64_t)sqlite3_column_int64(st, 3);
    ret->created_s = sqlite3_column_int64(st, 4);
    column_text(st, 5, ret->place, sizeof ret->place);
}

static void column_snapshot(sqlite3_stmt *st, struct registry_snapshot *ret)
{
    column_uuid(st, 0, &ret->id);
    column_uuid(st, 1, &ret->volume);
    ret->name = peek_text(st, 2);
    ret->seq = (uint32_t)sqlite3_column_int64(st, 3);
    ret->created_s = sqlite3_column_int64(st, 4);
    ret->hidden = sqlite3_column_int(st, 5) != 0;
    ret->cow_path = peek_text(st, 6);
    ret->kind = sqlite3_column_int(st, 7);
    ret->parent_seq = (uint32_t)sqlite3_column_int64(st, 8);
}

/* Make a statement ready for its next use. */
static void finish(sqlite3_stmt *st)
{
    (void)sqlite3_reset(st);
    (void)sqlite3_clear_bindings(st);
}

/* Run a bound statement that gives no rows. */
static int run(struct registry *r, sqlite3_stmt *st, const char *what, struct err *reterr)
{
    int rc = sqlite3_step(st) == SQLITE_DONE ? 0 : fail(r, what, reterr);
    finish(st);
    return rc;
}

/* -- volumes that lag behind -------------------------------------------------------- */

/* Where it stands among so many; count: it does not. */
static unsigned place_of(const struct uuid *ids, unsigned count, const struct uuid *id)
{
    unsigned i = 0;
    while (i < count && !uuid_equal(&ids[i], id))
        i++;
    return i;
}

static void take_out(struct uuid *ids, unsigned *count, const struct uuid *id)
{
    unsigned i = place_of(ids, *count, id);
    if (i < *count)
        ids[i] = ids[--*count];
}

static bool lags(const struct registry *r, const struct uuid *id)
{
    return r->lagging_count > LAGGING_MAX ||
           place_of(r->lagging, r->lagging_count, id) < r->lagging_count;
}

static void note_lagging(struct registry *r, const struct uuid *id)
{
    if (lags(r, id))
        return;
    if (r->lagging_count < LAGGING_MAX)
        r->lagging[r->lagging_count] = *id;
    r->lagging_count++;
}

static void forget_lagging(struct registry *r, const struct uuid *id)
{
    if (r->lagging_count <= LAGGING_MAX)
        take_out(r->lagging, &r->lagging_count, id);
}

/* -- volumes that are gone, and whose row is not ----------------------------------------- */

static int delete_row(struct registry *r, const struct uuid *id, struct err *reterr)
{
    bind_uuid(r->statements[ST_DELETE_VOLUME], 1, id);
    return run(r, r->statements[ST_DELETE_VOLUME], "delete volume", reterr);
}

/* What is deleted on a full disk makes room only afterwards, and its name is free at once. */
static void delete_gone(struct registry *r)
{
    while (r->gone_count > 0 && delete_row(r, &r->gone[r->gone_count - 1], NULL) == 0)
        r->gone_count--;
}

static bool is_gone(const struct registry *r, const struct uuid *id)
{
    return place_of(r->gone, r->gone_count, id) < r->gone_count;
}

static void note_gone(struct registry *r, const struct uuid *id)
{
    if (!is_gone(r, id) && r->gone_count < LAGGING_MAX)
        r->gone[r->gone_count++] = *id;
}

/* -- volumes and snapshots ----------------------------------------------------------- */

static int put_volume(struct registry *r, const struct registry_volume *v, struct err *reterr)
{
    sqlite3_stmt *st = r->statements[ST_PUT_VOLUME];
    bind_uuid(st, 1, &v->id);
    bind_text(st, 2, v->name);
    (void)sqlite3_bind_int(st, 3, v->kind);
    (void)sqlite3_bind_int64(st, 4, (sqlite3_int64)v->size_bytes);
    (void)sqlite3_bind_int64(st, 5, v->created_s);
    bind_text(st, 6, v->place);
    return run(r, st, "store volume", reterr);
}

static int put_snapshots(struct registry *r, const struct registry_snapshot *snapshots,
                         uint32_t count, struct err *reterr)
{
    sqlite3_stmt *st = r->statements[ST_PUT_SNAPSHOT];
    int rc = 0;
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        const struct registry_snapshot *s = &snapshots[i];
        bind_uuid(st, 1, &s->id);
        bind_uuid(st, 2, &s->volume);
        bind_text(st, 3, s->name);
        (void)sqlite3_bind_int64(st, 4, s->seq);
        (void)sqlite3_bind_int64(st, 5, s->created_s);
        (void)sqlite3_bind_int(st, 6, s->hidden);
        bind_text(st, 7, s->cow_path);
        (void)sqlite3_bind_int(st, 8, s->kind);
        (void)sqlite3_bind_int64(st, 9, s->parent_seq);
        rc = run(r, st, "store snapshot", reterr);
    }
    return rc;
}

static int delete_snapshots(struct registry *r, const struct uuid *volume, const struct uuid *gone,
                            uint32_t count, struct err *reterr)
{
    sqlite3_stmt *st = r->statements[ST_DELETE_SNAPSHOT];
    int rc = 0;
    for (uint32_t i = 0; i < count && rc == 0; i++) {
        bind_uuid(st, 1, volume);
        bind_uuid(st, 2, &gone[i]);
        rc = run(r, st, "delete snapshot", reterr);
    }
    return rc;
}

/* The end of a transaction: all of it, or nothing. */
static int commit(struct registry *r, int rc, const struct registry_volume *v, struct err *reterr)
{
    if (rc == 0)
        rc = exec(r, "COMMIT", reterr);
    if (rc == 0)
        return 0;
    (void)sqlite3_exec(r->db, "ROLLBACK", NULL, NULL, NULL);
    note_lagging(r, &v->id);
    err_prefix(reterr, "volume '%s'", v->name);
    return rc;
}

int registry_put_volume(struct registry *r, const struct registry_volume *v,
                        const struct registry_snapshot *snapshots, uint32_t count,
                        struct err *reterr)
{
    delete_gone(r);
    int rc = exec(r, "BEGIN IMMEDIATE", reterr);
    if (rc == 0)
        rc = put_volume(r, v, reterr);
    if (rc == 0) {
        bind_uuid(r->statements[ST_DELETE_SNAPSHOTS], 1, &v->id);
        rc = run(r, r->statements[ST_DELETE_SNAPSHOTS], "replace snapshots", reterr);
    }
    if (rc == 0)
        rc = put_snapshots(r, snapshots, count, reterr);
    rc = commit(r, rc, v, reterr);
    if (rc == 0) {
        forget_lagging(r, &v->id);
        take_out(r->gone, &r->gone_count, &v->id); /* made anew, with that uuid */
    }
    return rc;
}

/* Those that are gone first: their names and seqs may be given anew. */
int registry_update_volume(struct registry *r, const struct registry_volume *v,
                           const struct registry_snapshot *put, uint32_t put_count,
                           const struct uuid *gone, uint32_t gone_count, struct err *reterr)
{
    if (lags(r, &v->id))
        return err_set(reterr, SNAP_ESTALE, "registry: volume '%s' lags behind", v->name);
    int rc = exec(r, "BEGIN IMMEDIATE", reterr);
    if (rc == 0)
        rc = put_volume(r, v, reterr);
    if (rc == 0)
        rc = delete_snapshots(r, &v->id, gone, gone_count, reterr);
    if (rc == 0)
        rc = put_snapshots(r, put, put_count, reterr);
    return commit(r, rc, v, reterr);
}

int registry_delete_volume(struct registry *r, const struct uuid *id, struct err *reterr)
{
    int rc = delete_row(r, id, reterr);
    if (rc < 0)
        note_gone(r, id);
    else
        forget_lagging(r, id);
    return rc;
}

/* The one row of a bound look-up: 0, SNAP_ENOENT or another error. */
static int one_volume(struct registry *r, sqlite3_stmt *st, const char *name,
                      struct registry_volume *ret, struct err *reterr)
{
    int step = sqlite3_step(st), rc = 0;
    if (step == SQLITE_ROW)
        column_volume(st, ret);
    else if (step == SQLITE_DONE)
        rc = err_set(reterr, SNAP_ENOENT, "no volume '%s'", name);
    else
        rc = fail(r, "find volume", reterr);
    finish(st);
    if (rc == 0 && is_gone(r, &ret->id))
        rc = err_set(reterr, SNAP_ENOENT, "no volume '%s'", name);
    return rc;
}

int registry_find_volume(struct registry *r, const char *name, struct registry_volume *ret,
                         struct err *reterr)
{
    sqlite3_stmt *st = r->statements[ST_FIND_VOLUME];
    bind_text(st, 1, name);
    return one_volume(r, st, name, ret, reterr);
}

int registry_get_volume(struct registry *r, const struct uuid *id, struct registry_volume *ret,
                        struct err *reterr)
{
    sqlite3_stmt *st = r->statements[ST_GET_VOLUME];
    char text[UUID_TEXT_BYTES];
    bind_uuid(st, 1, id);
    return one_volume(r, st, uuid_format(id, text), ret, reterr);
}

int registry_each_volume(struct registry *r, int (*fn)(void *, const struct registry_volume *),
                         void *user, struct err *reterr)
{
    sqlite3_stmt *st = r->statements[ST_EACH_VOLUME];
    int step = SQLITE_DONE, rc = 0;
    while (rc == 0 && (step = sqlite3_step(st)) == SQLITE_ROW) {
        struct registry_volume v = {0};
        column_volume(st, &v);
        rc = fn(user, &v);
    }
    if (rc == 0 && step != SQLITE_DONE)
        rc = fail(r, "list volumes", reterr);
    finish(st);
    return rc;
}

int registry_each_snapshot(struct registry *r, const struct uuid *volume,
                           int (*fn)(void *, const struct registry_snapshot *), void *user,
                           struct err *reterr)
{
    sqlite3_stmt *st = r->statements[ST_EACH_SNAPSHOT];
    int step = SQLITE_DONE, rc = 0;
    bind_uuid(st, 1, volume);
    while (rc == 0 && (step = sqlite3_step(st)) == SQLITE_ROW) {
        struct registry_snapshot s = {0};
        column_snapshot(st, &s);
        rc = fn(user, &s);
    }
    if (rc == 0 && step != SQLITE_DONE)
        rc = fail(r, "list snapshots", reterr);
    finish(st);
    return rc;
}

/* -- idempotency keys and clients ------------------------------------------------------ */

int registry_key_put(struct registry *r, const struct uuid *key, int outcome, struct err *reterr)
{
    int64_t now = clock_wall_s();
    (void)sqlite3_bind_int64(r->statements[ST_EXPIRE_KEYS], 1, now - KEY_LIFETIME_S);
    int rc = run(r, r->statements[ST_EXPIRE_KEYS], "expire keys", reterr);
    if (rc < 0)
        return rc;
    sqlite3_stmt *st = r->statements[ST_PUT_KEY];
    bind_uuid(st, 1, key);
    (void)sqlite3_bind_int(st, 2, outcome);
    (void)sqlite3_bind_int64(st, 3, now);
    return run(r, st, "store key", reterr);
}

int registry_copy_keys(struct registry *from, struct registry *to, struct err *reterr)
{
    sqlite3_stmt *each = from->statements[ST_EACH_KEY], *put = to->statements[ST_PUT_KEY];
    int step = SQLITE_DONE, rc = 0;
    while (rc == 0 && (step = sqlite3_step(each)) == SQLITE_ROW) {
        struct uuid key;
        column_uuid(each, 0, &key);
        bind_uuid(put, 1, &key);
        (void)sqlite3_bind_int(put, 2, sqlite3_column_int(each, 1));
        (void)sqlite3_bind_int64(put, 3, sqlite3_column_int64(each, 2));
        rc = run(to, put, "copy key", reterr);
    }
    if (rc == 0 && step != SQLITE_DONE)
        rc = fail(from, "list keys", reterr);
    finish(each);
    return rc;
}

bool registry_key_get(struct registry *r, const struct uuid *key, int *ret_outcome)
{
    sqlite3_stmt *st = r->statements[ST_GET_KEY];
    bind_uuid(st, 1, key);
    bool found = sqlite3_step(st) == SQLITE_ROW;
    if (found)
        *ret_outcome = sqlite3_column_int(st, 0);
    finish(st);
    return found;
}

int registry_client_seen(struct registry *r, const char *identity, const char *address,
                         struct err *reterr)
{
    sqlite3_stmt *st = r->statements[ST_PUT_CLIENT];
    bind_text(st, 1, identity);
    bind_text(st, 2, address);
    (void)sqlite3_bind_int64(st, 3, clock_wall_s());
    return run(r, st, "store client", reterr);
}
