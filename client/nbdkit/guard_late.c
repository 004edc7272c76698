/* SPDX-License-Identifier: Apache-2.0 */
/* Writes that the lease did not outlast.
 *
 *   head a ── write begun, its old content is in a ── lease over ── head b, without us ── write
 * ends
 *
 * b was made before the write ended: what is read of b there may be what was written, and only the
 * guard knows. So it remembers the head of each change that the disk has, by its seq, and tells
 * the daemon the smallest with the next lease that it takes: all newer snapshots that there are
 * then are unverified for good. a and those before it have the old content.
 *
 *   at the disk ──ends under its lease──> nothing
 *        │ └─────lease over, ends───────> late ──another lease──> told
 *        │                                 └──the same lease again──> nothing: no head was made
 *        └──another lease──> told up to the head that this has; still at the disk
 *
 * What is told before it has ended need not be told again: the next head is made with the guard's
 * agreement, when nothing is at the disk, or without it, which is another lease again.
 *
 * From the moment at which the lease is over until the daemon knows, a file on this host holds the
 * same, so that a guard which is ended meanwhile tells it when it is started again. It is beside
 * the broken mark: the late mark. It is replaced as a whole.
 *
 * Thread: under the guard's lock; the second half is the link's, without it.
 */
#include "client/nbdkit/guard_link.h"
#include "client/nbdkit/guard_mark.h"

#include "common/base/cleanup.h"
#include "common/base/file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { MARK_TEXT_BYTES = LIMIT_PATH_BYTES + 1024, MARK_MODE = 0644 };
#define LATE_SUFFIX ".late"

/* -- what is late --------------------------------------------------------------------------- */

static bool lease_is_held(const struct guard *g, uint64_t margin_ns)
{
    return g->lease_state == GUARD_LEASE_HELD &&
           guard_lease_now_ns() + margin_ns < g->valid_until_ns;
}

bool guard_has_lease(const struct guard *g)
{
    return lease_is_held(g, g->margin_ns);
}

static void late_add(struct guard_late *late, uint32_t after_seq)
{
    if (!late->any || after_seq < late->after_seq)
        late->after_seq = after_seq;
    late->any = true;
}

void guard_late_begin(struct guard *g, struct guard_at_disk *a)
{
    a->head_seq = g->head_seq;
    TAILQ_INSERT_TAIL(&g->at_disk, a, link);
}

void guard_late_end(struct guard *g, struct guard_at_disk *a)
{
    TAILQ_REMOVE(&g->at_disk, a, link);
    /* of a broken one the daemon calls all snapshots unverified */
    if (g->mode != GUARD_IS_BROKEN && !lease_is_held(g, 0))
        late_add(&g->late, a->head_seq);
}

bool guard_late_look(const struct guard *g, uint32_t *ret_after_seq)
{
    const struct guard_at_disk *a;
    struct guard_late all = g->late;
    if (!TAILQ_EMPTY(&g->at_disk) && g->mode != GUARD_IS_BROKEN && !lease_is_held(g, 0))
        TAILQ_FOREACH (a, &g->at_disk, link) {
            late_add(&all, a->head_seq);
        }
    *ret_after_seq = all.after_seq;
    return all.any;
}

void guard_late_forget(struct guard *g)
{
    g->late = (struct guard_late){0};
}

/* -- the daemon knows ------------------------------------------------------------------------- */

void guard_late_told(struct guard *g, uint32_t after_seq, const struct snapwire_lease_info *info)
{
    struct guard_at_disk *a;
    const bool knows = info->head_seq != 0;
    (void)pthread_mutex_lock(&g->lock);
    const bool newer =
        knows ? info->head_seq > after_seq
              : !snapwire_uuid_is_zero(&info->head) && !snapwire_uuid_equal(&info->head, &g->head);
    guard_late_forget(g);
    TAILQ_FOREACH (a, &g->at_disk, link) {
        if (a->head_seq < info->head_seq)
            a->head_seq = info->head_seq;
    }
    (void)pthread_mutex_unlock(&g->lock);
    if (newer)
        guard_say("a write of %s took the disk longer than the lease lasted, and snapshots of "
                  "volume %s were made meanwhile, the newest is %s: they may hold what that write "
                  "wrote%s; make a new one",
                  g->origin.path, g->config.volume, info->head_name,
                  knows ? " and are unverified for good"
                        : ", and the daemon is too old to call them unverified");
}

