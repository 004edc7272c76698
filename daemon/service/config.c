/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration file, by libconfuse: one table of options, one of checks.
 *
 * libconfuse knows file and line of what it is parsing; its error call-back turns
 * that into "FILE:LINE: …". Checks of single values run as its validators, so
 * that they have the line too; rules over several values come after and name
 * the keys. The only file with libconfuse in it.
 *
 * Thread: main's, at start and on reload (libconfuse keeps the object being
 * filled in a global, here `loading`).
 */
#include "daemon/service/config_priv.h"

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/size.h"
#include "common/net/addr.h"
#include "daemon/shard/look.h"

#include <confuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_STATE_DIR "/var/lib/snapwire"
#define DEFAULT_TLS_DIR "/etc/snapwire/pki"

/* What a load in progress fills in: libconfuse's call-backs have no user pointer. */
static struct {
    const char *path; /* sections do not know their file */
    const cfg_t *top;
    struct err *reterr;
    int rc;
} loading;

static SNAP_PRINTF(2, 0) void on_error(cfg_t *cfg, const char *fmt, va_list ap)
{
    if (loading.rc < 0)
        return; /* the first one names the cause */
    char text[ERR_TEXT_BYTES];
    (void)vsnprintf(text, sizeof text, fmt, ap);
    const char *remedy = "";
    if (strstr(text, "no such option"))
        remedy = strchr(text, '.') ? "; write what is of a section as: section { key = value }"
                                   : "; snapwired.conf(5) lists those that there are";
    loading.rc = err_set(loading.reterr, SNAP_EINVAL, "%s:%d: %s%s", loading.path,
                         cfg ? cfg->line : 0, text, remedy);
}

/* -- checks of one value -------------------------------------------------------- */

/* A validator's error, with the key's full name before it. */
static SNAP_PRINTF(3, 4) int refuse(cfg_t *cfg, cfg_opt_t *opt, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (strcmp(cfg_name(cfg), "root") == 0)
        cfg_error(cfg, "%s: %s", cfg_opt_name(opt), text);
    else
        cfg_error(cfg, "%s.%s: %s", cfg_name(cfg), cfg_opt_name(opt), text);
    return -1;
}

static int check_size(cfg_t *cfg, cfg_opt_t *opt)
{
    uint64_t bytes;
    struct err why = ERR_INIT;
    if (size_parse(cfg_opt_getnstr(opt, 0), &bytes, &why) == 0)
        return 0;
    return refuse(cfg, opt, "%s", why.text);
}

static int check_chunk_size(cfg_t *cfg, cfg_opt_t *opt)
{
    uint64_t bytes = 0;
    if (check_size(cfg, opt) < 0)
        return -1;
    (void)!size_parse(cfg_opt_getnstr(opt, 0), &bytes, NULL);
    if (u64_is_pow2(bytes) && bytes >= SECTOR_BYTES &&
        bytes <= (uint64_t)LIMIT_CHUNK_SECTORS_MAX * SECTOR_BYTES)
        return 0;
    return refuse(cfg, opt, "must be a power of two from 512 to 16M");
}

static int check_addresses(cfg_t *cfg, cfg_opt_t *opt)
{
    for (unsigned i = 0; i < cfg_opt_size(opt); i++) {
        struct addr a;
        struct err why = ERR_INIT;
        const char *text = cfg_opt_getnstr(opt, i);
        if (text && *text && addr_parse(text, &a, &why) < 0)
            return refuse(cfg, opt, "%s", why.text);
    }
    return 0;
}

static int check_path(cfg_t *cfg, cfg_opt_t *opt)
{
    const char *path = cfg_opt_getnstr(opt, 0);
    if (*path && *path != '/')
        return refuse(cfg, opt, "'%s' must be an absolute path", path);
    if (strlen(path) >= LIMIT_PATH_BYTES)
        return refuse(cfg, opt, "path longer than %d bytes", LIMIT_PATH_BYTES - 1);
    return 0;
}

