/* SPDX-License-Identifier: Apache-2.0 */
/* Writes that the lease did not outlast: what the daemon is told with the next lease, and what a
 * guard that is started again knows of it. The link's file is taken in whole, with the library's
 * calls replaced. */
#define snapwire_lease_acquire_sync acquire_told
#define snapwire_lease_info(lease) told_info(lease)
#define snapwire_lease_remaining_ms told_remaining
#include "client/nbdkit/guard_lease.c"
#undef snapwire_lease_acquire_sync
#undef snapwire_lease_info
#undef snapwire_lease_remaining_ms

#include "tests/lib/cm.h"
#include "tests/lib/tmpdir.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
    struct guard guard;
    struct tmpdir dir;
    char mark[TMPDIR_FILE_BYTES], late[TMPDIR_FILE_BYTES + 8];
    struct snapwire_lease_config asked;
    unsigned acquires;
    int acquire_rc;
    struct snapwire_lease_info info;
    uint64_t remaining_ms;
    unsigned said;
    char text[1024];
} here;

int acquire_told(struct snapwire_client *client, const struct snapwire_lease_config *config,
                 struct snapwire_lease **ret, struct snapwire_error *reterr)
{
    (void)client;
    *reterr = (struct snapwire_error){.code = here.acquire_rc};
    here.asked = *config;
    here.acquires++;
    if (here.acquire_rc == 0)
        *ret = (struct snapwire_lease *)&here.info;
    return here.acquire_rc;
}

const struct snapwire_lease_info *told_info(const struct snapwire_lease *lease)
{
    (void)lease;
    return &here.info;
}

uint64_t told_remaining(const struct snapwire_lease *lease)
{
    (void)lease;
    return here.remaining_ms;
}

void guard_say(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(here.text, sizeof here.text, fmt, args);
    va_end(args);
    here.said++;
}

bool guard_is_ending(void)
{
    return false;
}

static void begin_guard(void)
{
    struct guard *g = &here.guard;
    memset(g, 0, sizeof *g);
    (void)pthread_mutex_init(&g->lock, NULL);
    guard_init_lists(g);
    g->origin = ORIGIN_INIT;
    (void)snprintf(g->origin.path, sizeof g->origin.path, "/dev/disk");
    g->config.volume = (char *)(uintptr_t) "v";
    g->config.mark = here.mark;
    g->volume.b[0] = 7;
    g->mode = GUARD_KEEPING;
    g->lease_state = GUARD_LEASE_HELD;
    g->opened = true;
    g->head.b[0] = 1;
    g->head_seq = 5;
}

static int setup(void **state)
{
    memset(&here, 0, sizeof here);
    tmpdir_make(&here.dir);
    (void)tmpdir_file(&here.dir, "mark", here.mark);
    (void)snprintf(here.late, sizeof here.late, "%s.late", here.mark);
    here.info = (struct snapwire_lease_info){.head_name = "b", .head_seq = 6, .ttl_ms = 1000};
    here.info.head.b[0] = 2;
    begin_guard();
    *state = &here.guard;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tmpdir_remove(&here.dir);
    return 0;
}

static bool is_marked(void)
{
    struct stat st;
    return stat(here.late, &st) == 0;
}

static int acquire(struct guard *g)
{
    struct err err = ERR_INIT;
    return link_acquire(g, &err);
}

static void end_late(struct guard *g)
{
    struct guard_at_disk a;
    guard_late_begin(g, &a);
    g->valid_until_ns = 0;
    guard_late_end(g, &a);
}

/* -- what the daemon is told --------------------------------------------------------------------
 */

static void acquire__tells_of_a_late_write_once(void **state)
{
    struct guard *g = *state;
    assert_int_equal(acquire(g), 0);
    assert_false(here.asked.late);
    end_late(g);
    assert_int_equal(acquire(g), 0);
    assert_true(here.asked.late);
    assert_int_equal(here.asked.late_after_seq, 5);
    assert_int_equal(here.said, 1);
    assert_non_null(strstr(here.text, "the newest is b"));
    assert_non_null(strstr(here.text, "are unverified for good"));
    assert_int_equal(acquire(g), 0);
    assert_false(here.asked.late);
    assert_int_equal(here.said, 1);
}

