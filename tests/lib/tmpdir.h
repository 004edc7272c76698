/* SPDX-License-Identifier: Apache-2.0 */
/* What a test borrows from the machine: a folder that goes away at the end, and a
 * free port on loopback. A machine that cannot give them aborts the test. */
#ifndef SNAP_TESTS_LIB_TMPDIR_H
#define SNAP_TESTS_LIB_TMPDIR_H

#include <stddef.h>
#include <stdint.h>

enum { TMPDIR_PATH_BYTES = 256, TMPDIR_FILE_BYTES = 512 };

struct tmpdir {
    char path[TMPDIR_PATH_BYTES];
};

/* A new empty folder under $TMPDIR, or /tmp. */
void tmpdir_make(struct tmpdir *dir);
/* "PATH/name" in buf of TMPDIR_FILE_BYTES. Returns buf. */
char *tmpdir_file(const struct tmpdir *dir, const char *name, char *buf);
/* Removes it with all it holds; stays within its file system, follows no links. Nothing
 * happens to one that was never made or is removed already. */
void tmpdir_remove(struct tmpdir *dir);

/* A TCP port on 127.0.0.1 that nobody listens on now; somebody else may take it. */
uint16_t port_find_free(void);

#endif
