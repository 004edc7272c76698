/* SPDX-License-Identifier: Apache-2.0 */
/* Hosted volumes as the library asks for them: pieces, errors, replays, extents, differences,
 * clones and groups. */
#include "tests/unit/client/fake_daemon.h"

enum { MEG = 1 << 20 };

/* Take what came as written: the daemon's volume, in memory. */
static void disk_take(uint8_t *disk, const struct fake_asked *a)
{
    Snapwire__V1__WriteRequest *m =
        snapwire__v1__write_request__unpack(NULL, a->control_bytes, a->control);

    assert_non_null(m);
    memcpy(disk + m->offset_bytes, a->payload, a->payload_bytes);
    snapwire__v1__write_request__free_unpacked(m, NULL);
}

static void answer_empty(struct fake *f, struct fake_asked *a)
{
    Snapwire__V1__Empty m = SNAPWIRE__V1__EMPTY__INIT;

    fake_answer(f, a, &m.base);
}

static void answer_read_of(struct fake *f, struct fake_asked *a, uint8_t *disk)
{
    Snapwire__V1__ReadRequest *in =
        snapwire__v1__read_request__unpack(NULL, a->control_bytes, a->control);
    Snapwire__V1__ReadResponse m = SNAPWIRE__V1__READ_RESPONSE__INIT;
    Snapwire__V1__Extent e = SNAPWIRE__V1__EXTENT__INIT, *one = &e;
    const struct iovec iov = {disk + in->offset_bytes, in->len_bytes};

    e.offset_bytes = in->offset_bytes;
    e.len_bytes = in->len_bytes;
    m.extents = &one;
    m.n_extents = 1;
    a->answered = true;
    fake_send(f, FRAME_RESPONSE, 0, a->method, a->id, &m.base, &iov);
    snapwire__v1__read_request__free_unpacked(in, NULL);
}

static uint8_t *pattern_new(size_t len, unsigned seed)
{
    uint8_t *p = malloc(len);

    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(i * 31 + i / 4096 + seed);
    return p;
}

/* -- writing -- */

static void write__of_one_piece_carries_place_flags_and_content(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};
    struct snapwire_error e;

    (void)state;
    assert_int_equal(snapwire_io_write(c, &f->volume, &f->head, 12345, 7, "content",
                                       SNAPWIRE_IO_FUA, outcome_cb, &o, &e),
                     0);
    RUN_UNTIL(f, fake_count(f, METHOD(WRITE)) == 1);
    struct fake_asked *a = fake_nth(f, METHOD(WRITE), 0);
    Snapwire__V1__WriteRequest *m =
        snapwire__v1__write_request__unpack(NULL, a->control_bytes, a->control);
    assert_memory_equal(m->volume.data, f->volume.b, 16);
    assert_memory_equal(m->snapshot.data, f->head.b, 16);
    assert_int_equal(m->offset_bytes, 12345);
    assert_true(m->fua);
    assert_int_equal(a->payload_bytes, 7);
    assert_memory_equal(a->payload, "content", 7);
    snapwire__v1__write_request__free_unpacked(m, NULL);
    run_for_ms(f, 5);
    assert_int_equal(o.calls, 0); /* not before the answer */
    answer_empty(f, a);
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, 0);
    close_and_free(f, c);
}

static void write__longer_than_a_piece_is_cut_at_its_multiples(void **state)
{
    enum { LEN = 40 * MEG + 4321, AT = MEG - 100 };
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};
    struct snapwire_error e;
    uint8_t *data = pattern_new(LEN, 1), *disk = calloc(1, AT + LEN);
    unsigned done = 0;

    (void)state;
    assert_int_equal(snapwire_io_write(c, &f->volume, NULL, AT, LEN, data, 0, outcome_cb, &o, &e),
                     0);
    while (o.calls == 0) {
        RUN_UNTIL(f, f->asked_count > done || o.calls == 1);
        assert_true(f->asked_count - done <= 16); /* no more of one call under way */
        for (; done < f->asked_count; done++) {
            assert_int_equal(f->asked[done].method, METHOD(WRITE));
            assert_true(f->asked[done].payload_bytes <= MEG);
            disk_take(disk, &f->asked[done]);
            answer_empty(f, &f->asked[done]);
        }
    }
    assert_int_equal(o.code, 0);
    assert_int_equal(f->asked[0].payload_bytes, 100);
    assert_int_equal(f->asked_count, 42);
    assert_memory_equal(disk + AT, data, LEN);
    close_and_free(f, c);
    free(data);
    free(disk);
}

