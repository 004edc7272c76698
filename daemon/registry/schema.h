/* SPDX-License-Identifier: Apache-2.0 */
/* The registry's schema: one migration a version, applied in order, each in a
 * transaction of its own that also moves user_version on. A released migration
 * is never edited; a change of schema is a new one at the end. */
#ifndef SNAP_REGISTRY_SCHEMA_H
#define SNAP_REGISTRY_SCHEMA_H

static const char *const schema_migrations[] = {
    /* 1 */
    "CREATE TABLE volumes ("
    "  id BLOB PRIMARY KEY CHECK (length(id) = 16),"
    "  name TEXT NOT NULL UNIQUE,"
    "  kind INTEGER NOT NULL,"
    "  size_bytes INTEGER NOT NULL,"
    "  created_s INTEGER NOT NULL,"
    "  place TEXT NOT NULL"
    ") WITHOUT ROWID;"
    "CREATE TABLE snapshots ("
    "  id BLOB PRIMARY KEY CHECK (length(id) = 16),"
    "  volume BLOB NOT NULL REFERENCES volumes(id) ON DELETE CASCADE,"
    "  name TEXT NOT NULL,"
    "  seq INTEGER NOT NULL,"
    "  created_s INTEGER NOT NULL,"
    "  hidden INTEGER NOT NULL,"
    "  cow_path TEXT NOT NULL,"
    "  UNIQUE (volume, seq)"
    ") WITHOUT ROWID;"
    "CREATE UNIQUE INDEX snapshots_by_name ON snapshots(volume, name) WHERE hidden = 0;"
    "CREATE TABLE keys ("
    "  key BLOB PRIMARY KEY CHECK (length(key) = 16),"
    "  outcome INTEGER NOT NULL,"
    "  made_s INTEGER NOT NULL"
    ") WITHOUT ROWID;"
    "CREATE TABLE clients ("
    "  identity TEXT PRIMARY KEY,"
    "  address TEXT NOT NULL,"
    "  seen_s INTEGER NOT NULL"
    ") WITHOUT ROWID;",
    /* 2: clients choose the uuids, so a snapshot's tells it apart within its volume only */
    "CREATE TABLE snapshots_of ("
    "  id BLOB NOT NULL CHECK (length(id) = 16),"
    "  volume BLOB NOT NULL REFERENCES volumes(id) ON DELETE CASCADE,"
    "  name TEXT NOT NULL,"
    "  seq INTEGER NOT NULL,"
    "  created_s INTEGER NOT NULL,"
    "  hidden INTEGER NOT NULL,"
    "  cow_path TEXT NOT NULL,"
    "  PRIMARY KEY (volume, id),"
    "  UNIQUE (volume, seq)"
    ") WITHOUT ROWID;"
    "INSERT INTO snapshots_of SELECT id, volume, name, seq, created_s, hidden, cow_path"
    "  FROM snapshots;"
    "DROP TABLE snapshots;"
    "ALTER TABLE snapshots_of RENAME TO snapshots;"
    "CREATE UNIQUE INDEX snapshots_by_name ON snapshots(volume, name) WHERE hidden = 0;",
    /* 3: kind: 0 a snapshot, 1 a clone, 2 what a rollback may be undone by; parent: a clone's */
    "ALTER TABLE snapshots ADD COLUMN kind INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE snapshots ADD COLUMN parent_seq INTEGER NOT NULL DEFAULT 0;"
    "DROP INDEX snapshots_by_name;"
    "CREATE UNIQUE INDEX snapshots_by_name ON snapshots(volume, name)"
    "  WHERE hidden = 0 AND kind <> 2;",
};

enum { SCHEMA_VERSION = sizeof schema_migrations / sizeof schema_migrations[0] };

#endif
