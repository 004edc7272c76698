/* SPDX-License-Identifier: Apache-2.0 */
/* nbdkit-snapwire-guard-plugin: options, and nbdkit's calls handed to the guard.
 *
 *   config ──> get_ready: origin locked, mark looked for, lease had ──> after_fork: the thread
 *   cleanup: the lease is given back
 *
 * What can be wrong with options, origin and daemon is said before nbdkit leaves the terminal.
 * Thread: nbdkit's, see guard.h.
 */
#include "client/nbdkit/guard.h"
#include "client/nbdkit/guard_mark.h"
#include "client/nbdkit/limit.h"
#include "client/nbdkit/nbdkit_api.h"
#include "client/nbdkit/server_args.h"
#include "common/base/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

enum {
    AWAY_AFTER_S = 10,
    AWAY_AFTER_S_MAX = 24 * 3600,
    COPY_BYTES_MAX = 64 * 1024 * 1024,
    REQUEST_BYTES_MAX = 32 * 1024 * 1024,
    BLOCK_BYTES = 4096,
};
#define MARK_SUFFIX ".snapwire-broken"
#define MARK_DIR "/var/lib/snapwire/guard"

static struct guard guard;
static struct server_args server;
static char *origin_path;

void guard_say(const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    nbdkit_error("%s", text);
}

bool guard_is_ending(void)
{
    return nbdkit_nanosleep(0, 0) < 0 && errno == ESHUTDOWN;
}

static int fail(const struct err *err)
{
    nbdkit_error("%s", err->text);
    return -1;
}

/* -- options -------------------------------------------------------------------------------- */

static int set_text(char **field, const char *key, const char *value)
{
    if (*field) {
        nbdkit_error("%s is given twice", key);
        return -1;
    }
    *field = strdup(value);
    if (!*field)
        nbdkit_error("out of memory");
    return *field ? 0 : -1;
}

/* nbdkit leaves its folder. */
static int set_path(char **field, const char *key, const char *value)
{
    if (*field) {
        nbdkit_error("%s is given twice", key);
        return -1;
    }
    *field = nbdkit_absolute_path(value);
    return *field ? 0 : -1;
}

static int set_flag(bool *field, const char *key, const char *value)
{
    int b = nbdkit_parse_bool(value);
    *field = b > 0;
    if (b < 0)
        nbdkit_error("%s=%s: true or false is needed", key, value);
    return b < 0 ? -1 : 0;
}

static int set_snapshot(const char *value)
{
    const char *at = strchr(value, '@');
    if (!at || at == value || at[1] == '\0') {
        nbdkit_error("snapshot=%s: VOLUME@SNAPSHOT is needed; volume=VOLUME takes the newest",
                     value);
        return -1;
    }
    char *volume = strndup(value, (size_t)(at - value));
    int rc = volume ? set_text(&guard.config.volume, "snapshot", volume) : -1;
    free(volume);
    return rc < 0 ? -1 : set_text(&guard.config.snapshot, "snapshot", at + 1);
}

static int set_away(const char *value)
{
    static const char *const names[] = {
        [GUARD_WAIT] = "wait", [GUARD_FAIL] = "fail", [GUARD_BROKEN] = "broken"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(value, names[i]) == 0) {
            guard.config.away = (enum guard_away)i;
            return 0;
        }
    nbdkit_error("away=%s: wait, fail or broken is needed", value);
    return -1;
}

static int set_away_after(const char *value)
{
    unsigned seconds;
    if (*value == '\0' || value[strspn(value, "0123456789")] != '\0') {
        nbdkit_error("away_after=%s: a number of seconds is needed", value);
        return -1;
    }
    if (nbdkit_parse_unsigned("away_after", value, &seconds) < 0)
        return -1;
    if (seconds > AWAY_AFTER_S_MAX) {
        nbdkit_error("away_after=%s: at most %d seconds", value, (int)AWAY_AFTER_S_MAX);
        return -1;
    }
    guard.config.away_after_ms = seconds * 1000;
    return 0;
}

static void plugin_load(void)
{
    limit_file_size_fails();
    guard.origin = ORIGIN_INIT;
    guard.config.away_after_ms = AWAY_AFTER_S * 1000;
    guard.config.copy_bytes_max = COPY_BYTES_MAX;
}

static int plugin_config(const char *key, const char *value)
{
    int taken = server_args_take(&server, key, value);
    if (taken != 0)
        return taken < 0 ? -1 : 0;
    if (strcmp(key, "origin") == 0)
        return set_path(&origin_path, key, value);
    if (strcmp(key, "mark") == 0)
        return set_path(&guard.config.mark, key, value);
    if (strcmp(key, "volume") == 0)
        return set_text(&guard.config.volume, key, value);
    if (strcmp(key, "snapshot") == 0)
        return set_snapshot(value);
    if (strcmp(key, "away") == 0)
        return set_away(value);
    if (strcmp(key, "away_after") == 0)
        return set_away_after(value);
    if (strcmp(key, "new_origin") == 0)
        return set_flag(&guard.config.new_origin, key, value);
    if (strcmp(key, "steal") == 0)
        return set_flag(&guard.config.steal, key, value);
    nbdkit_error("unknown parameter %s", key);
    return -1;
}

