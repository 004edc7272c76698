/* SPDX-License-Identifier: Apache-2.0 */
/* The line of progress on terminals of any width. */
#include "client/snapctl/cli.h"
#include "common/base/clock.h"
#include "tests/lib/cm.h"

#include <pty.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_BYTES = 512 };

/* What one refresh of a line prints on a terminal of so many columns; 0: it does not know. */
static void shown(unsigned short columns, uint64_t total, char text[TEXT_BYTES])
{
    const struct winsize size = {.ws_row = 24, .ws_col = columns};
    const struct cli cli = {0};
    int master, slave, stderr_before = dup(STDERR_FILENO);
    struct progress p;
    assert_int_equal(openpty(&master, &slave, NULL, NULL, &size), 0);
    assert_true(dup2(slave, STDERR_FILENO) >= 0);
    progress_start(&p, &cli, "import", total);
    p.start_ns -= UINT64_C(10000000000);
    progress_add(&p, 123456789);
    assert_true(dup2(stderr_before, STDERR_FILENO) >= 0);
    ssize_t n = read(master, text, TEXT_BYTES - 1);
    assert_true(n > 0);
    text[n] = '\0';
    assert_int_equal(close(master) | close(slave) | close(stderr_before), 0);
    assert_memory_equal(text, "\r\033[K", 4);
    assert_null(strchr(text + 1, '\r'));
    assert_null(strchr(text, '\n'));
}

static void progress__is_whole_where_there_is_room(void **state)
{
    static const unsigned short wide[] = {0, 80, 200, 65535};
    (void)state;
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        char text[TEXT_BYTES];
        shown(wide[i], 987654321, text);
        assert_string_equal(text + 4, "import: 117.7M of 941.9M, 12%, 11.7M/s, 1:10 left");
        shown(wide[i], 0, text);
        assert_string_equal(text + 4, "import: 117.7M, 11.7M/s");
    }
}

static void progress__is_cut_before_it_takes_a_second_line(void **state)
{
    (void)state;
    for (unsigned short columns = 1; columns < 60; columns++) {
        char text[TEXT_BYTES];
        shown(columns, 987654321, text);
        assert_true(strlen(text + 4) < columns);
        shown(columns, 0, text);
        assert_true(strlen(text + 4) < columns);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(progress__is_whole_where_there_is_room),
        cmocka_unit_test(progress__is_cut_before_it_takes_a_second_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
