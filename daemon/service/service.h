/* SPDX-License-Identifier: Apache-2.0 */
/* The service as main sees it: start, serve, reload, stop. Thread: main's. */
#ifndef SNAP_SERVICE_SERVICE_H
#define SNAP_SERVICE_SERVICE_H

#include "common/base/err.h"
#include "common/net/loop.h"
#include "daemon/service/config.h"

#include <stdbool.h>

struct service;

/* Would it start? Load the certificates and look at the state directory, and change nothing. warn
 * is told of what is odd. Errors: as a start would end. */
int service_check(const struct config *config, void (*warn)(void *user, const char *text),
                  void *user, struct err *reterr) SNAP_WUR;

/* May the process have the files that a start opens? Before anything else: libraries end the
 * process when they get none. Errors: SNAP_ELIMIT. */
int service_check_files(const struct config *config, struct err *reterr) SNAP_WUR;
/* What an operator can do about a start that has failed so; NULL: the error says it. */
const char *service_remedy(const struct err *err);

/* Owns: freed with service_free(). config is borrowed and constant. */
int service_new(const struct config *config, struct loop *main_loop, struct service **ret,
                struct err *reterr) SNAP_WUR;
void service_free(struct service *s); /* takes NULL; after service_stop() or a failed start */

/* The steps of a start, in this order; what a step made is undone by service_free(). */
int service_open_state(struct service *s, bool rebuild_registry, struct err *reterr) SNAP_WUR;
int service_start_shards(struct service *s, struct err *reterr) SNAP_WUR;
int service_open_volumes(struct service *s, struct err *reterr) SNAP_WUR;
int service_listen(struct service *s, struct err *reterr) SNAP_WUR;
/* "snapwired ready" with every address. */
void service_log_ready(const struct service *s);

/* Certificates, revocation list, limits and log level of a newly loaded configuration. The
 * rest needs a restart, which is told. Errors: nothing has changed. */
int service_reload(struct service *s, const struct config *next, struct err *reterr) SNAP_WUR;

/* Stop accepting, finish or refuse what is in flight, close the volumes; then done, on the
 * main loop. clean: false when time ran out. */
void service_stop(struct service *s, void (*done)(void *user, bool clean), void *user);

#endif
