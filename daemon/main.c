/* SPDX-License-Identifier: Apache-2.0 */
/* snapwired: command line, order of start and stop, signals.
 *
 *   configuration ──> subsystems, in the order of one table ──> ready ──> loop
 *        SIGHUP: reload      SIGTERM, SIGINT: stop, in the reverse order; a second one: at once
 *
 * Thread: the main thread has the listeners, signals and the metrics endpoint; requests
 * are the shards'.
 */
#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/std_fds.h"
#include "common/net/loop.h"
#include "daemon/service/config.h"
#include "daemon/service/notify.h"
#include "daemon/service/service.h"

#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_PATH_DEFAULT "/etc/snapwire/snapwired.conf"

struct daemon {
    const char *config_path;
    const char *state_dir; /* from the command line; NULL */
    bool check_config, rebuild_registry;
    struct config config;
    struct loop *loop;
    struct service *service;
    bool stopping, clean;
};

/* -- command line -------------------------------------------------------------------------- */

/* libc looks for it by name, so it must be seen outside this program's hidden symbols */
__attribute__((visibility("default"))) const char *argp_program_version =
    "snapwired " SNAPWIRE_VERSION;

enum { OPT_CHECK = 0x100, OPT_REBUILD, OPT_STATE_DIR };

static const struct argp_option options[] = {
    {"config", 'c', "FILE", 0, "Configuration file (" CONFIG_PATH_DEFAULT ")", 0},
    {"check-config", OPT_CHECK, NULL, 0, "Read the configuration, say what is wrong, and exit", 0},
    {"rebuild-registry", OPT_REBUILD, NULL, 0,
     "Make the registry anew from the volumes' records, and exit; the old one is kept beside it",
     0},
    {"state-dir", OPT_STATE_DIR, "DIR", 0, "Use this state directory instead", 0},
    {NULL, 0, NULL, 0, NULL, 0},
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    struct daemon *d = state->input;
    switch (key) {
    case 'c':
        d->config_path = arg;
        return 0;
    case OPT_CHECK:
        d->check_config = true;
        return 0;
    case OPT_REBUILD:
        d->rebuild_registry = true;
        return 0;
    case OPT_STATE_DIR:
        d->state_dir = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "unexpected argument \"%s\"", arg);
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    options, parse_option, NULL, "Serves COW devices to clients: the Snapwire daemon.",
    NULL,    NULL,         NULL};

/* -- configuration --------------------------------------------------------------------------- */

static void config_warning(void *user, const char *text)
{
    (void)user;
    LOG_WARN("configuration", F_STR("warning", text));
}

static int daemon_load_config(const struct daemon *d, struct config *ret, struct err *reterr)
{
    int rc = config_load(d->config_path, ret, config_warning, NULL, reterr);
    if (rc < 0 || d->state_dir == NULL)
        return rc;
    if (strlen(d->state_dir) >= sizeof ret->state_dir)
        return err_set(reterr, SNAP_EINVAL, "--state-dir: too long");
    (void)snprintf(ret->state_dir, sizeof ret->state_dir, "%s", d->state_dir);
    return 0;
}

/* -- signals ----------------------------------------------------------------------------------- */

static void daemon_stopped(void *user, bool clean)
{
    struct daemon *d = user;
    d->clean = clean;
    loop_stop(d->loop);
}

static void daemon_on_stop(void *user)
{
    struct daemon *d = user;
    if (d->stopping) {
        LOG_WARN("second signal: ending at once");
        _exit(EXIT_FAILURE);
    }
    d->stopping = true;
    LOG_INFO("stopping");
    notify_stopping();
    service_stop(d->service, daemon_stopped, d);
}

static void daemon_on_reload(void *user)
{
    struct daemon *d = user;
    struct err err = ERR_INIT;
    struct config *next = malloc(sizeof *next);
    if (next == NULL)
        LOG_ERROR("reload failed, all stays as it was: out of memory");
    if (d->stopping || next == NULL) {
        free(next);
        return;
    }
    notify_reloading();
    int rc = daemon_load_config(d, next, &err);
    if (rc == 0)
        rc = service_reload(d->service, next, &err);
    if (rc < 0)
        LOG_ERROR("reload failed, all stays as it was", F_ERR(&err));
    else
        LOG_INFO("configuration reloaded");
    free(next);
    notify_ready();
}

/* -- subsystems ----------------------------------------------------------------------------------
 */

static int start_loop(struct daemon *d, struct err *reterr)
{
    int rc = service_check_files(&d->config, reterr);
    if (rc == 0)
        rc = loop_new(&d->loop, reterr);
    if (rc == 0)
        rc = loop_signal(d->loop, SIGTERM, daemon_on_stop, d, reterr);
    if (rc == 0)
        rc = loop_signal(d->loop, SIGINT, daemon_on_stop, d, reterr);
    if (rc == 0)
        rc = loop_signal(d->loop, SIGHUP, daemon_on_reload, d, reterr);
    return rc;
}

