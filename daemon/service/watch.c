/* SPDX-License-Identifier: Apache-2.0 */
/* What may run out while the daemon runs: space for its state, and its certificate.
 *
 *   every minute   free space  ──> logged as it falls below the mark, and as it is above again
 *   every day      certificate ──> logged while something is odd about it
 *   SERVER_STATUS  both, as they are then
 *
 * How full single COW devices are their volumes tell. Thread: the timer is main's loop's.
 */
#include "daemon/service/watch.h"

#include "common/base/bytes.h"
#include "common/base/log.h"
#include "common/base/size.h"

#include <stdio.h>
#include <sys/statvfs.h>

enum { WATCH_MS = 60 * 1000, WATCH_TURNS_A_DAY = 24 * 60 };

static uint64_t watch_mark(uint64_t total_bytes)
{
    return u64_min(u64_max(total_bytes / 20, UINT64_C(1) << 30), total_bytes / 5);
}

bool watch_is_low(uint64_t free_bytes, uint64_t total_bytes)
{
    return free_bytes < watch_mark(total_bytes);
}

static bool watch_look(const char *state_dir, uint64_t *ret_free_bytes, uint64_t *ret_total_bytes)
{
    struct statvfs fs;
    if (statvfs(state_dir, &fs) != 0)
        return false;
    *ret_free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    *ret_total_bytes = (uint64_t)fs.f_blocks * fs.f_frsize;
    return true;
}

void watch_warnings(const char *state_dir, const struct tls_context *tls, uint64_t *ret_free_bytes,
                    void (*fn)(void *user, const char *text), void *user)
{
    char text[80], left[16], all[16];
    uint64_t total_bytes = 0;
    *ret_free_bytes = 0;
    if (watch_look(state_dir, ret_free_bytes, &total_bytes) &&
        watch_is_low(*ret_free_bytes, total_bytes)) {
        (void)snprintf(text, sizeof text, "the state directory is nearly full: %s of %s are free",
                       size_format(*ret_free_bytes, left, sizeof left),
                       size_format(total_bytes, all, sizeof all));
        fn(user, text);
    }
    if (tls != NULL)
        tls_context_warnings(tls, fn, user);
}

static void watch_log_certificate(void *user, const char *text)
{
    (void)user;
    LOG_WARN("certificate", F_STR("warning", text));
}

/* One that is no longer low is clearly so before that is told. */
static void watch_space(struct watch *w)
{
    uint64_t free_bytes, total_bytes;
    if (!watch_look(w->state_dir, &free_bytes, &total_bytes))
        return;
    uint64_t mark = watch_mark(total_bytes);
    if (!w->low && free_bytes < mark)
        LOG_WARN("state directory is nearly full", F_STR("path", w->state_dir),
                 F_U64("free_bytes", free_bytes), F_U64("total_bytes", total_bytes));
    else if (w->low && free_bytes >= mark + mark / 8)
        LOG_INFO("state directory has room again", F_STR("path", w->state_dir),
                 F_U64("free_bytes", free_bytes), F_U64("total_bytes", total_bytes));
    w->low = free_bytes < (w->low ? mark + mark / 8 : mark);
}

static void watch_turn(void *user)
{
    struct watch *w = user;
    watch_space(w);
    if (w->turns++ % WATCH_TURNS_A_DAY == 0 && *w->tls != NULL)
        tls_context_warnings(*w->tls, watch_log_certificate, NULL);
    loop_timer_set(&w->timer, WATCH_MS);
}

int watch_start(struct watch *w, struct loop *l, const char *state_dir,
                struct tls_context *const *tls, struct err *reterr)
{
    *w = (struct watch){.state_dir = state_dir, .tls = tls};
    int rc = loop_timer_init(l, &w->timer, watch_turn, w, reterr);
    if (rc < 0)
        return rc;
    w->timer_ready = true;
    watch_turn(w);
    return 0;
}

void watch_again(struct watch *w)
{
    w->turns = 0;
    watch_turn(w);
}

void watch_stop(struct watch *w)
{
    if (w->timer_ready)
        loop_timer_done(&w->timer);
    w->timer_ready = false;
}