/* The answer was lost, or it was refused. */
static void acquire__that_failed_tells_again(void **state)
{
    struct guard *g = *state;
    end_late(g);
    here.acquire_rc = SNAPWIRE_ETIMEDOUT;
    assert_int_equal(acquire(g), SNAPWIRE_ETIMEDOUT);
    assert_true(here.asked.late);
    assert_int_equal(here.said, 0);
    here.acquire_rc = 0;
    assert_int_equal(acquire(g), 0);
    assert_true(here.asked.late);
    assert_int_equal(here.said, 1);
}

static void acquire__nothing_is_said_when_no_snapshot_was_made(void **state)
{
    struct guard *g = *state;
    end_late(g);
    here.info.head_seq = 5;
    assert_int_equal(acquire(g), 0);
    end_late(g);
    here.info.head_seq = 3; /* the newest was deleted */
    assert_int_equal(acquire(g), 0);
    assert_true(here.asked.late);
    assert_int_equal(here.said, 0);
}

/* It is told already, and again if heads are made without the guard once more: newer ones. */
static void acquire__tells_of_one_that_the_disk_still_has(void **state)
{
    struct guard *g = *state;
    struct guard_at_disk a;
    guard_late_begin(g, &a);
    g->valid_until_ns = 0;
    assert_int_equal(acquire(g), 0);
    assert_true(here.asked.late);
    assert_int_equal(here.asked.late_after_seq, 5);
    assert_int_equal(here.said, 1);
    here.info.head_seq = 8;
    assert_int_equal(acquire(g), 0);
    assert_true(here.asked.late);
    assert_int_equal(here.asked.late_after_seq, 6);
    guard_late_end(g, &a);
    assert_true(g->late.any);
    assert_int_equal(g->late.after_seq, 8);
}

static void acquire__one_that_ends_under_the_next_lease_is_not_late(void **state)
{
    struct guard *g = *state;
    struct guard_at_disk a;
    guard_late_begin(g, &a);
    assert_int_equal(acquire(g), 0);
    here.remaining_ms = 3600 * 1000;
    guard_lease_publish(g);
    guard_late_end(g, &a);
    assert_false(g->late.any);
}

/* It tells no seqs, and does not know of late writes. */
static void acquire__of_an_older_daemon_only_the_log_tells(void **state)
{
    struct guard *g = *state;
    here.info.head_seq = 0;
    end_late(g);
    assert_int_equal(acquire(g), 0);
    assert_int_equal(here.said, 1);
    assert_non_null(strstr(here.text, "too old"));
    g->head = here.info.head;
    end_late(g);
    assert_int_equal(acquire(g), 0);
    assert_int_equal(here.said, 1);
}

static void publish__the_same_lease_again_leaves_nothing_late(void **state)
{
    struct guard *g = *state;
    uint32_t after_seq;
    end_late(g);
    guard_lease_publish(g); /* over */
    assert_true(guard_late_look(g, &after_seq));
    here.remaining_ms = 1;
    guard_lease_publish(g); /* as good as over */
    assert_true(guard_late_look(g, &after_seq));
    here.remaining_ms = 3600 * 1000;
    guard_lease_publish(g);
    assert_false(guard_late_look(g, &after_seq));
    assert_true(guard_has_lease(g));
}

static void publish__the_end_of_the_lease_is_left_to_writes_that_have_begun(void **state)
{
    struct guard *g = *state;
    struct guard_at_disk a;
    guard_late_begin(g, &a);
    g->ttl_ms = 8 * 3600 * 1000;
    here.remaining_ms = 3600 * 1000; /* an eighth */
    guard_lease_publish(g);
    assert_false(guard_has_lease(g));
    guard_late_end(g, &a);
    assert_false(g->late.any);
    here.remaining_ms = 2 * 3600 * 1000;
    guard_lease_publish(g);
    assert_true(guard_has_lease(g));
}

