/* SPDX-License-Identifier: Apache-2.0 */
/* Reads, runs and merges: what the answers must hold, and what is refused. */
#include "tests/unit/client/writer.h"

enum { LEN = 8 * 512 };

struct read_log {
    unsigned calls;
    int code;
    size_t count;
    struct snapwire_extent extents[8];
    uint8_t data[LEN]; /* of the first data extent */
};

static void on_read(void *user, const struct snapwire_error *error,
                    const struct snapwire_extent *extents, size_t count)
{
    struct read_log *log = user;

    log->calls++;
    log->code = error != NULL ? error->code : 0;
    log->count = count;
    for (size_t i = 0; i < count && i < 8; i++) {
        log->extents[i] = extents[i];
        if (extents[i].kind == SNAPWIRE_EXTENT_DATA && log->data[0] == 0)
            memcpy(log->data, extents[i].data, (size_t)extents[i].len_bytes);
    }
}

struct piece {
    uint64_t offset, len;
    int kind;
};

static void answer_read(struct fake *f, struct fake_asked *a, const struct piece *pieces, size_t n,
                        uint32_t payload_bytes)
{
    Snapwire__V1__ReadResponse m = SNAPWIRE__V1__READ_RESPONSE__INIT;
    Snapwire__V1__Extent extents[8], *pointers[8];
    static uint8_t payload[2 * LEN]; /* lent to the channel */
    const struct iovec iov = {payload, payload_bytes};

    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(1 + i / 512);
    for (size_t i = 0; i < n; i++) {
        snapwire__v1__extent__init(&extents[i]);
        extents[i].offset_bytes = pieces[i].offset;
        extents[i].len_bytes = pieces[i].len;
        extents[i].kind = (Snapwire__V1__ExtentKind)pieces[i].kind;
        pointers[i] = &extents[i];
    }
    m.extents = pointers;
    m.n_extents = n;
    fake_send(f, FRAME_RESPONSE, 0, a->method, a->id, &m.base, payload_bytes > 0 ? &iov : NULL);
}

static struct fake_asked *ask_read(struct fake *f, struct snapwire_client *c, void *buf,
                                   struct read_log *log)
{
    const struct snapwire_read args = {.size = sizeof args,
                                       .volume = f->volume,
                                       .snapshot = f->head,
                                       .offset_bytes = 4096,
                                       .len_bytes = LEN,
                                       .buf = buf};
    struct snapwire_error e;
    const unsigned n = f->asked_count;

    f->hold = METHOD(SNAPSHOT_READ);
    if (snapwire_snapshot_read(c, &args, on_read, log, &e) < 0)
        fail_msg("read: %s", e.text);
    RUN_UNTIL(f, f->asked_count == n + 1);
    return &f->asked[n];
}

static void read__fills_data_and_zeros_and_leaves_the_origins_part(void **state)
{
    static const struct piece pieces[] = {{4096, 512, SNAPWIRE_EXTENT_DATA},
                                          {4608, 1024, SNAPWIRE_EXTENT_ORIGIN},
                                          {5632, 512, SNAPWIRE_EXTENT_ZERO},
                                          {6144, 2048, SNAPWIRE_EXTENT_DATA}};
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct read_log log = {0};
    uint8_t buf[LEN];

    (void)state;
    memset(buf, 0xee, sizeof buf);
    struct fake_asked *a = ask_read(f, c, buf, &log);
    Snapwire__V1__ReadRequest *m =
        snapwire__v1__read_request__unpack(NULL, a->control_bytes, a->control);
    assert_int_equal(m->offset_bytes, 4096);
    assert_int_equal(m->len_bytes, LEN);
    assert_memory_equal(m->snapshot.data, f->head.b, 16);
    snapwire__v1__read_request__free_unpacked(m, NULL);
    answer_read(f, a, pieces, 4, 512 + 2048);
    RUN_UNTIL(f, log.calls == 1);
    assert_int_equal(log.code, 0);
    assert_int_equal(log.count, 4);
    for (size_t i = 0; i < sizeof buf; i++) {
        const size_t sector = i / 512;
        const int expected = sector == 0   ? 1
                             : sector < 3  ? 0xee
                             : sector == 3 ? 0
                                           : (int)sector - 2;
        assert_int_equal(buf[i], expected);
    }
    assert_int_equal(log.extents[3].kind, SNAPWIRE_EXTENT_DATA);
    assert_int_equal(log.extents[3].offset_bytes, 6144);
    assert_ptr_equal(log.extents[3].data, buf + 2048);
    close_and_free(f, c);
}

