/* SPDX-License-Identifier: Apache-2.0 */
/* Volumes, snapshots, rights, jobs: each function of snapwire.h is a message, a
 * converter and a destination; lists are pages.c's. The asynchronous and the blocking face share
 * one inner function that builds the message.
 *
 * Thread: the client's.
 */
#include "client/lib/face_priv.h"

#include <stdlib.h>
#include <string.h>

/* -- ping and status -- */

static int ping(struct snapwire_client *c, const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__PingRequest m = SNAPWIRE__V1__PING_REQUEST__INIT;

    return call_begin(c, &(struct call_spec){.method = M(PING), .message = &m.base}, to, reterr);
}

int snapwire_ping(struct snapwire_client *c, snapwire_done_cb cb, void *user,
                  struct snapwire_error *reterr)
{
    FACE_ASYNC(ping(c, CALL_TO(done, cb, user), &err));
}

int snapwire_ping_sync(struct snapwire_client *c, struct snapwire_error *reterr)
{
    FACE_SYNC_DONE(ping(c, SYNC_TO(&wait), &err));
}

static int server_status(struct snapwire_client *c, const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__Empty m = SNAPWIRE__V1__EMPTY__INIT;

    return call_begin(c,
                      &(struct call_spec){.method = M(SERVER_STATUS),
                                          .message = &m.base,
                                          .convert = convert_status},
                      to, reterr);
}

int snapwire_server_status(struct snapwire_client *c, snapwire_status_cb cb, void *user,
                           struct snapwire_error *reterr)
{
    FACE_ASYNC(server_status(c, CALL_TO(status, cb, user), &err));
}

int snapwire_server_status_sync(struct snapwire_client *c, struct snapwire_status **ret,
                                struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(server_status(c, SYNC_TO(&wait), &err));
}

static int resolve(struct snapwire_client *c, const char *volume_name, const char *snapshot_name,
                   const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__ResolveRequest m = SNAPWIRE__V1__RESOLVE_REQUEST__INIT;

    m.volume_name = text_of(volume_name);
    m.snapshot_name = text_of(snapshot_name);
    return call_begin(
        c, &(struct call_spec){.method = M(RESOLVE), .message = &m.base, .convert = convert_target},
        to, reterr);
}

int snapwire_resolve(struct snapwire_client *c, const char *volume_name, const char *snapshot_name,
                     snapwire_target_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(resolve(c, volume_name, snapshot_name, CALL_TO(target, cb, user), &err));
}

int snapwire_resolve_sync(struct snapwire_client *c, const char *volume_name,
                          const char *snapshot_name, struct snapwire_target **ret,
                          struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(resolve(c, volume_name, snapshot_name, SYNC_TO(&wait), &err));
}

/* -- volumes -- */

static int volume_create_labelled(struct snapwire_client *c,
                                  const struct snapwire_volume_create *args,
                                  Snapwire__V1__VolumeCreate *m, const struct call_to *to,
                                  struct err *reterr)
{
    typedef Snapwire__V1__VolumeCreate__LabelsEntry entry;
    const size_t n = args->label_count;
    entry *entries = calloc(n > 0 ? n : 1, sizeof *entries);
    entry **pointers = calloc(n > 0 ? n : 1, sizeof *pointers);
    int r = 0;

    if (entries == NULL || pointers == NULL)
        r = err_set(reterr, SNAP_ENOMEM, "out of memory for labels");
    for (size_t i = 0; i < n && r == 0; i++) {
        snapwire__v1__volume_create__labels_entry__init(&entries[i]);
        entries[i].key = text_of(args->labels[i].key);
        entries[i].value = text_of(args->labels[i].value);
        pointers[i] = &entries[i];
    }
    m->n_labels = n;
    m->labels = pointers;
    if (r == 0)
        r = call_begin(c,
                       &(struct call_spec){.method = M(VOLUME_CREATE),
                                           .message = &m->base,
                                           .convert = convert_volume},
                       to, reterr);
    free(entries);
    free(pointers);
    return r;
}

