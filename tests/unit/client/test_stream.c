/* SPDX-License-Identifier: Apache-2.0 */
/* The COW stream: batches, bounds, replay, failures. */
#include "tests/unit/client/writer.h"

enum { CHUNK = 4096 };

struct put_log {
    struct writer *w;
    unsigned calls, failed;
    int code;
    char text[480];
    uint64_t last_chunk;
};

static void on_put(void *user, uint64_t old_chunk, uint32_t count,
                   const struct snapwire_error *error)
{
    struct put_log *log = user;

    (void)count;
    log->calls++;
    log->last_chunk = old_chunk;
    if (error != NULL) {
        log->failed++;
        log->code = error->code;
        (void)snprintf(log->text, sizeof log->text, "%s", error->text);
        if (log->w != NULL)
            writer_note(log->w, 'p');
    }
}

/* Content that tells its chunk. */
static uint8_t *content(uint64_t chunk, uint32_t count)
{
    uint8_t *data = malloc((size_t)count * CHUNK);

    for (uint32_t i = 0; i < count; i++)
        memset(data + (size_t)i * CHUNK, (int)(1 + (chunk + i) % 255), CHUNK);
    return data;
}

static int put(struct writer *w, uint64_t chunk, const void *data, struct put_log *log)
{
    struct snapwire_error e;

    return snapwire_stream_put(w->stream, chunk, 1, data, 0, on_put, log, &e);
}

static Snapwire__V1__CowPut *put_of(struct fake *f, unsigned n)
{
    const struct fake_asked *a = fake_nth(f, METHOD(COW_PUT), n);
    Snapwire__V1__CowPut *m = snapwire__v1__cow_put__unpack(NULL, a->control_bytes, a->control);

    assert_non_null(m);
    return m;
}

static void puts__of_one_turn_travel_in_one_frame_in_their_order(void **state)
{
    struct writer w;
    struct put_log log = {0};
    static const uint64_t chunks[] = {9, 3, 4, 100};
    uint8_t *data[4];

    (void)state;
    writer_begin_stream(&w, NULL);
    for (unsigned i = 0; i < 4; i++) {
        data[i] = content(chunks[i], 1);
        assert_int_equal(put(&w, chunks[i], data[i], &log), 0);
    }
    assert_int_equal(
        snapwire_stream_put(w.stream, 50, 3, NULL, SNAPWIRE_PUT_ZERO, on_put, &log, NULL), 0);
    RUN_UNTIL(w.f, log.calls == 5);
    assert_int_equal(log.failed, 0);
    assert_int_equal(fake_count(w.f, METHOD(COW_PUT)), 1);
    Snapwire__V1__CowPut *m = put_of(w.f, 0);
    const struct fake_asked *a = fake_nth(w.f, METHOD(COW_PUT), 0);
    assert_int_equal(m->n_old_chunks, 4);
    assert_int_equal(m->n_zero_chunks, 3);
    assert_int_equal(m->epoch, 7);
    assert_int_equal(a->payload_bytes, 4 * CHUNK);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(m->old_chunks[i], chunks[i]);
        assert_memory_equal(a->payload + (size_t)i * CHUNK, data[i], CHUNK);
        free(data[i]);
    }
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(m->zero_chunks[i], 50 + i);
    snapwire__v1__cow_put__free_unpacked(m, NULL);
    struct snapwire_stream_stats stats;
    snapwire_stream_stats(w.stream, &stats, sizeof stats);
    assert_int_equal(stats.puts, 5);
    assert_int_equal(stats.chunks, 7);
    assert_int_equal(stats.zero_chunks, 3);
    assert_int_equal(stats.chunks_added, 7);
    assert_int_equal(stats.batches, 1);
    writer_end(&w);
}

