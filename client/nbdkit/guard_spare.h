/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for old content, used again: given back by another thread than took it and larger than
 * what malloc() keeps at hand, it would go back to the kernel each time.
 *
 * Thread: the caller sees to it that one at a time is in here. All zeros is an empty one. */
#ifndef SNAP_NBDKIT_GUARD_SPARE_H
#define SNAP_NBDKIT_GUARD_SPARE_H

#include <stdint.h>

enum {
    GUARD_SPARE_CLASSES = 9, /* powers of two from 4 KiB to 1 MiB; no other is kept */
    GUARD_SPARE_BYTES_MAX = 4 * 1024 * 1024, /* kept at most */
};

struct guard_spares {
    void *first[GUARD_SPARE_CLASSES];
    uint64_t bytes;
};

/* Aligned to a page, content undefined; NULL: out of memory. */
void *guard_spare_take(struct guard_spares *s, uint64_t bytes);
/* bytes: as it was taken. Takes NULL. */
void guard_spare_give(struct guard_spares *s, void *memory, uint64_t bytes);
void guard_spare_free_all(struct guard_spares *s);

#endif