static void read__without_a_buffer_hands_out_the_librarys(void **state)
{
    static const struct piece pieces[] = {{4096, LEN, SNAPWIRE_EXTENT_DATA}};
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct read_log log = {0};

    (void)state;
    answer_read(f, ask_read(f, c, NULL, &log), pieces, 1, LEN);
    RUN_UNTIL(f, log.calls == 1);
    assert_int_equal(log.code, 0);
    assert_int_equal(log.data[LEN - 1], 8);
    close_and_free(f, c);
}

static void read__extents_that_do_not_add_up_are_refused_untouched(void **state)
{
    static const struct {
        struct piece pieces[3];
        size_t n;
        uint32_t payload;
    } cases[] = {
        {{{4096, LEN, 0}}, 1, LEN - 512},                /* less payload than data */
        {{{4096, LEN, 0}}, 1, LEN + 512},                /* more */
        {{{4096, LEN, 0}}, 1, 0},                        /* none */
        {{{4096, LEN - 512, 1}}, 1, 0},                  /* short */
        {{{4096, LEN + 512, 1}}, 1, 0},                  /* long */
        {{{4608, LEN - 512, 1}}, 1, 0},                  /* begins late */
        {{{4096, 512, 1}, {5120, LEN - 1024, 1}}, 2, 0}, /* a hole */
        {{{4096, 1024, 1}, {4608, LEN - 512, 1}}, 2, 0}, /* an overlap */
        {{{4096, LEN, 1}, {4096 + LEN, 0, 1}}, 2, 0},    /* an empty one */
        {{{4096, LEN, 3}}, 1, 0},                        /* of no kind */
        {{{4096, UINT64_MAX, 0}}, 1, LEN},               /* wraps */
        {{{4096, LEN, 1}}, 0, 0},                        /* nothing */
        {{{4096, 512, 1}, {5120, LEN - 512, 1}}, 2, 0},  /* the lengths add up, the places do not */
        {{{4096, 512, 0}, {4096, LEN - 512, 0}}, 2, LEN},
        {{{4096, 512, 0}, {4608, UINT64_MAX - 511, 0}, {4096, LEN, 0}}, 3, LEN},
    };
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct read_log log = {0};
        uint8_t buf[LEN];
        memset(buf, 0xee, sizeof buf);
        answer_read(f, ask_read(f, c, buf, &log), cases[i].pieces, cases[i].n, cases[i].payload);
        RUN_UNTIL(f, log.calls == 1);
        assert_int_equal(log.code, SNAPWIRE_EPROTO);
        for (size_t k = 0; k < sizeof buf; k++)
            assert_int_equal(buf[k], 0xee);
    }
    assert_int_equal(f->connections, 1);
    close_and_free(f, c);
}

static void read__of_no_sectors_is_refused(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct snapwire_read args = {.size = sizeof args, .offset_bytes = 1, .len_bytes = 512};

    (void)state;
    assert_int_equal(snapwire_snapshot_read(c, &args, on_read, NULL, NULL), SNAPWIRE_EINVAL);
    args.offset_bytes = 0;
    args.len_bytes = 0;
    assert_int_equal(snapwire_snapshot_read(c, &args, on_read, NULL, NULL), SNAPWIRE_EINVAL);
    args.len_bytes = 513;
    assert_int_equal(snapwire_snapshot_read(c, &args, on_read, NULL, NULL), SNAPWIRE_EINVAL);
    args.len_bytes = 512 * 1024 * 1024;
    assert_int_equal(snapwire_snapshot_read(c, &args, on_read, NULL, NULL), SNAPWIRE_ELIMIT);
    close_and_free(f, c);
}

/* -- runs -- */

struct run_log {
    struct snapwire_run runs[32];
    size_t count;
    unsigned pages, done;
    uint32_t chunk_sectors;
    int code, stop_after;
};

static int on_page(void *user, const struct snapwire_run *runs, size_t count,
                   uint32_t chunk_size_sectors)
{
    struct run_log *log = user;

    log->pages++;
    log->chunk_sectors = chunk_size_sectors;
    for (size_t i = 0; i < count; i++)
        log->runs[log->count++] = runs[i];
    return log->stop_after != 0 && (int)log->pages >= log->stop_after;
}

static void on_runs_done(void *user, const struct snapwire_error *error)
{
    struct run_log *log = user;

    log->done++;
    log->code = error != NULL ? error->code : 0;
}