static void puts__fill_batches_up_to_their_bounds(void **state)
{
    const struct snapwire_stream_config config = {.batch_bytes_max = 4 * CHUNK};
    struct writer w;
    struct put_log log = {0};
    uint8_t *data = content(1, 10);

    (void)state;
    writer_begin_stream(&w, &config);
    assert_int_equal(snapwire_stream_put_max(w.stream), 4);
    assert_int_equal(snapwire_stream_put(w.stream, 0, 5, data, 0, on_put, &log, NULL),
                     SNAPWIRE_EINVAL);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(put(&w, 1 + i, data + (size_t)i * CHUNK, &log), 0);
    RUN_UNTIL(w.f, log.calls == 10);
    assert_int_equal(fake_count(w.f, METHOD(COW_PUT)), 3);
    assert_int_equal(fake_nth(w.f, METHOD(COW_PUT), 0)->payload_bytes, 4 * CHUNK);
    assert_int_equal(fake_nth(w.f, METHOD(COW_PUT), 2)->payload_bytes, 2 * CHUNK);
    assert_memory_equal(fake_nth(w.f, METHOD(COW_PUT), 1)->payload, data + 4 * CHUNK, 4 * CHUNK);
    free(data);
    writer_end(&w);
}

/* Zeros have no payload, but the daemon has a bound for what they stand for. */
static void zeros__of_one_batch_are_no_more_than_the_daemon_takes(void **state)
{
    struct fake *f = fake_new();
    struct writer w;
    struct put_log log = {0};

    (void)state;
    f->chunk_sectors = 2048;
    const unsigned most = LIMIT_BATCH_ZERO_BYTES / SECTOR_BYTES / 2048;
    writer_begin(&w, f);
    writer_stream(&w, NULL);
    for (unsigned i = 0; i < 2 * most; i++)
        assert_int_equal(
            snapwire_stream_put(w.stream, i % most, 1, NULL, SNAPWIRE_PUT_ZERO, on_put, &log, NULL),
            0);
    RUN_UNTIL(w.f, log.calls == 2 * most);
    assert_int_equal(log.failed, 0);
    assert_int_equal(fake_count(w.f, METHOD(COW_PUT)), 2);
    for (unsigned i = 0; i < 2; i++) {
        Snapwire__V1__CowPut *m = put_of(w.f, i);
        assert_int_equal(m->n_zero_chunks, most);
        snapwire__v1__cow_put__free_unpacked(m, NULL);
    }
    writer_end(&w);
}

/* One batch is gathered, one travels, one is made durable, one's answer comes back. */
static void batch__is_at_most_a_quarter_of_what_may_be_in_flight(void **state)
{
    const struct snapwire_stream_config by_bytes = {.inflight_bytes_max = 16 * CHUNK};
    const struct snapwire_stream_config by_chunks = {.inflight_chunks_max = 16};
    const struct snapwire_stream_config *configs[] = {&by_bytes, &by_chunks};
    uint8_t *data = content(1, 1);

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct writer w;
        struct put_log log = {0};
        writer_begin_held(&w, configs[i]);
        for (unsigned k = 0; k < 16; k++)
            assert_int_equal(put(&w, k, data, &log), 0);
        assert_int_equal(put(&w, 16, data, &log), SNAPWIRE_WOULD_BLOCK);
        (void)writer_await_puts(&w, 4);
        for (unsigned k = 0; k < 4; k++) {
            assert_int_equal(fake_nth(w.f, METHOD(COW_PUT), k)->payload_bytes, 4 * CHUNK);
            fake_answer_put(w.f, fake_nth(w.f, METHOD(COW_PUT), k));
        }
        RUN_UNTIL(w.f, log.calls == 16);
        assert_int_equal(log.failed, 0);
        writer_end(&w);
    }
    free(data);
}

static void put__that_is_none_is_refused(void **state)
{
    struct writer w;
    struct snapwire_error e;
    uint8_t *data = content(1, 1);
    const uint64_t chunks = (UINT64_C(1) << 30) / CHUNK;

    (void)state;
    writer_begin_stream(&w, NULL);
    assert_int_equal(snapwire_stream_put(w.stream, chunks, 1, data, 0, NULL, NULL, &e),
                     SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_stream_put(w.stream, UINT64_MAX, 1, data, 0, NULL, NULL, &e),
                     SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_stream_put(w.stream, 0, 0, data, 0, NULL, NULL, &e), SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_stream_put(w.stream, 0, 1, NULL, 0, NULL, NULL, &e), SNAPWIRE_EINVAL);
    assert_int_equal(snapwire_stream_put(w.stream, chunks - 1, 1, data, 0, NULL, NULL, &e), 0);
    struct snapwire_stream *second;
    assert_int_equal(snapwire_stream_new(w.lease, NULL, &second, &e), SNAPWIRE_EBUSY);
    assert_int_equal(snapwire_lease_release(w.lease, NULL, NULL, &e), SNAPWIRE_EBUSY);
    run_for_ms(w.f, 5);
    free(data);
    writer_end(&w);
}