static void write__that_is_refused_ends_once_after_all_under_way(void **state)
{
    enum { LEN = 20 * MEG };
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};
    struct snapwire_error e;
    uint8_t *data = calloc(1, LEN);

    (void)state;
    assert_int_equal(snapwire_io_write(c, &f->volume, NULL, 0, LEN, data, 0, outcome_cb, &o, &e),
                     0);
    RUN_UNTIL(f, f->asked_count == 16);
    fake_answer_error(f, &f->asked[3], SNAP_ENOSPC, "full");
    for (unsigned i = 0; i < 15; i++) {
        if (i != 3)
            answer_empty(f, &f->asked[i]);
    }
    run_for_ms(f, 10);
    assert_int_equal(o.calls, 0);
    assert_int_equal(f->asked_count, 16); /* nothing new was begun after the error */
    answer_empty(f, &f->asked[15]);
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, SNAPWIRE_ENOSPC);
    assert_string_equal(o.text, "full");
    close_and_free(f, c);
    free(data);
}

static void write__unanswered_is_sent_again_on_the_next_connection(void **state)
{
    enum { LEN = 2 * MEG };
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};
    struct snapwire_error e;
    uint8_t *data = pattern_new(LEN, 5);

    (void)state;
    assert_int_equal(snapwire_io_write(c, &f->volume, NULL, 0, LEN, data, 0, outcome_cb, &o, &e),
                     0);
    RUN_UNTIL(f, f->asked_count == 2);
    answer_empty(f, &f->asked[0]);
    run_for_ms(f, 10);
    fake_drop(f);
    RUN_UNTIL(f, f->asked_count == 3);
    assert_int_equal(f->asked[2].connection, 2);
    assert_int_equal(f->asked[2].payload_bytes, MEG);
    assert_memory_equal(f->asked[2].payload, data + MEG, MEG);
    answer_empty(f, &f->asked[2]);
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, 0);
    close_and_free(f, c);
    free(data);
}

static void write__outlived_by_the_client_is_cancelled(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};
    struct snapwire_error e;

    (void)state;
    assert_int_equal(snapwire_io_write(c, &f->volume, NULL, 0, 3, "abc", 0, outcome_cb, &o, &e), 0);
    RUN_UNTIL(f, f->asked_count == 1);
    close_and_free(f, c);
    assert_int_equal(o.calls, 1);
    assert_int_equal(o.code, SNAPWIRE_ECANCELED);
}

/* -- flushing -- */

static void answered(struct fake *f, unsigned n)
{
    RUN_UNTIL(f, f->asked_count == n);
    answer_empty(f, &f->asked[n - 1]);
}

/* Write, break the connection, come back to a machine that is the same or not, flush twice. */
static void flush_after_reconnect(unsigned flags, bool anew, int code)
{
    struct fake *f = fake_new();
    f->boot = uuid_make();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};
    struct snapwire_error e;

    assert_int_equal(snapwire_io_write(c, &f->volume, NULL, 0, 3, "abc", flags, outcome_cb, &o, &e),
                     0);
    answered(f, 1);
    RUN_UNTIL(f, o.calls == 1);
    if (anew)
        f->boot = uuid_make();
    fake_drop(f);
    run_for_ms(f, 5);
    assert_int_equal(snapwire_io_flush(c, &f->volume, &f->head, outcome_cb, &o, &e), 0);
    answered(f, 2); /* of another one: never written */
    RUN_UNTIL(f, o.calls == 2);
    assert_int_equal(o.code, 0);
    assert_int_equal(snapwire_io_flush(c, &f->volume, NULL, outcome_cb, &o, &e), 0);
    answered(f, 3);
    RUN_UNTIL(f, o.calls == 3);
    assert_int_equal(o.code, code);
    assert_int_equal(snapwire_io_flush(c, &f->volume, NULL, outcome_cb, &o, &e), 0);
    answered(f, 4);
    RUN_UNTIL(f, o.calls == 4);
    assert_int_equal(o.code, 0);
    close_and_free(f, c);
}

