/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's clocks behind the interface that tests replace. The only file
 * besides the log that asks the system for the time. Any thread.
 */
#include "common/base/clock.h"

#include "common/base/check.h"

#include <stdio.h>
#include <time.h>

/* The first and the last second that four digits of a year can write. */
#define CLOCK_FORMAT_MIN_S INT64_C(-62167219200)
#define CLOCK_FORMAT_MAX_S INT64_C(253402300799)

static uint64_t clock_read_ns(clockid_t id)
{
    struct timespec ts;

    CHECK(clock_gettime(id, &ts) == 0);
    return (uint64_t)ts.tv_sec * UINT64_C(1000000000) + (uint64_t)ts.tv_nsec;
}

static uint64_t clock_monotonic_ns(void *user)
{
    (void)user;
    return clock_read_ns(CLOCK_MONOTONIC);
}

static uint64_t clock_boottime_ns(void *user)
{
    (void)user;
    return clock_read_ns(CLOCK_BOOTTIME);
}

const struct clock *clock_asleep_too(void)
{
    static const struct clock boottime_clock = {.now_ns = clock_boottime_ns, .user = NULL};
    return &boottime_clock;
}

const struct clock *clock_system(void)
{
    static const struct clock system_clock = {.now_ns = clock_monotonic_ns, .user = NULL};
    return &system_clock;
}

int64_t clock_wall_s(void)
{
    struct timespec ts;

    CHECK(clock_gettime(CLOCK_REALTIME, &ts) == 0);
    return (int64_t)ts.tv_sec;
}

char *clock_format_s(int64_t wall_s, char *buf, unsigned long buf_bytes)
{
    struct tm tm;

    if (wall_s < CLOCK_FORMAT_MIN_S)
        wall_s = CLOCK_FORMAT_MIN_S;
    if (wall_s > CLOCK_FORMAT_MAX_S)
        wall_s = CLOCK_FORMAT_MAX_S;
    time_t t = (time_t)wall_s;
    CHECK(buf_bytes >= CLOCK_TEXT_BYTES);
    CHECK(gmtime_r(&t, &tm) != NULL);

    /* year month day hour minute second, each of its width and with what follows it */
    const int part[] = {tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
                        tm.tm_hour,        tm.tm_min,     tm.tm_sec};
    char *end = buf;
    for (int i = 0; i < 6; i++) {
        int v = part[i];
        if (i == 0) {
            *end++ = (char)('0' + v / 1000);
            *end++ = (char)('0' + v / 100 % 10);
            v %= 100;
        }
        *end++ = (char)('0' + v / 10);
        *end++ = (char)('0' + v % 10);
        *end++ = "--T::Z"[i];
    }
    *end = '\0';
    return buf;
}
