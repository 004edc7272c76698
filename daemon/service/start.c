/* SPDX-License-Identifier: Apache-2.0 */
/* Bringing the service up.
 *
 *   state: lock, rights, records, registry ──> shards, control thread ──> volumes,
 *   each on its shard, all at once ──> certificates, listeners, metrics
 *
 * A volume that cannot be opened, or a COW device in one, is told and left out; a state
 * directory that cannot be trusted as a whole (rights or registry damaged) stops the start.
 * Thread: main's; shards are waited for.
 */
#include "daemon/service/service_priv.h"

#include "common/base/bytes.h"
#include "common/base/log.h"
#include "common/base/rng.h"
#include "daemon/service/group_turn.h"
#include "daemon/service/trash.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct part *server_part_of(struct server *server, const struct uuid *volume)
{
    return &server->parts[uuid_hash(volume) % server->part_count];
}

/* How long a store is left alone before it prepares the space that it will need next. */
enum { SERVICE_IDLE_AFTER_MS = 20 };

void server_warn(struct server *server, const char *fmt, ...)
{
    char text[ERR_TEXT_BYTES + LIMIT_PATH_BYTES];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    LOG_WARN(text);
    if (server->warning_count == SERVER_WARNINGS_MAX)
        return;
    char *copy = strdup(text);
    if (copy != NULL)
        server->warnings[server->warning_count++] = copy;
}

static void service_warn(void *user, const char *text)
{
    server_warn(user, "%s", text);
}

/* What volumes do on their own account. */
static void service_notice(void *user, const struct volume *v, const char *snapshot,
                           const char *what, const struct err *err)
{
    (void)user;
    const struct log_field of = {
        .key = snapshot != NULL ? "snapshot" : NULL, .kind = LOG_FIELD_STR, .v.str = snapshot};
    if (err != NULL)
        LOG_WARN(what, F_STR("volume", v->record.name), of, F_ERR(err));
    else
        LOG_INFO(what, F_STR("volume", v->record.name), of);
}

static void service_set_limits(struct server *server, const struct config *config)
{
    struct server_limits *l = &server->limits;
    atomic_store(&l->connections_per_client, config->connections_per_client);
    atomic_store(&l->requests_per_connection, config->requests_per_connection);
    atomic_store(&l->connections_total, config->connections_total);
    atomic_store(&l->volumes_per_client, config->volumes_per_client);
    atomic_store(&l->space_per_client_bytes, config->space_per_client_bytes);
}

int service_new(const struct config *config, struct loop *main_loop, struct service **ret,
                struct err *reterr)
{
    struct service *s = calloc(1, sizeof *s);
    if (s == NULL)
        return err_set(reterr, SNAP_ENOMEM, "service");
    s->lock_fd = -1;
    s->live = *config;
    struct server *server = &s->server;
    server->config = config;
    server->main_loop = main_loop;
    server->instance = uuid_make();
    server->env = (struct volume_env){.state_dir = config->state_dir,
                                      .storage = &volume_storage_files,
                                      .clock = clock_system(),
                                      .cow_limit_bytes = config->cow_limit_bytes,
                                      .cow_grow_step_bytes = config->cow_grow_step_bytes,
                                      .chunk_size_sectors = config->chunk_size_sectors,
                                      .lease_ttl_ms = config->lease_ttl_ms,
                                      .checksums = config->checksums,
                                      .idle_after_ms = SERVICE_IDLE_AFTER_MS,
                                      .scrub_interval_s = config->scrub_interval_s,
                                      .notice = service_notice,
                                      .flush_failed = boot_flush_failed,
                                      .flush_failed_user = server};
    server->started_ns = clock_now_ns(server->env.clock);
    server->clients = clients_new();
    server->group_turns = group_turns_new();
    service_set_limits(server, config);
    server->env.space_of = clients_space_of;
    server->env.space_user = server->clients;
    server->env.space_bytes_max = &server->limits.space_per_client_bytes;
    if (server->clients == NULL || server->group_turns == NULL) {
        clients_free(server->clients);
        group_turns_free(server->group_turns);
        free(s);
        return err_set(reterr, SNAP_ENOMEM, "service");
    }
    *ret = s;
    return 0;
}

/* -- state ------------------------------------------------------------------------------- */

static void service_trash_key(void *user, const struct uuid *key)
{
    struct err err = ERR_INIT;
    if (registry_key_put(user, key, 0, &err) < 0)
        LOG_WARN("the key of a deletion is not kept", F_ERR(&err));
}