static void put__without_a_head_is_enoent(void **state)
{
    struct fake *f = fake_new();
    struct writer w;
    uint8_t *data = content(1, 1);

    (void)state;
    memset(&f->head, 0, sizeof f->head);
    f->chunk_sectors = 0;
    writer_begin(&w, f);
    writer_stream(&w, NULL);
    assert_int_equal(put(&w, 1, data, NULL), SNAPWIRE_ENOENT);
    free(data);
    writer_end(&w);
}

static void put__over_the_bound_would_block_and_drained_follows(void **state)
{
    const struct snapwire_stream_config config = {.batch_bytes_max = CHUNK,
                                                  .inflight_bytes_max = 4 * CHUNK};
    struct writer w;
    struct put_log log = {0};
    uint8_t *data = content(1, 1);

    (void)state;
    writer_begin_held(&w, &config);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(put(&w, i, data, &log), 0);
    assert_int_equal(put(&w, 4, data, &log), SNAPWIRE_WOULD_BLOCK);
    (void)writer_await_puts(&w, 4);
    assert_int_equal(w.drained, 0);
    fake_answer_put(w.f, fake_nth(w.f, METHOD(COW_PUT), 2));
    RUN_UNTIL(w.f, w.drained == 1);
    assert_int_equal(log.calls, 1);
    assert_int_equal(log.last_chunk, 2); /* answered in any order */
    assert_int_equal(put(&w, 4, data, &log), 0);
    assert_int_equal(put(&w, 5, data, &log), SNAPWIRE_WOULD_BLOCK);
    (void)writer_await_puts(&w, 5);
    for (unsigned i = 0; i < 5; i++)
        if (i != 2)
            fake_answer_put(w.f, fake_nth(w.f, METHOD(COW_PUT), i));
    RUN_UNTIL(w.f, log.calls == 5);
    RUN_UNTIL(w.f, w.drained == 2);
    free(data);
    writer_end(&w);
}

static void put__larger_than_the_bounds_is_still_taken(void **state)
{
    const struct snapwire_stream_config config = {.batch_bytes_max = 1, .inflight_bytes_max = 1};
    struct writer w;
    struct put_log log = {0};
    uint8_t *data = content(1, 1);

    (void)state;
    writer_begin_stream(&w, &config);
    assert_int_equal(put(&w, 0, data, &log), 0);
    assert_int_equal(put(&w, 1, data, &log), SNAPWIRE_WOULD_BLOCK);
    RUN_UNTIL(w.f, log.calls == 1);
    free(data);
    writer_end(&w);
}

/* -- replay -- */

static void replay__only_unanswered_puts_are_sent_again(void **state)
{
    const struct snapwire_stream_config config = {.batch_bytes_max = CHUNK};
    struct writer w;
    struct put_log log = {0};
    uint8_t *data = content(1, 3);

    (void)state;
    writer_begin_held(&w, &config);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(put(&w, 1 + i, data + (size_t)i * CHUNK, &log), 0);
    (void)writer_await_puts(&w, 3);
    fake_answer_put(w.f, fake_nth(w.f, METHOD(COW_PUT), 1));
    RUN_UNTIL(w.f, log.calls == 1);
    w.f->hold = 0;
    fake_drop(w.f);
    RUN_UNTIL(w.f, log.calls == 3);
    assert_int_equal(log.failed, 0);
    assert_int_equal(fake_count(w.f, METHOD(COW_PUT)), 5);
    for (unsigned i = 3; i < 5; i++) {
        Snapwire__V1__CowPut *m = put_of(w.f, i);
        const unsigned chunk = i == 3 ? 1 : 3; /* in their order */
        assert_int_equal(m->n_old_chunks, 1);
        assert_int_equal(m->old_chunks[0], chunk);
        assert_int_equal(m->epoch, 7);
        assert_memory_equal(fake_nth(w.f, METHOD(COW_PUT), i)->payload,
                            data + (size_t)(chunk - 1) * CHUNK, CHUNK);
        snapwire__v1__cow_put__free_unpacked(m, NULL);
    }
    struct snapwire_stream_stats stats;
    snapwire_stream_stats(w.stream, &stats, sizeof stats);
    assert_int_equal(stats.batches_replayed, 2);
    free(data);
    writer_end(&w);
}

