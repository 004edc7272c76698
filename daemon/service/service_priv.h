/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SNAP_SERVICE_SERVICE_PRIV_H
#define SNAP_SERVICE_SERVICE_PRIV_H

#include "common/net/http.h"
#include "daemon/service/server.h"
#include "daemon/service/service.h"
#include "daemon/service/state_dir.h"
#include "daemon/service/watch.h"

enum stop_stage { STOP_NONE, STOP_REQUESTS, STOP_SESSIONS, STOP_VOLUMES, STOP_DONE };

struct service {
    struct server server;
    struct config live; /* the configuration as reloaded */
    int lock_fd;
    struct state_volumes found; /* between the scan and the opening */
    struct listener *listeners[CONFIG_LISTEN_MAX];
    unsigned listener_count;
    struct http_server *http;
    struct tls_context *tls;
    struct watch watch;

    enum stop_stage stage;
    struct loop_timer stop_timer;
    bool stop_timer_ready;
    struct part_message *stop_messages;
    uint64_t stop_deadline_ns;
    bool stop_clean;
    _Atomic unsigned parts_closing;
    void (*stop_done)(void *user, bool clean);
    void *stop_user;
};

/* stop.c: what service_stop() takes, so that it cannot fail. After the parts are there. */
int service_stop_prepare(struct service *s, struct err *reterr) SNAP_WUR;
/* check.c: the files that the configuration names; *ret NULL: nothing listens on TCP. */
int service_new_tls(const struct config *config, struct tls_context **ret,
                    struct err *reterr) SNAP_WUR;
/* needs.c: as configured, or as many as there are processors. */
unsigned service_shard_count(const struct config *config);
/* Any answer that has not gone out yet, over all parts. */
int64_t service_requests_under_way(const struct service *s);

#endif