static int volume_create(struct snapwire_client *c, const struct snapwire_volume_create *args,
                         const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__VolumeCreate m = SNAPWIRE__V1__VOLUME_CREATE__INIT;
    struct snapwire_volume_create a;
    const int r = public_args(&a, sizeof a, args,
                              offsetof(struct snapwire_volume_create, chunk_size_sectors), reterr);

    if (r < 0)
        return r;
    if (a.label_count > LIMIT_LABELS)
        return err_set(reterr, SNAP_ELIMIT, "more than %d labels", (int)LIMIT_LABELS);
    if (snapwire_uuid_is_zero(&a.id))
        a.id = snapwire_uuid_make();
    m.volume = pb_uuid(&a.id);
    m.name = text_of(a.name);
    m.size_bytes = a.size_bytes;
    m.kind = (Snapwire__V1__VolumeKind)a.kind;
    m.full_policy = (Snapwire__V1__FullPolicy)a.full_policy;
    m.chunk_size_sectors = a.chunk_size_sectors;
    m.device = text_of(a.device);
    return volume_create_labelled(c, &a, &m, to, reterr);
}

int snapwire_volume_create(struct snapwire_client *c, const struct snapwire_volume_create *args,
                           snapwire_volume_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(volume_create(c, args, CALL_TO(volume, cb, user), &err));
}

int snapwire_volume_create_sync(struct snapwire_client *c,
                                const struct snapwire_volume_create *args,
                                struct snapwire_volume **ret, struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(volume_create(c, args, SYNC_TO(&wait), &err));
}

int snapwire_volume_list(struct snapwire_client *c, snapwire_volume_list_cb cb, void *user,
                         struct snapwire_error *reterr)
{
    FACE_ASYNC(pages_begin(c, PAGES_OF_VOLUMES, NULL, CALL_TO(volume_list, cb, user), &err));
}

int snapwire_volume_list_sync(struct snapwire_client *c, struct snapwire_volume_list **ret,
                              struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(pages_begin(c, PAGES_OF_VOLUMES, NULL, SYNC_TO(&wait), &err));
}

int snapwire_volume_show(struct snapwire_client *c, const struct snapwire_uuid *volume,
                         snapwire_volume_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(pages_begin(c, PAGES_OF_VOLUME, volume, CALL_TO(volume, cb, user), &err));
}

int snapwire_volume_show_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                              struct snapwire_volume **ret, struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(pages_begin(c, PAGES_OF_VOLUME, volume, SYNC_TO(&wait), &err));
}

static int delete_any(struct snapwire_client *c, uint16_t method,
                      const struct snapwire_uuid *volume, const struct snapwire_uuid *snapshot,
                      const struct snapwire_uuid *key, bool force, const struct call_to *to,
                      struct err *reterr)
{
    Snapwire__V1__DeleteRequest m = SNAPWIRE__V1__DELETE_REQUEST__INIT;
    const struct snapwire_uuid made = snapwire_uuid_make();

    m.volume = pb_uuid(volume);
    if (snapshot != NULL)
        m.snapshot = pb_uuid(snapshot);
    m.key = pb_uuid(key != NULL ? key : &made);
    m.force = force;
    return call_begin(c, &(struct call_spec){.method = method, .message = &m.base}, to, reterr);
}

int snapwire_volume_delete(struct snapwire_client *c, const struct snapwire_uuid *volume,
                           const struct snapwire_uuid *key, bool force, snapwire_done_cb cb,
                           void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(
        delete_any(c, M(VOLUME_DELETE), volume, NULL, key, force, CALL_TO(done, cb, user), &err));
}

int snapwire_volume_delete_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                                const struct snapwire_uuid *key, bool force,
                                struct snapwire_error *reterr)
{
    FACE_SYNC_DONE(delete_any(c, M(VOLUME_DELETE), volume, NULL, key, force, SYNC_TO(&wait), &err));
}

/* -- snapshots -- */

static int snapshot_create(struct snapwire_client *c, const struct snapwire_snapshot_create *args,
                           const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__SnapshotCreate m = SNAPWIRE__V1__SNAPSHOT_CREATE__INIT;
    struct snapwire_snapshot_create a;
    const int r = public_args(&a, sizeof a, args, sizeof a, reterr);

    if (r < 0)
        return r;
    if (snapwire_uuid_is_zero(&a.id))
        a.id = snapwire_uuid_make();
    m.volume = pb_uuid(&a.volume);
    m.snapshot = pb_uuid(&a.id);
    m.name = text_of(a.name);
    m.chunk_size_sectors = a.chunk_size_sectors;
    m.cow_limit_bytes = a.cow_limit_bytes;
    m.cow_device = text_of(a.cow_device);
    m.take_over = a.take_over;
    return call_begin(c,
                      &(struct call_spec){.method = M(SNAPSHOT_CREATE),
                                          .message = &m.base,
                                          .convert = convert_snapshot},
                      to, reterr);
}