static int plugin_config_complete(void)
{
    if (!origin_path || !guard.config.volume) {
        nbdkit_error("%s is missing",
                     origin_path ? "snapshot=VOLUME@SNAPSHOT (or volume=VOLUME)" : "origin=DISK");
        return -1;
    }
    if (server_args_complete(&server) < 0)
        return -1;
    guard.config.client = server_args_config(&server);
    guard.config.client.software = "nbdkit-snapwire-guard " SNAPWIRE_VERSION;
    return 0;
}

#define plugin_config_help                                                     \
    "origin=DISK            (required) File or block device that is served.\n" \
    "snapshot=VOLUME@SNAPSHOT\n"                                               \
    "                       (required) The volume's newest snapshot.\n"        \
    "volume=VOLUME          Instead: whichever is the newest.\n"               \
    "away=wait|fail|broken  What writes do while the daemon is away.\n"        \
    "away_after=SECONDS     When they fail or go on without (10).\n"           \
    "mark=FILE              The broken mark.\n"                                \
    "new_origin=1           Another disk than before is right.\n"              \
    "steal=1                Fence the volume's present writer.\n" SERVER_ARGS_HELP

/* -- start and end ---------------------------------------------------------------------------- */

/* Beside a file; the folder of a device is not kept over a restart, so a folder of our own. */
static int choose_mark(struct err *reterr)
{
    char path[LIMIT_PATH_BYTES];
    int n;
    if (guard.config.mark)
        return 0;
    if (!guard.origin.is_block) {
        n = snprintf(path, sizeof path, "%s" MARK_SUFFIX, guard.origin.path);
    } else {
        n = snprintf(path, sizeof path, MARK_DIR "/%s" MARK_SUFFIX, guard.origin.path + 1);
        for (char *p = path + sizeof MARK_DIR; n < (int)sizeof path && *p; p++)
            if (*p == '/')
                *p = '-';
    }
    if (n >= (int)sizeof path)
        return err_set(reterr, SNAP_EINVAL, "mark=FILE is needed: the origin's path is too long");
    guard.config.mark = strdup(path);
    return guard.config.mark ? 0 : err_set(reterr, SNAP_ENOMEM, "out of memory");
}

static int look_for_mark(struct err *reterr)
{
    int rc = choose_mark(reterr);
    if (rc == 0)
        rc = guard_mark_look(guard.config.mark, &guard.marked, reterr);
    if (rc == 0 && guard.config.away == GUARD_BROKEN && !guard.marked)
        rc = guard_mark_try(guard.config.mark, reterr);
    return rc;
}