static void replay__waits_until_the_lease_is_confirmed(void **state)
{
    struct writer w;
    struct put_log log = {0};
    uint8_t *data = content(1, 1);

    (void)state;
    writer_begin_held(&w, NULL);
    assert_int_equal(put(&w, 1, data, &log), 0);
    (void)writer_await_puts(&w, 1);
    w.f->hold = METHOD(LEASE_ACQUIRE);
    fake_drop(w.f);
    (void)await_asked(w.f, METHOD(LEASE_ACQUIRE), 2);
    run_for_ms(w.f, 10);
    assert_int_equal(fake_count(w.f, METHOD(COW_PUT)), 1);
    w.f->hold = 0;
    fake_answer_lease(w.f, fake_nth(w.f, METHOD(LEASE_ACQUIRE), 1));
    RUN_UNTIL(w.f, log.calls == 1);
    assert_int_equal(log.failed, 0);
    free(data);
    writer_end(&w);
}

static void replay__another_head_makes_them_stale_before_it_is_told(void **state)
{
    struct writer w;
    struct put_log log = {.w = &w};
    uint8_t *data = content(1, 1);

    (void)state;
    writer_begin_held(&w, NULL);
    assert_int_equal(put(&w, 1, data, &log), 0);
    (void)writer_await_puts(&w, 1);
    const struct snapwire_uuid old = w.f->head;
    w.f->head = snapwire_uuid_make();
    fake_drop(w.f);
    RUN_UNTIL(w.f, w.heads == 1);
    assert_int_equal(log.code, SNAPWIRE_ESTALE);
    assert_string_equal(w.order, "ph");
    assert_int_equal(fake_count(w.f, METHOD(COW_PUT)), 1);
    w.f->hold = 0;
    assert_int_equal(put(&w, 1, data, &log), 0);
    RUN_UNTIL(w.f, log.calls == 2);
    const struct snapwire_uuid head = asked_head(fake_nth(w.f, METHOD(COW_PUT), 1));
    assert_memory_equal(head.b, w.f->head.b, 16);
    assert_memory_not_equal(head.b, old.b, 16);
    free(data);
    writer_end(&w);
}

static void replay__lost_lease_makes_them_stale(void **state)
{
    struct writer w;
    struct put_log log = {.w = &w};
    uint8_t *data = content(1, 1);

    (void)state;
    writer_begin_held(&w, NULL);
    w.f->refuse_acquire = SNAP_ESTALE;
    assert_int_equal(put(&w, 1, data, &log), 0);
    (void)writer_await_puts(&w, 1);
    fake_drop(w.f);
    RUN_UNTIL(w.f, w.lost == 1);
    assert_int_equal(log.code, SNAPWIRE_ESTALE);
    assert_string_equal(w.order, "pl");
    assert_int_equal(put(&w, 1, data, &log), SNAPWIRE_ESTALE);
    free(data);
    writer_end(&w);
}

static void replay__many_disconnects_lose_and_repeat_nothing(void **state)
{
    const struct snapwire_stream_config config = {.batch_bytes_max = 2 * CHUNK,
                                                  .inflight_bytes_max = 16 * CHUNK};
    enum { PUTS = 200 };
    struct writer w;
    struct put_log log = {0};
    uint8_t *data = content(0, PUTS);
    unsigned next = 0;

    (void)state;
    writer_begin_stream(&w, &config);
    while (log.calls < PUTS) {
        while (next < PUTS && put(&w, next, data + (size_t)next * CHUNK, &log) == 0)
            next++;
        run_once(w.f);
        if (next % 3 == 0 && w.f->chan != NULL && w.f->connections < 12)
            fake_drop(w.f);
    }
    run_for_ms(w.f, 10);
    assert_int_equal(log.calls, PUTS);
    assert_int_equal(log.failed, 0);
    assert_true(w.f->connections > 2);
    free(data);
    writer_end(&w);
}

