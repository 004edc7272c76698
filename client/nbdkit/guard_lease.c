/* SPDX-License-Identifier: Apache-2.0 */
/* Becoming the volume's writer, and what the lease tells from then on.
 *
 *   client ──> volume ──> lease ──> stream ──> what the head has ──> open
 *
 * A new head:    quiesce ──> the gate is shut ──> no write in flight ──> head_ready
 *                gate open, nothing kept <── head_changed <──────────────┘
 *
 * Thread: the link's, and nbdkit's first one until that runs.
 */
#include "client/nbdkit/guard_link.h"

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"

#include <inttypes.h>
#include <stdlib.h>

enum { CONNECT_MS_MAX = 5000, ASK_MS = 20000 };

/* -- what the lease tells --------------------------------------------------------------- */

static void on_quiesce(void *user, struct snapwire_lease *lease)
{
    struct guard *g = user;
    (void)lease;
    (void)pthread_mutex_lock(&g->lock);
    g->held = true;
    (void)pthread_mutex_unlock(&g->lock);
    g->ready_wanted = true;
}

/* Maps for chunks of this size; all clear. With the lock. */
static int guard_resize(struct guard *g, uint64_t chunk_bytes, struct err *reterr)
{
    if (chunk_bytes == g->chunk_bytes) {
        guard_map_clear(&g->kept);
        return 0;
    }
    uint64_t chunks = u64_div_round_up(g->origin.size_bytes, chunk_bytes);
    guard_map_done(&g->kept);
    guard_map_done(&g->claimed);
    g->chunk_bytes = 0;
    int rc = guard_map_init(&g->kept, chunks, reterr);
    if (rc == 0)
        rc = guard_map_init(&g->claimed, chunks, reterr);
    if (rc == 0)
        g->chunk_bytes = chunk_bytes;
    return rc;
}

/* From now on this is the head. With the lock. */
static int guard_adopt(struct guard *g, const struct snapwire_lease_info *info, struct err *reterr)
{
    bool none = snapwire_uuid_is_zero(&info->head);
    g->generation++;
    g->head = info->head;
    g->head_seq = info->head_seq;
    g->mode = info->broken ? GUARD_IS_BROKEN : none ? GUARD_NOTHING : GUARD_KEEPING;
    g->break_wanted = g->break_failed = false;
    g->trouble_ns = 0;
    g->stats.heads++;
    if (none)
        return 0;
    return guard_resize(g, (uint64_t)info->chunk_size_sectors * 512, reterr);
}

static void on_head_changed(void *user, struct snapwire_lease *lease,
                            const struct snapwire_lease_info *info)
{
    struct guard *g = user;
    struct err err = ERR_INIT;
    bool same = snapwire_uuid_equal(&info->head, &g->head);
    (void)lease;
    g->ready_wanted = false;
    if (!same && !info->broken)
        guard_unbreak(g, info->head_name);
    (void)pthread_mutex_lock(&g->lock);
    int rc = same ? 0 : guard_adopt(g, info, &err);
    if (rc < 0) { /* nothing can be kept: as if the daemon would not have us */
        g->mode = GUARD_KEEPING;
        g->lease_state = GUARD_LEASE_REFUSED;
    }
    g->held = false;
    guard_broadcast(g);
    if (rc < 0) {
        guard_say("adopt %s@%s: %s", g->config.volume, info->head_name, err.text);
        g->lost = true;
    }
}

static void link_away(struct guard *g, bool away)
{
    (void)pthread_mutex_lock(&g->lock);
    if (!away)
        g->away_ns = 0;
    else if (g->away_ns == 0)
        g->away_ns = guard_now_ns();
    guard_broadcast(g);
}

static void on_lapsed(void *user, struct snapwire_lease *lease, const struct snapwire_error *why)
{
    struct guard *g = user;
    (void)lease;
    guard_say("the daemon is away, writes wait: %s", why->text);
    link_away(g, true);
}

static void on_resumed(void *user, struct snapwire_lease *lease)
{
    (void)lease;
    guard_say("the daemon is back");
    link_away(user, false);
}

static void on_lost(void *user, struct snapwire_lease *lease, const struct snapwire_error *why)
{
    struct guard *g = user;
    (void)lease;
    guard_say("the lease of volume %s is lost: %s", g->config.volume, why->text);
    g->lost = true;
    g->explained = false;
    (void)pthread_mutex_lock(&g->lock);
    g->lease_state = GUARD_LEASE_ASKED;
    g->valid_until_ns = 0;
    guard_broadcast(g);
}