static void stop_loop(struct daemon *d)
{
    loop_free(d->loop);
}

static int start_service(struct daemon *d, struct err *reterr)
{
    return service_new(&d->config, d->loop, &d->service, reterr);
}

static void stop_service(struct daemon *d)
{
    service_free(d->service);
}

static int start_state(struct daemon *d, struct err *reterr)
{
    return service_open_state(d->service, d->rebuild_registry, reterr);
}

static int start_shards(struct daemon *d, struct err *reterr)
{
    return service_start_shards(d->service, reterr);
}

static int start_volumes(struct daemon *d, struct err *reterr)
{
    return service_open_volumes(d->service, reterr);
}

static int start_listeners(struct daemon *d, struct err *reterr)
{
    return service_listen(d->service, reterr);
}

/* Started from the top down, stopped from the bottom up. */
static const struct subsystem {
    const char *name;
    int (*start)(struct daemon *d, struct err *reterr);
    void (*stop)(struct daemon *d);
} subsystems[] = {
    {"loop", start_loop, stop_loop},  {"service", start_service, stop_service},
    {"state", start_state, NULL},     {"shards", start_shards, NULL},
    {"volumes", start_volumes, NULL}, {"listeners", start_listeners, NULL},
};
enum {
    SUBSYSTEMS = sizeof subsystems / sizeof subsystems[0],
    SUBSYSTEMS_FOR_REBUILD = 3,  /* up to the state */
    SUBSYSTEMS_WITH_VOLUMES = 5, /* from here on there are stores to close */
};

static int daemon_start(struct daemon *d, size_t count, size_t *ret_started, struct err *reterr)
{
    for (size_t i = 0; i < count; i++) {
        *ret_started = i + 1; /* a failed one is stopped too: it undoes its half */
        int rc = subsystems[i].start(d, reterr);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void daemon_stop(struct daemon *d, size_t started)
{
    while (started-- > 0)
        if (subsystems[started].stop != NULL)
            subsystems[started].stop(d);
}

/* -- running -------------------------------------------------------------------------------------
 */

static void daemon_prepare_process(void)
{
    struct rlimit files;
    (void)umask(077);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is a write that fails */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max; /* a descriptor a COW device */
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
}

static int daemon_run(struct daemon *d)
{
    struct err err = ERR_INIT;
    size_t started = 0;
    int rc =
        daemon_start(d, d->rebuild_registry ? SUBSYSTEMS_FOR_REBUILD : SUBSYSTEMS, &started, &err);
    if (rc < 0) {
        const char *remedy = service_remedy(&err);
        const struct log_field help = {
            .key = remedy != NULL ? "remedy" : NULL, .kind = LOG_FIELD_STR, .v.str = remedy};
        LOG_ERROR("snapwired cannot start", F_ERR(&err), help);
        if (started >= SUBSYSTEMS_WITH_VOLUMES) {
            service_stop(d->service, daemon_stopped, d);
            loop_run(d->loop);
        }
    } else if (d->rebuild_registry) {
        LOG_INFO("registry rebuilt");
    } else {
        service_log_ready(d->service);
        notify_ready();
        loop_run(d->loop);
        if (!d->clean) {
            /* a disk that does not answer holds a shard: leave without waiting for it */
            LOG_ERROR("stopped without closing everything: the time was over");
            _exit(EXIT_FAILURE);
        }
        LOG_INFO("stopped");
    }
    daemon_stop(d, started);
    return rc < 0 ? err_exit_code(rc) : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    if (std_fds_occupy() < 0) /* no line of the log is to be written to a volume */
        return err_exit_code(SNAP_EINTERNAL);
    struct daemon *d = calloc(1, sizeof *d);
    struct err err = ERR_INIT;
    if (d == NULL) {
        (void)fputs("snapwired: out of memory\n", stderr);
        return err_exit_code(SNAP_ENOMEM);
    }
    d->config_path = CONFIG_PATH_DEFAULT;
    argp_err_exit_status = err_exit_code(SNAP_EINVAL);
    if (argp_parse(&argp, argc, argv, 0, NULL, d) != 0)
        return err_exit_code(SNAP_EINVAL);
    daemon_prepare_process();
    int rc = daemon_load_config(d, &d->config, &err);
    if (rc == 0 && d->check_config && service_check(&d->config, config_warning, NULL, &err) < 0)
        rc = err_prefix(&err, "%s", d->config_path);
    if (rc < 0) {
        const bool untold = rc == SNAP_ENOMEM && strstr(err.text, "memory") == NULL;
        (void)fprintf(stderr, "snapwired: %s%s\n", err.text, untold ? ": out of memory" : "");
        rc = err_exit_code(rc);
    } else if (d->check_config) {
        (void)printf("%s: sound\n", d->config_path);
    } else {
        log_set_level(d->config.log_level);
        rc = daemon_run(d);
    }
    free(d);
    return rc;
}