/* -- failures -- */

static void answer__names_the_chunks_that_failed(void **state)
{
    struct writer w;
    struct put_log good = {0}, bad = {0};
    uint8_t *data = content(1, 4);
    Snapwire__V1__CowPutResponse m = SNAPWIRE__V1__COW_PUT_RESPONSE__INIT;
    uint64_t failed[] = {11};
    uint32_t codes[] = {(uint32_t)-SNAP_ENOSPC};

    (void)state;
    writer_begin_held(&w, NULL);
    assert_int_equal(put(&w, 1, data, &good), 0);
    assert_int_equal(snapwire_stream_put(w.stream, 10, 3, data, 0, on_put, &bad, NULL), 0);
    (void)writer_await_puts(&w, 1);
    Snapwire__V1__CowPut *sent = put_of(w.f, 0);
    static const uint64_t expected[] = {1, 10, 11, 12};
    assert_int_equal(sent->n_old_chunks, 4);
    assert_memory_equal(sent->old_chunks, expected, sizeof expected);
    snapwire__v1__cow_put__free_unpacked(sent, NULL);
    m.added = 3;
    m.n_failed_chunks = m.n_failed_codes = 1;
    m.failed_chunks = failed;
    m.failed_codes = codes;
    m.failed_text = (char *)(uintptr_t) "the disk is full";
    fake_answer(w.f, fake_nth(w.f, METHOD(COW_PUT), 0), &m.base);
    RUN_UNTIL(w.f, bad.calls == 1);
    assert_int_equal(good.failed, 0);
    assert_int_equal(good.calls, 1);
    assert_int_equal(bad.code, SNAPWIRE_ENOSPC);
    assert_string_equal(bad.text, "put of chunk 10: the disk is full");
    free(data);
    writer_end(&w);
}

static void answer__senseless_ones_make_nothing_durable(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        struct writer w;
        struct put_log log = {0};
        uint8_t *data = content(1, 2);
        Snapwire__V1__CowPutResponse m = SNAPWIRE__V1__COW_PUT_RESPONSE__INIT;
        uint64_t failed[] = {1, 2, 1};
        uint32_t codes[] = {4, 4, 4};
        writer_begin_held(&w, NULL);
        assert_int_equal(put(&w, 1, data, &log), 0);
        assert_int_equal(put(&w, 2, data, &log), 0);
        (void)writer_await_puts(&w, 1);
        m.failed_chunks = failed;
        m.failed_codes = codes;
        m.n_failed_chunks = m.n_failed_codes = i == 0 ? 3 : 1;
        if (i == 1)
            m.n_failed_codes = 2;
        else if (i == 2)
            failed[0] = 77;
        else if (i == 3)
            codes[0] = 0;
        else if (i == 4)
            codes[0] = 99;
        else if (i == 5)
            m.added = 3;
        fake_answer(w.f, fake_nth(w.f, METHOD(COW_PUT), 0), &m.base);
        RUN_UNTIL(w.f, log.calls == 2);
        assert_int_equal(log.failed, 2);
        assert_int_equal(log.code, SNAPWIRE_EPROTO);
        free(data);
        writer_end(&w);
    }
}

static void answer__stale_makes_the_lease_ask_how_it_stands(void **state)
{
    struct writer w;
    struct put_log log = {0};
    uint8_t *data = content(1, 1);

    (void)state;
    writer_begin_held(&w, NULL);
    assert_int_equal(put(&w, 1, data, &log), 0);
    (void)writer_await_puts(&w, 1);
    w.f->head = snapwire_uuid_make();
    fake_answer_error(w.f, fake_nth(w.f, METHOD(COW_PUT), 0), SNAP_ESTALE, "another head");
    RUN_UNTIL(w.f, w.heads == 1);
    assert_int_equal(log.code, SNAPWIRE_ESTALE);
    assert_memory_equal(w.head.b, w.f->head.b, 16);
    free(data);
    writer_end(&w);
}

