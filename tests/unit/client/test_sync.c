/* SPDX-License-Identifier: Apache-2.0 */
/* The blocking face, against a daemon in a thread; and what listings become. */
#include "tests/unit/client/fake_daemon.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

/* -- a daemon in a thread: answers from a table -- */

struct server {
    struct fake *f;
    pthread_t thread;
    atomic_bool stop;
    unsigned mangle; /* which fault the answers have; 0: none */
};

static const struct snapwire_uuid ids[] = {{{1}}, {{2}}, {{3}}};

static void snapshot_fill(Snapwire__V1__Snapshot *s, unsigned i, unsigned mangle)
{
    snapwire__v1__snapshot__init(s);
    s->snapshot = fake_uuid(&ids[1 + i]);
    s->volume = fake_uuid(&ids[0]);
    s->name = (char *)(uintptr_t)(i == 0 ? "monday" : "tuesday");
    s->volume_name = (char *)(uintptr_t) "db";
    s->state = i == 0 ? SNAPWIRE__V1__SNAPSHOT_STATE__SNAPSHOT_STATE_INVALID
                      : SNAPWIRE__V1__SNAPSHOT_STATE__SNAPSHOT_STATE_OK;
    s->chunk_size_sectors = mangle == 1 ? 33 : 32;
    s->status = (char *)(uintptr_t) "16/49152\x1b[2J16\xc2\x9b"
                                    "2J\xff\xc3\xbc";
    s->head = i == 1;
    s->exceptions = 40 + i;
    if (mangle == 2)
        s->snapshot.len = 4;
}

static void answer_volumes(struct server *s, struct fake_asked *a)
{
    Snapwire__V1__VolumeListResponse m = SNAPWIRE__V1__VOLUME_LIST_RESPONSE__INIT;
    Snapwire__V1__Volume v = SNAPWIRE__V1__VOLUME__INIT, *volumes[] = {&v};
    Snapwire__V1__Snapshot snapshots[2], *pointers[] = {&snapshots[0], &snapshots[1]};
    Snapwire__V1__Volume__LabelsEntry label = SNAPWIRE__V1__VOLUME__LABELS_ENTRY__INIT;
    Snapwire__V1__Volume__LabelsEntry *labels[] = {&label};
    char longer[200];

    for (unsigned i = 0; i < 2; i++)
        snapshot_fill(&snapshots[i], i, s->mangle);
    v.volume = fake_uuid(&ids[0]);
    v.name = (char *)(uintptr_t) "db";
    if (s->mangle == 3) {
        memset(longer, 'x', sizeof longer);
        longer[sizeof longer - 1] = '\0';
        v.name = longer;
    }
    v.size_bytes = 1 << 20;
    v.n_snapshots = 2;
    v.snapshots = pointers;
    label.key = (char *)(uintptr_t) "site";
    label.value = (char *)(uintptr_t) "bonn";
    v.n_labels = 1;
    v.labels = labels;
    v.chunk_size_sectors = 32;
    m.n_volumes = 1;
    m.volumes = volumes;
    fake_answer(s->f, a, a->method == METHOD(VOLUME_LIST) ? &m.base : &v.base);
}

static void answer_status(struct server *s, struct fake_asked *a)
{
    Snapwire__V1__ServerStatus m = SNAPWIRE__V1__SERVER_STATUS__INIT;
    char *warnings[] = {(char *)(uintptr_t) "one", (char *)(uintptr_t) "two"};

    m.software = (char *)(uintptr_t) "fake 1";
    m.identity = (char *)(uintptr_t) "uid:0";
    m.volumes = 3;
    m.n_warnings = 2;
    m.warnings = warnings;
    fake_answer(s->f, a, &m.base);
}

static void answer_grants(struct server *s, struct fake_asked *a)
{
    Snapwire__V1__GrantListResponse m = SNAPWIRE__V1__GRANT_LIST_RESPONSE__INIT;
    Snapwire__V1__Grant g = SNAPWIRE__V1__GRANT__INIT, *grants[] = {&g};

    g.identity = (char *)(uintptr_t) "host1";
    g.role = SNAPWIRE__V1__ROLE__ROLE_WRITER;
    m.n_grants = 1;
    m.grants = grants;
    fake_answer(s->f, a, &m.base);
}

