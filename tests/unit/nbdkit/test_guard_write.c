/* SPDX-License-Identifier: Apache-2.0 */
/* A guarded write: what it waits for, and that the origin is not touched before. The test is the
 * link: it takes copies from the queue and says what has become of them.
 *
 *   writer's thread ── guard_apply() ──> queue ──> the test ── guard_copies_end() ──> writer */
#include "client/nbdkit/guard.h"
#include "common/base/bytes.h"
#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 4096, CHUNKS = 8, TAIL = 1000, SIZE = CHUNKS * CHUNK + TAIL, OLD = 'o', NEW = 'n' };
#define NS_PER_S UINT64_C(1000000000)
#define FAR_NS (UINT64_C(3600) * NS_PER_S)

static struct {
    struct guard guard;
    struct tmpdir dir;
    atomic_bool ending;
    atomic_uint said;
    atomic_uint slept_s; /* how long the machine has */
    atomic_bool stalls;  /* the disk */
    atomic_uint in_stall;
} here;

int clock_gettime(clockid_t id, struct timespec *t)
{
    int rc = (int)syscall(SYS_clock_gettime, id, t);
    if (id == CLOCK_BOOTTIME)
        t->tv_sec += (time_t)atomic_load(&here.slept_s);
    return rc;
}

/* As the kernel has it, once the disk does not stall. */
ssize_t pwritev2(int fd, const struct iovec *v, int count, off_t offset, int flags)
{
    atomic_fetch_add(&here.in_stall, 1);
    while (atomic_load(&here.stalls))
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    (void)flags;
    return pwritev(fd, v, count, offset);
}

/* What the plugin gives. */
void guard_say(const char *fmt, ...)
{
    (void)fmt;
    atomic_fetch_add(&here.said, 1);
}

bool guard_is_ending(void)
{
    return atomic_load(&here.ending);
}