static void answer_runs(struct fake *f, struct fake_asked *a, uint64_t *old, uint64_t *count,
                        size_t n, uint64_t *new_chunk, uint64_t next)
{
    Snapwire__V1__RunListResponse m = SNAPWIRE__V1__RUN_LIST_RESPONSE__INIT;

    m.old_chunk = old;
    m.count = count;
    m.n_old_chunk = m.n_count = n;
    m.new_chunk = new_chunk;
    m.n_new_chunk = new_chunk != NULL ? n : 0;
    m.more = next != 0;
    m.next_chunk = next;
    m.chunk_size_sectors = 8;
    fake_answer(f, a, &m.base);
}

static void runs__are_paged_inside(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct run_log log = {0};
    const struct snapwire_run_list args = {
        .size = sizeof args, .volume = f->volume, .snapshot = f->head, .own = true};
    uint64_t old1[] = {0, 5}, count1[] = {2, 1}, new1[] = {2, 9};
    uint64_t old2[] = {6}, count2[] = {100}, new2[] = {10};

    (void)state;
    f->hold = METHOD(RUN_LIST);
    assert_int_equal(snapwire_run_each(c, &args, on_page, on_runs_done, &log, NULL), 0);
    RUN_UNTIL(f, f->asked_count == 1);
    answer_runs(f, &f->asked[0], old1, count1, 2, new1, 6);
    RUN_UNTIL(f, f->asked_count == 2);
    Snapwire__V1__RunListRequest *m = snapwire__v1__run_list_request__unpack(
        NULL, f->asked[1].control_bytes, f->asked[1].control);
    assert_int_equal(m->start_chunk, 6);
    assert_true(m->own);
    snapwire__v1__run_list_request__free_unpacked(m, NULL);
    answer_runs(f, &f->asked[1], old2, count2, 1, new2, 0);
    RUN_UNTIL(f, log.done == 1);
    assert_int_equal(log.code, 0);
    assert_int_equal(log.pages, 2);
    assert_int_equal(log.count, 3);
    assert_int_equal(log.chunk_sectors, 8);
    assert_int_equal(log.runs[2].old_chunk, 6);
    assert_int_equal(log.runs[2].count, 100);
    assert_int_equal(log.runs[2].new_chunk, 10);
    close_and_free(f, c);
}

static void runs__end_chunk_cuts_and_ends(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct run_log log = {0};
    const struct snapwire_run_list args = {
        .size = sizeof args, .volume = f->volume, .snapshot = f->head, .end_chunk = 10};
    uint64_t old[] = {0, 8, 20}, count[] = {2, 5, 1};

    (void)state;
    f->hold = METHOD(RUN_LIST);
    assert_int_equal(snapwire_run_each(c, &args, on_page, on_runs_done, &log, NULL), 0);
    RUN_UNTIL(f, f->asked_count == 1);
    answer_runs(f, &f->asked[0], old, count, 3, NULL, 21);
    RUN_UNTIL(f, log.done == 1);
    assert_int_equal(log.count, 2);
    assert_int_equal(log.runs[1].count, 2);
    assert_int_equal(f->asked_count, 1);
    close_and_free(f, c);
}

static void runs__a_page_callback_may_stop(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct run_log log = {.stop_after = 1};
    const struct snapwire_run_list args = {
        .size = sizeof args, .volume = f->volume, .snapshot = f->head};
    uint64_t old[] = {0}, count[] = {2};

    (void)state;
    f->hold = METHOD(RUN_LIST);
    assert_int_equal(snapwire_run_each(c, &args, on_page, on_runs_done, &log, NULL), 0);
    RUN_UNTIL(f, f->asked_count == 1);
    answer_runs(f, &f->asked[0], old, count, 1, NULL, 21);
    RUN_UNTIL(f, log.done == 1);
    assert_int_equal(log.code, 0);
    run_for_ms(f, 5);
    assert_int_equal(f->asked_count, 1);
    close_and_free(f, c);
}

static void runs__out_of_order_or_without_progress_are_refused(void **state)
{
    static const struct {
        uint64_t old[2], count[2], next;
        bool with_new;
    } cases[] = {
        {{10, 9}, {1, 1}, 0, false},           /* descending */
        {{10, 11}, {2, 1}, 0, false},          /* overlapping */
        {{10, 20}, {0, 1}, 0, false},          /* empty */
        {{4, 20}, {1, 1}, 0, false},           /* before the start */
        {{10, 20}, {1, 1}, 5, false},          /* no progress */
        {{10, 20}, {1, 5}, 22, false},         /* the next page inside this one */
        {{10, UINT64_MAX}, {1, 1}, 0, false},  /* out of the world */
        {{10, 20}, {UINT64_MAX, 1}, 0, false}, /* wraps */
        {{10, 20}, {1, 1}, 0, true},           /* new chunks that were not asked for */
    };
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);

    (void)state;
    f->hold = METHOD(RUN_LIST);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct run_log log = {0};
        const struct snapwire_run_list args = {
            .size = sizeof args, .volume = f->volume, .snapshot = f->head, .start_chunk = 5};
        uint64_t old[2], count[2];
        memcpy(old, cases[i].old, sizeof old);
        memcpy(count, cases[i].count, sizeof count);
        assert_int_equal(snapwire_run_each(c, &args, on_page, on_runs_done, &log, NULL), 0);
        RUN_UNTIL(f, f->asked_count == i + 1);
        answer_runs(f, &f->asked[i], old, count, 2, cases[i].with_new ? old : NULL, cases[i].next);
        RUN_UNTIL(f, log.done == 1);
        assert_int_equal(log.code, SNAPWIRE_EPROTO);
        assert_int_equal(log.pages, 0);
    }
    close_and_free(f, c);
}