static void answer_resolve(struct server *s, struct fake_asked *a)
{
    Snapwire__V1__ResolveResponse m = SNAPWIRE__V1__RESOLVE_RESPONSE__INIT;
    Snapwire__V1__ResolveRequest *in =
        snapwire__v1__resolve_request__unpack(NULL, a->control_bytes, a->control);

    static uint8_t fingerprint[] =
        "the disk of db, and so much of it that it is longer than any may be";

    if (strcmp(in->volume_name, "db") != 0 && strcmp(in->volume_name, "long") != 0) {
        fake_answer_error(s->f, a, SNAP_ENOENT, "no such volume");
    } else {
        m.origin_fingerprint.data = fingerprint;
        m.origin_fingerprint.len = in->volume_name[0] == 'd' ? 11 : 65;
        m.volume = fake_uuid(&ids[0]);
        if (in->snapshot_name[0] != '\0')
            m.snapshot = fake_uuid(&ids[1]);
        m.size_bytes = 1 << 20;
        m.chunk_size_sectors = 32;
        fake_answer(s->f, a, &m.base);
    }
    snapwire__v1__resolve_request__free_unpacked(in, NULL);
}

static void answer_all(struct server *s)
{
    struct fake *f = s->f;
    Snapwire__V1__JobListResponse no_jobs = SNAPWIRE__V1__JOB_LIST_RESPONSE__INIT;
    Snapwire__V1__Empty empty = SNAPWIRE__V1__EMPTY__INIT;

    for (unsigned i = 0; i < f->asked_count; i++) {
        struct fake_asked *a = &f->asked[i];
        if (a->answered || f->chan == NULL || a->connection != f->connections)
            continue;
        switch (a->method) {
        case METHOD(VOLUME_LIST):
        case METHOD(VOLUME_SHOW):
        case METHOD(VOLUME_CREATE):
            answer_volumes(s, a);
            break;
        case METHOD(SERVER_STATUS):
            answer_status(s, a);
            break;
        case METHOD(GRANT_LIST):
            answer_grants(s, a);
            break;
        case METHOD(JOB_LIST):
            fake_answer(f, a, &no_jobs.base);
            break;
        case METHOD(RESOLVE):
            answer_resolve(s, a);
            break;
        default:
            fake_answer(f, a, &empty.base);
            break;
        }
    }
}

static void *server_run(void *user)
{
    struct server *s = user;

    while (!atomic_load(&s->stop)) {
        loop_turn(s->f->loop, 2);
        answer_all(s);
    }
    return NULL;
}

static void server_start(struct server *s, unsigned mangle)
{
    struct loop *loop = NULL;

    memset(s, 0, sizeof *s);
    s->mangle = mangle;
    assert_int_equal(loop_new(&loop, NULL), 0);
    s->f = fake_new_on(loop);
    assert_int_equal(pthread_create(&s->thread, NULL, server_run, s), 0);
}

static void server_stop(struct server *s)
{
    atomic_store(&s->stop, true);
    assert_int_equal(pthread_join(s->thread, NULL), 0);
    fake_free(s->f);
}

static struct snapwire_client *blocking_client(const struct server *s)
{
    const struct snapwire_config config = {
        .size = sizeof config, .addresses = s->f->address, .request_timeout_ms = 3000};
    struct snapwire_client *c = NULL;
    struct snapwire_error e;

    if (snapwire_client_new(NULL, &config, &c, &e) < 0)
        fail_msg("client: %s", e.text);
    return c;
}

