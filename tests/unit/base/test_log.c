/* SPDX-License-Identifier: Apache-2.0 */
/* The log: the line's shape, that no value can forge one, levels, one write a line.
 *
 * Each case runs in a child whose stderr is a pipe, since where stderr leads is found
 * out once in a process.
 */
#include "common/base/log.h"

#include "tests/lib/cm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TAKEN_BYTES = 256 * 1024 };

static char taken[TAKEN_BYTES];

/* Runs fn in a child and leaves in `taken` what it wrote to stderr. O_DIRECT makes a pipe
 * of packets, which keeps writes apart: a '|' is put where one ends. */
static void take_log(void (*fn)(void), const char *journal)
{
    int fds[2], status;
    struct stat st;
    char stream[64];

    assert_int_equal(pipe2(fds, O_DIRECT | O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)alarm(60); /* ends it should a failed case leave it unread */
        (void)close(fds[0]);
        (void)dup2(fds[1], STDERR_FILENO);
        (void)unsetenv("JOURNAL_STREAM");
        if (journal != NULL && *journal == '\0') {
            (void)fstat(STDERR_FILENO, &st);
            (void)snprintf(stream, sizeof stream, "%ju:%ju", (uintmax_t)st.st_dev,
                           (uintmax_t)st.st_ino);
            journal = stream;
        }
        if (journal != NULL)
            (void)setenv("JOURNAL_STREAM", journal, 1);
        fn();
        _exit(0);
    }
    (void)close(fds[1]);
    size_t len = 0;
    for (ssize_t n; (n = read(fds[0], taken + len, sizeof taken - len - 1)) > 0;) {
        len += (size_t)n;
        taken[len++] = '|';
        assert_true(len + 4096 < sizeof taken);
    }
    taken[len] = '\0';
    (void)close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* What follows the time, whose shape is looked at here: 2026-01-31T12:00:00.123Z */
static const char *after_time(const char *line)
{
    static const char shape[] = "dddd-dd-ddTdd:dd:dd.dddZ ";
    for (size_t i = 0; i < sizeof shape - 1; i++) {
        if (shape[i] == 'd')
            assert_in_range((unsigned char)line[i], '0', '9');
        else
            assert_int_equal(line[i], shape[i]);
    }
    return line + sizeof shape - 1;
}

static void write_bare(void)
{
    LOG_INFO("started");
}

static void log__message_without_fields(void **state)
{
    (void)state;
    take_log(write_bare, NULL);
    assert_string_equal(after_time(taken), "level=info msg=started\n|");
}

static void write_fields(void)
{
    struct uuid u = {{0xab, 1}};
    struct err e = ERR_INIT;
    err_set(&e, SNAP_EBUSY, "volume db");
    LOG_WARN("volume opened", F_STR("volume", "db"), F_U64("n", UINT64_MAX), F_I64("i", INT64_MIN),
             F_UUID("id", &u), F_ERR(&e));
}

static void log__each_kind_of_field(void **state)
{
    (void)state;
    take_log(write_fields, NULL);
    assert_string_equal(after_time(taken),
                        "level=warn msg=\"volume opened\" volume=db n=18446744073709551615 "
                        "i=-9223372036854775808 id=ab010000-0000-0000-0000-000000000000 "
                        "code=EBUSY error=\"volume db\"\n|");
}

static void log__journal_gets_priority_and_no_time(void **state)
{
    (void)state;
    take_log(write_bare, "");
    assert_string_equal(taken, "<6>level=info msg=started\n|");
    take_log(write_fields, "");
    assert_memory_equal(taken, "<4>level=warn ", 14);
}

static void log__journal_of_another_stream_is_not_ours(void **state)
{
    (void)state;
    take_log(write_bare, "1:1");
    assert_string_equal(after_time(taken), "level=info msg=started\n|");
}

static void write_hostile(void)
{
    LOG_INFO("x", F_STR("a", "b\nlevel=error msg=forged"), F_STR("q", "\"\\ k=v"),
             F_STR("esc", "\x1b[2J\r\t\x7f\xc2\x9b"), F_STR("empty", ""), F_STR("null", NULL),
             F_STR("eq", "a=b"), F_STR("plain", "A-z.0_9+:/@,%"));
}

static void log__no_value_can_forge_a_line(void **state)
{
    (void)state;
    take_log(write_hostile, NULL);
    assert_string_equal(after_time(taken),
                        "level=info msg=x a=\"b\\nlevel=error msg=forged\" q=\"\\\"\\\\ k=v\" "
                        "esc=\"\\x1b[2J\\x0d\\x09\\x7f\\xc2\\x9b\" empty=\"\" null=\"\" "
                        "eq=\"a=b\" plain=A-z.0_9+:/@,%\n|");
}

static void write_every_byte(void)
{
    char all[256];
    for (int i = 0; i < 255; i++)
        all[i] = (char)(i + 1);
    all[255] = '\0';
    LOG_INFO(all, F_STR("v", all));
}

static void log__any_bytes_make_one_printable_line(void **state)
{
    (void)state;
    take_log(write_every_byte, NULL);
    size_t len = strlen(taken);
    for (size_t i = 0; i < len - 2; i++)
        assert_in_range((unsigned char)taken[i], ' ', '~');
    assert_string_equal(taken + len - 2, "\n|");
}

static void write_levels(void)
{
    LOG_DEBUG("d0");
    log_set_level(LOG_LEVEL_ERROR);
    LOG_WARN("w1");
    LOG_ERROR("e1");
    log_set_level(LOG_LEVEL_DEBUG);
    LOG_DEBUG("d2");
}

static void log__level_holds_back_the_lesser(void **state)
{
    (void)state;
    take_log(write_levels, "");
    assert_string_equal(taken, "<3>level=error msg=e1\n|<7>level=debug msg=d2\n|");
}

static void write_long(void)
{
    char value[3000];
    memset(value, '\x01', sizeof value);
    value[2999] = '\0';
    LOG_INFO("long", F_STR("a", value), F_STR("b", value), F_U64("lost", 1));
    value[512] = '\0';
    LOG_INFO("fits", F_STR("a", value), F_U64("kept", 1));
    memset(value, 'p', 512);
    LOG_INFO("fits", F_STR("a", value));
    value[512] = 'p';
    LOG_INFO("cut", F_STR("a", value));
}

static void log__long_values_are_cut_and_the_line_says_so(void **state)
{
    (void)state;
    take_log(write_long, "");
    char *save = NULL;
    char *line = strtok_r(taken, "|", &save);
    assert_true(strlen(line) < 4096);
    assert_non_null(strstr(line, "\\x01...\" cut=true\n"));
    assert_null(strstr(line, "b="));
    assert_null(strstr(line, "lost"));
    line = strtok_r(NULL, "|", &save);
    assert_non_null(strstr(line, "\\x01\" kept=1\n"));
    line = strtok_r(NULL, "|", &save);
    assert_non_null(strstr(line, "a=ppp"));
    assert_non_null(strstr(line, "ppp\n"));
    line = strtok_r(NULL, "|", &save);
    assert_non_null(strstr(line, "a=\"ppp"));
    assert_non_null(strstr(line, "ppp...\"\n"));
}

enum { WRITERS = 4, LINES = 200 };

static void *write_many(void *arg)
{
    for (uint64_t i = 0; i < LINES; i++)
        LOG_INFO("from a thread", F_STR("who", arg), F_U64("i", i));
    return NULL;
}

static void write_threads(void)
{
    static char who[WRITERS][2] = {"a", "b", "c", "d"};
    pthread_t t[WRITERS];
    for (int i = 0; i < WRITERS; i++)
        (void)pthread_create(&t[i], NULL, write_many, who[i]);
    for (int i = 0; i < WRITERS; i++)
        (void)pthread_join(t[i], NULL);
}

static void log__threads_write_whole_lines(void **state)
{
    (void)state;
    unsigned next[WRITERS] = {0};
    take_log(write_threads, "");
    char *save = NULL;
    for (char *line = strtok_r(taken, "|", &save); line != NULL;
         line = strtok_r(NULL, "|", &save)) {
        char who;
        unsigned i;
        assert_int_equal(
            sscanf(line, "<6>level=info msg=\"from a thread\" who=%c i=%u\n", &who, &i), 2);
        assert_in_range((unsigned char)who, 'a', 'd');
        assert_int_equal(i, next[who - 'a']++);
    }
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(next[i], LINES);
}

static void write_keeping_errno(void)
{
    errno = EDOM;
    LOG_INFO("x");
    bool kept = errno == EDOM;
    (void)close(STDERR_FILENO);
    errno = EDOM;
    LOG_INFO("nobody hears");
    _exit(kept && errno == EDOM ? 0 : 1);
}

static void log__errno_is_left_alone_and_a_closed_stderr_borne(void **state)
{
    (void)state;
    take_log(write_keeping_errno, "");
}

static void log_level_parse__knows_four_words(void **state)
{
    (void)state;
    static const char *const words[] = {"error", "warn", "info", "debug"};
    enum log_level level;
    struct err e = ERR_INIT;
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(log_level_parse(words[i], &level, NULL), 0);
        assert_int_equal(level, i);
    }
    level = LOG_LEVEL_WARN;
    assert_int_equal(log_level_parse("INFO", &level, &e), SNAP_EINVAL);
    assert_int_equal(log_level_parse("", &level, &e), SNAP_EINVAL);
    assert_int_equal(level, LOG_LEVEL_WARN);
    assert_non_null(strstr(e.text, "debug"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log__message_without_fields),
        cmocka_unit_test(log__each_kind_of_field),
        cmocka_unit_test(log__journal_gets_priority_and_no_time),
        cmocka_unit_test(log__journal_of_another_stream_is_not_ours),
        cmocka_unit_test(log__no_value_can_forge_a_line),
        cmocka_unit_test(log__any_bytes_make_one_printable_line),
        cmocka_unit_test(log__level_holds_back_the_lesser),
        cmocka_unit_test(log__long_values_are_cut_and_the_line_says_so),
        cmocka_unit_test(log__threads_write_whole_lines),
        cmocka_unit_test(log__errno_is_left_alone_and_a_closed_stderr_borne),
        cmocka_unit_test(log_level_parse__knows_four_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