static void on_state(void *user, struct snapwire_client *client, enum snapwire_state state,
                     const struct snapwire_error *why)
{
    struct guard *g = user;
    (void)client;
    (void)why;
    if (state == SNAPWIRE_STATE_CONNECTED) {
        link_away(g, false);
        if (g->lease) /* which is taken up again now */
            g->gone_ns = 0;
        return;
    }
    if (g->gone_ns == 0)
        g->gone_ns = guard_now_ns();
    if (state == SNAPWIRE_STATE_RECONNECTING || state == SNAPWIRE_STATE_FAILED)
        link_away(g, true);
}

/* Up to when the origin may be written. */
void guard_lease_publish(struct guard *g)
{
    const uint64_t now = guard_lease_now_ns();
    const uint64_t left_ms = snapwire_lease_remaining_ms(g->lease);
    const struct snapwire_lease_info *info = snapwire_lease_info(g->lease);
    (void)pthread_mutex_lock(&g->lock);
    const bool was = now + g->margin_ns < g->valid_until_ns;
    g->valid_until_ns = left_ms > 0 ? now + (left_ms - 1) * NS_PER_MS : 0;
    g->margin_ns = g->ttl_ms * NS_PER_MS / GUARD_MARGIN_PART;
    if (now < g->valid_until_ns)
        guard_late_forget(g);
    if (snapwire_uuid_equal(&info->head, &g->head)) /* another daemon may tell what one did not */
        g->head_seq = info->head_seq;
    if (was || now + g->margin_ns >= g->valid_until_ns) {
        (void)pthread_mutex_unlock(&g->lock);
        return;
    }
    guard_broadcast(g);
}

/* -- opening ----------------------------------------------------------------------------------- */

static uint64_t fnv1a(uint64_t hash, const void *data, size_t len)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* The guard of this origin on this machine: whoever has the origin's lock is it, and the one
 * before is dead. */
static struct snapwire_uuid link_instance(const struct guard *g, const uint8_t *fingerprint,
                                          uint32_t fingerprint_bytes)
{
    static const uint64_t seeds[] = {UINT64_C(0xcbf29ce484222325), UINT64_C(0x84222325cbf29ce4)};
    CLEANUP_FREE char *machine = NULL;
    size_t machine_len = 0;
    struct snapwire_uuid u;
    if (file_read_all("/etc/machine-id", 64, &machine, &machine_len, NULL) < 0)
        machine_len = 0;
    for (size_t i = 0; i < ARRAY_LEN(seeds); i++) {
        uint64_t hash = fnv1a(seeds[i], "guard", 5);
        hash = fnv1a(hash, machine, machine_len);
        hash = fnv1a(hash, g->volume.b, sizeof g->volume.b);
        le64_store(u.b + 8 * i, fnv1a(hash, fingerprint, fingerprint_bytes));
    }
    return u;
}

static int link_resolve(struct guard *g, struct snapwire_uuid *ret_snapshot, struct err *reterr)
{
    struct snapwire_error why = {0};
    struct snapwire_target *t = NULL;
    const char *snapshot = g->opened ? NULL : g->config.snapshot;
    if (snapwire_resolve_sync(g->client, g->config.volume, snapshot, &t, &why) < 0)
        return guard_error(&why, reterr);
    int rc = 0;
    if (t->kind != SNAPWIRE_VOLUME_REMOTE)
        rc = err_set(reterr, SNAP_ENOTSUP, "volume %s is hosted by the daemon: it needs no guard",
                     g->config.volume);
    else if (t->size_bytes != g->origin.size_bytes)
        rc = err_set(reterr, SNAP_EMISMATCH, "%s has %" PRIu64 " bytes, volume %s has %" PRIu64,
                     g->origin.path, g->origin.size_bytes, g->config.volume, t->size_bytes);
    g->volume = t->volume;
    *ret_snapshot = t->snapshot;
    snapwire_free(t);
    return rc;
}