int snapwire_snapshot_create(struct snapwire_client *c, const struct snapwire_snapshot_create *args,
                             snapwire_snapshot_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(snapshot_create(c, args, CALL_TO(snapshot, cb, user), &err));
}

int snapwire_snapshot_create_sync(struct snapwire_client *c,
                                  const struct snapwire_snapshot_create *args,
                                  struct snapwire_snapshot **ret, struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(snapshot_create(c, args, SYNC_TO(&wait), &err));
}

static int about_snapshot(struct snapwire_client *c, uint16_t method,
                          const struct snapwire_uuid *volume, const struct snapwire_uuid *snapshot,
                          int (*convert)(const struct request_answer *, void **, struct err *),
                          const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__SnapshotRef m = SNAPWIRE__V1__SNAPSHOT_REF__INIT;

    m.volume = pb_uuid(volume);
    m.snapshot = pb_uuid(snapshot);
    return call_begin(c,
                      &(struct call_spec){.method = method, .message = &m.base, .convert = convert},
                      to, reterr);
}

int snapwire_snapshot_show(struct snapwire_client *c, const struct snapwire_uuid *volume,
                           const struct snapwire_uuid *snapshot, snapwire_snapshot_cb cb,
                           void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(about_snapshot(c, M(SNAPSHOT_SHOW), volume, snapshot, convert_snapshot,
                              CALL_TO(snapshot, cb, user), &err));
}

int snapwire_snapshot_show_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                                const struct snapwire_uuid *snapshot,
                                struct snapwire_snapshot **ret, struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(about_snapshot(c, M(SNAPSHOT_SHOW), volume, snapshot, convert_snapshot,
                                    SYNC_TO(&wait), &err));
}

int snapwire_snapshot_delete(struct snapwire_client *c, const struct snapwire_uuid *volume,
                             const struct snapwire_uuid *snapshot, const struct snapwire_uuid *key,
                             snapwire_done_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(delete_any(c, M(SNAPSHOT_DELETE), volume, snapshot, key, false,
                          CALL_TO(done, cb, user), &err));
}

int snapwire_snapshot_delete_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                                  const struct snapwire_uuid *snapshot,
                                  const struct snapwire_uuid *key, struct snapwire_error *reterr)
{
    FACE_SYNC_DONE(
        delete_any(c, M(SNAPSHOT_DELETE), volume, snapshot, key, false, SYNC_TO(&wait), &err));
}

int snapwire_snapshot_drop(struct snapwire_client *c, const struct snapwire_uuid *volume,
                           const struct snapwire_uuid *snapshot, const struct snapwire_uuid *key,
                           snapwire_done_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(delete_any(c, M(SNAPSHOT_DELETE), volume, snapshot, key, true,
                          CALL_TO(done, cb, user), &err));
}

int snapwire_snapshot_drop_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                                const struct snapwire_uuid *snapshot,
                                const struct snapwire_uuid *key, struct snapwire_error *reterr)
{
    FACE_SYNC_DONE(
        delete_any(c, M(SNAPSHOT_DELETE), volume, snapshot, key, true, SYNC_TO(&wait), &err));
}

int snapwire_snapshot_check(struct snapwire_client *c, const struct snapwire_uuid *volume,
                            const struct snapwire_uuid *snapshot, snapwire_check_cb cb, void *user,
                            struct snapwire_error *reterr)
{
    FACE_ASYNC(about_snapshot(c, M(SNAPSHOT_CHECK), volume, snapshot, convert_check,
                              CALL_TO(check, cb, user), &err));
}

int snapwire_snapshot_check_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                                 const struct snapwire_uuid *snapshot, struct snapwire_check **ret,
                                 struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(about_snapshot(c, M(SNAPSHOT_CHECK), volume, snapshot, convert_check,
                                    SYNC_TO(&wait), &err));
}

