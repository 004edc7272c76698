/* SPDX-License-Identifier: Apache-2.0 */
/* Lists in pages: gathered whole, in order; answers that do not get ahead are refused. */
#include "tests/unit/client/fake_daemon.h"

enum { PAGE = 3, VOLUMES = 8 };

/* Volumes v0 … v7: v3 has 10 snapshots, of which every third is a clone, and v5 has 4. */
struct world {
    struct fake *f;
    struct snapwire_client *c;
    struct snapwire_uuid id[VOLUMES], snapshot;
    unsigned answered; /* of f->asked */
    unsigned requests;
    int mangle; /* 1: the cursor stays; 2: seqs fall; 3: empty pages of a volume */
    int gone;   /* a volume that is listed and not shown; -1: none */
    /* what came */
    unsigned calls;
    int code;
    char text[512];
    size_t counts[VOLUMES];
};

static unsigned snapshots_of(unsigned volume)
{
    return volume == 3 ? 10 : volume == 5 ? 4 : volume == 6 ? 1 : 0;
}

/* Snapshots behind after, at most max. */
static void fill_volume(struct world *w, Snapwire__V1__Volume *v, unsigned i, uint32_t after,
                        uint32_t max)
{
    char *name = malloc(16);
    snapwire__v1__volume__init(v);
    v->volume = fake_uuid(&w->id[i]);
    (void)snprintf(name, 16, "v%u", i);
    v->name = name;
    v->snapshots = calloc(PAGE + 1, sizeof(Snapwire__V1__Snapshot *));
    for (uint32_t seq = after + 1; seq <= snapshots_of(i); seq++) {
        v->more = v->n_snapshots == max;
        if (v->more)
            break;
        Snapwire__V1__Snapshot *s = malloc(sizeof *s);
        snapwire__v1__snapshot__init(s);
        s->snapshot = fake_uuid(&w->snapshot);
        s->volume = v->volume;
        s->seq = w->mangle == 2 && seq > 4 ? 2 : seq;
        s->writable = seq % 3 == 0;
        v->snapshots[v->n_snapshots++] = s;
    }
}

static void drop_volume(Snapwire__V1__Volume *v)
{
    for (size_t i = 0; i < v->n_snapshots; i++)
        free(v->snapshots[i]);
    free(v->snapshots);
    free(v->name);
}

static void answer_show(struct world *w, struct fake_asked *a)
{
    Snapwire__V1__VolumeRef *in =
        snapwire__v1__volume_ref__unpack(NULL, a->control_bytes, a->control);
    Snapwire__V1__Volume out;
    int i = 0;
    assert_int_equal(in->volume.len, 16);
    assert_true(in->snapshots_max > 0);
    while (memcmp(in->volume.data, w->id[i].b, 16) != 0)
        i++;
    if (i == w->gone) {
        fake_answer_error(w->f, a, SNAP_ENOENT, "gone");
    } else {
        fill_volume(w, &out, (unsigned)i, in->after_seq, w->mangle == 3 ? 0 : PAGE);
        fake_answer(w->f, a, &out.base);
        drop_volume(&out);
    }
    snapwire__v1__volume_ref__free_unpacked(in, NULL);
}

/* By number, which is also the cursor. */
static void answer_list(struct world *w, struct fake_asked *a)
{
    Snapwire__V1__VolumeListRequest *in =
        snapwire__v1__volume_list_request__unpack(NULL, a->control_bytes, a->control);
    Snapwire__V1__VolumeListResponse out = SNAPWIRE__V1__VOLUME_LIST_RESPONSE__INIT;
    Snapwire__V1__Volume volumes[PAGE], *pointers[PAGE];
    unsigned i = in->after.len > 0 ? in->after.data[0] + 1 : 0;
    uint8_t next;
    assert_true(in->max > 0);
    out.volumes = pointers;
    for (; i < VOLUMES && out.n_volumes < PAGE; i++) {
        fill_volume(w, &volumes[out.n_volumes], i, 0, 2);
        pointers[out.n_volumes] = &volumes[out.n_volumes];
        out.n_volumes++;
    }
    next = (uint8_t)(w->mangle == 1 ? 2 : i - 1);
    if (i < VOLUMES)
        out.next = (ProtobufCBinaryData){.len = 1, .data = &next};
    fake_answer(w->f, a, &out.base);
    for (size_t k = 0; k < out.n_volumes; k++)
        drop_volume(pointers[k]);
    snapwire__v1__volume_list_request__free_unpacked(in, NULL);
}

