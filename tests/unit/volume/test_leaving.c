/* SPDX-License-Identifier: Apache-2.0 */
/* What those hear whose volume is leaving: another thing when it is deleted than when the daemon
 * stops, since a client asks again after the one and gives up after the other. */
#include "tests/unit/volume/remote_fixture.h"
#include "tests/unit/volume/tree_fixture.h"

static const uint8_t data[CHUNK_BYTES] = {1};

/* -- all in one turn of the shard ----------------------------------------------------------- */

struct answer {
    int code;
    unsigned count;
    char text[ERR_TEXT_BYTES];
};

static void answered(void *user, int code, const struct err *err)
{
    struct answer *a = user;
    a->code = code;
    a->count++;
    (void)snprintf(a->text, sizeof a->text, "%s", code < 0 ? err->text : "");
}

static void write_answered(struct volume_write *w, int code, const struct err *err)
{
    answered(w->user, code, err);
}

enum { HELD, LATE, CLONED, ASKED };

struct leaving {
    bool deleting;
    struct uuid s1;
    struct volume_waiter gate;
    struct volume_write held, late;
    struct volume_put put;
    struct answer answers[ASKED];
};

static void gate_closed(struct volume_waiter *w, int code, const struct err *err)
{
    (void)w;
    (void)code;
    (void)err;
}

static void write_one(struct volume *v, struct volume_write *w, struct answer *a)
{
    *w = (struct volume_write){.op = VOLUME_WRITE,
                               .len_bytes = sizeof data,
                               .data = data,
                               .done = write_answered,
                               .user = a};
    volume_write_start(v, w);
}

/* One write waits at the gate as the volume begins to leave, the others come afterwards. */
static void do_leave(struct call *c)
{
    struct leaving *l = c->arg;
    struct volume *v = c->f->volume;
    l->gate = (struct volume_waiter){.fn = gate_closed};
    volume_gate_close(v, &l->gate);
    write_one(v, &l->held, &l->answers[HELD]);
    v->deleting = l->deleting;
    volume_ref(v);
    volume_close(v, call_end, c);
    write_one(v, &l->late, &l->answers[LATE]);
    struct clone_spec clone = {.id = uuid_make(), .source = l->s1, .name = "c"};
    volume_clone_start(v, &clone, answered, &l->answers[CLONED]);
    volume_gate_open(v);
    volume_unref(v);
}

static void leave(struct fixture *f, bool deleting, int code, const char *text)
{
    struct leaving l = {.deleting = deleting, .s1 = fixture_create(f, "s1")};
    assert_int_equal(call(f, do_leave, &l), 0);
    for (unsigned i = 0; i < ASKED; i++) {
        assert_int_equal(l.answers[i].count, 1);
        assert_int_equal(l.answers[i].code, code);
        assert_string_equal(l.answers[i].text, text);
    }
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    fixture_expect_byte(f, ITSELF, 0, CHUNK_BYTES, 0);
}

static void leaving__as_the_daemon_stops_says_so(void **state)
{
    leave(*state, false, SNAP_ESHUTDOWN, "volume vol is closed: the daemon stops");
}

static void leaving__as_it_is_deleted_says_that_it_is_not_there(void **state)
{
    leave(*state, true, SNAP_ENOENT, "volume vol is being deleted");
}

/* -- a remote one ------------------------------------------------------------------------------ */

struct leaving_put {
    bool deleting;
    struct uuid s1;
    uint64_t epoch, chunk;
    uint8_t *payload;
    struct volume_put put;
    struct answer put_answer, lease_answer;
};

static void put_answered(struct volume_put *p, int code, const struct err *err)
{
    answered(p->user, code, err);
    volume_put_done(p);
}

/* A put waits for a table that is checked; a lease is asked for afterwards. */
static void do_leave_with_put(struct call *c)
{
    struct leaving_put *l = c->arg;
    struct volume *v = c->f->volume;
    struct snapshot *s = volume_snapshot_find(v, &l->s1);
    s->busy = true;
    l->put = (struct volume_put){.identity = "w",
                                 .epoch = l->epoch,
                                 .head = l->s1,
                                 .old_chunks = &l->chunk,
                                 .old_count = 1,
                                 .payload = l->payload,
                                 .payload_bytes = CHUNK_BYTES,
                                 .done = put_answered,
                                 .user = &l->put_answer};
    volume_put_start(v, &l->put);
    v->deleting = l->deleting;
    volume_ref(v);
    volume_close(v, call_end, c);
    struct volume_lease_request r = {.ask = {.identity = "x", .instance = uuid_make()},
                                     .origin_size_bytes = SIZE,
                                     .holder = {.tell = fixture_tell, .session = 2}};
    volume_lease_acquire(v, &r, answered, &l->lease_answer);
    s->busy = false;
    volume_unref(v);
}