static void flush__by_another_run_of_the_machine_says_that_writes_may_be_lost(void **state)
{
    (void)state;
    flush_after_reconnect(0, true, SNAPWIRE_EIO);
}

static void flush__by_the_same_machine_or_of_durable_writes_is_fine(void **state)
{
    (void)state;
    flush_after_reconnect(0, false, 0);
    flush_after_reconnect(SNAPWIRE_IO_FUA, true, 0);
}

/* What the n-th request, a flush, says that it has heard. */
static uint64_t heard_by(struct fake *f, unsigned n)
{
    RUN_UNTIL(f, f->asked_count > n);
    const struct fake_asked *a = &f->asked[n];
    Snapwire__V1__FlushRequest *m =
        snapwire__v1__flush_request__unpack(NULL, a->control_bytes, a->control);

    assert_int_equal(a->method, METHOD(FLUSH));
    assert_non_null(m);
    assert_int_equal(m->says_case, SNAPWIRE__V1__FLUSH_REQUEST__SAYS_HEARD);
    const uint64_t heard = m->heard;
    snapwire__v1__flush_request__free_unpacked(m, NULL);
    return heard;
}

static void tell_loss(struct fake *f, unsigned n, uint64_t loss)
{
    Snapwire__V1__Error m = SNAPWIRE__V1__ERROR__INIT;
    char text[] = "an earlier flush failed";

    RUN_UNTIL(f, f->asked_count > n);
    m.code = (uint32_t)-SNAP_EIO;
    m.text = text;
    m.loss = loss;
    f->asked[n].answered = true;
    fake_send(f, FRAME_RESPONSE, FRAME_ERROR, METHOD(FLUSH), f->asked[n].id, &m.base, NULL);
}

static void flush_begin(struct fake *f, struct snapwire_client *c, const struct snapwire_uuid *node,
                        struct outcome *o)
{
    struct snapwire_error e;

    assert_int_equal(snapwire_io_flush(c, &f->volume, node, outcome_cb, o, &e), 0);
}

/* Over a connection that lives, over others, and for each volume and clone by itself. */
static void flush__says_what_the_last_one_was_told(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};

    (void)state;
    flush_begin(f, c, NULL, &o);
    assert_int_equal(heard_by(f, 0), 0);
    tell_loss(f, 0, UINT64_C(0x3fffffffffffffff));
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(o.code, SNAPWIRE_EIO);
    fake_drop(f);
    flush_begin(f, c, NULL, &o);
    assert_int_equal(heard_by(f, 1), UINT64_C(0x3fffffffffffffff));
    tell_loss(f, 1, 5); /* of a daemon that was started anew */
    RUN_UNTIL(f, o.calls == 2);
    flush_begin(f, c, NULL, &o);
    assert_int_equal(heard_by(f, 2), 5);
    fake_answer_error(f, &f->asked[2], SNAP_EPOISONED, "later"); /* which tells of none */
    RUN_UNTIL(f, o.calls == 3);
    flush_begin(f, c, NULL, &o);
    assert_int_equal(heard_by(f, 3), 5);
    answer_empty(f, &f->asked[3]);
    RUN_UNTIL(f, o.calls == 4);
    assert_int_equal(o.code, 0);
    flush_begin(f, c, &f->head, &o);
    assert_int_equal(heard_by(f, 4), 0);
    answer_empty(f, &f->asked[4]);
    RUN_UNTIL(f, o.calls == 5);
    flush_begin(f, c, NULL, &o);
    assert_int_equal(heard_by(f, 5), 5);
    answer_empty(f, &f->asked[5]);
    RUN_UNTIL(f, o.calls == 6);
    close_and_free(f, c);
}