/* -- a new head, flush, close -- */

static void quiesce__waits_for_unanswered_puts_and_holds_new_ones(void **state)
{
    struct writer w;
    struct put_log log = {0};
    uint8_t *data = content(1, 1);

    (void)state;
    writer_begin_held(&w, NULL);
    assert_int_equal(put(&w, 1, data, &log), 0);
    (void)writer_await_puts(&w, 1);
    fake_event(w.f, METHOD(EVENT_QUIESCE));
    RUN_UNTIL(w.f, w.quiesced == 1);
    assert_int_equal(put(&w, 2, data, &log), 0); /* allowed until it stands still */
    assert_int_equal(snapwire_lease_head_ready(w.lease, NULL), 0);
    assert_int_equal(put(&w, 3, data, &log), SNAPWIRE_WOULD_BLOCK);
    (void)writer_await_puts(&w, 2);
    run_for_ms(w.f, 5);
    assert_int_equal(fake_count(w.f, METHOD(HEAD_READY)), 0);
    fake_answer_put(w.f, fake_nth(w.f, METHOD(COW_PUT), 0));
    fake_answer_put(w.f, fake_nth(w.f, METHOD(COW_PUT), 1));
    (void)await_asked(w.f, METHOD(HEAD_READY), 1);
    assert_int_equal(put(&w, 3, data, &log), SNAPWIRE_WOULD_BLOCK);
    assert_int_equal(w.drained, 0);
    w.f->head = snapwire_uuid_make();
    fake_answer_lease(w.f, fake_nth(w.f, METHOD(HEAD_READY), 0));
    RUN_UNTIL(w.f, w.heads == 1);
    RUN_UNTIL(w.f, w.drained == 1);
    assert_int_equal(put(&w, 3, data, &log), 0);
    (void)writer_await_puts(&w, 3);
    const struct snapwire_uuid head = asked_head(fake_nth(w.f, METHOD(COW_PUT), 2));
    assert_memory_equal(head.b, w.f->head.b, 16);
    writer_end(&w);
    free(data);
}

static void flush__covers_what_was_put_before_it_only(void **state)
{
    struct writer w;
    struct put_log log = {0};
    struct outcome none = {0}, first = {0}, second = {0};
    uint8_t *data = content(1, 1);

    (void)state;
    writer_begin_held(&w, NULL);
    assert_int_equal(snapwire_stream_flush(w.stream, outcome_cb, &none, NULL), 0);
    assert_int_equal(none.calls, 0);
    assert_int_equal(put(&w, 1, data, &log), 0);
    assert_int_equal(snapwire_stream_flush(w.stream, outcome_cb, &first, NULL), 0);
    assert_int_equal(put(&w, 2, data, &log), 0);
    assert_int_equal(snapwire_stream_flush(w.stream, outcome_cb, &second, NULL), 0);
    (void)writer_await_puts(&w, 2);
    assert_int_equal(none.calls, 1);
    assert_int_equal(none.code, 0);
    fake_answer_error(w.f, fake_nth(w.f, METHOD(COW_PUT), 0), SNAP_EIO, "disk");
    RUN_UNTIL(w.f, first.calls == 1);
    assert_int_equal(first.code, SNAPWIRE_EIO);
    assert_int_equal(second.calls, 0);
    fake_answer_put(w.f, fake_nth(w.f, METHOD(COW_PUT), 1));
    RUN_UNTIL(w.f, second.calls == 1);
    assert_int_equal(second.code, 0);
    free(data);
    writer_end(&w);
}

