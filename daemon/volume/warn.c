/* SPDX-License-Identifier: Apache-2.0 */
/* Warnings before a limit is reached: one notice as a snapshot's use crosses 80 and 95 percent
 * of what its device may grow to. One that fell below the mark again is warned of again.
 * Thread: the shard's. */
#include "daemon/volume/change.h"

#include <stdio.h>

enum { WARN_LOW_PERCENT = 80, WARN_HIGH_PERCENT = 95, WARN_REARM_PERCENT = 5 };

static unsigned warn_percent(const struct snapshot *s, const struct cow_usage *u)
{
    if (cow_store_state(s->store) != COW_READY || u->limit_sectors == 0)
        return 0;
    return (unsigned)(u->sectors_allocated * 100 / u->limit_sectors);
}

static unsigned warn_mark(unsigned percent)
{
    return percent >= WARN_HIGH_PERCENT  ? WARN_HIGH_PERCENT
           : percent >= WARN_LOW_PERCENT ? WARN_LOW_PERCENT
                                         : 0;
}

void snapshot_warnings(const struct snapshot *s, void (*fn)(const char *text, void *user),
                       void *user)
{
    struct cow_usage u;
    char text[64];
    if (s->faulty)
        fn("its last verification found faults: see snapctl remote jobs and the log", user);
    if (s->store == NULL)
        return;
    cow_store_usage(s->store, &u);
    unsigned percent = warn_percent(s, &u);
    if (warn_mark(percent) == 0)
        return;
    (void)snprintf(text, sizeof text, "%u%% of its limit is used", percent);
    fn(text, user);
}

void snapshot_warn(struct snapshot *s, const struct cow_usage *usage)
{
    unsigned percent = warn_percent(s, usage), mark = warn_mark(percent);
    const struct record_snapshot *rs;
    if (mark > s->warned_percent) {
        struct err err = ERR_INIT;
        s->warned_percent = (uint8_t)mark;
        rs = snapshot_record(s);
        if (rs == NULL || rs->hidden || rs->undo) /* nobody can do anything about it */
            return;
        (void)err_set(&err, SNAP_ENOSPC, "%u%% of its limit is used", percent);
        volume_notice(s->volume, s, "snapshot is nearly full", &err);
    } else if (percent + WARN_REARM_PERCENT < s->warned_percent) {
        s->warned_percent = (uint8_t)mark;
    }
}