static int check_word(cfg_t *cfg, cfg_opt_t *opt, const char *const *words)
{
    const char *text = cfg_opt_getnstr(opt, 0);
    char list[128] = "";
    for (const char *const *w = words; *w; w++) {
        if (strcmp(text, *w) == 0)
            return 0;
        (void)snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s",
                       w == words ? "" : ", ", *w);
    }
    return refuse(cfg, opt, "'%s' is none of: %s", text, list);
}

static const char *const engine_words[] = {"auto", "io_uring", "threads", NULL};
static const char *const policy_words[] = {"refuse", "invalidate", NULL};
static const char *const level_words[] = {"error", "warn", "info", "debug", NULL};

static int check_engine(cfg_t *cfg, cfg_opt_t *opt)
{
    return check_word(cfg, opt, engine_words);
}

static int check_policy(cfg_t *cfg, cfg_opt_t *opt)
{
    return check_word(cfg, opt, policy_words);
}

static int check_level(cfg_t *cfg, cfg_opt_t *opt)
{
    return check_word(cfg, opt, level_words);
}

/* The range of every whole number. */
static const struct {
    const char *key;
    long min, max;
} int_ranges[] = {
    {"shards", 0, 256},
    {"poll_us", 0, LOOK_US_MAX},
    {"lease_ttl_ms", 1000, 3600 * 1000},
    {"scrub_interval_days", 0, 3650},
    {"handshake_timeout_ms", 100, 600 * 1000},
    {"frame_timeout_ms", 100, 600 * 1000},
    {"keepalive_ms", 100, 3600 * 1000},
    {"shutdown_timeout_ms", 100, 3600 * 1000},
    {"connections", 1, 1000 * 1000},
    {"connections_per_client", 1, 1000 * 1000},
    {"requests_per_connection", 1, LIMIT_REQUESTS_INFLIGHT},
    {"volumes_per_client", 1, 1000 * 1000},
};

static int check_int(cfg_t *cfg, cfg_opt_t *opt)
{
    long v = cfg_opt_getnint(opt, 0);
    for (size_t i = 0; i < ARRAY_LEN(int_ranges); i++) {
        if (strcmp(int_ranges[i].key, cfg_opt_name(opt)) != 0)
            continue;
        if (v >= int_ranges[i].min && v <= int_ranges[i].max)
            return 0;
        return refuse(cfg, opt, "%ld is not in %ld … %ld", v, int_ranges[i].min, int_ranges[i].max);
    }
    return 0;
}

static void set_checks(cfg_t *cfg)
{
    static const char *const sizes[] = {
        "cow|limit",     "cow|grow_step",  "limits|space_per_client",
        "limits|window", "limits|buffers", "cache|size"};
    static const char *const paths[] = {"state_dir", "tls|ca", "tls|certificate", "tls|key",
                                        "tls|crl"};
    static const char *const ints[] = {
        "shards",
        "poll_us",
        "lease_ttl_ms",
        "cow|scrub_interval_days",
        "timeouts|handshake_timeout_ms",
        "timeouts|frame_timeout_ms",
        "timeouts|keepalive_ms",
        "timeouts|shutdown_timeout_ms",
        "limits|connections",
        "limits|connections_per_client",
        "limits|requests_per_connection",
        "limits|volumes_per_client",
    };
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        cfg_set_validate_func(cfg, sizes[i], check_size);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        cfg_set_validate_func(cfg, paths[i], check_path);
    for (size_t i = 0; i < ARRAY_LEN(ints); i++)
        cfg_set_validate_func(cfg, ints[i], check_int);
    cfg_set_validate_func(cfg, "cow|chunk_size", check_chunk_size);
    cfg_set_validate_func(cfg, "cow|full_policy", check_policy);
    cfg_set_validate_func(cfg, "listen", check_addresses);
    cfg_set_validate_func(cfg, "metrics_listen", check_addresses);
    cfg_set_validate_func(cfg, "io_engine", check_engine);
    cfg_set_validate_func(cfg, "log_level", check_level);
}