/* Its answer did not come: nothing was heard. */
static void flush__sent_again_says_what_it_said_the_first_time(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome one = {0}, other = {0};

    (void)state;
    flush_begin(f, c, NULL, &one);
    assert_int_equal(heard_by(f, 0), 0);
    flush_begin(f, c, NULL, &other);
    assert_int_equal(heard_by(f, 1), 0);
    tell_loss(f, 1, 9);
    RUN_UNTIL(f, other.calls == 1);
    fake_drop(f);
    assert_int_equal(heard_by(f, 2), 0);
    tell_loss(f, 2, 9);
    RUN_UNTIL(f, one.calls == 1);
    assert_int_equal(one.code, SNAPWIRE_EIO);
    flush_begin(f, c, NULL, &one);
    assert_int_equal(heard_by(f, 3), 9);
    answer_empty(f, &f->asked[3]);
    RUN_UNTIL(f, one.calls == 2);
    close_and_free(f, c);
}

/* -- reading -- */

static void read__longer_than_a_piece_is_put_together(void **state)
{
    enum { LEN = 18 * MEG + 17, AT = 3 * MEG / 2 + 1 };
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};
    struct snapwire_error e;
    uint8_t *disk = pattern_new(AT + LEN, 3), *buf = calloc(1, LEN);
    unsigned done = 0;

    (void)state;
    assert_int_equal(snapwire_io_read(c, &f->volume, NULL, AT, LEN, buf, outcome_cb, &o, &e), 0);
    while (o.calls == 0) {
        RUN_UNTIL(f, f->asked_count > done || o.calls == 1);
        for (; done < f->asked_count; done++)
            answer_read_of(f, &f->asked[done], disk);
    }
    assert_int_equal(o.code, 0);
    assert_memory_equal(buf, disk + AT, LEN);
    close_and_free(f, c);
    free(disk);
    free(buf);
}

static void read__pieces_are_whole_sectors_no_larger_than_what_is_received(void **state)
{
    enum { LEN = 2 * MEG };
    struct fake *f = fake_new();
    const struct snapwire_config config = {
        .size = sizeof config, .addresses = f->address, .receive_bytes_max = MEG / 2 + 1000};
    struct snapwire_client *c = NULL;
    struct outcome o = {0};
    struct snapwire_error e;
    uint8_t *disk = pattern_new(LEN, 4), *got = calloc(1, LEN);
    unsigned done = 0;

    (void)state;
    assert_int_equal(snapwire_client_new(f->base, &config, &c, &e), 0);
    assert_int_equal(snapwire_client_payload_bytes_max(c), MEG / 4);
    assert_int_equal(snapwire_io_read(c, &f->volume, NULL, 0, LEN, got, outcome_cb, &o, &e), 0);
    while (o.calls == 0) {
        RUN_UNTIL(f, f->asked_count > done || o.calls == 1);
        for (; done < f->asked_count; done++)
            answer_read_of(f, &f->asked[done], disk);
    }
    assert_int_equal(o.code, 0);
    assert_memory_equal(got, disk, LEN);
    const struct snapwire_read whole = {.size = sizeof whole, .len_bytes = MEG / 4 + 512};
    assert_int_equal(snapwire_snapshot_read(c, &whole, NULL, NULL, &e), SNAPWIRE_ELIMIT);
    close_and_free(f, c);
    free(disk);
    free(got);
}

