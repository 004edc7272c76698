/* SPDX-License-Identifier: Apache-2.0 */
/* When the next scrub is due: an interval after the last one that ended, which the record tells of,
 * so that restarts change nothing. A volume that never was scrubbed begins somewhere in the first
 * interval after it was made, by its uuid: volumes made together are not all read together.
 *
 * A time that is still to come was noted while the clock was wrong, and tells nothing: nobody would
 * read the volume until then. It is due by the other time, or at once.
 *
 * It must not know how content is verified. Thread: the shard's.
 */
#include "daemon/volume/scrub.h"

#include "common/base/clock.h"
#include "daemon/volume/verify.h"

#include <stdlib.h>

enum {
    SCRUB_SLEEP_MS = 3600000, /* at most: the wall clock may be set meanwhile */
    SCRUB_RETRY_MS = 600000,  /* another verification runs, or the last one could not be noted */
    SCRUB_SLACK_S = 3600,     /* a clock may be set back by so much without being called wrong */
};

static void scrub_set(struct volume *v);

static void scrub_begun(void *user, int code, const struct err *err)
{
    struct volume *v = user;
    (void)err;
    if (code < 0)
        loop_timer_set(&v->scrub_timer, SCRUB_RETRY_MS);
}

static int64_t scrub_next_s(const struct volume *v)
{
    const int64_t interval_s = (int64_t)v->set->env->scrub_interval_s;
    const int64_t now_s = clock_wall_s(), latest_s = now_s + SCRUB_SLACK_S;
    const struct volume_record *r = &v->record;
    if (r->scrubbed_s > 0 && r->scrubbed_s <= latest_s)
        return r->scrubbed_s + interval_s;
    if (r->created_s <= latest_s)
        return r->created_s + (int64_t)(uuid_hash(&r->id) % (uint64_t)interval_s);
    return now_s;
}

static void scrub_due(void *user)
{
    struct volume *v = user;
    if (v->leaving)
        return;
    v->scrub_due_s = scrub_next_s(v); /* the clock may have been set */
    if (clock_wall_s() < v->scrub_due_s) {
        scrub_set(v);
        return;
    }
    struct verify_spec spec = {.job = uuid_make(), .scrub = true};
    volume_verify_start(v, &spec, scrub_begun, v);
}

static void scrub_set(struct volume *v)
{
    int64_t left_s = v->scrub_due_s - clock_wall_s();
    uint64_t left_ms = left_s <= 0 ? 1 : (uint64_t)left_s * 1000;
    loop_timer_set(&v->scrub_timer, left_ms < SCRUB_SLEEP_MS ? left_ms : SCRUB_SLEEP_MS);
}

static void scrub_schedule(struct volume *v)
{
    v->scrub_due_s = scrub_next_s(v);
    scrub_set(v);
}

void scrub_start(struct volume *v)
{
    if (v->set->env->scrub_interval_s == 0 || v->scrub_ready)
        return;
    v->scrub_ready = loop_timer_init(v->set->shard->loop, &v->scrub_timer, scrub_due, v, NULL) == 0;
    if (v->scrub_ready)
        scrub_schedule(v);
}

void scrub_stop(struct volume *v)
{
    if (v->scrub_ready)
        loop_timer_done(&v->scrub_timer);
    v->scrub_ready = false;
}

/* -- the end of one ------------------------------------------------------------------ */

static int scrub_change(struct volume_commit *commit, struct volume_record *next,
                        struct err *reterr)
{
    (void)commit;
    (void)reterr;
    next->scrubbed_s = clock_wall_s();
    return 0;
}

static void scrub_noted(struct volume_commit *commit, int code, const struct err *err)
{
    struct volume *v = commit->volume;
    free(commit);
    if (code < 0)
        volume_notice(v, NULL, "that it was scrubbed cannot be noted", err);
    if (!v->scrub_ready || v->leaving)
        return;
    if (code < 0)
        loop_timer_set(&v->scrub_timer, SCRUB_RETRY_MS);
    else
        scrub_schedule(v);
}

void scrub_ended(struct volume *v)
{
    struct volume_commit *commit = v->leaving ? NULL : calloc(1, sizeof *commit);
    if (commit == NULL) {
        if (v->scrub_ready && !v->leaving)
            loop_timer_set(&v->scrub_timer, SCRUB_RETRY_MS);
        return;
    }
    commit->change = scrub_change;
    commit->done = scrub_noted;
    volume_commit_start(v, commit);
}