/* -- from libconfuse's object to ours ---------------------------------------------- */

static void take_text(char *dst, size_t dst_bytes, const char *src)
{
    (void)snprintf(dst, dst_bytes, "%s", src ? src : "");
}

static uint64_t take_size(cfg_t *cfg, const char *key)
{
    uint64_t bytes = 0;
    (void)!size_parse(cfg_getstr(cfg, key), &bytes, NULL); /* the validator took it */
    return bytes;
}

static void take_all(cfg_t *cfg, struct config *c)
{
    take_text(c->state_dir, sizeof c->state_dir, cfg_getstr(cfg, "state_dir"));
    take_text(c->metrics_listen, sizeof c->metrics_listen, cfg_getstr(cfg, "metrics_listen"));
    c->listen_count = cfg_size(cfg, "listen");
    for (unsigned i = 0; i < c->listen_count; i++)
        take_text(c->listen[i], sizeof c->listen[i], cfg_getnstr(cfg, "listen", i));
    take_text(c->tls_ca, sizeof c->tls_ca, cfg_getstr(cfg, "tls|ca"));
    take_text(c->tls_certificate, sizeof c->tls_certificate, cfg_getstr(cfg, "tls|certificate"));
    take_text(c->tls_key, sizeof c->tls_key, cfg_getstr(cfg, "tls|key"));
    take_text(c->tls_crl, sizeof c->tls_crl, cfg_getstr(cfg, "tls|crl"));
    c->shards = (unsigned)cfg_getint(cfg, "shards");
    take_text(c->io_engine, sizeof c->io_engine, cfg_getstr(cfg, "io_engine"));
    c->poll_us = (uint32_t)cfg_getint(cfg, "poll_us");
    c->cow_limit_bytes = take_size(cfg, "cow|limit");
    c->cow_grow_step_bytes = take_size(cfg, "cow|grow_step");
    c->chunk_size_sectors = (uint32_t)(take_size(cfg, "cow|chunk_size") / SECTOR_BYTES);
    c->full_policy = strcmp(cfg_getstr(cfg, "cow|full_policy"), "invalidate") == 0;
    c->checksums = cfg_getbool(cfg, "cow|checksums") == cfg_true;
    c->scrub_interval_s = (uint64_t)cfg_getint(cfg, "cow|scrub_interval_days") * 86400;
    c->lease_ttl_ms = (uint32_t)cfg_getint(cfg, "lease_ttl_ms");
    c->handshake_timeout_ms = (uint32_t)cfg_getint(cfg, "timeouts|handshake_timeout_ms");
    c->frame_timeout_ms = (uint32_t)cfg_getint(cfg, "timeouts|frame_timeout_ms");
    c->keepalive_ms = (uint32_t)cfg_getint(cfg, "timeouts|keepalive_ms");
    c->shutdown_timeout_ms = (uint32_t)cfg_getint(cfg, "timeouts|shutdown_timeout_ms");
    c->connections_total = (uint32_t)cfg_getint(cfg, "limits|connections");
    c->connections_per_client = (uint32_t)cfg_getint(cfg, "limits|connections_per_client");
    c->requests_per_connection = (uint32_t)cfg_getint(cfg, "limits|requests_per_connection");
    c->volumes_per_client = (uint32_t)cfg_getint(cfg, "limits|volumes_per_client");
    c->space_per_client_bytes = take_size(cfg, "limits|space_per_client");
    c->window_bytes = take_size(cfg, "limits|window");
    c->buffer_bytes_max = take_size(cfg, "limits|buffers");
    c->cache_bytes = take_size(cfg, "cache|size");
    (void)!log_level_parse(cfg_getstr(cfg, "log_level"), &c->log_level, NULL);
}

