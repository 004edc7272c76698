/* SPDX-License-Identifier: Apache-2.0 */
/* Time is handed in, so that tests and the simulator own it. */
#ifndef SNAP_BASE_CLOCK_H
#define SNAP_BASE_CLOCK_H

#include <stdint.h>

struct clock {
    uint64_t (*now_ns)(void *user); /* monotonic */
    void *user;
};

/* The machine's monotonic clock; a static object, never freed. */
const struct clock *clock_system(void);
/* Goes on while the machine sleeps: what is over for others meanwhile is over by it. */
const struct clock *clock_asleep_too(void);
/* Seconds since 1970, for people and records. */
int64_t clock_wall_s(void);
enum { CLOCK_TEXT_BYTES = 21 };

/* RFC 3339 in UTC, "2026-01-31T12:00:00Z"; a time outside the years 0 to 9999 reads as
 * the nearest that is inside. buf of at least CLOCK_TEXT_BYTES. Returns buf. */
char *clock_format_s(int64_t wall_s, char *buf, unsigned long buf_bytes);

static inline uint64_t clock_now_ns(const struct clock *c)
{
    return c->now_ns(c->user);
}

#endif