static void answer_grants(struct world *w, struct fake_asked *a)
{
    Snapwire__V1__VolumeListRequest *in =
        snapwire__v1__volume_list_request__unpack(NULL, a->control_bytes, a->control);
    Snapwire__V1__GrantListResponse out = SNAPWIRE__V1__GRANT_LIST_RESPONSE__INIT;
    Snapwire__V1__Grant grant = SNAPWIRE__V1__GRANT__INIT, *pointer = &grant;
    char identity[16];
    uint8_t next = (uint8_t)(in->after.len > 0 ? in->after.data[0] + 1 : 0);
    (void)snprintf(identity, sizeof identity, "host-%u", next);
    grant.identity = identity;
    out.n_grants = 1;
    out.grants = &pointer;
    if (next < 20)
        out.next = (ProtobufCBinaryData){.len = 1, .data = &next};
    fake_answer(w->f, a, &out.base);
    snapwire__v1__volume_list_request__free_unpacked(in, NULL);
}

static void answer_jobs(struct world *w, struct fake_asked *a)
{
    Snapwire__V1__VolumeListRequest *in =
        snapwire__v1__volume_list_request__unpack(NULL, a->control_bytes, a->control);
    Snapwire__V1__JobListResponse out = SNAPWIRE__V1__JOB_LIST_RESPONSE__INIT;
    Snapwire__V1__Job job = SNAPWIRE__V1__JOB__INIT, *pointer = &job;
    uint8_t next = 7;
    out.n_jobs = 1;
    out.jobs = &pointer;
    if (in->after.len == 0)
        out.next = (ProtobufCBinaryData){.len = 1, .data = &next};
    fake_answer(w->f, a, &out.base);
    snapwire__v1__volume_list_request__free_unpacked(in, NULL);
}

static void serve(struct world *w)
{
    for (; w->answered < w->f->asked_count; w->answered++) {
        struct fake_asked *a = &w->f->asked[w->answered];
        w->requests++;
        if (a->method == METHOD(VOLUME_SHOW))
            answer_show(w, a);
        else if (a->method == METHOD(VOLUME_LIST))
            answer_list(w, a);
        else if (a->method == METHOD(GRANT_LIST))
            answer_grants(w, a);
        else if (a->method == METHOD(JOB_LIST))
            answer_jobs(w, a);
    }
}

static void world_new(struct world *w)
{
    *w = (struct world){.f = fake_new(), .gone = -1, .snapshot = snapwire_uuid_make()};
    for (int i = 0; i < VOLUMES; i++)
        w->id[i] = snapwire_uuid_make();
    w->c = client_of(w->f, NULL, NULL);
}

static void got_error(struct world *w, const struct snapwire_error *error)
{
    w->calls++;
    w->code = error != NULL ? error->code : 0;
    (void)snprintf(w->text, sizeof w->text, "%s", error != NULL ? error->text : "");
}

/* Chain first, oldest first, then clones. */
static void assert_ordered(const struct snapwire_volume *v)
{
    for (size_t i = 1; i < v->snapshot_count; i++) {
        const struct snapwire_snapshot *a = v->snapshots[i - 1], *b = v->snapshots[i];
        assert_true(a->writable == b->writable ? a->seq < b->seq : b->writable);
    }
}

static void got_volume(void *user, const struct snapwire_error *error,
                       const struct snapwire_volume *v)
{
    struct world *w = user;
    got_error(w, error);
    if (v == NULL)
        return;
    w->counts[0] = v->snapshot_count;
    assert_ordered(v);
}

static void got_volumes(void *user, const struct snapwire_error *error,
                        const struct snapwire_volume_list *list)
{
    struct world *w = user;
    got_error(w, error);
    for (size_t i = 0; list != NULL && i < list->count; i++) {
        const unsigned n = (unsigned)atoi(list->volumes[i]->name + 1);
        assert_true(i == 0 || strcmp(list->volumes[i - 1]->name, list->volumes[i]->name) < 0);
        w->counts[n] = list->volumes[i]->snapshot_count + 1;
        assert_ordered(list->volumes[i]);
    }
}

static void got_grants(void *user, const struct snapwire_error *error,
                       const struct snapwire_grant_list *list)
{
    struct world *w = user;
    got_error(w, error);
    w->counts[0] = list != NULL ? list->count : 0;
    if (list != NULL)
        assert_string_equal(list->grants[list->count - 1]->identity, "host-20");
}

static void got_jobs(void *user, const struct snapwire_error *error,
                     const struct snapwire_job_list *list)
{
    struct world *w = user;
    got_error(w, error);
    w->counts[0] = list != NULL ? list->count : 0;
}