static void close__ends_puts_and_gives_their_memory_back(void **state)
{
    struct writer w;
    struct put_log log = {0};
    struct outcome flushed = {0};
    uint8_t *data = content(1, 2);
    bool closed = false;

    (void)state;
    writer_begin_held(&w, NULL);
    assert_int_equal(put(&w, 1, data, &log), 0);
    (void)writer_await_puts(&w, 1);
    assert_int_equal(put(&w, 2, data, &log), 0);
    assert_int_equal(snapwire_stream_flush(w.stream, outcome_cb, &flushed, NULL), 0);
    snapwire_stream_close(w.stream, set_true, &closed);
    assert_int_equal(log.calls, 0);
    assert_int_equal(put(&w, 3, data, &log), SNAPWIRE_ECANCELED);
    RUN_UNTIL(w.f, closed);
    assert_int_equal(log.calls, 2);
    assert_int_equal(log.code, SNAPWIRE_ECANCELED);
    assert_int_equal(flushed.code, SNAPWIRE_ECANCELED);
    memset(data, 0xee, 2 * CHUNK);
    free(data);
    fake_answer_put(w.f, fake_nth(w.f, METHOD(COW_PUT), 0)); /* too late to matter */
    w.f->hold = 0;
    writer_stream(&w, NULL); /* the lease takes another */
    data = content(5, 1);
    assert_int_equal(put(&w, 5, data, &log), 0);
    RUN_UNTIL(w.f, log.calls == 3);
    free(data);
    writer_end(&w);
}

static void close__of_the_client_ends_everything(void **state)
{
    struct writer w;
    struct put_log log = {0};
    uint8_t *data = content(1, 1);
    bool closed = false;

    (void)state;
    writer_begin_held(&w, NULL);
    assert_int_equal(put(&w, 1, data, &log), 0);
    (void)writer_await_puts(&w, 1);
    assert_int_equal(put(&w, 2, data, &log), 0);
    snapwire_client_close(w.client, set_true, &closed);
    RUN_UNTIL(w.f, closed);
    assert_int_equal(log.calls, 2);
    assert_int_equal(log.code, SNAPWIRE_ECANCELED);
    free(data);
    run_for_ms(w.f, 5);
    fake_free(w.f);
}

static void put__unanswered_too_long_takes_the_connection_down_and_is_sent_again(void **state)
{
    struct writer w;
    struct put_log log = {0};
    uint8_t *data = content(1, 1);

    (void)state;
    writer_begin_stream(&w, NULL);
    snapwire_client_set_timeout(w.client, 50);
    w.f->hold = METHOD(COW_PUT);
    assert_int_equal(put(&w, 1, data, &log), 0);
    RUN_UNTIL(w.f, w.f->connections == 2);
    w.f->hold = 0;
    RUN_UNTIL(w.f, log.calls == 1);
    assert_int_equal(log.failed, 0);
    free(data);
    writer_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(puts__of_one_turn_travel_in_one_frame_in_their_order),
        cmocka_unit_test(puts__fill_batches_up_to_their_bounds),
        cmocka_unit_test(zeros__of_one_batch_are_no_more_than_the_daemon_takes),
        cmocka_unit_test(batch__is_at_most_a_quarter_of_what_may_be_in_flight),
        cmocka_unit_test(put__that_is_none_is_refused),
        cmocka_unit_test(put__without_a_head_is_enoent),
        cmocka_unit_test(put__over_the_bound_would_block_and_drained_follows),
        cmocka_unit_test(put__larger_than_the_bounds_is_still_taken),
        cmocka_unit_test(replay__only_unanswered_puts_are_sent_again),
        cmocka_unit_test(replay__waits_until_the_lease_is_confirmed),
        cmocka_unit_test(replay__another_head_makes_them_stale_before_it_is_told),
        cmocka_unit_test(replay__lost_lease_makes_them_stale),
        cmocka_unit_test(replay__many_disconnects_lose_and_repeat_nothing),
        cmocka_unit_test(answer__names_the_chunks_that_failed),
        cmocka_unit_test(answer__senseless_ones_make_nothing_durable),
        cmocka_unit_test(answer__stale_makes_the_lease_ask_how_it_stands),
        cmocka_unit_test(quiesce__waits_for_unanswered_puts_and_holds_new_ones),
        cmocka_unit_test(flush__covers_what_was_put_before_it_only),
        cmocka_unit_test(close__ends_puts_and_gives_their_memory_back),
        cmocka_unit_test(close__of_the_client_ends_everything),
        cmocka_unit_test(put__unanswered_too_long_takes_the_connection_down_and_is_sent_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
