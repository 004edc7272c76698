/* SPDX-License-Identifier: Apache-2.0 */
/* What a volume and its snapshots must hold: plain memory, no chain, no chunks.
 *
 * Content is counted in grains of a few bytes. Each write gives its grains a version of its own;
 * a grain knows the versions that it may hold: the oldest is what is surely durable, the newest
 * what was written last. Who reads tells which one it is. */
#ifndef SNAP_TESTS_SIM_MODEL_H
#define SNAP_TESTS_SIM_MODEL_H

#include "common/base/uuid.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    GRAIN_BYTES = 128,
    VOLUME_CHUNKS = 20,
    VOLUME_BYTES = VOLUME_CHUNKS * 4096 - 1536, /* ends inside a chunk */
    GRAINS = VOLUME_BYTES / GRAIN_BYTES,
    GRAIN_VERSIONS = 24,
};

/* A version of zeros has this bit. Versions grow with time. */
#define VERSION_ZERO (UINT32_C(1) << 31)
#define VERSION_FIRST (VERSION_ZERO | 1)

struct grain {
    uint32_t may[GRAIN_VERSIONS]; /* ascending in time */
    uint8_t count;
    uint8_t ended; /* index of the newest whose write has ended well */
    bool writing;  /* the newest is being written */
    uint32_t zero; /* the newest of zeros among those that are too old; 0: none */
};

struct content {
    struct grain grains[GRAINS];
};

static inline uint32_t version_time(uint32_t version)
{
    return version & ~VERSION_ZERO;
}

void content_init(struct content *c);
/* A write begins, ends. False: some grain has no room for one more (flush first). */
bool content_can_write(const struct content *c, uint32_t first, uint32_t count);
void content_write(struct content *c, uint32_t first, uint32_t count, uint32_t version);
void content_write_ended(struct content *c, uint32_t first, uint32_t count, uint32_t version);
/* It has failed: either version may be there. Or it was refused: it never was. */
void content_write_failed(struct content *c, uint32_t first, uint32_t count, bool refused);
/* Whatever is being written now will be refused. */
void content_refuse(struct content *c);
/* Of what was written and not flushed, nobody knows what is there. */
void content_doubt(struct content *c);
/* The newest time of any version in it that is not of zeros. */
uint32_t content_time(const struct content *c);
/* A flush that began at that time has ended: what had been written before is durable. */
void content_flushed(struct content *c, const struct content *at_begin);
/* A copy made at some moment between then (from) and now (c): either may be what it holds. */
void content_snapshot(struct content *ret, const struct content *from, const struct content *now);
/* Every grain's newest, durable; those that failed after it may be there. */
void content_newest(struct content *ret, const struct content *c);

/* Fill a buffer with a version's bytes, of grains first … */
void content_fill(uint8_t *data, uint32_t first, uint32_t count, uint32_t version);
/* The version that a grain's bytes are of; VERSION_ZERO: zeros; UINT32_MAX: of none. */
uint32_t content_decode(const uint8_t *data, uint32_t grain);
/* Is that what a reader who began at_begin may see? settle: from now on it is the only one. NULL or
 * what is wrong. */
const char *content_check(struct content *c, const struct content *at_begin, const uint8_t *data,
                          uint32_t first, uint32_t count, bool settle, uint32_t *ret_grain);

#endif