static void read__that_does_not_cover_the_range_is_refused_whole(void **state)
{
    static const struct {
        uint64_t offset, len;
        int kind;
    } wrong[] = {
        {0, 511, SNAPWIRE_EXTENT_ZERO}, {1, 512, SNAPWIRE_EXTENT_ZERO},
        {0, 513, SNAPWIRE_EXTENT_ZERO}, {0, 512, SNAPWIRE_EXTENT_ORIGIN},
        {0, 512, SNAPWIRE_EXTENT_DATA}, /* without payload */
    };

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct fake *f = fake_new();
        struct snapwire_client *c = client_of(f, NULL, NULL);
        struct outcome o = {0};
        struct snapwire_error e;
        Snapwire__V1__ReadResponse m = SNAPWIRE__V1__READ_RESPONSE__INIT;
        Snapwire__V1__Extent x = SNAPWIRE__V1__EXTENT__INIT, *one = &x;
        uint8_t buf[512];
        memset(buf, 0xee, sizeof buf);
        assert_int_equal(
            snapwire_io_read(c, &f->volume, NULL, 0, sizeof buf, buf, outcome_cb, &o, &e), 0);
        RUN_UNTIL(f, f->asked_count == 1);
        x.offset_bytes = wrong[i].offset;
        x.len_bytes = wrong[i].len;
        x.kind = (Snapwire__V1__ExtentKind)wrong[i].kind;
        m.extents = &one;
        m.n_extents = 1;
        fake_answer(f, &f->asked[0], &m.base);
        RUN_UNTIL(f, o.calls == 1);
        assert_int_equal(o.code, SNAPWIRE_EPROTO);
        for (size_t k = 0; k < sizeof buf; k++)
            assert_int_equal(buf[k], 0xee);
        close_and_free(f, c);
    }
}

/* -- zeroing, flushing, arguments -- */

static void zero__is_cut_at_four_gib_and_flush_has_no_range(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};
    struct snapwire_error e;
    const uint64_t gib = UINT64_C(1) << 30;

    (void)state;
    assert_int_equal(snapwire_io_zero(c, &f->volume, NULL, gib, 5 * gib, SNAPWIRE_IO_DISCARD,
                                      outcome_cb, &o, &e),
                     0);
    RUN_UNTIL(f, f->asked_count == 2);
    for (unsigned i = 0; i < 2; i++) {
        Snapwire__V1__ZeroRequest *m = snapwire__v1__zero_request__unpack(
            NULL, f->asked[i].control_bytes, f->asked[i].control);
        assert_int_equal(m->offset_bytes, i == 0 ? gib : 4 * gib);
        assert_int_equal(m->len_bytes, i == 0 ? 3 * gib : 2 * gib);
        assert_true(m->discard && !m->fua);
        snapwire__v1__zero_request__free_unpacked(m, NULL);
        answer_empty(f, &f->asked[i]);
    }
    RUN_UNTIL(f, o.calls == 1);
    assert_int_equal(snapwire_io_flush(c, &f->volume, NULL, outcome_cb, &o, &e), 0);
    RUN_UNTIL(f, f->asked_count == 3);
    assert_int_equal(f->asked[2].method, METHOD(FLUSH));
    answer_empty(f, &f->asked[2]);
    RUN_UNTIL(f, o.calls == 2);
    assert_int_equal(o.code, 0);
    close_and_free(f, c);
}

static void arguments__that_make_no_sense_are_refused_before_anything_is_sent(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct outcome o = {0};
    struct snapwire_error e;
    const struct snapwire_uuid *v = &f->volume;
    const uint64_t far = UINT64_C(1) << 60;
    uint8_t b[8] = {0};

    (void)state;
    assert_int_equal(snapwire_io_write(c, v, NULL, 0, 0, b, 0, outcome_cb, &o, &e),
                     SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_io_write(c, v, NULL, far, 8, b, 0, outcome_cb, &o, &e),
                     SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_io_write(c, v, NULL, 0, 8, NULL, 0, outcome_cb, &o, &e),
                     SNAPWIRE_EINVAL);
    assert_int_equal(
        snapwire_io_write(c, v, NULL, 0, 8, b, SNAPWIRE_IO_DISCARD, outcome_cb, &o, &e),
        SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_io_read(c, v, NULL, UINT64_MAX, 8, b, outcome_cb, &o, &e),
                     SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_io_read(c, v, NULL, 0, 8, NULL, outcome_cb, &o, &e), SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_io_zero(c, v, NULL, 0, 8, 8, outcome_cb, &o, &e), SNAPWIRE_EINVAL);
    run_for_ms(f, 10);
    assert_int_equal(f->asked_count, 0);
    assert_int_equal(o.calls, 0);
    close_and_free(f, c);
}