static int link_acquire(struct guard *g, struct err *reterr)
{
    uint8_t fingerprint[ORIGIN_FINGERPRINT_BYTES];
    uint32_t fingerprint_bytes = origin_fingerprint(&g->origin, fingerprint);
    struct snapwire_error why = {0};
    uint32_t late_after_seq = 0;
    (void)pthread_mutex_lock(&g->lock);
    const bool late = guard_late_look(g, &late_after_seq);
    (void)pthread_mutex_unlock(&g->lock);
    const struct snapwire_lease_config config = {
        .size = sizeof config,
        .volume = g->volume,
        .instance = link_instance(g, fingerprint, fingerprint_bytes),
        .origin_size_bytes = g->origin.size_bytes,
        .origin_fingerprint = fingerprint_bytes > 0 ? fingerprint : NULL,
        .origin_fingerprint_bytes = fingerprint_bytes,
        .new_origin = g->config.new_origin && !g->opened,
        .steal = g->config.steal && !g->opened,
        .goes_on = g->config.away == GUARD_BROKEN,
        .broken = g->marked,
        .late = late,
        .late_after_seq = late_after_seq,
        .quiesce = on_quiesce,
        .head_changed = on_head_changed,
        .lapsed = on_lapsed,
        .resumed = on_resumed,
        .lost = on_lost,
        .user = g,
    };
    const uint64_t gone_ns = g->gone_ns;
    g->gone_ns = 0;
    int rc = snapwire_lease_acquire_sync(g->client, &config, &g->lease, &why);
    if (rc < 0) {
        bool unknown = rc == SNAPWIRE_ETIMEDOUT || rc == SNAPWIRE_ECONN || rc == SNAPWIRE_ECANCELED;
        if (!unknown)
            g->gone_ns = gone_ns;
        const char *hint = rc == SNAPWIRE_EMISMATCH ? "; if this disk is right, say new_origin=1"
                           : rc == SNAPWIRE_EBUSY
                               ? "; wait for it to end, or take over with steal=1 (admins only)"
                               : "";
        return err_set(reterr, rc, "become the writer of volume %s: %s%s", g->config.volume,
                       why.text, hint);
    }
    g->ttl_ms = snapwire_lease_info(g->lease)->ttl_ms;
    if (late)
        guard_late_told(g, late_after_seq, snapwire_lease_info(g->lease));
    return 0;
}

struct filling {
    struct guard *guard;
    struct snapwire_uuid head;
};

static int on_kept(void *user, const struct snapwire_run *runs, size_t count,
                   uint32_t chunk_size_sectors)
{
    const struct filling *f = user;
    struct guard *g = f->guard;
    (void)pthread_mutex_lock(&g->lock);
    bool stop = !snapwire_uuid_equal(&f->head, &g->head) ||
                (uint64_t)chunk_size_sectors * 512 != g->chunk_bytes;
    for (size_t i = 0; !stop && i < count; i++)
        if (runs[i].old_chunk < g->kept.chunks)
            guard_map_set(&g->kept, runs[i].old_chunk,
                          u64_min(runs[i].count, g->kept.chunks - runs[i].old_chunk), true);
    (void)pthread_mutex_unlock(&g->lock);
    return stop;
}

/* What the head has already. Who may not read is not told: then it is sent once more. */
static int link_fill(struct guard *g, struct err *reterr)
{
    struct snapwire_error why = {0};
    struct filling f = {.guard = g, .head = g->head};
    const struct snapwire_run_list args = {
        .size = sizeof args, .volume = g->volume, .snapshot = g->head, .own = true};
    if (g->mode != GUARD_KEEPING ||
        snapwire_run_each_sync(g->client, &args, on_kept, &f, &why) == 0 ||
        why.code == SNAPWIRE_EPERM)
        return 0;
    return guard_error(&why, reterr);
}

static int link_check_head(const struct guard *g, const struct snapwire_uuid *snapshot,
                           struct err *reterr)
{
    const struct snapwire_lease_info *info = snapwire_lease_info(g->lease);
    if (g->opened || !g->config.snapshot || snapwire_uuid_equal(&info->head, snapshot))
        return 0;
    return err_set(reterr, SNAP_ESTALE,
                   "%s@%s is not the newest snapshot; old content goes to the newest, which is "
                   "%s@%s: name that, or the volume alone",
                   g->config.volume, g->config.snapshot, g->config.volume, info->head_name);
}

/* While writes wait nobody else looks whether all is to end, so the thread does not wait for long
 * at a time. */
