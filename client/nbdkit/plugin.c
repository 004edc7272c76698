/* SPDX-License-Identifier: Apache-2.0 */
/* nbdkit-snapwire-plugin: a daemon's hosted volumes, snapshots and clones as NBD exports.
 *
 *   config ──> config_complete ──> get_ready: is there what shall be served? (asked and left)
 *          ──> fork ──> after_fork: the first link ──> open … close ──> cleanup: links end
 *
 * Few links serve all NBD connections, in turn; a link is opened when a connection first needs
 * it, and stays, as it knows what it has written.
 *
 * It must not know how requests are made (serve.c) or names are resolved (disk.c).
 * Thread: nbdkit's; `links` grows under its lock, and an entry never changes.
 */
#include "client/nbdkit/fault.h"
#include "client/nbdkit/limit.h"
#include "client/nbdkit/serve.h"
#include "client/nbdkit/server_args.h"
#include "common/base/bytes.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

enum {
    BLOCK_BYTES_PREFERRED_MIN = 4096, /* the least that is worth a request */
    REQUEST_BYTES_MAX = 32 * 1024 * 1024,
    LINKS_DEFAULT = 1,
};

static struct {
    struct server_args server;
    char *volume; /* NULL: all of them */
    unsigned link_count;
    pthread_mutex_t lock;
    struct link *links[LINKS_MAX];
    unsigned next; /* connection's link, modulo link_count */
} plugin = {.link_count = LINKS_DEFAULT, .lock = PTHREAD_MUTEX_INITIALIZER};

/* -- parameters ------------------------------------------------------------------------- */

static int plugin_config(const char *key, const char *value)
{
    int rc = server_args_take(&plugin.server, key, value);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    if (strcmp(key, "connections") == 0) {
        if (nbdkit_parse_unsigned(key, value, &plugin.link_count) < 0)
            return -1;
        if (plugin.link_count >= 1 && plugin.link_count <= LINKS_MAX)
            return 0;
        nbdkit_error("connections=%s: it must be 1 to %d", value, (int)LINKS_MAX);
        return -1;
    }
    if (strcmp(key, "volume") != 0) {
        nbdkit_error("unknown parameter '%s'; nbdkit snapwire --help lists them", key);
        return -1;
    }
    if (plugin.volume) {
        nbdkit_error("volume= is given twice; without it all volumes are served, by name");
        return -1;
    }
    plugin.volume = strdup(value);
    if (!plugin.volume)
        nbdkit_error("out of memory");
    return plugin.volume ? 0 : -1;
}

static int plugin_config_complete(void)
{
    return server_args_complete(&plugin.server);
}

static void plugin_unload(void)
{
    server_args_done(&plugin.server);
    free(plugin.volume);
    plugin.volume = NULL;
    disk_forget_all();
    limit_file_size_done();
}

static void plugin_dump(void)
{
    printf("snapwire_version=%s\n", snapwire_version());
    printf("snapwire_connections_max=%d\n", (int)LINKS_MAX);
    printf("snapwire_flush_covers_all_connections=yes\n");
}

/* -- links ------------------------------------------------------------------------------ */

static int link_make(struct link **ret)
{
    const struct snapwire_config config = server_args_config(&plugin.server);
    struct snapwire_error why = {0};
    if (link_new(&config, plugin.server.server, ret, &why) == 0)
        return 0;
    nbdkit_error("%s: %s", plugin.server.server, why.text);
    return -1;
}

/* The link of that number, opened if need be; NULL: told why not. After the fork. */
static struct link *link_get(unsigned no)
{
    (void)pthread_mutex_lock(&plugin.lock);
    if (!plugin.links[no] && link_make(&plugin.links[no]) < 0)
        plugin.links[no] = NULL;
    struct link *l = plugin.links[no];
    if (l)
        link_watch(l);
    (void)pthread_mutex_unlock(&plugin.lock);
    return l;
}

/* What is wrong is said while somebody is looking. No thread of ours may live on: nbdkit forks
 * after this. */
static int plugin_get_ready(void)
{
    struct link *l = NULL;
    struct disk *disk;
    char name[DISK_NAME_BYTES];
    if (link_make(&l) < 0)
        return -1;
    int rc = plugin.volume ? disk_open(l, plugin.server.server, plugin.volume, &disk)
                           : disk_sole(l, plugin.server.server, name);
    link_free(l);
    return rc;
}

static int plugin_after_fork(void)
{
    return link_get(0) ? 0 : -1;
}

static void plugin_cleanup(void)
{
    for (unsigned i = 0; i < LINKS_MAX; i++) {
        link_free(plugin.links[i]);
        plugin.links[i] = NULL;
    }
}

/* -- exports ---------------------------------------------------------------------------- */

static int plugin_list_exports(int readonly, int is_tls, struct nbdkit_exports *exports)
{
    (void)readonly;
    (void)is_tls;
    if (plugin.volume)
        return nbdkit_add_export(exports, plugin.volume, NULL);
    struct link *l = link_get(0);
    return l ? disk_list(l, plugin.server.server, exports) : -1;
}