/* -- extents and differences -- */

struct extents_log {
    unsigned calls;
    int code;
    size_t count;
};

static void on_extents(void *user, const struct snapwire_error *error,
                       const struct snapwire_extent_list *list)
{
    struct extents_log *log = user;

    log->calls++;
    log->code = error != NULL ? error->code : 0;
    log->count = list != NULL ? list->count : 0;
}

static int extents_answered(const uint64_t (*places)[3], size_t n, size_t *ret_count)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct extents_log log = {0};
    struct snapwire_error e;
    Snapwire__V1__ExtentListResponse m = SNAPWIRE__V1__EXTENT_LIST_RESPONSE__INIT;
    Snapwire__V1__Extent x[4], *pointers[4];

    assert_int_equal(snapwire_extents(c, &f->volume, NULL, 4096, 65536, on_extents, &log, &e), 0);
    RUN_UNTIL(f, f->asked_count == 1);
    for (size_t i = 0; i < n; i++) {
        snapwire__v1__extent__init(&x[i]);
        x[i].offset_bytes = places[i][0];
        x[i].len_bytes = places[i][1];
        x[i].kind = (Snapwire__V1__ExtentKind)places[i][2];
        pointers[i] = &x[i];
    }
    m.extents = pointers;
    m.n_extents = n;
    fake_answer(f, &f->asked[0], &m.base);
    RUN_UNTIL(f, log.calls == 1);
    *ret_count = log.count;
    close_and_free(f, c);
    return log.code;
}

static void extents__may_end_early_but_not_leave_holes(void **state)
{
    static const uint64_t good[][3] = {{4096, 100, 0}, {4196, 4000, 2}};
    static const uint64_t hole[][3] = {{4096, 100, 0}, {4197, 4000, 2}};
    static const uint64_t late[][3] = {{4097, 100, 0}};
    static const uint64_t beyond[][3] = {{4096, 65537, 0}};
    size_t count;

    (void)state;
    assert_int_equal(extents_answered(good, 2, &count), 0);
    assert_int_equal(count, 2);
    assert_int_equal(extents_answered(hole, 2, &count), SNAPWIRE_EPROTO);
    assert_int_equal(extents_answered(late, 1, &count), SNAPWIRE_EPROTO);
    assert_int_equal(extents_answered(beyond, 1, &count), SNAPWIRE_EPROTO);
    assert_int_equal(extents_answered(NULL, 0, &count), SNAPWIRE_EPROTO);
}

struct diff_log {
    uint64_t chunks;
    unsigned pages;
    struct outcome done;
};

static int on_diff(void *user, const struct snapwire_run *runs, size_t count, uint32_t sectors)
{
    struct diff_log *log = user;

    assert_int_equal(sectors, 8);
    log->pages++;
    for (size_t i = 0; i < count; i++)
        log->chunks += runs[i].count;
    return 0;
}

static void on_diff_done(void *user, const struct snapwire_error *error)
{
    struct diff_log *log = user;

    outcome_cb(&log->done, error);
}