/* On a full disk the volumes are served all the same, so that some of what fills it can be deleted:
 * the records are the truth, and the next start brings the file up to them. Keys of deletions are
 * taken along; those of this run end with it, and a deletion that is asked for again after the next
 * start is told that there is no such volume. */
static int service_registry_in_memory(struct service *s, struct err *reterr)
{
    struct server *server = &s->server;
    struct registry *lagging = server->registry;
    struct err err = ERR_INIT;
    server_warn(server,
                "the registry is kept in memory until the next start; make room in the file system "
                "of %s, then restart: %s",
                server->config->state_dir, reterr->text);
    err_clear(reterr);
    server->registry = NULL;
    int rc = registry_open(REGISTRY_IN_MEMORY, &server->registry, reterr);
    if (rc == 0 && lagging != NULL && registry_copy_keys(lagging, server->registry, &err) < 0)
        LOG_WARN("the keys of deletions are not kept", F_ERR(&err));
    registry_close(lagging);
    if (rc == 0)
        rc =
            state_registry_compare(server->registry, &s->found, true, service_warn, server, reterr);
    return rc;
}

static int service_open_registry(struct service *s, bool rebuild, struct err *reterr)
{
    struct server *server = &s->server;
    bool is_new = false;
    int rc =
        state_registry_open(server->config->state_dir, rebuild, &is_new, &server->registry, reterr);
    if (rc == 0)
        rc = state_registry_compare(server->registry, &s->found, is_new, service_warn, server,
                                    reterr);
    if (rc == SNAP_ENOSPC && !rebuild)
        rc = service_registry_in_memory(s, reterr);
    else if (rc == 0 && is_new && s->found.count > 0)
        LOG_INFO("registry made anew from the records", F_U64("volumes", s->found.count));
    return rc;
}

int service_open_state(struct service *s, bool rebuild_registry, struct err *reterr)
{
    struct server *server = &s->server;
    const char *path = server->config->state_dir;
    int rc = state_dir_open(path, &s->lock_fd, reterr);
    if (rc < 0)
        return rc;
    server->boot = boot_of(path);
    int n = snprintf(server->acl_path, sizeof server->acl_path, "%s/acl", path);
    if (n < 0 || (size_t)n >= sizeof server->acl_path)
        return err_set(reterr, SNAP_EINVAL, "the state directory's path is too long");
    rc = acl_load(server->acl_path, &server->acl, reterr);
    if (rc == 0)
        rc = state_dir_scan(path, &s->found, service_warn, server, reterr);
    if (rc == 0)
        rc = service_open_registry(s, rebuild_registry, reterr);
    if (rc == 0) {
        trash_each_key(path, service_trash_key, server->registry);
        trash_empty(path);
    }
    server->env.registry = server->registry;
    return rc;
}

/* -- shards -------------------------------------------------------------------------------- */

int service_start_shards(struct service *s, struct err *reterr)
{
    struct server *server = &s->server;
    const struct config *config = server->config;
    unsigned count = service_shard_count(config);
    int rc = control_new(&server->control, reterr);
    if (rc < 0)
        return rc;
    server->env.control = server->control;
    server->parts = calloc(count, sizeof *server->parts);
    if (server->parts == NULL)
        return err_set(reterr, SNAP_ENOMEM, "shards");
    for (unsigned i = 0; i < count; i++) {
        struct part *part = &server->parts[i];
        struct shard_config shard_config = {.index = i,
                                            .io_engine = config->io_engine,
                                            .poll_us = config->poll_us,
                                            .receive_bytes_max = config->buffer_bytes_max,
                                            .answer_bytes_max = config->buffer_bytes_max,
                                            .write_bytes_max = config->buffer_bytes_max,
                                            .cache_bytes = config->cache_bytes / count};
        part->server = server;
        part->index = i;
        TAILQ_INIT(&part->sessions);
        part->events_lost.fn = session_events_lost;
        rc = shard_new(&shard_config, &part->shard, reterr);
        if (rc < 0)
            return rc;
        volume_set_init(&part->set, part->shard, &server->env, acl_ref(server->acl));
        server->part_count++;
    }
    return service_stop_prepare(s, reterr);
}

/* -- volumes ------------------------------------------------------------------------------- */

struct opening {
    struct loop_msg msg;
    struct part *part;
    struct volume_record record;
    struct open_wait *wait;
    int code;
    struct err err;
};

struct open_wait {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    uint32_t pending;
};

static void opening_end(void *user, int code, const struct err *err)
{
    struct opening *o = user;
    o->code = code;
    if (code < 0)
        (void)err_copy(&o->err, err);
    pthread_mutex_lock(&o->wait->lock);
    o->wait->pending--;
    pthread_cond_signal(&o->wait->cond);
    pthread_mutex_unlock(&o->wait->lock);
}