/* clang-format off */
#define OPTIONS \
    cfg_opt_t tls_options[] = { \
        CFG_STR("ca", DEFAULT_TLS_DIR "/ca.crt", CFGF_NONE), \
        CFG_STR("certificate", DEFAULT_TLS_DIR "/server.crt", CFGF_NONE), \
        CFG_STR("key", DEFAULT_TLS_DIR "/server.key", CFGF_NONE), \
        CFG_STR("crl", "", CFGF_NONE), \
        CFG_END(), \
    }; \
    cfg_opt_t cow_options[] = { \
        CFG_STR("limit", "64G", CFGF_NONE), \
        CFG_STR("grow_step", "64M", CFGF_NONE), \
        CFG_STR("chunk_size", "16K", CFGF_NONE), \
        CFG_STR("full_policy", "refuse", CFGF_NONE), \
        CFG_BOOL("checksums", cfg_true, CFGF_NONE), \
        CFG_INT("scrub_interval_days", 30, CFGF_NONE), \
        CFG_END(), \
    }; \
    cfg_opt_t cache_options[] = { \
        CFG_STR("size", "1G", CFGF_NONE), \
        CFG_END(), \
    }; \
    cfg_opt_t timeout_options[] = { \
        CFG_INT("handshake_timeout_ms", 10000, CFGF_NONE), \
        CFG_INT("frame_timeout_ms", 30000, CFGF_NONE), \
        CFG_INT("keepalive_ms", 15000, CFGF_NONE), \
        CFG_INT("shutdown_timeout_ms", 30000, CFGF_NONE), \
        CFG_END(), \
    }; \
    cfg_opt_t limit_options[] = { \
        CFG_INT("connections", 4096, CFGF_NONE), \
        CFG_INT("connections_per_client", 1024, CFGF_NONE), \
        CFG_INT("requests_per_connection", 1024, CFGF_NONE), \
        CFG_INT("volumes_per_client", 10000, CFGF_NONE), \
        CFG_STR("space_per_client", "0", CFGF_NONE), \
        CFG_STR("window", "16M", CFGF_NONE), \
        CFG_STR("buffers", "512M", CFGF_NONE), \
        CFG_END(), \
    }; \
    cfg_opt_t options[] = { \
        CFG_STR("state_dir", DEFAULT_STATE_DIR, CFGF_NONE), \
        CFG_STR_LIST("listen", "{localhost:7453, unix:/run/snapwire/snapwired.sock}", CFGF_NONE), \
        CFG_STR("metrics_listen", "", CFGF_NONE), \
        CFG_INT("shards", 0, CFGF_NONE), \
        CFG_STR("io_engine", "auto", CFGF_NONE), \
        CFG_INT("poll_us", LOOK_US_DEFAULT, CFGF_NONE), \
        CFG_INT("lease_ttl_ms", 15000, CFGF_NONE), \
        CFG_STR("log_level", "info", CFGF_NONE), \
        CFG_SEC("tls", tls_options, CFGF_NONE), \
        CFG_SEC("cow", cow_options, CFGF_NONE), \
        CFG_SEC("cache", cache_options, CFGF_NONE), \
        CFG_SEC("timeouts", timeout_options, CFGF_NONE), \
        CFG_SEC("limits", limit_options, CFGF_NONE), \
        CFG_END(), \
    }
/* clang-format on */

static cfg_t *new_cfg(void)
{
    OPTIONS;
    cfg_t *cfg = cfg_init(options, CFGF_NONE);
    if (!cfg)
        return NULL;
    set_checks(cfg);
    return cfg;
}

void config_defaults(struct config *c)
{
    *c = (struct config){0};
    cfg_t *cfg = new_cfg();
    if (!cfg)
        return;
    take_all(cfg, c);
    (void)cfg_free(cfg);
}

/* -- is it whole? ------------------------------------------------------------------- */

static SNAP_PRINTF(2, 0) void ignore_error(cfg_t *cfg, const char *fmt, va_list ap)
{
    (void)cfg;
    (void)fmt;
    (void)ap;
}

/* libconfuse's scanner is one for all: where a text has left it, inside a comment or a string,
 * there the next one would begin. These are three remarks, or the end of one of those. */