static void nap_ms(long ms)
{
    (void)nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* -- a guard without a link ------------------------------------------------------------------- */

static int setup(void **state)
{
    struct guard *g = &here.guard;
    char path[TMPDIR_FILE_BYTES], content[SIZE];
    struct err err = ERR_INIT;
    memset(&here, 0, sizeof here);
    tmpdir_make(&here.dir);
    memset(content, OLD, sizeof content);
    memset(content + 2 * CHUNK, 0, CHUNK); /* the third is zeros */
    int fd = open(tmpdir_file(&here.dir, "origin", path), O_CREAT | O_WRONLY, 0600);
    assert_int_equal(write(fd, content, sizeof content), sizeof content);
    (void)close(fd);
    g->origin = ORIGIN_INIT;
    assert_int_equal(origin_open(path, true, &g->origin, &err), 0);
    (void)pthread_mutex_init(&g->lock, NULL);
    (void)pthread_mutex_init(&g->wake_lock, NULL);
    (void)pthread_cond_init(&g->woken, NULL);
    guard_init_lists(g);
    g->head_seq = 5;
    g->config.copy_bytes_max = 4 * CHUNK;
    g->config.away_after_ms = 100;
    g->chunk_bytes = CHUNK;
    g->generation = 1;
    g->mode = GUARD_KEEPING;
    g->lease_state = GUARD_LEASE_HELD;
    g->valid_until_ns = guard_lease_now_ns() + FAR_NS;
    assert_int_equal(guard_map_init(&g->kept, CHUNKS + 1, &err), 0);
    assert_int_equal(guard_map_init(&g->claimed, CHUNKS + 1, &err), 0);
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    struct guard *g = *state;
    assert_int_equal(g->inflight, 0);
    assert_int_equal(g->copy_bytes, 0);
    assert_true(TAILQ_EMPTY(&g->queue));
    assert_true(TAILQ_EMPTY(&g->waiters));
    assert_true(TAILQ_EMPTY(&g->at_disk));
    for (uint64_t i = 0; i < CHUNKS + 1; i++)
        assert_false(guard_map_has(&g->claimed, i));
    guard_map_done(&g->kept);
    guard_map_done(&g->claimed);
    guard_spare_free_all(&g->spares);
    origin_close(&g->origin);
    tmpdir_remove(&here.dir);
    return 0;
}

/* -- writers ---------------------------------------------------------------------------------- */

struct writer {
    struct guard *guard;
    struct guard_request request;
    pthread_t thread;
    char data[SIZE];
    int rc;
    atomic_bool done;
};

static void *writer_main(void *arg)
{
    struct writer *w = arg;
    w->rc = guard_apply(w->guard, &w->request);
    atomic_store(&w->done, true);
    return NULL;
}

static void begin(struct guard *g, struct writer *w, uint64_t offset, uint64_t len)
{
    memset(w->data, NEW, sizeof w->data);
    w->guard = g;
    w->request = (struct guard_request){
        .what = GUARD_WRITE, .offset_bytes = offset, .len_bytes = len, .data = w->data};
    atomic_store(&w->done, false);
    assert_int_equal(pthread_create(&w->thread, NULL, writer_main, w), 0);
}

static int end(struct writer *w)
{
    assert_int_equal(pthread_join(w->thread, NULL), 0);
    return w->rc;
}

static char at(const struct guard *g, off_t offset)
{
    char c;
    assert_int_equal(pread(g->origin.fd, &c, 1, offset), 1);
    return c;
}

/* It waits: neither done nor written. */
static void assert_waits(const struct guard *g, const struct writer *w)
{
    nap_ms(60);
    assert_false(atomic_load(&w->done));
    assert_int_equal(at(g, (off_t)w->request.offset_bytes), OLD);
}

/* -- the link's part --------------------------------------------------------------------------- */

static struct guard_copy *next_of(struct guard *g, struct guard_copies *list)
{
    struct guard_copy *c = NULL;
    const uint64_t end = guard_now_ns() + 10 * NS_PER_S;
    while (!c) {
        if (guard_now_ns() > end)
            fail_msg("nothing is claimed");
        (void)pthread_mutex_lock(&g->lock);
        c = TAILQ_FIRST(list);
        if (c)
            TAILQ_REMOVE(list, c, link);
        (void)pthread_mutex_unlock(&g->lock);
        if (!c)
            nap_ms(1);
    }
    return c;
}

/* What a writer has claimed and read; waits for it. */
static struct guard_copy *next_copy(struct guard *g)
{
    return next_of(g, &g->queue);
}

static unsigned in_flight(struct guard *g)
{
    (void)pthread_mutex_lock(&g->lock);
    unsigned n = g->inflight;
    (void)pthread_mutex_unlock(&g->lock);
    return n;
}

static bool is_queued(struct guard *g)
{
    (void)pthread_mutex_lock(&g->lock);
    bool any = !TAILQ_EMPTY(&g->queue);
    (void)pthread_mutex_unlock(&g->lock);
    return any;
}

static bool is_break_wanted(struct guard *g)
{
    (void)pthread_mutex_lock(&g->lock);
    bool wanted = g->break_wanted;
    (void)pthread_mutex_unlock(&g->lock);
    return wanted;
}

static void settle(struct guard *g, struct guard_copy *c, int code)
{
    struct guard_copies ended = TAILQ_HEAD_INITIALIZER(ended);
    c->code = code;
    TAILQ_INSERT_TAIL(&ended, c, link);
    guard_copies_end(g, &ended);
}

static void set(struct guard *g, void (*change)(struct guard *g))
{
    (void)pthread_mutex_lock(&g->lock);
    change(g);
    guard_broadcast(g);
}

static void keep_all(struct guard *g)
{
    guard_map_set(&g->kept, 0, CHUNKS + 1, true);
}

static void hold(struct guard *g)
{
    g->held = true;
}

static void release(struct guard *g)
{
    g->held = false;
}

static void lapse(struct guard *g)
{
    g->valid_until_ns = guard_lease_now_ns();
}

static void renew(struct guard *g)
{
    g->valid_until_ns = guard_lease_now_ns() + FAR_NS;
}

static void refuse(struct guard *g)
{
    lapse(g);
    g->lease_state = GUARD_LEASE_REFUSED;
}

static void go_away(struct guard *g)
{
    lapse(g);
    g->away_ns = guard_now_ns();
}

static void stop(struct guard *g)
{
    g->stop = true;
}

static void new_head(struct guard *g)
{
    g->generation++;
    guard_map_clear(&g->kept);
}

static void be_broken(struct guard *g)
{
    g->mode = GUARD_IS_BROKEN;
}

static void keep_nothing(struct guard *g)
{
    g->mode = GUARD_NOTHING;
}

/* -- cases: what is kept ---------------------------------------------------------------------- */

static void write__waits_until_what_it_overwrites_is_kept(void **state)
{
    struct guard *g = *state;
    struct writer w;
    begin(g, &w, CHUNK + 10, 2 * CHUNK - 20); /* parts of the second and the third */
    struct guard_copy *c = next_copy(g);
    assert_waits(g, &w);
    assert_int_equal(c->first, 1);
    assert_int_equal(c->count, 2);
    assert_int_equal(c->data[0], OLD); /* whole chunks, as they were */
    assert_int_equal(c->data[CHUNK - 1], OLD);
    assert_false(c->zeros[0]);
    assert_true(c->zeros[1]);
    settle(g, c, 0);
    assert_int_equal(end(&w), 0);
    assert_int_equal(at(g, CHUNK + 9), OLD);
    assert_int_equal(at(g, CHUNK + 10), NEW);
    assert_int_equal(at(g, 3 * CHUNK - 11), NEW);
    assert_true(guard_map_has(&g->kept, 1) && guard_map_has(&g->kept, 2));
    assert_false(guard_map_has(&g->kept, 0) || guard_map_has(&g->kept, 3));
}

static void write__over_what_is_kept_asks_for_nothing(void **state)
{
    struct guard *g = *state;
    struct writer w;
    set(g, keep_all);
    begin(g, &w, 0, SIZE);
    assert_int_equal(end(&w), 0);
    assert_int_equal(at(g, SIZE - 1), NEW);
}

static void write__the_last_chunk_is_padded_with_zeros(void **state)
{
    struct guard *g = *state;
    struct writer w;
    begin(g, &w, CHUNKS * CHUNK + 5, 10);
    struct guard_copy *c = next_copy(g);
    assert_int_equal(c->first, CHUNKS);
    assert_int_equal(c->data[TAIL - 1], OLD);
    assert_true(bytes_are_zero(c->data + TAIL, CHUNK - TAIL));
    settle(g, c, 0);
    assert_int_equal(end(&w), 0);
}

/* Each claim is handed over at once, and the writer looks at none of it until all are kept. */
static void write__what_the_link_reads_is_left_to_it(void **state)
{
    struct guard *g = *state;
    struct writer w;
    g->link_reads = true;
    guard_map_set(&g->kept, 1, 1, true);
    begin(g, &w, 0, (uint64_t)3 * CHUNK); /* the first and the third are to be kept */
    struct guard_copy *first = next_of(g, &g->unread), *third = next_of(g, &g->unread);
    assert_false(is_queued(g));
    assert_int_equal(first->first, 0);
    assert_int_equal(third->first, 2);
    settle(g, first, 0);
    assert_waits(g, &w);
    settle(g, third, 0);
    assert_int_equal(end(&w), 0);
    assert_int_equal(at(g, 0), NEW);
}

static void write__what_the_link_cannot_read_is_its_error(void **state)
{
    struct guard *g = *state;
    struct writer w, again;
    g->link_reads = true;
    begin(g, &w, CHUNK, CHUNK);
    struct guard_copy *c = next_of(g, &g->unread);
    c->read_errno = ENXIO;
    settle(g, c, SNAP_EIO);
    assert_int_equal(end(&w), ENXIO);
    assert_int_equal(at(g, CHUNK), OLD);
    begin(g, &again, CHUNK, CHUNK); /* it is tried again */
    settle(g, next_of(g, &g->unread), 0);
    assert_int_equal(end(&again), 0);
    assert_int_equal(at(g, CHUNK), NEW);
}

static void write__two_on_one_chunk_send_it_once(void **state)
{
    struct guard *g = *state;
    struct writer a, b;
    begin(g, &a, 0, 100);
    struct guard_copy *c = next_copy(g);
    begin(g, &b, 200, 100);
    assert_waits(g, &b);
    assert_false(is_queued(g));
    settle(g, c, 0);
    assert_int_equal(end(&a), 0);
    assert_int_equal(end(&b), 0);
}

/* However large: copies take no more memory than they may, and it goes on as they end. */
static void write__copies_are_bounded(void **state)
{
    struct guard *g = *state;
    struct writer w;
    g->config.copy_bytes_max = CHUNK;
    guard_map_set(&g->kept, 1, 1, true);
    begin(g, &w, 0, 3 * CHUNK);
    for (unsigned i = 0; i < 2; i++) {
        struct guard_copy *c = next_copy(g);
        assert_waits(g, &w);
        assert_int_equal(c->first, 2 * i);
        assert_false(is_queued(g));
        settle(g, c, 0);
    }
    assert_int_equal(end(&w), 0);
}

static void write__a_stale_copy_is_made_again(void **state)
{
    struct guard *g = *state;
    struct writer w;
    begin(g, &w, 0, CHUNK);
    settle(g, next_copy(g), SNAP_ESTALE);
    struct guard_copy *again = next_copy(g);
    assert_waits(g, &w);
    settle(g, again, 0);
    assert_int_equal(end(&w), 0);
}

/* What was kept for the head before is not kept for this one. */
static void write__a_copy_of_an_older_head_keeps_nothing(void **state)
{
    struct guard *g = *state;
    struct writer w;
    begin(g, &w, 0, CHUNK);
    struct guard_copy *c = next_copy(g);
    set(g, new_head);
    settle(g, c, 0);
    c = next_copy(g);
    assert_int_equal(c->generation, g->generation);
    assert_waits(g, &w);
    settle(g, c, 0);
    assert_int_equal(end(&w), 0);
}

static void write__refused_for_want_of_room_is_not_made(void **state)
{
    struct guard *g = *state;
    struct writer w;
    begin(g, &w, 0, CHUNK);
    settle(g, next_copy(g), SNAP_ENOSPC);
    assert_int_equal(end(&w), ENOSPC);
    assert_int_equal(at(g, 0), OLD);
    assert_false(guard_map_has(&g->kept, 0));
}

static void trim__keeps_what_it_discards(void **state)
{
    struct guard *g = *state;
    struct writer w = {.guard = g, .request = {.what = GUARD_TRIM, .len_bytes = CHUNK}};
    assert_int_equal(pthread_create(&w.thread, NULL, writer_main, &w), 0);
    struct guard_copy *c = next_copy(g);
    assert_waits(g, &w);
    settle(g, c, 0);
    assert_int_equal(end(&w), 0);
}

/* -- cases: the gate --------------------------------------------------------------------------- */

/* Not even over what is kept: it is not kept for the head that is being made. */
static void write__none_begins_while_a_head_is_made(void **state)
{
    struct guard *g = *state;
    struct writer w;
    set(g, keep_all);
    set(g, hold);
    begin(g, &w, 0, CHUNK);
    assert_waits(g, &w);
    assert_int_equal(in_flight(g), 0);
    set(g, new_head);
    set(g, release);
    struct guard_copy *c = next_copy(g);
    assert_waits(g, &w);
    settle(g, c, 0);
    assert_int_equal(end(&w), 0);
}

/* One that has begun is counted until it is made, and may be: the head waits for it. */
static void write__one_that_has_begun_ends_before_the_head(void **state)
{
    struct guard *g = *state;
    struct writer w;
    begin(g, &w, 0, CHUNK);
    struct guard_copy *c = next_copy(g);
    set(g, hold);
    assert_waits(g, &w);
    assert_int_equal(in_flight(g), 1);
    settle(g, c, 0);
    assert_int_equal(end(&w), 0);
    assert_int_equal(in_flight(g), 0);
    assert_true(g->wake); /* the link is told that nothing is in flight any more */
}

/* -- cases: the lease -------------------------------------------------------------------------- */

static void write__nothing_is_written_when_its_time_is_over(void **state)
{
    struct guard *g = *state;
    struct writer w;
    set(g, keep_all);
    set(g, lapse);
    begin(g, &w, 0, CHUNK);
    assert_waits(g, &w);
    set(g, renew);
    assert_int_equal(end(&w), 0);
}

static void write__also_not_when_it_is_over_while_a_copy_is_under_way(void **state)
{
    struct guard *g = *state;
    struct writer w;
    begin(g, &w, 0, CHUNK);
    struct guard_copy *c = next_copy(g);
    set(g, lapse);
    settle(g, c, 0);
    assert_waits(g, &w);
    set(g, renew);
    assert_int_equal(end(&w), 0);
}

static void write__nothing_is_written_when_its_time_was_slept_over(void **state)
{
    struct guard *g = *state;
    struct writer w;
    set(g, keep_all);
    atomic_store(&here.slept_s, 2 * FAR_NS / NS_PER_S);
    begin(g, &w, 0, CHUNK);
    assert_waits(g, &w);
    atomic_store(&here.slept_s, 0);
    set(g, renew);
    assert_int_equal(end(&w), 0);
}

/* So shortly before its end a write is not begun: it would be late by a moment. */
static void be_near_the_end(struct guard *g)
{
    g->margin_ns = FAR_NS;
}

static void be_farther_from_it(struct guard *g)
{
    g->margin_ns /= 2;
    renew(g);
}

static void write__nothing_is_begun_shortly_before_its_time_is_over(void **state)
{
    struct guard *g = *state;
    struct writer w;
    set(g, keep_all);
    set(g, be_near_the_end);
    begin(g, &w, 0, CHUNK);
    assert_waits(g, &w);
    set(g, be_farther_from_it);
    assert_int_equal(end(&w), 0);
}

static void head_moves(struct guard *g)
{
    g->head.b[0]++;
    g->head_seq++;
}

static void lapse_and_break(struct guard *g)
{
    lapse(g);
    be_broken(g);
}

/* Begin a write, let this happen while the disk has it. */
static void write_meanwhile(struct guard *g, void (*what)(struct guard *g))
{
    struct writer w;
    const unsigned before = atomic_load(&here.in_stall);
    set(g, keep_all);
    atomic_store(&here.stalls, true);
    begin(g, &w, 0, CHUNK);
    while (atomic_load(&here.in_stall) == before)
        nap_ms(1);
    assert_false(TAILQ_EMPTY(&g->at_disk));
    if (what)
        set(g, what);
    atomic_store(&here.stalls, false);
    assert_int_equal(end(&w), 0);
    assert_int_equal(atomic_load(&here.said), 0); /* what it means is known with the next lease */
}

static void write__that_outlasts_the_lease_is_remembered(void **state)
{
    struct guard *g = *state;
    uint32_t after_seq = 0;
    write_meanwhile(g, lapse);
    assert_true(g->late.any);
    assert_int_equal(g->late.after_seq, 5);
    g->head_seq = 9; /* whatever is the head by now */
    assert_true(guard_late_look(g, &after_seq));
    assert_int_equal(after_seq, 5);
}

static void write__of_several_the_oldest_head_is_remembered(void **state)
{
    struct guard *g = *state;
    write_meanwhile(g, lapse);
    set(g, renew);
    g->head_seq = 3;
    write_meanwhile(g, lapse);
    assert_int_equal(g->late.after_seq, 3);
    set(g, renew);
    g->head_seq = 4;
    write_meanwhile(g, lapse);
    assert_int_equal(g->late.after_seq, 3);
}

static void write__without_any_head_is_remembered_too(void **state)
{
    struct guard *g = *state;
    g->head_seq = 0;
    g->mode = GUARD_NOTHING;
    write_meanwhile(g, lapse);
    assert_true(g->late.any);
    assert_int_equal(g->late.after_seq, 0);
}

/* The head is another when the newest was deleted, too. */
static void write__under_its_lease_is_not(void **state)
{
    struct guard *g = *state;
    uint32_t after_seq;
    write_meanwhile(g, NULL);
    assert_false(g->late.any);
    write_meanwhile(g, head_moves);
    assert_false(g->late.any);
    assert_false(guard_late_look(g, &after_seq));
}

/* All snapshots are broken anyway. */
static void write__of_a_broken_guard_is_not(void **state)
{
    struct guard *g = *state;
    write_meanwhile(g, lapse_and_break);
    assert_false(g->late.any);
}

static void write__anothers_lease_is_eio(void **state)
{
    struct guard *g = *state;
    struct writer w;
    set(g, keep_all);
    set(g, refuse);
    begin(g, &w, 0, CHUNK);
    assert_int_equal(end(&w), EIO);
    assert_int_equal(at(g, 0), OLD);
}

/* -- cases: what the operator chose -------------------------------------------------------------
 */

static void away__fail_is_eio_after_its_time(void **state)
{
    struct guard *g = *state;
    struct writer w;
    g->config.away = GUARD_FAIL;
    set(g, go_away);
    begin(g, &w, 0, CHUNK);
    assert_waits(g, &w);
    assert_int_equal(end(&w), EIO);
    assert_true(guard_now_ns() >= g->away_ns + 100 * NS_PER_S / 1000);
    assert_int_equal(at(g, 0), OLD);
}

static void away__broken_writes_only_once_the_mark_is_there(void **state)
{
    struct guard *g = *state;
    struct writer w;
    g->config.away = GUARD_BROKEN;
    set(g, go_away);
    begin(g, &w, 0, CHUNK);
    nap_ms(200);
    assert_true(is_break_wanted(g));
    assert_waits(g, &w);
    set(g, be_broken);
    assert_int_equal(end(&w), 0);
}

static void write__goes_on_without_a_snapshot_but_not_without_a_lease(void **state)
{
    struct guard *g = *state;
    struct writer w;
    set(g, keep_nothing);
    set(g, lapse);
    begin(g, &w, 0, CHUNK);
    assert_waits(g, &w);
    set(g, renew);
    assert_int_equal(end(&w), 0);
}

/* -- cases: the end -----------------------------------------------------------------------------
 */

static void end__what_waits_is_not_written(void **state)
{
    struct guard *g = *state;
    struct writer w, late;
    set(g, keep_all);
    set(g, lapse);
    begin(g, &w, 0, CHUNK);
    assert_waits(g, &w);
    set(g, stop);
    assert_int_equal(end(&w), ESHUTDOWN);
    begin(g, &late, 0, CHUNK);
    assert_int_equal(end(&late), ESHUTDOWN);
    assert_int_equal(at(g, 0), OLD);
}

/* A daemon that is there is given the time it takes, one that is not a moment. */
static void end__an_absent_daemon_is_not_waited_for(void **state)
{
    struct guard *g = *state;
    struct writer w;
    begin(g, &w, 0, CHUNK);
    struct guard_copy *c = next_copy(g);
    atomic_store(&here.ending, true);
    nap_ms(1500);
    assert_waits(g, &w);
    set(g, go_away);
    const uint64_t since = guard_now_ns();
    assert_int_equal(end(&w), ESHUTDOWN);
    assert_true(guard_now_ns() - since < 4 * NS_PER_S);
    assert_int_equal(at(g, 0), OLD);
    settle(g, c, SNAP_ECANCELED);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* Not by looking again now and then: its own thread, and another that waits for the same chunks. */
static void apply__is_woken_when_its_chunks_are_kept(void **state)
{
    enum { TIMES = 8 };
    static struct writer one, other;
    struct guard *g = *state;
    const uint64_t begun = guard_now_ns();
    for (unsigned i = 0; i < TIMES; i++) {
        (void)pthread_mutex_lock(&g->lock);
        guard_map_clear(&g->kept);
        (void)pthread_mutex_unlock(&g->lock);
        begin(g, &one, 0, (uint64_t)2 * CHUNK);
        struct guard_copy *c = next_copy(g);
        begin(g, &other, CHUNK, CHUNK);
        nap_ms(1);
        settle(g, c, 0);
        assert_int_equal(end(&one), 0);
        assert_int_equal(end(&other), 0);
    }
    assert_true(guard_now_ns() - begun < TIMES * NS_PER_S / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(apply__is_woken_when_its_chunks_are_kept, setup, teardown),
        CASE(write__waits_until_what_it_overwrites_is_kept),
        CASE(write__over_what_is_kept_asks_for_nothing),
        CASE(write__the_last_chunk_is_padded_with_zeros),
        CASE(write__what_the_link_reads_is_left_to_it),
        CASE(write__what_the_link_cannot_read_is_its_error),
        CASE(write__two_on_one_chunk_send_it_once),
        CASE(write__copies_are_bounded),
        CASE(write__a_stale_copy_is_made_again),
        CASE(write__a_copy_of_an_older_head_keeps_nothing),
        CASE(write__refused_for_want_of_room_is_not_made),
        CASE(trim__keeps_what_it_discards),
        CASE(write__none_begins_while_a_head_is_made),
        CASE(write__one_that_has_begun_ends_before_the_head),
        CASE(write__nothing_is_written_when_its_time_is_over),
        CASE(write__also_not_when_it_is_over_while_a_copy_is_under_way),
        CASE(write__nothing_is_written_when_its_time_was_slept_over),
        CASE(write__that_outlasts_the_lease_is_remembered),
        CASE(write__nothing_is_begun_shortly_before_its_time_is_over),
        CASE(write__of_several_the_oldest_head_is_remembered),
        CASE(write__without_any_head_is_remembered_too),
        CASE(write__under_its_lease_is_not),
        CASE(write__of_a_broken_guard_is_not),
        CASE(write__anothers_lease_is_eio),
        CASE(away__fail_is_eio_after_its_time),
        CASE(away__broken_writes_only_once_the_mark_is_there),
        CASE(write__goes_on_without_a_snapshot_but_not_without_a_lease),
        CASE(end__what_waits_is_not_written),
        CASE(end__an_absent_daemon_is_not_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