/* NULL: there is none, a client must name one. */
static const char *plugin_default_export(int readonly, int is_tls)
{
    char name[DISK_NAME_BYTES];
    (void)readonly;
    (void)is_tls;
    if (plugin.volume)
        return plugin.volume;
    struct link *l = link_get(0);
    if (!l || disk_sole(l, plugin.server.server, name) < 0 || !name[0])
        return NULL;
    return nbdkit_strdup_intern(name);
}

/* Which one a client means; NULL: told why none. */
static const char *wanted(void)
{
    const char *name = nbdkit_export_name();
    if (!name)
        return NULL;
    if (plugin.volume && *name && strcmp(name, plugin.volume) != 0) {
        nbdkit_error("export '%.300s': only %s is served here", name, plugin.volume);
        return NULL;
    }
    if (plugin.volume)
        return plugin.volume;
    if (!*name)
        nbdkit_error("no export named, and %s has not exactly one volume; nbdinfo --list shows "
                     "the names",
                     plugin.server.server);
    return *name ? name : NULL;
}

static void *plugin_open(int readonly)
{
    const char *name = wanted();
    (void)readonly;
    if (!name)
        return NULL;
    struct serve *s = calloc(1, sizeof *s);
    if (!s) {
        nbdkit_error("out of memory");
        return NULL;
    }
    (void)pthread_mutex_lock(&plugin.lock);
    s->link_no = plugin.next++ % plugin.link_count;
    (void)pthread_mutex_unlock(&plugin.lock);
    s->links = plugin.links;
    s->server = plugin.server.server;
    struct link *l = link_get(s->link_no);
    if (!l || disk_open(l, s->server, name, &s->disk) < 0) {
        free(s);
        return NULL;
    }
    return s;
}

static void plugin_close(void *handle)
{
    free(handle);
}

/* -- what a disk can -------------------------------------------------------------------- */

static int64_t plugin_get_size(void *handle)
{
    const struct serve *s = handle;
    return (int64_t)s->disk->size_bytes;
}

static const char *plugin_export_description(void *handle)
{
    const struct serve *s = handle;
    return nbdkit_printf_intern("%s at %s", s->disk->name, s->server);
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred,
                             uint32_t *maximum)
{
    const struct serve *s = handle;
    *minimum = 1;
    *preferred = (uint32_t)u64_max(s->disk->chunk_bytes, BLOCK_BYTES_PREFERRED_MIN);
    *maximum = REQUEST_BYTES_MAX;
    return 0;
}

static int writable(void *handle)
{
    const struct serve *s = handle;
    return s->disk->writable;
}

static int yes(void *handle)
{
    (void)handle;
    return 1;
}

static int no(void *handle)
{
    (void)handle;
    return 0;
}

static int native_fua(void *handle)
{
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

/* A read whose data is dropped: the daemon's host then has it in memory. */
static int emulated_cache(void *handle)
{
    (void)handle;
    return NBDKIT_CACHE_EMULATE;
}

/* -- requests --------------------------------------------------------------------------- */

static int plugin_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)flags;
    return serve_read(handle, buf, count, offset);
}

static int plugin_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset,
                         uint32_t flags)
{
    return serve_write(handle, buf, count, offset, flags);
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    return serve_zero(handle, count, offset, flags);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    return serve_trim(handle, count, offset, flags);
}

static int plugin_flush(void *handle, uint32_t flags)
{
    (void)flags;
    return serve_flush(handle);
}

static int plugin_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                          struct nbdkit_extents *extents)
{
    (void)flags;
    return serve_extents(handle, count, offset, extents);
}

static struct nbdkit_plugin snapwire = {
    .name = "snapwire",
    .longname = "Snapwire: volumes, snapshots and clones of a daemon",
    .version = SNAPWIRE_VERSION,
    .description = "Serve the hosted volumes of a snapwired daemon, their snapshots (read-only)\n"
                   "and clones. See nbdkit-snapwire-plugin(1).",
    .magic_config_key = "volume",
    .config_help =
        "[volume=]VOLUME[@SNAPSHOT]\n"
        "                       What to serve. Default: all volumes, snapshots and\n"
        "                       clones, as exports of their names.\n" SERVER_ARGS_HELP "\n"
        "connections=N          To the daemon, 1 to 8, shared by NBD's (default 1).",
    .load = limit_file_size_fails,
    .unload = plugin_unload,
    .dump_plugin = plugin_dump,
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .get_ready = plugin_get_ready,
    .after_fork = plugin_after_fork,
    .cleanup = plugin_cleanup,
    .list_exports = plugin_list_exports,
    .default_export = plugin_default_export,
    .export_description = plugin_export_description,
    .open = plugin_open,
    .close = plugin_close,
    .get_size = plugin_get_size,
    .block_size = plugin_block_size,
    .can_write = writable,
    .can_flush = writable,
    .can_trim = yes,
    .can_zero = yes,
    .can_fast_zero = yes,
    .can_extents = yes,
    .can_multi_conn = yes,
    .is_rotational = no,
    .can_fua = native_fua,
    .can_cache = emulated_cache,
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .zero = plugin_zero,
    .trim = plugin_trim,
    .flush = plugin_flush,
    .extents = plugin_extents,
};

struct nbdkit_plugin *plugin_init(void);
NBDKIT_REGISTER_PLUGIN(snapwire)