static int guard_init(struct err *reterr)
{
    pthread_condattr_t monotonic;
    (void)pthread_mutex_init(&guard.lock, NULL); /* these cannot fail on Linux */
    (void)pthread_mutex_init(&guard.wake_lock, NULL);
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    int rc = pthread_cond_init(&guard.woken, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
    guard_init_lists(&guard);
    guard.lease_state = GUARD_LEASE_ASKED;
    return rc == 0 ? 0 : err_set_errno(reterr, SNAP_ENOMEM, rc, "start");
}

static int plugin_get_ready(void)
{
    struct err err = ERR_INIT;
    int rc = guard_init(&err);
    if (rc == 0)
        rc = origin_open(origin_path, true, &guard.origin, &err);
    if (rc == 0)
        rc = look_for_mark(&err);
    if (rc == 0)
        rc = guard_link_open(&guard, &err);
    if (rc < 0)
        return fail(&err);
    if (guard.marked)
        guard_say("the broken mark %s is there: %s was written without its old content being "
                  "kept, and the snapshots of volume %s stay unverified; writes go on so until "
                  "there is a new snapshot",
                  guard.config.mark, guard.origin.path, guard.config.volume);
    return 0;
}

static int plugin_after_fork(void)
{
    struct err err = ERR_INIT;
    return guard_link_start(&guard, &err) < 0 ? fail(&err) : 0;
}

static void plugin_cleanup(void)
{
    struct err err = ERR_INIT;
    if (guard.origin.fd >= 0 && origin_sync(&guard.origin, &err) < 0)
        (void)fail(&err);
    guard_link_stop(&guard);
    nbdkit_debug(
        "guard: %" PRIu64 " copies, %" PRIu64 " chunks kept, %" PRIu64 " heads, %" PRIu64 " breaks",
        guard.stats.copies, guard.stats.chunks_kept, guard.stats.heads, guard.stats.breaks);
}

static void plugin_unload(void)
{
    guard_map_done(&guard.kept);
    guard_map_done(&guard.claimed);
    guard_spare_free_all(&guard.spares);
    origin_close(&guard.origin);
    server_args_done(&server);
    char *const texts[] = {origin_path, guard.config.mark, guard.config.volume,
                           guard.config.snapshot};
    for (unsigned i = 0; i < ARRAY_LEN(texts); i++)
        free(texts[i]);
    limit_file_size_done();
}

/* -- a connection ----------------------------------------------------------------------- */

static void *plugin_open(int readonly)
{
    (void)readonly;
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t plugin_get_size(void *handle)
{
    (void)handle;
    return (int64_t)guard.origin.size_bytes;
}

static int plugin_yes(void *handle)
{
    (void)handle;
    return 1;
}

static int plugin_can_fua(void *handle)
{
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

static int plugin_can_cache(void *handle)
{
    (void)handle;
    return NBDKIT_CACHE_NATIVE;
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred,
                             uint32_t *maximum)
{
    (void)handle;
    (void)pthread_mutex_lock(&guard.lock);
    uint64_t chunk = guard.chunk_bytes;
    (void)pthread_mutex_unlock(&guard.lock);
    *minimum = 1;
    *preferred = (uint32_t)u64_min(u64_max(chunk, BLOCK_BYTES), REQUEST_BYTES_MAX);
    *maximum = REQUEST_BYTES_MAX;
    return 0;
}

/* -- requests --------------------------------------------------------------------------- */

static int plugin_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct err err = ERR_INIT;
    (void)handle;
    (void)flags;
    if (origin_read(&guard.origin, offset, buf, count, &err) == 0)
        return 0;
    nbdkit_set_error(err.sys_errno != 0 ? err.sys_errno : EIO);
    return fail(&err);
}

static int change(const struct guard_request *r, const char *what)
{
    int rc = guard_apply(&guard, r);
    if (rc == 0)
        return 0;
    if (rc != EOPNOTSUPP)
        nbdkit_error("%s %" PRIu64 " bytes at %" PRIu64 ": %s", what, r->len_bytes, r->offset_bytes,
                     strerror(rc));
    nbdkit_set_error(rc);
    return -1;
}

static int plugin_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset,
                         uint32_t flags)
{
    (void)handle;
    return change(&(const struct guard_request){.what = GUARD_WRITE,
                                                .offset_bytes = offset,
                                                .len_bytes = count,
                                                .data = buf,
                                                .fua = (flags & NBDKIT_FLAG_FUA) != 0},
                  "write");
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle;
    return change(&(const struct guard_request){.what = GUARD_ZERO,
                                                .offset_bytes = offset,
                                                .len_bytes = count,
                                                .may_trim = (flags & NBDKIT_FLAG_MAY_TRIM) != 0,
                                                .fua = (flags & NBDKIT_FLAG_FUA) != 0},
                  "zero");
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle;
    return change(&(const struct guard_request){.what = GUARD_TRIM,
                                                .offset_bytes = offset,
                                                .len_bytes = count,
                                                .fua = (flags & NBDKIT_FLAG_FUA) != 0},
                  "trim");
}

static int plugin_flush(void *handle, uint32_t flags)
{
    struct err err = ERR_INIT;
    (void)handle;
    (void)flags;
    if (origin_sync(&guard.origin, &err) == 0)
        return 0;
    nbdkit_set_error(err.sys_errno != 0 ? err.sys_errno : EIO);
    return fail(&err);
}

static int plugin_cache(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle;
    (void)flags;
    origin_will_need(&guard.origin, offset, count);
    return 0;
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                          struct nbdkit_extents *extents)
{
    uint64_t end = offset + count;
    (void)handle;
    while (offset < end) {
        bool hole;
        uint64_t to = origin_extent_end(&guard.origin, offset, &hole);
        if (to <= offset)
            to = end;
        if (nbdkit_add_extent(extents, offset, to - offset,
                              hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0) < 0)
            return -1;
        offset = to;
        if (flags & NBDKIT_FLAG_REQ_ONE)
            break;
    }
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "snapwire-guard",
    .longname = "Snapwire guard: a local disk with snapshots on a daemon",
    .version = SNAPWIRE_VERSION,
    .description =
        "Serve a local disk or file, whose old content goes to a snapshot of a snapwired\n"
        "daemon before it is overwritten. See nbdkit-snapwire-guard-plugin(1).",
    .load = plugin_load,
    .unload = plugin_unload,
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .config_help = plugin_config_help,
    .get_ready = plugin_get_ready,
    .after_fork = plugin_after_fork,
    .cleanup = plugin_cleanup,
    .open = plugin_open,
    .get_size = plugin_get_size,
    .can_write = plugin_yes,
    .can_flush = plugin_yes,
    .can_trim = plugin_yes,
    .can_zero = plugin_yes,
    .can_fast_zero = plugin_yes,
    .can_multi_conn = plugin_yes,
    .can_extents = plugin_yes,
    .can_fua = plugin_can_fua,
    .can_cache = plugin_can_cache,
    .block_size = plugin_block_size,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .zero = plugin_zero,
    .trim = plugin_trim,
    .flush = plugin_flush,
    .cache = plugin_cache,
    .extents = plugin_extents,
};

struct nbdkit_plugin *plugin_init(void);
NBDKIT_REGISTER_PLUGIN(plugin)
