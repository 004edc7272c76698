/* SPDX-License-Identifier: Apache-2.0 */
/* One store on one file, for cow_driver: on the file itself, or on a disk in memory
 * that begins as the file and whose plug is pulled after so many writes. */
#ifndef SNAP_TESTS_KERNEL_SESSION_H
#define SNAP_TESTS_KERNEL_SESSION_H

#include "common/base/err.h"
#include "common/cow/cow_store.h"

#include <stdbool.h>
#include <stdint.h>

struct session_disk {
    const char *path;
    struct blk_dev *dev;
};

struct session {
    struct blk_engine *engine;
    struct session_disk cow, origin; /* the origin only where one was opened */
    struct cow_map *map;
    struct cow_store *store;
    uint64_t seed; /* power cut: of the disk in memory */
    uint64_t cut;  /* power cut: after so many writes and flushes; 0: none, on the files */
};

_Noreturn void session_die(const struct err *err, const char *what);

/* The device alone, without a store. All of these end the program when they fail. */
void session_open_dev(struct session *s, const char *path);
void session_open(struct session *s, const char *path, uint64_t limit_sectors);
void session_open_origin(struct session *s, const char *path);
void session_close(struct session *s);
/* Let store and engine work once; the power cut happens in here. False: nothing to do. */
bool session_turn(struct session *s);
/* Let them work until *flag. */
void session_drive(struct session *s, const bool *flag);
/* Pull the plug when it is time: what is on the platters goes to the files, exit. */
void session_cut(struct session *s);

#endif