static void leave_with_put(struct fixture *f, bool deleting, int code)
{
    void *payload = aligned_alloc(BUF_ALIGN_BYTES, CHUNK_BYTES);
    assert_non_null(payload);
    memset(payload, 1, CHUNK_BYTES);
    struct leaving_put l = {
        .deleting = deleting, .s1 = fixture_create(f, "s1"), .payload = payload};
    l.epoch = fixture_lease(f);
    assert_int_equal(call(f, do_leave_with_put, &l), 0);
    assert_int_equal(l.put_answer.count, 1);
    assert_int_equal(l.put_answer.code, code);
    assert_int_equal(l.lease_answer.count, 1);
    assert_int_equal(l.lease_answer.code, code);
    free(payload);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    assert_int_equal(fixture_look(f, l.s1).exceptions, 0);
}

static void leaving__put_that_waits_is_told_that_the_daemon_stops(void **state)
{
    leave_with_put(*state, false, SNAP_ESHUTDOWN);
}

static void leaving__put_that_waits_is_told_that_the_volume_is_deleted(void **state)
{
    leave_with_put(*state, true, SNAP_ENOENT);
}

/* -- what has no name
 * ------------------------------------------------------------------------------
 */

static bool find_hand_down(const struct volume_job_status *s, void *user)
{
    char *subject = user;
    if (strcmp(s->kind, "hand-down") == 0)
        (void)snprintf(subject, HAND_DOWN_SUBJECT_BYTES, "%s", s->subject);
    return true;
}

static void do_find_hand_down(struct call *c)
{
    volume_job_each(c->f->volume, find_hand_down, c->arg);
    call_end(c, 0, NULL);
}

static _Atomic unsigned dropped;

static void tell(void *user, const struct volume *v, const char *snapshot, const char *what,
                 const struct err *err)
{
    (void)user;
    (void)v;
    (void)snapshot;
    (void)err;
    if (strcmp(what, "snapshot dropped") == 0)
        dropped++;
}

static void hand_down__of_what_a_rollback_kept_has_no_name_of_a_snapshot(void **state)
{
    struct fixture *f = *state;
    char subject[HAND_DOWN_SUBJECT_BYTES] = "";
    tree_write(f, ITSELF, 0, SECTORS, 1);
    struct uuid s1 = fixture_create(f, "s1");
    tree_write(f, ITSELF, 0, SECTORS, 2);
    f->env.notice = tell;
    dropped = 0;
    assert_int_equal(fixture_job_end(f, tree_rollback(f, s1, false, false)), JOB_DONE);
    tree_settle(f, 1);
    fixture_settle(f);
    assert_int_equal(call(f, do_find_hand_down, subject), 0);
    assert_string_equal(subject, "vol (what a rollback kept)");
    assert_int_equal(dropped, 0);
    f->env.notice = NULL;
}

/* -- while it is being opened ---------------------------------------------------------------- */

static void opened(void *user, int code, const struct err *err)
{
    (void)err;
    *(int *)user = code;
}

static int open_code;

static void do_open_and_leave(struct call *c)
{
    struct fixture *f = c->f;
    struct volume_record r;
    char dir[LIMIT_PATH_BYTES];
    assert_int_equal(volume_dir_format(f->env.state_dir, &f->id, dir, sizeof dir, NULL), 0);
    assert_int_equal(volume_record_load(dir, &r, NULL), 0);
    assert_int_equal(volume_new(&f->set, &r, &f->volume, NULL), 0);
    open_code = 1;
    volume_open(f->volume, opened, &open_code);
    volume_close(f->volume, call_end, c);
}

/* The volume waits for the end of the opening only: it, and the node, go with that. */
static void leaving__ends_with_the_opening_of_a_node_that_is_damaged(void **state)
{
    struct fixture *f = *state;
    char dir[LIMIT_PATH_BYTES], text[UUID_TEXT_BYTES], path[2 * LIMIT_PATH_BYTES];
    struct uuid s1 = fixture_create(f, "s1");
    assert_int_equal(call(f, fixture_do_close, NULL), 0);
    assert_int_equal(volume_dir_format(f->env.state_dir, &f->id, dir, sizeof dir, NULL), 0);
    (void)snprintf(path, sizeof path, "%s/%s.cow", dir, uuid_format(&s1, text));
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "????", 4, 0), 4);
    assert_int_equal(close(fd), 0);
    assert_int_equal(call(f, do_open_and_leave, NULL), 0);
    assert_int_equal(open_code, 0);
    assert_int_equal(call(f, fixture_do_open, NULL), 0);
    assert_int_equal(fixture_look(f, s1).state, SNAPSHOT_DAMAGED);
}

int main(void)
{
#define HOSTED(name) cmocka_unit_test_setup_teardown(name, fixture_setup_hosted, fixture_teardown)
#define REMOTE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
    const struct CMUnitTest tests[] = {
        HOSTED(leaving__as_the_daemon_stops_says_so),
        HOSTED(leaving__as_it_is_deleted_says_that_it_is_not_there),
        REMOTE(leaving__put_that_waits_is_told_that_the_daemon_stops),
        REMOTE(leaving__put_that_waits_is_told_that_the_volume_is_deleted),
        REMOTE(leaving__ends_with_the_opening_of_a_node_that_is_damaged),
        HOSTED(hand_down__of_what_a_rollback_kept_has_no_name_of_a_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