/* -- merge -- */

static void answer_merge_run(struct fake *f, struct fake_asked *a, uint32_t count,
                             uint64_t table_len, uint32_t commit_max)
{
    Snapwire__V1__MergeRun m = SNAPWIRE__V1__MERGE_RUN__INIT;

    m.old_chunk = 3;
    m.new_chunk = 4;
    m.count = count;
    m.table_len = table_len;
    m.commit_max = commit_max;
    fake_answer(f, a, &m.base);
}

struct prepared {
    struct outcome outcome;
    uint32_t count, commit_max;
};

static void prepared_cb(void *user, const struct snapwire_error *error,
                        const struct snapwire_merge_run *run)
{
    struct prepared *p = user;

    outcome_cb(&p->outcome, error);
    p->count = run != NULL ? run->count : 0;
    p->commit_max = run != NULL ? run->commit_max : 0;
}

static void merge_prepare__tells_how_many_a_commit_takes(void **state)
{
    static const struct {
        uint32_t count, told, commit_max; /* commit_max 0: refused */
    } answers[] = {{2, 0, 2}, {2, 2, 2}, {2, 10, 10}, {2, 1, 0}, {2, 11, 0}, {11, 0, 0}};

    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        struct fake *f = fake_new();
        struct writer w;
        struct prepared p = {0};

        writer_begin(&w, f);
        f->hold = METHOD(MERGE_PREPARE);
        assert_int_equal(snapwire_merge_prepare(w.lease, &f->head, prepared_cb, &p, NULL), 0);
        RUN_UNTIL(f, fake_count(f, METHOD(MERGE_PREPARE)) == 1);
        answer_merge_run(f, fake_nth(f, METHOD(MERGE_PREPARE), 0), answers[i].count, 10,
                         answers[i].told);
        RUN_UNTIL(f, p.outcome.calls == 1);
        assert_int_equal(p.outcome.code, answers[i].commit_max > 0 ? 0 : SNAPWIRE_EPROTO);
        assert_int_equal(p.commit_max, answers[i].commit_max);
        assert_int_equal(p.count, answers[i].commit_max > 0 ? answers[i].count : 0);
        writer_end(&w);
    }
}

/* A commit whose answer is lost; sent again, the daemon says EMISMATCH, and is asked for the
 * table's length. */
static void commit_begin_twice(struct fake *f, struct writer *w, struct outcome *o,
                               const char *mismatch)
{
    writer_begin(w, f);
    f->hold = METHOD(MERGE_COMMIT);
    assert_int_equal(snapwire_merge_commit(w->lease, &f->head, 10, 4, outcome_cb, o, NULL), 0);
    RUN_UNTIL(f, fake_count(f, METHOD(MERGE_COMMIT)) == 1);
    fake_drop(f);
    RUN_UNTIL(f, fake_count(f, METHOD(MERGE_COMMIT)) == 2);
    fake_answer_error(f, fake_nth(f, METHOD(MERGE_COMMIT), 1), SNAP_EMISMATCH, mismatch);
    RUN_UNTIL(f, fake_count(f, METHOD(MERGE_PREPARE)) == 1);
}

static int commit_twice(uint64_t table_len_after)
{
    struct fake *f = fake_new();
    struct writer w;
    struct outcome o = {0};

    commit_begin_twice(f, &w, &o, "table length");
    answer_merge_run(f, fake_nth(f, METHOD(MERGE_PREPARE), 0), table_len_after > 0, table_len_after,
                     0);
    RUN_UNTIL(f, o.calls == 1);
    writer_end(&w);
    return o.code;
}

static void merge_commit__that_was_done_before_the_disconnect_is_success(void **state)
{
    (void)state;
    assert_int_equal(commit_twice(6), 0);
}