#define SERVE_UNTIL(w, expr) RUN_UNTIL((w)->f, (serve(w), (expr)))

static void show__snapshots_of_several_answers_are_one_volume(void **state)
{
    struct world w;
    (void)state;
    world_new(&w);
    assert_int_equal(snapwire_volume_show(w.c, &w.id[3], got_volume, &w, NULL), 0);
    SERVE_UNTIL(&w, w.calls == 1);
    assert_int_equal(w.code, 0);
    assert_int_equal(w.counts[0], 10);
    assert_int_equal(w.requests, 4);
    assert_int_equal(snapwire_volume_show(w.c, &w.id[0], got_volume, &w, NULL), 0);
    SERVE_UNTIL(&w, w.calls == 2);
    assert_int_equal(w.counts[0], 0);
    close_and_free(w.f, w.c);
}

static void list__volumes_and_their_snapshots_are_gathered(void **state)
{
    struct world w;
    (void)state;
    world_new(&w);
    assert_int_equal(snapwire_volume_list(w.c, got_volumes, &w, NULL), 0);
    SERVE_UNTIL(&w, w.calls == 1);
    assert_int_equal(w.code, 0);
    for (unsigned i = 0; i < VOLUMES; i++)
        assert_int_equal(w.counts[i], snapshots_of(i) + 1);
    close_and_free(w.f, w.c);
}

static void list__volume_that_goes_away_meanwhile_is_left_out(void **state)
{
    struct world w;
    (void)state;
    world_new(&w);
    w.gone = 3;
    assert_int_equal(snapwire_volume_list(w.c, got_volumes, &w, NULL), 0);
    SERVE_UNTIL(&w, w.calls == 1);
    assert_int_equal(w.code, 0);
    for (unsigned i = 0; i < VOLUMES; i++)
        assert_int_equal(w.counts[i], i == 3 ? 0 : snapshots_of(i) + 1);
    close_and_free(w.f, w.c);
}

static void list__answers_that_do_not_get_ahead_are_refused(void **state)
{
    (void)state;
    for (int mangle = 1; mangle <= 6; mangle++) {
        struct world w;
        world_new(&w);
        w.mangle = mangle % 3 + 1;
        if (mangle <= 3 || w.mangle == 1)
            assert_int_equal(snapwire_volume_list(w.c, got_volumes, &w, NULL), 0);
        else
            assert_int_equal(snapwire_volume_show(w.c, &w.id[3], got_volume, &w, NULL), 0);
        SERVE_UNTIL(&w, w.calls == 1);
        assert_int_equal(w.code, SNAPWIRE_EPROTO);
        assert_non_null(strstr(w.text, "pages"));
        close_and_free(w.f, w.c);
    }
}

static void list__grants_and_jobs_are_gathered(void **state)
{
    struct world w;
    (void)state;
    world_new(&w);
    assert_int_equal(snapwire_grant_list(w.c, NULL, got_grants, &w, NULL), 0);
    SERVE_UNTIL(&w, w.calls == 1);
    assert_int_equal(w.code, 0);
    assert_int_equal(w.counts[0], 21);
    assert_int_equal(snapwire_job_list(w.c, NULL, got_jobs, &w, NULL), 0);
    SERVE_UNTIL(&w, w.calls == 2);
    assert_int_equal(w.counts[0], 2);
    close_and_free(w.f, w.c);
}

/* The client is closed between two pages: one call, with an error, and nothing is lost. */
static void list__ends_with_the_client(void **state)
{
    struct world w;
    (void)state;
    world_new(&w);
    assert_int_equal(snapwire_volume_list(w.c, got_volumes, &w, NULL), 0);
    RUN_UNTIL(w.f, w.f->asked_count == 1);
    serve(&w);
    RUN_UNTIL(w.f, w.f->asked_count == 2);
    bool closed = false;
    snapwire_client_close(w.c, set_true, &closed);
    RUN_UNTIL(w.f, closed && w.calls == 1);
    assert_int_not_equal(w.code, 0);
    run_for_ms(w.f, 5);
    fake_free(w.f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(show__snapshots_of_several_answers_are_one_volume),
        cmocka_unit_test(list__volumes_and_their_snapshots_are_gathered),
        cmocka_unit_test(list__volume_that_goes_away_meanwhile_is_left_out),
        cmocka_unit_test(list__answers_that_do_not_get_ahead_are_refused),
        cmocka_unit_test(list__grants_and_jobs_are_gathered),
        cmocka_unit_test(list__ends_with_the_client),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