static void sync__functions_return_the_answer(void **state)
{
    struct server s;
    struct snapwire_error e;
    struct snapwire_status *status = NULL;
    struct snapwire_volume_list *list = NULL;
    struct snapwire_grant_list *grants = NULL;
    struct snapwire_job_list *jobs = NULL;
    struct snapwire_target *target = NULL;

    (void)state;
    server_start(&s, 0);
    struct snapwire_client *c = blocking_client(&s);
    assert_int_equal(snapwire_client_connect_sync(c, &e), 0);
    assert_int_equal(snapwire_ping_sync(c, &e), 0);
    assert_int_equal(snapwire_server_status_sync(c, &status, &e), 0);
    assert_string_equal(status->software, "fake 1");
    assert_int_equal(status->volumes, 3);
    assert_int_equal(status->warning_count, 2);
    assert_string_equal(status->warnings[1], "two");
    assert_string_equal(status->io_engine, "");
    assert_int_equal(snapwire_volume_list_sync(c, &list, &e), 0);
    assert_int_equal(list->count, 1);
    const struct snapwire_volume *v = list->volumes[0];
    assert_string_equal(v->name, "db");
    assert_int_equal(v->snapshot_count, 2);
    assert_string_equal(v->snapshots[1]->name, "tuesday");
    assert_true(v->snapshots[1]->head);
    assert_int_equal(v->snapshots[0]->state, SNAPWIRE_SNAPSHOT_INVALID);
    assert_int_equal(v->snapshots[1]->exceptions, 41);
    /* nothing for terminals, nothing that JSON cannot have */
    assert_string_equal(v->snapshots[0]->status, "16/49152?[2J16?2J?\xc3\xbc");
    assert_int_equal(v->label_count, 1);
    assert_string_equal(v->labels[0]->value, "bonn");
    assert_int_equal(snapwire_grant_list_sync(c, NULL, &grants, &e), 0);
    assert_int_equal(grants->grants[0]->role, SNAPWIRE_ROLE_WRITER);
    assert_true(snapwire_uuid_is_zero(&grants->grants[0]->volume));
    assert_int_equal(snapwire_job_list_sync(c, NULL, &jobs, &e), 0);
    assert_int_equal(jobs->count, 0);
    assert_int_equal(snapwire_resolve_sync(c, "db", "monday", &target, &e), 0);
    assert_true(snapwire_uuid_equal(&target->snapshot, &ids[1]));
    assert_int_equal(target->origin_fingerprint_bytes, 11);
    assert_memory_equal(target->origin_fingerprint, "the disk of", 11);
    snapwire_free(target);
    target = NULL;
    assert_int_equal(snapwire_resolve_sync(c, "long", NULL, &target, &e), SNAPWIRE_EPROTO);
    assert_null(target);
    assert_int_equal(snapwire_resolve_sync(c, "other", NULL, &target, &e), SNAPWIRE_ENOENT);
    assert_string_equal(e.text, "no such volume");
    assert_null(target);
    snapwire_free(status);
    snapwire_free(list);
    snapwire_free(grants);
    snapwire_free(jobs);
    snapwire_free(NULL);
    snapwire_client_free(c);
    server_stop(&s);
}

static void sync__create_and_delete_carry_their_identities(void **state)
{
    struct server s;
    struct snapwire_error e;
    struct snapwire_volume *v = NULL;
    const struct snapwire_label label = {"site", "bonn"};
    const struct snapwire_volume_create args = {.size = sizeof args,
                                                .id = ids[0],
                                                .name = "db",
                                                .size_bytes = 1 << 20,
                                                .full_policy = SNAPWIRE_FULL_INVALIDATE,
                                                .labels = &label,
                                                .label_count = 1};

    (void)state;
    server_start(&s, 0);
    struct snapwire_client *c = blocking_client(&s);
    assert_int_equal(snapwire_volume_create_sync(c, &args, &v, &e), 0);
    snapwire_free(v);
    assert_int_equal(snapwire_volume_delete_sync(c, &ids[0], NULL, true, &e), 0);
    assert_int_equal(snapwire_snapshot_delete_sync(c, &ids[0], &ids[1], &ids[2], &e), 0);
    assert_int_equal(snapwire_grant_sync(c, "host1", SNAPWIRE_ROLE_APPEND, &ids[0], &e), 0);
    assert_int_equal(snapwire_revoke_sync(c, "host1", SNAPWIRE_ROLE_APPEND, NULL, &e), 0);
    snapwire_client_free(c);
    atomic_store(&s.stop, true);
    assert_int_equal(pthread_join(s.thread, NULL), 0);

    const struct fake_asked *a = fake_nth(s.f, METHOD(VOLUME_CREATE), 0);
    Snapwire__V1__VolumeCreate *created =
        snapwire__v1__volume_create__unpack(NULL, a->control_bytes, a->control);
    assert_memory_equal(created->volume.data, ids[0].b, 16);
    assert_string_equal(created->labels[0]->key, "site");
    assert_int_equal(created->full_policy, SNAPWIRE__V1__FULL_POLICY__FULL_POLICY_INVALIDATE);
    snapwire__v1__volume_create__free_unpacked(created, NULL);
    a = fake_nth(s.f, METHOD(VOLUME_DELETE), 0);
    Snapwire__V1__DeleteRequest *d =
        snapwire__v1__delete_request__unpack(NULL, a->control_bytes, a->control);
    assert_int_equal(d->key.len, 16); /* made by the library */
    assert_true(d->force);
    snapwire__v1__delete_request__free_unpacked(d, NULL);
    a = fake_nth(s.f, METHOD(SNAPSHOT_DELETE), 0);
    d = snapwire__v1__delete_request__unpack(NULL, a->control_bytes, a->control);
    assert_memory_equal(d->key.data, ids[2].b, 16);
    assert_memory_equal(d->snapshot.data, ids[1].b, 16);
    snapwire__v1__delete_request__free_unpacked(d, NULL);
    fake_free(s.f);
}