/* -- the mark ------------------------------------------------------------------------------------
 */

static void mark__is_there_while_the_daemon_does_not_know(void **state)
{
    struct guard *g = *state;
    guard_late_note(g);
    assert_false(is_marked());
    end_late(g);
    guard_late_note(g);
    assert_true(is_marked());
    assert_int_equal(acquire(g), 0);
    guard_late_note(g);
    assert_false(is_marked());
}

/* The process may be killed before the write ends. */
static void mark__is_made_as_soon_as_the_lease_is_over(void **state)
{
    struct guard *g = *state;
    struct guard_at_disk a;
    here.remaining_ms = 3600 * 1000;
    guard_lease_publish(g);
    guard_late_begin(g, &a);
    guard_late_note(g);
    assert_false(is_marked());
    here.remaining_ms = 0;
    guard_lease_publish(g);
    guard_late_note(g);
    assert_true(is_marked());
}

static void mark__tells_the_guard_that_is_started_next(void **state)
{
    struct guard *g = *state;
    struct err err = ERR_INIT;
    end_late(g);
    guard_late_note(g);
    g->head_seq = 4; /* an older one is the smallest then */
    end_late(g);
    guard_late_note(g);
    begin_guard();
    assert_int_equal(guard_late_recall(g, &err), 0);
    assert_int_equal(acquire(g), 0);
    assert_true(here.asked.late);
    assert_int_equal(here.asked.late_after_seq, 4);
    guard_late_note(g);
    assert_false(is_marked());
    begin_guard();
    assert_int_equal(guard_late_recall(g, &err), 0);
    assert_false(g->late.any);
}

static void mark__of_another_volume_is_not_heard(void **state)
{
    struct guard *g = *state;
    struct err err = ERR_INIT;
    end_late(g);
    guard_late_note(g);
    begin_guard();
    g->volume.b[0]++;
    assert_int_equal(guard_late_recall(g, &err), 0);
    assert_false(g->late.any);
    guard_late_note(g);
    assert_true(is_marked());
}

static void mark__that_is_not_understood_is_refused(void **state)
{
    static const char *const texts[] = {"", "after", "after x volume y", "after 5 volume 12"};
    struct guard *g = *state;
    for (unsigned i = 0; i < ARRAY_LEN(texts); i++) {
        struct err err = ERR_INIT;
        FILE *f = fopen(here.late, "w");
        assert_non_null(f);
        (void)fputs(texts[i], f);
        (void)fclose(f);
        assert_int_equal(guard_late_recall(g, &err), SNAP_ECORRUPT);
        assert_non_null(strstr(err.text, here.late));
    }
}

static void mark__that_cannot_be_made_is_told_once(void **state)
{
    struct guard *g = *state;
    (void)snprintf(here.mark, sizeof here.mark, "/nowhere/at/all");
    end_late(g);
    guard_late_note(g);
    guard_late_note(g);
    assert_int_equal(here.said, 1);
    assert_non_null(strstr(here.text, "/nowhere/at/all.late"));
    assert_int_equal(acquire(g), 0);
    assert_true(here.asked.late);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(acquire__tells_of_a_late_write_once),
        CASE(acquire__that_failed_tells_again),
        CASE(acquire__nothing_is_said_when_no_snapshot_was_made),
        CASE(acquire__tells_of_one_that_the_disk_still_has),
        CASE(acquire__one_that_ends_under_the_next_lease_is_not_late),
        CASE(acquire__of_an_older_daemon_only_the_log_tells),
        CASE(publish__the_same_lease_again_leaves_nothing_late),
        CASE(publish__the_end_of_the_lease_is_left_to_writes_that_have_begun),
        CASE(mark__is_there_while_the_daemon_does_not_know),
        CASE(mark__is_made_as_soon_as_the_lease_is_over),
        CASE(mark__tells_the_guard_that_is_started_next),
        CASE(mark__of_another_volume_is_not_heard),
        CASE(mark__that_is_not_understood_is_refused),
        CASE(mark__that_cannot_be_made_is_told_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