static void diff__asks_page_after_page_up_to_its_end(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct diff_log log = {0};
    struct snapwire_error e;
    const struct snapwire_uuid to = snapwire_uuid_make();
    const struct snapwire_diff args = {.size = sizeof args,
                                       .volume = f->volume,
                                       .from = f->head,
                                       .to = to,
                                       .start_chunk = 5,
                                       .end_chunk = 100};
    uint64_t old_chunk = 10, count = 4;
    Snapwire__V1__RunListResponse m = SNAPWIRE__V1__RUN_LIST_RESPONSE__INIT;

    (void)state;
    assert_int_equal(snapwire_diff_each(c, &args, on_diff, on_diff_done, &log, &e), 0);
    RUN_UNTIL(f, f->asked_count == 1);
    Snapwire__V1__DiffRequest *in =
        snapwire__v1__diff_request__unpack(NULL, f->asked[0].control_bytes, f->asked[0].control);
    assert_memory_equal(in->from.data, f->head.b, 16);
    assert_memory_equal(in->to.data, to.b, 16);
    assert_int_equal(in->start_chunk, 5);
    snapwire__v1__diff_request__free_unpacked(in, NULL);
    m.old_chunk = &old_chunk;
    m.count = &count;
    m.n_old_chunk = m.n_count = 1;
    m.chunk_size_sectors = 8;
    m.more = true;
    m.next_chunk = 50;
    fake_answer(f, &f->asked[0], &m.base);
    RUN_UNTIL(f, f->asked_count == 2);
    old_chunk = 98;
    m.next_chunk = 200;
    fake_answer(f, &f->asked[1], &m.base);
    RUN_UNTIL(f, log.done.calls == 1);
    assert_int_equal(log.done.code, 0);
    assert_int_equal(log.pages, 2);
    assert_int_equal(log.chunks, 4 + 2); /* cut at the end that was asked for */
    close_and_free(f, c);
}

/* -- groups -- */

static void group__gives_every_member_a_uuid_that_replays_keep(void **state)
{
    struct fake *f = fake_new();
    struct snapwire_client *c = client_of(f, NULL, NULL);
    struct snapwire_error e;
    const struct snapwire_group_member members[] = {{.volume = f->volume, .name = "s"},
                                                    {.volume = f->head, .name = "s"}};
    const struct snapwire_group_create args = {
        .size = sizeof args, .members = members, .member_count = 2};
    const struct snapwire_group_create none = {.size = sizeof none, .members = members};

    (void)state;
    assert_int_equal(snapwire_group_create(c, &none, NULL, NULL, &e), SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_group_create(c, &args, NULL, NULL, &e), 0);
    RUN_UNTIL(f, f->asked_count == 1);
    fake_drop(f);
    RUN_UNTIL(f, f->asked_count == 2);
    assert_int_equal(f->asked[1].control_bytes, f->asked[0].control_bytes);
    assert_memory_equal(f->asked[1].control, f->asked[0].control, f->asked[0].control_bytes);
    Snapwire__V1__GroupCreate *in =
        snapwire__v1__group_create__unpack(NULL, f->asked[1].control_bytes, f->asked[1].control);
    assert_int_equal(in->n_members, 2);
    assert_int_equal(in->group.len, 16);
    assert_int_equal(in->members[0]->snapshot.len, 16);
    assert_memory_not_equal(in->members[0]->snapshot.data, in->members[1]->snapshot.data, 16);
    snapwire__v1__group_create__free_unpacked(in, NULL);
    close_and_free(f, c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(write__of_one_piece_carries_place_flags_and_content),
        cmocka_unit_test(write__longer_than_a_piece_is_cut_at_its_multiples),
        cmocka_unit_test(write__that_is_refused_ends_once_after_all_under_way),
        cmocka_unit_test(write__unanswered_is_sent_again_on_the_next_connection),
        cmocka_unit_test(write__outlived_by_the_client_is_cancelled),
        cmocka_unit_test(flush__by_another_run_of_the_machine_says_that_writes_may_be_lost),
        cmocka_unit_test(flush__by_the_same_machine_or_of_durable_writes_is_fine),
        cmocka_unit_test(flush__says_what_the_last_one_was_told),
        cmocka_unit_test(flush__sent_again_says_what_it_said_the_first_time),
        cmocka_unit_test(read__longer_than_a_piece_is_put_together),
        cmocka_unit_test(read__pieces_are_whole_sectors_no_larger_than_what_is_received),
        cmocka_unit_test(read__that_does_not_cover_the_range_is_refused_whole),
        cmocka_unit_test(zero__is_cut_at_four_gib_and_flush_has_no_range),
        cmocka_unit_test(arguments__that_make_no_sense_are_refused_before_anything_is_sent),
        cmocka_unit_test(extents__may_end_early_but_not_leave_holes),
        cmocka_unit_test(diff__asks_page_after_page_up_to_its_end),
        cmocka_unit_test(group__gives_every_member_a_uuid_that_replays_keep),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
