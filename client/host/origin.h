/* SPDX-License-Identifier: Apache-2.0 */
/* Local disks and images: the origins that commands read, overwrite and roll back.
 *
 * An origin opened for writing is ours alone: a block device exclusively, a file
 * under a lock, and nothing that is mounted, itself or through a loop device.
 * Holes are told apart from data, so that nothing reads or writes them.
 */
#ifndef SNAP_HOST_ORIGIN_H
#define SNAP_HOST_ORIGIN_H

#include "common/base/err.h"
#include "common/base/limits.h"

#include <stdbool.h>
#include <stdint.h>

struct origin {
    int fd;
    int direct_fd;  /* writable: the same with O_DIRECT; -1: none */
    int once_flags; /* of preadv2(), for origin_read_once() */
    char path[LIMIT_PATH_BYTES];
    uint64_t size_bytes;
    bool is_block;
    bool writable;
};

#define ORIGIN_INIT ((struct origin){.fd = -1, .direct_fd = -1})

/* Errors: SNAP_ENOENT, SNAP_EPERM, SNAP_EINVAL (a folder …), SNAP_EBUSY (mounted, or in use). */
int origin_open(const char *path, bool writable, struct origin *ret, struct err *reterr) SNAP_WUR;
void origin_close(struct origin *o); /* takes one that is ORIGIN_INIT */

/* Lock a file that is open for writing. Errors: SNAP_EBUSY (another program has it). */
int origin_lock_file(int fd, const char *path, struct err *reterr) SNAP_WUR;

/* Whole or an error; a read past the end gives zeros there. */
int origin_read(const struct origin *o, uint64_t offset_bytes, void *buf, uint64_t len_bytes,
                struct err *reterr) SNAP_WUR;
/* The same for what is about to be overwritten: memory that did not have it does not keep it, where
 * the kernel can do so (Linux 6.16 for ext4). Pages that a read has left are small ones, and
 * writing over them costs more than writing where there are none. */
int origin_read_once(const struct origin *o, uint64_t offset_bytes, void *buf, uint64_t len_bytes,
                     struct err *reterr) SNAP_WUR;
/* A range is going to be read: the disk may begin with it. A hint. */
void origin_will_need(const struct origin *o, uint64_t offset_bytes, uint64_t len_bytes);
/* What lies past the end is dropped (a last chunk's padding). Large pieces, aligned in memory
 * and on the disk to ORIGIN_ALIGN_BYTES, go past the page cache where they can.
 * Thread: any, also beside others that read and write other ranges. */
enum { ORIGIN_ALIGN_BYTES = 4096 };
int origin_write(const struct origin *o, uint64_t offset_bytes, const void *buf, uint64_t len_bytes,
                 struct err *reterr) SNAP_WUR;
/* Make a range read as zeros, as a hole where that can be. */
int origin_zero(const struct origin *o, uint64_t offset_bytes, uint64_t len_bytes,
                struct err *reterr) SNAP_WUR;
int origin_sync(const struct origin *o, struct err *reterr) SNAP_WUR;
/* What was written in this range is on its way to the disk from now on. A hint. */
void origin_begin_sync(const struct origin *o, uint64_t offset_bytes, uint64_t len_bytes);

/* The extent that offset_bytes is in: its end, and whether it is a hole. Block devices and
 * file systems that cannot tell are all data. */
uint64_t origin_extent_end(const struct origin *o, uint64_t offset_bytes, bool *ret_hole);

/* Up to 32 bytes that stay the same for this disk: a file system's or partition's identity is
 * content and changes, so it is where the disk is. Returns how many. */
enum { ORIGIN_FINGERPRINT_BYTES = 32 };
uint32_t origin_fingerprint(const struct origin *o, uint8_t ret[ORIGIN_FINGERPRINT_BYTES]);

#endif
