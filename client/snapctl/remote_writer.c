/* SPDX-License-Identifier: Apache-2.0 */
/* A volume's writer: lease, stream, standing still for a new snapshot.
 *
 * The callbacks only note what happened; whoever drives the loop looks at it between
 * two turns. When `quiesce` runs, hold() sees to it that no write of the origin is
 * under way, and the answer is given at once; from then on remote_writer_may_write()
 * is false until the head is known again.
 *
 * A writer that was killed leaves its lease behind until its time is over. Whoever has
 * the origin's lock knows that it is dead, so it comes as the same instance, and the
 * daemon grants it the next epoch at once.
 */
#include "client/snapctl/remote_writer.h"

#include "common/base/bytes.h"
#include "common/base/check.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"

#include <string.h>

enum { TURN_MS = 200, TELL_MS = 10000 };
#define SETTLE_NS UINT64_C(2000000000)

static void end_with(struct remote_writer *w, int code)
{
    w->over = true;
    w->over_code = code;
}

static void hold(const struct remote_writer *w)
{
    if (w->hold)
        w->hold(w->hold_user);
}

static void on_quiesce(void *user, struct snapwire_lease *lease)
{
    struct remote_writer *w = user;
    struct snapwire_error why = {0};
    w->still = true;
    hold(w);
    if (snapwire_lease_head_ready(lease, &why) < 0 && !w->over)
        end_with(w, remote_error(&why, &w->why));
}

static void on_head_changed(void *user, struct snapwire_lease *lease,
                            const struct snapwire_lease_info *info)
{
    struct remote_writer *w = user;
    (void)lease;
    w->still = false;
    if (w->over || snapwire_uuid_equal(&info->head, &w->head))
        return;
    end_with(w, SNAP_ESTALE);
    if (snapwire_uuid_is_zero(&info->head))
        (void)err_set(&w->why, SNAP_ESTALE, "the volume has no snapshot any more");
    else
        (void)err_set(&w->why, SNAP_ESTALE,
                      "a newer snapshot was made meanwhile, %s@%s, and what is not overwritten "
                      "yet belongs to it: run again naming it",
                      w->target->name.volume, info->head_name);
}

static void on_lapsed(void *user, struct snapwire_lease *lease, const struct snapwire_error *why)
{
    const struct remote_writer *w = user;
    (void)lease;
    cli_note(w->cli, "waiting for the daemon: %s", why->text);
}

static void on_resumed(void *user, struct snapwire_lease *lease)
{
    const struct remote_writer *w = user;
    (void)lease;
    cli_note(w->cli, "the daemon is back");
}

static void on_lost(void *user, struct snapwire_lease *lease, const struct snapwire_error *why)
{
    struct remote_writer *w = user;
    (void)lease;
    w->lost = true;
    hold(w);
    if (w->over)
        return;
    end_with(w, remote_error(why, &w->why));
    (void)err_prefix(&w->why, "the lease of %s is lost", w->target->name.volume);
}

static uint64_t fnv1a(uint64_t hash, const void *data, size_t len)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ p[i]) * UINT64_C(0x100000001b3);
    return hash;
}

struct snapwire_uuid remote_writer_instance(const struct snapwire_uuid *volume,
                                            const void *fingerprint, size_t fingerprint_bytes)
{
    static const uint64_t seeds[] = {UINT64_C(0xcbf29ce484222325), UINT64_C(0x84222325cbf29ce4)};
    CLEANUP_FREE char *machine = NULL;
    size_t machine_len = 0;
    struct snapwire_uuid u;
    if (file_read_all("/etc/machine-id", 64, &machine, &machine_len, NULL) < 0)
        machine_len = 0;
    for (size_t i = 0; i < ARRAY_LEN(seeds); i++) {
        uint64_t hash = fnv1a(seeds[i], "snapctl", 7);
        hash = fnv1a(hash, machine, machine_len);
        hash = fnv1a(hash, volume->b, sizeof volume->b);
        le64_store(u.b + 8 * i, fnv1a(hash, fingerprint, fingerprint_bytes));
    }
    return u;
}

/* What a refusal means here, and what helps. */
static int explain_refusal(int rc, const struct remote_target *target, struct err *reterr)
{
    char text[ERR_TEXT_BYTES];
    const char *hint = rc == SNAP_EMISMATCH ? REMOTE_NEW_ORIGIN_HINT
                       : rc == SNAP_EBUSY
                           ? "; wait for it to end, or take over with --steal (admins only)"
                           : "";
    if (!reterr)
        return rc;
    (void)snprintf(text, sizeof text, "%s", reterr->text);
    return err_set(reterr, rc, "become the writer of %s: %s%s", target->name.volume, text, hint);
}

