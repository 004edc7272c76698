/* SPDX-License-Identifier: Apache-2.0 */
/* What the commands on hosted volumes have in common. */
#ifndef SNAP_SNAPCTL_REMOTE_HOSTED_H
#define SNAP_SNAPCTL_REMOTE_HOSTED_H

#include "client/snapctl/remote_connect.h"

#include <jansson.h>

/* Errors: SNAP_ENOTSUP for a remote volume; `instead` tells what to use with one. */
int remote_want_hosted(const struct remote_target *t, const char *instead,
                       struct err *reterr) SNAP_WUR;
/* The other way round. */
int remote_want_remote(const struct remote_target *t, const char *instead,
                       struct err *reterr) SNAP_WUR;
/* The target as the library takes it: NULL is the volume itself. */
const struct snapwire_uuid *remote_node(const struct remote_target *t);
/* On a terminal, unless `yes`: say what is going to happen and ask whether to go on.
 * Errors: SNAP_ECANCELED. */
int remote_confirm(bool yes, struct err *reterr, const char *fmt, ...) SNAP_PRINTF(3, 4) SNAP_WUR;
/* Errors: those of the answer, with the reason as the text. */
int remote_show_snapshot(struct remote *r, const struct remote_target *t,
                         struct snapwire_snapshot **ret, struct err *reterr) SNAP_WUR;

/* -- where data stands, looked up ahead ------------------------------------------------------ */

/* Of a place that somebody else writes it may be of a moment ago.
 * Owns: borrows client and node; end with extent_map_done(). */
struct extent_map {
    struct snapwire_client *client;
    struct snapwire_uuid volume;
    const struct snapwire_uuid *node;
    uint64_t size_bytes;
    struct snapwire_extent_list *list;
    size_t at; /* in the list */
};
void extent_map_init(struct extent_map *m, struct remote *r, const struct remote_target *t);
/* The extent that at_bytes is in: its end, and whether it is zeros. Ascending, mostly. */
int extent_map_at(struct extent_map *m, uint64_t at_bytes, uint64_t *ret_end, bool *ret_zero,
                  struct err *reterr) SNAP_WUR;
void extent_map_done(struct extent_map *m); /* takes zeros */

/* -- jobs ------------------------------------------------------------------------------------- */

json_t *remote_job_json(const struct snapwire_job *j);
/* With --json the job as an object; else nothing: the caller remarks. */
int remote_job_print(const struct cli *cli, const struct snapwire_job *j, struct err *reterr);
/* Until it is over, with progress. After Ctrl-C the job goes on, and the text says how to wait
 * for it and how to cancel it.
 * Owns:   *ret is freed with snapwire_free(); NULL: a hand-down that has ended.
 * Errors: SNAP_ECANCELED (Ctrl-C), SNAP_ENOENT, those of asking. */
int remote_job_follow(const struct cli *cli, struct remote *r, const struct snapwire_uuid *volume,
                      const struct snapwire_uuid *job, struct snapwire_job **ret,
                      struct err *reterr) SNAP_WUR;
/* How one that is over went. Errors: SNAP_EIO (failed), SNAP_ECANCELED. */
int remote_job_outcome(const struct snapwire_job *j, struct err *reterr) SNAP_WUR;
/* All about one that is over: its faults, and how it went.
 * Errors: as remote_job_outcome(), SNAP_ECORRUPT (it found faults). */
int remote_job_report(const struct cli *cli, const struct snapwire_job *j,
                      struct err *reterr) SNAP_WUR;
/* Enough of a job's uuid to type. */
enum { REMOTE_JOB_SHORT = 8 };

/* -- rolling back, and what merge does on hosted volumes -------------------------------- */

struct remote_rollback {
    bool merge, drop_newer, no_wait, yes;
};
int remote_rollback(const struct cli *cli, struct remote *r, const struct remote_target *t,
                    const struct remote_rollback *how, struct err *reterr) SNAP_WUR;

/* -- export without an origin ------------------------------------------------------------------ */

int remote_export_hosted(const struct cli *cli, struct remote *r, const struct remote_target *t,
                         const char *output, bool resume, struct err *reterr) SNAP_WUR;

/* -- snapshots of several volumes at one moment --------------------------------------------- */

int remote_create_group(const struct cli *cli, struct remote *r, const char *const *words,
                        unsigned count, uint64_t cow_limit_bytes, struct err *reterr) SNAP_WUR;

#endif
