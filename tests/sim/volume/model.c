/* SPDX-License-Identifier: Apache-2.0 */
/* The model's content: which versions each grain may hold. Thread: one. */
#include "tests/sim/volume/model.h"

#include "common/base/bytes.h"
#include "common/base/check.h"

#include <string.h>

void content_init(struct content *c)
{
    for (uint32_t i = 0; i < GRAINS; i++)
        c->grains[i] = (struct grain){.may = {VERSION_FIRST}, .count = 1};
}

bool content_can_write(const struct content *c, uint32_t first, uint32_t count)
{
    for (uint32_t i = first; i < first + count; i++)
        if (c->grains[i].count == GRAIN_VERSIONS || c->grains[i].writing)
            return false;
    return true;
}

void content_write(struct content *c, uint32_t first, uint32_t count, uint32_t version)
{
    for (uint32_t i = first; i < first + count; i++) {
        c->grains[i].may[c->grains[i].count++] = version;
        c->grains[i].writing = true;
    }
}

void content_write_ended(struct content *c, uint32_t first, uint32_t count, uint32_t version)
{
    for (uint32_t i = first; i < first + count; i++) {
        struct grain *g = &c->grains[i];
        CHECK(g->writing && g->may[g->count - 1] == version);
        g->ended = (uint8_t)(g->count - 1);
        g->writing = false;
    }
}

void content_write_failed(struct content *c, uint32_t first, uint32_t count, bool refused)
{
    for (uint32_t i = first; i < first + count; i++) {
        c->grains[i].writing = false;
        c->grains[i].count = (uint8_t)(c->grains[i].count - (refused ? 1 : 0));
    }
}

void content_refuse(struct content *c)
{
    for (uint32_t i = 0; i < GRAINS; i++)
        if (c->grains[i].writing)
            content_write_failed(c, i, 1, true);
}

void content_doubt(struct content *c)
{
    for (uint32_t i = 0; i < GRAINS; i++)
        c->grains[i].ended = 0;
}

uint32_t content_time(const struct content *c)
{
    uint32_t time = 0;
    for (uint32_t i = 0; i < GRAINS; i++)
        for (unsigned k = 0; k < c->grains[i].count; k++)
            if ((c->grains[i].may[k] & VERSION_ZERO) == 0 && c->grains[i].may[k] > time)
                time = c->grains[i].may[k];
    return time;
}

/* Forget what is older than a version that it may hold. */
static void grain_drop_older(struct grain *g, uint32_t version)
{
    unsigned n = 0;
    while (n + 1 < g->count && version_time(g->may[n]) < version_time(version))
        if ((g->may[n++] & VERSION_ZERO) != 0)
            g->zero = g->may[n - 1];
    memmove(g->may, g->may + n, (g->count - n) * sizeof g->may[0]);
    g->count = (uint8_t)(g->count - n);
    g->ended = (uint8_t)(g->ended > n ? g->ended - n : 0);
}

void content_flushed(struct content *c, const struct content *at_begin)
{
    for (uint32_t i = 0; i < GRAINS; i++) {
        const struct grain *then = &at_begin->grains[i];
        grain_drop_older(&c->grains[i], then->may[then->ended]);
    }
}

void content_snapshot(struct content *ret, const struct content *from, const struct content *now)
{
    *ret = *now;
    for (uint32_t i = 0; i < GRAINS; i++) {
        const struct grain *then = &from->grains[i];
        grain_drop_older(&ret->grains[i], then->may[then->ended]);
        ret->grains[i].ended = (uint8_t)(ret->grains[i].count - 1);
        ret->grains[i].writing = false;
    }
}

void content_newest(struct content *ret, const struct content *c)
{
    for (uint32_t i = 0; i < GRAINS; i++) {
        struct grain *g = &ret->grains[i];
        *g = c->grains[i];
        grain_drop_older(g, g->may[g->ended]);
        g->writing = false;
    }
}

/* -- bytes ------------------------------------------------------------------------- */

static uint32_t word_of(uint32_t grain, uint32_t version, uint32_t i)
{
    uint32_t x = (grain * 0x9e3779b9U) ^ (version * 0x85ebca6bU) ^ (i * 0xc2b2ae35U);
    x ^= x >> 15;
    return x * 0x2c1b3c6dU;
}

void content_fill(uint8_t *data, uint32_t first, uint32_t count, uint32_t version)
{
    for (uint32_t g = first; g < first + count; g++)
        for (uint32_t i = 0; i < GRAIN_BYTES / 4; i++, data += 4)
            le32_store(data, i == 0 ? version : i == 1 ? g : word_of(g, version, i));
}

uint32_t content_decode(const uint8_t *data, uint32_t grain)
{
    uint32_t version = le32_load(data);
    if (bytes_are_zero(data, GRAIN_BYTES))
        return VERSION_ZERO;
    if (version == 0 || (version & VERSION_ZERO) != 0 || le32_load(data + 4) != grain)
        return UINT32_MAX;
    for (uint32_t i = 2; i < GRAIN_BYTES / 4; i++)
        if (le32_load(data + (size_t)i * 4) != word_of(grain, version, i))
            return UINT32_MAX;
    return version;
}

static bool version_is(uint32_t version, uint32_t seen)
{
    return seen == VERSION_ZERO ? (version & VERSION_ZERO) != 0 : version == seen;
}

/* The version seen, among those that g may hold, not older than `since`; 0: none. */
static uint32_t grain_find(const struct grain *g, uint32_t since, uint32_t seen)
{
    for (unsigned i = g->count; i-- > 0;)
        if (version_time(g->may[i]) >= version_time(since) && version_is(g->may[i], seen))
            return g->may[i];
    return 0;
}

/* It was written since, and read before a flush made it too old. */
static bool grain_was(const struct grain *g, uint32_t since, uint32_t seen)
{
    uint32_t was = seen == VERSION_ZERO ? g->zero : seen;
    return was != 0 && version_time(was) >= version_time(since) &&
           version_time(was) < version_time(g->may[0]);
}

const char *content_check(struct content *c, const struct content *at_begin, const uint8_t *data,
                          uint32_t first, uint32_t count, bool settle, uint32_t *ret_grain)
{
    for (uint32_t i = first; i < first + count; i++, data += GRAIN_BYTES) {
        struct grain *g = &c->grains[i];
        const struct grain *then = &at_begin->grains[i];
        uint32_t since = settle ? then->may[0] : then->may[then->ended];
        uint32_t seen = content_decode(data, i);
        uint32_t found = seen == UINT32_MAX ? 0 : grain_find(g, since, seen);
        if (found == 0 && seen != UINT32_MAX && !settle && grain_was(g, since, seen))
            found = seen;
        *ret_grain = i;
        if (seen == UINT32_MAX)
            return "torn, or of another place";
        if (found == 0)
            return "a version that it must not hold";
        if (settle)
            *g = (struct grain){.may = {found}, .count = 1};
    }
    return NULL;
}