static void listing__with_senseless_parts_is_refused(void **state)
{
    (void)state;
    for (unsigned mangle = 1; mangle <= 3; mangle++) {
        struct server s;
        struct snapwire_error e;
        struct snapwire_volume_list *list = NULL;
        server_start(&s, mangle);
        struct snapwire_client *c = blocking_client(&s);
        assert_int_equal(snapwire_volume_list_sync(c, &list, &e), SNAPWIRE_EPROTO);
        assert_null(list);
        snapwire_client_free(c);
        server_stop(&s);
    }
}

struct nested {
    struct snapwire_client *c;
    unsigned calls;
    int code;
};

static void call_sync_inside(void *user, const struct snapwire_error *error)
{
    struct nested *n = user;

    assert_null(error);
    n->calls++;
    n->code = snapwire_ping_sync(n->c, NULL);
}

static void sync__inside_a_callback_is_refused(void **state)
{
    struct server s;
    struct nested n = {0};

    (void)state;
    server_start(&s, 0);
    n.c = blocking_client(&s);
    assert_int_equal(snapwire_ping(n.c, call_sync_inside, &n, NULL), 0);
    while (n.calls == 0)
        snapwire_client_turn(n.c, 100);
    assert_int_equal(n.code, SNAPWIRE_EINVAL);
    snapwire_client_free(n.c);
    server_stop(&s);
}

static void connect_sync__fails_with_the_reason_in_time(void **state)
{
    const struct snapwire_config config = {
        .size = sizeof config, .addresses = "unix:/nowhere/at/all", .connect_timeout_ms = 50};
    struct snapwire_client *c = NULL;
    struct snapwire_error e = {0};
    const uint64_t start_ms = test_now_ms();

    (void)state;
    assert_int_equal(snapwire_client_new(NULL, &config, &c, &e), 0);
    assert_true(snapwire_client_connect_sync(c, &e) < 0);
    assert_true(test_now_ms() - start_ms < 1000);
    assert_true(e.text[0] != '\0');
    snapwire_client_free(c);
}

static void turn__waits_no_longer_than_told(void **state)
{
    const struct snapwire_config config = {.size = sizeof config, .addresses = "unix:/nowhere"};
    struct snapwire_client *c = NULL;
    const uint64_t start_ms = test_now_ms();

    (void)state;
    assert_int_equal(snapwire_client_new(NULL, &config, &c, NULL), 0);
    snapwire_client_turn(c, 20);
    assert_in_range(test_now_ms() - start_ms, 10, 500);
    snapwire_client_free(c);
}

static void names__of_roles_and_states(void **state)
{
    struct snapwire_error e;
    int role = 0;

    (void)state;
    assert_int_equal(snapwire_role_parse("writer", &role, &e), 0);
    assert_int_equal(role, SNAPWIRE_ROLE_WRITER);
    assert_int_equal(snapwire_role_parse("none", &role, &e), SNAPWIRE_EINVAL);
    assert_string_equal(snapwire_role_name(SNAPWIRE_ROLE_APPEND), "append");
    assert_string_equal(snapwire_role_name(77), "unknown");
    assert_string_equal(snapwire_snapshot_state_name(SNAPWIRE_SNAPSHOT_UNVERIFIED), "unverified");
    assert_string_equal(snapwire_snapshot_state_name(-1), "unknown");
    struct snapwire_uuid u = snapwire_uuid_make(), back;
    char text[SNAPWIRE_UUID_TEXT_BYTES];
    assert_int_equal(snapwire_uuid_parse(snapwire_uuid_format(&u, text), &back, &e), 0);
    assert_true(snapwire_uuid_equal(&u, &back));
    assert_int_equal(snapwire_uuid_parse("nonsense", &back, &e), SNAPWIRE_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sync__functions_return_the_answer),
        cmocka_unit_test(sync__create_and_delete_carry_their_identities),
        cmocka_unit_test(listing__with_senseless_parts_is_refused),
        cmocka_unit_test(sync__inside_a_callback_is_refused),
        cmocka_unit_test(connect_sync__fails_with_the_reason_in_time),
        cmocka_unit_test(turn__waits_no_longer_than_told),
        cmocka_unit_test(names__of_roles_and_states),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