static void opening_run(struct loop_msg *msg)
{
    struct opening *o = CONTAINER_OF(msg, struct opening, msg);
    struct volume *v = NULL;
    struct err err = ERR_INIT;
    int rc = volume_new(&o->part->set, &o->record, &v, &err);
    if (rc < 0)
        opening_end(o, rc, &err);
    else
        volume_open(v, opening_end, o);
}

/* More than a limit allows may be there: it was higher then. */
static int service_count_volumes(struct service *s, struct err *reterr)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < s->found.count; i++)
        rc = clients_add_volume(s->server.clients, volume_owner(&s->found.records[i]), 0, reterr);
    return rc;
}

int service_open_volumes(struct service *s, struct err *reterr)
{
    struct server *server = &s->server;
    uint32_t count = s->found.count;
    int rc = service_count_volumes(s, reterr);
    if (rc < 0)
        return rc;
    struct open_wait wait = {.pending = count};
    struct opening *all = calloc((size_t)count + 1, sizeof *all);
    if (all == NULL)
        return err_set(reterr, SNAP_ENOMEM, "volumes");
    pthread_mutex_init(&wait.lock, NULL);
    pthread_cond_init(&wait.cond, NULL);
    s->found.count = 0; /* each record is its volume's from here on */
    for (uint32_t i = 0; i < count; i++) {
        all[i] = (struct opening){.msg = {.fn = opening_run},
                                  .record = s->found.records[i],
                                  .part = server_part_of(server, &s->found.records[i].id),
                                  .wait = &wait};
        shard_post(all[i].part->shard, &all[i].msg);
    }
    pthread_mutex_lock(&wait.lock);
    while (wait.pending > 0)
        pthread_cond_wait(&wait.cond, &wait.lock);
    pthread_mutex_unlock(&wait.lock);
    for (uint32_t i = 0; i < count; i++)
        if (all[i].code < 0)
            rc = err_copy(reterr, &all[i].err);
    pthread_cond_destroy(&wait.cond);
    pthread_mutex_destroy(&wait.lock);
    free(all);
    state_volumes_done(&s->found);
    return rc;
}

/* -- listening ------------------------------------------------------------------------------- */

static void service_accepted(void *user, int fd, bool local)
{
    session_accept(user, fd, local);
}

/* Served from the end of the start to the begin of the stop: who is answered meets a daemon that
 * serves. */
static int service_healthz(struct http_reply *ret, struct err *reterr)
{
    static const char ok[] = "ok\n";
    ret->text = strdup(ok);
    ret->len = sizeof ok - 1;
    return ret->text != NULL ? 0 : err_set(reterr, SNAP_ENOMEM, "health");
}

static int service_http_get(void *user, const char *path, struct http_reply *ret,
                            struct err *reterr)
{
    if (strcmp(path, "/healthz") == 0)
        return service_healthz(ret, reterr);
    if (strcmp(path, "/metrics") != 0)
        return err_set(reterr, SNAP_ENOENT, "there are /metrics and /healthz");
    ret->content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    return metrics_scrape(user, &ret->text, &ret->len, reterr);
}

struct tls_change {
    struct loop_msg msg;
    struct part *part;
    struct tls_context *tls;
};

static void tls_change_run(struct loop_msg *msg)
{
    struct tls_change *c = CONTAINER_OF(msg, struct tls_change, msg);
    part_set_tls(c->part, c->tls);
    free(c);
}

/* Load the certificates and hand them to every part, or change nothing. */
static int service_load_tls(struct service *s, const struct config *config, struct err *reterr)
{
    struct server *server = &s->server;
    struct tls_context *tls = NULL;
    int rc = service_new_tls(config, &tls, reterr);
    if (rc < 0 || tls == NULL)
        return rc;
    struct tls_change *changes[SERVER_SHARDS_MAX] = {NULL};
    for (unsigned i = 0; i < server->part_count && rc == 0; i++) {
        changes[i] = calloc(1, sizeof *changes[i]);
        if (changes[i] == NULL)
            rc = err_set(reterr, SNAP_ENOMEM, "certificates");
    }
    for (unsigned i = 0; i < server->part_count; i++) {
        if (rc < 0) {
            free(changes[i]);
            continue;
        }
        *changes[i] = (struct tls_change){
            .msg = {.fn = tls_change_run}, .part = &server->parts[i], .tls = tls_context_ref(tls)};
        shard_post(server->parts[i].shard, &changes[i]->msg);
    }
    tls_context_unref(rc < 0 ? tls : s->tls);
    if (rc == 0)
        s->tls = tls;
    return rc;
}