/* -- the mark --------------------------------------------------------------------------------- */

static char *late_path(const struct guard *g, char *path, size_t path_bytes)
{
    (void)snprintf(path, path_bytes, "%s" LATE_SUFFIX, g->config.mark);
    return path;
}

static int late_make_mark(const struct guard *g, uint32_t after_seq, struct err *reterr)
{
    char text[MARK_TEXT_BYTES], path[LIMIT_PATH_BYTES + 8], volume[SNAPWIRE_UUID_TEXT_BYTES];
    int n = snprintf(text, sizeof text,
                     "after %" PRIu32 " volume %s\n"
                     "A write of %s took the disk longer than the lease of volume %s lasted.\n"
                     "The guard removes this file when the daemon knows.\n",
                     after_seq, snapwire_uuid_format(&g->volume, volume), g->origin.path,
                     g->config.volume);
    if (n < 0 || (size_t)n >= sizeof text)
        return err_set(reterr, SNAP_EINVAL, "the origin's path is too long");
    return file_replace(late_path(g, path, sizeof path), text, (size_t)n, MARK_MODE, reterr);
}

void guard_late_note(struct guard *g)
{
    char path[LIMIT_PATH_BYTES + 8];
    struct guard_late late = {0};
    struct err err = ERR_INIT;
    (void)pthread_mutex_lock(&g->lock);
    late.any = guard_late_look(g, &late.after_seq);
    (void)pthread_mutex_unlock(&g->lock);
    if (!late.any) {
        if (g->late_marked.any && guard_mark_remove(late_path(g, path, sizeof path), &err) < 0)
            guard_say("%s: remove it before the guard is started the next time", err.text);
        g->late_marked.any = g->late_unmarked = false;
        return;
    }
    if (g->late_unmarked || (g->late_marked.any && g->late_marked.after_seq <= late.after_seq))
        return;
    if (late_make_mark(g, late.after_seq, &err) == 0) {
        g->late_marked = late;
        return;
    }
    g->late_unmarked = true;
    guard_say("a write took the disk longer than the lease lasted, and that cannot be remembered "
              "should the guard end before the daemon is back: %s",
              err.text);
}

int guard_late_recall(struct guard *g, struct err *reterr)
{
    char path[LIMIT_PATH_BYTES + 8], uuid[SNAPWIRE_UUID_TEXT_BYTES];
    CLEANUP_FREE char *text = NULL;
    struct guard_late late = {.any = true};
    struct snapwire_uuid volume;
    size_t len;
    int rc = file_read_all(late_path(g, path, sizeof path), MARK_TEXT_BYTES, &text, &len, reterr);
    if (rc == SNAP_ENOENT)
        return 0;
    if (rc < 0)
        return err_prefix(reterr, "late mark %s", path);
    if (sscanf(text, "after %" SCNu32 " volume %36s", &late.after_seq, uuid) != 2 ||
        snapwire_uuid_parse(uuid, &volume, NULL) < 0)
        return err_set(reterr, SNAP_ECORRUPT,
                       "late mark %s is not understood: remove it if no snapshot was made while "
                       "the guard was away",
                       path);
    if (!snapwire_uuid_equal(&volume, &g->volume)) /* what it was about is not served here */
        return 0;
    g->late_marked = late;
    (void)pthread_mutex_lock(&g->lock);
    late_add(&g->late, late.after_seq);
    (void)pthread_mutex_unlock(&g->lock);
    return 0;
}
