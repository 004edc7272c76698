/* SPDX-License-Identifier: Apache-2.0 */
/* Local disks and images: the origins that commands read, overwrite and roll back,
 * and the files that they write.
 *
 * An origin opened for writing is ours alone: a block device exclusively, a file
 * under a lock, and nothing that is mounted, itself or through a loop device.
 * Holes are told apart from data, so that nothing reads or writes them.
 */
#ifndef SNAP_SNAPCTL_ORIGIN_H
#define SNAP_SNAPCTL_ORIGIN_H

#include "common/base/err.h"
#include "common/base/limits.h"

#include <stdbool.h>
#include <stdint.h>

struct origin {
    int fd;
    char path[LIMIT_PATH_BYTES];
    uint64_t size_bytes;
    bool is_block;
    bool writable;
};

#define ORIGIN_INIT ((struct origin){.fd = -1})

/* Errors: SNAP_ENOENT, SNAP_EPERM, SNAP_EINVAL (a folder …), SNAP_EBUSY (mounted, or in use). */
int origin_open(const char *path, bool writable, struct origin *ret, struct err *reterr) SNAP_WUR;
void origin_close(struct origin *o); /* takes one that is ORIGIN_INIT */

/* Lock a file that is open for writing. Errors: SNAP_EBUSY (another program has it). */
int origin_lock_file(int fd, const char *path, struct err *reterr) SNAP_WUR;

/* Whole or an error; a read past the end gives zeros there. */
int origin_read(const struct origin *o, uint64_t offset_bytes, void *buf, uint64_t len_bytes,
                struct err *reterr) SNAP_WUR;
/* What lies past the end is dropped (a last chunk's padding). */
int origin_write(const struct origin *o, uint64_t offset_bytes, const void *buf, uint64_t len_bytes,
                 struct err *reterr) SNAP_WUR;
/* Make a range read as zeros, as a hole where that can be. */
int origin_zero(const struct origin *o, uint64_t offset_bytes, uint64_t len_bytes,
                struct err *reterr) SNAP_WUR;
int origin_sync(const struct origin *o, struct err *reterr) SNAP_WUR;

/* The extent that offset_bytes is in: its end, and whether it is a hole. Block devices and
 * file systems that cannot tell are all data. */
uint64_t origin_extent_end(const struct origin *o, uint64_t offset_bytes, bool *ret_hole);

/* Up to 32 bytes that stay the same for this disk: a file system's or partition's identity is
 * content and changes, so it is where the disk is. Returns how many. */
enum { ORIGIN_FINGERPRINT_BYTES = 32 };
uint32_t origin_fingerprint(const struct origin *o, uint8_t ret[ORIGIN_FINGERPRINT_BYTES]);

/* -- where an export goes: a new file (sparse), a block device, or a pipe ------------- */

struct sink {
    int fd;
    bool pipe; /* in order, holes are written as zeros */
    bool is_block;
    char path[LIMIT_PATH_BYTES];
    char partial[LIMIT_PATH_BYTES]; /* a new file under its working name */
    uint64_t size_bytes, at_bytes;
};

#define SINK_INIT ((struct sink){.fd = -1})

/* path "-" or NULL: standard output (refused when a terminal). A new file is written as
 * PATH.partial, under a lock, and renamed when it is whole; what a run that was killed left
 * there is written over. Errors: SNAP_EEXIST (the file exists), SNAP_EBUSY (another program
 * writes PATH.partial). */
int sink_open(const char *path, uint64_t size_bytes, struct sink *ret, struct err *reterr) SNAP_WUR;
/* SNAP_EINVAL when the sink is the block device of this name, which is read from. */
int sink_check_apart(const struct sink *s, const char *path, struct err *reterr) SNAP_WUR;
/* Offsets ascend; gaps are holes. Zero blocks of data become holes in a file. */
int sink_write(struct sink *s, uint64_t offset_bytes, const void *buf, uint64_t len_bytes,
               struct err *reterr) SNAP_WUR;
/* Bring it to its size, make it durable, give a new file its name.
 * Errors: SNAP_EEXIST (somebody else made a file of that name meanwhile; it stays). */
int sink_finish(struct sink *s, struct err *reterr) SNAP_WUR;
void sink_close(struct sink *s); /* without finish: the partial file is removed */

#endif
