/* SPDX-License-Identifier: Apache-2.0 */
/* snapwired's configuration file, parsed by libconfuse. Errors name file, line and key. */
#ifndef SNAP_SERVICE_CONFIG_H
#define SNAP_SERVICE_CONFIG_H

#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/base/log.h"

#include <stdbool.h>
#include <stdint.h>

enum { CONFIG_LISTEN_MAX = 16 };

struct config {
    char state_dir[LIMIT_PATH_BYTES];
    char listen[CONFIG_LISTEN_MAX][LIMIT_PATH_BYTES]; /* as addr_parse() takes them */
    unsigned listen_count;
    char metrics_listen[LIMIT_PATH_BYTES]; /* empty: no endpoint */

    char tls_ca[LIMIT_PATH_BYTES], tls_certificate[LIMIT_PATH_BYTES], tls_key[LIMIT_PATH_BYTES];
    char tls_crl[LIMIT_PATH_BYTES]; /* empty: none */

    unsigned shards;    /* 0: one a core */
    char io_engine[16]; /* "auto", "io_uring", "threads" */
    uint32_t poll_us;   /* look so long for the disk's completions before sleeping */

    bool checksums;            /* beside new COW devices */
    uint64_t scrub_interval_s; /* 0: never */
    uint64_t cow_limit_bytes;  /* default of a new snapshot's COW file */
    uint64_t cow_grow_step_bytes;
    uint32_t chunk_size_sectors;
    int full_policy; /* enum full_policy */

    uint32_t lease_ttl_ms;
    uint32_t handshake_timeout_ms, frame_timeout_ms, keepalive_ms, shutdown_timeout_ms;

    /* a client's limits */
    uint32_t connections_per_client, requests_per_connection, connections_total;
    uint32_t volumes_per_client;
    uint64_t space_per_client_bytes; /* 0: no limit */
    uint64_t window_bytes;
    uint64_t buffer_bytes_max; /* all receive buffers of a shard */
    uint64_t cache_bytes;      /* of blocks in memory, of all shards; 0: none */

    enum log_level log_level;
};

void config_defaults(struct config *c);
/* Read, check every value and every cross-rule. warn (may be NULL) is told of what is odd. */
int config_load(const char *path, struct config *ret, void (*warn)(void *user, const char *text),
                void *user, struct err *reterr) SNAP_WUR;

#endif