static int snapshot_accept(struct snapwire_client *c, const struct snapwire_uuid *volume,
                           const struct snapwire_uuid *snapshot, bool force,
                           const struct call_to *to, struct err *reterr)
{
    Snapwire__V1__AcceptRequest m = SNAPWIRE__V1__ACCEPT_REQUEST__INIT;

    m.volume = pb_uuid(volume);
    m.snapshot = pb_uuid(snapshot);
    m.force = force;
    return call_begin(c, &(struct call_spec){.method = M(SNAPSHOT_ACCEPT), .message = &m.base}, to,
                      reterr);
}

int snapwire_snapshot_accept(struct snapwire_client *c, const struct snapwire_uuid *volume,
                             const struct snapwire_uuid *snapshot, bool force, snapwire_done_cb cb,
                             void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(snapshot_accept(c, volume, snapshot, force, CALL_TO(done, cb, user), &err));
}

int snapwire_snapshot_accept_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                                  const struct snapwire_uuid *snapshot, bool force,
                                  struct snapwire_error *reterr)
{
    FACE_SYNC_DONE(snapshot_accept(c, volume, snapshot, force, SYNC_TO(&wait), &err));
}

/* -- rights and jobs -- */

static int grant_any(struct snapwire_client *c, uint16_t method, const char *identity, int role,
                     const struct snapwire_uuid *volume, const struct call_to *to,
                     struct err *reterr)
{
    Snapwire__V1__Grant m = SNAPWIRE__V1__GRANT__INIT;

    m.identity = text_of(identity);
    m.role = (Snapwire__V1__Role)role;
    if (volume != NULL)
        m.volume = pb_uuid(volume);
    return call_begin(
        c,
        &(struct call_spec){.method = method,
                            .message = &m.base,
                            .fine_when_replayed = method == M(REVOKE) ? SNAP_ENOENT : 0},
        to, reterr);
}

int snapwire_grant(struct snapwire_client *c, const char *identity, int role,
                   const struct snapwire_uuid *volume, snapwire_done_cb cb, void *user,
                   struct snapwire_error *reterr)
{
    FACE_ASYNC(grant_any(c, M(GRANT), identity, role, volume, CALL_TO(done, cb, user), &err));
}

int snapwire_grant_sync(struct snapwire_client *c, const char *identity, int role,
                        const struct snapwire_uuid *volume, struct snapwire_error *reterr)
{
    FACE_SYNC_DONE(grant_any(c, M(GRANT), identity, role, volume, SYNC_TO(&wait), &err));
}

int snapwire_revoke(struct snapwire_client *c, const char *identity, int role,
                    const struct snapwire_uuid *volume, snapwire_done_cb cb, void *user,
                    struct snapwire_error *reterr)
{
    FACE_ASYNC(grant_any(c, M(REVOKE), identity, role, volume, CALL_TO(done, cb, user), &err));
}

int snapwire_revoke_sync(struct snapwire_client *c, const char *identity, int role,
                         const struct snapwire_uuid *volume, struct snapwire_error *reterr)
{
    FACE_SYNC_DONE(grant_any(c, M(REVOKE), identity, role, volume, SYNC_TO(&wait), &err));
}

int snapwire_grant_list(struct snapwire_client *c, const struct snapwire_uuid *volume,
                        snapwire_grant_list_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(pages_begin(c, PAGES_OF_GRANTS, volume, CALL_TO(grant_list, cb, user), &err));
}

int snapwire_grant_list_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                             struct snapwire_grant_list **ret, struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(pages_begin(c, PAGES_OF_GRANTS, volume, SYNC_TO(&wait), &err));
}

int snapwire_job_list(struct snapwire_client *c, const struct snapwire_uuid *volume,
                      snapwire_job_list_cb cb, void *user, struct snapwire_error *reterr)
{
    FACE_ASYNC(pages_begin(c, PAGES_OF_JOBS, volume, CALL_TO(job_list, cb, user), &err));
}

int snapwire_job_list_sync(struct snapwire_client *c, const struct snapwire_uuid *volume,
                           struct snapwire_job_list **ret, struct snapwire_error *reterr)
{
    FACE_SYNC_RESULT(pages_begin(c, PAGES_OF_JOBS, volume, SYNC_TO(&wait), &err));
}