static int parse_text(cfg_t *cfg, const char *text, cfg_errfunc_t on_fault)
{
    (void)cfg_set_error_function(cfg, on_fault);
    int rc = cfg_parse_buf(cfg, text);
    (void)cfg_set_error_function(cfg, ignore_error);
    (void)cfg_parse_buf(cfg, "\n#*/\n#\"\n#'\n");
    return rc;
}

/* The outer object's line stands still while a section is read. */
static SNAP_PRINTF(2, 0) void on_open_section(cfg_t *cfg, const char *fmt, va_list ap)
{
    (void)fmt;
    (void)ap;
    if (loading.rc == 0)
        loading.rc = err_set(loading.reterr, SNAP_EINVAL,
                             "%s:%d: %s: the section is not closed, its '}' is missing",
                             loading.path, loading.top->line, cfg_name(cfg));
}

/* libconfuse takes the end of the text for the end of all sections and comments. So a line is put
 * behind what it took that has a meaning outside of them only, and looked for. */
static int check_whole(const char *path, const char *text, const char *log_level,
                       struct err *reterr)
{
    const char *other = strcmp(log_level, "debug") == 0 ? "info" : "debug";
    CLEANUP_FREE char *longer = NULL;
    cfg_t *cfg = new_cfg();
    if (!cfg || asprintf(&longer, "%s\nlog_level = %s\n", text, other) < 0) {
        longer = NULL;
        (void)cfg_free(cfg);
        return err_set(reterr, SNAP_ENOMEM, "configuration");
    }
    loading.top = cfg;
    loading.reterr = reterr;
    if (parse_text(cfg, longer, on_open_section) == CFG_SUCCESS &&
        strcmp(cfg_getstr(cfg, "log_level"), other) != 0)
        loading.rc =
            err_set(reterr, SNAP_EINVAL, "%s: a comment or a quoted text is not closed", path);
    loading.top = NULL;
    loading.reterr = NULL;
    (void)cfg_free(cfg);
    return loading.rc;
}

/* The text is read before libconfuse sees it: its scanner ends the program on a read error. */
static int parse(cfg_t *cfg, const char *path, struct err *reterr)
{
    CLEANUP_FREE char *text = NULL;
    size_t len = 0;
    int rc = file_read_all(path, LIMIT_CONFIG_BYTES, &text, &len, reterr);
    if (rc == SNAP_ENOENT)
        return err_set(reterr, rc,
                       "%s: there is no such file; copy snapwired.conf.example there and edit it, "
                       "or name another with --config",
                       path);
    if (rc < 0)
        return rc;
    if (memchr(text, '\0', len))
        return err_set(reterr, SNAP_EINVAL, "%s: a zero byte in the text", path);
    loading.path = path;
    loading.reterr = reterr;
    loading.rc = 0;
    int parsed = parse_text(cfg, text, on_error);
    rc = loading.rc;
    loading.reterr = NULL;
    if (parsed != CFG_SUCCESS && rc == 0)
        rc = err_set(reterr, SNAP_EINVAL, "%s: cannot be parsed", path);
    if (rc == 0)
        rc = check_whole(path, text, cfg_getstr(cfg, "log_level"), reterr);
    if (rc == 0 && cfg_size(cfg, "listen") > CONFIG_LISTEN_MAX)
        rc = err_set(reterr, SNAP_EINVAL, "%s: listen: more than %d addresses", path,
                     CONFIG_LISTEN_MAX);
    return rc;
}

int config_load(const char *path, struct config *ret, void (*warn)(void *, const char *),
                void *user, struct err *reterr)
{
    cfg_t *cfg = new_cfg();
    if (!cfg)
        return err_set(reterr, SNAP_ENOMEM, "configuration");
    struct config c = {0};
    int rc = parse(cfg, path, reterr);
    if (rc == 0) {
        take_all(cfg, &c);
        rc = config_check_rules(path, &c, warn, user, reterr);
    }
    (void)cfg_free(cfg);
    if (rc == 0)
        *ret = c;
    return rc;
}