static void merge_commit__over_another_table_stays_a_mismatch(void **state)
{
    (void)state;
    assert_int_equal(commit_twice(7), SNAPWIRE_EMISMATCH);
}

/* The daemon was started again in between: it has forgotten what it had prepared. */
static void merge_commit__that_was_not_done_before_the_disconnect_is_sent_once_more(void **state)
{
    (void)state;
    for (int round = 0; round < 4; round++) { /* of a run, and of more than one */
        const bool refused = round % 2 != 0, more = round / 2 != 0;
        struct fake *f = fake_new();
        struct writer w;
        struct outcome o = {0};
        const Snapwire__V1__Empty empty = SNAPWIRE__V1__EMPTY__INIT;

        commit_begin_twice(f, &w, &o, "0 prepared");
        answer_merge_run(f, fake_nth(f, METHOD(MERGE_PREPARE), 0), more ? 1 : 4, 10, more ? 7 : 0);
        RUN_UNTIL(f, fake_count(f, METHOD(MERGE_COMMIT)) == 3);
        assert_int_equal(o.calls, 0);
        if (refused)
            fake_answer_error(f, fake_nth(f, METHOD(MERGE_COMMIT), 2), SNAP_EMISMATCH, "no");
        else
            fake_answer(f, fake_nth(f, METHOD(MERGE_COMMIT), 2), &empty.base);
        RUN_UNTIL(f, o.calls == 1);
        assert_int_equal(o.code, refused ? SNAPWIRE_EMISMATCH : 0);
        writer_end(&w);
    }
}

static void merge_commit__refused_at_once_is_not_asked_about(void **state)
{
    struct fake *f = fake_new();
    struct writer w;
    struct outcome o = {0};

    (void)state;
    writer_begin(&w, f);
    f->hold = METHOD(MERGE_COMMIT);
    assert_int_equal(snapwire_merge_commit(w.lease, &f->head, 10, 11, NULL, NULL, NULL),
                     SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_merge_commit(w.lease, &f->head, 10, 4, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, fake_count(f, METHOD(MERGE_COMMIT)) == 1);
    fake_answer_error(f, fake_nth(f, METHOD(MERGE_COMMIT), 0), SNAP_EMISMATCH, "table length");
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, SNAPWIRE_EMISMATCH);
    assert_int_equal(fake_count(f, METHOD(MERGE_PREPARE)), 0);
    writer_end(&w);
}

static void merge_end__of_a_consumed_snapshot_is_success_on_the_second_try(void **state)
{
    struct fake *f = fake_new();
    struct writer w;
    struct outcome o = {0};

    (void)state;
    writer_begin(&w, f);
    assert_int_equal(snapwire_merge_end(w.lease, &f->head, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, fake_count(f, METHOD(MERGE_END)) == 1);
    fake_drop(f);
    RUN_UNTIL(f, fake_count(f, METHOD(MERGE_END)) == 2);
    fake_answer_error(f, fake_nth(f, METHOD(MERGE_END), 1), SNAP_ENOENT, "gone");
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, 0);
    assert_int_equal(snapwire_merge_end(w.lease, &f->head, outcome_cb, &o, NULL), 0);
    RUN_UNTIL(f, fake_count(f, METHOD(MERGE_END)) == 3);
    fake_answer_error(f, fake_nth(f, METHOD(MERGE_END), 2), SNAP_ENOENT, "gone");
    RUN_UNTIL(f, o.calls == 2);
    assert_int_equal(o.code, SNAPWIRE_ENOENT); /* at the first try it is an error */
    writer_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read__fills_data_and_zeros_and_leaves_the_origins_part),
        cmocka_unit_test(read__without_a_buffer_hands_out_the_librarys),
        cmocka_unit_test(read__extents_that_do_not_add_up_are_refused_untouched),
        cmocka_unit_test(read__of_no_sectors_is_refused),
        cmocka_unit_test(runs__are_paged_inside),
        cmocka_unit_test(runs__end_chunk_cuts_and_ends),
        cmocka_unit_test(runs__a_page_callback_may_stop),
        cmocka_unit_test(runs__out_of_order_or_without_progress_are_refused),
        cmocka_unit_test(merge_commit__that_was_done_before_the_disconnect_is_success),
        cmocka_unit_test(merge_commit__over_another_table_stays_a_mismatch),
        cmocka_unit_test(merge_commit__that_was_not_done_before_the_disconnect_is_sent_once_more),
        cmocka_unit_test(merge_prepare__tells_how_many_a_commit_takes),
        cmocka_unit_test(merge_commit__refused_at_once_is_not_asked_about),
        cmocka_unit_test(merge_end__of_a_consumed_snapshot_is_success_on_the_second_try),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
