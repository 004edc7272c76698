/* SPDX-License-Identifier: Apache-2.0 */
/* What one part contributes to the metrics and to SERVER_STATUS. Thread: the part's. */
#ifndef SNAP_SERVICE_METRICS_TEXT_H
#define SNAP_SERVICE_METRICS_TEXT_H

#include "common/base/err.h"
#include "daemon/volume/volume.h"

#include <stdbool.h>
#include <stddef.h>

struct metrics_text {
    char *text;
    size_t len, cap;
    bool failed; /* no memory */
};
void metrics_text_add(struct metrics_text *t, const char *fmt, ...) SNAP_PRINTF(2, 3);

/* Those with a line a snapshot. */
enum metrics_family_id {
    FAMILY_ALLOCATED,
    FAMILY_LIMIT,
    FAMILY_EXCEPTIONS,
    FAMILY_COMMITS,
    FAMILY_FLUSHES,
    FAMILY_ADDED,
    FAMILY_EXISTED,
    FAMILY_FAILED,
    METRICS_FAMILIES,
};

enum { METRICS_STATES = SNAPSHOT_UNVERIFIED + 1 };

struct metrics_part {
    unsigned volumes, leases, jobs;
    unsigned states[METRICS_STATES]; /* by enum snapshot_state */
    struct metrics_text *texts;      /* [METRICS_FAMILIES]; NULL: sums only */
};
/* For volume_set_each(); user: a struct metrics_part. */
void metrics_part_volume(struct volume *v, void *user);

#endif