static int link_connect(struct guard *g, struct err *reterr)
{
    struct snapwire_error why = {0};
    const uint64_t end = guard_now_ns() + CONNECT_MS_MAX * NS_PER_MS;
    enum snapwire_state state = SNAPWIRE_STATE_CONNECTING;
    bool stop = false;
    if (g->opened && snapwire_client_connect(g->client, &why) < 0)
        return guard_error(&why, reterr);
    while (g->opened && !stop && state != SNAPWIRE_STATE_CONNECTED &&
           state != SNAPWIRE_STATE_FAILED && guard_now_ns() < end) {
        snapwire_client_turn(g->client, GUARD_TURN_MS);
        state = snapwire_client_state(g->client);
        (void)pthread_mutex_lock(&g->lock);
        stop = g->stop;
        (void)pthread_mutex_unlock(&g->lock);
    }
    if (g->opened && state != SNAPWIRE_STATE_CONNECTED && state != SNAPWIRE_STATE_FAILED)
        return err_set(reterr, SNAP_ECONN, "no connection to the daemon");
    return snapwire_client_connect_sync(g->client, &why) < 0 ? guard_error(&why, reterr) : 0;
}

static int link_lease(struct guard *g, struct err *reterr)
{
    struct snapwire_uuid snapshot = {0};
    struct snapwire_error why = {0};
    const struct snapwire_stream_config stream = {
        .size = sizeof stream,
        .inflight_bytes_max = g->config.copy_bytes_max,
        .drained = guard_put_drained,
        .user = g,
    };
    snapwire_client_set_timeout(g->client, ASK_MS);
    int rc = link_connect(g, reterr);
    if (rc == 0)
        rc = link_resolve(g, &snapshot, reterr);
    if (rc == 0 && !g->opened)
        rc = guard_late_recall(g, reterr);
    if (rc == 0)
        rc = link_acquire(g, reterr);
    if (rc == 0)
        rc = link_check_head(g, &snapshot, reterr);
    if (rc == 0 && snapwire_stream_new(g->lease, &stream, &g->stream, &why) < 0)
        rc = guard_error(&why, reterr);
    if (rc < 0)
        return rc;
    (void)pthread_mutex_lock(&g->lock);
    rc = guard_adopt(g, snapwire_lease_info(g->lease), reterr);
    (void)pthread_mutex_unlock(&g->lock);
    if (rc == 0)
        rc = link_fill(g, reterr);
    snapwire_client_set_timeout(g->client, 0);
    return rc;
}

void guard_lease_close(struct guard *g)
{
    struct snapwire_client *client = g->client;
    (void)pthread_mutex_lock(&g->wake_lock);
    g->wakeable = NULL;
    (void)pthread_mutex_unlock(&g->wake_lock);
    if (g->stream)
        snapwire_stream_free(g->stream);
    g->stream = NULL;
    g->blocked = false;
    guard_put_all(g, 0); /* without a stream all end */
    if (g->lease)
        snapwire_lease_free(g->lease);
    g->lease = NULL;
    snapwire_client_free(client);
    g->client = NULL;
    if (g->gone_ns == 0)
        g->gone_ns = guard_now_ns();
    g->breaking = g->ready_wanted = false;
    (void)pthread_mutex_lock(&g->lock);
    g->held = false;
    g->valid_until_ns = 0;
    guard_broadcast(g);
}

int guard_link_open(struct guard *g, struct err *reterr)
{
    struct snapwire_error why = {0};
    struct snapwire_config config = g->config.client;
    config.size = sizeof config;
    config.state_changed = on_state;
    config.user = g;
    config.connect_timeout_ms = CONNECT_MS_MAX;
    config.backoff_max_ms = GUARD_RETRY_MS;
    g->lost = false;
    if (snapwire_client_new(NULL, &config, &g->client, &why) < 0)
        return guard_error(&why, reterr);
    int rc = link_lease(g, reterr);
    if (rc == 0 && g->lost)
        rc = err_set(reterr, SNAP_ESTALE, "the lease was lost at once");
    if (rc < 0) {
        guard_lease_close(g);
        return rc;
    }
    g->opened = true;
    (void)pthread_mutex_lock(&g->wake_lock);
    g->wakeable = g->client;
    (void)pthread_mutex_unlock(&g->wake_lock);
    guard_lease_publish(g);
    (void)pthread_mutex_lock(&g->lock);
    g->lease_state = GUARD_LEASE_HELD;
    g->away_ns = 0;
    guard_broadcast(g);
    return 0;
}