int remote_writer_open(struct remote_writer *w, struct remote *r,
                       const struct remote_writer_ask *ask, struct err *reterr)
{
    struct snapwire_error why = {0};
    *w = (struct remote_writer){.client = r->client, .cli = ask->cli, .target = ask->target};
    CHECK(ask->fingerprint_bytes <= sizeof w->fingerprint);
    if (ask->fingerprint_bytes > 0)
        memcpy(w->fingerprint, ask->fingerprint, ask->fingerprint_bytes);
    w->asked = (struct snapwire_lease_config){
        .size = sizeof w->asked,
        .volume = ask->target->volume,
        .origin_size_bytes = ask->origin_size_bytes,
        .origin_fingerprint = ask->fingerprint_bytes > 0 ? w->fingerprint : NULL,
        .origin_fingerprint_bytes = ask->fingerprint_bytes,
    };
    if (ask->sole)
        w->asked.instance =
            remote_writer_instance(&ask->target->volume, ask->fingerprint, ask->fingerprint_bytes);
    struct snapwire_lease_config config = w->asked;
    config.new_origin = ask->new_origin;
    config.steal = ask->steal;
    config.quiesce = on_quiesce;
    config.head_changed = on_head_changed;
    config.lapsed = on_lapsed;
    config.resumed = on_resumed;
    config.lost = on_lost;
    config.user = w;
    int rc = snapwire_lease_acquire_sync(r->client, &config, &w->lease, &why);
    if (rc < 0) {
        (void)remote_error(&why, reterr);
        return explain_refusal(rc, ask->target, reterr);
    }
    w->head = snapwire_lease_info(w->lease)->head;
    w->head_seq = snapwire_lease_info(w->lease)->head_seq;
    return 0;
}

int remote_writer_check_head(const struct remote_writer *w, struct err *reterr)
{
    const struct remote_target *t = w->target;
    if (snapwire_uuid_equal(&w->head, &t->snapshot))
        return 0;
    const struct snapwire_lease_info *info = snapwire_lease_info(w->lease);
    return err_set(reterr, SNAP_ESTALE,
                   "%s is not the newest snapshot of %s; old content goes to the newest, which is "
                   "%s@%s, and the older ones read through it",
                   t->text, t->name.volume, t->name.volume,
                   info->head_name ? info->head_name : "?");
}

int remote_writer_stream(struct remote_writer *w, const struct snapwire_stream_config *config,
                         struct err *reterr)
{
    struct snapwire_error why = {0};
    if (snapwire_stream_new(w->lease, config, &w->stream, &why) < 0)
        return remote_error(&why, reterr);
    return 0;
}

bool remote_writer_may_write(const struct remote_writer *w)
{
    return !w->still && !w->over && snapwire_lease_valid(w->lease);
}

int remote_writer_check(const struct remote_writer *w, struct err *reterr)
{
    if (!w->over)
        return 0;
    (void)err_copy(reterr, &w->why);
    return w->over_code;
}

void remote_writer_settle(struct remote_writer *w)
{
    const uint64_t end_ns = clock_now_ns(clock_system()) + SETTLE_NS;
    while (!w->over && clock_now_ns(clock_system()) < end_ns)
        remote_writer_turn(w);
}

void remote_writer_turn(struct remote_writer *w)
{
    snapwire_client_turn(w->client, TURN_MS);
}

/* from an absent daemon nothing is waited for: the lease ends by itself */
static void give_back(struct remote_writer *w)
{
    if (w->lost || snapwire_client_state(w->client) != SNAPWIRE_STATE_CONNECTED ||
        snapwire_lease_release_sync(w->lease, NULL) == SNAPWIRE_EBUSY)
        snapwire_lease_free(w->lease);
    w->lease = NULL;
}

/* The disk had a write for longer than the lease lasted. Snapshots that were made after that may
 * hold what it wrote, and only we know. */
static void tell_late(struct remote_writer *w)
{
    static const char what[] = "a write took the disk longer than the lease lasted";
    struct snapwire_error why = {.text = "it is away"};
    const char *volume = w->target->name.volume;
    bool told = false;
    w->asked.late = true;
    w->asked.late_after_seq = w->head_seq;
    snapwire_client_set_timeout(w->client, TELL_MS);
    if (snapwire_client_state(w->client) == SNAPWIRE_STATE_CONNECTED &&
        snapwire_lease_acquire_sync(w->client, &w->asked, &w->lease, &why) == 0) {
        const struct snapwire_lease_info *info = snapwire_lease_info(w->lease);
        told = info->head_seq != 0 || snapwire_uuid_is_zero(&info->head);
        if (!told)
            (void)snprintf(why.text, sizeof why.text, "it is too old to know of such writes");
        else if (info->head_seq > w->head_seq)
            cli_note(w->cli,
                     "%s, and snapshots of %s were made meanwhile, the newest is %s: they may hold "
                     "what it wrote and are unverified for good",
                     what, volume, info->head_name);
        w->lost = false;
        give_back(w);
    }
    if (!told)
        cli_note(w->cli,
                 "%s: snapshots of %s that were made meanwhile may hold what it wrote, and the "
                 "daemon could not be told: %s",
                 what, volume, why.text);
}

void remote_writer_close(struct remote_writer *w)
{
    const bool late = w->late && w->lease && !snapwire_lease_valid(w->lease);
    snapwire_stream_free(w->stream);
    w->stream = NULL;
    if (!w->lease)
        return;
    give_back(w);
    if (late)
        tell_late(w);
}