int service_listen(struct service *s, struct err *reterr)
{
    struct server *server = &s->server;
    const struct config *config = server->config;
    struct addr a;
    int rc = service_load_tls(s, config, reterr);
    if (rc == 0)
        rc = watch_start(&s->watch, server->main_loop, config->state_dir, &s->tls, reterr);
    for (unsigned i = 0; rc == 0 && i < config->listen_count; i++) {
        rc = addr_parse(config->listen[i], &a, reterr);
        if (rc == 0)
            rc = listener_new(server->main_loop, &a, 0660, service_accepted, server,
                              &s->listeners[i], reterr);
        if (rc < 0)
            return rc;
        s->listener_count++;
    }
    if (rc < 0 || config->metrics_listen[0] == '\0')
        return rc;
    rc = addr_parse(config->metrics_listen, &a, reterr);
    if (rc == 0)
        rc = http_server_new(server->main_loop, &a, service_http_get, server, &s->http, reterr);
    return rc < 0 ? err_prefix(reterr, "metrics_listen") : 0;
}

/* The port that was chosen stands where the configuration says 0. */
static void service_address(const char *text, uint16_t port, char *buf, size_t buf_bytes)
{
    struct addr a;
    if (addr_parse(text, &a, NULL) < 0) {
        (void)snprintf(buf, buf_bytes, "%s", text);
        return;
    }
    if (!a.unix_socket)
        a.port = port;
    (void)addr_format(&a, buf, buf_bytes);
}

void service_log_ready(const struct service *s)
{
    static char texts[CONFIG_LISTEN_MAX + 1][LIMIT_PATH_BYTES];
    struct log_field fields[CONFIG_LISTEN_MAX + 6];
    const struct config *config = s->server.config;
    size_t n = 0;
    for (unsigned i = 0; i < s->listener_count; i++) {
        service_address(config->listen[i], listener_port(s->listeners[i]), texts[i],
                        sizeof texts[i]);
        fields[n++] = F_STR("listen", texts[i]);
    }
    if (s->http != NULL) {
        service_address(config->metrics_listen, http_server_port(s->http), texts[CONFIG_LISTEN_MAX],
                        sizeof texts[0]);
        fields[n++] = F_STR("metrics", texts[CONFIG_LISTEN_MAX]);
    }
    fields[n++] = F_STR("version", SNAPWIRE_VERSION);
    fields[n++] = F_I64("pid", (int64_t)getpid());
    fields[n++] = F_STR("io_engine", blk_engine_kind(s->server.parts[0].shard->engine));
    fields[n++] = F_U64("shards", s->server.part_count);
    log_write(LOG_LEVEL_INFO, "snapwired ready", fields, n);
}

/* -- reloading ----------------------------------------------------------------------------- */

static bool service_needs_restart(const struct config *a, const struct config *b)
{
    bool same = strcmp(a->state_dir, b->state_dir) == 0 && a->listen_count == b->listen_count &&
                strcmp(a->metrics_listen, b->metrics_listen) == 0 && a->shards == b->shards &&
                strcmp(a->io_engine, b->io_engine) == 0 && a->poll_us == b->poll_us &&
                a->lease_ttl_ms == b->lease_ttl_ms && a->cow_limit_bytes == b->cow_limit_bytes &&
                a->chunk_size_sectors == b->chunk_size_sectors &&
                a->cow_grow_step_bytes == b->cow_grow_step_bytes &&
                a->full_policy == b->full_policy && a->checksums == b->checksums &&
                a->scrub_interval_s == b->scrub_interval_s &&
                a->handshake_timeout_ms == b->handshake_timeout_ms &&
                a->frame_timeout_ms == b->frame_timeout_ms && a->keepalive_ms == b->keepalive_ms &&
                a->window_bytes == b->window_bytes && a->buffer_bytes_max == b->buffer_bytes_max &&
                a->cache_bytes == b->cache_bytes;
    for (unsigned i = 0; same && i < a->listen_count; i++)
        same = strcmp(a->listen[i], b->listen[i]) == 0;
    return !same;
}

int service_reload(struct service *s, const struct config *next, struct err *reterr)
{
    int rc = service_load_tls(s, next, reterr);
    if (rc < 0)
        return rc;
    watch_again(&s->watch);
    service_set_limits(&s->server, next);
    log_set_level(next->log_level);
    if (service_needs_restart(s->server.config, next))
        LOG_WARN("some changed settings need a restart");
    s->live = *next;
    return 0;
}
