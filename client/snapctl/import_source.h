/* SPDX-License-Identifier: Apache-2.0 */
/* What an import reads: a file, a block device, or a pipe on standard input. */
#ifndef SNAP_SNAPCTL_IMPORT_SOURCE_H
#define SNAP_SNAPCTL_IMPORT_SOURCE_H

#include "client/host/origin.h"

#include <sys/stat.h>

struct import_source {
    struct origin origin; /* of a seekable one */
    bool seekable;
    const char *name;    /* for people */
    uint64_t size_bytes; /* of a pipe: what is expected */
    /* a pipe's */
    uint64_t got_bytes; /* of the range that was asked for last */
    bool starved;       /* it had nothing the last time */
};

#define IMPORT_SOURCE_INIT ((struct import_source){.origin = ORIGIN_INIT})

/* path "-": standard input, which is taken as the file that it is, if it is one.
 * Owns:   borrows path.
 * Errors: as origin_open(); SNAP_EINVAL (a terminal). */
int import_source_open(const char *path, struct import_source *ret, struct err *reterr) SNAP_WUR;
void import_source_close(struct import_source *s);
/* Errors: SNAP_EMISMATCH, with what to do about it. */
int import_source_check_size(struct import_source *s, const char *target, uint64_t size_bytes,
                             struct err *reterr) SNAP_WUR;
/* False: a pipe, which has no identity. */
bool import_source_stat(const struct import_source *s, struct stat *ret);
/* The hole that begins at or before at_bytes, if that is in one. */
bool import_source_hole(const struct import_source *s, uint64_t at_bytes, uint64_t *ret_end);
/* Up to len_bytes, whole or nothing: *ret_len is 0 when a pipe has not all of it yet; what it
 * has is in buf: ask again with the same arguments. Offsets of a pipe ascend without gaps.
 * Errors: SNAP_EMISMATCH (it ended early), SNAP_EIO. */
int import_source_read(struct import_source *s, uint64_t at_bytes, uint64_t len_bytes, uint8_t *buf,
                       uint64_t *ret_len, struct err *reterr) SNAP_WUR;
/* How long to wait for other things before it is worth asking again. */
int import_source_wait_ms(const struct import_source *s, int most_ms);
/* All was read. Errors: SNAP_EMISMATCH (a pipe has more). */
int import_source_end(struct import_source *s, struct err *reterr) SNAP_WUR;

#endif
